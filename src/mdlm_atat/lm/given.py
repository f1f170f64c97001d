"""Given text through a tokenizer: as tokens that read on from what is before them, and back as it was given.

A tokenizer need not give back the text that it is given: BERT's lowercases, T5's normalizes, Llama's puts a space
before. So a text that was filled in is never decoded as a whole. What was given is taken from the string that it was
given as, and only what stands in the gaps is decoded, as it reads after the tokens before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from mdlm_atat.data.tokenizers import Tokenizer
from mdlm_atat.errors import UserError
from mdlm_atat.samplers.template import Gap, Template

NUM_READ_BEFORE = 16
"""Tokens before a gap that are decoded with what fills it: the space before a word, or the bytes of a character, never
depend on more."""
HEAD = 64
"""Characters of a text by which it is decided how it goes on from others."""
ANCHORS = "xq0a.,"
"""Characters that a text may be put behind, to see how it goes on."""
COMMON = ("a", "the", "in", "de", "и", "الله")
"""Words that most vocabularies hold one of, with the space before it where tokens begin so."""


@dataclass(frozen=True)
class Row:
    """A text to be filled in: its tokens with [MASK] in the gaps, and what was given around them."""

    tokens: list[int]
    gaps: list[slice]
    """Of the tokens."""
    around: list[str]
    """The given text before the first gap, between two, and after the last one: one more than there are gaps."""

    @property
    def end_of_given(self) -> int:
        """Where the last given token ends."""
        in_gaps = {place for gap in self.gaps for place in range(gap.start, gap.stop)}
        return max((place + 1 for place in range(len(self.tokens)) if place not in in_gaps), default=0)

    def text(self, tokenizer: Tokenizer, tokens: Sequence[int]) -> tuple[str, tuple[tuple[int, int], ...]]:
        """The text when the row holds these tokens, which may end early, and where in it each gap is, as (start, end)
        in characters."""
        parts, spans, end = [self.around[0]], [], len(self.around[0])
        for made, behind in zip(self._fillings(tokenizer, list(tokens)), self.around[1:], strict=True):
            parts += [made, behind]
            spans.append((end, end + len(made)))
            end += len(made) + len(behind)
        return "".join(parts), tuple(spans)

    def _fillings(self, tokenizer: Tokenizer, tokens: list[int]) -> Iterator[str]:
        """What stands in each gap."""
        first = 0
        while first < len(self.gaps):
            last = first  # of the gaps that nothing was given between: a character may begin in one and end in the next
            while last + 1 < len(self.gaps) and self.around[last + 1] == "":
                last += 1
            run = self.gaps[first : last + 1]
            before = tokens[max(0, run[0].start - NUM_READ_BEFORE) : run[0].start]
            texts = texts_after(tokenizer, before, [tokens[gap] for gap in run])
            if self.takes_space(tokenizer, first):
                place = next((index for index, text in enumerate(texts) if text), 0)
                texts[place] = texts[place].removeprefix(" ")
            yield from texts
            first = last + 1

    def takes_space(self, tokenizer: Tokenizer, gap: int) -> bool:
        """Whether a space that the text in a gap begins with is not of that text: it was given before the gap, but is
        not among the tokens, or it is the one that any text of the tokenizer begins with."""
        start = self.gaps[gap].start
        if start == 0 and tokenizer.decode(anchor_of(tokenizer)).startswith(" "):
            return True
        own = self.tokens[self.gaps[gap - 1].stop if gap else 0 : start]
        return num_spaces_at_end(self.around[gap]) > num_spaces_at_end(decode_end(tokenizer, own))

    def places_without_space(self, tokenizer: Tokenizer) -> set[int]:
        """The first places of the gaps of which `takes_space` says so."""
        return {gap.start for index, gap in enumerate(self.gaps) if self.takes_space(tokenizer, index)}


def texts_around(template: Template) -> list[str]:
    """The texts of a template before, between and after its gaps, empty where there is none."""
    around = [""]
    for part in template:
        if isinstance(part, Gap):
            around.append("")
        else:
            around[-1] += part
    return around


def texts_after(tokenizer: Tokenizer, before: list[int], parts: Sequence[list[int]]) -> list[str]:
    """How the parts, tokens that follow each other and those before, read.

    They are decoded together with what is before them, and the text is cut where it stops to agree with that of fewer
    parts. Bytes that are no characters would spoil what is before them in some tokenizers; then they are read behind
    another character.
    """
    everything = [token for part in parts for token in part]
    contexts = [before[-NUM_READ_BEFORE:], anchor_of(tokenizer), []] if before else [[]]
    read_as = ((tokenizer.decode(context), tokenizer.decode(context + everything), context) for context in contexts)
    start, whole, context = next(each for each in read_as if each[1].startswith(each[0]))
    ends, read = [len(start)], context
    for part in parts[:-1]:
        read = read + part
        ends.append(max(ends[-1], num_alike(tokenizer.decode(read), whole)))
    ends.append(len(whole))
    return [whole[begin:end] for begin, end in pairwise(ends)]


def num_alike(one: str, other: str) -> int:
    """How many characters two texts have in common at their beginning."""
    differ = (index for index, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differ, min(len(one), len(other)))


def decode_end(tokenizer: Tokenizer, tokens: list[int]) -> str:
    """The end of a text: of its last tokens, or of all where those are spaces."""
    text = tokenizer.decode(tokens[-NUM_READ_BEFORE:])
    return tokenizer.decode(tokens) if text.isspace() else text


def encode_template(tokenizer: Tokenizer, parts: Template, *, joins: bool) -> list[list[int] | Gap]:
    """The template with its texts as tokens, each as it goes on from a gap, and as a gap goes on from it. `joins`: what
    `space_joins_next` says of the tokenizer."""
    encoded: list[list[int] | Gap] = []
    for index, part in enumerate(parts):
        if isinstance(part, Gap):
            encoded.append(part)
            continue
        is_before_gap, is_after_gap = index + 1 < len(parts), index > 0
        text = as_read(without_space(part, joins=joins) if is_before_gap else part)
        encoded.append(encode_after_gap(tokenizer, text) if is_after_gap else tokenizer.encode(text))
    return encoded


def as_read(text: str) -> str:
    """The text as text files are read to be trained on: line ends are "\\n", also of Windows ("\\r\\n")."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def without_space(text: str, *, joins: bool) -> str:
    """The text without its last space, where tokens may begin with the space before a word (`joins`): it is part of
    what comes next, and after a space of its own no such word could come."""
    return text.removesuffix(" ") if joins else text


def space_joins_next(tokenizer: Tokenizer) -> bool:
    """Whether a token may begin with the space before a word, as in byte-level BPE."""
    for word in COMMON:
        both, first = _encoded(tokenizer, f"{word} {word}"), _encoded(tokenizer, f"{word} ")
        if both is None or first is None:
            continue  # a char tokenizer without these
        if both not in (first + tokenizer.encode(word), first + encode_after_gap(tokenizer, word)):
            return True
    return False


def encode_after_gap(tokenizer: Tokenizer, text: str) -> list[int]:
    """The tokens of a text that goes on from others: "able" in "un[MASK]able" is no new word.

    Some tokenizers take the beginning of any text for that of a word, and put a space before it (Llama, T5) or no ##
    (BERT). There the text is encoded behind a character, and the character's tokens are taken away.
    """
    plain, head = tokenizer.encode(text), text[:HEAD]
    for anchor in dict.fromkeys(ANCHORS + head):
        own, joint = _encoded(tokenizer, anchor), _encoded(tokenizer, anchor + head)
        if not own or joint is None or tokenizer.decode(own).strip() != anchor.strip():
            continue  # the tokenizer cannot write it
        if tokenizer.decode(own + tokenizer.encode(head)) == tokenizer.decode(joint):
            return plain
        whole = tokenizer.encode(anchor + text)
        if whole[: len(own)] == own:
            return whole[len(own) :]
    return plain


def num_spaces_at_end(text: str) -> int:
    return len(text) - len(text.rstrip())


def _encoded(tokenizer: Tokenizer, text: str) -> list[int] | None:
    try:
        return tokenizer.encode(text)
    except UserError:  # a character that is not in the alphabet
        return None


def anchor_of(tokenizer: Tokenizer) -> list[int]:
    """Tokens of some character, to decode others behind."""
    for anchor in ANCHORS:
        tokens = _encoded(tokenizer, anchor)
        if tokens and tokenizer.decode(tokens).strip() == anchor:
            return tokens
    return []
