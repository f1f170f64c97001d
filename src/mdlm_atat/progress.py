"""Progress of long work, for a person: a moving bar on a terminal and in a notebook, elsewhere a line now and then."""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from mdlm_atat.formats import duration
from mdlm_atat.terminal import Messages, printable

OnProgress = Callable[[int, int], None]
"""Called now and then with (done, total), in units of the caller's own."""

PLAIN_LINE_INTERVAL_S = 15.0
SHOWN_AFTER_S = 3.0  # what mostly takes no longer
MANY = 20  # of so many the first tells nothing of the time of the others: with it things are compiled and recorded
REDRAW_INTERVAL_S = {"terminal": 0.1, "notebook": 0.5}


def messages(*, stderr: bool = False, quiet: bool = False) -> Console:
    """A console for what tells of work, on standard output or error: it never ends the work (see `Messages`)."""
    return Console(file=cast(IO[str], Messages(sys.stderr if stderr else sys.stdout)), quiet=quiet)


class Bar:
    """How far a piece of work has come. It is for one thread, and must be closed, which takes a moving bar away."""

    def __init__(
        self,
        title: str = "",
        *,
        total: int | None = None,
        done: int = 0,
        after_s: float = 0.0,
        console: Console | None = None,
    ) -> None:
        """`console` None: stderr. A console that is quiet shows nothing. `after_s`: nothing is shown of work that is
        done sooner."""
        self._console = messages(stderr=True) if console is None else console
        self._title, self._total = title, total
        self._canvas = _canvas_of(self._console)
        self._begin(done, after_s)

    def update(
        self,
        done: int,
        text: str = "",
        *,
        ahead: float = 0.0,
        title: str | None = None,
        total: int | None = None,
        at_once: bool = False,
    ) -> None:
        """So much is `done`, of `total` where that is known, and in the same units so much of what is being done
        (`ahead`), which is not counted but known of; `text` says more. Another `title` is another stage, whose time
        counts anew. It may be called all the time: what comes too soon after the last is not shown, except
        `at_once`."""
        if title is not None and title != self._title:
            self._title, self._total = title, None
            self._begin(0, 0.0)
        self._total = self._total if total is None else total
        now_s = time.perf_counter()
        if done == self._begun + 1 and self._first == self._begun and (self._total or 0) - self._begun >= MANY:
            self._first, self._start_s = done, now_s
        if now_s < self._due_s and not at_once:
            return
        self._due_s = now_s + self._canvas.interval_s
        left_s = None
        come = done + ahead
        if self._total is not None and come > self._first:
            left_s = (now_s - self._start_s) / (come - self._first) * (self._total - come)
        self._canvas.draw(_State(self._title, done, come, self._total, text, left_s))

    def say(self, text: str) -> None:
        """Print a line that stays, above the bar."""
        text = printable(text) if self._console.is_terminal else text
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        self._canvas.clear()

    def _begin(self, done: int, after_s: float) -> None:
        self._begun = self._first = done
        self._start_s = time.perf_counter()
        # a moving bar is drawn at once, a line once there is something to tell
        first_s = self._canvas.interval_s if isinstance(self._canvas, _Lines) else 0.0
        self._due_s = self._start_s + max(after_s, first_s)


@contextmanager
def progress_bar(title: str) -> Iterator[OnProgress]:
    """A bar on stderr for the time of the block. It gives `on_progress`, to be called with (done, total)."""
    bar = Bar(title)
    try:
        yield lambda done, total: bar.update(done, total=total)
    finally:
        bar.close()


@contextmanager
def shown(title: str, progress: bool | OnProgress) -> Iterator[OnProgress | None]:
    """The function that hears of progress: a bar's where `progress` is True, none where it is False."""
    if progress is True:
        with progress_bar(title) as on_progress:
            yield on_progress
    else:
        yield progress or None


def _canvas_of(console: Console) -> _Terminal | _Notebook | _Lines:
    if console.is_jupyter and not console.quiet:
        return _Notebook()
    can_move = console.is_terminal and not console.is_dumb_terminal
    return _Terminal(console) if can_move else _Lines(console)


@dataclass(frozen=True)
class _State:
    """What is shown."""

    title: str
    done: int
    come: float
    """With what is being done."""
    total: int | None
    text: str
    left_s: float | None

    @property
    def head(self) -> str:
        return self.title if self.total is None else f"{self.title} {self.done}/{self.total}"

    @property
    def line(self) -> str:
        left = "" if self.left_s is None else f"{duration(self.left_s)} left"
        return " · ".join(part for part in (self.head, self.text, left) if part)


class _Lines:
    """For files and pipes."""

    interval_s = PLAIN_LINE_INTERVAL_S

    def __init__(self, console: Console) -> None:
        self._console = console

    def draw(self, state: _State) -> None:
        self._console.print(state.line, highlight=False, markup=False, soft_wrap=True)

    def clear(self) -> None: ...


class _Terminal:
    interval_s = REDRAW_INTERVAL_S["terminal"]

    def __init__(self, console: Console) -> None:
        self._bar = Progress(
            TextColumn("{task.fields[head]}"),
            BarColumn(bar_width=24),
            TextColumn("{task.description}"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[left]}"),
            console=console,
            transient=True,
        )
        self._task = None

    def draw(self, state: _State) -> None:
        # the bar has a clock of its own, which goes on between two updates
        head, left = state.head, "" if state.total is None else "left"
        if self._task is None:
            self._task = self._bar.add_task(
                state.text, total=state.total, completed=int(state.come), head=head, left=left
            )
            self._bar.start()
        self._bar.update(
            self._task, completed=state.come, total=state.total, description=state.text, head=head, left=left
        )

    def clear(self) -> None:
        self._bar.stop()


class _Notebook:
    """IPython's own display: it needs no widgets, and works wherever notebooks are shown."""

    interval_s = REDRAW_INTERVAL_S["notebook"]

    def __init__(self) -> None:
        self._handle: Any = None

    def draw(self, state: _State) -> None:
        bar = "<progress></progress>"
        if state.total is not None:
            bar = f'<progress value="{state.come:g}" max="{state.total}"></progress>'
        self._show({"text/plain": state.line, "text/html": f"{bar} <code>{html.escape(state.line)}</code>"})

    def clear(self) -> None:
        if self._handle is not None:
            self._show({"text/plain": "", "text/html": ""})

    def _show(self, shown: dict[str, str]) -> None:
        if self._handle is None:
            from IPython.display import display  # pyright: ignore[reportMissingImports]

            self._handle = display(shown, raw=True, display_id=True)
        else:
            self._handle.update(shown, raw=True)
