"""What a request is repeated by, run: in a shell, and in Python."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Client, served

from lm.made_models import random_lm
from mdlm_atat import MaskedDiffusionLM
from mdlm_atat.cli.main import main
from mdlm_atat.config.schema import DataConfig, ModelConfig, ObjectiveConfig, RunConfig
from mdlm_atat.data.tokenizers import ByteTokenizer
from mdlm_atat.serve.repeat import ModelNamed

HOSTILE = [
    "plain [MASK:3] text",
    "'; touch pwned; echo '[MASK:2]",
    '$(touch pwned) `touch pwned` "$HOME" ${x} !! \\ [MASK] & | > <',
    "--seed 5 [MASK:2]",
    "-h[MASK]",
    "-- [MASK]",
    "two\nlines\tand a tab\r\n[MASK:2]\x07\x1b[31m",
    "back\\slash \\n and \\\n[MASK:2]",
    "[MASK:2]é你🌍\u2028x",
    "~/*?[a-z]{a,b} %s %PATH% ^ [MASK:2]",
    "'''\"\"\"{x!r}\\'[MASK]",
    " [MASK:1-2] sp ace ",
    "\x00nul[MASK:2]",
]
ESCAPED = [r"\[MASK] [MASK:2] \\n \n \u00e9", "\\[MASK:3]\n[MASK]", r"a\\[MASK]"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = RunConfig(
        data=DataConfig(length=96),
        model=ModelConfig(num_layers=1, width=8, num_heads=1),
        objective=ObjectiveConfig(causal_share=0.5),
    )
    folder = tmp_path_factory.mktemp("models") / "it's a $model"
    return random_lm(ByteTokenizer(), config).save_pretrained(folder)


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[Client]:
    lm = MaskedDiffusionLM.from_pretrained(folder)
    with served(lm, named=ModelNamed([str(folder)], f"mdlm_atat.load_lm({str(folder)!r})")) as client:
        yield client


def words_of(command: str, folder: Path) -> list[str]:
    """What a shell makes of a command line: the arguments of `atat`."""
    script = f"""atat() {{ for word in "$@"; do printf '%s\\0' "$word"; done; }}\n{command}\n"""
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True, cwd=folder)
    assert done.stderr == b""
    return done.stdout.decode().split("\0")[:-1]


def printed_by_command(command: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert "\n" not in command
    assert command.startswith("atat ")
    capsys.readouterr()
    words = words_of(command, folder)
    assert not (folder / "pwned").exists()
    assert words == shlex.split(command)[1:]
    assert main(words) == 0
    return capsys.readouterr().out


def printed_by_python(program: str, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    exec(compile(program, "repeat", "exec"), {"__name__": "__main__"})
    return capsys.readouterr().out


def check(found: dict[str, Any], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [result["text"] for result in found["results"]]
    rule = f"{'-' * 40}\n" if len(texts) > 1 else ""
    assert printed_by_command(found["repeat"]["command"], folder, capsys) == "".join(f"{rule}{t}\n" for t in texts)
    assert printed_by_python(found["repeat"]["python"], capsys) == "".join(f"{text}\n" for text in texts)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_text_is_repeated_letter_for_letter_by_a_shell_and_by_python(
    text: str, client: Client, folder: Path, capsys: pytest.CaptureFixture[str]
):
    check(client.infill(text, seed=5, temperature=0.5).json, folder, capsys)


@pytest.mark.parametrize("text", ESCAPED)
def test_a_text_with_escapes_is_repeated(text: str, client: Client, folder: Path, capsys: pytest.CaptureFixture[str]):
    check(client.infill(text, seed=6, escape=True).json, folder, capsys)


@pytest.mark.parametrize(
    "how",
    [
        {"num_samples": 2, "candidates": 5},
        {"num_samples": 2, "candidates": 5, "pick": "fair"},
        {"num_samples": 3, "sampler": "first_hitting:sizes=cosine", "steps": 2, "top_k": 9, "top_p": 0.9},
        {"sampler": "left_to_right", "temperature": 0},
        {"length_draws": 3},
    ],
)
def test_settings_are_repeated(how: dict[str, Any], client: Client, folder: Path, capsys: pytest.CaptureFixture[str]):
    check(client.infill("It was [MASK:4][MASK:1-3].", seed=8, **how).json, folder, capsys)


@pytest.mark.parametrize("prompt", [text.replace("[MASK]", "x") for text in HOSTILE] + ["", "a [MASK:2] \\[MASK]\n"])
def test_continuations_are_repeated(prompt: str, client: Client, folder: Path, capsys: pytest.CaptureFixture[str]):
    check(client.generate(prompt, seed=9, max_tokens=7, num_samples=2).json, folder, capsys)


def test_a_continuation_of_the_default_length_is_repeated(
    client: Client, folder: Path, capsys: pytest.CaptureFixture[str]
):
    check(client.generate("abc", temperature=0).json, folder, capsys)


def test_what_a_stop_string_cut_is_repeated_by_python_alone(client: Client, capsys: pytest.CaptureFixture[str]):
    whole = client.generate("ab'c", seed=3, max_tokens=30, num_samples=3).json["results"]
    stops = [whole[0]["text"][15:17], whole[1]["text"][10], "'\"\\"]
    found = client.generate("ab'c", seed=3, max_tokens=30, num_samples=3, stop=stops).json
    texts = [result["text"] for result in found["results"]]
    assert texts[0] != whole[0]["text"]
    assert all(long["text"].startswith(text) for long, text in zip(whole, texts, strict=True))
    assert found["repeat"]["command"] is None
    assert printed_by_python(found["repeat"]["python"], capsys) == "".join(f"{text}\n" for text in texts)
    for result in found["results"]:
        assert "".join(piece["text"] for piece in result["pieces"]) == result["text"]
        tokens = "".join(token["text"] for token in result["pieces"][1]["tokens"])
        assert tokens == result["pieces"][1]["text"]


def test_the_seed_of_a_result_draws_that_very_text_again(client: Client, folder: Path):
    found = client.infill("It was [MASK:4].", seed=8, num_samples=3).json["results"][2]
    lm = MaskedDiffusionLM.from_pretrained(folder)
    assert lm.infill("It was [MASK:4].", seed=[int(json.loads(json.dumps(found["seed"])))]).text == found["text"]
