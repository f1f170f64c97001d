"""Whole runs of one network that is trained in two ways."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from mdlm_atat.cli.main import main
from mdlm_atat.training.checkpoint import all_checkpoints
from processes import run_ranks
from tiny_runs import losses_of, method_flags, tiny_flags, train, train_method

pytestmark = pytest.mark.usefixtures("no_report")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ATAT_CACHE", str(tmp_path_factory.mktemp("cache")))


def weights_of(run: Path) -> dict:
    return load_file(all_checkpoints(run / "checkpoints")[-1].folder / "model.safetensors")


def rows_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_share_1_is_a_causal_run_bit_for_bit_and_share_0_a_masked_one_without_a_mode_vector(text, tmp_path):
    assert train(text, tmp_path / "share1", objective__causal_share=1) == 0
    # whatever the share of the rows: a preset may have one
    assert train(text, tmp_path / "causal", model__kind="causal", objective__causal_share=0.3) == 0
    assert train(text, tmp_path / "share0", objective__causal_share=0) == 0
    assert train(text, tmp_path / "both", objective__causal_share=0.5) == 0
    all_causal, causal = weights_of(tmp_path / "share1"), weights_of(tmp_path / "causal")
    assert all(all_causal[name].equal(causal[name]) for name in all_causal)
    assert all_causal.keys() == causal.keys() == weights_of(tmp_path / "share0").keys()
    assert losses_of(tmp_path / "share1") == losses_of(tmp_path / "causal")
    assert weights_of(tmp_path / "both").keys() - causal.keys() == {"mode_vector"}


def test_each_modes_loss_and_likelihood_is_logged_by_its_name(text, tmp_path, capsys):
    assert train(text, tmp_path / "run", objective__causal_share=0.25, train__num_steps=4) == 0
    row = rows_of(tmp_path / "run")[-1]
    assert row["train/loss"] == pytest.approx(0.75 * row["train/diffusion"] + 0.25 * row["train/nll"], rel=1e-5)
    assert 0 < row["eval/left_to_right_nats_per_token"] < 4
    assert row["eval/left_to_right_standard_error"] > 0
    assert "; left to right " in capsys.readouterr().out


@pytest.mark.slow
def test_two_processes_and_micro_batches_match_one_with_every_part_of_the_method(text, tmp_path):
    settings = {"objective__causal_share": 0.25, "train__batch_size": 16, "model__num_layers": 2}
    settings |= {"importance__train_share": 1.0, "data__mode": "pad", "data__documents": "line"}

    def run(name: str, num_processes: int, **more: object) -> None:
        flags = method_flags("importance_rates", text, **{**settings, **more})
        run_ranks(num_processes, ["train", "demo", "--out", str(tmp_path / name), *flags])

    run("one", 1)
    run("parts", 1, train__num_micro_batches=4)
    run("two", 2, train__num_micro_batches=2)
    run("sharded", 2, train__shard=True)
    expected = losses_of(tmp_path / "one")
    assert len(expected) == 8
    for name in ("parts", "two", "sharded"):
        assert losses_of(tmp_path / name) == pytest.approx(expected, abs=1e-3)


def test_a_run_with_dropout_and_a_curriculum_resumes_bit_for_bit(text, tmp_path):
    settings = {"objective__causal_share": 0.5, "model__dropout": 0.2, "model__alignment": "shifted"}
    assert train_method("importance_rates", text, tmp_path / "whole", **settings) == 0
    assert train_method("importance_rates", text, tmp_path / "parts", train__max_minutes=1e-9, **settings) == 0
    assert main(["train", "--resume", str(tmp_path / "parts")]) == 0
    whole, parts = weights_of(tmp_path / "whole"), weights_of(tmp_path / "parts")
    assert {"mode_vector", "start_vector"} <= whole.keys() == parts.keys()
    assert all(whole[name].equal(parts[name]) for name in whole)


def test_a_share_that_does_not_divide_the_rows_is_refused_with_one_that_does(text, tmp_path, capsys):
    assert train(text, tmp_path / "run", objective__causal_share=0.3) == 2
    message = capsys.readouterr().err
    assert "3 of every 10 sequences left to right" in message
    assert "--train.batch_size 10" in message
    assert "--objective.causal_share 0.25" in message
    assert not (tmp_path / "run").exists()


def test_a_share_to_try_instead_is_one_of_two_ways_and_none_where_a_row_is_alone(text, tmp_path, capsys):
    assert train(text, tmp_path / "run", objective__causal_share=0.001) == 2
    assert "try --train.batch_size 1000, or --objective.causal_share 0.25" in capsys.readouterr().err
    assert train(text, tmp_path / "run", objective__causal_share=0.99) == 2
    assert "try --train.batch_size 100, or --objective.causal_share 0.75" in capsys.readouterr().err
    assert train(text, tmp_path / "run", objective__causal_share=0.5, train__batch_size=1) == 2
    assert "try --train.batch_size 2\n" in capsys.readouterr().err


WRONG = {
    "a share of less than a row of 1,000": ({"objective__causal_share": 1e-9}, "--objective.causal_share 0, or one"),
    "a share of more than 999 rows of 1,000": (
        {"objective__causal_share": 0.9999},
        "--objective.causal_share 1, or one",
    ),
    "a share of 150%": ({"objective__causal_share": 1.5}, "causal_share"),
    "an alignment of no masked text": ({"model__kind": "causal", "model__alignment": "shifted"}, "model.alignment"),
    "importance without a masked row": (
        {"objective__causal_share": 1, "importance__mode": "full", "masking__strategy": "importance"},
        "masks nothing",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_contradicts_itself_is_refused(case, text, tmp_path, capsys):
    settings, said = WRONG[case]
    assert main(["train", "demo", "--out", str(tmp_path / "run"), *tiny_flags(text, **settings)]) == 2
    assert said in capsys.readouterr().err
