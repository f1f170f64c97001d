"""Where leads go with more tokens, and what the tables say of budgets that are stored and of those that are not."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from benchmarks.results import budgets, goals, to_come
from benchmarks.results import stored as stored_files
from benchmarks.results.trend import fitted

from mdlm_atat.scoring.statistics import interval_factor, mean_with_interval, t_quantile

RESULTS = stored_files.FOLDER


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty docs/results."""
    for module in (stored_files, budgets, to_come, goals):
        monkeypatch.setattr(module, "FOLDER", tmp_path)
    stored_files.stored.cache_clear()
    monkeypatch.setattr(budgets, "tokens_of", lambda runs: sum(run.num_tokens for run in runs) / len(runs))
    yield tmp_path
    stored_files.stored.cache_clear()


def store(folder: Path, file: str, seconds: float, **nats: list[float]) -> None:
    """An experiment whose arms have these values, any order or left to right for the causal one, a seed each."""
    runs = [
        {"arm": arm, "seed": seed, "num_steps": 9, "num_tokens": round(1e6 * seconds), "train_s": seconds}
        | {"left_to_right" if arm == "causal" else "any_order": [value, 0.01]}
        for arm, values in nats.items()
        for seed, value in enumerate(values)
    ]
    arms = {arm: {"description": ""} for arm in nats}
    content = {"runs": runs, "baseline": "mdlm", "reference": ["causal"] if "causal" in nats else [], "arms": arms}
    (folder / file).write_text(json.dumps(content))


def test_three_pairs_at_1_2_and_4_tokens_have_the_line_of_the_textbook():
    line = fitted([(1, 0.0), (2, 1.0), (4, 1.0)])
    assert line is not None
    assert (line.slope, line.level, line.middle, line.spread) == pytest.approx((0.5, 2 / 3, 1, 2))
    assert line.scatter == pytest.approx(math.sqrt(1 / 6))  # residuals -1/6, 1/3, -1/6; one degree of freedom
    at_8 = line.at(8)
    assert at_8.value == pytest.approx(5 / 3)
    assert at_8.standard_error == pytest.approx(math.sqrt(1 / 6 * (1 / 3 + 4 / 2)))
    assert at_8.interval95 is not None
    assert at_8.interval95[1] - at_8.value == pytest.approx(t_quantile(0.975, 1) * (at_8.standard_error or 0))
    assert line.doubling.standard_error == pytest.approx(math.sqrt(1 / 6 / 2))


def test_a_budget_weighs_as_much_as_it_has_pairs():
    """The line through the means of budgets, with their number of pairs as weights."""
    line = fitted([(2, -0.3), (2, -0.5), (8, -0.1)])
    assert line is not None
    assert (line.at(2).value, line.at(8).value) == pytest.approx((-0.4, -0.1))
    assert line.at(2).standard_error == pytest.approx(math.sqrt(0.02) / math.sqrt(2))  # as of the two alone
    assert line.at(8).standard_error == pytest.approx(math.sqrt(0.02))


def test_a_lead_that_halves_from_100_to_200_million_tokens_is_nothing_at_400_and_two_pairs_have_no_error():
    line = fitted([(1e8, -0.2), (2e8, -0.1)])
    assert line is not None
    zero = line.zero()
    assert zero is not None
    assert (zero.tokens, zero.interval95) == (pytest.approx(4e8), None)
    assert (line.at(8e8).value, line.at(8e8).standard_error) == (pytest.approx(0.1), None)
    assert line.doubling.interval95 is None
    assert budgets.zero(line) == "400M, no error known"
    growing = fitted([(1e8, -0.1), (2e8, -0.2)])
    assert growing is not None
    assert (growing.zero(), budgets.zero(growing)) == (None, "does not shrink")
    assert fitted([(1e8, -0.1), (1e8, -0.2)]) is None
    assert fitted([]) is None


@pytest.mark.parametrize("noise", [0.001, 0.01, 0.03])
def test_where_the_zero_may_be_is_where_the_line_cannot_be_told_from_0(noise: float):
    pairs = [(n * 1e8, -0.4 + 0.1 * math.log2(n) + sign * noise) for n in (1, 2, 4) for sign in (-1, 1)]
    line = fitted(pairs)
    assert line is not None
    zero = line.zero()
    assert zero is not None
    assert zero.interval95 is not None
    assert zero.tokens == pytest.approx(16e8)
    assert zero.interval95[0] < zero.tokens < zero.interval95[1]
    for end in zero.interval95:
        there = line.at(end)
        assert abs(there.value) == pytest.approx(interval_factor(4) * (there.standard_error or 0), rel=1e-6)


def test_a_slope_that_cannot_be_told_from_0_leaves_the_zero_without_an_end():
    line = fitted([(n * 1e8, -0.4 + 0.01 * math.log2(n) + sign * 0.05) for n in (1, 2) for sign in (-1, 1)])
    assert line is not None
    zero = line.zero()
    assert zero is not None
    assert zero.interval95 is not None
    low, high = zero.interval95
    assert (low > 2e8, high) == (True, math.inf)
    assert abs(line.at(low).value) == pytest.approx(interval_factor(2) * (line.at(low).standard_error or 0), rel=1e-6)
    assert budgets.zero(line).endswith(", no end]")


def test_a_lead_that_cannot_be_told_from_0_anywhere_may_be_0_anywhere():
    line = fitted([(n * 1e8, -0.004 + 0.002 * math.log2(n) + sign * 0.05) for n in (1, 2) for sign in (-1, 1)])
    assert line is not None
    zero = line.zero()
    assert zero is not None
    assert zero.interval95 == (0, math.inf)
    assert budgets.zero(line) == "400M [0M, no end]"


def test_nothing_stored_is_commands_and_each_budget_that_comes_is_a_column(folder: Path):
    assert budgets.by_budget("code").count("--out runs/fresh-") == 2
    assert budgets.by_budget("code").startswith(
        "Not measured yet: `atat experiment run docs/results/fresh-seconds.yaml"
    )
    store(folder, "fresh-30s.json", 30.0, mdlm=[4.5, 4.7], atat=[4.3, 4.4], causal=[3.6])
    store(folder, "fresh-120s.json", 120.0, mdlm=[4.0], atat=[3.9])
    table, missing = budgets.by_budget("code").split("\n\n")
    fresh = "atat experiment run docs/results/fresh-seconds.yaml"
    assert table.splitlines() == [
        "| likelihood | | 30M tokens | 120M tokens |",
        "|---|---|---|---|",
        "| any order | `mdlm` | 4.600 ± 0.100 | 4.000 ± 0.010 |",
        "| any order | `atat` | 4.350 ± 0.050 | 3.900 ± 0.010 |",
        "| any order | `atat` minus `mdlm` | -0.250 ± 0.050 (-22%, 2 pairs) | -0.100 (-9.5%, 1 pair) |",
        "| left to right | causal | 3.600 ± 0.010 | |",
    ]
    assert missing == (
        f"Not measured yet: `{fresh} --budget gpu_seconds=30 --out runs/fresh-30s --done docs/results/fresh-30s.json` "
        f"(3 runs), `{fresh}`, `{fresh} --budget gpu_seconds=120 --out runs/fresh-120s --done "
        "docs/results/fresh-120s.json` (6 runs)."
    )
    lead = budgets.Lead("code", "any_order", "atat", "mdlm")
    assert lead.pairs() == [(30e6, pytest.approx(-0.2)), (30e6, pytest.approx(-0.3)), (120e6, pytest.approx(-0.1))]


def test_of_a_budget_with_all_runs_of_its_command_nothing_is_missing_and_own_orders_are_rows(folder: Path):
    others = {"time_sampling_only": [4.4, 4.5], "causal": [3.6, 3.7]}
    store(folder, "novels-30s.json", 30.0, mdlm=[4.5, 4.7], atat=[4.3, 4.4], **others)
    content: dict[str, Any] = json.loads((folder / "novels-30s.json").read_text())
    for run, value in zip(content["runs"], (4.6, 4.8, 4.2, 4.3), strict=False):
        run["own_order"] = {"16": [value, 0.01]}
    (folder / "novels-30s.json").write_text(json.dumps(content))
    table, missing = budgets.by_budget("novels").split("\n\n")
    assert "| own order, 16 | `atat` minus `mdlm` | -0.450 ± 0.050 (-36%, 2 pairs) |" in table.splitlines()
    assert "novels-30s" not in missing
    del content["runs"][1]["own_order"]
    (folder / "novels-30s.json").write_text(json.dumps(content))
    stored_files.stored.cache_clear()
    assert "| own order, 16 | `mdlm` | 4.600 ± 0.010 (1 of 2 seeds) |" in budgets.by_budget("novels").splitlines()
    assert "--seeds 0 1 --out runs/novels-120s" in missing
    store(folder, "novels-30s.json", 30.0, mdlm=[4.5, 4.7], atat=[4.3], **others)
    stored_files.stored.cache_clear()
    assert "--seeds 0 1 --out runs/novels-30s --done docs/results/novels-30s.json` (1 run)" in budgets.by_budget(
        "novels"
    )


def test_a_lead_that_has_two_budgets_is_a_row_with_its_line_at_ten_times_the_largest(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    """Four pairs at 30M and 120M tokens, 0.01 about a line that rises by 0.1 a doubling; t of 2 degrees is 4.303."""
    monkeypatch.setattr(budgets, "OLDER", [])
    store(folder, "fresh-30s.json", 30.0, mdlm=[4.0, 4.1], atat=[3.71, 3.79])
    store(folder, "fresh-120s.json", 120.0, mdlm=[4.0, 4.1], atat=[3.91, 3.99])
    store(folder, "novels-30s.json", 30.0, mdlm=[4.0], atat=[3.9])  # one budget has no line
    assert budgets.trend().splitlines()[2:] == [
        "| code | any order, `atat` minus `mdlm` | 2 | 4 | +0.100 ± 0.007 [0.070, 0.130] | 1.2B | "
        "+0.232 ± 0.031 [0.097, 0.367] | +26% | 240M [165M, 463M] |"
    ]


def test_the_share_of_the_seconds_is_read_between_two_budgets_over_log_seconds(folder: Path):
    assert goals._share_to_largest("code").reached == "open"
    store(folder, "fresh-30s.json", 30.0, mdlm=[4.6], atat=[4.3])
    store(folder, "fresh-seconds.json", 60.0, mdlm=[4.4], atat=[4.1])
    assert goals._share_to_largest("code").reached == "open"
    store(folder, "fresh-120s.json", 120.0, mdlm=[4.2], atat=[4.0])
    found = goals._share_to_largest("code")  # half way from 30 to 60 s, 42 s of 120
    assert (found.measured, found.reached) == ("35%", "no")
    store(folder, "fresh-30s.json", 30.0, mdlm=[4.6], atat=[4.1])
    stored_files.stored.cache_clear()
    assert (goals._share_to_largest("code").measured, goals._share_to_largest("code").reached) == ("at most 25%", "yes")
    for file, seconds in (("fresh-30s.json", 30.0), ("fresh-seconds.json", 60.0), ("fresh-120s.json", 120.0)):
        store(folder, file, seconds, mdlm=[4.2], atat=[4.5])
    stored_files.stored.cache_clear()
    assert (goals._share_to_largest("code").measured, goals._share_to_largest("code").reached) == (
        "more than 100%",
        "no",
    )


def test_a_run_that_is_not_there_yet_leaves_the_share_open_below_a_third(folder: Path):
    store(folder, "fresh-30s.json", 30.0, mdlm=[4.6], atat=[4.3])
    store(folder, "fresh-120s.json", 120.0, mdlm=[4.2])
    found = goals._share_to_largest("code")
    assert (found.measured, found.reached) == ("more than 25%", "open")


@pytest.mark.parametrize(
    ("values", "measured", "reached"),
    [
        ([-0.20], "-18.1%, one pair", "in the mean"),
        ([-0.20, -0.201], "-18.2% [-18.7%, -17.6%], 2 pairs", "yes"),
        ([-0.20, -0.16], "-16.5% [-35.2%, +7.7%], 2 pairs", "in the mean"),
        ([-0.10], "-9.5%, one pair", "no"),
    ],
)
def test_a_goal_is_reached_by_a_whole_interval_and_by_one_pair_in_the_mean_alone(
    values: list[float], measured: str, reached: str
):
    found = goals._at_most(mean_with_interval(values), -0.15)
    assert (found.measured, found.reached) == (measured, reached)


def test_a_goal_in_nats_is_reached_as_far_as_the_worst_of_its_likelihoods(monkeypatch: pytest.MonkeyPatch):
    columns = {"any_order": 4.05, "left_to_right": 3.6}
    kinds = [{"arm": "atat", "seed": n, "num_steps": 9, "left_to_right": [3.59, 0.01]} for n in range(3)]
    found = []
    for values in ([4.02, 4.03, 4.02], [4.02, 4.06, 4.02], [4.06, 4.06, 4.02], [4.02]):
        entries = [{**kind, "any_order": [value, 0.01]} for kind, value in zip(kinds, values, strict=False)]
        monkeypatch.setattr(goals, "older_novels", lambda entries=entries: {"atat": stored_files.runs_in(entries)})
        found.append(goals._nats_at_most(columns))
    assert found[0].measured == "4.023 ± 0.003 and 3.590 ± 0.000"
    assert [one.reached for one in found] == ["yes", "in the mean", "in the mean", "in the mean"]
    columns["left_to_right"] = 3.5
    assert goals._nats_at_most(columns).reached == "no"


def test_an_experiment_is_a_table_of_its_arms_and_their_differences_to_what_has_the_same_likelihood(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    assert to_come.experiment("size.json") == "Not measured yet: `atat experiment run docs/results/size.yaml`."
    monkeypatch.setattr(to_come, "tokens_of", budgets.tokens_of)
    store(folder, "size.json", 200.0, mdlm=[4.6, 4.4], atat=[4.3, 4.0], causal=[3.6])
    content: dict[str, Any] = json.loads((folder / "size.json").read_text())
    content["runs"][2]["left_to_right"] = [3.7, 0.01]
    for run, value in zip(content["runs"][:3:2], (4.7, 4.2), strict=True):
        run["own_order"] = {"16": [value, 0.01]}
    (folder / "size.json").write_text(json.dumps(content))
    assert to_come.experiment("size.json").splitlines() == [
        "| | seeds | tokens | any order, at most | minus `mdlm` | own order, 16 | minus `mdlm` | left to right | "
        "minus causal |",
        "|---|---|---|---|---|---|---|---|---|",
        "| `mdlm` | 2 | 200M | 4.500 ± 0.100 | | 4.700 ± 0.010 (1 of 2 seeds) | | | |",
        "| `atat` | 2 | 200M | 4.150 ± 0.150 | -0.350 ± 0.050 [-0.985, 0.285] (-30%) | 4.200 ± 0.010 (1 of 2 seeds) | "
        "-0.500 (-39%) | 3.700 ± 0.010 (1 of 2 seeds) | +0.100 (+11%) |",
        "| causal | 1 | 200M | | | | | 3.600 ± 0.010 | |",
        "",
        "Not measured yet: `atat experiment run docs/results/size.yaml --done docs/results/size.json` (1 run).",
    ]


def test_own_orders_of_other_samplers_stand_beside_those_of_spread_and_are_not_taken_for_them(folder: Path):
    content: dict[str, Any] = json.loads((RESULTS / "novels-seconds.json").read_text())
    with_own = [run for run in content["runs"] if run["arm"] == "atat" and run["final"]["own_orders"]]
    content["runs"] = with_own[:2]
    for run, less in zip(content["runs"], (0.02, 0.04), strict=True):
        spread = next(one for one in run["final"]["own_orders"] if one["num_steps"] == 16)
        value = spread["nelbo_nats_per_token"] - less
        run["final"]["own_orders"].append({**spread, "order": "dilated", "nelbo_nats_per_token": value})
    (folder / "novels-estimator.json").write_text(json.dumps(content))
    head, _, *rows = to_come.own_orders("novels-estimator.json").split("\n\n")[0].splitlines()
    assert head == "| | order | evaluations | nats per token | minus `spread` |"
    found = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]
    assert [row[1:3] for row in found] == [["`spread`", "16"], ["`dilated`", "16"], ["`spread`", "64"]]
    assert [row[4] for row in found] == ["", "-0.030 ± 0.010", ""]
    spread, dilated = (float(row[3].partition(" ")[0]) for row in found[:2])
    assert dilated == pytest.approx(spread - 0.03, abs=1e-3)
