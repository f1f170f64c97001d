"""Help, lists and mistakes are answered at once: nothing that takes seconds to import is imported for them."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from mdlm_atat.cli.main import COMMANDS

HELP = {
    "": "usage: atat COMMAND ...",
    "--help": "usage: atat COMMAND ...",
    "--version": "atat ",
    **{f"{name} --help": f"usage: atat {name}" for name in COMMANDS},
    "data prepare --help": "usage: atat data prepare",
    "data train-tokenizer --help": "usage: atat data train-tokenizer",
    "experiment list": "quick",
    "samplers": "first_hitting",
    "samplers bench --help": "usage: atat samplers bench",
    "train char --method atat --settings": "--optim.lr X (default: ",
}
MISTAKES = {
    "trian": "unknown command 'trian'; commands: ",
    "train": "name a preset (e.g. atat train demo)",
    "train dmeo": "unknown preset 'dmeo'; did you mean demo?",
    "train nosuch.yaml": "there is no file or run folder nosuch.yaml",
    "train demo --method atta": "unknown method 'atta'; did you mean atat?",
    "train demo --data.source nosuch.txt": "there is no file or folder nosuch.txt, and no corpus of that name",
    "train demo --train.num_step 5": "--train.num_step: unknown flag; did you mean --train.num_steps?",
    "train demo --optim.lr -1": "optim.lr is -1.0, expected above 0",
    "train --resume runs/nosuch": "--resume: there is no run folder runs/nosuch",
    "train --init runs/nosuch": "--init: there is no folder runs/nosuch",
    "eval runs/nosuch": "there is no folder runs/nosuch; expected a run such as runs/demo",
    "eval .": ". is neither a run folder (no config.yaml), nor one of its checkpoints, nor a saved model",
    "generate nosuch": "there is no folder nosuch; expected a run such as runs/demo",
    "generate nosuch.gguf": "there is no file nosuch.gguf; expected a run such as runs/demo",
    "infill nosuch 'a [MASK]'": "there is no folder nosuch; expected a run such as runs/demo",
    "serve nosuch": "there is no folder nosuch; expected a run such as runs/demo",
    "serve . --port 65536": "--port is 65536, expected at most 65,535",
    "infill runs/nosuch": "there is no folder runs/nosuch, and no text after it",
    "infill .": ". is a folder: give a text after it",
    "infill 'no gap'": "the template has no gap",
    "infill": 'give a text, as in atat infill box "...", or --file',
    "generate 'Dear Sir, I'": "there is no model 'Dear Sir, I'; a text to begin with goes after --prompt",
    "score": 'give a text, as in atat score box "...", or --file',
    "score runs/nosuch text": "there is no folder runs/nosuch; expected a run such as runs/demo",
    "score text --order nosuch": "unknown order 'nosuch'",
    "eval . --order spread anny": "did you mean any?",
    "harness . --tasks a --order anny": "did you mean any?",
    "inspect nosuch text": "there is no folder nosuch; expected a run such as runs/demo",
    "finetune nosuch --task rte": "there is no folder nosuch; expected a run such as runs/demo",
    "samplers bench nosuch": "there is no folder nosuch; expected a run such as runs/demo",
    "data prepare nosuch --tokenizer char --out out": "there is no file or folder nosuch, and no corpus of that name",
    "plan nosuch --tokens 1B": "unknown preset 'nosuch'",
    "plan --params 1X --tokens 1B": "--params is 1X, expected a number such as 124M, 1.5B or 3e9",
    "experiment run nosuch": "unknown grid 'nosuch'",
    "experiment status nosuch": "nosuch is no experiment: it holds no grid.yaml",
    "experiment report nosuch": "nosuch is no experiment: it holds no grid.yaml",
}
SCRIPT = """
import io, json, shlex, sys
from contextlib import redirect_stderr, redirect_stdout

SLOW = {"torch", "pandas", "matplotlib", "pyarrow", "datasets", "tokenizers", "transformers"}
import mdlm_atat
assert not (SLOW | {"numpy", "yaml", "rich"}) & set(sys.modules), "import mdlm_atat"
from mdlm_atat.cli.main import main

found = {}
for line in json.loads(sys.argv[1]):
    before, out, err = set(sys.modules), io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(shlex.split(line))
    found[line] = [code, out.getvalue(), err.getvalue(), sorted(SLOW & set(sys.modules) - before)]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Exit code, output, errors and slow imports of every line, of one fresh interpreter in an empty folder."""
    folder = tmp_path_factory.mktemp("empty")
    command = [sys.executable, "-c", SCRIPT, json.dumps([*HELP, *MISTAKES])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert not list(folder.iterdir())
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_model_is_loaded_without_what_trains_one():
    slow = {
        "lightning_fabric",
        "torchmetrics",
        "torch._dynamo",
        "torch.distributed.tensor",
        "matplotlib",
        "transformers",
        "sympy",
    }
    script = f"import mdlm_atat.lm, sys; mdlm_atat.lm.load_lm(); print(sorted({slow!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("line", HELP)
def test_help_and_lists_are_shown_without_a_slow_import(line: str, answers: dict[str, Any]):
    code, out, err, slow = answers[line]
    assert (code, err, slow) == (0, "", [])
    assert HELP[line] in out


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistyped_word_is_answered_without_a_slow_import(line: str, answers: dict[str, Any]):
    code, out, err, slow = answers[line]
    assert (code, out, slow) == (2, "", [])
    assert err.startswith("error: ")
    assert MISTAKES[line] in err
