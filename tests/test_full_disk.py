"""What a command could not write, for want of room, leaves nothing new behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mdlm_atat.atomic import nothing_new_left
from mdlm_atat.data.train_tokenizer import train_tokenizer
from mdlm_atat.errors import UserError
from mdlm_atat.harness.finished import Finished
from mdlm_atat.runs.texts import Lines
from mdlm_atat.training.owner import Owner


@contextmanager
def no_room() -> Iterator[None]:
    """Within the block files can be made, and nothing can be written into them."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write_lines(file: Path, *rows: str, resume: bool = False) -> None:
    lines = Lines(file, "settings", resume=resume)
    try:
        lines.write([{"id": row} for row in rows])
    finally:
        lines.close()


def make_tokenizer(folder: Path) -> None:
    text = folder.with_name("text.txt")
    text.write_text("the cat sat on the mat\n" * 20)
    with no_room():
        train_tokenizer(text, out=folder, vocab_size=258, progress=False)


def own(folder: Path) -> None:
    with no_room():
        Owner.of(folder / "deeper", pytest.fail)


def answer(file: Path) -> None:
    with no_room():
        Finished(file, {}).add({"a": 1})


def write_texts(file: Path) -> None:
    with no_room():
        write_lines(file, "a", "b")


@pytest.mark.parametrize("write", [write_texts, make_tokenizer, own, answer])
def test_a_full_disk_leaves_no_new_file_and_no_new_folder(write, tmp_path):
    with pytest.raises((OSError, UserError)):
        write(tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir() if path.name != "text.txt"] == []


def test_what_was_there_before_stays(tmp_path):
    write_lines(tmp_path / "texts.jsonl", "a")
    with pytest.raises(OSError, match="File too large"), no_room():
        write_lines(tmp_path / "texts.jsonl", "b", resume=True)
    assert (tmp_path / "texts.jsonl").exists()
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="full"), nothing_new_left(tmp_path / "folder"):
        raise OSError("full")
    assert (tmp_path / "folder").exists()


def test_whole_lines_stay_to_be_gone_on_with(tmp_path):
    lines = Lines(tmp_path / "texts.jsonl", "settings", resume=False)
    lines.write([{"id": 0}])
    with pytest.raises(OSError, match="File too large"), no_room():
        lines.write([{"id": 1}])
    with pytest.raises(OSError, match="File too large"), no_room():
        lines.close()
    assert Lines(tmp_path / "texts.jsonl", "settings", resume=True).num_done == 1
