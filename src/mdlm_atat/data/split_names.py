"""Which files of a folder are for training, validation and test, by their names alone."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import PurePath
from typing import Literal

Part = Literal["train", "valid", "test"]

TRAIN_AND_VALID = "trainval"
_WORDS: dict[str, Part] = {
    **dict.fromkeys(("train", "training", "trn", TRAIN_AND_VALID), "train"),
    **dict.fromkeys(
        ("valid", "validation", "validate", "val", "vld", "dev", "devel", "development", "eval", "evaluation"),
        "valid",
    ),
    **dict.fromkeys(("heldout", "holdout", "newsdev"), "valid"),
    **dict.fromkeys(("test", "tests", "testing", "tst", "testa", "testb", "newstest"), "test"),
}
WORDS: dict[str, Part] = {
    word + end: part for word, part in _WORDS.items() for end in ("", "set", "data", "split", "corpus")
}
"""What a word in a name says of a file."""
BOTH = {word for word in WORDS if word.startswith(TRAIN_AND_VALID)}
"""Words for the training and validation text together, which say nothing where there is validation text by itself."""
CODE = re.compile(
    r"\.(c|cc|cfg|cpp|cs|css|cu|go|h|hpp|ini|ipynb|java|jl|js|jsx|kt|lua|php|pl|ps1|py|r|rb|rs|scala|sh|sql|swift|toml|ts"
    r"|tsx|yaml|yml)",
    re.IGNORECASE,
)
"""Endings of programs and their settings. Their names say what they do: `train.py`, `test_loop.py`."""


def split_parts(paths: Iterable[PurePath]) -> dict[PurePath, Part | None] | None:
    """Return the part that each file of a folder belongs to (None: neither), or None where the folder is not split.

    `paths` are relative to the folder. A word of `WORDS` counts, in any case, where it stands alone in the name of a
    file or folder, between anything but Latin letters or before a capital: `ptb.valid.txt`, `Test/a.txt`,
    `TestSplit.txt`, `held-out.txt`, `c4-train.00000-of-00512.jsonl`, `语料train.txt`, and not `contest.txt`; of source
    code, only in the names of its folders, and where there is any, `tests` says nothing: programs have theirs there.
    Beside validation text `trainval` says nothing, for it holds that too. A folder is split where one file is for
    training and another for validation or test; otherwise `test-pilot.txt` is a title like any other.

    A name that says both, as `train/test-1.txt` does, is not trained on, except for what all such names share: in
    `test-corpus/train.txt` and `test-corpus/valid.txt` the folder's name says nothing.
    """
    paths = list(paths)
    of_programs = {"tests"} if any(CODE.fullmatch(path.suffix) for path in paths) else set[str]()
    said = {path: _said(path, of_programs) for path in paths}
    if any(parts["valid"] for parts in said.values()):
        said = {path: _said(path, of_programs | BOTH) for path in paths}
    for shared in (_shared(said.values()), Counter[Part]()):
        decided: dict[PurePath, Part | None] = {path: _decided(parts - shared) for path, parts in said.items()}
        found = set(decided.values())
        all_kept = all(decided[path] for path, parts in said.items() if parts)
        if all_kept and "train" in found and found & {"valid", "test"}:
            return decided
    return None


def has_split_word(path: PurePath) -> bool:
    """Return whether a name has a word by which it could belong to a part."""
    return bool(_said(path))


def _said(path: PurePath, ignored: Collection[str] = ()) -> Counter[Part]:
    """How often a name says each part, in other words than those `ignored`."""
    if CODE.fullmatch(path.suffix):
        path = path.parent
    plain = _with_other_scripts_blank(unicodedata.normalize("NFC", path.as_posix()))
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", plain)
    name = re.sub(r"(held|hold)[-_ .]out", "heldout", name, flags=re.IGNORECASE)
    words = re.findall(r"[^\W\d_]+", name.lower())
    odd = [word for word in re.findall(r"[^\W\d_]+", plain) if re.search("[a-z][A-Z]", word)]  # deV, tRAIN
    return Counter(WORDS[word] for word in [*words, *map(str.lower, odd)] if word in WORDS and word not in ignored)


def _with_other_scripts_blank(name: str) -> str:
    """A name with a space for each letter that is not Latin: beside Chinese ones, say, a word stands without one."""

    def is_other(letter: str) -> bool:
        return letter.isalpha() and not letter.isascii() and not unicodedata.name(letter, "").startswith("LATIN")

    return "".join(" " if is_other(letter) else letter for letter in name)


def _shared(said: Iterable[Counter[Part]]) -> Counter[Part]:
    """What all names say that say something, training left out."""
    shared: Counter[Part] | None = None
    for parts in filter(None, said):
        shared = parts if shared is None else shared & parts
    return Counter({part: number for part, number in (shared or {}).items() if part != "train"})


def _decided(parts: Counter[Part]) -> Part | None:
    return next((part for part in ("test", "valid", "train") if parts[part]), None)
