"""lm.generate, lm.fill and lm.stream with every sampler, on trained models."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from made_models import random_lm
from torch import Tensor

from mdlm_atat import CausalLM, MaskedDiffusionLM, UserError
from mdlm_atat.core.denoiser import AtMaskRate, Prediction
from mdlm_atat.core.strategies.rates import Clean
from mdlm_atat.lm import Generated, How
from mdlm_atat.samplers import loop
from mdlm_atat.samplers.blocks import Blocks
from mdlm_atat.samplers.canvas import Canvas
from mdlm_atat.samplers.catalogue import PRESETS, RULES
from mdlm_atat.samplers.first_hitting import FirstHitting
from mdlm_atat.samplers.follow_rates import FollowRates
from mdlm_atat.samplers.loop import sample
from mdlm_atat.samplers.named import options_of, rule_class
from mdlm_atat.samplers.seeds import mix_seed

PROMPTS = ["the cat", "a", ""]
SAMPLERS = [*RULES, *PRESETS]
BEFOREHAND = ("ancestral", "first_hitting", "left_to_right")  # they decide the order without the network
BY_RATES = ("follow_rates", "rate_hitting")
WITHOUT_RATES = [name for name in SAMPLERS if name not in BY_RATES]
LENGTHS = (16, 28)  # the models' length, and more


@pytest.fixture(scope="module")
def opinionated(adaptive) -> MaskedDiffusionLM:
    """Of weights so large that no two positions are alike, with rates and importance."""
    return random_lm(adaptive.tokenizer, adaptive.config, adaptive.counts)


def settings(sampler: str | None) -> dict[str, Any]:
    """A sampler with 4 steps, where it has steps: for quick tests. None: the model's own, as it is."""
    if sampler is None:
        return {}
    name = PRESETS.get(sampler, sampler).partition(":")[0]
    has_steps = "num_steps" in options_of(rule_class(name))
    return {"sampler": sampler, "steps": 4 if has_steps else None}


def assert_sound(
    lm: MaskedDiffusionLM | CausalLM, made: list[Generated], prompts: list[str], length: int, **how: Any
) -> None:
    canvas = lm.prompt_canvas(prompts, length)
    rule = lm.rule(How(**how), canvas)
    for text, prompt, num_to_fill in zip(made, prompts, (~canvas.fixed).sum(1).tolist(), strict=True):
        assert text.text.startswith(prompt)
        assert len(text.tokens) == length
        assert lm.tokenizer.mask_id not in text.tokens
        assert 1 <= text.nfe <= rule.max_nfe(num_to_fill)


@pytest.mark.parametrize("loss_on", ["answers", "all"])
def test_rates_by_place_count_as_in_training_from_the_answer_or_from_the_rows_start(masked, loss_on):
    """An answer of 6 behind a prompt of 10 is revealed as fast as a text of 6, where answers were learned; else as the
    last 6 of 16. In blocks too, of which the first ends within the answer."""
    data = replace(masked.config.data, mode="pad", column="messages", loss_on=loss_on)
    by_place = replace(masked.config.masking, strategy="position", position="slope")
    lm = random_lm(masked.tokenizer, replace(masked.config, data=data, masking=by_place))
    masking, told = lm.own_schedule(), []
    assert masking is not None

    def speeds(denoise: Any) -> Any:
        def ask(z_t: Tensor, t: Tensor, rate: Tensor, to_fill: Tensor) -> Prediction:
            found = denoise.ask(z_t, t, rate, to_fill)
            told.append((rate, found.speed))
            return found

        return AtMaskRate(ask)

    rule, canvas = FollowRates(num_steps=3), Canvas.with_prefixes([[1] * 10], 16, lm.tokenizer.mask_id)
    for each in (rule, Blocks(inner=rule, size=13, window=16)):
        told.clear()
        sample(speeds(lm.denoiser(each)), canvas, each, mask_id=lm.tokenizer.mask_id, seeds=[0])
        assert len(told) >= 3
        for rate, speed in told:
            places = torch.ones(1, 6 if loss_on == "answers" else 16, dtype=torch.bool)
            expected = masking(rate.double(), Clean(places)).speed[:, -6:]
            torch.testing.assert_close(speed[:, -6:], expected)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("sampler", WITHOUT_RATES)
def test_every_sampler_keeps_3_prompts_and_fills_the_rest_within_its_evaluations(masked, sampler, length):
    how = settings(sampler)
    assert_sound(masked, masked.generate(PROMPTS, length=length, seed=3, **how), PROMPTS, length, **how)


@pytest.mark.parametrize("sampler", [*BY_RATES, "ancestral", "left_to_right", "uncertainty"])
def test_samplers_by_rates_and_one_of_each_other_kind_fill_3_prompts_of_a_model_of_adaptive_masks(adaptive, sampler):
    how = settings(sampler)
    assert_sound(adaptive, adaptive.generate(PROMPTS, length=40, seed=3, **how), PROMPTS, 40, **how)


# of each kind one: that a row is the same alone holds for every rule in tests/samplers/test_properties.py
@pytest.mark.parametrize("sampler", [None, *BEFOREHAND, *BY_RATES, "confidence", "remask", "uncertainty"])
def test_of_3_texts_in_3_blocks_each_is_the_same_alone(opinionated, sampler):
    """Not of an empty prompt where the network is asked for the order: with nothing but masks to see, it says the same
    of every position, and rounding decides between them."""
    how: dict[str, Any] = {"length": 24, "block_size": 8, **settings(sampler)}
    prompts = ["the cat", "a", "" if sampler in BEFOREHAND else "of"]
    made = opinionated.generate(prompts, seed=3, **how)
    for i, prompt in enumerate(prompts):
        assert opinionated.generate(prompt, seed=[mix_seed(3, i)], **how) == made[i]


@pytest.mark.parametrize("how", [{}, {"length": 40}, {"block_size": 12}])
def test_a_text_with_2_tokens_to_fill_takes_the_same_steps_beside_one_with_15(opinionated, how):
    prompts = ["the cat sat on", "a"]
    beside = opinionated.generate(prompts, seed=3, **how)
    assert beside == [opinionated.generate(text, seed=[mix_seed(3, i)], **how) for i, text in enumerate(prompts)]


@pytest.mark.parametrize("block_size", [None, 3, 16])
def test_a_causal_model_takes_one_evaluation_a_token_through_blocks_too(causal, block_size):
    for length in LENGTHS:
        made = causal.generate(PROMPTS, length=length, block_size=block_size, seed=3)
        assert [text.nfe for text in made] == [length - len(prompt) for prompt in PROMPTS]
        assert_sound(causal, made, PROMPTS, length, block_size=block_size)
        assert made[1] == causal.generate("a", length=length, block_size=block_size, seed=[mix_seed(3, 1)])


@pytest.mark.parametrize("sampler", [name for name in RULES if settings(name)["steps"]])
def test_4_steps_are_at_most_4_evaluations_and_8_in_two_blocks(adaptive, sampler):
    assert 1 <= adaptive.generate([""], sampler=sampler, steps=4)[0].nfe <= 4
    assert 4 < adaptive.generate([""], sampler=sampler, steps=4, block_size=8)[0].nfe <= 8


def test_a_prompt_of_20_tokens_is_gone_on_with_by_a_model_of_16(masked, causal):
    prompt = "the cat sat on a mat"
    for lm in (masked, causal):
        made = lm.generate(prompt, length=30, seed=1)
        assert made.text.startswith(prompt)
        assert len(made.tokens) == 30
    with pytest.raises(UserError, match="has 20 tokens, but the text to generate has 16"):
        masked.generate([prompt])


def test_no_prompts_are_0_texts(masked):
    assert masked.generate([]) == []
    assert masked.infill([]) == []


def test_a_trained_models_texts_cost_another_model_less_than_their_letters_shuffled(masked, causal):
    """By 0.16 to 0.38 nats a letter, with five seeds; models of 2 steps by at most 0.03."""
    texts = [text.text for text in masked.generate([""] * 128, sampler="first_hitting", seed=0)]
    shuffled = ["".join(random.Random(0).sample(text, len(text))) for text in texts]
    cost, cost_shuffled = (sum(score.nats for score in causal.score(part)) / (128 * 16) for part in (texts, shuffled))
    assert cost < cost_shuffled - 0.1


def test_a_trained_causal_model_writes_words_of_its_text_more_often_than_not(causal):
    """At random, 1 of 600 would be one."""
    known = {"the", "cat", "dog", "sat", "mat", "and", "ran", "see", "you", "can", "old", "man", "was"}
    texts = causal.generate([""] * 32, seed=0)
    found = [word for text in texts for word in text.text.split()[1:-1] if len(word) == 3]
    assert sum(word in known for word in found) > len(found) / 2 > 10


def test_a_rule_of_ones_own_is_used_and_takes_neither_steps_nor_a_temperature(masked):
    own = FirstHitting(num_steps=4)
    by_name = masked.generate(["a"], sampler="first_hitting", steps=4, seed=2)
    assert masked.generate(["a"], sampler=own, seed=2) == by_name
    for how in ({"steps": 4}, {"temperature": 0.5}, {"top_k": 2}, {"top_p": 0.5}):
        with pytest.raises(UserError, match="has its steps and its draw"):
            masked.generate(["a"], sampler=own, **how)


def test_a_causal_model_refuses_what_it_cannot_do_and_a_plain_one_rates(causal, masked):
    with pytest.raises(UserError, match="left to right only"):
        causal.generate([""], sampler="uncertainty")
    with pytest.raises(UserError, match="no number of steps to choose"):
        causal.generate([""], steps=4)
    with pytest.raises(UserError, match="cannot infill"):
        causal.infill(["a [MASK] b"])
    for sampler in BY_RATES:
        with pytest.raises(UserError, match="predicts no rates"):
            masked.generate([""], sampler=sampler)


WRONG = {
    "steps is 0": ({"steps": 0}, "steps is 0, expected at least 1"),
    "steps is -1": ({"steps": -1}, "steps is -1"),
    "top_p is 0": ({"top_p": 0}, "top_p is 0"),
    "top_p is 1.1": ({"top_p": 1.1}, "top_p is 1.1"),
    "length is 0": ({"length": 0}, "length is 0"),
    "length is -1": ({"length": -1}, "length is -1"),
    "block of 0": ({"block_size": 0}, "block_size is 0, expected at least 1"),
    "block of 17": ({"block_size": 17}, "block_size is 17, expected from 1 to 16"),
    "unknown sampler": ({"sampler": "hittting"}, "unknown sampler"),
    "importance that is not known": ({"sampler": "uncertainty:score=importance_entropy"}, "knows importance"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_setting_is_refused_by_its_name(masked, case):
    how, message = WRONG[case]
    with pytest.raises(UserError, match=message):
        masked.generate([""], **how)


def test_locks_at_any_position_stay_and_every_row_has_its_seed(masked):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, masked.tokenizer.vocab_size, (4, LENGTHS[1]), generator=generator)
    fixed = torch.rand(4, LENGTHS[1], generator=generator) < 0.3
    for length in LENGTHS:
        canvas = Canvas(tokens[:, :length], fixed[:, :length])
        made = masked.fill(canvas, seed=[7, 5, 7, 9], sampler="uncertainty", return_trace=True)
        for row, text in enumerate(made):
            filled = torch.tensor(text.tokens)
            assert filled[canvas.fixed[row]].equal(canvas.tokens[row][canvas.fixed[row]])
            assert masked.tokenizer.mask_id not in text.tokens
            assert text.seed == [7, 5, 7, 9][row]
            one = Canvas(canvas.tokens[row : row + 1], canvas.fixed[row : row + 1])
            assert masked.fill(one, seed=[text.seed], sampler="uncertainty") == [text]


@pytest.mark.parametrize("token", [-1, 23, 24])
def test_a_mask_or_an_unknown_token_cannot_be_fixed(masked, token):
    assert masked.tokenizer.mask_id == 23
    with pytest.raises(UserError, match=r"from 0 to 22; \[MASK\] cannot be fixed"):
        masked.fill(Canvas(torch.tensor([[1, token, 2]]), torch.tensor([[True, True, False]])))
    (made,) = masked.fill(Canvas(torch.tensor([[1, token, 2]]), torch.tensor([[True, False, False]])))  # free: any
    assert made.tokens[0] == 1


@pytest.mark.parametrize(
    ("sampler", "length"),
    [("first_hitting", 16), ("uncertainty", 16), (None, 24), ("ancestral", 40), ("follow_rates:num_steps=8", 40)],
)
def test_a_stream_begins_as_given_never_takes_back_and_ends_in_the_generated_text(adaptive, sampler, length):
    mask_id = adaptive.tokenizer.mask_id
    frames = list(adaptive.stream("the cat", length=length, seed=5, sampler=sampler))
    assert frames[0].tokens == [*adaptive.tokenizer.encode("the cat"), *[mask_id] * (length - 7)]
    assert frames[0].text == "the cat" + "░" * (length - 7)
    assert [frame.step for frame in frames] == list(range(len(frames)))
    for before, after in pairwise(frames):
        assert all(b in (a, mask_id) for b, a in zip(before.tokens, after.tokens, strict=True))
    made = adaptive.generate("the cat", length=length, seed=5, sampler=sampler)
    assert (frames[-1].tokens, frames[-1].text) == (made.tokens, made.text)


def test_a_stream_of_a_template_is_its_infilling_and_one_that_remasks_takes_back(masked):
    mask_id = masked.tokenizer.mask_id
    how = {"seed": 5, "sampler": "remask:strategy=rescale,eta=0.5", "steps": 32}
    frames = list(masked.stream("the [MASK:7] on", **how))
    assert frames[0].text == "the ░░░░░░░ on"
    assert frames[-1].tokens == masked.infill("the [MASK:7] on", **how).tokens
    num_masks = [frame.tokens.count(mask_id) for frame in frames]
    assert any(after > before for before, after in pairwise(num_masks))


def test_a_stream_can_be_left_after_2_frames_and_asks_the_network_no_more(masked, monkeypatch):
    asked = []
    hidden = masked.network.hidden
    monkeypatch.setattr(masked.network, "hidden", lambda z_t, t: asked.append(1) or hidden(z_t, t))
    stream = masked.stream("", sampler="first_hitting")
    assert [next(stream).step, next(stream).step] == [0, 1]
    stream.close()
    assert len(asked) == 1


def test_on_step_sees_every_canvas_from_the_given_one_on(masked):
    seen: list[tuple[int, int]] = []
    mask_id = masked.tokenizer.mask_id

    def on_step(step: int, z_t: torch.Tensor) -> None:
        seen.append((step, int((z_t == mask_id).sum())))

    masked.generate(["the ", ""], sampler="first_hitting", on_step=on_step)
    assert [step for step, _ in seen] == list(range(17))
    assert seen[0][1] == 28
    assert seen[-1][1] == 0


@pytest.mark.parametrize("sampler", ["left_to_right:stop_at_eos=true", "spread", "remask"])
def test_progress_goes_from_0_to_all_that_is_to_be_written_of_texts_of_two_lengths(
    causal, masked, sampler, monkeypatch
):
    monkeypatch.setattr(loop, "LOOK_INTERVAL_S", 0.0)
    lm = causal if sampler.startswith("left") else masked
    heard: list[tuple[int, int]] = []
    how: dict[str, Any] = {"sampler": sampler, "max_new_tokens": 9}
    made = lm.generate(["the cat", "a"], on_progress=lambda done, total: heard.append((done, total)), **how)
    assert heard[0] == (0, 18)
    assert heard[-1] == (18, 18)
    assert {total for _, total in heard} == {18}
    assert len({done for done, _ in heard}) > 4
    assert made == lm.generate(["the cat", "a"], **how)
    if sampler == "spread":  # which takes nothing back
        assert heard == sorted(heard)


def test_temperature_0_and_top_k_1_take_the_same_tokens_for_every_seed(masked):
    generate = partial(masked.generate, sampler="left_to_right")
    texts = {generate(seed=seed, **how).text for seed in (1, 2) for how in ({"temperature": 0}, {"top_k": 1})}
    assert len(texts) == 1
