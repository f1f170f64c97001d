"""atat samplers bench: quality against network evaluations and seconds, for every sampler, on a trained model."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from mdlm_atat.cli.model import add_model_arguments, check_model, load_model
from mdlm_atat.cli.parser import Parser, whole
from mdlm_atat.errors import UserError
from mdlm_atat.plugins import trusted

SPAN = 16  # tokens that are given, or left out, together in texts to infill
HEADER = (
    f"{'sampler':48} {'steps':>6} {'NFE':>6} {'s':>7} {'tok/s':>8} {'entropy':>8} {'dist-2':>6} {'rep-4':>6} "
    f"{'judge':>14} {'own order':>10}"
)


def make_parser() -> Parser:
    parser = Parser(
        "atat samplers bench",
        "Compare samplers on a model: entropy, distinct-2, repeated 4-grams, what a judge pays for the "
        "texts, and what the sampler's own order costs on validation text; by network evaluations and by seconds.",
        """examples:
  atat samplers bench runs/demo --steps 8 16 32 64 --num_texts 32
  atat samplers bench runs/novels --judge runs/causal --task infill
  atat samplers bench runs/novels --judge gpt2-large --samplers ancestral uncertainty:score=margin

Written after each point to --out (.json) and drawn beside it (.png); a bench that was interrupted goes on when the
command is repeated. A judge's perplexity alone misleads: repetitive text is cheap. Compare where entropy is equal.
""",
    )
    add_model_arguments(parser)
    parser.add_argument("--judge", help="a causal run of ours, or a hub's causal model (default: none)")
    parser.add_argument(
        "--samplers", nargs="+", metavar="NAME[:OPTION=VALUE,...]", help="default: all that fit the model"
    )
    parser.add_argument(
        "--steps", nargs="+", type=whole(1), default=[8, 16, 32, 64, 128], help="numbers of steps to try"
    )
    parser.add_argument(
        "--task", choices=["generate", "infill"], default="generate", help="infill: half the text is given"
    )
    parser.add_argument("--num_texts", type=whole(2), default=64, help="texts for each point")
    parser.add_argument("--length", type=whole(1), help="tokens of each (default: the model's)")
    parser.add_argument("--num_scored", type=whole(0), default=16, help="validation texts scored by each")
    parser.add_argument("--batch_size", type=whole(1), default=64, help="texts made together")
    parser.add_argument("--seed", type=whole(), default=0, help="seed of the texts")
    parser.add_argument("--compile", action="store_true", help="compile the network first")
    parser.add_argument("--out", type=Path, help="default: samplers-TASK.json in the run")
    return parser


def main(argv: list[str]) -> int:
    arguments = make_parser().parse(argv)
    if arguments.out is not None and (arguments.out.suffix != ".json" or not arguments.out.parent.is_dir()):
        raise UserError(f"--out: {arguments.out} is no .json file in a folder that exists")
    check_model(arguments.model)
    with trusted(arguments.trust_plugins):
        bench(arguments)
    return 0


def bench(arguments: Namespace) -> None:
    """Measure every point that is not stored yet; print the table, and draw it."""
    from mdlm_atat.device import explain_out_of_memory
    from mdlm_atat.lm import MaskedDiffusionLM
    from mdlm_atat.provenance import cpu
    from mdlm_atat.report.sampler_frontier import draw_frontier
    from mdlm_atat.runs.evaluate import open_data
    from mdlm_atat.studies.sampler_bench import REFERENCE, Setting, default_specs, load_judge, run_bench, with_steps

    lm = load_model(arguments)
    if not isinstance(lm, MaskedDiffusionLM):
        raise UserError("a causal model has one sampler, left to right; bench a masked one")
    assert lm.home is not None
    if arguments.samplers:
        points = [(REFERENCE, None), *with_steps(arguments.samplers, arguments.steps)]
    else:
        points = default_specs(lm, arguments.steps)
    judge = None
    if arguments.judge is not None:
        judge = load_judge(arguments.judge, device=lm.device, batch_size=arguments.batch_size)
    rows = open_data(lm, None, column="text", split=None)
    if arguments.compile:
        lm.compile()
    length = arguments.length or lm.max_length
    setting = Setting(
        task=arguments.task,
        num_texts=arguments.num_texts,
        length=length,
        span=max(1, min(SPAN, length // 4)),
        batch_size=arguments.batch_size,
        seed=arguments.seed,
        num_scored=arguments.num_scored,
    )
    file = arguments.out or lm.home / f"samplers-{arguments.task}.json"
    print(HEADER)
    with explain_out_of_memory(f"try --batch_size {max(1, arguments.batch_size // 2)}"):
        record = run_bench(
            lm,
            points,
            setting,
            rows,
            judge,
            file=file,
            machine={"cpu": cpu(), "device": lm.device_name, "precision": lm.precision},
            on_point=lambda point: print(row(point), flush=True),
        )
    print(row(record["real"] | {"sampler": "(validation text)", "steps": None}))
    for name, found in sorted(record["needed"].items(), key=lambda item: item[1]["nfe"]):
        print(
            f"{name}: no worse than one token at a time from {found['nfe']:.0f} evaluations on, "
            f"{found['share']:.3f} of its number"
        )
    picture = draw_frontier(record, file.with_suffix(".png"))
    print(f"written    {file}, {picture}")


def row(point: dict[str, Any]) -> str:
    """One line of the table."""

    def shown(name: str, form: str) -> str:
        value = point.get(name)
        return "" if value is None else format(value, form)

    judge = f"{point['judge_nats']:.3f}±{point['judge_error']:.3f}" if "judge_nats" in point else ""
    bound = "≤" if point.get("order_kind") == "bound" else ""
    order = f"{bound}{point['order_nats']:.3f}" if "order_nats" in point else ""
    return (
        f"{point['sampler']:48} {point['steps'] or '':>6} {shown('nfe_mean', '.1f'):>6} {shown('seconds', '.1f'):>7} "
        f"{shown('tokens_per_s', ',.0f'):>8} {point['entropy_nats']:8.3f} {point['distinct_2']:6.3f} "
        f"{point['repetition']:6.3f} {judge:>14} {order:>10}"
    )
