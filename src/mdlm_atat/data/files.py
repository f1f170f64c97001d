"""Documents of one file: .txt, .jsonl (either also packed as .gz, .xz or .zst) or .parquet, in constant memory.

Line ends of .txt files are read as in Python's text mode ("\\r\\n" and "\\r" become "\\n") and a byte order mark
is dropped; otherwise text is passed on as it is.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from mdlm_atat.errors import UserError

READ_BYTES = 1 << 18
PLAIN = (".txt", ".jsonl", ".parquet")
PACKED = (".gz", ".xz", ".zst")
USABLE = ".txt, .jsonl (either also as .gz, .xz or .zst) or .parquet"


def kind_of(path: Path) -> str | None:
    """Return .txt, .jsonl or .parquet for a file of that kind, packed or not; None for one that cannot be read."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in PACKED:
        kind = suffixes[-2] if len(suffixes) > 1 else None
        return kind if kind in (".txt", ".jsonl") else None
    return suffixes[-1] if suffixes and suffixes[-1] in PLAIN else None


def read_documents(path: Path, column: str, documents: Literal["file", "line"]) -> Iterator[Iterable[str]]:
    """Yield the documents of a file in order, each as chunks of text of any size, to be read before the next document.

    `column` holds the text of .jsonl and .parquet; a .txt file is one document, or one a `line` that is not empty.
    Raises UserError that names the file, and where it can the line or row, that is damaged or holds something else.
    """
    match kind_of(path):
        case ".txt" if documents == "line":
            yield from ([line] for line in read_lines(path) if line.strip())
        case ".txt":
            yield _decoded(path)
        case ".jsonl":
            yield from ([text] for text in _jsonl(path, column))
        case _:
            yield from ([text] for text in _parquet(path, column))


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file, packed or not, without their ends. Raises UserError where it is no UTF-8."""
    waiting = ""
    for chunk in _decoded(path):
        *lines, waiting = (waiting + chunk).split("\n")
        yield from lines
    if waiting:
        yield waiting


def read_text(path: Path) -> str:
    """Return the whole text of a file, packed or not. Raises UserError where there is none, or where it is no UTF-8."""
    if not path.is_file():
        raise UserError(f"{path} is a folder; name a file in it" if path.is_dir() else f"there is no file {path}")
    return "".join(_decoded(path))


def _open_bytes(path: Path) -> io.BufferedIOBase:
    match path.suffix.lower():
        case ".gz":
            return gzip.open(path)
        case ".xz":
            return lzma.open(path)
        case ".zst":
            return io.BufferedReader(_Chunks(_zst_chunks(path)))
        case _:
            return path.open("rb")


class _Chunks(io.RawIOBase):
    """A file to read from an iterator of bytes."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._left = chunks, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._left = chunk
        part, self._left = self._left[: len(buffer)], self._left[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)


def _zst_chunks(path: Path) -> Iterator[bytes]:
    # the library's own reader ends a file that was cut short as if it were whole
    import zstandard

    frame = None
    with path.open("rb") as file:
        while data := file.read(1 << 14):
            while data:
                frame = frame or zstandard.ZstdDecompressor().decompressobj()
                yield frame.decompress(data)
                data, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
    if frame is not None:
        raise EOFError("the last frame does not end")


@contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except PermissionError as error:
        raise UserError(f"{path} may not be read: {error.strerror}") from error
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} is damaged or cut short: {error}") from error
    except Exception as error:
        library = type(error).__module__.split(".")[0]  # imported only where it is used
        of_arrow = isinstance(error, OSError) and error.errno is None  # what it says of a damaged page
        if library in ("zstandard", "pyarrow") or of_arrow:
            raise UserError(f"{path} is damaged or cut short: {error}") from error
        raise


def _decoded(path: Path) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    position = num_lines = 0  # bytes before the decoder's own buffer, line ends before it
    first = True
    with _read_errors(path), _open_bytes(path) as file:
        while True:
            data = file.read(READ_BYTES)
            kept = decoder.getstate()[0]
            try:
                text = decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                raise _not_utf8(path, kept + data, error.start, position, num_lines + 1) from error
            position += len(kept) + len(data) - len(decoder.getstate()[0])
            num_lines += text.count("\n")
            if first and text:
                text, first = text.removeprefix("\ufeff"), False
            text = newlines.decode(text, final=not data)
            if text:
                yield text
            if not data:
                return


def utf8(text: str) -> bytes:
    """Return a text as UTF-8. Raises UserError where it holds a lone surrogate, half of a character."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"the text holds a lone surrogate (U+{ord(text[error.start]):04X}) at position {error.start}, half of a "
            "character that cannot be written as UTF-8: remove it"
        ) from error


def _not_utf8(path: Path, data: bytes, start: int, position: int, line: int) -> UserError:
    line += data[:start].count(b"\n")
    return UserError(
        f"{path} is not UTF-8: byte 0x{data[start]:02X} at offset {position + start} (line {line}); "
        f"convert it first, e.g. iconv -f LATIN1 -t UTF-8 {path.name}"
    )


def _jsonl(path: Path, column: str) -> Iterator[str]:
    position = 0
    with _read_errors(path), _open_bytes(path) as file:
        for number, line in enumerate(file, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise _not_utf8(path, line, error.start, position, number) from error
            position += len(line)
            if text.strip():
                yield _json_text(path, number, text, column)


def json_object(where: str, line: str, holds: str) -> dict[str, Any]:
    """Read a line as a JSON object. `where` is its file and line and `holds` what is expected in it, for the message of
    the UserError that is raised for anything else."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON: {error}; expected one JSON object a line") from error
    if not isinstance(row, dict):
        raise UserError(f"{where} is a JSON {type(row).__name__}, expected an object with {holds}")
    return row


def _json_text(path: Path, number: int, line: str, column: str) -> str:
    where = f"{path}, line {number}"
    row = json_object(where, line, f"a column {column!r}")
    if column not in row:
        raise UserError(f"{where} has no column {column!r}; its columns are {', '.join(row)}: set `column=`")
    text = row[column]
    if not isinstance(text, str):
        raise UserError(f"{where}: column {column!r} holds a {type(text).__name__}, expected a string")
    if "\\u" in line and any("\ud800" <= character <= "\udfff" for character in text):
        raise UserError(
            f"{where}: column {column!r} holds half of a character (a lone surrogate escape): mend the line"
        )
    return text


def _parquet(path: Path, column: str) -> Iterator[str]:
    import pyarrow as arrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path, buffer_size=READ_BYTES)
    except (arrow.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} is not a Parquet file that can be read: {error}") from error
    with _read_errors(path), file:
        names = file.schema_arrow.names
        if column not in names:
            raise UserError(f"{path} has no column {column!r}; its columns are {', '.join(names)}: set `column=`")
        kind = file.schema_arrow.field(column).type
        if not (arrow.types.is_string(kind) or arrow.types.is_large_string(kind)):
            raise UserError(f"{path}: column {column!r} holds {kind}, expected strings")
        number = 0
        for batch in file.iter_batches(batch_size=64, columns=[column]):
            for value in batch.column(0):
                text = value.as_py()
                if text is None:
                    raise UserError(f"{path}, row {number}: column {column!r} is empty (null), expected a string")
                yield text
                number += 1
