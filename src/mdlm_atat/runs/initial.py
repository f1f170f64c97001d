"""A new run that starts from the weights of a trained model: `atat train --init`."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mdlm_atat import model_folder
from mdlm_atat.config.build import modes_of
from mdlm_atat.config.files import (
    METHODS,
    apply_settings,
    folder_config,
    load_config,
    method_settings,
    named_settings,
)
from mdlm_atat.config.low_rank_schema import LoraConfig
from mdlm_atat.config.schema import LAYOUT, SECTIONS, SHAPE, DataConfig, RunConfig, settings_with
from mdlm_atat.data.open_tokenizer import load_tokenizer
from mdlm_atat.data.tokenizers import Tokenizer
from mdlm_atat.errors import UserError
from mdlm_atat.lm.folder import Located, locate
from mdlm_atat.model_folder import ORIGIN_FILE, borrowed_name
from mdlm_atat.published.hub import HubName
from mdlm_atat.small_files import read_object
from mdlm_atat.training.checkpoint import all_checkpoints, copy_into
from mdlm_atat.training.folder import changes, read_start
from mdlm_atat.training.low_rank import MODE_VECTOR, START_VECTOR
from mdlm_atat.training.packed import each_weight

SHAPE_SETTINGS = ("model.", "importance.", "masking.", "objective.causal_share", "data.length")
OWN_SHAPE = {f"model.{name}" for name in (*SHAPE, *LAYOUT, "alignment", "extra_outputs")}
"""What a new method leaves as it is in the old network."""
NUM_LISTED = 8
MOST_TOKENS = 512
"""Length of the sequences that a published model is trained on, where nobody names one: it takes texts that are too
long for most machines to train on."""


@dataclass(frozen=True)
class Initial:
    """Where a run's first weights come from."""

    found: Located
    config: RunConfig
    """The one that they were trained by."""
    place: Path
    """As it was named."""

    @classmethod
    def open(cls, path: Path) -> Initial:
        """A run (its newest sound checkpoint), a checkpoint, a saved model, or one of the hub or as others publish it;
        UserError for anything else."""
        said: list[str] = []
        try:
            found = locate(path, said.append)
        except UserError as error:
            raise UserError(f"`init=`: {error}") from error
        if said and all_checkpoints(found.home / "checkpoints")[-1:] != [found.checkpoint]:
            # whoever starts from a model wants to know which
            raise UserError(f"`init=`: {said[-1]}; name a checkpoint")
        return cls(found, folder_config(found.home), path)

    @property
    def weights_name(self) -> str:
        """The file of the weights, averaged ones where they were kept, as a checkpoint of whole files names it."""
        has_average = self.found.checkpoint is not None and self.found.checkpoint.has_average
        return "ema.safetensors" if has_average else "model.safetensors"

    def weights(self) -> Iterable[tuple[str, Tensor]]:
        """The weights with their names, averaged ones where they were kept. Those that are packed are unpacked one by
        one, as they are asked for."""
        checkpoint = self.found.checkpoint
        if checkpoint is None:
            return each_weight(self.found.home / "model.safetensors")
        try:
            return checkpoint.read_weights(average=True).items()
        except (OSError, UserError) as error:
            if not checkpoint.is_gone:
                raise
            raise UserError(
                f"`init=`: {checkpoint.folder} is gone, since a run is at work there, which keeps its newest two "
                "checkpoints: start again, which takes the newest one, or name a copy of one"
            ) from error

    @property
    def name(self) -> str:
        if borrowed_name(self.found.home) is not None and self.found.home != model_folder.BOX:
            return str(self.place)
        return self.found.name

    def run_config(self, preset: str | None, method: str | None, settings: Collection[str]) -> RunConfig:
        """What the new run starts from before its own settings (their paths are given): the model, its method, length
        and tokenizer are the old run's, all else is the preset's, if one is named, under what a new method says of the
        optimizer. What belongs to the old text is left out if another is named, and so is what was accepted of it. That
        the old run trained low-rank weights is no part of that: it begins with their sum.

        A new method changes nothing in the shape of the network. One that reads left to right and is to fill masks too
        keeps the alignment that it has learned, shifted.
        """
        old = self.config if method is None else self._under(method)
        config, data = old, old.data
        length = old.data.length if not self.is_published else min(old.data.length, MOST_TOKENS)
        if preset is not None:
            config = load_config(preset)
            if method is not None:
                changed, _ = apply_settings(config, self._settings_of(method, "optim"))  # which `old` has found sound
                config = changed or config
            data = config.data
            if data.tokenizer != self.config.data.tokenizer:  # whose loss the preset accepts, and not this one's
                data = replace(data, accept_loss=False)
        elif "data.source" in settings:
            plain = DataConfig()
            names = [path.partition(".")[2] for path in settings_with("of_text")]
            if data.loss_on == "answers":
                names.append("mode")  # which followed from it
            data = replace(data, **{name: getattr(plain, name) for name in names})
        return replace(
            config,
            lora=config.lora if preset is not None else LoraConfig(),  # all weights are trained, unless it is asked for
            data=replace(data, tokenizer=str(self.found.home / "tokenizer"), length=length),
            model=replace(old.model, bos_id=None),  # the rows of a text that is prepared here do not begin with it
            objective=old.objective,
            importance=old.importance,
            masking=old.masking,
            curriculum=old.curriculum,
        )

    @property
    def is_published(self) -> bool:
        """Whether somebody else's code has trained it."""
        return (self.found.home / ORIGIN_FILE).is_file()

    @property
    def _reads_only(self) -> bool:
        """Whether it reads left to right and fills no masks."""
        return modes_of(self.config) == {"causal"}

    def _under(self, method: str) -> RunConfig:
        """The old run's configuration under a new method. Raises UserError for a method that is none, or does not
        apply."""
        changed = {path: value for name in SECTIONS for path, value in self._settings_of(method, name).items()}
        named = named_settings(method, METHODS)
        changed = {path: value for path, value in changed.items() if path in named or path not in OWN_SHAPE}
        old = self.config
        if self._reads_only and old.model.kind == "causal":
            old = replace(old, model=replace(old.model, kind="masked"))
        if changed.get("model.kind") == "causal":
            raise UserError(f"{method}: model.kind = causal masks nothing, so no method applies; leave out `method=`")
        config, mistakes = apply_settings(old, changed)
        if config is None:
            raise UserError("\n  ".join([f"{method}:", *(f"{path}: {message}" for path, message in mistakes)]))
        if self._reads_only and "masked" in modes_of(config) and "model.alignment" not in changed:
            config = replace(config, model=replace(config.model, alignment="shifted"))
        return config

    def _settings_of(self, method: str, section: str) -> dict[str, Any]:
        """What a method sets in a section. Weights that somebody else has trained go on with the optimizer they are
        read with: a shipped method's, and its rate, are for random weights."""
        changed = method_settings(method, section)
        if not self.is_published or section != "optim":
            return changed
        named = named_settings(method, METHODS)
        return {path: value for path, value in changed.items() if path in named}

    def load_into(self, model: nn.Module, config: RunConfig, tokenizer: Tokenizer) -> None:
        """Give a model of the same shape these weights; UserError with all that differs where it is of another. A
        network that is to be trained in two ways may begin with one that was trained in one way, also with the
        alignment shifted with one that reads left to right: see `with_start_vector`."""
        differences = self._differences(model, config, tokenizer)
        if differences:
            raise UserError("\n  ".join([f"`init=`: {self.name} does not fit this run:", *differences]))
        weights = self.weights()
        if START_VECTOR in self._added and START_VECTOR in dict(model.named_parameters()):
            weights = with_start_vector(weights)
        copy_into(model, weights)

    def learns_to_fill(self, config: RunConfig) -> bool:
        """Whether a run of this configuration fills masks, and these weights only read left to right."""
        return self._reads_only and "masked" in modes_of(config)

    @property
    def _added(self) -> tuple[str, ...]:
        """Weights that the new network may have beyond these."""
        return (MODE_VECTOR, START_VECTOR) if self._reads_only else (MODE_VECTOR,)

    def _differences(self, model: nn.Module, config: RunConfig, tokenizer: Tokenizer) -> list[str]:
        lines: list[str] = []
        own = load_tokenizer(str(self.found.home / "tokenizer"))
        if own.fingerprint() != tokenizer.fingerprint():
            other = ", but not the same ones" if own.vocab_size == tokenizer.vocab_size else ""
            lines.append(
                f"tokenizer: {own.name} with {own.vocab_size:,} tokens there, {tokenizer.name} with "
                f"{tokenizer.vocab_size:,} here{other}; leave out `data.tokenizer=`"
            )
        there = self.found.shapes()
        here = {name: tuple(p.shape) for name, p in model.named_parameters()}
        wrong = sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))
        wrong = [name for name in wrong if name not in self._added or name in there]
        if wrong:
            lines += [
                f"{path}: {old} there, {new} here"
                for path, (old, new) in changes(self.config, config).items()
                if path.startswith(SHAPE_SETTINGS)
            ]
            lines += [
                f"weight {name}: {there.get(name, 'none')} there, {here.get(name, 'none')} here"
                for name in wrong[:NUM_LISTED]
            ]
            if len(wrong) > NUM_LISTED:
                lines.append(f"and {len(wrong) - NUM_LISTED} weights more")
            if own.fingerprint() == tokenizer.fingerprint():
                lines.append(
                    "the network keeps the shape of these weights: leave out the settings or the method that change it"
                )
        return lines

    def describe(self, config: RunConfig) -> str:
        """What the run begins with, for a person."""
        which = "averaged weights" if self.weights_name == "ema.safetensors" else "weights"
        text = f"init       the {which} of {self.name}"
        if config.data.length > self.config.data.length:
            text += f"; positions beyond {self.config.data.length} are new to them"
        elif self.is_published and config.data.length < self.config.data.length:
            text += f"; of {self.config.data.length:,} tokens that it takes, a sequence has {config.data.length:,}"
        known, all_modes = modes_of(self.config), modes_of(config)
        if known < all_modes:
            new = "read left to right" if "causal" not in known else "fill masks"
            text += f"; to {new} is new to them"
        return text

    def record(self) -> dict[str, Any]:
        """For run.json: which weights they were."""
        checkpoint = self.found.checkpoint
        return {
            "path": self._path_to_keep,
            "checkpoint": None if checkpoint is None else checkpoint.folder.name,
            "checkpoint_hash": self.hash,
            "weights": self.weights_name,
            "length": self.config.data.length,
        }

    @property
    def hash(self) -> str:
        """sha256 over the whole checkpoint or saved model, as of every other number that comes from one."""
        return hashlib.sha256((Path(self.found.name) / "checksums.json").read_bytes()).hexdigest()

    @property
    def _path_to_keep(self) -> str:
        """By what it is found again: a path, or for a model of the hub its name at this commit."""
        hub_name = HubName.parse(self.place)
        if hub_name is None:
            is_ours = borrowed_name(self.found.home) is None or self.found.home == model_folder.BOX
            return str((Path(self.found.name) if is_ours else self.place).resolve())
        home = self.found.home
        origin = home / ORIGIN_FILE
        commit = home.name if not origin.is_file() else read_object(origin).get("revision")
        return str(HubName(hub_name.repository, commit))


def with_start_vector(weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """The weights of a network that reads left to right as those of one with the alignment shifted, whose start symbol
    has a vector of its own: that is the start symbol's embedding, so that what is read left to right stays the same.

    The embedding's last row, which it was, becomes that of [MASK]: the direction of the mean of all tokens' embeddings,
    which is nearest to all of them and stands for none, at their mean length. Before any training a masked token costs
    SmolLM2-135M 7.0 nats at a mask rate of 0.15 and 8.6 at 0.5 with it, and 8.1 and 9.2 with the mean itself, which is
    shorter than a token's.
    """
    for name, weight in weights:
        if name == "embedding.weight":
            tokens, start = weight[:-1], weight[-1]
            mean, length = tokens.mean(dim=0), tokens.norm(dim=1).mean()
            mask = mean * length / mean.norm().clamp_min(torch.finfo(mean.dtype).tiny)
            yield START_VECTOR, start.clone()
            weight = torch.cat([tokens, mask[None]])
        yield name, weight


def reopen(record: dict[str, Any]) -> Initial:
    """The weights that run.json names; UserError where they are not there any more, or not these."""
    if HubName.parse(record["path"]) is None and not Path(record["path"]).exists():
        raise UserError(f"{record['path']}, whose weights the run began with, is not there any more")
    initial = Initial.open(Path(record["path"]))
    if initial.hash != record["checkpoint_hash"]:
        raise UserError(f"{record['path']} holds other weights than those that the run began with")
    return initial


def initial_of(folder: Path) -> Initial | None:
    """What a run began with; None for random weights."""
    record = read_start(folder).get("init")
    return None if record is None else reopen(record)
