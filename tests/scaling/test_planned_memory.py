"""Memory that a plan foretells, beside torch's own hooks and every peak that was measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kept_by_blocks import Kept

from mdlm_atat.config.arguments import read_config
from mdlm_atat.config.build import build_model
from mdlm_atat.core.fused_loss import weighted_nll
from mdlm_atat.device import recompute_blocks
from mdlm_atat.scaling.measured import Step, measured
from mdlm_atat.scaling.memory import Way, memory_of, optimizer_bytes, scored_positions
from mdlm_atat.scaling.plan import WORST_PEAK
from mdlm_atat.scaling.sizes import sizes_of
from mdlm_atat.scaling.speed import ddp_bytes_per_parameter


@pytest.mark.slow
def test_what_a_compiled_block_of_any_layout_keeps_is_told_within_a_hundredth():
    script = Path(__file__).with_name("kept_by_blocks.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert len(found) == 6
    assert {name: kept for name, (kept, _) in found.items()} == {
        name: pytest.approx(foretold, rel=0.01) for name, (_, foretold) in found.items()
    }


def test_a_recomputed_network_keeps_the_input_of_each_block_and_the_output_layer_its_share():
    settings = {"model.num_layers": 3, "model.width": 64, "model.num_heads": 4, "data.length": 64, "model.tied": False}
    config = read_config("demo", "mdlm", {**settings, "train.batch_size": 8}, "test")
    vocab_size = 100
    model = build_model(config, vocab_size)
    recompute_blocks(model)
    tokens = torch.randint(vocab_size, (8, 64))
    scored = torch.arange(scored_positions(config, 8))
    kept = Kept([*model.parameters(), *model.buffers(), tokens, scored])
    with kept.hooks, torch.autocast("cpu", torch.bfloat16):
        hidden = model.hidden(tokens, torch.zeros(8)).flatten(0, 1)
        scale = torch.ones(len(scored))
        weight, bias = model.output_layer()
        weighted_nll(hidden[scored], weight, bias, tokens.flatten()[scored], scale)
    memory = memory_of(config, sizes_of(config, vocab_size), vocab_size, Way("one GPU", recompute=True), 1, 1, 0.0)
    assert memory.activations == 3 * 8 * 64 * 64 * 4
    logits = 4 * len(scored) * 128 + 4 * 128 * 64  # of a moment, and the weights in bf16, padded to 128 tokens
    foretold = memory.activations + memory.output_layer - logits - 8 * 64 * 64 * 4 - len(scored) * 64 * 6
    assert kept.num_bytes == pytest.approx(foretold, rel=0.05)


def of_step(step: Step) -> float:
    """The peak that is foretold of a measured step, in GiB."""
    rows = step.tokens_per_gpu // step.length
    settings = {**step.settings, "train.batch_size": rows * step.num_gpus}
    config = read_config(step.preset, step.method, settings, "test")
    sizes = sizes_of(config, step.vocab_size)
    assert sizes.num_parameters == step.num_parameters
    way = Way("one GPU" if step.num_gpus == 1 else "sharded" if step.shard else "data-parallel", step.recompute)
    extra = ddp_bytes_per_parameter(measured(), sizes.num_parameters, recorded=step.recorded)
    return memory_of(config, sizes, step.vocab_size, way, step.num_gpus, 1, extra).peak / 2**30


@pytest.mark.parametrize(
    "step", [step for step in measured().steps if step.peak_gib is not None], ids=lambda step: step.name
)
def test_the_peak_of_every_measured_step_is_foretold(step):
    assert of_step(step) == pytest.approx(step.peak_gib, rel=WORST_PEAK)


def test_sharding_over_8_leaves_an_eighth_of_the_state_and_recomputing_a_fifth_of_the_activations():
    config = read_config("large", "mdlm", {"train.batch_size": 256}, "test")
    sizes = sizes_of(config, 50_257)
    whole, shared, again = (
        memory_of(config, sizes, 50_257, way, 8, 1, 4.0)
        for way in (Way("data-parallel"), Way("sharded"), Way("sharded", recompute=True))
    )
    assert whole.weights == whole.gradients == 4 * sizes.num_parameters
    assert whole.optimizer == optimizer_bytes(config, sizes)
    assert shared.state == pytest.approx(whole.state / 8, abs=3)
    assert again.activations < whole.activations / 5
    assert shared.exchange == 4 * (sizes.outside_blocks + 2 * sizes.in_block)
    assert again.peak < shared.peak < whole.peak


def test_a_network_that_is_read_both_ways_keeps_its_weights_in_bf16_twice():
    masked, both = (read_config("tiny", method, {}, "test") for method in ("time_sampling_only", "two_way"))
    one, two = (memory_of(config, sizes_of(config, 100), 100, Way("one GPU"), 1, 1, 0.0) for config in (masked, both))
    assert two.activations - one.activations == 8 * 2 * 12 * 256**2  # layers, bytes, weights of a block


def test_micro_batches_keep_whole_gradients_on_every_gpu_though_they_are_sharded():
    config = read_config("large", "mdlm", {"train.batch_size": 256}, "test")
    sizes = sizes_of(config, 50_257)
    one, two = (memory_of(config, sizes, 50_257, Way("sharded"), 8, num, 4.0) for num in (1, 2))
    assert (one.gradients, two.gradients) == (pytest.approx(sizes.num_parameters / 2, abs=1), 4 * sizes.num_parameters)
