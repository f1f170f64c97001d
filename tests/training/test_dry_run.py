"""What a run says of itself before it starts."""

import pytest

from mdlm_atat.config.files import load_config
from mdlm_atat.config.schema import OptimConfig
from mdlm_atat.training import dry_run
from mdlm_atat.training.dry_run import DryRun, _epochs, _step_time, _takes, describe_optimizer
from tiny_runs import train

AT = "takes the steps, at a peak rate of 0.001"


@pytest.mark.parametrize(
    ("optim", "line"),
    [
        (OptimConfig(), f"AdamW {AT}"),
        (OptimConfig(kind="mine:Signs"), f"mine:Signs {AT}"),
        (
            OptimConfig(kind="muon", momentum=0.5),
            "Muon steps the matrices of the blocks and AdamW the rest, at a peak rate of 0.001",
        ),
        (
            load_config("demo", "mdlm").optim,
            "Muon steps the matrices of the blocks and AdamW the rest, at a peak rate of 0.006",
        ),
    ],
)
def test_a_run_says_what_takes_its_steps(optim, line):
    assert describe_optimizer(optim) == line


@pytest.mark.parametrize(
    ("step_s", "shown"),
    [
        (0.00043, "0.43 ms"),
        (0.0083, "8.3 ms"),
        (0.24, "240 ms"),
        (2.13, "2.1 s"),
        (95.0, "1 min 35 s"),
    ],
)
def test_the_time_of_a_step_has_the_unit_that_fits(step_s, shown):
    assert _step_time(step_s) == shown


@pytest.mark.parametrize(
    ("epochs", "shown"), [(0.0023, "0.23% of an epoch"), (0.5, "50% of an epoch"), (2.345, "2.35 epochs")]
)
def test_a_text_that_is_read_once_at_most_is_a_share_of_an_epoch(epochs, shown):
    assert _epochs(epochs) == shown


@pytest.mark.parametrize(
    ("num_steps", "step_s", "memory_bytes", "end"),
    [
        (200_000, 0.99, 3 << 29, "990 ms: 2 days 7 h in all, evaluation aside, and 1.5 GiB of memory at the peak"),
        (60, 0.004, 90 << 20, "4.0 ms: 0.24 s in all, evaluation aside, and 90 MiB of memory at the peak"),
        (3000, 0.084, None, "84 ms: 4 min 12 s in all, evaluation aside"),
    ],
)
def test_what_a_run_takes_is_in_units_of_its_size(num_steps, step_s, memory_bytes, end):
    assert _takes(num_steps, DryRun(step_s=step_s, memory_bytes=memory_bytes)) == end


class Begun(Exception):
    """The run got to its first step."""


@pytest.mark.parametrize(("slow_s", "tries"), [(0.0, 1), (1e9, 3)])
def test_a_slow_step_is_tried_once_to_say_what_all_take_and_others_after_a_warm_up(
    slow_s, tries, text, tmp_path, monkeypatch
):
    steps, forward_backward = [], dry_run.forward_backward
    monkeypatch.setattr(dry_run, "SLOW_STEP_S", slow_s)
    monkeypatch.setattr(dry_run, "forward_backward", lambda *a: steps.append(a) or forward_backward(*a))

    def begin(*_, **__):
        raise Begun

    monkeypatch.setattr("mdlm_atat.runs.train.take_steps", begin)
    with pytest.raises(Begun):
        train(text, tmp_path / "run")
    assert len(steps) == tries


@pytest.mark.parametrize(("slow_flops", "is_said"), [(1.0, True), (1e30, False)])
def test_before_a_step_that_takes_minutes_is_tried_a_run_says_so(
    slow_flops, is_said, text, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(dry_run, "SLOW_STEP_FLOPS", slow_flops)

    def begin(*_, **__):
        raise Begun

    monkeypatch.setattr("mdlm_atat.runs.train.dry_run", begin)
    with pytest.raises(Begun):
        train(text, tmp_path / "run")
    assert ("trying     a step of 4 x 16 tokens" in capsys.readouterr().out) == is_said
