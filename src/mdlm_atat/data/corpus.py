"""A prepared corpus to look at and to open: what `prepare` returns."""

from __future__ import annotations

import os
from functools import cached_property
from html import escape
from pathlib import Path

from mdlm_atat.data.accounts import lost_in_words
from mdlm_atat.data.manifest import read_manifest
from mdlm_atat.data.open_tokenizer import load_prepared_tokenizer
from mdlm_atat.data.tokenizers import Tokenizer
from mdlm_atat.data.tokens import TokenDataset
from mdlm_atat.plugins import trusted

COLUMNS = ("documents", "tokens", "words", "characters", "bytes")


class Corpus:
    """A folder of prepared tokens; it may be given wherever a path may.

    `Corpus(folder)` opens one that is there. Raises UserError for a folder without a whole manifest. A tokenizer that
    the folder names as a plugin is imported with `trust_plugins`, or where this process was given its name before.
    """

    def __init__(self, folder: str | os.PathLike[str], *, trust_plugins: bool = False) -> None:
        self.folder = Path(folder).expanduser()
        self.manifest = read_manifest(self.folder)
        if trust_plugins:
            with trusted():
                _ = self.tokenizer

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the text was prepared with; it is loaded when first asked for."""
        return load_prepared_tokenizer(self.folder, self.manifest.tokenizer["hash"])

    def open(self, split: str = "train", length: int | None = None) -> TokenDataset:
        """Open a split as rows of `length` tokens; in pad mode `length` may be left out.

        Raises UserError where there is no such split, and where the training text is shorter than one row.
        """
        return TokenDataset.open(self.folder, split, length)

    def sizes(self) -> dict[str, list[str]]:
        """Return the size of each split in the units of `COLUMNS`, written out for a table."""
        splits = self.manifest.splits.items()
        return {name: [f"{getattr(split, column):,}" for column in COLUMNS] for name, split in splits}

    def facts(self) -> dict[str, str]:
        """Return the tokenizer, how the validation text was chosen, and the folder, in words."""
        tokenizer = self.manifest.tokenizer
        return {
            "tokenizer": f"{tokenizer['name']}, {tokenizer['vocab_size']:,} tokens",
            "validation": self.manifest.validation["rule"],
            **({"lost": lost} if (lost := lost_in_words(self.manifest)) else {}),
            "folder": str(self.folder),
        }

    def settings(self) -> dict[str, str | int]:
        """Return the settings of a run that is trained on this corpus, by their dotted paths."""
        manifest = self.manifest
        name, length = manifest.tokenizer["name"], manifest.length
        own = {"data.source": str(self.folder), "data.tokenizer": name, "data.mode": manifest.mode}
        if manifest.loss_on != "all":
            own["data.loss_on"] = manifest.loss_on
        return own if length is None else {**own, "data.length": length}

    def __fspath__(self) -> str:
        return str(self.folder)

    def __repr__(self) -> str:
        sizes = [
            f"{name} {split.tokens:,} tokens, {split.characters:,} characters"
            for name, split in self.manifest.splits.items()
        ]
        facts = [f"{name} {text}" for name, text in self.facts().items() if name != "folder"]
        return f"Corpus({str(self.folder)!r}: {'; '.join([*sizes, *facts])})"

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in ("split", *COLUMNS))
        body = "".join(
            f"<tr><th>{escape(name)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
            for name, cells in self.sizes().items()
        )
        facts = "<br>".join(f"{name}: {escape(text)}" for name, text in self.facts().items())
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>{facts}</p>"
