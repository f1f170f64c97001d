"""Models of this package in lm-evaluation-harness, on small tasks from local files."""

from __future__ import annotations

import json
import math
import os
import random
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from mdlm_atat import CausalLM, MaskedDiffusionLM, UserError
from mdlm_atat.cli.main import main
from mdlm_atat.lm.continuations import windows
from mdlm_atat.nets.two_way import TwoWayDiT
from mdlm_atat.task_names import check_task_names
from processes import run_ranks
from test_docs import ROOT, commands_of, run_blocks
from tiny_runs import train

CHOICES = [
    {"q": "the cat sat on", "choices": [" a mat", " can be"], "gold": 0},
    {"q": "a dog ran to", "choices": [" see if", " the the"], "gold": 0},
    {"q": "if you can be so", "choices": [" dog", " kind as"], "gold": 1},
    {"q": "the old", "choices": [" man was", " sat on a mat"], "gold": 0},
    {"q": "and ran", "choices": [" to", " so"], "gold": 0},
]
TEXTS = [
    {"text": text} for text in ("the cat sat on a mat", "a", "the old man was kind and ran to see if you can be", "")
]


def metrics(**found: tuple[str, bool]) -> list[dict[str, Any]]:
    return [{"metric": name, "aggregation": how, "higher_is_better": up} for name, (how, up) in found.items()]


TASKS: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "tiny_choice": (
        CHOICES,
        {
            "output_type": "multiple_choice",
            "doc_to_text": "{{q}}",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "{{gold}}",
            "metric_list": metrics(acc=("mean", True), acc_norm=("mean", True)),
        },
    ),
    "tiny_word": (  # as LAMBADA: the last word
        [{"text": f"{each['q']}{each['choices'][each['gold']]}"} for each in CHOICES],
        {
            "output_type": "loglikelihood",
            "doc_to_text": "{{text.rsplit(' ', 1)[0]}}",
            "doc_to_target": "{{' ' + text.rsplit(' ', 1)[1]}}",
            "metric_list": metrics(perplexity=("perplexity", False), acc=("mean", True)),
        },
    ),
    "tiny_text": (
        TEXTS,
        {
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "{{text}}",
            "metric_list": metrics(
                word_perplexity=("weighted_perplexity", False), bits_per_byte=("bits_per_byte", False)
            ),
        },
    ),
    "tiny_writing": (
        CHOICES,
        {
            "output_type": "generate_until",
            "doc_to_text": "{{q}}",
            "doc_to_target": "{{choices[gold]}}",
            "generation_kwargs": {"until": [" t", "\n"], "max_gen_toks": 8, "do_sample": False},
            "metric_list": metrics(exact_match=("mean", True)),
        },
    ),
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("tasks")
    for name, (rows, about) in TASKS.items():
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        files = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test"}
        task = {"task": name, "target_delimiter": "", **files, **about}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(task))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_DATASETS_CACHE", str(folder / "cache"))
        patch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")
        yield folder


@pytest.fixture(scope="module")
def two_way(masked: MaskedDiffusionLM) -> MaskedDiffusionLM:
    """A network of chance that fills masks and reads left to right."""
    torch.manual_seed(0)
    network = TwoWayDiT(masked.tokenizer.vocab_size, 16, num_layers=1, width=16, num_heads=2)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return MaskedDiffusionLM(network, masked.tokenizer)


@pytest.fixture
def run(tasks: Path) -> Callable[..., Any]:
    from mdlm_atat.harness import run_tasks

    def run(model: Any, *names: str, **more: Any) -> Any:
        return run_tasks(
            model,
            names or [*TASKS],
            **{"include_path": tasks, "save": False, "progress": False, "num_draws": 32, **more},
        )

    return run


def request_of(*arguments: Any) -> Any:
    from lm_eval.api.instance import Instance

    return Instance("loglikelihood", {}, arguments, 0)


@pytest.fixture
def adapted(masked: MaskedDiffusionLM, causal: CausalLM, two_way: MaskedDiffusionLM) -> dict[str, Any]:
    from mdlm_atat.harness import HarnessModel

    lms = {"masked": masked, "causal": causal, "two_way": two_way}
    return {name: HarnessModel(lm, num_draws=32, batch_size=4) for name, lm in lms.items()}


@pytest.mark.parametrize("kind", ["masked", "causal", "two_way"])
def test_all_four_kinds_of_tasks_give_what_the_library_gives(
    kind: str, run: Callable[..., Any], request: pytest.FixtureRequest
) -> None:
    lm = request.getfixturevalue(kind)
    found = run(lm, batch_size=3)
    scored = [lm.score(each["choices"], given=each["q"], num_draws=32) for each in CHOICES]  # seed 0, as there
    right = [
        scores[each["gold"]].nats == min(score.nats for score in scores)
        for each, scores in zip(CHOICES, scored, strict=True)
    ]
    assert found.value("tiny_choice", "acc") == pytest.approx(sum(right) / 5)
    last = [(row["text"].rsplit(" ", 1)[0], " " + row["text"].rsplit(" ", 1)[1]) for row in TASKS["tiny_word"][0]]
    nats = [lm.score(word, given=context, num_draws=32).nats for context, word in last]
    assert found.value("tiny_word", "perplexity") == pytest.approx(math.exp(sum(nats) / 5), rel=1e-4)
    sampler = "left_to_right" if kind != "masked" else "spread"
    written = [
        lm.generate(context, max_new_tokens=len(word), temperature=0).text == context + word for context, word in last
    ]
    assert found.value("tiny_word", "acc") == pytest.approx(sum(written) / 5)
    exact = kind != "masked"
    likelihood = "left to right, exact" if exact else "any order, an upper bound from 32 draws"
    for task, metric in (("tiny_word", "perplexity"), ("tiny_text", "bits_per_byte")):
        assert vars(found.basis(task, metric)) == {"of": likelihood, "is_bound": not exact}
    assert vars(found.basis("tiny_word", "acc")) == {"of": f"greedy text by {sampler}", "is_bound": False}
    assert found.basis("tiny_choice", "acc").of == f"compares answers by {likelihood}"
    assert found.basis("tiny_writing", "exact_match").of == f"text by {sampler}"
    lines = str(found).splitlines()
    assert len(lines) == 8
    perplexity = next(line for line in lines if " perplexity " in line)
    assert ("≤" in perplexity) is not exact
    assert perplexity.endswith(likelihood)
    assert json.dumps(found.record)


def test_a_score_depends_neither_on_batch_nor_on_order_nor_on_company(adapted: dict[str, Any], masked: Any) -> None:
    from mdlm_atat.harness import HarnessModel

    asked = [request_of(each["q"], choice) for each in CHOICES for choice in each["choices"]]
    for name, lm in adapted.items():
        found = lm.loglikelihood(asked)
        alone = HarnessModel(lm.lm, num_draws=32, batch_size=1)
        backwards = alone.loglikelihood(asked[::-1])[::-1]
        assert [nats for nats, _ in found] == pytest.approx([nats for nats, _ in backwards], abs=1e-4), name
        assert [greedy for _, greedy in found] == [greedy for _, greedy in backwards], name
    other = HarnessModel(masked, num_draws=32, seed=1).loglikelihood(asked)
    assert [nats for nats, _ in other] != [nats for nats, _ in adapted["masked"].loglikelihood(asked)]


def test_what_the_model_writes_itself_is_greedy_and_anything_else_is_not(adapted: dict[str, Any]) -> None:
    for name, lm in adapted.items():
        contexts = ["the cat", "a dog ran", ""]
        own = [lm.lm.generate(each, max_new_tokens=5, temperature=0).text[len(each) :] for each in contexts]
        found = lm.loglikelihood([request_of(*pair) for pair in zip(contexts, own, strict=True)])
        assert [greedy for _, greedy in found] == [True] * 3, name
        other = [text[:-1] + ("k" if text[-1] != "k" else "o") for text in own]
        found = lm.loglikelihood([request_of(*pair) for pair in zip(contexts, other, strict=True)])
        assert [greedy for _, greedy in found] == [False] * 3, name


def test_a_text_of_three_windows_has_each_token_scored_once(adapted: dict[str, Any]) -> None:
    text = TEXTS[2]["text"][:42]
    lm = adapted["causal"]
    (rolling, nothing) = lm.loglikelihood_rolling([request_of(text), request_of("")])
    assert nothing == 0
    parts = windows([], lm.lm.tokenizer.encode(text), 16, overlap=1, seed=0).parts
    assert [len(part.tokens) for part in parts] == [16, 15, 11]
    assert [len(part.given) for part in parts] == [0, 1, 5]
    decode = lm.lm.tokenizer.decode
    by_hand = lm.lm.score(text[:16]).nats
    for part in parts[1:]:
        before, after = decode(part.given), decode([*part.given, *part.tokens])
        by_hand += lm.lm.score(after).nats - lm.lm.score(before).nats
    assert -rolling == pytest.approx(by_hand, abs=1e-4)


def test_a_model_that_was_trained_behind_bos_is_shown_it_once_in_every_row(
    masked: MaskedDiffusionLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mdlm_atat.harness import HarnessModel

    bos_id = masked.tokenizer.eos_id
    config = replace(masked.config, model=replace(masked.config.model, bos_id=bos_id))
    lm = MaskedDiffusionLM(masked.network, masked.tokenizer, config)
    seen: list[Any] = []
    hidden = masked.network.hidden
    monkeypatch.setattr(masked.network, "hidden", lambda z_t, *more: seen.extend(z_t) or hidden(z_t, *more))
    adapted = HarnessModel(lm, num_draws=32, batch_size=4)
    texts = ("the cat", "an old man sat", "to see if you can be")
    adapted.loglikelihood([request_of(texts[0], texts[1]), request_of("", texts[0]), request_of(texts[2], texts[1])])
    adapted.loglikelihood_rolling([request_of(texts[2])])
    assert len(seen) > 100
    for row in seen:
        assert row[0] == bos_id
        assert (row == bos_id).sum() == 1


def test_texts_end_at_a_stop_string_and_after_the_tokens_that_are_allowed(adapted: dict[str, Any]) -> None:
    for name, lm in adapted.items():
        free = lm.generate_until([request_of("the cat", {"until": [], "max_gen_toks": 9})])[0]
        assert free == lm.lm.generate("the cat", max_new_tokens=9, temperature=0).text[7:], name
        stop = free[3:5]
        ended = lm.generate_until([
            request_of("the cat", {"until": [stop], "max_gen_toks": 9}),
            request_of("the cat", {"until": stop, "max_gen_toks": 2}),
            request_of("a dog", {"until": ["\0"], "max_gen_toks": 40}),  # beyond the model's length
        ])  # fmt: skip
        assert ended[0] == free[: free.index(stop)], name
        assert len(ended[1]) <= 2
        assert len(ended[2]) >= 30


def test_a_text_that_is_drawn_several_times_is_another_each_time_and_the_same_again(adapted: dict[str, Any]) -> None:
    drawn = request_of("the", {"until": [], "max_gen_toks": 12, "do_sample": True, "temperature": 1.0})
    for name, lm in adapted.items():
        texts = lm.generate_until([drawn] * 4)
        assert len(set(texts)) > 1, name
        lm.finished.answers.clear()
        assert lm.generate_until([drawn] * 2) == texts[:2], name
        greedy = request_of("the", {"until": [], "max_gen_toks": 12, "do_sample": False})
        assert len(set(lm.generate_until([greedy] * 3))) == 1, name


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_the_share_of_each_process_together_is_what_one_finds_in_order(masked: Any, num_ranks: int) -> None:
    """The processes one after the other: each is told at last what those before it have found."""
    from mdlm_atat.harness import HarnessModel

    asked = [request_of(each["q"], each["choices"][0]) for each in CHOICES]
    expected = HarnessModel(masked, num_draws=32).loglikelihood(asked)
    gathered: list[dict[str, Any]] = []

    class Rank:
        device = None

        def __init__(self, rank: int) -> None:
            self.rank, self.num_ranks = rank, num_ranks

        def gather_objects(self, share: Any) -> list[Any]:
            gathered.append(share)
            return gathered if self.rank == num_ranks - 1 else [share, dict.fromkeys(keys - set(share), (0.0, False))]

        def on_main(self, work: Callable[[], Any]) -> Any:
            return work()

    lms = [HarnessModel(masked, num_draws=32, ranks=Rank(rank)) for rank in range(num_ranks)]
    keys = {lms[0].finished.key("loglikelihood", each.args) for each in asked}
    *_, found = [lm.loglikelihood(asked) for lm in lms]
    assert sorted(map(len, gathered), reverse=True) == ([3, 2] if num_ranks == 2 else [2, 2, 1])
    assert [nats for nats, _ in found] == pytest.approx([nats for nats, _ in expected], abs=1e-4)


def test_the_command_prints_the_table_stores_it_and_goes_on_after_an_interruption(
    runs: Path, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mdlm_atat.harness import HarnessModel

    out = tmp_path / "found/harness.json"
    command = ["harness", str(runs / "causal"), "--tasks", "tiny_w*d,tiny_choice", "--include_path", str(tasks)]
    command += ["--out", str(out), "--batch_size", "1", "--limit", "3", "--device", "cpu"]
    whole, done = HarnessModel._continuations, []

    def until_the_fourth(self: Any, asked: Any) -> Any:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.extend(asked)
        return whole(self, asked)

    monkeypatch.setattr(HarnessModel, "_continuations", until_the_fourth)
    assert main(command) == 130
    assert "3 answers are kept: the same command goes on from them" in capsys.readouterr().err
    kept = out.parent / "harness.requests.jsonl"
    assert len(kept.read_text().splitlines()) == 3
    kept.write_text(kept.read_text() + '["cut o')  # killed as it wrote
    monkeypatch.setattr(HarnessModel, "_continuations", lambda self, asked: done.extend(asked) or whole(self, asked))
    assert main(command) == 0
    assert len(done) == len(set(done)) == 9  # 3 words, and 2 choices of 3 questions
    assert not kept.exists()
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == ["task", "shots", "metric", "value", "from"]
    assert [line.split()[0] for line in printed if line.startswith("tiny")] == ["tiny_word", "tiny_choice"]
    assert printed[-1] == f"stored in {out}"
    record = json.loads(out.read_text())
    assert record["results"]["tiny_word"]["sample_len"] == 3
    assert record["likelihoods"]["tiny_word"]["perplexity,none"] == {"of": "left to right, exact", "is_bound": False}
    assert record["config"]["likelihood"] == "left to right, exact"
    assert "samples" not in record
    assert main([*command, "--samples"]) == 0
    again = json.loads(out.read_text())
    assert again["results"] == record["results"]
    assert len(again["samples"]["tiny_word"]) == 3


@pytest.mark.slow
def test_two_processes_find_what_one_does(runs: Path, tasks: Path, tmp_path: Path) -> None:
    command = [
        "harness",
        str(runs / "causal"),
        "--tasks",
        "tiny_word",
        "--include_path",
        str(tasks),
        "--batch_size",
        "1",
    ]
    assert main([*command, "--out", str(tmp_path / "one.json"), "--device", "cpu"]) == 0
    run_ranks(2, [*command, "--out", str(tmp_path / "two.json"), "--samples"])
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    for metric in ("perplexity,none", "acc,none", "perplexity_stderr,none"):
        assert two["results"]["tiny_word"][metric] == pytest.approx(one["results"]["tiny_word"][metric], rel=1e-4)
    assert [each["doc_id"] for each in two["samples"]["tiny_word"]] == [0, 1, 2, 3, 4]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["one.json", "two.json"]


@pytest.mark.slow
def test_a_mistyped_task_is_refused_before_the_harness_and_torch_are_imported(
    runs: Path, tasks: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "mdlm_atat.harness", None)  # an import of it fails
    command = ["harness", str(runs / "masked"), "--include_path", str(tasks), "--tasks"]
    names = "tiny_word,mmlu,gpqa,truthfulqa_multilingual,mgsm_cot_native"  # groups and tags among the harness's own
    assert main([*command, f"{names},arc_eazy"]) == 2
    assert "knows no task 'arc_eazy'; did you mean arc_easy?" in capsys.readouterr().err
    assert main([*command, "arc_easy", "nosuch.yaml"]) == 2
    assert "there is no file nosuch.yaml" in capsys.readouterr().err


def test_results_that_cannot_be_written_are_refused_by_the_name_of_the_commands_own_flag(
    runs: Path, tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["harness", str(runs / "masked"), "--include_path", str(tasks), "--tasks", "tiny_word"]
    assert main([*words, "--out", str(tmp_path)]) == 2
    assert f"error: --out: {tmp_path} is a folder; name a file in it" in capsys.readouterr().err
    monkeypatch.setattr("mdlm_atat.atomic.os.access", lambda _place, _mode: False)
    assert main([*words, "--out", str(tmp_path / "closed.json")]) == 2
    assert f"error: --out: {tmp_path / 'closed.json'} cannot be written; choose" in capsys.readouterr().err


@pytest.fixture
def small_harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To look for a name in all of the harness's own files, of which few are here, takes three seconds."""
    own = tmp_path / "small_harness/tasks"
    own.mkdir(parents=True)
    (own / "known.yaml").write_text("group: mmlu\ntask: [gpqa]\ntag: truthfulqa_multilingual\n")
    (own / "_made").write_text("task: mgsm_cot_native\n")
    found = ModuleSpec("lm_eval", None, is_package=True)
    found.submodule_search_locations = [str(own.parent)]
    monkeypatch.setattr("mdlm_atat.task_names.find_spec", lambda _: found)


def test_names_that_the_harness_alone_can_tell_are_left_to_it(tasks: Path, tmp_path: Path, small_harness: None) -> None:
    check_task_names(("tiny_w*", "arc_[ce]*", "two words", "a:b", str(tasks / "tiny_word.yaml")), tasks)
    check_task_names(("mmlu", "gpqa", "truthfulqa_multilingual", "tiny_word", "mgsm_cot_native"), tasks)
    with pytest.raises(UserError, match="knows no task 'tiny_wor'; did you mean tiny_word"):
        check_task_names(("tiny_wor",), tasks)
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "numbers").touch()
    os.truncate(folder / "numbers", 1 << 36)  # which are no task, and more than the memory
    (folder / "mine.yaml").write_text("task: my_word\n")
    (tmp_path / "theirs.yaml").write_text("task: their_word\n")
    (folder / "linked.yaml").symlink_to(tmp_path / "theirs.yaml")
    check_task_names(("my_word", "their_word"), folder)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tasks": ["tiny_wrod"]}, "knows no task 'tiny_wrod'; did you mean tiny_word"),
        ({"tasks": ["nosuch.yaml"]}, "there is no file nosuch.yaml"),
        ({"tasks": []}, "`tasks=` is empty"),
        ({"include_path": "nosuch"}, "`include_path=`: there is no folder nosuch"),
        ({"limit": 1.5}, r"`limit=1.5`, expected a whole number"),
        ({"num_draws": 16}, "16 draws are too few"),
        ({"order": "best"}, "unknown order 'best'"),
        ({"tasks": ["no_data"]}, "the tasks no_data cannot be loaded: FileNotFoundError"),
        (
            {"tasks": ["no_json"]},
            r"the tasks no_json cannot be loaded: DatasetGenerationError: .*\(ArrowInvalid: .* 0\)$",
        ),
        ({"tasks": ["empty"]}, "the tasks empty cannot be loaded: "),
        ({"tasks": ["no_column"]}, "the tasks no_column cannot be loaded: UndefinedError: 'nosuch' is undefined$"),
        ({"tasks": ["no_yaml.yaml"]}, "cannot be loaded: ParserError: while parsing"),
        ({"num_fewshot": 100}, "cannot be asked: ValueError: Sample larger than population"),
    ],
)
def test_a_wrong_request_is_one_message(
    changed: dict[str, Any],
    message: str,
    masked: Any,
    tasks: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    small_harness: None,
) -> None:
    from lm_eval.tasks import TaskManager

    from mdlm_atat.harness import run as module

    # the harness's own are thousands, and listing them takes ten seconds
    monkeypatch.setattr(
        module,
        "TaskManager",
        lambda include_path, **_: TaskManager(include_path=include_path, include_defaults=False),
    )
    without = yaml.safe_load((tasks / "tiny_word.yaml").read_text())
    without |= {"task": "no_data", "dataset_kwargs": {"data_files": {"test": str(tasks / "none.jsonl")}}}
    folder = shutil.copytree(tasks, tmp_path / "tasks")
    (folder / "no_data.yaml").write_text(yaml.safe_dump(without))
    for name, content in {"no_json": "x{", "empty": ""}.items():
        (folder / f"{name}.jsonl").write_text(content)
        without |= {"task": name, "dataset_kwargs": {"data_files": {"test": str(folder / f"{name}.jsonl")}}}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(without))
    column = yaml.safe_load((tasks / "tiny_word.yaml").read_text()) | {"task": "no_column", "doc_to_text": "{{nosuch}}"}
    (folder / "no_column.yaml").write_text(yaml.safe_dump(column))
    monkeypatch.chdir(tmp_path)
    Path("no_yaml.yaml").write_text("task: [")
    settings = {"tasks": ["tiny_word"], "include_path": folder, "save": False, "progress": False, **changed}
    with pytest.raises(UserError, match=message):
        module.run_tasks(masked, **settings)


def test_a_limit_beyond_all_questions_is_all_of_them(run: Callable[..., Any], masked: Any) -> None:
    assert run(masked, "tiny_word", limit=1e30).record["results"]["tiny_word"]["sample_len"] == len(CHOICES)


def test_the_random_numbers_of_whoever_asks_are_those_without_it(run: Callable[..., Any], masked: Any) -> None:
    from mdlm_atat.harness.run import _harness_seeds

    def seed() -> None:
        random.seed(7)
        np.random.seed(7)
        torch.manual_seed(7)

    def drawn() -> tuple[float, ...]:
        return float(np.random.random()), float(torch.rand(()))

    seed()
    expected, of_python = drawn(), random.getstate()
    seed()
    run(masked, "tiny_word", limit=1)
    assert drawn() == expected
    seed()
    with pytest.raises(UserError):
        run(masked, "no_task_at_all.yaml")
    assert drawn() == expected
    random.setstate(of_python)  # by which the checks of types draw too
    with _harness_seeds():
        assert round(random.random(), 4) == 0.8444  # of the seed 0
    assert random.getstate() == of_python


@pytest.mark.parametrize("name", ["adapter", "run", "mdlm_atat", "harness"])
@pytest.mark.parametrize("where", ["process_results", "doc_to_text"])
def test_an_error_of_a_file_of_tasks_is_theirs_whatever_the_file_is_called(
    name: str, where: str, run: Callable[..., Any], masked: Any, tasks: Path, tmp_path: Path
) -> None:
    (tmp_path / f"{name}.py").write_text("def wrong(*_):\n    raise ValueError('no such word')\n")
    lines = (tasks / "tiny_word.yaml").read_text().replace("task: tiny_word", "task: mine").splitlines()
    kept = [line for line in lines if not line.startswith(where)]
    (tmp_path / "mine.yaml").write_text("\n".join([*kept, f"{where}: !function {name}.wrong"]))
    with pytest.raises(UserError, match=r"the tasks mine cannot be (asked|loaded): ValueError: no such word"):
        run(masked, "mine", include_path=tmp_path)


def test_an_error_of_ours_is_not_said_to_be_the_tasks(
    run: Callable[..., Any], masked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mdlm_atat.harness.adapter import HarnessModel

    monkeypatch.setattr(HarnessModel, "_continuations", None)
    with pytest.raises(TypeError):
        run(masked, "tiny_word")


def test_without_the_extra_the_message_says_how_to_get_it(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "mdlm_atat" and ".harness" in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert main(["harness", str(runs / "masked"), "--tasks", "lambada_openai"]) == 2
    assert "not installed: pip install 'mdlm-atat[hub]'" in capsys.readouterr().err


def test_the_harness_knows_the_model_by_its_name(runs: Path) -> None:
    from lm_eval.api.registry import get_model

    from mdlm_atat.harness import HarnessModel

    assert get_model("mdlm-atat") is HarnessModel
    made = HarnessModel.create_from_arg_string(
        f"pretrained={runs / 'masked'},num_draws=64,seed=3",
        {"batch_size": "8", "max_batch_size": None, "device": "cpu"},
    )
    assert (made.num_draws, made.seed, made.batch_size, made.lm.device.type) == (64, 3, 8, "cpu")
    assert made.get_model_info()["likelihood"] == "any order, an upper bound from 64 draws"


QUESTIONS = {
    "lambada_openai": ("lambada/lambada_openai.yaml", "test", [{"text": "it was a dark and stormy night"}] * 2),
    "hellaswag": (
        "hellaswag/hellaswag.yaml",
        "validation",
        [{"activity_label": "Tea", "ctx_a": "She", "ctx_b": "sat", "endings": ["up.", "so."], "label": "0"}] * 2,
    ),
}


def without_numbers(table: str) -> str:
    return re.sub(r"[\d.]+", "#", re.sub(" +", " ", table))


@pytest.mark.slow
def test_the_page_on_the_harness_does_what_it_says_with_the_harnesss_own_tasks_on_made_questions(
    runs: Path, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import lm_eval.tasks

    from mdlm_atat.harness import run as module

    page = ROOT / "docs/howto/harness.md"
    for name, (definition, split, rows) in QUESTIONS.items():
        own = tmp_path / "own"
        own.mkdir(exist_ok=True)
        (own / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        task: dict[str, Any] = {"include": str(Path(lm_eval.tasks.__file__).parent / definition), "task": name}
        task |= {"dataset_path": "json", "dataset_name": None, "training_split": None, "validation_split": None}
        task |= {"test_split": None, "dataset_kwargs": {"data_files": {split: str(own / f"{name}.jsonl")}}}
        (own / f"{name}.yaml").write_text(yaml.safe_dump({**task, f"{split}_split": split}))
    monkeypatch.setattr(
        module,
        "TaskManager",
        lambda include_path, **_: lm_eval.tasks.TaskManager(
            include_path=[tmp_path / "own", *([include_path] if include_path else [])], include_defaults=False
        ),
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ATAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("mdlm_atat.runs.train.write_report", lambda folder: folder / "report.html")
    assert train(runs / "text.txt", Path("runs/mine"), data__tokenizer="byte", train__num_steps=2) == 0
    text = page.read_text(encoding="utf-8")
    Path("tasks").mkdir()
    files = re.findall(r"`(tasks/\w+\.\w+)`[^`]*\n```\w+\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(files) == 3
    for name, block in files:
        Path(name).write_text(block)
    commands = commands_of(page)
    assert len(commands) == 6
    for command in commands:
        capsys.readouterr()
        few = ["--limit", "1"] if "sentences" in command else []
        assert main([*command, *few]) == 0, command
        printed = capsys.readouterr().out.rpartition("stored in")[0]
        if few:
            assert without_numbers(printed) in without_numbers(text)
        elif command[1] == "box":  # what is printed is on the page, numbers too
            assert printed in text
        else:
            assert "upper bound from" in printed
    found = run_blocks(page, tmp_path)
    assert found["found"].file.is_relative_to("harness")
    assert found["right"].nats < found["wrong"].nats
