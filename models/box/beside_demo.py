"""The model in the box beside the one that `make demo` trains: what both pay for the same plays, and what they write.

The box held three plays out, and the demo two others. So the demo is trained anew, with its own settings, on the plays
that the box has read: the three are then new to both.
"""

from __future__ import annotations

import json
import lzma
import math
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from mdlm_atat import Evaluation, MaskedDiffusionLM, evaluate, load_lm, train
from mdlm_atat.device import device_name
from mdlm_atat.formats import with_error
from mdlm_atat.provenance import cpu
from mdlm_atat.runs.sample_quality import load_judge
from mdlm_atat.scoring.generative import repetition, unigram_entropy
from mdlm_atat.scoring.judge import Judge
from mdlm_atat.scoring.likelihood import ratio_with_standard_error

PLAYS = "Shakespeare's plays"
NUM_PASSAGES = 32
NUM_CHARACTERS = 400
"""Of a passage: what the demo reads at once."""
NUM_GIVEN = 100
"""Characters of a passage that are continued to the rest of it."""
GAP = (190, 210)
"""Characters of a passage that are left out, and filled from both sides."""
NUM_DRAWS = 512
BATCH_SIZE = 8


def beside_demo(box: MaskedDiffusionLM, data: Path, folder: Path, judge_file: str) -> dict[str, Any]:
    """The numbers of both. `data`: the folder of make_data.py. `folder`: where the plays, the demo's run and what both
    pay for the plays are; what is not there is made."""
    splits = write_plays(data, folder)
    if not (folder / "run").exists():
        train("demo", data=splits["train"], settings={"data.validation": str(splits["valid"])}, out=folder / "run")
    demo = load_lm(folder / "run", device=box.device)
    assert isinstance(demo, MaskedDiffusionLM)
    judge = load_judge(judge_file, device=box.device, batch_size=BATCH_SIZE)
    passages = evenly_spaced(splits["valid"])
    models = {"the model in the box": box, "the model of `make demo`": demo}
    return {
        "num_plays": {name: len(plays.read_text(encoding="utf-8").splitlines()) for name, plays in splits.items()},
        "models": {
            name: {"likelihoods": likelihoods(lm, splits["valid"], folder), **written(lm, box, judge, passages)}
            for name, lm in models.items()
        },
        "held_out": {"continued": quality(judge, box, passages, passages)},
        "machine": cpu() if box.device.type == "cpu" else device_name(box.device),
        "date": date.today().isoformat(),
    }


def write_plays(data: Path, folder: Path) -> dict[str, Path]:
    """The plays that the box has read, and those that it has not, as a file each."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for split, name in {"train": "train", "valid": "valid-others"}.items():
        with lzma.open(data / "corpus" / f"{name}.jsonl.xz", "rt", encoding="utf-8") as lines:
            rows = [row for row in map(json.loads, lines) if row["source"] == PLAYS]
        files[split] = folder / f"{split}.jsonl"
        files[split].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return files


def evenly_spaced(plays: Path) -> list[str]:
    """Passages at even distances in all of the plays, from the next end of a paragraph on."""
    text = "\n\n".join(json.loads(line)["text"] for line in plays.read_text(encoding="utf-8").splitlines())
    starts = [text.index("\n\n", (number * len(text)) // NUM_PASSAGES) + 2 for number in range(NUM_PASSAGES)]
    return [text[start : start + NUM_CHARACTERS] for start in starts]


def likelihoods(lm: MaskedDiffusionLM, plays: Path, folder: Path) -> dict[str, Any]:
    """What one of the models pays for a character of the plays."""
    file = folder / f"{lm.fingerprint()[:12]}.json"
    if not file.exists():
        evaluate(lm, plays, num_draws=NUM_DRAWS, batch_size=BATCH_SIZE, save=file)
    return {
        each.name: {
            "bits_per_character": each.cost.bits_per_character,
            "standard_error": each.cost.standard_error / each.cost.nats_per_token * each.cost.bits_per_character,
            "is_exact": each.is_exact,
        }
        for each in Evaluation.load(file).likelihoods
    }


def written(lm: MaskedDiffusionLM, box: MaskedDiffusionLM, judge: Judge, passages: Sequence[str]) -> dict[str, Any]:
    """What the judge says of what one of the models writes."""
    continued, filled = [], []
    for seed, passage in enumerate(passages):
        given = passage[:NUM_GIVEN]
        written = "".join(lm.generate(given, max_new_tokens=NUM_CHARACTERS - NUM_GIVEN, seed=[seed]).fillings)
        continued.append(given + written[: NUM_CHARACTERS - NUM_GIVEN])  # tokens of the box are longer than characters
        before, left_out, after = passage[: GAP[0]], passage[slice(*GAP)], passage[GAP[1] :]
        gap = f"[MASK:{len(lm.tokenizer.encode(left_out))}]"
        filled.append(lm.infill(before + gap + after, seed=[seed]).text)
    return {
        "continued": quality(judge, box, continued, passages),
        "filled": more_than(judge, filled, passages),
        "texts": continued[:3],
    }


def quality(judge: Judge, box: MaskedDiffusionLM, texts: Sequence[str], passages: Sequence[str]) -> dict[str, Any]:
    """What the judge pays for a character of the continuations, given what they continue, and how varied these are.
    Their tokens are the box's, whoever wrote them."""
    given = judge([passage[:NUM_GIVEN] for passage in passages])
    bits = (judge(texts).nats - given.nats) / math.log(2)
    lengths = bits.new_tensor([len(text) - NUM_GIVEN for text in texts])
    mean, error = ratio_with_standard_error(bits, lengths)
    rows = [box.tokenizer.encode(text[NUM_GIVEN:]) for text in texts]
    return {
        "judge_bits": [mean, error],
        "entropy_nats": list(unigram_entropy(rows)),
        "repetition": list(repetition(rows)),
    }


def more_than(judge: Judge, texts: Sequence[str], passages: Sequence[str]) -> list[float]:
    """Bits that the judge pays more for a passage whose gap was filled than for the passage as it was, and the error of
    that over passages."""
    more = (judge(texts).nats - judge(passages).nats) / math.log(2)
    return [float(more.mean()), float(more.std()) / math.sqrt(len(more))]


def table(found: dict[str, Any]) -> str:
    """The numbers as Markdown."""
    lines = [
        "| | left to right | any order | continued: judge | entropy | repeated 4-grams | filled: judge |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, model in {**found["models"], "the plays themselves": found["held_out"]}.items():
        costs = {cost["is_exact"]: cost for cost in model.get("likelihoods", {}).values()}
        written = model["continued"]
        cells = [
            *(_cost(costs.get(is_exact)) for is_exact in (True, False)),
            with_error(*written["judge_bits"], decimals=2),
            with_error(*written["entropy_nats"], decimals=2),
            f"{written['repetition'][0]:.1%}",
            with_error(*model["filled"], decimals=1) if "filled" in model else "0",
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cost(cost: dict[str, Any] | None) -> str:
    if cost is None:
        return ""
    told = with_error(cost["bits_per_character"], cost["standard_error"], decimals=3)
    return told if cost["is_exact"] else f"at most {told}"
