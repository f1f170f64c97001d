"""Sending the folder of a model to the hub. No torch here."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from mdlm_atat.errors import UserError
from mdlm_atat.published.hub import (
    LOG_IN,
    OWNER_AND_NAME,
    PREFIX,
    HubName,
    Unreachable,
    about_model,
    client,
    hub_errors,
    is_commit,
)

_OWN = re.compile(
    r"(pytorch_)?model(-\d{5}-of-\d{5})?\.(safetensors|bin)|[\w.-]+\.index\.json|head\.safetensors|config\.(json|yaml)"
    r"|(checksums|phrases|stage|profile|plugins|origin|classifier|generation_config|tokenizer|tokenizer_config)\.json"
    r"|(special_tokens_map|added_tokens|vocab)\.json|counts\.npy|README\.md|merges\.txt|vocab\.txt|tokenizer\.model"
    r"|adapter_config\.json|adapter_model\.(safetensors|bin)|chat_template\.(jinja|json)"
    r"|(modeling|configuration|tokenization)_\w+\.py|tokenizer/[\w.-]+"
)
"""Files of a saved model, ours or of transformers: they are sent, and removed from a repository whose new save has them
not. (An adapter of peft that stayed would be laid over the new weights by transformers.)"""
_BESIDE = re.compile(r"(LICENSE|LICENCE|NOTICE)[\w.-]*|[\w-][\w.-]*\.(md|png|jpg|svg)")
"""What somebody puts beside it."""
_MADE_BY_THE_HUB = {".gitattributes"}


@dataclass(frozen=True)
class Target:
    """A repository as it is before anything is sent."""

    name: HubName
    """With the branch as its revision, if one was named."""
    commit: str | None
    """What is there now, of a branch that has to be made what is on the main one; None for a new repository."""
    has_branch: bool
    """Whether the branch is there already."""
    is_private: bool
    files: Mapping[str, int]
    """Bytes of each file that is there."""

    @property
    def is_new(self) -> bool:
        """Whether the repository has to be made."""
        return self.commit is None

    @property
    def has_files(self) -> bool:
        """Whether it holds anything that somebody put there."""
        return any(file not in _MADE_BY_THE_HUB for file in self.files)


@dataclass(frozen=True)
class Push:
    """What would be sent."""

    target: Target
    folder: Path
    files: Mapping[str, int]
    """Bytes of each file."""
    removed: tuple[str, ...]
    """Files of an earlier save that the new one has not."""


def check_target(
    repository: str,
    *,
    revision: str | None = None,
    private: bool | None = None,
    replace: bool = False,
    to_write: bool = True,
) -> Target:
    """Look at the repository that is to be sent to. Raises UserError for a name that is none, where nobody is logged
    in, for a public one where a `private` one is asked for, and for one that holds files unless they may be replaced.
    `to_write` off: only to see what would be sent."""
    if not OWNER_AND_NAME.fullmatch(repository.removeprefix(PREFIX)):
        raise UserError(f"{repository} is no name for a model on the hub; expected OWNER/NAME, as in me/my-model")
    if revision is not None and (not revision or is_commit(revision)):
        raise UserError(f"`revision={revision!r}`: expected the name of a branch, which is made if it is missing")
    name = HubName(repository.removeprefix(PREFIX), revision)
    if to_write and client().get_token() is None:
        raise UserError(f"to send a model you have to be logged in, with a token that may write: {LOG_IN}")
    try:
        target = _look_at(name)
    except Unreachable:
        if to_write:
            raise
        return Target(name, None, False, False, {})
    if private and not target.is_new and not target.is_private:
        raise UserError(
            f"{name.repository} is there already, for everybody to see: make it private on its page, at "
            f"{client().constants.ENDPOINT}/{name.repository}/settings, or choose another name"
        )
    there = sorted(file for file in target.files if file not in _MADE_BY_THE_HUB)
    if there and not replace and to_write:
        more = f" and {len(there) - 3} more" if len(there) > 3 else ""
        raise UserError(
            f"{name.repository} holds files already ({', '.join(there[:3])}{more}): add `replace=True` to put this "
            "model in their place (what was there stays in its history), or choose another name"
        )
    return target


def _look_at(name: HubName) -> Target:
    """A repository that nobody may see is taken for a new one: making it is refused then."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    has_branch = True
    with hub_errors(name):
        try:
            info = about_model(name)
        except RevisionNotFoundError:  # a branch that is to be made, from the main one
            info, has_branch = about_model(HubName(name.repository)), False
        except RepositoryNotFoundError:
            return Target(name, None, False, False, {})
    files = {each.rfilename: each.size or 0 for each in info.siblings or ()}
    return Target(name, str(info.sha), has_branch, bool(info.private), files)


def push(
    saved: AbstractContextManager[Path],
    repository: str,
    *,
    private: bool | None,
    message: str | None,
    revision: str | None,
    replace: bool,
) -> str:
    """Send the folder that `saved` makes; it is made after the repository has been looked at. Returns the address of
    the commit. See `LanguageModel.push_to_hub`."""
    target = check_target(repository, revision=revision, private=private, replace=replace)
    with saved as folder:
        return send(plan(folder, target), private=private, message=message)


def plan(folder: Path, target: Target) -> Push:
    """What sending a folder would do. What is neither a saved model's nor a licence, a text or a picture beside it
    stays here."""
    found = {
        str(file.relative_to(folder)): file.stat().st_size
        for file in sorted([*folder.iterdir(), *folder.glob("tokenizer/*")])
        if file.is_file()
    }
    files = {name: size for name, size in found.items() if _is_sent(name)}
    removed = tuple(sorted(name for name in target.files if _OWN.fullmatch(name) and name not in files))
    return Push(target, folder, files, removed)


def _is_sent(name: str) -> bool:
    return _OWN.fullmatch(name) is not None or lies_beside(name)


def lies_beside(name: str) -> bool:
    """Whether a file is a licence, a text or a picture that somebody put beside a model."""
    return _BESIDE.fullmatch(name) is not None


def send(push: Push, *, private: bool | None = None, message: str | None = None) -> str:
    """Send what was planned, as one commit, and return its address. Raises UserError where the hub refuses, or somebody
    else has sent something meanwhile."""
    hub, target = client(), push.target
    api, name = hub.HfApi(), target.name
    if not sys.stderr.isatty():
        hub.utils.disable_progress_bars()
    with hub_errors(name):
        if target.is_new:
            api.create_repo(name.repository, private=private)
        if name.revision is not None and not target.has_branch:
            api.create_branch(name.repository, branch=name.revision, revision=target.commit, exist_ok=True)
        added = [hub.CommitOperationAdd(file, push.folder / file) for file in push.files]
        removed = [hub.CommitOperationDelete(file) for file in push.removed]
        done = api.create_commit(
            name.repository,
            [*added, *removed],
            commit_message=message or "A model saved by mdlm-atat",
            revision=name.revision,
            parent_commit=target.commit,
        )
    return str(done.commit_url)
