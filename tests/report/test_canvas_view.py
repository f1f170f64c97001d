from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from mdlm_atat.report.canvas_view import CanvasView

MASK = 99


def letters(place: int, token: int) -> str:
    return "\n" if token == 26 else chr(ord("a") + token)


def plain_console(width: int = 40) -> Console:
    return Console(file=StringIO(), force_terminal=False, force_interactive=False, width=width)


def terminal(width: int = 40, height: int = 30) -> Console:
    return Console(
        file=StringIO(),
        force_terminal=True,
        force_interactive=True,
        color_system="truecolor",
        width=width,
        height=height,
        _environ={"TERM": "xterm-256color"},
    )


def written(console: Console) -> str:
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def reveal_one_by_one(view: CanvasView, text: list[int], *, num_free: int | None = None) -> None:
    """A canvas filled from left to right, one position a step; the first ones, if not free, are fixed."""
    length = len(text)
    num_fixed = 0 if num_free is None else length - num_free
    fixed = [position < num_fixed for position in range(length)]
    for step in range(length - num_fixed + 1):
        revealed = [position < num_fixed + step for position in range(length)]
        tokens = [token if known else MASK for token, known in zip(text, revealed, strict=True)]
        view.show(step, length - num_fixed, tokens, fixed)


def test_a_log_file_gets_three_frames_at_25_60_and_100_percent():
    console = plain_console()
    with CanvasView(console, letters, MASK, "demo") as view:
        reveal_one_by_one(view, list(range(20)))
    output = written(console)
    assert output.count("revealed") == 3
    assert "step 5/20 · 5 of 20 revealed\nabcde" + "░" * 15 + "\n" in output
    assert "step 12/20 · 12 of 20 revealed\nabcdefghijkl" + "░" * 8 + "\n" in output
    assert "step 20/20 · 20 of 20 revealed\nabcdefghijklmnopqrst\n" in output


def test_one_step_that_reveals_everything_is_one_frame():
    console = plain_console()
    with CanvasView(console, letters, MASK, "demo") as view:
        view.show(0, 1, [MASK] * 4)
        view.show(1, 1, [0, 1, 2, 3])
    assert written(console) == "demo  step 1/1 · 4 of 4 revealed\nabcd\n\n"


def test_a_sampler_that_stops_at_3_of_4_still_has_its_last_frame_in_the_log():
    console = plain_console()
    with CanvasView(console, letters, MASK, "demo") as view:
        view.show(1, 9, [0, 1, MASK, 3])
        view.show(2, 9, [0, 1, MASK, 4])
    assert written(console).endswith("step 2/9 · 3 of 4 revealed\nab░e\n\n")


def test_a_prompt_of_3_fixed_positions_does_not_count_as_revealed():
    console = plain_console()
    with CanvasView(console, letters, MASK, "demo") as view:
        reveal_one_by_one(view, list(range(7)), num_free=4)
    assert "step 1/4 · 1 of 4 revealed\nabcd░░░" in written(console)


def test_a_revealed_newline_breaks_the_line_and_a_masked_one_does_not():
    console = plain_console()
    with CanvasView(console, letters, MASK, "demo") as view:
        view.show(1, 1, [0, 26, 1, MASK, 2])
    assert "\na\nb░c\n" in written(console)


def test_a_canvas_of_25_wraps_at_width_10():
    console = plain_console(width=10)
    with CanvasView(console, lambda *_: "x", MASK, "t") as view:
        view.show(1, 1, [0] * 25)
    assert written(console).rstrip("\n").split("\n")[-3:] == ["x" * 10, "x" * 10, "x" * 5]


def test_numpy_rows_and_lists_give_the_same_frame():
    outputs = []
    for convert in (list, np.array):
        console = plain_console()
        with CanvasView(console, letters, MASK, "demo") as view:
            view.show(1, 2, convert([0, MASK, 2]), convert([True, False, False]))
        outputs.append(written(console))
    assert outputs[0] == outputs[1]


def test_markup_and_escape_codes_in_the_text_do_nothing():
    texts = {0: "[bold]", 1: "\x1b[2J", 2: "[/nonsense]", 3: "\ud800", 4: "\x9b1m"}
    console = plain_console(width=80)
    with CanvasView(console, lambda _, token: texts[token], MASK, "[red]title") as view:
        view.show(1, 1, [0, 1, 2, 3, 4])
    output = written(console)
    assert "[red]title" in output
    assert "[bold]�[2J[/nonsense]��1m" in output
    assert "\x1b" not in output


def test_a_console_that_knows_only_ascii_gets_dots_for_masks():
    class Ascii(StringIO):
        encoding = "ascii"

    console = Console(file=Ascii(), force_terminal=False, force_interactive=False, width=60)
    with CanvasView(console, lambda *_: "é", MASK, "demo") as view:
        view.show(1, 2, [0, MASK])
    assert "step 1/2 ? 1 of 2 revealed\n?.\n" in written(console)


def test_in_a_terminal_the_token_of_this_step_is_highlighted_once_and_the_prompt_is_bold():
    console = terminal()
    with CanvasView(console, letters, MASK, "demo", min_frame_s=0.0) as view:
        reveal_one_by_one(view, [0, 1, 2, 3], num_free=3)
    output = written(console)
    highlight = "\x1b[30;106m"
    for letter in "bcd":
        assert output.count(f"{highlight}{letter}") == 1
    assert f"{highlight}a" not in output
    assert "\x1b[1ma\x1b[0m" in output
    assert "\x1b[2m░" in output
    assert "bcd" in output.rsplit("revealed", 1)[1]  # what stays on the screen has no highlight in it


def test_of_100_steps_faster_than_a_frame_only_the_first_and_the_last_are_drawn(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("mdlm_atat.report.canvas_view.time.monotonic", lambda: 5.0)
    console = terminal()
    with CanvasView(console, letters, MASK, "demo", min_frame_s=1.0) as view:
        for step in range(101):
            view.show(step, 100, [0, MASK] if step < 100 else [0, 1])
    output = written(console)
    drawn = {step for step in range(101) if f"step {step}/100 " in output}
    assert drawn == {0, 100}


def test_an_interrupted_sampler_leaves_the_cursor_visible_and_its_latest_state_of_2_letters():
    console = terminal()

    def interrupted() -> None:
        with CanvasView(console, letters, MASK, "demo", min_frame_s=60.0) as view:
            view.show(0, 9, [MASK] * 4)
            view.show(1, 9, [0, 1, MASK, MASK])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    output = written(console)
    assert "2 of 4 revealed" in output
    assert output.rindex("\x1b[?25h") > output.rindex("\x1b[?25l")


def test_a_canvas_of_40_lines_in_a_terminal_of_10_ends_up_complete():
    console = terminal(height=10)
    with CanvasView(console, letters, MASK, "demo", min_frame_s=0.0) as view:
        for step in (1, 2):
            view.show(step, 2, [0, 26] * 40)
    final = written(console).rsplit("step 2/2", 1)[1]
    assert final.count("a\n") == 40
