"""Networks that were trained elsewhere: a module of one's own, or a function, without a run folder."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mdlm_atat import ATATDiT, CausalLM, CausalTransformer, MaskedDiffusionLM, UserError
from mdlm_atat.data.tokenizers import CharTokenizer
from mdlm_atat.nets.protocol import Backbone
from toys import Joint

AB = CharTokenizer("ab")  # and eos: a vocabulary of 3
JOINT = Joint.random(length=4, vocab=3, seed=1)


class Tiny(nn.Module):
    """What a user brings: an embedding, a mean over the row, an output layer."""

    modes = frozenset({"masked"})
    vocab_size, max_length = 3, 8

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.output = nn.Embedding(4, 6), nn.Linear(6, 3)

    def hidden(self, z_t: Tensor, t: Tensor, lengths: Tensor | None = None) -> Tensor:  # noqa: ARG002
        x = self.embedding(z_t)  # (B, L, D)
        seen = torch.ones(z_t.shape) if lengths is None else (torch.arange(z_t.shape[1]) < lengths[:, None]).float()
        return x + (x * seen[..., None]).sum(1, keepdim=True) / seen.sum(1)[:, None, None]

    def output_layer(self) -> tuple[Tensor, Tensor]:
        return self.output.weight, self.output.bias

    def forward(self, z_t: Tensor, t: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self.output(self.hidden(z_t, t, lengths))


class LastToken(nn.Module):
    """Causal: the next token by the one before it alone."""

    modes = frozenset({"causal"})
    vocab_size, max_length = 3, 8

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(3, 3)  # it has no [MASK]

    def hidden(self, x: Tensor) -> Tensor:
        return torch.cat([torch.zeros(len(x), 1, 3), self.table(x[:, :-1])], dim=1)

    def output_layer(self) -> tuple[Tensor, None]:
        return torch.eye(3), None

    def forward(self, x: Tensor) -> Tensor:
        return self.hidden(x)


@pytest.fixture
def tiny() -> MaskedDiffusionLM:
    torch.manual_seed(0)
    return MaskedDiffusionLM(Tiny(), AB)


def test_a_module_of_ones_own_generates_infills_streams_and_scores_without_a_configuration(tiny):
    assert not tiny.network.training
    assert isinstance(tiny.network, Backbone)
    assert tiny.max_length == 8
    assert tiny.generate("ab", seed=1).text.startswith("ab")
    assert len(tiny.generate("ab", max_new_tokens=30).tokens) == 32  # in blocks
    for sampler in ("ancestral", "first_hitting", "uncertainty", "confidence", "remask", "left_to_right"):
        assert len(tiny.generate(sampler=sampler, length=5).tokens) == 5
    assert tiny.infill("a[MASK:1-2]b").text[0] == "a"
    assert [*tiny.stream("a", length=4)][-1].tokens == tiny.generate("a", length=4).tokens
    assert tiny.score("abbab", num_draws=64).nats > 0
    assert tiny.score("abbaabbaab", order="left_to_right").num_tokens == 10  # two pieces


def test_the_fingerprint_is_the_sha_256_of_names_and_bytes_also_of_weights_in_bf16_and_of_a_single_number(tiny):
    tiny.network.scale = nn.Parameter(torch.tensor(3.0))
    digest = hashlib.sha256()
    for name, weight in sorted(tiny.network.named_parameters()):
        digest.update(name.encode() + weight.detach().numpy().tobytes())
    assert tiny.fingerprint() == digest.hexdigest()
    found = MaskedDiffusionLM(tiny.network.bfloat16(), AB).fingerprint()
    digest = hashlib.sha256()
    for name, weight in sorted(tiny.network.named_parameters()):
        digest.update(name.encode() + weight.detach().view(torch.int16).numpy().tobytes())
    assert found == digest.hexdigest()


def test_a_function_of_z_t_and_t_is_as_good_and_costs_the_same_as_the_module_it_calls(tiny):
    lm = MaskedDiffusionLM(lambda z_t, t: tiny.network(z_t, t), AB, max_length=8)
    assert lm.generate(["ab", ""], seed=3) == tiny.generate(["ab", ""], seed=3)
    assert lm.infill("a[MASK:1-2]b") == tiny.infill("a[MASK:1-2]b")
    text = "abbaabbaabba"  # 8 tokens and 4: the second piece is padded
    for order in ("uniform", "left_to_right"):
        theirs, mine = tiny.score(text, num_draws=64, order=order), lm.score(text, num_draws=64, order=order)
        assert mine.nats == pytest.approx(theirs.nats, rel=1e-5)
        assert mine.standard_error == pytest.approx(theirs.standard_error, rel=1e-4)


def test_an_exact_denoiser_given_as_a_function_samples_its_joint_and_scores_minus_log_p():
    lm = MaskedDiffusionLM(JOINT.denoise, AB, max_length=4)
    texts = lm.generate([""] * 2000, sampler="first_hitting", seed=0)
    found = torch.tensor([text.tokens for text in texts])
    shares = (found[:, None] == JOINT.sequences).all(2).double().mean(0)
    assert (shares - JOINT.probs).abs().max() < 4 * 0.5 / math.sqrt(2000)
    number = int(torch.where((JOINT.sequences < 2).all(1), JOINT.probs, 0).argmax())  # the likeliest without eos
    score = lm.score(AB.decode(JOINT.sequences[number].tolist()), num_draws=4096)
    assert score.nats == pytest.approx(-math.log(JOINT.probs[number]), abs=4 * score.standard_error + 1e-6)


def test_a_causal_module_needs_no_mask_and_a_causal_function_does_the_same():
    torch.manual_seed(0)
    network = LastToken()
    lm, plain = CausalLM(network, AB), CausalLM(lambda x: network(x), AB, max_length=8)
    assert lm.generate(["ab", ""], seed=3) == plain.generate(["ab", ""], seed=3)
    by_hand = math.log(3) - sum(network.table.weight.log_softmax(-1)[i, j].item() for i, j in ((0, 1), (1, 0)))
    for model in (lm, plain):
        assert model.score("aba").nats == pytest.approx(by_hand, rel=1e-5)
        assert model.score("aba", order="left_to_right").nats == pytest.approx(by_hand, rel=1e-5)
    with pytest.raises(UserError, match="a causal model cannot infill"):
        lm.infill("a[MASK]")


def test_our_own_networks_join_in_bare_too():
    shape: dict[str, Any] = {"num_layers": 1, "width": 16, "num_heads": 2}
    masked, causal = ATATDiT(3, 8, **shape), CausalTransformer(3, 8, **shape)
    assert len(MaskedDiffusionLM(masked, AB).generate("a").tokens) == 8
    assert len(CausalLM(causal, AB).generate("a").tokens) == 8


REFUSED = {
    "kind": (lambda: MaskedDiffusionLM(LastToken(), AB), "LastToken is causal, and MaskedDiffusionLM needs masked"),
    "other kind": (lambda: CausalLM(Tiny(), AB), "Tiny is masked, and CausalLM needs causal"),
    "vocabulary": (lambda: MaskedDiffusionLM(Tiny(), CharTokenizer("abc")), "a vocabulary of 3 tokens, .* one of 4"),
    "length": (lambda: MaskedDiffusionLM(JOINT.denoise, AB), "`max_length=...`"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_when_it_is_put_together(case):
    make, message = REFUSED[case]
    with pytest.raises(UserError, match=message):
        make()


def test_what_needs_a_run_or_a_configuration_says_so(tiny, tmp_path):
    for call in (lambda: tiny.config, lambda: tiny.save_pretrained(tmp_path / "saved")):
        with pytest.raises(UserError, match=r"no configuration: .* `MaskedDiffusionLM\(network, tokenizer, config\)`"):
            call()
    assert not (tmp_path / "saved").exists()
    with pytest.raises(UserError, match="knows no importance"):
        tiny.inspect("ab")
    with pytest.raises(UserError, match="in no folder yet"):
        tiny.generate(sampler="first_hitting:sizes=optimal")
    with pytest.raises(UserError, match="predicts no rates"):
        tiny.generate(sampler="follow_rates")


def test_a_tokenizer_that_is_equal_by_value_and_has_no_hash_fills_gaps_too():
    class ByValue(CharTokenizer):
        def __eq__(self, other: object) -> bool:
            return isinstance(other, ByValue) and self.alphabet == other.alphabet

        __hash__ = None  # type: ignore[assignment]

    lm = MaskedDiffusionLM(Tiny(), ByValue("ab"))
    assert lm.infill("a[MASK:2]b").text.startswith("a")
    assert len([frame.text for frame in lm.stream("a[MASK:2]b")]) == 3
