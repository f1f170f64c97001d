import json
from pathlib import Path

import numpy as np

from mdlm_atat.training.metrics import read_json_lines, read_metrics

TRAIN, EVAL = {"train/loss": 3.0, "train/lr": 0.1}, {"eval/nelbo_nats_per_token": 2.5}


def metrics_of(folder: Path, *lines: object):
    (folder / "metrics.jsonl").write_text(
        "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    )
    return read_metrics(folder)


def test_a_step_is_1_row_whether_its_values_were_written_on_1_line_or_on_2(tmp_path: Path):
    apart = metrics_of(tmp_path, {"step": 1, **TRAIN}, {"step": 2, **TRAIN}, {"step": 2, **EVAL})
    together = metrics_of(tmp_path, {"step": 1, **TRAIN}, {"step": 2, **TRAIN, **EVAL})
    assert apart == together
    assert apart.rows == [{"step": 1, **TRAIN}, {"step": 2, **TRAIN, **EVAL}]
    assert apart.having("eval/nelbo_nats_per_token").column("step").tolist() == [2.0]
    bound = apart.column("eval/nelbo_nats_per_token")
    assert np.isnan(bound[0])
    assert bound[1] == 2.5


def test_a_step_that_was_taken_again_counts_as_it_was_the_last_time(tmp_path: Path):
    found = metrics_of(tmp_path, {"step": 2, "train/loss": 9.0}, {"step": 3, "train/loss": 8.0}, {"step": 2, **TRAIN})
    assert found.column("train/loss").tolist() == [3.0, 8.0]
    assert found.last("train/loss") == 8.0
    assert found.last("train/lr") == 0.1
    assert found.last("elapsed_s") is None


def test_half_a_line_of_a_killed_process_is_left_out_and_counted(tmp_path: Path):
    found = metrics_of(tmp_path, {"step": 1, **TRAIN}, '{"step": 2, "tra', "", {"step": 3, **TRAIN}, "[1]", {"a": 1})
    assert found.column("step").tolist() == [1.0, 3.0]
    assert read_json_lines(tmp_path / "metrics.jsonl")[1] == 2
    assert read_json_lines(tmp_path / "none.jsonl") == ([], 0)
