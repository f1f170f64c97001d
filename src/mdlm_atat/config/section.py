"""What every section of settings shares: facts about a setting on its field, and checks of its values.

A section is a frozen dataclass whose fields have a default and one line of documentation. What the rest of the package
has to know about a setting (may a resumed run change it? is it part of which text is scored?) stands on its field, by
`setting(default, ...)`, and is looked up with `settings_with`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import field, fields
from functools import cache
from types import UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from mdlm_atat import plugins
from mdlm_atat.checks import did_you_mean
from mdlm_atat.effect import Such, When
from mdlm_atat.errors import UserError
from mdlm_atat.formats import as_setting

Resume = Literal["free", "measured", "rounded", "place"]
"""What a resumed run may change: nothing that is reported changes (free); the weights stay the same bit for bit, but
not when and how exactly they are measured (measured); the same run, but sums round differently or the learning rate
follows another length (rounded); it says where something lies, and what is found there has to be the same (place).
Settings without it cannot be changed."""


def setting(
    default: Any,
    *,
    resume: Resume | None = None,
    same: Literal["text", "draws"] | None = None,
    of_text: bool = False,
    short: str | None = None,
    plugin: plugins.Kind | None = None,
    when: When | tuple[When, ...] = (),
    options_of: str | None = None,
    num_given: int = 0,
    offered: tuple[str, ...] = (),
) -> Any:
    """A field with facts about its setting.

    `resume`: see `Resume`. `same`: runs are comparable only where it is the same, since it decides which text is scored
    or which draws are made. `of_text`: it says something of one text and nothing of another. `short`: its name as an
    argument of `train`. `when`: what it needs to have an effect, see `effect.When`; of several, one is enough, and
    settings of its own section go by their bare names. `plugin`: its value names something, built in or
    `package.module:Name`. `options_of`: it holds the own settings of the plugin that the section's setting of this name
    names. That is made with `num_given` arguments of ours, and with those of `offered` that it takes by name: they are
    no settings of its own.
    """
    facts = {"resume": resume, "same": same, "of_text": of_text, "short": short, "plugin": plugin}
    facts |= {
        "when": (when,) if isinstance(when, dict) else when,
        "options_of": options_of,
        "num_given": num_given,
        "offered": offered,
    }
    metadata = {name: value for name, value in facts.items() if value}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


PLUGIN = Such("a plugin", lambda value: plugins.is_plugin("backbone", value))
"""For a setting that needs a `model.kind` of somebody's own."""


class Section:
    """The base of a section: its values are what its fields ask for, wherever it was made. "6" is not the number 6."""

    NAME: ClassVar[str] = ""
    """The section's name in a file."""

    def __post_init__(self) -> None:
        mistakes: list[str] = []
        for part in fields(self):  # type: ignore[arg-type]  # subclasses are dataclasses
            try:
                value = expect(getattr(self, part.name), hints_of(type(self))[part.name])
                if kind := part.metadata.get("plugin"):
                    plugins.check_name(kind, value)
            except UserError as error:
                mistakes.append(f"{self.NAME}.{part.name}: {error}")
            else:
                object.__setattr__(self, part.name, value)
        if mistakes:
            raise UserError("\n".join(mistakes))
        self.check()

    def check(self) -> None:
        """Raise UserError where values are out of range, or contradict each other."""


@cache
def hints_of(section: type) -> dict[str, Any]:
    """Type of every field of a section."""
    found = get_type_hints(section)
    return {name: hint for name, hint in found.items() if get_origin(hint) is not ClassVar}


def expect(value: Any, hint: Any) -> Any:
    """The value, if it is what the setting asks for: no conversion, but int to float, list to tuple, and numpy's
    numbers to Python's. Raises UserError for anything else, and for numbers that are not finite."""
    if type(value).__module__ == "numpy" and hasattr(value, "item"):
        value = value.item()
    if hint is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if hint in (bool, int, str) and type(value) is hint:
        return value
    if type(None) in get_args(hint):
        return None if value is None else expect(value, next(kind for kind in get_args(hint) if kind is not type(None)))
    if is_choice(hint):
        for kind in get_args(hint):
            with suppress(UserError):
                return expect(value, kind)
    if get_origin(hint) is dict and isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return dict(value)
    if get_origin(hint) is Literal and isinstance(value, str):
        if value in get_args(hint):
            return value
        raise UserError(f"{value!r} is not {kind_of(hint)}{did_you_mean(value, get_args(hint))}")
    if get_origin(hint) is tuple and isinstance(value, (list, tuple)):
        kinds = get_args(hint)[:1] * len(value) if is_list(hint) else get_args(hint)
        if len(kinds) == len(value):
            return tuple(expect(item, kind) for item, kind in zip(value, kinds, strict=True))
    quotes = "; put it in quotes" if hint is str and not isinstance(value, (list, dict)) else ""
    raise UserError(f"expected {kind_of(hint)}, found {as_setting(value)}{quotes}")


def is_list(hint: Any) -> bool:
    """Whether a setting takes any number of values: tuple[X, ...]."""
    return get_origin(hint) is tuple and get_args(hint)[-1] is ...


def is_choice(hint: Any) -> bool:
    """Whether a setting takes values of several kinds, `int | Literal["auto"]`; one that may be None is none."""
    return get_origin(hint) in (Union, UnionType) and type(None) not in get_args(hint)


def kind_of(hint: Any) -> str:
    """What a setting asks for, in words."""
    if is_choice(hint):
        return " or ".join(kind_of(kind).removeprefix("one of ") for kind in get_args(hint))
    if get_origin(hint) is Literal:
        return f"one of {', '.join(get_args(hint))}"
    if is_list(hint):
        return f"a list, each {kind_of(get_args(hint)[0])}"
    if get_origin(hint) is tuple:
        return f"{len(get_args(hint))} numbers"
    if get_origin(hint) is dict:
        return "settings by name"
    return {bool: "true or false", int: "a whole number", float: "a number"}.get(hint, "text")
