"""How numbers are written for people, in a terminal, on a page or in a file: one form for each kind of number.

Values and their errors, perplexities, counts, shares, p values and durations all come from here, so that the same
number reads the same wherever it is shown. What is missing, not finite or enormous is written too, and never raises.
"""

from __future__ import annotations

import math
from pathlib import PurePath
from typing import Any

MISSING = "–"
MOST_SHOWN = 160  # characters of a setting's value in a message


def with_error(
    value: float | None, standard_error: float | None = None, *, decimals: int | None = None, sign: bool = False
) -> str:
    """`1.7231 ± 0.0043`: a value and its standard error, with as many decimals as show two digits of the error.

    `decimals` fixes their number instead, as the columns of a table want it. Without an error (None, or NaN, as of a
    single draw) the value stands alone, with four decimals by default. With `sign` a value from 0 on begins with a
    plus. What no decimals can show, such as the nats of a run that diverged, is written as `number` writes it.
    """
    if value is None or not math.isfinite(value) or abs(value) >= 1e6:
        return number(value)
    plus = "+" if sign else ""
    if standard_error is None or not math.isfinite(standard_error) or (decimals is None and standard_error <= 0):
        return f"{value:{plus},.{4 if decimals is None else decimals}f}"
    if decimals is None:
        decimals = min(max(1 - math.floor(math.log10(standard_error)), 0), 6)
    return f"{value:{plus},.{decimals}f} ± {standard_error:,.{decimals}f}"


def perplexity(value: float | None) -> str:
    """`68.42`, `1,234.50`: two decimals, unless it is enormous."""
    if value is None or not math.isfinite(value) or not 0.01 <= abs(value) < 1e6:
        return number(value)
    return f"{value:,.2f}"


def significant(value: float, digits: int = 4) -> str:
    """`1,234`, `38.24` or `0.001230`: the value to so many digits, never in powers of ten."""
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    return f"{value:,.{max(digits - 1 - math.floor(math.log10(abs(value))), 0)}f}"


def number(value: float | None, digits: int = 4) -> str:
    """`–` for what is missing, `68.42`, `1,500`, `-0.0031`, `1.2 × 10^12`: any number, in little room."""
    if value is None:
        return MISSING
    if not math.isfinite(value):
        return "not finite"
    size = abs(value)
    if size and not 1e-4 <= size < 1e9:
        mantissa, exponent = f"{value:.{min(digits, 3) - 1}e}".split("e")
        return f"{mantissa} × 10^{int(exponent)}"
    return significant(value, digits)


def count(value: float | None) -> str:
    """`65,536`, `98.3 million`, `1.21 × 10^16`: a number of things."""
    if value is None or not math.isfinite(value) or abs(value) >= 1e12:
        return number(value, 3)
    if abs(value) >= 1e9:
        return f"{significant(value / 1e9, 3)} billion"
    return f"{significant(value / 1e6, 3)} million" if abs(value) >= 1e6 else f"{value:,.0f}"


def counted(number: int, noun: str) -> str:
    """`1 file`, `2,031 files`: how many of something, whose plural ends in s."""
    return f"{number:,} {plural(number, noun)}"


def plural(number: float, noun: str) -> str:
    """`file` of one, `files` of any other number: the noun where its number stands elsewhere, or in another form."""
    return noun if number == 1 else f"{noun}s"


def percent(share: float | None, digits: int = 2) -> str:
    """`41%`, `2.4%`, `-26%`, `105%`: a share, to so many digits."""
    if share is None or not math.isfinite(share):
        return number(share)
    return f"{number(100 * share, digits if abs(share) < 0.995 else max(digits, 3))}%"


def p_value(p: float) -> str:
    """`p = 0.021`, to two digits, or `p < 0.001`."""
    return "p < 0.001" if p < 0.001 else f"p = {significant(p, 2)}"


def data_size(num_bytes: float | None) -> str:
    """`312 B`, `4.5 KiB`, `18 MiB`, `1.2 GiB`: memory or files, in the unit that leaves one to three digits before the
    point."""
    if num_bytes is None or not math.isfinite(num_bytes):
        return number(num_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(num_bytes) < 999.5:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{_two_digits(num_bytes)} {unit}"
        num_bytes /= 1024
    return f"{_two_digits(num_bytes)} TiB"


def short_count(value: float | None) -> str:
    """`950`, `2.4K`, `10.7M`, `1.3B`: a number of tokens or parameters, where there is little room."""
    if value is None or not math.isfinite(value) or abs(value) >= 999.5e12:
        return number(value, 3)
    for unit in ("", "K", "M", "B"):
        if abs(value) < 999.5:
            return f"{value:.0f}" if not unit else f"{significant(value, 3)}{unit}"
        value /= 1000
    return f"{significant(value, 3)}T"


def age(elapsed_s: float) -> str:
    """`just now`, `5 min ago`, `3 h ago`, `12 days ago`: how long ago something was."""
    if elapsed_s < 60:
        return "just now"
    if elapsed_s < 3600:
        return f"{elapsed_s // 60:.0f} min ago"
    if elapsed_s < 2 * 86400:
        return f"{elapsed_s // 3600:.0f} h ago"
    return f"{elapsed_s // 86400:,.0f} days ago"


def duration(elapsed_s: float | None) -> str:
    """`0.18 s`, `42 s`, `4 min 12 s`, `3 h 05 min`, `2 days 7 h`."""
    if elapsed_s is None or not math.isfinite(elapsed_s):
        return number(elapsed_s)
    if 0 < abs(elapsed_s) < 1:
        return f"{significant(elapsed_s, 2)} s"
    total_s = round(elapsed_s)
    if total_s < 60:
        return f"{total_s} s"
    if total_s < 3600:
        return f"{total_s // 60} min {total_s % 60:02} s"
    hours = total_s // 3600
    if hours < 48:
        return f"{hours} h {total_s % 3600 // 60:02} min"
    return f"{hours // 24} days {hours % 24} h"


def _two_digits(value: float) -> str:
    return significant(value, 2) if abs(value) < 9.95 else f"{value:.0f}"


def as_setting(value: Any) -> str:
    """A setting's value as a person would write it in YAML; of one that is long, the beginning."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and abs(value) >= 1 << 64:
        return f"a number of {value.bit_length():,} bits"
    text = repr(str(value) if isinstance(value, PurePath) else value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."
