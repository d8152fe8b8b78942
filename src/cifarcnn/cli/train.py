"""``cifarcnn train``: train a network, or resume a run. Its options are the fields of ``Settings``."""

import contextlib
import functools
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from cifarcnn import config
from cifarcnn.cli import console
from cifarcnn.cli.options import GroupedCommand, images_option, json_option, quiet_option, setting_options
from cifarcnn.events import ignore
from cifarcnn.formatting import count
from cifarcnn.training.cluster import WAIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from cifarcnn.training.seeds import SeedsResult
    from cifarcnn.training.train import TrainingResult


def _parse_seeds(_context: click.Context, _option: click.Parameter, text: str | None) -> list[int] | None:
    """Read "0,1,2"."""
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"{text!r} is no list of whole numbers; expected e.g. 0,1,2") from None


@click.command(cls=GroupedCommand, epilog="Example: cifarcnn train --arch vgg3 --epochs 20 --seed 1")
@setting_options()
@images_option
@click.option(
    "--config",
    "settings_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="TOML file of settings, named as their options are; an option on the command line wins.",
)
@click.option(
    "--out",
    metavar="DIR",
    type=click.Path(path_type=Path),
    default=Path(config.RUNS),
    show_default=True,
    help="Where the run directory is made.",
)
@click.option(
    "--resume",
    metavar="RUN_DIR",
    type=click.Path(path_type=Path),
    help="Resume this run exactly where it stopped, or those of --seeds; --epochs extends a run.",
)
@click.option(
    "--seeds",
    metavar="N,N,...",
    callback=_parse_seeds,
    help="Train once with each of these seeds; report mean and standard deviation.",
)
@click.option(
    "--repeat",
    metavar="N",
    type=click.IntRange(1, 1000),
    help="Train N times, with seeds 0 to N - 1; report as --seeds does.",
)
@click.option(
    "--scale-batch", is_flag=True, help="Multiply batch size and learning rate by the number of devices."
)
@click.option("--alone", is_flag=True, help="Train in this process alone, whatever TF_CONFIG or SLURM say.")
@click.option(
    "--wait",
    metavar="SECONDS",
    type=float,
    default=WAIT_SECONDS,
    show_default=True,
    help="How long to wait for the other machines that TF_CONFIG or SLURM name.",
)
@json_option
@quiet_option
@click.pass_context
def train(
    context: click.Context,
    /,
    *,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Train a network on the training images.

    Each network has a recipe, whose settings are the defaults below; with --arch they are that network's. The
    recipe classic is its author's, as far as it was published. A validation split chooses the best epoch; the
    test images are not read.
    """
    data = options["path"]
    _check_options(context, options)
    call = _choose_call(**options)
    from cifarcnn.cli.training_display import TrainingDisplay
    from cifarcnn.training.seeds import SeedsResult

    with contextlib.nullcontext(ignore) if quiet else TrainingDisplay() as on_event:
        result = call(on_event=on_event)
    if as_json:
        console.emit_json(result.as_document())
    elif isinstance(result, SeedsResult):
        _show_seeds(result)
    else:
        _show(result, data)
    if isinstance(result, SeedsResult) and result.failures:
        for name, why in result.failures.items() if quiet else ():  # else they were told when they happened
            console.note(f"failed: {name}: {why}")
        console.note(f"{len(result.failures)} of {len(result.failures) + len(result.runs)} runs failed")
        context.exit(1)


def _check_options(context: click.Context, options: dict[str, Any]) -> None:
    """Refuse options that exclude each other."""
    several = [f"--{name}" for name in ("seeds", "repeat") if options[name] is not None]
    if several and options["seed"] is not None:
        several.append("--seed")
    if len(several) > 1:
        raise click.UsageError(f"{several[0]} cannot be given with {several[1]}; choose one")
    if several and options["scale_batch"]:
        raise click.UsageError(f"--scale-batch cannot be given with {several[0]}: it is for one run")
    if options["resume"] is None:
        return
    if context.get_parameter_source("out") is ParameterSource.COMMANDLINE:
        raise click.UsageError("--out cannot be given with --resume: a resumed run stays where it is")
    new = [*several, *(["--config"] if options["settings_file"] else [])]
    new += ["--scale-batch"] if options["scale_batch"] else []
    if new:
        raise click.UsageError(f"{new[0]} cannot be given with --resume: a resumed run keeps its settings")


def _choose_call(
    *,
    path: Path | None,
    settings_file: Path | None,
    out: Path,
    resume: Path | None,
    seeds: list[int] | None,
    repeat: int | None,
    scale_batch: bool,
    alone: bool,
    wait: float,
    **settings: Any,
) -> "Callable[..., TrainingResult | SeedsResult]":
    """Return the library's function that does what the options say, with all arguments but ``on_event``."""
    from cifarcnn.training import seeds as several
    from cifarcnn.training import train as one

    new: dict[str, Any] = {"out": out, "data": path, "settings_file": settings_file}
    if resume is not None and several.is_seeds(resume):
        _check_alone(alone)
        hardware: dict[str, Any] = {name: settings.pop(name) for name in ("device", "devices")}
        if any(value is not None for value in settings.values()):
            raise click.UsageError(
                "several runs are resumed as they were: give no setting with --resume but --device and"
                " --devices"
            )
        return functools.partial(several.resume_seeds, resume, data=path, **hardware)
    if resume is not None:
        together: dict[str, Any] = {"data": path, "alone": alone, "wait": wait}
        return functools.partial(one.resume, resume, **together, **settings)
    if seeds or repeat:
        _check_alone(alone)
        del settings["seed"]
        return functools.partial(several.train_seeds, seeds or list(range(repeat or 0)), **new, **settings)
    together = {"alone": alone, "wait": wait, "scale_batch": scale_batch}
    return functools.partial(one.train, **new, **together, **settings)


def _check_alone(alone: bool) -> None:
    """Refuse to train several runs in each of several processes that should train one together."""
    from cifarcnn.training import cluster

    if not alone and cluster.from_environment(os.environ) is not None:
        raise click.UsageError(
            "several runs are not trained by several machines in step; train them with --alone, or one run"
            " without"
        )


def _show(result: "TrainingResult", data: Path | None) -> None:
    """Say how it went, and what to do next."""
    minutes, seconds = divmod(round(result.train_seconds), 60)
    # A training of a few steps has no speed: its first call compiles.
    speed = f"{result.images_per_second:,.0f} images/s, " if result.images_per_second else ""
    click.echo(
        f"{result.arch}, {result.recipe} recipe: {count(result.epochs, 'epoch')} in {minutes} min {seconds} s"
        f" ({speed}{result.device}, {result.precision})"
    )
    if result.val_accuracy is not None:
        click.echo(f"best epoch {result.best_epoch}, validation accuracy {result.val_accuracy:.2%}")
    click.echo(f"model: {console.printable(str(result.model))}")
    place = [] if data is None else ["--data", str(data)]
    click.echo(f"next:  {console.printable(shlex.join(['cifarcnn', 'evaluate', str(result.model), *place]))}")


def _show_seeds(result: "SeedsResult") -> None:
    """Show a row for each seed, then mean and standard deviation."""
    from cifarcnn.cli import table

    rows = [("mean", result.mean), ("std", result.std)]
    rows = [*((str(run.seed), vars(run)) for run in result.runs), *rows]
    forms = {"val_accuracy": ".2%", "val_loss": ".4f", "images_per_second": ",.0f"}
    table.show(
        {"seed": [name for name, _ in rows]}
        | {
            key: ["-" if figures[key] is None else format(figures[key], form) for _, figures in rows]
            for key, form in forms.items()
        }
    )
    click.echo(f"runs: {console.printable(str(result.directory))}")
