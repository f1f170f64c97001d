"""What of a folder is read, held out and left out, and what is said of it."""

from __future__ import annotations

import os
import random
import socket
from pathlib import Path
from typing import Any

import pytest

from mdlm_atat.data import folders
from mdlm_atat.data.folders import Folder, list_folder
from mdlm_atat.data.prepare import prepare
from mdlm_atat.data.readers.reading import Reading
from mdlm_atat.data.sources import open_source
from mdlm_atat.errors import UserError


def make(folder: Path, *names: str, text: str = "some text\n") -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        is_picture = name.endswith((".png", ".jpg", ".gif", ".mp4", ".iso"))
        (folder / name).write_bytes(b"\x89\0\0\1" * 2 if is_picture else text.encode())
    return folder


def listing(folder: Path, given: Path | None = None, **reading: Any) -> Folder:
    return list_folder(folder, Reading(**reading), given=given)


def read(folder: Path, **settings: Any) -> list[str]:
    """The names of what is trained on."""
    listed = listing(folder, **settings)
    return [path.relative_to(folder).as_posix() for path in listed.files_for("train")]


def left_out(listed: Folder) -> dict[str, str]:
    return {left.path.as_posix(): left.reason for left in listed.left_out}


def test_a_split_folder_says_file_by_file_what_each_is_for(tmp_path: Path) -> None:
    make(tmp_path, "ptb.train.txt", "ptb.valid.txt", "ptb.test.txt", "more.txt")
    listed = listing(tmp_path)
    assert (listed.is_split, read(tmp_path)) == (True, ["ptb.train.txt"])
    said = "\n".join(listed.lines())
    for line in (
        "3 files in",
        "ptb.train.txt  training",
        "ptb.valid.txt  validation",
        "ptb.test.txt   test: held out, never trained on",
        "more.txt       left out: neither train nor valid or test in its name",
    ):
        assert line in said
    assert read(tmp_path, splits="none") == ["more.txt", "ptb.test.txt", "ptb.train.txt", "ptb.valid.txt"]


def test_four_novels_are_all_text_and_a_line_says_so(tmp_path: Path) -> None:
    names = ["a.txt", "test-pilot.txt", "val-de-grace.txt", "valid_reasons.txt"]
    make(tmp_path, *names)
    assert read(tmp_path) == names
    first, second = listing(tmp_path).lines()
    assert first.endswith("a.txt, test-pilot.txt, val-de-grace.txt, valid_reasons.txt")
    assert "all of it is text, test-pilot.txt too" in second


def test_of_many_files_ten_are_named_with_some_of_each_part_and_the_others_counted(tmp_path: Path) -> None:
    make(tmp_path, *(f"train-{i:03}.txt" for i in range(40)), "valid.txt", "test-1.txt", "test-2.txt", "LICENSE.txt")
    lines = listing(tmp_path).lines()
    assert len(lines) == 1 + 10 + 1
    assert lines[-1] == "           and 34 more: 34 training"
    assert sum("training" in line for line in lines[1:-1]) == 6
    plain = make(tmp_path / "plain", *(f"{i:03}.txt" for i in range(40)))
    (line,) = listing(plain).lines()
    assert line.endswith("009.txt and 30 more")


def test_nothing_of_a_folder_goes_unmentioned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a.txt", "b/c.txt", "image.png", ".git/config", ".hidden.txt", "secret.txt", "closed/d.txt")
    (tmp_path / "empty.txt").touch()
    os.mkfifo(tmp_path / "pipe.txt")
    monkeypatch.chdir(tmp_path)  # a socket's path is at most 108 bytes long
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind("socket.txt")
    for link, target in {
        "gone": "nowhere",
        "loop": ".",
        "b/up": "..",
        "ring1": "ring2",
        "ring2": "ring1",
        "root": "/",
    }.items():
        (tmp_path / link).symlink_to(target)
    (tmp_path / "again.txt").symlink_to("a.txt")
    allowed, scan = os.access, os.scandir
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "secret.txt" and allowed(path, mode))

    def closed(path: Path) -> Any:
        if path.name == "closed":
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", closed)
    listed = listing(tmp_path)
    assert [path.name for path in listed.files_for("train")] == ["a.txt", "c.txt"]
    assert left_out(listed) == {
        ".git": "hidden",
        ".hidden.txt": "hidden",
        "again.txt": "a link to what is read already",
        "b/up": "a link to what is read already",
        "closed": "unreadable: no permission",
        "empty.txt": "empty",
        "gone": "a link that leads nowhere",
        "image.png": "not text",
        "loop": "a link to what is read already",
        "pipe.txt": "a pipe (FIFO)",
        "ring1": "unreadable: too many levels of symbolic links",
        "ring2": "unreadable: too many levels of symbolic links",
        "root": "a link to a folder that this one is in",
        "secret.txt": "unreadable: no permission",
        "socket.txt": "a socket",
    }
    said = "\n".join(listed.lines())
    assert "image.png (not text)" in said
    assert "2 files (hidden)" in said


def test_links_to_other_places_are_followed_once(tmp_path: Path) -> None:
    make(tmp_path / "elsewhere", "one.txt", "two.txt")
    folder = make(tmp_path / "here", "a.txt")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "twice").symlink_to(tmp_path / "elsewhere")
    (folder / "one-more.txt").symlink_to(tmp_path / "elsewhere/one.txt")
    assert read(folder) == ["a.txt", "linked/one.txt", "linked/two.txt"]
    assert len(listing(folder).left_out) == 2


@pytest.mark.parametrize(
    ("names", "size", "what"),
    [
        (
            ["a.txt", "1.png", "2.png"],
            0,
            r"2 of 3 files \(67% of the files.*2 \.png \(not text\).*leave_out='\.png'",
        ),
        (["a.txt", "b.txt", "1.png"], 10_000, r"1 of 3 files .*leave_out='\.png'"),
        (["train.txt", "valid.txt", "1.txt", "2.txt", "3.txt"], 0, r"neither train nor valid.*splits='none'"),
        (["a.txt", "e1.txt", "e2.txt", "e3.txt", "1.png"], 0, r"leave_out='rest'"),
        (["a.txt", "1.png", "2.jpg", "3.gif", "4.mp4", "5.zip", "6.iso"], 0, r"leave_out='rest'"),
        (["a.txt", "b.txt", "Thesis", "Draft"], 10_000, r"leave_out='rest'"),
    ],
)
def test_more_than_half_left_out_stops_and_what_it_offers_works(
    names: list[str], size: int, what: str, tmp_path: Path
) -> None:
    make(tmp_path, *names)
    for name in names:
        if name.endswith(("png", "Draft")) and size:
            (tmp_path / name).write_bytes(b"\0" * size)
        elif name.startswith("e"):
            (tmp_path / name).write_bytes(b"")
    listed = listing(tmp_path)
    with pytest.raises(UserError, match=what) as caught:
        listed.check()
    offered = str(caught.value).split("`leave_out='")[1].split("'`")[0]
    listing(tmp_path, leave_out=offered).check()


def test_half_of_a_folder_and_what_is_hidden_may_be_left_out(tmp_path: Path) -> None:
    make(tmp_path, "a.txt", "b.png", *(f".git/{i}" for i in range(9)), *(f".{i}.txt" for i in range(9)))
    listing(tmp_path).check()


def test_leave_out_takes_endings_names_and_patterns_and_says_what_is_not_there(tmp_path: Path) -> None:
    make(tmp_path, "a.txt", "a.log.txt", "drafts/b.txt", "x/drafts/c.txt", "old-1.txt", "x/d.TXT")
    assert read(tmp_path, leave_out=".log.txt") == ["a.txt", "drafts/b.txt", "old-1.txt", "x/d.TXT", "x/drafts/c.txt"]
    assert read(tmp_path, leave_out="drafts old-*") == ["a.log.txt", "a.txt", "x/d.TXT"]
    assert read(tmp_path, leave_out="x/* old-?.txt") == ["a.log.txt", "a.txt", "drafts/b.txt"]
    lines = listing(tmp_path, leave_out="drafts/, .pgn").lines()
    assert "left out   2 .txt (as asked)" in lines
    assert "           nothing is there to leave out as .pgn" in lines


def test_a_text_is_found_again_whatever_else_was_left_out_of_its_folder(tmp_path: Path) -> None:
    make(tmp_path, "a.txt", "b.txt")
    first = open_source(tmp_path).identity()
    (tmp_path / "c.log").write_text("noise")
    assert open_source(tmp_path, reading=Reading(leave_out=".log")).identity() == first
    assert open_source(tmp_path).identity() != first


def test_a_validation_file_in_the_folder_is_not_trained_on(tmp_path: Path) -> None:
    make(tmp_path, "a.txt", "b.txt", "held/c.txt")
    assert read(tmp_path, given=(tmp_path / "b.txt").resolve()) == ["a.txt", "held/c.txt"]
    assert read(tmp_path, given=(tmp_path / "held").resolve()) == ["a.txt", "b.txt"]
    assert read(tmp_path, given=tmp_path.resolve()) == ["a.txt", "b.txt", "held/c.txt"]


def test_the_order_in_which_a_folder_is_listed_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a/train.txt", "a/valid.txt", "b.txt", "c.png")
    first, scan = listing(tmp_path), os.scandir

    class Shuffled(list):
        def __enter__(self) -> Shuffled:
            return self

        def __exit__(self, *_: object) -> None: ...

    def shuffled(path: Path) -> Any:
        with scan(path) as entries:
            return Shuffled(random.Random(1).sample(found := list(entries), len(found)))

    monkeypatch.setattr(folders.os, "scandir", shuffled)
    assert listing(tmp_path) == first


def test_names_that_are_no_utf8_or_hold_control_characters_are_shown_escaped(tmp_path: Path) -> None:
    make(tmp_path, os.fsdecode(b"bad\xff.txt"))
    make(tmp_path, "a\x1b[31m\n.txt")
    (line,) = listing(tmp_path).lines()
    assert line.endswith(r"a\x1b[31m\n.txt, bad\udcff.txt")


def test_a_pipe_a_device_and_a_link_to_nowhere_are_no_sources(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "gone").symlink_to("nowhere")
    (tmp_path / "ring").symlink_to("ring")
    for name, what in {
        str(tmp_path / "pipe"): "a pipe",
        "/dev/zero": "a device",
        str(tmp_path / "gone"): "a link that leads nowhere",
        str(tmp_path / "ring"): "too many levels",
    }.items():
        with pytest.raises(UserError, match=what):
            open_source(name)


def test_a_file_of_a_folder_that_cannot_be_read_is_named_with_how_to_go_on_without_it(tmp_path: Path) -> None:
    (tmp_path / "in" / "meta").mkdir(parents=True)
    for name in ("a.txt", "b.txt"):
        (tmp_path / "in" / name).write_text("some words of text\n")
    (tmp_path / "in" / "meta" / "package.json").write_text('{"name": "x", "version": "1.0"}')
    with pytest.raises(
        UserError, match=r"no column 'text'.*; to go on without this file: `leave_out='meta/package.json'`"
    ):
        prepare(tmp_path / "in", tokenizer="byte", out=tmp_path / "out", progress=False)
    made = prepare(
        tmp_path / "in", tokenizer="byte", out=tmp_path / "out", leave_out="meta/package.json", progress=False
    )
    assert sum(split.characters for split in made.manifest.splits.values()) == 38
    with pytest.raises(UserError, match=r"no column 'text'") as alone:
        prepare(tmp_path / "in" / "meta", tokenizer="byte", out=tmp_path / "alone", progress=False)
    assert "leave_out" not in str(alone.value)


@pytest.mark.parametrize("name", ["my notes.json", "[x]*.json", "a,b?.json", "new\nline.json", "caf\udce9.json"])
def test_what_is_offered_to_leave_a_file_out_leaves_out_that_file_whatever_its_name(name: str, tmp_path: Path) -> None:
    make(tmp_path, "notes.txt", "x.json.txt", "other/b.txt")
    (tmp_path / name).write_text("{}")
    with pytest.raises(UserError) as refused:
        list(open_source(tmp_path))
    offered = str(refused.value).partition("leave_out='")[2].removesuffix("'`")
    listed = listing(tmp_path, leave_out=offered)
    assert (left_out(listed), listed.unmatched) == ({name: "as asked"}, ())


def test_a_file_whose_name_is_a_pattern_is_left_out_by_that_name(tmp_path: Path) -> None:
    make(tmp_path, "z.txt", "[draft].txt")
    assert left_out(listing(tmp_path, leave_out="[draft].txt")) == {"[draft].txt": "as asked"}


def test_of_the_hubs_cache_the_files_are_read_by_their_names_and_once(tmp_path: Path) -> None:
    folder = make(tmp_path / "datasets--o--n", "blobs/3f2a", "blobs/77bc", "refs/main", "notes.txt")
    names = folder / "snapshots" / "abc"
    names.mkdir(parents=True)
    for name, blob in (("train.txt", "3f2a"), ("validation.txt", "77bc")):
        (names / name).symlink_to(f"../../blobs/{blob}")
    assert read(folder) == ["snapshots/abc/train.txt"]
    assert listing(folder).files_for("valid") == [names / "validation.txt"]
    stored = "the hub's cache: read by the names in snapshots"
    assert left_out(listing(folder)) == {
        "blobs": stored,
        "refs": stored,
        "notes.txt": "neither train nor valid or test in its name",
    }
    make(tmp_path / "mine", "blobs/a.txt", "refs/b.txt")
    assert read(tmp_path / "mine") == ["blobs/a.txt", "refs/b.txt"]


@pytest.mark.parametrize(
    "made",
    [
        [f"runs/a/{name}" for name in ("config.yaml", "run.json", "tokenizer/a.json", "evals/step-1.json", "a/b.npy")],
        ["my-model/config.yaml", "my-model/model.safetensors", "my-model/tokenizer/a.json", "my-model/README.md"],
        ["data/mine/manifest.json", "data/mine/train.bin", "data/mine/tokenizer/tokenizer.json"],
    ],
    ids=["a run", "a saved model", "tokens"],
)
def test_what_was_made_of_a_text_in_its_own_folder_is_no_text(made: list[str], tmp_path: Path) -> None:
    make(tmp_path, "a.txt", "b/config.yaml", "b/c.txt", *made)
    listed = listing(tmp_path)
    assert read(tmp_path) == ["a.txt", "b/c.txt", "b/config.yaml"]
    (folder,) = left_out(listed)
    assert made[0].startswith(folder)
    assert f"{folder} (a run, a model or tokens that atat made)" in "\n".join(listed.lines())
    assert (tmp_path / made[0]).name in read(tmp_path / folder)  # named itself it is read


@pytest.mark.parametrize("names", [("config.yaml", "run.json"), ("config.yaml", "tokenizer/a.json")])
def test_notes_beside_files_that_are_called_as_ours_are_text(names: tuple[str, ...], tmp_path: Path) -> None:
    make(tmp_path, "a.txt", *(f"b/{name}" for name in ("notes.md", *names)))
    assert "b/notes.md" in read(tmp_path)
    assert not left_out(listing(tmp_path))
