"""The difference between two models, from two stored evaluations of the same draws: no model is needed.

Draws are a function of the seed, so two models' scores of a block differ by the models alone; what makes a block dear
for both, its text and how much of it is masked, cancels. The standard error of the difference is that of the blocks'
differences, several times smaller than what two independent estimates would leave.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from mdlm_atat.errors import UserError
from mdlm_atat.scoring.draws import BLOCK_SIZE
from mdlm_atat.scoring.likelihood import Blocks, ratio_with_standard_error
from mdlm_atat.scoring.packing import unpack
from mdlm_atat.scoring.statistics import LEVEL, t_quantile

Bound = Literal["uniform", "own"]
"""uniform: PPL-U; own: each model's own, PPL-S. A causal model's is its exact value for both."""
SAME = {
    "corpus_hash": "the text, or its tokens",
    "split": "the split",
    "tokenizer_hash": "the tokenizer",
    "length": "the length of a sequence",
    "mode": "how text is cut into sequences",
    "seed": "the seed of the draws",
}


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """What one model pays less what another pays, in nats per token: negative where the first is better."""

    nats_per_token: float
    standard_error: float
    """Between blocks of the same draws."""
    unpaired_error: float
    """What the error would be if the two had been scored on draws of their own."""
    num_draws: int
    kinds: tuple[str, str]
    """nelbo or exact, of each. Of one of each, the difference is that of an upper bound and an exact value."""

    @property
    def degrees(self) -> int:
        """Of freedom, of the error: blocks but one."""
        return self.num_draws // BLOCK_SIZE - 1

    @property
    def is_significant(self) -> bool:
        """Of at least two standard errors, of more where there are few blocks (Student's t); where there is no error
        to be had, nothing is."""
        if self.degrees < 1 or self.nats_per_token == 0:
            return False
        needed = max(2.0, t_quantile((1 + LEVEL) / 2, self.degrees))
        return abs(self.nats_per_token) >= needed * self.standard_error


def paired_difference(a: Mapping[str, Any], b: Mapping[str, Any], *, bound: Bound = "uniform") -> PairedDifference:
    """a - b, of two evaluation records (as `atat eval` stores them) of the same text, cut and drawn alike.

    Where one has more draws, the ones that both have are compared. Two exact values are compared by the sequences, each
    once. Raises UserError for records that are not of the same draws, and for a model that has no bound of its own.
    """
    return mean_paired_difference([(a, b)], bound=bound)


def mean_paired_difference(
    pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], *, bound: Bound = "uniform"
) -> PairedDifference:
    """The mean of a - b over pairs that were all scored on the same draws, such as seeds; its error is that of the
    draws, which the pairs share: it says nothing of other pairs. Raises as `paired_difference` does."""
    first = pairs[0][0]
    for record in (record for pair in pairs for record in pair):
        check_same_draws(first, record)
    kinds, num_blocks = min((_extent(a, b) for a, b in pairs), key=lambda extent: extent[1])
    mine, theirs = (_mean_blocks([_blocks(pair[side], bound) for pair in pairs], num_blocks) for side in (0, 1))
    return _difference(mine, theirs, kinds, num_blocks)


def _mean_blocks(parts: Sequence[Blocks], num_blocks: int) -> Blocks:
    scores = torch.stack([part.score[:num_blocks] for part in parts])
    lengths = torch.stack([part.length[:num_blocks] for part in parts])
    if not lengths.allclose(lengths[:1]):
        raise UserError("the evaluations are of different sequences, though they say that they are of the same")
    return Blocks(scores.mean(0), lengths[0])


def paired_deciles(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[PairedDifference]:
    """a - b by token frequency, the rarest tokens first, under the uniform schedule. Raises UserError where the two
    do not rank the same tokens alike (they were trained on different text)."""
    check_same_draws(a, b)
    for name, record in (("first", a), ("second", b)):
        if record.get("deciles") is None:
            raise UserError(f"the {name} evaluation has no deciles: its model has no counts of its training text")
    named = ("train_count_min", "train_count_max", "num_types")
    if any(a["deciles"][name] != b["deciles"][name] for name in named):
        raise UserError("the deciles of the two evaluations are of other tokens: the models' training text differs")

    def blocks(record: Mapping[str, Any], group: int) -> Blocks:
        return Blocks(*(unpack(record["blocks"][name][group]) for name in ("decile_score", "decile_length")))

    groups = range(len(a["deciles"]["nats_per_token"]))
    return [_difference(blocks(a, group), blocks(b, group), *_extent(a, b)) for group in groups]


def check_same_draws(a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    """Raises UserError, with all that differs, unless the two evaluations are of the same draws of the same text."""
    for name, record in (("first", a), ("second", b)):
        if "blocks" not in record:
            raise UserError(
                f"the {name} evaluation holds no sums by block, which a paired difference needs: it is of an earlier "
                "version; run atat eval again"
            )
    differing = [
        f"{what} ({name}: {str(a.get(name))[:12]} and {str(b.get(name))[:12]})"
        for name, what in SAME.items()
        if a.get(name) != b.get(name)
    ]
    if differing:
        raise UserError(
            f"the two evaluations cannot be paired: they differ in {', '.join(differing)}. Score both models on the "
            "same text with the same settings; of models with different tokenizers, compare bits per character"
        )


def _blocks(record: Mapping[str, Any], bound: Bound) -> Blocks:
    score, length = record["blocks"]["score"], record["blocks"]["length"]
    if bound == "own" and record["kind"] == "nelbo":
        if record["schedule"] is None:
            raise UserError(
                f"{record['checkpoint']} has no bound under its own masking schedule, which leaks what it hides; only "
                "PPL-U can be compared"
            )
        score = record["blocks"].get("schedule_score", score)  # the uniform schedule's own bound is PPL-U
    return Blocks(unpack(score), unpack(length))


def _extent(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[tuple[str, str], int]:
    """Both kinds, and how many blocks to compare."""
    kinds = (str(a["kind"]), str(b["kind"]))
    num_blocks = min(len(unpack(record["blocks"]["score"])) for record in (a, b))
    if kinds == ("exact", "exact"):
        # later blocks repeat sequences, whose exact values are no news
        num_blocks = min(num_blocks, max(1, int(a["num_sequences"]) // BLOCK_SIZE))
    return kinds, num_blocks


def _difference(a: Blocks, b: Blocks, kinds: tuple[str, str], num_blocks: int) -> PairedDifference:
    a, b = (Blocks(part.score[:num_blocks], part.length[:num_blocks]) for part in (a, b))
    if not a.length.allclose(b.length):
        raise UserError("the two evaluations are of different sequences, though they say that they are of the same")
    nats, error = ratio_with_standard_error(a.score - b.score, a.length)
    return PairedDifference(
        nats_per_token=nats,
        standard_error=error,
        unpaired_error=math.hypot(a.ratio()[1], b.ratio()[1]),
        num_draws=len(a.score) * BLOCK_SIZE,
        kinds=kinds,
    )
