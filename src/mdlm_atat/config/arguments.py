"""Settings as keyword arguments of Python: `num_steps=2000`, `model={"width": 64}`, `settings={"optim.lr": 3e-4}`."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from mdlm_atat import plugins
from mdlm_atat.checks import did_you_mean
from mdlm_atat.config.effect import without_effect, without_effect_in_file
from mdlm_atat.config.files import METHODS, apply_settings, load_config, named_settings
from mdlm_atat.config.schema import SECTIONS, RunConfig, named_plugins
from mdlm_atat.config.section import Section
from mdlm_atat.config.size import check_memory
from mdlm_atat.data.plugged import allow_named
from mdlm_atat.errors import UserError

Setting = bool | int | float | str | None | type | Path | Section | Mapping[str, Any] | list[Any] | tuple[Any, ...]
"""What a setting may be given as in Python."""


@cache
def short_names() -> dict[str, str]:
    """Keyword -> dotted path: what a setting's field says (`data`, `masking`, `optimizer`, ...), and the bare name of
    every setting that no other section has."""
    parts = [(name, part) for name, section in SECTIONS.items() for part in fields(section)]  # type: ignore[arg-type]
    counts = Counter(part.name for _, part in parts)
    found = {part.name: f"{name}.{part.name}" for name, part in parts if counts[part.name] == 1}
    return found | {part.metadata["short"]: f"{name}.{part.name}" for name, part in parts if "short" in part.metadata}


def read_arguments(settings: Mapping[str, Any], keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted path from Python's: dotted ones as they are, short names, and sections as mappings or as the
    dataclass itself. A class in the place of a name is written down as the name that it is imported by.

    Raises UserError for an unknown keyword, with the closest one there is.
    """
    found: dict[str, Any] = dict(settings)
    for name, value in keywords.items():
        if name in SECTIONS and isinstance(value, (Mapping, Section)):
            parts = value if isinstance(value, Mapping) else {p.name: getattr(value, p.name) for p in fields(value)}  # type: ignore[arg-type]
            found |= {f"{name}.{key}": part for key, part in parts.items()}
        elif name in short_names():
            found[short_names()[name]] = value
        elif name in SECTIONS:
            raise UserError(f"`{name}=` is a section of settings, and takes a mapping or a {SECTIONS[name].__name__}")
        else:
            several = [f"{section}={{'{name}': ...}}" for section, kind in SECTIONS.items() if name in _names(kind)]
            hint = f"; several sections have it: say `{'` or `'.join(several)}`" if several else ""
            raise UserError(f"there is no setting {name}{hint or did_you_mean(name, [*short_names(), *SECTIONS])}")
    return {path: _plain(value) for path, value in found.items()}


def read_config(
    config: RunConfig | str | Path,
    method: str | None,
    changed: Mapping[str, Any],
    label: str,
    *,
    from_folder: bool = False,
    is_built: bool = True,
) -> RunConfig:
    """The configuration of a preset, a YAML file, a run folder, or a RunConfig, under a method, with settings changed.

    Plugins that a person names here (in a file of settings, or in `changed`) may be imported from now on; those that a
    run folder names only where it is trusted. `from_folder`: a RunConfig came from one. `is_built`: its network is
    built on this machine. Warns of settings that are named here and have no effect. Raises UserError with every mistake
    at once, and for a network that is built or a batch that needs more memory than there is.
    """
    if isinstance(config, RunConfig):
        if method is not None:
            raise UserError(f"{label}: a RunConfig says its method already: leave out `method=`")
        before = config
    else:
        before = load_config(str(config), method)
        from_folder = Path(config).is_dir()
    after, mistakes = apply_settings(before, changed)
    if after is None:
        lines = [f"`{path}=`: {message}" if path else message for path, message in mistakes]
        several = f"{len(lines)} mistakes\n  " if len(lines) > 1 else ""
        raise UserError(f"{label}: {several}" + "\n  ".join(lines))
    if is_built:
        check_memory(after)
    named = set(changed) | (set() if method is None else named_settings(method, METHODS))
    lines = {} if isinstance(config, RunConfig) else without_effect_in_file(str(config), after)
    lines |= without_effect(after, named)
    for line in lines.values():
        warnings.warn(line, stacklevel=2)
    given = [value for value in changed.values() if isinstance(value, str)]
    for kind, name in named_plugins(after):
        if not from_folder or name in given:
            plugins.allow(kind, name)
    for spec in (after.data.source, after.data.validation):
        if not from_folder or spec in given:
            allow_named("source", spec)
    if after.data.tokenizer in given:  # with what it is called with, own:Tokenizer:3
        allow_named("tokenizer", after.data.tokenizer)
    return after


def _names(section: type[Section]) -> set[str]:
    return {part.name for part in fields(section)}  # type: ignore[arg-type]


def _plain(value: Any) -> Any:
    if isinstance(value, type):
        return plugins.reference_to(value)
    return str(value) if isinstance(value, Path) else value
