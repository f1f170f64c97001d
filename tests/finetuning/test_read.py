"""Tasks from GLUE's own files, the hub and files of one's own."""

from __future__ import annotations

import csv
import gzip
import json
import lzma
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdlm_atat.errors import UserError
from mdlm_atat.finetuning.read import _hub_example, open_task
from mdlm_atat.finetuning.tasks import GLUE

# as GLUE has them: a space before SST-2's tabs, no header in CoLA, a byte order mark and single quotes in MRPC
FILES = {
    "sst2": ("SST-2", "sentence\tlabel\nhide new secretions \t0\na charming journey . \t1\nrich \t1\n"),
    "cola": ("CoLA", "gj04\t1\t\tThe sailors rode the breeze.\nbc01\t0\t*\tThe book what was read.\ngj04\t1\t\tYes.\n"),
    "mrpc": (
        "MRPC",
        "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
        '1\t702876\t702977\tHe called " the witness " back .\tThe " witness .\n'
        "0\t1\t2\tYucaipa bought it .\tYucaipa sold it .\n1\t3\t4\tA .\tB .\n",
    ),
    "rte": (
        "RTE",
        "index\tsentence1\tsentence2\tlabel\n"
        '0\tNo "weapons" found.\tWeapons.\tnot_entailment\n1\tBoth.\tOne.\tentailment\n',
    ),
    "stsb": (
        "STS-B",
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
        "0\tc\tMSRvid\t2012\t1\tnone\tnone\tA plane.\tAn air plane.\t5.000\n"
        "1\tc\tMSRvid\t2012\t4\tnone\tnone\tA man.\tA dog.\t0.800\n",
    ),
}


@pytest.fixture
def glue(tmp_path: Path) -> Path:
    """A folder in GLUE's layout; train and dev are alike."""
    for folder, content in FILES.values():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "train.tsv").write_text(content)
        (tmp_path / folder / "dev.tsv.xz").write_bytes(lzma.compress(content.encode()))
    return tmp_path


def test_every_glue_task_is_read_with_its_texts_classes_and_metrics(glue: Path):
    tasks = {name: open_task(name, data=str(glue)) for name in FILES}
    assert tasks["sst2"].train.texts == [("hide new secretions ",), ("a charming journey . ",), ("rich ",)]
    assert tasks["sst2"].train.targets.tolist() == [0, 1, 1]
    assert tasks["cola"].dev.texts[1] == ("The book what was read.",)
    assert tasks["cola"].dev.targets.tolist() == [1, 0, 1]
    assert tasks["mrpc"].train.texts[0] == ('He called " the witness " back .', 'The " witness .')
    assert tasks["rte"].labels == ("entailment", "not_entailment")
    assert tasks["rte"].dev.targets.tolist() == [1, 0]
    assert tasks["stsb"].train.targets.tolist() == [5.0, 0.8]
    assert tasks["stsb"].train.texts[1] == ("A man.", "A dog.")
    metrics = {name: tuple(task.metrics) for name, task in tasks.items()}
    assert metrics == {
        "sst2": ("accuracy",),
        "cola": ("matthews",),
        "mrpc": ("accuracy", "f1"),
        "rte": ("accuracy",),
        "stsb": ("pearson", "spearman"),
    }


def test_the_folder_of_one_task_will_do_and_its_files_are_written_down(glue: Path):
    task = open_task("rte", data=str(glue / "RTE"))
    assert task.hash == open_task("rte", data=str(glue)).hash
    files = task.source["files"]
    assert isinstance(files, list)
    assert [Path(file["path"]).name for file in files] == ["train.tsv", "dev.tsv.xz"]
    assert all(len(file["sha256"]) == 64 for file in files)


def test_examples_that_are_scored_and_trained_on_are_counted_and_the_rule_is_kept(glue: Path):
    rows = [{"text": f"text {i}", "label": i % 2} for i in range(20)]
    held_out = open_task(data=rows + rows[:3], dev_fraction=0.1).source["accounts"]
    assert held_out["train"] + held_out["dev"] == 23
    assert (held_out["rule"], held_out["repeated"]) == ("held out by a hash of the text", 0)
    given = open_task(data=(rows, [rows[3], {"text": "new", "label": 1}, rows[3]])).source["accounts"]
    assert given == {"train": 20, "dev": 3, "rule": "given", "repeated": 2}
    assert open_task("rte", data=str(glue)).source["accounts"]["rule"] == "given"


def test_the_baseline_says_what_most_training_examples_are(glue: Path):
    assert open_task("mrpc", data=str(glue)).baseline() == {"accuracy": pytest.approx(2 / 3), "f1": pytest.approx(0.8)}
    assert open_task("cola", data=str(glue)).baseline() == {"matthews": 0}
    assert open_task("stsb", data=str(glue)).baseline() == {"pearson": 0, "spearman": 0}


def write_hub_set(folder: Path, glue: Path) -> None:
    """The five tasks in the hub's format: a Parquet file a split, classes as numbers, test without labels."""
    import pyarrow
    from pyarrow import parquet

    configurations = []
    for name, task in GLUE.items():
        read = open_task(name, data=str(glue))
        columns: dict[str, list[object]] = {
            column: [texts[index] for texts in read.train.texts] for index, column in enumerate(task.hub_columns)
        }
        columns["idx"] = list(range(len(read.train)))
        unlabelled = [-1] * len(read.train)
        (folder / name).mkdir(parents=True)
        for split, labels in (("train", read.train.targets.tolist()), ("validation", None), ("test", unlabelled)):
            table = pyarrow.table({**columns, "label": labels or read.dev.targets.tolist()})
            parquet.write_table(table, folder / name / f"{split}-00000-of-00001.parquet")
        files = "".join(f"  - split: {s}\n    path: {name}/{s}-*\n" for s in ("train", "validation", "test"))
        configurations.append(f"- config_name: {name}\n  data_files:\n{files}")
    (folder / "README.md").write_text("---\nconfigs:\n" + "".join(configurations) + "---\n")


@pytest.mark.slow
def test_the_hub_gives_the_same_examples_as_the_files_for_all_five_tasks_and_without_it_files_can_be_named(
    glue: Path, tmp_path: Path
):
    write_hub_set(tmp_path / "hub" / "glue", glue)
    code = f"""
from mdlm_atat.finetuning.read import open_task
for name in {list(GLUE)}:
    task = open_task(name, data="hub:{tmp_path}/hub/glue")
    print(task.hash, task.labels, *task.metrics)
open_task("cola")
"""
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], env=environment, capture_output=True, text=True)
    tasks = [open_task(name, data=str(glue)) for name in GLUE]
    expected = [f"{task.hash} {task.labels} {' '.join(task.metrics)}" for task in tasks]
    assert done.stdout.splitlines() == expected, done.stderr
    assert "UserError: cola cannot be had from the hub: the hub cannot be reached" in done.stderr
    assert "`data='FOLDER'` with CoLA/train.tsv and CoLA/dev.tsv" in done.stderr


def test_a_split_of_the_hub_without_labels_is_told():
    row = {"sentence": "a", "label": -1}
    with pytest.raises(UserError, match=r"row 3 has no label \(-1\): only train and validation of GLUE have theirs"):
        _hub_example(row, GLUE["cola"], "row 3")


def rows(number: int = 40) -> list[dict[str, str]]:
    return [{"text": f'text {i}, "so"\nit goes', "label": "yes" if i % 3 else "no"} for i in range(number)]


def write_csv(file: Path, rows: list[dict[str, Any]]) -> Path:
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return file


def test_csv_with_quoted_line_ends_and_jsonl_are_the_same_task(tmp_path: Path):
    csv_file = write_csv(tmp_path / "a.csv", rows())
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    found = [open_task(str(file), dev_fraction=0.1) for file in (csv_file, tmp_path / "a.jsonl")]
    assert found[0].hash == found[1].hash
    assert found[0].name == "a"
    assert found[0].labels == ("no", "yes")
    assert found[0].train.texts[0][0].endswith('"so"\nit goes')
    assert {len(task.dev) for task in found} == {4}  # a tenth


def test_a_delimiter_of_a_file_that_has_none_is_warned_about_and_of_no_file_refused(tmp_path: Path, glue: Path):
    table = write_csv(tmp_path / "a.csv", rows())
    lines = tmp_path / "a.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    says = "delimiter has no effect with source = .*a.jsonl"
    with pytest.warns(UserWarning, match=says):
        open_task(str(lines), delimiter=",", dev_fraction=0.1)
    open_task(str(table), delimiter=",", encoding="utf-8", dev_fraction=0.1)
    open_task(str(lines), delimiter=",", dev=write_csv(tmp_path / "b.csv", rows()[:4]))
    assert "`delimiter=` are for a file of your own; cola has its" in refusal("cola", data=str(glue), delimiter=",")
    assert "are for a file, and `data=` holds records" in refusal(None, data=rows(), encoding="cp1252")


def test_40_labelled_rows_of_which_two_hold_stray_quotes_are_40_examples_and_that_is_said(tmp_path: Path):
    lines = [f"film {n}\t{'pos' if n % 2 else 'neg'}" for n in range(40)]
    lines[5], lines[25] = '"Hello film\tpos', 'went film"\tneg'
    (tmp_path / "a.tsv").write_text("\n".join(["text\tlabel", *lines, ""]))
    task = open_task(str(tmp_path / "a.tsv"), dev_fraction=0.1)
    texts = {text for (text,) in (*task.train.texts, *task.dev.texts)}
    assert len(task.train) + len(task.dev) == 40
    assert {'"Hello film', 'went film"'} <= texts
    assert task.source["changed"] == {"tables in which quotes are text and enclose no cell": 1}
    (tmp_path / "b.tsv").write_text("text\tlabel\na\tpos\nb\n" + '"c\tneg\n')
    assert "b.tsv, line 3 has 1 cell," in refusal(tmp_path / "b.tsv")


def test_what_is_held_out_does_not_depend_on_the_order_and_equal_texts_stay_together(tmp_path: Path):
    doubled = rows() + rows()
    ordered = open_task(str(write_csv(tmp_path / "a.csv", doubled)), dev_fraction=0.1)
    turned = open_task(str(write_csv(tmp_path / "b.csv", doubled[::-1])), dev_fraction=0.1)
    assert sorted(ordered.dev.texts) == sorted(turned.dev.texts)
    assert not set(ordered.dev.texts) & set(ordered.train.texts)
    assert len(ordered.dev) == 8


def test_labels_that_are_numbers_are_classes_in_their_order_or_scores_if_asked(tmp_path: Path):
    lines = [{"text": f"text {i}", "text2": "other", "label": i % 11} for i in range(60)]
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    task = open_task(str(tmp_path / "a.jsonl"), dev=tmp_path / "b.jsonl")
    assert task.labels == tuple(map(str, range(11)))
    assert tuple(task.metrics) == ("accuracy", "matthews")
    assert task.train.texts[0] == ("text 0", "other")
    scores = open_task(str(tmp_path / "a.jsonl"), dev=tmp_path / "b.jsonl", regression=True)
    assert scores.labels == ()
    assert tuple(scores.metrics) == ("pearson", "spearman")
    assert np.array_equal(scores.dev.targets, task.dev.targets)


def refusal(name: object, **arguments: object) -> str:
    with pytest.raises(UserError) as error:
        open_task(str(name), **arguments)  # type: ignore[arg-type]
    return str(error.value)


def test_a_task_that_is_none_a_folder_that_is_none_and_one_without_dev_are_told(glue: Path):
    assert "`task='SST-2'` is no task that is known, and no file; did you mean sst2?" in refusal("SST-2")
    assert "leave it out to read rte from the hub" in refusal("rte", data=str(glue / "nothing"))
    (glue / "RTE" / "dev.tsv.xz").unlink()
    assert "has no dev.tsv; expected RTE/train.tsv and RTE/dev.tsv" in refusal("rte", data=str(glue))
    assert "are for a file of your own; cola is complete" in refusal("cola", data=str(glue), regression=True)
    assert "for a file of your own leave it out" in refusal(glue / "RTE" / "train.tsv", data=str(glue))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("\tlabel\n", "\tscore\n"), "has no column 'label'; its columns are index, "),
        (lambda text: text.replace("Weapons.\tnot_entailment", " \tnot_entailment"), "line 2: the text is empty"),
        (
            lambda text: text.replace("\tnot_entailment", "\tneutral"),
            "'neutral' is no label of this task; expected one",
        ),
        (lambda text: text.replace("\tnot_entailment", "\t"), "line 2: the label is empty"),
        (lambda text: text.replace("Both.\t", ""), "line 3 has 3 cells, expected the 4 columns index, "),
        (lambda _: "", "there are no examples to score on"),
    ],
)
def test_a_mistake_in_a_file_is_told_with_its_line(glue: Path, change: Callable[[str], str], message: str):
    (glue / "RTE" / "dev.tsv.xz").unlink()
    (glue / "RTE" / "dev.tsv").write_text(change(FILES["rte"][1]))
    found = refusal("rte", data=str(glue))
    assert message in found
    assert "dev.tsv" in found or "no examples" in found


@pytest.mark.parametrize("content", ["", "text,label\n", "\n\n"], ids=["empty", "a header", "empty lines"])
@pytest.mark.parametrize("more", [{}, {"folds": 2}, {"dev_fraction": 0.5}], ids=str)
def test_a_file_without_examples_is_told_as_such_and_not_as_too_few(content: str, more: dict, tmp_path: Path):
    (tmp_path / "a.csv").write_text(content)
    found = refusal(str(tmp_path / "a.csv"), **more)
    assert found == f"{tmp_path / 'a.csv'} holds no examples: expected rows with a text and a label"


@pytest.mark.parametrize(
    ("train", "dev", "regression", "message"),
    [
        (
            "text\tlabel\na\tx\nb\ty\n",
            "text\tlabel\nc\tz\n",
            False,
            "line 2: 'z' is a label that no training example has",
        ),
        ("text\tlabel\na\tx\nb\tx\n", "text\tlabel\nc\tx\n", False, "every training example has the label 'x'"),
        ("text\tlabel\na\t0.5\nb\t1\n", "text\tlabel\nc\t1\n", False, "are numbers such as 0.5; add `regression=True`"),
        ("text\tlabel\na\t1\nb\tx\n", "text\tlabel\nc\t1\n", True, "'x' is no number, as a regression needs"),
        ("text\tlabel\na\t1\nb\t2\n", "text\ttext2\tlabel\nc\td\t1\n", False, "one has text2 and the other has none"),
        (
            "texts\tlabel\na\t1\nb\t2\n",
            "text\tlabel\nc\t1\n",
            False,
            "has no column 'text'; its columns are texts, label",
        ),
        (
            "text\tlabel\na\t1\nb\t2\nc\t3\nd\t4\n",
            "text\tlabel\nc\t1\n",
            False,
            "4 different labels in 4 examples are no",
        ),
    ],
)
def test_labels_that_do_not_fit_are_told(tmp_path: Path, train: str, dev: str, regression: bool, message: str):
    (tmp_path / "train.tsv").write_text(train)
    (tmp_path / "other.tsv").write_text(dev)
    found = refusal(tmp_path / "train.tsv", dev=tmp_path / "other.tsv", regression=regression)
    assert message in found


def test_a_file_of_another_kind_broken_json_and_a_dev_file_that_is_not_there_are_told(tmp_path: Path):
    (tmp_path / "a.xlsx").write_text("")
    assert "expected .csv, .tsv, .json, .jsonl, .ndjson, .parquet" in refusal(tmp_path / "a.xlsx")
    (tmp_path / "a.jsonl").write_text('{"text": "a", "label": "b"}\n{"text": \n')
    assert "a.jsonl, line 2 is not JSON" in refusal(tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl").write_text('{"text": "a", "label": "b", "n": %s, "label": "c"}\n' % ("9" * 10_000))
    assert "a.jsonl, line 1 has more than one 'label'" in refusal(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").write_text('{"text": 7, "label": "b"}\n')
    assert "line 1: column 'text' holds 7, expected a text" in refusal(tmp_path / "b.jsonl")
    write_csv(tmp_path / "a.csv", rows())
    assert "`dev=`: there is no file" in refusal(tmp_path / "a.csv", dev=tmp_path / "none.csv")
    assert "`dev_fraction=` is 1.5" in refusal(tmp_path / "a.csv", dev_fraction=1.5)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_a_table_has_any_delimiter_and_cells_of_any_length(delimiter: str, name: str, tmp_path: Path):
    long = "word " * 40_000
    rows = [("text", "label"), *((f"film, number {n}", f"00{n % 2}") for n in range(20)), (long, "000")]
    content = "".join(delimiter.join(f'"{cell}"' for cell in row) + "\r\n" for row in rows)
    (tmp_path / name).write_text("\ufeff" + content, encoding="utf-8", newline="")
    task = open_task(tmp_path / name)
    assert {*task.train.texts, *task.dev.texts} == {(text,) for text, _ in rows[1:]}
    assert len(task.labels) == 2


def test_a_byte_order_mark_that_overrules_the_encoding_of_a_file_is_among_what_was_read_otherwise(tmp_path: Path):
    rows = "text,label\n" + "".join(f"caf\u00e9 {i},{i % 2}\n" for i in range(40))
    (tmp_path / "a.csv").write_text(rows, encoding="utf-8-sig")
    task = open_task(data=tmp_path / "a.csv", encoding="cp1252")
    assert task.train.texts[0][0].startswith("caf\u00e9")
    assert task.source["changed"] == {"files read as utf-8 by their byte order mark, not as cp1252": 1}


def test_a_file_in_another_encoding_is_read_when_that_is_named(tmp_path: Path):
    lines = "".join(f"It’s naïve, {n};{n % 2}\n" for n in range(20))
    (tmp_path / "a.csv").write_text("text;label\n" + lines, encoding="cp1252")
    assert "it may be cp1252" in refusal(tmp_path / "a.csv")
    assert all(
        text.startswith("It’s naïve, ") for (text,) in open_task(tmp_path / "a.csv", encoding="cp1252").train.texts
    )


@pytest.mark.parametrize("name", ["a.json", "a.jsonl.gz", "a.ndjson", "a.parquet", "a.csv"])
def test_a_task_is_read_from_any_file_of_rows(name: str, tmp_path: Path) -> None:
    from pyarrow import Table, parquet

    made = [{"text": f"film {n}", "label": n % 2 * 1.0, "n": None} for n in range(20)]
    if name == "a.parquet":
        parquet.write_table(Table.from_pylist(made), tmp_path / name)
    elif name == "a.csv":
        write_csv(tmp_path / name, made)
    elif name == "a.json":
        (tmp_path / name).write_text(json.dumps(made))
    else:
        content = "".join(json.dumps(row) + "\n" for row in made).encode()
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    task = open_task(tmp_path / name)
    assert {*task.train.texts, *task.dev.texts} == {(row["text"],) for row in made}
    assert task.labels == ("0", "1")


def test_fewer_than_1000_examples_are_scored_in_5_folds_and_of_1000_a_tenth_is_held_out():
    rows = [{"text": f"text {n}", "label": n % 2} for n in range(1000)]
    few, many = open_task(data=rows[:999]), open_task(data=rows)
    assert (few.num_folds, len(few.train), len(few.dev)) == (5, 999, 999)
    assert few.source["accounts"] == {"train": 999, "dev": 999, "rule": "by 5-fold cross-validation", "repeated": 0}
    assert (many.num_folds, len(many.train), len(many.dev)) == (0, 900, 100)
    assert open_task(data=rows, folds=3).num_folds == 3
    assert len({open_task(data=rows[:999], folds=folds).hash for folds in (3, 5)}) == 2


def test_every_fold_has_its_share_of_every_label_equal_texts_are_in_one_and_the_order_says_nothing():
    rows = [{"text": f"text {n}", "label": "rare" if n % 10 == 0 else "common"} for n in range(100)]
    task, turned = open_task(data=rows + rows[:40]), open_task(data=(rows + rows[:40])[::-1])
    assert task.fold is not None
    assert turned.fold is not None
    fold = task.fold
    assert turned.fold.tolist() == fold.tolist()[::-1]
    assert fold[100:].tolist() == fold[:40].tolist()
    for number in range(5):
        labels = [row["label"] for row, part in zip(rows, fold[:100], strict=True) if part == number]
        assert (labels.count("rare"), labels.count("common")) == (2, 18)
        part = task.without(number)
        assert not set(part.train.texts) & set(part.dev.texts)
        assert len(part.train) + len(part.dev) == 140
    assert {open_task(data=[{**row, "label": n / 7} for n, row in enumerate(rows)], regression=True).num_folds} == {5}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"folds": 1}, "`folds=` is 1, expected at least 2"),
        (
            {"folds": 21},
            "different texts, too few for 21 folds; try `folds=20`, or name examples to score on",
        ),
        ({"folds": 5, "dev_fraction": 0.1}, "`dev_fraction=` holds examples out, `folds=` scores all of them"),
    ],
)
def test_folds_that_cannot_be_are_told(arguments: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        open_task(data=rows(), **arguments)


def test_folds_are_for_examples_of_ones_own(glue: Path):
    assert "`folds=` and `regression=` are for a file of your own; cola is complete" in refusal(
        "cola", data=str(glue), folds=5
    )
    with pytest.raises(UserError, match="the examples to score on are given, so `folds=` has no effect"):
        open_task(data=(rows(), rows()), folds=5)


def test_columns_of_other_names_are_named_and_a_second_text_is_found_by_two_names():
    rows = [{"body": f"a {n}", "next": f"b {n}", "team": "xy"[n % 2]} for n in range(20)]
    task = open_task(data=rows, text="body", text_pair="next", label="team")
    assert task.train.texts[3] == ("a 3", "b 3")
    assert (task.columns, task.label_column, task.labels) == (("body", "next"), "team", ("x", "y"))
    assert open_task(data=rows, text="next", label="team").train.texts[3] == ("b 3",)
    for name in ("text2", "text_pair"):
        pairs = [{"text": row["body"], name: row["next"], "label": row["team"]} for row in rows]
        assert open_task(data=pairs).train.texts == task.train.texts
    with pytest.raises(UserError, match=r"its columns are body, next, team: name the one with the labels by `label="):
        open_task(data=rows, text="body")
    with pytest.raises(UserError, match=r"name the one with the text by `text_pair="):
        open_task(data=rows, text="body", text_pair="reply", label="team")
