"""Pack a trained run as the model in the box: 8 bits a weight, without the paths of the machine that trained it.

usage: python models/box/pack.py RUN OUT

OUT has what `load_lm` reads. What transformers reads is left out: it is 0.3 MB, most of it the tokenizer a second time,
in every wheel. `load_lm().save_pretrained(FOLDER, weights="int8")` writes a folder with both.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from mdlm_atat import MaskedDiffusionLM, load_lm
from mdlm_atat.training.checkpoint import write_checksums

LARGEST_BYTES = 24_000_000


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args(argv)
    trained = load_lm(arguments.run, device="cpu")
    config = trained.config
    data = replace(config.data, source="models/box", tokenizer="models/box", validation=None)
    named = replace(config, data=data, train=replace(config.train, max_minutes=0.0))
    lm = MaskedDiffusionLM(trained.network, trained.tokenizer, named)
    lm.counts, lm.phrases, lm.stage = trained.counts, trained.phrases, trained.stage
    with TemporaryDirectory(dir=arguments.out.parent, prefix="packing-") as place:
        box = Path(place) / "box"
        box.mkdir()
        lm.write_files(box, "int8")
        write_checksums(box)
        size = sum(file.stat().st_size for file in box.rglob("*") if file.is_file())
        if size > LARGEST_BYTES:
            raise SystemExit(f"the box has {size:,} bytes, expected at most {LARGEST_BYTES:,}: train a smaller one")
        put(box, arguments.out)
    print(f"{arguments.out}: {size:,} bytes")


def put(folder: Path, place: Path) -> None:
    """Move a folder to a place, instead of what is there."""
    if place.exists():
        shutil.rmtree(place)
    shutil.move(folder, place)


if __name__ == "__main__":
    main()
