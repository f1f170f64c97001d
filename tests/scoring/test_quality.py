"""What is recorded of measured samples: curves, what is no worse than one token at a time, files of all versions."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mdlm_atat.errors import UserError
from mdlm_atat.scoring.quality import (
    REFERENCE,
    HowSampled,
    Needed,
    QualitySetting,
    SamplePoint,
    SampleQuality,
    TextQuality,
    is_no_worse,
)
from mdlm_atat.scoring.records import TextIdentity

REAL = TextQuality(num_samples=80, num_tokens=128, entropy_nats=5.0, entropy_error=0.03)
RESULTS = Path(__file__).parents[2] / "docs" / "results" / "samplers-novels.json"


def point(
    sampler: str, steps: int | None, nfe: float, judge: float, entropy: float, temperature: float = 1.0
) -> SamplePoint:
    return SamplePoint(
        num_samples=80,
        num_tokens=128,
        how=HowSampled(sampler, steps, temperature),
        nfe_mean=nfe,
        judge_nats=judge,
        judge_error=0.03,
        entropy_nats=entropy,
        entropy_error=0.03,
    )


ONE_AT_A_TIME = point(REFERENCE, None, 100, 4.0, 5.2)


def record(*points: SamplePoint) -> SampleQuality:
    return SampleQuality(
        setting=QualitySetting(num_texts=8, length=16),
        weights="ab",
        judge="a judge",
        real=REAL,
        points=points,
        text=TextIdentity(corpus_hash="c0"),
    )


@pytest.mark.parametrize(
    ("judge", "entropy", "no_worse"),
    [
        (4.08, 5.2, True),  # two standard errors of the difference are 0.085
        (4.09, 5.2, False),
        (3.0, 5.2, True),
        (4.0, 5.28, True),
        (4.0, 5.29, False),  # further from validation text's 5.0
        (4.0, 5.0, True),
        (3.0, 4.72, True),  # as far as the reference, on the other side
        (3.0, 4.71, False),  # dull, however cheap
    ],
)
def test_no_worse_is_within_2_standard_errors_in_judge_and_in_distance_to_real_entropy(judge, entropy, no_worse):
    assert is_no_worse(point("x", 8, 8, judge, entropy), ONE_AT_A_TIME, REAL) == no_worse


def test_of_8_texts_no_worse_is_within_2_365_standard_errors_by_students_t():
    few = replace(ONE_AT_A_TIME, num_samples=8)
    for judge, no_worse in ((4.0 + 2.364 * 0.03 * 2**0.5, True), (4.0 + 2.366 * 0.03 * 2**0.5, False)):
        assert is_no_worse(replace(point("x", 8, 8, judge, 5.2), num_samples=8), few, REAL) == no_worse


def test_what_is_needed_is_the_fewest_evaluations_from_which_on_all_are_no_worse():
    points = [
        ONE_AT_A_TIME,
        *(point("a", n, n, judge, 5.2) for n, judge in ((8, 4.0), (16, 4.5), (32, 4.01), (64, 4.0))),
        point("bad", 50, 50, 4.5, 5.2),
        point("threshold:threshold=0.9", None, 90, 4.0, 5.2),
        point("threshold:threshold=0.5", None, 40, 4.0, 5.2),
    ]
    assert record(*points).needed() == {  # 8 evaluations were luck: 16 are worse
        "a": Needed(nfe=32, share=0.32),
        "threshold": Needed(nfe=40, share=0.4),
    }
    assert record(*points[1:]).needed() == {}


def test_curves_are_samplers_or_temperatures_or_both():
    cold, warm = (point("a", 8, 8, 4, 5, temperature) for temperature in (0.5, 1.0))
    assert list(record(cold, warm).curves()) == ["temperature 0.5", "temperature 1"]
    other = point("b", 8, 8, 4, 5)
    assert list(record(warm, other).curves()) == ["a", "b"]
    assert list(record(cold, other).curves()) == ["a, temperature 0.5", "b, temperature 1"]


def test_a_record_comes_back_from_its_file_and_what_was_not_measured_is_left_out(tmp_path):
    whole = replace(record(ONE_AT_A_TIME, point("a", 8, 8, 4.0, 5.2)), is_complete=True)
    stored = whole.save(tmp_path / "q.json")
    content = json.loads((tmp_path / "q.json").read_text())
    assert SampleQuality.load(tmp_path / "q.json").to_json() == content
    assert SampleQuality.load(tmp_path / "q.json").find(HowSampled("a", 8)) is not None
    assert "mauve" not in content["points"][0]
    assert content["needed"] == {"a": {"nfe": 8, "share": 0.08}}
    assert stored.file == tmp_path / "q.json"


def test_files_of_before_the_format_number_are_read_of_samples_and_of_benches():
    old = record(point("a", 8, 8, 4.0, 5.2)).to_json()
    for name in ("format", "task", "num_scored", "span", "seed_rule"):
        del old[name]
    old["sampler"] = "a"
    del old["points"][0]["sampler"]
    found = SampleQuality.from_json(old)
    assert found.points[0].how == HowSampled("a", 8)
    assert (found.seed_rule, found.setting.task) == ("add", "generate")


def test_every_published_bench_of_samplers_is_read_with_its_numbers():
    benches = [bench for tasks in json.loads(RESULTS.read_text()).values() for bench in tasks.values()]
    assert len(benches) > 3
    for bench in benches:
        found = SampleQuality.from_json(bench)
        assert [one.judge_nats for one in found.points] == [one["judge_nats"] for one in bench["points"]]
        assert found.setting.num_texts == bench["num_texts"]
        stored = {name: needed["nfe"] for name, needed in bench["needed"].items()}
        assert {name: needed.nfe for name, needed in found.needed().items()} == pytest.approx(stored, abs=0.1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "holds no evaluation of samples"),
        ({"points": []}, "holds no evaluation of samples"),
        ({"points": [], "num_texts": 2, "length": 4, "format": 9}, "is of format 9"),
        ({"points": [{}], "num_texts": 2, "length": 4}, r"damaged \(it has no 'sampler'\)"),
        ({"points": [], "num_texts": "2", "length": 4}, "damaged"),
        ({"points": [], "num_texts": 1, "length": 4}, "`num_texts` is 1, expected at least 2"),
    ],
)
def test_what_is_no_record_is_damaged_or_of_a_later_version_is_refused(content, message):
    with pytest.raises(UserError, match=message):
        SampleQuality.from_json(content)


def test_points_of_another_model_judge_seed_or_text_do_not_join():
    mine = record()
    own: dict[str, Any] = {name: getattr(mine, name) for name in ("setting", "weights", "judge", "text")}
    mine.check_takes(**own)
    for changed, name in (
        ({"weights": "cd"}, "weights"),
        ({"judge": None}, "judge"),
        ({"setting": replace(mine.setting, seed=1)}, "seed"),
        ({"text": TextIdentity(corpus_hash="d1")}, "corpus_hash"),
    ):
        with pytest.raises(UserError, match=f"with another {name}; name another file with `save=`"):
            mine.check_takes(**{**own, **changed})
    replace(mine, text=TextIdentity()).check_takes(**own)  # of a bench of an earlier version: not known
    assert math.isnan(REAL.repetition)
