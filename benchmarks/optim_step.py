"""An optimizer's step by itself, and its share of a training step: AdamW and Muon, torch's and ours; as one table.

    python -m benchmarks.optim_step                                      33.6M and 170M parameters, on a GPU
    python -m benchmarks.optim_step --shapes demo --steps 5 --skip_compile        anywhere

Gradients are random and stay the same: time does not depend on them. A training step is the loop's, compiled and
recorded on a GPU, with AdamW; that part is left out with --skip_training. `torch.optim.Muon` takes the same matrices,
queries, keys and values apart, and AdamW the rest.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from benchmarks.command import exit_code
from benchmarks.train_step import PLAIN, Instant, measure, middle_and_spread
from torch import nn
from torch.optim import Optimizer

from mdlm_atat.cli.parser import whole
from mdlm_atat.config.arguments import read_config
from mdlm_atat.config.build import build_model
from mdlm_atat.config.files import read_flags
from mdlm_atat.config.schema import OptimConfig, RunConfig
from mdlm_atat.data.tokenizers import HUB_VOCABULARIES
from mdlm_atat.training.engine import Engine
from mdlm_atat.training.optim import make_optimizer, muon_groups

MUON = OptimConfig(kind="muon")


@dataclass(frozen=True)
class Shape:
    """A preset, changed."""

    preset: str
    vocab_size: int
    batch_size: int
    flags: str = ""

    def config(self) -> RunConfig:
        settings, _ = read_flags(self.flags.split())
        return read_config(self.preset, "mdlm", settings, "optim_step")


NOVELS = "--model.num_layers 8 --model.width 512 --model.num_heads 8 --data.length 256 --model.tied false"
SHAPES = {
    "34M": Shape("char", 8192, 256, NOVELS),
    "170M": Shape("mdlm-owt", HUB_VOCABULARIES["gpt2"], 32),
    "demo": Shape("demo", 65, 8),
}


class Both:
    """AdamW for some parameters and torch's Muon for others, as one."""

    def __init__(self, model: nn.Module) -> None:
        groups = muon_groups(model, MUON)
        rest = [{**group, "lr": 1e-3} for group in groups if group["num_matrices"] == 0]
        matrices: list[nn.Parameter] = []
        for group in groups:
            for p in group["params"] if (count := group["num_matrices"]) else ():
                for part, gradient in zip(p.detach().chunk(count), p.grad.chunk(count), strict=True):
                    matrices.append(nn.Parameter(part))  # the same memory
                    matrices[-1].grad = gradient
        self.adamw = torch.optim.AdamW(rest, lr=1e-3, fused=True)
        self.muon = torch.optim.Muon(matrices, lr=1e-3, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")

    def step(self) -> None:
        self.adamw.step()
        self.muon.step()


OPTIMIZERS: dict[str, Callable[[nn.Module], Optimizer | Both]] = {
    "AdamW, fused": lambda model: make_optimizer(model, OptimConfig()),
    "torch.optim.Muon": Both,
    "muon, eager": lambda model: make_optimizer(model, MUON),
    "muon, compiled": lambda model: make_optimizer(model, MUON, compile=True),
}


def time_steps(take: Callable[[], object], engine: Engine, num_steps: int, num_warm_up: int) -> Sequence[float]:
    """Seconds of each step, from the end of one to the end of the next."""
    for _ in range(num_warm_up):
        take()
    engine.synchronize()
    is_gpu = engine.device.type == "cuda"
    ends = [Instant(is_gpu)]
    for _ in range(num_steps):
        take()
        ends.append(Instant(is_gpu))
    engine.synchronize()
    return [later.seconds_since(earlier) for earlier, later in itertools.pairwise(ends)]


def training_step_s(shape: Shape, engine: Engine, kind: str, compiled: bool, num_steps: int, num_warm_up: int) -> float:
    """Seconds of a whole training step with an optimizer."""
    config = shape.config()
    train = replace(config.train, batch_size=shape.batch_size, **{**PLAIN, "fused_loss": True})
    train = replace(train, compile=compiled, cuda_graph=engine.can_record)
    config = replace(config, train=train, optim=replace(config.optim, kind=kind))
    found = measure(config, "graph", engine, num_steps, num_warm_up, vocab_size=shape.vocab_size)
    return middle_and_spread(found.step_s)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["34M", "170M"], choices=SHAPES)
    parser.add_argument("--batch_size", type=whole(1), help="in place of the shape's own")
    parser.add_argument("--steps", type=whole(1), default=30, help="timed")
    parser.add_argument("--warm_up", type=whole(0), default=5)
    parser.add_argument("--skip_compile", action="store_true")
    parser.add_argument("--skip_training", action="store_true", help="the optimizers alone")
    arguments = parser.parse_args()
    engine, compiled = Engine("auto"), not arguments.skip_compile
    counted = (arguments.steps, arguments.warm_up)
    machine = engine.describe()
    print(f"{machine['device']}, {machine['cpu']}, torch {torch.__version__}; median of {arguments.steps} (10% to 90%)")
    print(f"{'':24} {'ms/step':>9} {'':>17} {'of AdamW':>9} {'of a training step':>19} {'adds to it':>11}")
    for name in arguments.shapes:
        shape = replace(SHAPES[name], batch_size=arguments.batch_size or SHAPES[name].batch_size)
        whole_s = np.nan if arguments.skip_training else training_step_s(shape, engine, "adamw", compiled, *counted)
        torch.manual_seed(0)
        model = build_model(shape.config(), shape.vocab_size).to(engine.device)
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        print(f"{name}: {sum(p.numel() for p in model.parameters()):,} parameters, batch {shape.batch_size}")
        if not arguments.skip_training:
            print(f"{'training step, AdamW':24} {whole_s * 1e3:9.2f}")
        adamw_s = 0.0
        for label, make in OPTIMIZERS.items():
            if label.endswith("compiled") and not compiled:
                continue
            median, low, high = middle_and_spread(time_steps(make(model).step, engine, *counted))
            adamw_s = adamw_s or median
            step_s = whole_s - adamw_s + median
            shares = "" if arguments.skip_training else f"{median / step_s:19.1%} {step_s / whole_s - 1:11.1%}"
            print(f"{label:24} {median * 1e3:9.2f} ({low * 1e3:7.2f}-{high * 1e3:7.2f}) {median / adamw_s:9.2f} "
                  f"{shares}", flush=True)  # fmt: skip
        if not arguments.skip_training:
            muon_s = training_step_s(shape, engine, "muon", compiled, *counted)
            print(f"{'training step, muon':24} {muon_s * 1e3:9.2f} {'':47} {muon_s / whole_s - 1:11.1%}")
        torch.compiler.reset()


if __name__ == "__main__":
    sys.exit(exit_code(main))
