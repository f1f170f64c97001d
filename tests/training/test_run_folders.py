"""Runs whose folder is shared, moved, deleted, edited or copied, as a user does it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from mdlm_atat.cli.main import main
from mdlm_atat.errors import UserError
from mdlm_atat.runs.request import RunRequest
from mdlm_atat.runs.train import claim_folder
from mdlm_atat.runs.train import train as train_run
from mdlm_atat.training.checkpoint import all_checkpoints
from tiny_runs import MASKED, TINY, losses_of, train, write_text

pytestmark = pytest.mark.usefixtures("no_report")


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    return write_text(tmp_path_factory.mktemp("text") / "text.txt")


@pytest.fixture(autouse=True)
def cache(text, monkeypatch):
    monkeypatch.setenv("ATAT_CACHE", str(text.parent / "cache"))


@pytest.fixture(scope="module")
def whole(text) -> Path:
    """A run of 8 steps with checkpoints of steps 4 and 8, to be copied."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATAT_CACHE", str(text.parent / "cache"))
        patch.setattr("mdlm_atat.runs.train.write_report", lambda folder: folder / "report.html")
        assert train(text, text.parent / "whole") == 0
    return text.parent / "whole"


def disturbed(text: Path, run: Path, disturb, *, at_step: int = 6) -> str:
    """The message of a run of 8 steps in whose step something happens to its folder."""

    def on_step(step: int, _: object) -> None:
        if step == at_step:
            disturb()

    settings = {**MASKED, **TINY, "train.log_interval_steps": 2}
    with pytest.raises(UserError) as caught:
        train_run("demo", data=text, out=run, on_step=on_step, progress=False, settings=settings)
    return str(caught.value)


def test_a_run_is_refused_while_another_process_trains_it_and_its_checkpoints_stay(text, tmp_path):
    run = tmp_path / "run"
    messages: list[str] = []

    def resume() -> None:
        before = [checkpoint.checksum() for checkpoint in all_checkpoints(run / "checkpoints")]
        with pytest.raises(UserError) as caught:
            train_run(resume=run, progress=False)
        messages.append(str(caught.value))
        assert [checkpoint.checksum() for checkpoint in all_checkpoints(run / "checkpoints")] == before
        raise UserError("enough")

    assert disturbed(text, run, resume) == "enough"
    assert f"process {os.getpid()} on this machine is at work in {run}" in messages[0]
    assert not (run / ".lock").exists()


def test_a_resume_that_lags_behind_begins_with_what_the_other_process_has_left(whole, tmp_path):
    """It has read config.yaml before the other one ended, which has changed it."""
    run = shutil.copytree(whole, tmp_path / "run")
    lagging = RunRequest(resume=run, settings={})
    lagging.run_config()
    assert main(["train", "--resume", str(run), "--train.num_steps", "10"]) == 0
    with pytest.raises(UserError, match=r"changed .*config\.yaml: give the command again"):
        claim_folder(lagging, pytest.fail)
    assert all_checkpoints(run / "checkpoints")[-1].step == 10


def test_a_run_that_is_moved_in_training_ends_there_with_its_state_and_goes_on_bit_for_bit(text, whole, tmp_path):
    run, there = tmp_path / "run", tmp_path / "there"
    message = disturbed(text, run, lambda: run.rename(there))
    assert f"{run} was moved to {there} while it was trained" in message
    assert f"the state after step 6 is saved there: go on with `train(resume='{there}')`" in message
    assert not run.exists()
    assert main(["train", "--resume", str(there)]) == 0
    assert losses_of(there)[-1] == losses_of(whole)[-1]


def test_a_run_that_is_deleted_in_training_is_saved_again_where_it_was_and_goes_on(text, whole, tmp_path):
    run = tmp_path / "runs" / "run"
    message = disturbed(text, run, lambda: shutil.rmtree(run.parent))
    assert f"{run} was deleted while it was trained; training stopped, and the state after step 6 is saved" in message
    assert [checkpoint.step for checkpoint in all_checkpoints(run / "checkpoints")] == [6]
    assert main(["train", "--resume", str(run)]) == 0
    assert losses_of(run)[-1] == losses_of(whole)[-1]


def test_a_run_whose_place_is_taken_says_that_it_could_not_be_saved_and_leaves_that_alone(text, tmp_path, monkeypatch):
    monkeypatch.setattr("mdlm_atat.training.owner.GOING_S", 0.1)
    run = tmp_path / "run"

    def replace() -> None:
        shutil.rmtree(run)
        run.mkdir()
        (run / "mine").write_text("precious")

    message = disturbed(text, run, replace)
    assert "could not be saved there again" in message
    assert [path.name for path in run.iterdir()] == ["mine"]


STARTS = {  # what a killed process has written, and whether the same command works again
    "only the lock": ([".lock"], True),
    "a file half written": ([".lock", ".run.json.1a2b3c4d.writing"], True),
    "half of it": ([".lock", "run.json", "tokenizer/tokenizer.json"], True),
    "all but config.yaml": (["run.json", "tokenizer/tokenizer.json", "counts.npy", "phrases.json"], True),
    "a tokenizer of the user's": (["tokenizer/tokenizer.json"], False),
    "something of the user's": (["run.json", "notes.txt"], False),
    "a run that has lost its config.yaml": (["run.json", "checkpoints/step-00000004/state.json"], False),
}


@pytest.mark.parametrize("case", STARTS)
def test_a_run_that_died_before_config_yaml_was_written_is_started_again_by_the_same_command(
    case, text, tmp_path, capsys
):
    names, works = STARTS[case]
    run = tmp_path / "run"
    for name in names:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("{}")
    if "run.json" in names and works:
        assert main(["train", "--resume", str(run)]) == 2
        assert "start it again as it was started" in capsys.readouterr().err
    assert train(text, run, train__num_steps=1) == (0 if works else 2)
    assert all((run / name).exists() for name in names if not name.startswith(".") and not works)
    assert not [path.name for path in run.iterdir() if path.name.startswith(".")] or not works
    if not works:
        assert "is not empty, which is left as it is" in capsys.readouterr().err


def test_runs_that_nobody_has_named_get_names_of_their_own_in_the_same_second(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mdlm_atat.runs.request.time.strftime", lambda *_: "20260101-000000")
    settings = {**MASKED, **TINY, "data.source": str(text)}
    owners = [claim_folder(RunRequest(config="demo", settings=settings), pytest.fail) for _ in range(3)]
    names = ["demo-20260101-000000", "demo-20260101-000000-2", "demo-20260101-000000-3"]
    assert [owner.folder.name for owner in owners] == names
    for owner in reversed(owners):
        owner.release()
    assert list(tmp_path.iterdir()) == []


def test_what_killed_processes_were_writing_is_swept_when_the_run_goes_on(whole, tmp_path):
    run = shutil.copytree(whole, tmp_path / "run")
    left = [run / ".metrics.jsonl.1a2b3c4d.writing", run / "checkpoints" / ".last.writing"]
    for file in left:
        file.write_text("half")
    shutil.copytree(run / "checkpoints/step-00000008", run / "checkpoints/.writing-step-00000012")
    (run / "checkpoints" / ".mine").write_text("kept")
    assert main(["train", "--resume", str(run)]) == 0
    assert sorted(path.name for path in run.rglob(".*")) == [".mine"]


def test_a_run_copied_without_its_links_is_read_and_resumed(whole, tmp_path, capsys):
    """`last` and `best` are folders then, as after `cp -rL` or on a disk without links."""
    run = shutil.copytree(whole, tmp_path / "run")
    assert not (run / "checkpoints" / "last").is_symlink()
    assert main(["generate", str(run / "checkpoints" / "best"), "--length", "8"]) == 0
    assert main(["train", "--resume", str(run), "--train.num_steps", "10"]) == 0
    assert (run / "checkpoints" / "last").resolve().name == "step-00000010"
