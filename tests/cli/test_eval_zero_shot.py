"""`atat eval --zero-shot`, on trained runs, on an exact model, and on a folder in the hub's format."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from refusals import refused

from mdlm_atat import MaskedDiffusionLM
from mdlm_atat.cli.main import main
from mdlm_atat.config.schema import RunConfig
from mdlm_atat.data.tokenizers import CharTokenizer
from mdlm_atat.nets.dit import ATATDiT
from mdlm_atat.runs.evaluate import evaluate
from mdlm_atat.runs.zero_shot import open_set
from mdlm_atat.scoring import zero_shot
from mdlm_atat.scoring.zero_shot import ZeroShotSet, zero_shot_set
from toys import Joint

DRAWS = ["--num_draws", "64"]


@pytest.fixture
def run(runs, cache, tmp_path) -> Path:
    return Path(shutil.copytree(runs / "masked", tmp_path / "run"))


@pytest.fixture
def texts(tmp_path) -> Path:
    """Documents shorter and longer than the model's 16 tokens."""
    folder = tmp_path / "texts"
    folder.mkdir()
    lines = ["the cat", "a dog sat on a mat and ran to see", "so", "you can be so kind as that old man was then"]
    (folder / "lines.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines * 5))
    (folder / "prose.txt").write_text("that old man was so kind\n" * 20)
    return folder


def records(run: Path) -> dict[str, dict]:
    found = [json.loads(file.read_text()) for file in (run / "evals").glob("*zero-shot*.json")]
    return {record["zero_shot"]: record for record in found}


def test_each_text_is_stored_and_has_its_line_in_one_table(run, texts, capsys):
    names = [str(texts / "lines.jsonl"), str(texts / "prose.txt")]
    assert main(["eval", str(run), "--zero-shot", *names, *DRAWS, "--json", str(texts / "all.json")]) == 0
    out = capsys.readouterr().out
    found = records(run)
    assert list(json.loads((texts / "all.json").read_text())["zero_shot"]) == names == sorted(found)
    for name in names:
        (line,) = [line for line in out.splitlines() if line.startswith(name)]
        assert f"{found[name]['nelbo_nats_per_token']:.4f} ± {found[name]['standard_error']:.4f}" in line
        assert line.endswith("pad  none")
        assert found[name]["detokenizer"] is None


def test_no_token_of_a_document_is_lost_and_no_padding_is_scored(run, texts):
    assert main(["eval", str(run), "--zero-shot", str(texts / "lines.jsonl"), *DRAWS]) == 0
    (found,) = records(run).values()
    lines = [json.loads(line)["text"] for line in (texts / "lines.jsonl").read_text().splitlines()]
    assert found["num_tokens"] == sum(len(line) + 1 for line in lines)  # each with its end
    assert found["num_sequences"] == sum(math.ceil((len(line) + 1) / 16) for line in lines)
    lengths = [float(length) for length in found["blocks"]["length"].split()]
    assert max(lengths) < 16 * 16


def test_packed_texts_share_sequences(run, texts):
    command = ["eval", str(run), "--zero-shot", str(texts / "lines.jsonl"), *DRAWS, "--mode", "wrap"]
    assert main(command) == 0
    (found,) = records(run).values()
    assert found["mode"] == "wrap"
    assert found["num_sequences"] == math.ceil(found["num_tokens"] / 16)


def test_detokenizers_are_stored_change_the_text_and_can_be_turned_off(run, texts, monkeypatch):
    file = texts / "lines.jsonl"
    file.write_text(json.dumps({"text": "the cat \n sat on a mat"}) + "\n")
    known = ZeroShotSet(name="wikitext-2", source=str(file), detokenize="wikitext")
    monkeypatch.setitem(zero_shot.ZERO_SHOT_SETS, "wikitext-2", known)
    assert main(["eval", str(run), "--zero-shot", "wikitext-2", *DRAWS]) == 0
    (published,) = records(run).values()
    assert published["detokenizer"] == "wikitext"
    assert published["num_characters"] == len("the cat\nsat on a mat")
    shutil.rmtree(run / "evals")
    assert main(["eval", str(run), "--zero-shot", "wikitext-2", "--detokenizer", "none", *DRAWS]) == 0
    (plain,) = records(run).values()
    assert plain["detokenizer"] is None
    assert plain["num_characters"] == len("the cat \n sat on a mat")


def test_a_set_known_by_name_is_read_from_a_folder_in_the_hubs_format(run, texts, monkeypatch, capsys):
    import pyarrow
    from pyarrow import parquet

    hub = texts / "hub"
    for split, text in (("train", "the dog"), ("validation", "the cat sat on a mat")):
        file = hub / "penn" / split / "0000.parquet"
        file.parent.mkdir(parents=True)
        parquet.write_table(pyarrow.table({"sentence": [text] * 4}), file)
    known = zero_shot_set("ptb")
    stand_in = replace(known, source=f"hub:{hub}@~parquet:penn")
    monkeypatch.setitem(zero_shot.ZERO_SHOT_SETS, "ptb", stand_in)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["eval", str(run), "--zero-shot", "ptb", *DRAWS]) == 0
    (found,) = records(run).values()
    assert found["zero_shot"] == "ptb"
    assert found["detokenizer"] == "ptb"
    assert found["corpus"]["split"] == "validation"
    assert found["corpus"]["converted"]
    assert found["num_characters"] == 4 * len("the cat sat on a mat")
    assert "wrap  ptb" in capsys.readouterr().out


class Exact(ATATDiT):
    """The conditionals of a joint whose sequences end with a token that is always the same. Its output layer is the
    identity: a network's logits are what that makes of `hidden`."""

    def __init__(self, joint: Joint) -> None:
        super().__init__(joint.mask_id, joint.sequences.shape[1], num_layers=1, width=4, num_heads=1)
        self.joint = joint

    def hidden(self, z_t, t, lengths=None):  # noqa: ARG002
        return self.joint.denoise(z_t, t).clamp_min(-1e3)  # minus infinity times nothing is no number

    def output_layer(self):
        return torch.eye(self.vocab_size, dtype=torch.float64), None


def test_the_zero_shot_numbers_of_an_exact_model_are_the_entropy_of_the_text(tmp_path, monkeypatch):
    monkeypatch.setenv("ATAT_CACHE", str(tmp_path / "cache"))
    drawn = Joint.random(length=3, vocab=3)
    documents = ["".join("abc"[token] for token in row) for row in drawn.rows().ids.tolist()]
    (tmp_path / "joint.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    with_end = torch.cat([drawn.sequences, torch.full((27, 1), 3)], dim=1)  # eos is token 3
    tokenizer = CharTokenizer("abc")
    config = RunConfig()
    config = replace(config, data=replace(config.data, length=4))
    lm = MaskedDiffusionLM(Exact(Joint(with_end, drawn.counts)), tokenizer, config)
    lm.counts, lm.home = np.array([1, 1, 1, 1]), tmp_path
    data = open_set(lm, zero_shot_set(str(tmp_path / "joint.jsonl")))
    assert (data.num_tokens, data.num_evaluation_rows) == (96 * 4, 96)
    found = evaluate(lm, data, num_draws=96 * 100, num_steps=(1, 2, 4, 64), progress=False)
    entropy = drawn.entropy_nats / 4  # the end costs nothing
    assert abs(found.nats_per_token - entropy) < 4 * found.standard_error
    assert found.standard_error < 0.01
    assert found.nats_per_character == pytest.approx(found.nats_per_token * 4 / 3)
    nats = [bound.nats_per_token for bound in found.t_step]
    assert nats == sorted(nats, reverse=True)
    assert nats[-1] > entropy - 4 * found.standard_error
    assert found.deciles is not None
    assert sum(found.deciles.nats_per_token) / 10 == pytest.approx(found.nats_per_token, abs=1e-9)


def test_ends_that_the_model_never_saw_in_training_are_warned_of_where_they_are_many(run, texts, capsys):
    (texts / "one.txt").write_text("that old man was so kind\n" * 60)  # 1,500 letters, and an end
    assert main(["eval", str(run), "--zero-shot", str(texts / "lines.jsonl"), str(texts / "one.txt"), *DRAWS]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    share = 20 / records(run)[str(texts / "lines.jsonl")]["num_tokens"]
    assert f"lines.jsonl: {share:.1%} of the tokens are ends of documents" in line


def test_the_causal_model_is_scored_exactly(runs, cache, texts, tmp_path, capsys):
    run = Path(shutil.copytree(runs / "causal", tmp_path / "causal"))
    assert main(["eval", str(run), "--zero-shot", str(texts / "prose.txt"), *DRAWS]) == 0
    assert records(run)[str(texts / "prose.txt")]["kind"] == "exact"
    assert "exact" in capsys.readouterr().out


def test_mistakes_are_all_told_before_anything_is_scored(run, texts, capsys):
    own = str(texts / "prose.txt")
    cases = (
        (["--zero-shot", own, "pbt", "lm2b"], "no zero-shot set of that name"),
        (["--zero-shot", own, own], "is named twice"),
        (["--zero-shot", own, "--detokenizer", "moses"], "there is no detokenizer 'moses'"),
        (["--zero-shot", own, "--data", own], "--data: not with --zero-shot"),
        (["--zero-shot", own, "--profile"], "--profile: not with --zero-shot"),
        (["--detokenizer", "ptb"], "--detokenizer: for --zero-shot only"),
    )
    for argv, message in cases:
        assert message in refused(["eval", str(run), *argv], capsys, run)
    both = refused(["eval", str(run), "--zero-shot", "pbt", "lm2b"], capsys, run)
    assert "folder pbt" in both
    assert "folder lm2b" in both


def test_a_hub_that_does_not_answer_names_the_set(run, monkeypatch, capsys):
    monkeypatch.setattr("mdlm_atat.data.sources.hub_unreachable", lambda: "no network")
    assert main(["eval", str(run), "--zero-shot", "lambada", *DRAWS]) == 2
    message = capsys.readouterr().err
    assert "lambada: the hub cannot be reached (no network)" in message
    assert not list((run / "evals").glob("*zero-shot*"))
