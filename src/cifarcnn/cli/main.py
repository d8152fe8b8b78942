"""The command group, and the one place where an error becomes a line on stderr and an exit code.

The commands stand beside it, one module each: parse, call one library function, render.
"""

import atexit
import errno
import gc
import io
import keyword
import os
import sys
from collections import UserDict
from importlib import import_module

import click

from cifarcnn.cli import console
from cifarcnn.errors import CifarCNNError, reason
from cifarcnn.machine import backend, kerassettings, signals

CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What writing to a full or broken stdout ends with."""

COMMANDS = ("train", "tune", "runs", "evaluate", "predict", "summary", "export", "import", "data")


class _Commands(UserDict[str, click.Command]):
    """The commands by name, each imported when it is asked for, so that none waits for another's imports."""

    def __getitem__(self, name: str) -> click.Command:
        if name not in COMMANDS:
            return super().__getitem__(name)
        word = f"{name}_" if keyword.iskeyword(name) else name
        command: click.Command = getattr(import_module(f"cifarcnn.cli.{word}"), word)
        return command


def _show_version(context: click.Context, _option: click.Parameter, asked: bool) -> None:
    """Print the version, and what it runs on."""
    if not asked or context.resilient_parsing:
        return
    from importlib.metadata import version

    from cifarcnn.cli import about

    click.echo(f"cifarcnn, version {version('cifarcnn')}")
    for line in about.lines():
        click.echo(console.printable(line))
    context.exit()


EXAMPLES = """\b
Examples:
  cifarcnn predict cat.png        predict what an image shows
  cifarcnn train --arch vgg2      train a network on CIFAR-10
  cifarcnn evaluate pretrained    measure a model on the test images
"""


@click.group(
    epilog=EXAMPLES,
    commands=_Commands({name: click.Command(name) for name in COMMANDS}),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version, those of Python, Keras and its backend, and the CPU and GPU, and exit.",
)
def cli() -> None:
    """Train, evaluate, use and explain convolutional networks on CIFAR-10.

    Exit codes: 0 success, 1 failure, 2 wrong usage, 130 stopped by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP.
    """


def main() -> None:
    """Run the command line and exit."""
    _open_standard_streams()
    _tune_process()
    signals.stop_in_order()
    try:
        with backend.keras_settings():
            code = cli.main(prog_name="cifarcnn", standalone_mode=False)
        # What is buffered is written here, where it can still be said that it could not be.
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt, signals.Stopped) as problem:
        sys.exit(_report(problem))
    sys.exit(code if isinstance(code, int) else 0)


def _report(problem: BaseException) -> int:
    """Print an error as one line and return the exit code; raise a bug of ours again."""
    if isinstance(problem, click.exceptions.NoArgsIsHelpError):
        click.echo(problem.format_message(), err=True)
        return problem.exit_code
    if isinstance(problem, click.ClickException):
        context = problem.ctx if isinstance(problem, click.UsageError) else None
        where = f" (see '{context.command_path} --help')" if context else ""
        text = problem.format_message()
        console.error(text.rstrip(".") + where if isinstance(problem, click.UsageError) else text)
        return problem.exit_code
    if isinstance(problem, CifarCNNError):
        console.error(str(problem))
        return problem.exit_code
    if isinstance(problem, click.Abort | KeyboardInterrupt):
        console.error("stopped by Ctrl-C")
        return 130
    if isinstance(problem, signals.Stopped):
        console.error(f"stopped by {signals.name(problem.number)}")
        return 128 + problem.number
    if isinstance(problem, BrokenPipeError):
        # The reader of our stdout went away (`| head`): nobody is left to tell.
        sys.stdout = None
    # The library turns the errors of files into its own; writing to stdout is what is left.
    elif isinstance(problem, OSError) and problem.filename is None and problem.errno in CANNOT_WRITE:
        console.error(f"cannot write the output: {problem.strerror}; make room, or send it elsewhere")
        sys.stdout = None
    elif isinstance(problem, Exception) and backend.is_out_of_memory(problem):
        console.error(f"out of memory ({reason(problem)[:200]}); free some, or raise its limit (ulimit -v)")
    else:
        raise problem
    return 1


def _open_standard_streams() -> None:
    """Open what of stdin, stdout and stderr was closed, and let stdout take any text."""
    # Else a file that is opened later would take the place of what was closed.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - until the end
    # A name with letters that the terminal's encoding lacks is no reason to fail; Python does so for stderr.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _tune_process() -> None:
    """Leave out of a process of our own what Keras and Python would do in it to no end.

    Keras is there one to several seconds sooner (``benchmarks/README.md``, ``startup.py``).
    """
    # Keras imports scikit-learn, where that is installed, to offer wrappers for it, and pyplot for galleries.
    unused = ["sklearn", "matplotlib.pyplot"]
    if kerassettings.backend_asked()[0] == "tensorflow":
        unused.append("jax")  # TensorFlow imports it to convert its models.
    # Charts are drawn into files, in our style. A notebook's shell names a way to draw that is only there.
    os.environ.update(MPLBACKEND="agg", MATPLOTLIBRC=os.devnull)
    for name in unused:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
    # A process that ends need not search the million objects of TensorFlow for garbage.
    atexit.register(gc.freeze)
