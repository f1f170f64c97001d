"""`atat infill`: templates from the command line and from files, and what it refuses."""

from __future__ import annotations

import gzip
import json
import math
import re
from argparse import Namespace
from pathlib import Path

import pytest
from refusals import refused

from mdlm_atat import MaskedDiffusionLM
from mdlm_atat.cli.infill import explain_lengths
from mdlm_atat.cli.made_texts import show
from mdlm_atat.cli.main import main
from mdlm_atat.config.build import build_model
from mdlm_atat.data.tokenizers import ByteTokenizer
from mdlm_atat.lm.results import Infilled, LengthCosts
from mdlm_atat.runs.texts import Document
from mdlm_atat.samplers.seeds import mix_seed
from tiny_runs import train

TEMPLATES = [
    {"template": "the [MASK:3] sat", "id": "x"},
    {"template": "a [MASK:1-4] mat", "id": "range"},
    {"template": "the cat sat on a mat and [MASK:9]ran to see"},
]


@pytest.fixture
def model(runs) -> str:
    return str(runs / "masked")


@pytest.fixture(scope="module")
def two_way(runs, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("two_way") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATAT_CACHE", str(runs / "cache"))
        patch.setattr("mdlm_atat.runs.train.write_report", lambda folder: folder / "report.html")
        assert train(runs / "text.txt", folder, objective__causal_share=0.5, train__num_steps=4) == 0
    return str(folder)


@pytest.fixture
def templates(tmp_path) -> Path:
    file = tmp_path / "templates.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in TEMPLATES))
    return file


def test_a_template_is_filled_and_printed_with_its_text_around(model, capsys):
    assert main(["infill", model, r"the [MASK:3]\nsat", "--escape"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("the ")
    assert printed.endswith("\nsat\n")
    assert len(printed) == len("the xxx\nsat\n")


def test_the_costs_of_a_range_are_shown_and_the_least_is_taken(model, masked, capsys):
    assert main(["infill", model, "a [MASK:1-4] mat"]) == 0
    out, err = capsys.readouterr()
    assert "what the given text costs by the gaps' lengths" in err
    rows = [line.split() for line in err.splitlines()[1:5]]
    assert [row[0] for row in rows] == ["1:", "2:", "3:", "4:"]
    taken = [row for row in rows if "<-" in row]
    assert len(taken) == 1
    assert float(taken[0][1]) == min(float(row[1]) for row in rows)
    assert all(row[2] == "±" and float(row[3]) > 0 for row in rows)
    assert len(out) == len("a  mat\n") + int(taken[0][0][0])
    costs = masked.infill("a [MASK:1-4] mat").length_costs
    assert ("not settled after 1,024 draws" in err) != costs.is_settled


def test_3_templates_in_2_ways_come_in_order_with_gaps_and_lengths_in_any_batches(model, masked, templates, tmp_path):
    outs = []
    for size in ("1", "4", "16"):
        out = tmp_path / f"{size}.jsonl"
        command = ["infill", model, "--file", str(templates), "--num_samples", "2", "--seed", "5"]
        command += ["--length_draws", "64"]
        assert main([*command, "--batch_size", size, "--out", str(out)]) == 0
        outs.append(out.read_bytes())
    assert outs[0] == outs[1] == outs[2]
    lines = [json.loads(line) for line in outs[0].splitlines()]
    assert [(line["id"], line["sample"]) for line in lines] == [
        (row.get("id", number), sample) for number, row in enumerate(TEMPLATES) for sample in (0, 1)
    ]
    ways = masked.infill([row["template"] for row in TEMPLATES], alternatives=2, seed=5, length_draws=64)
    for line, way in zip(lines, (way for group in ways for way in group), strict=True):
        assert (line["text"], line["tokens"], line["seed"]) == (way.text, way.tokens, way.seed)
        assert (line["gaps"], tuple(line["lengths"]), line["nfe"]) == (way.gaps, way.lengths, way.nfe)


@pytest.mark.parametrize("pick", ["likeliest", "fair"])
def test_the_best_2_of_8_candidates_of_each_template_come_in_order_in_any_batches(
    two_way, templates, pick, tmp_path, capsys
):
    command = ["infill", two_way, "--num_samples", "2", "--candidates", "8", "--seed", "5", "--length_draws", "64"]
    command += ["--pick", pick]
    message = refused([*command, "--file", str(templates)], capsys)
    assert f"line 3 of {templates}: --candidates 8: the text has 44 tokens" in message
    templates.write_text("".join(json.dumps(row) + "\n" for row in TEMPLATES[:2]))
    outs = []
    for size in ("3", "16"):
        out = tmp_path / f"{size}.jsonl"
        assert main([*command, "--file", str(templates), "--batch_size", size, "--out", str(out)]) == 0
        outs.append([json.loads(line) for line in out.read_text().splitlines()])
    ways = MaskedDiffusionLM.from_pretrained(two_way).infill(
        [row["template"] for row in TEMPLATES[:2]], alternatives=2, candidates=8, pick=pick, length_draws=64, seed=5
    )
    for lines in outs:
        assert [line["sample"] for line in lines] == [0, 1] * 2
        for line, way in zip(lines, (way for group in ways for way in group), strict=True):
            assert (line["text"], line["seed"], line["lengths"]) == (way.text, way.seed, list(way.lengths))
            assert line["seed"] == mix_seed(5, line["index"])
            assert line["nats_left_to_right"] == pytest.approx(way.nats_left_to_right, abs=1e-4)
        assert ["lengths_settled" in line for line in lines] == [False, False, True, True]


def test_a_file_of_the_best_goes_on_from_the_middle_of_a_template(two_way, tmp_path):
    file, whole, out = (tmp_path / name for name in ("in.jsonl", "whole.jsonl", "out.jsonl"))
    file.write_text("".join(json.dumps(row) + "\n" for row in TEMPLATES[:2]))
    command = ["infill", two_way, "--file", str(file), "--num_samples", "3", "--candidates", "6"]
    command += ["--length_draws", "64", "--out"]
    assert main([*command, str(whole)]) == 0
    lines = whole.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:4]) + lines[4][:20])
    assert main([*command, str(out), "--resume"]) == 0
    assert out.read_bytes() == whole.read_bytes()


def test_the_best_is_printed_though_another_candidate_was_watched(two_way, capsys):
    assert main(["infill", two_way, "a [MASK:2] b", "--candidates", "8", "--watch"]) == 0
    printed = capsys.readouterr().out.splitlines()[-1]
    assert printed == MaskedDiffusionLM.from_pretrained(two_way).infill("a [MASK:2] b", candidates=8).text


def test_the_nats_of_the_best_2_of_8_candidates_are_printed_beside_them(two_way, model, capsys):
    assert main(["infill", two_way, "a [MASK:2] b", "--candidates", "8", "--num_samples", "2"]) == 0
    err = capsys.readouterr().err
    ways = MaskedDiffusionLM.from_pretrained(two_way).infill("a [MASK:2] b", candidates=8, alternatives=2)
    nats = ", ".join(f"{way.nats_left_to_right:.2f}" for way in ways)
    assert f"nats of each text from the first gap on, left to right: {nats}\n" in err
    assert main(["infill", model, "a [MASK:2] b"]) == 0
    assert "left to right" not in capsys.readouterr().err  # it fills masks only


@pytest.mark.slow
def test_of_20_length_seeds_those_that_settle_in_a_trained_two_way_model_choose_one_length(two_way, capsys):
    lm = MaskedDiffusionLM.from_pretrained(two_way)
    encoded = lm.encode_template("the [MASK:1-3]at sat")
    chosen = [lm.choose_lengths(encoded, 128, seed)[1] for seed in range(20)]
    found = [costs for costs in chosen if costs is not None]
    assert len(found) == 20
    assert len({costs.chosen for costs in found if costs.is_settled}) <= 1
    seed, costs = next((each for each in enumerate(found) if not each[1].is_settled), (0, found[0]))
    command = ["infill", two_way, "the [MASK:1-3]at sat", "--length_draws", "128", "--length_seed", str(seed)]
    assert main(command) == 0
    err = capsys.readouterr().err
    margin = f"{costs.second[0]} costs {costs.margin:.2f} ± {costs.margin_error:.2f} nats more"
    assert f"settled after {max(costs.num_draws.values())} draws: {margin}" in err
    assert ("not settled" in err) != costs.is_settled


def test_lengths_with_which_no_drawn_filling_fits_are_said_to_be_that(capsys):
    nats = {(1,): math.inf, (2,): math.inf}
    zeros = dict.fromkeys(nats, 0.0)
    costs = LengthCosts(nats, zeros, zeros, dict.fromkeys(nats, 64), 0.0, False, "left to right", "uniform")
    explain_lengths(Infilled("ab", [0, 1], 0, 1, lengths=(1,), length_costs=costs))
    err = capsys.readouterr().err
    assert "  1: no filling that was drawn fits  <-\n  2: no filling that was drawn fits\nnot settled after 64" in err
    assert "nan" not in err


def test_a_length_with_which_alone_a_drawn_filling_fits_is_said_to_be_that(capsys):
    nats = {(1,): 3.25, (2,): math.inf}
    zeros = dict.fromkeys(nats, 0.0)
    costs = LengthCosts(nats, zeros, zeros, dict.fromkeys(nats, 64), 0.0, True, "left to right", "uniform")
    explain_lengths(Infilled("ab", [0, 1], 0, 1, lengths=(1,), length_costs=costs))
    err = capsys.readouterr().err
    assert err.endswith("settled after 64 draws: no filling that was drawn fits with other lengths\n")
    assert "inf" not in err.replace("infill", "")


def test_costs_left_to_right_are_said_to_be_those_and_a_masked_model_is_told_what_candidates_need(
    two_way, model, capsys
):
    assert main(["infill", two_way, "a [MASK:1-2] mat", "--length_draws", "64"]) == 0
    err = capsys.readouterr().err
    assert "whatever they hold, left to right; nats ± standard error (+ -log of the prior from the training text" in err
    assert main(["infill", two_way, "a [MASK:1-2] mat", "--length_draws", "64", "--length_prior", "uniform"]) == 0
    assert "nats ± standard error (the least is taken; all are as likely beforehand)" in capsys.readouterr().err
    message = refused(["infill", model, "a [MASK] b", "--candidates", "8"], capsys)
    assert "--candidates 8: candidates are ranked" in message
    assert "train one with --objective.causal_share 0.5, or leave out --candidates" in message
    message = refused(["infill", model, "a [MASK] b", "--pick", "fair"], capsys)
    assert "--pick fair draws among --candidates: say how many there are to be, such as 16" in message


def test_an_interrupted_file_of_templates_goes_on_to_the_same_bytes(model, templates, tmp_path, monkeypatch, capsys):
    command = ["infill", model, "--file", str(templates), "--batch_size", "1", "--steps", "8"]
    command += ["--length_draws", "64"]
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    assert main([*command, "--out", str(whole)]) == 0
    infill = MaskedDiffusionLM.infill

    def interrupted(lm, templates, **how):
        if templates[0] == TEMPLATES[2]["template"]:
            raise KeyboardInterrupt
        return infill(lm, templates, **how)

    with monkeypatch.context() as patch:
        patch.setattr(MaskedDiffusionLM, "infill", interrupted)
        assert main([*command, "--out", str(out)]) == 130
    assert "2 of 3 texts are in" in capsys.readouterr().err
    assert main([*command, "--out", str(out), "--resume"]) == 0
    assert out.read_bytes() == whole.read_bytes()


def test_a_document_with_gaps_is_filled_whole_and_its_line_ends_stay(model, tmp_path):
    letter, out = tmp_path / "letter.txt", tmp_path / "filled.txt"
    letter.write_text("the cat sat on a mat\nand the [MASK:3] ran\nto see [MASK] if you can\n")
    assert main(["infill", model, "--file", str(letter), "--out", str(out)]) == 0
    before, between, after = "the cat sat on a mat\nand the ", " ran\nto see ", " if you can\n"
    text = out.read_text()
    assert text.startswith(before)
    assert text[len(before) + 3 :].startswith(between)
    assert text.endswith(after)
    assert len(text) == len(before + between + after) + 4


DOCUMENT = "see\r\n  a C:\\[MASK:3]\\can \rthe\t[MASK]\n\\[MASK:2]é\r\n\r\n  "
KINDS = {
    "UTF-8": ("utf-8", b"", []),
    "UTF-8 with a mark": ("utf-8", b"\xef\xbb\xbf", []),
    "UTF-16": ("utf-16-le", b"\xff\xfe", []),
    "UTF-16 BE": ("utf-16-be", b"\xfe\xff", []),
    "cp1252": ("cp1252", b"", ["--encoding", "cp1252"]),
}


@pytest.fixture(scope="module")
def byte_model(masked, tmp_path_factory) -> str:
    lm = MaskedDiffusionLM(build_model(masked.config, 257, None), ByteTokenizer(), masked.config)
    folder = tmp_path_factory.mktemp("bytes") / "model"
    lm.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ending", ["", "\n", "\r\n", "\r", " \t\n\n"])
def test_a_document_comes_back_byte_for_byte_around_its_gaps_in_its_encoding(byte_model, tmp_path, kind, ending):
    encoding, mark, option = KINDS[kind]
    file, out = tmp_path / "doc.txt", tmp_path / "out.txt"
    file.write_bytes(mark + (DOCUMENT + ending).encode(encoding))
    assert main(["infill", byte_model, "--file", str(file), *option, "--steps", "1", "--out", str(out)]) == 0
    written = out.read_bytes()
    assert written.startswith(mark)
    around = re.split(r"\[MASK(?::\d)?\]", DOCUMENT + ending)
    pattern = ".*".join(re.escape(part) for part in around)
    assert re.fullmatch(pattern, written[len(mark) :].decode(encoding), re.DOTALL)


def test_a_document_goes_to_a_pipe_with_its_very_bytes(byte_model, tmp_path, capsysbinary):
    file = tmp_path / "doc.txt"
    file.write_bytes(b"\xef\xbb\xbf\x1b[31mone\r\n[MASK]\r\n\xc2\x85end")
    assert main(["infill", byte_model, "--file", str(file)]) == 0
    written = capsysbinary.readouterr().out
    assert written.startswith(b"\xef\xbb\xbf\x1b[31mone\r\n")
    assert written.endswith(b"\r\n\xc2\x85end")


def test_characters_that_a_documents_encoding_lacks_are_said(capsysbinary):
    show(["é🙂"], Namespace(out=None), Document("é", "cp1252"), is_first_shown=False)
    out, err = capsysbinary.readouterr()
    assert out == b"\xe9?"
    assert "written as ?, for cp1252 has no '🙂': convert the document to utf-8" in err.decode()


def test_a_document_that_would_not_be_written_as_it_was_is_refused(model, tmp_path, capsys):
    file = tmp_path / "doc.txt"
    file.write_bytes("あ[MASK]".encode("iso2022_jp") + b"\x1b(B")  # an escape that says nothing
    message = refused(["infill", model, "--file", str(file), "--encoding", "iso2022_jp"], capsys, folder=tmp_path)
    assert "would not be the same bytes when it is written as iso2022_jp again" in message


def test_the_first_text_is_watched_and_animated(model, tmp_path, capsys):
    page = tmp_path / "a.html"
    assert main(["infill", model, "the [MASK:3] sat", "--watch", "--animate", str(page)]) == 0
    assert "3 of 3 revealed" in " ".join(capsys.readouterr().out.split())
    assert page.exists()


@pytest.mark.filterwarnings("default:.*taken for the text itself")
def test_a_template_that_names_a_file_is_warned_of_with_the_flag_that_fills_its_gaps(
    model, tmp_path, monkeypatch, capsys
):
    (tmp_path / "letter.txt").write_text("the [MASK:3] sat")
    monkeypatch.chdir(tmp_path)
    assert main(["infill", model, "letter.txt"]) == 2
    said = "letter.txt is taken for the text itself: to fill the gaps of the file of that name, write --file letter.txt"
    assert said in capsys.readouterr().err


REFUSED = {
    "empty": ([""], "the template is empty"),
    "no gap": (["the cat"], "has no gap: 'the cat'"),
    "escaped": ([r"the \[MASK]", "--escape"], "has no gap"),
    "no escape": ([r"the \q[MASK]", "--escape"], r"\q is no escape; expected \n"),
    "no encoding": (["--file", "{folder}", "--encoding", "klingon"], "is a folder"),
    "no template": ([], "is a folder: give a text after it, as in atat infill "),
    "two templates": (["a [MASK]", "--file", "x"], "give a text or --file, not both"),
    "no such file": (["--file", "{folder}/none.txt"], "there is no file"),
    "no such lines": (["--file", "{folder}/none.jsonl"], "there is no file"),
    "long gap": (["the [MASK:17]"], "a gap of 17 tokens is longer than the model: it was trained at 16"),
    "malformed gap": (["the [MASK:x]"], "[MASK:x] is not a gap"),
    "gap of 0": (["the [MASK:0]"], "[MASK:0] is not a gap"),
    "range of nothing": (["[MASK:1-3]"], "needs given text around it"),
    "long range": (["the cat sat on [MASK:1-4]"], "lengths are chosen for texts of at most 16"),
    "unknown characters": (["THE [MASK]"], "U+0054"),
    "steps": (["a [MASK]", "--steps", "-1"], "--steps is -1"),
    "top_p": (["a [MASK]", "--top_p", "2"], "top_p is 2.0"),
    "sampler": (["a [MASK]", "--sampler", "greedily"], "did you mean greedy?"),
    "trace": (["a [MASK]", "--trace"], "--trace needs --out with a .jsonl file"),
    "film": (["a [MASK]", "--animate", "a.txt"], "an animation is a page"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_mistake_is_one_message_and_nothing_is_written(model, tmp_path, capsys, case):
    arguments, expected = REFUSED[case]
    arguments = [argument.format(folder=tmp_path) for argument in arguments]
    out = [] if case == "trace" else ["--out", str(tmp_path / "out.jsonl")]
    assert expected in refused(["infill", model, *arguments, *out], capsys, folder=tmp_path)


BAD_LINES = {
    "no gap": ({"template": "the cat", "id": "no gap"}, "line 2 of {file}: the template has no gap"),
    "long gap": ({"template": "a [MASK:17]"}, "line 2 of {file}: a gap of 17 tokens"),
    "range": ({"template": "the cat sat on [MASK:1-4]"}, "line 2 of {file}: with gaps of 4 tokens the text has 19"),
    "unknown character": ({"template": "Q [MASK]"}, "line 2 of {file}: character 'Q'"),
    "another field": ({"prompt": "a [MASK]"}, 'line 2 of {file} is no JSON object with a text "template"'),
    "number": ({"template": 7}, "line 2 of"),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_bad_template_in_a_file_is_named_before_the_first_is_filled(model, tmp_path, capsys, case):
    row, expected = BAD_LINES[case]
    file = tmp_path / "templates.jsonl"
    file.write_text(json.dumps({"template": "a [MASK]"}) + "\n" + json.dumps(row) + "\n")
    out = str(tmp_path / "out.jsonl")
    command = ["infill", model, "--file", str(file), "--batch_size", "1", "--out", out]
    assert expected.format(file=file) in refused(command, capsys, folder=tmp_path)


def test_a_document_that_is_not_utf_8_is_refused_with_the_byte(model, tmp_path, capsys):
    file = tmp_path / "letter.txt"
    file.write_bytes(b"caf\xe9 [MASK]")
    assert "is not UTF-8: byte 0xE9 at offset 3 (line 1)" in refused(
        ["infill", model, "--file", str(file)], capsys, folder=tmp_path
    )


def test_a_causal_model_cannot_infill(runs, capsys):
    said = refused(["infill", str(runs / "causal"), "a [MASK] b"], capsys)
    assert "a causal model cannot infill" in said
    assert "or make one of it by atat train --init ... --method atat" in said


def test_templates_may_be_packed_or_in_capitals_with_empty_lines_between(model, tmp_path, capsys):
    rows = b'{"template": "a [MASK]"}\n\n{"template": "the [MASK]"}\n\n'
    (tmp_path / "A.JSONL").write_bytes(rows)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(rows))
    for name in ("A.JSONL", "b.jsonl.gz"):
        out = tmp_path / f"{name}.jsonl"
        assert main(["infill", model, "--file", str(tmp_path / name), "--out", str(out)]) == 0
        texts = [json.loads(line) for line in out.read_text().splitlines()]
        assert [(text["id"], text["template"]) for text in texts] == [(0, "a [MASK]"), (2, "the [MASK]")]


def test_a_template_that_stands_twice_in_a_row_is_refused(model, tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text('{"template": "a [MASK]", "template": "the [MASK]"}\n')
    assert "has more than one 'template'" in refused(
        ["infill", model, "--file", str(tmp_path / "a.jsonl")], capsys, folder=tmp_path
    )


def test_what_is_nearly_a_gap_beside_a_gap_is_said_to_be_text(byte_model, capsys):
    assert main(["infill", byte_model, "[MASK] [mask] [MASK 3]"]) == 0
    assert "[MASK 3], [mask] are text and no gaps; gaps are written [MASK]" in capsys.readouterr().err
    assert main(["infill", byte_model, "[MASK] ok"]) == 0
    assert "no gap" not in capsys.readouterr().err


def test_texts_are_not_written_unpacked_into_a_file_that_is_called_packed(model, tmp_path, capsys):
    out = str(tmp_path / "a.txt.gz")
    said = refused(["infill", model, "a [MASK]", "--out", out], capsys, folder=tmp_path)
    assert "--out: texts are not packed: name a file without .gz" in said
