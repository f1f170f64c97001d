"""A grid's runs: started once, continued where they stopped, each failing alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mdlm_atat.cli.main import main
from mdlm_atat.errors import UserError
from mdlm_atat.locks import is_locked, try_lock
from mdlm_atat.studies import processes, runner
from mdlm_atat.studies import results as study_results
from mdlm_atat.studies.grid_file import load_grid
from mdlm_atat.studies.jobs import jobs_of
from mdlm_atat.studies.run import open_study, run_study
from mdlm_atat.studies.run_state import lock_file, read_attempts
from studies.grids import STAND_IN_ATAT, grid_file, run, steps_taken, use_stand_in


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, where training is the stand-in's."""
    use_stand_in(monkeypatch, tmp_path)
    return tmp_path


@pytest.fixture
def in_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, with a process for every run."""
    use_stand_in(monkeypatch, tmp_path, as_processes=True)
    return tmp_path


def test_every_run_takes_every_step_once_and_a_second_call_takes_none(in_processes, capsys):
    out = in_processes / "out"
    assert run(grid_file(in_processes), out, "--processes", "2") == 0
    expected = [f"{seed} {step}" for seed in (0, 1) for step in range(1, 9)]
    for arm in ("mdlm", "atat"):
        assert sorted(steps_taken(out, arm)) == sorted(expected)
    capsys.readouterr()
    assert main(["experiment", "run", str(out)]) == 0
    assert capsys.readouterr().out.count("there already") == 4
    for arm in ("mdlm", "atat"):
        assert len(steps_taken(out, arm)) == 16


def test_a_failed_arm_is_told_and_does_not_stop_the_others(in_processes, capsys):
    out = in_processes / "out"
    arms = {"bad": {"method": "mdlm"}, "mdlm": {"method": "mdlm"}, "atat": {"method": "atat"}}
    assert run(grid_file(in_processes, arms=arms, seeds=[0]), out) == 1
    said = capsys.readouterr().out
    assert "1 of 3 runs failed:\n  bad-seed-0: error: this arm cannot be trained" in said
    results = json.loads((out / "results.json").read_text())
    assert {entry["arm"]: entry["status"] for entry in results["runs"]} == {
        "mdlm": "done",
        "atat": "done",
        "bad": "failed",
    }
    (bad,) = [entry for entry in results["runs"] if entry["arm"] == "bad"]
    assert bad["error"] == "training bad\nerror: this arm cannot be trained"
    assert any(sentence.startswith("1 of 3 runs failed") for sentence in results["caveats"])
    assert main(["experiment", "run", str(out)]) == 1  # it is tried again, and only it
    assert len(read_attempts(out, jobs_of(load_grid(str(out)))[0])) == 2
    assert len(steps_taken(out, "mdlm")) == 8


@pytest.mark.slow
def test_a_runner_that_is_interrupted_goes_on_where_its_runs_stopped(in_processes, capsys):
    out = in_processes / "out"
    arms = {"mdlm": {"method": "mdlm"}, "slow": {"method": "mdlm"}}
    file = grid_file(in_processes, arms=arms, seeds=[0])

    def interrupt() -> None:
        while not (out / "runs/slow/steps.txt").exists() or len(steps_taken(out, "slow")) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert run(file, out) == 130
    thread.join()
    assert f"go on      atat experiment run {out}" in capsys.readouterr().out
    taken = len(steps_taken(out, "slow"))
    assert 2 <= taken < 8
    assert [a.outcome for a in read_attempts(out, jobs_of(load_grid(str(out)))[1])] == ["interrupted"]
    assert main(["experiment", "run", str(out)]) == 0
    assert "continue   slow-seed-0" in capsys.readouterr().out
    assert steps_taken(out, "slow") == [f"0 {step}" for step in range(1, 9)]
    assert len(steps_taken(out, "mdlm")) == 8


def test_sigterm_ends_a_runner_in_the_same_way_with_143(in_processes):
    out = in_processes / "out"
    file = grid_file(in_processes, arms={"slow": {"method": "mdlm"}}, baseline="slow", seeds=[0])
    thread = threading.Timer(0.0, lambda: (wait_for(out / "runs/slow/steps.txt"), os.kill(os.getpid(), signal.SIGTERM)))
    thread.start()
    assert run(file, out) == 143
    thread.join()
    assert (out / "runs/slow/seed-0/step.txt").exists()


def wait_for(file: Path) -> None:
    while not file.exists():
        time.sleep(0.02)


def test_a_run_that_another_runner_holds_is_left_to_it_and_waited_for(stand_in, monkeypatch):
    monkeypatch.setattr(runner, "OTHERS_POLL_S", 0.05)
    out = stand_in / "out"
    file = grid_file(stand_in, seeds=[0])
    assert run(file, out, "--arms", "mdlm") == 0
    jobs = jobs_of(load_grid(str(file)))
    lock = try_lock(lock_file(out, jobs[1]))
    assert lock is not None
    was_begun: list[bool] = []

    def say(text: str) -> None:
        if text == "another runner has atat-seed-0":
            was_begun.append((out / "runs/atat").exists())
            lock.release()

    outcome = run_study(open_study(file, out), say=say)
    assert was_begun == [False]
    assert outcome.runs == {"mdlm-seed-0": "skipped", "atat-seed-0": "done"}
    assert len(steps_taken(out, "atat")) == 8


@pytest.mark.slow
def test_two_runners_share_the_work_and_take_no_step_twice(in_processes):
    out = in_processes / "out"
    file = grid_file(in_processes, seeds=[0, 1], budget={"steps": 30})
    assert main(["experiment", "run", str(file), "--out", str(out), "--arms", "mdlm", "--seeds", "0"]) == 0
    words = [sys.executable, str(STAND_IN_ATAT), "experiment", "run", str(file), "--out", str(out)]
    runners = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [runner.communicate(timeout=100)[0] for runner in runners]
    assert [runner.returncode for runner in runners] == [0, 0], said
    for arm in ("mdlm", "atat"):
        assert set(Counter(steps_taken(out, arm)).values()) == {1}
        assert len(steps_taken(out, arm)) == 60
    assert sum(text.count("start      ") for text in said) == 3


@pytest.mark.slow
def test_two_tasks_at_once_that_lack_other_runs_than_a_file_has_are_both_in_results_json(in_processes):
    out, more = in_processes / "out", ["--done", str(in_processes / "first/results.json")]
    file = grid_file(in_processes)
    assert run(file, in_processes / "first", "--seeds", "0") == 0
    words = [sys.executable, str(STAND_IN_ATAT), "experiment", "run", str(file), "--out", str(out), *more]
    runners = [subprocess.Popen([*words, "--task", task], stdout=subprocess.PIPE, text=True) for task in ("2", "3")]
    said = [runner.communicate(timeout=100)[0] for runner in runners]
    assert [runner.returncode for runner in runners] == [0, 0], said
    results = json.loads((out / "results.json").read_text())
    assert {(one["arm"], one["seed"], one["elsewhere"] is None, one["status"]) for one in results["runs"]} == {
        (arm, seed, seed == 1, "done") for arm in ("mdlm", "atat") for seed in (0, 1)
    }
    assert [len(steps_taken(out, arm)) for arm in ("mdlm", "atat")] == [8, 8]


def test_a_runner_that_collects_slowly_does_not_put_what_it_saw_over_what_another_saw_later(stand_in, monkeypatch):
    out = stand_in / "out"
    study = open_study(grid_file(stand_in, seeds=[0]), out)
    assert run_study(study).report is not None
    report = out / "runs/atat/seed-0/report.html"
    page, begun, ended = report.read_text(), threading.Event(), threading.Event()
    report.unlink()
    derive = study_results.derive

    def slow_once(found: dict[str, Any]) -> dict[str, Any]:
        if not begun.is_set():
            begun.set()
            ended.wait(1.0)
        return derive(found)

    monkeypatch.setattr(study_results, "derive", slow_once)
    slow = threading.Thread(target=study_results.write_results, args=(out, study.grid))
    slow.start()
    assert begun.wait(10)
    report.write_text(page)
    study_results.write_results(out, study.grid)
    ended.set()
    slow.join()
    results = json.loads((out / "results.json").read_text())
    assert [one["status"] for one in results["runs"]] == ["done", "done"]


def test_a_lock_lives_as_long_as_the_child_that_it_was_handed_to(tmp_path):
    lock = try_lock(tmp_path / "a.lock")
    assert lock is not None
    child = subprocess.Popen(["sleep", "30"], pass_fds=(lock.descriptor,))
    lock.release()  # as if the runner had been killed
    assert is_locked(tmp_path / "a.lock")
    child.kill()
    child.wait()
    assert not is_locked(tmp_path / "a.lock")


def test_a_run_killed_before_its_first_step_is_started_anew(stand_in):
    out = stand_in / "out"
    (out / "runs/mdlm/seed-0/tokenizer").mkdir(parents=True)
    shutil.copy(grid_file(stand_in), out / "grid.yaml")
    assert main(["experiment", "run", str(out)]) == 0
    assert len(steps_taken(out, "mdlm")) == 16


@pytest.mark.slow
def test_runs_are_spread_over_the_visible_gpus(in_processes, monkeypatch):
    monkeypatch.setattr("mdlm_atat.studies.processes.visible_devices", lambda: ["2", "5"])
    out = in_processes / "out"
    assert run(grid_file(in_processes, seeds=[0, 1], budget={"steps": 400}), out, "--processes", "4") == 0
    results = json.loads((out / "results.json").read_text())
    assert Counter(entry["machine"]["device"] for entry in results["runs"]) == {"2": 2, "5": 2}
    assert any(sentence.startswith("4 of 4 runs shared a device") for sentence in results["caveats"])


@pytest.mark.parametrize(("named", "expected"), [("1,3", ["1", "3"]), (None, ["0", "1", "2"])])
def test_devices_are_those_that_are_visible(monkeypatch, named, expected):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert processes.visible_devices() == expected


def test_an_arm_that_changed_since_it_was_run_is_refused_and_named(stand_in):
    out = stand_in / "out"
    file = grid_file(stand_in, seeds=[0])
    assert run(file, out) == 0
    grid = load_grid(str(file), {"optim.lr": 0.5})
    from mdlm_atat.studies.jobs import variants_of
    from mdlm_atat.studies.planning import check_plan, read_plan

    with pytest.raises(UserError, match=r"mdlm: optim.lr was 0.006, and is 0.5 now"):
        check_plan(read_plan(out), grid, variants_of(grid), out)
    assert main(["experiment", "run", str(file), "--out", str(out), "--optim.lr", "0.5"]) == 2
    assert len(steps_taken(out, "mdlm")) == 8


def test_another_evaluation_of_a_finished_run_does_not_change_its_value(stand_in):
    out = stand_in / "out"
    assert run(grid_file(stand_in, seeds=[0]), out) == 0
    before = json.loads((out / "results.json").read_text())
    evals = out / "runs/mdlm/seed-0/evals"
    planned = json.loads((evals / "final.json").read_text())
    others = {"more": {"num_draws": 512}, "fewer": {"num_draws": 16}, "seed": {"seed": 7}, "cut": {"mode": "pad"}}
    for name, changed in others.items():
        (evals / f"{name}.json").write_text(json.dumps(planned | changed | {"nelbo_nats_per_token": 1.0}))
    assert main(["experiment", "report", str(out)]) == 0
    after = json.loads((out / "results.json").read_text())
    assert [entry["final"] for entry in after["runs"]] == [entry["final"] for entry in before["runs"]]


def test_an_exact_value_takes_each_sequence_once_and_the_run_is_done(stand_in):
    out = stand_in / "out"
    assert run(grid_file(stand_in, seeds=[0]), out) == 0
    file = out / "runs/mdlm/seed-0/evals/final.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"kind": "exact", "num_draws": 5}))
    assert main(["experiment", "report", str(out)]) == 0
    entry = json.loads((out / "results.json").read_text())["runs"][0]
    assert (entry["status"], entry["final"]["kind"]) == ("done", "exact")


def test_a_damaged_file_of_an_experiment_says_what_to_do(stand_in, capsys):
    out = stand_in / "out"
    assert run(grid_file(stand_in, seeds=[0]), out) == 0
    for file, words in ((out / "plan.json", "plans anew"), (next((out / "jobs").glob("*.json")), "delete it")):
        kept = file.read_text()
        file.write_text(kept[:20])
        capsys.readouterr()
        assert main(["experiment", "report", str(out)]) == 2
        error = capsys.readouterr().err
        assert f"{file.name} is damaged" in error
        assert words in error
        file.write_text(kept)


def test_data_that_changed_is_refused(stand_in, capsys):
    out = stand_in / "out"
    file = grid_file(stand_in, seeds=[0])
    assert run(file, out) == 0
    with (stand_in / "text.txt").open("a") as text:
        text.write("and another line\n" * 50)
    assert main(["experiment", "run", str(out)]) == 2
    assert "the data has changed since the experiment began" in capsys.readouterr().err


def test_a_method_whose_meaning_has_changed_is_refused_in_a_folder_of_before_and_goes_on_by_its_new_name(
    stand_in, capsys
):
    out = stand_in / "out"
    arms = {"mdlm": {"method": "mdlm"}, "atat": {"method": "importance_rates"}}
    assert run(grid_file(stand_in, arms=arms, seeds=[0]), out) == 0
    plan = json.loads((out / "plan.json").read_text())
    for entry in plan.values():
        del entry["settings"]["objective.causal_share"]  # which a later version brought
    (out / "plan.json").write_text(json.dumps(plan))
    grid = (out / "grid.yaml").read_text()
    (out / "grid.yaml").write_text(grid.replace("method: importance_rates", "method: atat"))
    assert main(["experiment", "run", str(out)]) == 2
    message = capsys.readouterr().err
    assert "atat: importance.mode was 'full', and is 'none' now" in message
    assert "atat: objective.causal_share was 0.0, and is 0.625 now" in message
    (out / "grid.yaml").write_text(grid)
    assert main(["experiment", "run", str(out)]) == 0
    assert capsys.readouterr().out.count("there already") == 2


def test_a_budget_of_seconds_is_steps_of_an_arm_timed_alone(stand_in):
    out = stand_in / "out"
    file = grid_file(stand_in, seeds=[0], budget={"gpu_seconds": 10}, branches=[0.5, 1.0])
    assert run(file, out) == 0
    plan = json.loads((out / "plan.json").read_text())
    assert plan["mdlm"]["calibration"]["seconds_per_step"] == pytest.approx(0.5)  # as the stand-in says
    assert (plan["mdlm"]["num_steps"], plan["atat"]["num_steps"]) == (20, 20)
    assert len(steps_taken(out, "mdlm")) == 20
    assert len(steps_taken(out, "atat@0.5")) == 10
    assert not (out / "calibration" / "mdlm").exists()
    results = json.loads((out / "results.json").read_text())
    assert results["runs"][0]["train_seconds"] == pytest.approx(10)


def test_an_arm_whose_seconds_the_grid_says_is_not_timed(stand_in, monkeypatch):
    from mdlm_atat.studies import planning

    def refused(variant, *_):
        raise UserError(f"{variant.key} is timed")

    monkeypatch.setattr(planning, "calibrate", refused)
    out = stand_in / "out"
    said = {"mdlm": 0.9, "atat": 1.1}
    assert run(grid_file(stand_in, seeds=[0], budget={"gpu_seconds": 5}, seconds_per_step=said), out) == 0
    results = json.loads((out / "results.json").read_text())
    assert [(run["num_steps"], run["train_seconds"]) for run in results["runs"]] == [(5, 4.5), (4, 4.4)]
    assert results["derived"]["text.txt"]["atat"]["overhead"]["seconds_per_step_ratio"] == pytest.approx(1.1 / 0.9)


def test_an_arm_that_crashes_while_it_is_timed_fails_alone(stand_in, monkeypatch, capsys):
    from mdlm_atat.studies import planning

    timed = planning.calibrate

    def crash(variant, *rest):
        if variant.arm.name == "bad":
            raise UserError("bad could not be timed")
        return timed(variant, *rest)

    monkeypatch.setattr(planning, "calibrate", crash)
    out = stand_in / "out"
    arms = {"mdlm": {"method": "mdlm"}, "bad": {"method": "mdlm"}}
    assert run(grid_file(stand_in, arms=arms, seeds=[0], budget={"gpu_seconds": 5}), out) == 1
    assert "1 of 2 runs failed:\n  bad-seed-0: bad could not be timed" in capsys.readouterr().out
    assert len(steps_taken(out, "mdlm")) == 10
