"""The texts that `atat generate` and `atat infill` make: in batches, to a terminal, a pipe or a file, watched or
animated."""

from __future__ import annotations

import io
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdlm_atat.formats import counted
from mdlm_atat.model_folder import title_of
from mdlm_atat.runs.texts import Document, Item, Lines, Texts, begun_with
from mdlm_atat.terminal import is_terminal, shown

if TYPE_CHECKING:
    from mdlm_atat.lm import CausalLM, Generated, MaskedDiffusionLM
    from mdlm_atat.lm.given import Row
    from mdlm_atat.lm.results import Pick

SEPARATOR = "-" * 40  # between two texts
SETTINGS = (  # that a file of texts depends on, beside the weights, the prompts and the rule of seeds
    "num_samples",
    "candidates",
    "pick",
    "length_draws",
    "length_seed",
    "length_prior",
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
    "escape",  # of templates, which are kept as they were given
)


def texts_to_make(
    lm: MaskedDiffusionLM | CausalLM,
    arguments: Namespace,
    items: Sequence[Item],
    num_candidates: int | None,
    pick: Pick = "likeliest",
) -> Texts:
    """What the arguments ask for. Seeds by the rule that they name; else that of the file to be gone on with, else the
    default."""
    asked = Texts(items, arguments.num_samples, arguments.seed, arguments.seed_rule or "hash", num_candidates, pick)
    if arguments.seed_rule is None and arguments.resume:
        before = replace(asked, rule="add")
        if begun_with(arguments.out) == before.settings_hash(lm.fingerprint(), settings_of_texts(arguments)):
            print(f"{arguments.out} was begun with seeds by the rule add, and goes on with it", file=sys.stderr)
            return before
    return asked


def settings_of_texts(arguments: Namespace) -> dict[str, Any]:
    return {name: getattr(arguments, name) for name in SETTINGS if hasattr(arguments, name)}


def no_progress(done: int, total: int) -> None:
    """Where a bar would be in the way."""


def make_texts(
    lm: MaskedDiffusionLM | CausalLM,
    arguments: Namespace,
    items: Sequence[Item],
    make: Callable[[list[str], dict[str, Any]], Sequence[Generated]],
    *,
    row_of: Callable[[str], Row],
    title_field: str,
    num_candidates: int | None = None,
    pick: Pick = "likeliest",
    on_first: Callable[[Any], None] = lambda _: None,
    on_shown: Callable[[Sequence[Any]], None] = lambda _: None,
    document: Document | None = None,
) -> None:
    """Make `num_samples` texts of every item, in batches, and write or print them in order.

    `make(prompts, settings)` makes a batch, by lm.generate or lm.infill with further keywords, seeds among them.
    `row_of(prompt)` is the row that a prompt makes. `on_first` hears of the first text of all, `on_shown` of all that
    are not lines of a .jsonl file. `title_field`: what a .jsonl line calls an item's text. `num_candidates`: so many
    ways to fill each template are drawn, and the best kept, by `pick`. `document`: the file that the only item is the
    text of.
    """
    from mdlm_atat.progress import progress_bar
    from mdlm_atat.report.canvas_view import watching

    if arguments.compile:
        lm.compile()
    asked = texts_to_make(lm, arguments, items, num_candidates, pick)
    lines = None
    if arguments.out is not None and arguments.out.suffix == ".jsonl":
        settings = asked.settings_hash(lm.fingerprint(), settings_of_texts(arguments))
        lines = Lines(arguments.out, settings, resume=arguments.resume)
    done = lines.num_done if lines is not None else 0
    if done > 0 and (arguments.watch or arguments.animate is not None):
        print(f"the first text is in {arguments.out} already: it can be neither watched nor animated", file=sys.stderr)
    texts: list[Generated] = []
    bar = progress_bar("writing") if arguments.out is not None and not arguments.watch else nullcontext(no_progress)

    def make_batch(prompts: list[str], seeds: list[int]) -> Sequence[Generated]:
        first = done == 0
        with_trace = arguments.trace or (first and arguments.animate is not None)
        is_watched = first and arguments.watch
        with (
            watching(lm, title_of(arguments.model), lambda: row_of(prompts[0]))
            if is_watched
            else nullcontext() as on_step
        ):
            return make(prompts, {"seed": seeds, "return_trace": with_trace, "on_step": on_step})

    try:
        with bar as on_progress:
            for which, made in asked.make(make_batch, batch_size=arguments.batch_size, num_done=done):
                if which.start == 0:
                    on_first(made[0])
                if lines is None:
                    texts += made
                else:
                    how = {"item_field": title_field, "with_trace": arguments.trace}
                    lines.write([asked.row(number, text, **how) for number, text in zip(which, made, strict=True)])
                done = which.stop
                on_progress(done, asked.total)
                if which.start == 0 and arguments.animate is not None:
                    animate(lm, made[0], arguments)
    except KeyboardInterrupt:
        if lines is not None:
            print(f"\n{done} of {asked.total} texts are in {arguments.out}; go on by adding --resume", file=sys.stderr)
        raise
    finally:
        if lines is not None:
            lines.close()
    is_first_shown = arguments.watch and not asked.is_ranked and is_terminal()  # a pipe gets every text as it is
    show([text.text for text in texts], arguments, document, is_first_shown=is_first_shown)
    if lines is not None:
        print(f"{counted(asked.total, 'text')} written to {arguments.out}", file=sys.stderr)
    on_shown(texts)


def show(texts: Sequence[str], arguments: Namespace, document: Document | None, *, is_first_shown: bool) -> None:
    """Print the texts, but not the first where --watch has shown it; or write them to a file that holds texts alone.
    One that is a document filled in is written as the document was, byte for byte around its gaps."""
    from mdlm_atat.atomic import write_bytes

    out: Path | None = arguments.out
    if out is not None and out.suffix == ".jsonl":  # they are there already
        return
    kind = document or Document("")
    if document is not None and len(texts) == 1:
        content = texts[0]
    elif out is not None:
        content = texts[0].removesuffix("\n") + "\n" if len(texts) == 1 else ""
        content = content or "".join(f"{text}\n{SEPARATOR}\n" for text in texts)
    else:
        content = None
    if out is not None:
        assert content is not None
        try:
            write_bytes(out, kind.written(content))
        except OSError:
            print(content, end="")  # as it is not in the file, it is here
            raise
        print(f"{counted(len(texts), 'text')} written to {out}", file=sys.stderr)
    elif content is not None and not is_terminal():
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.flush()
            sys.stdout.buffer.write(kind.written(content))
        else:  # a notebook's, or a test's
            sys.stdout.write(content)
    else:
        for text in texts[1 if is_first_shown else 0 :]:
            print(*([SEPARATOR] if len(texts) > 1 else []), shown(text), sep="\n")
        return
    if lacking := kind.lacking(content):
        print(f"written as ?, for {kind.encoding} has no {lacking!r}: convert the document to utf-8", file=sys.stderr)


def animate(lm: MaskedDiffusionLM | CausalLM, text: Generated, arguments: Namespace) -> None:
    """Draw how a text came about into the file that was asked for."""
    from mdlm_atat.lm import Infilled
    from mdlm_atat.report.animation import Reveal, write_animation

    fills_gaps = isinstance(text, Infilled) or arguments.steps
    settings = {
        "sampler": arguments.sampler or (lm.gap_sampler if fills_gaps else lm.default_sampler),
        "temperature": f"{arguments.temperature:g}",
        "seed": str(arguments.seed),
    }
    reveal = Reveal.of(lm, text, title=title_of(arguments.model), settings=settings)
    print(f"animation written to {write_animation(reveal, arguments.animate)}", file=sys.stderr)
