"""What a user can do wrong, and how the command line says it."""

from __future__ import annotations

import ast
import re
import shlex
import string
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class UserError(Exception):
    """A mistake that the user can mend: what was wrong, what was expected, what to do next.

    The message speaks Python: a setting, an argument or a call that it names stands in backticks, as in "try
    `train.batch_size=512`" or "go on with `train(resume='runs/a')`". The command line prints `as_command(message)`
    alone, without a traceback, and exits with code 2.
    """


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was short, of the machine or of a GPU. Only Python and CUDA have an error class of their own."""
    short = ("can't allocate memory", "out of memory")
    is_named = isinstance(error, RuntimeError) and any(words in str(error) for words in short)
    return isinstance(error, MemoryError) or is_named


COMMANDS = {  # function of the library: the command that calls it
    "train": "train",
    "evaluate": "eval",
    "finetune": "finetune",
    "prepare": "data prepare",
    "generate": "generate",
    "infill": "infill",
    "inspect": "inspect",
    "score": "score",
}
PLAIN = frozenset(f"{string.ascii_letters}{string.digits}/._- ")
FLAGS = {"save": "json"}  # argument of the library: the flag that says the same, where it has another name
_SETTING = re.compile(r"([A-Za-z_][\w.]*)=(?!=)(.*)", re.DOTALL)
_IN_BACKTICKS = re.compile(r"""`((?:[^`'"]|'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")+)`|`([^`]+)`""", re.DOTALL)
"""Code, whose strings may hold backticks, or anything else."""
_CALL = re.compile(r"[\w.]+\(.*\)", re.DOTALL)


def call(function: str, *arguments: object, **keywords: object) -> str:
    """A call of the library for a message, in backticks; paths as strings."""
    words = [_code(value) for value in arguments]
    words += [f"{name}={_code(value)}" for name, value in keywords.items()]
    return f"`{function}({', '.join(words)})`"


def _code(value: object) -> str:
    return repr(str(value) if isinstance(value, Path) else value)


def command_line(words: Sequence[str | Path]) -> str:
    """`atat` and its words as they can be pasted into a shell, whatever is in them. A path that begins with a dash is
    written as ./-PATH, for it would be a flag."""
    return " ".join(["atat", *(quoted(_word(word) if isinstance(word, Path) else word) for word in words)])


def quoted(word: str) -> str:
    """A word as a shell reads it. One with bytes that are no UTF-8 or with control characters, which a terminal obeys,
    has their numbers: $'r\\374n' (bash, zsh, ksh)."""
    if not any(unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\t" for char in word):
        return shlex.quote(word)
    escaped = (chr(byte) if chr(byte) in PLAIN else f"\\{byte:03o}" for byte in word.encode("utf-8", "surrogateescape"))
    return f"$'{''.join(escaped)}'"


def _word(path: Path) -> str:
    return f"./{path}" if str(path).startswith("-") else str(path)


def as_command(message: str, flags: Mapping[str, str] | None = None) -> str:
    """The message with what stands in backticks written as a user of the command line types it.

    `out=` becomes --out, `num_draws=64` --num_draws 64, `compile=True` --compile, `model.tied=True`
    --model.tied true (a setting always has a value), and `train(resume='runs/a')` atat train --resume runs/a.
    Anything else in backticks, and a message without them, stays as it is. `flags` are arguments whose flag has another
    name in this command: {"column": "data.column"} where there is no --column.
    """
    flags = {**FLAGS, **(flags or {})}
    return _IN_BACKTICKS.sub(lambda found: _command(found[1] or found[2], flags) or found[0], message)


def _command(code: str, flags: Mapping[str, str]) -> str | None:
    """Python code as words of a command line; None if it is neither an argument nor a call of the library."""
    if setting := _SETTING.fullmatch(code):
        name = flags.get(setting[1], setting[1])
        return _flag(name, _value(setting[2])) if setting[2] else f"--{name}"
    if not _CALL.fullmatch(code):
        return None
    try:
        call = ast.parse(code, mode="eval").body
    except (SyntaxError, ValueError):
        return None
    if not isinstance(call, ast.Call):
        return None
    command = COMMANDS.get(ast.unparse(call.func).rpartition(".")[2])
    if command is None:
        return None
    words = [f"atat {command}", *(_words(_value(ast.unparse(argument)), "./") for argument in call.args)]
    for keyword in call.keywords:
        value = _value(ast.unparse(keyword.value))
        if keyword.arg is not None:
            words.append(_flag(keyword.arg, value))
        elif isinstance(value, Mapping):  # **{"train.num_steps": 50}
            words += [_flag(name, part) for name, part in value.items()]
    return " ".join(words)


def _value(code: str) -> Any:
    """What the code stands for; the code itself where it is no literal (a placeholder such as OTHER)."""
    try:
        return ast.literal_eval(code)
    except (SyntaxError, ValueError):
        return _Placeholder(code)


class _Placeholder(str):
    """A word that stands for what the user puts there."""

    __slots__ = ()


def _flag(name: str, value: Any) -> str:
    if isinstance(value, bool) and "." not in name:
        return f"--{name}" if value else f"no --{name}"
    is_like_flag = type(value) is str and value.startswith("-")
    return f"--{name}{'=' if is_like_flag else ' '}{_words(value)}"


def _words(value: Any, before_dash: str = "") -> str:
    """`before_dash` is put before a text that begins with a dash, and would be a flag."""
    match value:
        case bool():
            return str(value).lower()
        case list() | tuple():
            return " ".join(map(_words, value))
        case _Placeholder():
            return "..." if value == "Ellipsis" else value
        case _:
            before = before_dash if type(value) is str and value.startswith("-") else ""
            return "..." if value is ... else quoted(f"{before}{value}")
