"""A text as a network is to be shown it: shorter than those it was trained on, as a part of a longer one that nobody
knows; or behind the token that all of its rows began with."""

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

    `bos_id`: the token that every row began with in training, whose place does not count in `max_length`. It is shown
    first, and what is unknown stands behind the text alone: there a row that is a text's beginning looks so.
    """

    def __init__(
        self,
        network: Network,
        mask_id: int,
        max_length: int,
        *,
        bos_id: int | None = None,
        num_around: int = NUM_AROUND,
    ) -> None:
        self._network, self._mask_id, self._max_length = network, mask_id, max_length
        self._bos_id, self._num_around = bos_id, num_around
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
        before, after = self._masks_around(length)
        width = before + length + after
        if width > length:
            z_t = F.pad(z_t, (before, after), value=self._mask_id)
            t = 1 - (1 - t) * (length / width)  # share of [MASK] in all of it
        if self._bos_id is not None:
            z_t, before = F.pad(z_t, (1, 0), value=self._bos_id), before + 1
        if z_t.shape[1] == length:
            return self._network.hidden(z_t, t)
        return self._network.hidden(z_t, t)[:, before : before + length]

    def _masks_around(self, length: int) -> tuple[int, int]:
        """How many [MASK] a text of this length is shown with before and after it."""
        num_sides = 2 if self._bos_id is None else 1
        num = min(max(self._max_length - length, 0), num_sides * self._num_around)
        before = num // 2 if self._bos_id is None else 0
        return before, num - before
