"""A stand-in for a device without float64, such as Apple's mps, for machines that have none. Its tensors are wrappers
around ones on the CPU. It refuses float64, tensors of another device beside its own, and another device's generator.

It goes by the name of `meta`: a device that PyTorch knows everywhere, and that no test needs for anything else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

THERE, CPU = torch.device("meta"), torch.device("cpu")
aten = torch.ops.aten
MOVES = {aten._to_copy.default, aten.copy_.default}
TAKES_CPU_INDICES = {aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default}


class Elsewhere(Tensor):
    """A tensor on the stand-in; `inside` is the one on the CPU that it is made of."""

    inside: Tensor

    @staticmethod
    def __new__(cls, inside: Tensor) -> Elsewhere:
        if inside.dtype == torch.float64:
            raise TypeError("this device has no float64")
        made = Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
            cls,
            inside.size(),
            strides=inside.stride(),
            storage_offset=inside.storage_offset(),
            dtype=inside.dtype,
            device=THERE,
        )
        made.inside = inside
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return f"Elsewhere({self.inside})"


class Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


class Calls(TorchFunctionMode):
    """What Python does without an operation."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.tensor and torch.device(kwargs.get("device") or CPU) == THERE:
            return func(*args, **{**kwargs, "device": CPU}).to(THERE)
        if func is Tensor.tolist and isinstance(args[0], Elsewhere):
            return args[0].inside.tolist()
        return func(*args, **kwargs)


def run(func: Any, args: Any, kwargs: Any) -> Any:
    """Do an operation on what the wrappers hold. Results are on the stand-in where inputs were, or if asked for."""
    leaves = tree_leaves((args, kwargs))
    wrapper_of = {id(leaf.inside): leaf for leaf in leaves if isinstance(leaf, Elsewhere)}
    others = [leaf for leaf in leaves if isinstance(leaf, Tensor) and not isinstance(leaf, Elsewhere) and leaf.ndim > 0]
    wanted, generator = kwargs.get("device"), kwargs.get("generator")
    is_there = bool(wrapper_of) if wanted is None else wanted.type == THERE.type
    if func is aten.copy_.default:
        is_there = isinstance(args[0], Elsewhere)
    may_mix = func in MOVES or (func in TAKES_CPU_INDICES and isinstance(args[0], Elsewhere))
    if any(leaf.device == THERE for leaf in others) or (wrapper_of and others and not may_mix):
        raise RuntimeError(f"{func}: expected all tensors to be on the same device")
    if is_there and generator is not None:
        raise RuntimeError(f"{func}: expected a generator of this device")
    if wanted is not None:
        kwargs = {**kwargs, "device": CPU}
    found = func(*tree_map(unwrapped, args), **tree_map(unwrapped, kwargs))
    if not is_there:
        return found
    return tree_map(lambda leaf: wrapper_of.get(id(leaf)) if id(leaf) in wrapper_of else wrapped(leaf), found)


def unwrapped(leaf: Any) -> Any:
    return leaf.inside if isinstance(leaf, Elsewhere) else leaf


def wrapped(leaf: Any) -> Any:
    return Elsewhere(leaf) if isinstance(leaf, Tensor) else leaf


@contextmanager
def stand_in_device() -> Iterator[torch.device]:
    """In the block there is such a device, as far as PyTorch's operations go."""
    with Calls(), Operations():
        yield THERE
