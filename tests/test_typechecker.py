"""What the other tests rely on: that a signature of the package that does not hold raises while they run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

import pytest
import torch
from jaxtyping import Float, Int, TypeCheckError
from torch import Tensor

import typechecker
from mdlm_atat.core.schedules import Linear
from mdlm_atat.core.times import UniformTime
from mdlm_atat.formats import percent

if TYPE_CHECKING:
    from fractions import Fraction  # which is not there when the signature is looked at


Tensors = Float[Tensor, "..."]


@typechecker.check
def joined(a: int, /, b: str = "b", *rest: float, c: str | None = None, **more: int) -> str:
    return "".join(map(str, (a, b, rest, c, more)))


@typechecker.check
def product(x: Float[Tensor, "batch width"], y: Float[Tensor, "batch width"], rows: int = 9) -> Float[Tensor, " batch"]:
    return (x * y).sum(1)[:rows]


@typechecker.check
def lengths(rows: list[Int[Tensor, " length"]]) -> Int[Tensor, " rows"]:
    return torch.tensor([len(row) for row in rows])


@typechecker.check
def nothing(x: int) -> None:
    return x if x else None  # type: ignore[return-value]


@typechecker.check
def half_known(x: Fraction, n: int) -> Fraction:
    return x


@typechecker.check
def chosen(x: Literal["a", "b"], number: int = 0, of: Tensors | None = None) -> Literal["a", "b"]:
    return x if number == 0 else "c"  # type: ignore[return-value]


@typechecker.check
def told(both: tuple[int, str], *, number: int, word: str, of: Tensors | None = None) -> None:
    pass


@typechecker.check
def counted(number: int) -> Iterator[int]:
    yield from range(number)


@typechecker.check
@dataclass(frozen=True)
class Pair:
    a: int
    b: Float[Tensor, " n"]
    c: Float[Tensor, " n"]


@typechecker.check
@dataclass(frozen=True)
class Other:
    a: str
    b: int
    c: int


WRONG: dict[str, Callable[[], Any]] = {
    "an argument": lambda: joined("1"),  # type: ignore[arg-type]
    "one by its name": lambda: joined(1, b=2),  # type: ignore[arg-type]
    "one after a star": lambda: joined(1, "b", "x"),  # type: ignore[arg-type]
    "one by its name alone": lambda: joined(1, c=3),  # type: ignore[arg-type]
    "one of no known name": lambda: joined(1, d="x"),  # type: ignore[arg-type]
    "a result": lambda: nothing(1),
    "an argument beside one of an unknown type": lambda: half_known(object(), "1"),  # type: ignore[arg-type]
    "numbers of another type": lambda: product(torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3)),
    "an axis too few": lambda: product(torch.zeros(2), torch.zeros(2, 3)),
    "two sizes of one axis": lambda: product(torch.zeros(2, 3), torch.zeros(2, 4)),
    "the shape of a result": lambda: product(torch.zeros(2, 3), torch.zeros(2, 3), rows=1),
    "tensors in a list": lambda: lengths([torch.zeros(2)]),
    "a value": lambda: chosen("c"),  # type: ignore[arg-type]
    "a value of a result": lambda: chosen("a", 1),
    "what a tuple holds": lambda: told(("b", 1), number=1, word="b"),  # type: ignore[arg-type]
    "each by the other's name": lambda: told((1, "b"), word=1, number="b"),  # type: ignore[arg-type]
    "a field": lambda: Pair("1", torch.zeros(2), torch.zeros(2)),  # type: ignore[arg-type]
    "two sizes of one axis of fields": lambda: Pair(1, torch.zeros(2), torch.zeros(3)),
    "a field of a class with the same names": lambda: Other(1, 1, 1),  # type: ignore[arg-type]
    "a function of the package": lambda: percent("1"),  # type: ignore[arg-type]
    "a method of the package": lambda: Linear().mask_rate("0.5"),  # type: ignore[arg-type]
    "a dataclass of the package": lambda: UniformTime(low="0"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("what", WRONG)
def test_what_a_signature_rules_out_raises(what):
    with pytest.raises(TypeCheckError):
        WRONG[what]()


def test_of_calls_that_were_right_none_makes_a_wrong_one_right():
    test_what_a_signature_allows_is_taken_and_given_back_as_it_is()
    percent(1.0)
    Linear().mask_rate(torch.ones(1))
    UniformTime(low=0.0)
    for call in WRONG.values():
        with pytest.raises(TypeCheckError):
            call()


def test_what_a_signature_allows_is_taken_and_given_back_as_it_is():
    assert joined(1) == "1b()None{}"
    assert joined(1, "x", 2, 2.5, c="c", d=4) == "1x(2, 2.5)c{'d': 4}"
    assert product(torch.ones(2, 3), torch.ones(2, 3)).tolist() == [3.0, 3.0]
    assert product(torch.ones(5, 1), torch.ones(5, 1)).shape == (5,)  # sizes of one call are not those of the next
    assert product(torch.ones(2, 3), torch.ones(2, 3), rows=2).tolist() == [3.0, 3.0]
    assert lengths([torch.zeros(2, dtype=torch.long)] * 3).tolist() == [2, 2, 2]
    assert lengths([torch.zeros(2, dtype=torch.long)]).tolist() == [2]
    assert half_known(Decimal(1), 1) == 1  # type: ignore[arg-type]
    assert nothing(0) is None
    assert chosen("a") == "a"
    told((1, "b"), number=1, word="b")
    assert list(counted(3)) == [0, 1, 2]
    assert Pair(1, torch.zeros(2), torch.zeros(2)).a == 1


def test_of_two_closures_of_one_code_each_has_its_own_values():
    def adding(number: int) -> Callable[..., int]:
        @typechecker.check
        def add(x: int, y: int = number) -> int:
            return number + x + y

        return add

    one, ten = adding(1), adding(10)
    assert [one(1), ten(1), one(1, 0)] == [3, 21, 2]
    with pytest.raises(TypeCheckError):
        ten(1.5)


def test_too_many_and_too_few_arguments_are_pythons_own_mistake():
    with pytest.raises(TypeError, match=r"joined\(\) missing 1 required positional argument: 'a'"):
        joined()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"nothing\(\) takes 1 positional argument but 2 were given"):
        nothing(1, 2)  # type: ignore[call-arg]
