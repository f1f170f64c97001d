"""An inspected text, coloured in the terminal and drawn into files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mdlm_atat.atomic import nothing_new_left, write_json, write_text, written_aside
from mdlm_atat.formats import counted
from mdlm_atat.report.importance_page import (
    colour_scale,
    coloured_text,
    heatmap_page,
    heatmap_picture,
    label,
)
from mdlm_atat.scoring.inspected_text import InspectedText
from mdlm_atat.terminal import printable

NUM_EXTREMES = 5  # tokens listed at either end
CONTEXT = 12  # characters shown to either side of them
MAX_PICTURE_TOKENS = 512  # in heatmap.png
MAX_PAGE_TOKENS = 1024  # in the heatmap of heatmap.html, some 70 bytes a cell
MAX_TEXT_TOKENS = 8192  # coloured, in the terminal and on the page
PICTURE_DPI = 150
BY_FREQUENCY = "Here importance is how rare a token is in the training text."


def show(console: Console, inspected: InspectedText) -> None:
    """Print the coloured text with its legend, the correlation, and the most and the least important tokens."""
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


def is_by_frequency(record: Mapping[str, Any]) -> bool:
    """Whether a stored inspection is of a model that knows no other importance than a token's frequency."""
    return record.get("importance_mode") == "frequency_only"


def summary(inspected: InspectedText) -> list[str]:
    """Two lines: how well importance predicts the loss, and the mean loss."""
    correlation = f"{inspected.pearson:.2f} (Pearson), {inspected.spearman:.2f} (Spearman)"
    if math.isnan(inspected.pearson):
        correlation = "none, since all tokens have the same importance or the same loss"
    num_tokens = len(inspected.texts)
    return [
        f"correlation with the loss  {correlation}",
        f"mean loss when masked  {inspected.mean_nll.mean():.3f} nats, {counted(num_tokens, 'token')}",
    ]


def extremes_table(inspected: InspectedText, encoding: str) -> Table:
    """A table of the most and the least important tokens, with their loss (the mean over t) and surroundings."""
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
    """Write heatmap.png, heatmap.html and the numbers behind them, inspection.json, into the folder; return the files.

    `record`: the inspection as `lm.inspection_record` gives it; `inspected`: what was read from it; `name`: the title.
    """
    picture, page, numbers = folder / "heatmap.png", folder / "heatmap.html", folder / "inspection.json"
    notes = [
        *summary(inspected),
        f"{record['checkpoint']}; masking strategy {record['strategy']}; {record['num_draws']} random partitions at "
        f"each t, seed {record['seed']}.",
    ]
    if is_by_frequency(record):
        notes.append(f"{BY_FREQUENCY} Of a masked token it is the corpus mean, whatever t.")
    content = heatmap_page(
        inspected, name=name, notes=notes, max_tokens=MAX_PAGE_TOKENS, max_text_tokens=MAX_TEXT_TOKENS
    )
    with nothing_new_left(folder):
        folder.mkdir(exist_ok=True)
        write_json(numbers, record)
        with written_aside(picture) as aside:
            heatmap_picture(inspected, MAX_PICTURE_TOKENS).savefig(aside, dpi=PICTURE_DPI, format="png")
        write_text(page, content)
    return [picture, page, numbers]
