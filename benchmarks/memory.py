"""Memory of a training step: what recomputing the blocks saves and costs, and the largest batch that fits.

    python -m benchmarks.memory                                       medium and large, 8 sequences, and the plain step
    python -m benchmarks.memory --presets mdlm-owt --largest --variants compiled      the largest batch, and its rate
    python -m benchmarks.memory --presets demo --batch_size 2 --steps 2 --variants fused    anywhere

The largest batch is foretold from two batches' peaks, by a straight line up to 97% of the card, and then tried. The
batch is doubled until a third of the card is full: below that, what does not grow with the batch bends the line.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

import torch
from benchmarks.command import exit_code
from benchmarks.train_step import PLAIN, VARIANTS, measure, middle_and_spread

from mdlm_atat.cli.parser import Parser, whole
from mdlm_atat.config.arguments import read_config
from mdlm_atat.config.schema import RunConfig
from mdlm_atat.errors import UserError
from mdlm_atat.training.engine import Engine

HEADER = f"{'':34} {'batch':>6} {'ms/step':>9} {'10% to 90%':>17} {'tokens/s':>10} {'peak GiB':>9} {'parameters':>13}"


@dataclass(frozen=True)
class Bench:
    """A preset in a variant."""

    name: str
    variant: str
    config: RunConfig
    engine: Engine
    num_steps: int

    def run(self, batch_size: int) -> int | None:
        """Measure, print a line, and give the peak in bytes; None: it does not fit."""
        settings = {**PLAIN, **VARIANTS[self.variant]}
        train = replace(self.config.train, batch_size=batch_size, num_micro_batches=1, **settings)
        config = replace(self.config, train=train)
        try:
            found = measure(config, self.variant, self.engine, self.num_steps, num_warm_up=4)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            print(f"{self.name:34} {batch_size:6} does not fit", flush=True)
            return None
        median, low, high = middle_and_spread(found.step_s)
        rate = batch_size * config.data.length / median
        print(f"{self.name:34} {batch_size:6} {median * 1e3:9.1f} ({low * 1e3:7.1f}-{high * 1e3:7.1f}) {rate:10,.0f} "
              f"{found.peak_bytes / 2**30:9.2f} {found.num_parameters:13,}", flush=True)  # fmt: skip
        return found.peak_bytes

    def run_largest(self, batch_size: int) -> None:
        """From batch_size on, until one fills a third of the card; then the one that should fill it."""
        total_bytes = torch.cuda.get_device_properties(self.engine.device).total_memory
        peaks: list[tuple[int, int]] = []
        while len(peaks) < 2 or peaks[-1][1] < total_bytes / 3:
            peak = self.run(batch_size)
            if peak is None:
                return
            peaks.append((batch_size, peak))
            batch_size *= 2
        self.run(largest_batch(peaks[-2], peaks[-1], total_bytes))


def largest_batch(small: tuple[int, int], large: tuple[int, int], total_bytes: int) -> int:
    """The batch whose peak a line through two (batch, peak) foretells at 97% of the card, in eights."""
    per_sequence = (large[1] - small[1]) / (large[0] - small[0])
    return int((0.97 * total_bytes - small[1]) / per_sequence + small[0]) // 8 * 8


def main() -> None:
    parser = Parser("benchmarks.memory", __doc__ or "", takes_settings=True)
    parser.add_argument("--presets", nargs="+", default=["medium", "large"])
    parser.add_argument("--variants", nargs="+", default=["reference", "compiled", "recompute"], choices=VARIANTS)
    parser.add_argument("--batch_size", type=whole(1), default=8)
    parser.add_argument("--largest", action="store_true")
    parser.add_argument("--steps", type=whole(1), default=10)
    arguments = parser.parse(sys.argv[1:])
    engine = Engine("auto")
    if arguments.largest and engine.device.type != "cuda":
        raise UserError("--largest fills a GPU's memory, and there is none here")
    machine = engine.describe()
    print(
        f"{machine['device']}, {machine['cpu']}, torch {torch.__version__}, {machine['precision']} "
        f"{arguments.settings or ''}"
    )
    print(f"medians of {arguments.steps} steps\n{HEADER}")
    for preset in arguments.presets:
        config = read_config(preset, None, arguments.settings, "memory")
        for variant in arguments.variants:
            bench = Bench(f"{preset} {variant}", variant, config, engine, arguments.steps)
            (bench.run_largest if arguments.largest else bench.run)(arguments.batch_size)


if __name__ == "__main__":
    sys.exit(exit_code(main))
