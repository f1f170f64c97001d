"""`DataRequest`: everything that a preparation is asked for, and the hash by which its result is found again."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from mdlm_atat import effect
from mdlm_atat.data import places
from mdlm_atat.data.manifest import FORMAT, is_prepared
from mdlm_atat.data.open_tokenizer import checked, is_plain_name, load_tokenizer
from mdlm_atat.data.readers.reading import ReadingSettings, needing, reading_of
from mdlm_atat.data.settings import DataSettings
from mdlm_atat.data.sources import Files, HubSet, SourceLike, Texts, label_of, open_source
from mdlm_atat.data.tokenizers import HFTokenizer, Tokenizer
from mdlm_atat.errors import UserError
from mdlm_atat.formats import as_setting


class RequestSettings(ReadingSettings, total=False):
    """The settings of a `DataRequest` as typed keywords: all but its source."""

    tokenizer: str | os.PathLike[str] | Tokenizer
    length: int | None
    mode: Literal["wrap", "pad"]
    validation: SourceLike | None
    validation_fraction: float
    split: str
    detokenize: str | None
    accept_loss: bool
    whole: bool
    loss_on: Literal["all", "answers"]


@dataclass(frozen=True, kw_only=True)
class DataRequest(DataSettings):
    """A request for a corpus as tokens, which `prepare(request=...)` fulfils.

    Raises UserError for settings that cannot work. An iterator is read into a list at once, since a preparation reads
    its source several times.
    """

    source: SourceLike
    """As in `DataSettings`, or texts from Python, each a document, or a `Source`."""
    tokenizer: str | os.PathLike[str] | Tokenizer = "char"
    """As in `DataSettings`, or a tokenizer."""
    validation: SourceLike | None = None
    """Like source, or a split's name for a hub data set. None: what comes with the source, else cut from it."""
    split: str = field(
        default="train",
        metadata=needing(({"source": places.OF_HUB}, {"whole": True, "source": places.OF_FOLDER})),
    )
    """Hub data sets: the split to read; with `whole` of a folder, `test` for its test files."""
    whole: bool = False
    """Make one split, valid, for scoring: of a hub set its `split`, of another source the validation text that comes
    with it, else its test files (those also where `split` is test), else all of it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode == "pad" and self.length is None:
            why = "`mode=pad`" if self.loss_on == "all" else "`loss_on='answers'`"
            raise UserError(f"{why} needs `length=`, the tokens of a row, at least 2")
        for name in ("source", "validation"):
            given = getattr(self, name)
            is_path = isinstance(given, str) and os.path.exists(given)  # noqa: PTH110  # False for what is too long
            if isinstance(given, str) and ("\n" in given or len(given) > 4096) and not is_path:  # longer than any path
                raise UserError(f"{name} is a text of {len(given):,} characters, no name or path: put it into a list")
            if isinstance(given, Iterator):
                object.__setattr__(self, name, list(given))

    @classmethod
    def of(cls, settings: DataSettings, **changes: Any) -> DataRequest:
        """Make the request that has the settings of a configuration, except for `changes`."""
        names = [field.name for field in fields(DataSettings)]
        return cls(**{**{name: getattr(settings, name) for name in names}, **changes})

    def warn_of_what_has_no_effect(self) -> None:
        """Warn of the settings that are not the default and have no effect on this source, with what they need."""

        def value_of(name: str) -> Any:
            value = getattr(self, name)
            return list(value) if isinstance(value, tuple) else value

        def show(value: Any) -> str:
            is_plain = value is None or isinstance(value, (str, int, float))
            return as_setting(value) if is_plain else label_of(value)

        for part in fields(self):
            if getattr(self, part.name) != part.default:
                line = effect.without_effect(part.name, part.metadata.get("when", ()), value_of, show)
                if line is not None:
                    warnings.warn(line, stacklevel=3)

    @property
    def row_length(self) -> int | None:
        """Tokens of the longest row in pad mode; None in wrap mode."""
        return self.length if self.mode == "pad" else None

    @property
    def prepared(self) -> Path | None:
        """The source's folder where it is one of prepared tokens, else None."""
        if not isinstance(self.source, (str, os.PathLike)):
            return None
        folder = Path(self.source).expanduser()
        return folder if is_prepared(folder) else None

    def open(self) -> Texts:
        """Open the text to read. Raises UserError where there is none of that name."""
        named = self.validation
        given = Path(named).expanduser() if isinstance(named, (str, os.PathLike)) else None
        return self._open(self.source, given=given if given and given.exists() else None)

    def open_all(self) -> tuple[Texts, Texts | None]:
        """Open the text to read, and the validation text that was named; None where none was."""
        source = self.open()
        return source, self.open_validation(source)

    def open_validation(self, source: Texts) -> Texts | None:
        """Open the validation text that was named; None where none was. `source` is the opened text; of a hub set, one
        of its splits may be named. Raises UserError where there is no such text."""
        named = self.validation
        if named is None:
            return None
        if isinstance(source, HubSet) and isinstance(named, str) and not Path(named).exists() and ":" not in named:
            return source.with_split(named)
        return self._open(named)

    def open_test(self, source: Texts) -> Texts | None:
        """Open the test files of an opened folder where they are what is scored: with `whole`, if there is no
        validation text or `split` is test. Else None."""
        if not self.whole or not isinstance(source, Files) or self.validation is not None:
            return None
        return source.test() if self.split == "test" or source.valid is None else None

    def _open(self, source: SourceLike, given: Path | None = None) -> Texts:
        return open_source(
            source,
            split=self.split,
            reading=reading_of(self),
            detokenize=self.detokenize,
            given=given,
        )

    @cached_property
    def fixed_tokenizer(self) -> Tokenizer | None:
        """The tokenizer that was asked for; None for `char`, whose alphabet is read from the text."""
        if self.tokenizer == "char":
            return None
        if isinstance(self.tokenizer, (str, os.PathLike)):
            return load_tokenizer(self.tokenizer)
        return checked(self.tokenizer)

    def fingerprint(self, opened: tuple[Texts, Texts | None] | None = None, *, former: bool = False) -> str:
        """Return the hash of everything that was asked for: it finds the folder that an equal request has made.

        `opened`: the source and the validation text that was named, if they are open already. `former`: with the hash
        that versions until 0.1 had of a tokenizer. Raises UserError where a source or the tokenizer is not there.
        """
        source, named = opened or self.open_all()
        validation = self.open_test(source) or named
        if is_plain_name(self.tokenizer) or self.fixed_tokenizer is None:
            tokenizer = self.tokenizer
        else:
            tokenizer = self.fixed_tokenizer.fingerprint()
            if former and isinstance(self.fixed_tokenizer, HFTokenizer):
                tokenizer = self.fixed_tokenizer.former_fingerprint()
        request = {
            "format": FORMAT,
            "source": source.identity(),
            "validation": validation.identity() if validation else None,
            "fraction": self.validation_fraction,
            "tokenizer": tokenizer,
            "mode": self.mode,
            "length": self.row_length,
            "whole": self.whole,
            **({} if self.loss_on == "all" else {"loss_on": self.loss_on}),
        }
        return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
