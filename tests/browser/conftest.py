"""The page in a real browser: Debian's chromium, or whichever is there, driven by playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page
    from stand_in import Script, StandIn
    from visits import Visit

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of this folder are marked `browser`."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("needs chromium: apt install chromium")
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'mdlm-atat[dev]'")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # chromium refuses root one
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        yield browser
        browser.close()


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    from stand_in import StandIn

    server = StandIn()
    yield server
    server.close()


@pytest.fixture
def script(stand_in: StandIn) -> Script:
    return stand_in.script


@pytest.fixture
def visit(browser: Browser, stand_in: StandIn) -> Iterator[Visit]:
    """The page at a desk, of somebody who wants less motion: the last step is shown as soon as it is there. Nothing
    it does may be a console message, or a request to anybody else."""
    from visits import Visit

    visit = Visit(browser, stand_in.url)
    yield visit
    visit.close()
    assert visit.said == []  # violations of the Content-Security-Policy among them
    assert visit.strangers() == []


@pytest.fixture
def page(visit: Visit) -> Page:
    return visit.page


@pytest.fixture
def phone(browser: Browser, stand_in: StandIn) -> Iterator[Page]:
    from visits import PHONE, Visit

    visit = Visit(browser, stand_in.url, viewport=PHONE, has_touch=True, is_mobile=True)
    yield visit.page
    visit.close()
    assert visit.said == []


@pytest.fixture
def moving(browser: Browser, stand_in: StandIn) -> Iterator[Page]:
    """The page that plays the steps one after another."""
    from visits import Visit

    visit = Visit(browser, stand_in.url, reduced_motion="no-preference")
    yield visit.page
    visit.close()
    assert visit.said == []
