"""What is stored of a run that is done is enough: it is not trained again where its folder is gone, or never was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from benchmarks.results.take import take

from mdlm_atat.cli.main import main
from studies.grids import SETTINGS, grid_file, run, steps_taken, use_stand_in
from tiny_runs import write_text

CAUSAL = {"overrides": {"model.kind": "causal"}}


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
    changes = (
        ({"num_steps": 9}, "9 steps, and 8 now\n"),
        ({"data": {"hash": "ab" * 32, "train_tokens": 1234}}, "other data (1,234 training tokens, and "),
        ({"optim.lr": 0.5}, "optim.lr 0.5, and 0.006 now\n"),
    )
    for stored, (changed, said) in enumerate(changes, start=1):
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
        assert others(out) == ["mdlm/seed-0"] * stored  # it is not lost, though nothing reports it


def test_a_report_does_not_take_the_record_of_another_plan_for_that_of_a_run_that_is_gone(stand_in):
    out = stand_in / "out"
    assert run(grid_file(stand_in, seeds=[0]), out) == 0
    shutil.rmtree(out / "runs")
    results = json.loads((out / "results.json").read_text())
    results["runs"][0]["config"]["optim.lr"] = 0.5
    (out / "results.json").write_text(json.dumps(results))
    for _ in range(2):
        assert main(["experiment", "report", str(out)]) == 0
        assert list(values(out)) == ["atat/seed-0"]
        assert others(out) == ["mdlm/seed-0"]


def others(out: Path) -> list[str]:
    """The runs that results.json keeps and does not report."""
    return sorted(
        run["folder"].removeprefix("runs/") for run in json.loads((out / "results.json").read_text())["other_runs"]
    )


CHANGES: dict[str, dict[str, Any]] = {
    "settings": {"overrides": SETTINGS | {"optim.lr": 0.25}},
    "steps": {"budget": {"steps": 20}},
    "an arm less": {"arms": {"mdlm": {"method": "mdlm"}}},
    "a seed less": {"seeds": [0]},
    "no branch": {"branches": None},
}


@pytest.mark.slow
@pytest.mark.parametrize("are_gone", [True, False])
def test_runs_that_are_no_longer_planned_stay_in_results_json_and_count_again_when_they_are(stand_in, are_gone):
    out, grid = stand_in / "out", {"seeds": [0, 1], "branches": [0.5, 1.0]}
    assert run(grid_file(stand_in, **grid), out) == 0
    before, files = values(out), {name: (out / name).read_text() for name in ("grid.yaml", "plan.json")}
    assert len(before) == 6
    assert others(out) == []
    if are_gone:
        shutil.rmtree(out / "runs")
    for name, changed in CHANGES.items():
        (out / "grid.yaml").write_text(grid_file(stand_in, **grid | changed).read_text())
        (out / "plan.json").unlink()
        assert main(["experiment", "report", str(out)]) == main(["experiment", "report", str(out)]) == 0
        reported = values(out)
        assert sorted([*reported, *others(out)]) == sorted(before), name
        if are_gone or name not in ("settings", "steps"):
            assert len(reported) == {"an arm less": 2, "a seed less": 3, "no branch": 4}.get(name, 0), name
        for file, content in files.items():
            (out / file).write_text(content)
        assert main(["experiment", "report", str(out)]) == 0
        assert (values(out), others(out)) == (before, []), name


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


GRID: dict[str, Any] = {"arms": {"mdlm": {"method": "mdlm"}, "atat": {"method": "atat"}, "causal": CAUSAL}}


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a grid of three arms and two seeds, of which `first` holds seed 0 of all arms and seed 1 of the
    baseline; small.json is what --take keeps of it."""
    folder = tmp_path_factory.mktemp("pieces")
    with pytest.MonkeyPatch.context() as patch:
        use_stand_in(patch, folder)
        file = grid_file(folder, **GRID, reference=["causal"], seeds=[0])
        assert run(file, folder / "first") == 0
        assert run(file, folder / "first", "--arms", "mdlm", "--seeds", "1") == 0
    take(folder / "first", folder / "small.json", machine="one CPU")
    return folder


@pytest.fixture
def piece(pieces: Path, stand_in: Path) -> Path:
    """A copy of it, beside the same text, where nothing of `first` but results.json is left."""
    for name in ("text.txt", "tiny.yaml", "small.json"):
        shutil.copy(pieces / name, stand_in / name)
    shutil.copy(pieces / "first/results.json", stand_in / "whole.json")
    grid_file(stand_in, **GRID, reference=["causal"])
    return stand_in


LEFT = {"atat/seed-1", "causal/seed-1"}


@pytest.mark.parametrize("name", ["whole.json", "small.json"])
def test_only_the_runs_that_a_file_of_results_lacks_are_trained_and_the_report_has_all(piece, capsys, name):
    out = piece / "out"
    words = [piece / "tiny.yaml", out, "--done", str(piece / name)]
    assert run(*words, "--dry-run") == 0
    *commands, whole = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in commands] == [["4", "atat-seed-1:"], ["5", "causal-seed-1:"]]
    assert whole == "2 of 6 runs; the others are done"
    assert not out.exists()
    assert run(*words, "--processes", "2") == 0
    said = capsys.readouterr().out
    assert f"elsewhere  4 of 6 runs are done in {name}; left: atat-seed-1, causal-seed-1\n" in said
    assert trained(out) == LEFT
    assert len(values(out)) == 6
    results = json.loads((out / "results.json").read_text())
    theirs = json.loads((piece / name).read_text())
    finals = [one["final"] for one in theirs["runs"] if one["status"] == "done"]
    assert [one["final"] for one in results["runs"] if one["elsewhere"]] == finals
    assert results["derived"]["text.txt"]["atat"]["difference"]["num_pairs"] == 2
    assert results["caveats"][0].startswith(f"4 of 6 runs were not trained in this folder; they are as {name} has them")
    # what was copied is enough for all that follows
    (piece / name).unlink()
    assert main(["experiment", "status", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "6 runs: 6 done"
    shutil.rmtree(out / "runs")
    (out / "results.json").unlink()
    assert main(["experiment", "run", str(out)]) == 0
    assert trained(out) == LEFT
    assert len(values(out)) == 6


def test_what_is_trained_beside_a_file_of_results_is_taken_into_it_and_what_it_holds_stays(piece, capsys):
    file, out = piece / "small.json", piece / "out"
    before = json.loads(file.read_text())
    before["runs"][0]["shared_card"] = True
    before["runs"][0]["corpus"] = before["runs"][2]["corpus"] = "as-it-was-called.txt"
    file.write_text(json.dumps(before))
    assert run(piece / "tiny.yaml", out, "--done", str(file)) == 0
    assert trained(out) == LEFT
    said = take(out, file, machine="one CPU")
    assert said[0] == f"{file}: 6 runs of mdlm, atat, causal, 2 of them new"
    after = json.loads(file.read_text())
    kept = {(one["arm"], one["seed"]): one for one in after["runs"]}
    assert len(kept) == len(after["runs"]) == 6
    assert [kept[one["arm"], one["seed"]] for one in before["runs"]] == before["runs"]
    assert after["arms"] == before["arms"]


def test_the_baseline_may_be_left_out_where_the_file_holds_its_runs(piece, capsys):
    out, done = piece / "out", ["--done", str(piece / "small.json")]
    assert run(piece / "tiny.yaml", out, *done, "--arms", "atat") == 0
    assert trained(out) == {"atat/seed-1"}
    assert run(piece / "tiny.yaml", piece / "other", *done, "--arms", "atat", "--seeds", "0", "1", "2") == 2
    error = capsys.readouterr().err
    assert "--arms leaves out the baseline mdlm, and " in error
    assert "small.json does not hold mdlm-seed-2" in error
    assert not (piece / "other").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": "other"}, "name 'tiny', and 'other' here"),
        ({"baseline": "atat"}, "baseline 'mdlm', and 'atat' here"),
        ({"budget": {"steps": 9}}, "a budget of 8 steps, and 9 steps here"),
        (
            {"arms": GRID["arms"] | {"atat": {"method": "atat", "overrides": {"optim.lr": 0.25}}}},
            "atat: optim.lr None, and 0.25 here",
        ),
        ({"overrides": SETTINGS | {"model.width": 32}}, "FLOPs a token, and "),
        ({"overrides": SETTINGS | {"train.batch_size": 16}}, "128 tokens a step, and 256 here"),
        ({"overrides": SETTINGS | {"eval.final_num_draws": 640}}, "a final evaluation of 64 draws"),
        ({"data": {"source": "other.txt"}}, "holds runs on other data than "),
    ],
)
def test_results_of_another_experiment_are_refused_before_anything_is_trained(piece, capsys, changed, message):
    write_text(piece / "other.txt", num_words=808)
    if "data" in changed:
        changed = {"data": {"source": str(piece / changed["data"]["source"])}}
    file = grid_file(piece, **{**GRID, "reference": ["causal"], "seeds": [0], **changed})
    code = run(file, piece / "out", "--done", str(piece / "small.json"))
    assert (code, message in (error := capsys.readouterr().err)) == (2, True), error
    assert "small.json" in error
    assert not (piece / "out/runs").exists()
    assert not (piece / "out/plan.json").exists()
    assert not (piece / "out/elsewhere.json").exists()


def test_corpora_that_the_grid_names_go_by_their_names_and_another_place_of_the_same_text_by_its_hash(piece, capsys):
    source = {"source": str(piece / "text.txt")}
    words = [piece / "out", "--done", str(piece / "small.json"), "--dry-run", "--seeds", "0"]
    for data, whole in (
        ({"text.txt": source, "other": source}, "3 of 6 runs; the others are done"),
        ({"a": source, "b": source}, "6 runs"),
        ({"source": str(shutil.copy(piece / "text.txt", piece / "moved.txt"))}, "0 of 3 runs; the others are done"),
    ):
        assert run(grid_file(piece, **GRID, data=data), *words) == 0
        assert capsys.readouterr().out.splitlines()[-1] == whole


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "--done: there is no file"),
        ("{", "is damaged"),
        ('{"runs": [{"arm": "mdlm", "seed": 0}]}', "holds no results of an experiment; expected results.json"),
        (
            '{"format": 7, "name": 1, "baseline": 1, "budget": 1, "arms": 1, "runs": 1}',
            "has format 7, this",
        ),
        ('{"format": 1, "name": 1, "baseline": 1, "budget": 1, "arms": 1, "runs": 1}', "is damaged"),
    ],
)
def test_what_is_no_file_of_results_is_one_message(piece, capsys, content, message):
    if content is not None:
        (piece / "odd.json").write_text(content)
    assert run(piece / "tiny.yaml", piece / "out", "--done", str(piece / "odd.json")) == 2
    assert message in capsys.readouterr().err
    assert not (piece / "out").exists()


def test_a_record_that_is_none_is_refused_with_the_name_of_its_file(piece, capsys):
    content = json.loads((piece / "small.json").read_text())
    for name in ("num_tokens", "final", "data", "num_parameters"):
        runs = [{key: value for key, value in one.items() if key != name} for one in content["runs"]]
        (piece / "odd.json").write_text(json.dumps({**content, "runs": runs}))
        assert run(piece / "tiny.yaml", piece / "out", "--done", str(piece / "odd.json")) == 2
        assert "odd.json is damaged" in capsys.readouterr().err
    assert not (piece / "out").exists()


def test_a_damaged_copy_of_the_records_says_what_to_do(piece, capsys):
    words = piece / "tiny.yaml", piece / "out", "--done", str(piece / "small.json")
    assert run(*words) == 0
    (piece / "out/elsewhere.json").write_text('{"runs": [{}]}')
    capsys.readouterr()
    assert main(["experiment", "run", str(piece / "out")]) == 2
    assert "elsewhere.json is damaged (it has no 'status'); delete it, and name the file" in capsys.readouterr().err
    (piece / "out/elsewhere.json").unlink()
    assert main(["experiment", "status", str(piece / "out")]) == 0  # results.json has them only from there
    assert capsys.readouterr().out.splitlines()[-1].startswith("6 runs: 2 done, 4 waiting")
    assert run(*words) == 0
    assert trained(piece / "out") == LEFT


def test_one_task_checks_every_run_of_the_file_before_it_copies_them(piece, capsys):
    content = json.loads((piece / "small.json").read_text())
    content["runs"][-1]["num_steps"] = 9
    (piece / "small.json").write_text(json.dumps(content))
    assert run(piece / "tiny.yaml", piece / "out", "--done", str(piece / "small.json"), "--task", "4") == 2
    assert "small.json holds other runs of causal; " in (error := capsys.readouterr().err)
    assert "\n  9 steps, and 8 now" in error
    assert not (piece / "out/runs").exists()


def test_runs_may_be_in_several_files_that_are_named_one_after_the_other(piece, capsys):
    content, out = json.loads((piece / "small.json").read_text()), piece / "out"
    for name, kept in (("a.json", ["mdlm"]), ("b.json", ["atat", "causal"])):
        runs = [one for one in content["runs"] if one["arm"] in kept]
        (piece / name).write_text(json.dumps({**content, "runs": runs}))
    assert run(piece / "tiny.yaml", out, "--done", str(piece / "a.json"), "--task", "0") == 0
    assert trained(out) == set()
    capsys.readouterr()
    assert run(piece / "tiny.yaml", out, "--done", str(piece / "b.json")) == 0
    assert (
        "elsewhere  4 of 6 runs are done in a.json, b.json; left: atat-seed-1, causal-seed-1" in capsys.readouterr().out
    )
    assert trained(out) == LEFT


def test_a_run_that_was_begun_here_is_not_gone_on_with_where_the_file_holds_it(piece):
    out = piece / "out"
    assert run(piece / "tiny.yaml", out, "--task", "0") == 0
    for name in ("report.html", "evals/final.json", "step.txt"):
        (out / "runs/mdlm/seed-0" / name).unlink()
    assert run(piece / "tiny.yaml", out, "--done", str(piece / "small.json")) == 0
    assert len(steps_taken(out, "mdlm")) == 8
    assert len(values(out)) == 6


@pytest.mark.slow
def test_runs_of_a_budget_of_seconds_have_the_steps_that_the_file_timed(piece, monkeypatch):
    from mdlm_atat.studies import planning

    budget = {"budget": {"gpu_seconds": 5}, "reference": ["causal"], "seeds": [0]}
    assert run(grid_file(piece, **GRID, **budget), piece / "timed") == 0
    take(piece / "timed", piece / "timed.json", machine="one CPU")

    def refused(variant, *_):
        raise AssertionError(f"{variant.key} is timed")

    monkeypatch.setattr(planning, "calibrate", refused)
    file = grid_file(piece, **GRID, **(budget | {"seeds": [0, 1]}))
    assert run(file, piece / "out", "--done", str(piece / "timed.json")) == 0
    assert trained(piece / "out") == {f"{arm}/seed-1" for arm in GRID["arms"]}
    plan = json.loads((piece / "out/plan.json").read_text())
    assert {entry["num_steps"] for entry in plan.values()} == {10}
    assert plan["mdlm"]["calibration"]["machine"]["cpu"] == "stand-in"


def test_results_of_another_folder_are_called_by_its_name_as_ours_are_called_results_too(piece, capsys):
    (piece / "other").mkdir()
    shutil.copy(piece / "whole.json", piece / "other/results.json")
    assert run(piece / "tiny.yaml", piece / "out", "--done", str(piece / "other"), "--task", "0") == 0
    assert "elsewhere  4 of 6 runs are done in other/results.json; left: " in capsys.readouterr().out
    held = json.loads((piece / "out/elsewhere.json").read_text())["runs"]
    assert {one["elsewhere"] for one in held} == {"other/results.json"}


def test_the_samplers_of_a_run_that_is_done_here_too_are_benched_and_not_said_to_be_left_out(piece, capsys):
    out = piece / "out"
    bench = {"arms": ["mdlm", "atat"], "samplers": ["spread"], "steps": [4], "num_texts": 3}
    file = grid_file(piece, **GRID, reference=["causal"], samplers=bench)
    assert run(file, out, "--task", "0") == 0
    assert run(file, out, "--done", str(piece / "whole.json")) == 0
    said = capsys.readouterr().out
    assert (out / "runs/mdlm/seed-0/benched.txt").exists()
    assert "left out   samplers-mdlm-seed-0" not in said
    assert "left out   samplers-atat-seed-0: its run is in whole.json\n" in said


def test_an_array_has_a_task_for_each_run_that_is_left_and_each_finds_the_file(piece, capsys):
    out = piece / "out"
    assert run(piece / "tiny.yaml", out, "--done", str(piece / "small.json"), "--slurm") == 0
    assert f"written    {out / 'slurm.sh'}: 2 tasks" in capsys.readouterr().out
    script = (out / "slurm.sh").read_text()
    assert "#SBATCH --array=4-5\n" in script
    assert f"experiment run {out} --done {piece / 'small.json'} --task " in script
    for task in ("4", "5"):
        assert main(["experiment", "run", str(out), "--done", str(piece / "small.json"), "--task", task]) == 0
    assert trained(out) == LEFT
    assert len(values(out)) == 6
    assert run(piece / "tiny.yaml", out, "--done", str(piece / "small.json"), "--slurm") == 2
    assert "nothing is left for a job array" in capsys.readouterr().err


@pytest.mark.slow
def test_a_page_is_made_of_runs_without_settings_samples_and_curves(piece, monkeypatch):
    content = json.loads((piece / "small.json").read_text())
    for one in content["runs"]:
        one["curve"] = {"schedule_nats": None, "train_loss": {"loss": [5.0]}}
    (piece / "small.json").write_text(json.dumps(content))
    monkeypatch.undo()
    use_stand_in(monkeypatch, piece, with_page=True)
    assert run(piece / "tiny.yaml", piece / "out", "--done", str(piece / "small.json")) == 0
    assert "4 of 6 runs were not trained in this folder" in (piece / "out/report.md").read_text()
    page = (piece / "out/report.html").read_text()
    assert "4 of 6 runs were not trained in this folder" in page
    derived = json.loads((piece / "out/results.json").read_text())["derived"]["text.txt"]
    assert derived["atat"]["steps_to_baseline_note"].startswith("no curve of ")
