"""The samplers of finished runs are benched once, by the judge that the grid names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mdlm_atat.cli.main import main
from mdlm_atat.errors import UserError
from mdlm_atat.studies.grid_file import load_grid, select
from studies.grids import grid_file, run, use_stand_in

ARMS = {"mdlm": {"method": "mdlm"}, "causal": {"overrides": {"model.kind": "causal"}}}


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_stand_in(monkeypatch, tmp_path)
    return tmp_path


def test_the_first_seed_of_each_named_arm_is_benched_once_under_the_judge(stand_in, capsys):
    out = stand_in / "out"
    bench = {"arms": ["mdlm"], "samplers": ["spread", "ancestral"], "steps": [4, 8], "num_texts": 3, "judge": "causal"}
    assert run(grid_file(stand_in, arms=ARMS, reference=["causal"], samplers=bench), out) == 0
    called = (out / "runs/mdlm/seed-0/benched.txt").read_text()
    judge = out / "runs/causal/seed-0"
    assert called == f"--steps 4 8 --num_texts 3 --samplers spread ancestral --judge {judge}\n"
    assert not (out / "runs/mdlm/seed-1/benched.txt").exists()
    results = json.loads((out / "results.json").read_text())
    assert results["runs"][0]["sampler_bench"] == "runs/mdlm/seed-0/samplers-generate.json"
    assert main(["experiment", "run", str(out)]) == 0
    assert (out / "runs/mdlm/seed-0/benched.txt").read_text() == called


def test_a_bench_that_fails_is_told_and_the_runs_stay_done(stand_in, capsys):
    out = stand_in / "out"
    file = grid_file(stand_in, seeds=[0], samplers={"arms": ["mdlm"], "steps": [13]})
    assert run(file, out) == 1
    said = capsys.readouterr().out
    assert "1 sampler bench failed:\n  samplers-mdlm-seed-0: error: 13 steps are bad luck" in said
    assert [entry["status"] for entry in json.loads((out / "results.json").read_text())["runs"]] == ["done", "done"]


@pytest.mark.parametrize(
    ("bench", "message"),
    [
        ({"arms": ["mdml"]}, "samplers: 'mdml' is no arm; did you mean mdlm?"),
        ({"judge": "causl"}, "samplers: 'causl' is no arm"),
        ({"step": [3]}, "samplers.step: unknown key; did you mean steps?"),
        ({"steps": 3}, "samplers.steps: expected a list, found 3"),
        ({"steps": [0]}, "samplers: expected num_texts from 2 on and steps from 1 on"),
        ({"samplers": ["sprad"]}, "samplers.samplers: unknown sampler 'sprad'"),
        ({"samplers": ["spread:tau=1"]}, "samplers.samplers: sampler uncertainty has no option 'tau'"),
        ({"samplers": ["spread", "follow_rates"]}, "samplers: follow_rates follows predicted rates, and mdlm predicts"),
        ({"arms": ["causal"]}, "samplers.arms: causal is left-to-right, with one sampler only; leave it out"),
    ],
)
def test_a_wrong_bench_says_so(tmp_path, bench, message):
    with pytest.raises(UserError) as caught:
        load_grid(str(grid_file(tmp_path, arms=ARMS, samplers=bench)))
    assert message in str(caught.value)


def test_without_names_every_arm_but_the_references_is_benched(tmp_path):
    bench = load_grid(str(grid_file(tmp_path, arms=ARMS, reference=["causal"], samplers={"judge": "causal"}))).bench
    assert bench is not None
    assert bench.arms == ("mdlm",)


def test_without_the_judges_arm_there_is_no_judge(tmp_path):
    file = grid_file(tmp_path, arms=ARMS, samplers={"arms": ["mdlm"], "judge": "causal"})
    bench = select(load_grid(str(file)), arms=["mdlm"]).bench
    assert bench is not None
    assert (bench.arms, bench.judge) == (("mdlm",), None)
