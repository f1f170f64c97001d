from __future__ import annotations

from typing import TYPE_CHECKING

from actions import fill, step, wait_for_the_end, word, words, write
from visits import Visit

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page
    from stand_in import Script, StandIn

OPENING = "It was a ⟦3⟧ night, and the ⟦1⟧ in the ⟦2⟧ had gone out."


def test_the_page_opens_with_an_example_that_one_click_fills(page: Page, script: Script) -> None:
    assert words(page) == OPENING
    fill(page)
    assert words(page) == "It was a moonless autumn silent night, and the dark in the cold lonely had gone out."
    (body,) = script.bodies("/v1/infill")
    assert body["text"] == "It was a [MASK:3] night, and the [MASK] in the [MASK:2] had gone out."
    assert body["escape"] is True
    assert body["stream"] is True
    assert body["seed"] is None


def test_other_examples_follow_and_what_was_there_is_not_lost(page: Page) -> None:
    write(page, "A text of my own ⟦2⟧.")
    page.click("#example")
    assert words(page) == "She ⟦3–8⟧, and left the room without a word."
    page.click("#undo")
    assert words(page) == "A text of my own ⟦2⟧."
    for _ in range(3):
        page.click("#example")
    assert words(page) == OPENING


def test_a_word_that_is_clicked_is_a_gap_and_comes_back(page: Page) -> None:
    write(page, "The lamp had gone out.")
    word(page, "lamp").click()
    assert words(page) == "The ⟦1⟧ had gone out."
    page.locator("#words .empty").click()
    assert page.locator("#gap-remove").inner_text() == "Put back “lamp”"
    page.click("#gap-remove")
    assert words(page) == "The lamp had gone out."


def test_the_words_of_a_gap_come_back_after_the_text_was_edited_too(page: Page) -> None:
    write(page, "The lamp had gone out.")
    word(page, "lamp").click()
    write(page, "Then the ⟦2⟧ had gone out again.")
    page.locator("#words .empty").focus()
    page.keyboard.press("Delete")
    assert words(page) == "Then the lamp had gone out again."


def test_words_side_by_side_become_one_gap(page: Page) -> None:
    write(page, "The old lamp had gone out.")
    word(page, "old").click()
    word(page, "lamp").click()
    assert words(page) == "The ⟦2⟧ had gone out."


def test_dragging_over_words_makes_one_gap_of_them(page: Page) -> None:
    write(page, "The old lamp had gone out.")
    word(page, "old").hover()
    page.mouse.down()
    word(page, "had").hover()
    assert page.locator("#words .chosen").all_inner_texts() == ["old", "lamp", "had"]
    page.mouse.up()
    assert words(page) == "The ⟦3⟧ gone out."


def test_a_click_with_shift_makes_one_gap_from_the_last_word_on(page: Page) -> None:
    write(page, "The old lamp had gone out.")
    word(page, "The").focus()
    word(page, "lamp").click(modifiers=["Shift"])
    assert words(page) == "⟦3⟧ had gone out."
    page.click("#undo")
    assert words(page) == "The old lamp had gone out."


def test_a_gap_has_the_length_or_the_range_that_was_set(page: Page, script: Script) -> None:
    page.locator("#words .empty").first.click()
    page.fill("#gap-size", "5")
    page.click("#gap-done")
    page.locator("#words .empty").nth(1).click()
    page.get_by_label("the length that fits best").check()
    page.fill("#gap-min", "3")
    page.fill("#gap-max", "8")
    page.click("#gap-done")
    assert words(page) == "It was a ⟦5⟧ night, and the ⟦3–8⟧ in the ⟦2⟧ had gone out."
    fill(page)
    assert script.bodies("/v1/infill")[0]["text"] == (
        "It was a [MASK:5] night, and the [MASK:3-8] in the [MASK:2] had gone out."
    )


def test_each_step_shows_what_is_hidden_new_and_final(moving: Page, script: Script) -> None:
    script.held_after = 3
    moving.click("#run-fill")
    moving.wait_for_selector("#words .token.new >> text=autumn")
    assert words(moving) == "It was a moonless autumn▢ night, and the ▢ in the ▢▢ had gone out."
    assert moving.locator("#words .token.final").all_inner_texts() == ["moonless"]
    assert moving.locator("#words .token.new").inner_text() == " autumn"
    script.go.set()
    wait_for_the_end(moving)
    assert moving.locator("#words .token.new").count() == 0


def test_playing_can_be_paused_stepped_back_and_forward_and_moved_on_the_time_line(moving: Page) -> None:
    moving.click("#run-fill")
    moving.wait_for_selector("#words .token.new")
    moving.click("#fill [aria-label=Pause]")
    paused = step(moving)
    moving.wait_for_timeout(700)
    assert step(moving) == paused != "step 6 of 6"
    moving.locator("#fill [data-player=slider]").fill("2")
    assert words(moving).startswith("It was a moonless autumn▢ night")
    moving.click("#fill [aria-label='Step back']")
    assert words(moving).startswith("It was a moonless▢▢ night")
    moving.click("#fill [aria-label='Step forward']")
    assert step(moving) == "step 2 of 6"
    moving.click("#fill [aria-label=Play]")
    wait_for_the_end(moving)
    assert words(moving).startswith("It was a moonless autumn silent night")


def test_alternatives_are_ranked_and_the_one_chosen_is_shown_with_its_steps(page: Page) -> None:
    page.locator("#num-samples").fill("4")
    fill(page)
    choices = page.locator("#choices .choice")
    assert choices.count() == 4
    assert choices.locator(".nats").all_inner_texts() == ["20.25 nats", "21.75 nats", "23.25 nats", "24.75 nats"]
    choices.nth(2).click()
    assert words(page).startswith("It was a starless quiet winter night")
    page.locator("#fill [data-player=slider]").fill("1")
    assert words(page) == "It was a starless▢▢ night, and the ▢ in the ▢▢ had gone out."


def test_where_another_text_than_the_one_watched_is_likeliest_its_own_steps_are_shown(
    page: Page, script: Script
) -> None:
    script.is_last_watched = True
    fill(page)
    assert words(page).startswith("It was a starless quiet winter night")
    page.locator("#fill [data-player=slider]").fill("2")
    assert words(page).startswith("It was a starless quiet▢ night")
    page.locator("#choices .choice").nth(2).click()
    assert words(page).startswith("It was a moonless autumn silent night")


def test_what_the_server_warns_of_is_said(page: Page, script: Script) -> None:
    script.warnings = ["the model reads É as e"]
    fill(page)
    assert page.locator("[data-progress=fill]").inner_text() == "0.4 s, 6 evaluations. the model reads É as e"


def test_words_that_are_kept_are_given_text_when_the_rest_is_filled_again(page: Page, script: Script) -> None:
    fill(page)
    word(page, "autumn").click()
    assert word(page, "autumn").get_attribute("aria-pressed") == "true"
    fill(page)
    assert script.bodies("/v1/infill")[1]["text"] == (
        "It was a [MASK] autumn [MASK] night, and the [MASK] in the [MASK:2] had gone out."
    )
    word(page, "autumn").click()
    assert words(page).startswith("It was a moonless ⟦1⟧ ")


def test_when_all_words_are_kept_there_is_nothing_left_to_fill(page: Page, script: Script) -> None:
    fill(page)
    page.click("#keep-all")
    page.click("#run-fill")
    assert page.locator("#problem").inner_text() == "There is no gap to fill: click a word to make one."
    assert len(script.bodies("/v1/infill")) == 1


def test_the_sliders_say_how_to_sample(page: Page, script: Script) -> None:
    page.locator("#steps").fill("5")  # the sixth of its stops: 6 evaluations
    page.locator("#temperature").fill("0.7")
    page.locator("#top-p").fill("0.9")
    page.locator("#candidates").fill("2")
    page.select_option("#sampler", "ancestral")
    page.fill("#seed", "123")
    fill(page)
    (body,) = script.bodies("/v1/infill")
    asked = {name: body[name] for name in ("sampler", "steps", "temperature", "top_p", "candidates", "seed")}
    assert asked == {
        "sampler": "ancestral",
        "steps": 6,
        "temperature": 0.7,
        "top_p": 0.9,
        "candidates": 8,
        "seed": 123,
    }


def test_what_the_model_takes_by_default_is_what_the_sliders_show(browser: Browser, stand_in: StandIn) -> None:
    stand_in.script.temperature = 0.8
    visit = Visit(browser, stand_in.url)
    assert visit.page.locator("[data-of=temperature]").inner_text() == "0.80"
    fill(visit.page)
    assert stand_in.script.bodies("/v1/infill")[0]["temperature"] == 0.8
    visit.close()


def test_what_is_waited_for_is_said(page: Page, script: Script) -> None:
    script.is_thinking = True
    page.click("#run-fill")
    page.wait_for_selector("[data-progress=fill]:has-text('Asking the model …')")
    script.ahead = 3
    page.wait_for_selector("[data-progress=fill]:has-text('Waiting: 3 before this one.')")
    page.click("#run-fill")
    script.ahead = 0
    write(page, "She ⟦3–8⟧.")
    page.click("#run-fill")
    page.wait_for_selector("[data-progress=fill]:has-text('Comparing lengths of the gaps …')")


def test_each_token_has_a_step_of_its_own_unless_something_else_is_asked_for(page: Page, script: Script) -> None:
    fill(page)
    write(page, "The ⟦100⟧ end ⟦3–8⟧.")
    fill(page)
    page.select_option("#sampler", "ancestral")
    fill(page)
    assert [body["steps"] for body in script.bodies("/v1/infill")] == [6, 64, None]


def test_the_text_the_command_line_and_the_python_can_be_copied(page: Page) -> None:
    fill(page)
    copied = "navigator.clipboard.readText()"
    page.click("#copy-fill")
    page.wait_for_selector("#copy-fill >> text=Copied")
    assert page.evaluate(copied).startswith("It was a moonless autumn silent night")
    page.click("#fill .repeat summary")
    page.click("#fill [data-repeat=copy-command]")
    page.wait_for_selector("#fill [data-repeat=copy-command] >> text=Copied")
    assert page.evaluate(copied) == "atat infill --seed 7"
    page.click("#fill [data-repeat=copy-python]")
    page.wait_for_selector("#fill [data-repeat=copy-python] >> text=Copied")
    assert page.evaluate(copied) == "lm.infill(seed=7)"
    assert page.locator("#seed").input_value() == "7"


def test_tint_says_how_confident_the_model_was_in_each_word(page: Page) -> None:
    fill(page)
    assert page.locator("#words [data-tint]").count() == 0
    page.locator("#fill [data-player=tint]").select_option("confidence")
    tints = page.locator("#words .word [data-tint]").evaluate_all("all => all.map(one => one.dataset.tint)")
    assert tints == ["1", "2", "3", "4", "0", "1"]  # 0.26 0.45 0.64 0.83 0.10 0.29
    word(page, "silent").hover()
    assert page.locator("#fill [data-player=detail]").inner_text() == "“silent”, probability 0.64, step 3"


def test_importance_is_asked_for_only_where_it_is_to_be_seen(page: Page, script: Script) -> None:
    fill(page)
    page.locator("#fill [data-player=tint]").select_option("importance")
    assert page.locator("#fill [data-player=detail]").inner_text() == "The next text shows it."
    fill(page)
    assert [body["importance"] for body in script.bodies("/v1/infill")] == [False, True]
    assert page.locator("#words .word [data-tint]").count() == 6


def test_the_text_can_be_scored(page: Page, script: Script) -> None:
    fill(page)
    page.click("#score")
    page.wait_for_selector("[data-progress=fill] >> text=The text costs 41.50 nats, 4.15 a token.")
    assert script.bodies("/v1/score")[0]["order"] == "left_to_right"
    word(page, "night").click()
    page.click("#score")
    assert page.locator("#problem").inner_text() == "There are gaps left: fill them first."
    assert len(script.bodies("/v1/score")) == 1


def test_the_end_is_spoken_once_and_no_step_before_it(page: Page, script: Script) -> None:
    page.evaluate(
        """() => {
            window.spoken = [];
            const box = document.getElementById("announcement");
            new MutationObserver(() => window.spoken.push(box.textContent)).observe(box, { childList: true });
        }"""
    )
    fill(page)
    assert page.evaluate("window.spoken") == [
        "Done: It was a moonless autumn silent night, and the dark in the cold lonely had gone out. 3 alternatives."
    ]


def test_a_text_is_asked_for_once_and_never_again_by_itself(visit: Visit, script: Script) -> None:
    fill(visit.page)
    visit.page.wait_for_timeout(1500)
    assert len(script.bodies("/v1/infill")) == 1
