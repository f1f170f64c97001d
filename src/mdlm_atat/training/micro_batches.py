"""How many micro-batches a step is cut into, where that is found out by trying: `train.num_micro_batches = "auto"`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mdlm_atat.errors import UserError


@dataclass
class MicroBatches:
    """The parts into which each process cuts its share of a batch: as few as fit in memory."""

    possible: Sequence[int]
    """Numbers of parts of equal size, rising."""
    on_more: Callable[[int], None] = lambda _: None
    """Told each new number."""
    num: int = field(init=False)
    """What memory was enough for so far."""

    def __post_init__(self) -> None:
        self.num = self.possible[0]

    def more(self) -> None:
        """Cut into the next larger number of parts. Raises UserError where these are as small as they can be."""
        larger = [num for num in self.possible if num > self.num]
        if not larger:
            raise UserError(
                f"out of memory in {self.num} micro-batches, and there are no smaller ones: set "
                "`train.recompute=True`, a shorter `data.length=` or a smaller model"
            )
        self.num = larger[0]
        self.on_more(self.num)
