"""Samplers by name: `first_hitting`, or with options `uncertainty:score=margin,amount=entropy_budget,gamma=0.2`, or one
of your own, `mine.rules:RightToLeft:group=2`. The grammar is catalogue.split_spec's."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from mdlm_atat import effect, plugins
from mdlm_atat.checks import did_you_mean
from mdlm_atat.core.schedules import Schedule
from mdlm_atat.errors import UserError
from mdlm_atat.samplers.catalogue import FILLED_IN, PRESETS, STEPS, split_spec
from mdlm_atat.samplers.draw import TokenDraw
from mdlm_atat.samplers.loop import StepRule
from mdlm_atat.samplers.sizes import Profile


def make_sampler(
    spec: str | type,
    *,
    num_steps: int | None = None,
    draw: TokenDraw | None = None,
    profile: Callable[[], Profile | None] | None = None,
    schedule: Schedule | None = None,
    eos_id: int | None = None,
) -> StepRule:
    """The step rule that a specification names, or that is made of a class.

    `num_steps` replaces a preset's number of steps, and must not be given in the specification too; `draw` is used
    where the specification does not set temperature, top_k or top_p; `schedule` is the model's noise schedule and
    `eos_id` its end-of-document token; `profile` is called for the model's profile if the specification has
    sizes=optimal. Raises UserError for an unknown name, option or value, and for a plugin that is no step rule.
    """
    name, options = (spec.__name__, "") if isinstance(spec, type) else split_spec(spec)
    given: dict[str, str] = {}
    if name in PRESETS:
        name, _, preset = PRESETS[name].partition(":")
        given |= _pairs(preset)
    rule = spec if isinstance(spec, type) else rule_class(name)
    wanted = _pairs(options)
    if num_steps is not None and "num_steps" in wanted:
        raise UserError(f"steps are given twice: {num_steps}, and num_steps={wanted['num_steps']} in {spec!r}")
    if num_steps is not None or "num_steps" in wanted:
        given = {name: value for name, value in given.items() if name not in STEPS}
    given |= wanted
    has = {field.name for field in fields(rule)} if is_dataclass(rule) else set()
    if num_steps is not None and "num_steps" not in has:
        raise UserError(f"sampler {name} has no number of steps to choose; leave out `steps`")
    if draw not in (None, TokenDraw()) and "draw" not in has:
        raise UserError(f"sampler {name} draws in its own way: leave out `temperature`, `top_k` and `top_p`")
    available: dict[str, Any] = {"num_steps": num_steps, "draw": draw, "schedule": schedule, "eos_id": eos_id}
    if profile is not None and "optimal" in given.values():
        available["profile"] = profile()
    start = {name: value for name, value in available.items() if value is not None and name in has}
    built = _build(rule, start, given, name)
    for line in _without_effect(built, wanted, given, draw or TokenDraw(), spec if isinstance(spec, str) else name):
        warnings.warn(line, stacklevel=2)
    if not isinstance(built, StepRule):
        raise UserError(
            f"{name} is no sampler: a step rule is called with the state, yields after every step, and has "
            "max_nfe(num_to_fill)"
        )
    return built


def _without_effect(
    rule: Any, wanted: Mapping[str, str], given: Mapping[str, str], draw: TokenDraw, spec: str
) -> Iterator[str]:
    """What is to be said of options that a person named in a specification (`wanted`), or by a `draw` of their own, and
    that have no effect in the rule that was made, by `when` on their fields or since the specification has others."""

    def value_of(option: str) -> Any:
        return functools.reduce(getattr, option.split("."), rule)

    for part in fields(TokenDraw):
        option = f"draw.{part.name}"
        if getattr(draw, part.name) == part.default:
            continue
        if option in given:
            yield f"{part.name} has no effect with sampler = {spec}: it needs one that sets no {option}"
        elif isinstance(getattr(rule, "draw", None), TokenDraw):
            when = [effect.inside("draw", each) for each in part.metadata.get("when", ())]
            if line := effect.without_effect(option, when, value_of):
                yield line.replace("draw.", "")
    for option in wanted:
        owner, _, last = option.rpartition(".")
        (part,) = [each for each in fields(value_of(owner) if owner else rule) if each.name == last]
        alternatives: Iterable[effect.When] = part.metadata.get("when", ())
        alternatives = [effect.inside(owner, when) if owner else when for when in alternatives]
        line = effect.without_effect(option, alternatives, value_of)
        if line is not None and value_of(option) != part.default:
            yield line


def rule_class(name: str) -> type:
    """The step rule of a name: one of RULES, an entry point's or `package.module:Class`. Raises UserError for a name
    that leads nowhere, or to something else than a class."""
    plugins.allow("sampler", name)  # whoever names a sampler is a person: no folder does
    rule = plugins.resolve("sampler", name)
    if not isinstance(rule, type):
        raise UserError(f"sampler {name}: expected a class, whose fields are the options, found {rule!r}")
    return rule


def options_of(rule: type, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """The options of a step rule that a user may set: name -> (type, default). The default is MISSING for one that must
    be set."""
    if not is_dataclass(rule):
        return {}
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


def _pairs(options: str) -> dict[str, str]:
    pairs = {}
    for option in filter(None, options.split(",")):
        key, equals, value = option.partition("=")
        if not equals:
            raise UserError(f"sampler option {option!r} has no value; expected {option}=VALUE")
        if key.strip() in pairs:
            raise UserError(f"sampler option {key.strip()!r} is given twice, in {options!r}: keep one of them")
        pairs[key.strip()] = value.strip()
    return pairs


def _build(rule: type, start: dict[str, Any], given: dict[str, str], name: str) -> Any:
    known = options_of(rule)
    plain: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for option, text in given.items():
        if option not in known:
            hint = did_you_mean(option, known)
            its = f"; its options: {', '.join(known)}" if known else "; it has none: they are fields of a dataclass"
            raise UserError(f"sampler {name} has no option {option!r}{its}{hint}")
        value = _read(text, known[option][0], f"{name}: {option}")
        outer, dot, inner = option.partition(".")
        if dot:
            nested.setdefault(outer, {})[inner] = value
        else:
            plain[option] = value
    missing = [option for option, (_, default) in known.items() if default is MISSING and option not in given]
    if missing:
        raise UserError(f"sampler {name} needs {', '.join(f'{option}=VALUE' for option in missing)}")
    try:
        built = rule(**start | plain)
    except (TypeError, ValueError) as error:  # of a rule of the user's own: ours raise UserError
        raise UserError(f"the sampler {name} refuses its settings: {error}") from error
    if not nested:
        return built
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
