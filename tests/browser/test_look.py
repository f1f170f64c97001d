from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from actions import fill, wait_for_the_end, word, words, write

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page
    from stand_in import Script, StandIn

FITS = "document.documentElement.scrollWidth <= innerWidth"
SCHEMES = ("light", "dark")

# The contrast (WCAG 2.1) of every text that is seen, against what is behind it.
CONTRASTS = """() => {
    const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const over = (below, colour) => {
        canvas.fillStyle = below;
        canvas.fillRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        const [r, g, b] = canvas.getImageData(0, 0, 1, 1).data;
        return `rgb(${r} ${g} ${b})`;
    };
    const light = (colour) => {
        const parts = colour.match(/\\d+/g).map((value) => value / 255);
        const [r, g, b] = parts.map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (one) => {
        const parts = [];
        for (let at = one; at; at = at.parentElement) parts.unshift(getComputedStyle(at).backgroundColor);
        return parts.reduce(over, "white");
    };
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const one = walker.currentNode.parentElement;
        if (!walker.currentNode.textContent.trim() || !one.checkVisibility() || one.closest(".away, option")) continue;
        if (one.matches(":disabled")) continue;
        const back = behind(one);
        const front = over(back, getComputedStyle(one).color);
        const [high, low] = [light(front), light(back)].sort((a, b) => b - a);
        found.push([(high + 0.05) / (low + 0.05), walker.currentNode.textContent.trim(), one.className]);
    }
    return found;
}"""


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_text_has_a_contrast_of_at_least_4_5(browser: Browser, stand_in: StandIn, scheme: str) -> None:
    from visits import Visit

    visit = Visit(browser, stand_in.url, color_scheme=scheme)
    page = visit.page
    fill(page)
    for tint in ("none", "confidence", "importance"):
        page.locator("#fill [data-player=tint]").select_option(tint)
        for step in ("0", "3", "6"):
            page.locator("#fill [data-player=slider]").fill(step)
            page.wait_for_timeout(300)
            check_contrasts(page)
    word(page, "autumn").click()
    page.click("#fill .repeat summary")
    page.locator("#words .handle").first.click()
    check_contrasts(page)
    page.keyboard.press("Escape")
    page.click("#help-button")
    check_contrasts(page)
    visit.close()


def check_contrasts(page: Page) -> None:
    found = page.evaluate(CONTRASTS)
    assert len(found) > 30
    assert [row for row in found if row[0] < 4.5] == []


def test_the_two_schemes_differ(browser: Browser, stand_in: StandIn) -> None:
    from visits import Visit

    papers = []
    for scheme in SCHEMES:
        visit = Visit(browser, stand_in.url, color_scheme=scheme)
        papers.append(visit.page.evaluate("getComputedStyle(document.body).backgroundColor"))
        visit.close()
    assert papers[0] != papers[1]


def test_colour_is_never_the_only_sign(page: Page) -> None:
    fill(page)
    page.locator("#fill [data-player=tint]").select_option("confidence")
    lines = page.locator("#words .word [data-tint]").evaluate_all(
        "all => all.map(one => [one.dataset.tint, getComputedStyle(one).textDecoration.replace(/rgb.*/, '')])"
    )
    styles = dict(lines)
    assert len(styles) == 5
    assert len(set(styles.values())) == 5
    word(page, "silent").click()
    assert word(page, "silent").evaluate("one => getComputedStyle(one).textDecorationStyle") == "solid"
    assert word(page, "silent").evaluate("one => getComputedStyle(one, '::after').maskImage").startswith("url")


def test_nothing_is_wider_than_a_phone(phone: Page, script: Script) -> None:
    script.words = ["Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichen", "dark", "x" * 80]
    assert phone.evaluate(FITS)
    fill(phone)
    assert phone.evaluate(FITS)
    phone.locator("#fill [data-player=tint]").select_option("confidence")
    phone.locator("#fill .repeat summary").click()
    phone.locator("#settings summary").click()
    assert phone.evaluate(FITS)
    write(phone, "x" * 500 + " ⟦20⟧ " + "👩‍👩‍👧‍👦" * 40)
    assert phone.evaluate(FITS)
    assert phone.evaluate(
        "document.getElementById('words').scrollWidth <= document.getElementById('words').clientWidth"
    )
    phone.click("#tab-write")
    phone.click("#run-write")
    wait_for_the_end(phone, "write")
    assert phone.evaluate(FITS)
    phone.click("#help-button")
    assert phone.evaluate(FITS)


def test_a_gap_is_made_and_set_by_touch(phone: Page) -> None:
    write(phone, "The old lamp had gone out.")
    word(phone, "lamp").tap()
    assert words(phone) == "The old ⟦1⟧ had gone out."
    phone.locator("#words .empty").tap()
    box = phone.locator("#gap-box").bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
    assert box["y"] + box["height"] <= 844
    phone.fill("#gap-size", "4")
    phone.locator("#gap-done").tap()
    assert words(phone) == "The old ⟦4⟧ had gone out."


def test_what_is_touched_on_a_phone_is_large_enough(phone: Page) -> None:
    fill(phone)
    small = phone.evaluate(
        """() => [...document.querySelectorAll("button, select, summary, input:not([type=radio], [type=checkbox])")]
            .filter((one) => one.checkVisibility())
            .filter((one) => one.getBoundingClientRect().height < 24 || one.getBoundingClientRect().width < 24)
            .map((one) => one.outerHTML)"""
    )
    assert small == []


def test_who_wants_less_motion_sees_the_end_at_once(browser: Browser, stand_in: StandIn) -> None:
    from visits import Visit

    stand_in.script.frame_s = 0.05
    visit = Visit(browser, stand_in.url)
    page = visit.page
    page.evaluate(
        """() => {
            window.steps = new Set();
            const box = document.querySelector("#fill [data-player=step]");
            new MutationObserver(() => window.steps.add(box.textContent)).observe(box, { childList: true });
        }"""
    )
    fill(page)
    assert page.evaluate("[...window.steps]") == ["step 0 of 6", "step 6 of 6"]
    visit.close()
