"""The page and the server together, with a model."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from actions import fill, problem, wait_for_the_end, word, words, write
from visits import Visit

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny_runs import train, write_text

    folder = tmp_path_factory.mktemp("served")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATAT_CACHE", str(folder / "cache"))
        text = write_text(folder / "text.txt")
        assert train(text, folder / "two_ways", objective__causal_share=0.5, data__length=32) == 0
    return folder / "two_ways"


@pytest.fixture
def server(model: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    command = [sys.executable, "-m", "mdlm_atat", "serve", str(model), "--port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield next(part for part in line.split() if part.startswith("http")), process
        process.kill()


def test_a_model_fills_keeps_writes_on_and_scores_on_the_page(
    browser: Browser, server: tuple[str, subprocess.Popen[str]], model: Path
) -> None:
    from mdlm_atat import load_lm

    url, process = server
    visit = Visit(browser, url)
    page = visit.page
    assert page.locator("#about").inner_text().startswith("two_ways: ")
    write(page, "the ⟦3⟧ sat on ⟦2–4⟧ mat")
    page.fill("#seed", "5")
    fill(page)
    made = words(page)
    assert made.startswith("the ")
    assert made.endswith(" mat")
    assert page.locator("#choices .choice .nats").count() == 3
    python = page.locator("#fill [data-repeat=python]").text_content() or ""
    call = next(line for line in python.splitlines() if "lm.infill" in line)
    lm = load_lm(model, device="cpu", precision="float32")
    (first, *_) = eval(call.removeprefix("for text in ").removesuffix(":"), {"lm": lm})
    assert first.text == made
    page.click("#score")
    page.wait_for_selector("[data-progress=fill]:has-text('The text costs')")
    word(page, "sat").click()
    assert words(page).endswith(" mat")
    page.click("#tab-write")
    page.fill("#prompt", "the old man ")
    page.locator("#max-tokens").fill("0")
    for order in ("left to right", "any order"):
        page.get_by_label(order).check()
        page.click("#run-write")
        wait_for_the_end(page, "write")
        assert page.locator("#written").inner_text().startswith("the old man ")
    assert visit.said == []
    assert visit.strangers() == []
    process.kill()
    process.wait()
    page.click("#tab-fill")
    page.keyboard.press("Control+Enter")
    assert problem(page) == "The server does not answer. Is atat serve still running?"
    visit.close()


def test_the_files_of_the_page_come_with_the_package() -> None:
    from importlib.resources import files

    folder = files("mdlm_atat.serve") / "page"
    html = (folder / "index.html").read_text("utf-8")
    assert 'src="page.js"' in html
    names = {file.name for file in folder.iterdir()}
    assert {"page.js", "page.css", "text.js", "events.js", "canvas.js", "player.js", "maker.js"} <= names
