"""atat eval --zero-shot: what a model pays for texts that it was not trained on."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from mdlm_atat.cli.data import reading_arguments
from mdlm_atat.cli.model import load_model
from mdlm_atat.cli.parser import Parser

if TYPE_CHECKING:
    from mdlm_atat.scoring.records import Evaluation


def add_zero_shot_arguments(parser: Parser) -> None:
    group = parser.add_argument_group("zero-shot")
    group.add_argument(
        "--zero-shot",
        nargs="+",
        metavar="TEXT",
        help="score these instead: files, folders, hub:OWNER/NAME, or wikitext-2, wikitext-103, ptb, lambada, lm1b, "
        "ag_news, pubmed, arxiv",
    )
    group.add_argument(
        "--detokenizer",
        metavar="NAME",
        help="for all of them: wikitext, ptb, lm1b, lambada, scientific_papers, or none (default: as published for "
        "sets known by name, none for others)",
    )
    group.add_argument(
        "--mode",
        choices=["wrap", "pad"],
        help="wrap: documents share sequences; pad: each has its own (default: wrap for sets known by name, as "
        "published, pad for others)",
    )


def run_zero_shot(arguments: Namespace) -> None:
    """Score every text, each stored as soon as it is, and print one table."""
    from mdlm_atat.atomic import stored_if_possible, write_json
    from mdlm_atat.runs.evaluate import evals_folder
    from mdlm_atat.runs.zero_shot import evaluate_zero_shot

    lm = load_model(arguments)
    assert lm.home is not None
    records = evaluate_zero_shot(
        lm,
        arguments.zero_shot,
        detokenizer=arguments.detokenizer,
        mode=arguments.mode,
        split=arguments.split,
        **reading_arguments(arguments),
        num_draws=arguments.num_draws,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
        num_steps=arguments.num_steps or (),
    )
    for name, found in records.items():
        for caution in found.cautions:
            print(f"{'warning':10} {name}: {caution}")
    print("\n".join(zero_shot_table(records)))
    if arguments.json is not None:
        with stored_if_possible(arguments.json):
            write_json(arguments.json, {"zero_shot": {name: found.to_json() for name, found in records.items()}})
            print(f"{'stored':10} {arguments.json}, and each text's in {evals_folder(lm.home)}")
    else:
        print(f"{'stored':10} {evals_folder(lm.home)}")


def zero_shot_table(records: dict[str, Evaluation]) -> list[str]:
    """A line a text; the perplexity of the unigram model of the training text beside the model's."""
    width = max(8, *map(len, records))
    # of a model that was trained in both ways: another likelihood, in a column of its own
    both_ways = any(found.is_bound and found.left_to_right is not None for found in records.values())
    lines = [
        f"{'text':{width}} {'nats per token':>17} {'PPL-U':>9} {'PPL-S':>9} "
        + (f"{'left to right, exact':>20} " if both_ways else "")
        + f"{'unigram':>9} {'bits/char':>9} "
        f"{'PPL/word':>10} {'tokens':>10} {'sequences':>9} {'cut':>4}  detokenizer"
    ]
    for name, found in records.items():
        own = "none" if found.is_bound else "exact"
        if found.schedule is not None:
            own = f"{found.schedule.perplexity_per_token:.2f}"
        exact = found.left_to_right
        beside = "" if exact is None else f"{exact.perplexity_per_token:,.2f}"
        floor = "" if found.unigram is None else f"{found.unigram.perplexity_per_token:.1f}"
        mark = "*" * found.is_lossy
        bits = f"{found.bits_per_character:.4f}{mark}"
        per_word = "none" if found.why_not_per_word else f"{found.perplexity_per_word:,.1f}{mark}"
        lines.append(
            f"{name:{width}} {found.shown():>17} "
            f"{found.perplexity_per_token:>9,.2f} {own:>9} "
            + (f"{beside:>20} " if both_ways else "")
            + f"{floor:>9} {bits:>9} {per_word:>10} {found.counts.num_tokens:>10,} {found.num_sequences:>9,} "
            f"{found.text.mode:>4}  {found.text.detokenizer or 'none'}"
        )
    lines += [f"{'':{width}} *: {found.loss_in_words} ({name})" for name, found in records.items() if found.is_lossy]
    lines += [
        f"{'':{width}} no perplexity per word: {found.why_not_per_word} ({name})"
        for name, found in records.items()
        if found.why_not_per_word
    ]
    return lines
