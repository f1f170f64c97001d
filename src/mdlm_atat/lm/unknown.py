"""Characters of a given text that a tokenizer does not know."""

from __future__ import annotations

import unicodedata
import warnings

from mdlm_atat.data.tokenizers import Tokenizer, UnknownCharacter
from mdlm_atat.errors import UserError
from mdlm_atat.samplers.template import shortened

NUM_NAMED = 5


class UnknownText(UserWarning):
    """A model reads some of a given text as something else than it is."""


def check_known(tokenizer: Tokenizer, text: str) -> None:
    """Warn of what the model reads as something else than it is, such as [UNK]; the text that it goes into keeps it.
    Other case, accents, spaces and forms of a character are no such thing. Raises UserError for a character that the
    tokenizer has nothing to put in the place of."""
    try:
        read = tokenizer.decode(tokenizer.encode(text))
    except UnknownCharacter as error:
        raise UserError(
            f"character {_named(error.character)} in {shortened(text)!r} is not one that this model can read: its char "
            f"tokenizer knows the {error.num_known} characters of the text that it was trained on; remove or replace it"
        ) from error
    if _form(read) == _form(text):
        return
    unknown = [char for char in dict.fromkeys(text) if _form(_alone(tokenizer, char)) != _form(char)]
    if unknown:
        named = [f"{_named(char)} as {_alone(tokenizer, char)!r}" for char in unknown[:NUM_NAMED]]
    else:  # of characters that it knows
        words = [word for word in dict.fromkeys(text.split()) if _form(_alone(tokenizer, word)) != _form(word)]
        named = [f"{shortened(word)!r} as {shortened(_alone(tokenizer, word))!r}" for word in words[:NUM_NAMED]]
        unknown = words
    if named:
        more = f" and {len(unknown) - NUM_NAMED} more" if len(unknown) > NUM_NAMED else ""
        warnings.warn(
            f"the model reads {', '.join(named)}{more}; the text keeps what was given", UnknownText, stacklevel=2
        )


def _alone(tokenizer: Tokenizer, text: str) -> str:
    return tokenizer.decode(tokenizer.encode(text)).strip()


def _named(char: str) -> str:
    return f"{char!r} (U+{ord(char):04X})"


def _form(text: str) -> str:
    """The text without case, accents, spaces and invisible characters."""
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return "".join(char for char in plain if unicodedata.category(char)[0] not in "MZC")
