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
FILLED_IN = ("profile", "schedule", "eos_id")
"""Fields of a rule that the model brings, not the user."""


def split_spec(spec: str) -> tuple[str, str]:
    """The name in a specification, and its options.

    A specification is NAME or NAME:OPTION=VALUE,... where NAME is one of RULES or PRESETS, a name that an installed
    package offers (an entry point of `mdlm_atat.sampler`), or `package.module:Class`. What follows the first colon
    belongs to the name if it is an identifier, and is an option if it has a =. A name that is known goes before a
    module of that name. Raises UserError for a name that is neither known nor of that form; nothing is imported.
    """
    name, _, options = spec.partition(":")
    if name not in [*PRESETS, *plugins.names("sampler")]:
        second, _, rest = options.partition(":")
        if plugins.is_reference(f"{name}:{second}"):
            return f"{name}:{second}", rest
    plugins.check_name("sampler", name, PRESETS)
    return name, options


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
