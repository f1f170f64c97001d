"""Mail: .eml, the texts of a message, by Python's own parser, and .mbox, many of them. Of alternatives one is read,
plain text before HTML."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage, MIMEPart
from pathlib import Path

from mdlm_atat.data.encodings import is_encoding, is_utf8, meant_by
from mdlm_atat.data.files import LONGEST_FILE, held_bytes, undecodable
from mdlm_atat.data.readers.html_pages import visible_text
from mdlm_atat.data.readers.reading import Reading
from mdlm_atat.data.unpack import open_bytes, read_errors
from mdlm_atat.errors import UserError

MOST_LINES = 1 << 22
"""Of a mail: each takes up to 200 bytes while it is parsed."""


def read_mail(path: Path, reading: Reading, left_out: Counter[str]) -> Iterator[Iterable[str]]:
    """Yield the bodies of a message as one document, without headers. All other parts are counted as attachments: those
    that say so or have a file name, and those that are neither plain text nor HTML, except texts where there is no
    body."""
    yield from _bodies(held_bytes(path), path, reading, left_out)


def read_mailbox(path: Path, reading: Reading, left_out: Counter[str]) -> Iterator[Iterable[str]]:
    """Yield the bodies of each message of a mailbox as a document, as `read_mail` does of one."""
    with read_errors(path), open_bytes(path) as file:
        for number, message in enumerate(_messages(file, path), 1):
            yield from _bodies(message, f"{path}, mail {number}", reading, left_out)


def is_mailbox(data: bytes) -> bool:
    """Return whether a file's first bytes are those of a mailbox: "From", an address and a date, and a header."""
    return _FIRST_LINES.match(data) is not None


_FIRST_LINES = re.compile(rb"From \S+ [^\n]*\d\d:\d\d[^\n]*\n>?[A-Za-z][\w-]*:")
_BETWEEN = re.compile(rb"From \S+ .*\d\d:\d\d")
_QUOTED = re.compile(rb"^>(>*From )", re.MULTILINE)


def _messages(file: Iterable[bytes], path: Path) -> Iterator[bytes]:
    """The messages of a mailbox, between lines "From ..." that follow an empty one. A line of a text that begins so has
    a > before it, which is taken away."""
    lines: list[bytes] = []
    num_bytes, is_begun, after_empty = 0, False, True
    for line in file:
        if after_empty and _BETWEEN.match(line):
            if is_begun:
                yield _message(lines)
            lines, num_bytes, is_begun = [], 0, True
        elif is_begun:
            lines.append(line)
            num_bytes += len(line)
            if num_bytes > LONGEST_FILE:
                raise UserError(f"{path}: a mail is longer than {LONGEST_FILE:,} bytes: take it out")
        elif line.strip():
            raise UserError(f"{path} is no mailbox: it does not begin with From, an address and a date")
        after_empty = not line.strip()
    if is_begun:
        yield _message(lines)


def _message(lines: list[bytes]) -> bytes:
    """The message without the empty line that ends it in a mailbox."""
    end = len(lines) - (bool(lines) and not lines[-1].strip())
    return _QUOTED.sub(rb"\1", b"".join(lines[:end]))


def _bodies(data: bytes, path: Path | str, reading: Reading, left_out: Counter[str]) -> Iterator[Iterable[str]]:
    """The bodies of a message as one document; nothing where there is none."""
    if data.count(b"\n") > MOST_LINES:
        raise UserError(f"{path} has more than {MOST_LINES:,} lines, which have to be held at once: convert it to .txt")
    try:
        message = message_from_bytes(data, policy=policy.default)
        assert isinstance(message, EmailMessage)
        bodies = {id(part) for part in _leaves(message) if _is_body(part)}
        text = _text(message, bodies, reading, path)
        if not text.strip():
            bodies = {id(part) for part in _leaves(message) if _is_text(part)}
            text = _text(message, bodies, reading, path)
        num_attachments = sum(id(part) not in bodies for part in _leaves(message))
    except UserError:
        raise
    except Exception as error:  # the library raises many for headers that are none
        raise UserError(f"{path} cannot be read as a mail: {type(error).__name__}, {error}") from error
    if num_attachments:
        left_out["attachments of mails"] += num_attachments
    if text.strip():
        yield [text]
    else:
        left_out["mails without a text"] += 1


def _leaves(part: MIMEPart) -> Iterator[MIMEPart]:
    """The parts that are not made of parts, and attachments, mails among them, as a whole."""
    if _has_parts(part):
        for inner in part.iter_parts():
            yield from _leaves(inner)
    else:
        yield part


def _has_parts(part: MIMEPart) -> bool:
    return part.get_content_maintype() == "multipart" and part.is_multipart() and not part.is_attachment()


def _is_text(part: MIMEPart) -> bool:
    # a multipart that has no parts, since its boundary is missing, is the text that stands there
    return part.get_content_maintype() in ("text", "multipart") and not part.is_multipart() and not part.is_attachment()


def _is_body(part: MIMEPart) -> bool:
    kind = part.get_content_type()
    return _is_text(part) and not part.get_filename() and (kind in ("text/plain", "text/html") or "multipart" in kind)


def _text(part: MIMEPart, bodies: set[int], reading: Reading, path: Path | str) -> str:
    """The texts of the parts, of which `bodies` holds the ids, one below the other; of alternatives the first that has
    a text, plain text before HTML before others."""
    if not _has_parts(part):
        return _decoded(part, reading, path) if id(part) in bodies else ""
    parts = list(part.iter_parts())
    is_choice = part.get_content_type() == "multipart/alternative"
    if is_choice:
        parts.sort(key=_rank)
    texts = (text for inner in parts if (text := _text(inner, bodies, reading, path)).strip())
    return next(texts, "") if is_choice else "\n".join(texts)


def _rank(part: MIMEPart) -> int:
    kind = part.get_content_type()
    return 0 if kind == "text/plain" else 1 if kind == "text/html" or _has_parts(part) else 2


def _decoded(part: MIMEPart, reading: Reading, path: Path | str) -> str:
    data = part.get_payload(decode=True)
    data = data if isinstance(data, bytes) else b""
    declared = part.get_content_charset()
    meant = None if declared is None or "ascii" in declared else meant_by(declared)  # there are mails of every
    names = (meant, declared, "utf-8", reading.encoding)  # encoding that call themselves ASCII
    if is_utf8(data):  # or ISO 8859-1, and are UTF-8
        names = ("utf-8",)
    tried = [name for name in names if name is not None and is_encoding(name)]
    for encoding in tried:
        try:
            text = data.decode(encoding)
        except UnicodeError:
            continue
        return visible_text(text) if part.get_content_subtype() == "html" else text.replace("\r\n", "\n")
    raise undecodable(path, data, declared)
