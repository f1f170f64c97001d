"""`atat train --settings`: every setting of a run with its type, its value and its meaning, read from the schema."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import Field, dataclass, fields, is_dataclass
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from mdlm_atat import plugins
from mdlm_atat.config.options import REQUIRED, field_docs, options_of
from mdlm_atat.config.section import is_choice

if TYPE_CHECKING:
    from rich.console import Console

MAX_WIDTH = 100  # characters: longer lines are read badly
INDENT = " " * 6


@dataclass(frozen=True)
class Setting:
    path: str
    """Dotted: optim.lr."""
    values: str
    """What it may be: N, X, TEXT, or the choices."""
    value: str
    """What it is, as it is typed after its flag, or that it has to be given."""
    meaning: str


def print_settings(config: Any, title: str, console: Console | None = None) -> None:
    """Print every setting of a configuration, section by section, its flag ready to be copied."""
    from rich.console import Console
    from rich.text import Text

    console = console or Console(highlight=False, emoji=False)
    width = min(console.width, MAX_WIDTH)
    lines = [*wrapped(title, width, ""), *wrapped("N: a whole number. X: a number.", width, "")]
    console.print("\n".join(lines), markup=False, soft_wrap=True)
    section = ""
    for setting in settings_of(config):
        if setting.path.rpartition(".")[0] != section:
            section = setting.path.rpartition(".")[0]
            console.print(Text(f"\n{section}", style="bold"), soft_wrap=True)
        head = f"--{setting.path} {setting.values} ({setting.value})"
        text = Text("\n".join(wrapped(head, width, "  ", INDENT)))
        text.highlight_regex(r"^  --\S+", "cyan")
        text.highlight_regex(r"\((default|required)(.|\n)*\)$", "green")
        console.print(text, soft_wrap=True)
        console.print("\n".join(wrapped(setting.meaning, width, INDENT)), markup=False, soft_wrap=True)


def wrapped(text: str, width: int, indent: str, then: str | None = None) -> list[str]:
    """Lines of at most `width` characters; those after the first begin with `then`."""
    then = indent if then is None else then
    return textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=then, break_on_hyphens=False)


def settings_of(section: Any, prefix: str = "") -> Iterator[Setting]:
    """Every setting of a section and of those in it, in their order; of a plugin that it names the own ones too."""
    hints, meanings = get_type_hints(type(section)), field_docs(type(section))
    for field in fields(section):
        value, path = getattr(section, field.name), prefix + field.name
        if is_dataclass(value):
            yield from settings_of(value, f"{path}.")
        elif "options_of" in field.metadata:
            yield from plugin_settings(section, field, f"{path}.")
        else:
            values = kind(hints[field.name])
            if plugin := field.metadata.get("plugin"):
                values = f"{{{', '.join(plugins.names(plugin))}}} or package.module:Name"
            yield Setting(path, values, f"default: {typed(value)}", meanings.get(field.name, ""))


def plugin_settings(section: Any, field: Field[Any], prefix: str) -> Iterator[Setting]:
    """The settings of the plugin that a section names, which it holds by name; none where it names no plugin."""
    names = {part.name: part for part in fields(section)}
    chosen, name = names[field.metadata["options_of"]], getattr(section, field.metadata["options_of"])
    if not plugins.is_plugin(chosen.metadata["plugin"], name):
        return
    given = getattr(section, field.name)
    thing = plugins.resolve(chosen.metadata["plugin"], name)
    for option in options_of(thing, field.metadata.get("num_given", 0), field.metadata.get("offered", ())):
        value = given.get(option.name, option.default)
        shown = "required" if value is REQUIRED else f"default: {typed(value)}"
        yield Setting(prefix + option.name, kind(option.hint), shown, option.meaning)


def kind(hint: Any) -> str:
    """What a setting may be, as the pages of help write it."""
    options = get_args(hint)
    if get_origin(hint) is Literal:
        return f"{{{', '.join(map(str, options))}}}"
    if get_origin(hint) is tuple:
        parts = [kind(part) for part in options if part is not ...]
        if ... in options:
            return f"[{parts[0]} ...]"
        return f"{len(parts)} of {parts[0]}" if parts[0].startswith("{") else " ".join(parts)
    if NoneType in options or is_choice(hint):
        return " or ".join(kind(part) for part in options if part is not NoneType)
    return {bool: "{true, false}", int: "N", float: "X"}.get(hint, "TEXT")


def typed(value: Any) -> str:
    """A value as it is typed after its flag."""
    match value:
        case bool():
            return str(value).lower()
        case tuple() | list():
            return " ".join(map(typed, value)) or "none"
        case _:
            return str(value)
