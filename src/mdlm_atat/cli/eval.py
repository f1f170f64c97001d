"""atat eval: what a trained model pays for a text, in every unit, with its standard error."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdlm_atat.cli.model import add_model_arguments, load_model
from mdlm_atat.errors import UserError

if TYPE_CHECKING:
    from mdlm_atat.data.tokens import TokenDataset
    from mdlm_atat.evaluate.likelihood import OnProgress
    from mdlm_atat.lm import CausalLM, MaskedDiffusionLM


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="atat eval",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Score the validation text of a run, or another text, with a trained model.",
        epilog="""examples:
  atat eval runs/demo
  atat eval runs/demo/checkpoints/step-00000500 --num_draws 16384
  atat eval runs/demo --data other.txt --json other.json
""",
    )
    add_model_arguments(parser)
    parser.add_argument(
        "--data", help="score this text instead: a source as for atat data prepare, or a prepared folder"
    )
    parser.add_argument("--column", default="text", help="column of --data that holds the text (default: text)")
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
    parser.add_argument("--json", type=Path, help="write the result here (default: in the run's evals/)")
    return parser


def main(argv: list[str]) -> int:
    arguments = make_parser().parse_args(argv)
    for name in ("num_draws", "batch_size"):
        if getattr(arguments, name) is not None and getattr(arguments, name) < 1:
            raise UserError(f"--{name} is {getattr(arguments, name)}, expected at least 1")
    if arguments.json is not None and (arguments.json.is_dir() or not arguments.json.parent.is_dir()):
        raise UserError(f"--json: {arguments.json} is a folder, or the folder it should be in is not there")
    from mdlm_atat.device import explain_out_of_memory
    from mdlm_atat.viz.report import write_report

    lm = load_model(arguments)
    assert lm.home is not None
    if arguments.profile and lm.kind == "causal":
        raise UserError("--profile: a causal model reveals in one order and has no cost by mask rate")
    data = open_data(lm, arguments.data, column=arguments.column, split=arguments.split)
    batch_size = arguments.batch_size or lm.config.eval.batch_size
    with (
        progress_bar("scoring") as on_progress,
        explain_out_of_memory(f"try --batch_size {max(1, batch_size // 2)}"),
    ):
        record = evaluate_run(
            lm,
            data,
            num_draws=arguments.num_draws or lm.config.eval.final_num_draws,
            batch_size=batch_size,
            seed=arguments.seed,
            file=arguments.json,
            on_progress=on_progress,
        )
    print("\n".join(result_table(record)))
    if arguments.profile:
        print(f"profile    {lm.save_profile(record['profile'], num_draws=record['num_draws'])}")
    if arguments.data is None and (lm.home / "run.json").exists():
        print(f"report     {write_report(lm.home)}")
    return 0


def open_data(lm: MaskedDiffusionLM | CausalLM, source: str | None, *, column: str, split: str | None) -> TokenDataset:
    """The text to score, as tokens of this model's own tokenizer."""
    from mdlm_atat.config.build import prepare_data
    from mdlm_atat.data.manifest import is_prepared
    from mdlm_atat.data.prepare import ensure_prepared
    from mdlm_atat.data.progress import TerminalProgress
    from mdlm_atat.data.tokens import TokenDataset
    from mdlm_atat.train.run_folder import check_same_data, describe_data

    data = lm.config.data
    if source is None:
        if lm.checkpoint is None or lm.home is None:
            raise UserError("a saved model has no validation text of its own; name one with --data")
        folder = prepare_data(data, TerminalProgress())
        train_data, valid_data = (TokenDataset.open(folder, name, data.length) for name in ("train", "valid"))
        check_same_data(lm.home, describe_data(train_data, valid_data))
        return train_data if split == "train" else valid_data
    if is_prepared(Path(source)):
        dataset = TokenDataset.open(source, split or "valid", data.length)
        if dataset.manifest.tokenizer["hash"] != lm.tokenizer.fingerprint():
            raise UserError(
                f"{source} was prepared with another tokenizer ({dataset.manifest.tokenizer['name']}) than the model "
                f"was trained with ({lm.tokenizer.name}); name the text itself with --data, and it is encoded as the "
                "model needs"
            )
        return dataset
    folder = ensure_prepared(
        source,
        lm.tokenizer,
        mode=data.mode,
        length=data.length,
        column=column,
        split=split or "train",
        whole=True,
        progress=TerminalProgress(),
    )
    return TokenDataset.open(folder, "valid", data.length)


def evaluate_run(
    lm: MaskedDiffusionLM | CausalLM,
    data: TokenDataset,
    *,
    num_draws: int,
    seed: int,
    batch_size: int | None = None,
    file: Path | None = None,
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Score a data set, store the record as JSON (in the run's evals/ unless `file` says where), and return it."""
    from mdlm_atat.atomic import write_json
    from mdlm_atat.evaluate.record import evaluation_record, schedule_record, unigram_record
    from mdlm_atat.provenance import cpu

    home = lm.home
    assert home is not None
    common: dict[str, Any] = {
        "num_draws": num_draws,
        "seed": seed,
        "batch_size": batch_size or lm.config.eval.batch_size,
        "on_progress": on_progress,
    }
    found = lm.likelihood(data, **common)
    own = lm.schedule_draws(data, **common) if lm.kind == "masked" else None
    masking = lm.config.masking
    record = evaluation_record(
        found,
        data,
        schedule=schedule_record(own, found, data, strategy=masking.strategy, is_bound=masking.is_bound),
        unigram=None if lm.counts is None else unigram_record(data, lm.counts),
        step=lm.checkpoint.step if lm.checkpoint else None,
        checkpoint=lm.checkpoint.folder.name if lm.checkpoint else str(home),
        checkpoint_hash=lm.checkpoint.checksum() if lm.checkpoint else None,
        seed=seed,
        machine={"cpu": cpu(), "device": lm.device_name, "precision": lm.precision},
    )
    if file is None:
        (home / "evals").mkdir(exist_ok=True)
        file = home / "evals" / f"{record['checkpoint']}-{record['corpus_hash'][:8]}-{found.num_draws}-{seed}.json"
    record["file"] = str(file)
    write_json(file, record)
    return record


def result_table(record: dict[str, Any]) -> list[str]:
    """The result as aligned lines for a person."""
    is_bound = record["kind"] == "nelbo"
    unigram, machine = record["unigram"], record["machine"]
    bits = plus_minus(record["bits_per_character"], record["standard_error_bits_per_character"])
    lines = [
        f"{'bound' if is_bound else 'exact':10} {plus_minus(record['nelbo_nats_per_token'], record['standard_error'])} "
        f"nats per token, perplexity {'at most ' if is_bound else ''}{record['perplexity_per_token']:,.2f}"
        + (" (PPL-U)" if is_bound else ""),
        f"{'':10} {record['nats_per_character']:.4f} nats and "
        f"{bits} bits per character, {record['bits_per_byte']:.4f} bits per "
        f"byte, perplexity per word {record['perplexity_per_word']:,.0f}",
    ]
    if is_bound:
        lines += schedule_lines(record["schedule"])
    if unigram is not None:
        lines.append(
            f"{'unigram':10} {plus_minus(unigram['nats_per_token'], unigram['standard_error'])} nats per token, "
            f"{unigram['bits_per_character']:.4f} bits per character: the floor to beat"
        )
    return [
        *lines,
        f"{'scored':10} {record['num_draws']:,} {'draws' if is_bound else 'sequences'} from {record['num_tokens']:,} "
        f"tokens, {record['num_characters']:,} characters ({record['split']}, seed {record['seed']}); "
        f"{machine['device']}, {machine['precision']}",
        f"{'stored':10} {record['file']}",
    ]


def schedule_lines(schedule: dict[str, Any] | None) -> list[str]:
    """PPL-S, where it is another number than PPL-U, or why there is none."""
    if schedule is None:
        return [f"{'':10} no bound under its own masking schedule, which leaks what it hides: only PPL-U is reported"]
    if schedule["strategy"] == "uniform":
        return []
    return [
        f"{'schedule':10} {plus_minus(schedule['nelbo_nats_per_token'], schedule['standard_error'])} nats per token, "
        f"perplexity at most {schedule['perplexity_per_token']:,.2f} (PPL-S), under its own masking schedule "
        f"({schedule['strategy']}); predicting the rates costs {schedule['rate_nats_per_token']:.4f} of it"
    ]


def plus_minus(value: float, standard_error: float) -> str:
    """Four decimals, with the error where there is one: a single sequence has none."""
    return f"{value:.4f}" if math.isnan(standard_error) else f"{value:.4f} ± {standard_error:.4f}"


@contextmanager
def progress_bar(title: str) -> Iterator[OnProgress]:
    """A bar on a terminal; nothing elsewhere."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
