"""Undo the tokenization that some benchmark texts are published in, so that a model sees text as it is written.

Rules in order, as in the evaluations of SEDD (arXiv 2310.16834) and MDLM (arXiv 2406.07524); perplexities on these
texts are comparable only under the same ones. They are rough, and kept so: "the cat 's 5 @-@ year" becomes "the cat's
5-year", but a plural's apostrophe may be moved to a quotation mark. An evaluation leaves them out with
`detokenizer=none`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from mdlm_atat.errors import UserError


class Rule(NamedTuple):
    """Replace every occurrence of `old`: a text, or a pattern."""

    old: str | re.Pattern[str]
    new: str

    def __call__(self, text: str) -> str:
        return text.replace(self.old, self.new) if isinstance(self.old, str) else self.old.sub(self.new, text)


def _closed_up(marks: str) -> tuple[Rule, ...]:
    """No space before such a mark between two others."""
    return tuple(Rule(f" {mark} ", f"{mark} ") for mark in marks)


def _without_inner_spaces(opening: str, closing: str) -> Rule:
    """Brackets or quotes lie close about what they hold."""
    first, last = re.escape(opening), re.escape(closing)
    return Rule(re.compile(rf"{first}\s*([^{last}]*?)\s*{last}"), rf"{opening}\1{closing}")


_WIKITEXT = (
    Rule("s '", "s'"),
    *(Rule(f" @{mark}@ ", mark) for mark in "-,."),
    *_closed_up(":;.!?,"),
    *(_without_inner_spaces(*pair) for pair in ("()", "[]", "{}", '""', "''")),
    *(Rule(" ".join("=" * depth), "=" * depth) for depth in (4, 3, 2)),
    Rule(" ° ", "°"),
    Rule(" \n", "\n"),
    Rule("\n ", "\n"),
    Rule(" N ", " 1 "),
    Rule(" 's", "'s"),
)
_PTB = (
    Rule(" 's", "'s"),
    Rule("s ' ", "s' "),
    Rule(" n't", "n't"),
    Rule(" \n ", "\n"),
    Rule("\\/", "/"),
    *(Rule(" N ", " 1 "),) * 2,  # of neighbours, which share a space, the first pass finds every other one
    Rule("$ 1", "$1"),
    Rule("# 1", "#1"),
    Rule("<unk>", "?"),
)
_LM1B = (
    Rule("http : / / ", "http://"),
    Rule("https : / / ", "https://"),
    Rule(re.compile(r" '(\w+)"), r"'\1"),
    Rule(re.compile(r" (\w+) \. "), r" \1. "),
    Rule(re.compile(r" (\w+) \.$"), r" \1."),
    *(rule for mark in "?!" for rule in (*_closed_up(mark), Rule(re.compile(rf" \{mark}$"), mark))),
    *_closed_up(",:;"),
    Rule(" / ", "/"),
    Rule(re.compile(r'" ([^"]+) "'), r'"\1"'),
    Rule(re.compile(r"' ([^']+) '"), r"'\1'"),
    Rule(re.compile(r"\( ([^()]+) \)"), r"(\1)"),
    Rule(re.compile(r"\[ ([^\[\]]+) \]"), r"[\1]"),
    Rule("$ ", "$"),
    Rule("£ ", "£"),
)
_LAMBADA = (Rule("“", '"'), Rule("”", '"'), Rule(re.compile(r"\A\s*(.*?)\s*\Z", re.DOTALL), r"\n\1"))

DETOKENIZERS: dict[str, tuple[Rule, ...]] = {
    "wikitext": _WIKITEXT,
    "ptb": _PTB,
    "lm1b": _LM1B,
    "lambada": _LAMBADA,
    "scientific_papers": (*_WIKITEXT, *_LM1B),
}


def detokenizer(name: str) -> Callable[[str], str]:
    """Return the function that undoes a published tokenization; it takes and gives a whole document.

    Raises UserError for a name that is not among `DETOKENIZERS`.
    """
    if name not in DETOKENIZERS:
        raise UserError(f"there is no detokenizer {name!r}; expected one of {', '.join(DETOKENIZERS)}")

    def detokenize(text: str) -> str:
        for rule in DETOKENIZERS[name]:
            text = rule(text)
        return text

    return detokenize


def whole_documents(parts: Iterable[tuple[Any, ...]]) -> Iterator[str]:
    """Yield whole documents from their parts, each a text and whether it is the document's last.

    A detokenizer sees whole documents, since its rules would miss what a cut goes through.
    """
    waiting: list[str] = []
    for text, ends_document, *_ in parts:
        waiting.append(text)
        if ends_document:
            yield "".join(waiting)
            waiting = []
