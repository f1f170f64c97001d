"""How pages word settings and other stored values. For numbers see `formats`."""

from collections.abc import Mapping
from typing import Any


def plain(value: object) -> str:
    """A setting's value as text: `true`, `none`, `a, b`."""
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value) or "none"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def flat(mapping: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """The values of a nested mapping as text, by dotted path."""
    rows = []
    for key, value in mapping.items():
        if isinstance(value, dict):
            rows += flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", plain(value)))
    return rows


def section(mapping: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The mapping under `key`; an empty one where there is none."""
    value = mapping.get(key)
    return value if isinstance(value, dict) else {}
