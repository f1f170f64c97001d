"""Sources and tokenizers of other packages: `package.module:Name` or the name of an entry point, called with what
follows a further colon (`mine:Poems:1900` is `Poems("1900")`), or with nothing."""

from __future__ import annotations

import inspect
import re
from typing import Any, Literal

from mdlm_atat.errors import UserError
from mdlm_atat.plugins import REFERENCE, WORDS, allow, is_plugin, resolve

Kind = Literal["source", "tokenizer"]
_SPEC = re.compile(rf"(?P<name>{REFERENCE.pattern})(:(?P<rest>.*))?", re.DOTALL)
_DRIVE = re.compile(r"[A-Za-z]:")


def plugin_of(kind: Kind, spec: str) -> tuple[str, str | None] | None:
    """Return a plugin's name and the text it is called with, if any: "own:Poems:1807" gives ("own:Poems", "1807").

    Returns None for a `spec` that names no plugin, such as C:text, a Windows path.
    """
    if _DRIVE.match(spec):
        return None
    name, colon, rest = spec.partition(":")
    if is_plugin(kind, name):  # an entry point, also where a module has the same name
        return name, rest if colon else None
    match = _SPEC.fullmatch(spec)
    return None if match is None else (match["name"], match["rest"])


def allow_named(kind: Kind, spec: object) -> None:
    """Let a plugin that a person has named be imported; everything else is left alone."""
    found = plugin_of(kind, spec) if isinstance(spec, str) else None
    if found is not None:
        allow(kind, found[0])


def call_plugin(kind: Kind, spec: str) -> Any:
    """Import the plugin that a `spec` names, call it, and return what it makes.

    Raises UserError where nobody trusts it, where it is not installed, where it takes other arguments, and where it
    raises ValueError; what else it raises is passed on.
    """
    found = plugin_of(kind, spec)
    assert found is not None
    name, rest = found
    thing = resolve(kind, name)
    arguments, called = ((), "no text") if rest is None else ((rest,), f"the text {rest!r}")
    try:
        inspect.signature(thing).bind(*arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"the {WORDS[kind]} {name} cannot be called with {called}: {error}") from error
    try:
        return thing(*arguments)
    except ValueError as error:
        raise UserError(f"the {WORDS[kind]} {name} refuses {called}: {error}") from error
