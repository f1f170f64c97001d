"""The masked diffusion language model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, overload

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from mdlm_atat.config.build import build_masking
from mdlm_atat.core.curriculum import Stage
from mdlm_atat.core.denoiser import Denoiser, Network, Prediction
from mdlm_atat.core.schedules import Linear
from mdlm_atat.core.strategies.rates import Clean, ExponentMasking, MaskingScheduler
from mdlm_atat.core.strategies.uniform import UniformMasking
from mdlm_atat.device import as_float64
from mdlm_atat.errors import UserError
from mdlm_atat.lm.base import LanguageModel
from mdlm_atat.lm.gap_lengths import cost_of_given
from mdlm_atat.lm.how import one_or_many
from mdlm_atat.lm.pieces import Pieces
from mdlm_atat.lm.plain import PlainDenoiser
from mdlm_atat.lm.sampling import gather_positions, projection
from mdlm_atat.progress import OnProgress
from mdlm_atat.samplers.loop import StepRule, trait
from mdlm_atat.samplers.template import Gap, lay_out, length_choices
from mdlm_atat.scoring.draws import DrawSettings, Rows
from mdlm_atat.scoring.inspection import DEFAULT_TIMES, Inspection, check_times, inspect_rows, token_texts
from mdlm_atat.scoring.likelihood import Groups, Likelihood, draw_nll


class MaskedDiffusionLM(LanguageModel):
    """A masked diffusion language model: `generate` and `infill` unmask by any sampler; `score` estimates the bound
    under the uniform schedule, or gives the exact value left to right where the network reads in both ways."""

    kind = "masked"

    @property
    def denoise(self) -> Denoiser:
        """The network as a Denoiser, which the scoring functions call as (z_t, t, lengths)."""
        is_plain = not isinstance(self.network, Network)
        return PlainDenoiser(self.network) if is_plain else self.network

    @property
    def has_importance(self) -> bool:
        """Whether it knows the importance of tokens (one trained by `importance_rates` does)."""
        return getattr(self.network, "has_importance", False)

    @property
    def default_sampler(self) -> str:
        return "spread"  # docs/samplers.md says why

    def likelihood(self, rows: Rows, draws: DrawSettings, *, groups: Groups | None = None) -> Likelihood:
        with self.inference():
            return draw_nll(
                self.denoise,
                rows,
                draws=replace(draws, device=self.device),
                mask_id=self.tokenizer.mask_id,
                groups=groups,
                with_all_masked=True,
            ).likelihood()

    @overload
    def inspect(  # pyright: ignore[reportOverlappingOverload]
        self,
        texts: str,
        *,
        times: Sequence[float] = DEFAULT_TIMES,
        num_draws: int = 4,
        seed: int = 0,
        batch_size: int = 64,
        on_progress: OnProgress | None = None,
    ) -> Inspection: ...

    @overload
    def inspect(
        self,
        texts: Iterable[str],
        *,
        times: Sequence[float] = DEFAULT_TIMES,
        num_draws: int = 4,
        seed: int = 0,
        batch_size: int = 64,
        on_progress: OnProgress | None = None,
    ) -> list[Inspection]: ...

    def inspect(
        self,
        texts: object,
        *,
        times: Sequence[float] = DEFAULT_TIMES,
        num_draws: int = 4,
        seed: int = 0,
        batch_size: int = 64,
        on_progress: OnProgress | None = None,
    ) -> Inspection | list[Inspection]:
        """Every token's importance, and its loss when it is masked at each of `times` (shares of the text in (0, 1]).
        For a sequence of texts, the inspection of each.

        A text longer than the model is cut into independent pieces. Raises UserError for an empty text, for times
        outside (0, 1] and for a model without importance; TypeError for a text that is no str.
        """
        draws = DrawSettings(num_draws=num_draws, seed=seed, batch_size=batch_size, on_progress=on_progress)
        check_times(times)
        given, is_one = one_or_many(texts, "texts")
        found = [self._inspect(text, times, draws) for text in given]
        return found[0] if is_one else found

    def _inspect(self, text: str, times: Sequence[float], draws: DrawSettings) -> Inspection:
        tokens = self.tokenizer.encode(text)
        if not tokens:
            raise UserError("the text is empty: there is nothing to inspect")
        pieces = Pieces([tokens], self.max_length)
        ids, lengths = pieces.evaluation_rows(np.arange(pieces.num_evaluation_rows))
        return self.inspect_rows(ids, lengths, draws, times=times)

    def inspect_rows(
        self,
        ids: NDArray[np.int64],
        lengths: NDArray[np.int64],
        draws: DrawSettings,
        *,
        times: Sequence[float] = DEFAULT_TIMES,
    ) -> Inspection:
        """Inspect rows of token ids, padded beyond their `lengths`; see scoring.inspection. Raises UserError for times
        outside (0, 1] and for a model without importance."""
        if not self.has_importance:
            raise UserError(
                "this model knows no importance; train one that does with `train(method='importance_rates')`"
            )
        masking: MaskingScheduler = UniformMasking(Linear())
        if self._config is not None:
            tokenizer = self.tokenizer
            masking = build_masking(self._config, Linear(), tokenizer.vocab_size, self.counts, self.network, tokenizer)
        with self.inference():
            return inspect_rows(
                self.network,
                ids,
                lengths,
                masking=masking,
                stage=self.stage,
                times=times,
                draws=replace(draws, device=self.device),
                mask_id=self.tokenizer.mask_id,
            )

    def inspection_record(self, found: Inspection, **about: Any) -> dict[str, Any]:
        """An inspection as it is stored in JSON: its numbers, its tokens as text, and which model and masking strategy
        they are of. `about` adds entries of the caller's."""
        texts = token_texts(lambda ids: self.tokenizer.decode(ids, eos_text="<eos>"), found.tokens.tolist())
        about |= {
            "checkpoint": self.checkpoint.folder.name if self.checkpoint else str(self.home),
            "step": self.checkpoint.step if self.checkpoint else None,
            "importance": self.config.importance.mode,
            "strategy": self.config.masking.strategy,
            "stage": None if self.stage is None else self.stage.name,
        }
        return found.record(texts, about)

    def denoiser(self, rule: StepRule) -> Callable[[Tensor, Tensor], Prediction]:
        """The network's own distribution, as under uniform masking; or, for a rule that follows predicted rates, the
        reverse process of the model's own masking schedule."""
        network = self.network
        if not isinstance(network, Network):

            def plain(z_t: Tensor, t: Tensor) -> Prediction:
                with self.inference():
                    return Prediction.of(network(z_t, t))

            return plain
        project = projection(network, torch.bfloat16 if self.precision == "bf16" else None)
        masking = self.own_schedule() if trait(rule, "follows_rates") else None
        has_importance = self.has_importance

        def denoise(z_t: Tensor, t: Tensor) -> Prediction:
            hidden = self._hidden(z_t, t)
            correction = None if masking is None else masking.token_correction(as_float64(t), self.stage)  # (R, V)

            def logits(positions: Tensor) -> Tensor:
                with self.inference():
                    found = project(gather_positions(hidden, positions))
                if correction is None:
                    return found
                found = found.to(torch.promote_types(found.dtype, torch.float32))
                return found + correction[:, None, :].to(found)

            with self.inference():
                speed = None if masking is None else speed_under(masking, network, hidden, t, self.stage)
            importance = partial(self._importance_at, z_t, t) if has_importance else None
            return Prediction(logits, speed, importance)

        return denoise

    def choose_lengths(
        self, encoded: Sequence[list[int] | Gap]
    ) -> tuple[tuple[int, ...], dict[tuple[int, ...], float] | None]:
        choices = self.possible_lengths(encoded)
        if len(choices) == 1:
            return choices[0], None
        costs = {}
        for lengths in choices:
            tokens = torch.tensor(lay_out(encoded, lengths, self.tokenizer.mask_id)[0], device=self.device)
            with self.inference():
                costs[lengths] = cost_of_given(
                    self.denoise, tokens, tokens != self.tokenizer.mask_id, mask_id=self.tokenizer.mask_id
                )
        return min(costs, key=lambda lengths: costs[lengths]), costs

    def possible_lengths(self, encoded: Sequence[list[int] | Gap]) -> list[tuple[int, ...]]:
        """Every choice of the gaps' lengths. Raises UserError where there are several and the model cannot compare
        them: there is no text around the gaps, or too much of it."""
        choices = length_choices(encoded)
        if len(choices) == 1:
            return choices
        if all(isinstance(part, Gap) or not part for part in encoded):
            raise UserError("a gap of variable length needs given text around it to be chosen by")
        num_tokens = len(lay_out(encoded, choices[-1], self.tokenizer.mask_id)[0])
        if num_tokens > self.max_length:
            raise UserError(
                f"with gaps of {' and '.join(map(str, choices[-1]))} tokens the text has {num_tokens}; lengths are "
                f"chosen for texts of at most {self.max_length}, the model's length"
            )
        return choices

    def _importance(self, tokens: Tensor) -> np.ndarray | None:
        if not self.has_importance:
            return None
        pieces = tokens.to(self.device).split(self.max_length, dim=1)  # the network takes no longer ones
        t = torch.zeros(len(tokens), device=self.device)
        return torch.cat([self._importance_at(piece, t) for piece in pieces], dim=1).cpu().numpy()

    def _run(self, z_t: Tensor, t: Tensor) -> Tensor:
        with self.inference():
            return self.network.hidden(z_t, t)

    @torch.no_grad()
    def _importance_at(self, tokens: Tensor, t: Tensor) -> Tensor:
        with self.inference():
            return self.network.importance(tokens, self.network.importance_score(tokens, t)).float()


def speed_under(
    masking: ExponentMasking, network: Any, hidden: Tensor, r: Tensor, stage: Stage | None
) -> Float[Tensor, "batch length"]:
    """How fast each position is revealed at mask rate r under a masking schedule, relative to MDLM (1 everywhere). The
    network predicts it where the schedule reads hidden tokens; else it is known."""
    if masking.reads_content:
        return network.log_speed(hidden).exp()
    r = as_float64(r)
    scored = torch.ones(hidden.shape[:2], dtype=torch.bool, device=r.device)
    return masking(r, Clean(scored, stage=stage)).speed
