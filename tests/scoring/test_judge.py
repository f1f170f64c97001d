import math
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from mdlm_atat.data.tokenizers import ByteTokenizer, CharTokenizer
from mdlm_atat.errors import UserError
from mdlm_atat.nets.causal_transformer import CausalTransformer
from mdlm_atat.scoring import judge as judge_module
from mdlm_atat.scoring.judge import CausalJudge, FeatureJudge, HubJudge, Judge, Judgement

LETTERS = CharTokenizer("abcdefgh")  # and eos: 9 ids
TEXTS = ["abcab", "", "h", "gfedcba", "aaaa"]
CONTROL = "<|endoftext|>"


def network(max_length: int = 16) -> CausalTransformer:
    torch.manual_seed(0)
    return CausalTransformer(9, max_length, num_layers=2, width=16, num_heads=2).eval()


def chain_rule(model: CausalTransformer, row: list[int]) -> float:
    """-log p(row), a token at a time: what follows a prefix is asked of a row that ends there."""
    nats = 0.0
    for end in range(len(row)):
        asked = torch.tensor([[*row[:end], 0]])
        nats -= model(asked)[0, -1].double().log_softmax(-1)[row[end]].item()
    return nats


def test_the_cost_of_a_text_is_the_chain_rule_over_each_of_its_tokens():
    model = network()
    found = CausalJudge("ours", model, LETTERS, 16)(TEXTS)
    assert found.num_tokens.tolist() == [5, 0, 1, 7, 4]
    with torch.no_grad():
        expected = [chain_rule(model, LETTERS.encode(text)) for text in TEXTS]
    assert found.nats.dtype == torch.float64
    assert found.nats.tolist() == pytest.approx(expected, abs=1e-5)


def test_a_uniform_judge_gives_perplexity_v():
    judge = CausalJudge("uniform", lambda x: torch.zeros(*x.shape, 9, dtype=torch.float64), LETTERS, 4)
    found = judge(TEXTS)
    assert found.perplexity == pytest.approx(9, abs=1e-12)
    assert found.nats_per_token()[1] < 1e-12


def test_a_judge_that_knows_every_token_gives_perplexity_1():
    judge = CausalJudge("oracle", lambda x: torch.nn.functional.one_hot(x, 9) * 1e4, LETTERS, 4)
    assert judge(TEXTS).perplexity == 1


def test_batches_and_padding_do_not_change_a_judgement():
    model = network()
    at_once = CausalJudge("ours", model, LETTERS, 16, batch_size=5)(TEXTS)
    one_by_one = CausalJudge("ours", model, LETTERS, 16, batch_size=1)(TEXTS)
    torch.testing.assert_close(at_once.nats, one_by_one.nats, rtol=0, atol=1e-5)
    assert at_once.num_tokens.equal(one_by_one.num_tokens)


def test_a_text_of_10_tokens_is_judged_as_pieces_of_4_4_and_2():
    judge = CausalJudge("ours", network(max_length=4), LETTERS, 4)
    whole, pieces = judge(["abcdefghab"]), judge(["abcd", "efgh", "ab"])
    assert whole.num_tokens.tolist() == [10]
    assert whole.nats.item() == pytest.approx(pieces.nats.sum().item(), abs=1e-5)


def test_rows_are_judged_as_they_are_eos_and_all_and_masks_are_refused():
    judge = CausalJudge("ours", network(), LETTERS, 16)
    rows = [[0, 1, 8, 8], [7]]
    with torch.no_grad():
        expected = [chain_rule(judge.model, row) for row in rows]  # pyright: ignore[reportArgumentType]
    assert judge.score_rows(rows).nats.tolist() == pytest.approx(expected, abs=1e-5)
    with pytest.raises(UserError, match=r"id 9 cannot be judged: the tokenizer of ours has ids 0 \.\. 8"):
        judge.score_rows([[0, LETTERS.mask_id]])


def test_a_tokenizer_with_bytes_for_ids_is_judged_per_byte():
    judge = CausalJudge("uniform", lambda x: torch.zeros(*x.shape, 257), ByteTokenizer(), 8)
    assert judge(["é", "日本"]).num_tokens.tolist() == [2, 6]


def test_the_model_runs_inside_the_context_it_is_given():
    inside = []

    @contextmanager
    def autocast():
        inside.append(True)
        yield
        inside.append(False)

    def model(x):
        assert inside[-1]
        return torch.zeros(*x.shape, 9)

    CausalJudge("uniform", model, LETTERS, 4, batch_size=2, autocast=autocast)(["ab", "c", "d"])
    assert inside == [True, False, True, False]


def test_nats_per_token_is_a_ratio_of_sums_with_the_delta_methods_error():
    found = Judgement(torch.tensor([2.0, 30.0, 0.0], dtype=torch.float64), torch.tensor([1, 10, 0]))
    nats, error = found.nats_per_token()
    assert nats == pytest.approx(32 / 11)
    residuals = [2 - 32 / 11, 30 - 320 / 11, 0]
    assert error == pytest.approx(math.sqrt(sum(r**2 for r in residuals) / (3 * 2)) / (11 / 3))
    assert found.perplexity == pytest.approx(math.exp(32 / 11))
    assert Judgement(torch.tensor([1e4], dtype=torch.float64), torch.tensor([1])).perplexity == math.inf


@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_texts_of_0_tokens_cannot_be_judged(texts):
    with pytest.raises(UserError, match=f"nothing to judge: {len(texts)} texts"):
        CausalJudge("ours", network(), LETTERS, 16)(texts)


@pytest.fixture
def save(tmp_path):
    """Saves a tiny GPT-2 in the hub's format: a token a character, a context of 8, 9 tokens or, with bos, 10."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    def saved(*, bos: bool = True, zero: bool = False, model_class: str = "GPT2LMHeadModel", tokenizer: bool = True):
        inner = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate("abcdefgh|")}, unk_token="|"))
        inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
        control = {"bos_token": CONTROL, "eos_token": CONTROL} if bos else {}
        wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **control)
        torch.manual_seed(0)
        sizes = {"n_positions": 8, "n_embd": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.3}
        ends = {"bos_token_id": None, "eos_token_id": None}
        model = getattr(transformers, model_class)(transformers.GPT2Config(vocab_size=len(wrapped), **sizes, **ends))
        if zero:
            model.get_output_embeddings().weight.data.zero_()
        model.bfloat16().save_pretrained(tmp_path / "judge")
        if tokenizer:
            wrapped.save_pretrained(tmp_path / "judge")
        return str(tmp_path / "judge")

    return saved


@torch.no_grad()
def hub_chain_rule(judge: HubJudge, read: list[int], scored: list[int]) -> float:
    """-log p(scored | read), a token at a time."""
    nats = 0.0
    for token in scored:
        nats -= judge.model(torch.tensor([read])).logits[0, -1].double().log_softmax(-1)[token].item()
        read = [*read, token]
    return nats


def test_a_hub_judge_with_bos_scores_all_n_tokens_of_a_text(save):
    judge: Judge = HubJudge(save(bos=True))
    found = judge(TEXTS)
    assert isinstance(judge, HubJudge)
    assert found.num_tokens.tolist() == [5, 0, 1, 7, 4]
    expected = [hub_chain_rule(judge, [9], LETTERS.encode(text)) for text in TEXTS]
    assert found.nats.tolist() == pytest.approx(expected, abs=1e-4)


def test_a_hub_judge_without_bos_scores_n_minus_1_tokens_of_a_text(save):
    judge = HubJudge(save(bos=False))
    found = judge(TEXTS)
    assert found.num_tokens.tolist() == [4, 0, 0, 6, 3]
    rows = [LETTERS.encode(text) for text in TEXTS]
    expected = [hub_chain_rule(judge, row[:1], row[1:]) for row in rows]
    assert found.nats.tolist() == pytest.approx(expected, abs=1e-4)
    with pytest.raises(UserError, match="nothing to judge: 2 texts"):
        judge(["h", "a"])


@pytest.mark.parametrize("bos", [True, False])
def test_batches_and_padding_do_not_change_a_hub_judgement(save, bos):
    folder = save(bos=bos)
    at_once, one_by_one = HubJudge(folder, batch_size=5)(TEXTS), HubJudge(folder, batch_size=1)(TEXTS)
    torch.testing.assert_close(at_once.nats, one_by_one.nats, rtol=0, atol=1e-4)
    assert at_once.num_tokens.equal(one_by_one.num_tokens)


def test_a_hub_judge_cuts_a_text_of_19_tokens_at_its_context_of_8(save):
    judge = HubJudge(save())
    text = "abcdefghhgfedcbaabc"
    whole, pieces = judge([text]), judge([text[:8], text[8:16], text[16:]])
    assert judge.max_length == 8
    assert whole.num_tokens.tolist() == [19]
    assert whole.nats.item() == pytest.approx(pieces.nats.sum().item(), abs=1e-4)
    shorter = HubJudge(judge.name, max_length=3)
    assert shorter([text[:6]]).nats.item() == pytest.approx(judge([text[:3], text[3:6]]).nats.sum().item(), abs=1e-4)
    with pytest.raises(UserError, match="max_length is 9, expected from 2 to 8"):
        HubJudge(judge.name, max_length=9)


def test_a_hub_judge_without_bos_pays_1_unscored_token_a_piece(save):
    judge = HubJudge(save(bos=False))
    assert judge(["abcdefghab", "abcdefgha"]).num_tokens.tolist() == [7 + 1, 7]


@pytest.mark.parametrize(("bos", "vocab_size"), [(True, 10), (False, 9)])
def test_a_uniform_hub_judge_gives_perplexity_v(save, bos, vocab_size):
    found = HubJudge(save(bos=bos, zero=True))(TEXTS)
    assert found.perplexity == pytest.approx(vocab_size, rel=1e-6)


@pytest.mark.parametrize("bos", [True, False])
def test_a_hub_judge_that_knows_what_comes_next_gives_perplexity_1(save, bos):
    judge = HubJudge(save(bos=bos))

    def alphabet(input_ids, **_):
        after = torch.where(input_ids == 9, 0, input_ids + 1)  # a after bos, then b, then c
        return SimpleNamespace(logits=torch.nn.functional.one_hot(after, 10) * 1e4)

    judge.model = alphabet
    assert judge(["abcd", "abcdefgh", "a"]).perplexity == 1


def test_a_hub_judge_is_deterministic_in_32_bits_whatever_it_was_saved_in(save):
    judge = HubJudge(save())
    assert {p.dtype for p in judge.model.parameters()} == {torch.float32}
    assert judge(["abcdefgh"]).nats.equal(judge(["abcdefgh"]).nats)  # GPT-2 has dropout


def test_a_control_token_written_out_is_judged_as_its_13_characters(save):
    assert HubJudge(save())([CONTROL]).num_tokens.tolist() == [13]


def test_a_missing_library_names_the_1_extra_that_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install 'mdlm-atat\[judge\]'"):
        HubJudge("gpt2")


def test_an_encoder_is_refused_for_reading_the_1_token_it_is_to_predict(save):
    folder = save(bos=False)
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    transformers.BertLMHeadModel(transformers.BertConfig(vocab_size=9, **sizes)).save_pretrained(folder)
    with pytest.raises(UserError, match="no causal model: what it says of a token depends on later ones"):
        HubJudge(folder)


def test_a_folder_without_1_of_its_parts_is_no_judge(save, tmp_path):
    with pytest.raises(UserError, match="has no tokenizer that fits it: 0 tokens"):
        HubJudge(save(tokenizer=False))
    folder = save()
    (tmp_path / "judge" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"could not be loaded \(.*model\.safetensors"):
        HubJudge(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="could not be loaded"):
        HubJudge(str(tmp_path / "empty"))
    with pytest.raises(UserError, match="there is no folder"):
        HubJudge(str(tmp_path / "missing"))


def test_weights_that_would_be_drawn_at_random_are_refused_by_name(save, tmp_path):
    folder = save()
    from safetensors.torch import load_file, save_file

    file = tmp_path / "judge" / "model.safetensors"
    weights = load_file(file)
    del weights["transformer.wpe.weight"]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(UserError, match=r"lacks weights \(transformer\.wpe\.weight\)"):
        HubJudge(folder)


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(save, tmp_path):
    folder = save(bos=False)
    model = (tmp_path / "judge" / "model.safetensors").read_bytes()
    config = (tmp_path / "judge" / "config.json").read_bytes()
    save(bos=True)  # a bos with id 9, which the model of 9 ids lacks
    (tmp_path / "judge" / "model.safetensors").write_bytes(model)
    (tmp_path / "judge" / "config.json").write_bytes(config)
    with pytest.raises(UserError, match=r"9 tokens up to id 9, for a model with ids 0 \.\. 8"):
        HubJudge(folder)


@pytest.mark.parametrize(
    ("no_hub", "reason"), [(None, "not a valid model identifier"), ("https://hub: no route", "https://hub: no route")]
)
def test_a_name_that_cannot_be_loaded_is_1_error_that_says_why(monkeypatch, no_hub, reason):
    transformers = pytest.importorskip("transformers")
    asked = []

    def from_pretrained(name, **options):
        asked.append((name, options["local_files_only"], options["trust_remote_code"]))
        raise OSError("not a valid model identifier.\nMore lines, of advice.")

    monkeypatch.setattr(judge_module, "hub_unreachable", lambda: no_hub)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", from_pretrained)
    with pytest.raises(UserError, match=rf"the judge nobody/none .* could not be loaded \({reason}\)\. Check its name"):
        HubJudge("nobody/none")
    assert asked == [("nobody/none", no_hub is not None, False)]  # without the hub, only what is here already


# --- features, for MAUVE ---


def test_features_are_the_state_after_the_whole_text_whatever_stands_beside_it():
    model = network()
    judge = CausalJudge("ours", model, LETTERS, 16, batch_size=2)
    assert isinstance(judge, FeatureJudge)
    found = judge.features(TEXTS)
    assert found.shape == (5, 16)
    with torch.no_grad():
        for row, text in zip(found, TEXTS, strict=True):
            ids = torch.tensor([[*LETTERS.encode(text), 0]])
            torch.testing.assert_close(row, model.hidden(ids)[0, -1], rtol=0, atol=1e-5)
    assert judge.row_features([LETTERS.encode(text) for text in TEXTS]).allclose(found)


def test_features_of_a_text_longer_than_the_judge_are_those_of_its_beginning():
    judge = CausalJudge("ours", network(max_length=4), LETTERS, 4)
    assert judge.features(["abcdef"]).allclose(judge.features(["abc"]))


def test_a_judge_without_states_has_no_features_and_says_so():
    judge = CausalJudge("uniform", lambda x: torch.zeros(*x.shape, 9), LETTERS, 4)
    with pytest.raises(UserError, match="uniform gives no features"):
        judge.features(TEXTS)


def test_features_of_a_hub_judge_are_its_last_state_and_an_empty_text_needs_a_bos(save):
    judge = HubJudge(save(bos=True), batch_size=2)
    assert isinstance(judge, FeatureJudge)
    found = judge.features(TEXTS)
    for row, text in zip(found, TEXTS, strict=True):
        ids = torch.tensor([[9, *LETTERS.encode(text)]])
        with torch.no_grad():
            states = judge.model(input_ids=ids, output_hidden_states=True).hidden_states[-1]
        torch.testing.assert_close(row, states[0, -1], rtol=0, atol=1e-4)
    without = HubJudge(save(bos=False))
    assert without.features(["abc", "h"]).shape == (2, found.shape[1])
    with pytest.raises(UserError, match="an empty text has no features"):
        without.features(["abc", ""])
