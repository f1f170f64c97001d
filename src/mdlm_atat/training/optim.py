"""AdamW's parameter groups and the learning rate at each step."""

from __future__ import annotations

import math
from typing import assert_never

import torch
from torch import nn

from mdlm_atat.config.schema import OptimConfig


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW, fused where the device has it; weight decay on the matrices of linear layers only."""
    decayed = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if id(p) in decayed], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if id(p) not in decayed], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


def learning_rate(step: int, num_steps: int, config: OptimConfig) -> float:
    """Rate of step 0 .. num_steps - 1: linear warm-up, then constant, cosine, or constant with a linear
    cool-down (WSD)."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    lowest = config.lr * config.final_lr_ratio
    match config.decay:
        case "constant":
            return config.lr
        case "cosine":
            progress = (step - config.warmup_steps) / max(1, num_steps - 1 - config.warmup_steps)
            return lowest + (config.lr - lowest) * (1 + math.cos(math.pi * min(1.0, progress))) / 2
        case "wsd":
            cooldown_steps = round(config.cooldown_fraction * num_steps)
            progress = (step - (num_steps - cooldown_steps)) / max(1, cooldown_steps - 1)
            return config.lr + (lowest - config.lr) * min(1.0, max(0.0, progress))
        case _:
            assert_never(config.decay)
