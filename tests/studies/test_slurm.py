"""The script of a job array, run by bash with stubs of Python and of scontrol."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mdlm_atat.studies.slurm import write_array_script

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="the script is bash's")

TASK = """#!/bin/bash
# stands in for Python: works until TERM comes, then ends as `atat experiment run` does
trap 'touch {folder}/saved; exit 143' TERM
echo "$@" > {folder}/started
{then}
while :; do sleep 0.01; done
"""
SCONTROL = """#!/bin/bash
echo "$@" >> {folder}/scontrol.txt
if [ "$1" = show ]; then echo "JobId=77 JobState={state} Reason=None"; fi
"""


def begin(folder: Path, monkeypatch: pytest.MonkeyPatch, *, state: str = "RUNNING", then: str = "") -> subprocess.Popen:
    for name, text in {"python": TASK.format(folder=folder, then=then), "scontrol": SCONTROL}.items():
        (folder / name).write_text(text.replace("{folder}", str(folder)).replace("{state}", state))
        (folder / name).chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(folder / "python"))
        script = write_array_script(folder / "study", "mine", range(3), options=[], at_once=None)
    told = {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "SLURM_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": "2"}
    started = subprocess.Popen(["bash", str(script)], env={**os.environ, **told})
    end_s = time.monotonic() + 20
    while not (folder / "started").exists():
        assert time.monotonic() < end_s
        time.sleep(0.01)
    time.sleep(0.1)  # bash has reached `wait`
    return started


def asked(folder: Path) -> list[str]:
    return (folder / "scontrol.txt").read_text().splitlines() if (folder / "scontrol.txt").exists() else []


def test_a_task_that_is_told_to_end_saves_and_queues_itself_again(tmp_path, monkeypatch):
    started = begin(tmp_path, monkeypatch)
    assert (tmp_path / "started").read_text() == f"-m mdlm_atat experiment run {tmp_path / 'study'} --task 2\n"
    started.send_signal(signal.SIGTERM)
    assert started.wait(20) == 143
    assert (tmp_path / "saved").exists()
    assert asked(tmp_path) == ["show job 77", "requeue 77"]


def test_a_task_that_was_cancelled_saves_and_is_not_queued_again(tmp_path, monkeypatch):
    started = begin(tmp_path, monkeypatch, state="COMPLETING")
    started.send_signal(signal.SIGTERM)
    assert started.wait(20) == 143
    assert (tmp_path / "saved").exists()
    assert asked(tmp_path) == ["show job 77"]


@pytest.mark.parametrize("code", [0, 1, 130])
def test_a_task_that_ends_by_itself_keeps_its_exit_code_and_is_not_queued_again(tmp_path, monkeypatch, code):
    assert begin(tmp_path, monkeypatch, then=f"exit {code}").wait(20) == code
    assert asked(tmp_path) == []
