"""``python -m cifarcnn`` is the same as the ``cifarcnn`` command."""

from cifarcnn.cli import main

main()
