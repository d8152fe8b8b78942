"""Every error that a user's input or surroundings can cause.

The text of an error is one line that says what was received, what was expected and how to fix it. The
command line prints it and exits with ``exit_code``; the library only raises. Anything else that escapes
is a bug of ours.
"""


def first_line(problem: Exception) -> str:
    """Return the beginning of a foreign error's text, for a message of ours: 200 characters of one line."""
    return (str(problem).strip() or type(problem).__name__).splitlines()[0][:200]


def reason(problem: Exception) -> str:
    """Return why something failed, on one line: the system's words, else the error's own, else its name."""
    if isinstance(problem, MemoryError):
        return "out of memory"
    return getattr(problem, "strerror", None) or " ".join(str(problem).split()) or type(problem).__name__


class CifarCNNError(Exception):
    """Base of all errors of this package. Exit code 1: the work could not be done."""

    exit_code = 1


class UsageError(CifarCNNError):
    """An option, setting or argument is wrong. Exit code 2."""

    exit_code = 2


class DataError(CifarCNNError):
    """The data set cannot be found, fetched or trusted."""


class ModelError(CifarCNNError):
    """A model file is missing, damaged, unsafe, or not a CIFAR-10 classifier."""


class ImageError(CifarCNNError):
    """A picture cannot be read."""


class RunError(CifarCNNError):
    """A training run cannot start, continue or be saved."""


class Interrupted(CifarCNNError):  # noqa: N818 - named for what happened; it is no fault
    """A signal stopped the work after everything worth keeping was saved.

    Args:
        message: what to tell the user, including how to go on.
        exit_code: 128 plus the signal's number (130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP).
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
