"""`atat generate`: what it writes, batches that go on where they stopped, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from refusals import refused

from mdlm_atat import MaskedDiffusionLM
from mdlm_atat.cli.made_texts import SEPARATOR
from mdlm_atat.cli.main import main
from mdlm_atat.runs.texts import read_items
from mdlm_atat.samplers.seeds import mix_seed

PROMPTS = [
    {"prompt": "the cat", "id": "b"},
    {"id": 7, "prompt": "a"},
    {"prompt": "see\nif"},
    {"prompt": "", "id": {"part": [1, None]}},
    {"prompt": "the cat", "id": "twice the same"},
]


@pytest.fixture
def model(runs) -> str:
    return str(runs / "masked")


@pytest.fixture
def prompts(tmp_path) -> Path:
    return write_prompts(tmp_path)


def write_prompts(folder: Path) -> Path:
    file = folder / "prompts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))
    return file


@pytest.fixture
def command(model, prompts) -> list[str]:
    """10 texts."""
    return ten_texts(model, prompts)


def ten_texts(model: str, prompts: Path) -> list[str]:
    return ["generate", model, "--prompts", str(prompts), "--num_samples", "2"]


@pytest.fixture(scope="module")
def written(runs, tmp_path_factory) -> Path:
    """Where the command has written whole.jsonl, left alone."""
    folder = tmp_path_factory.mktemp("whole")
    command = ten_texts(str(runs / "masked"), write_prompts(folder))
    assert main([*command, "--batch_size", "4", "--out", str(folder / "whole.jsonl")]) == 0
    return folder


@pytest.fixture
def whole(written, tmp_path) -> bytes:
    """What is in tmp_path / "whole.jsonl", as the command writes it when it is left alone."""
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    return (tmp_path / "whole.jsonl").read_bytes()


def read_lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_2_texts_of_each_of_5_prompts_come_in_order_with_their_ids(whole, tmp_path, runs):
    lines = read_lines(tmp_path / "whole.jsonl")
    assert [(line["id"], line["sample"]) for line in lines] == [
        (row.get("id", number), sample) for number, row in enumerate(PROMPTS) for sample in (0, 1)
    ]
    assert [line["prompt"] for line in lines] == [row["prompt"] for row in PROMPTS for _ in range(2)]
    assert [(line["base_seed"], line["index"]) for line in lines] == [(0, index) for index in range(10)]
    assert [line["seed"] for line in lines] == [mix_seed(0, index) for index in range(10)]
    assert all(line["text"].startswith(line["prompt"]) for line in lines)
    lm = MaskedDiffusionLM.from_pretrained(runs / "masked")
    made = lm.generate([line["prompt"] for line in lines])
    assert [line["tokens"] for line in lines] == [text.tokens for text in made]
    assert [line["nfe"] for line in lines] == [text.nfe for text in made]


def test_the_texts_are_the_same_in_batches_of_1_3_and_16_each_of_which_is_flushed_to_the_disk(
    command, whole, tmp_path, disk
):
    for size, num_batches in ((1, 10), (3, 4), (16, 1)):
        out = tmp_path / f"{size}.jsonl"
        assert main([*command, "--batch_size", str(size), "--out", str(out)]) == 0
        assert out.read_bytes() == whole
        flushed = [num_bytes for what, inode, num_bytes in disk.events if (what, inode) == ("sync", out.stat().st_ino)]
        assert len(set(flushed)) >= num_batches
        assert flushed[-1] == len(whole)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.31, 0.5, 0.77, 0.999, 1.0])
def test_a_file_that_was_cut_anywhere_goes_on_to_the_same_bytes(command, whole, tmp_path, share, capsys):
    out = tmp_path / "cut.jsonl"
    out.write_bytes(whole[: int(share * len(whole))])
    assert main([*command, "--resume", "--batch_size", "3", "--out", str(out)]) == 0
    assert out.read_bytes() == whole
    assert "10 texts written" in capsys.readouterr().err


def test_a_file_cut_between_two_lines_or_not_begun_goes_on_too(command, whole, tmp_path):
    out = tmp_path / "cut.jsonl"
    first = whole.index(b"\n") + 1
    for end in (first - 1, first, first + 1):
        out.write_bytes(whole[:end])
        assert main([*command, "--resume", "--out", str(out)]) == 0
        assert out.read_bytes() == whole
    out.unlink()
    assert main([*command, "--resume", "--out", str(out)]) == 0
    assert out.read_bytes() == whole


def test_what_is_done_is_not_made_again(command, whole, tmp_path, monkeypatch):
    out = tmp_path / "cut.jsonl"
    out.write_bytes(b"".join(whole.splitlines(keepends=True)[:9]))
    asked, generate = [], MaskedDiffusionLM.generate

    def watched(lm: MaskedDiffusionLM, prompts: list[str], **how: Any) -> Any:
        asked.append((prompts, how["seed"]))
        return generate(lm, prompts, **how)

    monkeypatch.setattr(MaskedDiffusionLM, "generate", watched)
    assert main([*command, "--resume", "--out", str(out)]) == 0
    assert asked == [(["the cat"], [mix_seed(0, 9)])]


def test_another_name_and_place_of_the_prompts_is_no_other_setting(command, whole, prompts, tmp_path):
    moved = prompts.rename(tmp_path / "moved.jsonl")
    out = tmp_path / "cut.jsonl"
    out.write_bytes(whole[:1000])
    moved_command = [str(moved) if part == str(prompts) else part for part in command]
    assert main([*moved_command, "--resume", "--out", str(out)]) == 0
    assert out.read_bytes() == whole


def test_a_text_of_a_file_is_made_again_alone_by_the_seed_on_its_line(model, whole, tmp_path, runs):
    line = json.loads(whole.splitlines()[3])
    out = tmp_path / "one.jsonl"
    command = ["generate", model, "--prompt", line["prompt"], "--seed", str(line["seed"]), "--seed_rule", "add"]
    assert main([*command, "--out", str(out)]) == 0
    (alone,) = read_lines(out)
    assert (alone["seed"], alone["tokens"]) == (line["seed"], line["tokens"])
    lm = MaskedDiffusionLM.from_pretrained(runs / "masked")
    assert lm.generate(line["prompt"], seed=[line["seed"]]).tokens == line["tokens"]


def begun_by_version_0_1(lm: MaskedDiffusionLM, num_lines: int) -> bytes:
    """What `command` wrote when text i was drawn from seed + i, by the code of then."""
    settings = {"num_samples": 2, "length": None, "sampler": None, "steps": None, "temperature": 1.0, "top_k": 0}
    settings |= {"top_p": 1.0, "block_size": None, "guide": "", "guide_logits": 1.0, "guide_order": 0.0, "seed": 0}
    settings |= {"precision": "auto", "trace": False}
    items = [[row.get("id", number), row["prompt"]] for number, row in enumerate(PROMPTS)]
    hashed = json.dumps([lm.fingerprint(), {name: str(v) for name, v in settings.items()}, items], sort_keys=True)
    texts = lm.generate([text for _, text in items for _ in range(2)], seed=range(10))
    lines = [
        {"id": items[number // 2][0], "sample": number % 2, "text": text.text, "prompt": items[number // 2][1]}
        | {"seed": number, "nfe": text.nfe, "tokens": text.tokens}
        | {"settings": hashlib.sha256(hashed.encode()).hexdigest()[:12]}
        for number, text in enumerate(texts)
    ]
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines[:num_lines]).encode()


def test_a_file_begun_by_version_0_1_goes_on_by_its_rule_of_seeds_to_the_bytes_of_then(
    command, masked, tmp_path, capsys
):
    out, anew = tmp_path / "old.jsonl", tmp_path / "anew.jsonl"
    out.write_bytes(begun_by_version_0_1(masked, 5))
    other = [*command, "--seed_rule", "hash", "--resume", "--out", str(out)]
    assert "made with another model" in refused(other, capsys)
    assert main([*command, "--resume", "--out", str(out)]) == 0
    assert f"{out} was begun with seeds by the rule add, and goes on with it" in capsys.readouterr().err
    assert out.read_bytes() == begun_by_version_0_1(masked, 10)
    assert main([*command, "--seed_rule", "add", "--out", str(anew)]) == 0
    assert anew.read_bytes() == out.read_bytes()


def test_two_seeds_have_no_text_in_common_unless_they_are_added(model, tmp_path):
    seeds: dict[str, list[set[int]]] = {"hash": [], "add": []}
    for rule, found in seeds.items():
        for seed in ("0", "1"):
            out = tmp_path / f"{rule}{seed}.jsonl"
            command = ["generate", model, "--num_samples", "3", "--steps", "1", "--seed", seed, "--seed_rule", rule]
            assert main([*command, "--out", str(out)]) == 0
            found.append({line["seed"] for line in read_lines(out)})
    assert seeds["add"] == [{0, 1, 2}, {1, 2, 3}]
    assert len(seeds["hash"][0] | seeds["hash"][1]) == 6


OTHERS = {
    "seed": ["--seed", "1"],
    "rule of seeds": ["--seed_rule", "add"],
    "steps": ["--steps", "5"],
    "sampler": ["--sampler", "first_hitting"],
    "temperature": ["--temperature", "0.9"],
    "number": ["--num_samples", "3"],
    "length": ["--length", "12"],
    "guide": ["--guide", "o=1"],
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_file_of_other_settings_is_not_gone_on_with(command, whole, tmp_path, capsys, case):
    out = tmp_path / "whole.jsonl"
    if case == "number":
        command = command[: command.index("--num_samples")]
    message = refused([*command, *OTHERS[case], "--resume", "--out", str(out)], capsys)
    assert f"line 1 of {out} was made with another model, other settings or other prompts" in message
    assert out.read_bytes() == whole


def test_a_file_of_another_model_of_other_prompts_or_of_no_texts_is_not_gone_on_with(
    command, whole, prompts, tmp_path, runs, capsys
):
    out = tmp_path / "whole.jsonl"
    earlier = str(runs / "masked" / "checkpoints" / "step-00000075")
    other_model = [command[0], earlier, *command[2:]]
    assert "another model" in refused([*other_model, "--resume", "--out", str(out)], capsys)
    prompts.write_text(prompts.read_text().replace("the cat", "the dog"))
    assert "other prompts" in refused([*command, "--resume", "--out", str(out)], capsys)
    assert out.read_bytes() == whole
    for notes in (b"my notes", b'{"my": "notes"}\n', b"[1]\n", b"\xff\n"):
        out.write_bytes(notes)
        assert "line 1 of" in refused([*command, "--resume", "--out", str(out)], capsys)
        assert out.read_bytes() == notes


def test_ctrl_c_in_the_second_batch_keeps_4_lines_and_says_how_to_go_on(command, whole, tmp_path, monkeypatch, capsys):
    calls, generate = [], MaskedDiffusionLM.generate

    def interrupted(lm: MaskedDiffusionLM, prompts: list[str], **how: Any) -> Any:
        calls.append(prompts)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return generate(lm, prompts, **how)

    out = tmp_path / "stopped.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr(MaskedDiffusionLM, "generate", interrupted)
        assert main([*command, "--batch_size", "4", "--out", str(out)]) == 130
    message = capsys.readouterr().err
    assert f"4 of 10 texts are in {out}; go on by adding --resume" in message
    assert out.read_bytes() == b"".join(whole.splitlines(keepends=True)[:4])
    assert main([*command, "--out", str(out), "--resume"]) == 0
    assert out.read_bytes() == whole


def test_an_existing_file_is_kept_unless_it_is_to_be_replaced(command, whole, tmp_path, capsys):
    for name, also in (("whole.jsonl", "go on with it by --resume"), ("old.txt", "replace it by --overwrite")):
        out = tmp_path / name
        out.touch()
        before = out.read_bytes()
        message = refused([*command, "--out", str(out)], capsys)
        assert f"{out} exists" in message
        assert also in message
        assert out.read_bytes() == before
        assert main([*command, "--overwrite", "--seed", "5", "--out", str(out)]) == 0
        assert out.read_bytes() not in (before, whole)


LITERAL = ["C:\\new\\notes.txt is", "\\nabla f(x) = ", " see \t ", "", "a\\"]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_backslashes_and_spaces_of_a_file_of_prompts_are_what_they_are(tmp_path, mark, end):
    file = tmp_path / "prompts.txt"
    file.write_bytes(mark + "".join(text + end for text in LITERAL).encode())
    assert [item.text for item in read_items(file, "--prompts", "prompt")] == LITERAL
    lines = tmp_path / "prompts.jsonl"
    lines.write_bytes(mark + "".join(json.dumps({"prompt": text}) + end for text in LITERAL).encode())
    assert [item.text for item in read_items(lines, "--prompts", "prompt")] == LITERAL


def test_escapes_of_prompts_are_read_where_they_are_asked_for(tmp_path, capsys, model):
    file = tmp_path / "prompts.txt"
    file.write_text("a\\nb\\\\n\\u00e9\n\\[MASK]\n")
    assert [item.text for item in read_items(file, "--prompts", "prompt", escape=True)] == ["a\nb\\né", "[MASK]"]
    file.write_text("a\nC:\\q\n")
    message = refused(["generate", model, "--prompts", str(file), "--escape"], capsys)
    assert f"line 2 of {file}: \\q is no escape" in message


def test_prompts_in_another_encoding_are_read_by_its_name(tmp_path, capsys, model):
    file = tmp_path / "prompts.txt"
    file.write_bytes("the café\n".encode("cp1252"))
    assert [item.text for item in read_items(file, "--prompts", "prompt", encoding="cp1252")] == ["the café"]
    (tmp_path / "seven.txt").write_bytes(b"the caf+AOk-\n~\n")  # which utf-7 would not write again so
    (tmp_path / "marked.txt").write_text("the café", encoding="utf-16")
    command = ["generate", model, "--prompts", str(tmp_path / "marked.txt"), "--encoding"]
    assert "byte order mark of utf-16-le, so it is not cp1252: leave --encoding out" in refused(
        [*command, "cp1252"], capsys
    )
    for same in ("utf-16", "UTF_16LE", None):
        assert read_items(tmp_path / "marked.txt", "--prompts", "prompt", encoding=same)[0].text == "the café"
    found = read_items(tmp_path / "seven.txt", "--prompts", "prompt", encoding="utf-7")
    assert [item.text for item in found] == ["the café", "~"]
    assert "try --encoding" in refused(["generate", model, "--prompts", str(file)], capsys)


def test_a_text_file_holds_the_texts_between_lines_and_one_text_alone(model, tmp_path):
    command, out = ["generate", model, "--prompt", "the ", "--seed", "3", "--out"], tmp_path / "t.txt"
    assert main([*command, str(out)]) == 0
    one = out.read_text()
    assert main([*command, str(out), "--overwrite", "--num_samples", "2"]) == 0
    both = out.read_text().split(SEPARATOR + "\n")
    assert both[0] == one
    assert len(both) == 3
    assert both[2] == ""


def test_a_trace_is_in_every_line_of_a_jsonl_file_on_request(command, whole, tmp_path):
    out = tmp_path / "traces.jsonl"
    assert main([*command, "--trace", "--out", str(out)]) == 0
    for line, plain in zip(read_lines(out), map(json.loads, whole.splitlines()), strict=True):
        assert line["trace"]["frames"][-1] == line["tokens"] == plain["tokens"]
        assert "trace" not in plain


def test_the_first_text_is_animated_and_a_resumed_file_says_that_it_is_not(command, whole, tmp_path, capsys):
    page, out = tmp_path / "a.html", tmp_path / "whole.jsonl"
    assert main([*command, "--animate", str(page), "--overwrite", "--out", str(out)]) == 0
    assert f"animation written to {page}" in capsys.readouterr().err
    assert "<html" in page.read_text()
    assert out.read_bytes() == whole  # tracing the first changes nothing
    page.unlink()
    assert main([*command, "--animate", str(page), "--watch", "--resume", "--out", str(out)]) == 0
    assert "already: it can be neither watched nor animated" in capsys.readouterr().err
    assert not page.exists()


@pytest.mark.parametrize("sampler", ["uncertainty", "first_hitting", "remask:num_steps=8"])
def test_watching_shows_all_12_positions_revealed_of_a_sampler_without_a_known_number_of_steps(model, sampler, capsys):
    assert main(["generate", model, "--prompt", "the ", "--sampler", sampler, "--watch"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "12 of 12 revealed" in shown


def test_a_causal_model_writes_longer_texts_in_blocks_from_the_command_line(runs, tmp_path):
    out = tmp_path / "t.jsonl"
    assert main(["generate", str(runs / "causal"), "--prompt", "the ", "--length", "40", "--out", str(out)]) == 0
    (line,) = read_lines(out)
    assert (len(line["tokens"]), line["nfe"]) == (40, 36)


def test_max_new_tokens_come_after_each_prompt_and_are_a_setting_that_a_file_depends_on(
    command, whole, tmp_path, capsys
):
    out = tmp_path / "t.jsonl"
    longer = [*command, "--max_new_tokens", "5", "--out", str(out)]
    assert main(longer) == 0
    lines = read_lines(out)
    assert [len(line["tokens"]) for line in lines] == [len(line["prompt"]) + 5 for line in lines]
    assert "not both" in refused([*longer, "--length", "9", "--overwrite"], capsys)
    other = [*command, "--max_new_tokens", "5", "--resume", "--out", str(tmp_path / "whole.jsonl")]
    assert "made with another model, other settings" in refused(other, capsys)


def test_a_sampler_of_another_package_is_named_by_its_module_with_options(model, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples" / "plugin"))
    out = tmp_path / "t.jsonl"
    command = ["generate", model, "--sampler", "atat_example.sampler:RightToLeft:group=4", "--out", str(out)]
    assert main(command) == 0
    (line,) = read_lines(out)
    assert line["nfe"] == 4
    message = refused([*command[:3], "atat_example.sampler:RightToLeft:grup=4"], capsys)
    assert "its options: group, draw.temperature, draw.top_k, draw.top_p; did you mean group?" in message


BAD_FILES = {
    "no json": ('{"prompt": "a"}\nprompt\n', "line 2 of {file} is not JSON"),
    "another field": ('{"prompt": "a"}\n{"text": "a"}\n', "line 2 of"),
    "a list": ('["a"]\n', "line 1 of"),
    "a number": ('{"prompt": "a"}\n{"prompt": "a"}\n{"prompt": 5}\n', "line 3 of"),
    "null": ('{"prompt": null}\n', "line 1 of"),
    "after a blank line": ('{"prompt": "a"}\n\n{"prompt": 5}\n', "line 3 of"),
    "id twice": ('{"prompt": "a", "id": 1}\n{"prompt": "b"}\n{"prompt": "c", "id": 1}\n', "line 2 of {file}: the id 1"),
    "id that is no JSON": ('{"prompt": "a", "id": NaN}\n', "line 1 of"),
    "half a character": ('{"prompt": "a", "id": "\\ud800"}\n', "line 1 of"),
    "empty": ("", "is empty; expected a prompt on each line"),
    "unknown character": ('{"prompt": "a"}\n{"prompt": "Q", "id": "x"}\n', "line 2 of {file}: character 'Q' (U+0051)"),
    "too long": ('{"prompt": "a"}\n{"prompt": "the cat sat on a mat"}\n', "line 2 of {file}: the prompt has 20 tokens"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_line_of_prompts_is_refused_with_its_number_before_anything_is_written(model, tmp_path, capsys, case):
    content, expected = BAD_FILES[case]
    file, out = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    file.write_text(content)
    message = refused(
        ["generate", model, "--prompts", str(file), "--batch_size", "1", "--out", str(out)], capsys, folder=tmp_path
    )
    assert expected.format(file=file) in message


REFUSED = {
    "no steps": (["--steps", "0"], "--steps is 0, expected at least 1"),
    "fewer steps": (["--steps", "-1"], "--steps is -1"),
    "steps of a preset": (["--sampler", "first_hitting:num_steps=0"], "num_steps is 0"),
    "top_p of 0": (["--top_p", "0"], "top_p is 0.0, expected above 0 and at most 1"),
    "top_p above 1": (["--top_p", "1.5"], "top_p is 1.5"),
    "top_p that is no number": (["--top_p", "nan"], "top_p is nan"),
    "negative top_k": (["--top_k", "-1"], "top_k is -1"),
    "unknown sampler": (["--sampler", "frist_hitting"], "did you mean first_hitting?"),
    "unknown option": (["--sampler", "ancestral:cahce=false"], "did you mean cache?"),
    "option without value": (["--sampler", "ancestral:cache"], "expected cache=VALUE"),
    "option of another kind": (["--sampler", "ancestral:cache=maybe"], "cache is 'maybe'"),
    "option outside its choices": (["--sampler", "first_hitting:sizes=odd"], "expected one of constant, cosine"),
    "steps of what has none": (["--sampler", "left_to_right", "--steps", "4"], "no number of steps to choose"),
    "rates of a plain model": (["--sampler", "follow_rates"], "predicts no rates"),
    "no profile": (["--sampler", "first_hitting:sizes=optimal"], "atat eval RUN --profile"),
    "block of 0": (["--block_size", "0"], "--block_size is 0"),
    "block of 17": (["--block_size", "17"], "expected from 1 to 16, the model's length"),
    "no length": (["--length", "0"], "length is 0"),
    "wide seed": (["--seed", str(2**63)], "expected at most"),
    "seed below": (["--seed", str(-(2**63))], "expected at least"),
    "no batch": (["--batch_size", "0"], "--batch_size is 0"),
    "unknown characters": (["--prompt", "caf\u00e9"], "U+00E9"),
    "long prompt": (["--prompt", "the cat sat on a mat"], "shorten the prompt"),
    "film": (["--animate", "{folder}/a.mp4"], "an animation is a page (.html) or a picture (.gif)"),
    "film nowhere": (["--animate", "{folder}/x/a.html"], "there is no folder"),
    "both of two ways": (["--resume", "--overwrite"], "leave one of them out"),
    "guide without weight": (["--guide", "o"], "'o' is no word with a weight"),
    "guide without word": (["--guide", "=2"], "'=2' is no word with a weight"),
    "guide of letters": (["--guide", "o=much"], "'o=much' is no word with a weight"),
    "guide with a gap": (["--guide", "o=1,,e=1"], "'' is no word with a weight"),
    "guide with a word twice": (["--guide", "o=1,o=2"], "'o' occurs twice"),
    "guide of infinite weight": (["--guide", "o=inf"], "o is inf, expected a finite number"),
    "guide of 3 tokens": (["--guide", "the=1"], "'the' is 3 tokens"),
    "guide of what plans": (
        ["--sampler", "ancestral", "--guide", "o=1", "--guide_order", "1"],
        "cannot change the order",
    ),
    "strength of no guide": (["--guide_logits", "2"], "has no effect without --guide"),
    "order of no guide": (["--guide_order", "1"], "has no effect without --guide"),
    "encoding of no file": (["--encoding", "cp1252"], "--encoding is for --prompts"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_setting_is_one_message_and_nothing_is_written(model, tmp_path, capsys, case):
    arguments, expected = REFUSED[case]
    arguments = [argument.format(folder=tmp_path) for argument in arguments]
    out = str(tmp_path / "out.jsonl")
    assert expected in refused(["generate", model, *arguments, "--out", out], capsys, folder=tmp_path)


def test_with_overwrite_a_mistake_leaves_the_old_file_as_it_was(command, whole, tmp_path, capsys):
    out = tmp_path / "whole.jsonl"
    for mistake in (["--top_p", "0"], ["--sampler", "best"], ["--guide", "o"]):
        refused([*command, *mistake, "--overwrite", "--out", str(out)], capsys, folder=tmp_path)
        assert out.read_bytes() == whole


FOR_LINES = {
    "trace on the screen": ["--trace"],
    "trace as text": ["--trace", "--out", "{folder}/t.txt"],
    "resume on the screen": ["--resume"],
    "resume as text": ["--resume", "--out", "{folder}/t.txt"],
}


@pytest.mark.parametrize("case", FOR_LINES)
def test_trace_and_resume_need_a_jsonl_file(model, tmp_path, capsys, case):
    arguments = [argument.format(folder=tmp_path) for argument in FOR_LINES[case]]
    message = refused(["generate", model, *arguments], capsys, folder=tmp_path)
    assert "needs --out with a .jsonl file" in message


def test_a_place_that_cannot_be_written_is_known_before_the_model_is_loaded(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != tmp_path)
    message = refused(["generate", "nowhere", "--out", str(tmp_path / "t.txt")], capsys, folder=tmp_path)
    assert "cannot be written" in message


@pytest.mark.parametrize("flag", ["--steps", "--temperature", "--seed", "--length"])
def test_what_is_no_number_is_exit_code_2_with_the_flag(model, capsys, flag):
    assert f"{flag} is many, expected a " in refused(["generate", model, flag, "many"], capsys)
