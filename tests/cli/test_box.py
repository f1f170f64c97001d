"""Commands that use the model in the box where no run is named. A model trained for a second stands in for it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from refusals import refused
from tokenizers import Tokenizer, models, normalizers

from mdlm_atat import MaskedDiffusionLM, load_lm, model_folder
from mdlm_atat.cli.main import main
from mdlm_atat.data.encode import lost_in
from mdlm_atat.data.tokenizers import HFTokenizer

LINE = r"using the model in the box \(0\.0M parameters, novels and other prose; name a run to use your own\)\n"


@pytest.fixture(scope="module")
def packed(masked: MaskedDiffusionLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return masked.save_pretrained(tmp_path_factory.mktemp("installed") / "box", weights="int8")


@pytest.fixture
def box(packed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(model_folder, "BOX", packed)
    monkeypatch.chdir(tmp_path)
    return packed


@pytest.mark.parametrize(
    "command",
    [
        ["infill", "the [MASK:3] sat"],
        ["infill", "--num_samples", "2", "the [MASK:3] sat"],
        ["infill", "box", "the [MASK:3] sat"],
        ["infill", "runs/[MASK:3]"],
        ["generate", "--prompt", "the cat "],
        ["generate", "box"],
        ["score", "the cat"],
        ["score", "box", "the cat"],
        ["score", "the cat", "a mat"],
        ["score", "cat"],
        ["score", "the cat sat " * 40],
        ["infill", "the cat sat " * 40 + "[MASK]"],
    ],
    ids=lambda command: " ".join(command)[:30],
)
def test_the_box_is_used_where_no_run_is_named_and_a_line_says_so(
    command: list[str], box: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    word = "cat" if command[-1].startswith("runs/") else ""
    command = [part.replace("runs/", word) for part in command]  # no slash in this alphabet
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert out
    assert re.match(LINE, err)
    assert err.count("in the box") == 1


def test_a_run_that_is_named_is_used_and_the_box_is_not_spoken_of(
    runs: Path, box: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["infill", str(runs / "masked"), "the [MASK:3] sat"], ["score", str(runs / "causal"), "the cat"]):
        assert main(command) == 0
        assert "in the box" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["infill", "score", "inspect"])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["runs/nosuch"], "there is no folder runs/nosuch, and no text after it; if it is the text, name the model"),
        (["here"], 'here is a folder: give a text after it, as in atat {} here "..."; if it is the text, name the'),
        (["letter.txt"], "letter.txt is a file: to read the text in it, write --file letter.txt; if it is the text"),
        (["runs/nosuch", "the [MASK]"], "there is no folder runs/nosuch; expected a run such as runs/demo"),
        (["here", "the [MASK]"], "here is neither a run folder"),
        (["box"], 'give a text, as in atat {} box "...", or --file'),
        ([], 'give a text, as in atat {} box "...", or --file'),
        (["the [MASK]", "--file", "letter.txt"], "give a text or --file, not both"),
        (["box", "the [MASK]", "--file", "letter.txt"], "give a text or --file, not both"),
        (["the [MASK]", "--encoding", "cp1252"], "--encoding is for --file"),
        (["runs/nosuch", "--file", "letter.txt"], "there is no folder runs/nosuch; expected a run"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_a_word_that_may_be_a_run_or_a_text_is_not_guessed_at(
    name: str, words: list[str], message: str, box: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "letter.txt").write_text("the [MASK]")
    assert message.format(name) in refused([name, *words], capsys, tmp_path)


def test_a_long_text_in_the_place_of_a_run_is_no_file_of_so_long_a_name(
    box: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no file or folder has so long a name" in refused(["infill", "the cat " * 40, "the [MASK]"], capsys)
    assert main(["score", "the cat " * 40, "the cat"]) == 0  # two texts


def test_a_text_that_names_a_folder_is_scored_behind_the_name_of_the_model(
    box: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, masked: MaskedDiffusionLM
) -> None:
    (tmp_path / "mat").mkdir()
    assert main(["score", "box", "mat", "--order", "any"]) == 0
    nats = load_lm(box).score("mat", order="any").nats
    assert f"at most {nats:.2f} nats" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[""], ["box", ""], ["", ""]], ids=str)
@pytest.mark.parametrize("name", ["infill", "score", "inspect"])
def test_an_empty_text_is_no_folder(
    name: str, words: list[str], box: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    err = refused([name, *words], capsys, tmp_path)
    assert "is empty" in err
    assert "folder" not in err


def test_one_word_before_a_text_is_taken_for_a_run_that_is_not_there(
    box: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    err = refused(["score", "runs/nosuch", "the cat"], capsys)
    assert "there is no folder runs/nosuch; expected a run such as runs/demo" in err
    assert "name the model before it: atat score box runs/nosuch ..." in err


def test_a_text_in_the_place_of_a_run_is_told_where_a_prompt_goes(
    box: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    err = refused(["generate", "the cat sat"], capsys)
    assert err == "error: there is no model 'the cat sat'; a text to begin with goes after --prompt\n"


def test_an_installation_without_the_box_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(model_folder, "BOX", tmp_path / "box")
    for command in (["infill", "the [MASK]"], ["generate"], ["score", "the cat"], ["serve"]):
        assert "has no model in the box: name a run, such as runs/demo" in refused(command, capsys)


def test_a_model_called_box_is_what_the_name_stands_for(
    runs: Path, box: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, masked: MaskedDiffusionLM
) -> None:
    (tmp_path / "box").mkdir()
    assert load_lm("box").home == box  # a folder of something else
    masked.save_pretrained(tmp_path / "box")
    assert load_lm("box").fingerprint() == masked.fingerprint()
    assert load_lm().home == box
    assert main(["infill", "the [MASK:3] sat"]) == 0  # no run is named
    assert "using the model in the box" in capsys.readouterr().err


def test_python_loads_it_without_a_name(box: Path, masked: MaskedDiffusionLM) -> None:
    for lm in (load_lm(), load_lm("box"), MaskedDiffusionLM.from_pretrained()):
        assert lm.home == box
        assert lm.tokenizer.vocab_size == masked.tokenizer.vocab_size


def test_a_run_goes_on_from_the_box(
    runs: Path, box: Path, cache: None, no_report: None, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command = ["train", "--init", "box", "--data.source", str(runs / "text.txt"), "--train.num_steps", "1"]
    assert main([*command, "--out", "mine", "--data.validation_fraction", "0.1"]) == 0
    assert f"the weights of {box}" in capsys.readouterr().out


def test_results_about_the_box_are_written_here(box: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = [
        (f"{first} {second}", second[0]) for first in ("the", "a", "cat", "sat") for second in ("mat", "ran", "the")
    ]
    Path("task.csv").write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    before = {file.name for file in box.rglob("*")}
    assert main(["finetune", "--task", "task.csv", "--seeds", "1", "--epochs", "1", "--probe"]) == 0
    assert list(tmp_path.glob("finetune/**/*.json"))
    assert {file.name for file in box.rglob("*")} == before


def test_a_score_is_shown_by_token_and_by_character(
    runs: Path, capsys: pytest.CaptureFixture[str], causal, masked: MaskedDiffusionLM
) -> None:
    assert main(["score", str(runs / "causal"), "the cat sat"]) == 0
    nats = causal.score("the cat sat").nats
    assert capsys.readouterr().out == (
        f"left to right   exactly {nats:.2f} nats: {nats / 11:.3f} per token (11), {nats / 11:.3f} per character (11)\n"
    )
    assert main(["score", str(runs / "masked"), "the cat", "a mat", "--order", "spread", "--evaluations", "3"]) == 0
    nats = masked.score("a mat", order="spread", evaluations=3).nats
    *_, title, line = capsys.readouterr().out.splitlines()
    assert title == "a mat"
    assert line.startswith(
        f"own order of spread in 3 evaluations exactly {nats:.2f} nats: {nats / 5:.3f} per token (5)"
    )


def test_a_file_is_scored_whole(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], causal) -> None:
    (tmp_path / "text.txt").write_text("the cat\nsat\n")
    assert main(["score", str(runs / "causal"), "--file", str(tmp_path / "text.txt")]) == 0
    assert f"exactly {causal.score(chr(10).join(['the cat', 'sat', ''])).nats:.2f} nats" in capsys.readouterr().out
    assert main(["score", str(runs / "causal"), r"the cat\nsat\n", "--escape"]) == 0
    assert "per character (12)" in capsys.readouterr().out


def test_a_file_in_another_encoding_is_scored_by_its_flag(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wide.txt").write_bytes("the cat".encode("utf-16-le"))
    command = ["score", str(runs / "causal"), "--file", str(tmp_path / "wide.txt"), "--encoding", "utf-16-le"]
    assert main(command) == 0
    assert "per character (7)" in capsys.readouterr().out


def test_what_a_tokenizer_loses_of_a_text_that_is_scored_is_counted() -> None:
    tokenizer = Tokenizer(models.BPE(vocab={"h": 0, "i": 1}, merges=[]))
    tokenizer.normalizer = normalizers.Lowercase()
    assert lost_in("Hi", HFTokenizer(tokenizer, name="lower")).case == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--order", "spraed"], "unknown order 'spraed', expected one of "),
        (["--order", "anny"], "did you mean any?"),
        (["--evaluations", "4"], "--evaluations is for the own order of a sampler"),
        (["--order", "any", "--evaluations", "4"], "--evaluations is for the own order of a sampler"),
        (["--num_draws", "1"], "--num_draws is 1, expected at least 2"),
    ],
)
def test_an_order_that_there_is_not_is_refused(
    flags: list[str], message: str, box: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(["score", "the cat", *flags], capsys)


def test_what_is_found_out_about_it_is_stored_here_and_its_folder_stays_as_it_was_installed(
    box, runs, cache, tmp_path, capsys
):
    (tmp_path / "text.txt").write_text("the cat sat on a mat and ran to see if you can be so kind\n" * 20)
    shutil.copytree(runs / "masked", tmp_path / "run", symlinks=True)
    before = {file.relative_to(box): file.stat().st_mtime_ns for file in box.rglob("*")}
    draws = ["--data", "text.txt", "--num_draws", "32"]
    assert main(["eval", "run", "--against", "box", *draws]) == 0
    assert "against    box: bound" in capsys.readouterr().out
    assert len(list((tmp_path / "evals").glob("box-*.json"))) == 1
    assert main(["eval", "box", "--samples", "2", "--length", "12", "--data", "text.txt"]) == 0
    assert len(list(tmp_path.glob("samples-box-*.json"))) == 1
    (tmp_path / "profile.json").write_text("of somebody else's")
    assert main(["eval", "box", "--profile", *draws]) == 0
    assert "profile    box-profile.json\n" in capsys.readouterr().out
    assert main(["generate", "box", "--sampler", "first_hitting:sizes=optimal", "--steps", "2"]) == 0
    assert (tmp_path / "profile.json").read_text() == "of somebody else's"
    assert {file.relative_to(box): file.stat().st_mtime_ns for file in box.rglob("*")} == before
