"""Rates that a plan foretells, beside the steps that they come from; operations beside torch's own counter."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mdlm_atat.config.arguments import read_config
from mdlm_atat.config.build import network_of_shapes
from mdlm_atat.data import tokens
from mdlm_atat.scaling.limits import ORDER_BYTES_PER_ROW
from mdlm_atat.scaling.measured import Step, measured
from mdlm_atat.scaling.memory import Way
from mdlm_atat.scaling.sizes import sizes_of
from mdlm_atat.scaling.speed import (
    Machines,
    Speed,
    checkpoint_of,
    is_twin,
    ring_bytes,
    speed_of,
    utilisation,
)
from mdlm_atat.training.flops import training_flops_per_token


def speed_as_planned(step: Step, num_gpus: int, way: Way, **changed) -> Speed:
    rows = step.tokens_per_gpu // step.length * num_gpus
    settings = {**step.settings, "train.batch_size": rows, **changed}
    config = read_config(step.preset, "mdlm", settings, "test")
    sizes, flops = sizes_of(config, step.vocab_size), training_flops_per_token(config, step.vocab_size)
    machines = Machines(num_gpus, 8, 50e9)
    return speed_of(config, sizes, way, machines, 1, flops, measured().gpu(step.gpu), measured())


def is_used(step: Step) -> bool:
    """Whether plans are made from it: not where the same was measured as a recorded step too."""
    same = (s for s in measured().steps if is_twin(s, step) and (s.num_gpus, s.shard) == (step.num_gpus, step.shard))
    return step.recorded or not any(other.recorded and other.method == step.method for other in same)


ALONE = [
    step
    for step in measured().alone("h200")
    if step.step_s and step.length != 128 and step.tokens_per_gpu < 2e5 and is_used(step)
]


@pytest.mark.parametrize("step", ALONE, ids=lambda step: step.name)
def test_a_measured_shape_is_as_fast_as_it_was_measured(step):
    found = speed_as_planned(step, 1, Way("one GPU"))
    assert found.step_s == pytest.approx(step.step_s, rel=0.03)
    assert found.tokens_per_s == pytest.approx(step.tokens_per_gpu / step.step_s, rel=0.03)


@pytest.mark.parametrize(
    "step", [step for step in measured().alone("h200", recompute=True) if step.step_s], ids=lambda step: step.name
)
def test_recomputed_blocks_are_as_slow_as_they_were_measured(step):
    found = speed_as_planned(step, 1, Way("one GPU", recompute=True))
    assert found.step_s == pytest.approx(step.step_s, rel=0.03)


@pytest.mark.parametrize(
    "step",
    [step for step in measured().steps if step.num_gpus == 2 and step.method == "mdlm" and is_used(step)],
    ids=lambda step: step.name,
)
def test_two_gpus_are_as_fast_as_they_were_measured(step):
    way = Way("sharded" if step.shard else "data-parallel")
    assert speed_as_planned(step, 2, way).step_s == pytest.approx(step.step_s, rel=0.03)


def test_the_measured_pair_at_mdlm_s_shape_is_nearly_1_92_times_one_gpu():
    step = next(step for step in measured().alone("h200") if step.num_parameters == 169_627_218 and step.step_s)
    one, two = speed_as_planned(step, 1, Way("one GPU")), speed_as_planned(step, 2, Way("data-parallel"))
    assert two.tokens_per_s / one.tokens_per_s == pytest.approx(1.92, abs=0.03)


def test_between_two_measured_widths_the_share_is_between_theirs_and_beyond_the_last_it_is_the_last():
    known = measured()
    gpu, steps = known.gpu("h200"), known.alone("h200")
    at = {width: utilisation(width, 1024, steps, known, gpu) for width in (768, 887, 1024, 1280, 20_000)}
    assert at[768] < at[1024]
    assert at[887] == pytest.approx((at[768] + at[1024]) / 2, rel=1e-3)  # the middle of their logarithms
    widest = max(step.width for step in steps if step.step_s)
    assert at[20_000] == utilisation(widest, 1024, steps, known, gpu)
    assert all(0.2 < share < 0.8 for share in at.values())


@pytest.mark.parametrize(("width", "within"), [(384, 0.3), (512, 0.15), (1024, 0.1)])
def test_a_width_that_is_left_out_is_told_from_its_neighbours_better_where_networks_are_large(width, within):
    known = measured()
    gpu, steps = known.gpu("h200"), [step for step in known.alone("h200") if step.step_s]
    (length,) = {step.length for step in steps if step.width == width}
    others = [step for step in steps if step.width != width]
    told, true = (utilisation(width, length, found, known, gpu) for found in (others, steps))
    assert told == pytest.approx(true, rel=within)


def test_a_ring_of_two_sends_each_gradient_once_and_one_of_many_twice():
    assert (ring_bytes(10, 2), ring_bytes(10, 4), round(ring_bytes(10, 10_000))) == (40, 60, 80)


def test_more_machines_are_no_faster_a_gpu_and_a_slow_network_is_slower():
    step = next(step for step in ALONE if step.width == 1280)
    rates = [speed_as_planned(step, num, Way("data-parallel")).tokens_per_s / num for num in (2, 8, 16, 512)]
    assert rates == sorted(rates, reverse=True)
    sharded = [speed_as_planned(step, num, Way("sharded")).tokens_per_s / num for num in (2, 8, 16)]
    assert all(slow < fast for slow, fast in zip(sharded, rates, strict=False))


def test_muon_adds_to_mdlm_s_step_what_was_measured():
    step = next(step for step in ALONE if step.num_parameters == 169_627_218)
    found = speed_as_planned(step, 1, Way("one GPU"), **{"optim.kind": "muon"})
    assert found.muon_s == pytest.approx(measured().muon.added_s, rel=0.01)


def test_a_large_sharded_checkpoint_is_written_in_parts_and_a_small_one_is_not():
    config = read_config("large", "mdlm", {}, "test")
    sizes, machines = sizes_of(config, 50_257), Machines(64, 8, 50e9)
    small = checkpoint_of(config, sizes, Way("sharded"), machines, measured())
    larger = replace(config, train=replace(config.train, whole_checkpoint_gib=1.0))
    large = checkpoint_of(larger, sizes, Way("sharded"), machines, measured())
    assert small.num_bytes == large.num_bytes == pytest.approx(16 * sizes.num_parameters, rel=1e-4)
    assert (small.in_parts, large.in_parts) == (False, True)
    assert small.gathered_bytes == pytest.approx(8 * sizes.num_parameters, rel=1e-4)
    assert large.gathered_bytes == 0


@pytest.mark.parametrize("method", ["mdlm", "two_way"])
def test_operations_are_those_that_torch_counts(method):
    """Within 1%: torch counts the whole of causal attention, and adaLN, which is left out here."""
    settings = {"model.num_layers": 12, "model.width": 768, "model.num_heads": 12, "data.length": 256}
    config = read_config("tiny", method, settings, "test")
    vocab_size, rows, length = 50_257, 8, 256
    network = network_of_shapes(config, vocab_size)
    network.rotary.to("meta")
    symbols = torch.zeros(rows, length, dtype=torch.int64, device="meta")
    share = config.objective.causal_share
    num_causal = round(rows * share)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        hidden = network.hidden(symbols[num_causal:], torch.zeros(rows - num_causal, device="meta"))
        loss = network.logits(hidden[:, : length // 2]).sum()
        if num_causal:
            loss = loss + network.logits(network.hidden(symbols[:num_causal])).sum()
        loss.backward()
    counted = counter.get_total_flops() / (rows * length)
    causal_attention = 3 * share * 12 * 2 * length * 768
    assert training_flops_per_token(config, vocab_size) + causal_attention == pytest.approx(counted, rel=0.01)


def test_an_epoch_s_order_takes_24_bytes_a_row_with_the_one_before():
    num_rows = 400_000
    tokens._epoch.cache_clear()
    tokens._epoch(num_rows, 1, 0, 0)
    tracemalloc.start()
    tokens._epoch(num_rows, 1, 0, 1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    tokens._epoch.cache_clear()
    assert peak + 8 * num_rows == pytest.approx(ORDER_BYTES_PER_ROW * num_rows, rel=0.05)
