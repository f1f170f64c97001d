"""Labels over the interface are those of the classifier."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from serving import served

from lm.made_models import two_way_lm
from mdlm_atat.finetuning.classifier import ClassifierRecord, TextClassifier
from mdlm_atat.finetuning.encode import Separator
from mdlm_atat.finetuning.head import Head, output_width


def made(labels: tuple[str, ...], *, is_pair: bool = False) -> TextClassifier:
    lm = two_way_lm(letters="abcdef .", length=16)
    lm.network.float()
    record = ClassifierRecord(
        labels=labels, is_pair=is_pair, pooling="mean", max_length=16, separator=Separator((0,), "space")
    )
    torch.manual_seed(0)
    head = Head(output_width(lm.network), max(1, len(labels)), 0.0)
    for weight in head.parameters():
        torch.nn.init.normal_(weight)
    return TextClassifier(lm, head, record)


def test_texts_get_the_labels_and_probabilities_of_the_classifier():
    classifier = made(("good", "bad", "neither"))
    texts = ["a bad face.", "bead", "fed " * 10]
    with served(two_way_lm(letters="abc"), classifier=classifier) as client:
        found = client.post("/v1/classify", {"texts": texts})
        assert client.get("/v1/model").json["classifier"] == {"labels": ["good", "bad", "neither"], "text_pair": False}
        assert "/v1/classify" in client.get("/openapi.json").json["paths"]
        empty = client.post("/v1/classify", {"texts": [""]})
        pair = client.post("/v1/classify", {"texts": ["a", ["a", "b"]]})
    assert found.json["labels"] == ["good", "bad", "neither"]
    expected = classifier.predict(texts)
    for result, own in zip(found.json["results"], expected, strict=True):
        assert (result["label"], result["score"], result["is_cut"]) == (own.label, None, own.is_cut)
        assert result["probabilities"] == pytest.approx(own.probabilities)
    assert [result["is_cut"] for result in found.json["results"]] == [False, False, True]
    assert (empty.status, empty.mistake["field"]) == (400, "texts")
    assert (pair.status, pair.mistake["field"]) == (400, "texts")
    assert "reads one text" in pair.mistake["message"]


def test_pairs_and_numbers_are_told_too():
    classifier = made((), is_pair=True)
    classifier.record = replace(classifier.record, mean=3.0, spread=2.0)
    with served(two_way_lm(letters="abc"), classifier=classifier) as client:
        found = client.post("/v1/classify", {"texts": [["a bad", "face"], ["b", "c"]]}).json
        assert client.get("/v1/model").json["classifier"] == {"labels": [], "text_pair": True}
        alone = client.post("/v1/classify", {"texts": ["a bad"]})
        three = client.post("/v1/classify", {"texts": [["a", "b", "c"]]})
    expected = classifier.predict([("a bad", "face"), ("b", "c")])
    assert [result["score"] for result in found["results"]] == pytest.approx([own.score for own in expected])
    assert [result["label"] for result in found["results"]] == [None, None]
    assert alone.status == three.status == 400
    assert "a pair of texts" in alone.mistake["message"]
