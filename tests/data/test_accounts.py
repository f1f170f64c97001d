"""The account of a text: what was read, held out and left out, and what is in both training and validation."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest

from mdlm_atat.data.manifest import read_manifest
from mdlm_atat.data.pieces import Piece
from mdlm_atat.data.prepare import prepare
from mdlm_atat.data.repeats import Repeats
from mdlm_atat.data.train_tokenizer import train_tokenizer
from mdlm_atat.errors import UserError


class Listener:
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def update(self, stage: str, num_characters: int, num_tokens: int) -> None: ...
    def done(self) -> None: ...


def write(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def hash_of(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


@pytest.mark.parametrize("repeats", [1, 400])
def test_that_more_than_twice_the_share_asked_for_is_held_out_is_said(tmp_path: Path, repeats: int) -> None:
    """Of 40 documents 5%, two, are held out; one of the two is 400 times as long, or stands 400 times."""
    short = sorted((f"text {number:02}" for number in range(40)), key=hash_of)
    often = short[:1] * (repeats - 1)
    long = next(text for number in range(999) if hash_of(text := f"{number:03} " + "long " * 640) <= hash_of(short[1]))
    listener = Listener()
    made = prepare([*short, *often, *([long] if repeats == 1 else [])], out=tmp_path / "out", progress=listener)
    valid, train = made.manifest.splits["valid"], made.manifest.splits["train"]
    share = valid.characters / (valid.characters + train.characters)
    assert share > 0.85
    assert any(f"{share:.0%} of the text is held out, not 5.0%" in line for line in listener.said)
    plain = Listener()
    prepare(short, out=tmp_path / "plain", progress=plain)
    assert not any("is held out, not" in line for line in plain.said)


@pytest.mark.parametrize("texts", [["the same"] * 40, ["the same", "the same "] * 20])
def test_copies_of_one_text_of_which_all_are_held_out_are_refused_with_the_reason(texts: list[str]) -> None:
    with pytest.raises(UserError, match="equal ones together, so there may be too few different ones"):
        prepare(texts, tokenizer="byte", validation_fraction=0.6, progress=False)


def test_a_preparation_says_what_was_read_held_out_and_left_out_and_keeps_it(tmp_path: Path) -> None:
    files = {"train.txt": "abc" * 99, "valid.txt": "cab", "test.txt": "bca", "notes.txt": "b", "a.png": "\0" * 99}
    source, listener = write(tmp_path / "set", files), Listener()
    made = prepare(source, out=tmp_path / "out", progress=listener)
    said = "\n".join(listener.said)
    assert "3 files in" in said
    assert "a.png (" in said
    assert listener.said[-1] == (
        "read       training 1 document, 297 characters; validation 1 document, 3 characters (comes with the source)"
    )
    accounts = made.manifest.accounts
    assert accounts is not None
    assert accounts["folders"]["source"]["files"] == {"train": 1, "valid": 1, "test": 1}
    left = {(one["ending"], one["files"]) for one in accounts["folders"]["source"]["left_out"]}
    assert left == {(".png", 1), (".txt", 1)}
    again = Listener()
    prepare(source, out=tmp_path / "out", progress=again)
    assert again.said[1:] == listener.said
    from_tokens = Listener()
    prepare(made.folder, progress=from_tokens)
    assert from_tokens.said == listener.said[-1:]


def test_a_folder_that_is_mostly_no_text_stops_before_anything_is_written(tmp_path: Path) -> None:
    source = write(tmp_path / "set", {"a.txt": "a\n" * 20, "b.png": "\0" * 99, "c.png": "\0" * 99})
    for make in (
        lambda: prepare(source, out=tmp_path / "out", progress=False),
        lambda: train_tokenizer(source, vocab_size=260, out=tmp_path / "out", progress=False),
    ):
        with pytest.raises(UserError, match=r"2 of 3 files.*leave_out='\.png'"):
            make()
        assert [path.name for path in tmp_path.iterdir()] == ["set"]
    corpus = prepare(source, out=tmp_path / "out", progress=False, leave_out=".png")
    assert sum(split.characters for split in corpus.manifest.splits.values()) == 40


def test_a_folder_is_scored_by_its_validation_else_its_test_files_or_by_those_when_asked(tmp_path: Path) -> None:
    files = {"train.txt": "abc" * 9, "test.txt": "bca", "test-2.txt": "cc"}
    source, listener = write(tmp_path / "set", files), Listener()
    made = prepare(source, tokenizer="byte", out=tmp_path / "1", whole=True, progress=listener)
    assert listener.said[-1] == "read       validation 2 documents, 5 characters (the test files of the source)"
    assert [Path(file["path"]).name for file in made.manifest.validation["files"]] == ["test-2.txt", "test.txt"]
    (source / "dev.txt").write_text("a")
    sizes = {
        split: prepare(
            source, tokenizer="byte", out=tmp_path / split, whole=True, split=split, progress=False
        ).manifest.splits["valid"]
        for split in ("train", "test")
    }
    assert [split.characters for split in sizes.values()] == [1, 5]
    everything = prepare(source, tokenizer="byte", out=tmp_path / "all", whole=True, splits="none", progress=False)
    assert everything.manifest.splits["valid"].characters == 33


def test_a_byte_order_mark_that_overrules_the_encoding_that_was_named_is_told(tmp_path: Path) -> None:
    (tmp_path / "marked.txt").write_text("na\u00efve\n" * 9, encoding="utf-8-sig")
    (tmp_path / "plain.txt").write_text("caf\u00e9\n" * 9, encoding="cp1252")
    (tmp_path / "rows.csv").write_text("text\nna\u00efve\n" * 9, encoding="utf-16")
    listener = Listener()
    made = prepare(tmp_path, encoding="cp1252", out=tmp_path / "out", whole=True, progress=listener)
    told = {
        "files read as utf-8 by their byte order mark, not as cp1252": 1,
        "files read as utf-16-le by their byte order mark, not as cp1252": 1,
    }
    counted = (made.manifest.accounts or {})["changed"]["source"]
    assert {what: number for what, number in counted.items() if what.startswith("files")} == told
    assert "files read as utf-8 by their byte order mark, not as cp1252 (1)" in listener.said[-1]


def test_what_is_changed_or_skipped_while_it_is_read_is_counted_and_said_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n\r\nthree\rfour\n")
    listener = Listener()
    made = prepare(tmp_path / "a.txt", out=tmp_path / "1", progress=listener)
    changed = {
        "byte order marks": 1,
        "carriage returns before line feeds": 3,
        "carriage returns that became line feeds": 1,
    }
    assert (made.manifest.accounts or {})["changed"] == {"source": changed}
    assert listener.said[-1].startswith("           not as they were: carriage returns before line feeds (3), ")
    (tmp_path / "b.jsonl").write_text('{"text": "one"}\n{"text": ""}\n{"text": null}\n{"text": "it is n\'t"}\n')
    rows = prepare(tmp_path / "b.jsonl", out=tmp_path / "2", whole=True, detokenize="ptb", progress=False)
    assert (rows.manifest.accounts or {})["changed"]["source"] == {
        "empty documents": 1,
        "rows without text (null)": 1,
        "characters by which detokenized documents are shorter": 1,
    }


def test_a_corpus_of_an_earlier_version_has_no_accounts_and_opens(tmp_path: Path) -> None:
    made = prepare(["abc" * 20], out=tmp_path / "out", progress=False)
    file = made.folder / "manifest.json"
    content = json.loads(file.read_text())
    del content["accounts"]
    file.write_text(json.dumps(content))
    assert read_manifest(made.folder).accounts is None
    listener = Listener()
    prepare(made.folder, progress=listener)
    assert listener.said[0].startswith("read       training 1 document")


def test_a_validation_file_in_the_folder_is_scored_and_not_trained_on(tmp_path: Path) -> None:
    source = write(tmp_path / "set", {"a.txt": "aaaa", "b.txt": "bbb"})
    made = prepare(source, validation=source / "b.txt", out=tmp_path / "out", progress=False)
    assert [made.manifest.splits[name].characters for name in ("train", "valid")] == [4, 3]
    accounts = made.manifest.accounts
    assert accounts is not None
    assert accounts["folders"]["source"]["files"] == {"train": 1, "given": 1}


def test_documents_of_the_validation_text_that_are_trained_on_are_counted_and_said(tmp_path: Path) -> None:
    train, valid = [f"text {i}" for i in range(30)], ["text 3", "text 4\n", "new", "text 3"]
    listener = Listener()
    made = prepare(train, validation=valid, out=tmp_path / "out", progress=listener)
    assert listener.said[-1] == "repeated   3 of 4 validation documents (75%) are in the training text too"
    accounts = made.manifest.accounts
    assert accounts is not None
    assert accounts["repeated"] == {"documents": 3, "of": 4, "is_exact": True}
    held_out = Listener()
    prepare(["the same"] * 30 + train, out=tmp_path / "second", progress=held_out)
    assert not any(line.startswith("repeated") for line in held_out.said)  # equal texts stay together


def pieces_of(name: str, texts: list[str]) -> list[tuple[str, Piece]]:
    return [(name, Piece(text, ends_document=True)) for text in texts]


@pytest.mark.parametrize("order", range(3))
def test_repeats_are_found_in_any_order_and_whatever_pieces_a_document_comes_in(order: int) -> None:
    stream = pieces_of("train", [f"{i}" for i in range(100)]) + pieces_of("valid", [f" {i}\n" for i in range(90, 120)])
    random.Random(order).shuffle(stream)
    long = [("train", Piece("a b ", False)), ("valid", Piece("a", False)), ("train", Piece("c", True))]
    stream += [*long, ("valid", Piece(" b c ", True))]
    repeats = Repeats()
    assert list(repeats.watch(stream)) == stream
    assert repeats.found() == (11, 31, True)


def test_repeats_of_many_documents_are_estimated_in_bounded_memory() -> None:
    repeats = Repeats(most_hashes=500)
    stream = pieces_of("train", [f"{i}" for i in range(20_000)]) + pieces_of(
        "valid", [f"{i}" for i in range(15_000, 25_000)]
    )
    for _ in repeats.watch(stream):
        assert max(len(repeats._train), len(repeats._valid)) <= 500
    found = repeats.found()
    assert not found.is_exact
    assert found.of == 10_000
    assert abs(found.documents - 5000) < 1500  # 80 or more in the sample: an error of about 11%


def test_a_tokenizers_folder_says_what_it_was_trained_on(tmp_path: Path) -> None:
    source = write(tmp_path / "set", {"train.txt": "the cat sat " * 9, "test.txt": "zzzz", "a.jpg": "\0" * 99})
    listener = Listener()
    train_tokenizer(source, vocab_size=262, out=tmp_path / "out", progress=listener)
    assert listener.said[-1] == "read       1 document, 108 characters"
    kept: dict[str, Any] = json.loads((tmp_path / "out/accounts.json").read_text())
    assert (kept["documents"], kept["characters"]) == (1, 108)
    assert kept["folders"]["source"]["files"] == {"train": 1, "test": 1}


def test_a_text_without_text_says_what_was_there_instead(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": null}\n' * 3)
    said = r"there is no text in \S*a\.jsonl: .*; not as they were: rows without text \(null\) \(3\)"
    with pytest.raises(UserError, match=said):
        prepare(tmp_path / "a.jsonl", tokenizer="byte", out=tmp_path / "out", progress=False)
    with pytest.raises(UserError, match=said):
        train_tokenizer(tmp_path / "a.jsonl", vocab_size=260, out=tmp_path / "out", progress=False)
