"""The texts that `atat generate` and `atat infill` make: in batches, to a terminal, a pipe or a file, watched or
animated."""

from __future__ import annotations

import io
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
    from mdlm_atat.progress import OnProgress

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


class TextsBar:
    """How far the texts are, on stderr, once it takes a few seconds: those that are done, and how many tokens of the
    batch that is being made are written. In the time of the block."""

    def __init__(self, lm: MaskedDiffusionLM | CausalLM, asked: Texts, done: int) -> None:
        from mdlm_atat.progress import SHOWN_AFTER_S, Bar

        self._lm, self._total, self._done = lm, asked.total, done
        self._share = asked.total / asked.num_drawn  # of a text that is drawn, among those that are to be made
        self._drawn = 0
        """Since the last text that was done: where the best are kept, a batch need not finish one."""
        self._num_together = self._num_evaluations = 0
        self._bar = Bar("writing", total=asked.total, done=done, after_s=SHOWN_AFTER_S)

    def __enter__(self) -> TextsBar:
        return self

    def __exit__(self, *_: object) -> None:
        self._lm.on_evaluation = None
        self._bar.close()

    @contextmanager
    def batch(self, num_texts: int) -> Iterator[OnProgress]:
        """The time in which so many texts are drawn together. It gives what is to hear of their tokens."""
        self._num_together, self._num_evaluations = num_texts, 0
        self._lm.on_evaluation = self._on_evaluation
        yield self._on_tokens
        self._lm.on_evaluation = None
        self._drawn += num_texts

    def texts_done(self, done: int) -> None:
        self._done, self._drawn = done, 0
        if done < self._total:
            self._bar.update(done)

    def _on_evaluation(self) -> None:
        """Before the first token, which is where lengths of gaps are chosen; how much that takes is not known."""
        self._num_evaluations += 1
        self._show(0.0, f"choosing lengths of gaps, {counted(self._num_evaluations, 'evaluation')}")

    def _on_tokens(self, done: int, total: int) -> None:
        self._lm.on_evaluation = None
        self._show(self._num_together * done / max(1, total), f"{done:,} of {counted(total, 'token')}")

    def _show(self, num_drawn: float, text: str) -> None:
        self._bar.update(self._done, text, ahead=(self._drawn + num_drawn) * self._share)


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
    bar = TextsBar(lm, asked, done)

    def make_batch(prompts: list[str], seeds: list[int]) -> Sequence[Generated]:
        first = done == 0
        with_trace = arguments.trace or (first and arguments.animate is not None)
        settings = {"seed": seeds, "return_trace": with_trace}
        if first and arguments.watch:
            with watching(lm, title_of(arguments.model), lambda: row_of(prompts[0])) as on_step:
                return make(prompts, settings | {"on_step": on_step})
        with bar.batch(len(prompts)) as on_progress:
            return make(prompts, settings | {"on_progress": on_progress})

    try:
        with bar:
            for which, made in asked.make(make_batch, batch_size=arguments.batch_size, num_done=done):
                if which.start == 0:
                    on_first(made[0])
                if lines is None:
                    texts += made
                else:
                    how = {"item_field": title_field, "with_trace": arguments.trace}
                    lines.write([asked.row(number, text, **how) for number, text in zip(which, made, strict=True)])
                done = which.stop
                bar.texts_done(done)
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
