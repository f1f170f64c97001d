"""benchmarks.adapt_causal: evaluations that were cut off are gone on with."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from benchmarks import adapt_causal


def test_what_was_evaluated_before_the_evaluation_was_cut_off_is_not_evaluated_again(tmp_path: Path, monkeypatch):
    asked: list[str] = []

    def evaluate(lm: Path, *_: Any, **__: Any) -> Any:
        asked.append(lm.name)
        if asked == ["causal", "two_ways"]:
            raise KeyboardInterrupt
        return SimpleNamespace(save=lambda file: file.write_text(lm.name))

    def load(file: Path) -> Any:
        cost = SimpleNamespace(nats_per_token=float(len(file.read_text())), standard_error=0.5)
        paired = SimpleNamespace(nats_per_token=0.25, standard_error=0.125)
        return SimpleNamespace(
            likelihoods=[SimpleNamespace(name="left to right", cost=cost)], compare=lambda *_, **__: paired
        )

    monkeypatch.setattr(adapt_causal, "load_lm", Path)
    monkeypatch.setattr(adapt_causal, "open_data", lambda *_: None)
    monkeypatch.setattr(adapt_causal, "evaluate", evaluate)
    monkeypatch.setattr(adapt_causal.Evaluation, "load", staticmethod(load))
    args = Namespace(out=tmp_path, start=tmp_path / "model.gguf", num_draws=32, order="spread", batch_size=4)
    done = {"causal": {}, "two_ways": {}}
    with pytest.raises(KeyboardInterrupt):
        adapt_causal.evaluate_all(args, done)
    record = adapt_causal.evaluate_all(args, done)
    assert asked == ["causal", "two_ways", "two_ways", "model.gguf"]
    assert list(record) == ["start", "causal", "two_ways"]
    assert record["causal"] == {"left to right": [6.0, 0.5]}
    assert record["two_ways"]["left to right, less the causal one's"] == [0.25, 0.125]
