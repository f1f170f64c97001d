"""The causal model's loss: its negative log-likelihood, which is exact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mdlm_atat.core.denoiser import Network
from mdlm_atat.core.fused_loss import nll_in_chunks, weighted_nll
from mdlm_atat.core.masking import scored_positions
from mdlm_atat.core.objective import Draw, FusedLoss, TrainingLoss, masked_nll


@dataclass(frozen=True)
class CausalNLL:
    """The causal baseline's loss: its exact negative log-likelihood, nats per token. It draws nothing."""

    fused: FusedLoss | None = None

    @property
    def curriculum(self) -> None:
        return None

    def draw(self, batch_size: int, length: int, generator: torch.Generator, step: int = 0) -> Draw:  # noqa: ARG002
        empty = torch.zeros(batch_size, dtype=torch.float32, device=generator.device)
        return Draw(empty, empty[:, None].expand(batch_size, length))

    def loss(
        self,
        model: Any,
        x0: Int[Tensor, "batch length"],
        lengths: Int[Tensor, " batch"] | None,
        draw: Draw,  # noqa: ARG002
        num_tokens: float | Float[Tensor, ""],
        *,
        measure: bool = False,  # noqa: ARG002
        prompts: Int[Tensor, " batch"] | None = None,
    ) -> TrainingLoss:
        if self.fused is None:
            total = causal_nll(model(x0), x0, lengths, prompts).sum() / num_tokens
        else:
            scored = torch.ones_like(x0) if lengths is None else scored_positions(lengths, x0.shape[1], prompts)
            hidden, scale = model.hidden(x0).flatten(0, 1), scored.flatten().float()
            weight, bias = model.output_layer()
            total, _ = weighted_nll(hidden, weight, bias, x0.flatten(), scale, chunk_nll=self.fused.chunk_nll)
            total = total / num_tokens
        return TrainingLoss(total=total, terms={"nll": total.detach()})


def causal_nll(
    logits: Float[Tensor, "batch length vocab"],
    x0: Int[Tensor, "batch length"],
    lengths: Int[Tensor, " batch"] | None,
    prompts: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, "batch length"]:
    """-log p(x_i | x_<i) at every position that is neither padding nor one of the `prompts` tokens that a row begins
    with."""
    scored = torch.ones_like(x0, dtype=torch.bool)
    if lengths is not None:
        scored = scored_positions(lengths, x0.shape[1], prompts)
    return masked_nll(logits, x0, scored)


@torch.no_grad()
def nll_from(model: Any, x0: Int[Tensor, "batch length"], start: int) -> Float[Tensor, "batch rest"]:
    """-log p(x_i | x_<i) at every place from `start` on, nats; no row is padded. The network's output layer is asked
    for these alone."""
    weight, bias = model.output_layer()
    hidden = model.hidden(x0)[:, start:]
    return nll_in_chunks(hidden.flatten(0, 1), weight, bias, x0[:, start:].flatten()).view(len(x0), -1)


@torch.no_grad()
def read_nll(
    model: Any,
    x0: Int[Tensor, "batch length"],
    lengths: Int[Tensor, " batch"] | None,
    prompts: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, "batch length"]:
    """`causal_nll` of what a model says, without a gradient; a network's output layer is asked a chunk of positions at
    a time, where all logits at once would be most of the memory."""
    if not isinstance(model, Network):
        return causal_nll(model(x0), x0, lengths, prompts)
    scored = torch.ones_like(x0, dtype=torch.bool)
    if lengths is not None:
        scored = scored_positions(lengths, x0.shape[1], prompts)
    hidden = model.hidden(x0)[scored]  # pyright: ignore[reportCallIssue]  # in the causal mode
    nll = nll_in_chunks(hidden, *model.output_layer(), x0[scored])
    return nll.new_zeros(x0.shape).masked_scatter(scored, nll)
