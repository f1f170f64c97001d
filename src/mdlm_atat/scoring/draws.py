"""How a likelihood is drawn: which sequences of a data set are masked, how, and by which process.

A draw is a sequence and a mask. It is a function of the seed, of its place among the draws and of the data alone, so
every model, device, batch size and number of processes is scored on the same draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from mdlm_atat.checks import whole
from mdlm_atat.core.masking import scored_positions
from mdlm_atat.errors import UserError
from mdlm_atat.progress import OnProgress
from mdlm_atat.scoring.records import BLOCK_SIZE

CPU_TOKENS = 2**14
"""In one call of the network on a CPU, where no call is the faster for more, and what the layers hold is large."""


def rows_together(most: int, length: int, device: torch.device) -> int:
    """How many rows of so many tokens go through the network together where nobody said: `most`, on a CPU fewer."""
    if device.type != "cpu":
        return most
    return min(most, max(BLOCK_SIZE, CPU_TOKENS // length))


Gather = Callable[[Tensor], Tensor]
"""Concatenates a tensor over processes, along its first axis."""


@runtime_checkable
class Rows(Protocol):
    """Sequences to score: every token of the data set is in exactly one of them."""

    @property
    def num_evaluation_rows(self) -> int: ...

    def evaluation_rows(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(ids (n, L), lengths (n,)): rows are padded beyond their length."""
        ...


@runtime_checkable
class AnswerRows(Rows, Protocol):
    """Sequences of which only a part is scored, given the rest: all but the prompt that each begins with."""

    def num_prompt_tokens(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,): 0 for a row that is scored from its first token on."""
        ...


def prompts_of(rows: Rows, indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many tokens each row begins with that are not scored (n,)."""
    return rows.num_prompt_tokens(indices) if isinstance(rows, AnswerRows) else np.zeros(len(indices), np.int64)


def is_scored(rows: Rows, indices: NDArray[np.int64], lengths: NDArray[np.int64], width: int) -> NDArray[np.bool_]:
    """Which positions of rows are scored (n, width): neither padding nor prompt."""
    place = np.arange(width)[None, :]
    return (place < lengths[:, None]) & (place >= prompts_of(rows, indices)[:, None])


@dataclass(frozen=True)
class Drawn:
    """A batch of draws, on the CPU."""

    x0: Int[Tensor, "draws length"]
    lengths: Int[Tensor, " draws"]
    """Tokens of each row, its prompt among them."""
    prompts: Int[Tensor, " draws"]
    """Tokens of each row that are given."""
    num_masked: Int[Tensor, " draws"]
    """Of the others."""
    uniform: Float[Tensor, "draws length"]
    """A random number in [0, 1) for each position, which says which of them are masked."""

    @property
    def num_scored(self) -> Int[Tensor, " draws"]:
        return self.lengths - self.prompts

    @property
    def padded(self) -> Int[Tensor, " draws"] | None:
        """The lengths, where a row is shorter than the batch."""
        return self.lengths if bool((self.lengths < self.x0.shape[1]).any()) else None

    @property
    def scored(self) -> Bool[Tensor, "draws length"]:
        return scored_positions(self.lengths, self.x0.shape[1], self.prompts)


def alone(values: Tensor) -> Tensor:
    """The `gather` of a single process: there is nothing to bring together."""
    return values


@dataclass(frozen=True, kw_only=True)
class DrawSettings:
    """How many draws are taken, by which seed, and how the work is split.

    Only `num_draws` and `seed` change the result. Raises UserError for a number below the least one possible.
    """

    num_draws: int
    """Masked sequences to score; rounded up to whole blocks of BLOCK_SIZE."""
    batch_size: int = 64
    """Sequences in one call of the network; whole blocks at least."""
    seed: int = 0
    device: torch.device | str = "cpu"
    """Where the network is."""
    rank: int = 0
    """This process, of `num_ranks` that share the draws out."""
    num_ranks: int = 1
    gather: Gather = alone
    """Brings the processes' shares together."""
    on_progress: OnProgress | None = None
    """Hears how many of this process's parts are scored."""

    def __post_init__(self) -> None:
        for name, least in (("num_draws", 1), ("batch_size", 1), ("seed", 0), ("num_ranks", 1)):
            whole(f"`{name}=`", getattr(self, name), least)
        if not 0 <= self.rank < self.num_ranks:
            raise UserError(f"`rank={self.rank}`, expected 0 to {self.num_ranks - 1}, below `num_ranks`")

    @property
    def num_blocks(self) -> int:
        """Blocks of all processes together."""
        return -(-self.num_draws // BLOCK_SIZE)

    def check_enough(self) -> None:
        """Raises UserError for fewer than two blocks of draws: the standard error is between blocks."""
        if self.num_draws < 2 * BLOCK_SIZE:
            raise UserError(
                f"{self.num_draws} draws are too few for a standard error; ask for at least {2 * BLOCK_SIZE}: "
                f"`num_draws={2 * BLOCK_SIZE}`"
            )

    def report(self, done: int, total: int) -> None:
        """Tell `on_progress`, if there is one, how much is done."""
        if self.on_progress is not None:
            self.on_progress(min(done, total), total)


def score_draws(
    rows: Rows, score: Callable[[Drawn], Tensor], draws: DrawSettings
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Take the draws and score each: (columns (draws, k), num_masked, num_scored, block), of all processes, in order.

    `score` gives k columns for a batch, on any device. `num_scored`: tokens of each sequence that are not its prompt.
    """
    mine = list(range(draws.rank, draws.num_blocks, draws.num_ranks))
    blocks_per_call = max(1, draws.batch_size // BLOCK_SIZE)
    found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for start in range(0, len(mine), blocks_per_call):
        chosen = mine[start : start + blocks_per_call]
        parts = [_block(rows, block, draws.seed) for block in chosen]
        drawn = Drawn(*(torch.cat([getattr(part, name) for part in parts]) for name in Drawn.__dataclass_fields__))
        block = torch.tensor(chosen).repeat_interleave(BLOCK_SIZE)
        found.append((score(drawn).cpu(), drawn.num_masked, drawn.num_scored, block))
        draws.report(start + len(chosen), len(mine))
    empty = torch.zeros(0, dtype=torch.int64)
    # a process without a block of its own still takes part, with as many columns as the others
    all_found = [torch.cat(part) for part in zip(*found, strict=True)] or [empty.double(), empty, empty, empty]
    columns, num_masked, lengths, block = all_found
    flat = draws.gather(columns.flatten())
    num_masked, lengths, block = (draws.gather(part) for part in (num_masked, lengths, block))
    order = block.argsort(stable=True)
    return flat.view(len(block), -1)[order], num_masked[order], lengths[order], block[order]


def score_each(
    rows: Rows,
    score: Callable[[Tensor, Tensor, Tensor, list[int]], Tensor],
    draws: DrawSettings,
    *,
    by_length: bool = False,
) -> tuple[Float[Tensor, "sequences k"], Int[Tensor, " sequences"], Int[Tensor, " sequences"]]:
    """Score the sequences that score_draws takes for the same `draws`, each once: (columns, num_scored, row of the data
    set), of all processes, in the order in which they are first drawn.

    `score(x0, lengths, prompts, indices)` gives k columns for a batch of rows of the data set, on any device; `prompts`
    tokens of each row are not to be scored. `by_length`: a batch holds sequences of one length, without padding.
    """
    chosen = permutation(draws.seed, 0, rows.num_evaluation_rows)[: draws.num_blocks * BLOCK_SIZE]
    mine = np.arange(draws.rank, len(chosen), draws.num_ranks)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    done = 0
    for places in _batches(rows, chosen, mine, draws.batch_size, by_length=by_length):
        ids, row_lengths = rows.evaluation_rows(chosen[places])
        width = int(row_lengths.max()) if by_length else ids.shape[1]
        x0, lengths = torch.from_numpy(ids[:, :width]), torch.from_numpy(row_lengths)
        prompts = torch.from_numpy(prompts_of(rows, chosen[places]))
        device, indices = draws.device, chosen[places].tolist()
        columns = score(x0.to(device), lengths.to(device), prompts.to(device), indices)
        found.append((columns.cpu().double(), lengths - prompts, torch.from_numpy(places)))
        done += len(places)
        draws.report(done, len(mine))
    empty = torch.zeros(0, dtype=torch.int64)
    # a process without a sequence of its own still takes part, with as many columns as the others
    columns, lengths, places = [torch.cat(part) for part in zip(*found, strict=True)] or [empty.double(), empty, empty]
    flat = draws.gather(columns.flatten())
    lengths, places = draws.gather(lengths), draws.gather(places)
    order = places.argsort()
    return flat.view(len(places), -1)[order], lengths[order], torch.from_numpy(chosen)[places[order]]


def _batches(
    rows: Rows, chosen: NDArray[np.int64], mine: NDArray[np.int64], batch_size: int, *, by_length: bool
) -> Iterator[NDArray[np.int64]]:
    """Places among the chosen rows, batch by batch; `by_length`: those of the longest rows first, so that a batch that
    does not fit into memory is the first one."""
    groups = [mine]
    if by_length and len(mine):
        parts = np.array_split(mine, -(-len(mine) // 1024))  # only so many rows are read at once
        lengths = np.concatenate([rows.evaluation_rows(chosen[part])[1] for part in parts])
        groups = [mine[lengths == length] for length in np.unique(lengths)[::-1]]
    for group in groups:
        for start in range(0, len(group), batch_size):
            yield group[start : start + batch_size]


@lru_cache(maxsize=2)  # a block may span two epochs
def permutation(seed: int, epoch: int, num_rows: int) -> NDArray[np.int64]:
    """The order in which the sequences of a data set are drawn in one pass over it."""
    return np.random.default_rng((seed, epoch, num_rows)).permutation(num_rows)


def _block(rows: Rows, block: int, seed: int) -> Drawn:
    """One block: a function of (seed, block) and the data alone.

    Rows are taken in a random order without replacement, and again in another when all were used. The numbers masked
    are n_i = 1 + floor(L (u + i) / BLOCK_SIZE), spread evenly over 1..L, the tokens of a row that are scored, with one
    uniform u.
    """
    places = np.arange(block * BLOCK_SIZE, (block + 1) * BLOCK_SIZE)
    num_rows = rows.num_evaluation_rows
    indices = np.array([permutation(seed, int(d // num_rows), num_rows)[d % num_rows] for d in places])
    ids, row_lengths = rows.evaluation_rows(indices)
    x0, lengths = torch.from_numpy(ids), torch.from_numpy(row_lengths)
    prompts = torch.from_numpy(prompts_of(rows, indices))
    num_scored = lengths - prompts
    generator = torch.Generator().manual_seed(_mix(seed, block))
    u = torch.rand(1, generator=generator, dtype=torch.float64)
    stratum = (u + torch.arange(BLOCK_SIZE)) / BLOCK_SIZE  # in [0, 1)
    num_masked = 1 + (num_scored * stratum).long().clamp_max(num_scored - 1)
    return Drawn(x0, lengths, prompts, num_masked, torch.rand(x0.shape, generator=generator, dtype=torch.float32))


def _mix(seed: int, block: int) -> int:
    return int(np.random.SeedSequence((seed, block)).generate_state(1, np.uint64)[0] >> 1)
