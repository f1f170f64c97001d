"""What a file is by its first bytes, where that is no text, whatever its name says."""

from __future__ import annotations

from typing import NamedTuple

SIGNATURE_BYTES = 512


class Signature(NamedTuple):
    """A format that a file's first bytes show."""

    start: bytes
    what: str
    remedy: str
    endings: tuple[str, ...] = ()
    """Names that such a file rightly has."""
    at: int = 0


SIGNATURES = (
    Signature(b"version https://git-lfs.github.com/spec/", "a pointer of Git LFS, not the file", "run git lfs pull"),
    Signature(b"%PDF-", "a PDF", "name it so (.pdf)", (".pdf",)),
    Signature(b"PAR1", "Parquet", "name it so (.parquet)", (".parquet",)),
    Signature(b"PK\x03\x04", "a ZIP archive", "name it .docx or .epub if it is one, or unpack it", (".docx", ".epub")),
    Signature(b"\x1f\x8b\x08", "packed by gzip", "name it so (.gz), or unpack it"),
    Signature(b"BZh91AY&SY", "packed by bzip2", "name it so (.bz2), or unpack it"),
    Signature(b"\xfd7zXZ\0", "packed by xz", "name it so (.xz), or unpack it"),
    Signature(b"\x28\xb5\x2f\xfd", "packed by zstd", "name it so (.zst), or unpack it"),
    Signature(b"ustar", "a tar archive", "unpack it first", at=257),
    Signature(b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"),
    Signature(b"Rar!\x1a\x07", "a RAR archive", "unpack it first"),
    Signature(b"ARROW1\0", "an Arrow file", "save it as .parquet"),
    Signature(b"{\\rtf", "RTF", "save it as .docx or .txt"),
    Signature(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a document of an old Office", "save it as .docx, .txt or .csv"),
)


def signature_of(data: bytes) -> Signature | None:
    """Return the format that the first bytes of a file show; None where they may be text."""
    return next((known for known in SIGNATURES if data.startswith(known.start, known.at)), None)
