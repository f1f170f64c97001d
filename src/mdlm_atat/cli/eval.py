"""atat eval: what a trained model pays for a text, in every unit, with its standard error."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from mdlm_atat.atomic import check_writable
from mdlm_atat.cli.data import reading_arguments
from mdlm_atat.cli.eval_samples import add_sample_arguments, run_samples
from mdlm_atat.cli.eval_zero_shot import add_zero_shot_arguments, run_zero_shot
from mdlm_atat.cli.model import add_model_arguments, check_model, load_model
from mdlm_atat.cli.parser import Parser, whole
from mdlm_atat.data.readers.reading import Reading, ReadingSettings
from mdlm_atat.effect import GIVEN
from mdlm_atat.errors import UserError
from mdlm_atat.plugins import trusted
from mdlm_atat.samplers.catalogue import check_order

MOST_DRAWS = 10_000_000  # a standard error of a ten-thousandth; their sums have to fit into memory
SCORING_ONLY = ("against", "profile", "deciles", "order", "evaluations")
ZERO_SHOT_ONLY = ("detokenizer", "mode")
SAMPLES_ONLY = ("judge", "steps", "temperature", "sampler", "length")


def make_parser() -> Parser:
    parser = Parser(
        "atat eval",
        "Score the validation text of a run, or another text, with a trained model.",
        """examples:
  atat eval runs/demo
  atat eval runs/demo/checkpoints/step-00000500 --num_draws 16384
  atat eval runs/demo --data other.txt --json other.json
  atat eval runs/atat --against runs/mdlm --deciles --num_steps 64 256 1000
  atat eval runs/demo --order spread --evaluations 16 64
  atat eval runs/demo --samples 256 --judge runs/causal --steps 16 64 256 --temperature 0.8 1
  atat eval runs/owt --zero-shot wikitext-103 ptb lambada lm1b ag_news pubmed arxiv
""",
    )
    add_model_arguments(parser)
    parser.add_argument(
        "--data", help="score this text instead: a source as for atat data prepare, or a prepared folder"
    )
    parser.add_argument(
        "--split", help="split of --data: of a prepared folder (default: valid), of a hub data set, or test of a folder"
    )
    parser.add_fields(Reading, with_defaults=False)
    parser.add_argument(
        "--loss_on",
        choices=("all", "answers"),
        help="score all of --data, or its answers alone, each under its prompt (default: as the model was trained)",
    )
    parser.needs("--loss_on", {"--data": GIVEN})
    parser.add_argument(
        "--num_draws",
        type=whole(1, MOST_DRAWS),
        help="masked sequences drawn (default: eval.final_num_draws of the run)",
    )
    parser.add_argument("--batch_size", type=whole(1), help="sequences in one call of the network (default: the run's)")
    parser.add_argument("--seed", type=whole(0), default=0, help="seed of the draws")
    parser.add_argument(
        "--profile",
        action="store_true",
        help="keep the cost by mask rate beside the weights, for sizes=optimal samplers",
    )
    parser.add_argument(
        "--against",
        type=Path,
        metavar="OTHER",
        help="another model, or a stored evaluation (.json): the difference, over the same draws",
    )
    parser.add_argument(
        "--num_steps",
        type=whole(1),
        nargs="+",
        metavar="T",
        help="show the bounds of sampling in T steps: 64 256 1000, say",
    )
    parser.add_argument(
        "--order",
        nargs="+",
        metavar="SAMPLER",
        help="add the likelihood in the own order of these samplers, NAME[:OPTION=VALUE,...], over all sequences or "
        "--num_draws of them",
    )
    parser.add_argument(
        "--evaluations",
        type=whole(1),
        nargs="+",
        metavar="N",
        help="network evaluations of a sequence in --order: 16 64, say (default: the sampler's own number)",
    )
    parser.add_argument("--deciles", action="store_true", help="show the cost by token frequency")
    parser.add_argument("--json", type=Path, help="write the result here (default: in the run's evals/)")
    add_zero_shot_arguments(parser)
    add_sample_arguments(parser)
    parser.needs("--evaluations", {"--order": GIVEN})
    return parser


def main(argv: list[str]) -> int:
    arguments = make_parser().parse(argv)
    check_arguments(arguments)
    check_model(arguments.model)
    if arguments.against is not None and arguments.against.suffix != ".json":
        check_model(arguments.against, "--against")
    with trusted(arguments.trust_plugins):
        if arguments.zero_shot:
            run_zero_shot(arguments)
        elif arguments.samples:
            run_samples(arguments)
        else:
            return run_scoring(arguments)
    return 0


def check_arguments(arguments: Namespace) -> None:
    """Options of one kind of evaluation mean nothing to another."""
    given = [name for name, value in vars(arguments).items() if value is not None and value is not False]

    def refuse(names: Sequence[str], reason: str) -> None:
        wrong = [f"--{name.replace('zero_shot', 'zero-shot')}" for name in names if name in given]
        if wrong:
            raise UserError(f"{', '.join(wrong)}: {reason}")

    if "zero_shot" in given:
        names = ("samples", "data", *SCORING_ONLY)
        refuse(names, "not with --zero-shot, which names its texts and prints a table of them")
    else:
        refuse(ZERO_SHOT_ONLY, "for --zero-shot only")
    if "zero_shot" not in given and "data" not in given:
        refuse(
            tuple(ReadingSettings.__annotations__),
            "a run's own validation text is prepared already; it goes with --data or --zero-shot",
        )
    if "samples" in given:
        refuse(("num_draws", "num_steps", *SCORING_ONLY), "not with --samples, which generates texts and scores none")
    else:
        refuse(SAMPLES_ONLY, "for --samples N only")
    for order in arguments.order or ():
        check_order(order)
    if arguments.json is not None:
        check_writable(arguments.json, "--json")


def run_scoring(arguments: Namespace) -> int:
    """Score one text, and print what was found. Returns 2 where it is not in the file that was asked for."""
    from mdlm_atat.atomic import stored_if_possible
    from mdlm_atat.report.eval_lines import comparison_lines, decile_lines, result_table, t_step_lines
    from mdlm_atat.report.report import write_report
    from mdlm_atat.runs.evaluate import evaluate

    lm = load_model(arguments)
    if arguments.deciles and lm.counts is None:
        raise UserError(f"--deciles: {arguments.model} has no counts of its training text to rank tokens by")
    found = evaluate(
        lm,
        arguments.data,
        num_draws=arguments.num_draws,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
        split=arguments.split,
        loss_on=arguments.loss_on,
        **reading_arguments(arguments),
        num_steps=arguments.num_steps,
        order=arguments.order,
        evaluations=arguments.evaluations,
        against=arguments.against,
        profile=arguments.profile,
        save=arguments.json or True,
    )
    lines = result_table(found)
    lines += t_step_lines(found) if arguments.num_steps else []
    lines += decile_lines(found) if arguments.deciles else []
    if arguments.profile and lm.profile_file.exists():
        lines.append(f"profile    {lm.profile_file}")
    if found.against is not None:
        lines += comparison_lines(found.against)
    if arguments.data is None and lm.home is not None and (lm.home / "run.json").exists():
        with stored_if_possible(lm.home / "report.html"):
            lines.append(f"report     {write_report(lm.home)}")
    print("\n".join(lines))
    return 2 if arguments.json is not None and found.file is None else 0
