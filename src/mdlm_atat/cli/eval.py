"""atat eval: what a trained model pays for a text, in every unit, with its standard error."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    parser.add_argument("model", type=Path, help="a run folder, one of its checkpoints, or a saved model")
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
    parser.add_argument("--device", help="cpu or cuda (default: a GPU if there is one)")
    parser.add_argument("--precision", choices=["auto", "float32", "bf16"], default="auto")
    parser.add_argument("--json", type=Path, help="write the result here (default: in the run's evals/)")
    return parser


def main(argv: list[str]) -> int:
    arguments = make_parser().parse_args(argv)
    if arguments.num_draws is not None and arguments.num_draws < 1:
        raise UserError(f"--num_draws is {arguments.num_draws}, expected at least 1, e.g. 4096")
    from rich.console import Console

    from mdlm_atat.lm import load_lm, locate
    from mdlm_atat.viz.report import write_report

    console = Console(stderr=True)
    lm = load_lm(
        arguments.model,
        device=arguments.device,
        precision=arguments.precision,
        say=lambda text: console.print(f"warning: {text}", style="yellow", markup=False, soft_wrap=True),
    )
    found = locate(arguments.model, lambda _: None)
    run = found.config.parent
    data = open_data(lm, run, arguments.data, column=arguments.column, split=arguments.split)
    with progress_bar("scoring") as on_progress:
        record = evaluate_run(
            lm,
            run,
            data,
            num_draws=arguments.num_draws or lm.config.eval.final_num_draws,
            batch_size=arguments.batch_size,
            seed=arguments.seed,
            file=arguments.json,
            on_progress=on_progress,
        )
    print("\n".join(result_table(record)))
    if arguments.data is None and (run / "run.json").exists():
        print(f"report     {write_report(run)}")
    return 0


def open_data(
    lm: MaskedDiffusionLM | CausalLM, run: Path, source: str | None, *, column: str, split: str | None
) -> TokenDataset:
    """The text to score, as tokens of this model's own tokenizer."""
    from mdlm_atat.data.manifest import is_prepared
    from mdlm_atat.data.prepare import ensure_prepared
    from mdlm_atat.data.progress import TerminalProgress
    from mdlm_atat.data.tokens import TokenDataset

    data = lm.config.data
    if source is None:
        if lm.checkpoint is None:
            raise UserError("a saved model has no validation text of its own; name one with --data")
        from mdlm_atat.config.build import prepare_data

        dataset = TokenDataset.open(prepare_data(data, TerminalProgress()), split or "valid", data.length)
        stored = json.loads((run / "run.json").read_text())["data"]["tokenizer_hash"]
    elif is_prepared(Path(source)):
        dataset = TokenDataset.open(source, split or "valid", data.length)
        stored = lm.tokenizer.fingerprint()
    else:
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
        dataset = TokenDataset.open(folder, "valid", data.length)
        stored = lm.tokenizer.fingerprint()
    if dataset.manifest.tokenizer["hash"] != stored:
        raise UserError(
            f"{dataset.folder} was prepared with another tokenizer ({dataset.manifest.tokenizer['name']}) than the "
            f"model was trained with ({lm.tokenizer.name}); name the text itself with --data, and it is encoded "
            "as the model needs"
        )
    return dataset


def evaluate_run(
    lm: MaskedDiffusionLM | CausalLM,
    run: Path,
    data: TokenDataset,
    *,
    num_draws: int,
    seed: int,
    batch_size: int | None = None,
    file: Path | None = None,
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Score a data set, store the record as JSON (in the run's evals/ unless `file` says where), and return it."""
    from mdlm_atat.evaluate.record import evaluation_record, unigram_record
    from mdlm_atat.provenance import cpu
    from mdlm_atat.train.run_folder import COUNTS_FILE, read_counts, write_json

    found = lm.likelihood(
        data,
        num_draws=num_draws,
        seed=seed,
        batch_size=batch_size or lm.config.eval.batch_size,
        on_progress=on_progress,
    )
    record = evaluation_record(
        found,
        data,
        unigram=unigram_record(data, read_counts(run)) if (run / COUNTS_FILE).exists() else None,
        step=lm.checkpoint.step if lm.checkpoint else None,
        checkpoint=lm.checkpoint.folder.name if lm.checkpoint else str(run),
        checkpoint_hash=lm.checkpoint.checksum() if lm.checkpoint else None,
        seed=seed,
        machine={"cpu": cpu(), "device": lm.device_name, "precision": lm.precision},
    )
    if file is None:
        (run / "evals").mkdir(exist_ok=True)
        file = run / "evals" / f"{record['checkpoint']}-{record['corpus_hash'][:8]}-{found.num_draws}-{seed}.json"
    record["file"] = str(file)
    write_json(file, record)
    return record


def result_table(record: dict[str, Any]) -> list[str]:
    """The result as aligned lines for a person."""
    is_bound = record["kind"] == "nelbo"
    unigram, machine = record["unigram"], record["machine"]
    lines = [
        f"{'bound' if is_bound else 'exact':10} {record['nelbo_nats_per_token']:.4f} ± {record['standard_error']:.4f} "
        f"nats per token, perplexity {'at most ' if is_bound else ''}{record['perplexity_per_token']:,.2f}",
        f"{'':10} {record['nats_per_character']:.4f} nats and {record['bits_per_character']:.4f} ± "
        f"{record['standard_error_bits_per_character']:.4f} bits per character, {record['bits_per_byte']:.4f} bits per "
        f"byte, perplexity per word {record['perplexity_per_word']:,.0f}",
        f"{'scored':10} {record['num_draws']:,} {'draws' if is_bound else 'sequences'} from {record['num_tokens']:,} "
        f"tokens, {record['num_characters']:,} characters ({record['split']}, seed {record['seed']}); "
        f"{machine['device']}, {machine['precision']}",
        f"{'stored':10} {record['file']}",
    ]
    if unigram is not None:
        floor = (
            f"{'unigram':10} {unigram['nats_per_token']:.4f} ± {unigram['standard_error']:.4f} nats per token, "
            f"{unigram['bits_per_character']:.4f} bits per character: the floor to beat"
        )
        lines.insert(2, floor)
    return lines


@contextmanager
def progress_bar(title: str) -> Iterator[OnProgress]:
    """A bar on a terminal; nothing elsewhere."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
