"""Models on the hub, by their names: which files of one are downloaded, and what is said where it cannot be had. No
torch here: a mistyped name is answered at once."""

from __future__ import annotations

import errno
import glob
import re
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from mdlm_atat.config.size import machine_memory
from mdlm_atat.errors import UserError
from mdlm_atat.formats import count, data_size
from mdlm_atat.interrupts import interruptible
from mdlm_atat.published.parts import names_of_parts
from mdlm_atat.small_files import DAMAGE, read_object

PREFIX = "hub:"
OWNER_AND_NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
CONNECT_S = 10.0
"""How long the hub may take for each part of an answer."""
ANSWER_S = 60.0
"""How long it may take for all of what it says of a model: an answer that comes byte by byte never ends otherwise."""
BYTES_TO_READ = {"gguf": 6.0, "mdlm": 6.5}
"""A weight, at most, by what reads them; 4 for others, which are read one by one into a network in float32. Of .gguf
5.5 were measured (Q4_0 and Q8_0), weights in float32 beside those that are joined; of MDLM 6.1, in float32 beside what
adaLN is folded into and a longer embedding."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
INDEX = "model.safetensors.index.json"
MOST_INDEX_BYTES = 1 << 26
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_TEXTS = (".json", ".txt", ".jinja", ".model")
"""What a published model has besides weights: settings, and files of its tokenizer. No code."""
_OURS = (".json", ".yaml", ".npy", ".safetensors")
_OURS_IN_TOKENIZER = (".json", ".txt", ".bpe", ".xz", ".model")


@dataclass(frozen=True)
class HubName:
    """hub:OWNER/NAME or hub:OWNER/NAME@REVISION: a model on the hub, at a branch, a tag or a commit."""

    repository: str
    revision: str | None = None

    @classmethod
    def parse(cls, name: str | Path, revision: str | None = None) -> HubName | None:
        """The model that a name stands for; None for a name that does not begin with hub:. `revision` is for a name
        without one. Raises UserError for a name that is none."""
        text = str(name)
        if not text.startswith(PREFIX):
            return None
        repository, at, given = text.removeprefix(PREFIX).partition("@")
        if not OWNER_AND_NAME.fullmatch(repository) or ".." in repository or (at and not given):
            raise UserError(
                f"{text} is no name of a model on the hub; expected hub:OWNER/NAME or hub:OWNER/NAME@REVISION"
            )
        if at and revision is not None:
            raise UserError(f"`revision={revision!r}`: {text} names a revision already; leave out one of them")
        return cls(repository, given or revision)

    def __str__(self) -> str:
        return f"{PREFIX}{self.repository}{'' if self.revision is None else f'@{self.revision}'}"


def hub_name_of(name: str | Path | None) -> str | Path | None:
    """hub:OWNER/NAME for a text of the form OWNER/NAME that is no path here; any other name as it is."""
    if isinstance(name, str) and OWNER_AND_NAME.fullmatch(name) and not Path(name).exists() and ".." not in name:
        return f"{PREFIX}{name}"
    return name


@dataclass(frozen=True)
class Listed:
    """What the hub says of a model before any of its files is downloaded."""

    name: HubName
    commit: str
    sizes: Mapping[str, int]
    """Bytes of each file that would be taken."""
    licence: str | None = None
    """As its card names it."""


def look_up(name: HubName) -> Listed | None:
    """Ask the hub which files of a model there are, and choose those that are needed. None where the hub cannot be
    reached, for what was downloaded before serves then. Raises UserError where the hub has no such model or does not
    give it, where it holds no weights that can be read, and where this machine has not the memory for them."""
    try:
        with hub_errors(name):
            info = about_model(name)
    except Unreachable:
        return None
    there = {each.rfilename: each.size or 0 for each in info.siblings or ()}
    sizes = {file: there[file] for file in chosen_files(name, there)}
    parameters, reader = getattr(info.safetensors, "total", None), (info.config or {}).get("model_type")
    if any(file.endswith(".gguf") for file in sizes):
        parameters, reader = (info.gguf or {}).get("total"), "gguf"
    num_bytes = sum(size for file, size in sizes.items() if is_weights(file))
    check_memory(str(name), parameters, num_bytes, BYTES_TO_READ.get(str(reader), 4))
    licence = getattr(info.card_data, "license", None)
    return Listed(name, str(info.sha), sizes, licence if isinstance(licence, str) else None)


def about_model(name: HubName) -> Any:
    """What the hub says of a model, with the sizes of its files. Raises what its client does, and TimeoutError."""
    ask = partial(client().HfApi().model_info, files_metadata=True, timeout=CONNECT_S)
    return interruptible(lambda: ask(name.repository, revision=name.revision), ANSWER_S)


def download(
    listed: Listed, cache_dir: str | Path | None, tell: Any, check_settings: Callable[[Path], None] | None = None
) -> Path:
    """Download what is not in the hub's own cache yet, and return the folder of this commit there. `check_settings` is
    shown that folder as soon as config.json is there, before any weights are, of a model of others in safetensors.
    Raises UserError where the disk has no room, or the hub breaks off."""
    hub, name = client(), listed.name
    cache = Path(cache_dir or hub.constants.HF_HUB_CACHE).expanduser()
    missing = [
        size
        for file, size in listed.sizes.items()
        if not isinstance(
            hub.try_to_load_from_cache(name.repository, file, cache_dir=cache, revision=listed.commit), str
        )
    ]
    if missing:
        _check_room(cache, sum(missing), str(name))
        if check_settings is not None and _has_settings(listed.sizes):
            check_settings(_settings_of(listed, cache))
        tell(f"downloading {name}: {len(missing)} files, {data_size(sum(missing))}")
    if not sys.stderr.isatty():
        hub.utils.disable_progress_bars()
    wanted = [glob.escape(file) for file in listed.sizes]
    with hub_errors(name):
        folder = hub.snapshot_download(
            name.repository, revision=name.revision, cache_dir=cache, allow_patterns=wanted, etag_timeout=CONNECT_S
        )
    return Path(folder)


def _has_settings(files: Collection[str]) -> bool:
    """Whether config.json decides what the model is: not among files of ours, nor beside a .gguf, which has its own."""
    return "config.json" in files and "config.yaml" not in files and not any(file.endswith(".gguf") for file in files)


def _settings_of(listed: Listed, cache: Path) -> Path:
    with hub_errors(listed.name):
        file = client().hf_hub_download(
            listed.name.repository, "config.json", revision=listed.commit, cache_dir=cache, etag_timeout=CONNECT_S
        )
    return Path(file).parent


def downloaded_before(name: HubName, cache_dir: str | Path | None) -> Path | None:
    """The folder of a model in the hub's own cache, without asking the hub; None where it was never downloaded, or in
    part only."""
    hub = client()
    try:
        folder = Path(
            hub.snapshot_download(
                name.repository,
                revision=name.revision,
                cache_dir=cache_dir,
                allow_patterns=["config.json", "config.yaml"],
                local_files_only=True,
            )
        )
    except Exception:  # of many kinds
        return None
    there = {str(file.relative_to(folder)): 0 for file in folder.rglob("*") if file.is_file()}
    try:
        chosen_files(name, there)
        parts = read_object(folder / INDEX, most_bytes=MOST_INDEX_BYTES)["weight_map"] if INDEX in there else {}
        return folder if there.keys() >= set(parts.values()) else None
    except (UserError, *DAMAGE):
        return None


def unreachable(name: HubName) -> Unreachable:
    """What to say of a model that was not downloaded before, when the hub does not answer."""
    hub = client()
    if hub.constants.HF_HUB_OFFLINE:
        return Unreachable(
            f"{name} was not downloaded before, and HF_HUB_OFFLINE is set, so it is not asked for: unset it, or name a "
            "folder"
        )
    return Unreachable(
        f"{name} was not downloaded before, and the hub at {hub.constants.ENDPOINT} cannot be reached: check the "
        "network, or name a folder"
    )


def chosen_files(name: HubName, there: Collection[str]) -> list[str]:
    """Which of the files that are there are downloaded: weights as safetensors, or one .gguf where there are none,
    settings and the tokenizer; neither pickles nor code. Raises UserError where there are no weights that can be
    read."""
    if "config.yaml" in there and "model.safetensors" in there:
        return [file for file in there if _is_of_ours(PurePosixPath(file))]
    top = [file for file in there if "/" not in file]
    tensors = [file for file in top if file.endswith(".safetensors")]
    if INDEX in top:
        tensors = [file for file in tensors if _SHARD.fullmatch(file)]
    elif "model.safetensors" in top:
        tensors = ["model.safetensors"]
    if not tensors:
        tensors = _only_gguf(name, [file for file in top if file.endswith(".gguf")], top)
    return [*tensors, *(file for file in top if file.endswith(_TEXTS))]


def _is_of_ours(file: PurePosixPath) -> bool:
    if file.parent == PurePosixPath("tokenizer"):
        return file.suffix in _OURS_IN_TOKENIZER
    return len(file.parts) == 1 and file.suffix in _OURS


def _only_gguf(name: HubName, found: list[str], there: Collection[str]) -> list[str]:
    if len(found) == 1 or (found and sorted(found) == names_of_parts(found[0])):
        return found
    if found:
        raise UserError(
            f"{name} holds {len(found)} .gguf files: download the one that you mean (hf download {name.repository} "
            f"{found[0]}), and name it"
        )
    others = [file for file in there if file.endswith((".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx"))]
    what = f"; it holds {', '.join(others[:3])}, and pickles are not downloaded" if others else ""
    raise UserError(f"{name} holds no weights as safetensors{what}: name a model that does")


def is_weights(file: str) -> bool:
    return file.endswith((".safetensors", ".gguf", ".ckpt"))


def check_memory(name: str, num_weights: int | None, num_bytes: int, bytes_each: float = 4) -> None:
    """Raise UserError where weights take more than the memory of this machine, at `bytes_each` while they are read: 4
    in float32. `num_bytes`: of their files, which is less than they take, for where their number is not known."""
    needed, memory = bytes_each * num_weights if num_weights else num_bytes, machine_memory()
    if memory is not None and needed > memory:
        many = (
            f"{count(num_weights)} weights, which take {data_size(needed)}"
            if num_weights
            else f"{data_size(needed)} of weights"
        )
        raise UserError(f"{name} has {many}; this machine has {data_size(memory)} of memory: take a smaller model")


def _check_room(folder: Path, needed: int, name: str) -> None:
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise UserError(
            f"{name} takes {data_size(needed)}, and {folder} has room for {data_size(free)}: make room, or name a "
            "cache elsewhere (HF_HOME)"
        )


def client() -> Any:
    """The hub's own client. Raises UserError where it is not installed."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError("models of the hub need an extra: pip install 'mdlm-atat[hub]'") from error
    return huggingface_hub


class NoSuchModel(UserError):
    """The hub has no model of the name, or nobody can say whether it has."""


class Unreachable(NoSuchModel):
    """The hub does not answer, or is not to be asked."""


@contextmanager
def hub_errors(name: HubName) -> Iterator[None]:
    """What the client raises in the block becomes a UserError that says what to do, Unreachable where the hub does not
    answer at all."""
    from huggingface_hub import constants, errors

    url, repository = f"{constants.ENDPOINT}/{name.repository}", name.repository
    try:
        yield
    except errors.GatedRepoError as error:
        log_in = "" if client().get_token() else f", and log in ({LOG_IN})"
        raise UserError(
            f"{name} is gated: its authors ask for terms to be accepted, at {url}; do so{log_in}"
        ) from error
    except errors.RepositoryNotFoundError as error:
        private = "" if client().get_token() else f"; if it is private, log in ({LOG_IN})"
        raise NoSuchModel(f"{constants.ENDPOINT} has no model {repository}: check the name{private}") from error
    except errors.RevisionNotFoundError as error:
        raise UserError(
            f"{PREFIX}{repository} has no revision {name.revision}{_revisions(repository)}; expected a branch, a tag "
            "or the hash of a commit"
        ) from error
    except errors.HFValidationError as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"{name} is no name of a model on the hub ({reason:.200}); expected OWNER/NAME") from error
    except errors.OfflineModeIsEnabled as error:
        raise Unreachable(f"HF_HUB_OFFLINE is set, so the hub is not asked for {name}: unset it") from error
    except errors.HfHubHTTPError as error:
        raise _refusal(name, error) from error
    except UserError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"{name}: the disk is full; make room, or name a cache elsewhere (HF_HOME)") from error
        if error.filename is not None and error.strerror is not None:
            raise UserError(
                f"{name}: {error.filename} cannot be used ({error.strerror}); name a folder that can as the cache "
                "(HF_HOME, or `cache_dir=`)"
            ) from error
        raise Unreachable(_unanswered(name, error)) from error
    except Exception as error:  # of whichever HTTP client the installed version uses
        if isinstance(error.__cause__, errors.HfHubHTTPError):  # of a file that was sent in a thread
            raise _refusal(name, error.__cause__) from error
        raise Unreachable(_unanswered(name, error)) from error


LOG_IN = "hf auth login, or set HF_TOKEN"


def _refusal(name: HubName, error: Any) -> UserError:
    from huggingface_hub import constants

    status, said = error.response.status_code, str(error.server_message or error).strip().split("\n")[0]
    if status == 401:
        return UserError(
            f"{constants.ENDPOINT} refuses the token that you are logged in with ({said}): log in anew ({LOG_IN})"
        )
    if status == 403:
        return UserError(f"{name}: {said}; log in as somebody who may, with a token that allows it ({LOG_IN})")
    what_to_do = "check the name, and HF_ENDPOINT if it is set" if status == 404 else "try again later"
    return UserError(f"{name}: {constants.ENDPOINT} answered {status} ({said}); {what_to_do}")


def _unanswered(name: HubName, error: Exception) -> str:
    from huggingface_hub import constants

    reason = str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
    return (
        f"{name}: {constants.ENDPOINT} does not answer ({reason}); check the network and run this again, which goes on "
        "where it stopped"
    )


def _revisions(repository: str) -> str:
    """The names of branches and tags, for a message about one that is none of them."""
    try:
        refs = client().HfApi().list_repo_refs(repository)
    except Exception:  # it is only a hint
        return ""
    names = [ref.name for ref in (*refs.branches, *refs.tags)]
    return f" (there are {', '.join(names[:8])})" if names else ""


def is_commit(revision: str | None) -> bool:
    return revision is not None and _COMMIT.fullmatch(revision) is not None
