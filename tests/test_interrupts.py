"""Ctrl-C, at any moment: heard at once, nothing half done left behind, and what was done can be gone on with."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import tomllib
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mdlm_atat.cli.main import COMMANDS, main
from mdlm_atat.data.train_tokenizer import train_tokenizer
from mdlm_atat.interrupts import interruptible
from mdlm_atat.runs.steps import stop_requests
from mdlm_atat.signals import ends_as_by_ctrl_c, signals_heard
from mdlm_atat.training.checkpoint import all_checkpoints
from tiny_runs import leave_out_reports, losses_of, train_method

pytestmark = pytest.mark.usefixtures("cache_beside_text")


# a validation of two batches every four steps
IN_PARTS = {"train__eval_interval_steps": 4, "eval__batch_size": 16, "train__checkpoint_interval_steps": 3}


@pytest.fixture(scope="module")
def whole(text: Path) -> Path:
    """A run that nobody interrupted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATAT_CACHE", str(text.parent / "cache"))
        leave_out_reports(patch)
        assert train_method("importance_rates", text, text.parent / "whole", **IN_PARTS) == 0
    return text.parent / "whole"


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """`interrupt("module.function", call)`: Ctrl-C comes at the beginning of that call of it, counted from 1. Returns a
    list that grows with every call that ends."""

    def at(path: str, call: int = 1) -> list[str]:
        module, name = path.rsplit(".", 1)
        function = getattr(import_module(module), name)
        calls: list[str] = []
        ended: list[str] = []

        def interrupted(*arguments: Any, **named: Any) -> Any:
            calls.append(name)
            if len(calls) == call:
                signal.raise_signal(signal.SIGINT)
            found = function(*arguments, **named)
            ended.append(name)
            return found

        monkeypatch.setattr(import_module(module), name, interrupted)
        return ended

    return at


def test_ctrl_c_is_heard_while_a_library_is_at_work_and_errors_and_results_come_through():
    goes_on = threading.Event()
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        interruptible(goes_on.wait)
    goes_on.set()
    assert interruptible(lambda: 3) == 3
    with pytest.raises(TimeoutError, match="its own"):
        interruptible(lambda: fail(TimeoutError("its own")))


def fail(error: Exception) -> None:
    raise error


def test_a_tokenizer_is_trained_in_a_thread_of_its_own(tmp_path):
    """The merges take a library minutes, in which Python would hear nothing."""
    threads = []

    class Texts:
        def __iter__(self):
            threads.append(threading.current_thread())
            yield "the cat sat on the mat " * 100

    train_tokenizer(Texts(), vocab_size=260, out=tmp_path / "bpe", progress=False)
    assert threads
    assert threading.main_thread() not in threads


BEFORE_THE_RUN = {
    "preparing": "mdlm_atat.data.prepare.encoded",
    "building": "mdlm_atat.runs.train.build_model",
    "dry run": "mdlm_atat.training.dry_run.forward_backward",
}


@pytest.mark.parametrize("moment", BEFORE_THE_RUN)
def test_ctrl_c_before_the_first_step_leaves_no_run_and_no_half_prepared_text(
    text, tmp_path, monkeypatch, interrupt, moment
):
    monkeypatch.setenv("ATAT_CACHE", str(tmp_path / "cache"))
    ended = interrupt(BEFORE_THE_RUN[moment])
    assert train_method("mdlm", text, tmp_path / "run") == 130
    assert ended == []
    assert not (tmp_path / "run").exists()
    assert not list((tmp_path / "cache").rglob("*.partial"))


IN_THE_LOOP = {  # where, which call of it, the step that the run then stops at
    "in a step": ("mdlm_atat.training.loop.clip_gradients", 3, 3),
    "in the validation": ("mdlm_atat.scoring.likelihood.denoised_nll", 2, 4),
    "in the last validation": ("mdlm_atat.scoring.likelihood.denoised_nll", 4, 8),
}


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("moment", IN_THE_LOOP)
def test_ctrl_c_in_training_ends_with_a_checkpoint_that_goes_on_bit_for_bit(text, whole, tmp_path, interrupt, moment):
    """A validation is left after the batch at hand, and the run that goes on begins with it."""
    parts = tmp_path / "parts"
    function, call, step = IN_THE_LOOP[moment]
    ended = interrupt(function, call)
    assert train_method("importance_rates", text, parts, **IN_PARTS) == 130
    assert len(ended) == call
    assert all_checkpoints(parts / "checkpoints")[-1].step == step
    assert main(["train", "--resume", str(parts)]) == 0
    assert losses_of(parts) == losses_of(whole)
    assert measured(parts) == measured(whole)
    weights = [(run / "checkpoints/last/ema.safetensors").read_bytes() for run in (whole, parts)]
    assert weights[0] == weights[1]


def measured(run: Path) -> list[dict[str, float]]:
    """The rows of metrics.jsonl without what a clock says."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("elapsed_s", "train/tokens_per_s")} for row in rows]


AFTER_THE_LAST_STEP = {
    "scoring": "mdlm_atat.runs.train.measure",
    "samples": "mdlm_atat.samplers.loop.inverse_cdf",
    "report": "mdlm_atat.runs.train.write_report",
}


def empty_report(folder: Path) -> Path:
    (folder / "report.html").touch()
    return folder / "report.html"


@pytest.mark.parametrize("moment", AFTER_THE_LAST_STEP)
def test_ctrl_c_after_the_last_step_stops_at_once_and_the_rest_can_be_made_up_for(
    text, tmp_path, interrupt, moment, capsys, monkeypatch
):
    monkeypatch.setattr("mdlm_atat.runs.train.write_report", empty_report)
    ended = interrupt(AFTER_THE_LAST_STEP[moment])
    assert train_method("mdlm", text, tmp_path / "run") == 130
    assert ended == []
    assert f"for the rest: atat train --resume {tmp_path / 'run'}" in capsys.readouterr().out
    assert not (tmp_path / "run" / "report.html").exists()
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "report.html").exists()


def test_a_process_that_was_started_by_nohup_goes_on_and_ctrl_c_is_heard_in_the_background(monkeypatch):
    heard: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGINT)}
    for number in before:
        signal.signal(number, signal.SIG_IGN)
    try:
        with signals_heard(heard.append):
            for name in ("SIGHUP", "SIGUSR1", "SIGINT", "SIGTERM"):
                signal.raise_signal(getattr(signal, name))
        assert heard == [signal.SIGUSR1, signal.SIGINT, signal.SIGTERM]
        assert {signal.getsignal(number) for number in before} == {signal.SIG_IGN}
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1"])
def test_another_command_ends_by_a_signal_as_by_ctrl_c_and_keeps_what_is_done(
    runs, tmp_path, monkeypatch, capsys, name
):
    """The first batch of texts is in the file, and the same command with --resume goes on from there."""
    from mdlm_atat.runs.texts import Lines

    write, out = Lines.write, tmp_path / "texts.jsonl"

    def interrupted(self: Lines, rows: Any) -> None:
        write(self, rows)
        signal.raise_signal(getattr(signal, name))

    monkeypatch.setattr(Lines, "write", interrupted)
    words = ["generate", str(runs / "masked"), "--num_samples", "2", "--batch_size", "1", "--length", "4"]
    words += ["--out", str(out)]
    assert main(words) == 128 + getattr(signal, name)
    assert "interrupted" in capsys.readouterr().err
    assert len(out.read_text().splitlines()) == 1
    monkeypatch.setattr(Lines, "write", write)
    assert main([*words, "--resume"]) == 0
    assert len(out.read_text().splitlines()) == 2
    assert signal.getsignal(getattr(signal, name)) is signal.SIG_DFL


def test_training_is_asked_once_by_any_signal_and_ended_by_ctrl_c_after_that():
    with pytest.raises(KeyboardInterrupt), stop_requests(0.0) as should_stop:
        for number in (signal.SIGHUP, signal.SIGTERM):
            signal.raise_signal(number)
            assert should_stop() == "SIGHUP"
        signal.raise_signal(signal.SIGINT)


def test_a_child_that_was_forked_ends_by_a_signal_as_it_would_have():
    if not hasattr(os, "fork"):
        pytest.skip("no fork here")
    with signals_heard(lambda _: None), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads that are not in the child
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM


SCRIPT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["scripts"]["atat"]
ENTRIES = {
    "atat": ["-c", "import sys; from {} import {} as f; sys.exit(f())".format(*SCRIPT.split(":"))],
    "python -m": ["-m", "mdlm_atat"],
}
AT_A_MOMENT = """
import atexit, os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == moment or (name, moment) == ("argparse", "ignored"):
            exec("signal.raise_signal(signal.SIGINT)")  # of a string, which Python remembers at its end

if "mdlm_atat" in sys.orig_argv or "-c" in sys.orig_argv:
    moment = os.environ.pop("MOMENT")
    sys.meta_path.insert(0, Finder())
    if moment == "exit":
        atexit.register(signal.raise_signal, signal.SIGINT)
    elif moment == "ignored":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
"""


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize(
    "moment", ["mdlm_atat.cli.main", "argparse", "mdlm_atat.signals", "mdlm_atat.cli.cache", "exit", "ignored"]
)
def test_ctrl_c_before_a_command_begins_or_within_it_or_after_its_end_is_one_line_and_130(entry, moment, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(AT_A_MOMENT)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "MOMENT": moment}
    command = [sys.executable, *ENTRIES[entry], "cache", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == ((0, "") if moment == "ignored" else (130, "\ninterrupted\n"))
    assert done.stdout.startswith("atat cache: ") == (moment in ("exit", "ignored"))


@pytest.mark.parametrize("after_s", [0.02, 0.05, 0.1, 0.2, 0.3])
def test_ctrl_c_while_python_starts_shows_none_of_our_code(after_s, tmp_path):
    """Python's own start, which cannot be caught, may show itself, up to the first lines of our file."""
    command = [sys.executable, "-m", "mdlm_atat", "eval", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        time.sleep(after_s)
        started.send_signal(signal.SIGINT)
        _, errors = started.communicate()
    shown = re.sub(r'__main__\.py", line \d, in <module>', "", errors)
    assert not re.search(r"mdlm_atat\W(cli|\w+\.py)", shown), errors
    assert started.returncode == 130 or "interrupted" not in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("explicit", [True, False])
def test_an_error_that_other_code_makes_of_ctrl_c_is_the_interruption(explicit, number, monkeypatch, capsys):
    """As Python 3.11 does around `__set_name__`, and argparse where it puts back what it had not yet put away."""

    def command(_: list[str]) -> None:
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt as stop:
            if explicit:
                raise RuntimeError("Error calling __set_name__") from stop
            raise AttributeError("no attribute 'save_nargs'")  # noqa: B904

    monkeypatch.setitem(COMMANDS, "eval", ("a_command", "as if"))
    monkeypatch.setitem(sys.modules, "a_command", SimpleNamespace(main=command))
    assert main(["eval"]) == 128 + number
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert said[1].startswith("interrupted (RuntimeError" if explicit else "interrupted (AttributeError")


def test_an_error_of_our_own_keeps_its_traceback(monkeypatch):
    def command(_: list[str]) -> None:
        try:
            raise KeyError("x")
        except KeyError:
            raise AttributeError("y") from None

    monkeypatch.setitem(COMMANDS, "eval", ("a_command", "as if"))
    monkeypatch.setitem(sys.modules, "a_command", SimpleNamespace(main=command))
    with pytest.raises(AttributeError):
        main(["eval"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_python_swallows_in_a_callback_of_its_own_ends_the_command_all_the_same(
    number, monkeypatch, capsys
):
    class Thing:
        def __del__(self) -> None:
            signal.raise_signal(number)

    def command(_: list[str]) -> None:
        Thing()
        time.sleep(20)

    monkeypatch.setitem(COMMANDS, "eval", ("a_command", "as if"))
    monkeypatch.setitem(sys.modules, "a_command", SimpleNamespace(main=command))
    start = time.monotonic()
    assert main(["eval"]) == 128 + number
    assert time.monotonic() - start < 10
    assert capsys.readouterr().err == "\ninterrupted\n"


def test_what_else_python_swallows_is_shown_as_before(monkeypatch):
    class Thing:
        def __del__(self) -> None:
            raise ValueError("x")

    seen: list[type] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda swallowed: seen.append(swallowed.exc_type))
    before = sys.unraisablehook
    with ends_as_by_ctrl_c():
        Thing()
    assert seen == [ValueError]
    assert sys.unraisablehook is before
