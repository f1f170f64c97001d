"""lm.encode: texts as vectors."""

from __future__ import annotations

import pytest
import torch
from made_models import two_way_lm

from mdlm_atat import CausalLM, MaskedDiffusionLM, UserError
from mdlm_atat.data.tokenizers import CharTokenizer
from mdlm_atat.nets.causal_transformer import CausalTransformer
from mdlm_atat.nets.two_way import TwoWayDiT

TEXTS = ["the cat sat", "a", "the old man was kind and ran to see if you can be", "a dog"]


@pytest.mark.parametrize("model", ["masked", "adaptive", "causal"])
@pytest.mark.parametrize("layer", [None, 1])
def test_a_text_has_the_same_vector_alone_and_in_any_batch(
    model: str, layer: int | None, request: pytest.FixtureRequest
) -> None:
    lm = request.getfixturevalue(model)
    together = lm.encode(TEXTS, layer=layer)
    assert together.shape == (4, lm.network.output_layer()[0].shape[1])
    assert together.dtype == torch.float32
    for text, vector in zip(TEXTS, together, strict=True):
        torch.testing.assert_close(lm.encode(text, layer=layer), vector, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        lm.encode(TEXTS[::-1], layer=layer, batch_size=1).flip(0), together, atol=1e-5, rtol=1e-5
    )
    assert lm.encode([]).shape == (0, together.shape[1])
    assert (together[0] - together[3]).norm() > 1e-3


def test_of_a_masked_network_it_is_the_mean_of_what_the_last_norm_gives(masked: MaskedDiffusionLM) -> None:
    tokens = torch.tensor([masked.tokenizer.encode("the cat")])
    with torch.no_grad():
        expected = masked.network.hidden(tokens, torch.zeros(1))[0].mean(0)
    torch.testing.assert_close(masked.encode("the cat"), expected, atol=1e-6, rtol=1e-5)
    long = masked.encode("the cat sat on a mat")  # 16 tokens, and 4
    pieces = masked.encode(["the cat sat on a", " mat"])
    torch.testing.assert_close(long, (16 * pieces[0] + 4 * pieces[1]) / 20, atol=1e-6, rtol=1e-5)


def causal_of_chance() -> CausalLM:
    torch.manual_seed(0)
    tokenizer = CharTokenizer("abc")
    return CausalLM(CausalTransformer(4, 8, num_layers=2, width=16, num_heads=2), tokenizer)


def shifted_of_chance() -> MaskedDiffusionLM:
    torch.manual_seed(0)
    tokenizer = CharTokenizer("abc")
    network = TwoWayDiT(4, 8, num_layers=2, width=16, num_heads=2, alignment="shifted")
    return MaskedDiffusionLM(network, tokenizer)


@pytest.mark.parametrize("make", [causal_of_chance, shifted_of_chance, lambda: two_way_lm(letters="abc", length=8)])
@pytest.mark.parametrize("layer", [None, 1, 2])
def test_every_token_is_read_the_last_one_too(make: object, layer: int | None) -> None:
    lm = make()  # pyright: ignore[reportCallIssue]
    one, other = lm.encode(["abca", "abcb"], layer=layer)
    assert (one - other).norm() > 1e-4
    whole, parts = lm.encode("abcab" + "cabca", layer=layer), lm.encode(["abcabca", "bca"], layer=layer)
    if not isinstance(lm, CausalLM) and lm.network.alignment == "own":
        parts = lm.encode(["abcabcab", "ca"], layer=layer)
        sizes = (8, 2)
    else:
        sizes = (7, 3)  # a place is the start's
    mean = (sizes[0] * parts[0] + sizes[1] * parts[1]) / 10
    torch.testing.assert_close(whole, mean, atol=1e-5, rtol=1e-5)


def test_what_cannot_be_encoded_is_refused(masked: MaskedDiffusionLM) -> None:
    with pytest.raises(UserError, match="text 2 is empty: there is nothing to encode"):
        masked.encode(["a", ""])
    with pytest.raises(UserError, match="`layer=2`, expected from 1 to 1, or None"):
        masked.encode("a", layer=2)
    with pytest.raises(TypeError, match="texts: expected a str"):
        masked.encode(3)  # pyright: ignore[reportCallIssue, reportArgumentType]
    plain = MaskedDiffusionLM(lambda z_t, _: torch.zeros(*z_t.shape, 23), masked.tokenizer, max_length=16)
    with pytest.raises(UserError, match="plain function"):
        plain.encode("a")
