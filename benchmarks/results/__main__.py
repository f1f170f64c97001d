"""Write the numbers of all pages and draw the pictures of what has changed, or show where they differ; or take the
results of an experiment into docs/results."""

from __future__ import annotations

import argparse
import difflib
import sys
from pathlib import Path

from benchmarks.results.log_tables import LOG_TABLES
from benchmarks.results.pages import PageError, unmarked, written
from benchmarks.results.parts import PART_TABLES
from benchmarks.results.pictures import draw_stale, stale
from benchmarks.results.stored import FOLDER
from benchmarks.results.tables import TABLES
from benchmarks.results.take import take
from benchmarks.results.to_come import TABLES_TO_COME
from benchmarks.results.values import VALUES

from mdlm_atat.errors import UserError

ROOT = Path(__file__).parents[2]
WITHOUT_BARE_NUMBERS = ["docs/results/README.md", "docs/results/more.md", "docs/results/log.md", "docs/report.md"]
"""Pages on which every number that looks measured has a mark or is in a marked table."""
PAGES = ["README.md", "docs/atat.md", "docs/method.md", "docs/samplers.md", "docs/howto/causal-start.md"]
PAGES += WITHOUT_BARE_NUMBERS


def new_text(page: Path) -> str:
    try:
        return written(
            page.read_text(encoding="utf-8"), {**TABLES, **LOG_TABLES, **TABLES_TO_COME, **PART_TABLES}, VALUES
        )
    except PageError as error:
        raise UserError(f"{page.relative_to(ROOT)}: {error}") from error


def differences() -> list[str]:
    """The lines of a diff between the pages and what is stored, the numbers that nothing stored is behind, and the
    pictures of other numbers."""
    lines = []
    for name in PAGES:
        old, new = (ROOT / name).read_text(encoding="utf-8"), new_text(ROOT / name)
        lines += difflib.unified_diff(old.splitlines(), new.splitlines(), name, "from docs/results/*.json", lineterm="")
        if name in WITHOUT_BARE_NUMBERS:
            lines += [f"{name}: {number} has no mark that says where it comes from" for number in unmarked(old)]
    return lines + [f"docs/results/{name} shows other numbers than are stored" for name in stale()]


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0 done, 1 a page differs, 2 a page or what is stored cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.results", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where a page differs")
    parser.add_argument("--take", type=Path, metavar="RUNS", help="store results.json of this experiment's folder")
    parser.add_argument("--machine", help="with --take: what it ran on, such as 'two NVIDIA H200 of one host'")
    parser.add_argument("--name", help="with --take: of the file in docs/results (default: that of the folder)")
    parser.add_argument("--command", help="with --take: what was run, where it is not the whole grid as it is")
    given = parser.parse_args(argv)
    if given.take is None and (given.machine or given.name or given.command):
        parser.error("--machine, --name and --command go with --take RUNS")
    if given.take is not None and (given.check or not given.machine):
        parser.error("--take goes with --machine MACHINE, and without --check")
    try:
        if given.take is not None:
            file = FOLDER / f"{given.name or given.take.resolve().name}.json"
            print("\n".join(take(given.take, file, machine=given.machine, command=given.command)))
            return 0
        return check() if given.check else write()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
    except FileNotFoundError as error:
        print(f"error: there is no file {error.filename}; git checkout brings it back", file=sys.stderr)
    return 2


def check() -> int:
    found = differences()
    if found:
        print("\n".join([*found, "make results writes numbers and pictures anew from what is stored"]))
    return 1 if found else 0


def write() -> int:
    draw_stale()
    for name in PAGES:
        new = new_text(ROOT / name)
        (ROOT / name).write_text(new, encoding="utf-8")
        for number in unmarked(new) if name in WITHOUT_BARE_NUMBERS else []:
            print(f"{name}: {number} has no mark that says where it comes from", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
