"""The arms that were compared on the novels, from all files that hold runs of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

from benchmarks.results.stored import FOLDER, Number, Run, profile_of, runs_in, stored

NEWEST = {1500: "novels-seconds.json", 6000: "novels-240s.json"}
"""What every method makes of the same seconds, by about how many steps they pay for. An arm with as many seeds as in
the older files comes in their place."""


@cache
def novels(num_steps: int = 1500) -> dict[str, list[Run]]:
    """The runs of each arm at one length of training, ordered by seed. The newest are all at that of their budget."""
    return with_newest(older_novels(num_steps), equal_seconds_novels(num_steps))


def with_newest(older: dict[str, list[Run]], newest: dict[str, list[Run]]) -> dict[str, list[Run]]:
    """The older arms, but for those that have as many seeds or more among the newest."""
    return older | {arm: runs for arm, runs in newest.items() if len(runs) >= len(older.get(arm, []))}


@cache
def equal_seconds_novels(num_steps: int = 1500) -> dict[str, list[Run]]:
    """The newest runs alone."""
    file = NEWEST.get(num_steps)
    return arms_of(file) if file is not None and (FOLDER / file).exists() else {}


@cache
def older_novels(num_steps: int = 1500) -> dict[str, list[Run]]:
    """The same without the newest runs: what the log is about."""
    return by_arm(run for run in [*_first_methods(), *_two_ways()] if run.num_steps == num_steps)


def by_arm(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Ordered by seed."""
    arms: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        arms.setdefault(run.arm, []).append(run)
    return arms


def arms_of(file: str) -> dict[str, list[Run]]:
    """The runs of each arm of a stored experiment."""
    return by_arm(runs_in(stored(file)["runs"]))


def _first_methods() -> list[Run]:
    """All with AdamW. What is called importance_rates now is stored as atat."""
    content = stored("atat-novels.json")
    entries = [(arm, entry) for arm, runs in content["short"].items() for entry in runs]
    entries += [(arm, entry | {"seed": 0}) for arm, entry in content["long"].items()]
    return [
        Run(
            arm=f"{'importance_rates' if arm == 'atat' else arm}, AdamW",
            seed=entry["seed"],
            num_steps=entry["steps"],
            numbers={"any_order": _bound(entry["ppl_u"]), "own_schedule": _bound(entry["ppl_s"])},
            profile=profile_of(entry),
        )
        for arm, entry in entries
    ]


def _bound(content: Mapping[str, Any]) -> Number:
    return Number(content["nelbo_nats_per_token"], content["standard_error"])


QK = {"model.qk_norm": True}
ARMS: dict[str, Mapping[str, Any]] = {
    "causal": {"model.kind": "causal", **QK},
    "causal without QK-norm": {"model.kind": "causal"},
    "atat": {"objective.causal_share": 0.625, **QK},
    "1/2": QK,
    "3/4": {"objective.causal_share": 0.75, **QK},
    "5/8 without QK-norm": {"objective.causal_share": 0.625},
    "told the time": {"model.time_conditioning": True},
    "two_way": {},
}
"""Settings of the runs of two ways and of the causal networks that are an arm."""


def _two_ways() -> list[Run]:
    """All with Muon at 6e-3, one run to a card. The one on a shared card is the same run as one alone."""
    content = stored("two-ways-novels.json")
    alone = [one for one in content["long"] if not (one.get("shared_card") and one["settings"] == QK)]
    entries = [
        one | {"arm": arm, "settings": _without_length(one)}
        for one in [*alone, *content["qk_norm"]]
        for arm, settings in ARMS.items()
        if _without_length(one) == settings and (one["method"] == "causal") == arm.startswith("causal")
        if one["optimizer"] == "muon" and one["lr"] == 0.006 and "variant" not in one
    ]
    return runs_in(entries)


def _without_length(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry["settings"].items() if name != "train.num_steps"}


def of_two_ways(part: str, wanted: Callable[[Mapping[str, Any]], bool]) -> list[Mapping[str, Any]]:
    """The stored entries of one part of two-ways-novels.json that are wanted."""
    return [entry for entry in stored("two-ways-novels.json")[part] if wanted(entry)]
