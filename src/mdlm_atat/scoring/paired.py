"""The difference between two models, from two stored evaluations of the same draws: no model is needed.

Draws are a function of the seed, so two models' scores of a block differ by the models alone; what makes a block dear
for both, its text and how much of it is masked, cancels. The standard error of the difference is that of the blocks'
differences, several times smaller than what two independent estimates would leave.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from mdlm_atat.errors import UserError
from mdlm_atat.scoring.cost import Column, OrderCost, SequenceSums
from mdlm_atat.scoring.likelihood import Blocks, ratio_with_standard_error
from mdlm_atat.scoring.records import (
    BLOCK_SIZE,
    BlockSums,
    Bound,
    Comparison,
    Evaluation,
    OrderDifference,
    PairedDifference,
    TextIdentity,
)

SAME = {
    "corpus_hash": "the text, or its tokens",
    "split": "the split",
    "tokenizer_hash": "the tokenizer",
    "length": "the length of a sequence",
    "mode": "how text is cut into sequences",
    "loss_on": "what of them is scored",
    "seed": "the seed of the draws",
}

NO_SEQUENCES = (
    "an evaluation holds no sums by sequence, which the difference of two values in one order needs: it is of an "
    "earlier version; run `evaluate(...)` again"
)


def paired_difference(a: Evaluation, b: Evaluation, *, bound: Bound = "uniform") -> PairedDifference:
    """a - b, of two evaluations of the same text, cut and drawn alike.

    `bound`: "uniform" compares PPL-U; "own" each model's own bound, PPL-S where it has a masking schedule of its own;
    "left_to_right" the exact values of two models that read left to right. A causal model's is its exact value for all.
    Where one has more draws, the ones that both have are compared. Two exact values are compared by the sequences, each
    once. Raises UserError for evaluations that are not of the same draws, and for a model that has no such number.
    """
    return mean_paired_difference([(a, b)], bound=bound)


def mean_paired_difference(
    pairs: Sequence[tuple[Evaluation, Evaluation]], *, bound: Bound = "uniform"
) -> PairedDifference:
    """The mean of a - b over pairs that were all scored on the same draws, such as seeds; its error is that of the
    draws, which the pairs share: it says nothing of other pairs. Raises as `paired_difference` does."""
    first, are_exact = pairs[0][0], not any(side.is_bound for pair in pairs for side in pair)
    for evaluation in (evaluation for pair in pairs for evaluation in pair):
        check_same_text(first.text, first.seed, evaluation)
    if are_exact or bound == "left_to_right":
        exact = [(_left_to_right(a), _left_to_right(b)) for a, b in pairs]
        if bound == "left_to_right" or all(side.sequences is not None for pair in exact for side in pair):
            return mean_order_difference(exact)
    for evaluation in (evaluation for pair in pairs for evaluation in pair):
        check_same_draws(first, evaluation)
    kinds, num_blocks = min((_extent(a, b) for a, b in pairs), key=lambda extent: extent[1])
    if are_exact and num_blocks < 2:
        raise UserError(NO_SEQUENCES)
    mine, theirs = (_mean_blocks([_blocks(pair[side], bound) for pair in pairs], num_blocks) for side in (0, 1))
    return _difference(mine, theirs, kinds, num_blocks)


def order_differences(a: Evaluation, b: Evaluation, *, name: str) -> tuple[tuple[OrderDifference, ...], list[str]]:
    """a - b in each order that both were scored in, left to right first, and a note for each that cannot be compared;
    `name` is what b is called there. Raises UserError where the two are not of the same draws of the same text."""
    check_same_text(a.text, a.seed, b)
    found, notes = [], []
    theirs = {cost.asked: cost for cost in _orders(b)}
    for mine in _orders(a):
        if mine.asked not in theirs:
            notes.append(f"{mine.name}: {name} has no such value")
        else:
            try:
                difference = mean_order_difference([(mine, theirs[mine.asked])])
                found.append(OrderDifference(name=mine.name, **vars(difference)))
            except UserError as error:
                notes.append(f"{mine.name}: {error}")
    return tuple(found), notes


def mean_order_difference(pairs: Sequence[tuple[OrderCost, OrderCost]]) -> PairedDifference:
    """The mean of a - b over pairs that were scored in one order each, over the sequences that all have, each once; the
    error is that between sequences. Of the same sequences it is the difference of the values themselves. Raises
    UserError where the sums of the sequences are not stored, or are of other sequences."""
    sides = [cost for pair in pairs for cost in pair]
    sums = [cost.sequences for cost in sides if cost.sequences is not None]
    if len(sums) < len(sides):
        raise UserError(NO_SEQUENCES)
    kinds = ["exact" if all(pair[side].is_exact for pair in pairs) else "nelbo" for side in (0, 1)]
    return _over_sequences(sums, (kinds[0], kinds[1]))


def _over_sequences(sums: Sequence[SequenceSums], kinds: tuple[str, str]) -> PairedDifference:
    """The mean difference of these sums, first and second of each pair in turn, over the sequences that all have."""
    size, fewest = max(part.size for part in sums), min(part.num_sequences for part in sums)
    all_the_same = all(part.num_sequences == fewest for part in sums)
    num_groups = (
        -(-fewest // size) if all_the_same else fewest // size
    )  # a group that is not full is of other sequences
    if num_groups == 0:
        raise UserError(f"{fewest} sequences are too few to compare with so many; score the same number for both")
    blocks = [_in_groups_of(size, part, num_groups) for part in sums]
    mine, theirs = (_mean_blocks(blocks[side::2], num_groups) for side in (0, 1))
    return _difference(mine, theirs, kinds, num_groups, num_sequences=min(fewest, num_groups * size))


def paired_deciles(a: Evaluation, b: Evaluation) -> list[PairedDifference]:
    """a - b by token frequency, the rarest tokens first, under the uniform schedule; of two exact values over their
    sequences, each once. Raises UserError where the two do not rank the same tokens alike (they were trained on
    different text)."""
    check_same_draws(a, b)
    for name, evaluation in (("first", a), ("second", b)):
        if evaluation.deciles is None:
            raise UserError(f"the {name} evaluation has no deciles: its model has no counts of its training text")
    assert a.deciles is not None
    assert b.deciles is not None
    named = ("train_count_min", "train_count_max", "num_types")
    if any(getattr(a.deciles, name) != getattr(b.deciles, name) for name in named):
        raise UserError("the deciles of the two evaluations are of other tokens: the models' training text differs")

    def blocks(evaluation: Evaluation, group: int) -> Blocks:
        sums = _sums(evaluation)
        if sums.decile_score is None or sums.decile_length is None:
            raise UserError("an evaluation holds no sums of its deciles, which a paired difference needs")
        return Blocks(_tensor(sums.decile_score[group]), _tensor(sums.decile_length[group]))

    mine, theirs = _sums(a).decile_sequences, _sums(b).decile_sequences
    if mine is not None and theirs is not None and not a.is_bound and not b.is_bound:
        return [_over_sequences(pair, (a.kind, b.kind)) for pair in zip(mine, theirs, strict=True)]
    if not a.is_bound and not b.is_bound and _extent(a, b)[1] < 2:
        raise UserError(f"{a.num_sequences} sequences are too few")
    groups = range(len(a.deciles.nats_per_token))
    return [_difference(blocks(a, group), blocks(b, group), *_extent(a, b)) for group in groups]


def compare(a: Evaluation, b: Evaluation, *, name: str) -> Comparison:
    """All paired differences that the two evaluations allow, with a note for each that they do not; `name` is the other
    model's. Raises UserError where they are not of the same draws."""
    uniform, own, deciles = paired_difference(a, b), None, None
    orders, notes = order_differences(a, b, name=name)
    if uniform.kinds == ("exact", "exact"):
        orders = orders[1:]  # left to right, which `uniform` is
    if any(_sums(side).schedule_score is not None for side in (a, b)):
        sides = [side for side in (a, b) if side.is_bound and side.schedule is None]
        if sides:
            notes.append(f"{sides[0].checkpoint} has no bound of its own to compare: only PPL-U")
        else:
            own = paired_difference(a, b, bound="own")
    try:
        deciles = tuple(paired_deciles(a, b))
    except UserError as error:
        notes.append(f"no differences by token frequency: {error}")
    file = None if b.file is None else str(b.file)
    return Comparison(
        name=name,
        nats_per_token=b.nats_per_token,
        file=file,
        uniform=uniform,
        own=own,
        orders=orders,
        deciles=deciles,
        notes=tuple(notes),
    )


def check_same_draws(a: Evaluation, b: Evaluation) -> None:
    """Raises UserError, with all that differs, unless the two evaluations are of the same draws of the same text."""
    for name, evaluation in (("first", a), ("second", b)):
        if evaluation.blocks is None:
            raise UserError(
                f"the {name} evaluation holds no sums by block, which a paired difference needs: it is of an earlier "
                "version; run `evaluate(...)` again"
            )
    check_same_text(a.text, a.seed, b)


def check_same_text(text: TextIdentity, seed: int, other: Evaluation) -> None:
    """Raises UserError, with all that differs, unless draws of this text by this seed are those of the other."""
    mine, theirs = ({**vars(side), "seed": number} for side, number in ((text, seed), (other.text, other.seed)))
    # the same tokens; what a tokenizer's hash is of has changed between versions
    same_tokens = text.corpus_hash is not None and text.corpus_hash == other.text.corpus_hash
    differing = [
        f"{what} ({name}: {str(mine[name])[:12]} and {str(theirs[name])[:12]})"
        for name, what in SAME.items()
        if mine[name] != theirs[name] and not (name == "tokenizer_hash" and same_tokens)
    ]
    if differing:
        raise UserError(
            f"the two evaluations cannot be paired: they differ in {', '.join(differing)}. Score both models on the "
            "same text with the same settings; of models with different tokenizers, compare bits per character, if "
            "both tokenizers give back the whole text"
        )


def _sums(evaluation: Evaluation) -> BlockSums:
    assert evaluation.blocks is not None  # check_same_draws has refused it
    return evaluation.blocks


def _tensor(values: Column) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _blocks(evaluation: Evaluation, bound: Bound) -> Blocks:
    sums = _sums(evaluation)
    score = sums.score
    if bound == "own" and evaluation.is_bound:
        if evaluation.schedule is None:
            raise UserError(
                f"{evaluation.checkpoint} has no bound under its own masking schedule, which leaks what it hides; only "
                "PPL-U can be compared"
            )
        score = sums.schedule_score or score  # the uniform schedule's own bound is PPL-U
    return Blocks(_tensor(score), _tensor(sums.length))


def _mean_blocks(parts: Sequence[Blocks], num_blocks: int) -> Blocks:
    scores = torch.stack([part.score[:num_blocks] for part in parts])
    lengths = torch.stack([part.length[:num_blocks] for part in parts])
    if not lengths.allclose(lengths[:1]):
        raise UserError("the evaluations are of different sequences, though they say that they are of the same")
    return Blocks(scores.mean(0), lengths[0])


def _extent(a: Evaluation, b: Evaluation) -> tuple[tuple[str, str], int]:
    """Both kinds, and how many blocks to compare."""
    num_blocks = min(len(_sums(side).score) for side in (a, b))
    if not a.is_bound and not b.is_bound:
        # later blocks repeat sequences, whose exact values are no news
        num_blocks = min(num_blocks, a.num_sequences // BLOCK_SIZE)
    return (a.kind, b.kind), num_blocks


def _orders(evaluation: Evaluation) -> list[OrderCost]:
    return [cost for _, cost, _ in evaluation.likelihoods if isinstance(cost, OrderCost)]


def _left_to_right(evaluation: Evaluation) -> OrderCost:
    if evaluation.left_to_right is None:
        raise UserError(f"{evaluation.checkpoint} fills masks only: it has no exact value left to right")
    return evaluation.left_to_right


def _in_groups_of(size: int, sums: SequenceSums, num_groups: int) -> Blocks:
    """The sums over larger groups of the same sequences."""

    def grouped(values: Column) -> torch.Tensor:
        parts = _tensor(values).split(size // sums.size)  # both are powers of two
        return torch.stack([part.sum() for part in parts[:num_groups]])

    return Blocks(grouped(sums.score), grouped(sums.length))


def _difference(
    a: Blocks, b: Blocks, kinds: tuple[str, str], num_blocks: int, *, num_sequences: int | None = None
) -> PairedDifference:
    """Over `num_blocks` blocks of draws, or groups that hold so many sequences."""
    a, b = (Blocks(part.score[:num_blocks], part.length[:num_blocks]) for part in (a, b))
    if not a.length.allclose(b.length):
        raise UserError("the two evaluations are of different sequences, though they say that they are of the same")
    nats, error = ratio_with_standard_error(a.score - b.score, a.length)
    return PairedDifference(
        nats_per_token=nats,
        standard_error=error,
        unpaired_error=math.hypot(a.ratio()[1], b.ratio()[1]),
        num_draws=len(a.score) * BLOCK_SIZE if num_sequences is None else num_sequences,
        kinds=kinds,
        num_groups=None if num_sequences is None else num_blocks,
    )
