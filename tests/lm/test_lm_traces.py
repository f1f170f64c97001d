"""Traces: how a text came about, checked against its frames and against the network itself."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from mdlm_atat import MaskedDiffusionLM
from mdlm_atat.lm import Generated, TextTrace

SAMPLERS = ["ancestral:num_steps=8", "first_hitting", "uncertainty:num_steps=4", "threshold", "left_to_right"]


def trace_of(text: Generated) -> TextTrace:
    assert text.trace is not None
    return text.trace


def set_by(trace: TextTrace, step: int) -> np.ndarray:
    """Which positions got the token that stayed in this step."""
    return trace.revealed_at_step == step


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("length", [16, 40])
def test_the_frames_go_from_the_canvas_to_the_text_a_position_at_its_step(masked, sampler, length):
    mask_id = masked.tokenizer.mask_id
    for text in masked.generate(["the cat", "", "a"], length=length, seed=2, sampler=sampler, return_trace=True):
        trace = trace_of(text)
        num_steps = len(trace.frames) - 1
        assert trace.frames[0].tolist() == [
            token if fixed else mask_id for token, fixed in zip(text.tokens, trace.fixed, strict=True)
        ]
        assert trace.frames[-1].tolist() == text.tokens
        assert len(trace.entropy) == num_steps
        assert trace.revealed_at_step.max() == num_steps  # cut at its own end, whatever the others of the batch took
        assert ((trace.revealed_at_step == 0) == trace.fixed).all()
        assert (np.isnan(trace.confidence) == trace.fixed).all()
        assert (trace.num_remasked == 0).all()
        for step in range(1, num_steps + 1):
            before, after = trace.frames[step - 1], trace.frames[step]
            assert ((before != after) == set_by(trace, step)).all()
            assert np.isfinite(trace.entropy[step - 1]) == set_by(trace, step).any()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_confidence_is_the_probability_that_the_network_gives_the_token_in_that_frame(masked, sampler):
    """Teacher forcing: every frame is shown to the whole network again."""
    for text in masked.generate(["the ", ""], seed=4, sampler=sampler, return_trace=True):
        trace = trace_of(text)
        for step in range(1, len(trace.frames)):
            probs = probabilities(masked, trace.frames[step - 1])  # (L, V)
            here = set_by(trace, step)
            expected = probs[np.arange(16), text.tokens][here]
            assert trace.confidence[here] == pytest.approx(expected, rel=1e-4)
            if here.any():
                entropy = -(probs * np.log(probs)).sum(1)[here].mean()
                assert trace.entropy[step - 1] == pytest.approx(entropy, rel=1e-4)
        assert trace.nats == pytest.approx(-np.log(trace.confidence[~trace.fixed]).sum(), rel=1e-9)


def probabilities(lm: MaskedDiffusionLM, frame: np.ndarray) -> np.ndarray:
    z_t = torch.from_numpy(frame)[None]
    with torch.no_grad():
        logits = lm.network(z_t, (z_t == lm.tokenizer.mask_id).float().mean(1))[0]
    return logits.double().softmax(-1).numpy()


def test_a_row_that_ends_after_2_steps_has_2_frames_more_than_none_beside_one_of_16(masked):
    prompts = ["the cat sat on", "", "the cat sat on a"]
    short, long, done = masked.generate(prompts, sampler="first_hitting", return_trace=True)
    assert [len(trace_of(text).frames) for text in (short, long)] == [3, 17]
    assert trace_of(done).frames.tolist() == [done.tokens, done.tokens]  # nothing happened in its one step
    assert done.nfe == 0
    assert trace_of(done).nats == 0
    (alone,) = masked.generate(prompts[:1], sampler="first_hitting", return_trace=True)
    assert trace_of(alone).frames.tolist() == trace_of(short).frames.tolist()
    assert trace_of(alone).confidence[14:] == pytest.approx(trace_of(short).confidence[14:], rel=1e-5)


def test_tokens_taken_back_are_counted_and_the_last_confidence_is_that_of_the_token_that_stayed(masked):
    mask_id = masked.tokenizer.mask_id
    (text,) = masked.generate(["the "], seed=1, sampler="remask:strategy=rescale,eta=0.5", steps=32, return_trace=True)
    trace = trace_of(text)
    taken_back = (trace.frames[:-1] != mask_id) & (trace.frames[1:] == mask_id)
    assert taken_back.sum(0).tolist() == trace.num_remasked.tolist()
    assert trace.num_remasked.sum() > 3
    assert (trace.num_remasked[trace.fixed] == 0).all()
    for position in np.flatnonzero(~trace.fixed):
        step = trace.revealed_at_step[position]
        assert trace.frames[step - 1, position] == mask_id
        assert (trace.frames[step:, position] == text.tokens[position]).all()
    # what was drawn and taken back again has cost something too
    assert trace.nats > -np.log(trace.confidence[~trace.fixed]).sum()


@pytest.mark.parametrize("sampler", ["remask:num_steps=8", "follow_rates:num_steps=8", "first_hitting"])
def test_json_of_a_trace_comes_back_with_null_for_what_is_no_number(adaptive, sampler):
    texts = adaptive.generate(["the cat", ""], length=40, seed=1, sampler=sampler, return_trace=True)
    for text in texts:
        trace = trace_of(text)
        again = json.loads(json.dumps(trace.to_json(), allow_nan=False))
        assert again["frames"] == trace.frames.tolist()
        assert again["fixed"] == trace.fixed.tolist()
        assert again["revealed_at_step"] == trace.revealed_at_step.tolist()
        assert [value is None for value in again["confidence"]] == np.isnan(trace.confidence).tolist()
        known = [value for value in again["confidence"] if value is not None]
        assert known == pytest.approx(trace.confidence[~trace.fixed].tolist(), rel=1e-5)
        assert [value is None for value in again["entropy"]] == np.isnan(trace.entropy).tolist()
        assert again["nats"] == trace.nats
        assert math.isfinite(again["elapsed_s"])


def test_importance_from_0_to_1_of_every_token_is_in_the_traces_of_a_model_that_knows_it(adaptive, masked):
    for length in (16, 40):
        one, other = adaptive.generate(["the ", "a"], length=length, seed=1, return_trace=True, steps=4)
        for text in (one, other):
            importance = trace_of(text).importance
            assert importance is not None
            assert importance.shape == (length,)
            assert ((importance >= 0) & (importance <= 1)).all()
            assert importance.std() > 0
        assert trace_of(masked.generate([""], length=length, return_trace=True)[0]).importance is None


def test_a_text_has_no_trace_unless_asked_and_is_the_same_text(masked):
    (plain,), (traced,) = (masked.generate(["a"], return_trace=wanted) for wanted in (False, True))
    assert plain.trace is None
    assert traced == plain
    ways = masked.infill(["the [MASK:4]", "[MASK:2] cat"], alternatives=2, return_trace=True)
    for way in (way for group in ways for way in group):
        assert trace_of(way).frames[-1].tolist() == way.tokens
        assert trace_of(way).fixed.sum() == len(way.tokens) - sum(way.lengths)
