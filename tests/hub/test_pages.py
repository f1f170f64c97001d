"""The pages on models of the hub do what they say, on a stand-in."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from standing_in import Hub

import mdlm_atat
from mdlm_atat.cli.main import main
from mdlm_atat.data.cache import list_cache
from test_docs import ROOT, commands_of, run_blocks
from tiny_runs import TINY, as_flags, write_text


def run_commands(page: Path, *more: str) -> list[str]:
    """Run the commands of a page, but for those that serve; `more` goes after the flags of training."""
    commands = [arguments for arguments in commands_of(page) if arguments[0] != "serve"]
    for arguments in commands:
        assert main([*arguments, *(more if arguments[0] == "train" else ())]) == 0, arguments
    return [arguments[0] for arguments in commands]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")
def test_a_model_is_published_as_its_page_says_and_the_folder_holds_what_it_lists(
    hub: Hub, client, runs: Path, cache: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    shutil.copytree(runs / "masked", tmp_path / "runs/mine", symlinks=True)
    write_text(tmp_path / "other.txt", num_words=400, seed=1)
    monkeypatch.chdir(tmp_path)
    client.log_in()
    page = ROOT / "docs/howto/publish.md"
    found = run_blocks(page, tmp_path)
    folder = tmp_path / "my-model"
    listed = set(re.findall(r"^\| `([\w.]+)/?` \|", page.read_text(encoding="utf-8"), re.MULTILINE))
    assert {file.name for file in folder.iterdir()} == listed
    (folder / "README.md").write_text("# My model\n")
    assert mdlm_atat.load_lm(folder).fingerprint() == found["lm"].fingerprint()
    assert mdlm_atat.load_lm("my-letters").config.data.source == "letters"
    assert found["url"] == f"{hub.url}/me/my-model/commit/{hub.model('me/my-model').branches['main']}"
    hub.repositories.clear()  # so that the page's commands make it anew
    assert run_commands(page) == ["eval", "push", "push", "push", "infill", "infill"]
    assert len(hub.model("me/my-model").messages) == 3  # made, sent, replaced
    assert "PPL-U" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")
def test_a_published_model_is_used_as_its_page_says(
    on_hub: Hub, toy_family: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_report: None, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("other.txt", "mine.txt"):
        write_text(tmp_path / name, num_words=400)
    page = ROOT / "docs/howto/published.md"
    run_blocks(page, tmp_path)
    tiny = {name: value for name, value in TINY.items() if name.startswith(("train.", "eval.", "optim."))}
    flags = as_flags(tiny, {"train__num_steps": 2, "eval__num_samples": 0})
    assert run_commands(page, *flags) == ["generate", "infill", "eval", "train", "cache", "cache"]
    assert (len(toy_family), [entry.source for entry in list_cache() if not entry.tokenizer]) == (1, [])
    assert "hub:them/toy" in capsys.readouterr().out
