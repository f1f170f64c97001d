from __future__ import annotations

import html

import pytest


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the words of a page are looked at, it is not to take a second for its pictures: each is its title alone."""

    def titled(_: object, *, name: str, title: str) -> str:
        return f'<svg aria-label="{html.escape(title)}"></svg>'

    for module in ("report", "importance_page", "experiment_pictures", "experiment_sections"):
        monkeypatch.setattr(f"mdlm_atat.report.{module}.svg", titled)
