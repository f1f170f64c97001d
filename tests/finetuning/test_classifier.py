"""A fine-tuned classifier is kept whole, reads a text as it did in training, and says how sure it is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mdlm_atat
from finetuning.examples import cat_examples
from mdlm_atat import Prediction, TextClassifier, UserError, load_lm
from mdlm_atat.data.files import folder_size
from mdlm_atat.finetuning.classifier import BATCH_SIZE
from mdlm_atat.finetuning.head import pooled
from mdlm_atat.finetuning.results import FinetuneResult

QUICK = {"seeds": 1, "epochs": 2, "lr": 3e-2, "progress": False}
TEXTS = ["cat sat on a mat", "dog ran to see", "a", "if you ran be so as old", "mat cat"]


def records(number: int, seed: int, **kind: bool) -> list[dict[str, str]]:
    names = ("text", "text2")
    return [
        dict(zip(names, example.texts, strict=False)) | {"label": example.label}
        for example in cat_examples(number, seed, **kind)
    ]


def finetune(lm: Any, out: Path, *, kind: dict[str, bool] | None = None, **changed: Any) -> FinetuneResult:
    kind = kind or {}
    data = records(200, 0, **kind), records(50, 1, **kind)
    return mdlm_atat.finetune(lm, data=data, out=out, regression=kind.get("scores", False), **{**QUICK, **changed})


@pytest.fixture(scope="module")
def cats(masked, tmp_path_factory: pytest.TempPathFactory) -> FinetuneResult:
    return finetune(masked, tmp_path_factory.mktemp("cats"))


@pytest.fixture(scope="module")
def folder(cats: FinetuneResult) -> Path:
    assert cats.classifier_folder is not None
    return cats.classifier_folder


@pytest.mark.parametrize("how", [{}, {"probe": True}])
@pytest.mark.parametrize("kind", [{}, {"pairs": True}, {"scores": True}], ids=["texts", "pairs", "scores"])
def test_what_is_loaded_predicts_for_every_example_what_the_first_seed_did(masked, tmp_path, kind, how):
    result = finetune(masked, tmp_path, kind=kind, seeds=2, **how)
    texts = [example.texts if len(example.texts) == 2 else example.texts[0] for example in cat_examples(50, 1, **kind)]
    found = result.classifier.predict(texts)
    stored = result.seeds[0].predictions
    if kind.get("scores"):
        assert [prediction.score for prediction in found] == pytest.approx(stored.tolist(), abs=1e-4)
        assert {(prediction.label, len(prediction.probabilities)) for prediction in found} == {(None, 0)}
    else:
        assert [prediction.label for prediction in found] == [("cat", "none")[index] for index in stored]
        assert all(sum(prediction.probabilities.values()) == pytest.approx(1) for prediction in found)


def test_a_causal_model_becomes_a_classifier_too(causal, tmp_path):
    result = finetune(causal, tmp_path)
    found = result.classifier.predict([example.texts[0] for example in cat_examples(50, 1)])
    assert [prediction.label for prediction in found] == [("cat", "none")[i] for i in result.seeds[0].predictions]


SCRIPT = """
import sys
from mdlm_atat import TextClassifier
classifier = TextClassifier.from_pretrained(sys.argv[1])
texts = classifier.encode(sys.argv[2].split("|"))
print(classifier.outputs(texts, range(len(texts))).numpy().tobytes().hex(), *classifier.labels)
"""


@pytest.mark.slow
def test_logits_and_labels_are_bit_for_bit_the_same_in_new_processes_of_two_hash_seeds(cats, folder):
    classifier = cats.classifier
    texts = classifier.encode(TEXTS)
    expected = classifier.outputs(texts, range(len(texts))).numpy().tobytes().hex()
    said = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT, str(folder), "|".join(TEXTS)],
            env={**os.environ, "PYTHONHASHSEED": seed, "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert said == {f"{expected} cat none"}


def test_a_folder_holds_no_pickle_and_a_saved_copy_is_the_same_to_the_bit(cats, folder, tmp_path):
    kept = {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert {file.suffix for file in kept} == {".json", ".safetensors", ".yaml", ".npy", ".py"}
    copied = cats.classifier.save_pretrained(tmp_path / "copy")
    assert {file.relative_to(copied): file.read_bytes() for file in copied.rglob("*") if file.is_file()} == kept
    assert folder_size(copied) == sum(map(len, kept.values()))
    with pytest.raises(UserError, match="copy is not empty; choose a new folder to save the classifier in"):
        cats.classifier.save_pretrained(copied)
    cats.classifier.save_pretrained(copied, overwrite=True)
    assert [file.name for file in tmp_path.iterdir()] == ["copy"]
    with pytest.raises(UserError, match="is not empty"):  # whatever else is in it is never removed
        cats.classifier.save_pretrained(tmp_path, overwrite=True)


@pytest.mark.parametrize("file", ["head.safetensors", "model.safetensors", "classifier.json", "tokenizer"])
def test_a_folder_without_its_head_or_any_other_part_is_refused(folder, tmp_path, file):
    copied = shutil.copytree(folder, tmp_path / "copy")
    damaged = copied / file
    shutil.rmtree(damaged) if damaged.is_dir() else damaged.unlink()
    with pytest.raises(UserError, match=f"damaged: .*{file} is missing|holds no classifier"):
        TextClassifier.from_pretrained(copied)


def test_a_head_that_was_altered_is_refused_by_its_checksum(folder, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "copy")
    head = copied / "head.safetensors"
    head.write_bytes(head.read_bytes()[:-1] + b"\1")
    with pytest.raises(UserError, match=r"is damaged: head\.safetensors is not what was written"):
        TextClassifier.from_pretrained(copied)


@pytest.mark.parametrize("name", ["masked", "causal"])
def test_a_text_alone_and_in_a_batch_of_longer_ones_gives_the_same_to_1e_5_and_padding_counts_for_nothing(
    name, request, tmp_path
):
    classifier = finetune(request.getfixturevalue(name), tmp_path).classifier
    texts = classifier.encode(TEXTS)
    together = classifier.outputs(texts, range(len(texts)))
    for number in range(len(texts)):
        assert torch.allclose(classifier.outputs(texts, [number])[0], together[number], atol=1e-5)
    backbone: Any = classifier.lm.network
    ids, lengths = texts.batch([2, 3], classifier.record.max_length)
    with classifier.lm.inference():
        changed = ids.clone()
        changed[0, lengths[0] :] = backbone.vocab_size - 1  # the end of a document, where there is one
        before, after = (pooled(backbone, rows, lengths, classifier.record.pooling) for rows in (ids, changed))
    assert torch.equal(before, after)


def test_order_and_batch_size_change_nothing_but_the_order(cats):
    texts = [TEXTS[i % len(TEXTS)] for i in range(BATCH_SIZE + 7)]
    found = cats.classifier.predict(texts, batch_size=3)
    again = cats.classifier.predict(texts[::-1])[::-1]
    assert [prediction.label for prediction in found] == [prediction.label for prediction in again]
    assert [p.probabilities["cat"] for p in found] == pytest.approx([p.probabilities["cat"] for p in again], abs=1e-5)


def test_a_str_gives_one_prediction_a_list_a_list_and_nothing_nothing(cats):
    one = cats.classifier.predict("cat")
    assert isinstance(one, Prediction)
    assert cats.classifier.predict(["cat"]) == [one]
    assert cats.classifier.predict([]) == []
    assert one.label == max(one.probabilities, key=lambda label: one.probabilities[label])
    assert one.confidence == max(one.probabilities.values())


def test_a_text_that_is_cut_says_so(cats):
    assert [p.is_cut for p in cats.classifier.predict(["cat", "cat " * 4, "cat " * 4 + "s"])] == [False, False, True]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([("a cat", "a dog")], r"text 0 is \('a cat', 'a dog'\); this classifier reads one text, as a str"),
        (["cat", ""], "text 1, '', has no token"),
        (["cat", "cat", " \n"], r"text 2, ' \\n', has no token in the model's vocabulary"),
    ],
)
def test_texts_that_it_cannot_read_are_named(cats, texts, message):
    with pytest.raises(UserError, match=message):
        cats.classifier.predict(texts)


def test_a_classifier_of_pairs_refuses_single_texts(masked, tmp_path):
    classifier = finetune(masked, tmp_path, kind={"pairs": True}, epochs=1).classifier
    with pytest.raises(UserError, match="text 1 is 'b'; this classifier reads a pair of texts, as a tuple of two"):
        classifier.predict([("a", "b"), "b"])
    with pytest.raises(UserError, match="this classifier reads a pair"):
        classifier.predict("ab")


def test_a_classifier_is_found_in_the_results_and_in_the_run_that_hold_the_only_one(cats, folder, masked, tmp_path):
    assert TextClassifier.from_pretrained(folder.parent).folder == folder
    run = tmp_path / "run"
    shutil.copytree(folder.parent, run / "finetune")
    assert TextClassifier.from_pretrained(run).folder == run / "finetune" / folder.name
    shutil.copytree(folder, run / "finetune" / "other-classifier")
    with pytest.raises(UserError, match=r"holds several classifiers; name one of .*other-classifier"):
        TextClassifier.from_pretrained(run)
    with pytest.raises(UserError, match="holds no classifier; make one with `finetune"):
        TextClassifier.from_pretrained(masked.home)
    with pytest.raises(UserError, match="there is no folder"):
        TextClassifier.from_pretrained(tmp_path / "nothing")


def test_a_classifier_is_no_language_model(folder):
    with pytest.raises(UserError, match=r"holds a classifier.*open it with `TextClassifier.from_pretrained"):
        load_lm(folder)


def test_the_model_and_the_classifier_share_no_weight_and_a_probe_leaves_them_equal(masked, tmp_path):
    before = {name: weight.clone() for name, weight in masked.network.state_dict().items()}
    classifier = finetune(masked, tmp_path, probe=True).classifier
    assert all(torch.equal(before[name], weight) for name, weight in classifier.lm.network.state_dict().items())
    assert classifier.lm.network is not masked.network


def test_a_result_without_its_classifier_makes_it_and_changes_no_number(masked, tmp_path):
    first = finetune(masked, tmp_path, seeds=2, keep_classifier=False)
    assert {file.name for file in tmp_path.iterdir()} == {"records-summary.json", *(f.file.name for f in first.seeds)}
    with pytest.raises(UserError, match="no classifier was kept"):
        _ = first.classifier
    files = {seed.file: seed.file.read_bytes() for seed in first.seeds}
    steps: list[float] = []
    second = finetune(masked, tmp_path, seeds=2, on_step=lambda _, values: steps.append(values["seed"]))
    assert set(steps) == {0}
    assert {file: file.read_bytes() for file in files} == files
    found = second.classifier.predict([example.texts[0] for example in cat_examples(50, 1)])
    assert [prediction.label for prediction in found] == [("cat", "none")[i] for i in first.seeds[0].predictions]
    steps.clear()
    third = finetune(masked, tmp_path, seeds=2, on_step=lambda _, values: steps.append(values["seed"]))
    assert (steps, repr(third)) == ([], repr(second))


def test_a_classifier_of_other_examples_is_never_replaced_unseen(masked, tmp_path):
    finetune(masked, tmp_path)
    (tmp_path / "records-seed0.json").unlink()
    before = (tmp_path / "records-classifier" / "classifier.json").read_bytes()
    with pytest.raises(UserError, match="records-classifier holds another classifier; `again=True` puts the new"):
        finetune(masked, tmp_path, lr=1e-3)
    assert (tmp_path / "records-classifier" / "classifier.json").read_bytes() == before
    finetune(masked, tmp_path, lr=1e-3, again=True)
    assert (
        json.loads((tmp_path / "records-classifier" / "classifier.json").read_text())["about"]["settings"]["lr"] == 1e-3
    )


def test_the_table_of_results_names_the_classifier_its_size_and_its_calibration(cats, folder):
    calibration = cats.classifier.record.calibration
    assert calibration is not None
    assert calibration.num_rows == 50
    assert cats.classifier.temperature == calibration.temperature
    for text in (repr(cats), cats._repr_html_()):
        assert f"{folder_size(folder) / 1e6:,.1f} MB" in text
        assert (
            f"temperature {calibration.temperature:.2f}; calibration error {calibration.ece_before:.3f} before" in text
        )
        assert "on 50 rows; so few rows leave it uncertain" in text


def test_the_loss_of_an_epoch_of_unequal_batches_is_the_mean_over_its_examples(masked, tmp_path):
    """1 example after 9: each counts for a tenth, where a mean of means would let the last count for a half."""
    data = records(10, 0), records(10, 1)
    losses = []
    for batch_size in (10, 9):
        out = tmp_path / str(batch_size)
        how = {**QUICK, "epochs": 1, "lr": 1e-12, "dropout": 0.0, "batch_size": batch_size, "keep_classifier": False}
        losses.append(mdlm_atat.finetune(masked, data=data, out=out, **how).seeds[0].epochs[0].train_loss)
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_probabilities_are_those_of_the_logits_divided_by_the_temperature(cats):
    classifier = cats.classifier
    texts = classifier.encode(TEXTS)
    logits = classifier.outputs(texts, range(len(texts))).double()
    expected = torch.softmax(logits / classifier.temperature, 1)[:, 0]
    found = [p.probabilities["cat"] for p in classifier.predict(TEXTS)]
    assert np.allclose(found, expected)
