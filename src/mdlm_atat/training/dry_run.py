"""What a run will do, with the numbers worked out, said before it starts."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch

from mdlm_atat.config.build import modes_of
from mdlm_atat.config.schema import OptimConfig, RunConfig
from mdlm_atat.data.tokens import TokenDataset
from mdlm_atat.errors import is_out_of_memory
from mdlm_atat.formats import data_size, duration, number, percent, short_count, significant
from mdlm_atat.training.flops import training_flops_per_token
from mdlm_atat.training.loop import Training, cut_smaller, forward_backward, forward_backward_once
from mdlm_atat.training.low_rank import num_trained
from mdlm_atat.training.optim import warm_up

SLOW_STEP_S = 5.0  # a step of which one try is enough
SLOW_STEP_FLOPS = 1e12  # 10 to 20 s of a laptop's core


@dataclass(frozen=True)
class DryRun:
    """What a step was measured to take."""

    step_s: float
    """Seconds of one forward and backward pass over a batch: the better of two after what warms up, or of one that is
    slow."""
    memory_bytes: int | None
    """Peak with gradients, optimizer moments and averages added. None where the system does not tell."""


def dry_run(run: Training, step: int) -> DryRun:
    """Compute the gradients of a real batch a few times, and throw them away: returns the time and memory of a step
    before the run depends on them. No weight and no random number of the run changes.

    Where the first one takes SLOW_STEP_S or longer, it is the only one: what warms up is little of it, and two more
    would keep whoever waits for the numbers waiting.
    """
    engine = run.engine
    times_s: list[float] = []
    num_warm_up = 1 if run.recorded is None else run.recorded.num_warm_up + 1
    for _ in range(num_warm_up + 2):
        start_s = time.perf_counter()
        forward_backward(run, step)
        engine.synchronize()
        times_s.append(time.perf_counter() - start_s)
        if len(times_s) == 1 and run.recorded is None and _in_any_process(run, times_s[0] >= SLOW_STEP_S):
            break
    step_s = min(times_s[num_warm_up:] or times_s)
    run.optimizer.zero_grad(set_to_none=True)
    weight_bytes = sum(p.numel() * p.element_size() for p in run.raw_model.parameters() if p.requires_grad)
    moments_bytes = 2 * weight_bytes  # AdamW's two, or Muon's one and what a step needs
    peak_bytes = engine.peak_memory_bytes()
    return DryRun(step_s, None if peak_bytes is None else peak_bytes + moments_bytes)


def announcement(run: Training, train_data: TokenDataset) -> str | None:
    """A line to say before the first try of a step, where that will take so long that one would think it hangs. None
    elsewhere."""
    config = run.config
    tokens = config.train.batch_size * config.data.length / run.engine.num_ranks
    flops = tokens * training_flops_per_token(config, train_data.tokenizer.vocab_size)
    if run.engine.device.type != "cpu" or flops < SLOW_STEP_FLOPS:
        return None
    return (
        f"trying     a step of {config.train.batch_size} x {config.data.length} tokens, to say what all take: on a CPU "
        "that may be minutes; a smaller train.batch_size takes less"
    )


def find_micro_batches(run: Training, step: int) -> None:
    """Cut steps into as many micro-batches as it takes for one to fit in memory in every process, if that is to be
    found out. A step is tried by each process alone, so that one may fail without the others waiting for it. Raises
    UserError where nothing fits."""
    if run.micro_batches is None:
        return
    trial = replace(run, recorded=None, exchanges=False)
    while not _fits_in_every_process(trial, step):
        cut_smaller(run)


def _fits_in_every_process(trial: Training, step: int) -> bool:
    return not _in_any_process(trial, not _fits(trial, step))


def _in_any_process(run: Training, is_so: bool) -> bool:
    return run.engine.sum(torch.tensor(float(is_so), device=run.engine.device)).item() > 0


def _fits(trial: Training, step: int) -> bool:
    """Whether memory is enough for a step and, before the first one, for the optimizer's moments."""
    num_moments = 0 if trial.optimizer.state else 2
    try:
        trained = [p for p in trial.raw_model.parameters() if p.requires_grad]
        room = [torch.empty_like(p) for p in trained for _ in range(num_moments)]
        forward_backward_once(trial, step, measure=True)
        del room
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return False
    trial.optimizer.zero_grad(set_to_none=True)
    return True


def plan(run: Training, train_data: TokenDataset, valid_data: TokenDataset, start_step: int) -> str:
    """The lines that say what the run will do, known before anything slow: data, model, training."""
    config = run.config
    num_parameters = sum(p.numel() for p in run.raw_model.parameters())
    tokens_per_row = train_data.length if config.data.mode == "wrap" else train_data.num_tokens / train_data.num_rows
    tokens_per_step = config.train.batch_size * tokens_per_row
    steps = config.train.num_steps - start_step
    epochs = config.train.num_steps * config.train.batch_size / train_data.num_rows
    source, tokenizer = config.data.source, train_data.manifest.tokenizer
    lines = [
        f"data       {source}, {tokenizer['name']} tokenizer with {tokenizer['vocab_size']:,} tokens: "
        f"{short_count(train_data.num_tokens)} to train on, {short_count(valid_data.num_tokens)} to validate",
        f"model      {_reads(config)}, {short_count(num_parameters)} parameters: {config.model.num_layers} layers, "
        f"width {config.model.width}, {config.model.num_heads} heads, length {config.data.length}",
        f"training   {steps:,} steps of {config.train.batch_size} x {tokens_per_row:,.0f} = {tokens_per_step:,.0f} "
        f"tokens: {short_count(steps * tokens_per_step)} tokens, {_epochs(epochs)} in all",
    ]
    if config.lora.rank:
        number_trained = num_trained(run.raw_model)
        lines.append(
            f"{'':10} of rank {config.lora.rank}: {short_count(number_trained)} of the parameters are trained "
            f"({percent(number_trained / num_parameters)}), beside weights that stay"
        )
    if (answers := train_data.manifest.splits[train_data.split].answers) is not None:
        share = percent(answers["tokens"] / train_data.num_tokens)
        lines.append(f"{'':10} on answers alone, {share} of them: each is a row of its own, its prompt before it")
    lines.append(f"{'':10} {describe_optimizer(config.optim)}")
    warm_up_steps = warm_up(config.train.num_steps, config.optim)
    if warm_up_steps < config.optim.warmup_steps:
        lines.append(
            f"{'':10} warm-up of {warm_up_steps} steps: optim.warmup_steps = {config.optim.warmup_steps} would be more "
            f"than half of all {config.train.num_steps}"
        )
    return "\n".join(lines)


def describe_optimizer(optim: OptimConfig) -> str:
    """What takes the steps."""
    names = {"muon": "Muon steps the matrices of the blocks and AdamW the rest", "adamw": "AdamW takes the steps"}
    return f"{names.get(optim.kind, f'{optim.kind} takes the steps')}, at a peak rate of {optim.lr:g}"


def _epochs(epochs: float) -> str:
    """How often the training text is read."""
    return f"{number(epochs, 3)} epochs" if epochs >= 1 else f"{percent(epochs)} of an epoch"


def _reads(config: RunConfig) -> str:
    """The kind of network, and where it is trained in both modes, that it is."""
    return "masked and left to right" if len(modes_of(config)) > 1 else config.model.kind


def measured_plan(run: Training, measured: DryRun, start_step: int) -> str:
    """The lines that say what the run will take, known once a step was tried: machine, minutes, memory."""
    machine = run.engine.describe()
    processes = f", {machine['num_processes']} processes" if run.engine.num_ranks > 1 else ""
    recorded = "" if run.recorded is None else "recorded "
    takes = _takes(run.config.train.num_steps - start_step, measured)
    return f"machine    {machine['device']}, {machine['precision']}{processes}; a {recorded}step takes about {takes}"


def _takes(num_steps: int, measured: DryRun) -> str:
    """`84 ms: 4 min 12 s in all, evaluation aside, and 1.5 GiB of memory at the peak`, of so many steps."""
    size = "" if measured.memory_bytes is None else f", and {data_size(measured.memory_bytes)} of memory at the peak"
    return f"{_step_time(measured.step_s)}: {duration(num_steps * measured.step_s)} in all, evaluation aside{size}"


def _step_time(step_s: float) -> str:
    """`8.3 ms`, `240 ms`, `2.1 s`, `1 min 30 s`."""
    if step_s >= 1:
        return f"{significant(step_s, 2)} s" if step_s < 60 else duration(step_s)
    return f"{significant(step_s * 1000, 2) if step_s < 0.1 else round(step_s * 1000)} ms"
