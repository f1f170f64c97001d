"""What is given stays as it was given, with every form of tokenizer, whatever stands in the gaps."""

from __future__ import annotations

import re
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tokenizers import FORMS, tokenizer_of

from mdlm_atat import MaskedDiffusionLM
from mdlm_atat.data.tokenizers import HFTokenizer
from mdlm_atat.lm.given import Row, encode_after_gap, encode_template, space_joins_next, texts_after, texts_around
from mdlm_atat.lm.token_texts import TokenTexts, aligned
from mdlm_atat.samplers.template import Gap, Template, lay_out, parse_template

pytestmark = pytest.mark.filterwarnings("ignore:the model reads")  # tests/lm/test_unknown.py has those

TEMPLATES = {
    "un[MASK:1]able": ["un", "able"],
    "a [MASK].": ["a ", "."],
    "[MASK:2], the": ["", ", the"],
    "The cat [MASK][MASK:2] sat": ["The cat ", "", " sat"],
    "[MASK] cat[MASK]": ["", " cat", ""],
    "[MASK:2] [MASK]": ["", " ", ""],
    "a\t[MASK]  b\r\n[MASK]\n": ["a\t", "  b\r\n", "\n"],
    "天[MASK:3]地 é e\u0301[MASK]🙂": ["天", "地 é e\u0301", "🙂"],
    "👩‍👩‍👧[MASK:4]🇺🇳": ["👩‍👩‍👧", "🇺🇳"],
    "It don't[MASK] DON'T, Él ﬁx [MASK]!  ": ["It don't", " DON'T, Él ﬁx ", "!  "],
    r"C:\[MASK:3]\file": ["C:\\", "\\file"],
    "שלום [MASK] مرحبا": ["שלום ", " مرحبا"],
}
OF_BYTES = [form for form in FORMS if form != "characters"]


@cache
def joins(form: str) -> bool:
    return space_joins_next(tokenizer_of(form))


def row_of(form: str, template: Template) -> Row:
    tokenizer = tokenizer_of(form)
    encoded = encode_template(tokenizer, template, joins=joins(form))
    lengths = [part.longest for part in template if isinstance(part, Gap)]
    return Row(*lay_out(encoded, lengths, tokenizer.mask_id), texts_around(template))


def check_given(row: Row, text: str, spans: tuple[tuple[int, int], ...]) -> None:
    edges = [0, *(edge for span in spans for edge in span), len(text)]
    assert edges == sorted(edges)
    assert [text[start:stop] for start, stop in zip(edges[::2], edges[1::2], strict=True)] == row.around


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_of_12_is_its_texts_and_gaps(template):
    assert texts_around(parse_template(template)) == TEMPLATES[template]


@pytest.mark.parametrize("form", OF_BYTES)
@settings(max_examples=12)
@given(template=st.sampled_from(sorted(TEMPLATES)), data=st.data())
def test_text_outside_the_gaps_is_the_given_one_whatever_tokens_fill_them(form, template, data):
    tokenizer, row = tokenizer_of(form), row_of(form, parse_template(template))
    ids = st.integers(0, tokenizer.mask_id)  # the mask among them: a frame on the way
    tokens = list(row.tokens)
    for gap in row.gaps:
        tokens[gap] = data.draw(st.lists(ids, min_size=gap.stop - gap.start, max_size=gap.stop - gap.start))
    check_given(row, *row.text(tokenizer, tokens))


PARTS = st.lists(st.text(max_size=6) | st.sampled_from(["un", " able", "🙂", "é", ". ", "\r\n", "##s"]), max_size=4)


@pytest.mark.parametrize("form", OF_BYTES)
@settings(max_examples=8)
@given(texts=PARTS, seed=st.integers(0, 99))
def test_any_texts_around_any_gaps_come_back(form, texts, seed):
    template: Template = [Gap(2, 2)]
    for text in texts:
        template += [text, Gap(1 + len(text) % 2, 1 + len(text) % 2)] if text else [Gap(1, 1)]
    row, tokenizer = row_of(form, template), tokenizer_of(form)
    drawn = torch.randint(tokenizer.vocab_size, (len(row.tokens),), generator=torch.Generator().manual_seed(seed))
    tokens = list(row.tokens)
    for gap in row.gaps:
        tokens[gap] = drawn[gap].tolist()
    check_given(row, *row.text(tokenizer, tokens))


SENTENCES = ["The cat sat, and the dog was unable.", "Able was I, yes! 1, 2", "cats - 35"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sentence", SENTENCES)
def test_a_gap_filled_with_the_tokens_that_stood_there_gives_the_sentence_back(form, sentence):
    """At every place between words, with every number of words cut out."""
    tokenizer = tokenizer_of(form)
    words = sentence.split(" ")
    if "lower" in form:
        words = [word.lower() for word in words]  # it knows no others
    for start in range(len(words)):
        for stop in range(start + 1, len(words) + 1):
            before = "".join(word + " " for word in words[:start])
            middle, after = " ".join(words[start:stop]), "".join(" " + word for word in words[stop:])
            tokens = tokenizer.encode(middle)  # where a word brings no space of its own, or is the first
            if before and joins(form):
                tokens = encode_after_gap(tokenizer, " " + middle)
            template: Template = [part for part in (before, Gap(len(tokens), len(tokens)), after) if part]
            row = row_of(form, template)
            filled = list(row.tokens)
            filled[row.gaps[0]] = tokens
            text, spans = row.text(tokenizer, filled)
            assert text == before + middle + after
            assert spans == ((len(before), len(before + middle)),)


CONTINUED = {
    "able": {"WordPiece, lower case": ["##able"], "SentencePiece BPE": ["able"], "unigram": ["able"]},
    ", the": {"SentencePiece BPE": [",", "▁the"], "unigram": [",", "▁the"], "byte-level BPE": [",", "Ġthe"]},
    " sat": {"WordPiece, lower case": ["sat"], "SentencePiece BPE": ["▁sat"], "unigram": ["▁sat"]},
}
ROBERTA = "byte-level BPE with a prefix space"


@pytest.mark.parametrize("text", CONTINUED)
def test_a_text_after_a_gap_is_encoded_as_one_that_goes_on_and_not_as_a_first_word(text):
    for form, expected in CONTINUED[text].items():
        tokenizer = tokenizer_of(form)
        assert isinstance(tokenizer, HFTokenizer)
        found = encode_after_gap(tokenizer, text)
        assert [tokenizer.inner.id_to_token(token) for token in found] == expected
    assert encode_after_gap(tokenizer_of(ROBERTA), text) == tokenizer_of("byte-level BPE").encode(text)


@pytest.mark.parametrize("form", ["byte-level BPE", "SentencePiece BPE", "bytes"])
def test_an_emoji_whose_bytes_fill_two_gaps_is_whole_and_belongs_to_the_second(form):
    tokenizer = tokenizer_of(form)
    tokens = encode_after_gap(tokenizer, "🙂")
    before = tokenizer.encode("é")
    for cut in range(1, len(tokens)):
        assert texts_after(tokenizer, before, [tokens[:cut], tokens[cut:]]) == ["", "🙂"]


def test_bytes_that_are_no_character_leave_the_bytes_before_them_a_character():
    """A decoder with byte fallback takes neighbouring bytes together, and shows all of them as wrong."""
    tokenizer = tokenizer_of("SentencePiece BPE")
    assert isinstance(tokenizer, HFTokenizer)
    row = row_of("SentencePiece BPE", parse_template("🙂[MASK]é"))
    tokens = list(row.tokens)
    tokens[row.gaps[0]] = [tokenizer.inner.token_to_id("<0xE2>")]
    assert row.text(tokenizer, tokens)[0] == "🙂\ufffdé"


@pytest.fixture(params=OF_BYTES)
def lm(request) -> MaskedDiffusionLM:
    tokenizer = tokenizer_of(request.param)
    table = torch.randn(64, tokenizer.vocab_size, generator=torch.Generator().manual_seed(0))
    return MaskedDiffusionLM(lambda z_t, _: table[: z_t.shape[1]].expand(len(z_t), -1, -1), tokenizer, max_length=64)


def test_infilled_texts_know_what_was_given_and_what_was_filled_in(lm):
    for template, around in TEMPLATES.items():
        for way in lm.infill(template, alternatives=2, seed=3, steps=2):
            assert way.given == around
            assert way.fillings == way.gaps
            assert "".join(x for pair in zip(way.given, [*way.gaps, ""], strict=True) for x in pair) == way.text


def test_long_texts_that_are_filled_in_blocks_keep_what_was_given(lm):
    lm.max_length = 16
    around = ["É  was ", "\r\n" + "un🙂able, " * 12, "\t天. "]
    way = lm.infill(f"{around[0]}[MASK:5]{around[1]}[MASK:3]{around[2]}", steps=2)
    assert len(way.tokens) > 16
    assert way.given == around
    made = lm.generate(around[1], max_new_tokens=9)
    assert made.given == [around[1], ""]


def test_each_of_8_prompts_begins_its_text_and_every_frame(lm):
    for prompt in ("The cat ", "Él ", " ", "", "  a\r\n", "天", "don't  ", "🙂"):
        made = lm.generate(prompt, max_new_tokens=3, seed=1)
        assert made.text == prompt + made.fillings[0]
        assert made.spans == ((len(prompt), len(made.text)),)
        frames = list(lm.stream(prompt, max_new_tokens=3, seed=1))
        assert all(frame.text.startswith(prompt) for frame in frames)
        assert frames[-1].text == made.text
        assert "░" in frames[0].text


def test_frames_of_a_template_hold_what_was_given_at_every_step(lm):
    *_, last = frames = list(lm.stream("Él un[MASK:2]able  [MASK]. ", steps=3))
    for frame in frames:
        assert frame.text.startswith("Él un")
        assert "able  " in frame.text
        assert frame.text.endswith(". ")
    assert "░" not in last.text


def test_a_prompt_that_ends_in_a_space_leaves_it_to_the_first_word_as_a_gap_does():
    tokenizer = tokenizer_of("byte-level BPE")
    word = tokenizer.encode(" cat")[0]
    logits = 9.0 * torch.eye(tokenizer.vocab_size)[word]
    lm = MaskedDiffusionLM(lambda z_t, _: logits.expand(*z_t.shape, -1), tokenizer, max_length=16)
    made, way = (
        lm.generate("The ", max_new_tokens=2, temperature=0),
        lm.infill("The [MASK:2]", temperature=0),
    )
    assert made.text == way.text == "The cat cat"
    assert made.tokens == way.tokens == [*tokenizer.encode("The"), word, word]


@pytest.mark.parametrize("form", OF_BYTES)
@pytest.mark.parametrize("template", TEMPLATES)
def test_the_given_text_is_that_of_its_tokens_one_by_one(form, template):
    """As --watch and --animate show them, whatever the gaps hold: here a word that begins with a space, and masks."""
    tokenizer, row = tokenizer_of(form), row_of(form, parse_template(template))
    shown = TokenTexts(tokenizer, row)
    for filling in (tokenizer.mask_id, encode_after_gap(tokenizer, " cat")[0]):
        text = "".join(
            shown(place, filling if token == tokenizer.mask_id else token) for place, token in enumerate(row.tokens)
        )
        pattern = ".{0,16}".join(re.escape(part) for part in row.around)
        assert re.fullmatch(pattern, text, re.DOTALL), text


@pytest.mark.parametrize("form", OF_BYTES)
def test_a_text_shown_token_by_token_reads_as_the_text_does(form):
    tokenizer, row = tokenizer_of(form), row_of(form, parse_template("The cat [MASK:2], a [MASK]."))
    tokens = list(row.tokens)
    word = encode_after_gap(tokenizer, " cat")[0]
    for gap in row.gaps:
        tokens[gap] = [word] * (gap.stop - gap.start)
    shown = TokenTexts(tokenizer, row)
    assert "".join(shown(place, token) for place, token in enumerate(tokens)) == row.text(tokenizer, tokens)[0]


def test_tokens_that_look_like_no_part_of_the_text_leave_it_to_the_next_or_the_last():
    assert aligned("Él ❀ sat", ["el", " [UNK]", " sat"]) == ["", "", "Él ❀ sat"]
    assert aligned("The ❀ sat!", ["the", " [UNK]", " sat", "[UNK]"]) == ["The", "", " ❀ sat", "!"]
    assert aligned("a  b", ["a", "  b"]) == ["a", "  b"]
