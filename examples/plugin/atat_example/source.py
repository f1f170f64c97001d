"""A source of text."""

from collections.abc import Iterator

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class Numbers:
    """Documents `start` to 999, each a number's digits in words: `numbers`, or `numbers:500` for those from 500 on."""

    def __init__(self, start: str = "100") -> None:
        self.start = int(start)

    def __iter__(self) -> Iterator[str]:
        for number in range(self.start, 1000):
            yield " ".join(WORDS[int(digit)] for digit in str(number)) + " "
