"""Read the content of an experiment's results.json. What is missing is None or empty; nothing here raises for it."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from mdlm_atat.errors import UserError
from mdlm_atat.report.figure import CSS_NAMES, INK, LINE_COLOURS, LINE_MARKERS, MUTED
from mdlm_atat.report.run_reader import number_at
from mdlm_atat.report.wording import section
from mdlm_atat.scoring.records import Evaluation
from mdlm_atat.small_files import read_object

Role = Literal["baseline", "arm", "reference"]

HUGE = 1e12  # no nats, no tokens and no seconds: a run that diverged
DASHES = ("-", "--", "-.")


@dataclass(frozen=True, kw_only=True)
class Look:
    """How an arm is drawn, the same in every figure and table of the page."""

    colour: str
    marker: str
    dash: str

    @property
    def css_name(self) -> str:
        return CSS_NAMES[self.colour]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What results.json says of an arm, and how it is drawn."""

    name: str
    role: Role
    look: Look
    description: str
    differences: dict[str, Any]
    """Dotted configuration keys whose values are not the baseline's."""
    num_parameters: float | None
    flops_per_token: float | None


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A measured line: y at each x, with x ascending."""

    x: Float[np.ndarray, " points"]
    y: Float[np.ndarray, " points"]
    standard_error: Float[np.ndarray, " points"]
    """NaN where it is not known."""


@dataclass(frozen=True, kw_only=True)
class Band:
    """The mean over seeds, and the range from the lowest to the highest seed; two standard errors for a single seed."""

    x: Float[np.ndarray, " points"]
    mean: Float[np.ndarray, " points"]
    low: Float[np.ndarray, " points"]
    high: Float[np.ndarray, " points"]
    num_seeds: int


def arms_of(results: Mapping[str, Any]) -> list[Arm]:
    """Every arm: the baseline first, then the others in their order, and the reference arms last.

    Arms that only runs name are among them.
    """
    described = section(results, "arms")
    baseline = str(results.get("baseline") or "")
    references = _names(results.get("reference"))
    names = list(dict.fromkeys([*described, *(str(run.get("arm")) for run in runs_of(results))]))
    names.sort(key=lambda name: 0 if name == baseline else 2 if name in references else 1)  # stable
    arms, num_others, num_references = [], 0, 0
    for name in names:
        if name == baseline:
            role, look = "baseline", Look(colour=INK, marker="o", dash="-")
        elif name in references:
            dash = ("--", "-.", ":")[num_references % 3]
            role, look = "reference", Look(colour=MUTED, marker="*", dash=dash)
            num_references += 1
        else:
            role, look = "arm", _look(num_others)
            num_others += 1
        about = section(described, name)
        arms.append(
            Arm(
                name=name,
                role=role,
                look=look,
                description=str(about.get("description") or ""),
                differences=section(about, "config_differences"),
                num_parameters=number_at(about, "num_parameters"),
                flops_per_token=number_at(about, "flops_per_token"),
            )
        )
    return arms


def runs_of(
    results: Mapping[str, Any], *, corpus: str | None = None, arm: str | None = None, key: str = "runs"
) -> list[dict[str, Any]]:
    """The runs at the full budget in the order of the file, of one corpus or arm if one is named."""
    runs = results.get(key)
    return [
        run
        for run in (runs if isinstance(runs, list) else [])
        if isinstance(run, dict)
        and (corpus is None or corpus_of(run) == corpus)
        and (arm is None or str(run.get("arm")) == arm)
    ]


def all_runs(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All runs: those at the full budget, then those that ended at a share of it."""
    return [*runs_of(results), *runs_of(results, key="branch_runs")]


def corpora_of(results: Mapping[str, Any]) -> list[str]:
    """The names of the corpora."""
    return list(dict.fromkeys([*map(corpus_of, runs_of(results)), *section(results, "derived")]))


def corpus_of(run: Mapping[str, Any]) -> str:
    """The name of a run's corpus; empty where there is only one corpus, without a name."""
    return str(run.get("corpus") or "")


def name_of(run: Mapping[str, Any]) -> str:
    return f"{run.get('arm')}, seed {run.get('seed')}"


def branches_of(results: Mapping[str, Any], corpus: str, arm: str) -> list[list[dict[str, Any]]]:
    """An arm's finished runs that ended at a share of the budget: a list of seeds for each share."""
    by_share: dict[str, list[dict[str, Any]]] = {}
    for run in runs_of(results, corpus=corpus, key="branch_runs"):
        if str(run.get("branch_of")) == arm and is_done(run):
            by_share.setdefault(str(run.get("share")), []).append(run)
    return list(by_share.values())


def is_done(run: Mapping[str, Any]) -> bool:
    return run.get("status") == "done"


def curve_of(record: Mapping[str, Any], *, x: str, y: str, error: str = "standard_error") -> Curve | None:
    """Two stored columns of equal length as a curve. Points that are not finite, or beyond HUGE, are left out.

    Returns None if no point is left.
    """
    columns = [_numbers(record.get(name)) for name in (x, y, error)]
    across, values, errors = columns
    if len(across) != len(values):
        return None
    if len(errors) != len(values):
        errors = np.full(len(values), math.nan)
    kept = (np.abs(across) < HUGE) & (np.abs(values) < HUGE)  # neither NaN nor infinite
    errors = np.where(np.abs(errors) < HUGE, errors, math.nan)
    across, index = np.unique(across[kept], return_index=True)
    if not len(across):
        return None
    return Curve(x=across, y=values[kept][index], standard_error=errors[kept][index])


def over_seeds(curves: Iterable[Curve | None]) -> Band | None:
    """The band of some seeds' curves, over the range of x that all of them have.

    Between its points a curve is straight. Returns None where there is no curve, or no such range.
    """
    known = [curve for curve in curves if curve is not None]
    if not known:
        return None
    if len(known) == 1:
        (curve,) = known
        two = 2 * np.nan_to_num(curve.standard_error)
        return Band(x=curve.x, mean=curve.y, low=curve.y - two, high=curve.y + two, num_seeds=1)
    first, last = max(curve.x[0] for curve in known), min(curve.x[-1] for curve in known)
    x = np.unique(np.concatenate([curve.x for curve in known]))
    x = x[(x >= first) & (x <= last)]
    if not len(x):
        return None
    y = np.stack([np.interp(x, curve.x, curve.y) for curve in known])
    return Band(x=x, mean=y.mean(0), low=y.min(0), high=y.max(0), num_seeds=len(known))


def minus_baseline(mine: Curve | None, baseline: Curve | None) -> Curve | None:
    """mine - baseline at the x that both have, with the error of two independent numbers.

    Returns None where there is no such x.
    """
    if mine is None or baseline is None:
        return None
    x, of_mine, of_other = np.intersect1d(mine.x, baseline.x, return_indices=True)
    if not len(x):
        return None
    error = np.hypot(mine.standard_error[of_mine], baseline.standard_error[of_other])
    return Curve(x=x, y=mine.y[of_mine] - baseline.y[of_other], standard_error=error)


def final_of(run: Mapping[str, Any]) -> Evaluation | None:
    """A run's final evaluation; None where it holds none, or one that cannot be read."""
    try:
        return Evaluation.from_json(run.get("final"))
    except UserError:
        return None


def is_exact(run: Mapping[str, Any]) -> bool:
    """Whether the run's final value is an exact likelihood, not a bound."""
    final = final_of(run)
    return final is not None and not final.is_bound


def profile_curve(run: Mapping[str, Any]) -> Curve | None:
    """The cost of a masked token by mask rate, in a run's final evaluation."""
    final = final_of(run)
    if final is None or final.profile is None:
        return None
    return curve_of(asdict(final.profile), x="mask_rate", y="nats_per_masked_token")


def decile_curve(run: Mapping[str, Any]) -> Curve | None:
    """The bound by tenths of the text, in a run's final evaluation; tenth 1 holds the rarest tokens."""
    final = final_of(run)
    if final is None or final.deciles is None:
        return None
    numbered = {**asdict(final.deciles), "decile": range(1, len(final.deciles.nats_per_token) + 1)}
    return curve_of(numbered, x="decile", y="nats_per_token")


def decile_difference(run: Mapping[str, Any], baseline: Mapping[str, Any]) -> Curve | None:
    """run - baseline by tenths of the text. Where both stored their draws it is paired by them, which leaves a fraction
    of the error."""
    plain = minus_baseline(decile_curve(run), decile_curve(baseline))
    a, b = final_of(run), final_of(baseline)
    if plain is None or a is None or b is None:
        return plain
    from mdlm_atat.scoring.paired import paired_deciles  # imports torch

    try:
        pairs = paired_deciles(a, b)
    except UserError:  # no sums by block, other draws, or other deciles
        return plain
    if len(pairs) != len(plain.x):
        return plain
    error = np.array([pair.standard_error for pair in pairs])
    return Curve(x=plain.x, y=np.array([pair.nats_per_token for pair in pairs]), standard_error=error)


def load_beside(folder: Path, run: Mapping[str, Any], key: str) -> dict[str, Any] | None:
    """The content of the JSON file that a run names under `key`, by its path from the experiment's folder or the run's.

    Returns None if the run names no file. Raises ValueError, with a sentence, if the file cannot be read.
    """
    named = run.get(key)
    if not isinstance(named, str) or not named:
        return None
    paths = [folder / named, folder / str(run.get("folder") or "") / named]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise ValueError(f"{named} is not there.")
    try:
        return read_object(path)
    except UserError:
        raise ValueError(f"{named} could not be read: it is cut off or altered.") from None


def interval_at(mapping: Mapping[str, Any], key: str) -> tuple[float, float] | None:
    """(low, high) under `key`; None unless both are there and finite."""
    ends = _numbers(mapping.get(key))
    return (float(ends[0]), float(ends[1])) if len(ends) == 2 and np.isfinite(ends).all() else None


def _look(index: int) -> Look:
    dash = DASHES[index // len(LINE_COLOURS) % len(DASHES)]
    return Look(
        colour=LINE_COLOURS[index % len(LINE_COLOURS)], marker=LINE_MARKERS[index % len(LINE_MARKERS)], dash=dash
    )


def _names(value: object) -> list[str]:
    return [str(name) for name in value] if isinstance(value, Sequence) and not isinstance(value, str) else []


def _numbers(value: object) -> Float[np.ndarray, " points"]:
    """A stored column as an array, with NaN for what is no number."""
    items = value if isinstance(value, list | tuple | range) else []
    return np.array([item if isinstance(item, int | float) else math.nan for item in items], dtype=np.float64)
