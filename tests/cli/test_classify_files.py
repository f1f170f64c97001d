"""`atat classify` from files of every kind, standard input and words to labels with probabilities."""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from refusals import refused

import mdlm_atat
from finetuning.examples import cat_examples
from mdlm_atat import TextClassifier
from mdlm_atat.cli.main import main
from mdlm_atat.finetuning.classifier import TextClassifier as Loaded
from mdlm_atat.runs import classify as module
from mdlm_atat.runs.classify import classify_file

TEXTS = ["cat sat, on a mat", "dog ran to see", "", "if you ran be so as old", "mat cat"]
ROWS = [{"id": f"00{n}", "body": text, "label": "cat" if "cat" in text else "none"} for n, text in enumerate(TEXTS)]


def train(lm: Any, out: Path, *, pairs: bool = False, scores: bool = False) -> Path:
    names = ("body", "other") if pairs else ("body",)
    train_rows, dev_rows = (
        [
            dict(zip(names, example.texts, strict=True)) | {"label": example.label}
            for example in cat_examples(number, seed, pairs=pairs, scores=scores)
        ]
        for number, seed in ((200, 0), (50, 1))
    )
    more: Any = {"text_pair": "other"} if pairs else {}
    result = mdlm_atat.finetune(
        lm,
        data=(train_rows, dev_rows),
        text="body",
        **more,
        out=out,
        regression=scores,
        seeds=1,
        epochs=2,
        lr=3e-2,
        progress=False,
    )
    assert result.classifier_folder is not None
    return result.classifier_folder


@pytest.fixture(scope="module")
def cats(masked, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(masked, tmp_path_factory.mktemp("cats"))


def read_csv(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def as_table(delimiter: str, rows: list[dict[str, str]] = ROWS) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def write_parquet(file: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(ROWS), file)


WRITERS: dict[str, Callable[[Path], object]] = {
    "a.csv": lambda file: file.write_text(as_table(",")),
    "semicolons.csv": lambda file: file.write_text(as_table(";")),
    "a.tsv": lambda file: file.write_text(as_table("\t")),
    "marked.csv": lambda file: file.write_text(as_table(","), encoding="utf-8-sig"),
    "wide.csv": lambda file: file.write_text(as_table(","), encoding="utf-16"),
    "a.csv.gz": lambda file: file.write_bytes(gzip.compress(as_table(",").encode())),
    "a.jsonl": lambda file: file.write_text("".join(json.dumps(row) + "\n" for row in ROWS)),
    "a.ndjson.xz": lambda file: file.write_bytes(
        lzma.compress("".join(json.dumps(row) + "\n" for row in ROWS).encode())
    ),
    "a.json": lambda file: file.write_text(json.dumps(ROWS, indent=1)),
    "a.parquet": write_parquet,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_of_any_kind_gives_the_same_rows_with_the_same_labels(cats, tmp_path, name):
    WRITERS[name](tmp_path / name)
    assert main(["classify", str(cats), str(tmp_path / name), "--out", str(tmp_path / "labels.csv")]) == 0
    found = read_csv(tmp_path / "labels.csv")
    assert list(found[0]) == ["id", "body", "label", "predicted_label", "p_cat", "p_none"]
    assert [{name: row[name] for name in ROWS[0]} for row in found] == ROWS
    expected = TextClassifier.from_pretrained(cats).predict([text for text in TEXTS if text])
    assert [row["predicted_label"] for row in found if row["body"]] == [each.label for each in expected]
    assert [float(row["p_cat"]) for row in found if row["body"]] == pytest.approx(
        [each.probabilities["cat"] for each in expected], abs=1e-5
    )
    assert [found[2][name] for name in ("predicted_label", "p_cat", "p_none")] == ["", "", ""]
    assert not (tmp_path / "labels.csv.part").exists()


@pytest.mark.filterwarnings("always:delimiter has no effect")
def test_a_delimiter_of_a_file_that_has_none_is_warned_about(cats, tmp_path, capsys):
    for name in ("a.jsonl", "a.csv"):
        WRITERS[name](tmp_path / name)
        assert main(["classify", str(cats), str(tmp_path / name), "--delimiter", ","]) == 0
        assert ("delimiter has no effect with source = " in capsys.readouterr().err) == (name == "a.jsonl")


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_every_kind_of_output_holds_the_same(cats, tmp_path, ending):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({**row, "more": {"n": [1, None]}}) + "\n" for row in ROWS))
    out = tmp_path / f"labels{ending}"
    assert main(["classify", str(cats), str(tmp_path / "a.jsonl"), "--out", str(out)]) == 0
    match ending:
        case ".jsonl":
            rows = [json.loads(line) for line in out.read_text().splitlines()]
        case ".parquet":
            from pyarrow import parquet

            rows = parquet.read_table(out).to_pylist()
        case _:
            with out.open(newline="") as stream:
                rows = list(csv.DictReader(stream, delimiter="\t" if ending == ".tsv" else ","))
    assert [row["body"] for row in rows] == TEXTS
    assert [row["id"] for row in rows] == [row["id"] for row in ROWS]
    more = rows[0]["more"]
    assert (more if isinstance(more, dict) else json.loads(more)) == {"n": [1, None]}
    assert all(float(row["p_cat"]) + float(row["p_none"]) == pytest.approx(1) for row in rows if row["body"])
    assert rows[2]["predicted_label"] in ("", None)


def test_plain_text_is_a_row_a_line_and_the_column_is_named_as_in_training(cats, tmp_path):
    (tmp_path / "a.txt").write_text("cat sat\r\n\r\ndog ran\r\n", newline="")
    assert main(["classify", str(cats), str(tmp_path / "a.txt"), "--out", str(tmp_path / "b.csv")]) == 0
    found = read_csv(tmp_path / "b.csv")
    assert [row["body"] for row in found] == ["cat sat", "dog ran"]
    assert list(found[0]) == ["body", "label", "p_cat", "p_none"]


def test_what_was_cut_empty_or_labelled_already_is_said(cats, tmp_path, capsys):
    rows = [*ROWS, {"id": "9", "body": "cat " * 9, "label": "unknown"}]
    (tmp_path / "a.csv").write_text(as_table(",", rows))
    assert main(["classify", str(cats), str(tmp_path / "a.csv"), "--out", str(tmp_path / "b.csv")]) == 0
    out, error = capsys.readouterr()
    assert out == ""
    found = read_csv(tmp_path / "b.csv")
    right = sum(row["label"] == row["predicted_label"] for row in found)
    num_cats = sum(row["predicted_label"] == "cat" for row in found)
    assert f"6 rows written to {tmp_path / 'b.csv'}" in error
    assert f"{num_cats} cat" in error
    assert "3 were longer than 16 tokens and read without the end" in error
    assert "1 has no text, and so no label" in error
    assert "the input has a column 'label': the one that was added is 'predicted_label'" in error
    assert f"of 4 that have a label in column 'label', {right} were given the same" in error


@pytest.mark.parametrize("content", ["", "body,n\n"], ids=["empty", "a header"])
def test_a_table_without_rows_has_the_columns_of_its_output_and_a_line_says_so(content, cats, tmp_path, capsys):
    (tmp_path / "a.csv").write_text(content)
    assert main(["classify", str(cats), str(tmp_path / "a.csv")]) == 0
    out, error = capsys.readouterr()
    assert out.startswith("body,label,p_")
    assert out.count("\n") == 1
    assert error == "there are no rows, and so no labels\n"
    assert main(["classify", str(cats), str(tmp_path / "a.csv"), "--out", str(tmp_path / "b.csv")]) == 0
    assert (tmp_path / "b.csv").read_text() == out
    assert "0 rows written" in capsys.readouterr().err


def test_an_interrupted_file_goes_on_and_is_to_the_byte_what_it_would_have_been(cats, tmp_path, monkeypatch, capsys):
    rows = [{"body": e.texts[0], "n": n} for n, e in enumerate(cat_examples(600, 3))]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["classify", str(cats), str(tmp_path / "a.jsonl"), "--out"]
    assert main([*command, str(tmp_path / "whole.jsonl")]) == 0
    predict = Loaded.predict_encoded
    asked: list[int] = []

    def interrupted(self: Loaded, texts: Any, **how: Any) -> Any:
        asked.append(len(texts))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return predict(self, texts, **how)

    out = tmp_path / "b.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr(Loaded, "predict_encoded", interrupted)
        assert main([*command, str(out)]) == 130
    assert "what is done is kept in" in capsys.readouterr().err
    assert not out.exists()
    part = tmp_path / "b.jsonl.part"
    assert part.read_bytes().count(b"\n") == 256
    with part.open("ab") as stream:
        stream.write(b'{"id": 256, "val')  # the machine went down in a line
    asked.clear()
    with monkeypatch.context() as patch:
        patch.setattr(
            Loaded,
            "predict_encoded",
            lambda self, texts, **how: asked.append(len(texts)) or predict(self, texts, **how),
        )
        assert main([*command, str(out)]) == 0
    assert sum(asked) == 600 - 256
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not part.exists()


def test_what_another_input_began_is_not_gone_on_with(cats, tmp_path, monkeypatch, capsys):
    (tmp_path / "a.csv").write_text(as_table(","))
    command = ["classify", str(cats), str(tmp_path / "a.csv"), "--out", str(tmp_path / "b.csv")]
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_table", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main(command) == 130
    (tmp_path / "a.csv").write_text(as_table(",", ROWS[::-1]))
    assert "b.csv.part was begun with another classifier or other texts; --overwrite begins anew" in refused(
        command, capsys, tmp_path
    )
    assert main([*command, "--overwrite"]) == 0
    assert [row["id"] for row in read_csv(tmp_path / "b.csv")] == [row["id"] for row in ROWS[::-1]]


def test_a_table_without_rows_takes_nothing_over_of_what_another_input_began(cats, tmp_path, monkeypatch, capsys):
    (tmp_path / "b.csv.part").write_text('{"id": 0, "values": ["cat", 1, 0], "cut": false, "settings": "other"}\n')
    command = ["classify", str(cats), "-", "--out", str(tmp_path / "b.csv")]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert "b.csv.part was begun with another classifier" in refused(command, capsys, tmp_path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert main([*command, "--overwrite"]) == 0
    assert (tmp_path / "b.csv").read_text() == "text,label,p_cat,p_none\n"
    assert not (tmp_path / "b.csv.part").exists()


def test_words_and_standard_input_are_classified_too(cats, capsys, monkeypatch, tmp_path):
    expected = TextClassifier.from_pretrained(cats).predict(["cat sat", "dog ran"])
    assert main(["classify", str(cats), "cat sat", "dog ran"]) == 0
    by_words = capsys.readouterr().out
    assert by_words.splitlines()[0] == "text,label,p_cat,p_none"
    assert [row["label"] for row in csv.DictReader(io.StringIO(by_words))] == [each.label for each in expected]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\ufeffcat sat\r\ndog ran\n".encode())))
    assert main(["classify", str(cats), "-"]) == 0
    assert capsys.readouterr().out == by_words
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"cat sat\ndog ran\n")))
    assert main(["classify", str(cats), "-", "--out", str(tmp_path / "b.csv")]) == 0
    assert (tmp_path / "b.csv").read_text() == by_words
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"cat\nna\xefve\n")))
    capsys.readouterr()
    assert main(["classify", str(cats), "-"]) == 2
    assert "standard input is not utf-8 after line" in capsys.readouterr().err


def test_a_terminal_shows_one_text_s_labels_in_full_and_several_a_line_each_without_control_characters(
    cats, capsys, monkeypatch
):
    monkeypatch.setattr("mdlm_atat.cli.classify.is_terminal", lambda: True)
    monkeypatch.setattr("mdlm_atat.terminal.is_terminal", lambda: True)
    assert main(["classify", str(cats), "cat sat"]) == 0
    labels = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert sorted(labels) == ["cat", "none"]
    assert main(["classify", str(cats), "cat sat", "dog \x1b[31mran"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("  cat sat")
    assert second.endswith("  dog \ufffd[31mran")


def test_pairs_and_numbers(masked, tmp_path, capsys, monkeypatch):
    pairs = train(masked, tmp_path / "pairs", pairs=True)
    (tmp_path / "a.csv").write_text("body,other\ncat,dog\ndog,\n")
    assert main(["classify", str(pairs), str(tmp_path / "a.csv"), "--out", str(tmp_path / "b.csv")]) == 0
    assert [row["label"] in ("cat", "none") for row in read_csv(tmp_path / "b.csv")] == [True, False]
    (tmp_path / "c.csv").write_text("x,y\ncat,dog\n")
    named = ["--text", "x", "--text_pair", "y", "--out", str(tmp_path / "d.csv")]
    assert main(["classify", str(pairs), str(tmp_path / "c.csv"), *named]) == 0
    assert read_csv(tmp_path / "d.csv")[0]["p_cat"] == read_csv(tmp_path / "b.csv")[0]["p_cat"]
    capsys.readouterr()
    assert main(["classify", str(pairs), "cat", "dog"]) == 0
    assert capsys.readouterr().out.startswith("text,text_pair,label,p_cat,p_none\ncat,dog,")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"cat\tdog\ncat\n")))
    assert main(["classify", str(pairs), "-"]) == 2
    assert "standard input, line 2: expected two texts with a tab between them" in capsys.readouterr().err
    assert "this classifier reads pairs: give two texts" in refused(["classify", str(pairs), "cat"], capsys)
    scores = train(masked, tmp_path / "scores", scores=True)
    assert main(["classify", str(scores), str(tmp_path / "a.csv"), "--out", str(tmp_path / "e.csv")]) == 0
    found = read_csv(tmp_path / "e.csv")
    assert list(found[0]) == ["body", "other", "score"]
    assert -2 < float(found[0]["score"]) < 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "missing TEXTS: a file, - for standard input"),
        (("nothing.csv",), "there is no file nothing.csv; if that is a text itself, give it by standard input"),
        (("a/b",), "there is no file a/b"),
        (("FILE", "a cat"), "and 1 more: give one file, or texts alone"),
        (("FILE", "--out", "b.xlsx"), "--out: b.xlsx is of no kind that can be written; expected .csv, .tsv"),
        (("FILE", "--out", "b.csv.gz"), "is of no kind that can be written"),
        (("FILE", "--out", "nowhere/b.csv"), "--out: there is no folder nowhere"),
        (("FILE", "--out", "THERE"), "replace it by --overwrite, or name another file"),
        (
            ("FILE", "--text", "bodi"),
            "has no column 'bodi'; its columns are id, body, label: name the one with the text",
        ),
        (("FILE", "--text_pair", "label"), "--text_pair label: this classifier reads one text at a time"),
        (("a cat", "--text", "body"), "--text is for a file, and 'a cat' is a text"),
        (("a cat", "--delimiter", ";"), "--delimiter is for a file, and 'a cat' is a text"),
        (("-", "--text", "body"), "--text is for a file, and standard input has a text a line"),
        (("-", "--delimiter", ";", "--out", "b.csv"), "--delimiter is for a file, and standard input has a text a"),
        (("FILE", "--encoding", "latin-99"), "there is no such encoding"),
        (("MARKED", "--encoding", "latin-99"), "there is no such encoding"),
        (("MARKED", "--encoding", "cp1252"), "byte order mark of utf-8, so it is not cp1252: leave --encoding out"),
        (("FILE", "--batch_size", "0"), "--batch_size is 0, expected at least 1"),
    ],
)
def test_a_mistake_is_one_message_and_nothing_is_written(cats, tmp_path, capsys, words, message):
    (tmp_path / "a.csv").write_text(as_table(","))
    (tmp_path / "marked.csv").write_text(as_table(","), encoding="utf-8-sig")
    (tmp_path / "there.csv").write_text("mine")
    names = {
        name: str(tmp_path / f"{file}.csv") for name, file in (("FILE", "a"), ("MARKED", "marked"), ("THERE", "there"))
    }
    assert message in refused(["classify", str(cats), *(names.get(word) or word for word in words)], capsys, tmp_path)


def test_a_row_that_is_no_text_is_told_before_anything_is_done(cats, tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text('{"body": "cat"}\n{"body": null}\n{"body": 7}\n')
    command = ["classify", str(cats), str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "b.csv")]
    assert "a.jsonl, line 3: column 'body' holds 7, expected a text" in refused(command, capsys, tmp_path)
    (tmp_path / "a.json").write_text('[{"body": "cat"}, 7]')
    assert "row 2 is a JSON Decimal" not in refused([*command[:2], str(tmp_path / "a.json")], capsys, tmp_path)


def test_a_run_without_a_classifier_says_how_to_make_one(runs, capsys):
    assert "holds no classifier; make one with atat finetune" in refused(
        ["classify", str(runs / "masked"), "a cat"], capsys
    )


def test_from_python_it_is_one_call(cats, tmp_path):
    (tmp_path / "a.csv").write_text(as_table(","))
    heard: list[tuple[int, int]] = []
    done = classify_file(
        TextClassifier.from_pretrained(cats),
        tmp_path / "a.csv",
        tmp_path / "b.csv",
        progress=lambda *n: heard.append(n),
    )
    assert (done.tally.num_rows, done.tally.num_empty, done.names) == (5, 1, ("predicted_label", "p_cat", "p_none"))
    assert heard == [(5, 5)]
