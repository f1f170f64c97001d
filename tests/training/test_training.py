"""Whole runs, as a user starts them."""

import errno
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mdlm_atat.cli.main import main
from mdlm_atat.report.report import write_report
from mdlm_atat.training.checkpoint import all_checkpoints
from mdlm_atat.training.engine import Engine
from mdlm_atat.training.metrics import EVAL_ERROR, EVAL_NATS
from processes import Started, run_command, run_ranks
from tiny_runs import losses_of, tiny_flags, torchrun, train, write_text

pytestmark = pytest.mark.usefixtures("no_report")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ATAT_CACHE", str(tmp_path_factory.mktemp("cache")))


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the newest checkpoint: weights, averages and optimizer moments."""
    folder = all_checkpoints(run / "checkpoints")[-1].folder
    return {
        f"{file.stem}/{name}": tensor.clone()  # not the mapped file, which a test may damage
        for file in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


def test_a_run_leaves_everything_a_reader_needs_and_lowers_the_bound(text, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mdlm_atat.runs.train.write_report", write_report)
    run = tmp_path / "run"
    settings = {"train__num_steps": 100, "train__batch_size": 32, "optim__lr": 2e-2, "model__width": 32}
    assert train(text, run, **settings, train__eval_interval_steps=50, eval__final_num_draws=256) == 0
    names = {"config.yaml", "run.json", "metrics.jsonl", "tokenizer", "checkpoints", "evals", "samples.jsonl"}
    assert names | {"report.html", "counts.npy", "phrases.json"} == {path.name for path in run.iterdir()}
    (record,) = [json.loads(file.read_text()) for file in (run / "evals").iterdir()]
    assert record["nelbo_nats_per_token"] < record["unigram"]["nats_per_token"] - 0.05
    output = capsys.readouterr().out
    for part in ("data ", "model ", "training ", "machine ", "bound ", "unigram ", "report "):
        assert part in output


def test_resuming_repeats_the_run_bit_for_bit(text, tmp_path, capsys):
    dropout = {"model__dropout": 0.2}  # its random numbers have to come back too
    assert train(text, tmp_path / "whole", **dropout) == 0
    assert train(text, tmp_path / "parts", train__num_steps=8, train__max_minutes=1e-9, **dropout) == 0
    assert "1e-09 minutes are over" in capsys.readouterr().out
    assert all_checkpoints(tmp_path / "parts" / "checkpoints")[-1].step == 1
    assert main(["train", "--resume", str(tmp_path / "parts")]) == 0  # the time limit was for that call alone
    assert same(weights_of(tmp_path / "whole"), weights_of(tmp_path / "parts"))
    assert losses_of(tmp_path / "whole") == losses_of(tmp_path / "parts")


@pytest.mark.slow
def test_a_run_killed_with_signal_9_at_a_random_moment_resumes_bit_for_bit(text, tmp_path):
    # long enough that the kill falls inside: 60 steps could be over, and the scoring begun, within the 0.3 seconds
    settings = {"train__num_steps": 240, "train__checkpoint_interval_steps": 3, "train__eval_interval_steps": 240}
    killed, flags = tmp_path / "killed", tiny_flags(text, **settings)
    run_command(["train", "demo", "--out", str(tmp_path / "whole"), *flags])
    started = Started(["train", "demo", "--out", str(killed), *flags])
    wait_for(lambda: len(all_checkpoints(killed / "checkpoints")) >= 2)
    time.sleep(random.random() * 0.3)
    started.send_signal(signal.SIGKILL)
    assert started.wait() == -signal.SIGKILL
    before = all_checkpoints(killed / "checkpoints")[-1].step
    run_command(["train", "--resume", str(killed)])
    assert before < 240
    assert same(weights_of(tmp_path / "whole"), weights_of(killed))
    assert losses_of(tmp_path / "whole") == losses_of(killed)


ENDING = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129, "SIGUSR1": 128 + signal.SIGUSR1}


@pytest.mark.parametrize("name", ENDING)
def test_a_signal_ends_with_a_checkpoint_and_the_command_that_resumes(text, tmp_path, name):
    run = tmp_path / "run"
    flags = tiny_flags(text, train__num_steps=100_000, train__eval_interval_steps=100_000)
    started = Started(["train", "demo", "--out", str(run), *flags])
    wait_for(lambda: (run / "metrics.jsonl").exists() and (run / "metrics.jsonl").stat().st_size > 500)
    started.send_signal(getattr(signal, name))
    assert started.wait(60) == ENDING[name]
    output = started.output
    assert f"continue   atat train --resume {run}" in output
    checkpoint = all_checkpoints(run / "checkpoints")[-1]
    assert checkpoint.fault() is None
    assert f"stopped at step {checkpoint.step} of 100000" in output


def test_three_processes_score_two_blocks_of_draws_without_waiting_for_each_other(text, tmp_path):
    flags = tiny_flags(text, train__batch_size=6, train__num_steps=4)
    run_ranks(3, ["train", "demo", "--out", str(tmp_path / "three"), *flags])
    assert (tmp_path / "three" / "report.html").exists()


@pytest.mark.slow
def test_two_processes_match_one(text, tmp_path):
    settings = {"train__num_steps": 12, "train__num_micro_batches": 2, "train__batch_size": 8}
    run_ranks(1, ["train", "demo", "--out", str(tmp_path / "one"), *tiny_flags(text, **settings)])
    torchrun(2, ["train", "demo", "--out", str(tmp_path / "two"), *tiny_flags(text, **settings)])
    assert losses_of(tmp_path / "two") == pytest.approx(losses_of(tmp_path / "one"), abs=1e-5)
    bounds = [json.loads(next((tmp_path / run / "evals").iterdir()).read_text()) for run in ("one", "two")]
    assert bounds[0]["nelbo_nats_per_token"] == pytest.approx(bounds[1]["nelbo_nats_per_token"], abs=1e-4)
    assert json.loads((tmp_path / "two" / "run.json").read_text())["machine"]["num_processes"] == 2
    # one process goes on where two stopped, and says what that changes
    output = run_command(["train", "--resume", str(tmp_path / "two"), "--train.num_steps", "14"])
    assert "num_processes: 2 before, 1 now" in output
    assert "train.num_steps: 12 before, 14 now" in output


def test_micro_batches_give_the_gradients_of_the_whole_batch(text, tmp_path):
    for parts in (1, 2, 4):
        assert train(text, tmp_path / str(parts), train__num_micro_batches=parts, train__num_steps=6) == 0
    assert losses_of(tmp_path / "2") == pytest.approx(losses_of(tmp_path / "1"), abs=1e-5)
    assert losses_of(tmp_path / "4") == pytest.approx(losses_of(tmp_path / "1"), abs=1e-5)


def test_padded_documents_train_without_their_padding(tmp_path):
    lines = tmp_path / "lines.txt"
    lines.write_text("".join(f"line {i} {'x' * (i % 9)}\n" for i in range(200)))
    flags = {"data__mode": "pad", "data__documents": "line", "train__num_micro_batches": 2}
    assert train(lines, tmp_path / "run", **flags) == 0
    (record,) = [json.loads(file.read_text()) for file in (tmp_path / "run" / "evals").iterdir()]
    assert record["mode"] == "pad"
    tokens = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-2])["train/tokens"]
    assert 8 * 4 * 5 < tokens < 8 * 4 * 16  # real tokens are counted, not rows of 16


def test_the_causal_baseline_trains_in_the_same_loop(text, tmp_path):
    assert train(text, tmp_path / "run", model__kind="causal", train__num_steps=60, optim__lr=1e-2) == 0
    (record,) = [json.loads(file.read_text()) for file in (tmp_path / "run" / "evals").iterdir()]
    assert record["kind"] == "exact"
    assert record["nelbo_nats_per_token"] < record["unigram"]["nats_per_token"]


def test_a_loss_that_is_not_finite_names_the_step_and_saves_nothing_after_it(text, tmp_path, capsys):
    flags = tiny_flags(text, optim__lr=1e38, optim__warmup_steps=0, optim__grad_clip=0, train__num_steps=20)
    assert main(["train", "demo", "--out", str(tmp_path / "bad"), *flags]) == 2
    message = capsys.readouterr().err
    assert "not finite numbers in step 2 (sequences 4 to 7 of the shuffled training data)" in message
    assert "no checkpoint was written before" in message
    assert not all_checkpoints(tmp_path / "bad" / "checkpoints")
    # the first step's weights overflow already
    steps = {"train__num_steps": 20, "train__checkpoint_interval_steps": 1}
    assert train(text, tmp_path / "worse", optim__lr=1e38, optim__warmup_steps=0, optim__grad_clip=0, **steps) == 2
    assert "not finite numbers in step 1" in capsys.readouterr().err
    assert not all_checkpoints(tmp_path / "worse" / "checkpoints")


def test_a_truncated_newest_checkpoint_falls_back_to_the_one_before_and_says_so(text, tmp_path, capsys):
    assert train(text, tmp_path / "run") == 0
    whole = weights_of(tmp_path / "run")
    newest = all_checkpoints(tmp_path / "run" / "checkpoints")[-1].folder / "model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-50])
    capsys.readouterr()
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0
    output = capsys.readouterr().out
    assert "step-00000008 is damaged" in output
    assert "after step 4" in output
    assert same(whole, weights_of(tmp_path / "run"))


REFUSALS = {
    "another run": (["--out", "{run}"], "holds another run"),
    "not empty": (["--out", "{text_folder}"], "is not empty"),
    "batch over heads": (["--out", "{new}", "--model.num_heads", "3"], "model.width"),
    "micro-batches": (["--out", "{new}", "--train.num_micro_batches", "3"], "cannot be cut into"),
    "missing file": (["--out", "{new}", "--data.source", "nowhere.txt"], "nowhere.txt"),
    "too short": (["--out", "{new}", "--data.length", "100000"], "shorter --data.length"),
    "unknown flag": (["--out", "{new}", "--optim.lrr", "1"], "--optim.lr?"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_mistake_is_one_message_with_exit_code_2_and_leaves_no_folder(case, text, tmp_path, capsys):
    run, new, folder = tmp_path / "run", tmp_path / "new", tmp_path / "folder"
    run.mkdir()
    (run / "config.yaml").write_text("data: {}\n")
    folder.mkdir()
    (folder / "mine").write_text("precious")
    flags, expected = REFUSALS[case]
    flags = [flag.format(run=run, new=new, text_folder=folder) for flag in flags]
    words = ["train", "demo", *tiny_flags(text)]
    for name, value in zip(flags[::2], flags[1::2], strict=True):
        if name in words:  # a flag that is given twice is another mistake
            words[words.index(name) + 1] = value
        else:
            words += [name, value]
    assert main(words) == 2
    message = capsys.readouterr().err
    assert expected in message
    assert "Traceback" not in message
    assert not new.exists()
    assert (folder / "mine").read_text() == "precious"


def test_a_resumed_run_refuses_other_data_and_other_shapes(text, tmp_path, capsys):
    assert train(text, tmp_path / "run", train__num_steps=4) == 0
    assert main(["train", "--resume", str(tmp_path / "run"), "--model.width", "32"]) == 2
    assert "cannot change model.width (16 to 32)" in capsys.readouterr().err
    write_text(text, seed=1)
    assert main(["train", "--resume", str(tmp_path / "run"), "--train.num_steps", "8"]) == 2
    assert "has changed since the run began" in capsys.readouterr().err
    text.write_text(text.read_text().replace("a", "ä"))
    assert main(["train", "--resume", str(tmp_path / "run"), "--train.num_steps", "8"]) == 2
    assert "trained with another tokenizer" in capsys.readouterr().err


def test_out_of_memory_names_settings_to_try(text, tmp_path, capsys, monkeypatch):
    def out_of_memory(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    places = ("training.loop.evaluate", "training.dry_run.forward_backward", "runs.train.measure")
    for where in (f"mdlm_atat.{place}" for place in places):
        with monkeypatch.context() as patch:
            patch.setattr(where, out_of_memory)
            assert train(text, tmp_path / where) == 2
        message = capsys.readouterr().err
        assert "--train.num_micro_batches 2" in message
        assert "--train.batch_size 2" in message
        assert "--eval.batch_size 16" in message
    assert not (tmp_path / "mdlm_atat.training.dry_run.forward_backward").exists()  # nothing was begun


def test_the_best_checkpoint_is_kept_also_between_two_checkpoint_steps(text, tmp_path):
    settings = {"train__num_steps": 12, "train__eval_interval_steps": 3, "train__checkpoint_interval_steps": 12}
    assert train(text, tmp_path / "run", **settings) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    bounds = {line["step"]: line["eval/nelbo_nats_per_token"] for line in lines if "eval/perplexity" in line}
    best = tmp_path / "run" / "checkpoints" / "best"
    assert best.resolve().name == f"step-{min(bounds, key=lambda step: bounds[step]):08d}"
    assert main(["eval", str(best), "--num_draws", "32", "--json", str(tmp_path / "r.json")]) == 0


def test_a_worse_score_after_a_run_is_resumed_leaves_the_best_checkpoint_where_it_was(text, tmp_path, monkeypatch):
    scores = iter([1.0, 2.0])
    monkeypatch.setattr("mdlm_atat.runs.train.score_validation", lambda *_: {EVAL_NATS: next(scores), EVAL_ERROR: 0.1})
    run = tmp_path / "run"
    assert train(text, run, train__num_steps=4) == 0
    assert main(["train", "--resume", str(run), "--train.num_steps", "8"]) == 0
    assert [c.step for c in all_checkpoints(run / "checkpoints")] == [4, 8]
    assert (run / "checkpoints" / "best").resolve().name == "step-00000004"


def test_a_run_killed_before_its_first_checkpoint_starts_again_from_its_first_step(text, tmp_path, capsys):
    assert train(text, tmp_path / "run") == 0
    whole = weights_of(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    assert main(["train", "--resume", str(tmp_path / "run"), "--model.width", "32"]) == 2
    assert "cannot change model.width" in capsys.readouterr().err
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0
    assert "starts again from its first step" in capsys.readouterr().out
    assert same(whole, weights_of(tmp_path / "run"))


def test_fewer_steps_than_were_taken_are_refused_and_the_configuration_stays(text, tmp_path, capsys):
    assert train(text, tmp_path / "run") == 0
    assert main(["train", "--resume", str(tmp_path / "run"), "--train.num_steps", "6"]) == 2
    assert "has taken 8 steps already" in capsys.readouterr().err
    assert "num_steps: 8" in (tmp_path / "run" / "config.yaml").read_text()


def test_a_run_can_be_scored_and_resumed_from_another_folder_but_not_on_other_text(text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train(text.name, Path("run")) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["eval", "../run", "--num_draws", "32"]) == 0
    assert main(["train", "--resume", "../run", "--train.num_steps", "10"]) == 0
    write_text(text, seed=2)
    capsys.readouterr()
    assert main(["eval", "../run"]) == 2
    assert "has changed since the run began" in capsys.readouterr().err


def test_a_full_disk_while_the_configuration_is_rewritten_leaves_the_old_one(text, tmp_path, monkeypatch, capsys):
    assert train(text, tmp_path / "run") == 0
    before = (tmp_path / "run" / "config.yaml").read_text()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert main(["train", "--resume", str(tmp_path / "run"), "--train.num_steps", "12"]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert (tmp_path / "run" / "config.yaml").read_text() == before


def test_the_configuration_of_a_run_starts_the_same_run_again(text, tmp_path):
    assert train(text, tmp_path / "first", train__num_steps=4) == 0
    assert main(["train", str(tmp_path / "first"), "--out", str(tmp_path / "second")]) == 0
    assert same(weights_of(tmp_path / "first"), weights_of(tmp_path / "second"))


def test_tensorboard_carries_the_names_of_metrics_jsonl(text, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert train(text, tmp_path / "run", train__loggers=["tensorboard"]) == 0
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert set(events.Tags()["scalars"]) == {name for line in lines for name in line} - {"step"}
    assert len(events.Scalars("train/loss")) == 8


def wait_for(happened, timeout_s: float = 90.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < end_s, "it did not happen in time"
        time.sleep(0.02)


def test_a_batch_that_does_not_divide_into_processes_times_micro_batches_is_refused(
    text, tmp_path, monkeypatch, capsys
):
    class OfTwo(Engine):
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **settings)
            self.num_ranks = 2

    monkeypatch.setattr("mdlm_atat.runs.train.Engine", OfTwo)
    assert train(text, tmp_path / "run", train__batch_size=6, train__num_micro_batches=2) == 2
    message = (
        "train.batch_size = 6 cannot be cut into 2 processes x 2 micro-batches of equal size; try --train.batch_size 4"
    )
    assert message in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "run").exists()
