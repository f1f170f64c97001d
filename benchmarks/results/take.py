"""results.json of an experiment as docs/results keeps it: small, without this machine's paths, added to what is there.

Left out are settings, samples, sums over blocks of draws and over sequences, every other list of more than MOST_ENTRIES
entries, what follows from the runs (the tables work it out anew), and runs that are not done. Numbers have DIGITS
digits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from benchmarks.results.stored import FOLDER

from mdlm_atat.atomic import write_text
from mdlm_atat.errors import UserError
from mdlm_atat.small_files import read_object
from mdlm_atat.studies.caveats import sharing_a_device
from mdlm_atat.studies.results import read_results
from mdlm_atat.studies.run_record import MOST_BYTES

MOST_ENTRIES = 60
DIGITS = 7
OF_THE_WHOLE = ("format", "name", "description", "baseline", "reference", "budget", "arms", "code_version", "commit")
OF_A_RUN = (
    *("arm", "branch_of", "share", "corpus", "seed", "status", "data", "machine", "commit", "code_version"),
    *("num_parameters", "num_steps", "num_tokens", "train_flops", "train_seconds", "seconds_per_step"),
    *("peak_memory_bytes", "calibration", "final", "best", "curve"),
)
NOWHERE = ("blocks", "sequences", "host", "file")
"""Left out wherever they are."""
SAME = ("name", "baseline", "budget")
"""What a file's runs have in common."""
PATH = re.compile(r"/(?:[^/\n]+/)*[^/\n]+")


def take(folder: Path, file: Path, *, machine: str, command: str | None = None) -> list[str]:
    """Write the finished runs of the experiment in `folder` into `file`, and return lines that say what was done.

    Runs that are in the file and not in the folder stay, so that an experiment may be run in pieces, each in a folder
    of its own; a run that both have is the folder's, unless that only has it from `--done`. Raises UserError where
    there is no experiment, none of its runs is done, or the file holds another one: of another name, budget, baseline
    or text, or an arm with other settings.
    """
    results = read_results(folder)
    if results is None:
        raise UserError(f"{folder} holds no results.json; `atat experiment run` and `atat experiment report` write it")
    before = read_object(file, most_bytes=MOST_BYTES) if file.exists() else None
    if before is not None:
        results = _without_copies(results, before)
    content = trimmed(results)
    if not content["runs"]:
        raise UserError(f"none of the runs of {folder} is done yet; go on with atat experiment run {folder}")
    if before is not None:
        content = _together(before, content, file)
    content |= {"command": command or _command(content), "machine": machine, "date": results["created"][:10]}
    write_text(file, json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n")
    old = {_key(run) for run in _runs(before or {})}
    new = [run for run in _runs(content) if _key(run) not in old]
    return [
        f"{file}: {len(_runs(content))} runs of {', '.join(content['arms'])}, {len(new)} of them new",
        "next: make results",
    ]


def _without_copies(results: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """The results without the runs that are there by `--done` alone, and in the file too."""
    held = {_of_text(run) for run in _runs(before)}
    parts = {
        part: [run for run in results[part] if not (run.get("elsewhere") and _of_text(run) in held)]
        for part in ("runs", "branch_runs")
    }
    return {**results, **parts}


def _of_text(run: Mapping[str, Any]) -> tuple[str, str, int]:
    return run["data"]["hash"], run["arm"], run["seed"]


def trimmed(results: Mapping[str, Any]) -> dict[str, Any]:
    """The content of results.json without what no table reads."""
    content = {name: results[name] for name in OF_THE_WHOLE}
    for part in ("runs", "branch_runs"):
        runs = results[part]
        shared = sharing_a_device(runs) | {index for index, run in enumerate(runs) if run.get("shared_card")}
        kept = [_run(run, index in shared) for index, run in enumerate(runs) if run["final"] is not None]
        if kept or part == "runs":
            content[part] = kept
    return _small(content)


def _run(run: Mapping[str, Any], is_shared: bool) -> dict[str, Any]:
    """Seconds of a run that shared its card are not its own, unless a step of it was timed alone."""
    kept = {name: run[name] for name in OF_A_RUN if run[name] is not None}
    if kept.get("share") == 1:
        del kept["share"]
    best = run["best"]
    if best is not None and best["step"] == run["num_steps"]:
        kept["best"] = {**best, "final": None}  # that is the run's own
    return {**kept, "shared_card": True} if is_shared and run["calibration"] is None else kept


def _small(content: Any) -> Any:
    match content:
        case dict():
            return {
                name: _small(value)
                for name, value in content.items()
                if name not in NOWHERE and not (isinstance(value, list) and len(value) > MOST_ENTRIES)
            }
        case list():
            return [_small(value) for value in content]
        case float():
            return float(f"{content:.{DIGITS}g}")
        case str() if PATH.fullmatch(content):
            path = PurePosixPath(content)
            return "/".join(path.parts[-2:]) if path.suffix else path.name
        case _:
            return content


def _together(before: Mapping[str, Any], new: dict[str, Any], file: Path) -> dict[str, Any]:
    """The runs of both, ordered as those of one experiment."""
    for name in SAME:
        if before[name] != new[name]:
            raise UserError(
                f"{file} holds an experiment whose {name} is {before[name]!r}, and this one's is {new[name]!r}"
            )
    for arm in before["arms"].keys() & new["arms"].keys():
        old, now = (content["arms"][arm]["config_differences"] for content in (before, new))
        if old != now:
            raise UserError(f"{file} holds another {arm}: it differs from the baseline by {old}, and this one by {now}")
    hashes = {run["corpus"]: run["data"]["hash"] for run in _runs(before)}
    for run in _runs(new):
        if run["data"]["hash"] != hashes.get(run["corpus"], run["data"]["hash"]):
            raise UserError(f"{file} holds runs on another text that is called {run['corpus']} too")
    arms = {**before["arms"], **new["arms"]}
    content = {**new, "arms": arms, "reference": list(dict.fromkeys([*before["reference"], *new["reference"]]))}
    places = {arm: place for place, arm in enumerate(arms)}
    for part in ("runs", "branch_runs"):
        old = {_key(run): run for run in before.get(part, [])}
        runs = {**old, **{_key(run): _with_orders(run, old.get(_key(run))) for run in new.get(part, [])}}.values()
        order = sorted(runs, key=lambda run: (run["corpus"], places[run.get("branch_of") or run["arm"]], run["seed"]))
        if order:
            content[part] = order
    return content


def _with_orders(run: dict[str, Any], old: Mapping[str, Any] | None) -> dict[str, Any]:
    """The run with the own orders that are stored of the same weights, where it brings none of its own."""
    final = run["final"]
    same = old is not None and old["final"].get("checkpoint_hash") == final.get("checkpoint_hash")
    if old is None or not same or final.get("own_orders") or not old["final"].get("own_orders"):
        return run
    return {**run, "final": {**final, "own_orders": old["final"]["own_orders"]}}


def _runs(content: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return [*content.get("runs", []), *content.get("branch_runs", [])]


def _key(run: Mapping[str, Any]) -> tuple[str, str, int]:
    return run["corpus"], run["arm"], run["seed"]


def _command(content: Mapping[str, Any]) -> str:
    """What runs the whole grid, if it is beside the results or comes along."""
    name, unit, amount = content["name"], content["budget"]["unit"], content["budget"]["amount"]
    grid = FOLDER / f"{name}.yaml"
    if not grid.exists():
        return f"atat experiment run {name} --budget {unit}={amount:g}"
    planned = yaml.safe_load(grid.read_text(encoding="utf-8")).get("budget")
    other = "" if planned == {unit: amount} else f" --budget {unit}={amount:g}"
    return f"atat experiment run docs/results/{name}.yaml{other}"
