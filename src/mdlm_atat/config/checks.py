"""Ranges that many settings share."""

from __future__ import annotations

from mdlm_atat.errors import UserError


def at_least(name: str, value: float, lowest: float) -> None:
    """UserError where the setting `name` is below `lowest`."""
    if value < lowest:
        raise UserError(f"{name} is {value}, expected at least {lowest}")


def probability(name: str, value: float) -> None:
    """UserError where the setting `name` is not from 0 to 1."""
    if not 0 <= value <= 1:
        raise UserError(f"{name} is {value}, expected between 0 and 1")
