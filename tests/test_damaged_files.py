"""The small files of runs, models and corpora with anything in them: read, or one message that names the file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdlm_atat.cli.main import main
from mdlm_atat.data.manifest import is_prepared, read_manifest
from mdlm_atat.data.phrases import NUM_KINDS, read_phrases
from mdlm_atat.errors import UserError
from mdlm_atat.report.run_reader import read_run
from mdlm_atat.samplers.sizes import as_profile
from mdlm_atat.scoring.quality import SampleQuality
from mdlm_atat.scoring.records import Evaluation
from mdlm_atat.small_files import read_object, taken_apart
from mdlm_atat.studies.planning import read_plan
from mdlm_atat.training.checkpoint import Checkpoint
from mdlm_atat.training.folder import check_same_data, note, note_resumed, read_counts, read_start
from mdlm_atat.training.log import JsonLines
from mdlm_atat.training.loop import from_state
from mdlm_atat.training.metrics import read_metrics

OLD_RUN = Path(__file__).parent / "fixtures" / "old_run"
STATE = OLD_RUN / "checkpoints" / "step-00000400" / "state.json"
DATA = {"tokenizer_hash": "a", "hash": "b", "tokenizer": "char", "train_tokens": 1}


def resume(folder: Path) -> None:
    read_start(folder)
    note_resumed(folder, {"optim.lr": (1.0, 2.0)}, 3, 1)
    note(folder, "rewinds", {})
    note(folder, "micro_batches", {"after_step": 4})


def read_state(folder: Path) -> None:
    state = Checkpoint(folder).state()
    with taken_apart(folder / "state.json"):
        from_state(state["progress"])


def read_profile(folder: Path) -> None:
    stored = read_object(folder / "profile.json")
    with taken_apart(folder / "profile.json"):
        as_profile(stored["profile"])


class Kind(NamedTuple):
    """A file: its name, a sound content, and what reads it of its folder."""

    name: str
    content: Any
    read: Callable[[Path], object]


def known(file: Path) -> Any:
    return json.loads(file.read_text())


CORPUS = Path(__file__).parent / "fixtures" / "old_corpus" / "manifest.json"
COLUMNS = {name: [0.1, 0.2] for name in ("mask_rate", "nats_per_masked_token", "standard_error")}
COUNTED = np.zeros((2, NUM_KINDS, NUM_KINDS), int).tolist()
KINDS = {
    "run.json": Kind("run.json", known(OLD_RUN / "run.json"), resume),
    "its data": Kind("run.json", {"data": DATA}, lambda folder: check_same_data(folder, DATA)),
    "what happened": Kind(
        "run.json",
        {name: [{"after_step": 1, "setting": "optim.lr"}] for name in ("changes", "micro_batches", "rewinds")},
        resume,
    ),
    "state.json": Kind("state.json", known(STATE), read_state),
    "profile.json": Kind("profile.json", {"weights": "a", "profile": COLUMNS}, read_profile),
    "manifest.json": Kind("manifest.json", known(CORPUS), lambda folder: (is_prepared(folder), read_manifest(folder))),
    "phrases.json": Kind("phrases.json", {"num_tokens": 1, "stretches": COUNTED, "units": COUNTED}, read_phrases),
    "plan.json": Kind("plan.json", {"a": {"data": {"hash": "a" * 64}, "calibration": {}}}, read_plan),
    "evaluation": Kind(
        "a.json",
        known(next((OLD_RUN / "evals").glob("*.json"))),
        lambda folder: Evaluation.load(folder / "a.json"),
    ),
    "samples": Kind("a.json", {"format": 1, "points": []}, lambda folder: SampleQuality.load(folder / "a.json")),
}
DAMAGED = {
    "a list": b"[1, 2]",
    "a number": b"7",
    "null": b"null",
    "NaN": b"NaN",
    "a text": b'"text"',
    "no names": b"{}",
    "deep": b'{"a":' * 100_000,
    "deep and whole": b"[" * 100_000 + b"]" * 100_000,
    "a long number": b'{"format": ' + b"9" * 5000 + b"}",
    "binary": bytes(range(256)),
    "empty": b"",
    "zeros": bytes(100),
    "a folder": None,
}


@pytest.mark.parametrize(
    "wrong",
    [{"step": None}, {"step": -1}, {"step": 2.0}, {"num_rewinds": "2"}, {"num_rewinds": -1}, {"num_tokens": "many"}],
)
def test_progress_that_no_run_makes_is_told(tmp_path, wrong):
    state = known(STATE)
    state["progress"] |= wrong
    (tmp_path / "state.json").write_text(json.dumps(state))
    with pytest.raises(UserError, match=r"state\.json is damaged"):
        read_state(tmp_path)


def check(kind: Kind, folder: Path) -> None:
    """The file is read, or the message names it, on one line that ends in what to do."""
    message = ""
    try:
        kind.read(folder)
    except UserError as error:
        message = str(error)
    assert str(folder) in (message or str(folder))
    assert "\n" not in message
    assert len(message) < 1000


def put(file: Path, content: bytes | None) -> None:
    if file.is_dir():
        file.rmdir()
    file.unlink(missing_ok=True)
    file.mkdir() if content is None else file.write_bytes(content)


@pytest.mark.parametrize("name", KINDS)
def test_a_sound_file_is_read_and_a_damaged_one_is_a_message_that_names_it(tmp_path, name):
    kind = KINDS[name]
    put(tmp_path / kind.name, json.dumps(kind.content).encode())
    if name != "samples":
        kind.read(tmp_path)
    for content in DAMAGED.values():
        put(tmp_path / kind.name, content)
        if content != b"{}":
            with pytest.raises(UserError):
                kind.read(tmp_path)
        check(kind, tmp_path)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda part: st.lists(part, max_size=2) | st.dictionaries(st.text(max_size=3), part, max_size=2),
    max_leaves=3,
)


@pytest.mark.parametrize("name", KINDS)
def test_a_value_of_any_kind_at_any_place_is_read_or_told(tmp_path_factory, name):
    kind, folder = KINDS[name], tmp_path_factory.mktemp("damaged")

    @settings(max_examples=15, deadline=None, database=None)
    @given(st.data())
    def damage(data: st.DataObject) -> None:
        content = json.loads(json.dumps(kind.content))
        part = content
        while True:
            places = list(part) if isinstance(part, dict) else list(range(len(part)))
            place = data.draw(st.sampled_from(places))
            inner = part[place]
            if not isinstance(inner, dict | list) or not inner or data.draw(st.booleans()):
                break
            part = inner
        if isinstance(part, dict) and data.draw(st.integers(0, 3)) == 0:
            del part[place]
        else:
            part[place] = data.draw(ANYTHING)
        put(folder / kind.name, json.dumps(content).encode())
        check(kind, folder)

    damage()


@pytest.mark.parametrize("content", [c for c in DAMAGED.values() if c is not None])
def test_lines_of_metrics_that_are_none_are_left_out(tmp_path, content):
    file = tmp_path / "metrics.jsonl"
    for step in (b"[]", b'"a"', b"null", b"{}"):
        file.write_bytes(b'{"step": 1, "train/loss": 2.0}\n' + content + b'\n{"step": ' + step + b"}\n")
        assert read_metrics(tmp_path).rows[0]["step"] == 1
        JsonLines(file, 5).close()
        assert file.read_text() == '{"step": 1, "train/loss": 2.0}\n'


COMMANDS = {
    "run.json": ["eval", "RUN"],
    "checkpoints/last/state.json": ["generate", "RUN/checkpoints/last", "--length", "4"],
    "counts.npy": ["eval", "RUN"],
    "phrases.json": ["infill", "RUN", "the [MASK] sat"],
    "checkpoints/last/profile.json": ["generate", "RUN", "--sampler", "ancestral:sizes=optimal", "--steps", "2"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_which_file_of_a_run_is_damaged_with_2(runs, cache, tmp_path, capsys, name):
    run = tmp_path / "run"
    shutil.copytree(runs / "masked", run, symlinks=True)
    put(run / name, b"[" * 100_000)
    assert main([word.replace("RUN", str(run)) for word in COMMANDS[name]]) == 2
    shown = capsys.readouterr()
    assert Path(name).name in shown.err
    assert "Traceback" not in shown.err
    read_run(run)  # the page names what is missing
    assert read_counts(run) is not None if name != "counts.npy" else True
