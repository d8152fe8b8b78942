"""``cifarcnn train``: train a network, or go on with a run. Its options are the fields of ``Settings``."""

import contextlib
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cifarcnn import config, console
from cifarcnn.commands.data import data_option, json_option
from cifarcnn.events import ignore

if TYPE_CHECKING:
    from cifarcnn.training import TrainingResult


def setting_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command one option for each setting, in the order of ``Settings``."""
    for name, item in reversed(config.FIELDS.items()):
        limits, kind = item.metadata, item.type
        meaning = limits["meaning"]
        if item.default is not None:
            shown = f"{item.default:g}" if isinstance(item.default, float) else item.default
            meaning += f"  [default: {shown}]"
        option_type: Any = click.Choice(limits["choices"]) if limits["choices"] else click.STRING
        if kind is not str:
            option_type = click.FLOAT if kind is float else click.INT
        metavar = None if limits["choices"] else {str: "NAME", float: "F"}.get(kind, "N")  # type: ignore[arg-type]
        flag = f"--{name.replace('_', '-')}"
        command = click.option(flag, name, type=option_type, metavar=metavar, help=meaning)(command)
    return command


@click.command(epilog="Example: cifarcnn train --arch vgg3 --epochs 20 --seed 1")
@setting_options
@data_option
@click.option(
    "--config",
    "settings_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="TOML file of settings, named as the options are; an option on the command line wins.",
)
@click.option(
    "--out",
    metavar="DIR",
    type=click.Path(path_type=Path),
    default=Path("runs"),
    show_default=True,
    help="Where the run directory is made.",
)
@click.option(
    "--resume",
    metavar="RUN_DIR",
    type=click.Path(path_type=Path),
    help="Go on with this run, exactly where it stopped; --epochs extends it.",
)
@json_option
@click.option("-q", "--quiet", is_flag=True, help="Say nothing on stderr but errors.")
def train(
    *,
    path: Path | None,
    settings_file: Path | None,
    out: Path,
    resume: Path | None,
    as_json: bool,
    quiet: bool,
    **settings: config.Value,
) -> None:
    """Train a network on the training images.

    Without an option it trains vgg2 by the fast recipe. The defaults below are that recipe's; the classic
    recipe replaces them by what each network's author published (`cifarcnn summary ARCH` shows both).
    A validation split chooses the best epoch; the test images are not read.
    """
    if resume is not None and settings_file is not None:
        raise click.UsageError("--config cannot be given with --resume: a resumed run keeps its settings")
    from cifarcnn import training
    from cifarcnn.training_display import TrainingDisplay

    with contextlib.nullcontext(ignore) if quiet else TrainingDisplay() as on_event:
        if resume is not None:
            result = training.resume(resume, data=path, on_event=on_event, **settings)  # type: ignore[arg-type]
        else:
            result = training.train(
                out=out, data=path, settings_file=settings_file, on_event=on_event, **settings
            )
    if as_json:
        console.emit_json(result.as_document())
    else:
        _show(result)


def _show(result: "TrainingResult") -> None:
    """Say how it went, and what to do next."""
    minutes, seconds = divmod(round(result.train_seconds), 60)
    click.echo(
        f"{result.arch}, {result.recipe} recipe: {result.epochs} epochs in {minutes} min {seconds} s"
        f" ({result.images_per_second:,.0f} images/s, {result.device}, {result.precision})"
    )
    if result.val_accuracy is not None:
        click.echo(f"best validation accuracy {result.val_accuracy:.2%} in epoch {result.best_epoch}")
    click.echo(f"model: {result.model}")
    click.echo(f"next:  cifarcnn evaluate {shlex.quote(str(result.model))}")
