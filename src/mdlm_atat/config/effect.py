"""Settings of a run that a person names and that change nothing, told from `when` on their fields (`effect.When`)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields
from typing import Any

from mdlm_atat import effect
from mdlm_atat.config.schema import SECTIONS, RunConfig


def without_effect(config: RunConfig, named: Collection[str]) -> list[str]:
    """What is to be said of the settings among `named`, by path, that have no effect in a configuration: a line each,
    with what they need. A section that is named whole, as in a file that says everything, names nothing."""

    def value_of(path: str) -> Any:
        section, _, name = path.partition(".")
        return getattr(getattr(config, section), name)

    lines: list[str | None] = []
    for name, section in SECTIONS.items():
        parts = {f"{name}.{part.name}": part for part in fields(section)}  # type: ignore[arg-type]
        if parts.keys() <= set(named):
            continue
        for path in parts.keys() & set(named):
            alternatives = [effect.inside(name, when) for when in parts[path].metadata.get("when", ())]
            lines.append(effect.without_effect(path, alternatives, value_of))
    return sorted(filter(None, lines))
