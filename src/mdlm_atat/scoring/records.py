"""What is recorded of an evaluation: what a text costs a model, and all that traces and compares it.

`Evaluation` is what `evaluate` returns and, as JSON, what a run's evals/ holds. Keys of the JSON are those of the first
version, so that files of all versions can be compared; where a file lacks what a later version added, it is read as
"not known": None, NaN or nothing. No torch here: reports read many evaluations and compute none.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from mdlm_atat.atomic import write_json
from mdlm_atat.errors import UserError
from mdlm_atat.formats import perplexity
from mdlm_atat.scoring.cost import (
    LEFT_TO_RIGHT,
    LEFT_TO_RIGHT_UNMASKED,
    NATS,
    Column,
    Cost,
    OrderCost,
    ScheduleBound,
    SequenceSums,
    StepBound,
    TextCounts,
    as_line,
    order_json,
    rounded,
    schedule_json,
    step_json,
    sums_json,
    unigram_json,
)
from mdlm_atat.scoring.record_json import json_ready, load_json, read_fields, read_record
from mdlm_atat.scoring.statistics import clear_factor, interval_factor
from mdlm_atat.training.metrics import (
    EVAL_CAUSAL_ERROR,
    EVAL_CAUSAL_NATS,
    EVAL_ERROR,
    EVAL_NATS,
    EVAL_OWN_ERROR,
    EVAL_OWN_NATS,
)

if TYPE_CHECKING:
    from mdlm_atat.data.tokens import TokenDataset
    from mdlm_atat.scoring.likelihood import Likelihood
    from mdlm_atat.scoring.schedule_bound import ScheduleDraws

FORMAT = 1
"""Of the JSON. Files of versions before this number was written have none, and are read too."""
DECILE_GROUPS = 64  # of sequences, over which the exact costs of each decile are summed
BLOCK_SIZE = 16  # draws whose mask counts are spread evenly together; standard errors are taken between blocks

Kind = Literal["nelbo", "exact"]
Bound = Literal["uniform", "own", "left_to_right"]
"""Whether PPL-U, each model's own bound or the exact value left to right of two models is compared."""


@dataclass(frozen=True, kw_only=True)
class MaskRateProfile:
    """What a masked token costs by the share of tokens that are masked: an entry a bin of mask rates."""

    mask_rate: Column
    """The mean in each bin."""
    nats_per_masked_token: Column
    standard_error: Column = ()
    num_masked_tokens: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DecileCosts:
    """The cost by token frequency: an entry a tenth of the text's tokens, the rarest in training first."""

    ranked_by: str = "occurrences in the training text"
    num_tokens: float = math.nan
    """Of the text, in each tenth."""
    nats_per_token: Column
    standard_error: Column = ()
    num_scored_tokens: Column = ()
    num_types: tuple[int, ...] = ()
    """Kinds of tokens in each tenth."""
    train_count_min: tuple[int, ...] = ()
    train_count_max: tuple[int, ...] = ()
    """Fewest and most occurrences in the training text of the kinds in each tenth."""


@dataclass(frozen=True, kw_only=True)
class BlockSums:
    """Sums over the draws of each block, nats and tokens: what a paired difference of two evaluations needs."""

    size: int = BLOCK_SIZE
    score: Column = field(repr=False)
    length: Column = field(repr=False)
    schedule_score: Column | None = field(default=None, repr=False)
    """Under the method's own masking schedule, where that is another bound."""
    decile_score: tuple[Column, ...] | None = field(default=None, repr=False)
    decile_length: tuple[Column, ...] | None = field(default=None, repr=False)
    decile_sequences: tuple[SequenceSums, ...] | None = field(default=None, repr=False)
    """Of an exact value: each decile's sums over groups of sequences, each sequence once. None in files of earlier
    versions."""

    @classmethod
    def of(cls, found: Likelihood, own: ScheduleDraws | None) -> BlockSums:
        """The sums of PPL-U, of PPL-S and of the deciles, where there are any, in DIGITS digits."""
        groups = None if found.groups is None else found.groups.blocks
        return cls(
            score=rounded(found.blocks.score.tolist()),
            length=rounded(found.blocks.length.tolist()),
            schedule_score=None if own is None else rounded(own.blocks().score.tolist()),
            decile_score=None if groups is None else tuple(map(rounded, groups.score.T.tolist())),
            decile_length=None if groups is None else tuple(map(rounded, groups.length.T.tolist())),
            decile_sequences=_decile_sequences(found),
        )


def _decile_sequences(found: Likelihood) -> tuple[SequenceSums, ...] | None:
    each = None if found.groups is None else found.groups.sequences
    if each is None:
        return None
    columns = zip(each.score.T.tolist(), each.length.T.tolist(), strict=True)
    return tuple(SequenceSums.of(score, length, DECILE_GROUPS) for score, length in columns)


@dataclass(frozen=True, kw_only=True)
class TextIdentity:
    """Which text was scored, and how it became sequences of tokens. None where that is not known."""

    split: str | None = None
    corpus: dict[str, Any] | None = field(default=None, repr=False)
    """What the data was prepared from."""
    corpus_hash: str | None = None
    """Of the split's tokens."""
    tokenizer: str | None = None
    tokenizer_hash: str | None = None
    detokenizer: str | None = None
    accounts: dict[str, Any] | None = field(default=None, repr=False)
    """What was read, held out and left out, as the manifest of the prepared text has it."""
    mode: str | None = None
    """How documents share sequences: wrap or pad."""
    eos: bool | str | None = None
    bos: bool | None = None
    length: int | None = None
    """Tokens of a sequence."""
    loss_on: str = "all"
    """What of a sequence is scored: all, or answers, each under its prompt."""

    @classmethod
    def of(cls, data: TokenDataset) -> TextIdentity:
        manifest = data.manifest
        return cls(
            split=data.split,
            corpus=manifest.source,
            corpus_hash=manifest.splits[data.split].sha256,
            tokenizer=manifest.tokenizer["name"],
            tokenizer_hash=manifest.tokenizer["hash"],
            detokenizer=manifest.source.get("detokenizer"),
            accounts=manifest.accounts,
            mode=manifest.mode,
            eos=manifest.eos,
            bos=False,
            length=data.length,
            loss_on=manifest.loss_on,
        )


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where a number was computed."""

    cpu: str = ""
    device: str = ""
    precision: str = ""


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """What one model pays less what another pays, in nats per token: negative where the first is better."""

    nats_per_token: float
    standard_error: float
    """Between blocks of the same draws."""
    unpaired_error: float
    """What the error would be if the two had been scored on draws of their own."""
    num_draws: int
    kinds: tuple[str, str]
    """nelbo or exact, of each. Of one of each, the difference is that of an upper bound and an exact value."""
    num_groups: int | None = None
    """Groups of sequences that the error is taken between, where `num_draws` are sequences, each scored once in one
    order; None: they are draws, in blocks."""

    @property
    def degrees(self) -> int:
        """Of freedom, of the error: blocks, or groups of sequences, but one."""
        return (self.num_draws // BLOCK_SIZE if self.num_groups is None else self.num_groups) - 1

    @property
    def is_significant(self) -> bool:
        """Of at least two standard errors, of more where there are few blocks (Student's t); where there is no error
        to be had, nothing is."""
        if self.degrees < 1 or self.nats_per_token == 0:
            return False
        return abs(self.nats_per_token) >= clear_factor(self.degrees) * self.standard_error


@dataclass(frozen=True, kw_only=True)
class OrderDifference(PairedDifference):
    """The same of one order of the tokens, over sequences that were each scored once."""

    name: str
    """left to right, or the own order of a sampler."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All paired differences of an evaluation to another one of the same draws."""

    name: str
    """Of the other model."""
    nats_per_token: float
    """What the other model pays."""
    file: str | None = None
    """The other's evaluation."""
    uniform: PairedDifference
    """Under the uniform schedule: PPL-U."""
    own: PairedDifference | None = None
    """Each one's own bound, where either has a masking schedule of its own."""
    orders: tuple[OrderDifference, ...] = ()
    """Left to right and in the own orders of samplers, where both models have them."""
    deciles: tuple[PairedDifference, ...] | None = None
    """By token frequency, the rarest first."""
    notes: tuple[str, ...] = ()
    """Why one of them is missing, a sentence each."""


class NamedCost(NamedTuple):
    """One of the likelihoods of a model."""

    name: str
    cost: Cost
    is_exact: bool
    """Else an upper bound."""


@dataclass(frozen=True, kw_only=True)
class Evaluation(Cost):
    """What a model pays for a text: an upper bound in any order (PPL-U), or a causal model's exact value.

    `nats_per_token`, `bits_per_character`, `perplexity_per_token` and the other units are attributes, each an upper
    bound where `kind` is "nelbo". `schedule` is the bound under the method's own masking schedule (PPL-S),
    `left_to_right` the exact value of a model that reads left to right, and `own_orders` are its values in the orders
    of samplers. They are different numbers of one model: `likelihoods` has them all, by name.
    """

    kind: Kind
    """nelbo: an unbiased estimate of an upper bound (masked diffusion); exact: the chain rule (causal)."""
    schedule: ScheduleBound | None = None
    """None for a strategy whose loss is no bound, and for a causal model."""
    left_to_right: OrderCost | None = None
    """Exact; None for a model that only fills masks. A causal model's is its main value."""
    own_orders: tuple[OrderCost, ...] = ()
    """In the orders of the samplers that were asked for."""
    t_step: tuple[StepBound, ...] = ()
    deciles: DecileCosts | None = None
    blocks: BlockSums | None = field(default=None, repr=False)
    num_draws: int = 0
    num_sequences: int = 0
    """That the text has; draws take each of them as often as any other."""
    seed: int = 0
    profile: MaskRateProfile | None = None
    """None for a causal model."""
    unigram: Cost | None = None
    """The same text under a model that knows how often each token occurs in the training text, and nothing else."""
    step: int | None = None
    """Training steps that the weights had; None for a model that is no run's."""
    checkpoint: str = ""
    checkpoint_hash: str | None = None
    text: TextIdentity = TextIdentity()
    code_version: str | None = None
    commit: str | None = None
    machine: Machine = Machine()
    zero_shot: str | None = None
    """The name of the set, in a zero-shot evaluation."""
    cautions: tuple[str, ...] = ()
    """Where the number is known to mislead, a sentence each."""
    against: Comparison | None = None
    file: Path | None = field(default=None, compare=False)
    """Where it is stored."""

    def __post_init__(self) -> None:
        if self.kind == "exact" and self.left_to_right is None:  # one of an earlier version
            exact = OrderCost(
                order=LEFT_TO_RIGHT,
                nats_per_token=self.nats_per_token,
                standard_error=self.standard_error,
                counts=self.counts,
            )
            object.__setattr__(self, "left_to_right", exact)

    @property
    def is_bound(self) -> bool:
        return self.kind == "nelbo"

    @property
    def degrees(self) -> int:
        """Of freedom, of the standard error: blocks of draws, or sequences of an exact value, but one."""
        return (self.num_draws // BLOCK_SIZE if self.is_bound else self.num_draws) - 1

    @property
    def interval95(self) -> tuple[float, float]:
        """The 95% interval of the nats per token by Student's t: of few blocks it is wider than twice the error. It is
        of this model and this text; NaN where there is no error."""
        half = interval_factor(self.degrees) * self.standard_error
        return self.nats_per_token - half, self.nats_per_token + half

    @property
    def likelihoods(self) -> list[NamedCost]:
        """All that the model has, by name: any order, left to right, the own orders of samplers."""
        found = [NamedCost("any order (PPL-U)", self, False)] if self.is_bound else []
        if self.schedule is not None and self.has_own_schedule:
            name = f"any order, its own masking by {self.schedule.strategy} (PPL-S)"
            found.append(NamedCost(name, self.schedule, False))
        return found + [NamedCost(cost.name, cost, cost.is_exact) for cost in self._orders()]

    def _orders(self) -> list[OrderCost]:
        return [*([] if self.left_to_right is None else [self.left_to_right]), *self.own_orders]

    @property
    def has_own_schedule(self) -> bool:
        """Whether PPL-S is another number than PPL-U."""
        return self.schedule is not None and self.schedule.strategy != "uniform"

    @property
    def own_bound(self) -> Cost:
        """What the method is judged by, a rule fixed beforehand: PPL-S where it has a schedule of its own and that is a
        bound, PPL-U (or the exact value) otherwise; never the lower of the two."""
        return self.schedule if self.schedule is not None and self.has_own_schedule else self

    def compare(self, other: Evaluation, *, bound: Bound = "uniform") -> PairedDifference:
        """The paired difference to another model, self - other: negative where this one is better.

        Both have to be of the same draws of the same text. `bound`: "uniform" compares PPL-U, "own" each model's own
        bound, "left_to_right" the exact values of two models that read left to right. Raises UserError with what
        differs between the two.
        """
        from mdlm_atat.scoring.paired import paired_difference  # which needs torch

        return paired_difference(self, other, bound=bound)

    def to_json(self) -> dict[str, Any]:
        """A dict that json.dumps takes. A number that is not finite (no standard error, say) is None."""
        record = {
            "format": FORMAT,
            "kind": self.kind,
            NATS: self.nats_per_token,
            "standard_error": self.standard_error,
            "standard_error_bits_per_character": self.bits_per_character_standard_error,
            **self.in_units(),
            "schedule": None if self.schedule is None else schedule_json(self.schedule),
            "left_to_right": None if self.left_to_right is None else order_json(self.left_to_right),
            "own_orders": [order_json(cost) for cost in self.own_orders],
            "t_step": [step_json(bound) for bound in self.t_step] if self.is_bound else None,
            "deciles": None if self.deciles is None else asdict(self.deciles),
            **({} if self.blocks is None else {"blocks": _blocks_json(self.blocks)}),
            **self._named("num_draws", "num_sequences", "seed"),
            **asdict(self.counts),
            "profile": None if self.profile is None else asdict(self.profile),
            "unigram": None if self.unigram is None else unigram_json(self.unigram),
            **self._named("step", "checkpoint", "checkpoint_hash"),
            **asdict(self.text),
            **self._named("code_version", "commit"),
            "machine": asdict(self.machine),
            **({} if self.file is None else {"file": str(self.file)}),
            **({} if self.zero_shot is None else {"zero_shot": self.zero_shot}),
            **({"cautions": self.cautions} if self.cautions else {}),
            **({} if self.against is None else {"against": asdict(self.against)}),
        }
        return json_ready(record)

    @classmethod
    def from_json(cls, content: Any, *, source: str | Path = "this") -> Evaluation:
        """The evaluation that `to_json` gave, of this version or of an earlier one; `source` names it in a message.

        Raises UserError for what is no evaluation, is damaged, or is of a later version.
        """
        if not isinstance(content, Mapping) or NATS not in content:
            raise UserError(f"{source} holds no evaluation; expected a file of a run's evals/")
        return read_record(
            _evaluation, content, source=source, what="evaluations", newest=FORMAT, again="run `evaluate(...)` again"
        )

    @classmethod
    def from_metrics(
        cls, line: Mapping[str, Any], *, kind: Kind, strategy: str = "uniform", counts: TextCounts | None = None
    ) -> Evaluation:
        """What a run measured of its validation text while it was trained, from a line of metrics.jsonl; `strategy` is
        its masking strategy. Raises UserError as `from_json` does."""
        counts = counts or TextCounts()
        own: dict[str, Any] = {
            "strategy": strategy,
            NATS: line.get(EVAL_OWN_NATS),
            "standard_error": line.get(EVAL_OWN_ERROR),
            "rate_nats_per_token": line.get("eval/schedule_rate_nats"),
        }
        left_to_right: dict[str, Any] = {
            "order": LEFT_TO_RIGHT,
            NATS: line.get(EVAL_CAUSAL_NATS),
            "standard_error": line.get(EVAL_CAUSAL_ERROR),
        }
        record = {
            "kind": kind,
            NATS: line.get(EVAL_NATS),
            "standard_error": line.get(EVAL_ERROR),
            "schedule": own if own[NATS] is not None else None,
            "left_to_right": left_to_right if left_to_right[NATS] is not None else None,
            "step": line.get("step"),
            **asdict(counts),
        }
        return cls.from_json(record, source="a line of metrics.jsonl")

    def save(self, file: str | Path) -> Path:
        """Write it as JSON, atomically, and return the path."""
        file = Path(file)
        write_json(file, replace(self, file=file).to_json())
        return file

    @classmethod
    def load(cls, file: str | Path) -> Evaluation:
        """A stored evaluation. Raises UserError for a file that is not there or holds none."""
        file = Path(file)
        content = load_json(file, expected="one of a run's evals/")
        return replace(cls.from_json(content, source=file), file=file)

    def __repr__(self) -> str:
        known = "" if math.isnan(self.bits_per_character) else f", {self.shown_bits()} bits per character"
        own = f", PPL-S {perplexity(self.own_bound.perplexity_per_token)}" if self.has_own_schedule else ""
        at_most, more = ("at most ", self._orders()) if self.is_bound else ("exactly ", list(self.own_orders))
        others = "".join(f", {cost.name} {'' if cost.is_exact else 'at most '}{cost.shown()}" for cost in more)
        return (
            f"Evaluation({at_most}{self.shown()} nats per token{known}, "
            f"perplexity {perplexity(self.perplexity_per_token)}{own}{others}; {self._about()})"
        )

    def _repr_html_(self) -> str:
        """A table for a notebook: a row a likelihood, a column a unit."""
        rows = [(name, cost, not is_exact) for name, cost, is_exact in self.likelihoods]
        if self.unigram is not None:
            rows.append(("unigram model", self.unigram, False))
        heads = ("", "nats per token", "bits per character", "perplexity per token", "perplexity per word")
        head = "".join(f"<th>{name}</th>" for name in heads)
        body = "".join(f"<tr>{_html_cells(*row)}</tr>" for row in rows)
        return f"<table><caption>{html.escape(self._about())}</caption><tr>{head}</tr>{body}</table>"

    def _named(self, *names: str) -> dict[str, Any]:
        return {name: getattr(self, name) for name in names}

    def _about(self) -> str:
        """How many draws of which text, by which weights."""
        drawn = f"{self.num_draws:,} {'draws' if self.is_bound else 'sequences'}"
        drawn += " of answers, each under its prompt," * (self.text.loss_on == "answers")
        text = f" of {self.zero_shot or self.text.split}" if self.zero_shot or self.text.split else ""
        tokens = f" ({self.text.tokenizer} tokens)" if self.text.tokenizer else ""
        model = self.checkpoint if self.step is None else f"step {self.step:,}"
        return f"{drawn}{text}{tokens}" + (f", {model}" if model else "")


def _html_cells(name: str, cost: Cost, is_bound: bool) -> str:
    at_most = "at most " if is_bound else ""
    values = (
        (cost.nats_per_token, cost.shown()),
        (cost.bits_per_character, cost.shown_bits()),
        (cost.perplexity_per_token, perplexity(cost.perplexity_per_token)),
        (math.nan if cost.why_not_per_word else cost.perplexity_per_word, perplexity(cost.perplexity_per_word)),
    )
    cells = ("" if math.isnan(value) else at_most + shown for value, shown in values)
    return f"<th>{html.escape(name)}</th>" + "".join(f"<td>{cell}</td>" for cell in cells)


def _blocks_json(blocks: BlockSums) -> dict[str, Any]:
    record: dict[str, Any] = {"size": blocks.size, "score": as_line(blocks.score), "length": as_line(blocks.length)}
    if blocks.schedule_score is not None:
        record["schedule_score"] = as_line(blocks.schedule_score)
    for name in ("decile_score", "decile_length"):
        columns = getattr(blocks, name)
        if columns is not None:
            record[name] = [as_line(column) for column in columns]
    if blocks.decile_sequences is not None:
        record["decile_sequences"] = [sums_json(sums) for sums in blocks.decile_sequences]
    return record


def _evaluation(content: Mapping[str, Any]) -> Evaluation:
    """From JSON. The first files left the kind out, and a causal model has no profile."""
    counts, unigram = read_fields(TextCounts, content), content.get("unigram")
    is_bound = any(content.get(name) is not None for name in ("profile", "schedule"))

    def bound(part: Mapping[str, Any]) -> dict[str, Any]:
        return {**part, "nats_per_token": part[NATS], "counts": counts}

    def in_order(part: Mapping[str, Any]) -> dict[str, Any]:
        sums = part.get("sequences")
        return {**bound(part), "sequences": None if sums is None else _columns(sums)}

    def own_order(part: dict[str, Any]) -> dict[str, Any]:
        # earlier versions gave it the name of the causal mode's
        return {**part, "order": LEFT_TO_RIGHT_UNMASKED} if part.get("order") == LEFT_TO_RIGHT else part

    values = {
        **bound(content),
        "kind": content.get("kind") or ("nelbo" if is_bound else "exact"),
        "schedule": None if content.get("schedule") is None else bound(content["schedule"]),
        "left_to_right": None if content.get("left_to_right") is None else in_order(content["left_to_right"]),
        "own_orders": [own_order(in_order(part)) for part in content.get("own_orders") or ()],
        "t_step": [bound(part) for part in content.get("t_step") or ()],
        "unigram": None if unigram is None else {**unigram, "counts": counts},
        "blocks": _columns(content["blocks"]) if content.get("blocks") else None,
        "text": content,
    }
    return read_fields(Evaluation, values)


def _columns(content: Mapping[str, Any]) -> dict[str, Any]:
    """With numbers for the lines of text."""

    def numbers(value: Any) -> Any:
        match value:
            case str():
                return [float(word) for word in value.split()]
            case list():
                return [numbers(line) for line in value]
            case Mapping():
                return _columns(value)
            case _:
                return value

    return {name: numbers(value) for name, value in content.items()}
