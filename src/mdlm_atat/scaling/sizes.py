"""How many numbers a network holds, and the network of a given number of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from torch import nn

from mdlm_atat.config.build import modes_of, network_of_shapes
from mdlm_atat.config.schema import RunConfig
from mdlm_atat.config.size import least_weights
from mdlm_atat.errors import UserError
from mdlm_atat.formats import count
from mdlm_atat.training.optim import find_roles, matrices_in

SHORT = 2
NARROWEST, WIDEST = 64, 32_768
MOST_LAYERS = 2_000
WIDTH_STEPS = ((512, 32), (1024, 64), (4096, 128), (math.inf, 256))
"""(widths below, from one that is looked at to the next)."""
LARGEST_MISS = 0.1
"""How far from the number that is asked for a network may be."""
NEARLY = 0.03
"""Among networks that are no farther, the usual shape is chosen."""


@dataclass(frozen=True)
class Sizes:
    """Numbers of parameters, by what is done with them."""

    num_parameters: int
    num_tensors: int
    in_block: int
    """Of one transformer block."""
    block_matrices: int
    """Weights of linear layers in one block: what has a copy in bf16 during a step."""
    num_blocks: int
    muon: int
    """Whose steps Muon takes."""
    muon_tensors: int
    largest_alike: int
    """Of the matrices of one shape, which Muon orthogonalises together."""
    muon_flops: float
    """Operations of a step's orthogonalisations."""

    @property
    def outside_blocks(self) -> int:
        return self.num_parameters - self.num_blocks * self.in_block


def sizes_of(config: RunConfig, vocab_size: int) -> Sizes:
    """Sizes of a configuration's network. Raises UserError for a plugin's, whose shape its settings do not tell."""
    # no weight but a learned table of positions depends on the length, and the angles of a long text take long
    network = network_of_shapes(replace(config, data=replace(config.data, length=SHORT)), vocab_size)
    if network is None:
        raise UserError(
            f"model.kind = {config.model.kind}: a plan is made for the networks of this package, `model.kind='masked'` "
            "or `model.kind='causal'`"
        )
    block = network.blocks[0]
    matrices = [module.weight.numel() for module in block.modules() if isinstance(module, nn.Linear)]
    in_table = config.data.length - SHORT if network_has_table(config) else 0
    roles, alike, flops, muon = find_roles(network), dict[tuple[int, int], int](), 0.0, list[int]()
    for name, p in network.named_parameters():
        if roles[name] != "matrix":
            continue
        num = matrices_in(name)
        rows, columns = p.shape[0] // num, p.shape[1]
        alike[rows, columns] = alike.get((rows, columns), 0) + p.numel()
        flops += num * orthogonalisation_flops(rows, columns)
        muon.append(p.numel())
    return Sizes(
        num_parameters=sum(p.numel() for p in network.parameters()) + in_table,
        num_tensors=len(list(network.parameters())),
        in_block=sum(p.numel() for p in block.parameters()),
        block_matrices=sum(matrices),
        num_blocks=len(network.blocks),
        muon=sum(muon),
        muon_tensors=len(muon),
        largest_alike=max(alike.values(), default=0),
        muon_flops=flops,
    )


def network_has_table(config: RunConfig) -> bool:
    """Whether the network has a number for each position."""
    return config.masking.position == "table" and "masked" in modes_of(config)


def orthogonalisation_flops(rows: int, columns: int) -> float:
    """Operations of Muon's five iterations on a matrix: in each X X', its square, and that times X."""
    small, large = sorted((rows, columns))
    return 5 * (2 * 2 * small**2 * large + 2 * small**3)


def of_size(num_parameters: float, config: RunConfig, vocab_size: int) -> RunConfig:
    """The configuration with the depth, width and heads of a network that has about so many parameters.

    Among the networks that have nearly so many, the one whose width over depth is nearest to `usual_aspect`. Heads are
    64 wide, from width 2048 on 128. Everything else of the network stays as it is. Raises UserError where there is
    none within a tenth.
    """
    found: list[tuple[float, float, RunConfig]] = []  # (how far from the number, how far from the aspect, network)
    width = NARROWEST
    while width <= WIDEST:
        here, width = width, width + next(step for below, step in WIDTH_STEPS if width < below)
        try:
            one, two = (nearly(shaped(config, layers, here), vocab_size) for layers in (1, 2))
        except UserError:  # a width that the heads do not divide
            continue
        num_layers = max(1, round((num_parameters - (2 * one - two)) / (two - one)))
        if num_layers <= MOST_LAYERS:
            miss = abs(one + (num_layers - 1) * (two - one) - num_parameters) / num_parameters
            off = abs(math.log(here / num_layers / usual_aspect(here)))
            found.append((miss, off, shaped(config, num_layers, here)))
    nearest = min((miss for miss, _, _ in found), default=math.inf)
    if nearest > LARGEST_MISS:
        raise UserError(
            f"no network has nearly {count(num_parameters)} parameters and a vocabulary of {vocab_size:,} tokens: ask "
            "for another number by `params=`, or for a smaller `vocab_size=`"
        )
    near = [each for each in found if each[0] <= max(nearest, NEARLY)]
    return min(near, key=lambda each: (each[1], each[0]))[2]


def usual_aspect(width: int) -> float:
    """Width over depth as large networks have it: 64 up to a width of 1536, then rising with its logarithm to 128 at
    4096 (those of arXiv 2005.14165, table 2.1, lie from 43 to 128)."""
    return 64 * 2 ** min(1.0, max(0.0, math.log(width / 1536) / math.log(4096 / 1536)))


def shaped(config: RunConfig, num_layers: int, width: int) -> RunConfig:
    """The configuration with another depth and width."""
    model = config.model
    if model.head_width is None:
        num_heads = max(1, width // (64 if width < 2048 else 128))
    else:
        num_heads = max(1, width // model.head_width)
    if model.num_kv_heads is not None:  # as many heads of queries to each as before
        num_heads = max(1, num_heads // model.num_kv_heads) * model.num_kv_heads
    return replace(config, model=replace(model, num_layers=num_layers, width=width, num_heads=num_heads))


def nearly(config: RunConfig, vocab_size: int) -> int:
    """The parameters of a configuration's network, but for norms and biases."""
    return least_weights(config) + (1 if config.model.tied else 2) * vocab_size * config.model.width
