"""The device and the arithmetic that a network runs in, and what makes it faster there or smaller."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from inspect import signature
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from mdlm_atat.errors import UserError, is_out_of_memory

Precision = Literal["auto", "float32", "bf16"]
T = TypeVar("T")
WITHOUT_FLOAT64 = {"mps"}
NUM_COMPILED_FORMS = 256
"""As many as torch keeps of one function in all."""


def choose_device(wanted: torch.device | str | None = None) -> torch.device:
    """The device `wanted`; None chooses a GPU if there is one (NVIDIA's, else Apple's). Raises UserError where this
    machine has no such device, and where torch is told to make tensors elsewhere than on the CPU: draws are made there,
    whatever device a model is on."""
    default = torch.get_default_device()
    if default.type != "cpu":
        raise UserError(
            f"torch's default device is {default}, and models draw on the CPU: call it outside of "
            f"`with torch.device({str(default)!r})`, or after `torch.set_default_device('cpu')`, and say by `device=` "
            "where the model goes"
        )
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted is None:
        return torch.device(next(name for name, is_there in available.items() if is_there))
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise UserError(f"unknown device {wanted}; expected cpu, cuda or mps") from error
    if not available.get(device.type, False):
        raise UserError(f"device {wanted} is not available here; use `device='cpu'`")
    return device


def choose_precision(wanted: Precision, device: torch.device) -> Literal["float32", "bf16"]:
    """The precision `wanted`; auto chooses bf16 on an NVIDIA GPU that has it, and float32 elsewhere."""
    if wanted != "auto":
        return wanted
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"


def float64_device(device: torch.device | str) -> torch.device:
    """Where float64 numbers that belong to tensors on `device` are kept: there too, or on the CPU where the device has
    no float64 (Apple's mps). Times, rates, probabilities that tokens are drawn from and sums of nats are float64."""
    device = torch.device(device)
    return torch.device("cpu") if device.type in WITHOUT_FLOAT64 else device


def as_float64(tensor: Tensor) -> Tensor:
    """The tensor in float64, on its `float64_device`. Nothing is moved, and nobody waits, where it is the same."""
    return tensor.to(float64_device(tensor.device)).double()


def device_name(device: torch.device) -> str:
    """The device as stored with every number that was measured on it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return "CPU" if device.type == "cpu" else f"{platform.machine()} {device.type}"


@contextmanager
def made_in_float32() -> Iterator[None]:
    """Within the block, in this thread, weights are made in float32 whatever torch's default dtype is: the numbers that
    are drawn for them depend on it."""
    with nullcontext() if torch.get_default_dtype() == torch.float32 else _MadeInFloat32():
        yield


class _MadeInFloat32(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn) and kwargs.get("dtype") is None:
            kwargs["dtype"] = torch.float32
        return func(*args, **kwargs)


@contextmanager
def explain_out_of_memory(advice: str) -> Iterator[None]:
    """Inside the block, running out of memory raises a UserError that ends in `advice`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        where = " on the device" if isinstance(error, torch.OutOfMemoryError) else ""
        raise UserError(f"out of memory{where}; {advice}") from error


def compiled(function: Callable[..., T], *, dynamic: bool | None = None) -> Callable[..., T]:
    """`torch.compile(function)` for any number of networks in one process.

    Torch compiles a form of a function for each shape, width and mode that it meets, and after 8 of them runs what is
    new uncompiled, at about half of the speed, with a warning. Two networks use that up.
    """
    limit: dict[str, Any] = {"recompile_limit": NUM_COMPILED_FORMS}
    if "recompile_limit" not in signature(torch.compile).parameters:  # before torch 2.12 it is one for the process
        of_all = torch._dynamo.config  # pyright: ignore[reportPrivateUsage]
        of_all.recompile_limit = max(NUM_COMPILED_FORMS, of_all.recompile_limit)
        limit = {}
    return torch.compile(function, dynamic=dynamic, **limit)


def compile_network(model: Any, *, dynamic: bool | None = None) -> None:
    """Compile a network's parts in place: its transformer blocks, which share the compiled code, what follows the last
    of them, and the estimator. `dynamic` False: for one shape of input; None: a second shape compiles code for any."""
    if not hasattr(model, "blocks"):  # a network of somebody else's: as a whole
        model.hidden = compiled(model.hidden, dynamic=dynamic)
        return
    for block in model.blocks:
        block.forward = compiled(block.forward, dynamic=dynamic)
        if hasattr(block, "read_one"):
            block.read_one = compiled(block.read_one, dynamic=dynamic)
    model.finish = compiled(model.finish, dynamic=dynamic)
    if getattr(model, "estimator", None) is not None:  # small enough to be compiled in one piece
        model.estimator.forward = compiled(model.estimator.forward, dynamic=dynamic)


def recompute_blocks(model: Any) -> None:
    """Keep only the input of each transformer block for the backward pass, which computes the block again: less memory
    for a third more work (arXiv 1604.06174). Dropout draws the same again. Call this after `compile_network`."""
    if not hasattr(model, "blocks"):
        raise UserError(f"train.recompute works block by block, and {type(model).__name__} has no `blocks`")
    for block in model.blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def narrow_residual(model: Any) -> None:
    """Make the residual stream bf16, which is float32 under autocast: its traffic is a large part of a step. The sums
    of the blocks are rounded to 8 bits each; see docs/performance.md for what that does to a gradient."""
    model.embedding.register_forward_hook(lambda _module, _inputs, x: x.to(torch.bfloat16))


def record_cuda_graph(work: Callable[[], T]) -> tuple[Callable[[], None], T]:
    """Capture `work` as a CUDA graph without running it. Returns `(replay, out)`: each `replay()` runs the captured
    kernels and overwrites `out`. `work` must not wait for the device, and must have run before: first runs compile
    kernels and fill caches, which cannot be captured."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may ask the device what they like
        out = work()
    return graph.replay, out


class Replayed:
    """Work on a GPU that is done for what it writes, to tensors that stay where they are. After a few calls with inputs
    of the same shapes, so many that recording it will pay, it is captured as a CUDA graph, and replayed from then on.
    """

    NUM_WARM_UP = 16

    def __init__(self, work: Callable[..., None]) -> None:
        self._work = work
        self._num_calls: Counter[Any] = Counter()
        self._recorded: dict[Any, tuple[Callable[[], None], list[Tensor]]] = {}

    def __call__(self, *inputs: Tensor) -> None:
        shapes = tuple((part.shape, part.dtype) for part in inputs)
        self._num_calls[shapes] += 1
        if self._num_calls[shapes] <= self.NUM_WARM_UP:
            self._work(*inputs)
            return
        if shapes not in self._recorded:
            kept = [part.clone(memory_format=torch.contiguous_format) for part in inputs]
            self._recorded[shapes] = self.capture(partial(self._work, *kept)), kept
        replay, kept = self._recorded[shapes]
        for here, part in zip(kept, inputs, strict=True):
            here.copy_(part)
        replay()

    @staticmethod
    def capture(work: Callable[[], None]) -> Callable[[], None]:
        return record_cuda_graph(work)[0]


class Graphed:
    """A function of (z_t, t) whose work on a GPU is captured as a CUDA graph, once for each shape, and replayed: the
    CPU launches one graph instead of hundreds of kernels. The next call of the same shape overwrites the tensor
    returned.

    Rows are padded to a power of two, so that a batch whose rows end one after the other needs few graphs.
    """

    NUM_WARM_UP = 3

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._function = function
        self._recorded: dict[tuple[int, int], tuple[Callable[[], None], Tensor, Tensor, Tensor]] = {}

    @torch.no_grad()
    def __call__(self, z_t: Tensor, t: Tensor) -> Tensor:
        num_rows, length = z_t.shape
        padded = 1 << (num_rows - 1).bit_length()
        if (padded, length) not in self._recorded:
            self._recorded[padded, length] = self._record(z_t, t, padded)
        replay, z_in, t_in, out = self._recorded[padded, length]
        z_in[:num_rows].copy_(z_t)
        t_in[:num_rows].copy_(t)
        replay()
        return out[:num_rows]

    def _record(self, z_t: Tensor, t: Tensor, padded: int) -> tuple[Callable[[], None], Tensor, Tensor, Tensor]:
        repeats = [0] * (padded - len(z_t))
        z_in, t_in = torch.cat([z_t, z_t[repeats]]), torch.cat([t, t[repeats]])
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(self.NUM_WARM_UP):
                self._function(z_in, t_in)
        torch.cuda.current_stream().wait_stream(stream)
        replay, out = record_cuda_graph(lambda: self._function(z_in, t_in))
        return replay, z_in, t_in, out
