"""Tasks from where they are: a folder in GLUE's TSV format, the hub, or a file of one's own."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mdlm_atat.checks import did_you_mean
from mdlm_atat.data.files import PACKED, read_lines
from mdlm_atat.data.sources import Files, HubSet
from mdlm_atat.errors import UserError
from mdlm_atat.finetune.metrics import Metric
from mdlm_atat.finetune.tasks import GLUE, HUB_NAME, Example, GlueTask, Task, make_task

FILE_KINDS = (".tsv", ".csv", ".jsonl")
DEV_FRACTION = 0.1


def open_task(
    name: str,
    *,
    data: str | None = None,
    dev: Path | None = None,
    dev_fraction: float | None = None,
    regression: bool = False,
) -> Task:
    """The task of a name (sst2, cola, mrpc, rte, stsb) or of a file.

    `data`: for a name, the folder with its train.tsv and dev.tsv, or with GLUE's folders of them, or hub:NAME; None:
    the hub. `dev`: for a file, another one to score on; None: a share `dev_fraction` of it, chosen by a hash of the
    text. UserError for what cannot be found, read or learned.
    """
    if name in GLUE:
        if dev is not None or dev_fraction is not None or regression:
            raise UserError(f"--dev, --dev_fraction and --regression are for a file of your own; {name} is complete")
        if data is None or data.startswith("hub:"):
            return _from_hub(name, GLUE[name], (data or "").removeprefix("hub:") or HUB_NAME)
        return _from_folder(name, GLUE[name], Path(data).expanduser())
    path = Path(name).expanduser()
    if data is not None:
        raise UserError(f"--data is for the tasks {', '.join(GLUE)}; for a file of your own leave it out")
    if not path.is_file():
        hint = did_you_mean(name.lower().replace("-", "").replace("_", ""), GLUE)
        what = "is a folder" if path.is_dir() else "is no task that is known, and no file"
        raise UserError(f"--task: {name} {what}{hint}; expected one of {', '.join(GLUE)}, or a file")
    return _from_files(path, dev, dev_fraction, regression)


def _from_folder(name: str, glue: GlueTask, folder: Path) -> Task:
    if not folder.is_dir():
        raise UserError(f"--data: there is no folder {folder}; leave --data out to read {name} from the hub")
    files = {which: _find(folder, glue.folder, which) for which in ("train", "dev")}
    missing = [which for which, file in files.items() if file is None]
    if missing:
        raise UserError(
            f"--data: {folder} has no {missing[0]}.tsv; expected {glue.folder}/train.tsv and {glue.folder}/dev.tsv in "
            "it, or train.tsv and dev.tsv (each also as .gz, .xz or .zst)"
        )
    found = {which: file for which, file in files.items() if file is not None}
    examples = {
        which: [
            _example(row, glue.columns, glue.label, place)
            for row, place in _table(file, "\t", quoted=False, header=glue.header)
        ]
        for which, file in found.items()
    }
    return _glue_task(name, glue, examples, _described(list(found.values())))


def _find(folder: Path, subfolder: str, which: str) -> Path | None:
    names = [f"{which}.tsv{packing}" for packing in ("", *PACKED)]
    places = [parent / name for parent in (folder / subfolder, folder) for name in names]
    return next((place for place in places if place.is_file()), None)


def _from_hub(name: str, glue: GlueTask, hub: str) -> Task:
    examples: dict[str, list[Example]] = {}
    try:
        for which, split in (("train", "train"), ("dev", "validation")):
            rows = HubSet(hub, name, split, glue.hub_columns[0]).rows()
            examples[which] = [_hub_example(row, glue, f"{hub} {name}, {split} row {i}") for i, row in enumerate(rows)]
        source = HubSet(hub, name, "train", glue.hub_columns[0]).describe()
    except UserError as error:
        raise UserError(
            f"{name} cannot be had from the hub: {error}\n"
            f"or give it as files: --data FOLDER with {glue.folder}/train.tsv and {glue.folder}/dev.tsv"
        ) from error
    return _glue_task(name, glue, examples, source)


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


def _glue_task(name: str, glue: GlueTask, examples: dict[str, list[Example]], source: dict[str, object]) -> Task:
    return make_task(
        name,
        examples["train"],
        examples["dev"],
        metrics=glue.metrics,
        source=source,
        regression=not glue.labels,
        labels=glue.labels or None,
    )


def _from_files(file: Path, dev_file: Path | None, dev_fraction: float | None, regression: bool) -> Task:
    train = _read_file(file)
    if dev_file is not None and dev_fraction is not None:
        raise UserError("--dev names the examples to score on, so --dev_fraction has no effect: leave one out")
    if dev_file is not None:
        if not dev_file.expanduser().is_file():
            raise UserError(f"--dev: there is no file {dev_file}")
        if dev_file.expanduser().samefile(file):
            raise UserError(f"--dev: {dev_file} is the file to train on: name another, or leave --dev out")
        dev = _read_file(dev_file.expanduser())
    else:
        train, dev = _hold_out(file, train, DEV_FRACTION if dev_fraction is None else dev_fraction)
    if {len(example.texts) for example in train} != {len(example.texts) for example in dev}:
        raise UserError(f"{file} and {dev_file} differ: one has a column text2 and the other has none")
    metrics: tuple[Metric, ...] = ("pearson", "spearman") if regression else ("accuracy", "matthews")
    source = _described([file] if dev_file is None else [file, dev_file.expanduser()])
    name = file.name.partition(".")[0]
    return make_task(name, train, dev, metrics=metrics, source=source, regression=regression)


def _hold_out(file: Path, examples: list[Example], fraction: float) -> tuple[list[Example], list[Example]]:
    """Training examples, and those to score on: the share whose texts have the smallest hashes. Equal texts stay
    together."""
    if not 0 < fraction < 1:
        raise UserError(f"--dev_fraction is {fraction}, expected between 0 and 1, e.g. {DEV_FRACTION}")
    hashes = [hashlib.sha256(json.dumps(example.texts).encode()).digest() for example in examples]
    cutoff = sorted(hashes)[max(1, round(fraction * len(examples))) - 1] if examples else b""
    dev = [example for example, digest in zip(examples, hashes, strict=True) if digest <= cutoff]
    train = [example for example, digest in zip(examples, hashes, strict=True) if digest > cutoff]
    if not train or not dev:
        raise UserError(f"{file} has too few different texts to hold any out; name examples to score on with --dev")
    return train, dev


def _read_file(path: Path) -> list[Example]:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    kind = suffixes[-2] if suffixes and suffixes[-1] in PACKED and len(suffixes) > 1 else "".join(suffixes[-1:])
    match kind:
        case ".jsonl":
            rows: Iterable[tuple[dict[str, Any], str]] = _json_rows(path)
        case ".tsv":
            rows = _table(path, "\t", quoted=False)
        case ".csv":
            rows = _table(path, ",", quoted=True)
        case _:
            raise UserError(
                f"{path} is of no kind that can be read: expected {', '.join(FILE_KINDS)}, each also as "
                f"{', '.join(PACKED)}"
            )
    examples: list[Example] = []
    columns: tuple[str, ...] = ()
    for row, place in rows:
        columns = columns or (("text", "text2") if "text2" in row else ("text",))
        examples.append(_example(row, columns, "label", place))
    return examples


def _example(row: dict[str, Any], columns: tuple[str, ...], label: str, place: str) -> Example:
    for column in (*columns, label):
        if column not in row:
            hint = "; a split without labels cannot be trained or scored on" if column == label else ""
            raise UserError(f"{place} has no column {column!r}; its columns are {', '.join(row)}{hint}")
    for column in columns:
        if not isinstance(row[column], str):
            raise UserError(f"{place}: column {column!r} holds {json.dumps(row[column])}, expected a text")
    if not isinstance(row[label], (str, int, float)):
        raise UserError(f"{place}: column {label!r} holds {json.dumps(row[label])}, expected a text or a number")
    return Example(tuple(row[column] for column in columns), str(row[label]), place)


def _table(
    path: Path, delimiter: str, *, quoted: bool, header: tuple[str, ...] | None = None
) -> Iterator[tuple[dict[str, Any], str]]:
    """Rows of a table by column, each with its place. `header`: the columns' names, if the first line is not they."""
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    lines = (line + "\n" for line in read_lines(path))
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)
    try:
        for cells in reader:
            if header is None:
                header = tuple(cells)
                continue
            place = f"{path}, line {reader.line_num}"
            if not cells:
                continue
            if len(cells) != len(header):
                raise UserError(
                    f"{place} has {len(cells)} columns, expected the {len(header)} columns {', '.join(header)}"
                )
            yield dict(zip(header, cells, strict=True)), place
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num} cannot be read: {error}") from error


def _json_rows(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    for number, line in enumerate(read_lines(path), start=1):
        place = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{place} is not JSON: {error}; expected one JSON object a line") from error
        if not isinstance(row, dict):
            raise UserError(f"{place} is a JSON {type(row).__name__}, expected an object with text and label")
        yield row, place


def _described(files: list[Path]) -> dict[str, object]:
    """Path, size and hash of each file."""
    return {"kind": "files", "files": Files(files).describe()["files"]}
