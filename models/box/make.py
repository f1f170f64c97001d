r"""Make the model in the box again: data, tokenizer, training, packing, card.

usage: python models/box/make.py NOVELS OUT [--packages FOLDER] [--judge MODEL] [--install]

All of it lies in OUT: corpus/, bpe/, prepared/, run/, box/ (the packed model), card.json and README.md. What is there
already is not made again, and training goes on from its last checkpoint: after an interruption the same command goes
on. --install then puts the box and its card where the repository has them. A GPU takes the minutes that box.yaml says,
a CPU days. No network is needed where the packages lie in --packages (OUT/packages).

To try the recipe in minutes, with other settings and the novels alone:
  python models/box/make.py NOVELS OUT --novels_only --list FILE --num_sequences 16 \
      --set train.num_steps=20 train.compile=false
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import card
import make_data
import pack

from mdlm_atat import load_lm

HERE = Path(__file__).parent
BOX = HERE.parents[1] / "src" / "mdlm_atat" / "box"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("novels", type=Path, help="folder of train.jsonl and valid.jsonl, also packed as .xz")
    parser.add_argument("out", type=Path, help="folder to work in")
    parser.add_argument("--packages", type=Path, help="folder of packages that are there already")
    parser.add_argument("--settings", type=Path, default=HERE / "box.yaml")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings in place of those")
    parser.add_argument("--vocab_size", type=int, default=8192, help="of the tokenizer")
    parser.add_argument("--list", type=Path, default=HERE / "novels.json", help="the novels, by their hashes")
    parser.add_argument("--novels_only", action="store_true", help="leave the packages out")
    parser.add_argument("--judge", help="a causal model that reads what the model writes, for the card")
    parser.add_argument("--num_texts", type=int, default=64, help="texts that it reads")
    parser.add_argument("--num_sequences", type=int, help="sequences in the order of spread (default: all)")
    parser.add_argument("--install", action="store_true", help="put the box and its card into the repository")
    arguments = parser.parse_args(argv)
    out = arguments.out.resolve()
    corpus, tokenizer, prepared, run, box = (out / name for name in ("corpus", "bpe", "prepared", "run", "box"))
    train, valid = corpus / "train.jsonl.xz", corpus / "valid-novels.jsonl.xz"
    if not (out / "sources.json").exists():
        packages = [] if arguments.packages is None else ["--packages", str(arguments.packages)]
        only = ["--novels_only"] if arguments.novels_only else []
        make_data.main([str(arguments.novels), str(out), "--list", str(arguments.list), *packages, *only])
    if not tokenizer.exists():
        atat("data", "train-tokenizer", train, "--vocab_size", arguments.vocab_size, "--out", tokenizer)
    if not prepared.exists():
        atat("data", "prepare", train, "--validation", valid, "--tokenizer", tokenizer, "--out", prepared)
    changed = [word for each in arguments.set for word in flag(each)]
    if run.exists():
        atat("train", "--resume", run, *changed)
    else:
        data = ["--data.source", prepared, "--data.tokenizer", tokenizer]
        atat("train", arguments.settings, *data, *changed, "--out", run)
    pack.main([str(run), str(box)])
    numbers = out / "card.json"
    if numbers.exists() and json.loads(numbers.read_text(encoding="utf-8"))["weights"] != load_lm(box).fingerprint():
        numbers.unlink()  # of weights that were trained further
    last = max((run / "evals").glob("step-*.json"), key=lambda file: file.name)
    judge = [] if arguments.judge is None else ["--judge", arguments.judge, "--num_texts", str(arguments.num_texts)]
    few = [] if arguments.num_sequences is None else ["--num_sequences", str(arguments.num_sequences)]
    files = ["--numbers", str(numbers), "--out", str(out / "README.md")]
    card.main([str(out), "--model", str(box), "--run", str(run), "--evaluation", str(last), *files, *few, *judge])
    if arguments.install:
        shutil.rmtree(BOX)
        shutil.copytree(box, BOX)
        for name in ("card.json", "README.md"):
            shutil.copyfile(out / name, HERE / name)
        print(f"installed  {BOX}")


def flag(setting: str) -> list[str]:
    name, is_set, value = setting.partition("=")
    if not is_set:
        raise SystemExit(f"--set {setting}: expected NAME=VALUE, as in train.num_steps=20")
    return [f"--{name}", value]


def atat(*words: object) -> None:
    """Run a command of the package. Ends as it does, if it fails. One that is interrupted is waited for: it has heard
    of that too, and stores what is to go on from."""
    process = subprocess.Popen([sys.executable, "-m", "mdlm_atat", *map(str, words)])
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        while True:
            try:
                code = process.wait()
                break
            except KeyboardInterrupt:
                continue
    finally:
        signal.signal(signal.SIGTERM, before)
    if code:
        raise SystemExit(code)


if __name__ == "__main__":
    main()
