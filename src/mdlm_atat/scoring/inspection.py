"""What importance a model gives every token of a text, and what each really costs it when it is masked.

Draws are fixed by (seed, row, t) alone: a number at one t is the same whatever other times are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from mdlm_atat.core.curriculum import Stage
from mdlm_atat.core.denoiser import Denoiser, Network
from mdlm_atat.core.masking import hide
from mdlm_atat.core.objective import denoised_nll
from mdlm_atat.core.prior import mean_importance, prior_importance
from mdlm_atat.core.strategies.rates import Clean, MaskingScheduler
from mdlm_atat.device import as_float64, float64_device
from mdlm_atat.errors import UserError
from mdlm_atat.scoring.correlation import pearson, spearman
from mdlm_atat.scoring.draws import DrawSettings
from mdlm_atat.scoring.inspected_text import Correlation, TokenCurves

DEFAULT_TIMES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
MAX_GROUPS = 20  # fractions up to 19/20: a row is masked at most 20 times in a draw, if t is not nearer to 0 or 1
STORED_DECIMALS = 4


@dataclass(frozen=True, kw_only=True)
class Inspection(TokenCurves):
    """What was measured of a text, its rows one after the other and padding left out."""

    tokens: Int[np.ndarray, " tokens"]
    lengths: Int[np.ndarray, " rows"]
    """Tokens of each row; rows are independent of each other."""
    num_draws: int
    """Random partitions of a row at each t."""
    seed: int

    def correlation(self, time: int | None = None) -> Correlation:
        """Correlation, over tokens, of the clean text's importance and the loss: at time number `time`, or averaged
        over all times (None)."""
        nll = self.mean_nll if time is None else self.nll[time]
        # rounded: means of the same numbers, summed in another order, are equal
        return Correlation(pearson(self.importance, nll), spearman(self.importance.round(9), nll.round(9)))

    def record(self, texts: Sequence[str], about: dict[str, Any]) -> dict[str, Any]:
        """The inspection as a dict for JSON, numbers rounded. `texts`: how each token looks; `about`: entries that say
        what was inspected."""
        assert len(texts) == len(self.tokens)
        by_time = [self.correlation(time) for time in range(len(self.times))]
        return {
            **about,
            "num_draws": self.num_draws,
            "seed": self.seed,
            "correlation": {
                **self.correlation()._asdict(),
                "pearson_at_t": [found.pearson for found in by_time],
                "spearman_at_t": [found.spearman for found in by_time],
            },
            "times": self.times.tolist(),
            "lengths": self.lengths.tolist(),
            "tokens": self.tokens.tolist(),
            "texts": list(texts),
            **{
                name: getattr(self, name).round(STORED_DECIMALS).tolist()
                for name in ("importance", "masked_importance", "nll", "mask_rate")
            },
        }


class ByFrequency:
    """Importance where the network knows none: tokens are the more important the rarer they are in the training text
    (surprisal); of a masked one that is the corpus mean."""

    def __init__(self, counts: NDArray[np.int64]) -> None:
        by_token = prior_importance(counts, "surprisal")
        self.by_token = torch.cat([by_token, by_token.new_tensor([mean_importance(by_token, counts)])])

    def importance_score(self, tokens: Tensor, t: Tensor) -> None:
        """None: there is no estimator."""

    def importance(self, tokens: Tensor, score: None) -> Tensor:
        """Importance in [0, 1] by frequency alone."""
        assert score is None
        return self.by_token.to(tokens.device)[tokens]


@torch.no_grad()
def inspect_rows(
    network: Any,
    ids: Int[np.ndarray, "rows length"],
    lengths: Int[np.ndarray, " rows"],
    *,
    denoise: Denoiser | Network,
    masking: MaskingScheduler,
    stage: Stage | None = None,
    times: Sequence[float] = DEFAULT_TIMES,
    draws: DrawSettings,
    mask_id: int,
) -> Inspection:
    """Mask every token of some rows at every t, equally often each, and record its loss, importance and mask rate.

    At each t a row is cut at random into groups, and each group is masked once, or so many together that t of the row
    is hidden (see `partition_masks`). This is done `draws.num_draws` times, all in this process. The losses are those
    of `denoise`, a core.Denoiser, which is told the share that was masked. `network` is any object with the methods of
    ATATDiT for importance, `ByFrequency` for one that has none. `masking` must have the linear schedule, so that t is
    the share that uniform masking would mask. Raises UserError for times outside (0, 1].
    """
    check_times(times)
    assert draws.num_ranks == 1
    wide = float64_device(draws.device)  # of times and rates
    device, batch_size = draws.device, draws.batch_size
    found: list[tuple[np.ndarray, ...]] = []
    done, total = 0, int(lengths.sum())
    for index, (row, length) in enumerate(zip(ids, lengths.tolist(), strict=True)):
        x0 = torch.from_numpy(row[:length].astype(np.int64)).to(device)  # (L,)
        importance = network.importance(
            x0[None], network.importance_score(x0[None], torch.zeros(1, dtype=torch.float32, device=device))
        )
        shape = (len(times), length)
        scored = torch.ones(shape, dtype=torch.bool, device=device)
        rates = masking(
            torch.tensor(times, dtype=torch.float64, device=wide),
            Clean(scored, x0.expand(shape), importance.expand(shape), stage).to(wide),
        )
        masks, time_index = _masks_of_row(times, length, draws.num_draws, (draws.seed, index))
        sums = torch.zeros(3, len(times), length, dtype=torch.float64)  # of importance, loss and masks
        for start in range(0, len(masks), batch_size):
            part, part_times = masks[start : start + batch_size], time_index[start : start + batch_size]
            values = _score_masks(network, denoise, x0, part.to(device), mask_id).cpu()  # (2, B, L)
            sums.index_add_(1, part_times, torch.cat([values, part[None].double()]))
            draws.report(done + length * min(start + batch_size, len(masks)) // len(masks), total)
        done += length
        means = sums[:2] / sums[2]
        found.append((row[:length], *_arrays(importance[0], *means, rates.mask_rate)))
    tokens, importance, masked_importance, nll, mask_rate = (
        np.concatenate(part, axis=-1) for part in zip(*found, strict=True)
    )
    return Inspection(
        tokens=tokens,
        lengths=lengths,
        importance=importance,
        times=np.array(times, dtype=np.float64),
        masked_importance=masked_importance,
        nll=nll,
        mask_rate=mask_rate,
        num_draws=draws.num_draws,
        seed=draws.seed,
    )


def check_times(times: Sequence[float]) -> None:
    """Raises UserError unless there are times, all of them in (0, 1]."""
    if not times or not all(0 < t <= 1 for t in times):
        raise UserError(
            f"times are {' '.join(f'{t:g}' for t in times) or 'none'}, expected numbers above 0 and at most 1, e.g. "
            "0.1 0.5 0.9"
        )


def mask_share(t: float, length: int) -> Fraction:
    """The share p / q nearest to t of `length` tokens that can be masked as p of q groups; never 0."""
    finest = length if t == 1 else round(min(length, 1 / min(t, 1 - t)))
    return max(Fraction(t).limit_denominator(min(length, max(MAX_GROUPS, finest))), Fraction(1, length))


def partition_masks(
    t: float, length: int, num_draws: int, rng: np.random.Generator
) -> Bool[np.ndarray, "masks length"]:
    """Random masks of about t * length tokens that hide every token equally often.

    Each draw deals the positions at random into q groups whose sizes differ by at most one, and masks p neighbouring
    groups (the last one's neighbour is the first) in each of q ways: every position is masked p times in q.
    """
    share = mask_share(t, length)
    p, q = share.numerator, share.denominator
    groups = np.stack([rng.permutation(length) * q // length for _ in range(num_draws)])  # (draws, L)
    return ((groups[:, None] + np.arange(q)[:, None]) % q < p).reshape(-1, length)


def token_texts(decode: Callable[[list[int]], str], tokens: Sequence[int]) -> list[str]:
    """How each token looks where it stands: the text that it adds to that of the token before it.

    A word-piece decoder drops the spaces and marks of a piece that is decoded alone, so two tokens are decoded
    together. A token that changes the text before it (bytes of one character) is decoded alone.
    """
    texts = []
    for index, token in enumerate(tokens):
        alone = decode([token])
        before = decode([tokens[index - 1]]) if index else ""
        both = decode([tokens[index - 1], token]) if index else alone
        texts.append(both.removeprefix(before) if both.startswith(before) else alone)
    return texts


def _masks_of_row(
    times: Sequence[float], length: int, num_draws: int, seed: tuple[int, int]
) -> tuple[Bool[Tensor, "masks length"], Int[Tensor, " masks"]]:
    """The masks of all times, and which time each is of."""
    by_time = [
        # the generator is seeded by whole numbers: t to a billionth
        partition_masks(t, length, num_draws, np.random.default_rng((*seed, round(t * 1e9))))
        for t in times
    ]
    counts = torch.tensor([len(masks) for masks in by_time])
    return torch.from_numpy(np.concatenate(by_time)), torch.arange(len(by_time)).repeat_interleave(counts)


def _score_masks(
    network: Any,
    denoise: Denoiser | Network,
    x0: Int[Tensor, " length"],
    is_masked: Bool[Tensor, "batch length"],
    mask_id: int,
) -> Float[Tensor, "2 batch length"]:
    """Importance and loss of the masked tokens, 0 elsewhere. float64."""
    rows = x0.expand_as(is_masked)  # (B, L)
    z_t = hide(rows, is_masked, mask_id)  # (B, L)
    told = is_masked.float().mean(1)  # (B,)
    importance = network.importance(z_t, network.importance_score(z_t, told))  # (B, L)
    nll = denoised_nll(denoise, z_t, told, None, rows, is_masked)  # (B, L)
    return as_float64(torch.stack([torch.where(is_masked, importance, 0.0), nll]))


def _arrays(*tensors: Tensor) -> Iterator[np.ndarray]:
    return (tensor.cpu().double().numpy() for tensor in tensors)
