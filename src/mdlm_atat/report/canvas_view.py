"""A text canvas in the terminal, its masks being filled in as the sampler runs."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Integer
from rich.console import Console
from rich.live import Live
from rich.style import Style
from rich.text import Text

from mdlm_atat.terminal import printable

if TYPE_CHECKING:
    import torch

    from mdlm_atat.lm.base import LanguageModel
    from mdlm_atat.lm.given import Row
    from mdlm_atat.samplers.loop import OnStep

STILL_SHARES = (0.25, 0.6, 1.0)  # shares revealed at which a log file or a pipe gets a frame

_MASKED = Style(dim=True)
_NEW = Style(color="black", bgcolor="bright_cyan")
_KNOWN = Style()
_FIXED = Style(bold=True)


@dataclass(frozen=True, kw_only=True)
class _Frame:
    step: int
    num_steps: int | None
    tokens: Integer[np.ndarray, " length"]
    revealed: Bool[np.ndarray, " length"]
    fixed: Bool[np.ndarray, " length"]


class CanvasView:
    """Shows one row of a batch while it is sampled: live in a terminal, three still frames anywhere else.

        with CanvasView(console, lambda place, token: tokenizer.decode([token]), mask_id=27, title="char") as view:
            view.show(step, num_steps, z_t[0].tolist(), (z_t[0] != 27).tolist())

    Masks are dim, tokens revealed since the frame before are highlighted, fixed ones (a prompt) bold. Frames that
    come sooner than `min_frame_s` after the last are skipped, never the final one. Text is shown as it is: neither
    markup nor terminal control codes in it have any effect.
    """

    def __init__(
        self,
        console: Console,
        token_text: Callable[[int, int], str],
        mask_id: int,
        title: str,
        min_frame_s: float = 0.03,
    ) -> None:
        self.console = console
        self.token_text = token_text
        self.mask_id = mask_id
        self.title = title
        self.min_frame_s = min_frame_s
        self._texts: dict[tuple[int, int], str] = {}  # what each token at its place has been seen to look like
        self._live = Live(console=console, auto_refresh=False) if console.is_interactive else None
        self._stills = STILL_SHARES  # those still to come
        self._latest: _Frame | None = None
        self._drawn: _Frame | None = None
        self._drawn_s = -float("inf")

    def __enter__(self) -> "CanvasView":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the latest state on the screen, complete and without highlights."""
        if self._live is not None:
            try:
                if self._latest is not None:
                    self._live.update(self._render(self._latest, since=self._latest))
            finally:
                self._live.stop()
        elif self._latest is not None and self._latest is not self._drawn:
            self._print_still(self._latest)

    def show(
        self,
        step: int,
        num_steps: int | None,
        tokens: Sequence[int] | np.ndarray,
        fixed: Sequence[bool] | np.ndarray | None = None,
    ) -> None:
        """One row after `step` of `num_steps`, where that is known: tokens, and which were given beforehand."""
        row = np.asarray(tokens, dtype=np.int64)
        frame = self._latest = _Frame(
            step=step,
            num_steps=num_steps,
            tokens=row,
            revealed=row != self.mask_id,
            fixed=np.zeros(len(row), dtype=bool) if fixed is None else np.asarray(fixed, dtype=bool),
        )
        if self._live is None:
            num_revealed, num_free = _progress(frame)
            due = [share for share in self._stills if num_revealed >= share * num_free]
            if due:  # a sampler of few steps may pass two shares at once: one frame is enough
                self._stills = self._stills[len(due) :]
                self._print_still(frame)
        elif step == num_steps or time.monotonic() - self._drawn_s >= self.min_frame_s:
            self._live.update(self._render(frame, since=self._drawn), refresh=True)
            self._drawn, self._drawn_s = frame, time.monotonic()

    def _print_still(self, frame: _Frame) -> None:
        self.console.print(self._render(frame, since=self._drawn))
        self.console.print()
        self._drawn = frame

    def _render(self, frame: _Frame, *, since: _Frame | None) -> Text:
        """The progress line first: where a canvas is taller than the terminal, rich cuts off the bottom."""
        num_revealed, num_free = _progress(frame)
        text = Text(overflow="fold")
        of = "" if frame.num_steps is None else f"/{frame.num_steps}"
        text.append(self._printable(self.title), style=_FIXED)
        text.append(
            self._printable(f"  step {frame.step}{of} · {num_revealed} of {num_free} revealed\n"),
            style=_MASKED,
        )
        known_before = np.zeros_like(frame.revealed) if since is None else since.revealed
        mask_text = self._printable("░", instead=".")
        rows = zip(
            frame.tokens.tolist(),
            frame.revealed.tolist(),
            known_before.tolist(),
            frame.fixed.tolist(),
            strict=True,
        )
        for place, (token, is_known, was_known, is_fixed) in enumerate(rows):
            if not is_known:
                text.append(mask_text, style=_MASKED)
            elif is_fixed:
                text.append(self._text_of(place, token), style=_FIXED)
            else:
                text.append(self._text_of(place, token), style=_KNOWN if was_known else _NEW)
        return text

    def _text_of(self, place: int, token: int) -> str:
        if (place, token) not in self._texts:
            self._texts[place, token] = self._printable(self.token_text(place, token))
        return self._texts[place, token]

    def _printable(self, text: str, instead: str = "?") -> str:
        return printable(text, self.console.encoding, instead)


@contextmanager
def watching(lm: "LanguageModel", title: str, row: "Callable[[], Row]") -> "Iterator[OnStep]":
    """Show the first row of a batch in the terminal while it is filled, by the `on_step` that this gives. `row`: what
    was given in it, known when it is filled."""
    from mdlm_atat.lm.token_texts import TokenTexts

    mask_id = lm.tokenizer.mask_id
    texts: list[TokenTexts] = []
    view = CanvasView(Console(), lambda place, token: texts[0](place, token), mask_id, title)
    fixed: list[bool] = []

    def on_step(step: int, z_t: "torch.Tensor") -> None:
        tokens = z_t[0].tolist()
        if step == 0:
            texts.append(TokenTexts(lm.tokenizer, row()))
            fixed.extend(token != mask_id for token in tokens)
        else:
            view.show(step, None, tokens, fixed=fixed)

    with view:
        yield on_step


def _progress(frame: _Frame) -> tuple[int, int]:
    """Positions revealed and positions to reveal; fixed ones are neither."""
    return int((frame.revealed & ~frame.fixed).sum()), int((~frame.fixed).sum())
