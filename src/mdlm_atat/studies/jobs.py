"""The runs of a grid: which there are, where each is stored, how long it is and how it is started."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from mdlm_atat.config.files import flags_of
from mdlm_atat.config.schema import RunConfig
from mdlm_atat.studies.grid import Arm, Budget, Corpus, Grid


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What all seeds of an arm on a corpus have in common."""

    arm: Arm
    corpus: Corpus
    settings: Mapping[str, Any]
    """What the grid changes in the arm's base and method."""
    config: RunConfig
    """Before its steps and its seed are known."""

    @property
    def key(self) -> str:
        """The variant's name in plan.json: ARM, or ARM/CORPUS where corpora have names."""
        return f"{self.arm.name}/{self.corpus.name}" if self.corpus.name else self.arm.name


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training run."""

    variant: Variant
    share: float
    """Of the budget: below 1 for a branch."""
    seed: int

    @property
    def arm(self) -> str:
        """The arm's name, `mdlm`, with the share of the budget for a branch, `mdlm@0.5`."""
        name = self.variant.arm.name
        return name if self.share == 1 else f"{name}@{self.share:g}"

    @property
    def corpus(self) -> str:
        return self.variant.corpus.name

    @property
    def name(self) -> str:
        """The run's name, and that of its log and its lock: ARM-CORPUS-seed-N."""
        return "-".join(part for part in (self.arm, self.corpus, f"seed-{self.seed}") if part)

    @property
    def folder(self) -> Path:
        """The run's folder, within the experiment's."""
        return Path("runs", *(part for part in (self.arm, self.corpus) if part), f"seed-{self.seed}")


def variants_of(grid: Grid) -> list[Variant]:
    """Every arm on every corpus."""
    return [
        Variant(arm=arm, corpus=corpus, settings=grid.settings(arm, corpus), config=grid.config(arm, corpus))
        for corpus in grid.corpora
        for arm in grid.arms
    ]


def jobs_of(grid: Grid) -> list[Job]:
    """Every run of a grid, in the order in which they are started.

    They go seed by seed, with the short ones first, so that all arms can be compared early.
    """
    variants = variants_of(grid)
    return [
        Job(variant=variant, share=share, seed=seed)
        for seed in grid.seeds
        for share in grid.branches
        for variant in variants
        if share == 1 or variant.arm.name not in (grid.baseline, *grid.reference)
    ]


def tokens_per_step(config: RunConfig) -> int:
    """Tokens of one training step as a budget counts them, with padding where rows are padded."""
    return config.train.batch_size * config.data.length


def budget_steps(
    budget: Budget, config: RunConfig, *, flops_per_token: float | None, seconds_per_step: float | None
) -> int:
    """The number of optimizer steps that a budget pays for.

    For tokens and FLOPs that is rounded up, for GPU-seconds rounded down.
    """
    match budget.unit:
        case "steps":
            return int(budget.amount)
        case "tokens":
            return math.ceil(budget.amount / tokens_per_step(config))
        case "flops":
            assert flops_per_token is not None
            return math.ceil(budget.amount / (flops_per_token * tokens_per_step(config)))
        case "gpu_seconds":
            assert seconds_per_step is not None
            return max(1, math.floor(budget.amount / seconds_per_step))


def run_config(job: Job, num_steps: int) -> RunConfig:
    """The whole configuration of a run."""
    base = job.variant.config
    return replace(base, train=replace(base.train, num_steps=num_steps, seed=job.seed))


def job_steps(job: Job, planned_steps: int) -> int:
    """The steps of a run whose variant has `planned_steps` at the full budget."""
    return max(1, round(job.share * planned_steps))


def train_words(variant: Variant, settings: Mapping[str, Any], out: Path) -> list[str]:
    """The words that follow `atat` in the command that trains an arm in the folder `out`.

    `settings` go over those of the grid.
    """
    arm = variant.arm
    method = [] if arm.method is None else ["--method", arm.method]
    return ["train", arm.base, *method, *flags_of({**variant.settings, **settings}), "--out", str(out)]


def flat_settings(config: RunConfig) -> dict[str, Any]:
    """Every setting by its dotted path, in values that JSON has."""
    flat = {
        f"{section.name}.{setting.name}": getattr(getattr(config, section.name), setting.name)
        for section in fields(RunConfig)
        for setting in fields(getattr(config, section.name))
    }
    return {path: list(value) if isinstance(value, tuple) else value for path, value in flat.items()}


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """(before, after) of every setting that differs, by dotted path.

    Two paths of the same file do not differ.
    """
    return {
        path: (before.get(path), after.get(path))
        for path in dict.fromkeys([*before, *after])
        if before.get(path) != after.get(path) and not _same_place(before.get(path), after.get(path))
    }


def arm_differences(grid: Grid, arm: Arm) -> dict[str, tuple[Any, Any]]:
    """(the baseline's value, the arm's) of every setting in which an arm differs from the baseline on the first
    corpus."""
    base, own = (grid.config(one, grid.corpora[0]) for one in (grid.arm(grid.baseline), arm))
    changed = differences(flat_settings(base), flat_settings(own))
    if own.model.kind == "causal":  # which reads all rows left to right, and nothing of the objective's settings
        changed = {path: pair for path, pair in changed.items() if not path.startswith("objective.")}
    return changed


def _same_place(one: Any, other: Any) -> bool:
    return isinstance(one, str) and isinstance(other, str) and Path(one).resolve() == Path(other).resolve()
