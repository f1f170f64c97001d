"""Whether the parts of a method fit each other: no combination whose bound would be wrong, or whose gradient is."""

from __future__ import annotations

from dataclasses import fields

from mdlm_atat import plugins
from mdlm_atat.config.build import causal_rows, masking_traits, modes_of
from mdlm_atat.config.options import read_options
from mdlm_atat.config.schema import SECTIONS, RunConfig
from mdlm_atat.errors import UserError


def check_method(config: RunConfig) -> None:
    """Raise UserError, saying what to set, where importance, masking, curriculum, objective and model contradict each
    other. What the masking strategy and the backbone say of themselves (their traits and modes) decides, not their
    names."""
    importance, masking, curriculum = config.importance, config.masking, config.curriculum
    check_options(config)
    if config.lora.rank and config.optim.kind == "muon":
        raise UserError(
            f"lora.rank = {config.lora.rank} trains narrow matrices, which optim.kind = muon is not for: set "
            "`optim.kind='adamw'`, with a learning rate of its own, e.g. `optim.lr=1e-3`"
        )
    if config.lora.rank and config.train.shard:
        raise UserError(
            "train.shard shares out weights that are trained, and lora.rank leaves few of them: leave out "
            "`train.shard=`"
        )
    modes, share = modes_of(config), config.objective.causal_share
    if config.model.alignment != "own" and not (config.model.kind == "masked" and share < 1):
        raise UserError(
            f"model.alignment = {config.model.alignment} says which place of a masked text predicts a token, and this "
            "network masks nothing or is a plugin's: leave `model.alignment=` out"
        )
    if share > 0 and "causal" not in modes:
        raise UserError(
            f"objective.causal_share = {share:g} needs a network that can read left to right, which model.kind = "
            f"{config.model.kind} cannot: use `model.kind='masked'`, or set `objective.causal_share=0`"
        )
    if 0 < share < 1 and not 0 < causal_rows(config.objective) < 1:
        raise UserError(
            f"objective.causal_share = {share:.15g} is nearer to {round(share)} than to one of 1,000 sequences: use "
            f"`objective.causal_share={round(share)}`, or one from 0.001 to 0.999"
        )
    if "masked" not in modes:
        if importance.mode != "none" or masking.strategy != "uniform" or curriculum.kind != "none":
            raise UserError(
                f"model.kind = {config.model.kind} masks nothing: leave importance, masking and curriculum off"
            )
        if config.model.time_conditioning:
            raise UserError(
                f"model.kind = {config.model.kind} has no diffusion time: set model.time_conditioning to false"
            )
        return
    traits = masking_traits(config)
    if traits.needs_importance and importance.mode == "none":
        raise UserError(
            f"masking.strategy = {masking.strategy} needs an importance, and importance.mode is none: set "
            "importance.mode to full, learned_only or frequency_only"
        )
    factor = 1.0 if curriculum.kind == "none" else min(1.0, *curriculum.temperatures)
    if traits.needs_importance and masking.temperature * factor < 0.05:
        times = f" times the smallest of curriculum.temperatures, {factor}," if factor < 1 else ""
        raise UserError(
            f"masking.temperature = {masking.temperature}{times} is below 0.05: exponents would span more than "
            "exp(20); use a higher one"
        )
    if traits.needs_stage and curriculum.kind == "none":
        raise UserError(
            f"masking.strategy = {masking.strategy} needs a curriculum: set curriculum.kind to fixed or dynamic"
        )
    if masking.logit_correction and not (
        masking.strategy == "importance"
        and masking.direction in ("inverse", "proportional")
        and importance.mode == "frequency_only"
        and masking.position == "none"
    ):
        raise UserError(
            "masking.logit_correction is known only where the rates depend on the token itself: masking.strategy = "
            "importance, direction inverse or proportional, importance.mode = frequency_only, position none; use "
            "model.time_conditioning = true instead"
        )
    if traits.reads_content and traits.is_bound and not (config.model.time_conditioning or masking.logit_correction):
        raise UserError(
            f"with masking.strategy = {masking.strategy} a mask says something about the token it hides, and what "
            "it says depends on t: set model.time_conditioning to true (model.time_through = embedding costs few "
            "weights), or masking.logit_correction where importance.mode is frequency_only"
        )
    if traits.reads_content and traits.is_bound and config.model.kind != "masked":
        raise UserError(
            f"masking.strategy = {masking.strategy} reads the tokens it hides, so the network has to predict its rates "
            f"(logits_and_log_speed), which model.kind = masked does and {config.model.kind} is not known to; use that"
        )
    _check_through_bound(config, reads=traits.needs_importance and traits.is_bound)


def check_options(config: RunConfig) -> None:
    """Raise UserError for settings that a plugin does not take, and for options where there is no plugin to take
    them."""
    for name, section in SECTIONS.items():
        here = getattr(config, name)
        for part in fields(section):  # type: ignore[arg-type]  # sections are dataclasses
            if "options_of" not in part.metadata:
                continue
            named, options = part.metadata["options_of"], getattr(here, part.name)
            kind = section.__dataclass_fields__[named].metadata["plugin"]  # type: ignore[attr-defined]
            chosen, where = getattr(here, named), f"{name}.{part.name}"
            if plugins.is_plugin(kind, chosen):
                read_options(
                    chosen,
                    plugins.resolve(kind, chosen),
                    options,
                    num_given=part.metadata.get("num_given", 0),
                    offered=part.metadata.get("offered", ()),
                    where=where,
                )
            elif options:
                raise UserError(
                    f"{where} is for a plugin's own settings, and {name}.{named} = {chosen} is none: set those of "
                    f"{chosen} in the section {name} itself"
                )


def _check_through_bound(config: RunConfig, *, reads: bool) -> None:
    """`reads`: the masking is a bound and reads the estimator's importance."""
    importance, masking, curriculum, objective = config.importance, config.masking, config.curriculum, config.objective
    if masking.position == "table" and not importance.through_bound:
        raise UserError("masking.position = table is learned through the bound: set importance.through_bound to true")
    if not importance.through_bound:
        return
    times = {objective.time_sampling} if curriculum.kind == "none" else set(curriculum.time_sampling)
    weights = {objective.weighting} if curriculum.kind == "none" else set(curriculum.weighting)
    if times != {"uniform"} or weights != {"elbo"}:
        raise UserError(
            "importance.through_bound follows the gradient of the training loss, which is the bound's only "
            "with objective.time_sampling = uniform and objective.weighting = elbo (in every stage of a "
            f"curriculum); they are {', '.join(sorted(times))} and {', '.join(sorted(weights))}"
        )
    if masking.position != "table" and not (importance.has_estimator and reads):
        raise UserError(
            "importance.through_bound has nothing to train: it needs an estimator (importance.mode full or "
            "learned_only) and masking.strategy importance or curriculum, or masking.position = table"
        )
