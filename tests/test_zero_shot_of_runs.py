"""benchmarks.zero_shot: what several runs pay for texts that none of them was trained on, in one file."""

import json
import sys
from pathlib import Path

import pytest
from benchmarks import zero_shot
from benchmarks.command import exit_code
from benchmarks.results import stored as stored_files
from benchmarks.results import tables
from benchmarks.results import zero_shot as table_of

from mdlm_atat.runs.zero_shot import evaluate_zero_shot


def score(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["benchmarks.zero_shot", *words])
    return exit_code(zero_shot.main)


def test_each_run_is_scored_on_each_text_once_and_the_table_has_their_numbers(runs, tmp_path, monkeypatch, capsys):
    texts, out = [tmp_path / "letters.txt", tmp_path / "few.txt"], tmp_path / "zero-shot.json"
    texts[0].write_text("the cat sat on the mat " * 40)
    texts[1].write_text("a cat is a cat " * 30)
    folders = [runs / "masked", runs / "causal"]
    words = [*map(str, folders), "--texts", *map(str, texts), "--out", str(out), "--num_draws", "32"]
    assert score(monkeypatch, *words) == 0
    points = json.loads(out.read_text())["points"]
    assert [(point["run"].rpartition("/")[2], point["text"]) for point in points] == [
        (run, text) for run in ("masked", "causal") for text in ("letters", "few")
    ]
    expected = evaluate_zero_shot(folders[0], [str(texts[1])], mode="wrap", num_draws=32, save=False)
    (found,) = expected.values()
    assert points[1]["any_order"] == [found.nats_per_token, found.standard_error]
    assert "any_order" not in points[2]

    monkeypatch.setattr(zero_shot, "evaluate_zero_shot", lambda *_, **__: pytest.fail("it is stored"))
    capsys.readouterr()
    assert score(monkeypatch, *words) == 0
    assert f"{found.nats_per_token:.3f}" in capsys.readouterr().out

    monkeypatch.setattr(table_of, "FOLDER", tmp_path)
    monkeypatch.setattr(stored_files, "FOLDER", tmp_path)
    stored_files.stored.cache_clear()
    head, _, *rows = table_of.zero_shot("zero-shot.json").splitlines()
    assert head == "| nats per token | | letters | few |"
    assert [row.split("|")[2].strip() for row in rows] == ["any order, at most", "left to right"]
    assert f"{found.nats_per_token:.3f}" in rows[0]


def test_of_several_seeds_the_mean_and_the_error_between_them():
    points = [
        {"run": f"mdlm/seed-{seed}", "text": "plays", "any_order": [value, 0.5]}
        for seed, value in enumerate((4.0, 4.2, 4.4))
    ]
    assert table_of.zero_shot_rows(points)[1] == ["`mdlm`", "any order, at most", "4.200 ± 0.115"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--texts", "a/x.txt", "b/x.txt"], "two --texts have one name: x, x; rename a file"),
        (["--texts", "no.txt"], "no.txt"),
    ],
)
def test_a_mistake_is_one_message(words, message, runs, tmp_path, monkeypatch, capsys):
    assert score(monkeypatch, str(runs / "masked"), *words, "--out", str(tmp_path / "out.json")) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1


def test_texts_written_from_nothing_have_mauve_and_seconds_where_they_are_asked_for(tmp_path, monkeypatch):
    quality = {"judge_nats": 4.0, "judge_error": 0.01, "entropy_nats": 4.5, "mauve": 0.75, "mauve_spread": 0.02}
    own = {"order_nats": 3.9, "order_error": 0.02}
    points = [
        {**quality, **own, "order_kind": kind, "sampler": name, "steps": 16, "nfe_mean": 16.0, "seconds": 2.34}
        for name, kind in (("spread", "exact"), ("ancestral", "bound"))
    ]
    points.append({**points[0], "sampler": "remask", "order_nats": None, "order_error": None, "order_kind": None})
    (tmp_path / "writing-256.json").write_text(json.dumps({"points": points, "real": {**quality, "mauve": 0.9}}))
    for module in (tables, stored_files):
        monkeypatch.setattr(module, "FOLDER", Path(tmp_path))
    stored_files.stored.cache_clear()
    _, _, *rows = tables.writing("writing-256.json", "mauve", "seconds").splitlines()
    assert rows[0] == "| `spread` | 16 | 4.000 ± 0.010 | 3.900 ± 0.020 | 4.500 | 0.750 ± 0.020 | 2.3 |"
    assert "| at most 3.900 ± 0.020 |" in rows[1]
    assert rows[2] == "| `remask` | 16 | 4.000 ± 0.010 | | 4.500 | 0.750 ± 0.020 | 2.3 |"
    assert rows[3] == "| validation text | | 4.000 ± 0.010 | | 4.500 | 0.900 ± 0.020 | |"
    assert "MAUVE" not in tables.writing("writing-256.json")
    assert tables.writing("writing-1024.json").startswith("Not measured yet: `atat samplers bench")
