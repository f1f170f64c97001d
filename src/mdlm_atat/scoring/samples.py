"""What generated texts are worth: a judge's perplexity, entropy, repetition and MAUVE, beside real text's values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

import numpy as np

from mdlm_atat.errors import UserError
from mdlm_atat.scoring.draws import Rows
from mdlm_atat.scoring.generative import measure_texts
from mdlm_atat.scoring.judge import CausalJudge, FeatureJudge, Judge
from mdlm_atat.scoring.mauve import PUBLISHED_TEXTS, mauve
from mdlm_atat.scoring.quality import SamplePoint, TextQuality
from mdlm_atat.scoring.statistics import clear_factor

FEW_TEXTS = 100
FEW_FOR_MAUVE = 1000
SHORT = 128  # tokens: published generative perplexities are of texts of 1024
TokenLists = Sequence[Sequence[int]]


@dataclass(frozen=True)
class RealTexts:
    """Pieces of validation text as long as the samples: some to compare with, and others as an example of the best."""

    reference: list[list[int]]
    held_back: list[list[int]]
    """As many again, where the text is long enough: what MAUVE real text gets."""


def real_texts(rows: Rows, num_texts: int, length: int, seed: int) -> RealTexts:
    """Draw whole pieces of `length` tokens without replacement. Raises UserError where there are fewer than two."""
    chosen = np.random.default_rng(seed).permutation(rows.num_evaluation_rows)
    found: list[list[int]] = []
    for start in range(0, len(chosen), num_texts):  # no more of a large text than it takes
        ids, lengths = rows.evaluation_rows(chosen[start : start + num_texts])
        found += ids[lengths >= length, :length].tolist()
        if len(found) >= 2 * num_texts:
            break
    if len(found) < 2:
        raise UserError(
            f"the validation text has {len(found)} pieces of {length} tokens to compare samples with; ask for "
            "shorter samples with `length=`, or name a longer text with `data=`"
        )
    return RealTexts(found[:num_texts], found[num_texts : 2 * num_texts])


class Quality:
    """Measures sets of texts against the same real ones, under the same judge.

    `decode` and `fingerprint` are those of the tokenizer that the texts are tokens of: one of ours with the same
    tokenizer judges the very tokens, any other judge the text.
    """

    def __init__(
        self,
        judge: Judge | None,
        real: RealTexts,
        *,
        decode: Callable[[list[int]], str],
        fingerprint: str,
        with_mauve: bool = True,
    ) -> None:
        self.judge, self.real, self.decode, self.fingerprint = judge, real, decode, fingerprint
        self._reference = self._features(real.reference) if with_mauve else None

    @property
    def has_mauve(self) -> bool:
        """Whether MAUVE is computed: it was asked for, and the judge gives features."""
        return self._reference is not None

    def __call__(self, texts: TokenLists) -> TextQuality:
        """The numbers of a set of texts; with a judge what it pays for them, and MAUVE."""
        return self._with_mauve(self._judged(texts), texts)

    def of_real_text(self) -> TextQuality:
        """The reference's own numbers, and the MAUVE of other real texts against it."""
        own, others = self._judged(self.real.reference), self.real.held_back
        return self._with_mauve(own, others) if len(others) > 1 else own

    def _judged(self, texts: TokenLists) -> TextQuality:
        found, judge = measure_texts(texts), self.judge
        if judge is None:
            return found
        judgement = judge.score_rows(texts) if self._reads_tokens(judge) else judge(self._decoded(texts))
        nats, error = judgement.nats_per_token()
        return replace(found, judge_nats=nats, judge_error=error, judge_perplexity=judgement.perplexity)

    def _with_mauve(self, found: TextQuality, texts: TokenLists) -> TextQuality:
        if self._reference is None:
            return found
        value = mauve(self._features(texts), self._reference)
        return replace(found, mauve=value.value, mauve_spread=value.spread, mauve_clusters=value.num_clusters)

    def _features(self, texts: TokenLists) -> Any:
        judge = self.judge
        if not isinstance(judge, FeatureJudge):
            return None
        return judge.row_features(texts) if self._reads_tokens(judge) else judge.features(self._decoded(texts))

    def _reads_tokens(self, judge: Judge) -> TypeGuard[CausalJudge]:
        return isinstance(judge, CausalJudge) and judge.tokenizer.fingerprint() == self.fingerprint

    def _decoded(self, texts: TokenLists) -> list[str]:
        return [self.decode(list(row)) for row in texts]


def cautions(point: SamplePoint, real: TextQuality, *, judge_saw_training_text: bool) -> list[str]:
    """Sentences on what is known to mislead in these numbers; most of them hold for all points of one run alike."""
    sentences = []
    length, temperature = point.num_tokens // point.num_samples, point.how.temperature
    short_of = real.entropy_nats - point.entropy_nats
    factor = clear_factor(max(1, min(point.num_samples, real.num_samples) - 1))
    if point.judge_nats is not None and short_of > factor * _error(point.entropy_error, real.entropy_error):
        cheap = real.judge_nats is not None and point.judge_nats < real.judge_nats
        sentences.append(
            f"entropy is {short_of:.2f} nats below validation text's: dull text is cheap to a judge"
            + (", and this is cheaper than real text; its generative perplexity says nothing" if cheap else "")
        )
    if point.repetition > real.repetition + factor * _error(point.repetition_error, real.repetition_error):
        sentences.append(
            f"{point.repetition:.1%} of 4-grams repeat an earlier one of their text, {real.repetition:.1%} in "
            "validation text"
        )
    if temperature != 1.0:
        sentences.append(f"at temperature {temperature:g} these are no samples of the model's own distribution")
    if point.num_samples < FEW_TEXTS:
        sentences.append(f"{point.num_samples} texts are few: at least {FEW_TEXTS} make differences tellable")
    if point.mauve is not None and point.num_samples < FEW_FOR_MAUVE:
        sentences.append(
            f"MAUVE of {point.num_samples} texts is noisy and not comparable with published values, which take "
            f"{PUBLISHED_TEXTS:,}; compare with validation text's own, of as many"
        )
    if point.judge_nats is not None and length < SHORT:
        sentences.append(
            f"texts of {length} tokens are short: a judge pays more per token than for published ones of 1,024"
        )
    if judge_saw_training_text:
        sentences.append("the judge was trained on the same text as the model: what both know by heart is cheap to it")
    return sentences


def _error(*errors: float) -> float:
    """Of a difference; one that is not known counts as none."""
    return math.hypot(*(0.0 if math.isnan(error) else error for error in errors))
