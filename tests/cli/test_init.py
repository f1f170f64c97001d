"""`atat train --init`: from the weights of a trained model to another text, and what it forgets."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from refusals import refused
from safetensors.torch import load_file

from mdlm_atat import MaskedDiffusionLM
from mdlm_atat.cli.main import main
from mdlm_atat.config.files import load_config
from mdlm_atat.report.report import write_report
from mdlm_atat.runs.request import RunRequest
from tiny_runs import write_text

SHORT = {
    "train.num_steps": 4,
    "train.eval_interval_steps": 4,
    "train.checkpoint_interval_steps": 2,
    "optim.warmup_steps": 1,
    "optim.lr": 1e-3,
    "eval.num_draws": 32,
    "eval.final_num_draws": 64,
    "eval.num_samples": 0,
}

pytestmark = pytest.mark.usefixtures("no_report")


@pytest.fixture
def folder(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the trained runs with their text, and another text that is spelled otherwise."""
    monkeypatch.setenv("ATAT_CACHE", str(tmp_path / "cache"))
    for name in ("masked", "causal", "adaptive"):
        shutil.copytree(runs / name, tmp_path / name, symlinks=True)
    text = write_text(tmp_path / "new.txt", seed=3)
    text.write_text(text.read_text().translate(str.maketrans("aeiou", "eioua")))
    return tmp_path


def command(folder: Path, init: str, *more: object, **changed: Any) -> list[str]:
    flags = {"data.source": folder / "new.txt", **SHORT, **{k.replace("__", "."): v for k, v in changed.items()}}
    words = [word for name, value in flags.items() for word in (f"--{name}", value)]
    return [*map(str, ["train", *more, "--init", folder / init, "--out", folder / "out", *words])]


def start(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "out" / "run.json").read_text())


def test_at_a_rate_of_nothing_the_run_keeps_the_averaged_weights_it_began_with(folder):
    assert main(command(folder, "masked", optim__lr=1e-20, optim__weight_decay=0)) == 0
    old, new = (MaskedDiffusionLM.from_pretrained(folder / name).network for name in ("masked", "out"))
    for (name, before), (_, after) in zip(old.named_parameters(), new.named_parameters(), strict=True):
        assert torch.allclose(before, after, atol=1e-7), name
    forgetting = json.loads((folder / "out" / "forgetting.json").read_text())
    assert abs(forgetting["difference"]["nats_per_token"]) < 1e-5
    assert forgetting["before"]["nelbo_nats_per_token"] == pytest.approx(forgetting["after"]["nelbo_nats_per_token"])


def test_shape_tokenizer_and_settings_are_the_old_run_s_and_its_weights_are_written_down(folder):
    assert main(command(folder, "masked")) == 0
    old, new = (load_config(str(folder / name)) for name in ("masked", "out"))
    assert new.model == old.model
    assert new.data.length == old.data.length == 16
    assert new.train.batch_size == old.train.batch_size == 32
    assert new.data.source == str(folder / "new.txt")
    own, first = (MaskedDiffusionLM.from_pretrained(folder / name).tokenizer for name in ("out", "masked"))
    assert own.fingerprint() == first.fingerprint()
    init = start(folder)["init"]
    checkpoint = MaskedDiffusionLM.from_pretrained(folder / "masked").checkpoint
    assert checkpoint is not None
    assert init["path"] == str(folder / "masked" / "checkpoints" / "step-00000150")
    assert init["checkpoint_hash"] == checkpoint.checksum
    assert init["weights"] == "ema.safetensors"


def test_a_preset_gives_all_settings_but_shape_method_and_length(folder):
    assert main(command(folder, "adaptive", "char", train__batch_size=4, train__num_micro_batches=1)) == 0
    old, new, char = (load_config(name) for name in (str(folder / "adaptive"), str(folder / "out"), "char"))
    assert (new.model, new.importance, new.masking, new.data.length) == (old.model, old.importance, old.masking, 16)
    assert new.optim.weight_decay == char.optim.weight_decay
    assert new.optim.betas == char.optim.betas
    assert start(folder)["preset"] == f"char --init {folder / 'adaptive'}"


def test_a_method_s_optimizer_goes_over_the_preset_s_and_under_the_flags(folder):
    mine = folder / "mine.yaml"
    mine.write_text("base: importance_rates\noptim:\n  weight_decay: 0.2\n  lr: 3e-3\n")
    words = command(folder, "adaptive", "char", "--method", mine, train__batch_size=4)
    assert main(words) == 0
    new, char = load_config(str(folder / "out")), load_config("char")
    assert (new.optim.weight_decay, new.optim.lr, new.optim.decay) == (0.2, SHORT["optim.lr"], char.optim.decay)
    assert new.masking == load_config(str(folder / "adaptive")).masking


def test_what_belongs_to_the_old_text_is_left_behind_with_it(folder):
    file = folder / "masked" / "config.yaml"
    file.write_text(file.read_text().replace("validation: null", f"validation: {folder / 'old-valid.txt'}"))
    (folder / "old-valid.txt").write_text("the cat sat on the mat\n" * 50)
    assert main(command(folder, "masked")) == 0
    assert load_config(str(folder / "out")).data.validation is None


def test_what_the_old_tokenizer_loses_is_accepted_anew_of_a_new_text_and_not_because_a_preset_accepts_it_of_its_own(
    folder,
):
    file = folder / "masked" / "config.yaml"
    file.write_text(file.read_text().replace("accept_loss: false", "accept_loss: true"))
    new = {"data.source": str(folder / "new.txt")}

    def accepts(settings: dict[str, Any], **more: Any) -> bool:
        return RunRequest(init=folder / "masked", settings=settings, **more).run_config().data.accept_loss

    assert accepts({})  # the old text again
    assert not accepts(new)
    assert not accepts({}, has_texts=True)
    assert not accepts(new, config="small")
    assert accepts({**new, "data.accept_loss": True})


@pytest.mark.slow
def test_forgetting_is_the_paired_difference_on_the_old_validation_text_and_is_told(folder, capsys):
    capsys.readouterr()
    assert main(command(folder, "masked", train__num_steps=60, optim__lr=1e-2, eval__final_num_draws=256)) == 0
    output = capsys.readouterr().out
    record = json.loads((folder / "out" / "forgetting.json").read_text())
    difference, error = (record["difference"][name] for name in ("nats_per_token", "standard_error"))
    before, after = (record[when]["nelbo_nats_per_token"] for when in ("before", "after"))
    assert difference == pytest.approx(after - before)
    assert difference > 2 * error > 0
    assert f"forgetting {difference:+.4f} ± {error:.4f} nats per token of the validation text of " in output
    assert "worse than before" in output
    assert f"{before:.4f} before, {after:.4f} after, on the same 256 draws" in output
    # what `atat eval` finds for the old run, on the same draws
    assert main(["eval", str(folder / "masked"), "--num_draws", "256", "--json", str(folder / "e.json")]) == 0
    assert json.loads((folder / "e.json").read_text())["nelbo_nats_per_token"] == pytest.approx(before)


def test_a_causal_model_forgets_too_and_a_shorter_one_is_scored_in_its_own_length(folder):
    assert main(command(folder, "causal", data__length=8)) == 0
    record = json.loads((folder / "out" / "forgetting.json").read_text())
    assert record["difference"]["kinds"] == ["exact", "exact"]
    assert json.loads((folder / "out" / "forgetting" / "before.json").read_text())["length"] == 8


def test_what_a_causal_model_forgets_as_one_in_two_ways_is_told_left_to_right_and_by_no_bound(folder, capsys):
    two_ways = {"model__kind": "masked", "objective__causal_share": 0.5, "train__num_steps": 20}
    assert main(command(folder, "causal", **two_ways)) == 0
    record, after = (
        json.loads((folder / "out" / name).read_text()) for name in ("forgetting.json", "forgetting/after.json")
    )
    assert record["difference"]["kinds"] == ["exact", "exact"]
    found = record["after"]["nelbo_nats_per_token"]
    assert found == after["left_to_right"]["nelbo_nats_per_token"] < after["nelbo_nats_per_token"]
    output = capsys.readouterr().out
    assert f" before, {found:.4f} after, on the same " in output
    assert output.split(" after, on the same ")[1].split()[1] == "sequences"


def test_without_the_old_text_or_model_the_run_ends_well_and_says_what_was_not_measured(
    folder, runs, capsys, monkeypatch
):
    monkeypatch.setattr("mdlm_atat.runs.train.write_report", write_report)
    text = (runs / "text.txt").rename(runs / "elsewhere.txt")
    try:
        assert main(command(folder, "masked")) == 0
    finally:
        text.rename(runs / "text.txt")
    assert re.search(r"forgetting not measured: .* was trained on .*text\.txt, which is not", capsys.readouterr().out)
    assert not (folder / "out" / "forgetting.json").exists()
    assert (folder / "out" / "report.html").exists()


def test_the_old_run_is_not_needed_to_resume(folder, capsys):
    assert main(command(folder, "masked")) == 0
    shutil.rmtree(folder / "masked")
    capsys.readouterr()
    assert main(["train", "--resume", str(folder / "out"), "--train.num_steps", "6"]) == 0
    output = capsys.readouterr().out
    assert "continuing after step 4" in output
    assert "masked/checkpoints/step-00000150, whose weights the run began with, is not there any more" in output


def test_a_run_that_was_stopped_and_resumed_is_the_same_bit_for_bit(folder):
    assert main(command(folder, "masked")) == 0
    whole = MaskedDiffusionLM.from_pretrained(folder / "out").fingerprint()
    checkpoints = folder / "out" / "checkpoints"
    shutil.rmtree(checkpoints / "step-00000004")
    assert main(["train", "--resume", str(folder / "out")]) == 0
    assert MaskedDiffusionLM.from_pretrained(folder / "out").fingerprint() == whole
    shutil.rmtree(checkpoints)  # stopped before its first checkpoint: it begins with the same weights again
    assert main(["train", "--resume", str(folder / "out")]) == 0
    assert MaskedDiffusionLM.from_pretrained(folder / "out").fingerprint() == whole


def test_before_its_first_checkpoint_a_run_needs_the_weights_it_begins_with(folder, capsys):
    assert main(command(folder, "masked")) == 0
    shutil.rmtree(folder / "out" / "checkpoints")
    shutil.rmtree(folder / "masked")
    capsys.readouterr()
    assert main(["train", "--resume", str(folder / "out")]) == 2
    assert "whose weights the run began with, is not there any more" in capsys.readouterr().err


def test_a_saved_model_and_a_single_checkpoint_will_do(folder, capsys):
    MaskedDiffusionLM.from_pretrained(folder / "masked").save_pretrained(folder / "saved")
    assert main(command(folder, "saved")) == 0
    said = capsys.readouterr().out
    assert f"forgetting not measured: {folder / 'saved'} is a saved model, and has no text stored with it\n" in said
    assert start(folder)["init"]["weights"] == "model.safetensors"
    shutil.rmtree(folder / "out")
    assert main(command(folder, "masked/checkpoints/best")) == 0
    assert start(folder)["init"]["path"].endswith("checkpoints/step-00000150")


def test_another_tokenizer_and_shape_are_told_together_and_nothing_is_written(folder, capsys):
    assert main(command(folder, "masked", model__width=64, model__num_layers=2, data__tokenizer="byte")) == 2
    error = capsys.readouterr().err
    assert "tokenizer: char with 23 tokens there, byte with 257 here; leave out --data.tokenizer" in error
    assert "model.width: 32 there, 64 here" in error
    assert "model.num_layers: 1 there, 2 here" in error
    assert "weight blocks.0.mlp.up.bias: (128,) there, (256,) here" in error
    assert not (folder / "out").exists()
    assert main(command(folder, "masked", model__width=64)) == 2
    assert "leave out the settings or the method that change it" in capsys.readouterr().err


def test_a_method_whose_estimator_the_weights_lack_is_told(folder, capsys):
    assert main(command(folder, "adaptive", "--method", "mdlm")) == 2
    error = capsys.readouterr().err
    assert "importance.mode: full there, none here" in error
    assert "there, none here" in error


@pytest.mark.parametrize(
    ("trained", "more", "new"),
    [
        ("masked", ["--method", "two_way"], "to read left to right is new to them"),
        ("causal", ["--model.kind", "masked", "--objective.causal_share", "0.5"], "to fill masks is new to them"),
    ],
)
def test_a_network_trained_in_one_way_begins_one_in_two_and_its_new_vector_is_zeros(folder, capsys, trained, more, new):
    still = {"optim__lr": 1e-30, "optim__weight_decay": 0, "optim__kind": "adamw"}
    assert main([*command(folder, trained, **still), *more]) == 0
    assert new in capsys.readouterr().out
    folders = Path(start(folder)["init"]["path"]), folder / "out" / "checkpoints" / "step-00000004"
    before, after = (load_file(each / "ema.safetensors") for each in folders)
    assert after.pop("mode_vector").abs().max() < 1e-20
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_of_two_ways_one_cannot_be_left_out_nor_another_alignment_be_taken(folder, capsys):
    assert main(command(folder, "masked", "--objective.causal_share", 0.5, "--model.alignment", "shifted")) == 2
    error = capsys.readouterr().err
    assert "weight start_vector: none there" in error
    assert "mode_vector" not in error


def test_a_model_that_is_not_there_a_damaged_one_and_init_with_resume_are_told(folder, capsys):
    assert "--init: there is no folder" in refused(command(folder, "nothing"), capsys)
    weights = folder / "masked" / "checkpoints" / "step-00000150" / "ema.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "is damaged" in refused(command(folder, "masked"), capsys)
    both = ["train", "--init", str(folder / "masked"), "--resume", str(folder / "masked")]
    assert "--init begins a run, --resume continues one" in refused(both, capsys)


def test_a_letter_that_the_old_alphabet_lacks_is_told(folder, capsys):
    (folder / "new.txt").write_text("Ünlike\n" * 30)
    assert main(command(folder, "masked")) == 2
    assert "character 'Ü' (U+00DC) at position 0 is not among the 22 characters" in capsys.readouterr().err
