"""Presets, YAML files and dotted flags become a RunConfig, or one message with every mistake in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdlm_atat.config.files import (
    apply_settings,
    describe_presets,
    load_config,
    read_flags,
    save_config,
    split_flags,
)
from mdlm_atat.config.schema import SECTIONS, DataConfig, ObjectiveConfig, OptimConfig, RunConfig, TrainConfig
from mdlm_atat.errors import UserError


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str, name: str = "run.yaml") -> str:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def mistakes_in(path: str) -> list[str]:
    """Lines of the one message that loading a file gives."""
    with pytest.raises(UserError) as caught:
        load_config(path)
    return [line.strip() for line in str(caught.value).splitlines()]


def with_flags(argv: Sequence[str]) -> RunConfig:
    """The default configuration, changed by flags."""
    settings, wrong = read_flags(argv)
    config, mistakes = apply_settings(RunConfig(), settings)
    if wrong or mistakes or config is None:
        raise UserError("\n".join(f"--{path}: {message}" if path else message for path, message in wrong + mistakes))
    return config


def mistakes_of_flags(*argv: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        with_flags(argv)
    return [line.strip() for line in str(caught.value).splitlines()]


@pytest.mark.parametrize("name", describe_presets())
def test_every_preset_loads_and_says_what_it_promises(name: str, tmp_path: Path):
    config = load_config(name)
    assert describe_presets()[name]
    save_config(config, tmp_path / "config.yaml")
    assert load_config(str(tmp_path)) == config


@pytest.mark.parametrize("name", describe_presets())
def test_every_describe_presets_its_command_machine_minutes_and_number(name: str):
    from importlib.resources import files

    comment = (files("mdlm_atat.config") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
    for promise in ("# command:", "# machine:", "# minutes:", "# promises:"):
        assert promise in comment


def test_a_preset_changes_only_what_it_names_in_the_one_it_builds_on():
    char, causal = load_config("char"), load_config("causal-char")
    assert causal.model.kind == "causal"
    assert dataclasses.replace(causal, model=char.model) == char


def test_a_file_may_build_on_a_file_that_builds_on_a_preset(write):
    write("base: char\noptim:\n  lr: 2e-3\n", "parent.yaml")
    config = load_config(write("base: parent.yaml\noptim:\n  warmup_steps: 7\n", "child.yaml"))
    assert (config.optim.lr, config.optim.warmup_steps, config.model.width) == (2e-3, 7, 384)


def test_files_that_build_on_each_other_in_a_circle_are_named(write):
    write("base: b.yaml\n", "a.yaml")
    (message,) = mistakes_in(write("base: a.yaml\n", "b.yaml"))
    assert "circle" in message
    assert message.count("b.yaml") == 2


def test_every_mistake_in_a_file_is_reported_at_once_with_its_path_and_a_hint(write):
    path = write(
        """\
base: char
optim:
  lrr: 3
  betas: [0.9]
model: {num_layers: six, width: 6.5, num_heads: "6", tied: 1}
objective: {schedule: lineer, window: [0.9, 0.1]}
data: 3
trian: {}
train: {num_micro_batches: 7}
eval: {batch_size: true, num_draws: 0}
"""
    )
    head, *lines = mistakes_in(path)
    assert head == f"{path}: 11 mistakes"
    assert set(lines) == {
        "optim.lrr: unknown key; did you mean optim.lr?",
        "optim.betas: expected 2 numbers, found [0.9]",
        "model.num_layers: expected a whole number, found 'six'",
        "model.width: expected a whole number, found 6.5",
        "model.num_heads: expected a whole number, found '6'",
        "model.tied: expected true or false, found 1",
        "objective.schedule: unknown noise schedule 'lineer', expected one of linear, cosine, geometric, polynomial, "
        "or a plugin as package.module:Name; did you mean linear?",
        "data: expected a section of settings, found 3",
        "trian: unknown key; did you mean train?",
        "train.batch_size = 64 cannot be cut into train.num_micro_batches = 7 equal parts; try `train.batch_size=63`",
        "eval.batch_size: expected a whole number, found true",
    }


def test_contradictions_of_several_sections_are_reported_together_with_an_unknown_key(write):
    head, *lines = mistakes_in(
        write("optim: {lr: -1, lrr: 3}\nmodel: {num_heads: 5}\nobjective: {window: [0.9, 0.1]}\n")
    )
    assert head.endswith("4 mistakes")
    assert [line.split()[0] for line in lines] == [
        "optim.lrr:",
        "model.width",
        "objective.window",
        "optim.lr",
    ]


def test_a_mistake_that_was_inherited_names_the_file_that_holds_it(write):
    write("model: {widht: 3}\n", "parent.yaml")
    (message,) = mistakes_in(write("base: parent.yaml\n", "child.yaml"))
    assert "model.widht: unknown key; did you mean model.width?" in message
    assert message.endswith("parent.yaml)")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optim: {lr: abc}", "optim.lr: expected a number, found 'abc'"),
        ("optim: {lr: .nan}", "optim.lr: expected a number, found nan"),
        ("optim: {lr: true}", "optim.lr: expected a number, found true"),
        ("optim: {lr:}", "optim.lr: expected a number, found nothing"),
        ("data: {source: no}", "data.source: expected text, found false; put it in quotes"),
        ("data: {validation: 3}", "data.validation: expected text, found 3; put it in quotes"),
        (
            "train: {loggers: wandb}",
            "train.loggers: expected a list, each one of tensorboard, wandb, found 'wandb'",
        ),
        (
            "train: {loggers: [wndb]}",
            "train.loggers: 'wndb' is not one of tensorboard, wandb; did you mean wandb?",
        ),
        ("num_steps: 3", "num_steps: unknown key; did you mean train.num_steps?"),
        ("model: {lr: 3}", "model.lr: unknown key; did you mean optim.lr?"),
        ("batch_size: 3", "batch_size: unknown key; did you mean train.batch_size or eval.batch_size?"),
        ("eval: {qqq: 3}", "eval.qqq: unknown key; eval has num_draws, final_num_draws, batch_size"),
        ("bas: char", "bas: unknown key; did you mean base?"),
        (
            "3: 4",
            f"3: unknown key; sections are {', '.join(SECTIONS)}",
        ),
        ("base: 3", "base: expected a preset's name or a path, found 3"),
        ("- 3", "expected sections of settings (data, model, train, ...), found [3]"),
        ("", "the file is empty"),
        ("a: [\n b", "line 2, column 3: "),
        ("optim:\n  lr: 1\n  lr: 2", "line 3, column 3: 'lr' is given twice, first in line 2"),
        ("x: !!python/name:os.system", "line 1, column 4: "),
        ("a: \x01", "not YAML: "),
    ],
)
def test_a_mistake_in_a_file_is_named(write, text: str, expected: str):
    assert expected in mistakes_in(write(text))[0]


def test_a_file_that_is_not_utf_8_says_where(tmp_path: Path):
    (tmp_path / "run.yaml").write_bytes(b"data: {source: caf\xe9}")
    assert "not UTF-8 text (byte 18)" in mistakes_in(str(tmp_path / "run.yaml"))[0]


def test_an_unknown_preset_is_answered_with_the_list_and_a_hint():
    first, second = mistakes_in("chr")
    assert first == "unknown preset 'chr'; did you mean char?"
    assert "demo" in second


@pytest.mark.parametrize(
    "content", [b"", b"Once upon a time.", b"text,label\na,b\n", b"caf\xe9", b'He said: "no: never".', b"[1, 2"]
)
@pytest.mark.parametrize("name", ["mine.txt", "mine", "notes/"])
def test_a_text_named_in_the_place_of_a_preset_is_told_where_it_goes(name: str, content: bytes, tmp_path: Path):
    path = tmp_path / name
    if name.endswith("/"):
        path.mkdir()
        path = path / "a.txt"
    path.write_bytes(content)
    (found,) = mistakes_in(f"{tmp_path}/{name}")
    assert found.endswith(
        f"a text to train on is named by `data.source='{tmp_path}/{name}'`, behind a preset such as demo"
    )


def test_a_missing_file_and_a_folder_that_is_no_run_are_told_apart(tmp_path: Path):
    assert "there is no file or run folder" in mistakes_in(str(tmp_path / "nothing.yaml"))[0]
    assert "holds no config.yaml" in mistakes_in(str(tmp_path))[0]


def test_numbers_may_be_written_as_a_person_writes_them(write):
    config = load_config(
        write("optim: {lr: 1e-3, grad_clip: 2}\ntrain: {num_steps: 1_000_000}\nmodel: {tied: false}\n")
    )
    assert (config.optim.lr, config.optim.grad_clip, config.train.num_steps) == (1e-3, 2.0, 1_000_000)
    assert isinstance(config.optim.grad_clip, float)


def test_a_section_whose_lines_are_commented_out_changes_nothing(write):
    assert load_config(write("base: char\noptim:\n  # lr: 3\n")) == load_config("char")


texts = st.text(st.characters(codec="utf-8"))


@settings(deadline=None, max_examples=50)  # a busy machine is no failure
@given(
    source=texts | st.sampled_from(["1e-3", "no", "~", "0x1", "1:30", "# x"]),
    validation=st.none() | texts,
    beta=st.tuples(st.floats(1e-300, 1e300), st.floats(1e-300, 1e300)),
    lr=st.floats(0, 1e300, exclude_min=True),
    loggers=st.sampled_from([(), ("wandb",), ("tensorboard", "wandb")]),
)
def test_a_saved_configuration_is_read_back_exactly(
    tmp_path_factory: pytest.TempPathFactory,
    source: str,
    validation: str | None,
    beta: tuple[float, float],
    lr: float,
    loggers: tuple[Literal["tensorboard", "wandb"], ...],
):
    config = RunConfig(
        data=DataConfig(source=source, validation=validation),
        objective=ObjectiveConfig(beta=beta),
        optim=OptimConfig(lr=lr),
        train=TrainConfig(loggers=loggers),
    )
    path = tmp_path_factory.getbasetemp() / "round_trip.yaml"
    save_config(config, path)
    assert load_config(str(path)) == config


def test_a_saved_configuration_lists_every_setting_in_the_order_of_the_schema(tmp_path: Path):
    save_config(RunConfig(), tmp_path / "config.yaml")
    lines = (tmp_path / "config.yaml").read_text(encoding="utf-8").splitlines()
    names = [line.strip().partition(":")[0] for line in lines[1:]]
    expected: list[str] = []
    for section in dataclasses.fields(RunConfig):
        expected += [
            section.name,
            *(field.name for field in dataclasses.fields(getattr(RunConfig(), section.name))),
        ]
    assert names == expected
    assert "  betas: [0.9, 0.98]" in lines


def test_a_flag_is_spelled_like_the_path_in_the_file():
    argv = "--optim.lr 1e-3 --train.num_steps=500 --model.tied false --objective.beta 2 4 --data.source 1984"
    config = with_flags([*argv.split(), "--train.loggers", "wandb", "--data.validation", "no"])
    assert (config.optim.lr, config.train.num_steps, config.model.tied) == (1e-3, 500, False)
    assert (config.objective.beta, config.train.loggers) == ((2.0, 4.0), ("wandb",))
    assert (config.data.source, config.data.validation) == ("1984", "no")


def test_of_two_equal_flags_neither_wins():
    argv = ["--train.seed", "1", "--data.validation", "a", "--train.seed", "2", "--data.validation", "None"]
    with pytest.raises(UserError) as error:
        with_flags(argv)
    assert str(error.value).splitlines() == [
        "--train.seed: given twice; leave one of them out",
        "--data.validation: given twice; leave one of them out",
    ]


def test_the_values_of_a_list_that_is_given_again_add_up():
    for argv in ("--train.loggers wandb tensorboard", "--train.loggers wandb --train.loggers=tensorboard"):
        assert with_flags(argv.split()).train.loggers == ("wandb", "tensorboard")


def test_no_flags_change_nothing():
    assert with_flags([]) == RunConfig()


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ("--optim.lrr 3", "--optim.lrr: unknown flag; did you mean --optim.lr?"),
        ("--train.num-steps 3", "--train.num-steps: unknown flag; did you mean --train.num_steps?"),
        ("--num_steps 3", "--num_steps: unknown flag; did you mean --train.num_steps?"),
        ("--lora_rank 3", "--lora_rank: unknown flag; did you mean --lora.rank?"),
        ("--optim_lr 3", "--optim_lr: unknown flag; did you mean --optim.lr?"),
        ("--model.no_tied", "--model.no_tied: unknown flag; did you mean --model.tied?"),
        ("--optm.lr 3", "--optm.lr: unknown flag; did you mean --optim.lr?"),
        ("--model.tied", "--model.tied: expected true or false after it"),
        ("--model.tied maybe", "--model.tied: expected true or false, found 'maybe'"),
        ("--optim.lr abc", "--optim.lr: expected a number, found 'abc'"),
        ("--model.num_layers 6.5", "--model.num_layers: expected a whole number, found 6.5"),
        ("--objective.beta 3", "--objective.beta: expected 2 numbers, found [3]"),
        ("--objective.schedule lineer", "Name; did you mean linear?"),
        ("--model.num_heads 5", "model.width = 384 cannot be split over model.num_heads = 5 heads"),
        ("stray", "stray: unknown flag"),
    ],
)
def test_a_wrong_flag_is_answered_with_one_clear_line(argv: str, expected: str):
    (message,) = mistakes_of_flags(*argv.split())
    assert expected in message


def test_every_mistake_in_the_flags_is_reported_at_once():
    found = mistakes_of_flags("--optim.lrr", "3", "--optim.lr", "-1", "--model.num_heads", "5", "--eval.num_draws")
    assert len(found) == 4


def test_flags_with_dots_are_told_from_the_command_s_own_arguments():
    flags = ["--optim.lr", "1e-3", "--objective.beta", "2", "3", "--train.loggers", "wandb", "--zz.y", "3"]
    argv = [
        *flags[:2],
        "char",
        *flags[2:5],
        "--out=runs/a.b",
        *flags[5:7],
        "--resume",
        "x",
        *flags[7:],
        "last",
    ]
    own, dotted = split_flags(argv)
    assert own == ["char", "--out=runs/a.b", "--resume", "x", "last"]
    assert dotted == flags
