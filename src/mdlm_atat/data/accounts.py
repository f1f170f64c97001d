"""The account of a text: what was read, held out and left out, for the manifest and in lines for a person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from mdlm_atat.data.held_out import BY_HASH
from mdlm_atat.data.loss import Changes
from mdlm_atat.data.manifest import Manifest
from mdlm_atat.data.repeats import Repeated
from mdlm_atat.data.sources import Files, HubSet, SourceLike, Texts, label_of
from mdlm_atat.errors import UserError
from mdlm_atat.formats import count, counted, percent, plural

MUCH_MORE = 2.0
"""Times the share of the text that was asked for, above which it is said that so much more was held out."""
_NAMES = {"train": "training", "valid": "validation"}


def account(texts: Mapping[str, Texts | None], repeated: Repeated | None) -> dict[str, Any]:
    """Return what there is to say of opened texts, the source and the validation text among them, as JSON."""
    folders = {name: text.folder.record() for name, text in texts.items() if isinstance(text, Files) and text.folder}
    files = {name: len(text.files) for name, text in texts.items() if isinstance(text, Files)}
    changed = {name: dict(+text.left_out) for name, text in texts.items() if isinstance(text, (Files, HubSet))}
    return {
        "files": files,
        "folders": folders,
        "changed": {name: counts for name, counts in changed.items() if counts},
        "repeated": None if repeated is None else repeated._asdict(),
    }


def changed_lines(accounts: Mapping[str, Any] | None) -> list[str]:
    """Return what was read and not passed on as it is, in at most one line."""
    counts = Counter[str]()
    for part in ((accounts or {}).get("changed") or {}).values():
        counts.update(part)
    words = ", ".join(f"{what} ({number:,})" for what, number in counts.most_common())
    return [f"           not as they were: {words}"] if words else []


def no_text(text: Texts, named: SourceLike) -> UserError:
    """Return the error of a text, read to its end, that holds no character. It is called as it was `named`, or by its
    file where there is only one."""
    label = str(text.files[0]) if isinstance(text, Files) and len(text.files) == 1 else label_of(named)
    found = "".join(f"; {line.strip()}" for line in changed_lines(account({"source": text}, None)))
    return UserError(f"there is no text in {label}: expected at least one document that is not empty{found}")


def decided_lines(*texts: Texts | None) -> list[str]:
    """Return which files of folders are read, held out and left out, in lines; nothing of other texts."""
    return [line for text in texts if isinstance(text, Files) and text.folder for line in text.folder.lines()]


def check_halves(*texts: Texts | None) -> None:
    """Raise UserError where more than half of a folder would be left out unasked."""
    for text in texts:
        if isinstance(text, Files) and text.folder:
            text.folder.check()


def read_lines(manifest: Manifest) -> list[str]:
    """Return how much was read of each split, in lines for a person."""
    sizes = [
        f"{_NAMES[name]} {documents_in_words(split.documents, split.characters)}"
        for name, split in manifest.splits.items()
    ]
    lines = [f"read       {'; '.join(sizes)} ({manifest.validation['rule']})", *_more_held_out(manifest)]
    if lost := lost_in_words(manifest):
        lines.append(f"lost       {lost}")
    lines += changed_lines(manifest.accounts) + _answer_lines(manifest)
    repeated = repeated_in_words(manifest.accounts)
    return [*lines, f"repeated   {repeated}"] if repeated else lines


def _answer_lines(manifest: Manifest) -> list[str]:
    """How many answers there are, and what was left out of them, in at most one line."""
    if manifest.loss_on != "answers":
        return []
    shares = "; ".join(
        f"{_NAMES[name]} {split.rows:,}, {percent(split.answers['tokens'] / max(split.tokens, 1))} of its tokens"
        for name, split in manifest.splits.items()
        if split.answers is not None
    )
    left_out = Counter[str]()
    for counts in ((manifest.accounts or {}).get("answers") or {}).values():
        left_out.update(counts)
    words = ", ".join(f"{what} ({number:,})" for what, number in left_out.most_common())
    return [f"answers    {shares}{f'; not whole or left out: {words}' if words else ''}"]


def _more_held_out(manifest: Manifest) -> list[str]:
    """That much more was chosen for validation by hash than was asked for, in at most one line."""
    splits = manifest.splits
    if manifest.validation["rule"] != BY_HASH:
        return []
    asked = manifest.validation["fraction"]
    share = splits["valid"].characters / max(sum(split.characters for split in splits.values()), 1)
    if share <= MUCH_MORE * asked:
        return []
    return [
        f"           {percent(share)} of the text is held out, not {percent(asked)}: documents are held out whole and "
        "equal ones together, so a long one, or many equal ones, make it more; to choose: validation=FILE"
    ]


def repeated_in_words(accounts: Mapping[str, Any] | None) -> str | None:
    """Return how many documents are both held out and trained on, as a sentence; None where there are none."""
    repeated = (accounts or {}).get("repeated")
    if not repeated or not repeated["documents"]:
        return None
    about = "" if repeated["is_exact"] else "about "
    share = percent(repeated["documents"] / repeated["of"])
    return (
        f"{about}{repeated['documents']:,} of {repeated['of']:,} validation documents ({share}) are in the training "
        "text too"
    )


def lost_in_words(manifest: Manifest) -> str:
    """Return what the tokenizer does not give back of the text, by kind; nothing where it gives back all, or where that
    is not known."""
    splits = manifest.splits.values()
    changes = sum((split.changes for split in splits), Changes())
    if not changes.total:
        return ""
    lost = changes.in_words(sum(split.characters for split in splits))
    return f"{lost}: the tokenizer {manifest.tokenizer['name']} does not give them back"


def documents_in_words(documents: int, characters: int) -> str:
    """Return a size in words: `12 documents, 34,567 characters`."""
    return f"{counted(documents, 'document')}, {count(characters)} {plural(characters, 'character')}"
