"""Sampling under a model's own masking schedule: positions are revealed at the rates that it predicts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from mdlm_atat.checks import at_least
from mdlm_atat.core.denoiser import Prediction
from mdlm_atat.errors import UserError
from mdlm_atat.samplers.adaptive import Choice, Seen, reveal_adaptively
from mdlm_atat.samplers.draw import TokenDraw
from mdlm_atat.samplers.first_hitting import FirstHitting
from mdlm_atat.samplers.loop import Reverse, positions_of


@dataclass(frozen=True, kw_only=True)
class FollowRates:
    """T steps through time, at the rates that the model predicts.

    From r = k/T to s = (k-1)/T, in mask rates of the noise schedule, reveal masked position i with probability
    1 - (s / r) ** speed_hat_i(z, r), drawing its token from the distribution of a token revealed there.

    The reverse process that PPL-S is the bound of (docs/method.md); exact for the model as T grows. Where every
    speed is 1 it is Ancestral. The rates depend on what was revealed, so each step asks the network, once and then
    waits for what it says: NFE = T.
    """

    follows_rates: ClassVar = True

    num_steps: int = 128
    draw: TokenDraw = field(default_factory=TokenDraw)

    def __post_init__(self) -> None:
        at_least("num_steps", self.num_steps, 1)

    def __call__(self, state: Reverse) -> Iterator[None]:
        for step in range(1, self.num_steps + 1):
            r = 1 - (step - 1) / self.num_steps
            s = 1 - step / self.num_steps if step < self.num_steps else 0.0
            masked = state.masked
            when, what = state.uniform(), state.uniform()
            rows = masked.any(dim=1).nonzero()[:, 0]
            if len(rows) == 0:
                continue
            prediction = state.predict(rows, rate=r)
            # 0 ** 0 is 1: at speed 0 the last step would leave a mask
            revealed = when[rows] < 1 - (s / r) ** speed_of(prediction).double().clamp_min(1e-300)
            positions, valid = positions_of(masked[rows] & revealed)
            if positions.shape[1] > 0:
                state.reveal(prediction, rows, positions, valid, self.draw, what)
            yield

    def max_nfe(self, num_to_fill: int) -> int:
        return self.num_steps * (num_to_fill > 0)


@dataclass(frozen=True, kw_only=True)
class RateHitting(FirstHitting):
    """The order that a model's predicted rates give, in groups.

    First-hitting under predicted rates: `num_steps` groups of `sizes`, whose positions are drawn without
    replacement in proportion to speed_hat_i(z), by the largest log speed_hat + Gumbel number (Plackett-Luce).

    One at a time it is the process that the order form of PPL-S is the bound of. Where every speed is 1 it is
    FirstHitting. The network is told the share of masked tokens. Where the speeds depend on what is hidden, time is
    evidence of it (a slow token is there still), and a network that has learned what is there at mask rate r errs at a
    share that is reached earlier or later: then only FollowRates is exact for it.
    """

    follows_rates: ClassVar = True
    looks_first: ClassVar = True

    def __call__(self, state: Reverse) -> Iterator[None]:
        def decide(seen: Seen) -> Choice:
            numbers = state.uniform()[seen.rows[:, None], seen.positions]
            gumbel = -(-numbers.clamp_min(1e-300).log()).log()  # float64: its tails are not cut where it matters
            speed = speed_of(seen.prediction).double().gather(1, seen.positions)
            return Choice(speed.log() + gumbel)

        return reveal_adaptively(state, self.draw, decide, ends=self.ends(state), counts_vary=False)


def speed_of(prediction: Prediction) -> Float[Tensor, "rows length"]:
    """The reveal speed that the model predicts for each position. Raises UserError for a model that predicts none."""
    if prediction.speed is None:
        raise UserError(
            "this model predicts no rates: it masks every token alike; use the sampler first_hitting or ancestral"
        )
    return prediction.speed
