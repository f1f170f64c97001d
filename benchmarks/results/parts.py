"""Where a difference lies (how much is masked, how rare a token is), and what runs took."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from benchmarks.results.budgets import FILES, amount, tokens_of
from benchmarks.results.markdown import arm_name, memory, operations, seconds, steps, table
from benchmarks.results.novels import arms_of, older_novels
from benchmarks.results.stored import Run, mean_of

from mdlm_atat.formats import counted
from mdlm_atat.scoring.statistics import Mean, mean_with_interval

Arms = Mapping[str, Sequence[Run]]
METHODS = ("time_sampling_only", "atat")
"""What is compared with mdlm."""


def by_mask_rate(*files: str) -> str:
    """How much less a masked token costs than with mdlm, by the share of masked tokens: with AdamW, and in these
    experiments."""
    adamw = [("novels", older_novels(num_steps), ", AdamW") for num_steps in (1500, 6000)]
    rows = []
    for text, arms, optimizer in [*adamw, *((text_of(file), arms_of(file), "") for file in files)]:
        for arm in (f"{method}{optimizer}" for method in METHODS):
            means = differences(arms, arm, f"mdlm{optimizer}", lambda run: run.profile)
            if means:
                rows.append([_name(arm, text, arms), *(f"{mean.value:+.2f}" for mean in means), _worst(means)])
    tenths = [f"{n / 10:.1f} to {(n + 1) / 10:.1f}" for n in range(10)]
    return table(["minus `mdlm`, by mask rate", *tenths, "error at most"], rows)


def rare_tokens(*files: str) -> str:
    """How much less a token costs than with mdlm in these experiments, by tenths of the text from the rarest tokens to
    the commonest, and all of it."""
    rows = []
    for file in files:
        arms = arms_of(file)
        for arm in METHODS:
            means = differences(arms, arm, "mdlm", lambda run: run.tenths)
            if means:
                (whole,) = differences(arms, arm, "mdlm", lambda run: (run.numbers["any_order"].value,))
                cells = [f"{mean.value:+.2f}" for mean in means]
                rows.append([_name(arm, text_of(file), arms), *cells, f"{whole.value:+.2f}", _worst(means)])
    tenths = ["rarest tenth", *(f"{n}" for n in range(2, 10)), "commonest"]
    return table(["minus `mdlm`, any order", *tenths, "all", "error at most"], rows)


def costs(*files: str) -> str:
    """What each arm of these experiments took: steps, tokens, seconds, operations and memory."""
    rows = []
    for file in files:
        text = text_of(file)
        for arm, runs in arms_of(file).items():
            taken = [steps(runs), amount(tokens_of(runs)), seconds(runs), operations(runs), memory(runs)]
            rows.append([text, arm_name(arm), str(len(runs)), *taken])
    return table(["text", "", "seeds", "steps", "tokens", "s", "10^15 operations", "GiB"], rows)


def text_of(file: str) -> str:
    """The text of an experiment; of one at another size that, too."""
    known = [text for text, budgets in FILES.items() if file in budgets]
    return known[0] if known else "code, 162M parameters" if file == "size.json" else file


def differences(arms: Arms, arm: str, base: str, part: Callable[[Run], Sequence[float]]) -> list[Mean]:
    """arm - base for every part of what the runs hold, paired by seed; nothing where no pair holds it."""
    pairs = list(_pairs(arms, arm, base, part))
    return [mean_with_interval(list(column)) for column in zip(*pairs, strict=True)]


def _pairs(arms: Arms, arm: str, base: str, part: Callable[[Run], Sequence[float]]) -> Iterator[list[float]]:
    theirs = {run.seed: part(run) for run in arms.get(base, []) if mean_of([run], "any_order") and part(run)}
    for run in arms.get(arm, []):
        if run.seed in theirs and part(run):
            yield [mine - other for mine, other in zip(part(run), theirs[run.seed], strict=True)]


def _name(arm: str, text: str, arms: Arms) -> str:
    base = arms[arm.replace(arm.partition(",")[0], "mdlm")]
    pairs = {run.seed for run in arms[arm]} & {run.seed for run in base}
    return f"{arm_name(arm)}, {text}, {amount(tokens_of(base))} tokens, {counted(len(pairs), 'seed')}"


def _worst(means: Sequence[Mean]) -> str:
    errors = [mean.standard_error for mean in means if mean.standard_error is not None]
    return f"{max(errors):.3f}" if errors else ""


PART_TABLES: Mapping[str, Callable[..., str]] = {
    "by_mask_rate": by_mask_rate,
    "costs": costs,
    "rare_tokens": rare_tokens,
}
