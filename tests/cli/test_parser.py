"""Every command reads its words in one way: all mistakes at once, hints, and flags with - or _."""

from __future__ import annotations

import shlex
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from mdlm_atat import UserError
from mdlm_atat.cli.parser import Parser, choose, real, whole
from mdlm_atat.config.schema import SECTIONS


def make_parser(*, takes_settings: bool = False) -> Parser:
    parser = Parser("atat try", "Try it.", takes_settings=takes_settings)
    parser.add_argument("model", type=Path, help="a run folder")
    parser.add_argument("text", nargs="?", help="a text")
    parser.add_argument("--num_draws", type=whole(1, 10_000), default=4, help="draws")
    parser.add_argument("--precision", choices=["auto", "float32", "bf16"], default="auto", help="arithmetic")
    parser.add_argument("--task", required=True, help="what to do: 100%% of it")
    group = parser.add_argument_group("times")
    group.add_argument("--times", type=real(0, 1), nargs="+", help="shares to mask")
    group.add_argument("--pass_on", action="append", default=[], help="an option, as it is")
    group.add_argument("--zero-shot", action="store_true", help="other texts")
    return parser


def parse(line: str, **more: bool) -> Namespace:
    return make_parser(**more).parse(shlex.split(line))


def mistakes(line: str, **more: bool) -> list[str]:
    with pytest.raises(UserError) as caught:
        parse(line, **more)
    return [part.strip() for part in str(caught.value).splitlines()]


@pytest.mark.parametrize(
    "line",
    [
        "m --task a --num_draws 3 --zero-shot text",
        "m text --task=a --num-draws=3 --zero_shot",
        "--zero-shot --num-draws 3 --task a m text",
        "m --task a --num_draws 3 --zero_shot -- text",
    ],
)
def test_flags_are_taken_with_dashes_or_underscores_and_in_any_order(line: str):
    found = parse(line)
    assert (found.model, found.text, found.task, found.num_draws, found.zero_shot) == (Path("m"), "text", "a", 3, True)


def test_a_flag_that_collects_what_it_is_given_may_be_given_twice_and_no_other():
    assert parse("m --task a --pass_on=--gres=gpu:1 --pass-on=--time=1").pass_on == ["--gres=gpu:1", "--time=1"]
    assert mistakes("m --task a --task a --task=b") == ["--task: given twice; leave one of them out"]


@pytest.mark.parametrize("line", ["--times 0.1 0.2", "--times 0.1 --times 0.2", "--times=0.1 m --task a --times 0.2"])
def test_the_values_of_a_list_that_is_given_again_add_up_and_take_the_place_of_its_default(line: str):
    parser = make_parser()
    parser.add_argument("--steps", type=whole(1), nargs="*", default=[8, 16], help="numbers of steps")
    line = line if " m " in line else f"m --task a {line}"
    found = parser.parse(shlex.split(line))
    assert (found.times, found.steps) == ([0.1, 0.2], [8, 16])
    assert parser.parse(shlex.split(f"{line} --steps 3 --steps 4 5")).steps == [3, 4, 5]
    assert parser.parse(shlex.split(line)).steps == [8, 16]


def test_what_follows_two_dashes_is_a_text_whatever_it_begins_with():
    assert parse("--task a m -- -text").text == "-text"
    assert parse("--task a -- m --help").text == "--help"
    assert parse("m '-- he said' --task=--a=b=c").text == "-- he said"


def test_a_negative_number_is_a_value():
    parser = Parser("atat try", "Try it.")
    parser.add_argument("--weight", type=real())
    assert parser.parse(["--weight", "-1"]).weight == -1


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("m --task a --num 3", "--num: unknown flag; did you mean --num_draws?"),
        ("m --task a --num_drawz 3", "--num_drawz: unknown flag; did you mean --num_draws?"),
        ("m -task a", "-task: unknown flag; did you mean --task?"),
        ("m --tsk a", "--tsk: unknown flag; did you mean --task?"),
        ("m --task a --qqq", "--qqq: unknown flag; see atat try --help"),
        ("m --task a -qqq", "-qqq: unknown flag; a text that begins with - goes after --"),
        ("m --task a --optim.lr 3", "--optim.lr: unknown flag; see atat try --help"),
        ("m", "missing --task: what to do: 100% of it"),
        ("--task a", "missing MODEL: a run folder"),
        ("m --task", "--task: expected a value after it"),
        ("m --task a --times", "--times: expected one or more values after it"),
        ("m --task a --zero_shot=3", "--zero-shot: takes no value, found '3'"),
        ("m --task a --num_draws 0", "--num_draws is 0, expected at least 1"),
        ("m --task a --num_draws 10001", "--num_draws is 10001, expected at most 10,000"),
        ("m --task a --num_draws 1.5", "--num_draws is 1.5, expected a whole number"),
        ("m --task a --times 0.5 nan", "--times has nan, expected a number"),
        ("m --task a --times inf", "--times has inf, expected a number"),
        (
            "m --task a --precision flaot32",
            "--precision is 'flaot32', expected one of auto, float32, bf16; did you mean float32?",
        ),
        ("m one two three --task a", "two three: not expected here; a text of several words goes in quotes"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do(line: str, expected: str):
    assert mistakes(line) == [expected]


def test_all_mistakes_are_told_at_once():
    head, *lines = mistakes("--num_draws 0 --precision fp32 --times 2 x --zero_shot --unknown 3")
    assert head == "atat try: 5 mistakes"
    assert [line.split()[0] for line in lines] == ["--unknown:", "--num_draws", "--precision", "--times", "--times"]
    head, *lines = mistakes("--num_draws 0")
    assert head == "atat try: 3 mistakes"
    assert lines == [
        "--num_draws is 0, expected at least 1",
        "missing MODEL: a run folder",
        "missing --task: what to do: 100% of it",
    ]


def test_dotted_flags_are_settings_where_a_command_has_them():
    found = parse("m --optim.lr 1e-3 --task a --train.num-steps=5 --data.source 1984 text", takes_settings=True)
    assert found.settings == {"optim.lr": 1e-3, "train.num_steps": 5, "data.source": "1984"}
    assert (found.text, parse("m --task a", takes_settings=True).settings) == ("text", {})


def test_mistakes_in_settings_are_told_with_the_others():
    line = "m --optim.lrr 3 --task a --num_draws 0 --num_steps 4 --train.seed --qqq"
    assert mistakes(line, takes_settings=True) == [
        "atat try: 5 mistakes",
        "--num_steps: unknown flag; did you mean --train.num_steps?",
        f"--qqq: unknown flag; sections are {', '.join(SECTIONS)}",
        "--optim.lrr: unknown flag; did you mean --optim.lr?",
        "--train.seed: expected a whole number after it",
        "--num_draws is 0, expected at least 1",
    ]


def test_help_shows_kinds_and_defaults_and_wins_over_mistakes(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        parse("--num_draws many --help")
    assert stopped.value.code == 0
    page = " ".join(capsys.readouterr().out.split())
    assert "--num_draws N draws (default: 4)" in page
    assert "MODEL a run folder" in page
    assert "--task TASK what to do: 100% of it" in page
    assert "default: False" not in page


def test_a_command_is_chosen_by_its_name_or_refused_with_a_hint(capsys: pytest.CaptureFixture[str]):
    commands = ("prepare", "train-tokenizer")
    assert choose("atat data", ["train_tokenizer", "--x"], commands, "page") == ("train-tokenizer", ["--x"])
    with pytest.raises(UserError, match=r"unknown command 'prep'; .*; did you mean atat data prepare\?"):
        choose("atat data", ["prep"], commands, "page")
    for argv in ([], ["--help"], ["-h", "prepare"]):
        assert choose("atat data", argv, commands, "page\n") is None
        assert capsys.readouterr().out == "page\n"


@dataclass(frozen=True, kw_only=True)
class Settings:
    tokenizer: str
    """Which 100% of it."""
    mode: Literal["wrap", "pad"] = "wrap"
    """How."""
    length: int | None = None
    """How long,
    in tokens."""
    fraction: float = 0.05
    """How much."""
    probe: bool = False
    """Whether."""
    anything: Any = None
    """Whatever."""


def test_a_dataclass_gives_a_flag_for_each_field_with_its_kind_default_and_meaning(capsys: pytest.CaptureFixture[str]):
    parser = Parser("atat try", "Try it.")
    parser.add_fields(Settings, leave_out={"anything"})
    assert Settings(**vars(parser.parse(["--tokenizer", "7"]))) == Settings(tokenizer="7")
    words = ["--tokenizer=a", "--mode=pad", "--length=3", "--fraction=1", "--probe"]
    assert Settings(**vars(parser.parse(words))) == Settings(
        tokenizer="a", mode="pad", length=3, fraction=1.0, probe=True
    )
    with pytest.raises(UserError) as caught:
        parser.parse(["--mode", "wrapped", "--length", "3.5"])
    assert str(caught.value).splitlines()[1:] == [
        "  --mode is 'wrapped', expected one of wrap, pad; did you mean wrap?",
        "  --length is 3.5, expected a whole number",
        "  missing --tokenizer: Which 100% of it.",
    ]
    with pytest.raises(SystemExit):
        parser.parse(["-h"])
    page = " ".join(capsys.readouterr().out.split())
    assert "--length N How long, in tokens." in page
    assert "--fraction X How much. (default: 0.05)" in page
