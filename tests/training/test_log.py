import json
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest

from mdlm_atat.errors import UserError
from mdlm_atat.training import log
from mdlm_atat.training.log import JsonLines, check_installed, open_writers
from tiny_runs import train_method, write_text

pytestmark = pytest.mark.usefixtures("no_report")


def test_a_logger_that_is_not_installed_says_what_to_install(monkeypatch):
    monkeypatch.setattr(log, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'mdlm-atat\[wandb\]'"):
        check_installed(["wandb"])


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in for the library: what is logged, and the settings of every run."""
    logged, settings = [], []

    def init(**arguments):
        settings.append(arguments)
        return SimpleNamespace(log=lambda values, step: logged.append((step, values)), finish=lambda: None)

    stand_in = ModuleType("wandb")
    stand_in.__spec__ = ModuleSpec("wandb", None)
    stand_in.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    return SimpleNamespace(logged=logged, settings=settings)


def test_weights_and_biases_gets_the_names_and_steps_of_metrics_jsonl(tmp_path, wandb):
    check_installed(["wandb"])
    writers = open_writers(tmp_path, ["wandb"], 0, {"preset": "demo"})
    for writer in writers:
        writer.write(3, {"train/loss": 1.5})
        writer.close()
    assert wandb.logged == [(3, {"train/loss": 1.5})]
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 3, "train/loss": 1.5}
    assert wandb.settings[0]["config"] == {"preset": "demo"}
    assert wandb.settings[0]["resume"] == "allow"


def test_runs_of_the_same_name_in_different_folders_are_different_runs_and_a_resumed_one_is_the_same(tmp_path, wandb):
    for arm in ("mdlm", "atat", "mdlm"):
        (tmp_path / arm / "seed-0").mkdir(parents=True, exist_ok=True)
        for writer in open_writers(tmp_path / arm / "seed-0", ["wandb"], 0, {}):
            writer.close()
    first, second, again = (found["id"] for found in wandb.settings)
    assert first == again != second
    assert [found["name"] for found in wandb.settings] == ["mdlm/seed-0", "atat/seed-0", "mdlm/seed-0"]


def test_a_whole_run_has_the_same_names_and_values_at_the_same_steps_in_all_three_logs(tmp_path, monkeypatch, wandb):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("ATAT_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "run"
    text = write_text(tmp_path / "text.txt")
    settings = {"train__loggers": ["tensorboard", "wandb"], "train__log_interval_steps": 2}
    assert train_method("importance_rates", text, out, **settings) == 0
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    written = {(line["step"], name): value for line in lines for name, value in line.items() if name != "step"}
    assert {"train/loss", "eval/nelbo_nats_per_token", "eval/schedule_nelbo_nats_per_token", "elapsed_s"} <= {
        name for _, name in written
    }
    assert {(step, name): value for step, values in wandb.logged for name, value in values.items()} == written
    board = EventAccumulator(str(out / "tensorboard"))
    board.Reload()
    shown = {(event.step, name): event.value for name in board.Tags()["scalars"] for event in board.Scalars(name)}
    assert shown == {key: pytest.approx(value, rel=1e-6) for key, value in written.items()}


def test_resuming_at_step_2_drops_later_lines_and_a_half_written_one(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"step": 4, "tra')
    writer = JsonLines(file, resume_step=2)
    writer.write(3, {"train/loss": 0.5})
    writer.close()
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [1, 2, 3]
