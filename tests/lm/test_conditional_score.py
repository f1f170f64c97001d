"""lm.score(texts, given=contexts): -log p(text | context); and in any order without one."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mdlm_atat import CausalLM, MaskedDiffusionLM, UserError
from mdlm_atat.cli.main import main
from mdlm_atat.data.tokenizers import ByteTokenizer, CharTokenizer
from mdlm_atat.lm.continuations import in_own_order, split, windows
from mdlm_atat.samplers.canvas import Canvas
from mdlm_atat.samplers.seeds import context_seed, mix_seed
from mdlm_atat.scoring.continuation import Continuation, Masks, bound
from mdlm_atat.scoring.draws import DrawSettings
from toys import CausalTable, Joint

LETTERS = CharTokenizer("abc")  # and eos: 4 tokens, [MASK] is 4
DRAWS = DrawSettings(num_draws=32)


class Table(torch.nn.Module):
    """Logits that depend on all that is visible, and are nobody's conditionals."""

    def __init__(self, vocab: int = 4, length: int = 12, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.by_place = torch.randn(length, vocab + 1, length, vocab, generator=generator, dtype=torch.float64)

    def forward(self, z_t: Tensor, t: Tensor) -> Tensor:
        del t
        seen = self.by_place[torch.arange(z_t.shape[1]), z_t]  # (B, L, length, V)
        return seen.sum(1)[:, : z_t.shape[1]].tanh() * 2

    def nll(self, tokens: list[int], masked: set[int]) -> dict[int, float]:
        """-log p of each masked place."""
        z_t = torch.tensor([[4 if place in masked else token for place, token in enumerate(tokens)]])
        log_probs = self(z_t, torch.zeros(1))[0].log_softmax(-1)
        return {place: -log_probs[place, tokens[place]].item() for place in masked}


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture
def lm(table: Table) -> MaskedDiffusionLM:
    return MaskedDiffusionLM(table, LETTERS, max_length=12)


def by_enumeration(table: Table, context: str, text: str) -> float:
    tokens, c, k = LETTERS.encode(context + text), len(context), len(text)
    total = 0.0
    for n in range(1, k + 1):
        subsets = [set(each) for each in itertools.combinations(range(c, c + k), n)]
        total += sum(sum(table.nll(tokens, masked).values()) for masked in subsets) / len(subsets) / n
    return total


@pytest.mark.parametrize("context", [None, "", "aca"])
def test_one_token_is_exact_and_two_are_the_mean_of_both_orders(
    lm: MaskedDiffusionLM, table: Table, context: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, num_given = len(context or ""), None if context is None else len(context)
    tokens = LETTERS.encode((context or "") + "bc")
    alone = table.nll(tokens[:-1], {start})[start]
    a_given_b, b_given_a = table.nll(tokens, {start})[start], table.nll(tokens, {start + 1})[start + 1]
    both = sum(table.nll(tokens, {start, start + 1}).values())
    rows: list[int] = []
    forward = table.forward
    monkeypatch.setattr(table, "forward", lambda z_t, t: rows.append(len(z_t)) or forward(z_t, t))
    one = lm.score("b", given=context)
    assert one.nats == pytest.approx(alone, abs=1e-9)
    assert (one.is_exact, one.standard_error, one.num_tokens, one.num_given, one.num_draws) == (
        True,
        0,
        1,
        num_given,
        1,
    )
    assert repr(one).startswith("Score(any order: exactly ")
    assert rows == [1]
    two = lm.score("bc", given=context)
    assert two.nats == pytest.approx((a_given_b + b_given_a + both) / 2, abs=1e-9)
    assert (two.is_exact, two.standard_error, two.num_given, two.num_draws) == (False, 0, num_given, 3)
    assert two.interval95 == (two.nats, two.nats)
    assert repr(two).startswith("Score(any order: at most ")
    assert repr(two).endswith(f" nats, 2 tokens{'' if context is None else f' after {start}'}, 3 draws)")
    assert sum(rows) == 1 + 3


@pytest.mark.parametrize("context", [None, "ab"])
def test_no_more_masks_than_draws_are_all_taken_and_more_are_drawn_without_bias(
    lm: MaskedDiffusionLM, table: Table, context: str | None
) -> None:
    text = "cabbac"
    exact = by_enumeration(table, context or "", text)
    assert lm.score(text, given=context, num_draws=64).nats == pytest.approx(exact, abs=1e-9)  # 63 masks
    drawn = [lm.score(text, given=context, num_draws=48, seed=seed) for seed in range(24)]
    assert {score.num_draws for score in drawn} == {48}
    mean = sum(score.nats for score in drawn) / 24
    error = math.sqrt(sum((score.nats - mean) ** 2 for score in drawn) / (23 * 24))
    assert abs(mean - exact) < 3.5 * error
    said = math.sqrt(sum(score.standard_error**2 for score in drawn) / 24)
    assert 0.6 < said / (error * math.sqrt(24)) < 1.6
    assert {score.degrees for score in drawn} == {2}


def test_a_text_of_more_tokens_than_the_model_reads_is_cut_into_pieces_and_drawn(table: Table) -> None:
    narrow = MaskedDiffusionLM(table, LETTERS, max_length=4)
    score = narrow.score("abcab")
    assert (score.num_tokens, score.num_draws, score.is_exact) == (5, 128, False)
    assert score.standard_error > 0


def test_a_denoiser_that_knows_the_joint_pays_its_conditional_in_every_order() -> None:
    joint = Joint.random(length=4, vocab=4, total=960)
    masked = MaskedDiffusionLM(lambda z_t, t: joint.denoise(z_t, t), LETTERS, max_length=4)
    causal = CausalLM(lambda x: CausalTable(joint)(x), LETTERS, max_length=4)
    chosen = joint.sequences[joint.counts > 0][:40]
    texts = [LETTERS.decode(row) for row in chosen.tolist() if 3 not in row][:6]
    for text in texts:
        row = torch.tensor(LETTERS.encode(text))
        same_start = (joint.sequences[:, :1] == row[:1]).all(1)
        probability = joint.probs[(joint.sequences == row).all(1)] / joint.probs[same_start].sum()
        nats = -probability.log().item()
        assert masked.score(text[1:], given=text[0]).nats == pytest.approx(nats, abs=1e-6)
        exact = causal.score(text[1:], given=text[0])
        assert (exact.nats, exact.is_exact) == (pytest.approx(nats, abs=1e-6), True)
        assert masked.score(text[1:], given=text[0], order="spread:num_steps=none,tokens_a_step=1").is_exact
    assert len(texts) >= 3


@pytest.mark.parametrize("order", ["left_to_right", "uncertainty:num_steps=none", "threshold"])
def test_the_probabilities_of_all_16_endings_of_2_tokens_sum_to_1_in_a_samplers_own_order(
    lm: MaskedDiffusionLM, order: str
) -> None:
    parts = [Continuation([0, 2, 1], pair) for pair in itertools.product(range(4), repeat=2)]
    costs = in_own_order(lm, parts, lm.order_rule(order), DRAWS)
    assert sum(math.exp(-cost.nats) for cost in costs) == pytest.approx(1, abs=1e-9)


def test_masks_fall_on_the_answer_whatever_the_context_holds(lm: MaskedDiffusionLM, table: Table) -> None:
    context = [0, 4, 4, 1]  # with the id of [MASK]
    (cost,) = bound(lm.denoise, [Continuation(context, [2])], draws=DRAWS, mask_id=4)
    log_probs = table(torch.tensor([[0, 4, 4, 1, 4]]), torch.zeros(1))[0, 4].log_softmax(-1)
    assert cost.nats == pytest.approx(-log_probs[2].item(), abs=1e-9)


SCORED_BY = {
    "masked": [None, "any", "left_to_right", "spread", "first_hitting", "documents"],
    "adaptive": [None, "spread", "first_hitting"],
    "causal": [None, "left_to_right"],
}


@pytest.mark.parametrize(("model", "order"), [(name, order) for name in SCORED_BY for order in SCORED_BY[name]])
def test_a_score_is_the_same_in_any_company_order_and_batch(
    model: str, order: str | None, request: pytest.FixtureRequest
) -> None:
    lm = request.getfixturevalue(model)
    contexts = ["the cat", "the cat", "a dog sat on", "", "to see if"]
    texts = [" sat on", " sat", " a", "the old", " you can"]
    num_draws = 3 if order == "first_hitting" else 32
    together = lm.score(texts, given=contexts, order=order, num_draws=num_draws, batch_size=5)
    backwards = lm.score(texts[::-1], given=contexts[::-1], order=order, num_draws=num_draws, batch_size=1)[::-1]
    for score, other in zip(together, backwards, strict=True):
        assert score.nats == pytest.approx(other.nats, abs=1e-4)
    alone = lm.score(texts[2], given=contexts[2], order=order, num_draws=num_draws)
    assert alone.nats == pytest.approx(together[2].nats, abs=1e-4)


@pytest.mark.parametrize("given", [None, "ca"])
def test_draws_that_are_made_together_cost_what_each_costs_alone_by_its_seed(
    lm: MaskedDiffusionLM, table: Table, given: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    forward = table.forward
    monkeypatch.setattr(table, "forward", lambda z_t, t: rows.append(len(z_t)) or forward(z_t, t))
    texts = ["abcab", "bacca", "ab" * 8]  # the last one is longer than the model, and is alone in its lengths
    scores = lm.score(texts, given=given, order="first_hitting", num_draws=6, seed=5, batch_size=8)
    assert max(rows) == 8
    assert scores == lm.score(texts, given=given, order="first_hitting", num_draws=6, seed=5, batch_size=1)
    tokens, context = torch.tensor([LETTERS.encode((given or "") + texts[1])]), len(given or "")
    seed = 5 if given is None else context_seed(5, given)
    canvas = Canvas(tokens, torch.arange(tokens.shape[1])[None] < context)
    alone = []
    for draw in range(6):
        of_draw = mix_seed(seed, draw)
        seeds = [mix_seed(of_draw, 0) if given is None else of_draw]  # that of its first piece
        alone.append(lm.nll_revealed_by(canvas, tokens, "first_hitting", seed=seeds)[0].item())
    assert scores[1].nats == pytest.approx(sum(alone) / 6, abs=1e-9)
    assert scores[1].standard_error == pytest.approx(torch.tensor(alone).std().item() / 6**0.5, rel=1e-5)


def test_left_to_right_the_chain_rule_holds_and_matches_the_score_of_the_whole(causal: CausalLM) -> None:
    whole, begin = causal.score("the cat sat on"), causal.score("the cat")
    assert causal.score(" sat on", given="the cat").nats == pytest.approx(whole.nats - begin.nats, abs=1e-4)
    assert causal.score("the cat sat on", given="").nats == pytest.approx(whole.nats, abs=1e-4)
    one, two = causal.score(["the", "a"], given="")
    assert one.nats == pytest.approx(causal.score("the").nats, abs=1e-4)
    assert two.num_given == 0


def test_without_a_context_the_bound_is_that_of_the_text_alone(masked: MaskedDiffusionLM) -> None:
    after_nothing = masked.score("the cat sat on a", given="", num_draws=512)
    alone = masked.score("the cat sat on a", num_draws=512)
    assert abs(after_nothing.nats - alone.nats) < 4 * math.hypot(after_nothing.standard_error, alone.standard_error)


def test_choices_of_one_question_have_their_random_numbers_in_common(masked: MaskedDiffusionLM) -> None:
    first, longer, other = Masks.draw(9, 4, seed=1), Masks.draw(9, 4, seed=1), Masks.draw(9, 4, seed=2)
    assert first.is_masked.equal(longer.is_masked)
    assert not first.is_masked.equal(other.is_masked)
    texts = ["sat on a mat", "sat on a man"]
    differences, errors = [], []
    for seed in range(16):
        one, two = masked.score(texts, given="a", num_draws=32, seed=seed)
        differences.append(one.nats - two.nats)
        errors.append(math.hypot(one.standard_error, two.standard_error))
    spread = torch.tensor(differences).std().item()
    assert spread < 0.7 * sum(errors) / len(errors)  # of independent masks it is 1


class Words(ByteTokenizer):
    """Merges that cross the seam: "Ans" and "wer" are tokens, and "Answer" is one too."""

    pieces = ("Answer", "Ans", "wer", " x", "A:", "x", " ", "?")
    vocab_size = mask_id = len(pieces)

    def encode(self, text: str) -> list[int]:
        found = []
        while text:
            piece = next((piece for piece in self.pieces if text.startswith(piece)), None)
            if piece is None:
                raise UserError("unknown")
            found.append(self.pieces.index(piece))
            text = text[len(piece) :]
        return found

    def decode(self, ids: Any, *_: Any, **__: Any) -> str:
        return "".join(self.pieces[token] for token in ids)

    def read(self, ids: list[int]) -> str:
        return "|".join(self.pieces[token] for token in ids)


@pytest.mark.parametrize(
    ("context", "text", "expected"),
    [
        ("Ans", "wer", ("Ans", "wer")),  # a token would span the seam
        ("A:", " x", ("A:", " x")),
        ("A: ", "x", ("A:", " x")),  # the space goes to the text
        ("A:  ", "x", ("A:", " | x")),
        ("", "Answer", ("", "Answer")),
        (" ", "x", ("", " x")),
        ("Answer", "?", ("Answer", "?")),
    ],
)
def test_the_seam_is_where_the_harness_puts_it_and_there_is_always_a_token_to_score(
    context: str, text: str, expected: tuple[str, str]
) -> None:
    tokenizer = Words()
    given, tokens = split(tokenizer, context, text)
    assert (tokenizer.read(given), tokenizer.read(tokens)) == expected


@pytest.mark.parametrize(
    ("num_given", "num_tokens"), [(0, 5), (3, 5), (20, 5), (4, 8), (0, 30), (5, 30), (9, 17), (0, 9)]
)
@pytest.mark.parametrize("overlap", [1, 4])
def test_in_windows_every_token_is_scored_once_with_the_context_that_there_is_room_for(
    num_given: int, num_tokens: int, overlap: int
) -> None:
    given, tokens = list(range(100, 100 + num_given)), list(range(num_tokens))
    found = windows(given, tokens, 8, overlap=overlap, seed=3)
    assert [token for part in found.parts for token in part.tokens] == tokens
    assert found.num_tokens == num_tokens
    assert all(part.length <= 8 for part in found.parts)
    everything = given + tokens
    for part in found.parts:
        start = everything.index(part.tokens[0])
        assert everything[start - len(part.given) : start] == list(part.given)
        assert len(part.given) >= min(start, overlap) or part is found.parts[0]
    assert found.num_given + found.num_cut == num_given
    if num_given + num_tokens > 8:  # the last one has as much as fits
        assert found.parts[-1].length == 8
    assert len({part.seed for part in found.parts}) == len(found.parts)


def test_a_context_longer_than_the_model_is_cut_from_the_left_and_the_result_says_so(causal: CausalLM) -> None:
    context = "the old man was kind and ran to the"  # the model reads 16 tokens
    score = causal.score(" mat", given=context)
    assert (score.num_given, score.num_cut) == (12, len(context) - 12)
    assert "4 tokens after 12, 23 before them cut off" in repr(score)
    assert score.nats == pytest.approx(causal.score(" mat", given=context[-12:]).nats, abs=1e-5)
    long = causal.score("a cat sat on a mat and ran to see", given="the dog and ")
    assert (long.num_tokens, long.num_cut) == (len("a cat sat on a mat and ran to see") + 1, 3)


def test_a_wrong_context_is_refused(masked: MaskedDiffusionLM, causal: CausalLM) -> None:
    with pytest.raises(UserError, match="`given=` has 2 contexts for 3 texts"):
        masked.score(["a", "b", "c"], given=["a", "b"])
    with pytest.raises(TypeError, match="given: expected a str or a sequence of str, got int"):
        masked.score("a", given=3)  # pyright: ignore[reportCallIssue, reportArgumentType]
    with pytest.raises(UserError, match="text 2 is empty: there is nothing to score"):
        masked.score(["a", ""], given="the ")
    with pytest.raises(UserError, match="16 draws are too few"):
        masked.score("the cat", given="a", num_draws=16)
    with pytest.raises(UserError, match="reads left to right only"):
        causal.score("a", given="a", order="any")
    assert masked.score([], given="a") == []
    assert causal.score([], given=[]) == []


def test_the_command_scores_each_text_after_the_context_and_says_what_was_cut(
    runs: Path, causal: CausalLM, capsys: pytest.CaptureFixture[str]
) -> None:
    context = "the old man was kind and ran to\\nthe"
    arguments = ["score", str(runs / "causal"), " mat", " old", "--given", context, "--escape"]
    assert main([*arguments, "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    nats = causal.score([" mat", " old"], given=context.replace("\\n", "\n"))
    assert [lines[1], lines[4]] == [
        f"left to right   exactly {score.nats:.2f} nats: {score.nats / 4:.3f} per token (4), "
        f"{score.nats / 4:.3f} per character (4)"
        for score in nats
    ]
    assert lines[2] == "the model saw the last 12 tokens of the context, and not the 23 before them"
