from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mdlm_atat.errors import UserError
from mdlm_atat.samplers.blocks import Blocks
from mdlm_atat.samplers.canvas import Canvas
from mdlm_atat.samplers.first_hitting import FirstHitting
from mdlm_atat.samplers.follow_rates import RateHitting
from mdlm_atat.samplers.left_to_right import LeftToRight
from mdlm_atat.samplers.loop import sample, trait
from mdlm_atat.samplers.uncertainty import UncertaintyGuidedSampler
from samplers.enumerated import CHANCE, JOINT, chi_square_per_degree, how_often
from samplers.stand_ins import Hashed, examples
from toys import uniform_denoiser

MASK = 1000


def windows_seen(blocks: Blocks, length: int, given: dict[int, int] | None = None) -> list[list[int]]:
    """What the network is shown, call by call, of a row whose fixed tokens are `given`; place i is drawn as token i."""
    shown: list[list[int]] = []
    tokens = torch.full((1, length), MASK)
    for place, token in (given or {}).items():
        tokens[0, place] = token

    def denoise(z_t: Tensor, t: Tensor) -> Tensor:
        shown.append(z_t[0].tolist())
        logits = torch.zeros(*z_t.shape, MASK)
        logits[..., len(shown) - 1] = 100.0  # the call's number, whatever the place
        return logits

    canvas = Canvas(tokens, tokens != MASK)
    sample(denoise, canvas, blocks, mask_id=MASK, seeds=[0])
    return shown


def test_the_network_sees_its_4_places_that_end_with_the_block_of_2_and_the_first_4_at_the_start():
    m = MASK
    assert windows_seen(Blocks(inner=LeftToRight(), size=2, window=4), 7) == [
        [m, m, m, m],
        [0, m, m, m],
        [0, 1, m, m],
        [0, 1, 2, m],
        [2, 3, m, m],
        [2, 3, 4, m],
        [3, 4, 5, m],  # the last block has 1 place
    ]


def test_a_look_ahead_of_1_shows_1_place_after_the_block_where_the_text_goes_on():
    m = MASK
    blocks = Blocks(inner=LeftToRight(), size=2, window=4, look_ahead=1)
    assert windows_seen(blocks, 8, {4: 900, 6: 901}) == [
        [m, m, m, m],
        [0, m, m, m],
        [1, m, m, 900],  # places 1 to 4
        [1, 2, m, 900],
        [3, 900, m, 901],  # places 3 to 6: the block is 4, which is given, and 5
        [900, 4, 901, m],  # the text ends
    ]


@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 6), st.integers(0, 6))
@examples(40)
def test_every_block_lies_in_its_window_and_is_filled_before_the_next(length: int, size: int, more: int, ahead: int):
    blocks = Blocks(inner=FirstHitting(), size=size, window=size + more, look_ahead=ahead)
    result = sample(uniform_denoiser(3), Canvas.blank(2, length, 3), blocks, mask_id=3, seeds=[0, 1])
    steps = result.trace.revealed_at_step
    assert (steps.sort(1).values == torch.arange(1, length + 1)).all()  # one at a time
    for begin in range(0, length - size, size):
        assert (steps[:, begin : begin + size].amax(1) < steps[:, begin + size :].amin(1)).all()


def test_samples_of_an_exact_denoiser_in_blocks_of_2_follow_the_joint():
    observed = how_often(Blocks(inner=FirstHitting(), size=2, window=3))
    assert chi_square_per_degree(observed, JOINT.probs) < CHANCE


def test_blocks_draw_numbers_of_their_own():
    """Two blocks of one place each are equal in half of the rows, not in all: 4.5 deviations of 400 coins."""
    blocks = Blocks(inner=FirstHitting(), size=1, window=1)
    tokens = sample(uniform_denoiser(2), Canvas.blank(400, 2, 2), blocks, mask_id=2, seeds=range(400)).tokens
    assert abs((tokens[:, 0] == tokens[:, 1]).double().mean().item() - 0.5) < 4.5 * 0.5 / 20


def test_a_row_with_nothing_to_fill_in_a_block_is_not_asked_about_there():
    canvas = Canvas.with_prefixes([[0, 1, 2, 3, 0], []], 6, 5)
    result = sample(Hashed(5), canvas, Blocks(inner=FirstHitting(), size=2, window=4), mask_id=5, seeds=[0, 1])
    assert result.trace.nfe.tolist() == [1, 6]


def test_a_rule_in_blocks_in_blocks_has_the_traits_of_the_innermost():
    for rule in (FirstHitting(), RateHitting(), UncertaintyGuidedSampler()):
        twice = Blocks(inner=Blocks(inner=rule, size=1, window=2), size=2, window=2)
        for name in ("order_is_deterministic", "looks_first", "follows_rates"):
            assert trait(twice, name) == trait(rule, name) == getattr(rule, name, False)


@pytest.mark.parametrize(
    ("size", "window", "ahead", "message"),
    [
        (0, 4, 0, "block size is 0, expected at least 1"),
        (5, 4, 0, "block size is 5, expected at most 4"),
        (2, 4, -1, "look_ahead is -1, expected at least 0"),
    ],
)
def test_an_impossible_size_is_refused_with_its_value(size: int, window: int, ahead: int, message: str):
    with pytest.raises(UserError, match=message):
        Blocks(inner=FirstHitting(), size=size, window=window, look_ahead=ahead)
