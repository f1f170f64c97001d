"""The files of a published model in the hub's format: weights in one file or several, and what its page says of it."""

from __future__ import annotations

import math
import re
from pathlib import Path

from torch import Tensor

from mdlm_atat.config.size import machine_memory
from mdlm_atat.errors import UserError
from mdlm_atat.formats import count, data_size
from mdlm_atat.published.hub import INDEX, MOST_INDEX_BYTES
from mdlm_atat.small_files import RESTORE, read_object, read_small, taken_apart
from mdlm_atat.training.packed import FLOATS, load_tensors, read_header

WEIGHTS = "model.safetensors"
MOST_NAME = 200  # letters of the name of a file


def name_of_published(path: Path) -> str:
    """What a published model is called: OWNER/NAME in the hub's cache, elsewhere the name of its folder or file."""
    path = path.absolute()
    if path.parent.name == "snapshots":
        return path.parents[1].name.removeprefix("models--").replace("--", "/", 1)
    return path.stem if path.is_file() else path.resolve().name


def weight_files(folder: Path) -> dict[str, Path]:
    """The file of every weight in a folder, by the weight's name: all in model.safetensors or, where there is none, in
    the files that its index names. The headers are read and no weight. Raises UserError for a file that is missing or
    damaged, or does not hold what the index says, and for numbers that are no plain ones."""
    files: dict[str, set[str]] = {}
    """What an index says of each file."""
    if (folder / WEIGHTS).exists():  # it wins, as it does in transformers
        files[WEIGHTS] = set()
    elif (folder / INDEX).exists():
        index = read_object(folder / INDEX, most_bytes=MOST_INDEX_BYTES)
        with taken_apart(folder / INDEX):
            for name, file in index["weight_map"].items():
                files.setdefault(str(file), set()).add(name)
        for file in files:
            if Path(file).name != file or not file.endswith(".safetensors") or len(file) > MOST_NAME:
                raise UserError(f"{folder / INDEX} is damaged (it names the file {file!r:.80}); {RESTORE}")
            if not (folder / file).exists():
                raise UserError(f"{folder} has lost {file}, which holds a part of its weights; {RESTORE}")
    else:
        pickled = "; pytorch_model.bin is a pickle, which could run code, and is not read"
        for link in (folder / WEIGHTS, folder / INDEX):
            if link.is_symlink():
                raise UserError(f"{link} is a link to {link.readlink()}, where nothing is; put a copy in its place")
        raise UserError(
            f"{folder} holds no weights: expected {WEIGHTS} or {INDEX}"
            f"{pickled if any(folder.glob('pytorch_model*.bin')) else ''}"
        )
    found: dict[str, Path] = {}
    for file, expected in files.items():
        header = read_header(folder / file)
        if expected and expected != header.keys():
            name = sorted(expected ^ header.keys())[0]
            raise UserError(f"{folder / file} and {INDEX} do not agree on {name!r:.120}; {RESTORE}")
        for name, (dtype, _) in header.items():
            if dtype not in FLOATS:
                raise UserError(
                    f"{folder / file} has {name!r:.120} as {dtype}, and weights are read as {', '.join(FLOATS)} only: "
                    "is it quantised? Take the model that it was made from"
                )
        found |= dict.fromkeys(header, folder / file)
    if not found:
        raise UserError(f"{folder} holds no weights: {WEIGHTS} or {INDEX} is there and names none; {RESTORE}")
    return found


def read_tensors(files: dict[str, Path]) -> dict[str, Tensor]:
    """All weights by name, in the types that they are stored in. Raises UserError where they would not fit into this
    machine's memory, before any is read."""
    places = list(dict.fromkeys(files.values()))
    check_fits(
        str(places[0].parent), sum(math.prod(shape) for file in places for _, shape in read_header(file).values())
    )
    tensors: dict[str, Tensor] = {}
    for file in places:
        tensors |= load_tensors(file)
    return tensors


def check_fits(name: str, num_weights: int, bytes_each: float = 4) -> None:
    """Raise UserError where so many weights do not fit into this machine's memory, at `bytes_each` while they are read:
    4 in float32, and more where some are there twice."""
    memory, needed = machine_memory() or math.inf, bytes_each * num_weights
    if needed > memory:
        raise UserError(
            f"{name} has {count(num_weights)} weights, which take {data_size(needed)} to read; this machine has "
            f"{data_size(memory)} of memory"
        )


def licence_of(folder: Path) -> str | None:
    """The licence in the header of a folder's README.md; None where it says none."""
    try:
        text = read_small(folder / "README.md").decode("utf-8", "replace")
    except (OSError, UserError):
        return None
    header = text.split("\n---", 1)[0] if text.startswith("---") else ""
    found = re.search(r"^license: *([\w.+-]+)", header, re.MULTILINE)
    return None if found is None else found[1]
