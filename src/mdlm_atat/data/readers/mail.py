"""Mail: .eml, the text of a message, by Python's own parser. Of alternatives one is read, plain text before HTML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage, MIMEPart
from pathlib import Path

from mdlm_atat.data.encodings import is_encoding
from mdlm_atat.data.files import held_bytes, undecodable
from mdlm_atat.data.readers.html_pages import visible_text
from mdlm_atat.data.readers.reading import Reading
from mdlm_atat.errors import UserError


def read_mail(path: Path, reading: Reading, left_out: Counter[str]) -> Iterator[Iterable[str]]:
    """Yield the body of a message as one document, without headers; attachments are counted."""
    data = held_bytes(path)
    try:
        message = message_from_bytes(data, policy=policy.default)
        assert isinstance(message, EmailMessage)
        bodies = [part for kind in ("plain", "html") if (part := message.get_body((kind,))) is not None]
        texts = (_text(part, reading, path) for part in bodies)
        text = next((text for text in texts if text.strip()), "")
        num_attachments = sum(1 for _ in message.iter_attachments()) if message.is_multipart() else 0
    except UserError:
        raise
    except Exception as error:  # the library raises many for headers that are none
        raise UserError(f"{path} cannot be read as a mail: {type(error).__name__}, {error}") from error
    if num_attachments:
        left_out["attachments of mails"] += num_attachments
    if text.strip():
        yield [text]
    else:
        left_out["mails without a text"] += 1


def _text(part: MIMEPart, reading: Reading, path: Path) -> str:
    data = part.get_payload(decode=True)
    data = data if isinstance(data, bytes) else b""
    declared = part.get_content_charset()
    tried = [name for name in (declared, "utf-8", reading.encoding) if name is not None and is_encoding(name)]
    for encoding in tried:
        try:
            text = data.decode(encoding)
        except UnicodeError:
            continue
        return visible_text(text) if part.get_content_subtype() == "html" else text.replace("\r\n", "\n")
    raise undecodable(path, data, declared)
