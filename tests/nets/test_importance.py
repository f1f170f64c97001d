"""The importance estimator, its mix with the corpus prior, and whether it learns which tokens are hard."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mdlm_atat.config.arguments import read_config
from mdlm_atat.config.build import build_model, build_objective
from mdlm_atat.config.files import load_config
from mdlm_atat.config.schema import RunConfig
from mdlm_atat.core.importance_loss import importance_loss
from mdlm_atat.errors import UserError
from mdlm_atat.nets.dit import ATATDiT
from mdlm_atat.nets.estimator import AdaptiveImportanceEstimator, ImportanceEstimator

VOCAB, LENGTH = 13, 20
COUNTS = np.array([500, 200, 100, 80, 60, 40, 20, 10, 5, 3, 2, 1, 0])
TINY = {
    "data.length": LENGTH,
    "model.num_layers": 2,
    "model.width": 16,
    "model.num_heads": 2,
    "importance.width": 16,
    "importance.num_layers": 1,
    "importance.num_heads": 2,
}


def tiny_config(method: str, **changed: object) -> RunConfig:
    settings = {**TINY, **{path.replace("__", "."): value for path, value in changed.items()}}
    return read_config("char", method, settings, "test")


def tiny_model(method: str, **changed: object) -> ATATDiT:
    torch.manual_seed(0)
    network = build_model(tiny_config(method, **changed), VOCAB, COUNTS)
    assert isinstance(network, ATATDiT)
    return network.eval()


def shaken(network: ATATDiT) -> ATATDiT:
    """With other weights than the first ones, whose zeros would hide what a layer does."""
    generator = torch.Generator().manual_seed(1)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.3, generator=generator)
    return network


def some_tokens(rows: int = 3, length: int = LENGTH) -> Tensor:
    return torch.randint(0, VOCAB, (rows, length), generator=torch.Generator().manual_seed(0))


def score(network: ATATDiT, tokens: Tensor, t: Tensor, lengths: Tensor | None = None) -> Tensor:
    found = network.importance_score(tokens, t, lengths)
    assert found is not None
    return found


def num_parameters(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_the_estimator_of_a_768_wide_backbone_has_2_069_505_parameters_and_262_912_fewer_without_the_time():
    with torch.device("meta"):
        adaptive, plain = AdaptiveImportanceEstimator(768, 128), ImportanceEstimator(768, 128)
    assert num_parameters(adaptive) == 2_069_505
    assert num_parameters(plain) == 2_069_505 - 262_912 == 1_806_593


def test_atat_adds_less_than_2_percent_to_the_parameters_of_small():
    counts = np.ones(30_522, dtype=np.int64)
    with torch.device("meta"):
        configs = [load_config("small", method) for method in ("mdlm", "importance_rates")]
        plain, ours = (build_model(config, 30_522, counts) for config in configs)
    assert num_parameters(plain) == 108_441_600
    assert num_parameters(plain) < num_parameters(ours) < 1.02 * num_parameters(plain)


@pytest.mark.parametrize("through", ["adaln", "embedding"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_backbone_starts_from_the_same_weights_with_and_without_atat_s_parts(through, tied):
    # adaLN, where both are told the time, draws weights of its own in every block
    time: dict[str, object] = {"model__time_conditioning": True} if through == "adaln" else {}
    plain = dict(tiny_model("mdlm", model__tied=tied, **time).named_parameters())
    ours = dict(tiny_model("importance_rates", model__tied=tied, model__time_through=through).named_parameters())
    assert plain.keys() < ours.keys()
    assert all(ours[name].equal(p) for name, p in plain.items())
    added = {name.partition(".")[0] for name in ours.keys() - plain.keys()}
    assert added == {"estimator", "speed_head"} | ({"added_time"} if through == "embedding" else set())


def test_the_prior_reaches_importance_with_the_promised_share():
    tokens = some_tokens()
    full, learned, frequency = (tiny_model(mode) for mode in ("no_curriculum", "learned_only", "frequency_only"))
    f = torch.randn(tokens.shape, generator=torch.Generator().manual_seed(2))
    prior = frequency.importance(tokens, None)
    expected = torch.from_numpy(np.log(500 / np.maximum(COUNTS, 1)) / math.log(500)).float()[tokens]
    assert prior.allclose(expected, atol=1e-6)
    assert learned.importance(tokens, f).equal(f.sigmoid())
    assert full.importance(tokens, f).allclose(0.7 * f.sigmoid() + 0.3 * prior, atol=1e-6)
    shared = tiny_model("no_curriculum", importance__prior_share=0.9)
    assert shared.importance(tokens, f).allclose(0.1 * f.sigmoid() + 0.9 * prior, atol=1e-6)


@pytest.mark.parametrize("method", ["importance_rates", "learned_only", "frequency_only"])
def test_importance_lies_between_0_and_1_also_of_a_mask(method):
    network = shaken(tiny_model(method))
    tokens = some_tokens()
    tokens[:, ::4] = network.mask_id
    importance = network.importance(tokens, network.importance_score(tokens, torch.rand(3)))
    assert importance.shape == tokens.shape
    assert 0 <= importance.min() < importance.max() <= 1


def test_a_mask_has_the_mean_importance_of_the_training_text():
    network = tiny_model("frequency_only")
    by_token = network.importance(torch.arange(VOCAB)[None], None)[0].double()
    mean = (by_token * torch.from_numpy(COUNTS)).sum() / COUNTS.sum()
    assert network.importance(torch.tensor([[network.mask_id]]), None).item() == pytest.approx(mean.item(), abs=1e-6)


def test_an_untrained_estimator_says_one_half_of_every_token():
    network = tiny_model("learned_only")
    tokens = some_tokens()
    assert (network.importance(tokens, network.importance_score(tokens, torch.rand(3))) == 0.5).all()
    full = tiny_model("no_curriculum")
    prior = tiny_model("frequency_only").importance(tokens, None)
    found = full.importance(tokens, full.importance_score(tokens, torch.rand(3)))
    assert found.allclose(0.35 + 0.3 * prior, atol=1e-6)


def test_a_method_without_an_estimator_scores_nothing():
    assert tiny_model("frequency_only").importance_score(some_tokens(), torch.zeros(3)) is None
    assert tiny_model("mdlm").estimator is None


def test_the_estimator_s_loss_trains_the_estimator_and_nothing_else():
    network = shaken(tiny_model("importance_rates"))
    x0, nll = some_tokens(), torch.rand(3, LENGTH)
    z_t = torch.where(torch.arange(LENGTH) % 2 == 0, network.mask_id, x0)
    error, _ = importance_loss(network, x0, z_t, torch.full((3,), 0.5), None, nll, z_t != x0)
    error.backward()
    assert network.estimator is not None
    trained = {name for name, p in network.named_parameters() if p.grad is not None}
    assert trained == {f"estimator.{name}" for name, _ in network.estimator.named_parameters()}
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.estimator.parameters())


def test_the_adaptive_estimator_is_told_the_time_and_the_plain_one_is_not():
    tokens, early, late = some_tokens(), torch.full((3,), 0.1), torch.full((3,), 0.9)
    adaptive, plain = (shaken(tiny_model("learned_only", importance__time=time)) for time in (True, False))
    assert type(adaptive.estimator) is AdaptiveImportanceEstimator
    assert type(plain.estimator) is ImportanceEstimator
    difference = score(adaptive, tokens, early) - score(adaptive, tokens, late)
    assert difference.abs().amax(1).min() > 1e-2
    assert score(plain, tokens, early).equal(score(plain, tokens, late))


@pytest.mark.parametrize("time", [True, False])
def test_padding_does_not_change_a_row_s_scores(time):
    network = shaken(tiny_model("learned_only", importance__time=time))
    row, t = some_tokens(1, 9), torch.tensor([0.4])
    alone = score(network, row, t)
    padded = torch.cat([row, some_tokens(1, 11).flip(1)], dim=1)
    assert score(network, padded, t, torch.tensor([9]))[:, :9].allclose(alone, atol=1e-6)
    assert not score(network, padded, t, torch.tensor([20]))[:, :9].allclose(alone, atol=2e-5)


@pytest.mark.parametrize("method", ["importance_rates", "frequency_only"])
@pytest.mark.parametrize("counts", [None, COUNTS[:-1]], ids=["missing", "of another tokenizer"])
def test_a_prior_without_the_tokenizer_s_counts_is_one_clear_message(method, counts):
    with pytest.raises(UserError) as caught:
        build_model(tiny_config(method), VOCAB, counts)
    (message,) = str(caught.value).splitlines()
    assert f"needs the training counts of this tokenizer's {VOCAB} tokens" in message
    assert ("none are stored" if counts is None else f"those stored are of {VOCAB - 1} tokens") in message
    assert "restore counts.npy" in message


@pytest.mark.parametrize("method", ["mdlm", "learned_only", "position_slope"])
def test_a_method_without_a_prior_needs_no_counts(method):
    build_model(tiny_config(method), VOCAB, None)


def test_a_time_added_to_the_embeddings_starts_at_nothing_and_then_changes_the_logits():
    network = tiny_model("importance_rates")
    tokens, early, late = some_tokens(), torch.full((3,), 0.1), torch.full((3,), 0.9)
    assert network.added_time is not None
    assert num_parameters(network.added_time) == 33 * 16  # 16 frequencies, cos and sin, and a bias
    assert network(tokens, early).equal(network(tokens, late))
    shaken(network)
    assert (network(tokens, early) - network(tokens, late)).abs().amax((1, 2)).min() > 1e-2


# --- what it learns. Text of pairs (marker, token): the marker tells that its token is one of k, all alike, so a token
# whose marker is visible costs log k nats.

KINDS = torch.tensor([1, 2, 4, 8, 16])
FIRST_TOKEN = KINDS - 1  # of each kind: 0, 1, 3, 7, 15
NUM_TOKENS = 31
PAIR_VOCAB = NUM_TOKENS + len(KINDS)  # a marker a kind
NUM_PAIRS = 4


def some_pairs(num_rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows (B, 2 NUM_PAIRS), and the kind of each of their pairs (B, NUM_PAIRS)."""
    kind = torch.randint(0, len(KINDS), (num_rows, NUM_PAIRS), generator=generator)
    token = FIRST_TOKEN[kind] + (torch.rand(kind.shape, generator=generator) * KINDS[kind]).long()
    return torch.stack([NUM_TOKENS + kind, token], dim=-1).flatten(1), kind


def ranks(values: Tensor) -> Tensor:
    """From 0, ties sharing their mean rank."""
    below = (values[None, :] < values[:, None]).sum(1)
    return below + ((values[None, :] == values[:, None]).sum(1) - 1) / 2


def spearman(a: Tensor, b: Tensor) -> float:
    return torch.corrcoef(torch.stack([ranks(a), ranks(b)]))[0, 1].item()


def test_spearman_is_1_for_any_rising_and_minus_1_for_any_falling_function():
    x = torch.tensor([0.3, -2.0, 5.0, 1.0])
    assert spearman(x, x.exp()) == pytest.approx(1)
    assert spearman(x, -(x**3)) == pytest.approx(-1)
    assert ranks(torch.tensor([2.0, 1.0, 2.0])).tolist() == [1.5, 0.0, 1.5]


def trained(config: RunConfig, num_steps: int) -> ATATDiT:
    generator = torch.Generator().manual_seed(0)
    counts = torch.bincount(some_pairs(4096, generator)[0].flatten(), minlength=PAIR_VOCAB).numpy()
    torch.manual_seed(0)
    network: Any = build_model(config, PAIR_VOCAB, counts)
    objective = build_objective(config, PAIR_VOCAB, counts, network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, betas=(0.9, 0.98))
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, num_steps)
    for step in range(num_steps):
        x0, _ = some_pairs(32, generator)
        loss = objective.loss(network, x0, None, objective.draw(len(x0), x0.shape[1], generator, step), x0.numel())
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        decay.step()
    return network.eval()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["no_curriculum", "learned_only"])
def test_a_trained_estimator_ranks_tokens_by_their_conditional_entropy(method):
    settings: dict[str, object] = {"data__length": 2 * NUM_PAIRS, "model__dropout": 0, "model__width": 32}
    network = trained(tiny_config(method, **settings, model__num_layers=1, importance__train_share=1), num_steps=100)
    x0, kind = some_pairs(256, torch.Generator().manual_seed(7))
    with torch.no_grad():
        f = score(network, x0, torch.zeros(len(x0)))
        importance = network.importance(x0, f)
    entropy = KINDS.log()  # nats
    for values in (importance[:, 1::2], f[:, 1::2]):  # with the prior, and the estimator alone
        by_kind = torch.stack([values[kind == k].mean() for k in range(len(KINDS))])
        assert spearman(by_kind, entropy) >= 0.9
        assert by_kind[-1] > by_kind[0] + 0.2
        # token by token; ties within a kind leave at most 0.98
        assert spearman(values.flatten(), entropy[kind].flatten()) >= 0.9
