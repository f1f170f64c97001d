"""ATAT's part of a run's settings: importance, masking, curriculum. `RunConfig` in `config.schema` checks their fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from mdlm_atat.checks import at_least, probability, within
from mdlm_atat.config.section import Section, setting
from mdlm_atat.effect import When
from mdlm_atat.errors import UserError

ESTIMATED: When = {"importance.mode": ("full", "learned_only")}
BY_IMPORTANCE: When = {"masking.strategy": ("importance", "curriculum", "literal_importance", "literal_curriculum")}
STAGED: When = {"curriculum.kind": ("fixed", "dynamic")}


@dataclass(frozen=True, kw_only=True)
class ImportanceConfig(Section):
    NAME = "importance"

    mode: Literal["none", "full", "learned_only", "frequency_only"] = "none"
    """Where a token's importance comes from: nowhere, the estimator and the corpus prior, or one of them."""
    prior: Literal["surprisal", "frequency"] = setting(
        "surprisal", when={"importance.mode": ("full", "frequency_only")}
    )
    """Importance by frequency: -log of it, scaled to 0..1, or 1 - frequency / largest (nearly 1 for most tokens)."""
    prior_share: float = setting(0.3, when={"importance.mode": "full"})
    """full only: share of the prior in the importance; the estimator has the rest."""
    time: bool = setting(True, when=ESTIMATED)
    """Tell the estimator t too (AdaptiveImportanceEstimator)."""
    width: int = setting(256, when=ESTIMATED)
    """Width of the estimator."""
    num_layers: int = setting(2, when=ESTIMATED)
    """Transformer blocks of the estimator."""
    num_heads: int = setting(4, when=ESTIMATED)
    """Attention heads of the estimator; must divide width."""
    loss_weight: float = setting(0.1, when=ESTIMATED)
    """Weight of the estimator's own loss, which trains nothing else."""
    train_share: float = setting(0.25, when=ESTIMATED)
    """Share of a batch's sequences that the estimator is trained on; it needs fewer than the denoiser."""
    through_bound: bool = False
    """Train what drives the masking through the bound too (RLOO): every sequence is masked twice, so a step sees half
    as many."""

    def check(self) -> None:
        for name, highest in (("width", 1 << 16), ("num_layers", 1000), ("num_heads", 1 << 16)):
            within(f"importance.{name}", getattr(self, name), 1, highest)
        if self.width % self.num_heads or (self.width // self.num_heads) % 2:
            raise UserError(
                f"importance.width = {self.width} cannot be split over importance.num_heads = {self.num_heads} heads "
                "of even width; try `importance.width="
                f"{max(1, self.width // (2 * self.num_heads)) * 2 * self.num_heads}`"
            )
        probability("importance.prior_share", self.prior_share)
        if not 0 < self.train_share <= 1:
            raise UserError(f"importance.train_share is {self.train_share}, expected above 0 and at most 1")
        if self.loss_weight <= 0:
            raise UserError(f"importance.loss_weight is {self.loss_weight}, expected above 0, e.g. 0.1")

    @property
    def has_estimator(self) -> bool:
        return self.mode in ("full", "learned_only")


@dataclass(frozen=True, kw_only=True)
class MaskingConfig(Section):
    NAME = "masking"

    strategy: str = setting("uniform", plugin="masking", short="masking")
    """What decides when a token is masked: nothing but t (MDLM), its importance, its position, whether the curriculum's
    stage asks for its importance; the literal_* are the formulas of ATAT's first description, which give no bound; or a
    plugin, as package.module:Name."""
    options: dict[str, Any] = setting(
        {}, options_of="strategy", num_given=1, offered=("tokenizer", "vocab_size", "counts")
    )
    """Settings of a plugin's own, by name."""
    direction: Literal["inverse", "proportional", "balanced", "time_only"] = setting(
        "inverse", when={"masking.strategy": ("importance", "literal_importance", "literal_curriculum")}
    )
    """importance: important tokens are masked late and revealed early (inverse), the reverse (proportional), from one
    to the other as t grows (balanced), or all alike (time_only)."""
    temperature: float = setting(1.0, when=BY_IMPORTANCE)
    """Importance is divided by it before the exponential: lower is a stronger effect; a curriculum multiplies it."""
    position: Literal["none", "slope", "u_shape", "table"] = "none"
    """position: the shape of its bias (slope: the left is revealed first; u_shape: both ends; table: learned);
    importance and literal_importance: a shape that is added to theirs."""
    position_strength: float = setting(
        2.0,
        when={
            "masking.strategy": ("position", "importance", "literal_importance"),
            "masking.position": ("slope", "u_shape"),
        },
    )
    """Log of the ratio of the exponents of what is revealed first and last; negative: the other way round."""
    logit_correction: bool = False
    """The network models the uniform schedule, and the known effect of its own schedule is added to its logits; for
    importance.mode frequency_only, where it is known."""

    def check(self) -> None:
        if self.temperature <= 0:
            raise UserError(f"masking.temperature is {self.temperature}, expected above 0, e.g. 1")
        if abs(self.position_strength) > 20:
            raise UserError(f"masking.position_strength is {self.position_strength}, expected from -20 to 20")
        if self.strategy == "position" and self.position == "none":
            raise UserError(
                "masking.strategy = position needs a shape: set masking.position to slope, u_shape or table"
            )
        if self.position != "none" and self.strategy in ("uniform", "curriculum", "literal_curriculum"):
            raise UserError(
                f"masking.position = {self.position} has no effect with masking.strategy = {self.strategy}: use the "
                "strategy position, importance or literal_importance, or set masking.position to none"
            )
        if self.position == "table" and self.strategy != "position":
            raise UserError(f"masking.position = table needs masking.strategy = position, not {self.strategy}")
        if self.strategy == "importance" and self.direction == "balanced" and self.temperature < 0.75:
            raise UserError(
                f"masking.temperature = {self.temperature} is too low for masking.direction = balanced, whose masks "
                "would not grow with t; use at least 0.75"
            )


Triple = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class CurriculumConfig(Section):
    NAME = "curriculum"

    kind: Literal["none", "fixed", "dynamic"] = "none"
    """Three stages, easy to hard: none, by the share of steps taken (fixed), or by the smoothed loss (dynamic)."""
    boundaries: tuple[float, float] = setting((0.33, 0.66), when={"curriculum.kind": "fixed"})
    """fixed: shares of all steps at which the second and the third stage begin; ATAT's first description also has
    0.2 0.8 and 0.3 0.7."""
    progress: Literal["step", "linear", "exponential"] = setting("step", when={"curriculum.kind": "fixed"})
    """fixed: a stage's numbers hold (step) or move to the next stage's during it (linear; exponential: soon)."""
    temperatures: Triple = setting((2.0, 1.0, 0.5), when={**STAGED, **BY_IMPORTANCE})
    """Factors of masking.temperature, a stage each."""
    ranges_low: Triple = setting(
        (0.0, 0.3, 0.6), when={**STAGED, "masking.strategy": ("curriculum", "literal_curriculum")}
    )
    """Lowest importance of each stage's own tokens (curriculum strategies)."""
    ranges_high: Triple = setting(
        (0.4, 0.7, 1.0), when={**STAGED, "masking.strategy": ("curriculum", "literal_curriculum")}
    )
    """Highest importance of each stage's own tokens."""
    windows_low: Triple = setting((0.15, 0.3, 0.5), when={**STAGED, "curriculum.time_sampling": "window"})
    """Lowest t of the stages whose time_sampling is window."""
    windows_high: Triple = setting((0.3, 0.5, 0.7), when={**STAGED, "curriculum.time_sampling": "window"})
    """Highest t of the stages whose time_sampling is window."""
    time_sampling: tuple[
        Literal["uniform", "beta", "window"], Literal["uniform", "beta", "window"], Literal["uniform", "beta", "window"]
    ] = setting(("beta", "beta", "uniform"), when=STAGED)
    """Density of t in each stage, in place of objective.time_sampling."""
    weighting: tuple[
        Literal["elbo", "flat", "clipped"], Literal["elbo", "flat", "clipped"], Literal["elbo", "flat", "clipped"]
    ] = setting(("flat", "flat", "elbo"), when=STAGED)
    """Weighting over t in each stage, in place of objective.weighting."""
    weight_in_range: float = setting(2.0, when={**STAGED, "masking.strategy": "literal_curriculum"})
    """literal_curriculum only: loss weight of tokens in the stage's range, others 1."""
    interval_steps: int = setting(10, when={"curriculum.kind": "dynamic"})
    """dynamic: steps between two looks at the loss."""
    patience: int = setting(20, when={"curriculum.kind": "dynamic"})
    """dynamic: looks without improvement before a stage is left."""
    min_steps: int = setting(100, when={"curriculum.kind": "dynamic"})
    """dynamic: steps that a stage lasts at least."""
    max_steps: int = setting(0, when={"curriculum.kind": "dynamic"})
    """dynamic: steps that a stage lasts at most. 0: no limit."""
    smoothing: float = setting(0.95, when={"curriculum.kind": "dynamic"})
    """dynamic: weight of the past in the smoothed loss."""
    tolerance: float = setting(0.005, when={"curriculum.kind": "dynamic"})
    """dynamic: relative fall of the smoothed loss that counts as an improvement."""
    setback: float = setting(0.05, when={"curriculum.kind": "dynamic"})
    """dynamic: relative rise above the stage's best at which it is left for the one before."""

    def check(self) -> None:
        first, second = self.boundaries
        if not 0 < first < second < 1:
            raise UserError(
                f"curriculum.boundaries is {first} {second}, expected 0 < first < second < 1, e.g. 0.33 0.66"
            )
        for stage, (low, high) in enumerate(zip(self.ranges_low, self.ranges_high, strict=True), 1):
            if not 0 <= low < high <= 1:
                raise UserError(
                    f"curriculum stage {stage}: importance from {low} to {high}, expected 0 <= low < high <= 1"
                )
        for stage, (low, high) in enumerate(zip(self.windows_low, self.windows_high, strict=True), 1):
            if not 0 <= low < high <= 1:
                raise UserError(f"curriculum stage {stage}: t from {low} to {high}, expected 0 <= low < high <= 1")
        if min(self.temperatures) <= 0:
            raise UserError(f"curriculum.temperatures is {self.temperatures}, expected three numbers above 0")
        if self.weight_in_range <= 0:
            raise UserError(f"curriculum.weight_in_range is {self.weight_in_range}, expected above 0")
        for name in ("interval_steps", "patience"):
            at_least(f"curriculum.{name}", getattr(self, name), 1)
        for name in ("min_steps", "max_steps", "tolerance", "setback"):
            at_least(f"curriculum.{name}", getattr(self, name), 0)
        if 0 < self.max_steps < self.min_steps:
            raise UserError(f"curriculum.max_steps = {self.max_steps} is below curriculum.min_steps = {self.min_steps}")
        if not 0 <= self.smoothing < 1:
            raise UserError(f"curriculum.smoothing is {self.smoothing}, expected from 0 to below 1, e.g. 0.95")
