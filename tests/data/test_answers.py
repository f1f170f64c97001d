from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models, pre_tokenizers

from mdlm_atat import prepare
from mdlm_atat.data.corpus import Corpus
from mdlm_atat.data.readers.reading import Reading
from mdlm_atat.data.readers.records import prompt_of
from mdlm_atat.data.tokenizers import HFTokenizer, Tokenizer
from mdlm_atat.data.train_tokenizer import train_bpe
from mdlm_atat.errors import UserError


def chat(*turns: str, roles: tuple[str, str] = ("user", "assistant")) -> list[dict[str, Any]]:
    return [{"role": roles[number % 2], "content": turn} for number, turn in enumerate(turns)]


def rows_of(corpus: Corpus, split: str = "valid") -> list[tuple[str, str]]:
    """Prompt and answer of each row, eos as a bar."""
    data, found = corpus.open(split), []
    for index in range(data.num_rows):
        ids, lengths = data.evaluation_rows(np.array([index]))
        prompt = data.num_prompt_tokens(np.array([index]))[0]
        parts = ids[0][:prompt], ids[0][prompt : lengths[0]]
        found.append(tuple(corpus.tokenizer.decode(part, eos_text="|") for part in parts))
    return found


def answers_of(source: Any, **settings: Any) -> list[tuple[str, str]]:
    settings = {"tokenizer": "byte", "length": 100, "whole": True, **settings}
    return rows_of(prepare(source, loss_on="answers", progress=False, **settings))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATAT_CACHE", str(tmp_path / "cache"))


def test_every_turn_of_the_assistant_is_a_row_of_its_own_and_everything_before_it_its_prompt() -> None:
    first = "User: Hello?\nAssistant:"
    assert answers_of([chat("Hello?", "Yes.", "Who?", "Me."), chat("Hello?", "Yes.")]) == [
        (first, " Yes.|"),
        (f"{first} Yes.\nUser: Who?\nAssistant:", " Me.|"),
        (first, " Yes.|"),
    ]


@pytest.mark.parametrize(
    ("row", "reading", "prompt", "answer"),
    [
        ({"messages": chat("Hi", "Yo")}, {"column": "messages"}, "User: Hi\nAssistant:", " Yo|"),
        (
            {"turns": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]},
            {"column": "turns"},
            "User: Hi\nAssistant:",
            " Yo|",
        ),
        ({"a": {"m": chat("Hi", "Yo", "later")}}, {"column": "a.m"}, "User: Hi\nAssistant:", " Yo|"),
        ({"q": "Hi", "a": "Yo"}, {"template": "{q}\n{a}"}, "Hi\n", "Yo|"),
        ({"q": "Hi", "a": "Yo"}, {"template": "Q: {q} A: {a} END"}, "Q: Hi A:", " Yo END|"),
        ({"q": "Hi", "n": 2, "a": 0.50}, {"template": "{n} {q}: {a}"}, "2 Hi:", " 0.5|"),
        ({"q": "Hi", "x": None, "a": "Yo"}, {"template": "{q}{x}\n{a}"}, "Hi\n", "Yo|"),
        (
            {"s": "Be brief.", "m": chat("Hi", "Yo")},
            {"template": "{s}\n{m}"},
            "Be brief.\nUser: Hi\nAssistant:",
            " Yo|",
        ),
        ({"m": chat("Hi", "Yo"), "s": "end"}, {"template": "{m}\n{s}"}, "User: Hi\nAssistant:", " Yo|"),
    ],
)
def test_chats_and_templates_say_what_the_answer_is_in_jsonl(
    row: dict[str, Any], reading: dict[str, str], prompt: str, answer: str, tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    assert answers_of(tmp_path / "a.jsonl", **reading) == [(prompt, answer)]


def test_what_an_assistant_says_with_weight_0_is_text_before_the_answers_and_none_itself() -> None:
    first, second, third = chat("Hi", "Yo"), chat("Who?", "Me."), chat("Why?", "So.")
    first[1]["weight"], second[1]["weight"], third[1]["weight"] = 0, 1, 0.0
    assert answers_of([first + second + third]) == [("User: Hi\nAssistant: Yo\nUser: Who?\nAssistant:", " Me.|")]


def test_a_table_has_answers_by_its_template(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question,answer\nWho?,Me.\nWhy?,\n")
    assert answers_of(tmp_path / "a.csv", template="{question} {answer}") == [("Who?", " Me.|")]


def test_what_is_cut_or_left_out_is_counted_and_said() -> None:
    prompt = len("User: Hi\nAssistant:")
    said: list[str] = []

    class Listener:
        def say(self, text: str) -> None:
            said.append(text)

        def update(self, stage: str, num_characters: int, num_tokens: int) -> None: ...

        def done(self) -> None: ...

    documents = [chat("Hi", "Yo"), chat("Hi", "Yo!!"), chat("Hello", "Yo"), chat("Hi"), chat("Hi", "", "Hi", " ")]
    corpus = prepare(documents, loss_on="answers", tokenizer="byte", length=prompt + 4, whole=True, progress=Listener())
    assert rows_of(corpus) == [
        ("User: Hi\nAssistant:", " Yo|"),
        ("User: Hi\nAssistant:", " Yo!"),  # cut: the answer goes on, so there is no eos
        ("User: Hello\nAssistant:", " "),
    ]
    left_out = {"answers cut": 2, "documents without an answer": 2}
    assert corpus.manifest.accounts is not None
    assert corpus.manifest.accounts["answers"] == {"valid": left_out}
    assert corpus.manifest.splits["valid"].answers == {
        "tokens": 9,
        "words": 2,
        "characters": 8,
        "bytes": 8,
        "unspaced": 0,
    }
    assert any("answers    validation 3, 13% of its tokens; not whole or left out: answers cut (2)" in x for x in said)
    shorter = prepare(documents, loss_on="answers", tokenizer="byte", length=prompt + 1, whole=True, progress=False)
    assert shorter.manifest.accounts is not None
    assert shorter.manifest.accounts["answers"]["valid"]["answers whose prompt fills the row"] == 1


def test_what_is_counted_is_the_tokens_of_the_answers_and_in_a_corpus_of_before_too(tmp_path: Path) -> None:
    """Of these counts come the unigram model, which is the floor to beat on answers, and the importance of tokens."""
    documents = [chat("Hi", "Yo"), chat("Hello", "Yoyo")] * 20
    corpus = prepare(documents, loss_on="answers", tokenizer="byte", length=64, out=tmp_path / "made", progress=False)
    train = corpus.open("train", 64)
    ids, lengths = train.rows(np.arange(train.num_rows))
    learned = [
        row[prompt:length]
        for row, length, prompt in zip(ids, lengths, train.num_prompt_tokens(np.arange(len(ids))), strict=True)
    ]
    expected = np.bincount(np.concatenate(learned), minlength=257)
    assert expected[ord("U")] == 0 < expected[ord("Y")]  # of `User:` there is none
    assert np.load(tmp_path / "made" / "counts.npy").tolist() == train.counts.tolist() == expected.tolist()
    np.save(tmp_path / "made" / "counts.npy", np.bincount(train.tokens, minlength=257))
    assert corpus.open("valid", 64).counts.tolist() == expected.tolist()


def without_eos() -> Tokenizer:
    """It knows the letters of chats alone, drops all other characters, and ends no text."""
    letters = dict.fromkeys(" UserAsitan:HiYo\n")
    inner = Inner(models.BPE({letter: index for index, letter in enumerate(letters)}, []))
    inner.decoder = decoders.Fuse()
    return HFTokenizer(inner, name="made")


def test_an_answer_of_which_no_token_is_left_makes_no_row(tmp_path: Path) -> None:
    rows = [{"q": "Hi", "a": "Yo"}, {"q": "Hi", "a": "漢字"}, {"q": "", "a": "Yo漢"}]
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    settings: dict[str, Any] = {"tokenizer": without_eos(), "template": "{q}\n{a}", "accept_loss": True, "length": 90}
    corpus = prepare(file, loss_on="answers", whole=True, progress=False, **settings)
    assert rows_of(corpus) == [("Hi\n", "Yo"), ("\n", "Yo")]
    assert corpus.manifest.accounts is not None
    assert corpus.manifest.accounts["answers"] == {"valid": {"answers without tokens": 1}}
    file.write_text(json.dumps(rows[1]))
    with pytest.raises(UserError, match="there are no answers in"):
        prepare(file, loss_on="answers", whole=True, progress=False, **settings)


def metaspace() -> Tokenizer:
    """As SentencePiece: every text begins with a space that is none."""
    pieces = ["<unk>", "</s>", *(f"▁{word}" for word in ("User:", "Assistant:", "Hi", "Yo", "")), *"UserAsitan:HiYo\n."]
    inner = Inner(models.Unigram([(piece, -1.0) for piece in dict.fromkeys(pieces)], unk_id=0))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    return HFTokenizer(inner, name="made", eos_id=1, pad_id=1)  # pad is eos, as people set it


BPE = train_bpe(["User: Hi Assistant: Yo there\n"] * 3, 300)


@pytest.mark.parametrize("tokenizer", [BPE, metaspace(), "char"], ids=["bpe", "metaspace", "char"])
def test_prompt_and_answer_are_the_tokens_that_generating_reads_and_writes(tokenizer: Any) -> None:
    corpus = prepare(
        [chat("Hi", "Yo", "Yo", "Hi")], loss_on="answers", tokenizer=tokenizer, length=90, whole=True, progress=False
    )
    data, known = corpus.open("valid"), corpus.tokenizer
    for index, turns in enumerate((("Hi",), ("Hi", "Yo", "Yo"))):
        ids, lengths = data.evaluation_rows(np.array([index]))
        num_given = data.num_prompt_tokens(np.array([index]))[0]
        prompt = prompt_of(Reading(), chat(*turns))
        assert ids[0][:num_given].tolist() == known.encode(prompt)
        assert ids[0][: lengths[0]].tolist() == [*known.encode(f"{prompt} {('Yo', 'Hi')[index]}"), known.eos_id]


@pytest.mark.parametrize(
    ("reading", "given", "prompt"),
    [
        ({}, chat("Hi"), "User: Hi\nAssistant:"),
        ({}, [{"role": "system", "content": "Be brief."}, *chat("Hi")], "System: Be brief.\nUser: Hi\nAssistant:"),
        ({"template": "Q: {q} A: {a}"}, {"q": "Hi"}, "Q: Hi A:"),
        ({"template": "{q}{x}\n{a}!"}, {"q": "Hi"}, "Hi\n"),
        ({"template": "{s}\n{m}"}, {"s": "Short.", "m": chat("Hi")}, "Short.\nUser: Hi\nAssistant:"),
    ],
)
def test_a_prompt_is_written_as_the_text_was(reading: dict[str, str], given: Any, prompt: str) -> None:
    assert prompt_of(Reading(**reading), given) == prompt  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reading", "given", "message"),
    [
        ({}, {"q": "Hi"}, "written by no template: give messages"),
        ({}, [], "expected messages"),
        ({"template": "{q} {a}"}, chat("Hi"), "by the template '{q} {a}': give the values of its columns"),
        ({"template": "{q} {a}"}, {"p": "Hi", "a": "x"}, "a, p: the prompt of '{q} {a}' is made of q"),
    ],
)
def test_a_prompt_of_another_form_is_refused(reading: dict[str, str], given: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        prompt_of(Reading(**reading), given)  # type: ignore[arg-type]


def test_all_of_the_text_and_its_answers_are_two_corpora_and_a_text_is_no_chat() -> None:
    source = [chat("Hi", "Yo")]
    whole = prepare(source, tokenizer="byte", mode="pad", length=50, whole=True, progress=False)
    answers = prepare(source, tokenizer="byte", loss_on="answers", length=50, whole=True, progress=False)
    assert whole.folder != answers.folder
    assert whole.manifest.loss_on == "all"
    assert whole.open("valid").num_prompt_tokens(np.array([0])).tolist() == [0]
    assert answers.settings()["data.loss_on"] == "answers"
    assert prepare(source, tokenizer="byte", loss_on="answers", length=50, whole=True, progress=False).folder == (
        answers.folder
    )
    with pytest.raises(UserError, match=r"no answers in 1 texts.*`column='messages'`.*`template=.*`loss_on='all'`"):
        prepare(["User: Hi\nAssistant: Yo"], tokenizer="byte", loss_on="answers", length=50, whole=True, progress=False)


def test_few_conversations_are_held_out_whole() -> None:
    corpus = prepare([chat(f"Number {n}?", f"{n}.") for n in range(6)], loss_on="answers", length=60, progress=False)
    assert [len(rows_of(corpus, split)) for split in ("train", "valid")] == [5, 1]


def test_chats_that_are_all_null_are_no_answers(tmp_path: Path) -> None:
    (tmp_path / "chats.jsonl").write_text('{"messages": null}\n' * 12)
    with pytest.raises(UserError, match=r"there are no answers in|there is no text in"):
        prepare(str(tmp_path / "chats.jsonl"), column="messages", loss_on="answers", tokenizer="char", length=8)


def test_settings_that_cannot_be_are_refused(tmp_path: Path) -> None:
    source = [chat("Hi", "Yo")]
    with pytest.raises(UserError, match="`loss_on='answers'` needs `length=`"):
        prepare(source, loss_on="answers")
    with pytest.raises(UserError, match="detokenize changes the text"):
        prepare(source, loss_on="answers", length=50, detokenize="wikitext")
    with pytest.raises(UserError, match=r"every prompt of .* fills a row of 10 tokens"):
        prepare(source, loss_on="answers", length=10, whole=True, progress=False)
    corpus = prepare(source, tokenizer="byte", loss_on="answers", length=50, whole=True, progress=False)
    with pytest.raises(UserError, match=r"prepared with `loss_on='answers'`, not 'all': set `data.loss_on='answers'`"):
        prepare(corpus, tokenizer="byte", mode="pad", length=50)


def test_a_changed_file_of_prompts_is_named() -> None:
    corpus = prepare([chat("Hi", "Yo")], tokenizer="byte", loss_on="answers", length=50, whole=True, progress=False)
    file = corpus.folder / "valid.prompts"
    prompts = np.fromfile(file, "<u4")
    (prompts - 1).tofile(file)
    with pytest.raises(UserError, match=r"valid\.prompts is not what was prepared"):
        corpus.open("valid")
    file.unlink()
    with pytest.raises(UserError, match=r"valid\.prompts is missing"):
        corpus.open("valid")
