"""atat data: a corpus as memory-mapped tokens, and tokenizers trained on it."""

from __future__ import annotations

import shlex
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from mdlm_atat.cli.parser import Parser, choose, real, whole
from mdlm_atat.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mdlm_atat.data.manifest import Manifest

HELP = """\
atat data: prepare a corpus, or train a tokenizer on it

usage: atat data prepare SOURCE --tokenizer T --out DIR
       atat data train-tokenizer SOURCE --vocab_size N --out DIR
       atat data COMMAND --help

SOURCE is shakespeare (built in), a .txt, .jsonl or .parquet file (text also as .gz, .xz, .zst), a folder of them,
a hub data set by short name (wikitext-2, wikitext-103, lm1b, openwebtext, text8, tinystories, fineweb-edu) or
hub:OWNER/NAME[:CONFIG].

for example:
  atat data prepare shakespeare --tokenizer char --out data/shakespeare
  atat data prepare books/ --tokenizer gpt2 --out data/books --validation held-out.txt
  atat data train-tokenizer books/ --vocab_size 8192 --out tokenizers/books
"""


SOURCE = "shakespeare, a file, a folder, a hub data set's short name or hub:OWNER/NAME[:CONFIG]"
COLUMN = "JSONL, Parquet and hub data sets: the column that holds the text"


def prepare_parser() -> Parser:
    parser = Parser("atat data prepare", "Write a corpus as memory-mapped tokens.")
    parser.add_argument("source", help=SOURCE)
    parser.add_argument(
        "--tokenizer",
        required=True,
        help="char, byte, gpt2, bert-base-uncased, a hub name, or a folder with tokenizer.json, vocab.bpe + "
        "encoder.json or vocab.txt",
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder to make; it appears when it is complete, never before"
    )
    parser.add_argument(
        "--mode",
        choices=["wrap", "pad"],
        default="wrap",
        help="wrap: documents joined with eos and cut to length when read; pad: a document a row",
    )
    parser.add_argument(
        "--length",
        type=whole(2),
        metavar="TOKENS",
        help="pad: tokens in a row; a longer document goes on in further rows",
    )
    parser.add_argument(
        "--validation",
        metavar="SOURCE|SPLIT",
        help="validation text: like SOURCE, or a hub data set's split (default: what comes with the source, else cut "
        "from it)",
    )
    parser.add_argument(
        "--validation_fraction",
        type=real(),
        default=0.05,
        help="share to cut: documents chosen by a hash of their text, or the end of fewer than 20 documents",
    )
    parser.add_argument("--split", default="train", help="hub data sets: the split to train on")
    parser.add_argument("--column", default="text", help=COLUMN)
    parser.add_argument(
        "--documents",
        choices=["file", "line"],
        default="file",
        help=".txt files: a document is the whole file, or each line that is not empty",
    )
    parser.add_argument("--num_workers", type=whole(1), help="threads that tokenize (default: one a core, at most 16)")
    return parser


def tokenizer_parser() -> Parser:
    parser = Parser("atat data train-tokenizer", "Train a byte-level BPE tokenizer on a corpus.")
    parser.add_argument("source", help=SOURCE)
    parser.add_argument(
        "--vocab_size", type=whole(), required=True, help="tokens, with the 256 bytes and eos; at least 258"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to make: give it as --tokenizer")
    parser.add_argument("--split", default="train", help="hub data sets: the split to read")
    parser.add_argument("--column", default="text", help=COLUMN)
    return parser


def main(argv: list[str]) -> int:
    match choose("atat data", argv, ("prepare", "train-tokenizer"), HELP):
        case ("prepare", rest):
            _prepare(prepare_parser().parse(rest))
        case ("train-tokenizer", rest):
            _train_tokenizer(tokenizer_parser().parse(rest))
    return 0


def _prepare(arguments: Namespace) -> None:
    from mdlm_atat.data.manifest import read_manifest
    from mdlm_atat.data.prepare import prepare
    from mdlm_atat.data.progress import TerminalProgress

    folder = prepare(
        arguments.source,
        arguments.tokenizer,
        arguments.out,
        mode=arguments.mode,
        length=arguments.length,
        validation=arguments.validation,
        validation_fraction=arguments.validation_fraction,
        split=arguments.split,
        column=arguments.column,
        documents=arguments.documents,
        num_workers=arguments.num_workers,
        progress=TerminalProgress(),
    )
    manifest = read_manifest(folder)
    print(_table(manifest))
    print(f"tokenizer   {manifest.tokenizer['name']}, {manifest.tokenizer['vocab_size']:,} tokens")
    print(f"validation  {manifest.validation['rule']}")
    print(f"folder      {arguments.out}")
    print(f"next        {_next_command(arguments, manifest)}")


def _table(manifest: Manifest) -> str:
    columns = ("documents", "tokens", "words", "characters", "bytes")
    rows = [["split", *columns]]
    rows += [[name, *(f"{getattr(split, column):,}" for column in columns)] for name, split in manifest.splits.items()]
    return "\n".join(f"{row[0]:<10}" + "".join(f"{cell:>16}" for cell in row[1:]) for row in rows)


def _next_command(arguments: Namespace, manifest: Manifest) -> str:
    words = ["atat", "train", "char", "--data.source", str(arguments.out)]
    if manifest.tokenizer["name"] != "char":  # the presets say char and wrap
        words += ["--data.tokenizer", manifest.tokenizer["name"]]
    if manifest.mode == "pad":
        words += ["--data.mode", "pad", "--data.length", str(manifest.length)]
    return shlex.join(words)


def _train_tokenizer(arguments: Namespace) -> None:
    from mdlm_atat.data.progress import TerminalProgress
    from mdlm_atat.data.sources import open_source
    from mdlm_atat.data.tokenizers import train_bpe

    out = arguments.out
    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise UserError(f"{out} is not an empty folder: choose another --out or delete it first")
    source = open_source(arguments.source, split=arguments.split, column=arguments.column)
    progress = TerminalProgress()

    def texts() -> Iterator[str]:
        num_characters = 0
        for piece in source:
            num_characters += len(piece.text)
            progress.update("counting words", num_characters, 0)
            yield piece.text
        progress.update("merging", num_characters, 0)

    try:
        tokenizer = train_bpe(texts(), arguments.vocab_size, name=out.resolve().name)
    finally:
        progress.done()
    tokenizer.save(out)
    print(f"tokenizer   byte-level BPE, {tokenizer.vocab_size:,} tokens")
    if tokenizer.vocab_size < arguments.vocab_size:
        print(f"            the text has no more pairs to merge: fewer than the {arguments.vocab_size:,} asked for")
    print(f"folder      {out}")
    source_word, out_word = shlex.quote(arguments.source), shlex.quote(str(out))
    print(f"next        atat data prepare {source_word} --tokenizer {out_word} --out DIR")
