import json
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest

from mdlm_atat.errors import UserError
from mdlm_atat.train import log
from mdlm_atat.train.log import JsonLines, check_installed, open_writers


def test_a_logger_that_is_not_installed_says_what_to_install(monkeypatch):
    monkeypatch.setattr(log, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'mdlm-atat\[wandb\]'"):
        check_installed(["wandb"])


def test_weights_and_biases_gets_the_names_and_steps_of_metrics_jsonl(tmp_path, monkeypatch):
    logged, settings = [], {}

    def init(**arguments):
        settings.update(arguments)
        return SimpleNamespace(log=lambda values, step: logged.append((step, values)), finish=lambda: None)

    stand_in = ModuleType("wandb")
    stand_in.__spec__ = ModuleSpec("wandb", None)
    stand_in.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    check_installed(["wandb"])
    writers = open_writers(tmp_path, ["wandb"], 0, {"preset": "demo"})
    for writer in writers:
        writer.write(3, {"train/loss": 1.5})
        writer.close()
    assert logged == [(3, {"train/loss": 1.5})]
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 3, "train/loss": 1.5}
    assert settings["config"] == {"preset": "demo"}
    assert settings["resume"] == "allow"


def test_resuming_at_step_2_drops_later_lines_and_a_half_written_one(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"step": 4, "tra')
    writer = JsonLines(file, resume_step=2)
    writer.write(3, {"train/loss": 0.5})
    writer.close()
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [1, 2, 3]
