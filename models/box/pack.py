"""Pack a trained run as the model in the box: 8 bits a weight, without the paths of the machine that trained it.

usage: python models/box/pack.py RUN [OUT]      (OUT: src/mdlm_atat/box)
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

from mdlm_atat import load_lm

BOX = Path(__file__).parents[2] / "src" / "mdlm_atat" / "box"
LARGEST_BYTES = 24_000_000


def main() -> None:
    run, out = Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else BOX
    lm = load_lm(run, device="cpu")
    config = lm.config
    data = replace(config.data, source="models/box", tokenizer="models/box", validation=None)
    lm._config = replace(config, data=data, train=replace(config.train, max_minutes=0.0))
    if out.exists():
        shutil.rmtree(out)
    lm.save_pretrained(out, weights="int8")
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    print(f"{out}: {size:,} bytes")
    if size > LARGEST_BYTES:
        raise SystemExit(f"that is more than {LARGEST_BYTES:,}: train a smaller one")


if __name__ == "__main__":
    main()
