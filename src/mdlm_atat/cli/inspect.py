"""atat inspect: which tokens of a text a model finds important, and what they really cost it."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdlm_atat.cli.model import (
    add_model_and_text_arguments,
    add_reading_arguments,
    check_model,
    load_model,
    model_and_text_or_file,
    text_file,
    texts_given,
)
from mdlm_atat.cli.parser import Parser, real, whole
from mdlm_atat.errors import UserError
from mdlm_atat.model_folder import results_folder, title_of
from mdlm_atat.plugins import trusted

if TYPE_CHECKING:
    from mdlm_atat.lm import MaskedDiffusionLM


def make_parser() -> Parser:
    parser = Parser(
        "atat inspect",
        "Colour a text by the importance of its tokens, and compare it with what they cost when masked.",
        """examples:
  atat inspect runs/rates "To be, or not to be"
  atat inspect runs/rates --file sonnet.txt --times 0.15 0.5 0.85 --out sonnet
""",
    )
    add_model_and_text_arguments(parser, "text", "the text")
    parser.add_argument("--file", type=text_file, help="a file that holds the text, or - for standard input")
    add_reading_arguments(parser, texts="the text")
    parser.add_argument(
        "--times", type=real(), nargs="+", metavar="T", help="shares of the text to mask (default: 0.1 0.2 ... 0.9)"
    )
    parser.add_argument("--num_draws", type=whole(1), default=4, help="random partitions of the text at each t")
    parser.add_argument(
        "--batch_size", type=whole(1), help="masked rows in one call of the network (default: the run's)"
    )
    parser.add_argument("--seed", type=whole(0), default=0, help="seed of the draws")
    parser.add_argument(
        "--out", type=Path, help="folder for the heatmap (default: inspect in the model's folder, or here)"
    )
    return parser


def main(argv: list[str]) -> int:
    arguments = make_parser().parse(argv)
    arguments.model, given, arguments.file = model_and_text_or_file(arguments, "text", command="inspect")
    texts = [] if given is None else [given]
    (text,) = texts_given(texts, arguments.file, escape=arguments.escape, encoding=arguments.encoding)
    out: Path | None = arguments.out
    if out is not None and (out.is_file() or not out.parent.is_dir()):
        raise UserError(f"--out: {out} is a file, or the folder it should be in is not there")
    check_model(arguments.model)
    with trusted(arguments.trust_plugins):
        inspect(arguments, text)
    return 0


def inspect(arguments: Namespace, text: str) -> None:
    """Show the text in colours, and write its pictures."""
    from rich.console import Console

    from mdlm_atat.atomic import stored_if_possible
    from mdlm_atat.report.inspection_view import BY_FREQUENCY, is_by_frequency, show, write_pictures
    from mdlm_atat.scoring.inspected_text import InspectedText

    lm = masked_model(arguments)
    assert lm.home is not None
    record = inspection_of_text(lm, text, arguments)
    inspected = InspectedText.from_record(record)
    console = Console(highlight=False)
    show(console, inspected)
    if is_by_frequency(record):
        console.print(f"{BY_FREQUENCY}\n")
    folder = arguments.out or results_folder(lm.home, "inspect")
    with stored_if_possible(folder):
        for file in write_pictures(folder, record, inspected, title_of(arguments.model)):
            console.print(f"{file.suffix[1:]:10} {file}", markup=False, soft_wrap=True)


def masked_model(arguments: Namespace) -> MaskedDiffusionLM:
    from mdlm_atat.lm import MaskedDiffusionLM

    lm = load_model(arguments)
    if not isinstance(lm, MaskedDiffusionLM):
        raise UserError(
            f"{title_of(arguments.model)} holds a causal model, which masks nothing and knows no importance; train a "
            "masked one with atat train ... --method importance_rates"
        )
    return lm


def inspection_of_text(lm: MaskedDiffusionLM, text: str, arguments: Namespace) -> dict[str, Any]:
    """The record of a text's inspection, ready for JSON."""
    from mdlm_atat.device import explain_out_of_memory
    from mdlm_atat.progress import progress_bar
    from mdlm_atat.scoring.draws import rows_together
    from mdlm_atat.scoring.inspection import DEFAULT_TIMES

    times = DEFAULT_TIMES if arguments.times is None else tuple(sorted(set(arguments.times)))
    batch_size = arguments.batch_size or rows_together(lm.config.eval.batch_size, lm.max_length, lm.device)
    with (
        progress_bar("inspecting") as on_progress,
        explain_out_of_memory(f"try --batch_size {max(1, batch_size // 2)}"),
    ):
        found = lm.inspect(
            text,
            times=times,
            num_draws=arguments.num_draws,
            seed=arguments.seed,
            batch_size=batch_size,
            on_progress=on_progress,
        )
    return lm.inspection_record(found)
