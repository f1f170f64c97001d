"""What `atat plan` foretells, measured: a training step, its peak of memory and a checkpoint, for shapes on GPUs.

    python -m benchmarks.scale --gpus 1 --out scale.json           170M and 770M parameters on one GPU
    python -m benchmarks.scale --gpus 2 --out scale.json           the same on two: DDP and FSDP2
    python -m benchmarks.scale --show scale.json                   measured beside planned, once more
    python -m benchmarks.scale --refresh scale.json                into the table that plans are made from
    python -m benchmarks.scale --gpus 1 2 --shapes tiny --steps 3 --out scale.json          anywhere

Each arm is a process of its own, or as many as it has GPUs, started by torchrun. Its numbers are in the JSON as soon as
it is done, and an arm that is there is not run again. A step is all of what the training loop does, on random tokens;
a checkpoint is written as `atat train` writes it, below --folder.
"""

from __future__ import annotations

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
from benchmarks.command import exit_code
from benchmarks.train_step import PLAIN, VOCABULARY, make_training, middle_and_spread, timed_steps

from mdlm_atat import scaling
from mdlm_atat.atomic import write_json, write_text
from mdlm_atat.cli.parser import Parser, whole
from mdlm_atat.config.arguments import read_config
from mdlm_atat.config.schema import RunConfig
from mdlm_atat.errors import UserError
from mdlm_atat.provenance import code_version, commit, cpu
from mdlm_atat.scaling.measured import gpu_kinds, measured
from mdlm_atat.scaling.memory import Way, memory_of
from mdlm_atat.scaling.sizes import sizes_of
from mdlm_atat.scaling.speed import Machines, checkpoint_of, ddp_bytes_per_parameter, speed_of
from mdlm_atat.small_files import read_object
from mdlm_atat.training.checkpoint import collect, save, sha256
from mdlm_atat.training.engine import Engine
from mdlm_atat.training.flops import matrix_rate, training_flops_per_token
from mdlm_atat.training.loop import Training

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "170M": ("mdlm-owt", {}),
    "770M": ("large", {}),
    "1.3B": ("large", {"model.num_layers": 24, "model.width": 2048, "model.num_heads": 16}),
    "tiny": ("demo", {}),
}
"""(preset, what is changed of it) by how many parameters there are."""


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
        config = base_of(self.shape, self.method)
        is_gpu = engine.device.type == "cuda"
        train = replace(
            config.train,
            batch_size=self.rows_per_gpu * self.num_gpus,
            **{**PLAIN, "fused_loss": True, "compile": is_gpu, "cuda_graph": engine.can_record},
            shard=self.shard,
            recompute=self.recompute,
        )
        return replace(config, train=train)


def base_of(shape: str, method: str = "mdlm") -> RunConfig:
    """The settings of a shape."""
    preset, changed = SHAPES[shape]
    return read_config(preset, method, changed, "scale")


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
        times_s, first_s = timed_steps(run, num_steps, num_warm_up=4)
    median, low, high = middle_and_spread(times_s)
    peak_bytes = engine.peak_memory_bytes()
    reserved_bytes = torch.cuda.max_memory_reserved(engine.device) if is_gpu else None
    found = {
        **asdict(arm),
        "name": arm.name,
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
    return VOCABULARY[base_of(shape).data.tokenizer]


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
    ids = np.random.default_rng(0).integers(0, VOCABULARY["gpt2"], 1 << 26, dtype=np.uint16)
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


def planned(arm: dict[str, Any]) -> tuple[float, float | None, float]:
    """(bytes at the peak, seconds of a step or None on no GPU that was measured, seconds of a checkpoint) as a plan
    says of an arm."""
    known, config, vocab_size = measured(), base_of(arm["shape"], arm["method"]), vocabulary(arm["shape"])
    num_gpus = arm["num_gpus"]
    train = replace(config.train, batch_size=arm["rows_per_gpu"] * num_gpus, whole_checkpoint_gib=1e12)
    config, kind = replace(config, train=train), kind_of(arm)
    sizes = sizes_of(config, vocab_size)
    way = Way(
        "one GPU" if num_gpus == 1 else "sharded" if arm["shard"] else "data-parallel", recompute=arm["recompute"]
    )
    extra = ddp_bytes_per_parameter(known, sizes.num_parameters, recorded=way.is_recorded)
    memory = memory_of(config, sizes, vocab_size, way, num_gpus, 1, extra)
    machines = Machines(num_gpus, num_gpus, 1.0)
    checkpoint = checkpoint_of(config, sizes, way, machines, known)
    if kind is None:
        return memory.peak, None, checkpoint.seconds
    flops = training_flops_per_token(config, vocab_size)
    speed = speed_of(config, sizes, way, machines, 1, flops, known.gpu(kind), known)
    return memory.peak, speed.step_s, checkpoint.seconds


def kind_of(arm: dict[str, Any]) -> str | None:
    """The kind of GPU that an arm ran on; None for one that no plan is made for."""
    device = arm["machine"]["device"].lower()
    return next((kind for kind in gpu_kinds() if kind in device), None)


def show(stored: dict[str, Any]) -> None:
    """Print what was measured, and what the plan says beside it."""
    print(f"{'':28} {'parameters':>13} {'ms/step':>9} {'10% to 90%':>17} {'planned':>16} {'tokens/s':>10} "
          f"{'peak GiB':>9} {'planned':>16}  checkpoint")  # fmt: skip
    for name, arm in stored["arms"].items():
        if "failed" in arm:
            print(f"{name:28} failed: {arm['failed'].strip().splitlines()[-1]:.120}")
            continue
        peak, step_s, checkpoint_s = planned(arm)
        checkpoint = arm["checkpoint"]
        times = ", ".join(f"{checkpoint[way]:.1f} s" for way in ("whole_s", "parts_s") if way in checkpoint)
        spread = f"({arm['step_low_s'] * 1e3:7.1f}-{arm['step_high_s'] * 1e3:7.1f})"
        beside = "" if step_s is None else f"{step_s * 1e3:.1f} ({step_s / arm['step_s'] - 1:+.1%})"
        there = (arm["peak_bytes"] or 0) / 2**30
        of_peak = "" if step_s is None else f"{peak / 2**30:.2f} ({peak / 2**30 / there - 1:+.1%})"
        print(f"{name:28} {arm['num_parameters']:13,} {arm['step_s'] * 1e3:9.1f} {spread} {beside:>16} "
              f"{arm['tokens_per_s']:10,.0f} {there:9.2f} {of_peak:>16}  {checkpoint['bytes'] / 2**30:.2f} GiB in "
              f"{times} (planned {checkpoint_s:.1f})")  # fmt: skip


def refresh(stored: dict[str, Any]) -> None:
    """Put what was measured on GPUs into measured.json, in the place of what was measured of the same before."""
    file = Path(scaling.__file__).with_name("measured.json")
    table = json.loads(file.read_text(encoding="utf-8"))
    arms = {name: arm for name, arm in stored["arms"].items() if "failed" not in arm and kind_of(arm) is not None}
    rows = [as_row(arm, arms) for arm in arms.values()]
    same = ("gpu", "num_gpus", "shard", "recompute", "recorded", "optimizer", "method", "num_parameters", "length")
    asked = [*same, "tokens_per_gpu"]
    empty = {
        "num_gpus": 1,
        "shard": False,
        "recompute": False,
        "recorded": False,
        "optimizer": "adamw",
        "method": "mdlm",
    }
    new = [[row[name] for name in asked] for row in rows]
    table["steps"] = [row for row in table["steps"] if [{**empty, **row}[name] for name in asked] not in new] + rows
    if arms:
        table["checkpoints"] = [
            {
                "num_bytes": arm["checkpoint"]["bytes"],
                **{way: round(arm["checkpoint"][way], 2) for way in ("whole_s", "parts_s") if way in arm["checkpoint"]},
                "num_gpus": arm["num_gpus"],
                "where": where(arm),
            }
            for arm in arms.values()
            if (arm["method"], arm["recompute"]) == ("mdlm", False)
        ]
    if "host" in stored and arms:
        host = {name: value for name, value in stored["host"].items() if name not in ("machine", "date")}
        seen = f"benchmarks.scale, {stored['host']['date']}, {stored['host']['machine']['cpu']}"
        table["host"] = {**host, "where": seen}
    write_text(file, in_rows(table))
    print(f"{len(rows)} steps are in {file}")


def as_row(arm: dict[str, Any], arms: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """An arm as `scaling.measured.Step` has it."""
    config = base_of(arm["shape"], arm["method"])
    alone = arms.get(f"{arm['shape']}-{arm['method']}-1gpu") if arm["num_gpus"] > 1 else None
    beside = {}
    if alone is not None:
        beside = {"alone_s": alone["step_s"], "alone_peak_gib": round(alone["peak_bytes"] / 2**30, 2)}
    return {
        "name": arm["name"],
        "preset": SHAPES[arm["shape"]][0],
        "settings": SHAPES[arm["shape"]][1],
        "vocab_size": arm["vocab_size"],
        "gpu": kind_of(arm),
        "num_gpus": arm["num_gpus"],
        "shard": arm["shard"],
        "recompute": arm["recompute"],
        "recorded": not arm["shard"] and not arm["recompute"],
        "optimizer": config.optim.kind,
        "method": arm["method"],
        "width": config.model.width,
        "num_layers": config.model.num_layers,
        "length": arm["length"],
        "num_parameters": arm["num_parameters"],
        "flops_per_token": arm["flops_per_token"],
        "tokens_per_gpu": arm["rows_per_gpu"] * arm["length"],
        "step_s": round(arm["step_s"], 6),
        **beside,
        "peak_gib": round(arm["peak_bytes"] / 2**30, 2),
        "where": where(arm),
    }


def where(arm: dict[str, Any]) -> str:
    """Where and when an arm was measured."""
    number = "one" if arm["num_gpus"] == 1 else str(arm["num_gpus"])
    return f"benchmarks.scale, {arm['date']}, {number} {arm['machine']['device']}, torch {arm['machine']['torch']}"


def in_rows(table: dict[str, Any]) -> str:
    """JSON with one row of a list to a line."""
    parts = [
        f' "{name}": '
        + ("[\n  " + ",\n  ".join(map(json.dumps, value)) + "\n ]" if isinstance(value, list) else json.dumps(value))
        for name, value in table.items()
    ]
    return "{\n" + ",\n".join(parts) + "\n}\n"


def read_stored(file: Path) -> dict[str, Any]:
    """What this command wrote. Raises UserError for any other file."""
    stored = read_object(file, remedy="name a file that --out wrote")
    if not isinstance(stored.get("arms"), dict):
        raise UserError(f"{file} holds no arms; name a file that --out wrote")
    return stored


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
    parser.add_argument("--show", type=Path, nargs="+", metavar="JSON", help="print what is stored")
    parser.add_argument("--refresh", type=Path, nargs="+", metavar="JSON", help="put it into the plan's table")
    parser.add_argument("--arm", help="this one arm, in this process")
    arguments = parser.parse(sys.argv[1:])
    if given := arguments.show or arguments.refresh:
        stored: dict[str, Any] = {"arms": {}}
        for file in given:
            found = read_stored(file)
            stored = {**found, "arms": {**stored["arms"], **found["arms"]}}
        (show if arguments.show else refresh)(stored)
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
    stored = {"arms": {}}
    if arguments.out.exists():
        stored = read_stored(arguments.out)
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
    sys.exit(exit_code(main))
