"""AdamW's parameter groups and the learning rate at each step."""

from __future__ import annotations

import math
from typing import assert_never

import torch
from torch import nn
from torch.optim import Optimizer

from mdlm_atat.config.options import make_plugin
from mdlm_atat.config.schema import OptimConfig


def make_optimizer(model: nn.Module, config: OptimConfig) -> Optimizer:
    """AdamW, fused where the device has it, or a plugin's optimizer; weight decay on matrices of linear layers only.

    A plugin is called with two groups of parameters, each with its `weight_decay`, then `lr` and, if its constructor
    takes them, `betas`; all else is its own (`optim.options`).
    """
    decayed = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if id(p) in decayed], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if id(p) not in decayed], "weight_decay": 0.0},
    ]
    if config.kind == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)
    offered = {"lr": config.lr, "betas": config.betas, "weight_decay": config.weight_decay}
    offered = {name: value for name, value in offered.items() if name not in config.options}
    return make_plugin("optimizer", config.kind, config.options, groups, offered=offered, where="optim.options")


def warm_up(num_steps: int, config: OptimConfig) -> int:
    """Steps of warm-up: `optim.warmup_steps`, but at most half of all steps, so that a run that is cut short by one
    setting still reaches its peak rate and decays."""
    return min(config.warmup_steps, num_steps // 2)


def learning_rate(step: int, num_steps: int, config: OptimConfig) -> float:
    """Rate of step 0 .. num_steps - 1: linear warm-up, then constant, cosine, or constant with a linear
    cool-down (WSD)."""
    warmup_steps = warm_up(num_steps, config)
    if step < warmup_steps:
        return config.lr * (step + 1) / warmup_steps
    lowest = config.lr * config.final_lr_ratio
    match config.decay:
        case "constant":
            return config.lr
        case "cosine":
            progress = (step - warmup_steps) / max(1, num_steps - 1 - warmup_steps)
            return lowest + (config.lr - lowest) * (1 + math.cos(math.pi * min(1.0, progress))) / 2
        case "wsd":
            cooldown_steps = round(config.cooldown_fraction * num_steps)
            progress = (step - (num_steps - cooldown_steps)) / max(1, cooldown_steps - 1)
            return config.lr + (lowest - config.lr) * min(1.0, max(0.0, progress))
        case _:
            assert_never(config.decay)
