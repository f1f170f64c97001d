"""Which files of a folder are for training, by their names."""

from __future__ import annotations

import random
from pathlib import PurePosixPath

import pytest

from mdlm_atat.data.split_names import WORDS, split_parts


def parts(*names: str) -> dict[str, str | None] | None:
    found = split_parts(map(PurePosixPath, names))
    return None if found is None else {path.as_posix(): part for path, part in found.items()}


PUBLISHED = [
    "TinyStories-train.txt TinyStories-valid.txt",
    "TinyStoriesV2-GPT4-train.txt TinyStoriesV2-GPT4-valid.txt",
    "ptb.train.txt ptb.valid.txt ptb.test.txt",
    "wiki.train.tokens wiki.valid.tokens wiki.test.tokens",
    "c4-train.00000-of-00001.jsonl c4-validation.00000-of-00001.jsonl",
    "c4-train.00000-of-01024.json.gz c4-validation.00000-of-00008.json.gz",
    "lambada_train.txt lambada_development_plain_text.txt lambada_test_plain_text.txt",
    "train.txt dev.txt",
    "data/train-00000-of-00001.parquet data/validation-00000-of-00001.parquet data/test-00000-of-00001.parquet",
    "training-monolingual.shuffled/news.en-00001 heldout-monolingual.shuffled/news.en.heldout-00000",
    "Train/a.txt Valid/a.txt Test/a.txt",
    "TRAIN.TXT DEV.TXT TEST.TXT",
    "enwik8/train01.txt enwik8/val01.txt enwik8/test01.txt",
    "python/train/1.py python/valid/1.py python/test/test_1.py",
    "de/TRAIN/1.txt de/EVAL/1.txt",
    "train.txt held-out.txt",
    "train.txt HeldOut.txt",
    "train/1.txt holdout/1.txt tests/1.txt",
    "train.txt hold-out.txt Tests.txt",
    "train.txt HoldOut.txt",
    "train.txt validate.txt",
    "trainset.txt validset.txt testset.txt",
    "TrainSplit.txt DevSplit.txt TestSplit.txt",
    "trainTXT.txt devTXT.txt",
    "corpus.trn.txt corpus.vld.txt corpus.tst.txt",
    "traindata.txt valdata.txt testdata.txt",
    "train_en.txt newsdev2016.en newstest2013.en",
    "训练train.txt 验证valid.txt test测试.txt",
    "корпусtrain.txt корпусdev.txt корпусtest.txt",
]


@pytest.mark.parametrize("names", PUBLISHED)
def test_corpora_as_they_are_published_are_split(names: str) -> None:
    found = parts(*names.split())
    assert found is not None
    assert list(found.values()) == ["train", "valid", "test"][: len(found)]


@pytest.mark.parametrize(
    "names", ["train.en tst2012.en tst2013.en", "eng.train eng.testa eng.testb", "trainval.txt test.txt testset.txt"]
)
def test_what_shared_tasks_call_their_test_files_is_not_trained_on(names: str) -> None:
    found = parts(*names.split())
    assert found is not None
    assert list(found.values()) == ["train", "test", "test"]


def test_a_space_parts_words_and_a_folder_may_have_no_validation() -> None:
    assert parts("my train set.txt", "my test set.txt") == {"my train set.txt": "train", "my test set.txt": "test"}


@pytest.mark.parametrize(
    "names",
    [
        "a.txt test-pilot.txt val-de-grace.txt valid_reasons.txt",
        "contest.txt retrain.txt latest.txt",
        "train-to-nowhere.txt contest.txt devil.txt",
        "strain.txt dev.txt",
        "entraîtrain.txt dévdev.txt étest.txt",
        "trainspotting.txt evaluate.txt testament.txt",
        "train.txt upheld-outcome.txt outheld.txt",
        "farodevigo.md latest.md a.md contest.md",
        "night-train.txt the-invalid.txt",
        "tests/a.txt trains/a.txt",
        "test.txt valid.txt",
        "train.py eval.py test_model.py model.py",
        "configs/train.yaml configs/eval.yaml",
        "src/training/loop.py tests/test_loop.py tests/data/a.txt",
        "docs/training.md tests/data/a.txt src/a.rs",
    ],
)
def test_words_of_titles_split_nothing_where_no_names_say_both(names: str) -> None:
    assert parts(*names.split()) is None


def test_tests_are_not_trained_on_where_there_is_no_validation() -> None:
    assert parts("train/a.txt", "tests/a.txt") == {"train/a.txt": "train", "tests/a.txt": "test"}


def test_text_for_training_and_validation_together_is_not_trained_on_beside_that_for_validation() -> None:
    found = parts("train.txt", "val.txt", "TrainvalSet.txt", "test.txt")
    assert found == {"train.txt": "train", "val.txt": "valid", "TrainvalSet.txt": None, "test.txt": "test"}
    assert parts("trainval.txt", "val.txt") is None


def test_files_with_neither_word_belong_to_neither_part() -> None:
    assert parts("train.txt", "valid.txt", "README.md") == {
        "train.txt": "train",
        "valid.txt": "valid",
        "README.md": None,
    }


@pytest.mark.parametrize("word", [word for word, part in WORDS.items() if part == "test"])
@pytest.mark.parametrize(
    "form", ["{}/train-1.txt", "train/{}-1.txt", "train.{}.txt", "a/train/{}/1.txt", "train2{}.txt"]
)
def test_a_name_that_says_test_as_well_is_never_trained_on(word: str, form: str) -> None:
    name = form.format(word)
    found = parts("train.txt", "valid.txt", name, "test.txt")
    assert found is not None
    assert (found["train.txt"], found[name]) == ("train", "test")


@pytest.mark.parametrize(
    "names",
    [
        "test/train.txt test/valid.txt",
        "valid/train.txt valid/valid.txt",
        "train/train.txt train/valid.txt",
        "my-test-corpus.train.txt my-test-corpus.dev.txt README.md",
        "test-train-dev-split/train.txt test-train-dev-split/dev.txt",
    ],
)
def test_what_all_names_say_decides_nothing(names: str) -> None:
    found = parts(*names.split())
    assert found is not None
    assert list(found.values())[:2] == ["train", "valid"]


def test_a_test_file_stays_one_where_its_word_is_in_all_names_that_say_something() -> None:
    assert parts("train-test.txt", "test.txt") is None
    assert parts("train-test.txt", "test.txt", "test-valid.txt") is None
    found = parts("train-test.txt", "test.txt", "train.txt")
    assert found == {"train-test.txt": "test", "test.txt": "test", "train.txt": "train"}


def test_the_order_of_the_listing_changes_nothing() -> None:
    names = [name for line in PUBLISHED for name in line.split()]
    first = parts(*names)
    assert first is not None
    for seed in range(5):
        random.Random(seed).shuffle(names)
        assert parts(*names) == first


@pytest.mark.parametrize("word", ["deV", "DEv", "tEST", "vAlid"])
def test_a_word_in_any_mixture_of_cases_is_that_word(word: str) -> None:
    found = split_parts([PurePosixPath("Train.txt"), PurePosixPath(f"{word}.txt")])
    assert found is not None
    assert found[PurePosixPath(f"{word}.txt")] in ("valid", "test")
