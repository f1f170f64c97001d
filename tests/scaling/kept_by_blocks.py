"""What compiled blocks of several layouts keep for their backward pass, in bytes: a script, whose code is compiled
without the checks of types that tests run with. It prints JSON: for each layout, bytes kept and bytes foretold."""

from __future__ import annotations

import json
from dataclasses import replace

import torch

from mdlm_atat.config.schema import ModelConfig, RunConfig
from mdlm_atat.nets.layers import Block, Layout, Rotary
from mdlm_atat.scaling.memory import Way, memory_of
from mdlm_atat.scaling.sizes import sizes_of

ROWS, LENGTH, WIDTH, HEADS, TIME_WIDTH = 2, 32, 64, 4, 16


class Kept:
    """The bytes of all tensors that autograd keeps within `hooks`, but for some that are there anyway."""

    def __init__(self, but: list[torch.Tensor]) -> None:
        self._but = {tensor.untyped_storage().data_ptr() for tensor in but}
        self._storages: dict[int, torch.UntypedStorage] = {}
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor)

    def _keep(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._but:
            self._storages[storage.data_ptr()] = storage
        return tensor

    @property
    def num_bytes(self) -> int:
        return sum(storage.nbytes() for storage in self._storages.values())


PLAIN = ModelConfig(num_layers=1, width=WIDTH, num_heads=HEADS, time_width=TIME_WIDTH)
LAYOUTS = {
    "plain": PLAIN,
    "MDLM's": replace(PLAIN, dropout=0.1, time_conditioning=True),
    "rms": replace(PLAIN, norm="rms"),
    "normalised queries": replace(PLAIN, qk_norm=True),
    "Llama's": replace(PLAIN, norm="rms", mlp="swiglu", num_kv_heads=2),
    "Qwen's": replace(PLAIN, norm="rms", qk_norm=True, mlp="swiglu", num_kv_heads=2, qkv_bias=True),
}


def kept_by_block(model: ModelConfig) -> int:
    """In bf16; forward and backward are divided as inductor divides them, which needs no compiler."""
    torch.compiler.reset()
    layout = Layout(mlp=model.mlp, num_kv_heads=model.num_kv_heads, qkv_bias=model.qkv_bias)
    block = Block(
        WIDTH,
        HEADS,
        mlp_ratio=model.mlp_ratio,
        norm=model.norm,
        qk_norm=model.qk_norm,
        dropout=model.dropout,
        time_width=TIME_WIDTH if model.time_conditioning else None,
        layout=layout,
    )
    rotary = Rotary(WIDTH // HEADS, LENGTH, layout)
    x = torch.randn(ROWS, LENGTH, WIDTH, requires_grad=True)
    condition = torch.randn(ROWS, TIME_WIDTH, requires_grad=True) if model.time_conditioning else None
    kept = Kept([*block.parameters(), *rotary.buffers()])
    compiled = torch.compile(block, backend="aot_eager_decomp_partition", dynamic=False)
    with kept.hooks, torch.autocast("cpu", torch.bfloat16):
        compiled(x, rotary, None, condition)
    return kept.num_bytes


def foretold(model: ModelConfig) -> float:
    config = RunConfig(model=model)
    config = replace(config, data=replace(config.data, length=LENGTH), train=replace(config.train, batch_size=ROWS))
    return memory_of(config, sizes_of(config, 10), 10, Way("one GPU"), 1, 1, 0.0).activations


if __name__ == "__main__":
    print(json.dumps({name: [kept_by_block(model), foretold(model)] for name, model in LAYOUTS.items()}))
