"""The tasks of lm-evaluation-harness on a model of ours, and which likelihood each of their numbers comes from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from traceback import walk_tb
from typing import Any, cast

import numpy as np
import torch
from lm_eval import __version__ as harness_version
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from mdlm_atat.atomic import check_writable, write_json
from mdlm_atat.checks import did_you_mean, whole
from mdlm_atat.data.hub import hub_unreachable
from mdlm_atat.device import Precision, explain_out_of_memory
from mdlm_atat.environment import environment_variable
from mdlm_atat.errors import UserError
from mdlm_atat.harness.adapter import MAX_NEW_TOKENS, HarnessModel
from mdlm_atat.harness.finished import file_of_rank, files_of, read_finished
from mdlm_atat.harness.table import Basis, basis_of, lines_of
from mdlm_atat.model_folder import results_folder
from mdlm_atat.progress import Bar
from mdlm_atat.runs.evaluate import traced, weights_name
from mdlm_atat.runs.model import Model
from mdlm_atat.task_names import check_task_names

FEWSHOT_SEED = 1234
"""The harness's own: examples are those that its command line takes."""
BOOTSTRAP_ITERS = 1000
"""Resamples for the standard error of a perplexity, which is known to 2% then."""


@dataclass(frozen=True)
class TaskResults:
    """What the tasks gave: `print` shows the table."""

    record: dict[str, Any]
    """The harness's results, as it stores them, with `likelihoods`: where each number comes from."""
    file: Path | None = None
    """Where it is stored."""
    is_main: bool = True
    """Whether this is the first of several processes, which all have the results."""

    def value(self, task: str, metric: str) -> float:
        """A number of a task: the first of its filters."""
        found = self.record["results"][task]
        return next(value for name, value in found.items() if name.partition(",")[0] == metric)

    def basis(self, task: str, metric: str) -> Basis:
        """What a number of a task comes from."""
        found = self.record["likelihoods"][task]
        return next(Basis(**each) for name, each in found.items() if name.partition(",")[0] == metric)

    def __str__(self) -> str:
        return "\n".join(lines_of(self.record))


def run_tasks(
    model: Model,
    tasks: str | Sequence[str],
    *,
    limit: float | None = None,
    num_fewshot: int | None = None,
    batch_size: int = 32,
    num_draws: int = 128,
    seed: int = 0,
    order: str | None = None,
    sampler: str | None = None,
    max_gen_toks: int = MAX_NEW_TOKENS,
    include_path: str | Path | None = None,
    save: bool | str | Path = True,
    samples: bool = False,
    progress: bool = True,
    device: str | None = None,
    precision: Precision = "auto",
    trust_plugins: bool = False,
) -> TaskResults:
    """Run tasks of lm-evaluation-harness.

    `tasks`: names, with * and ? for several at once, or .yaml files; those of `include_path`, a folder of such files,
    are known too. `limit`: examples of each task, a share of them where it is below 1. `num_fewshot`: examples before a
    question, for tasks that do not fix it. The other settings of the model are those of `HarnessModel`.

    `save`: the file of the results; True: harness/ of the model's folder, False: nowhere. Requests that are answered
    are kept beside it until all are, so that the same call after an interruption goes on from there. `samples`: store
    every question with its answers too. In several processes each works on its share, and all return the results.

    Raises UserError for tasks that are not known or whose data cannot be read.
    """
    names = [tasks] if isinstance(tasks, str) else list(tasks)
    if limit is not None and not (0 < limit < 1 or (limit >= 1 and limit == int(limit))):
        raise UserError(f"`limit={limit}`, expected a whole number of examples, or a share of them below 1")
    if limit is not None and limit >= 1:
        limit = min(int(limit), sys.maxsize)
    whole("num_fewshot", num_fewshot, 0)
    if not names:
        raise UserError("`tasks=` is empty: name at least one task of lm-evaluation-harness")
    include_path = None if include_path is None else Path(include_path)
    check_task_names(tuple(names), include_path)
    bar = _Bars(progress)
    lm = HarnessModel(
        model,
        batch_size=batch_size,
        device=device,
        precision=precision,
        num_draws=num_draws,
        seed=seed,
        order=order,
        sampler=sampler,
        max_gen_toks=max_gen_toks,
        trust_plugins=trust_plugins,
        on_progress=bar,
    )
    ranks = lm.ranks
    file = _file_of(lm, names, save, {"limit": limit, "num_fewshot": num_fewshot})
    kept = None if file is None else file.with_suffix(".requests.jsonl")
    if kept is not None:
        lm.finished.answers = ranks.on_main(lambda: read_finished(kept))
        lm.finished.file = file_of_rank(kept, ranks.rank)
    with _quiet_harness(), _harness_seeds():
        loaded = _load(names, include_path, num_fewshot)
        try:
            with explain_out_of_memory(f"try `batch_size={max(1, lm.batch_size // 2)}`"):
                some: Any = limit  # typed as a whole number there, and a share is taken too
                found = evaluate(
                    lm, loaded, limit=some, bootstrap_iters=BOOTSTRAP_ITERS, log_samples=samples, verbosity="WARNING"
                )
        except KeyboardInterrupt:
            if kept is not None and lm.finished.answers:
                print(
                    f"\n{len(lm.finished.answers):,} answers are kept: the same command goes on from them",
                    file=sys.stderr,
                )
            raise
        except Exception as error:
            if isinstance(error, UserError) or _is_ours(error):
                raise
            raise UserError(
                f"the tasks {', '.join(names)} cannot be asked: {_reason(error)}; look at the columns, templates and "
                "metrics in their .yaml files, and at `num_fewshot`"
            ) from error
        finally:
            bar.close()
    record = _record(found, lm, loaded, limit)
    if file is not None and kept is not None and ranks.rank == 0:
        write_json(file, record)
        for part in files_of(kept):
            part.unlink()
    return TaskResults(record, file, ranks.rank == 0)


def _file_of(lm: HarnessModel, names: Sequence[str], save: bool | str | Path, asked: Mapping[str, Any]) -> Path | None:
    """Where the results go: by default a file for each choice of tasks and settings."""
    if not isinstance(save, bool):
        if Path(save).is_dir():
            raise UserError(f"`save=`: {save} is a folder; name a file in it, such as {Path(save) / 'harness.json'}")
        if Path(save).parent.is_dir():  # else it is made
            check_writable(Path(save), "`save=`")
        return Path(save)
    if not save or lm.lm.home is None:
        return None
    name = "-".join(Path(name).stem for name in names)
    plain = "".join(char if char.isalnum() or char in "-_" else "_" for char in name)[:100]
    settings = json.dumps([names, lm.settings(), asked])
    digest = hashlib.sha256(settings.encode()).hexdigest()[:8]
    return results_folder(lm.lm.home, "harness") / f"{weights_name(lm.lm)}-{plain}-{digest}.json"


def _load(names: Sequence[str], include_path: Path | None, num_fewshot: int | None) -> dict[str, Any]:
    """The tasks, their data at hand."""
    try:
        specs, manager = _specs(names, include_path)
        loaded = cast(dict[str, Any], manager.load(specs))
    except UserError:
        raise
    except Exception as error:  # of all that reads a task's file and its questions
        unreachable = hub_unreachable() if isinstance(error, OSError) else None
        hint = f"; the hub does not answer ({unreachable})" if unreachable else ""
        raise UserError(f"the tasks {', '.join(names)} cannot be loaded: {_reason(error)}{hint}") from error
    for task in loaded["tasks"].values():
        own = task.get_config("num_fewshot")
        if own is None or (num_fewshot is not None and own != 0):  # 0 is fixed: the questions are complete
            task.set_config(key="num_fewshot", value=num_fewshot or 0)
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
    return loaded


def _reason(error: Exception) -> str:
    """What went wrong in the harness or below it, in a line, with the first cause behind it."""
    causes = [error]
    while isinstance(causes[-1].__cause__, Exception):
        causes.append(causes[-1].__cause__)
    said = [f"{type(each).__name__}: {' '.join(str(each).split())[:300]}".rstrip(": .") for each in causes]
    return said[0] if len(said) == 1 else f"{said[0]} ({said[-1]})"


def _is_ours(error: Exception) -> bool:
    """Whether an error was raised as the model was asked, and not by what the tasks themselves say."""
    frames = walk_tb(error.__traceback__)  # by the module: files of tasks may be called as ours are
    return any(frame.f_globals.get("__name__") == HarnessModel.__module__ for frame, _ in frames)


def _specs(names: Sequence[str], include_path: Path | None) -> tuple[list[str], TaskManager]:
    """The tasks that are meant, and who knows them. The harness's own thousands are listed only where they are
    needed: it takes ten seconds."""
    path = None if include_path is None else str(include_path)
    missing = ""
    for with_own in (False, True):
        manager = TaskManager(include_path=path, include_defaults=with_own)
        found = {name: [name] if name.endswith(".yaml") else manager.match_tasks([name]) for name in names}
        missing = next((name for name, matches in found.items() if not matches), "")
        if not missing:
            break
    else:
        raise UserError(
            f"lm-evaluation-harness knows no task {missing!r}{did_you_mean(missing, manager.all_tasks)}; "
            "`lm-eval ls tasks` lists them"
        )
    return list(dict.fromkeys(match for matches in found.values() for match in matches)), manager


def _record(found: Any, lm: HarnessModel, loaded: dict[str, Any], limit: float | None) -> dict[str, Any]:
    """The results as they are stored: what the harness gives, and where the numbers come from."""
    types = {name: str(task.OUTPUT_TYPE) for name, task in loaded["tasks"].items()}
    likelihoods: dict[str, dict[str, Any]] = {}
    for name, metrics in found["results"].items():
        group = loaded["groups"].get(name)
        kinds = {types[name]} if group is None else {types[task.task_name] for task in group.get_all_tasks()}
        likelihoods[name] = {
            metric: vars(basis_of(kinds, metric.partition(",")[0], lm))
            for metric in metrics
            if "," in metric and not metric.partition(",")[0].endswith("_stderr")
        }
    about = {**traced(lm.lm), **lm.get_model_info(), "batch_size": lm.batch_size, "limit": limit}
    about["machine"] = vars(about["machine"])
    return {**_plain(found), "likelihoods": likelihoods, "config": about, "lm_eval_version": harness_version}


def _plain(value: Any) -> Any:
    """The same in what JSON has; what is not of that becomes its text."""
    match value:
        case dict():
            return {str(name): _plain(part) for name, part in value.items()}
        case list() | tuple() | set():
            return [_plain(part) for part in value]
        case np.generic():
            return value.item()
        case str() | int() | float() | None:
            return value
        case _:
            return str(value)


@contextlib.contextmanager
def _quiet_harness() -> Iterator[None]:
    """What the harness prints goes to standard error, and it starts no processes for standard errors."""
    with environment_variable("DISABLE_MULTIPROC", "1"), contextlib.redirect_stdout(sys.stderr):
        yield


@contextlib.contextmanager
def _harness_seeds() -> Iterator[None]:
    """The global generators, by which tasks may shuffle their data, begin with the harness's own seeds, and are
    afterwards as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            random.seed(0)
            np.random.seed(1234)
            torch.default_generator.manual_seed(1234)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


class _Bars:
    """A bar for each kind of request."""

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted
        self._bar: Bar | None = None

    def __call__(self, kind: str, done: int, total: int) -> None:
        if not self._wanted:
            return
        self._bar = Bar() if self._bar is None else self._bar
        self._bar.update(done, title=kind, total=total)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
