# ruff: noqa: ARG002 (stand-ins take what the real thing takes)
import functools
import itertools
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from exact import (
    CASES,
    CONTENT_FREE,
    JOINT,
    JOINTS,
    TIGHT,
    TILT,
    TOKEN_IDENTITY,
    TOKEN_IMPORTANCE,
    WHOLE_SEQUENCE,
    Case,
    ExactNetwork,
    OrderNetwork,
    adaptive,
    by_token,
    enumerated_bound,
    enumerated_order_bound,
    exact,
    order_network,
    time_nodes,
)
from torch import Tensor

from mdlm_atat.config.build import build_model, masking_traits, own_schedule, prepare_data
from mdlm_atat.config.schema import (
    CurriculumConfig,
    DataConfig,
    ImportanceConfig,
    MaskingConfig,
    ModelConfig,
    RunConfig,
)
from mdlm_atat.core.curriculum import CurriculumScheduler
from mdlm_atat.core.objective import MaskedDiffusion, TimePlan, denoise_under
from mdlm_atat.core.schedules import Cosine, Geometric, Linear, Polynomial
from mdlm_atat.core.strategies.by_importance import AdaptiveMaskingScheduler
from mdlm_atat.core.strategies.literal import LiteralMasking
from mdlm_atat.core.times import UniformTime, Weighting
from mdlm_atat.data.progress import Silent
from mdlm_atat.data.tokens import TokenDataset
from mdlm_atat.scoring.cost import TextCounts
from mdlm_atat.scoring.draws import DrawSettings
from mdlm_atat.scoring.likelihood import draw_nll
from mdlm_atat.scoring.schedule_bound import draw_schedule_nll, recorded_bound
from tiny_runs import write_text
from toys import Joint, ListRows

SCHEDULES = [Linear(), Cosine(), Geometric(), Polynomial(2.0)]


@functools.cache
def bound_of(case: Case, tilt: float = 0.0) -> float:
    return enumerated_bound(exact(case, JOINT, tilt=tilt))


# the bound and the entropy


@pytest.mark.parametrize("vocab", [3, 4])
@pytest.mark.parametrize("case", TIGHT, ids=repr)
def test_the_bound_is_the_entropy_to_1e_6_where_rates_know_no_more_than_the_token_and_its_place(case, vocab):
    joint = JOINTS[vocab]
    assert enumerated_bound(exact(case, joint)) == pytest.approx(joint.entropy_nats, abs=1e-6)


@pytest.mark.parametrize("vocab", [3, 4])
@pytest.mark.parametrize("case", WHOLE_SEQUENCE, ids=repr)
def test_the_bound_is_a_thousandth_to_a_tenth_of_a_nat_above_the_entropy_where_rates_read_the_whole_sequence(
    case, vocab
):
    joint = JOINTS[vocab]
    assert 1e-3 < enumerated_bound(exact(case, joint)) - joint.entropy_nats < 0.1


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("case", [CONTENT_FREE[3], TOKEN_IDENTITY[2], WHOLE_SEQUENCE[0]], ids=repr)
def test_the_noise_schedule_changes_the_bound_by_less_than_1e_6(case, schedule):
    network = exact(case, JOINT, tilt=TILT)  # told the mask rate
    found = enumerated_bound(network, case.make(schedule), nodes=time_nodes(100, power=3))
    assert found == pytest.approx(bound_of(case, TILT), abs=1e-6)


@pytest.mark.parametrize("tilt", [-0.3, 0.03])
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_both_networks_that_lean_away_from_the_exact_one_pay_more(case, tilt):
    assert bound_of(case, tilt) > bound_of(case) + 1e-5


@pytest.mark.parametrize("case", TOKEN_IDENTITY + WHOLE_SEQUENCE, ids=repr)
def test_without_its_rate_terms_the_number_is_a_tenth_of_a_nat_too_low_to_be_a_bound(case):
    assert enumerated_bound(exact(case, JOINT), with_rates=False) < JOINT.entropy_nats - 0.1


@pytest.mark.parametrize("make_case", [Case("token", adaptive("inverse")), WHOLE_SEQUENCE[2]], ids=repr)
def test_the_gap_grows_at_each_of_4_falling_temperatures(make_case):
    center = None if make_case.name == "token" else 0.5
    gaps = []
    for temperature in (2.0, 1.0, 0.5, 0.35):
        case = replace(make_case, make=adaptive("inverse", temperature, center=center))
        gaps.append(enumerated_bound(exact(case, JOINT)) - JOINT.entropy_nats)
    assert gaps[0] > 1e-5
    assert all(later > 1.4 * earlier for earlier, later in pairwise(gaps))


# its estimates


SOME_TILTED = [(case, 0.0) for case in CASES] + [(case, TILT) for case in CASES[::5]]


@pytest.mark.parametrize(("case", "tilt"), SOME_TILTED, ids=repr)
def test_6400_draws_estimate_the_enumerated_bound_within_four_standard_errors(case, tilt):
    network = exact(case, JOINT, tilt=tilt)
    draws = draw_schedule_nll(
        network,
        JOINT.rows(),
        masking=case.make(Linear()),
        stage=case.stage,
        mask_id=3,
        draws=DrawSettings(num_draws=6400, batch_size=6400),
    )
    (nats, error), (rate_nats, rate_error) = draws.nelbo(), draws.rate_nats()
    expected, tokens_alone = bound_of(case, tilt), enumerated_bound(network, with_rates=False)
    assert error < 0.0085
    assert abs(nats - expected / 3) < 4 * error
    assert abs(rate_nats - (expected - tokens_alone) / 3) < max(4 * rate_error, 1e-12)


# what differs between strategies is in their draws above: the training loss takes the same way with all of them
TRAINED = [(case, 0.0) for case in CASES[::2]] + [(case, TILT) for case in (TOKEN_IDENTITY[0], WHOLE_SEQUENCE[-1])]


@pytest.mark.parametrize(("case", "tilt"), TRAINED, ids=repr)
def test_the_training_loss_under_t_to_the_4_estimates_the_same_bound_within_four_standard_errors(case, tilt):
    # under the linear schedule a speed below 1 gives the estimate no finite variance
    schedule, density = Polynomial(4.0), UniformTime()
    plan = TimePlan(density, Weighting("elbo", schedule, density))
    one_stage = (
        None if case.stage is None else CurriculumScheduler((case.stage,), num_steps=1, boundaries=(), progress="step")
    )
    objective = MaskedDiffusion(schedule, lambda _: plan, JOINT.mask_id, case.make(schedule), curriculum=one_stage)
    network, generator = exact(case, JOINT, tilt=tilt), torch.Generator().manual_seed(0)
    x0 = JOINT.sequences.repeat_interleave(JOINT.counts, dim=0).repeat(10, 1)
    losses = []
    with torch.no_grad():
        for _ in range(30):
            draw = objective.draw(len(x0), 3, generator)
            shuffled = x0[torch.randperm(len(x0), generator=generator)]  # times go by the row, as data comes shuffled
            loss = objective.loss(network, shuffled, None, draw, num_tokens=x0.numel())
            assert loss.total.item() == pytest.approx(sum(term.item() for term in loss.terms.values()), rel=1e-5)
            losses.append(loss.total.item())
    error = float(np.std(losses, ddof=1)) / len(losses) ** 0.5
    assert error < 0.013
    assert abs(float(np.mean(losses)) - bound_of(case, tilt) / 3) < 4 * error


def test_a_curriculums_stage_changes_the_bound_it_is_scored_under_by_a_hundredth_of_a_nat():
    case = WHOLE_SEQUENCE[-1]
    assert case.stage is not None
    sharper = replace(case, stage=replace(case.stage, temperature=0.4))
    assert enumerated_bound(exact(sharper, JOINT)) > enumerated_bound(exact(case, JOINT)) + 0.01


def test_under_the_uniform_schedule_all_3200_draws_are_those_of_ppl_u():
    own = draw_schedule_nll(
        exact(CONTENT_FREE[0], JOINT),
        JOINT.rows(),
        masking=CONTENT_FREE[0].make(Linear()),
        mask_id=3,
        draws=DrawSettings(num_draws=3200),
    )
    plain = draw_nll(JOINT.denoise, JOINT.rows(), mask_id=3, draws=DrawSettings(num_draws=3200))
    torch.testing.assert_close(own.diffusion, plain.nll * 3 / plain.num_masked, atol=1e-9, rtol=1e-9)
    assert own.rates.abs().max() < 1e-12


# padding


class Unpadded(ExactNetwork):
    """Sees the three tokens of text, and must have been told that there are no more."""

    def importance(self, tokens: Tensor, score: Tensor | None) -> Tensor:
        return F.pad(super().importance(tokens[:, :3], score), (0, 2), value=1.0)

    def logits_and_log_speed(self, z_t: Tensor, t: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        assert lengths is not None
        assert (lengths == 3).all()
        logits, log_speed = super().logits_and_log_speed(z_t[:, :3], t)
        return F.pad(logits, (0, 0, 0, 2)), F.pad(log_speed, (0, 2), value=5.0)


class UnpaddedOrder(Unpadded, OrderNetwork):
    pass


@pytest.mark.parametrize("form", ["continuous", "order"])
def test_two_places_of_padding_leave_the_estimate_within_four_standard_errors(form):
    rows, case = JOINT.rows(), WHOLE_SEQUENCE[0]
    padded = ListRows(np.pad(rows.ids, ((0, 0), (0, 2)), constant_values=2), rows.lengths)
    masking = case.make(Linear())
    if form == "continuous":
        network, expected = Unpadded(JOINT, masking), enumerated_bound(exact(case, JOINT))
    else:
        network, expected = UnpaddedOrder(JOINT, masking), enumerated_order_bound(order_network(case, JOINT))
    nats, error = draw_schedule_nll(
        network, padded, masking=masking, mask_id=3, form=form, draws=DrawSettings(num_draws=12_800, batch_size=6400)
    ).nelbo()
    assert error < 0.006
    assert abs(nats - expected / 3) < 4 * error


# the trap: two equally likely tokens, masked at t and t^3

COIN = Joint(torch.tensor([[0], [1]]), torch.tensor([1, 1]))


def coin_masking(token_importance: Tensor | None = None) -> AdaptiveMaskingScheduler:
    """Exponents 1 and 3."""
    return AdaptiveMaskingScheduler(Linear(), "inverse", 1 / math.log(3), center=0.0, token_importance=token_importance)


def heads_or_tails(x0: Tensor) -> Tensor:
    return x0.double()


class PlainPosterior(ExactNetwork):
    """Answers with the distribution of a masked token, not of one that is revealed just then."""

    def logits_and_log_speed(self, z_t, t, lengths=None):
        posterior, speed = self.posterior(z_t, t)
        logits, _ = self.tilted(z_t, t, posterior[..., None].expand_as(speed))
        return logits, super().logits_and_log_speed(z_t, t)[1]


def test_a_fair_coin_masked_at_t_and_t_cubed_reads_0573_nats_without_rate_terms_and_0693_with_them():
    # The weights are the tokens' own, 1/t and 3/t, and the denoiser is the one that minimises that loss:
    # p(heads) = t / (t + 3 t^3). It codes the token only; when it is revealed says the rest, at the price of the rates.
    network = ExactNetwork(COIN, coin_masking(), heads_or_tails)
    assert enumerated_bound(network, with_rates=False) == pytest.approx(0.573, abs=5e-4)
    assert enumerated_bound(network) == pytest.approx(math.log(2), abs=1e-6)


def test_the_coin_reads_0319_nats_with_weight_1_over_t_for_both_sides_and_0693_if_told_how_likely_each_is_masked():
    t, dt = time_nodes()
    p_tails = t**3 / (t + t**3)  # of a masked coin
    literal = 0.5 * ((1 / t) * t * -(1 - p_tails).log() + (1 / t) * t**3 * -p_tails.log())
    assert (literal * dt).sum().item() == pytest.approx(0.319, abs=5e-4)
    # with the right weights this denoiser happens to read the entropy: it is not the one that training finds
    network = PlainPosterior(COIN, coin_masking(), heads_or_tails)
    assert enumerated_bound(network, with_rates=False) == pytest.approx(math.log(2), abs=1e-6)
    assert enumerated_bound(network) > math.log(2) + 0.1


@pytest.mark.parametrize("tilt", [-0.5, -0.1, 0.1, 0.5])
def test_with_rate_terms_none_of_4_wrong_networks_reads_a_coin_below_0693_nats(tilt):
    assert enumerated_bound(ExactNetwork(COIN, coin_masking(), heads_or_tails, tilt=tilt)) > math.log(2) + 1e-3


def test_6400_draws_of_the_coin_cost_0573_nats_for_the_token_and_0120_for_its_time_and_its_order_costs_nothing():
    network = ExactNetwork(COIN, coin_masking(), heads_or_tails)
    draws = draw_schedule_nll(
        network, COIN.rows(), masking=coin_masking(), mask_id=2, draws=DrawSettings(num_draws=6400, batch_size=6400)
    )
    (nats, error), (rate_nats, rate_error) = draws.nelbo(), draws.rate_nats()
    assert error < 0.02
    assert abs(nats - math.log(2)) < 4 * error
    assert abs(rate_nats - (math.log(2) - 0.5734)) < 4 * rate_error
    order = order_network(Case("coin", lambda _: coin_masking(), heads_or_tails), COIN)
    assert enumerated_order_bound(order) == pytest.approx(math.log(2), abs=1e-9)


LITERAL = [
    ("literal_importance", "inverse"),
    ("literal_importance", "proportional"),
    ("literal_importance", "balanced"),
    ("literal_curriculum", "proportional"),
]


@pytest.mark.parametrize(("kind", "direction"), LITERAL)
def test_the_documents_own_masking_reads_a_hundredth_of_a_nat_or_more_below_the_entropy(kind, direction):
    masking = LiteralMasking(Linear(), kind, direction, 0.5)
    stage = WHOLE_SEQUENCE[-1].stage if kind == "literal_curriculum" else None
    network = ExactNetwork(JOINT, masking, by_token, stage)
    assert enumerated_bound(network) < JOINT.entropy_nats - 0.01


@pytest.mark.parametrize(("kind", "direction"), LITERAL)
def test_none_of_the_4_documents_own_strategies_gets_a_ppl_s(kind, direction, tmp_path, monkeypatch):
    config = RunConfig(
        model=ModelConfig(num_layers=1, width=16, num_heads=2),
        importance=ImportanceConfig(mode="full", width=16, num_layers=1, num_heads=2),
        masking=MaskingConfig(strategy=kind, direction=direction),
        curriculum=CurriculumConfig(kind="fixed" if kind == "literal_curriculum" else "none"),
    )
    counts = np.arange(1, 8)
    network = build_model(config, 7, counts)
    assert own_schedule(config, 7, counts, network) is None
    masking = LiteralMasking(Linear(), kind, direction)
    with pytest.raises(Exception, match=r"masking|reveal_rate"):
        draw_schedule_nll(network, JOINT.rows(), masking=masking, mask_id=7, draws=DrawSettings(num_draws=32))  # pyright: ignore[reportArgumentType]

    monkeypatch.setenv("ATAT_CACHE", str(tmp_path / "cache"))
    source = DataConfig(source=str(write_text(tmp_path / "text.txt")), tokenizer="char", length=16)
    data = TokenDataset.open(prepare_data(source, Silent()), "valid", 16)
    found = draw_nll(JOINT.denoise, JOINT.rows(), mask_id=3, draws=DrawSettings(num_draws=32)).likelihood()
    strategy = config.masking.strategy
    is_bound = masking_traits(config).is_bound
    assert recorded_bound(None, found, TextCounts.of(data), strategy=strategy, is_bound=is_bound) is None


def test_an_importance_strategys_ppl_s_holds_its_rate_terms():
    case = WHOLE_SEQUENCE[0]
    own = draw_schedule_nll(
        exact(case, JOINT), JOINT.rows(), masking=case.make(Linear()), mask_id=3, draws=DrawSettings(num_draws=3200)
    )
    assert own.nelbo()[0] == pytest.approx((own.diffusion.sum() + own.rates.sum()).item() / 9600)
    assert own.rate_nats()[0] == pytest.approx(own.rates.sum().item() / 9600)
    assert own.rate_nats()[0] > 0.01


# a denoiser of the uniform schedule, corrected


def independent_tokens() -> Joint:
    """Three tokens of three kinds, each place with shares of its own, whole multiples of 1/1000."""
    shares = torch.tensor([[1, 3, 6], [5, 4, 1], [2, 2, 6]])
    sequences = torch.tensor(list(itertools.product(range(3), repeat=3)))
    return Joint(sequences, shares[torch.arange(3), sequences].prod(1))


class CorrectedNetwork(ExactNetwork):
    """Exact conditionals of the uniform schedule, and exact speeds."""

    joint = independent_tokens()

    def logits_and_log_speed(self, z_t, t, lengths=None):
        return self.joint.denoise(z_t, t), super().logits_and_log_speed(z_t, t)[1]


@pytest.mark.parametrize("direction", ["inverse", "proportional", "balanced"])
@pytest.mark.parametrize("temperature", [0.75, 2.0])
def test_for_independent_tokens_the_correction_of_the_logits_is_exact_to_1e_9(direction, temperature):
    joint = CorrectedNetwork.joint
    token_importance = TOKEN_IMPORTANCE[:3]
    masking = AdaptiveMaskingScheduler(Linear(), direction, temperature, center=0.4, token_importance=token_importance)
    corrected, network = CorrectedNetwork(joint, masking), ExactNetwork(joint, masking)
    z_t = torch.tensor(list(itertools.product(range(4), repeat=3)))
    masked = (z_t == 3)[..., None].expand(-1, -1, 3)
    for t in (1e-3, 0.2, 0.7, 1 - 1e-6):
        time = torch.full((len(z_t),), t, dtype=torch.float64)
        found, _ = denoise_under(masking, corrected, z_t, time.log(), time, None)
        expected, _ = network.logits_and_log_speed(z_t, time)
        torch.testing.assert_close(
            found.softmax(-1)[masked], expected.softmax(-1)[masked], atol=1e-9, rtol=0.0, check_dtype=False
        )
    assert enumerated_bound(corrected) == pytest.approx(joint.entropy_nats, abs=1e-6)
    uncorrected = AdaptiveMaskingScheduler(Linear(), direction, temperature, center=0.4)
    assert enumerated_bound(CorrectedNetwork(joint, uncorrected)) > joint.entropy_nats + 1e-3


ALL_THE_SAME = Joint(torch.arange(3)[:, None].expand(3, 3).clone(), torch.ones(3, dtype=torch.int64))


@pytest.mark.parametrize(("joint", "above"), [(JOINT, 0.0401), (ALL_THE_SAME, 0.1582)], ids=["random", "all the same"])
def test_of_dependent_tokens_a_perfect_denoiser_of_the_uniform_schedule_is_above_the_entropy_though_corrected(
    joint, above
):
    class Corrected(ExactNetwork):
        def logits_and_log_speed(self, z_t, t, lengths=None):
            return joint.denoise(z_t, t).clamp_min(-700), super().logits_and_log_speed(z_t, t)[1]

    importance = TOKEN_IMPORTANCE[[0, 1, 2]]
    told, corrected = (
        AdaptiveMaskingScheduler(Linear(), "inverse", 0.5, center=0.5, token_importance=table)
        for table in (None, importance)
    )
    assert enumerated_bound(ExactNetwork(joint, told)) == pytest.approx(joint.entropy_nats, abs=1e-5)
    assert enumerated_bound(Corrected(joint, corrected)) - joint.entropy_nats == pytest.approx(above, abs=2e-4)


COLD = pytest.mark.parametrize(
    ("direction", "temperature"), list(itertools.product(["inverse", "proportional"], [0.1, 0.05, 0.02]))
)


@COLD
def test_ppl_s_is_finite_with_corrected_logits_where_the_mask_rates_themselves_are_below_the_smallest_float64(
    direction, temperature
):
    class Unsure(ExactNetwork):  # predicts all speeds alike
        def logits_and_log_speed(self, z_t, t, lengths=None):
            return CorrectedNetwork.joint.denoise(z_t, t), torch.zeros(z_t.shape, dtype=torch.float64)

    joint, table = CorrectedNetwork.joint, TOKEN_IMPORTANCE[:3]
    masking = AdaptiveMaskingScheduler(Linear(), direction, temperature, center=0.5, token_importance=table)
    draws = draw_schedule_nll(
        Unsure(joint, masking),
        joint.rows(),
        masking=masking,
        mask_id=3,
        draws=DrawSettings(num_draws=6400, batch_size=6400),
    )
    nats, error = draws.nelbo()
    assert 0 < error < math.inf
    assert joint.entropy_nats / 3 - 4 * error < nats < math.inf


@COLD
def test_the_order_form_is_its_enumeration_within_four_standard_errors_there_too(direction, temperature):
    case = Case("cold", adaptive(direction, temperature, center=0.5))
    network, masking = order_network(case, JOINT), case.make(Linear())
    draws = draw_schedule_nll(
        network,
        JOINT.rows(),
        masking=masking,
        mask_id=3,
        form="order",
        draws=DrawSettings(num_draws=6400, batch_size=6400),
    )
    nats, error = draws.nelbo()
    assert abs(nats - enumerated_order_bound(network) / 3) < 4 * error


def test_a_coin_whose_denoiser_knows_no_time_but_is_corrected_reads_0693_nats():
    class Fair(ExactNetwork):
        def logits_and_log_speed(self, z_t, t, lengths=None):
            return torch.zeros(*z_t.shape, 2), super().logits_and_log_speed(z_t, t)[1]

    masking = coin_masking(torch.tensor([0.0, 1.0]))
    assert enumerated_bound(Fair(COIN, masking, heads_or_tails)) == pytest.approx(math.log(2), abs=1e-6)


def test_logits_in_bf16_are_corrected_to_a_thousandth_of_a_nat():
    masking = coin_masking(torch.tensor([0.0, 1.0]))
    logits = torch.tensor([[[0.5, -0.25]]]).bfloat16()  # exact in bf16

    class Coarse(ExactNetwork):
        def logits_and_log_speed(self, z_t, t, lengths=None):
            return logits, torch.zeros(1, 1)

    t = torch.tensor([1e-4], dtype=torch.float64)
    found, _ = denoise_under(
        masking, Coarse(COIN, masking, heads_or_tails), torch.tensor([[2]]), t.log(), t.float(), None
    )
    correction = masking.token_correction(t.log())
    assert correction is not None
    torch.testing.assert_close(found.double(), logits.double() + correction[:, None], atol=1e-3, rtol=0.0)
