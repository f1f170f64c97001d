"""`atat eval` and `atat generate` on a trained run, and the Python interface to the same."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from mdlm_atat import CausalLM, MaskedDiffusionLM, UserError
from mdlm_atat.cli.main import main
from mdlm_atat.report.report import write_report
from tiny_runs import write_text

pytestmark = pytest.mark.usefixtures("no_report")


@pytest.fixture
def folder(runs, cache) -> Path:
    return runs


@pytest.fixture
def lm(masked) -> MaskedDiffusionLM:
    return masked


def test_eval_prints_the_stored_numbers_with_every_unit_and_the_floor(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("mdlm_atat.report.report.write_report", write_report)
    assert main(["eval", str(folder / "masked"), "--num_draws", "64", "--json", str(tmp_path / "r.json")]) == 0
    output = capsys.readouterr().out
    record = json.loads((tmp_path / "r.json").read_text())
    assert f"{record['nelbo_nats_per_token']:.4f} ± {record['standard_error']:.4f} nats per token" in output
    assert f"{record['bits_per_character']:.4f}" in output
    assert f"{record['unigram']['bits_per_character']:.4f} bits per character: the floor to beat" in output
    assert record["num_draws"] == 64
    assert f"report     {folder / 'masked' / 'report.html'}\n" in output
    assert (folder / "masked" / "report.html").stat().st_size > 0
    stored = ("corpus_hash", "tokenizer", "mode", "eos", "length", "checkpoint_hash", "seed", "code_version", "machine")
    assert all(record[name] is not None for name in stored)


def test_eval_gives_the_same_number_again_and_another_for_another_seed(folder, tmp_path):
    values = []
    for seed in ("0", "0", "1"):
        file = tmp_path / "r.json"
        assert main(["eval", str(folder / "masked"), "--num_draws", "32", "--seed", seed, "--json", str(file)]) == 0
        values.append(json.loads(file.read_text())["nelbo_nats_per_token"])
    assert values[0] == values[1] != values[2]


def test_eval_scores_another_text_whole_with_the_runs_own_tokenizer(folder, tmp_path, capsys):
    other = tmp_path / "other.txt"
    other.write_text("the cat sat on a mat\n" * 40)
    assert main(["eval", str(folder / "masked"), "--data", str(other), "--json", str(tmp_path / "r.json")]) == 0
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["num_characters"] == len(other.read_text())
    assert record["split"] == "valid"
    assert "840 characters" in capsys.readouterr().out


def test_one_checkpoint_can_be_named(folder, tmp_path):
    checkpoint = sorted((folder / "masked" / "checkpoints").glob("step-*"))[0]
    assert main(["eval", str(checkpoint), "--num_draws", "32", "--json", str(tmp_path / "r.json")]) == 0
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["checkpoint"] == checkpoint.name
    assert record["step"] == int(checkpoint.name.removeprefix("step-"))


def test_generate_writes_text_and_jsonl_with_one_seed_a_text(folder, tmp_path, capsys):
    base = ["generate", str(folder / "masked"), "--steps", "8", "--num_samples", "3", "--seed", "5"]
    assert main([*base, "--out", str(tmp_path / "t.jsonl")]) == 0
    lines = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert [(line["base_seed"], line["index"]) for line in lines] == [(5, 0), (5, 1), (5, 2)]
    assert len({line["seed"] for line in lines}) == 3
    assert all(len(line["tokens"]) == 16 and line["nfe"] <= 8 for line in lines)
    assert len({line["text"] for line in lines}) == 3
    capsys.readouterr()
    assert main([*base, "--batch_size", "2"]) == 0
    printed = capsys.readouterr().out
    assert all(line["text"] in printed for line in lines)  # whatever the batches


def test_generate_begins_with_the_prompt_and_watches_it_being_filled(folder, capsys):
    assert main(["generate", str(folder / "masked"), "--prompt", "the ", "--steps", "16", "--watch"]) == 0
    output = " ".join(capsys.readouterr().out.split())  # the title wraps
    assert output.count("step ") >= 3  # still frames where there is no terminal
    assert "12 of 12 revealed" in output


def test_prompts_from_a_file_keep_their_order(folder, tmp_path):
    (tmp_path / "prompts.txt").write_text("cat\ndog\n")
    out = tmp_path / "t.jsonl"
    command = ["generate", str(folder / "masked"), "--prompts", str(tmp_path / "prompts.txt"), "--num_samples", "2"]
    assert main([*command, "--steps", "4", "--out", str(out)]) == 0
    texts = [json.loads(line)["text"] for line in out.read_text().splitlines()]
    assert [text[:3] for text in texts] == ["cat", "cat", "dog", "dog"]


def test_the_causal_run_is_scored_exactly_and_generates(folder, tmp_path, capsys):
    assert main(["eval", str(folder / "causal"), "--json", str(tmp_path / "r.json")]) == 0
    assert json.loads((tmp_path / "r.json").read_text())["kind"] == "exact"
    assert "at most" not in capsys.readouterr().out
    assert main(["generate", str(folder / "causal"), "--prompt", "a", "--watch"]) == 0
    assert CausalLM.from_pretrained(folder / "causal").generate(["a"], length=9, seed=1)[0].nfe == 8


def test_a_saved_model_gives_the_same_texts_and_scores_as_its_run(folder, lm, tmp_path):
    lm.save_pretrained(tmp_path / "saved")
    assert {file.suffix for file in (tmp_path / "saved").rglob("*") if file.is_file()} <= {
        ".safetensors",
        ".json",
        ".yaml",
        ".npy",
        ".md",
        ".py",
    }
    again = MaskedDiffusionLM.from_pretrained(tmp_path / "saved")
    assert again.generate(["a", ""], steps=8, seed=3) == lm.generate(["a", ""], steps=8, seed=3)
    assert again.score(["the cat"]) == lm.score(["the cat"])
    with pytest.raises(UserError, match="is not empty"):
        lm.save_pretrained(tmp_path / "saved")


def test_training_data_scores_better_than_its_letters_shuffled(lm):
    good, shuffled = lm.score(["the cat sat on a mat and", "tna h ctas oe manttd aea"], num_draws=2048)
    assert good.nats + 4 * (good.standard_error + shuffled.standard_error) < shuffled.nats
    assert good.num_tokens == 24
    assert good.nats_per_token == good.nats / 24


def test_a_text_longer_than_the_model_is_scored_in_pieces(lm):
    (score,) = lm.score(["the cat sat " * 5])
    assert score.num_tokens == 60 > lm.max_length
    assert 20 < score.nats < 300


def test_the_causal_score_of_more_pieces_than_draws_is_still_exact(folder):
    causal = CausalLM.from_pretrained(folder / "causal")
    text = "the cat sat on a mat and ran to see " * 60
    first, second = causal.score([text], num_draws=4, seed=0)[0], causal.score([text], num_draws=4, seed=1)[0]
    assert (first.num_tokens, first.is_exact) == (len(text), True)
    assert first.nats == pytest.approx(second.nats, rel=1e-9)
    assert first.standard_error == 0


def test_a_truncated_saved_model_and_a_lost_tokenizer_are_found_out(folder, lm, tmp_path):
    saved = lm.save_pretrained(tmp_path / "saved")
    (saved / "model.safetensors").write_bytes((saved / "model.safetensors").read_bytes()[:-10])
    with pytest.raises(UserError, match=r"model.safetensors is damaged \(Error while deserializing header"):
        MaskedDiffusionLM.from_pretrained(saved)
    shutil.copytree(folder / "masked", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "tokenizer")
    with pytest.raises(UserError, match="has lost its folder tokenizer"):
        MaskedDiffusionLM.from_pretrained(tmp_path / "run")


def test_temperature_0_generates_the_same_text_for_every_seed_in_one_step(lm):
    texts = lm.generate(["", ""], steps=1, temperature=0, seed=0)
    assert texts[0].text == texts[1].text


def test_loading_leaves_the_callers_random_numbers_alone(folder):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    MaskedDiffusionLM.from_pretrained(folder / "masked")
    assert torch.rand(1).equal(expected)


REFUSALS = {
    "no such folder": (["eval", "{folder}/nowhere"], "there is no folder"),
    "not a run": (["eval", "{folder}"], "neither a run folder"),
    "config.yaml of a site": (["generate", "{folder}/site"], "site/config.yaml: theme: unknown key"),
    "no checkpoint yet": (["generate", "{folder}/begun"], "go on with atat train --resume"),
    "few draws": (["eval", "{folder}/masked", "--num_draws", "5"], "at least 32"),
    "no draws": (["eval", "{folder}/masked", "--num_draws", "0"], "at least 1"),
    "missing data": (["eval", "{folder}/masked", "--data", "nowhere.txt"], "nowhere.txt"),
    "unknown device": (["eval", "{folder}/masked", "--device", "tpu9"], "expected cpu, cuda or mps"),
    "alien character": (["generate", "{folder}/masked", "--prompt", "caf\u00e9"], "U+00E9"),
    "alien text": (["eval", "{folder}/masked", "--data", "{folder}/alien.txt"], "U+00E9"),
    "long prompt": (["generate", "{folder}/masked", "--prompt", "the cat sat on a mat"], "shorten the prompt"),
    "no length": (["generate", "{folder}/masked", "--length", "0"], "length is 0"),
    "no steps": (["generate", "{folder}/masked", "--steps", "0"], "--steps is 0"),
    "cold": (["generate", "{folder}/masked", "--temperature", "-1"], "temperature is -1"),
    "no samples": (["generate", "{folder}/masked", "--num_samples", "0"], "--num_samples is 0"),
    "no prompts": (["generate", "{folder}/masked", "--prompts", "{folder}/none.txt"], "there is no file"),
    "two prompts": (["generate", "{folder}/masked", "--prompt", "a", "--prompts", "x"], "not both"),
    "not a temperature": (["generate", "{folder}/masked", "--temperature", "nan"], "temperature is nan"),
    "out is a folder": (["generate", "{folder}/masked", "--out", "{folder}"], "is a folder"),
    "json nowhere": (["eval", "{folder}/masked", "--json", "{folder}/x/y.json"], "make it first"),
    "no batch": (["eval", "{folder}/masked", "--batch_size", "0"], "--batch_size is 0"),
    "resume nowhere": (["train", "--resume", "{folder}/nowhere"], "there is no run folder"),
    "no out folder": (["generate", "{folder}/masked", "--out", "{folder}/x/y.txt"], "make it first"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_mistake_is_one_message_with_exit_code_2(case, folder, capsys):
    (folder / "alien.txt").write_text("caf\u00e9 " * 50)
    for name, settings in (("site", "theme: dark"), ("begun", (folder / "masked" / "config.yaml").read_text())):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "config.yaml").write_text(settings)
    arguments, expected = REFUSALS[case]
    assert main([argument.format(folder=folder) for argument in arguments]) == 2
    message = capsys.readouterr().err
    assert expected in message
    assert message.count("error:") == 1


def test_data_prepared_with_another_tokenizer_is_refused_with_what_to_do(folder, tmp_path, capsys):
    text = write_text(tmp_path / "t.txt")
    assert main(["data", "prepare", str(text), "--tokenizer", "byte", "--out", str(tmp_path / "bytes")]) == 0
    assert main(["eval", str(folder / "masked"), "--data", str(tmp_path / "bytes")]) == 2
    assert "another tokenizer (byte)" in capsys.readouterr().err


def test_a_model_of_the_other_kind_names_the_right_class(folder):
    with pytest.raises(UserError, match=r"CausalLM\.from_pretrained"):
        MaskedDiffusionLM.from_pretrained(folder / "causal")
