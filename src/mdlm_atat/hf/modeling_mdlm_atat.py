"""Masked diffusion and causal language models of mdlm-atat as models of transformers.

This file needs torch and transformers alone: it is copied beside the weights, so that
`AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=True)` loads them where mdlm-atat is not installed.
Its modules and weights have the names that they have there, so that one model.safetensors serves both.

The vocabulary has `vocab_size - 1` tokens and, last, [MASK], which is read and never written: its logit is -inf. A text
that is read left to right begins behind a start symbol, which the network puts there, not the tokenizer; [MASK] in such
a text stands for it too, so that `generate()` can begin without a prompt.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    Cache,
    DynamicCache,
    GenerationMixin,
    PretrainedConfig,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.modeling_outputs import (
    BaseModelOutput,
    CausalLMOutputWithPast,
    MaskedLMOutput,
    SequenceClassifierOutput,
)
from transformers.utils.hub import cached_file

NUM_ADDED_FREQUENCIES = 16
NUM_TIME_FREQUENCIES = 128
KNOWN = {
    "alignment": ("own", "shifted"),  # which place of a masked text predicts a token: its own, or the one before
    "norm": ("layer", "rms"),
    "mlp": ("gelu", "swiglu"),
    "rotary_scaling": ("none", "linear", "llama3"),
    "time_through": (None, "adaln", "embedding"),  # how the network is told the time; None: not at all
    "time_features": ("t", "sigma"),  # sigma: the total noise -log(1 - 0.999 t)
    "pooling": ("mean", "first", "causal_mean", "last"),  # what a classifier reads
    "packing": (None, "int8"),  # int8: matrices are whole numbers times a scale for each row
    "problem_type": (None, "single_label_classification", "regression"),
}

USE = {
    "masked": "use AutoModelForMaskedLM, or pooling='mean' of a classifier",
    "causal": "use AutoModelForCausalLM, or pooling='last' of a classifier",
}


class MdlmAtatConfig(PretrainedConfig):
    """Sizes and options of a network, and what the outputs of a classifier mean."""

    model_type = "mdlm_atat"

    def __init__(
        self,
        *,
        vocab_size: int = 258,  # with [MASK], whose id is the last
        hidden_size: int = 64,
        num_hidden_layers: int = 2,
        num_attention_heads: int = 2,
        num_key_value_heads: int | None = None,
        head_dim: int | None = None,
        intermediate_size: int | None = None,
        max_position_embeddings: int = 64,  # tokens of the longest text
        modes: tuple[str, ...] | list[str] = ("masked",),  # how it may be asked: masked, causal or both
        alignment: str = "own",
        norm: str = "layer",
        norm_eps: float = 1e-5,
        qk_norm: bool = False,
        qkv_bias: bool = False,
        mlp: str = "gelu",
        dropout: float = 0.0,
        rotary_base: float = 10_000.0,
        rotary_scaling: str = "none",
        rotary_factor: float = 8.0,
        rotary_range: tuple[float, float] | list[float] = (1.0, 4.0),
        rotary_length: int = 8192,
        time_through: str | None = None,
        time_width: int = 128,
        time_features: str = "t",
        time_of_share: list[float] | None = None,  # the times at which 0, 1/n, .. 1 of a text is masked; None: t itself
        extra_outputs: int = 0,
        masks_before: int = 0,  # at most so many [MASK] stand before a text that is shorter than the network's own
        masks_behind: int = 0,
        pooling: str = "mean",
        label_temperature: float = 1.0,
        score_mean: float = 0.0,
        score_spread: float = 1.0,
        head_file: str | None = None,  # where a classifier's head is stored apart
        packing: str | None = None,
        tie_word_embeddings: bool = True,
        **more: Any,
    ) -> None:
        self.vocab_size, self.max_position_embeddings = vocab_size, max_position_embeddings
        self.hidden_size, self.num_hidden_layers = hidden_size, num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads or num_attention_heads
        self.head_dim = head_dim or hidden_size // num_attention_heads
        self.intermediate_size = intermediate_size or 4 * hidden_size
        self.modes, self.alignment = list(modes), alignment
        self.norm, self.norm_eps, self.qk_norm, self.qkv_bias = norm, norm_eps, qk_norm, qkv_bias
        self.mlp, self.dropout, self.extra_outputs = mlp, dropout, extra_outputs
        self.rotary_base, self.rotary_scaling, self.rotary_factor = rotary_base, rotary_scaling, rotary_factor
        self.rotary_range, self.rotary_length = list(rotary_range), rotary_length
        self.time_through, self.time_width, self.time_of_share = time_through, time_width, time_of_share
        self.time_features, self.masks_before, self.masks_behind = time_features, masks_before, masks_behind
        self.pooling, self.label_temperature = pooling, label_temperature
        self.score_mean, self.score_spread = score_mean, score_spread
        self.head_file, self.packing = head_file, packing
        more["tie_word_embeddings"] = tie_word_embeddings
        super().__init__(**more)


class RMSNorm(nn.RMSNorm):
    """In float32 whatever the types of the input and of the weight, which the fused kernel wants to be one."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.normalized_shape, self.weight.float(), self.eps).to(x.dtype)


class TokenEmbedding(nn.Embedding):
    """The vectors of tokens; or, of states, the logits of all tokens but [MASK], for which the same weights stand.

    Both by a call: it is then that weights which lie elsewhere, as `device_map` may have it, are there."""

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight[:-1]) if input.is_floating_point() else super().forward(input)


def make_norm(config: MdlmAtatConfig, width: int, kind: str) -> nn.Module:
    if kind == "rms":
        return RMSNorm(width, eps=config.norm_eps)
    return nn.LayerNorm(width, eps=config.norm_eps, bias=False)


def rotary_angles(config: MdlmAtatConfig, places: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of the rotary angles at these places, (..., 1, Dh / 2). Made anew every time: a table in a buffer
    would be lost where the model is built on the meta device."""
    pair = torch.arange(0, config.head_dim, 2, device=places.device, dtype=torch.float32)  # whatever the default
    frequency = config.rotary_base ** (-pair / config.head_dim)  # (Dh / 2,)
    if config.rotary_scaling == "linear":
        frequency = frequency / config.rotary_factor
    elif config.rotary_scaling == "llama3":
        low, high = config.rotary_range
        num_waves = config.rotary_length * frequency / (2 * math.pi)
        kept = ((num_waves - low) / (high - low)).clamp(0, 1)
        frequency = (1 - kept) * frequency / config.rotary_factor + kept * frequency
    angle = (places[..., None] * frequency)[..., None, :]
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = x.float().chunk(2, dim=-1)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1).to(x.dtype)


def sinusoidal_features(t: Tensor, num_frequencies: int) -> Tensor:
    index = torch.arange(num_frequencies, device=t.device, dtype=torch.float32)
    angle = 1000 * t.float()[:, None] * torch.exp(-math.log(10_000) * index / num_frequencies)
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class Attention(nn.Module):
    def __init__(self, config: MdlmAtatConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.num_heads, self.num_kv_heads = layer, config.num_attention_heads, config.num_key_value_heads
        self.head_dim = config.head_dim
        width, inner, bias = config.hidden_size, config.num_attention_heads * config.head_dim, config.qkv_bias
        if self.num_kv_heads == self.num_heads:
            self.qkv = nn.Linear(width, 3 * inner, bias=bias)
        else:
            self.q = nn.Linear(width, inner, bias=bias)
            self.kv = nn.Linear(width, 2 * self.num_kv_heads * self.head_dim, bias=bias)
        self.out = nn.Linear(inner, width, bias=False)
        self.norm_q = make_norm(config, self.head_dim, "rms") if config.qk_norm else nn.Identity()
        self.norm_k = make_norm(config, self.head_dim, "rms") if config.qk_norm else nn.Identity()

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor], attend: Tensor | None, cache: Cache | None) -> Tensor:
        batch, length, _ = x.shape
        if self.num_kv_heads == self.num_heads:
            q, k, v = self.qkv(x).view(batch, length, 3, self.num_heads, self.head_dim).unbind(2)
        else:
            q = self.q(x).view(batch, length, self.num_heads, self.head_dim)
            k, v = self.kv(x).view(batch, length, 2, self.num_kv_heads, self.head_dim).unbind(2)
        q, k = rotate(self.norm_q(q), *angles), rotate(self.norm_k(k), *angles)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H, L, Dh)
        if cache is not None:  # of the text's tokens; the start symbol, which is first, is read in every pass
            seen = cache.update(k[:, :, 1:], v[:, :, 1:], self.layer)
            k, v = (torch.cat([start[:, :, :1], rest], dim=2) for start, rest in zip((k, v), seen, strict=True))
        if self.num_kv_heads != self.num_heads:
            k, v = (part.repeat_interleave(self.num_heads // self.num_kv_heads, dim=1) for part in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=attend)
        return self.out(y.transpose(1, 2).reshape(batch, length, self.num_heads * self.head_dim))


class MLP(nn.Module):
    def __init__(self, config: MdlmAtatConfig) -> None:
        super().__init__()
        width, inner, bias = config.hidden_size, config.intermediate_size, config.mlp == "gelu"
        self.gate = None if bias else nn.Linear(width, inner, bias=False)
        self.up = nn.Linear(width, inner, bias=bias)
        self.down = nn.Linear(inner, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is None:
            return self.down(F.gelu(self.up(x), approximate="tanh"))
        return self.down(F.silu(self.gate(x)) * self.up(x))


class TimeEmbedding(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(2 * NUM_TIME_FREQUENCIES, width)
        self.out = nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        features = sinusoidal_features(t, NUM_TIME_FREQUENCIES).to(self.up.weight.dtype)
        return F.silu(self.out(F.silu(self.up(features))))


class ZeroLinear(nn.Linear):
    """A linear layer that starts at zero where it is not loaded."""


class Block(nn.Module):
    def __init__(self, config: MdlmAtatConfig, layer: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.norm_attention, self.norm_mlp = (make_norm(config, width, config.norm) for _ in range(2))
        self.attention, self.mlp = Attention(config, layer), MLP(config)
        self.dropout = config.dropout
        self.modulation = ZeroLinear(config.time_width, 6 * width) if config.time_through == "adaln" else None

    def forward(
        self,
        x: Tensor,
        angles: tuple[Tensor, Tensor],
        attend: Tensor | None,
        condition: Tensor | None,
        cache: Cache | None,
    ) -> Tensor:
        if self.modulation is None or condition is None:
            x = x + self._drop(self.attention(self.norm_attention(x), angles, attend, cache))
            return x + self._drop(self.mlp(self.norm_mlp(x)))
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(condition)[:, None].chunk(6, dim=-1)
        h = self.norm_attention(x) * (1 + scale_a) + shift_a
        x = x + gate_a * self._drop(self.attention(h, angles, attend, cache))
        h = self.norm_mlp(x) * (1 + scale_m) + shift_m
        return x + gate_m * self._drop(self.mlp(h))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class MdlmAtatNetwork(PreTrainedModel):
    """Embeddings, blocks, a norm and an output layer, to be asked in one or both modes. ValueError for a class that
    asks it in a mode in which it was not trained."""

    config_class = MdlmAtatConfig
    base_model_prefix = ""
    config: MdlmAtatConfig
    _no_split_modules = ["Block"]
    _supports_sdpa = True
    mode: str | None = None  # in which a class asks; None: in either
    # parts of training and of samplers of mdlm-atat, which plain prediction does not ask
    _keys_to_ignore_on_load_unexpected = [r"^estimator\.", r"^speed_head\.", r"^position_table$"]

    def __init__(self, config: MdlmAtatConfig) -> None:
        super().__init__(config)
        width, modes = config.hidden_size, config.modes
        for name, values in KNOWN.items():
            if (value := getattr(config, name)) not in values:
                raise ValueError(f"{name} is {value!r}; known are {', '.join(map(str, values))}")
        if self.mode not in (None, *modes):
            raise ValueError(
                f"{type(self).__name__} asks a {self.mode} network, and this one is {modes[0]}: {USE[modes[0]]}"
            )
        self.config.packing = self.config.head_file = None  # of a folder, not of a model
        self.embedding = TokenEmbedding(config.vocab_size, width)
        self.time_embedding = TimeEmbedding(config.time_width) if config.time_through == "adaln" else None
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = make_norm(config, width, config.norm)
        self.modulation = ZeroLinear(config.time_width, 2 * width) if config.time_through == "adaln" else None
        added = config.time_through == "embedding"
        self.added_time = ZeroLinear(2 * NUM_ADDED_FREQUENCIES, width) if added else None
        num_outputs = config.vocab_size - 1 + config.extra_outputs
        self.output = None if config.tie_word_embeddings else ZeroLinear(width, num_outputs)  # (V + extra, D)
        self.start_vector = nn.Parameter(torch.empty(width)) if config.alignment == "shifted" else None
        self.mode_vector = nn.Parameter(torch.empty(width)) if len(modes) == 2 else None
        self._add_head()
        self.post_init()

    def _add_head(self) -> None:
        """What a class has beside the network."""

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            if isinstance(module, ZeroLinear):
                nn.init.zeros_(module.weight)
            else:
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
            nn.init.ones_(module.weight)
        elif isinstance(module, MdlmAtatNetwork):
            if module.start_vector is not None:
                nn.init.normal_(module.start_vector, std=0.02)
            if module.mode_vector is not None:
                nn.init.zeros_(module.mode_vector)

    @classmethod
    def from_pretrained(cls, name: Any, *args: Any, config: Any = None, **more: Any) -> Any:
        """As every model's, but that weights which are missing, or left over, are an error, and that those which
        mdlm-atat stored in 8 bits, or in a file of their own, are put together."""
        wants_info = more.pop("output_loading_info", False)
        keys = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
        where = {key: more.pop(key) for key in keys if key in more}
        if not isinstance(config, PretrainedConfig) and name is not None:
            read: Any = MdlmAtatConfig.from_pretrained(config or name, return_unused_kwargs=True, **where, **more)
            config, more = read[0], {key: value for key, value in read[1].items() if key not in where}
        head_file = config.head_file if issubclass(cls, MdlmAtatForSequenceClassification) else None
        called = ""
        if name is not None and (config.packing or head_file):
            weights = unpacked(load_file(str(cached_file(name, "model.safetensors", **where))))
            if head_file:
                head = load_file(str(cached_file(name, head_file, **where)))
                weights |= {f"head.{key}": weight for key, weight in head.items()}
            called, name, where, more["state_dict"] = str(name), None, {}, weights
        found: Any = super().from_pretrained(name, *args, config=config, output_loading_info=True, **where, **more)
        model, info = found
        if called:
            model.name_or_path = model.config.name_or_path = called
        is_new_head = cls.__name__ not in (config.architectures or ())  # which is to be trained
        missing = [key for key in info["missing_keys"] if not (is_new_head and key.startswith("head."))]
        if missing:
            raise ValueError(f"the weights lack {', '.join(sorted(missing)[:5])}, which config.json asks for")
        unused = [key for key in info["unexpected_keys"] if not key.startswith("head.")]
        if unused:
            raise ValueError(f"the weights have {', '.join(sorted(unused)[:5])}, which config.json does not ask for")
        return found if wants_info else model

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def set_input_embeddings(self, value: Any) -> None:
        self.embedding = value

    def get_output_embeddings(self) -> nn.Module | None:
        return self.output

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args: Any, **more: Any) -> Any:
        del args, more
        if new_num_tokens not in (None, self.config.vocab_size):
            raise ValueError("[MASK] is the last token of this model, which can have no others behind it")
        return self.embedding

    def _is_text(self, tokens: Tensor, attention_mask: Tensor | None, num_seen: int = 0) -> Tensor:
        """Which places hold text: (B, seen + L). ValueError for a mask of another shape."""
        shape = (len(tokens), num_seen + tokens.shape[1])
        if attention_mask is None:
            return torch.ones(shape, dtype=torch.bool, device=tokens.device)
        if attention_mask.shape != shape:
            with_cache = ", those in the cache included" if num_seen else ""
            raise ValueError(
                f"attention_mask is {tuple(attention_mask.shape)}; expected a place for each token{with_cache}: {shape}"
            )
        return attention_mask.bool()

    def denoise(
        self, tokens: Tensor, attention_mask: Tensor | None, t: Tensor | float | None, *, alone: bool = True
    ) -> Tensor:
        """States (B, L, D) that predict token i at place i, from all other tokens. `t` None: the time at which the
        share that is masked is to be expected. Not `alone`: a text that is shorter than the network's own is shown with
        [MASK] around it, for what it was trained on were pieces of longer ones."""
        config, mask_id = self.config, self.config.vocab_size - 1
        is_text = self._is_text(tokens, attention_mask)
        lengths, longest = is_text.sum(1).clamp(min=1), config.max_position_embeddings
        self._check_length(is_text.cumsum(1))
        before, behind = (0, 0) if alone else (config.masks_before, config.masks_behind)
        num_around = (longest - lengths).clamp(min=0, max=before + behind)
        first = num_around // 2 if before else torch.zeros_like(num_around)
        widths = lengths + num_around
        width = int(widths.max()) if len(widths) else 1
        place = torch.where(is_text, first[:, None] + is_text.cumsum(1) - 1, width)  # padding to an end that is cut off
        tokens = tokens.new_full((len(tokens), width + 1), mask_id).scatter(1, place, tokens)[:, :width]
        is_seen = torch.arange(width, device=tokens.device) < widths[:, None]
        if t is None:
            t = self._time_of(((tokens == mask_id) & is_seen).sum(1) / widths)
        else:
            t = torch.as_tensor(t, dtype=torch.float32, device=tokens.device).expand(len(tokens))
            t = torch.where(num_around > 0, 1 - (1 - t) * (lengths / widths), t)
        x = self.embedding(tokens)
        if self.start_vector is not None:  # one place more goes through the blocks
            x = torch.cat([self.start_vector.to(x).expand(len(x), 1, -1), x], dim=1)
            is_seen = F.pad(is_seen, (1, 0), value=True)
        attend = None if is_seen.all() else is_seen[:, None, None]
        states = self._through_blocks(x, torch.arange(x.shape[1], device=x.device), attend, t)
        place = place.clamp(max=width - 1).to(states.device)
        return states.gather(1, place[..., None].expand(-1, -1, states.shape[2]))

    def read(self, tokens: Tensor, attention_mask: Tensor | None, cache: Cache | None = None) -> Tensor:
        """States (B, L, D) after each token, given those before it: at place i they predict token i + 1. `cache` has
        what was read before; `attention_mask` is of that too."""
        mask_id, (batch, length) = self.config.vocab_size - 1, tokens.shape
        is_mask = tokens == mask_id
        if cache is not None and cache.is_compileable:
            raise ValueError("a cache of a fixed size cannot be read: leave out cache_implementation")
        num_seen = 0 if cache is None else cache.get_seq_length()
        is_text = self._is_text(tokens, attention_mask, num_seen)
        if cache is not None and (is_text[:, num_seen:] & is_mask).any():  # a later call would take it for text
            raise ValueError(
                "[MASK] is the start symbol here: with a cache, every attention_mask needs a 0 in its place"
            )
        is_text = torch.cat([is_text[:, :num_seen], is_text[:, num_seen:] & ~is_mask], dim=1)
        places = is_text.cumsum(1)  # the start symbol is at 0
        self._check_length(places)
        symbols = F.pad(tokens, (1, 0), value=mask_id)
        x = self.embedding(symbols)  # (B, 1 + L, D)
        if self.start_vector is not None:
            x = torch.where((symbols == mask_id).to(x.device)[..., None], self.start_vector.to(x), x)
        if self.mode_vector is not None:
            x = x + self.mode_vector.to(x)
        index = torch.arange(num_seen + length, device=tokens.device)
        attend = is_text[:, None] & (index <= index[num_seen:, None])  # (B, L, seen + L)
        attend = F.pad(attend, (1, 0), value=True)  # all see the start symbol
        attend = F.pad(attend, (0, 0, 1, 0), value=False)
        attend[:, 0, 0] = True  # which sees itself alone
        nothing_masked = torch.zeros(batch, device=tokens.device)
        places = F.pad(places[:, num_seen:], (1, 0))
        return self._through_blocks(x, places, attend[:, None], nothing_masked, cache)[:, 1:]

    def _through_blocks(
        self, x: Tensor, places: Tensor, attend: Tensor | None, t: Tensor, cache: Cache | None = None
    ) -> Tensor:
        if self.config.time_features == "sigma":
            t = -torch.log1p(-0.999 * t) / 1000
        if self.added_time is not None:
            features = sinusoidal_features(t, NUM_ADDED_FREQUENCIES)
            x = x + self.added_time(features.to(x.dtype))[:, None]
        condition = None if self.time_embedding is None else self.time_embedding(t)
        angles = rotary_angles(self.config, places)
        for block in self.blocks:
            x = block(x, angles, attend, condition, cache)
        x = self.norm(x)
        if self.modulation is None:
            return x
        shift, scale = self.modulation(condition)[:, None].chunk(2, dim=-1)
        return x * (1 + scale) + shift

    def logits(self, states: Tensor) -> Tensor:
        """(..., V + 1): of the tokens, and -inf for [MASK]."""
        logits = self.embedding(states) if self.output is None else self.output(states)
        return F.pad(logits[..., : self.config.vocab_size - 1], (0, 1), value=-math.inf)

    def states(self, tokens: Tensor, attention_mask: Tensor | None) -> Tensor:
        """States (B, L, D) of a text of which nothing is masked."""
        if "masked" in self.config.modes:
            return self.denoise(tokens, attention_mask, 0.0)
        return self.read(tokens, attention_mask)

    def _time_of(self, share: Tensor) -> Tensor:
        times = self.config.time_of_share
        if times is None:
            return share
        table = torch.tensor(times, device=share.device)
        place = share * (len(times) - 1)
        low = place.long().clamp(max=len(times) - 2)
        return torch.lerp(table[low], table[low + 1], place - low)

    def _check_length(self, num_read: Tensor) -> None:
        longest = self.config.max_position_embeddings
        if num_read.shape[1] > longest and (length := int(num_read.max())) > longest:
            raise ValueError(
                f"this network reads {longest} tokens at most, not {length}: cut the text (truncation=True), or ask "
                "for fewer new tokens (max_new_tokens)"
            )


def answered(output: Any, more: dict[str, Any]) -> Any:
    """The output, as a tuple where that is asked for. ValueError where more is asked for than there is."""
    for name in ("output_hidden_states", "output_attentions"):
        if more.get(name):
            raise ValueError(f"{name}: this model gives the last states alone (AutoModel)")
    return output.to_tuple() if more.get("return_dict") is False else output


def loss_of(logits: Tensor, labels: Tensor, num_items: Tensor | int | None) -> Tensor:
    """The mean of -log p of the labels that are not -100; or their sum over `num_items`: a Trainer that gathers
    gradients over several batches says how many they have together."""
    labels = labels.to(logits.device).flatten()
    loss = F.cross_entropy(logits.flatten(0, 1).float(), labels, reduction="mean" if num_items is None else "sum")
    return loss if num_items is None else loss / torch.as_tensor(num_items, device=loss.device)


def refuse_mask(gradient: Tensor) -> None:
    """Of logits: ValueError where they have a gradient at [MASK], whose logit is -inf."""
    at_mask = gradient[..., -1]
    if (at_mask.isfinite() & (at_mask != 0)).any():  # in 16 bits a gradient may be NaN, which its scaler passes over
        raise ValueError(
            "this loss counts [MASK] among the tokens, whose logit is -inf, as label smoothing does: it is infinite. "
            "Leave out label_smoothing_factor (a Trainer smooths without the shift of a causal model besides), or "
            "smooth logits[..., :-1] in a compute_loss of your own"
        )


def for_loss_elsewhere(logits: Tensor) -> Tensor:
    """The logits, which refuse a loss that counts [MASK]; not within compiled code and torch.func, where no values are
    looked at."""
    is_plain = not (torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active())
    if logits.requires_grad and is_plain:
        logits.register_hook(refuse_mask)
    return logits


class MdlmAtatModel(MdlmAtatNetwork):
    """The states of a text, of which nothing is masked."""

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **more: Any
    ) -> BaseModelOutput | tuple[Any, ...]:
        return answered(BaseModelOutput(last_hidden_state=self.states(input_ids, attention_mask)), more)


class MdlmAtatForMaskedLM(MdlmAtatNetwork):
    """Logits of the clean tokens at every place of a partly masked text."""

    mode = "masked"

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        t: Tensor | float | None = None,
        alone: bool = False,
        num_items_in_batch: Tensor | int | None = None,
        **more: Any,
    ) -> MaskedLMOutput | tuple[Any, ...]:
        """`t` in [0, 1], of each row, is the time that a time-conditioned network is told; None: the time at which the
        share of the row's tokens that is masked is to be expected. `alone`: show the network a short text as it is,
        not with [MASK] around it, as in training. `labels`: -100 where nothing is asked; the loss is
        the plain mean of -log p over the others, which is no bound on the likelihood of a text."""
        logits = self.logits(self.denoise(input_ids, attention_mask, t, alone=alone or self.training))
        loss = None if labels is None else loss_of(logits, labels, num_items_in_batch)
        logits = for_loss_elsewhere(logits) if labels is None else logits
        return answered(MaskedLMOutput(loss=loss, logits=logits), more)


class UntilFull(StoppingCriteria):
    """Ends texts with the last token that the network can write, which it cannot read any more, and says so where more
    were asked for. `num_unread`: places of every text that it does not read, such as padding. `num_asked`: all places
    of the texts as they were asked for; None where it is not known."""

    def __init__(self, longest: int, num_unread: int, num_asked: int | None) -> None:
        self.longest, self.num_unread, self.num_asked = longest, num_unread, num_asked

    def __call__(self, input_ids: Tensor, *_: Any, **__: Any) -> Tensor:  # pyright: ignore
        is_full = input_ids.shape[1] - self.num_unread > self.longest
        if is_full and (self.num_asked is None or self.num_asked > input_ids.shape[1]):
            warnings.warn(
                f"the text ends where this network can go no further: it reads {self.longest} tokens at most; ask "
                "for fewer new ones (max_new_tokens), or shorten the prompt",
                stacklevel=2,
            )
        return torch.full((len(input_ids),), is_full, dtype=torch.bool, device=input_ids.device)


class MdlmAtatForCausalLM(MdlmAtatNetwork, GenerationMixin):
    """Logits of the token behind every place."""

    mode = "causal"

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: Tensor | int | None = None,
        **more: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        states = self.read(input_ids, attention_mask, past_key_values)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.logits(states[:, kept])
        loss = None if labels is None else loss_of(logits[:, :-1], labels[:, 1:], num_items_in_batch)
        logits = for_loss_elsewhere(logits) if labels is None else logits
        return answered(CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values), more)

    def generate(  # pyright: ignore
        self,
        inputs: Tensor | None = None,
        generation_config: Any = None,
        logits_processor: Any = None,
        stopping_criteria: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """As every model's, but that texts end, with a warning, where the longest is as long as the network reads, and
        has a token more: of others it depends on the model whether they fail there, or go on and grow worse."""
        text, num_unread = inputs if inputs is not None else kwargs.get("input_ids"), 1  # the start symbol, of nothing
        if text is not None:
            is_text = self._is_text(text, kwargs.get("attention_mask")) & (text != self.config.vocab_size - 1)
            num_unread = text.shape[1] - int(is_text.sum(1).max())
        num_new = kwargs.get("max_new_tokens", getattr(generation_config, "max_new_tokens", None))
        num_asked = kwargs.get("max_length") if num_new is None else num_new + (1 if text is None else text.shape[1])
        until_full = UntilFull(self.config.max_position_embeddings, num_unread, num_asked)
        criteria = StoppingCriteriaList([*(stopping_criteria or ()), until_full])
        return super().generate(inputs, generation_config, logits_processor, criteria, *args, **kwargs)  # pyright: ignore

    def prepare_inputs_for_generation(  # pyright: ignore
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        is_start = input_ids == self.config.vocab_size - 1
        if is_start.any():  # of a text without a prompt: the network has a start symbol of its own
            mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            attention_mask = mask.masked_fill(is_start, 0)
        # which looks for `kwargs` among the names of these arguments
        return super().prepare_inputs_for_generation(input_ids, attention_mask=attention_mask, **kwargs)  # pyright: ignore


class Head(nn.Module):
    def __init__(self, width: int, num_outputs: int) -> None:
        super().__init__()
        self.output = nn.Linear(width, num_outputs)


class MdlmAtatForSequenceClassification(MdlmAtatNetwork):
    """Logits of the labels of a text, calibrated; or of a regression the number itself."""

    accepts_loss_kwargs = False  # of a Trainer: the loss is a mean over texts

    def __init__(self, config: MdlmAtatConfig) -> None:
        self.mode = "causal" if config.pooling in ("last", "causal_mean") else "masked"
        super().__init__(config)

    def _add_head(self) -> None:
        self.head = Head(self.config.hidden_size, self.config.num_labels or 2)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **more: Any,
    ) -> SequenceClassifierOutput | tuple[Any, ...]:
        config = self.config
        is_text = torch.ones_like(input_ids) if attention_mask is None else attention_mask.ne(0).long()
        if not is_text.any(1).all():
            raise ValueError("a text has no token to tell a label from: leave out texts that are empty")
        is_causal = self.mode == "causal"
        states = (self.read(input_ids, is_text) if is_causal else self.denoise(input_ids, is_text, 0.0)).float()
        is_text = is_text.to(states.device)
        if config.pooling in ("first", "last"):
            place = is_text.argmax(1) if config.pooling == "first" else is_text.cumsum(1).argmax(1)
            pooled = states[torch.arange(len(states), device=states.device), place]
        else:
            pooled = (states * is_text[..., None]).sum(1) / is_text.sum(1, keepdim=True)
        logits = self.head.output(pooled.to(self.head.output.weight.dtype)).float()
        if config.problem_type == "regression" or (config.problem_type is None and config.num_labels == 1):
            logits = config.score_mean + config.score_spread * logits
            loss = None if labels is None else F.mse_loss(logits.squeeze(-1), labels.to(logits).view(-1))
        else:
            logits = logits / config.label_temperature
            loss = None if labels is None else F.cross_entropy(logits, labels.to(logits.device).view(-1))
        return answered(SequenceClassifierOutput(loss=loss, logits=logits), more)


def unpacked(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of which the matrices may be whole numbers, with a scale for each row beside them."""
    return {
        name: weight.float() * weights[f"{name}.scale"][:, None] if weight.dtype == torch.int8 else weight
        for name, weight in weights.items()
        if not name.endswith(".scale")
    }
