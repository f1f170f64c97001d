"""atat train: from a preset and a text to a run folder."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from mdlm_atat.config.files import describe_methods, describe_presets, load_config, override, split_flags
from mdlm_atat.errors import UserError


def make_parser() -> argparse.ArgumentParser:
    presets = "\n".join(f"  {name:12} {text}" for name, text in describe_presets().items())
    methods = "\n".join(f"  {name:18} {text}" for name, text in describe_methods().items())
    parser = argparse.ArgumentParser(
        prog="atat train",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Train a model from a preset, changed by dotted flags.",
        epilog=f"""presets:
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
    parser.add_argument("--max-minutes", "--max_minutes", type=float, help="the same as --train.max_minutes")
    parser.add_argument("--settings", action="store_true", help="list every setting of the preset, and exit")
    return parser


def main(argv: list[str]) -> int:
    own, dotted = split_flags(argv)
    parser = make_parser()
    arguments = parser.parse_args(own)
    starts = arguments.preset is not None or arguments.init is not None
    if starts == (arguments.resume is not None):
        parser.error("name a preset (e.g. atat train demo), a run to begin with (--init) or one to --resume")
    if arguments.max_minutes is not None:
        dotted += ["--train.max_minutes", str(arguments.max_minutes)]
    if arguments.settings:
        dotted = ["--help"]
    if arguments.resume is not None:
        return resume(parser, arguments, dotted)
    flags = {"--method": arguments.method, "--init": arguments.init}
    named = [f"{flag} {value}" for flag, value in flags.items() if value is not None]
    preset = " ".join([*([arguments.preset] if arguments.preset else []), *named])
    init = None
    if arguments.init is None:
        before = load_config(str(arguments.preset), arguments.method)
        names = [arguments.preset, arguments.method]
    else:
        from mdlm_atat.runs.initial import Initial

        init = Initial.open(arguments.init)
        before = init.run_config(arguments.preset, arguments.method, dotted)
        names = [arguments.preset or init.found.home.resolve().name, arguments.method, "init"]
    config = override(before, dotted, prog=f"atat train {preset}")

    from mdlm_atat.runs.train import run

    stem = "-".join(Path(name).stem for name in names if name is not None)
    out = arguments.out or Path("runs") / f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    return run(config, out, resumed_from=None, preset=preset, init=init)


def resume(parser: argparse.ArgumentParser, arguments: argparse.Namespace, dotted: list[str]) -> int:
    """Continue the run that --resume names."""
    folder: Path = arguments.resume
    if not folder.is_dir():
        raise UserError(f"--resume: there is no run folder {folder}")
    if arguments.method is not None:
        parser.error("a resumed run keeps its method: leave out --method")
    before = load_config(str(folder))
    config = override(before, dotted, prog=f"atat train {folder}")
    if arguments.out is not None:
        parser.error("a resumed run stays in its folder: leave out --out")

    from mdlm_atat.runs.train import run

    return run(config, folder, resumed_from=before, preset=str(folder))
