"""Texts that a model was not trained on: the field's usual ones by name, and one's own.

Splits, columns and detokenizers are those of MDLM (arXiv 2406.07524, table 3), and text is packed as there:
documents one after the other with eos between them, cut at the model's length. Not as there, no bos or eos is put at
the ends of every sequence, the last sequence is not dropped, and empty documents (WikiText has many) are left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Unpack

from mdlm_atat.data.hub import CONVERTED
from mdlm_atat.data.readers.reading import ReadingSettings
from mdlm_atat.data.settings import DataSettings
from mdlm_atat.errors import UserError

Mode = Literal["wrap", "pad"]
NO_DETOKENIZER = "none"


@dataclass(frozen=True, kw_only=True)
class ZeroShotSet(DataSettings):
    """A text, and how it becomes sequences; of a folder, its validation files are taken where it has some."""

    name: str


def _published(name: str, source: str, split: str, column: str = "text", detokenize: str | None = None) -> ZeroShotSet:
    return ZeroShotSet(name=name, source=f"hub:{source}", split=split, column=column, detokenize=detokenize)


# None of these runs a script: libraries since datasets 4 refuse to. Of two, only the hub's own Parquet files are left.
ZERO_SHOT_SETS = {
    part.name: part
    for part in (
        _published("wikitext-2", "Salesforce/wikitext:wikitext-2-raw-v1", "validation", detokenize="wikitext"),
        _published("wikitext-103", "Salesforce/wikitext:wikitext-103-raw-v1", "validation", detokenize="wikitext"),
        _published("ptb", f"ptb-text-only/ptb_text_only{CONVERTED}:penn_treebank", "validation", "sentence", "ptb"),
        _published("lambada", "EleutherAI/lambada_openai:en", "test", detokenize="lambada"),
        _published("lm1b", f"billion-word-benchmark/lm1b{CONVERTED}:plain_text", "test", detokenize="lm1b"),
        _published("ag_news", "fancyzhx/ag_news", "test"),
        _published("pubmed", "ccdv/pubmed-summarization:document", "validation", "article", "scientific_papers"),
        _published("arxiv", "ccdv/arxiv-summarization:document", "validation", "article", "scientific_papers"),
    )
}


def zero_shot_set(
    spec: str,
    *,
    detokenizer: str | None = None,
    mode: Mode | None = None,
    split: str | None = None,
    **reading: Unpack[ReadingSettings],
) -> ZeroShotSet:
    """The set of a name (see ZERO_SHOT_SETS), of a file, folder or hub:OWNER/NAME; what is given overrides its own.

    One's own text is taken as it is, a sequence or more a document. `detokenizer` "none": the text as it was published.
    Raises UserError for a name that is neither known nor there.
    """
    if spec in ZERO_SHOT_SETS:
        found = ZERO_SHOT_SETS[spec]
    elif spec.startswith("hub:") or Path(spec).expanduser().exists():
        found = ZeroShotSet(name=spec, source=spec, mode="pad")
    else:
        raise UserError(
            f"there is no file or folder {spec}, and no zero-shot set of that name; expected a path, hub:OWNER/NAME or "
            f"one of {', '.join(ZERO_SHOT_SETS)}"
        )
    if detokenizer is not None:
        found = replace(found, detokenize=None if detokenizer == NO_DETOKENIZER else detokenizer)
    return replace(found, mode=mode or found.mode, split=split or found.split, **reading)
