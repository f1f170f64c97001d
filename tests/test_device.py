"""Devices without float64, of which Apple's mps is one: times, rates, draws and sums go to the CPU there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mdlm_atat import device as module
from mdlm_atat.device import as_float64, choose_device, choose_precision, float64_device
from mdlm_atat.lm import load_lm
from mdlm_atat.training import engine
from stand_in_device import THERE, stand_in_device
from tiny_runs import losses_of, method_flags, train_method, write_text


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """Runs and models are on the stand-in."""

    def fabric(**settings: Any) -> Any:
        made = real(**{**settings, "accelerator": "cpu"})
        made._strategy._root_device = THERE
        made._accelerator.setup_device = made._validate_setup_optimizers = lambda _: None
        return made

    real = engine.Fabric
    monkeypatch.setattr(engine, "Fabric", fabric)
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda _: None)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda _="cpu": False)
    optimizer = sys.modules["torch.optim.optimizer"]
    monkeypatch.setattr(optimizer, "_get_fused_kernels_supported_devices", lambda: [THERE.type])
    monkeypatch.setattr(module, "WITHOUT_FLOAT64", {THERE.type})
    for name in ("mdlm_atat.training.engine", "mdlm_atat.lm.load"):
        monkeypatch.setattr(f"{name}.choose_device", lambda _=None: THERE)
    with stand_in_device() as device:
        yield device


@pytest.mark.parametrize("method", ["mdlm", "atat"])
def test_a_device_without_float64_trains_as_the_cpu_does(method, tmp_path, monkeypatch, elsewhere):
    monkeypatch.setenv("ATAT_CACHE", str(tmp_path / "cache"))
    text = write_text(tmp_path / "text.txt")
    assert train_method(method, text, tmp_path / "run", model__dropout=0.0) == 0
    print(losses_of(tmp_path / "run"))
