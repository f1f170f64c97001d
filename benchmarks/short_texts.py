"""What a gap costs by how much text is known around it, and how much unknown text is shown around that: a gap of three
tokens in the middle of pieces of a prepared corpus's validation text. See lm.amid_unknown.

    python -m benchmarks.short_texts MODEL CORPUS
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from benchmarks.command import exit_code

from mdlm_atat import MaskedDiffusionLM, load_lm
from mdlm_atat.cli.parser import whole
from mdlm_atat.errors import UserError

GAP = 3  # tokens


@torch.no_grad()
def nats_per_token(lm: MaskedDiffusionLM, pieces: torch.Tensor, around: int) -> float:
    """-log p of each of the three tokens, the others masked, with `around` masks on either side of the piece."""
    mask_id, start = lm.tokenizer.mask_id, (pieces.shape[1] - GAP) // 2
    z_t = pieces.clone()
    z_t[:, start : start + GAP] = mask_id
    z_t = F.pad(z_t, (around, around), value=mask_id)
    network, total = lm.network, 0.0
    weight, bias = network.output_layer()  # type: ignore[operator]
    for rows, x0 in zip(z_t.split(16), pieces.split(16), strict=True):
        hidden = network.hidden(rows, (rows == mask_id).float().mean(1))  # type: ignore[operator]
        logits = F.linear(hidden[:, around + start : around + start + GAP], weight, bias)
        total += F.cross_entropy(logits.flatten(0, 1), x0[:, start : start + GAP].flatten(), reduction="sum").item()
    return total / (GAP * len(pieces))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--pieces", type=whole(1), default=96)
    parser.add_argument("--lengths", type=whole(1), nargs="+", default=[15, 31, 63])
    parser.add_argument("--around", type=whole(0), nargs="+", default=[0, 16, 64, 128])
    args = parser.parse_args()
    lm = load_lm(args.model, device="cpu")
    if not isinstance(lm, MaskedDiffusionLM):
        raise UserError(f"{args.model} reads left to right alone; name a model that fills gaps")
    text = torch.from_numpy(np.fromfile(args.corpus / "valid.bin", np.uint16).astype(np.int64))
    starts = torch.randint(len(text) - lm.max_length, (args.pieces,), generator=torch.Generator().manual_seed(1))
    print("tokens known  nats per token with so many masks on either side")
    print(" " * 13, *(f"{around:>7}" for around in args.around))
    for length in args.lengths:
        middles = starts + (lm.max_length - length) // 2  # the same gaps for all lengths
        pieces = text[middles[:, None] + torch.arange(length)]
        costs = [nats_per_token(lm, pieces, around) for around in args.around]
        print(f"{length - GAP:>13}", *(f"{cost:7.3f}" for cost in costs), flush=True)
    full = text[starts[:, None] + torch.arange(lm.max_length)]
    print(f"{lm.max_length - GAP:>13} {nats_per_token(lm, full, 0):7.3f}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
