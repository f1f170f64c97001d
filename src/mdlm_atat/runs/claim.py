"""A run's folder while the run writes it: it belongs to one process, and may be moved or deleted meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mdlm_atat.atomic import sweep
from mdlm_atat.config.files import load_config
from mdlm_atat.config.schema import RunConfig
from mdlm_atat.errors import UserError
from mdlm_atat.runs.request import RunRequest
from mdlm_atat.training.engine import Engine
from mdlm_atat.training.folder import check_free
from mdlm_atat.training.loop import Progress
from mdlm_atat.training.owner import Owned, Owner

Say = Callable[[str], None]
ABANDONED_S = 3600.0  # a file that was half written so long ago is nobody's any more


@contextmanager
def owned_folder(request: RunRequest, engine: Engine, say: Say) -> Iterator[tuple[Path, Owner | None]]:
    """The run's folder, which only this run may write within the block, and in the main process its owner. Raises
    UserError where another process owns it, where a new run's folder holds something, and where it is moved or
    deleted meanwhile."""
    owners: list[Owner] = []

    def claim() -> Path:
        owners.append(claim_folder(request, say))
        make_ready(owners[0].folder, request.resumed_config)
        return owners[0].folder

    try:
        folder = engine.on_main(claim)
        yield folder, next(iter(owners), None)
    except OSError as error:
        if not owners or owners[0].is_in_place():
            raise
        raise UserError(f"{owners[0].folder} was moved or deleted while it was written: {error}") from error
    finally:
        for owner in owners:
            owner.release()


def claim_folder(request: RunRequest, say: Say) -> Owner:
    """Become the owner of the folder of a run."""
    for folder in request.folders:
        is_named = request.out is not None or request.resume is not None
        if not is_named and folder.exists():
            continue
        if request.resume is None:
            check_free(folder)
        try:
            return Owner.of(folder, say)
        except Owned:
            if is_named:
                raise
    raise AssertionError  # there is always another name


def make_ready(folder: Path, resumed_from: RunConfig | None) -> None:
    """Remove from the folder of a run what killed processes were writing in it. Raises UserError where the folder has
    changed since it was looked at, before it had an owner."""
    if resumed_from is None:
        check_free(folder)
    elif load_config(os.fspath(folder)) != resumed_from:
        raise UserError(f"another process has just changed {folder / 'config.yaml'}: give the command again")
    sweep(folder / "checkpoints")
    # readers of a run may be writing beside them: an evaluation, a report
    for beside in (folder, folder / "evals"):
        sweep(beside, older_than_s=0.0 if resumed_from is None else ABANDONED_S)


def check_in_place(owner: Owner | None, progress: Progress) -> None:
    """Raises UserError where the run's folder was moved or deleted in training."""
    if owner is not None and owner.left is not None:
        raise UserError(
            f"{owner.left}; training stopped, and the state after step {progress.step} is saved there: go on with "
            f"`train(resume={str(owner.folder)!r})`"
        )
