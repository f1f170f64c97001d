"""Rules that decide beforehand, without the network, what is revealed when."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mdlm_atat.samplers.draw import TokenDraw
from mdlm_atat.samplers.loop import Reverse


def reveal_order(state: Reverse, uniform: Float[Tensor, "batch length"]) -> Int[Tensor, "batch length"]:
    """The positions of each row by falling uniform number, with those that are not to be filled last. On the CPU."""
    return torch.where(state.to_fill, uniform.cpu(), -1.0).argsort(dim=1, descending=True, stable=True)


def order_of_steps(
    step: Int[Tensor, "batch length"], to_fill: Bool[Tensor, "batch length"]
) -> tuple[Int[Tensor, "batch length"], Int[Tensor, "batch steps_and_start"]]:
    """What `reveal_as_planned` is told, from the step of each position that is to be filled, from 1. On the CPU."""
    steps = torch.arange(int(step.max()) + 1 if step.numel() else 1)
    order = torch.where(to_fill, step, len(steps)).argsort(dim=1, stable=True)
    return order, ((step[..., None] <= steps) & to_fill[..., None]).sum(1)


def reveal_as_planned(
    state: Reverse,
    order: Int[Tensor, "batch length"],
    ends: Int[Tensor, "batch steps_and_start"],
    draw: TokenDraw,
    *,
    ask_always: bool = False,
) -> Iterator[None]:
    """In step k, row b reveals order[b, ends[b, k - 1] : ends[b, k]].

    The network is asked about rows in which something is revealed (with `ask_always` about all that are not done), and
    for logits where something is drawn. All steps' indices go to the device at once, before the first: the loop
    never waits for it.
    """
    device, length = state.z_t.device, order.shape[1]
    uniform = state.uniform()
    plans: list[tuple[Tensor, Tensor, Tensor]] = []
    for start, end in zip(ends.T[:-1], ends.T[1:], strict=True):
        if start.equal(ends[:, -1]):
            break
        count = end - start  # (B,)
        rows = ((start < ends[:, -1]) if ask_always else (count > 0)).nonzero()[:, 0]
        offset = torch.arange(int(count.max()))
        # around the end: the places beyond a row's count must be distinct from those within
        places = (start[rows, None] + offset) % length
        plans.append((rows, order[rows].gather(1, places), offset < count[rows, None]))
    flat = torch.cat([part.flatten().long() for plan in plans for part in plan]) if plans else torch.zeros(0)
    parts = iter(flat.to(device).split([part.numel() for plan in plans for part in plan]))
    for rows, positions, valid in plans:
        on_device = [next(parts).view(part.shape) for part in (rows, positions, valid)]
        if len(rows) > 0:
            prediction = state.predict(on_device[0])
            if positions.shape[1] > 0:
                state.reveal(prediction, on_device[0], on_device[1], on_device[2].bool(), draw, uniform)
        yield  # where nothing was due too: the numbers of the steps are the same in any batch
