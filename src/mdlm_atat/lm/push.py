"""Sending a model to the hub."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from mdlm_atat.atomic import write_bytes, write_text
from mdlm_atat.lm.card import CARD_FILE, renamed, write_card
from mdlm_atat.model_folder import borrowed_name
from mdlm_atat.published.hub import PREFIX
from mdlm_atat.published.push import lies_beside
from mdlm_atat.small_files import check_file
from mdlm_atat.training.packed import Packing, packing_of

if TYPE_CHECKING:
    from mdlm_atat.lm.base import LanguageModel


@contextmanager
def saved_for(lm: LanguageModel, repository: str, weights: Packing | None) -> Iterator[Path]:
    """The folder of a model as it is sent to the hub, until the block ends. `weights` None: packed as they are in the
    saved folder that the model comes from, in float32 for any other. That folder's card goes along, and what lies
    beside it."""
    name = f"{PREFIX}{repository.removeprefix(PREFIX)}"
    saved = lm.home if lm.home is not None and lm.checkpoint is None and borrowed_name(lm.home) is None else None
    packing = weights or ("float32" if saved is None else packing_of(saved / "model.safetensors"))
    with TemporaryDirectory(prefix="atat-push-") as place:
        folder = lm.save_pretrained(Path(place) / name.rpartition("/")[2], weights=packing)
        write_card(lm, folder, name=name, packing=packing)
        if saved is not None:
            copy_beside(saved, folder)
            if (saved / CARD_FILE).is_file():
                write_text(folder / CARD_FILE, renamed((saved / CARD_FILE).read_text("utf-8"), saved.name, name))
        yield folder


def copy_beside(saved: Path, folder: Path) -> None:
    """Copy what somebody put beside a saved model, its card among it. Raises UserError for a link that leads out of the
    folder: what it leads to is not meant to be published."""
    for file in saved.iterdir():
        if lies_beside(file.name) and file.is_file():
            check_file(file, most_bytes=math.inf)
            write_bytes(folder / file.name, file.read_bytes())
