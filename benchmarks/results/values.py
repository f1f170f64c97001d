"""Numbers in sentences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.results.markdown import less, nats, perplexity
from benchmarks.results.novels import novels
from benchmarks.results.stored import difference_of, mean_of, stored

from mdlm_atat.scoring.statistics import Mean


def arm_nats(arm: str, column: str, num_steps: str = "1500") -> str:
    """The mean over seeds and its error, nats per token."""
    return nats(_mean(arm, column, num_steps))


def arm_perplexity(arm: str, column: str, num_steps: str = "1500") -> str:
    return perplexity(_mean(arm, column, num_steps))


def difference(arm: str, against: str, column: str, num_steps: str = "1500") -> str:
    """arm - against in nats, paired by seed, without its sign."""
    found = _difference(arm, against, column, num_steps)
    return nats(Mean(abs(found.value), found.standard_error, None, found.num))


def change(arm: str, against: str, column: str, num_steps: str = "1500") -> str:
    """By how much lower or higher the perplexity of arm is, per cent without a sign."""
    return less(_difference(arm, against, column, num_steps)).lstrip("+-")


def seeds(arm: str, num_steps: str = "1500") -> str:
    """How many there are, in figures."""
    return str(len(novels(int(num_steps))[arm]))


def passes(num_steps: str) -> str:
    """How often the novels are read in so many steps."""
    text = stored("corpora.json")["novels"]
    return f"{int(num_steps) * text['tokens_per_step'] / text['train_tokens']:.1f}"


def at(file: str, path: str, form: str = "", factor: str = "1") -> str:
    """The number at a path of a file, such as `runs/0/final/standard_error`, as Python's format() writes it."""
    found: Any = stored(file)
    for part in path.split("/"):
        found = found[int(part)] if isinstance(found, list) else found[part]
    return format(found * float(factor) if factor != "1" else found, form)


def said(section: str, name: str) -> str:
    """A number as it was published, of a measurement of which nothing else was stored."""
    return stored("log.json")["said"][section][name]


def _mean(arm: str, column: str, num_steps: str) -> Mean:
    found = mean_of(novels(int(num_steps))[arm], column)
    if found is None:
        raise KeyError(f"{arm} has no {column}")
    return found


def _difference(arm: str, against: str, column: str, num_steps: str) -> Mean:
    arms = novels(int(num_steps))
    found = difference_of(arms[arm], arms[against], column)
    if found is None:
        raise KeyError(f"{arm} and {against} have no seed in common with {column}")
    return found


VALUES: Mapping[str, Callable[..., str]] = {
    "at": at,
    "change": change,
    "difference": difference,
    "nats": arm_nats,
    "passes": passes,
    "perplexity": arm_perplexity,
    "said": said,
    "seeds": seeds,
}
