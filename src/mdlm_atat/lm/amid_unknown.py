"""A text that is shorter than those a network was trained on, as a part of a longer one that nobody knows."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mdlm_atat.core.denoiser import Network, without_padding

NUM_AROUND = 64
"""Most [MASK] on either side of a text. More would tell the network little more (docs/samplers.md), and cost time."""


class AmidUnknown:
    """A network that was trained on pieces of one length out of longer texts, as a core.denoiser.Network for shorter
    ones: it is shown a text with [MASK] before and after it, as many as are left to its own length, at most 64 on
    either side. A text of its own length is shown as it is.

    A row of 20 tokens and nothing else never occurs in training; 20 tokens with masks around them do.
    """

    def __init__(self, network: Network, mask_id: int, max_length: int) -> None:
        self._network, self._mask_id, self._max_length = network, mask_id, max_length
        self.output_layer = network.output_layer

    def hidden(
        self,
        z_t: Int[Tensor, "batch length"],
        t: Float[Tensor, " batch"],
        lengths: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch length width"]:
        """What the last norm gives at the places of z_t. Rows are asked about without their padding."""
        return without_padding(self._hidden, z_t, t, lengths)

    def __call__(
        self,
        z_t: Int[Tensor, "batch length"],
        t: Float[Tensor, " batch"],
        lengths: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch length vocab"]:
        weight, bias = self.output_layer()
        return F.linear(self.hidden(z_t, t, lengths), weight, bias)

    def _hidden(self, z_t: Tensor, t: Tensor) -> Tensor:
        length = z_t.shape[1]
        width = min(max(length, self._max_length), length + 2 * NUM_AROUND)
        if width == length:
            return self._network.hidden(z_t, t)
        before = (width - length) // 2
        wide = F.pad(z_t, (before, width - length - before), value=self._mask_id)
        share = 1 - (1 - t) * (length / width)  # of [MASK] in all of it
        return self._network.hidden(wide, share)[:, before : before + length]
