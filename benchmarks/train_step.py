"""A training step, the plain way and ours: time, tokens a second, memory, model-FLOPs; all in one run, as one table.

    python -m benchmarks.train_step --model.dropout 0.1      MDLM's shape: 12 layers of 768, 50,257 tokens, length 1024
    python -m benchmarks.train_step --batch_size 512 --data.length 128 --data.tokenizer bert-base-uncased
    python -m benchmarks.train_step --methods mdlm importance_rates --variants compiled graph      recorded too
    python -m benchmarks.train_step --methods mdlm importance_rates --variants compiled --trace    waits, kernels
    torchrun --nproc-per-node 2 -m benchmarks.train_step --batch_size 64 --variants compiled        and --shard
    python -m benchmarks.train_step --preset demo --batch_size 8 --steps 3 --variants reference eager     anywhere

Any setting of a run can be given, as for `atat train`.

Tokens are random: time and memory do not depend on what they are. A step is all of what the training loop does: batch
to the device, forward, backward, clipping, AdamW, EMA. `reference` is the step as one writes it first (and as MDLM's
published code has it): float32 log-probabilities of the whole vocabulary at every position, nothing compiled.
"""

from __future__ import annotations

import builtins
import gc
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from benchmarks.command import exit_code
from torch import nn
from torch.profiler import ProfilerActivity, profile

from mdlm_atat.cli.parser import Parser, whole
from mdlm_atat.config.arguments import read_config
from mdlm_atat.config.build import build_model, build_objective
from mdlm_atat.config.schema import RunConfig
from mdlm_atat.core.masking import hide, mask_independently
from mdlm_atat.core.objective import subs_log_probs
from mdlm_atat.data.tokenizers import HUB_VOCABULARIES
from mdlm_atat.device import compile_network
from mdlm_atat.errors import UserError
from mdlm_atat.nets.ema import EMA
from mdlm_atat.training.engine import Engine, speed_up
from mdlm_atat.training.flops import matrix_rate, training_flops_per_token
from mdlm_atat.training.loop import Training, clip_gradients, forward_backward, make_recorded
from mdlm_atat.training.optim import make_optimizer

VOCABULARY = {**HUB_VOCABULARIES, "char": 65}
PLAIN = {"fused_loss": False, "compile": False, "deterministic": False, "cuda_graph": False}
VARIANTS = {  # what each changes of that
    "reference": {},
    "eager": {},
    "fused": {"fused_loss": True},
    "compiled": {"fused_loss": True, "compile": True},
    "bf16-residual": {"fused_loss": True, "compile": True, "residual": "bf16"},
    "deterministic": {"fused_loss": True, "compile": True, "deterministic": True},
    "graph": {"fused_loss": True, "compile": True, "cuda_graph": True},
    "graph-eager": {"fused_loss": True, "cuda_graph": True},
    "recompute": {"fused_loss": True, "compile": True, "recompute": True},
    "reduce-overhead": {"fused_loss": True},
    "graphed-callable": {"fused_loss": True},
}
TORCH_GRAPHS = ("reduce-overhead", "graphed-callable")
"""What torch itself has in place of the recorder of `graph`: see `with_torch_graphs`."""


@dataclass
class Measured:
    step_s: list[float]
    peak_bytes: int
    num_parameters: int
    first_s: float
    """Of the first steps: compilation."""
    trace: Sequence[str] = ()


def random_batches(config: RunConfig, vocab_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(counts (V,) by Zipf's law, batches (4, B, L), lengths (B,))."""
    rng = np.random.default_rng(0)
    counts = np.maximum(1, (1e7 / np.arange(1, vocab_size + 1)).astype(np.int64))
    batches = rng.choice(vocab_size, (4, config.train.batch_size, config.data.length), p=counts / counts.sum())
    return counts, batches, np.full(config.train.batch_size, config.data.length)


class Hidden(nn.Module):
    """A network without its output layer, as a module of its own."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network, self.hidden = network, network.hidden

    def forward(self, z_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.hidden(z_t, t)


def with_torch_graphs(model: Any, variant: str, config: RunConfig, engine: Engine) -> None:
    """Record the network's forward and backward pass by torch's own means: torch.compile(mode="reduce-overhead"), or
    torch.cuda.make_graphed_callables over the compiled network. Both leave the loss, the fused output layer and the
    optimizer outside."""
    if variant == "reduce-overhead":
        compiled = torch.compile(model.hidden, mode="reduce-overhead", dynamic=False)

        def hidden(*arguments: Any) -> torch.Tensor:
            torch.compiler.cudagraph_mark_step_begin()
            return compiled(*arguments)

        model.hidden = hidden
        return
    rows = config.train.batch_size // engine.num_ranks
    z_t = torch.zeros(rows, config.data.length, dtype=torch.int64, device=engine.device)
    compile_network(model, dynamic=False)
    with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):  # it refuses casts that are kept
        graphed = torch.cuda.make_graphed_callables(Hidden(model), (z_t, torch.zeros(rows, device=engine.device)))
    model.hidden = lambda z_t, t, _lengths=None: graphed(z_t, t)


def make_training(config: RunConfig, engine: Engine, variant: str, vocab_size: int | None = None) -> Training:
    """`vocab_size`: None is the tokenizer's."""
    vocab_size = vocab_size or VOCABULARY[config.data.tokenizer]
    counts, batches, lengths = random_batches(config, vocab_size)
    rows_here = config.train.batch_size // engine.num_ranks
    own_rows = slice(engine.rank * rows_here, (engine.rank + 1) * rows_here)
    torch.manual_seed(0)
    model = build_model(config, vocab_size, counts)
    speed_up(model, config.train, engine.precision)
    wrapped, _, wrapped_optimizer = engine.setup(
        model, lambda model: make_optimizer(model, config.optim, compile=config.train.compile)
    )
    if variant in TORCH_GRAPHS:
        with_torch_graphs(model, variant, config, engine)
    return Training(
        config=config,
        engine=engine,
        model=wrapped,
        raw_model=model,
        optimizer=wrapped_optimizer,
        ema=EMA(model, config.train.ema_decay),
        objective=build_objective(config, vocab_size, counts, model),
        seed=config.train.seed,
        batch_at=lambda _, step: (batches[step % len(batches)][own_rows], lengths[own_rows], None),
        recorded=make_recorded(config.train, engine, model),
        evaluate=lambda _, __: {},
        save=lambda _, __: None,
    )


def step_of(run: Training, step: int) -> None:
    """A step of train.loop."""
    forward_backward(run, step)
    clip_gradients(run.raw_model, run.config.optim.grad_clip)
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    run.ema.update(run.raw_model, step + 1)


def reference_step(run: Training, step: int) -> None:
    """MDLM's step: all of float32 log p(x0 | z_t), then the token's own; AdamW and EMA a tensor at a time."""
    device, model = run.engine.device, run.raw_model
    x0 = torch.from_numpy(run.batch_at(run.seed, step)[0]).to(device)
    t = (torch.arange(len(x0), device=device) + torch.rand(1, device=device)) / len(x0)  # (B,)
    scored = torch.ones_like(x0, dtype=torch.bool)
    is_masked = mask_independently(torch.rand(x0.shape, device=device), t[:, None], scored)
    z_t = hide(x0, is_masked, model.mask_id)  # type: ignore[arg-type]
    with run.engine.autocast():
        logits = model(z_t, t)
    log_probs = subs_log_probs(logits, z_t, model.mask_id)  # type: ignore[arg-type]  # (B, L, V)
    nll = -log_probs.gather(-1, x0[..., None])[..., 0]
    (nll / t.clamp_min(1e-3)[:, None]).mean().backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), run.config.optim.grad_clip, foreach=False)
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        for name, p in model.named_parameters():
            run.ema.average[name].lerp_(p, 1 - run.ema.decay)


def trace_steps(run: Training, take: Callable[[Training, int], None], num_steps: int = 3) -> list[str]:
    """What a profile of a few steps says, a line each: every way in which the CPU waited for the device or copied from
    it, with how often (the profile itself waits once, at its end), and the kernels that took longest, in ms a step."""
    run.engine.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as trace:
        for step in range(num_steps):
            take(run, step)
    events = trace.key_averages()
    waits = {e.key: e.count for e in events if "Synchronize" in e.key or "DtoH" in e.key}
    kernels = sorted((e for e in events if e.device_type.name == "CUDA"), key=lambda e: -e.self_device_time_total)
    lines = [f"waits and copies to the CPU in {num_steps} steps: {waits or 'none'}"]
    return lines + [
        f"{e.self_device_time_total / 1e3 / num_steps:8.2f} ms {e.count / num_steps:6.1f} x {e.key[:100]}"
        for e in kernels[:25]
    ]


class Instant:
    """A moment of the device's own time."""

    def __init__(self, is_gpu: bool) -> None:
        self.s = time.perf_counter()
        self.event = torch.cuda.Event(enable_timing=True) if is_gpu else None
        if self.event is not None:
            self.event.record()

    def seconds_since(self, earlier: Instant) -> float:
        if self.event is None or earlier.event is None:
            return self.s - earlier.s
        return earlier.event.elapsed_time(self.event) / 1e3


def timed_steps(
    run: Training, num_steps: int, num_warm_up: int, take: Callable[[Training, int], None] = step_of
) -> tuple[list[float], float]:
    """(seconds of single steps, seconds of all steps before them). A step is timed from the end of the one before to
    its own: nothing waits for the device between them, as in a run."""
    is_gpu = run.engine.device.type == "cuda"
    if run.recorded is not None:  # what is timed is replays
        num_warm_up = max(num_warm_up, run.recorded.num_warm_up + 2)
    start_s = time.perf_counter()
    for step in range(num_warm_up):
        take(run, step)
    run.engine.synchronize()
    first_s = time.perf_counter() - start_s
    ends = [Instant(is_gpu)]
    for step in range(num_warm_up, num_warm_up + num_steps):
        take(run, step)
        ends.append(Instant(is_gpu))
    run.engine.synchronize()
    return [later.seconds_since(earlier) for earlier, later in itertools.pairwise(ends)], first_s


def measure(
    config: RunConfig,
    variant: str,
    engine: Engine,
    num_steps: int,
    num_warm_up: int,
    *,
    trace: bool = False,
    vocab_size: int | None = None,
) -> Measured:
    """Time and memory of a variant's steps; see `timed_steps`."""
    is_gpu = engine.device.type == "cuda"
    take = reference_step if variant == "reference" else step_of
    with engine.deterministic(config.train.deterministic):
        run = make_training(config, engine, variant, vocab_size)
        if is_gpu:
            torch.cuda.reset_peak_memory_stats()
        step_s, first_s = timed_steps(run, num_steps, num_warm_up, take)
        num_parameters = sum(p.numel() for p in run.raw_model.parameters())
        peak_bytes = engine.peak_memory_bytes() or 0
        found = Measured(step_s, peak_bytes, num_parameters, first_s, trace_steps(run, take) if trace else ())
    del run
    gc.collect()
    if is_gpu:
        torch.cuda.empty_cache()
    torch.compiler.reset()
    return found


def middle_and_spread(seconds: Sequence[float]) -> tuple[float, float, float]:
    """(median, 10% and 90% of the way up)."""
    times = sorted(seconds)
    return statistics.median(times), times[len(times) // 10], times[-1 - len(times) // 10]


def main() -> None:
    parser = Parser("benchmarks.train_step", __doc__ or "", takes_settings=True)
    parser.add_argument("--preset", default="mdlm-owt")
    parser.add_argument("--methods", nargs="+", default=["mdlm"])
    parser.add_argument("--variants", nargs="+", default=["reference", "eager", "compiled"], choices=VARIANTS)
    parser.add_argument("--batch_size", type=whole(1), default=32)
    parser.add_argument("--steps", type=whole(1), default=30, help="timed")
    parser.add_argument("--warm_up", type=whole(0), default=5)
    parser.add_argument("--shard", action="store_true", help="under torchrun: FSDP2 instead of DDP")
    parser.add_argument("--trace", action="store_true", help="profile three more steps: what waits, which kernels")
    arguments = parser.parse(sys.argv[1:])
    engine = Engine("auto", shard=arguments.shard)
    if arguments.trace and engine.device.type != "cuda":
        raise UserError("--trace shows what a GPU does, and there is none here")
    print = builtins.print if engine.is_main else lambda *_, **__: None
    machine, ceiling = engine.describe(), (matrix_rate(engine.device) or 0.0) * engine.num_ranks
    processes = f"{engine.num_ranks} x " if engine.num_ranks > 1 else ""
    print(f"{processes}{machine['device']}, {machine['cpu']}, torch {torch.__version__}, {machine['precision']}")
    what = f"preset {arguments.preset}, batch {arguments.batch_size} {arguments.settings or ''}"
    print(f"{what}: median of {arguments.steps} steps (10% to 90%)")
    if ceiling:
        print(f"bf16 matrix product of 8192³: {ceiling / 1e12:.0f} TFLOP/s")
    print(f"{'':24} {'ms/step':>9} {'':>17} {'tokens/s':>10} {'ratio':>6} {'of ceiling':>10} {'peak GiB':>9} "
          f"{'parameters':>12} {'first s':>8}")  # fmt: skip
    base = 0.0
    for method in arguments.methods:
        config = read_config(arguments.preset, method, arguments.settings, "train_step")
        for variant in arguments.variants:
            if variant in TORCH_GRAPHS and engine.device.type != "cuda":
                print(f"{method + ' ' + variant:24} needs a GPU")
                continue
            train = replace(
                config.train,
                batch_size=arguments.batch_size,
                **{**PLAIN, **VARIANTS[variant]},
            )
            changed = replace(config, train=train)
            found = measure(changed, variant, engine, arguments.steps, arguments.warm_up, trace=arguments.trace)
            median, low, high = middle_and_spread(found.step_s)
            base = base or median
            rate = arguments.batch_size * config.data.length / median
            share = rate * training_flops_per_token(changed, VOCABULARY[config.data.tokenizer]) / (ceiling or np.nan)
            print(f"{method + ' ' + variant:24} {median * 1e3:9.1f} ({low * 1e3:7.1f}-{high * 1e3:7.1f}) {rate:10,.0f} "
                  f"{base / median:6.2f} {share:10.1%} {found.peak_bytes / 2**30:9.2f} {found.num_parameters:12,} "
                  f"{found.first_s:8.1f}", *found.trace, sep="\n", flush=True)  # fmt: skip


if __name__ == "__main__":
    sys.exit(exit_code(main))
