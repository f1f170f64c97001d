"""What `atat plan` foretells, measured: a training step, its peak of memory and a checkpoint, for shapes on GPUs.

    python -m benchmarks.scale --gpus 1 --out scale.json           170M and 770M parameters on one GPU
    python -m benchmarks.scale --gpus 2 --out scale.json           the same on two: DDP and FSDP2
    python -m benchmarks.scale --show scale.json                   measured beside planned, once more
    python -m benchmarks.scale --gpus 1 2 --shapes tiny --steps 3 --out scale.json          anywhere

Each arm is a process of its own, or as many as it has GPUs, started by torchrun. Its numbers are in the JSON as soon as
it is done, and an arm that is there is not run again. A step is all of what the training loop does, on random tokens;
a checkpoint is written as `atat train` writes it, below --folder.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.train_step import PLAIN, VOCABULARY, Instant, make_training, middle_and_spread, step_of

from mdlm_atat.atomic import write_json
from mdlm_atat.cli.parser import Parser, whole
from mdlm_atat.config.arguments import read_config
from mdlm_atat.config.schema import RunConfig
from mdlm_atat.errors import UserError
from mdlm_atat.provenance import code_version, commit, cpu
from mdlm_atat.training.checkpoint import collect, save, sha256
from mdlm_atat.training.engine import Engine
from mdlm_atat.training.flops import matrix_rate, training_flops_per_token
from mdlm_atat.training.loop import Training

SHAPES = {"170M": "mdlm-owt", "770M": "large", "tiny": "demo"}
"""Presets, by how many parameters they have."""
TINY_VOCABULARY = 65


@dataclass(frozen=True)
class Arm:
    """What is measured in one process, or in one a GPU."""

    shape: str
    method: str
    num_gpus: int
    shard: bool = False
    recompute: bool = False
    rows_per_gpu: int = 32
    """Sequences of one GPU in a step."""

    @property
    def name(self) -> str:
        more = [word for word, is_so in (("shard", self.shard), ("recompute", self.recompute)) if is_so]
        return "-".join([self.shape, self.method, f"{self.num_gpus}gpu", *more])

    def config(self, engine: Engine) -> RunConfig:
        """A run's settings, as `atat plan` would have them: compiled and recorded on a GPU."""
        config = read_config(SHAPES[self.shape], self.method, {}, "scale")
        is_gpu = engine.device.type == "cuda"
        train = replace(
            config.train,
            batch_size=self.rows_per_gpu * self.num_gpus,
            **{**PLAIN, "fused_loss": True, "compile": is_gpu, "cuda_graph": engine.can_record},
            shard=self.shard,
            recompute=self.recompute,
        )
        return replace(config, train=train)


def arms_of(shapes: Sequence[str], numbers: Sequence[int], rows: int | None) -> list[Arm]:
    """What is measured, the most wanted first."""
    found: list[Arm] = []
    for num_gpus in numbers:
        found += [Arm(shape, "mdlm", num_gpus) for shape in shapes]
        if num_gpus > 1:
            found += [Arm(shape, "mdlm", num_gpus, shard=True) for shape in shapes]
        found += [Arm(shape, "atat", num_gpus) for shape in shapes]
        found += [Arm(shape, "mdlm", num_gpus, recompute=True) for shape in shapes if num_gpus == 1]
        found += [Arm(shape, "atat", num_gpus, shard=True) for shape in shapes if num_gpus > 1]
    return found if rows is None else [replace(arm, rows_per_gpu=rows) for arm in found]


def measure_arm(arm: Arm, folder: Path, num_steps: int) -> dict[str, Any] | None:
    """Run an arm in this process, one of its processes; the main one returns what is stored."""
    engine = Engine("auto", shard=arm.shard)
    config, vocab_size = arm.config(engine), vocabulary(arm.shape)
    is_gpu = engine.device.type == "cuda"
    ceiling = matrix_rate(engine.device)
    if is_gpu:
        torch.cuda.reset_peak_memory_stats(engine.device)
    with engine.deterministic(config.train.deterministic):
        run = make_training(config, engine, "graph", vocab_size)
        num_warm_up = 4 if run.recorded is None else run.recorded.num_warm_up + 2
        start_s = time.perf_counter()
        for step in range(num_warm_up):
            step_of(run, step)
        engine.synchronize()
        first_s = time.perf_counter() - start_s
        ends = [Instant(is_gpu)]
        for step in range(num_warm_up, num_warm_up + num_steps):
            step_of(run, step)
            ends.append(Instant(is_gpu))
        engine.synchronize()
    times_s = [later.seconds_since(earlier) for earlier, later in itertools.pairwise(ends)]
    median, low, high = middle_and_spread(times_s)
    peak_bytes = engine.peak_memory_bytes()
    reserved_bytes = torch.cuda.max_memory_reserved(engine.device) if is_gpu else None
    found = {
        **asdict(arm),
        "name": arm.name,
        "preset": SHAPES[arm.shape],
        "length": config.data.length,
        "vocab_size": vocab_size,
        "num_parameters": sum(p.numel() for p in run.raw_model.parameters()),
        "flops_per_token": training_flops_per_token(config, vocab_size),
        "num_steps": num_steps,
        "step_s": median,
        "step_low_s": low,
        "step_high_s": high,
        "tokens_per_s": config.train.batch_size * config.data.length / median,
        "peak_bytes": peak_bytes,
        "reserved_bytes": reserved_bytes,
        "first_steps_s": first_s,
        "matrix_flops_per_s": ceiling,
        "checkpoint": measure_checkpoint(run, folder),
        "machine": {**engine.describe(), "torch": torch.__version__},
        "date": time.strftime("%Y-%m-%d"),
        "code": f"{code_version()} {commit() or ''}".strip(),
    }
    return found if engine.is_main else None


def vocabulary(shape: str) -> int:
    """Tokens of a shape's tokenizer."""
    tokenizer = read_config(SHAPES[shape], "mdlm", {}, "scale").data.tokenizer
    return VOCABULARY.get(tokenizer, TINY_VOCABULARY)


def measure_checkpoint(run: Training, folder: Path) -> dict[str, float]:
    """The bytes of a checkpoint and the seconds until it is there; of sharded weights, gathered by one process and in
    parts."""
    found: dict[str, float] = {}
    engine = run.engine
    ways = {"whole_s": float("inf")} | ({"parts_s": 0.0} if engine.is_sharded else {})
    for step, (name, largest_whole_bytes) in enumerate(ways.items()):
        engine.barrier()
        start_s = time.perf_counter()
        tensors = collect(run.raw_model, run.ema, run.optimizer)  # type: ignore[arg-type]
        saved = save(
            folder,
            step=step,
            tensors=tensors,
            state={},
            is_main=engine.is_main,
            largest_whole_bytes=largest_whole_bytes,
        )
        engine.barrier()
        found[name] = time.perf_counter() - start_s
        if engine.is_main:
            found["bytes"] = float(sum(file.stat().st_size for file in saved.folder.iterdir()))
            for file in saved.folder.iterdir():
                file.unlink()
    return found


def measure_host(folder: Path, num_rows: int, length: int = 1024) -> dict[str, Any]:
    """What the machine's CPU and disk do: an epoch's order, reading rows of tokens, and a file's checksum."""
    from mdlm_atat.data import tokens

    start_s = time.perf_counter()
    tokens._epoch(num_rows, length, 0, 0)
    order_s = time.perf_counter() - start_s
    file = folder / "tokens.bin"
    ids = np.random.default_rng(0).integers(0, 50_257, 1 << 26, dtype=np.uint16)
    ids.tofile(file)
    sum_s = seconds_of(lambda: sha256(file))
    mapped = np.memmap(file, dtype="<u2", mode="r")
    starts = np.random.default_rng(1).permutation(len(mapped) // length)[:2048] * length  # (rows,)

    def gather() -> None:
        positions = np.minimum(starts[:, None] + np.arange(length), len(mapped) - 1)
        mapped[positions].astype(np.int64)

    gather_s = seconds_of(gather)
    file.unlink()
    return {
        "order_s_per_row": order_s / num_rows,
        "order_rows": num_rows,
        "load_s_per_token": gather_s / (len(starts) * length),
        "checksum_bytes_per_s": ids.nbytes / sum_s,
        "machine": {"cpu": cpu(), "numpy": np.__version__},
        "date": time.strftime("%Y-%m-%d"),
    }


def seconds_of(work: Callable[[], object]) -> float:
    """The shortest of three times."""
    times_s = []
    for _ in range(3):
        start_s = time.perf_counter()
        work()
        times_s.append(time.perf_counter() - start_s)
    return min(times_s)


def run_arm(arm: Arm, folder: Path, num_steps: int) -> dict[str, Any] | str:
    """Start an arm's processes. Returns what they measured, or what went wrong."""
    with tempfile.TemporaryDirectory(dir=folder) as within:
        answer = Path(within) / "arm.json"
        own = ["-m", "benchmarks.scale", "--arm", json.dumps(asdict(arm)), "--steps", str(num_steps)]
        own += ["--folder", within, "--out", str(answer)]
        start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(arm.num_gpus)]
        command = [sys.executable, *(start if arm.num_gpus > 1 else []), *own]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not answer.exists():
            return (done.stderr or done.stdout)[-3000:]
        return json.loads(answer.read_text(encoding="utf-8"))


def show(stored: dict[str, Any]) -> None:
    """Print what was measured."""
    print(f"{'':28} {'parameters':>12} {'ms/step':>9} {'10% to 90%':>17} {'tokens/s':>10} {'peak GiB':>9} "
          f"{'checkpoint':>20}")  # fmt: skip
    for name, arm in stored["arms"].items():
        if "failed" in arm:
            print(f"{name:28} failed: {arm['failed'].strip().splitlines()[-1]:.120}")
            continue
        checkpoint = arm["checkpoint"]
        times = ", ".join(f"{checkpoint[way]:.1f} s" for way in ("whole_s", "parts_s") if way in checkpoint)
        spread = f"({arm['step_low_s'] * 1e3:7.1f}-{arm['step_high_s'] * 1e3:7.1f})"
        print(f"{name:28} {arm['num_parameters']:12,} {arm['step_s'] * 1e3:9.1f} {spread} {arm['tokens_per_s']:10,.0f} "
              f"{(arm['peak_bytes'] or 0) / 2**30:9.2f} {checkpoint['bytes'] / 2**30:6.2f} GiB {times}")  # fmt: skip


def main() -> None:
    parser = Parser("benchmarks.scale", __doc__ or "")
    parser.add_argument("--shapes", nargs="+", default=["170M", "770M"], choices=SHAPES)
    parser.add_argument("--gpus", nargs="+", type=whole(1, 1024), default=[1])
    parser.add_argument("--rows", type=whole(1), help="sequences of one GPU in a step (default: 32)")
    parser.add_argument("--steps", type=whole(1), default=20, help="timed")
    parser.add_argument("--out", type=Path, help="JSON to write, and to go on with")
    parser.add_argument("--folder", type=Path, help="where checkpoints are written (default: a temporary folder)")
    parser.add_argument("--index_rows", type=whole(1), default=10_000_000, help="of the epoch whose order is timed")
    parser.add_argument("--only", nargs="+", metavar="ARM", help="only these arms, by the names that are printed")
    parser.add_argument("--show", type=Path, metavar="JSON", help="print what is stored, and measure nothing")
    parser.add_argument("--arm", help="this one arm, in this process")
    arguments = parser.parse(sys.argv[1:])
    if arguments.show is not None:
        show(json.loads(arguments.show.read_text(encoding="utf-8")))
        return
    if arguments.out is None:
        raise UserError("missing --out: JSON to write, and to go on with")
    if arguments.arm is not None:
        found = measure_arm(Arm(**json.loads(arguments.arm)), arguments.folder, arguments.steps)
        if found is not None:
            write_json(arguments.out, found)
        return
    num_there = torch.cuda.device_count()
    if num_there and max(arguments.gpus) > num_there:
        raise UserError(f"--gpus {max(arguments.gpus)}: this machine has {num_there}")
    stored: dict[str, Any] = {"arms": {}}
    if arguments.out.exists():
        stored = json.loads(arguments.out.read_text(encoding="utf-8"))
    folder = arguments.folder or Path(tempfile.gettempdir())
    folder.mkdir(parents=True, exist_ok=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for arm in arms_of(arguments.shapes, arguments.gpus, arguments.rows):
        is_done = arm.name in stored["arms"] and "failed" not in stored["arms"][arm.name]
        if is_done or (arguments.only and arm.name not in arguments.only):
            continue
        start_s = time.perf_counter()
        found = run_arm(arm, folder, arguments.steps)
        stored["arms"][arm.name] = {"failed": found} if isinstance(found, str) else found
        write_json(arguments.out, stored)
        print(f"{arm.name}: {time.perf_counter() - start_s:.0f} s", flush=True)
    if "host" not in stored:
        stored["host"] = measure_host(folder, arguments.index_rows)
        write_json(arguments.out, stored)
    show(stored)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "4")
    main()
