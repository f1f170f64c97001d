"""What kind of thing a source is, told from its name without reading it: what each setting of a text needs."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from itertools import islice
from pathlib import Path

from mdlm_atat.data.hub import HUB_SETS
from mdlm_atat.data.unpack import ending_of
from mdlm_atat.effect import Such
from mdlm_atat.plugins import is_plugin

TABLES = (".csv", ".tsv")
WITH_NULLS = (".json", ".jsonl", ".ndjson", ".parquet")
MAILS = (".eml", ".mht", ".mhtml", ".mbox")
NOT_PLAIN = (*TABLES, *WITH_NULLS, *MAILS, ".html", ".htm", ".xhtml", ".ipynb", ".epub", ".pdf", ".docx")
WITHOUT_ENCODING = (".parquet", ".epub", ".pdf", ".docx")
"""Their format says how text is encoded in them."""
MOST_LISTED = 10_000
"""Files of a folder that are looked at before any is read."""
HUB, FOLDER, PREPARED, BUILT_IN, TEXTS = "hub", "folder", "prepared", "built in", "texts"


def kind_of(source: object) -> str | None:
    """One of HUB, FOLDER, PREPARED (tokens), BUILT_IN and TEXTS (objects and plugins of Python), or the ending of a
    file; None where that cannot be told, or nothing of this name is there."""
    if source is None or not isinstance(source, (str, os.PathLike)):
        return TEXTS
    name, path = os.fspath(source), Path(source).expanduser()
    try:
        if path.is_dir():
            is_prepared = (path / "manifest.json").is_file() and any(path.glob("*.bin"))
            return PREPARED if is_prepared else FOLDER
        if name == "shakespeare":
            return BUILT_IN
        if name in HUB_SETS or name.startswith("hub:"):
            return HUB
        if path.is_file():
            return ending_of(path) or "."
    except (OSError, ValueError):  # no path is so long, or holds a NUL
        return None
    return TEXTS if is_plugin("source", name) else None


def _such(words: str, *kinds: str, endings: Collection[str] = (), but: Collection[str] = ()) -> Such:
    """Sources of these `kinds` and files of these `endings`; with `but`, files of all endings but these. A folder needs
    to hold one such file, if any are named."""

    def holds(source: object) -> bool:
        if source is None:  # no validation text
            return False
        kind = kind_of(source)
        if kind == FOLDER and kind in kinds and (endings or but):
            return _some_file(Path(str(source)).expanduser(), holds)
        is_file = kind is not None and kind.startswith(".")
        return kind is None or kind in kinds or kind in endings or (is_file and bool(but) and kind not in but)

    return Such(words, holds)


def _some_file(folder: Path, holds: Callable[[object], bool]) -> bool:
    """Whether there is such a file in a folder, at any depth; also where there are none, or too many to look at."""
    names = [(at, name) for at, _, names in islice(os.walk(folder), MOST_LISTED) for name in names[:MOST_LISTED]]
    names = [(at, name) for at, name in names if not name.startswith(".")]
    return not names or len(names) >= MOST_LISTED or any(holds(Path(at) / name) for at, name in names)


OF_HUB = _such("a hub data set", HUB)
OF_FOLDER = _such("a folder", FOLDER)
_WITH_COLUMNS = _such(
    "a file with columns (.csv, .tsv, .json, .jsonl, .parquet), a hub data set or a folder of some",
    *(HUB, FOLDER),
    endings=(*TABLES, *WITH_NULLS),
)
_WITH_NULLS = _such(
    "a .json, .jsonl or .parquet file, a hub data set or a folder of some", HUB, FOLDER, endings=WITH_NULLS
)
_DELIMITED = _such("a .csv or .tsv file, or a folder of some", FOLDER, endings=TABLES)
_PLAIN = _such("a plain text file or a folder of some", FOLDER, but=NOT_PLAIN)
_ENCODED = _such("a text file or a folder of some", FOLDER, but=WITHOUT_ENCODING)
_UNPREPARED = _such("a text that is not prepared yet", HUB, FOLDER, BUILT_IN, TEXTS, but=("?",))
_UNDIVIDED = _such("a text that brings no validation text", HUB, FOLDER, TEXTS, but=("?",))

COLUMNS, NULLS, DELIMITED, PLAIN, ENCODED = (
    ({"source": such}, {"validation": such}) for such in (_WITH_COLUMNS, _WITH_NULLS, _DELIMITED, _PLAIN, _ENCODED)
)
"""What settings of how a text is read need, of the source or of the validation text."""
FILES_OF_FOLDER = ({"source": OF_FOLDER}, {"validation": OF_FOLDER})
NOT_PREPARED = ({"source": _UNPREPARED},)
CUT = ({"validation": None, "source": _UNDIVIDED},)
"""What the share of a source that is held out needs."""
