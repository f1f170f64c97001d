"""Where a command's output leads: wherever it is, training goes on and results reach their files."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from mdlm_atat import load_lm
from mdlm_atat.cli.main import main
from processes import Started
from tiny_runs import tiny_flags, train

pytestmark = pytest.mark.usefixtures("cache_beside_text")


OUTPUTS = {  # where standard output leads, and error; whether anybody reads what is printed
    "full disks": ("full", "full", False),
    "closed": ("closed", "closed", False),
    "nobody there": ("broken pipe", "gone terminal", False),
    "a dumb terminal of one column": ("terminal", "terminal", True),
    "ascii": ("ascii", "latin-1", True),
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_training_goes_on_wherever_its_output_leads(text, tmp_path, kind):
    stdout, stderr, is_read = OUTPUTS[kind]
    run = tmp_path / "r\u00fcn"
    words = ["train", "demo", "--out", str(run), *tiny_flags(text, train__num_steps=4)]
    environment = {"COLUMNS": "1", "TERM": "dumb"} if stdout == "terminal" else {}
    started = Started(words, environment, {"stdout": stdout, "stderr": stderr})
    assert started.wait() == 0, started.errors
    assert (run / "report.html").exists()
    assert len(list((run / "evals").iterdir())) == 1
    assert not re.search("Traceback|\x1b", started.output + started.errors)
    assert ("step 4: validation" in started.output) == is_read


@pytest.mark.parametrize(("place", "code"), [("full", 2), ("broken pipe", 141), ("closed", 0), ("gone terminal", 2)])
def test_an_evaluation_reaches_its_file_though_nobody_can_be_told(runs, tmp_path, place, code):
    file = tmp_path / "found.json"
    words = ["eval", str(runs / "masked"), "--num_draws", "32", "--json", str(file)]
    started = Started(words, {"ATAT_CACHE": str(runs / "cache")}, {"stdout": place})
    assert started.wait() == code, started.errors
    assert json.loads(file.read_text())["num_draws"] == 32
    assert "Traceback" not in started.errors
    assert ("could not be printed" in started.errors) == (code == 2)


@pytest.mark.parametrize("place", ["full", "closed", "gone terminal"])
def test_texts_reach_their_file_though_messages_lead_nowhere(runs, tmp_path, place):
    out = tmp_path / "texts.jsonl"
    words = ["generate", str(runs / "masked"), "--length", "4", "--out", str(out)]
    assert Started(words, printed_to={"stderr": place}).wait() == 0
    assert len(out.read_text().splitlines()) == 1


def test_a_run_and_its_text_may_lie_where_no_name_is_utf_8(text, tmp_path, no_report, capsys):
    place = Path(os.fsdecode(os.fsencode(tmp_path) + b"/r\xfcn"))
    try:
        place.mkdir()
    except OSError:
        pytest.skip("this file system has no such names")
    source = shutil.copy(text, place / "text.txt")
    run = place / "run"
    assert train(source, run, train__num_steps=4, eval__num_samples=0) == 0
    assert main(["train", "--resume", str(run), "--train.num_steps", "8"]) == 0
    assert main(["eval", str(run), "--json", str(place / "found.json")]) == 0
    assert json.loads((place / "found.json").read_text())["num_draws"] == 32
    saved = load_lm(run).save_pretrained(place / "saved")
    assert main(["generate", str(saved), "--length", "4", "--out", str(place / "texts.jsonl")]) == 0
    assert "Traceback" not in capsys.readouterr().err
