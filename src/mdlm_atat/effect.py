"""Settings, options and flags that a person names and that change nothing: what each needs to count, and the one
sentence that says so."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from mdlm_atat.formats import as_setting


class Such(NamedTuple):
    """Values of a kind, where any of them will do."""

    words: str
    """What is said of them in "it needs NAME ...": "above 0"."""
    holds: Callable[[Any], bool]


When = Mapping[str, Any]
"""When something has an effect: other settings, by name, with the value that each needs, a `Such`, or a tuple of these.
A setting of several values needs one of them among its own."""
NOT_GIVEN = Such("left out", lambda value: value in (None, False, "", []))
GIVEN = Such("given", lambda value: value not in (None, False, "", []))
BELOW_1 = Such("below 1", lambda value: value < 1)
A_NUMBER = Such("a number", lambda value: value is not None)
ABOVE_0 = Such("above 0", lambda value: value > 0)


def inside(prefix: str, when: When) -> When:
    """The same with `prefix.` before each name that has no dot: a setting names its neighbours by their own names."""
    return {name if "." in name else f"{prefix}.{name}": needed for name, needed in when.items()}


def without_effect(
    name: str,
    alternatives: Iterable[When],
    value_of: Callable[[str], Any],
    show: Callable[[Any], str] = as_setting,
) -> str | None:
    """What is to be said of something that is named though it has no effect: a sentence, with what it needs. None where
    one of the `alternatives` is so, or there are none. `value_of` gives the value of another setting by its name, and
    `show` how it is written."""
    lacking = [list(_lacking(when, value_of)) for when in alternatives]
    if not lacking or not all(lacking):
        return None
    if all(wanted == GIVEN.words for each in lacking for _, wanted in each):
        without = dict.fromkeys(" and ".join(other for other, _ in each) for each in lacking)
        return f"{name} has no effect without {' or '.join(without)}"
    needs = min(lacking, key=len)
    found = " and ".join(f"{other} = {show(value_of(other)).strip(chr(39))}" for other, _ in needs)
    return f"{name} has no effect with {found}: it needs {' and '.join(f'{other} {wanted}' for other, wanted in needs)}"


def _lacking(when: When, value_of: Callable[[str], Any]) -> Iterator[tuple[str, str]]:
    """The settings whose value is none of those that are needed, with these in words."""
    for name, needed in when.items():
        options = needed if isinstance(needed, tuple) and not isinstance(needed, Such) else (needed,)
        value = value_of(name)
        values = value if isinstance(value, tuple) else (value,)
        if not any(_is(each, option) for each in values for option in options):
            yield name, " or ".join(_in_words(option) for option in options)


def _is(value: Any, option: Any) -> bool:
    return option.holds(value) if isinstance(option, Such) else value == option


def _in_words(option: Any) -> str:
    return option.words if isinstance(option, Such) else as_setting(option).strip("'")
