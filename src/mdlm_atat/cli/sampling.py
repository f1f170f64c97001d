"""What `atat generate` and `atat infill` have in common: the arguments that say how to sample, what to
watch and where texts go."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from mdlm_atat.atomic import check_writable
from mdlm_atat.cli.parser import Parser, real, whole
from mdlm_atat.data.unpack import PACKED
from mdlm_atat.effect import GIVEN
from mdlm_atat.errors import UserError
from mdlm_atat.samplers.catalogue import split_spec

MAX_SEED = 2**62  # torch takes 63 bits, and by the rule "add" text i adds i


def add_sampling_arguments(parser: Parser) -> None:
    how = parser.add_argument_group("how to sample")
    how.add_argument(
        "--sampler",
        metavar="NAME[:OPTION=VALUE,...]",
        help="atat samplers lists them (default: left_to_right for a text after a prompt, where the model reads so and "
        "--steps is not given; else spread)",
    )
    how.add_argument("--steps", type=whole(1), help="steps: fewer are faster and worse (default: the sampler's)")
    how.add_argument("--temperature", type=real(0), default=1.0, help="below 1: safer; 0: most likely")
    how.add_argument("--top_k", type=whole(0), default=0, help="draw among the k most likely tokens; 0: all")
    how.add_argument("--top_p", type=real(), default=1.0, help="draw among the likeliest tokens that reach p; 1: all")
    how.add_argument("--block_size", type=whole(1), help="fill so many tokens at a time, left to right (default: all)")
    how.add_argument("--guide", default="", metavar="WORD=WEIGHT,...", help="words to have more of, or less (negative)")
    how.add_argument("--guide_logits", type=real(), default=1.0, help="how much it changes their logits")
    how.add_argument("--guide_order", type=real(), default=0.0, help="how much earlier they come")
    seed = whole(-MAX_SEED, MAX_SEED)
    how.add_argument("--seed", type=seed, default=0, help="text i is drawn from a hash of seed and i")
    how.add_argument(
        "--seed_rule", choices=["hash", "add"], help="add: text i is drawn from seed + i instead (default: hash)"
    )
    how.add_argument("--batch_size", type=whole(1), default=16, help="texts made together")
    how.add_argument("--compile", action="store_true", help="compile the network first: faster for many texts on a GPU")
    out = parser.add_argument_group("what to see")
    out.add_argument("--watch", action="store_true", help="show the first text while it is being filled in")
    out.add_argument("--animate", type=Path, help="draw how the first text came about: a .gif or .html file")
    out.add_argument("--out", type=Path, help="write to this file: .jsonl with details, anything else as text")
    out.add_argument("--trace", action="store_true", help="with a .jsonl file: every text's trace too")
    out.add_argument("--resume", action="store_true", help="go on with a .jsonl file that was interrupted")
    out.add_argument("--overwrite", action="store_true", help="replace --out and --animate where they exist")
    parser.needs("--overwrite", {"--out": GIVEN}, {"--animate": GIVEN})
    parser.needs("--guide_logits", {"--guide": GIVEN})
    parser.needs("--guide_order", {"--guide": GIVEN})


def check_arguments(arguments: Namespace) -> None:
    """Everything that can be known to be wrong before a model is loaded."""
    if arguments.sampler is not None:
        split_spec(arguments.sampler)  # refuses an unknown name
    if arguments.resume and arguments.overwrite:
        raise UserError("--resume goes on with --out, --overwrite replaces it: leave one of them out")
    out: Path | None = arguments.out
    is_lines = out is not None and out.suffix == ".jsonl"
    for name in ("trace", "resume"):
        if getattr(arguments, name) and not is_lines:
            raise UserError(f"--{name} needs --out with a .jsonl file")
    if out is not None and out.suffix.lower() in PACKED:
        raise UserError(f"--out: texts are not packed: name a file without {out.suffix}")
    if out is not None:
        check_writable(out, "--out")
    if out is not None and out.exists() and not (arguments.resume or arguments.overwrite):
        also = "go on with it by --resume, " if is_lines else ""
        raise UserError(f"--out: {out} exists; {also}replace it by --overwrite, or name another file")
    if arguments.animate is not None:
        from mdlm_atat.report.animation import check_animation_path

        check_animation_path(arguments.animate)
        if arguments.animate.exists() and not arguments.overwrite:
            raise UserError(f"--animate: {arguments.animate} exists; replace it by --overwrite, or name another file")


def how_to_sample(arguments: Namespace) -> dict[str, Any]:
    """The arguments as keywords of lm.generate and lm.infill."""
    from mdlm_atat.lm import Guide

    guide = None
    if arguments.guide:
        guide = Guide(read_weights(arguments.guide), logits=arguments.guide_logits, order=arguments.guide_order)
    names = ("sampler", "steps", "temperature", "top_k", "top_p", "block_size")
    return {name: getattr(arguments, name) for name in names} | {"guide": guide}


def read_weights(text: str) -> dict[str, float]:
    weights: dict[str, float] = {}
    for pair in text.split(","):
        word, _, weight = pair.rpartition("=")
        word = word.strip()
        if word in weights:
            raise UserError(f"--guide: {word!r} occurs twice; expected one weight for each word")
        try:
            weights[word] = float(weight)
        except ValueError:
            word = ""
        if not word:
            raise UserError(f"--guide: {pair!r} is no word with a weight; expected for example king=2,queen=-1")
    return weights
