"""- in place of a text, or of the file of one, is standard input."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from refusals import refused

from mdlm_atat.cli.main import main

OLD_MODEL = Path(__file__).parents[1] / "fixtures" / "old_model"


def give(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


@pytest.mark.parametrize(
    ("command", "more"),
    [("score", ["--order", "any"]), ("inspect", ["--times", "0.5", "--num_draws", "1"]), ("infill", [])],
)
def test_the_text_of_standard_input_is_the_same_as_that_of_a_file(command, more, tmp_path, capsys, monkeypatch):
    content = b"the [MASK:2] cat\n" if command == "infill" else b"the cat\n"
    (tmp_path / "text").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    more = [*more, "--out", "pictures"] if command == "inspect" else more
    said = []
    for words in (["--file", "text"], ["-"], ["--file", "-"]):
        give(content, monkeypatch)
        assert main([command, str(OLD_MODEL), *words, *more]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] == said[2] != ""


def test_prompts_of_standard_input_are_one_a_line(capsys, monkeypatch):
    give(b"the\ncat\n", monkeypatch)
    assert main(["generate", str(OLD_MODEL), "--prompts", "-", "--length", "8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("the") for line in lines)
    assert any(line.startswith("cat") for line in lines)


def test_a_document_of_standard_input_keeps_its_bytes_around_the_gaps(tmp_path, monkeypatch):
    give(b"\xef\xbb\xbfthe [MASK:2] cat\r\n", monkeypatch)
    assert main(["infill", str(OLD_MODEL), "-", "--out", str(tmp_path / "out")]) == 0
    written = (tmp_path / "out").read_bytes()
    assert written.startswith(b"\xef\xbb\xbfthe ")
    assert written.endswith(b" cat\r\n")


def test_what_standard_input_cannot_be_is_told(tmp_path, capsys, monkeypatch):
    give(b"the cat\n", monkeypatch)
    alone = "- is standard input, which is one text: give it alone, or after the model"
    assert alone in refused(["score", str(OLD_MODEL), "the cat", "-"], capsys)
    assert alone in refused(["infill", "-", "--file", str(tmp_path / "text")], capsys)
    assert alone in refused(["inspect", "-", "the cat"], capsys)
    prepare = ["data", "prepare", "-", "--out", str(tmp_path / "out")]
    assert "write it to a file first" in refused(prepare, capsys, tmp_path)
    give(b"caf\xe9\n", monkeypatch)
    message = refused(["score", str(OLD_MODEL), "-"], capsys)
    assert "error: standard input is not UTF-8: byte 0xE9 at offset 3" in message
    give(b"\xff\xfea", monkeypatch)
    assert "error: standard input is damaged at offset 2" in refused(["infill", str(OLD_MODEL), "-"], capsys)
    give(b"", monkeypatch)
    assert "standard input is empty" in refused(["score", str(OLD_MODEL), "-"], capsys)


@pytest.mark.filterwarnings("default:.*taken for the text itself")
@pytest.mark.parametrize("words", [["generate", "--prompt", "-"], ["score", "the cat", "--given", "-"]])
def test_a_hyphen_that_is_a_prompt_or_a_context_is_warned_of(words, capsys):
    command, *more = words
    assert main([command, str(OLD_MODEL), *more]) == 0
    assert '- is taken for the text itself: for standard input, write "$(cat)" in its place' in capsys.readouterr().err
