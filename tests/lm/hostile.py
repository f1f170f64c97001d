"""Folders that somebody means harm by, opened one after the other in a process of their own; see
test_hostile_folders.py. Prints a JSON line for each: seconds, bytes of memory above those before, and what was said."""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import re
import shutil
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from mdlm_atat import MaskedDiffusionLM
from mdlm_atat.data.tokens import TokenDataset
from mdlm_atat.errors import UserError
from mdlm_atat.finetuning.classifier import TextClassifier
from mdlm_atat.runs.request import RunRequest
from mdlm_atat.studies.grid_file import load_grid

Case = tuple[str, Callable[[Path], object], Callable[[Path], object]]
LAUGHS = "a0: &a0 [1, 1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))


def listed(change: Callable[[Path], object]) -> Callable[[Path], None]:
    """The change, with checksums that fit what it wrote."""

    def write(folder: Path) -> None:
        change(folder)
        files = [file for file in folder.iterdir() if file.is_file() and file.stat().st_size < 1 << 26]
        found = {
            file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.name != "checksums.json"
        }
        found |= {file.name: "0" * 64 for file in folder.iterdir() if file.is_file() and file not in files}
        (folder / "checksums.json").write_text(json.dumps(found))

    return write


def text(name: str, content: str | bytes) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return write


def setting(name: str, value: str) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        file = folder / "config.yaml"
        file.write_text(re.sub(rf"(?m)^  {name}: .*$", f"  {name}: {value}", file.read_text()))

    return write


def link(name: str, target: str) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return write


def pipe(name: str) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return write


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        found = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
        change(found)
        save_file(found, folder / "model.safetensors")

    return write


def header(tensors: dict[str, object], size: int | None = None, length: int = 8) -> Callable[[Path], object]:
    """A safetensors file of which the header says this, and that has `length` bytes without content."""

    def write(folder: Path) -> None:
        content = json.dumps(tensors).encode()
        with (folder / "model.safetensors").open("wb") as stream:
            stream.write(struct.pack("<Q", len(content) if size is None else size) + content)
            stream.truncate(8 + len(content) + length)

    return write


def listing(name: str) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        found = json.loads((folder / "checksums.json").read_text())
        (folder / "checksums.json").write_text(json.dumps({name: "0" * 64, **found}))

    return write


def packed_bomb(folder: Path) -> None:
    (folder / "tokenizer/tokenizer_config.json").unlink()
    packer = lzma.LZMACompressor(preset=0)
    content = b"".join(packer.compress(b" " * (1 << 24)) for _ in range(8)) + packer.flush()
    (folder / "tokenizer/tokenizer.json.xz").write_bytes(content)


def tensor(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


BIG = 20 << 30
MODEL: list[tuple[str, Callable[[Path], object]]] = [
    ("checksums of a device", listing("/dev/zero")),
    ("checksums of another folder", listing("../../secret")),
    ("checksums of a folder above", listing("..")),
    ("checksums that are no names", text("checksums.json", "[" * 100_000)),
    ("checksums without end", link("checksums.json", "/dev/zero")),
    ("checksums of a number", text("checksums.json", "7")),
    ("weights that are a device", link("model.safetensors", "/dev/zero")),
    ("weights that are a pipe", pipe("model.safetensors")),
    ("weights of somebody else", link("model.safetensors", "../secret")),
    ("weights that are noise", listed(text("model.safetensors", b"\xff" * 4096))),
    ("a header of an exabyte", listed(header({}, size=1 << 60))),
    ("a header beyond the file", listed(header({}, size=1 << 22))),
    ("a tensor of a terabyte", listed(header({"w": tensor("F32", [1 << 38], 0, 1 << 40)}))),
    ("a file of 20 GiB", listed(header({"w": tensor("F32", [BIG // 4], 0, BIG)}, length=BIG))),
    ("tensors one over another", listed(header({"a": tensor("F32", [2], 0, 8), "b": tensor("F32", [2], 4, 12)}))),
    ("shapes whose product overflows", listed(header({"w": tensor("F32", [1 << 62, 1 << 62], 0, 8)}))),
    ("whole numbers for weights", listed(weights(lambda w: w.update(noise=torch.ones(3, dtype=torch.int64))))),
    ("8 bits without scales", listed(weights(lambda w: w.update(noise=torch.ones(3, 3, dtype=torch.int8))))),
    ("one weight too many", listed(weights(lambda w: w.update(noise=torch.ones(3))))),
    ("one weight too few", listed(weights(lambda w: w.pop(sorted(w)[0])))),
    ("weights of another shape", listed(weights(lambda w: w.update({sorted(w)[0]: torch.ones(3, 5)})))),
    ("10^9 blocks", listed(setting("num_layers", "1000000000"))),
    ("10^4 blocks", listed(setting("num_layers", "10000"))),
    ("a width of 10^6", listed(setting("width", "1000000"))),
    ("a length of 10^9", listed(setting("length", "1000000000"))),
    ("a configuration of aliases", listed(text("config.yaml", LAUGHS))),
    ("a configuration that is deep", listed(text("config.yaml", "[" * 100_000))),
    ("a configuration upon a secret", listed(text("config.yaml", "base: ../secret.yaml\n"))),
    ("a configuration upon users", listed(text("config.yaml", "base: /etc/passwd\n"))),
    ("a configuration that is a link", link("config.yaml", "../secret.yaml")),
    ("a configuration that is a pipe", pipe("config.yaml")),
    ("a configuration with an object", listed(text("config.yaml", "train: !!python/object/apply:os.getcwd []\n"))),
    ("counts that claim 10^12 tokens", listed(lambda f: huge_counts(f))),
    ("counts that are a link", link("counts.npy", "/dev/zero")),
    ("a stage of nonsense", listed(text("stage.json", '{"window": 3}'))),
    ("phrases of nonsense", listed(text("phrases.json", '{"stretches": [[1]], "units": 7, "num_tokens": -1}'))),
    ("plugins that are no list", listed(text("plugins.json", '{"name": 7}'))),
    ("a plugin of no package", listed(text("plugins.json", '[{"name": "a:b", "distribution": ""}]'))),
    ("a tokenizer without end", link("tokenizer/tokenizer_config.json", "/dev/zero")),
    ("a tokenizer that is deep", text("tokenizer/tokenizer_config.json", '{"a":' * 100_000)),
    (
        "a tokenizer of numbers",
        text("tokenizer/tokenizer_config.json", '{"mdlm_atat": 1, "kind": "char", "alphabet": 7}'),
    ),
    ("a tokenizer that unpacks to 128 MiB", packed_bomb),
    ("a tokenizer elsewhere", lambda f: (shutil.rmtree(f / "tokenizer"), link("tokenizer", "../elsewhere")(f))),
]


def huge_counts(folder: Path) -> None:
    found = (
        np.lib.format.magic(1, 0)
        + b"v\x00"
        + repr({"descr": "<i8", "fortran_order": False, "shape": (10**12,)}).ljust(117).encode()
        + b"\n"
    )
    (folder / "counts.npy").write_bytes(found)


def cases() -> list[Case]:
    found: list[Case] = [(f"model: {name}", change, MaskedDiffusionLM.from_pretrained) for name, change in MODEL]
    by_name = dict(MODEL)

    def in_checkpoint(change: Callable[[Path], object]) -> Callable[[Path], object]:
        return lambda folder: change(folder / "checkpoints/step-00000400")

    def with_record(content: str) -> Callable[[Path], object]:
        def write(folder: Path) -> None:
            shutil.copy(folder / "model.safetensors", folder / "head.safetensors")
            text("classifier.json", content)(folder)

        return listed(write)

    weights = ("a header of an exabyte", "a file of 20 GiB", "weights that are noise", "checksums of a device")
    found += [(f"run: {name}", in_checkpoint(by_name[name]), MaskedDiffusionLM.from_pretrained) for name in weights]
    for name in ("10^9 blocks", "a width of 10^6", "a configuration of aliases", "a configuration upon a secret"):
        found.append((f"run: {name}", by_name[name], MaskedDiffusionLM.from_pretrained))
        found.append((f"repeated: {name}", by_name[name], lambda f: RunRequest(config=f, settings={}).run_config()))
    last = text("checkpoints/last", "../../secret")
    found.append(("run: a link", last, lambda f: MaskedDiffusionLM.from_pretrained(f / "checkpoints/last")))
    records = {"deep": "[" * 100_000, "number": "7", "format": '{"format": 9}', "half": '{"format": 1}'}
    found += [(f"classifier: {n}", with_record(c), TextClassifier.from_pretrained) for n, c in records.items()]
    found.append(("classifier: a pipe", lambda f: pipe("classifier.json")(f), TextClassifier.from_pretrained))
    manifest = {"deep": '{"a":' * 100_000, "a number": "7"}
    for name, content in manifest.items():
        found.append((f"corpus: {name}", text("manifest.json", content), lambda f: TokenDataset.open(f, "train", 16)))
    found.append(
        (
            "corpus: tokens that are a device",
            link("train.bin", "/dev/zero"),
            lambda f: TokenDataset.open(f, "train", 16),
        )
    )
    found.append(
        (
            "corpus: counts without end",
            link("counts.npy", "/dev/zero"),
            lambda f: TokenDataset.open(f, "train", 16).counts,
        )
    )
    for name, content in {
        "aliases": LAUGHS,
        "deep": "[" * 100_000,
        "a secret": "base: /etc/passwd\narms: {a: {}}\nbaseline: a\nbudget: {steps: 1}",
    }.items():
        found.append((f"experiment: {name}", text("grid.yaml", content), lambda f: load_grid(str(f))))
    return found


def peak() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1])  # type: ignore[index]


def open_all(fixtures: Path, place: Path) -> None:
    (place / "secret").write_text("password")
    (place / "secret.yaml").write_text("secret: password\n")
    shutil.copytree(fixtures / "old_model/tokenizer", place / "elsewhere")
    MaskedDiffusionLM.from_pretrained(fixtures / "old_model")  # which imports what is needed
    source = {"model": "old_model", "classifier": "old_model", "corpus": "old_corpus", "experiment": "old_model"}
    for name, change, use in cases():
        folder = place / "folder"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(fixtures / source.get(name.partition(":")[0], "old_run"), folder, symlinks=True)
        change(folder)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before, started_s = peak(), time.monotonic()
        try:
            use(folder)
            said = None
        except UserError as error:
            said = str(error)
        except BaseException as error:
            said = f"TRACEBACK {type(error).__name__}: {error}"
        print(json.dumps([name, time.monotonic() - started_s, peak() - before, said]), flush=True)


if __name__ == "__main__":
    open_all(Path(sys.argv[1]), Path(sys.argv[2]))
