"""Caveats: sentences on what the numbers of an experiment do not show, made from the facts of its runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from mdlm_atat.formats import p_value, percent, significant, with_error

Run = dict[str, Any]
TOKENS_ALIKE = 0.02
PARAMETERS_ALIKE = 0.05  # the estimator's are 2% of MDLM's


def caveats_of(results: dict[str, Any]) -> list[str]:
    """Every caveat that holds for the content of results.json, a sentence each, the gravest first."""
    runs, baseline = [*results["runs"], *results["branch_runs"]], results["baseline"]
    return [
        *_unfinished(runs),
        *_elsewhere(runs),
        *_seeds(results),
        *_not_significant(results, baseline),
        *_exact(results, baseline),
        *_unequal(results, baseline),
        *_undecayed(results),
        *_never_decayed(runs),
        *_shared_devices(runs),
        *_machines(runs),
        *_commits(runs),
        *_past_their_best(runs),
    ]


def _names(runs: Sequence[Run]) -> str:
    return ", ".join(f"{run['arm']} on {run['corpus']}, seed {run['seed']}" for run in runs)


def _unfinished(runs: Sequence[Run]) -> list[str]:
    failed = [run for run in runs if run["status"] == "failed"]
    open_ = [run for run in runs if run["status"] in ("running", "waiting")]
    found: list[str] = []
    if failed:
        found.append(f"{len(failed)} of {len(runs)} runs failed and are left out: {_names(failed)}.")
    if open_:
        found.append(f"{len(open_)} of {len(runs)} runs are not done yet and are left out.")
    return found


def _elsewhere(runs: Sequence[Run]) -> list[str]:
    theirs = [run for run in runs if run.get("elsewhere")]
    if not theirs:
        return []
    files = ", ".join(sorted({run["elsewhere"] for run in theirs}))
    has_draws = all("blocks" in run["final"] for run in theirs)
    errors = "" if has_draws else ", without scores of single draws: errors of differences leave that of the draws out"
    return [f"{len(theirs)} of {len(runs)} runs were not trained in this folder; they are as {files} has them{errors}."]


def _seeds(results: dict[str, Any]) -> list[str]:
    found: list[str] = []
    for corpus, arms in results["derived"].items():
        single = [arm for arm, numbers in arms.items() if numbers["num_seeds"] == 1]
        if single:
            found.append(
                f"One seed only on {corpus} for {', '.join(single)}: nothing is known of how another seed would "
                "differ, and there is no interval over seeds."
            )
        few = [arm for arm, numbers in arms.items() if numbers["num_seeds"] == 2]
        if few:
            found.append(f"Two seeds only on {corpus} for {', '.join(few)}: intervals are very wide.")
    return found


def _not_significant(results: dict[str, Any], baseline: str) -> list[str]:
    found: list[str] = []
    for corpus, arms in results["derived"].items():
        for arm, numbers in arms.items():
            difference = numbers["own_difference"]
            if difference is None or difference["significant"] is not False:
                continue
            size = with_error(difference["mean_nats"], difference["standard_error"], sign=True)
            p = "" if difference["p_value"] is None else f", {p_value(difference['p_value'])},"
            found.append(
                f"{arm} against {baseline} on {corpus}: {size} nats{p} is no difference that can be told from chance."
            )
    return found


def _exact(results: dict[str, Any], baseline: str) -> list[str]:
    """The table compares an exact likelihood with an upper bound."""
    kinds = {arm: numbers["kind"] for arms in results["derived"].values() for arm, numbers in arms.items()}
    exact = [arm for arm, kind in kinds.items() if kind == "exact"]
    if not exact or len(exact) == len(kinds):
        return []
    if kinds.get(baseline) == "exact":
        return [
            f"The value of the baseline {baseline} is exact, those of the arms that diffuse are upper bounds: where "
            "one is higher it is by at most that much, and where one is lower by at least that much."
        ]
    return [
        f"The value of {', '.join(exact)} is exact, those of the others are upper bounds: it leads by at most "
        "what the table says."
    ]


def _unequal(results: dict[str, Any], baseline: str) -> list[str]:
    """An arm was trained on more or less text than the baseline, at another learning rate or with more parameters."""
    found: list[str] = []
    for corpus in results["derived"]:
        done = [run for run in results["runs"] if run["corpus"] == corpus and run["final"] is not None]
        theirs = next((run for run in done if run["arm"] == baseline), None)
        if theirs is None:
            continue
        firsts = {run["arm"]: run for run in reversed(done)}  # of the seeds: they are alike in this
        for arm, run in reversed(firsts.items()):
            told = []
            if abs(run["num_tokens"] / theirs["num_tokens"] - 1) > TOKENS_ALIKE:
                told.append(f"{percent(run['num_tokens'] / theirs['num_tokens'])} of the tokens")
            rates = [(one["config"] or {}).get("optim.lr") for one in (run, theirs)]
            if None not in rates and rates[0] != rates[1]:
                told.append(f"the learning rate {rates[0]:g} in place of {rates[1]:g}")
            if abs(run["num_parameters"] / theirs["num_parameters"] - 1) > PARAMETERS_ALIKE:
                told.append(f"{significant(run['num_parameters'] / theirs['num_parameters'], 3)} times the parameters")
            if told:
                found.append(f"{arm} on {corpus} had {' and '.join(told)} of {baseline}.")
    return found


def _undecayed(results: dict[str, Any]) -> list[str]:
    read = [
        f"{arm} on {corpus}"
        for corpus, arms in results["derived"].items()
        for arm, numbers in arms.items()
        if numbers["steps_to_baseline"] is not None and not numbers["steps_to_baseline"]["decayed"]
    ]
    if not read:
        return []
    return [
        f"Steps to the baseline of {', '.join(read)} are read from curves where the learning rate had not decayed: a "
        "run that ended there would be better, so they are upper bounds."
    ]


def _never_decayed(runs: Sequence[Run]) -> list[str]:
    arms = dict.fromkeys(
        run["arm"] for run in runs if run["config"] is not None and run["config"]["optim.decay"] == "constant"
    )
    if not arms:
        return []
    return [f"The learning rate of {', '.join(arms)} never decays: runs that had ended with a decay would be better."]


def sharing_a_device(runs: Sequence[Run]) -> set[int]:
    """Which of the runs were trained at the same time as another one of them on the same device."""
    spans = [
        (started, ended or (time.time() if run["status"] == "running" else started), host, device, index)
        for index, run in enumerate(runs)
        for started, ended, host, device in run["attempts"]  # no end: its runner was killed
    ]
    return {
        one[4]
        for one in spans
        for other in spans
        if one[4] != other[4] and one[2:4] == other[2:4] and one[0] < other[1] and other[0] < one[1]
    }


def _shared_devices(runs: Sequence[Run]) -> list[str]:
    shared = sharing_a_device(runs)
    if not shared:
        return []
    timed = all(run["calibration"] is not None for run in runs)
    instead = (
        "seconds given here are those of a step timed alone before the runs, times the steps"
        if timed
        else "their seconds cannot be compared"
    )
    return [f"{len(shared)} of {len(runs)} runs shared a device with another run of this experiment: {instead}."]


def _machines(runs: Sequence[Run]) -> list[str]:
    machines = {
        (run["machine"].get("device"), run["machine"].get("cpu"), run["machine"].get("precision"))
        for run in runs
        if run["machine"]
    }
    if len(machines) < 2:
        return []
    listed = "; ".join(sorted(f"{device}, {cpu}, {precision}" for device, cpu, precision in machines))
    return [f"The runs are from {len(machines)} kinds of machine, so seconds cannot be compared: {listed}."]


def _commits(runs: Sequence[Run]) -> list[str]:
    commits = {run["commit"] for run in runs if run["commit"]}
    if len(commits) > 1:
        return [f"The runs are from {len(commits)} versions of the code: {', '.join(sorted(commits))}."]
    if any(commit.endswith("+changes") for commit in commits):
        return ["The code had changes that were not committed."]
    return []


def _past_their_best(runs: Sequence[Run]) -> list[str]:
    worse = [
        run
        for run in runs
        if run["final"] is not None
        and run["best"] is not None
        and run["curve"]["nats"]  # too long to be kept, of some runs that were trained elsewhere
        and _last(run) - run["best"]["nats"] > max(0.01, run["curve"]["standard_error"][-1] or 0.0)
    ]
    if not worse:
        return []
    return [
        f"{len(worse)} runs end clearly above their best (by more than 0.01 nats and a standard error), overfitted or "
        f"astray: {_names(worse)}. The numbers are those of the last step."
    ]


def _last(run: Run) -> float:
    """The last bound of a run's curve, under its own schedule where it has one: the bound that `best` is of."""
    curve = run["curve"]
    own = curve["schedule_nats"]
    return own[-1] if own and own[-1] is not None else curve["nats"][-1]
