"""What a user writes against the package. Nobody runs it: mypy --strict and pyright read it in `make check`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import assert_type

import torch
from torch import Tensor, nn

import mdlm_atat as ma
from mdlm_atat.data.open_tokenizer import load_tokenizer
from mdlm_atat.data.tokenizers import ByteTokenizer
from mdlm_atat.lm import Frame, Generated, Guide, Infilled, Score
from mdlm_atat.samplers.draw import TokenDraw
from mdlm_atat.samplers.loop import Reverse
from mdlm_atat.scoring.inspection import Inspection


def one_text_or_several(lm: ma.MaskedDiffusionLM | ma.CausalLM) -> None:
    assert_type(lm.generate(), Generated)
    assert_type(lm.generate("Dear Sir,", max_new_tokens=80), Generated)
    assert_type(lm.generate(["Dear Sir,", ""], length=200, seed=7), list[Generated])
    assert_type(lm.generate(text for text in ("a", "b")), list[Generated])
    assert_type(lm.infill("Dear [MASK:12]."), Infilled)
    assert_type(lm.infill("Dear [MASK:12].", alternatives=3), list[Infilled])
    assert_type(lm.infill(["Dear [MASK:12].", "a [MASK]"]), list[Infilled])
    assert_type(lm.infill(["Dear [MASK:12]."], alternatives=3), list[list[Infilled]])
    assert_type(lm.score("To be"), Score)
    assert_type(lm.score(["To be", "or not"], num_draws=256), list[Score])
    for frame in lm.stream("Dear", max_new_tokens=20):
        assert_type(frame, Frame)


def how_to_sample(lm: ma.MaskedDiffusionLM) -> str:
    texts = lm.generate(
        ["", ""],
        sampler="uncertainty:score=margin",
        steps=32,
        temperature=0.8,
        top_k=50,
        top_p=0.9,
        block_size=64,
        guide=Guide({"king": 2.0}),
        seed=[3, 4],
        seed_rule="add",
        return_trace=True,
        on_step=lambda step, z_t: print(step, z_t.shape),
        on_progress=lambda done, total: print(done, total),
    )
    trace = texts[0].trace
    return "" if trace is None else f"{trace.nats:.2f} nats in {len(trace.frames) - 1} steps: {texts[0].text}"


def tokens_and_importance(lm: ma.MaskedDiffusionLM) -> list[int]:
    canvas = ma.Canvas.with_prefixes([lm.tokenizer.encode("Dear")], 40, lm.tokenizer.mask_id)
    assert_type(lm.inspect("Dear Sir"), Inspection)
    assert_type(lm.inspect(["Dear", "Sir"]), list[Inspection])
    return lm.fill(canvas, steps=8)[0].tokens


@dataclass(frozen=True, kw_only=True)
class RightToLeft:
    """A sampler of one's own."""

    draw: TokenDraw = field(default_factory=TokenDraw)

    def __call__(self, state: Reverse) -> Iterator[None]:
        uniform = state.uniform()
        while (masked := state.masked).any():
            rows = masked.any(dim=1).nonzero()[:, 0]
            last = state.z_t.shape[1] - 1 - masked[rows].flip(1).int().argmax(dim=1, keepdim=True)
            state.reveal(state.predict(rows), rows, last, torch.ones_like(last, dtype=torch.bool), self.draw, uniform)
            yield

    def max_nfe(self, num_to_fill: int) -> int:
        return num_to_fill


class Mine(nn.Module):
    """A network of one's own."""

    max_length = 128

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.embedding, self.output = nn.Embedding(vocab_size + 1, 64), nn.Linear(64, vocab_size)

    def forward(self, z_t: Tensor, t: Tensor) -> Tensor:
        logits: Tensor = self.output(self.embedding(z_t) + t[:, None, None])
        return logits


def a_network_of_ones_own() -> ma.MaskedDiffusionLM:
    tokenizer = ByteTokenizer()
    lm = ma.MaskedDiffusionLM(Mine(tokenizer.vocab_size), tokenizer).to("cpu")
    lm.generate("a", sampler=RightToLeft())
    lm.generate("a", sampler=RightToLeft, temperature=0)
    assert_type(lm, ma.MaskedDiffusionLM)
    return lm


def from_a_text_to_a_number(text: Path) -> float:
    corpus = ma.prepare(text, tokenizer="char", progress=False)
    run = ma.train("demo", data=corpus.folder, method="atat", num_steps=50, out="runs/mine", progress=False)
    assert_type(run, ma.Run)
    print(run.metrics[-1]["train/loss"], run.report, repr(run.model))
    return run.model.score("To be, or not to be").nats_per_token


def from_a_folder(folder: Path) -> ma.CausalLM:
    try:
        masked = ma.MaskedDiffusionLM.from_pretrained(folder, device="cpu", precision="float32")
        assert_type(masked, ma.MaskedDiffusionLM)
        masked.save_pretrained(folder / "saved")
    except ma.UserError as error:
        print(error)
    any_kind = ma.load_lm(folder)
    assert_type(any_kind, ma.MaskedDiffusionLM | ma.CausalLM)
    return ma.CausalLM(lambda x: torch.zeros(*x.shape, 256), load_tokenizer("byte"), max_length=64)


def mistakes_are_found(lm: ma.MaskedDiffusionLM) -> None:
    """strict mypy reports an ignored mistake that is none, too."""
    lm.generate("a", temprature=0.5)  # type: ignore[call-overload]
    lm.generate(b"a")  # type: ignore[arg-type]
    lm.generate("a", steps="many")  # type: ignore[call-overload]
    lm.generate("a")[0]  # type: ignore[index]
    lm.fill(ma.Canvas.blank(1, 4, 9), top_q=0.5)  # type: ignore[call-arg]
