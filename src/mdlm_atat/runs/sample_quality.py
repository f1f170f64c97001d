"""Measure how good the texts are that a model makes, by sampler, number of steps and temperature."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Unpack

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from mdlm_atat.atomic import stored_if_possible
from mdlm_atat.checks import check_keywords
from mdlm_atat.data.readers.reading import ReadingSettings
from mdlm_atat.data.tokens import TokenDataset
from mdlm_atat.device import explain_out_of_memory
from mdlm_atat.errors import UserError
from mdlm_atat.lm import CausalLM, How, MaskedDiffusionLM, load_lm
from mdlm_atat.model_folder import BOX_NAME, results_folder
from mdlm_atat.progress import OnProgress, shown
from mdlm_atat.published.hub import PREFIX
from mdlm_atat.published.parts import parts_there
from mdlm_atat.published.place import find_model
from mdlm_atat.runs.evaluate import Data, config_of, open_data, traced, weights_name, writable
from mdlm_atat.runs.model import Model, open_model
from mdlm_atat.samplers.canvas import Canvas
from mdlm_atat.samplers.catalogue import says_its_steps
from mdlm_atat.samplers.named import make_sampler
from mdlm_atat.samplers.seeds import SeedRule, text_seeds
from mdlm_atat.samplers.uncertainty import ADAPTIVE_AMOUNTS
from mdlm_atat.scoring.judge import CausalJudge, HubJudge, Judge
from mdlm_atat.scoring.quality import (
    REFERENCE,
    HowSampled,
    QualitySetting,
    SamplePoint,
    SampleQuality,
    Task,
)
from mdlm_atat.scoring.records import TextIdentity
from mdlm_atat.scoring.samples import Quality, RealTexts, cautions, real_texts
from mdlm_atat.training.folder import read_start

PLANNED = ("ancestral", "first_hitting:sizes=constant", "first_hitting:sizes=cosine", "first_hitting:sizes=optimal")
ADAPTIVE = (
    "spread",
    "spread:score=margin",
    "uncertainty:amount=constant",
    "uncertainty:score=margin,amount=constant",
    "uncertainty:order=most_uncertain,amount=constant",
    "dilated",
    "segments",
    "confidence",
    "remask",
)
BUDGETED = (
    "entropy_budget:gamma=0.03",
    "entropy_budget:gamma=0.1",
    "entropy_budget:gamma=0.3",
    "entropy_budget:gamma=1",
    "entropy_budget:gamma=3",
    "entropy_budget:gamma=1,spacing=8",
    "entropy_budget:gamma=3,spacing=8",
    "threshold:threshold=0.9",
    "threshold:threshold=0.6",
    "threshold:threshold=0.3",
    "threshold:threshold=0.3,spacing=8",
)
BY_RATES = ("follow_rates", "rate_hitting:sizes=constant")


def sample_quality(
    model: Model,
    ways: Sequence[HowSampled] | None = None,
    *,
    task: Task = "generate",
    num_texts: int = 64,
    length: int | None = None,
    judge: str | Path | Judge | None = None,
    data: Data | None = None,
    split: str | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    num_scored: int = 0,
    with_mauve: bool = True,
    save: bool | str | Path = True,
    progress: bool | OnProgress = True,
    on_point: Callable[[SamplePoint], None] = lambda _: None,
    **reading: Unpack[ReadingSettings],
) -> SampleQuality:
    """Make texts in each of some ways, and measure them beside validation text.

    `ways`: None is the model's own sampler alone; see also `compared_samplers`. `task`: "generate" makes whole texts,
    "infill" fills what is left out of validation text. `num_texts` texts of `length` tokens are made (default: the
    model's length), each from a seed of its own, `batch_size` of them together.
    `judge`: who says how likely the texts are: the folder of a causal run of ours; a hub's causal model, as its name,
    its folder or a .gguf file; or a `Judge`. `data`, `split` and `reading` (`column`, `encoding`, ...): the validation
    text, as for `evaluate`.
    `num_scored`: validation texts whose likelihood in each sampler's own order is taken, too. `with_mauve`: with a
    judge that gives features of texts, compute MAUVE of these. `seconds` of a point leave out what is done once,
    compiling among it.
    `save`: where the record is stored as JSON, after each point; True: in the model's folder. Points that are stored
    there already are not measured again, but for those without a MAUVE that is asked for. `on_point` hears of every
    point that was asked for, in order.

    Returns all points of the record. Raises UserError for a sampler, a judge or a text that does not fit, before any
    text is made, and for a stored record of another model or setting.
    """
    check_keywords(reading, sample_quality, ReadingSettings.__annotations__)
    lm = open_model(model)
    wanted = (
        list(ways) if ways is not None else [HowSampled(lm.gap_sampler if task == "infill" else lm.default_sampler)]
    )
    length = length or lm.max_length
    setting = QualitySetting(task=task, num_texts=num_texts, length=length, seed=seed, num_scored=num_scored)
    check_ways(lm, wanted, length)
    size = batch_size or config_of(lm).eval.batch_size
    rows = open_data(lm, data, split=split, **reading)
    real = real_texts(in_pieces_of(rows, length), num_texts, length, seed)
    same_text = False
    if isinstance(judge, str | Path):
        same_text = _same_training_text(lm.home, Path(judge))
        judge = load_judge(judge, device=lm.device, batch_size=size)
    about: dict[str, Any] = {
        "setting": setting,
        "weights": lm.fingerprint() if isinstance(lm.network, nn.Module) else "",
        "judge": None if judge is None else judge.name,
        "text": TextIdentity.of(rows),
    }
    file, record = _file(lm, setting, save), None
    if file is not None and file.exists():
        record = replace(SampleQuality.load(file), is_complete=False)
        record.check_takes(**about)
    with explain_out_of_memory(f"try `batch_size={max(1, size // 2)}`"):
        tokenizer = lm.tokenizer
        quality = Quality(
            judge, real, decode=tokenizer.decode, fingerprint=tokenizer.fingerprint(), with_mauve=with_mauve
        )
        record = record or SampleQuality(**about, real=quality.of_real_text(), **traced(lm))
        if quality.has_mauve and record.real.mauve is None:  # it was stored without
            record = replace(record, real=quality.of_real_text())
        work = _Measuring(lm, quality, setting, seed_rule=record.seed_rule, batch_size=size)
        for how in wanted:
            point = record.find(how)
            if point is None or (quality.has_mauve and point.mauve is None):
                with shown("writing", progress) as on_progress:
                    point = work.measure(how, on_progress)
                told = cautions(point, record.real, judge_saw_training_text=same_text)
                point = replace(point, cautions=tuple(told))
                others = tuple(other for other in record.points if other.how != how)
                record = replace(record, points=(*others, point))
                record = _stored(record, file)
            on_point(point)
    return _stored(replace(record, is_complete=True), file)


def in_pieces_of(rows: TokenDataset, length: int) -> TokenDataset:
    """A text that is one stream in rows of so many tokens, where they are longer than its own; documents as they
    are."""
    return replace(rows, length=length) if length > rows.length and rows.row_starts is None else rows


def _stored(record: SampleQuality, file: Path | None) -> SampleQuality:
    """The record in its file; where there is none, or it cannot be written, the record alone."""
    if file is not None:
        with stored_if_possible(file):
            return record.save(file)
    return replace(record, file=None)


def compared_samplers(
    lm: MaskedDiffusionLM, steps: Sequence[int], samplers: Sequence[str] | None = None
) -> list[HowSampled]:
    """Samplers to compare, each at each number of steps, the reference (one token at a time) first. `samplers` None:
    everything that fits the model. Those whose steps follow from what the network says, or are said, are there once."""
    if samplers is None:
        planned = PLANNED if lm.home is not None and lm.profile() is not None else PLANNED[:-1]
        samplers = [*planned, *ADAPTIVE, *(BY_RATES if lm.has_own_schedule else ()), *BUDGETED]
        samplers += ["left_to_right"] * ("causal" in lm.modes)
    ways = [HowSampled(REFERENCE)]
    for sampler in samplers:
        rule = make_sampler(sampler.replace("optimal", "constant"))
        fixed = getattr(rule, "amount", "") in ADAPTIVE_AMOUNTS or says_its_steps(sampler)
        numbers = [None] if fixed or not hasattr(rule, "num_steps") else steps
        ways += [HowSampled(sampler, number) for number in numbers]
    return ways


def check_ways(lm: MaskedDiffusionLM | CausalLM, ways: Sequence[HowSampled], length: int) -> None:
    """Raise UserError for a way of making texts that this model cannot go."""
    canvas = lm.prompt_canvas([""], length)
    for how in ways:
        if how.steps is not None and lm.kind == "causal":
            raise UserError("`steps=`: a causal model takes one step a token")
        lm.denoiser(lm.rule(How(**asdict(how)), canvas))


def load_judge(judge: str | Path, *, device: torch.device, batch_size: int) -> Judge:
    """One of our causal models by its folder, or a causal model of a hub, by its name (also as hub:OWNER/NAME), folder
    or .gguf file. Raises UserError where there is none, and where it does not fit into memory."""
    is_named_so = str(judge).startswith(PREFIX)
    if is_named_so or Path(judge).expanduser().exists() or Path(judge) == Path(BOX_NAME):
        place = find_model(judge if is_named_so else Path(judge).expanduser(), of_any_family=True)
        if place.path.suffix == ".gguf" or (place.is_published and place.path.is_dir()):
            place.check_memory()
            if place.path.suffix == ".gguf" and len(parts_there(place.path)) > 1:
                raise UserError(
                    f"the judge {judge} is in several parts: join them into one file (llama-gguf-split --merge "
                    "FIRST_PART WHOLE, of llama.cpp)"
                )
            return HubJudge(str(judge), path=place.path, device=device, batch_size=min(8, batch_size))
    else:
        return HubJudge(str(judge), device=device, batch_size=min(8, batch_size))
    lm = load_lm(judge, device=device)
    if "causal" not in lm.modes:
        raise UserError(
            f"{judge} is a masked model; a judge reads left to right: train one with "
            "`method='atat'`, or the preset causal-char"
        )
    return CausalJudge(
        str(judge),
        lm.network,
        lm.tokenizer,
        lm.max_length,
        device=device,
        batch_size=min(16, batch_size),
        autocast=lm.inference,
    )


def make_canvas(
    setting: QualitySetting, real: RealTexts, mask_id: int
) -> tuple[Canvas, Int[Tensor, "texts length"] | None]:
    """What is to be filled and, where that is the rest of given texts, the whole texts.

    Raises UserError where there are too few texts to infill.
    """
    if setting.task == "generate":
        return Canvas.blank(setting.num_texts, setting.length, mask_id), None
    if len(real.reference) < setting.num_texts:
        raise UserError(
            f"the validation text has {len(real.reference)} pieces of {setting.length} tokens; ask for at most so many "
            "texts to infill"
        )
    whole = torch.tensor(real.reference)
    place = torch.arange(setting.length) // setting.span
    fixed = (place + torch.arange(len(whole))[:, None]) % 2 == 0  # given spans at even places in every other row
    return Canvas(torch.where(fixed, whole, mask_id), fixed), whole


def cost_of_real_text(
    lm: MaskedDiffusionLM | CausalLM,
    how: HowSampled,
    fixed: Bool[Tensor, "texts length"],
    known: Int[Tensor, "texts length"],
    *,
    seed: int,
) -> dict[str, Any]:
    """Nats a token for known texts revealed by the sampler itself: -log of the probability that it makes them (exact),
    or where its order is random a bound on that, from one order for each text. `fixed` tokens are given, and cost
    nothing."""
    canvas = Canvas(torch.where(fixed, known, lm.tokenizer.mask_id), fixed)
    nll, exact = lm.nll_revealed_by(canvas, known, how.sampler, steps=how.steps, seed=seed)
    per_text = nll / (~fixed).sum(1)
    error = float(per_text.std() / math.sqrt(len(known))) if len(known) > 1 else math.nan
    kind = "exact" if exact else "bound"
    return {"order_nats": float(per_text.mean()), "order_error": error, "order_kind": kind}


class _Measuring:
    """Makes and measures the texts of one record, way after way."""

    def __init__(
        self,
        lm: MaskedDiffusionLM | CausalLM,
        quality: Quality,
        setting: QualitySetting,
        *,
        seed_rule: SeedRule,
        batch_size: int,
    ) -> None:
        self.lm, self.quality, self.setting, self.batch_size = lm, quality, setting, batch_size
        self.seed_rule: SeedRule = seed_rule
        self.canvas, self.known = make_canvas(setting, quality.real, lm.tokenizer.mask_id)
        self._warm: set[str] = set()  # families of samplers

    def warm_up(self, how: HowSampled) -> None:
        """Make texts that are not measured, of every shape of those to come, the first time that such a sampler is
        asked for: what a device does once, and compiling, are then no part of a point's seconds.

        Rows that are done early leave the batch, so where the network is compiled there are all powers of two of them.
        Two steps do, of samplers that take a number of them."""
        if how.family in self._warm:
            return
        self._warm.add(how.family)
        rule = make_sampler(how.sampler, profile=self.lm.profile) if self.lm.kind != "causal" else None
        takes_steps = hasattr(rule, "num_steps") and not says_its_steps(how.sampler)
        numbers = {len(rows.tokens) for rows in self._batches()}
        if self.lm.is_compiled and takes_steps:
            numbers |= {2**k for k in range(max(numbers).bit_length())}
        for number in sorted(numbers, reverse=True):
            rows = Canvas(self.canvas.tokens[:number], self.canvas.fixed[:number])
            self.lm.fill(rows, **asdict(replace(how, steps=2) if takes_steps else how))

    def _batches(self) -> Iterator[Canvas]:
        for start in range(0, self.setting.num_texts, self.batch_size):
            part = slice(start, start + self.batch_size)
            yield Canvas(self.canvas.tokens[part], self.canvas.fixed[part])

    def measure(self, how: HowSampled, on_progress: OnProgress | None) -> SamplePoint:
        """Make the texts of one way; their time, evaluations, quality and likelihood."""
        setting, fixed = self.setting, self.canvas.fixed
        tokens: list[list[int]] = []
        nfe: list[int] = []
        self.warm_up(how)
        start_s = time.perf_counter()
        for rows in self._batches():
            seeds = text_seeds(setting.seed, range(len(tokens), len(tokens) + len(rows.tokens)), self.seed_rule)
            made = self.lm.fill(rows, seed=seeds, **asdict(how))
            tokens += [text.tokens for text in made]
            nfe += [text.nfe for text in made]
            if on_progress is not None:
                on_progress(len(tokens), setting.num_texts)
        seconds = time.perf_counter() - start_s
        found, num_filled = self.quality(tokens), int((~fixed).sum())
        more: dict[str, Any] = {}
        if self.known is not None:
            more["recovered"] = int(((torch.tensor(tokens) == self.known) & ~fixed).sum()) / num_filled
        if setting.num_scored and not how.sampler.startswith("remask"):
            known = torch.tensor(self.quality.real.reference[: setting.num_scored])
            more |= cost_of_real_text(self.lm, how, fixed[: len(known)], known, seed=setting.seed)
        return SamplePoint(
            **vars(found),
            how=how,
            nfe_mean=sum(nfe) / len(nfe),
            nfe_max=max(nfe),
            seconds=seconds,
            tokens_per_s=num_filled / seconds,
            batch_size=self.batch_size,
            is_compiled=self.lm.is_compiled,
            **more,
        )


def _file(lm: MaskedDiffusionLM | CausalLM, setting: QualitySetting, save: bool | str | Path) -> Path | None:
    if not isinstance(save, bool):
        return writable(Path(save))
    if not save or lm.home is None:
        return None
    task = "" if setting.task == "generate" else f"-{setting.task}"
    name = f"samples{task}-{weights_name(lm)}-{setting.num_texts}x{setting.length}-{setting.seed}.json"
    return results_folder(lm.home, name)


def _same_training_text(home: Path | None, judge: Path) -> bool:
    """Whether the judge is a run of ours that was trained on the same text as this model."""
    runs = [folder for folder in (home, judge, judge.parent.parent) if folder is not None]  # the last is a checkpoint's
    data = [read_start(run)["data"] for run in runs if (run / "run.json").is_file()]
    mine, others = data[:1], data[1:]
    return any(mine[0][name] == other[name] for other in others for name in ("source", "hash"))
