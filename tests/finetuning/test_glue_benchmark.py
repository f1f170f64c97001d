"""GLUE's tasks by one command, and what is said to be near chance."""

import json
import random
import shutil
import sys
from pathlib import Path

import pytest
from benchmarks import glue as benchmark
from benchmarks.command import exit_code
from benchmarks.results import glue as table
from benchmarks.results import stored as stored_files
from benchmarks.results.glue import is_near_chance, mean_over_seeds

from finetuning.examples import cat_examples


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """RTE that asks for a cat, and SST-2 whose labels say nothing of the texts."""
    coin = random.Random(0)
    for split, number, seed in (("train", 300, 0), ("dev", 60, 1)):
        pairs = cat_examples(number, seed, pairs=True)
        asked = [[*pair.texts, "entailment" if pair.label == "cat" else "not_entailment"] for pair in pairs]
        tossed = [[example.texts[0], coin.choice("01")] for example in cat_examples(number, seed)]
        for folder, columns, rows in (
            ("RTE", ["sentence1", "sentence2", "label"], asked),
            ("SST-2", ["sentence", "label"], tossed),
        ):
            (tmp_path / folder).mkdir(exist_ok=True)
            lines = ["\t".join(row) for row in [columns, *rows]]
            (tmp_path / folder / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    return tmp_path


def run_command(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["glue", *map(str, words)])
    return exit_code(benchmark.main)


@pytest.mark.filterwarnings("ignore:.*cut at the end")
def test_tasks_are_fine_tuned_once_and_a_task_that_nothing_is_learned_of_is_near_chance(
    runs: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    run, out = shutil.copytree(runs / "masked", tmp_path / "atat" / "seed-0"), tmp_path / "glue.json"
    words = [run, "--data", data, "--out", out, "--tasks", "sst2", "rte", "--seeds", 2, "--epochs", 1]
    assert run_command(monkeypatch, *words) == 0
    points = {point["task"]: point for point in json.loads(out.read_text())["points"]}
    assert list(points) == ["sst2", "rte"]
    assert (points["rte"]["num_dev"], len(points["rte"]["metrics"]["accuracy"]["values"])) == (60, 2)
    assert str(tmp_path) not in out.read_text()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("atat/seed-0")]
    assert len(lines) == 2
    assert "near chance" in lines[0]

    monkeypatch.setattr(benchmark, "finetune", None)  # is not called again
    assert run_command(monkeypatch, *words) == 0
    assert run_command(monkeypatch, *words[:-3], 3) == 2
    assert "has other seeds; name another --out" in capsys.readouterr().err

    for module in (table, stored_files):
        monkeypatch.setattr(module, "FOLDER", tmp_path)
    stored_files.stored.cache_clear()
    rows = table.glue("glue.json").splitlines()
    stored_files.stored.cache_clear()
    assert rows[0] == "| | sst2, accuracy | rte, accuracy |"
    assert rows[2].startswith("| `atat` |")
    assert rows[3].startswith("| the commonest class")
    assert rows[-1].startswith("Not measured yet: `python -m benchmarks.glue runs/")
    assert rows[-1].endswith("(3 of 5 fine-tunings).")
    assert table.glue("other.json").startswith("Not measured yet: `python -m benchmarks.glue runs/")


def test_an_interval_over_seeds_and_examples_that_reaches_the_commonest_class_is_near_chance():
    far = {"values": [0.70, 0.71, 0.69], "standard_error": 0.01, "baseline": 0.6}
    assert not is_near_chance(mean_over_seeds(far, 400), far["baseline"])
    few = {**far, "standard_error": 0.06}  # so few examples that it says nothing
    assert is_near_chance(mean_over_seeds(few, 60), few["baseline"])
    worse = {**far, "values": [0.5, 0.5, 0.5]}
    assert is_near_chance(mean_over_seeds(worse, 400), worse["baseline"])
    spread = {**far, "values": [0.9, 0.6, 0.7], "standard_error": None}
    assert is_near_chance(mean_over_seeds(spread, 400), spread["baseline"])
    commonest = {**far, "values": [0.6], "standard_error": None}  # the very class, always
    assert is_near_chance(mean_over_seeds(commonest, 400), commonest["baseline"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere", "--out", "o.json"], "nowhere"),
        (["nowhere", "--out", "no/o.json"], "there is no folder no"),
        (["nowhere", "--out", "other.json"], "other.json is no file of benchmarks.glue"),
        (["nowhere", "--out", "o.json", "--tasks", "qnli"], "qnli"),
    ],
)
def test_what_cannot_be_fine_tuned_is_one_message(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.json").write_text('{"what": "benchmarks.fill_in"}')
    assert run_command(monkeypatch, *words) == 2
    assert message in capsys.readouterr().err
