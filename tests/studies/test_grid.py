"""A grid is checked whole before anything runs: every mistake at once, with its path."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from mdlm_atat.config.arguments import read_config
from mdlm_atat.config.files import flags_of, load_config, read_flags
from mdlm_atat.config.yaml_text import yaml_text
from mdlm_atat.errors import UserError
from mdlm_atat.studies.grid import Budget, grid_tree, merge
from mdlm_atat.studies.grid_file import describe_grids, load_grid, select
from mdlm_atat.studies.jobs import (
    budget_steps,
    differences,
    flat_settings,
    jobs_of,
    run_config,
    train_words,
    variants_of,
)
from mdlm_atat.studies.processes import run_command
from mdlm_atat.studies.results import _arms
from mdlm_atat.studies.run import open_study
from mdlm_atat.training import log
from mdlm_atat.training.flops import training_flops_per_token
from studies.grids import SETTINGS, grid_file

ROOT = Path(__file__).parents[2]


THROUGH_BOUND = {"importance.through_bound": True, "masking.strategy": "position", "masking.position": "table"}


def mistakes(folder: Path, **changed: Any) -> list[str]:
    with pytest.raises(UserError) as caught:
        load_grid(str(grid_file(folder, **changed)))
    first, *rest = str(caught.value).splitlines()
    assert first.startswith(str(folder / "tiny.yaml"))
    alone = first.partition("tiny.yaml: ")[2]
    return ([] if alone.endswith("mistakes") else [alone]) + [line.strip() for line in rest]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"arms": None}, "arms: there are none"),
        ({"arms": {}}, "arms: there are none"),
        ({"baseline": None}, "baseline: missing; expected one of the arms: mdlm, atat"),
        ({"baseline": "mdml"}, "baseline: 'mdml' is no arm; did you mean mdlm?; mdlm, atat"),
        ({"reference": ["causl"]}, "reference: 'causl' is no arm; mdlm, atat"),
        ({"reference": ["mdlm"]}, "reference: 'mdlm' is the baseline too"),
        ({"base": "dmeo"}, "unknown preset 'dmeo'; did you mean demo?"),
        ({"base": None}, "arms.mdlm: no base: name a preset or a YAML file"),
        ({"arms": {"mdlm": {"method": "mdml"}}}, "arms.mdlm: unknown method 'mdml'; did you mean mdlm?"),
        ({"arms": {"mdlm": {"methd": "mdlm"}}}, "arms.mdlm.methd: unknown key; did you mean method?"),
        (
            {"arms": {"mdlm": {}, "b": {"overrides": {"optim.lrr": 1}}}},
            "arms.b: optim.lrr: unknown key; did you mean optim.lr?",
        ),
        (
            {"arms": {"mdlm": {}, "b": {"overrides": {"optim.lr": "fast"}}}},
            "arms.b: optim.lr: expected a number, found 'fast'",
        ),
        ({"arms": {"mdlm": {}, "../b": {}}}, "arms.../b: '../b' cannot be the name of a folder"),
        ({"budget": {"steps": 5, "tokens": 9}}, "budget: given twice, in steps and in tokens; keep one"),
        ({"budget": {"step": 5}}, "budget.step: unknown key; did you mean steps?"),
        ({"budget": {"steps": 0}}, "budget.steps: expected a number above 0, found 0"),
        ({"budget": {"steps": 2.5}}, "budget.steps: expected a whole number, found 2.5"),
        ({"budget": None}, "budget: expected one of steps, tokens, flops, gpu_seconds"),
        ({"seeds": [0, 1, 1]}, "seeds: 1 given twice; a seed repeats the same run"),
        ({"seeds": 3}, "seeds: expected whole numbers from 0 on, e.g. [0, 1, 2], found 3"),
        ({"branches": [0.5]}, "branches: expected different shares of the budget with 1.0 among them"),
        ({"overrides": {"train.seed": 3}}, "overrides.train.seed: is set by the grid's `seeds`; leave it out"),
        ({"overrides": {"train": {"num_steps": 3}}}, "overrides.train.num_steps: is set by the grid's `budget`"),
        (
            {"arms": {"mdlm": {}, "b": {"overrides": {"data.source": "shakespeare"}}}},
            "arms.b: data.source is 'shakespeare'",
        ),
        (
            {"arms": {"mdlm": {}, "b": {"overrides": {"eval.final_num_draws": 64}}}},
            "arms.b: eval.final_num_draws is 64, and 32 in the baseline mdlm: they could not be compared",
        ),
        ({"arms": {"mdlm": {}, "b": {"overrides": {"data.length": 4}}}}, "arms.b: data.length is 4, and"),
        (
            {
                "arms": {"mdlm": {}, "mdlm-b": {}},
                "data": {"c": {"source": "shakespeare"}, "b-c": {"source": "shakespeare"}},
            },
            "arms, data: two runs would be called mdlm-b-c: rename an arm or a corpus",
        ),
        ({"sedes": [0]}, "sedes: unknown key; did you mean seeds?"),
        (
            {"overrides": {"train.batch_size": 12}},
            "arms.atat: objective.causal_share = 0.625 reads 5 of every 8 sequences left to right, and train.batch_size"
            " = 12 is no multiple of 8: try `train.batch_size=16`",
        ),
        (
            {"overrides": {"train.batch_size": 16, "train.num_micro_batches": 4}},
            "arms.atat: objective.causal_share = 0.625 reads 5 of every 8 sequences left to right, and train.batch_size"
            " = 16 over 4 micro-batches, 4 at once, is no multiple of 8: try `train.batch_size=32`",
        ),
        (
            {"arms": {"mdlm": {"method": "mdlm", "overrides": {"train.batch_size": 7, **THROUGH_BOUND}}}},
            "arms.mdlm: importance.through_bound masks every sequence twice, and train.batch_size = 7 is 7 to mask at"
            " once, not an even number: try `train.batch_size=8`",
        ),
        ({"overrides": {"train.residual": "bf16", "train.precision": "float32"}}, "train.residual = bf16 is for bf16"),
        ({"arms": {"mdlm": {"overrides": {"lora.rank": 8, "optim.kind": "adamw"}}}}, "arms.mdlm: lora.rank is set"),
    ],
)
def test_a_wrong_grid_says_what_is_wrong_and_where(tmp_path, changed, message):
    assert any(line.startswith(message) for line in mistakes(tmp_path, **changed)), mistakes(tmp_path, **changed)


def test_a_logger_that_no_run_of_a_grid_could_write_to_is_told_before_any_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(log, "find_spec", lambda _: None)
    (message,) = mistakes(tmp_path, overrides={"train.loggers": ["wandb"], "train.batch_size": 8})
    assert message == "the logger wandb is not installed; run: pip install 'mdlm-atat[wandb]'"


def test_an_experiment_that_has_begun_is_read_though_an_arm_of_it_cannot_be_trained(tmp_path):
    tree = grid_tree(load_grid(str(grid_file(tmp_path))))
    tree["overrides"] = {**SETTINGS, "train.batch_size": 12}
    (tmp_path / "grid.yaml").write_text(yaml_text(tree))
    assert [arm.name for arm in load_grid(str(tmp_path)).arms] == ["mdlm", "atat"]


def test_five_mistakes_are_told_at_once(tmp_path):
    found = mistakes(
        tmp_path,
        arms={"mdlm": {"methd": "x"}, "b": {"overrides": {"optim.lrr": 1}}},
        baseline="c",
        seeds=[1, 1],
        budget={"steps": 4, "flops": 1e9},
    )
    assert len(found) == 5


def test_an_arm_given_twice_is_found_with_its_lines(tmp_path):
    file = grid_file(tmp_path)
    file.write_text("base: demo\narms:\n  mdlm: {}\n  atat: {}\n  mdlm: {}\nbaseline: mdlm\nbudget: {steps: 3}\n")
    with pytest.raises(UserError, match="line 5, column 3: 'mdlm' is given twice, first in line 3"):
        load_grid(str(file))


def test_a_mistake_that_all_arms_share_is_told_once(tmp_path):
    assert mistakes(tmp_path, overrides={"optim.lrr": 1}) == ["optim.lrr: unknown key; did you mean optim.lr?"]


@pytest.mark.parametrize("name", ["nothere", "no/such.yaml"])
def test_a_grid_that_is_not_there(name):
    with pytest.raises(
        UserError, match=r"unknown grid 'nothere'.*ablations, main, quick|there is no grid no/such.yaml"
    ):
        load_grid(name)


def test_every_shipped_grid_loads_and_is_read_back_from_its_folder(tmp_path):
    assert list(describe_grids()) == ["ablations", "main", "quick"]
    for name in describe_grids():
        grid = load_grid(name)
        (tmp_path / "grid.yaml").write_text(yaml_text(grid_tree(grid)))
        assert load_grid(str(tmp_path)) == grid


def test_the_grids_hold_the_arms_of_atats_first_description():
    assert [arm.name for arm in load_grid("main").arms] == ["mdlm", "time_sampling_only", "atat", "causal"]
    assert load_grid("main").reference == ("causal",)
    ablations = load_grid("ablations")
    configs = {variant.arm.name: variant.config for variant in variants_of(ablations)}
    assert [arm.name for arm in ablations.arms][:5] == ["mdlm", "importance", "adaptive_masking", "times", "curriculum"]
    assert (configs["importance"].importance.mode, configs["importance"].masking.strategy) == ("full", "uniform")
    assert configs["adaptive_masking"].masking.strategy == "importance"
    assert configs["times"].objective.time_sampling == "beta"
    assert configs["curriculum"].curriculum.kind == "fixed"


def test_every_part_of_atat_but_its_normalised_queries_is_an_arm_that_adds_to_time_sampling_only():
    ablations = load_grid("ablations")
    arms = {variant.arm.name: flat_settings(variant.config) for variant in variants_of(ablations)}
    assert [arm.name for arm in ablations.arms][5:] == ["proportional", "time_sampling_only", "muon", "two_way", "atat"]
    changed = {name: differences(arms["time_sampling_only"], arms[name]).keys() for name in ("muon", "two_way", "atat")}
    assert changed["muon"] == {"optim.kind", "optim.lr"}
    assert changed["two_way"] == {"objective.causal_share"}
    assert changed["atat"] == changed["muon"] | changed["two_way"] | {"model.qk_norm"} | {"model.qk_norm"}


def test_the_table_of_differences_has_no_objective_of_a_causal_arm_which_reads_none():
    quick = load_grid("quick")
    differing = _arms(quick, [], {})["causal"]["config_differences"]
    assert differing["model.kind"] == "causal"
    assert not any(path.startswith("objective.") for path in differing)


def test_two_arms_by_two_corpora_by_three_seeds_are_12_runs_in_folders_of_their_own(tmp_path):
    file = grid_file(
        tmp_path, seeds=[0, 1, 2], data={"plays": {"source": "shakespeare"}, "mine": {"data.source": "text.txt"}}
    )
    jobs = jobs_of(load_grid(str(file)))
    assert len({job.folder for job in jobs}) == len({job.name for job in jobs}) == len(jobs) == 12
    assert jobs[0].folder == Path("runs/mdlm/plays/seed-0")
    assert [job.seed for job in jobs] == [0] * 4 + [1] * 4 + [2] * 4
    assert {job.variant.config.data.source for job in jobs if job.corpus == "mine"} == {"text.txt"}


def test_the_arm_wins_over_the_corpus_and_that_over_the_grid_and_the_command_line_over_all(tmp_path):
    file = grid_file(
        tmp_path,
        overrides={"optim.lr": 1e-3, "data.length": 8, "model.width": 32},
        data={"data.length": 16},
        arms={"mdlm": {"overrides": {"optim.lr": 2e-3, "model.width": 64}}},
    )
    (variant,) = variants_of(load_grid(str(file), {"model.width": 8}))
    assert (variant.config.optim.lr, variant.config.data.length, variant.config.model.width) == (2e-3, 16, 8)


def test_the_command_of_a_run_gives_its_configuration(tmp_path):
    file = grid_file(
        tmp_path,
        arms={"mdlm": {"method": "mdlm", "overrides": {"optim.betas": [0.8, 0.9], "model.tied": False}}},
        overrides={"train.loggers": [], "data.validation": None, "optim.lr": 1e-4},
    )
    for job in jobs_of(load_grid(str(file))):
        train, base, flag, method, *rest = train_words(
            job.variant, {"train.seed": job.seed, "train.num_steps": 300}, tmp_path / "out"
        )
        assert (train, flag) == ("train", "--method")
        assert read_config(base, method, read_flags(rest[:-2])[0], "") == run_config(job, 300)


OF_THE_RESULTS = sorted(str(file) for file in (ROOT / "docs/results").glob("*.yaml") if "arms:" in file.read_text())
SHIPPED = [*describe_grids(), *OF_THE_RESULTS]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_grid_has_no_setting_without_effect(name: str):
    assert load_grid(name).without_effect() == []


def test_seconds_of_a_step_that_were_measured_before_are_of_arms_and_of_their_own_settings(tmp_path: Path):
    said = {"mdlm": 0.04, "atat": 0.05}
    file = grid_file(tmp_path, seconds_per_step=said)
    grid = load_grid(str(file))
    assert grid.seconds_per_step == said
    (tmp_path / "grid.yaml").write_text(yaml_text(grid_tree(grid)))
    assert load_grid(str(tmp_path)) == grid
    assert select(grid, arms=["mdlm"]).seconds_per_step == {"mdlm": 0.04}
    assert merge(select(grid, arms=["mdlm"]), grid).seconds_per_step == said
    assert load_grid(str(file), {"model.width": 8}).seconds_per_step == {}  # another network: it is timed
    for wrong in ({"mdml": 0.04}, {"mdlm": 0}, {"mdlm": True}, {"mdlm": float("inf")}, {"mdlm": "x"}, 0.04):
        assert mistakes(tmp_path, seconds_per_step=wrong)[0].startswith("seconds_per_step")


def test_the_experiments_at_equal_seconds_differ_in_their_text_alone():
    novels, fresh = (load_grid(str(ROOT / f"docs/results/{name}-seconds.yaml")) for name in ("novels", "fresh"))
    pairs = zip(variants_of(novels), variants_of(fresh), strict=True)
    changed = [differences(flat_settings(one.config), flat_settings(other.config)) for one, other in pairs]
    assert [set(each) for each in changed] == [{"data.source", "data.tokenizer"}] * 4
    assert (novels.seconds_per_step, novels.budget) == (fresh.seconds_per_step, fresh.budget)


def test_every_arm_of_the_ablations_by_subtraction_is_atat_without_one_part():
    grid = load_grid(str(ROOT / "docs/results/novels-ablations.yaml"))
    configs = {variant.arm.name: flat_settings(variant.config) for variant in variants_of(grid)}
    changed = {arm: set(differences(configs["atat"], config)) for arm, config in configs.items()}
    assert changed["no_causal_rows"] == changed["half_causal_rows"] == {"objective.causal_share"}
    assert changed["uniform_times"] == {"objective.time_sampling", "objective.weighting"}
    assert (changed["adamw"], changed["no_qk_norm"]) == ({"optim.kind", "optim.lr"}, {"model.qk_norm"})
    both = differences(configs["importance_rates"], configs["proportional"])
    assert set(both) == {"masking.direction"}


def test_a_setting_of_all_arms_is_said_to_have_no_effect_where_no_arm_feels_it_and_an_arms_own_where_that_does_not(
    tmp_path,
):
    arms: dict[str, Any] = {"mdlm": {"method": "mdlm"}, "atat": {"method": "importance_rates"}}
    settings = {"importance.width": 32, "curriculum.patience": 7}
    (line,) = load_grid(str(grid_file(tmp_path, arms=arms, overrides=settings))).without_effect()
    assert line.startswith("curriculum.patience has no effect")
    assert load_grid(str(grid_file(tmp_path, arms=arms)), settings).without_effect() == [line]
    arms["mdlm"]["overrides"] = {"importance.width": 32}
    with pytest.warns(UserWarning, match="importance.width has no effect with importance.mode = none"):
        open_study(grid_file(tmp_path, arms=arms), tmp_path / "out")


def test_the_process_of_an_arm_says_nothing_of_settings_that_are_meant_for_others(tmp_path):
    words = ["train", "demo", "--importance.width", "64", "--settings"]
    log = tmp_path / "log.txt"
    run_command(words, log, device="cpu", num_threads=1, should_stop=lambda: False)
    assert "--importance.width N (default: 64)" in log.read_text()
    assert "no effect" not in log.read_text()


def test_flags_carry_lists_truth_values_and_nothing():
    settings = {"a.b": True, "a.c": [1, 2.5], "a.d": None, "a.e": "--x", "a.f": []}
    assert flags_of(settings) == ["--a.b", "true", "--a.c", "1", "2.5", "--a.d", "null", "--a.e=--x", "--a.f"]


def test_budgets_in_tokens_flops_and_seconds_become_steps():
    config = load_config("demo")  # 8 x 400 tokens a step
    nothing: dict[str, Any] = {"flops_per_token": None, "seconds_per_step": None}
    assert budget_steps(Budget(unit="steps", amount=7), config, **nothing) == 7
    assert budget_steps(Budget(unit="tokens", amount=3200), config, **nothing) == 1
    assert budget_steps(Budget(unit="tokens", amount=3201), config, **nothing) == 2
    flops = training_flops_per_token(config, 65)
    budget = Budget(unit="flops", amount=10 * 3200 * flops)
    assert budget_steps(budget, config, flops_per_token=flops, seconds_per_step=None) == 10
    seconds = Budget(unit="gpu_seconds", amount=10)
    assert budget_steps(seconds, config, flops_per_token=None, seconds_per_step=0.3) == math.floor(10 / 0.3)


def test_branches_are_shorter_runs_of_the_arms_that_are_compared(tmp_path):
    file = grid_file(
        tmp_path,
        seeds=[0],
        branches=[1.0, 0.25],
        arms={"mdlm": {}, "atat": {"method": "atat"}, "causal": {"overrides": {"model.kind": "causal"}}},
        reference=["causal"],
    )
    assert [job.arm for job in jobs_of(load_grid(str(file)))] == ["atat@0.25", "mdlm", "atat", "causal"]


def test_asking_for_fewer_arms_keeps_the_baseline(tmp_path):
    grid = load_grid(str(grid_file(tmp_path)))
    assert [arm.name for arm in select(grid, arms=["mdlm"], seeds=[5]).arms] == ["mdlm"]
    with pytest.raises(UserError, match="`arms=` leaves out the baseline mdlm"):
        select(grid, arms=["atat"])
    with pytest.raises(UserError, match="arms: 'atta' is no arm of tiny; did you mean atat"):
        select(grid, arms=["atta"])
    with pytest.raises(UserError, match=r"budget.step: unknown key; did you mean steps"):
        select(grid, budget={"step": 3})


def test_a_folder_forgets_no_seed_when_fewer_are_asked_for(tmp_path):
    grid = load_grid(str(grid_file(tmp_path)))
    both = merge(grid, select(grid, arms=["mdlm"], seeds=[1, 2]))
    assert both.seeds == (0, 1, 2)
    assert [arm.name for arm in both.arms] == ["mdlm", "atat"]
    with pytest.raises(UserError, match="whose budget is 8 steps, and it is 9 steps now"):
        merge(grid, select(grid, budget={"steps": 9}))
