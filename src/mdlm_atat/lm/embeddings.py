"""Texts as vectors: what a network makes of their tokens, on average."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mdlm_atat.checks import whole
from mdlm_atat.core.masking import scored_positions
from mdlm_atat.errors import UserError
from mdlm_atat.lm.pieces import Pieces
from mdlm_atat.nets.protocol import Backbone

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mdlm_atat.lm.base import LanguageModel


def embed(lm: LanguageModel, texts: Sequence[str], layer: int | None, batch_size: int) -> Float[Tensor, "texts width"]:
    """See `LanguageModel.encode`."""
    whole("`batch_size=`", batch_size, 1)
    network: Any = lm.network
    if not isinstance(network, Backbone):
        raise UserError("this network is a plain function: it gives logits, and no hidden states to encode texts by")
    check_layer(network, layer)
    encoded = [lm.tokenizer.encode(text) for text in texts]
    for number, tokens in enumerate(encoded, start=1):
        if not tokens:
            raise UserError(f"text {number} is empty: there is nothing to encode")
    if not encoded:
        return torch.zeros(0, network.output_layer()[0].shape[1], dtype=torch.float32)
    pieces = Pieces(encoded, lm.max_length - is_shifted(lm))
    _, lengths = pieces.evaluation_rows(np.arange(pieces.num_evaluation_rows))
    sums: dict[int, Tensor] = {}
    order = np.argsort(-lengths, kind="stable")  # so that little is padded
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        ids, row_lengths = pieces.evaluation_rows(chosen)
        found = states(lm, torch.from_numpy(ids[:, : row_lengths.max()]), torch.from_numpy(row_lengths), layer)
        for row, state in zip(chosen.tolist(), found, strict=True):
            text = pieces.of_text[row][0]
            sums[text] = sums.get(text, 0) + state
    counts = torch.tensor([len(tokens) for tokens in encoded], dtype=torch.float64)
    return (torch.stack([sums[text] for text in range(len(encoded))]) / counts[:, None]).float()


def is_shifted(lm: LanguageModel) -> bool:
    """Whether a token stands one place behind its own: a start goes before it."""
    return lm.kind == "causal" or getattr(lm.network, "alignment", "own") == "shifted"


def states(
    lm: LanguageModel, ids: Int[Tensor, "rows length"], lengths: Int[Tensor, " rows"], layer: int | None
) -> Float[Tensor, "rows width"]:
    """The sum of a layer's states at the tokens of each row, on the CPU in float64. The last norm's states are those of
    the places that have read a token, not of those that predict it, which in a shifted network are others."""
    before = [] if lm.bos_id is None else [lm.bos_id]
    shift = int(is_shifted(lm))
    x = F.pad(ids, (len(before), shift))  # one place more for a token that is never read: it moves the last one in
    for place, token in enumerate(before):
        x[:, place] = token
    x, read = x.to(lm.device), (lengths + len(before)).to(lm.device)
    with lm.inference(), kept(lm.network, layer) as states_of_layer:
        if lm.kind == "causal":
            last = lm.network.hidden(x)
        else:
            last = lm.network.hidden(x, torch.zeros(len(x), dtype=torch.float32, device=lm.device), read)
    found = states_of_layer[0] if states_of_layer else last
    first = len(before) + shift
    found = found[:, first : first + ids.shape[1]].float().cpu().double()  # (rows, length, width)
    return torch.where(scored_positions(lengths, ids.shape[1])[..., None], found, 0.0).sum(1)


def check_layer(network: Any, layer: int | None) -> None:
    """Raise UserError for a layer that the network does not have."""
    if layer is None:
        return
    num_layers = len(getattr(network, "blocks", ()))
    if num_layers == 0:
        raise UserError(f"`layer={layer}`: this network has no `blocks`; leave it out for the last norm's states")
    if not (isinstance(layer, int) and 1 <= layer <= num_layers):
        raise UserError(f"`layer={layer}`, expected from 1 to {num_layers}, or None for the last norm's states")


@contextmanager
def kept(network: Any, layer: int | None) -> Iterator[list[Tensor]]:
    """Inside the block, what a layer gives is added to the list."""
    found: list[Tensor] = []
    if layer is None:
        yield found
        return
    handle = network.blocks[layer - 1].register_forward_hook(lambda _module, _given, state: found.append(state))
    try:
        yield found
    finally:
        handle.remove()
