"""What a file of an archive is as text of the corpus, or why it is left out."""

from __future__ import annotations

import re
import string
import zlib
from typing import NamedTuple

from mdlm_atat.data.readers.html_pages import visible_text

LONGEST, SHORTEST = 400_000, 200
"""Bytes of a file of code: above are data and files that a program wrote, below hardly anything."""
SHORTEST_PAGE = 1500
"""Characters of a page of prose."""
HEAD = 8000
"""Characters in which notices of licence and of a generating program are looked for."""
PERMISSIVE = frozenset(
    "MIT Apache-2.0 BSD-2-Clause BSD-3-Clause ISC 0BSD Zlib BSL-1.0 PSF-2.0 Python-2.0 Unlicense CC0-1.0 PostgreSQL "  # noqa: SIM905
    "LLVM-exception NCSA Ruby blessing".split()
)

_SPDX = re.compile(r"SPDX-License-Identifier:[ \t]*([^\n*<]+)")
_OTHER_LICENCE = re.compile(
    r"GNU (?:Lesser |Library |Affero )?General Public|\b[AL]?GPL(?:v?[23]|\b)|Mozilla Public|\bMPL\b|Eclipse Public|"
    r"\bCDDL\b|Creative Commons|\bCC[- ]BY|Commons Clause|Business Source|proprietary and confidential",
)
_GENERATED = re.compile(
    r"do not (?:edit|modify)|(?:automatically|auto-?|machine[- ])\s?generated|@generated|"
    r"(?:file|module|code) (?:is|was|has been) generated|generated (?:by|from|with) ",
    re.IGNORECASE,
)
_NOTICE = re.compile(
    r"copyright|SPDX-|all rights reserved|licensed (?:under|to)|licen[sc]e (?:agreement|file|for the specific)|"
    r"under the (?:terms of )?(?:the )?[\w .-]{0,40}licen[sc]e|permission is hereby|redistribution and use|"
    r"not use this file except|subject to the boost|LICENSE_1_0|see (?:the )?(?:accompanying )?(?:file )?LICENSE",
    re.IGNORECASE,
)
_COMMENT = re.compile(
    r"""(?:^/\*.*?\*/[ \t]*(?:\n|\Z)|^<!--.*?-->[ \t]*(?:\n|\Z)"""
    r"""|(?:^[ \t]*//[^\n]*(?:\n|\Z))+|(?:^%[^\n]*(?:\n|\Z))+|(?:^;[^\n]*(?:\n|\Z))+|(?:^--[^\n]*(?:\n|\Z))+"""
    r"""|(?:^\#(?!!|\[|[ \t]*(?:include|define|if|elif|else|endif|undef|pragma|error|import)\b)[^\n]*(?:\n|\Z))+)\n*""",
    re.MULTILINE | re.DOTALL,
)
"""A comment from the start of a line on, of one kind, with the empty lines after it."""
_ASIDE = re.compile(
    r'<a class="(?:headerlink|permalink|selflink|anchor)"[^>]*>.*?</a>|<span class="viewcode-link">.*?</span>|'
    r"<(svg|button)\b.*?</\1>",
    re.DOTALL,
)
"""What stands on a page to be looked at or pressed."""
_ASCII = bytes(range(128))


class LeftOut(NamedTuple):
    """Why a file is no text of the corpus; the same words for all files of a kind."""

    reason: str


class Read(NamedTuple):
    """A file's text, and the licence that it names itself."""

    text: str
    licence: str = ""


def read_code(data: bytes) -> Read | LeftOut:
    """Return a file of code as it is, without comments of licence and copyright at its head, or why it is left out:
    another licence is named there, it says that a program wrote it, or it looks so, or like data."""
    if not SHORTEST <= len(data) <= LONGEST:
        return LeftOut("longer than 400,000 bytes" if len(data) > LONGEST else "shorter than 200 bytes")
    text = _decoded(data)
    if text is None:
        return LeftOut("not UTF-8")
    head = text[:HEAD]
    named = _SPDX.search(head)
    licence = named[1].strip().strip("/-#").strip() if named else ""
    if _OTHER_LICENCE.search(head) or (licence and not _is_permissive(licence)):
        return LeftOut("another licence is named in it")
    if _GENERATED.search(head[:2000]):
        return LeftOut("generated, by its own word")
    text = without_notices(text)
    if len(text) < SHORTEST:
        return LeftOut("shorter than 200 bytes")
    if looks := looks_made(text):
        return LeftOut(looks)
    return Read(text, licence)


def without_notices(text: str) -> str:
    """The text without the comments among its first 8,000 characters that say whose it is and under which licence."""
    head, rest = text[:HEAD], text[HEAD:]
    if rest:  # cut at a line end, so that no comment is cut in two; one that goes on after it stays
        at = head.rfind("\n") + 1
        head, rest = head[:at], head[at:] + rest
    head = _COMMENT.sub(lambda found: "" if _NOTICE.search(found[0]) else found[0], head)
    return (head + rest).strip("\n") + "\n"


def looks_made(text: str) -> str:
    """Say what a text looks like if no person wrote it: minified, numbers, much the same again; else nothing."""
    lines = text.split("\n")
    if max(map(len, lines)) > 1000 or len(text) > 110 * len(lines):
        return "minified, or data in long lines"
    data = text.encode()
    solid, digits, letters, others = _counts(data)
    if digits > 0.2 * solid:
        return "numbers"
    if others > 0.1 * solid:
        return "not English"
    if letters < 0.45 * solid:
        return "signs"
    return "repeats itself" if len(zlib.compress(data, 1)) < 0.1 * len(data) else ""


def read_page(data: bytes, begins: str, ends: str) -> Read | LeftOut:
    """Return what a reader sees of a page of HTML, from the end of what `begins` matches to what `ends` does."""
    page = _decoded(data)
    if page is None:
        return LeftOut("not UTF-8")
    start = re.search(begins, page)
    if not start:
        return LeftOut("a page without text")
    end = re.compile(ends).search(page, start.end()) if ends else None
    body = _ASIDE.sub("", page[start.end() : end.start() if end else None])
    text = visible_text(body).replace("\xa0", " ").replace("¶", "")
    text = re.sub(r"[ \t]+\n", "\n", re.sub(r"\n{3,}", "\n\n", text)).strip("\n") + "\n"
    if len(text) < SHORTEST_PAGE:
        return LeftOut("a page of fewer than 1,500 characters")
    if looks := looks_like_no_prose(text):
        return LeftOut(looks)
    return Read(text)


def looks_like_no_prose(text: str) -> str:
    """Say what a page is if it is no prose: numbers, another language, an index; else nothing."""
    solid, digits, letters, others = _counts(text.encode())
    if "\ufffd" in text or others > 0.05 * solid:
        return "not English"
    if digits > 0.12 * solid or letters < 0.65 * solid:
        return "numbers and signs"
    in_sentences = sum(len(line) for line in text.split("\n") if len(line.split()) >= 8)
    return "an index or a list of names" if in_sentences < 0.6 * len(text) else ""


def _counts(data: bytes) -> tuple[int, int, int, int]:
    """Bytes that are no white space; of these digits, ASCII's letters, and what is not ASCII."""
    solid = data.translate(None, b" \t\n\r\f\v")
    digits, letters = (
        len(solid) - len(solid.translate(None, of.encode())) for of in (string.digits, string.ascii_letters)
    )
    return len(solid), digits, letters, len(solid.translate(None, _ASCII))


def _decoded(data: bytes) -> str | None:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text.replace("\r\n", "\n").replace("\r", "\n")


def _is_permissive(expression: str) -> bool:
    words = re.sub(r"[()]", " ", expression).split()
    return all(word in PERMISSIVE for word in words if word not in ("OR", "AND", "WITH"))
