"""The one exception that users see as a line instead of a traceback."""


class UserError(ValueError):
    """What was found, what was expected, what to do: one line, printed without a traceback, exit status 1.

    Anything that a user can cause (run files, data, paths, flags) raises this; a bug of ours raises anything else.
    """
