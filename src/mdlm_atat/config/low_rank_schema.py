"""The settings of low-rank training (LoRA, arXiv 2106.09685)."""

from __future__ import annotations

from dataclasses import dataclass

from mdlm_atat.checks import within
from mdlm_atat.config.section import Section, setting
from mdlm_atat.effect import ABOVE_0, When
from mdlm_atat.errors import UserError

ON: When = {"lora.rank": ABOVE_0}


@dataclass(frozen=True, kw_only=True)
class LoraConfig(Section):
    NAME = "lora"

    rank: int = setting(0, short="lora_rank")
    """Of each chosen matrix W train the sum W + alpha / rank * B A, and of it nothing but A and B, of so many rows and
    columns; for a run that begins with trained weights (--init). 0: all weights are trained."""
    alpha: float = setting(16.0, when=ON)
    """Scale of the sum: alpha / rank."""
    input_dropout: float = setting(0.0, when=ON)
    """Dropout probability of what A reads, in training."""
    targets: tuple[str, ...] = setting((), when=ON)
    """Linear layers of the blocks by their names, such as qkv and down. None: all but `modulation`, which is of the
    time."""

    def check(self) -> None:
        within("lora.rank", self.rank, 0, 1 << 16)
        if self.alpha <= 0:
            raise UserError(f"lora.alpha is {self.alpha}, expected above 0, e.g. 16")
        if not 0 <= self.input_dropout < 1:
            raise UserError(f"lora.input_dropout is {self.input_dropout}, expected from 0 to below 1, e.g. 0.05")
