from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from mdlm_atat.data.prepare import prepare
from mdlm_atat.data.tokens import TokenDataset, _epoch, batch_at
from mdlm_atat.errors import UserError


def stream(folder: Path, num_tokens: int, length: int) -> TokenDataset:
    """A train split of exactly `num_tokens` bytes, different from their neighbours."""
    text = "".join(chr(1 + i % 127) for i in range(num_tokens)).replace("\r", "R")
    (folder / "text.txt").write_text(text, newline="")
    (folder / "held-out.txt").write_text("held out")
    out = prepare(folder / "text.txt", tokenizer="byte", out=folder / "out", validation=folder / "held-out.txt")
    return TokenDataset.open(out, "train", length)


def padded(folder: Path, texts: list[str], length: int) -> TokenDataset:
    (folder / "text.txt").write_text("\n".join(texts))
    (folder / "held-out.txt").write_text("held out")
    out = prepare(
        folder / "text.txt",
        tokenizer="byte",
        out=folder / "out",
        mode="pad",
        length=length,
        documents="line",
        validation=folder / "held-out.txt",
    )
    return TokenDataset.open(out, "train")


def test_evaluation_rows_hold_each_of_103_tokens_exactly_once(tmp_path: Path) -> None:
    data = stream(tmp_path, 103, 10)
    assert data.num_evaluation_rows == 11
    ids, lengths = data.evaluation_rows(np.arange(11))
    assert lengths.tolist() == [10] * 10 + [3]
    assert ids.shape == (11, 10)
    np.testing.assert_array_equal(ids.reshape(-1)[:103], data.tokens)
    assert not ids.reshape(-1)[103:].any()


@pytest.mark.parametrize(("num_tokens", "num_rows", "num_offsets"), [(103, 9, 10), (10, 1, 1), (15, 1, 6), (29, 2, 10)])
def test_every_offset_cuts_the_same_number_of_full_rows(
    num_tokens: int, num_rows: int, num_offsets: int, tmp_path: Path
) -> None:
    data = stream(tmp_path, num_tokens, 10)
    assert (data.num_rows, data.num_offsets) == (num_rows, num_offsets)
    for offset in range(num_offsets):
        ids, lengths = data.rows(np.arange(num_rows), offset)
        np.testing.assert_array_equal(ids.reshape(-1), data.tokens[offset : offset + 10 * num_rows])
        assert lengths.tolist() == [10] * num_rows
    with pytest.raises(IndexError):
        data.rows(np.arange(num_rows), num_offsets)


def test_a_corpus_of_9_tokens_is_shorter_than_one_sequence_of_10(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has 9 tokens, less than one sequence of 10"):
        stream(tmp_path, 9, 10)


def test_padded_rows_are_the_documents_and_a_long_one_goes_on_in_the_next_row(tmp_path: Path) -> None:
    data = padded(tmp_path, ["abc", "0123456789abcdef", "xyz"], length=8)
    ids, lengths = data.rows(np.arange(data.num_rows))
    texts = [data.tokenizer.decode(row[:n], eos_text="$") for row, n in zip(ids, lengths, strict=True)]
    assert texts == ["abc$", "01234567", "89abcdef", "$", "xyz$"]
    assert ids[0].tolist() == [97, 98, 99, 256, 0, 0, 0, 0]
    assert data.num_evaluation_rows == data.num_rows == 5
    np.testing.assert_array_equal(data.evaluation_rows(np.arange(5))[0], ids)


def test_padded_rows_of_8_cannot_be_read_as_rows_of_16(tmp_path: Path) -> None:
    data = padded(tmp_path, ["abc", "def"], length=8)
    with pytest.raises(UserError, match="padded to rows of 8 tokens, not 16"):
        TokenDataset.open(data.folder, "train", 16)


@pytest.mark.parametrize("mode", ["wrap", "pad"])
def test_an_epoch_shows_every_row_exactly_once(mode: Literal["wrap", "pad"], tmp_path: Path) -> None:
    data = stream(tmp_path, 240, 10) if mode == "wrap" else padded(tmp_path, [f"{i:03d}" for i in range(23)], 10)
    assert data.num_rows == 23
    rows = np.concatenate([batch_at(data, seed=1, step=step, batch_size=4)[0] for step in range(23)])  # 4 epochs
    for epoch in range(4):
        shown = {row.tobytes() for row in rows[epoch * 23 : (epoch + 1) * 23]}
        assert len(shown) == 23
        offset = _epoch(data.num_rows, data.num_offsets, 1, epoch)[1]
        assert shown == {row.tobytes() for row in data.rows(np.arange(23), offset)[0]}


def test_batches_are_a_function_of_seed_and_step_alone(tmp_path: Path) -> None:
    data = stream(tmp_path, 2000, 10)
    forward = [batch_at(data, seed=3, step=step, batch_size=16)[0] for step in range(20)]
    _epoch.cache_clear()
    again = TokenDataset.open(data.folder, "train", 10)
    backward = [batch_at(again, seed=3, step=step, batch_size=16)[0] for step in reversed(range(20))][::-1]
    np.testing.assert_array_equal(np.stack(forward), np.stack(backward))
    assert (batch_at(data, seed=4, step=0, batch_size=16)[0] != forward[0]).any()


def test_four_ranks_together_have_the_batch_of_one(tmp_path: Path) -> None:
    data = stream(tmp_path, 500, 10)
    for step in (0, 3, 7):  # 49 rows: step 3 spans two epochs
        whole, lengths = batch_at(data, seed=0, step=step, batch_size=16)
        parts = [batch_at(data, seed=0, step=step, batch_size=16, rank=rank, num_ranks=4) for rank in range(4)]
        np.testing.assert_array_equal(np.concatenate([ids for ids, _ in parts]), whole)
        np.testing.assert_array_equal(np.concatenate([part for _, part in parts]), lengths)


def test_a_batch_may_be_larger_than_3_epochs(tmp_path: Path) -> None:
    data = stream(tmp_path, 40, 10)
    ids, _ = batch_at(data, seed=0, step=1, batch_size=11)
    assert ids.shape == (11, 10)


def test_the_order_of_epochs_differs_and_never_changes_between_versions() -> None:
    orders = [_epoch(8, 10, 0, epoch) for epoch in range(2)]
    assert [(order.tolist(), offset) for order, offset in orders] == [
        ([2, 1, 0, 7, 5, 6, 3, 4], 1),
        ([6, 3, 4, 0, 7, 5, 1, 2], 9),
    ]


def test_a_batch_of_10_over_4_processes_says_to_try_8(tmp_path: Path) -> None:
    data = stream(tmp_path, 100, 10)
    with pytest.raises(UserError, match=r"batch of 10 .* 4 processes; try `train.batch_size=8`"):
        batch_at(data, seed=0, step=0, batch_size=10, num_ranks=4)


def test_a_million_rows_are_shuffled_in_under_2_s() -> None:
    start_s = time.perf_counter()
    order, _ = _epoch(1_000_000, 1024, 0, 0)
    assert time.perf_counter() - start_s < 2
    assert (np.bincount(order) == 1).all()


def test_a_truncated_file_is_found_when_it_is_opened(tmp_path: Path) -> None:
    data = stream(tmp_path, 100, 10)
    (data.folder / "train.bin").write_bytes(b"12345")
    with pytest.raises(UserError, match=r"train\.bin has 5 bytes, its manifest says 200: restore it"):
        TokenDataset.open(data.folder, "train", 10)
    (data.folder / "train.bin").unlink()
    with pytest.raises(UserError, match=r"train\.bin is missing"):
        TokenDataset.open(data.folder, "train", 10)


def test_a_folder_without_a_manifest_or_with_a_damaged_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a prepared corpus"):
        TokenDataset.open(tmp_path, "train", 10)
    data = stream(tmp_path, 100, 10)
    with pytest.raises(UserError, match="no split 'test', only train, valid"):
        TokenDataset.open(data.folder, "test", 10)
    manifest = data.folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 9'))
    with pytest.raises(UserError, match="format 9"):
        TokenDataset.open(data.folder, "train", 10)
    manifest.write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        TokenDataset.open(data.folder, "train", 10)
