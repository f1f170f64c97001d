"""What the commands that use a trained model have in common."""

from __future__ import annotations

import argparse
import atexit
import io
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mdlm_atat import model_folder
from mdlm_atat.cli.parser import Parser
from mdlm_atat.cli.streams import COPIES
from mdlm_atat.data.files import read_text
from mdlm_atat.errors import UserError
from mdlm_atat.model_folder import BOX_NAME, follow, kind_of_folder
from mdlm_atat.published.hub import PREFIX
from mdlm_atat.published.place import find_model
from mdlm_atat.samplers.template import unescaped

if TYPE_CHECKING:
    from mdlm_atat.lm import CausalLM, MaskedDiffusionLM


STANDARD_INPUT = "-"
WHICH = "a run folder, one of its checkpoints, a saved model, a model of the hub (hub:OWNER/NAME), or a published file"


def add_model_arguments(parser: Parser, *, or_box: bool = False) -> None:
    """The model and how it is to be used; `or_box`: the model in the box where none is named."""
    if or_box:
        default = model_folder.BOX
        which = f"{WHICH} (default: {BOX_NAME}, the model in the box)"
        parser.add_argument("model", type=Path, nargs="?", default=default, metavar="RUN", help=which)
    else:
        parser.add_argument("model", type=Path, help=WHICH)
    add_device_arguments(parser)


def add_model_and_text_arguments(parser: Parser, text: str, meaning: str) -> None:
    """As add_model_arguments, with a text after the model; see `model_and_text`."""
    which = f"{WHICH}; needed before a text that names a folder or file (default: {BOX_NAME}, the model in the box)"
    parser.add_argument("model", nargs="?", metavar="RUN", help=which)
    parser.add_argument(text, nargs="?", help=meaning)
    add_device_arguments(parser)


def model_and_text(model: str | None, text: str | None, file: Path | None, *, command: str) -> tuple[Path, str | None]:
    """The folder of the model and the text among the words [RUN] [TEXT], of which one alone is the text, or the model
    where a file holds the text.

    Raises UserError where a single word is the path of something that is there, or looks like one: which of the two is
    meant is not guessed.
    """
    if file is not None:
        if text is not None or (model is not None and not _looks_like_path(model)):
            raise UserError("give a text or --file, not both")
        return model_folder.BOX if model is None else Path(model), None
    if text is not None:
        return Path(model or BOX_NAME), text
    if model is None or model == BOX_NAME:
        raise UserError(f'give a text, as in atat {command} {BOX_NAME} "...", or --file')
    check_no_path(model, command)
    return model_folder.BOX, model


def model_and_text_or_file(
    arguments: argparse.Namespace, text: str, *, command: str
) -> tuple[Path, str | None, Path | None]:
    """The folder of the model, the text and the file of it among the arguments `model`, `text` and `file`, of which -
    is standard input. See `model_and_text`."""
    given = [word for word in (arguments.model, getattr(arguments, text)) if word is not None]
    words, file = standard_input_taken(given, arguments.file)
    first, second = [*words, None, None][:2]
    return (*model_and_text(first, second, file, command=command), file)


def text_file(word: str) -> Path:
    """The file that a word names, as `type` of an argument: for - one that holds all of standard input. A text may be
    read more than once, and standard input may not."""
    if word != STANDARD_INPUT:
        return Path(word)
    folder = Path(tempfile.mkdtemp(prefix="atat-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    is_file = isinstance(sys.stdin, io.TextIOWrapper)  # no notebook's, and no test's
    content = sys.stdin.buffer.read() if is_file else sys.stdin.read().encode()
    if not content:
        raise UserError("standard input is empty; pipe a text into the command, or name a file")
    (file := folder / "standard-input").write_bytes(content)
    COPIES[str(file)] = "standard input"
    return file


def standard_input_taken(words: Sequence[str], file: Path | None) -> tuple[list[str], Path | None]:
    """The words [RUN] TEXT... and `file`, with standard input as the file where the text is -."""
    if STANDARD_INPUT not in words:
        return list(words), file
    if file is not None or len(words) > 2 or words[-1] != STANDARD_INPUT:
        raise UserError("- is standard input, which is one text: give it alone, or after the model")
    return list(words[:-1]), text_file(STANDARD_INPUT)


def check_no_path(word: str, command: str) -> None:
    """Raise UserError for a word in place of a text that is the path of something that is there, or looks like one."""
    if word.startswith(PREFIX):
        wrong = f'{word} is a model: give a text after it, as in atat {command} {word} "..."'
    elif is_folder(word):
        wrong = f'{word} is a folder: give a text after it, as in atat {command} {word} "..."'
    elif is_there(word):
        wrong = f"{word} is a file: to read the text in it, write --file {word}"
    elif _looks_like_path(word) and {os.sep, "/"} & set(word):
        wrong = f"there is no folder {word}, and no text after it"
    else:
        return
    raise UserError(f"{wrong}; if it is the text, name the model before it: atat {command} {BOX_NAME} {word}")


def is_folder(word: str) -> bool:
    """Whether a word, which may be a long text, is the path of a folder."""
    return is_there(word) and Path(word).is_dir()


def is_there(word: str) -> bool:
    """Whether a word, which may be a long text or an empty one, is the path of something that is there."""
    try:
        return word != "" and Path(word).exists()
    except OSError:  # no path is so long
        return False


def _looks_like_path(word: str) -> bool:
    """Whether somebody who writes this may mean a folder: one word, without a gap."""
    return len(word.split()) == 1 and "[MASK" not in word


def add_device_arguments(parser: Parser) -> None:
    parser.add_argument("--device", help="cpu, cuda or mps (default: a GPU if there is one)")
    parser.add_argument(
        "--precision",
        choices=["auto", "float32", "bf16"],
        default="auto",
        help="arithmetic of the network; auto: bf16 on a GPU that has it",
    )
    add_trust_argument(parser)


def add_reading_arguments(
    parser: Parser, *, texts: str, file: str = "--file", has_gaps: bool = False, escape_name: str = "escape"
) -> None:
    """How `texts`, given on the command line, and those in `file` are read."""
    no_gap = ", \\[MASK] no gap" if has_gaps else ""
    parser.add_argument(
        "--escape",
        dest=escape_name,
        action="store_true",
        help=f"read escapes in {texts}: \\n is a line end, \\t a tab, \\uXXXX a character, \\\\ a backslash{no_gap} "
        "(default: a backslash is a backslash)",
    )
    parser.add_argument("--encoding", help=f"of {file} without a byte order mark (default: utf-8)")


def check_encoding_is_for_file(encoding: str | None, file: Path | None, flag: str = "--file") -> None:
    """Raise UserError for an encoding where there is no file that it could be of."""
    if encoding is not None and file is None:
        raise UserError(f"--encoding is for {flag}")


def texts_given(
    texts: Sequence[str], file: Path | None, *, escape: bool = False, encoding: str | None = None
) -> list[str]:
    """The text of `file` where there is one, else `texts`, with their escapes read by `escape`. Warns of one that is
    the name of a file, whose letters it is then. Raises UserError for an empty one."""
    check_encoding_is_for_file(encoding, file)
    for text in texts:
        warn_of_file_name(text, "to read the file of that name, write --file {}")
    if file is not None:
        texts = [read_text(file, encoding)]
    elif escape:
        texts = [unescaped(text) for text in texts]
    if "" in texts:
        what = "the text" if len(texts) == 1 else f"text {texts.index('') + 1}"
        raise UserError(f"{file or what} is empty: give one of a character at least")
    return list(texts)


def warn_of_file_name(text: str, remedy: str) -> None:
    """Warn of a text that is the name of a file, whose letters it is then: what is said of these would pass for what is
    said of the file's text. The `remedy` has {} for the name. So with -, the name of standard input."""
    if text == STANDARD_INPUT:
        warnings.warn('- is taken for the text itself: for standard input, write "$(cat)" in its place', stacklevel=2)
    elif is_there(text) and not is_folder(text):
        warnings.warn(f"{text} is taken for the text itself: {remedy.format(text)}", stacklevel=2)


def add_trust_argument(parser: Parser) -> None:
    parser.add_argument(
        "--trust_plugins",
        action="store_true",
        help="import the plugins that a run, a model or a tokenizer names: it runs their code",
    )


def check_model(folder: Path, flag: str | None = None, *, text: str = "") -> None:
    """UserError where there is no model in the folder, or on the hub, that `flag` names: answered before torch is
    imported, which takes seconds. What is on the hub is downloaded. `text`: where a text goes, for somebody who took
    the place of the model for that of a text."""
    try:
        place = find_model(folder)
        kind_of_folder(place.path)
        if place.is_published:
            place.check_memory()
    except UserError as error:
        if text and len(str(folder).split()) > 1 and not folder.is_dir():
            raise UserError(f"there is no model {str(folder)!r}; {text}") from error
        raise UserError(f"{flag}: {error}" if flag else str(error)) from error


def load_model(arguments: argparse.Namespace) -> MaskedDiffusionLM | CausalLM:
    """The model that was named; damaged checkpoints that were passed over are warned of, and a line says where it is
    the model in the box."""
    from mdlm_atat.lm import load_lm
    from mdlm_atat.progress import messages

    console = messages(stderr=True)
    lm = load_lm(
        arguments.model,
        device=arguments.device,
        precision=arguments.precision,
        say=lambda text: console.print(f"warning: {text}", style="yellow", markup=False, soft_wrap=True),
    )
    if follow(arguments.model) == model_folder.BOX:
        size = sum(weight.numel() for weight in lm.network.parameters()) / 1e6
        about = f"{size:.1f}M parameters, novels and other prose; name a run to use your own"
        print(f"using the model in the box ({about})", file=sys.stderr)
    return lm
