"""benchmarks.orders: the same pieces of text in the order of each sampler."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from benchmarks import orders
from benchmarks.command import exit_code

from lm.made_models import two_way_lm
from mdlm_atat import CausalLM
from mdlm_atat.errors import UserError
from mdlm_atat.samplers.canvas import Canvas


@pytest.mark.parametrize(
    ("how", "given"),
    [
        ("none", "........"),
        ("half:2", "gg..gg.."),
        ("half:3", "ggg...gg"),
        ("gap:2", "ggg..ggg"),
        ("gap:3", "gg...ggg"),
        ("gap:8", "........"),
    ],
)
def test_given_places(how: str, given: str):
    assert "".join("g" if place else "." for place in orders.given_places(how, 8).tolist()) == given


@pytest.mark.parametrize("how", ["", "all", "none:2", "half", "half:0", "half:8", "gap:9", "gap:-1", "gap:x"])
def test_other_ways_of_giving_text_are_refused(how: str):
    with pytest.raises(UserError, match=f"^--given is {how!r}, expected none, half:N or gap:N"):
        orders.given_places(how, 8)


def test_pieces_are_evenly_spaced_from_the_first_token_to_the_last():
    assert orders.pieces_of(np.arange(10, dtype=np.uint16), 4, 3).tolist() == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]
    with pytest.raises(UserError, match="the text has 5 tokens, too few for 3 pieces of 4"):
        orders.pieces_of(np.arange(5), 4, 3)


def test_a_row_has_what_the_hidden_tokens_cost_and_the_paired_difference_to_the_first(monkeypatch, capsys):
    lm = two_way_lm(letters="abcdef .", length=16)
    tokens = np.random.default_rng(0).integers(0, 8, 200)
    monkeypatch.setattr(orders, "load_lm", lambda *_: lm)
    monkeypatch.setattr(orders, "open_data", lambda *_: SimpleNamespace(tokens=tokens))
    flags = "MODEL --orders spread segments --given gap:6 --length 12 --num_texts 5 --evaluations 2 3"
    monkeypatch.setattr(sys, "argv", ["orders", *flags.split()])
    assert exit_code(orders.work) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [(row[0], row[1], row[3]) for row in rows] == [
        (order, number, "exact") for number in ("2", "3") for order in ("spread", "segments")
    ]
    known = orders.pieces_of(tokens, 12, 5)
    fixed = orders.given_places("gap:6", 12).expand(5, -1)
    canvas = Canvas(torch.where(fixed, known, lm.tokenizer.mask_id), fixed)
    cost = [lm.nll_revealed_by(canvas, known, order, steps=2)[0] / 6 for order in ("spread", "segments")]
    difference = cost[1] - cost[0]
    assert [row[2] for row in rows[:2]] == [f"{one.mean():.3f}" for one in cost]
    assert rows[0][4:7] == ["0.000", "±", "0.000"]
    assert rows[1][4:7] == [f"{difference.mean():.3f}", "±", f"{difference.std() / 5**0.5:.3f}"]


def test_a_causal_network_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(orders, "load_lm", lambda *_: CausalLM.__new__(CausalLM))
    monkeypatch.setattr(sys, "argv", ["orders", "MODEL"])
    assert exit_code(orders.work) == 2
    assert "a causal network has one order" in capsys.readouterr().err
