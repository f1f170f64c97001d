"""atat score: what a trained model pays for a text, from left to right, in any order, or in a sampler's own."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from mdlm_atat import model_folder
from mdlm_atat.cli.model import (
    WHICH,
    add_device_arguments,
    add_reading_arguments,
    check_model,
    is_folder,
    is_there,
    load_model,
    model_and_text,
    standard_input_taken,
    text_file,
    texts_given,
    warn_of_file_name,
)
from mdlm_atat.cli.parser import Parser, whole
from mdlm_atat.errors import UserError
from mdlm_atat.formats import counted
from mdlm_atat.model_folder import BOX_NAME, PUBLISHED_FILES
from mdlm_atat.plugins import trusted
from mdlm_atat.published.hub import PREFIX
from mdlm_atat.samplers.catalogue import ANY, check_order
from mdlm_atat.samplers.template import unescaped

if TYPE_CHECKING:
    from mdlm_atat.lm import CausalLM, MaskedDiffusionLM, Score

ORDERS = ("left_to_right", ANY)  # which are no samplers, or not only


def make_parser() -> Parser:
    parser = Parser(
        "atat score",
        "Say how likely a trained model finds a text: -log p in nats, less is likelier.",
        r"""examples:
  atat score "It was a dark and stormy night."
  atat score runs/demo "To be, or not to be" "To be, or to be not"
  atat score runs/demo --file letter.txt --order any --num_draws 1024
  atat score runs/demo "To be, or not to be" --order spread --evaluations 8
  atat score runs/demo " night." " dog." --given "It was a dark and stormy"

A model that reads left to right has an exact likelihood in that order. In any order it has an upper bound on the nats,
with a standard error over draws where a text has more than a few tokens. The two are likelihoods of one model by
different ways of writing: compare each with its like.
""",
    )
    parser.add_argument(
        "words",
        nargs="*",
        default=[],
        metavar="[RUN] TEXT",
        help=f"the texts, or - for standard input, after {WHICH} (default: {BOX_NAME}, the model in the box)",
    )
    parser.add_argument("--file", type=text_file, help="a file that holds the text, or - for standard input")
    parser.add_argument(
        "--given", metavar="CONTEXT", help="score each text as it goes on from this one, which is visible"
    )
    add_reading_arguments(parser, texts="the texts and --given")
    parser.add_argument(
        "--order",
        metavar="ORDER",
        help="left_to_right, any, or a sampler, whose own order it is (default: left_to_right and any, as far as the "
        "model has them)",
    )
    parser.add_argument("--evaluations", type=whole(1), help="a sampler's network evaluations at most")
    parser.add_argument("--num_draws", type=whole(2), default=128, help="draws for an order that is random")
    parser.add_argument("--seed", type=whole(0), default=0, help="seed of the draws")
    parser.add_argument("--batch_size", type=whole(1), help="texts or masks in one call of the network")
    add_device_arguments(parser)
    return parser


def main(argv: list[str]) -> int:
    arguments = make_parser().parse(argv)
    if arguments.order is not None:
        check_order(arguments.order)
    if arguments.evaluations is not None and arguments.order in (None, *ORDERS):
        raise UserError("--evaluations is for the own order of a sampler: name one by --order, or leave it out")
    words, arguments.file = standard_input_taken(arguments.words, arguments.file)
    arguments.model, given = model_and_texts(words, arguments.file)
    texts = texts_given(given, arguments.file, escape=arguments.escape, encoding=arguments.encoding)
    if arguments.given is not None:
        warn_of_file_name(arguments.given, 'to give the text in the file of that name, write --given "$(cat {})"')
        arguments.given = unescaped(arguments.given) if arguments.escape else arguments.given
    check_model(arguments.model)
    with trusted(arguments.trust_plugins):
        score_texts(arguments, texts)
    return 0


def model_and_texts(words: Sequence[str], file: Path | None) -> tuple[Path, list[str]]:
    """The folder of the model and the texts among the words [RUN] TEXT... Raises UserError where a word is none of the
    two for sure; see `model_and_text`."""
    if file is None and len(words) > 1:
        if _names_a_model(words[0]):
            return Path(words[0]), list(words[1:])
        check_are_texts(words)
        return model_folder.BOX, list(words)
    first, second = [*words, None, None][:2]
    model, text = model_and_text(first, second, file, command="score")
    return model, [] if text is None else [text]


def _names_a_model(word: str) -> bool:
    is_file = is_there(word) and Path(word).suffix in PUBLISHED_FILES
    return word == BOX_NAME or word.startswith(PREFIX) or is_folder(word) or is_file


def check_are_texts(words: Sequence[str]) -> None:
    """Raise UserError where the first of several words may be a folder that was mistyped."""
    if len(words[0].split()) == 1:
        raise UserError(
            f"there is no folder {words[0]}; expected a run such as runs/demo. If it is a text like the others, name "
            f"the model before it: atat score {BOX_NAME} {words[0]} ..."
        )


def score_texts(arguments: Namespace, texts: Sequence[str]) -> None:
    """Print what each text costs, a line for each likelihood."""
    from mdlm_atat.data.encode import lost_in
    from mdlm_atat.terminal import shown

    lm = load_model(arguments)
    for text in texts:
        if len(texts) > 1:
            print(shown(text if len(text) <= 60 else text[:57] + "..."))
        changes = lost_in(text, lm.tokenizer)
        found = scores(lm, text, arguments)
        for score in found:
            print(in_words(score, len(text)) + (" (lossy)" if changes.total else ""))
        if found[0].num_cut:
            seen, cut = found[0].num_given, found[0].num_cut
            print(f"the model saw the last {seen:,} tokens of the context, and not the {cut:,} before them")
        if changes.total:
            print(
                f"lossy: the tokenizer does not give back {changes.in_words(len(text))}, so it is another text's cost"
            )


def scores(lm: MaskedDiffusionLM | CausalLM, text: str, arguments: Namespace) -> list[Score]:
    """The likelihoods of a text that were asked for."""
    orders = [arguments.order]
    if arguments.order is None:
        orders = [order for order, mode in zip(ORDERS, ("causal", "masked"), strict=True) if mode in lm.modes]
    how = {name: getattr(arguments, name) for name in ("evaluations", "num_draws", "seed", "batch_size")}
    found = []
    for order in orders:
        with told_of_evaluations(lm, f"scoring, {order}"):
            found.append(lm.score(text, given=arguments.given, order=order, **how))
    return found


@contextmanager
def told_of_evaluations(lm: MaskedDiffusionLM | CausalLM, title: str) -> Iterator[None]:
    """Within the block stderr tells of the network's evaluations, once it takes a few seconds."""
    from mdlm_atat.progress import SHOWN_AFTER_S, Bar

    bar, numbers = Bar(title, after_s=SHOWN_AFTER_S), count(1)
    lm.on_evaluation = lambda: bar.update(number := next(numbers), counted(number, "evaluation"))
    try:
        yield
    finally:
        lm.on_evaluation = None
        bar.close()


def in_words(score: Score, num_characters: int) -> str:
    """A likelihood in one line: which, nats with their error, by token and by character."""
    error = f" ± {score.standard_error:.2f}" if score.standard_error else ""
    how = "exactly" if score.is_exact else "at most"
    return (
        f"{score.likelihood:15} {how} {score.nats:.2f}{error} nats: {score.nats_per_token:.3f} per token "
        f"({score.num_tokens:,}), {score.nats / num_characters:.3f} per character ({num_characters:,})"
    )
