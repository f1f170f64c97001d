"""Sending a model to the hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from mdlm_atat.lm.card import write_card
from mdlm_atat.published.hub import PREFIX
from mdlm_atat.published.push import check_target, plan, send
from mdlm_atat.training.packed import Packing, check_packing

if TYPE_CHECKING:
    from mdlm_atat.lm.base import LanguageModel


def push(
    lm: LanguageModel,
    repository: str,
    private: bool | None,
    message: str | None,
    revision: str | None,
    weights: Packing,
    *,
    replace: bool,
) -> str:
    """Send a model to the hub; see `LanguageModel.push_to_hub`."""
    check_packing(weights)
    target = check_target(repository, revision=revision, replace=replace)
    with saved_for(lm, repository, weights) as folder:
        return send(plan(folder, target), private=private, message=message)


@contextmanager
def saved_for(lm: LanguageModel, repository: str, weights: Packing) -> Iterator[Path]:
    """The folder of a model with the card that it has on the hub, until the block ends."""
    repository = repository.removeprefix(PREFIX)
    with TemporaryDirectory(prefix="atat-push-") as place:
        folder = lm.save_pretrained(Path(place) / repository.rpartition("/")[2], weights=weights)
        write_card(lm, folder, name=f"{PREFIX}{repository}", packing=weights)
        yield folder
