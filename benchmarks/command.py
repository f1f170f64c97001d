"""How a benchmark ends: what a person can mend is one message and exit code 2, not a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable

from mdlm_atat.errors import UserError, as_command


def exit_code(work: Callable[[], int | None]) -> int:
    """Do the work of a command, and return its exit code: that of the work or 0, 2 for a mistake in what was asked or a
    file that cannot be read or written, 130 where it was interrupted."""
    try:
        return work() or 0
    except UserError as error:
        message = as_command(str(error))
    except FileNotFoundError as error:
        message = f"there is no {error.filename or error}"
    except OSError as error:
        message = f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
    except ModuleNotFoundError as error:
        message = f"{error.name} is not installed; try: pip install {error.name}"
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    print(f"error: {message}", file=sys.stderr)
    return 2
