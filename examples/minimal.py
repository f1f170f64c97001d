"""Masked diffusion language modelling (MDLM) from the first line to the last, for reading.

    python examples/minimal.py                                # Shakespeare in letters: less than a minute on a CPU
    python examples/minimal.py --text mine.txt --num_steps 5000

Equations are those of Sahoo et al. 2024, arXiv 2406.07524. Their alpha_t, the probability that a token is visible at
time t, is 1 - mask_rate(t) here; their m is `mask_id`. B: batch, L: length, V: vocabulary without [MASK]; costs are in
nats. Each docstring ends with the file in which the package has the same, with more around it.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from mdlm_atat.core.masking import hide, mask_exactly, mask_independently
from mdlm_atat.core.objective import masked_nll
from mdlm_atat.core.schedules import Linear, reveal_probability
from mdlm_atat.core.times import UniformTime, low_discrepancy_times
from mdlm_atat.data.plays import play_files, play_text
from mdlm_atat.samplers.canvas import Canvas
from mdlm_atat.samplers.draw import TokenDraw
from mdlm_atat.samplers.loop import sample
from mdlm_atat.samplers.uncertainty import UncertaintyGuidedSampler

SCHEDULE = Linear()  # mask_rate(t) = t, weight(t) = 1 / t


class Network(nn.Module):
    """A denoiser: p(x0_i | z_t) at every position i, from a transformer that sees all of z_t at once.

    [MASK] has an embedding but no logit, so it is never predicted: the first half of SUBS (section 3.2.3). The time is
    not used, which the best denoiser does not need: how much is masked can be seen. (`nets/dit.py`)
    """

    def __init__(self, vocab_size: int, length: int, width: int, num_layers: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab_size + 1, width), nn.Embedding(length, width)
        self.neighbours = nn.Conv1d(width, width, kernel_size=7, padding=3)  # soon learns which letters follow which
        block = nn.TransformerEncoderLayer(
            width, nhead=4, dim_feedforward=4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, num_layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.output = nn.Linear(width, vocab_size)

    def forward(self, z_t: Tensor, t: Tensor, lengths: Tensor | None = None) -> Tensor:
        h = self.tokens(z_t)  # (B, L, D)
        h = h + self.neighbours(h.mT).mT + self.positions.weight[: z_t.shape[1]]  # (B, L, D)
        return self.output(self.blocks(h))  # (B, L, V)


def training_loss(denoise, x0: Tensor, mask_id: int, generator: torch.Generator) -> Tensor:
    """An unbiased estimate of the bound, eq. 10, per token: every row at a time and with a mask of its own.

    (`MaskedDiffusion.loss` in `core/objective.py`)
    """
    t = low_discrepancy_times(UniformTime(), len(x0), generator)  # (B,), spread evenly over (0, 1]
    uniform = torch.rand(x0.shape, generator=generator)  # (B, L)
    is_text = torch.ones_like(x0, dtype=torch.bool)  # (B, L): there is no padding here
    is_masked = mask_independently(uniform, SCHEDULE.mask_rate(t)[:, None], is_text)  # (B, L), eq. 4
    z_t = hide(x0, is_masked, mask_id)  # (B, L)
    logits = denoise(z_t, t)  # (B, L, V)
    nll = masked_nll(logits, x0, is_masked)  # (B, L): 0 where z_t is visible, which is copied: the second half of SUBS
    weight = SCHEDULE.weight(t).float()[:, None]  # (B, 1): -alpha_t' / (1 - alpha_t)
    return (weight * nll).sum() / x0.numel()  # eq. 10


@torch.no_grad()
def bound(denoise, x0: Tensor, mask_id: int, generator: torch.Generator) -> tuple[float, float]:
    """The bound on -log p(x0) per token, and its standard error, with far less noise than the training loss.

    The integral over t of eq. 10 is, for any schedule, a mean over the number n of masked tokens, uniform on 1..L:
    NELBO = L E_n [ 1/n E_{|M| = n} sum over M of -log p(x0_i | z) ]. (`scoring/likelihood.py`)
    """
    num_rows, length = x0.shape
    num_masked = torch.randint(1, length + 1, (num_rows,), generator=generator)  # (B,)
    uniform, is_text = torch.rand(x0.shape, generator=generator), torch.ones_like(x0, dtype=torch.bool)  # (B, L)
    is_masked = mask_exactly(uniform, num_masked, is_text)  # (B, L)
    logits = denoise(hide(x0, is_masked, mask_id), num_masked / length)  # (B, L, V)
    nelbo = length / num_masked * masked_nll(logits, x0, is_masked).sum(1)  # (B,), nats per sequence
    return nelbo.mean().item() / length, nelbo.std().item() / length / num_rows**0.5


@torch.no_grad()
def ancestral(denoise, z_t: Tensor, mask_id: int, num_steps: int, generator: torch.Generator) -> Tensor:
    """Fill every [MASK] of z_t (B, L) in `num_steps` steps of equal time, from t = 1 to 0. (`samplers/ancestral.py`)"""
    for k in range(num_steps, 0, -1):
        t, s = k / num_steps, (k - 1) / num_steps
        logits = denoise(z_t, torch.full((len(z_t),), t))  # (B, L, V)
        numbers = torch.rand(z_t.numel(), generator=generator, dtype=torch.float64)  # float32 never draws rare tokens
        x0 = TokenDraw()(logits.flatten(0, 1), numbers).view_as(z_t)  # (B, L), from p(x0_i | z_t)
        is_revealed = torch.rand(z_t.shape, generator=generator) < reveal_probability(SCHEDULE, t, s)  # eq. 7
        z_t = torch.where((z_t == mask_id) & is_revealed, x0, z_t)
    return z_t


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, help="a text file; without, Shakespeare's plays")
    parser.add_argument("--length", type=int, default=64, help="tokens in a sequence")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--num_layers", type=int, default=2)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--num_steps", type=int, default=800)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)

    text = args.text.read_text(encoding="utf-8") if args.text else "".join(map(play_text, play_files()))
    letters = sorted(set(text))
    mask_id = len(letters)  # one past the last letter
    number = {letter: index for index, letter in enumerate(letters)}
    tokens = torch.tensor([number[letter] for letter in text])
    train, valid = tokens[: -len(tokens) // 10], tokens[-len(tokens) // 10 :]

    def rows(of: Tensor, num_rows: int, generator: torch.Generator) -> Tensor:
        starts = torch.randint(len(of) - args.length + 1, (num_rows, 1), generator=generator)
        return of[starts + torch.arange(args.length)]  # (B, L)

    def show(z_t: Tensor) -> str:
        return "".join([*letters, "_"][token] for token in z_t.tolist())

    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    network = Network(len(letters), args.length, args.width, args.num_layers)
    optimizer = torch.optim.AdamW(network.parameters(), lr=args.lr, betas=(0.9, 0.98))
    decay = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=args.num_steps, pct_start=0.1)
    start_s, smooth = time.perf_counter(), float("nan")
    for step in range(1, args.num_steps + 1):
        loss = training_loss(network, rows(train, args.batch_size, generator), mask_id, generator)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        decay.step()
        smooth = loss.item() if step == 1 else 0.95 * smooth + 0.05 * loss.item()
        if step % max(1, args.num_steps // 8) == 0:
            print(f"step {step}: loss {smooth:.3f} nats per letter, {time.perf_counter() - start_s:.0f} s")

    network.eval()
    x0 = rows(valid, 1024, generator)  # (1024, L)
    nats, standard_error = bound(network, x0, mask_id, generator)
    frequency = torch.bincount(train, minlength=len(letters)) / len(train)
    unigram = -frequency[x0].log().mean().item()  # knows how often each letter occurs, and nothing else
    print(f"bound {nats:.3f} ± {standard_error:.3f} nats per letter on held-out text, at most; unigram {unigram:.3f}")

    blank = Canvas.blank(1, args.length, mask_id)
    print("ancestral:", repr(show(ancestral(network, blank.tokens, mask_id, args.length, generator)[0])))
    # any callable denoiser goes with the package's samplers too; this one reveals the most certain positions first
    rule = UncertaintyGuidedSampler(num_steps=args.length, spread=True)
    print("spread:   ", repr(show(sample(network, blank, rule, mask_id=mask_id, seeds=[args.seed]).tokens[0])))


if __name__ == "__main__":
    main()
