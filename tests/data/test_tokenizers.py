from __future__ import annotations

import lzma
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import corpus

from mdlm_atat.data.open_tokenizer import load_tokenizer
from mdlm_atat.data.tokenizers import ByteTokenizer, CharTokenizer, HFTokenizer, Tokenizer
from mdlm_atat.data.train_tokenizer import train_bpe
from mdlm_atat.errors import UserError

UNICODE = st.text(st.characters(exclude_categories=["Cs"]))  # a lone surrogate is no character
BPE = train_bpe([corpus(2000), "naïve 日本語 🙂"], 300)


@pytest.fixture(params=["char", "byte", "gpt2", "bert", "bpe"])
def tokenizer(request: pytest.FixtureRequest, gpt2_folder: Path, bert_folder: Path) -> Tokenizer:
    match request.param:
        case "char":
            return CharTokenizer.from_texts([corpus(50)])
        case "byte":
            return ByteTokenizer()
        case "gpt2":
            return load_tokenizer(str(gpt2_folder))
        case "bert":
            return load_tokenizer(str(bert_folder))
        case _:
            return BPE


@given(UNICODE)
def test_bytes_give_back_any_text(text: str) -> None:
    tokenizer = ByteTokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(UNICODE)
def test_byte_level_bpe_gives_back_any_text(text: str) -> None:
    assert BPE.decode(BPE.encode(text)) == text


@given(st.text("abc \n日🙂"))
def test_characters_give_back_any_text_of_their_alphabet(text: str) -> None:
    tokenizer = CharTokenizer("abc \n日🙂")
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.text(st.sampled_from("<|endoftext|>[SEP][CLS] ")))
def test_no_text_encodes_to_a_control_token(text: str) -> None:
    for tokenizer in (BPE, ByteTokenizer()):
        assert tokenizer.eos_id not in tokenizer.encode(text + "<|endoftext|>" + text)


def test_bert_control_tokens_in_a_text_are_three_pieces_each(bert_folder: Path) -> None:
    tokenizer = load_tokenizer(str(bert_folder))
    ids = tokenizer.encode("[SEP] [MASK]")
    assert not {tokenizer.eos_id, tokenizer.bos_id, tokenizer.pad_id, 4} & set(ids)


def test_the_mask_is_the_first_id_outside_the_vocabulary(tokenizer: Tokenizer) -> None:
    assert isinstance(tokenizer, Tokenizer)
    assert tokenizer.mask_id == tokenizer.vocab_size
    ids = tokenizer.encode("the cat")
    assert all(0 <= i < tokenizer.vocab_size for i in ids)
    assert tokenizer.decode([*ids, tokenizer.mask_id], mask_text="?").replace(" ", "") == "thecat?"


def test_a_batch_encodes_like_2_texts_on_their_own(tokenizer: Tokenizer) -> None:
    texts = ["the cat sat", "a mat"]
    batch = tokenizer.encode_batch(texts)
    assert [ids.tolist() for ids in batch] == [tokenizer.encode(text) for text in texts]
    assert tokenizer.decode(batch[1]) == "a mat"


def test_saving_and_loading_changes_nothing(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "saved")
    again = load_tokenizer(str(tmp_path / "saved"))
    for name in ("name", "vocab_size", "mask_id", "bos_id", "eos_id", "pad_id"):
        assert getattr(again, name) == getattr(tokenizer, name)
    assert again.fingerprint() == tokenizer.fingerprint()
    assert again.encode("the cat") == tokenizer.encode("the cat")
    control = [i for i in (tokenizer.bos_id, tokenizer.pad_id, tokenizer.eos_id) if i is not None]
    assert again.decode(control, eos_text="END") == "END"


def test_eos_decodes_to_nothing_unless_a_text_is_given(tokenizer: Tokenizer) -> None:
    assert tokenizer.eos_id is not None
    ids = [*tokenizer.encode("cat"), tokenizer.eos_id]
    assert tokenizer.decode(ids) == "cat"
    assert tokenizer.decode(np.array(ids), eos_text="\n").strip() == "cat"


def test_half_a_character_decodes_to_the_replacement_character(gpt2_folder: Path) -> None:
    for tokenizer in (ByteTokenizer(), load_tokenizer(str(gpt2_folder)), BPE):
        first = tokenizer.encode("ÿ")[0]
        assert tokenizer.decode([first]) == "\ufffd"
        assert tokenizer.decode([first, tokenizer.mask_id]) == "\ufffd░"


def test_two_tokenizers_with_one_merge_more_have_other_fingerprints() -> None:
    other = train_bpe([corpus(2000)], 299)
    assert other.fingerprint() != BPE.fingerprint()
    assert CharTokenizer("ab").fingerprint() != CharTokenizer("abc").fingerprint()


def test_gpt2_files_give_263_tokens_and_eos_last(gpt2_folder: Path) -> None:
    tokenizer = load_tokenizer(str(gpt2_folder))
    assert (tokenizer.vocab_size, tokenizer.eos_id, tokenizer.bos_id, tokenizer.pad_id) == (263, 262, None, None)
    assert len(tokenizer.encode("the the cat")) == 4  # the | Ġthe | Ġ | cat


def test_xz_compressed_vocabularies_load_too(gpt2_folder: Path, bert_folder: Path, tmp_path: Path) -> None:
    for folder in (gpt2_folder, bert_folder):
        packed = tmp_path / folder.name
        packed.mkdir()
        for file in folder.iterdir():
            (packed / f"{file.name}.xz").write_bytes(lzma.compress(file.read_bytes()))
        assert load_tokenizer(str(packed)).fingerprint() == load_tokenizer(str(folder)).fingerprint()


def test_merges_txt_and_vocab_json_are_the_same_as_vocab_bpe_and_encoder_json(
    gpt2_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "merges.txt").write_bytes((gpt2_folder / "vocab.bpe").read_bytes())
    (tmp_path / "vocab.json").write_bytes((gpt2_folder / "encoder.json").read_bytes())
    assert load_tokenizer(str(tmp_path)).fingerprint() == load_tokenizer(str(gpt2_folder)).fingerprint()


def test_a_bert_vocabulary_lowercases_unless_it_holds_capitals(bert_folder: Path, tmp_path: Path) -> None:
    uncased = load_tokenizer(str(bert_folder))
    assert uncased.encode("HELLO  wörlds!") == uncased.encode("hello worlds !")
    assert uncased.decode(uncased.encode("hello worlds !")) == "hello worlds!"
    assert (uncased.pad_id, uncased.bos_id, uncased.eos_id) == (0, 2, 3)
    (tmp_path / "vocab.txt").write_text((bert_folder / "vocab.txt").read_text() + "Hello\n")
    cased = load_tokenizer(str(tmp_path))
    assert cased.encode("Hello") != cased.encode("hello")


def test_a_tokenizer_json_that_truncates_and_adds_tokens_no_longer_does(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Inner
    from tokenizers import models, pre_tokenizers, processors

    inner = Inner(models.WordLevel({"<s>": 0, "</s>": 1, "the": 2, "cat": 3, "[UNK]": 4}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    inner.enable_truncation(2)
    inner.enable_padding(length=9)
    inner.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(str(tmp_path))
    assert tokenizer.encode("the cat the cat") == [2, 3, 2, 3]
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.vocab_size) == (0, 1, 5)
    assert tokenizer.decode([0, 2, 3, 5, 1], mask_text="_") == "the cat _"


def test_a_character_outside_the_alphabet_is_named_with_its_code_and_position() -> None:
    with pytest.raises(UserError, match=r"'é' \(U\+00E9\) at position 3 .* 4 characters"):
        CharTokenizer("abcf").encode("cafés")
    with pytest.raises(UserError, match=r"U\+1F642"):
        CharTokenizer("abc").encode("🙂")


def test_a_lone_surrogate_is_named_with_its_code_and_position() -> None:
    for tokenizer in (ByteTokenizer(), BPE):
        with pytest.raises(UserError, match=r"U\+D800.* position 2"):
            tokenizer.encode("ab\ud800")


def test_an_id_above_the_mask_cannot_be_decoded(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="cannot be decoded"):
        tokenizer.decode([tokenizer.mask_id + 1])
    with pytest.raises(UserError, match="-1 cannot be decoded"):
        tokenizer.decode([-1])


def test_training_a_bpe_gives_the_size_asked_for_and_eos_last() -> None:
    assert isinstance(BPE, HFTokenizer)
    assert (BPE.vocab_size, BPE.eos_id) == (300, 299)
    assert len(BPE.encode(corpus(200))) < len(corpus(200)) / 2


def test_training_a_bpe_twice_gives_the_same_tokens() -> None:
    texts = [corpus(2000), "naïve 日本語 🙂"]
    assert train_bpe(iter(texts), 300).fingerprint() == BPE.fingerprint()


def test_training_needs_text_and_258_tokens() -> None:
    with pytest.raises(UserError, match="is empty"):
        train_bpe([], 300)
    with pytest.raises(UserError, match="at least 258"):
        train_bpe(["text"], 257)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no tokenizer"),
        ({"tokenizer.json": "{}"}, "is not a tokenizer"),
        ({"vocab.bpe": "t h\n", "encoder.json": '{"t": 0}'}, "fits together"),
        ({"vocab.txt": "a\nb\n"}, r"no \[UNK\]"),
        ({"tokenizer_config.json": "{"}, "is damaged"),
        ({"tokenizer_config.json": '{"mdlm_atat": 1, "kind": "odd"}'}, "kind 'odd'"),
    ],
)
def test_a_folder_without_a_whole_tokenizer_is_refused(files: dict[str, str], message: str, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        load_tokenizer(str(tmp_path))


def test_names_that_are_no_tokenizer_say_what_to_give_instead(bert_folder: Path) -> None:
    with pytest.raises(UserError, match="built from a corpus"):
        load_tokenizer("char")
    with pytest.raises(UserError, match=r"there is no tokenizer folder ./nowhere"):
        load_tokenizer("./nowhere")
    with pytest.raises(UserError, match="takes the folder"):
        load_tokenizer(str(bert_folder / "vocab.txt"))


@pytest.mark.parametrize("setting", [{"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}])
def test_a_hub_that_does_not_answer_is_one_message_within_20_s(setting: dict[str, str], tmp_path: Path) -> None:
    code = "from mdlm_atat.data.open_tokenizer import load_tokenizer; load_tokenizer('gpt2')"
    environment = {**os.environ, "HF_HOME": str(tmp_path), **setting}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=20)
    assert "UserError: the tokenizer gpt2 could not be fetched from the hub" in done.stderr
    assert "give a local folder instead" in done.stderr


@pytest.mark.parametrize("what", ["encode", "decode", "decode_batch"])
def test_a_panic_of_the_library_is_a_users_error_that_names_the_tokenizer(what: str) -> None:
    class PanicException(BaseException):
        pass

    class Panics:
        def encode_batch_fast(self, *_: object, **__: object) -> None:
            raise PanicException("bad split")

        decode = decode_batch = encode_batch_fast

        @property
        def decoder(self) -> Panics:
            return self

        def id_to_token(self, token_id: int) -> str:
            return str(token_id)

    tokenizer = HFTokenizer(BPE.inner, name="odd")
    tokenizer.inner = Panics()  # type: ignore[assignment]
    broken = {
        "encode": lambda: tokenizer.encode("é"),
        "decode": lambda: tokenizer.decode([0]),
        "decode_batch": lambda: tokenizer.decode_batch([np.array([0])]),
    }
    with pytest.raises(UserError, match=r"the tokenizer odd breaks (on this text|in decoding) \(bad split\)"):
        broken[what]()
