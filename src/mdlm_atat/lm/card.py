"""The card of a model, README.md in its folder: what it is, what it has read, what held-out text costs it, what it
wrote, and how to use it. The hub shows it, and reads its first lines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mdlm_atat.atomic import write_text
from mdlm_atat.config.schema import RunConfig
from mdlm_atat.errors import UserError, command_line
from mdlm_atat.formats import count, perplexity
from mdlm_atat.lm.export import left_out
from mdlm_atat.model_folder import ORIGIN_FILE, results_folder
from mdlm_atat.plugins import is_reference
from mdlm_atat.published.hub import PREFIX, HubName
from mdlm_atat.scoring.records import Evaluation
from mdlm_atat.small_files import read_object, read_small
from mdlm_atat.training.packed import Packing

if TYPE_CHECKING:
    from mdlm_atat.lm.base import LanguageModel

CARD_FILE = "README.md"
MOST_SAMPLES = 4
PACKED = {"bf16": "bfloat16", "int8": "8 bits a weight"}


def without_paths(config: RunConfig) -> RunConfig:
    """A configuration that says nothing of the machine's folders: of a text or a tokenizer that lies in one, its name
    alone."""
    data = config.data
    validation = None if data.validation is None else bare(data.validation)
    return replace(
        config,
        data=replace(data, source=bare(data.source), tokenizer=bare(data.tokenizer), validation=validation),
    )


def bare(name: str) -> str:
    """A name as it is, and the last part of a path."""
    if name.startswith(PREFIX) or is_reference(name) or "/" not in name:
        return name
    path = Path(name)
    return path.name or name


def write_card(lm: LanguageModel, folder: Path, *, name: str, packing: Packing = "float32") -> None:
    """Write the card of a model whose files are in `folder` already. `name`: what it is called there, or on the hub as
    hub:OWNER/NAME. Evaluations and samples are those of the run that it comes from, where there are any."""
    write_text(folder / CARD_FILE, card(lm, name=name, packing=packing, has_code=_code_in(folder)))


def card(lm: LanguageModel, *, name: str, packing: Packing = "float32", has_code: str | None = None) -> str:
    """The text of the card. `has_code`: the name of the Auto class of transformers that loads it too, if one does."""
    origin = _origin(lm)
    parts = [
        _front_matter(lm, origin, has_code),
        f"# {HubName.parse(name).repository if name.startswith(PREFIX) else name}",  # type: ignore[union-attr]
        _about(lm, origin, packing),
        _use(lm, name, has_code),
        LIMITS,
        _training(lm, origin),
        _costs(lm, packing),
        _samples(lm),
        _licence(origin),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _origin(lm: LanguageModel) -> Mapping[str, Any]:
    """What the model was imported from, or what its run began with: source, licence, family, notes. Empty for one that
    was trained from nothing."""
    if lm.home is None:
        return {}
    try:
        if (lm.home / ORIGIN_FILE).is_file():
            return read_object(lm.home / ORIGIN_FILE)
        start = read_object(lm.home / "run.json") if (lm.home / "run.json").is_file() else {}
    except UserError:
        return {}
    path = start["init"].get("path", "") if isinstance(start.get("init"), dict) else ""
    return {"begun_with": bare(str(path))} if path else {}


def _front_matter(lm: LanguageModel, origin: Mapping[str, Any], has_code: str | None) -> str:
    """What the hub reads: YAML between two lines of dashes."""
    base = HubName.parse(str(origin.get("begun_with") or origin.get("source") or ""))
    modes = [mode for mode in ("masked", "causal") if mode in lm.modes]
    about: dict[str, Any] = {
        "license": origin.get("licence"),
        "library_name": "mdlm-atat",
        "pipeline_tag": "fill-mask" if "masked" in modes else "text-generation",
        "tags": [
            *(["masked-diffusion", "diffusion-language-model", "fill-in-the-middle"] if "masked" in modes else []),
            *(["causal-lm"] if "causal" in modes else []),
            *(["transformers"] if has_code else []),
        ],
        "base_model": base.repository if base else None,
    }
    text = yaml.safe_dump({key: value for key, value in about.items() if value}, sort_keys=False, allow_unicode=True)
    return f"---\n{text}---"


def _about(lm: LanguageModel, origin: Mapping[str, Any], packing: Packing) -> str:
    config = lm.config
    num_weights = sum(weight.numel() for weight in lm.network.parameters())  # type: ignore[attr-defined]
    modes = {
        frozenset({"masked"}): "a masked diffusion language model: it fills masked tokens in any order",
        frozenset({"causal"}): "a language model that reads and writes from left to right",
    }
    what = modes.get(
        lm.modes,
        "a two-way language model: it fills masked tokens in any order, and reads and writes from left to right",
    )
    kept = f", stored in {PACKED[packing]}" if packing in PACKED else ""
    text = (
        f"This is {what}. It has {count(num_weights)} parameters ({config.model.num_layers} layers of width "
        f"{config.model.width}{kept}), reads {lm.max_length:,} tokens at a time, and its tokenizer "
        f"({bare(lm.tokenizer.name)}) has {lm.tokenizer.vocab_size:,} tokens."
    )
    if origin.get("source"):
        revision = f" at commit {origin['revision']}" if origin.get("revision") else ""
        text += f"\n\nIts weights come from {linked(origin['source'])}{revision}, a model of the "
        text += f"{origin.get('family')} family."
        text += "".join(f"\n- {note}" for note in origin.get("notes") or ())
    if origin.get("begun_with"):
        text += f"\n\nIts training began with the weights of {linked(origin['begun_with'])}."
    return text


def linked(name: str) -> str:
    hub_name = HubName.parse(name)
    return name if hub_name is None else f"[{hub_name.repository}](https://huggingface.co/{hub_name.repository})"


def _use(lm: LanguageModel, name: str, has_code: str | None) -> str:
    words, call = ["generate", name, "--prompt", "It was"], 'lm.generate("It was").text'
    if "masked" in lm.modes:
        words, call = ["infill", name, "It was a [MASK:4] night."], 'lm.infill("It was a [MASK:4] night.").text'
    text = f"""## How to use it

    pip install "mdlm-atat[hub]"
    {command_line(words)}

```python
import mdlm_atat

lm = mdlm_atat.load_lm({name!r})
print({call})
```"""
    text = "\n\n".join([text, *left_out(lm.network, lm.tokenizer)])
    if has_code is None:
        return text
    return f"""{text}

With transformers alone, which runs the code in this folder:

```python
from transformers import {has_code}, AutoTokenizer

model = {has_code}.from_pretrained({name.removeprefix(PREFIX)!r}, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained({name.removeprefix(PREFIX)!r}, trust_remote_code=True)
```"""


def renamed(text: str, old: str, new: str) -> str:
    """A card whose lines on how to use the model call it otherwise."""
    for word in ("infill", "generate"):
        text = text.replace(f"    {command_line([word, old])} ", f"    {command_line([word, new])} ")
    text = text.replace(f"load_lm({old!r})", f"load_lm({new!r})")
    return text.replace(f"from_pretrained({old!r}", f"from_pretrained({new.removeprefix(PREFIX)!r}")


LIMITS = """## What it is not good for

It continues and fills text as its training text would have it, repeats what that says of people and things, and may
repeat passages of it word for word. Nothing was done to make what it writes true, harmless or private: it is no source
of facts or advice. A likelihood compares texts in the language and manner that it was trained on, not their quality."""


def _training(lm: LanguageModel, origin: Mapping[str, Any]) -> str:
    config = without_paths(lm.config)
    if origin.get("source"):
        return ""
    lines = [f"| text | {config.data.source} |"]
    if lm.checkpoint is not None:
        num_tokens = lm.checkpoint.step * config.train.batch_size * config.data.length
        lines.append(f"| steps | {lm.checkpoint.step:,} of {config.train.batch_size} sequences |")
        lines.append(f"| tokens read | {num_tokens:,}, repeated ones included |")
    lines += [
        f"| masking | {config.masking.strategy} |" if "masked" in lm.modes else "",
        f"| optimizer | {config.optim.kind}, peak learning rate {config.optim.lr:g} |",
        f"| averaged weights | {'yes' if config.train.ema_decay else 'no'} |",
    ]
    table = "\n".join(line for line in lines if line)
    return f"## Training\n\n| | |\n|---|---|\n{table}\n\nEvery setting is in `config.yaml`."


def _costs(lm: LanguageModel, packing: Packing) -> str:
    rows = [
        f"| {bare(_text_of(found))} ({found.text.split}) | {part.name} | {'exactly' if part.is_exact else 'at most'} "
        f"{part.cost.shown()} | {part.cost.shown_bits()} | {perplexity(part.cost.perplexity_per_token)} |"
        for found in _evaluations(lm)
        for part in found.likelihoods
    ]
    if not rows:
        return ""
    packed = f" They are of the weights before they were stored in {PACKED[packing]}." if packing in PACKED else ""
    return (
        "## What held-out text costs\n\n| text | likelihood | nats per token | bits per character | perplexity per "
        "token |\n|---|---|---|---|---|\n" + "\n".join(rows) + '\n\n± is one standard error. "At most" is an upper '
        f"bound; exact values and bounds of several orders are different numbers of one model.{packed}"
    )


def _text_of(found: Evaluation) -> str:
    corpus = found.text.corpus or {}
    return found.zero_shot or str(corpus.get("spec") or corpus.get("hub") or "held-out text")


def _evaluations(lm: LanguageModel) -> Iterator[Evaluation]:
    """What is stored of these weights, in the model's folder."""
    if lm.home is None or lm.checkpoint is None:
        return
    checksum = lm.checkpoint.checksum
    for file in sorted(results_folder(lm.home, "evals").glob(f"{lm.checkpoint.folder.name}-*.json")):
        try:
            found = Evaluation.load(file)
        except UserError:
            continue
        if found.checkpoint_hash == checksum:
            yield found


def _samples(lm: LanguageModel) -> str:
    """The first texts that the run wrote at its end, if it was with these weights."""
    if lm.home is None or lm.checkpoint is None or not (lm.home / "samples.jsonl").is_file():
        return ""
    try:
        lines = [json.loads(line) for line in read_small(lm.home / "samples.jsonl").decode().split("\n") if line]
        texts = [
            f"{number}. {sample['made']} (seed {sample['seed']}, {sample['sampler']}):\n\n"
            + "\n".join(f"       {line}" for line in str(sample["text"]).splitlines())
            for number, sample in enumerate(lines[:MOST_SAMPLES], start=1)
            if sample["step"] == lm.checkpoint.step
        ]
    except (UserError, ValueError, KeyError, TypeError):
        return ""
    return "## What it wrote\n\nThe first texts, none chosen.\n\n" + "\n\n".join(texts) if texts else ""


def _licence(origin: Mapping[str, Any]) -> str:
    if origin.get("licence"):
        return f"## Licence\n\n{origin['licence']}, as its authors published it."
    return (
        "## Licence\n\nNone is named yet. Name one in the first lines of this file (`license: apache-2.0`, say), which "
        "the text that it was trained on allows."
    )


def _code_in(folder: Path) -> str | None:
    """The Auto class that transformers loads a folder by; None where the folder brings it no code."""
    if not (folder / "config.json").is_file():
        return None
    classes = read_object(folder / "config.json").get("auto_map")
    names = [name for name in (classes if isinstance(classes, dict) else {}) if name.startswith("AutoModel")]
    known = ("AutoModelForMaskedLM", "AutoModelForCausalLM")
    return next((name for name in known if name in names), None)
