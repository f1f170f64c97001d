import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageColor

from mdlm_atat.errors import UserError
from mdlm_atat.report.animation import (
    ACCENT,
    AGAIN,
    COLUMNS,
    LINE_PX,
    MARGIN_PX,
    PAPER,
    Reveal,
    check_animation_path,
    write_animation,
)

HOSTILE = [
    "<b>",
    "&amp;",
    "'\"`",
    "</script>",
    "</pre>",
    "<!--",
    "\x1b[2J",
    "日",
    "😀",
    "\ud800",
    "\n",
    "\t",
    "",
    "e\u0301",
]
CHROMIUM = shutil.which("chromium")
CELL_PX = 9
M = -1  # a mask


def reveal(frames: Any, vocabulary: list[str] | None = None, num_fixed: int = 0, **changed: Any) -> Reveal:
    frames = np.asarray(frames, dtype=np.int64)
    num_steps, length = len(frames) - 1, frames.shape[1]
    fixed = np.arange(length) < num_fixed
    what = {
        "title": "a <title>",
        "frames": frames,
        "mask_id": M,
        "token_text": lambda _, token: (vocabulary or [chr(ord("a") + k) for k in range(26)])[token],
        "fixed": fixed,
        "confidence": np.where(fixed, np.nan, 0.5),
        "entropy": np.linspace(2, 1, num_steps),
        "importance": None,
        "nfe": 37,
        "settings": {"sampler": "a & b"},
    }
    return Reveal(**(what | changed))


def random_frames(num_steps: int, length: int, seed: int = 0) -> np.ndarray:
    """Tokens come, go and change as if there were no rule."""
    rng = np.random.default_rng(seed)
    frames = [np.full(length, M)]
    for _step in range(num_steps):
        frames.append(np.where(rng.random(length) < 0.3, rng.integers(M, 5, length), frames[-1]))
    return np.array(frames)


class Page(HTMLParser):
    """The spans of the text as (class, text), what the script is given, and the names of all elements."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.spans: list[tuple[str, str]] = []
        self.tags: list[str] = []
        self.stored = ""
        self.text = ""
        self._is_in_text = self._is_in_script = self._is_in_data = False
        self.source = file.read_text(encoding="utf-8")
        self.feed(self.source)
        self.data: dict[str, Any] = json.loads(self.stored)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self._is_in_text |= values.get("id") == "text"
        self._is_in_script = tag == "script"
        self._is_in_data = values.get("id") == "reveal"
        if tag == "span" and self._is_in_text:
            self.spans.append((values.get("class") or "", ""))

    def handle_endtag(self, tag: str) -> None:
        self._is_in_text &= tag != "pre"
        self._is_in_script = self._is_in_data = False

    def handle_data(self, data: str) -> None:
        self.text += "" if self._is_in_script else data
        if self._is_in_data:
            self.stored += data
        elif self._is_in_text and self.spans:
            self.spans[-1] = (self.spans[-1][0], self.spans[-1][1] + data)


def page(tmp_path: Path, shown: Reveal) -> Page:
    return Page(write_animation(shown, tmp_path / "reveal.html"))


def gif(tmp_path: Path, shown: Reveal) -> tuple[list[np.ndarray], list[int]]:
    """Pixels of all frames, and how long each is shown."""
    frames, durations_ms = [], []
    with Image.open(write_animation(shown, tmp_path / "reveal.gif")) as image:
        for k in range(getattr(image, "n_frames", 1)):
            image.seek(k)
            frames.append(np.asarray(image.convert("RGB")))
            durations_ms.append(image.info.get("duration", 0))
    return frames, durations_ms


def cell(pixels: np.ndarray, place: int, row: int = 0) -> np.ndarray:
    """The pixels of one character of the text, which starts below the title and an empty line."""
    top, left = MARGIN_PX + (row + 2) * LINE_PX, MARGIN_PX + place * CELL_PX
    return pixels[top : top + LINE_PX - 1, left : left + CELL_PX].reshape(-1, 3)


def has(pixels: np.ndarray, colour: str) -> bool:
    return bool((pixels == ImageColor.getrgb(colour)).all(1).any())


def is_empty(pixels: np.ndarray) -> bool:
    return bool((pixels == ImageColor.getrgb(PAPER)).all())


def background(pixels: np.ndarray) -> tuple[int, ...]:
    """The colour of most of them."""
    colours, counts = np.unique(pixels, axis=0, return_counts=True)
    return tuple(colours[counts.argmax()].tolist())


def replayed(data: dict[str, Any]) -> list[list[str | None]]:
    """The text at every position after every step, None where it is masked."""
    shown: list[str | None] = [None] * len(data["fixed"])
    frames = []
    for flat in data["changes"]:
        for place, index in zip(flat[::2], flat[1::2], strict=True):
            shown[place] = None if index < 0 else data["texts"][index]
        frames.append(list(shown))
    return frames


def test_the_page_shows_every_token_once_and_escapes_markup(tmp_path: Path):
    order = np.random.default_rng(0).permutation(len(HOSTILE) * 3) % len(HOSTILE)
    found = page(tmp_path, reveal([np.full_like(order, M), order], HOSTILE))
    as_shown = {"\x1b[2J": "\ufffd[2J", "\ud800": "\ufffd"}
    assert [text for _, text in found.spans] == [as_shown.get(HOSTILE[k], HOSTILE[k]) for k in order]
    assert replayed(found.data)[-1] == [text for _, text in found.spans]
    assert found.tags.count("script") == 2
    assert "b" not in found.tags[found.tags.index("pre") : found.tags.index("aside")]
    assert "<!--" not in found.source
    assert "\x1b" not in found.source
    assert found.text.count("a <title>") == 2
    assert "a & b" in found.text
    assert "37" in found.text


def test_a_remasked_token_disappears_and_comes_back(tmp_path: Path):
    found = page(tmp_path, reveal([[M, M], [0, M], [M, 1], [2, 1]]))
    assert replayed(found.data) == [[None, None], ["a", None], [None, "b"], ["c", "b"]]
    assert found.data["changes"] == [[], [0, 0], [0, -1, 1, 1], [0, 2]]
    assert "masked again" in found.text
    assert "masked again" not in page(tmp_path, reveal([[M, M], [0, M], [0, 1]])).text


@pytest.mark.parametrize("seed", range(5))
def test_replaying_what_changed_gives_each_of_30_frames(seed: int, tmp_path: Path):
    frames = random_frames(30, 50, seed)
    expected = [[None if token == M else chr(ord("a") + token) for token in row] for row in frames.tolist()]
    assert replayed(page(tmp_path, reveal(frames)).data) == expected


def test_a_page_of_1000_steps_stores_each_of_1000_tokens_once(tmp_path: Path):
    order = np.random.default_rng(0).permutation(1000)
    frames = np.where(order < np.arange(1001)[:, None], order % 26, M)  # (steps + 1, L)
    found = page(tmp_path, reveal(frames))
    assert sum(len(flat) for flat in found.data["changes"]) == 2 * 1000
    assert len(found.source) < 120_000  # the frames are a million tokens


def test_without_javascript_the_page_shows_the_final_text_its_masks_and_what_was_given(tmp_path: Path):
    confidence = np.array([np.nan, 0.25, 1.0, np.nan])
    found = page(tmp_path, reveal([[0, M, M, M], [0, 1, 2, M]], num_fixed=1, confidence=confidence))
    assert found.spans == [("given", "a"), ("", "b"), ("", "c"), ("mask", "░")]
    assert re.findall(r'style="--v:([\d.]+)"', found.source) == ["0.75"]
    for control in ("player", "modes", "course"):
        assert re.search(rf'id="{control}" hidden', found.source)


def test_numbers_that_are_not_known_are_null_and_the_others_have_4_decimals(tmp_path: Path):
    shown = reveal(
        [[0, M], [0, M], [0, 1]],
        num_fixed=1,
        confidence=np.array([np.nan, 0.123456]),
        entropy=np.array([np.nan, 1.23456]),
        importance=np.array([0.98765, 0.0]),
    )
    data = page(tmp_path, shown).data
    assert data["fixed"] == [1, 0]
    assert data["confidence"] == [None, 0.1235]
    assert data["entropy"] == [None, 1.2346]
    assert data["importance"] == [0.9877, 0.0]


def test_importance_and_entropy_are_offered_only_where_they_are_known(tmp_path: Path):
    frames = [[M, M], [0, M], [0, 1]]
    known = page(tmp_path, reveal(frames, importance=np.array([0.1, 0.2])))
    assert 'value="importance"' in known.source
    assert 'id="entropy"' in known.source
    unknown = page(tmp_path, reveal(frames, entropy=np.full(2, np.nan)))
    assert 'value="importance"' not in unknown.source
    assert 'id="entropy"' not in unknown.source
    assert unknown.data["importance"] is None


def test_the_page_makes_0_requests(tmp_path: Path):
    source = page(tmp_path, reveal(random_frames(3, 5))).source
    assert "default-src 'none'" in source
    assert not re.search(r"<(link|iframe|img|object|embed|base)\b|\bsrc=|@import|url\(|https?://|fetch\(", source)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium to open the page in")
def test_a_browser_steps_plays_colours_and_tells_of_each_token(tmp_path: Path):
    shown = reveal(
        [[3, M, M, M], [3, 0, M, M], [3, M, 10, M], [3, 2, 10, 11]],
        vocabulary=[*"abc<", *["?"] * 6, "\n", "</script>"],
        num_fixed=1,
        confidence=np.array([np.nan, 0.25, 0.5, 1.0]),
        importance=np.array([0.1, 0.2, 0.3, 0.4]),
    )
    file = write_animation(shown, tmp_path / "reveal.html")
    script = """
    const seen = {};
    const looks = (span) => [span.textContent, span.className, span.style.getPropertyValue("--v")];
    const look = (name) => { seen[name] = [step, ...spans.map(looks)]; };
    const press = (key) => document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
    const tell = (i) => {
      spans[i].dispatchEvent(new MouseEvent("mouseover", { bubbles: true }));
      return tip.textContent;
    };
    look("end");
    seen.final = tell(1);
    press("ArrowRight"); press("ArrowLeft"); look("left");
    seen.again = tell(1); seen.given = tell(0);
    slider.value = 1; slider.dispatchEvent(new Event("input")); look("slider");
    seen.passing = tell(1);
    press("ArrowRight"); look("right");
    document.querySelector("[value=importance]").click(); look("importance");
    document.querySelector("[value=step]").click(); look("step");
    seen.revealed = document.getElementById("revealed").textContent;
    seen.line = document.getElementById("revealed-line").getAttribute("d");
    seen.now = document.querySelector("line.now").getAttribute("x1");
    draw(3); press(" "); seen.label = play.textContent; seen.restarted = step;
    setTimeout(() => {
      seen.played = step; seen.stopped = play.textContent;
      document.body.innerHTML = "<pre id=seen></pre>";
      document.getElementById("seen").textContent = "SEEN" + JSON.stringify(seen) + "SEEN";
    }, 6 * frameMs);
    """
    file.write_text(file.read_text().replace("</body>", f"<script>{script}</script></body>"))
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    command = [str(CHROMIUM), *flags.split(), "--disable-component-update", "--disable-sync"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=8000", "--dump-dom", file.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    seen = json.loads(dom.split("SEEN")[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))

    given, mask = ["<", "given", "0.000"], ["░", "mask", "0.000"]
    assert seen["end"] == [3, given, ["c", "new", "0.750"], ["\n", "", "0.500"], ["</script>", "new", "0.000"]]
    assert seen["left"] == [2, given, ["▒", "again", "0.000"], ["\n", "new", "0.500"], mask]
    assert seen["slider"] == [1, given, ["a", "passing new", "0.000"], mask, mask]
    assert seen["right"] == seen["left"]
    assert [span[2] for span in seen["importance"][1:]] == ["0.100", "0.000", "0.300", "0.000"]
    assert [span[2] for span in seen["step"][1:]] == ["0.000", "0.000", "0.667", "0.000"]
    assert seen["final"].split("\n") == ["“c”", "set in step 3", "confidence 0.250", "importance 0.200"]
    assert seen["again"].split("\n") == ["masked again in step 2, was “a”", "importance 0.200"]
    assert seen["given"].split("\n") == ["“<”", "given", "importance 0.100"]
    assert "confidence not known" in seen["passing"].split("\n")
    assert seen["revealed"] == "1"
    assert re.findall(r"[ML]([\d.]+ [\d.]+)", seen["line"]) == [
        "0.00 100.00",
        "33.33 66.67",
        "66.67 66.67",
        "100.00 0.00",
    ]
    assert float(seen["now"]) == pytest.approx(200 / 3)
    assert (seen["label"], seen["restarted"]) == ("❚❚ Pause", 0)
    assert (seen["played"], seen["stopped"]) == (3, "▶ Play")


def test_the_gif_has_first_and_last_frame_and_at_most_60(tmp_path: Path):
    frames = np.where(np.arange(40) * 5 < np.arange(201)[:, None], 0, M)  # one more every 5 steps
    images, durations_ms = gif(tmp_path, reveal(frames, ["█"], confidence=np.ones(40)))
    num_shown = [sum(cell(image, place).mean() < 100 for place in range(40)) for image in images]
    assert len(images) == 60
    assert (num_shown[0], num_shown[-1]) == (0, 40)
    assert max(np.diff(num_shown)) == 1  # evenly spaced
    assert durations_ms[-1] == 2000
    assert set(durations_ms[:-1]) == {100}


def test_a_gif_of_5_steps_has_6_frames_and_one_of_0_steps_has_1(tmp_path: Path):
    images, durations_ms = gif(tmp_path, reveal(np.tril(np.ones((6, 5), dtype=np.int64), -1) - 1))
    assert len(images) == 6
    assert durations_ms == [500] * 5 + [2000]
    only = reveal([[0, 1]], num_fixed=2)
    assert len(gif(tmp_path, only)[0]) == 1
    assert page(tmp_path, only).spans == [("given", "a"), ("given", "b")]


def test_a_gif_colours_doubt_outlines_what_is_new_and_marks_what_is_masked_again(tmp_path: Path):
    shown = reveal(
        [[0, M, M, M], [0, 0, 0, 0], [0, 0, 0, M], [0, 0, 0, 0]],
        ["."],
        num_fixed=1,
        confidence=np.array([np.nan, 1.0, 0.0, 0.0]),
    )
    (start, first, second, third), _durations = gif(tmp_path, shown)
    white = ImageColor.getrgb(PAPER)
    doubtful = background(cell(third, 2))
    assert [background(cell(third, k)) for k in range(4)] == [white, white, doubtful, doubtful]
    assert doubtful == (236, 183, 64)  # three quarters of the way from white to #e69f00
    assert background(cell(first, 3)) == white  # the confidence is that of step 3
    assert [has(cell(first, k), ACCENT) for k in range(4)] == [False, True, True, True]
    assert [has(cell(second, k), ACCENT) for k in range(4)] == [False] * 4
    assert [has(cell(third, k), ACCENT) for k in range(4)] == [False, False, False, True]
    assert [has(cell(second, k), AGAIN) for k in range(4)] == [False, False, False, True]
    assert not any(has(cell(start, k), AGAIN) for k in range(4))
    scale = [background(cell(start, len("confidence 0 ") + k, row=2)) for k in range(9)]  # the last row: the legend
    assert (scale[0], scale[-1]) == (doubtful, white)
    assert len(set(scale)) == 9
    assert (cell(start, 0) < 128).sum() > (cell(third, 1) < 128).sum()  # what is given is bold


def test_a_gif_wraps_after_72_columns_and_starts_a_line_at_a_line_end(tmp_path: Path):
    final = np.array([0] * (COLUMNS + 1) + [1, 0, 2])
    images, _durations = gif(tmp_path, reveal([np.full_like(final, M), final], ["█", "\n", "████\n\n█"]))
    in_row = [sum(cell(images[-1], place, row).mean() < 100 for place in range(COLUMNS)) for row in range(5)]
    assert in_row == [72, 1, 5, 0, 1]


def test_a_gif_is_drawn_of_any_token_and_its_legend_fits_its_width(tmp_path: Path):
    final = np.arange(1, len(HOSTILE) + 1)
    frames = [np.where(final == 1, 1, M), final, np.where(final == 2, M, final), final]
    vocabulary = ["", *HOSTILE]
    images, _durations = gif(tmp_path, reveal(frames, vocabulary, num_fixed=1, title="<\n" * 100))
    assert len(images) == 4
    for image in images:
        assert image.shape[1] == 2 * MARGIN_PX + COLUMNS * CELL_PX
        assert is_empty(image[-MARGIN_PX:])  # nothing is left for another line
        assert not is_empty(image[-MARGIN_PX - LINE_PX : -MARGIN_PX])


@pytest.mark.parametrize(
    "name", ["reveal.png", "reveal", "reveal.html.txt", ".gif", "folder.html", "missing/reveal.gif"]
)
def test_a_path_that_is_neither_gif_nor_html_is_refused(name: str, tmp_path: Path):
    (tmp_path / "folder.html").mkdir()
    path = tmp_path / name
    with pytest.raises(UserError, match=re.escape(str(path))):
        check_animation_path(path)
    with pytest.raises(UserError):
        write_animation(reveal([[M], [0]]), path)
    assert [file.name for file in tmp_path.rglob("*")] == ["folder.html"]


@pytest.mark.parametrize("name", ["reveal.gif", "REVEAL.HTML"])
def test_an_interrupted_write_leaves_the_old_file_alone(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupt(*_arguments: object) -> None:
        raise KeyboardInterrupt

    path = tmp_path / name
    check_animation_path(path)
    assert write_animation(reveal([[M], [0]]), path) == path
    old = path.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_animation(reveal([[M], [1]]), path)
    assert path.read_bytes() == old
    assert [file.name for file in tmp_path.iterdir()] == [name]
    write_animation(reveal([[M], [1]]), path)
    assert path.read_bytes() != old
