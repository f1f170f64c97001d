"""Records as JSON: dataclasses from what a file of this version or of an earlier one holds. No torch here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from mdlm_atat.errors import UserError
from mdlm_atat.small_files import DAMAGE, read_json, why

MOST_BYTES = 1 << 27
AnyRecord = TypeVar("AnyRecord")


def json_ready(content: Any) -> Any:
    """The same with lists for tuples and None for numbers that are not finite."""
    match content:
        case Mapping():
            return {key: json_ready(value) for key, value in content.items()}
        case list() | tuple():
            return [json_ready(value) for value in content]
        case float() if not math.isfinite(content):
            return None
        case _:
            return content


def load_json(file: Path, *, expected: str) -> Any:
    """What a JSON file holds. Raises UserError for one that is not there, with what is `expected` in its place, and for
    one that is no JSON; OSError for one that cannot be read now, which may be as sound as any."""
    try:
        return read_json(file, most_bytes=MOST_BYTES, remedy="restore it from a copy, or delete it")
    except FileNotFoundError as error:
        raise UserError(f"there is no file {file}; expected {expected}") from error


def read_record(
    read: Callable[[Mapping[str, Any]], AnyRecord],
    content: Mapping[str, Any],
    *,
    source: str | Path,
    what: str,
    newest: int,
    again: str,
) -> AnyRecord:
    """The record that `read` finds in `content`, whose format is at most `newest`; without a number it is the oldest.

    `source` and `what` name the file and its kind in messages, and `again` says how to get such a record anew. Raises
    UserError for one of a later version, and where `read` stumbles: the record is damaged then.
    """
    if not isinstance(content, Mapping):
        raise UserError(f"{source} is damaged (it holds no object of names and values); {again}, or delete it")
    version = content.get("format", 0)
    if not isinstance(version, int) or version > newest:
        raise UserError(
            f"{source} is of format {version}, and this version of mdlm-atat reads {what} up to format {newest}: "
            f"update mdlm-atat, or {again}"
        )
    try:
        return read(content)
    except (UserError, *DAMAGE) as error:
        raise UserError(f"{source} is damaged ({why(error)}); {again}, or delete it") from error


def read_fields(kind: type[AnyRecord], content: Any) -> AnyRecord:
    """A dataclass from the values under the names of its fields, nested ones included; other values are passed over.

    What is not there, or null, keeps its default; a number without a default is NaN then (there is no standard error of
    a single draw, and no number at all of a model that diverged). Raises KeyError for anything else that is missing,
    and ValueError or TypeError for a value of another type.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"{content!r} holds no names")
    hints, values = _hints(kind), {}
    for part in fields(kind):  # pyright: ignore[reportArgumentType]
        value = content.get(part.name)
        if value is not None:
            values[part.name] = _read(hints[part.name], value)
        elif part.default is MISSING and part.default_factory is MISSING:
            if hints[part.name] is not float:
                raise KeyError(part.name)
            values[part.name] = math.nan
    return kind(**values)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _read(expected: Any, value: Any) -> Any:
    options, origin = get_args(expected), get_origin(expected)
    if origin in (Union, UnionType):
        options = [option for option in options if option is not NoneType]
        return _read(options[0], value) if len(options) == 1 else value
    if origin is tuple:
        kinds = options[:1] * len(value) if options[-1] is ... else options
        return tuple(_read(kind, each) for kind, each in zip(kinds, value, strict=True))
    if is_dataclass(expected):
        return value if isinstance(value, expected) else read_fields(expected, value)  # pyright: ignore[reportArgumentType]
    if origin is Literal and value not in options:
        raise ValueError(f"{value!r}, expected one of {', '.join(map(str, options))}")
    if expected is str and not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    if expected in (int, float):
        return expected(_number(value))
    return Path(value) if expected is Path else value


def _number(value: Any) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is no number")
    return value
