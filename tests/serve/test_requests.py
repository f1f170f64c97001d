"""What is asked for wrongly is refused in one message that names the field; what is too much as well."""

from __future__ import annotations

import dataclasses
import json
import resource
import time
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from serving import Client, causal_by_heart, served

from lm.made_models import two_way_lm
from mdlm_atat import MaskedDiffusionLM
from mdlm_atat.data.tokenizers import ByteTokenizer
from mdlm_atat.serve import requests
from mdlm_atat.serve.completions import Completion
from mdlm_atat.serve.service import Service

INFILL, GENERATE, SCORE, COMPLETE = "/v1/infill", "/v1/generate", "/v1/score", "/v1/completions"


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with served(two_way_lm(letters="abcdef .", length=16), max_characters=400, max_texts=8) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "body", "field", "message"),
    [
        (INFILL, {}, "text", "text is missing"),
        (INFILL, {"txt": "a[MASK]"}, "txt", "there is no field 'txt'; did you mean text?"),
        (INFILL, {"text": "a[MASK]", "max_tokens": 3}, "max_tokens", "there is no field 'max_tokens'"),
        (INFILL, {"text": 3}, "text", "text: expected text, found 3"),
        (INFILL, {"text": None}, "text", "text: expected text, found nothing"),
        (INFILL, {"text": "a[MASK]", "steps": "6"}, "steps", "steps: expected a whole number, found '6'"),
        (INFILL, {"text": "a[MASK]", "steps": 6.5}, "steps", "expected a whole number, found 6.5"),
        (INFILL, {"text": "a[MASK]", "steps": True}, "steps", "expected a whole number, found true"),
        (INFILL, {"text": "a[MASK]", "steps": 0}, "steps", "steps is 0, expected from 1 to 10,000"),
        (INFILL, {"text": "a[MASK]", "temperature": -1}, "temperature", "temperature is -1"),
        (INFILL, {"text": "a[MASK]", "top_p": 0}, "top_p", "top_p is 0, expected above 0"),
        (INFILL, {"text": "a[MASK]", "top_p": 1.5}, "top_p", "top_p is 1.5"),
        (INFILL, {"text": "a[MASK]", "seed": 2**53}, "seed", "seed is 9007199254740992"),
        (INFILL, {"text": "a[MASK]", "seed": -1}, "seed", "seed is -1"),
        (INFILL, {"text": "a[MASK]", "stream": "yes"}, "stream", "expected true or false, found 'yes'"),
        (INFILL, {"text": "a[MASK]", "sampler": "spred"}, "sampler", "did you mean spread?"),
        (INFILL, {"text": "a[MASK]", "sampler": "os:system"}, "sampler", "is not one that this server has"),
        (INFILL, {"text": "a[MASK]", "sampler": "mdlm_atat.samplers.ancestral:Ancestral"}, "sampler", "not one that"),
        (INFILL, {"text": "a[MASK]", "sampler": "ancestral:num_steps=99999999"}, "sampler", "num_steps is 99999999"),
        (INFILL, {"text": "a[MASK]", "sampler": "ancestral:num_steps=+99999999"}, "sampler", "num_steps is +99999999"),
        (INFILL, {"text": "a[MASK]", "sampler": "ancestral:num_steps=9_999_999"}, "sampler", "num_steps is 9_999_999"),
        (INFILL, {"text": "a[MASK]", "sampler": "ancestral:num_steps=٩٩٩٩٩"}, "sampler", "expected at most 10,000"),
        (INFILL, {"text": "a[MASK]", "sampler": "spread:least_steps=10001"}, "sampler", "least_steps is 10001"),
        (INFILL, {"text": "a[MASK]", "sampler": "ancestral:num_steps=²"}, None, "num_steps is '²', expected a value"),
        (INFILL, {"text": "a[MASK]", "sampler": "spread:gama=1"}, None, "has no option 'gama'"),
        (INFILL, {"text": "a[MASK]", "num_samples": 0}, "num_samples", "num_samples is 0, expected at least 1"),
        (INFILL, {"text": "a[MASK]", "candidates": 1, "num_samples": 2}, "text", "draw at least `candidates=2`"),
        (INFILL, {"text": "abc"}, "text", "the template has no gap"),
        (INFILL, {"text": ""}, "text", "the template is empty"),
        (INFILL, {"text": "a[MASK:0]"}, "text", "[MASK:0] is not a gap"),
        (INFILL, {"text": "a[MASK:17]"}, "text", "a gap of 17 tokens is longer than the model"),
        (INFILL, {"text": "a[MASK:1-3]"}, "text", "none is given after the last gap"),
        (INFILL, {"text": "z[MASK]"}, "text", "'z' (U+007A)"),
        (INFILL, {"text": r"a\q[MASK]", "escape": True}, "text", r"\q is no escape"),
        (GENERATE, {"prompt": "z"}, "prompt", "'z' (U+007A)"),
        (GENERATE, {"stop": [""]}, "stop", "an empty string"),
        (GENERATE, {"stop": "a"}, "stop", "expected a list of text"),
        (GENERATE, {"stop": [1]}, "stop", "expected text, found 1"),
        (GENERATE, {"stop": ["a"] * 17}, "stop", "stop has 17 strings"),
        (GENERATE, {"max_tokens": 0}, "max_tokens", "max_tokens is 0, expected at least 1"),
        (SCORE, {"texts": []}, "texts", "texts is empty"),
        (SCORE, {"texts": ["a", ""]}, "texts", "text 2 is empty"),
        (SCORE, {"texts": "a"}, "texts", "expected a list of text"),
        (SCORE, {"texts": ["a"], "order": "spred"}, "order", "did you mean spread?"),
        (SCORE, {"texts": ["a"], "order": "anny"}, "order", "did you mean any?"),
        (SCORE, {"texts": ["a"], "order": "any:num_steps=4"}, "order", "any has no options"),
        ("/v1/generate", {"sampler": "any"}, "sampler", "unknown sampler 'any'"),
        (SCORE, {"texts": ["a"], "order": "os:system"}, "order", "is not one that this server has"),
        (SCORE, {"texts": ["a"], "num_draws": 10**9}, "num_draws", "num_draws is 1000000000"),
        (COMPLETE, {"prompt": []}, "prompt", "prompt is an empty list"),
        (COMPLETE, {"prompt": [1, 2]}, "prompt", "expected text or a list of text"),
        (COMPLETE, {"prompt": "a", "max_tokens": 2, "min_tokens": 3}, "min_tokens", "expected at most max_tokens, 2"),
        (COMPLETE, {"prompt": "a", "suffix": 1}, "suffix", "expected text, found 1"),
        (COMPLETE, {"prompt": "a", "suffix": "z"}, "prompt", "'z' (U+007A)"),
        (INFILL, [], None, "expected a JSON object, found list"),
        (INFILL, b"", None, "the body is no JSON"),
        (INFILL, b"{", None, "the body is no JSON"),
        (INFILL, b"\xff\xfe", None, "the body is no JSON"),
        (INFILL, b'{"text": "a[MASK]", "top_p": NaN}', None, "NaN is no JSON"),
        (INFILL, b'{"text": "a[MASK]", "top_p": -Infinity}', None, "-Infinity is no JSON"),
        (INFILL, b'{"text": "a[MASK]", "text": "b[MASK]"}', "text", "text stands in the body twice"),
        (INFILL, b'{"text": "a\\ud83c[MASK]"}', None, "half of a surrogate pair"),
        (INFILL, b'{"text": "a[MASK]", "top_p": 1e999}', "top_p", "expected a number"),
        (INFILL, b'{"text": "a[MASK]", "seed": ' + b"9" * 5000 + b"}", None, "the body is no JSON"),
        (INFILL, b'{"text": ' + b"[" * 5000 + b"]" * 5000 + b"}", None, "the body is no JSON"),
    ],
)
def test_a_mistake_is_refused_with_the_field_and_what_to_do(
    path: str, body: Any, field: str | None, message: str, client: Client, capsys: pytest.CaptureFixture[str]
):
    answer = client.post(path, body)
    assert answer.status == 400, answer.body
    assert set(answer.json) == {"error"}
    assert set(answer.mistake) == {"message", "type", "field"}
    assert (answer.mistake["type"], answer.mistake["field"]) == ("invalid_request", field)
    assert message in answer.mistake["message"]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        (INFILL, {"text": "a" * 401 + "[MASK]"}, "characters of text, expected at most 400"),
        (GENERATE, {"prompt": "a" * 300, "stop": ["b" * 101]}, "401 characters"),
        (INFILL, {"text": "a" * 60 + "[MASK:5]"}, "65 tokens, gaps included, expected at most 64"),
        (INFILL, {"text": "a[MASK:999999999999]"}, "gaps included, expected at most 64"),
        (INFILL, {"text": "[MASK:16]" * 5}, "80 tokens"),
        (GENERATE, {"max_tokens": 65}, "max_tokens is 65, expected at most 64"),
        (GENERATE, {"prompt": "a" * 40, "max_tokens": 30}, "70 tokens"),
        (INFILL, {"text": "a[MASK]", "num_samples": 9}, "num_samples is 9, expected at most 8"),
        (INFILL, {"text": "a[MASK]", "candidates": 9}, "candidates is 9, expected at most 8"),
        (COMPLETE, {"prompt": ["a"] * 5, "n": 2}, "for 10 texts, expected at most 8"),
        (COMPLETE, {"prompt": "a", "suffix": "b" * 60, "max_tokens": 10}, "71 tokens"),
        (SCORE, {"texts": ["a"] * 9}, "for 9 texts, expected at most 8"),
        (SCORE, {"texts": ["a" * 65]}, "more than 64 tokens"),
        (INFILL, b" " * 200_000, "Request Entity Too Large"),
    ],
)
def test_what_is_too_much_is_refused(path: str, body: Any, message: str, client: Client):
    answer = client.post(path, body)
    assert (answer.status, answer.mistake["type"]) == (413, "too_large"), answer.body
    assert message in answer.mistake["message"]


def test_a_body_of_50000_names_the_last_of_which_stands_twice_is_refused_within_5_seconds():
    names = ",".join(f'"{number:05d}":0' for number in [*range(50_000), 49_999])
    start = time.monotonic()
    with pytest.raises(requests.RequestError, match="49999 stands in the body twice"):
        requests.parse_json(f"{{{names}}}".encode())
    assert time.monotonic() - start < 5


def test_mistakes_found_late_are_events_of_a_stream(client: Client):
    events = client.infill("a[MASK:1-3]", stream=True).events
    assert [name for name, _ in events] == ["error", "end"]
    assert events[0][1]["error"]["field"] == "text"


def test_completions_ignore_fields_that_they_do_not_know(client: Client):
    body = {
        "model": "gpt-9",
        "user": "me",
        "best_of": 3,
        "logit_bias": {"1": 2},
        "stream_options": None,
        "max_tokens": 2,
    }
    assert client.complete("a", **body).status == 200


def test_a_text_of_the_most_characters_is_taken_however_its_bytes_are_written(client: Client):
    escaped = b'{"text": "' + b"\\u0061" * 20 + b'[MASK]"}'
    assert client.post(INFILL, escaped).json["results"][0]["text"].startswith("a" * 20)


@pytest.mark.parametrize(("method", "path", "status"), [("GET", INFILL, 405), ("POST", "/", 405), ("GET", "/v1", 404)])
def test_other_paths_and_methods_are_answered_in_json(method: str, path: str, status: int, client: Client):
    answer = client.request(method, path)
    assert answer.status == status
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.mistake["type"] in ("method_not_allowed", "not_found")


def test_without_a_classifier_nothing_is_classified(client: Client):
    assert client.post("/v1/classify", {"texts": ["a"]}).status == 404
    assert client.get("/v1/model").json["classifier"] is None
    assert "/v1/classify" not in client.get("/openapi.json").json["paths"]


def test_our_own_mistakes_say_nothing_of_the_text(monkeypatch, capsys: pytest.CaptureFixture[str]):
    lm = two_way_lm(letters="abcdef .", length=16)

    def broken(*given: Any) -> Any:
        raise RuntimeError(f"cannot do {given}")

    monkeypatch.setattr(lm, "lay_out", broken)
    with served(lm) as client:
        answer = client.infill("abc[MASK]")
        assert (answer.status, answer.mistake["type"]) == (500, "internal_error")
        errors = [event["error"] for _, event in client.infill("abc[MASK]", stream=True).events if "error" in event]
        assert [error["type"] for error in errors] == ["internal_error"]
        assert client.generate("abcdef", max_tokens=2).status == 200  # the thread goes on
    printed = "".join(capsys.readouterr())
    assert "RuntimeError" in printed
    assert "broken" in printed  # the place
    assert "abc" not in printed + answer.body.decode()


def test_texts_are_printed_where_that_is_asked_for_and_else_nothing(capsys: pytest.CaptureFixture[str]):
    lm: MaskedDiffusionLM = two_way_lm(letters="abcdef .", length=16)
    for log_texts in (False, True):
        with served(lm, log_texts=log_texts) as client:
            client.infill("abc[MASK]fed", seed=1)
            client.infill("abc[MASK]fed", seed=1, stream=True)
            client.complete("abc", max_tokens=3)
            client.get("/v1/model?abc")
        out, err = capsys.readouterr()
        assert out == ""
        lines = [json.loads(line) for line in err.splitlines()]
        assert [line["path"] for line in lines] == ([INFILL] * 4 + [COMPLETE] * 2 if log_texts else [])


def test_settings_without_effect_are_told_to_the_client_and_not_to_the_terminal(
    client: Client, capfd: pytest.CaptureFixture[str]
):
    answer = client.generate("a", max_tokens=2, temperature=0, top_k=3, num_samples=2)
    assert answer.json["warnings"] == ["top_k has no effect with temperature = 0.0: it needs temperature above 0"]
    assert client.infill("a[MASK]", temperature=0, top_k=3).json["warnings"] == answer.json["warnings"]
    assert client.complete("a", temperature=0, top_p=0.9).status == 200
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("steering", ["\x1b[2J", "\x9b2J", "\x7f", "\u202e", "\u2066"])
def test_a_text_that_is_printed_does_not_steer_the_terminal_and_can_be_read_back(
    steering: str, capsys: pytest.CaptureFixture[str]
):
    with served(causal_by_heart("abcabc", ByteTokenizer()), log_texts=True) as client:
        client.generate(f"a{steering}", max_tokens=1)
    err = capsys.readouterr().err
    assert steering not in err
    assert json.loads(err.splitlines()[0])["content"]["prompt"] == f"a{steering}"


@pytest.mark.parametrize(("encoding", "window"), [("gzip", 31), ("deflate", 15)])
def test_a_small_body_that_unpacks_to_much_is_refused_and_takes_no_memory(encoding: str, window: int, client: Client):
    packer = zlib.compressobj(9, wbits=window)
    parts = [b'{"text": "', *[b" " * 1_000_000] * 100, b'[MASK]"}']
    bomb = b"".join(map(packer.compress, parts)) + packer.flush()
    assert len(bomb) < 100_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer = client.request("POST", INFILL, bomb, {"Content-Encoding": encoding})
    assert (answer.status, answer.mistake["type"]) == (413, "too_large")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40_000  # KiB


def test_the_description_lists_every_field_of_every_request_with_its_meaning(client: Client):
    described = client.get("/openapi.json").json
    assert described["openapi"] == "3.1.0"
    schemas = described["components"]["schemas"]
    for kind in (requests.InfillRequest, requests.GenerateRequest, requests.ScoreRequest, requests.CompletionRequest):
        properties = schemas[kind.__name__]["properties"]
        assert set(properties) == {field.name for field in dataclasses.fields(kind)}
        assert all(each["description"] for each in properties.values())
    assert schemas["InfillRequest"]["required"] == ["text"]
    assert schemas["InfillRequest"]["properties"]["steps"] == {
        "type": ["integer", "null"],
        "default": None,
        "description": "Steps, for samplers that have them (default: the sampler's).",
    }
    assert schemas["InfillRequest"]["additionalProperties"] is False
    assert schemas["CompletionRequest"]["additionalProperties"] is True
    referred = {part.rpartition("/")[2] for part in refs_of(described) if "/schemas/" in part}
    assert referred <= set(schemas)
    answer = client.infill("a[MASK]").json
    assert set(answer) == set(schemas["Texts"]["properties"])
    assert set(answer["results"][0]) == set(schemas["Result"]["properties"])


def refs_of(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [part for name, each in value.items() for part in ([each] if name == "$ref" else refs_of(each))]
    return [part for each in value for part in refs_of(each)] if isinstance(value, list) else []


def test_the_model_describes_itself(client: Client):
    found = client.get("/v1/model").json
    assert found["modes"] == ["causal", "masked"]
    assert found["tokenizer"] == {"name": "char", "vocab_size": 9}
    assert found["limits"] == {"max_tokens": 64, "max_texts": 8, "max_seconds": 120, "max_characters": 400}
    assert found["defaults"]["infill"]["sampler"] == "spread"
    assert found["defaults"]["generate"]["sampler"] == "left_to_right"
    for sampler in found["samplers"]:
        assert sampler["help"]
    assert client.get("/v1/models").json["data"][0]["id"] == "toy"


@pytest.mark.parametrize("path", [INFILL, COMPLETE])
def test_a_mistake_of_ours_after_a_stream_has_begun_ends_the_stream_and_the_connection_serves_on(
    path: str, monkeypatch, capsys: pytest.CaptureFixture[str]
):
    lm = two_way_lm(letters="abcdef .", length=16)

    def broken(*given: Any, **more: Any) -> Any:
        raise RuntimeError(f"with {given} and {more}")

    monkeypatch.setattr(Service, "answer", broken)
    monkeypatch.setattr(Completion, "done", broken)
    body: dict[str, Any] = {"text": "abc[MASK:3]"} if path == INFILL else {"prompt": "abc", "max_tokens": 4}
    body["seed"] = 0  # of which more than nothing is written
    with served(lm) as client:
        answer = client.post(path, {**body, "stream": True})
        assert answer.status == 200
        assert b"HTTP/1.1" not in answer.body  # no second answer inside of the first
        events = answer.events
        assert len(events) > 1
        errors = [event["error"]["type"] for _, event in events if isinstance(event, dict) and "error" in event]
        assert errors == ["internal_error"]
        assert "[DONE]" not in [event for _, event in events]  # it is not done
        assert [name for name, _ in events][-2:] == (["error", "end"] if path == INFILL else [None, None])
        assert client.get("/v1/model").status == 200
    assert "abc" not in "".join(capsys.readouterr())
