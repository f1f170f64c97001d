"""Every setting of a run, with its unit, ATAT's in `config.atat_schema`: frozen dataclasses that never touch torch.

A preset (YAML), the command line's dotted flags and the `config.yaml` of a run folder all describe a
`RunConfig`. `config.files` reads and writes it; `config.build` is the one place that turns it into objects.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from mdlm_atat import plugins
from mdlm_atat.checks import at_least, probability, within
from mdlm_atat.config.atat_schema import CurriculumConfig, ImportanceConfig, MaskingConfig
from mdlm_atat.config.low_rank_schema import LoraConfig
from mdlm_atat.config.section import PLUGIN, Section, setting
from mdlm_atat.data import places
from mdlm_atat.data.plugged import plugin_of
from mdlm_atat.data.settings import DataSettings
from mdlm_atat.effect import BELOW_1, When
from mdlm_atat.errors import UserError


@dataclass(frozen=True, kw_only=True)
class DataConfig(Section, DataSettings):
    NAME = "data"

    source: str = setting("shakespeare", resume="place", same="text", short="data")
    """`shakespeare` (built in), a file of text (plain text of any ending, HTML, mails, tables, JSON, Parquet, books,
    also packed) or a folder of them, a folder made by `atat data prepare`, a hub data set by short name (wikitext-2,
    lm1b, ...) or as hub:OWNER/NAME, or a plugin as package.module:Name."""
    tokenizer: str = setting("char", resume="place", same="text", short="tokenizer")
    """`char`, `byte`, `gpt2`, `bert-base-uncased`, a folder with tokenizer.json, vocab.bpe + encoder.json or
    vocab.txt, or a plugin as package.module:Name."""
    length: int = setting(256, same="text")
    """Tokens in one training sequence; the model's maximum length."""
    validation: str | None = setting(None, resume="place", same="text", of_text=True, when=places.NOT_PREPARED)
    """Validation text: like source, or a split's name for a hub data set. None: what comes with the source, else cut
    from it."""

    def check(self) -> None:
        self.check_values("data.")


SHAPE = ("num_layers", "width", "num_heads", "mlp_ratio", "norm", "qk_norm", "dropout", "tied")
"""Settings of `model` that every backbone is offered."""
LAYOUT = (
    "num_kv_heads",
    "head_width",
    "qkv_bias",
    "mlp",
    "mlp_width",
    "norm_eps",
    "rotary_base",
    "rotary_scaling",
    "rotary_factor",
    "rotary_range",
    "rotary_length",
)
"""Settings of `model` that make a `nets.layers.Layout`."""
OURS: When = {"model.kind": ("masked", "causal")}
SCALED: When = {**OURS, "model.rotary_scaling": ("linear", "llama3")}
SCALED_BY_WAVES: When = {**OURS, "model.rotary_scaling": "llama3"}


MASKED: When = {"model.kind": ("masked", PLUGIN)}
MOST_OF_MODEL = {
    "num_layers": 10_000,
    "width": 1 << 20,
    "num_heads": 1 << 20,
    "num_kv_heads": 1 << 20,
    "head_width": 1 << 20,
    "mlp_ratio": 1024,
    "mlp_width": 1 << 24,
    "rotary_length": 1 << 40,
    "time_width": 1 << 20,
    "extra_outputs": 1 << 20,
}
"""The largest values that are taken, far beyond any network: what is larger is a slip, or a stranger's."""
MOST_ROWS = 1 << 30
MOST_STEPS = 10**12
MOST_DRAWS = 1 << 24
MOST_SEED = (1 << 64) - 1  # torch's


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Section):
    NAME = "model"

    kind: str = setting("masked", plugin="backbone", short="backbone")
    """`masked`: the bidirectional diffusion denoiser ATATDiT, which reads left to right too where
    objective.causal_share is above 0; `causal`: the left-to-right baseline of the same blocks; or a plugin, as
    package.module:Name."""
    options: dict[str, Any] = setting({}, options_of="kind", num_given=2, offered=SHAPE)
    """Settings of a plugin's own, by name."""
    num_layers: int = 6
    """Transformer blocks."""
    width: int = 384
    """Width of the residual stream."""
    num_heads: int = 6
    """Attention heads; must divide width."""
    mlp_ratio: int = 4
    """Hidden width of the MLP over width."""
    norm: Literal["layer", "rms"] = "layer"
    """LayerNorm or RMSNorm, both with a scale and no bias."""
    qk_norm: bool = False
    """Normalise queries and keys per head (RMS) before attention."""
    dropout: float = 0.0
    """Dropout probability after attention and after the MLP, in training."""
    time_conditioning: bool = False
    """Tell the denoiser t (sinusoidal embedding, adaLN). A scalar schedule's optimal denoiser does not need it."""
    time_through: Literal["adaln", "embedding"] = setting("adaln", when={"model.time_conditioning": True})
    """How a time-conditioned denoiser is told t: adaLN in every block, or added to the embeddings (few weights)."""
    time_width: int = setting(128, when={"model.time_conditioning": True, "model.time_through": "adaln"})
    """Width of the adaLN conditioning vector."""
    time_features: Literal["t", "sigma"] = setting("t", when={"model.time_conditioning": True})
    """What a time-conditioned denoiser is told features of: 1000 t, or sigma = -log(1 - 0.999 t), the total noise of
    the log-linear schedule, as published networks of MDLM's family are."""
    tied: bool = True
    """One matrix for the token embeddings and the output layer."""
    extra_outputs: int = setting(0, when={"model.kind": "masked", "model.tied": False})
    """Output rows beyond the vocabulary, cut off unread; MDLM's published weights have 1, for [MASK]."""
    alignment: Literal["own", "shifted"] = "own"
    """Which place of a masked text predicts a token: its own, or the one before it (shifted), as in a causal network:
    what a network that was pretrained left to right already does."""
    num_kv_heads: int | None = setting(None, when=OURS)
    """Heads of keys and values, each for several heads of queries (grouped queries): less to keep in memory where a
    text is read left to right; must divide num_heads. None: num_heads."""
    head_width: int | None = setting(None, when=OURS)
    """Width of an attention head. None: width / num_heads."""
    qkv_bias: bool = setting(False, when=OURS)
    """Biases in the layers of queries, keys and values."""
    mlp: Literal["gelu", "swiglu"] = setting("gelu", when=OURS)
    """The MLP: gelu, two layers with biases; or swiglu, two of which one gates the other, and a third, without
    biases, as Llama has it: half as many weights again at the same hidden width."""
    mlp_width: int | None = setting(None, when=OURS)
    """Hidden width of the MLP. None: mlp_ratio * width."""
    norm_eps: float = setting(1e-5, when=OURS)
    """Added to the variance or mean square in every norm."""
    rotary_base: float = setting(10_000.0, when=OURS)
    """Base of the rotary positions' wave lengths: the longest is about 2 pi times it, in tokens."""
    rotary_scaling: Literal["none", "linear", "llama3"] = setting("none", when=OURS)
    """Slow down the rotary positions of a network for longer texts than it was trained on: linear, all of them; llama3,
    the long waves alone."""
    rotary_factor: float = setting(8.0, when=SCALED)
    """How many times as slow."""
    rotary_range: tuple[float, float] = setting((1.0, 4.0), when=SCALED_BY_WAVES)
    """llama3 only: a wave that goes fewer than the first number of times into rotary_length tokens is slowed down in
    full, one that goes more than the second number of times is not."""
    rotary_length: int = setting(8192, when=SCALED_BY_WAVES)
    """llama3 only: tokens of the texts that the network was trained on at first."""
    bos_id: int | None = setting(None, when=MASKED)
    """Token that is shown to the network before every text that it writes, fills or scores, as it stood at the
    beginning of every row that it was trained on: set for models that others have published. None: none is."""

    def check(self) -> None:
        if self.bos_id is not None:
            within("model.bos_id", self.bos_id, 0, MOST_ROWS)
        for name, highest in MOST_OF_MODEL.items():
            if getattr(self, name) is not None:
                within(f"model.{name}", getattr(self, name), 0 if name == "extra_outputs" else 1, highest)
        if self.head_width is not None and self.head_width % 2:
            raise UserError(
                f"model.head_width is {self.head_width}, and rotary positions turn pairs of numbers: expected an even "
                f"one; try `model.head_width={self.head_width + 1}`"
            )
        if self.head_width is None and (self.width % self.num_heads or (self.width // self.num_heads) % 2):
            raise UserError(
                f"model.width = {self.width} cannot be split over model.num_heads = {self.num_heads} heads of even "
                f"width; try `model.width={max(1, self.width // (2 * self.num_heads)) * 2 * self.num_heads}`"
            )
        if self.num_kv_heads is not None and self.num_heads % self.num_kv_heads:
            fits = next(n for n in range(min(self.num_kv_heads, self.num_heads), 0, -1) if self.num_heads % n == 0)
            raise UserError(
                f"model.num_heads = {self.num_heads} heads of queries cannot share model.num_kv_heads = "
                f"{self.num_kv_heads} heads of keys and values equally; try `model.num_kv_heads={fits}`"
            )
        for name in ("norm_eps", "rotary_base", "rotary_factor"):
            if getattr(self, name) <= 0:
                raise UserError(f"model.{name} is {getattr(self, name):g}, expected above 0")
        low, high = self.rotary_range
        if not 0 < low < high:
            raise UserError(f"model.rotary_range is {low:g} {high:g}, expected 0 < low < high, e.g. 1 4")
        if not 0 <= self.dropout < 1:
            raise UserError(f"model.dropout is {self.dropout}, expected from 0 to below 1, e.g. 0.1")


MASKS: When = {"model.kind": ("masked", PLUGIN), "objective.causal_share": BELOW_1}
STAGES = ("fixed", "dynamic")
DRAWN_FROM_BETA = (
    {**MASKS, "objective.time_sampling": "beta", "curriculum.kind": "none"},
    {**MASKS, "curriculum.kind": STAGES, "curriculum.time_sampling": "beta"},
)
CLIPPED = (
    {**MASKS, "objective.weighting": "clipped", "curriculum.kind": "none"},
    {**MASKS, "curriculum.kind": STAGES, "curriculum.weighting": "clipped"},
)


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig(Section):
    NAME = "objective"

    schedule: str = setting("linear", plugin="schedule", short="schedule", when=MASKS)
    """Noise schedule: linear, cosine, geometric, polynomial, or a plugin: how the mask rate rises with t. It changes
    the bound's variance, not its value."""
    schedule_options: dict[str, Any] = setting({}, options_of="schedule")
    """Settings of a plugin's schedule, by name."""
    exponent: float = setting(2.0, when={**MASKS, "objective.schedule": "polynomial"})
    """polynomial only: mask_rate(t) = t ** exponent."""
    time_sampling: str = setting("uniform", plugin="times", when={**MASKS, "curriculum.kind": "none"})
    """Density that training draws t from: uniform, beta, window, or a plugin."""
    time_options: dict[str, Any] = setting({}, options_of="time_sampling")
    """Settings of a plugin's density, by name."""
    beta: tuple[float, float] = setting((3.0, 3.0), when=DRAWN_FROM_BETA)
    """beta only: the two shape parameters."""
    uniform_share: float = setting(0.05, when=DRAWN_FROM_BETA)
    """beta only: share of draws that stay uniform, so that generation's first and last steps are trained too."""
    window: tuple[float, float] = setting(
        (0.3, 0.7), when={**MASKS, "objective.time_sampling": "window", "curriculum.kind": "none"}
    )
    """window only: lowest and highest t."""
    weighting: Literal["elbo", "flat", "clipped"] = setting("elbo", when={**MASKS, "curriculum.kind": "none"})
    """Weight of the loss at t: elbo is the bound's own (1/t for linear), flat is 1, clipped is elbo up to 1 / clip."""
    clip: float = setting(0.1, when=CLIPPED)
    """clipped only: 1 / the largest weight; with the linear schedule the t below which it stops growing."""
    causal_share: float = setting(0.0, short="causal_share")
    """Share of the rows of every batch that are read left to right, with an exact likelihood, in place of being masked:
    0 is masked diffusion, 1 a causal model, and between them one network learns both. (model.kind causal reads all.)"""

    def check(self) -> None:
        if self.exponent <= 0:
            raise UserError(f"objective.exponent is {self.exponent}, expected above 0")
        if min(self.beta) <= 0:
            raise UserError(f"objective.beta is {self.beta}, expected two numbers above 0, e.g. 3 3")
        probability("objective.uniform_share", self.uniform_share)
        low, high = self.window
        if not 0 <= low < high <= 1:
            raise UserError(f"objective.window is {low} {high}, expected 0 <= low < high <= 1")
        if not 0 < self.clip <= 1:
            raise UserError(f"objective.clip is {self.clip}, expected above 0 and at most 1")
        probability("objective.causal_share", self.causal_share)


@dataclass(frozen=True, kw_only=True)
class OptimConfig(Section):
    NAME = "optim"

    kind: str = setting("adamw", plugin="optimizer", short="optimizer")
    """What takes the steps: adamw; muon, which orthogonalises the steps of the blocks' matrices and leaves the rest to
    AdamW; or a plugin, as package.module:Name."""
    options: dict[str, Any] = setting({}, options_of="kind", num_given=1, offered=("lr", "betas", "weight_decay"))
    """Settings of a plugin's own, by name."""
    lr: float = 1e-3
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW's decay of the first and second moment."""
    momentum: float = setting(0.95, when={"optim.kind": "muon"})
    """muon only: decay of the blocks' momentum (Nesterov's)."""
    embedding_lr_ratio: float = setting(0.5, when={"optim.kind": "muon"})
    """muon only: the embedding's learning rate, AdamW's, over optim.lr; also of an output layer tied to it."""
    output_lr_ratio: float = setting(0.5, when={"optim.kind": "muon", "model.tied": False})
    """muon only: the output layer's learning rate, AdamW's, over optim.lr."""
    rest_lr_ratio: float = setting(0.5, when={"optim.kind": "muon"})
    """muon only: the learning rate, AdamW's, over optim.lr, of norms, biases, vectors, adaLN, and all else outside of
    the blocks."""
    weight_decay: float = 0.01
    """Decoupled weight decay, on matrices only (not on norms, biases and embeddings)."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises linearly from 0; half of all steps where these are fewer than twice as
    many."""
    decay: Literal["cosine", "constant", "wsd"] = "cosine"
    """After warm-up: cosine to the final rate, constant, or constant with a linear cool-down at the end (WSD)."""
    cooldown_fraction: float = setting(0.2, when={"optim.decay": "wsd"})
    """wsd only: share of all steps that the final cool-down takes."""
    final_lr_ratio: float = setting(0.1, when={"optim.decay": ("cosine", "wsd")})
    """Learning rate at the last step over the peak (cosine and wsd)."""
    grad_clip: float = 1.0
    """Largest gradient norm; longer gradients are scaled down to it. 0: no clipping."""

    def check(self) -> None:
        if self.lr <= 0:
            raise UserError(f"optim.lr is {self.lr}, expected above 0, e.g. 1e-3")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"optim.betas is {self.betas}, expected two numbers from 0 to below 1, e.g. 0.9 0.98")
        if not 0 <= self.momentum < 1:
            raise UserError(f"optim.momentum is {self.momentum}, expected from 0 to below 1, e.g. 0.95")
        ratios = ("embedding_lr_ratio", "output_lr_ratio", "rest_lr_ratio")
        for name in ("warmup_steps", "weight_decay", "grad_clip", *ratios):
            at_least(f"optim.{name}", getattr(self, name), 0)
        probability("optim.cooldown_fraction", self.cooldown_fraction)
        probability("optim.final_lr_ratio", self.final_lr_ratio)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Section):
    NAME = "train"

    num_steps: int = setting(1000, resume="rounded")
    """Optimizer steps."""
    batch_size: int = setting(64, short="batch_size")
    """Sequences in one optimizer step, over all processes and micro-batches."""
    num_micro_batches: int | Literal["auto"] = setting(1, resume="rounded")
    """Gradient accumulation: parts into which each process cuts its share of a batch. auto: as few as fit in memory,
    found out by trying; the batch stays as it is, and a resumed run keeps the number."""
    precision: Literal["auto", "float32", "bf16"] = setting("auto", resume="rounded")
    """Arithmetic of the network; auto is bf16 on a GPU that has it and float32 elsewhere. Weights stay float32."""
    compile: bool = setting(False, resume="rounded")
    """Compile the transformer blocks (torch.compile): faster steps on a GPU, after a minute."""
    cuda_graph: bool = setting(True, resume="rounded")
    """Record a step's forward and backward pass on a GPU as a CUDA graph and replay it: the same numbers, and small
    networks, which wait for the CPU otherwise, train several times as fast. Not with recompute or shard, and on a CPU
    it changes nothing."""
    fused_loss: bool = setting(True, resume="rounded")
    """Take the output layer and its cross-entropy together, at the scored positions only: the same loss in less time
    and memory. false: all logits, the plain way."""
    recompute: bool = setting(False, resume="measured")
    """Keep only the blocks' inputs for the backward pass and compute the rest again: a model or batch that does not fit
    otherwise, for about a third more time a step."""
    residual: Literal["float32", "bf16"] = setting(
        "float32", resume="rounded", when={"train.precision": ("auto", "bf16")}
    )
    """Residual stream in training with precision bf16: float32 as autocast has it, or bf16: faster, and gradients
    rounded more."""
    shard: bool = setting(False, resume="rounded")
    """Several processes: each keeps a part of weights, gradients and moments (FSDP2) instead of all of them (DDP)."""
    deterministic: bool = setting(True, resume="rounded")
    """Repeat a run bit for bit on a GPU too, by its slower deterministic kernels; on a CPU it is so anyway."""
    on_nan: Literal["stop", "rewind"] = setting("stop", resume="free")
    """Where a loss, gradient or weight is no finite number: stop with an error, or rewind: go back to the last
    checkpoint, and on from there with another data order."""
    max_rewinds: int = setting(3, resume="free", when={"train.on_nan": "rewind"})
    """rewind only: at most so many in a run; one more is an error."""
    seed: int = 0
    """Seed of initial weights, data order, times, masks and dropout."""
    ema_decay: float = 0.999
    """Decay of the weights' exponential moving average, which evaluation and generation use. 0: no average."""
    log_interval_steps: int = setting(10, resume="free")
    """Steps between two lines of metrics.jsonl."""
    eval_interval_steps: int = setting(500, resume="measured")
    """Steps between two evaluations on the validation split."""
    checkpoint_interval_steps: int = setting(500, resume="free")
    """Steps between two checkpoints; the newest two and the best are kept."""
    keep_interval_steps: int = setting(0, resume="free")
    """Checkpoints at multiples of this many steps are kept for good. 0: none."""
    whole_checkpoint_gib: float = setting(16.0, resume="free", when={"train.shard": True})
    """With shard: the largest checkpoint, in GiB of weights, average and moments, that one process gathers and writes.
    Of a larger one every process writes its part, on one file system; any number of processes reads either."""
    max_minutes: float = setting(0.0, resume="measured")
    """Stop with a checkpoint after this many minutes. 0: no limit."""
    loggers: tuple[Literal["tensorboard", "wandb"], ...] = setting((), resume="free")
    """Also log to these, under the names in metrics.jsonl."""

    def check(self) -> None:
        for name in ("num_steps", "log_interval_steps", "eval_interval_steps", "checkpoint_interval_steps"):
            within(f"train.{name}", getattr(self, name), 1, MOST_STEPS)
        within("train.batch_size", self.batch_size, 1, MOST_ROWS)
        within("train.seed", self.seed, 0, MOST_SEED)
        for name in ("keep_interval_steps", "whole_checkpoint_gib", "max_minutes", "max_rewinds"):
            at_least(f"train.{name}", getattr(self, name), 0)
        within("train.num_micro_batches", self.least_micro_batches, 1, MOST_ROWS)
        if self.batch_size % self.least_micro_batches:
            raise UserError(
                f"train.batch_size = {self.batch_size} cannot be cut into train.num_micro_batches = "
                f"{self.num_micro_batches} equal parts; try `train.batch_size="
                f"{max(1, self.batch_size // self.least_micro_batches) * self.least_micro_batches}`"
            )
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"train.ema_decay is {self.ema_decay}, expected from 0 to below 1, e.g. 0.999")

    @property
    def least_micro_batches(self) -> int:
        """`num_micro_batches`; 1 where it is yet to be found out."""
        return 1 if self.num_micro_batches == "auto" else self.num_micro_batches


@dataclass(frozen=True, kw_only=True)
class EvalConfig(Section):
    NAME = "eval"

    num_draws: int = setting(2048, resume="measured", same="draws")
    """Masked sequences drawn for one estimate of the bound during training; the same for every run and step."""
    final_num_draws: int = setting(4096, resume="measured", same="draws")
    """Masked sequences drawn for the estimate at the end of training and by `atat eval`."""
    batch_size: int = setting(64, resume="free")
    """Sequences in one call of the network."""
    num_samples: int = setting(3, resume="free")
    """Texts generated for the report at the end of training."""
    sample_steps: int = setting(128, resume="free")
    """Reverse-time steps of those texts."""

    def check(self) -> None:
        for name in ("num_draws", "final_num_draws"):
            within(f"eval.{name}", getattr(self, name), 32, MOST_DRAWS)  # two blocks of 16, for a standard error
        for name in ("batch_size", "sample_steps"):
            within(f"eval.{name}", getattr(self, name), 1, MOST_DRAWS)
        within("eval.num_samples", self.num_samples, 0, MOST_DRAWS)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    importance: ImportanceConfig = field(default_factory=ImportanceConfig)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    def __post_init__(self) -> None:
        for part in fields(self):
            if not isinstance(getattr(self, part.name), SECTIONS[part.name]):
                found = type(getattr(self, part.name)).__name__
                raise UserError(f"{part.name}: expected a {SECTIONS[part.name].__name__}, found {found}")


SECTIONS: dict[str, type[Section]] = {
    section.NAME: section
    for section in (
        DataConfig,
        ModelConfig,
        ObjectiveConfig,
        ImportanceConfig,
        MaskingConfig,
        CurriculumConfig,
        OptimConfig,
        LoraConfig,
        TrainConfig,
        EvalConfig,
    )
}
"""The parts of a run's settings, by their names in a file."""


def settings_with(fact: str, *values: Any) -> frozenset[str]:
    """Dotted paths of the settings that have a fact on their field, with one of these values where any are given:
    `settings_with("resume", "free")`. See `config.section.setting` for the facts there are."""
    return frozenset(
        f"{name}.{part.name}"
        for name, section in SECTIONS.items()
        for part in fields(section)  # type: ignore[arg-type]  # sections are dataclasses
        if fact in part.metadata and (not values or part.metadata[fact] in values)
    )


def named_plugins(config: RunConfig) -> list[tuple[plugins.Kind, str]]:
    """(kind, name) of everything in a configuration that is not part of this package, but for its source: a model
    needs what it was made of, and not the text it was made from."""
    found: list[tuple[plugins.Kind, str]] = []
    for path in sorted(settings_with("plugin")):
        section, _, name = path.partition(".")
        kind = SECTIONS[section].__dataclass_fields__[name].metadata["plugin"]  # type: ignore[attr-defined]
        value = getattr(getattr(config, section), name)
        if plugins.is_plugin(kind, value):
            found.append((kind, value))
    if tokenizer := plugin_of("tokenizer", config.data.tokenizer):
        found.append(("tokenizer", tokenizer[0]))
    return found
