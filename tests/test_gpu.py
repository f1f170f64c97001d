"""What only a GPU can show. Skipped without one: `python -m pytest -m gpu` on a machine that has one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mdlm_atat import CausalLM, CausalTransformer, MaskedDiffusionLM
from mdlm_atat.cli.main import main
from mdlm_atat.core.denoiser import Prediction
from mdlm_atat.data.tokenizers import CharTokenizer
from mdlm_atat.device import Graphed, choose_device, choose_precision, device_name
from mdlm_atat.lm.reading import LeftToRightDenoiser
from mdlm_atat.nets.two_way import TwoWayDiT
from tiny_runs import losses_of, train_method

ROOT = Path(__file__).parents[1]
pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("cache_beside_text")]
ABC = CharTokenizer("abcdefghijkl")  # and eos: a vocabulary of 13
SHAPE: dict[str, Any] = {"num_layers": 2, "width": 32, "num_heads": 2}


def test_the_gpu_is_chosen_and_named_and_its_peak_of_memory_is_told(text, tmp_path):
    assert choose_device() == torch.device("cuda")
    assert train_method("mdlm", text, tmp_path / "run", train__num_steps=2) == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["machine"]["device"] == device_name(torch.device("cuda")) == torch.cuda.get_device_name()
    assert 0 < record["peak_memory_bytes"] < torch.cuda.get_device_properties(0).total_memory


@pytest.mark.parametrize("method", ["mdlm", "importance_rates"])
@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("causal_share", [0.0, 0.5])
def test_12_recorded_steps_have_the_losses_of_unrecorded_ones(
    method, micro_batches, causal_share, text, tmp_path, capsys
):
    settings = {
        "objective__causal_share": causal_share,
        "train__num_steps": 12,
        "train__batch_size": 8,
        "train__num_micro_batches": micro_batches,
        "train__deterministic": True,
        "model__dropout": 0.0,  # a graph draws from a place of its own in the generator's sequence
    }
    assert train_method(method, text, tmp_path / "recorded", train__cuda_graph=True, **settings) == 0
    assert "a recorded step takes about" in capsys.readouterr().out
    assert train_method(method, text, tmp_path / "plain", train__cuda_graph=False, **settings) == 0
    recorded, plain = losses_of(tmp_path / "recorded"), losses_of(tmp_path / "plain")
    assert len(plain) == 12
    assert recorded == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_on_the_gpu_with_dropout_resumes_bit_for_bit(optimizer, text, tmp_path):
    settings = {"train__num_steps": 12, "train__checkpoint_interval_steps": 6, "model__dropout": 0.2}
    settings |= {"optim__kind": optimizer}
    settings |= {"train__deterministic": True, "train__cuda_graph": False}
    assert train_method("importance_rates", text, tmp_path / "whole", **settings) == 0
    assert train_method("importance_rates", text, tmp_path / "parts", train__max_minutes=1e-9, **settings) == 0
    assert main(["train", "--resume", str(tmp_path / "parts")]) == 0
    weights = [(tmp_path / run / "checkpoints/last/model.safetensors").read_bytes() for run in ("whole", "parts")]
    assert weights[0] == weights[1]
    assert losses_of(tmp_path / "whole") == losses_of(tmp_path / "parts")


@pytest.mark.parametrize("sampler", ["ancestral", "spread", "confidence", "remask", "follow_rates", "entropy_budget"])
def test_a_recorded_network_writes_the_tokens_of_an_unrecorded_one(sampler, runs):
    """Five rows, which are padded to eight, and which end at different times."""
    made = []
    for is_recorded in (False, True):
        lm = MaskedDiffusionLM.from_pretrained(runs / "adaptive", device="cuda", precision="float32")
        if is_recorded:
            lm._hidden = Graphed(lm._hidden)
        texts = lm.generate(["", "the", "a cat", "the dog sat", "on"], length=24, sampler=sampler, seed=1)
        made.append([text.tokens for text in texts])
    assert made[0] == made[1]


@pytest.mark.parametrize("kind", ["causal", "two ways"])
def test_recorded_left_to_right_5_rows_then_8_then_5_write_the_tokens_of_unrecorded_ones(kind):
    """Rows padded to eight in caches that stay from text to text."""
    torch.manual_seed(0)
    network = CausalTransformer(13, 100, **SHAPE) if kind == "causal" else TwoWayDiT(13, 100, **SHAPE)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.15)
    lm_class = CausalLM if kind == "causal" else MaskedDiffusionLM
    plain, recorded = (lm_class(network, ABC, device="cuda", precision="float32") for _ in "ab")
    assert recorded._steps is not None
    recorded._steps.record(100)
    for number, num_rows in enumerate((5, 8, 5)):
        prompts = ["abc", "ab", "abcdefghi", "", "a", "bb", "c", "dd"][:num_rows]
        expected, made = (lm.generate(prompts, seed=number) for lm in (plain, recorded))
        assert [text.tokens for text in made] == [text.tokens for text in expected]
        for kept in recorded._steps._kept.values():
            for part in (*kept[0].cache.keys, *kept[0].cache.values):
                part.fill_(1e4)
            assert len(kept) == 1


def test_what_a_recorded_step_gave_is_kept_when_the_next_one_is_taken():
    network = CausalTransformer(13, 100, **SHAPE).cuda()
    steps = CausalLM(network, ABC, precision="float32")._steps
    assert steps is not None
    steps.record(100)
    z_t = torch.full((3, 100), 13, device="cuda")
    denoise = LeftToRightDenoiser(lambda z_t, _: Prediction.of(z_t), steps, lambda hidden: hidden)
    ask = denoise.begin(z_t, 0)
    rows, first = torch.arange(3, device="cuda"), torch.zeros(3, 1, dtype=torch.long, device="cuda")
    kept = ask(z_t, rows).logits(first)
    before = kept.clone()
    z_t[:, 0] = 5
    assert not ask(z_t, rows).logits(first).equal(before)
    assert kept.equal(before)


def in_a_process_of_its_own(call: str) -> None:
    """The checks of shapes that the tests run under are not what is to be compiled."""
    code = f"import sys; sys.path[:0] = ['tests']; import test_gpu; test_gpu.{call}; print('done')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.stdout.endswith("done\n"), done.stderr[-3000:]


def test_compiled_and_recorded_in_bf16_a_causal_model_writes_nearly_what_it_does_in_float32():
    in_a_process_of_its_own("compare_compiled_writing()")


def compare_compiled_writing() -> None:
    network = CausalTransformer(13, 100, **SHAPE)
    lm = CausalLM(network, ABC, device="cuda")
    expected = lm.score("abcabc").nats
    lm.compile()
    assert lm.score("abcabc", order="left_to_right").nats == pytest.approx(expected, rel=0.02)
    assert all(text.text.startswith("ab") for text in lm.generate(["ab"] * 3, seed=1))


def test_compiled_and_recorded_in_bf16_a_model_still_writes_what_it_is_given_to_write(runs):
    in_a_process_of_its_own(f"write_compiled({str(runs / 'masked')!r})")


def write_compiled(run: str) -> None:
    lm = MaskedDiffusionLM.from_pretrained(run, device="cuda")
    assert lm.precision == choose_precision("auto", torch.device("cuda"))
    lm.compile()
    assert all(text.text.startswith("the") for text in lm.generate(["the"] * 3, length=16))


@pytest.mark.parametrize("order", ["spread", "confidence", "first_hitting"])
def test_a_text_costs_in_a_samplers_own_order_what_it_costs_on_the_cpu_recorded_or_not(order, runs):
    texts = ["the cat sat on a mat", "a dog ran to see it", "the"]
    found = []
    for device, is_recorded in (("cpu", False), ("cuda", False), ("cuda", True)):
        lm = MaskedDiffusionLM.from_pretrained(runs / "masked", device=device, precision="float32")
        if is_recorded:
            lm._hidden = Graphed(lm._hidden)
        found.append([score.nats for score in lm.score(texts, order=order, evaluations=4, num_draws=4)])
    assert found[1] == pytest.approx(found[0], rel=1e-3)
    assert found[2] == pytest.approx(found[1], rel=1e-4)


def test_gaps_of_unknown_length_are_filled_and_scored_as_on_the_cpu(runs):
    there = MaskedDiffusionLM.from_pretrained(runs / "adaptive", device="cuda", precision="float32")
    here = MaskedDiffusionLM.from_pretrained(runs / "adaptive", device="cpu", precision="float32")
    filled = [lm.infill("the [MASK:2-4] sat", seed=2) for lm in (there, here)]
    assert filled[0].lengths == filled[1].lengths
    assert there.score("the cat sat").nats == pytest.approx(here.score("the cat sat").nats, rel=1e-3)
    assert there.inspect("the cat").nll == pytest.approx(here.inspect("the cat").nll, rel=1e-2)
