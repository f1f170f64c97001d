"""The default dtype of the program that calls changes no number: neither draws nor weights depend on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from mdlm_atat import MaskedDiffusionLM, load_lm
from mdlm_atat.config.build import build_model, network_of_shapes
from mdlm_atat.config.files import load_config
from mdlm_atat.finetuning.head import Head
from tiny_runs import train, write_text

OLD_MODEL = Path(__file__).parent / "fixtures" / "old_model"


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def by_default_dtype(say: Callable[[], Any]) -> list[Any]:
    """What is said under float32, float64 and bfloat16."""
    found = []
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        with default_dtype(dtype):
            found.append(say())
    return found


def masked_lm() -> MaskedDiffusionLM:
    lm = load_lm(OLD_MODEL, device="cpu")
    assert isinstance(lm, MaskedDiffusionLM)
    return lm


@pytest.mark.parametrize(
    "ask",
    [
        lambda lm: lm.score("the cat sat on", order="any"),
        lambda lm: lm.score("the cat sat on", order="spread", evaluations=3),
        lambda lm: lm.score("a mat", given="the cat sat on ", order="any"),
        lambda lm: lm.generate("the", length=12, seed=3).text,
        lambda lm: lm.infill("the [MASK:2-4] on [MASK:2].", seed=3, length_draws=16).text,
        lambda lm: lm.encode(["the cat"]).tolist(),
        lambda lm: lm.inspection_record(lm.inspect("the cat", times=(0.5,), num_draws=1)),
    ],
)
def test_a_loaded_model_says_the_same_under_every_default_dtype(ask: Callable[[MaskedDiffusionLM], Any]) -> None:
    first, *others = by_default_dtype(lambda: ask(masked_lm()))
    assert all(other == first for other in others)


def weights_of(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def config_of(method: str, **model: Any) -> Any:
    from mdlm_atat.config.files import apply_settings

    shape = {"num_layers": 1, "width": 16, "num_heads": 2, **model}
    changed = {f"model.{name}": value for name, value in shape.items()} | {"data.length": 16, "importance.width": 16}
    config, mistakes = apply_settings(load_config("demo", method), changed)
    assert config is not None, mistakes
    return config


@pytest.mark.parametrize(
    "config",
    [
        config_of("mdlm", alignment="shifted", norm="rms"),
        config_of("two_way"),
        config_of("learned_only"),
    ],
)
def test_first_weights_are_float32_and_the_same_under_every_default_dtype(config: Any) -> None:
    def drawn() -> dict[str, torch.Tensor]:
        torch.manual_seed(1)
        network = build_model(config, 20)
        shapes = network_of_shapes(config, 20)
        assert all(p.is_meta and p.dtype == torch.float32 for p in shapes.parameters())
        return {**weights_of(network), **weights_of(Head(16, 2, 0.0))}

    first, *others = by_default_dtype(drawn)
    assert {weight.dtype for weight in first.values() if weight.is_floating_point()} == {torch.float32}
    for other in others:
        assert all(
            torch.equal(other[name], weight) and other[name].dtype == weight.dtype for name, weight in first.items()
        )


@pytest.mark.usefixtures("no_report")
def test_training_is_the_same_bit_for_bit_under_every_default_dtype(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATAT_CACHE", str(tmp_path / "cache"))
    text = write_text(tmp_path / "text.txt", 400)

    def fingerprint() -> str:
        folder = tmp_path / str(torch.get_default_dtype())
        assert train(text, folder, train__num_steps=2, train__eval_interval_steps=2, eval__num_samples=0) == 0
        return load_lm(folder, device="cpu").fingerprint()

    assert len(set(by_default_dtype(fingerprint))) == 1
