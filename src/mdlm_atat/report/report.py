"""The report of a run: one HTML file, made from what is in its folder alone."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from mdlm_atat.atomic import write_text
from mdlm_atat.config.schema import RunConfig
from mdlm_atat.errors import command_line
from mdlm_atat.formats import count, duration, percent, significant, with_error
from mdlm_atat.report import training_plots
from mdlm_atat.report.figure import Series, svg
from mdlm_atat.report.importance_page import figures, heatmap
from mdlm_atat.report.inspection_view import is_by_frequency
from mdlm_atat.report.page import template
from mdlm_atat.report.run_reader import RunFolder, number_at, read_run
from mdlm_atat.report.wording import flat, plain, section
from mdlm_atat.samplers.catalogue import in_words
from mdlm_atat.scoring.cost import LEFT_TO_RIGHT, LOSSY, Cost, OrderCost
from mdlm_atat.scoring.inspected_text import InspectedText
from mdlm_atat.scoring.records import Evaluation, Kind, MaskRateProfile
from mdlm_atat.training.metrics import (
    EVAL_CAUSAL_ERROR,
    EVAL_CAUSAL_NATS,
    EVAL_ERROR,
    EVAL_NATS,
    EVAL_OWN_ERROR,
    EVAL_OWN_NATS,
    Metrics,
)

MAX_SAMPLES = 6
NUM_OPEN_SAMPLES = 2  # at the beginning of the page; the others unfold
MAX_HEATMAP_TOKENS = 128  # some 70 bytes a cell
STAGE_NAMES = ("easy", "medium", "hard")
SAMPLE_WORDING = {
    "made": "{}",
    "words": "{} of its words are in the training text",
    "step": "trained for {} steps",
    "sampler": "{} sampler",
    "num_steps": "{} sampling steps",
    "nfe": "{} network calls",
    "seed": "seed {}",
}


class KeyNumber(NamedTuple):
    """A number of the headline."""

    label: str
    value: str
    note: str = ""


class Setting(NamedTuple):
    """A row in the table of settings."""

    name: str
    value: str
    default: str | None
    """The default where the value differs from it, else None."""


def write_report(run: Path) -> Path:
    """Write `run/report.html`, one file that needs no network, and return its path.

    It works on an unfinished or damaged run too: the page names what is missing. Raises UserError if `run` is not a run
    folder.
    """
    page = template("report.html.j2").render(**_contents(read_run(run)))
    path = run / "report.html"
    write_text(path, page)
    return path


def _contents(run: RunFolder) -> dict[str, Any]:
    result = _result(run)
    unigram = _unigram(run, result)
    is_exact = _kind(run) == "exact" if result is None else not result.is_bound
    gaps = list(run.gaps)
    if not run.training and (run.path / "metrics.jsonl").is_file():
        gaps.append("metrics.jsonl holds no training loss yet.")
    lost = int(np.sum(~np.isfinite(run.training.column("train/loss"))))
    if lost:
        gaps.append(
            f"The training loss was not a finite number on {lost} logged lines; they are left out of the curve."
        )
    if unigram is None:
        gaps.append("No unigram model is stored, so there is no floor to compare with.")
    inspected = _inspected(run, gaps)
    return {
        "name": run.path.resolve().name,
        "subtitle": _subtitle(run),
        "main_numbers": [] if result is None else _main_numbers(run, result),
        "schedule_numbers": [] if result is None else _schedule_numbers(result),
        "order_numbers": [] if result is None else _order_numbers(result),
        "numbers": _floor_numbers(result, unigram) + _run_numbers(run, result),
        "gaps": gaps,
        "curves": _curves(run, unigram, is_exact=is_exact),
        "profile": None if result is None or result.profile is None else _profile(result.profile, unigram),
        "is_exact": is_exact,
        "importance": _importance(inspected),
        "is_by_frequency": is_by_frequency(run.inspection),
        "progress": _progress(run),
        "evaluations": _evaluation_table(run),
        "samples": _samples(run),
        "num_samples": len(run.samples),
        "num_open": NUM_OPEN_SAMPLES,
        "reading": _how_to_read(run, result, is_exact=is_exact),
        "config": _config_tables(run.config),
        "provenance": _provenance(run, result),
        "commands": _commands(run),
    }


def _result(run: RunFolder) -> Evaluation | None:
    """The evaluation that the headline shows: the first of evals/, or else the last one made in training."""
    if run.evals or not run.evaluations:
        return next(iter(run.evals.values()), None)
    strategy = str(section(run.config, "masking").get("strategy", "uniform"))
    return Evaluation.from_metrics(run.evaluations.rows[-1], kind=_kind(run), strategy=strategy, counts=run.counts)


def _kind(run: RunFolder) -> Kind:
    """Of what is measured while it trains."""
    is_causal = section(run.config, "model").get("kind") == "causal"
    return "exact" if is_causal or number_at(section(run.config, "objective"), "causal_share") == 1 else "nelbo"


def _unigram(run: RunFolder, result: Evaluation | None) -> Cost | None:
    if result is not None and result.unigram is not None:
        return result.unigram
    nats = number_at(section(run.info, "unigram"), "nats_per_token")
    return None if nats is None else Cost(nats_per_token=nats, counts=run.counts)


def _subtitle(run: RunFolder) -> str:
    info = run.info
    machine, data = section(info, "machine"), section(info, "data")
    preset, source, started = info.get("preset"), data.get("source"), info.get("started")
    parts = [
        f"preset {preset}" if preset else "",
        f"trained on {source}" if source else "",
        f"{data.get('tokenizer')} tokens" if data.get("tokenizer") else "",
        f"started {str(started)[:16].replace('T', ' ')}" if started else "",
        str(machine.get("device") or ""),
    ]
    return " · ".join(part for part in parts if part)


def _main_numbers(run: RunFolder, result: Evaluation) -> list[KeyNumber]:
    """The main result in nats per token, bits per character and as perplexity."""
    if math.isnan(result.nats_per_token):
        return []
    split = "validation" if result.text.split in (None, "valid") else result.text.split
    of_answers = " of the answers" if result.text.loss_on == "answers" else ""
    what = f"{split} {'bound' if result.is_bound else 'loss, exact'}{of_answers}"
    draws = f"{count(result.num_draws)} {'draws' if result.is_bound else 'sequences'}" if result.num_draws else ""
    note = " · ".join(part for part in (f"step {count(result.step)}" if result.step is not None else "", draws) if part)
    perplexity = "perplexity per token, at most" if result.is_bound else "perplexity per token"
    if _about_schedules(run, result):
        perplexity += " (PPL-U)"
    nats = KeyNumber(f"{what}, nats per token", with_error(result.nats_per_token, result.standard_error), note)
    return [nats, *_other_units(result, bits="bits per character", perplexity=perplexity)]


def _other_units(cost: Cost, *, bits: str, perplexity: str) -> list[KeyNumber]:
    """A bound in the units that follow from nats per token, as far as they are known; its error is scaled with it."""
    units = (
        (bits + LOSSY * cost.is_lossy, cost.bits_per_character, cost.bits_per_character_standard_error),
        (perplexity, cost.perplexity_per_token, cost.perplexity_per_token_standard_error),
    )
    return [KeyNumber(unit, with_error(value, error)) for unit, value, error in units if not math.isnan(value)]


def _schedule_numbers(result: Evaluation) -> list[KeyNumber]:
    """PPL-S: the same numbers under the method's own masking schedule, where it has one."""
    own = result.schedule
    if own is None or not result.has_own_schedule:
        return []
    rates = own.rate_nats_per_token
    note = "" if math.isnan(rates) else f"{with_error(rates)} of it for predicting the rates"
    bits, perplexity = "own schedule, bits per character", "perplexity per token, at most (PPL-S)"
    return [
        KeyNumber("own schedule, nats per token", with_error(own.nats_per_token, own.standard_error), note),
        *_other_units(own, bits=bits, perplexity=perplexity),
    ]


def _order_numbers(result: Evaluation) -> list[list[KeyNumber]]:
    """A row each: left to right, where the headline is a bound, and the own orders of samplers."""
    rows = []
    beside = [] if result.left_to_right is None or not result.is_bound else [result.left_to_right]
    for cost in (*beside, *result.own_orders):
        kind = "exact" if cost.is_exact else "at most: the order is random"
        number = "" if cost.sequences is None else f"; {count(cost.sequences.num_sequences)} sequences"
        value = with_error(cost.nats_per_token, cost.standard_error)
        perplexity = "perplexity per token" + ("" if cost.is_exact else ", at most")
        nats = KeyNumber(f"{_order_name(cost)}, nats per token", value, f"{kind}{number}")
        rows.append([nats, *_other_units(cost, bits="bits per character", perplexity=perplexity)])
    return rows


def _order_name(cost: OrderCost) -> str:
    """`left to right`, or `own order of spread, by margin, 16 evaluations`."""
    return cost.name if cost.order == LEFT_TO_RIGHT else cost.name.replace(cost.order, in_words(cost.order), 1)


def _floor_numbers(result: Evaluation | None, unigram: Cost | None) -> list[KeyNumber]:
    if unigram is None:
        return []
    floor, bits = unigram.nats_per_token, unigram.bits_per_character
    per_character = f"; {with_error(bits, None)}{LOSSY * unigram.is_lossy} bits per character"
    note = "nats per token" + ("" if math.isnan(bits) else per_character)
    numbers = [KeyNumber("unigram model", with_error(floor, None), note)]
    if result is not None and floor > 0 and not math.isnan(result.nats_per_token):
        nats = result.nats_per_token
        verdict = "below the unigram model" if nats < floor else "no better than the unigram model"
        share = percent(abs(floor - nats) / floor, 3)
        numbers.append(KeyNumber(verdict, with_error(nats - floor, sign=True), f"nats per token, {share}"))
    return numbers


def _run_numbers(run: RunFolder, result: Evaluation | None) -> list[KeyNumber]:
    numbers = []
    if result is not None and run.evals and not (math.isnan(result.perplexity_per_word) or result.why_not_per_word):
        unit = "perplexity per word" + LOSSY * result.is_lossy
        numbers.append(KeyNumber(unit, significant(result.perplexity_per_word)))
    parameters = number_at(run.info, "parameters")
    if parameters is not None:
        numbers.append(KeyNumber("parameters", count(parameters), f"{parameters:,.0f}" if parameters >= 1e6 else ""))
    last_steps = [step for rows in (run.training, run.evaluations) if (step := rows.last("step")) is not None]
    last_step = max(last_steps, default=None)
    if last_step is not None:
        planned = number_at(section(run.config, "train"), "num_steps")
        note = "" if planned is None else "as planned" if last_step >= planned else f"of {count(planned)} planned"
        numbers.append(KeyNumber("steps", count(last_step), note))
    if run.elapsed_s is not None:
        numbers.append(KeyNumber("wall time", duration(run.elapsed_s)))
    speeds = run.training.having("train/tokens_per_s").column("train/tokens_per_s")
    if len(speeds):
        tokens = run.training.last("train/tokens")
        note = "" if tokens is None else f"median; {count(tokens)} in all"
        numbers.append(KeyNumber("tokens per second", count(float(np.median(speeds))), note))
    return numbers


def _curves(run: RunFolder, unigram: Cost | None, *, is_exact: bool) -> Markup | None:
    if not run.training and not run.evaluations:
        return None
    figure = training_plots.training_curves(
        loss_nats=_series(run.training, "train/loss"),
        bound_nats=_series(run.evaluations, EVAL_NATS, error_key=EVAL_ERROR),
        schedule_bound_nats=_series(run.evaluations, EVAL_OWN_NATS, error_key=EVAL_OWN_ERROR),
        unigram_nats=None if unigram is None else unigram.nats_per_token,
        lr=_series(run.training, "train/lr"),
        grad_norm=_series(run.training, "train/grad_norm"),
        left_to_right_nats=_series(run.evaluations, EVAL_CAUSAL_NATS, error_key=EVAL_CAUSAL_ERROR),
        bound_name="validation loss" if is_exact else "validation bound",
    )
    title = "Training loss and validation bound against the step, with learning rate and gradient norm below"
    return Markup(svg(figure, name="curves", title=title))


def _series(metrics: Metrics, key: str, *, error_key: str | None = None) -> Series | None:
    rows = metrics.having(key)
    if not len(rows):
        return None
    error = None if error_key is None else rows.column(error_key)
    return Series(x=rows.column("step"), y=rows.column(key), standard_error=error)


def _profile(profile: MaskRateProfile, unigram: Cost | None) -> Markup | None:
    mask_rate, nats, error = map(np.array, (profile.mask_rate, profile.nats_per_masked_token, profile.standard_error))
    if not len(mask_rate) or len(nats) != len(mask_rate):
        return None
    figure = training_plots.mask_rate_profile(
        mask_rate=mask_rate,
        nats_per_masked_token=nats,
        standard_error=error if len(error) == len(nats) else None,
        unigram_nats=None if unigram is None else unigram.nats_per_token,
    )
    title = "Cost of a masked token against the share of tokens that is masked"
    return Markup(svg(figure, name="profile", title=title))


def _inspected(run: RunFolder, gaps: list[str]) -> InspectedText | None:
    if not run.inspection:
        return None
    try:
        return InspectedText.from_record(run.inspection)
    except ValueError:
        gaps.append("inspection.json could not be read: it is cut off or altered.")
        return None


def _importance(inspected: InspectedText | None) -> dict[str, Markup]:
    if inspected is None:
        return {}
    return {"heatmap": heatmap(inspected, MAX_HEATMAP_TOKENS), **figures(inspected)}


def _progress(run: RunFolder) -> Markup | None:
    """A picture of the curriculum and of importance in training; None where neither was on."""
    low, median, high = (_series(run.training, f"importance/q{percent}") for percent in (10, 50, 90))
    stage = _series(run.training, "curriculum/stage")
    quantiles = (low, median, high) if low and median and high else None
    if stage is None and quantiles is None:
        return None
    figure = training_plots.curriculum_progress(
        stage=stage,
        temperature=_series(run.training, "curriculum/temperature"),
        importance=quantiles,
        correlation=_series(run.training, "importance/correlation"),
        stage_names=STAGE_NAMES,
    )
    title = "Curriculum stage and temperature, importance and its correlation with the loss against the step"
    return Markup(svg(figure, name="progress", title=title))


def _evaluation_table(run: RunFolder) -> list[dict[str, str]]:
    """A row for each stored evaluation; no rows where there is only the one that the headline shows."""
    rows = [
        {
            "file": file_name,
            "step": "" if found.step is None else count(found.step),
            "split": found.text.split or "",
            "draws": count(found.num_draws) if found.num_draws else "",
            "nats": with_error(found.nats_per_token, found.standard_error),
            "bits": ""
            if math.isnan(found.bits_per_character)
            else with_error(found.bits_per_character, None) + LOSSY * found.is_lossy,
        }
        for file_name, found in run.evals.items()
    ]
    return rows if len(rows) > 1 else []


def _samples(run: RunFolder) -> list[dict[str, str]]:
    shown = []
    for sample in run.samples[:MAX_SAMPLES]:
        known = [key for key in SAMPLE_WORDING if sample.get(key) not in (None, "")]
        others = [key for key in sample if key not in SAMPLE_WORDING and key != "text"]
        settings = [SAMPLE_WORDING[key].format(plain(sample[key])) for key in known]
        settings += [f"{key} {plain(sample[key])}" for key in others]
        shown.append({"text": sample["text"], "settings": " · ".join(settings)})
    return shown


def _how_to_read(run: RunFolder, result: Evaluation | None, *, is_exact: bool) -> list[str]:
    train, objective = section(run.config, "train"), section(run.config, "objective")
    if is_exact:
        sentences = [
            "The validation loss is the exact negative log-likelihood of the text under the model, by the chain rule: "
            "not a bound, so it may be compared directly with other models' likelihoods on the same text.",
            "Its standard error is between the sequences of this validation text; it says nothing about other training "
            "seeds.",
        ]
    else:
        sentences = [
            "The validation number is an upper bound (negative ELBO): the model's true negative log-likelihood is at "
            "most this, in expectation over the masks. How far below it lies is not known.",
            "Its standard error is over the random draws of sequences and masks from this validation text; it says "
            "nothing about other texts or other training seeds.",
            *_about_schedules(run, result),
        ]
    if result is not None and _order_numbers(result):
        sentences.append(
            "Left to right and the own order of a sampler are likelihoods of their own, of the same model: the text is "
            "predicted in one order, by the chain rule, or revealed as the sampler would write it, several places at a "
            "time. Exact ones are no bounds; their error is between sequences. Compare each with the same of another "
            "model, never with its bound."
        )
    masking, curriculum = section(run.config, "masking"), section(run.config, "curriculum")
    is_bound = (
        objective.get("weighting", "elbo") == "elbo"
        and objective.get("time_sampling", "uniform") == "uniform"
        and curriculum.get("kind", "none") == "none"
        and not str(masking.get("strategy", "uniform")).startswith("literal_")
    )
    has_estimator = section(run.config, "importance").get("mode", "none") in ("full", "learned_only")
    averaged = number_at(train, "ema_decay") != 0
    scale = (
        "The training loss is on the same scale, nats per token"
        if is_exact or is_bound
        else "The training loss is reweighted and so not on the scale of the bound"
    )
    weights = ", and it is taken on the weights as they are, not on their moving average" if averaged else ""
    extra = "; it includes the estimator's own loss, which is no part of the bound" if has_estimator else ""
    sentences.append(f"{scale}{extra}; it is noisy, each line covering few batches{weights}.")
    if result is not None and result.text.loss_on == "answers":
        sentences.append(
            "Answers alone are trained on and scored, each under its prompt: losses, bounds and likelihoods are per "
            "token or character of an answer, its end included."
        )
    across = "bits per character compare across tokenizers, on the same text"
    if result is not None and result.is_lossy:
        across = f"so do those per character here: {result.loss_in_words}"
    sentences.append(f"Numbers per token compare only models with the same tokenizer; {across}.")
    return sentences


def _about_schedules(run: RunFolder, result: Evaluation | None) -> list[str]:
    """A sentence on what PPL-U and PPL-S are where they are two numbers, or on why there is only one."""
    strategy = str(section(run.config, "masking").get("strategy", "uniform"))
    if result is not None and result.has_own_schedule:
        return [
            "PPL-U is the bound when every token is as likely to be masked as any other: the same question for every "
            f"method. PPL-S is the bound under the model's own masking schedule ({strategy}), and includes what it "
            "costs to predict which token is revealed when. Compare like with like; for a model whose own schedule is "
            "the uniform one the two are one number."
        ]
    if strategy.startswith("literal_"):
        return [
            f"Only PPL-U is reported: the masking strategy {strategy} leaks what it hides, so the loss under it is no "
            "bound."
        ]
    return []


def _config_tables(config: Mapping[str, Any]) -> dict[str, list[Setting]]:
    """A table for each section of settings. Where a value differs from the setting's default, that is shown too."""
    defaults = json.loads(json.dumps(dataclasses.asdict(RunConfig())))  # tuples become lists, as in YAML
    tables = {}
    for name, settings in config.items():
        if not isinstance(settings, dict):
            settings = {name: settings}
        known = defaults.get(name, {})
        tables[str(name)] = [
            Setting(str(field), plain(value), plain(known[field]) if field in known and known[field] != value else None)
            for field, value in settings.items()
        ]
    return tables


BULK = ("profile", "deciles", "t_step", "blocks", "left_to_right", "own_orders")  # arrays and tables


def _provenance(run: RunFolder, result: Evaluation | None) -> dict[str, list[tuple[str, str]]]:
    """Everything else that is stored with the numbers, as tables. Arrays are left out; they are in the pictures."""
    tables = {}
    if run.info:
        begun = {name: value for name, value in run.info.items() if name != "settings"}  # they have tables of their own
        tables["run.json"] = flat(begun)
    if run.evals and result is not None:
        stored = result.to_json()
        tables[f"evals/{next(iter(run.evals))}"] = flat({k: v for k, v in stored.items() if k not in BULK})
    return tables


def _commands(run: RunFolder) -> list[tuple[str, str]]:
    command = run.info.get("command")
    return [
        *([("reproduce", command)] if isinstance(command, str) and command else []),
        ("resume, or go on", command_line(["train", "--resume", run.path])),
        ("evaluate again", command_line(["eval", run.path])),
        ("generate", command_line(["generate", run.path, "--watch"])),
    ]
