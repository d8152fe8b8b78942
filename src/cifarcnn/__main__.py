"""The ``cifarcnn`` command, also as ``python -m cifarcnn``.

Importing the command line takes a moment; Ctrl-C within it ends as quietly as later.
"""

import os
import sys
import warnings


def main() -> None:
    """Run the command line and exit."""
    # What libraries think of each other's versions is no error of a user's, whatever PYTHONWARNINGS says.
    warnings.simplefilter("ignore")
    # Rich would print nothing in no columns.
    for name in ("COLUMNS", "LINES"):
        if not 0 < _number(os.environ.get(name, "")) < 10_000:
            os.environ.pop(name, None)
    try:
        from cifarcnn.cli.main import main as run
    except KeyboardInterrupt:
        sys.stderr.write("error: stopped by Ctrl-C\n")
        sys.exit(130)
    run()


def _number(text: str) -> int:
    """Return the number that a text is, 0 if it is none."""
    try:
        return int(text)
    except ValueError:
        return 0


if __name__ == "__main__":
    main()
