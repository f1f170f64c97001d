"""Files that are whole or not there."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from mdlm_atat.atomic import folder_written_aside, full_disk_named, is_device, make_folder, write_json, write_text
from mdlm_atat.config.yaml_text import read_yaml, yaml_text
from mdlm_atat.data.counts import write_counts
from mdlm_atat.training.packed import save_tensors


def test_writers_of_one_file_do_not_take_each_other_s(tmp_path):
    file = tmp_path / "results.json"

    def write_often(writer: int) -> None:
        for _ in range(50):
            write_json(file, [writer] * 1000)

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(write_often, writer) for writer in range(4)]:
            done.result()
    assert len(set(json.loads(file.read_text()))) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
def test_a_full_disk_is_known_by_what_was_written_to_it_and_no_other_error_is_laid_to_that(tmp_path, monkeypatch, code):
    """A write or an fsync that fails says no name."""

    def fail(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("os.fsync", fail)
    named = code != errno.EIO
    with pytest.raises(OSError, match=os.strerror(code)) as caught:
        write_text(tmp_path / "a.txt", "a")
    assert caught.value.filename == (str(tmp_path / "a.txt") if named else None)
    with pytest.raises(OSError, match=os.strerror(code)) as caught, folder_written_aside(tmp_path / "b") as aside:
        (aside / "c").touch()
        fail(0)
    assert caught.value.filename == (str(tmp_path / "b") if named else None)
    with pytest.raises(OSError, match="full") as caught, full_disk_named(tmp_path / "b"):
        raise OSError(code, "full", "its own")
    assert caught.value.filename == "its own"


def test_a_file_is_on_the_disk_before_it_takes_the_old_one_s_place_and_so_is_its_name_afterwards(tmp_path, disk):
    file = tmp_path / "results.json"
    write_json(file, [1, 2, 3])
    assert disk.is_synced_before_it_is_renamed(file, file)


def test_all_of_a_folder_is_on_the_disk_before_it_gets_its_name_whoever_writes_into_it(tmp_path, disk):
    with folder_written_aside(tmp_path / "saved") as aside:
        (aside / "parts").mkdir()
        (aside / "parts" / "file").write_text("written by a library, which does not flush it")
    saved = tmp_path / "saved"
    assert disk.is_synced_before_it_is_renamed(saved, saved, saved / "parts", saved / "parts" / "file")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_no_file_takes_the_place_of_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_text(pipe, "text")
    assert os.read(reader, 10) == b"text"
    os.close(reader)
    assert pipe.is_fifo()
    assert len(list(tmp_path.iterdir())) == 1


def test_devices_and_names_of_open_files_are_no_files_whose_place_is_taken(tmp_path):
    (tmp_path / "file").write_text("text")
    assert [is_device(tmp_path / name) for name in ("file", "new", ".")] == [False] * 3
    with (tmp_path / "file").open() as opened:
        for name in ("null", "stdout", f"fd/{opened.fileno()}"):
            assert is_device(Path("/dev") / name) == (Path("/dev") / name).exists()


def test_a_path_that_is_no_utf_8_is_read_back_as_it_was(tmp_path):
    settings = {"source": os.fsdecode(b"/data/r\xfcn/\xe6\x97"), "split": "r\u00fcn"}
    write_json(tmp_path / "file.json", settings)
    write_text(tmp_path / "file.yaml", yaml_text(settings))
    assert json.loads((tmp_path / "file.json").read_text()) == settings
    assert read_yaml("file.yaml", tmp_path / "file.yaml") == settings


@pytest.fixture
def umask() -> Iterator[None]:
    """The umask of a group that shares its files."""
    before = os.umask(0o027)
    yield
    os.umask(before)


WRITERS: dict[str, Callable[[Path], object]] = {
    "text": lambda file: write_text(file, "text"),
    "json": lambda file: write_json(file, [1, 2]),
    "array": lambda file: write_counts(file.parent, np.arange(3)),
    "tensors": lambda file: save_tensors({"weights": torch.zeros(3)}, file),
}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_s_permissions_follow_the_umask_whatever_library_writes_it(tmp_path, umask, kind):
    WRITERS[kind](tmp_path / "file")
    (written,) = tmp_path.iterdir()
    assert permissions(written) == 0o640


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_a_saved_model_can_be_read_by_the_group_and_by_nobody_else(tmp_path, umask, masked):
    masked.save_pretrained(tmp_path / "saved")
    found = {permissions(path) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {0o640}
    assert {permissions(path) for path in tmp_path.rglob("*") if path.is_dir()} == {0o750}


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_folder_is_whole_or_as_it_was(tmp_path):
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "old").touch()
    left = tmp_path / ".writing-saved"
    left.mkdir()
    (left / "of a killed process").touch()
    with pytest.raises(OSError, match="full"), folder_written_aside(folder) as aside:
        (aside / "new").touch()
        raise OSError("the disk is full")
    assert [path.name for path in tmp_path.rglob("*")] == ["saved", "old"]
    with folder_written_aside(folder) as aside:
        (aside / "new").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["saved", "new"]


@pytest.mark.parametrize("place", ["file", "file/folder", "file/folder/deeper"])
def test_a_file_in_the_place_of_a_folder_is_told_as_that_however_far_up_it_is(place, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="Not a directory"):
        make_folder(tmp_path / place)
