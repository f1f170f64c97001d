"""A plugin's own settings: its constructor's keywords, checked and documented as this package's are."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, get_type_hints

from mdlm_atat import plugins
from mdlm_atat.checks import did_you_mean
from mdlm_atat.config.section import expect, kind_of
from mdlm_atat.errors import UserError

REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True)
class Option:
    """One setting of a plugin."""

    name: str
    hint: Any
    """Its type; Any where the plugin does not say."""
    default: Any
    """REQUIRED where it has none."""
    meaning: str
    """The line under the field of a dataclass, empty where there is none."""

    def describe(self) -> str:
        """Name, type and default, for a person."""
        default = "required" if self.default is REQUIRED else f"default {self.default}"
        return f"{self.name}: {'any value' if self.hint is Any else kind_of(self.hint)}, {default}"


def options_of(thing: Callable[..., Any], num_given: int, offered: Collection[str]) -> list[Option]:
    """The settings of a plugin: what its constructor takes beyond the first `num_given` arguments and what the library
    offers by name."""
    hints = _hints(thing)
    meanings = field_docs(thing)
    return [
        Option(name, hints.get(name, Any), part.default, meanings.get(name, ""))
        for name, part in _parameters(thing, num_given).items()
        if name not in offered
    ]


def read_options(
    name: str,
    thing: Callable[..., Any],
    options: Mapping[str, Any],
    *,
    num_given: int,
    offered: Collection[str],
    where: str,
) -> dict[str, Any]:
    """A plugin's own settings, as the types of its constructor ask for them. `where`: the path that they have in a
    file. Raises UserError for settings that it does not take, or not with such a value, and for required ones that are
    missing, all at once."""
    known = {option.name: option for option in options_of(thing, num_given, offered)}
    mistakes, values = [], {}
    for key, value in options.items():
        if key not in known:
            has = f"; it has {', '.join(known)}" if known else "; it has none"
            mistakes.append(f"{where}.{key}: {name} has no such setting{did_you_mean(key, known) or has}")
            continue
        try:
            values[key] = value if known[key].hint is Any else expect(value, known[key].hint)
        except UserError as error:
            mistakes.append(f"{where}.{key}: {error}")
    mistakes += [
        f"{where}.{option.name}: {name} needs it ({option.describe()})"
        for option in known.values()
        if option.default is REQUIRED and option.name not in options
    ]
    if mistakes:
        raise UserError("\n  ".join(mistakes))
    return values


def make_plugin(
    kind: plugins.Kind,
    name: str,
    options: Mapping[str, Any],
    *given: Any,
    offered: Mapping[str, Any] | None = None,
    where: str,
) -> Any:
    """Construct a plugin: `given` in order, then what it takes of `offered`, by name, then its own settings, as
    `read_options` reads them. Raises UserError as that does, and where the plugin refuses its settings."""
    thing, offered = plugins.resolve(kind, name), offered or {}
    values = read_options(name, thing, options, num_given=len(given), offered=offered, where=where)
    taken = {key: value for key, value in offered.items() if key in _parameters(thing, len(given))}
    try:
        return thing(*given, **taken, **values)
    except (TypeError, ValueError) as error:
        raise UserError(f"the {plugins.WORDS[kind]} {name} refuses its settings: {error}") from error


def _parameters(thing: Callable[..., Any], num_given: int) -> dict[str, inspect.Parameter]:
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    found = [part for part in inspect.signature(thing).parameters.values() if part.kind in plain]
    return {part.name: part for part in found[num_given:]}


def _hints(thing: Callable[..., Any]) -> dict[str, Any]:
    """Types of the constructor's keywords, where they can be told."""
    try:
        return get_type_hints(thing.__init__ if isinstance(thing, type) else thing)
    except (NameError, TypeError):  # names that only a type checker imports
        return {}


def field_docs(thing: Any) -> dict[str, str]:
    """The line of documentation under each field of a class, by the field's name; empty where the source is not to be
    had."""
    owners = reversed(getattr(thing, "__mro__", ()))
    return {name: line for owner in owners for name, line in _own_field_docs(owner).items()}


@cache  # a server and a parser describe the same classes again and again, and reading a source takes milliseconds
def _own_field_docs(owner: type) -> dict[str, str]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(owner)))
    except (OSError, TypeError, SyntaxError):
        return {}
    docs: dict[str, str] = {}
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    for line, after in pairwise(body):
        match line, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                docs[name] = " ".join(text.split())
    return docs
