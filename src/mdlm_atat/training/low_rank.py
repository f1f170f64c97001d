"""Low-rank training (LoRA, arXiv 2106.09685): a matrix W becomes W + alpha / rank * B A, of which A and B are trained.

What is trained are layers of peft. Checkpoints hold all weights under peft's names, so that training goes on bit for
bit; whoever reads a checkpoint's weights for anything else gets the sum, under the network's own names.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mdlm_atat.checks import did_you_mean
from mdlm_atat.config.low_rank_schema import LoraConfig
from mdlm_atat.device import made_in_float32
from mdlm_atat.errors import UserError

BASE, DOWN, UP = ".base_layer.", ".lora_A.default.weight", ".lora_B.default.weight"
"""In the names of weights: of W and its bias, of A (rank, in) and of B (out, rank)."""
OF_TIME = "modulation"
MODE_VECTOR = "mode_vector"
"""What a network trained in two ways has more than one trained in either (nets.two_way). It starts at zeros, and is
always trained."""
START_VECTOR = "start_vector"
"""What a network with the alignment shifted has more than one that reads left to right (nets.dit)."""
SYMBOL = "embedding.symbol"
"""The embedding of [MASK], where it is trained and the embeddings of tokens are not."""


class SymbolEmbedding(nn.Embedding):
    """An embedding whose last vector, that of [MASK], is a parameter of its own."""

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__(embedding.num_embeddings, embedding.embedding_dim, _weight=embedding.weight.data)
        self.symbol = nn.Parameter(embedding.weight.data[-1].clone())

    def forward(self, input: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape width"]:
        vectors = super().forward(input)
        is_symbol = (input == self.num_embeddings - 1)[..., None]
        return torch.where(is_symbol, self.symbol.to(vectors.dtype), vectors)


def add_low_rank(network: nn.Module, config: LoraConfig, *, with_symbols: bool = False) -> int:
    """Put A and B beside the chosen linear layers of a network's blocks, in place, and let nothing else be trained. B
    is 0 at first, so the network stays the function that it was. Returns how many numbers are trained.

    `with_symbols`: train the vectors of [MASK] and of the start symbol too. A network that has only read left to right
    has seen neither, and its blocks' narrow matrices alone do not learn to fill gaps from what they begin with.

    Raises UserError where peft is not installed, and for targets that the network does not have.
    """
    try:
        from peft import LoraConfig as Settings
        from peft import inject_adapter_in_model
    except ImportError as error:
        raise UserError("`lora.rank=` needs an extra: pip install 'mdlm-atat[lora]'") from error
    layers = [name for name, part in network.named_modules() if isinstance(part, nn.Linear)]
    in_blocks = {name: name.split(".")[-1] for name in layers if "blocks" in name.split(".")[:-1]}
    known = sorted(set(in_blocks.values()))
    if wrong := [name for name in config.targets if name not in known]:
        raise UserError(
            f"lora.targets: the blocks of {type(network).__name__} have no linear layer {wrong[0]!r}; expected some of "
            f"{', '.join(known)}{did_you_mean(wrong[0], known)}"
        )
    targets = config.targets or [name for name in known if name != OF_TIME]
    chosen = [name for name, last in in_blocks.items() if last in targets]
    if not chosen:
        raise UserError(f"`lora.rank=`: {type(network).__name__} has no blocks of linear layers: train all its weights")
    settings = Settings(r=config.rank, lora_dropout=config.input_dropout, target_modules=chosen)
    settings.lora_alpha = config.alpha  # pyright: ignore[reportAttributeAccessIssue]  # any number will do
    with made_in_float32():
        inject_adapter_in_model(settings, network)
    trained = {MODE_VECTOR}
    if with_symbols:
        trained |= {START_VECTOR, SYMBOL}
        if isinstance(embedding := getattr(network, "embedding", None), nn.Embedding):
            network.embedding = SymbolEmbedding(embedding)
    for name, p in network.named_parameters():
        p.requires_grad_(name.endswith((DOWN, UP)) or name in trained)
    return num_trained(network)


def num_trained(network: nn.Module) -> int:
    """How many of a network's numbers are trained."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def is_low_rank(names: Collection[str]) -> bool:
    """Whether weights of these names are those of a network with low-rank layers."""
    return any(name.endswith(DOWN) for name in names)


def own_name(name: str) -> str | None:
    """What the network itself calls a weight; None for those that are a part of another: A, B and the symbol's."""
    return None if name.endswith((DOWN, UP)) or name == SYMBOL else name.replace(BASE, ".")


def merged(weights: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """The weights under the network's own names, W + alpha / rank * B A in the place of the three; in float32."""
    found: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if (own := own_name(name)) is None:
            continue
        layer = name.removesuffix(f"{BASE}weight")
        if layer != name:
            down, up = weights[layer + DOWN], weights[layer + UP]
            weight = weight + alpha / len(down) * (up @ down)
        found[own] = weight
    if SYMBOL in weights:
        found["embedding.weight"] = torch.cat([found["embedding.weight"][:-1], weights[SYMBOL][None]])
    return found
