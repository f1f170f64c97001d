"""Text to token ids and back: characters, bytes, and whatever the `tokenizers` library reads, in one protocol."""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from mdlm_atat.data.files import utf8
from mdlm_atat.data.hub import hub_unreachable
from mdlm_atat.data.plugged import call_plugin, plugin_of
from mdlm_atat.errors import UserError
from mdlm_atat.interrupts import interruptible
from mdlm_atat.plugins import allow, check_requirement, reference_to, requirement, resolve

MASK_TEXT = "░"
CONFIG_NAME = "tokenizer_config.json"
PLUGIN_NAME = "plugin.json"
"""In the folder of a tokenizer that a plugin saved: which one, of which package and version."""
END_OF_TEXT = "<|endoftext|>"
HUB_NAMES = {"gpt2": "openai-community/gpt2", "bert-base-uncased": "google-bert/bert-base-uncased"}


@runtime_checkable
class Tokenizer(Protocol):
    """Ids 0 .. vocab_size - 1 are what a model can output; mask_id == vocab_size lies outside of them.

    Text never turns into a control id: "<|endoftext|>" in a text is encoded as the characters it is made of. A
    tokenizer of another package also has a classmethod `load(folder)`, which opens what its `save(folder)` wrote.
    """

    @property
    def name(self) -> str: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def mask_id(self) -> int: ...
    @property
    def bos_id(self) -> int | None: ...
    @property
    def eos_id(self) -> int | None: ...
    @property
    def pad_id(self) -> int | None: ...

    def encode(self, text: str) -> list[int]:
        """Return the ids of one text, with no bos or eos added. Raises UserError where it cannot be encoded."""
        ...

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        """Return the ids of many texts, each an array of integers. It is called from several threads at once."""
        ...

    def decode(self, ids: Sequence[int] | np.ndarray, mask_text: str = MASK_TEXT, eos_text: str = "") -> str:
        """Return the text of ids: masks show as `mask_text`, eos as `eos_text`, bos and pad as nothing, and bytes that
        are no UTF-8 as U+FFFD. Raises UserError for an id above `mask_id`."""
        ...

    def fingerprint(self) -> str:
        """Return a hash of the behaviour: equal for tokenizers that give the same ids, however they were loaded."""
        ...

    def save(self, folder: Path) -> None:
        """Write the files that the tokenizer is loaded from again into a folder, making it if it is missing."""
        ...


class CharTokenizer:
    """One id a character of a fixed alphabet, in code point order; the last id is eos."""

    name = "char"
    bos_id: int | None = None
    pad_id: int | None = None

    def __init__(self, alphabet: str) -> None:
        self.alphabet = "".join(sorted(set(alphabet)))
        if not self.alphabet:
            raise UserError("a char tokenizer needs at least one character: the corpus is empty")
        self._code_points = _code_points(self.alphabet)  # (V - 1,)
        self._ids = np.full(int(self._code_points[-1]) + 2, -1, np.int32)  # the last entry stands for all above
        self._ids[self._code_points] = np.arange(len(self.alphabet))
        self.eos_id: int | None = len(self.alphabet)
        self.vocab_size = len(self.alphabet) + 1
        self.mask_id = self.vocab_size

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> CharTokenizer:
        """Make the tokenizer whose alphabet is every character of the texts. Raises UserError where there is none."""
        alphabet: set[str] = set()
        for text in texts:
            alphabet.update(text)
        return cls("".join(alphabet))

    def encode(self, text: str) -> list[int]:
        return self._encode(text).tolist()

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        return [self._encode(text) for text in texts]

    def _encode(self, text: str) -> np.ndarray:
        code_points = _code_points(text)
        ids = self._ids[np.minimum(code_points, len(self._ids) - 1)]
        if len(ids) and ids.min() < 0:
            position = int(np.argmax(ids < 0))
            character = text[position]
            raise UserError(
                f"character {character!r} (U+{ord(character):04X}) at position {position} is not among the "
                f"{len(self.alphabet)} characters of this char tokenizer, which are those of the text that it was made "
                "from: remove or replace it, or train on a text that has it, or with the tokenizer byte, which "
                "encodes any text"
            )
        return ids

    def decode(self, ids: Sequence[int] | np.ndarray, mask_text: str = MASK_TEXT, eos_text: str = "") -> str:
        table = [*self.alphabet, eos_text, mask_text]
        return "".join([table[i] for i in _checked(ids, self.vocab_size)])

    def fingerprint(self) -> str:
        return _hash(["char", self.alphabet])

    def save(self, folder: Path) -> None:
        _save_config(self, folder, "char", alphabet=self.alphabet)


class ByteTokenizer:
    """One id a UTF-8 byte; id 256 is eos. Encodes any text."""

    name = "byte"
    vocab_size = 257
    mask_id = 257
    bos_id: int | None = None
    eos_id: int | None = 256
    pad_id: int | None = None

    def encode(self, text: str) -> list[int]:
        return list(utf8(text))

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        return [np.frombuffer(utf8(text), np.uint8) for text in texts]

    def decode(self, ids: Sequence[int] | np.ndarray, mask_text: str = MASK_TEXT, eos_text: str = "") -> str:
        table = [*(bytes([byte]) for byte in range(256)), eos_text.encode(), mask_text.encode()]
        return b"".join([table[i] for i in _checked(ids, self.vocab_size)]).decode(errors="replace")

    def fingerprint(self) -> str:
        return _hash(["byte"])

    def save(self, folder: Path) -> None:
        _save_config(self, folder, "byte")


class HFTokenizer:
    """A `tokenizers.Tokenizer` (byte-level BPE, WordPiece, Unigram, ...) that adds, pads and truncates nothing."""

    def __init__(
        self,
        inner: Any,
        *,
        name: str,
        bos_id: int | None = None,
        eos_id: int | None = None,
        pad_id: int | None = None,
    ) -> None:
        inner.no_padding()
        inner.no_truncation()
        inner.encode_special_tokens = True  # "<|endoftext|>" in a text is text
        vocabulary = inner.get_vocab(with_added_tokens=True)
        if not vocabulary:
            raise UserError(f"the tokenizer {name} has an empty vocabulary")
        self.inner = inner
        self.name = name
        self.vocab_size = max(vocabulary.values()) + 1
        self.mask_id = self.vocab_size
        self.bos_id, self.eos_id, self.pad_id = bos_id, eos_id, pad_id

    def encode(self, text: str) -> list[int]:
        return self.encode_batch([text])[0].tolist()

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        try:
            # the library runs without the GIL here: threads are enough for parallel tokenization
            encodings = self.inner.encode_batch_fast(texts, add_special_tokens=False)
        except (TypeError, UnicodeEncodeError):
            for text in texts:
                utf8(text)
            raise
        return [np.array(encoding.ids, np.int32) for encoding in encodings]

    def decode(self, ids: Sequence[int] | np.ndarray, mask_text: str = MASK_TEXT, eos_text: str = "") -> str:
        control = {self.bos_id: "", self.pad_id: "", self.eos_id: eos_text, self.mask_id: mask_text}
        tokens = [control[i] if i in control else self._token(i) for i in _checked(ids, self.vocab_size)]
        tokens = [token for token in tokens if token]
        # the decoder passes what is not in its alphabet on as it is, so masks keep their place among word pieces
        return self.inner.decoder.decode(tokens) if self.inner.decoder else " ".join(tokens)

    def _token(self, token_id: int) -> str:
        return self.inner.id_to_token(token_id) or ""  # some vocabularies have gaps

    def fingerprint(self) -> str:
        vocabulary = sorted(self.inner.get_vocab(with_added_tokens=True).items())
        # the library's own JSON changes between its versions, what it does to a text does not
        probe = "Hello, WORLD! It's 12345 naïve\n\n\tcafé's  日本語 🙂 <|endoftext|>[SEP] end "
        return _hash(["hf", vocabulary, self.encode(probe), self.bos_id, self.eos_id, self.pad_id])

    def save(self, folder: Path) -> None:
        _save_config(self, folder, "hf")
        (folder / "tokenizer.json").write_text(self.inner.to_str(pretty=False), encoding="utf-8")


BUILT_IN = (CharTokenizer, ByteTokenizer, HFTokenizer)
_MEMBERS = [name for name in vars(Tokenizer) if not name.startswith("_")]


def load_tokenizer(spec: str | os.PathLike[str]) -> Tokenizer:
    """Load the tokenizer that `spec` names: byte, gpt2, bert-base-uncased, another hub name, a folder, or a plugin.

    A folder holds what `save_tokenizer` wrote, or tokenizer.json, vocab.bpe + encoder.json (merges.txt + vocab.json) or
    vocab.txt, each also as .xz. "char" depends on a corpus and is built by `prepare`. Raises UserError where nothing is
    found, where files are damaged, and for a plugin that is not installed or that nobody trusts.
    """
    folder = Path(spec).expanduser()
    if not isinstance(spec, str):  # a path, whatever its name
        if not folder.is_dir():
            raise UserError(f"there is no tokenizer folder {folder}")
        return _load_folder(folder)
    if spec == "byte":
        return ByteTokenizer()
    if spec == "char":
        raise UserError(
            "the char tokenizer is built from a corpus: use it with `prepare` or `train`, "
            "or give the tokenizer/ folder of a prepared corpus"
        )
    if folder.is_dir():
        return _load_folder(folder)
    if folder.exists():
        raise UserError(f"{spec} is a file; `tokenizer` takes the folder that holds it: {folder.parent}")
    if plugin_of("tokenizer", spec):
        return checked(call_plugin("tokenizer", spec))
    if "\\" in spec or spec.startswith((".", "/", "~")) or spec.count("/") > 1:
        raise UserError(
            f"there is no tokenizer folder {spec}; expected char, byte, gpt2, bert-base-uncased, a hub name like "
            "OWNER/NAME, a plugin as package.module:Name, or a folder with tokenizer.json, vocab.bpe + encoder.json or "
            "vocab.txt"
        )
    return _load_hub(spec)


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write what `load_tokenizer(folder)` needs: the tokenizer's own files and, of a plugin, which one it is.

    Raises UserError for a plugin's class that nobody could import again, such as one of `__main__`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(folder)
    if type(tokenizer) not in BUILT_IN:
        record = requirement("tokenizer", reference_to(type(tokenizer)))
        (folder / PLUGIN_NAME).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def is_plain_name(tokenizer: object) -> bool:
    """Return whether a tokenizer is given by a name that is built in or the hub's, not by a folder or a plugin."""
    if not isinstance(tokenizer, str) or Path(tokenizer).expanduser().is_dir():
        return False
    return plugin_of("tokenizer", tokenizer) is None


def checked(tokenizer: Any) -> Tokenizer:
    """Return a tokenizer that a person gave or a plugin made, if it can be used, saved and loaded again.

    Its class may be loaded from folders from now on. Raises UserError that names what it lacks.
    """
    if type(tokenizer) in BUILT_IN:
        return tokenizer
    label = f"the tokenizer {type(tokenizer).__name__}"
    if isinstance(tokenizer, type):
        raise UserError(f"{tokenizer.__name__} is a class: give a tokenizer of it, {tokenizer.__name__}(...)")
    lacking = [name for name in (*_MEMBERS, "load") if not hasattr(tokenizer, name)]
    if lacking:
        raise UserError(f"{label} lacks {', '.join(lacking)}: see `mdlm_atat.data.tokenizers.Tokenizer`")
    if tokenizer.mask_id != tokenizer.vocab_size:
        raise UserError(
            f"{label} has mask_id {tokenizer.mask_id}, expected its vocab_size {tokenizer.vocab_size}: ids of text are "
            "below, and the mask comes right after them"
        )
    allow("tokenizer", reference_to(type(tokenizer)))
    return tokenizer


def train_bpe(texts: Iterable[str], vocab_size: int, *, name: str = "bpe", show_progress: bool = False) -> HFTokenizer:
    """Train a byte-level BPE with GPT-2's pre-tokenizer on texts; its last id is eos, <|endoftext|>.

    All 256 bytes are in the vocabulary, so that any text round-trips. A small corpus may give fewer than `vocab_size`
    ids. Raises UserError for a `vocab_size` below 258, and where the texts are empty.
    """
    from tokenizers import Tokenizer as Inner
    from tokenizers import models, trainers

    if vocab_size < 258:
        raise UserError(f"vocab_size is {vocab_size}, expected at least 258: 256 bytes, eos and one merge")
    inner = _byte_level(Inner(models.BPE()))
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        initial_alphabet=_byte_alphabet(),
        special_tokens=[],
        show_progress=show_progress,
    )
    seen = False

    def watched() -> Iterator[str]:
        nonlocal seen
        for text in texts:
            seen = seen or bool(text)
            yield text

    interruptible(lambda: inner.train_from_iterator(watched(), trainer))
    if not seen:
        raise UserError("the corpus is empty: there is nothing to train a tokenizer on")
    inner.add_special_tokens([END_OF_TEXT])
    return HFTokenizer(inner, name=name, eos_id=inner.token_to_id(END_OF_TEXT))


def _load_folder(folder: Path) -> Tokenizer:
    if (folder / PLUGIN_NAME).is_file():
        return _load_plugin(folder)
    config = _read_json(folder / CONFIG_NAME) if (folder / CONFIG_NAME).is_file() else {}
    if "mdlm_atat" in config:
        return _load_saved(folder, config)
    from tokenizers import Tokenizer as Inner
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    name = folder.resolve().name
    if (text := _read(folder, "tokenizer.json")) is not None:
        try:
            inner = Inner.from_str(text)
        except Exception as error:  # the library raises bare Exception
            raise UserError(f"{folder / 'tokenizer.json'} is not a tokenizer the library reads: {error}") from error
        return HFTokenizer(inner, name=name, **_roles(inner, config))
    for merges_name, vocabulary_name in (("vocab.bpe", "encoder.json"), ("merges.txt", "vocab.json")):
        merges, vocabulary = _read(folder, merges_name), _read(folder, vocabulary_name)
        if merges is None or vocabulary is None:
            continue
        lines = (line.partition(" ") for line in merges.split("\n") if line and not line.startswith("#version"))
        pairs = [(left, right) for left, _, right in lines]
        try:
            inner = _byte_level(Inner(models.BPE(json.loads(vocabulary), pairs)))
        except Exception as error:
            raise UserError(f"{folder} does not hold a BPE vocabulary that fits together: {error}") from error
        return HFTokenizer(inner, name=name, **_roles(inner, config))
    if (text := _read(folder, "vocab.txt")) is not None:
        pieces = text.rstrip("\n").split("\n")
        vocabulary = {piece.rstrip("\r"): i for i, piece in enumerate(pieces)}
        if "[UNK]" not in vocabulary:
            raise UserError(f"{folder / 'vocab.txt'} has no [UNK]: expected a BERT vocabulary, one word piece a line")
        # uncased unless the files say otherwise: a vocabulary with capitals was not made from lowercased text
        capitals = any(piece != piece.lower() for piece in vocabulary if not piece.startswith("["))
        inner = Inner(models.WordPiece(vocabulary, unk_token="[UNK]"))  # pyright: ignore[reportCallIssue]
        inner.normalizer = normalizers.BertNormalizer(lowercase=config.get("do_lower_case", not capitals))
        inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        inner.decoder = decoders.WordPiece(prefix="##")
        return HFTokenizer(inner, name=name, **_roles(inner, config))
    raise UserError(
        f"{folder} holds no tokenizer: expected tokenizer.json, vocab.bpe + encoder.json, merges.txt + vocab.json "
        "or vocab.txt"
    )


def _load_saved(folder: Path, config: dict[str, Any]) -> Tokenizer:
    match config.get("kind"):
        case "char":
            return CharTokenizer(config["alphabet"])
        case "byte":
            return ByteTokenizer()
        case "hf":
            from tokenizers import Tokenizer as Inner

            roles = {role: config[role] for role in ("bos_id", "eos_id", "pad_id")}
            tokenizer = HFTokenizer(Inner.from_file(str(folder / "tokenizer.json")), name=config["name"], **roles)
            if tokenizer.vocab_size != config["vocab_size"]:
                raise UserError(
                    f"{folder / 'tokenizer.json'} has {tokenizer.vocab_size} tokens, {CONFIG_NAME} says "
                    f"{config['vocab_size']}: one of them was altered; prepare the corpus again"
                )
            return tokenizer
        case kind:
            raise UserError(f"{folder / CONFIG_NAME} has kind {kind!r}, expected char, byte or hf")


def _load_plugin(folder: Path) -> Tokenizer:
    needed = _read_json(folder / PLUGIN_NAME)
    name = needed.get("name")
    others = [needed.get(key) for key in ("kind", "distribution", "version")]
    if not isinstance(name, str) or not all(other is None or (isinstance(other, str) and other) for other in others):
        raise UserError(f"{folder / PLUGIN_NAME} is damaged: expected the name, package and version of a tokenizer")
    warning = check_requirement(needed)
    if warning is not None:
        warnings.warn(warning, stacklevel=2)
    return checked(resolve("tokenizer", name).load(folder))


def _load_hub(spec: str) -> Tokenizer:
    from huggingface_hub import try_to_load_from_cache
    from tokenizers import Tokenizer as Inner

    hub_id = HUB_NAMES.get(spec, spec)
    try:
        cached = try_to_load_from_cache(hub_id, "tokenizer.json")
        reason = None if isinstance(cached, str) else hub_unreachable()
        if reason is None:
            inner = Inner.from_file(cached) if isinstance(cached, str) else Inner.from_pretrained(hub_id)
            return HFTokenizer(inner, name=spec, **_roles(inner, {}))
    except Exception as error:  # the library raises bare Exception for everything, the hub's client for a bad name
        reason = str(error).strip().split("\n")[0].rstrip(".")
    raise UserError(
        f"the tokenizer {spec} could not be fetched from the hub ({reason}). Check its name and the network, or give a "
        "local folder instead, with tokenizer.json, vocab.bpe + encoder.json or vocab.txt"
    )


def _roles(inner: Any, config: dict[str, Any]) -> dict[str, int | None]:
    """Ids of bos, eos and pad: from a transformers-style tokenizer_config.json, else by the usual names."""
    usual = {
        "bos": ("[CLS]", "<s>", "<bos>", "<|begin_of_text|>"),
        "eos": (END_OF_TEXT, "[SEP]", "</s>", "<eos>", "<|end_of_text|>"),
        "pad": ("[PAD]", "<pad>"),
    }
    roles: dict[str, int | None] = {}
    for role, names in usual.items():
        given = config.get(f"{role}_token")
        given = given.get("content") if isinstance(given, dict) else given
        # GPT-2's files name one token as bos, eos and pad: only eos is kept, a role of its own or none
        found = (inner.token_to_id(name) for name in ((given,) if given else names))
        token_id = next((i for i in found if i is not None), None)
        roles[f"{role}_id"] = token_id
    for role in ("bos_id", "pad_id"):
        if roles[role] == roles["eos_id"]:
            roles[role] = None
    return roles


def _byte_level(inner: Any) -> Any:
    from tokenizers import decoders, pre_tokenizers

    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return inner


def _byte_alphabet() -> list[str]:
    from tokenizers import pre_tokenizers

    return sorted(pre_tokenizers.ByteLevel.alphabet())


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _checked(ids: Sequence[int] | np.ndarray, vocab_size: int) -> list[int]:
    array = np.asarray(ids, np.int64)
    if array.ndim != 1:
        raise ValueError(f"decode takes one sequence of ids, not an array of shape {array.shape}")
    if len(array) and not (array.min() >= 0 and array.max() <= vocab_size):
        wrong = array[(array < 0) | (array > vocab_size)][0]
        raise UserError(
            f"id {wrong} cannot be decoded: this tokenizer has ids 0 .. {vocab_size - 1} and mask {vocab_size}"
        )
    return array.tolist()


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _save_config(tokenizer: Tokenizer, folder: Path, kind: str, **more: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = ("name", "vocab_size", "mask_id", "bos_id", "eos_id", "pad_id")
    config = {"mdlm_atat": 1, "kind": kind, **{name: getattr(tokenizer, name) for name in names}, **more}
    (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _read(folder: Path, name: str) -> str | None:
    """The text of folder/name or folder/name.xz; None where there is neither."""
    if (folder / name).is_file():
        return (folder / name).read_text(encoding="utf-8")
    if (folder / f"{name}.xz").is_file():
        with lzma.open(folder / f"{name}.xz", "rt", encoding="utf-8") as file:
            return file.read()
    return None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} holds a {type(found).__name__}, expected a JSON object")
    return found
