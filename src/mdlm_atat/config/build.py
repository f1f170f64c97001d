"""The one place that turns a configuration into objects."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import Any, assert_never

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mdlm_atat import plugins
from mdlm_atat.config.atat_schema import CurriculumConfig, ImportanceConfig
from mdlm_atat.config.options import make_plugin
from mdlm_atat.config.schema import LAYOUT, SHAPE, DataConfig, ObjectiveConfig, RunConfig
from mdlm_atat.core.curriculum import (
    Curriculum,
    CurriculumScheduler,
    DynamicCurriculumScheduler,
    Stage,
    three_stages,
)
from mdlm_atat.core.fused_loss import gradients_of_chunk
from mdlm_atat.core.left_to_right import CausalNLL
from mdlm_atat.core.objective import FusedLoss, MaskedDiffusion, Objective, TimePlan
from mdlm_atat.core.prior import mean_importance, prior_importance
from mdlm_atat.core.schedules import Cosine, Geometric, Linear, Polynomial, Schedule, check_schedule
from mdlm_atat.core.strategies.by_importance import AdaptiveMaskingScheduler
from mdlm_atat.core.strategies.by_position import PositionAwareMaskingScheduler, position_bias
from mdlm_atat.core.strategies.by_stage import CurriculumMasking
from mdlm_atat.core.strategies.literal import LiteralMasking
from mdlm_atat.core.strategies.rates import ExponentMasking, MaskingScheduler
from mdlm_atat.core.strategies.uniform import UniformMasking
from mdlm_atat.core.times import BetaTime, TimeDensity, UniformTime, Weighting, WeightingKind, check_density
from mdlm_atat.core.two_ways import TwoWays
from mdlm_atat.data.corpus import Corpus
from mdlm_atat.data.prepare import prepare
from mdlm_atat.data.progress import Progress
from mdlm_atat.data.request import DataRequest
from mdlm_atat.device import compiled, made_in_float32
from mdlm_atat.errors import UserError
from mdlm_atat.nets.causal_transformer import CausalTransformer
from mdlm_atat.nets.dit import ATATDiT, ImportanceParts
from mdlm_atat.nets.estimator import AdaptiveImportanceEstimator, ImportanceEstimator
from mdlm_atat.nets.layers import Layout
from mdlm_atat.nets.protocol import Mode
from mdlm_atat.nets.two_way import TwoWayDiT


@made_in_float32()
def build_model(config: RunConfig, vocab_size: int, counts: NDArray[np.int64] | None = None) -> Any:
    """A network with fresh weights from torch's global generator. `counts`: how often each token occurs in the training
    text; needed where importance has a prior."""
    model, max_length = config.model, config.data.length
    shape: dict[str, Any] = {name: getattr(model, name) for name in SHAPE}
    layout = Layout(**{name: getattr(model, name) for name in LAYOUT})
    modes = modes_of(config)
    match model.kind:
        case "masked" if "masked" in modes:
            masking = masking_traits(config)
            network = TwoWayDiT if "causal" in modes else ATATDiT
            return network(
                vocab_size,
                max_length,
                **shape,
                time_conditioning=model.time_conditioning,
                time_through=model.time_through,
                time_width=model.time_width,
                time_features=model.time_features,
                extra_outputs=model.extra_outputs,
                importance=build_importance(config, vocab_size, counts),
                predict_speed=masking.reads_content and masking.is_bound,
                position_table=config.masking.position == "table",
                alignment=model.alignment,
                layout=layout,
            )
        case "masked" | "causal":
            return CausalTransformer(vocab_size, max_length, **shape, layout=layout)
        case name:
            network = make_plugin(
                "backbone", name, model.options, vocab_size, max_length, offered=shape, where="model.options"
            )
            check_buffers(name, network)
            return network


def check_buffers(name: str, network: nn.Module) -> None:
    """Raise UserError for a plugin's network with a buffer that would have to be stored: weights alone are."""
    weights = {weight for weight, _ in network.named_parameters(remove_duplicate=False)}
    if others := sorted(network.state_dict().keys() - weights):
        raise UserError(
            f"the backbone {name} has the buffer {others[0]!r}, which checkpoints do not hold: where its constructor "
            "makes it again, say `register_buffer(..., persistent=False)`; else let it be a parameter, with "
            "`requires_grad=False` if it is not trained"
        )


def network_of_shapes(config: RunConfig, vocab_size: int) -> Any:
    """The network of `build_model`, whose weights have shapes and no numbers. None for a plugin's network, which may
    need to be made to know them."""
    if config.model.kind not in ("masked", "causal"):
        return None
    without_prior = {"full": "learned_only", "frequency_only": "none"}  # which is no weight
    mode = without_prior.get(config.importance.mode, config.importance.mode)
    config = replace(config, importance=replace(config.importance, mode=mode))
    with _ShapesOnly():
        return build_model(config, vocab_size)


def shapes_of(config: RunConfig, vocab_size: int) -> dict[str, tuple[int, ...]] | None:
    """Names and shapes of the weights of `build_model`, of which none is made. None for a plugin's network."""
    network = network_of_shapes(config, vocab_size)
    return None if network is None else {name: tuple(weight.shape) for name, weight in network.named_parameters()}


class _ShapesOnly(TorchFunctionMode):
    """Within it new tensors have a shape and no numbers, and what would draw or scale numbers does nothing. Tables that
    are computed, as the rotary angles are, have theirs: on the meta device the import of what computes takes up to a
    second, and a command that writes a text takes five."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.empty, torch.zeros, torch.ones, torch.randn):
            return torch.empty(*args, **{**kwargs, "device": "meta"})
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs.get("tensor", args[0] if args else None)
        name = getattr(func, "__name__", "")
        if name.endswith("_") and not name.endswith("__") and args[0].is_meta:  # in place, as div_ is
            return args[0]
        return func(*args, **kwargs)


def modes_of(config: RunConfig) -> frozenset[Mode]:
    """How the network of a configuration may be asked: masked, causal or both, as `objective.causal_share` says."""
    if config.model.kind == "masked":
        share = config.objective.causal_share
        found: set[Mode] = {"masked"} if share == 0 else {"causal"} if share == 1 else {"masked", "causal"}
        return frozenset(found)
    backbone = plugins.resolve("backbone", config.model.kind)
    if not isinstance(getattr(backbone, "modes", None), frozenset):
        raise UserError(
            f"the backbone {config.model.kind} has no `modes`: say on the class how it may be asked, "
            'modes = frozenset({"masked"}) or {"causal"} (see nets/protocol.py)'
        )
    return backbone.modes


def causal_rows(config: ObjectiveConfig) -> Fraction:
    """`objective.causal_share` as so many of every so many rows."""
    return Fraction(config.causal_share).limit_denominator(1000)


def build_importance(config: RunConfig, vocab_size: int, counts: NDArray[np.int64] | None) -> ImportanceParts | None:
    importance = config.importance
    if importance.mode == "none":
        return None

    def make_estimator() -> ImportanceEstimator:
        kind = AdaptiveImportanceEstimator if importance.time else ImportanceEstimator
        return kind(
            config.model.width,
            config.data.length,
            width=importance.width,
            num_layers=importance.num_layers,
            num_heads=importance.num_heads,
        )

    prior = None
    if importance.mode != "learned_only":
        by_token, mean = _prior(importance, vocab_size, counts)
        prior = torch.cat([by_token, by_token.new_tensor([mean])])
    return ImportanceParts(make_estimator if importance.has_estimator else None, prior, importance.prior_share)


def _prior(
    config: ImportanceConfig, vocab_size: int, counts: NDArray[np.int64] | None
) -> tuple[Float[Tensor, " vocab"], float]:
    """Every token's importance by frequency, and its mean over the training text."""
    if counts is None or len(counts) != vocab_size:
        found = "none are stored with this model" if counts is None else f"those stored are of {len(counts)} tokens"
        raise UserError(
            f"importance.mode = {config.mode} needs the training counts of this tokenizer's {vocab_size} tokens, and "
            f"{found}: restore counts.npy in the folder of the model"
        )
    prior = prior_importance(counts, config.prior)
    return prior, mean_importance(prior, counts)


def build_masking(
    config: RunConfig,
    schedule: Schedule,
    vocab_size: int,
    counts: NDArray[np.int64] | None,
    network: Any = None,
    tokenizer: Any = None,
) -> MaskingScheduler:
    """The masking strategy. `network` holds the table of a learned one; `tokenizer` is for plugins that read tokens."""
    masking = config.masking
    bias = None
    if masking.position not in ("none", "table"):
        positions = torch.arange(config.data.length)[None, :]
        bias = position_bias(masking.position, masking.position_strength, positions, config.data.length)[0]
    match masking.strategy:
        case "uniform":
            return UniformMasking(schedule)
        case "importance":
            # the prior alone makes importance a function of the token: a constant center keeps the rates one too
            by_token, mean = None, None
            if config.importance.mode == "frequency_only":
                by_token, mean = _prior(config.importance, vocab_size, counts)
            return AdaptiveMaskingScheduler(
                schedule,
                masking.direction,
                masking.temperature,
                center=mean,
                position_bias=bias,
                token_importance=by_token if masking.logit_correction else None,
            )
        case "position":
            assert masking.position != "none"
            table = None if network is None else network.position_table
            return PositionAwareMaskingScheduler(schedule, masking.position, masking.position_strength, table=table)
        case "curriculum":
            return CurriculumMasking(schedule, masking.temperature)
        case "literal_importance" | "literal_curriculum":
            return LiteralMasking(
                schedule, masking.strategy, masking.direction, masking.temperature, position_bias=bias
            )
        case name:
            offered = {"tokenizer": tokenizer, "vocab_size": vocab_size, "counts": counts}
            return make_plugin("masking", name, masking.options, schedule, offered=offered, where="masking.options")


@dataclass(frozen=True)
class MaskingTraits:
    """What a strategy's own object says of itself (see core.strategies.rates.MaskingScheduler)."""

    is_bound: bool
    reads_content: bool
    needs_importance: bool
    needs_stage: bool


def masking_traits(config: RunConfig) -> MaskingTraits:
    """The traits of a configuration's masking strategy, known before there is any text or network."""
    masking = config.masking
    match masking.strategy:  # built-in ones, as far as settings go; nothing here depends on text
        case "importance":
            found: Any = AdaptiveMaskingScheduler(Linear(), masking.direction, masking.temperature)
        case "position":
            found = PositionAwareMaskingScheduler
        case "literal_importance" | "literal_curriculum":
            found = LiteralMasking(Linear(), masking.strategy, masking.direction, masking.temperature)
        case name:
            found = plugins.resolve("masking", name)
    missing = [name for name in MaskingTraits.__dataclass_fields__ if not isinstance(getattr(found, name, None), bool)]
    if missing:
        raise UserError(
            f"the masking strategy {masking.strategy} does not say {', '.join(missing)} (true or false, on the class); "
            "a subclass of ExponentMasking inherits what it does not say"
        )
    return MaskingTraits(**{name: getattr(found, name) for name in MaskingTraits.__dataclass_fields__})


def own_schedule(
    config: RunConfig, vocab_size: int, counts: NDArray[np.int64] | None, network: Any, tokenizer: Any = None
) -> ExponentMasking | None:
    """The masking that PPL-S is taken under, for `draw_schedule_nll`; None where the loss is no bound, or where it is
    the uniform schedule, whose bound is PPL-U."""
    if config.masking.strategy == "uniform" or "masked" not in network.modes:
        return None
    masking = build_masking(config, Linear(), vocab_size, counts, network, tokenizer)
    return masking if isinstance(masking, ExponentMasking) else None


def build_curriculum(config: CurriculumConfig, num_steps: int) -> Curriculum | None:
    stages = three_stages(
        ranges_low=config.ranges_low,
        ranges_high=config.ranges_high,
        temperatures=config.temperatures,
        windows_low=config.windows_low,
        windows_high=config.windows_high,
        weight_in_range=config.weight_in_range,
        time_sampling=config.time_sampling,
        weighting=config.weighting,
    )
    match config.kind:
        case "none":
            return None
        case "fixed":
            return CurriculumScheduler(
                stages, num_steps=num_steps, boundaries=config.boundaries, progress=config.progress
            )
        case "dynamic":
            return DynamicCurriculumScheduler(
                stages,
                patience=config.patience,
                min_steps=config.min_steps,
                max_steps=config.max_steps,
                smoothing=config.smoothing,
                tolerance=config.tolerance,
                setback=config.setback,
            )
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
        case name:
            schedule = make_plugin("schedule", name, config.schedule_options, where="objective.schedule_options")
            check_schedule(name, schedule)
            return schedule


def build_time_density(config: ObjectiveConfig) -> TimeDensity:
    match config.time_sampling:
        case "uniform":
            return UniformTime()
        case "beta":
            return BetaTime(*config.beta, uniform_share=config.uniform_share)
        case "window":
            return UniformTime(*config.window)
        case name:
            density = make_plugin("times", name, config.time_options, where="objective.time_options")
            check_density(name, density)
            return density


def build_objective(
    config: RunConfig, vocab_size: int, counts: NDArray[np.int64], network: Any, tokenizer: Any = None
) -> Objective:
    """What the network is trained by: masked diffusion, its exact likelihood left to right, or both, each on a share of
    the rows."""
    fused = None
    if config.train.fused_loss:
        # for one shape, or, where a curriculum's stages have masks of their own, for any from the second on
        chunk = compiled(gradients_of_chunk) if config.train.compile else gradients_of_chunk
        fused = FusedLoss(config.train.batch_size, chunk)
    share = causal_rows(config.objective)
    if share == 1 or "masked" not in network.modes:
        return CausalNLL(fused)
    schedule = build_schedule(config.objective)

    @lru_cache(maxsize=8)  # a stage whose temperature moves has the same times
    def plan(time_sampling: str, window: tuple[float, float], weighting: WeightingKind) -> TimePlan:
        density = build_time_density(replace(config.objective, time_sampling=time_sampling, window=window))
        return TimePlan(density, Weighting(weighting, schedule, density, config.objective.clip))

    def time_plan(stage: Stage | None) -> TimePlan:
        settings = config.objective if stage is None else stage
        window = settings.window if settings.time_sampling == "window" else (0.0, 1.0)  # which moves, and is not used
        return plan(settings.time_sampling, window, settings.weighting)

    masked = MaskedDiffusion(
        schedule,
        time_plan,
        mask_id=vocab_size,
        masking=build_masking(config, schedule, vocab_size, counts, network, tokenizer),
        importance_weight=config.importance.loss_weight if config.importance.has_estimator else 0.0,
        importance_share=config.importance.train_share,
        through_bound=config.importance.through_bound,
        curriculum=build_curriculum(config.curriculum, config.train.num_steps),
        fused=None if fused is None else replace(fused, batch_size=int(fused.batch_size * (1 - share))),
    )
    return masked if share == 0 else TwoWays(masked, CausalNLL(fused), share)


def prepare_data(data: DataConfig, progress: bool | Progress = True) -> Corpus:
    """The tokens of a run: its source itself if that is prepared, else a folder in the cache, made if it is missing."""
    return prepare(request=DataRequest.of(data), progress=progress)
