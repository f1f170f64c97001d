"""A language model as lm-evaluation-harness asks for one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from torch import nn

from mdlm_atat import __version__
from mdlm_atat.checks import whole
from mdlm_atat.device import Precision
from mdlm_atat.harness.finished import Finished
from mdlm_atat.harness.ranks import Ranks, launched
from mdlm_atat.lm.continuations import (
    Windows,
    left_to_right,
    score_windows,
    windows,
    windows_after,
    written_greedily,
)
from mdlm_atat.lm.how import How
from mdlm_atat.lm.scoring import order_name
from mdlm_atat.runs.model import Model, open_model
from mdlm_atat.samplers.catalogue import ANY
from mdlm_atat.samplers.left_to_right import LeftToRight
from mdlm_atat.samplers.loop import trait
from mdlm_atat.samplers.seeds import context_seed, mix_seed
from mdlm_atat.scoring.cost import LEFT_TO_RIGHT
from mdlm_atat.scoring.draws import DrawSettings
from mdlm_atat.serve.stops import cut_at_stop

MAX_NEW_TOKENS = 256
"""Where a task does not say how much may be written, as in the harness's own models."""
STEPS_BETWEEN_LOOKS = 8
"""At whether texts that are written from left to right have come to a string that ends them."""
MOST_TOGETHER = 16
"""Requests of which many masks are scored, between two looks at the clock and the file of answers."""

Answer = TypeVar("Answer")


class HarnessModel(LM):
    """A model for lm-evaluation-harness, which gives log-likelihoods, exact or bounds, and writes texts.

    log p of an answer after its question is `lm.score(answer, given=question)`, with the random numbers of the question
    for all of its answers; that of a whole text is cut into windows of the model's length, each but the first with one
    token before it, so that every token is scored once. Whether an answer is what the model would write itself is told
    by its sampler at temperature 0, from left to right where it can. No bos is added: a network that reads left to
    right has a start of its own.
    """

    def __init__(
        self,
        pretrained: Model,
        *,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        precision: Precision = "auto",
        num_draws: int = 128,
        seed: int = 0,
        order: str | None = None,
        sampler: str | None = None,
        max_gen_toks: int = MAX_NEW_TOKENS,
        trust_plugins: bool = False,
        ranks: Ranks | None = None,
        on_progress: Callable[[str, int, int], None] | None = None,
    ) -> None:
        """`pretrained`: a run, a folder, a name or a model, as `open_model` takes it. `batch_size`: texts or masked
        rows that go through the network together (default: 32). `num_draws`, `seed` and `order`: as for `lm.score`.
        `sampler`: what texts are written by (default: the model's own). `max_gen_toks`: tokens that are written where
        the task does not say. `ranks`: the processes that share the requests out (default: those that were launched).
        `on_progress(kind, done, total)` hears of the requests of this process."""
        super().__init__()
        del max_batch_size
        self.batch_size = 32 if batch_size in (None, "auto") else int(batch_size)
        for name, value, least in (
            ("batch_size", self.batch_size, 1),
            ("num_draws", num_draws, 1),
            ("seed", seed, 0),
            ("max_gen_toks", max_gen_toks, 1),
        ):
            whole(f"`{name}=`", value, least)
        self.ranks = launched(precision) if ranks is None else ranks
        self.lm = open_model(
            pretrained, device=device or self.ranks.device, precision=precision, trust_plugins=trust_plugins
        )
        self._device = self.lm.device
        self.order = self.lm.checked_order(order)
        self.num_draws, self.seed, self.sampler, self.max_gen_toks = num_draws, seed, sampler, max_gen_toks
        if not self.reads_exactly:
            self._draws().check_enough()
        self._on_progress = on_progress
        self._settings = self._all_settings()
        self.finished = Finished(None, self._settings)

    @property
    def reads_exactly(self) -> bool:
        """Whether log-likelihoods are exact, by the chain rule."""
        return self.order == LEFT_TO_RIGHT and "causal" in self.lm.modes

    @property
    def is_bound(self) -> bool:
        """Whether log-likelihoods are estimates of a lower bound, so that a perplexity is one of an upper bound."""
        if self.reads_exactly or self.order == ANY:
            return not self.reads_exactly
        return not trait(self.lm.order_rule(self.order), "order_is_deterministic")

    @property
    def likelihood(self) -> str:
        """Which likelihood is asked, in words."""
        if self.reads_exactly:
            return "left to right, exact"
        if self.order == ANY:
            return f"any order, an upper bound from {self.num_draws} draws"
        name = self.lm.name_of_order(self.order)
        return f"{name}, an upper bound from {self.num_draws} orders" if self.is_bound else f"{name}, exact"

    @property
    def written_by(self) -> str:
        """The sampler that texts are written by."""
        return self.sampler or self.lm.default_sampler

    def settings(self) -> dict[str, Any]:
        """All that an answer depends on besides the request."""
        return dict(self._settings)

    def _all_settings(self) -> dict[str, Any]:
        return {
            "version": __version__,
            "weights": self.lm.fingerprint() if isinstance(self.lm.network, nn.Module) else None,
            "tokenizer": self.lm.tokenizer.fingerprint(),
            "precision": self.lm.precision,
            "order": order_name(self.order),
            "num_draws": None if self.reads_exactly else self.num_draws,
            "seed": self.seed,
            "sampler": self.written_by,
            "max_gen_toks": self.max_gen_toks,
        }

    def get_model_info(self) -> dict[str, Any]:
        """What the harness stores with its results."""
        return {
            "model_source": "mdlm-atat",
            "model": str(self.lm.home or type(self.lm.network).__name__),
            "likelihood": self.likelihood,
            "is_bound": self.is_bound,
            **self.settings(),
        }

    @property
    def tokenizer_name(self) -> str:
        return self.lm.tokenizer.name

    def loglikelihood(self, requests: Sequence[Instance], **_: Any) -> list[tuple[float, bool]]:
        """(log p of each continuation after its context, whether the model would write it itself)."""
        size = self.batch_size if self.reads_exactly else min(self.batch_size, MOST_TOGETHER)
        asked = [request.args for request in requests]
        found = self._answer("loglikelihood", asked, self._continuations, size)
        return [(nats, is_greedy) for nats, is_greedy in found]

    def _continuations(self, asked: Sequence[tuple[Any, ...]]) -> list[tuple[float, bool]]:
        contexts, texts = [str(context) for context, _ in asked], [str(text) for _, text in asked]
        chosen = windows_after(self.lm, contexts, texts, self.seed)
        if self.reads_exactly and self._writes_from_the_left:
            found = iter(left_to_right(self.lm, [part for text in chosen for part in text.parts], self._draws()))
            read = [[next(found) for _ in text.parts] for text in chosen]
            return [(-sum(part.nats for part in parts), min(part.is_greedy for part in parts)) for parts in read]
        scores = score_windows(self.lm, chosen, order=self.order, evaluations=None, draws=self._draws())
        parts = [part for text in chosen for part in text.parts]
        greedy = iter(written_greedily(self.lm, parts, How(sampler=self.sampler), self.batch_size))
        is_greedy = [min(next(greedy) for _ in text.parts) for text in chosen]
        return [(-score.nats, each) for score, each in zip(scores, is_greedy, strict=True)]

    @property
    def _writes_from_the_left(self) -> bool:
        return "causal" in self.lm.modes and self.written_by == LEFT_TO_RIGHT

    def loglikelihood_rolling(self, requests: Sequence[Instance], **_: Any) -> list[float]:
        """log p of each text."""
        size = self.batch_size if self.reads_exactly else min(self.batch_size, MOST_TOGETHER)
        asked = [request.args for request in requests]
        return self._answer("loglikelihood_rolling", asked, self._whole_texts, size)

    def _whole_texts(self, asked: Sequence[tuple[Any, ...]]) -> list[float]:
        chosen = []
        for (text,) in asked:
            tokens = self.lm.tokenizer.encode(text)
            seed = context_seed(self.seed, text)  # draws of different texts are independent
            chosen.append(windows([], tokens, self.lm.max_length, overlap=1, seed=seed) if tokens else Windows([]))
        with_tokens = [text for text in chosen if text.parts]
        scores = iter(score_windows(self.lm, with_tokens, order=self.order, evaluations=None, draws=self._draws()))
        return [-next(scores).nats if text.parts else 0.0 for text in chosen]

    def generate_until(self, requests: Sequence[Instance], **_: Any) -> list[str]:
        """What the model writes after each context, up to a string that ends it, or eos: from left to right where it
        can, else by its default sampler, which fills all places that there may be and is then cut."""
        asked: list[tuple[Any, ...]] = []
        times: Counter[str] = Counter()
        arguments: list[Any] = [request.args for request in requests]
        for context, given in arguments:
            options: dict[str, Any] = dict(normalize_gen_kwargs(given, self.max_gen_toks))
            options.setdefault("temperature", 1.0 if options.get("do_sample") else 0.0)
            name = self.finished.key("generate_until", (context, options))
            asked.append((context, options, times[name] if options["temperature"] > 0 else 0))
            times[name] += 1
        return self._answer("generate_until", asked, self._texts, self.batch_size)

    def _texts(self, asked: Sequence[tuple[Any, ...]]) -> list[str]:
        """Texts after contexts, by options, the how manieth each."""
        made: list[str] = [""] * len(asked)
        alike: dict[str, list[int]] = {}
        for number, (_, options, _) in enumerate(asked):
            alike.setdefault(repr(sorted(options.items())), []).append(number)
        for numbers in alike.values():
            contexts = [str(asked[number][0]) for number in numbers]
            seeds = [
                mix_seed(context_seed(self.seed, context), asked[n][2])
                for n, context in zip(numbers, contexts, strict=True)
            ]
            for number, text in zip(numbers, self._written(contexts, asked[numbers[0]][1], seeds), strict=True):
                made[number] = text
        return made

    def _written(self, contexts: Sequence[str], options: dict[str, Any], seeds: Sequence[int]) -> list[str]:
        lm, stops = self.lm, [stop for stop in options.get("until", []) if stop]
        sampler = self.sampler
        if sampler is None and "causal" in lm.modes and lm.tokenizer.eos_id is not None:
            sampler = "left_to_right:stop_at_eos=true"
        given = {name: options[name] for name in ("top_k", "top_p") if options.get(name) is not None}
        how = How(sampler=sampler, temperature=options["temperature"], **given)
        rows = lm.prompt_rows(contexts, max_new_tokens=options["max_gen_toks"])
        batches: dict[tuple[int, bool], list[int]] = {}
        for number, batch in enumerate(lm.batches_of(rows, how)):
            batches.setdefault(batch, []).append(number)
        texts = [""] * len(rows)
        for numbers in batches.values():
            filling = lm.filling([rows[number] for number in numbers], how, [seeds[number] for number in numbers])
            from_the_left = isinstance(getattr(filling.rule, "inner", filling.rule), LeftToRight)
            begins = [len(contexts[number]) for number in numbers]
            left: set[int] = set()
            for step in filling:
                if not from_the_left or step % STEPS_BETWEEN_LOOKS:
                    continue
                for row, begin in enumerate(begins):
                    if row not in left and cut_at_stop(filling.frame(row).text[begin:], stops)[1]:
                        filling.leave(row)
                        left.add(row)
                if len(left) == len(numbers):
                    break
            for row, (number, begin) in enumerate(zip(numbers, begins, strict=True)):
                tokens, start = filling.text(row).tokens, rows[number].gaps[0].start
                if lm.tokenizer.eos_id in tokens[start:]:
                    tokens = tokens[: tokens.index(lm.tokenizer.eos_id, start)]
                text, _ = rows[number].text(lm.tokenizer, tokens)
                texts[number] = cut_at_stop(text[begin:], stops)[0]
        return texts

    def _draws(self) -> DrawSettings:
        return DrawSettings(num_draws=self.num_draws, seed=self.seed, batch_size=self.batch_size)

    def _answer(
        self,
        kind: str,
        requests: Sequence[tuple[Any, ...]],
        work: Callable[[Sequence[tuple[Any, ...]]], list[Answer]],
        size: int,
    ) -> list[Answer]:
        """The answers to all requests, in order. Those that are not known are shared out over the processes, longest
        first, and worked on `size` at a time; equal ones are one. Every process has all answers in the end."""
        keys = [self.finished.key(kind, request) for request in requests]
        asked = dict(zip(keys, requests, strict=True))
        todo = sorted(set(asked) - set(self.finished.answers), key=lambda key: (-_length(asked[key]), key))
        mine = todo[self.ranks.rank :: self.ranks.num_ranks]
        for start in range(0, len(mine), size):
            chunk = mine[start : start + size]
            self.finished.add(dict(zip(chunk, work([asked[key] for key in chunk]), strict=True)))
            if self._on_progress is not None:
                self._on_progress(kind, start + len(chunk), len(mine))
        for share in self.ranks.gather_objects({key: self.finished.answers[key] for key in mine}):
            self.finished.answers |= share
        return [self.finished.answers[key] for key in keys]


def _length(arguments: tuple[Any, ...]) -> int:
    """About how long a request is."""
    return sum(len(part) for part in arguments if isinstance(part, str))


register_model("mdlm-atat")(HarnessModel)
