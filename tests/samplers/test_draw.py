import pytest
import torch

from mdlm_atat.errors import UserError
from mdlm_atat.samplers.canvas import Canvas
from mdlm_atat.samplers.draw import TokenDraw


def test_a_token_of_probability_1e_9_among_50257_is_drawn_exactly_on_its_interval():
    vocab, rare = 50_257, 40_000
    probs = torch.full((vocab,), (1 - 1e-9) / (vocab - 1), dtype=torch.float64)
    probs[rare] = 1e-9
    logits = probs.log()[None].expand(4, -1)
    start = probs[:rare].sum().item()
    uniform = torch.tensor([start - 1e-10, start + 1e-10, start + 9e-10, start + 1.1e-9], dtype=torch.float64)
    assert TokenDraw()(logits, uniform).tolist() == [rare - 1, rare, rare, rare + 1]


def test_the_float32_gumbel_trick_would_never_draw_a_token_of_probability_1e_9():
    # what the float64 draw is there for: the largest float32 Gumbel number is 16.6, the rare token needs 20.7 more
    largest_uniform = torch.tensor(1 - 2**-24)
    largest_gumbel = -torch.log(-torch.log(largest_uniform))
    assert largest_gumbel < 16.7
    assert largest_gumbel + torch.log(torch.tensor(1e-9)) < -torch.log(-torch.log(torch.tensor(1e-1)))


def test_draws_follow_the_softmax_of_the_logits():
    logits = torch.tensor([[0.0, 1.0, 2.0, -torch.inf]])
    uniform = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    counts = TokenDraw()(logits.expand(100_000, -1), uniform).bincount(minlength=4)
    torch.testing.assert_close(counts / 100_000, logits[0].softmax(-1), rtol=0, atol=2e-5)


def test_temperature_0_takes_the_most_likely_token_for_any_uniform():
    logits = torch.tensor([[0.0, 3.0, 2.9]]).expand(3, -1)
    uniform = torch.tensor([0.0, 0.5, 1 - 1e-16], dtype=torch.float64)
    assert TokenDraw(temperature=0)(logits, uniform).tolist() == [1, 1, 1]


def test_temperature_2_halves_the_logits():
    logits = torch.tensor([[0.0, 2.0]])
    torch.testing.assert_close(TokenDraw(temperature=2).probabilities(logits), (logits / 2).double().softmax(-1))


def test_top_k_2_keeps_the_two_likeliest_tokens():
    probs = TokenDraw(top_k=2).probabilities(torch.tensor([[0.1, 0.4, 0.3, 0.2]]).log())
    torch.testing.assert_close(probs, torch.tensor([[0.0, 4 / 7, 3 / 7, 0.0]], dtype=torch.float64), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("top_p", "kept"), [(0.39, 1), (0.41, 2), (0.69, 2), (0.71, 3), (1.0, 4)])
def test_top_p_keeps_the_fewest_tokens_that_reach_it(top_p, kept):
    probs = TokenDraw(top_p=top_p).probabilities(torch.tensor([[0.1, 0.4, 0.3, 0.2]]).log())
    assert int((probs > 0).sum()) == kept
    assert probs.sum().item() == pytest.approx(1)


@pytest.mark.parametrize(("name", "value"), [("temperature", -0.1), ("top_k", -1), ("top_p", 0.0), ("top_p", 1.1)])
def test_an_impossible_setting_says_its_name_and_value(name, value):
    with pytest.raises(UserError, match=f"{name} is {value}"):
        TokenDraw(**{name: value})


def test_a_prompt_longer_than_the_text_is_refused_with_both_lengths():
    with pytest.raises(UserError, match="prompt 2 has 5 tokens, but the text to generate has 4"):
        Canvas.with_prefixes([[1], [1, 2, 3, 4, 5]], length=4, mask_id=9)
