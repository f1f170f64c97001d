"""The .bin and .idx files of one split, whose layout prepare.py describes."""

from __future__ import annotations

import hashlib
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import numpy as np

from mdlm_atat.data.encode import Chunk, ChunkAnswers
from mdlm_atat.data.loss import Changes
from mdlm_atat.data.manifest import PROMPTS, PROMPTS_DTYPE, SIZES, Split
from mdlm_atat.data.tokenizers import Tokenizer
from mdlm_atat.errors import UserError


def token_dtype(vocab_size: int) -> str:
    """Return the smallest unsigned integer, as NumPy writes it, that holds every id and the mask, `vocab_size`."""
    return next(dtype for dtype in ("<u1", "<u2", "<u4") if vocab_size <= np.iinfo(dtype).max)


class SplitWriter:
    """Writes the tokens of a split as they come. `row_length`: tokens of the longest row (pad), None (wrap).
    `answers`: what is added are rows, each an answer with its prompt."""

    def __init__(
        self, folder: Path, name: str, tokenizer: Tokenizer, row_length: int | None, *, answers: bool = False
    ) -> None:
        self._dtype = token_dtype(tokenizer.vocab_size)
        self._row_length = row_length
        self._eos = None if tokenizer.eos_id is None else np.array([tokenizer.eos_id], self._dtype)
        self._prompts: IO[bytes] | None = None
        with ExitStack() as files:  # closed where one of them cannot be opened
            self._tokens = files.enter_context((folder / f"{name}.bin").open("wb"))
            self._rows = files.enter_context((folder / f"{name}.idx").open("wb")) if row_length else None
            self._prompts = files.enter_context((folder / f"{name}{PROMPTS}").open("wb")) if answers else None
            self._files = files.pop_all()
        self._hash, self._rows_hash, self._prompts_hash = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
        self._scored = dict.fromkeys(SIZES, 0)
        self.left_out = Counter[str]()
        self._name = tokenizer.name
        self._in_document = 0  # tokens of the document that is being written
        self._starts = True
        self.counts = np.zeros(tokenizer.vocab_size, np.int64)
        self.num_eos = self._num_rows = self._num_tokens = 0
        self._documents = self._words = self.num_characters = self._bytes = self._unspaced = 0
        self.changes = Changes()

    def add(self, chunk: Chunk) -> None:
        """Write the next pieces of the split."""
        if chunk.answers is None:
            self._add_pieces(chunk.ids, chunk.ends_document)
        else:
            self._add_answers(chunk.ids, chunk.ends_document, chunk.answers)
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
            answers={**self._scored} if self._prompts else None,
            prompts_sha256=self._prompts_hash.hexdigest() if self._prompts else "",
        )

    def close(self) -> None:
        """Close the files, ended or not."""
        self._files.close()

    def _add_pieces(self, pieces: list[np.ndarray], ends_document: list[bool]) -> None:
        parts: list[np.ndarray] = []
        for ids, ends in zip(pieces, ends_document, strict=True):
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

    def _add_answers(self, rows: list[np.ndarray], ends_document: list[bool], answers: ChunkAnswers) -> None:
        lengths = np.array([len(ids) for ids in rows], np.int64)
        prompts = np.array(answers.prompts, np.int64)
        self._write_rows(self._num_tokens + np.cumsum(lengths) - lengths)
        data = prompts.astype(PROMPTS_DTYPE).tobytes()
        self._prompts_hash.update(data)
        assert self._prompts is not None
        self._prompts.write(data)
        self._num_rows += len(rows)
        self._num_tokens += int(lengths.sum())
        self._documents += sum(ends_document)
        self.num_eos += len(rows)
        self._scored["tokens"] += int((lengths - prompts).sum())
        for name in SIZES[1:]:
            self._scored[name] += getattr(answers, name)
        self.left_out.update(answers.left_out)
        self._write(rows, [ids[prompt:] for ids, prompt in zip(rows, answers.prompts, strict=True)])

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

    def _write(self, parts: list[np.ndarray], counted: list[np.ndarray] | None = None) -> None:
        """`counted`: those of the tokens that are learned and not given; None: all of them."""
        if not parts:
            return
        ids = np.concatenate(parts)
        wrong = ids[(ids < 0) | (ids >= len(self.counts))]
        if len(wrong):
            raise UserError(
                f"the tokenizer {self._name} gave the id {wrong[0]}, and says that its ids are 0 .. "
                f"{len(self.counts) - 1}: mend its `encode_batch` or its `vocab_size`"
            )
        learned = ids if counted is None else np.concatenate(counted)
        self.counts += np.bincount(learned, minlength=len(self.counts))
        data = ids.astype(self._dtype).tobytes()
        self._hash.update(data)
        self._tokens.write(data)
