"""YAML as this package reads and writes it: 1e-3 is a number, no key is given twice, a stranger's text has limits."""

from __future__ import annotations

import re
from copy import deepcopy
from functools import lru_cache
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError

from mdlm_atat.errors import UserError
from mdlm_atat.formats import as_setting
from mdlm_atat.small_files import read_small

Tree = dict[Any, Any]  # a file's keys are whatever a person wrote
MOST_BYTES = 1 << 18
MOST_NODES = 20_000
MOST_LEVELS = 32
_ALIAS = yaml.AliasEvent
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp")


def read_yaml(
    label: str, source: Traversable, *, holds: str = "sections of settings (data, model, train, ...)"
) -> Tree:
    """A file's mapping. Raises UserError for anything else; `label` names the file in messages."""
    try:
        content = read_small(source, most_bytes=MOST_BYTES) if isinstance(source, Path) else source.read_bytes()
        tree = yaml_value(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{label}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise UserError(f"{label}: {where}{error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{label}: not YAML: {error}") from None
    if tree is None:
        raise UserError(f"{label}: the file is empty; it should hold {holds}")
    if not isinstance(tree, dict):
        raise UserError(f"{label}: expected {holds}, found {as_setting(tree)}")
    return tree


def yaml_value(text: str) -> Any:
    """What a text stands for. Raises yaml.YAMLError for one that is no YAML, or is beyond the limits."""
    return deepcopy(_value_of(text))


@lru_cache(maxsize=64)  # presets, methods and flags are read several times by one command, for milliseconds each
def _value_of(text: str) -> Any:
    return yaml.load(text, _Loader)


def yaml_text(tree: Tree) -> str:
    """A mapping as `read_yaml` reads it back, in its own order."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader; 1e-3 is a number, and a key given twice is a mistake.

    A text may be a stranger's: it has at most MOST_NODES values, where what an alias stands for counts each time, and
    they lie at most MOST_LEVELS deep.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._num_nodes = self._level = 0
        self._sizes: dict[int, int] = {}
        """Nodes in each node that has an anchor, by its id."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        mark, anchor = self.peek_event().start_mark, self.peek_event().anchor if self.check_event(_ALIAS) else None
        before, self._level = self._num_nodes, self._level + 1
        if self._level > MOST_LEVELS:
            raise ComposerError(None, None, f"more than {MOST_LEVELS} levels, one in another", mark)
        node = super().compose_node(parent, index)
        self._level -= 1
        if anchor is None:
            self._num_nodes += 1
            self._sizes[id(node)] = self._num_nodes - before
        elif id(node) in self._sizes:
            self._num_nodes += self._sizes[id(node)]
        else:
            raise ComposerError(None, None, f"*{anchor} stands in what it stands for", mark)
        if self._num_nodes > MOST_NODES:
            raise ComposerError(None, None, f"more than {MOST_NODES:,} values", mark)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # which the loader refuses where it is no key
            if key.value in lines:
                problem = f"{key.value!r} is given twice, first in line {lines[key.value]}"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            lines[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if isinstance(node, yaml.ScalarNode) and len(node.value) > 100 and node.tag in _NUMBERS:
            raise yaml.constructor.ConstructorError(None, None, "a number of more than 100 characters", node.start_mark)
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError):  # a tag, or a date that there is not
            problem = f"this is no {node.tag.rpartition(':')[2]}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper; pairs take one line, texts that `_Loader` would take for numbers get quotes."""


_EXPONENT = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$")
for _side in (_Loader, _Dumper):
    # YAML 1.1, which PyYAML speaks, has no number without a point: 1e-3 would be a text
    _side.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))
_Dumper.add_representer(
    str,  # Unicode's own line ends are escaped in double quotes only
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style='"' if set(text) & set("\x85\u2028\u2029") else None
    ),
)
_Dumper.add_representer(
    tuple, lambda dumper, pair: dumper.represent_sequence("tag:yaml.org,2002:seq", pair, flow_style=True)
)
