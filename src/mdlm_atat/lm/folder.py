"""Where a trained model is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mdlm_atat.core.curriculum import Stage
from mdlm_atat.errors import UserError
from mdlm_atat.model_folder import follow, kind_of_folder
from mdlm_atat.training.checkpoint import Checkpoint, find_fault, newest_sound

STAGE_FILE = "stage.json"
PROFILE_FILE = "profile.json"


@dataclass(frozen=True)
class Located:
    """Where a model is: a run with the checkpoint to use, or a folder made by save_pretrained."""

    home: Path
    checkpoint: Checkpoint | None


def locate(folder: Path, say: Callable[[str], None]) -> Located:
    """Find the model in a run folder (its newest sound checkpoint), a checkpoint (also by the links `best` and `last`)
    or a folder made by save_pretrained. `say` is told of damaged checkpoints that were passed over. Raises UserError
    where there is no model, or a damaged one."""
    folder = follow(folder)
    kind, real = kind_of_folder(folder), folder.resolve()
    if kind == "classifier":
        raise UserError(
            f"{folder} holds a classifier, whose network tells labels and writes no text; open it with "
            f"`TextClassifier.from_pretrained({str(folder)!r})`, or name the model that it was made from"
        )
    if kind == "checkpoint":
        home, checkpoint = real.parent.parent, Checkpoint(real)
        fault = checkpoint.fault()
        if fault is not None:
            raise UserError(f"checkpoint {folder} is damaged: {fault}; name the run {home} to use another one")
    elif kind == "saved":
        home, checkpoint = folder, None
        fault = find_fault(folder, {"model.safetensors", "config.yaml"})
        if fault is not None:
            raise UserError(f"the saved model {folder} is damaged: {fault}; save it again or restore it from a copy")
    else:
        home, checkpoint = folder, newest_sound(folder / "checkpoints", say)
        if checkpoint is None:
            raise UserError(f"{folder} holds no checkpoint yet; go on with `train(resume={str(folder)!r})`")
    if not (home / "tokenizer").is_dir():
        raise UserError(f"{home} has lost its folder tokenizer; restore it from a copy")
    return Located(home, checkpoint)


def read_stage(found: Located) -> Stage | None:
    """The stage of the curriculum that the model was last trained in; None where it had no curriculum."""
    if found.checkpoint is not None:
        stored = found.checkpoint.state().get("stage")
    elif (found.home / STAGE_FILE).exists():
        stored = json.loads((found.home / STAGE_FILE).read_text(encoding="utf-8"))
    else:
        stored = None
    return None if stored is None else Stage.from_json(stored)
