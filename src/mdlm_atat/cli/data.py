"""atat data: a corpus as memory-mapped tokens, and tokenizers trained on it."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from mdlm_atat.cli.parser import Parser, choose, whole
from mdlm_atat.config.options import field_docs
from mdlm_atat.data.readers.reading import Reading, ReadingSettings
from mdlm_atat.data.settings import DataSettings
from mdlm_atat.errors import command_line

if TYPE_CHECKING:
    pass

HELP = """\
atat data: prepare a corpus, or train a tokenizer on it

usage: atat data prepare SOURCE --out DIR [--tokenizer T]
       atat data train-tokenizer SOURCE --vocab_size N --out DIR
       atat data COMMAND --help

SOURCE is shakespeare (built in), a file of text (plain text of any ending, HTML, mails, tables, JSON, Parquet, books,
also as .gz, .bz2, .xz or .zst; see docs/text.md), a folder of them, a hub data set by short name (wikitext-2,
wikitext-103, lm1b, openwebtext, text8, tinystories, fineweb-edu) or hub:OWNER/NAME[:CONFIG].

for example:
  atat data prepare shakespeare --tokenizer char --out data/shakespeare
  atat data prepare books/ --tokenizer gpt2 --out data/books --validation held-out.txt
  atat data train-tokenizer books/ --vocab_size 8192 --out tokenizers/books
"""


def prepare_parser() -> Parser:
    parser = Parser("atat data prepare", "Write a corpus as memory-mapped tokens.")
    parser.add_argument("source", help=field_docs(DataSettings)["source"])
    parser.add_argument(
        "--out", type=Path, required=True, help="folder to make; it appears when it is complete, never before"
    )
    parser.add_fields(DataSettings, leave_out=("source",))
    parser.add_argument("--num_workers", type=whole(1), help="threads that tokenize (default: one a core, at most 16)")
    parser.add_argument("--trust_plugins", action="store_true", help="import a plugin that a tokenizer's folder names")
    return parser


def tokenizer_parser() -> Parser:
    parser = Parser("atat data train-tokenizer", "Train a byte-level BPE tokenizer on a corpus.")
    meanings = field_docs(DataSettings)
    parser.add_argument("source", help=meanings["source"])
    parser.add_argument(
        "--vocab_size", type=whole(), required=True, help="tokens, with the 256 bytes and eos; at least 258"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to make; its name goes after --tokenizer")
    parser.add_argument("--split", default="train", help="hub data sets: the split to read")
    parser.add_fields(Reading)
    return parser


def reading_arguments(arguments: Namespace) -> ReadingSettings:
    """Those of the flags that `Parser.add_fields(Reading)` makes that were given."""
    given = {name: getattr(arguments, name) for name in ReadingSettings.__annotations__}
    return cast(ReadingSettings, {name: value for name, value in given.items() if value is not None})


def main(argv: list[str]) -> int:
    match choose("atat data", argv, ("prepare", "train-tokenizer"), HELP):
        case ("prepare", rest):
            _prepare(prepare_parser().parse(rest))
        case ("train-tokenizer", rest):
            _train_tokenizer(tokenizer_parser().parse(rest))
    return 0


def _prepare(arguments: Namespace) -> None:
    from mdlm_atat.data.corpus import COLUMNS
    from mdlm_atat.data.prepare import prepare

    corpus = prepare(**vars(arguments))
    for name, cells in {"split": COLUMNS, **corpus.sizes()}.items():
        print(f"{name:<10}" + "".join(f"{cell:>16}" for cell in cells))
    for name, fact in corpus.facts().items():
        print(f"{name:<10}  {fact}")
    plain = {"data.tokenizer": "char", "data.mode": "wrap"}  # as the preset has them
    settings = {name: value for name, value in corpus.settings().items() if plain.get(name) != value}
    settings["data.source"] = arguments.out
    if "data.loss_on" in settings:
        del settings["data.mode"]  # which that has
    words = [
        word
        for name, value in settings.items()
        for word in (f"--{name}", value if isinstance(value, Path) else str(value))
    ]
    print(f"next        {command_line(['train', 'char', *words])}")


def _train_tokenizer(arguments: Namespace) -> None:
    from mdlm_atat.data.train_tokenizer import train_tokenizer

    tokenizer = train_tokenizer(**vars(arguments))
    print(f"tokenizer   byte-level BPE, {tokenizer.vocab_size:,} tokens")
    if tokenizer.vocab_size < arguments.vocab_size:
        print(f"            the text has no more pairs to merge: fewer than the {arguments.vocab_size:,} asked for")
    print(f"folder      {arguments.out}")
    words = ["data", "prepare", arguments.source, "--tokenizer", arguments.out, "--out", "DIR"]
    print(f"next        {command_line(words)}")
