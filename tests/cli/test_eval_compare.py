"""`atat eval`: --against, --num_steps and --deciles, on trained runs."""

import json
import shutil
from pathlib import Path

import pytest
from refusals import refused

from mdlm_atat.cli.main import main
from mdlm_atat.scoring.records import Evaluation
from tiny_runs import tiny_flags, write_text

pytestmark = pytest.mark.usefixtures("no_report")

DRAWS = ["--num_draws", "256"]


@pytest.fixture
def folder(runs, cache, tmp_path) -> Path:
    """Copies of the runs, to write evaluations in."""
    for name in ("masked", "causal", "adaptive"):
        shutil.copytree(runs / name, tmp_path / name)
    return tmp_path


def evaluated(capsys, *argv: object) -> str:
    assert main(["eval", *map(str, argv)]) == 0
    return capsys.readouterr().out


def test_a_run_against_itself_is_no_difference_at_all(folder, capsys):
    out = evaluated(capsys, folder / "masked", "--against", folder / "masked", *DRAWS, "--json", folder / "r.json")
    assert "PPL-U      +0.0000 ± 0.0000 nats per token: no difference at all" in out
    assert "own bound" not in out  # which PPL-U is
    record = json.loads((folder / "r.json").read_text())
    assert record["against"]["uniform"]["nats_per_token"] == 0
    assert record["against"]["uniform"]["num_draws"] == 256
    assert len(record["against"]["deciles"]) == 10


def test_two_checkpoints_differ_with_a_smaller_error_than_their_own(folder, capsys):
    first, last = sorted((folder / "masked" / "checkpoints").glob("step-*"))
    out = evaluated(capsys, last, "--against", first, *DRAWS, "--json", folder / "r.json")
    record = json.loads((folder / "r.json").read_text())
    found = record["against"]["uniform"]
    assert found["standard_error"] < 0.7 * found["unpaired_error"]
    other = json.loads(Path(record["against"]["file"]).read_text())
    assert other["checkpoint"] == first.name
    expected = record["nelbo_nats_per_token"] - other["nelbo_nats_per_token"]
    assert found["nats_per_token"] == pytest.approx(expected, abs=1e-6) != 0
    assert abs(found["nats_per_token"]) > 5 * found["standard_error"]
    assert f"that of {first}" in out
    assert "no difference" not in out


def test_a_stored_evaluation_is_compared_without_its_model(folder, capsys):
    stored = folder / "adaptive.json"
    evaluated(capsys, folder / "adaptive", *DRAWS, "--json", stored)
    shutil.rmtree(folder / "adaptive")
    out = evaluated(capsys, folder / "masked", "--against", stored, *DRAWS, "--json", folder / "r.json")
    record, other = (Evaluation.load(folder / name) for name in ("r.json", "adaptive.json"))
    own = record.compare(other, bound="own")
    assert f"own bound  {own.nats_per_token:+.4f} ± {own.standard_error:.4f} nats per token" in out
    expected = record.nats_per_token - other.own_bound.nats_per_token
    assert own.nats_per_token == pytest.approx(expected, abs=1e-6)
    assert record.against is not None
    assert record.against.own == own


def test_a_bound_is_compared_with_the_exact_value_over_the_same_sequences(folder, capsys):
    out = evaluated(capsys, folder / "masked", "--against", folder / "causal", *DRAWS, "--json", folder / "r.json")
    assert "nats per token (a bound less an exact value): " in out
    found = json.loads((folder / "r.json").read_text())["against"]["uniform"]
    assert found["kinds"] == ["nelbo", "exact"]
    back = evaluated(capsys, folder / "causal", "--against", folder / "masked", *DRAWS, "--json", folder / "s.json")
    assert "(an exact value less a bound)" in back
    again = json.loads((folder / "s.json").read_text())["against"]["uniform"]
    assert again["nats_per_token"] == pytest.approx(-found["nats_per_token"], abs=1e-7)


def test_the_bounds_of_t_steps_are_stored_and_fall_to_ppl_u(folder, capsys):
    out = evaluated(
        capsys, folder / "masked", *DRAWS, "--num_steps", "1", "4", "16", "64", "1000", "--json", folder / "r.json"
    )
    record = json.loads((folder / "r.json").read_text())
    assert [found["num_steps"] for found in record["t_step"]] == [1, 4, 16, 64, 1000]
    nats = [found["nelbo_nats_per_token"] for found in record["t_step"]]
    assert nats == sorted(nats, reverse=True)
    assert nats[-1] > record["nelbo_nats_per_token"]
    assert nats[-1] == pytest.approx(record["nelbo_nats_per_token"], abs=0.02)
    assert "in 1,000 steps of ancestral sampling (linear schedule)" in out


def test_an_evaluation_stores_three_t_step_bounds_and_ten_deciles_unasked(folder, capsys):
    out = evaluated(capsys, folder / "masked", *DRAWS, "--json", folder / "r.json")
    assert "T-step" not in out
    assert "tenths" not in out
    record = json.loads((folder / "r.json").read_text())
    assert [found["num_steps"] for found in record["t_step"]] == [64, 256, 1000]
    deciles = record["deciles"]
    assert all(len(deciles[name]) == 10 for name in ("nats_per_token", "standard_error", "num_types"))
    assert deciles["num_tokens"] == pytest.approx(record["num_tokens"] / 10)
    assert len(record["blocks"]["decile_score"]) == 10


@pytest.mark.parametrize("name", ["masked", "causal"])
def test_the_table_of_deciles_ends_with_the_whole(name, folder, capsys):
    out = evaluated(capsys, folder / name, *DRAWS, "--deciles", "--json", folder / "r.json")
    record = json.loads((folder / "r.json").read_text())
    lines = out.splitlines()
    first = next(index for index, line in enumerate(lines) if line.startswith("tenths of the text's tokens"))
    assert [line.split()[0] for line in lines[first + 2 : first + 13]] == [*map(str, range(1, 11)), "all"]
    assert f"{record['nelbo_nats_per_token']:.4f} ± " in lines[first + 12]
    assert f"{record['deciles']['nats_per_token'][0]:.4f} ± " in lines[first + 2]


def test_comparisons_that_mean_nothing_are_refused_before_anything_is_scored(folder, capsys):
    masked = str(folder / "masked")
    (folder / "no.json").write_text("{}")
    for argv, message in (
        (["--against", str(folder / "none.json")], "there is no file"),
        (["--against", str(folder / "no.json")], "holds no evaluation"),
        (["--against", str(folder / "nowhere")], "there is no folder"),
        (["--num_steps", "0"], "--num_steps has 0, expected at least 1"),
        (["--seed", "-1"], "--seed is -1, expected at least 0"),
        (["--num_draws", "100000000000"], "--num_draws is 100000000000, expected at most 10,000,000"),
        (["--column", "body"], "--column: a run's own validation text is prepared already"),
        (["--split", "nope"], "--split nope: the run's own text has train and valid"),
    ):
        assert message in refused(["eval", masked, *argv], capsys, folder)
    assert "a causal model takes one step a token" in refused(
        ["eval", str(folder / "causal"), "--num_steps", "64"], capsys, folder
    )


def test_a_model_with_another_tokenizer_or_length_is_refused_with_why(folder, capsys):
    text = write_text(folder / "text.txt", num_words=600)
    for name, changed in (("bytes", {"data__tokenizer": "byte"}), ("short", {"data__length": 8})):
        flags = tiny_flags(folder / "text.txt", train__num_steps=2, **changed)
        assert main(["train", "demo", "--out", str(folder / name), *flags]) == 0
    capsys.readouterr()
    assert text.exists()
    assert "compare bits per character" in refused(
        ["eval", str(folder / "masked"), "--against", str(folder / "bytes")], capsys, folder
    )
    message = refused(["eval", str(folder / "short"), "--against", str(folder / "masked")], capsys, folder)
    assert "has another tokenizer" in message or "takes sequences of 16 tokens" in message


def test_an_evaluation_of_another_seed_or_text_is_refused_before_anything_is_scored(folder, capsys):
    evaluated(capsys, folder / "masked", *DRAWS, "--seed", "1", "--json", folder / "s.json")
    argv = [
        "eval",
        str(folder / "masked"),
        *DRAWS,
        "--against",
        str(folder / "s.json"),
        "--json",
        str(folder / "r.json"),
    ]
    assert main(argv) == 2
    assert "they differ in the seed of the draws (seed: 0 and 1)" in capsys.readouterr().err
    write_text(folder / "other.txt", num_words=100, seed=3)
    assert main([*argv, "--data", str(folder / "other.txt"), "--seed", "1"]) == 2
    assert "they differ in the text, or its tokens (corpus_hash: " in capsys.readouterr().err
    assert not (folder / "r.json").exists()
