"""The masked diffusion language model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, overload

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from mdlm_atat.config.build import build_masking
from mdlm_atat.core.curriculum import Stage
from mdlm_atat.core.denoiser import AtMaskRate, Denoiser, Network, Prediction
from mdlm_atat.core.schedules import Linear
from mdlm_atat.core.strategies.rates import Clean, ExponentMasking, MaskingScheduler
from mdlm_atat.core.strategies.uniform import UniformMasking
from mdlm_atat.device import as_float64
from mdlm_atat.errors import UserError
from mdlm_atat.lm.amid_unknown import NUM_AROUND, AmidUnknown
from mdlm_atat.lm.asking import gather_positions, projection
from mdlm_atat.lm.base import LanguageModel
from mdlm_atat.lm.gap_lengths import (
    FIRST_DRAWS,
    Estimator,
    MaskedGaps,
    Prior,
    Proposals,
    QuickFillings,
    WeightedFillings,
    compare_lengths,
    first_draws,
)
from mdlm_atat.lm.how import one_or_many
from mdlm_atat.lm.pieces import Pieces
from mdlm_atat.lm.plain import PlainDenoiser
from mdlm_atat.lm.results import LengthCosts, Lengths
from mdlm_atat.progress import OnProgress
from mdlm_atat.samplers.canvas import Canvas
from mdlm_atat.samplers.left_to_right import LeftToRight
from mdlm_atat.samplers.loop import Sample, StepRule, sample, trait
from mdlm_atat.samplers.seeds import text_seeds
from mdlm_atat.samplers.template import MAX_DRAWS, Gap, lay_out, length_choices
from mdlm_atat.samplers.uncertainty import UncertaintyGuidedSampler
from mdlm_atat.scoring.draws import DrawSettings, Rows
from mdlm_atat.scoring.inspection import (
    DEFAULT_TIMES,
    ByFrequency,
    Inspection,
    check_times,
    inspect_rows,
    token_texts,
)
from mdlm_atat.scoring.likelihood import Groups, Likelihood, draw_nll

Denoise = Callable[[Tensor, Tensor], Any]
PROPOSAL = UncertaintyGuidedSampler(num_steps=16, amount="constant", spread=True)
"""How the masked mode draws fillings to choose lengths by: one token at a time where a text has at most 16 to fill, the
most certain place first. What comes next depends on what is visible alone, so a filling's probability is known."""
QUICK_PROPOSAL = UncertaintyGuidedSampler(amount="constant", spread=True, tokens_a_step=8)
"""The same for a quick choice, of few draws: 8 tokens at a time."""
MOST_LOGITS = 2**25  # of the gaps of all fillings that are drawn together: 128 MiB of them


class MaskedDiffusionLM(LanguageModel):
    """A masked diffusion language model: `generate` and `infill` unmask by any sampler; `score` estimates the bound
    under the uniform schedule, or gives the exact value left to right where the network reads in both ways."""

    kind = "masked"

    @property
    def denoise(self) -> Denoiser:
        """The network as a Denoiser, which the scoring functions call as (z_t, t, lengths). One that was trained on
        pieces of longer texts is shown a shorter text amid [MASK], and one whose rows began with a token is shown it;
        see lm.amid_unknown."""
        network = self.network
        if not isinstance(network, Network):
            return PlainDenoiser(network)
        reads_pieces = self._config is not None and self._config.data.mode == "wrap"
        if not reads_pieces and self.bos_id is None:
            return self.network
        num_around = NUM_AROUND if reads_pieces else 0
        return AmidUnknown(network, self.tokenizer.mask_id, self.max_length, bos_id=self.bos_id, num_around=num_around)

    @property
    def has_importance(self) -> bool:
        """Whether it knows the importance of tokens (one trained by `importance_rates` does)."""
        return getattr(self.network, "has_importance", False)

    @property
    def default_sampler(self) -> str:
        return "left_to_right" if "causal" in self.modes else self.gap_sampler

    @property
    def gap_sampler(self) -> str:
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
        """Every token's importance, and its loss when it is masked at each of `times` (shares of the text in (0, 1]),
        as `denoise` gives it, which `score` asks too. For a sequence of texts, the inspection of each.

        A model that was trained without importance takes the tokens that are rare in its training text for the
        important ones. A text longer than the model is cut into independent pieces. Raises UserError for an empty text,
        for times outside (0, 1] and for a bare network without importance; TypeError for a text that is no str.
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
        outside (0, 1], and for a model that neither knows importance nor how often each token occurs."""
        network = self.network
        if not self.has_importance:
            if self.counts is None:
                raise UserError(
                    "this model knows no importance; train one that does with `train(method='importance_rates')`"
                )
            network = ByFrequency(self.counts)
        masking: MaskingScheduler = UniformMasking(Linear())
        if self._config is not None:
            tokenizer = self.tokenizer
            masking = build_masking(self._config, Linear(), tokenizer.vocab_size, self.counts, self.network, tokenizer)
        with self.inference():
            return inspect_rows(
                network,
                ids,
                lengths,
                denoise=self.denoise,
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
            "importance_mode": self.config.importance.mode if self.has_importance else "frequency_only",
            "strategy": self.config.masking.strategy,
            "stage": None if self.stage is None else self.stage.name,
        }
        return found.record(texts, about)

    def denoiser(self, rule: StepRule, *, given_ahead: bool = False) -> Callable[[Tensor, Tensor], Prediction]:
        """The network's own distribution, as under uniform masking; or, for a rule that follows predicted rates, the
        reverse process of the model's own masking schedule. A network that has a causal mode too is asked in that one
        where a text is written from left to right."""
        network = self.network
        if self.reads_left_to_right(rule, given_ahead=given_ahead):
            return self.left_to_right_denoiser(self._hidden_left_to_right)
        if not isinstance(network, Network):

            def plain(z_t: Tensor, t: Tensor) -> Prediction:
                with self.inference():
                    return Prediction.of(network(z_t, t))

            return plain
        project = projection(network, torch.bfloat16 if self.precision == "bf16" else None)
        masking = self.own_schedule() if trait(rule, "follows_rates") else None
        has_importance = self.has_importance
        learned_answers = self._config is not None and self._config.data.loss_on == "answers"

        def denoise(z_t: Tensor, t: Tensor, rate: Tensor, to_fill: Tensor) -> Prediction:
            hidden = self._hidden(z_t, t)
            correction = (
                None if masking is None else masking.token_correction(as_float64(rate).log(), self.stage)
            )  # (R, V)

            def logits(positions: Tensor) -> Tensor:
                with self.inference():
                    found = project(gather_positions(hidden, positions))
                if correction is None:
                    return found
                found = found.to(torch.promote_types(found.dtype, torch.float32))
                return found + correction[:, None, :].to(found)

            # places count from where they did in training: from the row's start, or from that of the answer
            scored = to_fill.cumsum(1) > 0 if learned_answers else torch.ones_like(to_fill)
            with self.inference():
                speed = None if masking is None else speed_under(masking, network, hidden, rate, scored, self.stage)
            importance = partial(self._importance_at, z_t, t) if has_importance else None
            return Prediction(logits, speed, importance)

        at_rate = AtMaskRate(denoise)
        return at_rate.__call__ if masking is None else at_rate

    def choose_lengths(
        self,
        encoded: Sequence[list[int] | Gap],
        max_draws: int,
        seed: int = 0,
        among: Sequence[Lengths] | None = None,
        prior: Prior | None = None,
    ) -> tuple[Lengths, LengthCosts | None]:
        choices = self.possible_lengths(encoded, among)
        if len(choices) == 1:
            return choices[0], None
        estimator = self._length_estimator(encoded, seed, max_draws)
        costs = compare_lengths(choices, estimator, max_draws=max_draws, prior=prior)
        return costs.chosen, costs

    def _length_estimator(
        self, encoded: Sequence[list[int] | Gap], seed: int = 0, max_draws: int = MAX_DRAWS
    ) -> Estimator:
        """Left to right where the network has both modes, a quick one where few draws are allowed; else in any
        order."""
        mask_id, num_first = self.tokenizer.mask_id, first_draws(max_draws)

        def laid_out(lengths: Lengths) -> Tensor:
            return torch.tensor(lay_out(encoded, lengths, mask_id)[0])

        if "causal" not in self.modes:

            def denoise(z_t: Tensor, t: Tensor, lengths: Tensor | None = None) -> Tensor:
                with self.inference():
                    return self.denoise(z_t, t, lengths)

            return MaskedGaps(denoise, lambda lengths: laid_out(lengths).to(self.device), mask_id, seed, num_first)
        first_gap = 0 if isinstance(encoded[0], Gap) else len(encoded[0])

        def nll(rows: Tensor) -> Tensor:
            return F.pad(self.nll_from(rows, first_gap), (first_gap, 0))

        if num_first < FIRST_DRAWS:
            return QuickFillings(
                lambda lengths, start, stop: self._quick_proposals(laid_out(lengths), start, stop, seed), nll, num_first
            )
        return WeightedFillings(
            propose=lambda lengths, start, stop: self._proposals(laid_out(lengths), start, stop, seed), nll=nll
        )

    def _quick_proposals(self, tokens: Int[Tensor, " length"], start: int, stop: int, seed: int) -> Proposals:
        """Draws number `start` to `stop` of what the gaps could hold, by the masked mode alone. A gap behind the last
        given token stays masked."""
        mask_id = self.tokenizer.mask_id
        fixed, end = self._fixed_to_draw(tokens)
        canvas = Canvas(tokens.expand(stop - start, -1), fixed.expand(stop - start, -1)).to(self.canvas_device)
        with self.inference():
            drawn = sample(
                self.predictor(QUICK_PROPOSAL),
                canvas,
                QUICK_PROPOSAL,
                mask_id=mask_id,
                seeds=text_seeds(seed, range(start, stop)),
            )
        return Proposals(drawn.tokens[:, :end].cpu(), ~fixed[:end], drawn.trace.nll.cpu())

    def _proposals(self, tokens: Int[Tensor, " length"], start: int, stop: int, seed: int) -> Proposals:
        """Draws number `start` to `stop` of what the gaps could hold; the random numbers of a draw are the same for all
        lengths. A gap behind the last given token stays masked: left to right, all that it could hold sums to 1."""
        mask_id = self.tokenizer.mask_id
        fixed, end = self._fixed_to_draw(tokens)
        gaps_end = int((~fixed).nonzero().max()) + 1

        def run(
            rule: StepRule, denoise: Denoise, rows: Tensor, seeds: list[int], known: Tensor | None = None
        ) -> Sample:
            canvas = Canvas(rows, fixed[: rows.shape[1]].expand(len(rows), -1)).to(self.canvas_device)
            with self.inference():
                return sample(denoise, canvas, rule, mask_id=mask_id, seeds=seeds, known=known)

        num_together = min(256, max(8, MOST_LOGITS // (int((~fixed).sum()) * self.tokenizer.vocab_size)))
        masked_mode, causal_mode = self.predictor(PROPOSAL), self.predictor(LeftToRight())
        rows, nll = [], []
        for first in range(start, stop, 2 * num_together):
            seeds = text_seeds(seed, range(first, min(first + 2 * num_together, stop)))
            whole = tokens.expand(len(seeds) // 2, -1)
            one = run(PROPOSAL, masked_mode, whole, seeds[::2])
            other = whole.clone()
            left = run(LeftToRight(), causal_mode, whole[:, :gaps_end], seeds[1::2])
            other[:, :gaps_end] = left.tokens.cpu()
            again = run(PROPOSAL, masked_mode, whole, seeds[1::2], known=other.to(self.canvas_device))
            rows.append(torch.stack([one.tokens.cpu(), other], dim=1).flatten(0, 1)[:, :end])
            nll.append(torch.stack([one.trace.nll, again.trace.nll], dim=1).flatten().cpu())
        return Proposals(torch.cat(rows), ~fixed[:end], torch.cat(nll))

    def _fixed_to_draw(self, tokens: Int[Tensor, " length"]) -> tuple[Bool[Tensor, " length"], int]:
        """The places of a text that stay as they are: what is given, and a gap behind the last given token; and where
        that token ends."""
        given = tokens != self.tokenizer.mask_id
        end = int(given.nonzero().max()) + 1
        return given | (torch.arange(len(tokens)) >= end), end

    def possible_lengths(
        self, encoded: Sequence[list[int] | Gap], among: Sequence[Lengths] | None = None
    ) -> list[Lengths]:
        """Every choice of the gaps' lengths. Raises UserError where there are several and the model cannot compare
        them: there is no text around the gaps, or too much of it; or, left to right, none after the last of them."""
        choices = length_choices(encoded) if among is None else list(among)
        if len(choices) == 1:
            return choices
        if all(isinstance(part, Gap) or not part for part in encoded):
            raise UserError("a gap of variable length needs given text around it to be chosen by")
        last_given = max(index for index, part in enumerate(encoded) if part and not isinstance(part, Gap))
        behind = [part for part in encoded[last_given:] if isinstance(part, Gap) and part.shortest < part.longest]
        if behind and "causal" in self.modes:
            raise UserError(
                "the length of a gap is chosen by the text after it, and none is given after the last gap: give its "
                f"length, as in [MASK:{behind[0].longest}]"
            )
        num_tokens = len(lay_out(encoded, choices[-1], self.tokenizer.mask_id)[0])
        if num_tokens > self.max_length:
            raise UserError(
                f"with gaps of {' and '.join(map(str, choices[-1]))} tokens the text has {num_tokens}; lengths are "
                f"chosen for texts of at most {self.max_length}, the model's length"
            )
        return choices

    def importance(self, z_t: Tensor) -> np.ndarray | None:
        return self._importance(z_t, (z_t == self.tokenizer.mask_id).float().mean(1))

    def _importance(self, tokens: Tensor, t: Tensor | None = None) -> np.ndarray | None:
        if not self.has_importance:
            return None
        pieces = tokens.to(self.device).split(self.max_length, dim=1)  # the network takes no longer ones
        t = torch.zeros(len(tokens), dtype=torch.float32, device=self.device) if t is None else t.to(self.device)
        return torch.cat([self._importance_at(piece, t) for piece in pieces], dim=1).cpu().numpy()

    def _run(self, z_t: Tensor, t: Tensor) -> Tensor:
        with self.inference():
            return self.denoise.hidden(z_t, t)  # type: ignore[attr-defined]

    @torch.no_grad()
    def _importance_at(self, tokens: Tensor, t: Tensor) -> Tensor:
        with self.inference():
            return self.network.importance(tokens, self.network.importance_score(tokens, t)).float()


def speed_under(
    masking: ExponentMasking,
    network: Any,
    hidden: Tensor,
    r: Tensor,
    scored: Bool[Tensor, "batch length"],
    stage: Stage | None,
) -> Float[Tensor, "batch length"]:
    """How fast each position is revealed at mask rate r under a masking schedule, relative to MDLM (1 everywhere). The
    network predicts it where the schedule reads hidden tokens; else it is known by the place in what is `scored`."""
    if masking.reads_content:
        return network.log_speed(hidden).exp()
    r = as_float64(r)
    return masking(r, Clean(scored.to(r.device), stage=stage)).speed
