"""What generated texts are worth: a judge's perplexity, entropy, repetition and MAUVE, beside real text's values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mdlm_atat.errors import UserError
from mdlm_atat.scoring.draws import Rows
from mdlm_atat.scoring.generative import measure_texts
from mdlm_atat.scoring.judge import CausalJudge, FeatureJudge, Judge
from mdlm_atat.scoring.mauve import PUBLISHED_TEXTS, mauve

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
            f"the validation text has {len(found)} pieces of {length} tokens to compare samples with; name a longer "
            "one with --data, or ask for shorter samples with --length"
        )
    return RealTexts(found[:num_texts], found[num_texts : 2 * num_texts])


class Quality:
    """Measures sets of texts against the same real ones, under the same judge.

    `decode` and `fingerprint` are those of the tokenizer that the texts are tokens of: one of ours with the same
    tokenizer judges the very tokens, any other judge the text.
    """

    def __init__(
        self, judge: Judge | None, real: RealTexts, *, decode: Callable[[list[int]], str], fingerprint: str
    ) -> None:
        self.judge, self.real, self.decode = judge, real, decode
        self.by_token = isinstance(judge, CausalJudge) and judge.tokenizer.fingerprint() == fingerprint
        self._reference = self._features(real.reference)

    def __call__(self, texts: TokenLists) -> dict[str, Any]:
        """JSON-ready: see TextQuality; with a judge its nats a token, perplexity and MAUVE."""
        return {**asdict(measure_texts(texts)), **self._judged(texts), **self._mauve(texts)}

    def of_real_text(self) -> dict[str, Any]:
        """The reference's own values, and the MAUVE of other real texts against it."""
        own = {**asdict(measure_texts(self.real.reference)), **self._judged(self.real.reference)}
        return {**own, **(self._mauve(self.real.held_back) if len(self.real.held_back) > 1 else {})}

    def _judged(self, texts: TokenLists) -> dict[str, Any]:
        if self.judge is None:
            return {}
        if self.by_token:
            assert isinstance(self.judge, CausalJudge)
            found = self.judge.score_rows(texts)
        else:
            found = self.judge([self.decode(list(row)) for row in texts])
        nats, error = found.nats_per_token()
        return {"judge_nats": nats, "judge_error": error, "judge_perplexity": found.perplexity}

    def _mauve(self, texts: TokenLists) -> dict[str, Any]:
        features = self._features(texts)
        if features is None or self._reference is None:
            return {}
        found = mauve(features, self._reference)
        return {"mauve": found.value, "mauve_spread": found.spread, "mauve_clusters": found.num_clusters}

    def _features(self, texts: TokenLists) -> Any:
        if not isinstance(self.judge, FeatureJudge):
            return None
        if self.by_token:
            assert isinstance(self.judge, CausalJudge)
            return self.judge.row_features(texts)
        return self.judge.features([self.decode(list(row)) for row in texts])


def cautions(
    point: Mapping[str, Any], real: Mapping[str, Any], *, length: int, judge_saw_training_text: bool
) -> list[str]:
    """Sentences on what is known to mislead in these numbers; most of them hold for all points of one run alike."""
    found = []
    spread = 2 * math.hypot(*(_or_zero(side["entropy_error"]) for side in (point, real)))
    short_of = real["entropy_nats"] - point["entropy_nats"]
    if "judge_nats" in point and short_of > spread:
        cheap = point["judge_nats"] < real["judge_nats"]
        found.append(
            f"entropy is {short_of:.2f} nats below validation text's: dull text is cheap to a judge"
            + (", and this is cheaper than real text; its generative perplexity says nothing" if cheap else "")
        )
    if point["repetition"] > real["repetition"] + 2 * math.hypot(
        *(_or_zero(side["repetition_error"]) for side in (point, real))
    ):
        found.append(
            f"{point['repetition']:.1%} of 4-grams repeat an earlier one of their text, {real['repetition']:.1%} in "
            "validation text"
        )
    if point.get("temperature", 1.0) != 1.0:
        found.append(f"at temperature {point['temperature']:g} these are no samples of the model's own distribution")
    if point["num_samples"] < FEW_TEXTS:
        found.append(f"{point['num_samples']} texts are few: at least {FEW_TEXTS} make differences tellable")
    if "mauve" in point and point["num_samples"] < FEW_FOR_MAUVE:
        found.append(
            f"MAUVE of {point['num_samples']} texts is noisy and not comparable with published values, which take "
            f"{PUBLISHED_TEXTS:,}; compare with validation text's own, of as many"
        )
    if "judge_nats" in point and length < SHORT:
        found.append(
            f"texts of {length} tokens are short: a judge pays more per token than for published ones of 1,024"
        )
    if judge_saw_training_text:
        found.append("the judge was trained on the same text as the model: what both know by heart is cheap to it")
    return found


def _or_zero(value: float | None) -> float:
    return 0.0 if value is None or math.isnan(value) else value
