"""Checkpoints: the one place where they are written and read.

A run keeps them in `checkpoints/step-00001000/`: `model.safetensors` (the weights), `ema.safetensors` (their
average), `optimizer.safetensors`, `state.json`, and `checksums.json`, written last; `last` and `best` are links (text
files with a checkpoint's name where links cannot be made). A checkpoint is written aside, synced to disk and renamed,
so a folder under its final name is complete; its checksums are verified when it is read. Nothing is pickled.

Of a large network whose weights are shared out over processes the three are not gathered: `training.parts`.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeGuard

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mdlm_atat.atomic import aside_of, folder_written_aside, remove_folder, write_text
from mdlm_atat.errors import UserError, call
from mdlm_atat.model_folder import step_of
from mdlm_atat.nets.ema import EMA
from mdlm_atat.small_files import MOST_BYTES, check_file, check_kinds, read_object, taken_apart
from mdlm_atat.training import low_rank, parts
from mdlm_atat.training.kept_numbers import give_to_groups
from mdlm_atat.training.packed import (
    Shapes,
    each_weight,
    load_tensors,
    read_header,
    read_shapes,
    read_weights,
    save_tensors,
)

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

FORMAT = 1
CHECKSUMS_FILE = "checksums.json"
MOST_STATES = 16
"""Numbers of 4 bytes that any of a checkpoint's files holds for each weight, at most: AdamW's has 2."""
MOST_LISTED_BYTES = 1 << 28
"""Of all other files."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint folder on disk."""

    folder: Path

    @property
    def step(self) -> int:
        """How many optimizer steps had been taken."""
        step = step_of(self.folder.name)
        assert step is not None
        return step

    def state(self) -> dict[str, Any]:
        """state.json: the run's progress, machine and curriculum. Raises UserError for the format of another
        version."""
        state = read_object(self.folder / "state.json")
        with taken_apart(self.folder / "state.json"):
            check_kinds(state, progress=dict, machine=dict, stage=dict, curriculum=dict, settings=dict, tensors=list)
            check_kinds(state, optimizer=dict)
            state = {"machine": {}, **state, "format": state["format"]}
        if state["format"] != FORMAT:
            raise UserError(
                f"{self.folder} was written in format {state['format']}, this version reads {FORMAT}; "
                "continue it with the version that wrote it"
            )
        return state

    @property
    def is_gone(self) -> bool:
        """Whether the folder is no longer there: a run that trains on keeps its newest two checkpoints."""
        return not self.folder.is_dir()

    @cached_property
    def checksum(self) -> str:
        """A sha256 that identifies the checkpoint, to be stored with numbers measured on it. Once known it stays so,
        also when the checkpoint is gone."""
        return hashlib.sha256((self.folder / CHECKSUMS_FILE).read_bytes()).hexdigest()

    @property
    def is_in_parts(self) -> bool:
        """Whether each process wrote a part of it, in place of the main process whole files (see `training.parts`)."""
        return not (self.folder / "model.safetensors").exists() and parts.are_in(self.folder)

    @property
    def has_average(self) -> bool:
        """Whether the run kept averaged weights."""
        if self.is_in_parts:
            return any(name.startswith("ema/") for name in self.state()["tensors"])
        return (self.folder / "ema.safetensors").exists()

    def fault(self) -> str | None:
        """Check the checksums. Returns what is wrong (a file that is missing or was altered), or None."""
        whole = {"model.safetensors", "optimizer.safetensors"}
        files = set(parts.files_in(self.folder)) if self.is_in_parts else whole
        return find_fault(self.folder, files | {"state.json"})

    def read_weights(self, *, average: bool) -> dict[str, Tensor]:
        """The whole weights by name: with `average` the averaged ones where the run kept them, else the trained ones.
        Low-rank ones are added to those that they were trained beside."""
        if self._is_low_rank:
            weights = read_weights(self.folder / "model.safetensors")
            weights |= read_weights(self.folder / "ema.safetensors") if average and self.has_average else {}
            with taken_apart(self.folder / "state.json"):
                return low_rank.merged(weights, float(self.state()["settings"]["lora"]["alpha"]))
        found = self._all_of("model") if not (average and self.has_average) else self._all_of("ema")
        if lacking := self.shapes(average=False).keys() - found.keys():  # what is not trained has no average
            found |= {name: weight for name, weight in self._all_of("model").items() if name in lacking}
        return found

    def _all_of(self, kind: Kind) -> dict[str, Tensor]:
        if self.is_in_parts:
            return self.read(kind, lambda _: None)
        return read_weights(self.folder / f"{kind}.safetensors")

    def shapes(self, *, average: bool) -> Shapes:
        """The shapes of what `read_weights` reads, of which nothing is read."""
        if self._is_low_rank:
            shapes = read_shapes(self.folder / "model.safetensors")
            return {own: shape for name, shape in shapes.items() if (own := low_rank.own_name(name)) is not None}
        shapes: Shapes = {}
        for kind in ("model", "ema") if average and self.has_average else ("model",):
            if not self.is_in_parts:
                shapes |= read_shapes(self.folder / f"{kind}.safetensors")
                continue
            stored, prefix = parts.stored(self.folder), kind + "/"
            shapes |= {key.removeprefix(prefix): tuple(t.shape) for key, t in stored.items() if key.startswith(prefix)}
        return shapes

    @property
    def _is_low_rank(self) -> bool:
        return not self.is_in_parts and low_rank.is_low_rank(read_header(self.folder / "model.safetensors"))

    @property
    def trains_symbols(self) -> bool:
        """Whether the run is a low-rank one that trains the vectors of symbols too (low_rank.add_low_rank)."""
        return not self.is_in_parts and low_rank.SYMBOL in read_header(self.folder / "model.safetensors")

    def num_weights(self) -> int:
        """How many weights there are, or averages where these are more, by the headers of their files: none is read.
        Raises UserError for a file that is damaged."""
        if self.is_in_parts:
            headers = [read_header(self.folder / name) for name in parts.files_in(self.folder)]
            return max(parts.num_weights(headers, kind) for kind in ("model", "ema"))
        return max(sum(map(math.prod, self.shapes(average=average).values())) for average in (True, False))

    def load_weights(self, model: nn.Module, *, average: bool) -> None:
        """Load the weights into a model of the same shape; which, see `read_weights`. Raises UserError for a model of
        another shape."""
        give_weights(model, self.read_weights(average=average), self.folder)

    def load_training(self, model: nn.Module, ema: EMA, optimizer: Optimizer) -> None:
        """Load everything that `save` stored, so that training continues as if it had not stopped. Raises UserError
        for a model of another shape, and where what is stored is not what is to be loaded, name for name."""
        parameters = dict(model.named_parameters())
        give_weights(model, self.read("model", parameters.get), self.folder)
        if ema.decay > 0:
            averages = self.read("ema", ema.average.get)
            _check_names(self.folder, "average", ema.average.keys(), averages.keys())
            for name, tensor in averages.items():
                ema.average[name].copy_(tensor)
        moments, about = self.read("optimizer", lambda name: parameters.get(name.partition("/")[0])), self.state()
        with taken_apart(self.folder / "state.json"):
            numbers, kind = about.get("optimizer", {}), "optimizer/"
            of_weights = {name: dict(values) for name, values in numbers.get("weights", {}).items()}
            wanted = {name.removeprefix(kind) for name in about.get("tensors", ()) if name.startswith(kind)}
        _check_names(self.folder, "optimizer's state", wanted, moments.keys() & wanted)
        state: dict[int, dict[str, Any]] = {}
        for index, name in enumerate(names_in_order(model, optimizer)):
            prefix = name + "/"
            state[index] = {key.removeprefix(prefix): moments.pop(key) for key in [*moments] if key.startswith(prefix)}
            state[index] |= of_weights.pop(name, {})
        _check_names(self.folder, "optimizer's state", set(), moments.keys() | of_weights.keys())
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        _keep_types(optimizer, state)
        with taken_apart(self.folder / "state.json"):
            give_to_groups(optimizer, numbers)

    def read(self, kind: Kind, like: Callable[[str], Tensor | None]) -> dict[str, Tensor]:
        """Tensors of a kind, by name: each cut over the processes as the tensor `like(name)` is, if there is one."""
        if not self.is_in_parts:
            whole = load_tensors(self.folder / f"{kind}.safetensors")
            if kind == "optimizer":  # used as they are: copied out of the mapped file, which Windows would not remove
                whole = {name: tensor.clone() for name, tensor in whole.items()}
            return {name: _cut_like(like(name), tensor) for name, tensor in whole.items()}
        stored, prefix = parts.stored(self.folder), kind + "/"
        _check_names(self.folder, "list of tensors", set(self.state()["tensors"]), stored.keys())
        into = {key: _empty_like(like(key[len(prefix) :]), t) for key, t in stored.items() if key.startswith(prefix)}
        parts.read(into, self.folder)
        return {key.removeprefix(prefix): tensor for key, tensor in into.items()}


def write_checksums(folder: Path) -> None:
    """Write checksums.json: the sha256 of every file in a folder, by name. It is the last file to be written."""
    checksums = {file.name: sha256(file) for file in sorted(folder.iterdir()) if file.is_file()}
    write_text(folder / CHECKSUMS_FILE, json.dumps(checksums, indent=1))


def find_fault(folder: Path, required: set[str]) -> str | None:
    """Check a folder against its checksums.json, which must list `required`. Returns what is wrong, or None.

    Nothing is read but the files that are listed, each by its plain name. Their sizes are looked at first, so that a
    stranger's folder takes no longer than one of ours with as many weights.
    """
    try:
        checksums = read_object(folder / CHECKSUMS_FILE)
        missing = sorted(required - checksums.keys())
        if missing:
            return f"{CHECKSUMS_FILE} does not list {missing[0]}"
        for name in checksums:
            if name in ("", ".", "..") or set(name) & set("/\\:\0"):
                return f"{CHECKSUMS_FILE} lists {name!r:.80}, which is no name of a file in it"
        _check_sizes(folder, checksums)
        for name, expected in checksums.items():
            if sha256(folder / name) != expected:
                return f"{name} is not what was written (truncated or altered)"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except UserError as error:
        return str(error)
    return None


def _check_sizes(folder: Path, names: Iterable[str]) -> None:
    """Raise UserError for a file that is larger than one of its kind in a folder with so many weights."""
    headers = {name: read_header(folder / name) for name in names if name.endswith(".safetensors")}
    whole = headers.get("model.safetensors")
    num_weights = parts.num_weights(headers.values()) if whole is None else sum(math.prod(s) for _, s in whole.values())
    most_bytes = MOST_STATES * 4 * num_weights + MOST_BYTES
    for name in names:
        check_file(folder / name, most_bytes=most_bytes if name in headers else MOST_LISTED_BYTES)


def load_weights(model: nn.Module, file: Path) -> None:
    """Load weights from a safetensors file, packed ones too (training.packed); see `give_weights`. Where they do not
    fit, nothing but its header is read."""
    check_shapes(model, read_shapes(file), file)
    copy_into(model, each_weight(file))


def give_weights(model: nn.Module, weights: dict[str, Tensor], source: Path) -> None:
    """Give a model weights that were read from `source`. Raises UserError unless their names and shapes are exactly the
    model's."""
    check_shapes(model, {name: tuple(p.shape) for name, p in weights.items()}, source)
    copy_into(model, weights.items())


def copy_into(model: nn.Module, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Give a model weights by name, which it is known to have; those that are not given stay as they are."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():  # by themselves: a dictionary of states has a tied weight twice, and others once
        for name, weight in weights:
            parameters[name].copy_(_cut_like(parameters[name], weight))


def check_shapes(model: nn.Module | Shapes, found: Shapes, source: Path) -> None:
    """Raise UserError unless the weights that were found in `source` have a model's names and shapes."""
    expected = {name: tuple(p.shape) for name, p in model.named_parameters()} if isinstance(model, nn.Module) else model
    if expected != found:
        name = sorted(n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n))[0]
        raise UserError(
            f"{source} does not fit this model: {name:.120} has shape {found.get(name, 'missing')} in the file, "
            f"{expected.get(name, 'missing')} in the model; was the configuration changed?"
        )


Kind = Literal["model", "ema", "optimizer"]
Tensors = dict[Kind, dict[str, Tensor]]
"""What a checkpoint holds, by name: the weights, their average where there is one, and the optimizer's state. Each is
as this process holds it: whole, or a part (DTensor)."""


def collect(model: nn.Module, ema: EMA, optimizer: Optimizer) -> Tensors:
    """All tensors of a checkpoint, where they lie."""
    tensors: Tensors = {"model": dict(model.named_parameters())}
    if ema.decay > 0:
        tensors["ema"] = ema.average
    tensors["optimizer"] = _optimizer_tensors(model, optimizer)
    return {kind: {name: tensor.detach() for name, tensor in found.items()} for kind, found in tensors.items()}


def save(
    folder: Path,
    *,
    step: int,
    tensors: Tensors,
    state: dict[str, Any],
    is_main: bool = True,
    largest_whole_bytes: float = math.inf,
) -> Checkpoint:
    """Write the checkpoint `folder/step-STEP`, atomically and flushed to the disk. Raises UserError where it cannot be
    written, e.g. because the disk is full; the checkpoints before it are untouched then.

    Where weights are shared out, every process must call it: the main one gathers tensor by tensor and writes, or, of
    more than `largest_whole_bytes`, every process writes its parts.
    """
    final = folder / f"step-{step:08d}"
    all_tensors = {f"{kind}/{name}": tensor for kind, found in tensors.items() for name, tensor in found.items()}
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in all_tensors.values())
    in_parts = num_bytes > largest_whole_bytes and any(map(_is_part, all_tensors.values()))
    # in place of an older write of the same step, e.g. by the run that was resumed
    written_aside = folder_written_aside(final) if is_main else nullcontext(aside_of(final))
    with _explain_write_errors(folder), written_aside as aside:
        if in_parts:
            parts.write(all_tensors, aside)
        for kind, found in () if in_parts else tensors.items():
            whole = {name: _joined(tensor, keep=is_main) for name, tensor in found.items()}
            if is_main:
                save_tensors(whole, aside / f"{kind}.safetensors")
        if is_main:
            state = {"format": FORMAT, "step": step, **state, "tensors": sorted(all_tensors)}  # loading orders anew
            write_text(aside / "state.json", json.dumps(state, indent=1))
            write_checksums(aside)
    return Checkpoint(final)


def all_checkpoints(folder: Path) -> list[Checkpoint]:
    """The complete checkpoints in a folder, oldest first: folders of exactly the names that `save` gives."""
    found = [Checkpoint(path) for path in folder.glob("step-*") if step_of(path.name) is not None and path.is_dir()]
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def newest_sound(folder: Path, say: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint whose checksums hold, or None where there are no checkpoints. `say` is told of damaged
    ones, and of what only looks like a checkpoint. Raises UserError where all are damaged."""
    candidates = all_checkpoints(folder)
    known = {checkpoint.folder for checkpoint in candidates}
    if others := sorted(path.name for path in folder.glob("step-*") if path not in known):
        say(f"ignored in {folder}: {', '.join(others)}; a checkpoint is a folder called as step-00001000 is")
    for checkpoint in reversed(candidates):
        fault = checkpoint.fault()
        if fault is None:
            return checkpoint
        if checkpoint.is_gone:
            return newest_sound(folder, say)  # a run at work here has written others meanwhile
        say(f"checkpoint {checkpoint.folder} is damaged: {fault}; falling back to the one before")
    if candidates:
        raise UserError(f"every checkpoint in {folder} is damaged; train again or restore the folder from a copy")
    return None


def tidy(folder: Path, *, newest: Checkpoint, best_step: int | None, keep_interval_steps: int) -> None:
    """Delete all checkpoints but the newest two, the best, and multiples of `keep_interval_steps` (0: none of these);
    then point `last` and `best` at theirs.

    Checkpoints after `newest` are deleted too: a resumed run fell back from them because they were damaged.
    """
    checkpoints = all_checkpoints(folder)
    for checkpoint in checkpoints:
        if checkpoint.step > newest.step:
            remove_folder(checkpoint.folder)
    for checkpoint in [c for c in checkpoints if c.step < newest.step][:-1]:
        kept = keep_interval_steps and checkpoint.step % keep_interval_steps == 0
        if not kept and checkpoint.step != best_step:
            remove_folder(checkpoint.folder)
    _link(folder / "last", newest.folder.name)
    if best_step is not None:
        _link(folder / "best", f"step-{best_step:08d}")


def _link(path: Path, target: str) -> None:
    aside = path.with_name(f".{path.name}.writing")
    aside.unlink(missing_ok=True)
    try:
        aside.symlink_to(target)
    except OSError:  # Windows makes links for administrators only
        aside.write_text(target, encoding="utf-8")
    if path.is_dir() and not path.is_symlink():  # what some ways of copying make of a link
        shutil.rmtree(path)
    aside.replace(path)


def sha256(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def names_in_order(model: nn.Module, optimizer: Optimizer) -> list[str]:
    """The names of an optimizer's weights, in its order."""
    name_of = {id(p): name for name, p in model.named_parameters()}
    return [name_of[id(p)] for group in optimizer.param_groups for p in group["params"]]


def _optimizer_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    names = names_in_order(model, optimizer)
    state: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    entries = [(f"{names[i]}/{key}", value) for i, entry in state.items() for key, value in entry.items()]
    return {name: value for name, value in entries if isinstance(value, Tensor)}


def _keep_types(optimizer: Optimizer, state: dict[int, dict[str, Any]]) -> None:
    """Give the state of an optimizer the types that it was stored in: torch loads it in those of the weights, which
    would round float32 moments of bf16 weights."""
    for index, p in enumerate(p for group in optimizer.param_groups for p in group["params"]):
        for key, value in state[index].items():
            loaded = optimizer.state[p][key]
            if isinstance(value, Tensor) and loaded.dtype != value.dtype:
                optimizer.state[p][key] = value.to(loaded.device)


def _joined(tensor: Tensor, *, keep: bool) -> Tensor:
    """The whole of a tensor. Where processes hold parts of it, it is put together on the CPU, where it is to be kept:
    it may not fit elsewhere."""
    if not _is_part(tensor):
        return tensor.contiguous()
    whole = tensor.full_tensor()
    return whole.cpu().contiguous() if keep else torch.empty(0)


def _is_part(tensor: Tensor | None) -> TypeGuard[DTensor]:
    """Whether other processes hold the rest of a tensor. The import of DTensor takes half a second, and where nobody
    has imported it there is none."""
    found = sys.modules.get("torch.distributed.tensor")
    return found is not None and isinstance(tensor, found.DTensor)


def _cut_like(part: Tensor | None, whole: Tensor) -> Tensor:
    """This process's part of the tensor `whole`, cut as `part` is. A number, such as a count of steps, is not cut."""
    if not _is_part(part) or _is_part(whole) or whole.ndim == 0:
        return whole
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(whole.to(part.device), part.device_mesh, part.placements)


def _empty_like(part: Tensor | None, whole: Tensor) -> Tensor:
    """Room for this process's part of a tensor of the shape and type of `whole`, cut as `part` is."""
    if not _is_part(part) or whole.ndim == 0:
        return torch.empty(whole.shape, dtype=whole.dtype)
    from torch.distributed import tensor

    return tensor.empty(whole.shape, dtype=whole.dtype, device_mesh=part.device_mesh, placements=part.placements)


def _check_names(folder: Path, what: str, expected: Collection[str], found: Collection[str]) -> None:
    """Raises UserError unless both hold the same names."""
    for name in sorted(set(expected) ^ set(found)):
        whose = "and there is none in the checkpoint" if name in expected else "which the run does not have"
        raise UserError(f"{folder} does not fit this run: its {what} {name}, {whose}; was the configuration changed?")


@contextmanager
def _explain_write_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        written = all_checkpoints(folder)
        kept = f"the last good checkpoint is {written[-1].folder}" if written else "no checkpoint was written before"
        raise UserError(
            f"could not write a checkpoint to {folder}: {error}; {kept}. Free some space, then continue with\n"
            f"  {call('train', resume=folder.parent)}"
        ) from error
