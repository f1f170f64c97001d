"""A small model that writes from left to right too, and a client of a server that has it."""

from __future__ import annotations

import secrets
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from serving import Client, served

from lm.made_models import two_way_lm
from mdlm_atat import MaskedDiffusionLM


@pytest.fixture(autouse=True)
def seeds_of_chance(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a request without a seed draws is the same whenever the test runs, and another in every test."""
    drawn = np.random.default_rng(zlib.crc32(request.node.nodeid.encode()))
    monkeypatch.setattr(secrets, "randbelow", lambda stop: int(drawn.integers(stop)))


@pytest.fixture(scope="module")
def lm() -> MaskedDiffusionLM:
    return two_way_lm(letters="abcdefgh .", length=48)


@pytest.fixture(scope="module")
def client(lm: MaskedDiffusionLM) -> Iterator[Client]:
    with served(lm) as client:
        yield client
