"""How the pages word numbers and settings."""

import math
from collections.abc import Mapping
from typing import Any


def with_error(value: float, standard_error: float | None) -> str:
    """`1.7231 ± 0.0043`: as many decimals as show two digits of the standard error; four decimals if there is none."""
    if standard_error is None or not math.isfinite(standard_error) or standard_error <= 0:
        return f"{value:.4f}"
    decimals = min(max(1 - math.floor(math.log10(standard_error)), 0), 6)
    return f"{value:,.{decimals}f} ± {standard_error:,.{decimals}f}"


def significant(value: float, digits: int = 4) -> str:
    """`1,234`, `38.24` or `0.001230`: the value to so many digits, never in powers of ten."""
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    return f"{value:,.{max(digits - 1 - math.floor(math.log10(abs(value))), 0)}f}"


def duration(elapsed_s: float) -> str:
    """`42 s`, `4 min 12 s`, `3 h 05 min`."""
    total_s = round(elapsed_s)
    if total_s < 60:
        return f"{total_s} s"
    if total_s < 3600:
        return f"{total_s // 60} min {total_s % 60:02} s"
    return f"{total_s // 3600} h {total_s % 3600 // 60:02} min"


def plain(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value) or "none"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def flat(mapping: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, value in mapping.items():
        if isinstance(value, dict):
            rows += flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", plain(value)))
    return rows


def section(mapping: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = mapping.get(key)
    return value if isinstance(value, dict) else {}


MISSING = "–"


def number(value: float | None, digits: int = 4) -> str:
    """`–` for what is missing, `68.42`, `1,500`, `−0.0031`, `1.2 × 10^12`: any number, in little room."""
    if value is None:
        return MISSING
    if not math.isfinite(value):
        return "not finite"
    size = abs(value)
    if size and not 1e-4 <= size < 1e9:
        mantissa, exponent = f"{value:.{min(digits, 3) - 1}e}".split("e")
        return minus(f"{mantissa} × 10^{int(exponent)}")
    return minus(significant(value, digits))


def count(value: float | None) -> str:
    """`65,536`, `98.3 million`, `1.21 × 10^16`: a number of things."""
    if value is None or not math.isfinite(value) or abs(value) >= 1e12:
        return number(value, 3)
    if abs(value) >= 1e9:
        return f"{significant(value / 1e9, 3)} billion"
    return f"{significant(value / 1e6, 3)} million" if abs(value) >= 1e6 else minus(f"{value:,.0f}")


def percent(share: float | None) -> str:
    """`41%`, `2.4%`, `−26%` of a share, to two digits."""
    if share is None or not math.isfinite(share):
        return number(share)
    return f"{number(100 * share, 2 if abs(share) < 0.995 else 3)}%"


def p_value(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {significant(p, 2)}"


def minus(text: str) -> str:
    """With a minus sign in place of the hyphen."""
    return text.replace("-", "−")
