"""What masked and causal language models have in common: load, save, train."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, TypeVar, overload

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from mdlm_atat import model_folder
from mdlm_atat.atomic import folder_written_aside, write_bytes, write_json
from mdlm_atat.config.arguments import Setting
from mdlm_atat.config.build import build_schedule, own_schedule
from mdlm_atat.config.files import save_config
from mdlm_atat.config.schema import RunConfig
from mdlm_atat.core.curriculum import Stage
from mdlm_atat.core.schedules import Linear, Schedule
from mdlm_atat.core.strategies.rates import ExponentMasking
from mdlm_atat.data.counts import write_counts
from mdlm_atat.data.open_tokenizer import save_tokenizer
from mdlm_atat.data.phrases import Phrases
from mdlm_atat.data.readers.reading import Reading, reading_of
from mdlm_atat.data.readers.records import Messages, prompt_of
from mdlm_atat.data.sources import SourceLike
from mdlm_atat.data.tokenizers import Tokenizer
from mdlm_atat.device import Precision, choose_precision, device_name
from mdlm_atat.errors import UserError, call
from mdlm_atat.lm.card import without_paths, write_card
from mdlm_atat.lm.export import write_export
from mdlm_atat.lm.folder import PROFILE_FILE, STAGE_FILE
from mdlm_atat.lm.how import one_or_many
from mdlm_atat.lm.reading import CachedSteps
from mdlm_atat.lm.scoring import Scoring
from mdlm_atat.model_folder import ORIGIN_FILE
from mdlm_atat.nets.protocol import Cached, Mode
from mdlm_atat.published.hub import NoSuchModel, hub_name_of
from mdlm_atat.samplers.sizes import Profile, as_profile
from mdlm_atat.scoring.records import MaskRateProfile
from mdlm_atat.small_files import read_object, read_small, taken_apart
from mdlm_atat.training.checkpoint import Checkpoint, write_checksums
from mdlm_atat.training.folder import write_plugins
from mdlm_atat.training.metrics import OnStep
from mdlm_atat.training.packed import Packing, check_packing, write_weights

AnyLM = TypeVar("AnyLM", bound="LanguageModel")


class LanguageModel(Scoring):
    """A network with its tokenizer: from a folder by `from_pretrained`, or a network of your own by the constructor."""

    kind: ClassVar[Mode]
    """The mode in which this model asks its network; see `modes` for all that the network has."""

    def __init__(
        self,
        network: Callable[..., Any],
        tokenizer: Tokenizer,
        config: RunConfig | None = None,
        *,
        max_length: int | None = None,
        device: torch.device | str | None = None,
        precision: Precision = "auto",
    ) -> None:
        """`network` is a Backbone (see nets.protocol) or any function that gives the logits of all positions: of
        (z_t, t) for MaskedDiffusionLM, with [MASK] as token `tokenizer.mask_id`, or of x for CausalLM. A module is put
        into evaluation mode.

        `config`: the configuration it was trained by, if it was trained here; without one the noise schedule is taken
        to be linear and the masking uniform. `max_length`: the longest sequence that it takes, in tokens (default: the
        configuration's, else `network.max_length`). `device` None: where the network is. Raises UserError for a network
        that does not fit the tokenizer or the kind of model.
        """
        self._check(network, tokenizer)
        self.network, self.tokenizer, self._config = network, tokenizer, config
        length = max_length or (getattr(network, "max_length", None) if config is None else config.data.length)
        if length is None:
            raise UserError("this network does not say its longest sequence: give it, in tokens, as `max_length=...`")
        self.bos_id = None if config is None or "masked" not in self.modes else config.model.bos_id
        """The token that the network is shown before every text; None: none is. It is no token of the text."""
        if self.bos_id is not None and self.bos_id >= tokenizer.vocab_size:
            raise UserError(
                f"model.bos_id = {self.bos_id} is none of the {tokenizer.vocab_size:,} tokens of {tokenizer.name}"
            )
        self.max_length: int = length - (self.bos_id is not None)
        """The longest sequence that the network takes, in tokens; longer texts are made in blocks."""
        self._wanted_precision: Precision = precision
        if isinstance(network, nn.Module):
            network.eval()
        self.to(device_of(network) if device is None else device)
        self.home: Path | None = None
        """The run or saved folder that it was loaded from."""
        self.checkpoint: Checkpoint | None = None
        """The run's checkpoint that the weights came from; None for a folder made by save_pretrained."""
        self.counts: NDArray[np.int64] | None = None
        """How often each token occurs in the training text, where that is stored."""
        self.phrases: Phrases | None = None
        """How long phrases of the training text are, where that is stored: what `length_prior="text"` takes."""
        self.stage: Stage | None = None
        """The stage of its curriculum, if it had one, that it was last trained in."""

    def to(self: AnyLM, device: torch.device | str) -> AnyLM:
        """Move the network to a device, in place, and return this model. Graphs that `compile` recorded are dropped."""
        self.device = torch.device(device)
        if isinstance(self.network, nn.Module):
            self.network.to(self.device)
        self.precision = choose_precision(self._wanted_precision, self.device)
        self._keep_casts, self._hidden = True, self._run
        network: Any = self.network
        keys = torch.bfloat16 if self.precision == "bf16" else None
        self._steps = CachedSteps(network, self.inference, keys) if isinstance(network, Cached) else None
        return self

    @property
    def config(self) -> RunConfig:
        """The configuration that it was trained by. Raises UserError where there is none."""
        if self._config is None:
            raise UserError(
                f"this model has no configuration: it is a bare network; give one as `{type(self).__name__}(network, "
                "tokenizer, config)`"
            )
        return self._config

    def prompt_of(self, given: Messages | Mapping[str, Any]) -> str:
        """What to `generate` an answer to: messages, each with `role` and `content`, or where the model was trained on
        text by a template the values of its columns but the last, written as the training text was up to the answer.

        Raises UserError for what has another form than the training text.
        """
        return prompt_of(reading_of(self._config.data) if self._config is not None else Reading(), given)

    @property
    def modes(self) -> frozenset[Mode]:
        """How its network may be asked: masked, causal or both."""
        return modes_of(self.network, self.kind)

    @property
    def has_config(self) -> bool:
        """Whether it was trained here, and is no bare network."""
        return self._config is not None

    def __repr__(self) -> str:
        parts = [type(self.network).__name__]
        if isinstance(self.network, nn.Module):
            parts.append(f"{sum(weight.numel() for weight in self.network.parameters()):,} parameters")
        parts.append(f"{self.tokenizer.name} tokenizer of {self.tokenizer.vocab_size:,}, length {self.max_length:,}")
        parts.append(f"{self.device}, {self.precision}")
        if self.home is not None:
            parts.append(str(self.home) if self.checkpoint is None else f"{self.home} at step {self.checkpoint.step:,}")
        return f"{type(self).__name__}({'; '.join(parts)})"

    @classmethod
    def _check(cls, network: Callable[..., Any], tokenizer: Tokenizer) -> None:
        """Raise UserError for a network that cannot be asked in this mode, or is of another vocabulary."""
        modes = modes_of(network, cls.kind)
        if cls.kind not in modes:
            raise UserError(f"{type(network).__name__} is {' and '.join(modes)}, and {cls.__name__} needs {cls.kind}")
        size = getattr(network, "vocab_size", tokenizer.vocab_size)
        if size != tokenizer.vocab_size:
            raise UserError(
                f"the network has a vocabulary of {size:,} tokens, the tokenizer {tokenizer.name} one of "
                f"{tokenizer.vocab_size:,}: give the tokenizer that it was trained with"
            )

    @classmethod
    def from_pretrained(
        cls: type[AnyLM],
        folder: str | Path | None = None,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        device: torch.device | str | None = None,
        precision: Precision = "auto",
        say: Callable[[str], None] = lambda _: None,
        trust_plugins: bool = False,
    ) -> AnyLM:
        """Load a run folder (its newest sound checkpoint), one of its checkpoints, or a folder made by save_pretrained;
        a model of the hub, as OWNER/NAME or hub:OWNER/NAME; or what others have published, as a folder in the hub's
        format, a .ckpt or a .gguf. Without a folder it is the model that comes with this package.

        `revision`: a branch, a tag or a commit of the hub's model. `cache_dir`: where its files are kept (default: as
        the hub's client does). What others have published is read once, and kept in $ATAT_CACHE.

        Averaged (EMA) weights where the run kept them. `device` None: a GPU if there is one. `say` hears of damaged
        checkpoints that were passed over. `trust_plugins`: import the plugins that the folder names, which runs their
        code. Raises UserError for anything that is not such a folder, or of the other kind.
        """
        from mdlm_atat.lm.load import load_lm  # which knows the kinds there are

        name, how = hub_name_of(folder), {"revision": revision, "cache_dir": cache_dir}
        try:
            lm = load_lm(name, **how, device=device, precision=precision, say=say, trust_plugins=trust_plugins)
        except NoSuchModel as error:
            if name == folder:
                raise
            raise UserError(f"there is no folder {folder}, and on the hub: {error}") from error
        if not isinstance(lm, cls):
            raise UserError(f"{folder} holds a {lm.kind} model; load it with {type(lm).__name__}.from_pretrained")
        return lm

    def save_pretrained(self, folder: str | Path, *, weights: Packing = "float32") -> Path:
        """Write weights (safetensors), configuration (YAML), tokenizer (JSON), counts of tokens and phrases, the
        curriculum's stage and a card (README.md): all that from_pretrained needs, and what transformers needs to load
        the same weights (see docs/howto/publish.md). Returns the folder. Of a text that lies in a folder of this
        machine the configuration keeps the name alone.

        `weights`: "float32", as they are; "bf16", in half of the space; "int8", in a quarter: each matrix in whole
        numbers from -127 to 127 times a scale for each row. All are float32 again when they are loaded, so that what
        is loaded can be trained and fine-tuned as any other. Raises UserError for a folder that is not empty, and for a
        bare network, which from_pretrained could not build.
        """
        config, folder = self.config, Path(folder)
        check_packing(weights)
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise UserError(
                f"{folder} is {'not empty' if folder.is_dir() else 'a file'}; choose a new folder to save the model in"
            )
        with nullcontext(folder) if folder.exists() else folder_written_aside(folder) as aside:
            self.write_files(aside, weights)
            write_checksums(aside)
            write_export(aside, config, self.network, self.tokenizer, packing=weights)
            same = weights == "float32"
            if same and self.home is not None and self.profile_file.exists():  # no checksum: it may be measured anew
                write_bytes(aside / PROFILE_FILE, self.profile_file.read_bytes())
            if self.home is not None and (self.home / ORIGIN_FILE).is_file():
                write_bytes(aside / ORIGIN_FILE, read_small(self.home / ORIGIN_FILE))
            write_card(self, aside, name=folder.name, packing=weights)
        return folder

    def write_files(self, folder: Path, weights: Packing) -> None:
        """Write what from_pretrained needs, but for the checksums."""
        write_weights(dict(self.network.named_parameters()), folder / "model.safetensors", weights)
        save_config(without_paths(self.config), folder / "config.yaml")
        save_tokenizer(self.tokenizer, folder / "tokenizer")
        if self.counts is not None:
            write_counts(folder, self.counts)
        if self.phrases is not None:
            self.phrases.write(folder)
        if self.stage is not None:
            write_json(folder / STAGE_FILE, asdict(self.stage))
        write_plugins(folder, self.config)

    def push_to_hub(
        self,
        repository: str,
        *,
        private: bool | None = None,
        message: str | None = None,
        revision: str | None = None,
        weights: Packing | None = None,
        replace: bool = False,
    ) -> str:
        """Send this model to the hub as OWNER/NAME, as save_pretrained writes it, and return the address of the commit.

        The repository is made if it is missing, for everybody to see unless `private`. One that holds files is left
        alone unless `replace`: then what a model saved before has left there and this one has not is removed, in the
        same commit. `revision`: a branch, made if it is missing. `weights`: as in save_pretrained; None: as in the
        saved folder that it comes from, whose card is sent along, else float32. Needs a token that may write (hf auth
        login, or HF_TOKEN). Raises UserError where the hub refuses.
        """
        from mdlm_atat.lm.push import saved_for
        from mdlm_atat.published.push import push

        if weights is not None:
            check_packing(weights)
        saved = saved_for(self, repository, weights)
        return push(saved, repository, private=private, message=message, revision=revision, replace=replace)

    @overload
    def encode(  # pyright: ignore[reportOverlappingOverload]
        self, texts: str, *, layer: int | None = None, batch_size: int = 16
    ) -> Float[Tensor, " width"]: ...

    @overload
    def encode(
        self, texts: Iterable[str], *, layer: int | None = None, batch_size: int = 16
    ) -> Float[Tensor, "texts width"]: ...

    def encode(self, texts: object, *, layer: int | None = None, batch_size: int = 16) -> Float[Tensor, "*texts width"]:
        """A vector for a text, or (texts, width) for a sequence of texts: the mean of the network's states over the
        text's own tokens, float32, on the CPU.

        `layer`: the block whose states are taken, from 1; None: the last norm, which the output layer reads. A model
        that fills masks sees the whole text, with nothing masked; one that reads left to right only sees at each token
        those up to it. A text longer than the model is read in independent pieces. What a text gives does not depend on
        the others (up to the rounding of the network's arithmetic).

        This is no trained sentence embedding: nothing has brought texts of one meaning together. Vectors of any two
        texts point in like directions, and the nearest text by cosine is a weak guess: of 120 e-mails with four labels
        it had the same label for 43 in 100, by the model in the box. For labels, `finetune` a classifier.

        Raises UserError for an empty text and a layer that is not there; TypeError for a text that is no str.
        """
        from mdlm_atat.lm.embeddings import embed

        given, is_one = one_or_many(texts, "texts")
        found = embed(self, given, layer, batch_size)
        return found[0] if is_one else found

    def fit(
        self,
        data: SourceLike,
        *,
        on_step: OnStep | None = None,
        progress: bool = True,
        settings: Mapping[str, Any] | None = None,
        **keywords: Setting,
    ) -> list[dict[str, float]]:
        """Train the network in place on a text, without a run folder; return what was logged, a row a step.

        `data`: a path, a name, a prepared corpus or a list of texts (see `prepare`), read with this model's tokenizer.
        Settings are keywords as for `train`: `num_steps=2000`, `lr=3e-4`, `masking={"strategy": ...}`. The trained
        weights are those of the last step; none are averaged unless `ema_decay=` says so. `on_step(step, values)`
        hears of every step, and stops the training where it returns True. Ctrl-C keeps the weights so far. For runs
        that can be resumed, and for several processes, use `train`.
        """
        from mdlm_atat.lm.fit import fit  # which needs the trainer, as nothing else here does

        return fit(self, data, on_step=on_step, progress=progress, settings=settings, keywords=keywords)

    @property
    def device_name(self) -> str:
        return device_name(self.device)

    @property
    def has_own_schedule(self) -> bool:
        """Whether the network was trained under a masking schedule other than the uniform one, whose rates a sampler
        can follow."""
        return self.own_schedule() is not None

    def own_schedule(self) -> ExponentMasking | None:
        """The masking schedule that the network was trained under. None where that is the uniform one, or one whose
        loss is no bound."""
        if self._config is None:
            return None
        return own_schedule(self._config, self.tokenizer.vocab_size, self.counts, self.network, self.tokenizer)

    @property
    def noise_schedule(self) -> Schedule:
        """The noise schedule that the network was trained under; linear for a bare network."""
        return Linear() if self._config is None else build_schedule(self._config.objective)

    def profile(self) -> Profile | None:
        """Cost of a masked token by the share masked, as `evaluate(..., profile=True)` stored it beside the weights;
        None where it was not measured. Raises UserError for one that was measured on other weights."""
        file = self.profile_file
        if not file.exists():
            return None
        anew = f"measure it anew with {call('evaluate', model_folder.name_of(self._weights_folder), profile=True)}"
        record = read_object(file, remedy=anew)
        with taken_apart(file, remedy=anew):
            weights, profile = record["weights"], as_profile(record["profile"])
        if weights != self.fingerprint():
            raise UserError(f"{file} belongs to another model: it was measured on other weights; {anew}")
        return profile

    def save_profile(self, profile: MaskRateProfile, *, num_draws: int) -> Path:
        """Write a likelihood's `profile` beside the weights, for samplers with sizes=optimal, and return the file.
        `num_draws`: how many draws it comes from. Raises UserError where fewer than two mask rates have a standard
        error, and for a model that is in no folder."""
        known = [index for index, error in enumerate(profile.standard_error) if error > 0]  # NaN for a single draw
        if len(known) < 2:
            raise UserError(f"{num_draws} draws are too few for a profile: take more")
        kept = {name: [values[index] for index in known] for name, values in asdict(profile).items()}
        write_json(self.profile_file, {"weights": self.fingerprint(), "num_draws": num_draws, "profile": kept})
        return self.profile_file

    @property
    def profile_file(self) -> Path:
        """The file beside the weights that holds the profile, if one was stored; for a model whose folder is not the
        user's, such as the one in the box, box-profile.json in the working directory. Raises UserError for a model that
        is in no folder."""
        folder = self._weights_folder
        borrowed = model_folder.borrowed_name(folder)
        return folder / PROFILE_FILE if borrowed is None else Path(f"{borrowed}-{PROFILE_FILE}")

    @property
    def _weights_folder(self) -> Path:
        folder = self.checkpoint.folder if self.checkpoint is not None else self.home
        if folder is None:
            raise UserError("this model is in no folder yet: save it first")
        return folder

    def fingerprint(self) -> str:
        """SHA-256 of the names and values of all weights, in hexadecimal."""
        digest = hashlib.sha256()
        for name, weight in sorted(self.network.named_parameters()):
            digest.update(name.encode())
            # as bytes: numpy has no bfloat16
            digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def modes_of(network: Callable[..., Any], kind: Mode) -> frozenset[Mode]:
    """The modes in which a network says that it can be asked; `kind` alone for a plain function, which says nothing."""
    return getattr(network, "modes", frozenset({kind}))


def device_of(network: Callable[..., Any]) -> torch.device:
    """The device of a network's first parameter; the CPU for a network that has none."""
    first = next(network.parameters(), None) if isinstance(network, nn.Module) else None
    return torch.device("cpu") if first is None else first.device
