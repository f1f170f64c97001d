"""Settings that a person names and that change nothing, told from `when` on their fields (`config.section.When`)."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import fields
from typing import Any

from mdlm_atat import plugins
from mdlm_atat.config.schema import SECTIONS, RunConfig
from mdlm_atat.config.section import BELOW_1, PLUGIN, When, shown


def without_effect(config: RunConfig, named: Collection[str]) -> list[str]:
    """What is to be said of the settings among `named`, by path, that have no effect in a configuration: a line each,
    with what they need. A section that is named whole, as in a file that says everything, names nothing."""
    lines: list[str] = []
    for name, section in SECTIONS.items():
        parts = {f"{name}.{part.name}": part for part in fields(section)}  # type: ignore[arg-type]
        if parts.keys() <= set(named):
            continue
        for path in parts.keys() & set(named):
            alternatives = parts[path].metadata.get("when", ())
            lacking = [list(_lacking(config, when)) for when in alternatives]
            if lacking and all(lacking):
                needs = min(lacking, key=len)
                found = " and ".join(f"{other} = {shown(_value(config, other)).strip(chr(39))}" for other, _ in needs)
                wanted = " and ".join(f"{other} {expected}" for other, expected in needs)
                lines.append(f"{path} has no effect with {found}: it needs {wanted}")
    return sorted(lines)


def _lacking(config: RunConfig, when: When) -> Iterator[tuple[str, str]]:
    """The settings whose value is none of those that are needed, with these in words."""
    for path, needed in when.items():
        options = needed if isinstance(needed, tuple) else (needed,)
        value = _value(config, path)
        values = value if isinstance(value, tuple) else (value,)
        if not any(_is(path, each, option) for each in values for option in options):
            yield path, " or ".join(shown(option).strip("'") for option in options)


def _is(path: str, value: Any, option: Any) -> bool:
    if option == BELOW_1:
        return value < 1
    if option == PLUGIN:
        section, _, name = path.partition(".")
        kind = SECTIONS[section].__dataclass_fields__[name].metadata["plugin"]  # type: ignore[attr-defined]
        return plugins.is_plugin(kind, value)
    return value == option


def _value(config: RunConfig, path: str) -> Any:
    section, _, name = path.partition(".")
    return getattr(getattr(config, section), name)
