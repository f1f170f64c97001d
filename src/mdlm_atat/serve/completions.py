"""OpenAI's text completions: what their clients expect, whole or in chunks."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from typing import Any

from mdlm_atat.serve.answers import Made
from mdlm_atat.serve.events import plain
from mdlm_atat.serve.jobs import Filled
from mdlm_atat.serve.log_probs import LogProbs, log_probs_of
from mdlm_atat.serve.mailbox import Done, Framed
from mdlm_atat.serve.requests import CompletionRequest
from mdlm_atat.serve.service import Service
from mdlm_atat.serve.stops import Deltas, cut_at_stop
from mdlm_atat.serve.tokens import TokenNames

Chunk = dict[str, Any]


@dataclass(frozen=True)
class Choice:
    """A completion, or the next part of one in a stream."""

    index: int
    """Completion j of prompt i has the number i * n + j."""
    text: str
    finish_reason: str | None
    """length: all of max_tokens are used; stop: it ends before; null: more comes."""
    logprobs: LogProbs | None
    """Where they were asked for. Of a stream, with the last part."""


@dataclass(frozen=True)
class Usage:
    """How many tokens were read and made."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


@dataclass(frozen=True)
class Completions:
    """All completions; or, without usage, a part of a stream of them."""

    id: str
    object: str
    """text_completion"""
    created: int
    """When the server was started, seconds since 1970."""
    model: str
    choices: tuple[Choice, ...]
    usage: Usage | None = None


class Completion:
    """The completions of one request on their way. Choice j of prompt i has the number i * n + j."""

    def __init__(self, service: Service, request: CompletionRequest, created: int) -> None:
        self._service, self._request = service, request
        self._num = request.n or 1
        self._deltas = [Deltas(request.stops) for _ in range(self._num * len(request.prompts))]
        self._is_begun = [False] * len(self._deltas)
        self._choices: dict[int, Choice] = {}
        self._num_given = self._num_made = 0
        self._names = TokenNames(service.lm.tokenizer)
        self._head = Completions(f"cmpl-{secrets.token_hex(12)}", "text_completion", created, service.name, ())

    def frame(self, prompt: int, event: Framed) -> list[Chunk]:
        """The chunks that a frame of a completion gives."""
        return self._grown(prompt, event.number, self._service.written(event.frame), is_whole=False)

    def done(self, prompt: int, event: Done) -> list[Chunk]:
        """The last chunks of the completions of a prompt."""
        filled: Filled = event.value
        chunks = []
        for number, made in enumerate(filled.texts):
            text = made.text.fillings[0]
            kept, is_stopped = cut_at_stop(text, self._request.stops)
            num_made = len(made.last.tokens[gap_of(made)])
            has_ended = is_stopped or num_made < self._request.most_tokens or self._ends(made)
            log_probs = None
            if self._request.logprobs is not None:
                found = None if filled.log_probs is None else filled.log_probs[number]
                length = len(kept) if is_stopped else None
                log_probs = log_probs_of(self._names, made, length, found, echo=bool(self._request.echo))
            reason = "stop" if has_ended else "length"
            choice = self._choice(prompt, number, self._echoed(prompt) + kept, reason, log_probs)
            self._choices[choice.index] = choice
            self._num_made += num_made
            chunks += self._grown(prompt, number, text, is_whole=True)
            chunks.append(self._chunk(replace(choice, text="")))
        row = filled.texts[0].text.row
        assert row is not None
        self._num_given += len(row.tokens) - (row.gaps[0].stop - row.gaps[0].start)
        return chunks

    def whole(self) -> Completions:
        """All completions."""
        usage = Usage(self._num_given, self._num_made, self._num_given + self._num_made)
        return replace(self._head, choices=tuple(self._choices[index] for index in sorted(self._choices)), usage=usage)

    def _grown(self, prompt: int, number: int, text: str, *, is_whole: bool) -> list[Chunk]:
        index = prompt * self._num + number
        part = self._deltas[index].next(text, is_whole=is_whole)
        if part and not self._is_begun[index]:
            part = self._echoed(prompt) + part
            self._is_begun[index] = True
        elif is_whole and not self._is_begun[index]:
            part = self._echoed(prompt)
        return [self._chunk(self._choice(prompt, number, part, None))] if part else []

    def _echoed(self, prompt: int) -> str:
        return self._request.prompts[prompt] if self._request.echo else ""

    def _choice(
        self, prompt: int, number: int, text: str, reason: str | None, log_probs: LogProbs | None = None
    ) -> Choice:
        return Choice(prompt * self._num + number, text, reason, log_probs)

    def _chunk(self, choice: Choice) -> Chunk:
        chunk = plain(replace(self._head, choices=(choice,)))
        del chunk["usage"]  # as OpenAI's chunks have none
        return chunk

    def _ends(self, made: Made) -> bool:
        """Whether the model has ended the text itself."""
        eos_id = self._service.lm.tokenizer.eos_id
        return eos_id is not None and not self._request.suffix and eos_id in made.last.tokens[-1:]


def gap_of(made: Made) -> slice:
    row = made.text.row
    assert row is not None
    return row.gaps[0]
