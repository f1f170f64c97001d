"""What picking among candidates is worth: a gap in the middle of held-out passages is filled once, by the likeliest of
many, by a fair one of many (lm.results.in_order), and at a lower temperature.

    python -m benchmarks.candidates MODEL TEXT --judge FILE.gguf

Passages of --length tokens lie evenly spaced in the text, none chosen. A row has what the judge pays for them, nats a
passage above those of the text as it was, the difference to the first row, paired by passage, and the mean of log
p(token) of what was filled in by its frequency in the training text alone: the higher, the duller.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from benchmarks.command import exit_code
from benchmarks.orders import pieces_of

from mdlm_atat import MaskedDiffusionLM, load_lm
from mdlm_atat.cli.parser import Parser, whole
from mdlm_atat.errors import UserError
from mdlm_atat.formats import with_error
from mdlm_atat.lm.results import Infilled, in_order
from mdlm_atat.progress import progress_bar
from mdlm_atat.runs.evaluate import open_data
from mdlm_atat.runs.sample_quality import load_judge


def work() -> None:
    parser = Parser("benchmarks.candidates", __doc__ or "")
    parser.add_argument("model", help="a run, a folder or box")
    parser.add_argument("text", type=Path)
    parser.add_argument("--judge", required=True, help="a causal model: a run, a folder or a .gguf file")
    parser.add_argument("--num_passages", type=whole(2), default=24)
    parser.add_argument("--length", type=whole(3), default=40, help="tokens of a passage")
    parser.add_argument("--gap", type=whole(1), default=8, help="tokens of its gap")
    parser.add_argument("--candidates", type=whole(2), default=8)
    parser.add_argument("--temperature", type=float, default=0.7, help="of the last row")
    args = parser.parse(sys.argv[1:])
    lm = load_lm(args.model)
    if not isinstance(lm, MaskedDiffusionLM) or "causal" not in lm.modes or lm.counts is None:
        raise UserError(f"{args.model} cannot rank candidates; name a run that reads both ways")
    if args.gap > args.length - 2:
        raise UserError(f"a gap of {args.gap} tokens leaves nothing around it; try `length={args.gap + 32}`")
    frequency = (torch.as_tensor(np.asarray(lm.counts)).double() + 1).log()
    frequency -= frequency.logsumexp(0)
    start, decode = (args.length - args.gap) // 2, lm.tokenizer.decode
    number = args.candidates
    names = ["one", f"fair of {number // 2}", f"fair of {number}", f"likeliest of {number}"]
    names.append(f"temperature {args.temperature:g}")
    picked: dict[str, list[Infilled]] = {name: [] for name in names}
    pieces = pieces_of(np.asarray(open_data(lm, args.text).tokens), args.length, args.num_passages).tolist()
    with progress_bar("filling") as on_progress:
        for index, piece in enumerate(pieces):
            before, after = decode(piece[:start]), decode(piece[start + args.gap :])
            template = f"{before}[MASK:{args.gap}]{after}"
            ways = lm.infill(template, alternatives=number, candidates=number, seed=index)
            ways.sort(key=lambda way: way.seed)  # a hash: in no order of the way
            cool = lm.infill(template, seed=index, temperature=args.temperature)
            half = in_order(ways[: number // 2], "fair")[0]
            found = (ways[0], half, in_order(ways, "fair")[0], in_order(ways)[0], cool)
            for name, way in zip(names, found, strict=True):
                picked[name].append(way)
            on_progress(index + 1, len(pieces))
    judge = load_judge(args.judge, device=lm.device, batch_size=16)
    as_it_was = judge([decode(piece) for piece in pieces]).nats.cpu()
    first: torch.Tensor | None = None
    print(
        f"{len(pieces)} passages of {args.length} tokens, a gap of {args.gap}; {lm.device}, torch {torch.__version__}"
    )
    for name, ways in picked.items():
        more = judge([way.text for way in ways]).nats.cpu() - as_it_was
        first = more if first is None else first
        dull = np.mean([float(frequency[torch.tensor(way.tokens[start : start + args.gap])].mean()) for way in ways])
        print(f"{name:16} {mean_of(more):>14}  {mean_of(more - first):>14}  {dull:.2f}", flush=True)


def mean_of(nats: torch.Tensor) -> str:
    return with_error(float(nats.mean()), float(nats.std()) / len(nats) ** 0.5, decimals=1)


if __name__ == "__main__":
    sys.exit(exit_code(work))
