"""Filling in the middle, measured: gaps that nobody chose, exact match, and what a judge pays."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks import fill_in
from benchmarks.command import exit_code
from benchmarks.fill_in import BEFORE, BOTH_SIDES, Gaps, gaps_of, measure, proportion_interval
from benchmarks.results import stored as stored_files
from benchmarks.results import to_come

from mdlm_atat.errors import UserError
from mdlm_atat.lm import Generated
from mdlm_atat.scoring.judge import Judgement

EOS, MASK = 0, 99


class Letters:
    """Token n is the letter of that place; 10 is the end of a line."""

    eos_id, mask_id, vocab_size = EOS, MASK, 30

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join("\n" if token == 10 else chr(97 + token) for token in tokens)

    def fingerprint(self) -> str:
        return "letters"


def text_of(tokens: Sequence[int]) -> Any:
    return SimpleNamespace(tokens=np.array(tokens, np.uint16), row_starts=None, tokenizer=Letters(), folder="text")


class Filler:
    """Writes `token` into every gap; or with None what stood there, which it was told."""

    tokenizer, modes = Letters(), frozenset({"causal"})

    def __init__(self, gaps: Gaps, token: int | None) -> None:
        self.truth = {tuple(row[: gaps.start]): row for row in gaps.windows.tolist()}
        self.token, self.seen = token, list[list[int]]()

    def fill(self, canvas: Any, **_: Any) -> list[Generated]:
        rows = []
        for tokens, fixed in zip(canvas.tokens.tolist(), canvas.fixed.tolist(), strict=True):
            self.seen.append(tokens)
            truth = self.truth[tuple(token for token in tokens if token != MASK)[: fixed.index(False)]]
            filled = [
                token if known else (truth[place] if self.token is None else self.token)
                for place, (token, known) in enumerate(zip(tokens, fixed, strict=True))
            ]
            rows.append(Generated("", filled, 0, 3))
        return rows


class Counting:
    """A judge that pays a nat for each letter b."""

    name = "counting"

    def __call__(self, texts: Sequence[str]) -> Judgement:
        return Judgement(
            torch.tensor([text.count("b") for text in texts], dtype=torch.float64),
            torch.tensor([len(text) for text in texts]),
        )


@pytest.fixture
def gaps() -> Gaps:
    rng = np.random.default_rng(0)
    return gaps_of(text_of(rng.integers(2, 9, 200).tolist()), 2, 50, 12)


def test_gaps_begin_at_evenly_spaced_places_and_hold_no_end_of_a_document():
    tokens = [1 + n % 9 for n in range(111)]
    found = gaps_of(text_of(tokens), 4, 11, 10)
    assert (len(found), found.start, found.sizes.tolist()) == (11, 5, [4] * 11)
    assert found.windows[:, 0].tolist() == [tokens[10 * n + n // 10] for n in range(11)]
    assert found.is_gap[0].tolist() == [False] * 5 + [True] * 4 + [False]
    tokens[28] = EOS  # in the third gap, of places 25 to 28
    assert len(gaps_of(text_of(tokens), 4, 11, 10)) == 10
    assert len(gaps_of(text_of(tokens), 3, 11, 10)) == 11


def test_a_gap_of_a_line_is_the_first_whole_line_of_2_to_32_tokens():
    line = [10, 1, 10, *[2] * 33, 10, 3, 4, 5, 10]  # of one letter, of 33, of 3
    found = gaps_of(text_of([6] * 100 + line * 8), "line", 4, 80)
    rows = [row[gap].tolist() for row, gap in zip(found.windows, found.is_gap, strict=True)]
    assert rows == [[3, 4, 5]] * len(rows)
    assert {row[found.start - 1].item() for row in found.windows} == {10}
    with pytest.raises(UserError, match="no gaps of line"):
        gaps_of(text_of([6] * 400), "line", 4, 80)


@pytest.mark.parametrize(
    ("span", "num_gaps", "message"),
    [(7, 5, "longer than half of 12"), (2, 500, "too few for 500 gaps; try `num_gaps=88`")],
)
def test_gaps_that_the_text_or_the_model_has_no_place_for_are_refused(span: int, num_gaps: int, message: str):
    with pytest.raises(UserError, match=message):
        gaps_of(text_of([3] * 100), span, num_gaps, 12)


def test_whoever_writes_what_stood_there_matches_all_and_costs_the_judge_no_more(gaps: Gaps):
    found = measure(Filler(gaps, None), BEFORE, gaps, Counting(), temperature=0, batch_size=7, seed=0)  # type: ignore[arg-type]
    assert (found["exact"], found["token_accuracy"], found["judge_more_nats"]) == (1, 1, 0)
    assert (found["num_gaps"], found["tokens_per_gap"], found["evaluations"]) == (50, 2, 3)
    assert found["exact_interval95"] == pytest.approx([50 / (50 + 1.96**2), 1], rel=1e-4)


def test_whoever_writes_b_is_right_where_b_stood_and_costs_the_judge_the_rest(gaps: Gaps):
    b = 1
    gaps.windows[0, gaps.start] = gaps.windows[1, gaps.start] = gaps.windows[1, gaps.start + 1] = b
    found = measure(Filler(gaps, b), BEFORE, gaps, Counting(), temperature=0, batch_size=50, seed=0)  # type: ignore[arg-type]
    assert found["exact"] == 1 / 50
    assert found["token_accuracy"] == pytest.approx(3 / 100)
    assert found["judge_more_nats"] == pytest.approx(97 / 100)


def test_other_tokens_that_write_the_same_text_are_an_exact_match_and_not_the_tokens(
    gaps: Gaps, monkeypatch: pytest.MonkeyPatch
):
    """Tokens 5 and 6 both write f."""
    monkeypatch.setattr(Letters, "decode", lambda _, tokens: "".join("abcdefffghi"[token] for token in tokens))
    gaps.windows[:, gaps.start : gaps.start + 2] = 6
    found = measure(Filler(gaps, 5), BEFORE, gaps, Counting(), temperature=0, batch_size=50, seed=0)  # type: ignore[arg-type]
    assert (found["exact"], found["token_accuracy"]) == (1, 0)


def test_who_reads_left_to_right_is_shown_nothing_of_what_comes_after_the_gap(gaps: Gaps):
    mixed = Gaps(gaps.windows, gaps.start, torch.arange(50) % 3 + 1)
    before = Filler(mixed, 5)
    measure(before, BEFORE, mixed, Counting(), temperature=0, batch_size=50, seed=0)  # type: ignore[arg-type]
    assert all(row[:6] == window[:6].tolist() for row, window in zip(before.seen, mixed.windows, strict=False))
    assert {tuple(row[6:]) for row in before.seen} == {(MASK,) * 3}
    both = Filler(mixed, 5)
    measure(both, BOTH_SIDES, mixed, Counting(), temperature=0, batch_size=50, seed=0)  # type: ignore[arg-type]
    row, size = both.seen[2], int(mixed.sizes[2])
    assert row[6 : 6 + size] == [MASK] * size
    assert row[6 + size :] == mixed.windows[2, 6 + size :].tolist()


def test_the_interval_of_a_share_is_wilsons():
    z2 = 1.959964**2
    assert proportion_interval(0, 10) == pytest.approx((0, z2 / (10 + z2)), abs=1e-6)
    assert proportion_interval(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)


def run_command(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["fill_in", *map(str, words)])
    return exit_code(fill_in.main)


def test_runs_are_measured_once_and_their_numbers_are_a_table(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("ATAT_CACHE", str(runs / "cache"))
    out = tmp_path / "fill-in.json"
    words = [runs / "masked", runs / "causal", "--judge", runs / "causal", "--out", out, "--num-gaps", 60]
    assert run_command(monkeypatch, *words, "--spans", 1, 4) == 0
    content = json.loads(out.read_text())
    points = {(point["run"].rpartition("/")[2], point["given"], point["gap"]): point for point in content["points"]}
    assert list(points) == [
        *(("masked", BOTH_SIDES, gap) for gap in (1, 4)),
        *(("causal", BEFORE, gap) for gap in (1, 4)),
    ]
    one, four = points["masked", BOTH_SIDES, 1], points["masked", BOTH_SIDES, 4]
    assert one["exact"] == pytest.approx(one["token_accuracy"])
    assert points["causal", BEFORE, 1]["exact"] > 0.6 > one["exact"] > 0.3 > four["exact"]  # of 23 letters
    assert one["exact_interval95"][0] < one["exact"] < one["exact_interval95"][1]
    assert str(tmp_path.parent) not in out.read_text()
    printed = capsys.readouterr().out

    monkeypatch.setattr(fill_in, "measure", None)  # is not called again
    assert run_command(monkeypatch, *words, "--spans", 1, 4) == 0
    assert capsys.readouterr().out == printed
    assert run_command(monkeypatch, *words[:-1], 50) == 2
    assert "has other num_gaps; name another --out" in capsys.readouterr().err

    monkeypatch.setattr(stored_files, "FOLDER", tmp_path)
    monkeypatch.setattr(to_come, "FOLDER", tmp_path)
    stored_files.stored.cache_clear()
    table = to_come.filled_in("fill-in.json").splitlines()
    stored_files.stored.cache_clear()
    assert table[2].startswith(f"| masked | both sides | 1 token | {100 * one['exact']:.1f} [")
    assert len(table) == 2 + 4
    assert to_come.filled_in("fill-in-code.json").startswith("Not measured yet: `python -m benchmarks.fill_in runs/")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "missing RUN"),
        (["RUN"], "missing --judge"),
        (["RUN", "--judge", "JUDGE", "--out", "o.json", "--spans", "0"], "'0' is neither a number of tokens"),
        (["RUN", "--judge", "JUDGE", "--out", "nowhere/o.json"], "there is no folder nowhere"),
        (["RUN", "--judge", "JUDGE", "--out", "o.json"], "RUN"),
    ],
)
def test_what_cannot_be_measured_is_one_message(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert run_command(monkeypatch, *words) == 2
    assert message in capsys.readouterr().err
