"""The loss and the likelihood of answers under their prompts, on a joint small enough to enumerate: with its exact
conditionals in the place of a network, what answers cost is their conditional entropy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mdlm_atat.config.build import build_model, build_objective
from mdlm_atat.config.files import load_config
from mdlm_atat.core.denoiser import AtMaskRate, Prediction
from mdlm_atat.core.left_to_right import CausalNLL
from mdlm_atat.core.masking import scored_positions
from mdlm_atat.core.objective import Draw, count_weights
from mdlm_atat.core.schedules import Linear
from mdlm_atat.core.strategies.by_importance import AdaptiveMaskingScheduler
from mdlm_atat.core.strategies.by_position import PositionAwareMaskingScheduler
from mdlm_atat.core.strategies.literal import LiteralMasking
from mdlm_atat.core.strategies.rates import Clean
from mdlm_atat.core.times import UniformTime, Weighting
from mdlm_atat.samplers.blocks import Blocks
from mdlm_atat.samplers.canvas import Canvas
from mdlm_atat.samplers.follow_rates import FollowRates, RateHitting
from mdlm_atat.samplers.left_to_right import LeftToRight
from mdlm_atat.samplers.loop import StepRule, sample
from mdlm_atat.scoring import continuation
from mdlm_atat.scoring.continuation import Continuation
from mdlm_atat.scoring.deciles import token_counts
from mdlm_atat.scoring.draws import DrawSettings
from mdlm_atat.scoring.exact import exact_nll
from mdlm_atat.scoring.likelihood import all_masked_nll, draw_nll
from mdlm_atat.scoring.schedule_bound import draw_schedule_nll
from mdlm_atat.scoring.unigram import unigram_log_probs, unigram_nll
from toys import CausalTable, Joint, ListRows, all_masks, mdlm

LENGTH = 4
JOINT = Joint.random(length=LENGTH, vocab=3)
ROWS = JOINT.sequences.repeat_interleave(JOINT.counts, dim=0)  # (96, 4)
PROMPTS = torch.arange(len(ROWS)) % LENGTH  # of 0 to 3 tokens
PROMPT = 2
SLOPE = PositionAwareMaskingScheduler(Linear(), "slope", 2.0)


def objective():
    schedule, density = Linear(), UniformTime()
    return mdlm(schedule, density, Weighting("elbo", schedule, density), JOINT.mask_id)


def nll_of_answers(prompt: int) -> Tensor:
    """-log p(answer | prompt) of every sequence, exactly (N,)."""
    begins = (JOINT.sequences[:, None, :prompt] == JOINT.sequences[None, :, :prompt]).all(-1)
    return (begins.double() @ JOINT.probs).log() - JOINT.probs.log()


def entropy_of_answers(prompt: int) -> float:
    nll = torch.where(JOINT.counts > 0, nll_of_answers(prompt), 0.0)
    return (JOINT.probs * nll).sum().item()


def lengths() -> Tensor:
    return torch.full((len(ROWS),), LENGTH)


def test_places_that_are_scored_begin_after_the_prompt_and_end_with_the_text():
    scored = scored_positions(torch.tensor([5, 3, 1]), 5, torch.tensor([2, 0, 0]))
    assert scored.int().tolist() == [[0, 0, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]


@pytest.mark.parametrize("t", [0.01, 0.5, 1.0])
def test_no_prompt_has_a_mask_and_at_t_1_all_of_every_answer_is_masked(t: float):
    seen: list[Tensor] = []

    def denoise(z_t: Tensor, t: Tensor, lengths: Tensor | None = None) -> Tensor:
        seen.append(z_t)
        return JOINT.denoise(z_t, t, lengths)

    draw = objective().draw(len(ROWS), LENGTH, torch.Generator().manual_seed(0))
    draw.t.fill_(t)
    objective().loss(denoise, ROWS, lengths(), draw, 1, prompts=PROMPTS)
    is_mask, given = seen[0] == JOINT.mask_id, torch.arange(LENGTH) < PROMPTS[:, None]
    assert not (is_mask & given).any()
    assert t < 1 or is_mask.equal(~given)


def test_the_loss_at_one_time_is_the_weighted_mean_over_all_masks_of_the_answer():
    """At t = 1/2 every mask of two places is as likely as the others: four uniform numbers draw all of them."""
    found = 0.0
    for places in itertools.product([0.25, 0.75], repeat=LENGTH - PROMPT):
        uniform = torch.tensor([0.0] * PROMPT + list(places)).expand(len(ROWS), -1)  # a prompt that would be masked
        draw = Draw(torch.full((len(ROWS),), 0.5, dtype=torch.float64), uniform)
        prompts = torch.full((len(ROWS),), PROMPT)
        found += objective().loss(JOINT.denoise, ROWS, lengths(), draw, len(ROWS), prompts=prompts).total.item() / 4
    expected = sum(
        2 * 0.25 * masked_cost(torch.cat([torch.zeros(PROMPT, dtype=torch.bool), mask]))  # 1/t = 2
        for mask in all_masks(LENGTH - PROMPT)
    )
    assert found == pytest.approx(expected, rel=1e-10)


def masked_cost(is_masked: Tensor) -> float:
    """Mean over the rows of the cost of masked tokens."""
    z_t = torch.where(is_masked, JOINT.mask_id, ROWS)
    log_probs = JOINT.denoise(z_t, torch.zeros(len(z_t)))
    nll = -log_probs.gather(-1, ROWS[..., None])[..., 0]
    return torch.where(is_masked, nll, 0.0).sum(1).mean().item()


def test_weights_of_1_over_n_of_the_answer_alone_give_its_conditional_entropy():
    weights = count_weights(LENGTH - PROMPT).tolist()
    bound = 0.0
    for mask in all_masks(LENGTH - PROMPT)[1:]:
        number = int(mask.sum())
        share = 1 / math.comb(LENGTH - PROMPT, number)
        bound += weights[number] * share * masked_cost(torch.cat([torch.zeros(PROMPT, dtype=torch.bool), mask]))
    assert bound == pytest.approx(entropy_of_answers(PROMPT), rel=1e-10)
    assert bound < 0.9 * JOINT.entropy_nats


def test_the_training_loss_estimates_the_conditional_entropy_within_four_standard_errors():
    generator, mean_length = torch.Generator().manual_seed(0), (LENGTH - PROMPTS).double().mean().item()
    losses = torch.stack([
        objective().loss(
            JOINT.denoise,
            ROWS,
            lengths(),
            objective().draw(len(ROWS), LENGTH, generator),
            len(ROWS) * mean_length,
            prompts=PROMPTS,
        ).total
        for _ in range(1000)
    ])  # fmt: skip
    nll = torch.stack([nll_of_answers(prompt) for prompt in range(LENGTH)])  # (prompts, N)
    each = torch.where(JOINT.counts > 0, nll, 0.0).repeat_interleave(JOINT.counts, dim=1)  # (prompts, rows)
    expected = each[PROMPTS, torch.arange(len(ROWS))].mean().item() / mean_length
    error = losses.std().item() / len(losses) ** 0.5
    assert abs(losses.mean().item() - expected) < 4 * error
    assert error < 0.02 * expected


def test_the_causal_loss_is_the_conditional_entropy_exactly_and_scores_the_last_token():
    for prompt in range(LENGTH):
        prompts, draw = torch.full((len(ROWS),), prompt), Draw(torch.zeros(len(ROWS)), torch.zeros(len(ROWS), LENGTH))
        loss = CausalNLL().loss(CausalTable(JOINT), ROWS, lengths(), draw, len(ROWS), prompts=prompts)
        assert loss.total.item() == pytest.approx(entropy_of_answers(prompt), rel=1e-10)


def answer_rows() -> ListRows:
    return ListRows(ROWS.numpy(), prompts=PROMPTS.numpy())


def exact_of_rows() -> float:
    nll = torch.stack([nll_of_answers(prompt) for prompt in range(LENGTH)]).repeat_interleave(JOINT.counts, dim=1)
    return nll[PROMPTS, torch.arange(len(ROWS))].sum().item() / (LENGTH - PROMPTS).sum().item()


def test_the_likelihood_left_to_right_of_answers_is_exact_per_token_of_them():
    found = exact_nll(CausalTable(JOINT), answer_rows(), draws=DrawSettings(num_draws=96))
    assert found.nats_per_token == pytest.approx(exact_of_rows(), rel=1e-10)


def test_the_bound_of_answers_is_their_exact_cost_within_four_standard_errors():
    found = draw_nll(
        JOINT.denoise,
        answer_rows(),
        draws=DrawSettings(num_draws=9600, batch_size=960),
        mask_id=JOINT.mask_id,
        groups=torch.eye(3, dtype=torch.float64),
        with_all_masked=True,
    )
    nats, error = found.nelbo()
    assert abs(nats - exact_of_rows()) < 4 * error
    assert error < 0.03 * nats
    assert (found.num_masked <= found.lengths).all()
    assert found.by_group is not None
    assert found.by_group.num_tokens.sum(1).equal(found.lengths.double())  # no token of a prompt is in a group


def test_an_answer_that_is_masked_whole_still_sees_its_prompt():
    marginals = all_masked_nll(JOINT.denoise, ROWS, lengths(), JOINT.mask_id, PROMPTS)
    last = PROMPTS == LENGTH - 1  # answers of one token, whose bound is exact
    nll = nll_of_answers(LENGTH - 1).repeat_interleave(JOINT.counts)
    torch.testing.assert_close(marginals[last], nll[last])


class Listener:
    """The exact conditionals, and which share of each row's places held a mask beside the time that was told."""

    def __init__(self) -> None:
        self.told, self.masked = torch.zeros(0), torch.zeros(0)

    def __call__(self, z_t: Tensor, t: Tensor, lengths: Tensor | None = None) -> Tensor:
        self.told = torch.cat([self.told, t])
        self.masked = torch.cat([self.masked, (z_t == JOINT.mask_id).float().mean(1)])
        return JOINT.denoise(z_t, t, lengths)


@pytest.mark.parametrize("t", [0.125, 0.5, 1.0])
def test_in_training_the_time_is_the_share_of_masks_that_is_to_be_expected_in_the_row_with_its_prompt(t: float):
    denoise = Listener()
    draw = objective().draw(len(ROWS), LENGTH, torch.Generator().manual_seed(0))
    draw.t.fill_(t)
    objective().loss(denoise, ROWS, lengths(), draw, 1, prompts=PROMPTS)
    assert denoise.told.equal(t * (LENGTH - PROMPTS) / LENGTH)
    assert t < 1 or denoise.told.equal(denoise.masked)
    objective().loss(denoise, ROWS, lengths(), draw, 1, prompts=0 * PROMPTS)
    assert (denoise.told[len(ROWS) :] == t).all()


def likelihood_of_answers(denoise: Listener) -> None:
    draws = DrawSettings(num_draws=96, batch_size=96)
    draw_nll(denoise, answer_rows(), draws=draws, mask_id=JOINT.mask_id, with_all_masked=True)


def continuations(denoise: Listener) -> None:
    each = [Continuation(row[:prompt], row[prompt:], 0) for row, prompt in zip(ROWS.tolist(), PROMPTS, strict=True)]
    continuation.bound(denoise, each, draws=DrawSettings(num_draws=32), mask_id=JOINT.mask_id)


def own_order(denoise: Listener) -> None:
    given = torch.arange(LENGTH) < PROMPTS[:, None]
    canvas = Canvas(torch.where(given, ROWS, JOINT.mask_id), given)
    sample(denoise, canvas, LeftToRight(), mask_id=JOINT.mask_id, seeds=range(len(ROWS)), known=ROWS)


@pytest.mark.parametrize("use", [likelihood_of_answers, continuations, own_order])
def test_where_an_answer_is_scored_the_time_is_the_share_of_masks_in_the_row_with_its_prompt(
    use: Callable[[Listener], None],
):
    denoise = Listener()
    use(denoise)
    assert len(denoise.told) > len(ROWS)
    torch.testing.assert_close(denoise.told, denoise.masked)


@pytest.mark.parametrize("shape", ["slope", "u_shape"])
def test_masks_by_position_fall_on_an_answer_as_on_a_text_of_its_length(shape: Literal["slope", "u_shape"]):
    """Counted from the start of the row, the u of an answer of 2 tokens behind 28 has w of exp(6000) and more."""
    masking, t = PositionAwareMaskingScheduler(Linear(), shape, 2.0), torch.tensor([0.3], dtype=torch.float64)
    place = torch.arange(32)[None]
    for number in (2, 5):
        alone = masking(t, Clean(place[:, :number] < number))
        behind = masking(t, Clean((place >= 30 - number) & (place < 30)))
        answer = slice(30 - number, 30)
        torch.testing.assert_close(behind.mask_rate[:, answer], alone.mask_rate)
        torch.testing.assert_close(behind.speed[:, answer], alone.speed)
        assert behind.mask_rate[:, answer].mean().item() == pytest.approx(0.3, abs=1e-9)


BIAS = torch.arange(32, dtype=torch.float64).cos()  # no line: a softmax of one does not see where it begins
BY_IMPORTANCE_AND_PLACE = {
    "time_only": AdaptiveMaskingScheduler(Linear(), "time_only", position_bias=BIAS),
    "inverse": AdaptiveMaskingScheduler(Linear(), "inverse", position_bias=BIAS),
    "balanced": AdaptiveMaskingScheduler(Linear(), "balanced", 2.0, position_bias=BIAS),
    "literal": LiteralMasking(Linear(), "literal_importance", "inverse", position_bias=BIAS),
}


@pytest.mark.parametrize("masking", BY_IMPORTANCE_AND_PLACE.values(), ids=BY_IMPORTANCE_AND_PLACE)
def test_a_bias_by_place_beside_importance_falls_on_an_answer_of_5_behind_25_as_on_a_text_of_5(masking):
    t, place = torch.tensor([0.3], dtype=torch.float64), torch.arange(32)[None]
    importance = torch.rand(1, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    alone = masking(t, Clean(place[:, :5] < 5, importance=importance))
    behind = masking(t, Clean((place >= 25) & (place < 30), importance=F.pad(importance, (25, 2), value=0.5)))
    for of_behind, of_alone in ((behind.mask_rate, alone.mask_rate), (behind.speed, alone.speed)):
        torch.testing.assert_close(of_behind[:, 25:30], of_alone)


@pytest.mark.parametrize("form", ["continuous", "order"])
def test_under_a_schedule_of_its_own_the_time_is_its_mask_rate_times_what_is_no_prompt(form: Literal["continuous"]):
    """Of rows of 4 with a prompt of 2 it is at most 1/2, and in the order form the share of masks."""
    denoise = Listener()
    rows = ListRows(ROWS.numpy(), prompts=np.full(len(ROWS), PROMPT))
    draws = DrawSettings(num_draws=96, batch_size=96)
    draw_schedule_nll(denoise, rows, masking=SLOPE, form=form, draws=draws, mask_id=JOINT.mask_id)
    if form == "order":
        torch.testing.assert_close(denoise.told, denoise.masked)
    assert 0.45 < denoise.told.max() <= 0.5


@pytest.mark.parametrize("rule", [FollowRates(num_steps=4), RateHitting()])
def test_a_rule_that_follows_rates_tells_the_share_of_masks_and_asks_at_the_mask_rate_of_the_answer(rule: StepRule):
    """At step k of 4 of an answer of 2 of 4 tokens, rates are those of 1 - k/4, and the network is told half of it."""
    asked: list[tuple[float, float]] = []

    def ask(z_t: Tensor, t: Tensor, rate: Tensor, to_fill: Tensor) -> Prediction:
        asked.append((t[0].item(), rate[0].item()))
        assert to_fill.tolist() == [[place >= PROMPT for place in range(LENGTH)]]
        assert isinstance(rule, FollowRates) or t[0] == (z_t[0] == JOINT.mask_id).float().mean()
        return Prediction(Prediction.of(JOINT.denoise(z_t, t)).logits, torch.ones(z_t.shape))

    fixed = (torch.arange(LENGTH) < PROMPT)[None]
    canvas = Canvas(torch.where(fixed, ROWS[:1], JOINT.mask_id), fixed)
    sample(AtMaskRate(ask), canvas, rule, mask_id=JOINT.mask_id, seeds=[2])
    assert asked[0] == (0.5, 1.0)
    assert all(told == rate / 2 for told, rate in asked)


@pytest.mark.parametrize("rule", [FollowRates(num_steps=2), RateHitting()])
def test_masks_of_later_blocks_are_told_and_are_no_more_given_than_those_of_the_block(rule: StepRule):
    """A block of 2 in a row of 4: all of the row is masked at first. Then the first two tokens are given."""
    asked: list[tuple[float, float]] = []

    def ask(z_t: Tensor, t: Tensor, rate: Tensor, to_fill: Tensor) -> Prediction:
        asked.append((t[0].item(), rate[0].item()))
        assert to_fill.all()  # of the whole row, though a block is filled
        return Prediction(Prediction.of(JOINT.denoise(z_t, t)).logits, torch.ones(z_t.shape))

    blocks = Blocks(inner=rule, size=2, window=LENGTH)
    sample(AtMaskRate(ask), Canvas.blank(1, LENGTH, JOINT.mask_id), blocks, mask_id=JOINT.mask_id, seeds=[3])
    assert asked == [(1, 1), (0.75, 0.75), (0.5, 1), (0.25, 0.5)]


def test_a_window_is_asked_about_with_what_was_not_given_in_it():
    """Blocks of 2 in windows of 3, of a row of 4 whose first token is given: 0 to 2, and then 1 to 3."""
    asked: list[list[bool]] = []

    def ask(z_t: Tensor, t: Tensor, rate: Tensor, to_fill: Tensor) -> Prediction:
        asked.append(to_fill[0].tolist())
        return Prediction(Prediction.of(torch.zeros(*z_t.shape, 2)).logits, torch.ones(z_t.shape))

    rule = Blocks(inner=FollowRates(num_steps=1), size=2, window=3)
    sample(AtMaskRate(ask), Canvas.with_prefixes([[0]], 4, 2), rule, mask_id=2, seeds=[0])
    assert asked == [[False, True, True], [True, True, True]]


def test_the_floor_to_beat_and_counts_are_of_the_answers():
    assert token_counts(answer_rows(), 3).sum() == (LENGTH - PROMPTS).sum()
    counts = np.array([5, 1, 2])
    scored = torch.arange(LENGTH) >= PROMPTS[:, None]
    expected = -unigram_log_probs(counts)[ROWS[scored]].mean().item()
    assert unigram_nll(answer_rows(), counts)[0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("preset", "method"), [("demo", "mdlm"), ("demo", "position_slope"), ("causal-char", None)])
def test_answers_of_1_and_9_tokens_in_two_micro_batches_have_the_gradient_of_one_batch_of_10(preset, method):
    config, counts = load_config(preset, method), np.arange(1, 21) * 10
    torch.manual_seed(0)
    model = build_model(config, 20, counts).eval()  # no dropout
    objective = build_objective(config, 20, counts, model)
    x0 = torch.randint(0, 20, (4, 12), generator=torch.Generator().manual_seed(1))
    lengths, prompts = torch.tensor([12, 12, 10, 12]), torch.tensor([11, 11, 1, 3])  # answers of 1, 1, 9 and 9
    draw = objective.draw(4, 12, torch.Generator().manual_seed(2))

    def gradients(*parts: slice) -> Tensor:
        model.zero_grad()
        for part in parts:
            objective.loss(model, x0[part], lengths[part], draw[part], 20.0, prompts=prompts[part]).total.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    whole = gradients(slice(0, 4))
    assert (gradients(slice(0, 2), slice(2, 4)) - whole).norm() < 1e-6 * whole.norm()
