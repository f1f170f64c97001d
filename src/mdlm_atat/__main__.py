"""`python -m mdlm_atat ...` is `atat ...`; torchrun starts it as `torchrun -m mdlm_atat ...`."""

import sys

from mdlm_atat.cli.main import main

sys.exit(main())
