"""`sample_quality` and its two commands: which texts are made and measured, and that they go on where they stopped."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mdlm_atat import MaskedDiffusionLM
from mdlm_atat.cli.main import main
from mdlm_atat.errors import UserError
from mdlm_atat.report.quality_lines import seconds_lines
from mdlm_atat.report.sample_quality import _look, panels_of
from mdlm_atat.runs import sample_quality as module
from mdlm_atat.runs.evaluate import open_data
from mdlm_atat.runs.sample_quality import (
    compared_samplers,
    cost_of_real_text,
    in_pieces_of,
    make_canvas,
    sample_quality,
)
from mdlm_atat.scoring.quality import REFERENCE, HowSampled, QualitySetting, SampleQuality, Task
from mdlm_atat.scoring.samples import RealTexts
from tiny_runs import leave_out_reports, train, write_text


def test_samplers_run_at_every_number_of_steps_unless_their_steps_follow_from_what_the_network_says(lm):
    ways = compared_samplers(lm, [4, 8], ["ancestral", "threshold", "spread", "first_hitting:num_steps=3"])
    assert [(how.sampler, how.steps) for how in ways] == [
        (REFERENCE, None),
        ("ancestral", 4),
        ("ancestral", 8),
        ("threshold", None),
        ("spread", 4),
        ("spread", 8),
        ("first_hitting:num_steps=3", None),
    ]


@pytest.mark.parametrize("steps", ["num_steps=3", "tokens_a_step=8", "least_steps=8"])
def test_a_sampler_whose_specification_says_its_steps_is_compared_once_and_on_the_curve_of_its_family(lm, steps: str):
    sampler = f"spread:{steps},score=margin"
    assert compared_samplers(lm, [4, 8], [sampler])[1:] == [HowSampled(sampler)]
    assert HowSampled(sampler).family == HowSampled("spread:score=margin", 4).family == "spread:score=margin"


def test_a_rule_of_ones_own_that_may_not_be_installed_is_one_curve_whatever_its_budget():
    assert HowSampled("mine.rules:RightToLeft:threshold=0.5,group=2").family == "mine.rules:RightToLeft:group=2"
    assert HowSampled("mine.rules:RightToLeft:block=2").family == HowSampled("mine.rules:RightToLeft").family


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATAT_CACHE", str(folder / "cache"))
        leave_out_reports(patch)
        text = write_text(folder / "text.txt")
        assert train(text, folder / "masked", train__num_steps=8) == 0
        assert train(text, folder / "causal", train__num_steps=8, model__kind="causal") == 0
        yield folder


@pytest.fixture(scope="module")
def lm(folder) -> MaskedDiffusionLM:
    return MaskedDiffusionLM.from_pretrained(folder / "masked")


def test_rules_that_follow_rates_are_compared_on_a_model_that_predicts_them_alone(lm, adaptive):
    followed = [{how.sampler.partition(":")[0] for how in compared_samplers(model, [8])} for model in (lm, adaptive)]
    assert followed[1] - followed[0] == {"follow_rates", "rate_hitting"}
    assert followed[0] < followed[1]
    assert compared_samplers(lm, [8])[0] == HowSampled(REFERENCE)


def test_dilated_unmasking_its_gaps_and_a_networks_own_left_to_right_are_among_the_samplers_compared(lm, monkeypatch):
    by_model = [compared_samplers(lm, [8, 16])]
    monkeypatch.setattr(type(lm), "modes", frozenset({"masked", "causal"}))
    by_model.append(compared_samplers(lm, [8, 16]))
    for ways in by_model:
        assert [how.steps for how in ways if how.sampler == "dilated"] == [8, 16]
        assert {how.family for how in ways} >= {"entropy_budget:spacing=8", "threshold:spacing=8"}
    assert HowSampled("dilated:block=32,skip_below=0.3").family == "dilated:skip_below=0.3"  # blocks are one curve
    assert {how.sampler for how in by_model[1]} - {how.sampler for how in by_model[0]} == {"left_to_right"}
    assert compared_samplers(lm, [8, 16], ["dilated:block=32"])[1:] == [HowSampled("dilated:block=32")]


def setting(task: Task, num_texts: int, length: int = 16) -> QualitySetting:
    return QualitySetting(task=task, num_texts=num_texts, length=length)


def test_half_of_every_text_to_infill_is_given_in_spans_of_4(lm):
    texts = RealTexts((np.arange(64).reshape(4, 16) % lm.tokenizer.vocab_size).tolist(), [])
    canvas, real = make_canvas(setting("infill", 4), texts, lm.tokenizer.mask_id)
    assert real is not None
    assert canvas.fixed.sum(1).tolist() == [8] * 4
    assert canvas.fixed[0].tolist() == ([True] * 4 + [False] * 4) * 2
    assert canvas.fixed[1].tolist() == ([False] * 4 + [True] * 4) * 2
    assert canvas.tokens[canvas.fixed].equal(real[canvas.fixed])
    assert (canvas.tokens[~canvas.fixed] == lm.tokenizer.mask_id).all()
    with pytest.raises(UserError, match="has 4 pieces of 16 tokens"):
        make_canvas(setting("infill", 5), texts, lm.tokenizer.mask_id)


def test_the_cost_of_real_text_counts_the_tokens_to_fill_alone_and_says_if_it_is_exact(lm):
    torch.manual_seed(0)
    real = torch.randint(0, lm.tokenizer.vocab_size, (2, 16))
    half = torch.arange(16).expand(2, 16) < 8
    found = cost_of_real_text(lm, HowSampled("left_to_right"), half, real, seed=0)
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
    assert cost_of_real_text(lm, HowSampled("ancestral", 4), half, real, seed=0)["order_kind"] == "bound"


def test_from_python_two_ways_are_two_points_and_nothing_is_measured_twice(lm, tmp_path, monkeypatch):
    ways = [HowSampled("spread", 2), HowSampled("spread", 2, 0.5)]
    heard = []
    file = tmp_path / "q.json"
    found = sample_quality(lm, ways, num_texts=3, save=file, progress=False, on_point=heard.append)
    assert [point.how for point in found.points] == ways
    assert heard == list(found.points)
    assert found.points[0].judge_nats is None
    assert "3 texts are few" in " ".join(found.points[1].cautions)
    monkeypatch.setattr(module._Measuring, "measure", None)
    assert sample_quality(lm, ways, num_texts=3, save=file, progress=False).points == found.points
    with pytest.raises(UserError, match="holds an evaluation of samples with another seed"):
        sample_quality(lm, ways, num_texts=3, save=file, progress=False, seed=1)


def test_the_texts_do_not_depend_on_how_many_are_made_at_a_time(lm):
    by_batch = [
        sample_quality(lm, [HowSampled("ancestral", 4)], num_texts=5, batch_size=size, save=False, progress=False)
        for size in (2, 5)
    ]
    one, other = (found.points[0] for found in by_batch)
    assert (one.batch_size, other.batch_size) == (2, 5)
    assert (one.entropy_nats, one.distinct_2) == (other.entropy_nats, other.distinct_2)


def test_a_text_in_one_piece_is_cut_to_rows_longer_than_the_models_and_documents_stay_as_they_are(lm):
    text = open_data(lm, None)
    assert [in_pieces_of(text, length).length for length in (8, 16, 64)] == [16, 16, 64]
    documents = replace(text, row_starts=np.arange(0, 64, 16))
    assert in_pieces_of(documents, 64) is documents


@pytest.mark.slow
def test_a_compiled_network_meets_every_shape_before_the_clock_starts(lm, monkeypatch):
    """On a GPU rows are padded to a power of two, and each new shape is compiled or recorded. Of 6 texts in batches of
    4 and 2, rows of several samplers are done one before the other."""
    hidden, warm_up = lm._hidden, module._Measuring.warm_up
    met, is_measured = set(), []

    def asked(z_t, t):
        shape = (1 << (len(z_t) - 1).bit_length(), z_t.shape[1])
        if not is_measured:
            met.add(shape)
        assert shape in met
        return hidden(z_t, t)

    def warms_up(self, how):
        is_measured.clear()
        warm_up(self, how)
        is_measured.append(True)

    monkeypatch.setattr(lm, "_hidden", asked)
    monkeypatch.setattr(lm, "is_compiled", True)
    monkeypatch.setattr(module._Measuring, "warm_up", warms_up)
    ways = [HowSampled("ancestral", 5), HowSampled("entropy_budget:gamma=2"), HowSampled("left_to_right")]
    for length in (16, 40):  # in one piece, and in blocks
        met.clear()
        found = sample_quality(lm, ways, num_texts=6, length=length, batch_size=4, save=False, progress=False)
        assert met == {(1, 16), (2, 16), (4, 16)}
        assert all(point.is_compiled for point in found.points)
        assert seconds_lines(found) == [
            "seconds are for 6 texts, 4 at a time, by a compiled network; what is done once is left out"
        ]


def test_seconds_of_an_earlier_version_are_said_to_hold_compiling(lm, tmp_path):
    file = tmp_path / "old.json"
    found = sample_quality(lm, [HowSampled("spread", 2)], num_texts=3, save=file, progress=False)
    old = json.loads(file.read_text())
    del old["points"][0]["is_compiled"]
    file.write_text(json.dumps(old))
    assert SampleQuality.load(file).points[0] == replace(found.points[0], is_compiled=None)
    ways = [HowSampled("spread", 2), HowSampled("spread", 4)]
    more = sample_quality(lm, ways, num_texts=3, save=file, progress=False)
    old_line, new_line = seconds_lines(more)
    assert old_line.startswith("seconds of 1 point are for 3 texts, 3 at a time, ")
    assert old_line.endswith(", with what compiling took, if the network was compiled")
    assert new_line.endswith(", by a network that is not compiled; what is done once is left out")


@pytest.fixture
def no_picture(monkeypatch) -> None:
    """Half a second each."""
    monkeypatch.setattr("mdlm_atat.report.sample_quality.draw_quality", lambda _, file: file)


@pytest.mark.slow
@pytest.mark.usefixtures("no_picture")
def test_texts_of_4_times_the_models_length_are_filled_in_blocks_of_a_quarter_of_it_and_have_a_file_of_their_own(
    folder, capsys
):
    """64 tokens in 16 blocks of 4: with a step for each, 16 evaluations. Validation text is as long."""
    flags = ["samplers", "bench", str(folder / "masked"), "--length", "64", "--num_texts", "2", "--num_scored", "2"]
    assert main([*flags, "--steps", "1", "2", "--samplers", "spread", "dilated"]) == 0
    record = SampleQuality.load(folder / "masked" / "samplers-generate-64.json")
    assert [point.nfe_mean for point in record.points] == [64, 16, 32, 16, 32]
    assert record.real.num_tokens == 2 * 64
    kinds = [point.order_kind for point in record.points]
    assert kinds == ["bound", *["exact"] * 4]
    assert "seconds are for 2 texts, 2 at a time, by a network that is not compiled" in capsys.readouterr().out


@pytest.mark.usefixtures("no_picture")
def test_a_saved_model_which_has_no_text_is_benched_on_one_that_is_named(lm, folder, tmp_path, capsys):
    saved = lm.save_pretrained(tmp_path / "saved")
    flags = ["samplers", "bench", str(saved), "--samplers", "spread", "--steps", "2", "--num_texts", "2"]
    assert main(flags) == 2
    assert "only a run has a validation text of its own; name a text with --data" in capsys.readouterr().err
    assert main([*flags, "--data", str(folder / "text.txt")]) == 0
    assert SampleQuality.load(saved / "samplers-generate.json").real.num_tokens == 2 * lm.max_length
    (other := tmp_path / "other.txt").write_text("a cat sat " * 80)
    assert main([*flags, "--data", str(other)]) == 2
    assert "another corpus_hash; name another file with --json" in capsys.readouterr().err


@pytest.mark.usefixtures("no_picture")
def test_mauve_is_of_the_judges_features_and_what_was_measured_without_is_measured_again(
    folder, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "b.json"
    flags = ["samplers", "bench", str(folder / "masked"), "--samplers", "spread", "--steps", "2", "4"]
    flags += ["--num_texts", "3", "--num_scored", "0", "--out", str(out)]
    assert main([*flags, "--mauve"]) == 2
    assert "--mauve compares texts by what a judge makes of them; name one with --judge" in capsys.readouterr().err
    flags += ["--judge", str(folder / "causal")]
    assert main(flags) == 0
    assert "MAUVE" not in capsys.readouterr().out
    before = SampleQuality.load(out)
    assert [point.mauve for point in (before.real, *before.points)] == [None] * 4
    assert main([*flags, "--mauve"]) == 0
    assert "MAUVE" in capsys.readouterr().out
    after = SampleQuality.load(out)
    assert [point.how for point in after.points] == [point.how for point in before.points]
    assert all(0 <= (point.mauve or -1) <= 1 for point in (after.real, *after.points))
    assert [point.judge_nats for point in after.points] == [point.judge_nats for point in before.points]
    monkeypatch.setattr(module._Measuring, "measure", None)
    assert main([*flags, "--mauve"]) == 0
    assert main(flags) == 0


def test_pictures_show_what_was_measured_and_no_two_of_36_curves_look_alike(lm):
    ways = [HowSampled(REFERENCE), HowSampled("spread", 2)]
    options = {"num_texts": 3, "save": False, "progress": False}
    alone, scored = (sample_quality(lm, ways, num_scored=number, **options) for number in (0, 2))
    assert [(panel.y, panel.x) for panel in panels_of(alone)] == [
        ("entropy_nats", "nfe_mean"),
        ("entropy_nats", "seconds"),
    ]
    whole = replace(scored, points=tuple(replace(p, judge_nats=1.0, mauve=0.5) for p in scored.points))
    assert [(panel.y, panel.x) for panel in panels_of(whole)] == [
        *((y, "nfe_mean") for y in ("judge_nats", "order_nats", "entropy_nats", "mauve")),
        ("judge_nats", "seconds"),
        ("order_nats", "seconds"),
        ("judge_nats", "entropy_nats"),
    ]
    assert len({_look(index)[:2] for index in range(36)}) == 36


def test_texts_of_the_old_rule_go_on_by_it(lm, tmp_path):
    file = tmp_path / "old.json"
    found = sample_quality(lm, [HowSampled("spread", 2)], num_texts=3, save=file, progress=False)
    old = {name: value for name, value in json.loads(file.read_text()).items() if name not in ("format", "seed_rule")}
    file.write_text(json.dumps(old))
    more = sample_quality(
        lm, [HowSampled("spread", 2), HowSampled("spread", 4)], num_texts=3, save=file, progress=False
    )
    assert more.seed_rule == "add"
    assert more.points[0] == found.points[0]


@pytest.mark.parametrize("task", ["generate", "infill"])
def test_a_bench_that_was_interrupted_repeats_nothing_and_ends_with_all_points(
    folder, tmp_path, monkeypatch, capsys, task
):
    out = tmp_path / "b.json"
    flags = ["samplers", "bench", str(folder / "masked"), "--judge", str(folder / "causal"), "--task", task]
    flags += ["--steps", "2", "4", "--num_texts", "3", "--num_scored", "2", "--out", str(out)]
    flags += ["--samplers", "first_hitting:sizes=cosine", "spread"]
    measure, measured = module._Measuring.measure, []

    def stops_at_the_third(self, how, *rest):
        measured.append((how.sampler, how.steps))
        if len(measured) == 3:
            raise KeyboardInterrupt
        return measure(self, how, *rest)

    monkeypatch.setattr(module._Measuring, "measure", stops_at_the_third)
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
    assert "validation text" in output
    assert f"{record['points'][3]['judge_nats']:.3f} ± " in output
    assert SampleQuality.load(out).is_complete
    assert main([*flags, "--seed", "1"]) == 2
    assert "with another seed; name another file with --json" in capsys.readouterr().err


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
