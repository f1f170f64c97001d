"""Find a tokenizer by its name, folder, hub id or plugin, and write one into a folder to be found again."""

from __future__ import annotations

import json
import lzma
import os
import warnings
from pathlib import Path
from typing import Any

from mdlm_atat.atomic import make_folder, write_text
from mdlm_atat.data.hub import hub_unreachable
from mdlm_atat.data.plugged import call_plugin, plugin_of
from mdlm_atat.data.tokenizers import (
    CONFIG_NAME,
    END_OF_TEXT,
    ByteTokenizer,
    CharTokenizer,
    HFTokenizer,
    Tokenizer,
    byte_level,
    has_identity,
    unbroken,
)
from mdlm_atat.errors import UserError
from mdlm_atat.formats import data_size
from mdlm_atat.plugins import allow, as_requirement, check_requirement, reference_to, requirement, resolve
from mdlm_atat.small_files import RESTORE, read_object, read_small

PLUGIN_NAME = "plugin.json"
"""In the folder of a tokenizer that a plugin saved: which one, of which package and version."""
MOST_BYTES = 1 << 26
"""Of a file of a tokenizer: the largest published vocabularies, of 256,000 tokens, take 35 MB."""
HUB_NAMES = {"gpt2": "openai-community/gpt2", "bert-base-uncased": "google-bert/bert-base-uncased"}
BUILT_IN = (CharTokenizer, ByteTokenizer, HFTokenizer)
_MEMBERS = [name for name in vars(Tokenizer) if not name.startswith("_")]


def load_tokenizer(spec: str | os.PathLike[str]) -> Tokenizer:
    """Load the tokenizer that `spec` names: byte, gpt2, bert-base-uncased, another hub name, a folder, or a plugin.

    A folder holds what `save_tokenizer` wrote, or a model of ours, or tokenizer.json, vocab.bpe + encoder.json
    (merges.txt + vocab.json) or vocab.txt, each also as .xz. "char" depends on a corpus and is built by `prepare`.
    Raises UserError where nothing is found, where files are damaged, and for a plugin that is not installed or that
    nobody trusts.
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


def load_prepared_tokenizer(folder: Path, identity: str) -> Tokenizer:
    """Load the tokenizer of a prepared corpus. Raises UserError where it is not the one of this `identity`, with which
    the text was prepared."""
    tokenizer = load_tokenizer(folder / "tokenizer")
    if not has_identity(tokenizer, identity):
        raise UserError(
            f"{folder / 'tokenizer'} is not the tokenizer that {folder} was prepared with: it was altered, or is of "
            "another version; restore it, or delete the folder and prepare the corpus again"
        )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write what `load_tokenizer(folder)` needs: the tokenizer's own files and, of a plugin, which one it is.

    Raises UserError for a plugin's class that nobody could import again, such as one of `__main__`.
    """
    make_folder(folder)
    tokenizer.save(folder)
    if type(tokenizer) not in BUILT_IN:
        record = requirement("tokenizer", reference_to(type(tokenizer)))
        write_text(folder / PLUGIN_NAME, json.dumps(record, indent=2) + "\n")


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


def _load_folder(folder: Path) -> Tokenizer:
    if (folder / PLUGIN_NAME).is_file():
        return _load_plugin(folder)
    if (folder / "tokenizer" / CONFIG_NAME).is_file():  # of a model of ours: beside it lies that of transformers
        folder = folder / "tokenizer"
    config = read_object(folder / CONFIG_NAME) if (folder / CONFIG_NAME).is_file() else {}
    if "mdlm_atat" in config:
        return _load_saved(folder, config)
    from tokenizers import Tokenizer as Inner
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    name = folder.resolve().name
    if (text := _read(folder, "tokenizer.json")) is not None:
        inner = _parsed(text, folder)
        return HFTokenizer(inner, name=name, **_roles(inner, config))
    for merges_name, vocabulary_name in (("vocab.bpe", "encoder.json"), ("merges.txt", "vocab.json")):
        merges, vocabulary = _read(folder, merges_name), _read(folder, vocabulary_name)
        if merges is None or vocabulary is None:
            continue
        lines = (line.partition(" ") for line in merges.split("\n") if line and not line.startswith("#version"))
        pairs = [(left, right) for left, _, right in lines]
        try:
            with unbroken():
                inner = byte_level(Inner(models.BPE(json.loads(vocabulary), pairs)))
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
    file = folder / CONFIG_NAME
    match config.get("kind"):
        case "char":
            if not isinstance(config.get("alphabet"), str):
                raise UserError(f"{file} is damaged: its alphabet is no text; {RESTORE}")
            return CharTokenizer(config["alphabet"])
        case "byte":
            return ByteTokenizer()
        case "hf":
            text, name = _read(folder, "tokenizer.json"), config.get("name")
            roles = {role: config.get(role) for role in ("bos_id", "eos_id", "pad_id")}
            if text is None or not isinstance(name, str):
                raise UserError(f"{folder} has lost its tokenizer.json, or the tokenizer's name; {RESTORE}")
            tokenizer = HFTokenizer(_parsed(text, folder), name=name, **roles)  # pyright: ignore[reportArgumentType]
            if tokenizer.vocab_size != config.get("vocab_size"):
                raise UserError(
                    f"{folder / 'tokenizer.json'} has {tokenizer.vocab_size} tokens, {CONFIG_NAME} says "
                    f"{config.get('vocab_size')!r:.40}: one of them was altered; prepare the corpus again"
                )
            if not all(i is None or (type(i) is int and 0 <= i < tokenizer.vocab_size) for i in roles.values()):
                raise UserError(f"{file} is damaged: bos_id, eos_id or pad_id is no token's; {RESTORE}")
            return tokenizer
        case kind:
            raise UserError(f"{file} has kind {kind!r:.80}, expected char, byte or hf")


def _load_plugin(folder: Path) -> Tokenizer:
    needed = as_requirement(read_object(folder / PLUGIN_NAME), folder / PLUGIN_NAME)
    warning = check_requirement(needed)
    if warning is not None:
        warnings.warn(warning, stacklevel=2)
    return checked(resolve("tokenizer", str(needed["name"])).load(folder))


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
        if not isinstance(given, str | None):
            raise UserError(f"tokenizer_config.json is damaged ({role}_token is {given!r:.80}, and no text); {RESTORE}")
        # GPT-2's files name one token as bos, eos and pad: only eos is kept, a role of its own or none
        found = (inner.token_to_id(name) for name in ((given,) if given else names))
        token_id = next((i for i in found if i is not None), None)
        roles[f"{role}_id"] = token_id
    for role in ("bos_id", "pad_id"):
        if roles[role] == roles["eos_id"]:
            roles[role] = None
    return roles


def _parsed(text: str, folder: Path) -> Any:
    """A tokenizer.json as the library reads it."""
    from tokenizers import Tokenizer as Inner

    try:
        with unbroken():
            return Inner.from_str(text)
    except Exception as error:  # the library raises bare Exception
        raise UserError(
            f"{folder / 'tokenizer.json'} is not a tokenizer the library reads: {str(error)[:200]}"
        ) from None


def _read(folder: Path, name: str) -> str | None:
    """The text of folder/name or folder/name.xz; None where there is neither. Raises UserError for one that is no
    UTF-8, is damaged, or has more than MOST_BYTES."""
    file, packed = folder / name, folder / f"{name}.xz"
    try:
        if file.exists():
            return read_small(file, most_bytes=MOST_BYTES).decode("utf-8")
        if not packed.exists():
            return None
        content = read_small(packed, most_bytes=MOST_BYTES)
        text = lzma.LZMADecompressor(memlimit=MOST_BYTES * 4).decompress(content, max_length=MOST_BYTES + 1)
        if len(text) > MOST_BYTES:
            raise UserError(f"{packed} unpacks to more than {data_size(MOST_BYTES)}; {RESTORE}")
        return text.decode("utf-8")
    except (UnicodeDecodeError, lzma.LZMAError, EOFError) as error:
        raise UserError(f"{file if file.exists() else packed} is damaged ({error}); {RESTORE}") from None
