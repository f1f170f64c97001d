"""Make the pictures of the page of atat serve again: atat serve & python docs/pictures/serve.py http://127.0.0.1:8017/"""

import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

TEXT = "The old man sat by ⟦4⟧ and looked at ⟦3⟧. “You have ⟦5⟧,” he said, “and I am ⟦3⟧.” She ⟦4⟧ without a word."
DESKTOP = {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"}
PHONE = {
    "viewport": {"width": 390, "height": 844},
    "color_scheme": "dark",
    "device_scale_factor": 2,
    "is_mobile": True,
    "has_touch": True,
}


def filled(browser: Browser, url: str, how: dict) -> Page:
    """The page with TEXT filled by the first seed."""
    page = browser.new_context(reduced_motion="reduce", **how).new_page()
    page.goto(url)
    page.wait_for_selector("body[data-ready]")
    page.click("#edit")
    page.fill("#source", TEXT)
    page.click("#edit")
    page.evaluate("document.querySelector('#settings details').open = true")
    page.fill("#seed", "1")
    page.fill("#temperature", "0.8")
    page.click("#run-fill")
    page.wait_for_selector("#fill .repeat:not([hidden])")
    return page


def take(page: Page, name: str) -> None:
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    page.mouse.move(0, 0)
    page.wait_for_timeout(500)
    path = Path(__file__).with_name(name)
    page.screenshot(path=path)
    Image.open(path).convert("RGB").quantize(160, dither=Image.Dither.NONE).save(path, optimize=True)


with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
    page = filled(browser, sys.argv[1], DESKTOP)
    page.fill("#fill [data-player=slider]", "13")
    take(page, "serve-desktop.png")
    page = filled(browser, sys.argv[1], PHONE)
    page.evaluate("document.querySelector('#settings details').open = false")
    page.select_option("#fill [data-player=tint]", "confidence")
    for number in (1, 2):
        page.locator("#words .word.filled").nth(number).click()
    take(page, "serve-phone.png")
    browser.close()
