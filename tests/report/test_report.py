import json
import math
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mdlm_atat.errors import UserError
from mdlm_atat.formats import with_error
from mdlm_atat.report.report import write_report
from mdlm_atat.report.run_reader import read_run
from mdlm_atat.scoring.cost import OrderCost, SequenceSums, order_json

UNIGRAM_NATS = 3.3127


def training_line(step: int) -> dict[str, float]:
    rng = np.random.default_rng(step)
    loss = 1.7 + 2.5 * math.exp(-step / 220) + rng.normal(0, 0.16)
    return {
        "step": step,
        "train/loss": loss,
        "train/lr": 1e-3 * min(step / 100, 0.55 + 0.45 * math.cos(math.pi * step / 2000)),
        "train/grad_norm": 0.4 + 2 * math.exp(-step / 60) + abs(rng.normal(0, 0.05)),
        "train/tokens": step * 64 * 256,
        "train/tokens_per_s": 41000 + rng.normal(0, 900),
        "elapsed_s": step * 0.4,
    }


def evaluation_line(step: int) -> dict[str, float]:
    nats = 1.7231 + 2.0 * math.exp(-step / 220)
    return {
        "step": step,
        "eval/nelbo_nats_per_token": nats,
        "eval/standard_error": 0.011,
        "eval/bits_per_character": nats / math.log(2),
        "eval/perplexity": math.exp(nats),
        "elapsed_s": step * 0.4,
    }


def evaluation(step: int, num_draws: int, nats: float = 1.7231, split: str = "validation") -> dict[str, Any]:
    mask_rate = [(bin_ + 0.5) / 20 for bin_ in range(20)]
    return {
        "step": step,
        "checkpoint": f"checkpoints/step-{step:06}",
        "checkpoint_hash": "9f2c" * 16,
        "kind": "nelbo",
        "nelbo_nats_per_token": nats,
        "standard_error": 0.0043,
        "perplexity_per_token": math.exp(nats),
        "perplexity_per_word": math.exp(nats * 301_423 / 54_321),
        "nats_per_character": nats,
        "bits_per_character": nats / math.log(2),
        "bits_per_byte": nats / math.log(2),
        "num_draws": num_draws,
        "seed": 0,
        "split": split,
        "corpus_hash": "ab12" * 16,
        "tokenizer": "char",
        "mode": "wrap",
        "length": 256,
        "num_tokens": 301_423,
        "num_words": 54_321,
        "num_characters": 301_423,
        "num_bytes": 301_600,
        "code_version": "0.1.0",
        "commit": None,
        "machine": {"cpu": "some processor", "device": "cpu"},
        "profile": {
            "mask_rate": mask_rate,
            "nats_per_masked_token": [0.85 + 2.45 * rate**2.2 for rate in mask_rate],
            "standard_error": [0.05 - 0.04 * rate for rate in mask_rate],
            "num_masked_tokens": [int(50_000 * rate) for rate in mask_rate],
        },
        "unigram": {
            "nats_per_token": UNIGRAM_NATS,
            "bits_per_character": UNIGRAM_NATS / math.log(2),
            "standard_error": 0.001,
        },
    }


def inspection(num_tokens: int = 200) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    importance = rng.random(num_tokens)
    times = [0.25, 0.5, 0.75]
    return {
        "texts": ["<i>", "e", "\n", " "] * (num_tokens // 4),
        "importance": importance.round(4).tolist(),
        "times": times,
        "masked_importance": rng.random((3, num_tokens)).round(4).tolist(),
        "nll": (3 * importance + rng.random((3, num_tokens))).round(4).tolist(),
        "mask_rate": [(t ** np.exp(importance - 0.5)).round(4).tolist() for t in times],
        "correlation": {"pearson": 0.6789, "spearman": 0.5432},
    }


SCHEDULE = {
    "strategy": "importance",
    "nelbo_nats_per_token": 1.6543,
    "standard_error": 0.0051,
    "rate_nats_per_token": 0.0345,
    "perplexity_per_token": math.exp(1.6543),
    "bits_per_character": 1.6543 / math.log(2),
}


@pytest.fixture
def atat_run(run: Path) -> Path:
    """The same run with adaptive masking: an inspection, a schedule of its own, and what the curriculum logs."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    config |= {"importance": {"mode": "full"}, "masking": {"strategy": "importance"}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    (run / "inspection.json").write_text(json.dumps(inspection()))
    stored = json.loads((run / "evals" / "step-002000.json").read_text())
    (run / "evals" / "step-002000.json").write_text(json.dumps(stored | {"schedule": SCHEDULE}))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        share = line["step"] / 2000
        if "train/loss" in line:
            line |= {"curriculum/stage": int(3 * share * 0.999), "curriculum/temperature": 2 - share}
            line |= {"importance/q10": 0.4 - 0.2 * share, "importance/q50": 0.4, "importance/q90": 0.4 + 0.3 * share}
            line["importance/correlation"] = 0.8 * share
        else:
            line |= {"eval/schedule_nelbo_nats_per_token": line["eval/nelbo_nats_per_token"] - 0.07}
            line |= {"eval/schedule_standard_error": 0.01, "eval/schedule_perplexity": 5.2}
    write_lines(run / "metrics.jsonl", lines)
    return run


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of 2,000 steps with nothing missing."""
    folder = tmp_path / "char-demo"
    (folder / "evals").mkdir(parents=True)
    config = {
        "data": {"source": "shakespeare", "tokenizer": "char", "length": 256, "mode": "wrap", "validation": None},
        "model": {"kind": "masked", "num_layers": 6, "width": 384, "num_heads": 6, "dropout": 0.1},
        "objective": {"schedule": "linear", "beta": [3.0, 3.0], "weighting": "elbo", "time_sampling": "uniform"},
        "optim": {"lr": 0.002, "betas": [0.9, 0.98], "warmup_steps": 100},
        "train": {"num_steps": 2000, "batch_size": 64, "ema_decay": 0.999},
        "eval": {"num_draws": 2048, "final_num_draws": 4096},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    info = {
        "command": "atat train char --optim.lr 2e-3 --model.dropout 0.1",
        "preset": "char",
        "started": "2025-01-31T12:34:56+00:00",
        "versions": {"mdlm_atat": "0.1.0", "torch": "2.8.0", "python": "3.11.9"},
        "machine": {"cpu": "some processor", "device": "cpu", "num_processes": 1},
        "commit": None,
        "parameters": 10_745_088,
        "data": {
            "source": "shakespeare",
            "hash": "cd34" * 8 + "ab12" * 8,
            "tokenizer": "char",
            "train_tokens": 4_812_345,
        },
        "unigram": {"nats_per_token": UNIGRAM_NATS, "bits_per_character": UNIGRAM_NATS / math.log(2)},
    }
    (folder / "run.json").write_text(json.dumps(info))
    steps = range(10, 2001, 10)
    lines = [line for step in steps for line in (training_line(step), *([evaluation_line(step)] * (step % 250 == 0)))]
    write_lines(folder / "metrics.jsonl", lines)
    (folder / "evals" / "step-002000.json").write_text(json.dumps(evaluation(2000, 4096)))
    text = "KING HENRY:\nOnce more unto the breach, dear friends, <script>alert('once more')</script> & again;\n" * 6
    sample = {"text": text, "step": 2000, "seed": 3, "num_steps": 128, "nfe": 115, "sampler": "ancestral"}
    write_lines(folder / "samples.jsonl", [sample | {"seed": seed} for seed in range(3)])
    return folder


def page_of(run: Path) -> str:
    path = write_report(run)
    assert path == run / "report.html"
    return path.read_text(encoding="utf-8")


def text_of(page: str) -> str:
    """What a reader sees, without spaces doubled: no tags, entities as the characters that they stand for."""

    class Text(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.parts: list[str] = []

        def handle_data(self, data: str) -> None:
            self.parts.append(data)

    parser = Text()
    parser.feed(page)
    return " ".join("".join(parser.parts).split())


def test_the_page_makes_0_requests(run: Path):
    page = page_of(run)
    assert not re.search(r"<(script|link|iframe|img|object|embed|base)\b", page)
    assert not re.search(r"\b(src|srcset|action|data)\s*=", page)
    assert not re.search(r"@import|url\((?!#)", page)
    assert set(re.findall(r'href="(.)', page)) == {"#"}
    assert "http://" not in page
    assert "https://" not in page


def test_both_figures_are_in_the_page_and_no_id_occurs_twice(run: Path):
    page = page_of(run)
    assert page.count("<svg ") == page.count("</svg>") == 2
    for label in (
        "nats per token",
        "gradient norm",
        "learning rate",
        "nats per masked token",
        "share of tokens masked",
    ):
        assert f">{label}</text>" in page
    assert f">unigram model, {UNIGRAM_NATS:.2f}</text>" in page
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids)) > 20
    assert set(re.findall(r'(?:url\(|href=")#([^")]*)', page)) <= set(ids)


@pytest.mark.usefixtures("no_pictures")
def test_a_script_in_a_sample_a_name_or_a_command_stays_text_in_all_3_places(run: Path):
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(info | {"command": "atat train '<script>1</script>'"}))
    run = run.rename(run.with_name("<script>run<"))
    page = page_of(run)
    assert "<script" not in page
    assert "&lt;script&gt;alert(&#39;once more&#39;)&lt;/script&gt; &amp; again;" in page
    assert "<h1>&lt;script&gt;run&lt;</h1>" in page
    assert "atat train &#39;&lt;script&gt;1&lt;/script&gt;&#39;" in page


@pytest.mark.usefixtures("no_pictures")
def test_the_headline_shows_the_stored_numbers_to_two_digits_of_their_error(run: Path):
    text = text_of(page_of(run))
    assert "1.7231 ± 0.0043" in text
    assert f"{1.7231 / math.log(2):.4f} ± {0.0043 / math.log(2):.4f}" in text
    assert f"{math.exp(1.7231):.3f} ± {0.0043 * math.exp(1.7231):.3f}" in text
    assert f"{UNIGRAM_NATS:.4f}" in text
    assert "−1.5896" in text
    assert "48.0%" in text
    assert "perplexity per word" not in text  # 9.6 nats a word
    assert "10.7 million" in text
    assert "13 min 20 s" in text  # 2,000 steps of 0.4 s
    assert "4,096 draws" in text


@pytest.mark.usefixtures("no_pictures")
def test_settings_that_differ_from_the_defaults_are_the_3_marked_ones(run: Path):
    page = page_of(run)
    assert page.count('<tr class="changed">') == 3  # dropout, lr, num_steps
    for default in ("0.0", "0.001", "1000"):
        assert f"(default {default})" in page


@pytest.mark.usefixtures("no_pictures")
def test_the_page_tells_how_to_repeat_and_to_resume_with_the_folder_quoted(run: Path):
    text = text_of(page_of(run.rename(run.with_name("two words"))))
    assert "atat train char --optim.lr 2e-3 --model.dropout 0.1" in text
    assert re.search(r"atat train --resume '[^']*two words'", text)


@pytest.mark.usefixtures("no_pictures")
def test_everything_stored_with_the_number_is_in_the_provenance(run: Path):
    text = text_of(page_of(run))
    for name, value in evaluation(2000, 4096).items():
        assert name == "profile" or name in text
        if isinstance(value, str):
            assert value in text
    for name in ("versions.torch", "2.8.0", "machine.num_processes", "data.train_tokens", "4812345"):
        assert name in text


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(
    "name", ["config.yaml", "run.json", "metrics.jsonl", "samples.jsonl", "evals/step-002000.json"]
)
def test_each_of_5_files_may_be_missing_and_4_may_be_cut_off_in_the_middle(run: Path, name: str):
    kept = (run / name).read_bytes()
    (run / name).unlink()
    text = text_of(page_of(run))
    assert "Missing from this run" in text
    assert (f"{name} is not there." in text) or (name.startswith("evals") and "holds no evaluation" in text)
    if name != "config.yaml":  # half a YAML file is often good YAML
        (run / name).write_bytes(kept[: len(kept) // 2])
        assert "cut off" in text_of(page_of(run))


@pytest.mark.parametrize("name", ["config.yaml", "run.json", "metrics.jsonl", "samples.jsonl", "inspection.json"])
def test_the_report_of_a_strangers_run_reads_no_link_and_no_file_without_end(tmp_path: Path, name: str):
    for made in ("config.yaml", "run.json", "metrics.jsonl", "samples.jsonl", "inspection.json"):
        (tmp_path / made).write_text("{}\n")
    secret = tmp_path.parent / f"secret-{name}"
    secret.write_text('{"importance": {"mode": "full"}, "text": "the secret", "command": "the secret"}\n')
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to(secret)
    found = read_run(tmp_path)
    assert "the secret" not in repr(found)
    assert any(gap.startswith(f"{name} could not be read") for gap in found.gaps)


def test_a_bomb_of_aliases_in_the_settings_of_a_run_costs_the_report_its_settings_alone(tmp_path: Path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    (tmp_path / "config.yaml").write_text("\n".join(lines))
    assert read_run(tmp_path).gaps[0] == "config.yaml could not be read: it is cut off or altered."


@pytest.mark.usefixtures("no_pictures")
def test_a_run_of_a_config_and_2_metrics_gives_a_page_with_its_numbers(tmp_path: Path):
    (tmp_path / "config.yaml").write_text("train: {num_steps: 50}\n")
    write_lines(tmp_path / "metrics.jsonl", [training_line(10), evaluation_line(20)])
    text = text_of(page_of(tmp_path))
    assert with_error(evaluation_line(20)["eval/nelbo_nats_per_token"], 0.011) in text
    assert "steps20of 50 planned" in text  # label, value and note are three elements with no space between
    assert "there is no floor to compare with" in text
    assert "No samples are stored." in text


@pytest.mark.usefixtures("no_pictures")
def test_half_a_last_line_and_a_line_glued_to_it_cost_2_lines_and_no_more(run: Path):
    metrics = run / "metrics.jsonl"
    whole = metrics.read_text()
    metrics.write_text('{"step": 5, "train/lo' + whole + '{"step": 2010, "train/loss": 1.')
    text = text_of(page_of(run))
    assert "metrics.jsonl: 2 lines were cut off and left out." in text
    assert "1.7231 ± 0.0043" in text


def test_a_loss_that_is_not_finite_is_counted_and_the_curve_is_drawn_without_it(run: Path):
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 2010, "train/loss": math.nan, "train/grad_norm": math.inf}) + "\n")
    page = page_of(run)
    assert "was not a finite number on 1 logged line" in page
    assert page.count("<svg ") == 2


def test_bins_without_tokens_are_null_in_the_profile_and_the_other_19_are_drawn(run: Path):
    stored = evaluation(2000, 4096)
    stored["profile"]["nats_per_masked_token"][0] = stored["profile"]["standard_error"][0] = None
    (run / "evals" / "step-002000.json").write_text(json.dumps(stored))
    assert page_of(run).count("<svg ") == 2


@pytest.mark.usefixtures("no_pictures")
def test_of_4_evaluations_the_headline_is_the_latest_step_with_most_draws_on_the_runs_own_data(run: Path):
    others = {
        "early": evaluation(1000, 8192, nats=1.9),
        "quick": evaluation(2000, 64, nats=1.8),
        "elsewhere": evaluation(2000, 9000, nats=2.5) | {"corpus_hash": "other"},
    }
    for name, stored in others.items():
        (run / "evals" / f"{name}.json").write_text(json.dumps(stored))
        os.utime(run / "evals" / f"{name}.json", (4e9, 4e9))  # newest, to no avail
    text = text_of(page_of(run))
    assert text.index("1.7231 ± 0.0043") < text.index("All evaluations")
    assert [text.count(f"{stored['nelbo_nats_per_token']:.4f} ± 0.0043") for stored in others.values()] == [1, 1, 1]


@pytest.mark.usefixtures("no_pictures")
def test_an_exact_likelihood_is_not_called_a_bound(run: Path):
    stored = evaluation(2000, 4096) | {"kind": "exact", "standard_error": 0.0}
    del stored["profile"]
    (run / "evals" / "step-002000.json").write_text(json.dumps(stored))
    page = page_of(run)
    assert "bound" not in text_of(page).split("How to read this")[0].replace("bound_", "")
    assert page.count("<svg ") == 1


@pytest.mark.usefixtures("no_pictures")
def test_9_samples_give_6_and_say_so(run: Path):
    line = (run / "samples.jsonl").read_text().splitlines()[0]
    (run / "samples.jsonl").write_text(f"{line}\n" * 9)
    page = page_of(run)
    assert page.count("<article>") == 6
    assert "6 of 9 stored samples" in page


@pytest.mark.usefixtures("no_pictures")
def test_a_sample_keeps_its_leading_line_ends_and_2000_characters(run: Path):
    text = "\n\n  " + "x" * 1995 + "\u2028!"
    (run / "samples.jsonl").write_text(json.dumps({"text": text, "step": 1}, ensure_ascii=False), encoding="utf-8")
    # the first line end after <pre> is the parser's to drop, so the template puts one there
    assert f"<pre>\n{text}</pre>" in page_of(run)


def test_a_folder_without_any_of_the_5_is_a_users_mistake(tmp_path: Path):
    with pytest.raises(UserError, match="not a run folder"):
        write_report(tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        write_report(tmp_path / "nowhere")


def test_writing_twice_gives_the_same_bytes_and_leaves_1_new_file(run: Path):
    before = set(run.iterdir())
    assert page_of(run) == page_of(run)
    assert set(run.iterdir()) - before == {run / "report.html"}


def test_a_run_with_importance_has_3_more_figures_and_a_heatmap_of_128_tokens(atat_run: Path):
    page = page_of(atat_run)
    assert page.count("<svg ") == page.count("</svg>") == 5
    text = text_of(page)
    assert "tokens: correlation 0.68 (Pearson), 0.54 (Spearman)" in text
    hard = sorted(inspection()["importance"])[170:190]  # 85% to 95%
    assert f"hard tokens, importance {np.mean(hard):.2f}" in text
    assert "The first 128 of 200 tokens." in text
    assert ">temperature factor</text>" in page
    assert ">hard</text>" in page  # the last stage
    assert ">10th to 90th percentile</text>" in page
    stored = inspection()
    for n in (0, 127):
        title = f"t 0.5: importance {stored['masked_importance'][1][n]:.4f}, loss {stored['nll'][1][n]:.4f}"
        assert f'title="{title}"' in page
    assert "<i>" not in page
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))


def test_ppl_s_stands_beside_ppl_u_and_is_the_second_line_of_the_curves(atat_run: Path):
    page = page_of(atat_run)
    text = text_of(page)
    headline = text[: text.index("Curves")]
    for expected in (
        "1.7231 ± 0.0043",
        "1.6543 ± 0.0051",
        f"{math.exp(1.6543):.3f} ± {0.0051 * math.exp(1.6543):.3f}",
        f"{1.6543 / math.log(2):.4f} ± {0.0051 / math.log(2):.4f}",
        "0.0345 of it for predicting the rates",
        "perplexity per token, at most (PPL-U)",
        "perplexity per token, at most (PPL-S)",
    ):
        assert headline.count(expected) == 1
    assert ">validation bound, uniform (PPL-U)</text>" in page
    assert ">validation bound, own (PPL-S)</text>" in page
    assert "PPL-S is the bound under the model's own masking schedule (importance)" in text


def test_left_to_right_and_own_orders_stand_below_the_bound_by_name_with_what_is_exact(run: Path):
    def in_order(order: str, nats: float, **more: Any) -> dict[str, Any]:
        sums = SequenceSums.of([nats] * 7, [1] * 7)
        cost = OrderCost(order=order, nats_per_token=nats, standard_error=0.0123, sequences=sums, **more)
        return order_json(cost)

    orders = {
        "left_to_right": in_order("left_to_right", 1.5432, evaluations=1.0),
        "own_orders": [in_order("first_hitting", 1.8765, evaluations=16.0, num_steps=16, is_exact=False)],
    }
    (run / "evals" / "step-002000.json").write_text(json.dumps(evaluation(2000, 4096) | orders))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        if "eval/nelbo_nats_per_token" in line:
            line["eval/left_to_right_nats_per_token"] = line["eval/nelbo_nats_per_token"] - 0.3
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = page_of(run)
    text = text_of(page)
    headline = text[: text.index("Curves")]
    for expected in (
        "left to right, nats per token",
        "1.543 ± 0.012",
        "exact; 7 sequences",
        "own order of first hitting, 16 evaluations, nats per token",
        "at most: the order is random; 7 sequences",
    ):
        assert headline.count(expected) == 1
    assert ">left to right (exact)</text>" in page
    assert "Compare each with the same of another model, never with its bound" in text


@pytest.mark.usefixtures("no_pictures")
def test_before_the_last_evaluation_ppl_s_comes_from_the_metrics(atat_run: Path):
    (atat_run / "evals" / "step-002000.json").unlink()
    text = text_of(page_of(atat_run))
    assert with_error(evaluation_line(2000)["eval/nelbo_nats_per_token"] - 0.07, 0.01) in text
    assert "PPL-S" in text


@pytest.mark.usefixtures("no_pictures")
def test_a_masking_that_leaks_has_ppl_u_alone_and_the_page_says_why(atat_run: Path):
    config = yaml.safe_load((atat_run / "config.yaml").read_text())
    config["masking"]["strategy"] = "literal_importance"
    (atat_run / "config.yaml").write_text(yaml.safe_dump(config))
    (atat_run / "evals" / "step-002000.json").write_text(json.dumps(evaluation(2000, 4096) | {"schedule": None}))
    lines = [line for line in (atat_run / "metrics.jsonl").read_text().splitlines() if "schedule_" not in line]
    (atat_run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    text = text_of(page_of(atat_run))
    assert "Only PPL-U is reported: the masking strategy literal_importance leaks what it hides" in text
    assert "at most (PPL-U)" in text
    assert "PPL-S" not in text


def test_the_uniform_schedules_ppl_s_is_ppl_u_and_not_shown_twice(run: Path):
    before = page_of(run)
    uniform = SCHEDULE | {"strategy": "uniform", "nelbo_nats_per_token": 1.7231}
    stored = evaluation(2000, 4096) | {"schedule": uniform}
    (run / "evals" / "step-002000.json").write_text(json.dumps(stored))
    after = page_of(run)
    assert "PPL" not in text_of(after)
    assert after.split("Provenance")[0] == before.split("Provenance")[0]


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("content", [None, "", "{", '{"texts": ["a"]}', "[]"])
def test_a_lost_or_damaged_inspection_costs_its_2_figures_and_is_named(atat_run: Path, content: str | None):
    (atat_run / "inspection.json").unlink()
    if content is not None:
        (atat_run / "inspection.json").write_text(content)
    page = page_of(atat_run)
    assert page.count("<svg ") == 3
    assert "inspection.json " in text_of(page)
    assert 'class="heatmap"' not in page


def test_importing_the_report_imports_neither_torch_nor_pyplot():
    code = "import sys, mdlm_atat.report.report; sys.exit('torch' in sys.modules or 'matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, env=os.environ).returncode == 0
