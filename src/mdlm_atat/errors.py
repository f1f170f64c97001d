"""What a user can do wrong."""


class UserError(Exception):
    """A mistake that the user can mend: what was wrong, what was expected, what to do next.

    The command line prints the message alone, without a traceback, and exits with code 2.
    """
