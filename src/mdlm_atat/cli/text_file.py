"""Files of prompts and templates to be read, and .jsonl files of texts that are written line by line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from mdlm_atat.data.files import read_text
from mdlm_atat.errors import UserError

LINE_START = b'{"id": '  # of every line of a .jsonl file


@dataclass(frozen=True)
class Item:
    """One prompt or template, and what its user calls it."""

    id: Any
    text: str


def read_items(file: Path, option: str, field: str) -> list[Item]:
    """Prompts or templates: one a line of a .txt file, or JSON lines with `field` and, if they like, an id."""
    lines = read_text(file).removesuffix("\n").split("\n")
    if lines == [""]:
        raise UserError(f"{option}: {file} is empty; expected a {field} on each line")
    if file.suffix != ".jsonl":
        return [Item(number, line.replace("\\n", "\n")) for number, line in enumerate(lines)]
    items: dict[str, Item] = {}
    for number, line in enumerate(lines):
        where = f"{option}: line {number + 1} of {file}"
        try:
            row = json.loads(line)
            item = Item(row.get("id", number), row[field])
            key = json.dumps(item.id, ensure_ascii=False, allow_nan=False)
            (key + item.text).encode()  # both are strings that can be written
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            raise UserError(f'{where} is no JSON object with a text "{field}": {line[:60]!r}') from error
        if key in items:
            raise UserError(f"{where}: the id {item.id!r} occurs twice; ids must differ")
        items[key] = item
    return list(items.values())


def check_each(items: Sequence[Item], kind: str, check: Callable[[str], Any]) -> None:
    """Before anything is made: a mistake in any prompt or template, with its id where there are several."""
    for item in items:
        try:
            check(item.text)
        except UserError as error:
            raise UserError(f"{kind} {item.id}: {error}" if len(items) > 1 else str(error)) from error


class Lines:
    """A .jsonl file that is written line by line, each flushed to the disk, and can be gone on with. Nothing in it is
    touched before there is something to write."""

    def __init__(self, file: Path, settings: str, *, resume: bool) -> None:
        self.num_done = self._num_kept = 0  # lines, bytes
        if resume and file.exists():
            *whole, unfinished = file.read_bytes().split(b"\n")
            ours = [settings_of(line) == settings for line in whole]
            ours.append(LINE_START.startswith(unfinished[: len(LINE_START)]))  # it is written again
            if not all(ours):
                raise UserError(
                    f"--resume: line {ours.index(False) + 1} of {file} was made with another model, other settings or "
                    "other prompts; repeat the command that began it, or name another file"
                )
            self.num_done, self._num_kept = len(whole), sum(len(line) + 1 for line in whole)
        self._file, self._settings = file, settings
        self._stream: BinaryIO | None = None

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        if self._stream is None:
            self._stream = self._file.open("r+b" if self._num_kept else "wb")
            self._stream.seek(self._num_kept)
            self._stream.truncate()
        for row in rows:
            line = json.dumps(row | {"settings": self._settings}, ensure_ascii=False, allow_nan=False)
            self._stream.write(line.encode() + b"\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()


def settings_of(line: bytes) -> str | None:
    try:
        return json.loads(line).get("settings")
    except (ValueError, AttributeError):
        return None
