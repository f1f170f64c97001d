"""Made-up tasks that a tiny model can learn."""

from __future__ import annotations

import random
from collections.abc import Sequence

from mdlm_atat.finetuning.metrics import find_metrics
from mdlm_atat.finetuning.tasks import Example, Task, make_task

WORDS = "dog sat on a mat and ran to see if you ran be so as old man was".split()  # none has a c


def cat_examples(number: int, seed: int, *, pairs: bool = False, scores: bool = False) -> list[Example]:
    """Is there a cat? The score is how many."""
    rng = random.Random(seed)
    found = []
    for index in range(number):
        count = rng.randrange(4) if scores else rng.random() < 0.5
        words = rng.choices(WORDS, k=4 - count) + ["cat"] * count
        rng.shuffle(words)
        texts = (" ".join(words[:2]), " ".join(words[2:])) if pairs else (" ".join(words),)
        label = f"{count}.0" if scores else ("cat" if count else "none")
        found.append(Example(texts, label, f"made up, line {index + 1}"))
    return found


def cat_task(num_train: int = 400, num_dev: int = 64, **kind: bool) -> Task:
    scores = kind.get("scores", False)
    return make_task(
        "cats",
        cat_examples(num_train, 0, **kind),
        cat_examples(num_dev, 1, **kind),
        metrics=find_metrics(("pearson", "spearman") if scores else ("accuracy", "matthews")),
        source={"kind": "made up"},
        regression=scores,
    )


def as_tsv(examples: Sequence[Example]) -> str:
    columns = [*["text", "text2"][: len(examples[0].texts)], "label"]
    return "".join("\t".join(row) + "\n" for row in [columns, *([*e.texts, e.label] for e in examples)])
