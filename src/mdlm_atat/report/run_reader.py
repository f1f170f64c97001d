"""Read a run folder as it is. What is missing or cut off is named in `gaps`, and does not raise."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdlm_atat.config.yaml_text import read_yaml
from mdlm_atat.errors import UserError
from mdlm_atat.scoring.cost import TextCounts
from mdlm_atat.scoring.records import Evaluation
from mdlm_atat.small_files import read_object
from mdlm_atat.training.metrics import EVAL_NATS, Metrics, is_number, read_json_lines


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    path: Path
    config: dict[str, Any]
    """config.yaml: the resolved configuration, a mapping a section."""
    info: dict[str, Any]
    """run.json: command, versions, machine, data, parameters, unigram model."""
    training: Metrics
    """Rows of metrics.jsonl that hold a training loss."""
    evaluations: Metrics
    """Rows of metrics.jsonl that hold an evaluation."""
    counts: TextCounts
    """Of the validation text."""
    elapsed_s: float | None
    """Wall time at the last row of metrics.jsonl."""
    evals: dict[str, Evaluation]
    """evals/*.json by file name, the most telling first."""
    samples: list[dict[str, Any]]
    """Lines of samples.jsonl that hold a text, the latest step's first."""
    inspection: dict[str, Any]
    """inspection.json: importance and loss of some validation text; empty where there is none."""
    gaps: list[str]
    """What is missing or could not be read, a sentence each."""


def read_run(path: Path) -> RunFolder:
    """Read a run folder. Raises UserError if it is not there, or holds none of a run's files."""
    if not path.is_dir():
        raise UserError(f"{path} is not a folder; expected the folder of a run, the one that `atat train` prints")
    names = ("config.yaml", "run.json", "metrics.jsonl", "samples.jsonl", "evals")
    if not any((path / name).exists() for name in names):
        raise UserError(f"{path} is not a run folder: it holds none of {', '.join(names)}")
    gaps: list[str] = []
    config = _mapping(path / "config.yaml", gaps)
    info = _mapping(path / "run.json", gaps)
    metrics = Metrics.from_lines(_json_lines(path / "metrics.jsonl", gaps))
    data = info.get("data")
    evals = _evals(path / "evals", str(data.get("hash")) if isinstance(data, dict) else "", gaps)
    inspection = _mapping(path / "inspection.json", gaps) if _has_importance(path, config) else {}
    samples = [line for line in _json_lines(path / "samples.jsonl", gaps) if isinstance(line.get("text"), str)]
    return RunFolder(
        path=path,
        config=config,
        info=info,
        training=metrics.having("train/loss"),
        evaluations=metrics.having(EVAL_NATS),
        elapsed_s=metrics.last("elapsed_s"),
        counts=_counts(data if isinstance(data, dict) else {}),
        evals=evals,
        samples=sorted(samples, key=lambda sample: number_at(sample, "step") or 0.0, reverse=True),
        inspection=inspection,
        gaps=gaps,
    )


def _counts(data: Mapping[str, Any]) -> TextCounts:
    units = ("tokens", "words", "characters", "bytes", "unspaced", "changed")
    return TextCounts(*(int(number_at(data, f"valid_{unit}") or 0) for unit in units))


def _has_importance(path: Path, config: Mapping[str, Any]) -> bool:
    """Whether an inspection is stored, or would be at the end of training."""
    importance = config.get("importance")
    mode = importance.get("mode", "none") if isinstance(importance, dict) else "none"
    return mode != "none" or (path / "inspection.json").exists()


def number_at(mapping: Mapping[str, Any], key: str) -> float | None:
    """The number under `key`; None where there is none. True and False are not numbers here."""
    value = mapping.get(key)
    return float(value) if is_number(value) else None


def _mapping(path: Path, gaps: list[str]) -> dict[str, Any]:
    if not path.is_file():
        gaps.append(f"{path.name} is not there.")
        return {}
    try:
        return read_object(path) if path.suffix == ".json" else read_yaml(path.name, path)
    except (UserError, OSError):
        gaps.append(f"{path.name} could not be read: it is cut off or altered.")
        return {}


def _json_lines(path: Path, gaps: list[str]) -> list[dict[str, Any]]:
    if not path.is_file():
        gaps.append(f"{path.name} is not there.")
        return []
    try:
        found, num_broken = read_json_lines(path)
    except (UserError, OSError):
        gaps.append(f"{path.name} could not be read.")
        return []
    if num_broken:
        lines = "1 line was" if num_broken == 1 else f"{num_broken} lines were"
        gaps.append(f"{path.name}: {lines} cut off and left out.")
    return found


def _evals(folder: Path, data_hash: str, gaps: list[str]) -> dict[str, Evaluation]:
    """The stored evaluations, the most telling first: of the run's own data, then of validation text, then the latest,
    the most precise and the newest.

    data_hash is run.json's: the first 32 digits of the training split's hash, then of the validation split's.
    """
    found: dict[Path, Evaluation] = {}
    paths = sorted(folder.glob("*.json")) if folder.is_dir() else []
    for path in paths:
        try:
            found[path] = Evaluation.load(path)
        except (UserError, OSError):
            gaps.append(f"{path.name} could not be read: it is cut off or altered.")
    if not paths:
        gaps.append("evals/ holds no evaluation.")

    def rank(path: Path) -> tuple[bool, bool, int, int, float]:
        evaluation = found[path]
        return (
            (evaluation.text.corpus_hash or "none")[:32] in data_hash,
            (evaluation.text.split or "").startswith("valid"),
            evaluation.step or 0,
            evaluation.num_draws,
            path.stat().st_mtime,
        )

    return {path.name: found[path] for path in sorted(found, key=rank, reverse=True)}
