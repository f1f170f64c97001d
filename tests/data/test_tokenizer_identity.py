"""A tokenizer is told from every other by its whole definition, and what draws its tokens is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import corpus

from mdlm_atat.cli.main import main
from mdlm_atat.data.corpus import Corpus
from mdlm_atat.data.manifest import read_manifest
from mdlm_atat.data.open_tokenizer import load_tokenizer, save_tokenizer
from mdlm_atat.data.prepare import prepare
from mdlm_atat.data.request import DataRequest
from mdlm_atat.data.tokenizers import HFTokenizer
from mdlm_atat.data.tokens import TokenDataset
from mdlm_atat.data.train_tokenizer import train_bpe
from mdlm_atat.errors import UserError

BPE = train_bpe([corpus(2000)], 300)
Edit = Callable[[dict[str, Any]], object]


def folder_of(path: Path, edit: Edit = dict) -> Path:
    """A folder with the tokenizer.json of BPE, edited; every folder has the same name."""
    definition = json.loads(BPE.inner.to_str())
    edit(definition)
    folder = path / "same-name"
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(json.dumps(definition))
    return folder


def added(content: str, **flags: bool) -> dict[str, Any]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return {"id": 300, "content": content, **plain, **flags}


EDITS: dict[str, Edit] = {
    "normalizer": lambda d: d.update(normalizer={"type": "NFKC"}),
    "lowercase": lambda d: d.update(normalizer={"type": "Lowercase"}),
    "space before": lambda d: d["pre_tokenizer"].update(add_prefix_space=True),
    "pieces by another rule": lambda d: d["pre_tokenizer"].update(use_regex=False),
    "decoder": lambda d: d.update(decoder={"type": "Fuse"}),
    "post-processor": lambda d: d.update(
        post_processor={"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    ),
    "two merges in another order": lambda d: d["model"]["merges"].insert(0, d["model"]["merges"].pop(1)),
    "merges passed over": lambda d: d["model"].update(ignore_merges=True),
    "unknown token": lambda d: d["model"].update(unk_token="!"),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_a_change_of_any_part_is_another_tokenizer_and_another_corpus(edit: Edit, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the \ufb01ne cat sat, " * 200, encoding="utf-8")  # a ligature, which no probe sentence has
    folders = folder_of(tmp_path / "plain"), folder_of(tmp_path / "edited", edit)
    assert len({load_tokenizer(folder).fingerprint() for folder in folders}) == 2
    assert len({DataRequest(source=text, tokenizer=folder).fingerprint() for folder in folders}) == 2


@pytest.mark.parametrize("flag", ["single_word", "lstrip", "rstrip", "normalized"])
def test_a_flag_of_an_added_token_tells_two_apart(flag: str, tmp_path: Path) -> None:
    token = {"plain": added("<tool>"), "edited": added("<tool>", **{flag: True})}
    folders = [folder_of(tmp_path / name, lambda d, n=name: d["added_tokens"].append(token[n])) for name in token]
    assert len({load_tokenizer(folder).fingerprint() for folder in folders}) == 2


def test_the_cache_serves_neither_of_two_tokenizers_the_others_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATAT_CACHE", str(tmp_path / "cache"))
    text = tmp_path / "text.txt"
    text.write_text("the \ufb01ne cat sat, " * 200, encoding="utf-8")
    plain, folded = folder_of(tmp_path / "plain"), folder_of(tmp_path / "nfkc", EDITS["normalizer"])
    first = prepare(text, tokenizer=plain, progress=False)
    second = prepare(text, tokenizer=folded, accept_loss=True, progress=False)
    assert first.folder != second.folder
    assert second.tokenizer.decode(second.open("valid", 16).tokens[:20]) != ""
    assert "\ufb01" in first.tokenizer.decode(first.open("valid", 16).tokens)
    assert "\ufb01" not in second.tokenizer.decode(second.open("valid", 16).tokens)
    with pytest.raises(UserError, match="was prepared with the tokenizer same-name"):
        prepare(first, tokenizer=folded)


def test_how_a_version_of_the_library_writes_defaults_and_merges_is_no_difference(tmp_path: Path) -> None:
    def older(definition: dict[str, Any]) -> None:
        for name in ("ignore_merges", "byte_fallback", "fuse_unk", "dropout", "unk_token"):
            definition["model"].pop(name)
        definition["model"]["merges"] = [" ".join(pair) for pair in definition["model"]["merges"]]
        definition.pop("truncation")
        definition["padding"] = {
            "strategy": {"Fixed": 9},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "!",
        }

    now, before = load_tokenizer(folder_of(tmp_path / "now")), load_tokenizer(folder_of(tmp_path / "before", older))
    assert now.fingerprint() == before.fingerprint()
    save_tokenizer(before, tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").fingerprint() == now.fingerprint()


def test_a_tokenizer_with_bpe_dropout_is_refused_and_says_what_to_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(tmp_path, lambda d: d["model"].update(dropout=0.1))
    (tmp_path / "text.txt").write_text(corpus(500))
    words = ["data", "prepare", str(tmp_path / "text.txt"), "--tokenizer", str(folder), "--out", str(tmp_path / "out")]
    assert main(words) == 2
    assert "draws its tokens at random (BPE dropout, dropout 0.1)" in (said := capsys.readouterr().err)
    assert 'set "dropout" to null' in said
    assert not (tmp_path / "out").exists()


def test_a_sampling_unigram_made_in_python_is_refused() -> None:
    from tokenizers import Tokenizer, models

    inner = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0), ("aa", -1.1)], unk_id=0))
    inner.model.alpha = 0.1  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(UserError, match="unigram sampling"):
        HFTokenizer(inner, name="drawn")


# --- what versions until 0.1 have made


def make_old(folder: Path, request: DataRequest) -> None:
    """The manifest as those versions wrote it: by the former hash of the tokenizer."""
    manifest = json.loads((folder / "manifest.json").read_text())
    tokenizer = request.fixed_tokenizer
    assert isinstance(tokenizer, HFTokenizer)
    manifest["tokenizer"]["hash"] = tokenizer.former_fingerprint()
    manifest["fingerprint"] = request.fingerprint(former=True)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_corpus_of_before_opens_and_answers_its_request_but_not_a_twins(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(corpus(800))
    plain, folded = folder_of(tmp_path / "plain"), folder_of(tmp_path / "nfkc", EDITS["normalizer"])
    request = DataRequest(source=text, tokenizer=plain)
    made = prepare(request=request, out=tmp_path / "out", progress=False)
    make_old(made.folder, request)
    opened = TokenDataset.open(made, "train", 16)
    assert opened.tokenizer.fingerprint() == load_tokenizer(plain).fingerprint()
    assert prepare(request=request, out=tmp_path / "out", progress=False).folder == made.folder
    assert prepare(made, tokenizer=plain).folder == made.folder
    twin = DataRequest(source=text, tokenizer=folded)
    assert twin.fingerprint(former=True) == request.fingerprint(former=True)  # they could not be told apart
    with pytest.raises(UserError, match="holds a corpus prepared from other text or settings"):
        prepare(request=twin, out=tmp_path / "out")
    with pytest.raises(UserError, match="was prepared with the tokenizer same-name, not"):
        prepare(made, tokenizer=folded)


def test_a_corpus_whose_tokenizer_was_altered_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(corpus(800))
    made = prepare(tmp_path / "text.txt", tokenizer=folder_of(tmp_path), out=tmp_path / "out", progress=False)
    file = made.folder / "tokenizer/tokenizer.json"
    definition = json.loads(file.read_text())
    file.write_text(json.dumps({**definition, "normalizer": {"type": "Lowercase"}}))
    assert read_manifest(made.folder).splits["train"].tokens
    with pytest.raises(UserError, match=r"out/tokenizer is not the tokenizer that .*out was prepared with"):
        _ = Corpus(made.folder).tokenizer
    with pytest.raises(UserError, match="prepare the corpus again"):
        _ = TokenDataset.open(made.folder, "train", 16).tokenizer
