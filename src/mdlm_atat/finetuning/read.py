"""Read a fine-tuning task: from a folder in GLUE's TSV format, the hub, a file of one's own, or records in memory."""

from __future__ import annotations

import hashlib
import json
import math
import numbers
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mdlm_atat.checks import at_least, did_you_mean
from mdlm_atat.data.readers.kinds import ROWS, Refusal, find_reader, no_reader
from mdlm_atat.data.readers.reading import Reading
from mdlm_atat.data.readers.records import named, only
from mdlm_atat.data.readers.rows import read_rows
from mdlm_atat.data.readers.tables import Form, table_rows
from mdlm_atat.data.request import DataRequest
from mdlm_atat.data.sources import Files, HubSet
from mdlm_atat.data.unpack import PACKED, ending_of
from mdlm_atat.errors import UserError
from mdlm_atat.finetuning.metrics import OF_SCORES, Metric, find_metrics
from mdlm_atat.finetuning.settings import FEW_EXAMPLES
from mdlm_atat.finetuning.tasks import GLUE, HUB_NAME, Example, GlueTask, Task, make_task

DEV_FRACTION = 0.1
NUM_FOLDS = 5
SECOND_TEXTS = ("text2", "text_pair")
"""Columns whose texts make pairs where the first row has one, and no other is named."""

Records = Sequence[Mapping[str, Any]]
"""Examples in memory: each has `text`, perhaps `text2`, and `label`, or columns of other names."""
Data = str | Path | Records | tuple[Records, Records]


@dataclass(frozen=True)
class Columns:
    """Names of the columns of examples of one's own."""

    text: str = "text"
    text_pair: str | None = None
    """The second text. None: the first of `SECOND_TEXTS` that the first example has, else there is none."""
    label: str = "label"

    def of_texts(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """The columns of the text, or of both, of examples of which `row` is the first."""
        if self.text_pair is not None:
            return self.text, self.text_pair
        return self.text, *[name for name in SECOND_TEXTS if name in row and name != self.text][:1]


def open_task(
    name: str | Path | None = None,
    *,
    data: Data | None = None,
    dev: str | Path | None = None,
    dev_fraction: float | None = None,
    folds: int | None = None,
    regression: bool = False,
    metric: str | Metric | Sequence[str | Metric] | None = None,
    text: str | None = None,
    text_pair: str | None = None,
    label: str | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
) -> Task:
    """A task of GLUE (`name` sst2, cola, mrpc, rte or stsb), or one of your own.

    `data`, for a task of GLUE: the folder with its train.tsv and dev.tsv, or with GLUE's folders of them, or hub:NAME;
    None: the hub. For a task of your own: a .tsv, .csv, .json, .jsonl or .parquet file with the columns `text` (None:
    text), `text_pair` (None: text2 or text_pair, if there is one) and `label` (None: label), which `name` may say as
    well; a sequence of such records, or the two sequences (to train on, to score on).
    `dev`: another file to score on. Without one, the share `dev_fraction` is held out, chosen by a hash of the text, or
    all examples are scored by cross-validation in so many `folds`. None of these: 5 folds of fewer than 1,000 examples,
    a tenth of more.
    `regression`: the labels are numbers to predict. `metric`: see `find_metrics`; None: those of the task. `encoding`
    and `delimiter` of files are as for `prepare`. Raises UserError for what cannot be found, read or learned.
    """
    columns = Columns(text or "text", text_pair, label or "label")
    reading = Reading(encoding=encoding, delimiter=delimiter, column=columns.text)
    metrics = None if metric is None else find_metrics(metric)
    if data is not None and not isinstance(data, (str, Path)):
        if dev is not None or name in GLUE:
            what = "`dev=` names a file" if dev is not None else f"{name} is a task of GLUE with examples of its own"
            raise UserError(f"{what}, and `data=` holds records: leave one out, or name the task otherwise")
        if encoding or delimiter:
            raise UserError("`encoding=` and `delimiter=` are for a file, and `data=` holds records: leave them out")
        own = _from_records("records" if name is None else str(name), data, columns)
        return _own_task(own, dev_fraction, folds, regression, metrics)
    if name is None:
        if data is None:
            raise UserError(f"`task=` is missing: name one of {', '.join(GLUE)}, or give a file or records as `data=`")
        name, data = data, None
    if name in GLUE:
        name = str(name)
        if dev is not None or dev_fraction is not None or folds is not None or regression:
            raise UserError(
                f"`dev=`, `dev_fraction=`, `folds=` and `regression=` are for a file of your own; {name} is complete"
            )
        if text or text_pair or label or encoding or delimiter:
            raise UserError(
                "`text=`, `text_pair=`, `label=`, `encoding=` and `delimiter=` are for a file of your own; "
                f"{name} has its columns"
            )
        if data is None or str(data).startswith("hub:"):
            return _from_hub(name, str(data or "").removeprefix("hub:") or HUB_NAME, metrics)
        return _from_folder(name, Path(data).expanduser(), metrics)
    if data is not None:
        raise UserError(f"`data=` is for the tasks {', '.join(GLUE)}; for a file of your own leave it out")
    path = Path(name).expanduser()
    if not path.is_file():
        hint = did_you_mean(str(name).lower().replace("-", "").replace("_", ""), GLUE)
        what = "is a folder" if path.is_dir() else "is no task that is known, and no file"
        raise UserError(f"`task={str(name)!r}` {what}{hint}; expected one of {', '.join(GLUE)}, or a file")
    request = DataRequest(source=path, validation=dev, encoding=encoding, delimiter=delimiter)
    request.warn_of_what_has_no_effect()
    own = _from_files(path, None if dev is None else Path(dev).expanduser(), reading, columns)
    return _own_task(own, dev_fraction, folds, regression, metrics)


def _from_folder(name: str, folder: Path, metrics: Mapping[str, Metric] | None) -> Task:
    glue = GLUE[name]
    if not folder.is_dir():
        raise UserError(f"`data=`: there is no folder {folder}; leave it out to read {name} from the hub")
    files = {which: _find(folder, glue.folder, which) for which in ("train", "dev")}
    missing = [which for which, file in files.items() if file is None]
    if missing:
        raise UserError(
            f"`data=`: {folder} has no {missing[0]}.tsv; expected {glue.folder}/train.tsv and {glue.folder}/dev.tsv in "
            "it, or train.tsv and dev.tsv (each also as .gz, .xz or .zst)"
        )
    found = {which: file for which, file in files.items() if file is not None}
    examples = {
        which: [
            _example(row, glue.columns, glue.label, place)
            for row, place in table_rows(file, Reading(), form=Form("\t", is_quoted=False), header=glue.header)
        ]
        for which, file in found.items()
    }
    return _glue_task(name, examples, _described(list(found.values())), metrics)


def _find(folder: Path, subfolder: str, which: str) -> Path | None:
    names = [f"{which}.tsv{packing}" for packing in ("", *PACKED)]
    places = [parent / name for parent in (folder / subfolder, folder) for name in names]
    return next((place for place in places if place.is_file()), None)


def _from_hub(name: str, hub: str, metrics: Mapping[str, Metric] | None) -> Task:
    glue = GLUE[name]
    examples: dict[str, list[Example]] = {}
    try:
        for which, split in (("train", "train"), ("dev", "validation")):
            rows = HubSet(hub, name, split).rows()
            examples[which] = [
                _hub_example(row, glue, f"{hub} {name}, {split} row {i}") for i, row in enumerate(rows, start=1)
            ]
        source = HubSet(hub, name, "train", Reading(column=glue.hub_columns[0])).describe()
    except UserError as error:
        raise UserError(
            f"{name} cannot be had from the hub: {error}\n"
            f"or give it as files: `data='FOLDER'` with {glue.folder}/train.tsv and {glue.folder}/dev.tsv"
        ) from error
    return _glue_task(name, examples, source, metrics)


def _hub_example(row: dict[str, Any], glue: GlueTask, place: str) -> Example:
    missing = next((column for column in (*glue.hub_columns, "label") if column not in row), None)
    if missing is not None:
        raise UserError(f"{place} has no column {missing!r}; its columns are {', '.join(row)}")
    label = row["label"]
    if glue.labels:
        if label not in range(len(glue.labels)):  # -1 where a split has none
            raise UserError(f"{place} has no label ({label}): only train and validation of GLUE have theirs")
        label = glue.labels[label]
    return Example(tuple(str(row[column]) for column in glue.hub_columns), str(label), place)


def _glue_task(
    name: str, examples: dict[str, list[Example]], source: dict[str, object], metrics: Mapping[str, Metric] | None
) -> Task:
    glue, train, dev = GLUE[name], examples["train"], examples["dev"]
    accounts = {"train": len(train), "dev": len(dev), "rule": "given", "repeated": num_repeated(train, dev)}
    return make_task(
        name,
        train,
        dev,
        metrics=metrics or find_metrics(glue.metrics),
        source={**source, "accounts": accounts},
        regression=not glue.labels,
        labels=glue.labels or None,
        columns=glue.columns,
        label_column=glue.label,
    )


class _Own(NamedTuple):
    """Someone's own examples, as they were read."""

    name: str
    where: str
    """What to call them in a message."""
    train: list[Example]
    dev: list[Example] | None
    """None: some of the others are to be held out."""
    source: dict[str, object]
    columns: tuple[str, ...]
    """Of the text, or of both."""
    label_column: str


def _from_files(file: Path, dev_file: Path | None, reading: Reading, columns: Columns) -> _Own:
    if dev_file is not None and not dev_file.is_file():
        raise UserError(f"`dev=`: there is no file {dev_file}")
    if dev_file is not None and dev_file.samefile(file):
        raise UserError(f"`dev=`: {dev_file} is the file to train on: name another, or leave `dev=` out")
    changed = Counter[str]()
    dev = None if dev_file is None else _read_file(dev_file, reading, columns, changed)
    train, names = _read_file(file, reading, columns, changed)
    source = {**_described([file] if dev_file is None else [file, dev_file]), "changed": dict(+changed)}
    return _Own(file.name.partition(".")[0], str(file), train, dev and dev[0], source, names, columns.label)


def _from_records(name: str, data: Records | tuple[Records, Records], columns: Columns) -> _Own:
    splits = list(data) if isinstance(data, tuple) else [data]
    if len(splits) > 2 or any(isinstance(split, Mapping) for split in splits):
        raise UserError("`data=`: expected a list of records, or a tuple of two: to train on, and to score on")
    (train, names), *dev = (
        _examples(((row, f"{name}, {which} record {number}") for number, row in enumerate(split)), columns)
        for which, split in zip(("training", "scored"), splits, strict=False)
    )
    return _Own(name, name, train, dev[0][0] if dev else None, {"kind": "records"}, names, columns.label)


def _own_task(
    own: _Own,
    dev_fraction: float | None,
    folds: int | None,
    regression: bool,
    metrics: Mapping[str, Metric] | None,
) -> Task:
    train, dev, rule, fold = own.train, own.dev, "given", None
    if not train:
        raise UserError(f"{own.where} holds no examples: expected rows with a text and a label")
    if dev_fraction is not None and folds is not None:
        raise UserError("`dev_fraction=` holds examples out, `folds=` scores all of them: leave one out")
    if dev is not None:
        unused = "dev_fraction" if dev_fraction is not None else "folds" if folds is not None else None
        if unused is not None:
            raise UserError(f"the examples to score on are given, so `{unused}=` has no effect: leave one out")
    elif folds is not None or (dev_fraction is None and len(train) < FEW_EXAMPLES):
        # a tenth of so few would say next to nothing
        fold = folds_of(own.where, train, NUM_FOLDS if folds is None else folds, by_label=not regression)
        dev, rule = train, f"by {fold.max() + 1}-fold cross-validation"
    else:
        rule = "held out by a hash of the text"
        train, dev = _hold_out(own.where, train, DEV_FRACTION if dev_fraction is None else dev_fraction)
    if not dev:
        raise UserError(f"{own.where}: there are no examples to score on: `dev=` names a file without rows")
    if {len(example.texts) for example in train} != {len(example.texts) for example in dev}:
        raise UserError(
            f"{own.where}: of the examples to train on and those to score on, one has text2 and the other has none"
        )
    default = find_metrics(OF_SCORES if regression else ("accuracy", "matthews"))
    repeated = 0 if fold is not None else num_repeated(train, dev)
    accounts = {"train": len(train), "dev": len(dev), "rule": rule, "repeated": repeated}
    source = {**own.source, "accounts": accounts}
    return make_task(
        own.name,
        train,
        dev,
        metrics=metrics or default,
        source=source,
        regression=regression,
        columns=own.columns,
        label_column=own.label_column,
        fold=fold,
    )


def num_repeated(train: Iterable[Example], dev: Iterable[Example]) -> int:
    """Return how many examples to score on have texts that are trained on too."""
    seen = {example.texts for example in train}
    return sum(example.texts in seen for example in dev)


def _hold_out(where: str, examples: list[Example], fraction: float) -> tuple[list[Example], list[Example]]:
    """Split into examples to train on and to score on: the share whose texts have the smallest hashes is scored. Equal
    texts stay together."""
    if not 0 < fraction < 1:
        raise UserError(f"`dev_fraction=` is {fraction}, expected between 0 and 1, e.g. {DEV_FRACTION}")
    hashes = [hashlib.sha256(json.dumps(example.texts).encode()).digest() for example in examples]
    cutoff = sorted(hashes)[max(1, round(fraction * len(examples))) - 1] if examples else b""
    dev = [example for example, digest in zip(examples, hashes, strict=True) if digest <= cutoff]
    train = [example for example, digest in zip(examples, hashes, strict=True) if digest > cutoff]
    if not train or not dev:
        raise UserError(f"{where} has too few different texts to hold any out; name examples to score on by `dev=`")
    return train, dev


def folds_of(where: str, examples: Sequence[Example], num_folds: int, *, by_label: bool) -> NDArray[np.int64]:
    """The part, 0 .. num_folds - 1, of each example: a function of its text and label and of the others', not of their
    order. Equal texts are in one part; with `by_label` the examples of every label are spread evenly. Raises UserError
    for fewer than 2 texts a part."""
    at_least("`folds=`", num_folds, 2)
    label_of: dict[tuple[str, ...], str] = {}
    for example in examples:
        label = example.label if by_label else ""
        label_of[example.texts] = min(label, label_of.get(example.texts, label))
    if 4 <= len(label_of) < 2 * num_folds:
        raise UserError(
            f"{where} has {len(label_of)} different texts, too few for {num_folds} folds; try "
            f"`folds={len(label_of) // 2}`, or name examples to score on by `dev=`"
        )
    if len(label_of) < 4:
        raise UserError(f"{where} has too few different texts to hold any out; name examples to score on by `dev=`")

    def place(texts: tuple[str, ...]) -> tuple[str, bytes]:
        return label_of[texts], hashlib.sha256(json.dumps(texts).encode()).digest()

    part_of = {texts: number % num_folds for number, texts in enumerate(sorted(label_of, key=place))}
    return np.array([part_of[example.texts] for example in examples], np.int64)


def _read_file(
    path: Path, reading: Reading, columns: Columns, changed: Counter[str]
) -> tuple[list[Example], tuple[str, ...]]:
    if ending_of(path) not in ROWS:
        raise UserError(
            f"{path} is of no kind that can be read: expected {', '.join(ROWS)}, each also as {', '.join(PACKED)}"
        )
    if isinstance(refusal := find_reader(path, reading.encoding), Refusal):
        raise no_reader(path, refusal)
    return _examples(read_rows(path, reading, changed), columns)


def _examples(rows: Iterable[tuple[Any, str]], columns: Columns) -> tuple[list[Example], tuple[str, ...]]:
    """Examples of rows, each with its place, and the columns of their texts; whether they are of pairs is told by the
    first of them."""
    examples: list[Example] = []
    names: tuple[str, ...] = ()
    for row, place in rows:
        if not isinstance(row, Mapping):
            raise UserError(f"{place} is {row!r}, expected a dict with {columns.text} and {columns.label}")
        names = names or columns.of_texts(row)
        examples.append(_example(row, names, columns.label, place))
    return examples, names


def _example(row: Mapping[str, Any], columns: tuple[str, ...], label: str, place: str) -> Example:
    for column in (*columns, label):
        if column not in row:
            which = "label" if column == label else "text" if column == columns[0] else "text_pair"
            raise UserError(
                f"{place} has no column {column!r}; its columns are {named(row)}: name the one with the "
                f"{'labels' if which == 'label' else 'text'} by `{which}=`"
            )
    for column in columns:
        if not isinstance(row[column], str):
            raise UserError(f"{place}: column {column!r} holds {row[column]!r}, expected a text")
    return Example(
        tuple(only(row, column, place) for column in columns), as_label(only(row, label, place), label, place), place
    )


_NUMBER = re.compile(r"[+-]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:e[+-]?\d{1,3})?", re.ASCII | re.IGNORECASE)


def as_label(value: Any, column: str, place: str) -> str:
    """A label as text, one for each class however it is written: 1, 1.0, "1", " 1 ", "+1" and "1e0" are "1"; True,
    "True" and "true" are "True". "01" is no number but a text of its own, as a code is, and so are all other texts;
    white space around them is dropped. Raises UserError for NaN, infinity, null and an empty text."""
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value))
    if not isinstance(value, (str, numbers.Real, Decimal)):
        raise UserError(f"{place}: column {column!r} holds {value!r}, expected a text or a number as the label")
    text = str(value).strip()
    if not text:
        raise UserError(f"{place}: the label is empty; fill it in, or remove the line")
    if text.lower() == "nan" or (not isinstance(value, str) and not math.isfinite(value)):
        raise UserError(
            f"{place}: the label is {text}, which is no class and no number; fill it in, or remove the line"
        )
    if text.lower() in ("true", "false"):
        return text.capitalize()
    if not _NUMBER.fullmatch(text):
        return text
    number = Decimal(text)
    if abs(number.adjusted()) >= 30:
        return str(number.normalize(Context(prec=len(text))))
    return str(int(number)) if number == number.to_integral_value() else repr(float(number))


def _described(files: list[Path]) -> dict[str, object]:
    """Path, size and hash of each file."""
    return {"kind": "files", "files": Files(files).describe()["files"]}
