"""A plug-in of pytest: shapes and types of the package's signatures are checked while the tests run; an int may stand
for a float.

jaxtyping's hook decorates every function of the package, but its decorator binds the arguments of every call anew,
checks them twice, and makes its checks again for each closure: a fifth of the time of all tests. `check` is in its
place: what beartype makes of a signature is made once, and sizes of axes are compared where a signature has shapes.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from types import CodeType, FunctionType, SimpleNamespace
from typing import Any, get_args, get_type_hints

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
        _checks[id(thing.__code__)] = thing.__code__, *_checks_of(thing)
    _, take, give, has_shapes = _checks[id(thing.__code__)]

    @functools.wraps(thing)
    def checked(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        take(*args, **kwargs)
        return give(thing(*args, **kwargs))

    @functools.wraps(thing)
    def checked_with_shapes(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        with _axes:
            take(*args, **kwargs)
            return give(thing(*args, **kwargs))

    return checked_with_shapes if has_shapes else checked


_checks: dict[int, tuple[CodeType, Callable[..., None], Callable[[Any], Any], bool]] = {}
"""A function's code, what takes its arguments and what passes on its result, and whether there are shapes, by the id of
the code: closures are many functions of one code. (Codes of two dataclasses can be equal.)"""


def _checks_of(function: FunctionType) -> tuple[Callable[..., None], Callable[[Any], Any], bool]:
    hints = {name: _hint(annotation, function) for name, annotation in function.__annotations__.items()}
    result = hints.pop("return", Any)
    has_shapes = any(map(_has_shapes, [*hints.values(), result]))
    return _checked(_taking(function, hints)), _giving(result), has_shapes


def _hint(annotation: Any, function: FunctionType) -> Any:
    """What an annotation stands for; Any, where its names are there for type checkers only."""
    try:
        here = SimpleNamespace(__annotations__={"it": annotation})
        return get_type_hints(here, function.__globals__, include_extras=True)["it"]
    except NameError:
        return Any


def _has_shapes(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(map(_has_shapes, get_args(hint)))


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
