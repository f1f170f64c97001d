"""atat train: from a preset and a text to a run folder."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from mdlm_atat.cli.model import add_trust_argument, check_model
from mdlm_atat.cli.parser import Parser, real
from mdlm_atat.config.files import describe_methods, describe_presets
from mdlm_atat.config.schema import RunConfig
from mdlm_atat.errors import UserError, as_command
from mdlm_atat.plugins import trusted
from mdlm_atat.runs.request import RunRequest
from mdlm_atat.signals import INTERRUPTIONS


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
  atat train char --method atat                    gaps, and an exact likelihood left to right
  atat train char --method importance_rates        masks that adapt to how hard a token is
  atat train char --optim.lr 3e-4 --train.num_steps 2000
  atat train char --settings                       every setting of a preset, with its flag and meaning
  atat train --init runs/a --data.source mine.txt  go on from a trained model, on another text
  atat train --init hub:HuggingFaceTB/SmolLM2-135M --method atat --data.source mine.txt
                                                   a pretrained causal network learns to fill gaps
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
        help="begin with the weights, shape, method and tokenizer of a run, checkpoint, saved or published model; "
        "without a preset with its other settings too; one that reads left to right fills gaps too by --method atat",
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
        if "train.max_minutes" in arguments.settings:
            raise UserError("--max_minutes and --train.max_minutes are the same: leave one of them out")
        arguments.settings["train.max_minutes"] = arguments.max_minutes
    if arguments.list_settings and not (arguments.preset or arguments.init or arguments.resume):
        arguments.preset = RunConfig()
    asked = {
        "config": arguments.preset,
        **{name: getattr(arguments, name) for name in ("method", "out", "resume", "init", "settings")},
    }
    request = RunRequest(**asked)
    with trusted(arguments.trust_plugins):
        if arguments.list_settings:
            return list_settings(request)
        check_at_once(request)

        from mdlm_atat.runs.train import train

        run = train(**asked, trust_plugins=arguments.trust_plugins, command=shlex.join(["atat", *sys.argv[1:]]))
    return INTERRUPTIONS.get(run.stopped or "", 0)


def check_at_once(request: RunRequest) -> None:
    """A mistyped name, setting or path is answered here, before torch is imported, which takes seconds."""
    from mdlm_atat.data.manifest import is_prepared
    from mdlm_atat.data.readers.reading import reading_of
    from mdlm_atat.data.sources import open_source

    if request.init is not None:
        check_model(Path(request.init), "--init")
        return
    data = request.run_config().data
    folder = Path(data.source).expanduser()
    if request.resume is None and not (folder.is_dir() and is_prepared(folder)):
        open_source(
            data.source,
            split=data.split,
            reading=reading_of(data),
            detokenize=data.detokenize,
        )


def list_settings(request: RunRequest) -> int:
    from mdlm_atat.cli.settings import print_settings

    print_settings(request.run_config(), f"The settings of {as_command(request.call).strip('`')}")
    return 0
