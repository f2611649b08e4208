"""One exception is shown to users as a line instead of a traceback."""


class UserError(ValueError):
    """A user's error says in one line what was found, what was expected and what to do; the command then exits with 1.

    Anything that a user can cause (run files, data, paths, flags) raises this; a bug of ours raises anything else.
    """
