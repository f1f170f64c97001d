"""Training methods are layers over a preset: each changes what it says and nothing else, and no mixture of their parts
is accepted whose bound or gradient would be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdlm_atat.cli.main import main
from mdlm_atat.config.arguments import read_arguments, read_config
from mdlm_atat.config.files import (
    apply_settings,
    describe_methods,
    describe_presets,
    load_config,
    read_flags,
    save_config,
)
from mdlm_atat.errors import UserError
from mdlm_atat.training.folder import changes

MASKED = [name for name in describe_presets() if load_config(name).model.kind == "masked"]

# method: (its base, every setting in which it differs from it on the preset char)
ABLATIONS = {
    "time_sampling_only": ("mdlm", {"objective.time_sampling", "objective.weighting"}),
    "importance_only": ("importance_rates", {"objective.time_sampling", "objective.weighting", "curriculum.kind"}),
    "no_curriculum": ("importance_rates", {"curriculum.kind"}),
    "learned_only": ("no_curriculum", {"importance.mode"}),
    "frequency_only": (
        "no_curriculum",
        {"importance.mode", "model.time_conditioning", "masking.logit_correction"},
    ),
    "proportional": ("importance_rates", {"masking.direction"}),
    "muon": ("time_sampling_only", {"optim.kind", "optim.lr"}),
    "two_way": ("time_sampling_only", {"objective.causal_share"}),
    "atat": ("muon", {"objective.causal_share", "model.qk_norm"}),
    "no_importance": ("importance_rates", {"importance.mode", "model.time_conditioning", "masking.strategy"}),
    "literal_importance": (
        "mdlm",
        {"importance.mode", "masking.strategy", "masking.direction", "masking.temperature"},
    ),
    "position_slope": ("mdlm", {"masking.strategy", "masking.position"}),
}
SECTIONS = {  # where what changes is many settings
    "importance_rates": ("time_sampling_only", {"model", "importance", "masking", "curriculum"}),
    "literal_curriculum": ("literal_importance", {"masking", "curriculum"}),
}


def mistakes_in(preset: str, method: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        load_config(preset, method)
    return str(caught.value).splitlines()


@pytest.mark.parametrize("method", describe_methods())
def test_every_method_loads_over_every_masked_preset_and_is_read_back_from_its_run(method: str, tmp_path: Path):
    assert len(MASKED) == 7
    assert describe_methods()[method]
    *_, config = [load_config(preset, method) for preset in MASKED]
    save_config(config, tmp_path / "config.yaml")
    assert load_config(str(tmp_path)) == config


@pytest.mark.parametrize("method", describe_methods())
def test_a_method_leaves_data_steps_evaluation_and_all_of_the_optimizer_but_muon_to_the_preset(method: str):
    own = {"objective", "importance", "masking", "curriculum"}
    for preset in MASKED:
        changed = changes(load_config(preset), load_config(preset, method))
        assert {path for path in changed if path.partition(".")[0] not in own} <= {
            "model.time_conditioning",
            "model.time_through",
            *({"optim.kind", "optim.lr"} if method in ("muon", "atat") else ()),
            *({"model.qk_norm"} if method == "atat" else ()),
        }


def test_mdlm_is_the_preset_char_with_no_method_at_all():
    assert load_config("char", "mdlm") == load_config("char")


def test_a_method_s_times_win_over_the_preset_s():
    assert load_config("demo").objective.time_sampling == "beta"
    assert load_config("demo", "mdlm").objective.time_sampling == "uniform"


@pytest.mark.parametrize("method", ABLATIONS)
def test_an_ablation_differs_from_its_base_in_the_named_settings_and_no_other(method: str):
    base, expected = ABLATIONS[method]
    assert changes(load_config("char", base), load_config("char", method)).keys() == expected


@pytest.mark.parametrize("method", SECTIONS)
def test_a_method_of_several_parts_differs_from_its_base_in_these_sections(method: str):
    base, expected = SECTIONS[method]
    changed = changes(load_config("char", base), load_config("char", method))
    assert {path.partition(".")[0] for path in changed} == expected


def test_every_shipped_method_is_the_base_or_one_of_the_ablations():
    assert {*ABLATIONS, *SECTIONS, "mdlm"} == set(describe_methods())


def test_an_unknown_method_is_answered_with_the_list_and_a_hint(tmp_path: Path):
    first, second = mistakes_in("char", "atta")
    assert first == "unknown method 'atta'; did you mean atat?"
    assert second.startswith(f"methods: {', '.join(describe_methods())}; ")
    (missing,) = mistakes_in("char", str(tmp_path / "mine.yaml"))
    assert missing == f"there is no file or run folder {tmp_path / 'mine.yaml'}"


def test_a_flag_or_keyword_wins_over_a_method_s_optimizer_and_the_method_over_the_preset_s(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("base: char\noptim:\n  lr: 5e-4\n  betas: [0.9, 0.95]\n")
    optim = load_config(str(file), "atat").optim
    assert (optim.kind, optim.lr, optim.betas) == ("muon", 6e-3, (0.9, 0.95))
    for settings, keywords in (({}, {"lr": 2e-3}), ({}, {"optim": {"lr": 2e-3}}), ({"optim.lr": 2e-3}, {})):
        changed = read_arguments(settings, keywords)
        optim = read_config(str(file), "atat", changed, "train").optim
        assert (optim.kind, optim.lr) == ("muon", 2e-3)
    flags, _ = read_flags(["--optim.kind", "adamw", "--optim.lr", "1e-3"])
    optim = read_config(str(file), "atat", flags, "train").optim
    assert (optim.kind, optim.lr) == ("adamw", 1e-3)
    child = tmp_path / "faster.yaml"
    child.write_text("base: atat\noptim:\n  lr: 1e-2\n")
    optim = load_config("char", str(child)).optim
    assert (optim.kind, optim.lr) == ("muon", 1e-2)


def test_a_section_that_is_given_a_value_says_what_it_takes():
    with pytest.raises(UserError, match=r"^`lora=` is a section of settings, and takes a mapping or a LoraConfig$"):
        read_arguments({}, {"lora": 4})


def test_options_of_a_plugin_go_with_it_where_a_method_or_a_flag_names_another(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    masking = "masking:\n  strategy: mine:VowelsLast\n  options: {speed: 2}\n"
    file.write_text(f"base: char\noptim:\n  kind: torch.optim:SGD\n  options: {{momentum: 0.9}}\n{masking}")
    own = load_config(str(file))
    assert (own.optim.options, own.masking.options) == ({"momentum": 0.9}, {"speed": 2})
    config = load_config(str(file), "atat")
    assert (config.optim.options, config.masking.options) == ({}, {})
    again, _ = apply_settings(own, {"optim.kind": "torch.optim:SGD"})
    other, _ = apply_settings(own, {"optim.kind": "muon"})
    assert again == own
    assert other is not None
    assert (other.optim.options, other.masking.options) == ({}, {"speed": 2})


def test_what_was_called_atat_is_importance_rates_setting_for_setting():
    old = load_config(str(Path(__file__).parents[1] / "fixtures" / "old_run"))
    config = load_config("demo", "importance_rates")
    tiny = {"model.num_layers", "model.width", "model.num_heads", "model.qk_norm"}  # the preset's, which changed
    tiny |= {"importance.width", "importance.num_layers", "importance.num_heads"}
    same = {"model", "objective", "importance", "masking", "curriculum"}
    assert {path for path in changes(config, old) if path.partition(".")[0] in same} == tiny


@pytest.mark.parametrize("method", describe_methods())
def test_a_masking_method_on_the_causal_baseline_is_refused_in_one_line(method: str):
    (message,) = mistakes_in("causal-char", method)
    assert message.startswith(f"method {method}: model.kind = causal ")
    # it is the masking that does not go with it; what the method says about t is not the person's to mend
    assert "time_conditioning" not in message


def test_a_file_that_builds_on_a_method_is_a_method(tmp_path: Path):
    file = tmp_path / "sharp.yaml"
    file.write_text("# sharper masks\nbase: importance_rates\nmasking:\n  temperature: 0.3\n")
    changed = changes(load_config("tiny", "importance_rates"), load_config("tiny", str(file)))
    assert {path: new for path, (_, new) in changed.items()} == {"masking.temperature": 0.3}


def test_a_mistake_that_a_method_file_inherits_names_the_file_that_holds_it(tmp_path: Path):
    (tmp_path / "parent.yaml").write_text("base: atat\nmasking:\n  temprature: 0.3\n")
    (tmp_path / "child.yaml").write_text("base: parent.yaml\ncurriculum:\n  kind: none\n")
    (message,) = mistakes_in("char", str(tmp_path / "child.yaml"))
    assert "masking.temprature: unknown key; did you mean masking.temperature?" in message
    assert message.endswith("parent.yaml)")


def test_a_resumed_run_refuses_a_method(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    save_config(load_config("char"), tmp_path / "config.yaml")
    assert main(["train", "--resume", str(tmp_path), "--method", "atat"]) == 2
    assert "a resumed run keeps its method: leave out --method" in capsys.readouterr().err


CONTRADICTIONS = {
    "importance masking, estimator off": (
        "importance_rates --importance.mode none",
        "masking.strategy = importance needs an importance, and importance.mode is none",
    ),
    "literal masking, estimator off": (
        "literal_importance --importance.mode none",
        "masking.strategy = literal_importance needs an importance",
    ),
    "boundaries out of order": (
        "importance_rates --curriculum.boundaries 0.8 0.2",
        "curriculum.boundaries is 0.8 0.2, expected 0 < first < second < 1",
    ),
    "a boundary at the end": ("importance_rates --curriculum.boundaries 0.2 1.0", "curriculum.boundaries is 0.2 1.0"),
    "negative temperature": (
        "importance_rates --masking.temperature -1",
        "masking.temperature is -1.0, expected above 0",
    ),
    "a stage of negative temperature": (
        "importance_rates --curriculum.temperatures 2 0 1",
        "curriculum.temperatures is (2.0, 0.0, 1.0), expected three numbers above 0",
    ),
    "table not learned": (
        "position_slope --masking.position table",
        "masking.position = table is learned through the bound: set importance.through_bound to true",
    ),
    "a table beside importance": (
        "importance_rates --masking.position table --importance.through_bound true",
        "masking.position = table needs masking.strategy = position, not importance",
    ),
    "position without a shape": (
        "mdlm --masking.strategy position",
        "masking.strategy = position needs a shape: set masking.position to slope, u_shape or table",
    ),
    "a shape that nothing uses": (
        "mdlm --masking.position slope",
        "masking.position = slope has no effect with masking.strategy = uniform",
    ),
    "not told the time": ("importance_rates --model.time_conditioning false", "set model.time_conditioning to true"),
    "frequency, not corrected and not told": (
        "frequency_only --masking.logit_correction false",
        "set model.time_conditioning to true",
    ),
    "correction of a learned importance": (
        "learned_only --masking.logit_correction true",
        "masking.logit_correction is known only where the rates depend on the token itself",
    ),
    "odd micro-batch through the bound": (
        "importance_only --importance.through_bound true --train.batch_size 6 --train.num_micro_batches 2",
        "train.batch_size = 6 over 2 micro-batches is 3 to mask at once, not an even number: try --train.batch_size 8",
    ),
    "times that are not the bound's, through the bound": (
        "importance_rates --importance.through_bound true",
        "objective.weighting = elbo (in every stage of a curriculum); they are beta and flat",
    ),
    "nothing to train through the bound": (
        "mdlm --importance.through_bound true",
        "importance.through_bound has nothing to train",
    ),
    "balanced and sharp": (
        "no_curriculum --masking.direction balanced --masking.temperature 0.7",
        "masking.temperature = 0.7 is too low for masking.direction = balanced",
    ),
    "curriculum masking without stages": (
        "no_curriculum --masking.strategy curriculum",
        "masking.strategy = curriculum needs a curriculum: set curriculum.kind to fixed or dynamic",
    ),
    "literal curriculum without stages": (
        "literal_curriculum --curriculum.kind none",
        "masking.strategy = literal_curriculum needs a curriculum",
    ),
    "estimator heads": (
        "importance_rates --importance.width 256 --importance.num_heads 3",
        "importance.width = 256 cannot be split",
    ),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_parts_that_do_not_fit_are_one_message_with_exit_code_2_and_leave_no_folder(
    case: str,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    flags, expected = CONTRADICTIONS[case]
    nothing = tmp_path_factory.mktemp("nothing") / "empty.txt"  # to train on, should it be accepted
    nothing.touch()
    source = ["--data.source", str(nothing)]
    assert main(["train", "char", "--out", "run", "--method", *flags.split(), *source]) == 2
    output = capsys.readouterr()
    (message,) = output.err.splitlines()
    assert message.startswith("error: ")
    assert expected in message
    assert not output.out
    assert not list(tmp_path.iterdir())
