"""What holds for every step rule, in blocks and alone, on rows of any shape."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mdlm_atat.core.denoiser import Prediction
from mdlm_atat.nets.dit import ATATDiT
from mdlm_atat.samplers import loop
from mdlm_atat.samplers.ancestral import Ancestral
from mdlm_atat.samplers.blocks import Blocks
from mdlm_atat.samplers.canvas import Canvas
from mdlm_atat.samplers.draw import TokenDraw
from mdlm_atat.samplers.first_hitting import FirstHitting
from mdlm_atat.samplers.loop import Sample, StepRule, sample
from mdlm_atat.samplers.remask import Remask
from mdlm_atat.samplers.stops import Stop
from mdlm_atat.samplers.uncertainty import UncertaintyGuidedSampler
from samplers.enumerated import Denoise
from samplers.stand_ins import RULES, STOPPING, Hashed, examples

every_rule = pytest.mark.parametrize("name", RULES)


@dataclass(frozen=True)
class Rows:
    """Rows of different prompts and seeds, the first with nothing fixed and the last with the most."""

    canvas: Canvas
    vocab_size: int
    seeds: tuple[int, ...]

    def fill(self, rule: StepRule, rows: list[int] | None = None, denoise: Denoise | None = None) -> Sample:
        rows = list(range(len(self.seeds))) if rows is None else rows
        return sample(
            denoise or Hashed(self.vocab_size),
            Canvas(self.canvas.tokens[rows], self.canvas.fixed[rows]),
            rule,
            mask_id=self.vocab_size,
            seeds=[self.seeds[row] for row in rows],
        )


@st.composite
def some_rows(draw: st.DrawFn, at_least: int = 1, most_fixed: float = 1.0) -> Rows:
    num_rows, length, vocab_size = draw(st.integers(at_least, 5)), draw(st.integers(1, 8)), draw(st.integers(3, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    tokens = torch.randint(0, vocab_size, (num_rows, length), generator=generator)
    share = torch.linspace(0, most_fixed, num_rows) if num_rows > 1 else torch.tensor([most_fixed / 2])
    fixed = torch.rand(num_rows, length, generator=generator) < share[:, None]
    seeds = draw(st.lists(st.integers(-(2**31), 2**31), min_size=num_rows, max_size=num_rows))
    return Rows(Canvas(tokens, fixed), vocab_size, tuple(seeds))


@st.composite
def some_blocks(draw: st.DrawFn) -> dict[str, int] | None:
    if draw(st.booleans()):
        return None
    size = draw(st.integers(1, 4))
    return {"size": size, "window": size + draw(st.integers(0, 6)), "look_ahead": draw(st.integers(0, 3))}


def in_blocks(rule: StepRule, blocks: dict[str, int] | None) -> StepRule:
    return rule if blocks is None else Blocks(inner=rule, **blocks)


@every_rule
@given(rows=some_rows(), blocks=some_blocks())
@examples(4)
def test_0_fixed_positions_change_0_masks_survive_and_no_row_asks_more_often_than_promised(
    name: str, rows: Rows, blocks: dict[str, int] | None
):
    rule, denoise, num_asked = in_blocks(RULES[name], blocks), Hashed(rows.vocab_size), []

    def counting(z_t: Tensor, t: Tensor) -> Prediction:
        num_asked.append(len(z_t))
        return denoise(z_t, t)

    result, fixed = rows.fill(rule, denoise=counting), rows.canvas.fixed
    trace = result.trace
    assert result.tokens[fixed].equal(rows.canvas.tokens[fixed])
    assert (result.tokens[~fixed] < rows.vocab_size - 1).all()  # the last token has probability 0, the next is [MASK]
    assert (trace.revealed_at_step == 0).equal(fixed)
    assert int(trace.revealed_at_step.max()) <= trace.entropy.shape[1]
    assert trace.confidence.isnan().equal(fixed)
    assert (trace.num_remasked[fixed] == 0).all()
    if "remask" not in name:
        torch.testing.assert_close(trace.nll, -trace.confidence.log().nansum(1))
        assert (trace.num_remasked == 0).all()
    for nfe, number in zip(trace.nfe.tolist(), (~fixed).sum(1).tolist(), strict=True):
        assert nfe <= rule.max_nfe(number)
        assert (nfe == 0) == (number == 0)
    assert sum(num_asked) == trace.nfe.sum()
    assert 0 not in num_asked


@every_rule
def test_the_promise_is_one_evaluation_a_token_and_at_most_one_a_step_or_one_a_step_where_every_step_asks(name: str):
    rule = RULES[name]
    steps = getattr(rule, "num_steps", None)
    if name in ("ancestral_uncached", "follow_rates") or "remask" in name:
        assert [rule.max_nfe(number) for number in (0, 2, 100)] == [0, steps, steps]
    elif "dilated" in name:  # 25 blocks of 2 rounds; 3; 12 blocks of 3 and one of 2
        by_name = {"dilated": [0, 1, 50], "dilated_in_3": [0, 2, 3], "dilated_skips": [0, 1, 38]}
        assert [rule.max_nfe(number) for number in (0, 2, 100)] == by_name[name]
    elif name == "segments":  # 3 parts of 100 places, and of 2 places each a part
        assert [rule.max_nfe(number) for number in (0, 2, 100)] == [0, 1, 34]
    else:
        at_once = getattr(rule, "tokens_a_step", None) or 1
        expected = [0, math.ceil(2 / at_once), steps or math.ceil(100 / at_once)]
        assert [rule.max_nfe(number) for number in (0, 2, 100)] == expected
    assert Blocks(inner=rule, size=2, window=4).max_nfe(3) == 3 * rule.max_nfe(1)


@every_rule
def test_a_canvas_with_nothing_to_fill_comes_back_after_0_steps(name: str):
    canvas = Canvas(torch.tensor([[1, 0, 1]]), torch.ones(1, 3, dtype=torch.bool))
    result = sample(Hashed(3), canvas, RULES[name], mask_id=3, seeds=[0])
    assert result.tokens.equal(canvas.tokens)
    assert result.trace.entropy.shape == (1, 0)


@every_rule
@given(rows=some_rows(at_least=2, most_fixed=0.9), blocks=some_blocks())
@examples(3)
def test_a_row_is_the_same_alone_and_with_up_to_4_others(name: str, rows: Rows, blocks: dict[str, int] | None):
    rule = in_blocks(RULES[name], blocks)
    together = rows.fill(rule)
    for row in (0, len(rows.seeds) - 1):
        alone = rows.fill(rule, [row])
        assert alone.tokens[0].equal(together.tokens[row])
        exact = ["nfe", "num_remasked"]
        if blocks is None:  # the loop's steps go on while others are still in an earlier block
            exact.append("revealed_at_step")
        for field in exact:
            assert getattr(alone.trace, field)[0].equal(getattr(together.trace, field)[row])
        for field in ("confidence", "nll"):
            one, other = getattr(alone.trace, field)[0], getattr(together.trace, field)[row]
            torch.testing.assert_close(one, other, equal_nan=True)


@every_rule
def test_rows_of_different_seeds_differ_and_those_of_one_seed_are_the_same(name: str):
    rows = Rows(Canvas.blank(4, 12, 5), 5, (1, 2, 1, 3))
    rule = RULES[name] if name != "greedy" else replace(RULES[name], draw=TokenDraw())  # type: ignore[type-var]
    tokens = rows.fill(rule).tokens
    assert tokens[0].equal(tokens[2])
    assert not tokens[0].equal(tokens[1])
    assert not tokens[1].equal(tokens[3])


@pytest.mark.parametrize("name", STOPPING)
@given(rows=some_rows(most_fixed=0.5), seed=st.integers(0, 10**6))
@examples(5)
def test_stopping_leaves_what_was_revealed_before_as_it_was(name: str, rows: Rows, seed: int):
    """Up to the step in which a row stops it is the row that goes on."""
    rule = RULES[name]
    assert isinstance(rule, UncertaintyGuidedSampler)
    stopped, others = rows.fill(rule), rows.fill(replace(rule, stop=Stop()))
    before = stopped.trace.revealed_at_step < stopped.trace.revealed_at_step.amax(1, keepdim=True)
    assert stopped.tokens[before].equal(others.tokens[before])
    assert stopped.trace.revealed_at_step[before].equal(others.trace.revealed_at_step[before])
    assert (stopped.trace.nfe <= others.trace.nfe).all()
    assert stopped.trace.nfe.equal(stopped.trace.revealed_at_step.amax(1))


@every_rule
def test_a_bound_of_40_numbers_in_memory_leaves_every_sample_as_it_was(name: str, monkeypatch: pytest.MonkeyPatch):
    tokens = torch.arange(30).view(3, 10) % 4
    rows = Rows(Canvas(tokens, tokens == 3), 4, (1, 2, 3))
    rule = replace(RULES[name], num_steps=2) if name == "first_hitting" else RULES[name]  # type: ignore[type-var]
    free = rows.fill(rule)
    monkeypatch.setattr(loop, "MAX_DISTRIBUTION_ENTRIES", 40)
    denoise = Hashed(4)
    bound = rows.fill(rule, denoise=denoise)
    assert bound.tokens.equal(free.tokens)
    assert bound.trace.revealed_at_step.equal(free.trace.revealed_at_step)
    torch.testing.assert_close(bound.trace.nll, free.trace.nll)
    torch.testing.assert_close(bound.trace.entropy, free.trace.entropy, equal_nan=True)
    for num_rows, num_positions in denoise.asked:
        assert num_positions == 1 or num_rows * num_positions * 4 <= 40


@pytest.mark.parametrize(
    "rule",
    [
        Ancestral(num_steps=10),
        FirstHitting(),
        UncertaintyGuidedSampler(num_steps=None, order="most_uncertain"),
        Remask(num_steps=8, eta=0.1),
        Blocks(inner=UncertaintyGuidedSampler(num_steps=3), size=6, window=12),
    ],
    ids=lambda rule: type(rule).__name__,
)
def test_a_float32_network_gives_a_row_the_same_text_alone_and_in_a_batch_of_5(rule: StepRule):
    """Its arithmetic differs by rounding, about 1e-6 nats: too little to move a draw or an order here."""
    torch.manual_seed(0)
    network = ATATDiT(11, 16, num_layers=2, width=16, num_heads=2).eval()
    for p in network.parameters():  # zero-initialised layers would hide what they do
        torch.nn.init.normal_(p, std=0.3)
    seeds, canvas = [7, 8, 9, 10, 11], Canvas.with_prefixes([[1], [], [2, 3, 4], [], [5] * 9], 16, 11)
    together = sample(network, canvas, rule, mask_id=11, seeds=seeds)
    for row in (2, 4):
        one = Canvas(canvas.tokens[row : row + 1], canvas.fixed[row : row + 1])
        alone = sample(network, one, rule, mask_id=11, seeds=[seeds[row]])
        assert alone.tokens[0].equal(together.tokens[row])
        torch.testing.assert_close(alone.trace.nll[0], together.trace.nll[row], rtol=0, atol=1e-3)


def test_blocks_within_blocks_do_not_use_a_random_number_twice():
    """Every place of the text is filled with the number it is drawn by: 40,000 tokens, none of them twice."""

    def uniform(z_t: Tensor, t: Tensor) -> Tensor:
        return torch.zeros(*z_t.shape, 40_000)

    rule = Blocks(inner=Blocks(inner=FirstHitting(num_steps=1), size=2, window=4), size=4, window=4)
    tokens = sample(uniform, Canvas.blank(1, 24, 40_000), rule, mask_id=40_000, seeds=[3]).tokens
    assert len(tokens.unique()) == 24
