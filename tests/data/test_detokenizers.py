import pytest

from mdlm_atat.data.detokenizers import DETOKENIZERS, detokenizer, whole_documents
from mdlm_atat.errors import UserError

EXAMPLES = [
    ("wikitext", " = Valkyria Chronicles III = \n", " = Valkyria Chronicles III =\n"),
    ("wikitext", "a 3 @-@ year , 1 @,@ 000 @.@ 5 mile run .", "a 3-year, 1,000.5 mile run ."),
    ("wikitext", "he said : yes ; no ! why ? because , well", "he said: yes; no! why? because, well"),
    ("wikitext", "the sun ( a star ) is [ very ] hot { so }", "the sun (a star) is [very] hot {so}"),
    ("wikitext", "the \" Raven \" and the ' Crow ' here", "the \"Raven\" and the 'Crow' here"),
    ("wikitext", " = = = Plot = = = \n It 's 20 ° C", " === Plot ===\nIt's 20°C"),
    ("wikitext", "the girls ' book", "the girls' book"),
    ("ptb", "the company 's <unk> did n't rise", "the company's ? didn't rise"),
    ("ptb", "sold N N N shares at $ N or # N million", "sold 1 1 1 shares at $1 or #1 million"),
    ("ptb", "investors ' and\\/or traders ' hopes", "investors' and/or traders' hopes"),
    ("lm1b", "Bill 's cost is $ 5 , not £ 6 .", "Bill's cost is $5, not £6."),
    ("lm1b", 'He said : " Go now " ( to us ) ?', 'He said: "Go now" (to us)?'),
    ("lm1b", "see http : / / a.b / c ! ok .", "see http://a.b/c! ok."),
    ("lambada", "  “ hi ” , she said \n", '\n" hi " , she said'),
    (
        "scientific_papers",
        "we study ( cells ) at 5 @.@ 2 units , and find x .",
        "we study (cells) at 5.2 units, and find x.",
    ),
]


@pytest.mark.parametrize(("name", "published", "written"), EXAMPLES)
def test_published_text_becomes_text_as_it_is_written(name, published, written):
    assert detokenizer(name)(published) == written


def test_every_detokenizer_has_an_example_and_leaves_plain_words_alone():
    assert {name for name, _, _ in EXAMPLES} == set(DETOKENIZERS)
    for name in DETOKENIZERS:
        assert detokenizer(name)("plain words stay").strip() == "plain words stay"


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="no detokenizer 'moses'; expected one of wikitext, ptb, lm1b"):
        detokenizer("moses")


def test_documents_in_parts_are_put_together_before_a_rule_sees_them():
    parts = [("a cat", False), (" 's", True), ("b", True)]
    assert list(whole_documents(parts)) == ["a cat 's", "b"]
    assert list(map(detokenizer("ptb"), whole_documents(parts))) == ["a cat's", "b"]
