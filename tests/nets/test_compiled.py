"""What torch compiles, however many networks there are in a process."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from mdlm_atat.device import compiled


def test_a_function_is_compiled_in_its_twentieth_form_as_in_its_first(monkeypatch: pytest.MonkeyPatch):
    """Left alone, torch gives up after 8 forms, which are those of two networks: with a gradient and without, two
    modes, and any other width is a form of its own."""
    as_it_is = functools.wraps(torch.compile)(functools.partial(torch.compile, backend="eager"))
    monkeypatch.setattr(torch, "compile", as_it_is)
    made = torch._dynamo.utils.counters["stats"]

    def twice(x: Tensor) -> Tensor:
        return x + x

    function = compiled(twice, dynamic=False)
    for width in range(1, 21):
        before = made["unique_graphs"]
        assert function(torch.ones(width)).sum() == 2 * width
        assert made["unique_graphs"] - before == 1, f"width {width}"
