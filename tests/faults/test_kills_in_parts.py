"""Two processes that write checkpoints in parts, killed with signal 9 at random moments: what is left is whole."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from mdlm_atat.training.checkpoint import all_checkpoints
from processes import run_ranks, start_ranks
from tiny_runs import losses_of, tiny_flags, write_text

SEED = int(os.environ.get("TORTURE_SEED", "0"))
SETTINGS = {
    "train__num_steps": 60,
    "train__shard": True,
    "train__whole_checkpoint_gib": 0,
    "train__checkpoint_interval_steps": 1,
    "train__eval_interval_steps": 60,
    "eval__num_samples": 0,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody kills, beside its text."""
    folder = tmp_path_factory.mktemp("whole")
    flags = tiny_flags(write_text(folder / "text.txt"), **SETTINGS)
    run_ranks(2, ["train", "demo", "--out", str(folder / "run"), *flags])
    return folder


@pytest.mark.torture
@pytest.mark.parametrize("number", range(6))
def test_two_processes_killed_while_they_write_parts_leave_a_whole_checkpoint_and_go_on_from_it(
    whole, tmp_path, number
):
    run = tmp_path / "run"
    flags = tiny_flags(whole / "text.txt", **SETTINGS)
    ranks = start_ranks(2, ["train", "demo", "--out", str(run), *flags])
    end_s = time.monotonic() + 120
    while not all_checkpoints(run / "checkpoints"):
        assert time.monotonic() < end_s
        time.sleep(0.01)
    after_s = random.Random(f"{SEED} {number}").uniform(0, 1.5)
    time.sleep(after_s)
    for each in ranks:
        each.send_signal(signal.SIGKILL)
    for each in ranks:
        each.wait()
    told = f"killed {after_s:.3f} s after the first checkpoint (TORTURE_SEED={SEED}, number {number})"
    checkpoints = all_checkpoints(run / "checkpoints")
    assert all(checkpoint.is_in_parts and checkpoint.fault() is None for checkpoint in checkpoints), told
    run_ranks(2, ["train", "--resume", str(run)])
    assert losses_of(run) == losses_of(whole / "run"), told
    assert not list((run / "checkpoints").glob(".writing*")), told
