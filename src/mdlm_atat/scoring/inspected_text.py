"""Importance and loss of every token of a text, and how they are read from inspection.json, without importing torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float


class Correlation(NamedTuple):
    """Between importance and loss, over tokens; NaN where either is the same for all of them."""

    pearson: float
    spearman: float


@dataclass(frozen=True, kw_only=True)
class TokenCurves:
    """Importance, loss and mask rate of every token of a text."""

    importance: Float[np.ndarray, " tokens"]
    """Of the clean text (t = 0), in [0, 1]: what drives the masking."""
    times: Float[np.ndarray, " times"]
    masked_importance: Float[np.ndarray, "times tokens"]
    """What the estimator says of the token when it is masked at t, and does not know it: the mean over the draws."""
    nll: Float[np.ndarray, "times tokens"]
    """-log p of the token when it is masked at t, nats: the mean over the same draws, of uniform masks."""
    mask_rate: Float[np.ndarray, "times tokens"]
    """How likely the model's own masking schedule masks the token at t."""

    @property
    def mean_nll(self) -> Float[np.ndarray, " tokens"]:
        """Loss of each token, averaged over t, nats."""
        return self.nll.mean(0)


@dataclass(frozen=True, kw_only=True)
class InspectedText(TokenCurves):
    """An inspection as `Inspection.record` stored it."""

    texts: list[str]
    pearson: float
    """Correlation of importance and the mean loss over t; NaN where there is none."""
    spearman: float

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> InspectedText:
        """Read the content of an inspection.json. Raises ValueError where that is not what `record` writes."""
        try:
            texts = [str(text) for text in record["texts"]]
            importance, times, *by_time = (
                np.array(record[name], dtype=np.float64)
                for name in ("importance", "times", "masked_importance", "nll", "mask_rate")
            )
            # null where there is none
            pearson, spearman = (
                float("nan" if value is None else value)
                for value in (record["correlation"][name] for name in ("pearson", "spearman"))
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not an inspection: {error}") from error
        if (
            min(len(texts), times.size) == 0
            or importance.shape != (len(texts),)
            or any(array.shape != (times.size, len(texts)) for array in by_time)
        ):
            raise ValueError(f"not an inspection of {len(texts)} tokens at {times.size} times")
        masked_importance, nll, mask_rate = by_time
        return cls(
            texts=texts,
            importance=importance,
            times=times,
            masked_importance=masked_importance,
            nll=nll,
            mask_rate=mask_rate,
            pearson=pearson,
            spearman=spearman,
        )

    def first(self, num_tokens: int) -> InspectedText:
        """The first `num_tokens` of the text; the correlations stay those of the whole."""
        names = ("importance", "masked_importance", "nll", "mask_rate")
        cut = {name: getattr(self, name)[..., :num_tokens] for name in names}
        return replace(self, texts=self.texts[:num_tokens], **cut)
