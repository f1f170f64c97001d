"""Prepared tokens as memory-mapped rows, and `batch_at`: the data order as a function of (seed, step, rank)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from mdlm_atat.data.cache import hold
from mdlm_atat.data.counts import read_counts
from mdlm_atat.data.manifest import PROMPTS, PROMPTS_DTYPE, Manifest, read_manifest
from mdlm_atat.data.verify import verify
from mdlm_atat.errors import UserError

if TYPE_CHECKING:
    from mdlm_atat.data.tokenizers import Tokenizer

ROWS_PER_PART = 4096  # of answers that are counted


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class TokenDataset:
    """One split of a prepared folder, cut into rows of `length` tokens.

    wrap: the tokens are one stream. Training rows are all full: row i at offset o is
    tokens[o + i * length : o + (i + 1) * length]. Evaluation rows hold every token exactly once, the last may
    be short.
    pad: a row is a document, or a part of one longer than `length`; or, with loss_on=answers, an answer with its
    prompt. Both kinds of rows are the stored ones.
    """

    folder: Path
    split: str
    length: int
    manifest: Manifest
    tokens: np.ndarray
    """The memory-mapped stream, (num_tokens,) unsigned."""
    row_starts: np.ndarray | None
    """pad: (num_rows + 1,) positions in `tokens`."""
    row_prompts: np.ndarray | None = None
    """loss_on=answers: (num_rows,) tokens of each row that are its prompt."""

    @classmethod
    def open(cls, folder: str | os.PathLike[str], split: str, length: int | None = None) -> TokenDataset:
        """Map a split of a prepared folder; `length` may be left out in pad mode.

        The files are verified by their hashes the first time (see verify.py). Raises UserError where the folder is not
        prepared, damaged or without this split, where it was padded to another length, and where the training text is
        shorter than one row.
        """
        folder = Path(folder)
        hold(folder)
        manifest = read_manifest(folder)
        if split not in manifest.splits:
            raise UserError(f"{folder} has no split {split!r}, only {', '.join(manifest.splits)}")
        verify(folder, manifest, split)
        tokens = _map(folder / f"{split}.bin", manifest.dtype)
        row_starts = row_prompts = None
        if manifest.loss_on == "answers":
            row_prompts = _map(folder / f"{split}{PROMPTS}", PROMPTS_DTYPE)
        if manifest.mode == "pad":
            if length not in (None, manifest.length):
                raise UserError(
                    f"{folder} was padded to rows of {manifest.length} tokens, not {length}: set "
                    f"`data.length={manifest.length}` or prepare the corpus again with `length={length}`"
                )
            row_starts = _map(folder / f"{split}.idx", "<u8")
            length = manifest.length
        if length is None:
            raise TypeError("wrap mode needs a length: TokenDataset.open(folder, split, length=...)")
        if manifest.mode == "wrap" and split == "train" and len(tokens) < length:  # scoring takes short rows
            source = manifest.source.get("spec", folder)
            raise UserError(
                f"the {split} split of {source} has {len(tokens)} tokens, less than one sequence of {length}: "
                f"use more text or a shorter `data.length=`"
            )
        return cls(
            folder=folder,
            split=split,
            length=length,
            manifest=manifest,
            tokens=tokens,
            row_starts=row_starts,
            row_prompts=row_prompts,
        )

    def __repr__(self) -> str:
        rows = f"{self.num_rows:,} rows of {'at most ' if self.row_starts is not None else ''}{self.length} tokens"
        return f"TokenDataset({str(self.folder)!r}, {self.split}: {rows}, {self.num_tokens:,} in all)"

    @property
    def num_tokens(self) -> int:
        """Tokens of the split, each end of a document included."""
        return len(self.tokens)

    @property
    def num_rows(self) -> int:
        """Training rows of one epoch, the same number at every offset."""
        if self.row_starts is not None:
            return len(self.row_starts) - 1
        return max(1, (self.num_tokens - self.length + 1) // self.length)

    @property
    def num_offsets(self) -> int:
        """How many offsets `rows` takes: `length`, or fewer where the stream is shorter than two rows."""
        if self.row_starts is not None:
            return 1
        return min(self.length, self.num_tokens - self.num_rows * self.length + 1)

    @property
    def num_evaluation_rows(self) -> int:
        """Rows that together hold every token once."""
        if self.row_starts is not None:
            return self.num_rows
        return -(-self.num_tokens // self.length)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the text was prepared with; it is loaded when first asked for."""
        from mdlm_atat.data.open_tokenizer import load_prepared_tokenizer

        return load_prepared_tokenizer(self.folder, self.manifest.tokenizer["hash"])

    @cached_property
    def counts(self) -> Int[np.ndarray, " vocabulary"]:
        """How often each token occurs in the train split (eos included); of a corpus that is prepared with
        loss_on=answers, in its answers. Raises UserError where the file is damaged."""
        if "train" not in self.manifest.splits:
            raise UserError(f"{self.folder} was prepared to be scored, and has no training text to count tokens in")
        path, vocab_size = self.folder / "counts.npy", self.manifest.tokenizer["vocab_size"]
        try:
            counts = read_counts(self.folder, f"delete {self.folder} and prepare it again")
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error}): delete {self.folder} and prepare it again") from error
        train = self.manifest.splits["train"]
        num_learned = train.tokens if train.answers is None else train.answers["tokens"]
        if counts.shape == (vocab_size,) and counts.sum() == train.tokens > num_learned:
            return self._count_answers()  # it was prepared when prompts were counted too
        if counts.shape != (vocab_size,) or counts.sum() != num_learned:
            raise UserError(
                f"{path} does not count the tokens of train.bin: it was changed or damaged; delete {self.folder} and "
                "prepare the corpus again"
            )
        return counts

    def _count_answers(self) -> Int[np.ndarray, " vocabulary"]:
        """How often each token occurs in the answers of the train split."""
        train = self if self.split == "train" else TokenDataset.open(self.folder, "train")
        counts = np.zeros(self.manifest.tokenizer["vocab_size"], np.int64)
        for start in range(0, train.num_rows, ROWS_PER_PART):
            indices = np.arange(start, min(start + ROWS_PER_PART, train.num_rows))
            ids, lengths = train.rows(indices)
            place = np.arange(ids.shape[1])
            is_learned = (place < lengths[:, None]) & (place >= train.num_prompt_tokens(indices)[:, None])
            counts += np.bincount(ids[is_learned], minlength=len(counts))
        return counts

    def rows(
        self, indices: Int[np.ndarray, " batch"], offset: int = 0
    ) -> tuple[Int[np.ndarray, "batch length"], Int[np.ndarray, " batch"]]:
        """Return training rows by number, and how many tokens of each are real; 0 fills the rest (pad mode).

        Raises IndexError for a row or an offset that there is not.
        """
        if not 0 <= offset < self.num_offsets:
            raise IndexError(f"offset {offset} is outside 0 .. {self.num_offsets - 1}")
        _check_indices(indices, self.num_rows)
        return self._gather(indices, offset)

    def evaluation_rows(
        self, indices: Int[np.ndarray, " batch"]
    ) -> tuple[Int[np.ndarray, "batch length"], Int[np.ndarray, " batch"]]:
        """Return rows as `rows` does, of the cut that holds every token of the split exactly once."""
        _check_indices(indices, self.num_evaluation_rows)
        return self._gather(indices, 0)

    def num_prompt_tokens(self, indices: Int[np.ndarray, " batch"]) -> Int[np.ndarray, " batch"]:
        """Return how many tokens at the beginning of rows, by number, are a prompt, which is neither masked nor scored:
        0 unless the corpus was prepared with loss_on=answers. Training and evaluation rows are the same then."""
        if self.row_prompts is None:
            return np.zeros(len(indices), np.int64)
        _check_indices(indices, self.num_rows)
        return self.row_prompts[indices].astype(np.int64)

    def _gather(self, indices: np.ndarray, offset: int) -> tuple[np.ndarray, np.ndarray]:
        if self.row_starts is not None:
            starts = self.row_starts[indices].astype(np.int64)  # (B,)
            ends = self.row_starts[indices + 1].astype(np.int64)  # (B,)
        else:
            starts = offset + indices * self.length  # (B,)
            ends = np.minimum(starts + self.length, self.num_tokens)  # (B,)
        lengths = ends - starts  # (B,)
        column = np.arange(self.length)  # (L,)
        positions = np.minimum(starts[:, None] + column, self.num_tokens - 1)  # (B, L)
        ids = self.tokens[positions].astype(np.int64)  # (B, L)
        ids[column >= lengths[:, None]] = 0
        return ids, lengths


def batch_at(
    dataset: TokenDataset, *, seed: int, step: int, batch_size: int, rank: int = 0, num_ranks: int = 1
) -> tuple[Int[np.ndarray, "batch length"], Int[np.ndarray, " batch"]]:
    """Return the rows that process `rank` trains on at `step`: ids, and how many tokens of each row are real.

    The data is an endless chain of epochs, each a permutation of all rows drawn from (seed, epoch); in wrap mode
    the cuts also shift by an offset drawn from (seed, epoch). Step s is positions [s * batch_size,
    (s + 1) * batch_size) of the chain, and rank r takes the r-th of `num_ranks` equal parts. There is no state:
    any step can be asked for. Raises UserError where `batch_size` cannot be split over `num_ranks`.
    """
    if batch_size % num_ranks:
        raise UserError(
            f"a batch of {batch_size} sequences cannot be split over {num_ranks} processes; "
            f"try `train.batch_size={max(1, batch_size // num_ranks) * num_ranks}`"
        )
    parts = [
        dataset.rows(indices, offset) for indices, offset in _rows_at(dataset, seed, step, batch_size, rank, num_ranks)
    ]
    return np.concatenate([ids for ids, _ in parts]), np.concatenate([lengths for _, lengths in parts])


def prompts_at(
    dataset: TokenDataset, *, seed: int, step: int, batch_size: int, rank: int = 0, num_ranks: int = 1
) -> Int[np.ndarray, " batch"]:
    """Return how many tokens of each row of `batch_at` are its prompt."""
    rows = _rows_at(dataset, seed, step, batch_size, rank, num_ranks)
    return np.concatenate([dataset.num_prompt_tokens(indices) for indices, _ in rows])


def _rows_at(
    dataset: TokenDataset, seed: int, step: int, batch_size: int, rank: int, num_ranks: int
) -> Iterator[tuple[np.ndarray, int]]:
    """The rows of a process's batch by number, with their offset, an epoch at a time."""
    share = batch_size // num_ranks
    first = step * batch_size + rank * share
    epochs, places = np.divmod(np.arange(first, first + share), dataset.num_rows)  # (B,), (B,)
    for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
        order, offset = _epoch(dataset.num_rows, dataset.num_offsets, seed, epoch)
        yield order[places[epochs == epoch]], offset


@lru_cache(maxsize=2)
def _epoch(num_rows: int, num_offsets: int, seed: int, epoch: int) -> tuple[np.ndarray, int]:
    # sorting raw 64-bit draws: unlike Generator.permutation, they never change between NumPy versions
    draws = np.random.PCG64(np.random.SeedSequence([seed, epoch])).random_raw(num_rows + 1)
    return np.argsort(draws[1:], kind="stable"), int(draws[0] % np.uint64(num_offsets))


def _map(path: Path, dtype: str) -> np.ndarray:
    if not path.stat().st_size:  # an empty file cannot be mapped
        return np.empty(0, dtype)
    return np.memmap(path, dtype=dtype, mode="r")


def _check_indices(indices: np.ndarray, num_rows: int) -> None:
    if len(indices) and not (indices.min() >= 0 and indices.max() < num_rows):
        raise IndexError(f"row indices must be in 0 .. {num_rows - 1}")
