"""One text coming about, as a page to step through or as a GIF."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from jinja2.utils import htmlsafe_json_dumps
from matplotlib.font_manager import FontProperties, findfont
from PIL import Image, ImageColor, ImageDraw, ImageFont

from mdlm_atat.atomic import write_bytes, write_text
from mdlm_atat.errors import UserError
from mdlm_atat.lm.token_texts import TokenTexts
from mdlm_atat.report.figure import ACCENT, FAINT, INK, MONO, MUTED, drawable
from mdlm_atat.report.page import template
from mdlm_atat.terminal import printable

if TYPE_CHECKING:
    from mdlm_atat.lm import Generated, LanguageModel

MASK, MASKED_AGAIN = "░", "▒"
SIGNS = {"\n": "↵", "": "∅"}  # drawn faintly before a token that would be nothing to see or to point at

MAX_FRAMES = 60
COLUMNS = 72
FONT_PX, LINE_PX, MARGIN_PX = 15, 21, 14
LAST_MS = 2000
PAPER, DOUBT, AGAIN = "#ffffff", "#e69f00", "#a3297a"
NUM_DOUBTS = 8  # shades of a background, and of each letter's edge on it: they share 256 colours


@dataclass(frozen=True)
class Reveal:
    """How one text came about, step by step, as it is drawn."""

    title: str
    frames: Int[np.ndarray, "steps_and_start length"]
    """Tokens after every step; the first row is what was given."""
    mask_id: int
    token_text: Callable[[int, int], str]
    """Text of the token at a place; never asked for the mask's."""
    fixed: Bool[np.ndarray, " length"]
    """Given from the start: a prompt, a template."""
    confidence: Float[np.ndarray, " length"]
    """Probability the token had when it was last set; NaN where fixed."""
    entropy: Float[np.ndarray, " steps"]
    """Mean entropy in nats of the distributions seen in each step; may hold NaN."""
    importance: Float[np.ndarray, " length"] | None
    """In [0, 1], where it is known."""
    nfe: int
    """Network evaluations."""
    settings: dict[str, str]
    """Shown under the title: sampler, steps, seed, ..."""

    @classmethod
    def of(cls, lm: "LanguageModel", text: "Generated", *, title: str, settings: dict[str, str]) -> "Reveal":
        """How a generated text came about. Raises UserError for one that was made without `return_trace=True`."""
        trace = text.trace
        if trace is None:
            raise UserError("this text has no trace to draw: make it with `return_trace=True`")
        return cls(
            title=title,
            frames=trace.frames,
            mask_id=lm.tokenizer.mask_id,
            token_text=TokenTexts(lm.tokenizer, text.row),
            fixed=trace.fixed,
            confidence=trace.confidence,
            entropy=trace.entropy,
            importance=trace.importance,
            nfe=text.nfe,
            settings={**settings, "steps": str(len(trace.frames) - 1)},
        )

    def __post_init__(self) -> None:
        assert len(self.entropy) == self.num_steps, "an entropy for each step, none for the start"

    @property
    def num_steps(self) -> int:
        return len(self.frames) - 1

    @property
    def known(self) -> Bool[np.ndarray, "steps_and_start length"]:
        return self.frames != self.mask_id

    @property
    def masked_again(self) -> Bool[np.ndarray, "steps_and_start length"]:
        """Where a mask hides what could be read after an earlier step."""
        return np.logical_or.accumulate(self.known, axis=0) & ~self.known

    @property
    def passing(self) -> Bool[np.ndarray, "steps_and_start length"]:
        """Where a token stands that will be set anew: its own confidence is not known."""
        is_set = self.known & (np.diff(self.frames, axis=0, prepend=self.mask_id) != 0)
        last_set = self.num_steps - is_set[::-1].argmax(0)
        return self.known & (np.arange(len(self.frames))[:, None] < last_set)

    def texts(self) -> dict[tuple[int, int], str]:
        """Printable text of each token that occurs, by its place and the token."""
        places = np.broadcast_to(np.arange(self.frames.shape[1]), self.frames.shape)
        pairs = np.unique(np.stack([self.frames[self.known], places[self.known]]), axis=1).T.tolist()
        return {(place, token): printable(self.token_text(place, token)) for token, place in pairs}


def check_animation_path(path: Path) -> None:
    """UserError for a path that `write_animation` could not write; to be called before the work is done."""
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file, for example {path / 'reveal.html'}")
    if path.suffix.lower() not in (".gif", ".html"):
        raise UserError(
            f"{path}: an animation is a page (.html) or a picture (.gif); try {path.with_name(path.stem + '.html')}"
        )
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent}; make it first, or choose another")


def write_animation(reveal: Reveal, path: Path) -> Path:
    """A page (.html) that needs no network, or a GIF of at most 60 frames (.gif); the file is whole or not there."""
    check_animation_path(path)
    if path.suffix.lower() == ".html":
        write_text(path, _page(reveal))
    else:
        write_bytes(path, _gif(reveal))
    return path


def _page(reveal: Reveal) -> str:
    texts = reveal.texts()
    tokens = []  # of the last frame, which is what a browser without JavaScript shows
    last = zip(reveal.frames[-1].tolist(), reveal.fixed, reveal.confidence, strict=True)
    for place, (token, is_fixed, confidence) in enumerate(last):
        text = texts.get((place, token), MASK)
        kind = "mask" if token == reveal.mask_id else "given" if is_fixed else ""
        doubt = 1 - float(confidence) if np.isfinite(confidence) and token != reveal.mask_id else 0
        tokens.append((text, kind, SIGNS.get(text[:1]), round(doubt, 3)))
    return template("animation.html.j2").render(
        title=printable(reveal.title),
        settings={printable(name): printable(value) for name, value in reveal.settings.items()},
        nfe=reveal.nfe,
        num_steps=reveal.num_steps,
        tokens=tokens,
        mask=MASK,
        masked_again=MASKED_AGAIN if reveal.masked_again.any() else None,
        has_fixed=bool(reveal.fixed.any()),
        has_passing=bool(reveal.passing.any()),
        has_importance=reveal.importance is not None,
        has_entropy=bool(np.isfinite(reveal.entropy).any()),
        data=htmlsafe_json_dumps(_data(reveal, texts), separators=(",", ":"), allow_nan=False),
    )


def _data(reveal: Reveal, texts: dict[tuple[int, int], str]) -> dict[str, Any]:
    """What the page's script replays: of each step only what changed, as position, text, position, text, ...; the
    text's index, -1 for a mask. Before step 0 all is masked."""
    index = {text: k for k, text in enumerate(dict.fromkeys(texts.values()))}
    before = np.full_like(reveal.frames[0], reveal.mask_id)
    changes = []
    for tokens in reveal.frames:
        places = np.flatnonzero(tokens != before).tolist()
        shown = [texts.get((place, int(tokens[place]))) for place in places]
        numbers = [-1 if text is None else index[text] for text in shown]
        changes.append([number for pair in zip(places, numbers, strict=True) for number in pair])
        before = tokens
    return {
        "texts": list(index),
        "signs": SIGNS,
        "changes": changes,
        "fixed": reveal.fixed.astype(int).tolist(),
        "confidence": _rounded(reveal.confidence),
        "importance": None if reveal.importance is None else _rounded(reveal.importance),
        "entropy": _rounded(reveal.entropy),
    }


def _rounded(values: Float[np.ndarray, " n"]) -> list[float | None]:
    return [round(value, 4) if np.isfinite(value) else None for value in values.tolist()]


class _Style(NamedTuple):
    ink: str = INK
    background: str = PAPER
    outline: str | None = None
    is_bold: bool = False


class _Run(NamedTuple):
    """Characters beside each other on a grid of cells."""

    row: int
    column: int
    text: str
    style: _Style


def _gif(reveal: Reveal) -> bytes:
    num_frames = min(MAX_FRAMES, reveal.num_steps + 1)
    drawings = _drawings(reveal, np.linspace(0, reveal.num_steps, num_frames).round().astype(int).tolist())
    num_rows = 3 + max(run.row for runs in drawings for run in runs)
    legend = _laid_out(_legend(reveal), row=num_rows - 1)
    fonts = [_font("normal"), _font("bold")]
    palette = _palette()  # the same for all frames: with one each, the file is 2.5 times as large
    images = [
        _image([*runs, *legend], num_rows, fonts).quantize(palette=palette, dither=Image.Dither.NONE)
        for runs in drawings
    ]
    frame_ms = min(500, max(80, 6000 // num_frames // 10 * 10))  # a GIF counts in 10 ms
    durations_ms = [frame_ms] * (num_frames - 1) + [LAST_MS]
    file = io.BytesIO()
    images[0].save(file, "GIF", save_all=True, append_images=images[1:], duration=durations_ms, loop=0, disposal=1)
    return file.getvalue()


def _drawings(reveal: Reveal, steps: list[int]) -> list[list[_Run]]:
    """The title line and the text after each of the steps; new is what the drawing before did not have."""
    texts = {at: _cells(text) for at, text in reveal.texts().items()}
    title = _cells(printable(reveal.title)).replace("\n", " ")
    masked_again, passing = reveal.masked_again, reveal.passing
    drawings, before = [], reveal.frames[steps[0]]
    for step in steps:
        progress = f" step {step}/{reveal.num_steps} · NFE {reveal.nfe}"
        width = COLUMNS - len(progress)
        name = title if len(title) <= width else title[: width - 1] + "…"
        parts = []
        for place, token in enumerate(reveal.frames[step].tolist()):
            if masked_again[step, place]:
                parts.append((MASKED_AGAIN, _Style(ink=AGAIN)))
            elif token == reveal.mask_id:
                parts.append((MASK, _Style(ink=FAINT)))
            else:
                style = _Style(
                    ink=MUTED if passing[step, place] else INK,
                    background=PAPER if passing[step, place] else _doubt(reveal.confidence[place]),
                    outline=ACCENT if token != before[place] else None,
                    is_bold=bool(reveal.fixed[place]),
                )
                parts.append((texts[place, token], style))
        heading = [(name.ljust(width), _Style(is_bold=True)), (progress, _Style(ink=MUTED))]
        drawings.append([*_laid_out(heading, row=0), *_laid_out(parts, row=2)])
        before = reveal.frames[step]
    return drawings


def _legend(reveal: Reveal) -> list[tuple[str, _Style]]:
    muted = _Style(ink=MUTED)
    scale = [(" ", _Style(background=_doubt(k / NUM_DOUBTS))) for k in range(NUM_DOUBTS + 1)]
    legend = [("confidence 0 ", muted), *scale, ("1   ", muted), ("new", _Style(outline=ACCENT)), ("   ", muted)]
    if reveal.fixed.any():
        legend += [("given", _Style(is_bold=True)), ("   ", muted)]
    if reveal.masked_again.any():
        legend += [(MASKED_AGAIN, _Style(ink=AGAIN)), (" masked again   ", muted)]
    return [*legend, ("to be set anew", muted)] if reveal.passing.any() else legend


def _cells(text: str) -> str:
    """A character a cell: tabs are spaces, and what the font lacks is a box."""
    return "\n".join(map(drawable, text.replace("\t", "    ").split("\n")))


def _laid_out(parts: list[tuple[str, _Style]], row: int) -> list[_Run]:
    """Wrapped after COLUMNS characters and at line ends."""
    runs, column = [], 0
    for text, style in parts:
        for number, line in enumerate(text.split("\n")):
            if number > 0:
                row, column = row + 1, 0
            while line:
                if column == COLUMNS:
                    row, column = row + 1, 0
                run, line = line[: COLUMNS - column], line[COLUMNS - column :]
                runs.append(_Run(row, column, run, style))
                column += len(run)
    return runs


def _image(runs: list[_Run], num_rows: int, fonts: list[ImageFont.FreeTypeFont]) -> Image.Image:
    cell_px = round(fonts[0].getlength("M"))
    image = Image.new("RGB", (2 * MARGIN_PX + COLUMNS * cell_px, 2 * MARGIN_PX + num_rows * LINE_PX), PAPER)
    draw = ImageDraw.Draw(image)
    for row, column, text, style in runs:
        left, top = MARGIN_PX + column * cell_px, MARGIN_PX + row * LINE_PX
        box = (left, top, left + len(text) * cell_px - 1, top + LINE_PX - 2)
        draw.rectangle(box, fill=style.background, outline=style.outline)
        draw.text((left, top + 1), text, fill=style.ink, font=fonts[style.is_bold])
    return image


def _font(weight: str) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(findfont(FontProperties(family=MONO, weight=weight)), FONT_PX)


def _doubt(confidence: float) -> str:
    """The background of a token; where its confidence is unknown, none."""
    share = 0.0 if np.isnan(confidence) else round((1 - confidence) * NUM_DOUBTS) / NUM_DOUBTS
    return _mixed(PAPER, DOUBT, 0.75 * share)


def _mixed(start: str, end: str, share: float) -> str:
    channels = zip(ImageColor.getrgb(start), ImageColor.getrgb(end), strict=True)
    return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in channels)


def _palette() -> Image.Image:
    """All inks, and the shades between them and their backgrounds."""
    pairs = [(INK, _doubt(k / NUM_DOUBTS)) for k in range(NUM_DOUBTS + 1)]
    pairs += [(ink, PAPER) for ink in (MUTED, FAINT, AGAIN, ACCENT)]
    colours = [_mixed(*pair, k / NUM_DOUBTS) for pair in pairs for k in range(NUM_DOUBTS + 1)]
    palette = Image.new("P", (1, 1))
    palette.putpalette([channel for colour in colours for channel in ImageColor.getrgb(colour)])
    return palette
