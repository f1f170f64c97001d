"""What a network that reads left to right finds of each token of a text, and what else it expected there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from mdlm_atat.lm.scoring import Scoring


@dataclass(frozen=True)
class TokenLogProb:
    """log p(x_i | x_<i) of a token, nats: the model's own, whatever the temperature that it was drawn with."""

    token: int
    log_prob: float
    likeliest: tuple[tuple[int, float], ...]
    """The likeliest tokens at its place with their log p, the likeliest first."""


def log_probs_left_to_right(lm: Scoring, tokens: Sequence[int], num_likeliest: int = 0) -> list[TokenLogProb]:
    """Each token of a text given those before it, the first one too; their sum is -nats of `lm.score` left to right.

    `lm` has a causal mode, and the text is no longer than it. One network evaluation, none for an empty text.
    """
    if not tokens:
        return []
    x0 = torch.tensor([tokens], device=lm.device)
    with lm.inference():
        logits = lm.network(x0)[0]  # (L, V)
        log_p = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    own = log_p.gather(1, x0[0, :, None])[:, 0].tolist()
    top = log_p.topk(min(num_likeliest, log_p.shape[1]), dim=1)
    likeliest = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return [
        TokenLogProb(token, log_prob, tuple(zip(*each, strict=True)))
        for token, log_prob, each in zip(tokens, own, likeliest, strict=True)
    ]
