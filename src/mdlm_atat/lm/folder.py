"""Where a trained model is found."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mdlm_atat.config.files import folder_config
from mdlm_atat.config.size import least_weights, machine_memory, most_weights
from mdlm_atat.core.curriculum import Stage
from mdlm_atat.errors import UserError
from mdlm_atat.formats import count, data_size
from mdlm_atat.model_folder import kind_of_folder
from mdlm_atat.published.place import find_model, folder_of
from mdlm_atat.small_files import RESTORE, check_folder, read_object, taken_apart
from mdlm_atat.training.checkpoint import Checkpoint, all_checkpoints, find_fault, newest_sound
from mdlm_atat.training.packed import Shapes, read_shapes

STAGE_FILE = "stage.json"
PROFILE_FILE = "profile.json"


@dataclass(frozen=True)
class Located:
    """Where a model is: a run with the checkpoint to use, or a folder made by save_pretrained."""

    home: Path
    checkpoint: Checkpoint | None

    def shapes(self) -> Shapes:
        """The shapes of its weights, averaged ones where they were kept. None of them is read."""
        if self.checkpoint is None:
            return read_shapes(self.home / "model.safetensors")
        return self.checkpoint.shapes(average=True)

    def check_size(self) -> None:
        """Raise UserError where there are fewer weights than the configuration asks for, or more, or more than fit into
        this machine's memory. Takes neither memory nor time, whatever a stranger has written into either file. What is
        damaged is passed over: the checksums say so."""
        try:
            if self.checkpoint is None:
                num_weights = sum(map(math.prod, self.shapes().values()))
            else:
                num_weights = self.checkpoint.num_weights()
        except (UserError, OSError):
            return
        config, memory = folder_config(self.home), machine_memory() or math.inf
        if not least_weights(config) <= num_weights <= most_weights(config):
            raise UserError(
                f"{self.name} has {count(num_weights)} weights, and {self.home / 'config.yaml'} asks for "
                f"{count(least_weights(config))} and those of the vocabulary: they do not belong together; {RESTORE}"
            )
        if 4 * num_weights > memory:
            raise UserError(
                f"{self.name} has {count(num_weights)} weights, which take {data_size(4 * num_weights)}; this machine "
                f"has {data_size(memory)} of memory"
            )

    @property
    def name(self) -> str:
        """The folder of the weights."""
        return str(self.home if self.checkpoint is None else self.checkpoint.folder)


def locate(
    name: Path, say: Callable[[str], None], *, revision: str | None = None, cache_dir: str | Path | None = None
) -> Located:
    """Find the model in a run folder (its newest sound checkpoint), a checkpoint (also by the links `best` and `last`)
    or a folder made by save_pretrained; on the hub (hub:OWNER/NAME); or in what others have published, which is read
    once and kept in the cache. `say` is told of damaged checkpoints that were passed over; `revision` and `cache_dir`
    as for `find_model`. Raises UserError where there is no model, or a damaged one."""
    folder = folder_of(find_model(name, revision=revision, cache_dir=cache_dir))
    kind, real = kind_of_folder(folder), folder.resolve()
    if kind == "classifier":
        raise UserError(
            f"{folder} holds a classifier, whose network tells labels and writes no text; open it with "
            f"`TextClassifier.from_pretrained({str(folder)!r})`, or name the model that it was made from"
        )
    if kind == "checkpoint":
        home, checkpoint = real.parent.parent, Checkpoint(real)
        Located(home, checkpoint).check_size()
        fault = checkpoint.fault()
        if fault is not None:
            raise UserError(f"checkpoint {folder} is damaged: {fault}; name the run {home} to use another one")
    elif kind == "saved":
        home, checkpoint = folder, None
        Located(home, None).check_size()
        fault = find_fault(folder, {"model.safetensors", "config.yaml"})
        if fault is not None:
            raise UserError(f"the saved model {folder} is damaged: {fault}; save it again or restore it from a copy")
    else:
        for candidate in all_checkpoints(folder / "checkpoints"):
            Located(folder, candidate).check_size()
        home, checkpoint = folder, newest_sound(folder / "checkpoints", say)
        if checkpoint is None:
            folder_config(folder)  # a config.yaml that is of something else says so
            raise UserError(f"{folder} holds no checkpoint yet; go on with `train(resume={str(folder)!r})`")
    if not (home / "tokenizer").is_dir():
        raise UserError(f"{home} has lost its folder tokenizer; restore it from a copy")
    check_folder(home / "tokenizer")
    return Located(home, checkpoint)


def read_stage(found: Located) -> Stage | None:
    """The stage of the curriculum that the model was last trained in; None where it had no curriculum."""
    if found.checkpoint is not None:
        file, stored = found.checkpoint.folder / "state.json", found.checkpoint.state().get("stage")
    else:
        file = found.home / STAGE_FILE
        stored = read_object(file) if file.exists() else None
    with taken_apart(file):
        return None if stored is None else Stage.from_json(stored)
