"""Make the model in the box again: data, tokenizer, training, packing, card.

usage: python models/box/make.py NOVELS OUT [--settings FILE] [--judge FOLDER]

What is in OUT already is not made again; training goes on from its last checkpoint. A GPU takes the minutes that
box.yaml says, a CPU days.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("novels", type=Path, help="folder of train.jsonl and valid.jsonl, also packed as .xz")
    parser.add_argument("out", type=Path, help="folder to work in")
    parser.add_argument("--packages", type=Path, help="folder of packages that are there already")
    parser.add_argument("--settings", type=Path, default=HERE / "box.yaml")
    parser.add_argument("--judge", help="a causal model that reads what the model writes, for the card")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    corpus, tokenizer, prepared, run = out / "corpus", out / "bpe", out / "prepared", out / "run"
    train, valid = corpus / "train.jsonl.xz", corpus / "valid-novels.jsonl.xz"
    if not (out / "sources.json").exists():
        packages = [] if arguments.packages is None else ["--packages", arguments.packages]
        call(HERE / "make_data.py", arguments.novels, out, *packages)
    if not tokenizer.exists():
        atat("data", "train-tokenizer", train, "--vocab_size", 8192, "--out", tokenizer)
    if not prepared.exists():
        atat("data", "prepare", train, "--validation", valid, "--tokenizer", tokenizer, "--out", prepared)
    if not run.exists():
        data = ["--data.source", prepared, "--data.tokenizer", tokenizer]
        atat("train", arguments.settings, *data, "--out", run)
    else:
        atat("train", "--resume", run)
    call(HERE / "pack.py", run)
    judge = [] if arguments.judge is None else ["--judge", arguments.judge]
    call(HERE / "card.py", out, "--run", run, "--again", *judge)


def atat(*words: object) -> None:
    """Run a command of the package."""
    subprocess.run([sys.executable, "-m", "mdlm_atat", *map(str, words)], check=True)


def call(script: Path, *words: object) -> None:
    """Run a script with this Python."""
    subprocess.run([sys.executable, str(script), *map(str, words)], check=True)


if __name__ == "__main__":
    main()
