"""What kind of folder a trained model is named by. No torch here: a mistyped path is answered at once."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from mdlm_atat.atomic import is_aside
from mdlm_atat.errors import UserError
from mdlm_atat.small_files import read_object, read_small

CLASSIFIER_FILE = "classifier.json"
BOX_NAME = "box"
"""What the model in the box is called wherever a model is named."""
ORIGIN_FILE = "origin.json"
"""In the folder of a published model that was read: where it comes from."""
PARTIAL = ".partial"
"""What the name of a folder of the cache ends in while it is made."""
PUBLISHED_FILES = (".gguf", ".ckpt")
"""Files of weights that a model is named by, as others publish them."""
BOX = Path(__file__).parent / "box"
"""The folder of the model that comes with this package."""
_CHECKPOINT_NAME = re.compile(r"step-([0-9]{8}|[1-9][0-9]{8,})")


def step_of(name: str) -> int | None:
    """The step of the checkpoint folder of this name; None for any other name, such as that of a copy beside it
    (`step-00000060.bak`, `step-00000060 (copy)`)."""
    found = _CHECKPOINT_NAME.fullmatch(name)
    return None if found is None else int(found[1])


LOCK_FILE = ".lock"
"""Says which process may write a run's folder (training.owner)."""
START_FILES = {"run.json", "tokenizer", "plugins.json", "counts.npy", "phrases.json"}
"""What is written into the folder of a run before its first step, but for config.yaml, which is the last."""


def is_unfinished_start(folder: Path) -> bool:
    """Whether a folder holds what a run leaves that was killed while it wrote its first files, and nothing else. They
    can be written again."""
    names = _own_names(folder)
    return "run.json" in names and names <= START_FILES


def is_free(folder: Path) -> bool:
    """Whether a run may be written to a folder: it is not there, or empty but for what a killed start has left."""
    return not folder.exists() or (folder.is_dir() and (not _own_names(folder) or is_unfinished_start(folder)))


def _own_names(folder: Path) -> set[str]:
    """What is in a folder, but for a lock and what killed processes were writing."""
    return {path.name for path in folder.iterdir() if path.name != LOCK_FILE and not is_aside(path.name)}


def kind_of_folder(folder: Path) -> Literal["checkpoint", "saved", "classifier", "run", "published"]:
    """A checkpoint of a run (also the links `best` and `last`), a model made by save_pretrained, a classifier of texts,
    a run, or what somebody else has published: a folder in the hub's format, or a file of weights.

    Raises UserError for anything else. Whether the files in it are sound is not looked at.
    """
    folder = follow(folder)
    if folder == BOX and not (BOX / "model.safetensors").exists():
        raise UserError("this installation has no model in the box: name a run, such as runs/demo")
    if is_published(folder):
        return "published"
    if folder.is_file():
        raise UserError(f"{folder} is a file: name the folder of a run or model, or a .gguf or .ckpt file")
    if not folder.is_dir() and folder.is_symlink():
        raise UserError(f"{folder} is a link to {folder.readlink()}, where nothing is: mend the link, or name a model")
    if not folder.is_dir():
        raise UserError(
            f"there is no {'file' if folder.suffix in PUBLISHED_FILES else 'folder'} {folder}; expected a run such as "
            "runs/demo, or a checkpoint of one, or a model of the hub as hub:OWNER/NAME"
        )
    real = folder.resolve()
    if real.name.startswith("step-") and real.parent.name == "checkpoints":
        if step_of(real.name) is None:
            raise UserError(
                f"{folder} is not called what a checkpoint is (step-00001000): name the run {real.parent.parent}, or "
                "copy the folder to checkpoints/ of a copy of the run, under its own name"
            )
        return "checkpoint"
    if (folder / CLASSIFIER_FILE).exists():
        return "classifier"
    if (folder / "model.safetensors").exists():
        return "saved"
    if (folder / "config.yaml").exists():
        return "run"
    raise UserError(f"{folder} is neither a run folder (no config.yaml), nor one of its checkpoints, nor a saved model")


def is_published(path: Path) -> bool:
    """Whether a path is what others publish: a folder in the hub's format without our configuration, or a file."""
    if path.is_file():
        return path.suffix in PUBLISHED_FILES
    return (path / "config.json").is_file() and not any(
        (path / name).exists() for name in ("config.yaml", CLASSIFIER_FILE)
    )


def find_classifier(folder: Path) -> Path:
    """The folder of the classifier that a path stands for: itself, or the only one in it, or in the results of
    fine-tuning that it holds. Raises UserError where there is none, or more than one."""
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; expected a classifier that `finetune` made")
    if (folder / CLASSIFIER_FILE).exists():
        return folder
    found = sorted(
        file.parent for pattern in ("[!.]*", "finetune/[!.]*") for file in folder.glob(f"{pattern}/{CLASSIFIER_FILE}")
    )
    match found:
        case [only]:
            return only
        case []:
            raise UserError(f"{folder} holds no classifier; make one with `finetune({str(folder)!r}, task=...)`")
        case several:
            raise UserError(f"{folder} holds several classifiers; name one of {', '.join(map(str, several))}")


def follow(path: Path) -> Path:
    """The checkpoint folder that `last` or `best` stands for, where that is a text file, or a folder as some ways of
    copying make of a link; for `box`, where no model of that name is here, the folder of the model in the box; any
    other path as it is."""
    if path == Path(BOX_NAME) and not (path / "config.yaml").exists():
        return BOX
    if path.name not in ("last", "best") or path.is_symlink():
        return path
    if path.is_file():
        name = read_small(path).decode("utf-8", "replace").strip()
        if step_of(name) is None:
            raise UserError(f"{path} should hold the name of a checkpoint, such as step-00001000; name one yourself")
        return path.with_name(name)
    try:
        meant = path.with_name(f"step-{read_object(path / 'state.json')['step']:08d}")
    except (OSError, UserError, ValueError, KeyError, TypeError):
        return path
    return meant if step_of(meant.name) is not None and meant.is_dir() else path


def name_of(model: Path) -> str:
    """What a model's folder is called where a model is named."""
    return BOX_NAME if follow(model) == BOX else str(model)


def title_of(model: Path) -> str:
    """A model's folder as a person is shown it."""
    return "the model in the box" if follow(model) == BOX else str(model)


def results_folder(home: Path, name: str) -> Path:
    """The folder for what is found out about the model in `home`: in it, or in the working directory for a model whose
    folder is not the user's (see `borrowed_name`)."""
    return home / name if borrowed_name(home) is None else Path(name)


def borrowed_name(home: Path) -> str | None:
    """What the model in `home` is called in the names of files, if its folder is no place to keep anything: that of the
    model in the box, which belongs to the installed package, of a published model in our cache, or of a model in the
    hub's cache. None for a folder of the user's own."""
    if home == BOX:
        return BOX_NAME
    if home.parent == models_folder():
        return home.name
    if home.parent.name == "snapshots" and home.parents[1].name.startswith("models--"):
        return f"{home.parents[1].name.removeprefix('models--')}-{home.name[:12]}"  # the commit
    return None


def preparing_file(folder: Path) -> Path:
    """The file whose lock a process has while it makes a folder of the cache."""
    return folder.with_name(f".{folder.name.removesuffix(PARTIAL)}.lock")


def models_folder() -> Path:
    """Where published models are kept once they are read."""
    return cache_home() / "models"


def cache_home() -> Path:
    """$ATAT_CACHE, else ~/.cache/mdlm-atat."""
    return Path(os.environ.get("ATAT_CACHE") or "~/.cache/mdlm-atat").expanduser().resolve()
