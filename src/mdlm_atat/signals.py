"""The signals that ask a process to end: Ctrl-C, SIGTERM, SIGHUP (the terminal is gone) and SIGUSR1 (a scheduler's
warning)."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]


def reason_of(number: int) -> str:
    """What a signal is called where a run says why it stopped."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


INTERRUPTIONS = {reason_of(number): 128 + number for number in _ENDING}
"""Reason to stop: the exit code of a command that stopped for it, 128 and the signal's number."""


class Interrupted(KeyboardInterrupt):
    """A signal other than Ctrl-C asked for the end, and work ends as it does by Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__(reason_of(number))
        self.number = number


def ending_signals() -> list[int]:
    """The numbers of the signals that ask this process to end.

    One that it was started to ignore is none of them, as SIGHUP is by nohup; but Ctrl-C is one all the same: a shell
    makes its background commands ignore it, and a runner ends the runs of an experiment by it.
    """
    return [n for n in _ENDING if n == signal.SIGINT or signal.getsignal(n) is not signal.SIG_IGN]


@contextmanager
def signals_heard(hear: Callable[[int], None]) -> Iterator[None]:
    """Within the block, call `hear(number)` for each of `ending_signals`. In another thread than the main one, which
    alone may say what a signal does, nothing is heard."""
    process, before = os.getpid(), {}

    def on_signal(number: int, _: object) -> None:
        if os.getpid() == process:
            hear(number)
        else:  # a child that was forked ends as it would have
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in ending_signals()}
    for number in before:
        signal.signal(number, on_signal)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)


@contextmanager
def ends_as_by_ctrl_c() -> Iterator[None]:
    """Within the block, each signal that asks for the end raises `Interrupted`, Ctrl-C KeyboardInterrupt; once more,
    where Python has swallowed it, as it does what is raised in a `__del__` or in what a weak reference calls."""
    show = sys.unraisablehook

    def end(number: int) -> None:
        raise KeyboardInterrupt if number == signal.SIGINT else Interrupted(number)

    def raise_again(swallowed: Any) -> None:
        error = swallowed.exc_value
        if not isinstance(error, KeyboardInterrupt):
            show(swallowed)
            return
        number = error.number if isinstance(error, Interrupted) else signal.SIGINT
        again = threading.Timer(0.05, os.kill, (os.getpid(), number))  # at once it would be swallowed again
        again.daemon = True
        again.start()

    sys.unraisablehook = raise_again
    try:
        with signals_heard(end):
            yield
    finally:
        sys.unraisablehook = show
