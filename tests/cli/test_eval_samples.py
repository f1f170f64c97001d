"""`atat eval --samples`, on trained runs."""

import json
import shutil
from pathlib import Path

import pytest
from refusals import changed, refused

from mdlm_atat.cli.main import main
from mdlm_atat.runs import sample_quality


@pytest.fixture
def run(runs, cache, tmp_path) -> Path:
    return Path(shutil.copytree(runs / "masked", tmp_path / "run"))


@pytest.fixture
def command(run, runs) -> list[str]:
    return ["eval", str(run), "--samples", "12", "--judge", str(runs / "causal")]


@pytest.fixture
def no_picture(monkeypatch) -> None:
    """Half a second each."""
    monkeypatch.setattr("mdlm_atat.report.sample_quality.draw_quality", lambda _, file: file)


def record(run: Path) -> dict:
    (file,) = run.glob("samples-*.json")
    return json.loads(file.read_text())


def test_every_number_of_steps_at_every_temperature_is_a_line_a_point_and_in_the_picture(run, command, capsys):
    assert main([*command, "--steps", "2", "16", "--temperature", "0.5", "1"]) == 0
    out = capsys.readouterr().out
    found = record(run)
    assert [(point["steps"], point["temperature"]) for point in found["points"]] == [
        (2, 0.5), (16, 0.5), (2, 1.0), (16, 1.0)
    ]  # fmt: skip
    for point in found["points"]:
        assert point["nfe_mean"] <= point["steps"]
        assert point["seconds"] > 0
        assert point["num_samples"] == 12
        assert point["num_tokens"] == 12 * 16
        assert 0 < point["mauve"] <= 1
        assert f"{point['judge_nats']:.3f} ± {point['judge_error']:.3f}" in out
        assert f"{point['bigram_entropy_nats']:.3f}" in out
    assert len([line for line in out.splitlines() if line.startswith(("     2", "    16"))]) == 4
    (picture,) = run.glob("samples-*.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    stored = ("judge", "length", "seed", "corpus_hash", "checkpoint", "weights", "machine", "code_version")
    assert all(found[name] is not None for name in stored)


@pytest.mark.usefixtures("no_picture")
def test_validation_texts_own_values_stand_below_and_are_cheaper_than_two_step_samples(run, command, capsys):
    assert main([*command, "--steps", "2"]) == 0
    out = capsys.readouterr().out
    found = record(run)
    assert found["real"]["judge_nats"] < found["points"][0]["judge_nats"]
    (line,) = [line for line in out.splitlines() if line.startswith("validation text")]
    assert f"{found['real']['judge_nats']:.3f}" in line
    assert f"{found['real']['mauve']:.3f}" in line


@pytest.mark.usefixtures("no_picture")
def test_what_misleads_is_said_once_and_stored_with_its_point(run, command, capsys):
    assert main([*command, "--steps", "4", "8", "--temperature", "0.3"]) == 0
    out = capsys.readouterr().out
    assert out.count("12 texts are few") == 1
    assert out.count("MAUVE of 12 texts is noisy") == 1
    assert out.count("texts of 16 tokens are short") == 1
    assert out.count("the judge was trained on the same text as the model") == 1
    assert out.count("at temperature 0.3 these are no samples of the model's own distribution") == 1
    assert all(len(point["cautions"]) >= 5 for point in record(run)["points"])


@pytest.mark.usefixtures("no_picture")
def test_an_interrupted_command_goes_on_where_it_stopped(run, command, monkeypatch, capsys):
    real_measure, made = sample_quality._Measuring.measure, []

    def measure(self, how, *rest):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(how.steps)
        return real_measure(self, how, *rest)

    monkeypatch.setattr(sample_quality._Measuring, "measure", measure)
    assert main([*command, "--steps", "2", "4", "8"]) == 130
    assert [point["steps"] for point in record(run)["points"]] == [2, 4]
    before = record(run)["points"]
    made.clear()
    assert main([*command, "--steps", "2", "4", "8"]) == 0
    assert made == [8]
    assert record(run)["points"][:2] == before


@pytest.mark.usefixtures("no_picture")
def test_a_sample_does_not_depend_on_its_batch(run, command, tmp_path):
    for size in ("5", "64"):
        file = tmp_path / f"{size}.json"
        assert main([*command, "--steps", "4", "--batch_size", size, "--json", str(file)]) == 0
    few, many = (json.loads((tmp_path / f"{size}.json").read_text())["points"][0] for size in ("5", "64"))
    assert few["entropy_nats"] == pytest.approx(many["entropy_nats"])
    assert few["judge_nats"] == pytest.approx(many["judge_nats"], abs=1e-5)


def test_without_a_judge_the_table_has_entropy_and_repetition_alone(run, capsys):
    assert main(["eval", str(run), "--samples", "4", "--steps", "2", "4"]) == 0
    assert "judge_nats" not in record(run)["points"][0]
    assert "4 texts are few" in capsys.readouterr().out
    assert list(run.glob("samples-*.png"))


@pytest.mark.usefixtures("no_picture")
def test_a_causal_model_is_measured_too(runs, cache, tmp_path):
    run = Path(shutil.copytree(runs / "causal", tmp_path / "causal"))
    assert main(["eval", str(run), "--samples", "4", "--judge", str(run), "--length", "8"]) == 0
    (point,) = record(run)["points"]
    assert point["nfe_mean"] == 8
    assert point["num_tokens"] == 32


def test_mistakes_are_told_before_a_judge_is_loaded(run, command, runs, capsys):
    cases = (
        (["--steps", "4", "x"], "--steps has x, expected a whole number"),
        (["--steps", "0"], "--steps has 0, expected at least 1"),
        (["--temperature", "nan"], "--temperature has nan, expected a number"),
        (["--temperature", "-1"], "--temperature has -1, expected at least 0"),
        (["--samples", "1"], "--samples is 1, expected at least 2"),
        (["--samples", "0"], "--samples is 0, expected at least 2"),
        (["--length", "0"], "--length is 0, expected at least 1"),
        (["--against", "x"], "--against: not with --samples"),
        (["--num_draws", "64", "--deciles"], "not with --samples, which generates texts"),
    )
    for argv, message in cases:
        assert message in refused(changed(command, *argv), capsys, run)
    assert "--judge, --steps: for --samples N only" in refused(
        ["eval", str(run), "--judge", "x", "--steps", "3"], capsys, run
    )
    assert main([*command, "--sampler", "no_such"]) == 2
    assert "no_such" in capsys.readouterr().err
    assert main(["eval", str(runs / "causal"), "--samples", "4", "--steps", "4"]) == 2
    assert "a causal model takes one step a token" in capsys.readouterr().err
    assert main(["eval", str(run), "--samples", "4", "--judge", str(run)]) == 2
    assert "is a masked model; a judge reads left to right" in capsys.readouterr().err


@pytest.mark.usefixtures("no_picture")
def test_a_file_of_another_evaluation_is_not_overwritten(run, command, tmp_path, capsys):
    file = tmp_path / "s.json"
    assert main([*command, "--steps", "2", "--json", str(file)]) == 0
    before = file.read_text()
    assert main([*command, "--steps", "2", "--seed", "1", "--json", str(file)]) == 2
    assert "holds an evaluation of samples with another seed; name another file with --json" in capsys.readouterr().err
    assert file.read_text() == before
    file.write_text("[]")
    assert main([*command, "--steps", "2", "--json", str(file)]) == 2
    assert "holds no evaluation of samples" in capsys.readouterr().err
