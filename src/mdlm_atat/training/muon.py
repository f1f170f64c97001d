"""Muon: steps along an orthogonalised momentum, for the matrices of a network (Jordan et al. 2024,
https://kellerjordan.github.io/posts/muon).

AdamW scales each number of a gradient by itself. Muon takes a whole matrix: where its momentum has the singular value
decomposition U S V', the step is along U V', so that directions with small gradients are learned as fast as those that
dominate. That has a meaning for what maps vectors to vectors, and none for embeddings, norms and biases: these stay
with AdamW.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

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
    other (1, or 3 for queries, keys and values in one), each of which is orthogonalised by itself; 0 is AdamW. Each has
    its `weight_decay`, which is decoupled in both. For a matrix of r x c with gradient G, momentum m and rate lr:

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
    ) -> None:
        """`betas`: AdamW's. `compile`: orthogonalise by compiled code, one for each shape."""
        self._adamw = torch.optim.AdamW(params, lr=lr, betas=betas, fused=True)  # told in `step` which groups it has
        super().__init__(params, {**self._adamw.defaults, "momentum": momentum})
        self._orthogonalise: Callable[[Tensor], Tensor] = (
            torch.compile(orthogonalise, dynamic=False) if compile else orthogonalise
        )

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
        self._step_matrices()
        return loss

    def _step_matrices(self) -> None:
        # (rows, columns, rate) -> matrices and what is to be orthogonalised for each
        alike: defaultdict[tuple[int, int, float], tuple[list[Tensor], list[Tensor]]] = defaultdict(lambda: ([], []))
        for group in self.param_groups:
            num_matrices, lr, momentum = group["num_matrices"], group["lr"], group["momentum"]
            params = [p for p in group["params"] if p.grad is not None]
            if num_matrices == 0 or not params:
                continue
            for p in params:
                if "momentum_buffer" not in self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
            gradients = [p.grad for p in params]
            buffers = [self.state[p]["momentum_buffer"] for p in params]
            torch._foreach_lerp_(buffers, gradients, 1 - momentum)  # pyright: ignore[reportPrivateImportUsage]
            updates = torch._foreach_lerp(gradients, buffers, momentum)  # pyright: ignore[reportPrivateImportUsage]
            torch._foreach_mul_(params, 1 - lr * group["weight_decay"])  # pyright: ignore[reportPrivateImportUsage]
            for p, update in zip(params, updates, strict=True):
                shape = (p.shape[0] // num_matrices, p.shape[1])
                matrices, to_do = alike[*shape, lr]
                matrices.extend(p.view(num_matrices, *shape).unbind())
                to_do.extend(update.view(num_matrices, *shape).unbind())
        for (rows, columns, lr), (matrices, to_do) in alike.items():
            steps = self._orthogonalise(torch.stack(to_do)).unbind()
            length = lr * ADAMW_RMS * math.sqrt(max(rows, columns))
            torch._foreach_add_(matrices, steps, alpha=-length)  # pyright: ignore[reportPrivateImportUsage]


def orthogonalise(matrices: Float[Tensor, "batch rows columns"]) -> Float[Tensor, "batch rows columns"]:
    """About U V' of every matrix U S V', by Newton-Schulz iterations: its singular values come to lie in 0.68 to 1.21,
    but those below 0.002 of the matrix's norm, which become smaller. A zero matrix stays zero."""
    a, b, c = COEFFICIENTS
    is_tall = matrices.shape[1] > matrices.shape[2]
    norm = matrices.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)  # of Frobenius: no singular value is above it
    x = (matrices / norm).to(iteration_dtype(matrices.device))
    for _ in range(NUM_ITERATIONS):
        gram = x.mT @ x if is_tall else x @ x.mT  # the smaller of the two
        mix = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, x, mix, beta=a) if is_tall else torch.baddbmm(x, mix, x, beta=a)
    return x.to(matrices.dtype)


def iteration_dtype(device: torch.device) -> torch.dtype:
    """bf16, which is enough, where it is fast: NVIDIA GPUs, and CPUs with AVX-512 (3 to 4 times float32's rate on one
    that has bf16 instructions)."""
    is_fast = device.type == "cuda" or (device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX512")
    return torch.bfloat16 if is_fast else torch.float32
