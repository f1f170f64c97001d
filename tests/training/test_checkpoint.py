import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save_file

from mdlm_atat.atomic import sweep
from mdlm_atat.config.schema import OptimConfig
from mdlm_atat.errors import UserError
from mdlm_atat.model_folder import follow, kind_of_folder
from mdlm_atat.nets.dit import ATATDiT
from mdlm_atat.nets.ema import EMA
from mdlm_atat.training.checkpoint import Checkpoint, all_checkpoints, collect, newest_sound, save, tidy
from mdlm_atat.training.optim import make_optimizer


def trained(num_steps: int = 3, width: int = 16):
    torch.manual_seed(num_steps)
    model = ATATDiT(7, 8, num_layers=1, width=width, num_heads=2)
    optimizer, ema = make_optimizer(model, OptimConfig()), EMA(model, 0.9)
    for step in range(num_steps):
        model(torch.randint(0, 8, (2, 8)), torch.ones(2)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        ema.update(model, step + 1)
    return model, optimizer, ema


def write(folder: Path, step: int, parts=None):
    model, optimizer, ema = parts or trained(step)
    return save(folder, step=step, tensors=collect(model, ema, optimizer), state={"progress": {"step": step}})


def test_what_is_loaded_is_what_was_saved_bit_for_bit(tmp_path):
    model, optimizer, ema = trained(3)
    saved = write(tmp_path, 3, (model, optimizer, ema))
    other, other_optimizer, other_ema = trained(1)
    saved.load_training(other, other_ema, other_optimizer)
    for (name, p), (_, q) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        assert p.equal(q)
        assert ema.average[name].equal(other_ema.average[name])
    before, after = optimizer.state_dict()["state"], other_optimizer.state_dict()["state"]
    assert before.keys() == after.keys()
    for index in before:
        assert all(before[index][key].equal(after[index][key]) for key in ("step", "exp_avg", "exp_avg_sq"))
    assert saved.state()["progress"] == {"step": 3}
    again = write(tmp_path / "again", 3, (other, other_optimizer, other_ema))
    for file in saved.folder.iterdir():
        assert file.read_bytes() == (again.folder / file.name).read_bytes(), file.name
    assert not list(tmp_path.glob(".writing*"))


def test_moments_go_to_the_weights_of_their_names_whatever_order_an_optimizer_has_them_in(tmp_path):
    model, optimizer, ema = trained(3)
    saved = write(tmp_path, 3, (model, optimizer, ema))
    other, _, other_ema = trained(1)
    turned = torch.optim.AdamW([*other.parameters()][::-1])
    saved.load_training(other, other_ema, turned)
    found = dict(other.named_parameters())
    for name, p in model.named_parameters():
        before, after = optimizer.state[p], turned.state[found[name]]
        assert all(before[key].equal(after[key]) for key in ("step", "exp_avg", "exp_avg_sq")), name


def test_a_moment_in_32_bits_of_a_weight_in_16_comes_back_to_the_bit(tmp_path):
    parts = []
    for value in (1.0009765, 0.0):
        model = ATATDiT(7, 8, num_layers=1, width=16, num_heads=2).bfloat16()
        optimizer = torch.optim.SGD(model.parameters(), momentum=0.9)
        for p in model.parameters():
            optimizer.state[p]["momentum_buffer"] = torch.full(p.shape, value)
        parts.append((model, optimizer, EMA(model, 0.0)))
    other, other_optimizer, other_ema = parts[1]
    write(tmp_path, 3, parts[0]).load_training(other, other_ema, other_optimizer)
    assert torch.tensor(1.0009765).bfloat16() == 1
    for p in other.parameters():
        assert other_optimizer.state[p]["momentum_buffer"].equal(torch.full(p.shape, 1.0009765))


def test_averaged_weights_are_what_a_reader_gets(tmp_path):
    model, optimizer, ema = trained(3)
    saved = write(tmp_path, 3, (model, optimizer, ema))
    other = trained(1)[0]
    saved.load_weights(other, average=True)
    assert all(p.equal(ema.average[name]) for name, p in other.named_parameters())
    saved.load_weights(other, average=False)
    assert other.embedding.weight.equal(model.embedding.weight)


FAULTS = {
    "truncated": lambda folder: (folder / "ema.safetensors").write_bytes(
        (folder / "ema.safetensors").read_bytes()[:-100]
    ),
    "altered": lambda folder: flip_a_bit(folder / "optimizer.safetensors"),
    "missing": lambda folder: (folder / "state.json").unlink(),
    "no checksums": lambda folder: (folder / "checksums.json").write_bytes(b"\xff{"),
    "empty checksums": lambda folder: (folder / "checksums.json").write_text("{}"),
}


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_checkpoint_is_found_out_and_the_one_before_is_used(tmp_path, fault):
    write(tmp_path, 1)
    FAULTS[fault](write(tmp_path, 2).folder)
    said = []
    found = newest_sound(tmp_path, said.append)
    assert found is not None
    assert found.step == 1
    assert len(said) == 1
    assert "step-00000002 is damaged" in said[0]
    assert "falling back" in said[0]


def test_a_checkpoint_that_a_run_at_work_removes_while_it_is_looked_at_is_not_damaged_and_the_newest_is_taken(
    tmp_path, monkeypatch
):
    for step in (1, 2):
        write(tmp_path, step)
    fault = Checkpoint.fault

    def trains_on(checkpoint):
        if checkpoint.step == 2:
            for step in (3, 4):
                tidy(tmp_path, newest=write(tmp_path, step), best_step=None, keep_interval_steps=0)
        return fault(checkpoint)

    monkeypatch.setattr(Checkpoint, "fault", trains_on)
    found = newest_sound(tmp_path, pytest.fail)
    assert found is not None
    assert found.step == 4


def test_what_identifies_a_checkpoint_stays_known_when_it_is_gone(tmp_path):
    checkpoint = write(tmp_path, 1)
    known = checkpoint.checksum
    shutil.rmtree(checkpoint.folder)
    assert checkpoint.is_gone
    assert checkpoint.checksum == known


def test_two_damaged_checkpoints_and_nothing_else_are_an_error_that_says_so(tmp_path):
    for step in (1, 2):
        FAULTS["altered"](write(tmp_path, step).folder)
    with pytest.raises(UserError, match="every checkpoint"):
        newest_sound(tmp_path, lambda _: None)


def test_the_last_good_checkpoint_survives_a_full_disk(tmp_path, monkeypatch):
    write(tmp_path, 1)

    def full(tensors, file):
        Path(file).write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("mdlm_atat.training.packed.save_file", full)
    with pytest.raises(UserError, match=r"No space left on device.*last good checkpoint is .*step-00000001"):
        write(tmp_path, 2)
    assert [c.step for c in all_checkpoints(tmp_path)] == [1]
    assert not list(tmp_path.glob(".writing*"))
    assert all_checkpoints(tmp_path)[0].fault() is None


def test_all_of_a_checkpoint_is_on_the_disk_before_it_gets_its_name_and_the_name_afterwards(tmp_path, disk):
    folder = write(tmp_path, 1).folder
    assert len(list(folder.iterdir())) == 5
    assert disk.is_synced_before_it_is_renamed(folder, folder, *folder.iterdir())


def test_where_links_cannot_be_made_last_and_best_are_files_that_name_a_checkpoint(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError("a required privilege is not held by the client")

    parts = trained(1)
    write(tmp_path, 2, parts)
    newest = write(tmp_path, 3, parts)
    tidy(tmp_path, newest=newest, best_step=2, keep_interval_steps=0)
    monkeypatch.setattr(os, "symlink", refuse)
    tidy(tmp_path, newest=newest, best_step=3, keep_interval_steps=0)  # files in place of links
    assert follow(tmp_path / "best") == follow(tmp_path / "last") == newest.folder
    assert not (tmp_path / "best").is_symlink()
    assert follow(tmp_path / "step-00000003") == newest.folder


def test_tidying_keeps_the_newest_two_the_best_and_every_fourth_and_links_last_and_best(tmp_path):
    parts = trained(1)
    for step in range(1, 10):
        write(tmp_path, step, parts)
    newest = write(tmp_path, 10, parts)
    tidy(tmp_path, newest=newest, best_step=3, keep_interval_steps=4)
    assert [c.step for c in all_checkpoints(tmp_path)] == [3, 4, 8, 9, 10]
    assert (tmp_path / "last").resolve() == newest.folder
    assert (tmp_path / "best").resolve().name == "step-00000003"


def test_a_damaged_checkpoint_that_a_run_fell_back_from_does_not_push_out_sound_ones(tmp_path):
    parts = trained(1)
    for step in (20, 30, 40):
        write(tmp_path, step, parts)
    FAULTS["altered"](tmp_path / "step-00000040")
    resumed = write(tmp_path, 34, parts)
    tidy(tmp_path, newest=resumed, best_step=None, keep_interval_steps=0)
    assert [c.step for c in all_checkpoints(tmp_path)] == [30, 34]


COPIES = (
    "step-00000002.bak",
    "step-00000002 (copy)",
    "step-2",
    "step-000000002",
    "step-00000003~",
    "step-",
    "step-last",
)


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_copy_beside_a_checkpoint_is_named_and_neither_used_nor_deleted(tmp_path, kind):
    parts = trained(1)
    first, newest = write(tmp_path, 1, parts), write(tmp_path, 2, parts)
    for name in COPIES:
        shutil.copytree(newest.folder, tmp_path / name) if kind == "folder" else (tmp_path / name).write_text("mine")
    if kind == "file":  # of a name that a checkpoint may have
        (tmp_path / "step-00000009").write_text("mine")
    said = []
    assert newest_sound(tmp_path, said.append) == newest
    assert len(said) == 1
    assert all(name in said[0] for name in COPIES)
    tidy(tmp_path, newest=newest, best_step=None, keep_interval_steps=0)
    assert [c.step for c in all_checkpoints(tmp_path)] == [1, 2]
    assert all((tmp_path / name).exists() for name in COPIES)
    assert first.folder.exists()


def test_a_checkpoint_beyond_step_10_to_the_8_is_the_newest_one(tmp_path):
    parts = trained(1)
    for step in (99_999_999, 100_000_000, 9):
        write(tmp_path, step, parts)
    assert [c.step for c in all_checkpoints(tmp_path)] == [9, 99_999_999, 100_000_000]


def test_a_copy_of_a_checkpoint_that_is_named_itself_is_refused_by_its_name(tmp_path):
    copy = tmp_path / "checkpoints" / "step-00000060.bak"
    copy.mkdir(parents=True)
    with pytest.raises(UserError, match=r"60\.bak is not called what a checkpoint is"):
        kind_of_folder(copy)


def test_a_process_killed_while_it_removes_an_old_checkpoint_leaves_no_half_of_it(tmp_path, monkeypatch):
    parts = trained(1)
    for step in (1, 2):
        write(tmp_path, step, parts)
    newest = write(tmp_path, 3, parts)
    rmtree = shutil.rmtree

    def killed(folder, ignore_errors=False):
        if folder.exists():
            (folder / "model.safetensors").unlink()
            raise SystemExit("killed")
        rmtree(folder, ignore_errors=ignore_errors)

    monkeypatch.setattr("mdlm_atat.atomic.shutil.rmtree", killed)
    with pytest.raises(SystemExit):
        tidy(tmp_path, newest=newest, best_step=None, keep_interval_steps=0)
    assert [(c.step, c.fault()) for c in all_checkpoints(tmp_path)] == [(2, None), (3, None)]
    monkeypatch.undo()
    sweep(tmp_path)
    assert not list(tmp_path.glob(".*"))


def test_no_checkpoint_at_all_is_none(tmp_path):
    assert newest_sound(tmp_path, pytest.fail) is None


def test_weights_of_another_shape_are_refused_with_the_name_and_both_shapes(tmp_path):
    saved = write(tmp_path, 1)
    with pytest.raises(UserError, match=r"has shape \(16, 16\) in the file, \(32, 32\) in the model"):
        saved.load_weights(trained(1, width=32)[0], average=False)


def change_names(file: Path, change) -> None:
    tensors = load(file.read_bytes())
    change(tensors)
    save_file(tensors, file)


def add_one(tensors: dict[str, torch.Tensor]) -> None:
    tensors["blocks.9.weight/exp_avg"] = torch.ones(1)


CHANGED_NAMES = {
    "a moment of nobody's": ("optimizer", add_one, "its optimizer's state blocks.9.weight/exp_avg, which the run"),
    "a moment too few": ("optimizer", lambda tensors: tensors.pop(min(tensors)), "state .*, and there is none in"),
    "an average of nobody's": ("ema", add_one, "its average blocks.9.weight/exp_avg, which the run does not have"),
    "an average too few": ("ema", lambda tensors: tensors.pop(min(tensors)), "its average .*, and there is none in"),
    "a weight too few": ("model", lambda tensors: tensors.pop(min(tensors)), "missing in the file"),
}


@pytest.mark.parametrize("case", CHANGED_NAMES)
def test_a_checkpoint_whose_names_are_not_the_run_s_is_not_loaded(tmp_path, case):
    kind, change, message = CHANGED_NAMES[case]
    saved, (model, optimizer, ema) = write(tmp_path, 3), trained(1)
    change_names(saved.folder / f"{kind}.safetensors", change)
    with pytest.raises(UserError, match=message):
        saved.load_training(model, ema, optimizer)


def test_nothing_in_a_checkpoint_is_pickled(tmp_path):
    folder = write(tmp_path, 1).folder
    assert {file.suffix for file in folder.iterdir()} == {".safetensors", ".json"}
    assert json.loads((folder / "state.json").read_text())["format"] == 1


def test_a_checkpoint_of_another_format_says_which_it_is(tmp_path):
    saved = write(tmp_path, 1)
    (saved.folder / "state.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(UserError, match="was written in format 99, this version reads 1"):
        saved.state()
