"""Prompts and templates as rows of tokens to be filled in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import get_args

import torch

from mdlm_atat.checks import one_of, whole
from mdlm_atat.data.phrases import Phrases
from mdlm_atat.data.tokenizers import Tokenizer
from mdlm_atat.errors import UserError
from mdlm_atat.lm.gap_lengths import Prior, prior_of
from mdlm_atat.lm.given import Row, as_read, encode_template, space_joins_next, texts_around, without_space
from mdlm_atat.lm.results import Layout, LengthCosts, LengthPrior, Lengths
from mdlm_atat.lm.unknown import check_known
from mdlm_atat.samplers.canvas import Canvas
from mdlm_atat.samplers.template import MAX_DRAWS, Gap, Template, lay_out, parse_template

MOST_WRITTEN = 1 << 24
"""Tokens that one call may be asked to write: a typing error is answered before memory is short."""


class Canvases(ABC):
    """The part of a language model that reads what it is given to go on from, or to fill."""

    tokenizer: Tokenizer
    max_length: int
    phrases: Phrases | None
    """How long phrases of the training text are, where that is known."""

    @abstractmethod
    def possible_lengths(
        self, encoded: Sequence[list[int] | Gap], among: Sequence[Lengths] | None = None
    ) -> list[Lengths]:
        """Every choice of the gaps' lengths, or those that are given, the longest last. Raises UserError where the
        model cannot infill, or cannot compare them."""

    @abstractmethod
    def choose_lengths(
        self,
        encoded: Sequence[list[int] | Gap],
        max_draws: int,
        seed: int = 0,
        among: Sequence[Lengths] | None = None,
        prior: Prior | None = None,
    ) -> tuple[Lengths, LengthCosts | None]:
        """The lengths of the gaps and, where there were several choices, what the given text costs with each of them
        (else None), by at most so many draws of each, from `seed`. `among`: the choices, the longest last; None: all
        that the gaps allow. `prior`: see `compare_lengths`. Raises UserError where the model cannot infill, or cannot
        compare the lengths."""

    @cached_property
    def _joins(self) -> bool:
        """Whether a token may begin with the space before a word."""
        return space_joins_next(self.tokenizer)

    def check_given(self, text: str) -> None:
        """Warn of characters that the model reads as something else; raise UserError for one that it cannot read."""
        check_known(self.tokenizer, as_read(text))

    def prompt_rows(
        self, prompts: Sequence[str], length: int | None = None, max_new_tokens: int | None = None
    ) -> list[Row]:
        """Prompts, each with a gap after it up to `length` tokens in all (default: the model's length), or of
        `max_new_tokens`. Raises UserError for a prompt longer than `length`, and where both are given."""
        whole("length", length, 1)
        whole("max_new_tokens", max_new_tokens, 1)
        if length is not None and max_new_tokens is not None:
            raise UserError("give `length=`, prompt included, or `max_new_tokens=`, after the prompt, not both")
        for name, number in {"length": length, "max_new_tokens": max_new_tokens}.items():
            if number is not None and number > MOST_WRITTEN:
                raise UserError(f"`{name}={number}`, expected at most {MOST_WRITTEN:,} tokens")
        rows, in_all = [], length or self.max_length
        for number, prompt in enumerate(prompts, start=1):
            self.check_given(prompt)
            given = self.tokenizer.encode(as_read(without_space(prompt, joins=self._joins)))
            if max_new_tokens is None and len(given) > in_all:
                which = "the prompt" if len(prompts) == 1 else f"prompt {number}"
                raise UserError(
                    f"{which} has {len(given)} tokens, but the text to generate has {in_all}; shorten the "
                    "prompt or ask for a longer text"
                )
            end = in_all if max_new_tokens is None else len(given) + max_new_tokens
            tokens = given + [self.tokenizer.mask_id] * (end - len(given))
            rows.append(Row(tokens, [slice(len(given), end)], [prompt, ""]))
        return rows

    def prompt_canvas(self, prompts: Sequence[str], length: int | None = None) -> Canvas:
        """A canvas of `length` tokens (default: the model's length) with a row for each prompt, at its start. Raises
        UserError for a prompt longer than that."""
        return self._canvas(self.prompt_rows(prompts, length))

    def check_template(self, text: str, candidates: int | None = None, *, escape: bool = False) -> None:
        """Raise UserError for a template that `infill` refuses: malformed, too long, with lengths that cannot be
        compared, or with `candidates` that cannot be ranked because the text is longer than the model."""
        encoded = self.encode_template(text, escape=escape)
        longest = self.possible_lengths(encoded)[-1]
        num_tokens = len(lay_out(encoded, longest, self.tokenizer.mask_id)[0])
        if candidates is not None and num_tokens > self.max_length:
            raise UserError(
                f"`candidates={candidates}`: the text has {num_tokens} tokens, and candidates are ranked for texts of "
                f"at most {self.max_length}, the model's length; leave out `candidates=`"
            )

    def encode_template(self, text: str, *, escape: bool = False) -> list[list[int] | Gap]:
        """The template as tokens and gaps in turn. Raises UserError for a malformed template, and for a gap longer than
        the model."""
        return self._encoded(parse_template(text, escape=escape))

    def _encoded(self, template: Template) -> list[list[int] | Gap]:
        for part in template:
            if isinstance(part, Gap) and part.longest > self.max_length:
                raise UserError(
                    f"a gap of {part.longest} tokens is longer than the model: it was trained at {self.max_length}"
                )
            if isinstance(part, str):
                self.check_given(part)
        return encode_template(self.tokenizer, template, joins=self._joins)

    def lay_out(
        self,
        template: Template,
        length_draws: int = MAX_DRAWS,
        length_seed: int = 0,
        among: Sequence[Lengths] | None = None,
        length_prior: LengthPrior | None = None,
    ) -> Layout:
        """A template, as `parse_template` gives it, as a row with the lengths of its gaps decided; see `infill` and
        `choose_lengths`. Raises UserError for a gap longer than the model, and where lengths cannot be compared."""
        prior = self._prior(template, length_prior)
        encoded = self._encoded(template)
        lengths, costs = self.choose_lengths(encoded, length_draws, length_seed, among, prior)
        row = Row(*lay_out(encoded, lengths, self.tokenizer.mask_id), texts_around(template))
        return Layout(row, lengths, costs)

    def _prior(self, template: Template, length_prior: LengthPrior | None) -> Prior | None:
        """The prior of the gaps' lengths that was asked for; None: the training text's where its phrases were counted,
        else none. Raises UserError where it is asked for and they were not."""
        if length_prior is not None:
            one_of("length_prior", length_prior, get_args(LengthPrior))
        if length_prior == "text" and self.phrases is None:
            raise UserError(
                "`length_prior='text'`: the phrases of this model's training text were not counted, as those of models "
                "of earlier versions; leave it out, for lengths that are as likely as each other beforehand"
            )
        return None if length_prior == "uniform" or self.phrases is None else prior_of(self.phrases, template)

    def _canvas(self, rows: Sequence[Row]) -> Canvas:
        """Rows as a canvas. Shorter ones are padded with [MASK] that is not to be filled."""
        mask_id, lengths = self.tokenizer.mask_id, [len(row.tokens) for row in rows]
        width = max(lengths, default=0)
        tokens = torch.full((len(rows), width), mask_id)
        padding = torch.ones(len(rows), width, dtype=torch.bool)
        for number, row in enumerate(rows):
            tokens[number, : lengths[number]] = torch.tensor(row.tokens, dtype=torch.int64)
            padding[number, : lengths[number]] = False
        return Canvas(tokens, (tokens != mask_id) | padding)

    def _given_ahead(self, canvas: Canvas) -> bool:
        """Whether any row has given text after a gap: blocks must look ahead for it, all rows alike."""
        given = canvas.fixed & (canvas.tokens != self.tokenizer.mask_id)
        return bool((given[:, 1:] & ~canvas.fixed[:, :-1]).any())

    def _until_its_end(self, row: list[int]) -> list[int]:
        """A finished row without what it was padded with, or did not come to."""
        return row[: row.index(self.tokenizer.mask_id)] if self.tokenizer.mask_id in row else row
