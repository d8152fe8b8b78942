"""The command group, and the one place where an error becomes a line on stderr and an exit code.

The commands stand in ``cifarcnn.commands``, one module each: parse, call one library function, render.
"""

import sys
from importlib.metadata import version

import click

from cifarcnn import console
from cifarcnn.commands.data import data
from cifarcnn.commands.evaluate import evaluate
from cifarcnn.commands.predict import predict
from cifarcnn.commands.summary import summary
from cifarcnn.commands.train import train
from cifarcnn.errors import CifarCNNError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(version("cifarcnn"), prog_name="cifarcnn")
def cli() -> None:
    """Train, evaluate, use and explain convolutional networks on CIFAR-10.

    \b
    cifarcnn train --arch vgg2          train a network on the real images
    cifarcnn evaluate runs/.../best.keras   measure it on the test images
    cifarcnn predict cat.png            ask it what a picture shows

    Exit codes: 0 success, 1 failure, 2 wrong usage, 130 stopped by Ctrl-C.
    """


for command in (train, evaluate, predict, summary, data):
    cli.add_command(command)


def main() -> None:
    """Run the command line and exit."""
    try:
        code = cli.main(prog_name="cifarcnn", standalone_mode=False)
    except click.ClickException as problem:
        if isinstance(problem, click.UsageError):
            where = f" (see '{problem.ctx.command_path} --help')" if problem.ctx else ""
            console.error(problem.format_message() + where)
        else:
            console.error(problem.format_message())
        sys.exit(problem.exit_code)
    except CifarCNNError as problem:
        console.error(str(problem))
        sys.exit(problem.exit_code)
    except (click.Abort, KeyboardInterrupt):
        console.error("stopped by Ctrl-C")
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our stdout went away (`| head`): nobody is left to tell.
        sys.stdout = None
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)
