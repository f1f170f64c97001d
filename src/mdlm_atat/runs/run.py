"""A training run, as it lies in its folder: settings, model, metrics, evaluations, report."""

from __future__ import annotations

import html
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mdlm_atat.config.files import load_config
from mdlm_atat.config.schema import RunConfig
from mdlm_atat.errors import UserError
from mdlm_atat.formats import with_error
from mdlm_atat.lm import CausalLM, MaskedDiffusionLM, load_lm
from mdlm_atat.scoring.records import Evaluation
from mdlm_atat.training.folder import read_start
from mdlm_atat.training.metrics import EVAL_NATS, read_metrics


@dataclass(frozen=True)
class Run:
    """A run's folder, opened: `Run("runs/mine")`, or what `train` returns.

    It can be given wherever a path is: `evaluate(run)`, `finetune(run, ...)`, `train(init=run)`. Raises UserError for a
    folder that holds no run.
    """

    folder: Path
    trust_plugins: bool = field(default=False, kw_only=True)
    """Import the plugins that the folder names, which runs their code."""
    stopped: str | None = field(default=None, kw_only=True)
    """Why `train` returned before the last step ("Ctrl-C", "5 minutes are over", ...); None: it got there."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))
        if not (self.folder / "config.yaml").is_file():
            raise UserError(f"{self.folder} is no run folder: it holds no config.yaml")

    @cached_property
    def config(self) -> RunConfig:
        """The run's settings."""
        return load_config(str(self.folder))

    @cached_property
    def model(self) -> MaskedDiffusionLM | CausalLM:
        """The trained model: averaged weights of the newest checkpoint that is sound, on a GPU if there is one."""
        return load_lm(self.folder, trust_plugins=self.trust_plugins)

    @property
    def record(self) -> dict[str, Any]:
        """run.json: how the run was started, on what text and machine, and the floor to beat."""
        return read_start(self.folder)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """What was measured, a row a step: `pandas.DataFrame(run.metrics)`. `train/loss` is in nats per token;
        `eval/...` stand in the rows of steps that were evaluated."""
        return read_metrics(self.folder).rows

    @property
    def evaluations(self) -> list[Evaluation]:
        """The stored evaluations of the run's checkpoints, oldest first."""
        files = sorted((self.folder / "evals").glob("*.json"), key=lambda file: file.stat().st_mtime)
        return [Evaluation.load(file) for file in files]

    @property
    def report(self) -> Path:
        """The run's page, written when it ended."""
        return self.folder / "report.html"

    @property
    def num_steps_taken(self) -> int:
        """Steps of the newest line of metrics.jsonl; 0 before the first."""
        rows = self.metrics
        return int(rows[-1]["step"]) if rows else 0

    def __fspath__(self) -> str:
        return os.fspath(self.folder)

    def __repr__(self) -> str:
        left = f", stopped by {self.stopped}" if self.stopped else ""
        rows = [row for row in self.metrics if EVAL_NATS in row]
        bound = f", {with_error(rows[-1][EVAL_NATS])} nats per token" if rows else ""
        return f"Run({str(self.folder)!r}: step {self.num_steps_taken} of {self.config.train.num_steps}{bound}{left})"

    def _repr_html_(self) -> str:
        link = f' <a href="{html.escape(str(self.report))}">report</a>' if self.report.exists() else ""
        return f"<code>{html.escape(repr(self))}</code>{link}"
