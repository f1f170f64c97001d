"""Small networks with random weights, saved by transformers as its users publish them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SIZES: dict[str, Any] = {
    "vocab_size": 266,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "eos_token_id": 256,
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "8 heads to 2": ("Llama", {}),
    "9 heads to 3": ("Llama", {"hidden_size": 36, "num_attention_heads": 9, "num_key_value_heads": 3}),
    "as many of each": ("Llama", {"num_key_value_heads": 8}),
    "tied": ("Llama", {"tie_word_embeddings": True}),
    "base 500,000": ("Llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
    "linear": ("Llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}),
    "llama3": (
        "Llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 5e5,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
            "head_dim": 16,
        },
    ),
    "rms_norm_eps": ("Llama", {"rms_norm_eps": 0.1}),
    "Mistral": ("Mistral", {"sliding_window": None, "head_dim": 6}),
    "Qwen2": ("Qwen2", {}),
    "Qwen2, as many of each": ("Qwen2", {"num_key_value_heads": 8, "tie_word_embeddings": True}),
    "Qwen3": ("Qwen3", {"head_dim": 16, "num_attention_heads": 4}),
    "Qwen3, tied": ("Qwen3", {"head_dim": 8, "tie_word_embeddings": True}),
}


def make(kind: str, **more: Any) -> Any:
    """A network of transformers with random weights, norms and biases among them."""
    import transformers

    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **more})
    torch.manual_seed(0)
    network = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    for name, p in network.named_parameters():
        torch.nn.init.normal_(p, 1.0 if "norm" in name else 0.0, 0.2)
    return network


def save(network: Any, folder: Path, **more: Any) -> Path:
    """As a folder of the hub, with a tokenizer of 256 bytes and `<|endoftext|>`."""
    network.save_pretrained(folder, **more)
    write_tokenizer(folder)
    return folder


def write_tokenizer(
    folder: Path, *, more: tuple[str, ...] = (), bos: str | None = None, end: str = "<|endoftext|>"
) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    inner.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    inner.add_special_tokens([end, *more, *([] if bos is None else [bos])])
    if bos is not None:
        ids = [(bos, inner.token_to_id(bos))]
        template = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=ids)
        inner.post_processor = template  # pyright: ignore[reportAttributeAccessIssue]
    folder.mkdir(parents=True, exist_ok=True)
    inner.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": end, "bos_token": bos}))


@torch.no_grad()
def logits_behind(network: Any, start: int, x: Tensor) -> Tensor:
    """Theirs of every token of x, behind a start token."""
    begun = torch.cat([torch.full((len(x), 1), start), x[:, :-1]], dim=1)
    return network(begun).logits


def edit(file: Path, **values: Any) -> None:
    """Change values of a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
