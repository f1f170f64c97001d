from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from tiny import corpus

from mdlm_atat.config.schema import DataConfig
from mdlm_atat.data.open_tokenizer import load_tokenizer
from mdlm_atat.data.prepare import prepare
from mdlm_atat.data.request import DataRequest, RequestSettings
from mdlm_atat.data.settings import DataSettings
from mdlm_atat.data.tokenizers import ByteTokenizer
from mdlm_atat.errors import UserError
from mdlm_atat.scoring.zero_shot import ZeroShotSet


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(corpus(400))
    return path


def names(kind: type) -> list[str]:
    return [field.name for field in fields(kind)]


def test_the_18_settings_are_written_down_once() -> None:
    assert len(names(DataSettings)) == 18
    assert names(DataConfig) == names(DataSettings)
    assert names(DataRequest) == [*names(DataSettings), "whole"]
    assert names(ZeroShotSet) == [*names(DataSettings), "name"]
    for kind in (DataConfig, DataRequest, ZeroShotSet):
        again = set(vars(kind)["__annotations__"]) & {"split", "column", "documents", "mode", "detokenize"}
        assert again == ({"split"} if kind is DataRequest else set())  # to which `whole` gives another meaning


def test_the_typed_keywords_of_prepare_are_those_of_a_request() -> None:
    keywords, settings = get_type_hints(RequestSettings), get_type_hints(DataRequest)
    assert keywords == {name: settings[name] for name in names(DataRequest) if name != "source"}


def files(path: Path) -> list[list[Any]]:
    return [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns]]


def test_a_request_has_the_fingerprint_it_always_had(text: Path, gpt2_folder: Path, tmp_path: Path) -> None:
    """The rule of format 1, spelled out: folders prepared before are found again by it."""
    held_out = tmp_path / "held.jsonl"
    held_out.write_text('{"body": "held out"}\n')
    rule: dict[str, Any] = {
        "format": 1,
        "source": {"files": files(text), "column": "text", "documents": "file"},
        "validation": None,
        "fraction": 0.05,
        "tokenizer": "char",
        "mode": "wrap",
        "length": None,
        "whole": False,
    }
    own = {"files": files(text), "column": "body", "documents": "line"}
    other = {
        "source": own,
        "validation": {**own, "files": files(held_out)},
        "fraction": 0.5,
        "tokenizer": load_tokenizer(gpt2_folder).fingerprint(),
        "mode": "pad",
        "length": 16,
    }
    scored = {
        "source": {**rule["source"], "detokenizer": "ptb"},
        "tokenizer": ByteTokenizer().fingerprint(),
        "whole": True,
    }
    requests: list[tuple[DataRequest, dict[str, Any]]] = [
        (DataRequest(source=str(text), length=256), {}),
        (DataRequest.of(DataConfig(source=str(text), tokenizer="gpt2")), {"tokenizer": "gpt2"}),
        (
            DataRequest(
                source=text,
                tokenizer=gpt2_folder,
                mode="pad",
                length=16,
                validation=str(held_out),
                validation_fraction=0.5,
                column="body",
                documents="line",
            ),
            other,
        ),
        (DataRequest(source=text, tokenizer=ByteTokenizer(), detokenize="ptb", whole=True), scored),
    ]
    for request, change in requests:
        expected = hashlib.sha256(json.dumps({**rule, **change}, sort_keys=True).encode()).hexdigest()
        assert request.fingerprint() == expected


def test_a_setting_that_cannot_be_is_named_as_it_was_given(text: Path) -> None:
    with pytest.raises(UserError, match=r"^data\.length is 1, expected at least 2"):
        DataConfig(length=1)
    with pytest.raises(UserError, match=r"^length is 1, expected at least 2"):
        DataRequest(source=text, length=1)
    with pytest.raises(UserError, match=r"^data\.validation_fraction is 1.5, expected between 0 and 1"):
        DataConfig(validation_fraction=1.5)
    with pytest.raises(UserError, match="no detokenizer 'moses'"):
        DataConfig(detokenize="moses")


def test_a_text_in_place_of_its_name_is_put_right() -> None:
    with pytest.raises(UserError, match="source is a text of 12 characters, no name or path: put it into a list"):
        DataRequest(source="first\nsecond")
    with pytest.raises(UserError, match="validation is a text of 5,000 characters"):
        DataRequest(source="shakespeare", validation="x" * 5000)


def test_a_file_with_a_line_end_in_its_name_is_named_by_it(tmp_path: Path) -> None:
    (file := tmp_path / "first\nsecond").write_text("A text. " * 100)
    prepared = prepare(request=DataRequest(source=str(file), tokenizer="byte"), out=tmp_path / "out")
    assert prepared.manifest.splits["train"].characters == 759


def test_the_validation_text_is_detokenized_as_the_text_is(text: Path) -> None:
    request = DataRequest(source=text, validation=["it is n't so"], detokenize="ptb")
    held_out = request.open_validation(request.open())
    assert held_out is not None
    assert [piece.text for piece in held_out] == ["it isn't so"]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("splits", "name", "data.splits is 'name', expected one of names, none"),
        ("documents", "lines", "data.documents"),
        ("nulls", "skp", "data.nulls"),
        ("encoding", 5, "`data.encoding=5`: expected a text"),
        ("template", 5, "`data.template=5`: expected a text"),
        ("leave_out", [".png"], r"`data.leave_out=\['.png'\]`: expected a text"),
    ],
)
def test_splits_and_what_to_leave_out_are_checked(name: str, value: object, message: str) -> None:
    request = DataRequest(source="a.txt")
    object.__setattr__(request, name, value)  # the tests' own checks of types would refuse it
    with pytest.raises(UserError, match=message):
        request.check_values("data.")
