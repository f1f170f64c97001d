"""What a person writes about a run (a preset's name, a YAML file, dotted flags) read as a `RunConfig`.

Files and flags take one road: a tree of plain values, then every mistake in it at once, then the dataclasses.
A flag is spelled like the path in the file, and takes the value that the file would hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from cattrs import BaseValidationError, Converter

from mdlm_atat import plugins
from mdlm_atat.atomic import write_text
from mdlm_atat.checks import did_you_mean
from mdlm_atat.config.converter import name_of_field, strict_converter
from mdlm_atat.config.schema import SECTIONS, RunConfig
from mdlm_atat.config.section import expect, hints_of, is_choice, is_list, kind_of
from mdlm_atat.config.yaml_text import MOST_BYTES, Tree, read_yaml, yaml_text, yaml_value
from mdlm_atat.errors import UserError
from mdlm_atat.formats import as_setting
from mdlm_atat.small_files import check_file

PRESETS, METHODS = "presets", "methods"  # folders of this package
Mistake = tuple[str, str]  # (dotted path, what is wrong); no path where the message names its fields itself


def load_config(name_or_path: str, method: str | None = None) -> RunConfig:
    """Read a preset, a YAML file or the configuration of a run folder, with the files that it builds on.

    `method`: a training method's name, or a YAML file that begins with `base: METHOD`; what it says goes over the
    preset. Raises UserError with every mistake at once, a line each with its dotted path.
    """
    layers = _read_layers(name_or_path, PRESETS)
    if method is not None:
        layers = _read_layers(method, METHODS) + layers
    tree = _merged(layers)
    if method is not None and _holds(tree, "model.kind") and tree["model"]["kind"] == "causal":
        raise UserError(f"{layers[0][0]}: model.kind = causal masks nothing, so no method applies; leave out `method=`")
    config, mistakes = _build(tree)
    if config is None:
        top = layers[0][0]
        lines = []
        for path, message in mistakes:
            # a mistake that was inherited is mended in another file than the one asked for
            owner = next((label for label, layer in layers if _holds(layer, path)), top)
            lines.append(_line(path, message) + ("" if owner == top else f" (in {owner})"))
        raise UserError(_report(top, lines))
    return config


def named_settings(name_or_path: str, kind: str = PRESETS) -> set[str]:
    """Paths of the settings in a YAML file that a person names as a preset or a method (`kind`): none for those of
    ours and for folders, which are somebody's recipe, and not for the files that a file builds on."""
    if name_or_path in _names(kind) or not Path(name_or_path).is_file():
        return set()
    tree = _read_layers(name_or_path, kind)[0][1]
    return {f"{top}.{key}" for top, inner in tree.items() if isinstance(inner, dict) for key in inner}


def names_settings(path: str) -> bool:
    """Whether what lies at a path may be asked for settings: a YAML file or a folder; so may what is not there. The
    text of any other file is not to appear in a message because a file of settings names it."""
    return path.endswith((".yaml", ".yml")) or Path(path).is_dir() or not Path(path).exists()


def folder_config(home: Path, method: str | None = None) -> RunConfig:
    """Read the configuration of a run, a saved model or a classifier, as `load_config` does: whatever it is called, it
    is no preset, and its config.yaml builds on nothing outside of it."""
    return load_config(str(home) if home.is_absolute() else f"./{home}", method)


def method_settings(method: str, section: str) -> dict[str, Any]:
    """What a method says in a section, with the files that it builds on: settings by dotted path."""
    found = _merged(_read_layers(method, METHODS)).get(section)
    return {f"{section}.{name}": value for name, value in found.items()} if isinstance(found, dict) else {}


def save_config(config: RunConfig, path: str | Path) -> None:
    """Write every setting, in the order of the schema; `load_config(path)` gives the same configuration."""
    write_text(
        Path(path),
        "# Every setting of a run, resolved. `atat train FILE` starts the same run again.\n"
        + yaml_text(as_tree(config)),
    )


def as_tree(config: RunConfig) -> Tree:
    """Every setting as plain values, as YAML and JSON hold them; `from_tree` reads it back."""
    return _converter().unstructure(config)


def from_tree(tree: Tree, label: str) -> RunConfig:
    """What `as_tree` gave, also in another version: a setting that is not there any more is passed over, one that has
    come since has its default. Raises UserError, which begins with `label`, for values that are none."""
    known, _ = _without_unknown_keys(tree, RunConfig)
    config, mistakes = _build(known)
    if config is None:
        raise UserError(_report(label, [_line(path, message) for path, message in mistakes]))
    return config


def describe_presets() -> dict[str, str]:
    """What each preset is for: the first line of its file's comment."""
    return _first_lines(PRESETS)


def describe_methods() -> dict[str, str]:
    """What each training method is: the first line of its file's comment."""
    return _first_lines(METHODS)


def split_flags(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a command line into the command's own arguments and the dotted flags with their values.

    `--optim.lr 1e-3 char --out runs/a` -> `["char", "--out", "runs/a"]`, `["--optim.lr", "1e-3"]`.
    """
    own: list[str] = []
    dotted: list[str] = []
    rest = list(argv)
    while rest:
        name = rest[0].partition("=")[0]
        if name.startswith("--") and "." in name:
            words = len(rest)
            _take_flag(rest)
            dotted += argv[len(argv) - words : len(argv) - len(rest)]
        else:
            own.append(rest.pop(0))
    return own, dotted


def read_flags(argv: Sequence[str]) -> tuple[dict[str, Any], list[Mistake]]:
    """Dotted flags as settings by path, with the values that a file would hold, and what is wrong with the others;
    whether the values fit is not looked at yet."""
    settings: dict[str, Any] = {}
    mistakes: list[Mistake] = []
    rest = list(argv)
    while rest:
        name, words = _take_flag(rest)
        path = name.removeprefix("--")
        hint = _hint(path)
        if path == name or hint is None:
            mistakes.append(("", f"{name}: unknown flag{_did_you_mean(path, dashes='--')}"))
        elif not words and not is_list(hint):
            mistakes.append(("", f"{name}: expected {kind_of(hint)} after it"))
        elif is_list(hint):
            settings[path] = [*settings.get(path, ()), *_value_of_words(hint, words)]
        elif path in settings:
            mistakes.append(("", f"{name}: given twice; leave one of them out"))
        else:
            settings[path] = _value_of_words(hint, words)
    return settings, mistakes


def flags_of(settings: Mapping[str, Any]) -> list[str]:
    """Settings as words of a command line, which `read_flags` reads as the same settings."""
    words: list[str] = []
    for path, value in settings.items():
        texts = [_word(item) for item in (value if isinstance(value, (list, tuple)) else [value])]
        one_word = len(texts) == 1 and texts[0].startswith("--")
        words += [f"--{path}={texts[0]}"] if one_word else [f"--{path}", *texts]
    return words


def apply_settings(config: RunConfig, settings: Mapping[str, Any]) -> tuple[RunConfig | None, list[Mistake]]:
    """The configuration with some settings changed, by dotted path and the value that a file would hold, or all that
    is wrong with them."""
    tree: Tree = {}
    for path, value in settings.items():
        for key in reversed(str(path).split(".")):
            value = {key: value}
        tree = _merge(tree, value)
    before = _converter().unstructure(config)
    return _build(_merge(_without_options_of_others(before, tree), tree))


def _take_flag(rest: list[str]) -> tuple[str, list[str]]:
    """Take a flag and the values that belong to it from the front of a command line."""
    name, equals, value = rest.pop(0).partition("=")
    if equals:
        return name, [value]
    hint = _hint(name.removeprefix("--"))
    most = len(rest) if is_list(hint) else len(get_args(hint)) if get_origin(hint) is tuple else 1
    words: list[str] = []
    while len(words) < most and rest and not rest[0].startswith("--"):
        words.append(rest.pop(0))
    return name, words


def _hint(path: str) -> Any:
    """Type of the setting at a dotted path: its own, or Any for what a plugin's `options` hold; None: there is none."""
    if get_origin(_settings().get(path.rpartition(".")[0])) is dict:
        return Any
    return _settings().get(path)


def _value_of_words(hint: Any, words: list[str]) -> Any:
    """Read a flag's words as the value that a file would hold."""
    if get_origin(hint) is tuple:
        return [_value_of_words(get_args(hint)[0], [word]) for word in words]
    is_text = hint not in (bool, int, float, Any) and not is_choice(hint)
    if is_text:  # it stays as it is typed: no quotes around 1984 or no
        return None if words[0] in ("None", "null") and type(None) in get_args(hint) else words[0]
    try:
        return yaml_value(words[0])
    except yaml.YAMLError:
        return words[0]


def _word(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


# --- files


def _shipped(kind: str) -> Traversable:
    return files("mdlm_atat.config") / kind


def _names(kind: str) -> list[str]:
    names = [file.name for file in _shipped(kind).iterdir()]
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def _first_lines(kind: str) -> dict[str, str]:
    return {
        name: (_shipped(kind) / f"{name}.yaml").read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        for name in _names(kind)
    }


def _locate(name: str, folder: Path, kind: str) -> tuple[str, Traversable]:
    """Find the file behind a name, and what to call it in a message; paths are relative to `folder`."""
    known, word = _names(kind), kind.removesuffix("s")
    if name in known:
        return f"{word} {name}", _shipped(kind) / f"{name}.yaml"
    path = folder / name
    if path.is_dir() and kind == METHODS:
        raise UserError(f"{path} is a folder; a method is one of {', '.join(known)}, or a YAML file with `base: atat`")
    if path.is_dir():
        path = path / "config.yaml"
        if not path.exists():
            raise UserError(f"{path.parent} is no run folder: it holds no config.yaml{_if_text(name, kind)}")
        check_file(path, most_bytes=MOST_BYTES)
    if path.is_file():
        return str(path), path
    if "/" in name or name.endswith((".yaml", ".yml")):
        raise UserError(f"there is no file or run folder {path}")
    raise UserError(
        f"unknown {word} {name!r}{did_you_mean(name, known)}\n"
        f"{kind}: {', '.join(known)}; a YAML file{' or a run folder' if kind == PRESETS else ''} will do as well"
    )


def _if_text(name: str, kind: str) -> str:
    """What is said besides where a preset is expected and a file or folder of something else is named."""
    return f"; a text to train on is named by `data.source={name!r}`, behind a preset such as demo" * (kind == PRESETS)


def _read_layers(name: str, kind: str) -> list[tuple[str, Tree]]:
    """Read a file and all that it builds on through `base:`, nearest first.

    A file that a person names may build on presets, other YAML files and folders; the config.yaml of a folder, which
    may be a stranger's, on presets alone.
    """
    layers: list[tuple[str, Tree]] = []
    seen: list[Traversable] = []
    folder = Path()
    while True:
        label, source = _locate(name, folder, kind)
        is_of_folder = (folder / name).is_dir()
        if isinstance(source, Path):
            folder = source.parent
            for needed in plugins.needed_by(folder):  # first: the name of one that is not installed is an unknown name
                plugins.check_requirement(needed)
            source = source.resolve()
        if source in seen:
            names = " -> ".join([*(label for label, _ in layers), label])
            raise UserError(f"base goes round in a circle: {names}")
        seen.append(source)
        try:
            tree = read_yaml(label, source)
        except UserError as error:
            if layers or not isinstance(source, Path) or source.suffix in (".yaml", ".yml"):
                raise
            raise UserError(f"{error}{_if_text(name, kind)}") from error
        name = tree.pop("base", None)
        layers.append((label, tree))
        if name is None:
            return layers
        if not isinstance(name, str):
            raise UserError(f"{label}: base: expected a preset's name or a path, found {as_setting(name)}")
        if name not in _names(kind) and (is_of_folder or not names_settings(str(folder / name))):
            which = "a preset's name" if is_of_folder else "a preset's name, a YAML file or a folder"
            raise UserError(f"{label}: base: expected {which}, found {as_setting(name)}")


def _merged(layers: list[tuple[str, Tree]]) -> Tree:
    """One tree of them, where the nearest wins."""
    tree: Tree = {}
    for _, layer in reversed(layers):
        tree = _merge(_without_options_of_others(tree, layer), layer)
    return tree


def _without_options_of_others(tree: Tree, over: Tree) -> Tree:
    """The tree without the options of plugins in whose place `over` names another."""
    kept = dict(tree)
    for name, section in SECTIONS.items():
        below, above = tree.get(name), over.get(name)
        if not isinstance(below, dict) or not isinstance(above, dict):
            continue
        for part in fields(section):  # type: ignore[arg-type]  # sections are dataclasses
            chosen = part.metadata.get("options_of")
            if chosen in above and above[chosen] != below.get(chosen):
                kept[name] = {key: value for key, value in kept[name].items() if key != part.name}
    return kept


# --- from plain values to dataclasses


@cache
def _settings(section: type = RunConfig, prefix: str = "") -> dict[str, Any]:
    """Type of every setting by its dotted path, in the order of the schema."""
    settings: dict[str, Any] = {}
    for name, hint in hints_of(section).items():
        settings |= _settings(hint, f"{prefix}{name}.") if is_dataclass(hint) else {prefix + name: hint}
    return settings


def _build(tree: Tree) -> tuple[RunConfig | None, list[Mistake]]:
    """Build the configuration, or say all that is wrong with it."""
    known, mistakes = _without_unknown_keys(tree, RunConfig)
    try:
        config = _converter().structure(known, RunConfig)
    except BaseValidationError as group:
        return None, mistakes + _flatten(group)
    return (None if mistakes else config), mistakes


def _without_unknown_keys(tree: Tree, section: Any, prefix: str = "") -> tuple[Tree, list[Mistake]]:
    """Part of the tree that the schema has a place for, so that the rest of a section is checked too."""
    known: Tree = {}
    mistakes: list[Mistake] = []
    hints = hints_of(section)
    for key, value in tree.items():
        path = f"{prefix}{key}"
        hint = hints.get(key)
        if hint is None:
            mistakes.append((path, "unknown key" + _did_you_mean(path)))
        elif not is_dataclass(hint):
            known[key] = value
        elif isinstance(value, dict):
            known[key], below = _without_unknown_keys(value, hint, f"{path}.")
            mistakes += below
        elif value is not None:  # a section whose every line is commented out changes nothing
            mistakes.append((path, f"expected a section of settings, found {as_setting(value)}"))
    return known, mistakes


def _flatten(error: BaseException, path: str = "") -> list[Mistake]:
    if isinstance(error, BaseValidationError):
        mistakes: list[Mistake] = []
        for inner in error.exceptions:
            name = name_of_field(inner)
            if name is None:
                mistakes += _flatten(inner)
            else:
                mistakes += _flatten(inner, f"{path}.{name}" if path else name)
        return mistakes
    if isinstance(error, UserError):
        return [(path, str(error))]
    raise error


@cache
def _converter() -> Converter:
    converter = strict_converter()
    converter.register_structure_hook_func(
        lambda hint: get_origin(hint) in (Literal, tuple, dict) or is_choice(hint), expect
    )
    converter.register_unstructure_hook_func(lambda hint: get_origin(hint) is tuple, tuple)
    return converter


def _merge(tree: Tree, over: Tree) -> Tree:
    """Tree with the values of `over` in place of its own, section by section."""
    merged = dict(tree)
    for key, value in over.items():
        if isinstance(tree.get(key), dict) and isinstance(value, dict):
            merged[key] = _merge(tree[key], value)
        elif not (isinstance(tree.get(key), dict) and value is None):  # a section with no line changes nothing
            merged[key] = value
    return merged


def _holds(tree: Any, path: str) -> bool:
    for key in path.split(".") if path else ():
        if not isinstance(tree, dict) or key not in tree:
            return False
        tree = tree[key]
    return True


# --- words for a person


def _did_you_mean(path: str, dashes: str = "") -> str:
    """Spelling hint for an unknown setting, or else what there is in its place."""
    section, _, key = path.rpartition(".")
    siblings = {name.rpartition(".")[2]: name for name in _settings() if name.rpartition(".")[0] == section}
    by_key: dict[str, list[str]] = {}
    for name in _settings():
        by_key.setdefault(name.rpartition(".")[2], []).append(name)
    tops = list(dict.fromkeys(name.partition(".")[0] for name in _settings()))
    in_python = {name.replace(".", "_"): name for name in _settings()}  # `lora_rank=8` is a keyword there
    if path in in_python:
        return f"; did you mean {dashes}{in_python[path]}?"
    if close := get_close_matches(key, siblings, n=1):
        return f"; did you mean {dashes}{siblings[close[0]]}?"
    if key in by_key:
        return f"; did you mean {' or '.join(dashes + name for name in by_key[key])}?"
    if not section and not dashes and (close := get_close_matches(key, [*tops, "base"], n=1)):
        return f"; did you mean {close[0]}?"
    if close := get_close_matches(key, by_key, n=1, cutoff=0.7):
        return f"; did you mean {' or '.join(dashes + name for name in by_key[close[0]])}?"
    if siblings:
        return f"; {section} has {', '.join(siblings)}"
    return f"; sections are {', '.join(tops)}"


def _line(path: str, message: str) -> str:
    return f"{path}: {message}" if path else message


def _report(label: str, lines: list[str]) -> str:
    if len(lines) == 1:
        return f"{label}: {lines[0]}"
    return "\n  ".join([f"{label}: {len(lines)} mistakes", *lines])
