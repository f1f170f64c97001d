"""JSON, JSONL and Parquet: which part of a row is its text."""

from __future__ import annotations

import json
import re
import tracemalloc
from collections import Counter
from datetime import date, datetime
from datetime import time as clock
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pytest
from made import PACKINGS, read, write
from pyarrow import parquet

from mdlm_atat.data.readers.kinds import read_documents
from mdlm_atat.data.readers.reading import Reading
from mdlm_atat.errors import UserError

TEXTS = ["one", "two\nlines", "", "日本語 🙂", "NA"]
CHAT = [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Yes.\nSpeaking."}]
SHARED = [{"from": "human", "value": "Hello?"}, {"from": "gpt", "value": "Yes.\nSpeaking."}]


def json_file(path: Path, rows: list[Any]) -> Path:
    """The rows as the ending says: an array, lines, or Parquet."""
    match path.suffix:
        case ".json":
            return write(path, json.dumps(rows, indent=1))
        case ".jsonl":
            return write(path, "".join(json.dumps(row) + "\n" for row in rows))
        case _:
            parquet.write_table(arrow.Table.from_pylist(rows), path)
            return path


KINDS = ["a.json", "a.jsonl", "a.parquet"]


@pytest.mark.parametrize("name", KINDS)
def test_a_column_an_inner_one_a_template_and_a_chat_are_the_text(name: str, tmp_path: Path) -> None:
    rows = [
        {"n": n, "text": text, "meta": {"text": text, "deep": {"er": text}}, "price": 0.5, "ok": True, "turns": CHAT}
        for n, text in enumerate(TEXTS)
    ]
    path = json_file(tmp_path / name, rows)
    assert read(path) == TEXTS
    assert read(path, column="meta.text") == read(path, column="meta.deep.er") == TEXTS
    assert read(path, template="{n}. {meta.text} {{{price}}} {ok}")[0] in ("0. one {0.5} true",)
    assert read(path, column="turns")[0] == "User: Hello?\nAssistant: Yes.\nSpeaking."
    assert read(path, template="{n}\n{turns}")[1] == "1\nUser: Hello?\nAssistant: Yes.\nSpeaking."


@pytest.mark.parametrize("name", KINDS)
def test_nulls_are_skipped_and_counted_or_refused(name: str, tmp_path: Path) -> None:
    path = json_file(tmp_path / name, [{"text": "a", "n": 1}, {"text": None, "n": 2}, {"text": "b", "n": None}])
    left_out = Counter[str]()
    assert read(path, left_out) == ["a", "b"]
    assert left_out == {"rows without text (null)": 1}
    with pytest.raises(UserError, match=r"(line|row) 2: a column 'text' is empty \(null\), expected a text"):
        read(path, nulls="refuse")
    assert read(path, template="{n}:{text}") == ["1:a", "2:", ":b"]


@pytest.mark.parametrize("name", KINDS)
def test_a_row_without_the_column_says_which_it_has_and_which_looks_like_text(name: str, tmp_path: Path) -> None:
    path = json_file(tmp_path / name, [{"id": "a1", "review": "a good film, all in all", "label": "pos"}])
    with pytest.raises(UserError, match=r"no column 'text'; its columns are id, review, label: set `column='review'`"):
        read(path)
    path = json_file(tmp_path / name, [{"body": "short"}])
    with pytest.raises(UserError, match=r"its columns are body: set `column=` to the one that holds the text$"):
        read(path)
    path = json_file(tmp_path / name, [{"id": "a1", "messages": CHAT}])
    with pytest.raises(UserError, match="set `column='messages'`, or several by `template="):
        read(path)
    path = json_file(tmp_path / name, [{"meta": {"text": "some words"}, "id": 3}])
    with pytest.raises(UserError, match=r"set `column='meta\.text'`"):
        read(path)
    with pytest.raises(UserError, match=r"no column 'meta\.body'"):
        read(path, column="meta.body")


@pytest.mark.parametrize(
    ("value", "what"), [(3, "a number"), (True, "true or false"), ([1, 2], "a list"), ({"a": 1}, "an object")]
)
@pytest.mark.parametrize("name", KINDS)
def test_a_column_that_holds_no_text_is_refused(name: str, value: Any, what: str, tmp_path: Path) -> None:
    if name == "a.parquet" and isinstance(value, int):
        return  # Arrow casts it
    with pytest.raises(UserError, match=f"column 'text' holds {what}, expected a text"):
        read(json_file(tmp_path / name, [{"text": value}]))


@pytest.mark.parametrize(
    ("turns", "text"),
    [
        (CHAT, "User: Hello?\nAssistant: Yes.\nSpeaking."),
        (SHARED, "User: Hello?\nAssistant: Yes.\nSpeaking."),
        ([{"role": "system", "content": "Be brief."}, {"role": "tool", "content": None}], "System: Be brief.\nTool: "),
        ([{"role": "user", "content": [{"type": "text", "text": "Look"}, {"type": "image"}]}], "User: Look"),
    ],
)
def test_a_chat_is_a_line_a_message_that_begins_with_who_speaks(turns: Any, text: str, tmp_path: Path) -> None:
    assert read(json_file(tmp_path / "a.jsonl", [{"messages": turns}]), column="messages") == [text]


CALL = {"function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    ("turn", "said", "counts"),
    [
        ({"content": None, "tool_calls": [CALL, CALL]}, "", {"tool calls of chats": 2, "null": 1}),
        ({"tool_calls": [CALL]}, "", {"tool calls of chats": 1, "null": 1}),
        ({"content": "Wait.", "tool_calls": [CALL]}, "Wait.", {"tool calls of chats": 1}),
        ({"content": "Wait.", "tool_calls": None}, "Wait.", {}),
        ({"content": None, "function_call": CALL}, "", {"tool calls of chats": 1, "null": 1}),
        ({"content": None}, "", {"null": 1}),
        ({"content": "So.", "reasoning_content": "If"}, "So.", {"'reasoning_content' of chat messages": 1}),
        ({"content": "So.", "thinking": "If", "refusal": None}, "So.", {"'thinking' of chat messages": 1}),
        ({"content": None, "refusal": "No."}, "", {"'refusal' of chat messages": 1, "null": 1}),
        ({"content": ["a", "b"]}, "ab", {}),
        ({"content": [{"type": "text", "text": "a"}, {"type": "image_url"}, {"type": "image_url"}]}, "a", {"parts": 2}),
        ({"content": [{"type": "image_url", "image_url": "x"}]}, "", {"parts": 1}),
    ],
)
def test_what_is_no_text_in_a_chat_is_counted(
    turn: Any, said: str, counts: dict[str, int], name: str, tmp_path: Path
) -> None:
    names = {"null": "messages of chats without content (null)", "parts": "parts of chat messages that are no text"}
    left_out = Counter[str]()
    path = json_file(tmp_path / name, [{"turns": [{"role": "assistant", **turn}]}])
    assert read(path, left_out, column="turns") == [f"Assistant: {said}"]
    assert left_out == {names.get(what, what): number for what, number in counts.items()}
    assert read(path, template="{turns}!") == [f"Assistant: {said}!"]


@pytest.mark.parametrize("name", KINDS)
def test_a_chat_without_messages_is_counted_or_refused(name: str, tmp_path: Path) -> None:
    path = json_file(tmp_path / name, [{"turns": [], "n": 1}, {"turns": CHAT, "n": 2}])
    left_out = Counter[str]()
    assert len(read(path, left_out, column="turns")) == 1
    assert left_out == {"chats without messages": 1}
    with pytest.raises(UserError, match=r"a column 'turns' is empty \(a list without messages\), expected a text"):
        read(path, column="turns", nulls="refuse")
    assert read(path, template="{n}{turns}")[0] == "1"


def test_a_list_that_is_no_chat_says_what_a_chat_is(tmp_path: Path) -> None:
    path = json_file(tmp_path / "a.jsonl", [{"turns": ["a", "b"]}])
    with pytest.raises(UserError, match="holds a list, expected a text or messages, each with `role` and `content`"):
        read(path, column="turns")


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_packed_json_is_read(name: str, packing: str, tmp_path: Path) -> None:
    content = json_file(tmp_path / name, [{"text": text} for text in TEXTS]).read_bytes()
    assert read(write(tmp_path / f"{name}{packing}", PACKINGS[packing](content))) == TEXTS


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ('{"text": "one object"}', ["one object"]),
        ('{"text": "lines"}\n{"text": "of JSON"}\n', ["lines", "of JSON"]),
        ('[{"text": "a"},\n\n {"text": "b"}]', ["a", "b"]),
        ('["texts", "alone"]', ["texts", "alone"]),
        ("[]", []),
        ("  \n", []),
        ("", []),
    ],
)
def test_a_json_file_is_an_array_or_an_object_or_several(content: str, texts: list[str], tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.json", content)) == texts


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"text": "a"}, {"text": "b"', r"is not JSON: .* \(character 29\)"),
        ('[{"text": "a"} {"text": "b"}]', "is not JSON"),
        ("[1, 2]", "row 1 is a number, expected an object with a column 'text'"),
        ("3", "row 1 is a number"),
        ("[{}]", "row 1 has no column 'text', nor any other: remove the row"),
        ("[" * 5000, "is not JSON"),
        ('[{"text": "\\ud800"}]', "half of a character"),
        ("nonsense", "is not JSON"),
        ('[{"text": "a"}] {"text": "b"}', "there is more after the array"),
    ],
)
def test_a_json_file_that_is_none_is_named(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"a\.json.*{message}"):
        read(write(tmp_path / "a.json", content))


@pytest.mark.parametrize(
    "number", ["1e999999999999999999999", "-1.5E-99999999999999999999", "0.50", "-0", "9" * 400, "-" + "9" * 10_000]
)
def test_a_number_of_any_size_beside_the_text_is_no_obstacle(number: str, tmp_path: Path) -> None:
    for name in ("a.json", "a.jsonl"):
        assert read(write(tmp_path / name, f'{{"text": "x", "n": {number}}}')) == ["x"]
    path = write(tmp_path / "a.jsonl", '{"text": "x", "n": 0.50}')
    assert read(path, template="{n} {text}") == ["0.50 x"]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize(
    ("row", "settings", "repeated"),
    [
        ('{"text": "a", "n": 1, "text": "b"}', {}, "text"),
        ('{"text": "a", "n": 1, "text": "a"}', {"template": "{n} {text}"}, "text"),
        ('{"meta": {"text": "a", "text": "b"}}', {"column": "meta.text"}, "text"),
        ('{"meta": {"text": "a"}, "meta": {}}', {"column": "meta.text"}, "meta"),
        ('{"a": [{"role": "user", "content": "a", "content": "b"}]}', {"column": "a"}, "content"),
        ('{"a": [{"from": "human", "from": "gpt", "value": "b"}]}', {"column": "a"}, "from"),
    ],
)
def test_a_name_that_stands_in_a_row_twice_is_refused_where_its_text_is_asked_for(
    row: str, settings: Any, repeated: str, name: str, tmp_path: Path
) -> None:
    with pytest.raises(
        UserError, match=rf"(line|row) 1(: column 'a')? has more than one '{repeated}': give them names of their own"
    ):
        read(write(tmp_path / name, row), **settings)


def test_a_name_that_stands_in_a_row_twice_is_no_obstacle_beside_the_text(tmp_path: Path) -> None:
    row = '{"n": 1, "n": 2, "text": "a", "meta": {"text": "x", "text": "y"}}'
    assert read(write(tmp_path / "a.jsonl", row)) == ["a"]


def test_lines_of_jsonl_end_at_line_feeds_alone(tmp_path: Path) -> None:
    text = "a\u2028b\u2029c\x85d\x0be"
    path = write(tmp_path / "a.jsonl", json.dumps({"text": text}, ensure_ascii=False) + "\r\n" + '{"text":\r"x"}')
    assert read(path) == [text, "x"]


def of_type(kind: arrow.DataType, texts: list[str | None]) -> arrow.Array:
    if arrow.types.is_dictionary(kind):
        return arrow.array(texts).dictionary_encode()
    return arrow.array(texts, arrow.string()).cast(kind)


STRINGS = arrow.string(), arrow.large_string(), arrow.string_view(), arrow.binary()
TYPES = [*STRINGS, arrow.dictionary(arrow.int32(), arrow.string())]


@pytest.mark.parametrize("kind", TYPES, ids=str)
@pytest.mark.parametrize("packing", ["", ".gz"])
def test_every_type_of_strings_in_parquet_is_text(kind: arrow.DataType, packing: str, tmp_path: Path) -> None:
    column = of_type(kind, ["one", None, "日本語", ""])
    inner = arrow.StructArray.from_arrays([column], ["text"])
    parquet.write_table(arrow.table({"n": [1, 2, 3, 4], "text": column, "meta": inner}), tmp_path / "a.parquet")
    content = PACKINGS[packing]((tmp_path / "a.parquet").read_bytes())
    path = write(tmp_path / f"b.parquet{packing}", content)
    left_out = Counter[str]()
    assert read(path, left_out) == read(path, column="meta.text") == ["one", "日本語", ""]
    assert left_out.total() == 1
    assert read(path, template="{text}!") == ["one!", "日本語!", "!"]


VALUES = {
    "int64": ([1, -(2**40)], ["1", str(-(2**40))]),
    "float64": ([0.5, 1e20, float("nan")], ["0.5", "1e+20", "nan"]),
    "bool": ([True, False], ["true", "false"]),
    "decimal128(5, 2)": ([Decimal("1.50")], ["1.50"]),
    "date32": ([date(2020, 1, 2)], ["2020-01-02"]),
    "timestamp": ([datetime(2020, 1, 2, 3)], ["2020-01-02 03:00:00"]),
    "time": ([clock(1, 2)], ["01:02:00"]),
    "dictionary": ([7, 7], ["7", "7"]),
}


@pytest.mark.parametrize("kind", VALUES)
def test_what_arrow_casts_to_strings_is_text_in_parquet(kind: str, tmp_path: Path) -> None:
    values, texts = VALUES[kind]
    column = arrow.array([*values, None])
    column = column.dictionary_encode() if kind == "dictionary" else column
    inner = arrow.StructArray.from_arrays([column, arrow.array(["x"] * len(column))], ["n", "s"])
    nested = arrow.StructArray.from_arrays([inner, column], ["deep", "n"], mask=arrow.array([False] * len(column)))
    table = arrow.table({"text": column, "a.b": column, "meta": nested})
    parquet.write_table(table, tmp_path / "a.parquet", coerce_timestamps="ms")
    for name in ("text", "a.b", "meta.n", "meta.deep.n"):
        left_out = Counter[str]()
        assert [re.sub(r"\.0+$", "", text) for text in read(tmp_path / "a.parquet", left_out, column=name)] == texts
        assert left_out == {"rows without text (null)": 1}


def test_bytes_in_parquet_that_are_no_text_are_refused(tmp_path: Path) -> None:
    parquet.write_table(arrow.table({"text": [b"\xff\xfe"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="column 'text' holds bytes that are not UTF-8"):
        read(tmp_path / "a.parquet")


def test_a_string_in_parquet_that_is_not_utf8_names_the_file(tmp_path: Path) -> None:
    parquet.write_table(arrow.table({"text": ["some words"]}), tmp_path / "a.parquet", compression="none")
    content = (tmp_path / "a.parquet").read_bytes().replace(b"some words", b"some w\xf7rds")
    with pytest.raises(UserError, match=r"a\.parquet is damaged, or not UTF-8, after 0 rows"):
        read(write(tmp_path / "b.a.parquet", content))


@pytest.mark.parametrize("template", ["{", "a}", "{a!r}", "{a:>3}", "{}", "no columns", "{a} {"])
def test_a_template_that_is_none_is_refused(template: str) -> None:
    with pytest.raises(UserError, match="`template="):
        Reading(template=template)


def test_settings_that_are_not_asked_for_are_not_part_of_the_identity() -> None:
    assert Reading().identity() == {"column": "text", "documents": "file"}
    assert Reading(encoding="cp1252").identity() == {"column": "text", "documents": "file", "encoding": "cp1252"}


@pytest.mark.parametrize("read_bytes", [1, 2, 3, 7, 50])
def test_a_json_file_is_the_same_however_much_is_read_at_a_time(
    read_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mdlm_atat.data.files.READ_BYTES", read_bytes)
    rows = [{"text": f'"{n}" \\ 🙂 ' * n, "x": [-1.5e-3, None, float("inf"), {"y": True}]} for n in range(8)]
    expected = [row["text"] for row in rows]
    for content in (json.dumps(rows), json.dumps(rows, indent=2), "\n".join(map(json.dumps, rows))):
        assert read(write(tmp_path / "a.json", content)) == expected


@pytest.mark.slow
def test_an_array_of_ten_thousand_rows_is_read_in_a_window(tmp_path: Path) -> None:
    path = json_file(tmp_path / "a.json", [{"text": "x" * 470}] * 10_000)
    tracemalloc.start()
    try:
        left_out = Counter[str]()
        assert sum(1 for _ in read_documents(path, Reading(), left_out)) == 10_000
        assert tracemalloc.get_traced_memory()[1] < 3e6  # of 4.8 MB
    finally:
        tracemalloc.stop()


def test_two_parquet_columns_of_the_name_asked_for_are_refused(tmp_path: Path) -> None:
    columns = [arrow.array(["one"]), arrow.array(["two"])]
    parquet.write_table(arrow.Table.from_arrays(columns, names=["text", "text"]), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="2 columns 'text'"):
        read(tmp_path / "a.parquet")


def test_half_of_a_character_in_utf_7_is_refused_with_its_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.txt: the text holds a lone surrogate"):
        read(write(tmp_path / "a.txt", b"a +2AA- b"), encoding="utf-7")


@pytest.mark.parametrize(
    "number",
    ["1e-7", "0.0000001", "0.50", "1E5", "-0.0", "1e400", "123456789012345678901234567890.5", "9" * 5000, "NaN"],
)
def test_a_number_of_json_is_in_a_template_as_it_was_written(number: str, tmp_path: Path) -> None:
    for name, content in (("a.jsonl", f'{{"n": {number}}}'), ("a.json", f'[{{"n": {number}}}]')):
        assert read(write(tmp_path / name, content), template="n is {n}") == [f"n is {number}"]


def test_a_template_with_one_null_is_written_or_refused_as_nulls_are(tmp_path: Path) -> None:
    path = json_file(tmp_path / "a.jsonl", [{"a": "x", "b": "y"}, {"a": "z", "b": None}])
    assert read(path, template="{a}: {b}") == ["x: y", "z: "]
    with pytest.raises(UserError, match=r"line 2: .* is empty \(null\), expected a text"):
        read(path, template="{a}: {b}", nulls="refuse")


def test_a_decimal_of_parquet_is_in_a_template_without_a_power_of_ten(tmp_path: Path) -> None:
    column = arrow.array([Decimal("1E-7"), Decimal("12.5000000")], arrow.decimal128(10, 7))
    parquet.write_table(arrow.table({"n": column}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet", template="n is {n}") == ["n is 0.0000001", "n is 12.5000000"]


@pytest.mark.parametrize("use_dictionary", [True, False])
def test_parquet_without_rows_holds_no_text_and_is_not_damaged(use_dictionary: bool, tmp_path: Path) -> None:
    table = arrow.table({"text": arrow.array([], arrow.string())})
    parquet.write_table(table, tmp_path / "none.parquet", use_dictionary=use_dictionary)
    assert read(tmp_path / "none.parquet") == []


HINTS = {
    (
        "a.jsonl",
        '[{"text": "a"}]',
    ): "is a list, expected an object with a column 'text'; an array of rows goes into a .json",
    ("b.jsonl", '[\n{"text": "a"}\n]'): "expected one JSON object a line; other JSON goes into a .json file",
    (
        "a.json",
        '{"version": 1, "data": [{"text": "a"}]}',
    ): "'data' is a list of objects: write those as the rows of a file",
    (
        "d.json",
        '{"title": "All the rows", "data": [{"text": "a"}]}',
    ): "; if the objects in 'data' are the rows, write those into a file",
    ("e.jsonl", '{"Text": "Ann is here", "entities": [{"at": 0}]}'): "are Text, entities: set `column='Text'`",
    ("c.jsonl", '{"text": 5}'): "holds a number, expected a text; to write it as one: `template='{text}'`",
}


@pytest.mark.parametrize("case", HINTS)
def test_rows_of_another_form_say_what_to_do(case: tuple[str, str], tmp_path: Path) -> None:
    name, content = case
    with pytest.raises(UserError, match=re.escape(HINTS[case])):
        read(write(tmp_path / name, content))
    assert read(write(tmp_path / "n.jsonl", '{"text": 5}'), template="{text}") == ["5"]
