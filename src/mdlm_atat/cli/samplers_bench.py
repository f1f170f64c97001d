"""atat samplers bench: quality against network evaluations and seconds, for every sampler, on a trained model."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from mdlm_atat.atomic import check_writable
from mdlm_atat.cli.eval_samples import print_quality
from mdlm_atat.cli.model import add_model_arguments, check_model, load_model
from mdlm_atat.cli.parser import Parser, whole
from mdlm_atat.errors import UserError
from mdlm_atat.model_folder import borrowed_name, results_folder
from mdlm_atat.plugins import trusted


def make_parser() -> Parser:
    parser = Parser(
        "atat samplers bench",
        "Compare samplers on a model: entropy, distinct-2, repeated 4-grams, what a judge pays for the "
        "texts, and what the sampler's own order costs on validation text; by network evaluations and by seconds.",
        """examples:
  atat samplers bench runs/demo --steps 8 16 32 64 --num_texts 32
  atat samplers bench runs/novels --judge runs/causal --task infill
  atat samplers bench runs/novels --judge runs/causal --mauve --compile --length 1024 --steps 1 2 4 8 16 32
  atat samplers bench runs/novels --judge gpt2-large --samplers ancestral uncertainty:score=margin

Written after each point to --out (.json) and drawn beside it (.png); a bench that was interrupted goes on when the
command is repeated. A judge's perplexity alone misleads: repetitive text is cheap. Compare where entropy is equal.
A text longer than the model is filled in blocks of a quarter of the model's length, and --steps are of a block.
""",
    )
    add_model_arguments(parser)
    parser.add_argument(
        "--data",
        help="validation text: a source, or a prepared folder (default: the run's own, which other models lack)",
    )
    parser.add_argument(
        "--judge", help="a run of ours that reads left to right, or a hub's causal model (default: none)"
    )
    parser.add_argument(
        "--samplers", nargs="+", metavar="NAME[:OPTION=VALUE,...]", help="default: all that fit the model"
    )
    parser.add_argument(
        "--steps", nargs="+", type=whole(1), default=[8, 16, 32, 64, 128], help="numbers of steps to try (of a block)"
    )
    parser.add_argument(
        "--task", choices=["generate", "infill"], default="generate", help="infill: half the text is given"
    )
    parser.add_argument("--num_texts", type=whole(2), default=64, help="texts for each point")
    parser.add_argument("--length", type=whole(1), help="tokens of each (default: the model's)")
    parser.add_argument("--num_scored", type=whole(0), default=16, help="validation texts scored by each")
    parser.add_argument("--batch_size", type=whole(1), default=64, help="texts made together")
    parser.add_argument("--seed", type=whole(), default=0, help="seed of the texts")
    parser.add_argument("--compile", action="store_true", help="compile the network first; seconds leave that out")
    parser.add_argument(
        "--mauve", action="store_true", help="also MAUVE: texts and validation text as the judge's last layer sees them"
    )
    parser.add_argument(
        "--out",
        "--json",
        type=Path,
        help="file for the points (default: samplers-TASK.json in the run, samplers-TASK-LENGTH.json with a --length)",
    )
    return parser


def main(argv: list[str]) -> int:
    arguments = make_parser().parse(argv)
    if arguments.out is not None:
        if arguments.out.suffix != ".json":
            better = arguments.out.with_suffix(".json")
            raise UserError(f"--out: {arguments.out} is no .json file; try --out {better}")
        check_writable(arguments.out, "--out")
    if arguments.mauve and arguments.judge is None:
        raise UserError("--mauve compares texts by what a judge makes of them; name one with --judge RUN")
    check_model(arguments.model)
    with trusted(arguments.trust_plugins):
        bench(arguments)
    return 0


def bench(arguments: Namespace) -> None:
    """Measure every point that is not stored yet, print the table, and draw it."""
    from mdlm_atat.lm import MaskedDiffusionLM
    from mdlm_atat.report.quality_lines import MAUVE, SAMPLERS, needed_lines, seconds_lines
    from mdlm_atat.runs.sample_quality import compared_samplers

    lm = load_model(arguments)
    if not isinstance(lm, MaskedDiffusionLM):
        raise UserError("a causal model has one sampler, left to right; bench a masked one")
    assert lm.home is not None
    if arguments.compile:
        lm.compile()
    length = f"-{arguments.length}" if arguments.length not in (None, lm.max_length) else ""
    own = borrowed_name(lm.home)
    name = f"samplers{'' if own is None else f'-{own}'}-{arguments.task}{length}.json"
    print_quality(
        lm,
        compared_samplers(lm, arguments.steps, arguments.samplers),
        (*SAMPLERS, MAUVE) if arguments.mauve else SAMPLERS,
        lambda record: [*needed_lines(record), *seconds_lines(record)],
        task=arguments.task,
        num_texts=arguments.num_texts,
        length=arguments.length,
        judge=arguments.judge,
        data=arguments.data,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
        num_scored=arguments.num_scored,
        with_mauve=arguments.mauve,
        save=arguments.out or results_folder(lm.home, name),
    )
