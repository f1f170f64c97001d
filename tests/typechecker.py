"""A plug-in of pytest: shapes and types of the package's signatures are checked while the tests run; an int may stand
for a float.

jaxtyping's hook decorates every function of the package, but its decorator binds the arguments of every call anew,
checks them twice, and makes its checks again for each closure: a fifth of the time of all tests. `check` is in its
place: what beartype makes of a signature is made once, and sizes of axes are compared where a signature has shapes. A
call is looked at once for all calls of the same types, shapes and dtypes: of a loop's steps the first.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator
from types import CodeType, FunctionType, SimpleNamespace
from typing import Any, Literal, get_args, get_origin, get_type_hints

import jaxtyping
from beartype import BeartypeConf, beartype

_checked = beartype(conf=BeartypeConf(is_pep484_tower=True, violation_type=jaxtyping.TypeCheckError))
_axes = jaxtyping.jaxtyped("context")
"""Within its block, an axis of one name has one size."""


def pytest_load_initial_conftests() -> None:
    jaxtyping.install_import_hook("mdlm_atat", f"{__name__}.check")
    jaxtyping.jaxtyped = lambda **_: check


def check(thing: Any) -> Any:
    """A function that raises where its arguments or what it returns are not what its signature says; of a class, which
    is returned itself, that is the `__init__` of a dataclass. What a generator yields is not looked at."""
    if not isinstance(thing, FunctionType):
        if dataclasses.is_dataclass(thing) and "__init__" in vars(thing):
            thing.__init__ = check(thing.__init__)  # type: ignore[misc]
        return thing
    if not thing.__annotations__:
        return thing
    if id(thing.__code__) not in _checks:
        _checks[id(thing.__code__)] = _checks_of(thing)
    checks = _checks[id(thing.__code__)]
    take, give, by_value, right = checks.take, checks.give, checks.by_value, checks.right

    @functools.wraps(thing)
    def checked(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        take(*args, **kwargs)
        return give(thing(*args, **kwargs))

    @functools.wraps(thing)
    def checked_once(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        given = None if by_value else _kinds(args, kwargs)
        results = None if given is None else right.get(given)
        if results is None:
            with _axes:
                take(*args, **kwargs)
                result = give(thing(*args, **kwargs))
            if given is not None:
                right[given] = {_kind(result)}
            return result
        result = thing(*args, **kwargs)
        kind = _kind(result)
        if kind is None or kind not in results:
            with _axes:
                take(*args, **kwargs)
                give(result)
            results.add(kind)
        return result

    return checked_once if checks.is_slow else checked


@dataclasses.dataclass(frozen=True)
class _Checks:
    code: CodeType
    """Kept, so that its id is no other's."""
    take: Callable[..., None]
    """Of the arguments."""
    give: Callable[[Any], Any]
    """Of the result."""
    is_slow: bool
    """Whether they look at shapes or for the methods of protocols, tens of microseconds a call."""
    by_value: bool
    """Whether a value counts, not its type alone."""
    right: dict[tuple[Any, ...], set[Any]]
    """Kinds of arguments that were found right, each with the kinds of results that were."""


_checks: dict[int, _Checks] = {}
"""Of functions, by the id of their code: closures are many functions of one code. (Codes of two dataclasses can be
equal.)"""


def _checks_of(function: FunctionType) -> _Checks:
    hints = {name: _hint(annotation, function) for name, annotation in function.__annotations__.items()}
    result = hints.pop("return", Any)
    parts = [part for hint in (*hints.values(), result) for part in _parts(hint)]
    is_slow, by_value = any(map(_is_slow, parts)), any(get_origin(part) is Literal for part in parts)
    return _Checks(function.__code__, _checked(_taking(function, hints)), _giving(result), is_slow, by_value, {})


def _kinds(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...] | None:
    """What the check of a call goes by; None where that is more than types, shapes and dtypes."""
    kinds = (*map(_kind, args), *kwargs, *map(_kind, kwargs.values()))
    return None if None in kinds else kinds


def _kind(thing: Any) -> Any:
    form = _forms.get(type(thing)) or _form_of(type(thing))
    if form == "type":
        return type(thing)
    if form == "array":
        return type(thing), tuple(thing.shape), thing.dtype
    if form == "tuple" and len(thing) <= 8:
        kinds = tuple(map(_kind, thing))
        return None if None in kinds else (type(thing), kinds)
    return None


_forms: dict[type, str] = {}


def _form_of(kind: type) -> str:
    if hasattr(kind, "shape") and hasattr(kind, "dtype"):
        form = "array"
    elif issubclass(kind, tuple):
        form = "tuple"
    else:
        form = "whole" if issubclass(kind, (Collection, type)) and not issubclass(kind, (str, bytes)) else "type"
    return _forms.setdefault(kind, form)


def _hint(annotation: Any, function: FunctionType) -> Any:
    """What an annotation stands for; Any, where its names are there for type checkers only."""
    try:
        here = SimpleNamespace(__annotations__={"it": annotation})
        return get_type_hints(here, function.__globals__, include_extras=True)["it"]
    except NameError:
        return Any


def _parts(hint: Any) -> Iterator[Any]:
    yield hint
    for part in get_args(hint):
        yield from _parts(part)


def _is_slow(hint: Any) -> bool:
    return isinstance(hint, type) and (
        issubclass(hint, jaxtyping.AbstractArray) or getattr(hint, "_is_protocol", False)
    )


def _taking(function: FunctionType, hints: dict[str, Any]) -> FunctionType:
    """A function of the same parameters that does nothing."""
    code, nothing = function.__code__, (lambda: None).__code__
    stars = code.co_flags & (0x04 | 0x08)  # inspect.CO_VARARGS, inspect.CO_VARKEYWORDS
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + (stars & 4) // 4 + (stars & 8) // 8]
    nothing = nothing.replace(
        co_argcount=code.co_argcount,
        co_posonlyargcount=code.co_posonlyargcount,
        co_kwonlyargcount=code.co_kwonlyargcount,
        co_flags=nothing.co_flags | stars,
        co_varnames=names,
        co_nlocals=len(names),
        co_name=code.co_name,
        co_filename=code.co_filename,
        co_firstlineno=code.co_firstlineno,
    )
    taking = FunctionType(nothing, function.__globals__, function.__name__, function.__defaults__)
    taking.__kwdefaults__ = function.__kwdefaults__
    taking.__annotations__ = hints
    taking.__qualname__, taking.__module__ = function.__qualname__, function.__module__
    return taking


@functools.cache
def _giving(hint: Any) -> Callable[[Any], Any]:
    """A function that returns what it is given."""

    def returned(result: Any) -> Any:
        return result

    returned.__annotations__ = {"return": hint}
    return _checked(returned)
