"""The folder of a run: what is written when it starts, and what may change when it is resumed.

config.yaml      every setting, resolved        metrics.jsonl    what was measured, a line a record
run.json         command, data, machine         checkpoints/     see train.checkpoint
tokenizer/       as the data was prepared       evals/           one JSON for each evaluation
counts.npy       each token's training count    samples.jsonl    texts generated at the end
inspection.json  importance of some text       report.html      all of it on one page
plugins.json     plugins it needs, if any       phrases.json     how long phrases of the text are
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdlm_atat import plugins
from mdlm_atat.atomic import make_folder, write_json
from mdlm_atat.config.files import as_tree, from_tree, save_config
from mdlm_atat.config.schema import DataConfig, RunConfig, named_plugins, settings_with
from mdlm_atat.data import counts as counts_file
from mdlm_atat.data.cache import cache_folder
from mdlm_atat.data.manifest import SIZES
from mdlm_atat.data.open_tokenizer import load_tokenizer, save_tokenizer
from mdlm_atat.data.phrases import PHRASES_FILE, count_phrases, read_phrases
from mdlm_atat.data.tokenizers import has_identity
from mdlm_atat.data.tokens import TokenDataset
from mdlm_atat.errors import UserError
from mdlm_atat.model_folder import is_free
from mdlm_atat.small_files import check_kinds, read_object, taken_apart
from mdlm_atat.training.checkpoint import Checkpoint


def check_free(folder: Path) -> None:
    """Raises UserError unless the folder of a new run is not there yet, or is empty, or holds no more than the first
    files of a run that was killed while it wrote them."""
    if not is_free(folder):
        what = "is not empty" if folder.is_dir() else "is a file"
        what = "holds another run" if (folder / "config.yaml").exists() else what
        resume = f", or continue that run with `train(resume={str(folder)!r})`" if "another" in what else ""
        raise UserError(f"{folder} {what}, which is left as it is; choose another `out=`{resume}")


def describe_data(train_data: TokenDataset, valid_data: TokenDataset) -> dict[str, Any]:
    """The data of a run as stored in run.json; `hash` changes with any token of either split."""
    manifest, valid = train_data.manifest, valid_data.manifest.splits[valid_data.split]
    scored = {name: getattr(valid, name) for name in SIZES} if valid.answers is None else valid.answers
    return {
        "source": manifest.source.get("spec", str(train_data.folder)),
        "hash": manifest.splits[train_data.split].sha256[:32] + valid.sha256[:32],
        "tokenizer": manifest.tokenizer["name"],
        "tokenizer_hash": manifest.tokenizer["hash"],
        "train_tokens": train_data.num_tokens,
        **{f"valid_{name}": scored[name] for name in SIZES},
        "valid_changed": valid.changes.total,
        "accounts": manifest.accounts,
        **({} if manifest.loss_on == "all" else {"loss_on": manifest.loss_on}),
    }


def write_start(folder: Path, config: RunConfig, train_data: TokenDataset, record: dict[str, Any]) -> None:
    """Write a run's configuration, plugins, run.json, tokenizer and counts of tokens and phrases, before its first
    step; the folder is made. run.json is the first: what has it and no config.yaml may be written again."""
    make_folder(folder)
    if not (folder / "config.yaml").exists():
        # what there is was left by a start that was killed, perhaps with other settings
        shutil.rmtree(folder / "tokenizer", ignore_errors=True)
        for name in (plugins.FILE, PHRASES_FILE):
            (folder / name).unlink(missing_ok=True)
    write_json(folder / "run.json", record)
    save_tokenizer(train_data.tokenizer, folder / "tokenizer")
    write_plugins(folder, config)
    write_again(folder, config, train_data)


def write_plugins(folder: Path, config: RunConfig) -> None:
    """plugins.json: the plugins that the settings name, with the package and version that each came from; no file
    where there are none."""
    needed = [plugins.requirement(kind, name) for kind, name in named_plugins(config)]
    if needed:
        write_json(folder / plugins.FILE, needed)


def check_plugins(folder: Path, config: RunConfig, say: Callable[[str], None]) -> None:
    """Import the plugins that a model's folder names, if it is trusted (see `plugins.trusted`).

    Raises UserError for one that is not installed, saying what to install, and where the folder is not trusted. `say`
    hears of other versions than those that were written down.
    """
    for needed in plugins.needed_by(folder):
        if warning := plugins.check_requirement(needed):
            say(warning)
    for kind, name in named_plugins(config):
        plugins.resolve(kind, name)


def write_again(folder: Path, config: RunConfig, train_data: TokenDataset) -> None:
    """What a resumed run writes anew: its settings, and the tokenizer and the counts of tokens and phrases in case they
    were lost or damaged, which would end it after its last step, where it writes texts."""
    counts_file.write_counts(folder, train_data.counts)
    if not _is_readable(lambda: load_tokenizer(str(folder / "tokenizer"))):
        save_tokenizer(train_data.tokenizer, folder / "tokenizer")
    if not _is_readable(lambda: read_phrases(folder)):
        count_phrases(train_data.tokens, train_data.tokenizer).write(folder)
    write_config(folder, config)  # last: what has it is a run


def _is_readable(read: Callable[[], object | None]) -> bool:
    try:
        return read() is not None
    except UserError:
        return False


def write_config(folder: Path, config: RunConfig) -> None:
    """config.yaml: the settings of the run."""
    save_config(_of_run(config), folder / "config.yaml")


def settings_of(config: RunConfig) -> dict[str, Any]:
    """The settings of a run as plain values, which run.json and every checkpoint hold: a resumed run is compared with
    them, since config.yaml can be edited."""
    return as_tree(_of_run(config))


def _of_run(config: RunConfig) -> RunConfig:
    """Without the time limit, which belongs to one call of the command."""
    return replace(config, train=replace(config.train, max_minutes=0.0))


def settings_before(folder: Path, checkpoint: Checkpoint | None) -> RunConfig | None:
    """The settings that a run goes on from: those that its checkpoint was trained by, or without one those that it was
    begun with. None for a run of a version that did not keep them."""
    file = folder / "run.json" if checkpoint is None else checkpoint.folder / "state.json"
    settings = read_start(folder).get("settings") if checkpoint is None else checkpoint.state().get("settings")
    return None if settings is None else from_tree(settings, str(file))


def found_again(folder: Path, data: DataConfig) -> DataConfig:
    """The settings of a run's text with paths that hold here and now, whatever was moved since it was trained.

    What is not where it was is looked for where it would be if it had moved along with the run, in this machine's
    cache, and, if it is the tokenizer, in the run's folder. `check_same_data` finds out whether it is the same. Raises
    UserError where a text is found nowhere.
    """
    home = read_start(folder).get("folder", str(folder.resolve()))

    def place(spec: str, other: Path) -> str:
        if not Path(spec).is_absolute() or Path(spec).exists():
            return spec
        candidates = [other]
        with suppress(ValueError):  # Windows knows no way from one disk to another
            candidates.insert(0, (folder.resolve() / os.path.relpath(spec, home)).resolve())
        found = next((str(path) for path in candidates if path.exists()), None)
        if found is None:
            raise UserError(
                f"{folder} was trained on {spec}, which is not there any more: put it back, or go on with "
                f"`train(resume={str(folder)!r})` and `data.source=PLACE`, where it lies now"
            )
        return found

    def text(spec: str) -> str:
        return place(spec, cache_folder() / Path(spec).name)

    return replace(
        data,
        source=text(data.source),
        validation=None if data.validation is None else text(data.validation),
        tokenizer=place(data.tokenizer, folder.resolve() / "tokenizer"),
    )


def note_micro_batches(folder: Path, config: RunConfig, step: int) -> dict[str, Any]:
    """Keep a number of micro-batches that was found by trying: in config.yaml, where a resumed run finds it, and in
    run.json, with the steps that had been taken. Returns run.json."""
    write_config(folder, config)
    return note(folder, "micro_batches", {"after_step": step, "num_micro_batches": config.train.num_micro_batches})


def note(folder: Path, what: str, entry: dict[str, Any]) -> dict[str, Any]:
    """Add an entry to a list of run.json: what happened to the run on the way. Returns run.json."""
    record = read_start(folder)
    record[what] = [*(record.get(what) or ()), entry]
    write_json(folder / "run.json", record)
    return record


def read_counts(folder: Path) -> NDArray[np.int64] | None:
    """How often each token occurs in the training text of the model in a folder; None where that is not stored. Raises
    UserError for a file that is damaged."""
    try:
        return counts_file.read_counts(folder, "restore it from a copy, or delete it")
    except FileNotFoundError:
        return None


def read_start(folder: Path) -> dict[str, Any]:
    """The content of run.json, as written when the run began. Raises UserError where it is missing or damaged."""
    file = folder / "run.json"
    try:
        record = read_object(file)
    except FileNotFoundError as error:
        raise UserError(f"{file} is not there; restore it from a copy") from error
    with taken_apart(file):
        check_kinds(record, started=str, folder=str, data=dict, machine=dict, init=dict, settings=dict)
        check_kinds(record, changes=list, micro_batches=list, rewinds=list)
        check_kinds(record.get("data") or {}, tokenizer_hash=str, hash=str, tokenizer=str, train_tokens=int)
        for entry in [*(record.get("changes") or ()), *(record.get("micro_batches") or ())]:
            check_kinds(entry, after_step=int, setting=str)
    return record


def has_record(folder: Path, record: dict[str, Any]) -> bool:
    """Whether a folder is that of the run with this run.json."""
    try:
        return read_start(folder)["started"] == record["started"]
    except (UserError, KeyError):
        return False


def check_same_data(folder: Path, found: dict[str, Any]) -> None:
    """Raises UserError unless `found` is the data that the run in `folder` was begun on: a run that is resumed or
    scored again must see the same tokens."""
    record = read_start(folder)
    with taken_apart(folder / "run.json"):
        stored = {name: record["data"][name] for name in ("tokenizer_hash", "hash", "tokenizer", "train_tokens")}
    if stored["tokenizer_hash"] != found["tokenizer_hash"] and not _same_definition(folder, found["tokenizer_hash"]):
        raise UserError(
            f"{folder} was trained with another tokenizer ({stored['tokenizer']}) than the data now has "
            f"({found['tokenizer']}, or another vocabulary): restore the data it was trained on, or start a new run"
        )
    if stored["hash"] != found["hash"]:
        raise UserError(
            f"the data of {folder} has changed since the run began ({stored['train_tokens']:,} training tokens then, "
            f"{found['train_tokens']:,} now): restore it, or start a new run"
        )


def _same_definition(folder: Path, identity: str) -> bool:
    """Whether the tokenizer that a run has kept is the one of this hash; run.json of before 0.2 has another hash."""
    return (folder / "tokenizer").is_dir() and has_identity(load_tokenizer(folder / "tokenizer"), identity)


def changes(before: RunConfig, after: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Dotted path -> (old, new) of every setting that differs."""
    return {
        f"{section.name}.{setting.name}": (old, new)
        for section in fields(RunConfig)
        for setting in fields(getattr(before, section.name))
        if (old := getattr(getattr(before, section.name), setting.name))
        != (new := getattr(getattr(after, section.name), setting.name))
    }


def note_resumed(folder: Path, changed: Mapping[str, tuple[Any, Any]], step: int, num_rewinds: int) -> dict[str, Any]:
    """Keep in run.json where a run lies that goes on, and after which step which setting changed. Returns run.json.
    What was noted of later steps goes: they are taken again, as are rewinds beyond the `num_rewinds` of the checkpoint.
    """
    before = read_start(folder)
    noted = [
        {"after_step": step, "setting": path, "before": old, "now": new}
        for path, (old, new) in changed.items()
        if path != "train.max_minutes"  # which belongs to one call of the command
    ]
    with taken_apart(folder / "run.json"):
        lists = {name: before.get(name) or [] for name in ("changes", "micro_batches", "rewinds")}
        kept = {
            "changes": [*(change for change in lists["changes"] if change["after_step"] < step), *noted],
            "micro_batches": [found for found in lists["micro_batches"] if found["after_step"] <= step],
            "rewinds": lists["rewinds"][:num_rewinds],
        }
    kept = {name: entries for name, entries in kept.items() if entries != lists[name]}
    record = {**before, **kept, "folder": str(folder.resolve())}
    if record != before:
        write_json(folder / "run.json", record)
    return record


def check_resumable(
    folder: Path,
    changed: Mapping[str, tuple[Any, Any]],
    after: RunConfig,
    step: int,
    machine_before: dict[str, Any],
    machine: dict[str, Any],
) -> list[str]:
    """Say what a resumed run does differently, a line each. Raises UserError for a changed setting that would make it
    another run, however it was changed."""
    forbidden = sorted(changed.keys() - settings_with("resume"))
    if forbidden:
        it, is_edited = ("it", "it was") if len(forbidden) == 1 else ("them", "they were")
        raise UserError(
            "a resumed run cannot change "
            + ", ".join(f"{path} ({changed[path][0]} to {changed[path][1]})" for path in forbidden)
            + f": leave {it} out, or set {it} back where {is_edited} edited, in {folder / 'config.yaml'}; or begin a "
            f"new run with `train({str(folder)!r}, out=...)`"
        )
    if after.train.num_steps < step:
        raise UserError(
            f"train.num_steps is {after.train.num_steps}, but the run has taken {step} steps already; ask for more"
        )
    exact = settings_with("resume", "free", "measured", "place")
    fixed = after.curriculum.kind == "fixed"
    follows = "the learning rate and the curriculum's stages follow" if fixed else "the learning rate follows"
    lines = [
        f"{path}: {old} before, {new} now"
        + ("" if path in exact else "; from here on it is not the same run bit for bit")
        + (f", and {follows} the new length" if path == "train.num_steps" else "")
        for path, (old, new) in changed.items()
    ]
    for name, old in machine_before.items():
        if old != machine[name]:
            lines.append(f"{name}: {old} before, {machine[name]} now; the batches are the same, sums round differently")
    return lines
