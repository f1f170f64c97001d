"""What a tokenizer does not give back is counted, said, and refused where it is much."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import corpus

from mdlm_atat.cli.main import main
from mdlm_atat.config.files import load_config
from mdlm_atat.data.corpus import Corpus
from mdlm_atat.data.encode import encoded
from mdlm_atat.data.loss import Changes, compare
from mdlm_atat.data.manifest import read_manifest
from mdlm_atat.data.open_tokenizer import load_tokenizer
from mdlm_atat.data.pieces import Piece
from mdlm_atat.data.prepare import prepare
from mdlm_atat.data.tokenizers import ByteTokenizer, HFTokenizer
from mdlm_atat.data.train_tokenizer import train_bpe
from mdlm_atat.errors import UserError

BPE = train_bpe([corpus(500)], 280)
PAIRS: dict[str, tuple[str, str, Changes]] = {
    "nothing": ("a b", "a b", Changes()),
    "case": ("The Cat", "the cat", Changes(case=2)),
    "case, other letters": ("ΣΑΣ Ж", "σας ж", Changes(case=4)),
    "accents": ("café à", "cafe a", Changes(accents=2)),
    "accents and case": ("École", "ecole", Changes(accents=1)),
    "a mark of its own": ("cafe\u0301 x", "cafe x", Changes(accents=1)),
    "white space dropped": ("a  b\n\nc", "a b c", Changes(white_space=3)),
    "white space put in": ("don't", "don ' t", Changes(white_space=2)),
    "white space at the ends": (" a b\n", "a b", Changes(white_space=2)),
    "dropped": ("a🙂b日c", "abc", Changes(unknown=2)),
    "dropped at the ends": ("🙂abc日", "abc", Changes(unknown=2)),
    "unknown": ("the 🙂 cat 日本 sat", "the [UNK] cat [UNK] sat", Changes(unknown=3)),
    "unknown, all of it": ("日本語", "[UNK]", Changes(unknown=3)),
    "nothing left": ("日本 語", "", Changes(unknown=3, white_space=1)),
    "replacement character": ("a日b", "a\ufffdb", Changes(unknown=1)),
    "ligature": ("ﬁne words", "fine words", Changes(other=1)),
    "compatible forms": ("① ＡＢ", "1 AB", Changes(other=3)),
    "another letter": ("the cat sat", "the cut sat", Changes(other=1)),
    "put in": ("the cat", "the <s>cat", Changes(other=1)),
    "an unknown token put in": ("the cat", "the [UNK]cat", Changes(other=1)),
    "an unknown token in place of white space": ("the cat\n\nsat\t", "the cat[UNK]sat[UNK]", Changes(white_space=3)),
    "an unknown token beside white space": ("a b\n c", "a[UNK] b [UNK] c", Changes(white_space=1, other=1)),
    "an unknown token in place of a mark": ("cafe\u0301 x", "cafe[UNK] x", Changes(accents=1)),
    "a letter in place of white space": ("the\ncat", "theNcat", Changes(white_space=1)),
    "right to left": ("שלום עולם", "שלום", Changes(unknown=4, white_space=1)),
    "literally [UNK]": ("say [UNK] 🙂 now", "say [UNK] now", Changes(unknown=1, white_space=1)),
}


@pytest.mark.parametrize(("text", "decoded", "expected"), PAIRS.values(), ids=PAIRS)
def test_each_character_that_changes_counts_once_under_its_kind(text: str, decoded: str, expected: Changes) -> None:
    assert compare(text, decoded, "[UNK]") == expected


@given(st.text(min_size=1), st.text())
def test_nothing_is_lost_if_and_only_if_the_two_are_the_same(text: str, decoded: str) -> None:
    found = compare(text, decoded, "[UNK]")
    assert (found.total == 0) == (text == decoded)
    assert min(vars(found).values()) >= 0


@given(
    st.lists(st.sampled_from("abcdefgh 日🙂ж"), min_size=40, max_size=300),
    st.sets(st.sampled_from("日🙂ж"), min_size=1),
)
def test_characters_that_are_dropped_are_counted_exactly(letters: list[str], dropped: set[str]) -> None:
    text = "".join(letters)
    found = compare(text, "".join(letter for letter in letters if letter not in dropped))
    assert found.total == found.unknown == sum(letter in dropped for letter in letters)


@pytest.mark.parametrize("kind", ["dropped", "nothing in common", "capitals", "every other unknown"])
def test_200_000_characters_are_compared_in_a_few_seconds(kind: str) -> None:
    drawn = random.Random(0)
    text = "".join(drawn.choice("abcdefghij日本語今天気 ") for _ in range(200_000))
    decoded = {
        "dropped": "".join(letter for letter in text if letter < "~"),
        "nothing in common": "".join(drawn.choice("opqrstuvwxyz ") for _ in range(200_000)),
        "capitals": text.upper(),
        "every other unknown": "".join("[UNK]" if drawn.random() < 0.5 else letter for letter in text),
    }[kind]
    start_s = time.process_time()
    found = compare(text, decoded, "[UNK]")
    assert time.process_time() - start_s < 8  # 0.2 to 1 on one core
    share = found.total / len(text)
    assert {"dropped": 0.34, "nothing in common": 0.85, "capitals": 0.55, "every other unknown": 0.47}[kind] < share < 1


# --- in preparations


def prepared(tmp_path: Path, text: str, tokenizer: Path | HFTokenizer, *, accept_loss: bool = False) -> Corpus:
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    return prepare(
        tmp_path / "text.txt", tokenizer=tokenizer, out=tmp_path / "out", progress=False, accept_loss=accept_loss
    )


def test_the_manifest_counts_what_an_uncased_tokenizer_loses_and_one_line_says_it(
    tmp_path: Path, bert_folder: Path
) -> None:
    corpus = prepared(tmp_path, "The cat sat.\n" * 100, bert_folder, accept_loss=True)
    splits = read_manifest(corpus.folder).splits
    whole = {"case": 100, "accents": 0, "unknown": 0, "white_space": 100, "other": 0}  # line ends
    counted = {kind: sum((split.changed or {})[kind] for split in splits.values()) for kind in whole}
    assert counted == whole
    assert corpus.facts()["lost"] == (
        f"15% of the characters (100 case, 100 white space): the tokenizer {bert_folder.name} does not give them back"
    )


def test_a_byte_level_bpe_loses_nothing_of_anything_and_no_line_is_said(tmp_path: Path) -> None:
    corpus = prepared(tmp_path, "naïve\r日本 🙂\n\n\u202e(\u0301)\x07\n" * 50, BPE)
    assert {split.changes.total for split in read_manifest(corpus.folder).splits.values()} == {0}
    assert "lost" not in corpus.facts()


@pytest.mark.parametrize("flag", ["--accept-loss", "--accept_loss"])
def test_above_1_percent_the_preparation_asks_and_leaves_nothing_behind(
    flag: str, tmp_path: Path, bert_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the cat sat 日本語テキスト 🙂\n" * 100, encoding="utf-8")
    words = ["data", "prepare", str(text), "--tokenizer", str(bert_folder), "--out", str(tmp_path / "out")]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert f"the tokenizer {bert_folder.name} does not give back" in said
    assert "take --tokenizer byte" in said
    assert "--accept_loss" in said
    assert not (tmp_path / "out").exists()
    assert main([*words, flag]) == 0
    captured = capsys.readouterr()
    assert "lost " in captured.out + captured.err
    assert main(words) == 2  # and asks again of what is prepared already


def test_less_than_1_percent_is_said_and_accepted(tmp_path: Path, bert_folder: Path) -> None:
    corpus = prepared(tmp_path, ("the cat sat on a mat " * 20 + "🙂 ") * 50, bert_folder)
    assert corpus.facts()["lost"].startswith("0.2")


def test_a_corpus_of_before_says_nothing_of_its_loss_and_is_accepted(tmp_path: Path, bert_folder: Path) -> None:
    corpus = prepared(tmp_path, "The Cat.\n" * 100, bert_folder, accept_loss=True)
    manifest = json.loads((corpus.folder / "manifest.json").read_text())
    for split in manifest["splits"].values():
        del split["changed"]
    (corpus.folder / "manifest.json").write_text(json.dumps(manifest))
    assert "lost" not in prepare(corpus, tokenizer=bert_folder).facts()
    prepare(tmp_path / "text.txt", tokenizer=bert_folder, out=tmp_path / "out")  # accept_loss is not asked for


def test_the_preset_with_an_uncased_tokenizer_accepts_its_loss_and_those_in_gpt2s_tokens_do_not() -> None:
    accepts = {name: load_config(name).data.accept_loss for name in ("small", "medium", "large", "mdlm-owt", "char")}
    assert accepts == {"small": True, "medium": False, "large": False, "mdlm-owt": False, "char": False}


def test_many_texts_are_decoded_as_each_is_alone(bert_folder: Path, gpt2_folder: Path) -> None:
    texts = ["the cat sat.", "", "hello world 日", "a"]
    for tokenizer in (load_tokenizer(bert_folder), load_tokenizer(gpt2_folder), BPE):
        assert isinstance(tokenizer, HFTokenizer)
        ids = tokenizer.encode_batch(texts)
        control = [np.array([tokenizer.eos_id, *each]) for each in ids]
        for batch in (ids, control):
            assert tokenizer.decode_batch(batch) == [tokenizer.decode(each) for each in batch]


def test_a_plugins_tokenizer_that_draws_is_refused() -> None:
    class Drawn(ByteTokenizer):
        def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
            return [np.frombuffer(text.encode(), np.uint8)[:: 1 + i % 2] for i, text in enumerate(texts)]

    class Plugin:
        def __getattr__(self, name: str):
            return getattr(Drawn(), name)

    with pytest.raises(UserError, match="the tokenizer byte gives one text other ids the second time"):
        list(encoded([("train", Piece("the cat", True))], Plugin(), 1))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("text", "unspaced"),
    [("今天 天気\n", 4), ("สวัสดี", 6), ("hello", 0), ("안녕 하세요", 0), ("カナa", 2), ("ｶﾅ ꦲꦏ ꆈ", 5)],
)
def test_characters_of_scripts_without_spaces_are_counted(text: str, unspaced: int) -> None:
    ((_, chunk),) = encoded([("train", Piece(text, True))], ByteTokenizer(), 1)
    assert chunk.unspaced == unspaced
