"""A classifier of texts: a fine-tuned network with its head, its labels and its calibration.

>>> classifier = TextClassifier.from_pretrained("runs/mine/finetune/emails-classifier")
>>> classifier.predict("My parcel has not arrived.").label
>>> [found.probabilities for found in classifier.predict(["Where is it?", "Thank you!"])]

Its folder is that of a saved model (see `LanguageModel.save_pretrained`), with head.safetensors and classifier.json
beside the network. Nothing is pickled, and the checksums of all files are verified when it is read.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mdlm_atat.atomic import folder_written_aside, write_json
from mdlm_atat.data.files import utf8
from mdlm_atat.device import Precision, choose_device
from mdlm_atat.errors import UserError
from mdlm_atat.finetuning.calibration import Calibration, probabilities
from mdlm_atat.finetuning.encode import EncodedTexts, Separator, encode_texts
from mdlm_atat.finetuning.head import Head, output_width, pooled
from mdlm_atat.finetuning.settings import Pooling
from mdlm_atat.finetuning.training import Trained
from mdlm_atat.lm import CausalLM, MaskedDiffusionLM
from mdlm_atat.lm.export import Labels, write_export
from mdlm_atat.lm.folder import Located
from mdlm_atat.lm.load import load_located
from mdlm_atat.model_folder import CLASSIFIER_FILE, find_classifier
from mdlm_atat.plugins import trusted
from mdlm_atat.published.place import find_model
from mdlm_atat.small_files import read_object, taken_apart
from mdlm_atat.training.checkpoint import find_fault, load_weights, write_checksums
from mdlm_atat.training.packed import Packing, check_packing, save_tensors

HEAD_FILE = "head.safetensors"
FORMAT = 1
BATCH_SIZE = 64
Text = str | tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a classifier says of a text."""

    label: str | None
    """The likeliest label. None: of a regression."""
    probabilities: dict[str, float]
    """Of each label, in the order of `TextClassifier.labels`; they sum to 1. Empty: of a regression."""
    score: float | None
    """The predicted number of a regression. None: of a classifier with labels."""
    is_cut: bool
    """Whether the text was longer than what the network reads, and lost its end."""

    @property
    def confidence(self) -> float | None:
        """Probability of the label. None: of a regression."""
        return None if self.label is None else self.probabilities[self.label]


@dataclass(frozen=True, kw_only=True)
class ClassifierRecord:
    """What classifier.json holds: how a text is read, and what the head's outputs mean."""

    labels: tuple[str, ...]
    """Names of the classes, in the order of the head's outputs. Empty: a regression."""
    is_pair: bool
    """Whether it reads two texts at a time."""
    pooling: Pooling
    max_length: int
    """Tokens of a text, or of two with their separator; longer ones are cut."""
    separator: Separator
    """Between the two texts of a pair."""
    mean: float = 0.0
    spread: float = 1.0
    """A regression's score is mean + spread * the head's output."""
    calibration: Calibration | None = None
    """None: not calibrated, so its temperature is 1."""
    columns: tuple[str, ...] = ()
    """Columns of the text, or of both texts of a pair, in the data that it was trained on."""
    label_column: str = "label"
    about: dict[str, Any] = field(default_factory=dict)
    """Where it came from: task, data, settings, weights, machine and code."""

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> ClassifierRecord:
        calibration, separator = stored["calibration"], stored["separator"]
        return cls(
            **{
                **{name: value for name, value in stored.items() if name != "format"},
                "labels": tuple(stored["labels"]),
                "columns": tuple(stored["columns"]),
                "separator": Separator(tuple(separator["ids"]), separator["name"]),
                "calibration": None if calibration is None else Calibration(**calibration),
            }
        )


class TextClassifier:
    """A fine-tuned network with its head, as `finetune` makes it: texts, or pairs of texts, in; labels with calibrated
    probabilities out, or the numbers of a regression."""

    def __init__(self, lm: MaskedDiffusionLM | CausalLM, head: Head, record: ClassifierRecord) -> None:
        """`lm`: the fine-tuned network with its tokenizer."""
        self.lm, self.record = lm, record
        self.head = head.to(lm.device).eval()
        self.folder: Path | None = None
        """The folder that it was loaded from, or saved in last."""

    @classmethod
    def of_trained(cls, trained: Trained, lm: MaskedDiffusionLM | CausalLM, record: ClassifierRecord) -> TextClassifier:
        """What a seed has trained from the language model `lm`, which stays as it is."""
        backbone = copy.deepcopy(trained.backbone) if trained.backbone is lm.network else trained.backbone
        config = lm.config if lm.has_config else None
        tuned = type(lm)(
            backbone, lm.tokenizer, config, max_length=lm.max_length, device=lm.device, precision=lm.precision
        )
        tuned.counts, tuned.stage = lm.counts, lm.stage
        return cls(tuned, trained.head, record)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        device: torch.device | str | None = None,
        precision: Precision = "auto",
        trust_plugins: bool = False,
    ) -> TextClassifier:
        """Load the classifier in a folder: one made by save_pretrained or `finetune`, or a folder of results, or of a
        run, that holds one.

        `device` None: a GPU if there is one. `trust_plugins`: import the plugins that the folder names, which runs
        their code. Raises UserError where there is none or several, for one that is damaged, and for the format of a
        later version.
        """
        folder = find_classifier(find_model(folder).path)
        fault = find_fault(folder, {CLASSIFIER_FILE, HEAD_FILE, "model.safetensors", "config.yaml"})
        if fault is None and not (folder / "tokenizer").is_dir():
            fault = "its folder tokenizer is missing"
        if fault is not None:
            raise UserError(f"the classifier {folder} is damaged: {fault}; train it again or restore it from a copy")
        record = read_record(folder)
        with trusted(trust_plugins):
            lm = load_located(Located(folder, None), choose_device(device), precision, lambda _: None)
        with torch.random.fork_rng(devices=[]):  # the weights drawn here are overwritten at once
            head = Head(output_width(lm.network), max(1, len(record.labels)), 0.0)
        load_weights(head, folder / HEAD_FILE)
        found = cls(lm, head, record)
        found.folder = folder
        return found

    def save_pretrained(self, folder: str | Path, *, overwrite: bool = False, weights: Packing = "float32") -> Path:
        """Write all that from_pretrained needs, and what transformers needs for `text-classification`; return the
        folder. It is written aside and renamed, so that a folder of this name is whole. `weights`: as for
        `LanguageModel.save_pretrained`; the head's are stored as they are.

        Raises UserError for a folder that is not empty, unless `overwrite` and it holds a classifier, and for a bare
        network, which from_pretrained could not build.
        """
        folder = Path(folder)
        check_packing(weights)
        is_there = folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))
        if is_there and not (overwrite and (folder / CLASSIFIER_FILE).is_file()):
            what = "not empty" if folder.is_dir() else "a file"
            raise UserError(f"{folder} is {what}; choose a new folder to save the classifier in")
        with folder_written_aside(folder) as aside:
            self.lm.write_files(aside, weights)
            head = {name: weight.detach().cpu().contiguous() for name, weight in self.head.named_parameters()}
            save_tensors(head, aside / HEAD_FILE)
            write_json(aside / CLASSIFIER_FILE, {"format": FORMAT, **asdict(self.record)})
            write_checksums(aside)
            lm = self.lm
            write_export(aside, lm.config, lm.network, lm.tokenizer, packing=weights, labels=self._exported_labels())
        self.folder = folder
        return folder

    def push_to_hub(
        self,
        repository: str,
        *,
        private: bool | None = None,
        message: str | None = None,
        revision: str | None = None,
        weights: Packing | None = None,
        replace: bool = False,
    ) -> str:
        """Send this classifier to the hub as OWNER/NAME, and return the address of the commit: as save_pretrained
        writes it, without paths of this machine, and with a card of its labels, its scores and its calibration.

        The arguments, and what is refused, are those of `LanguageModel.push_to_hub`.
        """
        from mdlm_atat.finetuning.push import saved_for
        from mdlm_atat.published.push import push

        if weights is not None:
            check_packing(weights)
        saved = saved_for(self, repository, weights)
        return push(saved, repository, private=private, message=message, revision=revision, replace=replace)

    def _exported_labels(self) -> Labels:
        record = self.record
        return Labels(
            names=record.labels,
            pooling=record.pooling,
            temperature=self.temperature,
            mean=record.mean,
            spread=record.spread,
            head_file=HEAD_FILE,
            max_length=record.max_length,
            separator=record.separator.ids if record.is_pair else (),
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes. Empty: a regression."""
        return self.record.labels

    @property
    def is_regression(self) -> bool:
        return not self.labels

    @property
    def is_pair(self) -> bool:
        """Whether it reads two texts at a time."""
        return self.record.is_pair

    @property
    def temperature(self) -> float:
        """What logits are divided by before the softmax."""
        return 1.0 if self.record.calibration is None else self.record.calibration.temperature

    def fingerprint(self) -> str:
        """SHA-256 of all weights and of how texts are read and labelled, in hexadecimal."""
        digest = hashlib.sha256(self.lm.fingerprint().encode())
        for weight in self.head.parameters():
            digest.update(weight.detach().cpu().contiguous().numpy().tobytes())
        digest.update(json.dumps({**asdict(self.record), "about": None}, sort_keys=True).encode())
        return digest.hexdigest()

    def to(self, device: torch.device | str) -> TextClassifier:
        """Move it to a device, in place, and return it."""
        self.lm.to(device)
        self.head.to(self.lm.device)
        return self

    @overload
    def predict(  # pyright: ignore[reportOverlappingOverload]
        self, texts: str, *, batch_size: int = BATCH_SIZE
    ) -> Prediction: ...

    @overload
    def predict(self, texts: Sequence[Text], *, batch_size: int = BATCH_SIZE) -> list[Prediction]: ...

    def predict(self, texts: str | Sequence[Text], *, batch_size: int = BATCH_SIZE) -> Prediction | list[Prediction]:
        """The label of each text with all probabilities, or its number where this is a regression.

        A str is one text and gives one prediction; a sequence gives a list. A classifier of pairs takes a sequence of
        tuples of two. Raises UserError for a text without a token, and for pairs where texts are read or texts where
        pairs are.
        """
        if isinstance(texts, str):
            return self.predict([texts], batch_size=batch_size)[0]
        found = self.predict_encoded(self.encode(texts), batch_size=batch_size)
        missing = next((number for number, prediction in enumerate(found) if prediction is None), None)
        if missing is not None:
            raise UserError(f"text {missing}, {texts[missing]!r:.80}, has no token in the model's vocabulary")
        return [prediction for prediction in found if prediction is not None]

    def encode(self, texts: Sequence[Text]) -> EncodedTexts:
        """The texts as tokens; one that is empty, as a pair of which one is, has none. Raises UserError for pairs where
        texts are read or texts where pairs are, and for half of a character."""
        wanted = 2 if self.is_pair else 1
        rows = [(text,) if isinstance(text, str) else tuple(text) for text in texts]
        for number, row in enumerate(rows):
            if len(row) != wanted or not all(isinstance(part, str) for part in row):
                expected = "a pair of texts, as a tuple of two" if self.is_pair else "one text, as a str"
                raise UserError(f"text {number} is {texts[number]!r:.80}; this classifier reads {expected}")
            for part in row:
                utf8(part)
        rows = [tuple(part if part.strip() else "" for part in row) for row in rows]  # as in training
        return encode_texts(rows, self.lm.tokenizer, self.record.separator, self.record.max_length)

    def predict_encoded(self, texts: EncodedTexts, *, batch_size: int = BATCH_SIZE) -> list[Prediction | None]:
        """A prediction for each text that has tokens, and None for the others."""
        rows = [number for number, ids in enumerate(texts.ids) if len(ids)]
        found: list[Prediction | None] = [None] * len(texts)
        if not rows:
            return found
        outputs = self.outputs(texts, rows, batch_size=batch_size).cpu().double().numpy()
        if self.is_regression:
            for number, (output,) in zip(rows, outputs.tolist(), strict=True):
                score = self.record.mean + self.record.spread * output
                found[number] = Prediction(label=None, probabilities={}, score=score, is_cut=texts.is_cut[number])
            return found
        for number, p in zip(rows, probabilities(outputs / self.temperature), strict=True):
            found[number] = Prediction(
                label=self.labels[int(np.argmax(p))],
                probabilities=dict(zip(self.labels, p.tolist(), strict=True)),
                score=None,
                is_cut=texts.is_cut[number],
            )
        return found

    def outputs(
        self, texts: EncodedTexts, rows: Sequence[int], *, batch_size: int = BATCH_SIZE
    ) -> Float[Tensor, "n outputs"]:
        """The head's outputs for some of the texts: logits, or a regression's scores in their spread. Texts of similar
        length are read together."""
        order = sorted(range(len(rows)), key=lambda place: len(texts.ids[rows[place]]))
        parts = []
        for start in range(0, len(order), batch_size):
            chosen = [rows[place] for place in order[start : start + batch_size]]
            ids, lengths = (part.to(self.lm.device) for part in texts.batch(chosen, self.record.max_length))
            with self.lm.inference():
                parts.append(self.head(pooled(self.lm.network, ids, lengths, self.record.pooling)))
        found = torch.cat(parts)
        return torch.empty_like(found).index_copy_(0, torch.tensor(order, device=found.device), found)

    def __repr__(self) -> str:
        kind = "a number" if self.is_regression else ", ".join(self.labels[:8]) + ", ..." * (len(self.labels) > 8)
        pairs = " of pairs" if self.is_pair else ""
        return f"TextClassifier({kind}{pairs}; {self.lm!r})"


def read_record(folder: Path) -> ClassifierRecord:
    """What a folder's classifier.json holds. Raises UserError for the format of another version."""
    file = folder / CLASSIFIER_FILE
    stored = read_object(file)
    if stored.get("format") != FORMAT:
        raise UserError(
            f"{folder} was written in format {stored.get('format')!r:.80}, this version reads {FORMAT}; use the "
            "version that wrote it"
        )
    with taken_apart(file):
        record = ClassifierRecord.from_json(stored)
        numbers = (record.max_length, record.mean, record.spread)
        are_texts = all(isinstance(label, str) for label in record.labels)
        if not (are_texts and all(isinstance(number, (int, float)) for number in numbers)):
            raise ValueError("labels are texts, and max_length, mean and spread numbers")
        return record
