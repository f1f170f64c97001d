"""Rules that look at what the network says of every masked position before they choose which to reveal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mdlm_atat.core.denoiser import Prediction
from mdlm_atat.samplers.draw import TokenDraw
from mdlm_atat.samplers.loop import Reverse, positions_of

TIE_DECIMALS = 4


@dataclass(frozen=True)
class Seen:
    """What the network says of the masked positions of the rows that are not done; R rows, K positions each."""

    step: int
    rows: Int[Tensor, " rows"]
    positions: Int[Tensor, "rows k"]
    """In rising order."""
    is_masked: Bool[Tensor, "rows k"]
    """False in the slots beyond a row's own number of masked positions."""
    num_left: Int[Tensor, " rows"]
    num_due: Int[Tensor, " rows"]
    """How many of them the schedule wants to be revealed in this step; at least 1."""
    entropy: Float[Tensor, "rows k"]
    """Of the model's own distribution, nats."""
    max_probability: Float[Tensor, "rows k"]
    margin: Float[Tensor, "rows k"]
    """Probability of the likeliest token less that of the next."""
    best: Int[Tensor, "rows k"]
    """The likeliest token."""
    guided: Float[Tensor, "rows k"]
    """What guidance adds to the priority."""
    vocab_size: int
    prediction: Prediction


@dataclass(frozen=True)
class Choice:
    """Which positions a rule reveals next."""

    priority: Float[Tensor, "rows k"]
    """Highest is revealed first; ties go to the leftmost."""
    count: Int[Tensor, " rows"] | None = None
    """How many; None: as many as are due."""


def reveal_adaptively(
    state: Reverse,
    draw: TokenDraw,
    decide: Callable[[Seen], Choice],
    *,
    ends: Int[Tensor, "batch steps_and_start"] | None,
    num_steps: int | None = None,
    counts_vary: bool,
) -> Iterator[None]:
    """Ask the network about every unfinished row, reveal the positions of highest priority, until all are.

    `ends`: how many are to be revealed by each step at the latest; None: one a step, and what is left in the last of
    num_steps. Where `counts_vary`, the device is asked once a step how many are left; else the loop never waits for it.
    """
    uniform = state.uniform()
    num_to_fill = torch.tensor(state.num_to_fill)
    revealed = torch.zeros_like(num_to_fill)
    last = ends.shape[1] - 1 if ends is not None else min(num_steps or int(num_to_fill.max()), int(num_to_fill.max()))
    for step in range(1, last + 1):
        if counts_vary:
            revealed = num_to_fill - state.masked.sum(1).cpu()
        left = num_to_fill - revealed  # (B,), on the CPU
        due = left.clamp_max(1) if ends is None else (ends[:, step] - revealed).clamp_min(0)
        if counts_vary and ends is not None:
            due = torch.minimum(due.clamp_min(1), left)
        if step == last:
            due = left
        rows = (due > 0).nonzero()[:, 0]
        if len(rows) == 0:
            continue
        seen = look(state, rows, left[rows], due[rows], step)
        choice = decide(seen)
        priority = (choice.priority + seen.guided).masked_fill(~seen.is_masked, -torch.inf)
        ranked = priority.argsort(dim=1, descending=True, stable=True)
        if choice.count is None:
            count, width = seen.num_due, int(due.max())
        else:
            count = torch.minimum(choice.count, seen.num_left)
            count = torch.where(seen.num_due == seen.num_left, seen.num_left, count)
            width = int(count.max())
        chosen = seen.positions.gather(1, ranked[:, :width])
        valid = torch.arange(width, device=chosen.device) < count[:, None]
        state.reveal(seen.prediction, seen.rows, chosen, valid, draw, uniform)
        revealed = revealed + due
        yield


def settle_ties(priority: Float[Tensor, "rows k"]) -> Float[Tensor, "rows k"]:
    """Round priorities, so that equal ones stay equal. Of a canvas of nothing but masks a network says the same at
    every position, up to rounding, which depends on the batch size; the leftmost then comes first in any batch."""
    return priority.round(decimals=TIE_DECIMALS)


def look(state: Reverse, rows: Tensor, left: Tensor, due: Tensor, step: int) -> Seen:
    """Ask the network about `rows`, and compute entropy, margin and likeliest token at each of their masked positions.
    All arguments are on the CPU."""
    device = state.z_t.device
    rows, num_left, num_due = (part.to(device) for part in (rows, left, due))
    positions, is_masked = positions_of(state.masked[rows], int(left.max()))  # (R, K)
    prediction = state.predict(rows)
    parts = []
    for columns in state.chunks(positions):
        logits = prediction.logits(positions[:, columns])  # (R, K, V)
        probs = torch.softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=-1)
        entropy = torch.special.entr(probs).sum(-1)
        best, token = probs.max(-1, keepdim=True)  # two of these are many times faster than topk(2) of 50,000
        second = probs.scatter_(-1, token, -1.0).amax(-1, keepdim=True) if probs.shape[-1] > 1 else best
        margin = best - second
        probs.scatter_(-1, token, best)
        guided = torch.zeros_like(probs[..., 0])
        if state.guidance is not None and state.guidance.order_strength != 0:
            guided = state.guidance.expected_weight(probs)
        parts.append((entropy, best[..., 0], margin[..., 0], token[..., 0], guided))
    entropy, max_probability, margin, token, guided = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))
    return Seen(
        step=step,
        rows=rows,
        positions=positions,
        is_masked=is_masked,
        num_left=num_left,
        num_due=num_due,
        entropy=entropy,
        max_probability=max_probability,
        margin=margin,
        best=token,
        guided=guided,
        vocab_size=state.mask_id,
        prediction=prediction,
    )
