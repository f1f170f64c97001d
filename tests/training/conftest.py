from __future__ import annotations

from pathlib import Path

import pytest

# The package is imported in the fixtures, not here.


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A text to train on, which is prepared anew for each test."""
    from tiny_runs import write_text

    return write_text(tmp_path / "text.txt")


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Sets the environment of the networks of faulty.py, which have had no calls yet."""
    from faulty import Tight, Unstable

    for network in (Tight, Unstable):
        monkeypatch.setattr(network, "num_calls", 0)
    monkeypatch.setattr(Unstable, "times", [])
    return monkeypatch
