"""The documents' Python runs: the blocks of a page in order, in one namespace, in a folder with a text to train on.

A block that begins with `# mine.py` is a part of that module. Training takes a second: `train` is given tiny settings.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

import mdlm_atat
from mdlm_atat import model_folder, plugins
from mdlm_atat.cli.main import COMMANDS, main
from mdlm_atat.cli.train import make_parser
from mdlm_atat.runs.request import RunRequest
from tiny_runs import TINY, write_text

ROOT = Path(__file__).parents[1]
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
ESTIMATOR = {"importance.width": 16, "importance.num_layers": 1, "importance.num_heads": 2}
AS_WRITTEN = ("data.tokenizer", "objective.causal_share")  # what a page's own code says
CHANGED = {"train.batch_size": 8}  # a whole number of groups of which atat reads five rows of eight left to right
TINY_PARTS = {name: value for name, value in {**TINY, **ESTIMATOR, **CHANGED}.items() if name not in AS_WRITTEN}
NOTEBOOK = ROOT / "docs/first-steps.ipynb"
REFERENCE = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs/reference").glob("*.md"))


def blocks_of(page: Path) -> list[tuple[int, str]]:
    """The Python of a page, each block with the line that it begins in."""
    text = page.read_text(encoding="utf-8")
    return [(text.count("\n", 0, found.start()) + 2, found[1]) for found in PYTHON.finditer(text)]


def run_blocks(page: Path, folder: Path) -> dict[str, Any]:
    module, code = [], []
    for line, block in blocks_of(page):
        (module if block.startswith("# mine.py") else code).append((line, block))
    (folder / "mine.py").write_text("\n\n".join(block for _, block in module), encoding="utf-8")
    namespace: dict[str, Any] = {"__name__": "page"}
    for line, block in code:
        # so that a traceback names the page and its line
        exec(compile("\n" * (line - 1) + block, str(page), "exec"), namespace)
    return namespace


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    write_text(tmp_path / "text.txt")
    train = mdlm_atat.train

    def train_a_little(*given: Any, settings: dict[str, Any] | None = None, **keywords: Any) -> Any:
        if "num_steps" in keywords:
            keywords["num_steps"] = min(4, keywords["num_steps"])
        return train(*given, settings={**TINY_PARTS, **(settings or {})}, **{"progress": False, **keywords})

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("ATAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(mdlm_atat, "train", train_a_little)
    monkeypatch.setattr(plugins, "_allowed", set())
    yield tmp_path
    sys.modules.pop("mine", None)


@pytest.mark.slow
def test_the_recipes_for_adding_your_own_work_as_they_are_written(folder: Path) -> None:
    run_blocks(ROOT / "docs/extending.md", folder)
    needed = [json.loads((folder / f"runs/{name}/plugins.json").read_text()) for name in ("vowels", "mine")]
    by_training = {one["kind"] for run in needed for one in run}
    assert by_training | {"source", "sampler", "metric"} == set(plugins.KINDS)  # which a model is opened without


def test_the_readme_does_from_python_what_it_says(
    folder: Path, no_report: None, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = ROOT / "README.md"
    strings = re.findall(r'"([^"]*)"', "".join(block for _, block in blocks_of(readme)))
    (folder / "mine.txt").write_text((folder / "text.txt").read_text() + " ".join(strings))  # has all their letters
    found = run_blocks(readme, folder)
    assert found["run"].metrics[-1]["step"] == 4
    written = capsys.readouterr().out.splitlines()
    assert any(line.startswith("Dear Sir,") for line in written)
    assert re.match(r"Score\(left to right: exactly \d", written[-1])
    assert mdlm_atat.load_lm("my-model").fingerprint() == found["lm"].fingerprint()
    assert mdlm_atat.evaluate("my-model", data="mine.txt", num_draws=32, save=False).bits_per_character > 0


@pytest.mark.slow
def test_the_page_on_classifying_does_what_it_says_in_a_shell_and_in_python(
    folder: Path, masked: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in (ROOT / "examples/emails").glob("*.csv"):
        shutil.copy(file, folder)
    (folder / "mails.tsv").write_text("1\tWhere is it?\n2\tThank you!\n")
    monkeypatch.setattr(model_folder, "BOX", masked.save_pretrained(folder / "boxed"))
    page = ROOT / "docs/classify.md"
    commands = re.findall(r"^ {4,}(?:cut .*\| )?atat (.*?)(?: > \S+)?$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(commands) == 4
    for command in commands:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Where is it?\nThank you!\n")))
        assert main(shlex.split(command)) == 0
    rows = list(csv.DictReader(io.StringIO((folder / "labels.csv").read_text())))
    assert len(rows) == 40
    assert list(rows[0]) == ["text", "label", "predicted_label", "p_account", "p_billing", "p_delivery", "p_returns"]
    assert "of 40 that have a label in column 'label'" in capsys.readouterr().err
    shutil.rmtree("emails-model")
    found = run_blocks(page, folder)
    assert {*found["labels"], found["found"].label} <= {"account", "billing", "delivery", "returns"}
    assert mdlm_atat.TextClassifier.from_pretrained("mail-sorter").predict("Where is it?").label == found["labels"][0]


def test_everything_in_the_packages_root_is_in_the_reference() -> None:
    homes = {name: getattr(getattr(mdlm_atat, name), "__module__", "") for name in mdlm_atat.__all__}
    documented = set(re.findall(r"^\.\. auto\w+:: (\S+)$", REFERENCE, re.MULTILINE))
    missing = [name for name, home in homes.items() if not {f"mdlm_atat.{name}", home} & documented]
    assert missing == ["__version__"]


def test_every_command_and_those_below_it_are_in_the_reference_with_their_flags() -> None:
    below = {"data": ["prepare", "train-tokenizer"], "cache": ["list", "clear"], "samplers": ["bench"]}
    below["experiment"] = ["list", "run", "status", "report"]
    printed = subprocess.run(
        [sys.executable, "-c", "import json, conf; print(json.dumps(conf.helps()))"],
        cwd=ROOT / "docs",
        capture_output=True,
        text=True,
        check=True,
    )
    helps = json.loads(printed.stdout)
    expected = set(COMMANDS) | {f"{name} {word}" for name, words in below.items() for word in words}
    assert set(helps) == {f"atat {name}" for name in expected}
    assert "--older_than DAYS" in helps["atat cache clear"]
    assert "--candidates N" in helps["atat infill"]


def test_every_file_that_a_page_links_to_is_there() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), NOTEBOOK]
    links = [(page, re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))) for page in pages]
    files = [(page, target) for page, targets in links for target in targets if not target.startswith("http")]
    assert len(files) > 30
    assert [f"{page.name}: {target}" for page, target in files if not (page.parent / target).exists()] == []


def test_the_citation_has_what_its_format_asks_for_and_says_the_same_as_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {"cff-version", "message", "title", "authors"} <= set(citation)  # required by the schema of 1.2.0
    assert citation["cff-version"] == "1.2.0"
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert [each["name"] for each in citation["authors"]] == [each["name"] for each in project["authors"]]
    (paper,) = citation["references"]
    assert {"type", "title", "authors"} <= set(paper)
    assert all(each["type"] == "doi" for each in paper["identifiers"])


def commands_of(page: Path) -> list[list[str]]:
    """The arguments of every `atat` of a page, whatever starts its processes."""
    lines = re.findall(r"^ {4}(.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    found = [re.split(r"^atat |.*-m mdlm_atat ", line, maxsplit=1) for line in lines]
    return [shlex.split(parts[1]) for parts in found if len(parts) == 2]


def test_no_training_of_a_page_names_a_setting_without_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that begin with a preset or a file of this repository; others need a run that the page has made."""
    monkeypatch.chdir(ROOT)
    planned = 0
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        text = page.read_text(encoding="utf-8").replace("\\\n", "")
        lines = re.findall(r"^ {4,}(?:atat|.*-m mdlm_atat) train ([^&|\n]*)", text, re.MULTILINE)
        for line in [*lines, *re.findall(r"`atat train ([^`]+)`", text)]:
            words = [word for word in shlex.split(line, comments=True) if word not in ("...", "$AT")]
            try:
                found = make_parser().parse(words)
                request = RunRequest(config=found.preset, method=found.method, settings=found.settings)
                with warnings.catch_warnings(action="error"):
                    request.run_config()
            except (mdlm_atat.UserError, SystemExit):
                continue
            planned += 1
    assert planned >= 40


def test_the_commands_for_several_gpus_are_taken_and_a_checkpoint_goes_on_in_one_process(
    runs: Path,
    cache: None,
    no_report: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Training is only planned, by `--settings`. What several processes do is tested in tests/training."""
    shutil.copytree(runs / "masked", tmp_path / "runs/large", symlinks=True)
    monkeypatch.chdir(tmp_path)
    commands = commands_of(ROOT / "docs/howto/several-gpus.md")
    for arguments in commands:
        planned = ["--settings"] if arguments[0] == "train" and "--resume" not in arguments else []
        assert main([*arguments, *planned]) == 0, arguments
    assert len(commands) == 11
    assert "sbatch" in capsys.readouterr().out.lower()
    assert "--gres=gpu:1" in (tmp_path / "runs/quick/slurm.sh").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("page", ["letter", "code", "ocr", "notes", "instructions"])
def test_the_commands_of_a_how_to_page_are_taken_and_its_python_runs_with_the_model_in_the_box(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training is only planned, by `--settings`, and a model that the page trained is the one in the box here."""
    for file in (ROOT / "examples").glob("*/*"):
        if file.suffix in (".txt", ".jsonl"):
            shutil.copy(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    path = ROOT / f"docs/howto/{page}.md"
    for data in re.findall(r"^```json\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        (tmp_path / "chats.jsonl").write_text(data, encoding="utf-8")
    done = 0
    for command in re.findall(r"^ {4}atat (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE):
        arguments = ["box" if part == f"runs/{page}" else part for part in shlex.split(command, comments=True)]
        match arguments[0]:
            case "serve" | "eval":  # eval of the notes: tests/cli/test_box.py
                continue
            case "train":
                arguments += ["--settings"]
            case "infill":
                arguments += ["--steps", "1"]
            case "score":
                arguments += ["--num_draws", "32"]
        assert main(arguments) == 0, command
        done += 1
    run_blocks(path, tmp_path)
    assert done >= 1
    assert capsys.readouterr().out


@pytest.mark.slow
def test_the_notebooks_cells_run_in_order_and_what_they_gave_when_it_was_stored_they_give_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without a kernel: numbers and words may differ by the machine, what a text costs only in its last digit."""
    cells = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    namespace: dict[str, Any] = {}
    for number, cell in enumerate(cells, start=1):
        *most, last = ast.parse("".join(cell["source"])).body
        shown = isinstance(last, ast.Expr)
        exec(compile(ast.Module(most if shown else [*most, last], []), f"cell {number}", "exec"), namespace)
        value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), namespace) if shown else None
        printed, stored = capsys.readouterr().out, cell["outputs"]
        assert [each["output_type"] for each in stored] == ["stream"] * bool(printed) + ["execute_result"] * shown
        if printed:
            then = stored[0]["text"]
            assert printed.count("\n") == sum(line.count("\n") for line in then)
            costs = [list(map(float, re.findall(r"[\d.]+(?= nats)", text))) for text in (printed, "".join(then))]
            assert costs[0] == pytest.approx(costs[1], abs=0.11) or "candidates" in "".join(cell["source"])
        if shown:
            assert ("text/html" in stored[-1]["data"]) == hasattr(value, "_repr_html_")
    assert len(cells) >= 7
    assert str(namespace["frame"]) == namespace["filled"].text  # watched is the text that was filled in
    assert NOTEBOOK.stat().st_size < 20_000
    assert str(Path.home()) not in NOTEBOOK.read_text(encoding="utf-8")


def test_every_page_is_in_one_of_the_five_parts_of_the_index_and_linked_from_it() -> None:
    text = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["Tutorial", "How to", "Explanation", "Reference", "Results"]
    in_tree = re.findall(r"^([\w/-]+)$", "".join(re.findall(r"```\{toctree\}(.*?)```", text, re.DOTALL)), re.MULTILINE)
    linked = {str(Path(target).with_suffix("")) for target in re.findall(r"\]\(([^)#]+\.(?:md|ipynb))\)", text)}
    files = [file for kind in ("*.md", "*.ipynb") for file in (ROOT / "docs").rglob(kind)]
    pages = {str(page.relative_to(ROOT / "docs").with_suffix("")) for page in files}
    expected = {page for page in pages if page != "index" and not page.startswith("reference/")} | {"reference/index"}
    assert sorted(in_tree) == sorted(expected)
    assert linked == expected


def test_the_picture_of_an_infilling_is_small_has_no_script_and_is_still_for_who_asked_for_it() -> None:
    picture = ROOT / "docs/pictures/infilling.svg"
    text = picture.read_text(encoding="utf-8")
    assert picture.stat().st_size < 200_000
    root = ElementTree.fromstring(text)
    assert {each.tag.rpartition("}")[2] for each in root.iter()} == {
        "svg",
        "title",
        "desc",
        "style",
        "rect",
        "text",
        "g",
    }
    still = text.index("prefers-reduced-motion: no-preference")
    assert "animation" not in text[:still]
    assert "prefers-color-scheme: dark" in text
