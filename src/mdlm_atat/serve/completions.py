"""OpenAI's text completions: what their clients expect, whole or in chunks."""

from __future__ import annotations

import math
import secrets
from typing import Any

from mdlm_atat.serve.answers import Made, Shown
from mdlm_atat.serve.jobs import Filled
from mdlm_atat.serve.mailbox import Done, Framed
from mdlm_atat.serve.requests import CompletionRequest
from mdlm_atat.serve.service import Service
from mdlm_atat.serve.stops import Deltas, cut_at_stop


class Completion:
    """The completions of one request on their way. Choice j of prompt i has the number i * n + j."""

    def __init__(self, service: Service, request: CompletionRequest, created: int) -> None:
        self._service, self._request = service, request
        self._num = request.n or 1
        self._deltas = [Deltas(request.stops) for _ in range(self._num * len(request.prompts))]
        self._is_begun = [False] * len(self._deltas)
        self._choices: dict[int, dict[str, Any]] = {}
        self._num_given = self._num_made = 0
        self._head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": created,
            "model": service.name,
        }

    def frame(self, prompt: int, event: Framed) -> list[dict[str, Any]]:
        """The chunks that a frame of a completion gives."""
        return self._grown(prompt, event.number, self._service.written(event.frame), is_whole=False)

    def done(self, prompt: int, event: Done) -> list[dict[str, Any]]:
        """The last chunks of the completions of a prompt."""
        filled: Filled = event.value
        chunks = []
        for number, made in enumerate(filled.texts):
            text = made.text.fillings[0]
            kept, is_stopped = cut_at_stop(text, self._request.stops)
            num_made = len(made.last.tokens[gap_of(made)])
            has_ended = is_stopped or num_made < self._request.most_tokens or self._ends(made)
            choice = self._choice(prompt, number, self._echoed(prompt) + kept, "stop" if has_ended else "length")
            if self._request.logprobs is not None:
                choice["logprobs"] = self._logprobs(made, kept, len(self._echoed(prompt)))
            self._choices[choice["index"]] = choice
            self._num_made += num_made
            chunks += self._grown(prompt, number, text, is_whole=True)
            chunks.append(self._chunk({**choice, "text": "", "logprobs": None}))
        row = filled.texts[0].text.row
        assert row is not None
        self._num_given += len(row.tokens) - (row.gaps[0].stop - row.gaps[0].start)
        return chunks

    def whole(self) -> dict[str, Any]:
        """All completions."""
        usage = {
            "prompt_tokens": self._num_given,
            "completion_tokens": self._num_made,
            "total_tokens": self._num_given + self._num_made,
        }
        return {**self._head, "choices": [self._choices[index] for index in sorted(self._choices)], "usage": usage}

    def _grown(self, prompt: int, number: int, text: str, *, is_whole: bool) -> list[dict[str, Any]]:
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

    def _choice(self, prompt: int, number: int, text: str, reason: str | None) -> dict[str, Any]:
        return {"index": prompt * self._num + number, "text": text, "finish_reason": reason, "logprobs": None}

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        return {**self._head, "choices": [choice]}

    def _ends(self, made: Made) -> bool:
        """Whether the model has ended the text itself."""
        eos_id = self._service.lm.tokenizer.eos_id
        return eos_id is not None and not self._request.suffix and eos_id in made.last.tokens[-1:]

    def _logprobs(self, made: Made, kept: str, start: int) -> dict[str, Any]:
        row = made.text.row
        assert row is not None
        whole = made.text.text[: len(row.around[0]) + len(kept)]
        result = Shown(self._service.lm.tokenizer, row).result(made, whole)
        tokens = next(piece.tokens for piece in result.pieces if piece.gap == 0)
        offsets = []
        for token in tokens:
            offsets.append(start)
            start += len(token.text)
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [math.log(token.confidence) if token.confidence else None for token in tokens],
            "top_logprobs": None,
            "text_offset": offsets,
        }


def gap_of(made: Made) -> slice:
    row = made.text.row
    assert row is not None
    return row.gaps[0]
