"""`atat finetune` from a task's files to its stored results."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from refusals import changed, refused

from finetuning.examples import as_tsv, cat_examples
from mdlm_atat import MaskedDiffusionLM
from mdlm_atat.cli.main import main
from mdlm_atat.finetuning.training import Finetuning, Hooks


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """A file to train on, and dev.tsv to score on."""
    (tmp_path / "cats.tsv").write_text(as_tsv(cat_examples(200, 0)))
    (tmp_path / "dev.tsv").write_text(as_tsv(cat_examples(50, 1)))
    return tmp_path / "cats.tsv"


def command(model: Path, task: Path, *more: object) -> list[str]:
    quick = ["--epochs", "3", "--lr", "3e-2", "--out", task.parent / "out", "--dev", task.parent / "dev.tsv"]
    return changed([*map(str, ["finetune", model, "--task", task, *quick])], *more)


def stored(task: Path, name: str) -> dict:
    return json.loads((task.parent / "out" / f"{name}.json").read_text())


def test_three_seeds_are_stored_and_summarised_with_their_mean_deviation_baseline_and_provenance(runs, task, capsys):
    assert main(command(runs / "masked", task)) == 0
    output = capsys.readouterr().out
    seeds = [stored(task, f"cats-seed{seed}") for seed in range(3)]
    summary = stored(task, "cats-summary")
    values = [seed["last_epoch"]["metrics"]["accuracy"] for seed in seeds]
    found = summary["last_epoch"]["accuracy"]
    mean = sum(values) / 3
    assert found["values"] == values
    assert found["mean"] == pytest.approx(mean)
    assert found["standard_deviation"] == pytest.approx((sum((v - mean) ** 2 for v in values) / 2) ** 0.5)
    assert f"{mean:.4f} ± {found['standard_deviation']:.4f}" in output
    assert (
        f"standard error from there being 50 examples to score: accuracy {summary['standard_error']['accuracy']:.4f}"
        in output
    )
    most = max(task_labels(task, "cats.tsv"), key=task_labels(task, "cats.tsv").count)
    assert summary["baseline"]["accuracy"] == task_labels(task, "dev.tsv").count(most) / 50
    assert values[0] > summary["baseline"]["accuracy"] + 0.1
    accounts = seeds[0]["data"]["accounts"]
    assert accounts == {"train": 200, "dev": 50, "rule": "given", "repeated": accounts["repeated"]}
    assert "200 examples to train on, 50 to score on (given)" in output
    for seed in seeds:
        scores = [sum(epoch["metrics"].values()) for epoch in seed["epochs"]]
        assert seed["last_epoch"] == {"epoch": 3, "metrics": seed["epochs"][-1]["metrics"]}
        assert seed["best_epoch"]["epoch"] == scores.index(max(scores)) + 1
        assert "too high" in seed["best_epoch"]["chosen_on"]
        named = ("checkpoint_hash", "weights", "data_hash", "commit", "code_version", "machine", "settings", "command")
        assert all(seed[name] for name in named)
        assert len(seed["predictions"]) == 50


def task_labels(task: Path, name: str) -> list[str]:
    return [line.split("\t")[1] for line in (task.parent / name).read_text().splitlines()[1:]]


def test_without_out_the_results_are_in_the_run_and_the_run_stays_usable(runs, task, tmp_path):
    shutil.copytree(runs / "masked", tmp_path / "run", symlinks=True)
    words = ["finetune", str(tmp_path / "run"), "--task", str(task), "--seeds", "1", "--epochs", "1"]
    assert main(words) == 0
    names = {file.name for file in (tmp_path / "run" / "finetune").iterdir()}
    assert names == {"cats-seed0.json", "cats-summary.json", "cats-classifier"}


def test_a_seed_that_is_stored_is_not_run_again_and_one_more_is(runs, task, capsys):
    assert main(command(runs / "masked", task, "--seeds", 1)) == 0
    first = stored(task, "cats-seed0")
    capsys.readouterr()
    assert main(command(runs / "masked", task, "--seeds", 2)) == 0
    output = capsys.readouterr().out
    assert f"seed 0     stored already: accuracy {first['last_epoch']['metrics']['accuracy']:.4f}" in output
    assert "seed 0     epoch" not in output
    assert output.count("seed 1     epoch") == 3
    assert stored(task, "cats-seed0") == first
    assert stored(task, "cats-summary")["seeds"] == [0, 1]


def test_ctrl_c_loses_the_running_seed_alone_and_the_same_command_goes_on(runs, task, capsys, monkeypatch):
    run = Finetuning.run

    def interrupted(self: Finetuning, seed: int, hooks: Hooks):
        if seed == 1:
            raise KeyboardInterrupt
        return run(self, seed, hooks)

    with monkeypatch.context() as patch:
        patch.setattr(Finetuning, "run", interrupted)
        assert main(command(runs / "masked", task)) == 130
    assert "1 of 3 seeds are stored" in capsys.readouterr().out
    assert {file.name for file in (task.parent / "out").iterdir()} == {"cats-seed0.json", "cats-classifier"}
    assert main(command(runs / "masked", task)) == 0
    assert "seed 0     stored already" in capsys.readouterr().out
    assert stored(task, "cats-summary")["seeds"] == [0, 1, 2]


def test_a_result_of_other_settings_weights_or_examples_is_never_taken_for_this_one(runs, task, capsys):
    assert main(command(runs / "masked", task, "--seeds", 1)) == 0
    first = stored(task, "cats-seed0")
    for model, more, message in (
        (runs / "masked", ("--lr", "1e-3"), "lr 0.03 there, 0.001 now"),
        (runs / "adaptive", (), "other weights"),
    ):
        capsys.readouterr()
        assert main(command(model, task, "--seeds", 1, *more)) == 2
        error = capsys.readouterr().err
        assert message in error
        assert "--again puts the new result in its place, --out FOLDER puts it elsewhere" in error
        assert stored(task, "cats-seed0") == first
    (task.parent / "dev.tsv").write_text(as_tsv(cat_examples(40, 2)))
    assert main(command(runs / "masked", task, "--seeds", 1)) == 2
    assert "other examples" in capsys.readouterr().err
    assert main(command(runs / "masked", task, "--seeds", 1, "--again")) == 0
    assert stored(task, "cats-seed0")["num_dev"] == 40


def test_a_probe_has_files_of_its_own_and_trains_the_head_alone(runs, task):
    assert main(command(runs / "masked", task, "--seeds", 1, "--probe")) == 0
    assert main(command(runs / "masked", task, "--seeds", 1)) == 0
    probe, whole = stored(task, "cats-probe-summary"), stored(task, "cats-summary")
    assert probe["num_trained_parameters"] == 2 * 32 + 2 < whole["num_trained_parameters"]
    assert probe["settings"]["probe"]
    assert probe["standard_error"]["accuracy"] > 0


def test_a_saved_model_gives_what_its_run_gives_and_a_causal_one_is_taken_too(runs, task, tmp_path):
    saved = MaskedDiffusionLM.from_pretrained(runs / "masked").save_pretrained(tmp_path / "saved")
    assert main(command(runs / "masked", task, "--seeds", 1)) == 0
    first = stored(task, "cats-seed0")
    assert main(command(saved, task, "--seeds", 1, "--again")) == 0
    assert stored(task, "cats-seed0")["predictions"] == first["predictions"]
    assert stored(task, "cats-seed0")["weights"] == first["weights"]
    assert main(command(runs / "causal", task, "--seeds", 1, "--again")) == 0
    assert stored(task, "cats-summary")["settings"]["pooling"] == "last"


def test_a_folder_of_glue_is_scored_by_the_metrics_of_the_task_and_cuts_are_told(runs, tmp_path, capsys):
    (tmp_path / "MRPC").mkdir()
    for split, seed in (("train", 0), ("dev", 1)):
        lines = [
            f"{int(e.label == 'cat')}\t1\t2\t{e.texts[0]}{' and on' * (i == 0)}\t{e.texts[1]}"
            for i, e in enumerate(cat_examples(60, seed, pairs=True))
        ]
        content = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n" + "\n".join(lines) + "\n"
        (tmp_path / "MRPC" / f"{split}.tsv").write_text(content)
    words = ["finetune", runs / "masked", "--task", "mrpc", "--data", tmp_path, "--out", tmp_path / "out"]
    assert main([*map(str, words), "--seeds", "2", "--epochs", "1"]) == 0
    output = capsys.readouterr().out
    assert re.search(r"^accuracy +0\.\d{4} ± ", output, re.MULTILINE)
    assert re.search(r"^F1 +0\.\d{4} ± ", output, re.MULTILINE)
    assert "cut to 16: 1 and 1 of them" in output
    assert json.loads((tmp_path / "out" / "mrpc-summary.json").read_text())["num_cut"] == {"train": 1, "dev": 1}


def test_capitals_and_digits_that_a_model_of_letters_lacks_are_replaced_and_told(runs, task, capsys):
    text = task.read_text().replace("\tcat\n", " 7\tcat\n")
    task.write_text(text)
    assert main(command(runs / "masked", task, "--seeds", 1)) == 0
    assert "of the characters are not in the model's alphabet and were replaced" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--seeds", 0), "--seeds is 0, expected at least 1"),
        (("--seed", 10**20), "--seed is 100000000000000000000, expected at most 2,147,483,647"),
        (("--pooling", "last"), "this model is masked and reads both ways; use mean or first"),
        (("--max_length", 17), "--max_length is 17; this model takes texts of at most 16 tokens"),
        (("--epochs", 0), "--epochs is 0, expected at least 1"),
        (("--regression",), "'none' is no number, as a regression needs"),
        (("--dev", "none.tsv"), "--dev: there is no file none.tsv"),
        (("--dev", "TASK"), "is the file to train on: name another, or leave --dev out"),
        (("--task", "coal"), "did you mean cola?"),
    ],
)
def test_a_mistake_is_one_message_and_nothing_is_written(runs, task, capsys, words, message):
    if words[0] == "--task":
        argv = ["finetune", str(runs / "masked"), *words]
    else:
        argv = command(runs / "masked", task, *(task if word == "TASK" else word for word in words))
    assert message in refused(argv, capsys, task.parent)


def test_a_causal_model_has_no_first_position_and_a_model_that_is_none_is_told(runs, task, capsys):
    error = refused(command(runs / "causal", task, "--pooling", "first"), capsys, task.parent)
    assert "this model is causal and reads to the right; use causal_mean or last, or leave it out" in error
    assert "there is no folder" in refused(command(runs / "nothing", task), capsys, task.parent)


def test_a_stray_quote_in_a_table_of_tabs_is_text_and_told(runs, task, capsys):
    lines = task.read_text().splitlines()
    task.write_text("\n".join([*lines[:9], '"' + lines[9], *lines[10:], ""]))
    assert main(command(runs / "masked", task, "--epochs", "1", "--seeds", "1")) == 0
    output = capsys.readouterr().out
    assert "200 examples to train on" in output
    assert "not as they were: tables in which quotes are text and enclose no cell (1)" in output
