"""``cifarcnn train``: train a network, or go on with a run. Its options are the fields of ``Settings``."""

import contextlib
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cifarcnn import config, console
from cifarcnn.commands.options import images_option, json_option, setting_options
from cifarcnn.events import ignore

if TYPE_CHECKING:
    from cifarcnn.repeats import SeriesResult
    from cifarcnn.training import TrainingResult


def _parse_seeds(_context: click.Context, _option: click.Parameter, text: str | None) -> list[int] | None:
    """Read "0,1,2"."""
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"{text!r} is no list of whole numbers; expected e.g. 0,1,2") from None


@click.command(epilog="Example: cifarcnn train --arch vgg3 --epochs 20 --seed 1")
@setting_options()
@images_option
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
@click.option(
    "--seeds",
    metavar="N,N,...",
    callback=_parse_seeds,
    help="Train once with each of these seeds; report mean and standard deviation.",
)
@click.option(
    "--repeat", metavar="N", type=click.IntRange(1, 1000), help="The same for seeds 0, 1, ... up to N - 1."
)
@json_option
@click.option("-q", "--quiet", is_flag=True, help="Say nothing on stderr but errors.")
def train(
    *,
    path: Path | None,
    settings_file: Path | None,
    out: Path,
    resume: Path | None,
    seeds: list[int] | None,
    repeat: int | None,
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
    several = [
        f"--{name}"
        for name, value in (("seeds", seeds), ("repeat", repeat), ("seed", settings["seed"]))
        if value is not None
    ]
    if len(several) > 1 or (resume is not None and (seeds or repeat)):
        raise click.UsageError(f"{several[0]} cannot be given with {(*several[1:], '--resume')[0]}")
    from cifarcnn import repeats, training
    from cifarcnn.training_display import TrainingDisplay

    result: TrainingResult | SeriesResult
    with contextlib.nullcontext(ignore) if quiet else TrainingDisplay() as on_event:
        if resume is not None and repeats.is_series(resume):
            if path is not None or any(value is not None for value in settings.values()):
                raise click.UsageError("several seeds are resumed as they were: give no setting to --resume")
            result = repeats.resume_seeds(resume, on_event=on_event)
        elif resume is not None:
            result = training.resume(resume, data=path, on_event=on_event, **settings)  # type: ignore[arg-type]
        elif seeds or repeat:
            del settings["seed"]
            result = repeats.train_seeds(
                seeds or range(repeat or 0),
                out=out, data=path, settings_file=settings_file, on_event=on_event, **settings,
            )  # fmt: skip
        else:
            result = training.train(
                out=out, data=path, settings_file=settings_file, on_event=on_event, **settings
            )
    if as_json:
        console.emit_json(result.as_document())
    elif isinstance(result, repeats.SeriesResult):
        _show_series(result)
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


def _show_series(result: "SeriesResult") -> None:
    """Show a row for each seed, then mean and standard deviation."""

    def row(name: str, accuracy: float | None, loss: float | None, speed: float | None) -> str:
        shown = ("-" if accuracy is None else f"{accuracy:.2%}", "-" if loss is None else f"{loss:.4f}",
                 "-" if speed is None else f"{speed:,.0f}")  # fmt: skip
        return f"{name:<6}{shown[0]:>12}{shown[1]:>10}{shown[2]:>11}"

    click.echo("seed  val_accuracy  val_loss   images/s")
    for run in result.runs:
        click.echo(row(str(run.seed), run.val_accuracy, run.val_loss, run.images_per_second))
    for name, figures in (("mean", result.mean), ("std", result.std)):
        click.echo(row(name, *(figures[key] for key in ("val_accuracy", "val_loss", "images_per_second"))))
    click.echo(f"runs: {result.directory}")
