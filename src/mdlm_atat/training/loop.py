"""The training loop, top to bottom. It knows optimizer steps; what a loss, an evaluation and a checkpoint are
comes in."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from mdlm_atat.config.schema import RunConfig, TrainConfig
from mdlm_atat.core.curriculum import Curriculum, Stage
from mdlm_atat.core.objective import Draw, Objective, TrainingLoss
from mdlm_atat.device import float64_device
from mdlm_atat.errors import UserError, is_out_of_memory
from mdlm_atat.formats import with_error
from mdlm_atat.nets.ema import EMA
from mdlm_atat.progress import OnProgress
from mdlm_atat.signals import INTERRUPTIONS
from mdlm_atat.small_files import NUMBER, check_kinds
from mdlm_atat.training.checkpoint import Checkpoint
from mdlm_atat.training.engine import Engine
from mdlm_atat.training.log import ProgressLine, Writer
from mdlm_atat.training.metrics import (
    EVAL_CAUSAL_NATS,
    EVAL_ERROR,
    EVAL_NATS,
    EVAL_OWN_ERROR,
    EVAL_OWN_NATS,
    OnStep,
)
from mdlm_atat.training.micro_batches import MicroBatches
from mdlm_atat.training.optim import learning_rate, set_learning_rate
from mdlm_atat.training.recorded import Recorded

BatchAt = Callable[[int, int], tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64] | None]]
"""This process's rows of a step's batch, (ids (B, L), lengths (B,), how many tokens of each are its prompt (B,) or None
for none): a pure function of (seed, step)."""


@dataclass
class Progress:
    """What a run has done so far; stored in every checkpoint."""

    step: int = 0
    num_tokens: int = 0
    elapsed_s: float = 0.0
    best_bound: float = math.inf
    best_step: int | None = None
    unscored: dict[str, float] | None = None
    """What is logged of the last step, where its evaluation was interrupted: a resumed run begins with that."""
    num_rewinds: int = 0
    """How often it went back to a checkpoint after a number that was not finite; each time it took another data
    order."""

    def become(self, other: Progress) -> None:
        """Be as far as `other` is."""
        vars(self).update(vars(other))


class NotFinite(UserError):
    """The loss, its gradient or the weights were not finite numbers."""

    def __init__(self, message: str, step: int) -> None:
        """`step`: the steps taken before it happened."""
        super().__init__(message)
        self.step = step


class EvaluationInterrupted(Exception):
    """A signal asked for a stop while the validation text was scored."""


@dataclass(frozen=True)
class Training:
    """The objects of a run, from `config.build` and the command."""

    config: RunConfig
    engine: Engine
    model: nn.Module
    """As the engine wrapped it."""
    raw_model: nn.Module
    optimizer: Optimizer
    ema: EMA
    objective: Objective
    seed: int
    """Of data order, times, masks and dropout."""
    batch_at: BatchAt
    evaluate: Callable[[Stage | None, OnProgress], dict[str, float]]
    """Scores the raw model, which holds the averaged weights while it runs, as trained in this stage; must return the
    key EVAL_NATS, and EVAL_OWN_NATS where the method has its own schedule. It calls the second argument every second
    or more often, which may raise EvaluationInterrupted."""
    save: Callable[[Progress, Stage | None], None]
    """Writes a checkpoint, with the stage that its weights were last trained in."""
    load: Callable[[Checkpoint], tuple[Progress, Stage | None]] | None = None
    """Loads what `save` has written, into everything here; None where nothing is kept that could be loaded."""
    curriculum: Curriculum | None = None
    """Whose stage the objective follows; told the loss now and then."""
    last_stage: Stage | None = None
    """What the weights of a resumed run were last trained in."""
    micro_batches: MicroBatches | None = None
    """How many micro-batches a step is cut into, where that is found out; None: as set."""
    exchanges: bool = True
    """Whether processes exchange gradients: not where each tries a step alone."""
    recorded: Recorded | None = None
    """Gives a step's gradients in place of `gradients` (see `make_recorded`)."""
    flops_share_per_token: float | None = None
    """Operations that the mathematics needs for a token over what the machine could do in a second; None: not known."""
    writers: Sequence[Writer] = ()
    line: ProgressLine | None = None
    should_stop: Callable[[], str | None] = lambda: None
    """A reason to end now with a checkpoint, or None."""
    on_step: OnStep = lambda _step, _values: None
    """Called after every step."""

    @property
    def num_micro_batches(self) -> int:
        """The parts into which each process cuts its share of a batch."""
        return self.config.train.least_micro_batches if self.micro_batches is None else self.micro_batches.num


def train(run: Training, progress: Progress) -> str | None:
    """Train from progress.step to the end, or until should_stop gives a reason, which is returned.

    Every random number of a step comes from (seed, step), so a resumed run repeats the uninterrupted one bit for bit.
    """
    config, engine = run.config.train, run.engine
    saved_step = progress.step or None
    first_bad_step = torch.full((), -1, device=engine.device)
    lap = Lap(time.perf_counter() - progress.elapsed_s, time.perf_counter(), progress.num_tokens)
    if progress.unscored is not None:
        try:
            catch_up(run, progress)
        except EvaluationInterrupted:
            return run.should_stop()
    reason: str | None = None
    while progress.step < config.num_steps and reason is None:
        lr = learning_rate(progress.step, config.num_steps, run.config.optim)
        set_learning_rate(run.optimizer, lr)
        stage = None if run.curriculum is None else run.curriculum.stage(progress.step)
        log_now = is_due(progress.step + 1, config.log_interval_steps, config.num_steps)
        loss, num_tokens = forward_backward(run, progress.step, measure=log_now)
        grad_norm = clip_gradients(run.raw_model, run.config.optim.grad_clip)
        run.optimizer.step()
        run.optimizer.zero_grad(set_to_none=True)
        # noted on the device and read where the loop waits for it anyway
        is_bad = ~(torch.isfinite(loss.total) & torch.isfinite(grad_norm)) & (first_bad_step < 0)
        first_bad_step = torch.where(is_bad, progress.step, first_bad_step)
        progress.step += 1
        progress.num_tokens += num_tokens
        if run.ema.decay > 0:
            run.ema.update(run.raw_model, progress.step)
        observe_loss(run, progress.step, loss)

        evaluate_now = is_due(progress.step, config.eval_interval_steps, config.num_steps)
        save_now = is_due(progress.step, config.checkpoint_interval_steps, config.num_steps)
        waits_now = log_now or evaluate_now or save_now
        if waits_now:
            stop_if_not_finite(run, first_bad_step, saved_step)
        values: dict[str, float] = {}  # one row of metrics.jsonl for one step
        if log_now:
            values = log_step(run, progress, lap, loss, lr, grad_norm)
        if evaluate_now:
            paused_s = time.perf_counter()
            try:
                found, is_best = evaluate(run, progress, stage)
            except EvaluationInterrupted:
                values, progress.unscored = {}, values
            else:
                values = {**values, **found, "elapsed_s": progress.elapsed_s}
                save_now |= is_best  # a new best is kept
            lap.since_s += time.perf_counter() - paused_s  # tokens/s counts training alone
        if values:
            write(run, progress.step, values)
        run.on_step(progress.step, values)
        if waits_now or engine.num_ranks == 1:  # many processes agree to stop only where they wait for each other
            reason = agreed_reason(run)
        if save_now or reason:
            if not has_finite_weights(run.raw_model):  # a finite gradient can still overflow them
                first_bad_step = torch.where(first_bad_step < 0, progress.step - 1, first_bad_step)
            stop_if_not_finite(run, first_bad_step, saved_step)
            progress.elapsed_s = time.perf_counter() - lap.run_start_s
            run.save(progress, stage)
            saved_step = progress.step
    return reason


def is_due(step: int, interval_steps: int, num_steps: int) -> bool:
    """Whether something that is done every `interval_steps`, and after the last step, is due after this step."""
    return step == num_steps or step % interval_steps == 0


def observe_loss(run: Training, step: int, loss: TrainingLoss) -> None:
    """Tell a dynamic curriculum the loss, every so many steps: only then does the loop wait for the number."""
    config = run.config.curriculum
    if run.curriculum is not None and config.kind == "dynamic" and step % config.interval_steps == 0:
        run.curriculum.observe(step, run.engine.mean(loss.terms["diffusion"]).item())


@dataclass
class Lap:
    """Clock readings between two log lines."""

    run_start_s: float
    since_s: float
    since_tokens: int


def log_step(
    run: Training, progress: Progress, lap: Lap, loss: TrainingLoss, lr: float, grad_norm: Tensor
) -> dict[str, float]:
    """The values that are logged of a step, means over all processes, under the names of metrics.jsonl. The progress
    line shows them."""
    total = run.engine.mean(loss.total).item()
    terms = {f"train/{name}": run.engine.mean(value).item() for name, value in loss.terms.items()}
    terms |= {name: run.engine.mean(value).item() for name, value in loss.metrics.items()}
    now_s = time.perf_counter()  # the device is done with the step: its loss was read
    tokens_per_s = (progress.num_tokens - lap.since_tokens) / (now_s - lap.since_s)
    lap.since_s, lap.since_tokens = now_s, progress.num_tokens
    progress.elapsed_s = now_s - lap.run_start_s
    values = {
        "train/loss": total,
        **terms,
        "train/lr": lr,
        "train/grad_norm": grad_norm.item(),
        "train/tokens": progress.num_tokens,
        "train/tokens_per_s": tokens_per_s,
        "elapsed_s": progress.elapsed_s,
    }
    if progress.num_rewinds:
        values["train/num_rewinds"] = progress.num_rewinds
    if run.micro_batches is not None:
        values["train/num_micro_batches"] = run.num_micro_batches
    utilisation = None if run.flops_share_per_token is None else tokens_per_s * run.flops_share_per_token
    if utilisation is not None:
        values["train/model_flops_utilisation"] = utilisation
    if run.line is not None:
        run.line.update(progress.step, total, tokens_per_s, utilisation)
    return values


def forward_backward(run: Training, step: int, *, measure: bool = False) -> tuple[TrainingLoss, int]:
    """Compute the gradients of one batch, over micro-batches and processes. Returns the loss of this process's rows,
    and the number of tokens in the whole batch. `measure`: compute the loss's metrics too.

    Where the number of micro-batches is found out, a single process that runs out of memory begins the step again in
    more of them; of many, the others wait for it.
    """
    while True:
        try:
            return forward_backward_once(run, step, measure)
        except RuntimeError as error:
            if run.micro_batches is None or run.engine.num_ranks > 1 or not is_out_of_memory(error):
                raise
        cut_smaller(run)  # out here, where the error no longer keeps the step's tensors


def cut_smaller(run: Training) -> None:
    """Go on in more micro-batches after a step that did not fit in memory. Raises UserError where that cannot be."""
    assert run.micro_batches is not None
    run.optimizer.zero_grad(set_to_none=True)
    if run.recorded is not None:
        run.recorded.forget()
    run.engine.free_memory()
    run.micro_batches.more()


def seed_dropout(seed: int, device: torch.device) -> None:
    """`torch.manual_seed`. On a CPU it is for the CPU alone: for each kind of device that is not there, torch notes the
    stack of the call, which took 0.2 to 0.7 ms a step."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def forward_backward_once(run: Training, step: int, measure: bool) -> tuple[TrainingLoss, int]:
    """`forward_backward`, in as many micro-batches as are known to fit."""
    config, engine = run.config.train, run.engine
    ids, row_lengths, row_prompts = run.batch_at(run.seed, step)
    x0, lengths, prompts = engine.to_device(ids), None, None
    num_tokens = num_read = float(config.batch_size * ids.shape[1])
    if run.config.data.mode == "pad":
        lengths = engine.to_device(row_lengths)
        num_tokens = num_read = engine.sum(lengths.sum()).float()  # a tensor, as it is another number in every step
        if row_prompts is not None:
            prompts = engine.to_device(row_prompts)
            num_tokens = engine.sum((lengths - prompts).sum()).float()
    # alone, nobody waits for the device
    num_tokens_done = int(row_lengths.sum() if engine.num_ranks == 1 else num_read)

    seed = step_seed(run.seed, step)
    seed_dropout(step_seed(seed, engine.rank), engine.device)  # another mask in each process
    generator = torch.Generator(float64_device(engine.device)).manual_seed(seed)
    # for the rows of all processes: any number of them draws alike
    draw = run.objective.draw(config.batch_size, x0.shape[1], generator, step)
    draw = draw[slice(engine.rank * len(x0), (engine.rank + 1) * len(x0))]
    compute = run.recorded or gradients
    return compute(run, x0, lengths, draw, num_tokens, measure, prompts), num_tokens_done


def make_recorded(config: TrainConfig, engine: Engine, model: nn.Module) -> Recorded | None:
    """`gradients` as a recorded CUDA graph; None where that is not asked for or not possible: off the GPU, and with
    recomputed blocks, which set random numbers by hand."""
    wanted = config.cuda_graph and not config.recompute and engine.can_record
    # DDP measures itself in its first ten steps
    return Recorded(gradients, list(model.parameters()), 3 if engine.num_ranks == 1 else 11) if wanted else None


def gradients(
    run: Training,
    x0: Tensor,
    lengths: Tensor | None,
    draw: Draw,
    num_tokens: float | Tensor,
    measure: bool,
    prompts: Tensor | None,
) -> TrainingLoss:
    """Add the gradients of this process's rows, a micro-batch at a time, and return their loss. `num_tokens`: all that
    are scored, in all processes."""
    engine = run.engine
    rows_per_part = len(x0) // run.num_micro_batches
    parts: list[TrainingLoss] = []
    for start in range(0, len(x0), rows_per_part):
        rows = slice(start, start + rows_per_part)
        more = start + rows_per_part < len(x0) or not run.exchanges
        with engine.accumulate(run.model, more):
            # gradients are averaged over processes, so each divides by its mean share of the tokens
            lengths_of_rows, prompts_of_rows = (None if each is None else each[rows] for each in (lengths, prompts))
            mean_share = num_tokens / engine.num_ranks
            part = loss_of_rows(run, x0[rows], lengths_of_rows, draw[rows], mean_share, measure, prompts_of_rows)
            engine.backward(part.total)
        parts.append(part)
    terms = {name: torch.stack([part.terms[name] for part in parts]).sum() for name in parts[0].terms}
    metrics = {name: torch.stack([part.metrics[name] for part in parts]).mean() for name in parts[0].metrics}
    return TrainingLoss(torch.stack([part.total.detach() for part in parts]).sum(), terms, metrics)


def loss_of_rows(
    run: Training,
    x0: Tensor,
    lengths: Tensor | None,
    draw: Draw,
    num_tokens: float | Tensor,
    measure: bool,
    prompts: Tensor | None,
) -> TrainingLoss:
    """The objective of some rows, in one forward pass of the wrapped model."""

    def parts(model: nn.Module) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        loss = run.objective.loss(model, x0, lengths, draw, num_tokens, measure=measure, prompts=prompts)
        return loss.total, loss.terms, loss.metrics

    return TrainingLoss(*run.model(parts))


def clip_gradients(model: nn.Module, largest_norm: float) -> Tensor:
    """Scale gradients down to a norm of at most largest_norm (0: leave them); returns the norm before."""
    norm = nn.utils.clip_grad_norm_(model.parameters(), largest_norm if largest_norm > 0 else math.inf)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def evaluate(run: Training, progress: Progress, stage: Stage | None) -> tuple[dict[str, float], bool]:
    """Score the averaged weights. Returns what was found, and whether they are the best so far, by the bound under the
    method's own schedule. Raises EvaluationInterrupted soon after a signal; of many processes all go on to the end,
    because they wait for each other there."""

    def hear(_done: int, _total: int) -> None:
        # other reasons to stop, such as a time limit, wait for the end of an evaluation
        if run.engine.num_ranks == 1 and run.should_stop() in INTERRUPTIONS:
            raise EvaluationInterrupted

    run.raw_model.eval()
    with run.ema.swapped_in(run.raw_model):
        values = run.evaluate(stage, hear)
    run.raw_model.train()
    has_own = EVAL_OWN_NATS in values
    bound = values[EVAL_OWN_NATS if has_own else EVAL_NATS]
    is_best = bound < progress.best_bound
    if is_best:
        progress.best_bound, progress.best_step = bound, progress.step
    if run.line is not None:
        error = values[EVAL_OWN_ERROR if has_own else EVAL_ERROR]
        uniform = f" (uniform schedule {with_error(values[EVAL_NATS])})" if has_own else ""
        exact = f"; left to right {with_error(values[EVAL_CAUSAL_NATS])}" if EVAL_CAUSAL_NATS in values else ""
        found = with_error(bound, error, decimals=4)
        of_answers = " of answers" if run.config.data.loss_on == "answers" else ""
        run.line.say(f"step {progress.step}: validation {found} nats/token{of_answers}{uniform}{exact}")
    return values, is_best


def catch_up(run: Training, progress: Progress) -> None:
    """Make up for an evaluation that was interrupted when the run was stopped: score, log and save as it would have."""
    assert progress.unscored is not None
    found, _ = evaluate(run, progress, run.last_stage)
    write(run, progress.step, {**progress.unscored, **found, "elapsed_s": progress.elapsed_s})
    progress.unscored = None
    run.save(progress, run.last_stage)


def write(run: Training, step: int, values: dict[str, float]) -> None:
    """Give the values of a step to every writer."""
    for writer in run.writers:
        writer.write(step, values)


def agreed_reason(run: Training) -> str | None:
    """Why training is to stop, if any process was asked to; None if none was. All processes return at the same step,
    those that were not asked with a reason that says so."""
    reason = run.should_stop()
    if run.engine.num_ranks == 1:
        return reason
    wanted = run.engine.sum(torch.tensor(float(reason is not None), device=run.engine.device)).item()
    return (reason or "another process was asked to stop") if wanted else None


def has_finite_weights(model: nn.Module) -> bool:
    """Whether all weights are finite numbers; where they are sharded, those of this process's part."""
    local = [p.to_local() if isinstance(p, DTensor) else p for p in model.parameters()]
    return bool(torch.stack([p.detach().isfinite().all() for p in local]).all())


def stop_if_not_finite(run: Training, first_bad_step: Tensor, saved_step: int | None) -> None:
    """Raises NotFinite, naming the step and the last good checkpoint, if any process met a number that is not
    finite."""
    step = int(first_bad_step.item())
    if run.engine.num_ranks > 1:
        step = int(run.engine.gather(first_bad_step[None]).max().item())
    if step < 0:
        return
    batch = run.config.train.batch_size
    good = (
        "no checkpoint was written before" if saved_step is None else f"the last good checkpoint is step {saved_step}"
    )
    raise NotFinite(
        f"the loss, its gradient or the weights were not finite numbers in step {step + 1} (sequences {step * batch} "
        f"to {(step + 1) * batch - 1} of the shuffled training data); {good}, and nothing was saved after it. "
        "Start again with a lower `optim.lr=`, or with `train.precision='float32'`",
        step,
    )


def seed_after(seed: int, num_rewinds: int) -> int:
    """The seed of a run's steps after it went back to a checkpoint so many times."""
    return seed if num_rewinds == 0 else step_seed(seed, num_rewinds)


def step_seed(seed: int, step: int) -> int:
    """A well-mixed 63-bit seed for one step."""
    return int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0] >> 1)


def as_state(progress: Progress) -> dict[str, Any]:
    """Progress as it is stored in JSON; an infinite best bound (none yet) is null."""
    state = asdict(progress)
    return {**state, "best_bound": state["best_bound"] if math.isfinite(state["best_bound"]) else None}


def from_state(state: Mapping[str, Any]) -> Progress:
    """Read what `as_state` wrote, also in earlier versions, which had fewer fields. Raises ValueError and KeyError
    for anything else."""
    check_kinds(state, step=int, num_tokens=int, elapsed_s=NUMBER, num_rewinds=int)
    check_kinds(state, best_bound=NUMBER, best_step=int, unscored=dict)
    known = {name: state[name] for name in Progress.__dataclass_fields__ if state.get(name) is not None}
    progress = Progress(known.pop("step"), **known)
    if progress.step < 0 or progress.num_rewinds < 0:
        raise ValueError(f"it counts {progress.step} steps and {progress.num_rewinds} rewinds")
    return progress
