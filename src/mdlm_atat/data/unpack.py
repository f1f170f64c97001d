"""A file as bytes, packed (.gz, .bz2, .xz, .zst) or not, in constant memory, and what is said of a damaged one."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from mdlm_atat.errors import UserError

READ_BYTES = 1 << 18
ZST_BYTES = 1 << 10  # packed, at a time: 4 bytes may stand for 128 KiB, so these for 32 MiB
UNPACK_BYTES = 1 << 29  # of memory for the text that .xz and .zst look back at
PACKED = (".gz", ".bz2", ".xz", ".zst")


def ending_of(path: Path) -> str:
    """Return the ending that says what a file holds, in lower case: .jsonl of a.JSONL.gz, "" where there is none."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in PACKED:
        del suffixes[-1]
    return suffixes[-1] if suffixes else ""


def first_bytes(path: Path, num_bytes: int) -> bytes:
    """Return the first bytes of a file, unpacked. Raises UserError for one that may not be read or is damaged."""
    with read_errors(path), open_bytes(path) as file:
        data = b""
        while len(data) < num_bytes and (more := file.read(num_bytes - len(data))):
            data += more
        return data


def open_bytes(path: Path) -> io.BufferedIOBase:
    """Open a file to be read unpacked."""
    match path.suffix.lower():
        case ".gz":
            return gzip.open(path)
        case ".bz2":
            return as_file(_stream_chunks(path, bz2.BZ2Decompressor))
        case ".xz":
            return as_file(_stream_chunks(path, partial(lzma.LZMADecompressor, memlimit=UNPACK_BYTES + (1 << 24))))
        case ".zst":
            return as_file(_zst_chunks(path))
        case _:
            return path.open("rb")


def as_file(chunks: Iterator[bytes]) -> io.BufferedReader:
    """Return a file that reads what an iterator yields."""
    return io.BufferedReader(_Chunks(chunks))


class _Chunks(io.RawIOBase):
    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._left = chunks, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._left = memoryview(chunk)
        part, self._left = self._left[: len(buffer)], self._left[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)


def _stream_chunks(
    path: Path, new_stream: Callable[[], bz2.BZ2Decompressor | lzma.LZMADecompressor]
) -> Iterator[bytes]:
    # the standard library's own readers take whatever follows the first stream and is none for the end
    with path.open("rb") as file:
        data = file.read(READ_BYTES)
        while True:
            stream = new_stream()
            while not stream.eof:
                if stream.needs_input:
                    data = data or file.read(READ_BYTES)
                    if not data:
                        raise EOFError("the last stream does not end")
                yield stream.decompress(data, READ_BYTES)
                data = b""
            data = stream.unused_data or file.read(READ_BYTES)
            if isinstance(stream, lzma.LZMADecompressor):
                data = _after_padding(data, file)
            if not data:
                return


def _after_padding(data: bytes, file: io.BufferedIOBase) -> bytes:
    """What follows the zeros that may stand after a stream of .xz, in multiples of four."""
    num_zeros = 0
    while data:
        rest = data.lstrip(b"\0")
        num_zeros += len(data) - len(rest)
        if rest:
            break
        data = file.read(READ_BYTES)
    if num_zeros % 4:
        raise lzma.LZMAError(f"{num_zeros} zeros follow a stream, expected a multiple of 4")
    return data.lstrip(b"\0")


def _zst_chunks(path: Path) -> Iterator[bytes]:
    # the library's own reader ends a file that was cut short as if it were whole
    import zstandard

    frame = None
    with path.open("rb") as file:
        while data := file.read(ZST_BYTES):
            while data:
                frame = frame or zstandard.ZstdDecompressor(max_window_size=UNPACK_BYTES).decompressobj()
                yield frame.decompress(data)
                data, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
    if frame is not None:
        raise EOFError("the last frame does not end")


@contextmanager
def read_errors(path: Path) -> Iterator[None]:
    """Raise UserError that names the file for what the system and the libraries raise while it is read."""
    try:
        yield
    except UserError:
        raise
    except PermissionError as error:
        raise UserError(f"{path} may not be read: {error.strerror}") from error
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error) as error:
        if "Memory usage limit" in str(error):
            raise _needs_memory(path) from error
        raise UserError(f"{path} is damaged or cut short: {error}") from error
    except OSError as error:
        if error.errno is None:  # what bz2 and Arrow say of damaged data
            raise UserError(f"{path} is damaged or cut short: {error}") from error
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except Exception as error:
        library = type(error).__module__.split(".")[0]  # imported only where it is used
        if library == "zstandard" and "too much memory" in str(error):
            raise _needs_memory(path) from error
        if library in ("zstandard", "pyarrow"):
            raise UserError(f"{path} is damaged or cut short: {error}") from error
        raise


def _needs_memory(path: Path) -> UserError:
    return UserError(
        f"{path} needs more than {UNPACK_BYTES >> 20} MiB of memory to be unpacked: pack it anew with a smaller "
        "dictionary or window, as `xz -9` and `zstd --long=27` do"
    )
