"""atat classify: labels for the texts of a file, of standard input, or of the command line."""

from __future__ import annotations

import io
import re
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mdlm_atat.cli.model import add_device_arguments, is_there
from mdlm_atat.cli.parser import Parser, whole
from mdlm_atat.data.encodings import check_encoding
from mdlm_atat.effect import GIVEN
from mdlm_atat.errors import UserError
from mdlm_atat.model_folder import find_classifier
from mdlm_atat.published.place import find_model
from mdlm_atat.terminal import is_terminal, shown

if TYPE_CHECKING:
    from mdlm_atat.data.readers.rows import Row
    from mdlm_atat.finetuning.classifier import Prediction, TextClassifier
    from mdlm_atat.runs.classify import Table

FILE_NAME = re.compile(r"\S+\.\w{1,8}(\.(gz|bz2|xz|zst))?|\S*[/\\]\S*")
FILE_OPTIONS = ("text", "text_pair", "encoding", "delimiter")
EXAMPLES = """\
examples:
  atat classify runs/mails mails.csv --out labels.csv --text body
  atat classify runs/mails "My parcel has not arrived."
  cut -f 2 mails.tsv | atat classify runs/mails - > labels.csv

A file is of any kind that can be trained on. Its rows keep their columns, and get a label and the probability of each
label; of plain text each line is a row. A command that was interrupted goes on when it is repeated.
"""


def make_parser() -> Parser:
    parser = Parser("atat classify", "Label texts with a classifier that `atat finetune` made.", EXAMPLES)
    add = parser.add_argument
    add("classifier", type=Path, help="its folder, or the folder of results or of a run that holds it")
    add("texts", nargs="*", help="a file, - for standard input (a text a line), or texts in quotes")
    add("--out", type=Path, help="write a .csv, .tsv, .jsonl or .parquet file (default: print)")
    add("--overwrite", action="store_true", help="replace --out where it exists")
    add("--text", help="file: column of the text (default: the one that it was trained on)")
    add("--text_pair", help="file: column of the second text, of a classifier of pairs (default: as trained)")
    add("--encoding", help="file: encoding of one without a byte order mark, such as cp1252 (default: UTF-8)")
    add("--delimiter", help="file: what separates the columns (default: told from the first lines)")
    add("--batch_size", type=whole(1), default=64, help="texts read together")
    add_device_arguments(parser)
    parser.needs("--overwrite", {"--out": GIVEN})
    return parser


def main(argv: list[str]) -> int:
    arguments = make_parser().parse(argv)
    check_words(arguments.texts)
    check_is_for_file(arguments)
    if arguments.encoding is not None:
        check_encoding(arguments.encoding)
    find_classifier(find_model(arguments.classifier).path)
    from mdlm_atat.finetuning.classifier import TextClassifier
    from mdlm_atat.runs.classify import check_output, classify_file, part_of

    out: Path | None = arguments.out
    if out is not None:
        check_output(out, overwrite=arguments.overwrite)
    classifier = TextClassifier.from_pretrained(
        arguments.classifier,
        device=arguments.device,
        precision=arguments.precision,
        trust_plugins=arguments.trust_plugins,
    )
    if out is None:
        print_labels(classifier, arguments)
        return 0
    table = table_of(classifier, arguments)
    try:
        done = classify_file(classifier, table, out, overwrite=arguments.overwrite, batch_size=arguments.batch_size)
    except KeyboardInterrupt:
        if part_of(out).exists():
            print(f"\nwhat is done is kept in {part_of(out)}; the same command goes on from there", file=sys.stderr)
        raise
    print("\n".join(done.notes()), file=sys.stderr)
    return 0


def check_words(words: Sequence[str]) -> None:
    """Raises UserError unless the words are one file, -, or texts: before anything is loaded."""
    files = [word for word in words if is_there(word) or word == "-"]
    if files and len(words) > 1:
        raise UserError(f"{files[0]} and {len(words) - 1} more: give one file, or texts alone")
    for word in words:
        if not is_there(word) and word != "-" and FILE_NAME.fullmatch(word):
            raise UserError(f"there is no file {word}; if that is a text itself, give it by standard input")


def check_is_for_file(arguments: Namespace) -> None:
    """Raises UserError for an option of files where texts are given: before anything is loaded."""
    word: str = arguments.texts[0]
    what = "standard input has a text a line" if word == "-" else f"{word!r:.60} is a text"
    for name in () if is_there(word) else FILE_OPTIONS:
        if getattr(arguments, name) is not None and not (word == "-" and name == "encoding"):
            raise UserError(f"--{name} is for a file, and {what}")


def table_of(classifier: TextClassifier, arguments: Namespace) -> Table:
    from mdlm_atat.runs.classify import Table

    words: list[str] = arguments.texts
    if words == ["-"]:
        return Table.of_texts(list(lines_of_stdin(classifier, arguments.encoding)))
    if is_there(words[0]):
        return Table.of_file(Path(words[0]), classifier, **{name: getattr(arguments, name) for name in FILE_OPTIONS})
    if not classifier.is_pair:
        return Table.of_texts([(word,) for word in words])
    if len(words) % 2:
        raise UserError(f"this classifier reads pairs: give two texts, or an even number; {len(words)} were given")
    return Table.of_texts([*zip(words[::2], words[1::2], strict=True)])


def lines_of_stdin(classifier: TextClassifier, encoding: str | None) -> Iterator[tuple[str, ...]]:
    """The texts of standard input, one a line; of pairs, with a tab between the two. Raises UserError for what is not
    in the encoding (None: UTF-8), and for a pair that is none."""
    number = 0
    if isinstance(sys.stdin, io.TextIOWrapper):  # no notebook's, and no test's
        sys.stdin.reconfigure(encoding=encoding or "utf-8-sig", errors="strict")
    try:
        for number, line in enumerate(sys.stdin, 1):
            texts = tuple(line.rstrip("\r\n").split("\t")) if classifier.is_pair else (line.rstrip("\r\n"),)
            if classifier.is_pair and len(texts) != 2:
                raise UserError(f"standard input, line {number}: expected two texts with a tab between them")
            yield texts
    except UnicodeDecodeError as error:
        raise UserError(
            f"standard input is not {error.encoding} after line {number}; name its `encoding=`, or convert it"
        ) from error


def print_labels(classifier: TextClassifier, arguments: Namespace) -> None:
    """To a terminal for a person, to a pipe as .csv."""
    from mdlm_atat.runs.classify import NUM_TOGETHER, added_columns, entry_of, predict_rows, write_csv

    if arguments.texts == ["-"]:
        at_once = 1 if sys.stdin.isatty() else None
        lines = lines_of_stdin(classifier, arguments.encoding)
        columns: tuple[str, ...] = ("text", "text_pair")[: 1 + classifier.is_pair]
        rows: Iterator[tuple[Row, str]] = (
            (dict(zip(columns, texts, strict=True)), "standard input") for texts in lines
        )
        names = list(columns)
    else:
        table: Table = table_of(classifier, arguments)
        at_once, columns = None, table.columns
        names = list(dict.fromkeys(name for row, _ in table.read() for name in row)) or list(columns)
        rows = table.read()
    added = added_columns(classifier, names)
    is_first = True
    for found in predict_rows(
        classifier, rows, columns, batch_size=arguments.batch_size, num_together=at_once or NUM_TOGETHER
    ):
        if not is_terminal():
            lines_out = (
                {**row, **dict(zip(added, entry_of(prediction)["values"] or [], strict=False))}
                for row, prediction in found
            )
            write_csv(sys.stdout, [*names, *added], lines_out, with_header=is_first)
            sys.stdout.flush()
        elif len(arguments.texts) <= 2 and len(found) == 1 and arguments.texts != ["-"]:
            print("\n".join(in_full(found[0][1])))
        else:
            for row, prediction in found:
                text = " | ".join(" ".join((row[column] or "").split()) for column in columns)
                print(shown(f"{in_short(prediction)}  {text:.100}"))
        is_first = False
    if is_first:
        print("there are no rows, and so no labels", file=sys.stderr)
        if not is_terminal():
            write_csv(sys.stdout, [*names, *added], [])


def in_full(prediction: Prediction | None) -> list[str]:
    """Every label with its probability, the likeliest first."""
    if prediction is None or prediction.score is not None:
        return [in_short(prediction)]
    ranked = sorted(prediction.probabilities.items(), key=lambda item: -item[1])
    width = max(len(label) for label, _ in ranked)
    return [f"{label:<{width}}  {p:.3f}" for label, p in ranked]


def in_short(prediction: Prediction | None) -> str:
    if prediction is None:
        return "(no text)"
    if prediction.score is not None:
        return f"{prediction.score:.3f}"
    return f"{prediction.label}  {prediction.confidence:.3f}"
