"""What is stored of a run that is done is enough: it is not trained again where its folder is gone, or never was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mdlm_atat.cli.main import main
from studies.grids import grid_file, run, use_stand_in


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, where training is the stand-in's."""
    use_stand_in(monkeypatch, tmp_path)
    return tmp_path


def values(out: Path) -> dict[str, float]:
    """The final bound of every run that results.json holds as done, by the run's folder."""
    results = json.loads((out / "results.json").read_text())
    done = [entry for entry in [*results["runs"], *results["branch_runs"]] if entry["status"] == "done"]
    return {entry["folder"].removeprefix("runs/"): entry["final"]["nelbo_nats_per_token"] for entry in done}


def trained(out: Path) -> set[str]:
    """The runs whose folders are there, as ARM/seed-N."""
    return {f"{run.parent.name}/{run.name}" for run in (out / "runs").glob("*/seed-*")}


def test_a_run_that_results_json_holds_as_done_is_not_trained_again_though_its_folder_is_gone(stand_in, capsys):
    out = stand_in / "out"
    assert run(grid_file(stand_in, seeds=[0], branches=[0.5, 1.0]), out) == 0
    before = values(out)
    assert sorted(before) == ["atat/seed-0", "atat@0.5/seed-0", "mdlm/seed-0"]
    shutil.rmtree(out / "runs")
    capsys.readouterr()
    assert main(["experiment", "run", str(out), "--seeds", "0", "1"]) == 0
    said = capsys.readouterr().out
    assert trained(out) == {"atat/seed-1", "atat@0.5/seed-1", "mdlm/seed-1"}
    assert said.count("its folder is gone") == 3
    assert "done       mdlm-seed-0: results.json holds it; its folder is gone\n" in said
    after = values(out)
    assert len(after) == 6
    assert {name: after[name] for name in before} == before


def test_a_run_that_is_stored_with_other_steps_data_or_settings_is_trained_anew_and_told(stand_in, capsys):
    out = stand_in / "out"
    file = grid_file(stand_in, seeds=[0])
    assert run(file, out) == 0
    for changed, said in (
        ({"num_steps": 9}, "9 steps, and 8 now\n"),
        ({"data": {"hash": "ab" * 32, "train_tokens": 1234}}, "other data (1,234 training tokens, and "),
        ({"optim.lr": 0.5}, "optim.lr 0.5, and 0.006 now\n"),
    ):
        shutil.rmtree(out / "runs")
        results = json.loads((out / "results.json").read_text())
        results["runs"][0] |= {name: value for name, value in changed.items() if "." not in name}
        results["runs"][0]["config"] |= {name: value for name, value in changed.items() if "." in name}
        (out / "results.json").write_text(json.dumps(results))
        capsys.readouterr()
        assert main(["experiment", "status", str(out)]) == 0
        assert capsys.readouterr().out.splitlines()[-1].startswith("2 runs: 1 done, 1 waiting")
        assert main(["experiment", "run", str(out)]) == 0
        assert f"anew       mdlm-seed-0: results.json holds it with {said}" in capsys.readouterr().out
        assert trained(out) == {"mdlm/seed-0"}
        assert sorted(values(out)) == ["atat/seed-0", "mdlm/seed-0"]


def test_one_task_of_an_array_finds_its_run_stored(stand_in, capsys):
    out = stand_in / "out"
    assert run(grid_file(stand_in, seeds=[0]), out) == 0
    shutil.rmtree(out / "runs")
    assert main(["experiment", "run", str(out), "--task", "1"]) == 0
    assert "done       atat-seed-0: results.json holds it" in capsys.readouterr().out
    assert trained(out) == set()


@pytest.mark.parametrize(
    "content", ["{", '{"format": 1}', '{"format": 1, "runs": [{"status": "done"}], "branch_runs": []}']
)
def test_a_damaged_results_json_is_told_before_anything_is_trained(stand_in, capsys, content):
    out = stand_in / "out"
    assert run(grid_file(stand_in, seeds=[0]), out) == 0
    shutil.rmtree(out / "runs")
    (out / "results.json").write_text(content)
    for action in ("run", "status", "report"):
        capsys.readouterr()
        assert main(["experiment", action, str(out)]) == 2
        error = capsys.readouterr().err
        assert "results.json is damaged" in error
        assert "a run whose folder is gone is trained again" in error
    assert not (out / "runs").exists()


def test_samplers_are_not_benched_where_the_weights_are_gone_and_that_is_told(stand_in, capsys):
    out = stand_in / "out"
    bench = {"arms": ["mdlm", "atat"], "samplers": ["spread"], "steps": [4], "num_texts": 3}
    assert run(grid_file(stand_in, seeds=[0]), out) == 0
    shutil.rmtree(out / "runs/mdlm")
    capsys.readouterr()
    assert run(grid_file(stand_in, seeds=[0], samplers=bench), out) == 0
    said = capsys.readouterr().out
    assert "left out   samplers-mdlm-seed-0: the folder of its run is gone\n" in said
    assert (out / "runs/atat/seed-0/benched.txt").exists()
    assert trained(out) == {"atat/seed-0"}
