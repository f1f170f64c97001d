"""How much a server does for one request, and for all of them."""

from __future__ import annotations

from dataclasses import dataclass

from mdlm_atat.checks import whole


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of a server. What is over one of the first four is refused with 413, and a request to a full queue with
    429."""

    max_characters: int = 50_000
    """Characters of all texts of a request together."""
    max_tokens: int | None = None
    """Tokens of a text, gaps included (default: four times the model's length)."""
    max_texts: int = 64
    """Texts, or candidates, of a request."""
    max_seconds: int = 120
    """Seconds that a request may keep the model busy, those beside it in a batch included."""
    max_queue: int = 256
    """Requests that may wait."""
    batch_size: int = 16
    """Texts that are made together."""

    def __post_init__(self) -> None:
        for name in ("max_characters", "max_tokens", "max_texts", "max_seconds", "max_queue", "batch_size"):
            whole(f"`{name}=`", getattr(self, name), 1)
