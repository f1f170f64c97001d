"""The texts that a run writes at its end: from nothing, after a prompt, and in a gap."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import indent
from typing import Any

import numpy as np

from mdlm_atat.atomic import write_text
from mdlm_atat.config.schema import RunConfig
from mdlm_atat.data.tokens import TokenDataset
from mdlm_atat.lm import CausalLM, MaskedDiffusionLM
from mdlm_atat.lm.results import Generated
from mdlm_atat.lm.unknown import UnknownText
from mdlm_atat.samplers.seeds import text_seeds
from mdlm_atat.samplers.template import escaped, shortened
from mdlm_atat.scoring.cost import TextCounts

WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
TOKENS_READ = 5_000_000
"""Of the training text, for its words."""
LONGEST_PROMPT = 40
"""In tokens."""
SHOWN_CHARACTERS = 300


def write_samples(
    lm: MaskedDiffusionLM | CausalLM,
    folder: Path,
    config: RunConfig,
    train_data: TokenDataset,
    valid_data: TokenDataset,
) -> list[dict[str, Any]]:
    """Write `eval.num_samples` texts from nothing, then, with the first held-out text, one that goes on from its
    beginning and, where the model can, one with a gap filled, as lines of samples.jsonl; return the lines. `words` of
    a line is the share of the words it made that occur in the training text, None where it made none, or where what
    white space separates in the text are no words (Japanese, DNA)."""
    if not config.eval.num_samples:
        return []
    assert lm.checkpoint is not None
    step = lm.checkpoint.step
    known = None if TextCounts.of(train_data).no_words else words_of(train_data)
    with warnings.catch_warnings():  # nobody gave the held-out text, whose [UNK] is no character of it
        warnings.simplefilter("ignore", UnknownText)
        texts = list(_texts(lm, config, valid_data))
    lines = [
        {
            "text": text.text,
            "made": made,
            "words": None if known is None else share_known(text.text, text.spans, known),
            "step": step,
            "seed": text.seed,
            "sampler": sampler,
            "nfe": text.nfe,
        }
        for made, sampler, text in texts
    ]
    write_text(folder / "samples.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return lines


def _texts(
    lm: MaskedDiffusionLM | CausalLM, config: RunConfig, valid_data: TokenDataset
) -> Iterator[tuple[str, str, Generated]]:
    """What each text was made from, the sampler that made it, and the text."""
    steps = config.eval.sample_steps if lm.default_sampler != "left_to_right" else None  # which takes one a token
    *seeds, after_beginning, in_gap = text_seeds(0, range(config.eval.num_samples + 2))
    for text in lm.generate([""] * config.eval.num_samples, steps=steps, seed=seeds):
        yield "from nothing", lm.default_sampler, text
    first = np.arange(min(1, valid_data.num_evaluation_rows))
    ids, lengths = valid_data.evaluation_rows(first)
    if valid_data.row_prompts is not None and len(first):
        prompt = lm.tokenizer.decode(ids[0][: (given := int(valid_data.num_prompt_tokens(first)[0]))])
        number = int(lengths[0]) - given
        answer = lm.generate(prompt, max_new_tokens=number, steps=steps, seed=[after_beginning])
        yield "the answer to a held-out prompt", lm.default_sampler, answer
        return
    part = min(int(lengths[0]), 4 * LONGEST_PROMPT) // 4 if len(lengths) else 0
    if part < 1:
        return
    before, after = (lm.tokenizer.decode(ids[0][start : start + part]) for start in (0, 2 * part))
    continued = lm.generate(before, max_new_tokens=2 * part, steps=steps, seed=[after_beginning])
    yield "after a held-out beginning", lm.default_sampler, continued
    if "masked" in lm.modes:
        template = f"{escaped(before)}[MASK:{part}]{escaped(after)}"
        yield "in a gap of a held-out text", lm.gap_sampler, lm.infill(template, escape=True, seed=[in_gap])


def words_of(data: TokenDataset) -> frozenset[str]:
    """The words of a text, of its first five million tokens."""
    tokens = data.tokens[:TOKENS_READ]
    parts = (data.tokenizer.decode(part) for part in np.array_split(tokens, -(-len(tokens) // 100_000)))
    return frozenset(word.lower() for part in parts for word in WORD.findall(part))


def share_known(text: str, spans: Sequence[tuple[int, int]], known: Container[str]) -> float | None:
    """The share of the words wholly inside the spans of a text that are among the known ones; None where there are no
    words. A word at the very end is left out: it may have been cut."""
    found = [word for word in WORD.finditer(text) if word.end() < len(text)]
    words = [w[0].lower() for w in found if any(start <= w.start() and w.end() <= stop for start, stop in spans)]
    return sum(word in known for word in words) / len(words) if words else None


def sample_lines(samples: Sequence[Mapping[str, Any]]) -> list[str]:
    """The first text of each kind for the terminal, with the share of words that the training text has, the mean over
    all texts of that kind."""
    lines: list[str] = []
    for made in dict.fromkeys(sample["made"] for sample in samples):
        alike = [sample for sample in samples if sample["made"] == made]
        shares = [sample["words"] for sample in alike if sample["words"] is not None]
        of = f" ({len(alike)} texts)" if len(alike) > 1 else ""
        words = f": {sum(shares) / len(shares):.0%} of the words occur in the training text{of}" if shares else ""
        text = shortened(alike[0]["text"].strip(), SHOWN_CHARACTERS)
        lines += [f"{'' if lines else 'samples':10} {made}{words}", indent(text, " " * 15)]
    return lines
