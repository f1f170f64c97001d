"""`atat samplers bench`: what it measures, what it calls no worse, and that it goes on where it stopped."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from mdlm_atat import MaskedDiffusionLM
from mdlm_atat.cli.main import main
from mdlm_atat.errors import UserError
from mdlm_atat.samplers.canvas import Canvas
from mdlm_atat.studies import sampler_bench
from mdlm_atat.studies.sampler_bench import (
    REFERENCE,
    Setting,
    cost_of_real_text,
    curve_of,
    default_specs,
    is_no_worse,
    make_canvas,
    steps_needed,
    with_steps,
)
from tiny_runs import train, write_text
from toys import ListRows

REAL = {"entropy_nats": 5.0}


def point(sampler: str, steps: int | None, nfe: float, judge: float, entropy: float) -> dict:
    return {
        "sampler": sampler,
        "steps": steps,
        "curve": curve_of(sampler),
        "nfe_mean": nfe,
        "judge_nats": judge,
        "judge_error": 0.03,
        "entropy_nats": entropy,
        "entropy_error": 0.03,
    }


ONE_AT_A_TIME = point(REFERENCE, None, 100, 4.0, 5.2)


@pytest.mark.parametrize(
    ("judge", "entropy", "no_worse"),
    [
        (4.08, 5.2, True),  # two standard errors of the difference are 0.085
        (4.09, 5.2, False),
        (3.0, 5.2, True),
        (4.0, 5.28, True),
        (4.0, 5.29, False),  # further from validation text's 5.0
        (4.0, 5.0, True),
        (3.0, 4.72, True),  # as far as the reference, on the other side
        (3.0, 4.71, False),  # dull, however cheap
    ],
)
def test_no_worse_is_within_2_standard_errors_in_judge_and_in_distance_to_real_entropy(judge, entropy, no_worse):
    assert is_no_worse(point("x", 8, 8, judge, entropy), ONE_AT_A_TIME, REAL) == no_worse


def test_what_is_needed_is_the_fewest_evaluations_from_which_on_all_are_no_worse():
    points = [
        ONE_AT_A_TIME,
        *(point("a", n, n, judge, 5.2) for n, judge in ((8, 4.0), (16, 4.5), (32, 4.01), (64, 4.0))),
        point("bad", 50, 50, 4.5, 5.2),
        point("threshold:threshold=0.9", None, 90, 4.0, 5.2),
        point("threshold:threshold=0.5", None, 40, 4.0, 5.2),
    ]
    assert steps_needed(points, REAL) == {  # 8 evaluations were luck: 16 are worse
        "a": {"nfe": 32, "share": 0.32},
        "threshold": {"nfe": 40, "share": 0.4},
    }
    assert steps_needed(points[1:], REAL) == {}


def test_samplers_run_at_every_number_of_steps_unless_their_steps_follow_from_what_the_network_says():
    points = with_steps(["ancestral", "threshold", "spread", "first_hitting:num_steps=3"], [4, 8])
    assert points == [
        ("ancestral", 4),
        ("ancestral", 8),
        ("threshold", None),
        ("spread", 4),
        ("spread", 8),
        ("first_hitting:num_steps=3", None),
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATAT_CACHE", str(folder / "cache"))
        text = write_text(folder / "text.txt")
        assert train(text, folder / "masked", train__num_steps=8) == 0
        assert train(text, folder / "causal", train__num_steps=8, model__kind="causal") == 0
        yield folder


@pytest.fixture(scope="module")
def lm(folder) -> MaskedDiffusionLM:
    return MaskedDiffusionLM.from_pretrained(folder / "masked")


def test_rules_that_follow_rates_are_compared_on_a_model_that_predicts_them_alone(lm, atat):
    followed = [{spec.partition(":")[0] for spec, _ in default_specs(model, [8])} for model in (lm, atat)]
    assert followed[1] - followed[0] == {"follow_rates", "rate_hitting"}
    assert followed[0] < followed[1]
    assert default_specs(lm, [8])[0] == (REFERENCE, None)


def test_texts_are_taken_until_there_are_2_of_full_length_and_no_further(lm):
    asked = []

    class Watched(ListRows):
        def evaluation_rows(self, indices):
            asked.extend(indices.tolist())
            return super().evaluation_rows(indices)

    rows = Watched(np.zeros((100, 16), dtype=np.int64))
    assert make_canvas(lm, setting("generate", 2), rows)[1].shape == (2, 16)
    assert len(asked) == 2
    short = Watched(np.zeros((6, 16), dtype=np.int64), np.array([16, 5, 5, 5, 5, 16]))
    assert make_canvas(lm, setting("infill", 2), short)[1].shape == (2, 16)


def setting(task: sampler_bench.Task, num_texts: int, length: int = 16) -> Setting:
    return Setting(task, num_texts=num_texts, length=length, batch_size=4, seed=0, num_scored=num_texts, span=4)


def test_half_of_every_text_to_infill_is_given_in_spans_of_4(lm):
    rows = ListRows(np.arange(64).reshape(4, 16) % lm.tokenizer.vocab_size)
    canvas, real = make_canvas(lm, setting("infill", 4), rows)
    assert canvas.fixed.sum(1).tolist() == [8] * 4
    assert canvas.fixed[0].tolist() == ([True] * 4 + [False] * 4) * 2
    assert canvas.fixed[1].tolist() == ([False] * 4 + [True] * 4) * 2
    assert canvas.tokens[canvas.fixed].equal(real[canvas.fixed])
    assert (canvas.tokens[~canvas.fixed] == lm.tokenizer.mask_id).all()
    with pytest.raises(UserError, match="has 4 pieces of 16 tokens"):
        make_canvas(lm, setting("infill", 5), rows)


def test_the_cost_of_real_text_counts_the_tokens_to_fill_alone_and_says_if_it_is_exact(lm):
    torch.manual_seed(0)
    real = torch.randint(0, lm.tokenizer.vocab_size, (2, 16))
    half = torch.arange(16).expand(2, 16) < 8
    canvas = Canvas(torch.where(half, real, lm.tokenizer.mask_id), half)
    found = cost_of_real_text(lm, "left_to_right", None, setting("infill", 2), canvas, real)
    by_hand = []
    for row in real:
        nats = 0.0
        for place in range(8, 16):
            z = torch.where(torch.arange(16) < place, row, lm.tokenizer.mask_id)[None]
            logits = lm.network(z, (z == lm.tokenizer.mask_id).float().mean(1))
            nats -= logits[0, place].double().log_softmax(-1)[row[place]].item()
        by_hand.append(nats / 8)
    assert found["order_nats"] == pytest.approx(np.mean(by_hand), rel=1e-5)
    assert found["order_kind"] == "exact"
    assert cost_of_real_text(lm, "ancestral", 4, setting("infill", 2), canvas, real)["order_kind"] == "bound"


@pytest.mark.parametrize("task", ["generate", "infill"])
def test_a_bench_that_was_interrupted_repeats_nothing_and_ends_with_all_points(
    folder, tmp_path, monkeypatch, capsys, task
):
    out = tmp_path / "b.json"
    flags = ["samplers", "bench", str(folder / "masked"), "--judge", str(folder / "causal"), "--task", task]
    flags += ["--steps", "2", "4", "--num_texts", "3", "--num_scored", "2", "--out", str(out)]
    flags += ["--samplers", "first_hitting:sizes=cosine", "spread"]
    measure, measured = sampler_bench.measure, []

    def stops_at_the_third(lm, spec, steps, *rest):
        measured.append((spec, steps))
        if len(measured) == 3:
            raise KeyboardInterrupt
        return measure(lm, spec, steps, *rest)

    monkeypatch.setattr(sampler_bench, "measure", stops_at_the_third)
    assert main(flags) == 130
    assert main(flags) == 0
    cosine = "first_hitting:sizes=cosine"
    wanted = [(REFERENCE, None), (cosine, 2), (cosine, 4), ("spread", 2), ("spread", 4)]
    assert measured == [*wanted[:3], *wanted[2:]]
    record = json.loads(out.read_text())
    assert [(p["sampler"], p["steps"]) for p in record["points"]] == wanted
    assert [p["nfe_max"] for p in record["points"]][1:] == [2, 4, 2, 4]
    assert record["points"][0]["nfe_mean"] == (16 if task == "generate" else 8)
    assert ("recovered" in record["points"][0]) == (task == "infill")
    assert all(p["judge_nats"] > 0 and p["seconds"] > 0 for p in record["points"])
    assert out.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    output = capsys.readouterr().out
    assert "(validation text)" in output
    assert f"{record['points'][3]['judge_nats']:.3f}±" in output
    assert main([*flags, "--seed", "1"]) == 2
    assert "another model or setting" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--judge", "masked"], "is a masked model; a judge reads left to right"),
        (["--steps", "0"], "--steps has 0"),
        (["--num_texts", "1"], "--num_texts is 1, expected at least 2"),
        (["--samplers", "spraed"], "did you mean spread"),
        (["--out", "b.txt"], "is no .json file"),
    ],
)
def test_a_wrong_bench_is_refused_in_one_message(folder, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(folder)
    assert main(["samplers", "bench", "masked", *flags]) == 2
    assert message in capsys.readouterr().err


def test_a_causal_model_has_nothing_to_compare(folder, capsys):
    assert main(["samplers", "bench", str(folder / "causal")]) == 2
    assert "a causal model has one sampler" in capsys.readouterr().err
