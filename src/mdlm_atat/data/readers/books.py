"""Documents that are laid out: .pdf (by pypdf), .docx (by python-docx) and .epub (pages of HTML in an archive)."""

from __future__ import annotations

import io
import logging
import posixpath
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

from mdlm_atat.data.encodings import marked_encoding
from mdlm_atat.data.files import LONGEST_FILE, held_bytes, undecodable
from mdlm_atat.data.readers.html_pages import declared_encoding, visible_text
from mdlm_atat.data.readers.reading import Reading
from mdlm_atat.errors import UserError

NOT_SHOWN = frozenset(("pPr", "rPr", "sectPr", "tblPr", "del", "moveFrom", "Fallback"))
"""Elements of a Word document that hold settings, what was deleted, or a second form of what is there."""
MOST_COLUMNS = 63
"""Of a table of Word."""
LONGEST_XML = 20 << 20
"""Bytes of the XML of a Word document: as a tree it takes up to 40 times as much memory."""
LONGEST_INDEX = 1 << 23
"""Bytes of XML in which a book lists its chapters: as a tree it takes up to 30 times as much memory."""


def read_pdf(path: Path, _reading: Reading, left_out: Counter[str]) -> Iterator[Iterable[str]]:
    """Yield the text of all pages as one document; pages without text, which are pictures, are counted."""
    from pypdf import PdfReader

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it warns of what it mends
    with _as_document(path, "PDF"):
        pdf = PdfReader(io.BytesIO(held_bytes(path)))
        if pdf.is_encrypted and not pdf.decrypt(""):
            raise UserError(f"{path} is protected by a password: save it without one")
        pages = [page.extract_text() for page in pdf.pages]
    left_out["pages of .pdf without text"] += sum(not page.strip() for page in pages)
    yield ["\n".join(page for page in pages if page.strip())]


def read_docx(path: Path, _reading: Reading, _left_out: Counter[str]) -> Iterator[Iterable[str]]:
    """Yield paragraphs and tables as one document: a line a paragraph, and a row, its cells with tabs between them,
    so that a column keeps its place behind merged ones. Text inserted while changes were tracked is in it, deleted text
    is not; boxes come after their paragraph."""
    import docx

    with _as_document(path, "a Word document"):
        data = held_bytes(path)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
            _check_size(path, archive, names, LONGEST_FILE)
            _check_size(path, archive, [name for name in names if name.endswith(".xml")], LONGEST_XML)
        lines = list(_word_lines(docx.Document(io.BytesIO(data)).element.body))
    yield ["\n".join(lines)]


def _word_lines(element: Any) -> Iterator[str]:
    """The lines of what holds paragraphs and tables: a body, a cell, a box, or a control around some of them."""
    for child in element:
        match _name(child):
            case "p":
                boxes: list[Any] = []
                yield "".join(_word_text(child, boxes))
                for box in boxes:
                    yield from _word_lines(box)
            case "tbl":
                for row in (part for part in child.iter() if _name(part) == "tr" and _table_of(part) is child):
                    yield "".join(_row_text(row))
            case name if name not in NOT_SHOWN:
                yield from _word_lines(child)


def _row_text(row: Any) -> Iterator[str]:
    """The cells of a row, after one that spans several columns as many tabs, if another follows."""
    num_tabs = _columns(row, "trPr", "gridBefore", least=0)
    for cell in (part for part in row.iter() if _name(part) == "tc" and _row_of(part) is row):
        yield "\t" * num_tabs + "\n".join(_word_lines(cell))
        num_tabs = _columns(cell, "tcPr", "gridSpan", least=1)


def _columns(element: Any, settings: str, name: str, *, least: int) -> int:
    """How many columns a setting of a row or a cell counts."""
    found = (part for each in element if _name(each) == settings for part in each if _name(part) == name)
    value = next((value for part in found for key, value in part.items() if key.endswith("}val")), "")
    return min(max(int(value), least), MOST_COLUMNS) if value.isdecimal() else least


def _word_text(element: Any, boxes: list[Any]) -> Iterator[str]:
    """The text of a paragraph; boxes in it are added to those that are given."""
    for child in element:
        match _name(child):
            case "t":
                yield child.text or ""
            case "tab" | "ptab":
                yield "\t"
            case "br" | "cr":
                yield "\n"
            case "noBreakHyphen":
                yield "-"
            case "txbxContent":
                boxes.append(child)
            case name if name not in NOT_SHOWN:
                yield from _word_text(child, boxes)


def _name(element: Any) -> str:
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""  # of a comment


def _table_of(row: Any) -> Any:
    return next(part for part in row.iterancestors() if _name(part) == "tbl")


def _row_of(cell: Any) -> Any:
    return next(part for part in cell.iterancestors() if _name(part) == "tr")


def read_epub(path: Path, _reading: Reading, _left_out: Counter[str]) -> Iterator[Iterable[str]]:
    """Yield the chapters of a book, in the order in which they are read, as one document."""
    with _as_document(path, "EPUB"), zipfile.ZipFile(io.BytesIO(held_bytes(path))) as archive:
        names = _reading_order(path, archive)
        _check_size(path, archive, names, LONGEST_FILE)
        chapters = [_chapter(archive.read(name), f"{path}, {name}") for name in names]
    yield ["\n\n".join(chapter for chapter in chapters if chapter)]


def _reading_order(path: Path, archive: zipfile.ZipFile) -> list[str]:
    def parsed(name: str) -> ElementTree.Element:
        _check_size(path, archive, [name], LONGEST_INDEX)
        return ElementTree.fromstring(archive.read(name))

    package_name = _all(parsed("META-INF/container.xml"), "rootfile")[0].attrib["full-path"]
    package = parsed(package_name)
    places = {item.attrib["id"]: item.attrib["href"] for item in _all(package, "item")}
    folder = posixpath.dirname(package_name)
    chapters = [unquote(places[item.attrib["idref"]]) for item in _all(package, "itemref")]
    return [posixpath.normpath(posixpath.join(folder, chapter)) for chapter in chapters]


def _all(root: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return root.findall(f".//{{*}}{name}")


def _chapter(data: bytes, where: str) -> str:
    encoding, length = marked_encoding(data) or (declared_encoding(data[:1024]), 0)
    try:
        return visible_text(data[length:].decode(encoding or "utf-8"))
    except UnicodeError as error:
        raise undecodable(where, data, encoding) from error


def _check_size(path: Path, archive: zipfile.ZipFile, names: Iterable[str], most: int) -> None:
    """Raise UserError where files of an archive are larger than can be held."""
    size = sum(archive.getinfo(name).file_size for name in names)
    if size > most:
        raise UserError(f"{path} holds {size:,} bytes when unpacked, more than {most:,}: convert it to .txt")


@contextmanager
def _as_document(path: Path, what: str) -> Iterator[None]:
    """Raise UserError for whatever a library raises about a file that is not what its name says."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # damaged files raise anything, KeyError and RecursionError among them
        reason = " ".join(f"{type(error).__name__} {error}".split())[:200]
        raise UserError(f"{path} cannot be read as {what}: {reason}; save it anew, or as .txt") from error
