"""Every character of a text that goes in is accounted for: it is in the tokens, or counted as left out or changed."""

from __future__ import annotations

import codecs
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from mdlm_atat.data.corpus import Corpus
from mdlm_atat.data.files import CHANGED_RETURNS, MARK, RETURNS
from mdlm_atat.data.prepare import prepare
from mdlm_atat.data.readers.plain import BLANKS, LINE_ENDS
from mdlm_atat.data.readers.reading import Reading
from mdlm_atat.data.sources import Files, open_source

DROPPED = (MARK, RETURNS, LINE_ENDS, BLANKS)
"""Characters that are counted and not in the tokens."""

SCRIPTS = {
    "English": "The cat sat on the mat.\n",
    "German": "Fünf süße Öfen, groß & weiß: „ja“.\n",
    "Vietnamese": "Tiếng Việt có dấu: ặ ế ộ ữ.\n",
    "decomposed": "Cafe\u0301 n\u0303 A\u030a is not Caf\u00e9 \u00f1 \u00c5.\n",
    "Greek": "Ἐν ἀρχῇ ἦν ὁ λόγος.\n",
    "Russian": "Съешь ещё этих мягких французских булок.\n",
    "Arabic": "بِسْمِ ٱللَّهِ ٱلرَّحْمَٰنِ ٱلرَّحِيمِ\n",
    "Hebrew": "בְּרֵאשִׁית בָּרָא אֱלֹהִים\n",
    "both ways": "He said \u2067שלום 123\u2069 and \u202bمرحبا\u202c left.\n",
    "Hindi": "सभी मनुष्यों को गौरव और अधिकार\n",
    "Tamil": "அகர முதல எழுத்தெல்லாம்\n",
    "Thai": "มนุษย์ทั้งหลายเกิดมามีอิสระ\n",
    "Khmer": "មនុស្សទាំងអស់\n",
    "Tibetan": "བོད་ཀྱི་སྐད་ཡིག\n",
    "Mongolian, downwards": "ᠮᠣᠩᠭᠣᠯ ᠪᠢᠴᠢᠭ\n",
    "Chinese": "天地玄黄，宇宙洪荒。\n",
    "Japanese": "吾輩は猫である。ｶﾀｶﾅ①\n",
    "Korean": "모든 인간은 태어날 때부터 ㄱㄴ\n",
    "Korean, decomposed": "\u1106\u1169\u1103\u1173\u11ab\n",
    "Ethiopic": "ሰላም ልዑል\n",
    "Cherokee": "ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ\n",
    "Gothic, beyond 16 bits": "𐌰𐍄𐍄𐌰 𐌿𐌽𐍃𐌰𐍂\n",
    "mathematics": "∀ε>0 ∃δ: |x−x₀|<δ ⇒ 𝒇(𝐱)≈ℵ₀\n",
    "ligatures": "oﬃce ﬁt ﬂow ﬅ ǆ\n",
    "emoji": "👍🏽 👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇫🇷 1️⃣ ❤︎❤️ 🧑🏿‍🚀\n",
    "zalgo": "Z\u0351\u036b\u0343a\u0321\u034al\u0357g\u0360o\n",
    "tabs": "a\tb\t\tc\n\td\n",
    "spaces of all kinds": "a\u00a0b\u2003c\u200bd\u3000e\ufeff f\n",
    "line separators": "a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg\n",
    "control characters": "a\x01b\x08c\x1b[31md\x7fe\x9bf\n",
    "private and unassigned": "\ue000\U000f0000\ufffe\uffff\U0010ffff\ufffd\n",
    "markup": "<p>a &amp; b</p> [MASK] <|endoftext|> </s> [UNK]\n",
    "CRLF": "one\r\ntwo\r\n\r\nthree\r\n",
    "CR": "one\rtwo\r\rthree\r",
    "mixed line ends": "one\r\ntwo\nthree\rfour\r\r\nfive\n\rsix",
    "empty lines": "\n\n\na\n\n \n\t\n\nb\n\n",
    "leading and trailing space": "  \n a b  \n  ",
    "one character": "a",
    "one line end": "\n",
    "one character of four bytes": "😀",
    "no line end": "no line end",
    "marked": "\ufeffmarked\n",
    "marked twice": "\ufeff\ufefftwice\r\n",
    "only a mark": "\ufeffx",
}


def split_text(corpus: Corpus, split: str = "valid") -> str:
    """The text of a split of bytes, documents without anything between them."""
    ids = np.fromfile(corpus.folder / f"{split}.bin", corpus.manifest.dtype).astype(np.int64)
    return corpus.tokenizer.decode(ids, eos_text="")


def number_dropped(corpus: Corpus) -> int:
    changed = (corpus.manifest.accounts or {})["changed"]
    return sum(changed.get("source", {}).get(reason, 0) for reason in DROPPED)


def as_read(text: str) -> str:
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


@pytest.mark.parametrize("documents", ["file", "line"])
@pytest.mark.parametrize("text", SCRIPTS.values(), ids=SCRIPTS)
def test_characters_in_are_characters_accounted_for(
    text: str, documents: Literal["file", "line"], tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_bytes(text.encode())
    source = open_source(tmp_path / "a.txt", reading=Reading(documents=documents))
    assert isinstance(source, Files)
    read = "".join(piece.text for piece in source)
    expected = as_read(text)
    if documents == "line":
        expected = "".join(line for line in expected.split("\n") if line.strip())
    assert read == expected
    assert len(text) == len(read) + sum(source.left_out[reason] for reason in DROPPED)
    assert source.left_out[CHANGED_RETURNS] == text.replace("\r\n", "\n").count("\r")


def test_the_ends_of_lines_of_millions_of_characters_are_counted_too(tmp_path: Path) -> None:
    lines = ["cat " * 500_000, "b", "   ", "dog " * 400_000, ""]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    source = open_source(tmp_path / "a.txt", reading=Reading(documents="line"))
    assert isinstance(source, Files)
    assert sum(len(piece.text) for piece in source) == 3_600_001
    assert +source.left_out == {LINE_ENDS: 4, BLANKS: 3}


def test_binary_junk_that_decodes_comes_through_in_a_split_of_two(tmp_path: Path) -> None:
    rng = random.Random(0)
    junk = "".join(chr(rng.choice([rng.randrange(1, 128), rng.randrange(128, 0xD800)])) for _ in range(30_000))
    (tmp_path / "junk").write_bytes(junk.encode())
    made = prepare(tmp_path / "junk", tokenizer="byte", out=tmp_path / "out", progress=False)
    texts = [split_text(made, name) for name in ("train", "valid")]
    assert "".join(texts) == junk.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    assert sum(map(len, texts)) + number_dropped(made) == len(junk)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "cp1252", "utf-16-be"])
def test_other_encodings_lose_nothing(encoding: str, tmp_path: Path) -> None:
    text = "Fünf “süße” Öfen – naïve\r\n" * 50
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    has_mark = encoding in ("utf-8-sig", "utf-16", "utf-32")
    made = prepare(
        tmp_path / "a.txt",
        tokenizer="byte",
        encoding=None if has_mark else encoding,
        out=tmp_path / "out",
        whole=True,
        progress=False,
    )
    assert split_text(made) == text.replace("\r\n", "\n")
    assert len(text) + has_mark == made.manifest.splits["valid"].characters + number_dropped(made)


def test_a_folder_of_all_of_them_adds_up_over_both_splits_and_says_what_it_changed(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for number, text in enumerate(SCRIPTS.values()):
        (tmp_path / f"set/{number:02}.txt").write_bytes(text.encode())
    made = prepare(tmp_path / "set", tokenizer="byte", out=tmp_path / "out", progress=False)
    splits = made.manifest.splits.values()
    assert sum(split.documents for split in splits) == len(SCRIPTS)
    found = "".join(split_text(made, name) for name in ("train", "valid"))
    assert Counter(found) == Counter("".join(map(as_read, SCRIPTS.values())))
    assert all(as_read(text) in found for text in SCRIPTS.values())
    assert sum(split.characters for split in splits) + number_dropped(made) == sum(map(len, SCRIPTS.values()))
    assert (made.manifest.accounts or {})["changed"]["source"][MARK] == 3


def test_a_byte_order_mark_in_the_middle_of_a_text_is_a_character_like_others(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(codecs.BOM_UTF8 + b"a" + codecs.BOM_UTF8 + b"b")
    made = prepare(tmp_path / "a.txt", tokenizer="byte", out=tmp_path / "out", whole=True, progress=False)
    assert split_text(made) == "a\ufeffb"


@pytest.mark.large
@pytest.mark.parametrize("documents", ["file", "line"])
def test_a_line_of_200_mb_is_prepared_in_less_than_1_gib_and_all_of_it_is_there(documents: str, tmp_path: Path) -> None:
    words = ["the", "cat", "naïve", "猫", "😀"]
    block = " ".join(random.Random(0).choices(words, k=200_000))
    with (tmp_path / "a.txt").open("wb") as file:
        while file.tell() < 200_000_000:
            file.write(block.encode() + b" ")
        num_bytes = file.tell()
    code = f"""
from mdlm_atat.data.prepare import prepare
peak = lambda: int(next(x.split()[1] for x in open("/proc/self/status") if x.startswith("VmHWM")))
before = peak()
made = prepare({str(tmp_path / "a.txt")!r}, tokenizer="byte", out={str(tmp_path / "out")!r}, whole=True,
               documents={documents!r}, progress=False)
print(made.manifest.splits["valid"].bytes, (peak() - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    read_bytes, peak_mib = map(int, done.stdout.split())
    assert read_bytes == num_bytes
    assert peak_mib < 1024
