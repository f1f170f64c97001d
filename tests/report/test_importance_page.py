import json
import re
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from rich.console import Console

from mdlm_atat.report.importance_page import (
    MAX_BAND_TOKENS,
    colour_scale,
    coloured_text,
    figures,
    heatmap,
    heatmap_page,
    heatmap_picture,
    label,
    shade,
)
from mdlm_atat.report.importance_plots import near_percentile
from mdlm_atat.scoring.inspected_text import InspectedText

HOSTILE = ["<b>", "&amp;", '"x"', "[red]", "\x1b[2J", "$x$", "日", "\n", " ", "</pre>", "\ud800", ""]


def record(texts: list[str], num_times: int = 3) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    shape = (num_times, len(texts))
    return {
        "texts": texts,
        "importance": rng.random(len(texts)).round(4).tolist(),
        "times": np.linspace(0.1, 0.9, num_times).tolist(),
        "masked_importance": rng.random(shape).round(4).tolist(),
        "nll": (8 * rng.random(shape)).round(4).tolist(),
        "mask_rate": rng.random(shape).round(4).tolist(),
        "correlation": {"pearson": 0.4321, "spearman": None},
    }


def inspected(texts: list[str], num_times: int = 3) -> InspectedText:
    return InspectedText.from_record(json.loads(json.dumps(record(texts, num_times))))


def page(found: InspectedText) -> str:
    return heatmap_page(found, name="<run>", notes=["a & b"], max_tokens=50, max_text_tokens=100)


class Titles(HTMLParser):
    """Titles of the cells and heads of a heatmap, and the text that a reader sees."""

    def __init__(self) -> None:
        super().__init__()
        self.titles: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        self.titles += [value for name, value in attrs if name == "title" and value]

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(html: str) -> Titles:
    parser = Titles()
    parser.feed(html)
    return parser


def luminance(style) -> float:
    red, green, blue = style.bgcolor.get_truecolor()
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_the_more_important_of_5_tokens_has_the_darker_background():
    importance = np.array([0.5, 0.1, 0.9, 0.3, 0.7])
    text = coloured_text(list("abcde"), importance)
    darkness = [-luminance(span.style) for span in text.spans]
    assert np.argsort(darkness).tolist() == np.argsort(importance).tolist()
    assert text.plain == "abcde"
    assert text.spans[1].style == shade(0.0)
    assert text.spans[2].style == shade(1.0)


def test_letters_keep_a_contrast_of_4_5_on_every_of_21_backgrounds():
    def linear(style_colour) -> float:
        channels = [(c / 255) ** 2.2 for c in style_colour.get_truecolor()]
        return 0.2126 * channels[0] + 0.7152 * channels[1] + 0.0722 * channels[2]

    for strength in np.linspace(0, 1, 21).tolist():
        dark, bright = sorted((linear(shade(strength).color), linear(shade(strength).bgcolor)))
        assert (bright + 0.05) / (dark + 0.05) > 4.5


def test_a_terminal_gets_no_control_code_or_markup_of_the_text():
    console = Console(file=StringIO(), force_terminal=True, color_system="truecolor", width=200)
    console.print(coloured_text([*HOSTILE, "[/red]"], np.linspace(0, 1, len(HOSTILE) + 1)))
    output = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert "\x1b[2J" not in output
    plain = re.sub(r"\x1b\[[0-9;]*m", "", output)
    assert "<b>" in plain
    assert "[red]" in plain
    assert "[/red]" in plain
    assert "�[2J" in plain
    assert "↵\n" in plain


def test_equal_importance_is_one_colour_and_ascii_consoles_get_ascii():
    text = coloured_text(["a", "\n", "é"], np.full(3, 0.4), encoding="ascii")
    assert text.plain == "a\\n\n?"
    assert len({str(span.style) for span in text.spans}) == 1
    colour_scale(np.full(3, 0.4), "ascii").plain.encode("ascii")


def test_the_scale_names_the_least_and_the_largest_importance_and_darkens_from_left_to_right():
    scale = colour_scale(np.array([0.123, 0.5, 0.877]))
    assert "0.12" in scale.plain
    assert "0.88" in scale.plain
    shades = [luminance(span.style) for span in scale.spans if span.style.bgcolor]  # type: ignore[union-attr]
    assert shades == sorted(shades, reverse=True)
    assert len(shades) == 24


def test_labels_make_spaces_visible_and_cut_after_14_characters():
    assert label(" the\n") == "␣the↵"
    assert label("") == "∅"
    assert label("\x1b") == "\ufffd"
    assert label("a" * 14) == "a" * 14
    assert label("a" * 15) == "a" * 13 + "…"


def test_every_number_of_the_record_is_in_the_page_once_with_4_decimals():
    stored = record(["a", "b", "<b>"])
    titles = parsed(heatmap(inspected(["a", "b", "<b>"]), 50)).titles
    for n in range(3):
        assert f"clean: importance {stored['importance'][n]:.4f}" in titles
        mean = np.mean([row[n] for row in stored["nll"]])
        assert f"{n + 1}: importance {stored['importance'][n]:.4f}, loss {mean:.4f} nats" in titles
        for k, t in enumerate(stored["times"]):
            title = f"t {t:g}: importance {stored['masked_importance'][k][n]:.4f}, loss {stored['nll'][k][n]:.4f}"
            assert titles.count(title) == 2  # in the block of importance and in that of loss


def test_tokens_that_look_like_html_stay_text():
    html = page(inspected(HOSTILE))
    assert "<b>" not in html
    assert "&lt;b&gt;" in html
    assert html.count("</pre>") == 1
    assert "&lt;run&gt;" in html
    assert "\x1b" not in html
    text = parsed(html).text
    assert '<b>&amp;"x"[red]' in text
    html.encode()  # no half character is left


def test_the_page_makes_0_requests_and_names_every_id_once():
    html = page(inspected(["a"] * 40))
    assert not re.search(r"<(script|link|iframe|img|object|embed|base)\b", html)
    assert not re.search(r"@import|url\((?!#)", html)
    assert "http://" not in html
    assert "https://" not in html
    ids = re.findall(r'\bid="([^"]*)"', html)
    assert len(ids) == len(set(ids)) > 10
    assert "0.43 (Pearson)" in html


def test_of_130_tokens_a_heatmap_of_50_says_that_it_is_the_beginning():
    found = inspected(["a"] * 130)
    text = parsed(page(found)).text
    assert "The first 50 of 130 tokens." in text
    assert "And 30 more tokens." in text
    assert "first" not in heatmap(found, 130)


def test_bands_hold_at_most_64_letters_and_words_break_sooner():
    assert heatmap(inspected(["a"] * 130), 130).count("<table>") == 3
    assert heatmap(inspected(["twelve chars"] * 20), 130).count("<table>") == 3  # 7 words of 12 letters are 84
    assert MAX_BAND_TOKENS == 64


def test_the_picture_of_130_letters_is_3_bands_of_one_size_and_1140_pixels_wide(tmp_path: Path):
    sizes = []
    for num_tokens in (3, 64, 65, 130):
        figure = heatmap_picture(inspected(["a"] * num_tokens), 512)
        figure.savefig(tmp_path / "heatmap.png", dpi=150)
        sizes.append(imread(tmp_path / "heatmap.png").shape)
    assert [width for _, width, _ in sizes] == [1140] * 4
    heights = [height for height, _, _ in sizes]
    assert heights[0] == heights[1]
    assert heights[3] - heights[2] == pytest.approx(heights[2] - heights[1], abs=1)
    assert (heights[2] - heights[1]) / 150 == pytest.approx(0.17 + 7 * 0.105 + 0.18, abs=0.02)


def test_a_picture_is_drawn_of_any_token_without_a_warning(tmp_path: Path):
    figure = heatmap_picture(inspected(HOSTILE * 9), 100)
    figure.savefig(tmp_path / "heatmap.png")
    drawn = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert "$x$" in drawn
    assert "▯" in drawn  # the font has no 日
    assert "8 more tokens" in [text.get_text() for text in figure.texts]


def test_the_picture_shows_the_numbers_as_they_are():
    found = inspected(["a", "b", "c", "d"])
    figure = heatmap_picture(found, 10)
    blocks = [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.texts or axes.get_yticks().size]
    assert np.array_equal(blocks[0], np.concatenate([found.importance[None], found.masked_importance]))
    assert np.array_equal(blocks[1], found.nll)
    names = [tick.get_text() for axes in figure.axes for tick in axes.get_yticklabels()]
    assert names == ["clean", "t 0.1", "t 0.5", "t 0.9", "t 0.1", "t 0.5", "t 0.9"]


def test_1_token_is_easy_and_hard_at_once():
    assert near_percentile(np.array([0]), 10).tolist() == near_percentile(np.array([0]), 90).tolist() == [0]
    assert near_percentile(np.arange(3), 90).tolist() == [2]
    assert set(figures(inspected(["a"]))) == {"against_loss", "mask_rate"}


@pytest.mark.parametrize(
    "field", ["texts", "importance", "times", "masked_importance", "nll", "mask_rate", "correlation"]
)
@pytest.mark.parametrize("value", [None, [], [["a"]], 3, {}])
def test_a_record_with_any_of_7_fields_wrong_is_refused(field: str, value: object):
    with pytest.raises(ValueError, match=r".+"):
        InspectedText.from_record(record(["a", "b"]) | {field: value})


def test_a_correlation_that_is_not_there_is_nan():
    found = inspected(["a", "b"])
    assert found.pearson == 0.4321
    assert np.isnan(found.spearman)
