"""Judges and zero-shot texts by their names on the hub."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from standing_in import Hub, files_of

from mdlm_atat.lm import CausalLM, MaskedDiffusionLM
from mdlm_atat.runs.sample_quality import load_judge
from mdlm_atat.runs.zero_shot import open_set
from mdlm_atat.scoring.judge import CausalJudge, HubJudge
from mdlm_atat.scoring.zero_shot import zero_shot_set

CPU = torch.device("cpu")
TEXTS = ["the cat sat", "a dog ran"]


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny causal model as its users publish it."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("judge") / "tiny"
    letters = "abcdefghijklmnopqrstuvwxyz |"
    inner = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate(letters)}, unk_token="|"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    transformers.PreTrainedTokenizerFast(tokenizer_object=inner).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2, "bos_token_id": None, "eos_token_id": None}
    transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=len(letters), **sizes)).save_pretrained(folder)
    return folder


def test_a_judge_of_the_hub_is_the_one_of_its_folder_and_a_causal_run_that_was_sent_judges_too(
    hub: Hub, gpt2: Path, causal: CausalLM, tmp_path: Path
) -> None:
    hub.add("them/tiny", {**files_of(gpt2), "pytorch_model.bin": b"."})
    judge, here = (load_judge(name, device=CPU, batch_size=2) for name in ("hub:them/tiny", gpt2))
    assert isinstance(judge, HubJudge)
    assert (judge.name, here.name) == ("hub:them/tiny", str(gpt2))
    assert judge(TEXTS).nats.tolist() == here(TEXTS).nats.tolist()
    saved = causal.save_pretrained(tmp_path / "saved")  # with a config.json, too
    hub.add("me/causal", files_of(saved))
    ours, sent = (load_judge(name, device=CPU, batch_size=2) for name in (saved, "hub:me/causal"))
    assert isinstance(ours, CausalJudge)
    assert ours(TEXTS).nats.tolist() == sent(TEXTS).nats.tolist()


def parquet(**columns: list[str]) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream)
    return stream.getvalue()


def listed(config: str, split: str, path: str) -> bytes:
    """The card of a set, which says where the files of a configuration are."""
    text = f"configs:\n- config_name: {config}\n  data_files:\n  - split: {split}\n    path: {path}\n"
    return f"---\n{text}---\n".encode()


WORDS = ["the cat sat", "a dog ran to the man"]
SETS: dict[str, tuple[str, str, dict[str, bytes]]] = {  # repository, branch, files as the hub has them
    "wikitext-2": (
        "Salesforce/wikitext",
        "main",
        {
            "wikitext-2-raw-v1/validation-00000-of-00001.parquet": parquet(text=WORDS),
            "README.md": listed("wikitext-2-raw-v1", "validation", "wikitext-2-raw-v1/validation-*"),
        },
    ),
    "ptb": (
        "ptb-text-only/ptb_text_only",
        "refs/convert/parquet",
        {"penn_treebank/validation/0000.parquet": parquet(sentence=WORDS)},
    ),
    "lm1b": (
        "billion-word-benchmark/lm1b",
        "refs/convert/parquet",
        {
            "plain_text/test/0000.parquet": parquet(text=WORDS[:1]),
            "plain_text/test/0001.parquet": parquet(text=WORDS[1:]),
        },
    ),
    "ag_news": (
        "fancyzhx/ag_news",
        "main",
        {"data/test-00000-of-00001.parquet": parquet(text=WORDS, label=["1"] * 2)},
    ),
    "pubmed": (
        "ccdv/pubmed-summarization",
        "main",
        {
            "document/validation-00000-of-00001.parquet": parquet(article=WORDS, abstract=["a", "b"]),
            "README.md": listed("document", "validation", "document/validation-*"),
        },
    ),
}


@pytest.fixture
def with_sets(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    """The data sets' own client asks this hub, too."""
    datasets: Any = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(datasets.config, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    datasets.disable_progress_bars()
    from huggingface_hub import HfFileSystem

    HfFileSystem.clear_instance_cache()
    return hub


@pytest.mark.parametrize("name", SETS)
def test_a_zero_shot_set_is_read_by_its_name_in_the_layout_that_the_hub_has(
    name: str, with_sets: Hub, masked: MaskedDiffusionLM
) -> None:
    repository, branch, files = SETS[name]
    added = with_sets.add(repository, {".gitattributes": b""}, kind="datasets")
    added.commit(files, branch)
    rows = open_set(masked, zero_shot_set(name))
    text = masked.tokenizer.decode([int(token) for token in rows.tokens])
    for word in ("cat", "sat", "dog", "ran"):
        assert text.count(word) == 1
