import math
from dataclasses import replace

import pytest
import torch

from mdlm_atat.errors import UserError
from mdlm_atat.scoring.cost import ScheduleBound
from mdlm_atat.scoring.draws import BLOCK_SIZE, DrawSettings
from mdlm_atat.scoring.exact import exact_nll
from mdlm_atat.scoring.likelihood import Likelihood, draw_nll
from mdlm_atat.scoring.paired import compare, paired_deciles, paired_difference
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
    )


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
    for seed in range(40):
        likelihoods = [masked(denoise, 480, seed) for denoise in (cooled(JOINT, 0.9), JOINT.denoise)]
        found = paired_difference(*(record(part, seed=seed) for part in likelihoods))
        assert found.num_draws == 480
        differences.append(found.nats_per_token)
        errors.append(found.standard_error)
        unpaired.append(found.unpaired_error)
    spread = torch.tensor(differences, dtype=torch.float64)
    assert sum(errors) / 40 < sum(unpaired) / 40 / 5
    assert spread.std().item() == pytest.approx(sum(errors) / 40, rel=0.4)
    assert spread.mean().item() > 3 * sum(errors) / 40 / math.sqrt(40)  # the joint's own conditionals are the best


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
        ({"tokenizer_hash": "1"}, "compare bits per character"),
    ],
)
def test_evaluations_of_other_draws_are_refused_with_all_that_differs(changed, message):
    mine = record(masked(JOINT.denoise, 32))
    seed = changed.pop("seed", 0)
    with pytest.raises(UserError, match=message):
        paired_difference(mine, replace(mine, seed=seed, text=replace(mine.text, **changed)))


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
