"""Progress for a person: on a terminal, in a notebook, in a file."""

from __future__ import annotations

import builtins
import errno
import sys
from io import BytesIO, StringIO, TextIOWrapper
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from mdlm_atat import progress
from mdlm_atat.progress import Bar, progress_bar
from mdlm_atat.terminal import Messages


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    now = SimpleNamespace(s=100.0)
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now.s)
    return now


def test_a_file_gets_a_line_every_15_seconds_with_the_time_left(clock):
    console = Console(file=StringIO(), width=100)
    bar = Bar("scoring", total=100, done=10, console=console)
    for second in range(1, 41):
        clock.s += 1
        bar.update(10 + second, "warm")
    bar.close()
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert said == "scoring 25/100 · warm · 1 min 15 s left\nscoring 40/100 · warm · 1 min 00 s left\n"


def test_a_short_piece_of_work_leaves_nothing_in_a_file_but_what_is_said(clock, capsys):
    with progress_bar("scoring") as on_progress:
        on_progress(1, 2)
        on_progress(2, 2)
    bar = Bar("reading")
    bar.update(5, "5 characters")
    bar.say("a line that stays")
    bar.close()
    assert capsys.readouterr() == ("", "a line that stays\n")


def test_a_new_stage_counts_its_time_anew(clock):
    console = Console(file=StringIO(), width=100)
    bar = Bar("reading", console=console)
    clock.s += 60
    bar.update(1000, "1,000 characters", title="tokenizing", total=4000)
    clock.s += 20
    bar.update(2000, title="tokenizing", total=4000)
    assert console.file.getvalue() == "tokenizing 2000/4000 · 20 s left\n"  # type: ignore[attr-defined]


def test_a_terminal_shows_a_moving_bar_and_takes_it_away(clock):
    console = Console(file=StringIO(), width=100, force_terminal=True, color_system=None)
    bar = Bar("step", total=8, console=console)
    bar.update(4, "loss 2.000")
    bar.say("validation 1.9")
    bar.close()
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "step 4/8" in shown
    assert "loss 2.000" in shown
    assert "validation 1.9\n" in shown
    assert shown.endswith("\x1b[2K")  # the bar's line is wiped


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """What a notebook's one output cell shows, in order: a stand-in for IPython."""

    class ZMQInteractiveShell: ...

    contents: list[dict[str, str]] = []

    def display(data: dict[str, str], *, raw: bool, display_id: bool) -> Any:
        assert raw
        assert display_id
        contents.append(data)
        return SimpleNamespace(update=update)

    def update(data: dict[str, str], *, raw: bool) -> None:
        assert raw
        contents.append(data)

    module = ModuleType("IPython.display")
    module.display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)
    return contents


def test_a_notebook_shows_a_bar_in_one_place_without_widgets(clock, shown):
    bar = Bar("<step>", total=8)
    for step in (2, 3, 4):
        clock.s += 1
        bar.update(step, "loss 2.000")
    bar.update(5)  # too soon to be drawn
    bar.close()
    assert [data["text/plain"] for data in shown] == [
        "<step> 2/8 · loss 2.000 · 3 s left",
        "<step> 3/8 · loss 2.000 · 3 s left",
        "<step> 4/8 · loss 2.000 · 3 s left",
        "",
    ]
    assert shown[0]["text/html"].startswith('<progress value="2" max="8"></progress> <code>&lt;step&gt; 2/8')
    assert shown[-1]["text/html"] == ""


def test_who_asked_for_quiet_sees_no_bar(clock, shown):
    bar = Bar("step", total=8, console=Console(quiet=True))
    clock.s += 60
    bar.update(4)
    bar.close()
    assert shown == []


class Broken(StringIO):
    """A stream that fails as a terminal that is gone."""

    def write(self, _: str) -> int:
        raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("stream", [None, Broken(), TextIOWrapper(BytesIO(), encoding="ascii")])
@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_bar_never_ends_the_work_that_it_tells_of(clock, monkeypatch, stream, is_terminal):
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(Messages, "isatty", lambda _: is_terminal)
    for columns in ("1", "80"):
        monkeypatch.setenv("COLUMNS", columns)
        with progress_bar("läuft") as on_progress:
            for done in range(3):
                clock.s += 20
                on_progress(done, 2)
        bar = Bar("läuft")
        bar.say("fertig: 1 ± 2")
        bar.close()
    if isinstance(stream, TextIOWrapper):
        assert "fertig: 1 ? 2" in stream.buffer.getvalue().decode()  # type: ignore[attr-defined]


def test_what_is_being_done_counts_for_the_time_left_but_not_as_done(clock):
    console = Console(file=StringIO(), width=100)
    bar = Bar("writing", total=4, console=console)
    clock.s += 15
    bar.update(1, "half of the second", ahead=0.5)
    assert console.file.getvalue() == "writing 1/4 · half of the second · 25 s left\n"  # type: ignore[attr-defined]


def test_the_first_of_many_which_compiles_says_nothing_of_the_time_of_the_others(clock):
    console = Console(file=StringIO(), width=100)
    bar = Bar("training", total=100, done=40, console=console)
    clock.s += 50
    bar.update(41)
    clock.s += 15
    bar.update(46)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert said == "training 41/100\ntraining 46/100 · 2 min 42 s left\n"  # 54 more at 3 s


def test_a_bar_is_not_drawn_before_its_time(clock):
    console = Console(file=StringIO(), width=100, force_terminal=True, color_system=None)
    bar = Bar("writing", total=4, after_s=3.0, console=console)
    for done in (1, 2):
        clock.s += 1
        bar.update(done)
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]
    clock.s += 1
    bar.update(3)
    bar.close()
    assert "writing 3/4" in console.file.getvalue()  # type: ignore[attr-defined]
