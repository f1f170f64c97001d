"""The text of a row: one column, a column inside another, several by a template, or the messages of a chat."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from mdlm_atat.data.answers import Marked
from mdlm_atat.data.readers.reading import Reading, template_columns, template_parts
from mdlm_atat.errors import UserError

NULL_ROWS, EMPTY_CHATS = "rows without text (null)", "chats without messages"
NULL_MESSAGES, TOOL_CALLS = "messages of chats without content (null)", "tool calls of chats"
OTHER_PARTS = "parts of chat messages that are no text"
UNSAID = ("reasoning_content", "reasoning", "thinking", "refusal")
"""What messages hold beside their content, as servers answer and data sets store it."""
ASSISTANT = "Assistant"
_ROLES = {"human": "User", "gpt": "Assistant", "chatgpt": "Assistant", "bot": "Assistant", "model": "Assistant"}
LONGEST_NAMES = 300
Message = Mapping[str, Any]
Messages = Sequence[Message]
"""A conversation: each message with `role` and `content`, as OpenAI calls them, or `from` and `value`, as ShareGPT."""
_SURROGATE = re.compile("[\ud800-\udfff]")


class Ambiguous(dict[str, Any]):
    """A row, or an object inside one, in which some names stand more than once; the last value of each is kept."""

    def __init__(self, row: Mapping[str, Any], repeated: set[str]) -> None:
        super().__init__(row)
        self.repeated = repeated


class Cells(Ambiguous):
    """A row of a table, whose names are the cells of its first line."""


def text_of(row: Any, reading: Reading, where: str, left_out: Counter[str]) -> str | None:
    """Return the text of a row; None for one that has none and is skipped, which `left_out` counts.

    A row that is a text is taken as it is. With a template a null is written as nothing, unless all columns that the
    template names are null, or nulls are to be refused. A chat without messages is a null. Of a chat, and of a
    template, the text knows its answers (`Marked`): what the assistant says, else the last column with what follows it.
    Raises UserError, which begins with `where`, for a row without the column or the text.
    """
    if isinstance(row, str):
        return _whole(row, where, "the text")
    if not isinstance(row, Mapping):
        hint = "; an array of rows goes into a .json file" if isinstance(row, list) else ""
        raise UserError(f"{where} is {_kind(row)}, expected an object with {_wanted(reading)}{hint}")
    if reading.template is None:
        value = _value(row, reading.column, where)
        values = {reading.column: value}
        text = None if _is_null(value) else _own_text(value, reading.column, where, left_out)
    else:
        values = {column: _value(row, column, where) for column in template_columns(reading.template)}
        enough = any if reading.nulls == "refuse" else all
        is_null = enough(_is_null(value) for value in values.values())
        text = None if is_null else _filled(reading.template, values, where, left_out)
    if text is None:
        every = all if reading.nulls == "refuse" else any
        is_chat = every(value is not None for value in values.values())
        if reading.nulls == "refuse":
            what = "a list without messages" if is_chat else "null"
            raise UserError(f"{where}: {_wanted(reading)} is empty ({what}), expected a text")
        left_out[EMPTY_CHATS if is_chat else NULL_ROWS] += 1
    return text


def columns_of(reading: Reading) -> list[str]:
    """Return the columns that a text is made of, as they are named: meta.text for one inside another."""
    return [reading.column] if reading.template is None else template_columns(reading.template)


def named(columns: Iterable[str]) -> str:
    """Return the names of columns in words, not more than a line or two of them."""
    text = ", ".join(columns)
    return text if len(text) <= LONGEST_NAMES else f"{text[:LONGEST_NAMES]}..."


def no_column(where: str, column: str, row: Mapping[str, Any]) -> UserError:
    """Return the error of a row that has no such column, with the columns it has and the one that looks like text."""
    if not row:
        return UserError(f"{where} has no column {column!r}, nor any other: remove the row")
    names = named(map(str, row))
    inside = {
        f"{name}.{key}": part
        for name, value in row.items()
        if isinstance(value, Mapping)
        for key, part in value.items()
    }
    found = {**{str(name): value for name, value in row.items()}, **inside}
    texts = {name: len(value) for name, value in found.items() if isinstance(value, str) and len(value) > 8}
    chats = [name for name, value in found.items() if is_chat(value)]
    alike = [name for name in found if name.strip().casefold() == column.strip().casefold()]
    longest = sorted(texts, key=lambda name: -texts[name])
    likely = next(iter([*alike, *chats, *longest]), None)
    set_it = f"set `column={likely!r}`" if likely else "set `column=` to the one that holds the text"
    several = ", or several by `template='{...} {...}'`" if len(row) > 1 else ""
    more = "; if the first line is no header, write one above it" if isinstance(row, Cells) else ""
    lists = [name for name, value in found.items() if _is_list_of_objects(value)]
    if lists and not likely:
        set_it, several = f"{lists[0]!r} is a list of objects: write those as the rows of a file", ""
    elif lists and not alike and not chats:
        more = f"; if the objects in {lists[0]!r} are the rows, write those into a file"
    return UserError(f"{where} has no column {column!r}; its columns are {names}: {set_it}{several}{more}")


def _is_list_of_objects(value: Any) -> bool:
    is_list = isinstance(value, list) and bool(value) and not is_chat(value)
    return is_list and all(isinstance(part, Mapping) for part in value)


def _wanted(reading: Reading) -> str:
    return f"a column {reading.column!r}" if reading.template is None else f"the columns of {reading.template!r}"


def _value(row: Mapping[str, Any], column: str, where: str) -> Any:
    """What stands in a column, or in one inside it; a null on the way is the value."""
    if column in row:
        return only(row, column, where)
    value: Any = row
    for name in column.split("."):
        if value is None:
            return None
        if not isinstance(value, Mapping) or name not in value:
            raise no_column(where, column, row)
        value = only(value, name, where)
    return value


def only(row: Mapping[str, Any], name: str, where: str) -> Any:
    """Return the value of a name in a row. Raises UserError, which begins with `where`, where the name stands twice."""
    if isinstance(row, Ambiguous) and name in row.repeated:
        raise UserError(f"{where} has more than one {name!r}: give them names of their own, or remove all but one")
    return row[name]


def _is_null(value: Any) -> bool:
    return value is None or (isinstance(value, list) and not value)


def _own_text(value: Any, column: str, where: str, left_out: Counter[str]) -> str:
    if isinstance(value, str):
        return _whole(value, where, f"column {column!r}")
    if isinstance(value, bytes):
        return _decoded(value, column, where)
    if is_chat(value):
        return chat_text(value, f"{where}: column {column!r}", left_out)
    hint = " or messages, each with `role` and `content`" if isinstance(value, list) else ""
    if isinstance(value, (bool, int, float, Decimal)):
        hint = f"; to write it as one: `template='{{{column}}}'`"
    raise UserError(f"{where}: column {column!r} holds {_kind(value)}, expected a text{hint}")


def _decoded(value: bytes, column: str, where: str) -> str:
    """The bytes of a Parquet file that does not say that they are text."""
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: column {column!r} holds bytes that are not UTF-8") from error


def _filled(template: str, values: Mapping[str, Any], where: str, left_out: Counter[str]) -> str:
    """The template with the value of each column; numbers as they are written in JSON, nulls as nothing."""

    def shown(column: str) -> str:
        value = values[column]
        match value:
            case None | []:
                return ""
            case bool():
                return json.dumps(value)
            case str():
                return _whole(value, where, f"column {column!r}")
            case bytes():
                return _decoded(value, column, where)
            case _ if is_chat(value):
                return chat_text(value, f"{where}: column {column!r}", left_out)
            case Mapping() | list() | tuple():
                raise UserError(f"{where}: column {column!r} holds {_kind(value)}, expected a text or a number")
            case Decimal():
                return f"{value:f}"
            case _:
                return str(value)

    text, answers, place = "", list[tuple[int, int]](), 0
    for literal, column in template_parts(template):
        text += literal
        if column is None:
            continue
        place, part = len(text), shown(column)
        text += part
        if isinstance(part, Marked):
            answers += [(place + start, place + end) for start, end in part.answers]
    if not any(is_chat(value) for value in values.values()):
        answers = [(place - text.endswith(" ", 0, place), len(text))]  # as in a chat, the space before is its own
    return Marked(text, tuple(span for span in answers if text[slice(*span)].strip()))


def prompt_of(reading: Reading, given: Messages | Mapping[str, Any]) -> str:
    """Return what a text begins with up to the answer that is to be written, as `text_of` would write it: messages, or
    with a template the values of its columns but the last; those that are not given are written as nothing.

    Raises UserError for what is neither, and where the text that was read has another form.
    """
    where = "the prompt"
    if not isinstance(given, Mapping):
        if not is_chat(given):
            raise UserError("expected messages, each with `role` and `content`, at least one")
        if reading.template is not None:
            raise UserError(
                f"this model's text was written by the template {reading.template!r}: give the values of its columns"
            )
        return f"{chat_text(given, where)}\n{ASSISTANT}:"
    if reading.template is None:
        raise UserError("this model's text was written by no template: give messages, each with `role` and `content`")
    *columns, last = template_columns(reading.template)
    begins = is_chat(given.get(last)) and reading.template.endswith(f"{{{last}}}")
    unknown = sorted(given.keys() - set(columns) - {last} if begins else given.keys() - set(columns))
    if unknown:
        raise UserError(
            f"{', '.join(unknown)}: the prompt of {reading.template!r} is made of {', '.join(columns) or 'no column'}"
        )
    values: dict[str, Any] = {column: given.get(column) for column in columns}
    if begins:
        return f"{_filled(reading.template, {**values, last: given[last]}, where, Counter())}\n{ASSISTANT}:"
    text = _filled(reading.template, {**values, last: "."}, where, Counter())
    assert isinstance(text, Marked)
    return text[: text.answers[0][0]]


def is_chat(value: Any) -> bool:
    """Return whether a value is a list of messages (see `Messages`), at least one."""
    return (
        isinstance(value, list) and len(value) > 0 and all(isinstance(turn, Mapping) and _says(turn) for turn in value)
    )


def _says(turn: Mapping[str, Any]) -> bool:
    return ("role" in turn and bool({"content", "tool_calls", "function_call"} & set(turn))) or (
        {"from", "value"} <= set(turn)
    )


def chat_text(turns: Messages, where: str, left_out: Counter[str] | None = None) -> Marked:
    """Return a conversation as lines "User: ..." and "Assistant: ...", in order; roles that are not known keep their
    name. What an assistant says, with the space before it, is an answer, unless the message has `weight` 0, as OpenAI
    marks what is not to be learnt. Raises UserError, which begins with `where`, for a message that is no text."""
    left_out = Counter() if left_out is None else left_out
    text, answers = "", list[tuple[int, int]]()
    for turn in turns:
        names = ("role", "content") if "role" in turn else ("from", "value")
        role, said = (only(turn, name, where) if name in turn else None for name in names)
        calls = turn.get("tool_calls")
        num_calls = len(calls) if isinstance(calls, list) else calls is not None
        if num_calls := num_calls + (turn.get("function_call") is not None):
            left_out[TOOL_CALLS] += num_calls
        for name in UNSAID:
            if turn.get(name):
                left_out[f"{name!r} of chat messages"] += 1
        if said is None:
            left_out[NULL_MESSAGES] += 1
        if isinstance(said, list):  # parts, of which some are pictures
            parts = [part.get("text") if isinstance(part, Mapping) else part for part in said]
            texts = [part for part in parts if isinstance(part, str)]
            if len(texts) < len(parts):
                left_out[OTHER_PARTS] += len(parts) - len(texts)
            said = "".join(texts)
        if not isinstance(role, str) or not isinstance(said, (str, type(None))):
            raise UserError(f"{where} holds a message whose role or content is no text")
        name = _ROLES.get(role.lower(), role[:1].upper() + role[1:])
        text += f"{chr(10) * bool(text)}{name}:"
        start = len(text)
        text += f" {_whole(said or '', where, 'a message')}"
        if name == ASSISTANT and said and said.strip() and turn.get("weight") != 0:
            answers.append((start, len(text)))
    return Marked(text, tuple(answers))


def _whole(text: str, where: str, what: str) -> str:
    """The text. Raises UserError where it holds half of a character, as escapes in JSON may."""
    if not text.isascii() and _SURROGATE.search(text):
        raise UserError(f"{where}: {what} holds half of a character (a lone surrogate escape): mend the row")
    return text


def _kind(value: Any) -> str:
    """What a value is called in JSON."""
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case str():
            return "a string"
        case bytes():
            return "bytes"
        case Mapping():
            return "an object"
        case list() | tuple():
            return "a list"
        case _:
            return "a number"
