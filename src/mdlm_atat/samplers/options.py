"""What the rules check of their options."""

from __future__ import annotations

from mdlm_atat.errors import UserError


def at_least_one(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise UserError(f"{name} is {value}, expected at least 1")


def one_of(name: str, value: str, names: tuple[str, ...]) -> None:
    if value not in names:
        raise UserError(f"{name} is {value!r}, expected one of {', '.join(names)}")


def at_least_zero(name: str, value: float | None) -> None:
    if value is not None and not value >= 0:
        raise UserError(f"{name} is {value}, expected 0 or more")
