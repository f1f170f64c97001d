"""Which encoding is guessed of text that is not UTF-8, and what is said of text that is damaged or full of NULs."""

from __future__ import annotations

from pathlib import Path

import pytest
from made import read, write

from mdlm_atat.data import files as text_files
from mdlm_atat.data.encodings import likely_encodings
from mdlm_atat.data.readers.reading import Reading
from mdlm_atat.data.sources import Files, open_source
from mdlm_atat.errors import UserError

GUESSED = {
    "cp1250": "Litwo! Ojczyzno moja! ty jesteś jak zdrowie; Ile cię trzeba cenić, ten tylko się dowie",
    "iso8859_2": "Litwo! Ojczyzno moja! ty jesteś jak zdrowie; Ile cię trzeba cenić, ten tylko się dowie",
    "cp1254": "İstiklâl Marşı: Korkma, sönmez bu şafaklarda yüzen al sancak",
    "cp1252": "café\n",
    "cp932": "吾輩は猫である。名前はまだ無い。\n" * 20,
    "euc_jp": "吾輩は猫である。名前はまだ無い。\n" * 20,
    "gb18030": "人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心。",
    "cp949": "모든 국민은 인간으로서의 존엄과 가치를 가지며",
    "cp1255": "שלום עולם, זה טקסט\n" * 20,
    "cp1256": "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق",
    "cp1253": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι",
    "koi8_r": "Привет, мир, это текст.",
    "cp874": "สวัสดีครับ ผมชื่อสมชาย",
    "mac_roman": "“Déjà vu” – ça va\n" * 20,
    "cp1257": "Visi žmonės gimsta laisvi ir lygūs savo orumu ir teisėmis.",
}


@pytest.mark.parametrize("encoding", GUESSED)
def test_the_first_encoding_guessed_reads_the_text_of_15_languages_as_it_was_written(encoding: str) -> None:
    data = GUESSED[encoding].encode(encoding)
    first, *others = likely_encodings(data)
    assert data.decode(first) == GUESSED[encoding]
    assert len(others) <= 2
    assert first == encoding


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("It’s “fine”.", "cp1252"),
        ("25 °C ± 1", "cp1252"),
        ("ВСЕ ЗАГЛАВНЫЕ БУКВЫ", "cp1251"),
        ("привет", "cp1251"),
        ("привет", "koi8_r"),
        ("テスト", "cp932"),
        ("Árvíztűrő tükörfúrógép", "cp1250"),
        ("繁體中文測試，這是", "big5"),
    ],
)
def test_a_few_words_or_signs_are_enough(text: str, encoding: str) -> None:
    assert likely_encodings(text.encode(encoding))[0] == encoding


def test_encodings_that_read_equally_well_are_named_with_how_each_reads_at_most_3(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "a naïve café latte\n".encode("cp1252"))
    with pytest.raises(UserError, match=r"may be cp1252 \('a naïve café latte'\) or cp1250 \('a naďve.*name it, as in"):
        read(path)
    assert likely_encodings(b"na\xefve") == ["cp1252", "cp1250", "cp1257"]


@pytest.mark.parametrize("asked", [None, "ascii", "cp1253"])
@pytest.mark.parametrize("place", [10, 70_000, 200_000, 300_000, 600_000])
def test_a_bad_byte_is_in_what_the_guess_is_made_of_wherever_it_stands(
    place: int, asked: str | None, tmp_path: Path
) -> None:
    line = b"some text of a line.\n"
    bad = b"cr\xe8me \xd2 me\n"
    path = write(tmp_path / "a.txt", line * (place // len(line)) + bad + line * 100)
    with pytest.raises(UserError, match=r"(looks like|may be) cp125[02] \('.*cr[èč]me") as error:
        read(path, encoding=asked)
    assert "ascii'" not in str(error.value)
    assert read(path, encoding="cp1252")


def test_a_guess_is_made_of_what_stands_around_the_bad_byte() -> None:
    before, polish = b"some text of a line.\n" * 10_000, GUESSED["cp1250"].encode("cp1250")
    assert likely_encodings(before + polish, len(before) + polish.index(b"\x9c")) == ["cp1250"]


def test_an_encoding_that_cannot_read_the_rest_of_the_bytes_is_not_offered() -> None:
    assert likely_encodings(b"caf\xe9\n" + b"text\n" * 20_000)[0] == "cp1252"
    assert "cp1252" not in likely_encodings(b"caf\xe9\n" + b"text\n" * 20_000 + b"\x81\n")


def test_utf8_with_a_letter_of_another_encoding_is_said_to_be_damaged(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "Ünïcödé\n".encode() * 3 + b"caf\xe9\n")
    with pytest.raises(
        UserError, match=r"byte 0xE9 at offset 39 \(line 4\); the text before it is UTF-8, so it is damaged"
    ):
        read(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le"])
def test_a_marked_file_that_is_damaged_is_said_to_be_and_where(encoding: str, tmp_path: Path) -> None:
    bad = {"utf-8": b"\xff", "utf-16-le": b"\x00\xd8a\0", "utf-16-be": b"\xd8\0\0a", "utf-32-le": b"\xff\xff\xff\xff"}
    start = "\ufeff".encode(encoding) + "a line\n".encode(encoding) * 2
    for name, damage in [("a.txt", bad[encoding] + "a".encode(encoding)), ("cut.txt", "é".encode(encoding)[:1])]:
        path = write(tmp_path / name, start + damage)
        with pytest.raises(
            UserError, match=rf"damaged at offset {len(start)} \(line 3\): .* mark says {encoding}"
        ) as error:
            read(path)
        assert "encoding=" not in str(error.value)


NUL_SEPARATED = {
    "paths of even length": b"/usr/share/doc/some/file name\0" * 30,
    "paths of odd length": b"/usr/share/doc/some/file nam\0" * 30,
    "paths of all lengths": b"".join(b"/home/" + b"a" * n + b"\0" for n in range(60)),
    "JSON": b'{"text": "a\0b"}\n' * 20,
    "letters": b"a\0b\n" * 3,
    "accents": "un café\0".encode() * 20,
}


@pytest.mark.parametrize("kind", NUL_SEPARATED)
def test_texts_separated_by_nuls_are_not_utf16(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", NUL_SEPARATED[kind])
    with pytest.raises(UserError, match=r"full of NUL characters .*: they stand between texts, as find -print0"):
        read(path)
    for encoding in ("utf-16-le", "utf-16-be"):
        with pytest.raises(UserError, match=rf"is not {encoding}"):
            read(path, encoding=encoding)
    ascii_text = write(tmp_path / "b.txt", "a line of text\n" * 20)
    with pytest.raises(
        UserError, match=r"is not utf-16-le, in which it reads .*: its bytes are UTF-8: leave `encoding="
    ):
        read(ascii_text, encoding="utf-16-le")


@pytest.mark.parametrize("language", ["cp932", "gb18030", "cp949", "koi8_r", "cp874", "cp1256", "cp1252"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_of_other_scripts_is_read_when_named(language: str, encoding: str, tmp_path: Path) -> None:
    text = GUESSED[language].strip() + "\n"
    assert read(write(tmp_path / "a.txt", text.encode(encoding)), encoding=encoding) == [text]
    spaced = " ".join(text) * 5
    assert likely_encodings(spaced.encode(encoding)) == [encoding]


def test_short_lines_between_quotes_are_a_text_of_windows_all_the_same() -> None:
    for line in ("“Café” – naïve…\n", "“Né?”\n“Sì…”\n", "“No.” – “Très.”\n"):
        assert "cp1252" in likely_encodings((line * 50).encode("cp1252"))


@pytest.mark.parametrize("text", ["吾輩は猫である", "Где я?", "naïve café", "ok 🙂"])
def test_utf8_that_was_cut_inside_a_character_is_said_to_be_and_guessed_as_nothing_else(
    text: str, tmp_path: Path
) -> None:
    data = (text + " é").encode()[:-1]
    (tmp_path / "cut.txt").write_bytes(data)
    with pytest.raises(UserError, match=f"cut.txt is UTF-8 and ends inside a character, at offset {len(data) - 1}: it"):
        read(tmp_path / "cut.txt")


def test_one_byte_that_is_no_ascii_at_the_end_of_ascii_is_still_guessed(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("café".encode("cp1252"))
    with pytest.raises(UserError, match="cp1252"):
        read(tmp_path / "latin.txt")


@pytest.mark.parametrize("name", ["a.txt", "a.csv"])
@pytest.mark.parametrize("asked", ["latin-1", "ISO-8859-1"])
def test_quotes_of_windows_that_are_asked_for_as_latin_1_are_no_control_characters(
    asked: str, name: str, tmp_path: Path
) -> None:
    path = write(tmp_path / name, "text\na na\xefve caf\xe9 “quoted” – and more…\n".encode("cp1252"))
    with pytest.raises(UserError, match=rf"is not {asked}: byte 0x93 at offset 18 \(line 2\); .*cp1252"):
        read(path, encoding=asked)
    assert "“quoted” – and more…" in read(path, encoding="cp1252")[0]
    assert "naïve café" in read(write(tmp_path / name, "text\nnaïve café\n".encode("latin-1")), encoding=asked)[0]


def test_utf8_that_is_asked_for_as_another_encoding_is_refused_and_in_a_folder_read_as_utf8(tmp_path: Path) -> None:
    said = "naïve café, “quoted” – and more\n"
    (tmp_path / "in").mkdir()
    utf8 = write(tmp_path / "in" / "a.txt", said)
    write(tmp_path / "in" / "b.txt", said.encode("cp1252"))
    write(tmp_path / "in" / "c.txt", said.encode("utf-8-sig"))
    for encoding in ("cp1252", "latin-1", "gb18030"):
        with pytest.raises(UserError, match=f"a.txt is not {encoding}: its bytes are UTF-8; leave `encoding=` out"):
            read(utf8, encoding=encoding)
    assert read(utf8, encoding="utf8") == [said]
    folder = open_source(tmp_path / "in", reading=Reading(encoding="cp1252"))
    assert isinstance(folder, Files)
    assert [piece.text for piece in folder] == [said] * 3
    assert folder.left_out["files that are UTF-8, not cp1252"] == 1


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "utf-8"])
def test_every_part_of_a_folder_is_read_as_the_utf8_that_it_is_and_counted_where_another_was_asked_for(
    encoding: str, tmp_path: Path
) -> None:
    said = "naïve café, “quoted” – and more\n"
    for part in ("train", "valid", "test"):
        write(tmp_path / f"{part}.txt", said)
    folder = open_source(tmp_path, reading=Reading(encoding=encoding))
    assert isinstance(folder, Files)
    for files in (folder, folder.held_out(), folder.test()):
        assert files is not None
        assert [piece.text for piece in files] == [said]
        assert files.left_out == ({} if encoding == "utf-8" else {f"files that are UTF-8, not {encoding}": 1})


ODD = {
    "cp1252 and UTF-8": ("café\n".encode("cp1252") * 9 + "Это было давно\n".encode(), "other lines are UTF-8"),
    "CESU-8": (b"abc \xed\xa0\xbd\xed\xb8\x80 def\n" * 9, "UTF-8 but for halves of characters"),
    "NULs at the end": (b"some text\n" * 99 + bytes(600), "they are its start or end"),
    "ISO 2022": (
        "吾輩は猫である\n".encode("iso2022_jp"),
        r"looks like iso2022_jp \('吾輩は猫である'\): try `encoding='i",
    ),
}


@pytest.mark.parametrize("what", ODD)
def test_bytes_that_no_guess_fits_are_said_to_be_what_they_are(what: str, tmp_path: Path) -> None:
    content, message = ODD[what]
    with pytest.raises(UserError, match=message):
        read(write(tmp_path / "a.txt", content))


def test_a_text_of_seven_bits_is_read_by_its_encoding(tmp_path: Path) -> None:
    said = "吾輩は猫である。\n名前はまだ無い。\n"
    assert read(write(tmp_path / "a.txt", said.encode("iso2022_jp")), encoding="iso2022_jp") == [said]
    colours = "\x1b[31mred\x1b[0m for $B\n"
    assert read(write(tmp_path / "a.log", colours)) == [colours]


def test_a_file_is_looked_through_for_utf8_once_until_it_changes(tmp_path: Path, monkeypatch) -> None:
    """A preparation asks up to six times, and a file in ASCII has to be read, and unpacked, to its end."""
    opened, open_bytes = list[Path](), text_files.open_bytes
    monkeypatch.setattr(text_files, "open_bytes", lambda path: opened.append(path) or open_bytes(path))
    file = write(tmp_path / "a.txt", "only ASCII")
    assert [text_files.is_utf8_file(file) for _ in range(3)] == [False] * 3
    assert opened == [file]
    write(file, "très très très très très très tôt")
    assert text_files.is_utf8_file(file)
    with pytest.raises(UserError, match="its bytes are UTF-8"):
        read(file, encoding="cp1252")
