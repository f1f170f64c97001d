"""Language models without training: of random weights, for tokenizers that no run was trained with, and one that
knows its text by heart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mdlm_atat import MaskedDiffusionLM
from mdlm_atat.config.build import build_model
from mdlm_atat.config.schema import RunConfig
from mdlm_atat.data.tokenizers import CharTokenizer, Tokenizer
from mdlm_atat.nets.dit import ATATDiT
from mdlm_atat.nets.two_way import TwoWayDiT


def random_lm(tokenizer: Tokenizer, config: RunConfig, counts: NDArray[np.int64] | None = None) -> MaskedDiffusionLM:
    torch.manual_seed(0)
    network = build_model(config, tokenizer.vocab_size, counts)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    lm = MaskedDiffusionLM(network, tokenizer, config)
    lm.counts = counts
    return lm


def two_way_lm(*, letters: str = "ab", length: int = 3, seed: int = 0) -> MaskedDiffusionLM:
    """A network of chance that fills masks and reads left to right."""
    torch.manual_seed(seed)
    tokenizer = CharTokenizer(letters)
    network = TwoWayDiT(tokenizer.vocab_size, length, num_layers=2, width=16, num_heads=2)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.4)
    return MaskedDiffusionLM(network.double(), tokenizer)


class ByHeart(ATATDiT):
    """Sure that position i holds the i-th token of `tokens`, whatever it sees."""

    def __init__(self, tokens: list[int], vocab_size: int) -> None:
        super().__init__(vocab_size, len(tokens), num_layers=1, width=4, num_heads=1)
        self.unit = torch.eye(vocab_size)
        self.table = 9.0 * F.one_hot(torch.tensor(tokens), vocab_size)

    def hidden(self, z_t: Tensor, t: Tensor, lengths: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return self.table[: z_t.shape[1]].expand(len(z_t), -1, -1)

    def output_layer(self) -> tuple[Tensor, None]:
        return self.unit, None


def lm_that_knows(text: str, tokenizer: Tokenizer, config: RunConfig) -> MaskedDiffusionLM:
    whole_texts = replace(config, data=replace(config.data, mode="pad"))  # it knows a text from its first place on
    return MaskedDiffusionLM(ByHeart(tokenizer.encode(text), tokenizer.vocab_size), tokenizer, whole_texts)
