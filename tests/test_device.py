"""Devices without float64, of which Apple's mps is one: times, rates, draws and sums go to the CPU there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mdlm_atat import device as module
from mdlm_atat.data.tokenizers import CharTokenizer
from mdlm_atat.device import as_float64, choose_device, choose_precision, float64_device
from mdlm_atat.errors import UserError
from mdlm_atat.lm import CausalLM, MaskedDiffusionLM, load_lm
from mdlm_atat.lm.how import Guide
from mdlm_atat.nets.two_way import TwoWayDiT
from mdlm_atat.runs.train import train
from mdlm_atat.training import engine
from stand_in_device import THERE, stand_in_device
from tiny_runs import losses_of, train_method, write_text

OLD_MODEL = Path(__file__).parent / "fixtures" / "old_model"


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """Runs and models are on the stand-in."""

    def fabric(**settings: Any) -> Any:
        made: Any = real(**{**settings, "accelerator": "cpu"})
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


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mdlm", "importance_rates"])
def test_training_on_a_device_without_float64_gives_the_losses_of_the_cpu(method, tmp_path, monkeypatch, request):
    monkeypatch.setenv("ATAT_CACHE", str(tmp_path / "cache"))
    text = write_text(tmp_path / "text.txt")
    assert train_method(method, text, tmp_path / "cpu") == 0
    request.getfixturevalue("elsewhere")
    assert train_method(method, text, tmp_path / "elsewhere") == 0
    assert losses_of(tmp_path / "elsewhere") == pytest.approx(losses_of(tmp_path / "cpu"), rel=5e-5)


@pytest.mark.slow
def test_models_on_a_device_without_float64_write_score_and_inspect_as_on_the_cpu(runs, adaptive, causal, elsewhere):
    there = MaskedDiffusionLM.from_pretrained(runs / "adaptive")
    causal_there = CausalLM.from_pretrained(runs / "causal")
    assert there.device == elsewhere
    for sampler in ("ancestral", "spread", "confidence", "remask", "rate_hitting", "follow_rates", "entropy_budget"):
        made = [lm.generate("the", length=24, seed=3, steps=12, sampler=sampler).tokens for lm in (there, adaptive)]
        assert made[0] == made[1], sampler
    guide = Guide({"e": 2.0}, order=1.0)
    filled = [
        lm.infill("the [MASK:2-4] sat", sampler="uncertainty", guide=guide, return_trace=True, length_draws=16)
        for lm in (there, adaptive)
    ]
    assert filled[0].tokens == filled[1].tokens
    assert causal_there.generate("the").tokens == causal.generate("the").tokens
    for model, on_cpu in ((there, adaptive), (causal_there, causal)):
        assert model.score("the cat sat").nats == pytest.approx(on_cpu.score("the cat sat").nats, rel=1e-5)
        for order in ("spread", None) if model is there else (None,):
            after, expected = (lm.score([" sat on a", " mat"], given="the", order=order) for lm in (model, on_cpu))
            assert [each.nats for each in after] == pytest.approx([each.nats for each in expected], rel=1e-4)
        torch.testing.assert_close(
            model.encode(["the cat", "a"]), on_cpu.encode(["the cat", "a"]), atol=1e-5, rtol=1e-4
        )
    inspected, expected = there.inspect("the cat"), adaptive.inspect("the cat")
    assert inspected.mask_rate == pytest.approx(expected.mask_rate)
    assert inspected.nll == pytest.approx(expected.nll, rel=1e-4)


def test_a_network_of_both_modes_chooses_and_ranks_on_a_device_without_float64_as_on_the_cpu(request):
    torch.manual_seed(0)
    network = TwoWayDiT(4, 12, num_layers=1, width=16, num_heads=2)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    lm, template = MaskedDiffusionLM(network, CharTokenizer("abc")), "ab[MASK:1-3]ca"
    on_cpu = lm.infill(template, alternatives=2, candidates=8, length_draws=64)
    lm.to(request.getfixturevalue("elsewhere"))
    there = lm.infill(template, alternatives=2, candidates=8, length_draws=64)
    assert [way.tokens for way in there] == [way.tokens for way in on_cpu]
    assert there[0].nats_left_to_right == pytest.approx(on_cpu[0].nats_left_to_right, abs=1e-4)
    assert there[0].nats_by_lengths == pytest.approx(on_cpu[0].nats_by_lengths, abs=1e-4)


def test_on_a_mac_the_gpu_is_chosen_with_float32_and_float64_stays_on_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device() == choose_device("mps") == torch.device("mps")
    assert choose_precision("auto", choose_device()) == "float32"
    assert float64_device("mps") == torch.device("cpu")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device() == torch.device("cpu")
    with pytest.raises(UserError, match="device mps is not available here"):
        choose_device("mps")


def test_where_the_device_has_float64_nothing_is_moved():
    numbers = torch.rand(3, dtype=torch.float64)
    assert as_float64(numbers) is numbers
    assert float64_device(torch.device("cuda", 1)) == torch.device("cuda", 1)


@pytest.mark.parametrize("device", [None, "cpu"])
def test_another_default_device_of_torch_is_refused_with_what_to_do(device):
    with torch.device("meta"), pytest.raises(UserError, match=r"default device is meta.*set_default_device\('cpu'\)"):
        load_lm(OLD_MODEL, device=device)
    torch.set_default_device("meta")
    try:
        with pytest.raises(UserError, match=r"outside of `with torch.device\('meta'\)`.*by `device=` where"):
            train("demo", progress=False)
    finally:
        torch.set_default_device(None)
