"""The optimizer, its groups of parameters, and the learning rate at each step."""

from __future__ import annotations

import math
from typing import Any, Literal, assert_never

import torch
from torch import nn
from torch.optim import Optimizer

from mdlm_atat.config.options import make_plugin
from mdlm_atat.config.schema import OptimConfig
from mdlm_atat.errors import UserError
from mdlm_atat.nets.protocol import Backbone
from mdlm_atat.plugins import is_plugin
from mdlm_atat.training.kept_numbers import kept_numbers, numbers_of_groups
from mdlm_atat.training.muon import Muon

Role = Literal["matrix", "embedding", "output", "rest"]
"""What a parameter is to Muon: a matrix that it orthogonalises, or one of AdamW's three groups."""


def make_optimizer(model: nn.Module, config: OptimConfig, *, compile: bool = False, divided: bool = False) -> Optimizer:
    """AdamW, fused where the device has it; Muon (see `muon_groups`); or a plugin's optimizer. Weight decay is on
    matrices of linear layers only, and what asks for no gradient is in no group. `compile`: Muon's orthogonalisation by
    compiled code. `divided`: a part of it by each of several processes.

    A plugin is called with two groups of parameters, each with its `weight_decay`, then `lr` and, if its constructor
    takes them, `betas`; all else is its own (`optim.options`). The rate of each step is set by `set_learning_rate`.
    """
    if config.kind == "muon":
        return Muon(
            muon_groups(model, config), config.lr, config.betas, config.momentum, compile=compile, divided=divided
        )
    groups = groups_by_decay(model, [p for p in model.parameters() if p.requires_grad], config.weight_decay)
    if config.kind == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)
    offered = {"lr": config.lr, "betas": config.betas, "weight_decay": config.weight_decay}
    offered = {name: value for name, value in offered.items() if name not in config.options}
    return make_plugin("optimizer", config.kind, config.options, groups, offered=offered, where="optim.options")


def check_state(config: OptimConfig, device: torch.device) -> None:
    """Raise UserError where a plugin's optimizer keeps what a checkpoint would not hold, before a run comes to its
    first: by a step of a network of two weights, which draws from a random stream of its own."""
    if not is_plugin("optimizer", config.kind):
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        network = nn.Linear(2, 1, device=device)
        try:
            optimizer = make_optimizer(network, config)
            at_first = numbers_of_groups(optimizer)
            network(torch.ones(1, 2, device=device)).sum().backward()
            optimizer.step()
        except Exception:  # it may want what only the real network has: then it is looked at when it has taken steps
            return
    kept_numbers(optimizer, list(dict(network.named_parameters())), at_first)


def groups_by_decay(model: nn.Module, parameters: list[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: matrices of linear layers, and what has no weight decay."""
    decayed = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    return [
        {"params": [p for p in parameters if id(p) in decayed], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) not in decayed], "weight_decay": 0.0},
    ]


def muon_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Every parameter in one group, with its role, its `weight_decay`, the number of matrices in it (see `Muon`) and
    its learning rate over `optim.lr` as `lr_ratio`.

    Muon's are the weights of linear layers in transformer blocks (`blocks`, wherever in the network: the importance
    estimator's too), or of a network that has none, of all its linear layers but the output layer. Those named `qkv`
    hold three matrices, those named `kv` two. adaLN's `modulation` is left out: what it gives are shifts, scales and
    gates. AdamW has the embeddings, a group; the output layer, where it is not the embedding, a group; and the rest, a
    group: norms, biases, vectors, `modulation`, and what is outside of the blocks, such as heads and the time's
    embedding.

    Raises UserError for a network with nothing for Muon.
    """
    roles = find_roles(model)
    ratios = {
        "matrix": 1.0,
        "embedding": config.embedding_lr_ratio,
        "output": config.output_lr_ratio,
        "rest": config.rest_lr_ratio,
    }
    groups: list[dict[str, Any]] = []
    for role, ratio in ratios.items():
        found = [(name, p) for name, p in model.named_parameters() if roles[name] == role]
        for num_matrices in (0,) if role != "matrix" else (1, 2, 3):
            own = [p for name, p in found if not num_matrices or matrices_in(name) == num_matrices]
            more = {"role": role, "num_matrices": num_matrices, "lr_ratio": ratio}
            groups += [{**group, **more} for group in groups_by_decay(model, own, config.weight_decay)]
    if not any(group["num_matrices"] and group["params"] for group in groups):
        raise UserError(
            f"optim.kind = muon is for the matrices of linear layers, and {type(model).__name__} has none but its "
            "output layer; use `optim.kind='adamw'`"
        )
    return [group for group in groups if group["params"]]


def find_roles(model: nn.Module) -> dict[str, Role]:
    """The role of every parameter, by its name."""
    layers = {f"{name}.weight": module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    in_blocks = {name for name in layers if "blocks" in name.split(".")}
    matrices = {name for name in in_blocks or layers if name.split(".")[-2] != "modulation"}
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    outputs = output_parameters(model)
    roles: dict[str, Role] = {}
    for name, p in model.named_parameters():
        if id(p) in embeddings:
            roles[name] = "embedding"
        elif id(p) in outputs:
            roles[name] = "output"
        else:
            roles[name] = "matrix" if name in matrices else "rest"
    return roles


def output_parameters(model: nn.Module) -> set[int]:
    """The ids of the parameters that the output layer's weight and bias are, or are parts of."""
    if not isinstance(model, Backbone):
        return set()
    parts = [part for part in model.output_layer() if part is not None]
    return {id(part if part._base is None else part._base) for part in parts}


def matrices_in(name: str) -> int:
    """How many matrices a weight holds, by its name: those of queries, keys and values may be in one."""
    return {"qkv": 3, "kv": 2}.get(name.split(".")[-2], 1)


def set_learning_rate(optimizer: Optimizer, lr: float) -> None:
    """Set the rate of every group: `lr`, times the group's own `lr_ratio` where it has one."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_ratio", 1.0)


def warm_up(num_steps: int, config: OptimConfig) -> int:
    """Steps of warm-up: `optim.warmup_steps`, but at most half of all steps, so that a run that is cut short by one
    setting still reaches its peak rate and decays."""
    return min(config.warmup_steps, num_steps // 2)


def learning_rate(step: int, num_steps: int, config: OptimConfig) -> float:
    """Learning rate of step 0 .. num_steps - 1: linear warm-up, then as `config.decay` says constant, cosine, or
    constant with a linear cool-down at the end (WSD)."""
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
