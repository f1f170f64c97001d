"""Which text is read, and how it becomes rows of tokens: the settings that a run, a request and a command share.

They are written down here once, without NumPy or torch, so that a configuration may have them too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from mdlm_atat.checks import one_of, within
from mdlm_atat.data import places
from mdlm_atat.data.detokenizers import detokenizer
from mdlm_atat.data.readers.reading import OF_TEXT, Reading, needing
from mdlm_atat.errors import UserError

MOST_LENGTH = 1 << 20
SAME = {"same": "text"}
"""Facts about a setting that a configuration looks up: runs are comparable only where it is the same."""


@dataclass(frozen=True, kw_only=True)
class DataSettings(Reading):
    """The settings of a text. Subclasses say of which types `source`, `tokenizer`, `length` and `validation` are."""

    source: Any
    """shakespeare (built in), a file of text (plain text of any ending, HTML, mails, tables, JSON, Parquet, books, also
    packed), a folder of them, a hub data set by short name or as hub:OWNER/NAME[:CONFIG], or a plugin as
    package.module:Name."""
    tokenizer: Any = "char"
    """char, byte, gpt2, bert-base-uncased, a hub name, a folder with tokenizer.json, vocab.bpe + encoder.json or
    vocab.txt, or a plugin as package.module:Name."""
    length: int | None = field(default=None, metadata={"when": ({"mode": "pad"},)})
    """pad: tokens in a row; a longer document goes on in further rows."""
    mode: Literal["wrap", "pad"] = field(default="wrap", metadata=SAME)
    """`wrap`: documents joined and cut to length; `pad`: a document a row, padding never scored."""
    loss_on: Literal["all", "answers"] = field(default="all", metadata={**OF_TEXT, **SAME})
    """`answers`: train on and score nothing but answers: what the assistant says in chats, or the last column of
    `template`. Each is a row of its own, prompt before it, and `mode` is pad."""
    validation: Any = field(default=None, metadata={"when": places.NOT_PREPARED})
    """Validation text: like source, or a split's name for a hub data set. None: what comes with the source, else cut
    from it."""
    validation_fraction: float = field(default=0.05, metadata=needing(places.CUT))
    """Share of the source that is held out where no validation text is given or comes with it: documents chosen by a
    hash of their text, or the end of fewer than 20 documents."""
    split: str = field(default="train", metadata=needing(({"source": places.OF_HUB},)))
    """Hub data sets: the split to train on."""
    detokenize: str | None = field(default=None, metadata=needing(places.NOT_PREPARED))
    """Undo the tokenization that a text is published in, by the rules of wikitext, ptb, lm1b, lambada or
    scientific_papers."""
    accept_loss: bool = field(default=False, metadata={"of_text": True, "resume": "free", "when": places.NOT_PREPARED})
    """Prepare the text with a tokenizer that does not give back more than 1% of its characters (those it does not know,
    case, accents, white space): what is read and scored is another text then."""

    def __post_init__(self) -> None:
        self.check_values()

    def check_values(self, prefix: str = "") -> None:
        """Raise UserError where values are out of range; `prefix` goes before the settings' names in the message."""
        self.check_reading(prefix)
        within(f"{prefix}length", self.length, 2, MOST_LENGTH)
        one_of(f"{prefix}loss_on", self.loss_on, ("all", "answers"))
        if self.loss_on == "answers":
            object.__setattr__(self, "mode", "pad")
            if self.detokenize is not None:
                raise UserError(
                    f"{prefix}detokenize changes the text, so that it is not known any more where the answers of "
                    f"`{prefix}loss_on='answers'` are: leave out one of the two"
                )
        if not 0 < self.validation_fraction < 1:
            raise UserError(
                f"{prefix}validation_fraction is {self.validation_fraction}, expected between 0 and 1, e.g. 0.05"
            )
        if self.detokenize is not None:
            detokenizer(self.detokenize)  # refuses an unknown name
