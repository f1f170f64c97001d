from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from refusals import refused

from mdlm_atat.cli.data import main
from mdlm_atat.data.open_tokenizer import load_tokenizer
from mdlm_atat.errors import UserError


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text("".join(f"the cat {i:03d} sat on the mat\n" for i in range(200)))
    return str(path)


def test_prepare_ends_with_a_table_and_the_next_command(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    assert main(["prepare", text, "--tokenizer", "char", "--out", out]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["split", "documents", "tokens", "words", "characters", "bytes"]
    assert lines[1].split() == ["train", "1", "5,157", "1,337", "5,157", "5,157"]
    assert lines[-1].split(maxsplit=1) == ["next", f"atat train char --data.source {out}"]
    assert main(["prepare", text, "--tokenizer", "char", "--out", out]) == 0
    assert "already prepared" in capsys.readouterr().err


def test_the_next_command_names_a_tokenizer_and_mode_that_presets_do_not_have(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--mode", "pad", "--length", "64", "--documents", "line"]
    main(["prepare", text, "--tokenizer", "byte", "--out", str(tmp_path / "out"), *flags])
    assert capsys.readouterr().out.rstrip().endswith("--data.tokenizer byte --data.mode pad --data.length 64")


def test_a_trained_tokenizer_prepares_a_corpus(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = str(tmp_path / "bpe")
    assert main(["train-tokenizer", text, "--vocab_size", "2000", "--out", tokenizer]) == 0
    assert "fewer than the 2,000 asked for" in capsys.readouterr().out
    assert load_tokenizer(tokenizer).decode(load_tokenizer(tokenizer).encode("the cat")) == "the cat"
    assert main(["prepare", text, "--tokenizer", tokenizer, "--out", str(tmp_path / "out")]) == 0
    with pytest.raises(UserError, match="is not an empty folder"):
        main(["train-tokenizer", text, "--vocab_size", "300", "--out", tokenizer])


def test_an_unknown_command_and_missing_flags_are_named() -> None:
    with pytest.raises(UserError, match="unknown command 'prep'; commands: prepare, train-tokenizer; did you mean"):
        main(["prep"])
    with pytest.raises(
        UserError, match=r"2 mistakes\n  missing SOURCE: shakespeare .*\n  missing --out: folder to make"
    ):
        main(["prepare"])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("prepare nosuch.txt --tokenizer char --out out", "there is no file or folder nosuch.txt"),
        ("prepare TEXT --tokenizer chr --out out", "chr"),
        ("prepare TEXT --tokenizer char --out out --mode pad", "--mode pad needs --length, the tokens of a row"),
        ("prepare TEXT --tokenizer char --out out --documents lines", "did you mean line?"),
        ("prepare TEXT --tokenizer char --out out --validation-fraction 2", "is 2.0, expected between 0 and 1"),
        ("prepare TEXT --tokenizer char --out TEXT", "TEXT"),
        ("prepare TEXT --tokeniser char --out out", "--tokeniser: unknown flag; did you mean --tokenizer?"),
        ("train-tokenizer TEXT --vocab_size 12 --out out", "258"),
        ("train-tokenizer TEXT --vocab_size 0 --out out", "258"),
        ("train-tokenizer TEXT --vocab_size many --out out", "--vocab_size is many, expected a whole number"),
        ("train-tokenizer TEXT --vocab_size 300 --out TEXT", "is not an empty folder"),
        ("train-tokenizer TEXT --out out", "missing --vocab_size"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    words: str,
    expected: str,
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    message = refused(["data", *words.replace("TEXT", text).split()], capsys, tmp_path)
    assert expected.replace("TEXT", text) in message


@pytest.mark.parametrize("argv", [["--help"], ["prepare", "--help"], ["train-tokenizer", "--help"]])
def test_help_imports_nothing_heavy(argv: list[str]) -> None:
    code = (
        "import sys\nfrom mdlm_atat.cli.data import main\n"
        f"try:\n    main({argv})\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'numpy', 'pyarrow', 'datasets', 'tokenizers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "atat data" in done.stdout


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        ("train char --data.source SET --out NEW", "--data.leave_out .png"),
        ("data prepare SET --out NEW", "--leave_out .png"),
        ("data train-tokenizer SET --vocab_size 300 --out NEW", "--leave_out .png"),
    ],
)
def test_a_folder_that_is_mostly_no_text_is_refused_with_the_flag_that_goes_on(
    command: str, flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATAT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    (tmp_path / "set/a.txt").write_text("the cat sat on the mat\n" * 9)
    for name in "bc":
        (tmp_path / f"set/{name}.png").write_bytes(bytes(range(256)))
    words = command.replace("SET", str(tmp_path / "set")).replace("NEW", str(tmp_path / "new")).split()
    error = refused(words, capsys, tmp_path)
    assert "2 of 3 files (67% of the files" in error
    assert f"To go on without them: {flag} (" in error
    assert not (tmp_path / "new").exists()
