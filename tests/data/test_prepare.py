from __future__ import annotations

import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import corpus

from mdlm_atat import train
from mdlm_atat.data import sources
from mdlm_atat.data.corpus import Corpus
from mdlm_atat.data.manifest import is_prepared, read_manifest
from mdlm_atat.data.open_tokenizer import load_tokenizer
from mdlm_atat.data.prepare import prepare
from mdlm_atat.data.tokenizers import ByteTokenizer, CharTokenizer
from mdlm_atat.data.tokens import TokenDataset
from mdlm_atat.data.train_tokenizer import train_bpe
from mdlm_atat.errors import UserError


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(corpus(4000))
    return path


def write_jsonl(path: Path, documents: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    return str(path)


def stored(corpus: Corpus, split: str) -> np.ndarray:
    return np.fromfile(corpus.folder / f"{split}.bin", corpus.manifest.dtype).astype(np.int64)


def decoded(corpus: Corpus, split: str) -> str:
    return corpus.tokenizer.decode(stored(corpus, split), eos_text="$")


def contents(corpus: Corpus) -> dict[str, bytes]:
    files = [file for file in sorted(corpus.folder.rglob("*")) if file.is_file()]
    return {str(file.relative_to(corpus.folder)): file.read_bytes() for file in files}


class Listener:
    """Collects what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def update(self, stage: str, num_characters: int, num_tokens: int) -> None: ...
    def done(self) -> None: ...


def test_the_manifest_counts_documents_tokens_words_characters_and_bytes(tmp_path: Path) -> None:
    train = write_jsonl(tmp_path / "train.jsonl", ["naïve cat", "a  b\n"])
    valid = write_jsonl(tmp_path / "valid.jsonl", ["日本"])
    out = prepare(train, tokenizer="byte", out=tmp_path / "out", validation=valid)
    manifest = read_manifest(out)
    split = manifest.splits["train"]
    assert (split.documents, split.words, split.characters, split.bytes, split.tokens) == (2, 4, 14, 15, 17)
    assert manifest.splits["valid"].tokens == 6
    assert (manifest.mode, manifest.length, manifest.eos, manifest.dtype) == ("wrap", None, True, "<u2")
    assert manifest.tokenizer == {
        "name": "byte",
        "vocab_size": 257,
        "mask_id": 257,
        "hash": ByteTokenizer().fingerprint(),
    }
    assert manifest.source["spec"] == train
    assert manifest.source["files"][0]["bytes"] == Path(train).stat().st_size
    assert (manifest.validation["rule"], manifest.validation["source"]) == ("given", valid)
    counts = np.load(out.folder / "counts.npy", allow_pickle=False)
    np.testing.assert_array_equal(counts, np.bincount(stored(out, "train"), minlength=257))
    assert decoded(out, "train") == "naïve cat$a  b\n$"
    assert decoded(out, "valid") == "日本"


def test_eos_follows_every_document_unless_there_is_only_1(tmp_path: Path) -> None:
    one = write_jsonl(tmp_path / "one.jsonl", ["single"])
    three = write_jsonl(tmp_path / "three.jsonl", ["a", "b", "c"])
    assert decoded(prepare(three, tokenizer="byte", out=tmp_path / "x", validation=one), "train") == "a$b$c$"
    assert decoded(prepare(one, tokenizer="byte", out=tmp_path / "y", validation=three), "train") == "single"
    assert read_manifest(tmp_path / "y").eos


def test_padded_rows_of_4_hold_every_token(tmp_path: Path) -> None:
    documents = write_jsonl(tmp_path / "a.jsonl", ["abc", "abcd", "abcdefghi"])
    out = prepare(documents, tokenizer="byte", out=tmp_path / "out", mode="pad", length=4, validation=documents)
    rows = np.fromfile(out.folder / "train.idx", "<u8").tolist()
    assert rows == [0, 4, 8, 9, 13, 17, 19]
    assert decoded(out, "train") == "abc$abcd$abcdefghi$"
    assert read_manifest(out).splits["train"].rows == 6


@pytest.mark.parametrize("mode", ["wrap", "pad"])
def test_long_documents_in_many_pieces_are_stored_as_one(
    mode: Any, tmp_path: Path, gpt2_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = [corpus(500), "short", corpus(900)]
    source = write_jsonl(tmp_path / "a.jsonl", documents)
    arguments: dict[str, Any] = {"validation": source, "mode": mode, "length": 16}
    whole = prepare(source, tokenizer=str(gpt2_folder), out=tmp_path / "whole", **arguments)
    monkeypatch.setattr("mdlm_atat.data.pieces.PIECE_CHARACTERS", 100)
    monkeypatch.setattr("mdlm_atat.data.encode.PIECE_CHARACTERS", 100)
    parts = prepare(source, tokenizer=str(gpt2_folder), out=tmp_path / "parts", **arguments)
    assert contents(parts) == contents(whole)
    assert read_manifest(parts).splits["train"].documents == 3


def test_1_and_4_workers_write_the_same_bytes(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdlm_atat.data.pieces.PIECE_CHARACTERS", 500)
    monkeypatch.setattr("mdlm_atat.data.encode.PIECE_CHARACTERS", 500)
    tokenizer = train_bpe([corpus(500)], 280)
    one = prepare(text, tokenizer=tokenizer, out=tmp_path / "one", num_workers=1)
    four = prepare(text, tokenizer=tokenizer, out=tmp_path / "four", num_workers=4)
    assert contents(one) == contents(four)


@pytest.mark.parametrize(("size", "dtype"), [(254, "<u1"), (255, "<u2"), (70_000, "<u4")])
def test_tokens_take_1_2_or_4_bytes_by_vocabulary_and_mask(size: int, dtype: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("".join(chr(0x4E00 + i) if i < 20000 else chr(0x10000 + i) for i in range(size)))
    out = prepare(str(tmp_path / "a.txt"), tokenizer="char", out=tmp_path / "out")
    manifest = read_manifest(out)
    assert manifest.dtype == dtype
    assert manifest.tokenizer["vocab_size"] == size + 1
    assert decoded(out, "train") + decoded(out, "valid") == (tmp_path / "a.txt").read_text()


# --- validation ---


def test_one_text_gives_its_last_10_percent_cut_at_a_line_end(text: Path, tmp_path: Path) -> None:
    out = prepare(text, tokenizer="char", out=tmp_path / "out", validation_fraction=0.1)
    train, valid = decoded(out, "train"), decoded(out, "valid")
    assert train + valid == text.read_text()
    assert train.endswith("\n")
    assert len(valid) == pytest.approx(0.1 * len(text.read_text()), abs=100)
    assert read_manifest(out).validation == {"rule": "the end of the text", "fraction": 0.1}


@pytest.mark.parametrize(
    "text",
    ["x" * 600_000, "word " * 120_000, ">chr1 human\n" + "ACGT" * 100_000 + "\n", "ab\n" + "x" * 300_000 + "\nend\n"],
    ids=["no space", "no line end", "a header", "one long line"],
)
def test_of_a_text_of_long_lines_5_percent_are_held_out_too(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(text)
    out = prepare(str(tmp_path / "a.txt"), tokenizer="char", out=tmp_path / "out")
    train, valid = decoded(out, "train"), decoded(out, "valid")
    assert train + valid == text
    assert len(valid) == pytest.approx(0.05 * len(text), abs=5)


@pytest.mark.parametrize("text", ["only one line", "aaaaaaaaa\n", "aaaa\nbbbb\n", "a\nb", "ab"])
def test_even_2_characters_are_split_without_loss(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(text)
    out = prepare(str(tmp_path / "a.txt"), tokenizer="char", out=tmp_path / "out")
    train, valid = decoded(out, "train"), decoded(out, "valid")
    assert train
    assert valid
    assert train + valid == text


def test_19_documents_are_cut_at_the_end_and_20_by_hash(tmp_path: Path) -> None:
    documents = [f"document {i}\n" for i in range(20)]
    few = prepare(write_jsonl(tmp_path / "few.jsonl", documents[:19]), tokenizer="byte", out=tmp_path / "few")
    assert read_manifest(few).validation["rule"] == "the end of the text"
    assert decoded(few, "train") == "$".join(documents[:18]) + "$"
    assert decoded(few, "valid") == documents[18]
    many = prepare(write_jsonl(tmp_path / "many.jsonl", documents), tokenizer="byte", out=tmp_path / "many")
    manifest = read_manifest(many)
    assert manifest.validation == {"rule": "documents by hash", "fraction": 0.05}
    assert (manifest.splits["train"].documents, manifest.splits["valid"].documents) == (19, 1)


def test_a_document_goes_to_the_same_split_in_any_order(tmp_path: Path) -> None:
    documents = [f"document {i}" for i in range(1500)]
    halves = []
    for name, ordered in (("a", documents), ("b", documents[::-1])):
        out = prepare(write_jsonl(tmp_path / f"{name}.jsonl", ordered), tokenizer="byte", out=tmp_path / name)
        halves.append(set(decoded(out, "valid").split("$")))
    assert halves[0] == halves[1]
    assert 40 < len(halves[0]) < 120  # 75 expected


def test_whole_puts_everything_into_valid_with_the_tokenizer_given(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", ["abc", "cab"])
    out = prepare(source, tokenizer=CharTokenizer("abc"), out=tmp_path / "out", whole=True)
    manifest = read_manifest(out)
    assert list(manifest.splits) == ["valid"]
    assert decoded(out, "valid") == "abc$cab$"
    assert manifest.validation == {"rule": "the whole source"}
    assert TokenDataset.open(out, "valid", 4).num_evaluation_rows == 2


def test_whole_takes_the_validation_that_comes_with_a_folder(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set/train.txt").write_text("train")
    (tmp_path / "set/valid.txt").write_text("valid")
    assert (
        decoded(prepare(str(tmp_path / "set"), tokenizer="char", out=tmp_path / "out", whole=True), "valid") == "valid"
    )


# --- folders that are there, or half there ---


def test_the_same_request_is_reused_and_another_is_refused(text: Path, tmp_path: Path) -> None:
    out = prepare(text, tokenizer="char", out=tmp_path / "out")
    before = {file: file.stat().st_mtime_ns for file in out.folder.iterdir()}
    listener = Listener()
    assert prepare(text, tokenizer="char", out=tmp_path / "out", progress=listener).folder == out.folder
    assert "already prepared" in listener.said[0]
    assert {file: file.stat().st_mtime_ns for file in out.folder.iterdir()} == before
    for change in ({"tokenizer": "byte"}, {"mode": "pad", "length": 8}, {"validation_fraction": 0.2}):
        with pytest.raises(UserError, match="prepared from other text or settings"):
            settings: dict[str, Any] = {"tokenizer": "char", **change}
            prepare(text, out=tmp_path / "out", **settings)
    text.write_text(text.read_text() + "more")
    with pytest.raises(UserError, match="prepared from other text or settings"):
        prepare(text, tokenizer="char", out=tmp_path / "out")


def test_a_folder_with_other_files_is_never_touched(text: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="is not empty"):
        prepare(text, tokenizer="char", out=tmp_path / "out")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["thesis.tex"]
    with pytest.raises(UserError, match="is a file"):
        prepare(text, tokenizer="char", out=text)


def test_an_empty_folder_and_a_missing_parent_are_fine(text: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert is_prepared(prepare(text, tokenizer="char", out=tmp_path / "empty"))
    assert is_prepared(prepare(text, tokenizer="char", out=tmp_path / "a/b/c"))


def test_a_mistake_leaves_nothing_behind(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "fine"}\nnot JSON\n')
    with pytest.raises(UserError, match="line 2 is not JSON"):
        prepare(str(bad), tokenizer="byte", out=tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.jsonl"]


def test_all_of_a_prepared_folder_is_on_the_disk_before_it_gets_its_name(text: Path, tmp_path: Path, disk: Any) -> None:
    out = prepare(text, tokenizer="byte", out=tmp_path / "out").folder
    assert disk.is_synced_before_it_is_renamed(out, out, *out.rglob("*"))


def stop_half_way(text: Path, out: Path, number: signal.Signals) -> None:
    """Prepare in another process, and send it a signal when the first tokens are written."""
    code = f"""
import signal, time
from mdlm_atat.data.prepare import prepare
signal.signal(signal.SIGINT, signal.default_int_handler)
class Stop:
    def say(self, text): ...
    def done(self): ...
    def update(self, stage, num_characters, num_tokens):
        if stage == "tokenizing":
            print("half way", flush=True)
            time.sleep(60)
prepare({str(text)!r}, tokenizer="byte", out={str(out)!r}, progress=Stop())
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "half way\n"
        process.send_signal(number)


def test_a_preparation_that_is_killed_is_unfinished_and_the_next_one_succeeds(text: Path, tmp_path: Path) -> None:
    stop_half_way(text, tmp_path / "out", signal.SIGKILL)
    assert (tmp_path / "out.partial/train.bin").exists()
    assert not (tmp_path / "out").exists()
    assert not is_prepared(tmp_path / "out.partial")
    (tmp_path / "out.partial/left-over").write_text("x")
    out = prepare(text, tokenizer="byte", out=tmp_path / "out")
    assert decoded(out, "train") + decoded(out, "valid") == text.read_text()
    assert not (tmp_path / "out.partial").exists()
    assert not (out.folder / "left-over").exists()


def test_ctrl_c_leaves_nothing_behind(text: Path, tmp_path: Path) -> None:
    stop_half_way(text, tmp_path / "out", signal.SIGINT)
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_two_at_once_make_one_folder_and_the_second_waits(text: Path, tmp_path: Path) -> None:
    first_is_writing, second_waits = threading.Event(), threading.Event()

    class First(Listener):
        def update(self, stage: str, num_characters: int, num_tokens: int) -> None:  # noqa: ARG002
            first_is_writing.set()
            second_waits.wait(20)

    class Second(Listener):
        def say(self, text: str) -> None:
            self.said.append(text)
            second_waits.set()

    arguments: dict[str, Any] = {"source": text, "tokenizer": "byte", "out": tmp_path / "out"}
    thread = threading.Thread(target=prepare, kwargs={**arguments, "progress": First()})
    thread.start()
    assert first_is_writing.wait(20)
    second = Second()
    out = prepare(**arguments, progress=second)
    thread.join()
    assert "another process is preparing" in second.said[0]
    assert decoded(out, "train") + decoded(out, "valid") == text.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "text.txt"]


@pytest.mark.slow
def test_40_mb_in_one_text_are_prepared_in_less_than_400_mb(tmp_path: Path) -> None:
    line = corpus(60).replace("\n", " ") + "\n"
    with (tmp_path / "big.txt").open("w") as file:
        for i in range(40_000_000 // len(line)):
            file.write(f"{i} {line}")
    code = f"""
from mdlm_atat.data.prepare import prepare
from pathlib import Path
prepare({str(tmp_path / "big.txt")!r}, tokenizer="byte", out={str(tmp_path / "out")!r}, num_workers=2, progress=False)
# not getrusage, which begins with the peak of the process that started this one
print(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == ""
    assert int(done.stdout) * 1024 < 400e6
    assert read_manifest(tmp_path / "out").splits["train"].tokens > 37e6


# --- wrong input ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "pad"}, "`mode=pad` needs `length=`"),
        ({"validation_fraction": 1.0}, "between 0 and 1"),
        ({"num_workers": -1}, "num_workers is -1"),
        ({"validation": "nowhere.txt"}, "no file or folder nowhere.txt"),
    ],
)
def test_settings_that_cannot_work_are_named(
    arguments: dict[str, Any], message: str, text: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        prepare(text, tokenizer="byte", out=tmp_path / "out", **arguments)


EMPTY = {
    "nothing.txt": b"",
    "mark.txt": b"\xef\xbb\xbf",
    "null.jsonl": b'{"text": null}\n',
    "header.csv": b"text\n",
    "packed.txt.gz": gzip.compress(b""),
}


@pytest.mark.parametrize("tokenizer", ["char", "byte"])
@pytest.mark.parametrize("name", EMPTY)
def test_a_text_without_a_character_is_named_whichever_split_it_is(name: str, tokenizer: str, text, tmp_path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set/train.txt").write_text("the cat sat\n" * 9)
    for file in (tmp_path / name, tmp_path / f"set/valid.{name.partition('.')[2]}"):
        file.write_bytes(EMPTY[name])
    empty, out = tmp_path / name, tmp_path / "out"
    said = rf"there is no text in \S*{name}: expected at least one document that is not empty"
    for source, valid in ((empty, None), (empty, text), (text, empty)):
        with pytest.raises(UserError, match=said):
            prepare(source, tokenizer=tokenizer, validation=valid, out=out, progress=False)
    if EMPTY[name]:  # of a folder a file without a byte is left out
        with pytest.raises(UserError, match=r"there is no text in \S*set/valid\.\w+"):
            prepare(tmp_path / "set", tokenizer=tokenizer, out=out, progress=False)
    with pytest.raises(UserError, match=r"there is no text in 2 texts from Python"):
        prepare(["", ""], tokenizer=tokenizer, out=out, progress=False)
    assert not list(tmp_path.glob("out*"))


def test_one_character_cannot_be_split_in_two(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(UserError, match=r"split of .* is empty"):
        prepare(str(tmp_path / "a.txt"), tokenizer="byte", out=tmp_path / "out")


def test_text_that_a_given_char_tokenizer_does_not_know_is_named(text: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not among the 3 characters"):
        prepare(text, tokenizer=CharTokenizer("abc"), out=tmp_path / "out", whole=True)


# --- the cache ---


def test_the_cache_prepares_once_and_again_when_the_text_changes(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATAT_CACHE", str(tmp_path / "cache"))
    first = prepare(text, length=16).folder
    assert first.parent == tmp_path / "cache/data"
    assert prepare(str(text), tokenizer="char", length=32).folder == first  # wrap: cut when read
    assert prepare(text, tokenizer="byte").folder != first
    text.write_text(text.read_text() + "more")
    os.utime(text, ns=(time.time_ns(), time.time_ns()))
    assert prepare(text, length=16).folder != first


def test_a_prepared_folder_is_taken_as_it_is_if_it_agrees(text: Path, tmp_path: Path, gpt2_folder: Path) -> None:
    out = prepare(text, tokenizer=str(gpt2_folder), out=tmp_path / "out", mode="pad", length=16)
    same = (str(gpt2_folder), gpt2_folder, gpt2_folder.name, load_tokenizer(gpt2_folder))
    for tokenizer in same:
        assert prepare(out, tokenizer=tokenizer, mode="pad", length=16).folder == out.folder
    with pytest.raises(UserError, match="prepared in pad mode, not wrap"):
        prepare(out, tokenizer=gpt2_folder)
    with pytest.raises(UserError, match="rows of 16 tokens, not 32"):
        prepare(out, tokenizer=gpt2_folder, mode="pad", length=32)
    for other in ("char", ByteTokenizer()):
        with pytest.raises(UserError, match=r"prepared with the tokenizer tiny-gpt2.*not (char|byte)"):
            prepare(out, tokenizer=other, mode="pad", length=16)
    with pytest.raises(UserError, match=r"is prepared already: leave out `out=`"):
        prepare(out, tokenizer=gpt2_folder, mode="pad", length=16, out=tmp_path / "other")


def test_the_manifest_has_the_hash_of_the_tokens(text: Path, tmp_path: Path) -> None:
    out = prepare(text, out=tmp_path / "out")
    assert out.manifest.splits["train"].sha256 == hashlib.sha256((out.folder / "train.bin").read_bytes()).hexdigest()


def test_folders_that_were_made_for_one_that_is_refused_are_gone_and_others_stay(tmp_path):
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"good text, then \xe9\n")
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="not UTF-8"):
        prepare(bad, tokenizer="byte", out=tmp_path / "there/a/b/c", progress=False)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["bad.txt", "there"]


def test_a_prepared_folder_whose_manifest_is_damaged_is_no_folder_of_text(text, tmp_path):
    made = prepare(text, tokenizer="char", out=tmp_path / "made", progress=False)
    manifest = made.folder / "manifest.json"
    manifest.write_text(manifest.read_text()[:100])
    with pytest.raises(UserError, match=r"manifest.json is damaged .* prepare the corpus again"):
        train("demo", data=made, out=tmp_path / "run")


@pytest.mark.parametrize("source", ["", "  "])
def test_an_empty_source_is_not_the_folder_that_one_is_in(source, tmp_path):
    with pytest.raises(UserError, match="expected a file, a folder"):
        prepare(source, tokenizer="char", out=tmp_path / "made", progress=False)


def test_a_new_preparation_lists_its_folder_once_and_a_prepared_one_again_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_text(corpus(30))
    listed = []
    whole = sources.list_folder
    monkeypatch.setattr(sources, "list_folder", lambda *a, **k: listed.append(a) or whole(*a, **k))
    for times in (1, 2):
        prepare(tmp_path / "in", tokenizer="byte", out=tmp_path / "out", progress=False)
        assert len(listed) == times


def test_a_corpus_that_was_prepared_to_be_scored_says_that_it_has_no_counts(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("some words")
    made = prepare(tmp_path / "a.txt", tokenizer="byte", out=tmp_path / "out", whole=True, progress=False)
    with pytest.raises(UserError, match="out was prepared to be scored, and has no training text to count tokens in"):
        _ = made.open("valid", 4).counts
