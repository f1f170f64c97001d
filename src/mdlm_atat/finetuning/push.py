"""Sending a classifier to the hub, with a card: its labels, what it scored on examples that it did not learn, how it is
calibrated, and how to use it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from mdlm_atat.atomic import write_text
from mdlm_atat.errors import UserError, command_line
from mdlm_atat.finetuning.classifier import ClassifierRecord, TextClassifier
from mdlm_atat.finetuning.metrics import title
from mdlm_atat.formats import count
from mdlm_atat.lm.card import CARD_FILE, PACKED, bare, linked
from mdlm_atat.lm.push import copy_beside
from mdlm_atat.published.hub import PREFIX, HubName
from mdlm_atat.small_files import read_object
from mdlm_atat.training.packed import Packing, packing_of

MOST_LABELS = 50
PATHS = ("path", "checkpoint", "tokenizer")
"""Entries of a record that may be paths, relative ones too."""
LIMITS = """## What it is not good for

It knows texts like its examples, and answers for any other text as if it knew that too. It has the prejudices of its
examples and of the text that the network had read before. What it scores says nothing of other texts: let no decision
on a person rest on it alone."""


@contextmanager
def saved_for(classifier: TextClassifier, repository: str, weights: Packing | None) -> Iterator[Path]:
    """The folder of a classifier as it is sent to the hub, until the block ends: without the paths of this machine.
    `weights` None: packed as in the folder that it comes from. What lies beside it there goes along, a card too."""
    name, home = f"{PREFIX}{repository.removeprefix(PREFIX)}", classifier.folder
    packing = weights or ("float32" if home is None else packing_of(home / "model.safetensors"))
    sent = TextClassifier(classifier.lm, classifier.head, without_paths(classifier.record))
    with TemporaryDirectory(prefix="atat-push-") as place:
        folder = sent.save_pretrained(Path(place) / name.rpartition("/")[2], weights=packing)
        write_text(folder / CARD_FILE, card(classifier, name, packing))
        if home is not None:
            copy_beside(home, folder)
        yield folder


def without_paths(record: ClassifierRecord) -> ClassifierRecord:
    """A record that says nothing of the machine's folders: of a path the last part; of the command nothing."""

    def told(value: Any, name: str = "") -> Any:
        match value:
            case Mapping():
                parts = {key: part for key, part in value.items() if key != "command"}
                return {key: part if key == "labels" else told(part, key) for key, part in parts.items()}
            case list() | tuple():
                return [told(part) for part in value]
            case str() if name in PATHS or Path(value).is_absolute() or value.startswith("~"):
                return bare(value)
            case _:
                return value

    return replace(record, about=told(record.about))


def card(classifier: TextClassifier, name: str, packing: Packing) -> str:
    """The text of the card of a classifier that is called `name`, hub:OWNER/NAME."""
    repository = name.removeprefix(PREFIX)
    parts = [
        _front_matter(classifier),
        f"# {repository}",
        _about(classifier, packing),
        _labels(classifier),
        _use(classifier, name),
        _scores(classifier),
        LIMITS,
        "## Licence\n\nNone is named yet. Name one in the first lines of this file (`license: apache-2.0`, say), which "
        "the examples and the network that it began with allow.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(classifier: TextClassifier) -> str:
    base = HubName.parse(str(classifier.record.about.get("checkpoint") or ""))
    about = {
        "library_name": "mdlm-atat",
        "pipeline_tag": "text-classification",
        "tags": ["text-regression" if classifier.is_regression else "text-classification", "transformers"],
        "base_model": base.repository if base else None,
    }
    text = yaml.safe_dump({key: value for key, value in about.items() if value}, sort_keys=False, allow_unicode=True)
    return f"---\n{text}---"


def _about(classifier: TextClassifier, packing: Packing) -> str:
    record, lm = classifier.record, classifier.lm
    about = record.about
    what = "gives a number to" if classifier.is_regression else f"gives one of {len(record.labels)} labels to"
    num_weights = sum(weight.numel() for part in (lm.network, classifier.head) for weight in part.parameters())
    kept = f", stored in {PACKED[packing]}" if packing in PACKED else ""
    of = "a pair of texts" if record.is_pair else "a text"
    text = (
        f"This model {what} {of}. It reads {record.max_length:,} tokens, and has {count(num_weights)} parameters{kept}."
    )
    if about.get("num_train"):
        began = about.get("checkpoint")
        start = f"; the network began as {linked(bare(str(began)))}" if began else ""
        task = bare(str(about.get("task", "")))
        text += f" It was trained on {about['num_train']:,} examples of {task}{start}."
    return text


def _labels(classifier: TextClassifier) -> str:
    if classifier.is_regression:
        return ""
    more = len(classifier.labels) - MOST_LABELS
    lines = [
        f"- {' '.join(label.split()).replace('<', '&lt;') or '(empty)'}" for label in classifier.labels[:MOST_LABELS]
    ]
    return "## Labels\n\n" + "\n".join(lines) + (f"\n- and {more:,} more, in `config.json`" if more > 0 else "")


def _use(classifier: TextClassifier, name: str) -> str:
    example = ("A text.", "Another.") if classifier.is_pair else "A text."
    repository = name.removeprefix(PREFIX)
    shell = "texts.csv" if classifier.is_pair else "A text."
    text = f"""## How to use it

    pip install "mdlm-atat[hub]"
    {command_line(["classify", name, shell])}

```python
import mdlm_atat

classifier = mdlm_atat.TextClassifier.from_pretrained({name!r})
print(classifier.predict({example!r}))
```"""
    if classifier.is_pair:
        return text
    return f"""{text}

With transformers alone, which runs the code in this repository:

```python
from transformers import pipeline

classify = pipeline("text-classification", model={repository!r}, trust_remote_code=True)
print(classify({example!r}))
```"""


def _scores(classifier: TextClassifier) -> str:
    """What it scored on held-out examples, with the standard error and the baseline where its results lie beside it."""
    record = classifier.record
    metrics, results = record.about.get("metrics"), _results(classifier)
    if not isinstance(metrics, Mapping) or not metrics:
        return ""
    lines = ["| | on held-out examples | standard error | baseline |", "|---|---|---|---|"]
    for metric, value in metrics.items():
        error, floor = (results.get(part, {}).get(metric) for part in ("standard_error", "baseline"))
        lines.append(f"| {title(metric)} | {' | '.join(map(_number, (value, error, floor)))} |")
    accounts = record.about.get("data", {}).get("accounts", {})
    rule = f", {accounts['rule']}" if isinstance(accounts, Mapping) and accounts.get("rule") else ""
    baseline = "the mean of the training scores" if classifier.is_regression else "the label that most examples have"
    number = record.about.get("num_dev", 0)
    lines += ["", f"On {number:,} examples{rule}, of one seed. The baseline is {baseline}."]
    text = "\n".join(["## What it scores", "", *lines])
    if record.calibration is not None:
        text += f"\n\nCalibration: {record.calibration}."
    elif not classifier.is_regression:
        text += "\n\nIts probabilities are not calibrated."
    return text


def _results(classifier: TextClassifier) -> Mapping[str, Any]:
    """The file of the seed that the classifier is of, beside its folder; empty where it is not there, or of another."""
    folder, about = classifier.folder, classifier.record.about
    if folder is None:
        return {}
    file = folder.parent / f"{folder.name.removesuffix('-classifier')}-seed{about.get('seed')}.json"
    try:
        found = read_object(file) if file.is_file() else {}
    except UserError:
        return {}
    is_same = all(found.get(name) == about.get(name) for name in ("task", "weights", "data_hash"))
    return found if is_same else {}


def _number(value: Any) -> str:
    """A number; nothing of what is none, as null is, which a metric that is not defined is stored as."""
    return f"{value:.4f}" if isinstance(value, (int, float)) else ""
