"""`train.on_nan rewind`: after a number that is not finite a run goes back to its last checkpoint and on in another
order."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

import mdlm_atat
from faulty import Unstable
from mdlm_atat.cli.main import main
from mdlm_atat.data.tokens import batch_at
from mdlm_atat.errors import UserError
from mdlm_atat.training import assemble
from mdlm_atat.training.checkpoint import all_checkpoints
from mdlm_atat.training.folder import note_resumed
from processes import run_ranks
from tiny_runs import MASKED, TINY, losses_of, tiny_flags, train

pytestmark = pytest.mark.usefixtures("no_report", "faults")
SETTINGS = {"model__kind": "faulty:Unstable", "train__on_nan": "rewind", "eval__num_samples": 0}
REWOUND = [{"bad_step": 6, "to_step": 4}]  # checkpoints every 4 steps; calls 1 to 3 are those of the dry run
AT_STEP_6 = "9"


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[list[list[int]]]:
    """The sequences of each batch that is read from now on."""
    read: list[list[list[int]]] = []

    def recorded(*arguments, **keywords):
        ids, lengths = batch_at(*arguments, **keywords)
        read.append(ids.tolist())
        return ids, lengths

    monkeypatch.setattr(assemble, "batch_at", recorded)
    return read


def rewinds_of(run: Path) -> list[dict]:
    return json.loads((run / "run.json").read_text())["rewinds"]


def weights_of(run: Path) -> dict:
    newest = all_checkpoints(run / "checkpoints")[-1]
    return {kind: newest.read(kind, lambda _: None) for kind in ("model", "ema", "optimizer")}


def same(a: dict, b: dict) -> bool:
    return all(a[kind].keys() == b[kind].keys() and all(a[kind][n].equal(b[kind][n]) for n in a[kind]) for kind in a)


@pytest.mark.slow
def test_a_run_goes_back_to_its_last_checkpoint_takes_another_order_and_resumes_bit_for_bit(
    text, tmp_path, faults, rows, capsys
):
    assert train(text, tmp_path / "clean", **SETTINGS) == 0
    assert len(rows) == len(Unstable.times) == 3 + 8
    rows.clear()
    Unstable.times.clear()
    faults.setattr(Unstable, "num_calls", 0)
    faults.setenv("NAN_CALLS", AT_STEP_6)
    assert train(text, tmp_path / "run", **SETTINGS) == 0
    assert "step 6 gave a number that is not finite: back to step 4, with another data order" in capsys.readouterr().out
    assert rewinds_of(tmp_path / "run") == REWOUND
    for of_calls in (rows, Unstable.times):  # other sequences, and other times and masks, when steps 5 and 6 come again
        assert not [call for call in of_calls[9:11] if call in of_calls[7:9]]
    clean, losses = losses_of(tmp_path / "clean"), losses_of(tmp_path / "run")
    assert len(losses) == 8  # one line a step, as nothing had happened
    assert losses[:4] == clean[:4]
    assert all(map(math.isfinite, losses))
    assert not set(losses[4:]) & set(clean[4:])
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row.get("train/num_rewinds", 0) for row in rows if "train/loss" in row] == [0] * 4 + [1] * 4

    faults.setattr(Unstable, "num_calls", 0)
    taken: list[int] = []

    def stop_at_6(step, _values):
        taken.append(step)
        return step == 6

    config = mdlm_atat.Run(tmp_path / "run").config
    stopped = mdlm_atat.train(config, out=tmp_path / "parts", on_step=stop_at_6, progress=False)
    assert stopped.stopped == "on_step returned True"
    assert taken == [1, 2, 3, 4, 5, 5, 6]
    faults.setenv("NAN_CALLS", "")
    assert main(["train", "--resume", str(tmp_path / "parts")]) == 0
    assert losses_of(tmp_path / "parts") == losses
    assert same(weights_of(tmp_path / "parts"), weights_of(tmp_path / "run"))


def test_a_run_that_is_deleted_after_it_went_back_is_saved_again_with_what_happened_to_it(text, tmp_path, faults):
    faults.setenv("NAN_CALLS", AT_STEP_6)
    faults.setattr("mdlm_atat.training.owner.GOING_S", 0.1)

    def delete_at_7(step, _values):
        if step == 7:
            shutil.rmtree(tmp_path / "run")

    settings = {**MASKED, **TINY, **SETTINGS, "train__num_micro_batches": "auto"}
    settings = {name.replace("__", "."): value for name, value in settings.items()}
    with pytest.raises(UserError, match="was deleted while it was trained"):
        mdlm_atat.train("demo", data=text, out=tmp_path / "run", on_step=delete_at_7, progress=False, settings=settings)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["rewinds"] == [{"bad_step": 5, "to_step": 4}]
    assert record["micro_batches"] == [{"after_step": 0, "num_micro_batches": 1}]
    assert mdlm_atat.Run(tmp_path / "run").config.train.num_micro_batches == 1


def test_what_was_noted_of_steps_that_are_taken_again_is_not_noted_twice(tmp_path):
    record: dict = {
        "changes": [{"after_step": step, "setting": "optim.lr", "before": 1, "now": 2} for step in (2, 4, 8)],
        "micro_batches": [{"after_step": step, "num_micro_batches": step + 1} for step in (0, 4, 6)],
        "rewinds": [{"bad_step": 3, "to_step": 2}, {"bad_step": 6, "to_step": 4}],
    }
    (tmp_path / "run.json").write_text(json.dumps(record))
    kept = note_resumed(tmp_path, {}, 4, 1)
    assert kept == json.loads((tmp_path / "run.json").read_text())
    assert {name: kept[name] for name in record} == {
        name: entries[:num] for (name, entries), num in zip(record.items(), (1, 2, 1), strict=True)
    }
    first = note_resumed(tmp_path, {}, 0, 0)
    assert (first["changes"], first["micro_batches"], first["rewinds"]) == ([], record["micro_batches"][:1], [])


def test_after_so_many_rewinds_a_run_ends_with_the_error_and_its_last_good_checkpoint(text, tmp_path, faults, capsys):
    faults.setenv("NAN_CALLS", "9 11 12 13")
    assert train(text, tmp_path / "run", **SETTINGS, train__max_rewinds=2) == 2
    said = capsys.readouterr().err
    assert "not finite numbers in step 5" in said
    assert "It went back 2 times before (train.max_rewinds)" in said
    assert len(rewinds_of(tmp_path / "run")) == 2
    assert [c.step for c in all_checkpoints(tmp_path / "run" / "checkpoints")] == [4]
    assert all_checkpoints(tmp_path / "run" / "checkpoints")[0].fault() is None


def test_before_the_first_checkpoint_there_is_nothing_to_go_back_to(text, tmp_path, faults, capsys):
    faults.setenv("NAN_CALLS", "6")
    assert train(text, tmp_path / "run", **SETTINGS) == 2
    assert "not finite numbers in step 3" in capsys.readouterr().err
    assert not all_checkpoints(tmp_path / "run" / "checkpoints")


@pytest.mark.slow
def test_two_processes_go_back_together_when_one_of_them_meets_nan(text, tmp_path, faults):
    faults.setenv("NAN_CALLS", AT_STEP_6)
    faults.setenv("FAULTY_RANK", "1")
    run_ranks(2, ["train", "demo", "--out", str(tmp_path / "run"), *tiny_flags(text, **SETTINGS)])
    assert rewinds_of(tmp_path / "run") == REWOUND
    assert len(losses_of(tmp_path / "run")) == 8
    assert all(map(math.isfinite, losses_of(tmp_path / "run")))
