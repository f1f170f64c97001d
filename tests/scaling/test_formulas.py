"""A plan's parts that no measured step shows alone, beside what they are worked out from."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from mdlm_atat.config.arguments import read_config
from mdlm_atat.config.build import build_model, build_objective, causal_rows
from mdlm_atat.config.schema import ModelConfig
from mdlm_atat.core.objective import MaskedDiffusion
from mdlm_atat.core.two_ways import TwoWays
from mdlm_atat.scaling.measured import CheckpointTime, Measured, measured
from mdlm_atat.scaling.memory import Memory, Way, block_bytes_per_token, memory_of, scored_positions
from mdlm_atat.scaling.plan import plan
from mdlm_atat.scaling.sizes import shaped, sizes_of
from mdlm_atat.scaling.speed import Machines, Speed, checkpoint_of, exchange, ring_bytes, speed_of

GPU = measured().gpu("h200")
LARGE = read_config("large", "mdlm", {"train.batch_size": 64}, "test")
SIZES = sizes_of(LARGE, 50_257)
SHARDED, WHOLE = Way("sharded"), Way("data-parallel")


def memory(preset: str, method: str, vocab_size: int, *, recompute: bool = False, **settings) -> Memory:
    changed = {name.replace("__", "."): value for name, value in settings.items()}
    config = read_config(preset, method, changed, "test")
    return memory_of(config, sizes_of(config, vocab_size), vocab_size, Way("one GPU", recompute), 1, 1, 0.0)


def speed(way: Way, num_gpus: int, known: Measured, num_micro_batches: int = 1) -> Speed:
    return speed_of(LARGE, SIZES, way, Machines(num_gpus, 8, 50e9), num_micro_batches, 5e9, GPU, known)


def test_at_small_batches_the_peak_is_muon_s_step_of_16_bytes_a_number_of_the_largest_shape():
    with_muon, without = (
        memory("large", "mdlm", 100, train__batch_size=1, data__length=8, optim__kind=kind)
        for kind in ("muon", "adamw")
    )
    alike = 36 * 4 * 1280 * 1280  # of the MLPs' matrices, up or down; and of heads
    assert with_muon.moment == 16 * alike
    assert with_muon.peak == with_muon.state + with_muon.gradients + 16 * alike
    assert without.peak == pytest.approx(without.state + without.gradients, rel=0.05)


def test_of_recomputed_blocks_the_peak_is_in_one_with_what_it_keeps_and_gradients_of_12_bytes_a_width():
    again, kept = (
        memory("char", "mdlm", 65, recompute=recompute, train__batch_size=256) for recompute in (True, False)
    )
    inside = kept.activations / 6 + 256 * 256 * 384 * 12 + 4 * 65 * 384  # and the embedding's gradient
    assert again.moment == pytest.approx(inside, abs=6)
    assert again.peak == again.state + again.activations + 4 * 128 * 384 + again.moment  # the output layer's


def test_an_estimator_keeps_its_blocks_for_two_passes_over_its_share_of_the_rows():
    whole, half, quarter = (
        memory("tiny", "learned_only", 1000, train__batch_size=32, importance__train_share=share).activations
        for share in (1.0, 0.5, 0.25)
    )
    config = read_config("tiny", "learned_only", {}, "test")
    shape = ModelConfig(width=config.importance.width, num_heads=config.importance.num_heads)
    passes = 2 * config.importance.num_layers * 16 * config.data.length * block_bytes_per_token(shape)
    assert whole - half == pytest.approx(passes, abs=1)
    assert half - quarter == pytest.approx(passes / 2, abs=1)


@pytest.mark.parametrize("method", ["mdlm", "time_sampling_only", "learned_only", "two_way", "atat"])
@pytest.mark.parametrize("num_parts", [1, 4])
def test_the_output_layer_has_room_for_as_many_positions_as_in_training(method, num_parts):
    config = read_config("demo", method, {"train.batch_size": 64, "train.fused_loss": True}, "test")
    counts = np.full(65, 5)
    objective = build_objective(config, 65, counts, build_model(config, 65, counts))
    masked = objective.masked if isinstance(objective, TwoWays) else objective
    assert isinstance(masked, MaskedDiffusion)
    assert masked.fused is not None
    rows, length = 64 // num_parts, config.data.length
    num_causal = round(rows * causal_rows(config.objective))
    capacity = masked.fused.capacity(masked.time_plan(None), rows - num_causal, length, masked.masking)
    assert scored_positions(config, rows) == pytest.approx(num_causal * length + capacity, rel=0.03)


def test_a_step_is_as_slow_as_its_loader_where_that_is_slower_than_all_else():
    slow = replace(measured(), host=replace(measured().host, load_s_per_token=1.0))
    found = speed(WHOLE, 2, slow)
    assert found.step_s == found.loader_s == 32 * LARGE.data.length
    assert found.tokens_per_s == 2.0


def test_every_micro_batch_gathers_sharded_weights_twice_and_gradients_are_cut_once():
    one, three = (exchange(SIZES, SHARDED, Machines(8, 8, 1.0), num, GPU, measured()) for num in (1, 3))
    assert three == pytest.approx(7 / 3 * one)
    again = exchange(SIZES, WHOLE, Machines(8, 8, 1.0), 3, GPU, measured())
    assert again == exchange(SIZES, WHOLE, Machines(8, 8, 1.0), 1, GPU, measured())


def test_gradients_go_over_a_slow_network_as_long_as_it_is_slow_and_over_a_fast_one_as_in_one_machine():
    slow, slower, fast, within = (
        exchange(SIZES, WHOLE, Machines(num, 8, rate), 1, GPU, measured()) / ring_bytes(1, num)
        for num, rate in ((16, 2e9), (16, 1e9), (16, 1e15), (8, 1e9))
    )
    assert slower == pytest.approx(2 * slow)
    assert slow > fast == pytest.approx(within)


def test_sharded_processes_take_the_steps_of_their_part():
    whole, shared = (speed(way, 8, measured()).optimizer_s for way in (WHOLE, SHARDED))
    assert shared == pytest.approx(whole / 8)


def test_a_checkpoint_in_parts_is_written_by_all_and_read_again_by_one():
    """20 GB that two write and one reads in 30 s: at 1 GB/s reading takes 20, and eight write in a quarter of 10."""
    entry = CheckpointTime(num_bytes=20e9, whole_s=99.0, num_gpus=2, parts_s=30.0, where="")
    host = replace(measured().host, checksum_bytes_per_s=1e9)
    known = replace(measured(), checkpoints=(entry,), host=host)
    config = replace(LARGE, train=replace(LARGE.train, whole_checkpoint_gib=1.0))
    found = checkpoint_of(config, SIZES, SHARDED, Machines(8, 8, 1.0), known)
    assert found.seconds == pytest.approx(found.num_bytes / 20e9 * (20 + 10 * 2 / 8))


def test_a_run_takes_its_steps_its_checkpoints_and_the_order_of_its_rows():
    found = plan("mdlm-owt", tokens=1e11, settings={"train.checkpoint_interval_steps": 1000})
    assert found.chosen is not None
    assert found.chosen.speed is not None
    num_steps = math.ceil(1e11 / (512 * 1024))
    assert found.num_checkpoints == math.ceil(num_steps / 1000)
    parts = num_steps * found.chosen.speed.step_s, found.num_checkpoints * found.checkpoint.seconds, found.order_s
    assert found.total_s == pytest.approx(sum(parts), rel=1e-12)
    assert min(parts) > 0


def test_each_head_of_keys_has_equally_many_of_queries():
    """A width of 640 has 10 heads of 64: with 4 of keys they become 8."""
    config = read_config("mdlm-owt", None, {"model.num_kv_heads": 4}, "test")
    assert shaped(config, 2, 640).model.num_heads == 8
