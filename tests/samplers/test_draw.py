from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from mdlm_atat.errors import UserError
from mdlm_atat.samplers.canvas import Canvas
from mdlm_atat.samplers.draw import TokenDraw, inverse_cdf
from mdlm_atat.samplers.loop import Reverse, sample
from toys import uniform_denoiser

VOCAB, RARE = 50_257, 40_000


def with_a_rare_token() -> Tensor:
    """Probabilities (V,): 1e-9 of token RARE, and all others alike."""
    probs = torch.full((VOCAB,), (1 - 1e-9) / (VOCAB - 1), dtype=torch.float64)
    probs[RARE] = 1e-9
    return probs


def test_a_token_of_probability_1e_9_among_50257_is_drawn_exactly_on_its_interval():
    probs = with_a_rare_token()
    logits = probs.log()[None].expand(4, -1)
    start = probs[:RARE].sum().item()
    uniform = torch.tensor([start - 1e-10, start + 1e-10, start + 9e-10, start + 1.1e-9], dtype=torch.float64)
    assert TokenDraw()(logits, uniform).tolist() == [RARE - 1, RARE, RARE, RARE + 1]


class RevealBy:
    """Everything in one step, by the numbers that are given."""

    def __init__(self, uniform: Tensor) -> None:
        self.uniform = uniform

    def __call__(self, state: Reverse) -> Iterator[None]:
        rows, length = torch.arange(len(state.z_t)), state.z_t.shape[1]
        positions = torch.arange(length).expand(len(rows), -1)
        state.reveal(state.predict(rows), rows, positions, positions >= 0, TokenDraw(), self.uniform)
        yield

    def max_nfe(self, num_to_fill: int) -> int:
        return min(num_to_fill, 1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_whole_sampler_draws_a_token_of_probability_1e_9_for_10_numbers_1e_10_apart(dtype):
    """Of 50 around its interval 10 fall into it, from float32 logits too."""
    probs = with_a_rare_token()
    start = torch.softmax(probs.log().to(dtype).double(), 0)[:RARE].sum().item()
    uniform = start + (torch.arange(-20, 30, dtype=torch.float64) + 0.5)[:, None] * 1e-10

    def denoise(z_t: Tensor, t: Tensor) -> Tensor:
        return probs.log().to(dtype).expand(*z_t.shape, -1)

    result = sample(denoise, Canvas.blank(50, 1, VOCAB), RevealBy(uniform), mask_id=VOCAB, seeds=[0] * 50)
    assert result.tokens[:, 0].tolist() == [RARE - 1] * 20 + [RARE] * 10 + [RARE + 1] * 20
    assert result.trace.confidence[20:30].log10().round(decimals=5).unique().tolist() == [-9]


def gumbel_trick(probs: Tensor, uniform: Tensor) -> Tensor:
    """The draw of MDLM's published code, in float32: argmax of p / -log(u), which is log p + a Gumbel number."""
    exponential = 1e-10 - (uniform.float() + 1e-10).log()
    return (probs.float() / exponential).argmax(-1)


def test_the_float32_gumbel_trick_never_draws_a_token_of_probability_1e_9_whatever_its_uniforms():
    """Not with the largest uniform for the rare token and the smallest, 0, for the other: a float32 number below 1 is
    at most 1 - 2^-24, and -log of it at least 6e-8, 60 times as much as 1e-9."""
    probs = torch.tensor([[1 - 1e-9, 1e-9]], dtype=torch.float64)
    extreme = torch.tensor([[0.0, 1 - 2**-24]])
    assert torch.nextafter(extreme[0, 1], torch.tensor(2.0)) == 1
    assert gumbel_trick(probs, extreme).item() == 0
    assert gumbel_trick(torch.tensor([[1 - 1e-8, 1e-8]]), extreme).item() == 1  # the trick is right where it reaches
    # the inverse of the distribution function draws it from the last billionth of [0, 1), and from there alone
    uniform = 1 - torch.tensor([1.1e-9, 0.9e-9, 1e-12], dtype=torch.float64)
    assert inverse_cdf(probs.expand(3, -1), uniform).tolist() == [0, 1, 1]


def test_the_numbers_of_the_loop_have_more_than_24_bits():
    """Those of float32 are multiples of 6e-8, and would choose a token of probability 1e-9 once in 6e-8 or never."""
    numbers = Reverse(uniform_denoiser(2), Canvas.blank(1, 200_000, 2), 2, [0]).uniform()
    assert numbers.dtype == torch.float64
    assert (numbers * 2**24 % 1 != 0).float().mean() > 0.99


def test_draws_follow_the_softmax_of_the_logits():
    logits = torch.tensor([[0.0, 1.0, 2.0, -torch.inf]])
    uniform = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    counts = TokenDraw()(logits.expand(100_000, -1), uniform).bincount(minlength=4)
    torch.testing.assert_close(counts / 100_000, logits[0].softmax(-1), rtol=0, atol=2e-5)


def test_the_largest_number_below_1_never_draws_a_token_of_probability_0():
    largest = torch.tensor([math.nextafter(1, 0)], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        logits = torch.rand(1, 1000, generator=generator).sort(descending=True).values
        assert TokenDraw(top_k=3)(logits, largest).item() == 2


@pytest.mark.parametrize("vocab", [1, 2, 255, 256, 257, 513, 1000])
def test_a_draw_is_the_first_token_at_which_the_exact_sum_exceeds_the_number(vocab):
    """A third of the tokens has probability 0; the sums are exact, in integers."""
    generator = torch.Generator().manual_seed(vocab)
    weights = torch.randint(0, 2**20, (40, vocab), generator=generator)
    weights[:, ::3] *= torch.randint(0, 2, (1,), generator=generator)
    weights[:, -1] += 1
    sums = weights.cumsum(1)
    wanted = (torch.rand(40, generator=generator, dtype=torch.float64) * sums[:, -1]).floor()
    uniform = (wanted + 0.5) / sums[:, -1]
    expected = [next(i for i, end in enumerate(row) if end > at) for row, at in zip(sums.tolist(), wanted, strict=True)]
    assert inverse_cdf(weights.double(), uniform).tolist() == expected
    at_the_ends = inverse_cdf(weights.double(), torch.tensor([0.0, math.nextafter(1, 0)] * 20, dtype=torch.float64))
    assert (weights.gather(1, at_the_ends[:, None]) > 0).all()


def test_a_diverged_model_s_nan_gives_some_token_and_no_crash_of_the_device():
    for probs in (torch.full((1, 600), math.nan, dtype=torch.float64), torch.zeros(1, 600, dtype=torch.float64)):
        assert 0 <= inverse_cdf(probs, torch.tensor([0.5], dtype=torch.float64)).item() < 600


def test_temperature_0_takes_the_most_likely_token_for_any_uniform():
    logits = torch.tensor([[0.0, 3.0, 2.9]]).expand(3, -1)
    uniform = torch.tensor([0.0, 0.5, 1 - 1e-16], dtype=torch.float64)
    assert TokenDraw(temperature=0)(logits, uniform).tolist() == [1, 1, 1]


def test_temperature_2_halves_the_logits():
    logits = torch.tensor([[0.0, 2.0]])
    torch.testing.assert_close(TokenDraw(temperature=2).probabilities(logits), (logits / 2).double().softmax(-1))


def test_top_k_2_keeps_the_two_likeliest_tokens():
    probs = TokenDraw(top_k=2).probabilities(torch.tensor([[0.1, 0.4, 0.3, 0.2]]).log())
    torch.testing.assert_close(probs, torch.tensor([[0.0, 4 / 7, 3 / 7, 0.0]], dtype=torch.float64), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("top_p", "kept"), [(1e-300, 1), (1e-11, 1), (0.41, 2), (0.69, 2), (0.71, 3), (1.0, 4)])
def test_top_p_keeps_the_fewest_tokens_that_reach_it(top_p, kept):
    probs = TokenDraw(top_p=top_p).probabilities(torch.tensor([[0.1, 0.4, 0.3, 0.2]]).log())
    assert int((probs > 0).sum()) == kept
    assert probs.sum().item() == pytest.approx(1)


@pytest.mark.parametrize(
    ("probs", "top_p", "kept"),
    [
        ([0.5, 0.25, 0.25], 0.5, [0]),
        ([0.5, 0.25, 0.25], 0.75, [0, 1]),  # the two of 0.25 are alike: the lower id
        ([0.25, 0.25, 0.5], 0.75, [0, 2]),
        ([0.25, 0.25, 0.5], 0.76, [0, 1, 2]),
        ([0.1] * 10, 0.7, [0, 1, 2, 3, 4, 5, 6]),
        ([0.1] * 10, 0.3, [0, 1, 2]),
        ([0.2, 0.3, 0.1, 0.4], 0.9, [0, 1, 3]),
    ],
)
@pytest.mark.parametrize("shift", [0.0, 1.7])
def test_top_p_that_is_met_exactly_takes_no_token_more_and_ties_go_to_the_lower_id(probs, top_p, kept, shift):
    """Whichever way the probabilities' last bits are rounded: `shift` changes the logits, not what they mean."""
    logits = torch.tensor([probs], dtype=torch.float64).log() + shift
    assert TokenDraw(top_p=top_p).probabilities(logits)[0].nonzero()[:, 0].tolist() == kept


def test_of_1000_equally_likely_tokens_top_p_keeps_the_first_half_for_any_order_of_sorting():
    kept = TokenDraw(top_p=0.5).probabilities(torch.zeros(1, 1000))[0].nonzero()[:, 0]
    assert kept.tolist() == list(range(500))


@pytest.mark.parametrize(("name", "value"), [("temperature", -0.1), ("top_k", -1), ("top_p", 0.0), ("top_p", 1.1)])
def test_an_impossible_setting_says_its_name_and_value(name, value):
    with pytest.raises(UserError, match=f"{name} is {value}"):
        TokenDraw(**{name: value})


def unchecked(**settings: object) -> TokenDraw:
    """A draw without the check of types, which there is in the tests alone."""
    draw = object.__new__(TokenDraw)
    for name, value in {**vars(TokenDraw()), **settings}.items():
        object.__setattr__(draw, name, value)
    draw.__post_init__()
    return draw


@pytest.mark.parametrize("name", ["temperature", "top_k", "top_p"])
@pytest.mark.parametrize("value", [None, "0.5", [1], True, pytest.param(10**400, id="401 digits")])
def test_a_setting_that_is_no_number_says_so(name, value):
    with pytest.raises(UserError, match=f"{name} is .*, expected a number"):
        unchecked(**{name: value})


@pytest.mark.parametrize("value", [2.0, np.float64(2), float("nan")])
def test_a_top_k_that_is_no_whole_number_says_so_and_numbers_of_numpy_are_numbers(value):
    with pytest.raises(UserError, match=r"top_k is .*, expected a whole number from 0"):
        unchecked(top_k=value)
    draw = unchecked(temperature=np.float32(0.5), top_k=np.int64(2), top_p=np.float64(0.5))
    assert draw.probabilities(torch.tensor([[1.0, 3.0, 2.0]])).tolist() == [[0, 1, 0]]


def test_a_prompt_longer_than_the_text_is_refused_with_both_lengths():
    with pytest.raises(UserError, match="prompt 2 has 5 tokens, but the text to generate has 4"):
        Canvas.with_prefixes([[1], [1, 2, 3, 4, 5]], length=4, mask_id=9)


@pytest.mark.parametrize("temperature", [0.0, 1e-320, 5e-324, 1e-299])
def test_the_lowest_temperatures_take_the_likeliest_token_though_logits_over_them_are_infinite(temperature):
    logits = torch.tensor([[1000.0, -1000.0, 999.0], [-1.0, 0.5, 0.0]])
    assert TokenDraw(temperature).probabilities(logits).tolist() == [[1, 0, 0], [0, 1, 0]]
