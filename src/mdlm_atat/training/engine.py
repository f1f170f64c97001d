"""The distributed engine: the only file that knows Lightning Fabric, devices, ranks and mixed precision."""

from __future__ import annotations

import inspect
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, TypeVar, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
from lightning_fabric.strategies.strategy import Strategy
from lightning_fabric.wrappers import _FabricModule
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from mdlm_atat.config.schema import TrainConfig
from mdlm_atat.device import (
    Precision,
    choose_device,
    choose_precision,
    compile_network,
    device_name,
    narrow_residual,
    recompute_blocks,
)
from mdlm_atat.errors import UserError
from mdlm_atat.provenance import cpu
from mdlm_atat.training.check import check_residual

try:
    import resource
except ImportError:  # Windows
    resource = None

T = TypeVar("T")

logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it greets every run with hints about our settings


def speed_up(model: nn.Module, config: TrainConfig, precision: Literal["float32", "bf16"]) -> None:
    """Apply to a network what makes its training faster or smaller, as `config` says: a bf16 residual stream,
    compilation, recomputed blocks. Raises UserError for a bf16 residual stream without bf16 arithmetic."""
    check_residual(config, precision)
    if config.residual == "bf16":
        narrow_residual(model)
    if config.compile:
        compile_network(model, dynamic=False)
    if config.recompute:
        recompute_blocks(model)


class Applied(nn.Module):
    """A model as a module whose forward pass is a function of the model: `applied(function)` is `function(model)`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[nn.Module], Any]) -> Any:
        return function(self.model)


class Engine:
    """One process of a training run, alone or one of many that torchrun or SLURM started.

    Devices are chosen from the environment: a GPU if there is one, and as many processes as were launched.
    """

    def __init__(self, precision: Precision, *, shard: bool = False) -> None:
        """`shard`: each of several processes keeps a part of the weights, gradients and moments (FSDP2). Raises
        UserError for more processes than GPUs."""
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what deterministic() asks of matrix products
        num_ranks, per_node = launched_processes(os.environ)
        device = choose_device()
        if device.type == "cuda" and per_node > torch.cuda.device_count():
            raise UserError(
                f"{per_node} processes were started on a machine with {torch.cuda.device_count()} GPUs; start one a GPU"
            )
        self.precision: Literal["float32", "bf16"] = choose_precision(precision, device)
        self.is_sharded = shard and num_ranks > 1
        strategy: str | Strategy = "auto"
        if self.is_sharded:
            strategy = ModelParallelStrategy(shard_over, data_parallel_size=num_ranks, tensor_parallel_size=1)
        elif num_ranks > 1:  # gradients live in what is exchanged; buffers are constants, the same in every process
            known = inspect.signature(DistributedDataParallel).parameters
            buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # torch < 2.13
            options: dict[str, Any] = {"gradient_as_bucket_view": True, buffers: False}
            strategy = DDPStrategy(**options)
        self._fabric = Fabric(
            accelerator=device.type,
            devices=per_node,
            num_nodes=num_ranks // per_node,
            strategy=strategy,
            precision="bf16-mixed" if self.precision == "bf16" else "32-true",
        )
        if num_ranks > 1:
            self._fabric.launch()
        self.device: torch.device = self._fabric.device
        self.rank: int = self._fabric.global_rank
        self.num_ranks: int = self._fabric.world_size
        self.is_main: bool = self.rank == 0

    def setup(
        self, model: nn.Module, make_optimizer: Callable[[nn.Module], Optimizer]
    ) -> tuple[nn.Module, Optimizer, Optimizer]:
        """Move the model to the device and wrap it for this precision and number of processes. Returns (wrapped model,
        raw optimizer, wrapped optimizer). The raw model shares the weights of the wrapped one; where they are sharded,
        they are this process's part (DTensor).

        The wrapped model is called with a function of the raw one, `wrapped(lambda model: loss of model)`: a loss may
        call the model several times, and it is one forward pass to the engine.
        """
        # DDP adds gradients up on the stream that it is made on, and the default one cannot be recorded
        is_ddp = self.device.type == "cuda" and self.num_ranks > 1 and not self.is_sharded
        with torch.cuda.stream(torch.cuda.Stream(self.device)) if is_ddp else nullcontext():
            wrapped = self._fabric.setup_module(Applied(model))
        self.synchronize()
        optimizer = make_optimizer(model)
        return wrapped, optimizer, cast(Optimizer, self._fabric.setup_optimizers(optimizer))

    @contextmanager
    def whole(self, wrapped: nn.Module) -> Iterator[None]:
        """Inside the block every process holds all weights of the raw model. Processes may call it different numbers of
        times."""
        sharded = [module for module in wrapped.modules() if isinstance(module, FSDPModule)] if self.is_sharded else []
        for module in sharded:
            module.set_reshard_after_forward(False, recurse=False)
            module.unshard()
        try:
            yield
        finally:
            for module in sharded:
                module.reshard()
                # the outermost keeps its own for the backward pass, which begins with them
                module.set_reshard_after_forward(not isinstance(module, Applied), recurse=False)

    def to_device(self, array: NDArray[Any]) -> Tensor:
        """Copy an array to this device, without waiting for the work that is queued there."""
        tensor = torch.from_numpy(array)
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def autocast(self) -> AbstractContextManager[None]:
        """Inside the block the raw model computes in this engine's precision."""
        return self._fabric.autocast()

    @contextmanager
    def deterministic(self, wanted: bool) -> Iterator[None]:
        """Within the block, if `wanted`, the device's kernels give the same bits every time; a kernel that cannot
        raises RuntimeError."""
        before = torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(wanted)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)

    @property
    def can_record(self) -> bool:
        """Whether a step can be recorded as a CUDA graph here: on a GPU, with whole weights in each process."""
        return self.device.type == "cuda" and not self.is_sharded

    @property
    def divides_orthogonalisation(self) -> bool:
        """Whether each process is to orthogonalise a part of Muon's matrices: on CPUs, where what that saves is far
        above what the exchange takes. On GPUs it was not measured, and a step that is recorded or compiled is whole."""
        return self.device.type == "cpu" and self.num_ranks > 1 and not self.is_sharded

    def accumulate(self, model: nn.Module, more: bool) -> AbstractContextManager[None]:
        """Within the block processes do not exchange gradients, if `more` micro-batches follow."""
        if self.num_ranks == 1:
            return nullcontext()
        assert isinstance(model, _FabricModule)
        return self._fabric.no_backward_sync(model, enabled=more)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss` to the parameters, and exchange them between processes."""
        self._fabric.backward(loss)

    def sum(self, value: Tensor) -> Tensor:
        """Sum over all processes."""
        return self._reduce(value, "sum")

    def mean(self, value: Tensor) -> Tensor:
        """Mean over all processes."""
        return self._reduce(value, "mean")

    def _reduce(self, value: Tensor, operation: Literal["sum", "mean"]) -> Tensor:
        if self.num_ranks == 1:
            return value
        reduced = self._fabric.all_reduce(value, reduce_op=operation)
        assert isinstance(reduced, Tensor)
        return reduced

    def gather(self, value: Tensor) -> Tensor:
        """Concatenate the tensors of all processes along the first axis, in which they may differ in length."""
        if self.num_ranks == 1:
            return value
        shares: list[Tensor | None] = [None] * self.num_ranks
        torch.distributed.all_gather_object(shares, value.cpu())
        return torch.cat([share for share in shares if share is not None]).to(value.device)

    def gather_objects(self, share: T) -> list[T]:
        """What every process has, in their order; it can be pickled."""
        if self.num_ranks == 1:
            return [share]
        shares: list[Any] = [None] * self.num_ranks
        torch.distributed.all_gather_object(shares, share)
        return shares

    def barrier(self) -> None:
        """Wait until every process is here."""
        self._fabric.barrier()

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The main process runs the block before the others, e.g. to prepare data that they then find ready. After an
        error in the main process the others run the block too, and meet the same error."""
        if not self.is_main:
            self.barrier()
        try:
            yield
        finally:
            if self.is_main:
                self.barrier()

    def on_main(self, work: Callable[[], T]) -> T:
        """Do `work` in the main process; every process returns what it gives there, which can be pickled, or raises
        UserError with the message of what it raises there."""
        if self.num_ranks == 1:
            return work()
        shared: list[Any] = [None, None]
        try:
            if self.is_main:
                shared[0] = work()
        except BaseException as error:
            shared[1] = str(error) or type(error).__name__
            raise
        finally:
            torch.distributed.broadcast_object_list(shared, src=0)
        if shared[1] is not None:
            raise UserError(shared[1])
        return shared[0]

    def describe(self) -> dict[str, str | int]:
        """The machine, as it is stored with every number that was measured on it."""
        return {
            "cpu": cpu(),
            "device": device_name(self.device),
            "precision": self.precision,
            "num_processes": self.num_ranks,
        }

    def peak_memory_bytes(self) -> int | None:
        """The most memory used so far: on the device for a GPU, by this process otherwise. An Apple GPU keeps no peak
        and says what it holds now. None on Windows, where a process is not told."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if self.device.type == "mps":
            return torch.mps.driver_allocated_memory()
        if resource is None:
            return None
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    def free_memory(self) -> None:
        """Give memory that no tensor uses back to the device, and forget its peak."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        elif self.device.type == "mps":
            torch.mps.empty_cache()

    def synchronize(self) -> None:
        """Wait until the device has done all its work, so that a clock read afterwards counts it."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)


def shard_over(applied: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Cut the weights of every transformer block, and of the rest, into a part for each process. A block's weights are
    gathered while it runs, the others for the whole pass."""
    for block in getattr(applied.model, "blocks", ()):
        fully_shard(block, mesh=mesh["data_parallel"])
    return cast(nn.Module, fully_shard(applied, mesh=mesh["data_parallel"]))


def launched_processes(environment: Mapping[str, str]) -> tuple[int, int]:
    """(processes in all, processes on this machine) that torchrun or srun started; (1, 1) for a plain command.

    Inside a SLURM job but outside srun there is one process, whatever number of tasks the job was given.
    """
    if "WORLD_SIZE" in environment:
        num_ranks = int(environment["WORLD_SIZE"])
        return num_ranks, int(environment.get("LOCAL_WORLD_SIZE", num_ranks))
    if "SLURM_STEP_ID" in environment and "SLURM_NTASKS" in environment:
        num_ranks = int(environment["SLURM_NTASKS"])
        per_node = environment.get("SLURM_STEP_TASKS_PER_NODE", str(num_ranks))  # such as 8(x2)
        return num_ranks, int(per_node.partition("(")[0].partition(",")[0])
    return 1, 1
