"""Settings of a run that a person names and that change nothing, told from `when` on their fields (`effect.When`)."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import fields
from functools import partial
from typing import Any

from mdlm_atat import effect
from mdlm_atat.config.files import describe_methods, load_config, named_settings
from mdlm_atat.config.schema import SECTIONS, RunConfig
from mdlm_atat.errors import UserError


def without_effect(config: RunConfig, named: Collection[str]) -> dict[str, str]:
    """What is to be said of the settings among `named`, by path, that have no effect in a configuration: a line each,
    with what they need. A section that is named whole, as in a file that says everything, names nothing."""
    lines: dict[str, str] = {}
    for name, section in SECTIONS.items():
        parts = {f"{name}.{part.name}": part for part in fields(section)}  # type: ignore[arg-type]
        if parts.keys() <= set(named):
            continue
        for path in parts.keys() & set(named):
            alternatives = [effect.inside(name, when) for when in parts[path].metadata.get("when", ())]
            if line := effect.without_effect(path, alternatives, partial(_value, config)):
                lines[path] = line
    return dict(sorted(lines.items()))


def without_effect_in_file(file: str, config: RunConfig) -> dict[str, str]:
    """The same of the settings that a YAML file names in the place of a preset, where `config` is what was made of it
    under a method and with flags. Settings at their default are passed over, and those that have an effect under any of
    the methods, since one file is trained by several. A preset or a folder names nothing."""
    plain = RunConfig()
    lines = without_effect(config, named_settings(file))
    lines = {path: line for path, line in lines.items() if _value(config, path) != _value(plain, path)}
    for method in describe_methods() if lines else ():
        with suppress(UserError):  # the method does not fit the file, as none fits a causal model
            still = without_effect(load_config(file, method), lines)
            lines = {path: line for path, line in lines.items() if path in still}
    return lines


def _value(config: RunConfig, path: str) -> Any:
    section, _, name = path.partition(".")
    return getattr(getattr(config, section), name)
