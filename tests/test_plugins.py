"""Names of things: built in, of an installed package, or package.module:Name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mdlm_atat import UserError, plugins


@pytest.fixture
def vowels(tmp_path, monkeypatch):
    (tmp_path / "a_plugin_of_vowels.py").write_text("touched = True\nclass VowelsLast: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(plugins, "_allowed", set())
    yield "a_plugin_of_vowels:VowelsLast"
    sys.modules.pop("a_plugin_of_vowels", None)
    sys.modules.pop("another_name", None)


@pytest.mark.parametrize("kind", plugins.KINDS)
def test_every_built_in_name_leads_to_something(kind):
    for name in plugins.BUILT_IN[kind]:
        assert plugins.resolve(kind, name).__name__ == plugins.BUILT_IN[kind][name].partition(":")[2]


def test_a_plugin_is_not_imported_before_somebody_trusts_it(vowels):
    with pytest.raises(UserError, match="trust_plugins=True"):
        plugins.resolve("masking", vowels)
    assert "a_plugin_of_vowels" not in sys.modules
    with plugins.trusted():
        assert plugins.resolve("masking", vowels).__name__ == "VowelsLast"


def test_a_name_that_was_trusted_once_stays_so_and_no_other_does(vowels):
    plugins.allow("masking", vowels)
    assert plugins.resolve("masking", vowels).__name__ == "VowelsLast"
    with pytest.raises(UserError, match="trust_plugins"):
        plugins.resolve("sampler", vowels)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("linaer", "did you mean linear"),
        ("os", "unknown noise schedule 'os'"),
        ("no_such_module_of_mine:Thing", "no module no_such_module_of_mine"),
        ("a_plugin_of_vowels:VowelLast", "did you mean a_plugin_of_vowels:VowelsLast"),
        ("a_plugin_of_vowels:touched", "a_plugin_of_vowels:touched: expected a class or a function, found True"),
        ("__main__:Thing", "__main__"),
        ("a b:c", "unknown noise schedule"),
    ],
)
def test_a_wrong_name_gets_one_message_that_says_what_to_do(vowels, name, message):
    with plugins.trusted(), pytest.raises(UserError, match=message):
        plugins.resolve("schedule", name)


@pytest.mark.parametrize("code", ["", "0", "'bye'"])
def test_a_script_that_exits_when_it_is_imported_ends_no_command_as_if_it_were_done(code, tmp_path, monkeypatch):
    (tmp_path / "a_script_of_mine.py").write_text(f"import sys\nclass Thing: pass\nsys.exit({code})\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with plugins.trusted(), pytest.raises(UserError, match=r"a_script_of_mine:Thing: .* under `if __name__ == "):
        plugins.resolve("masking", "a_script_of_mine:Thing")


def test_one_file_under_two_names_is_refused(vowels):
    with plugins.trusted():
        first = plugins.resolve("masking", vowels)
        sys.modules["another_name"] = sys.modules.pop("a_plugin_of_vowels")
        with pytest.raises(UserError, match="imported already under the name another_name"):
            plugins.resolve("masking", vowels)
    assert first.__name__ == "VowelsLast"


def test_a_class_given_from_python_is_written_down_by_its_name(vowels):
    with plugins.trusted():
        assert plugins.reference_to(plugins.resolve("masking", vowels)) == vowels
    with pytest.raises(UserError, match="module of its own"):
        plugins.reference_to(type("Mine", (), {"__module__": "__main__"}))


def test_what_a_plugin_needs_is_written_down_with_its_version_and_asked_for_by_it():
    needed = plugins.requirement("metric", "yaml:load")
    assert needed["distribution"] in ("PyYAML", "pyyaml")
    assert plugins.check_requirement(needed) is None
    assert "is of" in (plugins.check_requirement({**needed, "version": "0.1"}) or "")
    with pytest.raises(UserError, match=r"pip install vowels-last==2.0"):
        plugins.check_requirement(
            {"kind": "masking", "name": "vowels:Last", "distribution": "vowels-last", "version": "2.0"}
        )


def test_a_package_that_is_installed_while_we_run_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (site := tmp_path / "site").mkdir()
    monkeypatch.syspath_prepend(str(site))
    assert "late" not in plugins.names("schedule")
    (about := site / "late-1.0.dist-info").mkdir()
    (about / "METADATA").write_text("Name: late\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[mdlm_atat.schedule]\nlate = late:Late\n")
    assert "late" in plugins.names("schedule")
