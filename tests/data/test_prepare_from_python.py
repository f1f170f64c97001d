"""A corpus prepared from Python: from texts, objects and plugins, and what comes back."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import mdlm_atat as ma
from mdlm_atat import plugins
from mdlm_atat.data.open_tokenizer import PLUGIN_NAME, load_tokenizer, save_tokenizer
from mdlm_atat.data.pieces import Piece
from mdlm_atat.data.sources import Given, Source, open_source
from mdlm_atat.data.tokenizers import ByteTokenizer
from mdlm_atat.errors import UserError

TEXTS = [f"document {i}: the cat sat on the mat" for i in range(30)]

POEMS = """
from mdlm_atat.data.pieces import Piece


class Poems:
    def __init__(self, year="1800"):
        self.year = year

    def __iter__(self):
        yield f"a poem of {self.year}"
        yield Piece("a long ", ends_document=False)
        yield Piece("poem", ends_document=True)

    def held_out(self):
        return Poems(f"{self.year}, held out")

    def identity(self):
        return {"year": self.year}

    def describe(self):
        return {"year": self.year, "poet": "nobody"}


def lines(count):
    return (f"line {i}" for i in range(int(count)))


class Silence:
    pass
"""

VOWELS = """
from mdlm_atat.data.tokenizers import ByteTokenizer


class Shifted(ByteTokenizer):
    name = "shifted"

    def __init__(self, by="1"):
        self.by = int(by)

    def encode(self, text):
        return [(i + self.by) % 256 for i in super().encode(text)]

    def encode_batch(self, texts):
        import numpy as np
        return [np.array(self.encode(text)) for text in texts]

    def decode(self, ids, mask_text="_", eos_text=""):
        return super().decode([i if i > 255 else (i - self.by) % 256 for i in ids], mask_text, eos_text)

    def fingerprint(self):
        return f"shifted by {self.by}"

    def save(self, folder):
        (folder / "by.txt").write_text(str(self.by))

    @classmethod
    def load(cls, folder):
        return cls((folder / "by.txt").read_text())


class Half:
    name = "half"
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATAT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package `own` of this test: own.poems, own.vowels, and the names of both in own itself; trusted by nobody."""
    folder = tmp_path / "site" / "own"
    folder.mkdir(parents=True)
    (folder / "poems.py").write_text(POEMS)
    (folder / "vowels.py").write_text(VOWELS)
    (folder / "__init__.py").write_text("from own.poems import Poems\nfrom own.vowels import Shifted\n")
    monkeypatch.syspath_prepend(str(folder.parent))
    monkeypatch.setattr(plugins, "_allowed", set())
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "own"]:
        del sys.modules[name]


def words(made: ma.Corpus, split: str) -> str:
    return made.tokenizer.decode(made.open(split, 2).tokens.tolist(), eos_text="$")


# --- texts and objects ---


def test_30_texts_from_python_are_30_documents_and_the_same_again_is_found() -> None:
    made = ma.prepare(TEXTS, tokenizer="byte", progress=False)
    assert sum(split.documents for split in made.manifest.splits.values()) == 30
    assert sorted((words(made, "train") + words(made, "valid")).split("$")[:-1]) == sorted(TEXTS)
    for same in (tuple(TEXTS), iter(TEXTS), (text for text in TEXTS)):
        assert ma.prepare(same, tokenizer="byte", progress=False).folder == made.folder
    for other in (TEXTS[:-1], [*TEXTS[:-2], TEXTS[-2] + TEXTS[-1]], TEXTS[::-1]):
        assert ma.prepare(other, tokenizer="byte", progress=False).folder != made.folder
    assert made.manifest.source["spec"] == "30 texts from Python"
    with pytest.raises(UserError, match="there is no text in 0 texts from Python"):
        ma.prepare([], tokenizer="byte", progress=False)


def test_texts_are_held_out_and_named_in_the_manifest() -> None:
    made = ma.prepare(["train"], tokenizer="byte", validation=["valid", "again"], progress=False)
    assert (words(made, "train"), words(made, "valid")) == ("train", "valid$again$")
    assert (made.manifest.validation["rule"], made.manifest.validation["source"]) == ("given", "2 texts from Python")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"bytes", "a bytes is no source"),
        ({"text": TEXTS}, "a dict is no source: expected texts in a list"),
        (set(TEXTS), "a set is no source"),
        (ByteTokenizer, "the class ByteTokenizer is no source"),
        (["fine", {"text": "x"}], "document 1 of 2 texts from Python is of type dict, expected a str"),
        (["half \ud800"], r"lone surrogate \(U\+D800\) at position 5, half of a character"),
        (["caf\udce9"], r"lone surrogate \(U\+DCE9\) at position 3: the byte 0xE9 of a text that is not UTF-8"),
    ],
)
def test_what_is_no_text_is_refused_with_its_type(source: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        list(Given(source))


class Counted:
    """A source that counts how often it is read."""

    def __init__(self, texts: list[str]) -> None:
        self.texts, self.num_reads = texts, 0

    def __iter__(self) -> Iterator[str]:
        self.num_reads += 1
        return iter(self.texts)

    def held_out(self) -> None: ...

    def identity(self) -> dict[str, Any]:
        return {"size": len(self.texts)}

    def describe(self) -> dict[str, Any]:
        return {"texts": len(self.texts)}


def test_a_source_object_tells_what_it_is_without_being_read() -> None:
    source = Counted(TEXTS)
    assert isinstance(source, Source)
    made = ma.prepare(source, tokenizer="byte", progress=False)
    assert source.num_reads == 2  # which documents are held out, then all of them
    assert ma.prepare(Counted(TEXTS), tokenizer="byte", progress=False).folder == made.folder
    assert source.num_reads == 2
    assert made.manifest.source == {
        "spec": "Counted",
        "kind": "plugin",
        "class": f"{__name__}:Counted",
        "texts": 30,
    }


def test_a_path_is_a_path_even_where_a_name_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="there is no file or folder shakespeare"):
        open_source(Path("shakespeare"))
    Path("shakespeare").mkdir()
    Path("shakespeare/mine.txt").write_text("mine")
    assert list(open_source(Path("shakespeare"))) == [Piece("mine", ends_document=True)]


def test_a_misspelt_name_or_keyword_gets_a_hint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no corpus of that name; did you mean shakespeare\?"):
        ma.prepare("shakespear")
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'lenght'; did you mean length\?"):
        ma.prepare("shakespeare", lenght=5)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="needs a source"):
        ma.prepare()
    with pytest.raises(TypeError, match="not both"):
        ma.prepare(TEXTS, request=ma.DataRequest(source=TEXTS))


# --- what comes back ---


def test_a_corpus_is_a_path_and_shows_its_splits(tmp_path: Path) -> None:
    made = ma.prepare(TEXTS, tokenizer="byte", out=tmp_path / "<made>", progress=False)
    assert Path(made) == tmp_path / "<made>"
    assert os.fspath(ma.Corpus(made)) == os.fspath(made)
    assert repr(made) == (
        f"Corpus('{tmp_path}/<made>': train 999 tokens, 971 characters; valid 71 tokens, 69 characters; "
        "tokenizer byte, 257 tokens; validation documents by hash)"
    )
    page = made._repr_html_()
    assert "<th>train</th><td>28</td><td>999</td>" in page
    assert "/&lt;made&gt;" in page
    rows = made.open("train", 16)
    assert len(rows.rows(np.arange(61))[0]) == 61
    assert repr(rows) == f"TokenDataset('{tmp_path}/<made>', train: 61 rows of 16 tokens, 999 in all)"


# --- plugins ---


def test_a_source_of_a_package_is_called_with_what_follows_its_name(package: Path) -> None:
    made = ma.prepare("own.poems:Poems:1807", tokenizer="byte", progress=False)
    assert words(made, "train") == "a poem of 1807$a long poem$"
    assert words(made, "valid").startswith("a poem of 1807, held out$")
    assert made.manifest.source["class"] == "own.poems:Poems"
    assert words(ma.prepare("own.poems:Poems", tokenizer="byte", progress=False), "train").startswith("a poem of 1800$")
    few = ma.prepare("own.poems:lines:3", tokenizer="byte", progress=False)
    assert words(few, "train") + words(few, "valid") == "line 0$line 1$line 2"
    assert "documents" in few.manifest.source


def test_the_name_that_an_installed_package_offers_goes_before_a_module_of_that_name(package: Path) -> None:
    assert "json" not in plugins.names("source")  # it is found although it came after this
    record = package.parent / "own-1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: own\nVersion: 1.0\n")
    (record / "entry_points.txt").write_text("[mdlm_atat.source]\njson = own.poems:Poems\n")
    made = ma.prepare("json:early", tokenizer="byte", progress=False)
    assert words(made, "train").startswith("a poem of early$")
    assert ma.prepare("own.poems:Poems:early", tokenizer="byte", progress=False).folder == made.folder
    with pytest.raises(UserError, match=r"no corpus of that name; did you mean json\?.*fineweb-edu, json, hub:OWNER"):
        ma.prepare("jsonn", progress=False)


def test_one_class_under_two_names_has_one_fingerprint_and_an_edited_one_another(package: Path) -> None:
    plugins.allow("source", "own:Poems")
    plugins.allow("source", "own.poems:Poems")
    first = ma.DataRequest(source="own.poems:Poems:1807").fingerprint()
    assert ma.DataRequest(source="own:Poems:1807").fingerprint() == first
    assert ma.DataRequest(source="own:Poems:1808").fingerprint() != first
    (package / "poems.py").write_text(POEMS.replace("a poem", "an ode"))
    assert ma.DataRequest(source="own:Poems:1807").fingerprint() != first


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own.poems:Poem", "did you mean own.poems:Poems?"),
        ("own.poem:Poems", "there is no module own.poem"),
        ("__main__:Poems", "cannot be imported from elsewhere"),
        ("own.poems:lines", r"cannot be called with no text"),
        ("own.poems:Poems:1:2", None),
        ("own.poems:Silence:x", "cannot be called with the text 'x'"),
        ("own.poems:Silence", "a Silence is no source"),
        ("own.poems:lines:many", "refuses the text 'many': invalid literal for int"),
    ],
)
def test_a_source_that_is_none_says_why(package: Path, name: str, message: str | None) -> None:
    if message is None:
        assert ma.prepare(name, progress=False).manifest.source["year"] == "1:2"
    else:
        with pytest.raises(UserError, match=message.replace("?", r"\?")):
            ma.prepare(name, progress=False)


def test_neither_a_hub_name_nor_a_drive_is_taken_for_a_plugin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("mdlm_atat.data.sources.hub_unreachable", lambda: "no network")
    monkeypatch.setitem(sys.modules, "datasets", ModuleType("datasets"))  # slow to import
    for name in (r"C:\texts\mine.txt", "C:mine", "c:/mine.txt"):
        with pytest.raises(UserError, match="there is no file or folder"):
            ma.prepare(name, progress=False)
    with pytest.raises(UserError, match="the hub cannot be reached"):
        ma.prepare("hub:gutenberg", progress=False)
    monkeypatch.chdir(tmp_path)
    Path("own.poems:Poems.txt").write_text("a file of that name")
    made = ma.prepare("own.poems:Poems.txt", tokenizer="byte", progress=False)
    assert words(made, "train") + words(made, "valid") == "a file of that name"


def test_a_name_in_a_request_is_imported_only_where_a_person_said_so(package: Path) -> None:
    request = ma.DataRequest(source="own.poems:Poems", tokenizer="byte")
    with pytest.raises(UserError, match=r"importing it runs its code.*`trust_plugins=True`"):
        ma.prepare(request=request, progress=False)
    assert "own.poems" not in sys.modules
    assert ma.prepare(request=request, progress=False, trust_plugins=True).manifest.source["poet"] == "nobody"


def test_a_tokenizer_of_a_package_is_saved_with_its_name_and_loaded_where_it_is_trusted(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ma.prepare(TEXTS, tokenizer="own:Shifted:3", progress=False)
    assert made.open("train", 8).tokens[0] == (ord("d") + 3) % 256
    assert words(made, "train").startswith("document 0")
    assert ma.prepare(TEXTS, tokenizer="own.vowels:Shifted:3", progress=False).folder == made.folder
    assert ma.prepare(TEXTS, tokenizer=made.tokenizer, progress=False).folder == made.folder
    folder = made.folder / "tokenizer"
    record = json.loads((folder / PLUGIN_NAME).read_text())
    assert record == {"kind": "tokenizer", "name": "own.vowels:Shifted", "distribution": None, "version": None}
    assert load_tokenizer(folder).fingerprint() == "shifted by 3"  # named by a person in this process
    monkeypatch.setattr(plugins, "_allowed", set())
    with pytest.raises(UserError, match=r"importing it runs its code.*`trust_plugins=True`"):
        load_tokenizer(folder)
    with pytest.raises(UserError, match="importing it runs its code"):
        ma.prepare(TEXTS, tokenizer=folder, progress=False)
    assert ma.Corpus(made, trust_plugins=True).tokenizer.fingerprint() == "shifted by 3"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"name": "subprocess:Popen"}, "importing it runs its code"),
        ({"name": "own.vowels:Shifted", "distribution": "nosuch-package", "version": "1.2"}, "nosuch-package==1.2"),
        ({"name": 3}, "is damaged"),
        ({"name": "own.vowels:Shifted", "distribution": ["x"]}, "is damaged"),
        ([], "holds no object of names and values"),
    ],
)
def test_a_tokenizers_folder_never_runs_code_by_itself(
    package: Path, tmp_path: Path, record: Any, message: str
) -> None:
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / PLUGIN_NAME).write_text(json.dumps(record))
    with pytest.raises(UserError, match=message):
        load_tokenizer(tmp_path / "tokenizer")
    assert "own.vowels" not in sys.modules


def test_a_tokenizer_that_cannot_be_used_or_saved_is_refused_before_the_text_is_read(package: Path) -> None:
    source = Counted(TEXTS)
    refusals: list[tuple[Any, str]] = [
        ("own.vowels:Half", "the tokenizer Half lacks vocab_size, mask_id, .*, save, load"),
        (ByteTokenizer, "ByteTokenizer is a class: give a tokenizer of it"),
        (type("NoLoad", (), dict(vars(ByteTokenizer)))(), "lacks load"),
    ]
    for tokenizer, message in refusals:
        with pytest.raises(UserError, match=message):
            ma.prepare(source, tokenizer=tokenizer, progress=False)
    assert source.num_reads == 0


def test_tokenizers_of_our_own_are_saved_as_before(tmp_path: Path) -> None:
    save_tokenizer(ByteTokenizer(), tmp_path / "byte")
    assert [file.name for file in (tmp_path / "byte").iterdir()] == ["tokenizer_config.json"]
