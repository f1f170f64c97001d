"""Numbers per character and word of a lossy tokenizer are marked; where there are no words there are none per word."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest

from mdlm_atat.cli.eval_zero_shot import zero_shot_table
from mdlm_atat.data.prepare import prepare
from mdlm_atat.report.eval_lines import result_table
from mdlm_atat.scoring import validation
from mdlm_atat.scoring.cost import Cost, TextCounts
from mdlm_atat.scoring.records import Evaluation, TextIdentity
from mdlm_atat.training.engine import Engine

WHOLE = TextCounts(num_tokens=400, num_words=200, num_characters=1000, num_bytes=1000)


def found(**counts: int) -> Evaluation:
    return Evaluation(
        kind="nelbo",
        nats_per_token=2.0,
        standard_error=0.1,
        text=TextIdentity(mode="wrap"),
        counts=TextCounts(**{**vars(WHOLE), **counts}),
        unigram=Cost(nats_per_token=3.0, counts=TextCounts(**{**vars(WHOLE), **counts})),
    )


def test_a_tokenizer_that_loses_31_of_1000_characters_marks_what_is_per_character() -> None:
    lossy = found(num_changed=31)
    assert lossy.is_lossy
    assert lossy.shown_bits() == "1.1542 ± 0.0577 (lossy)"
    lines = "\n".join(result_table(lossy))
    assert lines.count("(lossy)") == 5  # nats and bits per character, per byte and word; the unigram model
    assert "lossy      the tokenizer does not give back 3.1% of the characters" in lines
    assert "compare with no other tokenizer's" in lines
    assert "(lossy)" in repr(lossy)
    assert "(lossy)" in lossy._repr_html_()
    table = zero_shot_table({"text": lossy})
    assert "1.1542*" in table[1]
    assert table[2].strip().startswith("*: the tokenizer does not give back 3.1%")


def test_a_tokenizer_that_gives_back_the_text_is_not_marked_and_neither_is_one_of_before() -> None:
    for record in (found(), Evaluation.from_json({"nelbo_nats_per_token": 2.0, "num_characters": 1000})):
        assert not record.is_lossy
        assert "lossy" not in "\n".join(result_table(record)) + repr(record)


def test_json_keeps_the_count_of_what_is_lost() -> None:
    record = found(num_changed=31, num_unspaced=7)
    assert record.to_json()["num_changed"] == 31
    assert Evaluation.from_json(record.to_json()).counts == record.counts


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        (
            {"num_words": 1},
            "what white space separates has 1,000 characters in the mean",
        ),  # DNA, Japanese
        ({"num_words": 49}, "what white space separates has 20 characters in the mean"),
        ({"num_unspaced": 400}, "the script has no spaces between words"),  # a Chinese sentence a line
        ({"num_tokens": 80_000}, "it would be above 1e300"),
    ],
)
def test_perplexity_per_word_is_left_out_with_the_reason(counts: dict[str, int], reason: str) -> None:
    record = found(**counts)
    assert math.isnan(record.perplexity_per_word)
    assert f"no perplexity per word: {reason}" in "\n".join(result_table(record))
    assert record.to_json()["perplexity_per_word"] is None
    assert "PPL/word" in (table := zero_shot_table({"text": record}))[0]
    assert "none" in table[1]
    assert reason in table[2]


@pytest.mark.parametrize(("nats_per_word", "is_shown"), [(8.9, True), (9.1, False), (12.7, False), (600.0, False)])
def test_a_perplexity_of_more_than_9_nats_a_word_is_kept_but_not_shown(nats_per_word: float, is_shown: bool) -> None:
    counts = TextCounts(num_tokens=1000, num_words=200, num_characters=1000)
    record = replace(found(), nats_per_token=nats_per_word / 5, counts=counts)
    number = f"{math.exp(nats_per_word):,.0f}"
    assert record.to_json()["perplexity_per_word"] == pytest.approx(math.exp(nats_per_word))
    for shown in ("\n".join(result_table(record)), record._repr_html_().replace(".00<", "<")):
        assert (number.split(",")[0] in shown and "perplexity per word" in shown) or not is_shown
        assert is_shown or number not in shown
    said = f"no perplexity per word: at {nats_per_word:.1f} nats a word, more than words drawn by their frequency cost"
    assert (said in "\n".join(result_table(record))) is not is_shown
    assert (said in "\n".join(zero_shot_table({"text": record}))) is not is_shown


def test_words_of_5_characters_have_a_perplexity() -> None:
    record = found(num_unspaced=90)
    assert record.perplexity_per_word == pytest.approx(math.exp(4))
    assert "perplexity per word 55" in "\n".join(result_table(record))


@pytest.mark.parametrize("num_changed", [0, 31])
def test_the_log_of_a_run_names_bits_per_character_of_a_lossy_tokenizer_otherwise(
    num_changed, masked, tmp_path, monkeypatch
):
    made = prepare(["the cat sat"], tokenizer=masked.tokenizer, out=tmp_path / "out", whole=True, progress=False)
    monkeypatch.setattr(validation, "TextCounts", SimpleNamespace(of=lambda _: replace(WHOLE, num_changed=num_changed)))
    monkeypatch.setattr(validation, "draw_nll", lambda *_, **__: SimpleNamespace(likelihood=found))
    values = validation.score_validation(
        masked.config, Engine("float32"), masked.network, made.open("valid", 16), None, None, lambda *_: None
    )
    names = {name for name in values if "bits_per_character" in name}
    assert names == {"eval/bits_per_character" + "_lossy" * (num_changed > 0)}
