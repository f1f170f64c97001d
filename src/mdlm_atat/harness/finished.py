"""Requests that are answered, in a file that outlives an interruption."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from glob import escape
from pathlib import Path
from typing import Any

from mdlm_atat.atomic import make_folder, nothing_new_left
from mdlm_atat.errors import UserError


class Finished:
    """Answers by the hash of what was asked, of whom and how. Each is a line of JSON, written at once."""

    def __init__(self, file: Path | None, settings: Mapping[str, Any]) -> None:
        """`file`: where the answers of this process are kept; None: nowhere. `settings`: all that an answer depends on
        besides the request."""
        self.file, self._settings = file, json.dumps(settings, sort_keys=True)
        self.answers: dict[str, Any] = {}

    def key(self, kind: str, arguments: tuple[Any, ...]) -> str:
        """SHA-256 of a request, in hexadecimal."""
        asked = json.dumps([kind, arguments, self._settings], sort_keys=True)
        return hashlib.sha256(asked.encode("utf-8", "surrogatepass")).hexdigest()

    def add(self, answers: Mapping[str, Any]) -> None:
        """Keep answers."""
        self.answers |= answers
        if self.file is None:
            return
        lines = "".join(json.dumps([key, answer]) + "\n" for key, answer in answers.items())
        with nothing_new_left(self.file), self.file.open("a", encoding="utf-8") as stream:
            stream.write(lines)


def read_finished(file: Path) -> dict[str, Any]:
    """The answers in a file and in those of the other processes beside it. Where there is no such file there are none,
    and its folder is made. A line that was cut off as it was written is left out. Raises UserError for a file that
    holds something else."""
    make_folder(file.parent)
    answers: dict[str, Any] = {}
    for part in files_of(file):
        lines = part.read_text(encoding="utf-8", errors="replace").split("\n")
        for number, line in enumerate(lines, start=1):
            try:
                key, answer = json.loads(line)
            except (ValueError, TypeError) as error:  # no JSON, or no pair
                if number < len(lines):  # the last has no line end yet
                    raise UserError(f"{part} holds something else than answers, in line {number}: delete it") from error
                continue
            answers[key] = answer
        if lines[-1]:  # what is added begins a line of its own
            part.write_text("\n".join(lines[:-1]) + "\n" * (len(lines) > 1), encoding="utf-8")
    return answers


def file_of_rank(file: Path, rank: int) -> Path:
    """The file that a process writes to."""
    return file if rank == 0 else file.with_name(f"{file.stem}-{rank}{file.suffix}")


def files_of(file: Path) -> list[Path]:
    """The files of all processes that are there."""
    return sorted(part for part in file.parent.glob(f"{escape(file.stem)}*{file.suffix}") if _is_part(part, file))


def _is_part(part: Path, file: Path) -> bool:
    rest = part.stem[len(file.stem) :]
    return rest == "" or (rest[0] == "-" and rest[1:].isdigit())
