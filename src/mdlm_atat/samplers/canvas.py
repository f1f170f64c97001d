"""The canvas a sampler fills: tokens, [MASK] where nothing is known yet, and positions that are fixed from the
start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mdlm_atat.errors import UserError


@dataclass(frozen=True)
class Canvas:
    """What is known before generation. Prompts, infilling templates and single locked tokens are all fixed
    positions."""

    tokens: Int[Tensor, "batch length"]
    fixed: Bool[Tensor, "batch length"]

    @classmethod
    def blank(cls, num_rows: int, length: int, mask_id: int) -> Canvas:
        """A canvas of masks, with nothing fixed."""
        tokens = torch.full((num_rows, length), mask_id, dtype=torch.int64)
        return cls(tokens, torch.zeros_like(tokens, dtype=torch.bool))

    @classmethod
    def with_prefixes(cls, prefixes: Sequence[Sequence[int]], length: int, mask_id: int) -> Canvas:
        """A canvas with a row for each prefix, fixed at its start; the rest of the row is to be filled. Raises
        UserError for a prefix longer than `length`."""
        canvas = cls.blank(len(prefixes), length, mask_id)
        for row, prefix in enumerate(prefixes):
            if len(prefix) > length:
                raise UserError(
                    f"prompt {row + 1} has {len(prefix)} tokens, but the text to generate has {length}; "
                    f"shorten the prompt or ask for a longer text"
                )
            canvas.tokens[row, : len(prefix)] = torch.tensor(prefix, dtype=torch.int64)
            canvas.fixed[row, : len(prefix)] = True
        return canvas

    def to(self, device: torch.device | str) -> Canvas:
        """A copy of the canvas on a device."""
        return Canvas(self.tokens.to(device), self.fixed.to(device))
