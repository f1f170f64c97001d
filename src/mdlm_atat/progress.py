"""Progress of long work, for a person."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress

OnProgress = Callable[[int, int], None]
"""Called now and then with (done, total), in units of one's own."""


@contextmanager
def progress_bar(title: str) -> Iterator[OnProgress]:
    """A bar on a terminal; nothing elsewhere."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
