"""Loads exported folders by transformers in a process of its own, where mdlm_atat cannot be imported, and writes what
they say: `python -I loaded_elsewhere.py HOME`, where HOME holds the folders by name, asked.json and, then, said.json.
"""

import json
import sys
from pathlib import Path
from typing import Any


class Refused:
    """Finds no mdlm_atat, wherever it is installed."""

    @staticmethod
    def find_spec(name: str, *_: Any) -> None:
        if name.partition(".")[0] == "mdlm_atat":
            raise ImportError(f"{name} is not to be imported here")


sys.meta_path.insert(0, Refused)  # pyright: ignore[reportArgumentType]

import torch  # noqa: E402
import transformers as library  # noqa: E402

transformers: Any = library
TRUSTED = {"trust_remote_code": True}
SEEN: dict[bytes, list[str]] = {}
look_for_imports = transformers.dynamic_module_utils.get_imports


def imports_of(file: str) -> list[str]:
    """As transformers finds them, once for all copies of a file: it reads one again whenever it loads a class."""
    text = Path(file).read_bytes()
    if text not in SEEN:
        SEEN[text] = look_for_imports(file)
    return SEEN[text]


def of_network(folder: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """Logits in the modes that there are, and texts that are generated. `asked`: ids with their attention mask."""
    found: dict[str, Any] = {"buffers": []}
    modes = transformers.AutoConfig.from_pretrained(folder, **TRUSTED).modes
    exact = {**TRUSTED, "dtype": torch.float32}
    rows = {name: (torch.tensor(ids), torch.tensor(mask)) for name, (ids, mask) in asked["rows"].items()}
    if "masked" in modes:
        network = transformers.AutoModelForMaskedLM.from_pretrained(folder, **exact)
        found["buffers"] += [name for name, _ in network.named_buffers()]
        t = torch.tensor(asked["t"])
        for side in ("left", "right"):
            found[f"masked {side}"] = network(*rows[side], t=t, alone=True).logits.tolist()
        found["masked"] = network(*rows["right"]).logits.tolist()
        found["masked loss"] = network(*rows["right"], labels=rows["right"][0].clamp(max=5)).loss.item()
    if "causal" in modes:
        network = transformers.AutoModelForCausalLM.from_pretrained(folder, **exact)
        found["buffers"] += [name for name, _ in network.named_buffers()]
        prompts, mask = rows["prompts"]
        found["causal"] = network(prompts, mask).logits.tolist()
        greedy = {"max_new_tokens": asked["num_new"], "do_sample": False, "eos_token_id": None}
        for cache in (True, False):
            made = network.generate(prompts, attention_mask=mask, use_cache=cache, **greedy)
            found[f"generated {cache}"] = made[:, prompts.shape[1] :].tolist()
            found[f"from nothing {cache}"] = network.generate(use_cache=cache, **greedy)[0, 1:].tolist()
        found["causal loss"] = network(prompts[:1], labels=prompts[:1]).loss.item()
    states = transformers.AutoModel.from_pretrained(folder, **exact)(*rows["plain"]).last_hidden_state
    return {**found, "states": states.tolist()}


def of_classifier(folder: Path, texts: list[Any]) -> dict[str, Any]:
    """Labels and scores of each text, padded left and right."""
    found: dict[str, Any] = {}
    tell = transformers.pipeline("text-classification", model=str(folder), **TRUSTED)
    for side in ("left", "right"):
        tell.tokenizer.padding_side = side
        found[side] = tell(texts, top_k=None, batch_size=len(texts))
    return found


def of_classes(folder: Path) -> list[str]:
    """What happens to weights that lack one."""
    try:
        transformers.AutoModelForMaskedLM.from_pretrained(folder, **TRUSTED)
    except ValueError as error:
        return [str(error)]
    return []


if __name__ == "__main__":
    home = Path(sys.argv[1])
    transformers.dynamic_module_utils.get_imports = imports_of
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    asked = json.loads((home / "asked.json").read_text())
    said: dict[str, Any] = {}
    with torch.no_grad():
        for name in asked["networks"]:
            said[name] = of_network(home / name, asked)
        for name, texts in asked["classified"].items():
            said[name] = of_classifier(home / name, texts)
    fill = transformers.pipeline("fill-mask", model=str(home / "masked"), **TRUSTED)
    said["filled"] = fill(asked["fill"], top_k=3)
    said["lacking"] = of_classes(home / "lacking")
    again = transformers.AutoModelForCausalLM.from_pretrained(home / "int8", **TRUSTED)
    again.save_pretrained(home / "again")
    same = transformers.AutoModelForCausalLM.from_pretrained(home / "again", **TRUSTED).state_dict()
    said["saved again"] = all(torch.equal(weight, same[name]) for name, weight in again.state_dict().items())
    assert "mdlm_atat" not in sys.modules
    (home / "said.json").write_text(json.dumps(said))
