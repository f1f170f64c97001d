"""What a run says of itself before it starts."""

import pytest

from mdlm_atat.config.files import load_config
from mdlm_atat.config.schema import OptimConfig
from mdlm_atat.training.dry_run import describe_optimizer

AT = "takes the steps, at a peak rate of 0.001"


@pytest.mark.parametrize(
    ("optim", "line"),
    [
        (OptimConfig(), f"AdamW {AT}"),
        (
            OptimConfig(momentum=0.5),
            f"AdamW {AT}; optim.momentum = 0.5: for optim.kind = muon only, and changes nothing here",
        ),
        (
            OptimConfig(kind="mine:Signs", momentum=0.9, rest_lr_ratio=1.0),
            f"mine:Signs {AT}; optim.momentum = 0.9, optim.rest_lr_ratio = 1: for optim.kind = muon only, and changes "
            "nothing here",
        ),
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
def test_a_run_says_what_takes_its_steps_and_which_settings_of_muon_are_not_used(optim, line):
    assert describe_optimizer(optim) == line
