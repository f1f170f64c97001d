"""What `atat generate` and `atat infill` have in common: how to sample, what to watch, where texts go."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdlm_atat.cli.parser import Parser, real, whole
from mdlm_atat.cli.text_file import Item, Lines, settings_of
from mdlm_atat.errors import UserError
from mdlm_atat.samplers.catalogue import split_spec

if TYPE_CHECKING:
    import torch

    from mdlm_atat.lm import CausalLM, Generated, MaskedDiffusionLM
    from mdlm_atat.samplers.loop import OnStep
    from mdlm_atat.samplers.seeds import SeedRule

SEPARATOR = "-" * 40  # between two texts
MAX_SEED = 2**62  # torch takes 63 bits, and by the rule "add" text i adds i
SETTINGS = (  # that a file of texts depends on, beside the weights, the prompts and the rule of seeds
    "num_samples",
    "length",
    "max_new_tokens",
    "sampler",
    "steps",
    "temperature",
    "top_k",
    "top_p",
    "block_size",
    "guide",
    "guide_logits",
    "guide_order",
    "seed",
    "precision",
    "trace",
)


def add_sampling_arguments(parser: Parser) -> None:
    how = parser.add_argument_group("how to sample")
    how.add_argument(
        "--sampler",
        metavar="NAME[:OPTION=VALUE,...]",
        help="atat samplers lists them (default: the model's, see there)",
    )
    how.add_argument("--steps", type=whole(1), help="steps: fewer are faster and worse (default: the sampler's)")
    how.add_argument("--temperature", type=real(0), default=1.0, help="below 1: safer; 0: most likely")
    how.add_argument("--top_k", type=whole(0), default=0, help="draw among the k most likely tokens; 0: all")
    how.add_argument("--top_p", type=real(), default=1.0, help="draw among the likeliest tokens that reach p; 1: all")
    how.add_argument("--block_size", type=whole(1), help="fill so many tokens at a time, left to right (default: all)")
    how.add_argument("--guide", default="", metavar="WORD=WEIGHT,...", help="words to have more of, or less (negative)")
    how.add_argument("--guide_logits", type=real(), default=1.0, help="how much it changes their logits")
    how.add_argument("--guide_order", type=real(), default=0.0, help="how much earlier they come")
    seed = whole(-MAX_SEED, MAX_SEED)
    how.add_argument("--seed", type=seed, default=0, help="text i is drawn from a hash of seed and i")
    how.add_argument(
        "--seed_rule", choices=["hash", "add"], help="add: text i is drawn from seed + i instead (default: hash)"
    )
    how.add_argument("--batch_size", type=whole(1), default=16, help="texts made together")
    how.add_argument("--compile", action="store_true", help="compile the network first: faster for many texts on a GPU")
    out = parser.add_argument_group("what to see")
    out.add_argument("--watch", action="store_true", help="show the first text while it is being filled in")
    out.add_argument("--animate", type=Path, help="draw how the first text came about: a .gif or .html file")
    out.add_argument("--out", type=Path, help="write to this file: .jsonl with details, anything else as text")
    out.add_argument("--trace", action="store_true", help="with a .jsonl file: every text's trace too")
    out.add_argument("--resume", action="store_true", help="go on with a .jsonl file that was interrupted")
    out.add_argument("--overwrite", action="store_true", help="replace --out and --animate where they exist")


def check_arguments(arguments: Namespace) -> None:
    """Everything that can be known to be wrong before a model is loaded."""
    if arguments.sampler is not None:
        split_spec(arguments.sampler)  # refuses an unknown name
    if not arguments.guide and (arguments.guide_logits != 1 or arguments.guide_order != 0):
        raise UserError("--guide_logits and --guide_order need --guide with the words that they are for")
    if arguments.resume and arguments.overwrite:
        raise UserError("--resume goes on with --out, --overwrite replaces it: leave one of them out")
    out: Path | None = arguments.out
    is_lines = out is not None and out.suffix == ".jsonl"
    for name in ("trace", "resume"):
        if getattr(arguments, name) and not is_lines:
            raise UserError(f"--{name} needs --out with a .jsonl file")
    if out is not None and out.is_dir():
        raise UserError(f"--out: {out} is a folder; name a file in it")
    if out is not None and not out.parent.is_dir():
        raise UserError(f"--out: there is no folder {out.parent}; make it first")
    if out is not None and out.exists() and not (arguments.resume or arguments.overwrite):
        also = "go on with it by --resume, " if is_lines else ""
        raise UserError(f"--out: {out} exists; {also}replace it by --overwrite, or name another file")
    if out is not None and not os.access(out if out.exists() else out.parent, os.W_OK):
        raise UserError(f"--out: {out} cannot be written; choose another place or change its permissions")
    if arguments.animate is not None:
        from mdlm_atat.report.animation import check_animation_path

        check_animation_path(arguments.animate)
        if arguments.animate.exists() and not arguments.overwrite:
            raise UserError(f"--animate: {arguments.animate} exists; replace it by --overwrite, or name another file")


def how_to_sample(arguments: Namespace) -> dict[str, Any]:
    """The arguments as keywords of lm.generate and lm.infill."""
    from mdlm_atat.lm import Guide

    guide = None
    if arguments.guide:
        guide = Guide(read_weights(arguments.guide), logits=arguments.guide_logits, order=arguments.guide_order)
    names = ("sampler", "steps", "temperature", "top_k", "top_p", "block_size")
    return {name: getattr(arguments, name) for name in names} | {"guide": guide}


def read_weights(text: str) -> dict[str, float]:
    weights: dict[str, float] = {}
    for pair in text.split(","):
        word, _, weight = pair.rpartition("=")
        word = word.strip()
        if word in weights:
            raise UserError(f"--guide: {word!r} occurs twice; expected one weight for each word")
        try:
            weights[word] = float(weight)
        except ValueError:
            word = ""
        if not word:
            raise UserError(f"--guide: {pair!r} is no word with a weight; expected for example king=2,queen=-1")
    return weights


def settings_hash(lm: MaskedDiffusionLM | CausalLM, arguments: Namespace, items: Sequence[Item], rule: SeedRule) -> str:
    """Tells whether a file of texts can be gone on with: the same weights, settings and prompts. Files that earlier
    versions began, when there was no rule of seeds but "add", have the same hash as ours of that rule."""
    settings = {name: str(getattr(arguments, name)) for name in SETTINGS if hasattr(arguments, name)}
    if settings.get("max_new_tokens") == "None":  # there was no such setting
        del settings["max_new_tokens"]
    if rule != "add":
        settings["seed_rule"] = rule
    content = json.dumps([lm.fingerprint(), settings, [[item.id, item.text] for item in items]], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def choose_seed_rule(lm: MaskedDiffusionLM | CausalLM, arguments: Namespace, items: Sequence[Item]) -> SeedRule:
    """The rule that was asked for; else that of the file to be gone on with, else the default."""
    if arguments.seed_rule is None and arguments.resume and arguments.out.exists():
        with arguments.out.open("rb") as file:
            begun = settings_of(file.readline())
        if begun == settings_hash(lm, arguments, items, "add"):
            print(f"{arguments.out} was begun with seeds by the rule add, and goes on with it", file=sys.stderr)
            return "add"
    return arguments.seed_rule or "hash"


def no_progress(done: int, total: int) -> None:
    """Where a bar would be in the way."""


def make_texts(
    lm: MaskedDiffusionLM | CausalLM,
    arguments: Namespace,
    items: Sequence[Item],
    make: Callable[[list[str], dict[str, Any]], Sequence[Generated]],
    *,
    title_field: str,
    on_first: Callable[[Any], None] = lambda _: None,
) -> None:
    """Make `num_samples` texts of every item, in batches, and write or print them in order.

    `make(prompts, settings)` makes a batch, by lm.generate or lm.infill with further keywords, seeds among them.
    `on_first` hears of the first text of all. `title_field`: what a .jsonl line calls an item's text.
    """
    from mdlm_atat.device import explain_out_of_memory
    from mdlm_atat.progress import progress_bar
    from mdlm_atat.samplers.seeds import text_seeds

    if arguments.compile:
        lm.compile()
    num_each, size = arguments.num_samples, arguments.batch_size
    total = len(items) * num_each
    rule = choose_seed_rule(lm, arguments, items)
    lines = None
    if arguments.out is not None and arguments.out.suffix == ".jsonl":
        lines = Lines(arguments.out, settings_hash(lm, arguments, items, rule), resume=arguments.resume)
    done = lines.num_done if lines is not None else 0
    if done > 0 and (arguments.watch or arguments.animate is not None):
        print(f"the first text is in {arguments.out} already: it can be neither watched nor animated", file=sys.stderr)
    texts: list[str] = []
    bar = progress_bar("writing") if arguments.out is not None and not arguments.watch else nullcontext(no_progress)
    try:
        with bar as on_progress:
            while done < total:
                which, first = range(done, min(done + size, total)), done == 0
                more: dict[str, Any] = {
                    "seed": text_seeds(arguments.seed, which, rule),
                    "return_trace": arguments.trace or (first and arguments.animate is not None),
                }
                watching = watched(lm, arguments) if first and arguments.watch else nullcontext()
                with explain_out_of_memory(f"try `batch_size={max(1, size // 2)}`"), watching as on_step:
                    made = make([items[number // num_each].text for number in which], more | {"on_step": on_step})
                if first:
                    on_first(made[0])
                if lines is not None:
                    # by the rule "add" a line is to the byte what earlier versions wrote
                    origins = [{} if rule == "add" else {"base_seed": arguments.seed, "index": i} for i in which]
                    lines.write(
                        [
                            row_of(text, items[i // num_each], i % num_each, title_field, arguments.trace, origin)
                            for i, text, origin in zip(which, made, origins, strict=True)
                        ]
                    )
                else:
                    texts += [text.text for text in made]
                done = which.stop
                on_progress(done, total)
                if first and arguments.animate is not None:
                    animate(lm, made[0], arguments)
    except KeyboardInterrupt:
        if lines is not None:
            print(f"\n{done} of {total} texts are in {arguments.out}; go on by adding --resume", file=sys.stderr)
        raise
    finally:
        if lines is not None:
            lines.close()
    show(texts, total, arguments)


def show(texts: Sequence[str], total: int, arguments: Namespace) -> None:
    """Print the texts, or write them to a file that holds texts alone; those of a .jsonl file are there already."""
    from mdlm_atat.atomic import write_text

    if arguments.out is None:
        for text in texts[1 if arguments.watch else 0 :]:  # --watch has shown the first
            print(*([SEPARATOR] if total > 1 else []), text, sep="\n")
        return
    if arguments.out.suffix != ".jsonl":
        alone = texts[0].removesuffix("\n") + "\n"  # a document ends as it did
        write_text(arguments.out, alone if total == 1 else "".join(f"{text}\n{SEPARATOR}\n" for text in texts))
    print(f"{total} texts written to {arguments.out}", file=sys.stderr)


def row_of(
    text: Generated, item: Item, sample: int, title_field: str, with_trace: bool, origin: dict[str, int]
) -> dict[str, Any]:
    """A line of a .jsonl file; `origin`: what the text's own seed was made from."""
    from mdlm_atat.lm import Infilled

    row: dict[str, Any] = {"id": item.id, "sample": sample, "text": text.text, title_field: item.text}
    if isinstance(text, Infilled):
        row |= {"gaps": text.gaps, "lengths": list(text.lengths)}
    row |= {"seed": text.seed, **origin, "nfe": text.nfe, "tokens": text.tokens}
    if with_trace and text.trace is not None:
        row["trace"] = text.trace.to_json()
    return row


@contextmanager
def watched(lm: MaskedDiffusionLM | CausalLM, arguments: Namespace) -> Iterator[OnStep]:
    """Show the first row of a batch while it is filled, by the `on_step` that this gives."""
    from rich.console import Console

    from mdlm_atat.report.canvas_view import CanvasView

    mask_id = lm.tokenizer.mask_id
    view = CanvasView(
        Console(),
        token_text=lambda token: lm.tokenizer.decode([token]),
        mask_id=mask_id,
        title=str(arguments.model),
    )
    fixed: list[bool] = []

    def on_step(step: int, z_t: torch.Tensor) -> None:
        row = z_t[0].tolist()
        if step == 0:
            fixed.extend(token != mask_id for token in row)
        else:
            view.show(step, None, row, fixed=fixed)

    with view:
        yield on_step


def animate(lm: MaskedDiffusionLM | CausalLM, text: Generated, arguments: Namespace) -> None:
    """Draw how a text came about into the file that was asked for."""
    from mdlm_atat.report.animation import Reveal, write_animation

    settings = {
        "sampler": arguments.sampler or lm.default_sampler,
        "temperature": f"{arguments.temperature:g}",
        "seed": str(arguments.seed),
    }
    reveal = Reveal.of(lm, text, title=str(arguments.model), settings=settings)
    print(f"animation written to {write_animation(reveal, arguments.animate)}", file=sys.stderr)
