"""atat cache: corpora that were prepared on the way, and published models that were read, to look at and to clear."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from typing import TYPE_CHECKING

from mdlm_atat.cli.parser import Parser, choose, real
from mdlm_atat.errors import UserError
from mdlm_atat.formats import age, data_size
from mdlm_atat.terminal import shown

if TYPE_CHECKING:
    from mdlm_atat.data.cache import Cached

HELP = """\
atat cache: list or clear corpora that were prepared on the way, and published models

usage: atat cache list
       atat cache clear [NAME ...] [--older_than DAYS] [--yes]

A corpus that is prepared without a folder of its own, as atat train prepares its text, stays in $ATAT_CACHE, or in
~/.cache/mdlm-atat, and so does a published model (hub:OWNER/NAME) as it was read. Cleared, it is prepared or read again
when it is next needed: runs and models of your own are not touched.

for example:
  atat cache list
  atat cache clear --older_than 30      what was not used for 30 days
  atat cache clear shakespeare          what was prepared from this source
"""


def clear_parser() -> Parser:
    parser = Parser(
        "atat cache clear",
        "Remove corpora and published models from the cache. What a process is using stays.",
    )
    parser.add_argument(
        "names", nargs="*", default=[], metavar="NAME", help="of atat cache list: a name, its beginning, or a source"
    )
    parser.add_argument(
        "--older_than", type=real(0), default=0, metavar="DAYS", help="only what was last used more than DAYS days ago"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")
    return parser


def main(argv: list[str]) -> int:
    match choose("atat cache", argv, ("list", "clear"), HELP):
        case ("list", rest):
            Parser("atat cache list", "Show what is in the cache, the last used first.").parse(rest)
            _list()
        case ("clear", rest):
            return _clear(clear_parser().parse(rest))
    return 0


def _list() -> None:
    from mdlm_atat.data.cache import list_cache
    from mdlm_atat.model_folder import cache_home

    entries = list_cache()
    if entries:
        _show(entries)
    total = data_size(sum(entry.num_bytes for entry in entries))
    print(f"{cache_home()}: {f'{len(entries)} kept, {total} in all' if entries else 'nothing is cached'}")


def _clear(arguments: Namespace) -> int:
    from mdlm_atat.data.cache import choose_cached, clear_cached, list_cache

    chosen = choose_cached(list_cache(), arguments.names, older_than_s=86400 * arguments.older_than)
    if not chosen:
        print("nothing to clear")
        return 0
    if not arguments.yes:
        if not sys.stdin.isatty():
            raise UserError(
                f"{len(chosen)} would be cleared, and there is nobody to ask: add `yes=True` if that is meant"
            )
        _show(chosen)
        if not _agrees(chosen):
            print("nothing was cleared")
            return 0

    def say_kept(entry: Cached) -> None:
        print(f"kept       {entry.name}: a process uses it, or its files may not be removed")

    removed = clear_cached(chosen, say_kept)
    print(f"cleared    {len(removed)} of {len(chosen)}, {data_size(sum(entry.num_bytes for entry in removed))}")
    return 0


def _agrees(chosen: list[Cached]) -> bool:
    size = data_size(sum(entry.num_bytes for entry in chosen))
    try:
        return input(f"Clear {len(chosen)}, {size}? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _show(entries: list[Cached]) -> None:
    now = time.time()
    rows = [("name", "size", "made", "last used", "tokenizer", "source")]
    for entry in entries:
        used = "in use" if entry.is_in_use else age(now - entry.last_used)
        size, made = data_size(entry.num_bytes), age(now - entry.made)
        rows.append((entry.name, size, made, used, entry.tokenizer, entry.source))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, size, *others, source in rows:
        cells = (cell.ljust(width) for cell, width in zip(others, widths[2:-1], strict=True))
        print(shown("  ".join([name.ljust(widths[0]), size.rjust(widths[1]), *cells, source])))
