from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from mdlm_atat import plugins
from mdlm_atat.checks import one_of
from mdlm_atat.core.schedules import Cosine
from mdlm_atat.errors import UserError
from mdlm_atat.samplers.ancestral import Ancestral
from mdlm_atat.samplers.canvas import Canvas
from mdlm_atat.samplers.catalogue import PRESETS, RULES, check_order, describe, in_words, shown, split_spec
from mdlm_atat.samplers.draw import TokenDraw
from mdlm_atat.samplers.first_hitting import FirstHitting
from mdlm_atat.samplers.loop import StepRule, sample
from mdlm_atat.samplers.named import make_sampler, options_of, rule_class
from mdlm_atat.samplers.remask import Remask
from mdlm_atat.samplers.sizes import Profile
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
    for name in RULES:
        assert make_sampler(name) == rule_class(name)()


def test_the_five_presets_are_these():
    assert make_sampler("spread") == UncertaintyGuidedSampler(
        amount="constant", spread=True, tokens_a_step=8, least_steps=16
    )
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
    assert make_sampler("uncertainty:num_steps=None,stop.confidence=0.5,stop.few=3,stop.patience=none") == (
        UncertaintyGuidedSampler(num_steps=None, stop=Stop(confidence=0.5, few=3))
    )
    assert make_sampler("first_hitting:draw.temperature=0.5,draw.top_k=50") == FirstHitting(draw=TokenDraw(0.5, 50))
    assert isinstance(make_sampler("remask:eta=1").eta, float)  # type: ignore[attr-defined]
    assert make_sampler("greedy:score=margin,draw.temperature=2") == UncertaintyGuidedSampler(
        score="margin", amount="constant", draw=TokenDraw(temperature=2)
    )


def test_arguments_hold_where_the_specification_says_nothing_of_them():
    assert make_sampler("remask", num_steps=7) == Remask(num_steps=7)
    assert make_sampler("remask:num_steps=9") == Remask(num_steps=9)
    half = TokenDraw(0.5, 10)
    assert make_sampler("first_hitting", draw=half) == FirstHitting(draw=half)
    with pytest.warns(UserWarning, match="top_k has no effect"):
        fewer = make_sampler("first_hitting:draw.top_k=3", draw=half)
    assert fewer == FirstHitting(draw=TokenDraw(0.5, 3))
    with pytest.warns(UserWarning, match="has no effect"):
        assert make_sampler("greedy", draw=half).draw == TokenDraw(0, 10)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("spec", "draw", "said"),
    [
        ("greedy", TokenDraw(3.0), "temperature has no effect with sampler = greedy: it needs one that sets no draw."),
        ("first_hitting:draw.top_k=3", TokenDraw(top_k=5), "top_k has no effect with sampler = first_hitting:draw."),
        ("spread", TokenDraw(0, top_k=5), "top_k has no effect with temperature = 0: it needs temperature above 0"),
        ("greedy", TokenDraw(top_p=0.5), "top_p has no effect with temperature = 0.0: it needs temperature above 0"),
        ("uncertainty:gamma=0.2", None, "gamma has no effect with amount = half_cosine: it needs amount entropy_"),
        ("entropy_budget:threshold=0.5", None, "threshold has no effect with amount = entropy_budget: it needs"),
        ("dilated:num_steps=8,block=16", None, "block has no effect with num_steps = 8: it needs num_steps nothing"),
        ("uncertainty:least_steps=4", None, "least_steps has no effect with tokens_a_step = nothing: it needs"),
        ("uncertainty:tokens_a_step=4,num_steps=9", None, "num_steps has no effect with tokens_a_step = 4: it needs"),
        ("uncertainty:stop.few=2", None, "stop.few has no effect with stop.confidence = nothing: it needs stop.c"),
        ("first_hitting:draw.temperature=0,draw.top_p=0.5", None, "draw.top_p has no effect with draw.temperature ="),
    ],
)
def test_an_option_that_another_leaves_without_effect_is_said_to_be_so(spec: str, draw: TokenDraw | None, said: str):
    with pytest.warns(UserWarning, match=re.escape(said)) as caught:
        make_sampler(spec, draw=draw)
    assert len(caught) == 1


def test_options_and_arguments_that_count_are_taken_in_silence():
    for spec in (*RULES, *PRESETS, "greedy:num_steps=3", "entropy_budget:gamma=1", "documents:stop.few=2"):
        make_sampler(spec)
    make_sampler("threshold:threshold=0.5", draw=TokenDraw(0.5, 10, 0.9))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_number_of_steps_that_is_asked_for_holds_in_every_preset(preset: str):
    """Also in those that take as many as it takes. Steps that are given twice are refused."""
    assert make_sampler(preset, num_steps=5).max_nfe(100) == 5
    assert make_sampler(f"{preset}:num_steps=6").max_nfe(100) == 6
    with pytest.raises(UserError, match="steps are given twice: 5, and num_steps=6"):
        make_sampler(f"{preset}:num_steps=6", num_steps=5)


def test_the_models_profile_and_schedule_go_to_the_rules_that_use_them():
    made = {name: make_sampler(name, schedule=Cosine()) for name in RULES}
    assert {name for name, rule in made.items() if getattr(rule, "schedule", None) == Cosine()} == {"ancestral"}
    asked: list[int] = []

    def profile() -> Profile:
        asked.append(1)
        return CURVED

    for name, option in (("first_hitting", "sizes"), ("uncertainty", "amount"), ("rate_hitting", "sizes")):
        assert getattr(make_sampler(f"{name}:{option}=optimal", profile=profile), "profile") is CURVED  # noqa: B009
        make_sampler(name, profile=profile)
    assert len(asked) == 3  # of a model whose profile nobody needs, nobody asks for it


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
        ("uncertanty", r"unknown sampler 'uncertanty', expected one of .*greedy.*; did you mean uncertainty\?"),
        ("gredy", r"did you mean greedy\?"),
        ("xyz", r"unknown sampler 'xyz', expected one of ancestral, .*documents, or a plugin as package.module:Name$"),
        ("", "unknown sampler ''"),
        ("uncertainty:scor=margin", r"no option 'scor'; its options: .*; did you mean score\?"),
        ("uncertainty:stop.entrpy=1", r"no option 'stop.entrpy'; .*did you mean stop.entropy\?"),
        ("ancestral:schedule=cosine", "sampler ancestral has no option 'schedule'; its options: num_steps, cache"),
        ("uncertainty:stop=1", "sampler uncertainty has no option 'stop'"),
        ("uncertainty:score", "sampler option 'score' has no value; expected score=VALUE"),
        ("uncertainty:gamma=0.1, gamma=0.2", "sampler option 'gamma' is given twice, in .*: keep one"),
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
    with pytest.raises(UserError, match="left_to_right has no number of steps to choose; leave out"):
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


def test_the_list_read_from_the_source_files_is_what_the_classes_say():
    for name in RULES:
        rule, listed = rule_class(name), describe(name)
        assert listed.summary == " ".join((rule.__doc__ or "").split("\n\n")[0].split())
        assert list(listed.options.items()) == [
            (option, shown(value)) for option, (_, value) in options_of(rule).items()
        ]


def test_listing_samplers_and_refusing_an_unknown_one_imports_neither_torch_nor_numpy():
    code = (
        "from mdlm_atat.samplers.catalogue import RULES, describe, split_spec\n"
        "assert all(describe(name).summary for name in RULES)\n"
        "split_spec('mine:Rule:steps=3')\n"
        "import sys; assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


SPLIT = {
    "ancestral": ("ancestral", ""),
    "ancestral:cache=false": ("ancestral", "cache=false"),
    "spread:score=margin,gamma=0.1": ("spread", "score=margin,gamma=0.1"),
    "mine:RightToLeft": ("mine:RightToLeft", ""),
    "mine.rules:RightToLeft:group=2,draw.top_k=3": ("mine.rules:RightToLeft", "group=2,draw.top_k=3"),
    "mine.rules:Outer.Inner": ("mine.rules:Outer.Inner", ""),
    "ancestral:cache": ("ancestral", "cache"),  # an option without its value, not a class of a module ancestral
}


@pytest.mark.parametrize("spec", SPLIT)
def test_a_specification_is_a_name_or_a_class_and_then_options(spec: str):
    assert split_spec(spec) == SPLIT[spec]


@pytest.fixture
def mine(tmp_path, monkeypatch) -> Iterator[None]:
    """A module of a user's own, with a rule that has an option, one that has a required one, one that has none, and a
    class that is no rule."""
    (tmp_path / "rules_of_mine.py").write_text(
        "from dataclasses import dataclass, field\n"
        "from mdlm_atat.samplers.draw import TokenDraw\n"
        "from mdlm_atat.samplers.left_to_right import LeftToRight\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Patient(LeftToRight):\n    num_steps: int = 9\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Strict(LeftToRight):\n    width: int\n"
        "    def __post_init__(self):\n        if self.width < 1: raise ValueError('width starts at 1')\n"
        "class Bare(Strict.__base__):\n    def __init__(self, width): pass\n"
        "def function(state): yield\n"
        "class Plain:\n    __call__ = LeftToRight().__call__\n    max_nfe = LeftToRight().max_nfe\n"
        "class Nothing: pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(plugins, "_allowed", set())
    yield
    sys.modules.pop("rules_of_mine", None)


@pytest.mark.usefixtures("mine")
def test_a_class_of_ones_own_is_named_by_its_module_and_takes_options_steps_and_draws():
    made: Any = make_sampler("rules_of_mine:Patient:num_steps=3,draw.top_k=2")
    assert (made.num_steps, made.draw.top_k) == (3, 2)
    assert make_sampler("rules_of_mine:Patient", num_steps=3, draw=TokenDraw(top_k=2)) == made
    assert make_sampler(type(made), num_steps=3, draw=TokenDraw(top_k=2)) == made
    assert make_sampler("rules_of_mine:Strict:width=2").width == 2  # type: ignore[attr-defined]
    assert make_sampler("rules_of_mine:Plain").max_nfe(4) == 4


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("rules_of_mine:Patint", "has no Patint; did you mean rules_of_mine:Patient"),
        ("rules_of_min:Patient", "there is no module rules_of_min"),
        (
            "rules_of_mine:Patient:num_stps=3",
            "no option 'num_stps'; .*; did you mean num_steps",
        ),
        ("rules_of_mine:Strict", "needs width=VALUE"),
        ("rules_of_mine:Strict:width=0", "rules_of_mine:Strict refuses its settings: width starts at 1"),
        ("rules_of_mine:Bare", "rules_of_mine:Bare refuses its settings: .*missing 1 required positional .* 'width'"),
        ("rules_of_mine:function", "sampler rules_of_mine:function: expected a class, .*, found <function"),
        ("rules_of_mine:Plain:width=3", "no option 'width'; it has none: they are fields of a dataclass"),
        ("rules_of_mine:Nothing", r"rules_of_mine:Nothing is no sampler: .* max_nfe\(num_to_fill\)"),
    ],
)
def test_a_mistake_about_ones_own_class_is_named(spec: str, message: str):
    with pytest.raises(UserError, match=message):
        make_sampler(spec)


@pytest.mark.usefixtures("mine")
def test_a_rule_that_has_no_draw_or_no_steps_refuses_them():
    with pytest.raises(UserError, match="draws in its own way: leave out `temperature`, `top_k` and `top_p`"):
        make_sampler("rules_of_mine:Plain", draw=TokenDraw(top_k=2))
    with pytest.raises(UserError, match="has no number of steps to choose; leave out `steps`"):
        make_sampler("rules_of_mine:Strict:width=2", num_steps=3)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("spread", "spread"),
        ("uncertainty:amount=constant,spread=true", "spread"),
        ("uncertainty:spread=true,amount=constant,tokens_a_step=8,least_steps=16", "spread"),
        ("spread:score=margin", "spread, by margin"),
        ("uncertainty:score=margin,amount=constant", "most certain first, by margin, equal steps"),
        ("uncertainty:order=most_uncertain,amount=constant", "least certain first, equal steps"),
        ("uncertainty:score=max_probability,amount=constant,draw.temperature=0", "greedy"),
        ("entropy_budget:gamma=0.1", "entropy budget"),
        ("uncertainty:amount=threshold,score=max_probability,threshold=0.6", "threshold"),
        ("first_hitting:sizes=cosine", "first hitting, cosine steps"),
        ("ancestral:draw.top_k=5", "ancestral, top k 5"),
        ("mine.rules:RightToLeft:group=2", "mine.rules:RightToLeft:group=2"),
        ("nosuch of an old file", "nosuch of an old file"),
    ],
)
def test_a_legend_names_a_sampler_in_words_and_a_presets_options_by_its_name(spec: str, words: str) -> None:
    assert in_words(spec) == words


def test_every_preset_spelled_out_is_named_by_its_own_name() -> None:
    assert {in_words(spec) for spec in PRESETS.values()} == {name.replace("_", " ") for name in PRESETS}


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ("anny", r"unknown order 'anny', expected one of .*left_to_right, any, .*; did you mean any\?$"),
        ("ANY", r"did you mean any\?$"),
        ("left-to-right", r"did you mean left_to_right\?$"),
        ("best", r"unknown order 'best', expected one of .* any, .*package\.module:Name$"),
        ("", "unknown order ''"),
        ("any:num_steps=4", "order 'any:num_steps=4': any has no options"),
        ("spred:num_steps=4", r"unknown order 'spred', .* did you mean spread\?"),
    ],
)
def test_a_mistyped_order_is_told_with_any_among_those_that_there_are(order: str, message: str):
    with pytest.raises(UserError, match=message):
        check_order(order)


@pytest.mark.parametrize("order", ["any", "left_to_right", "spread:num_steps=4", "mine.rules:RightToLeft"])
def test_any_and_samplers_are_orders(order: str):
    check_order(order)
