"""A model of a real family from the hub to the command line, and back to the hub."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from standing_in import Hub, files_of

import mdlm_atat
from mdlm_atat.cli.main import main
from mdlm_atat.lm import CausalLM, load_lm

END = 256


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama in several parts, with a tokenizer of bytes, as transformers saves it."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("llama") / "tiny"
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    inner.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>").save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "max_position_embeddings": 32}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": None, "eos_token_id": END}
    network = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=END + 1, **sizes, **heads))
    network.bfloat16().save_pretrained(folder, max_shard_size="30KB")
    return folder


@pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")  # of the hub's client
def test_a_sharded_llama_of_the_hub_writes_is_trained_on_and_is_sent_on(
    hub: Hub, client, llama: Path, tmp_path: Path, runs: Path, no_report: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len([*llama.glob("model-*.safetensors")]) > 2
    hub.add("them/llama", {**files_of(llama), "pytorch_model.bin": b".", "README.md": b"---\nlicense: mit\n---\n"})
    lm = load_lm("hub:them/llama")
    assert isinstance(lm, CausalLM)
    import transformers

    theirs = transformers.AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    row = torch.tensor([[END, *lm.tokenizer.encode("a cat sat")]])
    with torch.no_grad():
        log_p = theirs(row).logits.log_softmax(-1)
    expected = -sum(log_p[0, place, token].item() for place, token in enumerate(row[0, 1:].tolist()))
    assert lm.score("a cat sat").nats == pytest.approx(expected, abs=1e-3)
    assert main(["generate", "hub:them/llama", "--prompt", "a cat", "--max_new_tokens", "4"]) == 0
    assert capsys.readouterr().out.startswith("a cat")
    run = mdlm_atat.train(
        init="hub:them/llama",
        data=runs / "text.txt",
        out=tmp_path / "tuned",
        num_steps=2,
        progress=False,
        settings={"eval.num_samples": 0, "eval.final_num_draws": 32, "train.batch_size": 8, "data.length": 32},
    )
    client.log_in()
    run.model.push_to_hub("me/tuned", weights="bf16")
    assert b"base_model: them/llama" in hub.model("me/tuned").files["README.md"]
    assert load_lm("hub:me/tuned").modes == {"causal"}
    assert json.loads((tmp_path / "tuned/run.json").read_text())["init"]["path"].startswith("hub:them/llama@")
