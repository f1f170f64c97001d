"""How a model is fine-tuned: fixed numbers, none of them searched for on the examples that are scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict

from mdlm_atat.checks import at_least
from mdlm_atat.config.section import expect, hints_of
from mdlm_atat.errors import UserError

Pooling = Literal["mean", "first", "causal_mean", "last"]
FEW_EXAMPLES = 1000
"""Fewer have defaults of their own: what is usual would be 15 steps for 80 of them."""
PROBE_IS_LIKELY_BETTER = 300
"""Who trains the whole network on fewer examples is told that a probe is likely better. It was at 80, on one task:
0.626 ± 0.017 against 0.475 ± 0.025 (docs/classify.md), which is too little to make it the default."""
TRAINED = {"epochs": 5, "batch_size": 32, "lr": 1e-4}
TRAINED_ON_FEW = {"epochs": 10, "batch_size": 16, "lr": 1e-4}
PROBED = {"epochs": 20, "batch_size": 64, "lr": 1e-3}
PROBED_ON_FEW = {"epochs": 40, "batch_size": 16, "lr": 1e-3}


def usual(num_examples: int, *, probe: bool) -> dict[str, float]:
    """The default epochs, batch size and learning rate for so many examples to train on."""
    if num_examples < FEW_EXAMPLES:
        return PROBED_ON_FEW if probe else TRAINED_ON_FEW
    return PROBED if probe else TRAINED


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings:
    """Every setting of a fine-tuning, decided. `GivenSettings` are those that a caller may leave open."""

    probe: bool = False
    """Train the head alone, on a backbone that stays as it is."""
    pooling: Pooling = "mean"
    """What the head reads of the last layer: the mean of its states over the text, or the first position's (masked
    mode); the mean of the states that have read the text up to each token, or the one that has read it all (causal
    mode)."""
    max_length: int
    """Tokens of a text, or of two with their separator; longer ones are cut."""
    epochs: int
    """Passes over the training examples."""
    batch_size: int
    """Examples of an optimizer step."""
    lr: float
    """Peak learning rate of AdamW: a linear warm-up to it, then a linear decay to 0."""
    warmup_share: float = 0.1
    """Share of all steps that the warm-up takes."""
    weight_decay: float = 0.01
    """AdamW's weight decay, on the matrices of linear layers."""
    grad_clip: float = 1.0
    """Largest gradient norm; longer gradients are scaled down to it. 0: no clipping."""
    dropout: float = 0.1
    """Dropout probability of what the head reads."""
    backbone_dropout: float = 0.0
    """Dropout probability within the backbone; a probe has none."""
    patience: int = 0
    """Stop after this many epochs without a better score. 0: never."""

    def __post_init__(self) -> None:
        for name, hint in hints_of(type(self)).items():
            try:
                object.__setattr__(self, name, expect(getattr(self, name), hint))
            except UserError as error:
                raise UserError(f"`{name}=`: {error}") from error
        for name, least in (("epochs", 1), ("batch_size", 1), ("patience", 0), ("max_length", 2)):
            at_least(f"`{name}=`", getattr(self, name), least)
        for name in ("weight_decay", "grad_clip"):
            at_least(f"`{name}=`", getattr(self, name), 0)
        if self.lr <= 0:
            raise UserError(f"`lr=` is {self.lr:g}, expected above 0, e.g. 1e-4")
        for name in ("warmup_share", "dropout", "backbone_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"`{name}=` is {getattr(self, name):g}, expected from 0 to below 1, e.g. 0.1")
        if self.probe and self.backbone_dropout:
            raise UserError("`backbone_dropout=` has no effect with `probe=True`, whose backbone is not trained")


class GivenSettings(TypedDict, total=False):
    """Settings as a caller gives them, with the meanings of `FinetuneSettings`. None is the default, as is leaving it
    out; it depends on the model, on `probe` and on the number of examples."""

    probe: bool
    pooling: Pooling | None
    max_length: int | None
    epochs: int | None
    batch_size: int | None
    lr: float | None
    warmup_share: float
    weight_decay: float
    grad_clip: float
    dropout: float
    backbone_dropout: float | None
    patience: int
