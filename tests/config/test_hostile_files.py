"""YAML that somebody else wrote: no hang, no memory, no traceback, and nothing read that was not asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdlm_atat.config.files import load_config
from mdlm_atat.config.yaml_text import yaml_value
from mdlm_atat.errors import UserError

LAUGHS = "a0: &a0 [1, 1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))
MERGES = "a0: &a0 {k: 1}\n" + "".join(f"a{i}: &a{i}\n  <<: [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "more than 20,000 values"),
        (MERGES, "more than 20,000 values"),
        ("a: &a [*a]", r"\*a stands in what it stands for"),
        ("a: " + "[" * 100_000, "more than 32 levels"),
        ("a: " + "{b: " * 40, "more than 32 levels"),
        ("- " * 3000 + "1", "more than 32 levels"),
        ("a: [" + "1," * 30_000 + "]", "more than 20,000 values"),
        ("#" * 300_000, r"has 293 KiB, and no such file has more than 256 KiB"),
        ("train: {seed: " + "9" * 5000 + "}", "a number of more than 100 characters"),
        ("train: {seed: 0x" + "f" * 5000 + "}", "a number of more than 100 characters"),
        ("train: {seed: " + "1:" * 2000 + "1}", "a number of more than 100 characters"),
        ("train: {seed: 2001-99-99}", "this is no timestamp"),
        ("train: {seed: !!int x}", "this is no int"),
        ("train: {compile: !!bool x}", "this is no bool"),
        ("train: {seed: !!timestamp x}", "this is no timestamp"),
        ("train: {seed: !!float x}", "this is no float"),
        ("train: !!python/object/apply:os.system ['echo']", "could not determine a constructor"),
        ("? [train]\n: 1", "this is no|unhashable"),
        ("? {a: 1}\n: 1", "this is no|unhashable"),
        ("optim: {lr: 1e999}", "optim.lr: expected a number, found inf"),
        ("optim: {lr: .nan}", "optim.lr: expected a number, found nan"),
        ("data: {source: !!binary aGk=}", "data.source: expected text, found b'hi'"),
        ("train: !!set {a, b}", "train: expected a section of settings, found"),
        ("model: " + "x" * 5000, "model: expected a section of settings, found 'x{159}\\.\\.\\.$"),
        ("base: /etc/passwd", "base: expected a preset's name, a YAML file or a folder, found '/etc/passwd'"),
        (f"base: {'../' * 20}etc/passwd", "base: expected a preset's name"),
        ("base: /dev/zero", "base: expected a preset's name"),
        ("base: [char]", "base: expected a preset's name or a path"),
        ("\x00", "special characters are not allowed"),
    ],
)
def test_a_bomb_in_yaml_is_one_message(tmp_path: Path, text: str, message: str):
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=message) as raised:
        load_config(str(file))
    assert len(str(raised.value)) < 1000
    assert "root:" not in str(raised.value)


def test_an_alias_that_stands_for_little_is_read(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("model: &m {width: 64, num_heads: 2}\nimportance: {<<: *m, width: 32}\n")
    assert load_config(str(tmp_path / "a.yaml")).importance.width == 32


@pytest.mark.parametrize("base", ["/etc/passwd", "../secret.yaml", "..", "other.yaml", "/dev/zero"])
def test_the_configuration_of_a_folder_builds_on_no_other_file(tmp_path: Path, base: str):
    folder = tmp_path / "run"
    folder.mkdir()
    for file in (tmp_path / "secret.yaml", tmp_path / "config.yaml", folder / "other.yaml"):
        file.write_text("password: unspoken\n")
    (folder / "config.yaml").write_text(f"base: {base}\n")
    with pytest.raises(UserError, match="base: expected a preset's name, found") as raised:
        load_config(str(folder))
    assert "unspoken" not in str(raised.value)
    assert "password" not in str(raised.value)


def test_the_configuration_of_a_folder_is_no_link_out_of_it(tmp_path: Path):
    (tmp_path / "secret.yaml").write_text("password: unspoken\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").symlink_to("../secret.yaml")
    with pytest.raises(UserError, match="is a link to") as raised:
        load_config(str(tmp_path / "run"))
    assert "password" not in str(raised.value)


def test_what_is_done_to_a_text_s_values_is_not_there_when_it_is_read_again():
    text = "model: {widths: [1, 2]}"
    yaml_value(text)["model"]["widths"].append(3)
    assert yaml_value(text) == {"model": {"widths": [1, 2]}}
