"""Runs whose folder is shared, moved, deleted, edited or copied, as a user does it."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from mdlm_atat.cli.main import main
from mdlm_atat.config.files import folder_config, from_tree
from mdlm_atat.config.schema import EvalConfig, ObjectiveConfig
from mdlm_atat.data.prepare import prepare
from mdlm_atat.errors import UserError
from mdlm_atat.lm import load_lm
from mdlm_atat.runs.claim import claim_folder, owned_folder
from mdlm_atat.runs.initial import Initial
from mdlm_atat.runs.request import RunRequest
from mdlm_atat.runs.run import Run
from mdlm_atat.runs.train import train as train_run
from mdlm_atat.training.checkpoint import all_checkpoints, write_checksums
from mdlm_atat.training.engine import Engine
from mdlm_atat.training.folder import settings_of
from processes import run_ranks
from tiny_runs import MASKED, TINY, losses_of, tiny_flags, train, write_text


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    return write_text(tmp_path_factory.mktemp("text") / "text.txt")


@pytest.fixture(autouse=True)
def cache(text, monkeypatch):
    monkeypatch.setenv("ATAT_CACHE", str(text.parent / "cache"))
    monkeypatch.setattr("mdlm_atat.runs.train.finish", lambda *_: None)  # scoring takes longer than the training


@pytest.fixture(scope="module")
def whole(text) -> Path:
    """A run of 8 steps with checkpoints of steps 4 and 8, to be copied."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATAT_CACHE", str(text.parent / "cache"))
        patch.setattr("mdlm_atat.runs.train.finish", lambda *_: None)
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
        before = [checkpoint.checksum for checkpoint in all_checkpoints(run / "checkpoints")]
        with pytest.raises(UserError) as caught:
            train_run(resume=run, progress=False)
        messages.append(str(caught.value))
        assert [checkpoint.checksum for checkpoint in all_checkpoints(run / "checkpoints")] == before
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
    late = pytest.raises(UserError, match=r"changed .*config\.yaml: give the command again")
    with late, owned_folder(lagging, Engine("float32"), pytest.fail):
        pytest.fail("it is not the run that was read")
    assert not (run / ".lock").exists()
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


def test_a_file_in_place_of_the_folder_of_a_new_run_is_told_as_one(text, capsys):
    assert train(text, text, train__num_steps=1) == 2
    assert f"{text} is a file, which is left as it is; choose another --out" in capsys.readouterr().err


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
    (run / "evals").mkdir()
    left = [run / ".metrics.jsonl.1a2b3c4d.writing", run / "evals" / ".step.json.1a2b3c4d.writing"]
    for file in left:
        file.write_text("half")
        os.utime(file, (0, 0))
    (run / "checkpoints" / ".last.writing").write_text("half")
    (run / ".report.html.1a2b3c4d.writing").write_text("another process is writing it")
    shutil.copytree(run / "checkpoints/step-00000008", run / "checkpoints/.writing-step-00000012")
    (run / "checkpoints" / ".mine").write_text("kept")
    assert main(["train", "--resume", str(run)]) == 0
    assert sorted(path.name for path in run.rglob(".*")) == [".mine", ".report.html.1a2b3c4d.writing"]


def test_a_run_copied_without_its_links_is_read_and_resumed(whole, tmp_path, capsys):
    """`last` and `best` are folders then, as after `cp -rL` or on a disk without links."""
    run = shutil.copytree(whole, tmp_path / "run")
    assert not (run / "checkpoints" / "last").is_symlink()
    assert main(["generate", str(run / "checkpoints" / "best"), "--length", "8"]) == 0
    assert main(["train", "--resume", str(run), "--train.num_steps", "10"]) == 0
    assert (run / "checkpoints" / "last").resolve().name == "step-00000010"


@pytest.mark.parametrize("name", ["tokenizer/tokenizer_config.json", "phrases.json", "counts.npy"])
@pytest.mark.parametrize("content", [None, b"", b"{"])
def test_what_a_run_has_lost_of_its_text_is_written_again_when_it_goes_on(name, content, whole, tmp_path, monkeypatch):
    monkeypatch.setattr("mdlm_atat.runs.train.finish", lambda *_: None)
    run = shutil.copytree(whole, tmp_path / "run")
    before = (run / name).read_bytes()
    (run / name).unlink()
    if content is None and name.startswith("tokenizer"):
        shutil.rmtree(run / "tokenizer")
    elif content is not None:
        (run / name).write_bytes(content)
    assert main(["train", "--resume", str(run), "--train.num_steps", "9"]) == 0
    assert (run / name).read_bytes() == before


def edit(run: Path, old: str, new: str) -> None:
    text = (run / "config.yaml").read_text()
    assert text.count(f"  {old}\n") == 1
    (run / "config.yaml").write_text(text.replace(f"  {old}\n", f"  {new}\n"))


FORBIDDEN = {
    "train.seed": ("seed: 0", "seed: 1"),
    "optim.lr": ("lr: 0.003", "lr: 0.01"),
    "train.batch_size": ("batch_size: 4", "batch_size: 8"),
    "data.length": ("length: 16", "length: 8"),
    "objective.schedule": ("schedule: linear", "schedule: cosine"),
}


@pytest.mark.parametrize("path", FORBIDDEN)
def test_what_may_not_change_on_resume_is_refused_alike_by_a_flag_and_by_an_edit(path, whole, tmp_path, capsys):
    run = shutil.copytree(whole, tmp_path / "run")
    if path == "data.length":  # before the first checkpoint run.json has the settings
        shutil.rmtree(run / "checkpoints")
    old, new = FORBIDDEN[path]
    values = old.split()[1], new.split()[1]
    messages: list[str] = []
    for way in ("flag", "edit"):
        flags = [f"--{path}", values[1]] if way == "flag" else []
        if way == "edit":
            edit(run, old, new)
        before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
        capsys.readouterr()
        assert main(["train", "--resume", str(run), *flags]) == 2
        messages.append(capsys.readouterr().err.splitlines()[-1])
        assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before
    assert messages[0] == messages[1]
    assert (
        f"a resumed run cannot change {path} ({values[0]} to {values[1]}): leave it out, or set it back" in messages[0]
    )
    assert f"in {run / 'config.yaml'}; or begin a new run with atat train {run} --out ..." in messages[0]


def test_what_may_change_on_resume_may_change_by_a_flag_or_by_an_edit_and_run_json_says_after_which_step(
    whole, tmp_path, capsys
):
    records, losses = [], []
    for way in ("flag", "edit"):
        run = shutil.copytree(whole, tmp_path / way)
        if way == "edit":
            edit(run, "num_steps: 8", "num_steps: 10")
        assert main(["train", "--resume", str(run), *(["--train.num_steps", "10"] if way == "flag" else [])]) == 0
        assert "train.num_steps: 8 before, 10 now; from here on it is not the same run" in capsys.readouterr().out
        records.append(Run(run).record["changes"])
        losses.append(losses_of(run))
        assert Run(run).config.train.num_steps == 10
    assert records[0] == records[1] == [{"after_step": 8, "setting": "train.num_steps", "before": 8, "now": 10}]
    assert losses[0] == losses[1]
    # the next resume goes on from the settings of step 10
    assert main(["train", "--resume", str(run), "--train.num_steps", "11", "--train.max_minutes", "5"]) == 0
    steps = [(change["after_step"], change["before"], change["now"]) for change in Run(run).record["changes"]]
    assert steps == [(8, 8, 10), (10, 10, 11)]


def test_a_run_that_fell_back_to_an_earlier_checkpoint_notes_the_change_there(whole, tmp_path):
    run = shutil.copytree(whole, tmp_path / "run")
    assert main(["train", "--resume", str(run), "--train.num_steps", "10"]) == 0
    for step in (8, 10):
        shutil.rmtree(run / "checkpoints" / f"step-{step:08d}", ignore_errors=True)
    shutil.copytree(whole / "checkpoints" / "step-00000004", run / "checkpoints" / "step-00000004", dirs_exist_ok=True)
    assert main(["train", "--resume", str(run), "--train.num_micro_batches", "2"]) == 0
    changes = [(change["after_step"], change["setting"]) for change in Run(run).record["changes"]]
    assert changes == [(4, "train.num_steps"), (4, "train.num_micro_batches")]


def test_a_run_of_a_version_that_kept_no_settings_in_its_checkpoints_is_resumed_by_config_yaml(whole, tmp_path, capsys):
    run = shutil.copytree(whole, tmp_path / "run")
    for checkpoint in all_checkpoints(run / "checkpoints"):
        state = json.loads((checkpoint.folder / "state.json").read_text())
        del state["settings"]
        (checkpoint.folder / "state.json").write_text(json.dumps(state))
        (checkpoint.folder / "checksums.json").unlink()
        write_checksums(checkpoint.folder)
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({k: v for k, v in record.items() if k not in ("settings", "folder")}))
    assert main(["train", "--resume", str(run), "--train.seed", "1"]) == 2
    assert "cannot change train.seed (0 to 1)" in capsys.readouterr().err
    assert main(["train", "--resume", str(run), "--train.num_steps", "9"]) == 0
    assert "settings" in all_checkpoints(run / "checkpoints")[-1].state()


def test_settings_that_came_or_went_since_a_checkpoint_are_no_change(whole):
    config = Run(whole).config
    tree = json.loads(json.dumps(settings_of(config)))
    del tree["eval"]["num_samples"], tree["objective"]
    tree["train"]["gone"] = tree["gone"] = {"a": 1}
    assert settings_of(from_tree(tree, "state.json")) == settings_of(
        replace(config, objective=ObjectiveConfig(), eval=replace(config.eval, num_samples=EvalConfig().num_samples))
    )


def move_all(project: Path, elsewhere: Path) -> tuple[Path, list[str]]:
    project.rename(elsewhere)
    return elsewhere / "runs" / "a", []


def move_run(project: Path, elsewhere: Path) -> tuple[Path, list[str]]:
    elsewhere.mkdir()
    (project / "runs" / "a").rename(elsewhere / "a")
    (project / "text.txt").rename(elsewhere / "other.txt")
    return elsewhere / "a", ["--data.source", str(elsewhere / "other.txt")]


def move_tokens(project: Path, elsewhere: Path) -> tuple[Path, list[str]]:
    elsewhere.mkdir()
    corpus = prepare(project / "text.txt", out=elsewhere / "corpus", progress=False)
    (project / "runs" / "a").rename(elsewhere / "a")
    (project / "text.txt").unlink()
    return elsewhere / "a", ["--data.source", str(corpus.folder)]


@pytest.mark.parametrize("move", [move_all, move_run, move_tokens])
def test_a_run_that_was_moved_to_another_place_goes_on_there_bit_for_bit(move, whole, text, tmp_path, monkeypatch):
    project = tmp_path / "project"
    project.mkdir()
    shutil.copy(text, project / "text.txt")
    stop = ["--train.max_minutes", "1e-9"]
    assert main(["train", "demo", "--out", str(project / "runs" / "a"), *tiny_flags(project / "text.txt"), *stop]) == 0
    run, flags = move(project, tmp_path / "elsewhere")
    monkeypatch.setenv("ATAT_CACHE", str(tmp_path / "another cache"))
    assert main(["train", "--resume", str(run), *flags]) == 0
    assert losses_of(run) == losses_of(whole)
    if move == move_all:  # and once more, before it is scored
        again = tmp_path / "elsewhere again"
        (tmp_path / "elsewhere").rename(again)
        assert main(["eval", str(again / "runs" / "a"), "--num_draws", "32"]) == 0


def test_a_run_whose_text_is_nowhere_says_how_to_name_its_place_and_other_text_is_refused(
    text, whole, tmp_path, capsys
):
    run = shutil.copytree(whole, tmp_path / "run")
    missing = tmp_path / "gone.txt"
    edit(run, f"source: {text}", f"source: {missing}")
    assert main(["train", "--resume", str(run)]) == 2
    message = capsys.readouterr().err
    assert f"{run} was trained on {missing}, which is not there any more: put it back" in message
    assert f"go on with atat train --resume {run} and --data.source PLACE" in message
    other = write_text(tmp_path / "other.txt", seed=5)
    assert main(["train", "--resume", str(run), "--data.source", str(other)]) == 2
    assert "has changed since the run began" in capsys.readouterr().err


@pytest.mark.torture  # test_two_processes_match_one goes from two to one
def test_a_run_that_goes_on_in_two_and_then_four_processes_has_the_losses_of_one(text, whole, tmp_path):
    run = tmp_path / "run"
    stop = ["--train.max_minutes", "1e-9"]  # after a step
    assert main(["train", "demo", "--out", str(run), *tiny_flags(text), *stop]) == 0
    run_ranks(2, ["train", "--resume", str(run), *stop])
    run_ranks(4, ["train", "--resume", str(run)])
    assert [row["step"] for row in Run(run).metrics] == list(range(1, 9))
    assert losses_of(run) == pytest.approx(losses_of(whole), abs=1e-5)


@pytest.fixture
def at_work(runs, tmp_path):
    """A run folder whose checkpoint a run at work replaces by a newer one as soon as it is opened to be loaded."""
    shutil.copytree(runs / "masked", tmp_path / "run")

    def trains_on(opened):
        place = tmp_path / "run" / "checkpoints"
        *older, newest = all_checkpoints(place)
        for old in older:
            shutil.rmtree(old.folder)
        newest.folder.rename(place / "step-00000999")
        return opened

    return tmp_path / "run", trains_on


def test_a_model_whose_checkpoint_is_removed_by_its_run_while_it_is_read_is_the_newest_one(at_work, monkeypatch):
    run, trains_on = at_work
    monkeypatch.setattr("mdlm_atat.lm.load.folder_config", lambda home: trains_on(folder_config(home)))
    lm = load_lm(run)
    assert lm.checkpoint is not None
    assert lm.checkpoint.step == 999
    shutil.rmtree(lm.checkpoint.folder)
    assert lm.checkpoint.checksum  # which its evaluations are stored with


def test_a_start_whose_checkpoint_is_gone_by_then_says_to_start_again(at_work):
    run, trains_on = at_work
    initial = trains_on(Initial.open(run))
    with pytest.raises(UserError, match="is gone, since a run is at work there"):
        initial.weights()
