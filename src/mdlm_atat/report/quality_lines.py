"""Measured samples as lines of a table for a person."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mdlm_atat.formats import counted, with_error
from mdlm_atat.scoring.quality import SamplePoint, SampleQuality, TextQuality


class Column(NamedTuple):
    head: str
    layout: str
    """Width, and to which side."""
    shown: Callable[[Any], str]
    """Of a point; where the column is `of_text`, of any set of texts."""
    of_text: bool = False


def _of_text(head: str, width: int, name: str, form: str = ".3f", *, error: str | None = None) -> Column:
    def shown(found: TextQuality) -> str:
        value = getattr(found, name)
        if value is None or math.isnan(value):
            return ""
        return format(value, form) if error is None else with_error(value, getattr(found, error), decimals=3)

    return Column(head, f">{width}", shown, of_text=True)


def _order(point: SamplePoint) -> str:
    if point.order_nats is None:
        return ""
    return ("≤" if point.order_kind == "bound" else "") + f"{point.order_nats:.3f}"


SAMPLER = Column("sampler", "<48", lambda point: point.how.sampler)
STEPS = Column("steps", ">6", lambda point: str(point.how.steps or "own"))
TEMPERATURE = Column("temp", ">5", lambda point: f"{point.how.temperature:g}")
NFE = Column("NFE", ">7", lambda point: f"{point.nfe_mean:.1f}")
SECONDS = Column("seconds", ">8", lambda point: f"{point.seconds:.1f}")
SPEED = Column("tok/s", ">8", lambda point: f"{point.tokens_per_s:,.0f}")
JUDGE = _of_text("judge, nats", 15, "judge_nats", error="judge_error")
PERPLEXITY = _of_text("gen. PPL", 9, "judge_perplexity", ",.2f")
ENTROPY = _of_text("entropy", 8, "entropy_nats")
BIGRAM = _of_text("bigram", 7, "bigram_entropy_nats")
DISTINCT = _of_text("dist-2", 6, "distinct_2")
REPETITION = _of_text("rep-4", 6, "repetition")
MAUVE = _of_text("MAUVE", 13, "mauve", error="mauve_spread")
OWN_ORDER = Column("own order", ">10", _order)

SECONDS_OF = {
    True: "by a compiled network; what is done once is left out",
    False: "by a network that is not compiled; what is done once is left out",
    None: "with what compiling took, if the network was compiled",
}
"""SamplePoint.is_compiled -> what its seconds hold."""

# of atat eval --samples, and of atat samplers bench
SAMPLES = (STEPS, TEMPERATURE, NFE, SECONDS, JUDGE, PERPLEXITY, ENTROPY, BIGRAM, DISTINCT, REPETITION, MAUVE)
SAMPLERS = (SAMPLER, STEPS, NFE, SECONDS, SPEED, ENTROPY, DISTINCT, REPETITION, JUDGE, OWN_ORDER)


def header(columns: Sequence[Column]) -> str:
    return _line(columns, lambda column: column.head)


def point_line(point: SamplePoint, columns: Sequence[Column]) -> str:
    return _line(columns, lambda column: column.shown(point))


def real_line(real: TextQuality, columns: Sequence[Column]) -> str:
    """Validation text's own numbers, which stand below; its name is where the sampler or the steps are."""
    name = "validation text"
    return name + _line(columns, lambda column: column.shown(real) if column.of_text else "")[len(name) :]


def caution_lines(points: Sequence[SamplePoint]) -> list[str]:
    """Each caution once, with the points that it is of unless it is of all."""
    which: dict[str, list[str]] = {}
    for point in points:
        name = f"{point.how.steps or 'own'} steps at {point.how.temperature:g}"
        for text in point.cautions:
            which.setdefault(text, []).append(name)
    return [
        f"{'warning':10} {text if len(names) == len(points) else ', '.join(names) + ': ' + text}"
        for text, names in which.items()
    ]


def needed_lines(record: SampleQuality) -> list[str]:
    """From how many evaluations on each sampler is no worse than one token at a time, the fewest first."""
    return [
        f"{name}: no worse than one token at a time from {found.nfe:.0f} evaluations on, {found.share:.3f} of its "
        "number"
        for name, found in sorted(record.needed().items(), key=lambda item: item[1].nfe)
    ]


def seconds_lines(record: SampleQuality) -> list[str]:
    """What the seconds are of: a line for all points that were measured alike."""
    alike = Counter(
        f"for {point.num_samples} texts, {min(point.batch_size or point.num_samples, point.num_samples)} at a time, "
        f"{SECONDS_OF[point.is_compiled]}"
        for point in record.points
    )
    several = len(alike) > 1
    return [f"seconds{' of ' + counted(n, 'point') if several else ''} are {text}" for text, n in alike.items()]


def _line(columns: Sequence[Column], cell: Callable[[Column], str]) -> str:
    return " ".join(f"{cell(column):{column.layout}}" for column in columns)
