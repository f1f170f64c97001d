"""Texts that are meant to break a page: each is shown, sent and copied as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from actions import fill, wait_for_the_end, words, write

if TYPE_CHECKING:
    from playwright.sync_api import Page
    from stand_in import Script

HOSTILE = [
    "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">",
    "&lt;b&gt; &amp; &#x202e;",
    "A [MASK] that was typed, [MASK:3-8] too, and [MASK",
    "C:\\new\\[MASK]\\\\ \\n \\u0041",
    "שלום עולם, hello مرحبا.",
    "👩‍👩‍👧‍👦 e\u0301 🌍\u200d 日本語の文です",
    "\u202eabc\u202c \u2028 \u00a0 \u200b end",
    "tabs\tand   spaces\n\n\n  and lines  ",
    "a ⟦x⟧ ⟦⟧ ⟦0⟧ ⟦8-3⟧ that is no gap",
    "${document.title} {{7*7}} %00 \x01",
    "x" * 300,
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_literal(page: Page, script: Script, text: str) -> None:
    title = page.title()
    write(page, f"{text} ⟦2⟧ {text}")
    assert words(page) == f"{text} ⟦2⟧ {text}"
    script.words = [text.split()[0]]
    fill(page)
    made = f"{text} {script.words[0]} {script.words[0]} {text}"
    assert words(page) == made
    assert page.title() == title
    sent = script.bodies("/v1/infill")[0]["text"]
    assert sent.count("[MASK:2]") - sent.count("\\[MASK:2]") == 1
    page.click("#copy-fill")
    page.wait_for_selector("#copy-fill >> text=Copied")
    assert page.evaluate("navigator.clipboard.readText()").replace("\x01", "") == made.replace("\x01", "")


def test_what_the_model_and_the_server_say_is_literal_everywhere(page: Page, script: Script) -> None:
    attack = "<img/src=x/onerror=document.title='taken'>&lt;"
    script.words = [attack]
    script.warnings = [attack]
    fill(page)
    assert words(page).startswith(f"It was a {attack} {attack} {attack} night")
    assert page.locator("#choices .choice-text").first.inner_text() == " · ".join(
        [f"{attack} {attack} {attack}", attack, f"{attack} {attack}"]
    )
    page.locator("#words .word.filled").first.hover()
    assert page.locator("#fill [data-progress=fill]").inner_text().endswith(attack)
    page.click("#tab-write")
    page.fill("#prompt", f"{attack} ")
    page.locator("#max-tokens").fill("0")
    page.click("#run-write")
    wait_for_the_end(page, "write")
    assert page.locator("#written").inner_text() == " ".join([attack] * 9)
    assert page.locator("main img, #fill script").count() == 0


def test_half_a_character_is_sent_as_a_whole_one(page: Page, script: Script) -> None:
    page.click("#edit")
    page.evaluate("document.getElementById('source').value = 'a \\ud83c ⟦1⟧'")
    page.click("#edit")
    fill(page)
    assert script.bodies("/v1/infill")[0]["text"] == "a \ufffd [MASK]"


def test_a_hundred_thousand_characters_can_be_shown_and_changed_in_seconds(page: Page) -> None:
    text = "The lamp had gone out again. " * 3449
    page.click("#edit")
    page.fill("#source", text)
    took = page.evaluate(
        """() => {
            const start = performance.now();
            document.getElementById("edit").click();
            document.querySelectorAll("#words .word")[9000].click();
            document.body.getBoundingClientRect();
            return performance.now() - start;
        }"""
    )
    assert words(page).count("⟦1⟧") == 1
    assert took < 5000  # 1 s where nothing else runs


@pytest.mark.parametrize(
    "text",
    ["", "⟦", "\\", "⟦3⟧", "\\⟦3⟧", "\\\\⟦3⟧", "\\\\\\⟦3–8⟧ ⟦2⟧", "a\\⟦3⟧\\", "⟦3⟧⟦4⟧", "⟦1–1⟧", "x ⟦99999⟧ [MASK:2]"],
)
def test_what_is_edited_reads_back_as_it_was(page: Page, text: str) -> None:
    again = """async (text) => {
        const { makeText, makeGap, editableText, readEditable } = await import("/text.js");
        const lists = [readEditable(text), [makeText(text)], [makeText(text), makeGap(2), makeText(text)]];
        const bare = (pieces) => JSON.stringify(pieces.filter((piece) => piece.text !== ""));
        return lists.filter((pieces) => bare(readEditable(editableText(pieces))) !== bare(pieces)).map(bare);
    }"""
    assert page.evaluate(again, text) == []


def test_kept_words_and_gaps_around_them_have_all_tokens_of_the_filling(page: Page) -> None:
    split = """async (keep) => {
        const { makeGap, settled } = await import("/text.js");
        const tokens = ["un", "til", " the", "\\n", " last", ",", "", " 🌍", " came"].map((text) => ({ text }));
        const fill = { tokens, keep };
        return settled([{ ...makeGap(9), fill }]).map((p) => p.kind === "gap" ? p.min : p.text);
    }"""
    no = [False] * 6
    assert page.evaluate(split, no) == [9]
    assert page.evaluate(split, [True, *no[1:]]) == ["until ", 6]
    assert page.evaluate(split, [*no[:2], True, *no[3:]]) == [3, "\n last", 3]
    assert page.evaluate(split, [*no[:5], True]) == [7, " came"]
    assert page.evaluate(split, [True] * 6) == ["until the\n last, 🌍 came"]


def test_templates_of_the_command_line_are_read_when_asked(page: Page) -> None:
    page.click("#edit")
    page.fill("#source", "She [MASK:3-8], and [MASK].")
    page.click("#read-masks")
    assert words(page) == "She ⟦3–8⟧, and ⟦1⟧."
