"""No file of any kind ends in a traceback: files that are damaged here and there give documents, or a UserError."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made import docx, epub, notebook, pdf, read, write
from pyarrow import parquet

from mdlm_atat.data.readers.kinds import READERS
from mdlm_atat.errors import UserError

NUM_FILES = int(os.environ.get("FUZZED_FILES", "30"))
"""Files of each kind; FUZZED_FILES=20000 takes about ten minutes."""


def mail() -> bytes:
    message = EmailMessage()
    message["Subject"] = "naïve =?utf-8?q?x?="
    message.set_content("Hello — world\n", cte="8bit")
    message.add_alternative("<p>Hello", subtype="html")
    message.add_attachment(b"\0\1", maintype="image", subtype="png", filename="a.png")
    return message.as_bytes()


def parquet_file() -> bytes:
    file = io.BytesIO()
    texts = ["one", None, "日本語"] * 30
    parquet.write_table(arrow.table({"text": texts, "meta": [{"text": text} for text in texts]}), file)
    return file.getvalue()


ROWS = [{"text": "é🙂\\ \n", "meta": {"text": None}, "n": [1.5e300, True]}, {"text": "b"}]
SEEDS: dict[str, bytes] = {
    "a.txt": "naïve\r\n日本語\0\ufeff".encode(),
    "a": "\ufeffnaïve".encode("utf-16"),
    "a.html": b"<meta charset=latin-1><p a=b>x</p><script><!--</script><![CDATA[x]]><!doctype y [<!z>]>&#xd800;<pre>\n",
    "a.eml": mail(),
    "a.mbox": 2 * (b"From - Thu Jan  1 00:00:00 2020\n" + mail() + b"\n"),
    "a.csv": b'text;n\n"a ""b""\n";1\n\nc;2\n',
    "a.tsv": b'text\tn\n"a"\t1\nb"\t2\n',
    "a.json": json.dumps(ROWS, indent=1).encode(),
    "a.jsonl": "\n".join(map(json.dumps, ROWS)).encode(),
    "a.parquet": parquet_file(),
    "a.ipynb": notebook().encode(),
    "a.epub": epub("<p>one", "<p>two"),
    "a.docx": docx(),
    "a.pdf": pdf("one", "two"),
    "a.txt.gz": gzip.compress(b"words " * 99, mtime=0),
    "a.txt.bz2": bytes.fromhex("425a68393141592653599d3f5d7d0000"),
    "a.txt.xz": bytes.fromhex("fd377a585a000004e6d6b4460200210116000000742fe5a3"),
    "a.txt.zst": bytes.fromhex("28b52ffd2005290000776f726473"),
}  # fmt: skip
PARTS = [
    *(b"", b"\0", b"\xff", b'"', b"<", b"{", b"[", b"]", b"<![", b"</script", b"\\ud800", b"&#x", b"\r", b"\n\n", b","),
    *(b"=?x?q?", b"\xef\xbb\xbf", b"\xff\xfe", b"9" * 5000, b"[" * 3000, b"charset=", b"base64"),
]


def damaged(content: bytes, seed: int) -> bytes:
    """The file with up to five changes: bytes that are others, and parts that are cut out, repeated or put in."""
    draw, data = random.Random(seed), bytearray(content)
    for _ in range(draw.randrange(6)):
        start = draw.randrange(len(data) + 1)
        end = min(len(data), start + draw.choice((0, 1, 1, 2, 9, 200)))
        match draw.randrange(4):
            case 0:
                data[start:end] = draw.randbytes(end - start)
            case 1:
                data[start:end] = draw.choice(PARTS)
            case 2:
                data[start:start] = data[start:end] * draw.choice((1, 2, 30))
            case _:
                del data[start:end]
    return bytes(data)


def test_every_reader_is_tried() -> None:
    alike = {".htm", ".xhtml", ".ndjson", ".mht", ".mhtml"}
    assert {Path(name).suffix for name in SEEDS} >= set(READERS) - alike


SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "column": st.sampled_from(["text", "meta.text", "n", "", "."]),
        "documents": st.sampled_from(["file", "line"]),
        "encoding": st.sampled_from(["cp1252", "utf-16", "utf-7", "shift_jis", "utf-8-sig", "iso2022_jp"]),
        "delimiter": st.sampled_from([",", "\t", "x"]),
        "template": st.sampled_from(["{text}", "{n}{meta}{{"]),
        "nulls": st.sampled_from(["skip", "refuse"]),
    },
)


@pytest.mark.parametrize("name", SEEDS)
@given(seed=st.integers(0, 2**64 - 1), asked=SETTINGS)
@settings(
    max_examples=NUM_FILES,
    deadline=None,
    derandomize=NUM_FILES <= 100,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_a_damaged_file_gives_documents_or_one_message(
    name: str, seed: int, asked: dict[str, Any], tmp_path: Path
) -> None:
    path = write(tmp_path / name, damaged(SEEDS[name], seed))
    try:
        documents = read(path, **asked)
    except UserError as error:
        documents = [str(error)]
        assert str(path) in documents[0]
    for document in documents:
        document.encode()
