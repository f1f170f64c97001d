"""Importance, seen: a text coloured by it in the terminal, and every token's importance and loss over t on a page."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from markupsafe import Markup
from matplotlib.figure import Figure
from rich.color import Color
from rich.style import Style
from rich.text import Text

from mdlm_atat.report import importance_plots
from mdlm_atat.report.figure import svg
from mdlm_atat.report.page import template
from mdlm_atat.scoring.inspected_text import InspectedText
from mdlm_atat.terminal import printable

PALE, STRONG = (230, 240, 247), (0, 80, 128)  # backgrounds of the least and the most important token
SCALE_CELLS = 24  # of the legend in the terminal
MAX_LABEL = 14  # characters of a token's name in a heatmap
MAX_BAND_TOKENS, MAX_BAND_LETTERS = 64, 90  # of the page's heatmap: what fits in its width
VISIBLE = str.maketrans({" ": "␣", "\n": "↵", "\t": "⇥"})


def coloured_text(texts: Sequence[str], importance: Float[np.ndarray, " tokens"], encoding: str = "utf-8") -> Text:
    """The text with each token's background the stronger, the more important it is, from the least to the most
    important of them. A line's end shows as ↵ too; neither markup nor control codes in the text have any effect."""
    text = Text(overflow="fold")
    for token, strength in zip(texts, strengths(importance).tolist(), strict=True):
        text.append(with_line_ends(token, encoding), style=shade(strength))
    return text


def with_line_ends(text: str, encoding: str = "utf-8") -> str:
    """Printable, and a line's end also a sign that can be coloured."""
    return printable(text, encoding).replace("\n", printable("↵", encoding, instead="\\n") + "\n")


def colour_scale(importance: Float[np.ndarray, " tokens"], encoding: str = "utf-8") -> Text:
    """The legend: importance from its least to its largest, as `coloured_text` colours it."""
    text = Text(f"importance  {importance.min():.2f} ")
    for strength in np.linspace(0, 1, SCALE_CELLS).tolist():
        text.append(" ", style=shade(strength))
    text.append(f" {importance.max():.2f}")
    text.append(printable("  · stronger: more important", encoding, instead="-"), style=Style(dim=True))
    return text


def strengths(importance: Float[np.ndarray, " tokens"]) -> Float[np.ndarray, " tokens"]:
    """0 for the least important, 1 for the most, linear between; all 0 where all are the same."""
    spread = np.ptp(importance)
    return (importance - importance.min()) / spread if spread > 0 else np.zeros_like(importance)


def shade(strength: float) -> Style:
    """A background between PALE and STRONG, with black or white letters, whichever is easier to read on it."""
    red, green, blue = (round(pale + strength * (strong - pale)) for pale, strong in zip(PALE, STRONG, strict=True))
    luminance = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2
    is_bright = luminance / 255**2.2 > 0.18  # where black and white letters contrast alike
    return Style(color="#000000" if is_bright else "#ffffff", bgcolor=Color.from_rgb(red, green, blue).name)


def label(text: str) -> str:
    """A token's name in a heatmap: spaces and line ends made visible, long ones cut, control codes replaced."""
    shown = printable(text).translate(VISIBLE) or "∅"
    return shown if len(shown) <= MAX_LABEL else shown[: MAX_LABEL - 1] + "…"


class Cell(NamedTuple):
    strength: float
    """0: the paper's colour; 1: the strongest."""
    title: str
    """The numbers, on hovering."""


class Row(NamedTuple):
    name: str
    cells: list[Cell]


class Band(NamedTuple):
    """So many tokens as fit beside each other."""

    labels: list[tuple[str, str]]
    """The token's name, and what is said on hovering."""
    importance: list[Row]
    """The clean text's, then one at each t."""
    loss: list[Row]


def heatmap(inspected: InspectedText, max_tokens: int) -> Markup:
    """The HTML of a heatmap, a column a token and a row a t, with all numbers on hovering; heatmap.css goes with it.

    The numbers are those stored. Of a longer text the first `max_tokens` are shown, and the HTML says so.
    """
    shown = inspected.first(max_tokens)
    every = np.concatenate([shown.importance[None], shown.masked_importance])
    return Markup(
        template("heatmap.html.j2").render(
            bands=_bands(shown),
            lowest=f"{every.min():.2f}",
            highest=f"{every.max():.2f}",
            highest_loss=f"{shown.nll.max():.2f}",
            num_shown=len(shown.texts),
            num_tokens=len(inspected.texts),
        )
    )


def heatmap_picture(inspected: InspectedText, max_tokens: int) -> Figure:
    """The heatmap as a figure; of a longer text the first `max_tokens`."""
    shown = inspected.first(max_tokens)
    return importance_plots.importance_heatmap(
        labels=[label(text) for text in shown.texts],
        importance=shown.importance,
        times=shown.times,
        masked_importance=shown.masked_importance,
        nll=shown.nll,
        num_left_out=len(inspected.texts) - len(shown.texts),
    )


def heatmap_page(
    inspected: InspectedText, *, name: str, notes: Sequence[str], max_tokens: int, max_text_tokens: int
) -> str:
    """A page of its own: the coloured text, the heatmap, importance against loss, and the masking schedule. One file
    that needs no network. `name`: of the model; `notes`: a line each, below the heading."""
    text = inspected.first(max_text_tokens)
    spans = [
        (with_line_ends(token), _cell(strength, f"{place}: importance {importance:.4f}, loss {nats:.4f} nats"))
        for place, (token, strength, importance, nats) in enumerate(
            zip(
                text.texts,
                strengths(text.importance).tolist(),
                text.importance.tolist(),
                text.mean_nll.tolist(),
                strict=True,
            ),
            1,
        )
    ]
    return template("importance.html.j2").render(
        name=name,
        notes=notes,
        spans=spans,
        num_cut=len(inspected.texts) - len(text.texts),
        heatmap=heatmap(inspected, max_tokens),
        figures=figures(inspected),
    )


def figures(inspected: InspectedText) -> dict[str, Markup]:
    """Importance against loss, and the mask rate of easy and hard tokens, for a page; by name."""
    against_loss = importance_plots.importance_against_loss(
        importance=inspected.importance,
        mean_nll=inspected.mean_nll,
        pearson=inspected.pearson,
        spearman=inspected.spearman,
    )
    mask_rate = importance_plots.mask_rate_by_importance(
        importance=inspected.importance, times=inspected.times, mask_rate=inspected.mask_rate
    )
    titles = {
        "against_loss": (against_loss, "Cost of each masked token against its importance in the clean text"),
        "mask_rate": (mask_rate, "Mask probability against t for easy, median and hard tokens"),
    }
    return {name: Markup(svg(figure, name=name, title=title)) for name, (figure, title) in titles.items()}


def _bands(inspected: InspectedText) -> list[Band]:
    labels = [label(text) for text in inspected.texts]
    every = np.concatenate([inspected.importance[None], inspected.masked_importance])  # (1 + T, N)
    by_row = strengths(every.ravel()).reshape(every.shape)
    loss_by_row = inspected.nll / max(inspected.nll.max(), 1e-6)
    names = [f"t {t:g}" for t in inspected.times]
    bands = []
    for start, end in _cuts(labels):
        columns = range(start, end)
        importance = [
            Row("clean", [_cell(by_row[0, n], f"clean: importance {inspected.importance[n]:.4f}") for n in columns])
        ]
        loss = []
        for k, name in enumerate(names):
            titles = [
                f"{name}: importance {inspected.masked_importance[k, n]:.4f}, loss {inspected.nll[k, n]:.4f}"
                for n in columns
            ]
            importance.append(
                Row(name, [_cell(by_row[k + 1, n], title) for n, title in zip(columns, titles, strict=True)])
            )
            loss.append(Row(name, [_cell(loss_by_row[k, n], title) for n, title in zip(columns, titles, strict=True)]))
        mean_nll = inspected.mean_nll
        heads = [
            (labels[n], f"{n + 1}: importance {inspected.importance[n]:.4f}, loss {mean_nll[n]:.4f} nats")
            for n in columns
        ]
        bands.append(Band(heads, importance, loss))
    return bands


def _cell(strength: float, title: str) -> Cell:
    return Cell(round(float(strength), 3), title)


def _cuts(labels: Sequence[str]) -> list[tuple[int, int]]:
    """First and last + 1 of the tokens of each band: as many as fit."""
    cuts, start, num_letters = [], 0, 0
    for index, name in enumerate(labels):
        if index > start and (num_letters + len(name) > MAX_BAND_LETTERS or index - start == MAX_BAND_TOKENS):
            cuts.append((start, index))
            start, num_letters = index, 0
        num_letters += len(name)
    return [*cuts, (start, len(labels))]
