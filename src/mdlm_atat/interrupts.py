"""Ctrl-C during work that would not hear it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from typing import TypeVar

T = TypeVar("T")
POLL_S = 0.2  # Windows hears nothing while it waits


def interruptible(work: Callable[[], T], most_s: float = math.inf) -> T:
    """Do `work` in a thread and return what it gives, or raise what it raises. Python hears signals between its own
    operations only, so a long call of a library would keep Ctrl-C waiting; this call does not. Raises TimeoutError
    after `most_s` seconds. After that, and after Ctrl-C, the thread is left alone: it ends when its work does, or with
    the process."""
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=copy_context().run, args=(run,), daemon=True).start()
    end_s = time.monotonic() + most_s
    while not outcome.done():
        try:
            outcome.exception(timeout=POLL_S)
        except TimeoutError:
            if time.monotonic() > end_s and not outcome.done():
                raise TimeoutError(f"not done after {most_s:g} s") from None
    return outcome.result()
