import math
from dataclasses import replace

import pytest
import torch

from mdlm_atat.errors import UserError
from mdlm_atat.report.eval_lines import comparison_lines, difference_lines
from mdlm_atat.scoring.cost import OrderCost, ScheduleBound, SequenceSums
from mdlm_atat.scoring.draws import BLOCK_SIZE, DrawSettings
from mdlm_atat.scoring.exact import exact_nll
from mdlm_atat.scoring.likelihood import Likelihood, Sequences, draw_nll
from mdlm_atat.scoring.paired import compare, mean_order_difference, paired_deciles, paired_difference
from mdlm_atat.scoring.records import BlockSums, DecileCosts, Evaluation, PairedDifference, TextIdentity
from toys import CausalTable, Joint, ListRows

JOINT = Joint.random(length=3, vocab=3)
GROUPS = torch.eye(3, dtype=torch.float64)
NUM_DRAWS = 96 * 20


TEXT = TextIdentity(split="valid", corpus_hash="c0ffee", tokenizer_hash="0", mode="wrap", length=3)
UNIFORM = ScheduleBound(strategy="uniform", nats_per_token=1.0)


def record(found: Likelihood, *, seed: int = 0, schedule: ScheduleBound | None = UNIFORM) -> Evaluation:
    """What an evaluation keeps of a likelihood, as far as pairing goes."""
    deciles = None
    if found.groups is not None:
        nats = tuple(nats for nats, _ in found.groups.ratios)
        deciles = DecileCosts(nats_per_token=nats, train_count_min=(1,), train_count_max=(2,), num_types=(3,))
    return Evaluation(
        kind=found.kind,
        nats_per_token=found.nats_per_token,
        schedule=schedule,
        blocks=BlockSums.of(found, None),
        deciles=deciles,
        num_sequences=96,
        text=TEXT,
        seed=seed,
        checkpoint="step-9",
        left_to_right=in_order(found) if found.sequences is not None else None,
    )


def in_order(found: Likelihood | Sequences, num: int | None = None) -> OrderCost:
    """What an evaluation keeps of the first sequences of an exact value."""
    sequences = found if isinstance(found, Sequences) else found.sequences
    assert sequences is not None
    first = Sequences(sequences.nats[:num], sequences.lengths[:num], sequences.rows[:num])
    sums = SequenceSums.of(first.nats.tolist(), first.lengths.tolist())
    return OrderCost(order="left_to_right", nats_per_token=first.ratio()[0], sequences=sums)


def cooled(joint: Joint, power: float):
    """A denoiser that is less sure than the joint is."""

    def denoise(z_t, t, lengths=None):
        return (joint.denoise(z_t, t).clamp_min(-20) * power).log_softmax(-1)

    return denoise


def masked(denoise, num_draws: int = NUM_DRAWS, seed: int = 0) -> Likelihood:
    return draw_nll(
        denoise, JOINT.rows(), mask_id=3, groups=GROUPS, draws=DrawSettings(num_draws=num_draws, seed=seed)
    ).likelihood()


def causal(num_draws: int = NUM_DRAWS, power: float = 1.0) -> Likelihood:
    table = CausalTable(JOINT)
    return exact_nll(
        lambda x: (table(x).clamp_min(-20) * power).log_softmax(-1),
        JOINT.rows(),
        groups=GROUPS,
        draws=DrawSettings(num_draws=num_draws),
    )


def test_a_model_is_no_better_than_itself_exactly_and_without_error():
    mine = record(masked(JOINT.denoise))
    for bound in ("uniform", "own"):
        found = paired_difference(mine, mine, bound=bound)
        assert (found.nats_per_token, found.standard_error) == (0, 0)
        assert not found.is_significant
        assert found.unpaired_error > 0.01
    assert all((part.nats_per_token, part.standard_error) == (0, 0) for part in paired_deciles(mine, mine))
    exact = record(causal())
    assert paired_difference(exact, exact).nats_per_token == 0


def test_the_paired_error_is_a_fifth_of_the_unpaired_and_is_the_spread_over_seeds():
    differences, errors, unpaired = [], [], []
    for seed in range(24):
        likelihoods = [masked(denoise, 480, seed) for denoise in (cooled(JOINT, 0.9), JOINT.denoise)]
        found = paired_difference(*(record(part, seed=seed) for part in likelihoods))
        assert found.num_draws == 480
        differences.append(found.nats_per_token)
        errors.append(found.standard_error)
        unpaired.append(found.unpaired_error)
    spread = torch.tensor(differences, dtype=torch.float64)
    assert sum(errors) < sum(unpaired) / 5
    assert spread.std().item() == pytest.approx(sum(errors) / 24, rel=0.4)
    assert spread.mean().item() > 3 * sum(errors) / 24 / math.sqrt(24)  # the joint's own conditionals are the best


def test_what_is_stored_gives_the_difference_of_the_bounds_to_7_digits():
    found = [masked(cooled(JOINT, 0.5)), masked(JOINT.denoise)]
    difference = paired_difference(record(found[0]), record(found[1]))
    assert difference.nats_per_token == pytest.approx(found[0].nats_per_token - found[1].nats_per_token, abs=1e-7)
    each = paired_deciles(record(found[0]), record(found[1]))
    costs = [part.groups for part in found]
    assert costs[0] is not None
    assert costs[1] is not None
    for group, part in enumerate(each):
        expected = costs[0].ratios[group][0] - costs[1].ratios[group][0]
        assert part.nats_per_token == pytest.approx(expected, abs=1e-7)


def test_a_bound_of_exact_conditionals_is_no_different_from_the_exact_value_over_the_same_sequences():
    found = paired_difference(record(masked(JOINT.denoise)), record(causal()))
    assert found.kinds == ("nelbo", "exact")
    assert abs(found.nats_per_token) < 4 * found.standard_error  # both are the entropy
    assert not found.is_significant
    assert found.standard_error < found.unpaired_error
    back = paired_difference(record(causal()), record(masked(JOINT.denoise)))
    assert back.nats_per_token == -found.nats_per_token


def test_blocks_of_the_exact_value_hold_the_sequences_that_the_bound_draws():
    drawn, exact = masked(JOINT.denoise), causal()
    assert exact.num_draws == 96
    assert exact.blocks.length.equal(drawn.blocks.length)
    assert len(exact.blocks.score) == NUM_DRAWS // BLOCK_SIZE
    # every epoch takes all of them once, and 96 is a whole number of blocks
    assert exact.blocks.score.view(20, -1).sum(1).allclose(exact.blocks.score[:6].sum())
    assert exact.blocks.ratio()[0] == pytest.approx(exact.nats_per_token, abs=1e-12)


def test_two_exact_values_are_compared_over_each_sequence_once():
    found = paired_difference(record(causal(power=0.5)), record(causal()))
    assert found.num_draws == 96
    expected = causal(power=0.5).nats_per_token - JOINT.entropy_nats / 3
    assert found.nats_per_token == pytest.approx(expected, abs=1e-6)
    assert found.is_significant


def test_of_two_numbers_of_draws_the_first_ones_that_both_have_are_compared():
    few, many = record(masked(JOINT.denoise, 320)), record(masked(cooled(JOINT, 0.9)))
    found = paired_difference(many, few)
    assert found.num_draws == 320
    assert found == paired_difference(record(masked(cooled(JOINT, 0.9), 320)), few)


def test_a_method_that_leaks_has_no_bound_of_its_own_to_compare():
    leaky = record(masked(JOINT.denoise), schedule=None)
    with pytest.raises(UserError, match="no bound under its own masking schedule"):
        paired_difference(leaky, leaky, bound="own")
    assert paired_difference(leaky, leaky).nats_per_token == 0


def test_the_own_bound_is_taken_from_the_schedules_draws_where_there_are_some():
    mine = record(masked(JOINT.denoise))
    assert mine.blocks is not None
    sums = zip(mine.blocks.score, mine.blocks.length, strict=True)
    dearer = tuple(score + 0.25 * length for score, length in sums)
    other = replace(mine, blocks=replace(mine.blocks, schedule_score=dearer))
    assert paired_difference(other, mine, bound="own").nats_per_token == pytest.approx(0.25, abs=1e-6)
    assert paired_difference(other, mine).nats_per_token == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"corpus_hash": "deadbeef"}, r"differ in the text, or its tokens \(corpus_hash: c0ffee and deadbeef\)"),
        ({"seed": 1, "length": 4}, r"differ in the length of a sequence .*, the seed of the draws \(seed: 0 and 1\)"),
        ({"tokenizer_hash": "1", "corpus_hash": "2"}, "compare bits per character"),
    ],
)
def test_evaluations_of_other_draws_are_refused_with_all_that_differs(changed, message):
    mine = record(masked(JOINT.denoise, 32))
    seed = changed.pop("seed", 0)
    with pytest.raises(UserError, match=message):
        paired_difference(mine, replace(mine, seed=seed, text=replace(mine.text, **changed)))


def test_one_text_in_the_same_tokens_is_paired_whatever_the_hash_of_the_tokenizer_was_of():
    mine = record(masked(JOINT.denoise, 32))
    before = replace(mine, text=replace(mine.text, tokenizer_hash="as an earlier version hashed it"))
    assert paired_difference(mine, before).nats_per_token == 0


def test_other_sequences_under_the_same_name_and_records_without_blocks_are_refused():
    mine = record(masked(JOINT.denoise, 32))
    assert mine.blocks is not None
    longer = replace(mine, blocks=replace(mine.blocks, length=(48.0, 49.0)))
    with pytest.raises(UserError, match="different sequences, though they say"):
        paired_difference(mine, longer)
    with pytest.raises(UserError, match=r"the second evaluation holds no sums by block.*run `evaluate\(...\)` again"):
        paired_difference(mine, replace(mine, blocks=None))


def test_deciles_of_models_of_other_training_text_are_refused():
    mine = record(masked(JOINT.denoise, 32))
    assert mine.deciles is not None
    with pytest.raises(UserError, match="the models' training text differs"):
        paired_deciles(mine, replace(mine, deciles=replace(mine.deciles, train_count_min=(7,))))
    with pytest.raises(UserError, match="the first evaluation has no deciles"):
        paired_deciles(replace(mine, deciles=None), mine)


def test_an_evaluation_compares_itself_and_tells_all_differences_at_once():
    mine, other = record(masked(cooled(JOINT, 0.5), 320)), record(masked(JOINT.denoise, 320))
    assert mine.compare(other) == paired_difference(mine, other)
    found = compare(mine, other, name="b")
    assert (found.uniform, found.own, found.notes) == (mine.compare(other), None, ())
    assert found.deciles == tuple(paired_deciles(mine, other))
    assert mine.blocks is not None
    own = replace(mine, blocks=replace(mine.blocks, schedule_score=mine.blocks.score))
    assert compare(own, other, name="b").own == mine.compare(other)
    leaky = compare(own, replace(other, schedule=None, deciles=None), name="b")
    assert (leaky.own, leaky.deciles) == (None, None)
    assert "step-9 has no bound of its own to compare" in leaky.notes[0]
    assert "the second evaluation has no deciles" in leaky.notes[1]


def test_padded_rows_pair_by_their_tokens():
    rows = ListRows(JOINT.rows().ids, JOINT.rows().lengths.copy())
    rows.lengths[::2] = 2

    def uniform(bias: float):
        def denoise(z_t, t, lengths=None):
            logits = torch.zeros(*z_t.shape, 3, dtype=torch.float64)
            logits[..., 0] = bias
            return logits

        return denoise

    found = [
        draw_nll(uniform(b), rows, mask_id=3, groups=GROUPS, draws=DrawSettings(num_draws=96 * 4)).likelihood()
        for b in (0.1, 0)
    ]
    difference = paired_difference(record(found[0]), record(found[1]))
    expected = found[0].nats_per_token - math.log(3)
    assert difference.nats_per_token == pytest.approx(expected, abs=1e-6)


def test_with_two_blocks_three_standard_errors_are_no_difference_and_with_a_hundred_they_are():
    few, many = (
        PairedDifference(
            nats_per_token=0.3, standard_error=0.1, unpaired_error=0.2, num_draws=16 * blocks, kinds=("nelbo", "nelbo")
        )
        for blocks in (2, 100)
    )
    assert (few.degrees, few.is_significant) == (1, False)  # t(1) is 12.7
    assert (many.degrees, many.is_significant) == (99, True)


def of_20(power: float, num: int = 20) -> Evaluation:
    """A causal model's exact value of 20 sequences, which the draws take more than once."""
    rows = ListRows(JOINT.rows().ids[[37 * place % 96 for place in range(num)]])
    table = CausalTable(JOINT)
    draws = DrawSettings(num_draws=64)
    found = exact_nll(lambda x: (table(x).clamp_min(-20) * power).log_softmax(-1), rows, groups=GROUPS, draws=draws)
    return replace(record(found), num_sequences=num)


def test_of_two_causal_models_on_20_sequences_the_difference_is_that_of_their_exact_values_with_an_error():
    a, b = of_20(0.5), of_20(1.0)
    found = compare(a, b, name="b")
    assert found.uniform.nats_per_token == pytest.approx(a.nats_per_token - b.nats_per_token, abs=1e-7)
    assert (found.uniform.num_draws, found.uniform.degrees) == (20, 19)
    assert 0 < found.uniform.standard_error < 1
    assert (found.orders, found.notes) == ((), ())


@pytest.mark.parametrize("num", [2, 3, 5, 17, 20, 60])
def test_of_a_few_exact_sequences_every_difference_is_exact_by_token_frequency_too_and_none_is_not_a_number(num):
    a, b = of_20(0.5, num), of_20(1.0, num)
    found = compare(a, b, name="b")
    assert found.deciles is not None
    assert a.deciles is not None
    assert b.deciles is not None
    parts = [found.uniform, *found.deciles]
    values = [a.nats_per_token - b.nats_per_token]
    values += [x - y for x, y in zip(a.deciles.nats_per_token, b.deciles.nats_per_token, strict=True)]
    assert [part.nats_per_token for part in parts] == pytest.approx(values, abs=1e-6, nan_ok=True)
    assert found.uniform.standard_error > 0
    known = [part for part in parts if not math.isnan(part.nats_per_token)]  # of 2 sequences, kinds that are not there
    assert len(known) >= (2 if num < 17 else 4)
    assert all(part.num_draws == num and part.standard_error >= 0 for part in known)
    assert all(part.kinds == ("exact", "exact") for part in parts)
    assert not any("nan" in line or "finite" in line for line in comparison_lines(found))


def test_of_a_single_sequence_the_difference_is_exact_and_no_error_is_given_or_claimed():
    a, b = of_20(0.5, 1), of_20(1.0, 1)
    found = compare(a, b, name="b")
    assert found.uniform.nats_per_token == pytest.approx(a.nats_per_token - b.nats_per_token, abs=1e-7)
    assert not found.uniform.is_significant
    text = "\n".join(comparison_lines(found))
    assert "nan" not in text
    assert "over a single sequence, which leaves no error" in text


def test_the_line_of_deciles_says_where_an_exact_value_stands_against_a_bound():
    bound, exact = record(masked(JOINT.denoise, 320)), record(causal(320))
    for a, b, said in (
        (bound, exact, "a bound less an exact value; "),
        (exact, bound, "an exact value less a bound; "),
    ):
        assert said in comparison_lines(compare(a, b, name="b"))[-1]
    same = comparison_lines(compare(bound, bound, name="b"))[-1]
    assert same.endswith("(the rarest tokens first; *: more than chance allows)")


def test_a_model_that_diverged_is_compared_without_overflow():
    part = PairedDifference(
        nats_per_token=2000.0, standard_error=1.0, unpaired_error=1.0, num_draws=320, kinds=("exact", "exact")
    )
    assert "perplexity 1.01 × 10^306% above that of b" in difference_lines("PPL-U", "b", part)[0]


def test_the_error_between_sequences_is_that_of_their_differences():
    a, b = of_20(0.5), of_20(1.0)
    sums = [side.left_to_right.sequences for side in (a, b) if side.left_to_right is not None]
    each = torch.tensor(sums[0].score) - torch.tensor(sums[1].score)  # type: ignore[union-attr]
    found = paired_difference(a, b)
    assert found.standard_error == pytest.approx((each / 3).std().item() / 20**0.5, rel=1e-4)


def test_of_evaluations_without_sums_by_sequence_those_of_few_sequences_are_refused():
    def before(evaluation: Evaluation) -> Evaluation:
        assert evaluation.left_to_right is not None
        return replace(evaluation, left_to_right=replace(evaluation.left_to_right, sequences=None))

    with pytest.raises(UserError, match=r"no sums by sequence.*run `evaluate\(...\)` again"):
        paired_difference(before(of_20(0.5)), before(of_20(1.0)))
    found = paired_difference(before(record(causal(power=0.5))), before(record(causal())))
    assert (found.num_draws, found.num_groups) == (96, None)


def test_where_one_scored_more_sequences_the_first_whole_groups_of_both_are_compared():
    generator = torch.Generator().manual_seed(0)
    nats = torch.rand(3000, generator=generator, dtype=torch.float64)
    many = Sequences(nats, torch.full((3000,), 2), torch.arange(3000))
    more = Sequences(nats + 0.5, many.lengths, many.rows)
    found = mean_order_difference([(in_order(more), in_order(many, 1023))])
    assert found.nats_per_token == pytest.approx(0.25, abs=1e-6)  # of two tokens
    assert (found.num_draws, found.num_groups) == (1020, 255)
    assert found.standard_error < 1e-6
    with pytest.raises(UserError, match="3 sequences are too few"):
        mean_order_difference([(in_order(more), in_order(many, 3))])


def test_a_two_way_model_is_compared_left_to_right_with_a_causal_one_and_its_bound_with_the_bound():
    bound, exact = masked(JOINT.denoise, 320), causal(320, power=0.5)
    both = replace(record(bound), left_to_right=in_order(exact))
    found = compare(both, record(causal(320)), name="causal")
    assert found.uniform.kinds == ("nelbo", "exact")
    ((name, difference),) = [(order.name, order) for order in found.orders]
    assert (name, difference.kinds) == ("left to right", ("exact", "exact"))
    expected = exact.nats_per_token - causal(320).nats_per_token
    assert difference.nats_per_token == pytest.approx(expected, abs=1e-7)
    assert both.compare(record(causal(320)), bound="left_to_right").nats_per_token == difference.nats_per_token
    alone = compare(both, record(bound), name="masked")
    assert (alone.orders, alone.uniform.nats_per_token) == ((), 0)
    assert alone.notes == ("left to right: masked has no such value",)
    with pytest.raises(UserError, match="fills masks only"):
        record(bound).compare(both, bound="left_to_right")
