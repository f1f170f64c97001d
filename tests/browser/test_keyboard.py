from __future__ import annotations

from typing import TYPE_CHECKING

from actions import step, wait_for_the_end, words, write

if TYPE_CHECKING:
    from playwright.sync_api import Page
    from stand_in import Script

FOCUSED = "document.activeElement.id || document.activeElement.textContent"


def tab_to(page: Page, name: str) -> None:
    """Press Tab until what has this id, text or label has the focus."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if name in page.evaluate(f"[{FOCUSED}, document.activeElement.getAttribute('aria-label') ?? '']"):
            return
    raise AssertionError(f"Tab does not come to {name}")


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def test_all_of_a_fill_is_done_with_the_keyboard_alone(page: Page, script: Script) -> None:
    write(page, "The old lamp had gone out.")
    page.evaluate("document.activeElement.blur()")
    tab_to(page, "The")
    press(page, "ArrowRight", "Enter")
    assert words(page) == "The ⟦1⟧ lamp had gone out."
    press(page, "+", "+")
    assert words(page) == "The ⟦3⟧ lamp had gone out."
    press(page, "ArrowRight", "ArrowRight", "Shift+ArrowRight", "Enter")
    assert words(page) == "The ⟦3⟧ lamp ⟦2⟧ out."
    press(page, "Control+Enter")
    wait_for_the_end(page)
    assert words(page) == "The moonless autumn silent lamp dark cold out."
    press(page, "Home", "ArrowRight", "Enter")  # keeps the first word that was filled in
    press(page, "Control+Enter")
    wait_for_the_end(page)
    assert script.bodies("/v1/infill")[1]["text"] == "The moonless [MASK:2] lamp [MASK:2] out."
    tab_to(page, "Steps")
    press(page, "Home")
    assert step(page) == "step 0 of 4"
    press(page, "ArrowRight")
    assert step(page) == "step 1 of 4"
    tab_to(page, "copy-fill")
    press(page, "Enter")
    page.wait_for_selector("#copy-fill >> text=Copied")


def test_a_gap_is_opened_set_and_removed_with_the_keyboard(page: Page) -> None:
    page.locator("#words [data-stop]").first.focus()
    press(page, "ArrowRight", "ArrowRight", "ArrowRight", "Enter")
    assert page.evaluate(FOCUSED) == "gap-size"
    press(page, "ArrowRight", "Enter")
    assert words(page).startswith("It was a ⟦4⟧ night")
    assert page.evaluate(FOCUSED) == "4"
    press(page, "Delete")
    assert words(page).startswith("It was a night")
    press(page, "Control+z")
    assert words(page).startswith("It was a ⟦4⟧ night")


def test_arrow_keys_go_up_and_down_by_lines(page: Page) -> None:
    write(page, "one two three\nfour five six\nseven eight nine")
    page.locator("#words .word >> text=five").focus()
    press(page, "ArrowDown")
    assert page.evaluate(FOCUSED) == "eight"
    press(page, "ArrowUp", "ArrowUp")
    assert page.evaluate(FOCUSED) == "two"


def test_arrow_keys_go_the_way_that_the_text_runs(page: Page) -> None:
    write(page, "שלום עולם טוב")
    page.locator("#words .word").first.focus()
    press(page, "ArrowLeft")
    assert page.evaluate(FOCUSED) == "עולם"


def test_tabs_are_changed_with_arrow_keys(page: Page) -> None:
    page.focus("#tab-fill")
    press(page, "ArrowRight")
    assert page.evaluate(FOCUSED) == "tab-write"
    assert page.locator("#write").is_visible()
    assert not page.locator("#fill").is_visible()


def test_escape_stops_and_f2_edits(page: Page, script: Script) -> None:
    script.held_after = 2
    page.locator("#words .word").first.focus()
    press(page, "Control+Enter")
    page.wait_for_selector("#run-fill >> text=Stop")
    press(page, "Escape")
    assert script.cut_off.wait(5)
    assert words(page).startswith("It was a ⟦3⟧ night")
    page.locator("#words .word").first.focus()
    press(page, "F2")
    assert page.evaluate(FOCUSED) == "source"
    page.keyboard.type(" Then ⟦4⟧.")
    press(page, "F2")
    assert words(page) == "It was a ⟦3⟧ night, and the ⟦1⟧ in the ⟦2⟧ had gone out. Then ⟦4⟧."


def test_what_has_the_focus_shows_it(page: Page) -> None:
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    seen = set()
    for _ in range(40):
        press(page, "Tab")
        name = page.evaluate(FOCUSED)
        if page.evaluate("document.activeElement === document.body"):
            break
        seen.add(name)
        assert page.evaluate(outline) == "solid", name
    assert {"tab-fill", "It", "run-fill", "sampler", "seed", "help-button"} <= seen


def test_every_control_has_a_name_and_every_group_a_role(page: Page) -> None:
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, textarea, [role=button], [role=group]")]
            .filter((one) => !one.closest("[hidden], template, [popover], dialog"))
            .filter((one) => !(one.getAttribute("aria-label") || one.getAttribute("aria-labelledby")
                || one.textContent.trim() || one.labels?.length))
            .map((one) => one.outerHTML)"""
    )
    assert nameless == []


def test_help_lists_the_keys(page: Page) -> None:
    page.click("#help-button")
    assert "make a gap of a word" in page.locator("#help").inner_text()
    press(page, "Escape")
    assert not page.locator("#help").is_visible()


def test_what_is_spoken_by_itself_is_the_end_and_mistakes_alone(page: Page) -> None:
    live = page.locator("[role=status], [role=alert], [role=log], [aria-live], output")
    assert live.evaluate_all("all => all.map(one => one.id)") == ["problem", "announcement"]
