"""Stands in for `python -m mdlm_atat`: the real command, whose experiments train with stand_in_train.py."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from mdlm_atat.cli.main import main
from studies.grids import use_stand_in

if __name__ == "__main__":
    use_stand_in(pytest.MonkeyPatch(), Path(os.environ["STAND_IN_DATA"]).parent, as_processes=True)
    sys.exit(main(sys.argv[1:]))
