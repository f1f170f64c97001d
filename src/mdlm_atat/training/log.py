"""Where a run's numbers are written: metrics.jsonl always, TensorBoard and Weights & Biases if asked for, and a
progress line for people."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rich.console import Console

from mdlm_atat.atomic import write_text
from mdlm_atat.errors import UserError
from mdlm_atat.formats import count, with_error
from mdlm_atat.progress import Bar


@runtime_checkable
class Writer(Protocol):
    """Takes what is logged of each step, by the names of metrics.jsonl."""

    def write(self, step: int, values: dict[str, float]) -> None: ...
    def close(self) -> None: ...


class JsonLines:
    """metrics.jsonl: one JSON object a line, `step` first. A run that is resumed at `resume_step` drops later lines."""

    def __init__(self, file: Path, resume_step: int) -> None:
        if file.exists():
            text = file.read_text(encoding="utf-8", errors="replace")
            kept = [line for line in text.split("\n") if _step_of(line) <= resume_step]
            write_text(file, "".join(line + "\n" for line in kept))
        self._stream = file.open("a", encoding="utf-8")

    def write(self, step: int, values: dict[str, float]) -> None:
        self._stream.write(json.dumps({"step": step, **values}) + "\n")
        self._stream.flush()

    def close(self) -> None:
        self._stream.close()


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return float("inf")  # the half-written last line of a killed process, or what is no line of ours


def check_installed(loggers: Sequence[str]) -> None:
    """Raise UserError, with the command that installs it, for a logger that is not installed."""
    for logger in loggers:
        if find_spec(logger) is None:
            raise UserError(f"the logger {logger} is not installed; run: pip install 'mdlm-atat[{logger}]'")


class TensorBoard:
    def __init__(self, folder: Path, resume_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=resume_step + 1 if resume_step else None)

    def write(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """Weights & Biases, offline where WANDB_MODE=offline. A resumed run goes on under the same id, which is made from
    the path of its folder, since an experiment has many runs called seed-0."""

    def __init__(self, run: Path, config: dict[str, Any]) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        folder, path = run / "wandb", run.resolve()
        folder.mkdir(exist_ok=True)
        self._run = wandb.init(
            project="mdlm-atat",
            name="/".join(path.parts[-2:]),
            id=f"{path.name}-{hashlib.sha256(str(path).encode()).hexdigest()[:12]}",
            dir=str(folder),
            config=config,
            resume="allow",
        )

    def write(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def close(self) -> None:
        self._run.finish()


def open_writers(run: Path, loggers: Sequence[str], resume_step: int, config: dict[str, Any]) -> list[Writer]:
    """Open metrics.jsonl and the loggers that are named; each of them is given the same names and values."""
    writers: list[Writer] = [JsonLines(run / "metrics.jsonl", resume_step)]
    for logger in loggers:
        match logger:
            case "tensorboard":
                writers.append(TensorBoard(run / "tensorboard", resume_step))
            case "wandb":
                writers.append(WeightsAndBiases(run, config))
            case _:
                raise ValueError(f"unknown logger {logger}")
    return writers


class ProgressLine:
    """Loss, speed and time left of a run, on `console`."""

    def __init__(self, console: Console, num_steps: int, start_step: int) -> None:
        self._num_steps = num_steps
        self._bar = Bar("step", total=num_steps, done=start_step, console=console)

    def update(self, step: int, loss: float, tokens_per_s: float, utilisation: float | None = None) -> None:
        """Show a step. `utilisation`: the share of the machine's rate that the model's own operations reach; None: not
        known."""
        text = f"loss {with_error(loss, decimals=3)} nats/token · {count(tokens_per_s)} tokens/s"
        if utilisation is not None:
            text += f" · {utilisation:.0%} of the GPU's bf16 rate"
        self._bar.update(step, text, at_once=step == self._num_steps)

    def say(self, text: str) -> None:
        """Print a line that stays, above the bar."""
        self._bar.say(text)

    def close(self) -> None:
        self._bar.close()
