"""lm.infill with a network of both modes: ways ranked by their exact probability left to right, best first."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from made_models import two_way_lm

from mdlm_atat import MaskedDiffusionLM, UserError
from mdlm_atat.samplers.seeds import mix_seed

TEMPLATE = "ba[MASK:2]b"


@pytest.fixture(scope="module")
def lm() -> MaskedDiffusionLM:
    return two_way_lm(length=6)


def exact_nats(lm: MaskedDiffusionLM, before: list[int], rest: list[int]) -> float:
    """-log p(rest | before) by the chain rule, a token at a time."""
    total, tokens = 0.0, list(before)
    for token in rest:
        tokens.append(token)
        with torch.no_grad():
            total -= lm.network(torch.tensor([tokens]))[0, -1].double().log_softmax(-1)[token].item()
    return total


def test_200_candidates_give_all_9_ways_in_the_order_of_their_exact_joint_probability(lm):
    before, after = lm.tokenizer.encode("ba"), lm.tokenizer.encode("b")
    exact = {
        (*before, *middle, *after): exact_nats(lm, before, [*middle, *after])
        for middle in itertools.product(range(3), repeat=2)
    }
    ways = lm.infill(TEMPLATE, alternatives=9, candidates=200)
    assert [tuple(way.tokens) for way in ways] == sorted(exact, key=lambda tokens: exact[tokens])
    assert [way.nats_left_to_right for way in ways] == pytest.approx(sorted(exact.values()), abs=1e-6)
    assert lm.infill(TEMPLATE, candidates=200) == ways[0]


def test_the_cost_of_the_given_text_is_what_all_fillings_have_together(lm):
    ways = lm.infill("ba[MASK:1-2]b", alternatives=40, seed=3)
    way = ways[0]
    assert way.length_costs is not None
    assert way.nats_by_lengths is not None
    different = {tuple(each.tokens): each.nats_left_to_right for each in ways}
    assert len(different) == 3 ** way.lengths[0]
    together = -math.log(sum(math.exp(-(nats or 0)) for nats in different.values()))
    assert abs(way.nats_by_lengths[way.lengths] - together) < 3 * way.length_costs.errors[way.lengths]


def test_alternatives_are_ranked_too_and_those_that_occur_twice_come_after_the_others(lm):
    ways = lm.infill(TEMPLATE, alternatives=12, seed=5)
    number = len({tuple(way.tokens) for way in ways})
    assert number < 12
    for part in (ways[:number], ways[number:]):
        nats = [way.nats_left_to_right for way in part]
        assert nats == sorted(nats, key=lambda each: each or 0)
    assert len({tuple(way.tokens) for way in ways[:number]}) == number
    assert {way.seed for way in ways} == {mix_seed(5, number) for number in range(12)}
    for way in ways:
        assert lm.infill(TEMPLATE, seed=[way.seed]).tokens == way.tokens


def test_candidate_j_of_template_i_is_text_8i_plus_j_of_the_seed_and_templates_do_not_mix(lm):
    groups = lm.infill([TEMPLATE, "[MASK:3]a"], alternatives=2, candidates=8, seed=2)
    assert [len(group) for group in groups] == [2, 2]
    for index, group in enumerate(groups):
        assert {way.seed for way in group} <= {mix_seed(2, 8 * index + j) for j in range(8)}
    alone = lm.infill("[MASK:3]a", alternatives=2, candidates=8, seed=[mix_seed(2, 8 + j) for j in range(8)])
    assert alone == groups[1]


def test_lengths_are_chosen_once_where_calls_share_what_was_chosen(lm, monkeypatch):
    layouts, choose, calls = {}, lm.choose_lengths, []

    def counted(encoded, max_draws, *more):
        calls.append(max_draws)
        return choose(encoded, max_draws, *more)

    monkeypatch.setattr(lm, "choose_lengths", counted)
    ways = [lm.infill("a[MASK:1-2]b", layouts=layouts, length_draws=64) for _ in range(3)]
    assert ways[0] == ways[1] == ways[2]
    assert calls == [64]
    assert max(ways[0].length_costs.num_draws.values()) == 64


REFUSED = {
    "fewer than wanted": ({"alternatives": 3, "candidates": 2}, "a[MASK]b", "draw at least `candidates=3`"),
    "none": ({"candidates": 0}, "a[MASK]b", "candidates is 0"),
    "longer than the model": (
        {"candidates": 2},
        "aaabbb[MASK]b",
        "8 tokens, and candidates are ranked for texts of at most 6",
    ),
    "nothing after": ({}, "ab[MASK:1-3]", r"none is given after the last gap: give its length, as in \[MASK:3\]"),
    "nothing after a fixed one": ({}, "ab[MASK:1-2][MASK]", "none is given after the last gap"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_ranked_or_chosen_is_refused(lm, case):
    more, template, message = REFUSED[case]
    with pytest.raises(UserError, match=message):
        lm.infill(template, **more)


def test_a_text_longer_than_the_model_has_no_exact_value_and_keeps_the_order_of_its_seeds(lm):
    ways = lm.infill("aaabbb[MASK:2]b", alternatives=3)
    assert [way.nats_left_to_right for way in ways] == [None] * 3
    assert [way.seed for way in ways] == [mix_seed(0, number) for number in range(3)]


def test_a_model_that_only_fills_masks_says_what_is_missing_for_candidates_and_ranks_nothing(masked):
    with pytest.raises(UserError, match=r"was trained to fill masks only; train one with `objective.causal_share=0.5`"):
        masked.infill("the [MASK:3] sat", candidates=4)
    ways = masked.infill("the [MASK:3] sat", alternatives=3, seed=1)
    assert [way.nats_left_to_right for way in ways] == [None] * 3
    assert [way.seed for way in ways] == [mix_seed(1, number) for number in range(3)]
