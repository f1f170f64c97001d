"""`atat` finds the command, and a person's mistake is one message and exit code 2."""

from __future__ import annotations

import errno
import importlib.metadata
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import mdlm_atat
from mdlm_atat.cli import main as cli
from mdlm_atat.runs.texts import Lines


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "mdlm_atat", *argv], capture_output=True, text=True, check=False)


@pytest.fixture
def command_that_raises(monkeypatch: pytest.MonkeyPatch):
    """Put a command in place of all others that raises what the test gives it."""

    def use(error: BaseException) -> None:
        def main(_: list[str]) -> None:
            raise error

        monkeypatch.setattr(cli, "import_module", lambda _: SimpleNamespace(main=main))

    return use


def test_help_lists_every_command_and_four_examples(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["--help"]) == 0
    page = capsys.readouterr().out
    for name, (_, what) in cli.COMMANDS.items():
        assert f"  {name} " in page
        assert what in page
    assert page.count("\n  atat ") == 4
    assert max(map(len, page.splitlines())) <= 80


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]):
    assert cli.main([]) == 0
    assert capsys.readouterr().out == cli.HELP


def test_the_version_is_the_package_s():
    assert run("--version").stdout == f"atat {importlib.metadata.version('mdlm-atat')}\n"


def test_an_unknown_command_exits_2_with_a_hint_and_no_traceback():
    done = run("tran")
    assert done.returncode == 2
    commands = ", ".join(cli.COMMANDS)
    assert done.stderr == f"error: unknown command 'tran'; commands: {commands}; did you mean atat train?\n"


def test_a_command_gets_the_arguments_after_its_name_and_its_exit_code_is_kept(
    monkeypatch: pytest.MonkeyPatch,
):
    seen: list[object] = []
    for code in (None, 0, 3):

        def main(argv: list[str], code: int | None = code) -> int | None:
            seen.append(argv)
            return code

        monkeypatch.setattr(
            cli, "import_module", lambda name, main=main: seen.append(name) or SimpleNamespace(main=main)
        )
        assert cli.main(["eval", "runs/a", "--help"]) == (code or 0)
    assert seen == ["mdlm_atat.cli.eval", ["runs/a", "--help"]] * 3


def test_a_user_s_mistake_is_one_message_and_exit_code_2(command_that_raises, capsys: pytest.CaptureFixture[str]):
    command_that_raises(mdlm_atat.UserError("no such thing; try another"))
    assert cli.main(["train"]) == 2
    assert capsys.readouterr().err == "error: no such thing; try another\n"


def test_a_message_that_speaks_python_is_shown_in_flags(command_that_raises, capsys: pytest.CaptureFixture[str]):
    command_that_raises(mdlm_atat.UserError("too large; try `train.batch_size=512`"))
    assert cli.main(["train"]) == 2
    assert capsys.readouterr().err == "error: too large; try --train.batch_size 512\n"


def test_ctrl_c_exits_130(command_that_raises, capsys: pytest.CaptureFixture[str]):
    command_that_raises(KeyboardInterrupt())
    assert cli.main(["train"]) == 130
    assert capsys.readouterr().err == "\ninterrupted\n"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO, errno.ESTALE])
def test_a_full_or_broken_disk_or_a_closed_folder_is_one_message_that_names_it(
    command_that_raises, capsys: pytest.CaptureFixture[str], code: int
):
    command_that_raises(OSError(code, os.strerror(code), "runs/a"))
    assert cli.main(["train"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {os.strerror(code)}: runs/a; ")


@pytest.fixture
def no_room() -> Iterator[None]:
    """Files of 1,000 bytes at most, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_is_full_at_a_write_is_named_by_what_was_written_there(
    tmp_path: Path, no_room: None, capsys: pytest.CaptureFixture[str]
):
    texts, out = tmp_path / "texts", tmp_path / "corpus"
    texts.mkdir()
    for number in range(20):
        (texts / f"{number}.txt").write_text(f"the cat sat on {number} mats\n" * 40)
    assert cli.main(["data", "prepare", str(texts), "--tokenizer", "byte", "--out", str(out)]) == 2
    assert f": {out}; make room and run the command again" in capsys.readouterr().err
    lines = Lines(tmp_path / "a.jsonl", "settings", resume=False)
    for write in (lambda: lines.write([{"text": "a" * 2000}]), lines.close):
        with pytest.raises(OSError, match=r"a\.jsonl"):
            write()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a folder in which there can be none")
def test_a_place_where_no_folder_can_be_made_is_one_message_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "text.txt").write_text("the cat sat on a mat\n" * 400)
    monkeypatch.setenv("ATAT_CACHE", "/proc/none")
    text, out = str(tmp_path / "text.txt"), str(tmp_path / "run")
    for words, place in [
        (["data", "prepare", text, "--out", "/proc/none/corpus"], "/proc/none"),
        (["train", "demo", "--data.source", text, "--out", out], "/proc/none/data"),
        (["experiment", "run", "quick", "--data.source", text, "--out", "/proc/none/a"], "/proc/none"),
    ]:
        assert cli.main(words) == 2
        said = capsys.readouterr().err
        assert f"No folder can be made here: {place}" in said
        assert "choose another place" in said
    assert not Path(out).exists()


def test_any_other_error_is_ours_and_keeps_its_traceback(command_that_raises):
    for error in (OSError(errno.EBADF, "broken"), ValueError("broken")):
        command_that_raises(error)
        with pytest.raises(type(error), match="broken"):
            cli.main(["train"])


def test_a_reader_who_leaves_early_hears_no_traceback():
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-m", "mdlm_atat", "--help"]
    done = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (141, "")


def processor_seconds(code: str) -> float:
    """Processor time of a fresh interpreter that runs the code; the clock would also count other tests' work."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("code", ["import mdlm_atat", "from mdlm_atat.cli.main import main; main(['--help'])"])
def test_the_package_and_its_help_answer_in_half_a_second_without_torch(code: str):
    check = f"{code}\nimport sys\nassert not {{'torch', 'numpy', 'yaml', 'cattrs'}} & set(sys.modules)"
    best_s = min(processor_seconds(check) for _ in range(5))
    assert best_s < 0.5


def test_the_public_names_are_known_before_they_are_loaded():
    assert {"ATATDiT", "MaskedDiffusionLM", "UserError", "__version__"} <= set(dir(mdlm_atat))
    with pytest.raises(AttributeError, match="no attribute 'ATATDIT'"):
        mdlm_atat.ATATDIT  # noqa: B018


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, cli.SPINS), ({"GOMP_SPINCOUNT": "300"}, "300"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
)
def test_threads_that_wait_for_each_other_sleep_soon_unless_it_is_said_how_they_wait(
    given: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, given.get(name, ""))  # so that it is as before after the test
        if name not in given:
            monkeypatch.delenv(name)
    cli.main(["train", "--help"])
    assert os.environ.get("GOMP_SPINCOUNT") == expected
