"""What a text costs after another: where its tokens begin, what of the context a model sees, and the cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from mdlm_atat.data.tokenizers import Tokenizer
from mdlm_atat.errors import UserError
from mdlm_atat.lm.given import encode_after_gap
from mdlm_atat.lm.how import How
from mdlm_atat.lm.results import Score
from mdlm_atat.samplers.canvas import Canvas
from mdlm_atat.samplers.catalogue import ANY
from mdlm_atat.samplers.loop import StepRule, sample, trait
from mdlm_atat.samplers.seeds import context_seed, mix_seed
from mdlm_atat.scoring.continuation import Continuation, Cost, ReadCost, bound, longest_first, read
from mdlm_atat.scoring.draws import DrawSettings

if TYPE_CHECKING:
    from mdlm_atat.lm.scoring import Scoring


@dataclass(frozen=True)
class Windows:
    """A text to be scored after a context, as continuations that the model can read: one, where it fits."""

    parts: list[Continuation]
    num_given: int = 0
    """Tokens of the context that are read before the first part."""
    num_cut: int = 0
    """Tokens of the context that are not read: the first ones, for which there is no room."""

    @property
    def num_tokens(self) -> int:
        """Tokens that are scored, each in one part."""
        return sum(len(part.tokens) for part in self.parts)


def split(tokenizer: Tokenizer, context: str, text: str) -> tuple[list[int], list[int]]:
    """The tokens of the context, and those of the text after it, as lm-evaluation-harness has them.

    Spaces and line ends at the end of the context go to the text, as tokens begin with the space before a word; then
    both are encoded as one, and the text's are the tokens beyond those of the context alone. Where a token would hold
    the end of the context and the beginning of the text ("Ans" and "wer"), so that this is not possible, the text is
    encoded by itself as it goes on from others, and all of its letters are scored.
    """
    before = context.rstrip()
    text = context[len(before) :] + text
    if not before:
        return [], tokenizer.encode(text)
    given, joint = tokenizer.encode(before), tokenizer.encode(before + text)
    if len(joint) > len(given) and joint[: len(given)] == given:
        return given, joint[len(given) :]
    return given, encode_after_gap(tokenizer, text)


def windows(given: Sequence[int], tokens: Sequence[int], length: int, *, overlap: int, seed: int) -> Windows:
    """The tokens in parts of at most `length` with what is read before them; each token is scored once.

    Tokens that fit are one part, with as much of the end of the context as there is room for. Of more tokens, every
    part sees the `overlap` tokens before it or, the last one, as many as there is room for.
    """
    if len(tokens) <= length:
        seen = min(len(given), length - len(tokens))
        part = Continuation(given[len(given) - seen :], tokens, seed)
        return Windows([part], seen, len(given) - seen)
    everything = [*given, *tokens]
    parts, start = [], len(given)
    while start < len(everything):
        stop = min(start - min(start, overlap) + length, len(everything))
        first = max(0, stop - length)
        part_seed = mix_seed(seed, len(parts)) if parts else seed
        parts.append(Continuation(everything[first:start], everything[start:stop], part_seed))
        start = stop
    seen = len(parts[0].given)
    return Windows(parts, seen, len(given) - seen)


def windows_after(lm: Scoring, contexts: Sequence[str], texts: Sequence[str], seed: int) -> list[Windows]:
    """Texts after their contexts, with seeds that depend on `seed` and the context alone. Raises UserError for a text
    without tokens."""
    found = []
    for number, (context, text) in enumerate(zip(contexts, texts, strict=True), start=1):
        given, tokens = split(lm.tokenizer, context, text) if text else ([], [])
        if not tokens:
            raise UserError(f"text {number} is empty: there is nothing to score")
        overlap = lm.max_length // 2
        found.append(windows(given, tokens, lm.max_length, overlap=overlap, seed=context_seed(seed, context)))
    return found


def score_windows(
    lm: Scoring,
    texts: Sequence[Windows],
    *,
    order: str | StepRule | None,
    evaluations: int | None,
    draws: DrawSettings,
) -> list[Score]:
    """What each text costs in an order, as `lm.score` has it."""
    order = lm.checked_order(order, evaluations)
    parts = [part for text in texts for part in text.parts]
    if not parts:
        return []
    if not lm.is_own_order(order):
        name = "any order" if order == ANY else "left to right"
        costs = (
            in_any_order(lm, parts, draws)
            if order == ANY
            else [_exact(each.nats) for each in left_to_right(lm, parts, draws)]
        )
        is_exact = order != ANY
    else:
        rule, name = lm.order_rule(order, evaluations), lm.name_of_order(order, evaluations)
        is_exact = trait(rule, "order_is_deterministic")
        if not is_exact and draws.num_draws < 2:
            raise UserError(
                f"`num_draws={draws.num_draws}`: {name} is random, and one of its orders has no standard error"
            )
        costs = in_own_order(lm, parts, rule, draws)
    return [_total(text, [next(each) for _ in text.parts], name, is_exact) for each in [iter(costs)] for text in texts]


def _total(text: Windows, costs: Sequence[Cost], likelihood: str, is_exact: bool) -> Score:
    """The score of a text from what its parts cost."""
    drawn = [cost for cost in costs if cost.degrees > 0]
    return Score(
        nats=sum(cost.nats for cost in costs),
        standard_error=math.hypot(*(cost.standard_error for cost in costs)),
        num_tokens=text.num_tokens,
        num_draws=max(cost.num_draws for cost in costs),
        likelihood=likelihood,
        # all masks of one token are one: nothing of it is bounded
        is_exact=is_exact or all(len(part.tokens) == 1 for part in text.parts),
        degrees=min((cost.degrees for cost in drawn), default=0),
        num_given=text.num_given,
        num_cut=text.num_cut,
    )


def _exact(nats: float) -> Cost:
    return Cost(nats, 0.0, 1, 0)


def in_any_order(lm: Scoring, parts: Sequence[Continuation], draws: DrawSettings) -> list[Cost]:
    """Of a model that fills masks: the bound in any order of each part."""
    with lm.inference():
        return bound(lm.denoise, parts, draws=replace(draws, device=lm.device), mask_id=lm.tokenizer.mask_id)


def left_to_right(lm: Scoring, parts: Sequence[Continuation], draws: DrawSettings) -> list[ReadCost]:
    """Of a model with a causal mode: the exact cost of each part."""
    with lm.inference():
        return read(lm.network, parts, draws=replace(draws, device=lm.device))


def in_own_order(lm: Scoring, parts: Sequence[Continuation], rule: StepRule, draws: DrawSettings) -> list[Cost]:
    """What each part costs in the order in which a sampler reveals it, its context fixed: exact, or the mean over
    `draws.num_draws` of its orders, of which `draws.batch_size` are drawn together, those of several parts too."""
    num_draws = 1 if trait(rule, "order_is_deterministic") else draws.num_draws
    drawn = [replace(part, seed=mix_seed(part.seed, draw)) for part in parts for draw in range(num_draws)]
    costs = torch.empty(len(drawn), dtype=torch.float64)
    done = 0
    for batch in alike(drawn, draws.batch_size):
        canvas, tokens = canvas_of(lm, [drawn[index] for index in batch])
        with lm.inference():
            trace = sample(
                lm.predictor(rule),
                canvas,
                rule,
                mask_id=lm.tokenizer.mask_id,
                seeds=[drawn[index].seed for index in batch],
                known=tokens,
            ).trace
        costs[batch] = trace.nll.cpu()
        done += len(batch)
        draws.report(done, len(drawn))
    nats = costs.view(len(parts), num_draws)
    if num_draws == 1:
        return [_exact(each) for each in nats[:, 0].tolist()]
    errors = nats.std(1) / num_draws**0.5
    return [
        Cost(mean, error, num_draws, num_draws - 1)
        for mean, error in zip(nats.mean(1).tolist(), errors.tolist(), strict=True)
    ]


def written_greedily(lm: Scoring, parts: Sequence[Continuation], how: How, batch_size: int) -> list[bool]:
    """Whether a sampler at temperature 0 fills the places of each part with its tokens, after what it is given."""
    found: dict[int, bool] = {}
    for batch in alike(parts, batch_size):
        canvas, tokens = canvas_of(lm, [parts[index] for index in batch])
        rule = lm.rule(replace(how, temperature=0.0), canvas)
        with lm.inference():
            seeds = [parts[index].seed for index in batch]
            made = sample(lm.predictor(rule), canvas, rule, mask_id=lm.tokenizer.mask_id, seeds=seeds).tokens
        found |= zip(batch, (made == tokens).all(1).tolist(), strict=True)
    return [found[index] for index in range(len(parts))]


def alike(parts: Sequence[Continuation], batch_size: int) -> list[list[int]]:
    """The numbers of the parts in batches of one length, the longest first: a canvas has no padding."""
    by_length: dict[int, list[int]] = {}
    for index in longest_first(parts):
        by_length.setdefault(parts[index].length, []).append(index)
    return [
        group[start : start + batch_size] for group in by_length.values() for start in range(0, len(group), batch_size)
    ]


def canvas_of(lm: Scoring, parts: Sequence[Continuation]) -> tuple[Canvas, torch.Tensor]:
    """A canvas on which what is given is fixed, and the text that stands there, of parts of one length."""
    tokens = torch.tensor([[*part.given, *part.tokens] for part in parts])
    starts = torch.tensor([len(part.given) for part in parts])
    fixed = torch.arange(tokens.shape[1]) < starts[:, None]
    canvas = Canvas(tokens, fixed).to(lm.canvas_device)
    return canvas, canvas.tokens
