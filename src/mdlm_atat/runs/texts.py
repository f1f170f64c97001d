"""Many texts from many prompts or templates: files that hold those, texts made in batches, and the .jsonl file that
they are written to line by line, which can be gone on with after an interruption."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from mdlm_atat.atomic import full_disk_named
from mdlm_atat.data.encodings import LONGEST_MARK, marked_encoding
from mdlm_atat.data.files import json_object, read_text
from mdlm_atat.data.unpack import ending_of, first_bytes, open_bytes
from mdlm_atat.errors import UserError
from mdlm_atat.samplers.template import unescaped

if TYPE_CHECKING:
    from mdlm_atat.lm import Generated
    from mdlm_atat.lm.results import Pick
    from mdlm_atat.samplers.seeds import SeedRule

LINE_START = b'{"id": '  # of every line of a .jsonl file


@dataclass(frozen=True)
class Item:
    """One prompt or template, and what its user calls it."""

    id: Any
    """In what is written of it. That of a file's line that says none is its number from 0."""
    text: str
    place: str = ""
    """How a message begins that is about it; empty of what was not read from a file's line."""


@dataclass(frozen=True)
class Document:
    """A text of a file, and how the file holds it, so that it can be written back byte for byte."""

    text: str
    encoding: str = "utf-8"
    mark: bytes = b""
    """The byte order mark that the file begins with."""

    @classmethod
    def read(cls, file: Path, encoding: str | None = None) -> Document:
        """Read a file, with its line ends as they are. A byte order mark says the encoding, else `encoding` does, else
        it is UTF-8. Raises UserError where it is no text in that encoding, or one that would not be written so, and
        where the mark says another than `encoding`."""
        text = read_text(file, encoding, translate=False)
        start = first_bytes(file, LONGEST_MARK)
        marked = marked_encoding(start)
        document = cls(text, encoding or "utf-8") if marked is None else cls(text, marked[0], start[: marked[1]])
        with open_bytes(file) as stream:
            if stream.read() != document.written(text):
                raise UserError(
                    f"{file} would not be the same bytes when it is written as {document.encoding} again: convert it "
                    "to UTF-8 first"
                )
        return document

    def written(self, text: str) -> bytes:
        """A text as bytes of this file's kind, with "?" for characters that its encoding lacks."""
        return self.mark + text.encode(self.encoding, errors="replace")

    def lacking(self, text: str) -> str:
        """The characters of a text that this file's encoding lacks."""
        return "".join(char for char in sorted(set(text)) if char.encode(self.encoding, errors="ignore") == b"")


def read_items(file: Path, option: str, field: str, *, encoding: str | None = None, escape: bool = False) -> list[Item]:
    """Prompts or templates: one a line of a .txt file, or JSON lines with `field` and, if they like, an id. `escape`:
    read the escapes in them."""
    text = read_text(file, encoding, translate=False)
    end = "\r" if "\r" in text and "\n" not in text else "\n"
    lines = [line.removesuffix("\r") for line in text.removesuffix(end).split(end)]
    is_rows = ending_of(file) == ".jsonl"
    if lines == [""] or (is_rows and not text.strip()):
        raise UserError(f"{option}: {file} is empty; expected a {field} on each line")
    items: dict[str, Item] = {}
    for number, line in enumerate(lines):
        if is_rows and not line.strip():
            continue
        where = f"{option}: line {number + 1} of {file}"
        item = _item(line, number, field, where) if is_rows else Item(number, line, where)
        if escape:
            check_each([item], unescaped)
            item = replace(item, text=unescaped(item.text))
        key = json.dumps(item.id, ensure_ascii=False)
        if key in items:
            raise UserError(f"{where}: the id {item.id!r} occurs twice; ids must differ")
        items[key] = item
    return list(items.values())


def _item(line: str, number: int, field: str, where: str) -> Item:
    row = json_object(where, line, f'a text "{field}"')
    try:
        item = Item(row.get("id", number), row[field], where)
        key = json.dumps(item.id, ensure_ascii=False, allow_nan=False)
        (key + item.text).encode()  # both are strings that can be written
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f'{where} is no JSON object with a text "{field}": {line[:60]!r}') from error
    return item


def check_each(items: Sequence[Item], check: Callable[[str], Any]) -> None:
    """Before anything is made: a mistake in any prompt or template, with its line where it is one of a file."""
    for item in items:
        try:
            check(item.text)
        except UserError as error:
            raise UserError(f"{item.place}: {error}" if item.place else str(error)) from error


@dataclass(frozen=True)
class Texts:
    """The texts that are made of some prompts or templates, `num_each` of every one, text i from the seed that `rule`
    makes of `seed` and i."""

    items: Sequence[Item]
    num_each: int
    seed: int
    rule: SeedRule
    num_candidates: int | None = None
    """So many ways to fill each template are drawn, candidate j of template i as text number i * num_candidates + j,
    and the best `num_each` are made, best first; None: all that are drawn are made, in order."""
    pick: Pick = "likeliest"
    """Which of the candidates are the best; see lm.results.in_order."""

    @property
    def total(self) -> int:
        return len(self.items) * self.num_each

    @property
    def num_drawn(self) -> int:
        """Texts that are drawn for them."""
        return len(self.items) * (self.num_candidates if self.is_ranked and self.num_candidates else self.num_each)

    @property
    def is_ranked(self) -> bool:
        return self.num_candidates is not None and self.num_candidates > 1

    def make(
        self, make: Callable[[list[str], list[int]], Sequence[Generated]], *, batch_size: int, num_done: int = 0
    ) -> Iterator[tuple[range, Sequence[Generated]]]:
        """Batch after batch: which texts they are, and the texts. `make(prompts, seeds)` makes a batch; the first
        `num_done` are left out."""
        if self.is_ranked:
            yield from self._make_best(make, batch_size, num_done)
            return
        for start in range(num_done, self.total, batch_size):
            which = range(start, min(start + batch_size, self.total))
            yield which, self._draw(make, which, self.num_each)

    def _make_best(
        self, make: Callable[[list[str], list[int]], Sequence[Generated]], batch_size: int, num_done: int
    ) -> Iterator[tuple[range, Sequence[Generated]]]:
        from mdlm_atat.lm import Infilled
        from mdlm_atat.lm.results import in_order

        assert self.num_candidates is not None
        for item in range(num_done // self.num_each, len(self.items)):
            drawn: list[Infilled] = []
            first, end = item * self.num_candidates, (item + 1) * self.num_candidates
            for start in range(first, end, batch_size):
                made = self._draw(make, range(start, min(start + batch_size, end)), self.num_candidates)
                drawn += [text for text in made if isinstance(text, Infilled)]
            which = range(max(num_done, item * self.num_each), (item + 1) * self.num_each)
            yield which, in_order(drawn, self.pick)[: self.num_each][-len(which) :]

    def _draw(
        self, make: Callable[[list[str], list[int]], Sequence[Generated]], numbers: range, num_of_each: int
    ) -> Sequence[Generated]:
        from mdlm_atat.device import explain_out_of_memory
        from mdlm_atat.samplers.seeds import text_seeds

        texts = [self.items[number // num_of_each].text for number in numbers]
        with explain_out_of_memory(f"try `batch_size={max(1, len(numbers) // 2)}`"):
            return make(texts, text_seeds(self.seed, numbers, self.rule))

    def _number_drawn(self, number: int, text: Generated) -> int:
        """The number of the text that its seed was made of."""
        if not self.is_ranked:
            return number
        from mdlm_atat.samplers.seeds import text_seeds

        assert self.num_candidates is not None
        first = number // self.num_each * self.num_candidates
        candidates = range(first, first + self.num_candidates)
        return candidates[text_seeds(self.seed, candidates, self.rule).index(text.seed)]

    def row(self, number: int, text: Generated, *, item_field: str, with_trace: bool) -> dict[str, Any]:
        """A text's line of a .jsonl file; `item_field`: what its prompt or template is called there."""
        from mdlm_atat.lm import Infilled

        item = self.items[number // self.num_each]
        row: dict[str, Any] = {"id": item.id, "sample": number % self.num_each, "text": text.text}
        row[item_field] = item.text
        if isinstance(text, Infilled):
            row |= {"gaps": text.gaps, "lengths": list(text.lengths)}
            if text.nats_left_to_right is not None:
                row["nats_left_to_right"] = text.nats_left_to_right
        row["seed"] = text.seed
        if self.rule != "add":  # by that rule a line is to the byte what earlier versions wrote
            row |= {"base_seed": self.seed, "index": self._number_drawn(number, text)}
            if isinstance(text, Infilled) and text.length_costs is not None:
                row["lengths_settled"] = text.length_costs.is_settled
        row |= {"nfe": text.nfe, "tokens": text.tokens}
        if with_trace and text.trace is not None:
            row["trace"] = text.trace.to_json()
        return row

    def settings_hash(self, weights: str, settings: Mapping[str, Any]) -> str:
        """Tells whether a file of texts can be gone on with: the same weights, settings and prompts. Files that earlier
        versions began, when there was no rule of seeds but "add", have the same hash as ours of that rule."""
        shown = {name: str(value) for name, value in settings.items()}
        later_ones = {"max_new_tokens": "None", "candidates": "None", "length_draws": "256", "length_seed": "0"}
        later_ones |= {"escape": "False", "length_prior": "None", "pick": "likeliest"}
        for later, default in later_ones.items():
            if shown.get(later) == default:  # there was no such setting
                del shown[later]
        if self.rule != "add":
            shown["seed_rule"] = self.rule
        content = json.dumps([weights, shown, [[item.id, item.text] for item in self.items]], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:12]


class Lines:
    """A .jsonl file that is written line by line, each flushed to the disk, and can be gone on with. Nothing in it is
    touched before there is something to write, and a new one that no line fits into is removed."""

    def __init__(self, file: Path, settings: str, *, resume: bool) -> None:
        self.num_done = self._num_kept = 0  # lines, bytes
        if resume and file.exists():
            *whole, unfinished = file.read_bytes().split(b"\n")
            ours = [settings_of(line) == settings for line in whole]
            ours.append(LINE_START.startswith(unfinished[: len(LINE_START)]))  # it is written again
            if not all(ours):
                raise UserError(
                    f"`resume=`: line {ours.index(False) + 1} of {file} was made with another model, other settings or "
                    "other prompts; repeat the command that began it, or name another file"
                )
            self.num_done, self._num_kept = len(whole), sum(len(line) + 1 for line in whole)
        self._file, self._settings = file, settings
        self._is_new = not file.exists()
        self._stream: BinaryIO | None = None

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        if self._stream is None:
            self._stream = self._file.open("r+b" if self._num_kept else "wb")
            self._stream.seek(self._num_kept)
            self._stream.truncate()
        with full_disk_named(self._file):
            for row in rows:
                line = json.dumps(row | {"settings": self._settings}, ensure_ascii=False, allow_nan=False)
                self._stream.write(line.encode() + b"\n")
            self._stream.flush()
            os.fsync(self._stream.fileno())

    def close(self) -> None:
        if self._stream is not None:
            try:
                with full_disk_named(self._file):  # it tries again what could not be written
                    self._stream.close()
            finally:
                with suppress(FileNotFoundError):  # somebody has removed it meanwhile
                    if self._is_new and not has_line(self._file):
                        self._file.unlink()


def has_line(file: Path) -> bool:
    """Whether a file holds a whole line."""
    with file.open("rb") as stream:
        return stream.readline().endswith(b"\n")


def begun_with(file: Path) -> str | None:
    """The hash of the settings that a .jsonl file was begun with; None where it says none, or is not there."""
    if not file.exists():
        return None
    with file.open("rb") as stream:
        return settings_of(stream.readline())


def settings_of(line: bytes) -> str | None:
    try:
        return json.loads(line).get("settings")
    except (ValueError, AttributeError):
        return None
