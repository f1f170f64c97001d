"""`atat experiment`: two commands from a grid to the table."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from refusals import refused

from mdlm_atat.cli.main import main
from studies.grids import STAND_IN_ATAT, grid_file, run, steps_taken, use_stand_in
from tiny_runs import write_text

QUICK = (  # of the shipped grid, as small as it gets
    *("--seeds", "0", "--arms", "mdlm", "atat", "--budget", "steps=200"),
    *("--data.length", "16", "--model.num_layers", "1", "--model.width", "16", "--train.batch_size", "8"),
    *("--importance.width", "16", "--importance.num_layers", "1", "--importance.num_heads", "2"),
    *("--optim.warmup_steps", "2", "--train.log_interval_steps", "1", "--train.eval_interval_steps", "100"),
    *("--train.checkpoint_interval_steps", "20", "--eval.num_draws", "32", "--eval.final_num_draws", "64"),
    *("--eval.num_samples", "1", "--eval.sample_steps", "4"),
)


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_stand_in(monkeypatch, tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_quick_grid_interrupted_and_run_again_takes_no_step_twice_and_ends_with_a_report(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("ATAT_CACHE", str(tmp_path / "cache"))
    text = write_text(tmp_path / "text.txt")
    out = tmp_path / "quick"
    words = ["experiment", "run", "quick", "--out", str(out), *QUICK, "--data.source", str(text)]
    runner = subprocess.Popen([sys.executable, "-m", "mdlm_atat", *words], stdout=subprocess.PIPE, text=True)
    metrics = out / "runs/mdlm/seed-0/metrics.jsonl"
    while runner.poll() is None and not (metrics.exists() and len(metrics.read_text().splitlines()) > 5):
        time.sleep(0.01)
    runner.send_signal(signal.SIGINT)
    said, _ = runner.communicate(timeout=120)
    assert runner.returncode == 130, said
    assert f"go on      atat experiment run {out}" in said
    assert list((out / "runs/mdlm/seed-0/checkpoints").glob("step-*"))

    assert main(words) == 0
    said = capsys.readouterr().out
    assert "continue   mdlm-seed-0" in said
    for arm in ("mdlm", "atat"):
        lines = [json.loads(line) for line in (out / f"runs/{arm}/seed-0/metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines if "train/loss" in line] == list(range(1, 201))
    results = json.loads((out / "results.json").read_text())
    assert [entry["status"] for entry in results["runs"]] == ["done", "done"]
    difference = results["derived"]["text.txt"]["atat"]["difference"]
    assert difference["over"] == "draws"  # one seed, and the evaluations keep their draws
    assert difference["standard_error"] > 0
    overhead = results["derived"]["text.txt"]["atat"]["overhead"]
    assert overhead["parameters_ratio"] > 1
    assert overhead["peak_memory_ratio"] > 0
    assert (out / "report.html").stat().st_size > 10_000
    assert main(words) == 0
    assert capsys.readouterr().out.count("there already") == 2


def test_the_list_has_a_line_for_each_shipped_grid(capsys):
    assert main(["experiment", "list"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == ["ablations", "main", "quick"]


def test_a_dry_run_says_the_commands_and_writes_nothing(tmp_path, capsys):
    out = tmp_path / "out"
    assert run(grid_file(tmp_path), out, "--dry-run") == 0
    *commands, whole = capsys.readouterr().out.splitlines()
    assert len(commands) == 4
    assert "--train.seed 1 --train.num_steps 8" in commands[-1]
    assert whole == "4 runs"
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "quikc"], "unknown grid 'quikc'; did you mean quick?"),
        (["run", "quick", "--processes", "0"], "--processes is 0, expected at least 1"),
        (["run", "quick", "--budget", "steps"], "--budget is 'steps', expected e.g. steps=1000"),
        (["run", "quick", "--optim.lrr", "3"], "--optim.lrr: unknown flag; did you mean --optim.lr?"),
        (["run", "quick", "--submit"], "--submit and --sbatch-option go with --slurm"),
        (["run", "quick", "--task", "99"], "--task 99 is no run, expected 0 to 7"),
        (["run", "quick", "--task", "1", "--slurm"], "--slurm writes an array of all runs"),
        (["run", "quick", "--arms", "atat"], "--arms leaves out the baseline mdlm"),
        (
            ["run", "quick", "--arms", "atat"],
            "or leave --arms out and train one run alone with --task N, by its number",
        ),
        (["status", "no-such"], "no-such is no experiment: it holds no grid.yaml"),
        (["report", "no-such"], "no-such is no experiment: it holds no grid.yaml"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in refused(["experiment", *words], capsys, tmp_path)


def test_a_folder_that_is_something_else_is_left_alone(tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "letter.txt").write_text("dear")
    assert run(grid_file(tmp_path), out) == 2
    assert "is not an experiment and is not empty" in capsys.readouterr().err
    assert [file.name for file in out.iterdir()] == ["letter.txt"]


def test_more_seeds_are_added_to_an_experiment_and_none_is_forgotten(stand_in):
    out = stand_in / "out"
    file = grid_file(stand_in, seeds=[0])
    assert run(file, out) == 0
    assert main(["experiment", "run", str(out), "--seeds", "1"]) == 0
    results = json.loads((out / "results.json").read_text())
    assert [(entry["arm"], entry["seed"]) for entry in results["runs"]] == [
        ("mdlm", 0),
        ("mdlm", 1),
        ("atat", 0),
        ("atat", 1),
    ]
    assert len(steps_taken(out, "mdlm")) == 16


STUB = """#!/bin/bash
# stands in for SLURM's sbatch: notes its arguments, runs the last task of the array, whose trainings are the stand-in's
echo "$@" > {folder}/arguments.txt
script="${{!#}}"
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$script")
sed 's#-m mdlm_atat#{stand_in}#' "$script" > {folder}/task.sh
SLURM_ARRAY_TASK_ID=$last bash {folder}/task.sh > {folder}/task.txt 2>&1 || exit 1
echo "4242;cluster"
"""


@pytest.fixture
def sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder first on PATH with a stub of sbatch."""
    folder = tmp_path / "bin"
    folder.mkdir()
    stub = folder / "sbatch"
    stub.write_text(STUB.format(folder=folder, stand_in=STAND_IN_ATAT))
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


@pytest.mark.slow
def test_a_job_array_is_submitted_and_a_task_trains_its_run_and_no_other(stand_in, sbatch, capsys):
    out = stand_in / "out"
    file = grid_file(stand_in, seeds=[0])
    words = ["--slurm", "--submit", "--processes", "3", "--sbatch-option=--partition=gpu", "--sbatch-option=--time=10"]
    assert run(file, out, *words) == 0
    said = capsys.readouterr().out
    assert f"written    {out / 'slurm.sh'}: 2 tasks" in said
    assert "submitted  job 4242" in said
    script = (out / "slurm.sh").read_text()
    assert "#SBATCH --array=0-1%3\n" in script
    assert "#SBATCH --partition=gpu\n#SBATCH --time=10\n" in script
    assert (sbatch / "arguments.txt").read_text() == f"--parsable {out / 'slurm.sh'}\n"
    assert "done       atat-seed-0" in (sbatch / "task.txt").read_text()
    results = json.loads((out / "results.json").read_text())
    assert {entry["arm"]: entry["status"] for entry in results["runs"]} == {"mdlm": "waiting", "atat": "done"}


def test_without_sbatch_the_script_is_written_and_the_message_says_so(stand_in, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(stand_in))
    out = stand_in / "out"
    assert run(grid_file(stand_in), out, "--slurm", "--submit") == 2
    assert "there is no sbatch on this machine; the script is written" in capsys.readouterr().err
    assert (out / "slurm.sh").exists()


def test_what_sbatch_says_against_a_script_is_told(stand_in, sbatch, capsys):
    (sbatch / "sbatch").write_text("#!/bin/bash\necho 'invalid partition specified: gpuu' >&2\nexit 1\n")
    out = stand_in / "out"
    assert run(grid_file(stand_in), out, "--slurm", "--submit", "--sbatch-option=--partition=gpuu") == 2
    assert "invalid partition specified: gpuu" in capsys.readouterr().err
    assert run(grid_file(stand_in), stand_in / "other", "--slurm", "--sbatch-option=partition") == 2
    assert "'partition' is no option of sbatch" in capsys.readouterr().err
