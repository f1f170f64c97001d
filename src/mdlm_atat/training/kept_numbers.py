"""What an optimizer keeps beside the tensors of its state: counts and running numbers, in its groups or for single
weights. Ours keep none, plugins' may."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from mdlm_atat.errors import UserError

GIVEN = ("params", "lr")
"""Of a group: the loop sets the rate before every step."""

Numbers = list[dict[str, Any]]
"""Of each group, by name."""


def numbers_of_groups(optimizer: Optimizer) -> Numbers:
    """The numbers, texts and lists in an optimizer's groups. Objects of other kinds are taken to be settings, which do
    not change. Raises UserError for a tensor, which a checkpoint would not hold."""
    groups = []
    for group in optimizer.param_groups:
        found = {key: value for key, value in group.items() if key not in GIVEN}
        tensor = next((key for key, value in found.items() if isinstance(value, Tensor)), None)
        if tensor is not None:
            raise _not_stored(optimizer, f"the tensor {tensor!r} in a group of weights")
        groups.append({key: _listed(value) for key, value in found.items() if _is_plain(value)})
    return groups


def kept_numbers(optimizer: Optimizer, names: Sequence[str], at_first: Numbers) -> dict[str, Any]:
    """What a checkpoint is to hold: the `groups`' numbers that have changed since the optimizer was made, when they
    were `at_first`, and by name (`names`: in the optimizer's order) those that it keeps for single `weights`. Raises
    UserError for what is neither number nor tensor."""
    groups = [
        {key: value for key, value in group.items() if key not in first or first[key] != value}
        for group, first in zip(numbers_of_groups(optimizer), at_first, strict=True)
    ]
    weights = {}
    for index, entry in optimizer.state_dict()["state"].items():
        found = {key: value for key, value in entry.items() if not isinstance(value, Tensor)}
        for key, value in found.items():
            if not _is_plain(value):
                raise _not_stored(optimizer, f"{key!r} of a weight, which is a {type(value).__name__}")
        weights |= {names[index]: found} if found else {}
    return ({"groups": groups} if any(groups) else {}) | ({"weights": weights} if weights else {})


def give_to_groups(optimizer: Optimizer, stored: Mapping[str, Any]) -> None:
    """Give the groups the numbers that `kept_numbers` found in them."""
    for group, numbers in zip(optimizer.param_groups, stored.get("groups", optimizer.param_groups), strict=True):
        group.update({key: tuple(new) if isinstance(group.get(key), tuple) else new for key, new in numbers.items()})


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _listed(value: Any) -> Any:
    """As JSON gives it back."""
    return [_listed(part) for part in value] if isinstance(value, (list, tuple)) else value


def _not_stored(optimizer: Optimizer, what: str) -> UserError:
    return UserError(
        f"the optimizer {type(optimizer).__name__} keeps {what}, and a checkpoint would not hold that: let it keep "
        "tensors in `self.state[weight]`, and in groups nothing but numbers, texts and lists of them"
    )
