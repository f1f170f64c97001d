"""The model in the box: that it is whole, small, and has read English."""

from __future__ import annotations

import importlib
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

import mdlm_atat
from mdlm_atat import MaskedDiffusionLM, load_lm
from mdlm_atat.config.files import load_config
from mdlm_atat.model_folder import BOX
from mdlm_atat.training.folder import changes

RECIPE = Path(__file__).parents[1] / "models" / "box"


@pytest.fixture(scope="module")
def box() -> MaskedDiffusionLM:
    lm = load_lm()
    assert isinstance(lm, MaskedDiffusionLM)
    return lm


def test_it_takes_at_most_24_mb_and_holds_no_path_of_a_machine() -> None:
    files = [file for file in BOX.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 24_000_000
    assert {file.suffix for file in files} == {".safetensors", ".yaml", ".json", ".npy"}
    assert "/work" not in (BOX / "config.yaml").read_text()


def test_the_package_takes_at_most_30_mb_packed_as_a_wheel_is(tmp_path: Path) -> None:
    package = Path(mdlm_atat.__file__).parent
    with zipfile.ZipFile(tmp_path / "packed.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for file in package.rglob("*"):
            if file.is_file() and file.suffix != ".pyc":
                packed.write(file, file.relative_to(package))
    assert 10_000_000 < (tmp_path / "packed.zip").stat().st_size <= 30_000_000


def test_its_settings_are_those_of_the_recipe(box: MaskedDiffusionLM) -> None:
    assert {path.partition(".")[0] for path in changes(load_config(str(RECIPE / "box.yaml")), box.config)} == {"data"}


def test_its_card_is_of_these_weights(box: MaskedDiffusionLM) -> None:
    assert json.loads((RECIPE / "card.json").read_text())["weights"] == box.fingerprint()


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("She opened the [MASK] and went out into the garden.", "door"),
        ('The old man shook his [MASK] slowly. "No," he said.', "head"),
    ],
)
def test_the_likeliest_word_in_a_gap_is_the_one_that_anybody_would_say(
    box: MaskedDiffusionLM, text: str, word: str
) -> None:
    assert box.infill(text, temperature=0, seed=[0]).gaps == [word]


def test_english_costs_it_less_than_half_of_the_same_words_in_disorder(box: MaskedDiffusionLM) -> None:
    text = "He walked slowly down the road, and did not look back until he had come to the end of it."
    shuffled = " ".join(np.random.default_rng(0).permutation(text.split(" ")))
    assert box.score(text).nats / len(text) < 0.9
    assert box.score(text).nats < 0.5 * box.score(shuffled).nats


def test_its_page_is_made_of_its_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(RECIPE))
    made = importlib.import_module("card").card(json.loads((RECIPE / "card.json").read_text(encoding="utf-8")))
    assert made == (RECIPE / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("titles", "num_others", "said"),
    [
        (["Mine_1900"], 0, "The one novel (*Mine 1900*) was never"),
        (["Mine_1900"], 1, "The one novel (*Mine 1900*) and the other documents were never"),
        (["Burnett_Lord_1886", "B"], 0, "The two novels (*Little Lord Fauntleroy*, *B*) were never"),
        (
            [f"T{i}" for i in range(12)],
            3,
            "The 12 novels (*T0*, *T1*, *T2*, *T3*, *T4*, *T5*, *T6*, *T7*, *T8*, *T9*, *T1",
        ),
    ],
)
def test_its_page_names_the_novels_that_were_held_out(
    titles: list[str], num_others: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(RECIPE))
    numbers = json.loads((RECIPE / "card.json").read_text(encoding="utf-8"))
    sources = {"all": {"licence": "", "train_characters": 1, "valid-others_documents": num_others}}
    sources["all"]["valid-novels_documents"] = len(titles)
    made = importlib.import_module("card").card({**numbers, "held_out": titles, "sources": sources})
    assert said in made
    assert f"{said.split()[1]} held-out novel" in made
