"""atat generate: texts from a trained model."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mdlm_atat.cli.model import add_model_arguments, load_model
from mdlm_atat.errors import UserError

if TYPE_CHECKING:
    from mdlm_atat.lm import CausalLM, Generated, MaskedDiffusionLM

SEPARATOR = "-" * 40  # between two texts


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="atat generate",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Generate texts with a trained model.",
        epilog="""examples:
  atat generate runs/demo --watch
  atat generate runs/demo --prompt "ROMEO:" --num_samples 4 --seed 7
  atat generate runs/demo --prompts prompts.txt --out texts.jsonl
""",
    )
    add_model_arguments(parser)
    parser.add_argument("--prompt", default="", help=r"text to begin with; \n stands for a new line")
    parser.add_argument("--prompts", type=Path, help="a file of prompts, one a line, \\n as in --prompt")
    parser.add_argument("--num_samples", type=int, default=1, help="texts for each prompt (default: 1)")
    parser.add_argument("--length", type=int, help="tokens in all, prompt included (default: the model's length)")
    parser.add_argument(
        "--steps", type=int, default=128, help="reverse-time steps: fewer are faster and worse (default: 128)"
    )
    parser.add_argument("--temperature", type=float, default=1.0, help="below 1: safer; 0: most likely (default: 1)")
    parser.add_argument("--top_k", type=int, default=0, help="draw among the k most likely tokens (default: 0, all)")
    parser.add_argument(
        "--top_p", type=float, default=1.0, help="draw among the likeliest tokens that reach p (default: 1, all)"
    )
    parser.add_argument("--seed", type=int, default=0, help="text i is drawn from seed + i (default: 0)")
    parser.add_argument("--batch_size", type=int, default=16, help="texts generated together (default: 16)")
    parser.add_argument("--no_cache", action="store_true", help="ask the network at every step (same texts, slower)")
    parser.add_argument("--watch", action="store_true", help="show the first text while it is being filled in")
    parser.add_argument("--out", type=Path, help="write to this file: .jsonl with details, anything else as text")
    return parser


def main(argv: list[str]) -> int:
    arguments = make_parser().parse_args(argv)
    for name in ("num_samples", "batch_size"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name} is {getattr(arguments, name)}, expected at least 1")
    given = read_prompts(arguments.prompt, arguments.prompts)
    prompts = [prompt for prompt in given for _ in range(arguments.num_samples)]
    if arguments.out is not None and arguments.out.is_dir():
        raise UserError(f"--out: {arguments.out} is a folder; name a file in it")
    if arguments.out is not None and not arguments.out.parent.is_dir():
        raise UserError(f"--out: there is no folder {arguments.out.parent}; make it first")

    from mdlm_atat.device import explain_out_of_memory

    lm = load_model(arguments)
    texts: list[Generated] = []
    for start in range(0, len(prompts), arguments.batch_size):
        batch = prompts[start : start + arguments.batch_size]
        watch = arguments.watch and start == 0
        with explain_out_of_memory(f"try --batch_size {max(1, arguments.batch_size // 2)}"):
            texts += generate_batch(lm, batch, arguments, seed=arguments.seed + start, watch=watch)
    write_texts(texts, prompts, arguments)
    return 0


def read_prompts(prompt: str, file: Path | None) -> list[str]:
    if file is None:
        return [prompt.replace("\\n", "\n")]
    if prompt:
        raise UserError("give --prompt or --prompts, not both")
    try:
        prompts = file.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except FileNotFoundError as error:
        raise UserError(f"--prompts: there is no file {file}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--prompts: {file} is not UTF-8 at byte {error.start}; convert it first") from error
    if prompts == [""]:
        raise UserError(f"--prompts: {file} is empty; expected a prompt on each line")
    return [prompt.replace("\\n", "\n") for prompt in prompts]


def generate_batch(
    lm: MaskedDiffusionLM | CausalLM, prompts: list[str], arguments: argparse.Namespace, *, seed: int, watch: bool
) -> list[Generated]:
    from rich.console import Console

    from mdlm_atat.viz.canvas_view import CanvasView

    settings = {
        "length": arguments.length,
        "num_steps": arguments.steps,
        "seed": seed,
        "temperature": arguments.temperature,
        "top_k": arguments.top_k,
        "top_p": arguments.top_p,
        "cache": not arguments.no_cache,
    }
    if not watch:
        return lm.generate(prompts, **settings)
    mask_id = lm.tokenizer.mask_id
    num_steps = arguments.steps if lm.kind == "masked" else (arguments.length or lm.max_length)
    num_fixed = len(lm.tokenizer.encode(prompts[0]))
    with CanvasView(
        Console(),
        token_text=lambda token: lm.tokenizer.decode([token]),
        mask_id=mask_id,
        title=str(arguments.model),
    ) as view:
        return lm.generate(
            prompts,
            **settings,
            on_step=lambda step, z_t, _: view.show(
                step,
                num_steps,
                z_t[0].tolist(),
                fixed=[position < num_fixed for position in range(z_t.shape[1])],
            ),
        )


def write_texts(texts: list[Generated], prompts: list[str], arguments: argparse.Namespace) -> None:
    """To the file, or to standard output unless --watch has shown the only text already."""
    if arguments.out is None:
        shown = 1 if arguments.watch else 0
        for text in texts[shown:]:
            if len(texts) > 1:
                print(SEPARATOR)
            print(text.text)
        return
    with arguments.out.open("w", encoding="utf-8") as stream:
        for text, prompt in zip(texts, prompts, strict=True):
            if arguments.out.suffix == ".jsonl":
                line = {"text": text.text, "prompt": prompt, "seed": text.seed, "nfe": text.nfe, "tokens": text.tokens}
                stream.write(json.dumps(line, ensure_ascii=False) + "\n")
            else:
                stream.write(text.text + "\n" + (SEPARATOR + "\n" if len(texts) > 1 else ""))
    print(f"{len(texts)} texts written to {arguments.out}", file=sys.stderr)
