"""The causal baseline as a language model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from mdlm_atat.core.denoiser import Prediction
from mdlm_atat.errors import UserError
from mdlm_atat.lm.base import LanguageModel
from mdlm_atat.lm.sampling import gather_positions
from mdlm_atat.nets.causal_transformer import CausalTransformer
from mdlm_atat.samplers.left_to_right import LeftToRight
from mdlm_atat.samplers.loop import StepRule, trait
from mdlm_atat.samplers.template import Gap
from mdlm_atat.scoring.draws import DrawSettings, Rows
from mdlm_atat.scoring.exact import exact_nll
from mdlm_atat.scoring.likelihood import Groups, Likelihood


class CausalLM(LanguageModel):
    """The causal baseline: `generate` goes left to right, a token a step, and `score` is exact."""

    kind = "causal"
    network: CausalTransformer

    @property
    def default_sampler(self) -> str:
        return "left_to_right"

    def likelihood(self, rows: Rows, draws: DrawSettings, *, groups: Groups | None = None) -> Likelihood:
        with self.inference():
            return exact_nll(self.network, rows, draws=replace(draws, device=self.device), groups=groups)

    def denoiser(self, rule: StepRule) -> Callable[[Tensor, Tensor], Prediction]:
        if trait(rule, "follows_rates") or not isinstance(getattr(rule, "inner", rule), LeftToRight):
            raise UserError("a causal model generates left to right only: leave out the sampler")

        def denoise(z_t: Tensor, t: Tensor) -> Prediction:
            hidden = self._hidden(z_t, t)
            return Prediction(lambda positions: self._logits(gather_positions(hidden, positions)))

        return denoise

    def choose_lengths(
        self, encoded: Sequence[list[int] | Gap]
    ) -> tuple[tuple[int, ...], dict[tuple[int, ...], float] | None]:
        del encoded
        raise UserError("a causal model cannot infill: it does not see the text after a gap; use a masked model")

    def _run(self, z_t: Tensor, t: Tensor) -> Tensor:
        del t
        with self.inference():
            return self.network.hidden(z_t)

    def _logits(self, hidden: Tensor) -> Tensor:
        with self.inference():
            return self.network.logits(hidden)
