"""atat inspect: which tokens of a text a model finds important, and what they really cost it."""

from __future__ import annotations

import math
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdlm_atat.cli.model import add_model_arguments, check_model, load_model
from mdlm_atat.cli.parser import Parser, real, whole
from mdlm_atat.data.files import read_text
from mdlm_atat.errors import UserError
from mdlm_atat.plugins import trusted

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from mdlm_atat.lm import MaskedDiffusionLM
    from mdlm_atat.report.importance_page import InspectedText

NUM_EXTREMES = 5  # tokens listed at either end
CONTEXT = 12  # characters shown to either side of them
MAX_PICTURE_TOKENS = 512  # in heatmap.png
MAX_PAGE_TOKENS = 1024  # in the heatmap of heatmap.html, some 70 bytes a cell
MAX_TEXT_TOKENS = 8192  # coloured, in the terminal and on the page
PICTURE_DPI = 150


def make_parser() -> Parser:
    parser = Parser(
        "atat inspect",
        "Colour a text by the importance of its tokens, and compare it with what they cost when masked.",
        """examples:
  atat inspect runs/demo "To be, or not to be"
  atat inspect runs/demo --file sonnet.txt --times 0.15 0.5 0.85 --out sonnet
""",
    )
    add_model_arguments(parser)
    parser.add_argument("text", nargs="?", help=r"the text; \n stands for a new line")
    parser.add_argument("--file", type=Path, help="a file that holds the text")
    parser.add_argument(
        "--times", type=real(), nargs="+", metavar="T", help="shares of the text to mask (default: 0.1 0.2 ... 0.9)"
    )
    parser.add_argument("--num_draws", type=whole(1), default=4, help="random partitions of the text at each t")
    parser.add_argument(
        "--batch_size", type=whole(1), help="masked rows in one call of the network (default: the run's)"
    )
    parser.add_argument("--seed", type=whole(0), default=0, help="seed of the draws")
    parser.add_argument("--out", type=Path, help="folder for the heatmap (default: inspect in the model's folder)")
    return parser


def main(argv: list[str]) -> int:
    arguments = make_parser().parse(argv)
    text = text_to_inspect(arguments.text, arguments.file)
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

    from mdlm_atat.report.importance_page import InspectedText

    lm = masked_model(arguments)
    assert lm.home is not None
    record = inspection_of_text(lm, text, arguments)
    inspected = InspectedText.from_record(record)
    console = Console(highlight=False)
    show(console, inspected)
    for file in write_pictures(arguments.out or lm.home / "inspect", record, inspected, str(arguments.model)):
        console.print(f"{file.suffix[1:]:10} {file}", markup=False, soft_wrap=True)


def text_to_inspect(text: str | None, file: Path | None) -> str:
    if (text is None) == (file is None):
        raise UserError('give a text (e.g. atat inspect RUN "To be"), or a --file that holds one; not both')
    if file is None:
        assert text is not None
        return text.replace("\\n", "\n")
    return read_text(file)


def masked_model(arguments: Namespace) -> MaskedDiffusionLM:
    from mdlm_atat.lm import MaskedDiffusionLM

    lm = load_model(arguments)
    if not isinstance(lm, MaskedDiffusionLM):
        raise UserError(
            f"{arguments.model} holds a causal model, which masks nothing and knows no importance; train a masked one "
            "with atat train ... --method atat"
        )
    return lm


def inspection_of_text(lm: MaskedDiffusionLM, text: str, arguments: Namespace) -> dict[str, Any]:
    """The record of a text's inspection, ready for JSON."""
    from mdlm_atat.device import explain_out_of_memory
    from mdlm_atat.progress import progress_bar
    from mdlm_atat.scoring.inspection import DEFAULT_TIMES

    times = DEFAULT_TIMES if arguments.times is None else tuple(sorted(set(arguments.times)))
    batch_size = arguments.batch_size or lm.config.eval.batch_size
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


def show(console: Console, inspected: InspectedText) -> None:
    """The coloured text with its legend, the correlation, and the most and the least important tokens."""
    from mdlm_atat.report.importance_page import colour_scale, coloured_text

    shown = inspected.first(MAX_TEXT_TOKENS)
    console.print(coloured_text(shown.texts, shown.importance, console.encoding))
    if len(shown.texts) < len(inspected.texts):
        console.print(f"... and {len(inspected.texts) - len(shown.texts):,} more tokens")
    console.print()
    if console.color_system is None:
        low, high = shown.importance.min(), shown.importance.max()
        console.print(f"importance  {low:.2f} to {high:.2f}: as colours in a terminal and in heatmap.html")
    else:
        console.print(colour_scale(shown.importance, console.encoding))
    console.print("\n".join(summary(inspected)), soft_wrap=True)
    console.print()
    console.print(extremes_table(inspected, console.encoding))
    console.print()


def summary(inspected: InspectedText) -> list[str]:
    """How well importance predicts the loss, and the loss."""
    correlation = f"{inspected.pearson:.2f} (Pearson), {inspected.spearman:.2f} (Spearman)"
    if math.isnan(inspected.pearson):
        correlation = "none, since all tokens have the same importance or the same loss"
    num_tokens = len(inspected.texts)
    return [
        f"correlation with the loss  {correlation}",
        f"mean loss when masked  {inspected.mean_nll.mean():.3f} nats, {num_tokens:,} token{'s' * (num_tokens > 1)}",
    ]


def extremes_table(inspected: InspectedText, encoding: str) -> Table:
    """The most and the least important tokens, with their loss (the mean over t) and surroundings."""
    from rich.table import Table
    from rich.text import Text

    from mdlm_atat.report.canvas_view import printable
    from mdlm_atat.report.importance_page import label

    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("", "token", "place", "importance", "loss, nats"):
        table.add_column(name, justify="right" if name in ("place", "importance", "loss, nats") else "left")
    table.add_column("in", no_wrap=True)
    order = inspected.importance.argsort(kind="stable").tolist()
    num_shown = min(NUM_EXTREMES, max(1, len(order) // 2))
    for title, chosen in (("most important", order[::-1][:num_shown]), ("least important", order[:num_shown])):
        for rank, place in enumerate(chosen):
            before = "".join(inspected.texts[max(0, place - CONTEXT) : place])[-CONTEXT:].rjust(CONTEXT)
            after = "".join(inspected.texts[place + 1 : place + 1 + CONTEXT])[:CONTEXT]
            around = Text()
            for text, style in ((before, "dim"), (inspected.texts[place], "bold"), (after, "dim")):
                around.append(printable(" ".join(text.split("\n")), encoding), style=style)
            table.add_row(
                title if rank == 0 else "",
                Text(printable(label(inspected.texts[place]), encoding)),
                str(place + 1),
                f"{inspected.importance[place]:.3f}",
                f"{inspected.mean_nll[place]:.3f}",
                around,
            )
    return table


def write_pictures(folder: Path, record: dict[str, Any], inspected: InspectedText, name: str) -> list[Path]:
    """heatmap.png, heatmap.html and the numbers behind them, inspection.json."""
    from mdlm_atat.atomic import write_json, write_text
    from mdlm_atat.report.importance_page import heatmap_page, heatmap_picture

    folder.mkdir(exist_ok=True)
    picture, page, numbers = folder / "heatmap.png", folder / "heatmap.html", folder / "inspection.json"
    write_json(numbers, record)
    heatmap_picture(inspected, MAX_PICTURE_TOKENS).savefig(picture, dpi=PICTURE_DPI)
    notes = [
        *summary(inspected),
        f"{record['checkpoint']}; masking strategy {record['strategy']}; {record['num_draws']} random partitions at "
        f"each t, seed {record['seed']}.",
    ]
    if record["importance"] == "frequency_only":
        notes.append("Importance is a token's frequency here: of a masked token it is the corpus mean, whatever t.")
    content = heatmap_page(
        inspected, name=name, notes=notes, max_tokens=MAX_PAGE_TOKENS, max_text_tokens=MAX_TEXT_TOKENS
    )
    write_text(page, content)
    return [picture, page, numbers]
