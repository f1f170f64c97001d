"""Memory: no file takes a gigabyte to read, however much a few bytes of it stand for."""

from __future__ import annotations

import gzip
import io
import lzma
import subprocess
import sys
import tracemalloc
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pytest
import zstandard
from made import docx, epub, read, write
from pyarrow import parquet

from mdlm_atat.data.readers import json_files
from mdlm_atat.data.readers.parquet import BATCH_ROWS, rows_of_columns
from mdlm_atat.data.readers.parquet_pages import pages
from mdlm_atat.data.readers.reading import Reading
from mdlm_atat.errors import UserError

MIB = 1 << 20


def repeated(unit: str, num_bytes: int, before: str = "", after: str = "") -> Callable[[Path], None]:
    """Writes a file of many times the same text, packed."""

    def make(path: Path) -> None:
        with gzip.open(path, "wb", compresslevel=1) as file:
            file.write(before.encode())
            block = unit.encode() * (MIB // len(unit.encode()))
            for _ in range(num_bytes // len(block)):
                file.write(block)
            file.write(after.encode())

    return make


def column(values: Callable[[], list[str]], **options: Any) -> Callable[[Path], None]:
    return lambda path: parquet.write_table(arrow.table({"text": values()}), path, compression="zstd", **options)


def list_of(num_values: int) -> Callable[[Path], None]:
    """A Parquet file of one list, which takes some hundred bytes."""

    def make(path: Path) -> None:
        indices = arrow.array([0], arrow.int32()).take(arrow.array(bytes(num_values), arrow.uint8()))
        values = arrow.DictionaryArray.from_arrays(indices, ["ab"])
        lists = arrow.ListArray.from_arrays(arrow.array([0, num_values], arrow.int32()), values)
        parquet.write_table(arrow.table({"text": lists}), path, store_schema=False)

    return make


def one_value_for_many_rows(path: Path) -> None:
    values = arrow.DictionaryArray.from_arrays(arrow.array([0] * 200, arrow.int32()), ["b" * (20 * MIB)])
    parquet.write_table(arrow.table({"text": values}), path, compression="zstd")


def xz_with_a_dictionary_of(num_bytes: int) -> Callable[[Path], None]:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": num_bytes}]
    return lambda path: write(path, lzma.compress(b"words " * 100, filters=filters)) and None


def zst_with_a_window_of_1_gib(path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=30)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    write(path, stream.compress(b"words " * 100) + stream.flush())


def archive(content: bytes, name: str, start: str, unit: str, times: int) -> Callable[[Path], None]:
    """The archive with another text under a name: `unit` many times, after `start`."""

    def make(path: Path) -> None:
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
            for each in old.namelist():
                new.writestr(each, start + unit * times if each == name else old.read(each))

    return make


WORD = '<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body>'
TOO_LONG = "a text is longer than can be held at once"
HUGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a.json.gz": (repeated("0.1,", 100 * MIB, "[[", "1]]"), "holds more than 4,194,304 others"),
    "b.json.gz": (repeated("{},", 100 * MIB, "[[", "{}]]"), "holds more than 4,194,304 others"),
    "a.jsonl.gz": (repeated('"ab",', 100 * MIB, "[", "1]"), "holds more than 4,194,304 others"),
    "b.jsonl.gz": (repeated(r"\u1234", 60 * MIB, '{"text": "', '"}'), ""),
    "c.jsonl.gz": (repeated("a, {", 200 * MIB, '{"text": "', '"}'), ""),
    "a.ipynb.gz": (repeated("{},", 60 * MIB, '{"cells": [', "{}]}"), "holds more than 4,194,304 others"),
    "a.csv.gz": (repeated("ab,", 60 * MIB), "line 1 has more than 4,194,304 cells"),
    "b.csv.gz": (repeated("ab,", 60 * MIB, "text\n"), ""),
    "a.html.gz": (repeated(" a=1", 32 * MIB - 4, "<p "), ""),
    "b.html.gz": (repeated("<td>", 33 * MIB), "longer than 33,554,432 characters"),
    "a.eml.gz": (repeated("A: b\n", 60 * MIB), "more than 4,194,304 lines"),
    "a.txt.gz": (repeated("\0", 1024 * MIB), "full of NUL characters"),
    "a.txt.xz": (xz_with_a_dictionary_of(1024 * MIB), "needs more than 512 MiB of memory to be unpacked"),
    "b.txt.xz": (xz_with_a_dictionary_of(64 * MIB), ""),
    "a.txt.zst": (zst_with_a_window_of_1_gib, "needs more than 512 MiB of memory to be unpacked"),
    "a.parquet": (column(lambda: ["a" * (300 * MIB)]), "which have to be unpacked as a whole"),
    "b.parquet": (column(lambda: ["a" * (260 * MIB)], use_dictionary=False), TOO_LONG),
    "c.parquet": (column(lambda: ["a" * (100 * MIB) + "😀"], use_dictionary=False), TOO_LONG),
    "d.parquet": (column(lambda: ["a" * (150 * MIB)]), ""),
    "e.parquet": (one_value_for_many_rows, ""),
    "f.parquet": (list_of(100_000_000), "which have to be unpacked as a whole"),
    "g.parquet": (
        column(lambda: ["c" * (4 * MIB) + str(n) for n in range(60)], use_dictionary=False,
               column_encoding={"text": "DELTA_BYTE_ARRAY"}),
        "",
    ),
    "a.docx": (archive(docx(), "word/document.xml", WORD, "<w:p/>", 6 * MIB), "more than 20,971,520"),
    "a.epub": (archive(epub("x"), "OEBPS/book.opf", "", "<i/>", 4 * MIB), "more than 8,388,608"),
}  # fmt: skip
PEAK = """
import sys
from pathlib import Path
from typing import Any
from mdlm_atat.data.readers.kinds import read_documents
from mdlm_atat.data.readers.reading import Reading
from mdlm_atat.data.sources import open_source
from mdlm_atat.errors import UserError
import docx, pyarrow.parquet, pypdf, zstandard
peak = lambda: int(next(x.split()[1] for x in open("/proc/self/status") if x.startswith("VmHWM")))
before, num_characters = peak(), 0
try:
    for piece in open_source(Path(sys.argv[1])):
        num_characters += len(piece.text)
        if num_characters > 300_000_000:
            break
except UserError as error:
    print(error)
print((peak() - before) // 1024)
"""


@pytest.mark.large
@pytest.mark.parametrize("name", HUGE)
def test_any_file_is_read_or_refused_in_less_than_1_gib_above_imports(name: str, tmp_path: Path) -> None:
    make, message = HUGE[name]
    make(tmp_path / name)
    done = subprocess.run([sys.executable, "-c", PEAK, tmp_path / name], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *said, peak_mib = done.stdout.splitlines()
    assert message in "".join(said)
    assert bool(said) == bool(message)
    assert int(peak_mib) < 1024


QUICK = ["a.txt.xz", "b.txt.xz", "a.txt.zst", "a.docx", "a.epub"]


@pytest.mark.parametrize("name", QUICK)
def test_what_takes_too_much_memory_is_refused_before_it_does(name: str, tmp_path: Path) -> None:
    make, message = HUGE[name]
    make(tmp_path / name)
    if not message:
        assert read(tmp_path / name) == ["words " * 100]
        return
    with pytest.raises(UserError, match=message) as refusal:
        read(tmp_path / name)
    assert str(refusal.value).startswith(str(tmp_path / name))


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", ["none", "zstd", "gzip"])
def test_the_pages_of_a_parquet_file_hold_all_values_and_all_bytes(
    version: str, compression: str, tmp_path: Path
) -> None:
    texts = [str(n) * 700 for n in range(3000)]
    table = arrow.table({"text": texts, "chat": [[text, None, text] for text in texts]})
    form: dict[str, Any] = {"compression": compression, "data_page_version": version, "write_statistics": False}
    parquet.write_table(table, tmp_path / "a.parquet", **form)
    about = parquet.read_metadata(tmp_path / "a.parquet").row_group(0)
    with (tmp_path / "a.parquet").open("rb") as file:
        for number, num_values in enumerate((3000, 9000)):
            chunk = about.column(number)
            found = list(pages(file, chunk.dictionary_page_offset, chunk.total_compressed_size))
            assert sum(page.num_values for page in found if not page.is_dictionary) == num_values
            assert [page.is_dictionary for page in found] == [True] + [False] * (len(found) - 1)
            assert 0 <= chunk.total_uncompressed_size - sum(page.unpacked for page in found) < 100 * len(found)
            assert 0 <= chunk.total_compressed_size - sum(page.packed for page in found) < 100 * len(found)


@pytest.mark.parametrize("most", [300_000, 3_000_000, 30_000_000])
def test_rows_of_parquet_are_read_fewer_at_a_time_where_pages_are_large_and_refused_where_one_is_too_large(
    most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [str(n % 10) * 10_000 for n in range(30)]
    parquet.write_table(arrow.table({"text": texts}), tmp_path / "a.parquet", use_dictionary=False, row_group_size=15)
    monkeypatch.setattr("mdlm_atat.data.readers.parquet.MOST_BYTES", most)
    taken = []
    whole = parquet.ParquetFile.iter_batches
    monkeypatch.setattr(
        parquet.ParquetFile, "iter_batches", lambda *a, **k: taken.append(k["batch_size"]) or whole(*a, **k)
    )
    if most == 300_000:
        with pytest.raises(UserError, match=r"a\.parquet: row group 0 holds pages or lists of up to 150,0\d\d bytes"):
            read(tmp_path / "a.parquet")
        return
    assert read(tmp_path / "a.parquet") == texts
    assert taken == ([3, 3] if most == 3_000_000 else [39, 39])
    assert max(taken) < BATCH_ROWS


def test_a_list_of_a_million_values_in_300_bytes_of_parquet_is_refused_where_that_is_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_of(1_000_000)(tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 1000
    assert len(next(rows_of_columns(tmp_path / "a.parquet"))[0]["text"]) == 1_000_000
    monkeypatch.setattr("mdlm_atat.data.readers.parquet.MOST_BYTES", 50_000_000)
    with pytest.raises(UserError, match="pages or lists of up to 8"):
        next(rows_of_columns(tmp_path / "a.parquet"))


def test_marks_in_the_strings_of_json_are_no_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdlm_atat.data.readers.json_files.HELD_BYTES", 128 * 1000)
    text = 'a, b: [c], {d} \\" ' * 1000
    assert read(write(tmp_path / "a.jsonl", f'{{"text": "{text}"}}')) == [text.replace("\\", "")]
    for content in (f"[{'1,' * 3000}1]", f'{{"text": "{text}", "n": [{"{}," * 3000}1]}}'):
        with pytest.raises(UserError, match="line 1: a value holds more than 2,000 others"):
            read(write(tmp_path / "a.jsonl", content))


@pytest.mark.parametrize("value", ["0.125", "1e-7", "-12345.678901234", "{}"])
def test_a_value_of_json_takes_no_more_than_the_128_bytes_that_are_counted_of_it(tmp_path: Path, value: str) -> None:
    (tmp_path / "a.json").write_text(f"[[{','.join([value] * 20_000)}]]")
    rows = json_files.json_rows(tmp_path / "a.json", Reading(), Counter())
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        row, _ = next(rows)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(row) == 20_000
    assert (after - before - (tmp_path / "a.json").stat().st_size) / 20_000 <= json_files.OBJECT_BYTES
