from __future__ import annotations

from typing import TYPE_CHECKING

from actions import wait_for_the_end, words

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page
    from stand_in import Script, StandIn


def test_a_prompt_is_written_on_in_the_order_and_length_that_were_set(page: Page, script: Script) -> None:
    page.click("#tab-write")
    page.fill("#prompt", "Once [MASK] upon \\a time ")
    page.get_by_label("left to right").check()
    page.locator("#max-tokens").fill("0")
    page.click("#run-write")
    wait_for_the_end(page, "write")
    (body,) = script.bodies("/v1/generate")
    assert body["prompt"] == "Once [MASK] upon \\a time "
    assert (body["sampler"], body["steps"], body["max_tokens"]) == ("left_to_right", None, 8)
    assert page.locator("#written").inner_text().startswith("Once [MASK] upon \\a time moonless autumn silent")
    page.get_by_label("any order").check()
    page.click("#run-write")
    wait_for_the_end(page, "write")
    assert script.bodies("/v1/generate")[1]["sampler"] is None


def test_what_was_written_goes_on_or_gets_gaps(page: Page) -> None:
    page.click("#tab-write")
    page.fill("#prompt", "So ")
    page.locator("#max-tokens").fill("0")
    page.click("#run-write")
    wait_for_the_end(page, "write")
    text = page.locator("#written").inner_text()
    page.click("#take-over")
    assert page.locator("#fill").is_visible()
    assert words(page) == text
    page.click("#tab-write")
    page.click("#continue")
    assert page.locator("#prompt").input_value() == text


def test_nothing_at_all_can_be_written_on(page: Page, script: Script) -> None:
    page.click("#tab-write")
    page.fill("#prompt", "")
    page.click("#run-write")
    wait_for_the_end(page, "write")
    assert script.bodies("/v1/generate")[0]["prompt"] == ""


def test_there_is_no_tab_for_a_classifier_that_is_not_there(page: Page) -> None:
    assert not page.locator("#tab-classify").is_visible()


def test_a_text_is_classified_with_bars_likeliest_first(browser: Browser, stand_in: StandIn) -> None:
    from visits import Visit

    stand_in.script.classifier = {"labels": ["<b>complaint</b>", "question", "praise"], "text_pair": True}
    visit = Visit(browser, stand_in.url)
    page = visit.page
    page.click("#tab-classify")
    page.fill("#classify-text", "The kettle broke.")
    page.fill("#classify-second", "On the first day.")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#labels li")
    rows = page.locator("#labels li").all_inner_texts()
    assert [row.split("\n") for row in rows] == [
        ["<b>complaint</b>", "50.0 %"],
        ["question", "25.0 %"],
        ["praise", "12.5 %"],
    ]
    assert stand_in.script.bodies("/v1/classify") == [{"texts": [["The kettle broke.", "On the first day."]]}]
    assert visit.said == []
    visit.close()


def test_a_model_of_one_direction_only_writes_on(browser: Browser, stand_in: StandIn) -> None:
    from visits import Visit

    stand_in.script.modes = ("causal",)
    visit = Visit(browser, stand_in.url)
    assert visit.page.locator("#tab-fill").is_disabled()
    assert visit.page.locator("#write").is_visible()
    visit.close()


def test_words_of_a_model_of_letters_are_gaps_of_as_many_tokens(browser: Browser, stand_in: StandIn) -> None:
    from visits import Visit

    stand_in.script.vocab_size = 65
    visit = Visit(browser, stand_in.url)
    visit.page.locator("#words .word >> text=night").click()
    assert words(visit.page).startswith("It was a ⟦8⟧, and")
    visit.close()


def test_a_classifier_of_numbers_says_the_number_and_what_it_left_out(browser: Browser, stand_in: StandIn) -> None:
    from visits import Visit

    stand_in.script.classifier = {"labels": [], "text_pair": False}
    visit = Visit(browser, stand_in.url)
    visit.page.click("#tab-classify")
    visit.page.fill("#classify-text", "The kettle broke.")
    visit.page.click("#run-classify")
    visit.page.wait_for_selector("#verdict:not([hidden])")
    assert visit.page.locator("#verdict").inner_text() == (
        "Score 3.250. The text was longer than what the model reads: its end was left out."
    )
    visit.close()
