"""Muon: steps along an orthogonalised momentum, for the matrices of a network (Jordan et al. 2024,
https://kellerjordan.github.io/posts/muon).

AdamW scales each number of a gradient by itself. Muon takes a whole matrix: where its momentum has the singular value
decomposition U S V', the step is along U V', so that directions with small gradients are learned as fast as those that
dominate. That has a meaning for what maps vectors to vectors, and none for embeddings, norms and biases: these stay
with AdamW.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from mdlm_atat.device import compiled

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""a, b, c of x -> a x + b x^3 + c x^5, Jordan's: five times takes every x in [0.002, 1] into [0.68, 1.21]. They are
chosen for a large slope at 0, and so do not converge to 1, which training does not need."""
NUM_ITERATIONS = 5
ADAMW_RMS = 0.2
"""Root mean square of the numbers of AdamW's step over its learning rate, measured on large networks (Liu et al. 2025,
arXiv 2502.16982, section 2.2). An orthogonal r x c matrix has 1 / sqrt(max(r, c))."""


class Muon(Optimizer):
    """Muon for some groups of parameters and AdamW for the others.

    A group says which by `num_matrices`: how many matrices of equal height each of its parameters holds, one below the
    other (1; 3 for queries, keys and values in one; 2 for keys and values), each of which is orthogonalised by itself;
    0 is AdamW. Each has its `weight_decay`, which is decoupled in both. For a matrix of r x c with gradient G, momentum
    m and rate lr:

        B <- m B + (1 - m) G
        W <- (1 - lr weight_decay) W - lr 0.2 sqrt(max(r, c)) orthogonalise((1 - m) G + m B)

    so Nesterov's momentum, and steps as long as AdamW's, whose learning rates carry over. Matrices of one shape are
    orthogonalised in one batch. `torch.optim.Muon` computes the same (`adjust_lr_fn="match_rms_adamw"`), one after the
    other.
    """

    def __init__(
        self,
        params: list[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        momentum: float = 0.95,
        *,
        compile: bool = False,
        divided: bool = False,
    ) -> None:
        """`betas`: AdamW's. `compile`: Muon's part by compiled code, for each shape its own; not where a process has a
        part of every matrix (FSDP2): it gathers them before they are orthogonalised, and keeps its part. `divided`: of
        processes that have the same parameters and gradients each orthogonalises a part of the matrices, and all get
        all; not compiled."""
        self._adamw = torch.optim.AdamW(params, lr=lr, betas=betas, fused=True)  # told in `step` which groups it has
        super().__init__(params, {**self._adamw.defaults, "momentum": momentum})
        is_sharded = any(isinstance(p, DTensor) for group in self.param_groups for p in group["params"])
        is_compiled = compile and not is_sharded and not divided
        self._step_alike = compiled(step_alike, dynamic=False) if is_compiled else step_alike
        self._orthogonalise = orthogonalise_together if divided and not is_sharded else orthogonalise

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # of this optimizer, whose are others once a state was loaded
        self._adamw.param_groups = [group for group in self.param_groups if group["num_matrices"] == 0]
        self._adamw.state = self.state
        self._adamw.step()
        for found in self._alike().values():
            # tensors, because code is compiled anew for other numbers
            kept, length = torch.tensor(found.kept), torch.tensor(found.length)
            dtype = iteration_dtype(found.parameters[0].device)
            self._step_alike(
                found.parameters,
                found.gradients,
                found.buffers,
                found.counts,
                found.momentum,
                kept,
                length,
                dtype,
                self._orthogonalise,
            )
        return loss

    def _alike(self) -> dict[tuple[float, ...], Alike]:
        """Muon's parameters that have a gradient: together what takes steps together."""
        found: dict[tuple[float, ...], Alike] = {}
        for group in self.param_groups:
            count, lr, weight_decay, momentum = (
                group[key] for key in ("num_matrices", "lr", "weight_decay", "momentum")
            )
            for p in group["params"] if count else ():
                if p.grad is None:
                    continue
                if "momentum_buffer" not in self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
                rows, columns = p.shape[0] // count, p.shape[1]
                alike = found.setdefault(
                    (rows, columns, lr, weight_decay, momentum),
                    Alike(momentum, 1 - lr * weight_decay, lr * ADAMW_RMS * math.sqrt(max(rows, columns))),
                )
                alike.parameters.append(p)
                alike.gradients.append(p.grad)
                alike.buffers.append(self.state[p]["momentum_buffer"])
                alike.counts.append(count)
        return found


@dataclass
class Alike:
    """Parameters whose matrices have one shape and take a step together."""

    momentum: float
    kept: float
    """What weight decay leaves of a weight."""
    length: float
    """Of the step: what the orthogonal matrix is multiplied by."""
    parameters: list[Tensor] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)
    buffers: list[Tensor] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    """Of matrices in each parameter."""


def step_alike(
    parameters: list[Tensor],
    gradients: list[Tensor],
    buffers: list[Tensor],
    counts: list[int],
    momentum: float,
    kept: Tensor,
    length: Tensor,
    dtype: torch.dtype,
    orthogonalise: Callable[[Tensor, torch.dtype], Tensor],
) -> None:
    """A step of parameters that hold matrices of one shape, in place: see `Muon`, and `Alike` for the
    arguments. `dtype`: of the iterations."""
    torch._foreach_lerp_(buffers, gradients, 1 - momentum)  # pyright: ignore[reportPrivateImportUsage]
    updates = torch._foreach_lerp(gradients, buffers, momentum)  # pyright: ignore[reportPrivateImportUsage]
    matrices = torch.cat([whole(u).view(n, -1, u.shape[1]) for u, n in zip(updates, counts, strict=True)])
    steps = (orthogonalise(matrices, dtype) * length).split(counts)
    own = [part_like(p, step.view(p.shape)) for p, step in zip(parameters, steps, strict=True)]
    torch._foreach_mul_(parameters, kept)  # pyright: ignore[reportPrivateImportUsage]
    torch._foreach_sub_(parameters, own)  # pyright: ignore[reportPrivateImportUsage]


def whole(tensor: Tensor) -> Tensor:
    """The tensor of which this process may have a part: a part of a matrix has other singular vectors."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_like(part: Tensor, tensor: Tensor) -> Tensor:
    """This process's part of a tensor that all processes have, cut as `part` is."""
    if not isinstance(part, DTensor):
        return tensor
    return distribute_tensor(tensor, part.device_mesh, part.placements, src_data_rank=None)  # nothing is sent


def orthogonalise(
    matrices: Float[Tensor, "batch rows columns"], dtype: torch.dtype
) -> Float[Tensor, "batch rows columns"]:
    """About U V' of every matrix U S V', by Newton-Schulz iterations in `dtype`: its singular values come to lie in
    0.68 to 1.21, but those below 0.002 of the matrix's norm, which become smaller. A zero matrix stays zero."""
    a, b, c = COEFFICIENTS
    is_tall = matrices.shape[1] > matrices.shape[2]
    norm = matrices.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)  # of Frobenius: no singular value is above it
    x = (matrices / norm).to(dtype)
    for _ in range(NUM_ITERATIONS):
        gram = x.mT @ x if is_tall else x @ x.mT  # the smaller of the two
        mix = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, x, mix, beta=a) if is_tall else torch.baddbmm(x, mix, x, beta=a)
    return x.to(matrices.dtype)


def orthogonalise_together(
    matrices: Float[Tensor, "batch rows columns"], dtype: torch.dtype
) -> Float[Tensor, "batch rows columns"]:
    """The same in all processes, which have the same matrices: each does its share, and they exchange the results."""
    num_processes, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    size = -(-len(matrices) // num_processes)
    own = matrices[rank * size : (rank + 1) * size]
    own = torch.cat([own, own.new_zeros(size - len(own), *own.shape[1:])])  # shares of one size; zeros stay zeros
    own = orthogonalise(own, dtype).to(dtype)
    shares = [torch.empty_like(own) for _ in range(num_processes)]
    torch.distributed.all_gather(shares, own)
    return torch.cat(shares)[: len(matrices)].to(matrices.dtype)


def iteration_dtype(device: torch.device) -> torch.dtype:
    """bf16, which is enough, where it is fast: NVIDIA GPUs, and CPUs with AVX-512 (3 to 4 times float32's rate on one
    that has bf16 instructions)."""
    is_fast = device.type == "cuda" or (device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX512")
    return torch.bfloat16 if is_fast else torch.float32
