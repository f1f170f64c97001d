"""`atat COMMAND ...`: finds the command; what a person can mend becomes one message and an exit code."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

from mdlm_atat.cli.parser import choose
from mdlm_atat.cli.streams import COPIES, steady_streams
from mdlm_atat.errors import UserError, as_command, is_out_of_memory
from mdlm_atat.signals import Interrupted, ends_as_by_ctrl_c

COMMANDS = {  # name: (module with main(argv), what it does)
    "data": ("mdlm_atat.cli.data", "prepare a corpus, or train a tokenizer on it"),
    "cache": ("mdlm_atat.cli.cache", "list or clear the corpora that were prepared on the way"),
    "train": ("mdlm_atat.cli.train", "train a model from a preset, a YAML file or where a run stopped"),
    "eval": ("mdlm_atat.cli.eval", "bound the likelihood of the validation text, or of your own"),
    "generate": ("mdlm_atat.cli.generate", "write text with a trained model, and watch it appear"),
    "infill": ("mdlm_atat.cli.infill", "fill the gaps of a text with a trained model"),
    "score": ("mdlm_atat.cli.score", "say how likely a trained model finds a text"),
    "harness": ("mdlm_atat.cli.harness", "run tasks of lm-evaluation-harness"),
    "serve": ("mdlm_atat.cli.serve", "a page and a JSON API for a trained model, on this machine"),
    "plan": ("mdlm_atat.cli.plan", "say what a training run takes: memory, speed, days, the command"),
    "experiment": ("mdlm_atat.cli.experiment", "compare ways of training over seeds, and make the table of it"),
    "samplers": ("mdlm_atat.cli.samplers", "list the samplers, or compare them on a model"),
    "inspect": ("mdlm_atat.cli.inspect", "colour a text by importance, and compare with the loss"),
    "finetune": ("mdlm_atat.cli.finetune", "train a head on tasks with labels, over several seeds"),
    "push": ("mdlm_atat.cli.push", "send a model to the hub, with a card"),
    "classify": ("mdlm_atat.cli.classify", "label texts with a classifier that finetune made"),
}

HELP = f"""\
atat: masked diffusion language models, from text to samples

usage: atat COMMAND ...
       atat COMMAND --help

commands:
{chr(10).join(f"  {name:<10} {what}" for name, (_, what) in COMMANDS.items())}

options:
  -h, --help   show this help and exit
  --version    show the version and exit

for example:
  atat infill "It was a [MASK:3] night."             what may stand in a gap
  atat train demo --out runs/demo                    Shakespeare on the CPU
  atat eval runs/demo                                nats and bits per character
  atat generate runs/demo --watch --sampler spread   text appears mask by mask
"""

STORED = (("train",), ("finetune",), ("experiment", "run"), ("serve",))
"""Commands whose results are in files: they go on where nobody can read what they print."""

SPINS = "3000"
"""Threads of libgomp (torch's, on a CPU) that wait for each other sleep after so many turns. By default they spin a
hundred times as long, and beside other programs hold up the one that they wait for: beside a busy process on two cores,
training the preset `demo` was half as fast again with this, and filling 32 tokens took a third less. Alone neither
differed by more than one run from the next."""

# What the machine refuses and a person can mend; any other OSError is our fault and keeps its traceback.
ADVICE = {
    errno.ENOSPC: "make room and run the command again",
    errno.EDQUOT: "make room and run the command again",
    errno.EFBIG: "make room and run the command again",
    errno.EIO: "the disk or the way to it fails: look after it, then run the command again",
    errno.ESTALE: "the disk or the way to it fails: look after it, then run the command again",
    errno.ETIMEDOUT: "the disk or the way to it fails: look after it, then run the command again",
    errno.ENOMEM: "end what else needs memory and run the command again",
    errno.EMFILE: "more files are open than the system allows: raise the limit (ulimit -n)",
    errno.EISDIR: "name a file, not a folder",
    errno.ENOTDIR: "a folder on the way there is a file",
    errno.ENAMETOOLONG: "no file or folder has so long a name",
    errno.EACCES: "choose another place or change its permissions",
    errno.EPERM: "choose another place or change its permissions",
    errno.EROFS: "choose a place that can be written",
}


def main(argv: list[str] | None = None) -> int:
    """Run a command. Returns the exit code: 0 done, 2 a mistake in what was asked, 130 interrupted (by
    another signal than Ctrl-C: 128 and its number)."""
    os.environ["MPLBACKEND"] = "agg"  # a notebook's own, inherited, need not be installed here; no window is opened
    argv = sys.argv[1:] if argv is None else argv
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # before torch is imported, which reads it once
    is_printed = not any(argv[: len(words)] == [*words] for words in STORED)
    with steady_streams(results_are_printed=is_printed) as lost:
        code = _run(argv)
    if lost.error is not None and is_printed and code == 0:
        print(f"error: what was found could not be printed: {lost.error.strerror}", file=sys.stderr)
        return 2
    return code


def _run(argv: list[str]) -> int:
    show_warning, warnings.showwarning = warnings.showwarning, _show_warning
    try:
        with ends_as_by_ctrl_c():
            code = _dispatch(argv)
        sys.stdout.flush()  # a closed pipe shows here, not at the interpreter's exit
    except UserError as error:
        message = as_command(str(error), _flags(argv))
        for file, name in COPIES.items():
            message = message.replace(file, name)
        print(f"error: {message}", file=sys.stderr)
        return 2
    except SystemExit as stop:  # a command's help was printed
        return int(stop.code or 0)
    except KeyboardInterrupt as stop:
        print("\ninterrupted", file=sys.stderr)
        return _code_of(stop)
    except BrokenPipeError:  # the reader has left, as in `atat ... | head`
        return 141
    except Exception as error:
        if is_out_of_memory(error):
            print("error: out of memory; end what else needs it, or ask for less at a time", file=sys.stderr)
            return 2
        if isinstance(error, OSError) and error.errno in ADVICE:
            place = error.filename2 or error.filename  # of a file that was to be renamed, what it was to be
            where = f": {place}" if place else ""
            print(f"error: {error.strerror}{where}; {ADVICE[error.errno]}", file=sys.stderr)
            return 2
        if (stop := _interruption_behind(error)) is None:
            raise
        print(f"\ninterrupted ({type(error).__name__} at the end: {error})", file=sys.stderr)
        return _code_of(stop)
    finally:
        warnings.showwarning = show_warning
    return code


def _code_of(stop: KeyboardInterrupt) -> int:
    return 128 + stop.number if isinstance(stop, Interrupted) else 130


def _interruption_behind(error: BaseException | None) -> KeyboardInterrupt | None:
    """What ended the code that made another error of it, as argparse's does at some moments; None if nothing did."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    """A warning of ours without the place in our code; any other as Python shows it."""
    ours = Path(__file__).parents[1] in Path(filename).parents
    text = f"warning: {message}\n" if ours else warnings.formatwarning(message, category, filename, lineno, line)
    print(text, end="", file=file or sys.stderr)


def _flags(argv: list[str]) -> dict[str, str]:
    """Flags of a command by the names of arguments: training has the settings of a text under data, and the harness's
    file of results is its --out."""
    if argv[:1] == ["harness"]:
        return {"save": "out"}
    if argv[:1] != ["train"]:
        return {}
    from mdlm_atat.config.arguments import short_names

    return {name: path for name, path in short_names().items() if path.startswith("data.")}


def _dispatch(argv: list[str]) -> int:
    if argv[:1] == ["--version"]:
        from mdlm_atat import __version__

        print(f"atat {__version__}")
        return 0
    chosen = choose("atat", argv, COMMANDS, HELP)
    if chosen is None:
        return 0
    name, rest = chosen
    return import_module(COMMANDS[name][0]).main(rest) or 0
