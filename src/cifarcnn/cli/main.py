"""The command group, and the one place where an error becomes a line on stderr and an exit code.

The commands stand in ``commands``, one module each: parse, call one library function, render.
"""

import atexit
import errno
import gc
import io
import os
import signal
import sys
import threading
import warnings
from collections import UserDict
from importlib import import_module
from types import FrameType

import click

from cifarcnn.cli import console
from cifarcnn.errors import CifarCNNError
from cifarcnn.machine import kerassettings

CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What writing to a full or broken stdout ends with."""

STOPPED = 128 + signal.SIGTERM
"""The exit code after SIGTERM."""

COMMANDS = ("train", "tune", "runs", "evaluate", "predict", "summary", "export", "data")


class _Commands(UserDict[str, click.Command]):
    """The commands by name, each imported when it is asked for, so that none waits for another's imports."""

    def __getitem__(self, name: str) -> click.Command:
        if name not in COMMANDS:
            return super().__getitem__(name)
        command: click.Command = getattr(import_module(f"cifarcnn.cli.{name}"), name)
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
  cifarcnn predict cat.png      ask what a picture shows
  cifarcnn train --arch vgg2    train a network on the real images
  cifarcnn evaluate pretrained       measure a model on the test images
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

    Exit codes: 0 success, 1 failure, 2 wrong usage, 130 stopped by Ctrl-C, 143 by SIGTERM.
    """


def main() -> None:
    """Run the command line and exit."""
    _open_standard_streams()
    _tune_process()
    _stop_in_order()
    try:
        code = cli.main(prog_name="cifarcnn", standalone_mode=False)
        # What is buffered is written here, where it can still be said that it could not be.
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as problem:
        click.echo(problem.format_message(), err=True)
        sys.exit(problem.exit_code)
    except click.ClickException as problem:
        if isinstance(problem, click.UsageError):
            where = f" (see '{problem.ctx.command_path} --help')" if problem.ctx else ""
            console.error(problem.format_message().rstrip(".") + where)
        else:
            console.error(problem.format_message())
        sys.exit(problem.exit_code)
    except CifarCNNError as problem:
        console.error(str(problem))
        sys.exit(problem.exit_code)
    except (click.Abort, KeyboardInterrupt):
        console.error("stopped by Ctrl-C")
        sys.exit(130)
    except SystemExit as stop:
        if stop.code == STOPPED:
            console.error("stopped by SIGTERM")
        raise
    except BrokenPipeError:
        # The reader of our stdout went away (`| head`): nobody is left to tell.
        sys.stdout = None
        sys.exit(1)
    except OSError as problem:
        # The library turns the errors of files into its own; writing to stdout is what is left.
        if problem.filename is not None or problem.errno not in CANNOT_WRITE:
            raise
        console.error(f"cannot write the output: {problem.strerror}; make room, or send it elsewhere")
        sys.stdout = None
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def _open_standard_streams() -> None:
    """Open what of stdin, stdout and stderr was closed, and let stdout take any text."""
    # Else a file that is opened later would take the place of what was closed.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - until the end
    # A name with letters that the terminal's encoding lacks is no reason to fail; Python does so for stderr.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _stop_in_order() -> None:
    """Have SIGTERM end the process as an error would, so that no temporary file is left behind."""

    def stop(number: int, _frame: FrameType | None) -> None:
        # timeout(1) sends it twice; the second must not interrupt the tidying up after the first.
        signal.signal(number, signal.SIG_IGN)
        sys.exit(STOPPED)

    # Outside the main thread Python allows no handlers; what was told to ignore the signal goes on doing so.
    if threading.current_thread() is threading.main_thread() and (
        signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    ):
        signal.signal(signal.SIGTERM, stop)


def _tune_process() -> None:
    """Leave out of a process of our own what Keras, Pillow and Python would do in it to no end.

    Keras is there one to several seconds sooner (``benchmarks/README.md``, ``startup.py``).
    """
    # Keras imports scikit-learn, where that is installed, to offer wrappers for it, and pyplot for galleries.
    unused = ["sklearn", "matplotlib.pyplot"]
    if kerassettings.backend_name() == "tensorflow":
        unused.append("jax")  # TensorFlow imports it to convert its models.
    for name in unused:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
    # Pillow remarks on odd but readable pictures, and warns of large ones, which are refused anyway.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    # A process that ends need not search the million objects of TensorFlow for garbage.
    atexit.register(gc.freeze)
