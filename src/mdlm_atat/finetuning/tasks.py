"""A fine-tuning task: texts or pairs of texts, each with a class or a score; and the tasks of GLUE."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mdlm_atat.errors import UserError
from mdlm_atat.finetuning.metrics import OF_CLASSES, OF_SCORES, Metric, measure

HUB_NAME = "nyu-mll/glue"


class Example(NamedTuple):
    """One example as it was read."""

    texts: tuple[str, ...]
    label: str
    """A class, or a number for a regression."""
    place: str
    """File and line that it was read from, for messages."""


@dataclass(frozen=True, kw_only=True)
class GlueTask:
    """A task of GLUE, in its TSV format (no quoting) and in the hub's."""

    folder: str
    """Its folder in GLUE's own layout."""
    columns: tuple[str, ...]
    """TSV: columns of the text or texts."""
    label: str
    """TSV: column of the label."""
    hub_columns: tuple[str, ...]
    """Hub: columns of the text or texts; the label's is `label`."""
    metrics: tuple[str, ...]
    labels: tuple[str, ...] = ()
    """Classes in the hub's order. Empty: a regression."""
    header: tuple[str, ...] | None = None
    """TSV: names of the columns of a file that has no line for them."""


GLUE = {
    "sst2": GlueTask(
        folder="SST-2",
        columns=("sentence",),
        label="label",
        hub_columns=("sentence",),
        metrics=("accuracy",),
        labels=("0", "1"),
    ),
    "cola": GlueTask(
        folder="CoLA",
        columns=("sentence",),
        label="label",
        hub_columns=("sentence",),
        metrics=("matthews",),
        labels=("0", "1"),
        header=("source", "label", "mark", "sentence"),
    ),
    "mrpc": GlueTask(
        folder="MRPC",
        columns=("#1 String", "#2 String"),
        label="Quality",
        hub_columns=("sentence1", "sentence2"),
        metrics=("accuracy", "f1"),
        labels=("0", "1"),
    ),
    "rte": GlueTask(
        folder="RTE",
        columns=("sentence1", "sentence2"),
        label="label",
        hub_columns=("sentence1", "sentence2"),
        metrics=("accuracy",),
        labels=("entailment", "not_entailment"),
    ),
    "stsb": GlueTask(
        folder="STS-B",
        columns=("sentence1", "sentence2"),
        label="score",
        hub_columns=("sentence1", "sentence2"),
        metrics=("pearson", "spearman"),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Split:
    """Examples to train on, or to score on."""

    texts: list[tuple[str, ...]]
    targets: NDArray[np.int64] | NDArray[np.float64]
    """(n,): index of the class, or the score."""
    places: list[str]
    hash: str
    """sha256 of texts and labels."""

    def __len__(self) -> int:
        return len(self.texts)

    def at(self, rows: Sequence[int]) -> Split:
        """Some of the examples."""
        return Split(
            texts=[self.texts[row] for row in rows],
            targets=self.targets[list(rows)],
            places=[self.places[row] for row in rows],
            hash=self.hash,
        )


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task with its data."""

    name: str
    metrics: Mapping[str, Metric]
    labels: tuple[str, ...]
    """Names of the classes. Empty: a regression."""
    source: dict[str, Any]
    """Where the examples came from; `accounts`: how many there are, by which rule some are scored, and how many of
    those are trained on too; `changed` of files: how many of them were read otherwise than they say, by reason."""
    train: Split
    dev: Split
    columns: tuple[str, ...] = ("text",)
    """Columns of the text, or of both texts of a pair, in the data that it was read from."""
    label_column: str = "label"
    fold: NDArray[np.int64] | None = None
    """(n,): of cross-validation, the part that each example is scored with, by a network trained on the other parts;
    `train` and `dev` are all examples then. None: `dev` is another split."""

    @property
    def num_folds(self) -> int:
        return 0 if self.fold is None else int(self.fold.max()) + 1

    def without(self, fold: int) -> Task:
        """The task of training on all parts but one, and scoring that."""
        assert self.fold is not None
        train, dev = (np.flatnonzero(mask).tolist() for mask in (self.fold != fold, self.fold == fold))
        return replace(self, train=self.train.at(train), dev=self.train.at(dev), fold=None)

    @property
    def is_regression(self) -> bool:
        return not self.labels

    @property
    def hash(self) -> str:
        """Changes with any text or label of either split."""
        folds = f" in {self.num_folds} folds" if self.num_folds else ""
        return hashlib.sha256(f"{self.train.hash}{self.dev.hash}{folds}".encode()).hexdigest()

    def baseline(self) -> dict[str, float]:
        """Metrics of the majority-class baseline, or for a regression of the mean training score."""
        if self.is_regression:
            guess = np.full(len(self.dev), self.train.targets.mean())
        else:
            guess = np.full(len(self.dev), np.bincount(self.train.targets.astype(np.int64)).argmax())
        return measure(self.metrics, guess, self.dev.targets)


def make_task(
    name: str,
    train: Sequence[Example],
    dev: Sequence[Example],
    *,
    metrics: Mapping[str, Metric],
    source: dict[str, Any],
    regression: bool,
    labels: tuple[str, ...] | None = None,
    columns: tuple[str, ...] = ("text",),
    label_column: str = "label",
    fold: NDArray[np.int64] | None = None,
) -> Task:
    """A task of checked examples, with its classes numbered.

    `labels`: the classes there may be; None: those of the training examples, sorted. Raises UserError for an empty
    text, for a label that is missing, unknown or (in a regression) not a number, for metrics that do not fit the
    labels, and for a task that has nothing to learn.
    """
    unfit = next((metric for metric in metrics if metric in (OF_CLASSES if regression else OF_SCORES)), None)
    if unfit is not None:
        kind, fit = ("a regression", OF_SCORES) if regression else ("a task with classes", OF_CLASSES)
        raise UserError(f"`metric={unfit!r}` does not fit {name}, which is {kind}: use {', '.join(fit)} or your own")
    for which, examples in (("train on", train), ("score on", dev)):
        if not examples:
            raise UserError(f"{name}: there are no examples to {which}")
        _check_texts(examples)
    if regression:
        labels = ()
    else:
        if labels is None:
            labels = _found_labels(name, train)
        else:
            _check_known([*train, *dev], set(labels), "no label of this task")
        _check_known(dev, {example.label for example in train}, "a label that no training example has")
    found = {"train": _split(train, labels), "dev": _split(dev, labels)}
    if len(np.unique(found["train"].targets)) < 2:
        raise UserError(f"{name}: every training example has the label {train[0].label!r}: there is nothing to learn")
    return Task(
        name=name,
        metrics=metrics,
        labels=labels,
        source=source,
        columns=columns,
        label_column=label_column,
        fold=fold,
        **found,
    )


def _check_texts(examples: Iterable[Example]) -> None:
    for example in examples:
        if not all(text.strip() for text in example.texts):
            raise UserError(f"{example.place}: the text is empty; fill it in, or remove the line")
        if not example.label.strip():
            raise UserError(f"{example.place}: the label is empty; fill it in, or remove the line")


def _found_labels(name: str, examples: Sequence[Example]) -> tuple[str, ...]:
    """The classes that occur, sorted. Raises UserError for labels that are fractions or hardly ever repeat."""
    counts = Counter(example.label for example in examples)
    numbers = [label for label in counts if _as_number(label) is not None]
    if len(numbers) == len(counts) and any(not float(label).is_integer() for label in numbers):
        fraction = next(label for label in numbers if not float(label).is_integer())
        raise UserError(f"{name}: the labels are numbers such as {fraction}; add `regression=True` to predict them")
    _check_differ(name, counts)
    if len(counts) > max(2, len(examples) // 2):
        hint = "add `regression=True` to predict numbers" if len(numbers) == len(counts) else "is it the right column?"
        raise UserError(f"{name}: {len(counts)} different labels in {len(examples)} examples are no classes; {hint}")
    return tuple(sorted(counts, key=lambda label: (_as_number(label) is None, _as_number(label) or 0.0, label)))


def _check_differ(name: str, labels: Iterable[str]) -> None:
    """Raise UserError for two labels that look the same: that differ in case, in how a letter is composed, or in
    characters that cannot be seen; and for True beside 1 or False beside 0, as two programs write one column."""
    seen: dict[str, str] = {}
    for label in sorted(labels):
        visible = "".join(letter for letter in label if unicodedata.category(letter) != "Cf")
        alike = " ".join(unicodedata.normalize("NFKC", visible).casefold().split())
        alike = {"true": "1", "false": "0"}.get(alike, alike)
        if alike in seen:
            raise UserError(
                f"{name}: {seen[alike]!r} and {label!r} would be two classes: in the data, write them alike if they "
                "are one, else give one of them a name of other letters"
            )
        seen[alike] = label


def _check_known(examples: Iterable[Example], known: set[str], what: str) -> None:
    for example in examples:
        if example.label not in known:
            listed = ", ".join(sorted(known)[:20])
            raise UserError(f"{example.place}: {example.label!r} is {what}; expected one of {listed}")


def _split(examples: Sequence[Example], labels: tuple[str, ...]) -> Split:
    if labels:
        number = {label: index for index, label in enumerate(labels)}
        targets = np.array([number[example.label] for example in examples], np.int64)
    else:
        for example in examples:
            if _as_number(example.label) is None:
                raise UserError(f"{example.place}: the label {example.label!r} is no number, as a regression needs")
        targets = np.array([float(example.label) for example in examples], np.float64)
    digest = hashlib.sha256()
    for example in examples:
        label = example.label if labels else f"{float(example.label):.6g}"  # however it is written
        digest.update(json.dumps([*example.texts, label]).encode())
    return Split(
        texts=[example.texts for example in examples],
        targets=targets,
        places=[example.place for example in examples],
        hash=digest.hexdigest(),
    )


def _as_number(label: str) -> float | None:
    try:
        value = float(label)
    except ValueError:
        return None
    return value if np.isfinite(value) else None
