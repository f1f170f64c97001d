"""Asking the network of a language model: on its device, in its precision, masked or left to right."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mdlm_atat.core.denoiser import AtMaskRate, Prediction, Reader
from mdlm_atat.core.fused_loss import padded_layer
from mdlm_atat.core.left_to_right import nll_from
from mdlm_atat.data.tokenizers import Tokenizer
from mdlm_atat.device import Graphed, Precision, compile_network, float64_device
from mdlm_atat.lm.moved import Moved, MovedReader
from mdlm_atat.lm.reading import CachedSteps, LeftToRightDenoiser
from mdlm_atat.nets.protocol import Mode
from mdlm_atat.samplers.left_to_right import LeftToRight
from mdlm_atat.samplers.loop import StepRule


class Asking(ABC):
    """The part of a language model that asks its network."""

    network: Any
    tokenizer: Tokenizer
    max_length: int
    device: torch.device
    precision: Precision
    _hidden: Callable[[Tensor, Tensor], Tensor]
    """The network without its output layer, as `compile` left it."""
    _steps: CachedSteps | None
    """The network's causal mode with a key-value cache; None where it has none."""
    _keep_casts = True
    """Whether autocast keeps the weights that it has cast to bf16."""
    is_compiled = False
    """Whether `compile` was called: the first texts of each shape then take longer."""
    on_evaluation: Callable[[], None] | None = None
    """Is called before every network evaluation; what it raises ends the work that asked for it. For a server, which
    is to stop what nobody waits for any more."""

    @property
    @abstractmethod
    def modes(self) -> frozenset[Mode]:
        """How its network may be asked: masked, causal or both."""

    @abstractmethod
    def _run(self, z_t: Tensor, t: Tensor) -> Tensor:
        """The network without its output layer."""

    @abstractmethod
    def denoiser(self, rule: StepRule, *, given_ahead: bool = False) -> Callable[[Tensor, Tensor], Prediction]:
        """The network as a function of (z_t, t) that gives what `rule` needs: logits and, for some rules, reveal
        speeds. `given_ahead`: the canvas has given text after gaps. Raises UserError for a rule that the model cannot
        serve."""

    def compile(self) -> None:
        """Compile the network's blocks and, on a GPU, record its work as a graph: the first texts wait for it, the
        others are faster."""
        compile_network(self.network)
        self.is_compiled = True
        if self.device.type == "cuda":
            # a recorded graph would go on reading weights in bf16 that autocast keeps until its context ends
            self._keep_casts = False
            self._hidden = Graphed(self._hidden)
            if self._steps is not None:
                self._steps.record(self.max_length)

    @property
    def canvas_device(self) -> torch.device:
        """The device that canvases are filled on: the network's, or the CPU where the network's device has no float64,
        in which tokens are drawn."""
        return float64_device(self.device)

    def predictor(self, rule: StepRule, *, given_ahead: bool = False) -> Callable[[Tensor, Tensor], Prediction]:
        """The network for a step rule, as `denoiser` gives it, with what it takes and gives moved between the network's
        device and `canvas_device`."""
        denoise = self.denoiser(rule, given_ahead=given_ahead)
        if self.canvas_device == self.device:
            return denoise
        places = {"there": self.device, "here": self.canvas_device}
        if isinstance(denoise, AtMaskRate):
            return AtMaskRate(Moved(denoise.ask, **places))
        return MovedReader(denoise, **places) if isinstance(denoise, Reader) else Moved(denoise, **places)

    def reads_left_to_right(self, rule: StepRule, *, given_ahead: bool) -> bool:
        """Whether the rule asks the network in its causal mode: from left to right, with nothing given after a gap."""
        from_the_left = isinstance(getattr(rule, "inner", rule), LeftToRight)
        return from_the_left and "causal" in self.modes and not given_ahead

    def left_to_right_denoiser(
        self, hidden: Callable[[Tensor, Tensor], Tensor]
    ) -> Callable[[Tensor, Tensor], Prediction]:
        """The network in its causal mode. `hidden`: what its last norm gives of (z_t, t), at every position."""
        output_layer = projection(self.network, torch.bfloat16 if self.precision == "bf16" else None)

        def project(found: Tensor) -> Tensor:
            with self.inference():
                return output_layer(found)

        def whole(z_t: Tensor, t: Tensor) -> Prediction:
            found = hidden(z_t, t)
            return Prediction(lambda positions: project(gather_positions(found, positions)))

        return whole if self._steps is None else LeftToRightDenoiser(whole, self._steps, project)

    def _hidden_left_to_right(self, z_t: Tensor, t: Tensor) -> Tensor:
        """The network in its causal mode, without its output layer."""
        del t
        with self.inference():
            return self.network.hidden(self._readable(z_t))

    def _readable(self, z_t: Tensor) -> Tensor:
        """Without [MASK], which a causal network need not know: it stands only where nothing is read from."""
        return z_t.masked_fill(z_t == self.tokenizer.mask_id, 0)

    def nll_from(
        self, tokens: Int[Tensor, "batch length"], start: int, *, batch_size: int = 32
    ) -> Float[Tensor, "batch rest"]:
        """-log p(x_i | x_<i), nats, at every place from `start` on, left to right: of a network with a causal mode. On
        the CPU, in float64."""
        with self.inference():
            parts = [nll_from(self.network, part.to(self.device), start).cpu() for part in tokens.split(batch_size)]
        return torch.cat(parts).double()

    def check_wanted(self) -> None:
        """Ask `on_evaluation` whether to go on."""
        if self.on_evaluation is not None:
            self.on_evaluation()

    @contextmanager
    def inference(self) -> Iterator[None]:
        """A context in which the network computes in this model's precision, without gradients. Every evaluation
        enters one, and what `on_evaluation` raises ends it there."""
        self.check_wanted()
        arithmetic = nullcontext()
        if self.precision == "bf16":
            arithmetic = torch.autocast(self.device.type, torch.bfloat16, cache_enabled=self._keep_casts)
        with torch.no_grad(), arithmetic:
            yield


def gather_positions(hidden: Tensor, positions: Int[Tensor, "batch k"]) -> Tensor:
    """The hidden states `hidden` (B, L, D) at chosen positions: (B, K, D)."""
    return hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[-1]))


def projection(network: Any, dtype: torch.dtype | None) -> Callable[[Tensor], Tensor]:
    """The network's output layer as a function of hidden states. `dtype`: cast its weights to this once, not in every
    step, and pad the vocabulary to what matrix units take at full speed; None: as the network has them."""
    weight, bias = network.output_layer()
    if dtype is None:
        return lambda hidden: F.linear(hidden, weight, bias)
    vocab_size = len(weight)
    with torch.no_grad():
        weight, bias = padded_layer(weight, bias, dtype)
    return lambda hidden: F.linear(hidden.to(dtype), weight, bias.to(dtype))[..., :vocab_size]
