"""Text that is let go of bit by bit, so that neither half a character nor the beginning of a stop string leaves."""

from __future__ import annotations

from collections.abc import Sequence

from mdlm_atat.serve.tokens import NO_CHARACTER


def cut_at_stop(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text before the stop string that is complete first, and whether there is one; of two that are complete at the
    same place, the one that begins first. So the answer is the same for a text that grows."""
    found = [(start + len(stop), start) for stop in stops if (start := text.find(stop)) >= 0]
    return (text[: min(found)[1]], True) if found else (text, False)


def without_tail(text: str, stops: Sequence[str]) -> str:
    """The text without what may still become something else: bytes at its end that are no character yet, and the
    longest end that a stop string begins with."""
    text = text.rstrip(NO_CHARACTER)
    held = max((held_by(text, stop) for stop in stops), default=0)
    return text[: len(text) - held]


def held_by(text: str, stop: str) -> int:
    """How many characters at the end of a text a stop string begins with, of which there is more to come."""
    longest = min(len(stop) - 1, len(text))
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)


class Deltas:
    """A text that grows, in parts that do not overlap and together are the text up to its first stop string."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._sent = ""

    def next(self, text: str, *, is_whole: bool) -> str:
        """What of the text so far has not been let go of yet, and may be. `is_whole`: it is all of the text."""
        kept, is_stopped = cut_at_stop(text, self._stops)
        if not is_whole and not is_stopped:
            kept = without_tail(kept, self._stops)
        if not kept.startswith(self._sent):  # a decoder has changed its mind: what comes last mends what it can
            kept = self._sent + kept[len(self._sent) :] if is_whole else self._sent
        part = kept[len(self._sent) :]
        self._sent = kept
        return part
