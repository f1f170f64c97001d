"""Make infilling.svg again, a text whose gaps the model in the box fills: python docs/pictures/infilling.py [MODEL]

One token after the other appears where `lm.stream` revealed it; nothing is chosen but the text, the seed is 0. An SVG
with CSS and no script, which pages show as a picture: in the light and in the dark, still for those who asked for less
motion.
"""

import sys
import textwrap
from html import escape
from pathlib import Path
from typing import NamedTuple

from matplotlib.font_manager import FontProperties, findfont
from PIL import ImageFont

import mdlm_atat as ma
from mdlm_atat.lm.token_texts import TokenTexts

TEXT = (
    "The old man sat by [MASK:4] and looked at [MASK:3]. “You have [MASK:5],” he said, “and I am [MASK:3].” "
    "She [MASK:4] without a word."
)
SEED, TEMPERATURE = 0, 0.8
WIDTH, SIZE, LINE, MARGIN = 740, 26, 44, 28  # px
BAR = 280
STEP_S, FIRST_S, LAST_S = 0.5, 1.2, 5.0
FONTS = "'Times New Roman', Tinos, 'Liberation Serif', STIXGeneral, serif"
STYLE = """
text { font: SIZEpx FONTS; fill: #22262b; white-space: pre }
.note { font: 14px system-ui, sans-serif; fill: #59616b }
.paper { fill: #fbfaf7; stroke: #d8d5cc }
.gap { fill: #c9ccd2 }
.line { fill: #0b6e4f }
.new { fill: #bfe8d2; opacity: 0 }
.bar { fill: #0b6e4f; transform-origin: left; transform-box: fill-box }
.track { fill: #dcdfe3 }
@media (prefers-color-scheme: dark) {
  text { fill: #e9e7e2 } .note { fill: #a7adb5 } .paper { fill: #1b1d20; stroke: #3a3d42 }
  .gap { fill: #4a4f57 } .line, .bar { fill: #5cc79a } .new { fill: #1f5a42 } .track { fill: #34383d }
}
.gap { opacity: 0 }
@media (prefers-reduced-motion: no-preference) {
  .gap, .new, .made, .bar { animation: TOTALs infinite step-end }
  .bar { animation: bar TOTALs infinite linear }
"""


class Piece(NamedTuple):
    """A token, or a part of it, on one line."""

    text: str
    x: float
    y: float
    width: float
    step: int  # 0: given


def frames() -> tuple[list[tuple[str, int]], int]:
    """Every token's text and the step that revealed it (0: given), and the number of steps."""
    lm = ma.load_lm(*sys.argv[1:2])
    last = list(lm.stream(TEXT, seed=SEED, temperature=TEMPERATURE))[-1]
    text_of = TokenTexts(lm.tokenizer, last.row)
    texts = [text_of(place, token) for place, token in enumerate(last.tokens)]
    return list(zip(texts, last.revealed_at_step, strict=True)), last.step


def set_in_lines(tokens: list[tuple[str, int]]) -> list[Piece]:
    """The tokens in lines that break between words."""
    font = ImageFont.truetype(findfont(FontProperties(family="STIXGeneral")), SIZE * 8)  # has the widths of Times
    words: list[list[tuple[str, int]]] = []
    for text, step in tokens:
        if text.startswith(" ") or not words:
            words.append([])
        words[-1].append((text, step))
    pieces, x, y = [], float(MARGIN), MARGIN + SIZE
    for word in words:
        if x + sum(font.getlength(text) for text, _ in word) / 8 > WIDTH - MARGIN:
            x, y = float(MARGIN), y + LINE
        for text, step in word:
            text = text.lstrip(" ") if x == MARGIN else text
            width = font.getlength(text) / 8
            pieces.append(Piece(text, x, y, width, step))
            x += width
    return pieces


def picture(pieces: list[Piece], num_steps: int) -> str:
    total = FIRST_S + STEP_S * num_steps + LAST_S
    rules = [STYLE.replace("SIZE", str(SIZE)).replace("FONTS", FONTS).replace("TOTAL", f"{total:g}")]

    def at(step: int) -> str:
        return f"{100 * (FIRST_S + STEP_S * (step - 1)) / total:.2f}%"

    rules.append(
        f"  @keyframes bar {{ 0%, {at(1)} {{ transform: scaleX(0) }} {at(num_steps + 1)} {{ transform: none }} }}"
    )
    for step in sorted({piece.step for piece in pieces} - {0}):
        rules += [
            f"  @keyframes g{step} {{ 0% {{ opacity: 1 }} {at(step)} {{ opacity: 0 }} }}",
            f"  @keyframes m{step} {{ 0% {{ opacity: 0 }} {at(step)} {{ opacity: 1 }} }}",
            f"  @keyframes n{step} {{ {at(step)} {{ opacity: 1 }} {at(step + 1)} {{ opacity: 0 }} }}",
            *(f"  .{kind}{step} {{ animation-name: {kind}{step} }}" for kind in "gmn"),
        ]
    shapes = []
    for text, x, y, width, step in pieces:
        place = f'x="{x:.1f}" width="{width:.1f}"'
        word = (
            f'<text x="{x:.1f}" y="{y}" textLength="{width:.1f}" lengthAdjust="spacingAndGlyphs">{escape(text)}</text>'
        )
        if step == 0:
            shapes.append(word)
            continue
        box = f'x="{x + 2:.1f}" width="{width - 3:.1f}"'
        shapes += [
            f'<rect class="gap g{step}" {box} y="{y - 17}" height="16" rx="5"/>',
            f'<rect class="new n{step}" {place} y="{y - 24}" height="33" rx="4"/>',
            f'<g class="made m{step}"><rect class="line" {place} y="{y + 7}" height="1.5"/>{word}</g>',
        ]
    bottom = pieces[-1].y + LINE
    height = bottom + MARGIN
    note = f"the model in the box: seed {SEED}, temperature {TEMPERATURE}, {num_steps} steps"
    whole = "".join(piece.text if piece.x > MARGIN else f" {piece.text}" for piece in pieces).strip()
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
            'role="img" aria-labelledby="title text">',
            '<title id="title">Gaps of a text are filled step by step, in any order</title>',
            f'<desc id="text">{escape(textwrap.fill(whole, 110))}</desc>',
            "<style>",
            *rules,
            "}",
            "</style>",
            f'<rect class="paper" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="12"/>',
            *shapes,
            f'<rect class="track" x="{MARGIN}" y="{bottom - 8}" width="{BAR}" height="4" rx="2"/>',
            f'<rect class="bar" x="{MARGIN}" y="{bottom - 8}" width="{BAR}" height="4" rx="2"/>',
            f'<text class="note" x="{WIDTH - MARGIN}" y="{bottom}" text-anchor="end">{note}</text>',
            "</svg>",
            "",
        ]
    )


if __name__ == "__main__":
    tokens, num_steps = frames()
    Path(__file__).with_suffix(".svg").write_text(picture(set_in_lines(tokens), num_steps), encoding="utf-8")
