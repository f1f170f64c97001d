"""Server-sent events: one line of ASCII JSON each, so that no client can cut them in the wrong place."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from aiohttp import web


def as_json(value: Any) -> str:
    """A value as ASCII JSON; NaN and infinity become null."""
    return json.dumps(plain(value), allow_nan=False)


def plain(value: Any) -> Any:
    """Dataclasses as mappings, tuples as lists, numbers that are none as null."""
    if is_dataclass(value) and not isinstance(value, type):
        return {part.name: plain(getattr(value, part.name)) for part in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


class EventStream:
    """A response that is a stream of events. It is never compressed, which would hold events back."""

    def __init__(self, request: web.Request, *, has_names: bool = True) -> None:
        """`has_names`: each event has one; OpenAI's have none."""
        self._request = request
        self._has_names = has_names
        self.has_failed = False
        self._response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}
        )

    async def send(self, data: Any, event: str | None = None) -> None:
        """Send an event; `data` that is a str as it is, else as JSON."""
        if not self._response.prepared:
            await self._response.prepare(self._request)
        name = "" if event is None or not self._has_names else f"event: {event}\n"
        text = data if isinstance(data, str) else as_json(data)
        await self._response.write(f"{name}data: {text}\n\n".encode("ascii"))

    async def fail(self, mistake: Any) -> None:
        """Say what went wrong, as the last thing that is said."""
        self.has_failed = True
        await self.send(mistake, "error")

    async def close(self) -> web.StreamResponse:
        await self._response.write_eof()
        return self._response
