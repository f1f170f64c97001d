"""One way for every command to read its words: argparse, whose complaints become one UserError with all of them."""

from __future__ import annotations

import argparse
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import MISSING, dataclass, fields
from difflib import get_close_matches
from typing import Any, NoReturn, get_args, get_type_hints

from mdlm_atat.checks import did_you_mean
from mdlm_atat.effect import When, without_effect
from mdlm_atat.errors import UserError

_FLAG = re.compile(r"(--?[A-Za-z][\w.-]*)(=.*)?", re.DOTALL)
_TEXT = "\0"  # before a word that is no flag whatever it begins with, and which no word of a shell contains
_REFUSED: Any = object()  # in place of a value that is among the mistakes


@dataclass(frozen=True)
class Number:
    """The type of an argument that is a finite number from `least` to `most`; see `whole` and `real`."""

    kind: type[int] | type[float]
    least: float
    most: float

    @property
    def metavar(self) -> str:
        return "N" if self.kind is int else "X"

    def __call__(self, word: str) -> int | float:
        try:
            value = self.kind(word)
        except ValueError:
            value = math.nan
        if value != value or math.inf in (value, -value):
            raise argparse.ArgumentTypeError("a whole number" if self.kind is int else "a number")
        if value < self.least:
            raise argparse.ArgumentTypeError(f"at least {self.least:,}")
        if value > self.most:
            raise argparse.ArgumentTypeError(f"at most {self.most:,}")
        return value


def whole(least: float = -math.inf, most: float = math.inf) -> Number:
    """A whole number, as `type` of an argument."""
    return Number(int, least, most)


def real(least: float = -math.inf, most: float = math.inf) -> Number:
    """A finite number, as `type` of an argument."""
    return Number(float, least, most)


class Parser(argparse.ArgumentParser):
    """An argparse parser whose mistakes are one UserError that lists them all.

    A flag may be written with - or _ between its words, is never abbreviated, and is given once unless it is a list.
    `takes_settings`: dotted flags (--optim.lr 1e-3) are settings of a run.
    """

    def __init__(self, prog: str, description: str, epilog: str = "", *, takes_settings: bool = False) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            formatter_class=_Help,
            allow_abbrev=False,
            exit_on_error=False,
        )
        self.register("action", None, _Store)
        self._takes_settings = takes_settings
        self._needs: dict[str, tuple[When, ...]] = {}
        self._mistakes: list[str] = []

    def add_fields(self, settings: type, *, leave_out: Collection[str] = (), with_defaults: bool = True) -> None:
        """A flag for each field of a dataclass, with the text below it as help. A field without a default is a flag
        that has to be given; ranges are checked by the class. `with_defaults` off: what is not given is None."""
        from mdlm_atat.config.options import field_docs

        hints, meanings = get_type_hints(settings), field_docs(settings)
        for field in fields(settings):
            if field.name in leave_out:
                continue
            flag, text = f"--{field.name}", meanings.get(field.name, "").replace("%", "%%")
            hint = next((part for part in get_args(hints[field.name]) if part in (int, float, str)), hints[field.name])
            if hint is bool:
                self.add_argument(flag, action="store_true", help=text)
                continue
            needed = field.default is MISSING
            self.add_argument(
                flag,
                type={int: whole(), float: real()}.get(hint, str),
                choices=get_args(hint) or None,
                required=needed,
                default=field.default if with_defaults and not needed else None,
                help=text,
            )

    def needs(self, flag: str, *alternatives: When) -> None:
        """Refuse a flag that changes nothing without others: one of the `alternatives`, by flags as they are written,
        has to be so (`effect.When`)."""
        self._needs[flag] = alternatives

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """The arguments by name; with `takes_settings`, `settings` has the dotted flags by path.

        Prints the help and raises SystemExit where it is asked for. Raises UserError with every mistake.
        """
        if {"-h", "--help"} & set(argv[: argv.index("--")] if "--" in argv else argv):
            self.print_help()
            raise SystemExit(0)
        self._mistakes = []
        words, unknown = self._known_words(argv)
        settings: dict[str, Any] = {}
        if self._takes_settings:
            words, settings = self._take_settings(words)
        needed = [action for action in self._actions if action.required]
        for action in needed:
            action.required = False  # so that they are missed together with whatever else is wrong
        arguments, extra = argparse.Namespace(), []
        try:
            arguments, extra = self.parse_known_intermixed_args(words)
        except argparse.ArgumentError as error:
            self._mistakes.append(f"{error.argument_name}: {_in_our_words(error.message)}")
        else:
            if not unknown:  # it may be the word that is missing, and what follows it the one too many
                self._mistakes += [_missing(each) for each in needed if getattr(arguments, each.dest) in (None, [])]
        finally:
            for action in needed:
                action.required = True
        if extra and not unknown:
            shown = " ".join(word.removeprefix(_TEXT) for word in extra)
            self._mistakes.append(f"{shown}: not expected here; a text of several words goes in quotes")
        if not self._mistakes:
            self._mistakes += self._without_effect(arguments)
        if self._mistakes:
            raise UserError(report(self.prog, self._mistakes))
        if self._takes_settings:
            arguments.settings = settings
        return arguments

    def _without_effect(self, arguments: argparse.Namespace) -> list[str]:
        """What is to be said of the flags that are given and change nothing."""

        def value_of(flag: str) -> Any:
            return getattr(arguments, self._option_string_actions[flag].dest)

        lines = [
            without_effect(flag, alternatives, value_of)
            for flag, alternatives in self._needs.items()
            if value_of(flag) != self._option_string_actions[flag].default
        ]
        return list(filter(None, lines))

    def _known_words(self, argv: Sequence[str]) -> tuple[list[str], bool]:
        """The words with every flag as it was declared, and whether any was unknown: that becomes a mistake and is left
        out with its values."""
        spelling = {_key(name): name for name in self._option_string_actions if name.startswith("--")}
        words: list[str] = []
        given = Counter[str]()
        any_unknown = skipping = False
        for position, word in enumerate(argv):
            if word == "--":
                return words + [_TEXT + text for text in argv[position + 1 :]], any_unknown
            found = _FLAG.fullmatch(word)
            if found is None:
                words += [] if skipping else [word]
                continue
            name, value = found[1], found[2] or ""
            skipping = False
            if self._takes_settings and name.startswith("--") and "." in name:
                words.append("--" + _key(name)[2:] + value)
            elif name.startswith("--") and _key(name) in spelling:
                action = self._option_string_actions[spelling[_key(name)]]
                is_list = isinstance(action, argparse._AppendAction) or action.nargs in ("+", "*")
                given[_key(name)] += 1
                if given[_key(name)] == 2 and not is_list:
                    self._mistakes.append(f"{spelling[_key(name)]}: given twice; leave one of them out")
                words.append(spelling[_key(name)] + value)
            else:
                any_unknown = skipping = True
                self._mistakes.append(f"{name}: unknown flag{self._hint(name, spelling.values())}")
        return words, any_unknown

    def _hint(self, name: str, flags: Iterable[str]) -> str:
        flags = [flag for flag in flags if flag != "--help"]
        long, cutoff = f"--{name.lstrip('-')}", 0.75 if self._takes_settings else 0.6
        close = [flag for flag in flags if _key(flag).startswith(_key(long))]
        close = close or get_close_matches(long, flags, n=1, cutoff=cutoff)
        if close:
            return f"; did you mean {' or '.join(close)}?"
        if self._takes_settings:
            from mdlm_atat.config.files import read_flags

            ((_, message),) = read_flags([long])[1]
            return message.partition("unknown flag")[2]
        return f"; see {self.prog} --help" if name.startswith("--") else "; a text that begins with - goes after --"

    def _take_settings(self, words: list[str]) -> tuple[list[str], dict[str, Any]]:
        """Separate the words from the settings that dotted flags among them say."""
        if not any("." in word for word in words if word.startswith("--")):
            return words, {}
        from mdlm_atat.config.files import read_flags, split_flags

        own, dotted = split_flags(words)
        settings, mistakes = read_flags(dotted)
        self._mistakes += [f"--{path}: {message}" if path else message for path, message in mistakes]
        return own, settings

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        try:
            return super()._get_value(action, arg_string.removeprefix(_TEXT))
        except argparse.ArgumentError as error:
            self._refuse(action, arg_string, error.message)
            return _REFUSED

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if value is not _REFUSED and action.choices is not None and value not in action.choices:
            choices = list(map(str, action.choices))
            hint = did_you_mean(str(value), choices)
            self._refuse(action, repr(value), f"one of {', '.join(choices)}{hint}")

    def _refuse(self, action: argparse.Action, shown: str, expected: str) -> None:
        name = action.option_strings[-1] if action.option_strings else action.dest.upper()
        verb = "is" if action.nargs in (None, "?") else "has"
        self._mistakes.append(f"{name} {verb} {shown}, expected {expected}")

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


class _Store(argparse._StoreAction):
    """What argparse does with a value; but the values of a flag that takes several, and is given again, add up."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        before = getattr(namespace, self.dest, self.default)
        if self.option_strings and self.nargs in ("+", "*") and before is not self.default:
            values = [*before, *values]
        super().__call__(parser, namespace, values, option_string)


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help in which a number is N, a positional argument is in capitals, and every default is said."""

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return getattr(action.type, "metavar", None) or action.dest.upper()

    def _get_default_metavar_for_positional(self, action: argparse.Action) -> str:
        return action.dest.upper()

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        if "default:" in text or default is False or default in (None, "", [], argparse.SUPPRESS):
            return text
        shown = " ".join(map(str, default)) if isinstance(default, (list, tuple)) else f"{default}"
        return f"{text} (default: {shown.replace('%', '%%')})"


def choose(prog: str, argv: Sequence[str], commands: Iterable[str], page: str) -> tuple[str, list[str]] | None:
    """The first word as one of the commands, and the words that follow it; None where `page`, the help, was printed.

    Raises UserError for another word.
    """
    commands = list(commands)
    match argv:
        case [] | ["-h" | "--help" | "help", *_]:
            print(page, end="")
            return None
        case [word, *rest]:
            name = word.replace("_", "-")
            if name in commands:
                return name, rest
            close = get_close_matches(name, commands, n=1)
            hint = f"did you mean {prog} {close[0]}?" if close else f"see {prog} --help"
            raise UserError(f"unknown command {word!r}; commands: {', '.join(commands)}; {hint}")
    raise AssertionError(argv)


def report(prog: str, mistakes: Sequence[str]) -> str:
    """One mistake as it is; several below each other."""
    if len(mistakes) == 1:
        return mistakes[0]
    return "\n  ".join([f"{prog}: {len(mistakes)} mistakes", *mistakes])


def _key(name: str) -> str:
    return "--" + name.removeprefix("--").replace("-", "_")


def _missing(action: argparse.Action) -> str:
    name = action.option_strings[-1] if action.option_strings else action.dest.upper()
    return f"missing {name}: {(action.help or '').replace('%%', '%')}"


def _in_our_words(message: str) -> str:
    """What argparse says of a flag that has too few values, or one too many."""
    if found := re.fullmatch(r"ignored explicit argument (.*)", message):
        return f"takes no value, found {found[1]}"
    return {
        "expected one argument": "expected a value after it",
        "expected at least one argument": "expected one or more values after it",
    }.get(message, message)
