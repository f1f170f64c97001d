"""`atat inspect` on a trained run, and what training stores for its report."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from mdlm_atat import MaskedDiffusionLM, UserError
from mdlm_atat.cli.inspect import make_parser
from mdlm_atat.cli.main import main
from mdlm_atat.cli.model import texts_given
from tiny_runs import train, train_method


@pytest.fixture
def folder(runs) -> Path:
    return runs


@pytest.fixture
def lm(adaptive) -> MaskedDiffusionLM:
    return adaptive


def inspect(folder: Path, *arguments: object) -> int:
    return main(["inspect", str(folder / "adaptive"), *map(str, arguments)])


def test_the_text_its_correlation_5_tokens_of_either_end_and_3_files_are_told(folder, tmp_path, capsys):
    assert inspect(folder, "the cat\\nsat on", "--escape", "--out", tmp_path / "out") == 0
    output = capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "inspection.json").read_text())
    assert "".join(record["texts"]) == "the cat\nsat on"
    assert "the cat↵\nsat on\n" in output
    assert f"correlation with the loss  {record['correlation']['pearson']:.2f} (Pearson)" in output
    order = np.argsort(record["importance"], kind="stable")
    mean_nll = np.mean(record["nll"], axis=0)
    lines = [line for line in output.splitlines() if re.search(r"\d\.\d{3} +\d+\.\d{3} ", line)]
    assert len(lines) == 10
    for line, place in zip(lines, [*order[::-1][:5], *order[:5]], strict=True):
        assert f" {place + 1} " in line
        assert f" {record['importance'][place]:.3f} " in line
        assert f" {mean_nll[place]:.3f} " in line or f" {mean_nll[place] + 1e-4:.3f} " in line  # of rounded numbers
    assert lines[0].startswith("most important")
    assert lines[5].startswith("least important")
    written = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert written == ["heatmap.html", "heatmap.png", "inspection.json"]
    assert all(str(tmp_path / "out" / name) in output for name in written)


def test_the_page_holds_the_stored_numbers_and_the_picture_opens(folder, tmp_path):
    assert inspect(folder, "the cat", "--times", 0.5, 0.25, 0.5, "--out", tmp_path / "out") == 0
    record = json.loads((tmp_path / "out" / "inspection.json").read_text())
    assert record["times"] == [0.25, 0.5]
    page = (tmp_path / "out" / "heatmap.html").read_text()
    for n in range(7):
        assert f"clean: importance {record['importance'][n]:.4f}" in page
        for k, t in enumerate(record["times"]):
            assert f"t {t}: importance {record['masked_importance'][k][n]:.4f}, loss {record['nll'][k][n]:.4f}" in page
    assert imread(tmp_path / "out" / "heatmap.png").shape[1] == 1140


def test_a_text_that_is_the_name_of_a_file_is_taken_for_itself_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a name costs would pass for what the file's text costs."""
    monkeypatch.chdir(tmp_path)
    Path("letter.txt").write_text("the cat")
    with pytest.warns(UserWarning, match=r"letter\.txt is taken for the text itself: .* write --file letter\.txt"):
        assert texts_given(["the", "letter.txt"], None) == ["the", "letter.txt"]


@pytest.mark.filterwarnings("default:.*taken for the text itself")
@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["generate", "--length", "6", "--prompt"], "write --prompts a"),
        (["score", "the cat", "--order", "any", "--given"], 'write --given "$(cat a)"'),
    ],
    ids=["generate", "score"],
)
def test_so_is_a_prompt_and_a_context(
    words: list[str], remedy: str, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    command = [words[0], str(runs / "masked"), *words[1:]]
    assert main([*command, "a"]) == 0
    before = capsys.readouterr().out
    Path("a").write_text("the cat")
    assert main([*command, "a"]) == 0
    out, err = capsys.readouterr()
    assert out == before
    assert "a is taken for the text itself: to " in err
    assert remedy in err


def test_a_file_in_another_encoding_is_read_by_its_name(tmp_path):
    (tmp_path / "text.md").write_bytes("the cat\n".encode("utf-16-le"))
    assert texts_given([], tmp_path / "text.md", encoding="utf-16-le") == ["the cat\n"]
    arguments = make_parser().parse(["run", "--file", "text.md", "--encoding", "utf-16-le"])
    assert arguments.encoding == "utf-16-le"
    with pytest.raises(UserError, match="there is no such encoding"):
        texts_given([], tmp_path / "text.md", encoding="latin-99")


def test_the_files_go_into_the_run_unless_told_otherwise_and_a_file_may_hold_the_text(folder, lm, tmp_path):
    (tmp_path / "text.txt").write_text("the cat\nsat\n")
    shutil.copytree(folder / "adaptive", tmp_path / "adaptive")
    assert inspect(tmp_path, "--file", tmp_path / "text.txt", "--seed", 3, "--num_draws", 2) == 0
    record = json.loads((tmp_path / "adaptive" / "inspect" / "inspection.json").read_text())
    assert "".join(record["texts"]) == "the cat\nsat\n"
    found = lm.inspect("the cat\nsat\n", seed=3, num_draws=2)
    assert record["nll"] == found.nll.round(4).tolist()
    assert record["checkpoint"] == "step-00000060"
    assert record["stage"] == "hard"


def test_a_text_of_40_tokens_is_3_pieces_of_a_model_of_16(lm):
    found = lm.inspect("the cat sat on a mat and ran to see him.".replace("him.", "then"), num_draws=1)
    assert found.lengths.tolist() == [16, 16, 8]
    assert found.nll.shape == (9, 40)
    first = lm.inspect("the cat sat on a", num_draws=1)
    assert np.allclose(first.importance, found.importance[:16], atol=1e-6)
    assert np.allclose(first.nll, found.nll[:, :16], atol=1e-5)


def test_the_mean_of_the_loss_over_t_is_near_the_bound_of_the_same_text(lm):
    text = "the cat sat on a"
    found, score = lm.inspect(text, num_draws=20), lm.score([text], num_draws=2048)[0]
    # the bound is the integral over t, which the midpoints of 9 intervals leave the ends out of
    assert found.nll.mean() == pytest.approx(score.nats_per_token, rel=0.1)


def test_important_tokens_are_masked_late_by_the_inverse_direction(lm):
    found = lm.inspect("the cat sat on a")
    easy, hard = found.importance.argmin(), found.importance.argmax()
    assert (found.mask_rate[:, hard] < found.mask_rate[:, easy]).all()


@pytest.mark.slow
def test_the_end_of_training_inspects_512_validation_tokens_for_the_report(runs, cache, tmp_path):
    folder = tmp_path
    assert train_method("importance_rates", runs / "text.txt", folder / "adaptive") == 0
    assert train(runs / "text.txt", folder / "mdlm") == 0
    record = json.loads((folder / "adaptive" / "inspection.json").read_text())
    assert len(record["texts"]) == 512
    assert record["lengths"] == [16] * 32
    assert record["split"] == "valid"
    report = (folder / "adaptive" / "report.html").read_text()
    assert f"correlation {record['correlation']['pearson']:.2f} (Pearson)" in report
    assert f"clean: importance {record['importance'][0]:.4f}" in report
    assert "PPL-S" in report
    assert not (folder / "mdlm" / "inspection.json").exists()
    assert 'class="heatmap"' not in (folder / "mdlm" / "report.html").read_text()


REFUSALS = {
    "no text": ("adaptive", [], "give a text"),
    "two texts": ("adaptive", ["a", "--file", "x"], "not both"),
    "empty text": ("adaptive", [""], "the text is empty"),
    "no such file": ("adaptive", ["--file", "{folder}/none.txt"], "there is no file"),
    "a folder": ("adaptive", ["--file", "{folder}"], "is a folder"),
    "not text": ("adaptive", ["--file", "{folder}/latin.txt"], "is not UTF-8: byte 0xE9 at offset 3 (line 1)"),
    "alien character": ("adaptive", ["caf\u00e9"], "U+00E9"),
    "time above 1": ("adaptive", ["a", "--times", "0.5", "1.5"], "above 0 and at most 1"),
    "time 0": ("adaptive", ["a", "--times", "0"], "above 0 and at most 1"),
    "no draws": ("adaptive", ["a", "--num_draws", "0"], "--num_draws is 0"),
    "no batch": ("adaptive", ["a", "--batch_size", "0"], "--batch_size is 0"),
    "negative seed": ("adaptive", ["a", "--seed", "-1"], "--seed is -1"),
    "out is a file": ("adaptive", ["a", "--out", "{folder}/text.txt"], "is a file"),
    "out nowhere": ("adaptive", ["a", "--out", "{folder}/x/y"], "is not there"),
    "no run": ("nowhere", ["a"], "there is no folder"),
    "causal": ("causal", ["a"], "--method importance_rates"),
    "unknown device": ("adaptive", ["a", "--device", "tpu9"], "expected cpu, cuda or mps"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_mistake_is_one_message_with_exit_code_2_and_nothing_is_written(case, folder, capsys):
    (folder / "latin.txt").write_bytes("caf\u00e9".encode("latin-1"))
    run, arguments, expected = REFUSALS[case]
    before = sorted(folder.rglob("*"))
    assert main(["inspect", str(folder / run), *(argument.format(folder=folder) for argument in arguments)]) == 2
    message = capsys.readouterr().err
    assert expected in message
    assert message.count("error:") == 1
    assert "Traceback" not in message
    assert sorted(folder.rglob("*")) == before


def test_python_refuses_the_same(folder, lm):
    with pytest.raises(UserError, match="the text is empty"):
        lm.inspect("")
    bare = MaskedDiffusionLM(lm.network, lm.tokenizer, max_length=16)
    bare.network = MaskedDiffusionLM.from_pretrained(folder / "masked").network
    with pytest.raises(UserError, match=r"train\(method='importance_rates'\)"):
        bare.inspect("a")


def test_a_run_without_importance_is_inspected_by_how_rare_its_tokens_are(folder, tmp_path, capsys):
    assert main(["inspect", str(folder / "masked"), "the cat sat", "--out", str(tmp_path / "out")]) == 0
    assert "importance is how rare a token is in the training text" in capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "inspection.json").read_text())
    assert record["importance_mode"] == "frequency_only"
    lm = MaskedDiffusionLM.from_pretrained(folder / "masked")
    assert lm.counts is not None
    counts = lm.counts[record["tokens"]]
    order = np.argsort(record["importance"], kind="stable")
    assert list(counts[order]) == sorted(counts, reverse=True)
    assert np.ptp(record["masked_importance"]) == 0
