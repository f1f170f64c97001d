"""Writing from left to right: with a key-value cache, the texts of one pass over everything for every token."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mdlm_atat import CausalLM, CausalTransformer, MaskedDiffusionLM, UserError
from mdlm_atat import device as device_module
from mdlm_atat.core.left_to_right import causal_nll
from mdlm_atat.data.tokenizers import CharTokenizer
from mdlm_atat.device import Graphed
from mdlm_atat.lm.how import Guide
from mdlm_atat.lm.results import Frame
from mdlm_atat.nets.two_way import TwoWayDiT
from mdlm_atat.samplers.canvas import Canvas
from mdlm_atat.samplers.left_to_right import LeftToRight
from mdlm_atat.samplers.seeds import mix_seed

ABC = CharTokenizer("abcdefghijkl")  # and eos: a vocabulary of 13
EOS, LENGTH = 12, 16
PROMPTS = ["abc", "abcdefghi", ""]
SHAPE: dict[str, Any] = {"num_layers": 2, "width": 16, "num_heads": 2}
AnyLM = MaskedDiffusionLM | CausalLM


def opinionated(network: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for p in network.parameters():
        nn.init.normal_(p, std=0.15)
    return network


MAKE: dict[str, Callable[[], AnyLM]] = {
    "causal": lambda: CausalLM(opinionated(CausalTransformer(13, LENGTH, **SHAPE)), ABC),
    "two ways": lambda: MaskedDiffusionLM(opinionated(TwoWayDiT(13, LENGTH, **SHAPE)), ABC),
    "two ways, shifted": lambda: MaskedDiffusionLM(
        opinionated(TwoWayDiT(13, LENGTH, **SHAPE, alignment="shifted", time_conditioning=True)), ABC
    ),
}


@pytest.fixture(params=MAKE)
def lm(request) -> AnyLM:
    return MAKE[request.param]()


def uncached(lm: AnyLM) -> AnyLM:
    plain = type(lm)(lm.network, lm.tokenizer)
    plain._steps = None
    return plain


class Counting:
    """Rows and places of every pass of a network."""

    def __init__(self, network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.read: list[tuple[int, int]] = []
        self.num_whole = 0
        read, hidden = network.read, network.hidden

        def reading(symbols: Tensor, *where: Any) -> Tensor:
            self.read.append((symbols.shape[0], symbols.shape[1]))
            return read(symbols, *where)

        def whole(*args: Any) -> Tensor:
            self.num_whole += 1
            return hidden(*args)

        monkeypatch.setattr(network, "read", reading)
        monkeypatch.setattr(network, "hidden", whole)


@pytest.mark.parametrize(
    "how", [{"length": 40, "top_p": 0.9}, {"block_size": 5}, {"top_k": 4, "guide": Guide({"d": 2})}], ids=str
)
def test_3_prompts_go_on_as_without_a_cache_for_4_seeds(lm, how):
    prompts = PROMPTS * 4
    made, expected = (each.generate(prompts, seed=1, **how) for each in (lm, uncached(lm)))
    assert made == expected
    assert all(text.text.startswith(prompt) for text, prompt in zip(made, prompts, strict=True))
    assert len({text.text for text in made}) > 8


def test_every_token_is_read_once_and_prompts_of_0_3_and_9_tokens_go_in_one_batch(lm, monkeypatch):
    passes = Counting(lm.network, monkeypatch)
    made = lm.generate(PROMPTS, max_new_tokens=5, seed=3)
    assert passes.num_whole == 0
    assert passes.read == [(3, 9), *[(3, 1)] * 5]
    assert [len(text.tokens) for text in made] == [8, 14, 5]
    assert [text.nfe for text in made] == [5, 5, 5]
    for i, prompt in enumerate(PROMPTS):
        assert lm.generate(prompt, max_new_tokens=5, seed=[mix_seed(3, i)]) == made[i]


def test_a_text_longer_than_the_model_reads_its_last_12_tokens_anew_every_4(lm, monkeypatch):
    passes = Counting(lm.network, monkeypatch)
    lm.generate("", length=24)
    assert passes.read == [*[(1, 1)] * 4, *([(1, 4), *[(1, 1)] * 4]), *([(1, 8), *[(1, 1)] * 4]),
                           *([(1, 12), *[(1, 1)] * 4] * 3)]  # fmt: skip


def test_a_trace_a_stream_and_on_step_show_each_text_at_its_own_length(lm):
    how: dict[str, Any] = {"max_new_tokens": 5, "seed": 3}
    made = lm.generate(PROMPTS, return_trace=True, **how)
    for text, prompt in zip(made, PROMPTS, strict=True):
        assert text.trace is not None
        assert text.trace.frames.shape == (6, len(prompt) + 5)
        assert text.trace.fixed.tolist() == [True] * len(prompt) + [False] * 5
        assert text.trace.revealed_at_step.tolist() == [0] * len(prompt) + [1, 2, 3, 4, 5]
    seen: list[Tensor] = []
    assert lm.generate(PROMPTS, on_step=lambda _, z_t: seen.append(z_t.clone()), **how) == made
    assert [tuple(z_t.shape) for z_t in seen] == [(1, 8)] * 6
    frames = [*lm.stream("abc", max_new_tokens=5, seed=[mix_seed(3, 0)])]
    assert frames[-1].tokens == seen[-1][0].tolist() == made[0].tokens
    assert [frame.tokens.count(13) for frame in frames] == [5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize(("cached", "how"), [(True, {}), (True, {"length": 40}), (False, {})], ids=str)
def test_eos_ends_its_text_and_no_other(lm, cached, how):
    lm = lm if cached else uncached(lm)
    prompts = ["", "ab"] * 8
    how = {"temperature": 2.0, **how}
    stopped = lm.generate(prompts, sampler="left_to_right:stop_at_eos=true", return_trace=True, **how)
    num_ended = 0
    wholes = lm.generate(prompts, sampler="left_to_right", **how)
    for text, whole, prompt in zip(stopped, wholes, prompts, strict=True):
        ends = EOS in whole.tokens
        assert text.tokens == (whole.tokens[: whole.tokens.index(EOS) + 1] if ends else whole.tokens)
        assert text.nfe == len(text.tokens) - len(prompt)
        assert text.trace is not None
        assert text.trace.frames[-1].tolist() == text.tokens
        num_ended += ends
    assert num_ended > 2
    assert "length" in how or num_ended < 16


def test_when_all_texts_have_ended_the_network_is_asked_no_more(lm, monkeypatch):
    passes = Counting(lm.network, monkeypatch)
    rule = LeftToRight(stop_at_eos=True, eos_id=EOS)
    monkeypatch.setattr(lm.network, "output_layer", lambda: (torch.zeros(13, 16), 99.0 * (torch.arange(13) == EOS)))
    made = lm.generate([""] * 3, length=400, sampler=rule)
    assert [text.tokens for text in made] == [[EOS]] * 3
    assert [text.nfe for text in made] == [1, 1, 1]
    assert len(passes.read) <= 16
    *_, last = lm.stream("ab", length=40, sampler=rule)
    assert last.tokens == [0, 1, EOS]


def test_a_tokenizer_without_eos_cannot_stop_there():
    with pytest.raises(UserError, match="needs a tokenizer with an end-of-document token"):
        LeftToRight(stop_at_eos=True)


@pytest.mark.parametrize("alignment", ["own", "shifted"])
def test_a_two_way_network_writes_as_a_causal_model_of_the_same_network(alignment):
    network = opinionated(TwoWayDiT(13, LENGTH, **SHAPE, alignment=alignment))
    both, causal = MaskedDiffusionLM(network, ABC), CausalLM(network, ABC)
    assert (both.default_sampler, both.gap_sampler) == ("left_to_right", "spread")
    for length in (16, 30):
        assert both.generate(PROMPTS, seed=1, length=length) == causal.generate(PROMPTS, seed=1, length=length)
    x = torch.tensor([ABC.encode("abcabcdefg")])
    expected = causal_nll(network(x), x, None).sum().item()
    assert both.score("abcabcdefg", order="left_to_right").nats == pytest.approx(expected, rel=1e-5)


def test_a_two_way_network_fills_gaps_and_writes_in_steps_by_its_masked_mode(monkeypatch):
    lm = MaskedDiffusionLM(opinionated(TwoWayDiT(13, LENGTH, **SHAPE)), ABC)
    passes = Counting(lm.network, monkeypatch)
    for template in ("ab[MASK:4]cd", "ab[MASK:4]", "ab[MASK:12]cdefg[MASK]"):
        assert lm.infill(template, seed=2) == lm.infill(template, seed=2, sampler="spread")
        assert [*lm.stream(template, seed=[2])][-1].tokens == lm.infill(template, seed=[2]).tokens
    assert lm.generate("ab", steps=3, seed=2) == lm.generate("ab", steps=3, seed=2, sampler="spread")
    canvas = Canvas(torch.tensor([[0, 0, 3, 1]]), torch.tensor([[True, False, True, False]]))
    assert lm.fill(canvas) == lm.fill(canvas, sampler="spread")
    lm.infill("ab[MASK:4]cd", sampler="left_to_right")  # the masked mode too, or what follows would not be seen
    assert passes.read == []


def test_a_causal_model_reads_what_is_given_between_gaps_without_a_cache(monkeypatch):
    lm = MAKE["causal"]()
    tokens = torch.tensor([[0, 0, 3, 1, 0, 0], [1, 2, 0, 0, 0, 0]])
    canvas = Canvas(tokens, torch.tensor([[True, False, True, False, False, False], [True] * 2 + [False] * 4]))
    passes = Counting(lm.network, monkeypatch)
    assert lm.fill(canvas, seed=[4, 5]) == uncached(lm).fill(canvas, seed=[4, 5])
    assert passes.read == []
    behind = Canvas(tokens, torch.tensor([[True, False, False, False, True, True]] * 2))  # nobody reads that far
    assert lm.fill(behind, seed=[4, 5]) == uncached(lm).fill(behind, seed=[4, 5])
    assert len(passes.read) == 4


class Recordings:
    """How much was recorded: passes of a network, and what is done with their logits between them."""

    num_passes = num_draws = 0


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> Recordings:
    """CUDA graphs without a GPU: a replay does the work again on the same inputs and overwrites the same output."""
    made = Recordings()

    class Stream:
        def wait_stream(self, _: Any) -> None: ...

    def record(work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        out = work().clone()
        made.num_passes += 1

        def replay() -> None:
            out.copy_(work())

        return replay, out

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())

    def capture(work: Callable[[], None]) -> Callable[[], None]:
        made.num_draws += 1
        return work

    monkeypatch.setattr(device_module, "record_cuda_graph", record)
    monkeypatch.setattr(device_module.Replayed, "capture", staticmethod(capture))
    monkeypatch.setattr(device_module.Replayed, "NUM_WARM_UP", 2)
    return made


def test_recorded_5_rows_then_8_then_5_write_what_unrecorded_ones_do_whatever_the_buffers_held(lm, recordings):
    plain = type(lm)(lm.network, lm.tokenizer)
    assert lm._steps is not None
    lm._steps.record(LENGTH)
    for number, num_rows in enumerate((5, 8, 5)):
        prompts = ["abc", "ab", "abcdefghi", "", "a", "bb", "c", "dd"][:num_rows]
        made, expected = (one.generate(prompts, seed=number, return_trace=True) for one in (lm, plain))
        assert made == expected
        for text, other in zip(made, expected, strict=True):
            assert text.trace is not None
            assert other.trace is not None
            assert text.trace.to_json() | {"elapsed_s": 0} == other.trace.to_json() | {"elapsed_s": 0}
        for kept in lm._steps._kept.values():
            for part in (*kept[0].cache.keys, *kept[0].cache.values):
                part.fill_(1e4)
            assert len(kept) == 1
    assert lm.generate("", length=40) == plain.generate("", length=40)
    assert recordings.num_passes == 2  # of 8 rows, and of 1
    assert recordings.num_draws > 3  # at least once for each text


@pytest.mark.parametrize("is_recorded", [True, False])
def test_texts_that_are_written_in_turns_are_those_that_are_written_one_by_one(lm, recordings, is_recorded):
    """Recorded, they shared a cache: each read the other's keys and values, and no error was seen."""

    def streams() -> list[Iterator[Frame]]:
        return [lm.stream(prompt, max_new_tokens=6, seed=[seed]) for prompt, seed in (("abc", 1), ("dd", 2))]

    expected = [[frame.confidence for frame in stream] for stream in streams()]
    if is_recorded:
        lm._steps.record(LENGTH)
    in_turns = zip(*zip(*streams(), strict=True), strict=True)
    found = [[frame.confidence for frame in frames] for frames in in_turns]
    assert [each[-1] for each in found] == [pytest.approx(each[-1], abs=1e-6, nan_ok=True) for each in expected]
    if is_recorded:
        assert len(lm._steps._kept[1]) == 2
        assert lm.generate("abc", max_new_tokens=6, seed=[1]).tokens
        assert len(lm._steps._kept[1]) == 2  # both were given back


@pytest.mark.parametrize("sampler", ["ancestral", "remask", "follow_rates", "entropy_budget"])
def test_a_recorded_network_fills_5_rows_and_2_in_turns_as_an_unrecorded_one_does(
    sampler, adaptive, recordings, monkeypatch
):
    """Five rows, which are padded to eight, and which end at different times."""

    def made() -> tuple[list[list[int]], list[tuple[list[int], list[int]]]]:
        how: dict[str, Any] = {"length": 24, "sampler": sampler, "steps": 6}
        prompts = ["", "the", "a cat", "the dog sat", "on"]
        streams = [adaptive.stream(prompt, seed=[seed], **how) for seed, prompt in enumerate(prompts[1:3])]
        in_turns = [tuple(frame.tokens for frame in frames) for frames in zip(*streams, strict=False)]
        return [text.tokens for text in adaptive.generate(prompts, seed=1, **how)], in_turns

    expected = made()
    monkeypatch.setattr(adaptive, "_hidden", Graphed(adaptive._hidden))
    assert made() == expected
    assert recordings.num_passes >= 2


def test_graphs_are_recorded_for_64_128_and_all_130_places(recordings):
    lm = CausalLM(opinionated(CausalTransformer(13, 130, **SHAPE)), ABC)
    plain = CausalLM(lm.network, ABC)
    assert lm._steps is not None
    lm._steps.record(130)
    assert lm.generate(["abc", "d"], seed=1) == plain.generate(["abc", "d"], seed=1)
    assert sorted(lm._steps._kept[2][0].graphs) == [64, 128, 130]
    assert lm.generate(["", "d"], length=70)[0].nfe == 70
    assert recordings.num_passes == 3
