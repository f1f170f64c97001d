"""Bodies of requests: what they may say, and how they are read."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from types import UnionType
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin

from cattrs import BaseValidationError, Converter

from mdlm_atat import plugins
from mdlm_atat.checks import did_you_mean
from mdlm_atat.config.converter import name_of_field, strict_converter
from mdlm_atat.config.section import expect, kind_of
from mdlm_atat.errors import UserError
from mdlm_atat.formats import as_setting
from mdlm_atat.samplers.catalogue import ANY, PRESETS, check_order, split_spec
from mdlm_atat.samplers.template import MAX_DRAWS, QUICK_DRAWS
from mdlm_atat.serve.mistakes import RequestError

MAX_SEED = 2**53 - 1
"""The largest whole number that every client can write: JavaScript's are floats."""
MAX_STEPS = 10_000
NUMBERS_OF_STEPS = ("num_steps", "least_steps")
MAX_STOPS = 16
MAX_LIKELIEST = 5
R = TypeVar("R", bound="Request")


@dataclass(frozen=True, kw_only=True)
class Request:
    """The body of a request."""

    IGNORES_UNKNOWN: ClassVar[bool] = False
    """Whether fields that it does not know are passed over; else they are refused by name."""

    def all_text(self) -> Sequence[str]:
        """All text that it holds, for limits on its length."""
        return ()


@dataclass(frozen=True, kw_only=True)
class Sampled(Request):
    """What requests for texts have in common."""

    sampler: str | None = None
    """A sampler with options, NAME[:OPTION=VALUE,...]; GET /v1/model lists them (default: the model's)."""
    steps: int | None = None
    """Steps, for samplers that have them (default: the sampler's)."""
    temperature: float = 1.0
    """Logits are divided by this; 0 always takes the likeliest token."""
    top_k: int = 0
    """Draw among the k likeliest tokens; 0: all."""
    top_p: float = 1.0
    """Draw among the likeliest tokens whose probabilities reach p; 1: all."""
    seed: int | None = None
    """The same seed gives the same texts (default: one is drawn, and the answer names it)."""
    num_samples: int = 1
    """How many texts are returned."""
    importance: bool = False
    """Return the importance of each token too, where the model knows it."""
    stream: bool = False
    """Answer with server-sent events, a frame for each step."""

    def __post_init__(self) -> None:
        if self.sampler is not None:
            check_sampler(self.sampler)
        between("steps", self.steps, 1, MAX_STEPS)
        between("temperature", self.temperature, 0, 1e6)
        between("top_k", self.top_k, 0, 2**31)
        between("top_p", self.top_p, 0, 1)
        if self.top_p == 0:
            raise RequestError("top_p is 0, expected above 0 and at most 1 (all tokens)", field="top_p")
        between("seed", self.seed, 0, MAX_SEED)
        between("num_samples", self.num_samples, 1, math.inf)


@dataclass(frozen=True, kw_only=True)
class InfillRequest(Sampled):
    """Fill the gaps of a text."""

    text: str
    r"""A text with gaps: [MASK] is one token, [MASK:5] five, [MASK:3-8] as many of three to eight as suit best."""
    escape: bool = False
    r"""Read a backslash in the text as an escape: \[MASK] is no gap, \n a line end, \\ a backslash."""
    candidates: int | None = None
    """Draw so many ways to fill the text and return the likeliest, for models that read left to right too (default: as
    many as num_samples)."""
    pick: Literal["likeliest", "fair"] = "likeliest"
    """Return the likeliest of the candidates; or fair: some that are drawn among them, each by its probability left to
    right over that with which it was made. They are as varied as the model's texts are."""
    length_draws: int = QUICK_DRAWS
    """Draws to choose the lengths of gaps by: more are surer and slower, and from 64 on they are drawn with more
    care."""

    def __post_init__(self) -> None:
        super().__post_init__()
        between("length_draws", self.length_draws, 2, MAX_DRAWS)
        between("candidates", self.candidates, 1, math.inf)

    def all_text(self) -> Sequence[str]:
        return [self.text]


@dataclass(frozen=True, kw_only=True)
class GenerateRequest(Sampled):
    """Go on from a prompt."""

    prompt: str = ""
    """What the text begins with."""
    max_tokens: int | None = None
    """Tokens after the prompt (default: what is left of the model's length, at most 128)."""
    stop: tuple[str, ...] | None = None
    """Strings that end a text where it comes to the first of them; they are left out."""
    logprobs: int | None = None
    """Return for each token that is made log p(token | all before it), exact and the model's own, whatever temperature,
    top_k and top_p are; and the same of so many of the likeliest tokens, 0 to 5. For models that read left to right."""

    def __post_init__(self) -> None:
        super().__post_init__()
        between("max_tokens", self.max_tokens, 1, math.inf)
        between("logprobs", self.logprobs, 0, MAX_LIKELIEST)
        check_stops(self.stop)

    def all_text(self) -> Sequence[str]:
        return [self.prompt, *(self.stop or ())]


@dataclass(frozen=True, kw_only=True)
class ScoreRequest(Request):
    """What texts cost the model: -log p of each, in nats."""

    texts: tuple[str, ...]
    """The texts."""
    given: str | None = None
    """A context that each text goes on from: -log p of the text, given the context."""
    order: str | None = None
    """left_to_right, any, or a sampler, whose own order it is (default: left_to_right for a model that reads so, else
    any)."""
    num_draws: int | None = None
    """Draws of a likelihood that is estimated (default: 128)."""

    def __post_init__(self) -> None:
        if not self.texts:
            raise RequestError("texts is empty: there is nothing to score", field="texts")
        if self.order is not None:
            check_sampler(self.order, "order")
        between("num_draws", self.num_draws, 2, 4096)

    def all_text(self) -> Sequence[str]:
        return [*self.texts, self.given or ""]


@dataclass(frozen=True, kw_only=True)
class ClassifyRequest(Request):
    """Labels for texts, by the classifier that is served."""

    texts: tuple[str | tuple[str, str], ...]
    """The texts; pairs of texts for a classifier of pairs."""

    def __post_init__(self) -> None:
        if not self.texts:
            raise RequestError("texts is empty: there is nothing to classify", field="texts")

    def all_text(self) -> Sequence[str]:
        return [part for text in self.texts for part in ([text] if isinstance(text, str) else text)]


@dataclass(frozen=True, kw_only=True)
class CompletionRequest(Request):
    """OpenAI's text completion; fields that are not listed here are ignored."""

    IGNORES_UNKNOWN: ClassVar[bool] = True

    prompt: str | tuple[str, ...] = ""
    """What comes before the completion: a text, or several."""
    suffix: str | None = None
    """What comes after it: the completion fills the gap between the two, for models that fill masks."""
    max_tokens: int | None = None
    """The most tokens of a completion (default: 16); 0, without a suffix: none, to have the prompt scored by echo and
    logprobs."""
    min_tokens: int | None = None
    """With a suffix: the fewest tokens (default: 1). Where this is max_tokens the length is fixed; else max_tokens,
    half of it, a quarter and so on are compared by how likely they make the text that is given."""
    temperature: float | None = None
    """As in the other requests (default: 1)."""
    top_p: float | None = None
    """As in the other requests (default: 1)."""
    n: int | None = None
    """Completions of each prompt (default: 1)."""
    stop: str | tuple[str, ...] | None = None
    """Strings that end a completion where it comes to the first of them; they are left out."""
    seed: int | None = None
    """The same seed gives the same completions (default: one is drawn)."""
    stream: bool | None = None
    """Answer with server-sent events."""
    logprobs: int | None = None
    """Return the log probability of each token, and those of so many of the likeliest, 0 to 5. Of a model that reads
    left to right: log p(token | all before it), exact and the model's own, whatever temperature and top_p are. With a
    suffix, or of a model that fills masks only, 0 is all there is: the log probability with which the token was drawn,
    given what was visible then, after temperature and top_p. The last chunk of a stream has them all."""
    echo: bool | None = None
    """Return the prompt before the completion, with the log probabilities of its tokens."""
    model: str | None = None
    """Any name: there is one model."""

    def __post_init__(self) -> None:
        if not self.prompts:
            raise RequestError("prompt is an empty list: there is nothing to complete", field="prompt")
        between("max_tokens", self.max_tokens, 1 if self.suffix else 0, math.inf)
        for name in ("min_tokens", "n"):
            between(name, getattr(self, name), 1, math.inf)
        between("temperature", self.temperature, 0, 1e6)
        between("top_p", self.top_p, 0, 1)
        between("seed", self.seed, 0, MAX_SEED)
        between("logprobs", self.logprobs, 0, MAX_LIKELIEST)
        check_stops(self.stops)
        if self.top_p == 0:
            raise RequestError("top_p is 0, expected above 0 and at most 1 (all tokens)", field="top_p")
        if (self.min_tokens or 0) > self.most_tokens:
            raise RequestError(
                f"min_tokens is {self.min_tokens}, expected at most max_tokens, {self.most_tokens}", field="min_tokens"
            )

    @property
    def prompts(self) -> tuple[str, ...]:
        return (self.prompt,) if isinstance(self.prompt, str) else self.prompt

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else self.stop or ()

    @property
    def most_tokens(self) -> int:
        return 16 if self.max_tokens is None else self.max_tokens

    def all_text(self) -> Sequence[str]:
        return [*self.prompts, self.suffix or "", *self.stops]


def check_sampler(spec: str, field: str = "sampler") -> None:
    """Refuse an unknown sampler, and one that is no sampler of this installation: `package.module:Class` would run code
    of the client's choice. In the field `order` any order is meant too."""
    is_order = field == "order"
    try:
        name, options = split_spec(spec, is_order=is_order)
        if is_order:
            check_order(spec)
    except UserError as error:
        raise RequestError(str(error), field=field) from error
    if name not in [*PRESETS, *plugins.names("sampler"), *([ANY] if is_order else [])]:
        raise RequestError(f"sampler {name!r} is not one that this server has; GET /v1/model lists them", field=field)
    for option in options.split(","):
        key, _, value = (part.strip() for part in option.partition("="))
        if key in NUMBERS_OF_STEPS and is_over(value, MAX_STEPS):
            raise RequestError(f"{key} is {value[:20]}, expected at most {MAX_STEPS:,}", field=field)


def is_over(value: str, most: int) -> bool:
    """Whether an option is a whole number above `most`, as int() reads it: with a sign, underscores, digits of any
    script."""
    try:
        return int(value) > most
    except ValueError:  # refused by the sampler, in better words
        return False


def check_stops(stops: Sequence[str] | None) -> None:
    if stops is not None and len(stops) > MAX_STOPS:
        raise RequestError(f"stop has {len(stops)} strings, expected at most {MAX_STOPS}", field="stop")
    if stops is not None and "" in stops:
        raise RequestError("stop has an empty string, which ends every text before it begins", field="stop")


def between(name: str, value: float | None, least: float, most: float) -> None:
    if value is not None and not least <= value <= most:
        expected = f"at least {least}" if most == math.inf else f"from {least:,} to {most:,}"
        raise RequestError(f"{name} is {value}, expected {expected}", field=name)


def parse_json(body: bytes) -> Any:
    """The value that a body holds. Raises RequestError for what is no JSON, for NaN and infinity, for numbers too long,
    for a name that stands twice in one object, and for half of a surrogate pair, which is no character."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
            raise RequestError(f"{twice} stands in the body twice", field=twice)
        return found

    def refused(word: str) -> Any:
        raise RequestError(f"{word} is no JSON")

    try:
        value = json.loads(body, object_pairs_hook=once, parse_constant=refused)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise RequestError("the body holds half of a surrogate pair, such as \\ud800, which is no character") from error
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is no JSON: {str(error)[:200]}") from error
    return value


def read_request(kind: type[R], body: Any) -> R:
    """A request of a kind from its body. Raises RequestError, which names the field, for what the kind does not say."""
    if not isinstance(body, dict):
        raise RequestError(f"expected a JSON object, found {type(body).__name__}")
    known = [part.name for part in fields(kind)]
    for name in body:
        if name not in known and not kind.IGNORES_UNKNOWN:
            hint = did_you_mean(name, known) or f"; the fields are {', '.join(known)}"
            raise RequestError(f"there is no field {name!r}{hint}", field=name)
    given = {name: body[name] for name in known if name in body}
    try:
        return _converter().structure(given, kind)
    except BaseValidationError as group:
        raise _first(group, None) from group


def _first(error: BaseException, field: str | None) -> RequestError:
    if isinstance(error, BaseValidationError):
        inner = error.exceptions[0]
        return _first(inner, field or name_of_field(inner))
    if isinstance(error, RequestError):
        return error
    if isinstance(error, KeyError):
        return RequestError(f"{error.args[0]} is missing", field=error.args[0])
    if isinstance(error, UserError):
        return RequestError(f"{field}: {error}" if field else str(error), field=field)
    raise error


@cache
def _converter() -> Converter:
    converter = strict_converter()
    converter.register_structure_hook_func(lambda hint: get_origin(hint) in (Literal, tuple), _expect_any)
    converter.register_structure_hook_func(lambda hint: get_origin(hint) in (Union, UnionType), _expect_any)
    return converter


def _expect_any(value: Any, hint: Any) -> Any:
    """`expect`, and unions."""
    if get_origin(hint) in (Union, UnionType):
        kinds = get_args(hint)
        if value is None and type(None) in kinds:
            return None
        kinds = [kind for kind in kinds if kind is not type(None)]
        for kind in kinds[:-1]:
            try:
                return _expect_any(value, kind)
            except UserError:
                continue
        if len(kinds) == 1:
            return _expect_any(value, kinds[0])
        try:
            return _expect_any(value, kinds[-1])
        except UserError as error:
            raise UserError(f"expected {' or '.join(map(_words, kinds))}, found {as_setting(value)[:80]}") from error
    if get_origin(hint) is tuple and isinstance(value, list):
        kinds = get_args(hint)[:1] * len(value) if get_args(hint)[-1] is ... else get_args(hint)
        if len(kinds) == len(value):
            return tuple(_expect_any(item, kind) for item, kind in zip(value, kinds, strict=True))
    if get_origin(hint) is tuple:
        raise UserError(f"expected {_words(hint)}, found {as_setting(value)[:80]}")
    return expect(value, hint)


def _words(hint: Any) -> str:
    if get_origin(hint) is tuple and get_args(hint)[-1] is not ...:
        return f"a pair of {_words(get_args(hint)[0])}s"
    if get_origin(hint) is tuple:
        return f"a list of {_words(get_args(hint)[0])}"
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(map(_words, get_args(hint)))
    return kind_of(hint)
