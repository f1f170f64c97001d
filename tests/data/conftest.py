"""Tiny vocabularies in the published layouts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import WORDS


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """vocab.bpe + encoder.json in GPT-2's layout: 256 bytes, six merges, <|endoftext|> last."""
    from tokenizers import pre_tokenizers

    folder = tmp_path_factory.mktemp("tiny-gpt2")
    merges = ["t h", "th e", "Ġ the", "a t", "c at", "Ċ Ċ"]
    tokens = [
        *sorted(pre_tokenizers.ByteLevel.alphabet()),
        *(merge.replace(" ", "") for merge in merges),
        "<|endoftext|>",
    ]
    (folder / "encoder.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "vocab.bpe").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """vocab.txt in BERT's layout: five control tokens, punctuation, letters, a few words and continuations."""
    folder = tmp_path_factory.mktemp("tiny-bert")
    letters = [chr(ord("a") + i) for i in range(26)]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "!", ".", "[", "]", "hello", "world", "##s", "##ing"]
    pieces += [*WORDS, *(f"##{letter}" for letter in letters), *(x for x in letters if x not in WORDS)]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    return folder
