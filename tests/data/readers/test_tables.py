"""Tables with any delimiter, and cells that are text as it stands there."""

from __future__ import annotations

import csv
import gzip
import io
import random
from collections import Counter
from pathlib import Path

import pytest
from made import PACKINGS, read, write

from mdlm_atat.data.readers.reading import Reading
from mdlm_atat.data.readers.tables import FREE_QUOTES, table_rows
from mdlm_atat.errors import UserError

CELLS = [
    "NA",
    "null",
    "007",
    "",
    "1e5",
    "nan",
    "True",
    " spaces ",
    'a "quoted" word',
    "two\nlines",
    "a, b; c\td|e",
    "日本語",
]


def table(delimiter: str, rows: list[list[str]], line_end: str = "\n") -> str:
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter, lineterminator=line_end).writerows(rows)
    return file.getvalue()


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_cells_come_as_they_were_written_whatever_separates_them(
    delimiter: str, name: str, line_end: str, tmp_path: Path
) -> None:
    rows = [["id", "text", "label"], *([f"{i:03}", cell, "x"] for i, cell in enumerate(CELLS))]
    path = write(tmp_path / name, table(delimiter, rows, line_end).encode())
    assert read(path) == CELLS
    assert read(path, delimiter=delimiter) == CELLS
    assert read(path, template="{id}: {text}")[:2] == ["000: NA", "001: null"]


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_cell_of_300_000_characters_is_read_packed_or_not(delimiter: str, packing: str, tmp_path: Path) -> None:
    long = "word " * 60_000
    content = table(delimiter, [["text", "label"], ["short", "a"], [long, "b"], ["last", "c"]])
    assert read(write(tmp_path / f"a.csv{packing}", PACKINGS[packing](content.encode()))) == ["short", long, "last"]


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("excel.csv", "\ufefftext;label\r\nan awful, bad film;neg\r\nnice;pos\r\n", ["an awful, bad film", "nice"]),
        ("one.csv", "text\nfirst\nsecond\n", ["first", "second"]),
        ("prose.csv", "text;n\nWell, yes, no, so, on;1\nOh, a, b;2\n", ["Well, yes, no, so, on", "Oh, a, b"]),
        ("glue.tsv", 'text\tlabel\n"Hello," he said\t1\nan open " mark\t0\n', ['"Hello," he said', 'an open " mark']),
        ("quoted.tsv", 'text\tlabel\n"two\nlines"\t1\n"a ""b"" c"\t0\n', ["two\nlines", 'a "b" c']),
        ("mac.csv", "text,n\rone,1\rtwo,2\r", ["one", "two"]),
        ("gaps.csv", "\ntext,n\n\none,1\n\n", ["one"]),
        ("semicolon.tsv", "text;n\none;1\n", ["one"]),
    ],
)  # fmt: skip
def test_the_form_of_a_table_is_told_from_its_first_lines(
    name: str, content: str, texts: list[str], tmp_path: Path
) -> None:
    assert read(write(tmp_path / name, content)) == texts


STRAY = {
    "two that are far apart": {10: '"Hello film\tpos', 30: 'went film"\tneg'},
    "one": {10: '"Hello she said\tpos'},
    "one far in": {900: '"Hello she said\tpos'},
    "two, far in": {900: '"Hello\tpos', 901: 'she said"\tneg'},
    "a quoted word": {900: '"Hello" she said\tpos'},
    "in the last column": {10: 'a film\t"pos', 12: 'a film\tneg"'},
    "in the last line": {999: '"a\tneg'},
}


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.tsv.gz"])
@pytest.mark.parametrize("kind", STRAY)
def test_a_stray_quote_in_a_table_of_tabs_is_text_and_merges_no_rows(kind: str, name: str, tmp_path: Path) -> None:
    rows = [STRAY[kind].get(n, f"film {n}\tpos") for n in range(1000)]
    content = "\n".join(["text\tlabel", *rows, ""]).encode()
    path = write(tmp_path / name, gzip.compress(content, 1) if name.endswith(".gz") else content)
    left_out = Counter[str]()
    found = list(table_rows(path, Reading(), left_out=left_out))
    assert [f"{row['text']}\t{row['label']}" for row, _ in found] == rows
    assert left_out == {FREE_QUOTES: 1}


def test_quotes_of_a_table_of_tabs_enclose_cells_where_lines_alone_are_no_rows(tmp_path: Path) -> None:
    cells = ["two\nlines", "a\ttab", 'a "word"', "plain", "more\nthan\ntwo\nlines"]
    path = write(tmp_path / "a.tsv", table("\t", [["text", "n"], *([cell, "1"] for cell in cells)]).encode())
    left_out = Counter[str]()
    assert [row["text"] for row, _ in table_rows(path, Reading(), left_out=left_out)] == cells
    assert not +left_out
    merged = path.read_text() + '"a\t1\nb\t2\nc\t3\nd"\t4\n'
    with pytest.raises(UserError, match=r"line 11 opens a quote that encloses 4 lines, each of which is a row"):
        read(write(tmp_path / "b.tsv", merged))
    with pytest.raises(UserError, match=r"line 11 cannot be read: a quote that opens a cell in this row is not closed"):
        read(write(tmp_path / "c.tsv", path.read_text() + '"a\t1\nb\t2\n'))


def test_another_delimiter_is_given(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text~n\none, two~1\n")
    assert read(path, delimiter="~") == ["one, two"]
    with pytest.raises(UserError, match="`delimiter='::'`: expected one character"):
        read(path, delimiter="::")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,n\na,1\nb,2,3\n", r"line 3 has 3 cells, expected the 2 columns text, n; .* by ','.*delimiter="),
        ("review,n\nsome words here,1\n", r"line 2 has no column 'text'; its columns are review, n: .*='review'`"),
        ('text,n\n"a,1\nb,2\n', r"line 2 cannot be read: a quote that opens a cell in this row is not closed"),
        ('text,n\na,1\n\n"a\nb",1\n"c,2\n' + "d,3\n" * 99, r"line 6 cannot be read: a quote that opens a cell"),
        ('text,n\na,1\n"b,2\nc,3\nd"\n', r"line 3 has 1 cell, .*quotes enclose line ends in it, to line 5"),
        ('text,n\n"a"b,1\n', r"line 2 cannot be read: ',' expected after"),
        ("text,text\na,b\n", r"line 1 has 2 columns 'text': give them names of their own"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_read_is_named_with_its_line(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"a\.csv, {message}"):
        read(write(tmp_path / "a.csv", content))


def test_a_cell_longer_than_can_be_held_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdlm_atat.data.readers.tables.LONGEST_LINE", 1000)
    path = write(tmp_path / "a.csv", "text\n" + '"' + "line\n" * 300)
    with pytest.raises(UserError, match=r"line 2 .* is not closed, or the cell is longer than can be held"):
        read(path)
    with pytest.raises(UserError, match="line 2 is longer than 1,000 characters"):
        read(write(tmp_path / "a.csv", "text\n" + "x" * 1200))


@pytest.mark.parametrize("seed", range(20))
def test_a_random_table_of_any_form_gives_back_its_cells(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    cells = ["".join(draw.choices("ab ,;\t|\"\n'é", k=draw.randrange(1, 30))) for _ in range(30)]
    rows = [["n", "text"], *([str(n), cell] for n, cell in enumerate(cells))]
    path = write(tmp_path / "a.csv", table(draw.choice(",;\t|"), rows).encode())
    assert read(path) == cells


@pytest.mark.parametrize("delimiter", [",", ";", "|"])
def test_stray_quotes_of_a_table_whose_lines_are_all_rows_are_text(delimiter: str, tmp_path: Path) -> None:
    texts = [f"words {n}" for n in range(10)]
    texts[3], texts[4] = '"so it begins', 'and ends" here'
    texts[7], texts[8] = '"one', '"two'
    path = write(tmp_path / "a.csv", "".join(f"{text}{delimiter}{n}\n" for n, text in enumerate(["text", *texts])))
    left_out = Counter[str]()
    assert read(path, left_out) == texts
    assert left_out[FREE_QUOTES] == 1


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("place", [3, 4, 39])
def test_one_quote_that_is_not_closed_does_not_make_text_of_those_that_enclose_cells(
    place: int, delimiter: str, tmp_path: Path
) -> None:
    rows = [f'"words {n}"{delimiter}{n}' for n in range(40)]
    rows[place] = rows[place].replace(f'"{delimiter}', delimiter)
    path = write(tmp_path / "a.csv", "\n".join([f"text{delimiter}n", *rows, ""]))
    with pytest.raises(UserError, match=rf"a\.csv, line {place + 2} cannot be read"):
        read(path)


@pytest.mark.parametrize(
    ("quoted", "others"),
    [
        (3, ['"Great" film']),
        (30, ['"Great" film', '"A speech that goes on']),
        (3, ['"A speech that goes on']),
        (12, ['"A speech that goes on'] * 2),
        (30, ["plain"] * 8 + ['"A speech that goes on']),
    ],
)
def test_quotes_are_text_where_a_cell_goes_on_behind_them_or_many_are_open_or_many_rows_have_none(
    quoted: int, others: list[str], tmp_path: Path
) -> None:
    texts = [*(f'"Saying {n}."' for n in range(quoted)), *others]
    left_out = Counter[str]()
    path = write(tmp_path / "a.tsv", "".join(f"{text}\t{n}\n" for n, text in enumerate(["text", *texts])))
    assert read(path, left_out=left_out) == texts
    assert left_out[FREE_QUOTES] == 1


def test_a_quote_that_is_not_closed_is_a_mistake_among_cells_with_quotes_of_their_own(tmp_path: Path) -> None:
    rows = [f'"""Saying"" {n}"\t{n}' for n in range(20)]
    path = write(tmp_path / "a.tsv", "\n".join(["text\tn", *rows, '"and on\t20', ""]))
    with pytest.raises(UserError, match=r"a\.tsv, line 22 cannot be read"):
        read(path)


def test_a_cell_of_several_lines_stays_one_where_any_other_line_has_another_number_of_commas(tmp_path: Path) -> None:
    rows = [("text", "label"), ('"Dear all,\nyou"', "1"), *((f"plain {n}", "0") for n in range(20)), ('"a, b"', "1")]
    path = write(tmp_path / "a.csv", "".join(f"{text},{label}\n" for text, label in rows))
    assert read(path)[0] == "Dear all,\nyou"
    assert read(path)[-1] == "a, b"
    few = write(tmp_path / "few.csv", 'text,label\n"Dear all,\nyou",1\n')
    assert read(few) == ["Dear all,\nyou"]


def test_the_line_by_which_excel_is_told_the_separator_is_no_header(tmp_path: Path) -> None:
    left_out = Counter[str]()
    content = "sep=;\r\ntext;label;more\r\n" + "".join(f"row {i}, a;pos;1\r\n" for i in range(9))
    assert read(write(tmp_path / "a.csv", content), left_out) == [f"row {i}, a" for i in range(9)]
    assert left_out["lines that say what separates cells (sep=)"] == 1
    assert read(write(tmp_path / "b.csv", "SEP=^\ntext^n\na,b^1\n")) == ["a,b"]
    with pytest.raises(UserError, match=r"b\.csv, line 4 has 1 cell, expected"):
        read(write(tmp_path / "b.csv", "sep=^\ntext^n\na,b^1\na\n"))


@pytest.mark.parametrize("num_rows", [2, 30])
def test_quotes_that_a_backslash_marks_in_cells_are_quotes_and_other_backslashes_stay(
    num_rows: int, tmp_path: Path
) -> None:
    row = r'"he said \"hi, you\" in C:\new \\",pos'
    content = "text,label\n" + "".join(f"{row}\n" for _ in range(num_rows))
    assert read(write(tmp_path / "a.csv", content)) == ['he said "hi, you" in C:\\new \\'] * num_rows


def test_a_backslash_before_the_quote_that_closes_a_cell_is_text(tmp_path: Path) -> None:
    content = "text,label\n" + '"in C:\\new\\",pos\n' * 20
    assert read(write(tmp_path / "a.csv", content)) == ["in C:\\new\\"] * 20


def test_a_table_without_a_header_is_told_to_have_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="if the first line is no header, write one above it"):
        read(write(tmp_path / "a.csv", "a long text of news,3\nanother text,4\n"))


@pytest.mark.parametrize("name", ["Text", " text "])
def test_a_column_that_is_called_nearly_so_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"set `column='{name}'`"):
        read(write(tmp_path / "a.csv", f"body,{name}\nsome longer text,row\n"))
