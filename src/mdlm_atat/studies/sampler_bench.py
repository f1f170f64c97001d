"""How good a model's samples are, by sampler and by number of network evaluations."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from mdlm_atat.atomic import write_json
from mdlm_atat.errors import UserError
from mdlm_atat.lm import MaskedDiffusionLM, load_lm
from mdlm_atat.samplers.canvas import Canvas
from mdlm_atat.samplers.named import make_sampler
from mdlm_atat.samplers.seeds import text_seeds
from mdlm_atat.samplers.uncertainty import ADAPTIVE_AMOUNTS
from mdlm_atat.scoring.draws import Rows
from mdlm_atat.scoring.generative import measure_texts
from mdlm_atat.scoring.judge import CausalJudge, HubJudge, Judge

REFERENCE = "first_hitting"  # one token at a time: exact for the model, what the others are measured against
PLANNED = ("ancestral", "first_hitting:sizes=constant", "first_hitting:sizes=cosine", "first_hitting:sizes=optimal")
ADAPTIVE = (
    "spread",
    "spread:score=margin",
    "uncertainty:amount=constant",
    "uncertainty:score=margin,amount=constant",
    "uncertainty:order=most_uncertain,amount=constant",
    "confidence",
    "remask",
)
BUDGETED = (
    "entropy_budget:gamma=0.03",
    "entropy_budget:gamma=0.1",
    "entropy_budget:gamma=0.3",
    "entropy_budget:gamma=1",
    "entropy_budget:gamma=3",
    "threshold:threshold=0.9",
    "threshold:threshold=0.6",
    "threshold:threshold=0.3",
)
BY_RATES = ("follow_rates", "rate_hitting:sizes=constant")
Task = Literal["generate", "infill"]


@dataclass(frozen=True)
class Setting:
    """What all points of a bench have in common."""

    task: Task
    """infill: every other span of tokens of a validation text is given, half of it in all."""
    num_texts: int
    length: int
    batch_size: int
    seed: int
    num_scored: int
    """Validation texts whose likelihood in the sampler's own order is taken."""
    span: int


def default_specs(lm: MaskedDiffusionLM, steps: Sequence[int]) -> list[tuple[str, int | None]]:
    """(sampler, steps) of everything there is to compare for a model; the reference first."""
    planned = PLANNED if lm.profile() is not None else PLANNED[:-1]
    by_rates = BY_RATES if lm.has_own_schedule else ()
    return [(REFERENCE, None), *with_steps([*planned, *ADAPTIVE, *by_rates, *BUDGETED], steps)]


def with_steps(specs: Sequence[str], steps: Sequence[int]) -> list[tuple[str, int | None]]:
    """Each sampler at each number of steps; once where the steps follow from what the network says, or are said."""
    points: list[tuple[str, int | None]] = []
    for spec in specs:
        rule = make_sampler(spec.replace("optimal", "constant"))
        fixed = getattr(rule, "amount", "") in ADAPTIVE_AMOUNTS or "num_steps" in spec or not hasattr(rule, "num_steps")
        points += [(spec, None)] if fixed else [(spec, number) for number in steps]
    return points


def run_bench(
    lm: MaskedDiffusionLM,
    points: Sequence[tuple[str, int | None]],
    setting: Setting,
    rows: Rows,
    judge: Judge | None,
    *,
    file: Path,
    machine: dict[str, Any],
    on_point: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure every point, writing the record after each: what is there already for the same setting is kept."""
    head = {
        "weights": lm.fingerprint(),
        "judge": None if judge is None else judge.name,
        **asdict(setting),
    }
    record: dict[str, Any] = {**head, "machine": machine, "points": []}
    if file.exists():
        found = json.loads(file.read_text(encoding="utf-8"))
        if {name: found.get(name) for name in head} != head:
            raise UserError(
                f"{file} holds a bench of another model or setting; name another file by `out=`, or delete it"
            )
        record = found
    canvas, real = make_canvas(lm, setting, rows)
    if "real" not in record:
        record["real"] = asdict(measure_texts(real.tolist())) | judged(judge, lm, real)
        lm.fill(Canvas(canvas.tokens[:2], canvas.fixed[:2]), sampler=REFERENCE, steps=2)  # warms up
    done = {(point["sampler"], point["steps"]) for point in record["points"]}
    for spec, steps in points:
        if (spec, steps) in done:
            continue
        record["points"].append(measure(lm, spec, steps, setting, canvas, real, judge))
        write_json(file, record)
        on_point(record["points"][-1])
    record["needed"] = steps_needed(record["points"], record["real"])
    write_json(file, record)
    return record


def make_canvas(lm: MaskedDiffusionLM, setting: Setting, rows: Rows) -> tuple[Canvas, Int[Tensor, "texts length"]]:
    """What is to be filled, and validation texts of the same length."""
    chosen = np.random.default_rng(setting.seed).permutation(rows.num_evaluation_rows)
    found = [torch.zeros(0, setting.length, dtype=torch.int64)]
    for start in range(0, len(chosen), setting.num_texts):  # no more of a large data set than it takes
        ids, lengths = rows.evaluation_rows(chosen[start : start + setting.num_texts])
        found.append(torch.from_numpy(ids[lengths >= setting.length, : setting.length]))
        if sum(map(len, found)) >= setting.num_texts:
            break
    whole = torch.cat(found)[: setting.num_texts]
    if len(whole) < setting.num_texts and setting.task == "infill":
        raise UserError(
            f"the validation text has {len(whole)} pieces of {setting.length} tokens; ask for at most so many texts "
            "to infill"
        )
    if setting.task == "generate":
        return Canvas.blank(setting.num_texts, setting.length, lm.tokenizer.mask_id), whole
    place = torch.arange(setting.length) // setting.span
    fixed = (place + torch.arange(len(whole))[:, None]) % 2 == 0  # given spans at even places in every other row
    return Canvas(torch.where(fixed, whole, lm.tokenizer.mask_id), fixed), whole


def measure(
    lm: MaskedDiffusionLM,
    spec: str,
    steps: int | None,
    setting: Setting,
    canvas: Canvas,
    real: Int[Tensor, "texts length"],
    judge: Judge | None,
) -> dict[str, Any]:
    """One sampler at one number of steps: time, evaluations, quality, likelihood."""
    tokens, nfe = [], []
    start_s = time.perf_counter()
    for start in range(0, setting.num_texts, setting.batch_size):
        part = slice(start, start + setting.batch_size)
        rows = Canvas(canvas.tokens[part], canvas.fixed[part])
        seeds = text_seeds(setting.seed, range(start, start + len(rows.tokens)))
        made = lm.fill(rows, sampler=spec, steps=steps, seed=seeds)
        tokens += [text.tokens for text in made]
        nfe += [text.nfe for text in made]
    seconds = time.perf_counter() - start_s
    num_filled = int((~canvas.fixed).sum())
    point = {
        "sampler": spec,
        "steps": steps,
        "curve": curve_of(spec),
        "nfe_mean": float(np.mean(nfe)),
        "nfe_max": max(nfe),
        "seconds": seconds,
        "tokens_per_s": num_filled / seconds,
        **asdict(measure_texts(tokens)),
        **judged(judge, lm, torch.tensor(tokens)),
    }
    if setting.task == "infill":
        same = (torch.tensor(tokens) == real) & ~canvas.fixed
        point["recovered"] = int(same.sum()) / num_filled
    if setting.num_scored and not spec.startswith("remask"):
        point |= cost_of_real_text(lm, spec, steps, setting, canvas, real)
    return point


def judged(judge: Judge | None, lm: MaskedDiffusionLM, tokens: Int[Tensor, "texts length"]) -> dict[str, float]:
    """Nats a token that the judge pays for the texts: the very tokens where it has the same tokenizer."""
    if judge is None:
        return {}
    if isinstance(judge, CausalJudge) and judge.tokenizer.fingerprint() == lm.tokenizer.fingerprint():
        found = judge.score_rows(tokens.tolist())
    else:
        found = judge([lm.tokenizer.decode(row) for row in tokens.tolist()])
    nats, error = found.nats_per_token()
    return {"judge_nats": nats, "judge_error": error, "judge_perplexity": found.perplexity}


def cost_of_real_text(
    lm: MaskedDiffusionLM, spec: str, steps: int | None, setting: Setting, canvas: Canvas, real: Tensor
) -> dict[str, float | str]:
    """Nats a token for validation texts revealed by the sampler itself: -log of the probability that it makes them
    (exact), or where its order is random a bound on that, from one order for each text."""
    num = min(setting.num_scored, len(real), len(canvas.tokens))
    known, fixed = real[:num], canvas.fixed[:num]
    nll, exact = lm.nll_revealed_by(
        Canvas(torch.where(fixed, known, lm.tokenizer.mask_id), fixed), known, spec, steps=steps, seed=setting.seed
    )
    per_text = nll / (~fixed).sum(1)
    error = float(per_text.std() / math.sqrt(num)) if num > 1 else math.nan
    return {
        "order_nats": float(per_text.mean()),
        "order_error": error,
        "order_kind": "exact" if exact else "bound",
    }


def is_no_worse(point: dict[str, Any], reference: dict[str, Any], real: dict[str, Any]) -> bool:
    """Within two standard errors of the reference or better: what the judge pays, and how far the entropy is from that
    of validation text. (A lower judge's perplexity alone would make dull text the best.) With few texts the errors
    are wide, and much is no worse."""

    def excess(value: str, error: str, distance: Callable[[float], float]) -> bool:
        allowed = 2 * math.hypot(point[error], reference[error])
        return distance(point[value]) <= distance(reference[value]) + allowed

    good = excess("entropy_nats", "entropy_error", lambda nats: abs(nats - real["entropy_nats"]))
    return good and ("judge_nats" not in reference or excess("judge_nats", "judge_error", lambda nats: nats))


def steps_needed(points: Sequence[dict[str, Any]], real: dict[str, Any]) -> dict[str, dict[str, float]]:
    """For each sampler the fewest evaluations (mean) from which on it is no worse than the reference, and their share
    of the reference's."""
    reference = next((point for point in points if point["sampler"] == REFERENCE and point["steps"] is None), None)
    if reference is None:
        return {}
    needed: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(point["curve"] for point in points):
        mine = sorted((p for p in points if p["curve"] == name), key=lambda p: -p["nfe_mean"])
        least = None
        for point in mine:
            if not is_no_worse(point, reference, real):
                break
            least = point
        if least is not None and least is not reference:
            needed[name] = {"nfe": least["nfe_mean"], "share": least["nfe_mean"] / reference["nfe_mean"]}
    return needed


def curve_of(spec: str) -> str:
    """What belongs together: a sampler at several numbers of steps, or with several budgets or thresholds."""
    name, _, options = spec.partition(":")
    kept = [o for o in options.split(",") if o and not o.startswith(("gamma=", "threshold="))]
    return ":".join([name, ",".join(kept)]) if kept else name


def load_judge(name: str, *, device: torch.device, batch_size: int) -> Judge:
    """One of our causal models by its folder, or a causal model of a hub, by its name or folder."""
    if not Path(name).is_dir() or (Path(name) / "config.json").exists():
        return HubJudge(name, device=device, batch_size=min(8, batch_size))
    lm = load_lm(name, device=device)
    if "causal" not in lm.modes:
        raise UserError(f"{name} is a masked model; a judge reads left to right: train one with `model.kind='causal'`")
    return CausalJudge(
        name, lm.network, lm.tokenizer, lm.max_length, device=device, batch_size=batch_size, autocast=lm.inference
    )
