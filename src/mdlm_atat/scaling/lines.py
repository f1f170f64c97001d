"""A plan in words and tables."""

from __future__ import annotations

import textwrap

from mdlm_atat.formats import count, data_size, duration, percent, significant
from mdlm_atat.scaling.limits import Limit
from mdlm_atat.scaling.plan import Option, Plan

GIB = 2**30
PAGE = 120
COLUMNS = ("weights", "average", "gradients", "optimizer", "exchange", "activations", "output_layer")
HEADER = f"{'':26}{'':>5}{'tokens/s':>12}{'micro':>7}{'peak':>9}" + "".join(
    f"{n.replace('_', ' '):>13}" for n in COLUMNS
)
LEAST_SHOWN = 0.1
"""Limits of which a run needs less are not listed."""


def lines_of(plan: Plan) -> list[str]:
    """The plan, to be read."""
    model, train = plan.config.model, plan.config.train
    tokens_per_step = train.batch_size * plan.config.data.length
    machines = plan.machines
    kind = f"{machines.num_gpus:,} {plan.gpu.name}"
    many = f" in {machines.num:,} machines" if machines.num > 1 else ""
    lines = [
        f"network    {model.num_layers} layers of width {model.width}, {model.num_heads} heads, vocabulary "
        f"{plan.vocab_size:,}, length {plan.config.data.length}: {plan.sizes.num_parameters:,} parameters",
        f"run        {count(plan.num_tokens)} tokens, {train.num_steps:,} steps of {train.batch_size:,} sequences "
        f"({tokens_per_step:,} tokens), {plan.config.optim.kind}, on {kind}{many}",
        f"work       {plan.flops_per_token / 1e9:.3g} GFLOP a token, {plan.flops_per_token * plan.num_tokens:.3g} FLOP",
        "",
        f"a GPU's memory, {plan.gpu.memory_gib:g} GiB, by part in GiB; not all parts are there at one moment: the "
        "peak is less than their sum",
        HEADER,
    ]
    lines += [_option_line(option, option is plan.chosen) for option in plan.options]
    lines += ["", *_result(plan), "", "what breaks first: what is needed over what there is"]
    near = [limit for limit in plan.limits if limit.ratio >= LEAST_SHOWN] or plan.limits[:1]
    lines += [_limit_line(limit) for limit in near]
    if plan.command is not None:
        lines += ["", "command", f"  {plan.command}"]
    return [*lines, "", "what this rests on", *(line for text in plan.assumptions for line in wrapped(text))]


def wrapped(text: str) -> list[str]:
    """A text in lines of a page's width."""
    return textwrap.wrap(text, PAGE, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)


def _option_line(option: Option, is_chosen: bool) -> str:
    parts = option.memory.as_json()
    word = "best" if is_chosen else "fits" if option.fits else "no"
    rate = "" if option.speed is None or not option.fits else f"{option.speed.tokens_per_s:,.0f}"
    shown = "".join(f"{parts[name] / GIB:13.2f}" for name in COLUMNS)
    return f"{option.way.name:26}{word:>5}{rate:>12}{option.num_micro_batches:>7}{parts['peak'] / GIB:9.2f}{shown}"


def _result(plan: Plan) -> list[str]:
    shown = plan.chosen
    if shown is None or shown.speed is None or plan.total_s is None:
        return ["nothing fits: see what breaks first"]
    speed, stored = shown.speed, plan.checkpoint
    parts = {
        "passes": speed.compute_s,
        "optimizer": speed.optimizer_s,
        "Muon": speed.muon_s,
        "exchange": speed.exchange_s,
    }
    of_step = ", ".join(f"{name} {significant(1e3 * seconds, 3)}" for name, seconds in parts.items() if seconds)
    how = "in parts" if stored.in_parts else "by one process"
    each = f"{duration(stored.seconds)} each, {plan.num_checkpoints:,} of them, three kept"
    return [
        f"speed      {speed.tokens_per_s:,.0f} tokens/s, {percent(speed.utilisation)} of the GPUs' rate; a step takes "
        f"{significant(1e3 * speed.step_s, 3)} ms: {of_step}; the loader {significant(1e3 * speed.loader_s, 3)} beside",
        f"checkpoint {data_size(stored.num_bytes)} {how}, {each}",
        f"data       {data_size(plan.token_bytes)} of tokens on a disk that all machines see; their order takes "
        f"{duration(plan.order_s)}",
        f"time       {plan.total_s / 86400:,.3g} days ({duration(plan.total_s)})",
    ]


def _limit_line(limit: Limit) -> str:
    shown = data_size if limit.unit == "bytes" else duration
    word = "holds" if limit.ratio <= 1 else "mended" if limit.is_mended else "BREAKS"
    line = f"  {word:6} {limit.ratio:8.2f}  {limit.what}: {shown(limit.needs)} of {shown(limit.has)}"
    return f"{line}; {limit.remedy}" if limit.ratio > 1 else line
