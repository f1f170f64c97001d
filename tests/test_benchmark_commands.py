"""A benchmark that is asked for what is not there says so in one message."""

import errno
import json
import runpy
import sys
from pathlib import Path

import pytest
from benchmarks.command import exit_code

from mdlm_atat.errors import UserError


def raising(error: BaseException):
    def work() -> int:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("try `batch_size=4`"), 2, "error: try --batch_size 4"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a.json"), 2, "error: there is no a.json"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "runs"), 2, "error: Is a directory: runs"),
        (PermissionError(errno.EACCES, "Permission denied", "a.json"), 2, "error: Permission denied: a.json"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "error: No space left on device"),
        (ModuleNotFoundError("No module named 'tf'", name="tf"), 2, "error: tf is not installed; try: pip install tf"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_a_person_can_mend_is_one_message(error: BaseException, code: int, message: str, capsys):
    assert exit_code(raising(error)) == code
    assert capsys.readouterr().err.strip() == message


def test_our_own_mistakes_keep_their_traceback_and_what_is_done_is_0():
    assert (exit_code(lambda: None), exit_code(lambda: 3)) == (0, 3)
    with pytest.raises(ZeroDivisionError):
        exit_code(lambda: 1 // 0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("scale --show nofile.json", "there is no nofile.json"),
        ("scale --refresh .", "is a folder"),
        ("scale --show list.json", "list.json"),
        ("scale --show other.json", "other.json holds no arms; name a file that --out wrote"),
        ("scale --out torn.json", "torn.json is damaged"),
        ("scale", "missing --out"),
        ("memory --presets nosuch", "nosuch"),
        ("memory --largest", "--largest fills a GPU's memory, and there is none here"),
        ("train_step --preset nosuch", "nosuch"),
        ("train_step --trace", "there is none here"),
        ("drafts nowhere", "nowhere"),
        ("candidates nowhere nowhere --judge nowhere", "nowhere"),
        ("short_texts nowhere nowhere", "nowhere"),
        ("generate_speed --json nowhere/speed.json", "there is no folder nowhere"),
        ("adapt_causal nowhere nowhere --out out", "nowhere"),
    ],
)
def test_a_benchmark_of_what_is_not_there_ends_without_a_traceback(
    words: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    for name, content in {"list": [], "other": {"rows": []}}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "torn.json").write_text('{"arms": ')
    monkeypatch.chdir(tmp_path)
    name, *rest = words.split()
    monkeypatch.setattr(sys, "argv", [name, *rest])
    monkeypatch.delitem(sys.modules, f"benchmarks.{name}", raising=False)
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module(f"benchmarks.{name}", run_name="__main__")
    printed = capsys.readouterr().err
    assert (stopped.value.code, message in printed) == (2, True), printed
    assert "Traceback" not in printed
