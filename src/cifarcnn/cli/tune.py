"""``cifarcnn tune``: search for good settings."""

import contextlib
import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cifarcnn import config
from cifarcnn.cli import console, table
from cifarcnn.cli.options import images_option, json_option, quiet_option, setting_options
from cifarcnn.events import ignore
from cifarcnn.formatting import count

if TYPE_CHECKING:
    from cifarcnn.training.tune import TuneResult

SHOWN = 10
"""How many of the best trials the table has."""


@click.command(epilog="Example: cifarcnn tune --config tune.toml --trials 20 --out runs/tune")
@click.option(
    "--config",
    "settings_file",
    metavar="FILE",
    required=True,
    type=click.Path(path_type=Path),
    help="TOML file of settings for all trials, with a table [search] of what is tried.",
)
@click.option(
    "--out",
    metavar="DIR",
    required=True,
    type=click.Path(path_type=Path),
    help="Directory of the search, with a run directory for each trial.",
)
@click.option(
    "--trials",
    metavar="N",
    type=click.IntRange(min=1),
    help="Number of trials in all. Default: every combination of a grid, 20 where there are ranges.",
)
@click.option("--no-prune", is_flag=True, help="Train every trial to its end, however bad it is.")
@images_option
@setting_options(("device", "devices"))
@json_option
@quiet_option
@click.pass_context
def tune(
    context: click.Context,
    /,
    *,
    settings_file: Path,
    out: Path,
    trials: int | None,
    no_prune: bool,
    path: Path | None,
    as_json: bool,
    quiet: bool,
    **hardware: config.Value,
) -> None:
    """Search for the settings of the highest validation accuracy.

    A list in [search] is a choice, { low = 0.01, high = 0.3, log = true } a range, and
    { low = 2, high = 8, step = 2 } one in steps. With lists alone every combination is trained once; with
    ranges Optuna chooses. A trial that is worse than the median of the others after as many epochs is pruned.

    Start the command again, at the same time or later, on this machine or another with the same directory, to
    share the work, to go on after an interruption, or to have more trials.
    """
    from cifarcnn.cli.training_display import TrainingDisplay
    from cifarcnn.training.tune import tune

    with contextlib.nullcontext(ignore) if quiet else TrainingDisplay() as on_event:
        common: dict[str, Any] = {"out": out, "data": path, "on_event": on_event, **hardware}
        result = tune(settings_file, trials=trials, prune=not no_prune, **common)
    if as_json:
        console.emit_json(result.as_document())
    else:
        _show(result, path)
    if result.best is None:
        for trial in result.trials:
            if quiet and trial.reason:  # else it was told when it happened
                console.note(f"failed: {trial.run_dir.name}: {trial.reason}")
        console.note("no trial is finished")
        context.exit(1)


def _show(result: "TuneResult", data: Path | None) -> None:
    """Show the best trials, what mattered, and how to train the best."""
    ranked = sorted(result.trials, key=lambda trial: (trial.state != "finished", -(trial.val_accuracy or 0)))
    trials = ranked[:SHOWN]
    names = list(trials[0].settings)
    table.show(
        {
            "trial": [str(trial.number) for trial in trials],
            **{name: [_brief(trial.settings.get(name)) for trial in trials] for name in names},
            "accuracy": [
                "" if trial.val_accuracy is None else f"{trial.val_accuracy:.2%}" for trial in trials
            ],
            "state": [trial.state for trial in trials],
        },
        dispensable=names,
    )
    states = Counter(trial.state for trial in result.trials)
    told = ", ".join(f"{number} {state}" for state, number in states.items())
    click.echo(f"{count(len(result.trials), 'trial')}: {told}")
    if result.importance:
        shares = (f"{name} {share:.2%}" for name, share in result.importance.items())
        click.echo(f"importance: {', '.join(shares)}")
    if result.picture is not None:
        click.echo(f"picture: {console.printable(str(result.picture))}")
    if result.best is not None:
        click.echo(f"best:  {console.printable(str(result.best.run_dir))}")
        click.echo(f"train: {console.printable(_command({**result.shared, **result.best.settings}, data))}")


def _command(settings: dict[str, config.Value], data: Path | None) -> str:
    """Return what to type to train with these settings."""
    words = ["cifarcnn", "train"]
    for name, value in settings.items():
        option = config.option(name)
        if isinstance(value, bool):
            words.append(option if value else f"--no-{option.removeprefix('--')}")
        elif value is not None:
            words += [option, str(value)]
    return shlex.join([*words, *([] if data is None else ["--data", str(data)])])


def _brief(value: config.Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
