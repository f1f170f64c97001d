"""A prepared folder whose files are no longer what was written stops, by name; checking is free the second time."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from tiny import corpus

from mdlm_atat.cli.main import main
from mdlm_atat.data import verify
from mdlm_atat.data.corpus import Corpus
from mdlm_atat.data.encode import Chunk
from mdlm_atat.data.prepare import prepare
from mdlm_atat.data.split_writer import SplitWriter
from mdlm_atat.data.tokenizers import CharTokenizer
from mdlm_atat.data.tokens import TokenDataset
from mdlm_atat.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return made(tmp_path, "wrap")


def made(tmp_path: Path, mode: Literal["wrap", "pad"]) -> Path:
    (tmp_path / "text.txt").write_text(corpus(400))
    length = 16 if mode == "pad" else None
    out = tmp_path / "out"
    return prepare(
        tmp_path / "text.txt", tokenizer="byte", documents="line", mode=mode, length=length, out=out, progress=False
    ).folder


def flip(path: Path, position: int = 5) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def swap(path: Path) -> None:
    """The same bytes in another order: same size, same counts."""
    content = path.read_bytes()
    path.write_bytes(content[8:16] + content[:8] + content[16:])


def other_length(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0\0")


DAMAGES = {"bit": flip, "cut": cut, "order": swap, "longer": other_length, "gone": Path.unlink}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("opened_before", [True, False])
def test_a_damaged_shard_stops_with_its_name_and_what_to_do(
    damage: Callable[[Path], object], opened_before: bool, folder: Path
) -> None:
    if opened_before:
        TokenDataset.open(folder, "train", 16)
    damage(folder / "train.bin")
    with pytest.raises(UserError, match=r"train\.bin .*delete .*out and prepare the corpus again"):
        TokenDataset.open(folder, "train", 16)
    assert TokenDataset.open(folder, "valid", 16).num_tokens  # which is whole


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("is_old", [True, False])  # without a hash, what rows have to be is checked
def test_damaged_rows_stop_too(damage: Callable[[Path], object], is_old: bool, tmp_path: Path) -> None:
    folder = made(tmp_path, "pad")
    if is_old:
        manifest = json.loads((folder / "manifest.json").read_text())
        for split in manifest["splits"].values():
            del split["rows_sha256"]
        (folder / "manifest.json").write_text(json.dumps(manifest))
        assert TokenDataset.open(folder, "train").num_rows
    damage(folder / "train.idx")
    if is_old and damage is flip:
        return  # a row that begins elsewhere is a row as well
    with pytest.raises(UserError, match=r"train\.idx .*prepare the corpus again"):
        TokenDataset.open(folder, "train")


def test_an_id_that_the_tokenizer_does_not_have_is_refused_even_under_its_right_hash(folder: Path) -> None:
    tokens = np.fromfile(folder / "train.bin", "<u2")
    tokens[7] = 300
    tokens.tofile(folder / "train.bin")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["splits"]["train"]["sha256"] = hashlib.sha256(tokens.tobytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"train\.bin holds the id 300, and its tokenizer has ids 0 .. 256 only"):
        TokenDataset.open(folder, "train", 16)


def test_a_file_is_read_once_and_again_only_after_its_time_has_changed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    whole = verify._read
    monkeypatch.setattr(verify, "_read", lambda path: [read.append(path.name), *whole(path)][1:])
    for _ in range(2):
        monkeypatch.setattr(verify, "_verified", {})  # another process
        TokenDataset.open(folder, "train", 16)
        TokenDataset.open(folder, "valid", 16)
    assert read == ["train.bin", "valid.bin"]
    os.utime(folder / "train.bin", ns=(1, 1))
    TokenDataset.open(folder, "train", 16)
    assert read == ["train.bin", "valid.bin", "train.bin"]


def test_a_folder_that_nothing_can_be_written_to_is_read_once_a_process(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: Path, content: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(verify, "write_json", refuse)
    TokenDataset.open(folder, "train", 16)
    monkeypatch.setattr(verify, "_read", pytest.fail)
    assert TokenDataset.open(folder, "train", 16).num_tokens
    assert not (folder / "verified.json").exists()


@pytest.mark.parametrize("content", ["", "[]", "{", '{"train.bin": 3}', '{"train.bin": [1, 2, "3"]}'])
def test_a_memory_that_is_damaged_is_made_anew(content: str, folder: Path) -> None:
    (folder / "verified.json").write_text(content)
    TokenDataset.open(folder, "train", 16)
    assert json.loads((folder / "verified.json").read_text())["train.bin"][0] == (folder / "train.bin").stat().st_size


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink, lambda path: np.save(path, np.zeros(3, np.int64))])
def test_counts_that_do_not_fit_the_tokens_stop(damage: Callable[[Path], object], folder: Path) -> None:
    data = TokenDataset.open(folder, "train", 16)
    damage(folder / "counts.npy")
    with pytest.raises(UserError, match=r"counts\.npy .*delete .*out and prepare"):
        _ = data.counts


@pytest.mark.parametrize(
    ("before", "after"),
    [('"tokens": ', '"tokens": -'), ('"rows": 0', '"rows": "0"'), ('"<u2"', '"<f2"'), ('"vocab_size": ', '"size": ')],
)
def test_a_manifest_with_impossible_numbers_is_damaged(before: str, after: str, folder: Path) -> None:
    text = (folder / "manifest.json").read_text()
    assert before in text
    (folder / "manifest.json").write_text(text.replace(before, after))
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        Corpus(folder)


def test_training_on_a_damaged_shard_ends_in_one_message(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(folder / "valid.bin")
    tiny = "--data.length 16 --data.tokenizer byte --model.num_layers 1 --model.width 32 --model.num_heads 2"
    words = ["train", "char", "--data.source", str(folder), *tiny.split(), "--out", str(tmp_path / "run")]
    assert main(words) == 2
    assert "valid.bin is not what was prepared" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_that_gives_ids_it_does_not_have_is_named(tmp_path: Path) -> None:
    tokenizer = CharTokenizer("ab")
    writer = SplitWriter(tmp_path, "train", tokenizer, None)
    tokenizer.vocab_size = 3
    for wrong in ([0, 3], [-1, 0]):
        chunk = Chunk(ids=[np.array(wrong)], ends_document=[True], words=1, characters=2, bytes=2)
        with pytest.raises(UserError, match=r"the tokenizer char gave the id (3|-1), .*its ids are 0 .. 2: mend"):
            writer.add(chunk)
    writer.close()
