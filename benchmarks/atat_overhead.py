"""What ATAT costs a training step over MDLM: time, peak memory and parameters, both in one run, as one table.

    python benchmarks/atat_overhead.py                    the preset small; one GPU of at least 80 GB
    python benchmarks/atat_overhead.py --preset demo --batch_size 4 --rounds 2      anywhere, to see it work

Tokens are random: time and memory do not depend on what they are. A step is what the training loop does: forward,
backward, clipping, AdamW, EMA. The two take turns, so that a drifting clock hits both alike.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from dataclasses import replace

import numpy as np
import torch

from mdlm_atat.config.build import build_model, build_objective
from mdlm_atat.config.files import load_config
from mdlm_atat.config.schema import RunConfig
from mdlm_atat.models.ema import EMA
from mdlm_atat.train.engine import Engine, compile_blocks
from mdlm_atat.train.loop import Training, clip_gradients, forward_backward
from mdlm_atat.train.optim import make_optimizer

VOCABULARY = {"bert-base-uncased": 30_522, "gpt2": 50_257, "char": 65}


def make_training(config: RunConfig, engine: Engine) -> Training:
    vocab_size = VOCABULARY[config.data.tokenizer]
    rng = np.random.default_rng(0)
    counts = np.maximum(1, (1e7 / np.arange(1, vocab_size + 1)).astype(np.int64))  # Zipf's law
    batches = rng.choice(vocab_size, (4, config.train.batch_size, config.data.length), p=counts / counts.sum())
    lengths = np.full(config.train.batch_size, config.data.length)
    torch.manual_seed(0)
    model = build_model(config, vocab_size, counts)
    if config.train.compile:
        compile_blocks(model)
    optimizer = make_optimizer(model, config.optim)
    wrapped, wrapped_optimizer = engine.setup(model, optimizer)
    return Training(
        config=config,
        engine=engine,
        model=wrapped,
        raw_model=model,
        optimizer=wrapped_optimizer,
        ema=EMA(model, config.train.ema_decay),
        objective=build_objective(config, vocab_size, counts, model),
        batch_at=lambda step: (batches[step % len(batches)], lengths),
        evaluate=lambda _: {},
        save=lambda _, __: None,
    )


def take_steps(run: Training, first: int, num_steps: int) -> float:
    """Seconds a step."""
    run.engine.synchronize()
    start_s = time.perf_counter()
    for step in range(first, first + num_steps):
        forward_backward(run, step)
        clip_gradients(run.raw_model, run.config.optim.grad_clip)
        run.optimizer.step()
        run.optimizer.zero_grad(set_to_none=True)
        run.ema.update(run.raw_model, step + 1)
    run.engine.synchronize()
    return (time.perf_counter() - start_s) / num_steps


def peak_bytes(config: RunConfig, engine: Engine) -> int:
    run = make_training(config, engine)
    if engine.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    take_steps(run, 0, 3)
    peak = engine.peak_memory_bytes()
    del run
    gc.collect()
    if engine.device.type == "cuda":
        torch.cuda.empty_cache()
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--methods", nargs=2, default=["mdlm", "atat"])
    parser.add_argument("--batch_size", type=int, help="default: the preset's")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=4, help="a round")
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    engine = Engine("auto")
    configs = []
    for method in arguments.methods:
        config = load_config(arguments.preset, method)
        batch_size = arguments.batch_size or config.train.batch_size
        train = replace(config.train, batch_size=batch_size, compile=arguments.compile, deterministic=False)
        configs.append(replace(config, train=train))
    with engine.deterministic(False):
        peaks = [peak_bytes(config, engine) for config in configs]
        runs = [make_training(config, engine) for config in configs]
        sizes = [sum(p.numel() for p in run.raw_model.parameters()) for run in runs]
        times_s: list[list[float]] = [[], []]
        for round_ in range(arguments.rounds + 1):
            for index, run in enumerate(runs):
                step_s = take_steps(run, round_ * arguments.steps, arguments.steps)
                if round_:  # the first warms up
                    times_s[index].append(step_s)
    medians = [statistics.median(times) for times in times_s]
    train, machine = configs[0].train, engine.describe()
    print(f"{machine['device']}, torch {torch.__version__}, {machine['precision']}, preset {arguments.preset}, batch "
          f"{train.batch_size} x {configs[0].data.length}, {'compiled blocks' if train.compile else 'eager'}, "
          f"median of {arguments.rounds} x {arguments.steps} steps")  # fmt: skip
    print(f"{'':12} {'ms/step':>9} {'tokens/s':>10} {'peak GiB':>9} {'parameters':>12}")
    for method, median_s, peak, size in zip(arguments.methods, medians, peaks, sizes, strict=True):
        tokens_per_s = train.batch_size * configs[0].data.length / median_s
        print(f"{method:12} {median_s * 1e3:9.1f} {tokens_per_s:10,.0f} {peak / 2**30:9.2f} {size:12,}")
    ratios = [second / first for first, second in (medians, peaks, sizes)]
    print(f"{'ratio':12} {ratios[0]:9.3f} {'':10} {ratios[1]:9.3f} {ratios[2]:12.4f}")


if __name__ == "__main__":
    main()
