"""A grid: arms x corpora x seeds under one budget, with every setting that each arm changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

from mdlm_atat.config.effect import without_effect
from mdlm_atat.config.files import apply_settings, load_config
from mdlm_atat.config.schema import RunConfig
from mdlm_atat.errors import UserError

Unit = Literal["steps", "tokens", "flops", "gpu_seconds"]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What each run may cost."""

    unit: Unit
    amount: float


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way of training: `atat train BASE --method METHOD` with settings changed."""

    name: str
    base: str
    method: str | None
    overrides: Mapping[str, Any]
    """By dotted path; over the method, the grid's own overrides and the corpus."""
    description: str


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A text that every arm is trained on."""

    name: str
    overrides: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class SamplerBench:
    """A comparison of samplers on the first seed of some arms, by `atat samplers bench`."""

    arms: tuple[str, ...]
    samplers: tuple[str, ...]
    """Empty: all that fit the model."""
    steps: tuple[int, ...]
    num_texts: int
    judge: str | None
    """A causal arm, whose run of the same corpus reads the texts."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What is compared with what, on which texts, with which seeds and under which budget."""

    name: str
    description: str
    overrides: Mapping[str, Any]
    """Settings of every arm."""
    arms: tuple[Arm, ...]
    baseline: str
    """The arm that the others are compared with."""
    reference: tuple[str, ...]
    """Arms that stand beside the comparison: no steps to the baseline."""
    seeds: tuple[int, ...]
    corpora: tuple[Corpus, ...]
    """None named: one, whose name is empty."""
    budget: Budget
    branches: tuple[float, ...]
    """Shares of the budget at which the arms that are compared with the baseline are also trained to their end, the
    learning rate decayed: 1.0 is the run itself."""
    calibrate: bool
    """Time each arm alone before the runs, so that seconds mean something where runs share a device."""
    seconds_per_step: Mapping[str, float]
    """By arm, as measured before: such an arm is not timed, and its steps are the same in every folder."""
    bench: SamplerBench | None

    def arm(self, name: str) -> Arm:
        return next(arm for arm in self.arms if arm.name == name)

    def settings(self, arm: Arm, corpus: Corpus) -> dict[str, Any]:
        """Every setting that the grid changes in the arm's base and method.

        The arm's own win over the corpus's, and those over the grid's.
        """
        return {**self.overrides, **corpus.overrides, **arm.overrides}

    def config(self, arm: Arm, corpus: Corpus) -> RunConfig:
        """The configuration of an arm, but for its steps and its seed. Raises UserError with every mistake in it."""
        config, mistakes = apply_settings(base_config(arm.base, arm.method), self.settings(arm, corpus))
        if config is None:
            raise UserError("\n  ".join(f"{path}: {what}" if path else what for path, what in mistakes))
        return config

    def without_effect(self) -> list[str]:
        """What is to be said of the settings that have no effect in any of the arms that they are named for: a line
        each, with what they need. One of all arms that has an effect in a few is no slip."""
        lines: list[str] = []
        for corpus in self.corpora:
            said: dict[str, list[str | None]] = {}
            for arm in self.arms:
                named = self.settings(arm, corpus)
                idle = without_effect(self.config(arm, corpus), named)
                for path in named:
                    said.setdefault(path, []).append(idle.get(path))
            lines += [of_arms[0] for of_arms in said.values() if of_arms[0] and all(of_arms)]
        return list(dict.fromkeys(lines))


@cache
def base_config(base: str, method: str | None) -> RunConfig:
    """The settings that an arm starts from."""
    return load_config(base, method)


def merge(stored: Grid, new: Grid) -> Grid:
    """The grid of a folder in which `new` is run after `stored`, with the arms, corpora, seeds and branches of both.

    So a call that asks for fewer seeds forgets none. Raises UserError where name, baseline or budget differ.
    """
    for name in ("name", "baseline", "budget"):
        if getattr(stored, name) != getattr(new, name):
            raise UserError(
                f"the folder holds an experiment whose {name} is {_words(getattr(stored, name))}, and it is "
                f"{_words(getattr(new, name))} now; choose another `out=`"
            )
    arms = {arm.name: arm for arm in (*stored.arms, *new.arms)}
    corpora = {corpus.name: corpus for corpus in (*stored.corpora, *new.corpora)}
    if "" in corpora and len(corpora) > 1:
        raise UserError("the folder holds an experiment whose corpora are named otherwise; choose another `out=`")
    return replace(
        new,
        arms=tuple(arms.values()),
        corpora=tuple(corpora.values()),
        reference=tuple(dict.fromkeys((*stored.reference, *new.reference))),
        seeds=tuple(dict.fromkeys((*stored.seeds, *new.seeds))),
        branches=tuple(sorted({*stored.branches, *new.branches})),
        seconds_per_step={**stored.seconds_per_step, **new.seconds_per_step},
        bench=stored.bench or new.bench,
    )


def _words(value: Any) -> str:
    return f"{value.amount:g} {value.unit}" if isinstance(value, Budget) else repr(value)


def grid_tree(grid: Grid) -> dict[str, Any]:
    """The grid as a YAML file would hold it. `load_grid` of that file gives the same grid."""
    amount = grid.budget.amount
    named = grid.corpora[0].name != ""
    return {
        "name": grid.name,
        "description": grid.description,
        "overrides": dict(grid.overrides),
        "arms": {
            arm.name: {
                "description": arm.description,
                "base": arm.base,
                "method": arm.method,
                "overrides": dict(arm.overrides),
            }
            for arm in grid.arms
        },
        "baseline": grid.baseline,
        "reference": list(grid.reference),
        "seeds": list(grid.seeds),
        "data": {corpus.name: dict(corpus.overrides) for corpus in grid.corpora}
        if named
        else dict(grid.corpora[0].overrides),
        "budget": {grid.budget.unit: int(amount) if amount == int(amount) else amount},
        "branches": list(grid.branches),
        "calibrate": grid.calibrate,
        "seconds_per_step": dict(grid.seconds_per_step),
        "samplers": None
        if grid.bench is None
        else {
            "arms": list(grid.bench.arms),
            "samplers": list(grid.bench.samplers),
            "steps": list(grid.bench.steps),
            "num_texts": grid.bench.num_texts,
            "judge": grid.bench.judge,
        },
    }
