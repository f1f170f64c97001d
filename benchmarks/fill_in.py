"""How often a gap in held-out text is filled with what stood there: exact match, tokens, and what a judge pays.

    python -m benchmarks.fill_in runs/*/runs/atat/seed-* runs/*/runs/causal/seed-* --judge runs/judge --out fill-in.json
    python -m benchmarks.fill_in RUNS... --judge RUN --spans 1 4 16 line --out fill-in.json       for code, a line too

Gaps begin at evenly spaced places of the validation text, none chosen: so many tokens, or the first whole line from
there on. A network that fills gaps sees the text on both sides and goes by `spread`; one that reads left to right is
given what comes before alone, which is all that it can use. One of two ways is asked both. The judge, a run that reads
left to right, scores each text with its gap filled, and what it pays more than for the text as it was is given. Numbers
are in --out as soon as they are there, and are not measured again: the same command prints them.
"""

from __future__ import annotations

import itertools
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from benchmarks.command import exit_code
from benchmarks.points import is_stored, name_of, read_or_begin

from mdlm_atat import CausalLM, MaskedDiffusionLM, load_lm
from mdlm_atat.atomic import check_writable, write_json
from mdlm_atat.cli.parser import Parser, whole
from mdlm_atat.data.tokens import TokenDataset
from mdlm_atat.errors import UserError
from mdlm_atat.formats import with_error
from mdlm_atat.runs.evaluate import open_data
from mdlm_atat.runs.sample_quality import load_judge
from mdlm_atat.samplers.canvas import Canvas
from mdlm_atat.samplers.seeds import text_seeds
from mdlm_atat.scoring.judge import CausalJudge, Judge
from mdlm_atat.scoring.statistics import mean_with_interval

LINE = "line"
LONGEST_LINE = 32
"""Tokens; a longer line is passed over, and so is one of a single token."""
BOTH_SIDES, BEFORE = "both sides", "before alone"


@dataclass(frozen=True)
class Gaps:
    """Windows of the text, each with a gap that begins at the same place."""

    windows: torch.Tensor
    """(N, L) tokens."""
    start: int
    sizes: torch.Tensor
    """(N,) tokens of each gap."""

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def is_gap(self) -> torch.Tensor:
        """(N, L)."""
        place = torch.arange(self.windows.shape[1]) - self.start
        return (place >= 0) & (place < self.sizes[:, None])

    def part(self, rows: slice) -> Gaps:
        return Gaps(self.windows[rows], self.start, self.sizes[rows])

    def canvas(self, mask_id: int, *, before_alone: bool) -> Canvas:
        """What is to be filled. Of what comes before alone it ends with the longest gap."""
        if before_alone:
            windows = self.windows[:, : self.start + int(self.sizes.max())]
            fixed = (torch.arange(windows.shape[1]) < self.start).expand(len(windows), -1)
        else:
            windows, fixed = self.windows, ~self.is_gap
        return Canvas(torch.where(fixed, windows, mask_id), fixed)

    def filled(self, made: Sequence[Sequence[int]]) -> torch.Tensor:
        """(N, L): the windows with their gaps from rows that were made of `canvas`."""
        result = self.windows.clone()
        for row, size, tokens in zip(result, self.sizes.tolist(), made, strict=True):
            row[self.start : self.start + size] = torch.tensor(tokens[self.start : self.start + size])
        return result


def gaps_of(text: TokenDataset, span: int | str, num_gaps: int, length: int) -> Gaps:
    """Gaps of `span` tokens, or of a line, in windows of `length` tokens, half of which come before the gap. The gaps
    that would hold the end of a document are left out. Raises UserError where the text is too short."""
    tokens, start = torch.from_numpy(np.asarray(text.tokens).astype(np.int64)), length // 2
    longest = min(LONGEST_LINE, length - start) if span == LINE else int(span)
    if longest > length - start:
        raise UserError(f"a gap of {longest} tokens is longer than half of {length}, the model's length")
    last = len(tokens) - length
    if text.row_starts is not None:
        raise UserError(f"{text.folder} is in rows of its own (`data.mode=pad`); gaps are taken from text in one piece")
    if last < num_gaps:
        raise UserError(
            f"the text has {len(tokens):,} tokens, too few for {num_gaps:,} gaps; try `num_gaps={max(1, last)}`"
        )
    is_line_end = _is_line_end(text, tokens) if span == LINE else None
    windows, sizes = [], []
    for begin in np.linspace(0, last, num_gaps).astype(int).tolist():
        place, size = begin + start, span
        if is_line_end is not None:
            place, size = _first_line(is_line_end[place : place + length], place, longest)
        assert isinstance(size, int)
        window = tokens[place - start : place - start + length]
        if size and len(window) == length and text.tokenizer.eos_id not in window[start : start + size].tolist():
            windows.append(window)
            sizes.append(size)
    if len(windows) < 2:
        raise UserError(
            f"the text has no gaps of {span}" + (" (a line has 2 to 32 tokens)" if span == LINE else " tokens")
        )
    return Gaps(torch.stack(windows), start, torch.tensor(sizes))


def _is_line_end(text: TokenDataset, tokens: torch.Tensor) -> torch.Tensor:
    """Which of the tokens hold the end of a line."""
    vocabulary = range(text.tokenizer.vocab_size)
    return torch.tensor(["\n" in text.tokenizer.decode([token]) for token in vocabulary])[tokens]


def _first_line(is_line_end: torch.Tensor, place: int, longest: int) -> tuple[int, int]:
    """(place, tokens) of the first line from there on that is not too long; no tokens where there is none."""
    ends = is_line_end.nonzero()[:, 0].tolist()
    for before, after in itertools.pairwise(ends):
        if 2 <= after - before - 1 <= longest:
            return place + before + 1, after - before - 1
    return place, 0


def ways_of(lm: MaskedDiffusionLM | CausalLM) -> list[str]:
    masked = [BOTH_SIDES] if "masked" in lm.modes else []
    return masked + [BEFORE] * ("causal" in lm.modes)


def measure(
    lm: MaskedDiffusionLM | CausalLM,
    way: str,
    gaps: Gaps,
    judge: Judge,
    *,
    temperature: float,
    batch_size: int,
    seed: int,
) -> dict[str, Any]:
    """Fill the gaps in one way, and compare with what stood there."""
    how: dict[str, Any] = {"temperature": temperature}
    if isinstance(lm, MaskedDiffusionLM):
        how["sampler"] = "spread" if way == BOTH_SIDES else "left_to_right"
    parts = [gaps.part(slice(start, start + batch_size)) for start in range(0, len(gaps), batch_size)]
    canvases = [part.canvas(lm.tokenizer.mask_id, before_alone=way == BEFORE) for part in parts]
    lm.fill(canvases[0], **how)  # what a device does once
    made, start_s = [], time.perf_counter()
    for number, canvas in enumerate(canvases):
        first = number * batch_size
        made.append(lm.fill(canvas, seed=text_seeds(seed, range(first, first + len(canvas.tokens)), "hash"), **how))
    seconds = time.perf_counter() - start_s
    filled = torch.cat([part.filled([text.tokens for text in texts]) for part, texts in zip(parts, made, strict=True)])
    evaluations = [text.nfe for texts in made for text in texts]
    decode = lm.tokenizer.decode
    pairs = list(zip(filled.tolist(), gaps.windows.tolist(), strict=True))
    exact = sum(mine == theirs or decode(mine) == decode(theirs) for mine, theirs in pairs)
    right = ((filled == gaps.windows) & gaps.is_gap).sum(1) / gaps.sizes
    low, high = proportion_interval(exact, len(gaps))
    accuracy = mean_with_interval(right.double().tolist())
    more = (judged(judge, lm, filled) - judged(judge, lm, gaps.windows)) / gaps.sizes
    judge_more = mean_with_interval(more.tolist())
    return {
        "num_gaps": len(gaps),
        "tokens_per_gap": float(gaps.sizes.double().mean()),
        "exact": exact / len(gaps),
        "exact_interval95": [low, high],
        "token_accuracy": accuracy.value,
        "token_accuracy_error": accuracy.standard_error,
        "judge_more_nats": judge_more.value,
        "judge_more_error": judge_more.standard_error,
        "evaluations": sum(evaluations) / len(evaluations),
        "seconds": seconds,
    }


def judged(judge: Judge, lm: MaskedDiffusionLM | CausalLM, rows: torch.Tensor) -> torch.Tensor:
    """(N,) nats that the judge pays for whole rows: by their tokens, where they are its own."""
    if isinstance(judge, CausalJudge) and judge.tokenizer.fingerprint() == lm.tokenizer.fingerprint():
        return judge.score_rows(rows.tolist()).nats.cpu()
    return judge([lm.tokenizer.decode(row) for row in rows.tolist()]).nats.cpu()


def proportion_interval(successes: int, num: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share (1927)."""
    z, share = NormalDist().inv_cdf(0.975), successes / num
    middle, half = share + z * z / (2 * num), z * math.sqrt(share * (1 - share) / num + (z / (2 * num)) ** 2)
    return (middle - half) / (1 + z * z / num), (middle + half) / (1 + z * z / num)


def show(stored: Mapping[str, Any]) -> None:
    settings = stored["settings"]
    about = f"temperature {settings['temperature']:g}, judge {settings['judge']}"
    print(f"{settings['num_gaps']} places of the validation text, {about}")
    print(f"{'':30} {'given':12} {'gap':>5} {'exact':>24} {'tokens right':>16} {'judge, more nats a token':>25} "
          f"{'evaluations':>11} {'s':>7}")  # fmt: skip
    for point in stored["points"]:
        low, high = point["exact_interval95"]
        exact = f"{100 * point['exact']:.1f}% [{100 * low:.1f}, {100 * high:.1f}]"
        right = with_error(100 * point["token_accuracy"], 100 * point["token_accuracy_error"], decimals=1) + "%"
        more = with_error(point["judge_more_nats"], point["judge_more_error"], decimals=3, sign=True)
        print(f"{point['run']:30} {point['given']:12} {point['gap']!s:>5} {exact:>24} {right:>16} {more:>25} "
              f"{point['evaluations']:11.1f} {point['seconds']:7.1f}")  # fmt: skip


def main() -> None:
    parser = Parser("python -m benchmarks.fill_in", __doc__ or "")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs on the same text")
    parser.add_argument("--judge", type=Path, required=True, help="a run that reads left to right")
    parser.add_argument("--out", type=Path, required=True, help="JSON to write, and to go on with")
    parser.add_argument(
        "--spans", nargs="+", default=["1", "4", "16"], metavar="TOKENS", help="or line (default: 1 4 16)"
    )
    parser.add_argument("--num_gaps", type=whole(2), default=1000, help="evenly spaced places")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest token")
    parser.add_argument("--batch_size", type=whole(1), default=256)
    parser.add_argument("--seed", type=whole(), default=0)
    parser.add_argument("--device", help="default: a GPU if there is one")
    args = parser.parse(sys.argv[1:])
    check_writable(args.out, "--out")
    spans = [read_span(word) for word in args.spans]
    stored: dict[str, Any] = {}
    judge = None
    for run in args.runs:
        lm = load_lm(run, device=args.device)
        text = open_data(lm, None)
        if judge is None:
            judge = load_judge(args.judge, device=lm.device, batch_size=args.batch_size)
        settings = {
            "num_gaps": args.num_gaps,
            "length": lm.max_length,
            "temperature": args.temperature,
            "seed": args.seed,
            "text": text.manifest.splits["valid"].sha256,
            "judge": name_of(args.judge),
        }
        stored = read_or_begin(args.out, "benchmarks.fill_in", settings)
        for span in spans:
            gaps = gaps_of(text, span, args.num_gaps, lm.max_length)
            for way in ways_of(lm):
                what = {"run": name_of(run), "weights": lm.fingerprint(), "given": way, "gap": span}
                if is_stored(stored, what, args.out):
                    continue
                how = {"temperature": args.temperature, "batch_size": args.batch_size, "seed": args.seed}
                stored["points"].append(what | measure(lm, way, gaps, judge, **how))
                write_json(args.out, stored)
    show(stored)


def read_span(word: str) -> int | str:
    if word == LINE:
        return LINE
    if not word.isdecimal() or int(word) < 1:
        raise UserError(f"--spans: {word!r} is neither a number of tokens, at least 1, nor {LINE}")
    return int(word)


if __name__ == "__main__":
    sys.exit(exit_code(main))
