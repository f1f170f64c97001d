import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mdlm_atat import MaskedDiffusionLM, UserError, load_lm
from mdlm_atat.config.build import build_model
from mdlm_atat.runs import initial
from mdlm_atat.runs.initial import Initial
from mdlm_atat.training import checkpoint, packed
from mdlm_atat.training.packed import check_packing, quantise, read_weights, write_weights


def test_no_weight_is_off_by_more_than_half_of_its_rows_scale() -> None:
    matrix = torch.randn(40, 60, generator=torch.Generator().manual_seed(1)) * torch.logspace(-6, 3, 40)[:, None]
    numbers, scales = quantise(matrix)
    assert torch.equal(scales, matrix.abs().amax(1) / 127)
    off = (numbers.float() * scales[:, None] - matrix).abs()
    assert (off <= 0.5001 * scales[:, None]).all()
    assert torch.equal(numbers.abs().amax(1), torch.full((40,), 127, dtype=torch.int8))


def test_rows_of_zeros_and_vectors_come_back_as_they_were(tmp_path: Path) -> None:
    weights = {
        "norm": torch.randn(7),
        "matrix": torch.zeros(3, 5),
        "whole.scale": torch.randn(4),
        "whole": torch.ones(2),
    }
    weights["matrix"][1] = torch.tensor([0.0, 127.0, -127.0, 1.0, -3.0])
    write_weights(weights, tmp_path / "weights.safetensors", "int8")
    read = read_weights(tmp_path / "weights.safetensors")
    assert read.keys() == weights.keys()
    for name, weight in weights.items():
        assert torch.equal(read[name], weight), name
        assert read[name].dtype == torch.float32


@pytest.fixture
def unpacked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many weights there were, unpacked, whenever another one was."""
    seen, counted, each_weight = list[weakref.ref](), list[int](), packed.each_weight

    def watched(file: Path) -> Iterator[tuple[str, torch.Tensor]]:
        for name, weight in each_weight(file):
            seen.append(weakref.ref(weight))
            counted.append(sum(weight() is not None for weight in seen))
            yield name, weight

    for module in (checkpoint, initial):
        monkeypatch.setattr(module, "each_weight", watched)
    return counted


@pytest.mark.parametrize("packing", ["bf16", "int8"])
def test_packed_weights_are_loaded_with_two_of_them_unpacked_at_a_time(packing, tmp_path: Path, unpacked) -> None:
    """All of them at once, beside the network, took 8 bytes a weight, where a network takes 4."""
    model = torch.nn.Sequential(*(torch.nn.Linear(4, 4, bias=False) for _ in range(6)))
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    write_weights(before, tmp_path / "w.safetensors", packing)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    checkpoint.load_weights(model, tmp_path / "w.safetensors")
    assert (len(unpacked), max(unpacked)) == (6, 2)
    for name, weight in model.named_parameters():
        assert torch.allclose(weight, before[name], atol=1e-2), name


def test_weights_that_are_not_finite_have_no_scale(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"blocks\.0\.qkv has weights that are not finite"):
        write_weights({"blocks.0.qkv": torch.tensor([[1.0, torch.nan]])}, tmp_path / "w.safetensors", "int8")


@pytest.mark.parametrize(("packing", "off_nats"), [("bf16", 0.01), ("int8", 0.02), ("float32", 0.0)])
def test_a_model_saved_in_fewer_bits_costs_the_same_to_two_hundredths_of_a_nat(
    masked: MaskedDiffusionLM, tmp_path: Path, packing: str, off_nats: float
) -> None:
    text = "the cat sat on the mat and saw the dog " * 3
    folder = masked.save_pretrained(tmp_path / packing, weights=packing)  # pyright: ignore[reportArgumentType]
    lm = load_lm(folder)
    assert (lm.fingerprint() == masked.fingerprint()) == (packing == "float32")
    assert {p.dtype for p in lm.network.parameters()} == {torch.float32}
    before, after = masked.score(text), lm.score(text)
    assert abs(after.nats - before.nats) / before.num_tokens <= off_nats


def test_a_matrix_of_8_bits_takes_a_quarter_of_the_space(masked: MaskedDiffusionLM, tmp_path: Path) -> None:
    sizes = []
    for packing in ("float32", "bf16", "int8"):
        write_weights({"matrix": torch.randn(256, 512)}, tmp_path / packing, packing)
        sizes.append((tmp_path / packing).stat().st_size)
    assert sizes[0] / sizes[1] == pytest.approx(2, abs=0.01)
    assert sizes[0] / sizes[2] == pytest.approx(4, abs=0.05)


@pytest.mark.parametrize("of", ["masked", "causal"])
def test_a_run_begins_with_packed_weights_two_of_them_unpacked_at_a_time(
    of: str, tmp_path: Path, unpacked: list[int], request: pytest.FixtureRequest
) -> None:
    lm = request.getfixturevalue(of)
    start = Initial.open(lm.save_pretrained(tmp_path / "packed", weights="bf16"))
    config = start.run_config(None, None if of == "masked" else "atat", ())  # which gets a start vector
    network = build_model(config, lm.tokenizer.vocab_size)
    start.load_into(network, config, lm.tokenizer)
    assert len(unpacked) == len(start.found.shapes()) > 6
    assert max(unpacked) == 2
    found = dict(network.named_parameters())
    assert found.keys() - start.found.shapes().keys() == (set() if of == "masked" else {"mode_vector", "start_vector"})
    for name, weight in read_weights(start.found.home / "model.safetensors").items():
        stays = len(weight) - (
            of == "causal" and name == "embedding.weight"
        )  # the start symbol's becomes that of [MASK]
        assert found[name][:stays].equal(weight[:stays]), name


def test_an_unknown_packing_is_refused_with_those_there_are() -> None:
    with pytest.raises(UserError, match="expected one of float32, bf16, int8; did you mean int8"):
        check_packing("int9")


def test_a_damaged_packed_model_is_refused(masked: MaskedDiffusionLM, tmp_path: Path) -> None:
    folder = masked.save_pretrained(tmp_path / "packed", weights="int8")
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.safetensors is not what was written"):
        load_lm(folder)
