"""What a run's settings can be refused for before there is a text or a network: by the run, and by a grid of runs."""

from __future__ import annotations

from fractions import Fraction

from mdlm_atat.config.build import causal_rows, modes_of
from mdlm_atat.config.method import check_method
from mdlm_atat.config.schema import RunConfig, TrainConfig
from mdlm_atat.device import Precision
from mdlm_atat.errors import UserError
from mdlm_atat.training.log import check_installed


def check_settings(
    config: RunConfig, num_ranks: int = 1, *, is_sharded: bool = False, precision: Precision | None = None
) -> None:
    """Raise UserError, saying what to set, for settings that no run of so many processes can have. `precision`: that of
    the run, where its device is known; by default what the settings say."""
    check_method(config)
    check_installed(config.train.loggers)
    check_split(config, num_ranks, is_sharded=is_sharded)
    check_residual(config.train, precision or config.train.precision)


def check_residual(config: TrainConfig, precision: Precision) -> None:
    """Raise UserError for a bf16 residual stream without bf16 arithmetic; `auto` may be that."""
    if config.residual == "bf16" and precision == "float32":
        raise UserError(
            f"train.residual = bf16 is for bf16 arithmetic, and this run's is {precision}: leave it out, or set "
            "`train.precision='bf16'`"
        )


def check_split(config: RunConfig, num_ranks: int = 1, *, is_sharded: bool = False) -> None:
    """Raise UserError, with a batch size to try, where a batch cannot be cut into equal shares for so many
    processes."""
    num_micro_batches = config.train.least_micro_batches
    if config.train.num_micro_batches == "auto" and is_sharded:
        raise UserError(
            "train.num_micro_batches = auto tries a step in each process alone, and with train.shard none has all "
            "weights: set a number"
        )
    num_parts = num_ranks * num_micro_batches
    parts = " x ".join(
        f"{n} {what}" for n, what in ((num_ranks, "processes"), (num_micro_batches, "micro-batches")) if n > 1
    )
    rows = config.train.batch_size // num_parts
    if config.train.batch_size % num_parts:
        raise UserError(
            f"train.batch_size = {config.train.batch_size} cannot be cut into {parts} of equal size; try "
            f"`train.batch_size={max(1, rows) * num_parts}`"
        )
    share = causal_rows(config.objective) if "masked" in modes_of(config) else Fraction(1)
    if rows % share.denominator:
        nearest = min(max(1, round(share * rows)), rows - 1)  # of so many; none where it is 0: a single row
        size = f"train.batch_size = {config.train.batch_size}"
        if parts:
            size += f" over {parts}, {rows} at once,"
        raise UserError(
            f"objective.causal_share = {config.objective.causal_share} reads {share.numerator} of every "
            f"{share.denominator} sequences left to right, and {size} is no multiple of {share.denominator}: try "
            f"`train.batch_size={max(1, round(rows / share.denominator)) * share.denominator * num_parts}`"
            + (f", or `objective.causal_share={nearest / rows:g}`" if nearest else "")
        )
    if config.importance.through_bound and rows * (1 - share) % 2:
        raise UserError(
            f"importance.through_bound masks every sequence twice, and train.batch_size = {config.train.batch_size}"
            f"{f' over {parts}' if parts else ''} is {int(rows * (1 - share))} to mask at once, not an even number: "
            f"try `train.batch_size={(rows + share.denominator) * num_parts}`"
        )
