"""`atat samplers`: the list, and that everything in it is taken."""

from __future__ import annotations

import re

import pytest
from refusals import refused

from mdlm_atat import UserError
from mdlm_atat.cli.main import main
from mdlm_atat.cli.samplers import listing
from mdlm_atat.samplers.catalogue import PRESETS, RULES
from mdlm_atat.samplers.named import make_sampler, options_of, rule_class


def options_in(listed: list[str]) -> dict[str, dict[str, str]]:
    """Sampler to option to default, as printed."""
    found: dict[str, dict[str, str]] = {}
    name = ""
    for line in listed[: listed.index("short for")]:
        if line.startswith("    "):
            found[name] = dict(re.findall(r"([\w.]+)=([^,\s]+)", line))
        elif line:
            name = line.split()[0]
            found[name] = {}
    return found


def test_every_rule_is_listed_with_a_sentence_and_every_preset_with_what_it_stands_for(capsys):
    assert main(["samplers"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == listing()
    for name in RULES:
        (sentence,) = [line for line in lines if line.startswith(f"{name} ")]
        assert sentence.endswith(".")
        assert len(sentence.split()) > 4
    for name, spec in PRESETS.items():
        assert f"    {name:16} {spec}" in lines


@pytest.mark.parametrize("name", RULES)
def test_every_printed_option_is_taken_with_its_default_and_changes_nothing(name):
    printed = options_in(listing())[name]
    assert set(printed) == {option for option in options_of(rule_class(name)) if not option.startswith("draw.")}
    for option, default in printed.items():
        assert make_sampler(f"{name}:{option}={default}") == make_sampler(name)
    everything = ",".join(f"{option}={default}" for option, default in printed.items())
    assert make_sampler(f"{name}:{everything}") == make_sampler(name)
    for option in ("draw.temperature=0.5", "draw.top_k=3", "draw.top_p=0.9"):
        assert make_sampler(f"{name}:{option}") != make_sampler(name)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_its_specification_and_may_be_changed(name):
    assert make_sampler(name) == make_sampler(PRESETS[name])
    rule, _, options = PRESETS[name].partition(":")
    others = [option for option in options.split(",") if not option.startswith("score=")]
    changed = make_sampler(f"{rule}:{','.join([*others, 'score=margin'])}")
    assert make_sampler(f"{name}:score=margin") == changed != make_sampler(name)
    assert make_sampler(name, num_steps=5) == make_sampler(f"{name}:num_steps=5")


def test_the_choices_named_at_the_end_are_those_there_are():
    page = "\n".join(listing())
    for sizes in ("constant", "cosine", "half_cosine"):
        assert sizes in page
        make_sampler(f"first_hitting:sizes={sizes}")
        make_sampler(f"uncertainty:amount={sizes}")
    for amount in ("entropy_budget", "threshold"):
        make_sampler(f"uncertainty:amount={amount}")
        with pytest.raises(UserError, match="expected one of constant, cosine, half_cosine, optimal"):
            make_sampler(f"first_hitting:sizes={amount}")


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_shows_how_to_list_and_to_compare(capsys, flag):
    assert main(["samplers", flag]) == 0
    assert "atat samplers bench RUN" in capsys.readouterr().out


def test_another_word_is_refused(capsys):
    assert "unknown command 'lst'; commands: bench; see atat samplers --help" in refused(["samplers", "lst"], capsys)
    assert "did you mean atat samplers bench?" in refused(["samplers", "bnch", "runs/demo"], capsys)
