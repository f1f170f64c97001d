"""Results are printed where they cannot be stored."""

from __future__ import annotations

import errno
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mdlm_atat import evaluate
from mdlm_atat.cli.main import main

pytestmark = pytest.mark.filterwarnings("always:what was found is not stored")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Makes a folder one of a file system that can only be read, for root too."""

    def make(folder: Path) -> None:
        def refused(function: Callable[..., Any], writes: Callable[..., bool]) -> Callable[..., Any]:
            def call(path: Any, *arguments: Any, **keywords: Any) -> Any:
                is_in_it = isinstance(path, str | os.PathLike) and Path(path).absolute().is_relative_to(folder)
                if is_in_it and writes(*arguments, **keywords):
                    raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
                return function(path, *arguments, **keywords)

            return call

        opens = refused(io.open, lambda mode="r", *_, **__: not set(mode).isdisjoint("wax+"))
        for module, name, function in [
            (io, "open", opens),
            (os, "open", refused(os.open, lambda flags, *_, **__: bool(flags & WRITES))),
            (os, "mkdir", refused(os.mkdir, lambda *_, **__: not folder.exists() or True)),
        ]:
            monkeypatch.setattr(module, name, function)

    return make


@pytest.fixture
def run(runs: Path, cache: None, tmp_path: Path, read_only: Callable[[Path], None]) -> Path:
    """A run that may only be read, and that nobody has evaluated yet."""
    shutil.copytree(runs / "masked", tmp_path / "run", symlinks=True, ignore=shutil.ignore_patterns("evals"))
    read_only(tmp_path / "run")
    return tmp_path / "run"


def test_an_evaluation_of_a_run_that_may_only_be_read_is_printed(run, capsys):
    assert main(["eval", str(run), "--num_draws", "64", "--profile"]) == 0
    shown = capsys.readouterr()
    assert "nats per token" in shown.out
    assert "stored " not in shown.out
    assert shown.err.count("what was found is not stored, for ") == 3  # the evaluation, the profile and the report
    assert f"{run}/evals/" in shown.err
    assert "Read-only file system" in shown.err
    assert not (run / "evals").exists()


def test_from_python_it_is_returned_with_a_warning_and_no_file(run):
    with pytest.warns(UserWarning, match="not stored, for .*evals.* cannot be written: Read-only file system"):
        found = evaluate(run, num_draws=64, progress=False)
    assert found.file is None
    assert found.nats_per_token > 0


def test_a_file_that_was_asked_for_and_cannot_be_written_is_refused_at_once_or_told_with_2(
    runs, cache, read_only, tmp_path, monkeypatch, capsys
):
    place = tmp_path / "place"
    place.mkdir()
    read_only(place)
    words = ["eval", str(runs / "masked"), "--num_draws", "32", "--json", str(place / "a.json")]
    assert main(words) == 2  # the disk is full only in the end, say
    shown = capsys.readouterr()
    assert "nats per token" in shown.out
    assert f"not stored, for {place / 'a.json'} cannot be written" in shown.err
    monkeypatch.setattr(os, "access", lambda path, _: not Path(path).is_relative_to(place))
    assert main(words) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "--json: " in shown.err
    assert "cannot be written; choose another place" in shown.err


def test_an_inspection_is_shown_where_its_pictures_cannot_be_stored(run, capsys):
    assert main(["inspect", str(run), "the cat sat"]) == 0
    shown = capsys.readouterr()
    assert "importance" in shown.out
    assert f"not stored, for {run / 'inspect'} cannot be written" in shown.err


def test_texts_that_cannot_be_written_are_printed(runs, tmp_path, read_only, capsys):
    place = tmp_path / "place"
    place.mkdir()
    read_only(place)
    assert main(["generate", str(runs / "masked"), "--length", "8", "--out", str(place / "text.txt")]) == 2
    shown = capsys.readouterr()
    assert len(shown.out) >= 8
    assert "Read-only file system" in shown.err
