"""The tables of the log, which are of earlier days and do not change."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from benchmarks.results.markdown import arm_name, less, mean_cell, nats, one, perplexity, seconds, table
from benchmarks.results.novels import of_two_ways, older_novels
from benchmarks.results.stored import Number, Run, difference_of, mean_of, stored
from benchmarks.results.tables import ORDERS

from mdlm_atat.formats import p_value as p_text
from mdlm_atat.formats import with_error

FIRST_METHODS = ("mdlm", "time_sampling_only", "frequency_only", "learned_only", "importance_rates")
UNCERTAIN = {
    "ancestral": "`ancestral`",
    "first_hitting:sizes=constant": "`first_hitting:sizes=constant`",
    "first_hitting:sizes=cosine": "`sizes=cosine`",
    "first_hitting:sizes=optimal": "`sizes=optimal`",
    "remask": "`remask` (cap, eta 0.02)",
    "uncertainty:amount=constant": "`uncertainty`, entropy, not spread",
    "uncertainty:score=margin,amount=constant": "margin, not spread",
    "uncertainty:order=most_uncertain,amount=constant": "most uncertain first, not spread",
    "confidence": "`confidence`",
}


def published(name: str) -> str:
    """A table as it was published, of a measurement of which nothing else was stored."""
    header, *rows = stored("log.json")["tables"][name]["rows"]
    return table(header, rows)


def by_seed(*arms: str) -> str:
    """Each run, and the means over seeds."""
    rows = []
    for arm in arms:
        runs = older_novels()[arm]
        for run in runs:
            numbers = [nats(run.numbers.get(column)) for column in ORDERS]
            rows.append([arm_name(arm), str(run.seed), *numbers, seconds([run])])
        rows.append([f"{arm_name(arm)}, mean ± over seeds", "", *(mean_cell(runs, column) for column in ORDERS), ""])
    return table(["", "seed", *ORDERS.values(), "s"], rows)


def revealed() -> str:
    """Networks of `importance_rates` in the own order of `spread`, by entropy and by importance times entropy."""
    rows = []
    for run in stored("reveal-importance.json")["runs"]:
        share = Fraction(run["causal_share"]).limit_denominator(8)
        network = f"{share} of the rows left to right, {run['num_steps']:,} steps, seed {run['seed']}"
        for evaluations in ("16", "64"):
            found = {name: Number(*numbers) for name, numbers in run[evaluations].items()}
            scores = [nats(found["entropy"]), nats(found["importance times entropy"])]
            rows.append([network, evaluations, *scores, nats(found["difference"], sign=True)])
    return table(["", "evaluations", "by entropy", "by importance times entropy", "difference, paired"], rows)


def shares() -> str:
    """How many of the rows are read left to right, all with QK-norm."""
    names = {"1/2": "1/2", "atat": "5/8 (`atat`)", "3/4": "3/4", "causal": "all (causal)"}
    rows = []
    for arm, name in names.items():
        runs = older_novels()[arm]
        speeds = [run.tokens_per_s for run in runs if run.tokens_per_s is not None]
        speed = f"{sum(speeds) / len(speeds) / 1e6:.2f}M"
        rows.append([name, str(len(runs)), *(mean_cell(runs, column) for column in ORDERS), speed])
    return table(["share of the rows", "seeds", *ORDERS.values(), "tokens/s"], rows)


def variants(*arms: str) -> str:
    """One run of each, at 1,500 steps."""
    rows = [[arm, *(one(older_novels()[arm], column) for column in ("any_order", "left_to_right"))] for arm in arms]
    return table(["", "any order", "left to right"], rows)


def to_mdlm() -> str:
    """Seconds of two runs that were timed one after the other."""
    rows = [
        [
            f"`{entry['method']}`, {'AdamW 1e-3' if entry['optimizer'] == 'adamw' else 'Muon 6e-3'}",
            f"{entry['num_steps']:,}",
            nats(Number(*entry["any_order"])),
            f"{entry['train_s']:.1f}",
        ]
        for entry in of_two_ways("long", lambda entry: "timed_in_one_call" in entry)
    ]
    return table(["", "steps", "any order", "s"], rows)


def rates() -> str:
    """500 steps at each rate: a row for each method and likelihood."""
    entries = of_two_ways("sweep", lambda entry: set(entry["settings"]) <= {"model.kind"})
    entries += of_two_ways("probes", lambda entry: not entry["settings"] and entry["lr"] == 0.012)
    columns = [("adamw", lr) for lr in (1e-3, 2e-3, 4e-3)] + [("muon", lr) for lr in (2e-3, 4e-3, 8e-3, 1.2e-2)]
    found = {(entry["method"], entry["optimizer"], entry["lr"]): entry for entry in entries}
    rows = []
    for method, column in (
        ("mdlm", "any_order"),
        ("time_sampling_only", "any_order"),
        ("two_way", "any_order"),
        ("two_way", "left_to_right"),
        ("causal", "left_to_right"),
    ):
        numbers = [found.get((method, *at), {}).get(column) for at in columns]
        cells = ["" if number is None else f"{number[0]:.3f}" for number in numbers]
        rows.append([f"{arm_name(method)}, {column.replace('_', ' ')}", *cells])
    names = ["AdamW 1e-3", "2e-3", "4e-3", "Muon 2e-3", "4e-3", "8e-3", "1.2e-2"]
    return table(["", *names], rows)


def judge_all(*steps: str) -> str:
    """The model of 6,000 steps: what the judge pays for texts of all samplers, from nothing and with half given."""
    both = [stored("samplers-novels.json")["6000 steps"][task]["points"] for task in ("generate", "infill")]
    wanted = [[int(word) for word in steps], [int(word) // 2 for word in steps]]
    alone = [f"{_judged(points, 'first_hitting', None)} at {n}" for points, n in zip(both, (512, 256), strict=True)]
    empty = [""] * (len(steps) - 1)
    rows = [["`first_hitting`, one at a time", *empty, alone[0], *empty, alone[1]]]
    for sampler, name in UNCERTAIN.items():
        numbers = [_judged(points, sampler, n) for points, ns in zip(both, wanted, strict=True) for n in ns]
        rows.append([name, *numbers])
    names = [str(n) for n in wanted[0]] + [f"infilling: {wanted[1][0]}"] + [str(n) for n in wanted[1][1:]]
    return table(["sampler", *names], rows)


def _judged(points: Sequence[Mapping[str, Any]], sampler: str, steps: int | None) -> str:
    found = [point["judge_nats"] for point in points if (point["sampler"], point["steps"]) == (sampler, steps)]
    return f"{found[0]:.2f}" if found else ""


def equal_seconds() -> str:
    """wiki27: every arm for the same seconds of a card."""
    content = stored("wiki27-seconds.json")
    rows = []
    for arm, found in content["derived"]["wiki27"].items():
        run = next(run for run in content["runs"] if run["arm"] == arm)
        own, bounds = found["own_difference"], [found["ppl_u"], found["ppl_s"]]
        p = "" if own is None else f", {p_text(own['p_value'])}"
        rows.append(
            [
                "`importance_rates`" if arm == "atat" else arm_name(arm),
                f"{1000 * run['calibrated_seconds_per_step']:.1f}",
                f"{run['num_steps']:,}",
                *(_bits(bound) if bound is not None else "the same" for bound in bounds),
                "" if own is None else f"{own['mean_nats']:.3f} ± {own['standard_error']:.3f}{p}",
                "" if own is None else f"{100 * own['relative_perplexity']:.1f}%",
            ]
        )
    header = [
        "arm",
        "ms/step",
        "steps",
        "PPL-U, bits",
        "PPL-S, bits",
        "its own bound against `mdlm`, nats",
        "perplexity",
    ]
    return table(header, rows)


def _bits(bound: Mapping[str, Any]) -> str:
    mean, low, high = (value / math.log(2) for value in (bound["mean_nats"], *bound["interval95"]))
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def first_methods() -> str:
    """Ways of masking, 1,500 steps of three seeds with AdamW."""
    arms = older_novels()
    times, rows = arms["time_sampling_only, AdamW"], []
    for method in FIRST_METHODS:
        runs = arms[f"{method}, AdamW"]
        rows.append(
            [
                f"`{method}`",
                *_bound_cells(method, runs, arms["mdlm, AdamW"]),
                "" if runs is times else nats(difference_of(_own(runs), _own(times), "own_schedule"), sign=True),
            ]
        )
    return table([*BOUND_HEADER, "minus `time_sampling_only`, nats"], rows)


BOUND_HEADER = ["method", "PPL-U, nats", "PPL-U", "PPL-S, nats", "of it rates", "PPL-S", "against mdlm"]


def first_methods_long() -> str:
    """The same after 6,000 steps, one seed."""
    arms = older_novels(6000)
    rows = [
        [f"`{method}`", *_bound_cells(method, arms[f"{method}, AdamW"], arms["mdlm, AdamW"])]
        for method in FIRST_METHODS
    ]
    return table(BOUND_HEADER, rows)


def _bound_cells(method: str, runs: Sequence[Run], baseline: Sequence[Run]) -> list[str]:
    any_order, own = mean_of(runs, "any_order"), mean_of(runs, "own_schedule")
    uniform = method in ("mdlm", "time_sampling_only")
    change = less(difference_of(runs, baseline, "own_schedule"))
    return [
        nats(any_order),
        perplexity(any_order),
        "the same" if uniform else nats(own),
        "0" if uniform else f"{_rates(method, len(runs)):.3f}",
        perplexity(own),
        "" if method == "mdlm" else change,
    ]


def _rates(method: str, num_runs: int) -> float:
    """Nats of PPL-S that predicting the rates takes, in the mean over seeds."""
    name, content = "atat" if method == "importance_rates" else method, stored("atat-novels.json")
    entries = content["short"][name] if num_runs > 1 else [content["long"][name]]
    return sum(entry["ppl_s"]["rate_nats_per_token"] for entry in entries) / len(entries)


def _own(runs: Sequence[Run]) -> Sequence[Run]:
    return [run for run in runs if "own_schedule" in run.numbers]


def first_methods_seeds() -> str:
    """PPL-S of each seed."""
    arms = [older_novels()[f"{method}, AdamW"] for method in FIRST_METHODS]
    rows = [[str(seed), *(f"{runs[seed].numbers['own_schedule'].value:.3f}" for runs in arms)] for seed in range(3)]
    return table(["seed", *(f"`{method}`" for method in FIRST_METHODS)], rows)


def wikitext() -> str:
    """WikiText-2, 1,200 steps of three seeds, 960 of one and 5,000 of one."""
    short, long = stored("wikitext-2.json"), stored("wikitext-2-long.json")
    means = short["derived"]["wikitext-2"]
    mdlm, rates = means["mdlm"], means["atat"]
    paired = rates["own_difference"]
    note = f" (-{-100 * paired['relative_perplexity']:.1f}%; paired by seed {paired['mean_nats']:.3f}"
    note += f" ± {paired['standard_error']:.3f} nats, {p_text(paired['p_value'])})"
    rows = [
        ["`mdlm`", "1,200", "3", _four(mdlm["ppl_u"]), "the same", f"{mdlm['ppl_u']['perplexity']:.1f}"],
        [
            RATES,
            "1,200",
            "3",
            _four(rates["ppl_u"]),
            _four(rates["ppl_s"]),
            f"{rates['ppl_s']['perplexity']:.1f}{note}",
        ],
    ]
    (branch,) = (run for run in short["runs"] if run["num_steps"] == 960)
    rows.append([RATES, "960", "1", *_bounds_of(branch["final"], mdlm["ppl_u"]["mean_nats"])])
    first, second = long["runs"]
    last = first["final"]["nelbo_nats_per_token"]
    rows.append(["`mdlm`, best and last", "5,000", "1", f"{last:.4f}", "the same", f"{math.exp(last):.1f}"])
    best = second["best"]
    rows.append([f"{RATES}, best (step {best['step']:,})", "5,000", "1", *_bounds_of(best["final"], last)])
    rows.append([f"{RATES}, last", "5,000", "1", *_bounds_of(second["final"], last)])
    return table(["arm", "steps", "seeds", "PPL-U", "PPL-S", "perplexity, own bound"], rows)


RATES = "`importance_rates`"


def _bounds_of(final: Mapping[str, Any], baseline: float) -> list[str]:
    any_order, own = final["nelbo_nats_per_token"], final["schedule"]["nelbo_nats_per_token"]
    change = 100 * math.expm1(own - baseline)
    return [f"{any_order:.4f}", f"{own:.4f}", f"{math.exp(own):.1f} ({change:+.1f}%)"]


def _four(bound: Mapping[str, Any]) -> str:
    return "{:.4f} [{:.4f}, {:.4f}]".format(bound["mean_nats"], *bound["interval95"])


def other_texts() -> str:
    """One run of `atat` on each of three other texts, and of a causal network on one."""
    rows = []
    for entry in stored("two-ways-other.json")["runs"]:
        per = math.log(2) if entry["corpus"].startswith("wiki27") else 1
        numbers = [nats(_over(entry[name], per)) if name in entry else "" for name in ("any_order", "left_to_right")]
        name = "causal, QK-norm" if entry["method"] == "causal" else "`atat`, last"
        corpus = entry["corpus"].split(" (")[0] + (", bits" if per != 1 else ", nats")
        rows.append([corpus, name, *numbers])
        best = [min((at[order], at["step"]) for at in entry["curve"] if order in at) for order in _orders(entry)]
        rows.append(["", "best evaluation of training, at step", *_padded([_at(value / per, n) for value, n in best])])
    return table(["text", "", "any order", "left to right"], rows)


def char() -> str:
    """The preset char on tinyshakespeare, by the record of its evaluation."""
    found = stored("char-tinyshakespeare.json")
    bits = f"{found['bits_per_character']:.4f} ± {found['standard_error_bits_per_character']:.4f}"
    bound = with_error(found["nelbo_nats_per_token"], found["standard_error"])
    floor, floor_bits = found["unigram"], f"{found['unigram']['bits_per_character']:.4f}"
    rows = [
        [f"this run, bound, {found['num_draws']:,} draws", bound, bits],
        ["unigram model, exact", with_error(floor["nats_per_token"], floor["standard_error"]), floor_bits],
        ["goal", "1.75", ""],
    ]
    return table(["", "nats per character", "bits per character"], rows)


def _orders(entry: Mapping[str, Any]) -> list[str]:
    return [name for name in ("any_order", "left_to_right") if name in entry]


def _padded(cells: list[str]) -> list[str]:
    return [""] * (2 - len(cells)) + cells


def _at(value: float, step: int) -> str:
    return f"{value:.3f} at {step:,}"


def _over(number: Sequence[float], per: float) -> Number:
    return Number(number[0] / per, number[1] / per)


LOG_TABLES: Mapping[str, Callable[..., str]] = {
    "by_seed": by_seed,
    "char": char,
    "equal_seconds": equal_seconds,
    "first_methods": first_methods,
    "first_methods_long": first_methods_long,
    "first_methods_seeds": first_methods_seeds,
    "judge_all": judge_all,
    "other_texts": other_texts,
    "published": published,
    "rates": rates,
    "revealed": revealed,
    "shares": shares,
    "to_mdlm": to_mdlm,
    "variants": variants,
    "wikitext": wikitext,
}
