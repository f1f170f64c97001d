"""Marks in Markdown: what is written after them, and which numbers have none."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping

Written = Callable[..., str]
"""What a mark's arguments, as words, are written as."""

TABLE = re.compile(r"^<!-- table: (.*?) -->\n.*?^<!-- end -->$", re.MULTILINE | re.DOTALL)
ALONE = r"[-+]?\d+(?:,\d{3})*(?:\.\d+)?[%MKB]?"
NUMBER = rf"(?:{ALONE}(?: ± \d+(?:\.\d+)?%?)?|\[{ALONE}, {ALONE}\])"
VALUE = re.compile(rf"<!--=([^>]*?)-->(?:{NUMBER})?")
MARK = re.compile(r"<!--=|<!-- (?:table:|end)")
SET = (
    re.compile(  # what may be in a sentence without a mark: code, addresses, names, versions and where to find a thing
        r"^(?: {4}|\t)[^\n]*$|^```.*?^```$|`[^`\n]*`|\]\([^)]*\)|<!--.*?-->|\b\d{4}\.\d{4,5}\b"
        r"|\b(?:[Ss]ections?|version|torch|Python|table|equations?|eq\.)\s\d[\d.+a-z]*(?: (?:and|to) \d[\d.]*)?"
        r"|\b(?:dropout|EMA|gamma|eta) 0\.\d+|\b95% (?:interval|over)",
        re.MULTILINE | re.DOTALL,
    )
)
MEASURED = re.compile(
    r"[-+]?\d[\d,]*\.\d+(?:%|\b)|\b\d[\d,]*%|\d ± \d|\b\d[\d,]* (?:tokens/s|ms|GiB|minutes|seconds)\b"
)


class PageError(Exception):
    """A page's mark that nothing can be written for."""


def written(text: str, tables: Mapping[str, Written], values: Mapping[str, Written]) -> str:
    """The page with every table and every number as they are now. Raises PageError where a mark names none."""

    def table(found: re.Match[str]) -> str:
        return f"<!-- table: {found[1]} -->\n\n{_called(tables, found[1]).strip()}\n\n<!-- end -->"

    def value(found: re.Match[str]) -> str:
        number = _called(values, found[1])
        if re.fullmatch(NUMBER, number) is None:
            raise PageError(f"{found[1]!r} gave {number!r}, which is neither a number nor an interval")
        return f"<!--={found[1]}-->{number}"

    if text.count("<!-- table:") != text.count("<!-- end -->"):
        raise PageError("a table has no end mark, or an end mark no table")
    new = VALUE.sub(value, TABLE.sub(table, text))
    for line in new.splitlines():
        if re.match(r"[ >]*(?:[-*+] +)?<!--=", line):  # Markdown takes such a line for HTML
            raise PageError(f"a line begins with a mark: {line[:60]!r}")
    return new


def unmarked(text: str) -> list[str]:
    """The numbers of a page's sentences that look measured (a decimal point, per cent, an error) and have no mark."""
    rest = VALUE.sub("", TABLE.sub("", text))
    return [found[0] for found in MEASURED.finditer(SET.sub("", rest))]


def _called(known: Mapping[str, Written], words: str) -> str:
    name, *arguments = shlex.split(words)
    if name not in known:
        raise PageError(f"{name!r} is none of {', '.join(sorted(known))}")
    try:
        return known[name](*arguments)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise PageError(f"{words!r}: {type(error).__name__}: {error}") from error
