"""Generative perplexity: another model reads the samples, and finds them likely or not.

A number that is easily won by nonsense, so:

- it rewards repetition: "the the the" costs a good judge next to nothing. Never show it without the samples' entropy
  (`mdlm_atat.scoring.generative`), nor without the same judge's perplexity of real text;
- it falls as texts grow longer, for a judge knows more of a long one: compare samples of equal length, under one judge
  that reads pieces of one length;
- draws in float32 fake it: they cut off unlikely tokens, as a lower temperature would (Zheng et al. 2024, arXiv
  2409.02908). Samples are to be drawn in float64.
"""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stderr
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mdlm_atat.core.left_to_right import causal_nll
from mdlm_atat.core.masking import scored_positions
from mdlm_atat.data.hub import hub_unreachable
from mdlm_atat.data.tokenizers import Tokenizer
from mdlm_atat.errors import UserError
from mdlm_atat.scoring.likelihood import ratio_with_standard_error


@dataclass(frozen=True)
class Judgement:
    """What a judge pays for each text."""

    nats: Float[Tensor, " texts"]
    """-log p(text), float64; 0 for an empty text."""
    num_tokens: Int[Tensor, " texts"]
    """The judge's own tokens that it scored: perplexities per token of judges with different tokenizers differ."""

    def __post_init__(self) -> None:
        if not self.num_tokens.sum() > 0:
            raise UserError(
                f"there is nothing to judge: {len(self.num_tokens)} texts, and not one token of them to score. A judge "
                "whose tokenizer has no bos does not score a text's first token; give longer texts, or samples that "
                "are not empty"
            )

    def nats_per_token(self) -> tuple[float, float]:
        """sum(nats) / sum(num_tokens), and its standard error over texts (NaN for one text)."""
        return ratio_with_standard_error(self.nats, self.num_tokens.double())

    @property
    def perplexity(self) -> float:
        """exp(nats per token): the judge's mean number of equally likely choices a token."""
        nats, _ = self.nats_per_token()
        return math.exp(nats) if nats < 700 else math.inf  # math.exp raises where a float64 overflows


@runtime_checkable
class Judge(Protocol):
    """A language model that scores texts. Called with texts, it returns their costs; it raises UserError where there is
    nothing to score."""

    @property
    def name(self) -> str:
        """The judge's name, shown beside every number that it gives."""
        ...

    def __call__(self, texts: Sequence[str]) -> Judgement: ...


@runtime_checkable
class FeatureJudge(Judge, Protocol):
    """A judge that can also say where a text lies among others, for MAUVE."""

    def features(self, texts: Sequence[str]) -> Float[Tensor, "texts width"]:
        """A vector for each text: the last layer's state after the whole text or, of a text longer than the judge reads
        at once, after its beginning. Raises UserError where the judge has none."""
        ...


class CausalJudge:
    """A causal model of ours as judge: the exact chain rule, every token scored, the first one from the start symbol.

    `model` gives logits of x_i from x_<i, as CausalTransformer does, in evaluation mode. Texts longer than
    `max_length` tokens are cut into pieces of so many, each read as if it stood alone. `autocast` makes the context
    that the model runs in.
    """

    def __init__(
        self,
        name: str,
        model: Callable[[Tensor], Tensor],
        tokenizer: Tokenizer,
        max_length: int,
        *,
        device: torch.device | str = "cpu",
        batch_size: int = 16,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.name, self.model, self.tokenizer = name, model, tokenizer
        self.max_length, self.device, self.batch_size, self.autocast = max_length, device, batch_size, autocast

    def __call__(self, texts: Sequence[str]) -> Judgement:
        """Score texts as the tokenizer encodes them: without eos, and not always as the tokens they were made of."""
        return self.score_rows([ids.tolist() for ids in self.tokenizer.encode_batch(list(texts))])

    def score_rows(self, rows: Sequence[Sequence[int]]) -> Judgement:
        """Score rows of token ids of the judge's own tokenizer. Raises UserError for ids that are none of its own."""
        vocab_size = self.tokenizer.vocab_size
        foreign = next((token for row in rows for token in row if not 0 <= token < vocab_size), None)
        if foreign is not None:
            raise UserError(
                f"id {foreign} cannot be judged: the tokenizer of {self.name} has ids 0 .. {vocab_size - 1}. Masks are "
                "no text, and tokens of another tokenizer must be decoded first"
            )
        return _judge_pieces(rows, self._nll, self.max_length, self.batch_size)

    def features(self, texts: Sequence[str]) -> Float[Tensor, "texts width"]:
        """A vector for each text: the model's hidden state after it, from which the next token would be predicted.
        Raises UserError for a model without `hidden`."""
        return self.row_features([ids.tolist() for ids in self.tokenizer.encode_batch(list(texts))])

    @torch.no_grad()
    def row_features(self, rows: Sequence[Sequence[int]]) -> Float[Tensor, "rows width"]:
        """`features` of rows of token ids of the judge's own tokenizer."""
        hidden = getattr(self.model, "hidden", None)
        if hidden is None:
            raise UserError(f"the judge {self.name} gives no features of a text, which MAUVE needs")

        def last(ids: Tensor, lengths: Tensor) -> Tensor:
            following = torch.nn.functional.pad(ids, (0, 1))  # any token: it is not read, only predicted
            with self.autocast():
                states = hidden(following.to(self.device))  # (B, L + 1, D): state i has read the tokens before i
            return states[torch.arange(len(ids)), lengths]

        return _features(rows, last, self.max_length - 1, self.batch_size)

    @torch.no_grad()
    def _nll(self, x0: Int[Tensor, "batch length"], lengths: Int[Tensor, " batch"]) -> Float[Tensor, "batch length"]:
        x0, lengths = x0.to(self.device), lengths.to(self.device)
        with self.autocast():
            return causal_nll(self.model(x0), x0, lengths)


class HubJudge:
    """A causal language model in Hugging Face's format as judge, in float32: a hub name, a local folder, or a .gguf
    file, whose weights are unpacked.

    If its tokenizer has a bos token, that is put before every text and all tokens of the text are scored; else the
    first one is only read, and not counted. (Much published code never scores it, nor adds a bos.) Texts longer than
    `max_length` tokens, by default the model's context, are cut into pieces of so many, each judged as if it stood
    alone. Control tokens written out, "<|endoftext|>", are read as the characters they are made of. Only safetensors
    are loaded, and no code that comes with a model is run. Needs the extra `judge`. Raises UserError for whatever is
    no such model.
    """

    def __init__(
        self,
        name: str,
        *,
        path: Path | None = None,
        device: torch.device | str = "cpu",
        batch_size: int = 8,
        max_length: int | None = None,
    ) -> None:
        """`path`: where its files are, if `name` does not say it."""
        self.name, self.device, self.batch_size = name, device, batch_size
        self.model, self.tokenizer = _load(name, Path(name).expanduser() if path is None else path)
        self.model = self.model.to(device).eval()
        positions = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        context = min(positions or sys.maxsize, self.tokenizer.model_max_length)  # 1e30 where there is no limit
        self.max_length = context if max_length is None else max_length
        if not 2 <= self.max_length <= context:
            raise UserError(f"max_length is {self.max_length}, expected from 2 to {context}, the context of {name}")
        self.bos: list[int] = [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]
        self._check_causal()

    def __call__(self, texts: Sequence[str]) -> Judgement:
        return _judge_pieces(self._encode(texts), self._nll, self.max_length, self.batch_size, 0 if self.bos else 1)

    @torch.no_grad()
    def features(self, texts: Sequence[str]) -> Float[Tensor, "texts width"]:
        rows = [[*self.bos, *row] for row in self._encode(texts)]
        if not all(rows):
            raise UserError(
                f"an empty text has no features for MAUVE: the tokenizer of {self.name} has no bos to stand for it"
            )

        def last(ids: Tensor, lengths: Tensor) -> Tensor:
            mask = scored_positions(lengths, ids.shape[1]).long().to(self.device)
            found = self.model(
                input_ids=ids.to(self.device), attention_mask=mask, use_cache=False, output_hidden_states=True
            )
            return found.hidden_states[-1][torch.arange(len(ids)), lengths - 1]

        return _features(rows, last, self.max_length, self.batch_size)

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        options = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
        return self.tokenizer(list(texts), **options)["input_ids"] if texts else []

    @torch.no_grad()
    def _nll(self, x0: Int[Tensor, "batch length"], lengths: Int[Tensor, " batch"]) -> Float[Tensor, "batch scored"]:
        read, to_score = x0[:, :-1], x0[:, 1:]  # (B, L - 1)
        if self.bos:
            read, to_score = torch.cat([torch.full_like(x0[:, :1], self.bos[0]), read], dim=1), x0  # (B, L)
        num_scored = lengths if self.bos else lengths - 1
        logits = self._logits(read, num_scored)  # (B, L, V)
        return causal_nll(logits, to_score.to(self.device), num_scored.to(self.device))

    def _logits(self, ids: Tensor, lengths: Tensor) -> Tensor:
        ids, mask = ids.to(self.device), scored_positions(lengths, ids.shape[1]).to(self.device)
        return self.model(input_ids=ids, attention_mask=mask.long(), use_cache=False).logits

    @torch.no_grad()
    def _check_causal(self) -> None:
        """An encoder such as BERT loads as a causal model, and would read the very token that it is to predict."""
        first, second = self._logits(torch.tensor([[0, 0], [0, 1]]), torch.tensor([2, 2]))[:, :-1]
        if not torch.allclose(first, second, rtol=1e-4, atol=1e-4):
            raise UserError(
                f"{self.name} is no causal model: what it says of a token depends on later ones. Take one that reads "
                "from left to right, e.g. gpt2-large"
            )


def _judge_pieces(
    rows: Sequence[Sequence[int]],
    nll: Callable[[Tensor, Tensor], Tensor],
    max_length: int,
    batch_size: int,
    num_unscored: int = 0,
) -> Judgement:
    """Cut rows into pieces, score them in batches by `nll(ids, lengths)`, 0 at padding, and add up by row.

    `num_unscored`: tokens at the start of each piece that are read, but not scored.
    """
    pieces = [
        (index, torch.tensor(row[start : start + max_length], dtype=torch.int64))
        for index, row in enumerate(rows)
        for start in range(0, len(row) - num_unscored, max_length)
    ]
    pieces.sort(key=lambda piece: len(piece[1]))  # equal lengths side by side: less padding
    nats, num_tokens = torch.zeros(len(rows), dtype=torch.float64), torch.zeros(len(rows), dtype=torch.int64)
    for first in range(0, len(pieces), batch_size):
        indices, parts = zip(*pieces[first : first + batch_size], strict=True)
        index, lengths = torch.tensor(indices), torch.tensor([len(part) for part in parts])
        found = nll(pad_sequence(list(parts), batch_first=True), lengths)  # padded with 0, which is any token
        nats.index_add_(0, index, found.cpu().double().sum(1))
        num_tokens.index_add_(0, index, lengths - num_unscored)
    return Judgement(nats, num_tokens)


def _features(
    rows: Sequence[Sequence[int]],
    last: Callable[[Tensor, Tensor], Tensor],
    max_length: int,
    batch_size: int,
) -> Float[Tensor, "rows width"]:
    """`last(ids, lengths)` of every row, cut to max_length and padded with 0; float32, on the CPU."""
    parts = [torch.tensor(row[:max_length], dtype=torch.int64) for row in rows]
    order = sorted(range(len(parts)), key=lambda index: len(parts[index]))  # equal lengths side by side
    found = []
    for first in range(0, len(order), batch_size):
        chosen = [parts[index] for index in order[first : first + batch_size]]
        lengths = torch.tensor([len(part) for part in chosen])
        found.append(last(pad_sequence(chosen, batch_first=True), lengths).float().cpu())
    if not found:
        raise UserError("there are no texts to take features of")
    return torch.cat(found)[torch.tensor(order).argsort()]


def _load(name: str, path: Path) -> tuple[Any, Any]:
    """(model, tokenizer), whole and in float32, from a folder, a .gguf file or, where no path is there, the hub."""
    is_here = path.is_dir() or path.is_file()
    try:
        import transformers
    except ImportError as error:
        where = "" if is_here else " is no folder here; a judge of the hub"
        raise UserError(
            f"the judge {name}{where} needs the library transformers, an extra: pip install 'mdlm-atat[judge]'"
        ) from error
    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()
    is_gguf = path.suffix == ".gguf"
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") > 1
    if not is_here and (is_gguf or looks_like_path):
        raise UserError(f"there is no folder {name} to load a judge from; expected one, or a hub name like OWNER/NAME")
    if is_gguf and not all(map(find_spec, ("gguf", "accelerate"))):
        raise UserError(f"the judge {name} needs the library gguf, an extra: pip install 'mdlm-atat[hub]'")
    no_hub = None if is_here else hub_unreachable()
    # without the hub, what was downloaded before still serves
    source, only_local = str(path.parent if is_gguf else path) if is_here else name, is_here or no_hub is not None
    options: dict[str, Any] = {"trust_remote_code": False, "local_files_only": only_local}
    options |= {"gguf_file": path.name} if is_gguf else {}
    weights = {"use_safetensors": not is_gguf, "dtype": torch.float32, "output_loading_info": True}
    loader: Any = transformers.AutoModelForCausalLM  # its types do not know of output_loading_info
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
        # transformers draws the unpacking of a .gguf whether anybody looks on or not
        with redirect_stderr(io.StringIO()) if is_gguf and not sys.stderr.isatty() else nullcontext():
            model, found = loader.from_pretrained(source, **options, **weights)
    except Exception as error:  # of many kinds: files, HTTP, configuration, safetensors
        reason = no_hub or str(error).strip().split("\n")[0].rstrip(".")
        where = "" if is_here else " is no folder here, and from the hub it"
        raise UserError(
            f"the judge {name}{where} could not be loaded ({reason}). Check its name and the network, or give a "
            "local folder with config.json, model.safetensors and tokenizer.json of a causal language model, or a .gguf"
        ) from error
    if found["missing_keys"]:  # would be drawn at random
        missing = ", ".join(sorted(found["missing_keys"])[:3])
        raise UserError(f"the judge {name} lacks weights ({missing}): it was not saved as a causal language model")
    num_ids = model.get_input_embeddings().num_embeddings
    tokens = set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids)
    last = max([*tokens, tokenizer.bos_token_id or 0])
    # without its files the library makes an empty tokenizer, to which every text is empty
    if not tokens or last >= num_ids:
        raise UserError(
            f"the judge {name} has no tokenizer that fits it: {len(tokens)} tokens up to id {last}, for a model with "
            f"ids 0 .. {num_ids - 1}. Save the two together in one folder"
        )
    return model, tokenizer
