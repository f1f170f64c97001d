"""Imported: a model that somebody else published, in our terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from mdlm_atat.atomic import folder_written_aside, write_json
from mdlm_atat.config.files import save_config
from mdlm_atat.config.schema import (
    DataConfig,
    EvalConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    RunConfig,
    TrainConfig,
)
from mdlm_atat.data.open_tokenizer import save_tokenizer
from mdlm_atat.data.tokenizers import Tokenizer
from mdlm_atat.model_folder import ORIGIN_FILE
from mdlm_atat.training.checkpoint import write_checksums
from mdlm_atat.training.packed import Packing, write_weights


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where an imported model comes from, for its page and for whoever passes it on."""

    source: str
    """The hub name, folder or file that it was read from."""
    revision: str | None = None
    """The commit of the hub that it was read at."""
    family: str
    """What was read: "MDLM", "Llama", ..."""
    licence: str | None = None
    """As its authors name it."""
    notes: tuple[str, ...] = ()
    """What its reader should know: what was folded, moved or left out."""


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A configuration, weights and a tokenizer that `load_lm` can use, made of somebody else's files."""

    config: RunConfig
    weights: Mapping[str, Tensor]
    """By the names of `build_model(config, tokenizer.vocab_size)`, every one of them."""
    tokenizer: Tokenizer
    origin: Origin
    packing: Packing = "float32"
    """How they are stored: "bf16" where that is what they were published in, so that nothing is lost."""

    def write(self, folder: Path) -> None:
        """Write a folder that `load_lm` opens, as save_pretrained does; it must not exist."""
        with folder_written_aside(folder) as aside:
            write_weights(self.weights, aside / "model.safetensors", self.packing)
            save_config(self.config, aside / "config.yaml")
            save_tokenizer(self.tokenizer, aside / "tokenizer")
            write_json(aside / ORIGIN_FILE, asdict(self.origin))
            write_checksums(aside)


def run_config_of(model: ModelConfig, data: DataConfig) -> RunConfig:
    """The settings of an imported network, with those that a run begins with which goes on from it: as it knows much
    already, small steps, and batches that a GPU holds."""
    return RunConfig(
        data=data,
        model=model,
        objective=ObjectiveConfig(causal_share=float(model.kind == "causal")),
        optim=OptimConfig(lr=3e-4, weight_decay=0.0),
        train=TrainConfig(batch_size=16, num_micro_batches="auto"),
        eval=EvalConfig(num_draws=256, final_num_draws=1024, batch_size=8),
    )
