"""The seed that each text, and each block of a text, is drawn from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Literal, get_args

import numpy as np

from mdlm_atat.checks import one_of
from mdlm_atat.errors import UserError

SeedRule = Literal["hash", "add"]
"""How text i of a call gets its seed from the seed of the call; see text_seeds."""


def text_seeds(seed: int | Sequence[int], indices: Sequence[int], rule: SeedRule = "hash") -> list[int]:
    """The seeds of the texts with these indices (0, 1, ...) in everything that is drawn from `seed`.

    hash: mix_seed(seed, index), so that two different seeds have no text in common. add: seed + index, where the second
    text of seed 0 is the first of seed 1. A sequence of seeds is taken as it is, one for each index, so that a text can
    be drawn again from the seed that is recorded with it. Raises UserError for a sequence of another length, for a seed
    that is no whole number, and for an unknown rule.
    """
    if isinstance(seed, Iterable) and not isinstance(seed, str):
        seeds = [whole_seed(each) for each in seed]
        if len(seeds) != len(indices):
            raise UserError(f"`seed` has {len(seeds)} seeds, expected one for each of {len(indices)} texts")
        return seeds
    one_of("seed_rule", rule, get_args(SeedRule))
    first = whole_seed(seed)
    return [mix_seed(first, index) if rule == "hash" else first + index for index in indices]


def whole_seed(seed: object) -> int:
    """The seed as an int. Raises UserError for what is no whole number: 3.0 and "3" would be other seeds than 3."""
    if not isinstance(seed, Integral) or isinstance(seed, bool):
        raise UserError(f"`seed` is {seed!r}, expected a whole number, such as 0")
    return int(seed)


def mix_seed(seed: int, index: int) -> int:
    """The first 62 bits of SHA-256 of "SEED,INDEX": a seed in [0, 2^62) for every pair."""
    digest = hashlib.sha256(f"{whole_seed(seed)},{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 2


def context_seed(seed: int, context: str) -> int:
    """The first 62 bits of SHA-256 of "SEED,CONTEXT": the seed of all that is drawn for texts that follow a context. It
    depends on nothing else, so these have their random numbers in common, whatever is scored with them."""
    digest = hashlib.sha256(f"{whole_seed(seed)},{context}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") >> 2


def block_seed(seed: int, block: int) -> int:
    """The seed of a block within a text, from the text's."""
    return int(np.random.SeedSequence((abs(seed), int(seed < 0), block)).generate_state(1, np.uint64)[0] >> 1)
