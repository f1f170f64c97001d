"""`evaluate` of a model that fills masks and reads left to right, and in the own order of samplers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import mdlm_atat as ma
from lm.made_models import two_way_lm
from mdlm_atat import CausalLM, MaskedDiffusionLM, UserError
from mdlm_atat.cli.eval_zero_shot import zero_shot_table
from mdlm_atat.cli.main import main
from mdlm_atat.report.eval_lines import order_lines
from mdlm_atat.scoring.records import Evaluation

TEXTS = ["abba cab" * 5 + "\n", "bad cabbage" * 9 + "\n"] * 8
DRAWS: dict[str, Any] = {"num_draws": 64, "progress": False}


@pytest.fixture(scope="module")
def lm() -> MaskedDiffusionLM:
    return two_way_lm(letters="abcdeg \n", length=8)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ATAT_CACHE", str(tmp_path_factory.mktemp("cache")))


def test_a_two_way_models_evaluation_has_its_bound_and_its_exact_value_which_is_the_causal_models(lm):
    found = ma.evaluate(lm, TEXTS, **DRAWS)
    causal = ma.evaluate(CausalLM(lm.network, lm.tokenizer), TEXTS, **DRAWS)
    assert (found.kind, causal.kind) == ("nelbo", "exact")
    assert found.left_to_right == causal.left_to_right
    assert causal.left_to_right is not None
    assert causal.left_to_right.nats_per_token == causal.nats_per_token != found.nats_per_token
    assert found.compare(causal, bound="left_to_right").nats_per_token == 0
    assert [name for name, _, _ in found.likelihoods] == ["any order (PPL-U)", "left to right"]


def test_an_own_order_named_left_to_right_is_told_from_the_causal_modes_value_and_never_compared_with_it(lm):
    masked = MaskedDiffusionLM(lambda z_t, t: lm.network(z_t, t), lm.tokenizer, max_length=8)
    own = ma.evaluate(masked, TEXTS, order="left_to_right", against=CausalLM(lm.network, lm.tokenizer), **DRAWS)
    (cost,) = own.own_orders
    assert cost.name == "own order of left_to_right in the masked mode, 8 evaluations"
    assert "own order " in order_lines(own)[0]
    assert own.against is not None
    assert own.against.orders == ()
    assert any("left_to_right in the masked mode" in note and "no such value" in note for note in own.against.notes)
    record = own.to_json()
    assert Evaluation.from_json(record).own_orders == own.own_orders
    record["own_orders"][0]["order"] = "left_to_right"  # as earlier versions wrote it
    assert Evaluation.from_json(record).own_orders == own.own_orders


def test_own_orders_are_of_all_sequences_or_of_as_many_as_there_are_draws_and_say_what_is_exact(lm):
    found = ma.evaluate(lm, TEXTS, order=["spread", "first_hitting"], evaluations=[2, 8], progress=False)
    assert [cost.asked for cost in found.own_orders] == [
        ("spread", 2),
        ("spread", 8),
        ("first_hitting", 2),
        ("first_hitting", 8),
    ]
    assert [cost.is_exact for cost in found.own_orders] == [True, True, False, False]
    spread = found.own_orders[0]
    assert spread.name == "own order of spread, 2 evaluations"
    assert spread.sequences is not None
    assert spread.sequences.num_sequences == found.num_sequences > 100
    assert spread.standard_error > 0
    few = ma.evaluate(lm, TEXTS, order="spread", evaluations=2, **DRAWS).own_orders[0]
    assert few.sequences is not None
    assert few.sequences.num_sequences == 64
    assert few.sequences.score == spread.sequences.score[:64]
    # one at a time in random order is any order
    error = (found.own_orders[3].standard_error ** 2 + found.standard_error**2) ** 0.5
    assert abs(found.own_orders[3].nats_per_token - found.nats_per_token) < 4 * error


def test_what_cannot_be_asked_for_is_refused_before_anything_is_scored(lm):
    causal = CausalLM(lm.network, lm.tokenizer)
    cases: tuple[tuple[Any, dict[str, Any], str], ...] = (
        (lm, {"evaluations": 4}, r"`evaluations=` is for the own order of a sampler: name one"),
        (lm, {"order": "sprad"}, "unknown order 'sprad'"),
        (lm, {"order": ["spread", "anny"]}, r"did you mean any\?"),
        (lm, {"order": "spread", "evaluations": [0]}, "`evaluations=` is 0, expected at least 1"),
        (lm, {"order": "left_to_right", "evaluations": 4}, r"`evaluations=4` is for the own order of a sampler"),
        (causal, {"order": "spread"}, "a causal model generates left to right only"),
        (causal, {"order": "any"}, "has no bound in any order"),
    )
    for model, wrong, message in cases:
        with pytest.raises(UserError, match=message):
            ma.evaluate(model, TEXTS, **DRAWS, **wrong)
    assert ma.evaluate(lm, TEXTS, order=["any", "left_to_right"], **DRAWS).own_orders == ()  # which it has anyway


def test_two_models_are_compared_in_each_order_that_both_were_scored_in(lm):
    other = two_way_lm(letters="abcdeg \n", length=8, seed=1)
    found = ma.evaluate(lm, TEXTS, order="spread", evaluations=2, against=other, **DRAWS)
    assert found.against is not None
    names = [order.name for order in found.against.orders]
    assert names == ["left to right", "own order of spread, 2 evaluations"]
    theirs = ma.evaluate(other, TEXTS, order="spread", evaluations=2, **DRAWS)
    expected = found.own_orders[0].nats_per_token - theirs.own_orders[0].nats_per_token
    assert found.against.orders[1].nats_per_token == pytest.approx(expected, abs=1e-7)
    causal = CausalLM(other.network, other.tokenizer)
    against = ma.evaluate(lm, TEXTS, order="spread", evaluations=2, against=causal, **DRAWS).against
    assert against is not None
    assert [order.kinds for order in against.orders] == [("exact", "exact")]
    assert "own order of spread, 2 evaluations: " in against.notes[0]


def test_orders_that_were_stored_of_the_same_weights_are_kept_and_of_others_are_not(lm, tmp_path):
    lm = MaskedDiffusionLM(lm.network, lm.tokenizer)
    lm.home = tmp_path
    first = ma.evaluate(lm, TEXTS, order="spread", evaluations=2, **DRAWS)
    assert first.file is not None
    again = ma.evaluate(lm, TEXTS, **DRAWS)
    assert again.file == first.file
    assert again.own_orders == first.own_orders
    more = ma.evaluate(lm, TEXTS, order="spread", evaluations=[2, 4], **DRAWS)
    assert [cost.num_steps for cost in more.own_orders] == [2, 4]
    replace(more, checkpoint_hash="another").save(first.file)
    assert ma.evaluate(lm, TEXTS, **DRAWS).own_orders == ()


def test_a_zero_shot_table_has_the_exact_value_in_a_column_of_its_own(lm):
    found = ma.evaluate(lm, TEXTS, **DRAWS)
    causal = ma.evaluate(CausalLM(lm.network, lm.tokenizer), TEXTS, **DRAWS)
    assert found.left_to_right is not None
    head, row, why_not_per_word = zero_shot_table({"a.txt": found})
    assert "no perplexity per word" in why_not_per_word
    start = head.index("left to right, exact")
    assert row[start : start + 20].strip() == f"{found.left_to_right.perplexity_per_token:,.2f}"
    assert "left to right" not in zero_shot_table({"a.txt": causal})[0]


def test_the_command_prints_all_that_a_two_way_run_has_by_name(tmp_path, capsys, no_report):
    from tiny_runs import train, write_text

    text = write_text(tmp_path / "text.txt", num_words=2000)
    run = tmp_path / "run"
    assert train(text, run, objective__causal_share=0.5, train__num_steps=4) == 0
    capsys.readouterr()
    words = ["eval", str(run), "--num_draws", "32", "--order", "spread", "first_hitting", "--evaluations", "4"]
    assert main(words) == 0
    out = capsys.readouterr().out
    (file,) = Path(run / "evals").glob("*-32-0.json")
    found = ma.Evaluation.load(file)
    lines = {line[:10].strip(): line for line in out.splitlines() if line[:1] != " "}
    assert lines["bound"].endswith("(PPL-U): any order")
    assert lines["exact"].endswith(": left to right")
    assert found.left_to_right is not None
    assert f"exact      {found.left_to_right.shown()} nats per token, " in out
    spread, random = (line for line in out.splitlines() if line.startswith("own order"))
    assert found.num_sequences == 23
    assert spread.endswith(": spread, 4 evaluations (exact; all 23 sequences)")
    assert "perplexity at most" in random
    assert "(a bound, the order is random; " in random
    assert main([*words[:2], "--evaluations", "4"]) == 2
    assert "--evaluations has no effect without --order" in capsys.readouterr().err


def test_a_rule_that_can_write_but_one_text_gives_others_no_probability_and_no_perplexity_either(lm, tmp_path):
    found = ma.evaluate(lm, TEXTS, order="greedy", evaluations=2, **DRAWS)
    [cost] = found.own_orders
    assert cost.nats_per_token == cost.perplexity_per_token == float("inf")
    assert "perplexity not finite: greedy" in "\n".join(order_lines(found))
    [again] = Evaluation.load(found.save(tmp_path / "found.json")).own_orders
    assert not again.perplexity_per_token < float("inf")
