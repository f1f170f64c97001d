"""Checkpoints that every process wrote its part of, read by any number of processes."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load, save_file
from torch import distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from mdlm_atat.cli.main import main
from mdlm_atat.errors import UserError
from mdlm_atat.lm import load_lm
from mdlm_atat.training.checkpoint import (
    Checkpoint,
    Kind,
    Tensors,
    all_checkpoints,
    newest_sound,
    save,
    write_checksums,
)
from processes import run_ranks
from tiny_runs import losses_of, tiny_flags, write_text

pytestmark = pytest.mark.usefixtures("no_report")
KINDS: tuple[Kind, ...] = ("model", "ema", "optimizer")
FLAGS = {"train__num_steps": 4, "eval__num_samples": 0, "data__length": 8}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes that wrote parts, `parts`, and the same run of one process, `one`."""
    folder = tmp_path_factory.mktemp("runs")
    flags = tiny_flags(write_text(folder / "text.txt"), **FLAGS)
    shared = ["--train.shard", "true", "--train.whole_checkpoint_gib", "0"]
    run_ranks(2, ["train", "demo", "--out", str(folder / "parts"), *flags, *shared])
    run_ranks(1, ["train", "demo", "--out", str(folder / "one"), *flags])
    return folder


@pytest.fixture
def parts(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "parts", tmp_path / "parts", symlinks=True))


def newest(run: Path) -> Checkpoint:
    return all_checkpoints(run / "checkpoints")[-1]


def every_tensor(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return {f"{kind}/{k}": t for kind in KINDS for k, t in checkpoint.read(kind, lambda _: None).items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


def test_two_processes_write_half_of_every_tensor_each_and_nothing_is_pickled(made):
    names = {file.name for file in newest(made / "parts").folder.iterdir()}
    shards = [f"shard-0000{n}-model-00001-of-00001.safetensors" for n in (1, 2)]
    assert names == {*shards, "state.json", "checksums.json"}
    found, expected = every_tensor(newest(made / "parts")), every_tensor(newest(made / "one"))
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-4)
    sizes = [(newest(made / "parts").folder / name).stat().st_size for name in shards]
    assert max(sizes) < 0.6 * sum(sizes)


def test_a_reader_in_one_process_gets_the_averaged_weights(made, tmp_path, capsys):
    lm = load_lm(made / "parts")
    read = dict(lm.network.named_parameters())
    averages = {f"ema/{name}": p for name, p in read.items()}
    assert same(averages, {name: t for name, t in every_tensor(newest(made / "parts")).items() if name in averages})
    for words in (["eval", str(made / "parts"), "--num_draws", "32"], ["generate", str(made / "parts"), "--seed", "1"]):
        assert main(words) == 0
    lm.save_pretrained(tmp_path / "saved")
    assert same(dict(load_lm(tmp_path / "saved").network.named_parameters()), read)
    init = ["--init", str(made / "parts"), "--train.num_steps", "1", "--eval.num_samples", "0"]
    assert main(["train", "--out", str(tmp_path / "new"), *init]) == 0
    assert json.loads((tmp_path / "new" / "run.json").read_text())["init"]["weights"] == "ema.safetensors"


def as_whole_files(run: Path, copy: Path) -> Path:
    """A copy of a run whose newest checkpoint is one of whole files with the same content."""
    shutil.copytree(run, copy, symlinks=True)
    checkpoint = newest(copy)
    state = {name: value for name, value in checkpoint.state().items() if name not in ("format", "step", "tensors")}
    found = every_tensor(checkpoint)
    tensors: Tensors = {
        kind: {name[len(kind) + 1 :]: t for name, t in found.items() if name.startswith(kind + "/")} for kind in KINDS
    }
    save(copy / "checkpoints", step=checkpoint.step, tensors=tensors, state=state)
    assert not newest(copy).is_in_parts
    return copy


@pytest.mark.slow
@pytest.mark.parametrize("num_processes", [1, 4])
def test_parts_of_two_processes_are_resumed_on_another_number_as_whole_files_are(parts, tmp_path, num_processes):
    whole = as_whole_files(parts, tmp_path / "whole")
    for run in (parts, whole):
        run_ranks(num_processes, ["train", "--resume", str(run), "--train.num_steps", "5"])
    assert losses_of(parts) == losses_of(whole)
    assert len(losses_of(parts)) == 5
    assert newest(parts).is_in_parts == (num_processes == 4)  # a single process holds all
    assert same(every_tensor(newest(parts)), every_tensor(newest(whole)))


def rewrite(checkpoint: Checkpoint, shard: int, change) -> None:
    """Change the tensors in the file of a process, with checksums that hold."""
    file = sorted(checkpoint.folder.glob("shard-*"))[shard - 1]
    tensors = load(file.read_bytes())
    with safe_open(file, framework="pt") as opened:
        facts = opened.metadata()
    places = json.loads(facts["DCP_SHARDING_INFO"])
    change(tensors, places)
    facts["DCP_SHARDING_INFO"] = json.dumps(places)
    save_file(tensors, file, metadata=facts)
    (checkpoint.folder / "checksums.json").unlink()
    write_checksums(checkpoint.folder)
    assert checkpoint.fault() is None


def lose(kind: str, *endings: str):
    """Take what a process wrote of a tensor out of its file."""

    def change(tensors: dict[str, torch.Tensor], places: dict) -> None:
        name = next(name for name in tensors if name.startswith(kind) and name.endswith(endings))
        del tensors[name], places[name]

    return change


def add(tensors: dict[str, torch.Tensor], places: dict) -> None:
    name = next(name for name in tensors if name.endswith("/exp_avg"))
    new = "optimizer/blocks.9.weight/exp_avg"
    tensors[new], places[new] = tensors[name].clone(), places[name]


CHANGES = {
    "a part of a weight": (1, lose("model", "weight"), "holds no more than a part of model/"),
    "the last part of a weight": (2, lose("model", "weight"), "has shape .* in the file"),
    "a part of an average": (1, lose("ema", "weight"), "holds no more than a part of ema/"),
    "a part of a moment": (1, lose("optimizer", "exp_avg"), "holds no more than a part of optimizer/"),
    "all of a count": (2, lose("optimizer", "/step"), "its list of tensors optimizer/.*/step, and there is none"),
    "a moment too many": (1, add, r"its list of tensors optimizer/blocks.9.weight/exp_avg, which the run does not"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_parts_that_lack_something_or_hold_something_else_are_not_loaded(parts, case, capsys):
    shard, change, message = CHANGES[case]
    rewrite(newest(parts), shard, change)
    assert main(["train", "--resume", str(parts), "--train.num_steps", "6"]) == 2
    found = capsys.readouterr().err
    assert re.search(message, found), found


def test_a_damaged_part_is_found_out_by_its_checksum(parts):
    shard = sorted(newest(parts).folder.glob("shard-*"))[1]
    shard.write_bytes(shard.read_bytes()[:-4])
    said: list[str] = []
    with pytest.raises(Exception, match="every checkpoint"):
        newest_sound(parts / "checkpoints", said.append)
    assert "shard-00002-model-00001-of-00001.safetensors is damaged" in said[0]
    shard.unlink()
    assert newest(parts).fault() == f"{shard.name} is missing"


def test_a_file_beside_the_parts_that_no_checksum_is_of_is_named_and_not_read(parts):
    shard = sorted(newest(parts).folder.glob("shard-*"))[0]
    for copy in (f"{shard.stem} (copy).safetensors", "a.safetensors"):
        shutil.copy(shard, shard.with_name(copy))
        assert newest(parts).fault() == f"checksums.json does not list {copy}"
        shard.with_name(copy).unlink()
    checksums = json.loads((newest(parts).folder / "checksums.json").read_text())
    del checksums[shard.name]
    (newest(parts).folder / "checksums.json").write_text(json.dumps(checksums))
    assert newest(parts).fault() == f"checksums.json does not list {shard.name}"


def test_parts_of_another_size_than_the_configuration_are_refused_before_they_are_hashed(parts, monkeypatch):
    monkeypatch.setattr("mdlm_atat.training.checkpoint.sha256", pytest.fail)
    config = parts / "config.yaml"
    config.write_text(re.sub(r"num_layers: \d+", "num_layers: 9000", config.read_text(), count=1))
    with pytest.raises(UserError, match=r"weights, and .*config\.yaml asks for .*: they do not belong together"):
        load_lm(parts)


def test_a_part_that_is_larger_than_what_it_holds_of_so_many_weights_is_not_hashed(parts, monkeypatch):
    def swell(tensors: dict[str, torch.Tensor], places: dict) -> None:
        tensors["optimizer/x/exp_avg"], places["optimizer/x/exp_avg"] = torch.zeros(1 << 20), {"saved_offsets": [0]}

    rewrite(newest(parts), 1, swell)
    monkeypatch.setattr("mdlm_atat.training.checkpoint.sha256", pytest.fail)
    monkeypatch.setattr("mdlm_atat.training.checkpoint.MOST_BYTES", 0)
    assert re.search(r"shard-00001.* and no such file has more than", newest(parts).fault() or "")


@pytest.fixture
def alone() -> Iterator[DeviceMesh]:
    """A group of this process alone, in which a tensor can be a part all the same."""
    store = distributed.HashStore()  # pyright: ignore[reportPrivateImportUsage]
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


def in_parts(mesh: DeviceMesh, value: float) -> Tensors:
    weights = {name: distribute_tensor(torch.full((4, 3), value), mesh, [Shard(0)]) for name in ("a", "b")}
    return {"model": dict(weights), "optimizer": {"a/step": torch.tensor(value), "a/exp_avg": weights["b"] + 1}}


def test_a_full_disk_while_parts_are_written_leaves_the_checkpoint_before_and_nothing_else(
    alone, tmp_path, monkeypatch
):
    kept = save(tmp_path, step=1, tensors=in_parts(alone, 1.0), state={}, largest_whole_bytes=0)
    assert kept.is_in_parts

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"process 0: .*No space left on device.*last good checkpoint is .*00000001"):
        save(tmp_path, step=2, tensors=in_parts(alone, 2.0), state={}, largest_whole_bytes=0)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert kept.fault() is None
    assert kept.read("model", lambda _: None)["a"].equal(torch.ones(4, 3))


def test_only_what_is_larger_than_the_limit_is_written_in_parts(alone, tmp_path):
    num_bytes = 4 * (3 * 12 + 1)
    for limit, expected in ((num_bytes, False), (num_bytes - 1, True)):
        saved = save(tmp_path, step=limit, tensors=in_parts(alone, 3.0), state={}, largest_whole_bytes=limit)
        assert saved.is_in_parts == expected
        assert saved.read("optimizer", lambda _: None)["a/exp_avg"].equal(torch.full((4, 3), 4.0))


def test_the_number_of_a_later_step_is_not_in_a_checkpoint_that_was_saved_before_it(alone, tmp_path):
    tensors = in_parts(alone, 1.0)
    first = save(tmp_path, step=1, tensors=tensors, state={}, largest_whole_bytes=0)
    for weight in tensors["model"].values():
        weight += 1
    second = save(tmp_path, step=2, tensors=tensors, state={}, largest_whole_bytes=0)
    assert [saved.read("model", lambda _: None)["b"][0, 0].item() for saved in (first, second)] == [1.0, 2.0]
