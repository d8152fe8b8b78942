"""The ``cifarcnn`` command, also as ``python -m cifarcnn``.

Importing the command line takes a moment; Ctrl-C within it ends as quietly as later.
"""

import sys


def main() -> None:
    """Run the command line and exit."""
    try:
        from cifarcnn.cli.main import main as run
    except KeyboardInterrupt:
        sys.stderr.write("error: stopped by Ctrl-C\n")
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
