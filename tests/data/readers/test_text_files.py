"""Plain text of any ending and in any encoding, and what is no text."""

from __future__ import annotations

import codecs
import gzip
import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest
import zstandard
from made import PACKINGS, read, write

from mdlm_atat.data import files, unpack
from mdlm_atat.data.readers.kinds import Refusal, find_reader
from mdlm_atat.data.readers.reading import Reading
from mdlm_atat.errors import UserError

TEXT = "def naïve():  # 日本語 🙂\n\treturn 'x'\n"


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("name", ["a.md", "b.tex", "c.py", "README", "notes.2024", "d.log", "e.unheardof", ".profile"])
def test_a_file_of_any_ending_that_decodes_is_text(name: str, packing: str, tmp_path: Path) -> None:
    assert read(write(tmp_path / (name + packing), PACKINGS[packing](TEXT.encode()))) == [TEXT]


@pytest.mark.parametrize("read_bytes", [1, 7, 1 << 18])
@pytest.mark.parametrize("packing", [packing for packing in PACKINGS if packing])
def test_streams_that_are_joined_are_read_in_full_and_none_is_dropped_that_is_damaged(
    packing: str, read_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (files, unpack):
        monkeypatch.setattr(module, "READ_BYTES", read_bytes)
    pack = PACKINGS[packing] if packing != ".zst" else zstandard.ZstdCompressor(write_checksum=True).compress
    one, two = (pack(text) for text in (b"one\n" * 50, random.Random(0).randbytes(300).hex().encode()))
    streams = [one, two, pack(b""), one]
    (whole,) = read(write(tmp_path / f"a.txt{packing}", b"".join(streams)))
    assert len(whole) == 200 + 600 + 0 + 200
    middle = len(two) // 2
    damaged = two[:middle] + bytes([two[middle] ^ 0xFF]) + two[middle + 1 :]
    endings = [damaged, damaged + one, two[:-1], two[:5], two[:1], b"garbage", b"x", b"\0\0\0\0garbage"]
    for ending in [*endings, b"\0\0\0"] if packing in (".bz2", ".xz") else endings:
        with pytest.raises(UserError, match=rf"a\.txt\{packing} is (damaged or cut short|not UTF-8)"):
            read(write(tmp_path / f"a.txt{packing}", one + ending))


@pytest.mark.parametrize("read_bytes", [1, 7, 1 << 18])
def test_zeros_by_fours_after_a_stream_of_xz_are_padding(
    read_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (files, unpack):
        monkeypatch.setattr(module, "READ_BYTES", read_bytes)
    one, zeros = PACKINGS[".xz"](b"one\n"), b"\0" * 8
    assert read(write(tmp_path / "a.txt.xz", one + zeros + one + zeros)) == ["one\none\n"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.gguf", bytes(range(256)), "not text"),
        ("b.png", b"\x89PNG\r\n\x1a\n" + random.Random(0).randbytes(5000), "not text"),
        ("c", b"\0" * 1000, "not text"),
        ("d.bin", random.Random(1).randbytes(100), "not text"),
        ("e.bin.gz", gzip.compress(b"\0\1\2" * 1000), "not text"),
        ("f.zip", b"PK", ".zip is not read: unpack it first"),
        ("g.tar.gz", gzip.compress(b"x"), ".tar is not read: unpack it first"),
        ("h.doc", b"words", ".doc is not read: save it as .docx or .txt"),
        ("i.XLSX", b"words", ".xlsx is not read: save it as .csv"),
        ("j.odd.gz", b"no gzip", "unreadable"),
    ],
    ids=lambda part: "" if isinstance(part, bytes) else part,  # the time is in what gzip writes
)
def test_what_is_no_text_is_refused_by_name_and_with_what_to_do(
    name: str, content: bytes, reason: str, tmp_path: Path
) -> None:
    path = write(tmp_path / name, content)
    found = find_reader(path)
    assert isinstance(found, Refusal)
    assert str(found).startswith(reason)
    with pytest.raises(UserError, match=rf"{name.replace('.', '.')} cannot be read \({found.reason}"):
        read(path)


MARKS = {
    "utf-8": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}


@pytest.mark.parametrize("read_bytes", [1, 7, 1 << 18])
@pytest.mark.parametrize("asked", [None, "cp1252"])
@pytest.mark.parametrize("encoding", MARKS)
def test_a_byte_order_mark_is_obeyed_whatever_is_asked_for(
    encoding: str, asked: str | None, read_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "READ_BYTES", read_bytes)
    marked = MARKS[encoding] + TEXT.encode(encoding)
    assert read(write(tmp_path / "a.txt", marked), encoding=asked) == [TEXT]
    assert read(write(tmp_path / "a", marked), encoding=asked) == [TEXT]
    rows = MARKS[encoding] + '{"text": "é🙂"}\n{"text": "b"}'.encode(encoding)
    assert read(write(tmp_path / "a.jsonl", rows), encoding=asked) == ["é🙂", "b"]
    table = MARKS[encoding] + "id,text\n007,NA\n".encode(encoding)
    assert read(write(tmp_path / "a.csv", table), encoding=asked) == ["NA"]


SAMPLES = {
    "cp1252": "It’s a “test” – ok. Le garçon a mangé une crêpe à la fête, où il était déjà.\n",
    "cp1250": "Zażółć gęślą jaźń. Wczoraj byłem w mieście i kupiłem książkę o żabach, które śpią.\n",
    "cp1251": "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему.\n",
    "cp932": "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。\n",
    "utf-16-le": "A text without a mark, as some programs write it.\n" * 3,
    "utf-16-be": "A text without a mark, as some programs write it.\n" * 3,
    "utf-32-le": "A text without a mark, as some programs write it.\n" * 3,
}


@pytest.mark.parametrize("encoding", SAMPLES)
def test_another_encoding_is_named_and_the_named_one_reads_the_text(encoding: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", SAMPLES[encoding].encode(encoding))
    with pytest.raises(UserError, match=rf"it looks like {encoding} \(.*\): try `encoding='{encoding}'`"):
        read(path)
    assert read(path, encoding=encoding) == [SAMPLES[encoding]]
    line = SAMPLES[encoding].splitlines()[0]
    rows = write(tmp_path / "a.jsonl", ('{"text": "' + line + '"}\n').encode(encoding))
    with pytest.raises(UserError, match=r"a\.jsonl .*encoding="):
        read(rows)
    assert read(rows, encoding=encoding) == [line]


def test_a_text_in_another_encoding_has_a_reader_whatever_its_ending(tmp_path: Path) -> None:
    path = write(tmp_path / "letter", SAMPLES["cp1252"].encode("cp1252"))
    with pytest.raises(UserError, match="letter is not UTF-8: byte 0x92 at offset 2"):
        read(path)


@pytest.mark.parametrize("content", [b"\0" * 5000, b"words" + b"\0" * 50, b"a\0b\0c"])
def test_text_full_of_nuls_is_refused_and_one_in_a_thousand_is_a_character(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is full of NUL characters"):
        read(write(tmp_path / "a.txt", content))
    few = "x" * 5000 + "\0" + "x" * 5000 + "\0"
    assert read(write(tmp_path / "a.txt", few)) == [few]


@pytest.mark.parametrize("name", ["no-such", "rot13", "hex", "idna", "unicode_escape", "", "a\0b", "utf-99"])
def test_an_encoding_that_is_none_is_refused_before_anything_is_read(name: str) -> None:
    with pytest.raises(UserError, match="there is no such encoding; expected one such as utf-8, cp1252"):
        Reading(encoding=name)


def test_bytes_that_are_not_in_the_encoding_asked_for_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.txt is not ascii: byte 0xC3 at offset 2 \(line 1\)"):
        read(write(tmp_path / "a.txt", "naïve"), encoding="ascii")


KINDS_OF_TEXT = [
    "Hebrew שלום עולם, Arabic مرحبا بالعالم",
    "日本語、中文、한국어",
    "हिन्दी ภาษาไทย",
    "👩‍👩‍👧‍👦 🏳️‍🌈 🇯🇵 ☠️",
    "e\u0301 and é, ﬁ and fi",
    "tabs\tand\x0bvertical\x0cfeeds",
    "\u2028line\u2029paragraph\x85next",
    "a mark \ufeff in the middle",
    "\u200b\u200d\u202e\u2066",
    "".join(chr(code) for code in range(1, 32) if code not in (10, 13)),
    "x",
    " ",
    "\n\n\n",
    "ends with spaces   ",
    "\x7f\x80\x9f\xa0",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 \U0010fffd",
]


@pytest.mark.parametrize("text", KINDS_OF_TEXT)
def test_every_character_of_a_text_is_passed_on(text: str, tmp_path: Path) -> None:
    left_out = Counter[str]()
    assert read(write(tmp_path / "a.txt", text), left_out) == [text]
    assert not left_out


def test_characters_in_are_characters_out_and_those_counted(tmp_path: Path) -> None:
    left_out = Counter[str]()
    text = "\ufeffone\r\ntwo\rthree\n\r\n"
    (found,) = read(write(tmp_path / "a.txt", text), left_out)
    assert found == "one\ntwo\nthree\n\n"
    assert left_out == {
        "byte order marks": 1,
        "carriage returns before line feeds": 2,
        "carriage returns that became line feeds": 1,
    }
    assert len(text) == len(found) + 3  # two returns and the mark


@pytest.mark.parametrize("read_bytes", [1, 5, 1 << 18])
def test_a_line_of_any_length_is_a_document(read_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "READ_BYTES", read_bytes)
    monkeypatch.setattr("mdlm_atat.data.readers.plain.LONG_LINE", 8)
    lines = [
        "one",
        "",
        "   ",
        "a line longer than eight",
        " " * 12,
        " " * 5 + "x",
        "日本語" * 9,
        "last",
    ]
    path = write(tmp_path / "a.txt", "\n".join(lines))
    found = read(path, documents="line")
    assert [line for line in found if line.strip()] == [lines[0], lines[3], lines[5], lines[6], lines[7]]
    assert list(files.read_lines(path)) == [(n, line) for n, line in enumerate(lines, start=1) if line.strip()]


def test_a_line_of_8_MB_is_read_in_linear_time(tmp_path: Path) -> None:
    def seconds(num_bytes: int) -> float:
        path = write(tmp_path / "a.txt", b"word " * (num_bytes // 5))
        start = time.process_time()
        assert sum(map(len, read(path, documents="line"))) == num_bytes // 5 * 5
        return time.process_time() - start

    seconds(1 << 16)
    assert seconds(1 << 23) < 1  # 0.02 s; joining chunk by chunk takes 2 s here, 40 s at 48 MB


@pytest.mark.parametrize(
    ("name", "row", "blank"),
    [
        ("a.csv", "text\nx\n", "\n"),
        ("a.csv", "text\r\nx\r\n", "\r\n"),
        ("a.tsv", "text\rx\r", "\r"),
        ("a.jsonl", '{"text": "x"}\n', "\n"),
        ("a.jsonl", '{"text": "x"}\n', " \t\r\n"),
        ("a.json", '{"text": "x"}\n', "\n"),
        ("a.html", "x\n", "\n"),
        ("a.txt", "x\n", "\n"),
    ],
)
def test_three_million_blank_lines_take_no_time(name: str, row: str, blank: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"{name}.gz", gzip.compress((row + blank * 3_000_000).encode(), 1))
    start = time.process_time()
    assert read(path, documents="line") == ["x"]
    assert time.process_time() - start < 0.5  # 0.1 s and less; 0.8 s where each is looked at


@pytest.mark.parametrize("read_bytes", [1, 2, 3, 5, 1 << 18])
def test_blank_lines_are_counted_in_the_place_that_a_message_names(
    read_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "READ_BYTES", read_bytes)
    for end in ("\n", "\r\n", "\r"):
        lines = ["", "", "text,n", "", "a,1", "", "", '"b', "", '",2', "", "x"]
        path = write(tmp_path / "a.csv", end.join(lines).encode())
        with pytest.raises(UserError, match=r"a\.csv, line 12 has 1 cell,"):
            read(path)
        path = write(tmp_path / "a.csv", end.join(lines[:-1]).encode())
        assert read(path, template="{n}{text}") == ["1a", f"2b{end}{end}"]
    rows = write(tmp_path / "a.jsonl", '\n \t\n{"text": "a"}\r\n\r\n\n  {"text": "b"}\n\x0b\n  \n\n3')
    with pytest.raises(UserError, match=r"a\.jsonl, line 10 is a number"):
        read(rows)


def test_a_line_that_cannot_be_held_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "HELD_BYTES", 1000)
    monkeypatch.setattr(files, "READ_BYTES", 100)
    rows = write(tmp_path / "a.jsonl", '{"text": "short"}\n{"text": "' + "x" * 1200 + '"}')
    with pytest.raises(UserError, match=r"a\.jsonl, line 2 is longer than can be held at once: put long texts into"):
        read(rows)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "x")
    path.chmod(0)
    with pytest.raises(UserError, match="may not be read: Permission denied"):
        read(path)


@pytest.mark.parametrize("name", ["notes.md", "notes", "notes.tex"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le"])
def test_text_without_a_mark_in_the_encoding_that_was_asked_for_is_text_whatever_its_ending(
    name: str, encoding: str, tmp_path: Path
) -> None:
    text = "naïve words, 日本語\n" * 50
    path = write(tmp_path / name, text.encode(encoding))
    assert read(path, encoding=encoding) == [text]
    assert isinstance(find_reader(path), Refusal)
    assert isinstance(find_reader(path, "cp1252"), Refusal)
    picture = write(tmp_path / "a.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)) * 20)
    assert isinstance(find_reader(picture, encoding), Refusal)
