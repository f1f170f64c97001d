"""TwoWayDiT: one network that fills any gaps and reads left to right."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from mdlm_atat.nets.cache import KeyValueCache, Reading
from mdlm_atat.nets.dit import ATATDiT
from mdlm_atat.nets.protocol import Mode


class TwoWayDiT(ATATDiT):
    """ATATDiT with a second way to be asked: without a time, it gives p(x_i | x_<i) by causal attention, as
    CausalTransformer does, so that p(x) is exact. All weights serve both ways; a learned vector, added to the
    embeddings, says which is meant.

    The start symbol takes the embedding of [MASK], which stands nowhere else in a text that is read left to right; with
    `alignment` shifted, where the masked mode has a start too, its vector. In the causal mode a time-conditioned
    network is told t = 0: nothing is masked.
    """

    modes: ClassVar[frozenset[Mode]] = frozenset({"masked", "causal"})

    def __init__(self, vocab_size: int, max_length: int, *, width: int, **settings: Any) -> None:
        """The settings are ATATDiT's."""
        super().__init__(vocab_size, max_length, width=width, **settings)
        self.mode_vector = nn.Parameter(torch.zeros(width))

    def forward(
        self,
        z_t: Int[Tensor, "batch length"],
        t: Float[Tensor, " batch"] | None = None,
        lengths: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch length vocab"]:
        """Logits of the clean tokens from partly masked ones; without t, of x_i from x_<i at every place i."""
        return self.logits(self.hidden(z_t, t, lengths))

    def hidden(
        self,
        z_t: Int[Tensor, "batch length"],
        t: Float[Tensor, " batch"] | None = None,
        lengths: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch length width"]:
        """What the last norm gives, in the masked mode or, without t, in the causal one, where padding beyond `lengths`
        is never seen anyway."""
        if t is not None:
            return super().hidden(z_t, t, lengths)
        symbols = F.pad(z_t[:, :-1], (1, 0), value=self.vocab_size)  # (B, L): start, x_1 .. x_{L-1}
        return self._read(symbols)

    def read(
        self,
        symbols: Int[Tensor, "batch k"],
        places: Int[Tensor, "batch k"],
        cache: KeyValueCache,
        num_places: int | None = None,
    ) -> Float[Tensor, "batch k width"]:
        """`hidden` of the causal mode at k places of each row only; see nets.protocol.Cached."""
        return self._read(symbols, cache.read(places, num_places))

    def _read(self, symbols: Tensor, reading: Reading | None = None) -> Tensor:
        """Symbols, the start of a text among them, through the blocks in the causal mode."""
        x = self.embedding(symbols)
        if self.start_vector is not None:
            x = torch.where((symbols == self.vocab_size)[..., None], self.start_vector.to(x.dtype), x)
        nothing_masked = torch.zeros(len(symbols), dtype=torch.float32, device=symbols.device)
        return self._denoise(x + self.mode_vector.to(x.dtype), nothing_masked, causal=True, reading=reading)
