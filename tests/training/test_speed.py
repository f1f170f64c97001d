"""What makes a run faster or smaller changes nothing else: recomputing, sharding, compiling; counts of operations."""

from __future__ import annotations

import importlib
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mdlm_atat.config.build import build_model, build_objective
from mdlm_atat.config.files import load_config
from mdlm_atat.config.schema import OptimConfig
from mdlm_atat.errors import UserError
from mdlm_atat.nets.dit import ATATDiT
from mdlm_atat.nets.ema import EMA
from mdlm_atat.training.checkpoint import all_checkpoints
from mdlm_atat.training.engine import speed_up
from mdlm_atat.training.flops import training_flops_per_token
from mdlm_atat.training.log import ProgressLine
from mdlm_atat.training.optim import make_optimizer, set_learning_rate
from processes import run_ranks
from tiny_runs import losses_of, method_flags, train, values_of, write_text

ROOT = Path(__file__).parents[2]
VOCAB = 23
pytestmark = pytest.mark.usefixtures("no_report")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text") / "text.txt")


def gradients(method: str | None = "mdlm", *, dropout: float = 0.0, **train_: object) -> dict[str, torch.Tensor]:
    """Of one batch under fixed weights and random numbers."""
    config = load_config("demo", method)
    model_ = replace(config.model, num_layers=2, width=32, num_heads=2, dropout=dropout)
    train_config = replace(config.train, batch_size=6, **train_)  # type: ignore[arg-type]
    config = replace(config, model=model_, train=train_config, data=replace(config.data, length=24))
    torch.manual_seed(0)
    counts = np.arange(1, VOCAB + 1)
    model = build_model(config, VOCAB, counts)
    speed_up(model, config.train, "float32")
    objective = build_objective(config, VOCAB, counts, model)
    draw = objective.draw(6, 24, torch.Generator().manual_seed(1))
    torch.manual_seed(2)
    objective.loss(model, torch.arange(6 * 24).view(6, 24) % VOCAB, None, draw, 144.0).total.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_recomputed_blocks_give_the_same_gradients_bit_for_bit_and_drop_the_same():
    kept, again = gradients(dropout=0.3), gradients(dropout=0.3, recompute=True)
    assert kept.keys() == again.keys()
    assert all(kept[name].equal(again[name]) for name in kept)
    assert not kept["blocks.0.mlp.up.weight"].equal(gradients(dropout=0.0)["blocks.0.mlp.up.weight"])


def test_recomputed_blocks_keep_less_for_the_backward_pass():
    def kept_bytes(recompute: bool) -> int:
        sizes: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            gradients(recompute=recompute)
        return sum(sizes.values())

    plain = kept_bytes(False)
    with pytest.MonkeyPatch.context() as patch:
        # only what the blocks' inputs are, not what is kept while one of them runs again
        patch.setattr(torch.Tensor, "backward", lambda _: None)
        assert kept_bytes(True) < 0.6 * plain


def compare_compiled() -> None:
    """For a process of its own: the checks of shapes and the warnings made errors are not what is to be compiled.
    Traced by the real compiler's front end; the back end is the plain one, as not every machine has a C++ compiler."""
    real = torch.compile
    torch.compile = lambda f, **options: real(f, backend="aot_eager", **options)
    for method in ("mdlm", "importance_rates"):
        plain, compiled = gradients(method), gradients(method, compile=True)
        assert plain.keys() == compiled.keys()  # so the weights keep their names, too
        for name in plain:
            torch.testing.assert_close(compiled[name], plain[name], rtol=1e-4, atol=1e-6)
    compare_compiled_muon()
    print("compiled", torch._dynamo.utils.counters["stats"]["calls_captured"] > 100)


def compare_compiled_muon() -> None:
    """Three steps at three rates: a matrix of each shape, and no code compiled for a second rate."""
    networks = [ATATDiT(13, 8, num_layers=2, width=16, num_heads=2) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    config = OptimConfig(kind="muon")
    optimizers = [
        make_optimizer(network, config, compile=compile)
        for network, compile in zip(networks, (False, True), strict=True)
    ]
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for step in range(3):
        for p, q in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        for optimizer in optimizers:
            set_learning_rate(optimizer, 0.01 / (1 + step))
            optimizer.step()
    for p, q in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] - before == 3


@pytest.mark.slow
def test_a_compiled_network_gives_the_gradients_of_the_plain_one():
    code = "import sys; sys.path[:0] = ['tests', 'tests/training']; import test_speed; test_speed.compare_compiled()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.stdout.strip() == "compiled True", done.stderr[-3000:]


@pytest.mark.slow
def test_two_processes_with_a_part_of_the_weights_each_match_one_and_each_other_s_checkpoints(text, tmp_path):
    settings = {"train__num_steps": 8, "train__batch_size": 8, "model__num_layers": 2}

    def run(name: str, num_processes: int, **more: object) -> None:
        more["train__num_micro_batches"] = 4 // num_processes  # the same rows at once: the estimator looks at them
        flags = method_flags("importance_rates", text, **{**settings, **more})
        run_ranks(num_processes, ["train", "demo", "--out", str(tmp_path / name), *flags])

    run("one", 1)
    run("sharded", 2, train__shard=True)
    assert losses_of(tmp_path / "sharded") == pytest.approx(losses_of(tmp_path / "one"), abs=1e-3)
    norms = [values_of(tmp_path / name, "train/grad_norm") for name in ("one", "sharded")]
    assert norms[1] == pytest.approx(norms[0], rel=1e-2)  # of the whole gradient: a half's is 0.7 of it
    bounds = [json.loads(next((tmp_path / name / "evals").iterdir()).read_text()) for name in ("one", "sharded")]
    assert bounds[0]["nelbo_nats_per_token"] == pytest.approx(bounds[1]["nelbo_nats_per_token"], abs=1e-4)
    files = [sorted(p.name for p in all_checkpoints(tmp_path / name / "checkpoints")[-1].folder.iterdir())
             for name in ("one", "sharded")]  # fmt: skip
    assert files[0] == files[1]

    more = ["--train.num_steps", "12", "--train.num_micro_batches"]
    run_ranks(1, ["train", "--resume", str(tmp_path / "sharded"), "--train.shard", "false", *more, "4"])
    run_ranks(2, ["train", "--resume", str(tmp_path / "one"), "--train.shard", "true", *more, "2"])
    assert len(losses_of(tmp_path / "one")) == 12
    assert losses_of(tmp_path / "sharded") == pytest.approx(losses_of(tmp_path / "one"), abs=1e-3)


def test_the_switches_of_speed_do_not_change_what_is_learned(text, tmp_path):
    assert train(text, tmp_path / "fused") == 0
    assert train(text, tmp_path / "plain", train__fused_loss=False) == 0
    assert train(text, tmp_path / "again", train__recompute=True) == 0
    assert losses_of(tmp_path / "plain") == pytest.approx(losses_of(tmp_path / "fused"), abs=1e-4)
    assert losses_of(tmp_path / "again") == losses_of(tmp_path / "fused")


def test_averages_are_swapped_in_without_moving_the_weights():
    """Who records or shards a network reads its weights where they were."""
    model = build_model(load_config("demo"), VOCAB)
    ema = EMA(model, 0.9)
    places = [p.data_ptr() for p in model.parameters()]
    before = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.data += 1
    with ema.swapped_in(model):
        assert all(p.equal(q) for p, q in zip(model.parameters(), before, strict=True))
        assert [p.data_ptr() for p in model.parameters()] == places
    assert all(p.equal(q + 1) for p, q in zip(model.parameters(), before, strict=True))


def test_operations_are_counted_by_hand_for_a_layer_of_width_4():
    """2 (4 + 8) 16 + 4 * 10 * 4 = 544 forward, half of the attention where it is causal; 2 * 4 * 7 of the output."""
    config = load_config("demo", "time_sampling_only")
    shape = replace(config.model, num_layers=3, width=4, num_heads=1)
    config = replace(config, model=shape, data=replace(config.data, length=10))
    assert training_flops_per_token(config, 7) == 3 * (3 * 544 + 28)
    both = replace(config, objective=replace(config.objective, causal_share=0.25))
    assert training_flops_per_token(both, 7) == 3 * (0.75 * (3 * 544 + 28) + 0.25 * (3 * 464 + 56))
    causal = replace(config, model=replace(shape, kind="causal"))
    assert training_flops_per_token(causal, 7) == 3 * (3 * 464 + 56)


def test_the_estimator_s_operations_are_counted_too():
    config = load_config("demo", "importance_rates")
    estimator = 2 * (2 * 12 * 64**2 + 4 * 400 * 64) + 2 * 128 * 64 + 64**2
    importance = replace(config.importance, width=64, num_layers=2, train_share=0.5)
    config = replace(config, importance=importance)
    without = replace(config, importance=replace(importance, mode="frequency_only"))
    extra = training_flops_per_token(config, 65) - training_flops_per_token(without, 65)
    assert math.isclose(extra, estimator * (1 + 3 * 2 * 0.5))


def test_the_progress_line_tells_the_share_of_the_machine_s_rate_where_it_is_known():
    from rich.console import Console

    console = Console(record=True, width=200, force_terminal=False)
    line = ProgressLine(console, num_steps=2, start_step=0)
    line.update(2, 3.5, 1234.0, 0.437)
    assert "1,234 tokens/s · 44% of the GPU's bf16 rate" in console.export_text()


BENCHMARKS = {
    "train_step": "--preset demo --batch_size 4 --steps 2 --warm_up 1 --variants reference fused --data.length 32",
    "sampling": "--layers 1 --width 64 --length 32 --vocab 100 --batch 2 --steps 4 --rounds 1 --skip_compile",
    "memory": "--presets demo --batch_size 2 --steps 2 --variants fused recompute --data.length 32",
    "generate_speed": "--layers 1 --width 64 --vocab 300 --length 64 --prompt 8 --new 8 --rounds 1 --skip_compile",
    "optim_step": "--shapes demo --batch_size 1 --steps 2 --warm_up 1 --skip_compile",
}


@pytest.mark.slow
def test_what_a_plan_foretells_is_measured_and_stored_arm_by_arm(tmp_path):
    out = tmp_path / "scale.json"
    words = f"--shapes tiny --gpus 1 2 --rows 8 --steps 2 --index_rows 1000 --folder {tmp_path} --out {out}"
    only = "--only tiny-mdlm-1gpu tiny-atat-2gpu-shard"
    command = [sys.executable, "-m", "benchmarks.scale", *words.split(), *only.split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    stored = json.loads(out.read_text())
    assert set(stored["arms"]) == {"tiny-mdlm-1gpu", "tiny-atat-2gpu-shard"}
    assert all(arm["tokens_per_s"] > 0 and arm["checkpoint"]["bytes"] > 9e6 for arm in stored["arms"].values())
    assert set(stored["arms"]["tiny-atat-2gpu-shard"]["checkpoint"]) == {"whole_s", "parts_s", "bytes"}
    assert stored["host"]["checksum_bytes_per_s"] > 1e6
    assert "tiny-mdlm-1gpu" in done.stdout.splitlines()[-2]
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert json.loads(out.read_text()) == stored  # what is there is not measured again
    assert again.returncode == 0


@pytest.mark.parametrize(
    ("name", "flag"),
    [
        ("adapt_causal", "--passage"),
        ("drafts", "--drafts"),
        ("generate_speed", "--new"),
        ("memory", "--steps"),
        ("optim_step", "--batch_size"),
        ("sampling", "--steps"),
        ("short_texts", "--lengths"),
        ("train_step", "--steps"),
    ],
)
def test_a_benchmark_of_nothing_is_refused_before_anything_is_measured(name, flag, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, flag, "0"])
    with pytest.raises((SystemExit, UserError)) as stopped:
        importlib.import_module(f"benchmarks.{name}").main()
    assert "at least 1" in capsys.readouterr().err + str(stopped.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_prints_reference_and_ours_side_by_side(name):
    command = [sys.executable, "-m", f"benchmarks.{name}", *BENCHMARKS[name].split()]
    # without a compiler: it takes half a minute, and is not what is tested here
    environment = {**os.environ, "TORCHDYNAMO_DISABLE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = {
        "sampling": ("plain loop", "spread"),
        "memory": ("demo fused", "demo recompute"),
        "generate_speed": ("transformers, greedy", "ours, eager, greedy"),
        "optim_step": ("AdamW, fused", "muon, eager"),
    }.get(name, ("mdlm reference", "mdlm fused"))
    lines = done.stdout.splitlines()
    rates = [next(line for line in lines if line.startswith(start)).split() for start in (first, second)]
    assert all(any("," in word or "." in word for word in line) for line in rates)
    assert "torch " + torch.__version__ in done.stdout


def test_a_bf16_residual_stream_learns_alike_and_needs_bf16_arithmetic(text, tmp_path, capsys):
    assert train(text, tmp_path / "refused", train__residual="bf16", train__precision="float32") == 2
    assert "error: train.residual = bf16 is for bf16 arithmetic, and this run's is float32" in capsys.readouterr().err
    assert not (tmp_path / "refused").exists()
    assert train(text, tmp_path / "narrow", train__residual="bf16", train__precision="bf16") == 0
    wide, narrow = tmp_path / "wide", tmp_path / "narrow"
    assert train(text, wide, train__precision="bf16") == 0
    assert losses_of(narrow) != losses_of(wide)
    assert losses_of(narrow) == pytest.approx(losses_of(wide), abs=0.05)


def test_sharding_on_one_process_is_the_plain_run_and_says_so(text, tmp_path, capsys):
    assert train(text, tmp_path / "plain") == 0
    assert train(text, tmp_path / "sharded", train__shard=True) == 0
    assert losses_of(tmp_path / "plain") == losses_of(tmp_path / "sharded")
    assert "train.shard: a single process holds all weights" in capsys.readouterr().out
