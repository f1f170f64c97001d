"""A saved folder is a model of transformers too, where this package is not installed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from made_tokenizers import FORMS, TEXTS, tokenizer_of
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer as Inner

from mdlm_atat import CausalLM, MaskedDiffusionLM, TextClassifier, load_lm
from mdlm_atat.config.build import build_model
from mdlm_atat.config.schema import DataConfig, ModelConfig, ObjectiveConfig, RunConfig
from mdlm_atat.core.schedules import Cosine, Geometric, Linear, Polynomial
from mdlm_atat.data.open_tokenizer import load_tokenizer
from mdlm_atat.data.tokenizers import CharTokenizer
from mdlm_atat.errors import UserError
from mdlm_atat.finetuning.calibration import Calibration
from mdlm_atat.finetuning.classifier import ClassifierRecord
from mdlm_atat.finetuning.encode import Separator
from mdlm_atat.finetuning.head import Head
from mdlm_atat.lm.export import MODELLING, exported_tokenizer, left_out, times_of_shares, tokenizer_config
from mdlm_atat.lm.given import encode_template, space_joins_next
from mdlm_atat.nets.dit import ATATDiT, ImportanceParts
from mdlm_atat.samplers.template import Gap

LETTERS = CharTokenizer("abcdefghij .")
LENGTH, NUM_NEW, WIDTH = 14, 5, 24
TIMED: dict[str, Any] = {"time_conditioning": True}
LLAMA: dict[str, Any] = {"num_kv_heads": 2, "head_width": 8, "mlp": "swiglu", "mlp_width": 24, "norm": "rms"}
LLAMA |= {"norm_eps": 1e-3, "qkv_bias": True, "rotary_base": 500.0, "rotary_scaling": "llama3", "rotary_length": 20}
NETWORKS: dict[str, tuple[float, dict[str, Any]]] = {  # share of rows that are read left to right, settings of `model`
    "masked": (0, {}),
    "timed": (0.5, {"norm": "rms", "qk_norm": True, "tied": False, "extra_outputs": 1, **TIMED}),
    "shifted": (0.5, {"alignment": "shifted", "time_through": "embedding", **TIMED}),
    "noise": (0, {"alignment": "shifted", **TIMED, "time_features": "sigma"}),
    "causal": (1, {"tied": False}),
    "llama": (0.5, LLAMA),
    "causal llama": (1, {**LLAMA, "rotary_scaling": "linear"}),
    "int8": (0.5, {"tied": False}),
    "bf16": (0.5, {}),
}
MASKED = [name for name, (share, _) in NETWORKS.items() if share < 1]
CAUSAL = [name for name, (share, _) in NETWORKS.items() if share > 0]
CLASSIFIERS = {"mean": 0.0, "first": 0.0, "causal_mean": 0.5, "last": 1.0, "pair": 0.5, "score": 0.0}
ROWS, PROMPTS = ["a cab is bad", "fed", "hide a j"], ["abc ", "j", "dab"]
TIMES = [0.3, 0.9, 0.05]
CLASSIFIED = ["a cab", "b", "hide.", "ABIDE xi", "cabbage faded"]
"""Among them letters that the alphabet does not have."""
CALIBRATED: dict[str, Any] = {"temperature": 1.7, "num_rows": 10, "ece_before": 0.0, "ece_after": 0.0}
CALIBRATED |= {"ece_by_chance": 0.0, "nats_before": 0.0, "nats_after": 0.0}
PAIRS = [("a cab", "bad"), ("b", "hide.")]


def encoded(texts: list[str], *, masks: bool = False) -> list[list[int]]:
    rows = [LETTERS.encode("".join(c if c in LETTERS.alphabet else " " for c in text)) for text in texts]
    return [[LETTERS.mask_id if masks and i % 3 == 1 else token for i, token in enumerate(row)] for row in rows]


def padded(rows: list[list[int]], side: str = "left") -> tuple[list[list[int]], list[list[int]]]:
    """Rows of one length, and their attention mask."""
    ids, masks = [], []
    for row in rows:
        fill, ones = [3] * (max(map(len, rows)) - len(row)), [1] * len(row)
        ids.append(fill + row if side == "left" else row + fill)
        masks.append([0] * len(fill) + ones if side == "left" else ones + [0] * len(fill))
    return ids, masks


def made(share: float, *, schedule: str = "linear", **model: Any) -> Any:
    config = RunConfig(
        data=DataConfig(length=LENGTH),
        model=ModelConfig(**{"width": WIDTH, "num_layers": 2, "num_heads": 4, **model}),
        objective=ObjectiveConfig(causal_share=share, schedule=schedule),
    )
    torch.manual_seed(0)
    network = build_model(config, LETTERS.vocab_size)
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    kind = CausalLM if share == 1 else MaskedDiffusionLM
    return kind(network, LETTERS, config, device="cpu", precision="float32")


def made_classifier(kind: str, share: float) -> TextClassifier:
    is_score = kind == "score"
    torch.manual_seed(1)
    record = ClassifierRecord(
        labels=() if is_score else ("bad", "good", "odd"),
        is_pair=kind == "pair",
        pooling="mean" if kind in ("score", "pair") else kind,  # pyright: ignore[reportArgumentType]
        max_length=LENGTH - 1,
        separator=Separator((LETTERS.encode(".")[0], LETTERS.vocab_size - 1), "."),
        mean=2.0,
        spread=3.0,
        calibration=None if is_score else Calibration(**CALIBRATED),
    )
    return TextClassifier(made(share), Head(WIDTH, 1 if is_score else 3, 0.0), record)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Saved folders, and what is asked of them elsewhere."""
    home = tmp_path_factory.mktemp("exported")
    for name, (share, model) in NETWORKS.items():
        made(share, **model).save_pretrained(home / name, weights=name if name in ("int8", "bf16") else "float32")
    for kind, share in CLASSIFIERS.items():
        made_classifier(kind, share).save_pretrained(home / kind, weights="int8" if kind == "last" else "float32")
    made(0).save_pretrained(home / "lacking")
    weights = load_file(home / "lacking" / "model.safetensors")
    del weights["norm.weight"]
    save_file(weights, home / "lacking" / "model.safetensors", {"format": "pt"})
    rows = {side: padded(encoded(ROWS, masks=True), side) for side in ("left", "right")}
    rows |= {"plain": padded(encoded(ROWS)), "prompts": padded(encoded(PROMPTS))}
    pairs = [{"text": first, "text_pair": second} for first, second in PAIRS]
    asked: dict[str, Any] = {"networks": list(NETWORKS), "rows": rows, "t": TIMES, "num_new": NUM_NEW}
    asked["fill"] = "a c[MASK]b"
    asked["classified"] = {kind: pairs if kind == "pair" else CLASSIFIED for kind in CLASSIFIERS}
    (home / "asked.json").write_text(json.dumps(asked))
    return home


@pytest.fixture(scope="module")
def said(home: Path) -> dict[str, Any]:
    """What they say in a process without this package, without a network and with empty caches."""
    script = Path(__file__).with_name("loaded_elsewhere.py")
    environment = {"HF_HOME": str(home / "cache"), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, "-I", str(script), str(home)], check=True, env={**os.environ, **environment})
    return json.loads((home / "said.json").read_text())


def assert_logits(found: list[Any], mask: list[int], expected: torch.Tensor, atol: float = 1e-5) -> None:
    """That a row's logits, but for its padding, are these, and that [MASK] is never written."""
    here = torch.tensor(found)[torch.tensor(mask).bool()]
    assert torch.equal(here[:, -1], torch.full((len(here),), -torch.inf))
    torch.testing.assert_close(here[:, :-1], expected, rtol=1e-5, atol=atol)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("name", MASKED)
def test_masked_logits_are_ours_wherever_the_padding_stands(home, said, name):
    network = load_lm(home / name, device="cpu").network
    for side in ("left", "right"):
        _, masks = padded(encoded(ROWS, masks=True), side)
        for n, row in enumerate(encoded(ROWS, masks=True)):
            expected = network(torch.tensor([row]), torch.tensor([TIMES[n]]))[0]
            assert_logits(said[name][f"masked {side}"][n], masks[n], expected)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("name", MASKED)
def test_a_short_text_is_shown_amid_masks_at_the_time_of_their_share(home, said, name):
    lm: Any = load_lm(home / name, device="cpu")
    _, masks = padded(encoded(ROWS, masks=True), "right")
    for n, row in enumerate(encoded(ROWS, masks=True)):
        z = torch.tensor([row])
        t = (z == LETTERS.mask_id).float().mean(1)
        expected = lm.denoise(z, t)[0]
        assert_logits(said[name]["masked"][n], masks[n], expected, atol=1e-4)  # t is rounded in another order


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("name", CAUSAL)
def test_causal_logits_and_greedy_texts_are_ours_with_and_without_a_cache(home, said, name):
    lm = load_lm(home / name, device="cpu")
    _, masks = padded(encoded(PROMPTS))
    for n, row in enumerate(encoded(PROMPTS)):
        expected = lm.network(torch.tensor([[*row, 0]]))[0, 1:]
        assert_logits(said[name]["causal"][n], masks[n], expected)
        tokens = row
        for _ in range(NUM_NEW):
            tokens = [*tokens, int(lm.network(torch.tensor([[*tokens, 0]]))[0, -1].argmax())]
        assert said[name]["generated True"][n] == said[name]["generated False"][n] == tokens[len(row) :]
    tokens = []
    for _ in range(NUM_NEW):
        tokens = [*tokens, int(lm.network(torch.tensor([[*tokens, 0]]))[0, -1].argmax())]
    assert said[name]["from nothing True"] == said[name]["from nothing False"] == tokens


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("name", NETWORKS)
def test_states_of_a_text_are_ours_and_nothing_is_left_to_a_buffer(home, said, name):
    network = load_lm(home / name, device="cpu").network
    _, masks = padded(encoded(ROWS))
    for n, row in enumerate(encoded(ROWS)):
        x = torch.tensor([row])
        if "masked" in network.modes:
            expected = network.hidden(x, torch.zeros(1))[0]
        else:
            expected = network.hidden(torch.tensor([[*row, 0]]))[0, 1:]
        here = torch.tensor(said[name]["states"][n])[torch.tensor(masks[n]).bool()]
        torch.testing.assert_close(here, expected, rtol=1e-5, atol=1e-5)
    assert said[name]["buffers"] == []
    assert all(0 < said[name][f"{mode} loss"] < 100 for mode in network.modes)


@pytest.mark.slow
@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_a_classifier_tells_the_labels_and_probabilities_that_ours_does(home, said, kind):
    texts = PAIRS if kind == "pair" else CLASSIFIED
    classifier = TextClassifier.from_pretrained(home / kind, device="cpu")
    for n, expected in enumerate(classifier.predict(texts)):
        for side in ("left", "right"):
            found = {told["label"]: told["score"] for told in said[kind][side][n]}
            wanted = {"score": expected.score} if kind == "score" else expected.probabilities
            assert found == pytest.approx(wanted, abs=1e-5)


@pytest.mark.slow
def test_gaps_are_filled_by_the_pipeline_with_the_probabilities_that_we_give(home, said):
    lm: Any = load_lm(home / "masked", device="cpu")
    z = torch.tensor([[*LETTERS.encode("a c"), LETTERS.mask_id, *LETTERS.encode("b")]])
    expected = lm.denoise(z, torch.tensor([1 / 4]))[0, 3].softmax(-1).topk(3)
    assert [told["score"] for told in said["filled"]] == pytest.approx(expected.values.tolist(), abs=1e-5)
    assert [told["token"] for told in said["filled"]] == expected.indices.tolist()
    assert said["filled"][0]["sequence"] == f"a c{said['filled'][0]['token_str']}b"


@pytest.mark.slow
def test_weights_that_are_missing_are_an_error_and_packed_ones_can_be_saved_again(said):
    assert said["lacking"] == ["the weights lack norm.weight, which config.json asks for"]
    assert said["saved again"]


@pytest.mark.parametrize("form", FORMS)
def test_an_exported_tokenizer_gives_texts_the_ids_that_ours_gives(form):
    tokenizer = tokenizer_of(form)
    exported = exported_tokenizer(tokenizer)
    assert exported is not None
    inner = Inner.from_str(json.dumps(exported))
    for text in (*TEXTS[:2], "  two  spaces", " ", "É", "cat\ncat\n\n", "a"):
        try:
            ids = tokenizer.encode(text)
        except UserError:
            continue
        assert inner.encode(text).ids == ids
        assert inner.decode(ids, skip_special_tokens=False) == tokenizer.decode(ids)
    assert tokenizer.mask_id == inner.get_vocab_size() - 1


@pytest.mark.parametrize("form", FORMS)
def test_texts_of_different_length_are_filled_up_whatever_the_tokenizer(form, tmp_path):
    from transformers import AutoTokenizer

    tokenizer, network = tokenizer_of(form), made(0.5).network
    inner = exported_tokenizer(tokenizer)
    assert inner is not None
    (tmp_path / "tokenizer.json").write_text(json.dumps(inner))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer_config(inner, tokenizer, network, None)))
    rows = AutoTokenizer.from_pretrained(tmp_path)(["a", "a a a"], padding=True)
    (short, long), ids = rows["attention_mask"], rows["input_ids"]
    assert sum(long) == len(ids[0]) == len(ids[1]) > sum(short)
    texts = [
        [i for i, is_text in zip(row, shown, strict=True) if is_text]
        for row, shown in zip(ids, (short, long), strict=True)
    ]
    assert texts == [tokenizer.encode("a"), tokenizer.encode("a a a")]


@pytest.mark.parametrize("form", ["byte-level BPE", "SentencePiece BPE without prefix", "bytes", "characters"])
def test_a_gap_takes_the_space_before_it_as_it_does_in_our_templates(form):
    tokenizer = tokenizer_of(form)
    joins = space_joins_next(tokenizer)
    inner = Inner.from_str(json.dumps(exported_tokenizer(tokenizer)))
    for before, behind in (("The cat ", " and"), ("The cat", ", and"), ("the un", "able"), ("", " cat"), ("sat ", "")):
        template = [part for part in (before, Gap(1, 1), behind) if part != ""]
        parts = encode_template(tokenizer, template, joins=joins)
        ours = [token for part in parts for token in (part if isinstance(part, list) else [tokenizer.mask_id])]
        assert inner.encode(f"{before}[MASK]{behind}").ids == ours, (before, behind)


@pytest.mark.parametrize("schedule", [Cosine(), Geometric(), Polynomial(3.0)])
def test_times_are_those_at_which_a_share_is_masked(schedule):
    times = times_of_shares(schedule)
    assert times is not None
    rates = schedule.mask_rate(torch.tensor(times, dtype=torch.float64))
    torch.testing.assert_close(rates, torch.linspace(0, 1, len(times), dtype=torch.float64), rtol=0, atol=1e-9)
    assert times_of_shares(Linear()) is None


def test_what_transformers_does_not_get_is_said():
    assert left_out(made(0.5).network, LETTERS) == []
    estimated = ATATDiT(12, 8, num_layers=1, width=8, num_heads=2, importance=ImportanceParts(None, torch.ones(13)))
    assert left_out(estimated, LETTERS) == ["Its importance serves mdlm_atat's samplers; transformers leaves it out."]
    assert left_out(torch.nn.Linear(1, 1), LETTERS) == [
        "transformers has no class for the network Linear: the folder opens with mdlm_atat alone."
    ]


def test_our_classes_are_known_to_the_auto_classes_once_hf_is_imported(home):
    """Without `trust_remote_code`: nothing of the folder is run."""
    import transformers

    import mdlm_atat.hf

    transformers.utils.logging.disable_progress_bar()
    for auto, kind, name in (
        ("MaskedLM", mdlm_atat.hf.MdlmAtatForMaskedLM, "bf16"),
        ("CausalLM", mdlm_atat.hf.MdlmAtatForCausalLM, "causal"),
        ("SequenceClassification", mdlm_atat.hf.MdlmAtatForSequenceClassification, "last"),
    ):
        assert type(getattr(transformers, f"AutoModelFor{auto}").from_pretrained(home / name)) is kind
    tokenizers = [transformers.AutoTokenizer.from_pretrained(home / name) for name in ("masked", "causal")]
    assert [(each.mask_token_id, each.bos_token_id) for each in tokenizers] == [(13, None), (13, 13)]


def exported(home: Path, name: str, **how: Any) -> Any:
    """The saved network in the mode that comes first, by our classes."""
    import mdlm_atat.hf

    kind = mdlm_atat.hf.MdlmAtatForCausalLM if NETWORKS[name][0] == 1 else mdlm_atat.hf.MdlmAtatForMaskedLM
    return kind.from_pretrained(home / name, **{"dtype": torch.float32, **how})


@torch.no_grad()
@pytest.mark.parametrize("name", ["masked", "timed", "shifted", "llama", "causal"])
def test_weights_that_lie_on_the_disk_until_they_are_asked_give_the_same_logits(home, name, tmp_path):
    """As with `device_map` on a machine with too little memory. Tied ones were read before they were there."""
    accelerate = pytest.importorskip("accelerate")
    rows, mask = (torch.tensor(part) for part in padded(encoded(ROWS)))
    expected = exported(home, name)(rows, mask).logits
    for offload, place in ((accelerate.cpu_offload, []), (accelerate.disk_offload, [str(tmp_path)])):
        model = exported(home, name)
        offload(model, *place, execution_device=torch.device("cpu"))
        assert model(rows, mask).logits.equal(expected)


@torch.no_grad()
@pytest.mark.parametrize("name", NETWORKS)
def test_in_16_bits_the_logits_are_near_those_in_32_and_no_kernel_warns(home, name):
    rows, mask = (torch.tensor(part) for part in padded(encoded(ROWS)))
    expected = exported(home, name)(rows, mask).logits[..., :-1]
    found = exported(home, name, dtype=torch.bfloat16)(rows, mask).logits[..., :-1]
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected)[mask.bool()].abs().max() < 0.02 * expected.abs().max()
    assert exported(home, name)(rows[:0], mask[:0]).logits.shape == (0, rows.shape[1], LETTERS.vocab_size + 1)


@pytest.mark.parametrize("name", ["masked", "causal"])
def test_batches_of_14_labels_and_1_whose_number_a_trainer_names_have_the_gradient_of_one_of_15(home, name):
    model = exported(home, name)
    rows, mask = (torch.tensor(part) for part in padded(encoded(ROWS)))
    labels = torch.where(mask.bool(), rows, -100)
    labels[:, 0] = -100  # which no causal model predicts
    labels[2, :-1] = -100
    num_items = (labels != -100).sum()
    assert num_items == 15

    def gradient(parts: list[slice]) -> torch.Tensor:
        model.zero_grad()
        for part in parts:
            loss = model(rows[part], mask[part], labels=labels[part], num_items_in_batch=num_items).loss
            loss.backward()
        return model.embedding.weight.grad.clone()

    model.zero_grad()
    model(rows, mask, labels=labels).loss.backward()
    expected = model.embedding.weight.grad.clone()
    torch.testing.assert_close(gradient([slice(0, 2), slice(2, 3)]), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["masked", "causal", "llama", "mean"])
def test_a_trainer_that_smooths_labels_trains_a_classifier_and_is_refused_by_what_has_a_mask(home, name, tmp_path):
    import transformers

    import mdlm_atat.hf

    rows = padded(encoded(ROWS))[0]
    model: Any = (
        exported(home, name)
        if name in NETWORKS
        else mdlm_atat.hf.MdlmAtatForSequenceClassification.from_pretrained(home / name)
    )
    data = [{"input_ids": row, "labels": row if name in NETWORKS else 1} for row in rows]
    asked = {"max_steps": 1, "report_to": [], "use_cpu": True, "save_strategy": "no", "disable_tqdm": True}
    settings = transformers.TrainingArguments(str(tmp_path), label_smoothing_factor=0.1, **asked)
    trainer = transformers.Trainer(model, settings, train_dataset=data)  # pyright: ignore[reportArgumentType]
    if name in NETWORKS:
        with pytest.raises(ValueError, match=r"counts \[MASK\] among the tokens, .* Leave out label_smoothing_factor"):
            trainer.train()
    else:
        assert 0 < trainer.train().training_loss < 10


@pytest.mark.parametrize("name", ["masked", "causal"])
@pytest.mark.parametrize("kind", ["plain", "smooth without [MASK]", "some places", "entropy", "overflow"])
def test_a_loss_of_ones_own_that_does_not_count_the_mask_has_its_gradient(home, name, kind):
    rows, mask = (torch.tensor(part) for part in padded(encoded(ROWS)))
    logits = exported(home, name)(rows, mask).logits
    flat, labels = logits.flatten(0, 1), rows.flatten()
    cross_entropy = torch.nn.functional.cross_entropy
    losses = {
        "plain": lambda: cross_entropy(flat, labels),
        "smooth without [MASK]": lambda: cross_entropy(flat[:, :-1], labels, label_smoothing=0.1),
        "some places": lambda: cross_entropy(flat[3:5], labels[3:5]),
        "entropy": lambda: -(flat.softmax(-1) * flat[:, :-1].log_softmax(-1).sum(-1, keepdim=True)).sum(),
        "overflow": lambda: cross_entropy(flat, labels) * torch.inf,
    }
    losses[kind]().backward()


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", ["masked", "causal"])
def test_gradients_of_each_row_of_a_loss_of_ones_own_are_taken_by_vmap(home, name):
    model, rows = exported(home, name), torch.tensor(padded(encoded(ROWS))[0])
    weights = {key: weight.detach() for key, weight in model.named_parameters()}

    def loss(weights: dict[str, torch.Tensor], row: torch.Tensor) -> torch.Tensor:
        logits = torch.func.functional_call(model, weights, (row[None],)).logits[0]
        return torch.nn.functional.cross_entropy(logits, row)

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(weights, rows)["norm.weight"]
    torch.nn.functional.cross_entropy(model(rows).logits.flatten(0, 1), rows.flatten()).backward()
    torch.testing.assert_close(each.mean(0), model.norm.weight.grad)


def test_a_start_symbol_in_a_later_part_of_a_text_is_refused_too_unless_it_is_hidden(home):
    model, ids = exported(home, "causal"), torch.tensor([[0, 1, LETTERS.mask_id, 2]])
    mask = (ids != LETTERS.mask_id).long()
    with torch.no_grad():
        expected = model(torch.tensor([[0, 1, 2]])).logits[0, -1]
        for hidden in (None, torch.ones_like(ids)):
            cache = model(ids[:, :2], use_cache=True).past_key_values
            with pytest.raises(ValueError, match=r"with a cache, every attention_mask needs a 0 in its place"):
                model(ids[:, 2:], hidden, past_key_values=cache)
        for cut in (1, 2, 3):
            cache = model(ids[:, :cut], mask[:, :cut], use_cache=True).past_key_values
            torch.testing.assert_close(model(ids[:, cut:], mask, past_key_values=cache).logits[0, -1], expected)


@pytest.mark.parametrize("how", [{}, {"use_cache": False}, {"num_beams": 2}], ids=["cache", "none", "beams"])
def test_a_text_that_is_asked_to_be_longer_than_the_network_reads_ends_there_and_that_is_said(
    home, how: dict[str, Any]
):
    model = exported(home, "causal")
    longest = model.config.max_position_embeddings
    rows, mask = (torch.tensor(part) for part in padded(encoded(PROMPTS)))
    rows, mask = torch.nn.functional.pad(rows, (2, 0), value=3), torch.nn.functional.pad(mask, (2, 0))
    greedy = {"attention_mask": mask, "do_sample": False, "eos_token_id": None, **how}
    said = f"the text ends where this network can go no further: it reads {longest} tokens at most"
    with pytest.warns(UserWarning, match=said):
        found = model.generate(rows, max_new_tokens=5 * longest, **greedy)
    assert found.shape[1] == 2 + longest + 1  # all of a text is read, and a token is written behind it
    assert model.generate(rows, max_new_tokens=longest - 3, **greedy).equal(found)  # the last token that there can be
    fewer = model.generate(rows, max_new_tokens=longest - 4, **greedy)
    assert fewer.shape[1] == 2 + longest
    assert how.get("num_beams") or found[:, :-1].equal(fewer)
    with pytest.warns(UserWarning, match=said):
        assert model.generate(max_length=5 * longest, eos_token_id=None, do_sample=False).shape == (1, longest + 2)
    assert model.generate(max_length=longest + 2, eos_token_id=None, do_sample=False).shape == (1, longest + 2)
    assert model.generate(max_new_tokens=longest + 1, eos_token_id=None, do_sample=False).shape == (1, longest + 2)
    with pytest.warns(UserWarning, match=said):
        model.generate(max_new_tokens=longest + 2, eos_token_id=None, do_sample=False)
    with pytest.raises(
        ValueError, match=f"this network reads {longest} tokens at most, not {longest + 1}: cut the text"
    ):
        model.generate(torch.zeros(1, longest + 1, dtype=torch.int64), max_new_tokens=2)


def test_what_a_model_does_not_give_is_refused_and_a_tuple_is_one(home):
    import mdlm_atat.hf

    rows, mask = (torch.tensor(part) for part in padded(encoded(ROWS)))
    model = exported(home, "masked")
    (logits,) = model(rows, mask, return_dict=False)
    assert logits.equal(model(rows, mask).logits)
    with pytest.raises(ValueError, match="output_hidden_states: this model gives the last states alone"):
        model(rows, mask, output_hidden_states=True)
    with pytest.raises(ValueError, match="a cache of a fixed size cannot be read"):
        exported(home, "causal").generate(rows, max_new_tokens=2, cache_implementation="static")
    for kind in ("mean", "first", "last"):
        classifier: Any = mdlm_atat.hf.MdlmAtatForSequenceClassification.from_pretrained(home / kind)
        for empty in ((rows[:, :0], None), (rows, torch.zeros_like(mask))):
            with pytest.raises(ValueError, match="a text has no token to tell a label from"):
                classifier(*empty)


@torch.no_grad()
@pytest.mark.parametrize("name", ["masked", "causal"])
def test_an_attention_mask_of_another_shape_is_refused(home, name):
    """One row for all, one place for all, or the new tokens alone where a cache holds others: logits were others."""
    rows, mask = (torch.tensor(part) for part in padded(encoded(ROWS)))
    model = exported(home, name)
    for wrong in (mask[:1], mask[:, :1], mask[:, 1:], torch.ones(len(rows), 1, 12, 12)):
        with pytest.raises(ValueError, match=r"attention_mask is .*; expected a place for each token: \(3, 12\)"):
            model(rows, wrong)
    if name == "causal":
        read = model(rows[:, :3], mask[:, :3], use_cache=True)
        with pytest.raises(ValueError, match=r"is \(3, 1\); expected .* those in the cache included: \(3, 4\)"):
            model(rows[:, 3:4], mask[:, 3:4], past_key_values=read.past_key_values)


@torch.no_grad()
def test_a_start_symbol_that_a_cache_would_keep_as_text_is_refused_and_one_with_a_0_in_the_mask_is_none(home):
    model = exported(home, "causal")
    tokens = torch.tensor([[LETTERS.mask_id, *encoded(ROWS)[0]]])
    with pytest.raises(ValueError, match=r"\[MASK\] is the start symbol here: with a cache, every attention_mask"):
        model(tokens[:, :1], use_cache=True)
    mask = (tokens != LETTERS.mask_id).long()
    read = model(tokens[:, :1], mask[:, :1], use_cache=True)
    found = model(tokens[:, 1:], mask, past_key_values=read.past_key_values).logits
    torch.testing.assert_close(found, model(tokens[:, 1:]).logits, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["masked", "llama"])
def test_the_angles_of_positions_are_in_32_bits_whatever_the_default_type(home, name):
    rows, mask = (torch.tensor(part) for part in padded(encoded(ROWS)))
    model = exported(home, name)
    expected = model(rows, mask).logits
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = model(rows, mask).logits
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def changed(home: Path, name: str, folder: Path, **settings: Any) -> Path:
    """A copy of a saved model with other settings in config.json."""
    shutil.copytree(home / name, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **settings}))
    return folder


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("alignment", "later"),
        ("norm", "RMS"),
        ("mlp", "relu"),
        ("rotary_scaling", "yarn"),
        ("time_through", "adaLN"),
        ("time_features", "cosine"),
        ("packing", "int4"),
        ("problem_type", "multi_label_classification"),
    ],
)
def test_a_setting_that_this_file_does_not_know_is_refused_and_not_passed_over(home, tmp_path, setting, value):
    import mdlm_atat.hf

    folder = changed(home, "masked", tmp_path / "model", **{setting: value})
    with pytest.raises(ValueError, match=f"{setting} is '{value}'; known are "):
        mdlm_atat.hf.MdlmAtatForMaskedLM.from_pretrained(folder)


@pytest.mark.parametrize(
    ("name", "settings", "left"),
    [
        ("masked", {"num_hidden_layers": 1}, "blocks.1.attention.out.weight"),
        ("int8", {"packing": None}, ".weight.scale"),
    ],
)
def test_weights_that_are_left_over_are_an_error(home, tmp_path, name, settings, left):
    import mdlm_atat.hf

    folder = changed(home, name, tmp_path / "model", **settings)
    with pytest.raises(
        ValueError, match=rf"the weights have [^ ]*{re.escape(left)}.*, which config.json does not ask for"
    ):
        mdlm_atat.hf.MdlmAtatForMaskedLM.from_pretrained(folder)


def test_a_network_is_asked_only_in_a_mode_that_it_was_trained_in(home):
    from mdlm_atat.hf import MdlmAtatForCausalLM, MdlmAtatForMaskedLM, MdlmAtatForSequenceClassification

    with pytest.raises(
        ValueError, match="MaskedLM asks a masked network, and this one is causal: use AutoModelForCausal"
    ):
        MdlmAtatForMaskedLM.from_pretrained(home / "causal")
    with pytest.raises(
        ValueError, match="CausalLM asks a causal network, and this one is masked: use AutoModelForMasked"
    ):
        MdlmAtatForCausalLM.from_pretrained(home / "masked")
    with pytest.raises(ValueError, match=r"this one is causal: use .*, or pooling='last' of a classifier"):
        MdlmAtatForSequenceClassification.from_pretrained(home / "causal", num_labels=3)
    for name, pooling in (("causal", "last"), ("masked", "mean"), ("int8", "causal_mean")):
        new: Any = MdlmAtatForSequenceClassification.from_pretrained(home / name, pooling=pooling, num_labels=1)
        rows, mask = (torch.tensor(part) for part in padded(encoded(ROWS)))
        answer = new(rows, mask, labels=torch.tensor([1.0, 2.0, 3.0]))  # one label, so a score
        errors = (answer.logits.squeeze(1) - torch.tensor([1.0, 2.0, 3.0])) ** 2
        assert answer.loss.item() == pytest.approx(errors.mean().item())


@pytest.mark.parametrize("is_saved_again", [False, True])
def test_a_classifier_whose_head_is_not_whole_is_not_given_a_random_one(home, tmp_path, is_saved_again):
    from mdlm_atat.hf import MdlmAtatForSequenceClassification

    folder, prefix = Path(shutil.copytree(home / "mean", tmp_path / "model")), ""
    if is_saved_again:
        folder, prefix = tmp_path / "again", "head."
        MdlmAtatForSequenceClassification.from_pretrained(tmp_path / "model").save_pretrained(folder)
    file = folder / ("model.safetensors" if is_saved_again else "head.safetensors")
    weights = load_file(file)
    del weights[f"{prefix}output.bias"]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"the weights lack head\.output\.bias"):
        MdlmAtatForSequenceClassification.from_pretrained(folder)


@torch.no_grad()
def test_a_classifier_that_was_saved_again_is_a_language_model_as_before(home, tmp_path):
    import mdlm_atat.hf

    mdlm_atat.hf.MdlmAtatForSequenceClassification.from_pretrained(home / "mean").save_pretrained(tmp_path / "again")
    rows = torch.tensor([encoded(ROWS)[0]])
    found = mdlm_atat.hf.MdlmAtatForMaskedLM.from_pretrained(tmp_path / "again")(rows).logits
    assert found.equal(mdlm_atat.hf.MdlmAtatForMaskedLM.from_pretrained(home / "mean")(rows).logits)


@pytest.mark.parametrize("name", ["masked", "int8"])
def test_what_our_classes_save_has_the_modelling_file_and_says_what_it_was_loaded_from(home, tmp_path, name):
    model = exported(home, name)
    assert model.name_or_path == str(home / name)  # which an adapter of peft names as its base
    model.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / MODELLING.name).read_bytes() == MODELLING.read_bytes()
    assert json.loads((tmp_path / "again" / "config.json").read_text())["packing"] is None
    size = LETTERS.vocab_size + 1
    assert model.resize_token_embeddings(size) is model.get_input_embeddings()  # as trainers do, with no more tokens
    with pytest.raises(ValueError, match=r"\[MASK\] is the last token of this model"):
        model.resize_token_embeddings(size + 1)


def test_without_transformers_hf_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "mdlm_atat.hf", raising=False)
    with pytest.raises(UserError, match=r"pip install 'mdlm-atat\[hub\]'"):
        import mdlm_atat.hf  # noqa: F401


def test_files_for_others_may_be_changed_or_taken_away(tmp_path):
    lm = made(0)
    folder = lm.save_pretrained(tmp_path / "model")
    assert (folder / MODELLING.name).read_bytes() == MODELLING.read_bytes()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text("{}")
    (folder / MODELLING.name).unlink()
    assert load_lm(folder).fingerprint() == lm.fingerprint()
    assert load_tokenizer(str(folder)).fingerprint() == LETTERS.fingerprint()
