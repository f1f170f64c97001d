"""Names of lm-evaluation-harness's tasks, looked up in its files: it takes seconds to import, and more to list them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from importlib.util import find_spec
from os import fsencode, walk
from pathlib import Path

from mdlm_atat.checks import did_you_mean
from mdlm_atat.errors import UserError
from mdlm_atat.small_files import read_small

_WORD = re.compile(rb"""[^\s"',\[\]{}#:]+""")
_NAME = re.compile(rb"""^[ \t]*(?:-[ \t]+)?["']?(?:task|group|tag)["']?[ \t]*:[ \t]*["']?([^\s"',\[\]{}#:]+)""", re.M)


@lru_cache(maxsize=8)  # of what is right: a refusal is none
def check_task_names(names: tuple[str, ...], include_path: Path | None = None) -> None:
    """Raise UserError for a .yaml file that is not there, and for a task that is named in no file of the harness or of
    `include_path`. Patterns and names of several words are left to the harness, and all where it is not installed.

    Every task, group or tag of the harness (14,683 of them in 0.4.13) is a word in one of its files; what is such a
    word and no task is refused by the harness itself.
    """
    if include_path is not None and not include_path.is_dir():
        raise UserError(f"`include_path=`: there is no folder {include_path}")
    for name in names:
        if name.endswith(".yaml") and not Path(name).is_file():
            raise UserError(f"there is no file {name}")
    single = {fsencode(name) for name in names if not name.endswith(".yaml") and not set("*?") & set(name)}
    wanted = {name for name in single if _WORD.fullmatch(name)}
    harness = find_spec("lm_eval")
    if not wanted or harness is None or not harness.submodule_search_locations:
        return
    known: set[bytes] = set()
    own = Path(harness.submodule_search_locations[0]) / "tasks"
    for text in _texts_of([own] if include_path is None else [include_path, own]):
        wanted -= set(_WORD.findall(text))
        if not wanted:
            return
        known |= set(_NAME.findall(text))
    missing = next(name for name in names if fsencode(name) in wanted)
    options = sorted(name.decode(errors="replace") for name in known)
    meant = did_you_mean(missing, options)
    raise UserError(f"lm-evaluation-harness knows no task {missing!r}{meant}; `lm-eval ls tasks` lists them")


def _texts_of(folders: Iterable[Path]) -> Iterator[bytes]:
    """What is in the files of tasks, those without the ending too, which others include."""
    for folder in folders:
        for home, _, names in walk(folder):
            for name in names:
                file = Path(home) / name
                if "yaml" in name or "." not in name:
                    with suppress(OSError, UserError):  # of which the harness speaks
                        yield read_small(file.resolve())  # no pipe, and no data
