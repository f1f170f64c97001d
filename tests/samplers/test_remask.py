import math

import pytest
import torch
from torch import Tensor

from mdlm_atat.errors import UserError
from mdlm_atat.samplers.canvas import Canvas
from mdlm_atat.samplers.loop import Sample, sample
from mdlm_atat.samplers.remask import Remask, Strategy
from samplers.enumerated import (
    CHANCE,
    JOINT,
    at_the_end,
    chain,
    chi_square_per_degree,
    drawn,
    how_often,
    share_masked,
    step_of_chain,
    token_probs,
    total_variation,
)
from samplers.stand_ins import says
from toys import uniform_denoiser

BY_NAME = [("cap", 0.0), ("cap", 0.3), ("rescale", 0.4), ("rescale", 1.0)]
EVERY: list[tuple[Strategy, float]] = [("cap", 0.5), ("rescale", 0.7), ("confidence", 0.3), ("confidence", 0.8)]


def steps_of(num_steps: int, strategy: str, eta: float) -> list[Tensor]:
    """The transitions of cap and rescale: to mask again does not depend on the tokens."""
    tokens, steps = token_probs(JOINT.denoise), []
    for k in range(num_steps, 0, -1):
        t, s = k / num_steps, (k - 1) / num_steps
        sigma_max = min(1, s / (1 - t)) if t < 1 else 0
        sigma = min(eta, sigma_max) if strategy == "cap" else eta * sigma_max
        steps.append(step_of_chain(tokens, 1 - (s - sigma * (1 - t)) / t, sigma))
    return steps


@pytest.mark.parametrize(("strategy", "eta"), BY_NAME)
@pytest.mark.parametrize("num_steps", [3, 8])
def test_samples_of_few_steps_follow_the_enumerated_distribution(strategy: Strategy, eta: float, num_steps: int):
    observed = how_often(Remask(num_steps=num_steps, strategy=strategy, eta=eta))
    assert chi_square_per_degree(observed, at_the_end(steps_of(num_steps, strategy, eta))) < CHANCE


@pytest.mark.parametrize("strategy", ["cap", "rescale", "confidence"])
def test_with_eta_0_it_is_ancestral_sampling_and_masks_0_tokens_again(strategy: Strategy):
    rule, num_steps = Remask(num_steps=4, strategy=strategy, eta=0.0), 4
    ancestral = [step_of_chain(token_probs(JOINT.denoise), 1 / k) for k in range(num_steps, 0, -1)]
    assert chi_square_per_degree(how_often(rule), at_the_end(ancestral)) < CHANCE
    assert drawn(rule, 100).trace.num_remasked.sum() == 0


@pytest.mark.parametrize(("strategy", "eta"), BY_NAME[1:])
def test_the_error_of_cap_and_rescale_halves_with_4_times_as_many_steps(strategy: str, eta: float):
    """At the end of a run of many steps; every step on the way keeps the share s of masked positions."""
    error = []
    for num_steps in (64, 256):
        steps = steps_of(num_steps, strategy, eta)
        for k, p in enumerate(chain(steps), start=1):
            assert share_masked(p) == pytest.approx(1 - k / num_steps, abs=1e-9)
        error.append(total_variation(at_the_end(steps), JOINT.probs))
    assert error[1] < 0.02
    assert 1.7 < error[0] / error[1] < 2.5


@pytest.mark.parametrize(("strategy", "eta"), EVERY)
@pytest.mark.parametrize("length", [1, 3])
def test_after_every_one_of_8_steps_the_expected_share_masked_is_s(strategy: Strategy, eta: float, length: int):
    """Rows in which nothing is revealed yet, or everything, included: in rows of 1 token there are no others."""
    num_rows, num_steps = 3000, 8
    result = sample(
        says([[0.9, 0.1], [0.5, 0.5], [0.7, 0.3]][:length]),
        Canvas.blank(num_rows, length, 2),
        Remask(num_steps=num_steps, strategy=strategy, eta=eta),
        mask_id=2,
        seeds=range(num_rows),
        keep_frames=True,
    )
    assert result.trace.frames is not None
    for k, frame in enumerate(result.trace.frames):
        s = 1 - k / num_steps
        share = (frame == 2).double().mean(1)
        assert share.mean().item() == pytest.approx(s, abs=4 * math.sqrt(s * (1 - s) / num_rows) + 1e-9)


def independent(strategy: Strategy, length: int, num_rows: int, *, eta: float = 0.3) -> Sample:
    """Rows of independent tokens: 0 with probability 0.8 and 1 with 0.2."""
    rule, canvas = Remask(num_steps=16, strategy=strategy, eta=eta), Canvas.blank(num_rows, length, 2)
    denoise = says([[0.8, 0.2]] * length)
    return sample(denoise, canvas, rule, mask_id=2, seeds=range(num_rows), keep_frames=True)


@pytest.mark.parametrize(
    ("strategy", "eta", "ratio"),
    # at eta 0.8, 0.145 of softmax and the rest 1 / n keep every rate below 1: 1 + and - 0.145 tanh(0.3)
    [("rescale", 0.3, 1), ("confidence", 0.3, math.exp(0.6)), ("confidence", 0.8, 1.0884)],
)
def test_of_tokens_of_probability_8_and_2_tenths_the_second_is_taken_back_e_to_the_0_6_times_as_often(
    strategy: Strategy, eta: float, ratio: float
):
    """And one of them as often as rescale takes back either."""
    frames = independent(strategy, 2, 4000, eta=eta).trace.frames
    assert frames is not None
    before, after = frames[:-1], frames[1:]
    one_each = before.sort(-1).values.eq(torch.tensor([0, 1])).all(-1, keepdim=True)
    taken = [(one_each & (before == token) & (after == 2)).sum().item() for token in (0, 1)]
    assert min(taken) > 400
    assert taken[1] / taken[0] == pytest.approx(ratio, rel=4 * math.sqrt(1 / taken[0] + 1 / taken[1]))
    k = torch.arange(1, 16)
    rate = eta * ((16 - k - 1) / k).clamp(0, 1)  # eta sigma_max, from t = 1 - k / 16
    expected = (one_each[1:].sum(1)[:, 0] * 2 * rate).sum().item()
    assert sum(taken) == pytest.approx(expected, rel=4 / math.sqrt(expected))


def test_confidence_makes_even_an_exact_denoisers_texts_likelier_than_they_are():
    """Unlike cap and rescale: with independent tokens, which those draw exactly in any number of steps."""
    share = {}
    strategies: tuple[Strategy, ...] = ("cap", "rescale", "confidence")
    for strategy in strategies:
        tokens = independent(strategy, 10, 1000).tokens
        share[strategy] = (tokens == 0).double().mean().item()
    error = math.sqrt(0.8 * 0.2 / 10_000)
    assert share["cap"] == pytest.approx(0.8, abs=3.5 * error)
    assert share["rescale"] == pytest.approx(0.8, abs=3.5 * error)
    assert share["confidence"] > 0.8 + 6 * error


def test_a_token_is_masked_again_as_often_as_the_frames_show_and_its_last_step_counts():
    rule = Remask(num_steps=12, strategy="rescale", eta=0.5)
    canvas = Canvas.with_prefixes([[1], [0, 0]], 5, 2)
    result = sample(uniform_denoiser(2), canvas, rule, mask_id=2, seeds=[0, 1], keep_frames=True)
    frames, trace = result.trace.frames, result.trace
    assert frames is not None
    again = (frames[:-1] != 2) & (frames[1:] == 2)
    assert again.sum() > 5
    assert trace.num_remasked.equal(again.sum(0))
    set_at = ((frames[:-1] == 2) & (frames[1:] != 2)).long() * torch.arange(1, 13)[:, None, None]
    assert trace.revealed_at_step.equal(set_at.amax(0))
    # the cost counts every draw, also of what was taken back: log 2 each here
    draws = trace.num_remasked.sum(1) + (~canvas.fixed).sum(1)
    torch.testing.assert_close(trace.nll, draws.double() * math.log(2))


@pytest.mark.parametrize("eta", [-0.1, 1.1, math.nan])
def test_eta_lies_between_0_and_1(eta: float):
    with pytest.raises(UserError, match=f"eta is {eta}, expected from 0"):
        Remask(eta=eta)
