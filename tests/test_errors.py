"""A message speaks Python; the command line shows the same message in flags."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdlm_atat.errors import as_command, call, command_line


@pytest.mark.parametrize(
    ("python", "flags"),
    [
        ("`out=`", "--out"),
        ("`save=`", "--json"),
        ("`num_draws=64`", "--num_draws 64"),
        ("`lr=1e-4`", "--lr 0.0001"),
        ("`compile=True`", "--compile"),
        ("`compile=False`", "no --compile"),
        ("`train.batch_size=512`", "--train.batch_size 512"),
        ("`model.tied=True`", "--model.tied true"),
        ("`data.validation=None`", "--data.validation None"),
        ("`objective.beta=(3, 4.5)`", "--objective.beta 3 4.5"),
        ("`samplers=['ancestral', 'remask']`", "--samplers ancestral remask"),
        ("`out='my runs/a'`", "--out 'my runs/a'"),
        ("`out='a=b'`", "--out a=b"),
        ("`against=OTHER`", "--against OTHER"),
        ("`train(resume='runs/a')`", "atat train --resume runs/a"),
        ("`train('demo', out='runs/a')`", "atat train demo --out runs/a"),
        ("`ma.train('demo', **{'train.num_steps': 50, 'model.tied': False})`",
         "atat train demo --train.num_steps 50 --model.tied false"),
        ("`train(...)`", "atat train ..."),
        ("`train(..., method='atat')`", "atat train ... --method atat"),
        ("`evaluate('runs/a', profile=True)`", "atat eval runs/a --profile"),
        ("`prepare(SOURCE, 'char', out='data/a')`", "atat data prepare SOURCE char --out data/a"),
    ],
)  # fmt: skip
def test_an_argument_or_a_call_in_backticks_becomes_flags(python: str, flags: str):
    assert as_command(f"too many; try {python}, or fewer") == f"too many; try {flags}, or fewer"


@pytest.mark.parametrize(
    "message",
    [
        "--num_draws is 0, expected at least 1",
        "optim.warmup_steps = 3 is more than train.num_steps = 2",
        "a YAML file that begins with `base: atat`",
        "`a == b`",
        "`open('x')`",
        "`lm.network`",
        "an unpaired ` and a=1",
        "``",
        "`not python(`",
        "`train('a' 'b'`",
        "`os.remove('a\0b')`",
        "",
    ],
)
def test_any_other_message_stays_as_it_is(message: str):
    assert as_command(message) == message


def test_several_are_each_translated():
    message = "`out=` exists; go on with `train(resume='runs/a')` or name another `out`"
    assert as_command(message) == "--out exists; go on with atat train --resume runs/a or name another `out`"


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0")))
def test_a_text_of_any_content_reaches_the_shell_as_one_word(text: str):
    """Read by bash: of $'\\033', as control characters are written, Python's shlex knows nothing."""
    command = as_command(f"`prompt={text!r}`")
    words = subprocess.run(["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, check=True).stdout
    assert words.decode().split("\0")[:-1] in (["--prompt", text], [f"--prompt={text}"])


@given(st.text())
def test_no_message_makes_the_translation_fail(message: str):
    as_command(message)


NAMES = [
    "my run",
    "it's",
    'say "x"',
    "$HOME",
    "`id`",
    "a\nb",
    "-x",
    "--out",
    "r\u00fcn",
    "~",
    "a\\b",
    "*",
    "a;b",
    "#1",
    "tab\t",
    ":dog:",
    "a=b",
]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("name", [b"r\xfcn", b"\xff'\\", b"a\x1b[2Jb", b"\x07 $HOME"], ids=repr)
def test_a_path_that_no_terminal_shows_can_be_pasted_too(name: bytes):
    path = Path(os.fsdecode(name))
    for line in (command_line(["eval", path]), as_command(call("evaluate", path))):
        assert line.isascii()
        assert line.isprintable()
        script = f"atat() {{ printf '%s\\0' \"$@\"; }}\n{line}"
        found = subprocess.run(["bash", "-c", script], capture_output=True, check=True).stdout
        assert found == b"eval\0" + name + b"\0"


@pytest.mark.parametrize("name", NAMES)
def test_a_printed_command_can_be_pasted_into_a_shell_whatever_the_path(name: str):
    """The shell calls a stand-in of `atat` that prints its words, each ended by a zero."""
    printed = [
        command_line(["train", "--resume", Path(name)]),
        command_line(["generate", Path(name), "--watch"]),
        as_command(f"go on with\n  {call('train', resume=Path(name))}").partition("\n")[2],
        as_command(call("evaluate", Path(name), profile=True)),
    ]
    script = "\n".join(["atat() { printf '%s\\0' \"$@\"; }", *printed])
    found = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.split("\0")
    path = f"./{name}" if name.startswith("-") else name
    flag = [f"--resume={name}"] if name.startswith("-") else ["--resume", name]
    assert found == [
        "train",
        "--resume",
        path,
        "generate",
        path,
        "--watch",
        "train",
        *flag,
        "eval",
        path,
        "--profile",
        "",
    ]


def test_no_command_is_printed_but_by_the_function_that_quotes_it():
    by_hand = re.compile(r"""f["'].*(?<![-`])\batat (?!\{)[a-z ]+( --\w+)? \{(?!action|BOX)""")
    quoted_by_hand = re.compile(r"""=["']\{(folder|file|path)""")
    sources = [file.read_text("utf-8") for file in (Path(__file__).parents[1] / "src").rglob("*.py")]
    lines = [line for text in sources for line in text.split("\n")]
    assert [line for line in lines if by_hand.search(line) or quoted_by_hand.search(line)] == []
