"""A made-up text."""

from __future__ import annotations

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "slept", "then", "it", "woke"]


def corpus(num_words: int) -> str:
    """Different enough for a few merges, with lines, double spaces and empty lines."""
    words = [WORDS[(i * i + i // 7) % len(WORDS)] for i in range(num_words)]
    ends = [
        ".\n" if i % 11 == 10 else "  " if i % 17 == 16 else "\n\n" if i % 29 == 28 else " " for i in range(num_words)
    ]
    return "".join(word + end for word, end in zip(words, ends, strict=True))
