"""``cifarcnn runs``: all runs in one table, for people or as JSON or CSV."""

import csv
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cifarcnn import config
from cifarcnn.cli import console, table
from cifarcnn.cli.options import form_options

if TYPE_CHECKING:
    from cifarcnn.runs.listing import Group, Listing, Row

COLOURS = {"running": "cyan", "interrupted": "yellow", "failed": "red", "damaged": "red"}

LAST_LEFT_OUT = ("recipe", "seed", "arch")
"""Of the settings in which runs differ, those that are shown wherever they fit."""


def _complete_key(_context: click.Context, _option: click.Parameter, begun: str) -> list[str]:
    """Return what runs can be sorted by, as far as it begins so."""
    from cifarcnn.runs import listing

    return [key for key in listing.SORT_KEYS if key.startswith(begun)]


@click.command(epilog="Example: cifarcnn runs runs/lr --sort val_accuracy")
@click.argument("directories", metavar="[DIR]...", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--sort",
    metavar="KEY",
    shell_complete=_complete_key,
    default="name",
    show_default=True,
    help="By name, state, val_accuracy, seconds, images_per_second or a setting; the best or least first.",
)
@form_options("json", "csv")
@click.pass_context
def runs(context: click.Context, *, directories: tuple[Path, ...], sort: str, form: str | None) -> None:
    """Show all runs in one table, finished or not.

    Runs are looked for in each DIR and two levels of directories below it; default: ./runs. Those on the same
    images that differ in nothing but the seed are summed up below. Only settings and tables are read, also of
    runs that are being trained. A run that is damaged gets its reason, and makes the exit code 1; directories
    that hold no run are passed over.
    """
    from cifarcnn.runs import listing

    directories = directories or (Path(config.RUNS),)
    found = listing.gather(directories, sort=sort)
    if form == "json":
        console.emit_json(found.as_document())
    elif form == "csv":
        _show_csv(found)
    elif found.rows:
        _show(found)
    else:
        click.echo(f"no runs in {console.printable(', '.join(map(str, directories)))}")
    if found.damaged:
        if form is None:
            console.note(f"{found.damaged:,} of {len(found.rows):,} runs are damaged")
        context.exit(1)


def _show_csv(found: "Listing") -> None:
    """Write a row per run: its figures, then all settings."""
    from cifarcnn.runs.listing import Row

    writer = csv.writer(sys.stdout, lineterminator="\n")
    columns = [name for name in Row("", Path(), "").figures() if name != "epochs"]
    writer.writerow([*columns, *config.FIELDS])
    for row in found.rows:
        figures = row.figures()
        cells = [*(figures[name] for name in columns), *(row.settings.get(name) for name in config.FIELDS)]
        writer.writerow([console.text(cell) if isinstance(cell, str) else cell for cell in cells])


def _show(found: "Listing") -> None:
    """Print the table; below it reasons, what all runs have in common, and what the seeds came to."""
    rows = found.rows
    settings = [name for name in found.differing if name != "epochs"]
    left_out = table.show(
        {
            "run": [console.printable(row.name) for row in rows],
            **{name: [_brief(row.conditions().get(name)) for row in rows] for name in settings},
            "epochs": [_epochs(row) for row in rows],
            "accuracy": [_percent(row.val_accuracy) for row in rows],
            "seconds": ["" if row.seconds is None else f"{row.seconds:,.1f}" for row in rows],
            "images/s": [f"{row.images_per_second:,.0f}" if row.images_per_second else "" for row in rows],
            "state": [row.state for row in rows],
        },
        dispensable=[
            "seconds", "images/s", *(name for name in reversed(settings) if name not in LAST_LEFT_OUT),
            *LAST_LEFT_OUT,
        ],
        styles=[COLOURS.get(row.state, "") for row in rows],
    )  # fmt: skip
    for row in rows:
        if row.reason is not None:
            click.echo(console.printable(f"{row.name} is {row.state}: {' '.join(row.reason.split())}"))
    first = next((row.settings for row in rows if row.settings), {})
    alike = [name for name in ("arch", "recipe", "seed") if name in first and name not in found.differing]
    if alike:
        click.echo(f"all: {', '.join(f'{name} {first[name]}' for name in alike)}")
    if any(len(group.runs) > 1 for group in found.groups):
        click.echo("\nvalidation accuracy of the best epochs over seeds, finished runs")
        _show_groups(found.groups)
    if left_out:
        console.note(f"too wide for the terminal: {', '.join(left_out)}; --csv has every column")


def _show_groups(groups: "tuple[Group, ...]") -> None:
    """Print mean and standard deviation of the runs that differ in the seed alone."""
    for group in groups:
        mean = "-" if group.mean is None else f"{group.mean:.2%}"
        std = "-" if group.std is None else f"{100 * group.std:.2f}"
        settings = [f"{name} {_brief(value)}" for name, value in group.settings.items() if value is not None]
        line = f"n {group.n:>3}  {mean:>7} ± {std:>5}  {', '.join(settings)}"
        click.echo(console.printable(line.rstrip()))


def _epochs(row: "Row") -> str:
    return "" if row.epochs_done is None else f"{row.epochs_done}/{row.settings.get('epochs', '?')}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.2%}"


def _brief(value: Any) -> str:
    if value is None:
        return ""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text.lower() if isinstance(value, bool) else text
