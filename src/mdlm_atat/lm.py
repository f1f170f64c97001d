"""The Python interface: load a trained model, generate, score, save.

>>> lm = MaskedDiffusionLM.from_pretrained("runs/demo")
>>> lm.generate(["ROMEO:"], length=200, seed=1)[0].text
>>> lm.score(["To be, or not to be"])[0].nats
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from mdlm_atat.atat.curriculum import Stage
from mdlm_atat.atat.masking.rates import ExponentMasking
from mdlm_atat.atomic import write_json
from mdlm_atat.config.build import build_masking, build_model, build_schedule, own_schedule
from mdlm_atat.config.files import load_config, save_config
from mdlm_atat.config.schema import RunConfig
from mdlm_atat.data.tokenizers import Tokenizer, load_tokenizer
from mdlm_atat.device import Precision, choose_device, choose_precision
from mdlm_atat.errors import UserError
from mdlm_atat.evaluate.inspection import DEFAULT_TIMES, Inspection, check_inspection, inspect_rows
from mdlm_atat.evaluate.likelihood import (
    Likelihood,
    OnProgress,
    Rows,
    ScheduleDraws,
    draw_nll,
    draw_schedule_nll,
    exact_nll,
)
from mdlm_atat.models.ar import CausalTransformer
from mdlm_atat.models.dit import ATATDiT
from mdlm_atat.objective import denoise_under
from mdlm_atat.samplers.ancestral import Ancestral
from mdlm_atat.samplers.canvas import Canvas
from mdlm_atat.samplers.causal import LeftToRight, as_denoiser
from mdlm_atat.samplers.draw import TokenDraw
from mdlm_atat.samplers.follow_rates import FollowRates
from mdlm_atat.samplers.loop import OnStep, StepRule, sample
from mdlm_atat.schedules import Linear
from mdlm_atat.train.checkpoint import Checkpoint, find_fault, load_weights, newest_sound, write_checksums
from mdlm_atat.train.run_folder import COUNTS_FILE, read_counts

STAGE_FILE = "stage.json"
AnyLM = TypeVar("AnyLM", bound="LanguageModel")


@dataclass(frozen=True)
class Generated:
    """One generated text and how it came about."""

    text: str
    tokens: list[int]
    seed: int
    nfe: int
    """Network evaluations."""


@dataclass(frozen=True)
class Score:
    """How likely a model finds a text. For masked diffusion `nats` estimates an upper bound on -log p(text)."""

    nats: float
    standard_error: float
    num_tokens: int
    num_draws: int

    @property
    def nats_per_token(self) -> float:
        return self.nats / self.num_tokens


class LanguageModel(ABC):
    """A network with its tokenizer and the configuration it was trained by. Use a subclass's `from_pretrained`."""

    kind: ClassVar[Literal["masked", "causal"]]

    def __init__(
        self,
        network: ATATDiT | CausalTransformer,
        tokenizer: Tokenizer,
        config: RunConfig,
        *,
        device: torch.device | str = "cpu",
        precision: Precision = "auto",
    ) -> None:
        self.device = torch.device(device)
        self.network = network.to(self.device).eval()
        self.tokenizer, self.config = tokenizer, config
        self.precision = choose_precision(precision, self.device)
        self.home: Path | None = None
        """The run or saved folder that it was loaded from."""
        self.checkpoint: Checkpoint | None = None
        """The run's checkpoint that the weights came from; None for a folder made by save_pretrained."""
        self.counts: NDArray[np.int64] | None = None
        """How often each token occurs in the training text, where that is stored."""
        self.stage: Stage | None = None
        """The stage of its curriculum, if it had one, that it was last trained in."""

    @classmethod
    def from_pretrained(
        cls: type[AnyLM],
        folder: str | Path,
        *,
        device: torch.device | str | None = None,
        precision: Precision = "auto",
        say: Callable[[str], None] = lambda _: None,
    ) -> AnyLM:
        """Load a run folder (its newest sound checkpoint), one of its checkpoints, or a folder made by save_pretrained.

        Averaged (EMA) weights where the run kept them. `device` None: a GPU if there is one. `say` hears of damaged
        checkpoints that were passed over. Raises UserError for anything that is not such a folder, or of the
        other kind.
        """
        lm = load_lm(folder, device=device, precision=precision, say=say)
        if not isinstance(lm, cls):
            raise UserError(f"{folder} holds a {lm.kind} model; load it with {type(lm).__name__}.from_pretrained")
        return lm

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write weights (safetensors), configuration (YAML), tokenizer (JSON), token counts and the curriculum's stage:
        all that from_pretrained needs."""
        folder = Path(folder)
        if folder.exists() and any(folder.iterdir()):
            raise UserError(f"{folder} is not empty; choose a new folder to save the model in")
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: p.detach().cpu().contiguous() for name, p in self.network.named_parameters()}
        save_file(weights, folder / "model.safetensors")
        save_config(self.config, folder / "config.yaml")
        self.tokenizer.save(folder / "tokenizer")
        if self.counts is not None:
            np.save(folder / COUNTS_FILE, self.counts, allow_pickle=False)
        if self.stage is not None:
            write_json(folder / STAGE_FILE, asdict(self.stage))
        write_checksums(folder)
        return folder

    @property
    def device_name(self) -> str:
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU"

    @property
    @abstractmethod
    def sampler_name(self) -> str:
        """How `generate` goes about it, as stored with samples."""

    @property
    def max_length(self) -> int:
        return self.config.data.length

    def generate(
        self,
        prompts: Sequence[str] = ("",),
        *,
        length: int | None = None,
        num_steps: int = 128,
        seed: int = 0,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        cache: bool = True,
        on_step: OnStep | None = None,
    ) -> list[Generated]:
        """One text for each prompt, which it begins with ("" for none). Row i is drawn from seed + i.

        `length`: tokens in all, prompt included (default: the model's). `num_steps`: reverse-time steps T; fewer are
        faster and worse. temperature, top_k, top_p: see TokenDraw; the defaults sample the model as it is. `cache`:
        skip the network for rows in which a step reveals nothing (same tokens). Raises UserError for a prompt longer
        than length.
        """
        length = self._checked_length(length)
        if num_steps < 1:
            raise UserError(f"num_steps is {num_steps}, expected at least 1, e.g. 128")
        canvas = Canvas.with_prefixes(
            [self.tokenizer.encode(prompt) for prompt in prompts], length, self.tokenizer.mask_id
        )
        draw = TokenDraw(temperature, top_k, top_p)
        seeds = [seed + row for row in range(len(prompts))]
        rule, denoise = self._sampler(length, num_steps, draw, cache)
        with self._inference():
            result = sample(
                denoise, canvas.to(self.device), rule, mask_id=self.tokenizer.mask_id, seeds=seeds, on_step=on_step
            )
        rows, nfe = result.tokens.tolist(), result.trace.nfe.tolist()
        return [
            Generated(self.tokenizer.decode(row), row, row_seed, row_nfe)
            for row, row_seed, row_nfe in zip(rows, seeds, nfe, strict=True)
        ]

    def score(self, texts: Sequence[str], *, num_draws: int = 128, seed: int = 0) -> list[Score]:
        """-log p of each text in nats: an unbiased estimate of its upper bound (masked), or its exact value (causal).

        A text longer than the model's length is cut into independent pieces. Raises UserError for an empty text.
        """
        scores = []
        for index, text in enumerate(texts):
            tokens = self.tokenizer.encode(text)
            if not tokens:
                raise UserError(f"text {index + 1} is empty: there is nothing to score")
            rows = Pieces(tokens, self.max_length)
            # the causal value is exact: every piece is scored, once
            draws = num_draws if self.kind == "masked" else rows.num_evaluation_rows
            found = self.likelihood(rows, num_draws=draws, seed=seed)
            error = 0.0 if found.kind == "exact" else found.standard_error * len(tokens)
            scores.append(Score(found.nats_per_token * len(tokens), error, len(tokens), found.num_draws))
        return scores

    @abstractmethod
    def likelihood(
        self,
        rows: Rows,
        *,
        num_draws: int,
        seed: int = 0,
        batch_size: int = 64,
        on_progress: OnProgress | None = None,
    ) -> Likelihood:
        """What the model pays for the rows of a data set, in nats per token; see evaluate.likelihood."""

    def schedule_draws(
        self,
        rows: Rows,
        *,
        num_draws: int,
        seed: int = 0,
        batch_size: int = 64,
        form: Literal["continuous", "order"] = "continuous",
        on_progress: OnProgress | None = None,
    ) -> ScheduleDraws | None:
        """The bound under the model's own masking schedule, with its rate terms (PPL-S); None where it has none of its
        own, or one whose loss is no bound. See evaluate.likelihood.draw_schedule_nll."""
        masking = own_schedule(self.config, self.tokenizer.vocab_size, self.counts, self.network)
        if masking is None:
            return None
        with self._inference():
            return draw_schedule_nll(
                self.network,
                rows,
                masking=masking,
                stage=self.stage,
                form=form,
                num_draws=num_draws,
                mask_id=self.tokenizer.mask_id,
                batch_size=batch_size,
                seed=seed,
                device=self.device,
                on_progress=on_progress,
            )

    @abstractmethod
    def _sampler(
        self, length: int, num_steps: int, draw: TokenDraw, cache: bool
    ) -> tuple[StepRule, Callable[..., Any]]: ...

    def _checked_length(self, length: int | None) -> int:
        if length is None:
            return self.max_length
        if not 1 <= length <= self.max_length:
            raise UserError(
                f"length is {length}, expected from 1 to {self.max_length}, the length this model was trained at"
            )
        return length

    def _inference(self) -> AbstractContextManager[Any]:
        if self.precision == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()


class MaskedDiffusionLM(LanguageModel):
    """A masked diffusion language model: `generate` unmasks by ancestral sampling, at the rates of the model's own
    masking schedule where it has one; `score` estimates the bound under the uniform schedule."""

    kind = "masked"
    network: ATATDiT

    @property
    def sampler_name(self) -> str:
        own = own_schedule(self.config, self.tokenizer.vocab_size, self.counts, self.network)
        return "ancestral" if own is None else "ancestral at its own rates"

    def likelihood(
        self,
        rows: Rows,
        *,
        num_draws: int,
        seed: int = 0,
        batch_size: int = 64,
        on_progress: OnProgress | None = None,
    ) -> Likelihood:
        with self._inference():
            draws = draw_nll(
                self.network,
                rows,
                num_draws=num_draws,
                mask_id=self.tokenizer.mask_id,
                batch_size=batch_size,
                seed=seed,
                device=self.device,
                on_progress=on_progress,
            )
        return draws.likelihood()

    def inspect(
        self,
        text: str,
        *,
        times: Sequence[float] = DEFAULT_TIMES,
        num_draws: int = 4,
        seed: int = 0,
        batch_size: int = 64,
        on_progress: OnProgress | None = None,
    ) -> Inspection:
        """Every token's importance, and what it costs when it is masked at each of `times`.

        A text longer than the model's length is cut into independent pieces. Raises UserError for an empty text, for
        times outside (0, 1] and for a model without importance.
        """
        check_inspection(times, num_draws)
        tokens = self.tokenizer.encode(text)
        if not tokens:
            raise UserError("the text is empty: there is nothing to inspect")
        pieces = Pieces(tokens, self.max_length)
        ids, lengths = pieces.evaluation_rows(np.arange(pieces.num_evaluation_rows))
        return self.inspect_rows(
            ids,
            lengths,
            times=times,
            num_draws=num_draws,
            seed=seed,
            batch_size=batch_size,
            on_progress=on_progress,
        )

    def inspect_rows(
        self,
        ids: NDArray[np.int64],
        lengths: NDArray[np.int64],
        *,
        times: Sequence[float] = DEFAULT_TIMES,
        num_draws: int = 4,
        seed: int = 0,
        batch_size: int = 64,
        on_progress: OnProgress | None = None,
    ) -> Inspection:
        """The same of rows of tokens, padded beyond their lengths; see evaluate.inspection."""
        if self.config.importance.mode == "none":
            raise UserError(
                "this model knows no importance (importance.mode is none); train one with atat train ... --method atat"
            )
        masking = build_masking(self.config, Linear(), self.tokenizer.vocab_size, self.counts, self.network)
        with self._inference():
            return inspect_rows(
                self.network,
                ids,
                lengths,
                masking=masking,
                stage=self.stage,
                times=times,
                num_draws=num_draws,
                mask_id=self.tokenizer.mask_id,
                batch_size=batch_size,
                seed=seed,
                device=self.device,
                on_progress=on_progress,
            )

    def _sampler(
        self, length: int, num_steps: int, draw: TokenDraw, cache: bool
    ) -> tuple[StepRule, Callable[..., Any]]:
        del length
        masking = own_schedule(self.config, self.tokenizer.vocab_size, self.counts, self.network)
        if masking is None:
            return Ancestral(build_schedule(self.config.objective), num_steps, draw, cache=cache), self.network

        def predict(z_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            return predict_under(masking, self.network, z_t, t, self.stage)

        return FollowRates(num_steps, draw), predict


class CausalLM(LanguageModel):
    """The causal baseline: `generate` goes left to right, a token a step, and `score` is exact."""

    kind = "causal"
    network: CausalTransformer

    @property
    def sampler_name(self) -> str:
        return "left to right"

    def likelihood(
        self,
        rows: Rows,
        *,
        num_draws: int,
        seed: int = 0,
        batch_size: int = 64,
        on_progress: OnProgress | None = None,
    ) -> Likelihood:
        with self._inference():
            return exact_nll(
                self.network,
                rows,
                num_draws=num_draws,
                batch_size=batch_size,
                seed=seed,
                device=self.device,
                on_progress=on_progress,
            )

    def _sampler(
        self, length: int, num_steps: int, draw: TokenDraw, cache: bool
    ) -> tuple[StepRule, Callable[..., Any]]:
        del num_steps, cache
        return LeftToRight(length, draw), as_denoiser(self.network)


def load_lm(
    folder: str | Path,
    *,
    device: torch.device | str | None = None,
    precision: Precision = "auto",
    say: Callable[[str], None] = lambda _: None,
) -> MaskedDiffusionLM | CausalLM:
    """The model in a folder, of whichever kind it is; see LanguageModel.from_pretrained."""
    found = locate(Path(folder), say)
    config = load_config(str(found.home / "config.yaml"))
    tokenizer = load_tokenizer(str(found.home / "tokenizer"))
    counts = read_counts(found.home)
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are overwritten at once
        network = build_model(config, tokenizer.vocab_size, counts)
    if found.checkpoint is not None:
        found.checkpoint.load_weights(network, average=True)
    else:
        load_weights(network, found.home / "model.safetensors")
    kind = MaskedDiffusionLM if config.model.kind == "masked" else CausalLM
    lm = kind(network, tokenizer, config, device=choose_device(device), precision=precision)
    lm.home, lm.checkpoint = found.home, found.checkpoint
    lm.counts, lm.stage = counts, read_stage(found)
    return lm


def predict_under(
    masking: ExponentMasking, network: ATATDiT, z_t: Tensor, r: Tensor, stage: Stage | None
) -> tuple[Tensor, Tensor]:
    """Logits (B, L, V) and speeds (B, L) of the reverse process of a masking schedule at mask rate r."""
    logits, log_speed = denoise_under(masking, network, z_t, r.double(), r, None, stage)
    if log_speed is None:  # known: it reads nothing hidden
        return logits, masking(r.double(), None, torch.ones_like(z_t, dtype=torch.bool), stage).speed
    return logits, log_speed.exp()


@dataclass(frozen=True)
class Located:
    """Where a model is: a run with the checkpoint to use, or a folder made by save_pretrained."""

    home: Path
    checkpoint: Checkpoint | None


def locate(folder: Path, say: Callable[[str], None]) -> Located:
    """Find a model in a run folder, a checkpoint (also the links `best` and `last`) or a saved folder."""
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; expected a run such as runs/demo, or a checkpoint of one")
    real = folder.resolve()
    if real.name.startswith("step-") and real.parent.name == "checkpoints":
        home, checkpoint = real.parent.parent, Checkpoint(real)
        fault = checkpoint.fault()
        if fault is not None:
            raise UserError(f"checkpoint {folder} is damaged: {fault}; name the run {home} to use another one")
    elif (folder / "model.safetensors").exists():
        home, checkpoint = folder, None
        fault = find_fault(folder, {"model.safetensors", "config.yaml"})
        if fault is not None:
            raise UserError(f"the saved model {folder} is damaged: {fault}; save it again or restore it from a copy")
    elif (folder / "config.yaml").exists():
        home, checkpoint = folder, newest_sound(folder / "checkpoints", say)
        if checkpoint is None:
            raise UserError(f"{folder} holds no checkpoint yet; go on with: atat train --resume {folder}")
    else:
        raise UserError(
            f"{folder} is neither a run folder (no config.yaml), nor one of its checkpoints, nor a saved model"
        )
    if not (home / "tokenizer").is_dir():
        raise UserError(f"{home} has lost its folder tokenizer; restore it from a copy")
    return Located(home, checkpoint)


def read_stage(found: Located) -> Stage | None:
    """The curriculum's stage as the checkpoint or the saved model holds it."""
    if found.checkpoint is not None:
        stored = found.checkpoint.state().get("stage")
    elif (found.home / STAGE_FILE).exists():
        stored = json.loads((found.home / STAGE_FILE).read_text())
    else:
        stored = None
    return None if stored is None else Stage.from_json(stored)


class Pieces:
    """One text as rows for scoring: pieces of at most `length` tokens."""

    def __init__(self, tokens: Sequence[int], length: int) -> None:
        self.width = min(length, len(tokens))
        self._tokens = np.asarray(tokens, dtype=np.int64)
        self.num_evaluation_rows = -(-len(tokens) // self.width)

    def evaluation_rows(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        ids = np.zeros((len(indices), self.width), dtype=np.int64)
        lengths = np.zeros(len(indices), dtype=np.int64)
        for row, index in enumerate(indices):
            piece = self._tokens[index * self.width : (index + 1) * self.width]
            ids[row, : len(piece)], lengths[row] = piece, len(piece)
        return ids, lengths
