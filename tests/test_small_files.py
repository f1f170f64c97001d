"""Small files from strangers: what is read of them, and what is not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mdlm_atat.errors import UserError
from mdlm_atat.small_files import read_json, read_object, read_small


def test_a_file_and_a_link_within_the_folder_are_read(tmp_path: Path):
    (tmp_path / "a.json").write_text('{"a": 1}')
    (tmp_path / "b.json").symlink_to("a.json")
    assert read_object(tmp_path / "b.json") == {"a": 1}


def test_what_the_cache_of_the_hub_links_to_its_blobs_is_read(tmp_path: Path):
    snapshot = tmp_path / "snapshots/abc"
    snapshot.mkdir(parents=True)
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs/123").write_text("[1]")
    (snapshot / "a.json").symlink_to("../../blobs/123")
    assert read_json(snapshot / "a.json") == [1]


@pytest.mark.parametrize("target", ["/dev/zero", "/dev/stdin", "../secret", "/etc/passwd", "/proc/self/environ"])
def test_a_link_that_leads_out_is_not_read(tmp_path: Path, target: str):
    (tmp_path / "secret").write_text("1")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/a.json").symlink_to(target)
    with pytest.raises(UserError, match=r"a\.json is (a link to|no file)"):
        read_json(tmp_path / "model/a.json")


def test_a_pipe_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(UserError, match="no file that holds data"):
        read_small(tmp_path / "a.json")


def test_a_file_of_a_terabyte_without_content_is_refused(tmp_path: Path):
    with (tmp_path / "a.json").open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(UserError, match=r"has 1\.0 TiB, and no such file has more than 8\.0 MiB"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    "content", ["", "{", "[" * 100_000, '{"a":' * 100_000, "1" * 5000, "\x00", b"\xff\xfe", "nul", '{"a": 1}}']
)
def test_what_is_no_json_names_the_file_and_what_to_do(tmp_path: Path, content: str | bytes):
    file = tmp_path / "a.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=r"a\.json is damaged \(.*\); mend it"):
        read_json(file, remedy="mend it")


@pytest.mark.parametrize("content", ["[]", "1", "null", '"a"', "NaN"])
def test_an_object_is_an_object(tmp_path: Path, content: str):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UserError, match="no object"):
        read_object(tmp_path / "a.json")
