"""What a person's mistake must look like."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdlm_atat.cli.main import main


def refused(argv: list[str], capsys: pytest.CaptureFixture[str], folder: Path | None = None) -> str:
    """The one message of a command that ends with exit code 2; nothing else is printed, and nothing in `folder` is
    written."""
    before = contents(folder)
    capsys.readouterr()
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    assert contents(folder) == before
    return err


def contents(folder: Path | None) -> dict[Path, bytes]:
    return {} if folder is None else {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def changed(command: list[str], *more: object) -> list[str]:
    """A command with more flags, each in place of the same flag with other values."""
    words, flags, skipping = [], {str(word) for word in more if str(word).startswith("--")}, False
    for word in command:
        skipping = word in flags if word.startswith("--") else skipping
        words += [] if skipping else [word]
    return words + [str(word) for word in more]
