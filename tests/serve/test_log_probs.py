"""Log probabilities of tokens, against the library's own scores."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from serving import Client, causal_by_heart, served
from torch import nn

from lm.made_models import random_lm
from lm.made_tokenizers import KINDS, tokenizer_of
from mdlm_atat import MaskedDiffusionLM
from mdlm_atat.config.schema import DataConfig, ModelConfig, RunConfig
from mdlm_atat.data.tokenizers import ByteTokenizer, CharTokenizer, Tokenizer
from mdlm_atat.lm.log_probs import TokenLogProb
from mdlm_atat.nets.two_way import TwoWayDiT
from mdlm_atat.serve.tokens import TokenNames

SPLIT = "naïve 天地 🙂, 🙂🙂\n\tis that so?  Yes!"
"""A text whose characters are several tokens each, in most tokenizers."""


def two_way(tokenizer: Tokenizer, length: int = 128) -> MaskedDiffusionLM:
    torch.manual_seed(0)
    network = TwoWayDiT(tokenizer.vocab_size, length, num_layers=1, width=8, num_heads=1)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.4)
    return MaskedDiffusionLM(network.double(), tokenizer)


def completed(client: Client, prompt: str, **body: Any) -> dict[str, Any]:
    answer = client.complete(prompt, **body)
    assert answer.status == 200, answer.body
    (choice,) = answer.json["choices"]
    return choice


def as_bytes(token: str) -> bytes:
    if not token.startswith("bytes:"):
        return token.encode()
    return re.sub(
        rb"\\x(..)", lambda found: bytes.fromhex(found[1].decode()), token.removeprefix("bytes:").encode("ascii")
    )


@pytest.mark.parametrize("how", [{}, {"temperature": 0}, {"temperature": 0.3, "top_p": 0.5}, {"temperature": 3}])
def test_they_are_the_models_own_at_any_temperature_and_sum_to_the_score_of_the_text(
    how: dict[str, float], client: Client, lm: MaskedDiffusionLM
):
    choices = (completed(client, "a bad ", max_tokens=6, seed=n, logprobs=2, echo=True, **how) for n in range(9))
    choice = next(choice for choice in choices if "<|endoftext|>" not in choice["logprobs"]["tokens"])
    found = choice["logprobs"]
    assert "".join(found["tokens"]) == choice["text"]
    assert found["text_offset"] == list(range(12))
    assert -sum(found["token_logprobs"]) == pytest.approx(lm.score(choice["text"]).nats, abs=1e-5)
    tokens = torch.tensor([lm.tokenizer.encode(choice["text"])])
    expected = lm.network(tokens)[0].log_softmax(-1)
    names = [*"abcdefgh .", "<|endoftext|>"]
    ids = [lm.tokenizer.encode(name)[0] for name in names[:-1]] + [lm.tokenizer.eos_id]
    for place, (token, top) in enumerate(zip(found["tokens"], found["top_logprobs"], strict=True)):
        best = sorted(names, key=lambda name, place=place: -expected[place, ids[names.index(name)]])
        assert list(top) == list(dict.fromkeys([*best[:2], token]))
        for name, value in top.items():
            assert value == pytest.approx(expected[place, ids[names.index(name)]].item(), abs=1e-5)
        assert top[token] == found["token_logprobs"][place]


def test_of_the_completion_alone_they_sum_to_its_score_after_the_prompt(client: Client, lm: MaskedDiffusionLM):
    whole = completed(client, "a bad ", max_tokens=6, seed=0, logprobs=1, echo=True)["logprobs"]
    alone = completed(client, "a bad ", max_tokens=6, seed=0, logprobs=1)["logprobs"]
    assert alone["text_offset"] == [offset - 6 for offset in whole["text_offset"][6:]]
    assert alone["token_logprobs"] == pytest.approx(whole["token_logprobs"][6:], abs=1e-12)
    text = "".join(token for token in alone["tokens"] if token != "<|endoftext|>")
    after = lm.score(text, given="a bad ").nats  # the space is the text's there
    kept = [value for token, value in zip(alone["tokens"], alone["token_logprobs"], strict=True) if token in text]
    assert -sum(kept) == pytest.approx(after + whole["token_logprobs"][5], abs=1e-5)


def test_no_tokens_with_echo_score_the_prompt(client: Client, lm: MaskedDiffusionLM):
    answer = client.complete(["a bad ", "face"], max_tokens=0, echo=True, logprobs=1)
    assert answer.json["usage"] == {"prompt_tokens": 10, "completion_tokens": 0, "total_tokens": 10}
    for choice, text in zip(answer.json["choices"], ("a bad ", "face"), strict=True):
        assert (choice["text"], choice["finish_reason"]) == (text, "length")
        assert -sum(choice["logprobs"]["token_logprobs"]) == pytest.approx(lm.score(text).nats, abs=1e-5)
    assert completed(client, "face", max_tokens=0)["text"] == ""


@pytest.mark.parametrize("form", KINDS)
def test_tokens_that_split_characters_have_their_bytes_and_where_the_character_begins(form: str):
    tokenizer = tokenizer_of(form)
    text = "Is that so?  Yes!" if isinstance(tokenizer, CharTokenizer) else SPLIT
    lm = two_way(tokenizer)
    with served(lm) as client:
        scored = completed(client, text, max_tokens=0, logprobs=3, echo=True)["logprobs"]
        made = completed(client, text, max_tokens=8, temperature=2, seed=1, logprobs=3, echo=True)
    assert -sum(scored["token_logprobs"]) == pytest.approx(lm.score(text).nats, abs=1e-5)
    loses = form.startswith(("WordPiece", "unigram")) or "prefix space" in form
    for found, whole in ((scored, text), (made["logprobs"], made["text"])):
        offsets, tokens = found["text_offset"], found["tokens"]
        assert offsets == sorted(offsets)
        assert offsets[0] == 0
        assert len({len(values) for values in found.values()}) == 1
        assert all(token in top for token, top in zip(tokens, found["top_logprobs"], strict=True))
        if loses:  # some characters have no token of their own: they stand with another
            continue
        ends = [*offsets[1:], len(whole)]
        for token, start, end in zip(tokens, offsets, ends, strict=True):
            if not token.startswith("bytes:") and token not in ("<|endoftext|>", "</s>"):
                assert whole[start:end] == token
        written = [token for token in tokens if token not in ("<|endoftext|>", "</s>")]
        assert "\ufffd" in whole or b"".join(map(as_bytes, written)).decode() == whole
    if form in ("bytes", "byte-level BPE", "SentencePiece BPE"):
        first = next(place for place, token in enumerate(scored["tokens"]) if token.startswith("bytes:"))
        character, size = "ï", 2
        assert b"".join(map(as_bytes, scored["tokens"][first : first + size])).decode() == character
        assert scored["text_offset"][first : first + size] == [text.index(character)] * size


@pytest.mark.parametrize("form", ["byte-level BPE", "WordPiece, cased", "SentencePiece BPE", "unigram"])
def test_behind_a_space_that_has_no_token_the_offsets_count_it(form: str):
    with served(two_way(tokenizer_of(form))) as client:
        choice = completed(client, " ", max_tokens=3, temperature=2, seed=1, logprobs=1, echo=True)
        alone = completed(client, " ", max_tokens=3, temperature=2, seed=1, logprobs=1)
    assert choice["text"] == " " + alone["text"]
    assert choice["logprobs"]["tokens"] == alone["logprobs"]["tokens"]
    assert choice["logprobs"]["text_offset"] == [offset + 1 for offset in alone["logprobs"]["text_offset"]]


def test_before_a_suffix_each_has_the_log_probability_that_it_was_drawn_with(client: Client, lm: MaskedDiffusionLM):
    body: dict[str, Any] = {"suffix": "face.", "max_tokens": 3, "min_tokens": 3, "seed": 2, "logprobs": 0}
    choice = completed(client, "a bad ", **body)
    found = choice["logprobs"]
    assert found["top_logprobs"] is None
    assert len(found["tokens"]) == len(found["token_logprobs"]) == 3
    infilled = client.infill("a bad [MASK:3]face.", seed=2).json
    assert infilled["results"][0]["pieces"][1]["tokens"][0]["logprob"] is None
    trace = lm.infill("a bad [MASK:3]face.", seed=[seed_of(2)], return_trace=True).trace
    assert trace is not None
    assert -sum(found["token_logprobs"]) == pytest.approx(trace.nats, abs=1e-5)
    echoed = completed(client, "a bad ", echo=True, **body)["logprobs"]
    assert echoed["token_logprobs"] == [None] * 6 + found["token_logprobs"]
    assert echoed["text_offset"] == list(range(6)) + [6 + offset for offset in found["text_offset"]]
    refused = client.complete("a bad ", **(body | {"logprobs": 1}))
    assert (refused.status, refused.mistake["field"]) == (400, "logprobs")
    assert "expected 0 with a suffix" in refused.mistake["message"]


def seed_of(seed: int) -> int:
    from mdlm_atat.samplers.seeds import mix_seed

    return mix_seed(mix_seed(seed, 0), 0)


def test_a_model_that_fills_masks_only_has_no_likeliest_tokens():
    config = RunConfig(data=DataConfig(length=32), model=ModelConfig(num_layers=1, width=8, num_heads=1))
    with served(random_lm(ByteTokenizer(), config)) as client:
        found = completed(client, "ab", max_tokens=3, logprobs=0, echo=True)["logprobs"]
        assert found["token_logprobs"][:2] == [None, None]
        assert all(value <= 0 for value in found["token_logprobs"][2:])
        for answer in (client.complete("ab", max_tokens=3, logprobs=1), client.generate("ab", logprobs=0)):
            assert (answer.status, answer.mistake["field"]) == (400, "logprobs")
            assert "fills masks only" in answer.mistake["message"]


@pytest.mark.parametrize(("stop", "text"), [("own fox", "The quick br"), ("T", ""), ("🌍", "The quick brown fox ")])
def test_tokens_of_a_stop_string_and_behind_it_are_left_out(stop: str, text: str):
    whole = "The quick brown fox 🌍 jumps."
    with served(causal_by_heart(whole, ByteTokenizer())) as client:
        for stream in (False, True):
            body = {"max_tokens": len(whole.encode()), "temperature": 0, "stop": stop, "logprobs": 1, "stream": stream}
            answer = client.complete("", **body)
            choice = answer.events[-2][1]["choices"][0] if stream else answer.json["choices"][0]
            assert choice["finish_reason"] == "stop"
            assert choice["text"] == ("" if stream else text)
            assert "".join(choice["logprobs"]["tokens"]) == text


def test_of_several_choices_each_has_its_own(client: Client):
    body: dict[str, Any] = {"n": 2, "max_tokens": 5, "seed": 4, "logprobs": 1, "echo": True}
    choices = client.complete(["a bad ", "face"], **body).json["choices"]
    for choice in choices:
        found = choice["logprobs"]
        assert "".join(token for token in found["tokens"] if token != "<|endoftext|>") == choice["text"]
    alone = client.complete("a bad ", **body).json["choices"]
    assert [choice["logprobs"]["tokens"] for choice in alone] == [
        choice["logprobs"]["tokens"] for choice in choices[:2]
    ]


def test_a_text_goes_on_in_the_same_way_where_they_are_asked_for(client: Client, lm: MaskedDiffusionLM):
    plain = client.generate("a bad ", max_tokens=6, seed=3, num_samples=2, temperature=0.5).json["results"]
    asked = client.generate("a bad ", max_tokens=6, seed=3, num_samples=2, temperature=0.5, logprobs=2).json["results"]
    none = client.generate("a bad ", max_tokens=6, seed=3, logprobs=0).json["results"]
    assert [result["text"] for result in plain] == [result["text"] for result in asked]
    for result in asked:
        (tokens,) = (piece["tokens"] for piece in result["pieces"] if not piece["given"])
        ids = lm.tokenizer.encode("a bad ")
        ids += [lm.tokenizer.encode(token["text"])[0] if token["text"] else lm.tokenizer.eos_id for token in tokens]
        expected = lm.nll_from(torch.tensor([ids]), 6)[0].tolist()
        assert [-token["logprob"] for token in tokens] == pytest.approx(expected, abs=1e-5)
        assert all(token["top_logprobs"][token["text"] or "<|endoftext|>"] == token["logprob"] for token in tokens)
        assert all(2 <= len(token["top_logprobs"]) <= 3 for token in tokens)
    assert none[0]["pieces"][1]["tokens"][0]["top_logprobs"] is None
    assert none[0]["pieces"][1]["tokens"][0]["logprob"] < 0
    assert plain[0]["pieces"][1]["tokens"][0]["logprob"] is None


@pytest.mark.parametrize("form", ["byte-level BPE with a prefix space", "WordPiece, cased", "unigram"])
def test_behind_a_space_the_likeliest_are_called_as_in_a_completion(form: str):
    # the likeliest is drawn: another could stand where two of the five have the same name
    body: dict[str, Any] = {"max_tokens": 1, "temperature": 0, "logprobs": 5}
    with served(two_way(tokenizer_of(form))) as client:
        for prompt in ("Is that ", "Is that"):
            (result,) = client.generate(prompt, **body).json["results"]
            likeliest = list(result["pieces"][1]["tokens"][0]["top_logprobs"])[:5]
            assert likeliest == list(completed(client, prompt, **body)["logprobs"]["top_logprobs"][0])[:5]
            assert any(name.startswith(" ") for name in likeliest) == (prompt == "Is that")


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ({"prompt": "ab", "logprobs": 6}, "logprobs", "from 0 to 5"),
        ({"prompt": "ab", "logprobs": -1}, "logprobs", "from 0 to 5"),
        ({"prompt": "ab", "logprobs": True}, "logprobs", "logprobs"),
        ({"prompt": "ab", "logprobs": 1, "max_tokens": 47}, "logprobs", "at most 48, the model's length"),
        ({"prompt": "", "max_tokens": 0}, "prompt", "there is nothing to do"),
        ({"prompt": "ab", "max_tokens": 0, "min_tokens": 1}, "min_tokens", "at most max_tokens, 0"),
        ({"prompt": "ab", "max_tokens": 0, "suffix": "a"}, "max_tokens", "at least 1"),
        ({"prompt": "ab", "max_tokens": -1}, "max_tokens", "at least 0"),
    ],
)
def test_what_cannot_be_listed_is_refused(body: dict[str, Any], field: str, message: str, client: Client):
    answer = client.post("/v1/completions", body)
    assert (answer.status, answer.mistake["field"]) == (400, field)
    assert message in answer.mistake["message"]


def test_a_token_that_cannot_be_has_the_number_that_openai_gives_it():
    names = TokenNames(CharTokenizer("ab"))
    a, b = CharTokenizer("ab").encode("ab")
    found = TokenLogProb(a, -math.inf, ((b, 0.0), (a, -math.inf)))
    assert names.likeliest(1, "a", found) == {"b": 0.0, "a": -9999.0}


def test_the_description_says_what_a_choice_holds(client: Client):
    schemas = client.get("/openapi.json").json["components"]["schemas"]
    assert set(schemas["LogProbs"]["properties"]) == {"tokens", "token_logprobs", "top_logprobs", "text_offset"}
    assert "LogProbs" in str(schemas["Choice"]["properties"]["logprobs"])
    assert "0 to 5" in schemas["CompletionRequest"]["properties"]["logprobs"]["description"]
    assert "0 to 5" in schemas["GenerateRequest"]["properties"]["logprobs"]["description"]
