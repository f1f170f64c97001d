"""Which reader a file has: the table of formats by ending, and why other files have none.

A new format is a function `read(path, reading, left_out)` that yields documents, each as chunks of text, and a line in
`READERS`; or one that yields rows, and a line in `ROWS`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from mdlm_atat.data.encodings import is_full_of_nuls, marked_encoding, reads_wide
from mdlm_atat.data.files import count_mark
from mdlm_atat.data.readers.books import read_docx, read_epub, read_pdf
from mdlm_atat.data.readers.html_pages import read_html
from mdlm_atat.data.readers.json_files import json_rows, jsonl_rows
from mdlm_atat.data.readers.mail import is_mailbox, read_mail, read_mailbox
from mdlm_atat.data.readers.notebooks import read_notebook
from mdlm_atat.data.readers.parquet import parquet_rows
from mdlm_atat.data.readers.plain import read_plain
from mdlm_atat.data.readers.reading import Reading
from mdlm_atat.data.readers.records import text_of
from mdlm_atat.data.readers.tables import table_rows
from mdlm_atat.data.signatures import SIGNATURE_BYTES, signature_of
from mdlm_atat.data.unpack import PACKED, ending_of, first_bytes
from mdlm_atat.errors import UserError

Read = Callable[[Path, Reading, Counter[str]], Iterator[Iterable[str]]]
"""Yields the documents of a file in order, each as chunks of any size that are read before the next document. What it
does not pass on it counts, by a reason in words."""
Rows = Callable[[Path, Reading, Counter[str]], Iterator[tuple[Any, str]]]
"""Yields the rows of a file in order, each with its file and place for messages."""


class Reader(NamedTuple):
    """How the files of one format are read."""

    read: Read
    needs: str | None = None
    """A module of the extra `documents`."""


class Refusal(NamedTuple):
    """Why a file is not read: `reason` is the same for all files of a kind, so that they can be counted by it."""

    reason: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.reason}: {self.remedy}" if self.remedy else self.reason


def _by_row(rows: Rows) -> Reader:
    """Reads a document from each row that has a text."""

    def read(path: Path, reading: Reading, left_out: Counter[str]) -> Iterator[Iterable[str]]:
        for row, where in rows(path, reading, left_out):
            text = text_of(row, reading, where, left_out)
            if text is not None:
                yield [text]

    return Reader(read)


ROWS: dict[str, Rows] = {
    ".csv": table_rows,
    ".tsv": table_rows,
    ".json": json_rows,
    ".jsonl": jsonl_rows,
    ".ndjson": jsonl_rows,
    ".parquet": parquet_rows,
}
"""What yields the rows of a file of records, by its ending in lower case."""

PLAIN, MAILBOX = Reader(read_plain), Reader(read_mailbox)
READERS = {
    **{ending: _by_row(rows) for ending, rows in ROWS.items()},
    ".txt": PLAIN,
    ".html": Reader(read_html),
    ".htm": Reader(read_html),
    ".xhtml": Reader(read_html),
    ".eml": Reader(read_mail),
    ".mht": Reader(read_mail),
    ".mhtml": Reader(read_mail),
    ".mbox": MAILBOX,
    ".ipynb": Reader(read_notebook),
    ".epub": Reader(read_epub),
    ".pdf": Reader(read_pdf, needs="pypdf"),
    ".docx": Reader(read_docx, needs="docx"),
}
"""Reader by ending, in lower case. A file with another ending, or none, is plain text if its first bytes decode."""

REFUSED = {
    **dict.fromkeys((".doc", ".odt", ".rtf", ".pages"), "save it as .docx or .txt"),
    **dict.fromkeys((".xls", ".xlsx", ".ods"), "save it as .csv"),
    **dict.fromkeys((".ppt", ".pptx", ".odp", ".mobi", ".azw3", ".djvu", ".ps"), "convert it to .txt, .docx or .pdf"),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".7z", ".rar", ".lz4", ".br"), "unpack it first"),
    **dict.fromkeys((".arrow", ".feather", ".orc", ".avro"), "save it as .parquet"),
}
"""What to do with formats that hold text and have no reader, by ending."""

SNIFFED_BYTES = 1 << 16
USABLE = (
    "plain text of any ending (.txt, .md, source code), .html, .eml, .mbox, .csv, .tsv, .json, .jsonl, .parquet, "
    ".ipynb, .pdf, .docx or .epub, each also packed as .gz, .bz2, .xz or .zst"
)


def find_reader(path: Path, encoding: str | None = None) -> Reader | Refusal:
    """Return the reader of a file, or why it has none, as where its first bytes show another format than its name says.
    A file of no known ending is text if they are, which may be in `encoding`.

    A text in another encoding than UTF-8 has a reader: whether it decodes as `Reading.encoding` says is found when it
    is read.
    """
    ending = ending_of(path)
    if remedy := REFUSED.get(ending):
        return Refusal(f"{ending} is not read", remedy)
    reader = READERS.get(ending)
    if reader is None:
        return _sniff(path, encoding)
    if refusal := _is_other(path, ending):
        return refusal
    if reader.needs is not None and find_spec(reader.needs) is None:
        return Refusal(f"{ending} needs an extra", "pip install 'mdlm-atat[documents]'")
    return reader


def no_reader(path: Path, refusal: Refusal) -> UserError:
    """Return the error of a file that was named and is not read."""
    return UserError(f"{path} cannot be read ({refusal})" + ("" if refusal.remedy else f"; expected {USABLE}"))


def _is_other(path: Path, ending: str) -> Refusal | None:
    """Why a file is not read that is of another format than its ending says. What is packed is not unpacked for that:
    it is found when it is read."""
    if path.suffix.lower() in PACKED:
        return None
    try:
        return _by_signature(first_bytes(path, SIGNATURE_BYTES), ending)
    except UserError:  # reading it tells
        return None


def _by_signature(data: bytes, ending: str) -> Refusal | None:
    known = signature_of(data)
    return None if known is None or ending in known.endings else Refusal(f"{known.what}, by its content", known.remedy)


def _sniff(path: Path, encoding: str | None) -> Reader | Refusal:
    try:
        data = first_bytes(path, SNIFFED_BYTES)
    except UserError as error:
        return Refusal("unreadable", str(error))
    if refusal := _by_signature(data, ""):
        return refusal
    if is_mailbox(data):
        return MAILBOX
    return PLAIN if _is_text(data, encoding) else Refusal("not text")


def _is_text(data: bytes, encoding: str | None) -> bool:
    """Whether bytes are text in some encoding: marked, or hardly any NUL, and UTF-8 or hardly any control character;
    with NULs in one of two or four bytes a character, if that was asked for."""
    if marked_encoding(data):
        return True
    if is_full_of_nuls(data):
        return encoding is not None and reads_wide(data[: len(data) // 4 * 4], encoding)
    try:
        data[: len(data) - 3 if len(data) == SNIFFED_BYTES else None].decode()
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data":
            return sum(data.count(byte) for byte in _CONTROLS) <= len(data) // 100
    return True


_CONTROLS = [byte for byte in range(32) if byte not in b"\t\n\r\f\x08\x1b"]


def read_documents(path: Path, reading: Reading, left_out: Counter[str] | None = None) -> Iterator[Iterable[str]]:
    """Yield the documents of a file in order, each as chunks of text of any size, to be read before the next document.

    `left_out` counts, by reason, what is not passed on. Raises UserError that names the file, and where it can the line
    or row, that is damaged, or holds something else, or has no reader.
    """
    reader = find_reader(path, reading.encoding)
    if isinstance(reader, Refusal):
        raise no_reader(path, reader)
    left_out = Counter() if left_out is None else left_out
    count_mark(path, reading.encoding, left_out)
    yield from reader.read(path, reading, left_out)
