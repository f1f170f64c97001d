"""Labels for the texts of a file: each row as it was, with a label and the probability of every label beside it.

What is done is kept line by line in a file beside the output, `labels.csv.part`, from which the same call goes on after
an interruption. The output is written once all rows are done, atomically.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from mdlm_atat.atomic import check_writable, finite, written_aside
from mdlm_atat.data.files import check_is_file, check_mark
from mdlm_atat.data.readers.kinds import Refusal, find_reader, no_reader
from mdlm_atat.data.readers.reading import Reading
from mdlm_atat.data.readers.records import named, only
from mdlm_atat.data.readers.rows import Row, plain, read_rows
from mdlm_atat.data.request import DataRequest
from mdlm_atat.device import explain_out_of_memory
from mdlm_atat.errors import UserError
from mdlm_atat.finetuning.classifier import BATCH_SIZE, Prediction, TextClassifier
from mdlm_atat.finetuning.read import as_label
from mdlm_atat.formats import counted
from mdlm_atat.progress import OnProgress, shown
from mdlm_atat.runs.texts import Lines, begun_with
from mdlm_atat.training.checkpoint import sha256

WRITTEN = (".csv", ".tsv", ".jsonl", ".parquet")
NUM_TOGETHER = 4 * BATCH_SIZE
"""Rows that are done between two writes to the disk."""
DIGITS = 6
SECOND_TEXT = "text_pair"
"""Column of the second text of a pair that is in no file."""


@dataclass(frozen=True)
class Table:
    """Rows to be classified, which can be read more than once."""

    read: Callable[[], Iterator[tuple[Row, str]]]
    """Yields each row, and what to call it in a message."""
    columns: tuple[str, ...]
    """Of the text, or of both texts of a pair."""
    identity: str
    """Changes with the rows, and with how they are read."""

    @classmethod
    def of_file(
        cls,
        file: Path,
        classifier: TextClassifier,
        *,
        text: str | None = None,
        text_pair: str | None = None,
        encoding: str | None = None,
        delimiter: str | None = None,
    ) -> Table:
        """The rows of a file. Raises UserError for one that is not there or cannot be read."""
        check_is_file(file)
        refusal = find_reader(file, encoding)
        if isinstance(refusal, Refusal):
            raise no_reader(file, refusal)
        DataRequest(source=file, encoding=encoding, delimiter=delimiter).warn_of_what_has_no_effect()
        check_mark(file, encoding)
        columns = columns_of(classifier, text, text_pair)
        reading = Reading(column=columns[0], documents="line", encoding=encoding, delimiter=delimiter)
        identity = json.dumps([sha256(file), file.suffixes, columns, encoding, delimiter])
        return cls(lambda: read_rows(file, reading), columns, identity)

    @classmethod
    def of_texts(cls, texts: Sequence[tuple[str, ...]]) -> Table:
        """Texts, each a tuple of one, or pairs."""
        columns = ("text", SECOND_TEXT)[: len(texts[0]) if texts else 1]
        rows: list[tuple[Row, str]] = [
            (dict(zip(columns, row, strict=True)), f"text {number}") for number, row in enumerate(texts, 1)
        ]
        identity = hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()
        return cls(lambda: iter(rows), columns, identity)


def columns_of(classifier: TextClassifier, text: str | None, text_pair: str | None) -> tuple[str, ...]:
    """The columns of the text, or of both texts of a pair: those that are given, else those that the classifier was
    trained on. Raises UserError for a second text where single ones are read."""
    if not classifier.is_pair:
        if text_pair is not None:
            raise UserError(f"`text_pair={text_pair!r}`: this classifier reads one text at a time; leave it out")
        return (text or (classifier.record.columns or ("text",))[0],)
    first, second = classifier.record.columns or ("text", SECOND_TEXT)
    return text or first, text_pair or second


@dataclass
class Tally:
    """What a table's rows became."""

    labels: Counter[str] = field(default_factory=Counter)
    num_rows: int = 0
    num_cut: int = 0
    num_empty: int = 0
    num_named: int = 0
    """Rows that have a label of the classifier's in the column that it was trained on."""
    num_right: int = 0
    """Those of them that were given the same label."""
    labels_known: Collection[str] = ()
    label_column: str = ""

    def add(self, row: Row, entry: Mapping[str, Any]) -> None:
        self.num_rows += 1
        if entry["values"] is None:
            self.num_empty += 1
            return
        self.num_cut += entry["cut"]
        if not self.labels_known:
            return
        label = entry["values"][0]
        self.labels[label] += 1
        try:
            truth = as_label(row.get(self.label_column), self.label_column, "")
        except UserError:
            return
        if truth in self.labels_known:
            self.num_named += 1
            self.num_right += truth == label


@dataclass(frozen=True)
class ClassifiedFile:
    """A file with the labels of a table's rows, and what is to be said of it."""

    file: Path
    names: tuple[str, ...]
    """Columns that were added: of the label and the probability of each, or of a regression's score."""
    tally: Tally
    max_length: int

    def notes(self) -> list[str]:
        """What happened, in lines."""
        tally = self.tally
        counts = "".join(f", {number:,} {label}" for label, number in tally.labels.most_common())
        lines = [f"{counted(tally.num_rows, 'row')} written to {self.file}{counts}"]
        if tally.num_cut:
            lines.append(
                f"{tally.num_cut:,} {'was' if tally.num_cut == 1 else 'were'} longer than {self.max_length:,} tokens "
                "and read without the end"
            )
        if tally.num_empty:
            lines.append(f"{tally.num_empty:,} {'has' if tally.num_empty == 1 else 'have'} no text, and so no label")
        if self.names[0].startswith("predicted_"):
            lines.append(f"the input has a column {tally.label_column!r}: the one that was added is {self.names[0]!r}")
        if tally.num_named:
            lines.append(
                f"of {tally.num_named:,} that have a label in column {tally.label_column!r}, {tally.num_right:,} were "
                f"given the same ({tally.num_right / tally.num_named:.1%})"
            )
        return lines


def classify_file(
    classifier: TextClassifier,
    source: Table | str | Path,
    out: str | Path,
    *,
    overwrite: bool = False,
    batch_size: int = BATCH_SIZE,
    progress: bool | OnProgress = True,
) -> ClassifiedFile:
    """Write the rows of a file, or a table, with their labels.

    `out`: a .csv, .tsv, .jsonl or .parquet file. It has the columns of `source` as they are, then `label` and a column
    `p_LABEL` with the calibrated probability of each label, or `score` of a regression; one whose name is taken is
    called predicted_label. A row without text has none of them. `overwrite`: replace a file that is there. A call that
    was interrupted goes on where it was when it is repeated. `progress`: show a bar, or a function that is called with
    (rows done, rows in all).

    Raises UserError, before anything is classified, for a row without the column or whose text is none.
    """
    out = Path(out)
    check_output(out, overwrite=overwrite)
    table = source if isinstance(source, Table) else Table.of_file(Path(source), classifier)
    names: dict[str, None] = {}
    total = 0
    for row, place in table.read():
        texts_of(row, table.columns, place)
        names.update(dict.fromkeys(row))
        total += 1
    part = part_of(out)
    settings = hashlib.sha256(
        json.dumps([classifier.fingerprint(), classifier.lm.precision, table.identity]).encode()
    ).hexdigest()[:12]
    if begun_with(part) not in (settings, None):
        if not overwrite:
            raise UserError(
                f"{part} was begun with another classifier or other texts; `overwrite=True` begins anew, or name "
                "another file"
            )
        part.unlink()  # even where there is nothing to write in its place, a table without rows
    lines = Lines(part, settings, resume=True)
    try:
        with (
            shown("classifying", progress) as on_progress,
            explain_out_of_memory(f"try `batch_size={max(1, batch_size // 2)}`"),
        ):
            rows = islice(table.read(), lines.num_done, None)
            for found in predict_rows(classifier, rows, table.columns, batch_size=batch_size):
                first = lines.num_done
                lines.write([{"id": first + i, **entry_of(prediction)} for i, (_, prediction) in enumerate(found)])
                lines.num_done += len(found)
                if on_progress is not None:
                    on_progress(lines.num_done, total)
    finally:
        lines.close()
    names = names or dict.fromkeys(table.columns)  # a table without rows has columns all the same
    added = added_columns(classifier, names)
    tally = Tally(labels_known=set(classifier.labels), label_column=classifier.record.label_column)
    with written_aside(out) as aside:
        write_table(aside, out.suffix.lower(), (*names, *added), _filled(table, part, added, tally))
    part.unlink(missing_ok=True)
    return ClassifiedFile(out, added, tally, classifier.record.max_length)


def part_of(out: Path) -> Path:
    """The file that keeps what is done until all is."""
    return out.with_name(f"{out.name}.part")


def check_output(out: Path, *, overwrite: bool) -> None:
    """Raises UserError where a file cannot be written: before a model is loaded."""
    if out.suffix.lower() not in WRITTEN:
        raise UserError(f"`out=`: {out} is of no kind that can be written; expected {', '.join(WRITTEN)}")
    check_writable(out, "`out=`")
    if out.exists() and not overwrite:
        raise UserError(f"`out=`: {out} exists; replace it by `overwrite=True`, or name another file")


def texts_of(row: Row, columns: Sequence[str], place: str) -> tuple[str, ...]:
    """The text, or both, of a row; null is an empty one. Raises UserError for a column that is missing, or holds no
    text."""
    for column, flag in zip(columns, ("text", "text_pair"), strict=False):
        if column not in row:
            raise UserError(
                f"{place} has no column {column!r}; its columns are {named(row)}: name the one with the "
                f"text by `{flag}=`"
            )
        if not isinstance(row[column], (str, type(None))):
            raise UserError(f"{place}: column {column!r} holds {row[column]!r:.80}, expected a text")
    return tuple(only(row, column, place) or "" for column in columns)


def predict_rows(
    classifier: TextClassifier,
    rows: Iterable[tuple[Row, str]],
    columns: Sequence[str],
    *,
    batch_size: int = BATCH_SIZE,
    num_together: int = NUM_TOGETHER,
) -> Iterator[list[tuple[Row, Prediction | None]]]:
    """Yield the rows, some at a time, each with its prediction; None for one without text."""
    rows = iter(rows)
    while chunk := list(islice(rows, num_together)):
        texts: list[Any] = [texts_of(row, columns, place) for row, place in chunk]
        encoded = classifier.encode([text if classifier.is_pair else text[0] for text in texts])
        predictions = classifier.predict_encoded(encoded, batch_size=batch_size)
        yield [(row, prediction) for (row, _), prediction in zip(chunk, predictions, strict=True)]


def added_columns(classifier: TextClassifier, taken: Collection[str]) -> tuple[str, ...]:
    """Names of the columns that are added, none of which is taken."""
    names = ["score"] if classifier.is_regression else ["label", *(f"p_{label}" for label in classifier.labels)]
    for index in range(len(names)):
        while names[index] in taken:
            names[index] = f"predicted_{names[index]}"
    return tuple(names)


def entry_of(prediction: Prediction | None) -> dict[str, Any]:
    """A prediction as the values of the columns that are added, None where there is none; and whether it was cut."""
    if prediction is None:
        return {"values": None, "cut": False}
    if prediction.score is not None:
        values: list[Any] = [round(prediction.score, DIGITS)]
    else:
        values = [prediction.label, *(round(p, DIGITS) for p in prediction.probabilities.values())]
    return {"values": values, "cut": prediction.is_cut}


def _filled(table: Table, part: Path, added: Sequence[str], tally: Tally) -> Iterator[dict[str, Any]]:
    """The rows with what was found for each."""
    with part.open(encoding="utf-8", newline="\n") if part.exists() else io.StringIO() as stream:
        for (row, _), line in zip(table.read(), stream, strict=True):
            entry = json.loads(line)
            tally.add(row, entry)
            values = [None] * len(added) if entry["values"] is None else entry["values"]
            yield {**row, **dict(zip(added, values, strict=True))}


def write_table(file: Path, kind: str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as a .csv, .tsv, .jsonl or .parquet file. Only the last is held as a whole. Raises UserError for a
    column of values that Parquet has no type for."""
    match kind:
        case ".csv" | ".tsv":
            with file.open("w", encoding="utf-8", newline="") as stream:
                write_csv(stream, columns, rows, delimiter="\t" if kind == ".tsv" else ",")
        case ".jsonl":
            with file.open("w", encoding="utf-8", newline="\n") as stream:
                for row in rows:
                    stream.write(json.dumps(finite(plain(row)), ensure_ascii=False, default=str) + "\n")
        case ".parquet":
            import pyarrow as arrow
            from pyarrow import parquet

            held = [plain(row) for row in rows]
            try:
                whole = arrow.table({name: [row.get(name) for row in held] for name in columns})
            except (arrow.ArrowException, OverflowError) as error:
                raise UserError(f"{error}, which .parquet cannot hold; write a .jsonl file") from error
            parquet.write_table(whole, file)
        case _:
            raise AssertionError(kind)


def write_csv(
    stream: Any,
    columns: Sequence[str],
    rows: Iterable[Mapping[str, Any]],
    *,
    delimiter: str = ",",
    with_header: bool = True,
) -> None:
    """Write rows as a table to a text file, or what writes like one: nothing for what is missing, JSON for what is no
    text and no number."""
    writer = csv.writer(stream, delimiter=delimiter, lineterminator="\n")
    if with_header:
        writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row.get(name)) for name in columns])


def _cell(value: Any) -> Any:
    match value:
        case None:
            return ""
        case bool() | dict() | list():
            return json.dumps(plain(value), ensure_ascii=False, default=str)
        case _:
            return value
