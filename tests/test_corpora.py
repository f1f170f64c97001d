"""The script that makes the fresh corpora, on tiny archives made here."""

import hashlib
import io
import json
import lzma
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from benchmarks.corpora import archives, fresh
from benchmarks.corpora.archives import fetched, files_of, read_sources
from benchmarks.corpora.overlap import overlap
from benchmarks.corpora.repeats import Repeats
from benchmarks.corpora.text import LeftOut, Read, looks_made, read_code, read_page, without_notices

from mdlm_atat.errors import UserError

WORDS = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lam mu nu xi omicron pi rho sigma tau phi chi psi".split()
)


def code(seed: int, lines: int = 40) -> str:
    """A file of code like no other."""
    rng = np.random.default_rng(seed)
    body = [f"    {a} = {b}({c}, {d})" for a, b, c, d in rng.choice(WORDS, (lines, 4))]
    return "\n".join([f"def {rng.choice(WORDS)}({rng.choice(WORDS)}):", *body]) + "\n"


def tgz(files: dict[str, str]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return packed.getvalue()


def whl(files: dict[str, str]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
    return packed.getvalue()


def deb(files: dict[str, str]) -> bytes:
    """An ar archive of two members, the first of an odd size."""
    archive = b"!<arch>\n"
    for name, data in (("debian-binary", b"2.0"), ("data.tar.gz", tgz({f"./{name}": files[name] for name in files}))):
        archive += (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
        )
    return archive


LICENCE_NOTE = "# Copyright (c) 2020 Somebody\n# Licensed under the MIT License.\n\n"


@pytest.fixture
def pinned(tmp_path: Path) -> Path:
    """A list of two archives of code that lie in packages/, one of them held out whole."""
    return pin(tmp_path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the script makes of them."""
    folder = pin(tmp_path_factory.mktemp("corpora"))
    assert run(folder) == 0
    return folder


def pin(tmp_path: Path) -> Path:
    (tmp_path / "packages").mkdir()
    many = {f"package/src/{number:03d}.py": LICENCE_NOTE + code(number) for number in range(300)}
    copies = {
        "package/src/copy.py": code(7),
        "package/src/near.py": code(8).replace("\n", "\n# one line more\n", 1),
        "package/src/old.min.js": "var a=1;" * 500,
    }
    archives_made = {
        "lots-1.0.tgz": tgz({**many, **copies, "package/LICENSE": "MIT License", "package/logo.svg": "<svg/>"}),
        "other-2.0.whl": whl({f"other/{number}.py": code(1000 + number) for number in range(3)}),
    }
    rows = []
    for name, data in archives_made.items():
        (tmp_path / "packages" / name).write_bytes(data)
        row = {"name": name.split("-")[0], "kind": "code", "client": "npm", "package": name, "file": name}
        rows.append({**row, "sha256": hashlib.sha256(data).hexdigest(), "licence": "MIT", "take": r"\.(?:py|js)$"})
    rows[1]["held_out"] = True
    (tmp_path / "sources.yaml").write_text(yaml.safe_dump(rows))
    return tmp_path


def run(folder: Path, *more: str) -> int:
    size = [] if "--vocab_size" in more else ["--vocab_size", "300"]
    return fresh.main([str(folder), "--sources", str(folder / "sources.yaml"), *size, *more])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "missing OUT: folder of the corpora"),
        (["OUT", "--vocab_size", "0"], "--vocab_size is 0, expected at least 258"),
        (["OUT", "--vocab_size", "257"], "--vocab_size is 257, expected at least 258"),
        (["OUT", "--vocab_size", "8k"], "--vocab_size is 8k, expected a whole number"),
        (["OUT", "--part_mb", "0"], "--part_mb is 0, expected at least 1"),  # no tokens were written to parts
        (["OUT", "--part_mb", "-1"], "--part_mb is -1, expected at least 1"),  # it went on for ever
        (["OUT", "--kinds", "cod"], "--kinds has 'cod', expected one of code, prose; did you mean code?"),
        (["OUT", "--out", "other"], "--out: unknown flag; see python -m benchmarks.corpora.fresh --help"),
        (["FILE"], "FILE is a file: name a folder to make the corpora in"),
        (["OUT", "--sources", "FILE"], "FILE is no list of sources: expected a YAML list of mappings"),
        (["OUT", "--sources", "empty"], "empty is no list of sources: expected a YAML list of mappings"),
        (["OUT", "--sources", "latin"], "latin is no list of sources"),
        (["OUT", "--sources", "missing"], "missing is no list of sources"),
    ],
)
def test_a_wrong_command_is_one_message_before_anything_is_fetched(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(fresh, "fetched", lambda *_: pytest.fail("an archive is fetched"))
    monkeypatch.chdir(tmp_path)
    for name, data in {"FILE": b"a text", "empty": b"", "latin": b"- name: \xe9"}.items():
        (tmp_path / name).write_bytes(data)
    assert fresh.main(words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "OUT").exists()


def rows(file: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_corpus_is_made_without_copies_and_its_validation_files_are_whole_ones(made: Path) -> None:
    train, valid, elsewhere = (rows(made / "code" / f"{split}.jsonl") for split in fresh.SPLITS)
    assert len(train) + len(valid) == 300
    assert 1 <= len(valid) <= 6
    assert {row["source"] for row in elsewhere} == {"other"}
    assert not {row["path"] for row in train} & {row["path"] for row in valid}
    assert not any("Copyright" in row["text"] for row in (*train, *valid))
    summary = json.loads((made / "code" / "summary.json").read_text())
    lots = summary["sources"]["lots"]
    assert lots["copy_documents"] == 1
    assert lots["near-copy of text before it_documents"] == 1
    assert lots["left_out"] == {"minified, or data in long lines": 1}
    assert lots["train_tokens"] == summary["tokens"]["train"] == (made / "code/prepared/train.bin").stat().st_size // 2
    assert summary["overlap"]["documents_with_half_of_them"] == 0


def test_every_file_is_listed_with_its_archive_licence_size_and_hash(made: Path) -> None:
    header, *lines = [line.split("\t") for line in (made / "code/files.tsv").read_text().splitlines()]
    assert header == ["split", "source", "package", "path", "licence", "bytes", "sha256"]
    written = [row for split in fresh.SPLITS for row in rows(made / "code" / f"{split}.jsonl")]
    by_path = {row["path"]: row["text"].encode() for row in written}
    assert len(lines) == len(written)
    for _, source, package, path, licence, size, sha256 in lines:
        assert package == ("lots-1.0.tgz" if source == "lots" else "other-2.0.whl")
        assert (licence, int(size), sha256) == ("MIT", len(by_path[path]), hashlib.sha256(by_path[path]).hexdigest())
    assert (made / "licences/lots/package__LICENSE").read_text() == "MIT License"


def test_the_parts_unpacked_after_each_other_are_the_training_tokens(made: Path) -> None:
    tokens = (made / "code/prepared/train.bin").read_bytes()
    written = fresh.write_parts(made / "code", 5000)
    parts = sorted((made / "code/parts").glob("train-*.bin.xz"))
    assert len(parts) == len(written) > 2
    assert all(part.stat().st_size <= 5000 for part in parts)
    assert b"".join(lzma.decompress(part.read_bytes()) for part in parts) == tokens
    assert (made / "code/parts/rest/manifest.json").exists()


def test_an_interrupted_run_goes_on_where_it_stopped(pinned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object, **keywords: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fresh, "train_tokenizer", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(pinned)
    for done in ("files_of", "select"):
        monkeypatch.delattr(fresh, done)  # no archive is read again, and no document chosen
    assert run(pinned) == 0
    assert (pinned / "code/summary.json").exists()


def test_an_archive_with_another_hash_is_refused_in_one_message(pinned: Path, capsys: pytest.CaptureFixture) -> None:
    with (pinned / "packages/lots-1.0.tgz").open("ab") as file:
        file.write(b"\0")
    assert run(pinned) == 2
    message = capsys.readouterr().err
    assert "lots-1.0.tgz is not the archive that is pinned" in message
    assert "Traceback" not in message
    assert not (pinned / "documents").exists()


def test_a_folder_with_a_corpus_of_other_sources_is_refused(made: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(made, "--vocab_size", "301") == 2
    assert "holds corpora of other sources, rules or vocabulary" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["no-such-client-here", "{package}"], "there is no no-such-client-here here"),
        ([sys.executable, "-c", "import sys; sys.exit('E: no such version')"], "cannot be had (E: no such version)"),
        ([sys.executable, "-c", "open('lots-1.1.tgz', 'w')"], "cannot be had (lots-1.1.tgz)"),
        ([sys.executable, "-c", "open('lots-1.0.tgz', 'w')"], "not the archive that is pinned"),
    ],
)
def test_an_archive_that_cannot_be_had_is_one_message_and_leaves_nothing(
    pinned: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], said: str
) -> None:
    (pinned / "packages/lots-1.0.tgz").unlink()
    monkeypatch.setitem(archives.CLIENTS, "npm", command)
    source = read_sources(pinned / "sources.yaml")[0]
    with pytest.raises(UserError, match=r"^lots: ") as error:
        fetched(source, pinned / "packages")
    assert said in str(error.value)
    assert [file.name for file in (pinned / "packages").iterdir()] == ["other-2.0.whl"]


def test_a_client_fetches_what_is_not_there(pinned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = (pinned / "packages/lots-1.0.tgz").rename(pinned / "elsewhere.tgz")
    copy = [sys.executable, "-c", f"import shutil; shutil.copy({str(there)!r}, 'lots-1.0.tgz')"]
    monkeypatch.setitem(archives.CLIENTS, "npm", copy)
    source = read_sources(pinned / "sources.yaml")[0]
    assert fetched(source, pinned / "packages").read_bytes() == there.read_bytes()


@pytest.mark.parametrize(("ending", "make"), [(".tgz", tgz), (".whl", whl), (".deb", deb)])
def test_the_files_of_each_kind_of_archive_are_read(tmp_path: Path, ending: str, make) -> None:
    (tmp_path / f"a{ending}").write_bytes(make({"usr/a.py": "one", "usr/b.py": "two"}))
    assert list(files_of(tmp_path / f"a{ending}")) == [("usr/a.py", b"one"), ("usr/b.py", b"two")]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"# SPDX-License-Identifier: GPL-2.0-only\n{code(1)}", "another licence is named in it"),
        (f"/* This is under the GNU General Public License */\n{code(1)}", "another licence is named in it"),
        (f"// Code generated by protoc. DO NOT EDIT.\n{code(1)}", "generated, by its own word"),
        ("var a=" + "b+" * 600 + "1;\n", "minified, or data in long lines"),
        ("0x12, 0x34, 0x56\n" * 40, "numbers"),
        ("return 'это не по-английски'\n" * 20, "not English"),
        ("{}[];()<>~a\n" * 40, "signs"),
        ("the same words once again\n" * 200, "repeats itself"),
        ("short\n", "shorter than 200 bytes"),
        ("a" * 500_000, "longer than 400,000 bytes"),
    ],
)
def test_what_is_no_code_of_this_licence_written_by_a_person_is_left_out(text: str, reason: str) -> None:
    assert read_code(text.encode()) == LeftOut(reason)


def test_a_file_that_names_a_permissive_licence_has_that_one() -> None:
    read = read_code(f"// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception\n{code(1)}".encode())
    assert read == Read(code(1), "Apache-2.0 WITH LLVM-exception")


@pytest.mark.parametrize(
    "notice",
    [
        "# Copyright 2020 A\n#\n# Licensed under the Apache License, Version 2.0\n\n",
        "// Copyright (c) 2020 A. All rights reserved.\n",
        "/*\n * Permission is hereby granted, free of charge, ...\n */\n",
        "%% %CopyrightBegin%\n%% Copyright A 2020\n%% %CopyrightEnd%\n\n",
        "; Copyright A\n; see the licence file\n",
        "// Copyright A.\n\n// Use is subject to the Boost\n// License (See accompanying file LICENSE_1_0.txt)\n",
    ],
)
def test_notices_at_the_head_go_and_other_comments_stay(notice: str) -> None:
    assert without_notices(f"#!/bin/sh\n{notice}\n// adds\n{code(2)}") == f"#!/bin/sh\n// adds\n{code(2)}"


def test_directives_and_attributes_are_no_comments() -> None:
    text = '#include "copyright.h"\n#[allow(unused)]\n#define COPYRIGHT 1\nint main() {}\n'
    assert without_notices(text) == text


def test_code_of_an_ordinary_kind_looks_made_by_nobody() -> None:
    assert looks_made(Path(fresh.__file__).read_text()) == ""


def test_a_page_gives_its_visible_text_between_two_marks() -> None:
    sentence = "<p>This is a sentence of a manual that has more than eight words.</p>"
    aside = '<a class="headerlink">¶</a><svg><text>drawn</text></svg>'
    page = f"<nav>Home Next</nav><main>{sentence * 40}{aside}</main><footer>Copyright</footer>"
    read = read_page(page.encode(), "<main>", "</main>")
    assert isinstance(read, Read)
    assert set(read.text.split("\n")) == {"This is a sentence of a manual that has more than eight words.", ""}
    assert read_page(page.encode(), "<article>", "") == LeftOut("a page without text")
    index = "<main>" + "<p>Some name</p>" * 400 + "</main>"
    assert read_page(index.encode(), "<main>", "") == LeftOut("an index or a list of names")


def renamed(text: str) -> str:
    return "\n".join(
        line.replace("alpha", "omega") if number % 9 == 0 else line for number, line in enumerate(text.split("\n"))
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("    ", "\t"),
        lambda text: "# a header\n# of two lines\n" + text,
        lambda text: text[: len(text) * 2 // 3],
        lambda text: text + code(99, lines=20),
        renamed,
    ],
)
def test_a_near_copy_is_found_on_both_sides_of_the_split(change) -> None:
    text = code(1, lines=90)
    repeats = Repeats()
    assert repeats.keep(text) == ""
    assert repeats.keep(change(text)) == "near-copy of text before it"
    assert repeats.keep(code(2)) == ""
    repeats = Repeats()
    assert repeats.hold_out(text) == ""
    assert repeats.hold_out(change(text)) == "near-copy of held-out text"
    assert repeats.keep(change(text)) == "near-copy of held-out text"
    assert repeats.keep(code(2)) == ""


def test_a_small_held_out_file_inside_a_large_one_keeps_that_out_of_training() -> None:
    small, repeats = code(1, lines=10), Repeats()
    repeats.hold_out(small)
    assert repeats.keep(code(2, lines=400) + small + code(3, lines=400)) == "near-copy of held-out text"


def test_a_passage_of_a_held_out_file_is_not_trained_on() -> None:
    whole, repeats = code(1, lines=400), Repeats()
    repeats.hold_out(whole)
    passage = "\n".join(whole.split("\n")[100:140])
    assert repeats.keep(passage) == "near-copy of held-out text"
    assert repeats.keep(passage + code(2, lines=200)) == ""


def test_a_held_out_file_that_stands_in_training_text_in_pieces_is_not_scored(tmp_path: Path) -> None:
    source = archives.Source("a", "code", "npm", "a", "a", "", "MIT", "")
    paths = [f"{number}.py" for number in range(2000)]
    held_out = next(path for path in paths if fresh.is_held_out(fresh.Row("", "a", path, ""), "code"))
    text = code(1, lines=100)
    files = {held_out: text}
    for number in range(4):  # each has a fifth of it
        piece = text.split("\n")[20 * number : 20 * number + 20]
        files[f"train/{number}.py"] = "\n".join([code(10 + number, lines=100), *piece])
    assert not any(fresh.is_held_out(fresh.Row("", "a", path, ""), "code") for path in files if path != held_out)
    lines = [json.dumps(fresh.Row(text, "a", path, "MIT")._asdict()) + "\n" for path, text in files.items()]
    (tmp_path / "a.jsonl").write_text("".join(lines))
    (tmp_path / "a.json").write_text('{"left_out": {}}')
    fresh.select(tmp_path, [source], tmp_path)
    assert len(rows(tmp_path / "train.jsonl")) == 4
    assert rows(tmp_path / "valid.jsonl") == []
    counts = json.loads((tmp_path / "selected.json").read_text())["sources"]["a"]
    assert (counts["valid_documents"], counts["half of it stands in training text_documents"]) == (0, 1)


def test_the_share_of_a_held_out_file_that_stands_in_training_text_in_pieces_is_known() -> None:
    text, repeats = code(1, lines=100), Repeats()
    lines = text.split("\n")
    repeats.hold_out(text)
    for number in range(4):  # each has a fifth of it
        assert repeats.keep("\n".join([code(10 + number, lines=100), *lines[20 * number : 20 * number + 20]])) == ""
    assert 0.6 < repeats.covered()[0] < 0.8


@pytest.mark.parametrize("chunk", [1 << 22, 500])
def test_a_window_of_tokens_that_stands_in_training_text_is_counted_at_any_place(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.corpora.overlap.CHUNK", chunk)
    rng = np.random.default_rng(0)
    train, valid = rng.integers(1, 500, 40_000).astype("<u2"), rng.integers(1, 500, 1000).astype("<u2")
    valid[[499, 999]] = 0  # eos: two documents
    assert overlap(train, valid, 0)["share_of_windows"] == 0
    train[12_345 : 12_345 + 499] = valid[:499]
    found = overlap(train, valid, 0)
    assert found["share_of_windows"] == 0.5
    assert found["documents_with_half_of_them"] == 1
    assert found["largest_share_of_a_document"] == 1


@pytest.mark.parametrize("kind", ["<u2", "<u4"])
def test_windows_are_counted_whatever_the_vocabulary(kind: str) -> None:
    most = np.iinfo(kind).max if kind == "<u2" else 200_000
    rng = np.random.default_rng(0)
    train, valid = (rng.integers(most // 2, most, size, endpoint=True).astype(kind) for size in (4000, 200))
    valid[-1] = 0
    assert overlap(train, valid, 0)["share_of_windows"] == 0
    train[1000:1199] = valid[:199]
    train[0] = most
    assert overlap(train, valid, 0)["share_of_windows"] == 1


def test_a_source_of_which_nothing_is_left_has_a_row(made: Path) -> None:
    summary = json.loads((made / "code" / "summary.json").read_text())
    summary["sources"]["lots"] = {"licence": "MIT", "left_out": {}, "copy_documents": 3, "copy_bytes": 900}
    summary["sources"]["other"] = {"licence": "MIT", "left_out": {}}
    lines = fresh.table(summary).splitlines()
    assert "| lots | MIT | 0 | 0.0 | 0 | 3 | 0 |" in lines
    assert "| other | MIT | 0 | 0.0 | 0 | 0 | 0 |" in lines


@pytest.mark.parametrize(
    "text",
    [
        "- {name: a}",
        "{",
        "a: 1",
        "- {name: a, kind: code, client: npm, package: a, file: a, sha256: a, licence: a, take: (}",
    ],
)
def test_a_list_of_sources_that_is_none_is_one_message(tmp_path: Path, text: str) -> None:
    (tmp_path / "sources.yaml").write_text(text)
    with pytest.raises(UserError, match="is no list of sources"):
        read_sources(tmp_path / "sources.yaml")


def test_the_pinned_sources_are_a_list_that_is_read() -> None:
    sources = read_sources(fresh.HERE / "sources.yaml")
    assert {source.kind for source in sources} == set(archives.KINDS)
    assert all(len(source.sha256) == 64 for source in sources)
