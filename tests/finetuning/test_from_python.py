"""`mdlm_atat.finetune`: from examples in memory to a typed result."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
from torch import nn

import mdlm_atat
import mdlm_atat.finetuning.metrics
from finetuning.examples import cat_examples
from mdlm_atat import MaskedDiffusionLM, UserError
from mdlm_atat.finetuning.results import FinetuneResult
from mdlm_atat.finetuning.settings import FinetuneSettings, GivenSettings
from mdlm_atat.runs.finetune import choose_settings


def records(number: int, seed: int) -> list[dict[str, str]]:
    return [{"text": example.texts[0], "label": example.label} for example in cat_examples(number, seed)]


DATA = records(200, 0), records(50, 1)


def quick(model, out: Path, **changed) -> FinetuneResult:
    how = {"data": DATA, "seeds": 2, "epochs": 3, "lr": 3e-2, "progress": False}
    return mdlm_atat.finetune(model, out=out, **{**how, **changed})


def share_of_cats(predicted: np.ndarray, truth: np.ndarray) -> float:
    return float((predicted == 0).mean())


def nothing(predicted: np.ndarray, truth: np.ndarray) -> float:
    return float("nan")


def test_gradients_that_the_caller_has_turned_off_are_on_in_finetuning(masked, tmp_path):
    with torch.no_grad():
        off = quick(masked, tmp_path / "off", epochs=1)
    assert off["accuracy"].values == quick(masked, tmp_path / "on", epochs=1)["accuracy"].values


class Agreement:
    def __call__(self, predicted: np.ndarray, truth: np.ndarray) -> float:
        return float((predicted == truth).mean())


def test_records_give_the_metrics_of_every_seed_their_mean_and_the_baseline_and_nothing_is_printed(
    masked, tmp_path, capsys
):
    result = quick(masked, tmp_path)
    assert capsys.readouterr() == ("", "")
    assert result.task == "records"
    found = result["accuracy"]
    assert found.values == tuple(seed.metrics["accuracy"] for seed in result.seeds)
    assert found.mean == pytest.approx(sum(found.values) / 2)
    assert found.standard_deviation == pytest.approx(abs(found.values[0] - found.values[1]) / 2**0.5)
    labels = [record["label"] for record in DATA[1]]
    most = max(("cat", "none"), key=[record["label"] for record in DATA[0]].count)
    assert found.baseline == labels.count(most) / 50
    assert found.mean > found.baseline + 0.1
    predicted = [("cat", "none")[index] for index in result.seeds[0].predictions]
    assert np.mean([a == b for a, b in zip(predicted, labels, strict=True)]) == pytest.approx(found.values[0])
    assert json.loads(result.seeds[0].file.read_text())["predictions"] == result.seeds[0].predictions.tolist()
    assert json.loads(result.file.read_text())["last_epoch"]["accuracy"]["mean"] == found.mean


def test_a_stored_result_is_the_same_when_it_is_read(masked, tmp_path):
    first = quick(masked, tmp_path)
    for seed in first.seeds:  # as they were written before there were plugins
        stored = json.loads(seed.file.read_text())
        del stored["plugins"]
        seed.file.write_text(json.dumps(stored))
    steps: list[int] = []
    read = quick(masked, tmp_path, on_step=lambda step, _: steps.append(step))
    assert steps == []
    assert repr(read) == repr(first)
    assert [seed.epochs for seed in read.seeds] == [seed.epochs for seed in first.seeds]
    assert np.array_equal(read.seeds[1].predictions, first.seeds[1].predictions)


def test_a_result_shows_itself_as_a_table_in_a_terminal_and_in_a_notebook(masked, tmp_path):
    result = quick(masked, tmp_path, task="a<b", metric=["accuracy", "matthews"])
    found = result["accuracy"]
    shown = f"{found.mean:.4f} ± {found.standard_deviation:.4f}"
    for text in (repr(result), result._repr_html_()):
        assert shown in text
        assert f"{found.baseline:.4f}" in text
        assert "best epoch: chosen on these examples, so too high" in text
    assert "a&lt;b" in result._repr_html_()
    assert repr(found) == f"{shown} (baseline {found.baseline:.4f})"
    assert repr(result.seeds[0]).startswith(f"<seed 0: accuracy {found.values[0]:.4f}, Matthews ")


def test_on_step_hears_every_step_with_its_loss_and_every_epoch_with_its_metrics(masked, tmp_path):
    heard: list[tuple[int, dict[str, float]]] = []
    result = quick(masked, tmp_path, seeds=[7], batch_size=50, on_step=lambda *values: heard.append(values))
    steps = [(step, values) for step, values in heard if "train/loss" in values]
    assert [step for step, _ in steps] == list(range(1, 13))
    assert {values["seed"] for _, values in steps} == {7}
    assert np.mean([values["train/loss"] for _, values in steps[:4]]) == pytest.approx(
        result.seeds[0].epochs[0].train_loss
    )
    epochs = [(step, values["eval/accuracy"]) for step, values in heard if "eval/accuracy" in values]
    assert epochs == [(4 * e.number, e.metrics["accuracy"]) for e in result.seeds[0].epochs]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_in_on_step_loses_the_running_seed_alone_and_the_model_stays_as_it_was(masked, tmp_path, error):
    before = {name: value.clone() for name, value in masked.network.state_dict().items()}

    def stop(step: int, values: Mapping[str, float]) -> None:
        if values["seed"] == 1 and step == 2:
            raise error

    with pytest.raises(error):
        quick(masked, tmp_path, on_step=stop)
    assert {file.name for file in tmp_path.iterdir()} == {"records-seed0.json", "records-classifier"}
    assert all(torch.equal(before[name], value) for name, value in masked.network.state_dict().items())
    assert not masked.network.training
    assert [seed.seed for seed in quick(masked, tmp_path).seeds] == [0, 1]


def test_a_run_its_folder_and_its_model_give_the_same(runs, tmp_path):
    run = SimpleNamespace(folder=runs / "masked")
    models = [run, str(run.folder), MaskedDiffusionLM.from_pretrained(run.folder)]
    found = [quick(model, tmp_path / str(i), seeds=1, epochs=1) for i, model in enumerate(models)]
    assert len({tuple(result.seeds[0].predictions) for result in found}) == 1


class BothModes(nn.Module):
    """A network that can be asked both ways: two trained ones behind one name."""

    modes = frozenset({"masked", "causal"})

    def __init__(self, masked: nn.Module, causal: nn.Module) -> None:
        super().__init__()
        self.masked, self.causal = masked, causal
        self.vocab_size, self.max_length = masked.vocab_size, masked.max_length
        self.output_layer = masked.output_layer

    def hidden(self, *inputs: torch.Tensor) -> torch.Tensor:
        network: Any = self.causal if len(inputs) == 1 else self.masked
        return network.hidden(*inputs)


def test_a_bare_network_of_both_modes_is_fine_tuned_in_either(masked, causal, tmp_path):
    bare = MaskedDiffusionLM(BothModes(masked.network, causal.network), masked.tokenizer)
    for pooling, lm in (("mean", masked), ("last", causal)):
        same = {"probe": True, "pooling": pooling, "seeds": 1, "max_length": 15}
        found, expected = (quick(model, tmp_path / out / pooling, **same) for model, out in ((bare, "a"), (lm, "b")))
        assert np.array_equal(found.seeds[0].predictions, expected.seeds[0].predictions)
    with pytest.raises(UserError, match="this model is in no folder yet: name one for the results by `out=`"):
        mdlm_atat.finetune(bare, data=DATA, progress=False)


def test_a_function_that_gives_logits_alone_is_told_what_fine_tuning_needs(masked, tmp_path):
    bare = MaskedDiffusionLM(lambda z_t, t: masked.network(z_t, t), masked.tokenizer, max_length=16)
    with pytest.raises(UserError, match="<lambda> cannot be fine-tuned: it needs to be a torch module with `hidden`"):
        quick(bare, tmp_path)


def test_a_metric_of_ones_own_goes_by_reference_by_function_and_as_a_class(masked, tmp_path):
    result = quick(
        masked,
        tmp_path,
        seeds=1,
        epochs=1,
        metric=["accuracy", share_of_cats, "test_from_python:Agreement"],
    )
    predictions = result.seeds[0].predictions
    assert result["share_of_cats"].mean == (predictions == 0).mean()
    assert result["test_from_python:Agreement"].mean == result["accuracy"].mean
    assert "Agreement  " in repr(result)
    stored = json.loads(result.file.read_text())
    assert [plugin["name"] for plugin in stored["plugins"]] == ["test_from_python:Agreement"]
    with pytest.raises(UserError, match=r"metrics accuracy, share_of_cats, .* there, accuracy now; `again=True` puts"):
        quick(masked, tmp_path, seeds=1, epochs=1, metric="accuracy")


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("acuracy", "unknown metric 'acuracy'.*did you mean accuracy"),
        (
            "spearman",
            "`metric='spearman'` does not fit records, which is a task with classes: use accuracy, f1",
        ),
        (nothing, "metric nothing returned nan for 50 examples, expected a finite number"),
        ("test_from_python:DATA", "metric test_from_python:DATA: expected a class or a function, found"),
        (np.ndarray, "metric ndarray: cannot be called without arguments: "),
        ([], "`metric=` names no metric"),
    ],
)
def test_a_metric_that_is_none_is_told_before_anything_is_written(masked, tmp_path, metric, message):
    with pytest.raises(UserError, match=message):
        quick(masked, tmp_path / "out", metric=metric)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"data": None}, "`task=` is missing: name one of sst2, "),
        ({"task": "rte"}, "rte is a task of GLUE with examples of its own, and `data=` holds records"),
        ({"dev_fraction": 0.1}, "the examples to score on are given, so `dev_fraction=` has no effect"),
        (
            {"data": ({"text": "a", "label": 1}, {"text": "b", "label": 2})},
            "expected a list of records, or a tuple of two",
        ),
        ({"data": [{"text": "a"}] * 9}, "records, training record 0 has no column 'label'"),
        ({"seeds": []}, "`seeds=` is empty"),
        ({"seeds": [-1]}, "`seed=` is -1, expected at least 0"),
        ({"pooling": "last"}, "`pooling='last'`: this model is masked and reads both ways; use mean or first"),
    ],
)
def test_a_mistake_in_python_speaks_python(masked, tmp_path, changed, message):
    with pytest.raises(UserError, match=message):
        quick(masked, tmp_path, **changed)


def test_records_without_others_to_score_on_are_held_out_by_their_hash_as_those_of_a_file_are(masked, tmp_path):
    file = tmp_path / "records.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in DATA[0]))
    in_memory, of_file = (
        quick(masked, tmp_path / out, data=data, seeds=1, epochs=1) for out, data in (("a", DATA[0]), ("b", file))
    )
    assert in_memory.seeds[0].about["data_hash"] == of_file.seeds[0].about["data_hash"]


def test_a_keyword_that_is_none_names_the_likeliest_one(masked, tmp_path):
    with pytest.raises(
        TypeError, match=r"finetune\(\) got an unexpected keyword argument 'epoch'; did you mean epochs\?"
    ):
        quick(masked, tmp_path, epoch=3)
    with pytest.raises(TypeError, match=r"'seed'; did you mean seeds\?"):
        quick(masked, tmp_path, seed=3)


@pytest.mark.parametrize(
    ("number", "probe", "epochs", "batch_size", "lr"),
    [(999, False, 10, 16, 1e-4), (1000, False, 5, 32, 1e-4), (999, True, 40, 16, 1e-3), (1000, True, 20, 64, 1e-3)],
)
def test_fewer_than_1000_examples_have_more_steps_by_default(masked, number, probe, epochs, batch_size, lr):
    found = choose_settings(masked, {"probe": probe}, number)
    assert (found.epochs, found.batch_size, found.lr) == (epochs, batch_size, lr)


def test_every_setting_can_be_given_by_its_name():
    assert list(get_type_hints(GivenSettings)) == [field.name for field in fields(FinetuneSettings)]


def test_the_name_finetune_is_the_function_whatever_was_imported_before():
    assert callable(mdlm_atat.finetune)


class Begun(Exception):
    """Training has begun, and all that is said before it has been said."""


@pytest.mark.parametrize(
    ("number", "settings", "is_told"),
    [
        (80, {}, True),
        (299, {}, True),
        (300, {}, False),
        (80, {"probe": True}, False),
        (80, {"regression": True}, False),
    ],
)
def test_who_trains_the_whole_network_on_fewer_than_300_examples_is_told_first_that_a_probe_is_likely_better(
    number, settings, is_told, masked, tmp_path, capsys
):
    examples = cat_examples(number, 0, scores="regression" in settings)
    data = [{"text": example.texts[0], "label": example.label} for example in examples]

    def stop(step: int, values: Mapping[str, float]) -> None:
        raise Begun

    with pytest.raises(Begun):
        mdlm_atat.finetune(masked, data=data, out=tmp_path, on_step=stop, epochs=1, **settings)
    printed = capsys.readouterr().out
    assert printed.startswith("hint       for so few examples `--probe`") == is_told
    assert printed.count("hint ") == is_told
    said = re.findall(r"\b0\.\d+\b", printed.partition("task ")[0])
    page = (Path(mdlm_atat.__file__).parents[2] / "docs/classify.md").read_text(encoding="utf-8")
    assert len(said) == 2 * is_told
    assert all(number in page for number in said)
