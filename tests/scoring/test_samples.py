import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from mdlm_atat.data.tokenizers import ByteTokenizer, CharTokenizer
from mdlm_atat.errors import UserError
from mdlm_atat.nets.causal_transformer import CausalTransformer
from mdlm_atat.scoring.judge import CausalJudge
from mdlm_atat.scoring.quality import HowSampled, SamplePoint
from mdlm_atat.scoring.samples import Quality, RealTexts, cautions, real_texts
from toys import ListRows

LETTERS = CharTokenizer("abcdefgh")  # and eos: 9 ids
VALID = ListRows(np.random.default_rng(0).integers(0, 8, size=(40, 12)), np.array([12] * 38 + [5, 3]))


def uniform_judge() -> CausalJudge:
    return CausalJudge("uniform", lambda x: torch.zeros(*x.shape, 9, dtype=torch.float64), LETTERS, 16)


def copy_judge() -> CausalJudge:
    return CausalJudge("copy", lambda x: torch.nn.functional.one_hot(x, 9) * 1e4, LETTERS, 16)


def network_judge() -> CausalJudge:
    torch.manual_seed(0)
    model = CausalTransformer(9, 16, num_layers=1, width=16, num_heads=2).eval()
    return CausalJudge("network", model, LETTERS, 16)


def quality(judge, real: RealTexts | None = None) -> Quality:
    real = real or real_texts(VALID, 10, 12, seed=0)
    return Quality(judge, real, decode=LETTERS.decode, fingerprint=LETTERS.fingerprint())


def test_real_texts_are_whole_different_pieces_of_the_length_asked_for():
    found = real_texts(VALID, 10, 12, seed=0)
    assert [len(found.reference), len(found.held_back)] == [10, 10]
    rows = [tuple(row) for row in found.reference + found.held_back]
    assert len(set(rows)) == 20
    assert set(rows) <= {tuple(row) for row in VALID.ids[:38].tolist()}
    assert real_texts(VALID, 10, 12, seed=0) == found != real_texts(VALID, 10, 12, seed=1)
    assert {len(row) for row in real_texts(VALID, 10, 7, seed=0).reference} == {7}


def test_a_short_validation_text_holds_nothing_back_and_one_piece_is_refused():
    found = real_texts(VALID, 38, 12, seed=0)
    assert [len(found.reference), len(found.held_back)] == [38, 0]
    with pytest.raises(UserError, match="has 0 pieces of 13 tokens"):
        real_texts(VALID, 4, 13, seed=0)


def test_a_uniform_judge_gives_v_and_a_copying_judge_1_for_samples_and_real_text_alike():
    samples = [[0, 1, 2, 3], [4, 5, 6, 8]]
    plain = CausalJudge("uniform", uniform_judge().model, LETTERS, 16)
    for judge, perplexity in ((plain, 9), (copy_judge(), 1)):
        judge.model.hidden = lambda x: torch.zeros(*x.shape, 4)  # pyright: ignore[reportFunctionMemberAccess]
        measure = quality(judge)
        assert measure(samples).judge_perplexity == pytest.approx(perplexity, abs=1e-9)
        assert measure.of_real_text().judge_perplexity == pytest.approx(perplexity, abs=1e-9)


def test_without_a_judge_there_is_entropy_and_repetition_and_nothing_that_a_judge_says():
    found = quality(None)([[0, 1, 0, 1], [2, 2, 2, 2]])
    assert found.entropy_nats == pytest.approx(math.log(2) / 2)
    assert found.distinct_1 == 3 / 8
    assert (found.judge_nats, found.judge_perplexity, found.mauve) == (None, None, None)


def test_mauve_of_the_reference_itself_is_1_and_other_real_text_is_put_beside():
    measure = quality(network_judge())
    same = measure(measure.real.reference)
    assert same.mauve == pytest.approx(1, abs=1e-9)
    real = measure.of_real_text()
    assert real.mauve is not None
    assert 0 < real.mauve < 1
    assert real.mauve == measure(measure.real.held_back).mauve
    assert real.judge_nats == same.judge_nats


def test_a_judge_with_the_same_tokenizer_reads_the_tokens_and_another_the_text():
    rows = [[0, 1, 2, 8], [3, 8, 8, 8]]  # eos is no text
    by_token = network_judge().score_rows(rows).nats_per_token()[0]
    assert quality(network_judge())(rows).judge_nats == pytest.approx(by_token)
    torch.manual_seed(0)
    bytes_model = CausalTransformer(257, 16, num_layers=1, width=16, num_heads=2).eval()
    by_text = CausalJudge("bytes", bytes_model, ByteTokenizer(), 16)
    assert quality(by_text)(rows).judge_nats == pytest.approx(by_text(["abc", "d"]).nats_per_token()[0])


POINT = SamplePoint(
    how=HowSampled("spread"),
    nfe_mean=64,
    num_samples=5000,
    num_tokens=5000 * 1024,
    entropy_nats=4.0,
    entropy_error=0.02,
    repetition=0.01,
    repetition_error=0.001,
    judge_nats=3.5,
    judge_error=0.02,
    mauve=0.9,
)
REAL = replace(POINT, judge_nats=3.4)


def told(length: int = 1024, same_text: bool = False, temperature: float = 1.0, **changed) -> list[str]:
    point = replace(POINT, how=HowSampled("spread", temperature=temperature), **changed)
    point = replace(point, num_tokens=point.num_samples * length)
    return cautions(point, REAL, judge_saw_training_text=same_text)


def test_there_is_nothing_to_warn_of_where_5000_long_varied_texts_meet_a_strange_judge():
    assert told() == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"entropy_nats": 3.9}, "entropy is 0.10 nats below validation text's: dull text is cheap to a judge"),
        ({"entropy_nats": 3.0, "judge_nats": 2.0}, "cheaper than real text; its generative perplexity says nothing"),
        ({"repetition": 0.2}, "20.0% of 4-grams repeat an earlier one of their text, 1.0% in validation text"),
        ({"temperature": 0.8}, "at temperature 0.8 these are no samples of the model's own distribution"),
        ({"num_samples": 64, "mauve": 0.9}, "64 texts are few"),
        ({"num_samples": 500}, "MAUVE of 500 texts is noisy"),
        ({"length": 64}, "texts of 64 tokens are short"),
        ({"same_text": True}, "the judge was trained on the same text"),
    ],
)
def test_each_way_to_mislead_has_its_sentence(changed, message):
    assert any(message in sentence for sentence in told(**changed))


def test_a_difference_within_two_errors_is_not_warned_of():
    assert told(entropy_nats=3.95) == []
    assert told(repetition=0.012) == []
    assert told(entropy_nats=4.5) == []
    assert told(entropy_error=math.nan, repetition_error=math.nan) == []  # of a single text
