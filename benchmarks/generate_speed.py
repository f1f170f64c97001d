"""Tokens a second when writing left to right, against `generate` of transformers: a network of GPT-2's shape each, of
random weights, in one run, as one table.

    python -m benchmarks.generate_speed --json generate_speed.json                                           one GPU
    python -m benchmarks.generate_speed --layers 1 --width 64 --vocab 300 --length 64 --prompt 8 --new 8     anywhere

Greedy is transformers' default; "drawn" is at temperature 1 from the whole vocabulary, which ours does in float64.
Nothing stops at an end of text. On a GPU theirs has weights in bf16, and ours weights in float32 with bf16 arithmetic,
as everywhere. Medians, after a round that warms up, compiles and records. A row that fails says why.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmarks.command import exit_code

from mdlm_atat import CausalLM, CausalTransformer
from mdlm_atat.atomic import check_writable
from mdlm_atat.cli.parser import whole
from mdlm_atat.data.tokenizers import HUB_VOCABULARIES, CharTokenizer
from mdlm_atat.provenance import cpu

WIDTH_OF_HEADS = 64


def ours(args: argparse.Namespace, device: torch.device) -> CausalLM:
    torch.manual_seed(0)
    heads = max(1, args.width // WIDTH_OF_HEADS)
    network = CausalTransformer(args.vocab, args.length, num_layers=args.layers, width=args.width, num_heads=heads)
    surrogates = range(0xD800, 0xE000)
    characters = (chr(code) for code in range(1, 2 * args.vocab + len(surrogates)) if code not in surrogates)
    alphabet = "".join(next(characters) for _ in range(args.vocab - 1))
    return CausalLM(network, CharTokenizer(alphabet), device=device)


def theirs(args: argparse.Namespace, device: torch.device) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=args.vocab,
        n_positions=args.length,
        n_embd=args.width,
        n_layer=args.layers,
        n_head=max(1, args.width // WIDTH_OF_HEADS),
        bos_token_id=0,
        eos_token_id=None,
        pad_token_id=0,
    )
    model: Any = GPT2LMHeadModel(config).eval()
    return model.to(device, torch.bfloat16 if device.type == "cuda" else torch.float32)


def timed(run: Callable[[], int], rounds: int, device: torch.device) -> list[float]:
    """Tokens a second of each round, after one that warms up. `run` returns the number of tokens that it made."""
    rates = []
    for number in range(rounds + 1):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start_s = time.perf_counter()
        num_tokens = run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if number > 0:
            rates.append(num_tokens / (time.perf_counter() - start_s))
    return rates


def write_ours(lm: CausalLM, prompts: list[str], num_new: int, temperature: float) -> int:
    texts = lm.generate(prompts, max_new_tokens=num_new, temperature=temperature)
    return sum(len(text.tokens) - len(prompt) for text, prompt in zip(texts, prompts, strict=True))


def write_theirs(model: Any, prompts: torch.Tensor, num_new: int, **how: Any) -> int:
    made = model.generate(
        prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=num_new, min_new_tokens=num_new, **how
    )
    return made.shape[0] * (made.shape[1] - prompts.shape[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=whole(1), default=12)
    parser.add_argument("--width", type=whole(1), default=768)
    parser.add_argument("--vocab", type=whole(1), default=HUB_VOCABULARIES["gpt2"])
    parser.add_argument("--length", type=whole(1), default=1024)
    parser.add_argument("--prompt", type=whole(1), default=128, help="tokens that are given")
    parser.add_argument("--new", type=whole(1), default=512, help="tokens that are written")
    parser.add_argument("--batch", type=whole(1), nargs="+", default=[1, 32])
    parser.add_argument("--rounds", type=whole(1), default=5)
    parser.add_argument("--skip_theirs", action="store_true", help="without transformers")
    parser.add_argument("--skip_compile", action="store_true", help="nothing compiled, nothing recorded")
    parser.add_argument("--skip_eager", action="store_true", help="without our rows in which nothing is compiled")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.json is not None:
        check_writable(args.json, "--json")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else cpu()
    versions = {"torch": str(torch.__version__)}
    if not args.skip_theirs:
        import transformers

        transformers.logging.set_verbosity_error()
        versions["transformers"] = transformers.__version__
    print(f"{name}, {', '.join(f'{key} {value}' for key, value in versions.items())}")
    print(
        f"{args.layers} layers of width {args.width}, vocabulary {args.vocab:,}; {args.prompt} tokens given, {args.new}"
    )
    print(f"written; median of {args.rounds}; ratio to the first row of the batch")
    print(f"{'':48} {'batch':>6} {'tokens/s':>10} {'lowest to highest':>22} {'ms a token':>11} {'ratio':>6}")
    rows: list[dict[str, Any]] = []
    ids = torch.randint(0, args.vocab - 1, (max(args.batch), args.prompt), generator=torch.Generator().manual_seed(1))

    def line(what: str, batch: int, run: Callable[[], int]) -> None:
        try:
            rates = timed(run, args.rounds, device)
        except Exception as error:  # whatever it is, the other rows are measured
            print(f"{what:48} {batch:6} {type(error).__name__}: {str(error).strip().splitlines()[0][:60]}", flush=True)
            rows.append({"what": what, "batch": batch, "error": f"{type(error).__name__}: {error}"})
            return
        rate, spread = statistics.median(rates), f"({min(rates):,.0f} to {max(rates):,.0f})"
        base = next((row["tokens_per_s"] for row in rows if row["batch"] == batch and "tokens_per_s" in row), rate)
        each = 1000 * batch / rate
        print(f"{what:48} {batch:6} {rate:10,.0f} {spread:>22} {each:11.2f} {rate / base:6.2f}", flush=True)
        rows.append({"what": what, "batch": batch, "tokens_per_s": rate, "rounds": rates})

    if not args.skip_theirs:
        model = theirs(args, device)
        ways: list[tuple[str, dict[str, Any]]] = [("greedy", {}), ("drawn", {"do_sample": True, "top_k": 0})]
        if not args.skip_compile:
            ways += [(f"static cache, compiled, {way}", {**how, "cache_implementation": "static"}) for way, how in ways]
        for batch in args.batch:
            given = ids[:batch].to(device)
            for way, how in ways:
                line(
                    f"transformers, {way}",
                    batch,
                    lambda how=how, given=given: write_theirs(model, given, args.new, **how),
                )
        del model
    lm = ours(args, device)
    prompts = [lm.tokenizer.decode(row) for row in ids.tolist()]
    for compiled in [False] * (not args.skip_eager) + [True] * (not args.skip_compile):
        if compiled:
            lm.compile()
        about = "compiled and recorded" if compiled and device.type == "cuda" else "compiled" if compiled else "eager"
        for batch in args.batch:
            for way, temperature in (("greedy", 0.0), ("drawn", 1.0)):
                line(
                    f"ours, {about}, {way}",
                    batch,
                    lambda batch=batch, temperature=temperature: write_ours(lm, prompts[:batch], args.new, temperature),
                )
    if args.json is not None:
        record = {"machine": name, **versions, "setting": {**vars(args), "json": None}, "rows": rows}
        args.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(exit_code(main))
