"""What held-out text costs in the order of each sampler, on the same pieces of it: which order suits a network, with no
text made and no judge.

    python -m benchmarks.orders MODEL --data TEXT --orders spread segments dilated --evaluations 8 16 64
    python -m benchmarks.orders MODEL --data TEXT --given half:16 --evaluations 8 16     every other span of 16
    python -m benchmarks.orders MODEL --data TEXT --given gap:8 --length 96              8 in the middle, one at a time

Pieces of --length tokens lie evenly spaced in the text, none chosen. A row has nats per token that is not given, with
the exact -log of the probability that the sampler makes them, and the difference to the first order, paired by piece.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch
from benchmarks.command import exit_code

from mdlm_atat import MaskedDiffusionLM, load_lm
from mdlm_atat.cli.parser import Parser, whole
from mdlm_atat.errors import UserError
from mdlm_atat.formats import with_error
from mdlm_atat.runs.evaluate import open_data
from mdlm_atat.samplers.canvas import Canvas


def given_places(how: str, length: int) -> torch.Tensor:
    """(L,) which places of a piece are given: `none`, `half:N`, every other span of N, or `gap:N`, all but N."""
    place = torch.arange(length)
    name, _, number = how.partition(":")
    size = int(number) if number.isdecimal() else 0
    match name:
        case "none" if not number:
            return place < 0
        case "half" if 0 < size < length:
            return place // size % 2 == 0
        case "gap" if 0 < size <= length:
            start = (length - size) // 2
            return (place < start) | (place >= start + size)
    raise UserError(f"--given is {how!r}, expected none, half:N or gap:N with N below {length}")


def pieces_of(tokens: np.ndarray, length: int, number: int) -> torch.Tensor:
    """(number, length), evenly spaced."""
    last = len(tokens) - length
    if last < number - 1:
        raise UserError(f"the text has {len(tokens):,} tokens, too few for {number} pieces of {length}")
    starts = np.linspace(0, last, number).astype(int)
    return torch.from_numpy(np.stack([tokens[start : start + length] for start in starts]).astype(np.int64))


def work() -> None:
    parser = Parser("benchmarks.orders", __doc__ or "")
    parser.add_argument("model", help="a run, a folder or box")
    parser.add_argument("--data", type=Path, help="a text (default: the run's own validation text)")
    parser.add_argument("--orders", nargs="+", default=["spread", "segments"], help="samplers")
    parser.add_argument("--evaluations", nargs="+", type=whole(1), default=[None], help="default: one token at a time")
    parser.add_argument("--given", default="none", help="none, half:N or gap:N")
    parser.add_argument("--num_texts", type=whole(2), default=12)
    parser.add_argument("--length", type=whole(2), default=256)
    args = parser.parse(sys.argv[1:])
    lm = load_lm(args.model)
    if not isinstance(lm, MaskedDiffusionLM):
        raise UserError("a causal network has one order, left to right")
    known = pieces_of(np.asarray(open_data(lm, args.data).tokens), args.length, args.num_texts)
    fixed = given_places(args.given, args.length).expand(len(known), -1)
    canvas = Canvas(torch.where(fixed, known, lm.tokenizer.mask_id), fixed)
    print(
        f"{args.num_texts} pieces of {args.length} tokens, given {args.given}; {lm.device}, torch {torch.__version__}"
    )
    for evaluations in args.evaluations:
        first: torch.Tensor | None = None
        for order in args.orders:
            start = time.perf_counter()
            nll, is_exact = lm.nll_revealed_by(
                canvas, known, order, steps=evaluations or int((~fixed[0]).sum()), seed=0
            )
            costs = nll / (~fixed).sum(1)
            first = costs if first is None else first
            mean, kind = float(costs.mean()), "exact" if is_exact else "bound"
            difference, error = float((costs - first).mean()), float((costs - first).std()) / len(costs) ** 0.5
            shown = f"{order:32} {evaluations or 'one at a time':>13}  {mean:.3f} {kind}"
            paired = with_error(difference, error, decimals=3)
            print(f"{shown}  {paired:>16}  {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(exit_code(work))
