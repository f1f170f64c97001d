"""Runs whose loss is that of answers alone, through the commands that a person gives."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from mdlm_atat import MaskedDiffusionLM, evaluate, load_lm, train
from mdlm_atat.cli.main import main
from mdlm_atat.config.files import load_config
from mdlm_atat.core.left_to_right import CausalNLL
from mdlm_atat.core.objective import MaskedDiffusion
from mdlm_atat.errors import UserError
from processes import run_ranks
from tiny_runs import MASKED, TINY, leave_out_reports, losses_of, method_flags, tiny_flags, write_text

WORDS = ["cat", "dog", "mat", "old man"]


def write_chats(file: Path, number: int = 60) -> Path:
    """Answers of very different lengths, some conversations of two turns."""
    rng, rows = random.Random(0), []
    for _ in range(number):
        turns = []
        for _ in range(rng.choice([1, 1, 2])):
            word = rng.choice(WORDS)
            turns += [{"role": "user", "content": word}, {"role": "assistant", "content": word * rng.choice([1, 3])}]
        rows.append({"messages": turns})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


ANSWERS = {"data__column": "messages", "data__loss_on": "answers", "data__length": 64}


@pytest.fixture(scope="module", autouse=True)
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chats(tmp_path_factory.mktemp("chats") / "chats.jsonl")


@pytest.fixture(autouse=True)
def cache(chats: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATAT_CACHE", str(chats.parent / "cache"))
    leave_out_reports(monkeypatch)


def test_a_masked_run_says_of_every_number_that_it_is_of_answers(
    chats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "demo", "--out", str(tmp_path / "run"), *tiny_flags(chats, **ANSWERS)]) == 0
    said = capsys.readouterr()
    said = said.out + said.err
    assert "on answers alone, " in said
    assert "each is a row of its own, its prompt before it" in said
    assert "nats/token of answers" in said
    assert "nats per answer token" in said
    assert "nats per token" not in said
    assert "the answer to a held-out prompt" in said
    (record,) = [json.loads(file.read_text()) for file in (tmp_path / "run" / "evals").iterdir()]
    assert (record["loss_on"], record["mode"]) == ("answers", "pad")
    start = json.loads((tmp_path / "run" / "run.json").read_text())["data"]
    assert record["num_tokens"] == start["valid_tokens"] < start["train_tokens"]
    lm = load_lm(tmp_path / "run")
    prompt = lm.prompt_of([{"role": "user", "content": "cat"}])
    assert prompt == "User: cat\nAssistant:"
    assert lm.generate(prompt, max_new_tokens=3).text.startswith(prompt)
    with pytest.raises(UserError, match="by no template"):
        lm.prompt_of({"question": "cat"})

    other = write_chats(tmp_path / "other.jsonl", 30)
    capsys.readouterr()
    assert main(["eval", str(tmp_path / "run"), "--data", str(other), "--column", "messages"]) == 0
    assert "nats per answer token" in capsys.readouterr().out
    whole = evaluate(lm, other, column="messages", loss_on="all", num_draws=32, progress=False, save=False)
    answers = evaluate(lm, other, column="messages", num_draws=32, progress=False, save=False)
    assert (whole.text.loss_on, answers.text.loss_on) == ("all", "answers")
    assert answers.counts.num_tokens < whole.counts.num_tokens / 2
    with pytest.raises(UserError, match=r"what of them is scored|the text, or its tokens"):
        answers.compare(whole)
    with pytest.raises(UserError, match="`loss_on=`: the text of a run is scored as it was trained on"):
        evaluate(lm, loss_on="all")


@pytest.mark.parametrize(("kind", "objective"), [("masked", MaskedDiffusion), ("causal", CausalNLL)])
def test_a_step_is_told_which_tokens_of_its_rows_are_prompts_and_divides_by_the_others(
    kind: str, objective: Any, chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, loss = [], objective.loss

    def recorded(self: Any, model: Any, *of_rows: Any, **options: Any) -> Any:
        given.append((*of_rows, options["prompts"]))
        return loss(self, model, *of_rows, **options)

    monkeypatch.setattr(objective, "loss", recorded)
    settings = {"data.tokenizer": "byte", "data.length": 128, "model.kind": kind, "eval.num_samples": 0}
    settings = {**MASKED, **TINY, **settings, "data.column": "messages", "data.loss_on": "answers"}
    train("demo", data=chats, out=tmp_path / "run", settings=settings, progress=False)
    assert len(given) >= 8
    for x0, lengths, _draw, num_tokens, prompts in given:
        assert num_tokens == (lengths - prompts).sum()
        for row, length, prompt in zip(x0, lengths, prompts, strict=True):
            assert bytes(row[:prompt].tolist()).endswith(b"Assistant:")
            assert row[prompt] == ord(" ")
            assert row[length - 1] == 256  # eos


@pytest.mark.parametrize("kind", ["masked", "causal"])
def test_micro_batches_have_the_losses_of_the_whole_batch(kind: str, chats: Path, tmp_path: Path) -> None:
    settings = {**ANSWERS, "train__num_steps": 4, "model__kind": kind, "eval__num_samples": 0}
    for parts in (1, 4):
        flags = tiny_flags(chats, **settings, train__num_micro_batches=parts)
        assert main(["train", "demo", "--out", str(tmp_path / str(parts)), *flags]) == 0
    assert losses_of(tmp_path / "4") == pytest.approx(losses_of(tmp_path / "1"), abs=1e-5)


@pytest.mark.slow
def test_two_processes_match_one(chats: Path, tmp_path: Path) -> None:
    settings = {**ANSWERS, "train__num_steps": 4, "eval__num_samples": 0}
    for number in (1, 2):
        run_ranks(number, ["train", "demo", "--out", str(tmp_path / str(number)), *tiny_flags(chats, **settings)])
    assert losses_of(tmp_path / "2") == pytest.approx(losses_of(tmp_path / "1"), abs=1e-5)


@pytest.mark.parametrize("method", ["atat", "importance_rates", "literal_importance", "two_way"])
def test_methods_with_importance_curriculum_and_two_ways_train_on_answers(
    method: str, chats: Path, tmp_path: Path
) -> None:
    settings = {**ANSWERS, "train__num_steps": 2, "eval__num_samples": 0, "train__eval_interval_steps": 2}
    if method == "two_way":
        flags = tiny_flags(chats, **settings, objective__causal_share=0.5)
    else:
        flags = method_flags(method, chats, **settings, train__batch_size=8)
    assert main(["train", "demo", "--out", str(tmp_path / "run"), *flags]) == 0
    (record,) = [json.loads(file.read_text()) for file in (tmp_path / "run" / "evals").iterdir()]
    assert record["loss_on"] == "answers"


def test_a_run_on_answers_stops_and_resumes_bit_for_bit(chats: Path, tmp_path: Path) -> None:
    flags = tiny_flags(chats, **ANSWERS, eval__num_samples=0, model__kind="causal")
    assert main(["train", "demo", "--out", str(tmp_path / "whole"), *flags]) == 0
    settings: dict[str, Any] = {**MASKED, **TINY, "model.kind": "causal", "eval.num_samples": 0}
    settings |= {name.replace("__", "."): value for name, value in ANSWERS.items()}
    stopped = train("demo", data=chats, out=tmp_path / "parts", settings=settings, progress=False, on_step=is_half)
    assert stopped.stopped
    train(resume=tmp_path / "parts", progress=False)
    assert losses_of(tmp_path / "parts") == losses_of(tmp_path / "whole")


def test_a_run_that_begins_with_one_on_answers_trains_on_another_text_as_any_run_does(
    chats: Path, tmp_path: Path
) -> None:
    settings = {**MASKED, **TINY, "data.tokenizer": "byte", "train.num_steps": 1, "eval.num_samples": 0}
    answers = {name.replace("__", "."): value for name, value in ANSWERS.items()}
    train("demo", data=chats, out=tmp_path / "first", settings={**settings, **answers}, progress=False)
    text = write_text(tmp_path / "text.txt")
    for number, (source, changed, expected) in enumerate((
        (text, {}, ("wrap", "all", "text")),
        (text, {"data.mode": "pad"}, ("pad", "all", "text")),
        (None, {}, ("pad", "answers", "messages")),
    )):  # fmt: skip
        out = tmp_path / str(number)
        train(init=tmp_path / "first", data=source, out=out, settings=changed, progress=False)
        data = load_config(str(out / "config.yaml")).data
        assert (data.mode, data.loss_on, data.column) == expected


def is_half(step: int, _values: object) -> bool:
    return step == 4


def test_a_network_is_fitted_to_answers_in_place(chats: Path, masked: MaskedDiffusionLM) -> None:
    import copy

    lm = MaskedDiffusionLM(copy.deepcopy(masked.network), masked.tokenizer, masked.config)
    talk = [[{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat"}]] * 40
    talk += [[{"role": "user", "content": "a dog"}, {"role": "assistant", "content": "ran"}]]
    with pytest.raises(UserError, match="not among"):  # the tokenizer of that text has no capitals and no colon
        lm.fit(talk, loss_on="answers", num_steps=2, progress=False)
    rows = chats.parent / "rows.jsonl"
    lines = [json.dumps({"q": f"the {word}", "a": f"{word} sat"}) for word in ("cat", "dog", "man") * 9]
    rows.write_text("\n".join(lines))
    settings: dict[str, Any] = {"num_steps": 2, "log_interval_steps": 1, "batch_size": 4}
    found = lm.fit(str(rows), loss_on="answers", template="{q} {a}", progress=False, **settings)
    assert [row["step"] for row in found] == [1, 2]


def test_a_text_without_answers_is_refused_with_what_to_do(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = tiny_flags(text, data__loss_on="answers")
    assert main(["train", "demo", "--out", str(tmp_path / "run"), *flags]) == 2
    message = capsys.readouterr().err
    assert "there are no answers in" in message
    assert "--data.column messages" in message
    assert not (tmp_path / "run").exists()
