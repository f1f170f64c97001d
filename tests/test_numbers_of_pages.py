"""The numbers on the pages about results are those of docs/results/*.json."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from benchmarks.results import __main__ as command
from benchmarks.results import budgets, pictures, to_come
from benchmarks.results import stored as stored_files
from benchmarks.results.markdown import percent_interval
from benchmarks.results.novels import with_newest
from benchmarks.results.pages import PageError, unmarked, written
from benchmarks.results.stored import FOLDER, difference_of, mean_of, runs_in

from mdlm_atat.scoring.statistics import mean_with_interval

TABLES = {"squares": lambda *numbers: "|" + "|".join(str(int(n) ** 2) for n in numbers) + "|"}
VALUES = {"half": lambda n: f"{int(n) / 2:.2f} ± 0.01", "word": lambda: "much"}


def test_every_number_of_every_page_is_what_make_results_writes_and_none_is_without_a_source():
    assert "\n".join(command.differences()) == ""


@pytest.mark.parametrize(
    ("page", "code", "message"),
    [
        ("a <!--=half 3-->1.50 ± 0.01 b", 0, ""),
        ("a <!--=half 3-->1.51 ± 0.01 b", 1, "make results writes numbers and pictures anew"),
        ("a <!--=hlaf 3-->1.50 ± 0.01 b", 2, "error: page.md: 'hlaf' is none of"),
        (None, 2, "page.md; git checkout brings it back"),
    ],
)
def test_what_the_check_finds_is_its_exit_code_and_what_to_do(page, code, message, tmp_path, monkeypatch, capsys):
    values = {"PAGES": ["page.md"], "WITHOUT_BARE_NUMBERS": [], "ROOT": tmp_path, "VALUES": VALUES, "stale": list}
    for name, value in values.items():
        monkeypatch.setattr(command, name, value)
    if page is not None:
        (tmp_path / "page.md").write_text(page)
    assert command.main(["--check"]) == code
    printed = capsys.readouterr()
    assert message in printed.out + printed.err
    assert bool(message) == bool(printed.out + printed.err)


def test_a_page_is_written_from_its_marks_and_writing_it_again_changes_nothing():
    page = "It is <!--=half 5--> and\n\n<!-- table: squares 2 3 -->\nold\n<!-- end -->\n\n"
    page += "3,000 <!--=half 6-->9,999.5 ± 7, so.\n"
    once = written(page, TABLES, VALUES)
    assert "It is <!--=half 5-->2.50 ± 0.01 and" in once
    assert "-->\n\n|4|9|\n\n<!-- end -->" in once
    assert "3,000 <!--=half 6-->3.00 ± 0.01, so." in once
    assert written(once, TABLES, VALUES) == once


def test_an_interval_is_a_number_too():
    values: dict[str, Any] = {"interval": lambda: "[-0.001, 0.015]"}
    once = written("from <!--=interval-->[-1.002, 3] on", {}, values)
    assert once == "from <!--=interval-->[-0.001, 0.015] on" == written(once, {}, values)


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("a <!--=third 3-->1", "'third' is none of half, word"),
        ("a <!--=half-->1", "TypeError"),
        ("a <!--=word-->1", "'much', which is neither a number nor an interval"),
        ("<!--=half 3-->1.50 begins a line", "a line begins with a mark"),
        ("- <!--=half 3-->1.50 begins a list", "a line begins with a mark"),
        ("a\n  <!--=half 3-->1.50 begins an indented line", "a line begins with a mark"),
        ("<!-- table: squares 1 -->\n|1|\n", "no end mark"),
        ("<!-- table: cubes 1 -->\n|1|\n<!-- end -->", "'cubes' is none of squares"),
    ],
)
def test_a_mark_that_nothing_can_be_written_for_is_named(page: str, message: str):
    with pytest.raises(PageError, match=message):
        written(page, TABLES, VALUES)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It costs 4.027 nats, 40% less.", ["4.027", "40%"]),
        ("It costs <!--=half 5-->4.027 ± 0.002 nats, -<!--=half 5-->40% of it.", []),
        ("<!-- table: squares 1 -->\n\n|4.5|\n\n<!-- end -->\n", []),
        ("It costs **4.0**, or 5 ± 1", ["4.0", "5 ± 1"]),
        ("    atat train --optim.lr 0.5\n\n`0.5`, arXiv 2406.07524, section 4.4, torch 2.11.0+cu130, 33.6M", []),
        ("    a command with 0.5\nand 0.5 after it", ["0.5"]),
        ("[0.5](a.md#0.5)", ["0.5"]),
        ("484,000 tokens/s after 1,500 steps in 3 minutes, a 95% interval", ["484,000 tokens/s", "3 minutes"]),
        ("<!-- a comment with 0.5 -->", []),
    ],
)
def test_numbers_that_look_measured_need_a_mark(text: str, found: list[str]):
    assert unmarked(text) == found


def runs(arm: str, values: list[float], **more: object) -> list[dict[str, object]]:
    kinds = [{"arm": arm, "seed": n, "num_steps": 9, "any_order": [value, 0.01]} for n, value in enumerate(values)]
    return [{**kind, **more} for kind in kinds]


def test_an_arm_and_a_seed_that_are_added_to_the_file_are_in_the_means_and_the_paired_differences():
    mine, theirs = runs_in(runs("a", [4.0, 4.2, 4.1])), runs_in(runs("b", [4.5, 4.5]))
    mean, difference = mean_of(mine, "any_order"), difference_of(mine, theirs, "any_order")
    assert mean is not None
    assert (mean.value, mean.standard_error) == pytest.approx((4.1, 0.1 / math.sqrt(3)))
    assert difference is not None
    assert (difference.num, difference.value, difference.standard_error) == pytest.approx((2, -0.4, 0.1))
    assert mean_of(mine, "left_to_right") is None
    one, pair = mean_of(mine[:1], "any_order"), difference_of(mine[:1], theirs[:1], "any_order")
    assert one is not None
    assert one.standard_error == 0.01  # over the draws
    assert pair is not None
    assert pair.standard_error is None


def test_every_number_that_is_stored_as_it_was_published_has_its_command_and_is_on_the_log():
    log = json.loads(Path(command.ROOT, "docs/results/log.json").read_text())
    page = Path(command.ROOT, "docs/results/log.md").read_text()
    for name, published in log["tables"].items():
        assert f"<!-- table: published {name} -->" in page
        assert all(published[key] for key in ("date", "machine", "command", "rows"))
    for section, published in log["said"].items():
        assert all(published[key] for key in ("date", "machine", "command"))
        assert [name for name in published["numbers"] if f"<!--=said {section} {name}-->" not in page] == []


def test_a_picture_is_stale_until_it_is_drawn_of_the_numbers_that_are_stored(tmp_path: Path):
    assert pictures.stale(tmp_path) == list(pictures.PICTURES)
    judge = pictures.judge()
    text = pictures.drawn(judge)
    root = ElementTree.fromstring(text)
    assert text.count("font-size: 12.5px") > 5  # of a picture of 360: legible on a phone
    assert root.attrib["width"] == "360pt"
    assert judge.title in text
    (tmp_path / "judge.svg").write_text(text)
    assert pictures.stale(tmp_path) == [name for name in pictures.PICTURES if name != "judge.svg"]
    other = replace(judge, lines=(replace(judge.lines[0], points=((8.0, 4.0), (16.0, 3.9))), *judge.lines[1:]))
    assert other.hash not in text


def test_an_arm_comes_in_place_of_an_older_one_when_it_has_as_many_seeds():
    older = {"a": runs_in(runs("a", [4.0, 4.1])), "b": runs_in(runs("b", [5.0, 5.1]))}
    newest = {"a": runs_in(runs("a", [3.0])), "b": runs_in(runs("b", [4.9, 4.9])), "c": runs_in(runs("c", [1.0]))}
    joined = with_newest(older, newest)
    assert {arm: [run.numbers["any_order"].value for run in arms] for arm, arms in joined.items()} == {
        "a": [4.0, 4.1],
        "b": [4.9, 4.9],
        "c": [1.0],
    }


def test_a_sweep_has_a_column_for_each_optimizer_and_rate_and_is_named_by_its_command_until_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(stored_files, "FOLDER", tmp_path)
    monkeypatch.setattr(to_come, "FOLDER", tmp_path)
    monkeypatch.setattr(budgets, "FOLDER", tmp_path)
    monkeypatch.setattr(budgets, "GRIDS", tmp_path)
    assert to_come.sweep("made-up.json") == (
        "Not measured yet: `atat experiment run docs/results/made-up.yaml --processes 6`."
    )
    arms = [*runs("times_muon_2e-3", [4.5]), *runs("times_adamw_1_2e-3", [4.8])]
    (tmp_path / "made-up.json").write_text(json.dumps({"runs": arms}))
    (tmp_path / "made-up.yaml").write_text(
        "arms: {times_muon_2e-3: {}, times_adamw_1_2e-3: {}, mdlm_muon_2e-3: {}}\nseeds: [0]"
    )
    assert to_come.sweep("made-up.json").splitlines() == [
        "| | AdamW 1.2e-3 | Muon 2e-3 |",
        "|---|---|---|",
        "| `time_sampling_only`, any order | 4.800 ± 0.010 | 4.500 ± 0.010 |",
        "",
        "Not measured yet: `atat experiment run docs/results/made-up.yaml --processes 6 "
        "--done docs/results/made-up.json` (1 run).",
    ]


def test_an_interval_in_per_cent_is_of_perplexity_and_one_pair_has_none():
    # a mean of -0.026 nats with an error of 0.002, of which Student's t of two pairs takes 12.7
    assert percent_interval(mean_with_interval([-0.0243, -0.0285])) == "[-5.2%, +0.0%]"
    with pytest.raises(ValueError, match="no interval"):
        percent_interval(mean_with_interval([-0.0243]))


def test_an_experiment_says_the_number_of_parameters_that_its_runs_have():
    said = {}
    for file in sorted(FOLDER.glob("*.json")):
        stored = json.loads(file.read_text(encoding="utf-8"))
        found = re.search(r"(\d+)(\.\d+)?M parameters", stored.get("description", ""))
        if found is not None:
            decimals = len(found[2] or ".") - 1
            said[file.name] = float(found[1] + (found[2] or ""))
            differences = {arm: content["config_differences"] for arm, content in stored["arms"].items()}
            plain = [run for run in stored["runs"] if differences[run["arm"]].get("importance.mode") in (None, "none")]
            assert {round(run["num_parameters"] / 1e6, decimals) for run in plain} == {said[file.name]}, file.name
    assert said["novels-seconds.json"] == 29.4
    assert said["wikitext-2-rates.json"] == 124


def test_a_seed_that_is_stored_twice_is_refused():
    with pytest.raises(ValueError, match="stored twice: a, 9 steps, seed 0"):
        runs_in([*runs("a", [4.0]), *runs("a", [4.1])])


def test_an_experiments_results_and_entries_made_by_hand_are_read_alike():
    stored = json.loads(Path(command.ROOT, "docs/results/wiki27.json").read_text())["runs"]
    (first,) = runs_in([stored[0]])
    final = stored[0]["final"]
    assert first.numbers["any_order"].value == final["nelbo_nats_per_token"]
    assert first.numbers["own_schedule"].error == final["schedule"]["standard_error"]
    causal = runs_in([run for run in stored if run["arm"] == "causal"])[0]
    assert set(causal.numbers) == {"left_to_right"}  # a causal network's exact value is no bound
    own = runs_in(
        runs("a", [4.0], own_order={"16": [3.9, 0.01], "own order of spread, 255.9 evaluations": [3.8, 0.01]})
    )
    assert (own[0].numbers["own_order_16"].value, own[0].numbers["own_order_256"].value) == (3.9, 3.8)
    assert runs_in([{**stored[0], "final": None}]) == []  # failed, or not done yet
    assert runs_in(runs("a", [4.0], train_s=9.0, shared_card=True))[0].train_s is None
