"""A label is one class however it is written, and what is none is refused with its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdlm_atat.errors import UserError
from mdlm_atat.finetuning.read import open_task

ONE: list[Any] = [1, 1.0, "1", "1.0", " 1 ", "1e0", "+1", "1.", "10e-1", np.int64(1), np.float32(1)]
TRUE: list[Any] = [True, "True", "true", " TRUE ", np.bool_(True)]


def records(label: Any, other: Any, first: Any) -> list[dict[str, Any]]:
    """Two classes, one of them written in two ways."""
    labels = [first, *([label, other] * 10)]
    return [{"text": f"film number {number}", "label": each} for number, each in enumerate(labels)]


@pytest.mark.parametrize("label", ONE, ids=repr)
def test_the_number_1_is_one_class_however_it_is_written(label: Any) -> None:
    task = open_task(data=(records(label, 0, 1), records(label, "0.0", 1)))
    assert task.labels == ("0", "1")
    assert task.dev.targets.tolist() == [1, *([1, 0] * 10)]


@pytest.mark.parametrize("label", TRUE, ids=repr)
def test_true_is_one_class_however_it_is_written(label: Any) -> None:
    assert open_task(data=records(label, "false", True)).labels == ("False", "True")


@pytest.mark.parametrize(
    ("label", "first"),
    [("01", 1), ("007", "7"), ("1_0", 10), ("\u0661", 1), ("one", 1), ("0x1", 1), ("--1", -1)],
)
def test_codes_words_and_other_numbers_are_classes_of_their_own(label: Any, first: Any) -> None:
    assert len(open_task(data=records(label, "other", first) + records(label, "other", first)).labels) == 3


def test_large_numbers_are_told_apart_to_the_last_digit() -> None:
    labels = open_task(data=records("12345678901234567890", 12345678901234567891, "12345678901234567890.0")).labels
    assert labels == ("12345678901234567890", "12345678901234567891")
    assert len(open_task(data=records("1e300", "2e300", 1e300)).labels) == 2  # and no number of 300 digits is written


@pytest.mark.parametrize("ending", ["jsonl", "csv", "tsv"])
def test_files_of_every_kind_have_two_classes(ending: str, tmp_path: Path) -> None:
    rows = [{"text": f"film number {n}", "label": n % 2 if n % 4 else 0.0} for n in range(40)]
    file = tmp_path / f"labels.{ending}"
    if ending == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        mark = {"csv": ",", "tsv": "\t"}[ending]
        lines = [f"{row['text']}{mark}{row['label']}\n" for row in rows]
        file.write_text(f"text{mark}label\n" + "".join(lines))
    assert open_task(file).labels == ("0", "1")


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("NaN", "line 3: the label is NaN, which is no class"),
        ("-Infinity", "line 3: the label is -Infinity, which is no class"),
        ("null", "line 3: column 'label' holds None, expected a text or a number"),
        ('""', "line 3: the label is empty; fill it in, or remove the line"),
        ('" \\t"', "line 3: the label is empty"),
        ('"nan"', "line 3: the label is nan, which is no class"),
        ("[1]", r"line 3: column 'label' holds \[1\], expected a text or a number"),
    ],
)
@pytest.mark.parametrize("regression", [True, False])
def test_a_label_that_is_none_is_refused_with_its_line(
    label: str, message: str, regression: bool, tmp_path: Path
) -> None:
    rows = [f'{{"text": "film {n}", "label": {n % 2 if n != 2 else label}}}\n' for n in range(20)]
    (tmp_path / "labels.jsonl").write_text("".join(rows))
    with pytest.raises(UserError, match=f"labels.jsonl, {message}"):
        open_task(tmp_path / "labels.jsonl", regression=regression)


def test_scores_are_read_to_their_last_digit() -> None:
    scores = ["0.1", 0.30000000000000004, "1e-3", 5, "5.000", " -2.50 "]
    rows = [{"text": f"t {n}", "label": score} for n, score in enumerate(scores)]
    task = open_task(data=(rows, rows), regression=True)
    assert task.train.targets.tolist() == [0.1, 0.30000000000000004, 0.001, 5.0, 5.0, -2.5]


@pytest.mark.parametrize(
    "alike",
    [
        ("Pos", "pos"),
        ("caf\u00e9", "cafe\u0301"),
        ("pos", "pos\u200b"),
        ("１", "1"),
        ("no way", "no  way"),
        (True, 1),
        ("false", "0.0"),
    ],
)
def test_two_labels_that_look_the_same_are_no_two_classes(alike: tuple[object, object]) -> None:
    records = [{"text": f"text {i}", "label": ["neg", *alike][i % 3]} for i in range(30)]
    with pytest.raises(
        UserError, match="write them alike if they are one, else give one of them a name of other letters"
    ):
        open_task(data=records)


def test_a_table_with_two_columns_of_labels_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label,label\n" + "".join(f"row {i},{i % 2},{i % 3}\n" for i in range(30)))
    with pytest.raises(UserError, match=r"a\.csv, line 2 has more than one 'label'"):
        open_task(path)


def test_a_file_to_score_on_without_rows_is_said_to_be_that(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"row {i},{i % 2}\n" for i in range(30)))
    (tmp_path / "b.csv").write_text("text,label\n")
    with pytest.raises(UserError, match="no examples to score on: `dev=` names a file without rows"):
        open_task(tmp_path / "a.csv", dev=tmp_path / "b.csv")
