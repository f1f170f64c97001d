"""atat eval: what a trained model pays for a text, in every unit, with its standard error."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdlm_atat.cli.eval_samples import add_sample_arguments, run_samples
from mdlm_atat.cli.eval_zero_shot import add_zero_shot_arguments, run_zero_shot
from mdlm_atat.cli.model import add_model_arguments, load_model
from mdlm_atat.errors import UserError
from mdlm_atat.report.eval_lines import (
    comparison_lines,
    decile_lines,
    result_table,
    t_step_lines,
)

if TYPE_CHECKING:
    from mdlm_atat.lm import CausalLM, MaskedDiffusionLM
    from mdlm_atat.scoring.records import Evaluation


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="atat eval",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Score the validation text of a run, or another text, with a trained model.",
        epilog="""examples:
  atat eval runs/demo
  atat eval runs/demo/checkpoints/step-00000500 --num_draws 16384
  atat eval runs/demo --data other.txt --json other.json
  atat eval runs/atat --against runs/mdlm --deciles --num_steps 64 256 1000
  atat eval runs/demo --samples 256 --judge runs/causal --steps 16 64 256 --temperature 0.8 1
  atat eval runs/owt --zero-shot wikitext-103 ptb lambada lm1b ag_news pubmed arxiv
""",
    )
    add_model_arguments(parser)
    parser.add_argument(
        "--data", help="score this text instead: a source as for atat data prepare, or a prepared folder"
    )
    parser.add_argument("--column", help="column of --data that holds the text (default: text)")
    parser.add_argument("--split", help="split of --data: of a prepared folder (default: valid), or of a hub data set")
    parser.add_argument(
        "--num_draws", type=int, help="masked sequences drawn (default: eval.final_num_draws of the run)"
    )
    parser.add_argument("--batch_size", type=int, help="sequences in one call of the network (default: the run's)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws (default: 0)")
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
        "--num_steps", type=int, nargs="+", metavar="T", help="show the bounds of sampling in T steps: 64 256 1000, say"
    )
    parser.add_argument("--deciles", action="store_true", help="show the cost by token frequency")
    parser.add_argument("--json", type=Path, help="write the result here (default: in the run's evals/)")
    add_zero_shot_arguments(parser)
    add_sample_arguments(parser)
    return parser


def main(argv: list[str]) -> int:
    arguments = make_parser().parse_args(argv)
    check_arguments(arguments)
    from mdlm_atat.device import explain_out_of_memory
    from mdlm_atat.progress import progress_bar
    from mdlm_atat.report.report import write_report
    from mdlm_atat.runs.evaluate import T_STEPS, evaluate_run, open_data
    from mdlm_atat.scoring.paired import check_same_text, compare
    from mdlm_atat.scoring.records import Evaluation, TextIdentity

    lm = load_model(arguments)
    assert lm.home is not None
    check_kind(lm, arguments)
    batch_size = arguments.batch_size or lm.config.eval.batch_size
    settings: dict[str, Any] = {
        "num_draws": arguments.num_draws or lm.config.eval.final_num_draws,
        "batch_size": batch_size,
        "seed": arguments.seed,
    }
    if arguments.zero_shot:
        with explain_out_of_memory(f"try --batch_size {max(1, batch_size // 2)}"):
            return run_zero_shot(lm, arguments, {**settings, "num_steps": arguments.num_steps or ()})
    if arguments.samples:
        with explain_out_of_memory(f"try --batch_size {max(1, batch_size // 2)}"):
            return run_samples(lm, arguments, batch_size=batch_size)
    settings["num_steps"] = arguments.num_steps or T_STEPS
    other = None if arguments.against is None else open_other(arguments, lm)
    data = open_data(lm, arguments.data, column=arguments.column or "text", split=arguments.split)
    if isinstance(other, Evaluation):
        check_same_text(TextIdentity.of(data), arguments.seed, other)
    with explain_out_of_memory(f"try --batch_size {max(1, batch_size // 2)}"):
        with progress_bar("scoring") as on_progress:
            found = evaluate_run(lm, data, **settings, file=arguments.json, on_progress=on_progress)
        print("\n".join(result_table(found)))
        if arguments.num_steps:
            print("\n".join(t_step_lines(found)))
        if arguments.deciles:
            print("\n".join(decile_lines(found)))
        if arguments.profile:
            assert found.profile is not None
            print(f"profile    {lm.save_profile(found.profile, num_draws=found.num_draws)}")
        if other is not None:
            if not isinstance(other, Evaluation):
                with progress_bar("scoring the other") as on_progress:
                    other = evaluate_run(other, data, **settings, on_progress=on_progress)
            comparison = compare(found, other, name=str(arguments.against))
            assert found.file is not None
            replace(found, against=comparison).save(found.file)
            print("\n".join(comparison_lines(comparison, found, other)))
    if arguments.data is None and (lm.home / "run.json").exists():
        print(f"report     {write_report(lm.home)}")
    return 0


def check_arguments(arguments: argparse.Namespace) -> None:
    for name in ("num_draws", "batch_size"):
        if getattr(arguments, name) is not None and getattr(arguments, name) < 1:
            raise UserError(f"--{name} is {getattr(arguments, name)}, expected at least 1")
    if arguments.num_draws is not None and arguments.num_draws > MOST_DRAWS:
        raise UserError(f"--num_draws is {arguments.num_draws:,}, expected at most {MOST_DRAWS:,}")
    if arguments.seed < 0:
        raise UserError(f"--seed is {arguments.seed}, expected 0 or more")
    check_together(arguments)
    if arguments.num_steps and min(arguments.num_steps) < 1:
        raise UserError(f"--num_steps has {min(arguments.num_steps)}, expected at least 1")
    if arguments.json is not None and (arguments.json.is_dir() or not arguments.json.parent.is_dir()):
        raise UserError(f"--json: {arguments.json} is a folder, or the folder it should be in is not there")


MOST_DRAWS = 10_000_000  # a standard error of a ten-thousandth; their sums have to fit into memory
ZERO_SHOT_ONLY = ("detokenizer", "mode")
SAMPLES_ONLY = ("judge", "steps", "temperature", "sampler", "length")


def check_together(arguments: argparse.Namespace) -> None:
    """Options of one kind of evaluation mean nothing to another."""
    given = [name for name, value in vars(arguments).items() if value is not None and value is not False]

    def refuse(names: Sequence[str], reason: str) -> None:
        wrong = [f"--{name.replace('zero_shot', 'zero-shot')}" for name in names if name in given]
        if wrong:
            raise UserError(f"{', '.join(wrong)}: {reason}")

    scoring = ("against", "profile", "deciles")
    if "zero_shot" in given:
        refuse(("samples", "data", *scoring), "not with --zero-shot, which names its texts and prints a table of them")
    else:
        refuse(ZERO_SHOT_ONLY, "for --zero-shot only")
    if "zero_shot" not in given and "data" not in given:
        refuse(("column",), "a run's own validation text is prepared already; it goes with --data or --zero-shot")
    if "samples" in given:
        refuse(("num_draws", "num_steps", *scoring), "not with --samples, which generates texts and scores none")
    else:
        refuse(SAMPLES_ONLY, "for --samples N only")
    for name in ("samples", "length"):
        if name in given and getattr(arguments, name) < (2 if name == "samples" else 1):
            least = "2 texts, for a standard error" if name == "samples" else "1"
            raise UserError(f"--{name} is {getattr(arguments, name)}, expected at least {least}")


def check_kind(lm: MaskedDiffusionLM | CausalLM, arguments: argparse.Namespace) -> None:
    if arguments.profile and lm.kind == "causal":
        raise UserError("--profile: a causal model reveals in one order and has no cost by mask rate")
    if arguments.num_steps and lm.kind == "causal":
        raise UserError("--num_steps: a causal model takes one step a token; its value is exact and no bound")
    if arguments.deciles and lm.counts is None:
        raise UserError(f"--deciles: {arguments.model} has no counts of its training text to rank tokens by")


def open_other(
    arguments: argparse.Namespace, lm: MaskedDiffusionLM | CausalLM
) -> MaskedDiffusionLM | CausalLM | Evaluation:
    """What --against names: a model that can score the same sequences, or a stored evaluation."""
    from mdlm_atat.scoring.records import Evaluation

    other: Path = arguments.against
    if other.suffix == ".json":
        try:
            return Evaluation.load(other)
        except UserError as error:
            raise UserError(f"--against: {error}") from error
    loaded = load_model(argparse.Namespace(**{**vars(arguments), "model": other}))
    if loaded.tokenizer.fingerprint() != lm.tokenizer.fingerprint():
        raise UserError(
            f"--against: {other} has another tokenizer ({loaded.tokenizer.name}) than {arguments.model} "
            f"({lm.tokenizer.name}), so their nats per token are of other tokens; evaluate each alone and compare bits "
            "per character"
        )
    length = lm.config.data.length
    if loaded.config.data.length != length:
        raise UserError(
            f"--against: {other} takes sequences of {loaded.config.data.length} tokens, {arguments.model} of "
            f"{length}: what is seen of a text differs, and no draw is the same"
        )
    return loaded
