"""Train from Python, stop when the validation bound no longer falls, evaluate, write.

python examples/train.py mine.txt                                         # 11M parameters: minutes on a GPU
python examples/train.py mine.txt --preset demo --num_steps 300           # 0.8M: about a minute on a CPU
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping

import mdlm_atat as ma

PATIENCE = 4  # evaluations without a lower bound


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", help="a text file, or a folder of them")
    parser.add_argument("--preset", default="char")
    parser.add_argument("--method", default="atat")
    parser.add_argument("--num_steps", type=int, default=2000)
    parser.add_argument("--prompt", default="Dear Sir,")
    parser.add_argument("--out", help="the run's folder, a new one; default: one in runs/, named by the time")
    args = parser.parse_args(arguments)

    bounds: dict[int, float] = {}

    def on_step(step: int, values: Mapping[str, float]) -> bool:
        """Called after every step; where it returns True, training ends there, with a checkpoint."""
        if "eval/nelbo_nats_per_token" in values:
            bounds[step] = values["eval/nelbo_nats_per_token"]
        found = list(bounds.values())
        return len(found) > PATIENCE and min(found[-PATIENCE:]) >= min(found[:-PATIENCE])

    run = ma.train(
        args.preset,
        data=args.text,
        method=args.method,
        num_steps=args.num_steps,
        out=args.out,
        on_step=on_step,
    )
    print(run)  # the folder, the last step, its bound
    losses = [row["train/loss"] for row in run.metrics if "train/loss" in row]
    print(f"training loss {losses[0]:.3f} at first, {losses[-1]:.3f} at last, nats per token")
    print(f"lowest validation bound after step {min(bounds, key=bounds.__getitem__)}")

    found = ma.evaluate(run, num_draws=4096)
    print(f"at most {found.bits_per_character:.3f} ± {found.bits_per_character_standard_error:.3f} bits per character")

    text = run.model.generate(args.prompt, max_new_tokens=80, seed=1)
    print(text.text)
    print(f"{text.nfe} network evaluations; the text costs {run.model.score(text.text).nats:.1f} nats")


if __name__ == "__main__":
    main()
