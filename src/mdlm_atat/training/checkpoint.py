"""Checkpoints: the one place where they are written and read.

A run keeps them in `checkpoints/step-00001000/`: `model.safetensors` (the weights), `ema.safetensors` (their
average), `optimizer.safetensors`, `state.json`, and `checksums.json`, written last; `last` and `best` are links (text
files with a checkpoint's name where links cannot be made). A checkpoint is written aside, synced to disk and renamed,
so a folder under its final name is complete; its checksums are verified when it is read. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import safetensors
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import Optimizer

from mdlm_atat.atomic import folder_written_aside, write_text
from mdlm_atat.errors import UserError
from mdlm_atat.model_folder import step_of
from mdlm_atat.nets.ema import EMA
from mdlm_atat.training.packed import read_weights, save_tensors

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

FORMAT = 1


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
        state = json.loads((self.folder / "state.json").read_text(encoding="utf-8"))
        if state["format"] != FORMAT:
            raise UserError(
                f"{self.folder} was written in format {state['format']}, this version reads {FORMAT}; "
                "continue it with the version that wrote it"
            )
        return state

    def checksum(self) -> str:
        """A sha256 that identifies the checkpoint, to be stored with numbers measured on it."""
        return hashlib.sha256((self.folder / "checksums.json").read_bytes()).hexdigest()

    def fault(self) -> str | None:
        """Check the checksums. Returns what is wrong (a file that is missing or was altered), or None."""
        return find_fault(self.folder, {"model.safetensors", "optimizer.safetensors", "state.json"})

    def load_weights(self, model: nn.Module, *, average: bool) -> None:
        """Load the weights into a model of the same shape: with `average` the averaged ones where the run kept them,
        else the trained ones. Raises UserError for a model of another shape."""
        ema = self.folder / "ema.safetensors"
        load_weights(model, ema if average and ema.exists() else self.folder / "model.safetensors")

    def load_training(self, model: nn.Module, ema: EMA, optimizer: Optimizer) -> None:
        """Load everything that `save` stored, so that training continues as if it had not stopped."""
        load_weights(model, self.folder / "model.safetensors")
        if ema.decay > 0:
            for name, tensor in load_file(self.folder / "ema.safetensors").items():
                ema.average[name].copy_(_cut_like(ema.average[name], tensor))
        # copied out of the mapped file, which Windows would not remove while it is in use
        moments = {name: tensor.clone() for name, tensor in load_file(self.folder / "optimizer.safetensors").items()}
        parameters = dict(model.named_parameters())
        state: dict[int, dict[str, Tensor]] = {}
        for index, name in enumerate(_names_in_optimizer_order(model, optimizer)):
            prefix = name + "/"
            own = {k.removeprefix(prefix): v for k, v in moments.items() if k.startswith(prefix)}
            # the step count is a number; the moments are shaped as their parameter
            state[index] = {k: v if v.ndim == 0 else _cut_like(parameters[name], v) for k, v in own.items()}
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def write_checksums(folder: Path) -> None:
    """Write checksums.json: the sha256 of every file in a folder, by name. It is the last file to be written."""
    checksums = {file.name: sha256(file) for file in sorted(folder.iterdir()) if file.is_file()}
    write_text(folder / "checksums.json", json.dumps(checksums, indent=1))


def find_fault(folder: Path, required: set[str]) -> str | None:
    """Check a folder against its checksums.json, which must list `required`. Returns what is wrong, or None."""
    try:
        checksums = json.loads((folder / "checksums.json").read_bytes())
        missing = sorted(required - checksums.keys())
        if missing:
            return f"checksums.json does not list {missing[0]}"
        for name, expected in checksums.items():
            if sha256(folder / name) != expected:
                return f"{name} is not what was written (truncated or altered)"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (ValueError, AttributeError):
        return "checksums.json cannot be read"
    return None


def load_weights(model: nn.Module, file: Path, *, may_lack: Collection[str] = ()) -> None:
    """Load weights from a safetensors file, packed ones too (training.packed). Raises UserError unless its names and
    shapes are exactly the model's, but for those that it `may_lack`, which stay as they are."""
    weights = read_weights(file)
    parameters = dict(model.named_parameters())
    weights |= {name: parameters[name].detach() for name in may_lack if name in parameters and name not in weights}
    expected = {name: tuple(p.shape) for name, p in parameters.items()}
    found = {name: tuple(p.shape) for name, p in weights.items()}
    if expected != found:
        name = sorted(n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n))[0]
        raise UserError(
            f"{file} does not fit this model: {name} has shape {found.get(name, 'missing')} in the file, "
            f"{expected.get(name, 'missing')} in the model; was the configuration changed?"
        )
    model.load_state_dict({name: _cut_like(parameters[name], tensor) for name, tensor in weights.items()}, strict=True)


Tensors = dict[str, dict[str, Tensor]]
"""File name -> name -> tensor."""


def collect(model: nn.Module, ema: EMA, optimizer: Optimizer) -> Tensors:
    """All tensors of a checkpoint. Where weights are sharded every process must call this, and gets all of them."""
    tensors: Tensors = {"model.safetensors": dict(model.named_parameters())}
    if ema.decay > 0:
        tensors["ema.safetensors"] = ema.average
    tensors["optimizer.safetensors"] = _optimizer_tensors(model, optimizer)
    return {file: {name: _joined(tensor) for name, tensor in found.items()} for file, found in tensors.items()}


def save(folder: Path, *, step: int, tensors: Tensors, state: dict[str, Any]) -> Checkpoint:
    """Write the checkpoint `folder/step-STEP`, atomically and flushed to the disk. Raises UserError where it cannot be
    written, e.g. because the disk is full; the checkpoints before it are untouched then."""
    final = folder / f"step-{step:08d}"
    # in place of an older write of the same step, e.g. by the run that was resumed
    with _explain_write_errors(folder), folder_written_aside(final) as aside:
        for file, found in tensors.items():
            save_tensors(found, aside / file)
        write_text(aside / "state.json", json.dumps({"format": FORMAT, "step": step, **state}, indent=1))
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
            shutil.rmtree(checkpoint.folder)
    for checkpoint in [c for c in checkpoints if c.step < newest.step][:-1]:
        kept = keep_interval_steps and checkpoint.step % keep_interval_steps == 0
        if not kept and checkpoint.step != best_step:
            shutil.rmtree(checkpoint.folder)
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
    aside.replace(path)


def sha256(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _names_in_optimizer_order(model: nn.Module, optimizer: Optimizer) -> list[str]:
    name_of = {id(p): name for name, p in model.named_parameters()}
    return [name_of[id(p)] for group in optimizer.param_groups for p in group["params"]]


def _optimizer_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    names = _names_in_optimizer_order(model, optimizer)
    state: dict[int, dict[str, Tensor]] = optimizer.state_dict()["state"]
    return {f"{names[i]}/{key}": value for i, entry in state.items() for key, value in entry.items()}


def _joined(tensor: Tensor) -> Tensor:
    """The whole of a tensor. Where processes hold parts of it, it is put together on the CPU: it may not fit
    elsewhere."""
    tensor = tensor.detach()
    return (tensor.full_tensor().cpu() if _is_part(tensor) else tensor).contiguous()


def _is_part(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether other processes hold the rest of a tensor. The import of DTensor takes half a second, and where nobody
    has imported it there is none."""
    found = sys.modules.get("torch.distributed.tensor")
    return found is not None and isinstance(tensor, found.DTensor)


def _cut_like(part: Tensor, whole: Tensor) -> Tensor:
    """This process's part of the tensor `whole`, cut as `part` is."""
    if not _is_part(part):
        return whole
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(whole.to(part.device), part.device_mesh, part.placements)


@contextmanager
def _explain_write_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, safetensors.SafetensorError) as error:
        written = all_checkpoints(folder)
        kept = f"the last good checkpoint is {written[-1].folder}" if written else "no checkpoint was written before"
        raise UserError(
            f"could not write a checkpoint to {folder}: {error}; {kept}. Free some space, then continue with\n"
            f"  `train(resume='{folder.parent}')`"
        ) from error
