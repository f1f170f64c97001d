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
  torchrun --nproc-per-node 8 -m mdlm_atat train small    8 GPUs of one machine
""",
    )
    parser.add_argument("preset", nargs="?", help="a preset's name, a YAML file, or a run folder to repeat")
    parser.add_argument("--method", help="a training method's name, or a YAML file (default: as the preset says)")
    parser.add_argument("--out", type=Path, help="run folder (default: runs/PRESET-DATE-TIME)")
    parser.add_argument("--resume", type=Path, metavar="RUN", help="continue a run from its newest checkpoint")
    parser.add_argument("--max-minutes", "--max_minutes", type=float, help="the same as --train.max_minutes")
    parser.add_argument("--settings", action="store_true", help="list every setting of the preset, and exit")
    return parser


def main(argv: list[str]) -> int:
    own, dotted = split_flags(argv)
    parser = make_parser()
    arguments = parser.parse_args(own)
    if (arguments.preset is None) == (arguments.resume is None):
        parser.error("name a preset (e.g. atat train demo), or a run to --resume; not both")
    if arguments.max_minutes is not None:
        dotted += ["--train.max_minutes", str(arguments.max_minutes)]
    if arguments.settings:
        dotted = ["--help"]
    name = str(arguments.resume or arguments.preset)
    if arguments.resume is not None and not arguments.resume.is_dir():
        raise UserError(f"--resume: there is no run folder {arguments.resume}")
    if arguments.resume is not None and arguments.method is not None:
        parser.error("a resumed run keeps its method: leave out --method")
    before = load_config(name, arguments.method)
    config = override(before, dotted, prog=f"atat train {name}")
    if arguments.resume is not None and arguments.out is not None:
        parser.error("a resumed run stays in its folder: leave out --out")

    from mdlm_atat.cli.run import run

    if arguments.resume is not None:
        return run(config, arguments.resume, resumed_from=before, preset=name)
    stem = "-".join(Path(part).stem for part in (name, arguments.method) if part is not None)
    out = arguments.out or Path("runs") / f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    preset = name if arguments.method is None else f"{name} --method {arguments.method}"
    return run(config, out, resumed_from=None, preset=preset)
