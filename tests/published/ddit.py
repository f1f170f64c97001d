"""MDLM's published network, written from its description (arXiv 2406.07524, appendix; SEDD's DDiT): embeddings, blocks
with adaLN-zero, an output layer with adaLN, rotary positions over halves, LayerNorm in float32 without a bias. And the
formats that its weights are published in."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from others import write_tokenizer
from safetensors.torch import save_file
from torch import Tensor, nn

NUM_TOKENS = 257  # 256 bytes and <|endoftext|>, 256
SMALL: dict[str, Any] = {"hidden_dim": 16, "cond_dim": 6, "n_blocks": 2, "n_heads": 2}


class DDiT(nn.Module):
    """`causal`: the left-to-right baseline, which has no adaLN."""

    def __init__(self, num_rows: int, width: int, condition: int, depth: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal

        def adaln(num: int) -> dict[str, nn.Module]:
            return {} if causal else {"adaLN_modulation": nn.Linear(condition, num * width)}

        self.vocab_embed = nn.ParameterDict({"embedding": nn.Parameter(torch.empty(num_rows, width))})
        if not causal:
            mlp = nn.Sequential(nn.Linear(256, condition), nn.SiLU(), nn.Linear(condition, condition))
            self.sigma_map = nn.ModuleDict({"mlp": mlp})
        self.rotary_emb = nn.Module()
        pairs = width // heads // 2
        self.inv_freq = 10_000.0 ** (-torch.arange(pairs) / pairs)
        self.rotary_emb.register_buffer("inv_freq", self.inv_freq)
        self.blocks: Any = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm1": nn.LayerNorm(width, bias=False),
                    "attn_qkv": nn.Linear(width, 3 * width, bias=False),
                    "attn_out": nn.Linear(width, width, bias=False),
                    "norm2": nn.LayerNorm(width, bias=False),
                    "mlp": nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width)),
                    **adaln(6),
                }
            )
            for _ in range(depth)
        )
        self.output_layer = nn.ModuleDict(
            {"norm_final": nn.LayerNorm(width, bias=False), "linear": nn.Linear(width, num_rows), **adaln(2)}
        )
        generator = torch.Generator().manual_seed(3)
        for name, parameter in self.named_parameters():
            nn.init.normal_(parameter, 1.0 if "norm" in name else 0.0, 0.3, generator=generator)

    def forward(self, tokens: Tensor, sigma: Tensor | None = None) -> Tensor:
        x = self.vocab_embed["embedding"][tokens]
        zero = x.new_zeros(())
        if self.causal:
            condition = None
        else:
            assert sigma is not None
            angle = sigma[:, None] * torch.exp(-math.log(10_000) * torch.arange(128) / 128)
            condition = F.silu(self.sigma_map["mlp"](torch.cat([angle.cos(), angle.sin()], 1).to(x.dtype)))
        length, width = x.shape[1:]
        turn = torch.arange(length)[:, None] * self.inv_freq  # (L, pairs)
        cos, sin = (torch.cat([part, part], 1)[:, None].to(x.dtype) for part in (turn.cos(), turn.sin()))

        def rotated(part: Tensor) -> Tensor:
            left, right = part.chunk(2, -1)
            return part * cos + torch.cat([-right, left], -1) * sin

        for block in self.blocks:
            if condition is None:
                shifts = [zero, zero, zero + 1, zero, zero, zero + 1]
            else:
                shifts = block["adaLN_modulation"](condition)[:, None].chunk(6, 2)
            a_shift, a_scale, a_gate, m_shift, m_scale, m_gate = shifts
            q, k, v = block["attn_qkv"](block["norm1"](x) * (1 + a_scale) + a_shift).chunk(3, 2)
            q, k, v = (part.unflatten(2, (self.heads, -1)) for part in (q, k, v))
            scores = torch.einsum("bqhd,bkhd->bhqk", rotated(q), rotated(k)) / (width // self.heads) ** 0.5
            if self.causal:
                scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -math.inf)
            x = x + a_gate * block["attn_out"](torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v).flatten(2))
            x = x + m_gate * block["mlp"](block["norm2"](x) * (1 + m_scale) + m_shift)
        out = self.output_layer
        shift, scale = (zero, zero) if condition is None else out["adaLN_modulation"](condition)[:, None].chunk(2, 2)
        return out["linear"](out["norm_final"](x) * (1 + scale) + shift)


def make(num_rows: int = NUM_TOKENS + 1, *, causal: bool = False, **sizes: int) -> DDiT:
    """A small one with random weights."""
    shape = {**SMALL, **sizes}
    return DDiT(num_rows, shape["hidden_dim"], shape["cond_dim"], shape["n_blocks"], shape["n_heads"], causal).eval()


def log_p(network: DDiT, tokens: Tensor, sigma: Tensor, mask_id: int) -> Tensor:
    """SUBS: the log-probabilities of clean tokens, of which [MASK] is none."""
    logits = network(tokens, sigma)
    logits[..., mask_id] -= 1e6
    return logits.log_softmax(-1)


def own_loss(network: DDiT, x0: Tensor, *, first: int, mask_id: int, num_draws: int, seed: int = 0) -> Tensor:
    """MDLM's loss of one text behind its first token, which stays visible: nats by draw. t is stratified, tokens are
    masked with probability t each, and the weight is 1 / t."""
    generator = torch.Generator().manual_seed(seed)
    t = ((torch.arange(num_draws) + torch.rand(num_draws, generator=generator)) / num_draws).clamp_min(1e-5)
    masked = torch.rand(num_draws, len(x0), generator=generator) < t[:, None]
    shown = torch.where(masked, mask_id, x0)
    shown = torch.cat([torch.full((num_draws, 1), first), shown], 1)
    with torch.no_grad():
        found = log_p(network, shown, torch.zeros(num_draws), mask_id)[:, 1:]
    return -(found.gather(2, x0.expand(num_draws, -1)[..., None])[..., 0] * masked / t[:, None]).sum(1)


def save_folder(network: DDiT, folder: Path, *, parts: int = 1, pickled: bool = False, **config: Any) -> Path:
    """As the hub's class MDLM saves it: config.json and weights, in one file or several; with the tokenizer's files."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"model_type": "mdlm", "architectures": ["MDLM"], "vocab_size": len(network.vocab_embed["embedding"])}
    settings |= {**SMALL, "model_length": 16, "dropout": 0.1, "time_conditioning": False, **config}
    (folder / "config.json").write_text(json.dumps(settings))
    tensors = {f"backbone.{name}": value.contiguous() for name, value in network.state_dict().items()}
    if pickled:
        torch.save(tensors, folder / "pytorch_model.bin")
    elif parts == 1:
        save_file(tensors, folder / "model.safetensors")
    else:
        names = sorted(tensors)
        files = {name: f"model-{i % parts + 1:05d}-of-{parts:05d}.safetensors" for i, name in enumerate(names)}
        for file in set(files.values()):
            save_file({name: tensors[name] for name in names if files[name] == file}, folder / file)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    if not (folder / "tokenizer.json").exists():
        write_tokenizer(folder)
    return folder


def hyperparameters(**more: Any) -> dict[str, Any]:
    model = {"length": 16, "hidden_size": 16, "cond_dim": 6, "n_blocks": 2, "n_heads": 2, "dropout": 0.1}
    config = {"parameterization": "subs", "backbone": "dit", "time_conditioning": False, "model": model, "data": {}}
    return {**config, **more}


def save_checkpoint(
    last: DDiT, file: Path, *, average: DDiT | None, config: Any = None, tokenizer: Any = None, **more: Any
) -> Path:
    """As PyTorch Lightning saves it, with settings of OmegaConf's (a stand-in), the average as a list, and a
    tokenizer's files beside it."""
    state = {f"backbone.{name}": value for name, value in last.state_dict().items()}
    content: dict[str, Any] = {"epoch": 0, "pytorch-lightning_version": "2.2.1", "state_dict": state, **more}
    content["hyper_parameters"] = {"config": config, "tokenizer": tokenizer}
    if average is not None:
        shadow = [parameter.detach() for parameter in average.parameters()]
        content["ema"] = {"decay": 0.9999, "num_updates": 7, "shadow_params": shadow}
    write_tokenizer(file.parent / "tokenizer")
    torch.save(content, file)
    return file


class _Node:
    def __init__(self, value: Any) -> None:
        self.__dict__.update(value)


def omegaconf(value: Any) -> tuple[Any, list[ModuleType]]:
    """A value as OmegaConf keeps it, of classes in modules of its names, which are not installed; and these modules."""
    modules = {name: ModuleType(f"omegaconf.{name}") for name in ("dictconfig", "listconfig", "nodes")}
    kinds: dict[str, Any] = {}
    for module, name in (("dictconfig", "DictConfig"), ("listconfig", "ListConfig"), ("nodes", "AnyNode")):
        kinds[name] = type(name, (_Node,), {"__module__": f"omegaconf.{module}", "__qualname__": name})
        setattr(modules[module], name, kinds[name])

    def kept(part: Any) -> Any:
        if isinstance(part, dict):
            return kinds["DictConfig"]({"_metadata": None, "_content": {name: kept(x) for name, x in part.items()}})
        if isinstance(part, list):
            return kinds["ListConfig"]({"_metadata": None, "_content": [kept(x) for x in part]})
        return kinds["AnyNode"]({"_metadata": None, "_val": part})

    return kept(value), [ModuleType("omegaconf"), *modules.values()]


class installed:
    """Modules that are there within the block."""

    def __init__(self, modules: list[ModuleType]) -> None:
        self.modules = modules

    def __enter__(self) -> None:
        sys.modules.update({module.__name__: module for module in self.modules})

    def __exit__(self, *_: object) -> None:
        for module in self.modules:
            sys.modules.pop(module.__name__, None)
