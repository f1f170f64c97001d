"""Read a grid from a YAML file, and check all of it before anything runs."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, get_args

from mdlm_atat.checks import did_you_mean
from mdlm_atat.config.files import apply_settings, describe_methods, names_settings
from mdlm_atat.config.schema import RunConfig, settings_with
from mdlm_atat.config.yaml_text import read_yaml
from mdlm_atat.errors import UserError
from mdlm_atat.studies.grid import Arm, Budget, Corpus, Grid, SamplerBench, Unit, base_config
from mdlm_atat.studies.jobs import differences, flat_settings

KEYS = (
    "name",
    "description",
    "base",
    "method",
    "overrides",
    "arms",
    "baseline",
    "reference",
    "seeds",
    "data",
    "budget",
    "branches",
    "calibrate",
    "seconds_per_step",
    "samplers",
)
BENCH_KEYS = ("arms", "samplers", "steps", "num_texts", "judge")
ARM_KEYS = ("description", "base", "method", "overrides")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
NOT_FOR_OVERRIDES = {"train.seed": "seeds", "train.num_steps": "budget", "train.max_minutes": "budget"}


def _shipped() -> Traversable:
    return files("mdlm_atat.studies") / "grids"


def describe_grids() -> dict[str, str]:
    """The names of the grids that come with the package, each with its description."""
    found = sorted(file.name for file in _shipped().iterdir() if file.name.endswith(".yaml"))
    return {name.removesuffix(".yaml"): str(read_yaml(name, _shipped() / name)["description"]) for name in found}


def load_grid(name_or_path: str, forced: Mapping[str, Any] | None = None) -> Grid:
    """Read a shipped grid by its name, a YAML file, or grid.yaml in the folder of an experiment.

    `forced` are settings by dotted path that go over everything in every arm. Raises UserError with every mistake at
    once, a line each with its path.
    """
    label, source, folder = _locate(name_or_path)
    tree = read_yaml(label, source, holds="a grid (arms, baseline, seeds, budget, ...)")
    mistakes: list[str] = []
    is_stored = label == str(Path(name_or_path) / "grid.yaml")
    grid = _Reader(mistakes, folder, is_stored=is_stored).grid(tree, Path(label).stem, forced or {})
    if grid is None or mistakes:
        if len(mistakes) == 1:
            raise UserError(f"{label}: {mistakes[0]}")
        raise UserError("\n  ".join([f"{label}: {len(mistakes)} mistakes", *mistakes]))
    return grid


def _locate(name: str) -> tuple[str, Traversable, Path]:
    known = describe_grids()
    if name in known:
        return name, _shipped() / f"{name}.yaml", Path()
    path = Path(name)
    if path.is_dir():
        if not (path / "grid.yaml").is_file():
            raise UserError(f"{path} is no experiment: it holds no grid.yaml")
        return str(path / "grid.yaml"), path / "grid.yaml", Path()
    if path.is_file():
        return str(path), path, path.parent
    if "/" in name or name.endswith((".yaml", ".yml")):
        raise UserError(f"there is no grid {path}")
    raise UserError(
        f"unknown grid {name!r}{did_you_mean(name, known)}; grids: {', '.join(known)}; a YAML file or the folder of an "
        "experiment will do as well"
    )


class _Reader:
    """Makes a grid of plain values. A mistake is added to `mistakes`, and the rest is read all the same."""

    def __init__(self, mistakes: list[str], folder: Path, *, is_stored: bool = False) -> None:
        """`is_stored`: of an experiment that has begun, whose results are read even if some arm of it cannot be
        trained, here or at all."""
        self.mistakes = mistakes
        self.folder = folder
        self.is_stored = is_stored

    def grid(self, tree: dict[Any, Any], stem: str, forced: Mapping[str, Any]) -> Grid | None:
        self.known_keys(tree, KEYS, "")
        name = self.named("name", tree.get("name", stem))
        overrides = self.overrides("overrides", tree.get("overrides"))
        corpora = self.corpora(tree.get("data"))
        arms = self.arms(tree, forced)
        names = [arm.name for arm in arms]
        baseline, reference = self.baseline(tree, names)
        budget = self.budget(tree.get("budget"))
        seeds = self.seeds(tree.get("seeds", [0]))
        branches = self.branches(tree.get("branches", [1.0]))
        calibrate = tree.get("calibrate", False)
        if not isinstance(calibrate, bool):
            self.mistakes.append(f"calibrate: expected true or false, found {calibrate!r}")
        seconds_per_step = self.seconds_per_step(tree.get("seconds_per_step"), names)
        if not arms or budget is None or baseline is None:
            return None
        grid = Grid(
            name=name,
            description=str(tree.get("description", "")),
            overrides=overrides,
            arms=tuple(arms),
            baseline=baseline,
            reference=tuple(reference),
            seeds=seeds,
            corpora=corpora,
            budget=budget,
            branches=branches,
            calibrate=calibrate is True,
            seconds_per_step={} if forced else seconds_per_step,  # those of other settings say nothing
            bench=self.bench(tree.get("samplers"), names, reference),
        )
        self.check_configurations(grid)
        self.check_names(grid)
        return grid

    def known_keys(self, tree: Mapping[Any, Any], known: Sequence[str], prefix: str) -> None:
        for key in tree:
            if key not in known:
                hint = did_you_mean(str(key), known) or f"; expected one of {', '.join(known)}"
                self.mistakes.append(f"{prefix}{key}: unknown key{hint}")

    def named(self, path: str, value: Any) -> str:
        if not isinstance(value, str) or not NAME.fullmatch(value):
            self.mistakes.append(
                f"{path}: {value!r} cannot be the name of a folder; expected letters, digits and _ . + -"
            )
        return str(value)

    def overrides(self, path: str, value: Any) -> dict[str, Any]:
        """Settings by dotted path. A file may also nest them."""
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.mistakes.append(f"{path}: expected settings such as `optim.lr: 1e-3`, found {value!r}")
            return {}
        flat = _flat(value)
        for setting, key in NOT_FOR_OVERRIDES.items():
            if setting in flat:
                self.mistakes.append(f"{path}.{setting}: is set by the grid's `{key}`; leave it out")
        return flat

    def corpora(self, value: Any) -> tuple[Corpus, ...]:
        is_named = isinstance(value, dict) and value and all(isinstance(inner, dict) for inner in value.values())
        if is_named and "data" not in value:
            return tuple(
                Corpus(name=self.named(f"data.{name}", name), overrides=self.data_overrides(f"data.{name}", settings))
                for name, settings in value.items()
            )
        return (Corpus(name="", overrides=self.data_overrides("data", value)),)

    def data_overrides(self, path: str, value: Any) -> dict[str, Any]:
        """Settings of a corpus, where `source: x` is short for `data.source: x`."""
        flat = self.overrides(path, value)
        return {setting if "." in setting else f"data.{setting}": item for setting, item in flat.items()}

    def arms(self, tree: dict[Any, Any], forced: Mapping[str, Any]) -> list[Arm]:
        value = tree.get("arms")
        if not isinstance(value, dict) or not value:
            self.mistakes.append(f"arms: there are none; expected e.g. `mdlm: {{method: mdlm}}`, found {value!r}")
            return []
        arms: list[Arm] = []
        for name, inner in value.items():
            path = f"arms.{name}"
            entry = {} if inner is None else inner
            if not isinstance(entry, dict):
                self.mistakes.append(f"{path}: expected {', '.join(ARM_KEYS)}, found {inner!r}")
                continue
            self.known_keys(entry, ARM_KEYS, f"{path}.")
            base, method = entry.get("base", tree.get("base")), entry.get("method", tree.get("method"))
            if not isinstance(base, str):
                self.mistakes.append(f"{path}: no base: name a preset or a YAML file, for all arms or for this one")
                continue
            if method is not None and not isinstance(method, str):
                self.mistakes.append(f"{path}.method: expected a method's name, found {method!r}")
                continue
            others = [name for name in (base, method) if name is not None and not names_settings(self.beside(name))]
            if others:
                self.mistakes.append(f"{path}: {others[0]} is neither a YAML file nor a folder; nor is it a preset")
                continue
            described = str(entry.get("description") or (describe_methods().get(method, "") if method else ""))
            arms.append(
                Arm(
                    name=self.named(path, name),
                    base=self.beside(base),
                    method=None if method is None else self.beside(method),
                    overrides={**self.overrides(f"{path}.overrides", entry.get("overrides")), **forced},
                    description=described,
                )
            )
        return arms

    def beside(self, name: str) -> str:
        """A path beside the grid's file where there is one, otherwise as it is, relative to the current folder."""
        path = self.folder / name
        is_path = "/" in name or name.endswith((".yaml", ".yml"))
        return str(path.resolve()) if is_path and path.exists() else name

    def baseline(self, tree: dict[Any, Any], names: list[str]) -> tuple[str | None, list[str]]:
        baseline, reference = tree.get("baseline"), tree.get("reference") or []
        if baseline is None:
            self.mistakes.append(f"baseline: missing; expected one of the arms: {', '.join(names)}")
        elif baseline not in names:
            self.mistakes.append(
                f"baseline: {baseline!r} is no arm{did_you_mean(str(baseline), names)}; {', '.join(names)}"
            )
        if not isinstance(reference, list):
            self.mistakes.append(f"reference: expected a list of arms, found {reference!r}")
            reference = []
        for name in reference:
            if name not in names:
                self.mistakes.append(
                    f"reference: {name!r} is no arm{did_you_mean(str(name), names)}; {', '.join(names)}"
                )
            elif name == baseline:
                self.mistakes.append(f"reference: {name!r} is the baseline too; an arm is one or the other")
        return (baseline if isinstance(baseline, str) else None), [str(name) for name in reference]

    def budget(self, value: Any) -> Budget | None:
        units = get_args(Unit)
        if not isinstance(value, dict) or not value:
            self.mistakes.append(f"budget: expected one of {', '.join(units)}, e.g. `budget: {{steps: 1000}}`")
            return None
        self.known_keys(value, units, "budget.")
        given = [unit for unit in units if unit in value]
        if len(given) > 1:
            self.mistakes.append(f"budget: given twice, in {' and in '.join(given)}; keep one")
        for unit in given:
            amount = value[unit]
            is_number = isinstance(amount, (int, float)) and not isinstance(amount, bool)
            if not is_number or not math.isfinite(amount) or amount <= 0:
                self.mistakes.append(f"budget.{unit}: expected a number above 0, found {amount!r}")
            elif unit == "steps" and amount != int(amount):
                self.mistakes.append(f"budget.steps: expected a whole number, found {amount!r}")
            else:
                return Budget(unit=unit, amount=float(amount))
        return None

    def seconds_per_step(self, value: Any, arms: Sequence[str]) -> dict[str, float]:
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.mistakes.append(f"seconds_per_step: expected seconds by arm, e.g. `mdlm: 0.04`, found {value!r}")
            return {}
        found: dict[str, float] = {}
        for name, seconds in value.items():
            if name not in arms:
                self.mistakes.append(
                    f"seconds_per_step: {name!r} is no arm{did_you_mean(str(name), arms)}; {', '.join(arms)}"
                )
            elif type(seconds) not in (int, float) or not 0 < seconds < math.inf:
                self.mistakes.append(f"seconds_per_step.{name}: expected a number above 0, found {seconds!r}")
            else:
                found[name] = float(seconds)
        return found

    def seeds(self, value: Any) -> tuple[int, ...]:
        if not isinstance(value, list) or not value or any(type(s) is not int or s < 0 for s in value):
            self.mistakes.append(f"seeds: expected whole numbers from 0 on, e.g. [0, 1, 2], found {value!r}")
            return (0,)
        twice = sorted({seed for seed in value if value.count(seed) > 1})
        if twice:
            self.mistakes.append(f"seeds: {', '.join(map(str, twice))} given twice; a seed repeats the same run")
        return tuple(dict.fromkeys(value))

    def branches(self, value: Any) -> tuple[float, ...]:
        good = isinstance(value, list) and value and all(type(s) in (int, float) and 0 < s <= 1 for s in value)
        if not good or len(set(value)) < len(value) or 1 not in value:
            self.mistakes.append(
                f"branches: expected different shares of the budget with 1.0 among them, e.g. [0.25, 0.5, 1.0], found "
                f"{value!r}"
            )
            return (1.0,)
        return tuple(sorted(map(float, value)))

    def bench(self, value: Any, arms: list[str], reference: Sequence[str]) -> SamplerBench | None:
        if value is None:
            return None
        if not isinstance(value, dict):
            self.mistakes.append(f"samplers: expected {', '.join(BENCH_KEYS)}, found {value!r}")
            return None
        self.known_keys(value, BENCH_KEYS, "samplers.")
        compared = [name for name in arms if name not in reference]
        tree = {"arms": compared, "samplers": [], "steps": [16, 32, 64, 128], "num_texts": 64, "judge": None, **value}
        for key, kind in (("arms", str), ("samplers", str), ("steps", int)):
            if not isinstance(tree[key], list) or any(type(item) is not kind for item in tree[key]):
                self.mistakes.append(f"samplers.{key}: expected a list, found {tree[key]!r}")
                return None
        if type(tree["num_texts"]) is not int or tree["num_texts"] < 2 or min(tree["steps"], default=0) < 1:
            self.mistakes.append("samplers: expected num_texts from 2 on and steps from 1 on")
        for name in (*tree["arms"], *([tree["judge"]] if tree["judge"] is not None else [])):
            if name not in arms:
                self.mistakes.append(f"samplers: {name!r} is no arm{did_you_mean(str(name), arms)}; {', '.join(arms)}")
        lists = {key: tuple(tree[key]) for key in ("arms", "samplers", "steps")}
        return SamplerBench(**lists, num_texts=tree["num_texts"], judge=tree["judge"])

    def check_configurations(self, grid: Grid) -> None:
        """Check the configuration of every arm on every corpus. A mistake that several arms share is told once."""
        from mdlm_atat.config.method import check_method  # torch: a list of grids need not wait for it
        from mdlm_atat.training.check import check_settings

        check = check_method if self.is_stored else check_settings
        found: dict[str, list[str]] = {}
        for corpus in grid.corpora:
            configs: dict[str, RunConfig] = {}
            for arm in grid.arms:
                try:
                    config, mistakes = apply_settings(base_config(arm.base, arm.method), grid.settings(arm, corpus))
                    messages = [f"{path}: {what}" if path else what for path, what in mistakes]
                    if config is not None:
                        check(config)
                except UserError as error:
                    config, messages = None, [str(error)]
                if config is not None:
                    configs[arm.name] = config
                    if config.train.max_minutes:
                        messages.append("train.max_minutes is set: a run of an experiment ends with its budget")
                    if config.lora.rank and not self.is_stored:
                        messages.append("lora.rank is set: a run of an experiment begins with random weights")
                for message in messages:
                    found.setdefault(message.replace("\n", "\n    "), []).append(arm.name)
            self.check_comparable(grid, configs)
            if corpus is grid.corpora[0]:
                self.check_bench(grid, configs)
        for message, arms in found.items():
            who = dict.fromkeys(arms)
            self.mistakes.append(message if len(who) == len(grid.arms) > 1 else f"arms.{', '.join(who)}: {message}")

    def check_names(self, grid: Grid) -> None:
        """Refuse two runs of one name: arm a-b on corpus c and arm a on corpus b-c would share a log and a lock."""
        names = Counter(f"{arm.name}-{corpus.name}" for arm in grid.arms for corpus in grid.corpora)
        for name in (name for name, number in names.items() if number > 1):
            self.mistakes.append(f"arms, data: two runs would be called {name}: rename an arm or a corpus")

    def check_comparable(self, grid: Grid, configs: Mapping[str, RunConfig]) -> None:
        """Refuse arms that would be scored on other text than the baseline, or by other draws."""
        base = configs.get(grid.baseline)
        if base is None:
            return
        for name, config in configs.items():
            for path, (theirs, mine) in differences(flat_settings(base), flat_settings(config)).items():
                if path in settings_with("same"):
                    self.mistakes.append(
                        f"arms.{name}: {path} is {mine!r}, and {theirs!r} in the baseline {grid.baseline}: they could "
                        "not be compared"
                    )

    def check_bench(self, grid: Grid, configs: Mapping[str, RunConfig]) -> None:
        """Refuse samplers that do not exist and arms that cannot use them, before hours of training."""
        if grid.bench is None:
            return
        from mdlm_atat.config.build import masking_traits, modes_of
        from mdlm_atat.samplers.loop import trait
        from mdlm_atat.samplers.named import make_sampler

        by_rates: list[str] = []
        for spec in grid.bench.samplers:
            try:
                rule = make_sampler(spec.replace("optimal", "constant"))  # optimal sizes need a profile
                by_rates += [spec] * trait(rule, "follows_rates")
            except UserError as error:
                self.mistakes.append(f"samplers.samplers: {error}")
        for name in grid.bench.arms:
            config = configs.get(name)
            if config is None:  # a mistake that is told already
                continue
            if "masked" not in modes_of(config):
                self.mistakes.append(f"samplers.arms: {name} is left-to-right, with one sampler only; leave it out")
            elif by_rates and not (masking_traits(config).reads_content and masking_traits(config).is_bound):
                self.mistakes.append(
                    f"samplers: {', '.join(by_rates)} follows predicted rates, and {name} predicts none: it masks "
                    "every token alike"
                )


def _flat(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def select(
    grid: Grid,
    *,
    arms: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    budget: Mapping[str, float] | None = None,
    keep_baseline: bool = False,
) -> Grid:
    """The grid with fewer arms, other seeds or another budget; with `keep_baseline` the baseline stays, named or not.

    Raises UserError for what it cannot have.
    """
    if arms is not None:
        names = [arm.name for arm in grid.arms]
        for name in arms:
            if name not in names:
                raise UserError(
                    f"arms: {name!r} is no arm of {grid.name}{did_you_mean(name, names)}; {', '.join(names)}"
                )
        if grid.baseline not in arms and not keep_baseline:
            raise UserError(
                f"`arms=` leaves out the baseline {grid.baseline}, which the others are compared with; name it too, or "
                "a file of results that holds its runs with `done=`; or leave `arms=` out and train one run alone with "
                "`task=N`, by its number in the list of `atat experiment run GRID --dry_run`"
            )
        kept = tuple(arm for arm in grid.arms if arm.name in (*arms, grid.baseline))
        bench = grid.bench
        if bench is not None:
            judge = bench.judge if bench.judge in arms else None
            bench = replace(bench, arms=tuple(name for name in bench.arms if name in arms), judge=judge)
        reference = tuple(name for name in grid.reference if name in arms)
        timed = {name: seconds for name, seconds in grid.seconds_per_step.items() if name in (*arms, grid.baseline)}
        grid = replace(grid, arms=kept, reference=reference, bench=bench, seconds_per_step=timed)
    if seeds is not None:
        mistakes: list[str] = []
        grid = replace(grid, seeds=_Reader(mistakes, Path()).seeds(list(seeds)))
        if mistakes:
            raise UserError(mistakes[0])
    if budget is not None:
        mistakes = []
        read = _Reader(mistakes, Path()).budget(dict(budget))
        if read is None:
            raise UserError(mistakes[0])
        grid = replace(grid, budget=read)
    return grid
