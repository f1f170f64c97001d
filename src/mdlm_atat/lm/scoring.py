"""What a language model pays for a text: left to right, in any order, or in the own order of a sampler."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, overload

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mdlm_atat.checks import whole
from mdlm_atat.core.curriculum import Stage
from mdlm_atat.core.denoiser import Denoiser
from mdlm_atat.core.masking import hide, scored_positions
from mdlm_atat.core.strategies.rates import ExponentMasking
from mdlm_atat.errors import UserError
from mdlm_atat.lm.continuations import in_any_order, score_windows, windows_after
from mdlm_atat.lm.how import How, one_or_many
from mdlm_atat.lm.pieces import Pieces
from mdlm_atat.lm.results import Score
from mdlm_atat.lm.sampling import Sampling
from mdlm_atat.nets.protocol import Mode
from mdlm_atat.samplers.canvas import Canvas
from mdlm_atat.samplers.catalogue import ANY, check_order
from mdlm_atat.samplers.left_to_right import LeftToRight
from mdlm_atat.samplers.loop import StepRule, sample, trait
from mdlm_atat.samplers.seeds import mix_seed, text_seeds
from mdlm_atat.scoring.continuation import Continuation, masks_are_few
from mdlm_atat.scoring.cost import LEFT_TO_RIGHT
from mdlm_atat.scoring.draws import DrawSettings, Rows, score_each
from mdlm_atat.scoring.exact import exact_nll
from mdlm_atat.scoring.likelihood import Groups, Likelihood, Sequences
from mdlm_atat.scoring.schedule_bound import ScheduleDraws, draw_schedule_nll

FORMER_NAMES = {"uniform": ANY}
TEXTS_TOGETHER = 16  # in one call of the network


@dataclass(frozen=True)
class OwnOrder:
    """What sequences cost a model in the order in which a sampler reveals them."""

    sequences: Sequences
    evaluations: float
    """Mean number of network evaluations of a sequence."""
    is_exact: bool
    """Whether the nats are exact; else each is one draw of a random order, whose expectation is an upper bound."""


class Scoring(Sampling):
    """The part of a language model that scores text."""

    kind: ClassVar[Mode]
    stage: Stage | None

    @property
    def denoise(self) -> Denoiser:
        """The network as a Denoiser. Only a model that fills masks has it."""
        raise NotImplementedError

    @abstractmethod
    def own_schedule(self) -> ExponentMasking | None:
        """The masking schedule that the network was trained under. None where that is the uniform one, or one whose
        loss is no bound."""

    @overload
    def score(  # pyright: ignore[reportOverlappingOverload]
        self,
        texts: str,
        *,
        given: str | None = None,
        order: str | StepRule | None = None,
        evaluations: int | None = None,
        num_draws: int = 128,
        seed: int = 0,
        batch_size: int | None = None,
    ) -> Score: ...

    @overload
    def score(
        self,
        texts: Iterable[str],
        *,
        given: str | Iterable[str] | None = None,
        order: str | StepRule | None = None,
        evaluations: int | None = None,
        num_draws: int = 128,
        seed: int = 0,
        batch_size: int | None = None,
    ) -> list[Score]: ...

    def score(
        self,
        texts: object,
        *,
        given: object = None,
        order: str | StepRule | None = None,
        evaluations: int | None = None,
        num_draws: int = 128,
        seed: int = 0,
        batch_size: int | None = None,
    ) -> Score | list[Score]:
        """-log p of a text in nats; for a sequence of texts, the score of each. The result says which likelihood it is,
        and whether it is exact or an upper bound.

        `order`, by default "left_to_right" for a model that reads left to right and else "any":

        - "left_to_right": exact, by the chain rule, in the causal mode. Of a model without that mode it is the own
          order of the sampler of that name.
        - "any": an unbiased estimate of an upper bound, the mean over all orders; `num_draws` masks are drawn for each
          text. Of a text that has no more masks than that all are taken, each once: then the bound has no error, and of
          one token it is -log p itself, exact.
        - A sampler, by name ("spread", "uncertainty:num_steps=none") or as a rule: its own order, in at most
          `evaluations` network evaluations (default: its own number). Exact where its order is deterministic: -log of
          the probability that the sampler writes this text. Else an upper bound, the mean over `num_draws` of its
          orders.

        A text longer than the model is cut into independent pieces. `batch_size`: rows in one call of the network,
        which changes memory and time alone; None: 16 texts, or 64 masks of one text.

        `given`: a context, or one for each text: -log p(text | context), with the context visible throughout. In any
        order masks are drawn over the text's places alone. Context and text are encoded together (see
        `continuations.split`). A context that is too long loses its beginning, as `num_cut` of the result says; of a
        text longer than the model, each part sees half a model's length before it.
        The random numbers depend on `seed` and the context alone: texts with one context have theirs in common, so that
        what they differ by is known better than either.

        Raises UserError for an empty text, contexts that are not as many as the texts, and an order that this model
        does not have; TypeError for a text or context that is no str.
        """
        chosen, is_one = one_or_many(texts, "texts")
        texts_together = TEXTS_TOGETHER if batch_size is None else batch_size
        if given is not None:
            scores = self._after(
                contexts_of(given, len(chosen)), chosen, order, evaluations, num_draws, seed, texts_together
            )
            return scores[0] if is_one else scores
        encoded = [self.tokenizer.encode(text) for text in chosen]
        for index, tokens in enumerate(encoded):
            if not tokens:
                raise UserError(f"text {index + 1} is empty: there is nothing to score")
        order = self.checked_order(order, evaluations)
        if order == ANY:
            draws = DrawSettings(num_draws=num_draws, seed=seed, on_progress=lambda *_: self.check_wanted())
            if batch_size is not None:
                draws = replace(draws, batch_size=batch_size)
            scores = [self._in_any_order(tokens, draws) for tokens in encoded]
        elif not encoded:
            scores = []
        elif order == LEFT_TO_RIGHT and "causal" in self.modes:
            scores = self._left_to_right(encoded, texts_together)
        else:
            scores = self._in_own_order(
                encoded, order, evaluations, num_draws=num_draws, seed=seed, batch_size=texts_together
            )
        return scores[0] if is_one else scores

    def _after(
        self,
        contexts: Sequence[str],
        texts: Sequence[str],
        order: str | StepRule | None,
        evaluations: int | None,
        num_draws: int,
        seed: int,
        batch_size: int,
    ) -> list[Score]:
        draws = DrawSettings(
            num_draws=num_draws, seed=seed, batch_size=batch_size, on_progress=lambda *_: self.check_wanted()
        )
        chosen = windows_after(self, contexts, texts, seed)
        return score_windows(self, chosen, order=order, evaluations=evaluations, draws=draws)

    def checked_order(self, order: str | StepRule | None, evaluations: int | None = None) -> str | StepRule:
        """The order that is meant: None is the default one. Raises UserError for one that this model does not have."""
        whole("`evaluations=`", evaluations, 1)
        if order is None:
            order = LEFT_TO_RIGHT if "causal" in self.modes else ANY
        if order == LeftToRight():  # whose order the causal mode has in one evaluation
            order = LEFT_TO_RIGHT
        if isinstance(order, str):
            order = FORMER_NAMES.get(order, order)
            check_order(order)
        if order == ANY and self.kind == "causal":
            raise UserError(
                "this model reads left to right only, and has no bound in any order: leave out `order=` for its exact "
                "value"
            )
        if evaluations is not None and order in (ANY, LEFT_TO_RIGHT):
            raise UserError(f"`evaluations={evaluations}` is for the own order of a sampler: leave it out, or name one")
        return order

    def _in_any_order(self, tokens: list[int], draws: DrawSettings) -> Score:
        if len(tokens) <= self.max_length and masks_are_few(len(tokens), draws.num_blocks):
            (cost,) = in_any_order(self, [Continuation((), tokens)], draws)
            is_exact = len(tokens) == 1  # whose one order is any; of more, the mean over orders is still a bound
            return Score(cost.nats, cost.standard_error, len(tokens), cost.num_draws, is_exact=is_exact)
        found = self.likelihood(Pieces([tokens], self.max_length), draws)
        return Score(
            nats=found.nats_per_token * len(tokens),
            standard_error=found.standard_error * len(tokens),
            num_tokens=len(tokens),
            num_draws=found.num_draws,
            degrees=len(found.blocks.score) - 1,
        )

    def _left_to_right(self, texts: Sequence[list[int]], batch_size: int) -> list[Score]:
        pieces = Pieces(texts, self.max_length)
        found = self.left_to_right(pieces, every_row(pieces, batch_size)).sequences
        assert found is not None
        nats = per_text(found, pieces).tolist()
        return [_exact(each, tokens, "left to right") for each, tokens in zip(nats, texts, strict=True)]

    def _in_own_order(
        self,
        texts: Sequence[list[int]],
        order: str | StepRule,
        evaluations: int | None,
        *,
        num_draws: int,
        seed: int,
        batch_size: int,
    ) -> list[Score]:
        name = self.name_of_order(order, evaluations)
        rule = self.order_rule(order, evaluations)
        is_exact = trait(rule, "order_is_deterministic")
        pieces = Pieces(texts, self.max_length)
        if is_exact:
            draws = every_row(pieces, batch_size)
            nats = per_text(self._revealed(pieces, draws, rule, lambda _: 0).sequences, pieces).tolist()
            return [_exact(each, tokens, name) for each, tokens in zip(nats, texts, strict=True)]
        if num_draws < 2:
            raise UserError(f"`num_draws={num_draws}`: {name} is random, and one of its orders has no standard error")
        repeated = Pieces([*texts] * num_draws, self.max_length)

        def seed_of(row: int) -> int:
            number, piece = repeated.of_text[row]
            return mix_seed(mix_seed(seed, number // len(texts)), piece)

        found = self._revealed(repeated, every_row(repeated, batch_size), rule, seed_of).sequences
        drawn = per_text(found, repeated).view(num_draws, len(texts))
        errors = drawn.std(0) / num_draws**0.5
        return [
            Score(
                nats=each,
                standard_error=error,
                num_tokens=len(tokens),
                num_draws=num_draws,
                likelihood=name,
                degrees=num_draws - 1,
            )
            for each, error, tokens in zip(drawn.mean(0).tolist(), errors.tolist(), texts, strict=True)
        ]

    @abstractmethod
    def likelihood(self, rows: Rows, draws: DrawSettings, *, groups: Groups | None = None) -> Likelihood:
        """Score the rows of a data set: nats per token with their standard error, and the same for each group of tokens
        if `groups` are given; see scoring.likelihood. The bound in any order, or the exact value of a causal model. The
        network stays on this model's device, whatever device `draws` names."""

    def left_to_right(self, rows: Rows, draws: DrawSettings, *, groups: Groups | None = None) -> Likelihood:
        """Score the rows of a data set by the chain rule, in the causal mode: exact nats per token, with their standard
        error between sequences. Raises UserError for a model without that mode."""
        if "causal" not in self.modes:
            raise UserError(
                "this model was trained to fill masks only, and cannot be read left to right; train one with "
                "`objective.causal_share=0.5`"
            )
        with self.inference():
            return exact_nll(self.network, rows, draws=replace(draws, device=self.device), groups=groups)

    def own_order(
        self, rows: Rows, draws: DrawSettings, order: str | StepRule, *, evaluations: int | None = None
    ) -> OwnOrder:
        """Score the rows of a data set in the order in which a sampler reveals them, in at most `evaluations` network
        evaluations of each: log p = sum over steps, and over the places that a step reveals, of log p(x_i | z).

        The sequences are the first `draws.num_draws` that the seed gives, each once; all where there are no more. Where
        the order depends on nothing but what is visible the nats are exact: the sampler generates a sequence with
        exactly that probability, however many places it reveals at a time. A random order is drawn once for each
        sequence. Raises UserError for an unknown sampler, and for one that this model cannot use.
        """
        return self._revealed(rows, draws, self.order_rule(order, evaluations), lambda row: mix_seed(draws.seed, row))

    def is_own_order(self, order: str | StepRule, evaluations: int | None = None) -> bool:
        """Whether `order` is the own order of a sampler, neither any order nor the causal mode's. Raises UserError for
        one that this model does not have."""
        order = self.checked_order(order, evaluations)
        return order != ANY and not (order == LEFT_TO_RIGHT and "causal" in self.modes)

    @staticmethod
    def name_of_order(order: str | StepRule, evaluations: int | None = None) -> str:
        """The likelihood in the own order of a sampler, as `Score.likelihood` names it."""
        return f"own order of {order_name(order)}" + (f" in {evaluations} evaluations" if evaluations else "")

    def order_rule(self, order: str | StepRule, evaluations: int | None = None) -> StepRule:
        """The step rule of a sampler that is to reveal a text in so many network evaluations at most. Raises UserError
        for an unknown one, and for one whose number of steps cannot be chosen."""
        canvas = Canvas.blank(1, 1, self.tokenizer.mask_id)  # no longer than the model: no blocks
        try:
            return self.rule(How(sampler=order, steps=evaluations), canvas)
        except UserError as error:
            raise UserError(
                f"`evaluations={evaluations}`: {error}" if evaluations is not None else str(error)
            ) from error

    def _revealed(self, rows: Rows, draws: DrawSettings, rule: StepRule, seed_of: Callable[[int], int]) -> OwnOrder:
        draws = replace(draws, device=self.canvas_device)
        with self.inference():
            denoise = self.predictor(rule)

            def score(x0: Tensor, lengths: Tensor, prompts: Tensor, indices: list[int]) -> Tensor:
                revealed = scored_positions(lengths, x0.shape[1], prompts)
                trace = sample(  # of one length in a batch: a canvas has no padding
                    denoise,
                    Canvas(hide(x0, revealed, self.tokenizer.mask_id), ~revealed),
                    rule,
                    mask_id=self.tokenizer.mask_id,
                    seeds=[seed_of(index) for index in indices],
                    known=x0,
                ).trace
                return torch.stack([trace.nll, trace.nfe.double()], dim=1)

            columns, lengths, taken = score_each(rows, score, draws, by_length=True)
        return OwnOrder(
            Sequences(columns[:, 0], lengths, taken),
            evaluations=columns[:, 1].mean().item(),
            is_exact=trait(rule, "order_is_deterministic"),
        )

    def nll_revealed_by(
        self,
        canvas: Canvas,
        tokens: Int[Tensor, "batch length"],
        sampler: str | StepRule,
        *,
        steps: int | None = None,
        seed: int | Sequence[int] = 0,
    ) -> tuple[Float[Tensor, " batch"], bool]:
        """Negative log-likelihood (nats) of `tokens` under a sampler's reveal order, given the fixed positions of the
        canvas.

        Returns `(nll, is_exact)`. If what is revealed next depends on the revealed tokens alone, `nll` is -log of the
        probability with which the sampler fills the canvas with these tokens; if the order is random, `nll` is one
        draw, whose mean is an upper bound on that.
        """
        rule = self.rule(How(sampler=sampler, steps=steps), canvas)
        with self.inference():
            nll = sample(
                self.predictor(rule, given_ahead=self._given_ahead(canvas)),
                canvas.to(self.canvas_device),
                rule,
                mask_id=self.tokenizer.mask_id,
                seeds=text_seeds(seed, range(len(tokens))),
                known=tokens.to(self.canvas_device),
            ).trace.nll.cpu()
        return nll, trait(rule, "order_is_deterministic")

    def schedule_draws(
        self, rows: Rows, draws: DrawSettings, *, form: Literal["continuous", "order"] = "continuous"
    ) -> ScheduleDraws | None:
        """Score the rows of a data set under the model's own masking schedule (PPL-S), rate terms included; see
        scoring.schedule_bound. None for a model that has no schedule of its own, and for one whose loss is no bound."""
        masking = self.own_schedule()
        if masking is None:
            return None
        with self.inference():
            return draw_schedule_nll(
                self.network,
                rows,
                masking=masking,
                stage=self.stage,
                form=form,
                draws=replace(draws, device=self.device),
                mask_id=self.tokenizer.mask_id,
            )


def contexts_of(given: object, num_texts: int) -> list[str]:
    """A context for each text. Raises UserError where they are not as many, and TypeError for one that is no str."""
    contexts, is_one = one_or_many(given, "given")
    if is_one:
        return contexts * num_texts
    if len(contexts) != num_texts:
        raise UserError(
            f"`given=` has {len(contexts)} contexts for {num_texts} texts: give one for each, or a single str for all"
        )
    return contexts


def order_name(order: str | type | StepRule) -> str:
    """A sampler as it was asked for; of a rule, its class."""
    if isinstance(order, str):
        return order
    return order.__name__ if isinstance(order, type) else type(order).__name__


def every_row(rows: Rows, batch_size: int) -> DrawSettings:
    """Settings by which each row is scored once."""
    return DrawSettings(num_draws=rows.num_evaluation_rows, batch_size=batch_size)


def per_text(found: Sequences, pieces: Pieces) -> Float[Tensor, " texts"]:
    """Nats of each text, from those of its pieces."""
    numbers = torch.tensor([pieces.of_text[row][0] for row in found.rows.tolist()])
    return torch.zeros(pieces.num_texts, dtype=torch.float64).index_add_(0, numbers, found.nats)


def _exact(nats: float, tokens: Sequence[int], likelihood: str) -> Score:
    return Score(
        nats=nats, standard_error=0.0, num_tokens=len(tokens), num_draws=1, likelihood=likelihood, is_exact=True
    )
