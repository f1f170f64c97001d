"""How models and their results look in a terminal and a notebook, and that they can be moved and copied."""

from __future__ import annotations

import copy
import pickle
import re

import pytest
import torch

from mdlm_atat import Canvas, MaskedDiffusionLM
from mdlm_atat.data.tokenizers import ByteTokenizer, CharTokenizer
from mdlm_atat.lm import Frame, Generated, Infilled, Score


def test_a_model_says_what_it_is_in_one_line(masked, causal):
    assert re.fullmatch(
        r"MaskedDiffusionLM\(ATATDiT; [\d,]+ parameters; char tokenizer of 23, length 16; cpu, float32; "
        r".*masked at step 150\)",
        repr(masked),
    )
    assert repr(causal).startswith("CausalLM(CausalTransformer; ")
    bare = MaskedDiffusionLM(lambda z_t, _: torch.zeros(*z_t.shape, 4), CharTokenizer("abc"), max_length=8)
    assert repr(bare) == "MaskedDiffusionLM(function; char tokenizer of 4, length 8; cpu, float32)"


def test_results_are_short_to_look_at_and_print_as_their_text():
    text = Generated("a" * 100, [1] * 100, seed=7, nfe=16)
    assert repr(text) == f"Generated('{'a' * 57}...', 100 tokens, 16 evaluations, seed 7)"
    assert str(text) == f"{text}" == "a" * 100
    way = Infilled("a b c", [1, 2, 3], 7, 2, spans=((2, 3),), lengths=(1,))
    assert repr(way) == "Infilled('a b c', gaps ['b'], 3 tokens, 2 evaluations, seed 7)"
    assert repr(Frame(3, [1, 2], "a░")) == "Frame(step 3, 'a░')"
    bound = Score(12.345, 0.101, 18, 128)
    assert repr(bound) == "Score(any order: at most 12.35 ± 0.10 nats, 18 tokens, 128 draws)"
    exact = Score(12.345, 0.0, 18, 1, "left to right", is_exact=True)
    assert repr(exact) == "Score(left to right: exactly 12.35 nats, 18 tokens)"


def test_a_trace_says_its_steps(masked):
    trace = masked.generate(sampler="first_hitting", return_trace=True).trace
    assert re.fullmatch(r"TextTrace\(16 tokens in 16 steps, [\d.]+ nats\)", repr(trace))


def test_spans_are_where_the_model_wrote(masked):
    made = masked.generate(["the cat", ""], seed=1)
    assert [text.spans for text in made] == [((7, 16),), ((0, 16),)]
    way = masked.infill("the [MASK:3] on [MASK:2]", seed=1)
    assert [way.text[start:stop] for start, stop in way.spans] == way.gaps
    assert way.spans == ((4, 7), (11, 13))


def test_spans_stay_within_a_text_whose_bytes_are_no_characters():
    half = -(torch.arange(257.0) - 0xE2).abs()  # the likeliest byte everywhere begins a character of three
    lm = MaskedDiffusionLM(lambda z_t, _: half.expand(*z_t.shape, -1), ByteTokenizer(), max_length=8)
    way = lm.infill("ab[MASK:3]c", temperature=0)
    assert way.tokens == [*b"ab", 0xE2, 0xE2, 0xE2, *b"c"]
    assert way.text == "ab\ufffd\ufffd\ufffdc"
    assert way.spans == ((2, 5),)
    cut = lm.infill("ab[MASK:1]é", temperature=0)  # é is two bytes: half of it is no character
    assert all(2 <= start <= stop <= len(cut.text) for start, stop in cut.spans)


def test_html_of_a_text_is_escaped_with_what_was_given_bold_and_gaps_highlighted():
    evil = "<script>alert(1)</script>&"
    text = Generated(evil + "so", [1], 7, 1, spans=((len(evil), len(evil) + 2),))._repr_html_()
    assert "<script>" not in text
    assert '<span style="font-weight: bold">&lt;script&gt;alert(1)&lt;/script&gt;&amp;</span>so' in text
    assert "1 tokens, 1 evaluations, seed 7" in text
    way = Infilled("a <b> c", [1], 7, 1, spans=((2, 5),))._repr_html_()
    assert re.search(r'a <span style="background: [^"]*">&lt;b&gt;</span> c', way)
    frame = Frame(3, [1, 2, 3], "<░░&")._repr_html_()
    assert '&lt;<span style="opacity: 0.5">░░</span>&amp;' in frame
    assert "step 3" in frame


def test_html_of_generated_texts_and_frames_holds_the_text(masked):
    prompt = "the cat"
    assert f'<span style="font-weight: bold">{prompt}</span>' in masked.generate(prompt)._repr_html_()
    first, *_, last = masked.stream(prompt, sampler="first_hitting")
    assert "░" * 9 in first._repr_html_()
    assert "░" not in last._repr_html_()
    canvas = masked.prompt_canvas([prompt])
    assert masked.fill(canvas)[0]._repr_html_().count("<span") == 0  # nobody knows where the prompt's text ended


@pytest.mark.parametrize("make", [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))])
def test_models_and_results_are_copied_and_pickled_whole(masked, adaptive, causal, make):
    for lm in (masked, adaptive, causal):
        again = make(lm)
        text = again.generate("the", seed=3, return_trace=True)
        assert text == lm.generate("the", seed=3)
        assert again.network is not lm.network
        assert again._hidden.__self__ is again  # it asks its own network
        assert make(text) == text
        assert repr(again) == repr(lm)
    assert make(masked.infill("a [MASK] b")) == masked.infill("a [MASK] b")
    assert make(masked.score("a b", num_draws=32)) == masked.score("a b", num_draws=32)


def test_a_model_moves_to_a_device_and_is_returned(masked):
    lm = copy.deepcopy(masked)
    assert lm.to("cpu") is lm
    assert lm.generate("a") == masked.generate("a")
    there = lm.to("meta")
    assert {weight.device.type for weight in there.network.parameters()} == {"meta"}
    assert there.device == torch.device("meta")


def test_a_canvas_of_the_packages_root_is_filled(masked):
    canvas = Canvas.with_prefixes([[1, 2]], 6, masked.tokenizer.mask_id)
    assert masked.fill(canvas)[0].tokens[:2] == [1, 2]
