"""How long gaps should be: what a model pays for the given tokens, whatever the gaps hold."""

from __future__ import annotations

import functools
import itertools
import math
from typing import ClassVar

import numpy as np
import pytest
import torch
from made_models import two_way_lm

from mdlm_atat import MaskedDiffusionLM
from mdlm_atat.data.phrases import PHRASE, SENTENCE, WORD, Phrases, count_phrases
from mdlm_atat.data.tokenizers import CharTokenizer
from mdlm_atat.errors import UserError
from mdlm_atat.lm.gap_lengths import (
    Estimate,
    MaskedGaps,
    QuickFillings,
    WeightedFillings,
    compare_lengths,
    cost_of_given,
    prior_of,
)
from mdlm_atat.lm.results import Lengths
from mdlm_atat.nets.dit import ATATDiT
from mdlm_atat.samplers.template import Gap, lay_out, length_choices, parse_template
from toys import Joint, all_masks, uniform_denoiser

NUM_SEEDS = 60


def exact_cost(joint: Joint, tokens: torch.Tensor, fixed: torch.Tensor) -> float:
    """-log of the probability that the fixed positions hold these tokens."""
    fits = ((joint.sequences == tokens) | ~fixed).all(1)
    return -math.log(joint.probs[fits].sum())


@pytest.mark.parametrize("fixed", [m for m in all_masks(4) if 0 < m.sum() < 4 or m.all()][::3])
def test_with_an_exact_denoiser_the_cost_is_minus_log_p_of_what_is_given_within_4_standard_errors(fixed):
    """In every order of the given tokens the conditionals telescope, so the mean over orders is that too."""
    joint = Joint.random(length=4, vocab=3, seed=1)
    tokens = joint.sequences[joint.counts.argmax()]
    costs = torch.stack([
        cost_of_given(joint.denoise, tokens, fixed, mask_id=joint.mask_id, num_draws=16, seed=seed).mean()
        for seed in range(NUM_SEEDS)
    ])  # fmt: skip
    exact, error = exact_cost(joint, tokens, fixed), (costs.std() / math.sqrt(NUM_SEEDS)).item()
    assert abs(costs.mean().item() - exact) <= 4 * error + 1e-6
    assert error < 0.05 * exact


def test_one_given_token_costs_exactly_minus_log_p_in_a_single_draw():
    joint = Joint.random(length=4, vocab=3, seed=1)
    tokens = joint.sequences[joint.counts.argmax()]
    for position in range(4):
        fixed = torch.arange(4) == position
        cost = cost_of_given(joint.denoise, tokens, fixed, mask_id=joint.mask_id, num_draws=1)
        assert cost.item() == pytest.approx(exact_cost(joint, tokens, fixed), abs=1e-6)


def test_a_denoiser_that_knows_nothing_pays_5_log_7_for_5_tokens_whatever_the_gaps_and_the_batches():
    for length in (5, 9, 20):
        tokens = torch.arange(length) % 7
        fixed = torch.arange(length) < 5
        for batch_size in (1, 16, 64):
            costs = cost_of_given(uniform_denoiser(7), tokens, fixed, mask_id=7, num_draws=64, batch_size=batch_size)
            assert costs.tolist() == pytest.approx([5 * math.log(7)] * 64)


def test_the_gaps_stay_masked_and_what_stands_there_is_not_looked_at():
    joint = Joint.random(length=4, vocab=3, seed=2)
    tokens = joint.sequences[joint.counts.argmax()]
    fixed = torch.tensor([True, False, False, True])
    seen = []

    def watched(z_t: torch.Tensor, t: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        seen.append(z_t)
        assert t.allclose((z_t == joint.mask_id).float().mean(1))
        return joint.denoise(z_t, t)

    costs = {
        tuple(
            cost_of_given(
                watched, torch.where(fixed, tokens, other), fixed, mask_id=joint.mask_id, num_draws=64
            ).tolist()
        )
        for other in (0, 2, 3)
    }
    assert len(costs) == 1
    assert (torch.cat(seen)[:, 1:3] == joint.mask_id).all()


def test_the_number_of_given_tokens_masked_is_spread_evenly_from_1_to_all():
    counts = []

    def watched(z_t: torch.Tensor, t: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        counts.extend((z_t[:, :4] == 3).sum(1).tolist())
        return torch.zeros(*z_t.shape, 3)

    tokens, fixed = torch.zeros(6, dtype=torch.int64), torch.arange(6) < 4
    cost_of_given(watched, tokens, fixed, mask_id=3, num_draws=64)
    assert [counts.count(n) for n in range(6)] == [0, 16, 16, 16, 16, 0]


def test_the_masks_on_the_given_tokens_are_the_same_for_all_lengths_in_every_round():
    seen: dict[int, list[torch.Tensor]] = {}

    def watched(z_t: torch.Tensor, t: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        seen.setdefault(z_t.shape[1], []).append(z_t)
        return torch.zeros(*z_t.shape, 3)

    encoded = [[0, 1], Gap(1, 3), [2, 0]]
    by = MaskedGaps(watched, lambda lengths: torch.tensor(lay_out(encoded, lengths, 3)[0]), mask_id=3)
    found = compare_lengths([(1,), (2,), (3,)], by, max_draws=256)
    assert set(found.num_draws.values()) == {256}  # all alike: never settled
    assert not found.is_settled
    short, long = torch.cat(seen[5]), torch.cat(seen[7])
    assert len(short) == 256
    assert short[:, [0, 1, 3, 4]].equal(long[:, [0, 1, 5, 6]])
    assert len({tuple(row) for row in short.tolist()}) > 10


def test_the_error_of_a_masked_cost_is_that_of_its_mean_over_100_seeds_within_a_quarter():
    joint = Joint.random(length=5, vocab=3, seed=3)
    tokens = joint.sequences[joint.counts.argmax()]
    fixed = torch.tensor([True, True, False, True, True])
    by = MaskedGaps(joint.denoise, lambda _: tokens, joint.mask_id)
    found = [
        by.estimate(cost_of_given(joint.denoise, tokens, fixed, mask_id=joint.mask_id, num_draws=64, seed=seed))
        for seed in range(100)
    ]
    spread = torch.tensor([each.nats for each in found]).std().item()
    root_mean_square = math.sqrt(sum(each.error**2 for each in found) / 100)
    assert root_mean_square == pytest.approx(spread, rel=0.25)


ENCODED = [[0, 2], Gap(1, 3), [1]]
CHOICES = length_choices(ENCODED)


def tiny(seed: int = 0, *, std: float = 0.25) -> MaskedDiffusionLM:
    """Of weights of chance: the greater they are, the less one mode has to do with the other."""
    lm = two_way_lm(length=6)
    generator = torch.Generator().manual_seed(seed)
    for parameter in lm.network.parameters():
        torch.nn.init.normal_(parameter, std=std, generator=generator)
    return lm


def fillings(lm: MaskedDiffusionLM, encoded: list[list[int] | Gap], lengths: Lengths) -> torch.Tensor:
    """Every text that the template can become with gaps of these lengths."""
    tokens, vocab_size = torch.tensor(lay_out(encoded, lengths, lm.tokenizer.mask_id)[0]), lm.tokenizer.vocab_size
    ways = torch.tensor(list(itertools.product(range(vocab_size), repeat=sum(lengths))))
    rows = tokens.expand(len(ways), -1).clone()
    rows[:, tokens == lm.tokenizer.mask_id] = ways
    return rows


def joint_nats(lm: MaskedDiffusionLM, rows: torch.Tensor, start: int) -> torch.Tensor:
    """-log p(tokens from `start` on | before), by the chain rule, a place at a time."""
    total = torch.zeros(len(rows), dtype=torch.float64)
    with torch.no_grad():
        for place in range(start, rows.shape[1]):
            log_p = lm.network(rows[:, : place + 1])[:, place].double().log_softmax(-1)
            total -= log_p.gather(1, rows[:, place : place + 1])[:, 0]
    return total


def exact_nats(lm: MaskedDiffusionLM, encoded: list[list[int] | Gap], lengths: Lengths) -> float:
    start = 0 if isinstance(encoded[0], Gap) else len(encoded[0])
    return -joint_nats(lm, fillings(lm, encoded, lengths), start).neg().logsumexp(0).item()


def estimated(lm: MaskedDiffusionLM, encoded: list[list[int] | Gap], lengths: Lengths, num_draws: int) -> Estimate:
    by = lm._length_estimator(encoded)
    assert isinstance(by, WeightedFillings)
    return by.estimate(by.draw(lengths, 0, num_draws))


TEMPLATES = {
    "in the middle": ENCODED,
    "at the start": [Gap(1, 3), [1, 0]],
    "two gaps": [[0], Gap(1, 2), [1], Gap(1, 1), [2]],
    "two gaps side by side": [[0], Gap(1, 2), Gap(1, 2), [2]],
    "a gap behind": [[0, 2], Gap(1, 2), [1], Gap(1, 1)],
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_weighted_fillings_find_the_sum_over_all_within_their_error_of_at_most_a_20th(template):
    encoded, lm = TEMPLATES[template], tiny()
    for lengths in length_choices(encoded):
        found, exact = estimated(lm, encoded, lengths, 500), exact_nats(lm, encoded, lengths)
        assert abs(found.nats - exact) <= 3 * found.error + 1e-9
        assert 0 < found.error < 0.05


def test_the_error_is_that_of_40_estimates_and_falls_with_the_root_of_the_draws():
    by = tiny(std=0.3)._length_estimator(ENCODED)
    values, errors = by.draw((3,), 0, 64 * 40), {}
    for num in (16, 64):
        found = [by.estimate(part) for part in values[: num * 40].split(num)]
        spread = torch.tensor([each.nats for each in found]).std().item()
        errors[num] = math.sqrt(sum(each.error**2 for each in found) / 40)
        assert errors[num] == pytest.approx(spread, rel=0.3)
    assert errors[16] / errors[64] == pytest.approx(2, rel=0.1)


def test_the_masked_mode_fills_a_gap_in_9_ways_whose_probabilities_sum_to_1_whoever_draws_them():
    lm = tiny()
    by = lm._length_estimator(ENCODED)
    assert isinstance(by, WeightedFillings)
    drawn = by.propose((2,), 0, 400)
    for part in (slice(0, None, 2), slice(1, None, 2)):
        rows, nll = drawn.rows[part].tolist(), drawn.masked_nll[part].tolist()
        seen = {tuple(row): each for row, each in zip(rows, nll, strict=True)}
        assert len(seen) == 9
        assert math.log(sum(math.exp(-each) for each in seen.values())) == pytest.approx(0, abs=1e-9)
    assert drawn.is_gap.tolist() == [False, False, True, True, False]


def test_every_fillings_weight_times_the_mean_of_both_modes_probabilities_is_its_joint_probability():
    lm = tiny()
    by = lm._length_estimator(ENCODED)
    assert isinstance(by, WeightedFillings)
    drawn, log_weights = by.propose((2,), 0, 64), by.draw((2,), 0, 64)
    joint = joint_nats(lm, drawn.rows, 2)
    alone = joint_nats(lm, drawn.rows[:, :4], 2)
    q = (drawn.masked_nll.neg().exp() + alone.neg().exp()) / 2
    assert (log_weights + q.log()).tolist() == pytest.approx((-joint).tolist(), abs=1e-6)


@pytest.mark.slow
def test_the_length_is_the_exact_one_of_10_networks_where_the_best_is_clear():
    num_clear, seed, encoded = 0, 0, [[0], Gap(1, 3), [1, 2]]
    while num_clear < 10:
        lm, seed = tiny(seed, std=0.5), seed + 1
        exact = {lengths: exact_nats(lm, encoded, lengths) for lengths in length_choices(encoded)}
        best, second = sorted(exact.values())[:2]
        if second - best < 0.3:
            continue
        num_clear += 1
        lengths, costs = lm.choose_lengths(encoded, 512)
        assert costs is not None
        assert costs.likelihood == "left to right"
        assert costs.chosen == lengths
        assert costs.is_settled
        assert exact[lengths] == best
        assert all(abs(costs.nats[n] - exact[n]) <= 4 * costs.errors[n] + 0.02 for n in exact)


class Fixed:
    """A network of both modes that knows what each place holds, whatever stands elsewhere: probabilities (L, V)."""

    modes = frozenset({"masked", "causal"})

    def __init__(self, probs: list[list[float]]) -> None:
        self.logits = torch.tensor(probs, dtype=torch.float64).log()
        self.max_length, self.vocab_size = self.logits.shape

    def hidden(self, z_t: torch.Tensor, *more: torch.Tensor) -> torch.Tensor:
        del more
        return self.logits[: z_t.shape[1]].expand(len(z_t), -1, -1)

    __call__ = hidden

    def output_layer(self) -> tuple[torch.Tensor, None]:
        return torch.eye(self.vocab_size, dtype=torch.float64), None


def test_one_fillings_joint_probability_would_choose_1_where_the_sum_chooses_3():
    """Every filling sums to 1, so that only the given b counts: 0.3 at place 2, 0.6 at place 4."""
    third = [1 / 3, 1 / 3, 1 / 3]
    lm = MaskedDiffusionLM(
        Fixed([third, third, [0.4, 0.3, 0.3], [0.7, 0.1, 0.2], [0.2, 0.6, 0.2]]), CharTokenizer("ab")
    )
    encoded = lm.encode_template("a[MASK:1-3]b")
    start, choices = 1, length_choices(encoded)
    best_filling = {n: joint_nats(lm, fillings(lm, encoded, n), start).min().item() for n in choices}
    assert min(best_filling, key=lambda n: best_filling[n]) == (1,)
    way = lm.infill("a[MASK:1-3]b")
    assert way.lengths == (3,)
    assert way.length_costs is not None
    assert way.length_costs.is_settled
    assert way.length_costs.nats == pytest.approx({(n,): -math.log(p) for n, p in ((1, 0.3), (2, 0.1), (3, 0.6))})
    assert max(way.length_costs.errors.values()) < 1e-9
    assert set(way.length_costs.num_draws.values()) == {64}


def test_where_all_lengths_are_alike_it_is_not_settled_and_is_said():
    lm = MaskedDiffusionLM(Fixed([[1 / 3] * 3] * 6), CharTokenizer("ab"))
    way = lm.infill("a[MASK:1-3]b")
    assert way.length_costs is not None
    assert not way.length_costs.is_settled
    assert set(way.length_costs.num_draws.values()) == {1024}
    assert "lengths not settled" in repr(way)


class Drawn:
    """An estimator whose draws are noise around known costs."""

    likelihood: ClassVar[str] = "left to right"
    knows_its_error: ClassVar[bool] = True
    first_draws: int = 32

    def __init__(self, costs: dict[Lengths, float]) -> None:
        self.costs = costs

    def draw(self, lengths: Lengths, start: int, stop: int) -> torch.Tensor:
        noise = torch.randn(1024, generator=torch.Generator().manual_seed(sum(lengths)), dtype=torch.float64)
        return self.costs[lengths] + noise[start:stop]

    def estimate(self, values: torch.Tensor) -> Estimate:
        return Estimate(values.mean().item(), (values - values.mean()) / len(values), len(values) - 1)


def test_what_is_clearly_not_the_least_gets_no_more_draws():
    found = compare_lengths([(1,), (2,), (3,)], Drawn({(1,): 0.0, (2,): 9.0, (3,): 0.3}), max_draws=1024)
    assert found.num_draws[2,] == 32
    assert found.num_draws[1,] == found.num_draws[3,] > 32
    assert found.is_settled
    assert found.chosen == (1,)
    few = compare_lengths([(1,), (3,)], Drawn({(1,): 0.0, (3,): 0.01}), max_draws=100)
    assert few.num_draws == {(1,): 64, (3,): 64}
    assert not few.is_settled


class Chain:
    """A network of tables, exact in both modes: each token follows from the one before it, with these probabilities.

    `sharpness` below 1 flattens what the masked mode says: its proposals are poor then.
    """

    def __init__(self, follows: torch.Tensor, modes: set[str], sharpness: float = 1.0) -> None:
        self.follows, self.modes, self.sharpness = follows, frozenset(modes), sharpness
        self.max_length, self.vocab_size = 16, len(follows)

    def hidden(self, z_t: torch.Tensor, *t: torch.Tensor | None) -> torch.Tensor:
        first, rest = torch.full((len(z_t), 1, self.vocab_size), 1 / self.vocab_size, dtype=torch.float64), z_t[:, :-1]
        if not t:  # left to right
            return torch.cat([first, self.follows[rest]], dim=1).log()
        every = torch.ones(self.vocab_size + 1, self.vocab_size, dtype=torch.float64)  # a mask fits all
        every[:-1] = torch.eye(self.vocab_size)
        fits = every[z_t].unbind(1)
        before, after = [first[:, 0]], [torch.ones_like(first[:, 0])]
        for place in range(1, z_t.shape[1]):
            before.append((before[-1] * fits[place - 1]) @ self.follows)
            after.append((after[-1] * fits[-place]) @ self.follows.T)
        return self.sharpness * (torch.stack(before, 1) * torch.stack(after[::-1], 1)).log()

    __call__ = hidden

    def output_layer(self) -> tuple[torch.Tensor, None]:
        return torch.eye(self.vocab_size, dtype=torch.float64), None

    def nats(self, before: int, after: list[int], gap: int) -> float:
        """-log p(after | before, a gap of so many tokens), by the power of the table."""
        total = -torch.linalg.matrix_power(self.follows, gap + 1)[before, after[0]].log().item()
        return total - sum(self.follows[x, y].log().item() for x, y in itertools.pairwise(after))


def in_a_ring(size: int, share: float) -> torch.Tensor:
    """The next of so many tokens with probability `share`; else any."""
    return share * torch.eye(size, dtype=torch.float64).roll(1, 1) + (1 - share) / size


MODES = {"both modes": {"masked", "causal"}, "masked mode": {"masked"}}


@pytest.mark.parametrize("modes", MODES)
@pytest.mark.parametrize(("size", "share", "sharpness"), [(5, 0.9, 1.0), (5, 0.7, 0.6), (3, 0.9, 0.8)])
def test_on_a_chain_all_of_4_seeds_choose_the_length_that_the_power_of_its_table_says(size, share, modes, sharpness):
    chain = Chain(in_a_ring(size, share), MODES[modes], sharpness)
    lm = MaskedDiffusionLM(chain, CharTokenizer("abcd"[: size - 1]))
    encoded = lm.encode_template("a[MASK:1-4]ab")
    exact = {(n,): chain.nats(encoded[0][0], encoded[2], n) for n in range(1, 5)}  # type: ignore[index,arg-type]
    best = min(exact, key=lambda lengths: exact[lengths])
    for seed in range(4):
        lengths, costs = lm.choose_lengths(encoded, 1024, seed)
        assert costs is not None
        assert (lengths, costs.is_settled) == (best, True)
        assert costs.margin == costs.total(costs.second) - costs.total(best) > 2 * costs.margin_error
        assert costs.prior_nats == pytest.approx(dict.fromkeys(exact, math.log(4)))
        if costs.likelihood == "left to right":
            errors = {n: math.hypot(costs.errors[n], 1 / costs.num_draws[n]) for n in exact}
            assert all(abs(costs.nats[n] - exact[n]) < 5 * errors[n] for n in exact)


@pytest.mark.parametrize("margin", [0.0, 0.03])
def test_of_200_choices_with_noise_as_large_as_their_difference_at_most_1_in_50_is_called_settled_and_wrong(margin):
    class Noisy(Drawn):
        def __init__(self, seed: int) -> None:
            super().__init__({(1,): 0.0, (2,): margin, (3,): 0.5})
            self.seed = seed

        def draw(self, lengths: Lengths, start: int, stop: int) -> torch.Tensor:
            generator = torch.Generator().manual_seed(1000 * self.seed + lengths[0])
            return self.costs[lengths] + torch.randn(1024, generator=generator, dtype=torch.float64)[start:stop]

    found = [compare_lengths([(1,), (2,), (3,)], Noisy(seed), max_draws=1024) for seed in range(200)]
    least = [costs for costs in found if costs.chosen == (1,)]
    wrong = [costs for costs in found if costs.is_settled and (margin == 0 or costs.chosen != (1,))]
    assert 80 < len(least) < 195
    assert len(wrong) <= 4
    assert sum(not costs.is_settled for costs in found) > 100
    assert all(costs.chosen != (3,) for costs in found)


@pytest.mark.slow
def test_of_a_trained_model_20_seeds_choose_one_length_wherever_it_is_called_settled(masked):
    num_settled = 0
    for template in ("the [MASK:1-4]at sat", "a [MASK:1-3] mat", "th[MASK:1-3]cat"):
        encoded = masked.encode_template(template)
        found = [masked.choose_lengths(encoded, 256, seed)[1] for seed in range(20)]
        settled = {costs.chosen for costs in found if costs.is_settled}
        num_settled += sum(costs.is_settled for costs in found)
        assert len(settled) <= 1, template
    assert num_settled >= 3


def test_another_length_seed_makes_other_draws_and_the_seed_of_the_texts_does_not(masked):
    first, same, other = (
        masked.infill("a [MASK:1-4] mat", seed=seed, length_seed=length_seed, length_draws=64).length_costs
        for seed, length_seed in ((0, 0), (1, 0), (0, 1))
    )
    assert first == same != other
    assert other.nats != first.nats
    with pytest.raises(UserError, match="length_seed is -1"):
        masked.infill("a [MASK:1-4] mat", length_seed=-1)


def lines_of(follows: torch.Tensor, letters: str, num_tokens: int, seed: int = 0) -> str:
    """A text that the chain of a table writes."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(num_tokens, generator=generator, dtype=torch.float64).tolist()
    ends, tokens = follows.cumsum(1).tolist(), [0]
    for draw in draws:
        tokens.append(next(index for index, end in enumerate(ends[tokens[-1]]) if draw < end))
    return "".join(letters[token] for token in tokens)


@functools.cache
def phrases_of_lines() -> Phrases:
    """Of a text of 200,000 tokens of the table below."""
    tokenizer = CharTokenizer("\nab")
    return count_phrases(np.array(tokenizer.encode(lines_of(LINES, "\nab", 200_000))), tokenizer)


# a line end follows a or b, never another one: a b line-end, and eos, which never comes
LINES = torch.tensor([[0, 0.9, 0.1, 0], [0.05, 0.05, 0.9, 0], [0.9, 0.05, 0.05, 0], [0.25, 0.25, 0.25, 0.25]]).double()
LINES = LINES.clamp_min(1e-6)


@pytest.mark.parametrize("modes", MODES)
def test_with_the_texts_prior_4_seeds_choose_the_length_that_one_line_most_likely_has_of_a_tables_text(modes):
    """Left to right p(given | n) is exact, and all of it that depends on n is the line end behind the gap: so is
    p(one line | n, given), by the table without the line end."""
    tokenizer = CharTokenizer("\nab")
    assert tokenizer.encode("\nab") == [0, 1, 2]
    lm = MaskedDiffusionLM(Chain(LINES, MODES[modes]), tokenizer)
    letters = LINES.clone()
    letters[:, 0] = letters[:, 3] = 0
    joint, alone = [], []
    for n in range(3, 7):
        within = torch.linalg.matrix_power(letters, n - 1)
        alone.append((LINES[0] @ within @ LINES[:, 0]).item())  # no line end in the gap, one behind it
        joint.append(torch.linalg.matrix_power(LINES, n + 1)[0, 0].item())
    lm.phrases = phrases_of_lines()
    template = "b\n[MASK:3-6]\na"
    exact = {(n,): -math.log(p) for n, p in enumerate(alone, start=3)}
    best = min(exact, key=lambda lengths: exact[lengths])
    uniform = lm.lay_out(parse_template(template), 1024, length_prior="uniform").costs
    assert uniform is not None
    assert (best, uniform.prior) == ((3,), "uniform")
    if modes == "both modes":
        assert (uniform.chosen, uniform.is_settled) == ((5,), True)  # two lines
    for n, both in enumerate(joint, start=3):  # the prior is the share of stretches that are one line, from the sample
        of_one_line = lm.phrases.nats((SENTENCE, SENTENCE), n)
        num = lm.phrases.units[n - 1, SENTENCE, SENTENCE]
        assert of_one_line == pytest.approx(-math.log(alone[n - 3] / both), abs=4 / math.sqrt(num + 1))
    for seed in range(4):
        costs = lm.lay_out(parse_template(template), 1024, seed).costs
        assert costs is not None
        assert (costs.chosen, costs.prior) == (best, "text")
        assert sum(math.exp(-nats) for nats in costs.prior_nats.values()) == pytest.approx(1)
        if modes == "both modes":
            assert costs.is_settled
            excess = {n: costs.total(n) - costs.total(best) - exact[n] + exact[best] for n in exact}
            assert all(abs(nats) < 0.15 + 4 * costs.errors[n] for n, nats in excess.items())


def test_where_no_filling_that_was_drawn_is_possible_nothing_is_settled_and_no_number_is_nan():
    class Impossible(Drawn):
        def estimate(self, values: torch.Tensor) -> Estimate:
            return WeightedFillings.estimate(self, values - math.inf)  # type: ignore[arg-type]

    costs = compare_lengths([(1,), (2,)], Impossible({(1,): 0.0, (2,): 0.0}), max_draws=64)
    assert (costs.margin, costs.is_settled, costs.nats) == (0.0, False, {(1,): math.inf, (2,): math.inf})
    assert not math.isnan(costs.margin_error)


def test_the_prior_counts_in_what_is_settled():
    by = Drawn({(1,): 0.0, (2,): 0.01, (3,): 5.0})
    plain = compare_lengths([(1,), (2,), (3,)], by, max_draws=256)
    assert not plain.is_settled
    priors: list[tuple[Lengths, dict[Lengths, float]]] = [
        ((1,), {(1,): 1.0, (2,): 9.0, (3,): 2.0}),
        ((3,), {(1,): 9.0, (2,): 9.0, (3,): 0.0}),
    ]
    for best, prior in priors:
        costs = compare_lengths([(1,), (2,), (3,)], by, max_draws=256, prior=prior.__getitem__)
        assert (costs.chosen, costs.is_settled, costs.prior) == (best, True, "text")
        assert costs.nats[1,] == plain.nats[1,] or costs.num_draws[1,] < plain.num_draws[1,]
        assert costs.margin == pytest.approx(costs.total(costs.second) - costs.total(best))
        exact = {n: by.costs[n] + prior[n] for n in prior}
        assert costs.margin == pytest.approx(sorted(exact.values())[1] - exact[best], abs=1)


def test_gaps_side_by_side_have_the_prior_of_one_and_a_model_without_counts_says_so(masked):
    parts = parse_template("the [MASK:1-2][MASK:2-3], sat, [MASK:1-2].")
    assert masked.phrases is not None
    prior = prior_of(masked.phrases, parts)
    together = masked.phrases.nats((WORD, PHRASE), 4)
    assert prior((1, 3, 1)) == prior((2, 2, 1)) == together + masked.phrases.nats((PHRASE, SENTENCE), 1)
    assert masked.infill("the [MASK:1-2] sat").length_costs.prior == "text"
    assert masked.infill("the [MASK:1-2] sat", length_prior="uniform").length_costs.prior == "uniform"
    bare = MaskedDiffusionLM(Fixed([[1 / 3] * 3] * 6), CharTokenizer("ab"))
    found = bare.infill("a[MASK:1-3]b", length_draws=64).length_costs
    assert found is not None
    assert found.prior == "uniform"
    with pytest.raises(UserError, match="`length_prior='text'`: the phrases of this model's training text were not"):
        bare.infill("a[MASK:1-3]b", length_prior="text")


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_quick_choice_by_8_draws_estimates_the_same_sum_without_bias(template: str):
    encoded, lm = TEMPLATES[template], tiny()
    for lengths in length_choices(encoded):
        by = lm._length_estimator(encoded, max_draws=8)
        assert isinstance(by, QuickFillings)
        assert by.first_draws == 8
        log_shares = by.draw(lengths, 0, 400)
        shares = log_shares.exp()
        exact = math.exp(-exact_nats(lm, encoded, lengths))
        assert abs(shares.mean().item() - exact) <= 3.5 * shares.std().item() / math.sqrt(400) + 1e-12
        found = by.estimate(log_shares)
        assert found.nats == pytest.approx(-math.log(exact), abs=4 * found.error + 1e-9)


@pytest.mark.parametrize("modes", ["both modes", "masked"])
@pytest.mark.parametrize(("asked", "taken"), [(1, 2), (7, 8), (8, 8), (63, 64), (64, 64)])
def test_of_few_draws_none_more_are_drawn_than_asked_for_and_one_to_make_them_even(modes: str, asked: int, taken: int):
    lm = tiny()
    if modes == "masked":
        lm = MaskedDiffusionLM(ATATDiT(4, 6, num_layers=1, width=8, num_heads=2), CharTokenizer("abc"))
    way = lm.infill("a[MASK:1-3]b", length_draws=asked)
    assert way.length_costs is not None
    assert set(way.length_costs.num_draws.values()) == {taken}


@pytest.mark.parametrize("draws", [8, 62])
def test_a_quick_choice_is_never_called_settled_though_one_of_the_same_costs_by_64_draws_is(draws: int):
    """Every draw of a table finds the same sum, so that the error is 0: of a quick one that says nothing."""
    third = [1 / 3, 1 / 3, 1 / 3]
    lm = MaskedDiffusionLM(
        Fixed([third, third, [0.4, 0.3, 0.3], [0.7, 0.1, 0.2], [0.2, 0.6, 0.2]]), CharTokenizer("ab")
    )
    quick, careful = (lm.infill("a[MASK:1-3]b", length_draws=num).length_costs for num in (draws, 64))
    assert quick is not None
    assert careful is not None
    assert quick.nats == pytest.approx(careful.nats)
    assert (quick.chosen, quick.is_settled) == ((3,), False)
    assert (careful.chosen, careful.is_settled) == ((3,), True)
