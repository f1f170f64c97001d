from __future__ import annotations

import pytest
import torch

from mdlm_atat.checks import one_of
from mdlm_atat.core.schedules import Cosine
from mdlm_atat.errors import UserError
from mdlm_atat.samplers.ancestral import Ancestral
from mdlm_atat.samplers.canvas import Canvas
from mdlm_atat.samplers.draw import TokenDraw
from mdlm_atat.samplers.first_hitting import FirstHitting
from mdlm_atat.samplers.loop import StepRule, sample
from mdlm_atat.samplers.named import PRESETS, RULES, make_sampler, options_of
from mdlm_atat.samplers.remask import Remask
from mdlm_atat.samplers.stops import Stop
from mdlm_atat.samplers.uncertainty import UncertaintyGuidedSampler
from samplers.stand_ins import CURVED, Hashed


@pytest.mark.parametrize("name", [*RULES, *PRESETS])
def test_every_name_and_preset_builds_a_rule_that_fills_9_places(name: str):
    rule = make_sampler(name)
    assert isinstance(rule, StepRule)
    result = sample(Hashed(5), Canvas.blank(2, 9, 5), rule, mask_id=5, seeds=[0, 1])
    assert (result.tokens < 4).all()
    assert (result.trace.nfe <= rule.max_nfe(9)).all()


def test_a_name_alone_is_the_rule_with_its_own_defaults():
    for name, rule in RULES.items():
        assert make_sampler(name) == rule()


def test_the_five_presets_are_these():
    assert make_sampler("spread") == UncertaintyGuidedSampler(amount="constant", spread=True, tokens_a_step=8)
    assert make_sampler("greedy") == UncertaintyGuidedSampler(
        score="max_probability", amount="constant", draw=TokenDraw(temperature=0)
    )
    assert make_sampler("entropy_budget") == UncertaintyGuidedSampler(amount="entropy_budget", num_steps=None)
    assert make_sampler("threshold") == UncertaintyGuidedSampler(
        score="max_probability", amount="threshold", num_steps=None
    )
    assert make_sampler("documents") == UncertaintyGuidedSampler(
        order="most_uncertain", stop=Stop(entropy=0.5, confidence=0.7, patience=100)
    )
    assert set(PRESETS) == {"spread", "greedy", "entropy_budget", "threshold", "documents"}


def test_options_have_the_type_of_their_field_and_those_of_a_field_its_name_before_a_dot():
    assert make_sampler("ancestral:num_steps=32,cache=False") == Ancestral(num_steps=32, cache=False)
    assert make_sampler("remask:strategy=rescale, eta=1") == Remask(strategy="rescale", eta=1.0)
    assert make_sampler("uncertainty:num_steps=None,stop.entropy=0.5,stop.few=3,stop.patience=none") == (
        UncertaintyGuidedSampler(num_steps=None, stop=Stop(entropy=0.5, few=3))
    )
    assert make_sampler("first_hitting:draw.temperature=0,draw.top_k=50") == FirstHitting(draw=TokenDraw(0.0, 50))
    assert isinstance(make_sampler("remask:eta=1").eta, float)  # type: ignore[attr-defined]
    assert make_sampler("greedy:score=margin,draw.top_p=0.9") == UncertaintyGuidedSampler(
        score="margin", amount="constant", draw=TokenDraw(temperature=0, top_p=0.9)
    )


def test_arguments_hold_where_the_specification_says_nothing_of_them():
    assert make_sampler("remask", num_steps=7) == Remask(num_steps=7)
    assert make_sampler("remask:num_steps=9") == Remask(num_steps=9)
    half = TokenDraw(0.5, 10)
    assert make_sampler("first_hitting", draw=half) == FirstHitting(draw=half)
    assert make_sampler("first_hitting:draw.top_k=3", draw=half) == FirstHitting(draw=TokenDraw(0.5, 3))
    assert make_sampler("greedy", draw=half).draw == TokenDraw(0, 10)  # type: ignore[attr-defined]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_number_of_steps_that_is_asked_for_holds_in_every_preset(preset: str):
    """Also in those that take as many as it takes. Steps that are given twice are refused."""
    assert make_sampler(preset, num_steps=5).max_nfe(100) == 5
    assert make_sampler(f"{preset}:num_steps=6").max_nfe(100) == 6
    with pytest.raises(UserError, match="steps are given twice: 5, and num_steps=6"):
        make_sampler(f"{preset}:num_steps=6", num_steps=5)


def test_the_models_profile_and_schedule_go_to_the_rules_that_use_them():
    made = {name: make_sampler(name, profile=CURVED, schedule=Cosine()) for name in RULES}
    assert {name for name, rule in made.items() if getattr(rule, "profile", None) is CURVED} == {
        "first_hitting",
        "uncertainty",
        "rate_hitting",
    }
    assert {name for name, rule in made.items() if getattr(rule, "schedule", None) == Cosine()} == {"ancestral"}


def test_options_of_a_rule_are_listed_with_type_and_default_without_what_the_model_brings():
    options = options_of(Ancestral)
    assert {name: default for name, (_, default) in options.items()} == {
        "num_steps": 128,
        "cache": True,
        "draw.temperature": 1.0,
        "draw.top_k": 0,
        "draw.top_p": 1.0,
    }
    assert options["cache"][0] is bool
    assert "profile" not in options_of(UncertaintyGuidedSampler)
    assert {"stop.entropy", "stop.few", "stop.patience"} < set(options_of(UncertaintyGuidedSampler))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("uncertanty", r"unknown sampler 'uncertanty'; samplers: .*greedy.*; did you mean uncertainty\?"),
        ("gredy", r"did you mean greedy\?"),
        ("xyz", r"unknown sampler 'xyz'; samplers: ancestral, .*documents$"),
        ("", "unknown sampler ''"),
        ("uncertainty:scor=margin", r"no option 'scor'; its options: .*; did you mean score\?"),
        ("uncertainty:stop.entrpy=1", r"no option 'stop.entrpy'; .*did you mean stop.entropy\?"),
        ("ancestral:schedule=cosine", "sampler ancestral has no option 'schedule'; its options: num_steps, cache"),
        ("uncertainty:stop=1", "sampler uncertainty has no option 'stop'"),
        ("uncertainty:score", "sampler option 'score' has no value; expected score=VALUE"),
        ("uncertainty:score=surprise", "uncertainty: score is 'surprise', expected one of entropy, margin"),
        ("uncertainty:gamma=much", "uncertainty: gamma is 'much', expected a value of type float"),
        ("uncertainty:num_steps=1.5", "num_steps is '1.5', expected a value of type int"),
        ("ancestral:num_steps=none", "num_steps is 'none', expected a value of type int"),
        ("ancestral:cache=no", "cache is 'no', expected a value of type bool"),
        ("ancestral:num_steps=0", "num_steps is 0, expected at least 1"),
        ("uncertainty:stop.entropy=-1", r"stop.entropy is -1.0, expected at least 0"),
        ("first_hitting:draw.temperature=-1", "temperature is -1.0"),
    ],
)
def test_a_mistake_in_a_specification_is_named_with_what_was_expected(spec: str, message: str):
    with pytest.raises(UserError, match=message):
        make_sampler(spec)


@pytest.mark.parametrize("name", [name for name in RULES if name != "left_to_right"])
def test_0_steps_are_refused_in_every_rule_that_has_steps(name: str):
    with pytest.raises(UserError, match="num_steps is 0, expected at least 1"):
        make_sampler(name, num_steps=0)


def test_left_to_right_takes_no_number_of_steps():
    with pytest.raises(UserError, match="left_to_right takes one step for every token; leave out"):
        make_sampler("left_to_right", num_steps=5)


def test_a_value_that_is_none_of_the_names_is_refused_with_all_of_them():
    with pytest.raises(UserError, match="order is 'random', expected one of first, last"):
        one_of("order", "random", ("first", "last"))


def test_a_rule_by_name_draws_what_the_rule_itself_does():
    canvas = Canvas.blank(3, 9, 5)
    by_name = sample(Hashed(5), canvas, make_sampler("remask:num_steps=6,eta=0.4"), mask_id=5, seeds=range(3))
    itself = sample(Hashed(5), canvas, Remask(num_steps=6, eta=0.4), mask_id=5, seeds=range(3))
    assert by_name.tokens.equal(itself.tokens)
    assert isinstance(by_name.tokens, torch.Tensor)
