"""What a terminal is shown, and that files and pipes get texts as they are."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from argparse import Namespace

import pytest

from mdlm_atat.cli.made_texts import show
from mdlm_atat.terminal import printable

STEERING = {
    "a title (OSC)": "\x1b]0;owned\x07",
    "a link (OSC 8)": "\x1b]8;;http://x\x1b\\here\x1b]8;;\x1b\\",
    "colours (CSI)": "\x1b[31mred\x1b[0m",
    "CSI of one character (C1)": "\x9b2J",
    "OSC of one character (C1)": "\x9d0;owned\x9c",
    "a bare escape": "\x1b",
    "a device string": "\x1bP1$r\x1b\\",
    "a bell": "\x07",
    "backspaces": "secret\x08\x08\x08",
    "a carriage return": "rm -rf\rls",
    "delete": "\x7f",
    "a right-to-left override": "\u202egpj.exe",
    "an isolate": "\u2066a\u2069",
    "an embedding": "\u202ba\u202c",
}
HARMLESS = ["line\n\ttab", "שלום עולם", "مرحبا", "é 天 🙂 👩‍👩‍👧", ""]


@pytest.mark.parametrize("kind", STEERING)
def test_what_steers_a_terminal_is_shown_as_a_sign(kind):
    text = printable(f"a{STEERING[kind]}b")
    assert "�" in text
    assert not [char for char in text if char in "\x1b\x07\x08\r\x7f\x9b\x9c\x9d\u202b\u202c\u202e\u2066\u2069"]


@pytest.mark.parametrize("text", HARMLESS)
def test_text_of_any_script_is_shown_as_it_is(text):
    assert printable(text) == text


def test_a_line_end_of_windows_is_a_line_end():
    assert printable("one\r\ntwo\r\n") == "one\ntwo\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("kind", STEERING)
def test_a_pipe_gets_the_text_and_a_terminal_what_can_be_shown(kind, monkeypatch):
    text = STEERING[kind]
    for stream, expected in ((io.StringIO(), text + "\n"), (Terminal(), printable(text) + "\n")):
        with monkeypatch.context() as patch:
            patch.setattr("sys.stdout", stream)
            show([text], Namespace(out=None), None, is_first_shown=False)
        assert stream.getvalue() == expected


@pytest.mark.skipif(sys.platform == "win32", reason="has no pseudo-terminals")
def test_a_real_terminal_is_one():
    ours, theirs = pty.openpty()
    code = "from mdlm_atat.terminal import shown; print(shown('a\\x1b[2Jb'))"
    subprocess.run([sys.executable, "-c", code], stdout=theirs, check=True)
    os.close(theirs)
    assert os.read(ours, 100).decode() == "a�[2Jb\r\n"
    os.close(ours)


def test_marks_of_a_direction_are_not_seen_and_not_printed():
    assert printable("a\u200f! \u200e(b)\u061c1") == "a! (b)1"
