"""The samplers that there are and their options, known without importing torch: read from the rules' source files."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mdlm_atat import plugins
from mdlm_atat.errors import UserError

ANY = "any"
"""The order of scoring that is no sampler's: the mean over all orders."""
RULES: Mapping[str, str] = plugins.BUILT_IN["sampler"]
"""Name of each step rule of this package -> `module:Class`."""
PRESETS = {
    "spread": "uncertainty:amount=constant,spread=true,tokens_a_step=8,least_steps=16",
    "greedy": "uncertainty:score=max_probability,amount=constant,draw.temperature=0",
    "entropy_budget": "uncertainty:amount=entropy_budget,num_steps=none",
    "threshold": "uncertainty:score=max_probability,amount=threshold,num_steps=none",
    "documents": "uncertainty:order=most_uncertain,stop.entropy=0.5,stop.confidence=0.7,stop.patience=100",
}
"""Name -> the specification that it is short for."""
PRESET_SUMMARIES = {
    "spread": "The most certain tokens first, those of a step far from each other.",
    "greedy": "The most certain tokens first, and always the likeliest: the same text each time.",
    "entropy_budget": "As many tokens at a time as are certain enough together.",
    "threshold": "All tokens at a time that are more certain than 0.9.",
    "documents": "The least certain tokens first; stops when the rest is certain.",
}
"""Name -> what it does, in a sentence."""
STEPS = ("num_steps", "tokens_a_step", "least_steps", "block")
"""Options that say how many steps a sampler takes."""
BUDGETS = (*STEPS, "gamma", "threshold")
"""Options that decide how many steps a sampler takes, by what the network says too, and not which sampler it is."""
WORDS = {
    "uncertainty": "most certain first",
    "order=most_certain": "",
    "order=most_uncertain": "least certain first",
    "score=entropy": "by entropy",
    "score=margin": "by margin",
    "score=max_probability": "by largest probability",
    "score=importance_entropy": "by importance times entropy",
    "draw.temperature=0": "likeliest tokens",
    "amount=constant": "equal steps",
    "amount=half_cosine": "half-cosine steps",
    "amount=cosine": "cosine steps",
    "amount=optimal": "optimal steps",
    "amount=entropy_budget": "entropy budget",
    "amount=threshold": "threshold",
    "sizes=constant": "equal steps",
    "sizes=cosine": "cosine steps",
    "sizes=optimal": "optimal steps",
}
"""A rule, or an option with its value -> how a legend says it."""
FILLED_IN = ("profile", "schedule", "eos_id")
"""Fields of a rule that the model brings, not the user."""


def split_spec(spec: str, *, is_order: bool = False) -> tuple[str, str]:
    """The name in a specification, and its options.

    A specification is NAME or NAME:OPTION=VALUE,... where NAME is one of RULES or PRESETS, a name that an installed
    package offers (an entry point of `mdlm_atat.sampler`), or `package.module:Class`. What follows the first colon
    belongs to the name if it is an identifier, and is an option if it has a =. A name that is known goes before a
    module of that name. `is_order`: it says in what order a text is scored, and may be ANY too. Raises UserError for a
    name that is neither known nor of that form; nothing is imported.
    """
    name, _, options = spec.partition(":")
    known = {ANY: "", **PRESETS} if is_order else PRESETS
    if name not in [*known, *plugins.names("sampler")]:
        second, _, rest = options.partition(":")
        if plugins.is_reference(f"{name}:{second}"):
            return f"{name}:{second}", rest
    plugins.check_name("sampler", name, known, word="order" if is_order else None)
    return name, options


def check_order(order: str) -> None:
    """Raise UserError for an order that no model scores a text in: one that is neither ANY nor a sampler, whose own
    order it is, `left_to_right` among them."""
    name, options = split_spec(order, is_order=True)
    if name == ANY and options:
        raise UserError(f"order {order!r}: any has no options; leave out what follows it")


def says_its_steps(spec: str) -> bool:
    """Whether a specification has one of STEPS."""
    return any(_key(option) in STEPS for option in _parts(spec)[1])


def without_budget(spec: str) -> str:
    """A specification without its BUDGETS: what is one curve."""
    name, options = _parts(spec)
    return ":".join(filter(None, [name, ",".join(_unlimited(options))]))


def in_words(spec: str) -> str:
    """A sampler as a legend names it: `spread`, `spread, by margin`, `least certain first, equal steps`.

    A specification that has all options of a preset, budgets aside, goes by the preset's name. What is not known here
    is written as it is.
    """
    name, options = _parts(spec)
    if name not in RULES and name not in PRESETS:
        return spec
    own = _unlimited(options)
    fitting = {
        preset: wanted
        for preset, whole in PRESETS.items()
        if whole.partition(":")[0] == name and (wanted := set(_unlimited(_parts(whole)[1]))) <= set(own)
    }
    if fitting:
        name = max(fitting, key=lambda preset: len(fitting[preset]))
        own = [option for option in own if option not in fitting[name]]
    elif name == "uncertainty" and "order=most_uncertain" in own:
        own.remove("order=most_uncertain")
        name = "order=most_uncertain"
    return ", ".join(filter(None, [WORDS.get(name, _plain(name)), *map(_worded, own)]))


def _parts(spec: str) -> tuple[str, list[str]]:
    """As split_spec, of a specification whose name need not be known here: a stored one."""
    name, _, options = spec.rpartition(":")
    if "=" not in options:
        name, options = spec, ""
    return name, [option.strip() for option in options.split(",") if option.strip()]


def _key(option: str) -> str:
    return option.partition("=")[0].strip()


def _unlimited(options: list[str]) -> list[str]:
    """The options that make a sampler what it is."""
    return [option for option in options if _key(option) not in BUDGETS]


def _worded(option: str) -> str:
    key, _, value = option.partition("=")
    if option in WORDS:
        return WORDS[option]
    return _plain(key) if value == "true" else f"{_plain(key)} {value}"


def _plain(name: str) -> str:
    return name.removeprefix("draw.").replace("_", " ")


@dataclass(frozen=True)
class Described:
    """A step rule as a list shows it."""

    name: str
    summary: str
    """The first sentence of its documentation."""
    options: dict[str, str]
    """Each option and its default, as one writes it in a specification."""


def describe(name: str) -> Described:
    """What there is to know of one of RULES. Its module is read, not imported."""
    module, _, class_name = RULES[name].partition(":")
    _, definition = _class(module, class_name)
    summary = (ast.get_docstring(definition) or "").split("\n\n")[0]
    return Described(name, " ".join(summary.split()), _options(module, class_name))


def shown(value: Any) -> str:
    """A value of an option, as one writes it."""
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _options(module: str, class_name: str, prefix: str = "") -> dict[str, str]:
    """The fields of a dataclass and their defaults; those of a field that is itself one, after a dot."""
    tree, definition = _class(module, class_name)
    found: dict[str, str] = {}
    for base in definition.bases:
        found |= _options(*_home(tree, module, ast.unparse(base)), prefix)
    for node in definition.body:
        if not isinstance(node, ast.AnnAssign) or ast.unparse(node.annotation).startswith("ClassVar"):
            continue
        field = ast.unparse(node.target)
        match node.value:
            case _ if field in FILLED_IN:
                pass
            case ast.Call(keywords=[ast.keyword(arg="default_factory", value=factory)]):
                found |= _options(*_home(tree, module, ast.unparse(factory)), f"{prefix}{field}.")
            case ast.Call(keywords=[ast.keyword(arg="default", value=default), *_]):
                found[prefix + field] = shown(ast.literal_eval(default))
            case ast.expr() as default:
                found[prefix + field] = shown(ast.literal_eval(default))
    return found


def _home(tree: ast.Module, module: str, name: str) -> tuple[str, str]:
    """The module that a class of this name is defined in, seen from here."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and name in [alias.name for alias in node.names]:
            return node.module, name
    return module, name


def _class(module: str, name: str) -> tuple[ast.Module, ast.ClassDef]:
    tree = _parsed(module)
    return tree, next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)


@cache
def _parsed(module: str) -> ast.Module:
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
