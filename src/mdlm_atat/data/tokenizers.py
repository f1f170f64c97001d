"""Text to token ids and back: characters, bytes, and whatever the `tokenizers` library reads, in one protocol."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from mdlm_atat.atomic import make_folder, write_text
from mdlm_atat.data.files import utf8
from mdlm_atat.errors import UserError

MASK_TEXT = "░"
CONFIG_NAME = "tokenizer_config.json"
END_OF_TEXT = "<|endoftext|>"
HUB_VOCABULARIES = {"gpt2": 50_257, "bert-base-uncased": 30_522}
"""Tokens of the hub's tokenizers that presets, benchmarks and published models name."""


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
        """Return a hash of everything that decides what the tokenizer makes of a text and of ids: two that could differ
        on any text have two."""
        ...

    def save(self, folder: Path) -> None:
        """Write the files that the tokenizer is loaded from again into a folder, making it if it is missing."""
        ...


def other_case(character: str, alphabet: str) -> str:
    """What stands in the characters of an alphabet for one that is not in it: the character in the other case, else a
    space, else nothing."""
    choices = (character.lower(), character.upper(), " ", "")
    return next(choice for choice in choices if set(choice) <= set(alphabet))


class UnknownCharacter(UserError):
    """A character that is not in a tokenizer's alphabet of `num_known`."""

    def __init__(self, character: str, position: int, num_known: int) -> None:
        super().__init__(
            f"character {character!r} (U+{ord(character):04X}) at position {position} is not among the {num_known} "
            "characters of this char tokenizer, which are those of the text that it was made from: remove or replace "
            "it, or train on a text that has it, or with the tokenizer byte, which encodes any text"
        )
        self.character, self.position, self.num_known = character, position, num_known


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
            raise UnknownCharacter(character, position, len(self.alphabet))
        return ids

    def decode(self, ids: Sequence[int] | np.ndarray, mask_text: str = MASK_TEXT, eos_text: str = "") -> str:
        known, special = self.alphabet, (eos_text, mask_text)
        size = len(known)
        return "".join([known[i] if i < size else special[i - size] for i in _checked(ids, self.vocab_size)])

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


class Panic(ValueError):
    """The `tokenizers` library broke off, by a fault of its own or of what it was given."""


@contextmanager
def unbroken() -> Iterator[None]:
    """Raise `Panic` for a panic of the `tokenizers` library, which is no Exception."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise Panic(str(error)) from None


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
        _refuse_draws(inner, name)
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
            with self._panics("on this text"):
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
        with self._panics("in decoding"):
            return self.inner.decoder.decode(tokens) if self.inner.decoder else " ".join(tokens)

    def decode_batch(self, batch: Sequence[np.ndarray]) -> list[str]:
        """Return the texts of the ids of many texts, as `decode` does, several times as fast."""
        control = [i for i in (self.bos_id, self.eos_id, self.pad_id) if i is not None]
        if any(np.isin(ids, control).any() for ids in batch):
            return [self.decode(ids) for ids in batch]
        with self._panics("in decoding"):
            return self.inner.decode_batch([ids.tolist() for ids in batch], skip_special_tokens=False)

    @contextmanager
    def _panics(self, where: str) -> Iterator[None]:
        """Raise UserError for a panic of the library."""
        try:
            with unbroken():
                yield
        except Panic as error:
            raise UserError(f"the tokenizer {self.name} breaks {where} ({error}); choose another one") from None

    @property
    def unknown_text(self) -> str | None:
        """What stands in a decoded text for what the vocabulary does not have, such as [UNK]; None without one."""
        model = self.inner.model
        unknown = getattr(model, "unk_token", None)
        if unknown is None and (unk_id := json.loads(self.inner.to_str())["model"].get("unk_id")) is not None:
            unknown = self.inner.id_to_token(unk_id)
        return unknown

    def _token(self, token_id: int) -> str:
        return self.inner.id_to_token(token_id) or ""  # some vocabularies have gaps

    def fingerprint(self) -> str:
        definition = json.dumps(_definition(self.inner), sort_keys=True)
        return _hash(["hf", definition, self.bos_id, self.eos_id, self.pad_id])

    def former_fingerprint(self) -> str:
        """Return what `fingerprint` returned until 0.1: a hash of the vocabulary and of the ids of one sentence. It
        cannot tell every tokenizer from every other; files of that time hold it."""
        vocabulary = sorted(self.inner.get_vocab(with_added_tokens=True).items())
        probe = "Hello, WORLD! It's 12345 naïve\n\n\tcafé's  日本語 🙂 <|endoftext|>[SEP] end "
        return _hash(["hf", vocabulary, self.encode(probe), self.bos_id, self.eos_id, self.pad_id])

    def save(self, folder: Path) -> None:
        _save_config(self, folder, "hf")
        write_text(folder / "tokenizer.json", self.inner.to_str(pretty=False))


def has_identity(tokenizer: Tokenizer, identity: str) -> bool:
    """Return whether a stored hash is the tokenizer's: its fingerprint or, in files of before 0.2, the former one."""
    if tokenizer.fingerprint() == identity:
        return True
    return isinstance(tokenizer, HFTokenizer) and tokenizer.former_fingerprint() == identity


def _definition(inner: Any) -> dict[str, Any]:
    """Normalizer, pre-tokenizer, model, post-processor, decoder and added tokens, as JSON. What is null, false or empty
    is left out and merges are pairs, since versions of the library write those in different ways."""

    def plain(value: Any) -> Any:
        match value:
            case dict():
                kept = {name: plain(part) for name, part in value.items()}
                return {name: part for name, part in kept.items() if part is not None and part is not False}
            case list():
                return [plain(part) for part in value]
            case _:
                return value

    found = json.loads(inner.to_str())
    model = plain(found["model"])
    if "merges" in model:
        model["merges"] = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    names = ("normalizer", "pre_tokenizer", "post_processor", "decoder", "added_tokens")
    return {"model": model} | {name: plain(found[name]) for name in names if found.get(name)}


def _refuse_draws(inner: Any, name: str) -> None:
    """Raise UserError for a tokenizer that does not give a text the same ids every time."""
    for attribute, what in (("dropout", "BPE dropout"), ("alpha", "unigram sampling"), ("nbest_size", "sampling")):
        value = getattr(inner.model, attribute, None)
        if value:
            raise UserError(
                f"the tokenizer {name} draws its tokens at random ({what}, {attribute} {value:g}): a corpus that is "
                f'prepared once and read many times needs one that does not; set "{attribute}" to null in the "model" '
                "of its tokenizer.json"
            )


def byte_level(inner: Any) -> Any:
    """Give a BPE of the `tokenizers` library GPT-2's pre-tokenizer and decoder, which work on bytes; returns it."""
    from tokenizers import decoders, pre_tokenizers

    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return inner


def characters_of_bytes() -> list[str]:
    """The character that GPT-2's vocabulary writes each byte as: itself where it is printed and no space, the others
    from U+0100 on."""
    printed = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printed]
    return [chr(byte if byte in printed else 256 + others.index(byte)) for byte in range(256)]


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
    make_folder(folder)
    names = ("name", "vocab_size", "mask_id", "bos_id", "eos_id", "pad_id")
    config = {"mdlm_atat": 1, "kind": kind, **{name: getattr(tokenizer, name) for name in names}, **more}
    write_text(folder / CONFIG_NAME, json.dumps(config, indent=2) + "\n")
