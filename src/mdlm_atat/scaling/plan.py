"""A plan of a training run: the network, its memory by every way of laying it out, speed, days, limits, the command."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from mdlm_atat.checks import one_of, whole, within
from mdlm_atat.config.arguments import read_config
from mdlm_atat.config.build import causal_rows, modes_of
from mdlm_atat.config.files import flags_of
from mdlm_atat.config.schema import RunConfig
from mdlm_atat.data.split_writer import token_dtype
from mdlm_atat.data.tokenizers import HUB_VOCABULARIES, ByteTokenizer
from mdlm_atat.errors import UserError, quoted
from mdlm_atat.formats import short_count
from mdlm_atat.scaling.limits import Limit, limits_of
from mdlm_atat.scaling.measured import GPU, SWITCHES, Measured, check_settings, gpu_kinds, measured
from mdlm_atat.scaling.memory import Kind, Memory, Way, memory_of
from mdlm_atat.scaling.sizes import Sizes, of_size, sizes_of
from mdlm_atat.scaling.speed import Machines, Speed, Stored, checkpoint_of, ddp_bytes_per_parameter, speed_of
from mdlm_atat.training.flops import training_flops_per_token
from mdlm_atat.training.folder import changes

VOCABULARIES = {**HUB_VOCABULARIES, "byte": ByteTokenizer.vocab_size}
"""Tokens of tokenizers that are known by name."""
BASE = "medium"
"""The preset whose settings a network of a given number of parameters has, but for its shape."""
USABLE = 133.6 / 139.8
"""The share of a GPU's memory that the fullest measured step used."""
MOST_PARAMETERS, MOST_TOKENS, MOST_GPUS = 10**13, 10**16, 10**6
MOST_VOCABULARY = 1 << 24
WORST_PEAK = 0.03
"""How far the planned peak of memory is from a measured one, at most (`tests/scaling/test_planned_memory.py`)."""
USUAL_BATCHES = ((1e9, 2**19), (4e9, 2**20), (2e10, 2**21), (math.inf, 3 * 2**20))
"""(parameters below, tokens of a batch): those of arXiv 2005.14165, table 2.1, in powers of two."""


@dataclass(frozen=True)
class Option:
    """One way of laying the network over the GPUs."""

    way: Way
    num_micro_batches: int
    memory: Memory
    fits: bool
    speed: Speed | None
    """None where it is only shown: a network alone on one of several GPUs."""

    def as_json(self) -> dict[str, Any]:
        speed = None if self.speed is None else self.speed.as_json()
        return {
            "way": self.way.name,
            "num_micro_batches": self.num_micro_batches,
            "fits": self.fits,
            "memory_bytes": self.memory.as_json(),
            "speed": speed,
        }


@dataclass(frozen=True)
class Plan:
    """What a run takes. `chosen` is the fastest option that fits; None where none does."""

    config: RunConfig
    vocab_size: int
    sizes: Sizes
    num_tokens: float
    machines: Machines
    gpu: GPU
    host_bytes: float
    """Memory of a machine."""
    flops_per_token: float
    options: tuple[Option, ...]
    chosen: Option | None
    checkpoint: Stored
    num_checkpoints: int
    order_s: float
    """Drawing and sorting the order of the rows."""
    token_bytes: int
    total_s: float | None
    limits: tuple[Limit, ...]
    """What is nearest to breaking, or broken, first."""
    command: str | None
    """None where nothing fits."""
    assumptions: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """All of it, in bytes and seconds."""
        return {
            "model": {
                name: getattr(self.config.model, name) for name in ("kind", "num_layers", "width", "num_heads", "tied")
            },
            "num_parameters": self.sizes.num_parameters,
            "vocab_size": self.vocab_size,
            "length": self.config.data.length,
            "num_tokens": self.num_tokens,
            "flops_per_token": self.flops_per_token,
            "gpu": asdict(self.gpu),
            "machines": {**asdict(self.machines), "num": self.machines.num},
            "batch_size": self.config.train.batch_size,
            "num_steps": self.config.train.num_steps,
            "options": [option.as_json() for option in self.options],
            "chosen": None if self.chosen is None else self.chosen.way.name,
            "checkpoint": {**self.checkpoint.as_json(), "num": self.num_checkpoints},
            "order_s": self.order_s,
            "token_file_bytes": self.token_bytes,
            "total_s": self.total_s,
            "limits": [{**asdict(limit), "ratio": limit.ratio} for limit in self.limits],
            "command": self.command,
            "assumptions": list(self.assumptions),
        }


def plan(
    config: str | Path | RunConfig | None = None,
    *,
    params: float | None = None,
    tokens: float,
    gpus: int = 1,
    gpu: str = "h200",
    vocab_size: int | None = None,
    method: str | None = None,
    settings: Mapping[str, Any] | None = None,
    gpus_per_machine: int = 8,
    network_gb_s: float = 50.0,
    host_gib: float = 128.0,
) -> Plan:
    """Plan a training run on `tokens` tokens.

    `config`: a preset's name, a YAML file, a run folder or a `RunConfig`. `params`: about how many parameters the
    network is to have, in place of its depth, width and heads; without a `config` the rest is the preset `medium`'s.
    `settings`: by dotted path. `vocab_size`: None where the tokenizer is one of `VOCABULARIES`. `gpu`: a kind that was
    measured. `network_gb_s`: gigabytes a second that the network between machines carries one way for each GPU;
    `host_gib`: a machine's memory for each of its GPUs. Both are assumptions.

    Raises UserError for what cannot be: see each check.
    """
    check_asked(tokens, gpus, gpu, gpus_per_machine, network_gb_s, host_gib)
    if config is None and params is None:
        raise UserError("name a preset or a file of settings, or say how many parameters by `params=`")
    base = config if config is not None else BASE
    machines = Machines(gpus, gpus_per_machine, network_gb_s * 1e9)
    check_settings(settings or {})
    asked = read_config(base, method, settings or {}, "plan", is_built=False)
    vocab_size = vocabulary(asked, vocab_size)
    found = config_of(asked, settings or {}, params, tokens, vocab_size, machines)
    known, sizes = measured(), sizes_of(found, vocab_size)
    flops = training_flops_per_token(found, vocab_size)
    this_gpu = known.gpu(gpu)
    options = options_of(found, sizes, vocab_size, machines, flops, this_gpu, known)
    fitting = [option for option in options if option.fits and option.speed is not None]
    chosen = max(fitting, key=lambda option: option.speed.tokens_per_s if option.speed else 0.0, default=None)
    shown = chosen or options[-1]
    found = as_chosen(found, shown)
    stored = checkpoint_of(found, sizes, shown.way, machines, known)
    num_steps = found.train.num_steps
    num_checkpoints = -(-num_steps // found.train.checkpoint_interval_steps)
    num_rows = tokens / found.data.length
    order_s = known.host.order_s_per_row * num_rows * math.log(num_rows + 2) / math.log(known.host.order_rows)
    total_s = None
    if shown.speed is not None:
        total_s = num_steps * shown.speed.step_s + num_checkpoints * stored.seconds + order_s
    token_bytes = int(tokens) * np.dtype(token_dtype(vocab_size)).itemsize
    host_bytes = host_gib * 2**30 * machines.gpus_here
    limits = limits_of(
        sizes=sizes,
        way=shown.way,
        state_bytes=options[0].memory.state + options[0].memory.gradients,
        smallest_bytes=min(option.memory.peak for option in options),
        bf16_bytes=len(modes_of(found)) * 2 * sizes.block_matrices * sizes.num_blocks,
        usable_bytes=USABLE * this_gpu.memory_gib * 2**30,
        host_bytes=host_bytes,
        gpus_here=machines.gpus_here,
        checkpoint=stored,
        whole_checkpoint=checkpoint_of(found, sizes, options[0].way, machines, known),
        token_bytes=token_bytes,
        num_rows=num_rows,
        speed=shown.speed,
        total_s=total_s,
        measured=known,
    )
    command = None
    if chosen is not None:
        command = command_of(found, base, method, machines, name=short_count(sizes.num_parameters))
    return Plan(
        config=found,
        vocab_size=vocab_size,
        sizes=sizes,
        num_tokens=tokens,
        machines=machines,
        gpu=this_gpu,
        host_bytes=host_bytes,
        flops_per_token=flops,
        options=options,
        chosen=chosen,
        checkpoint=stored,
        num_checkpoints=num_checkpoints,
        order_s=order_s,
        token_bytes=token_bytes,
        total_s=total_s,
        limits=limits,
        command=command,
        assumptions=assumptions_of(found, machines, this_gpu, host_gib, network_gb_s, known),
    )


def check_asked(
    tokens: float, gpus: int, gpu: str, gpus_per_machine: int, network_gb_s: float, host_gib: float
) -> None:
    """Raise UserError for numbers that no run has."""
    one_of("gpu", gpu, gpu_kinds())
    whole("gpus", gpus, 1)
    whole("gpus_per_machine", gpus_per_machine, 1)
    within("gpus", gpus, 1, MOST_GPUS)
    within("tokens", tokens, 1, MOST_TOKENS)
    for name, value in (("network_gb_s", network_gb_s), ("host_gib", host_gib)):
        within(name, value, 1e-3, 1e9)
    if gpus > gpus_per_machine and gpus % gpus_per_machine:
        raise UserError(
            f"gpus is {gpus:,}, which are no whole machines of {gpus_per_machine}: try "
            f"`gpus={gpus // gpus_per_machine * gpus_per_machine}`, or another number by `gpus_per_machine=`"
        )


def config_of(
    asked: RunConfig,
    settings: Mapping[str, Any],
    params: float | None,
    tokens: float,
    vocab_size: int,
    machines: Machines,
) -> RunConfig:
    """The configuration that is planned: with a network of about `params` parameters, a batch that can be cut over the
    GPUs, and steps for all tokens. `settings`: those that were named. Raises UserError for what no plan is made for."""
    if asked.optim.kind not in ("adamw", "muon"):
        raise UserError(
            f"optim.kind = {asked.optim.kind}: a plan knows the state of `optim.kind='adamw'` and "
            "`optim.kind='muon'`, not that of a plugin's optimizer"
        )
    if asked.lora.rank:
        raise UserError("lora.rank trains a few weights, and a plan is of a whole network: set `lora.rank=0`")
    found = asked
    if params is not None:
        within("params", params, 10_000, MOST_PARAMETERS)
        taken = [name for name in ("num_layers", "width", "num_heads") if f"model.{name}" in settings]
        if taken:
            raise UserError(f"`params=` chooses model.{taken[0]}: leave one of them out")
        found = of_size(params, found, vocab_size)
    is_free = params is not None and "train.batch_size" not in settings
    found = with_batch(found, sizes_of(found, vocab_size), machines, is_free=is_free)
    num_steps = math.ceil(tokens / (found.train.batch_size * found.data.length))
    return replace(found, train=replace(found.train, num_steps=num_steps, **SWITCHES))


def vocabulary(config: RunConfig, vocab_size: int | None) -> int:
    """How many tokens there are. Raises UserError where that is not told."""
    if vocab_size is not None:
        whole("vocab_size", vocab_size, 2)
        within("vocab_size", vocab_size, 2, MOST_VOCABULARY)
        return vocab_size
    if config.data.tokenizer not in VOCABULARIES:
        raise UserError(
            f"data.tokenizer = {config.data.tokenizer}: say how many tokens it has by `vocab_size=`; known are "
            f"{', '.join(VOCABULARIES)}"
        )
    return VOCABULARIES[config.data.tokenizer]


def rows_together(config: RunConfig) -> int:
    """What a number of sequences that go through the network at once has to be a multiple of."""
    share = causal_rows(config.objective) if "masked" in modes_of(config) else Fraction(1)
    return share.denominator * (2 if config.importance.through_bound else 1)


def with_batch(config: RunConfig, sizes: Sizes, machines: Machines, *, is_free: bool) -> RunConfig:
    """The configuration with a batch that can be cut over the GPUs: where it `is_free`, about as large as is usual for
    the number of parameters, else its own. Raises UserError where that cannot be cut."""
    multiple = machines.num_gpus * rows_together(config)
    rows = config.train.batch_size
    if is_free:
        usual = next(tokens for below, tokens in USUAL_BATCHES if sizes.num_parameters < below)
        rows = max(1, round(usual / config.data.length / multiple)) * multiple
    if rows % multiple:
        raise UserError(
            f"train.batch_size = {rows} cannot be cut over {machines.num_gpus} GPUs in multiples of "
            f"{rows_together(config)}; try `train.batch_size={max(1, round(rows / multiple)) * multiple}`"
        )
    return replace(config, train=replace(config.train, batch_size=rows, num_micro_batches=1))


def options_of(
    config: RunConfig,
    sizes: Sizes,
    vocab_size: int,
    machines: Machines,
    flops_per_token: float,
    gpu: GPU,
    known: Measured,
) -> tuple[Option, ...]:
    """Every way, each in as few micro-batches as fit."""
    usable = USABLE * gpu.memory_gib * 2**30
    num_gpus, together = machines.num_gpus, rows_together(config)
    rows = config.train.batch_size // num_gpus
    possible = divisors(rows // together)
    ways = [Way("one GPU"), Way("one GPU", recompute=True)]
    if num_gpus > 1:
        kinds: tuple[Kind, ...] = ("data-parallel", "sharded")
        ways += [Way(kind, recompute=recompute) for kind in kinds for recompute in (False, True)]
    found: list[Option] = []
    for way in ways:
        extra = ddp_bytes_per_parameter(known, sizes.num_parameters, recorded=way.is_recorded)
        of_way = config
        if way.kind == "one GPU":  # with the sequences that it has of them
            of_way = replace(config, train=replace(config.train, batch_size=rows))
        needed = ((num, memory_of(of_way, sizes, vocab_size, way, num_gpus, num, extra)) for num in possible)
        least = possible[-1]
        num, memory = next(each for each in needed if each[1].peak <= usable or each[0] == least)
        speed = None
        if way.kind != "one GPU" or num_gpus == 1:
            speed = speed_of(config, sizes, way, machines, num, flops_per_token, gpu, known)
        found.append(Option(way, num, memory, memory.peak <= usable, speed))
    return tuple(found)


def divisors(number: int) -> list[int]:
    """All whole numbers that divide a number, rising."""
    small = [num for num in range(1, math.isqrt(number) + 1) if number % num == 0]
    return sorted({*small, *(number // num for num in small)})


def as_chosen(config: RunConfig, option: Option) -> RunConfig:
    """The configuration that trains in this way."""
    train = replace(
        config.train,
        num_micro_batches=option.num_micro_batches,
        recompute=option.way.recompute,
        shard=option.way.kind == "sharded",
    )
    return replace(config, train=train)


def command_of(
    config: RunConfig, base: str | Path | RunConfig, method: str | None, machines: Machines, *, name: str
) -> str:
    """The command that trains as planned, into runs/NAME, with every setting that is not as in the preset or file that
    it begins with."""
    words = ["atat", "train"]
    if machines.num_gpus > 1:
        several = ["--nnodes", str(machines.num), "--node-rank", "0", "--master-addr", "MACHINE"]
        here = ["--nproc-per-node", str(machines.gpus_here), "-m", "mdlm_atat", "train"]
        words = ["torchrun", *(several if machines.num > 1 else []), *here]
    before = RunConfig()
    if not isinstance(base, RunConfig):
        before = read_config(base, method, {}, "plan", is_built=False)
        words.append(quoted(str(base)))
    words += [] if method is None else ["--method", quoted(method)]
    words += ["--out", f"runs/{name}"]
    changed = {path: after for path, (_, after) in changes(before, config).items()}
    return " ".join([*words, *map(quoted, flags_of(changed))])


def assumptions_of(
    config: RunConfig, machines: Machines, gpu: GPU, host_gib: float, network_gb_s: float, known: Measured
) -> tuple[str, ...]:
    """What the numbers rest on, measured and not."""
    timed = [step for step in known.alone(gpu.kind) if step.step_s]
    widths = sorted({step.width for step in timed})
    nearest = min(widths, key=lambda width: abs(math.log(width / config.model.width)))
    least = min(step.tokens_per_gpu for step in timed if step.width == nearest)
    here = config.train.batch_size // machines.num_gpus // config.train.least_micro_batches * config.data.length
    found = [
        f"Passes: the share of the rate of a bf16 product ({gpu.flops_per_s / 1e12:.0f} TFLOP/s, {gpu.name}) that was "
        f"measured at widths {', '.join(map(str, widths))}, by straight lines over log(width); outside of these that "
        "of the nearest.",
        f"Optimizer: {known.adamw_where}, by the number of parameters.",
        f"Memory: exact for weights, average, gradients and optimizer; its peak was within {WORST_PEAK:.0%} of every "
        "one that was measured.",
        f"A GPU is full at {USABLE:.1%} of its memory, the fullest that was measured.",
    ]
    if config.model.width > widths[-1] or config.model.width < widths[0]:
        found.append(f"Width {config.model.width} was not measured.")
    if here < least:
        found.append(
            f"A GPU has {here:,} tokens at once; fewer than {least:,} were not measured, and use it less well."
        )
    if config.optim.kind == "muon":
        found.append(f"Muon: {known.muon.where}, by the operations of its iterations, which every process does whole.")
    if machines.num_gpus > 1:
        found.append(
            "Exchange: measured on two GPUs of one machine and on no more. Gradients go round a ring at the rate that "
            "was left visible there, with nothing hidden behind the passes; a sharded step also takes, for every "
            "block, what two GPUs took beyond their bytes. What DDP keeps beside gradients is what two GPUs needed "
            "more than one, for each parameter."
        )
    if machines.num_gpus > 1 and gpu.kind != "h200":
        found.append("Exchange was measured on NVIDIA H200.")
    if machines.num > 1:
        found.append(
            f"Between machines nothing was measured: {network_gb_s:g} GB/s a GPU (--network_gb_s) are assumed, used as "
            "well as the link within a machine was."
        )
    checkpoints = ", ".join(sorted({each.where for each in known.checkpoints}))
    found += [
        f"Host: {known.host.where}; {host_gib:g} GiB of memory for each GPU are assumed (--host_gib).",
        f"Checkpoints: {checkpoints}, by their bytes.",
        f"The text is prepared before; the command's is {config.data.source}, another is named by --data.source.",
        "One pass over a file of as many tokens. Evaluations, preparation and failures are left out; the learning rate "
        "is not planned.",
    ]
    return tuple(found)
