"""What a person does on the page, and sees."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page


def words(page: Page) -> str:
    """The canvas as it reads: gaps as their numbers of tokens, hidden tokens as ▢."""
    return page.evaluate(
        """() => {
            const read = (node) => {
                if (node.nodeType === Node.TEXT_NODE) return node.textContent;
                if (node.classList.contains("hidden")) return "▢";
                if (node.classList.contains("empty")) return `⟦${node.textContent}⟧`;
                return [...node.childNodes].map(read).join("");
            };
            return [...document.querySelectorAll("#words > .line")].map(read).join("\\n");
        }"""
    )


def word(page: Page, text: str) -> Locator:
    return page.locator("#words .word").filter(has_text=text).first


def write(page: Page, text: str) -> None:
    """Replace the text."""
    page.click("#edit")
    page.fill("#source", text)
    page.click("#edit")


def fill(page: Page) -> None:
    """Fill, and wait until the last step is shown."""
    page.click("#run-fill")
    wait_for_the_end(page)


def wait_for_the_end(page: Page, tab: str = "fill") -> None:
    page.wait_for_selector(f"#{tab} .repeat:not([hidden]), #problem:not([hidden])")
    assert not page.locator("#problem").is_visible(), page.locator("#problem").inner_text()
    page.wait_for_selector(f"#{tab} [data-player=play][aria-label='Play again']")


def step(page: Page, tab: str = "fill") -> str:
    return page.locator(f"#{tab} [data-player=step]").inner_text()


def problem(page: Page) -> str:
    page.wait_for_selector("#problem:not([hidden])")
    return page.locator("#problem").inner_text()
