"""Things by name: a built-in one, one that an installed package offers (an entry point), or `package.module:Name`.

Nothing is imported before it is asked for. Names that a person gives (in Python, on the command line, in a YAML file)
are imported. Names that come with a folder (a run, a saved model, a tokenizer) are imported only where the caller
trusts the folder, since importing a module runs its code: see `trusted`.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, packages_distributions, version
from pathlib import Path
from typing import Any, Literal, get_args

from mdlm_atat.checks import did_you_mean
from mdlm_atat.errors import UserError
from mdlm_atat.small_files import RESTORE, read_json

Kind = Literal["masking", "schedule", "times", "sampler", "source", "tokenizer", "backbone", "optimizer", "metric"]
KINDS: tuple[Kind, ...] = get_args(Kind)
WORDS: dict[Kind, str] = {
    "masking": "masking strategy",
    "schedule": "noise schedule",
    "times": "density of training times",
    "sampler": "sampler",
    "source": "data source",
    "tokenizer": "tokenizer",
    "backbone": "backbone",
    "optimizer": "optimizer",
    "metric": "metric",
}
FILE = "plugins.json"
"""In the folder of a run or a saved model: the plugins that it needs, each as `requirement` gives it; none, no file."""
REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
BUILT_IN: dict[Kind, dict[str, str]] = {
    "masking": {
        "uniform": "mdlm_atat.core.strategies.uniform:UniformMasking",
        "importance": "mdlm_atat.core.strategies.by_importance:AdaptiveMaskingScheduler",
        "position": "mdlm_atat.core.strategies.by_position:PositionAwareMaskingScheduler",
        "curriculum": "mdlm_atat.core.strategies.by_stage:CurriculumMasking",
        "literal_importance": "mdlm_atat.core.strategies.literal:LiteralMasking",
        "literal_curriculum": "mdlm_atat.core.strategies.literal:LiteralMasking",
    },
    "schedule": {
        "linear": "mdlm_atat.core.schedules:Linear",
        "cosine": "mdlm_atat.core.schedules:Cosine",
        "geometric": "mdlm_atat.core.schedules:Geometric",
        "polynomial": "mdlm_atat.core.schedules:Polynomial",
    },
    "times": {
        "uniform": "mdlm_atat.core.times:UniformTime",
        "beta": "mdlm_atat.core.times:BetaTime",
        "window": "mdlm_atat.core.times:UniformTime",
    },
    "sampler": {
        "ancestral": "mdlm_atat.samplers.ancestral:Ancestral",
        "first_hitting": "mdlm_atat.samplers.first_hitting:FirstHitting",
        "uncertainty": "mdlm_atat.samplers.uncertainty:UncertaintyGuidedSampler",
        "dilated": "mdlm_atat.samplers.dilated:Dilated",
        "segments": "mdlm_atat.samplers.segments:Segments",
        "confidence": "mdlm_atat.samplers.confidence:ConfidenceBasedSampler",
        "remask": "mdlm_atat.samplers.remask:Remask",
        "follow_rates": "mdlm_atat.samplers.follow_rates:FollowRates",
        "rate_hitting": "mdlm_atat.samplers.follow_rates:RateHitting",
        "left_to_right": "mdlm_atat.samplers.left_to_right:LeftToRight",
    },
    "source": {},
    "tokenizer": {},
    "backbone": {
        "masked": "mdlm_atat.nets.dit:ATATDiT",
        "causal": "mdlm_atat.nets.causal_transformer:CausalTransformer",
    },
    "optimizer": {"adamw": "torch.optim:AdamW", "muon": "mdlm_atat.training.muon:Muon"},
    "metric": {
        "accuracy": "mdlm_atat.finetuning.metrics:accuracy",
        "f1": "mdlm_atat.finetuning.metrics:f1",
        "matthews": "mdlm_atat.finetuning.metrics:matthews",
        "pearson": "mdlm_atat.finetuning.metrics:pearson",
        "spearman": "mdlm_atat.finetuning.metrics:spearman",
    },
}
"""Name -> `module:Name` of what this package brings. Sources and tokenizers have tables of their own, whose names are
given to `names` and `check_name` as `known`."""

_trust: ContextVar[bool] = ContextVar("trust", default=False)
_allowed: set[tuple[Kind, str]] = set()


def is_reference(name: str) -> bool:
    """Whether a name has the form `package.module:Name`."""
    return REFERENCE.fullmatch(name) is not None


def names(kind: Kind, known: Mapping[str, Any] | None = None) -> list[str]:
    """Every name that `resolve` knows for a kind: built-in ones, then those of installed packages."""
    return list(dict.fromkeys([*BUILT_IN[kind], *(known or {}), *_offered(kind)]))


@contextmanager
def trusted(trust_plugins: bool = True) -> Iterator[None]:
    """Within the block, plugins that a folder names are imported too. False changes nothing: what an outer block trusts
    stays trusted."""
    token = _trust.set(trust_plugins or _trust.get())
    try:
        yield
    finally:
        _trust.reset(token)


def allow(kind: Kind, name: str) -> None:
    """Let a plugin be imported in this process from now on: a person has named it."""
    _allowed.add((kind, name))


def resolve(kind: Kind, name: str) -> Any:
    """The object behind a name: a class, or whatever the kind asks for.

    Raises UserError for a name that is not known (with a spelling hint), for a plugin that nobody trusts (see
    `trusted`), and for one whose package is not installed or has no such object.
    """
    if name in BUILT_IN[kind]:
        return _import(BUILT_IN[kind][name])
    check_name(kind, name)
    offered = _offered(kind)
    reference = offered[name].value if name in offered else name
    if not (_trust.get() or (kind, name) in _allowed):
        raise UserError(
            f"this names the {WORDS[kind]} {name!r}, a plugin ({described(kind, name)}), and importing it runs its "
            "code: if you trust where the name comes from, say `trust_plugins=True`"
        )
    allow(kind, name)
    return _load(kind, reference)


def check_name(kind: Kind, name: str, known: Mapping[str, Any] | None = None, *, word: str | None = None) -> None:
    """Raise UserError unless a name is known for its kind or has the form `package.module:Name`; import nothing.
    `word`: what the message calls it, where that is not the word for its kind."""
    if name in BUILT_IN[kind] or name in (known or {}) or is_reference(name) or name in _offered(kind):
        return  # in this order: to look through what is installed takes milliseconds
    options = names(kind, known)
    raise UserError(
        f"unknown {word or WORDS[kind]} {name!r}, expected one of {', '.join(options)}, or a plugin as "
        f"package.module:Name{did_you_mean(name, options)}"
    )


def is_plugin(kind: Kind, name: str) -> bool:
    """Whether a name is that of a plugin: an entry point or a reference, and nothing that this package brings."""
    return name not in BUILT_IN[kind] and (is_reference(name) or name in _offered(kind))


def reference_to(thing: str | type) -> str:
    """The name to write down for a class given from Python; a str is a name already.

    Raises UserError for a class that another process could not import: one of `__main__`, or inside a function.
    """
    if isinstance(thing, str):
        return thing
    if thing.__module__ == "__main__" or "<locals>" in thing.__qualname__:
        raise UserError(
            f"{thing.__qualname__} is defined in {thing.__module__}, where nobody else can import it from, so a run "
            "could not be resumed nor its model loaded; put it into a module of its own (mine.py) and name it "
            f"'mine:{thing.__name__}'"
        )
    return f"{thing.__module__}:{thing.__qualname__}"


def requirement(kind: Kind, name: str) -> dict[str, str | None]:
    """What to write down beside numbers and weights that a plugin made: its kind, its name, and the installed package
    (distribution) and version that it comes from, None for a loose module."""
    offered = _offered(kind)
    package = (offered[name].value if name in offered else name).partition(":")[0].partition(".")[0]
    found = packages_distributions().get(package)
    distribution = found[0] if found else None
    return {
        "kind": kind,
        "name": name,
        "distribution": distribution,
        "version": None if distribution is None else _version(distribution),
    }


def check_requirement(needed: Mapping[str, str | None]) -> str | None:
    """Raise UserError, with what to install, where a plugin that was written down by `requirement` is not to be had.
    Returns a warning where it is there in another version, else None. Nothing of the plugin is imported but its
    top-level name looked up."""
    kind, name, distribution, wanted = (needed.get(key) for key in ("kind", "name", "distribution", "version"))
    label = f"the {WORDS.get(kind, 'plugin')} {name}"  # type: ignore[arg-type]
    if distribution is None:
        return None
    here = _version(distribution)
    if here is None:
        pin = f"=={wanted}" if wanted else ""
        raise UserError(
            f"{label} is part of {distribution}, which is not installed; run: pip install {distribution}{pin}"
        )
    if here != wanted:
        return f"{label} was of {distribution} {wanted} when this was made, and is of {here} now"
    return None


def needed_by(folder: Path) -> list[dict[str, str | None]]:
    """The plugins that a folder of a run or a saved model says it needs, each as `requirement` gave it. Raises
    UserError for a file that is damaged."""
    try:
        found = read_json(folder / FILE)
    except FileNotFoundError:
        return []
    return [as_requirement(needed, folder / FILE) for needed in (found if isinstance(found, list) else [found])]


def as_requirement(needed: Any, file: Path) -> dict[str, str | None]:
    """What `requirement` gave, read from a file again. Raises UserError for anything else."""
    is_one = isinstance(needed, dict) and isinstance(needed.get("name"), str)
    others = [needed.get(key) for key in ("kind", "distribution", "version")] if is_one else [0]
    if not all(other is None or (isinstance(other, str) and other) for other in others):
        raise UserError(f"{file} is damaged: expected the name, kind, package and version of a plugin; {RESTORE}")
    return needed


def described(kind: Kind, name: str) -> str:
    """A plugin's package and version, for a message."""
    needed = requirement(kind, name)
    if needed["distribution"] is None:
        return "of no installed package"
    return f"of {needed['distribution']} {needed['version']}"


def _offered(kind: Kind) -> Mapping[str, EntryPoint]:
    return _entries(kind, tuple((place, _changed_ns(place)) for place in sys.path))


@lru_cache(maxsize=4 * len(KINDS))  # a command asks a dozen times, and every time costs a file of each package
def _entries(kind: Kind, places: tuple[tuple[str, int], ...]) -> Mapping[str, EntryPoint]:  # noqa: ARG001
    """What packages offer, as long as no package comes to or leaves the places where they are looked for."""
    return {entry.name: entry for entry in entry_points(group=f"mdlm_atat.{kind}")}


def _changed_ns(place: str) -> int:
    try:
        return Path(place or ".").stat().st_mtime_ns
    except OSError:
        return 0


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _import(reference: str) -> Any:
    module, _, path = reference.partition(":")
    thing: Any = importlib.import_module(module)
    for part in path.split("."):
        thing = getattr(thing, part)
    return thing


def _load(kind: Kind, reference: str) -> Any:
    module, _, path = reference.partition(":")
    label = f"{WORDS[kind]} {reference}"
    if module == "__main__":
        raise UserError(f"{label}: a class of __main__ cannot be imported from elsewhere; put it into a module")
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise UserError(f"{label}: its module cannot be imported: {error}; install what it needs") from error
        raise UserError(
            f"{label}: there is no module {error.name}; install the package that has it, or start where Python finds "
            "it (its folder in PYTHONPATH)"
        ) from error
    except SystemExit as error:  # a script, which would end this program too, with its own exit code
        raise UserError(
            f"{label}: its module ends the program when it is imported (sys.exit): put what it does as a script under "
            '`if __name__ == "__main__":`'
        ) from error
    except Exception as error:
        raise UserError(f"{label}: its module cannot be imported: {type(error).__name__}: {error}") from error
    file = getattr(loaded, "__file__", None)
    twin = next(
        (name for name, other in list(sys.modules.items()) if file and name != module and _file_of(other) == file), None
    )
    if twin is not None:  # two copies of every class: isinstance and pickles would take one for a stranger
        raise UserError(f"{label}: {file} is imported already under the name {twin}; use that name")
    try:
        found = _import(reference)
    except AttributeError as error:
        offers = [name for name in vars(loaded) if not name.startswith("_")]
        hint = did_you_mean(reference, [f"{module}:{name}" for name in offers])
        raise UserError(f"{label}: module {module} has no {path}{hint}") from error
    if not callable(found):
        raise UserError(f"{label}: expected a class or a function, found {found!r}")
    return found


def _file_of(module: Any) -> str | None:
    return getattr(module, "__file__", None)
