"""What is derived from runs is what can be worked out by hand, and a report needs nothing but results.json."""

from __future__ import annotations

import json
import math
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest

from mdlm_atat.cli.main import main
from mdlm_atat.report.experiment_markdown import report_markdown
from mdlm_atat.scoring.cost import OrderCost, ScheduleBound, SequenceSums, order_json
from mdlm_atat.scoring.records import BlockSums, Evaluation
from mdlm_atat.studies.caveats import caveats_of
from mdlm_atat.studies.derived import derive
from mdlm_atat.studies.run_record import curve, interpolate, seconds_per_step, training_seconds
from mdlm_atat.studies.steps_to_baseline import DECAYED, first_crossing
from mdlm_atat.training.metrics import Metrics
from studies.grids import grid_file, run, use_stand_in


def made_run(arm: str, seed: int, nats: float, **changed: Any) -> dict[str, Any]:
    """A finished run of 100 steps of 10 tokens, half a second each, on a corpus called c."""
    arm, _, share = arm.partition("@")
    steps = round(100 * float(share or 1))
    own = changed.pop("own", None)
    schedule = {"strategy": "importance" if own else "uniform", "nelbo_nats_per_token": own or nats}
    made = {
        "arm": f"{arm}@{share}" if share else arm,
        "branch_of": arm if share else None,
        "share": float(share or 1),
        "corpus": "c",
        "seed": seed,
        "status": "done",
        "attempts": [[seed, seed + 0.5, "host", arm]],
        "machine": {"device": "GPU", "cpu": "CPU", "precision": "bf16"},
        "commit": "abc",
        "config": {"optim.decay": "cosine"},
        "command": f"atat train {arm}",
        "num_parameters": 1000,
        "num_steps": steps,
        "num_tokens": 10 * steps,
        "train_seconds": steps / 2,
        "seconds_per_step": 0.5,
        "peak_memory_bytes": 100,
        "calibration": None,
        "final": {
            "kind": "nelbo",
            "nelbo_nats_per_token": nats,
            "standard_error": 0.01,
            "num_draws": 1600,
            "schedule": {**schedule, "standard_error": 0.01},
            "profile": {"mask_rate": [0.5], "nats_per_masked_token": [nats]},
        },
        "best": {"step": steps, "nats": own or nats, "final": None},
        "curve": {"step": [steps], "nats": [nats], "standard_error": [0.01], "schedule_nats": None},
    }
    return made | changed


def made_results(runs: list[dict[str, Any]], reference: list[str] | None = None) -> dict[str, Any]:
    arms = dict.fromkeys(run["branch_of"] or run["arm"] for run in runs)
    results: dict[str, Any] = {
        "name": "made",
        "description": "",
        "baseline": "mdlm",
        "reference": reference or [],
        "budget": {"unit": "steps", "amount": 100, "steps": 100},
        "created": "2026-01-01T00:00:00",
        "code_version": "0",
        "commit": None,
        "arms": {arm: {"description": "", "config_differences": {}, "baseline_values": {}} for arm in arms},
        "runs": [run for run in runs if run["branch_of"] is None],
        "branch_runs": [run for run in runs if run["branch_of"] is not None],
    }
    results["derived"] = derive(results)
    results["caveats"] = caveats_of(results)
    return results


def seeds(arm: str, values: list[float], **changed: Any) -> list[dict[str, Any]]:
    return [made_run(arm, seed, nats, **changed) for seed, nats in enumerate(values)]


def in_order(order: str, nats: float, num_steps: int | None = None) -> dict[str, Any]:
    """What a text of 40 sequences of 10 tokens costs in one order, as an evaluation stores it."""
    each = [10 * nats + (-1) ** number for number in range(40)]
    sums = SequenceSums.of(each, [10] * 40)
    cost = OrderCost(order=order, num_steps=num_steps, evaluations=num_steps or 1, nats_per_token=nats, sequences=sums)
    return order_json(cost)


def test_arms_are_compared_in_each_order_that_both_have_and_exact_values_with_exact_ones_alone():
    def with_orders(arm: str, nats: list[float], exact: float | None, spread: float | None) -> list[dict[str, Any]]:
        runs = seeds(arm, nats)
        for number, made in enumerate(runs):
            final = made["final"]
            final["left_to_right"] = None if exact is None else in_order("left_to_right", exact + 0.01 * number)
            final["own_orders"] = [] if spread is None else [in_order("spread", spread - 0.01 * number, 16)]
        return runs

    causal = seeds("causal", [3.6, 3.6])
    for made in causal:
        made["final"] |= {"kind": "exact", "schedule": None, "profile": None}
        made["final"]["left_to_right"] = in_order("left_to_right", 3.6)
    runs = [*with_orders("mdlm", [4.0, 4.0], None, 4.1), *with_orders("both", [4.0, 4.0], 3.7, 4.0), *causal]
    results = made_results(runs, reference=["causal"])
    found = results["derived"]["c"]
    (spread,) = found["mdlm"]["orders"]
    assert (spread["name"], spread["difference"]) == ("own order of spread, 16 evaluations", None)
    assert spread["mean_nats"] == pytest.approx(4.095)
    exact, own = found["both"]["orders"]
    assert (exact["name"], exact["is_exact"], exact["num_seeds"]) == ("left to right", True, 2)
    assert exact["difference"]["against"] == "causal"  # the baseline has no such value
    assert exact["difference"]["mean_nats"] == pytest.approx(0.105)
    assert own["difference"]["against"] == "mdlm"
    assert own["difference"]["mean_nats"] == pytest.approx(-0.1)
    assert [record["difference"] for record in found["causal"]["orders"]] == [None]
    page = report_markdown(results)
    table = page[page.index("By the likelihood of one order") : page.index("Perplexities are per token")]
    assert "an exact value is no rival of a bound in the table above" in table
    assert "| arm | left to right, exact | own order of spread, 16 evaluations, exact |" in table
    assert "against causal" in table
    assert "against mdlm" in table
    assert "By the likelihood of one order" not in report_markdown(made_results(seeds("mdlm", [4.0])))


def test_a_paired_difference_is_far_surer_than_the_spread_over_seeds():
    found = made_results([*seeds("mdlm", [4.0, 4.4, 4.8]), *seeds("a", [3.9, 4.31, 4.69])])["derived"]["c"]
    assert found["mdlm"]["ppl_u"]["mean_nats"] == pytest.approx(4.4)
    assert found["mdlm"]["ppl_u"]["perplexity"] == pytest.approx(math.exp(4.4))
    low, high = found["mdlm"]["ppl_u"]["interval95"]
    assert high - low == pytest.approx(2 * 4.30265 * 0.4 / math.sqrt(3), rel=1e-4)
    difference = found["a"]["difference"]
    assert difference["mean_nats"] == pytest.approx(-0.1)
    assert difference["standard_error"] == pytest.approx(0.01 / math.sqrt(3))
    assert difference["significant"] is True
    assert difference["p_value"] < 0.01
    assert difference["relative_perplexity"] == pytest.approx(math.exp(-0.1) - 1)
    assert found["mdlm"]["difference"] is None


def test_the_error_of_draws_that_all_seeds_share_is_in_the_mean():
    # three seeds that differ by less than the draws they are scored on: standard error 0.01 of each
    found = made_results(seeds("mdlm", [4.0, 4.001, 4.002]))["derived"]["c"]["mdlm"]["ppl_u"]
    assert found["standard_error"] == pytest.approx(math.hypot(0.01, 0.001 / math.sqrt(3)))
    low, high = found["interval95"]
    assert high - low == pytest.approx(2 * 1.98 * 0.01, rel=0.02)  # 100 blocks: nearly a normal's


def test_an_arm_that_diverged_by_900_nats_is_one_line_of_a_table_and_no_overflow():
    results = made_results([*seeds("mdlm", [4.0, 4.4, 4.8]), *seeds("a", [904.0, 904.4, 904.8])])
    page = report_markdown(results)
    assert "1 × 10^306% higher perplexity" in page
    assert max(map(len, page.splitlines())) < 500


def test_a_difference_below_twice_its_error_is_none_and_the_caveats_say_so():
    results = made_results([*seeds("mdlm", [4.0, 4.0, 4.0]), *seeds("a", [3.9, 4.0, 4.05])])
    assert results["derived"]["c"]["a"]["difference"]["significant"] is False
    assert any(s.startswith("a against mdlm on c: -0.017 ± 0.044 nats") and "chance" in s for s in results["caveats"])
    assert "no difference (-0.017 ± 0.044 nats" in report_markdown(results)


def test_two_seeds_with_p_above_5_percent_are_no_difference_though_it_is_twice_its_error():
    found = made_results([*seeds("mdlm", [4.0, 4.0]), *seeds("a", [3.9, 3.94])])["derived"]["c"]["a"]["difference"]
    assert abs(found["mean_nats"]) > 2 * found["standard_error"]
    assert found["significant"] is False


def test_a_method_is_judged_by_its_own_schedule_even_where_ppl_u_is_lower():
    found = made_results([*seeds("mdlm", [4.0, 4.1]), *seeds("a", [3.5, 3.6], own=3.9)])["derived"]["c"]["a"]
    assert found["own"] == "ppl_s"
    assert found["difference"]["mean_nats"] == pytest.approx(-0.5)
    assert found["own_difference"]["mean_nats"] == pytest.approx(-0.15)
    assert found["ppl_s"]["mean_nats"] == pytest.approx(3.9)


def test_only_seeds_that_both_have_are_paired():
    found = made_results([*seeds("mdlm", [4.0, 4.1, 9.0]), *seeds("a", [3.9, 4.0])])["derived"]["c"]["a"]
    assert found["difference"]["num_pairs"] == 2
    assert found["difference"]["mean_nats"] == pytest.approx(-0.1)


def test_one_seed_without_stored_draws_is_not_tested():
    results = made_results([made_run("mdlm", 0, 4.0), made_run("a", 0, 3.0)])
    difference = results["derived"]["c"]["a"]["difference"]
    assert (difference["significant"], difference["p_value"], difference["standard_error"]) == (None, None, None)
    assert any(sentence.startswith("One seed only on c for mdlm, a") for sentence in results["caveats"])


def scored(*nats: float) -> dict[str, Any]:
    """The final evaluation of a run, with what each of its blocks of 16 tokens costs."""
    mean = sum(nats) / len(nats)
    return Evaluation(
        kind="nelbo",
        nats_per_token=mean,
        standard_error=0.5,
        num_draws=16 * len(nats),
        schedule=ScheduleBound(strategy="uniform", nats_per_token=mean, standard_error=0.5),
        blocks=BlockSums(score=tuple(16 * part for part in nats), length=(16.0,) * len(nats)),
    ).to_json()


def test_with_one_seed_the_error_is_that_of_the_blocks_and_p_of_t_with_one_degree_less_than_blocks():
    runs = [
        made_run("mdlm", 0, 0, final=scored(4.0, 5.0, 4.0, 3.0)),
        made_run("a", 0, 0, final=scored(3.9, 4.8, 3.7, 2.8)),
    ]
    found = made_results(runs)["derived"]["c"]["a"]["difference"]
    error = statistics.stdev([0.1, 0.2, 0.3, 0.2]) / 2
    assert (found["mean_nats"], found["standard_error"]) == (pytest.approx(-0.2), pytest.approx(error))
    assert found["interval95"] == pytest.approx((-0.2 - 3.18245 * error, -0.2 + 3.18245 * error), abs=1e-4)
    assert found["p_value"] == pytest.approx(0.0163, abs=1e-4)  # scipy.stats.ttest_1samp of the same
    assert (found["over"], found["significant"]) == ("draws", True)


def test_over_seeds_the_error_of_the_draws_that_they_share_is_added():
    mine = [[3.9, 4.8, 3.7, 2.8], [3.8, 4.7, 3.6, 2.7], [3.9, 4.8, 3.7, 2.8]]
    runs = [made_run("mdlm", seed, 0, final=scored(4.0, 5.0, 4.0, 3.0)) for seed in range(3)]
    runs += [made_run("a", seed, 0, final=scored(*nats)) for seed, nats in enumerate(mine)]
    found = made_results(runs)["derived"]["c"]["a"]["difference"]
    of_draws = statistics.stdev([0.1, 0.2, 0.3, 0.2]) / 2  # the same in every seed
    of_seeds = statistics.stdev([0.2, 0.3, 0.2]) / math.sqrt(3)
    assert found["standard_error"] == pytest.approx(math.hypot(of_draws, of_seeds))
    assert (found["over"], found["num_pairs"]) == ("seeds", 3)


def test_arms_that_were_trained_unequally_are_told():
    rate = {"optim.decay": "cosine", "optim.lr": 1e-3}
    other = made_run("a", 0, 3.0, num_tokens=620, num_parameters=3700, config=rate | {"optim.lr": 0.02})
    alike = made_run("b", 0, 3.0, num_parameters=1020, config=rate)
    caveats = made_results([made_run("mdlm", 0, 4.0, config=rate), other, alike])["caveats"]
    expected = "a on c had 62% of the tokens and the learning rate 0.02 in place of 0.001 and 3.70 times the parameters"
    assert f"{expected} of mdlm." in caveats
    assert not any(sentence.startswith("b on c had") for sentence in caveats)


def test_an_exact_baseline_beside_bounds_is_said_to_be_one():
    exact = made_run("mdlm", 0, 4.0)
    exact["final"]["kind"] = "exact"
    results = made_results([exact, made_run("a", 0, 4.1)])
    assert any(sentence.startswith("The value of the baseline mdlm is exact") for sentence in results["caveats"])


def test_steps_to_the_baseline_are_interpolated_over_log_steps_between_decayed_runs():
    runs = [made_run("mdlm", 0, 4.0), made_run("a@0.25", 0, 4.2), made_run("a", 0, 3.8)]
    found = made_results(runs)["derived"]["c"]["a"]
    steps = found["steps_to_baseline"]
    assert steps["steps"] == pytest.approx(50)  # half-way from 25 to 100 on a log scale
    assert (steps["share"], steps["how"], steps["at_most"]) == (pytest.approx(0.5), DECAYED, False)
    assert found["tokens_to_baseline"]["tokens"] == pytest.approx(500)
    assert found["gpu_seconds_to_baseline"]["gpu_seconds"] == pytest.approx(25)


def test_where_the_shortest_run_is_past_the_baseline_its_steps_are_an_upper_bound():
    results = made_results([made_run("mdlm", 0, 4.0), made_run("a@0.25", 0, 3.9), made_run("a", 0, 3.8)])
    steps = results["derived"]["c"]["a"]["steps_to_baseline"]
    assert (steps["steps"], steps["decayed"], steps["at_most"]) == (25, True, True)
    assert "at most 25% of the steps (25 steps, 250 tokens, 12 seconds, 25%)" in report_markdown(results)


def test_from_one_curve_they_are_an_upper_bound_and_the_caveats_say_so():
    line = {"step": [10, 20, 40, 100], "standard_error": [0.1] * 4, "schedule_nats": None}
    baseline = made_run("mdlm", 0, 4.0, curve={**line, "nats": [6.0, 5.0, 4.5, 4.1]})
    mine = made_run("a", 0, 3.0, curve={**line, "nats": [5.0, 4.5, 3.9, 3.0]}, seconds_per_step=1.0)
    results = made_results([baseline, mine])
    steps = results["derived"]["c"]["a"]["steps_to_baseline"]
    # 4.1 is the baseline's last value by the same draws; two thirds of the way from 4.5 to 3.9
    assert steps["steps"] == pytest.approx(20 * 2 ** (2 / 3))
    assert (steps["how"], steps["decayed"], steps["at_most"]) == ("upper bound from an undecayed curve", False, True)
    seconds = results["derived"]["c"]["a"]["gpu_seconds_to_baseline"]
    assert seconds["share"] == pytest.approx(2 * steps["share"])  # its steps take twice as long
    assert any("the learning rate had not decayed" in sentence for sentence in results["caveats"])
    assert "at most 32% of the steps (32 steps" in report_markdown(results)


def test_what_is_not_reached_and_a_reference_have_no_steps_to_the_baseline():
    runs = [made_run("mdlm", 0, 4.0), made_run("a", 0, 4.5), made_run("causal", 0, 3.0)]
    found = made_results(runs, reference=["causal"])["derived"]["c"]
    assert found["a"]["steps_to_baseline"] is None
    assert found["a"]["steps_to_baseline_note"] == "seed 0 does not reach the baseline's 4.0000 nats"
    assert (found["causal"]["steps_to_baseline"], found["causal"]["steps_to_baseline_note"]) == (None, None)
    assert found["causal"]["difference"]["mean_nats"] == -1.0


def test_an_exact_value_beside_bounds_is_a_caveat():
    exact = made_run("causal", 0, 3.0)
    exact["final"] |= {"kind": "exact", "schedule": None}
    results = made_results([made_run("mdlm", 0, 4.0), exact], reference=["causal"])
    assert any(s.startswith("The value of causal is exact") for s in results["caveats"])
    assert "| `causal`, reference | 1 | 20.09 (3.0000 nats, exact, no bound) |" in report_markdown(results)
    assert not any("exact" in s for s in made_results([made_run("mdlm", 0, 4.0)])["caveats"])


@pytest.mark.parametrize(
    ("target", "expected"),
    [(5.0, (1.0, True)), (4.0, (10.0, False)), (3.0, (100.0, False)), (2.9, None), (3.5, (10**1.5, False))],
)
def test_a_curve_crosses_a_value_where_its_line_over_log_steps_does(target, expected):
    found = first_crossing([(1.0, 5.0), (10.0, 4.0), (100.0, 3.0), (200.0, 3.5)], target)
    assert found == (expected and (pytest.approx(expected[0]), expected[1]))


def test_overhead_is_that_of_arms_timed_alone_where_they_were():
    timed = [
        made_run(arm, 0, 4.0, calibration={"seconds_per_step": s}, seconds_per_step=9.0, num_parameters=n)
        for arm, s, n in (("mdlm", 0.2, 100), ("a", 0.21, 102))
    ]
    overhead = made_results(timed)["derived"]["c"]["a"]["overhead"]
    assert overhead["seconds_per_step_ratio"] == pytest.approx(1.05)
    assert overhead["parameters_ratio"] == pytest.approx(1.02)
    assert overhead["peak_memory_ratio"] == 1
    assert overhead["timed"] == "alone, before the runs"


def test_caveats_name_failed_runs_shared_devices_other_machines_and_a_rate_that_never_decays():
    sharing = [[0.0, 2.0, "host", "0"]]
    runs = [
        made_run("mdlm", 0, 4.0, attempts=sharing, config={"optim.decay": "constant"}),
        made_run("a", 0, 3.0, attempts=[[1.0, 3.0, "host", "0"]]),
        made_run("b", 0, 3.0, attempts=[[1.0, 3.0, "host", "1"]], commit="abd"),
        made_run("c", 0, 3.0, machine={"device": "CPU", "cpu": "CPU", "precision": "float32"}),
        made_run("d", 0, 3.0, status="failed", final=None),
    ]
    found = "\n".join(made_results(runs)["caveats"])
    assert "1 of 5 runs failed and are left out: d on c, seed 0." in found
    assert "2 of 5 runs shared a device" in found
    assert "2 kinds of machine" in found
    assert "2 versions of the code: abc, abd" in found
    assert "The learning rate of mdlm never decays" in found


def test_a_run_whose_runner_was_killed_is_not_said_to_have_shared_a_device_ever_after():
    killed = made_run("mdlm", 0, 4.0, attempts=[[1.0, None, "host", "0"]])
    later = made_run("a", 0, 4.0, attempts=[[2.0, 3.0, "host", "0"]])
    assert not any("shared a device" in sentence for sentence in made_results([killed, later])["caveats"])
    killed["status"] = "running"
    assert any("2 of 2 runs shared a device" in sentence for sentence in made_results([killed, later])["caveats"])


def test_a_run_that_ends_above_its_best_is_named():
    bad = made_run("a", 1, 4.0, best={"step": 40, "nats": 3.9, "final": None})
    assert any("a on c, seed 1. The numbers are those of the last step" in s for s in made_results([bad])["caveats"])


def test_training_seconds_leave_evaluation_out():
    lines = [  # 100 tokens a step and 2 s a step in the first lap, 1 s after; elapsed_s would count more
        {"step": 10, "train/loss": 1.0, "train/tokens": 1000, "train/tokens_per_s": 50.0},
        {"step": 20, "train/loss": 1.0, "train/tokens": 2000, "train/tokens_per_s": 100.0},
        {"step": 40, "train/loss": 1.0, "train/tokens": 4000, "train/tokens_per_s": 100.0},
    ]
    training = Metrics.from_lines(lines)
    assert training_seconds(training) == [20.0, 30.0, 50.0]
    assert training_seconds(training, per_step=0.5) == [line["step"] / 2 for line in lines]
    assert seconds_per_step(training) == 1.0
    evaluation = {"step": 30, "eval/nelbo_nats_per_token": 2.0, "eval/standard_error": 0.1}
    found = curve(Metrics.from_lines([*lines, evaluation]), training, training_seconds(training))
    assert (found["step"], found["seconds"], found["tokens"]) == ([30], [40.0], [3000.0])
    assert found["train_loss"]["step"] == [10, 20, 40]
    assert interpolate(5, [10], [20.0]) == 10.0


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two arms by two seeds, trained by the stand-in: atat ends half a nat below mdlm."""
    folder = tmp_path_factory.mktemp("experiment")
    with pytest.MonkeyPatch.context() as patch:
        use_stand_in(patch, folder, with_page=True)
        assert run(grid_file(folder, reference=[]), folder / "out") == 0
    return folder / "out"


@pytest.fixture
def experiment(trained: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return shutil.copytree(trained, tmp_path / "out")


def test_a_report_is_made_from_results_json_alone(experiment):
    before = json.loads((experiment / "results.json").read_text())
    shutil.rmtree(experiment / "runs")
    for name in ("report.md", "report.html"):
        (experiment / name).unlink()
    assert main(["experiment", "report", str(experiment)]) == 0
    after = json.loads((experiment / "results.json").read_text())
    assert after["runs"] == before["runs"]
    assert after["derived"] == before["derived"]
    assert "| `atat` | 2 |" in (experiment / "report.md").read_text()
    page = (experiment / "report.html").read_text()
    assert "atat" in page
    assert "mdlm" in page


def test_every_run_knows_its_command_commit_data_machine_and_configuration(experiment):
    results = json.loads((experiment / "results.json").read_text())
    assert len(results["runs"]) == 4
    for entry in results["runs"]:
        assert entry["command"].startswith("atat train demo --method")
        assert (entry["commit"], entry["machine"]["cpu"]) == ("abc", "stand-in")
        assert len(entry["data"]["hash"]) == 64
        assert entry["config"]["train.seed"] == entry["seed"]
        assert (entry["num_steps"], entry["num_tokens"]) == (8, 8 * 8 * 16)
        assert entry["train_flops"] == results["arms"][entry["arm"]]["flops_per_token"] * entry["num_tokens"]
        assert entry["samples"] == [{"text": f"{entry['arm']} says", "step": 8}]
        assert entry["curve"]["step"] == [4, 8]
        assert entry["curve"]["seconds"] == [2.0, 4.0]
    assert results["derived"]["text.txt"]["atat"]["difference"]["mean_nats"] == pytest.approx(-0.5)
    assert results["arms"]["atat"]["config_differences"]["objective.causal_share"] == 0.625
    assert results["arms"]["atat"]["baseline_values"]["objective.causal_share"] == 0
    assert results["arms"]["mdlm"]["config_differences"] == {}


def test_the_markdown_has_the_table_the_caveats_the_differences_and_the_commands(experiment):
    text = (experiment / "report.md").read_text()
    for heading in ("## text.txt", "## Caveats", "## What differs between the arms", "## Commands", "## Machines"):
        assert heading in text
    assert "- Two seeds only on text.txt for mdlm, atat" in text
    assert "| `objective.causal_share` | 0.0 | 0.625 |" in text
    assert text.count("    atat train demo --method") == 4


def test_status_shows_states_steps_speed_and_the_time_left(experiment, capsys):
    assert main(["experiment", "status", str(experiment)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "mdlm-seed-0  done     step 8 of 8              256 tokens/s"
    assert said[-1] == "4 runs: 4 done"
    shutil.rmtree(experiment / "runs/atat/seed-1")
    assert main(["experiment", "status", str(experiment)]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == ["atat-seed-1  done     step 8 of 8", "4 runs: 4 done"]
    (experiment / "results.json").unlink()
    assert main(["experiment", "status", str(experiment)]) == 0
    *lines, whole = capsys.readouterr().out.splitlines()
    assert lines[-1] == "atat-seed-1  waiting  step 0 of 8                                   4 s left"
    assert whole == "4 runs: 3 done, 1 waiting; 4 s of training left"
