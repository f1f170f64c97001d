"""A small model that writes from left to right too, and a client of a server that has it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from serving import Client, served

from lm.made_models import two_way_lm
from mdlm_atat import MaskedDiffusionLM


@pytest.fixture(scope="module")
def lm() -> MaskedDiffusionLM:
    return two_way_lm(letters="abcdefgh .", length=48)


@pytest.fixture(scope="module")
def client(lm: MaskedDiffusionLM) -> Iterator[Client]:
    with served(lm) as client:
        yield client
