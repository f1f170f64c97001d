"""Which data sets of the hub have short names, where it keeps its own copies of them, and whether it answers."""

from __future__ import annotations

CONVERTED = "@~parquet"
"""After a data set's name: the files that the hub has made of it, for sets whose loading script no longer runs."""
REVISION = "refs/convert/parquet"
"""The branch that they are in: a folder a configuration, in it a folder a split."""

HUB_SETS = {
    "wikitext-2": ("Salesforce/wikitext", "wikitext-2-raw-v1"),
    "wikitext-103": ("Salesforce/wikitext", "wikitext-103-raw-v1"),
    "lm1b": ("dvruette/lm1b", None),
    "openwebtext": ("Skylion007/openwebtext", None),
    "text8": ("afmck/text8", None),
    "tinystories": ("roneneldan/TinyStories", None),
    "fineweb-edu": ("HuggingFaceFW/fineweb-edu", "sample-10BT"),
}
"""Short name -> name on the hub and configuration."""


def hub_unreachable() -> str | None:
    """Return why the hub does not answer, None where it does. It is tried once, for 5 s: the hub's own client goes on
    for half a minute."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception as error:  # whichever HTTP client the installed version uses; offline mode raises here too
        reason = str(error).strip().split("\n")[0].rstrip(".")
        return f"{constants.ENDPOINT}: {reason}"
    return None
