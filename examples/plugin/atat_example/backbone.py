"""A network that is no transformer."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Convolutions(nn.Module):
    """Residual convolutions over neighbouring tokens."""

    modes: ClassVar = frozenset({"masked"})

    def __init__(
        self, vocab_size: int, max_length: int, *, num_layers: int, width: int, dropout: float, kernel_size: int = 5
    ) -> None:  # num_layers, width and dropout are those of `model`; kernel_size is a setting of its own
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size is {kernel_size}, expected an odd number")
        self.vocab_size, self.max_length = vocab_size, max_length
        self.embedding = nn.Embedding(vocab_size + 1, width)  # [MASK] is token `vocab_size`
        padding = kernel_size // 2
        self.layers = nn.ModuleList(nn.Conv1d(width, width, kernel_size, padding=padding) for _ in range(num_layers))
        self.dropout, self.norm, self.output = nn.Dropout(dropout), nn.LayerNorm(width), nn.Linear(width, vocab_size)

    def hidden(self, z_t: Tensor, t: Tensor, lengths: Tensor | None = None) -> Tensor:
        end = z_t.shape[1] if lengths is None else lengths[:, None]
        is_text = (torch.arange(z_t.shape[1], device=z_t.device) < end)[..., None, :]  # (B, 1, L) or (1, L)
        h = self.embedding(z_t).mT * is_text  # (B, D, L): padding must not change what is said of the text
        for layer in self.layers:
            h = h + self.dropout(F.gelu(layer(h))) * is_text
        return self.norm(h.mT)  # (B, L, D)

    def output_layer(self) -> tuple[Tensor, Tensor]:
        return self.output.weight, self.output.bias

    def forward(self, z_t: Tensor, t: Tensor, lengths: Tensor | None = None) -> Tensor:
        return F.linear(self.hidden(z_t, t, lengths), *self.output_layer())  # (B, L, V)
