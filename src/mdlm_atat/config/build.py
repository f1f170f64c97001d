"""The one place that turns a configuration into objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any, assert_never

from mdlm_atat.config.schema import DataConfig, ModelConfig, ObjectiveConfig, RunConfig
from mdlm_atat.data.prepare import ensure_prepared
from mdlm_atat.data.progress import Progress
from mdlm_atat.models.ar import CausalTransformer
from mdlm_atat.models.dit import ATATDiT
from mdlm_atat.objective import CausalNLL, MaskedDiffusion, Objective
from mdlm_atat.schedules import Cosine, Geometric, Linear, Polynomial, Schedule
from mdlm_atat.time_sampling import BetaTime, TimeDensity, UniformTime, Weighting


def build_model(config: ModelConfig, vocab_size: int, max_length: int) -> ATATDiT | CausalTransformer:
    """A network with fresh weights from torch's global generator."""
    shape: dict[str, Any] = {
        "num_layers": config.num_layers,
        "width": config.width,
        "num_heads": config.num_heads,
        "mlp_ratio": config.mlp_ratio,
        "norm": config.norm,
        "qk_norm": config.qk_norm,
        "dropout": config.dropout,
        "tied": config.tied,
    }
    match config.kind:
        case "masked":
            return ATATDiT(
                vocab_size,
                max_length,
                **shape,
                time_conditioning=config.time_conditioning,
                time_width=config.time_width,
                extra_outputs=config.extra_outputs,
            )
        case "causal":
            return CausalTransformer(vocab_size, max_length, **shape)
        case _:
            assert_never(config.kind)


def build_schedule(config: ObjectiveConfig) -> Schedule:
    match config.schedule:
        case "linear":
            return Linear()
        case "cosine":
            return Cosine()
        case "geometric":
            return Geometric()
        case "polynomial":
            return Polynomial(config.exponent)
        case _:
            assert_never(config.schedule)


def build_time_density(config: ObjectiveConfig) -> TimeDensity:
    match config.time_sampling:
        case "uniform":
            return UniformTime()
        case "beta":
            return BetaTime(*config.beta, uniform_share=config.uniform_share)
        case "window":
            return UniformTime(*config.window)
        case _:
            assert_never(config.time_sampling)


def build_objective(config: RunConfig, vocab_size: int) -> Objective:
    if config.model.kind == "causal":
        return CausalNLL()
    schedule, density = build_schedule(config.objective), build_time_density(config.objective)
    weighting = Weighting(config.objective.weighting, schedule, density, config.objective.clip)
    return MaskedDiffusion(schedule, density, weighting, mask_id=vocab_size)


def prepare_data(data: DataConfig, progress: Progress) -> Path:
    """The folder of prepared tokens: the source itself if it is one, else one in the cache, made if it is missing."""
    return ensure_prepared(
        data.source,
        data.tokenizer,
        mode=data.mode,
        length=data.length,
        validation=data.validation,
        validation_fraction=data.validation_fraction,
        split=data.split,
        column=data.column,
        documents=data.documents,
        progress=progress,
    )
