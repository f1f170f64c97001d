"""Fine-tuning learns what can be learned, repeats itself, and a probe leaves the backbone alone."""

from __future__ import annotations

import copy
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch

from finetuning.examples import cat_examples, cat_task
from mdlm_atat import MaskedDiffusionLM
from mdlm_atat.errors import UserError
from mdlm_atat.finetuning.encode import choose_separator, encode_texts
from mdlm_atat.finetuning.head import longest_text
from mdlm_atat.finetuning.read import open_task
from mdlm_atat.finetuning.settings import FinetuneSettings
from mdlm_atat.finetuning.training import CrossValidation, Finetuning, Hooks, Outcome, epoch_batches, learning_rate


def settings(lm: Any, **changed: Any) -> FinetuneSettings:
    pooling = "last" if lm.kind == "causal" else "mean"
    plain = {"epochs": 8, "batch_size": 16, "lr": 1e-2, "max_length": longest_text(lm.max_length, pooling)}
    return FinetuneSettings(**{**plain, "pooling": pooling, **changed})


def finetuning(lm: Any, task: Any, **changed: Any) -> Finetuning:
    chosen = settings(lm, **changed)
    separator = choose_separator(lm.tokenizer, lm.counts)
    train, dev = (
        encode_texts(split.texts, lm.tokenizer, separator, chosen.max_length, place=split.places.__getitem__)
        for split in (task.train, task.dev)
    )
    return Finetuning(lm.network, task, train, dev, chosen, device=lm.device, precision="float32")


def run(tuning: Finetuning, seed: int = 0) -> Outcome:
    return tuning.run(seed)


@pytest.fixture(scope="module")
def learned(masked: MaskedDiffusionLM) -> Outcome:
    """Of 8 epochs of texts with a cat and others."""
    return run(finetuning(masked, cat_task(), lr=3e-2))


def assert_learned(outcome: Outcome, least: float) -> None:
    assert outcome.last.metrics["accuracy"] > least
    assert outcome.last.metrics["matthews"] > 2 * least - 1
    assert outcome.epochs[0].train_loss > outcome.last.train_loss


def test_a_masked_model_learns_to_tell_texts_with_a_cat_from_others(masked, learned):
    assert_learned(learned, least=0.98)
    # one position has to be taught to hear of the others
    assert_learned(run(finetuning(masked, cat_task(), pooling="first", lr=3e-2)), least=0.9)


def test_so_do_a_causal_model_and_one_of_adaptive_masks_and_with_pairs_of_texts(causal, adaptive, masked):
    assert run(finetuning(causal, cat_task(), epochs=6)).last.metrics["accuracy"] > 0.75
    assert run(finetuning(adaptive, cat_task(), epochs=6)).last.metrics["accuracy"] > 0.9
    assert run(finetuning(masked, cat_task(pairs=True), lr=3e-2, epochs=4)).last.metrics["accuracy"] > 0.98


def test_scores_are_predicted_in_their_own_units(masked):
    task = cat_task(scores=True)
    outcome = run(finetuning(masked, task, epochs=5))
    assert outcome.last.metrics["pearson"] > 0.9
    assert np.abs(outcome.predictions - task.dev.targets).mean() < 0.5  # of 0, 1, 2, 3


def test_a_seed_repeats_itself_bit_for_bit_and_another_does_not(masked):
    tuning = finetuning(masked, cat_task(scores=True), epochs=2)
    first, again, other = (run(tuning, seed) for seed in (0, 0, 1))
    assert np.array_equal(first.predictions, again.predictions)
    assert first.last.train_loss == again.last.train_loss
    assert not np.array_equal(first.predictions, other.predictions)


@pytest.mark.parametrize("probe", [False, True])
def test_the_model_that_was_handed_over_stays_as_it_was(masked, probe):
    before = copy.deepcopy(masked.network.state_dict())
    run(finetuning(masked, cat_task(), probe=probe, epochs=1))
    assert all(torch.equal(before[name], value) for name, value in masked.network.state_dict().items())
    assert all(p.grad is None for p in masked.network.parameters())


def test_a_probe_trains_66_parameters_and_knows_less_than_the_whole_model(masked, learned):
    probed = run(finetuning(masked, cat_task(), probe=True, epochs=20))
    assert probed.num_trained == 2 * 32 + 2
    num_parameters = sum(p.numel() for p in masked.network.parameters())
    assert learned.num_trained == num_parameters + 66
    assert 0.6 < probed.last.metrics["accuracy"] < learned.last.metrics["accuracy"]


def test_a_probe_on_two_seeds_calls_the_backbone_once_for_every_text(masked, monkeypatch):
    rows: list[int] = []
    hidden = masked.network.hidden

    def counted(z_t: torch.Tensor, t: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        rows.append(len(z_t))
        return hidden(z_t, t, lengths)

    monkeypatch.setattr(masked.network, "hidden", counted)
    tuning = finetuning(masked, cat_task(100, 20), probe=True, epochs=3)
    run(tuning, 0)
    run(tuning, 1)
    assert sum(rows) == 120


def test_the_best_epoch_is_the_first_of_the_highest_mean_of_the_metrics(learned):
    scores = [np.mean(list(epoch.metrics.values())) for epoch in learned.epochs]
    assert learned.best.number == int(np.argmax(scores)) + 1
    assert learned.last.number == 8


def test_patience_ends_after_2_epochs_without_a_better_score_and_never_by_default(masked):
    task = cat_task(32, 32)
    tiny = {"lr": 1e-9, "epochs": 9}  # nothing gets better
    assert len(run(finetuning(masked, task, **tiny, patience=2)).epochs) == 3
    assert len(run(finetuning(masked, task, **tiny)).epochs) == 9


def test_dropout_within_the_backbone_changes_the_outcome(masked):
    plain, dropped = (run(finetuning(masked, cat_task(), epochs=1, backbone_dropout=p)) for p in (0.0, 0.5))
    assert plain.last.train_loss != dropped.last.train_loss


def test_the_rate_rises_for_a_tenth_of_the_steps_and_falls_to_nothing(masked):
    chosen = settings(masked, lr=1.0)
    rates = [learning_rate(step, 100, chosen) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10] == pytest.approx(1)
    assert np.diff(rates[10:]) == pytest.approx(-1 / 90)
    assert rates[-1] == pytest.approx(1 / 90)
    assert learning_rate(0, 3, chosen) == 1  # too few steps to warm up


def test_an_epoch_takes_every_example_once_in_another_order_each_time():
    orders = [[*chain(*epoch_batches(10, 4, 0, number))] for number in (1, 2)]
    assert [sorted(order) for order in orders] == [list(range(10))] * 2
    assert orders[0] != orders[1]
    assert [len(batch) for batch in epoch_batches(10, 4, 0, 1)] == [4, 4, 2]


def test_a_rate_that_is_too_high_is_told(masked):
    with pytest.raises(UserError, match="is not a finite number in epoch 1; use a lower `lr=`"):
        run(finetuning(masked, cat_task(), lr=1e30, grad_clip=0, warmup_share=0))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"epochs": 0}, "`epochs=` is 0, expected at least 1"),
        ({"lr": 0}, "`lr=` is 0, expected above 0"),
        ({"dropout": 1}, "`dropout=` is 1, expected from 0 to below 1"),
        ({"probe": True, "backbone_dropout": 0.1}, "no effect with `probe=True`"),
    ],
)
def test_settings_out_of_range_are_told_with_their_name(masked, changed, message):
    with pytest.raises(UserError, match=message):
        settings(masked, **changed)


def cross_validation(lm: Any, number: int = 100, *, scores: bool = False, **changed: Any) -> CrossValidation:
    rows = [{"text": e.texts[0], "label": e.label} for e in cat_examples(number, 0, scores=scores)]
    task, chosen = open_task(data=rows, regression=scores), settings(lm, **changed)
    separator = choose_separator(lm.tokenizer, lm.counts)
    texts = encode_texts(task.train.texts, lm.tokenizer, separator, chosen.max_length)
    return CrossValidation(lm.network, task, texts, chosen, device=lm.device, precision="float32")


@pytest.mark.parametrize("changed", [{}, {"probe": True}, {"scores": True}], ids=["all", "probe", "scores"])
def test_cross_validation_scores_each_example_by_the_network_that_was_trained_on_the_other_folds(masked, changed):
    crossed = cross_validation(masked, **{"epochs": 2, **changed})
    found = crossed.run(3)
    assert crossed.task.fold is not None
    for number in range(5):
        rows = np.flatnonzero(crossed.task.fold == number)
        part = crossed._folds[number]
        assert set(part.task.dev.texts) == {crossed.task.dev.texts[row] for row in rows}
        alone = part.run(3)
        assert np.array_equal(found.predictions[rows], alone.predictions)
        assert alone.logits is None or np.array_equal(found.logits[rows], alone.logits)  # type: ignore[index]
    assert [epoch.number for epoch in found.epochs] == [1, 2]
    right = (found.predictions == crossed.task.dev.targets).mean()
    assert found.last.metrics.get("accuracy", right) == right


def test_the_classifier_of_cross_validation_is_trained_on_all_examples_and_counts_its_steps_over_folds(masked):
    crossed = cross_validation(masked, epochs=1)
    steps: list[tuple[int, float]] = []
    progress: list[tuple[int, int]] = []
    hooks = Hooks(
        on_step=lambda step, values: steps.append((step, values["fold"])), on_progress=lambda *n: progress.append(n)
    )
    outcome = crossed.run(0, hooks)
    assert steps == [(5 * fold + step + 1, fold) for fold in range(5) for step in range(5)]  # 80 of 100, 16 a step
    assert progress == [(step, 25) for step, _ in steps]
    seen: list[int] = []
    whole = crossed._whole
    batch = whole.texts["train"].batch
    object.__setattr__(
        whole.texts["train"], "batch", lambda chosen, length: seen.extend(chosen) or batch(chosen, length)
    )
    trained = crossed.classifier(outcome, 0)
    assert sorted(seen) == list(range(100))
    assert trained.head.output.out_features == 2


def test_patience_needs_examples_that_cross_validation_has_not(masked):
    with pytest.raises(UserError, match="`patience=` needs examples to stop by, and cross-validation has none"):
        cross_validation(masked, patience=2)
