from __future__ import annotations

from collections.abc import Callable

import pytest

from faults.commands import Undisturbed


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Undisturbed]:
    """A command by its name, as it is without a fault."""
    known: dict[str, Undisturbed] = {}

    def of(name: str) -> Undisturbed:
        if name not in known:
            known[name] = Undisturbed(name, tmp_path_factory.mktemp(name))
        return known[name]

    return of
