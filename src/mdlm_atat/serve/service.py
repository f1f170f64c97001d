"""What a server can do, without the network: requests become jobs, and what the model makes of them answers."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mdlm_atat import plugins
from mdlm_atat.errors import UserError
from mdlm_atat.finetuning.classifier import TextClassifier
from mdlm_atat.lm import How, LanguageModel
from mdlm_atat.lm.given import Row, as_read
from mdlm_atat.lm.results import Frame
from mdlm_atat.samplers.catalogue import PRESET_SUMMARIES, PRESETS, RULES, describe
from mdlm_atat.samplers.seeds import text_seeds
from mdlm_atat.samplers.template import Gap, Template, parse_template
from mdlm_atat.serve.answers import Label, Labels, Scored, Scores, Shown, Texts, finite
from mdlm_atat.serve.jobs import Call, Fill, Filled, Plan, Tell, Watch, heard
from mdlm_atat.serve.limits import Limits
from mdlm_atat.serve.mailbox import Done
from mdlm_atat.serve.mistakes import RequestError
from mdlm_atat.serve.repeat import ModelNamed, repeat
from mdlm_atat.serve.requests import (
    ClassifyRequest,
    CompletionRequest,
    GenerateRequest,
    InfillRequest,
    Request,
    Sampled,
    ScoreRequest,
)
from mdlm_atat.serve.stops import cut_at_stop
from mdlm_atat.serve.tokens import is_byte

DEFAULT_MAX_TOKENS = 128  # after a prompt
LENGTH_DRAWS = 4  # for each length of a completion before a suffix: an editor does not wait for more
BLOCKS = 4  # the longest text is so many times as long as the model, if nothing else is said


@dataclass(frozen=True)
class Service:
    """A model and what may be asked of it."""

    lm: LanguageModel
    named: ModelNamed
    name: str
    about: str
    limits: Limits
    classifier: TextClassifier | None = None

    @property
    def max_tokens(self) -> int:
        return self.limits.max_tokens or BLOCKS * self.lm.max_length

    @property
    def has_importance(self) -> bool:
        return bool(getattr(self.lm, "has_importance", False))

    def describe(self) -> dict[str, Any]:
        """What GET /v1/model says."""
        lm, limits = self.lm, self.limits
        names = [*PRESETS, *plugins.names("sampler")] if lm.kind == "masked" else ["left_to_right"]
        how = {"steps": None, "temperature": 1.0, "top_p": 1.0}
        parameters = getattr(lm.network, "parameters", None)
        return {
            "name": self.name,
            "modes": sorted(lm.modes),
            "parameters": sum(weight.numel() for weight in parameters()) if parameters else None,
            "max_length": lm.max_length,
            "tokenizer": {"name": lm.tokenizer.name, "vocab_size": lm.tokenizer.vocab_size},
            "samplers": [{"name": name, "help": sampler_help(name)} for name in names],
            "defaults": {
                "infill": {"sampler": lm.gap_sampler, **how} if lm.kind == "masked" else None,
                "generate": {"sampler": lm.default_sampler, **how},
            },
            "limits": {
                "max_tokens": self.max_tokens,
                "max_texts": limits.max_texts,
                "max_seconds": limits.max_seconds,
                "max_characters": limits.max_characters,
            },
            "has_importance": self.has_importance,
            "classifier": None
            if self.classifier is None
            else {"labels": list(self.classifier.labels), "text_pair": self.classifier.is_pair},
            "about": self.about,
        }

    def check(self, request: Request) -> None:
        """Raise RequestError for a request over a limit that can be seen from here."""
        limits = self.limits
        number = sum(map(len, request.all_text()))
        if number > limits.max_characters:
            raise RequestError(
                f"the request has {number:,} characters of text, expected at most {limits.max_characters:,}", status=413
            )
        for name in ("num_samples", "candidates", "n"):
            too_many(name, getattr(request, name, None), limits.max_texts)
        for name in ("max_tokens", "min_tokens"):
            too_many(name, getattr(request, name, None), self.max_tokens)
        texts = getattr(request, "texts", getattr(request, "prompts", ()))
        number = len(texts) * (getattr(request, "n", None) or 1)
        if number > limits.max_texts:
            message = f"the request is for {number:,} texts, expected at most {limits.max_texts:,}"
            raise RequestError(message, status=413)

    def infill(self, request: InfillRequest, seed: int, tell: Tell) -> Fill:
        """The job of an infilling."""
        lm = self.lm
        how = sampling(request).with_default(lm.gap_sampler)
        template = self._refusing("text", lambda: tuple(parse_template(request.text, escape=request.escape)))

        def plan() -> Plan:
            self._check_length(template)
            _, warned = heard(lambda: lm.check_template(request.text, request.candidates, escape=request.escape))
            layout, _ = heard(lambda: lm.lay_out(template, request.length_draws))
            num_drawn = lm.num_candidates(request.candidates, request.num_samples)
            lm.check_pick(request.pick, request.candidates, how)
            seeds = text_seeds(seed, range(num_drawn))
            rows = [layout.row] * num_drawn
            return Plan(rows, seeds, [layout] * num_drawn, request.num_samples, request.pick, warned)

        is_quick = all(not isinstance(part, Gap) or part.shortest == part.longest for part in template)
        return self._fill(tell, how, lambda: self._refusing("text", plan), watch_of(request), is_quick)

    def generate(self, request: GenerateRequest, seed: int, max_tokens: int, tell: Tell) -> Fill:
        """The job of a continuation."""
        stops, reads_again = request.stop or (), request.logprobs is not None
        if reads_again and "causal" not in self.lm.modes:
            raise RequestError(
                "logprobs is for models that read left to right, and this one fills masks only: `confidence` has the "
                "probability with which each token was drawn",
                field="logprobs",
            )

        def plan() -> Plan:
            return self._after(request.prompt, max_tokens, request.num_samples, seed, reads_again=reads_again)

        watch, how = watch_of(request, self._stopped(stops) if stops else None), sampling(request)
        return self._fill(tell, how, lambda: self._refusing("prompt", plan), watch, True, request.logprobs)

    def max_tokens_of(self, request: GenerateRequest) -> int:
        """The tokens after the prompt that a request asks for."""
        if request.max_tokens is not None:
            return request.max_tokens
        try:
            left = self.lm.max_length - len(self.lm.tokenizer.encode(request.prompt))
        except UserError:  # said later, in better words
            left = 0
        return min(DEFAULT_MAX_TOKENS, left) if left > 0 else DEFAULT_MAX_TOKENS

    def complete(self, request: CompletionRequest, number: int, seed: int, tell: Tell) -> Fill:
        """The job of the completions of prompt `number`."""
        lm, prompt, num = self.lm, request.prompts[number], request.n or 1
        sampler = None
        if request.suffix:
            sampler = lm.gap_sampler
        elif "causal" in lm.modes and lm.tokenizer.eos_id is not None:
            sampler = "left_to_right:stop_at_eos=true"
        temperature = 1.0 if request.temperature is None else request.temperature
        how = How(sampler=sampler, temperature=temperature, top_p=request.top_p or 1.0)
        reads_again = request.logprobs is not None and not request.suffix and "causal" in lm.modes
        if request.logprobs and not reads_again:
            why = "with a suffix" if request.suffix else "of a model that fills masks only"
            raise RequestError(
                f"logprobs is {request.logprobs}, expected 0 {why}: the likeliest tokens are known left to right only, "
                "and 0 gives the log probability with which each token was drawn",
                field="logprobs",
            )
        seed = text_seeds(seed, range(number + 1))[number]

        def plan() -> Plan:
            if not request.suffix:
                return self._after(prompt, request.most_tokens, num, seed, reads_again=reads_again)
            most, least = request.most_tokens, request.min_tokens or 1
            template = [part for part in (prompt, Gap(least, most), request.suffix) if part != ""]
            self._check_length(template)
            choices = [(length,) for length in gap_lengths(least, most)]
            layout, warned = heard(lambda: lm.lay_out(template, LENGTH_DRAWS, among=choices, length_prior="uniform"))
            rows = [layout.row] * num
            return Plan(rows, text_seeds(seed, range(num)), warnings=warned)

        watch = Watch(
            frames=frozenset(range(num)) if request.stream else frozenset(),
            most_frames=2**31,
            stop=self._stopped(request.stops) if request.stops else None,
        )
        is_quick = not request.suffix or request.min_tokens == request.most_tokens
        num_likeliest = request.logprobs if reads_again else None
        return self._fill(tell, how, lambda: self._refusing("prompt", plan), watch, is_quick, num_likeliest)

    def score(self, request: ScoreRequest, tell: Tell) -> Call:
        """The job of a likelihood."""
        lm = self.lm

        def work() -> Scores:
            scores = []
            for number, text in enumerate(request.texts, start=1):
                tokens = lm.tokenizer.encode(text)
                if not tokens:
                    raise RequestError(f"text {number} is empty: there is nothing to score")
                if len(tokens) > self.max_tokens:
                    raise RequestError(f"text {number} has more than {self.max_tokens:,} tokens", status=413)
                draws = request.num_draws or 128
                found = lm.score(text, given=request.given, order=request.order, num_draws=draws)
                scores.append(
                    Scored(
                        found.nats,
                        finite(found.standard_error),
                        found.num_tokens,
                        found.nats_per_token,
                        found.is_exact,
                        found.likelihood,
                    )
                )
            return Scores(tuple(scores))

        return Call(tell, self.limits.max_seconds, lambda: self._refusing("texts", work))

    def classify(self, request: ClassifyRequest, tell: Tell) -> Call:
        """The job of labels. Raises RequestError where no classifier is served."""
        classifier = self.classifier
        if classifier is None:
            raise RequestError("this server has no classifier", status=404)

        def work() -> Labels:
            found = [
                Label(each.label, each.probabilities, each.score, each.is_cut)
                for each in classifier.predict(list(request.texts))
            ]
            return Labels(classifier.labels, tuple(found))

        return Call(tell, self.limits.max_seconds, lambda: self._refusing("texts", work))

    def answer(self, request: Sampled, seed: int, done: Done, *, max_tokens: int | None = None) -> Texts:
        """What a job of texts is answered with."""
        filled: Filled = done.value
        stops = stops_of(request)
        results = []
        shown: Shown | None = None
        for number, made in enumerate(filled.texts):
            row = made.text.row
            assert row is not None
            shown = shown or Shown(self.lm.tokenizer, row)
            start = len(row.around[0])
            text = made.text.text
            if stops:
                text = text[:start] + cut_at_stop(text[start:], stops)[0]
            results.append(shown.result(made, text, None if filled.log_probs is None else filled.log_probs[number]))
        numbers = list(filled.numbers)
        return Texts(
            f"txt-{secrets.token_hex(8)}",
            seed,
            tuple(results),
            numbers.index(0) if 0 in numbers else None,
            repeat(self.named, request, seed, max_tokens),
            round(done.elapsed_s, 3),
            tuple(filled.warnings),
        )

    def written(self, frame: Frame) -> str:
        """What stands in the first gap of a frame up to what is hidden."""
        row = frame.row
        assert row is not None
        return written(row, frame, self.lm.tokenizer)

    def stopped_at(self, request: Sampled, frame: Frame) -> int | None:
        """How many characters of the first gap of a frame stand before a string of `stop`; None: there is no such."""
        stops = stops_of(request)
        if not stops:
            return None
        kept, is_stopped = cut_at_stop(self.written(frame), stops)
        return len(kept) if is_stopped else None

    def _stopped(self, stops: Sequence[str]) -> Callable[[Frame], bool]:
        return lambda frame: cut_at_stop(self.written(frame), stops)[1]

    def _fill(
        self,
        tell: Tell,
        how: How,
        plan: Callable[[], Plan],
        watch: Watch,
        is_quick: bool,
        num_likeliest: int | None = None,
    ) -> Fill:
        seconds = self.limits.max_seconds
        return Fill(tell, seconds, how, plan, watch, is_quick=is_quick, num_likeliest=num_likeliest)

    def _after(self, prompt: str, max_tokens: int, num: int, seed: int, *, reads_again: bool) -> Plan:
        """`reads_again`: the texts are for `log_probs_left_to_right`."""
        if max_tokens:
            rows, warned = heard(lambda: self.lm.prompt_rows([prompt], max_new_tokens=max_tokens))
        else:
            rows, warned = heard(lambda: [self._only(prompt)])
        self._check_tokens(len(rows[0].tokens))
        if reads_again and len(rows[0].tokens) > self.lm.max_length:
            raise RequestError(
                f"the text has {len(rows[0].tokens):,} tokens, max_tokens included; logprobs is for at most "
                f"{self.lm.max_length:,}, the model's length",
                field="logprobs",
            )
        return Plan(rows * num, text_seeds(seed, range(num)), warnings=warned)

    def _only(self, prompt: str) -> Row:
        """A text that nothing is to be written after."""
        self.lm.check_given(prompt)
        tokens = self.lm.tokenizer.encode(as_read(prompt))
        if not tokens:
            raise RequestError("prompt is empty and max_tokens is 0: there is nothing to do", field="prompt")
        return Row(tokens, [slice(len(tokens), len(tokens))], [prompt, ""])

    def _check_length(self, template: Template) -> None:
        """Raise RequestError for a template of too many tokens, before anything is made of it."""
        number = sum(part.longest for part in template if isinstance(part, Gap))
        self._check_tokens(number)
        number += sum(len(self.lm.tokenizer.encode(part)) for part in template if isinstance(part, str))
        self._check_tokens(number)

    def _check_tokens(self, number: int) -> None:
        if number > self.max_tokens:
            raise RequestError(
                f"the text has {number:,} tokens, gaps included, expected at most {self.max_tokens:,}", status=413
            )

    def _refusing(self, field: str, work: Callable[[], Any]) -> Any:
        """Do what may refuse a field of the request."""
        try:
            return work()
        except UserError as error:
            raise RequestError.of(error, field=field) from error


def sampling(request: Sampled) -> How:
    return How(
        sampler=request.sampler,
        steps=request.steps,
        temperature=request.temperature,
        top_k=request.top_k,
        top_p=request.top_p,
    )


def stops_of(request: Sampled) -> Sequence[str]:
    return (request.stop or ()) if isinstance(request, GenerateRequest) else ()


def watch_of(request: Sampled, stop: Callable[[Frame], bool] | None = None) -> Watch:
    frames = frozenset({0} if request.stream else ())
    return Watch(frames=frames, importance=request.importance, stop=stop)


def written(row: Row, frame: Frame, tokenizer: Any) -> str:
    """What stands in the first gap up to the first [MASK] in it, without bytes that a byte behind them may still make
    another character."""
    gap = row.gaps[0]
    inside = frame.tokens[gap]
    end = gap.stop
    if tokenizer.mask_id in inside:
        end = gap.start + inside.index(tokenizer.mask_id)
        while end > gap.start and is_byte(tokenizer, frame.tokens[end - 1]):
            end -= 1
    text, spans = row.text(tokenizer, frame.tokens[:end])
    return text[slice(*spans[0])]


def gap_lengths(least: int, most: int) -> list[int]:
    """The lengths of a gap that are compared: most, half of it, and so on, and least; in rising order."""
    lengths = {least, most}
    while most > least:
        lengths.add(most)
        most //= 2
    return sorted(lengths)


def sampler_help(name: str) -> str:
    """One sentence about a sampler."""
    if name in PRESETS:
        return PRESET_SUMMARIES[name]
    return describe(name).summary if name in RULES else "of an installed package"


def too_many(name: str, value: int | None, most: int) -> None:
    if value is not None and value > most:
        raise RequestError(f"{name} is {value:,}, expected at most {most:,}", field=name, status=413)
