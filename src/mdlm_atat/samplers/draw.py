"""Drawing tokens from logits: temperature, top-k, top-p, and an inverse-CDF draw in float64.

The Gumbel trick in float32 cannot reach the tails: -log(-log(u)) of a 24-bit u is at most 16.6, so tokens much rarer
than 1e-7 are never drawn and the text looks better than the model is (arXiv 2409.02908, section 5).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mdlm_atat.checks import number, whole
from mdlm_atat.effect import ABOVE_0
from mdlm_atat.errors import UserError

PART = 256  # tokens
LEAST_TEMPERATURE = 1e-300  # logits over a lower one are infinite; it is greedy
TIE = (
    1e-10  # probabilities that sum to within this of top_p reach it: more than the rounding of 50,000 terms in float64
)


@dataclass(frozen=True)
class TokenDraw:
    """How a token is drawn from its logits. The defaults draw from the model's own distribution, unchanged."""

    temperature: float = 1.0
    """Logits are divided by this; 0 always takes the most likely token."""
    top_k: int = field(default=0, metadata={"when": ({"temperature": ABOVE_0},)})
    """Only the k most likely tokens may be drawn. 0: all."""
    top_p: float = field(default=1.0, metadata={"when": ({"temperature": ABOVE_0},)})
    """Only the fewest most likely tokens whose probabilities sum to at least this may be drawn; of equally likely ones
    those of lower id. 1: all."""

    def __post_init__(self) -> None:
        number("temperature", self.temperature)
        number("top_k", self.top_k)
        whole("top_k", self.top_k, 0)
        number("top_p", self.top_p)
        if not self.temperature >= 0:
            raise UserError(f"temperature is {self.temperature}, expected 0 (greedy) or more; 1 is the model's own")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}, expected above 0 and at most 1 (all tokens)")

    def probabilities(self, logits: Float[Tensor, "n vocab"]) -> Float[Tensor, "n vocab"]:
        """The distribution over tokens after temperature, top_k and top_p, in float64."""
        if self.temperature < LEAST_TEMPERATURE:
            best = logits.argmax(dim=-1, keepdim=True)
            return torch.zeros_like(logits, dtype=torch.float64).scatter_(-1, best, 1.0)
        probs = torch.softmax(logits.double() / float(self.temperature), dim=-1)
        if 0 < self.top_k < probs.shape[-1]:
            kept = probs.topk(self.top_k, dim=-1)
            probs = torch.zeros_like(probs).scatter_(-1, kept.indices, kept.values)
        if self.top_p < 1:
            ordered, order = probs.sort(dim=-1, descending=True, stable=True)
            # a token is kept while those before it have not reached top_p yet: at least one always is
            before = ordered.cumsum(-1) - ordered
            has_reached = before >= self.top_p * ordered.sum(-1, keepdim=True) - TIE
            has_reached[..., 0] = False  # top_p below TIE
            ordered = ordered.masked_fill(has_reached, 0.0)
            probs = torch.zeros_like(probs).scatter_(-1, order, ordered)
        return probs / probs.sum(-1, keepdim=True)

    def __call__(self, logits: Float[Tensor, "n vocab"], uniform: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
        """The token whose interval of the distribution function holds `uniform` (float64, in [0, 1))."""
        return inverse_cdf(self.probabilities(logits), uniform)


def inverse_cdf(probs: Float[Tensor, "n vocab"], uniform: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
    """The token whose interval of the distribution function holds `uniform` (float64, in [0, 1)).

    First the part of the vocabulary that holds it is found, then the token in that part: short cumulative sums, of
    which many are taken at once, in the place of one over the whole vocabulary.
    """
    parts = F.pad(probs.double(), (0, -probs.shape[-1] % PART)).view(len(probs), -1, PART)
    ends = parts.sum(-1).cumsum(-1)  # (n, parts)
    target = uniform.double()[:, None] * ends[:, -1:]
    part = _first_above(ends, target)
    before = F.pad(ends, (1, 0)).gather(1, part)
    inside = parts.gather(1, part[..., None].expand(-1, -1, PART))[:, 0].cumsum(-1)  # (n, PART)
    return (part * PART + _first_above(inside, target - before))[:, 0].clamp_max(probs.shape[-1] - 1)


def _first_above(sums: Float[Tensor, "n k"], target: Float[Tensor, "n 1"]) -> Int[Tensor, "n 1"]:
    """Where a row's rising sums first exceed its target; where they rise last, if rounding took it beyond them."""
    last = sums[:, -1:]
    below_last = torch.minimum(target, torch.nextafter(last, torch.zeros_like(last)))
    return torch.searchsorted(sums, below_last, right=True).clamp_max(sums.shape[-1] - 1)  # NaN exceeds nothing
