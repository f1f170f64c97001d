"""Checks that many settings share, and the hint for a misspelt name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from numbers import Integral, Real

from mdlm_atat.errors import UserError


def at_least(name: str, value: float | None, lowest: float) -> None:
    """Raise UserError where the setting `name` is below `lowest` or NaN; None is a setting that is not made."""
    if value is not None and not value >= lowest:
        raise UserError(f"{name} is {value}, expected at least {lowest}")


def within(name: str, value: float | None, lowest: float, highest: float) -> None:
    """Raise UserError where the setting `name` is below `lowest`, above `highest` or NaN; None is a setting that is not
    made."""
    at_least(name, value, lowest)
    if value is not None and value > highest:
        shown = f"{value:,}" if value < 1e20 else f"{value:.2g}"
        raise UserError(f"{name} is {shown}, expected at most {highest:,}")


def whole(name: str, value: object, lowest: int) -> None:
    """Raise UserError where the setting `name` is no whole number, or below `lowest`; None is a setting that is not
    made."""
    if value is None:
        return
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise UserError(f"{name} is {value!r}, expected a whole number from {lowest}")
    at_least(name, int(value), lowest)


def number(name: str, value: object) -> None:
    """Raise UserError where the setting `name` is no number, or one beyond those of floating point."""
    try:
        if isinstance(value, Real) and not isinstance(value, bool):
            float(value)
            return
    except OverflowError:
        pass
    raise UserError(f"{name} is {value!r:.40}, expected a number")


def probability(name: str, value: float) -> None:
    """Raise UserError where the setting `name` is not from 0 to 1."""
    if not 0 <= value <= 1:
        raise UserError(f"{name} is {value}, expected between 0 and 1")


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """The end of a message about an unknown word: "; did you mean X?", or nothing where no option is close to it.
    Capitals count for nothing."""
    by_letters = {option.casefold(): option for option in options}
    close = get_close_matches(word.casefold(), [*by_letters], n=1)
    return f"; did you mean {by_letters[close[0]]}?" if close else ""


def one_of(name: str, value: str, options: Iterable[str]) -> None:
    """Raise UserError where the setting `name` is none of its options."""
    if value not in (listed := list(options)):
        raise UserError(f"{name} is {value!r}, expected one of {', '.join(listed)}")


def check_keywords(given: Iterable[str], function: Callable[..., object], names: Iterable[str]) -> None:
    """Raise TypeError, with the likeliest name, for a keyword that is none of `names`. `function` is the one that was
    called with it and `names` are the keywords that it takes besides its parameters."""
    names = list(names)
    for name in given:
        if name not in names:
            hint = did_you_mean(name, [*inspect.signature(function).parameters, *names])
            takes = hint or f"; it takes {', '.join(names)}"
            raise TypeError(f"{function.__name__}() got an unexpected keyword argument {name!r}{takes}")
