"""Models of this package for lm-evaluation-harness: importing this registers them there under the name `mdlm-atat`.

    python -m mdlm_atat.harness run --model mdlm-atat --model_args pretrained=runs/mine --tasks lambada_openai

is the harness's own command line with them; `run_tasks` (`atat harness`) runs its tasks and says which likelihood each
number comes from. Raises UserError where the harness is not installed.
"""

from __future__ import annotations

from importlib.util import find_spec

from mdlm_atat.errors import UserError

if find_spec("lm_eval") is None:
    raise UserError("lm-evaluation-harness is an extra, and not installed: pip install 'mdlm-atat[hub]'")

from mdlm_atat.harness.adapter import HarnessModel
from mdlm_atat.harness.run import TaskResults, run_tasks

__all__ = ["HarnessModel", "TaskResults", "run_tasks"]
