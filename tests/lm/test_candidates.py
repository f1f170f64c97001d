"""lm.infill with a network of both modes: ways ranked by their exact probability left to right, best first."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from made_models import two_way_lm

from mdlm_atat import MaskedDiffusionLM, UserError
from mdlm_atat.lm import Guide, Infilled
from mdlm_atat.lm.results import in_order
from mdlm_atat.samplers.canvas import Canvas
from mdlm_atat.samplers.confidence import ConfidenceBasedSampler
from mdlm_atat.samplers.loop import StepRule, sample
from mdlm_atat.samplers.seeds import mix_seed
from mdlm_atat.samplers.stops import Stop
from mdlm_atat.samplers.uncertainty import UncertaintyGuidedSampler as Uncertainty
from samplers.enumerated import WIDER

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


P = {"a": 0.5, "b": 0.25, "c": 0.15, "d": 0.07, "e": 0.03}
"""Of a made-up causal mode, and Q of the sampler that draws the candidates."""
Q = {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.2, "e": 0.2}
MOST_CHI_SQUARE = 18.5
"""Of 4 degrees of freedom, in 999 cases of 1,000."""


def candidates_of(trial: int, number: int) -> list[Infilled]:
    rng = np.random.default_rng(trial)
    return [
        Infilled(
            text,
            [ord(text)],
            mix_seed(trial, index),
            1,
            nats_drawn=-math.log(Q[text]),
            nats_left_to_right=7.0 - math.log(P[text]),
        )
        for index, text in enumerate(rng.choice(list(Q), size=number, p=list(Q.values())))
    ]


def chi_square(picked: Sequence[Hashable], expected: Mapping[Any, float]) -> float:
    counts = Counter(picked)
    return sum((counts[each] - len(picked) * p) ** 2 / (len(picked) * p) for each, p in expected.items())


def test_a_fair_pick_follows_the_causal_mode_where_a_candidate_and_the_likeliest_one_do_not():
    trials = [candidates_of(trial, 32) for trial in range(400)]
    assert chi_square([in_order(ways, "fair")[0].text for ways in trials], P) < MOST_CHI_SQUARE
    assert chi_square([ways[0].text for ways in trials], P) > 10 * MOST_CHI_SQUARE
    assert chi_square([in_order(ways)[0].text for ways in trials], P) > 10 * MOST_CHI_SQUARE


def test_a_fair_pick_of_a_network_is_a_draw_by_its_probability_over_that_of_the_sampler(lm):
    ways = lm.infill(TEMPLATE, alternatives=8, candidates=8, seed=6, temperature=1.5)
    fair = lm.infill(TEMPLATE, alternatives=8, candidates=8, seed=6, temperature=1.5, pick="fair")
    assert fair == in_order(ways, "fair")
    assert {way.seed for way in fair} == {way.seed for way in ways}
    assert fair != ways


def test_fair_alternatives_differ_as_long_as_there_are_others_and_are_the_same_again(lm):
    ways = lm.infill(TEMPLATE, alternatives=4, candidates=32, pick="fair", seed=3)
    assert len({tuple(way.tokens) for way in ways}) == 4
    assert ways == lm.infill(TEMPLATE, alternatives=4, candidates=32, pick="fair", seed=3)
    assert ways[0] == lm.infill(TEMPLATE, candidates=32, pick="fair", seed=3)


def test_a_way_says_with_what_probability_it_was_drawn(lm):
    for way in lm.infill(TEMPLATE, alternatives=5, seed=4):
        canvas = Canvas(torch.tensor([way.tokens]), torch.tensor([[True, True, False, False, True]]))
        nats, is_exact = lm.nll_revealed_by(canvas, torch.tensor([way.tokens]), lm.gap_sampler)
        assert is_exact
        assert way.nats_drawn == pytest.approx(nats.item(), abs=1e-9)


VARYING: dict[str, StepRule] = {
    "entropy budget": Uncertainty(num_steps=None, amount="entropy_budget", gamma=1.0),
    "threshold": Uncertainty(num_steps=None, amount="threshold", score="max_probability", threshold=0.45),
    "stops by entropy": Uncertainty(num_steps=None, stop=Stop(entropy=1.03)),
    "stops by confidence": Uncertainty(num_steps=None, stop=Stop(confidence=0.45)),
    "confidence": ConfidenceBasedSampler(window=1, threshold=0.45),
}
"""Rules that take two or three evaluations for three places, as what they have drawn so far tells."""


@pytest.mark.parametrize("name", VARYING)
def test_fair_picks_follow_the_joint_of_27_texts_where_a_sampler_takes_more_or_fewer_steps_as_it_goes(name: str):
    trials, number, mask_id = 250, 16, WIDER.mask_id
    drawn = sample(
        WIDER.denoise,
        Canvas.blank(trials * number, 3, mask_id),
        VARYING[name],
        mask_id=mask_id,
        seeds=range(trials * number),
    )
    assert drawn.trace.nfe.unique().tolist() == [2, 3]
    joint = {tuple(text): p for text, p in zip(WIDER.sequences.tolist(), WIDER.probs.tolist(), strict=True)}
    ways = [
        Infilled("", tokens, mix_seed(0, index), 1, nats_drawn=nats, nats_left_to_right=-math.log(joint[tuple(tokens)]))
        for index, (tokens, nats) in enumerate(zip(drawn.tokens.tolist(), drawn.trace.nll.tolist(), strict=True))
    ]
    groups = [ways[start : start + number] for start in range(0, len(ways), number)]
    most = 54.1  # chi-square of 26 degrees of freedom, in 999 cases of 1,000
    assert chi_square([tuple(in_order(group, "fair")[0].tokens) for group in groups], joint) < most
    assert chi_square([tuple(way.tokens) for way in ways], joint) > 10 * most


ENDS = "left_to_right:stop_at_eos=true"


def test_ways_that_end_and_ways_that_go_on_are_ranked_as_outcomes_whose_probabilities_add_up_to_1(lm):
    before, eos = lm.tokenizer.encode("ba"), lm.tokenizer.eos_id
    pairs = [[one] if one == eos else [one, other] for one, other in itertools.product(range(3), repeat=2)]
    outcomes = {(*before, *made): exact_nats(lm, before, made) for made in pairs}
    assert sum(math.exp(-nats) for nats in outcomes.values()) == pytest.approx(1, abs=1e-9)
    ways = lm.infill("ba[MASK:2]", alternatives=7, candidates=200, sampler=ENDS)
    assert [tuple(way.tokens) for way in ways] == sorted(outcomes, key=lambda tokens: outcomes[tokens])
    assert [way.nats_left_to_right for way in ways] == pytest.approx(sorted(outcomes.values()), abs=1e-6)
    assert all(way.has_all_given for way in ways)


@pytest.mark.parametrize("template", ["ba[MASK:2]b", "b[MASK]a[MASK:2]b", "b[MASK:2][MASK]a[MASK]"])
def test_ways_that_end_before_given_text_come_after_all_that_have_it_however_likely_their_few_tokens_are(lm, template):
    behind = lm.tokenizer.encode(template[-1:] if template.endswith("b") else "a")
    ways = lm.infill(template, alternatives=120, sampler=ENDS, seed=1)
    lacks = [not way.has_all_given for way in ways]
    assert lacks == sorted(lacks)
    num_whole = lacks.count(False)
    assert 0 < num_whole < len(ways)
    for way in ways[:num_whole]:
        end = way.row.end_of_given
        assert way.tokens[end - 1 : end] == behind
    assert all(lm.tokenizer.eos_id in way.tokens for way in ways[num_whole:])
    worst = max(way.nats_left_to_right for way in ways[:num_whole])
    assert min(way.nats_left_to_right for way in ways[num_whole:]) < worst
    chosen = lm.infill(template, candidates=120, sampler=ENDS, seed=1)
    assert chosen == ways[0]


UNFAIR = {
    "no candidates": ({}, "`pick='fair'` draws among `candidates=`"),
    "a random order": ({"candidates": 4, "sampler": "first_hitting"}, "which FirstHitting.* does not tell"),
    "tokens taken back": ({"candidates": 4, "sampler": "remask"}, "its order is random, or tokens are taken back"),
    "cut where it ends": (
        {"candidates": 4, "sampler": "left_to_right:stop_at_eos=true"},
        "leave out `stop_at_eos`: a text that ends there lacks what is given behind its gap",
    ),
    "guided": ({"candidates": 4, "guide": Guide({"a": 1.0})}, "which takes back what `guide=` does"),
}


@pytest.mark.parametrize("case", UNFAIR)
def test_what_cannot_be_picked_fairly_is_refused(lm, case):
    more, message = UNFAIR[case]
    with pytest.raises(UserError, match=message):
        lm.infill(TEMPLATE, pick="fair", **more)
