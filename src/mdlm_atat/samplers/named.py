"""Samplers by name: `first_hitting`, or with options `uncertainty:score=margin,amount=entropy_budget,gamma=0.2`."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from mdlm_atat.checks import did_you_mean
from mdlm_atat.core.schedules import Schedule
from mdlm_atat.errors import UserError
from mdlm_atat.samplers.ancestral import Ancestral
from mdlm_atat.samplers.confidence import ConfidenceBasedSampler
from mdlm_atat.samplers.draw import TokenDraw
from mdlm_atat.samplers.first_hitting import FirstHitting
from mdlm_atat.samplers.follow_rates import FollowRates, RateHitting
from mdlm_atat.samplers.left_to_right import LeftToRight
from mdlm_atat.samplers.loop import StepRule
from mdlm_atat.samplers.remask import Remask
from mdlm_atat.samplers.sizes import Profile
from mdlm_atat.samplers.uncertainty import UncertaintyGuidedSampler

RULES: dict[str, type] = {
    "ancestral": Ancestral,
    "first_hitting": FirstHitting,
    "uncertainty": UncertaintyGuidedSampler,
    "confidence": ConfidenceBasedSampler,
    "remask": Remask,
    "follow_rates": FollowRates,
    "rate_hitting": RateHitting,
    "left_to_right": LeftToRight,
}
PRESETS = {
    "spread": "uncertainty:amount=constant,spread=true,tokens_a_step=8",
    "greedy": "uncertainty:score=max_probability,amount=constant,draw.temperature=0",
    "entropy_budget": "uncertainty:amount=entropy_budget,num_steps=none",
    "threshold": "uncertainty:score=max_probability,amount=threshold,num_steps=none",
    "documents": "uncertainty:order=most_uncertain,stop.entropy=0.5,stop.confidence=0.7,stop.patience=100",
}
FILLED_IN = ("profile", "schedule")  # what the model brings, not the user


def make_sampler(
    spec: str,
    *,
    num_steps: int | None = None,
    draw: TokenDraw | None = None,
    profile: Profile | None = None,
    schedule: Schedule | None = None,
) -> StepRule:
    """The rule that a specification names. `num_steps` goes before a preset's, and is not to be given twice; `draw`
    holds where the specification says nothing of it; `profile` and `schedule` are the model's. Raises UserError for
    an unknown name, option or value."""
    name, _, options = spec.partition(":")
    given: dict[str, str] = {}
    if name in PRESETS:
        name, _, preset = PRESETS[name].partition(":")
        given |= _pairs(preset)
    if name not in RULES:
        known = [*RULES, *PRESETS]
        hint = did_you_mean(name, known)
        raise UserError(f"unknown sampler {name!r}; samplers: {', '.join(known)}{hint}")
    wanted = _pairs(options)
    if num_steps is not None and "num_steps" in wanted:
        raise UserError(f"steps are given twice: {num_steps}, and num_steps={wanted['num_steps']} in {spec!r}")
    if num_steps is not None or "num_steps" in wanted:
        given = {name: value for name, value in given.items() if name not in ("num_steps", "tokens_a_step")}
    given |= wanted
    rule = RULES[name]
    if num_steps is not None and "num_steps" not in _names(rule):
        raise UserError(f"sampler {name} takes one step for every token; leave out the number of steps")
    start: dict[str, Any] = {"draw": draw or TokenDraw()}
    available = {"num_steps": num_steps, "profile": profile, "schedule": schedule}
    start |= {n: value for n, value in available.items() if value is not None and n in _names(rule)}
    return _build(rule, start, given, name)


def options_of(rule: type, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """What a user may set: option to (type, default)."""
    hints, found = get_type_hints(rule), {}
    for field in fields(rule):
        default = field.default_factory() if callable(field.default_factory) else field.default
        if field.name in FILLED_IN:
            continue
        if is_dataclass(default):
            found |= options_of(type(default), f"{prefix}{field.name}.")
        else:
            found[prefix + field.name] = (hints[field.name], default)
    return found


def _names(rule: type) -> set[str]:
    return {field.name for field in fields(rule)}


def _pairs(options: str) -> dict[str, str]:
    pairs = {}
    for option in filter(None, options.split(",")):
        key, equals, value = option.partition("=")
        if not equals:
            raise UserError(f"sampler option {option!r} has no value; expected {option}=VALUE")
        pairs[key.strip()] = value.strip()
    return pairs


def _build(rule: type, start: dict[str, Any], given: dict[str, str], name: str) -> Any:
    known = options_of(rule)
    plain: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for option, text in given.items():
        if option not in known:
            hint = did_you_mean(option, known)
            raise UserError(f"sampler {name} has no option {option!r}; its options: {', '.join(known)}{hint}")
        value = _read(text, known[option][0], f"{name}: {option}")
        outer, dot, inner = option.partition(".")
        if dot:
            nested.setdefault(outer, {})[inner] = value
        else:
            plain[option] = value
    built = rule(**start | plain)
    return replace(built, **{outer: replace(getattr(built, outer), **parts) for outer, parts in nested.items()})


def _read(text: str, kind: Any, where: str) -> Any:
    """A value of the type that the option has."""
    if get_origin(kind) in (Union, UnionType):
        if text.lower() == "none" and type(None) in get_args(kind):
            return None
        kind = next(k for k in get_args(kind) if k is not type(None))
    if get_origin(kind) is Literal:
        if text not in get_args(kind):
            raise UserError(f"{where} is {text!r}, expected one of {', '.join(get_args(kind))}")
        return text
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        return kind(text)
    except (KeyError, ValueError) as error:
        raise UserError(f"{where} is {text!r}, expected a value of type {kind.__name__}") from error
