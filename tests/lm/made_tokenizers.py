"""Tokenizers in the forms that published models have, made from a few sentences."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from mdlm_atat.data.tokenizers import ByteTokenizer, CharTokenizer, HFTokenizer, Tokenizer
from mdlm_atat.data.train_tokenizer import train_bpe

TEXTS = [
    "The cat sat on a mat, and the dog was unable to see it.",
    "Able was I; unbelievable (and loveable) cats don't sit: they've sat. Is that so? Yes! 1, 2, 35 - 天地 был 🙂 café",
] * 10
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level(*, prefix: bool) -> HFTokenizer:
    inner = Inner(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, special_tokens=[], show_progress=False)
    inner.train_from_iterator(TEXTS, trainer)
    return HFTokenizer(inner, name="byte level")


def word_piece(*, lowercase: bool) -> HFTokenizer:
    inner = Inner(models.WordPiece(unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece(prefix="##")
    special = ["[PAD]", "[UNK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=150, special_tokens=special, show_progress=False)
    inner.train_from_iterator(TEXTS, trainer)
    return HFTokenizer(inner, name="word piece", pad_id=0)


def sentence_piece_bpe(*, prefix: bool) -> HFTokenizer:
    """As Llama's: a space is ▁, what is not in the vocabulary is bytes."""
    trained = Inner(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    special = ["<unk>", "<s>", "</s>", *BYTES]
    trained.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=460, show_progress=False, special_tokens=special, max_token_length=8)
    )
    model = json.loads(trained.to_str())["model"]
    for rare in "🙂天é":  # to be bytes
        model["vocab"].pop(rare, None)
    ids = {token: number for number, token in enumerate(sorted(model["vocab"], key=model["vocab"].__getitem__))}
    merges = [(a, b) for a, b in model["merges"] if {a, b, a + b} <= ids.keys()]
    inner = Inner(models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    steps: list[Any] = [normalizers.Prepend("▁")] if prefix else []
    inner.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    ends = [decoders.Strip(" ", 1, 0)] if prefix else []
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *ends])
    return HFTokenizer(inner, name="sentence piece", bos_id=ids["<s>"], eos_id=ids["</s>"])


def unigram(*, scheme: str = "always", nfkc: bool = True) -> HFTokenizer:
    """As T5's."""
    inner = Inner(models.Unigram())
    if nfkc:
        inner.normalizer = normalizers.NFKC()
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    inner.decoder = decoders.Metaspace(prepend_scheme=scheme)
    special = ["<pad>", "</s>", "<unk>"]
    inner.train_from_iterator(
        TEXTS, trainers.UnigramTrainer(vocab_size=90, special_tokens=special, unk_token="<unk>", show_progress=False)
    )
    return HFTokenizer(inner, name="unigram", pad_id=0, eos_id=1)


FORMS = {
    "byte-level BPE": lambda: train_bpe(TEXTS, 330),
    "byte-level BPE with a prefix space": lambda: byte_level(prefix=True),
    "WordPiece, lower case": lambda: word_piece(lowercase=True),
    "WordPiece, cased": lambda: word_piece(lowercase=False),
    "SentencePiece BPE": lambda: sentence_piece_bpe(prefix=True),
    "SentencePiece BPE without prefix": lambda: sentence_piece_bpe(prefix=False),
    "unigram": unigram,
    "unigram without prefix": lambda: unigram(scheme="never", nfkc=False),
    "unigram, first prefix": lambda: unigram(scheme="first", nfkc=False),
    "bytes": ByteTokenizer,
    "characters": lambda: CharTokenizer("".join(TEXTS) + "\n\t ░É[]_0123456789"),
}

KINDS = ["byte-level BPE", "WordPiece, lower case", "SentencePiece BPE", "unigram", "bytes", "characters"]
"""One of each kind, where what is tested is not what a prefix or a case does."""


@cache
def tokenizer_of(form: str) -> Tokenizer:
    return FORMS[form]()
