"""Pages, mails, notebooks and books: the text that a person reads in them."""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections import Counter
from email.message import EmailMessage
from pathlib import Path

import pytest
from made import PACKINGS, docx, epub, notebook, pdf, read, write

from mdlm_atat.data.readers.html_pages import visible_text
from mdlm_atat.data.readers.kinds import READERS, Refusal, find_reader
from mdlm_atat.errors import UserError

PAGES = {
    "<p>A</p><p>B</p><SCRIPT >x</SCRIPT >": "A\nB",
    "<p>A<p>B<div>C</div>D": "A\nB\nC\nD",
    "un<b>able</b> and <i>a</i> <b>b</b>": "unable and a b",
    "one<br>two<br/>three": "one\ntwo\nthree",
    "<h1> Title </h1>\n\n<p>\n  many\n  spaces  </p>": "Title\nmany spaces",
    "<table><tr><th>a<th>b</tr><tr><td>1</td><td>2 3</td></tr></table>": "a\tb\n1\t2 3",
    "<ul><li>x<li>y</ul>": "x\ny",
    "<pre>\n  kept\n    as is</pre> after": "  kept\n    as is\nafter",
    "<style>p{}</style><script>if (a < b) {}</script>text": "text",
    "<!-- no --> yes <![CDATA[no]]><!doctype html>": "yes",
    "&lt;b&gt; &amp; &eacute;&#x1F642; &nbsp;x": "<b> & é🙂 \xa0x",
    "<head><title>x</title></head><body>y</body>": "y",
    "<title>never closed<body>y": "y",
    "a <![if !vml]>b<![endif]> <![odd c": "a b <![odd c",
    "a < b and c > d & e": "a < b and c > d & e",
    "<noscript>no</noscript><template>no</template>yes": "yes",
    "<p>日本<wbr>語": "日本語",
    "<p>a < b <i": "a < b <i",
    "<p>a<!-- never closed": "a",
    "": "",
}


@pytest.mark.parametrize("page", PAGES)
def test_the_visible_text_of_a_page_is_a_line_a_block(page: str) -> None:
    assert visible_text(page) == PAGES[page]


@pytest.mark.parametrize(
    "part", ["<a ", '<a b="', "<!--", "<", "</", "<![", "&", "<p>", "<title>", "<?", "<pre>\n", "<table><td>"]
)
def test_a_page_of_20_000_broken_tags_takes_no_time(part: str) -> None:
    start = time.process_time()
    visible_text(part * 20_000)
    assert time.process_time() - start < 2  # 0.1 s; 65 s where the end of each is looked for


@pytest.mark.parametrize(
    ("page", "text"),
    [
        (b'<meta charset="iso-8859-1"><p>It\x92s na\xefve', "It’s naïve"),
        (b'<meta http-equiv="Content-Type" content="text/html; charset=windows-1251"><p>\xcc\xe8\xf0', "Мир"),
        ('<meta charset="utf-8"><p>日本語'.encode(), "日本語"),
        ('<?xml version="1.0" encoding="shift_jis"?><p>日本語'.encode("shift_jis"), "日本語"),
        ("<meta charset='utf-16'><p>日本語".encode(), "日本語"),
        ("\ufeff<meta charset='utf-8'><p>日本語".encode("utf-16-be"), "日本語"),
        ("<meta charset='no-such'><p>日本語".encode(), "日本語"),
    ],
)
@pytest.mark.parametrize("name", ["a.html", "a.htm", "a.XHTML"])
def test_a_page_may_say_its_encoding(page: bytes, text: str, name: str, tmp_path: Path) -> None:
    assert read(write(tmp_path / name, page)) == [text]


def mail(plain: str | None = "Hello — world\n", html: str | None = None, encoding: str = "8bit") -> EmailMessage:
    message = EmailMessage()
    message["Subject"] = "a subject"
    if plain is not None:
        message.set_content(plain, cte=encoding)
    if html is not None:
        (message.set_content if plain is None else message.add_alternative)(html, subtype="html")
    return message


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("encoding", ["8bit", "base64", "quoted-printable"])
def test_the_body_of_a_mail_is_its_text_once(encoding: str, packing: str, tmp_path: Path) -> None:
    for html in (None, "<p>Hello — world</p>"):
        content = PACKINGS[packing](mail(html=html, encoding=encoding).as_bytes())
        assert read(write(tmp_path / f"a.eml{packing}", content)) == ["Hello — world\n"]


def test_a_mail_of_html_alone_is_its_visible_text_and_attachments_are_counted(tmp_path: Path) -> None:
    message = mail(plain=None, html="<p>Hello <b>world</b></p><script>x</script>")
    message.add_attachment(b"\0\1", maintype="image", subtype="png", filename="a.png")
    left_out = Counter[str]()
    assert read(write(tmp_path / "a.eml", message.as_bytes()), left_out) == ["Hello world"]
    assert left_out == {"attachments of mails": 1}
    only = EmailMessage()
    only.add_attachment(b"\0\1", maintype="image", subtype="png", filename="a.png")
    assert read(write(tmp_path / "b.eml", only.as_bytes()), left_out) == []
    assert left_out["mails without a text"] == 1
    assert read(write(tmp_path / "c.eml", mail(plain=" \n", html="<p>The text").as_bytes())) == ["The text"]


def part(kind: str, content: str, *more: str) -> str:
    return "\n".join((f"Content-Type: {kind}", *more, "", content))


def parts(kind: str, *inner: str) -> str:
    mark = f"{kind}-{sum(map(len, inner))}"
    return part(f"multipart/{kind}; boundary={mark}", "".join(f"--{mark}\n{one}\n" for one in inner) + f"--{mark}--")


ONE, TWO, PAGE = part("text/plain", "one"), part("text/plain", "two"), part("text/html", "<p>one<p>two")
PICTURE = part("image/png", "AA==", "Content-Transfer-Encoding: base64")
FILE = part("text/plain; name=notes.txt", "a file")


@pytest.mark.parametrize(
    ("content", "text", "num_attachments"),
    [
        (parts("mixed", ONE, TWO), "one\ntwo", 0),
        (parts("mixed", ONE, TWO).removesuffix("--"), "one\ntwo", 0),
        (parts("mixed", ONE, PICTURE, TWO, FILE), "one\ntwo", 2),
        (parts("mixed", FILE, ONE), "one", 1),
        (parts("mixed", FILE), "a file", 0),
        (FILE, "a file", 0),
        (parts("mixed", ONE, part("text/plain", "no", "Content-Disposition: attachment")), "one", 1),
        (parts("mixed", ONE, part("text/plain", "two", "Content-Disposition: inline")), "one\ntwo", 0),
        (parts("mixed", ONE, part("text/plain", "no", "Content-Disposition: inline; filename=a.txt")), "one", 1),
        (parts("alternative", PAGE, TWO), "two", 0),
        (parts("alternative", part("text/plain", " "), PAGE), "one\ntwo", 0),
        (parts("alternative", part("text/calendar", "no"), PAGE), "one\ntwo", 1),
        (parts("mixed", parts("alternative", ONE, PAGE), TWO, parts("alternative", PAGE)), "one\ntwo\none\ntwo", 0),
        (parts("alternative", TWO, parts("mixed", PAGE, PICTURE, PAGE)), "two", 1),
        (parts("related", parts("alternative", ONE, PAGE), PICTURE), "one", 1),
        (parts("signed", parts("mixed", ONE, TWO), part("application/pgp-signature", "no")), "one\ntwo", 1),
        (parts("mixed", ONE, part("message/rfc822", TWO)), "one", 1),
        (parts("report", ONE, part("text/rfc822-headers", "no: no")), "one", 1),
        (part("text/markdown", "one"), "one", 0),
        (part("multipart/mixed", "one"), "one", 0),
    ],
)
def test_all_bodies_of_a_mail_are_read_and_all_other_parts_counted(
    content: str, text: str, num_attachments: int, tmp_path: Path
) -> None:
    left_out = Counter[str]()
    assert read(write(tmp_path / "a.eml", "From: a@example.org\n" + content), left_out) == [text]
    assert left_out["attachments of mails"] == left_out.total() == num_attachments


@pytest.mark.parametrize(
    ("head", "body", "text"),
    [
        (b"", "naïve\r\n".encode(), "naïve\n"),
        (b"Content-Type: text/plain; charset=iso-8859-1", b"na\xefve", "naïve"),
        (b"Content-Type: text/plain; charset=us-ascii", "naïve".encode(), "naïve"),
        (b"Content-Type: text/plain; charset=no-such", "naïve".encode(), "naïve"),
        (b"Content-Type: nonsense", b"words", "words"),
    ],
)
def test_a_mail_is_decoded_as_it_says_else_as_utf8(head: bytes, body: bytes, text: str, tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.eml", b"From: a@example.org\r\n" + head + b"\r\n\r\n" * bool(head) + b"\r\n" * (not head) + body
    )
    assert read(path) == [text]


def test_a_mail_in_another_encoding_names_the_likely_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a.eml", b"From: a@example.org\n\nIt\x92s a \x93test\x94 \x96 ok.\n")
    with pytest.raises(UserError, match=r"a\.eml is not UTF-8: it looks like cp1252.*encoding='cp1252'"):
        read(path)
    assert read(path, encoding="cp1252") == ["It’s a “test” – ok.\n"]


def test_a_notebook_is_what_was_written_into_its_cells(tmp_path: Path) -> None:
    left_out = Counter[str]()
    assert read(write(tmp_path / "a.ipynb", notebook()), left_out) == ["# Title\nSome words.\n\nprint(1)"]
    assert left_out == {"outputs of notebooks": 1}
    old = {"worksheets": [{"cells": [{"cell_type": "code", "input": ["x = 1"]}]}]}
    assert read(write(tmp_path / "b.ipynb", json.dumps(old))) == ["x = 1"]
    large = json.dumps(old).replace("{", '{"n": ' + "9" * 10_000 + ", ", 1)
    assert read(write(tmp_path / "c.ipynb", large)) == ["x = 1"]


BOOKS = {
    "a.epub": (epub("<h1>One</h1><p>first", "<p>second &amp; last"), "One\nfirst\n\nsecond & last"),
    "a.docx": (docx(), "A heading\nTwo paragraphs, \ncell 0\tcell 1\ncell 2\tcell 3\nnaïve 日本語"),
    "a.pdf": (pdf("The first page.", "", "And the third."), "The first page.\nAnd the third."),
}


@pytest.mark.parametrize("packing", ["", ".gz"])
@pytest.mark.parametrize("name", BOOKS)
def test_a_book_is_the_text_of_its_pages_in_order(name: str, packing: str, tmp_path: Path) -> None:
    content, text = BOOKS[name]
    left_out = Counter[str]()
    assert read(write(tmp_path / (name + packing), PACKINGS[packing](content)), left_out) == [text]
    assert left_out.total() == (name == "a.pdf")


@pytest.mark.parametrize("cut", [0, 1, 30, 200, -60])
@pytest.mark.parametrize("name", [*BOOKS, "a.ipynb"])
def test_a_book_that_is_damaged_is_named(name: str, cut: int, tmp_path: Path) -> None:
    content = BOOKS[name][0] if name in BOOKS else notebook().encode()
    with pytest.raises(UserError, match=rf"{name} (cannot be read as |is not a notebook)"):
        read(write(tmp_path / name, content[:cut]))


def test_a_book_that_is_too_large_when_unpacked_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mdlm_atat.data.readers.books.LONGEST_FILE", 10_000)
    with pytest.raises(UserError, match=r"a\.epub holds 2\d,\d{3} bytes when unpacked, more than 10,000"):
        read(write(tmp_path / "a.epub", epub("x" * 20_000)))


@pytest.mark.parametrize(("name", "module"), [("a.pdf", "pypdf"), ("a.docx", "docx")])
def test_without_the_extra_a_file_is_left_out_with_what_to_install(
    name: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mdlm_atat.data.readers.kinds.find_spec", lambda wanted: None if wanted == module else True)
    found = find_reader(write(tmp_path / name, BOOKS[name][0]))
    assert isinstance(found, Refusal)
    assert str(found) == f"{Path(name).suffix} needs an extra: pip install 'mdlm-atat[documents]'"
    with pytest.raises(UserError, match=r"cannot be read \(.* needs an extra: pip install 'mdlm-atat\[documents\]'\)"):
        read(tmp_path / name)


def test_every_reader_has_an_ending_in_lower_case() -> None:
    assert len(READERS) == 18
    assert all(ending == ending.lower() and ending.startswith(".") for ending in READERS)


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ("<tr><td></td><td>b</td></tr>", "\tb"),
        ("<tr><th></th><th>x</th></tr><tr><td>1</td><td>2</td></tr>", "\tx\n1\t2"),
        ("<tr><td> </td><td></td><td>c</td></tr>", "\t\tc"),
        ("<tr><td></td><td></td></tr><tr><td>a</td></tr>", "a"),
        ("<tr><td>a</td><td></td><td>c</td><td></td></tr>", "a\t\tc"),
        ("<tr><td><p>a</p></td><td>b</td></tr>", "a\nb"),
        ("<tr><td><br></td><td>b</td></tr>", "\tb"),
        ("<tr><td colspan=2>a</td><td>b</td></tr><tr><td>c</td><td>d</td><td>e</td></tr>", "a\t\tb\nc\td\te"),
        ("<tr><th colspan=3>a</th></tr><tr><td>c</td><td>d</td><td>e</td></tr>", "a\nc\td\te"),
        ("<tr><td rowspan=2>a</td><td>b</td></tr><tr><td>c</td></tr><tr><td>d</td></tr>", "a\tb\n\tc\nd"),
        ("<tr><td>a</td><td rowspan=3>b</td><td>c</td></tr><tr><td>d</td><td>e</td></tr>", "a\tb\tc\nd\t\te"),
        ("<tr><td rowspan=2 colspan=2>a</td><td>b</td></tr><tr><td>c</td></tr>", "a\t\tb\n\t\tc"),
        ("<tr><td rowspan=9>a</td></tr></table><table><tr><td>b</td></tr>", "a\nb"),
        ("<tr><td rowspan=0>a</td><td>b</td></tr><tr><td>c</td></tr><tr><td>d</td></tr>", "a\tb\n\tc\n\td"),
        ("<thead><tr><th rowspan=2>a</th><th>b</th></tr></thead><tbody><tr><td>c</td></tr></tbody>", "a\tb\nc"),
        ("<tr><td colspan=0 rowspan=x>a</td><td colspan=99999>b</td><td colspan>c</td></tr>", f"a\tb{63 * chr(9)}c"),
    ],
)
def test_a_cell_keeps_its_column_behind_empty_and_merged_ones(table: str, text: str, tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.html", f"<p>x</p><table>{table}</table>"))[0].removeprefix("x\n") == text


INNER = "<table><tr><td rowspan=2>x</td><td>y</td></tr><tr><td>z</td></tr></table>"
SEEN = "x\ty\n\tz"


@pytest.mark.parametrize(
    ("table", "text"),
    [
        (f"<tr><td rowspan=2>a</td><td>{INNER}</td></tr><tr><td>b</td></tr><tr><td>c</td></tr>", f"a\n{SEEN}\n\tb\nc"),
        (f"<tr><td rowspan=2>a</td><td>b{INNER}c</td><td>d</td></tr><tr><td>e</td></tr>", f"a\tb\n{SEEN}\nc\td\n\te"),
        (f"<tr><td>{INNER}</td><td rowspan=2>b</td></tr><tr><td>c<td>d", f"{SEEN}\nb\nc\t\td"),
        (
            f"<tr><td rowspan=3>a<td>b<tr><td><table><tr><td rowspan=2>p<td>{INNER}<tr><td>q</table><td>r<tr><td>s",
            f"a\tb\np\n{SEEN}\n\tq\nr\n\ts",
        ),
        ("<tr><td rowspan=2>a<td><table></table><td>b<tr><td>c", "a\nb\n\tc"),
        ("<tr><td rowspan=9>a</td></tr><table><tr><td>b</td></tr></table><table><tr><td>c", "a\nb\nc"),
        (f"<tr><td rowspan=9>a</td></tr></table></table></table>{INNER}", f"a\n{SEEN}"),
        ("<tr><td rowspan=2>a<td><template><table><tr><td>h</template>b<tr><td>c", "a\tb\n\tc"),
        (f"<caption>{INNER}</caption><tr><td rowspan=2>a<td>b<tr><td>c", f"{SEEN}\na\tb\n\tc"),
        ("<tbody><tr><td rowspan=2>a<td>b<table><tbody><tr><td>x</tbody></table><tr><td>c", "a\tb\nx\n\tc"),
    ],
)
def test_a_table_in_a_cell_changes_no_column_of_the_table_around_it(table: str, text: str) -> None:
    assert visible_text(f"<table>{table}</table>") == text


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig", "cp1252"])
def test_chapters_of_a_book_are_in_the_encoding_that_they_say(encoding: str, tmp_path: Path) -> None:
    name = encoding.removesuffix("-sig").partition("-le")[0].partition("-be")[0]
    page = f'<?xml version="1.0" encoding="{name}"?><html><body><p>naïve – é</p></body></html>'
    old, new = io.BytesIO(epub("x")), io.BytesIO()
    with zipfile.ZipFile(old) as book, zipfile.ZipFile(new, "w") as other:
        for each in book.namelist():
            other.writestr(each, page.encode(encoding) if each.endswith("xhtml") else book.read(each))
    assert read(write(tmp_path / "a.epub", new.getvalue())) == ["naïve – é"]


@pytest.mark.parametrize("declared", ["iso-8859-1", "ISO-8859-1", "latin1", "us-ascii"])
def test_quotes_of_windows_in_mails_that_say_latin_1_are_quotes(declared: str, tmp_path: Path) -> None:
    head = f"Content-Type: text/plain; charset={declared}\nContent-Transfer-Encoding: 8bit\n\n".encode()
    encoding = "utf-8" if declared == "us-ascii" else "cp1252"
    assert read(write(tmp_path / "a.eml", head + "“so”, he said – é".encode(encoding))) == ["“so”, he said – é"]


def docx_of(body: str) -> bytes:
    """A Word document with this body, in the namespace w."""
    old, new = io.BytesIO(docx()), io.BytesIO()
    with zipfile.ZipFile(old) as document, zipfile.ZipFile(new, "w") as other:
        for each in document.namelist():
            own = f"{WORD}{body}</w:body></w:document>".encode() if each == "word/document.xml" else document.read(each)
            other.writestr(each, own)
    return new.getvalue()


WORD = (
    '<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main" '
    'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"><w:body>'
)


def paragraph(*runs: str) -> str:
    return f"<w:p>{''.join(f'<w:r><w:t>{run}</w:t></w:r>' for run in runs)}</w:p>"


def cell(text: str, about: str = "") -> str:
    return f"<w:tc><w:tcPr>{about}</w:tcPr>{paragraph(text)}</w:tc>"


def row(*cells: str) -> str:
    return f"<w:tr>{''.join(cells)}</w:tr>"


def changed(kind: str, text: str) -> str:
    name = "delText" if kind == "del" else "t"
    return f"<w:{kind}><w:r><w:{name}>{text}</w:{name}></w:r></w:{kind}>"


BEFORE = '<w:trPr><w:gridBefore w:val="2"/></w:trPr>'
SPAN, DOWN = '<w:gridSpan w:val="2"/>', '<w:vMerge w:val="restart"/>'
BOX = f"<w:txbxContent>{paragraph('box')}</w:txbxContent>"
BODIES = {
    paragraph("a ", "b") + paragraph("c"): "a b\nc",
    f"<w:tbl>{row(cell('a'), cell('b'))}{row(cell('c'), cell('d'))}</w:tbl>": "a\tb\nc\td",
    # two columns of the first row are one cell; two rows of the first column are
    f"<w:tbl>{row(cell('a', SPAN), cell('b'))}{row(cell('c'), cell('d'), cell('e'))}</w:tbl>": "a\t\tb\nc\td\te",
    f"<w:tbl>{row(cell('a', SPAN.replace('2', '99999')))}{row(BEFORE, cell('b'))}</w:tbl>": "a\n\t\tb",
    f"<w:tbl>{row(cell('a', DOWN), cell('b'))}{row(cell('', '<w:vMerge/>'), cell('c'))}</w:tbl>": "a\tb\n\tc",
    f"<w:tbl><w:tr><w:tc><w:tbl>{row(cell('in'))}</w:tbl>{paragraph('out')}</w:tc></w:tr></w:tbl>": "in\nout",
    f"<w:sdt><w:sdtContent>{paragraph('in a control')}</w:sdtContent></w:sdt>": "in a control",
    f"<w:p>{changed('ins', 'new')}{changed('del', 'old')}</w:p>": "new",
    "<w:p><w:hyperlink><w:r><w:t>a</w:t></w:r></w:hyperlink><w:r><w:tab/><w:t>x</w:t><w:br/></w:r></w:p>": "a\tx\n",
    f"<w:p><w:r><mc:AlternateContent><mc:Choice>{BOX}</mc:Choice><mc:Fallback>{BOX}</mc:Fallback>"
    "</mc:AlternateContent></w:r><w:r><w:t>text</w:t></w:r></w:p>": "text\nbox",
    "<w:p><w:pPr><w:tabs><w:tab/></w:tabs></w:pPr><w:r><w:instrText>PAGE</w:instrText><w:t>x</w:t></w:r></w:p>": "x",
}


@pytest.mark.parametrize(("body", "text"), BODIES.items())
def test_all_text_of_a_word_document_is_read_once(body: str, text: str, tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.docx", docx_of(body))) == [text]


OTHERS = {
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "a PDF": b"%PDF-1.4\n1 0 obj <</Type /Catalog>> endobj\n",
    "Parquet": b"PAR1\x15\x04",
    "a ZIP archive": epub("<p>x</p>"),
    "packed by gzip": PACKINGS[".gz"](b"a text\n"),
    "packed by bzip2": PACKINGS[".bz2"](b"a text\n"),
    "packed by xz": PACKINGS[".xz"](b"a text\n"),
    "packed by zstd": PACKINGS[".zst"](b"a text\n"),
    "a tar archive": b"a.txt".ljust(257, b"\0") + b"ustar\x0000" + bytes(700),
    "RTF": rb"{\rtf1\ansi hello}",
    "a document of an old Office": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600),
}


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.md", "a.jsonl", "a"])
@pytest.mark.parametrize("what", OTHERS)
def test_a_file_that_is_no_text_whatever_its_name_is_said_to_be_what_it_is(
    what: str, name: str, tmp_path: Path
) -> None:
    path = write(tmp_path / name, OTHERS[what])
    with pytest.raises(UserError, match=rf"cannot be read \({what}.*, by its content: \w+"):
        read(path)


@pytest.mark.parametrize("what", ["a PDF", "packed by gzip"])
def test_what_is_packed_and_no_text_is_said_to_be_what_it_is_when_it_is_read(what: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt.gz", PACKINGS[".gz"](OTHERS[what] + b"\xe2\xff"))
    with pytest.raises(UserError, match=f"is no text but {what}, by its content: name it so"):
        read(path)


def test_a_text_about_a_format_is_text(tmp_path: Path) -> None:
    text = "PAR2, %PDF- and {\\rtf are how files begin, BZh too\n"
    assert read(write(tmp_path / "a.txt", text)) == [text]


MAILBOX = (
    "From MAILER Thu Jan  1 00:00:00 2020\r\nSubject: a\r\nContent-Type: multipart/mixed; boundary=X\r\n\r\n"
    "--X\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
    "Caf=C3=A9 is nice, =\r\nisn't it?\r\n>From the start.\r\n"
    "--X\r\nContent-Type: image/png; name=a.png\r\nContent-Transfer-Encoding: base64\r\n\r\niVBORw0K\r\n--X--\r\n\r\n"
    "From - Fri Feb  7 12:00:01 2020\r\nSubject: b\r\n\r\nFrom here on\r\n"
    "From noon to 12:30 it rains,\r\n\r\nFrom 3:15 or so.\r\n\r\n"
)
LETTERS = [
    "Café is nice, isn't it?\nFrom the start.",
    "From here on\nFrom noon to 12:30 it rains,\n\nFrom 3:15 or so.\n",
]


@pytest.mark.parametrize("name", ["a.mbox", "Inbox", "mails.mbx", "a.mbox.gz"])
@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_a_mailbox_is_its_mails_without_headers_and_attachments(name: str, end: str, tmp_path: Path) -> None:
    left_out = Counter[str]()
    packed = PACKINGS[".gz" if name.endswith(".gz") else ""](MAILBOX.replace("\r\n", end).encode())
    assert read(write(tmp_path / name, packed), left_out) == LETTERS
    assert left_out["attachments of mails"] == 1


def test_a_text_that_begins_as_a_mailbox_is_none_without_a_date_and_a_header(tmp_path: Path) -> None:
    text = "From here to there it is 10:30 by train\nand so on\n"
    assert read(write(tmp_path / "notes", text)) == [text]
    with pytest.raises(UserError, match=r"a\.mbox is no mailbox"):
        read(write(tmp_path / "a.mbox", "some text\n"))


def test_pages_and_mails_in_utf8_that_declare_another_encoding_are_read_as_utf8(tmp_path: Path) -> None:
    said = "naïve café, “quoted”"
    page = f'<meta charset="iso-8859-1"><p>{said}</p>'
    mail = f"Subject: x\nContent-Type: text/plain; charset=windows-1252\nContent-Transfer-Encoding: 8bit\n\n{said}\n"
    assert read(write(tmp_path / "a.html", page)) == [said]
    assert read(write(tmp_path / "b.html", page.encode("cp1252"))) == [said]
    assert read(write(tmp_path / "a.eml", mail)) == [f"{said}\n"]
    assert read(write(tmp_path / "b.eml", mail.encode("cp1252"))) == [f"{said}\n"]
