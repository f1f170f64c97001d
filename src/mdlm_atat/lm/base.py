"""What masked and causal language models have in common: load, save, score."""

from __future__ import annotations

import hashlib
import json
import shutil
from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import ClassVar, Literal, TypeVar, overload

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from mdlm_atat.atomic import write_json
from mdlm_atat.config.build import own_schedule
from mdlm_atat.config.files import save_config
from mdlm_atat.config.schema import RunConfig
from mdlm_atat.core.curriculum import Stage
from mdlm_atat.data.tokenizers import Tokenizer, save_tokenizer
from mdlm_atat.device import Precision, choose_precision, device_name
from mdlm_atat.errors import UserError
from mdlm_atat.lm.folder import PROFILE_FILE, STAGE_FILE
from mdlm_atat.lm.how import How, one_or_many
from mdlm_atat.lm.pieces import Pieces
from mdlm_atat.lm.results import Score
from mdlm_atat.lm.sampling import Sampling
from mdlm_atat.nets.causal_transformer import CausalTransformer
from mdlm_atat.nets.dit import ATATDiT
from mdlm_atat.samplers.canvas import Canvas
from mdlm_atat.samplers.loop import StepRule, sample, trait
from mdlm_atat.samplers.seeds import text_seeds
from mdlm_atat.samplers.sizes import Profile, as_profile
from mdlm_atat.scoring.draws import DrawSettings, Rows
from mdlm_atat.scoring.likelihood import Groups, Likelihood
from mdlm_atat.scoring.records import MaskRateProfile
from mdlm_atat.scoring.schedule_bound import ScheduleDraws, draw_schedule_nll
from mdlm_atat.training.checkpoint import Checkpoint, write_checksums
from mdlm_atat.training.folder import COUNTS_FILE, write_plugins

AnyLM = TypeVar("AnyLM", bound="LanguageModel")


class LanguageModel(Sampling):
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
        self._hidden: Callable[[Tensor, Tensor], Tensor] = self._run
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
        trust_plugins: bool = False,
    ) -> AnyLM:
        """Load a run folder (its newest sound checkpoint), one of its checkpoints, or a folder made by save_pretrained.

        Averaged (EMA) weights where the run kept them. `device` None: a GPU if there is one. `say` hears of damaged
        checkpoints that were passed over. `trust_plugins`: import the plugins that the folder names, which runs their
        code. Raises UserError for anything that is not such a folder, or of the other kind.
        """
        from mdlm_atat.lm.load import load_lm  # which knows the kinds there are

        lm = load_lm(folder, device=device, precision=precision, say=say, trust_plugins=trust_plugins)
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
        save_tokenizer(self.tokenizer, folder / "tokenizer")
        if self.counts is not None:
            np.save(folder / COUNTS_FILE, self.counts, allow_pickle=False)
        if self.stage is not None:
            write_json(folder / STAGE_FILE, asdict(self.stage))
        write_plugins(folder, self.config)
        write_checksums(folder)
        if self.home is not None and self.profile_file.exists():  # without a checksum: it may be measured anew
            shutil.copy(self.profile_file, folder / PROFILE_FILE)
        return folder

    @property
    def device_name(self) -> str:
        return device_name(self.device)

    @property
    def has_own_schedule(self) -> bool:
        """Whether it was trained under a masking schedule of its own, whose rates a sampler can follow."""
        return (
            own_schedule(self.config, self.tokenizer.vocab_size, self.counts, self.network, self.tokenizer) is not None
        )

    def profile(self) -> Profile | None:
        """Cost of a masked token by the share masked, as `atat eval --profile` stored it beside the weights. Raises
        UserError for one that was measured on other weights."""
        file = self.profile_file
        if not file.exists():
            return None
        record = json.loads(file.read_text(encoding="utf-8"))
        if record["weights"] != self.fingerprint():
            raise UserError(
                f"{file} belongs to another model: it was measured on other weights; measure it anew with atat eval "
                "--profile"
            )
        return as_profile(record["profile"])

    def save_profile(self, profile: MaskRateProfile, *, num_draws: int) -> Path:
        """Keep a likelihood's profile beside the weights, for samplers with sizes=optimal. Raises UserError where fewer
        than two mask rates have a standard error."""
        known = [index for index, error in enumerate(profile.standard_error) if error > 0]  # NaN for a single draw
        if len(known) < 2:
            raise UserError(f"{num_draws} draws are too few for a profile: take more")
        kept = {name: [values[index] for index in known] for name, values in asdict(profile).items()}
        write_json(self.profile_file, {"weights": self.fingerprint(), "num_draws": num_draws, "profile": kept})
        return self.profile_file

    @property
    def profile_file(self) -> Path:
        folder = self.checkpoint.folder if self.checkpoint is not None else self.home
        if folder is None:
            raise UserError("this model is in no folder yet: save it first")
        return folder / PROFILE_FILE

    def fingerprint(self) -> str:
        """Hash of the weights."""
        digest = hashlib.sha256()
        for name, weight in sorted(self.network.named_parameters()):
            digest.update(name.encode())
            digest.update(weight.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    @overload
    def score(  # pyright: ignore[reportOverlappingOverload]
        self,
        texts: str,
        *,
        order: str | StepRule = "uniform",
        num_draws: int = 128,
        seed: int = 0,
        batch_size: int = 16,
    ) -> Score: ...

    @overload
    def score(
        self,
        texts: Iterable[str],
        *,
        order: str | StepRule = "uniform",
        num_draws: int = 128,
        seed: int = 0,
        batch_size: int = 16,
    ) -> list[Score]: ...

    def score(
        self,
        texts: object,
        *,
        order: str | StepRule = "uniform",
        num_draws: int = 128,
        seed: int = 0,
        batch_size: int = 16,
    ) -> Score | list[Score]:
        """-log p of a text in nats: an unbiased estimate of an upper bound (masked), or the exact value (causal). For a
        sequence of texts, the score of each.

        `order`: the name of a sampler whose order depends on the revealed tokens alone, such as
        "uncertainty:num_steps=none". The text is then revealed in that order and the value is exact: -log of the
        probability with which that sampler generates it. `num_draws`: masks drawn for each text. A text longer than the
        model is cut into independent pieces. Raises UserError for an empty text; TypeError for one that is no str.
        """
        given, is_one = one_or_many(texts, "texts")
        scores = []
        for index, text in enumerate(given):
            tokens = self.tokenizer.encode(text)
            if not tokens:
                raise UserError(f"text {index + 1} is empty: there is nothing to score")
            rows = Pieces(tokens, self.max_length)
            if order != "uniform":
                scores.append(Score(self._nats_in_order(rows, order, batch_size), 0.0, len(tokens), 1))
                continue
            # the causal value is exact: every piece is scored, once
            draws = num_draws if self.kind == "masked" else rows.num_evaluation_rows
            found = self.likelihood(rows, DrawSettings(num_draws=draws, seed=seed))
            error = 0.0 if found.kind == "exact" else found.standard_error * len(tokens)
            scores.append(Score(found.nats_per_token * len(tokens), error, len(tokens), found.num_draws))
        return scores[0] if is_one else scores

    def _nats_in_order(self, pieces: Pieces, order: str | StepRule, batch_size: int) -> float:
        ids, lengths = pieces.evaluation_rows(np.arange(pieces.num_evaluation_rows))
        total = 0.0
        for length in np.unique(lengths):  # a piece shorter than the others is a canvas of its own
            rows = torch.from_numpy(ids[lengths == length, :length])
            for known in rows.split(batch_size):
                total += self.nll_in_order(known, order).sum().item()
        return total

    def nll_in_order(self, tokens: Int[Tensor, "batch length"], order: str | StepRule) -> Float[Tensor, " batch"]:
        """-log of the probability with which a sampler of deterministic order generates each row, nats, exactly."""
        canvas = Canvas.blank(len(tokens), tokens.shape[1], self.tokenizer.mask_id)
        rule = self.rule(How(sampler=order), canvas)
        if not trait(rule, "order_is_deterministic"):
            raise UserError(
                f"the order of {order if isinstance(order, str) else type(order).__name__} is random, so a text has no "
                'one likelihood under it; use order="uniform", or a sampler such as "uncertainty:num_steps=none"'
            )
        return self.nll_revealed_by(canvas, tokens, rule)[0]

    def nll_revealed_by(
        self,
        canvas: Canvas,
        tokens: Int[Tensor, "batch length"],
        sampler: str | StepRule,
        *,
        steps: int | None = None,
        seed: int = 0,
    ) -> tuple[Float[Tensor, " batch"], bool]:
        """Reveal known tokens by a sampler: -log of the product of the probabilities that they had, nats, and whether
        it is exact: -log of the probability that the sampler fills the canvas so. Else the order is random, and its
        expectation is an upper bound on that."""
        rule = self.rule(How(sampler=sampler, steps=steps), canvas)
        with self.inference():
            nll = sample(
                self.predictor(rule),
                canvas.to(self.canvas_device),
                rule,
                mask_id=self.tokenizer.mask_id,
                seeds=text_seeds(seed, range(len(tokens))),
                known=tokens.to(self.canvas_device),
            ).trace.nll.cpu()
        return nll, trait(rule, "order_is_deterministic")

    @abstractmethod
    def likelihood(self, rows: Rows, draws: DrawSettings, *, groups: Groups | None = None) -> Likelihood:
        """What the model pays for the rows of a data set, in nats per token, and for each group of its tokens; see
        scoring.likelihood. The device is the model's, whatever `draws` says."""

    def schedule_draws(
        self, rows: Rows, draws: DrawSettings, *, form: Literal["continuous", "order"] = "continuous"
    ) -> ScheduleDraws | None:
        """The bound under the model's own masking schedule, with its rate terms (PPL-S); None where it has none of its
        own, or one whose loss is no bound. See scoring.schedule_bound."""
        masking = own_schedule(self.config, self.tokenizer.vocab_size, self.counts, self.network, self.tokenizer)
        if masking is None:
            return None
        with self.inference():
            return draw_schedule_nll(
                self.network,
                rows,
                masking=masking,
                stage=self.stage,
                form=form,
                draws=replace(draws, device=self.device),
                mask_id=self.tokenizer.mask_id,
            )
