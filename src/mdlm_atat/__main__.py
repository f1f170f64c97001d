"""`atat ...` and `python -m mdlm_atat ...` begin here; torchrun starts it as `torchrun -m mdlm_atat ...`."""

import os
import sys


def main() -> int:
    """Run the command of `sys.argv` and return its exit code."""
    try:
        import signal

        # importing takes a third of a second, with nothing to end in order; a shell's `&` has Ctrl-C ignored
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _end_at_once)
    except KeyboardInterrupt:
        _end_at_once()
    from mdlm_atat.cli.main import main as run_command

    return run_command()


def _end_at_once(*_: object) -> None:
    """Ctrl-C before a command has begun, or after its end: as in between, but without Python's traceback."""
    try:
        os.write(2, b"\ninterrupted\n")
    finally:
        os._exit(130)


if __name__ == "__main__":
    code = main()
    # a Ctrl-C within an `exec` of a string, as dataclasses make theirs, was caught; but Python, started with -m,
    # remembers it until the next such `exec`, and would die of the signal at its end instead of with our code
    exec("")
    sys.exit(code)
