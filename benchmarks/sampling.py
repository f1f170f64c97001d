"""Tokens a second when sampling, against the plain loop: both in one run, as one table.

    python -m benchmarks.sampling                                                 one GPU
    python -m benchmarks.sampling --layers 2 --width 64 --length 64 --vocab 500 --steps 8 --rounds 1     anywhere

The plain loop is what ancestral sampling looks like without further thought (and in MDLM's published code): every step
computes all positions' logits, float32 log-probabilities over the whole vocabulary, and draws a token everywhere. The
network is random: time does not depend on what it says. Equal numbers of evaluations unless said; medians.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
from benchmarks.command import exit_code
from torch import Tensor

from mdlm_atat.cli.parser import whole
from mdlm_atat.core.denoiser import Prediction
from mdlm_atat.data.tokenizers import HUB_VOCABULARIES
from mdlm_atat.device import Graphed, compile_network
from mdlm_atat.lm.asking import gather_positions, projection
from mdlm_atat.nets.dit import ATATDiT
from mdlm_atat.provenance import cpu
from mdlm_atat.samplers.canvas import Canvas
from mdlm_atat.samplers.draw import TokenDraw
from mdlm_atat.samplers.loop import StepRule, sample
from mdlm_atat.samplers.named import make_sampler


@torch.no_grad()
def plain_loop(network: ATATDiT, batch: int, length: int, num_steps: int, device: torch.device) -> int:
    """Ancestral sampling, everything everywhere. Returns the number of evaluations."""
    mask_id = network.mask_id
    z_t = torch.full((batch, length), mask_id, device=device)
    for step in range(num_steps, 0, -1):
        t, s = step / num_steps, (step - 1) / num_steps
        logits = network(z_t, torch.full((batch,), t, device=device)).float()  # (B, L, V)
        log_probs = torch.log_softmax(logits, dim=-1)
        stays = torch.full((batch, length, 1), s, device=device)
        posterior = torch.cat([log_probs.exp() * (t - s), stays], dim=-1)  # (B, L, V + 1): q(z_s | z_t), times t
        gumbel = 1e-10 - (torch.rand_like(posterior) + 1e-10).log()
        drawn = (posterior / gumbel).argmax(dim=-1)
        z_t = torch.where(z_t == mask_id, drawn, z_t)
    assert num_steps == 0 or (z_t < mask_id).all()
    return num_steps


def ours(
    network: ATATDiT,
    run: Callable[[Tensor, Tensor], Tensor],
    rule: StepRule,
    batch: int,
    length: int,
    device: torch.device,
) -> float:
    """Sample with `run`, the network up to its output layer. Returns the evaluations a row, mean."""

    project = projection(network, torch.bfloat16 if device.type == "cuda" else None)

    def denoise(z_t: Tensor, t: Tensor) -> Prediction:
        hidden = run(z_t, t)
        return Prediction(lambda positions: project(gather_positions(hidden, positions)))

    canvas = Canvas.blank(batch, length, network.mask_id).to(device)
    found = sample(denoise, canvas, rule, mask_id=network.mask_id, seeds=range(batch))
    return found.trace.nfe.float().mean().item()


def timed(run: Callable[[], float], rounds: int, device: torch.device) -> tuple[list[float], float]:
    """(seconds of each round, evaluations of the last), after one that warms up."""
    run()
    seconds, nfe = [], 0.0
    for _ in range(rounds):
        wait(device)
        start_s = time.perf_counter()
        nfe = run()
        wait(device)
        seconds.append(time.perf_counter() - start_s)
    return seconds, nfe


def print_parts(network: ATATDiT, batch: int, length: int, num_drawn: int, rounds: int, device: torch.device) -> None:
    """ms of the network up to its output layer, and of logits and draws at num_drawn positions of each row."""
    z_t, t = torch.full((batch, length), network.mask_id, device=device), torch.ones(batch, device=device)
    hidden = network.hidden(z_t, t)[:, :num_drawn]
    uniform = torch.rand(batch * num_drawn, device=device, dtype=torch.float64)

    project = projection(network, torch.bfloat16 if device.type == "cuda" else None)

    def draw() -> float:
        for _ in range(20):
            TokenDraw()(project(hidden).flatten(0, 1), uniform)
        return 20

    def run(forward: Callable[[Tensor, Tensor], Tensor]) -> float:
        for _ in range(20):
            forward(z_t, t)
        return 20

    def line(what: str, work: Callable[[], float]) -> None:
        seconds, number = timed(work, rounds, device)
        print(f"{what:52} {1000 * statistics.median(seconds) / number:8.3f} ms", flush=True)

    line(f"logits and draws at {batch * num_drawn} positions", draw)
    line("network, eager", lambda: run(network.hidden))
    compile_network(network)
    line("network, compiled", lambda: run(network.hidden))
    if device.type == "cuda":
        recorded = Graphed(network.hidden)
        line("network, compiled and recorded", lambda: run(recorded))


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=whole(1), default=12)
    parser.add_argument("--width", type=whole(1), default=768)
    parser.add_argument("--vocab", type=whole(1), default=HUB_VOCABULARIES["gpt2"])
    parser.add_argument("--length", type=whole(1), default=1024)
    parser.add_argument("--batch", type=whole(1), default=8)
    parser.add_argument("--steps", type=whole(1), default=128)
    parser.add_argument("--rounds", type=whole(1), default=5)
    parser.add_argument("--skip_plain", action="store_true", help="without the plain loop")
    parser.add_argument("--skip_eager", action="store_true")
    parser.add_argument("--skip_compile", action="store_true")
    parser.add_argument("--parts", action="store_true", help="time the parts of one step instead")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    network = ATATDiT(args.vocab, args.length, num_layers=args.layers, width=args.width, num_heads=args.width // 64)
    network = network.to(device).eval()
    name = torch.cuda.get_device_name() if device.type == "cuda" else cpu()
    print(f"{name}, torch {torch.__version__}: batch {args.batch}, length {args.length}, vocabulary {args.vocab:,},")
    print(f"{args.layers} layers of width {args.width}, {'bf16' if device.type == 'cuda' else 'float32'}")
    if args.parts:
        with torch.no_grad(), torch.autocast("cuda", dtype=torch.bfloat16) if device.type == "cuda" else nullcontext():
            print_parts(network, args.batch, args.length, args.length // args.steps, args.rounds, device)
        return
    print(f"{'':52} {'NFE':>6} {'s':>8} {'lowest to highest':>18} {'ms/NFE':>8} {'tokens/s':>10} {'ratio':>6}")
    base = 0.0

    def line(what: str, run: Callable[[], float]) -> None:
        nonlocal base
        times, nfe = timed(run, args.rounds, device)
        seconds, spread = statistics.median(times), f"({min(times):.3f} to {max(times):.3f})"
        rate = args.batch * args.length / seconds
        base = base or rate
        per_nfe = 1000 * seconds / nfe
        print(f"{what:52} {nfe:6.0f} {seconds:8.3f} {spread:>18} {per_nfe:8.2f} {rate:10,.0f} {rate / base:6.2f}",
              flush=True)  # fmt: skip

    rules = [
        ("ancestral", args.steps),
        ("ancestral:cache=false", args.steps),
        ("first_hitting:sizes=cosine", args.steps),
        ("spread", args.steps),
        ("spread", max(1, args.steps // 4)),
    ]

    def plain() -> float:
        return plain_loop(network, args.batch, args.length, args.steps, device)

    with torch.autocast("cuda", dtype=torch.bfloat16) if device.type == "cuda" else nullcontext():
        if not args.skip_plain:
            line("plain loop", plain)
        for compiled in [False] * (not args.skip_eager) + [True] * (not args.skip_compile):
            run: Callable[[Tensor, Tensor], Tensor] = network.hidden
            if compiled:
                compile_network(network)
                if not args.skip_plain:
                    line("plain loop, compiled", plain)
                run = Graphed(network.hidden) if device.type == "cuda" else network.hidden
            for spec, steps in rules:
                rule = make_sampler(spec, num_steps=steps)
                what = f"{spec}, {steps} steps{', compiled' if compiled else ''}"
                line(what, lambda rule=rule, run=run: ours(network, run, rule, args.batch, args.length, device))


if __name__ == "__main__":
    sys.exit(exit_code(main))
