"""What `python -m benchmarks.results --take` stores of an experiment."""

import json
from pathlib import Path
from typing import Any

import pytest
from benchmarks.results import __main__ as command
from benchmarks.results import budgets, to_come
from benchmarks.results import stored as stored_files
from benchmarks.results.stored import difference_of, runs_in
from benchmarks.results.take import take

from mdlm_atat.errors import UserError
from studies.grids import grid_file, run, use_stand_in


def a_run(arm: str, seed: int, nats: float, **changed: Any) -> dict[str, Any]:
    """As results.json has it, with much that no table reads."""
    final = {
        "format": 1,
        "kind": "nelbo",
        "nelbo_nats_per_token": nats,
        "standard_error": 0.012345678901,
        "num_draws": 64,
        "schedule": {"strategy": "uniform", "nelbo_nats_per_token": nats, "standard_error": 0.01},
        "profile": {"mask_rate": [0.5], "nats_per_masked_token": [nats]},
        "blocks": {"score": "1 2", "length": "3 4"},
        "corpus": {"spec": "/home/somebody/data/novels/train.jsonl.xz", "kind": "files"},
        "tokenizer": "/home/somebody/data/bpe",
        "file": f"/home/somebody/runs/{arm}/evals/one.json",
    }
    made: dict[str, Any] = {
        "arm": arm,
        "branch_of": None,
        "share": 1,
        "corpus": "novels",
        "seed": seed,
        "status": "done",
        "error": None,
        "folder": f"runs/{arm}/seed-{seed}",
        "command": f"atat train --out /home/somebody/runs/{arm}",
        "config": {"optim.lr": 1e-3},
        "data": {"source": "/home/somebody/data/novels/train.jsonl.xz", "hash": "ab" * 32, "tokenizer": "data/bpe"},
        "machine": {"device": "GPU"},
        "host": "secret-host",
        "attempts": [[10.0 * seed, 10.0 * seed + 9, "secret-host", "0"]],
        "commit": "abc",
        "code_version": "0",
        "num_parameters": 1000,
        "num_steps": 100,
        "num_tokens": 1000,
        "train_flops": 1e9,
        "train_seconds": 9.0,
        "seconds_per_step": 0.09,
        "peak_memory_bytes": 2000,
        "calibration": None,
        "final": final,
        "best": {"step": 100, "nats": nats, "final": final},
        "curve": {"step": [100], "nats": [nats], "train_loss": {"step": list(range(61)), "loss": [5.0] * 60}},
        "samples": [{"text": "many words"}],
        "inspection": None,
        "sampler_bench": None,
    }
    return made | changed


def an_experiment(folder: Path, runs: list[dict[str, Any]], **changed: Any) -> Path:
    arms = dict.fromkeys(run["arm"] for run in runs)
    results = {
        "format": 1,
        "name": "made",
        "description": "made up",
        "baseline": "mdlm",
        "reference": [],
        "budget": {"unit": "steps", "amount": 100.0, "steps": 100.0},
        "created": "2026-11-29T10:00:00+0000",
        "code_version": "0",
        "commit": "abc",
        "arms": {arm: {"description": arm, "config_differences": {}, "baseline_values": {}} for arm in arms},
        "runs": runs,
        "branch_runs": [],
        "derived": {"novels": {}},
        "caveats": ["few seeds"],
    }
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results | changed))
    return folder


def test_an_experiment_is_stored_without_paths_samples_settings_and_long_lists(tmp_path: Path):
    unfinished = a_run("atat", 1, 4.0, final=None, status="failed", best=None)
    folder = an_experiment(tmp_path / "runs", [a_run("mdlm", 0, 4.123456789), a_run("atat", 0, 4.0), unfinished])
    file = tmp_path / "made.json"
    lines = take(folder, file, machine="one GPU")
    assert lines[0] == f"{file}: 2 runs of mdlm, atat, 2 of them new"
    text = file.read_text()
    assert [
        word for word in ("somebody", "secret-host", "many words", "optim.lr", "blocks", "few seeds") if word in text
    ] == []
    content = json.loads(text)
    stored = content["runs"][0]
    assert (content["machine"], content["date"]) == ("one GPU", "2026-11-29")
    assert content["command"] == "atat experiment run made --budget steps=100"
    assert stored["data"]["source"] == "novels/train.jsonl.xz"
    assert (stored["final"]["tokenizer"], stored["final"]["standard_error"]) == ("bpe", 0.01234568)
    assert stored["curve"] == {"step": [100], "nats": [4.123457], "train_loss": {"loss": [5.0] * 60}}
    assert stored["best"] == {"step": 100, "nats": 4.123457, "final": None}
    mine, theirs = (runs_in([run for run in content["runs"] if run["arm"] == arm]) for arm in ("atat", "mdlm"))
    difference = difference_of(mine, theirs, "any_order")
    assert difference is not None
    assert difference.value == pytest.approx(-0.123457)


def test_an_experiment_run_in_pieces_is_put_together_and_what_is_run_again_comes_in_place(tmp_path: Path):
    file = tmp_path / "made.json"
    take(an_experiment(tmp_path / "one", [a_run("mdlm", 0, 4.1), a_run("atat", 0, 4.0)]), file, machine="one GPU")
    more = [a_run("mdlm", 0, 4.2), a_run("mdlm", 1, 4.3), a_run("causal", 0, 3.6)]
    folder = an_experiment(tmp_path / "two", more, reference=["causal"])
    assert take(folder, file, machine="one GPU", command="a loop")[0].endswith(
        "4 runs of mdlm, atat, causal, 2 of them new"
    )
    content = json.loads(file.read_text())
    found = [(run["arm"], run["seed"], run["final"]["nelbo_nats_per_token"]) for run in content["runs"]]
    assert found == [("mdlm", 0, 4.2), ("mdlm", 1, 4.3), ("atat", 0, 4.0), ("causal", 0, 3.6)]
    assert (content["reference"], content["command"]) == (["causal"], "a loop")
    before = file.read_bytes()
    take(folder, file, machine="one GPU", command="a loop")
    assert file.read_bytes() == before


def test_own_orders_that_are_stored_of_the_same_weights_stay_where_a_folder_has_none(tmp_path: Path):
    def scored(orders: list[float], weights: str) -> dict[str, Any]:
        made = a_run("mdlm", 0, 4.1)
        each = [{"order": "spread", "num_steps": 16, "nelbo_nats_per_token": value} for value in orders]
        return {**made, "final": {**made["final"], "own_orders": each, "checkpoint_hash": weights}}

    file = tmp_path / "made.json"
    found = []
    for number, made in enumerate([scored([3.9], "a"), scored([], "a"), scored([3.8], "a"), scored([], "b")]):
        take(an_experiment(tmp_path / str(number), [made]), file, machine="one GPU")
        (stored,) = json.loads(file.read_text())["runs"]
        found.append([order["nelbo_nats_per_token"] for order in stored["final"]["own_orders"]])
    assert found == [[3.9], [3.9], [3.8], []]


def test_the_seconds_of_runs_that_shared_a_card_are_not_their_own_unless_a_step_was_timed_alone(tmp_path: Path):
    at_once = [a_run("mdlm", 0, 4.1), a_run("mdlm", 1, 4.1, attempts=[[5.0, 9.0, "secret-host", "0"]])]
    beside = [a_run("mdlm", 2, 4.1), a_run("mdlm", 3, 4.1, attempts=[[25.0, 29.0, "secret-host", "1"]])]
    timed = [{**run, "calibration": {"seconds_per_step": 0.08}} for run in at_once]
    for name, runs, shared in (("a", at_once, [True, True]), ("b", beside, [False] * 2), ("c", timed, [False] * 2)):
        file = tmp_path / f"{name}.json"
        take(an_experiment(tmp_path / name, runs), file, machine="one GPU")
        assert [run.get("shared_card", False) for run in json.loads(file.read_text())["runs"]] == shared


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": "other"}, "whose name is 'made', and this one's is 'other'"),
        ({"budget": {"unit": "steps", "amount": 9.0}}, "whose budget is"),
        ({"arms": {"mdlm": {"config_differences": {"optim.lr": 1}}}}, "holds another mdlm"),
        ({"runs": [a_run("mdlm", 0, 4.0, data={"hash": "cd" * 32})]}, "another text that is called novels too"),
        ({"runs": []}, "none of the runs of"),
    ],
)
def test_another_experiment_of_the_same_file_is_refused_and_the_file_stays(
    changed: dict[str, Any], message: str, tmp_path: Path
):
    file = tmp_path / "made.json"
    take(an_experiment(tmp_path / "one", [a_run("mdlm", 0, 4.1)]), file, machine="one GPU")
    before = file.read_bytes()
    with pytest.raises(UserError, match=message):
        take(an_experiment(tmp_path / "two", **{"runs": [a_run("mdlm", 0, 4.1)], **changed}), file, machine="one GPU")
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--take", "nowhere", "--machine", "one GPU"], "error: nowhere holds no results.json"),
        (["--take", "nowhere"], "--take goes with --machine"),
        (["--machine", "one GPU"], "go with --take RUNS"),
        (["--take", "nowhere", "--machine", "one GPU", "--check"], "without --check"),
    ],
)
def test_what_cannot_be_taken_is_one_message(words: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    try:
        code = command.main(words)
    except SystemExit as error:
        code = error.code
    assert (code, message in capsys.readouterr().err) == (2, True)


def test_what_an_experiment_found_is_a_table_of_a_page_after_it_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    use_stand_in(monkeypatch, tmp_path)
    said = {"mdlm": 0.02, "atat": 0.04}
    file = grid_file(tmp_path, name="made", seeds=[0], budget={"gpu_seconds": 0.1}, seconds_per_step=said)
    assert run(file, tmp_path / "made") == 0
    for module in (command, budgets, to_come, stored_files):
        monkeypatch.setattr(module, "FOLDER", tmp_path)
    monkeypatch.setattr("benchmarks.results.take.FOLDER", tmp_path)
    assert command.main(["--take", str(tmp_path / "made"), "--machine", "one CPU"]) == 0
    content = json.loads((tmp_path / "made.json").read_text())
    assert content["command"] == "atat experiment run made --budget gpu_seconds=0.1"
    assert [(one["num_steps"], one["train_seconds"]) for one in content["runs"]] == [(5, 0.1), (2, 0.08)]
    assert str(tmp_path) not in json.dumps(content)
    monkeypatch.setattr(budgets, "GRIDS", file.rename(tmp_path / "made.yaml").parent)
    monkeypatch.setitem(budgets.FILES, "novels", {"made.json": "atat experiment run made.yaml --seeds 0"})
    stored_files.stored.cache_clear()
    monkeypatch.setattr(budgets, "tokens_of", lambda runs: sum(one.num_tokens for one in runs) / len(runs))
    monkeypatch.setattr(to_come, "tokens_of", budgets.tokens_of)
    tables = budgets.by_budget("novels"), to_come.experiment("made.json")
    stored_files.stored.cache_clear()
    assert tables[0].splitlines()[2:] == [
        "| any order | `mdlm` | 4.200 ± 0.100 |",
        "| any order | `atat` | 4.000 ± 0.100 |",
        "| any order | `atat` minus `mdlm` | -0.200 (-18%, 1 pair) |",
    ]
    assert tables[1].splitlines()[3] == "| `atat` | 1 | 0M | 4.000 ± 0.100 | -0.200 (-18%) |"
