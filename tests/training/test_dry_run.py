"""What a run says of itself before it starts."""

import pytest

from mdlm_atat.config.files import load_config
from mdlm_atat.config.schema import OptimConfig
from mdlm_atat.training.dry_run import DryRun, _epochs, _step_time, _takes, describe_optimizer

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
