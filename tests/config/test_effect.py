"""Settings without effect, and settings that no machine could obey."""

from __future__ import annotations

import time
import warnings
from dataclasses import fields
from typing import Any

import pytest

from mdlm_atat.config.arguments import read_arguments, read_config
from mdlm_atat.config.effect import without_effect
from mdlm_atat.config.files import apply_settings, describe_methods, describe_presets, load_config, save_config
from mdlm_atat.config.schema import SECTIONS, ModelConfig, RunConfig, settings_with
from mdlm_atat.config.section import PLUGIN
from mdlm_atat.data import places
from mdlm_atat.data.prepare import prepare
from mdlm_atat.data.readers.kinds import READERS, ROWS
from mdlm_atat.effect import ABOVE_0, BELOW_1
from mdlm_atat.errors import UserError


def ask(preset: Any = "char", method: str | None = None, **settings: Any) -> list[str]:
    """What is said of settings without effect, where these are named."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_config(preset, method, {key.replace("__", "."): value for key, value in settings.items()}, "train")
    return [str(each.message) for each in caught]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"objective__exponent": 3.0}, "objective.schedule = linear: it needs objective.schedule polynomial"),
        ({"curriculum__patience": 20}, "curriculum.kind = none: it needs curriculum.kind dynamic"),
        ({"curriculum__kind": "fixed", "curriculum__patience": 3}, "it needs curriculum.kind dynamic"),
        ({"curriculum__boundaries": [0.2, 0.8]}, "it needs curriculum.kind fixed"),
        ({"importance__width": 64}, "importance.mode = none: it needs importance.mode full or learned_only"),
        ({"importance__prior": "frequency"}, "it needs importance.mode full or frequency_only"),
        ({"masking__temperature": 0.5}, "masking.strategy = uniform: it needs masking.strategy importance"),
        ({"masking__direction": "proportional"}, "masking.strategy = uniform"),
        ({"masking__position_strength": 1.0}, "masking.position = none"),
        (
            {
                "masking__strategy": "importance",
                "importance__mode": "frequency_only",
                "masking__position_strength": 1.0,
            },
            "masking.position = none",
        ),
        ({"objective__clip": 0.2}, "objective.weighting = elbo: it needs objective.weighting clipped"),
        ({"objective__beta": [2.0, 2.0]}, "it needs objective.time_sampling beta"),
        ({"optim__momentum": 0.9}, "optim.kind = adamw: it needs optim.kind muon"),
        ({"optim__kind": "muon", "optim__output_lr_ratio": 0.1}, "model.tied = true: it needs model.tied false"),
        ({"optim__cooldown_fraction": 0.1}, "optim.decay = cosine: it needs optim.decay wsd"),
        ({"optim__decay": "constant", "optim__final_lr_ratio": 0.0}, "it needs optim.decay cosine or wsd"),
        ({"model__time_width": 64}, "model.time_conditioning = false: it needs model.time_conditioning true"),
        ({"model__extra_outputs": 1}, "it needs model.tied false"),
        ({"model__kind": "causal", "objective__schedule": "cosine"}, "it needs model.kind masked or a plugin"),
        ({"objective__causal_share": 1.0, "objective__weighting": "flat"}, "it needs objective.causal_share below 1"),
        ({"train__precision": "float32", "train__residual": "bf16"}, "it needs train.precision auto or bf16"),
        (
            {"curriculum__kind": "fixed", "objective__weighting": "clipped"},
            "curriculum.kind = 'fixed'|curriculum.kind = fixed",
        ),
    ],
)
def test_a_setting_that_is_named_and_changes_nothing_is_said_so(settings: dict[str, Any], said: str):
    (line,) = ask("char", **settings)
    path = list(settings)[-1].replace("__", ".")
    assert line.startswith(f"{path} has no effect with ")
    assert any(each in line for each in said.split("|"))


def test_settings_that_have_one_are_passed_in_silence():
    assert ask("char", objective__schedule="polynomial", objective__exponent=3.0) == []
    assert ask("char", "importance_rates", importance__width=64, masking__temperature=0.5) == []
    assert ask("char", curriculum__kind="dynamic", curriculum__patience=3, objective__beta=[2.0, 2.0]) == []
    assert ask("char", model__kind="mine.net:Net", objective__schedule="cosine") == []


@pytest.mark.parametrize("preset", describe_presets())
def test_no_preset_and_no_method_names_anything(preset: str):
    methods = [] if load_config(preset).model.kind == "causal" else describe_methods()
    assert {method: said for method in (None, *methods) if (said := ask(preset, method))} == {}


def test_what_a_run_was_is_repeated_in_silence(tmp_path):
    config, _ = apply_settings(load_config("demo"), {"objective.exponent": 3.0})
    assert config is not None
    file = tmp_path / "config.yaml"
    save_config(config, file)
    assert ask(str(file)) == ask(str(tmp_path)) == ask(config) == []
    without = [line for line in file.read_text().splitlines() if "max_rewinds" not in line and "clip" not in line]
    file.write_text("\n".join(without).replace("exponent: 3.0", "exponent: 2.0"))  # of a version without these
    assert ask(str(file)) == ask(str(tmp_path)) == []
    assert ask("char", **read_arguments({}, {"model": ModelConfig(width=64, num_heads=2)})) == []


def test_a_file_names_nothing_that_one_of_the_methods_feels_and_a_flag_does(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("base: char\nimportance: {width: 64}\nmasking: {temperature: 0.7}\ncurriculum: {patience: 7}\n")
    for method in (None, "mdlm", "atat", "importance_rates"):
        (line,) = ask(str(file), method)
        assert line.startswith("curriculum.patience has no effect")
    assert len(ask(str(file), "mdlm", importance__width=64)) == 2
    file.write_text("base: char\nmodel: {kind: causal}\nimportance: {width: 64}\n")
    (line,) = ask(str(file))
    assert line.startswith("importance.width has no effect")


def test_a_method_of_ones_own_is_asked_whatever_other_methods_feel(tmp_path):
    (tmp_path / "mine.yaml").write_text("base: mdlm\nimportance: {width: 64}\n")
    (line,) = ask("char", str(tmp_path / "mine.yaml"))
    assert line.startswith("importance.width has no effect")


def test_a_file_that_is_named_is_asked_as_flags_are_and_not_what_it_builds_on(tmp_path):
    (tmp_path / "below.yaml").write_text("base: char\ncurriculum: {patience: 7}\n")
    (tmp_path / "mine.yaml").write_text("base: below.yaml\nobjective: {exponent: 3.0}\n")
    (line,) = ask(str(tmp_path / "mine.yaml"))
    assert line.startswith("objective.exponent has no effect")


@pytest.mark.parametrize("path", [path for path in sorted(settings_with("when")) if not path.startswith("data.")])
def test_what_a_setting_needs_is_there_and_gives_it_an_effect(path: str):
    section, _, name = path.partition(".")
    (part,) = [part for part in fields(SECTIONS[section]) if part.name == name]  # type: ignore[arg-type]
    for when in part.metadata["when"]:
        values = {}
        for other, needed in when.items():
            value = needed[0] if type(needed) is tuple else needed
            value = {BELOW_1: 0.5, ABOVE_0: 8, PLUGIN: "mine.net:Net"}.get(value, value)
            values[other] = [value] * 3 if other in ("curriculum.time_sampling", "curriculum.weighting") else value
        config, mistakes = apply_settings(RunConfig(), values)
        assert not mistakes
        assert config is not None
        assert without_effect(config, {path}) == {}


def said_of(source: Any, **settings: Any) -> list[str]:
    """What is said of settings of a text without effect, by `train` of a RunConfig, without "data."."""
    lines = ask("char", data__source=str(source), **{f"data__{name}": value for name, value in settings.items()})
    return [line.replace("data.", "") for line in lines]


OF_TEXTS = {
    "column": "body",
    "documents": "line",
    "encoding": "cp1252",
    "delimiter": ";",
    "template": "{a}",
    "nulls": "refuse",
    "splits": "none",
    "leave_out": "*.log",
    "split": "test",
}
COUNTS = {
    "a.txt": {"documents", "encoding"},
    "a.md.gz": {"documents", "encoding"},
    "README": {"documents", "encoding"},
    "a.csv": {"column", "encoding", "delimiter", "template"},
    "A.TSV.zst": {"column", "encoding", "delimiter", "template"},
    "a.jsonl": {"column", "encoding", "template", "nulls"},
    "a.parquet": {"column", "template", "nulls"},
    "a.html": {"encoding"},
    "a.pdf": set(),
    "shakespeare": set(),
    "mine.corpora:Letters": set(),
    "hub:OWNER/NAME": {"column", "template", "nulls", "split"},
    "wikitext-2": {"column", "template", "nulls", "split"},
    "folder": set(OF_TEXTS) - {"split"},
    "prepared": set(),
    "not/there.txt": set(OF_TEXTS),  # which is an error of its own
}
"""Which of them a source feels."""


@pytest.mark.parametrize("source", COUNTS)
def test_a_setting_of_a_text_that_the_source_does_not_feel_is_said_to_need_another(source: str, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("folder", "prepared"):
        (tmp_path / folder).mkdir()
    for file in ("prepared/manifest.json", "prepared/train.bin"):
        (tmp_path / file).write_text("{}")
    if source in ("README", *(name for name in COUNTS if name.lower().startswith("a."))):
        (tmp_path / source).write_text("a")
    for name, value in OF_TEXTS.items():
        lines = said_of(source, **{name: value})
        assert bool(lines) == (name not in COUNTS[source]), (name, lines)
        for line in lines:
            assert line.startswith(f"{name} has no effect with source = {source}: it needs source a ")


def test_a_setting_of_the_validation_text_counts_where_the_source_does_not_feel_it(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.csv").write_text("body\nb\n")
    assert said_of(tmp_path / "a.txt", validation=str(tmp_path / "b.csv"), column="body") == []
    (line,) = said_of(tmp_path / "a.txt", validation=str(tmp_path / "b.csv"), validation_fraction=0.1)
    assert line.endswith("b.csv: it needs validation nothing")
    (line,) = said_of("shakespeare", validation_fraction=0.1)
    assert line.endswith("it needs source a text that brings no validation text")


def test_a_setting_counts_for_a_folder_where_one_of_its_files_feels_it(tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    assert said_of(tmp_path, column="body", delimiter=";", documents="line") == []  # an empty one says so itself
    (tmp_path / "in" / "a.txt").write_text("a")
    assert [line.partition(" has")[0] for line in said_of(tmp_path, column="body", delimiter=";", nulls="refuse")] == [
        "column",
        "delimiter",
        "nulls",
    ]
    assert said_of(tmp_path, documents="line", encoding="cp1252") == []
    (tmp_path / "in" / "deep" / "b.JSONL.gz").write_bytes(b"")
    (line,) = said_of(tmp_path, column="body", delimiter=";", nulls="refuse")
    assert line.startswith("delimiter has no effect")
    assert line.endswith("it needs source a .csv or .tsv file, or a folder of some")


def test_the_endings_that_settings_need_are_those_that_have_readers():
    assert {*places.TABLES, *places.WITH_NULLS} == set(ROWS)
    assert {*places.NOT_PLAIN, ".txt"} == set(READERS)


def test_a_preparation_warns_of_what_it_does_not_feel(tmp_path):
    texts = [f"the text number {number}" for number in range(200)]
    with pytest.warns(UserWarning, match="column has no effect with source = 200 texts from Python"):
        prepare(texts, out=tmp_path / "a", column="body", progress=False)
    with pytest.warns(UserWarning, match="length has no effect with mode = wrap: it needs mode pad"):
        prepare(tuple(texts), out=tmp_path / "b", length=16, progress=False)
    with pytest.warns(UserWarning, match="splits has no effect with source = .*a: it needs source a folder"):
        prepare(tmp_path / "a", splits="none", progress=False)


ABSURD = {
    "train.seed": [2**64, 10**30, -1],
    "train.batch_size": [10**9, 10**30, 0, -4],
    "train.num_steps": [10**18, 0, -1],
    "train.num_micro_batches": [10**9, 0, -1],
    "train.log_interval_steps": [0, -1, 10**18],
    "train.eval_interval_steps": [0],
    "train.checkpoint_interval_steps": [0],
    "train.keep_interval_steps": [-1],
    "train.max_minutes": [-1.0],
    "train.ema_decay": [1.0, -0.1],
    "model.width": [10**8, 10**6, 0, -384],
    "model.num_layers": [10**9, 10**4, 0, -6],
    "model.num_heads": [0, -2, 10**9],
    "model.mlp_ratio": [10**6, 0],
    "model.num_kv_heads": [0, -2, 5, 24],
    "model.head_width": [0, -2, 33, 10**8],
    "model.mlp_width": [0, 10**9],
    "model.norm_eps": [0.0, -1e-5],
    "model.rotary_base": [0.0, -1e4],
    "model.rotary_factor": [0.0, -8.0],
    "model.rotary_range": [(4.0, 1.0), (0.0, 4.0), (2.0, 2.0)],
    "model.rotary_length": [0, 10**18],
    "model.time_width": [10**9],
    "model.extra_outputs": [10**9, -1],
    "model.dropout": [1.0, 1.5, -0.1],
    "importance.width": [10**8, -2],
    "importance.num_layers": [10**9],
    "data.length": [10**9, 1, 0, -256],
    "data.validation_fraction": [0.0, 1.0, -0.1],
    "eval.num_draws": [10**12, 0, -32],
    "eval.final_num_draws": [10**12],
    "eval.batch_size": [10**9, 0, -1],
    "eval.num_samples": [10**12, -1],
    "eval.sample_steps": [10**12, 0],
    "optim.lr": [0.0, -1e-3],
    "optim.warmup_steps": [-1],
    "optim.grad_clip": [-1.0],
    "objective.exponent": [0.0, -1.0],
    "objective.causal_share": [1.1, -0.1],
    "curriculum.interval_steps": [0],
}


@pytest.mark.parametrize(("path", "value"), [(path, value) for path, values in ABSURD.items() for value in values])
def test_an_absurd_setting_is_one_message_within_a_second(path: str, value: Any):
    started_s = time.monotonic()
    with pytest.raises(UserError, match=path.replace(".", r"\.")) as raised:
        ask("small", None, **{path: value})
    assert time.monotonic() - started_s < 1
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400


def test_a_batch_that_would_fit_in_parts_is_told_so():
    with pytest.raises(UserError, match=r"train\.batch_size: 100,000,000 sequences at once need at least .* TiB"):
        ask("small", train__batch_size=10**8)
    assert ask("small", train__batch_size=10**8, train__num_micro_batches=10**7) == []
    assert ask("small", train__batch_size=10**8, train__num_micro_batches="auto") == []
    assert ask("small", train__seed=2**64 - 1) == []
