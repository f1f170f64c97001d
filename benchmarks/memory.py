"""Memory of a training step: what recomputing the blocks saves and costs, and the largest batch that fits.

    python -m benchmarks.memory                                              medium and large, 8 sequences
    python -m benchmarks.memory --presets mdlm-owt --largest --model.dropout 0.1    the largest batch, and its rate
    python -m benchmarks.memory --presets demo --batch_size 2 --steps 2 --variants fused    anywhere

The largest batch is foretold from the peaks of two batches, by a straight line up to 97% of the card, and then tried.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace

import torch
from benchmarks.train_step import VARIANTS, Measured, measure

from mdlm_atat.config.files import load_config, override
from mdlm_atat.config.schema import RunConfig
from mdlm_atat.errors import UserError
from mdlm_atat.train.engine import Engine

HEADER = f"{'':34} {'batch':>6} {'ms/step':>9} {'tokens/s':>10} {'peak GiB':>9} {'parameters':>13}"


def measured(config: RunConfig, variant: str, batch_size: int, engine: Engine, num_steps: int) -> Measured | None:
    """None: it does not fit."""
    settings = {"compile": False, "deterministic": False, **VARIANTS[variant]}
    train = replace(config.train, batch_size=batch_size, num_micro_batches=1, **settings)
    try:
        return measure(replace(config, train=train), variant, engine, num_steps, num_warm_up=4)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return None


def line(name: str, config: RunConfig, batch_size: int, found: Measured | None) -> None:
    if found is None:
        print(f"{name:34} {batch_size:6} does not fit", flush=True)
        return
    median = statistics.median(found.step_s)
    rate = batch_size * config.data.length / median
    print(f"{name:34} {batch_size:6} {median * 1e3:9.1f} {rate:10,.0f} {found.peak_bytes / 2**30:9.2f} "
          f"{found.num_parameters:13,}", flush=True)  # fmt: skip


def largest_batch(peaks: dict[int, int], total_bytes: int) -> int:
    """The batch whose peak a line through two peaks foretells at 97% of the card, in eights."""
    (small, low), (large, high) = sorted(peaks.items())
    per_sequence = (high - low) / (large - small)
    return int((0.97 * total_bytes - low) / per_sequence + small) // 8 * 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["medium", "large"])
    parser.add_argument("--variants", nargs="+", default=["compiled", "recompute"], choices=VARIANTS)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--largest", action="store_true")
    parser.add_argument("--steps", type=int, default=10)
    arguments, dotted = parser.parse_known_args()
    engine = Engine("auto")
    if arguments.largest and engine.device.type != "cuda":
        raise UserError("--largest fills a GPU's memory, and there is none here")
    print(f"{engine.describe()['device']}, torch {torch.__version__} {' '.join(dotted)}\n{HEADER}")
    for preset in arguments.presets:
        config = override(load_config(preset), dotted, prog="memory")
        for variant in arguments.variants:
            sizes = [arguments.batch_size] + [2 * arguments.batch_size] * arguments.largest
            peaks: dict[int, int] = {}
            for size in sizes:
                found = measured(config, variant, size, engine, arguments.steps)
                line(f"{preset} {variant}", config, size, found)
                if found is not None:
                    peaks[size] = found.peak_bytes
            if len(peaks) == 2:
                size = largest_batch(peaks, torch.cuda.get_device_properties(engine.device).total_memory)
                line(f"{preset} {variant}", config, size, measured(config, variant, size, engine, arguments.steps))


if __name__ == "__main__":
    main()
