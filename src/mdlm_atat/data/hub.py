"""Whether the hub answers."""

from __future__ import annotations


def hub_unreachable() -> str | None:
    """Why the hub does not answer, None where it does; one try of 5 s, its own client goes on for half a minute."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception as error:  # whichever HTTP client the installed version uses; offline mode raises here too
        reason = str(error).strip().split("\n")[0].rstrip(".")
        return f"{constants.ENDPOINT}: {reason}"
    return None
