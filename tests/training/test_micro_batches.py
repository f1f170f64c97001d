"""`train.num_micro_batches auto`: a step that does not fit in memory is cut into more parts; nothing else changes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from faulty import Tight
from mdlm_atat.cli.main import main
from mdlm_atat.config.files import apply_settings, load_config
from mdlm_atat.training.assemble import find_by_trying
from mdlm_atat.training.engine import Engine
from processes import run_ranks
from tiny_runs import losses_of, tiny_flags, train

pytestmark = pytest.mark.usefixtures("no_report", "faults")
SETTINGS = {"model__kind": "faulty:Tight", "train__batch_size": 12, "model__dropout": 0.1, "eval__num_samples": 0}


def rows_of(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "train/loss" in line]


@pytest.mark.slow
@pytest.mark.parametrize(("rows_that_fit", "expected"), [(11, 2), (4, 3)])
def test_the_largest_micro_batch_that_fits_is_found_and_gives_the_losses_of_that_fixed_number(
    text, tmp_path, faults, capsys, rows_that_fit, expected
):
    settings = {**SETTINGS, "train__num_steps": 2}
    assert train(text, tmp_path / "fixed", train__num_micro_batches=expected, **settings) == 0
    faults.setenv("TIGHT_ROWS", str(rows_that_fit))
    assert train(text, tmp_path / "auto", train__num_micro_batches="auto", **settings) == 0
    assert losses_of(tmp_path / "auto") == losses_of(tmp_path / "fixed")
    assert f"is enough for a step in {expected} micro-batches" in capsys.readouterr().out
    assert {row["train/num_micro_batches"] for row in rows_of(tmp_path / "auto")} == {expected}
    record = json.loads((tmp_path / "auto" / "run.json").read_text())
    assert record["micro_batches"] == [{"after_step": 0, "num_micro_batches": expected}]
    assert load_config(str(tmp_path / "auto")).train.num_micro_batches == expected


@pytest.mark.slow
def test_a_resumed_run_keeps_the_number_and_repeats_the_run_bit_for_bit(text, tmp_path, faults, capsys):
    faults.setenv("TIGHT_ROWS", "4")
    settings = {**SETTINGS, "train__num_steps": 3}
    assert train(text, tmp_path / "whole", train__num_micro_batches="auto", **settings) == 0
    parts = {**settings, "train__max_minutes": 1e-9}
    assert train(text, tmp_path / "parts", train__num_micro_batches="auto", **parts) == 0
    faults.setenv("TIGHT_ROWS", "1000")
    capsys.readouterr()
    assert main(["train", "--resume", str(tmp_path / "parts")]) == 0
    assert "num_micro_batches" not in capsys.readouterr().out
    assert losses_of(tmp_path / "parts") == losses_of(tmp_path / "whole")
    # another machine: it is found out again where that is asked for
    faults.setenv("TIGHT_ROWS", "3")
    more = ["--train.num_steps", "4", "--train.num_micro_batches"]
    assert main(["train", "--resume", str(tmp_path / "parts"), *more, "auto"]) == 0
    assert load_config(str(tmp_path / "parts")).train.num_micro_batches == 4


@pytest.mark.slow
def test_memory_that_runs_out_in_the_middle_of_a_run_costs_no_step(text, tmp_path, faults, capsys):
    settings = {**SETTINGS, "model__dropout": 0, "train__num_micro_batches": "auto"}
    assert train(text, tmp_path / "whole", **settings) == 0
    faults.setattr(Tight, "num_calls", 0)
    faults.setenv("TIGHT_ROWS", "6")
    faults.setenv("TIGHT_AFTER", "9")
    assert train(text, tmp_path / "run", **settings) == 0
    assert losses_of(tmp_path / "run") == pytest.approx(losses_of(tmp_path / "whole"), abs=1e-5)
    numbers = [row["train/num_micro_batches"] for row in rows_of(tmp_path / "run")]
    assert len(numbers) == 8
    assert numbers[0] == 1
    assert numbers[-1] == 2
    step = numbers.index(2)
    said = capsys.readouterr().out
    assert f"out of memory in step {step + 1}: it and all after it are cut into 2 micro-batches" in said
    record = json.loads((tmp_path / "run" / "run.json").read_text())["micro_batches"]
    assert record == [{"after_step": n, "num_micro_batches": num} for n, num in ((0, 1), (step, 2))]
    assert load_config(str(tmp_path / "run")).train.num_micro_batches == 2


def test_every_number_that_cuts_the_share_of_a_process_into_parts_that_the_method_takes_is_tried():
    def tried(num_ranks: int, **settings: object) -> list[int]:
        config, mistakes = apply_settings(load_config("demo"), {f"train.{k}": v for k, v in settings.items()})
        assert config is not None, mistakes
        config = replace(config, objective=replace(config.objective, causal_share=0.5))
        engine = Engine.__new__(Engine)  # of so many processes, none of which is started
        engine.num_ranks, engine.is_sharded = num_ranks, False
        found = find_by_trying(config, engine)
        return [] if found is None else list(found.possible)

    assert tried(1, batch_size=24, num_micro_batches="auto") == [1, 2, 3, 4, 6, 12]  # 8 and 24 leave odd parts
    assert tried(2, batch_size=24, num_micro_batches="auto") == [1, 2, 3, 6]
    assert tried(1, batch_size=24, num_micro_batches=4) == []


@pytest.mark.slow
def test_two_processes_agree_on_what_fits_in_both(text, tmp_path, faults):
    flags = tiny_flags(text, **SETTINGS, train__num_steps=3, model__num_layers=1)
    run_ranks(2, ["train", "demo", "--out", str(tmp_path / "fixed"), *flags, "--train.num_micro_batches", "3"])
    faults.setenv("TIGHT_ROWS", "2")
    faults.setenv("FAULTY_RANK", "1")
    run_ranks(2, ["train", "demo", "--out", str(tmp_path / "auto"), *flags, "--train.num_micro_batches", "auto"])
    assert losses_of(tmp_path / "auto") == losses_of(tmp_path / "fixed")
    assert load_config(str(tmp_path / "auto")).train.num_micro_batches == 3


def test_where_not_even_one_sequence_fits_the_message_says_what_to_do_and_nothing_is_begun(
    text, tmp_path, faults, capsys
):
    faults.setenv("TIGHT_ROWS", "0")
    assert train(text, tmp_path / "run", train__num_micro_batches="auto", **SETTINGS) == 2
    assert "out of memory in 12 micro-batches, and there are no smaller ones: set --train.recompute" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "run").exists()


def test_a_number_that_is_neither_a_number_nor_auto_is_refused(text, tmp_path, capsys):
    for value in ("atuo", "0", "1.5"):
        assert train(text, tmp_path / "run", train__num_micro_batches=value) == 2
    said = capsys.readouterr().err
    assert "expected a whole number or auto, found 'atuo'" in said
    assert "train.num_micro_batches is 0, expected at least 1" in said
    assert "expected a whole number or auto, found 1.5" in said
