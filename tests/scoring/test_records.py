"""What is recorded of an evaluation comes back from its JSON, of this version and of earlier ones."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mdlm_atat.errors import UserError
from mdlm_atat.report.eval_lines import result_table
from mdlm_atat.scoring.cost import Cost, OrderCost, ScheduleBound, SequenceSums, StepBound, TextCounts, rounded
from mdlm_atat.scoring.records import (
    BlockSums,
    Comparison,
    DecileCosts,
    Evaluation,
    Machine,
    MaskRateProfile,
    OrderDifference,
    PairedDifference,
    TextIdentity,
)

RESULTS = Path(__file__).parents[2] / "docs" / "results"
COUNTS = TextCounts(num_tokens=100, num_words=50, num_characters=400, num_bytes=500)
UNIFORM = PairedDifference(
    nats_per_token=-0.2, standard_error=0.05, unpaired_error=0.2, num_draws=320, kinds=("nelbo", "exact")
)
WHOLE = Evaluation(
    kind="nelbo",
    nats_per_token=2.0,
    standard_error=0.01,
    counts=COUNTS,
    schedule=ScheduleBound(
        strategy="importance", nats_per_token=1.9, standard_error=0.02, rate_nats_per_token=0.1, counts=COUNTS
    ),
    left_to_right=OrderCost(
        order="left_to_right",
        nats_per_token=1.7,
        standard_error=0.03,
        counts=COUNTS,
        evaluations=1.0,
        sequences=SequenceSums.of([1 / 3, 2.0], [16, 4]),
    ),
    own_orders=(
        OrderCost(
            order="first_hitting",
            is_exact=False,
            num_steps=8,
            evaluations=7.5,
            nats_per_token=2.2,
            standard_error=0.04,
            counts=COUNTS,
        ),
    ),
    t_step=(StepBound(num_steps=64, schedule="linear", nats_per_token=2.1, standard_error=0.01, counts=COUNTS),),
    deciles=DecileCosts(
        num_tokens=10.0,
        nats_per_token=(3.0, 1.0),
        standard_error=(0.1, 0.2),
        num_scored_tokens=(7.0, 8.0),
        num_types=(5, 1),
        train_count_min=(0, 9),
        train_count_max=(8, 9),
    ),
    blocks=BlockSums(
        score=rounded([1 / 3, 12345.678901]),
        length=(16.0, 16.0),
        schedule_score=(1.0, 2.0),
        decile_score=((1.0, 2.0), (3.0, 4.0)),
        decile_length=((5.0, 6.0), (7.0, 8.0)),
    ),
    num_draws=1024,
    num_sequences=9,
    seed=3,
    profile=MaskRateProfile(
        mask_rate=(0.5,), nats_per_masked_token=(2.0,), standard_error=(0.1,), num_masked_tokens=(77,)
    ),
    unigram=Cost(nats_per_token=3.0, standard_error=0.001, counts=COUNTS),
    step=1200,
    checkpoint="step-00001200",
    checkpoint_hash="9f2c",
    text=TextIdentity(
        split="valid", corpus={"spec": "a.txt"}, corpus_hash="ab", tokenizer="char", mode="wrap", eos=True, length=16
    ),
    code_version="0.1.0",
    machine=Machine(cpu="a processor", device="CPU", precision="float32"),
    against=Comparison(
        name="runs/b",
        nats_per_token=2.2,
        file="b.json",
        uniform=UNIFORM,
        orders=(OrderDifference(name="left to right", **{**vars(UNIFORM), "num_groups": 7}),),
        deciles=(UNIFORM, UNIFORM),
        notes=("why",),
    ),
    cautions=("beware",),
)


def test_one_bound_in_every_unit_with_its_error():
    cost = Cost(nats_per_token=2.0, standard_error=0.01, counts=COUNTS)
    assert cost.perplexity_per_token == pytest.approx(math.exp(2))
    assert cost.perplexity_per_token_standard_error == pytest.approx(0.01 * math.exp(2))
    assert cost.perplexity_per_word == pytest.approx(math.exp(4))
    assert cost.nats_per_character == pytest.approx(0.5)
    assert cost.bits_per_character == pytest.approx(0.5 / math.log(2))
    assert cost.bits_per_character_standard_error == pytest.approx(0.0025 / math.log(2))
    assert cost.bits_per_byte == pytest.approx(0.4 / math.log(2))


def test_a_unit_whose_count_is_not_known_is_not_a_number():
    cost = Cost(nats_per_token=2.0, counts=TextCounts(num_tokens=100, num_characters=400))
    assert cost.bits_per_character == pytest.approx(0.5 / math.log(2))
    assert math.isnan(cost.perplexity_per_word)
    assert math.isnan(cost.bits_per_byte)
    assert math.isnan(cost.standard_error)


def test_an_evaluation_comes_back_from_its_file_whole(tmp_path):
    file = WHOLE.save(tmp_path / "e.json")
    found = Evaluation.load(file)
    assert found == WHOLE
    assert found.file == file
    assert found.to_json() == json.loads(file.read_text())


def test_sums_keep_8_digits_in_a_line():
    stored = WHOLE.to_json()["blocks"]
    assert stored["score"] == "0.33333333 12345.679"
    assert stored["decile_score"] == ["1 2", "3 4"]


def test_the_json_keeps_the_first_versions_names_and_null_for_what_is_no_number():
    alone = replace(WHOLE, standard_error=math.nan)
    record = alone.to_json()
    assert (record["nelbo_nats_per_token"], record["standard_error"]) == (2.0, None)
    assert record["schedule"]["nelbo_nats_per_token"] == 1.9
    assert record["t_step"][0]["nelbo_nats_per_token"] == 2.1
    for name in ("perplexity_per_token", "perplexity_per_word", "nats_per_character", "bits_per_byte"):
        assert record[name] == getattr(WHOLE, name)
    assert (record["num_words"], record["corpus_hash"], record["tokenizer"]) == (50, "ab", "char")
    json.dumps(record, allow_nan=False)
    assert math.isnan(Evaluation.from_json(record).standard_error)


def test_a_file_of_before_the_format_number_is_read():
    old = WHOLE.to_json()
    del old["format"]
    assert Evaluation.from_json(old) == WHOLE
    later = ("blocks", "deciles", "t_step", "against", "left_to_right", "own_orders")
    oldest = {name: value for name, value in old.items() if name not in later}
    found = Evaluation.from_json(oldest)
    assert (found.blocks, found.deciles, found.t_step, found.against) == (None, None, (), None)
    assert (found.left_to_right, found.own_orders) == (None, ())
    assert found.own_bound.nats_per_token == 1.9


def finals() -> list[dict[str, Any]]:
    """Every evaluation in the results that the documentation shows."""
    runs = [run for file in RESULTS.glob("*.json") for run in json.loads(file.read_text()).get("runs", [])]
    whole = json.loads((RESULTS / "char-tinyshakespeare.json").read_text())
    return [whole, *(run["final"] for run in runs if run.get("final"))]


def test_every_evaluation_of_the_published_results_is_read_with_the_numbers_it_was_stored_with():
    assert len(finals()) > 10
    for stored in finals():
        found = Evaluation.from_json(stored)
        assert found.nats_per_token == stored["nelbo_nats_per_token"]
        assert found.perplexity_per_token == pytest.approx(stored["perplexity_per_token"])
        assert found.bits_per_character == pytest.approx(stored["bits_per_character"])
        assert found.is_bound == (stored["profile"] is not None)
        if stored["schedule" if "schedule" in stored else "unigram"] is not None and "schedule" in stored:
            assert found.schedule is not None
            assert found.schedule.nats_per_token == stored["schedule"]["nelbo_nats_per_token"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "a.json holds no evaluation; expected a file of a run's evals/"),
        ([], "holds no evaluation"),
        ({"nelbo_nats_per_token": 1.0, "format": 2}, "is of format 2, and this version .* up to format 1: update"),
        ({"nelbo_nats_per_token": "1"}, r"a.json is damaged \('1' is no number\)"),
        ({"nelbo_nats_per_token": 1.0, "kind": "guess"}, "damaged"),
        ({"nelbo_nats_per_token": 1.0, "blocks": {"size": 16}}, r"it has no 'score'"),
        ({"nelbo_nats_per_token": 1.0, "deciles": {"nats_per_token": ["x"]}}, "damaged"),
        ({"nelbo_nats_per_token": 1.0, "schedule": []}, "damaged"),
    ],
)
def test_what_is_no_evaluation_is_damaged_or_of_a_later_version_is_refused(content, message):
    with pytest.raises(UserError, match=message):
        Evaluation.from_json(content, source="a.json")


def test_a_file_that_is_not_there_or_no_json_is_refused(tmp_path):
    (tmp_path / "half.json").write_text(json.dumps(WHOLE.to_json())[:100])
    with pytest.raises(UserError, match="is damaged"):
        Evaluation.load(tmp_path / "half.json")
    with pytest.raises(UserError, match="there is no file"):
        Evaluation.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("num_draws", "kind", "factor"), [(32, "nelbo", 12.706), (128, "nelbo", 2.3646), (8, "exact", 2.3646)]
)
def test_the_interval_of_2_and_of_8_blocks_is_students_and_is_shown(num_draws, kind, factor):
    few = replace(WHOLE, num_draws=num_draws, kind=kind)
    assert few.interval95 == pytest.approx((2 - factor * 0.01, 2 + factor * 0.01), abs=1e-5)
    shown = [line for line in result_table(few) if "95% interval" in line]
    assert len(shown) == 1
    assert f"{few.interval95[0]:.4f} to {few.interval95[1]:.4f} by Student's t" in shown[0]
    assert not any("95% interval" in line for line in result_table(WHOLE))  # of 64 blocks


def test_a_validation_text_that_was_trained_on_in_part_says_so_beside_its_numbers() -> None:
    accounts = {"repeated": {"documents": 3, "of": 12, "is_exact": True}}
    said = "repeated   3 of 12 validation documents (25%) are in the training text too"
    for split, is_said in (("valid", True), ("train", False)):
        found = replace(WHOLE, text=replace(WHOLE.text, split=split, accounts=accounts))
        assert (said in result_table(found)) == is_said
        again = Evaluation.from_json(json.loads(json.dumps(found.to_json())))
        assert again.text.accounts == accounts
    assert not any(line.startswith("repeated") for line in result_table(WHOLE))


def test_an_evaluation_shows_its_numbers_with_their_errors_and_says_at_most_of_a_bound():
    assert repr(WHOLE) == (
        "Evaluation(at most 2.0000 ± 0.0100 nats per token, 0.7213 ± 0.0036 bits per character, perplexity 7.39, "
        "PPL-S 6.69, left to right 1.7000 ± 0.0300, own order of first_hitting, 7.5 evaluations at most 2.2000 ± "
        "0.0400; 1,024 draws of valid (char tokens), step 1,200)"
    )
    exact = replace(WHOLE, kind="exact", schedule=None, left_to_right=None, own_orders=())
    assert repr(exact).startswith("Evaluation(exactly 2.0000")
    page = WHOLE._repr_html_()
    assert page.count("<tr>") == 6  # a head, both bounds, left to right, an own order and the unigram model
    assert "<th>left to right</th><td>1.7000 ± 0.0300</td>" in page
    assert "<td>at most 2.0000 ± 0.0100</td>" in page
    assert "<td>3.0000 ± 0.0010</td>" in page
    assert "at most" not in exact._repr_html_()
    named = replace(WHOLE, zero_shot="<script>", unigram=Cost(nats_per_token=3.0))
    assert "&lt;script&gt;" in named._repr_html_()
    assert "nan" not in named._repr_html_()


def test_a_line_of_metrics_is_an_evaluation_of_the_same_text():
    line = {"step": 50, "eval/nelbo_nats_per_token": 2.0, "eval/standard_error": 0.1}
    found = Evaluation.from_metrics(line, kind="nelbo", counts=COUNTS)
    assert (found.step, found.standard_error, found.schedule) == (50, 0.1, None)
    assert found.bits_per_character == pytest.approx(0.5 / math.log(2))
    own = {"eval/schedule_nelbo_nats_per_token": 1.5, "eval/schedule_standard_error": 0.2}
    found = Evaluation.from_metrics({**line, **own}, kind="nelbo", strategy="importance")
    assert (found.own_bound.nats_per_token, found.own_bound.standard_error) == (1.5, 0.2)


def test_reading_evaluations_needs_no_torch():
    code = "import sys, mdlm_atat.scoring.records; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_likelihoods_of_a_model_are_listed_by_name_with_what_is_exact():
    assert [(name, cost.nats_per_token, is_exact) for name, cost, is_exact in WHOLE.likelihoods] == [
        ("any order (PPL-U)", 2.0, False),
        ("any order, its own masking by importance (PPL-S)", 1.9, False),
        ("left to right", 1.7, True),
        ("own order of first_hitting, 7.5 evaluations", 2.2, False),
    ]
    causal = Evaluation(kind="exact", nats_per_token=1.5, standard_error=0.1, counts=COUNTS)
    ((name, cost, is_exact),) = causal.likelihoods
    assert (name, is_exact) == ("left to right", True)
    assert (cost.nats_per_token, cost.standard_error, cost.counts) == (1.5, 0.1, COUNTS)


def test_a_causal_models_evaluation_of_before_is_left_to_right_too():
    old = {"kind": "exact", "nelbo_nats_per_token": 1.5, "standard_error": 0.1}
    found = Evaluation.from_json(old).left_to_right
    assert found is not None
    assert (found.nats_per_token, found.is_exact, found.sequences) == (1.5, True, None)


def test_sums_of_3000_sequences_are_kept_in_750_groups_of_4_and_those_of_1024_each_alone():
    sums = SequenceSums.of([float(i) for i in range(3000)], [2] * 2999 + [1])
    assert (sums.num_sequences, sums.size, len(sums.score)) == (3000, 4, 750)
    assert sums.score[:2] == (0 + 1 + 2 + 3, 4 + 5 + 6 + 7)
    assert (sums.length[0], sums.length[-1]) == (8, 7)
    assert SequenceSums.of([1.0] * 1024, [1] * 1024).size == 1
