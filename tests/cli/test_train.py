"""`atat train`: what it lists, and what it refuses before anything is done."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from refusals import refused

from mdlm_atat.cli.main import main
from mdlm_atat.cli.settings import print_settings, settings_of
from mdlm_atat.config.files import load_config, read_flags, save_config
from mdlm_atat.config.schema import RunConfig


def test_settings_lists_every_setting_with_its_meaning_and_the_preset_s_value(capsys: pytest.CaptureFixture[str]):
    assert main(["train", "small", "--settings", "--train.seed", "77"]) == 0
    page = capsys.readouterr().out
    for section in dataclasses.fields(RunConfig):
        assert f"\n{section.name}\n" in page
        for field in dataclasses.fields(getattr(RunConfig(), section.name)):
            if "options_of" not in field.metadata:
                assert f"\n  --{section.name}.{field.name} " in page
    assert "  --optim.lr X (default: 0.0003)\n      Peak learning rate" in page
    assert "  --train.seed N (default: 77)\n" in page
    assert "  --objective.beta X X (default: 3.0 3.0)\n" in page
    assert "  --train.loggers [{tensorboard, wandb} ...] (default: none)\n" in page
    assert "  --data.validation TEXT (default: None)\n" in page
    assert max(map(len, page.splitlines())) <= 80


def test_every_setting_has_a_meaning_and_its_value_is_taken_back_as_it_is_printed():
    config = load_config("medium", "atat")
    for setting in settings_of(config):
        assert len(setting.meaning.split()) >= 2, setting.path
        value = [] if setting.path == "train.loggers" else setting.value.removeprefix("default: ").split()
        _, mistakes = read_flags([f"--{setting.path}", *value])
        assert not mistakes


def test_a_page_as_wide_as_the_terminal_but_no_wider_than_is_read_with_ease():
    from io import StringIO

    from rich.console import Console

    widths = []
    for width in (60, 200):
        page = StringIO()
        print_settings(load_config("char"), "char", Console(file=page, width=width))
        widths.append(max(len(line) for line in page.getvalue().splitlines() if line.startswith("      ")))
    assert 50 < widths[0] <= 60
    assert 90 < widths[1] <= 100


PLUGIN = '''
from dataclasses import dataclass
from typing import Any, Literal

@dataclass
class VowelsLast:
    schedule: Any
    vocab_size: int
    temperature: float
    """How much later
    vowels are masked."""
    which: Literal["aeiou", "aeiouy"] = "aeiou"
    """Letters that count."""

class Polite:
    def __init__(self, groups, lr, betas, patience: int = 5): ...
'''


def test_the_settings_of_a_plugin_are_listed_with_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    (tmp_path / "my_plugins.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    flags = ["--masking.strategy", "my_plugins:VowelsLast", "--masking.options.which", "aeiouy"]
    flags += ["--optim.kind", "my_plugins:Polite"]
    assert main(["train", "char", "--settings", "--trust_plugins", *flags]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    first = lines.index("--masking.options.temperature X (required)")
    assert lines[first + 1 : first + 4] == [
        "How much later vowels are masked.",
        "--masking.options.which {aeiou, aeiouy} (default: aeiouy)",
        "Letters that count.",
    ]
    assert "--optim.options.patience N (default: 5)" in lines
    assert not [line for line in lines if "vocab_size" in line or "options.betas" in line or "options.lr" in line]
    assert "--masking.strategy {uniform, importance, position, curriculum," in lines
    assert main(["train", "char", "--settings"]) == 0
    assert "options" not in capsys.readouterr().out


@pytest.fixture
def run(tmp_path: Path) -> str:
    """A folder that --resume takes for a run's."""
    (tmp_path / "run").mkdir()
    save_config(load_config("char"), tmp_path / "run" / "config.yaml")
    return str(tmp_path / "run")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", "name a preset (e.g. atat train demo), a run to begin with (--init) or one to --resume"),
        ("demo --resume RUN", "a preset or --init begins a run, --resume continues one: leave out one of them"),
        ("--init RUN --resume RUN", "a preset or --init begins a run, --resume continues one: leave out one of them"),
        ("--resume RUN --method atat", "a resumed run keeps its method: leave out --method"),
        ("--resume RUN --out x", "a resumed run stays in its folder: leave out --out"),
        ("--resume nowhere", "--resume: there is no run folder nowhere"),
        ("--resume .", "--resume: . is no run folder: it holds no config.yaml\n"),
        ("--init nowhere", "--init: there is no folder nowhere; expected a run such as runs/demo"),
        ("nosuch.yaml", "there is no file or run folder nosuch.yaml"),
        ("demo --data.source nosuch.txt", "there is no file or folder nosuch.txt, and no corpus of that name"),
        ("demo --num_steps 3", "--num_steps: unknown flag; did you mean --train.num_steps?"),
        ("demo --max_minutes -1", "--max_minutes is -1, expected at least 0"),
        ("demo more", "more: not expected here"),
        ("demo --optim.lr -1", "atat train demo: optim.lr is -1.0, expected above 0"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    words: str, expected: str, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert expected in refused(["train", *words.replace("RUN", run).split()], capsys, tmp_path)


def test_mistakes_in_flags_and_settings_are_told_together(capsys: pytest.CaptureFixture[str]):
    assert main(["train", "demo", "--optim.lrr", "3", "--max_minutes", "x", "--ot", "a"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: atat train: 3 mistakes",
        "  --ot: unknown flag; did you mean --out?",
        "  --optim.lrr: unknown flag; did you mean --optim.lr?",
        "  --max_minutes is x, expected a number",
    ]


def test_an_unknown_preset_is_answered_with_the_list_and_a_hint(capsys: pytest.CaptureFixture[str]):
    assert main(["train", "chr"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == "error: unknown preset 'chr'; did you mean char?"
    assert "demo" in second


def test_the_command_says_what_to_train_and_the_exit_code_how_it_ended(tmp_path: Path, monkeypatch):
    import mdlm_atat.runs.train

    asked: dict[str, Any] = {}

    def train(config: str, **how: Any) -> SimpleNamespace:
        asked.update(how, config=config)
        return SimpleNamespace(stopped=endings[-1])

    monkeypatch.setattr(mdlm_atat.runs.train, "train", train)
    out = str(tmp_path / "out")
    words = ["train", "demo", "--train.num_steps", "50", "--method", "atat", "--max-minutes", "3", "--out", out]
    endings: list[str | None] = []
    for ended, code in ((None, 0), ("Ctrl-C", 130), ("SIGTERM", 143), ("SIGHUP", 129), ("3 minutes are over", 0)):
        endings.append(ended)
        assert main([*words, "--trust-plugins"]) == code
    assert asked.pop("command").startswith("atat")
    assert asked == {
        "config": "demo",
        "method": "atat",
        "out": Path(out),
        "resume": None,
        "init": None,
        "settings": {"train.num_steps": 50, "train.max_minutes": 3.0},
        "trust_plugins": True,
    }
