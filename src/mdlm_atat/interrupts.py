"""Ctrl-C during work that would not hear it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from typing import TypeVar

T = TypeVar("T")
POLL_S = 0.2  # Windows hears nothing while it waits


def interruptible(work: Callable[[], T]) -> T:
    """Do `work` in a thread and return what it gives, or raise what it raises. Python hears signals between its own
    operations only, so a long call of a library would keep Ctrl-C waiting; this call does not. After Ctrl-C the thread
    is left alone: it ends when its work does, or with the process."""
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=copy_context().run, args=(run,), daemon=True).start()
    while not outcome.done():
        try:
            outcome.exception(timeout=POLL_S)
        except TimeoutError:
            continue
    return outcome.result()
