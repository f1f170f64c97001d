"""Whether drafts pay: a two-way network's masked mode drafts k tokens in one pass, its causal mode checks them in one.
What is written follows the causal mode exactly (arXiv 2510.03929, 2302.01318), in fewer passes or in more.

    python -m benchmarks.drafts RUN --drafts 1 2 4 8 --batch 1 8

The table has passes and seconds a token, beside writing left to right with the same cache, compiled (and recorded on a
GPU) or not alike. An experiment: nothing of the package uses it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from benchmarks.command import exit_code
from torch import Tensor

from mdlm_atat import MaskedDiffusionLM
from mdlm_atat.cli.parser import whole
from mdlm_atat.errors import UserError
from mdlm_atat.lm.asking import gather_positions, projection
from mdlm_atat.lm.reading import CachedSteps
from mdlm_atat.samplers.draw import TokenDraw, inverse_cdf


@dataclass(frozen=True)
class Written:
    tokens: Tensor
    """(B, L)."""
    num_passes: int
    """Of the network over the whole batch, both modes."""
    num_accepted: Tensor
    """Drafted tokens that each row kept (B,)."""


def write_with_drafts(
    lm: MaskedDiffusionLM,
    prompts: Tensor,
    length: int,
    num_drafts: int,
    generator: torch.Generator,
    draw: TokenDraw | None = None,
) -> Written:
    """Go on with prompts (B, P) of one length up to `length` tokens. A draft x from q is kept with probability
    min(1, p(x) / q(x)), and the first that is not is drawn anew from max(0, p - q), normed; p and q both by `draw`."""
    draw = draw or TokenDraw()
    steps = lm._steps
    assert isinstance(steps, CachedSteps)
    mask_id, device = lm.tokenizer.mask_id, lm.device
    num_rows, num_given = prompts.shape
    output_layer = projection(lm.network, torch.bfloat16 if lm.precision == "bf16" else None)

    def distribution(hidden: Tensor) -> Tensor:
        """(B, K, V) in float64."""
        with lm.inference():
            logits = output_layer(hidden)
        return draw.probabilities(logits.flatten(0, 1)).view(*logits.shape)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, dtype=torch.float64, generator=generator).to(device)

    with lm.inference():
        z_t = F.pad(prompts.to(device), (0, length - num_given), value=mask_id)
        cache = steps.cache_of(num_rows, length)
        num_known = torch.full((num_rows,), num_given, device=device)
        num_accepted, num_passes = torch.zeros_like(num_known), 0
        if num_given > 0:
            symbols = F.pad(z_t[:, : num_given - 1], (1, 0), value=mask_id)
            places = torch.arange(num_given, device=device).expand(num_rows, -1)
            lm.network.read(symbols, places, cache.first(num_rows))
            num_passes += 1
        offset = torch.arange(num_drafts + 1, device=device)
        while (num_known < length).any():
            # the masked mode drafts x_n .. x_(n + k - 1)
            positions = (num_known[:, None] + offset).clamp_max(length - 1)  # (B, k + 1)
            hidden = lm._hidden(z_t, (z_t == mask_id).float().mean(1))
            q = distribution(gather_positions(hidden, positions[:, :-1]))
            drafts = inverse_cdf(q.flatten(0, 1), uniform(num_rows * num_drafts)).view(num_rows, num_drafts)
            # the causal mode reads the last known token, then the drafts
            last = z_t.gather(1, (num_known[:, None] - 1).clamp(0, length - 1))
            last = torch.where(num_known[:, None] > 0, last, mask_id)  # the start symbol
            # behind the last place of all, that one is read again, and must be with the same symbol
            column = (positions - num_known[:, None]).clamp_min(0)
            hidden = steps.over(cache, length)(torch.cat([last, drafts], dim=1).gather(1, column), positions)
            p = distribution(hidden)  # (B, k + 1, V)
            num_passes += 2
            p_draft, q_draft = (part.gather(2, drafts[..., None])[..., 0] for part in (p[:, :-1], q))
            is_kept = (uniform(num_rows, num_drafts) * q_draft < p_draft) & (num_known[:, None] + offset[:-1] < length)
            num_kept = is_kept.long().cumprod(1).sum(1)  # up to the first that is not
            # the token after them: from what p has more than q, or after the last draft from p
            p_next = p.gather(1, num_kept[:, None, None].expand(-1, 1, p.shape[2]))[:, 0]
            q_next = F.pad(q, (0, 0, 0, 1)).gather(1, num_kept[:, None, None].expand(-1, 1, p.shape[2]))[:, 0]
            more = (p_next - q_next).clamp_min(0)
            more = torch.where(more.sum(1, keepdim=True) > 0, more, p_next)
            new = torch.cat([drafts, drafts[:, :1]], dim=1)
            new.scatter_(1, num_kept[:, None], inverse_cdf(more, uniform(num_rows))[:, None])
            is_written = (offset <= num_kept[:, None]) & (num_known[:, None] + offset < length)
            rows, columns = is_written.nonzero(as_tuple=True)
            z_t[rows, num_known[rows] + columns] = new[rows, columns]
            num_accepted += num_kept
            num_known += is_written.sum(1)
    return Written(z_t, num_passes, num_accepted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="the folder of a run with two ways")
    parser.add_argument("--drafts", type=whole(1), nargs="+", default=[1, 2, 4, 8], help="tokens drafted in a pass")
    parser.add_argument("--batch", type=whole(1), nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=whole(1), default=5)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    lm = MaskedDiffusionLM.from_pretrained(args.run)
    if not isinstance(lm._steps, CachedSteps):
        raise UserError(f"{args.run} does not read left to right; name a model of two ways, such as `atat` trains")
    if args.compile:
        lm.compile()
    length = lm.max_length
    print(f"{lm!r}; {length} tokens from nothing, medians of {args.rounds}")
    print(f"{'':24} {'batch':>6} {'passes a token':>15} {'kept a draft':>13} {'ms a token':>11}")
    for batch in args.batch:
        for num_drafts in [0, *args.drafts]:
            seconds, written = [], None
            for number in range(args.rounds + 1):
                start_s = time.perf_counter()
                if num_drafts == 0:
                    lm.generate([""] * batch, sampler="left_to_right", seed=number)
                else:
                    nothing = torch.zeros(batch, 0, dtype=torch.long)
                    generator = torch.Generator().manual_seed(number)
                    written = write_with_drafts(lm, nothing, length, num_drafts, generator)
                    written.tokens.cpu()
                seconds.append(time.perf_counter() - start_s)
            passes = 1.0 if written is None else written.num_passes / length
            kept = "" if written is None else f"{written.num_accepted.float().mean() / (written.num_passes / 2):.2f}"
            what = "left to right" if num_drafts == 0 else f"drafts of {num_drafts}"
            each = 1000 * statistics.median(seconds[1:]) / length
            print(f"{what:24} {batch:6} {passes:15.2f} {kept:>13} {each:11.3f}", flush=True)


if __name__ == "__main__":
    sys.exit(exit_code(main))
