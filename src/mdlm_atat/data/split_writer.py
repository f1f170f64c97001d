"""The .bin and .idx files of one split, whose layout prepare.py describes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from mdlm_atat.data.encode import Chunk
from mdlm_atat.data.loss import Changes
from mdlm_atat.data.manifest import Split
from mdlm_atat.data.tokenizers import Tokenizer
from mdlm_atat.errors import UserError


def token_dtype(vocab_size: int) -> str:
    """Return the smallest unsigned integer, as NumPy writes it, that holds every id and the mask, `vocab_size`."""
    return next(dtype for dtype in ("<u1", "<u2", "<u4") if vocab_size <= np.iinfo(dtype).max)


class SplitWriter:
    """Writes the tokens of a split as they come. `row_length`: tokens of the longest row (pad), None (wrap)."""

    def __init__(self, folder: Path, name: str, tokenizer: Tokenizer, row_length: int | None) -> None:
        self._dtype = token_dtype(tokenizer.vocab_size)
        self._row_length = row_length
        self._eos = None if tokenizer.eos_id is None else np.array([tokenizer.eos_id], self._dtype)
        self._tokens = (folder / f"{name}.bin").open("wb")
        try:
            self._rows = (folder / f"{name}.idx").open("wb") if self._row_length else None
        except OSError:
            self._tokens.close()
            raise
        self._hash, self._rows_hash = hashlib.sha256(), hashlib.sha256()
        self._name = tokenizer.name
        self._in_document = 0  # tokens of the document that is being written
        self._starts = True
        self.counts = np.zeros(tokenizer.vocab_size, np.int64)
        self.num_eos = self._num_rows = self._num_tokens = 0
        self._documents = self._words = self.num_characters = self._bytes = self._unspaced = 0
        self.changes = Changes()

    def add(self, chunk: Chunk) -> None:
        """Write the next pieces of the split."""
        parts: list[np.ndarray] = []
        for ids, ends in zip(chunk.ids, chunk.ends_document, strict=True):
            if self._starts:
                if self._documents and not self._row_length:
                    self._end_document(parts)
                self._documents += 1
            self._append(parts, ids)
            self._starts = ends
            if ends and self._row_length:
                self._end_document(parts)
                self._in_document = 0
        self._write(parts)
        self._words += chunk.words
        self.num_characters += chunk.characters
        self._bytes += chunk.bytes
        self._unspaced += chunk.unspaced
        self.changes += chunk.changes

    def finish(self) -> Split:
        """End the files, and return how much they hold."""
        if not self._row_length and self._documents > 1:
            parts: list[np.ndarray] = []
            self._end_document(parts)
            self._write(parts)
        if self._rows:
            self._write_rows(np.array([self._num_tokens]))
        self.close()
        return Split(
            documents=self._documents,
            tokens=self._num_tokens,
            rows=self._num_rows,
            words=self._words,
            characters=self.num_characters,
            bytes=self._bytes,
            unspaced=self._unspaced,
            changed=dict(vars(self.changes)),
            sha256=self._hash.hexdigest(),
            rows_sha256=self._rows_hash.hexdigest() if self._rows else "",
        )

    def close(self) -> None:
        """Close the files, ended or not."""
        try:
            self._tokens.close()
        finally:
            if self._rows:
                self._rows.close()

    def _end_document(self, parts: list[np.ndarray]) -> None:
        if self._eos is not None:
            self._append(parts, self._eos)
            self.num_eos += 1

    def _append(self, parts: list[np.ndarray], ids: np.ndarray) -> None:
        if self._rows and self._row_length:
            first = -self._in_document % self._row_length  # the next token that starts a row
            starts = self._num_tokens + np.arange(first, len(ids), self._row_length)
            self._write_rows(starts)
            self._num_rows += len(starts)
        parts.append(ids)
        self._in_document += len(ids)
        self._num_tokens += len(ids)

    def _write_rows(self, starts: np.ndarray) -> None:
        assert self._rows is not None
        data = starts.astype("<u8").tobytes()
        self._rows_hash.update(data)
        self._rows.write(data)

    def _write(self, parts: list[np.ndarray]) -> None:
        if not parts:
            return
        ids = np.concatenate(parts)
        wrong = ids[(ids < 0) | (ids >= len(self.counts))]
        if len(wrong):
            raise UserError(
                f"the tokenizer {self._name} gave the id {wrong[0]}, and says that its ids are 0 .. "
                f"{len(self.counts) - 1}: mend its `encode_batch` or its `vocab_size`"
            )
        self.counts += np.bincount(ids, minlength=len(self.counts))
        data = ids.astype(self._dtype).tobytes()
        self._hash.update(data)
        self._tokens.write(data)
