import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from experiment_toys import bound, difference, results, run

from mdlm_atat.report.experiment_page import write_experiment_page
from mdlm_atat.report.experiment_tables import NO_CAVEATS

HOSTILE = "<script>alert('x')</script> & \"q\" {{ 7 * 7 }} ]]> </pre></style>"


class Page(HTMLParser):
    """The text that a reader sees, the rows of every table by its class, and all ids."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text: list[str] = []
        self.tables: list[list[list[list[str]]]] = []
        self.heads: list[str] = []
        self._in: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._in.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th") and self.tables:
            self.tables[-1][-1].append([])
        elif tag == "span" and self.tables and self.tables[-1] and self.tables[-1][-1]:
            self.tables[-1][-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._in = self._in[: len(self._in) - 1 - self._in[::-1].index(tag)] if tag in self._in else self._in

    def handle_data(self, data: str) -> None:
        if "style" in self._in:
            return
        self.text.append(data)
        if {"td", "th"} & set(self._in) and self.tables and self.tables[-1]:
            cell = self.tables[-1][-1][-1]
            cell[-1:] = [(cell[-1] if cell else "") + data]

    @property
    def seen(self) -> str:
        return " ".join("".join(self.text).split())

    def main_table(self) -> dict[str, list[list[str]]]:
        """The cells of each arm but the first, as lists of lines."""
        return {row[0][0].strip(): row[1:] for row in self.tables[0][1:]}


def html_of(content: dict[str, Any], folder: Path) -> str:
    path = write_experiment_page(json.loads(json.dumps(content)), folder)
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8")


def page_of(content: dict[str, Any], folder: Path) -> Page:
    return Page(html_of(content, folder))


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of the results as they are."""
    return html_of(results(), tmp_path_factory.mktemp("page"))


def numbers(lines: list[str]) -> list[float]:
    found = re.findall(r"[+−]?\d[\d,]*(?:\.\d+)?", " ".join(lines))
    return [float(text.replace(",", "").replace("−", "-")) for text in found]


def test_every_number_of_the_table_is_that_of_the_results(html: str):
    table = Page(html).main_table()
    assert list(table) == ["mdlm", "plain_times", "atat", "causal"]
    seeds, uniform, own, by_uniform, by_own, steps, overhead = table["atat"]
    assert seeds == ["2 of 3"]
    assert numbers(uniform) == [67.36, 4.21, 4.19, 4.23]
    assert numbers(own) == [66.69, 4.2, 4.18, 4.22]
    assert by_uniform[0] == "26% lower perplexity"
    assert numbers(by_uniform[1:]) == [-0.3, 0.003, -0.313, -0.287, 0.001]
    assert by_uniform[-1] == "p < 0.001"
    assert numbers(by_own) == [27, -0.31, 0.004, -0.327, -0.293, 0.0021]
    assert steps[0] == "41% of the steps"
    assert numbers(steps[1:]) == [39, 44, 618, 40.5, 34, 44]
    assert numbers(overhead) == [1.06, 1.02, 1.01, 1, 18]
    assert overhead[-1] == "1 min 18 s a run"


def test_the_baseline_is_marked_and_1_effect_below_its_error_is_no_difference(html: str):
    page = Page(html)
    table = page.main_table()
    assert [cell[0] for cell in table["mdlm"][2:]] == ["the same", "baseline", "baseline", "baseline", "1"]
    assert table["plain_times"][3][0] == "no difference"
    assert table["plain_times"][5] == ["not reached"]
    assert "plain_times: no difference in PPL-U (p = 0.21)." in page.seen
    assert "atat: 26% lower PPL-U (p < 0.001); 27% lower perplexity under its own bound (p = 0.0021)" in page.seen
    assert "seed 1 does not reach 4.5100 nats (plain_times)" in page.seen
    assert ("class", "good") in page.attributes
    assert table["causal"][1][-1] == "exact, no bound"
    assert ("class", "baseline") in page.attributes


@pytest.mark.usefixtures("no_pictures")
def test_a_difference_of_1_seed_says_what_it_was_tested_over(tmp_path: Path):
    content = results()
    about = content["derived"]["novels"]["atat"]
    about["difference"] |= {"over": "draws"}
    about["own_difference"] |= {"significant": None, "p_value": None, "standard_error": None, "interval95": None}
    table = page_of(content, tmp_path).main_table()
    assert table["atat"][3][-1] == "over draws, one seed"
    assert table["atat"][4] == ["27% lower perplexity", "−0.3100 nats", "not tested"]


@pytest.mark.usefixtures("no_pictures")
def test_steps_that_are_an_upper_bound_are_said_to_be_at_most(tmp_path: Path):
    content = results()
    content["derived"]["novels"]["atat"]["steps_to_baseline"]["at_most"] = True
    assert page_of(content, tmp_path).main_table()["atat"][5][0] == "at most 41% of the steps"


def test_the_1_failed_run_is_named_with_the_last_line_of_its_log(html: str):
    seen = Page(html).seen
    assert "Of 10 runs 9 done, 1 failed." in seen
    assert "atat, seed 2 on novels failed: OutOfMemoryError: 2.10 GiB <GPU 0>" in seen
    assert "Traceback" not in seen


@pytest.mark.usefixtures("no_pictures")
def test_caveats_stand_there_and_0_of_them_is_1_sentence(tmp_path: Path):
    assert "atat stands on 2 seeds." in page_of(results(), tmp_path).seen
    assert NO_CAVEATS in page_of(results() | {"caveats": []}, tmp_path).seen
    without = {key: value for key, value in results().items() if key != "caveats"}
    assert "The caveats have not been worked out" in page_of(without, tmp_path).seen


def test_no_text_of_the_results_becomes_markup(html: str, tmp_path: Path):
    def poisoned(value: Any) -> Any:
        match value:
            case dict():
                return {key: poisoned(one) for key, one in value.items()}
            case list():
                return [poisoned(one) for one in value]
            case str() if value not in ("done", "failed", "exact", "nelbo"):
                return f"{value}{HOSTILE}"
        return value

    content = poisoned(results())
    content["arms"] = {f"{name}{HOSTILE}": about for name, about in content["arms"].items()}
    content["derived"] = {
        f"{corpus}{HOSTILE}": {f"{name}{HOSTILE}": about for name, about in arms.items()}
        for corpus, arms in content["derived"].items()
    }
    page = page_of(content, tmp_path)
    assert "script" not in page.tags
    assert not any(name.startswith("on") for name, _ in page.attributes)
    plain = Page(html)
    assert page.tags.count("pre") == plain.tags.count("pre")
    assert page.tags.count("svg") == plain.tags.count("svg")
    assert f"mdlm{HOSTILE}" in page.seen


def test_the_page_needs_0_other_files(html: str):
    assert "default-src 'none'" in html
    assert not re.search(r"https?:|@import|<link|<script|<iframe|<img", html)
    assert all(target.startswith("#") for target in re.findall(r'(?:href|src)="([^"]*)', html))
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))


@pytest.mark.slow
def test_1_id_is_1_element_and_every_picture_says_what_it_shows(tmp_path: Path):
    content = results()
    content["runs"] += [one | {"corpus": "wiki"} for one in content["runs"]]
    content["derived"]["wiki"] = content["derived"]["novels"]
    page = page_of(content, tmp_path)
    assert len(page.ids) == len(set(page.ids))
    labels = [value for name, value in page.attributes if name == "aria-label" and "At the right end" in value]
    assert len(labels) == 2 * (6 + 2 + 2)
    assert (
        "PPL-U bound against steps. At the right end: mdlm 4.510, plain_times 4.505, atat 4.205, causal 4.090."
        in labels[0]
    )


@pytest.mark.usefixtures("no_pictures")
def test_2_corpora_are_2_sections(tmp_path: Path):
    content = results()
    content["runs"].append(run("mdlm", 0, 3.0, corpus="wiki"))
    content["derived"]["wiki"] = {"mdlm": {"num_seeds": 1, "ppl_u": bound(3.0, None)}}
    html = html_of(content, tmp_path)
    assert html.count('<table class="main">') == 2
    assert re.findall(r"<h2>(novels|wiki)</h2>", html) == ["novels", "wiki"]
    assert Page(html).tables[0] != Page(html).tables[-1]


def empty(**changes: Any) -> dict[str, Any]:
    waiting = {"arm": "mdlm", "corpus": "novels", "seed": 0, "status": "waiting"}
    return {"name": "e", "baseline": "mdlm", "runs": [waiting], **changes}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "No run is stored."),
        (empty(), "mdlm, seed 0 on novels is waiting: no final numbers yet."),
        (empty(), "Nothing has been derived for novels yet"),
        (empty(baseline=None), "No baseline is named, so nothing is compared."),
        (empty(baseline="other"), "No run of the baseline other is stored."),
        (empty(runs=None, arms=None, derived=None, caveats=None), "No run is stored."),
        (empty(runs=[run("mdlm", 0, 4.5) | {"final": None}]), "mdlm, seed 0 on novels is done but holds no final"),
        (empty(runs=[run("mdlm", 0, 4.5) | {"curve": None}]), "No evaluation has been logged yet."),
        (empty(runs=[run("mdlm", 0, 4.5, status="running")]), "No run of mdlm is finished: what is drawn is what"),
        (empty(runs=[dict.fromkeys(run("mdlm", 0, 4.5)) | {"arm": "mdlm"}]), "is of unknown status"),
        (empty(derived={"novels": {"mdlm": {"ppl_u": None, "num_seeds": None}}}), "– is not known"),
    ],
)
@pytest.mark.usefixtures("no_pictures")
def test_10_partial_states_are_pages_that_say_what_is_missing(content: dict[str, Any], said: str, tmp_path: Path):
    assert said in page_of(content, tmp_path).seen


@pytest.mark.parametrize("number", [math.nan, math.inf, 1e300, -1e300, 0])
def test_any_number_in_any_place_is_a_page(number: float, tmp_path: Path):
    def replaced(value: Any, key: str = "") -> Any:
        match value:
            case dict():
                return {name: replaced(one, name) for name, one in value.items()}
            case list():
                return [replaced(one) for one in value]
            case float() | int() if key != "seed":
                return number
        return value

    page = page_of(replaced(results()), tmp_path)
    assert "atat" in page.main_table()


def test_a_diverged_arm_of_1e9_nats_flattens_nothing_and_is_in_the_table(tmp_path: Path):
    content = results()
    for one in content["runs"]:
        if one["arm"] == "atat" and one["curve"]:
            one["curve"]["nats"] = [1e9 for _ in one["curve"]["nats"]]
    content["derived"]["novels"]["atat"]["ppl_u"] = {"mean_nats": 1e9, "interval95": None, "perplexity": None}
    page = page_of(content, tmp_path)
    assert page.main_table()["atat"][1] == ["–", "1.00 × 10^9 nats"]
    assert "1e9" not in page.seen  # no axis reaches there


@pytest.mark.usefixtures("no_pictures")
def test_samples_of_the_same_seed_stand_beside_each_other(tmp_path: Path):
    content = results()
    for one in content["runs"]:
        one["samples"] = [] if one["arm"] == "mdlm" and one["seed"] == 0 else [{"text": f"{one['arm']} {one['seed']}"}]
    seen = page_of(content, tmp_path).seen
    assert all(f"{arm} seed 1 {arm} 1" in seen for arm in ("mdlm", "plain_times", "atat"))
    assert "causal no samples of seed 1" in seen


@pytest.mark.usefixtures("no_pictures")
def test_what_a_run_stores_beside_itself_is_shown_and_what_is_gone_is_named(tmp_path: Path):
    content = results()
    atat = next(one for one in content["runs"] if one["arm"] == "atat")
    atat |= {"inspection": "runs/atat-0/inspection.json", "sampler_bench": "runs/atat-0/bench.json"}
    seen = page_of(content, tmp_path).seen
    assert "Importance of atat, seed 0: runs/atat-0/inspection.json is not there." in seen
    folder = tmp_path / "runs" / "atat-0"
    folder.mkdir(parents=True)
    (folder / "inspection.json").write_text(json.dumps(inspection()))
    (folder / "bench.json").write_text("{}")
    page = page_of(content, tmp_path)
    assert "correlation of importance with the loss 0.68 (Pearson), – (Spearman)" in page.seen.replace(
        "not finite", "–"
    )
    assert "Sampler bench of atat, seed 0: it holds no evaluation of samples" in page.seen
    (folder / "bench.json").write_text(json.dumps(bench()))
    page = page_of(content, tmp_path)
    assert "judge a judge, 8 texts of 16 tokens; 2 more samplers are in the bench's own file" in page.seen
    labels = [value for name, value in page.attributes if name == "aria-label"]
    assert "A judge, nats per token, against network evaluations a text" in labels
    assert "What is missing" in page.seen  # the failed run


def test_configurations_are_told_by_their_2_differences_and_what_is_shared(html: str):
    page = Page(html)
    tables = {table[0][0][0].strip(): table for table in page.tables if table and table[0] and table[0][0]}
    rows = {row[0][0]: [" ".join(cell) for cell in row[1:]] for row in tables["setting"][1:]}
    assert rows == {
        "masking.strategy": ["uniform", "same", "importance", "same"],
        "model.kind": ["masked", "same", "same", "causal"],
    }
    assert tables["optim.lr"] == [[["optim.lr"], ["0.001"]]]
    assert "train.seed" not in page.seen  # it differs between the baseline's own runs
    assert "some GPU" in page.seen
    assert "cd34cd34" in page.seen
    assert [row[1][0] for row in tables["code version"]] == ["0.1.0", "b25cb06", "b25cb06"]
    assert "atat train --seed 1" in page.seen


def inspection() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "texts": ["a", "<b>", "\n"],
        "importance": rng.random(3).tolist(),
        "times": [0.5],
        "masked_importance": rng.random((1, 3)).tolist(),
        "nll": rng.random((1, 3)).tolist(),
        "mask_rate": rng.random((1, 3)).tolist(),
        "correlation": {"pearson": 0.68, "spearman": None},
    }


def bench() -> dict[str, Any]:
    def point(name: str, nfe: int) -> dict[str, Any]:
        measured = {"judge_nats": 4.0, "judge_error": 0.1, "entropy_nats": 5.0, "entropy_error": 0.1}
        return {"sampler": name, "curve": name, "nfe_mean": nfe, "seconds": nfe / 10, **measured}

    others = [point(f"s{index}", nfe) for index in range(8) for nfe in (4, 8)]
    real = {"judge_nats": 3.5, "entropy_nats": 4.9}
    return {"judge": "a judge", "num_texts": 8, "length": 16, "points": [point("one", 16), *others], "real": real}


def test_the_same_results_give_the_same_page_byte_for_byte(html: str, tmp_path: Path):
    assert html_of(results(), tmp_path) == html


def test_difference_and_bound_of_the_stand_in_results_agree_with_each_other():
    assert difference(-0.3, 0.003, 0.0001, is_significant=True)["relative_perplexity"] == pytest.approx(
        math.exp(-0.3) - 1
    )
    assert bound(4.21, 0.02)["perplexity"] == pytest.approx(67.36, abs=0.01)
