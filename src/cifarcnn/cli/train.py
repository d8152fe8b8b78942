"""``cifarcnn train``: train a network, or go on with a run. Its options are the fields of ``Settings``."""

import contextlib
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from cifarcnn import config
from cifarcnn.cli import console
from cifarcnn.cli.options import images_option, json_option, setting_options
from cifarcnn.events import ignore
from cifarcnn.training import cluster
from cifarcnn.training.cluster import WAIT_SECONDS
from cifarcnn.wording import count

if TYPE_CHECKING:
    from cifarcnn.runs.sweep import Plan
    from cifarcnn.training.series import SeriesResult
    from cifarcnn.training.train import TrainingResult


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
    help="TOML file of settings, named as the options up to --seed are; an option on the command line wins."
    " With a table [grid] of lists, or tables [[run]], it spans many runs, which are trained one after the"
    " other in a directory of the file's name.",
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
    help="Go on with this run, exactly where it stopped; --epochs extends it.",
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
@click.option("--task", metavar="N", type=int, help="Train only the Nth of the runs that --config spans.")
@click.option(
    "--tasks", is_flag=True, help="List the runs that --config spans and their numbers; train nothing."
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
@click.option("-q", "--quiet", is_flag=True, help="Say nothing on stderr but errors.")
@click.pass_context
def train(
    context: click.Context,
    /,
    *,
    path: Path | None,
    settings_file: Path | None,
    out: Path,
    resume: Path | None,
    seeds: list[int] | None,
    repeat: int | None,
    task: int | None,
    tasks: bool,
    scale_batch: bool,
    alone: bool,
    wait: float,
    as_json: bool,
    quiet: bool,
    **settings: config.Value,
) -> None:
    """Train a network on the training images.

    Without an option it trains vgg2 by the fast recipe; the defaults below are what that is. Other networks
    and recipes have others (`cifarcnn summary ARCH` shows them); classic is its author's, as far as it was
    published. A validation split chooses the best epoch; the test images are not read.
    """
    if resume is not None and context.get_parameter_source("out") is ParameterSource.COMMANDLINE:
        raise click.UsageError("--out cannot be given with --resume: a resumed run stays where it is")
    one_of_several = _together(resume, settings_file, seeds, repeat, settings["seed"], task, tasks)
    from cifarcnn.cli.training_display import TrainingDisplay
    from cifarcnn.runs import sweep
    from cifarcnn.training import series, seriesdirectory

    seeds = seeds or list(range(repeat or 0))
    spanning = settings_file is not None and sweep.is_sweep_file(settings_file)
    if one_of_several and not spanning:
        raise click.UsageError(f"{one_of_several} needs --config with a file that has a [grid] or [[run]]")
    if tasks and settings_file is not None:
        plan = sweep.read(settings_file, settings, seeds)
        _show_tasks(plan, seriesdirectory.sweep_directory(settings_file, out), as_json)
        return
    several = spanning or bool(seeds) or (resume is not None and seriesdirectory.is_series(resume))
    company = _company(several, alone, wait, scale_batch, resume)
    with contextlib.nullcontext(ignore) if quiet else TrainingDisplay() as on_event:
        common: dict[str, Any] = {"data": path, "on_event": on_event, **company, **settings}
        if resume is not None:
            result = _resume(resume, common)
        elif spanning and settings_file is not None:
            result = _train_spanned(settings_file, task, {"seeds": seeds, "out": out, **common})
        else:
            result = _train_plain(seeds, {"settings_file": settings_file, "out": out, **common})
    if as_json:
        console.emit_json(result.as_document())
    elif isinstance(result, series.SeriesResult):
        _show_series(result, quiet)
    else:
        _show(result)
    if isinstance(result, series.SeriesResult) and result.failures:
        if quiet:  # else they were told when they happened
            for name, why in result.failures.items():
                console.note(f"failed: {name}: {why}")
        console.note(f"{len(result.failures)} of {len(result.failures) + len(result.runs)} runs failed")
        context.exit(1)


def _company(
    several: bool, alone: bool, wait: float, scale_batch: bool, resume: Path | None
) -> dict[str, Any]:
    """Return the arguments that say who trains together; several runs are trained by one process each."""
    if scale_batch and (several or resume is not None):
        why = "several were asked for" if resume is None else "a resumed one keeps its settings"
        raise click.UsageError(f"--scale-batch is for one new run; {why}")
    if not several:
        return {"alone": alone, "wait": wait, **({"scale_batch": True} if scale_batch else {})}
    if not alone and cluster.from_environment(os.environ) is not None:
        raise click.UsageError(
            "several runs are not trained by several machines in step; train them with --alone, or one run"
            " without"
        )
    return {}


def _resume(directory: Path, common: dict[str, Any]) -> "TrainingResult | SeriesResult":
    """Go on with one run, or with several in one directory."""
    from cifarcnn.training import series, seriesdirectory
    from cifarcnn.training.train import resume

    if not seriesdirectory.is_series(directory):
        return resume(directory, **common)
    place = {name: common.pop(name) for name in ("data", "on_event", *seriesdirectory.DEVICES)}
    if any(value is not None for value in common.values()):
        raise click.UsageError(
            "several runs are resumed as they were: give no setting to --resume but --device and --devices"
        )
    return series.resume_series(directory, **place)


def _train_spanned(file: Path, task: int | None, common: dict[str, Any]) -> "TrainingResult | SeriesResult":
    """Train the runs of a file, or one of them."""
    from cifarcnn.training import series

    if task is None:
        return series.train_sweep(file, **common)
    return series.train_task(file, task, **common)


def _train_plain(seeds: list[int], common: dict[str, Any]) -> "TrainingResult | SeriesResult":
    """Train once, or once for each seed."""
    from cifarcnn.training import series
    from cifarcnn.training.train import train as train_one

    if not seeds:
        return train_one(**common)
    del common["seed"]
    return series.train_seeds(seeds, **common)


def _together(
    resume: Path | None,
    settings_file: Path | None,
    seeds: list[int] | None,
    repeat: int | None,
    seed: config.Value,
    task: int | None,
    tasks: bool,
) -> str | None:
    """Refuse options that exclude each other; return the one of --task and --tasks that is given."""
    if resume is not None and settings_file is not None:
        raise click.UsageError("--config cannot be given with --resume: a resumed run keeps its settings")
    alternatives = (
        [("seeds", seeds), ("repeat", repeat), ("seed", seed)],
        [("task", task), ("tasks", tasks or None)],
    )
    said = [[f"--{name}" for name, value in choice if value is not None] for choice in alternatives]
    many = [option for options in said for option in options if option != "--seed"]
    for options in said:
        if len(options) > 1:
            raise click.UsageError(f"{options[0]} cannot be given with {options[1]}; choose one")
    if resume is not None and many:
        raise click.UsageError(f"{many[0]} cannot be given with --resume: a resumed run keeps its settings")
    return said[1][0] if said[1] else None


def _show_tasks(plan: "Plan", directory: Path, as_json: bool) -> None:
    """Show which runs a file spans."""
    if as_json:
        tasks = [
            {"task": number, "name": task.name, "settings": plan.said(task)}
            for number, task in enumerate(plan.tasks, 1)
        ]
        document = {"schema": 1, "directory": str(directory), "count": len(tasks), "tasks": tasks}
        console.emit_json(document)
        return
    click.echo(f"{count(len(plan.tasks), 'task')} in {console.printable(str(directory))}")
    for number, task in enumerate(plan.tasks, 1):
        click.echo(f"{number:>{len(str(len(plan.tasks)))}}  {task.name}")


def _show(result: "TrainingResult") -> None:
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
    model = console.printable(str(result.model))
    click.echo(f"model: {model}")
    click.echo(f"next:  cifarcnn evaluate {shlex.quote(model)}")


def _show_series(result: "SeriesResult", quiet: bool) -> None:
    """Show a row for each seed, then mean and standard deviation; or, where more differs, all the runs."""
    if len(result.groups) > 1:
        from cifarcnn.cli import runs
        from cifarcnn.runs import listing

        more = None if quiet else f"cifarcnn runs {shlex.quote(str(result.directory))} --csv"
        runs.show(listing.gather([result.directory]), more)
        click.echo(f"runs: {console.printable(str(result.directory))}")
        return

    def row(name: str, accuracy: float | None, loss: float | None, speed: float | None) -> str:
        shown = ("-" if accuracy is None else f"{accuracy:.2%}", "-" if loss is None else f"{loss:.4f}",
                 "-" if speed is None else f"{speed:,.0f}")  # fmt: skip
        return f"{name:<6}{shown[0]:>12}{shown[1]:>10}{shown[2]:>11}"

    click.echo("seed  val_accuracy  val_loss   images/s")
    for run in result.runs:
        click.echo(row(str(run.seed), run.val_accuracy, run.val_loss, run.images_per_second))
    (group,) = result.groups
    for name, figures in (("mean", group.mean), ("std", group.std)):
        click.echo(row(name, *(figures[key] for key in ("val_accuracy", "val_loss", "images_per_second"))))
    click.echo(f"runs: {console.printable(str(result.directory))}")
