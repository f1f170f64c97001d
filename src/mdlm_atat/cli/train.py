"""atat train: from a preset and a text to a run folder."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from mdlm_atat.cli.model import add_trust_argument, check_model
from mdlm_atat.cli.parser import Parser, real
from mdlm_atat.config.arguments import read_config
from mdlm_atat.config.files import describe_methods, describe_presets
from mdlm_atat.config.schema import RunConfig
from mdlm_atat.errors import UserError
from mdlm_atat.plugins import trusted

EXIT_CODES = {"Ctrl-C": 130, "SIGTERM": 143}


def make_parser() -> Parser:
    presets = "\n".join(f"  {name:12} {text}" for name, text in describe_presets().items())
    methods = "\n".join(f"  {name:18} {text}" for name, text in describe_methods().items())
    parser = Parser(
        "atat train",
        "Train a model from a preset, changed by dotted flags.",
        f"""presets:
{presets}

methods:
{methods}

examples:
  atat train demo                                  Shakespeare, on a laptop, in minutes
  atat train char --data.source mine.txt           your own text
  atat train char --method atat                    adaptive masking, on the same preset
  atat train char --optim.lr 3e-4 --train.num_steps 2000
  atat train char --settings                       every setting of a preset, with its flag and meaning
  atat train --init runs/a --data.source mine.txt  go on from a trained model, on another text
  torchrun --nproc-per-node 8 -m mdlm_atat train small    8 GPUs of one machine
""",
        takes_settings=True,
    )
    parser.add_argument("preset", nargs="?", help="a preset's name, a YAML file, or a run folder to repeat")
    parser.add_argument("--method", help="a training method's name, or a YAML file (default: as the preset says)")
    parser.add_argument("--out", type=Path, help="run folder (default: runs/PRESET-DATE-TIME)")
    parser.add_argument("--resume", type=Path, metavar="RUN", help="continue a run from its newest checkpoint")
    parser.add_argument(
        "--init",
        type=Path,
        metavar="RUN",
        help="begin with the weights, shape, method and tokenizer of a run, checkpoint or saved model; without a "
        "preset with its other settings too",
    )
    parser.add_argument("--max_minutes", type=real(0), help="the same as --train.max_minutes")
    parser.add_argument(
        "--settings", dest="list_settings", action="store_true", help="list every setting of the preset, and exit"
    )
    add_trust_argument(parser)
    return parser


def main(argv: list[str]) -> int:
    arguments = make_parser().parse(argv)
    if arguments.max_minutes is not None:
        arguments.settings["train.max_minutes"] = arguments.max_minutes
    check_together(arguments)
    with trusted(arguments.trust_plugins):
        if arguments.list_settings:
            return list_settings(arguments)
        check_at_once(arguments)

        from mdlm_atat.runs.train import train

        run = train(
            arguments.preset,
            method=arguments.method,
            out=arguments.out,
            resume=arguments.resume,
            init=arguments.init,
            settings=arguments.settings,
            trust_plugins=arguments.trust_plugins,
            command=shlex.join(["atat", *sys.argv[1:]]),
        )
    return EXIT_CODES.get(run.stopped or "", 0)


def check_together(arguments: argparse.Namespace) -> None:
    """What begins a run and what continues one do not go together."""
    begins = arguments.preset is not None or arguments.init is not None
    if arguments.resume is None and not begins and not arguments.list_settings:
        raise UserError("name a preset (e.g. atat train demo), a run to begin with (--init) or one to --resume")
    if arguments.resume is None:
        return
    if begins:
        raise UserError("a preset or --init begins a run, --resume continues one: leave out one of them")
    for name, reason in (("method", "a resumed run keeps its method"), ("out", "a resumed run stays in its folder")):
        if getattr(arguments, name) is not None:
            raise UserError(f"{reason}: leave out --{name}")


def check_at_once(arguments: argparse.Namespace) -> None:
    """A mistyped name, setting or path is answered here, before torch is imported, which takes seconds."""
    from mdlm_atat.data.manifest import is_prepared
    from mdlm_atat.data.sources import open_source

    if arguments.init is not None:
        check_model(arguments.init, "--init")
        return
    data = configuration(arguments).data
    folder = Path(data.source).expanduser()
    if arguments.resume is None and not (folder.is_dir() and is_prepared(folder)):
        open_source(data.source, split=data.split, column=data.column, documents=data.documents)


def list_settings(arguments: argparse.Namespace) -> int:
    from mdlm_atat.cli.settings import print_settings

    print_settings(configuration(arguments), f"The settings of {label(arguments)}")
    return 0


def configuration(arguments: argparse.Namespace) -> RunConfig:
    """The configuration that the arguments ask for. Raises UserError with every mistake in it."""
    before: RunConfig | str = arguments.preset or RunConfig()
    method, from_folder = arguments.method, False
    if arguments.resume is not None:
        if not arguments.resume.is_dir():
            raise UserError(f"--resume: there is no run folder {arguments.resume}")
        before, from_folder = str(arguments.resume), True
    if arguments.init is not None:
        from mdlm_atat.runs.initial import Initial

        before = Initial.open(arguments.init).run_config(arguments.preset, method, arguments.settings)
        method, from_folder = None, True
    return read_config(before, method, arguments.settings, label(arguments), from_folder=from_folder)


def label(arguments: argparse.Namespace) -> str:
    """The command, without its settings."""
    words = [] if arguments.preset is None else [arguments.preset]
    for name in ("method", "init", "resume"):
        value = getattr(arguments, name)
        words += [] if value is None else [f"--{name}", str(value)]
    return " ".join(["atat train", *words])
