"""Numbers in sentences."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.results.budgets import Lead, amount
from benchmarks.results.markdown import interval, less, nats, percent_interval, perplexity
from benchmarks.results.novels import arms_of, equal_seconds_novels, novels, of_two_ways, older_novels
from benchmarks.results.stored import Number, Run, difference_of, mean_of, numbers_of, stored
from benchmarks.results.tables import SPREAD

from mdlm_atat.scoring.statistics import Mean


def arm_nats(arm: str, column: str, num_steps: str = "1500") -> str:
    """The mean over seeds and its error, nats per token."""
    return nats(_mean(arm, column, num_steps))


def arm_perplexity(arm: str, column: str, num_steps: str = "1500") -> str:
    return perplexity(_mean(arm, column, num_steps))


def difference(arm: str, against: str, column: str, num_steps: str = "1500") -> str:
    """arm - against in nats, paired by seed, without its sign."""
    return _unsigned(_difference(novels(int(num_steps)), arm, against, column))


def between(arm: str, against: str, column: str, num_steps: str = "1500") -> str:
    """The 95% interval of arm - against in nats, with its signs."""
    return interval(_difference(novels(int(num_steps)), arm, against, column))


def change(arm: str, against: str, column: str, num_steps: str = "1500") -> str:
    """By how much lower or higher the perplexity of arm is, per cent without a sign."""
    return less(_difference(novels(int(num_steps)), arm, against, column)).lstrip("+-")


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


def judged(num_steps: str, task: str, sampler: str, evaluations: str = "") -> str:
    """What the judge pays for a sampler's texts; without evaluations those revealed one token at a time."""
    points = stored("samplers-novels.json")[f"{num_steps} steps"][task]["points"]
    wanted = (SPREAD if sampler == "spread" else sampler, int(evaluations) if evaluations else None)
    (found,) = (point["judge_nats"] for point in points if (point["sampler"], point["steps"]) == wanted)
    return f"{found:.2f}"


def older(arm: str, column: str, num_steps: str = "1500") -> str:
    """The mean of an arm as the log has it, whatever came after."""
    return nats(mean_of(older_novels(int(num_steps))[arm], column))


def older_value(arm: str, column: str, num_steps: str = "1500", seed: str = "") -> str:
    """The same without its error, or that of one seed."""
    runs = [run for run in older_novels(int(num_steps))[arm] if seed in ("", str(run.seed))]
    found = mean_of(runs, column)
    if found is None:
        raise KeyError(f"{arm} has no {column}")
    return f"{found.value:.3f}"


def older_difference(arm: str, against: str, column: str, num_steps: str = "1500") -> str:
    """arm - against as the log has it, paired by seed, without its sign."""
    return _unsigned(_difference(older_novels(int(num_steps)), arm, against, column))


def older_gap(arm: str, against: str, column: str, form: str = ".3f", num_steps: str = "1500") -> str:
    """The same without its error."""
    return format(abs(_difference(older_novels(int(num_steps)), arm, against, column).value), form)


def older_change(arm: str, against: str, column: str, num_steps: str = "1500") -> str:
    """The same as a change of perplexity without its sign, in whole per cent."""
    return f"{100 * abs(math.expm1(_difference(older_novels(int(num_steps)), arm, against, column).value)):.0f}%"


def tenth(file: str, arm: str, number: str, form: str) -> str:
    """Nats of one tenth of a text, the rarest being 0, in the mean over the runs of an arm in an experiment's file."""
    runs = [run for run in stored(file)["runs"] if run["arm"] == arm]
    found = [run["final"]["deciles"]["nats_per_token"][int(number)] for run in runs]
    return format(sum(found) / len(found), form)


def seconds_nats(arm: str, column: str) -> str:
    """The mean over the seeds of the experiment at equal seconds."""
    return nats(mean_of(equal_seconds_novels()[arm], column))


def seconds_change(arm: str, against: str, column: str) -> str:
    """By how much lower or higher the perplexity of arm is at equal seconds, per cent without a sign."""
    return _percent(equal_seconds_novels(), arm, against, column)


def percent(file: str, arm: str, against: str, column: str) -> str:
    """The same in another experiment."""
    return _percent(arms_of(file), arm, against, column)


def nats_of(file: str, arm: str, column: str) -> str:
    """The mean over the seeds of an arm in another experiment."""
    return nats(mean_of(arms_of(file)[arm], column))


def percent_between(file: str, arm: str, against: str, column: str) -> str:
    """The 95% interval of the same, with its signs."""
    return percent_interval(_difference(arms_of(file), arm, against, column))


def gain(file: str, arm: str, column: str) -> str:
    """How much less an own order costs than the same network's bound in any order, nats, over the seeds that have it;
    with a minus where it costs more."""
    runs = arms_of(file)[arm]
    own, bound = numbers_of(runs, column), numbers_of(runs, "any_order")
    return f"{statistics.fmean(bound[seed].value - number.value for seed, number in own.items()):.3f}"


def bits(file: str, arm: str, against: str, column: str) -> str:
    """By how much more or fewer bits arm takes, per cent without a sign: not of perplexity, which is of tokens, and so
    comparable between experiments with other tokens."""
    arms = arms_of(file)
    theirs = numbers_of(arms[against], column)
    pairs = [theirs[seed].value for seed in numbers_of(arms[arm], column) if seed in theirs]
    return f"{100 * abs(_difference(arms, arm, against, column).value) / statistics.fmean(pairs):.1f}%"


def seconds_seeds(arm: str) -> str:
    """How many seeds of an arm the experiment at equal seconds has so far, in figures."""
    return str(len(equal_seconds_novels()[arm]))


def trend_of(text: str, column: str, arm: str, against: str, what: str) -> str:
    """Of the line through a lead over log tokens: nats a `doubling` with their error, or `between` which they are; the
    change of perplexity at `ten_times` the largest budget, per cent with its sign; the tokens where the `zero` of the
    lead is."""
    lead = Lead(text, column, arm, against)
    line = lead.line()
    if line is None:
        raise KeyError(f"{arm} and {against} are not stored at two budgets")
    match what:
        case "doubling":
            return nats(line.doubling, sign=True)
        case "between":
            return interval(line.doubling)
        case "ten_times":
            return less(line.at(10 * max(tokens for tokens, _ in lead.pairs())))
        case "zero" if (found := line.zero()) is not None:
            return amount(found.tokens)
        case _:
            raise KeyError(f"{what} is none of doubling, between, ten_times, zero, or the lead does not shrink")


def muon_gain(method: str, column: str) -> str:
    """Nats between AdamW and Muon after 500 steps, each at the best of its rates."""
    return f"{_best_of_rates(method, 'adamw', column) - _best_of_rates(method, 'muon', column):.2f}"


def best_gap(method: str, better: str, column: str) -> str:
    """Nats between two methods with Muon after 500 steps, each at the best of its rates."""
    return f"{_best_of_rates(method, 'muon', column) - _best_of_rates(better, 'muon', column):.2f}"


def _best_of_rates(method: str, optimizer: str, column: str) -> float:
    entries = [one for one in stored("two-ways-novels.json")["sweep"] if set(one["settings"]) <= {"model.kind"}]
    return min(one[column][0] for one in entries if (one["method"], one["optimizer"]) == (method, optimizer))


def timed(method: str, what: str) -> str:
    """Seconds, steps or nats of the two runs that were timed one after the other: mdlm, two_way, or their ratio."""
    runs = {one["method"]: one for one in of_two_ways("long", lambda one: "timed_in_one_call" in one)}
    if method == "ratio":
        ratio = runs["mdlm"][what] / runs["two_way"][what]
        return f"{ratio:.1f}"
    if what == "any_order":
        return nats(Number(*runs[method][what]))
    return f"{runs[method][what]:,}"


def said(section: str, name: str) -> str:
    """A number as it was published, of a measurement of which nothing else was stored."""
    return stored("log.json")["said"][section]["numbers"][name]


def _mean(arm: str, column: str, num_steps: str) -> Mean:
    found = mean_of(novels(int(num_steps))[arm], column)
    if found is None:
        raise KeyError(f"{arm} has no {column}")
    return found


def _percent(arms: Mapping[str, Sequence[Run]], arm: str, against: str, column: str) -> str:
    return f"{100 * abs(math.expm1(_difference(arms, arm, against, column).value)):.1f}%"


def _unsigned(found: Mean) -> str:
    return nats(Mean(abs(found.value), found.standard_error, None, found.num))


def _difference(arms: Mapping[str, Sequence[Run]], arm: str, against: str, column: str) -> Mean:
    found = difference_of(arms[arm], arms[against], column)
    if found is None:
        raise KeyError(f"{arm} and {against} have no seed in common with {column}")
    return found


VALUES: Mapping[str, Callable[..., str]] = {
    "at": at,
    "best_gap": best_gap,
    "between": between,
    "bits": bits,
    "change": change,
    "difference": difference,
    "gain": gain,
    "judged": judged,
    "muon_gain": muon_gain,
    "nats": arm_nats,
    "nats_of": nats_of,
    "older": older,
    "older_change": older_change,
    "older_difference": older_difference,
    "older_gap": older_gap,
    "older_value": older_value,
    "passes": passes,
    "percent": percent,
    "percent_between": percent_between,
    "perplexity": arm_perplexity,
    "said": said,
    "seconds_change": seconds_change,
    "seconds_nats": seconds_nats,
    "seconds_seeds": seconds_seeds,
    "seeds": seeds,
    "tenth": tenth,
    "timed": timed,
    "trend": trend_of,
}
