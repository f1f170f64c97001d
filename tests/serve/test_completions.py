"""OpenAI's completions: stop strings, suffixes, chunks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import Answer, Client, causal_by_heart, served

from lm.made_models import lm_that_knows, random_lm
from lm.made_tokenizers import KINDS, tokenizer_of
from mdlm_atat import MaskedDiffusionLM
from mdlm_atat.config.schema import DataConfig, ModelConfig, RunConfig
from mdlm_atat.data.tokenizers import ByteTokenizer, CharTokenizer
from mdlm_atat.serve.service import gap_lengths
from mdlm_atat.serve.stops import Deltas, cut_at_stop

FOX = "The quick brown fox jumps."
TREE = "A tall TREE\nABC"


def streamed(answer: Answer) -> list[tuple[str, str | None]]:
    """Text and reason of each chunk of a single choice."""
    *chunks, last = [data for _, data in answer.events]
    assert last == "[DONE]"
    assert all(chunk["object"] == "text_completion" for chunk in chunks)
    assert len({chunk["id"] for chunk in chunks}) == 1
    return [(chunk["choices"][0]["text"], chunk["choices"][0]["finish_reason"]) for chunk in chunks]


def both(client: Client, prompt: str, **body: Any) -> tuple[str, str]:
    """The completion and why it ends; the same whole and in chunks."""
    whole = client.complete(prompt, **body)
    assert whole.status == 200, whole.body
    (choice,) = whole.json["choices"]
    chunks = streamed(client.complete(prompt, stream=True, **body))
    assert "".join(text for text, _ in chunks) == choice["text"]
    assert [reason for _, reason in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1] == ("", choice["finish_reason"])
    return choice["text"], choice["finish_reason"]


@pytest.mark.parametrize("text", [FOX, "你🌍, naïve ✅\n\n", "👩‍👩‍👧 é"])
@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_chunks_are_whole_characters_and_sum_to_the_text(text: str, kind: str):
    tokenizer, size = ByteTokenizer(), len(text.encode())
    lm = causal_by_heart(text, tokenizer) if kind == "causal" else lm_that_knows(text, tokenizer, RunConfig())
    with served(lm) as client:
        assert both(client, "", max_tokens=size, temperature=0) == (text, "length")
        answer = client.complete("", max_tokens=size, temperature=0, stream=True)
    assert "ufffd" not in answer.body.decode()
    assert answer.body.isascii()
    if kind == "causal":
        assert len(streamed(answer)) > len(text) // 2


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        (FOX, "own fox", ("The quick br", "stop")),
        (FOX, ["own fox", "quick b"], ("The ", "stop")),
        (FOX, ["k brown fox", "brown"], ("The quick ", "stop")),
        (FOX, ["jumps.", "nothing"], ("The quick brown fox ", "stop")),
        (FOX, "T", ("", "stop")),
        (FOX, ["jumps.!", "xx"], (FOX, "length")),
        (TREE, "TREE\nAA", (TREE, "length")),
        ("ends in TRE", "TREE\nAA", ("ends in TRE", "length")),
        ("🌍🌍x", "🌍x", ("🌍", "stop")),
        ("aaaab", "aab", ("aa", "stop")),
    ],
)
def test_a_stop_string_ends_the_text_and_no_part_of_it_leaks_or_is_lost(
    text: str, stop: Any, expected: tuple[str, str]
):
    size = len(text.encode())
    with served(causal_by_heart(text, ByteTokenizer())) as client:
        assert both(client, "", max_tokens=size, temperature=0, stop=stop) == expected


def test_a_stop_string_frees_the_model_early(lm: MaskedDiffusionLM):
    with served(causal_by_heart(FOX, ByteTokenizer())) as client:
        usage = client.complete("", max_tokens=26, temperature=0, stop="quick").json["usage"]
    assert usage == {"prompt_tokens": 0, "completion_tokens": 9, "total_tokens": 9}


@settings(max_examples=300, deadline=None)
@given(
    st.text("ab\ufffd", max_size=12),
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(0, 12), max_size=5),
)
def test_a_text_that_grows_by_any_parts_is_cut_as_it_is_at_once(text: str, stops: list[str], ends: list[int]):
    deltas = Deltas(stops)
    parts = [deltas.next(text[:end], is_whole=False) for end in sorted(ends)]
    kept, is_stopped = cut_at_stop(text, stops)
    for number, part in enumerate(parts):
        before = "".join(parts[:number])
        assert kept.startswith(before + part)
    assert "".join(parts) + deltas.next(text, is_whole=True) == kept
    assert is_stopped == any(stop in text for stop in stops)


@pytest.mark.parametrize("form", KINDS)
def test_the_text_between_prompt_and_suffix_makes_them_one_text_letter_for_letter(form: str):
    tokenizer = tokenizer_of(form)
    config = RunConfig(data=DataConfig(length=64), model=ModelConfig(num_layers=1, width=8, num_heads=1))
    lm = random_lm(tokenizer, config)
    with served(lm) as client:
        for prompt, suffix in (("The cat ", " mat."), ("un", "able"), ("", "The dog"), ("Is that so?  ", "  Yes!")):
            text, reason = both(client, prompt, suffix=suffix, max_tokens=4, min_tokens=4, seed=3)
            assert reason == "length"
            own = lm.infill(f"{prompt}[MASK:4]{suffix}", seed=[seed_of_choice()])
            assert prompt + text + suffix == own.text
        given = len(lm.tokenizer.encode("un")) + len(lm.encode_template("[MASK]able")[1])  # type: ignore[arg-type]
        usage = client.complete("un", suffix="able", max_tokens=4, min_tokens=4).json["usage"]
        assert usage["prompt_tokens"] == given  # nothing is put between them, or before
        assert usage["completion_tokens"] == 4


def seed_of_choice() -> int:
    from mdlm_atat.samplers.seeds import mix_seed

    return mix_seed(mix_seed(3, 0), 0)


def test_marks_of_gaps_and_backslashes_in_a_prompt_are_text():
    lm = random_lm(ByteTokenizer(), RunConfig(data=DataConfig(length=64), model=ModelConfig(width=12)))
    with served(lm) as client:
        echoed = client.complete("a [MASK] \\[MASK:3] ", suffix="[MASK]", max_tokens=2, min_tokens=2, echo=True).json
        written = client.complete("a [MASK] \\n", max_tokens=2, echo=True).json
    assert echoed["choices"][0]["text"].startswith("a [MASK] \\[MASK:3] ")
    assert written["choices"][0]["text"].startswith("a [MASK] \\n")


def test_a_completion_before_a_suffix_may_be_shorter_than_asked_for_and_says_so(client: Client):
    found = client.complete("a bad ", suffix=" face", max_tokens=8, seed=1)
    assert found.status == 200
    (choice,), size = found.json["choices"], found.json["usage"]["completion_tokens"]
    assert size in (1, 2, 4, 8)
    assert len(choice["text"]) <= size
    assert choice["finish_reason"] == ("length" if size == 8 else "stop")
    stopped = client.complete("a bad ", suffix=" face", max_tokens=8, min_tokens=8, seed=1, stop=["a", "b", "e", " "])
    assert not set("abe ") & set(stopped.json["choices"][0]["text"])


@pytest.mark.parametrize(
    ("least", "most", "lengths"),
    [
        (1, 1, [1]),
        (1, 16, [1, 2, 4, 8, 16]),
        (5, 5, [5]),
        (3, 20, [3, 5, 10, 20]),
        (1, 1000, [1, 3, 7, 15, 31, 62, 125, 250, 500, 1000]),
    ],
)
def test_lengths_that_are_compared_are_halves(least: int, most: int, lengths: list[int]):
    assert gap_lengths(least, most) == lengths


def test_several_prompts_and_choices_are_numbered_and_each_has_its_own_seed(client: Client, lm: MaskedDiffusionLM):
    body: dict[str, Any] = {"n": 2, "max_tokens": 6, "seed": 4}
    whole = client.complete(["a bad ", "face"], **body).json
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2, 3]
    texts = [choice["text"] for choice in whole["choices"]]
    assert len(set(texts)) == 4
    assert whole["usage"] == {"prompt_tokens": 10, "completion_tokens": 24, "total_tokens": 34}
    chunks = [data for _, data in client.complete(["a bad ", "face"], stream=True, **body).events][:-1]
    for index, text in enumerate(texts):
        own = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert "".join(choice["text"] for choice in own) == text
        assert own[-1]["finish_reason"] == whole["choices"][index]["finish_reason"]
    assert client.complete(["a bad ", "face"], **body).json["choices"] == whole["choices"]


def test_a_text_that_the_model_ends_says_stop():
    tokenizer = CharTokenizer("abc")
    lm = causal_by_heart("abcabc", tokenizer)
    assert tokenizer.eos_id is not None
    table = lm.network(torch.zeros(1, 6, dtype=torch.int64))[0].clone()
    table[3] = 0
    table[3, tokenizer.eos_id] = 99
    lm.network = lambda x: table[: x.shape[1]].expand(len(x), -1, -1)
    with served(lm) as client:
        assert both(client, "", max_tokens=6, temperature=0) == ("abc", "stop")


def test_defaults_are_those_of_openai():
    with served(causal_by_heart("ab" * 20, CharTokenizer("ab"))) as client:
        found = client.complete("a").json
        assert found["usage"] == {"prompt_tokens": 1, "completion_tokens": 16, "total_tokens": 17}
        assert [choice["finish_reason"] for choice in found["choices"]] == ["length"]
        assert found["choices"][0]["logprobs"] is None
        assert client.complete().json["usage"]["prompt_tokens"] == 0
