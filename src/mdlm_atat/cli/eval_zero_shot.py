"""atat eval --zero-shot: what a model pays for texts that it was not trained on."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdlm_atat.errors import UserError

if TYPE_CHECKING:
    from mdlm_atat.data.tokens import TokenDataset
    from mdlm_atat.lm import CausalLM, MaskedDiffusionLM
    from mdlm_atat.scoring.records import Evaluation
    from mdlm_atat.scoring.zero_shot import ZeroShotSet

RARE_ENDS = 1000  # tokens a document: ends cost a model that never saw one at most about 0.02 nats per token then


def add_zero_shot_arguments(parser: argparse.ArgumentParser) -> None:
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


def run_zero_shot(lm: MaskedDiffusionLM | CausalLM, arguments: argparse.Namespace, settings: dict[str, Any]) -> int:
    """Score every text, each stored as soon as it is, and print one table."""
    from mdlm_atat.atomic import write_json
    from mdlm_atat.progress import progress_bar
    from mdlm_atat.runs.evaluate import evaluate_run

    assert lm.home is not None
    names = {name: getattr(arguments, name) for name in ("detokenizer", "mode", "split", "column")}
    texts = [(part, open_set(lm, part)) for part in checked(arguments.zero_shot, names)]
    records: dict[str, Evaluation] = {}
    (lm.home / "evals").mkdir(exist_ok=True)
    for index, (part, data) in enumerate(texts):
        with progress_bar(f"{part.name} ({index + 1} of {len(texts)})") as on_progress:
            file = lm.home / "evals" / file_name(lm, part, data, settings)
            records[part.name] = evaluate_run(
                lm, data, **settings, file=file, zero_shot=part.name, on_progress=on_progress
            )
        for line in warnings(lm, part, data):
            print(line)
    print("\n".join(zero_shot_table(records)))
    if arguments.json is not None:
        write_json(arguments.json, {"zero_shot": {name: found.to_json() for name, found in records.items()}})
        print(f"{'stored':10} {arguments.json}, and each text's in {lm.home / 'evals'}")
    else:
        print(f"{'stored':10} {lm.home / 'evals'}")
    return 0


def checked(specs: Sequence[str], names: dict[str, Any]) -> list[ZeroShotSet]:
    """All that was named, or all that is wrong with it at once."""
    from mdlm_atat.data.detokenizers import detokenizer
    from mdlm_atat.scoring.zero_shot import NO_DETOKENIZER, zero_shot_set

    if names["detokenizer"] not in (None, NO_DETOKENIZER):
        detokenizer(names["detokenizer"])  # refuses an unknown name
    found, wrong = [], []
    for spec in specs:
        try:
            found.append(zero_shot_set(spec, **names))
        except UserError as error:
            wrong.append(str(error))
    if wrong:
        raise UserError("; ".join(wrong))
    twice = next((part.name for index, part in enumerate(found) if part in found[:index]), None)
    if twice is not None:
        raise UserError(f"--zero-shot: {twice} is named twice")
    return found


def open_set(lm: MaskedDiffusionLM | CausalLM, part: ZeroShotSet) -> TokenDataset:
    """A text as tokens of this model's own tokenizer, prepared if it is not there yet."""
    from mdlm_atat.data.prepare import prepare
    from mdlm_atat.data.request import DataRequest

    length = lm.config.data.length
    try:
        corpus = prepare(request=DataRequest.of(part, tokenizer=lm.tokenizer, length=length, whole=True))
    except UserError as error:
        raise UserError(f"{part.name}: {error}") from error
    return corpus.open("valid", length)


def file_name(
    lm: MaskedDiffusionLM | CausalLM, part: ZeroShotSet, data: TokenDataset, settings: dict[str, Any]
) -> Path:
    """Different for every checkpoint, text, detokenizer, cut, number of draws and seed."""
    checkpoint = lm.checkpoint.folder.name if lm.checkpoint else "saved"
    text = re.sub(r"[^\w.-]+", "-", part.name).strip("-")
    digest = data.manifest.splits[data.split].sha256[:8]
    return Path(f"{checkpoint}-zero-shot-{text}-{part.mode}-{digest}-{settings['num_draws']}-{settings['seed']}.json")


def warnings(lm: MaskedDiffusionLM | CausalLM, part: ZeroShotSet, data: TokenDataset) -> list[str]:
    """Where a number is known to mislead."""
    split, eos = data.manifest.splits[data.split], lm.tokenizer.eos_id
    unseen = data.manifest.eos and eos is not None and lm.counts is not None and lm.counts[eos] == 0
    if not unseen or split.documents * RARE_ENDS < split.tokens:
        return []
    share = split.documents / split.tokens
    return [
        f"{'warning':10} {part.name}: {share:.1%} of the tokens are ends of documents, which the model never saw in "
        "training, and pays for"
    ]


def zero_shot_table(records: dict[str, Evaluation]) -> list[str]:
    """A line a text; the perplexity of the unigram model of the training text beside the model's."""
    width = max(8, *map(len, records))
    lines = [
        f"{'text':{width}} {'nats per token':>17} {'PPL-U':>9} {'PPL-S':>9} {'unigram':>9} {'bits/char':>9} "
        f"{'PPL/word':>10} {'tokens':>10} {'sequences':>9} {'cut':>4}  detokenizer"
    ]
    for name, found in records.items():
        own = "none" if found.is_bound else "exact"
        if found.schedule is not None:
            own = f"{found.schedule.perplexity_per_token:.2f}"
        floor = "" if found.unigram is None else f"{found.unigram.perplexity_per_token:.1f}"
        lines.append(
            f"{name:{width}} {found.shown():>17} "
            f"{found.perplexity_per_token:>9,.2f} {own:>9} {floor:>9} {found.bits_per_character:>9.4f} "
            f"{found.perplexity_per_word:>10,.1f} {found.counts.num_tokens:>10,} {found.num_sequences:>9,} "
            f"{found.text.mode:>4}  {found.text.detokenizer or 'none'}"
        )
    return lines
