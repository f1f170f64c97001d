"""How far `atat generate` and `atat infill` are, on stderr, while a batch of texts is being made."""

from __future__ import annotations

import json
import re

import pytest

from mdlm_atat import progress
from mdlm_atat.cli.main import main
from mdlm_atat.samplers import loop


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line is shown, however soon."""
    monkeypatch.setattr(progress._Lines, "interval_s", 0.0)
    monkeypatch.setattr(progress, "SHOWN_AFTER_S", 0.0)
    monkeypatch.setattr(loop, "LOOK_INTERVAL_S", 0.0)


def lines_of(err: str) -> list[str]:
    """Without the time that is left."""
    return [re.sub(r" · [^·]* left$", "", line) for line in err.splitlines() if line.startswith("writing")]


def test_one_long_text_is_told_of_token_by_token(runs, at_once, capsys):
    assert main(["generate", str(runs / "causal"), "--prompt", "the", "--length", "40"]) == 0
    out, err = capsys.readouterr()
    assert lines_of(err) == [f"writing 0/1 · {done} of 37 tokens" for done in (*range(38), 37)]
    assert " s left" in err
    assert out.startswith("the")
    assert "tokens" not in out


def test_three_texts_in_two_batches_are_counted_as_they_are_done_and_the_file_is_the_same(
    runs, at_once, tmp_path, capsys
):
    command = ["generate", str(runs / "causal"), "--prompt", "the", "--length", "6", "--num_samples", "3"]
    file = tmp_path / "texts.jsonl"
    assert main([*command, "--batch_size", "2", "--out", str(file)]) == 0
    assert lines_of(capsys.readouterr().err) == [
        *[f"writing 0/3 · {done} of 6 tokens" for done in (0, 2, 4, 6, 6)],
        "writing 2/3",
        *[f"writing 2/3 · {done} of 3 tokens" for done in (0, 1, 2, 3, 3)],
    ]
    assert len([json.loads(line) for line in file.read_text().splitlines()]) == 3


def test_before_the_first_token_the_lengths_of_gaps_are_being_chosen(runs, at_once, capsys):
    assert main(["infill", str(runs / "masked"), "the [MASK:2-3] sat on", "--length_draws", "64"]) == 0
    lines = lines_of(capsys.readouterr().err)
    choosing = [line for line in lines if "choosing" in line]
    assert choosing[0] == "writing 0/1 · choosing lengths of gaps, 1 evaluation"
    assert lines == choosing + [line for line in lines if line.endswith(" tokens")]
    assert len(choosing) < len(lines)


def test_a_bar_is_not_drawn_beside_the_text_that_is_watched(runs, at_once, capsys):
    command = ["generate", str(runs / "causal"), "--length", "6", "--num_samples", "2", "--batch_size", "1", "--watch"]
    assert main(command) == 0
    lines = lines_of(capsys.readouterr().err)
    assert lines[0] == "writing 1/2"
    assert lines[1] == "writing 1/2 · 0 of 6 tokens"


def test_a_score_is_told_of_by_evaluations_on_stderr_alone(runs, monkeypatch, capsys):
    command = ["score", str(runs / "masked"), "the cat sat", "--num_draws", "64"]
    assert main(command) == 0
    quiet = capsys.readouterr()
    assert quiet.err == ""
    monkeypatch.setattr(progress, "SHOWN_AFTER_S", 0.0)
    monkeypatch.setattr(progress._Lines, "interval_s", 0.0)
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert out == quiet.out
    assert err.splitlines()[:2] == ["scoring, any · 1 evaluation", "scoring, any · 2 evaluations"]


def test_texts_that_are_made_in_a_moment_leave_nothing_on_stderr(runs, capsys):
    assert main(["generate", str(runs / "causal"), "--length", "6"]) == 0
    assert capsys.readouterr().err == ""
