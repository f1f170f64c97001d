from __future__ import annotations

from typing import TYPE_CHECKING

from actions import fill, problem, words

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page
    from stand_in import Script, StandIn
    from visits import Visit

OPENING = "It was a ⟦3⟧ night, and the ⟦1⟧ in the ⟦2⟧ had gone out."


def test_a_mistake_is_one_readable_line_and_the_text_stays(visit: Visit, script: Script) -> None:
    script.complaint = (400, "the template's gaps can be 8,000 combinations\n  of lengths: <b>give</b> narrower ranges")
    visit.page.click("#run-fill")
    assert problem(visit.page) == (
        "the template's gaps can be 8,000 combinations of lengths: <b>give</b> narrower ranges"
    )
    assert words(visit.page) == OPENING
    script.complaint = None
    fill(visit.page)
    assert not visit.page.locator("#problem").is_visible()
    visit.said.remove(visit.said[0])  # the browser's own line about status 400


def test_a_server_that_is_gone_is_named_and_can_come_back(browser: Browser, stand_in: StandIn) -> None:
    from visits import Visit

    visit = Visit(browser, stand_in.url)
    visit.page.context.set_offline(True)
    visit.page.click("#run-fill")
    assert problem(visit.page) == "The server does not answer. Is atat serve still running?"
    assert words(visit.page) == OPENING
    visit.page.context.set_offline(False)
    fill(visit.page)
    assert not visit.page.locator("#problem").is_visible()
    visit.close()


def test_a_connection_that_breaks_is_named_and_not_taken_up_again(
    browser: Browser, stand_in: StandIn, script: Script
) -> None:
    from visits import Visit

    script.broken_after = 3
    visit = Visit(browser, stand_in.url)
    visit.page.click("#run-fill")
    assert problem(visit.page) == "The connection broke before the end. Is atat serve still running?"
    assert words(visit.page) == OPENING
    visit.page.wait_for_timeout(1000)
    assert len(script.bodies("/v1/infill")) == 1
    visit.close()


def test_a_filling_is_asked_for_once_and_not_again_4_seconds_after_its_end(page: Page, script: Script) -> None:
    fill(page)
    page.wait_for_timeout(4000)  # EventSource would ask again after 3
    assert len(script.bodies("/v1/infill")) == 1


def test_stop_closes_the_connection_and_gives_the_text_back(page: Page, script: Script) -> None:
    fill(page)
    before = words(page)
    script.held_after = 2
    page.click("#run-fill")
    page.wait_for_selector("#run-fill >> text=Stop")
    page.wait_for_selector("#words .hidden")
    page.click("#run-fill")
    assert script.cut_off.wait(5)
    assert words(page) == before


def test_leaving_the_page_closes_the_connection(page: Page, script: Script) -> None:
    script.held_after = 2
    page.click("#run-fill")
    page.wait_for_selector("#words .hidden")
    page.goto("about:blank")
    assert script.cut_off.wait(5)


def test_changing_the_text_while_it_is_filled_stops_the_filling(page: Page, script: Script) -> None:
    script.held_after = 2
    page.click("#run-fill")
    page.wait_for_selector("#words .hidden")
    page.locator("#words .word").first.click()
    assert script.cut_off.wait(5)
    assert words(page) == "⟦1⟧ was a ⟦3⟧ night, and the ⟦1⟧ in the ⟦2⟧ had gone out."


def test_a_text_without_gaps_is_not_sent(page: Page, script: Script) -> None:
    page.click("#edit")
    page.fill("#source", "Nothing is missing.")
    page.click("#run-fill")
    assert problem(page) == "There is no gap to fill: click a word to make one."
    page.click("#edit")
    page.fill("#source", "")
    page.click("#run-fill")
    assert problem(page) == "There is no text yet: edit it first."
    assert script.bodies("/v1/infill") == []


def test_nothing_is_stored_in_the_browser(page: Page) -> None:
    fill(page)
    assert page.context.cookies() == []
    assert page.evaluate("localStorage.length + sessionStorage.length") == 0


def test_the_token_of_the_address_goes_with_every_request_and_into_no_address(
    browser: Browser, stand_in: StandIn, script: Script
) -> None:
    from visits import Visit

    visit = Visit(browser, f"{stand_in.url}#token=a%2Bb")
    fill(visit.page)
    assert script.tokens == ["Bearer a+b"] * 2
    assert not any("a+b" in path or "a%2Bb" in path for path, _ in script.asked)
    script.complaint = (401, "no token")
    visit.page.click("#run-fill")
    assert problem(visit.page) == "The server asks for its token: open the whole address that atat serve printed."
    visit.close()
