"""Texts over the interface are those of the library, whatever else is asked for at the same time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from serving import Client, Slow, causal_by_heart, served

from lm.made_models import lm_that_knows, random_lm, two_way_lm
from lm.made_tokenizers import KINDS, tokenizer_of
from mdlm_atat import CausalLM, MaskedDiffusionLM
from mdlm_atat.config.schema import DataConfig, ModelConfig, RunConfig
from mdlm_atat.data.tokenizers import ByteTokenizer, CharTokenizer, HFTokenizer
from mdlm_atat.lm.filling import Filling
from mdlm_atat.lm.results import Pick

LETTERS = "abcdefgh ."
TEMPLATE = "a bad[MASK:3] face.[MASK] [MASK:2]e"


def by_heart(text: str) -> MaskedDiffusionLM:
    return lm_that_knows(text, ByteTokenizer(), RunConfig())


@pytest.mark.parametrize("how", [{}, {"sampler": "first_hitting", "steps": 3}, {"temperature": 0.5, "top_k": 3}])
def test_a_seed_gives_the_texts_of_the_library(how: dict[str, Any], lm: MaskedDiffusionLM, client: Client):
    found = client.infill(TEMPLATE, seed=7, num_samples=3, **how).json
    texts = lm.infill(TEMPLATE, seed=7, alternatives=3, **how)
    assert [result["text"] for result in found["results"]] == [text.text for text in texts]
    assert [result["nats"] for result in found["results"]] == pytest.approx([text.nats_left_to_right for text in texts])
    assert [result["fillings"] for result in found["results"]] == [text.fillings for text in texts]
    assert [int(result["seed"]) for result in found["results"]] == [text.seed for text in texts]
    written = client.generate("a bad ", seed=7, num_samples=3, max_tokens=9, **how).json
    prompts = ["a bad "] * 3
    assert [each["text"] for each in written["results"]] == [
        text.text for text in lm.generate(prompts, seed=7, max_new_tokens=9, **how)
    ]


@pytest.mark.parametrize("pick", ["likeliest", "fair"])
def test_the_best_of_ten_candidates_are_those_of_the_library(lm: MaskedDiffusionLM, client: Client, pick: Pick):
    found = client.infill(TEMPLATE, seed=1, num_samples=2, candidates=10, pick=pick).json
    best = lm.infill(TEMPLATE, seed=1, alternatives=2, candidates=10, pick=pick)
    assert [result["text"] for result in found["results"]] == [text.text for text in best]
    nats = [result["nats"] for result in found["results"]]
    assert nats == sorted(nats) or pick == "fair"


def test_lengths_are_chosen_as_the_library_does(lm: MaskedDiffusionLM, client: Client):
    found = client.infill("a bad[MASK:1-3] face", seed=1, length_draws=4).json["results"][0]
    text = lm.infill("a bad[MASK:1-3] face", seed=1, length_draws=4)
    assert (found["text"], found["lengths"]) == (text.text, list(text.lengths))
    assert found["settled"] is text.length_costs.is_settled  # type: ignore[union-attr]


def test_twelve_requests_at_once_share_batches_and_each_gets_the_text_that_it_gets_alone(
    lm: MaskedDiffusionLM, client: Client, monkeypatch: pytest.MonkeyPatch
):
    requests = [(f"{'abcdef'[number % 6]} bad [MASK:9]e{'.' * (number % 2)}", number) for number in range(12)]
    alone = [client.infill(text, seed=seed).json["results"][0] for text, seed in requests]
    sizes: list[int] = []
    begin = Filling.__init__

    def counted(self: Any, lm: Any, rows: Any, how: Any, seeds: Any) -> None:
        sizes.append(len(rows))
        begin(self, lm, rows, how, seeds)

    monkeypatch.setattr(Filling, "__init__", counted)
    may_go = client.hold()
    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(client.infill, text, seed=seed) for text, seed in requests]
        client.wait_until(lambda: client.worker.num_queued == 12)
        may_go.set()
        together = [each.result().json["results"][0] for each in asked]
    assert sizes == [6, 6]  # of two lengths
    assert [each["text"] for each in together] == [each["text"] for each in alone]
    shown = [[token["text"] for token in each["pieces"][1]["tokens"]] for each in together]
    assert shown == [[token["text"] for token in each["pieces"][1]["tokens"]] for each in alone]


def test_prompts_of_all_lengths_are_written_on_together_left_to_right_and_short_ones_do_not_wait(
    lm: MaskedDiffusionLM, client: Client
):
    prompts = [("a", 30), ("bad face", 5), ("", 20), ("ace be", 1)]
    alone = [client.generate(prompt, seed=3, max_tokens=size).json["results"][0] for prompt, size in prompts]
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(client.generate, prompt, seed=3, max_tokens=size) for prompt, size in prompts]
        together = [each.result().json["results"][0] for each in asked]
    assert [each["text"] for each in together] == [each["text"] for each in alone]
    assert [each["nfe"] for each in together] == [30, 5, 20, 1]


def test_a_stream_shows_the_text_as_given_each_step_and_the_result(lm: MaskedDiffusionLM, client: Client):
    how: dict[str, Any] = {"sampler": "uncertainty", "steps": 3}
    events = client.infill("[MASK:3] a[MASK:3]b", seed=5, stream=True, **how).events
    names = [name for name, _ in events if name != "queued"]
    assert names == ["start", "frame", "frame", "frame", "frame", "result", "end"]
    start, *frames, result, end = [data for name, data in events if name != "queued"]
    assert start == {"seed": 5, "num_steps": 3}
    assert end == {}
    assert [frame["step"] for frame in frames] == [0, 1, 2, 3]
    expected = list(lm.stream("[MASK:3] a[MASK:3]b", seed=5, **how))
    for frame, own in zip(frames, expected, strict=True):
        assert "".join(piece["text"] for piece in frame["pieces"]) == own.text
        assert [piece["gap"] for piece in frame["pieces"]] == [0, None, 1, None]
        tokens = [token for piece in frame["pieces"] for token in piece["tokens"]]
        is_new = [own.is_new[place] for gap in own.row.gaps for place in range(gap.start, gap.stop)]  # type: ignore[union-attr]
        assert [token["state"] == "new" for token in tokens] == is_new
        assert [token["confidence"] is None for token in tokens] == [token["state"] == "hidden" for token in tokens]
    assert [token["text"] for piece in frames[0]["pieces"] for token in piece["tokens"]] == ["░"] * 6
    (made,) = result["results"]
    assert made["text"] == expected[-1].text == lm.infill("[MASK:3] a[MASK:3]b", seed=5, **how).text
    assert sorted(token["step"] for piece in made["pieces"] for token in piece["tokens"]) == [1, 2, 2, 2, 3, 3]


@pytest.mark.parametrize("sampler", ["left_to_right", "spread"])
@pytest.mark.parametrize(("stop", "kept"), [("wn f", "The quick bro"), ("🌍", "The quick brown fox "), ("T", "")])
def test_no_frame_shows_a_stop_string_and_the_last_frame_is_the_result(sampler: str, stop: str, kept: str):
    text = "The quick brown fox 🌍 jumps"
    with served(by_heart(text)) as client:
        how: dict[str, Any] = {"max_tokens": len(text.encode()), "sampler": sampler, "temperature": 0, "stop": [stop]}
        events = client.generate("", stream=True, **how).events
    result = next(data for name, data in events if name == "result")["results"][0]
    frames = [data["pieces"][0] for name, data in events if name == "frame"]
    assert result["text"] == frames[-1]["text"] == "".join(token["text"] for token in frames[-1]["tokens"]) == kept
    assert not any(stop in frame["text"].partition("░")[0] for frame in frames)


def test_the_streamed_text_is_named_among_the_ranked_ones(client: Client):
    events = client.infill("[MASK:3] a[MASK:3]b", seed=5, num_samples=6, stream=True).events
    watched = next(data for name, data in events if name == "result")["watched"]
    results = next(data for name, data in events if name == "result")["results"]
    frames = [data for name, data in events if name == "frame"]
    assert "".join(piece["text"] for piece in frames[-1]["pieces"]) == results[watched]["text"]


def test_long_texts_have_at_most_256_frames_and_the_first_and_last_of_them(lm: MaskedDiffusionLM):
    tokenizer = CharTokenizer("ab")
    with served(causal_by_heart("ab" * 150, tokenizer)) as client:
        events = client.generate("", max_tokens=300, seed=1, stream=True).events
    steps = [data["step"] for name, data in events if name == "frame"]
    assert steps[0] == 0
    assert steps[-1] == 300
    assert 2 < len(steps) <= 257  # a slow reader gets fewer


@pytest.mark.parametrize("form", KINDS)
def test_the_pieces_and_tokens_of_a_result_are_its_text_letter_for_letter(form: str):
    tokenizer = tokenizer_of(form)
    config = RunConfig(data=DataConfig(length=64), model=ModelConfig(num_layers=1, width=8, num_heads=1))

    lm = random_lm(tokenizer, config)
    with served(lm) as client:
        for template in ("The cat[MASK:4] mat, un[MASK:2]able", "[MASK:5]", "Is that [MASK:2][MASK:3] so? "):
            answer = client.infill(template, seed=4, num_samples=2, importance=True)
            assert answer.status == 200, answer.body
            for result, text in zip(answer.json["results"], lm.infill(template, seed=4, alternatives=2), strict=True):
                assert result["text"] == text.text
                assert "".join(piece["text"] for piece in result["pieces"]) == text.text
                for piece in result["pieces"]:
                    if not piece["given"]:
                        assert "".join(token["text"] for token in piece["tokens"]) == piece["text"]
                assert [piece["text"] for piece in result["pieces"] if not piece["given"]] == text.fillings


def test_a_character_of_four_bytes_is_shown_whole_or_not_at_all():
    text = "你🌍, naïve\n\n✅"
    lm = by_heart(text)
    for sampler in ("left_to_right", "first_hitting", "spread"):
        with served(lm) as client:
            answer = client.generate("", max_tokens=len(text.encode()), sampler=sampler, temperature=0, stream=True)
        assert "ufffd" not in answer.body.decode()
        assert answer.body.isascii()
        frames = [data for name, data in answer.events if name == "frame"]
        result = next(data for name, data in answer.events if name == "result")["results"][0]
        assert result["text"] == text
        tokens = [token["text"] for token in result["pieces"][0]["tokens"]]
        assert "".join(tokens) == text
        assert tokens[:7] == ["", "", "你", "", "", "", "🌍"]
        for frame in frames:
            assert "".join(token["text"] for token in frame["pieces"][0]["tokens"]) == frame["pieces"][0]["text"]


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([0x7C, 0xFF], "\ufffd\ufffd"),
        ([0x7C, 0xE5, 0xA4, 0xA9], "|天"),
        ([0xE5, 0xA4], "\ufffd\ufffd"),
        ([0x0A, 0xF0, 0x9F], "\ufffd\ufffd\ufffd"),
    ],
)
def test_the_last_frame_of_bytes_is_the_result_whether_they_are_characters_or_not(numbers: list[int], text: str):
    tokenizer = tokenizer_of("SentencePiece BPE")
    assert isinstance(tokenizer, HFTokenizer)
    wanted = torch.tensor([tokenizer.inner.token_to_id(f"<0x{number:02X}>") for number in numbers])
    table = 99.0 * torch.nn.functional.one_hot(wanted, tokenizer.vocab_size)
    lm = CausalLM(lambda x: table[: x.shape[1]].expand(len(x), -1, -1), tokenizer, max_length=len(table))
    with served(lm) as client:
        events = client.generate("", max_tokens=len(numbers), seed=1, stream=True).events
    result = next(data for name, data in events if name == "result")["results"][0]
    frames = [data["pieces"][0] for name, data in events if name == "frame"]
    assert result["text"] == frames[-1]["text"] == text
    for piece in (result["pieces"][0], *frames):
        assert "".join(token["text"] for token in piece["tokens"]) == piece["text"]
    assert not any("\ufffd" in frame["text"] for frame in frames[:-1])


def test_importance_is_returned_where_it_is_asked_for_and_known(adaptive: MaskedDiffusionLM, client: Client):
    with served(adaptive) as knowing:
        answer = knowing.infill("the [MASK:3] sat", seed=1, importance=True, stream=True)
        text = adaptive.infill("the [MASK:3] sat", seed=1, return_trace=True)
    result = next(data for name, data in answer.events if name == "result")["results"][0]
    found = [token["importance"] for piece in result["pieces"] for token in piece["tokens"]]
    assert text.trace is not None
    assert text.trace.importance is not None
    assert found == pytest.approx(text.trace.importance.tolist(), abs=1e-4)
    assert "".join(token["text"] for piece in result["pieces"] for token in piece["tokens"]) == text.text
    hidden = next(data for name, data in answer.events if name == "frame")["pieces"][1]["tokens"]
    assert all(0 <= token["importance"] <= 1 for token in hidden)
    unknown = client.infill("a[MASK]", importance=True).json["results"][0]["pieces"][1]["tokens"]
    assert [token["importance"] for token in unknown] == [None]


def test_what_the_model_reads_as_something_else_is_said_to_the_client_alone(
    capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
):
    lm = random_word_pieces()
    with served(lm) as client:
        found = client.infill("The 龘 sat[MASK:2]").json
    assert len(found["warnings"]) == 1
    assert "'龘' (U+9F98) as '[UNK]'" in found["warnings"][0]
    assert "龘" not in "".join(capsys.readouterr())
    assert not [warning for warning in recwarn if "龘" in str(warning.message)]


def random_word_pieces() -> MaskedDiffusionLM:

    config = RunConfig(data=DataConfig(length=64), model=ModelConfig(num_layers=1, width=8, num_heads=1))
    return random_lm(tokenizer_of("WordPiece, cased"), config)


def test_scores_are_those_of_the_library(lm: MaskedDiffusionLM, client: Client):
    for order, num_draws in ((None, 2), ("any", 64), ("spread", 2), ("first_hitting", 3)):
        given = {"texts": ["a bad face.", "bead"], "num_draws": num_draws}
        found = client.post("/v1/score", given if order is None else {**given, "order": order}).json["scores"]
        scores = lm.score(["a bad face.", "bead"], order=order, num_draws=num_draws)
        assert [each["nats"] for each in found] == pytest.approx([score.nats for score in scores], rel=1e-6)
        assert [each["is_exact"] for each in found] == [score.is_exact for score in scores]
        assert [each["num_tokens"] for each in found] == [11, 4]
        assert [each["likelihood"] for each in found] == [score.likelihood for score in scores]
    (after,) = client.post("/v1/score", {"texts": [" face"], "given": "a bad"}).json["scores"]
    assert after["nats"] == pytest.approx(lm.score(" face", given="a bad").nats, rel=1e-6)


def test_a_causal_model_writes_and_refuses_to_fill(causal: CausalLM):
    with served(causal) as client:
        assert client.get("/v1/model").json["defaults"]["infill"] is None
        written = client.generate("the cat", seed=2, max_tokens=8).json["results"][0]["text"]
        assert written == causal.generate("the cat", seed=2, max_new_tokens=8).text
        refused = client.infill("the [MASK] sat")
        assert (refused.status, refused.mistake["type"]) == (400, "invalid_request")
        assert "a causal model cannot infill" in refused.mistake["message"]
        assert client.complete("the", suffix=" sat").status == 400


def test_a_default_continuation_ends_with_the_model(lm: MaskedDiffusionLM, client: Client):
    found = client.generate("a bad face").json["results"][0]
    assert found["lengths"] == [48 - len("a bad face")]


def test_a_slow_model_still_answers_what_is_next_to_it():
    slow = Slow(two_way_lm(letters=LETTERS, length=16), 0.05)
    with served(slow.lm) as client, ThreadPoolExecutor(2) as pool:
        running = pool.submit(client.infill, "a[MASK:8]b", sampler="left_to_right")
        client.wait_until(lambda: client.worker.num_active == 1)
        assert client.get("/v1/model").status == 200
        assert client.get("/health").json["active"] == 1
        assert not running.done()
        assert running.result().status == 200
