"""Whole runs of every training method, as a user starts them."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mdlm_atat import MaskedDiffusionLM
from mdlm_atat.cli.main import main
from mdlm_atat.config.build import prepare_data
from mdlm_atat.config.files import describe_methods, load_config
from mdlm_atat.data.progress import Silent
from mdlm_atat.data.tokens import TokenDataset
from mdlm_atat.scoring.draws import DrawSettings
from mdlm_atat.training.checkpoint import all_checkpoints
from mdlm_atat.training.engine import Engine
from processes import run_ranks
from tiny_runs import method_flags, train_method, write_text

WITH_ESTIMATOR = {
    "importance_rates",
    "no_curriculum",
    "importance_only",
    "proportional",
    "learned_only",
    "literal_importance",
    "literal_curriculum",
}
WITH_RATES = {
    "importance_rates",
    "no_curriculum",
    "importance_only",
    "proportional",
    "learned_only",
    "frequency_only",
}
WITH_STAGES = {"importance_rates", "proportional", "no_importance", "literal_curriculum"}
TWO_WAYS = {"two_way", "atat"}
LITERAL = {"literal_importance", "literal_curriculum"}
OWN_SCHEDULE = WITH_RATES | {"position_slope"}

CLOCK = {"elapsed_s", "train/tokens_per_s"}
DYNAMIC = {  # a stage lasts 4 losses: 2 until there is a best one, and 2 that are no improvement on it
    "curriculum__kind": "dynamic",
    "curriculum__interval_steps": 1,
    "curriculum__patience": 2,
    "curriculum__min_steps": 0,
    "curriculum__smoothing": 0.5,
    "curriculum__tolerance": 0.9,
    "curriculum__setback": 10,
}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ATAT_CACHE", str(tmp_path_factory.mktemp("cache")))


REPORTED = {"mdlm", "importance_rates", "literal_curriculum", "atat"}
"""Methods whose pages between them have all that a page can have of a method: parts of the loss, a schedule of its own,
stages, importance, two ways."""


@pytest.fixture(autouse=True)
def report(request):
    """Only where runs of these methods are looked at."""
    if request.node.name not in {f"test_every_method_trains_and_reports_what_it_may[{name}]" for name in REPORTED}:
        request.getfixturevalue("no_report")


@pytest.fixture
def text(tmp_path) -> Path:
    return write_text(tmp_path / "text.txt", num_words=800)  # little to inspect and to score


def weights_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Every tensor: weights, averages and optimizer moments."""
    return {
        f"{file.stem}/{name}": tensor.clone()
        for file in sorted(checkpoint.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


def lines_of(run: Path, name: str) -> list[dict[str, float]]:
    """What metrics.jsonl holds, in the lines that have this name, without the clock's readings."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in CLOCK} for line in lines if name in line]


def losses_of(run: Path, name: str = "train/loss") -> list[float]:
    return [line[name] for line in lines_of(run, name)]


def record_of(run: Path) -> dict[str, Any]:
    (file,) = (run / "evals").iterdir()
    return json.loads(file.read_text())


def last(run: Path) -> Path:
    return all_checkpoints(run / "checkpoints")[-1].folder


@pytest.mark.parametrize("method", describe_methods())
def test_every_method_trains_and_reports_what_it_may(method, text, tmp_path):
    run = tmp_path / "run"
    batch = {"train__batch_size": 8} if method == "atat" else {}  # five rows of every eight are read left to right
    assert train_method(method, text, run, train__num_steps=12, train__eval_interval_steps=12, **batch) == 0

    if method in REPORTED:
        assert (run / "report.html").stat().st_size > 0

    # PPL-U of every method, PPL-S where the loss is a bound
    record = record_of(run)
    assert record["kind"] == "nelbo"
    assert record["perplexity_per_token"] == pytest.approx(math.exp(record["nelbo_nats_per_token"]))
    schedule = record["schedule"]
    assert (schedule is None) == (method in LITERAL)
    if schedule is not None:
        assert schedule["strategy"] == load_config("demo", method).masking.strategy
        uniform, own = record["nelbo_nats_per_token"], schedule["nelbo_nats_per_token"]
        assert schedule["perplexity_per_token"] == pytest.approx(math.exp(own))
        assert (own != uniform) == (method in OWN_SCHEDULE)
        assert own == pytest.approx(uniform, abs=0.2)  # 12 steps taught the network little
        assert (abs(schedule["rate_nats_per_token"]) > 1e-9) == (method in WITH_RATES)
    for line in lines_of(run, "eval/perplexity"):
        assert ("eval/schedule_perplexity" in line) == (method in OWN_SCHEDULE)

    # the named parts of the loss, which add up to it
    share = {"two_way": 0.5, "atat": 0.625}.get(method, 0)
    error = 0.5 / math.sqrt(64 * (1 - share))  # of a step's share of masks: 64 coins, or half of them
    lines = lines_of(run, "train/loss")
    assert [line["step"] for line in lines] == list(range(1, 13))
    for line in lines:
        assert all(math.isfinite(value) for value in line.values())
        assert ("train/rate_mismatch" in line) == (method in WITH_RATES)
        assert ("train/importance" in line) == (method in WITH_ESTIMATOR)
        assert ("importance/correlation" in line) == (method in WITH_ESTIMATOR)
        assert ("curriculum/stage" in line) == (method in WITH_STAGES)
        total = line["train/diffusion"] + line.get("train/rate_mismatch", 0) + 0.1 * line.get("train/importance", 0)
        assert ("train/nll" in line) == (method in TWO_WAYS)
        total = (1 - share) * total + share * line.get("train/nll", 0)
        assert line["train/loss"] == pytest.approx(total, rel=1e-5)
        assert line.get("train/rate_mismatch", 0) >= -1e-5
        names = {f"importance/{name}" for name in ("mean", "std", "q10", "q50", "q90")}
        assert names & line.keys() == (names if method in WITH_ESTIMATOR | {"frequency_only"} else set())
        if names <= line.keys():
            quantiles = [line[f"importance/q{percent}"] for percent in (10, 50, 90)]
            assert quantiles == sorted(quantiles)
            assert 0 <= quantiles[0] <= line["importance/mean"] <= 1
            assert 0 <= line["importance/std"] < 0.5  # an untrained estimator's is 0
        assert abs(line.get("importance/correlation", 0)) <= 1 + 1e-5
        assert abs(line["masking/realised_rate"] - line["masking/expected_rate"]) < 5 * error
    means = [np.mean([line[f"masking/{name}_rate"] for line in lines]) for name in ("expected", "realised")]
    assert abs(means[0] - means[1]) < 4 * error / math.sqrt(12)
    if method in WITH_STAGES:
        stages = losses_of(run, "curriculum/stage")
        assert stages == sorted(stages)
        assert set(stages) == {0, 1, 2}

    # the last stage that was trained is the one it is scored in
    lm = MaskedDiffusionLM.from_pretrained(run)
    assert (lm.stage is None) == (method not in WITH_STAGES)
    assert lm.stage is None or lm.stage.index == 2


def test_the_linear_curriculum_s_temperature_falls_step_by_step_to_the_last_stage_s(text, tmp_path):
    assert train_method("importance_rates", text, tmp_path / "run", train__num_steps=10) == 0
    found = losses_of(tmp_path / "run", "curriculum/temperature")
    first, second = load_config("demo", "importance_rates").curriculum.boundaries
    assert (first, second) == (0.2, 0.8)
    assert found == pytest.approx([4, 3, 2, 11 / 6, 10 / 6, 9 / 6, 8 / 6, 7 / 6, 1, 1])


RESUMED = {
    "importance_rates": ("importance_rates", {}),
    "importance_rates, a dynamic curriculum": ("importance_rates", DYNAMIC),
    "importance_only, through the bound": ("importance_only", {"importance__through_bound": True}),
    "a table, through the bound": ("position_slope", {"masking__position": "table", "importance__through_bound": True}),
}


@pytest.mark.parametrize("case", RESUMED)
def test_a_run_cut_off_after_step_5_resumes_bit_for_bit(case, text, tmp_path):
    """As kill -9 leaves it: the checkpoint of step 5, log lines beyond it, and nothing that came later."""
    method, changed = RESUMED[case]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    settings = {"train__num_steps": 10, "train__checkpoint_interval_steps": 5, "model__dropout": 0.2, **changed}
    assert train_method(method, text, whole, train__eval_interval_steps=5, **settings) == 0
    shutil.copytree(whole, cut, symlinks=True)
    for link in ("last", "best"):
        (cut / "checkpoints" / link).unlink(missing_ok=True)
    shutil.rmtree(last(cut))
    shutil.rmtree(cut / "evals")
    assert last(cut).name == "step-00000005"
    # what the weights are after 5 steps is not what they are after 10
    assert not same(weights_of(last(whole)), weights_of(last(cut)))

    state = json.loads((last(cut) / "state.json").read_text())
    if "dynamic" in case:
        stages = losses_of(whole, "curriculum/stage")
        assert stages == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]  # cut in the second, with one loss of it observed
        # the state is that after step 5, the stage that which step 5 was trained in
        assert state["curriculum"]["stage"] == stages[5]
        assert state["stage"]["index"] == stages[4]
        assert {"average_nats", "num_observations", "best_nats"} <= state["curriculum"].keys()

    assert main(["train", "--resume", str(cut)]) == 0
    assert same(weights_of(last(whole)), weights_of(last(cut)))
    assert lines_of(whole, "step") == lines_of(cut, "step")
    numbers = [{k: v for k, v in record_of(run).items() if k != "file"} for run in (whole, cut)]
    for number in numbers:
        number.pop("checkpoint_hash")  # its state.json holds the time that training took
    assert numbers[0] == numbers[1]


@pytest.mark.slow
def test_two_processes_match_one_that_takes_their_rows_in_turn(text, tmp_path):
    """The estimator's targets are standardised over the rows of one micro-batch, so these have to be the same."""
    settings: dict[str, object] = {"train__batch_size": 16, "train__num_steps": 6, "eval__num_samples": 0}
    assert train_method("importance_rates", text, tmp_path / "one", train__num_micro_batches=2, **settings) == 0
    run_ranks(2, ["train", "demo", "--out", str(tmp_path / "two"), *method_flags("importance_rates", text, **settings)])
    one, two = lines_of(tmp_path / "one", "train/loss"), lines_of(tmp_path / "two", "train/loss")
    assert [line.keys() for line in one] == [line.keys() for line in two]
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, abs=1e-5)
    bounds = [record_of(tmp_path / run) for run in ("one", "two")]
    for path in (("nelbo_nats_per_token",), ("schedule", "nelbo_nats_per_token"), ("schedule", "rate_nats_per_token")):
        a, b = (record[path[0]] if len(path) == 1 else record[path[0]][path[1]] for record in bounds)
        assert a == pytest.approx(b, abs=1e-4)


def test_rows_that_cannot_be_paired_on_each_process_are_one_clear_message(text, tmp_path, monkeypatch, capsys):
    """3 rows for each of 2 processes, every sequence to be masked twice: told before anything is written."""

    def of_two(precision: Any, *, shard: bool = False) -> Engine:
        engine = Engine(precision)
        engine.num_ranks = 2
        return engine

    monkeypatch.setattr("mdlm_atat.runs.train.Engine", of_two)
    settings: dict[str, object] = {"importance__through_bound": True, "train__batch_size": 6}
    assert train_method("importance_only", text, tmp_path / "run", **settings) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: importance.through_bound masks every sequence twice")
    size = "train.batch_size = 6 over 2 processes is 3 to mask at once"
    assert f"{size}, not an even number: try --train.batch_size 8" in message
    assert not (tmp_path / "run").exists()


def test_micro_batches_give_the_losses_and_gradients_of_the_whole_batch(text, tmp_path):
    # but for the estimator's own loss, whose targets are standardised within a micro-batch: here it learns nothing
    settings: dict[str, object] = {"importance__loss_weight": 1e-12, "train__batch_size": 8, "train__num_steps": 6}
    for parts in (1, 4):
        out = tmp_path / str(parts)
        in_parts = {**settings, "train__num_micro_batches": parts, "eval__num_samples": 0}
        assert train_method("importance_rates", text, out, **in_parts) == 0
    terms = ("loss", "diffusion", "rate_mismatch", "grad_norm")
    for name in (*(f"train/{term}" for term in terms), "masking/expected_rate", "importance/mean"):
        whole = losses_of(tmp_path / "1", name)
        assert len(whole) == 6
        assert losses_of(tmp_path / "4", name) == pytest.approx(whole, abs=2e-5)


def test_padded_documents_train_with_every_part_on(tmp_path):
    lines = tmp_path / "lines.txt"
    lines.write_text("".join(f"line {i} {'x' * (i % 9)}\n" for i in range(200)))
    settings = {"data__mode": "pad", "data__documents": "line", "importance__through_bound": True}
    assert train_method("importance_only", lines, tmp_path / "run", train__num_micro_batches=2, **settings) == 0
    assert all(math.isfinite(loss) for loss in losses_of(tmp_path / "run"))
    record = record_of(tmp_path / "run")
    assert record["mode"] == "pad"
    assert math.isfinite(record["schedule"]["nelbo_nats_per_token"])


def validation_of(run: Path) -> TokenDataset:
    data = load_config(str(run)).data
    return TokenDataset.open(prepare_data(data, Silent()), "valid", data.length)


@pytest.mark.parametrize("method", ["importance_rates", "frequency_only", "position_slope"])
def test_a_saved_model_keeps_its_prior_its_stage_and_its_numbers(method, text, tmp_path):
    assert train_method(method, text, tmp_path / "run") == 0
    rows = validation_of(tmp_path / "run")
    lm = MaskedDiffusionLM.from_pretrained(tmp_path / "run" / "checkpoints" / "step-00000004")
    lm.save_pretrained(tmp_path / "saved")
    checked = json.loads((tmp_path / "saved" / "checksums.json").read_text())
    assert ({"counts.npy", "stage.json"} & checked.keys()) == {"counts.npy"} | ({"stage.json"} if lm.stage else set())
    saved = MaskedDiffusionLM.from_pretrained(tmp_path / "saved")
    assert saved.stage == lm.stage
    if method == "importance_rates":
        assert lm.stage is not None
        # step 4 of 8, the third quarter of a second stage that takes 20% to 80% and goes from 2 to 1
        assert lm.stage.temperature == pytest.approx(2 - (3 / 8 - 0.2) / 0.6)
    if method != "position_slope":
        assert lm.network.prior is not None
        assert saved.network.prior is not None
        assert saved.network.prior.equal(lm.network.prior)
        assert saved.network.prior[:-1].max() <= 1
    before, after = (model.schedule_draws(rows, DrawSettings(num_draws=64, seed=3)) for model in (lm, saved))
    assert before is not None
    assert after is not None
    assert after.diffusion.equal(before.diffusion)
    assert after.rates.equal(before.rates)
    texts = [model.generate(["the "], steps=8, seed=1)[0] for model in (lm, saved)]
    assert texts[0] == texts[1]
    assert texts[0].text.startswith("the ")
    assert texts[0].nfe <= 8
    if method == "importance_rates":  # the stage is part of the schedule that it is scored under
        saved.stage = None
        other = saved.schedule_draws(rows, DrawSettings(num_draws=64, seed=3))
        assert other is not None
        assert not other.diffusion.equal(before.diffusion)


def test_a_run_whose_counts_are_gone_is_scored_if_its_method_has_no_prior_and_else_one_message_says_so(
    text, tmp_path, capsys
):
    for method in ("importance_rates", "frequency_only", "mdlm"):
        run = tmp_path / method
        assert train_method(method, text, run, train__num_steps=2) == 0
        (run / "counts.npy").unlink()
        capsys.readouterr()
        code = main(["eval", str(run), "--num_draws", "32", "--json", str(tmp_path / "found.json")])
        output = capsys.readouterr()
        if method == "mdlm":
            assert code == 0
            found = json.loads((tmp_path / "found.json").read_text())
            assert found["unigram"] is None
            assert found["nelbo_nats_per_token"] == record_of(run)["nelbo_nats_per_token"]
        else:
            assert code == 2
            (message,) = output.err.splitlines()
            assert message.startswith("error: importance.mode = ")
            assert "restore counts.npy" in message


COMPILED = """
import sys
import torch
from mdlm_atat.cli.main import main
from mdlm_atat.runs import train as run
real = torch.compile  # its front end; the back end, which makes C++, takes most of a minute
torch.compile = lambda f, **options: real(f, backend="aot_eager", **options)
run.finish = lambda *_: None
run.score_validation = lambda *_: {"eval/nelbo_nats_per_token": 0.0, "eval/standard_error": 0.0}
code = main(sys.argv[1:])
assert torch._dynamo.utils.counters["stats"]["calls_captured"] > 50
sys.exit(code)
"""


@pytest.mark.slow
def test_compiled_blocks_give_the_losses_and_gradients_of_plain_ones(text, tmp_path):
    settings: dict[str, object] = {"train__num_steps": 2, "eval__num_samples": 0, "importance__train_share": 1}
    assert train_method("importance_rates", text, tmp_path / "plain", **settings) == 0
    flags = method_flags("importance_rates", text, train__compile=True, **settings)
    # a process of its own: shapes are checked in this one, which is not for the compiler; scoring is left out there,
    # whose shapes would be compiled too
    command = [sys.executable, "-c", COMPILED, "train", "demo", "--out", str(tmp_path / "compiled"), *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("train/loss", "train/diffusion", "train/importance", "train/grad_norm"):
        compiled, plain = (losses_of(tmp_path / run, name) for run in ("compiled", "plain"))
        assert len(plain) == 2
        assert compiled == pytest.approx(plain, abs=1e-4)
