"""How good generated texts are, as it is recorded: a point for each way of making them, beside real text.

No torch here: reports read many of these records and compute none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from mdlm_atat.atomic import write_json
from mdlm_atat.checks import at_least, one_of
from mdlm_atat.errors import UserError
from mdlm_atat.samplers.catalogue import without_budget
from mdlm_atat.scoring.record_json import json_ready, load_json, read_fields, read_record
from mdlm_atat.scoring.records import Machine, TextIdentity
from mdlm_atat.scoring.statistics import clear_factor

FORMAT = 1
"""Of the JSON. Files of versions before this number was written have none, and are read too."""
REFERENCE = "first_hitting"  # one token at a time: exact for the model, what other samplers are measured against
Task = Literal["generate", "infill"]


@dataclass(frozen=True, kw_only=True)
class TextQuality:
    """What can be said of one set of texts. Errors are standard errors over texts, NaN for a single one; None is what
    was not measured.

    Every one of these numbers depends on how long the texts are, and distinct-n on how many: compare sets of equal
    length and number, and put the same numbers of real text beside them.
    """

    num_samples: int
    num_tokens: int
    """Over all texts."""
    entropy_nats: float
    """Of a text's own tokens: see generative.unigram_entropy."""
    entropy_error: float
    bigram_entropy_nats: float = math.nan
    bigram_entropy_error: float = math.nan
    distinct_1: float = math.nan
    distinct_2: float = math.nan
    distinct_3: float = math.nan
    repetition: float = math.nan
    """Share of 4-grams seen earlier in the text."""
    repetition_error: float = math.nan
    judge_nats: float | None = None
    """Per token, of a model that reads the texts."""
    judge_error: float | None = None
    judge_perplexity: float | None = None
    mauve: float | None = None
    """Against real text, from 0 to 1: see scoring.mauve."""
    mauve_spread: float | None = None
    """Over clusterings; it does not hold the luck of the texts."""
    mauve_clusters: int | None = None


@dataclass(frozen=True)
class HowSampled:
    """One way of making texts: a sampler by name with its options, its number of steps, and a temperature."""

    sampler: str
    steps: int | None = None
    """None: as many as the sampler takes by itself."""
    temperature: float = 1.0

    @property
    def family(self) -> str:
        """The sampler without what decides how many steps it takes: what is one curve."""
        return without_budget(self.sampler)


@dataclass(frozen=True, kw_only=True)
class SamplePoint(TextQuality):
    """The texts that were made in one way."""

    how: HowSampled
    nfe_mean: float
    """Network evaluations a text."""
    nfe_max: int = 0
    seconds: float = math.nan
    """Wall time of all texts, after others of the same shapes that are not counted: compiling is left out."""
    tokens_per_s: float = math.nan
    batch_size: int | None = None
    """Texts made together, on which the seconds depend."""
    is_compiled: bool | None = None
    """Whether the network was compiled. None: of a version that did not say so, and counted compiling in `seconds`."""
    recovered: float | None = None
    """Share of the left out tokens that came back, of texts to infill."""
    order_nats: float | None = None
    """Nats per token that validation text costs in the sampler's own order."""
    order_error: float | None = None
    order_kind: Literal["exact", "bound"] | None = None
    cautions: tuple[str, ...] = ()
    """Where these numbers are known to mislead, a sentence each."""


@dataclass(frozen=True, kw_only=True)
class QualitySetting:
    """What all points of a record have in common. Raises UserError for numbers out of range."""

    task: Task = "generate"
    """infill: every other span of tokens of a validation text is given, half of it in all."""
    num_texts: int = 64
    length: int
    """Tokens of a text."""
    seed: int = 0
    num_scored: int = 0
    """Validation texts whose likelihood in the sampler's own order is taken."""

    def __post_init__(self) -> None:
        one_of("`task`", self.task, get_args(Task))
        for name, least in (("num_texts", 2), ("length", 1), ("num_scored", 0)):
            at_least(f"`{name}`", getattr(self, name), least)

    @property
    def span(self) -> int:
        """Tokens that are given, or left out, together in texts to infill."""
        return max(1, min(16, self.length // 4))


@dataclass(frozen=True, kw_only=True)
class Needed:
    """The fewest evaluations from which on a sampler is no worse than the reference."""

    nfe: float
    share: float
    """Of the reference's."""


@dataclass(frozen=True, kw_only=True)
class SampleQuality:
    """Points of one model under one judge, beside validation text."""

    setting: QualitySetting
    weights: str = ""
    """Hash of the model's."""
    judge: str | None = None
    real: TextQuality
    """Of validation text, as many pieces of the same length."""
    points: tuple[SamplePoint, ...] = field(default=(), repr=False)
    seed_rule: Literal["hash", "add"] = "hash"
    """How each text's seed follows from the setting's; files of before it was recorded added the text's index."""
    text: TextIdentity = field(default_factory=TextIdentity, repr=False)
    """The validation text."""
    checkpoint: str | None = None
    code_version: str | None = None
    commit: str | None = None
    machine: Machine = field(default_factory=Machine, repr=False)
    is_complete: bool = False
    """Whether all points that were asked for are there."""
    file: Path | None = field(default=None, compare=False)

    def find(self, how: HowSampled) -> SamplePoint | None:
        """The point of one way of making texts; None where it was not measured."""
        return next((point for point in self.points if point.how == how), None)

    @property
    def reference(self) -> SamplePoint | None:
        """One token at a time."""
        return self.find(HowSampled(REFERENCE))

    def curves(self) -> dict[str, list[SamplePoint]]:
        """Points that belong together, from few evaluations to many: a sampler at several numbers of steps, with
        several budgets or thresholds. Those of several temperatures are curves of their own."""
        temperatures = {point.how.temperature for point in self.points}
        families = {point.how.family for point in self.points}
        curves: dict[str, list[SamplePoint]] = {}
        for point in self.points:
            parts = [point.how.family] if len(families) > 1 or temperatures == {1.0} else []
            if temperatures != {1.0}:
                parts.append(f"temperature {point.how.temperature:g}")
            curves.setdefault(", ".join(parts), []).append(point)
        return {name: sorted(found, key=lambda point: point.nfe_mean) for name, found in curves.items()}

    def needed(self) -> dict[str, Needed]:
        """For each curve the fewest evaluations (mean) from which on it is no worse than one token at a time."""
        reference = self.reference
        if reference is None:
            return {}
        found: dict[str, Needed] = {}
        for name, points in self.curves().items():
            least = None
            for point in reversed(points):
                if not is_no_worse(point, reference, self.real):
                    break
                least = point
            if least is not None and least is not reference:
                found[name] = Needed(nfe=least.nfe_mean, share=least.nfe_mean / reference.nfe_mean)
        return found

    def check_takes(self, *, setting: QualitySetting, weights: str, judge: str | None, text: TextIdentity) -> None:
        """Raises UserError, with what differs, unless points that were measured so may join this record's."""
        known = {**asdict(self.setting), "weights": self.weights, "judge": self.judge}
        given = {**asdict(setting), "weights": weights, "judge": judge, "corpus_hash": text.corpus_hash}
        if self.text.corpus_hash is not None:  # the first files of benches do not say
            known["corpus_hash"] = self.text.corpus_hash
        differing = [name for name, value in known.items() if given[name] != value]
        if differing:
            raise UserError(
                f"{self.file} holds an evaluation of samples with another {', '.join(differing)}; name another file "
                "with `save=`, or delete it"
            )

    def to_json(self) -> dict[str, Any]:
        """A dict that json.dumps takes. A number that is not finite is None; what was not measured is left out."""
        record = {
            "format": FORMAT,
            "weights": self.weights,
            "judge": self.judge,
            **asdict(self.setting),
            "span": self.setting.span,
            "seed_rule": self.seed_rule,
            **asdict(self.text),
            "length": self.setting.length,
            "checkpoint": self.checkpoint,
            "code_version": self.code_version,
            "commit": self.commit,
            "machine": asdict(self.machine),
            "real": _measured(self.real),
            "points": [{**asdict(point.how), **_measured(point)} for point in self.points],
        }
        if self.is_complete:
            record["needed"] = {name: asdict(found) for name, found in self.needed().items()}
        return json_ready(record)

    @classmethod
    def from_json(cls, content: Any, *, source: str | Path = "this") -> SampleQuality:
        """The record that `to_json` gave, or that an earlier version stored of samples or of a bench of samplers;
        `source` names it in a message. Raises UserError for what is none, is damaged, or is of a later version."""
        if not isinstance(content, Mapping) or "points" not in content or "num_texts" not in content:
            raise UserError(f"{source} holds no evaluation of samples")
        return read_record(
            _record,
            content,
            source=source,
            what="evaluations of samples",
            newest=FORMAT,
            again="measure the samples again",
        )

    @classmethod
    def load(cls, file: Path) -> SampleQuality:
        """A stored record. Raises UserError for a file that holds none."""
        content = load_json(file, expected="an evaluation of samples")
        return replace(cls.from_json(content, source=file), file=file)

    def save(self, file: Path) -> SampleQuality:
        """Write it as JSON, atomically, and return it with its place."""
        write_json(file, self.to_json())
        return replace(self, file=file)


def is_no_worse(point: TextQuality, reference: TextQuality, real: TextQuality) -> bool:
    """Within two standard errors of the reference (of few texts more, by Student's t) or better: what the judge pays,
    and how far the entropy is from that of validation text. (A lower judge's perplexity alone would make dull text the
    best.) With few texts the errors are wide, and much is no worse."""
    factor = clear_factor(max(1, min(point.num_samples, reference.num_samples) - 1))

    def within(mine: float, theirs: float, errors: tuple[float, float], distance: Callable[[float], float]) -> bool:
        return distance(mine) <= distance(theirs) + factor * math.hypot(*errors)

    errors = point.entropy_error, reference.entropy_error
    good = within(point.entropy_nats, reference.entropy_nats, errors, lambda nats: abs(nats - real.entropy_nats))
    if reference.judge_nats is None or point.judge_nats is None:
        return good
    errors = point.judge_error or 0.0, reference.judge_error or 0.0
    return good and within(point.judge_nats, reference.judge_nats, errors, lambda nats: nats)


def _measured(found: TextQuality) -> dict[str, Any]:
    return {name: value for name, value in vars(found).items() if value is not None and name != "how"}


def _record(content: Mapping[str, Any]) -> SampleQuality:
    """From JSON. The first files counted no texts in a point, and named the sampler or the batch size of all points
    once; the seeds of their texts were added."""
    setting = read_fields(QualitySetting, content)
    common = {
        "num_samples": setting.num_texts,
        "num_tokens": setting.num_texts * setting.length,
        "sampler": content.get("sampler"),
        "batch_size": content.get("batch_size"),
    }
    points = [{**common, **point} for point in content["points"]]
    values = {
        "seed_rule": "add",
        **content,
        "setting": setting,
        "real": {**common, **(content.get("real") or {})},
        "points": [{**point, "how": read_fields(HowSampled, point)} for point in points],
        "text": content,
        "is_complete": "needed" in content,
    }
    return read_fields(SampleQuality, values)
