from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import corpus

from mdlm_atat.cli.main import main
from mdlm_atat.data import cache
from mdlm_atat.data.cache import Cached, cache_folder, choose_cached, clear_cached, list_cache
from mdlm_atat.data.prepare import prepare
from mdlm_atat.errors import UserError
from mdlm_atat.locks import try_lock

DAY_S = 86400


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two texts, prepared in a cache by a process that has ended, the first one 40 days ago."""
    monkeypatch.setenv("ATAT_CACHE", str(tmp_path / "cache"))
    texts = [tmp_path / "old.txt", tmp_path / "new text.txt"]
    for index, text in enumerate(texts):
        text.write_text(corpus(2000 + index))
        prepare(str(text), tokenizer="byte", progress=False)
    _end_use()
    (old,) = (entry for entry in list_cache() if entry.source == str(texts[0]))
    when = time.time() - 40 * DAY_S
    for file in (old.folder / "manifest.json", cache._use_file(old.folder)):
        os.utime(file, (when, when))
    return texts


def _end_use() -> None:
    """As if this process had ended."""
    while cache._held:
        cache._held.popitem()[1].release()


def test_what_is_cached_is_listed_with_source_size_age_and_last_use_the_last_used_first(
    texts: list[Path], capsys: pytest.CaptureFixture[str]
):
    (cache_folder() / "notes").mkdir()  # of somebody else
    new, old = list_cache()
    assert (old.source, new.source, new.tokenizer) == (*map(str, texts), "byte")
    assert old.num_bytes == sum(file.stat().st_size for file in old.folder.rglob("*") if file.is_file())
    assert old.last_used < time.time() - 39 * DAY_S < new.last_used
    prepare(str(texts[0]), tokenizer="byte", progress=False)
    assert list_cache()[0].name == old.name
    assert list_cache()[0].made == old.made
    assert main(["cache", "list"]) == 0
    head, first, second, last = capsys.readouterr().out.splitlines()
    assert head.split() == ["name", "size", "made", "last", "used", "tokenizer", "source"]
    assert first.startswith(old.name)
    assert "40 days ago  in use" in first
    assert second.split()[3:7] == ["just", "now"] * 2
    assert second.endswith(str(texts[1]))
    assert last.startswith(f"{cache_folder().parent}: 2 kept, ")


@pytest.mark.parametrize(
    ("words", "gone"),
    [
        ("", ["new", "old"]),
        ("--older_than 30", ["old"]),
        ("--older_than 41", []),
        ("NEW", ["new"]),
        ("NEW --older_than 30", []),
        ("SOURCE", ["old"]),
        ("BEGINNING", ["new"]),
        ("NEW SOURCE", ["new", "old"]),
    ],
)
def test_all_is_cleared_or_what_goes_by_a_name_a_source_or_an_age(
    words: str, gone: list[str], texts: list[Path], capsys: pytest.CaptureFixture[str]
):
    new, old = list_cache()
    unique = next(new.name[:n] for n in range(1, 17) if not old.name.startswith(new.name[:n]))
    named = {"NEW": new.name, "SOURCE": old.source, "BEGINNING": unique}
    assert main(["cache", "clear", *(named.get(word, word) for word in words.split()), "--yes"]) == 0
    left = {entry.name for entry in list_cache()}
    assert {name for name, entry in (("new", new), ("old", old)) if entry.name not in left} == set(gone)
    assert capsys.readouterr().out.startswith("cleared" if gone else "nothing to clear")
    prepared = prepare(old.source, tokenizer="byte", progress=False)  # comes back
    assert prepared.folder == old.folder


def test_a_damaged_corpus_is_listed_and_cleared(texts: list[Path]):
    new = list_cache()[0]
    (new.folder / "manifest.json").write_text("{")
    assert "(damaged)" in {entry.source for entry in list_cache()}
    assert main(["cache", "clear", new.name, "--yes"]) == 0
    assert not new.folder.exists()


def test_nothing_of_a_corpus_is_left_and_nothing_else_is_touched(texts: list[Path]):
    other = cache_folder() / "notes"
    other.mkdir()
    (other / "a.txt").write_text("mine")
    assert main(["cache", "clear", "--yes"]) == 0
    assert [path.name for path in cache_folder().iterdir()] == ["notes"]
    assert (other / "a.txt").read_text() == "mine"


READER = """
import sys
from mdlm_atat.data.prepare import prepare
data = prepare(sys.argv[1], tokenizer="byte", progress=False).open(length=8)
print("open", flush=True)
sys.stdin.read()
print(int(data.tokens.sum()))
"""


def test_what_another_process_reads_is_never_removed(texts: list[Path], capsys: pytest.CaptureFixture[str]):
    command = [sys.executable, "-c", READER, str(texts[1])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "open\n"
        new = next(entry for entry in list_cache() if entry.source == str(texts[1]))
        assert new.is_in_use
        assert main(["cache", "clear", "--yes"]) == 0
        out = capsys.readouterr().out
        assert f"kept       {new.name}: a process uses it" in out
        assert "cleared    1 of 2" in out
        assert (new.folder / "train.bin").exists()
        reader.communicate("")
    assert reader.returncode == 0
    assert [entry.name for entry in list_cache()] == [new.name]
    assert main(["cache", "clear", "--yes"]) == 0
    assert list_cache() == []


def test_what_is_being_prepared_stays_and_what_a_killed_process_left_of_it_goes(texts: list[Path]):
    partial = cache_folder() / "0123456789abcdef.partial"
    partial.mkdir()
    lock = try_lock(cache_folder() / ".0123456789abcdef.lock")
    assert lock is not None
    (entry,) = choose_cached(list_cache(), [partial.name])
    assert entry.is_in_use
    kept: list[Cached] = []
    assert clear_cached([entry], kept.append) == []
    assert kept == [entry]
    assert partial.is_dir()
    lock.release()
    assert clear_cached([entry], kept.append) == [entry]
    assert not partial.exists()


@pytest.mark.parametrize(("answer", "left"), [("y\n", 0), ("n\n", 2), ("\n", 2), ("", 2)])
def test_a_terminal_is_asked_and_only_yes_clears(
    answer: str, left: int, texts: list[Path], monkeypatch: pytest.MonkeyPatch
):
    asked = []

    def reply(question: str) -> str:
        asked.append(question)
        if not answer:
            raise EOFError
        return answer

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", reply)
    assert main(["cache", "clear"]) == 0
    assert len(list_cache()) == left
    assert asked[0].startswith("Clear 2, ")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("clear", "2 would be cleared, and there is nobody to ask: add --yes if that is meant"),
        ("clear nosuch --yes", "nothing in the cache is called nosuch; see atat cache list"),
        ("clear --older_than -1", "--older_than is -1, expected at least 0"),
        ("clean", "did you mean atat cache clear?"),
    ],
)
def test_a_mistake_clears_nothing(
    words: str, expected: str, texts: list[Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    assert main(["cache", *words.split()]) == 2
    assert expected in capsys.readouterr().err.replace("`", "")
    assert len(list_cache()) == 2


def test_the_beginning_of_several_names_is_refused():
    entries = [
        Cached(folder=Path(name), source="s", tokenizer="", num_bytes=0, made=0.0, last_used=0.0, is_in_use=False)
        for name in ("ab1", "ab2", "c")
    ]
    with pytest.raises(UserError, match="ab is the beginning of 2 names"):
        choose_cached(entries, ["ab"])
    assert choose_cached(entries, ["ab1", "c", "c"]) == [entries[0], entries[2]]


def test_a_cache_that_is_not_there_is_empty(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ATAT_CACHE", str(tmp_path / "none"))
    assert main(["cache", "list"]) == 0
    assert main(["cache", "clear", "--yes"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'none'}: nothing is cached\nnothing to clear\n"
    assert not (tmp_path / "none").exists()


def test_a_corpus_outside_the_cache_gets_no_file_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ATAT_CACHE", str(tmp_path / "cache"))
    text = tmp_path / "a.txt"
    text.write_text(corpus(2000))
    prepare(str(text), tokenizer="byte", out=tmp_path / "out", progress=False).open(length=8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "out"]
