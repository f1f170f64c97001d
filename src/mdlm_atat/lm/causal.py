"""The causal baseline as a language model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from mdlm_atat.core.denoiser import Network, Prediction
from mdlm_atat.errors import UserError
from mdlm_atat.lm.base import LanguageModel
from mdlm_atat.lm.gap_lengths import Prior
from mdlm_atat.lm.results import LengthCosts, Lengths
from mdlm_atat.samplers.left_to_right import LeftToRight
from mdlm_atat.samplers.loop import StepRule, trait
from mdlm_atat.samplers.template import Gap
from mdlm_atat.scoring.draws import DrawSettings, Rows
from mdlm_atat.scoring.likelihood import Groups, Likelihood


class CausalLM(LanguageModel):
    """A causal language model: `generate` goes left to right, a token a step, and `score` is exact."""

    kind = "causal"

    @property
    def default_sampler(self) -> str:
        return "left_to_right"

    def likelihood(self, rows: Rows, draws: DrawSettings, *, groups: Groups | None = None) -> Likelihood:
        return self.left_to_right(rows, draws, groups=groups)

    def denoiser(self, rule: StepRule, *, given_ahead: bool = False) -> Callable[[Tensor, Tensor], Prediction]:
        """The network's distribution of the next token, for a left-to-right rule. Raises UserError for any other
        rule."""
        del given_ahead
        if trait(rule, "follows_rates") or not isinstance(getattr(rule, "inner", rule), LeftToRight):
            raise UserError("a causal model generates left to right only: leave out the sampler")
        if isinstance(self.network, Network):
            return self.left_to_right_denoiser(self._hidden)

        def plain(z_t: Tensor, t: Tensor) -> Prediction:
            del t
            with self.inference():
                return Prediction.of(self.network(self._readable(z_t)))

        return plain

    def choose_lengths(
        self,
        encoded: Sequence[list[int] | Gap],
        max_draws: int,
        seed: int = 0,
        among: Sequence[Lengths] | None = None,
        prior: Prior | None = None,
    ) -> tuple[Lengths, LengthCosts | None]:
        del max_draws, seed, prior
        return self.possible_lengths(encoded, among)[0], None

    def possible_lengths(
        self, encoded: Sequence[list[int] | Gap], among: Sequence[Lengths] | None = None
    ) -> list[Lengths]:
        """Raises UserError: a causal model does not see the text after a gap."""
        del encoded, among
        raise UserError(
            "a causal model cannot infill: it does not see the text after a gap; use a masked model, "
            "or make one of it by `train(init=..., method='atat')`"
        )

    def _run(self, z_t: Tensor, t: Tensor) -> Tensor:
        return self._hidden_left_to_right(z_t, t)
