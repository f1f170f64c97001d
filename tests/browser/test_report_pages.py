"""The report of a run and the page of an experiment, as a browser lays them out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from experiment_toys import results
from test_experiment_page import bench, html_of, inspection
from test_report import atat_run, run  # noqa: F401  (fixtures)
from visits import DESKTOP, PHONE

from mdlm_atat.report.report import write_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# Pixels of the letters of every text that is seen, with the scale of the picture that it is in.
LETTERS = """() => {
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const one = walker.currentNode.parentElement;
        if (!walker.currentNode.textContent.trim() || !one.checkVisibility()) continue;
        const scale = one.closest("svg") ? Math.hypot(one.getScreenCTM().a, one.getScreenCTM().b) : 1;
        found.push([parseFloat(getComputedStyle(one).fontSize) * scale, walker.currentNode.textContent.trim()]);
    }
    return found;
}"""
# Texts of a picture that are cut off by its edge, or lie over each other.
CLASHES = """() => {
    const found = [];
    for (const svg of document.querySelectorAll("figure svg")) {
        const edge = svg.getBoundingClientRect();
        const texts = [...svg.querySelectorAll("text")].filter((one) => one.textContent.trim());
        const boxes = texts.map((one) => one.getBoundingClientRect());
        boxes.forEach((box, index) => {
            const name = texts[index].textContent.trim();
            if (box.left < edge.left - 2 || box.right > edge.right + 2 || box.top < edge.top - 2
                || box.bottom > edge.bottom + 2) found.push(`${name} is cut off`);
            boxes.slice(index + 1).forEach((other, later) => {
                const wide = Math.min(box.right, other.right) - Math.max(box.left, other.left);
                const high = Math.min(box.bottom, other.bottom) - Math.max(box.top, other.top);
                const [least, lowest] = [Math.min(box.width, other.width), Math.min(box.height, other.height)];
                const below = texts[index + 1 + later].textContent.trim();
                if (wide > 0.4 * least && high > 0.4 * lowest) found.push(`${name} / ${below}`);
            });
        });
    }
    return found;
}"""


@pytest.fixture(params=["run", "experiment"])
def page_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A page with every picture that there is."""
    if request.param == "run":
        return write_report(request.getfixturevalue("atat_run"))
    content = results()
    stored = next(one for one in content["runs"] if one["arm"] == "atat")
    stored |= {"inspection": "inspection.json", "sampler_bench": "bench.json"}
    (tmp_path / "inspection.json").write_text(json.dumps(inspection()))
    (tmp_path / "bench.json").write_text(json.dumps(bench()))
    html_of(content, tmp_path)
    return tmp_path / "report.html"


def test_on_a_phone_nothing_scrolls_sideways_and_letters_have_12_pixels(browser: Browser, page_file: Path) -> None:
    page = browser.new_page(viewport={"width": PHONE["width"], "height": PHONE["height"]}, is_mobile=True)
    page.goto(page_file.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    assert sorted(found for found in page.evaluate(LETTERS) if found[0] < 12) == []
    page.close()


@pytest.mark.parametrize("viewport", [PHONE, DESKTOP])
def test_no_text_of_a_picture_is_cut_off_or_over_another(
    browser: Browser, page_file: Path, viewport: dict[str, int]
) -> None:
    page = browser.new_page(viewport={"width": viewport["width"], "height": viewport["height"]})
    page.goto(page_file.as_uri())
    assert page.evaluate(CLASHES) == []
    page.close()


def test_samples_come_before_every_number_and_picture(browser: Browser, page_file: Path) -> None:
    page = browser.new_page()
    page.goto(page_file.as_uri())
    first = "[...document.querySelectorAll('pre, dl, table, figure')][0].tagName"
    assert page.evaluate(first) == "PRE"
    assert page.locator("h2").first.inner_text().startswith("Samples")
    page.close()
