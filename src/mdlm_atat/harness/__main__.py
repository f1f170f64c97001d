"""The command line of lm-evaluation-harness, which knows `--model mdlm-atat` here."""

from __future__ import annotations

import sys

from mdlm_atat.errors import UserError

try:
    from lm_eval.__main__ import cli_evaluate

    import mdlm_atat.harness

    mdlm_atat.harness.HarnessModel  # noqa: B018  # is registered
    cli_evaluate()
except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
