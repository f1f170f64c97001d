"""`manifest.json` of a prepared folder: what the tokens are, where they came from, how many there are."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from mdlm_atat.data.loss import Changes
from mdlm_atat.errors import UserError
from mdlm_atat.small_files import check_kinds, read_json, read_object, taken_apart

FORMAT = 1
MOST_BYTES = 1 << 28  # it lists all files of the source
FILE_NAME = "manifest.json"
PROMPTS, PROMPTS_DTYPE = ".prompts", "<u4"
"""Ending and type of the file that says how many tokens of each row are its prompt."""
SIZES: tuple[str, ...] = ("tokens", "words", "characters", "bytes", "unspaced")
"""What of the answers is counted apart from the rest."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """How much text is in a split, in every unit."""

    documents: int
    """Documents; one that is cut between train and valid counts in both."""
    tokens: int
    """Tokens in the .bin file, eos included."""
    rows: int
    """pad: stored rows. wrap: 0, rows are cut when read."""
    words: int
    """Words separated by whitespace."""
    characters: int
    """Unicode code points of the text."""
    bytes: int
    """UTF-8 bytes of the text."""
    sha256: str
    """Hash of the .bin file."""
    rows_sha256: str = ""
    """pad: hash of the .idx file, empty in folders of before 0.2."""
    unspaced: int = 0
    """Characters of scripts that put no spaces between words."""
    changed: dict[str, int] | None = None
    """Characters that the tokenizer does not give back, by kind (see loss.py); None in folders of before 0.2."""
    answers: dict[str, int] | None = None
    """loss_on=answers: tokens (eos included), words, characters, bytes and unspaced characters of the answers in the
    rows, which alone are scored. None where all of the text is."""
    prompts_sha256: str = ""
    """loss_on=answers: hash of the .prompts file."""

    @property
    def changes(self) -> Changes:
        """What the tokenizer does not give back, nothing where that is not known."""
        return Changes(**(self.changed or {}))


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What the tokens of a prepared folder are, and where they came from."""

    format: int
    """Version of this layout."""
    fingerprint: str
    """Hash of everything the preparation was asked for; the same request finds this folder again."""
    source: dict[str, Any]
    """Where the text came from: files with size and hash, or hub id and revision."""
    validation: dict[str, Any]
    """Which text was held out: rule, and fraction, plays or source."""
    tokenizer: dict[str, Any]
    """Name, vocabulary size (mask not counted), mask id and hash of its definition."""
    mode: str
    """wrap or pad."""
    length: int | None
    """pad: tokens in the longest row. wrap: None, chosen when read."""
    eos: bool
    """Whether documents are followed by eos."""
    dtype: str
    """Little-endian unsigned integer of the .bin files: <u1, <u2 or <u4."""
    splits: dict[str, Split]
    loss_on: Literal["all", "answers"] = "all"
    """What of a row is scored; answers: all but its prompt."""
    accounts: dict[str, Any] | None = None
    """What was read, held out and left out of the source, and why; None in folders of earlier versions."""


def read_manifest(folder: str | os.PathLike[str]) -> Manifest:
    """Read the manifest of a prepared folder. Raises UserError where there is none or another version's."""
    path = Path(folder) / FILE_NAME
    if not path.is_file():
        raise UserError(
            f"{folder} is not a prepared corpus (it has no {FILE_NAME}); "
            f"make one with `prepare(SOURCE, tokenizer='char', out={str(folder)!r})`"
        )
    remedy = f"delete {folder} and prepare the corpus again"
    with taken_apart(path, remedy=remedy):
        data = read_object(path, most_bytes=MOST_BYTES, remedy=remedy)
        if data["format"] != FORMAT:
            raise UserError(
                f"{path} has format {data['format']}, this version reads {FORMAT}: prepare the corpus again"
            )
        splits = {name: Split(**split) for name, split in data.pop("splits").items()}
        manifest = Manifest(splits=splits, **data)
        _check_numbers(manifest)
        return manifest


def _check_numbers(manifest: Manifest) -> None:
    """Raise ValueError where a number that files are read by is none."""
    check_kinds(asdict(manifest), fingerprint=str, source=dict, validation=dict, tokenizer=dict, mode=str, length=int)
    check_kinds(manifest.tokenizer, name=str, hash=str, mask_id=int)
    if manifest.accounts is not None and not isinstance(manifest.accounts, dict):
        raise ValueError("accounts are no object")
    for split in manifest.splits.values():
        check_kinds(asdict(split), documents=int, words=int, characters=int, bytes=int, sha256=str, rows_sha256=str)
        check_kinds(asdict(split), unspaced=int, changed=dict, answers=dict, prompts_sha256=str)
        _ = split.changes
        if (manifest.loss_on == "answers") != (split.answers is not None):
            raise ValueError(f"loss_on {manifest.loss_on!r:.80}, and answers {split.answers!r:.80}")
        if split.answers is not None:
            check_kinds(split.answers, **dict.fromkeys(SIZES, int))
            _ = [split.answers[name] for name in SIZES]
    _ = manifest.tokenizer["name"], manifest.tokenizer["hash"]
    if manifest.mode not in ("wrap", "pad"):
        raise ValueError(f"mode {manifest.mode!r:.80}")
    if manifest.loss_on not in ("all", "answers") or (manifest.loss_on == "answers" and manifest.mode == "wrap"):
        raise ValueError(f"loss_on {manifest.loss_on!r:.80}")
    if manifest.dtype not in ("<u1", "<u2", "<u4"):
        raise ValueError(f"dtype {manifest.dtype!r}")
    counts = {"vocab_size": manifest.tokenizer["vocab_size"]}
    for name, split in manifest.splits.items():
        counts |= {f"{count} of {name}": getattr(split, count) for count in ("tokens", "rows")}
    for name, number in counts.items():
        if type(number) is not int or number < 0:
            raise ValueError(f"{name} {number!r}")


def is_prepared(folder: str | os.PathLike[str]) -> bool:
    """Return whether `prepare` made this folder and finished it: its manifest is written last. So it is where that is
    damaged since, which reading it says."""
    path = Path(folder) / FILE_NAME
    if not path.is_file():
        return False
    try:
        data = read_json(path, most_bytes=MOST_BYTES)
    except UserError:
        return any((path.parent / f"{split}.bin").is_file() for split in ("train", "valid"))
    return isinstance(data, dict) and "fingerprint" in data and "splits" in data


def manifest_json(manifest: Manifest) -> str:
    """Return a manifest as the text of manifest.json."""
    return json.dumps(asdict(manifest), indent=2, ensure_ascii=False) + "\n"
