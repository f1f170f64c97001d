"""The processes that share the requests out."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol, TypeVar, runtime_checkable

import torch

from mdlm_atat.device import Precision
from mdlm_atat.training.engine import Engine, launched_processes

T = TypeVar("T")


@runtime_checkable
class Ranks(Protocol):
    """This process among others: `training.engine.Engine` is one."""

    rank: int
    num_ranks: int

    @property
    def device(self) -> torch.device | None: ...

    def gather_objects(self, share: T) -> list[T]:
        """What every process has, in the order of the processes."""
        ...

    def on_main(self, work: Callable[[], T]) -> T: ...


class Alone:
    """The only process."""

    rank, num_ranks, device = 0, 1, None

    def gather_objects(self, share: T) -> list[T]:
        return [share]

    def on_main(self, work: Callable[[], T]) -> T:
        return work()


def launched(precision: Precision) -> Ranks:
    """The processes that torchrun or SLURM started."""
    return Engine(precision) if launched_processes(os.environ)[0] > 1 else Alone()
