"""atat train: from a preset and a text to a run folder."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from mdlm_atat.cli.model import add_trust_argument, check_model
from mdlm_atat.cli.parser import Parser, real, report
from mdlm_atat.config.files import apply_settings, describe_methods, describe_presets, load_config
from mdlm_atat.config.schema import DataConfig, RunConfig
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
    with trusted(arguments.trust_plugins):
        return resume(arguments) if arguments.resume is not None else begin(arguments)


def begin(arguments: argparse.Namespace) -> int:
    """Train from a preset, or from the model that --init names."""
    if arguments.preset is None and arguments.init is None and not arguments.list_settings:
        raise UserError("name a preset (e.g. atat train demo), a run to begin with (--init) or one to --resume")
    if arguments.init is not None:
        check_model(arguments.init, "--init")
        from mdlm_atat.runs.initial import Initial

        init = Initial.open(arguments.init)
        before = init.run_config(arguments.preset, arguments.method, arguments.settings)
    else:
        before = load_config(arguments.preset, arguments.method) if arguments.preset else RunConfig()
    flags = {"--method": arguments.method, "--init": arguments.init}
    named = [f"{flag} {value}" for flag, value in flags.items() if value is not None]
    preset = " ".join([*([arguments.preset] if arguments.preset else []), *named])
    config = changed(before, arguments, f"atat train {preset}")
    if arguments.list_settings:
        return list_settings(config, preset)
    check_source(config.data)

    return start(arguments, config=arguments.preset, method=arguments.method, out=arguments.out, init=arguments.init)


def resume(arguments: argparse.Namespace) -> int:
    """Continue the run that --resume names."""
    folder: Path = arguments.resume
    if arguments.preset is not None or arguments.init is not None:
        raise UserError("a preset or --init begins a run, --resume continues one: leave out one of them")
    for name, reason in (("method", "a resumed run keeps its method"), ("out", "a resumed run stays in its folder")):
        if getattr(arguments, name) is not None:
            raise UserError(f"{reason}: leave out --{name}")
    if not folder.is_dir():
        raise UserError(f"--resume: there is no run folder {folder}")
    before = load_config(str(folder))
    config = changed(before, arguments, f"atat train {folder}")
    if arguments.list_settings:
        return list_settings(config, str(folder))

    return start(arguments, resume=folder)


def start(arguments: argparse.Namespace, **what: Any) -> int:
    """Train, and tell the shell how it ended."""
    from mdlm_atat.runs.train import train

    run = train(
        **what,
        settings=arguments.settings | time_limit(arguments),
        trust_plugins=arguments.trust_plugins,
        command=shlex.join(["atat", *sys.argv[1:]]),
    )
    return EXIT_CODES.get(run.stopped or "", 0)


def time_limit(arguments: argparse.Namespace) -> dict[str, float]:
    return {} if arguments.max_minutes is None else {"train.max_minutes": arguments.max_minutes}


def changed(config: RunConfig, arguments: argparse.Namespace, label: str) -> RunConfig:
    """The configuration with the settings of the command line, or UserError with all that is wrong with them."""
    found, mistakes = apply_settings(config, arguments.settings | time_limit(arguments))
    if found is None:
        lines = [f"--{path}: {message}" if path else message for path, message in mistakes]
        raise UserError(f"{label}: {lines[0]}" if len(lines) == 1 else report(label, lines))
    return found


def list_settings(config: RunConfig, name: str) -> int:
    from mdlm_atat.cli.settings import print_settings

    print_settings(config, f"The settings of atat train {name}")
    return 0


def check_source(data: DataConfig) -> None:
    """A mistyped path is answered here, before torch is imported, which takes seconds."""
    from mdlm_atat.data.manifest import is_prepared
    from mdlm_atat.data.sources import open_source

    folder = Path(data.source).expanduser()
    if not (folder.is_dir() and is_prepared(folder)):
        open_source(data.source, split=data.split, column=data.column, documents=data.documents)
