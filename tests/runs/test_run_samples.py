"""What a run writes at its end, and how many of its words are words."""

import json

import pytest

from mdlm_atat.runs.samples import sample_lines, share_known
from mdlm_atat.samplers.seeds import mix_seed
from tiny_runs import train, write_text

pytestmark = pytest.mark.usefixtures("no_report")

KNOWN = {"the", "cat", "o'clock"}


@pytest.mark.parametrize(
    ("text", "spans", "share"),
    [
        ("the cat zat .", [(0, 13)], 2 / 3),
        ("The CAT, o'clock!", [(0, 17)], 1.0),
        ("the cat", [(0, 7)], 1.0),  # the last word may have been cut
        ("zat the cat sat .", [(4, 11)], 1.0),  # what was given does not count
        ("zat the cat sat .", [(2, 11)], 1.0),  # nor a word that was begun by what was given
        ("12 .", [(0, 4)], None),
    ],
)
def test_the_share_of_words_is_of_those_that_were_written_whole(text, spans, share):
    assert share_known(text, spans, KNOWN) == share


def test_a_run_writes_from_nothing_after_a_beginning_and_in_a_gap_and_shows_one_of_each(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ATAT_CACHE", str(tmp_path / "cache"))
    text = write_text(tmp_path / "text.txt")
    assert train(text, tmp_path / "run", eval__num_samples=2, objective__causal_share=0.5) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert [line["made"].split()[0] for line in lines] == ["from", "from", "after", "in"]
    held_out = text.read_text()[-len(text.read_text()) // 20 :]
    assert lines[2]["text"][:4] in held_out
    assert [line["sampler"] for line in lines] == ["left_to_right"] * 3 + ["spread"]
    assert [line["seed"] for line in lines] == [mix_seed(0, number) for number in range(4)]  # a seed each
    lines[0]["words"], lines[1]["words"] = 0.5, 1.0
    shown = sample_lines(lines)
    assert shown[0] == "samples    from nothing: 75% of the words occur in the training text (2 texts)"
    assert capsys.readouterr().out.count("\n               ") >= 3
    assert [line.split(":")[0].strip() for line in shown if not line.startswith(" " * 15)] == [
        "samples    from nothing",
        "after a held-out beginning",
        "in a gap of a held-out text",
    ]


def test_no_share_of_words_is_told_of_a_script_without_spaces(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ATAT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text("สวัสดีครับผมชื่อสมชายและฉันชอบอ่านหนังสือทุกวัน\n" * 60)
    assert train(tmp_path / "text.txt", tmp_path / "run", eval__num_samples=2) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert {line["words"] for line in lines} == {None}
    printed = capsys.readouterr().out
    assert "samples    from nothing\n" in printed
    assert "of the words" not in printed


def test_a_causal_run_writes_no_gap(tmp_path, monkeypatch):
    monkeypatch.setenv("ATAT_CACHE", str(tmp_path / "cache"))
    assert train(write_text(tmp_path / "text.txt"), tmp_path / "run", model__kind="causal") == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert [line["made"] for line in lines] == ["from nothing", "after a held-out beginning"]
