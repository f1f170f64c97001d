"""`Reading`: the settings that say how a file is read, as one thing that sources, requests and commands pass on."""

from __future__ import annotations

import functools
import string
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypedDict

from mdlm_atat.checks import one_of
from mdlm_atat.data import places
from mdlm_atat.data.encodings import check_encoding
from mdlm_atat.effect import When
from mdlm_atat.errors import UserError

OF_TEXT: dict[str, Any] = {"same": "text", "of_text": True}
"""Facts about a setting that a configuration looks up: runs are comparable only where it is the same, and it says
something of one text and nothing of another."""


def needing(when: tuple[When, ...]) -> dict[str, Any]:
    """OF_TEXT for a setting that has an effect on some texts alone (`effect.When`)."""
    return {**OF_TEXT, "when": when}


OF_FOLDERS = ("splits", "leave_out")
"""Settings that choose the files of a folder."""


class ReadingSettings(TypedDict, total=False):
    """The settings of a `Reading` as typed keywords."""

    column: str
    documents: Literal["file", "line"]
    encoding: str | None
    delimiter: str | None
    template: str | None
    nulls: Literal["skip", "refuse"]
    splits: Literal["names", "none"]
    leave_out: str | None


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Which files of a folder are read, and how files and rows become documents. Raises UserError for settings that
    cannot work."""

    column: str = field(default="text", metadata=needing(places.COLUMNS))
    """CSV, JSON, JSONL, Parquet and hub data sets: the column that holds the text. meta.text reaches into objects; a
    list of chat messages is written as lines of `User: ...` and `Assistant: ...`."""
    documents: Literal["file", "line"] = field(default="file", metadata=needing(places.PLAIN))
    """Plain text files: a document is the whole file, or each line that is not empty."""
    encoding: str | None = field(default=None, metadata=needing(places.ENCODED))
    """Encoding of text files that have no byte order mark, such as cp1252 or utf-16-le. None: UTF-8."""
    delimiter: str | None = field(default=None, metadata=needing(places.DELIMITED))
    """What separates the columns of .csv and .tsv files, one character. None: told from the file's first lines."""
    template: str | None = field(default=None, metadata=needing(places.COLUMNS))
    """A document of several columns, such as "{title}: {body}"; it takes the place of column."""
    nulls: Literal["skip", "refuse"] = field(default="skip", metadata=needing(places.NULLS))
    """JSON, JSONL, Parquet and hub data sets: rows whose text is null are skipped and counted, or refused."""
    splits: Literal["names", "none"] = field(default="names", metadata=needing(places.FILES_OF_FOLDER))
    """Folders: `names`: where names say what is for training and what for validation or test (`a.train.txt`,
    `valid/1.txt`), read them so; `none`: every file is text, whatever its name."""
    leave_out: str | None = field(default=None, metadata=needing(places.FILES_OF_FOLDER))
    """Folders: endings, names or patterns of what is not to be read, with spaces between them (".png drafts/*").
    `rest`: go on though more than half of the folder cannot be read."""

    def __post_init__(self) -> None:
        self.check_reading()

    def check_reading(self, prefix: str = "") -> None:
        """Raise UserError where values cannot work; `prefix` goes before the settings' names in the message."""
        for name in ("encoding", "delimiter", "template", "leave_out"):
            if not isinstance(getattr(self, name), (str, type(None))):
                raise UserError(f"`{prefix}{name}={getattr(self, name)!r}`: expected a text")
        if self.encoding is not None:
            check_encoding(self.encoding, f"{prefix}encoding")
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n\0'):
            raise UserError(
                f"`{prefix}delimiter={self.delimiter!r}`: expected one character that is no quote or line end; "
                "a tab is $'\\t' in a shell"
            )
        if self.template is not None:
            template_columns(self.template, f"{prefix}template")
        one_of(f"{prefix}documents", self.documents, ("file", "line"))
        one_of(f"{prefix}nulls", self.nulls, ("skip", "refuse"))
        one_of(f"{prefix}splits", self.splits, ("names", "none"))

    def identity(self) -> dict[str, Any]:
        """Return, as JSON, the column, what a document is, and every other setting that is not the default; not those
        that choose files of a folder, since the files tell.

        So a corpus that was prepared before there was a setting is found again while that keeps its default.
        """
        own = {"column": self.column, "documents": self.documents}
        others = {
            part.name: getattr(self, part.name) for part in fields(Reading) if part.name not in (*own, *OF_FOLDERS)
        }
        return {**own, **{name: value for name, value in others.items() if value != getattr(Reading, name)}}


def reading_of(settings: Reading) -> Reading:
    """Return the bare `Reading` of settings that have more than that."""
    return Reading(**{part.name: getattr(settings, part.name) for part in fields(Reading)})


def template_columns(template: str, name: str = "template") -> list[str]:
    """Return the columns that a template names, in order. Raises UserError, in which the setting is called `name`, for
    one that names none or that asks for more than columns."""
    found = [column for _, column in template_parts(template, name) if column is not None]
    if not found:
        raise UserError(f"`{name}={template!r}` names no column: expected some in braces, as in '{{title}}: {{body}}'")
    return found


@functools.cache  # it is asked for with every row
def template_parts(template: str, name: str = "template") -> list[tuple[str, str | None]]:
    """Return the literal parts of a template, each with the column that follows it. Raises UserError, in which the
    setting is called `name`, for one with a brace too many or that asks for more than columns."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UserError(f"`{name}={template!r}`: {error}; a brace itself is written twice") from error
    if any(column is not None and (not column or form or convert) for _, column, form, convert in parts):
        raise UserError(f"`{name}={template!r}`: braces hold the name of a column and no more, as in '{{title}}'")
    return [(literal, column) for literal, column, _, _ in parts]
