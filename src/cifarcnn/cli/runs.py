"""``cifarcnn runs``: all runs in one table, for people or as JSON or CSV."""

import csv
import functools
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.cells import cell_len
from rich.markup import escape

from cifarcnn import config
from cifarcnn.cli import console
from cifarcnn.cli.options import form_options

if TYPE_CHECKING:
    from cifarcnn.runs.listing import Listing, Row

NARROWEST_NAME = 20
COLOURS = {"running": "cyan", "interrupted": "yellow", "failed": "red", "damaged": "red"}


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
    images that differ in nothing but the seed are summed up below. Only settings and tables are read,
    also of runs that are being trained. What cannot be read gets its reason in its place, and makes the exit
    code 1.
    """
    from cifarcnn.runs import listing

    found = listing.gather(directories or (config.RUNS,), sort=sort)
    if form == "json":
        console.emit_json(found.as_document())
    elif form == "csv":
        _show_csv(found)
    else:
        show(found)
    if found.damaged:
        if form is None:
            console.note(f"{found.damaged:,} of {len(found.rows):,} could not be read")
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


@dataclass
class _Column:
    """A column of the table: its heading, its cells, and whether they stand to the left."""

    heading: str
    cells: list[str]
    left: bool = False

    @functools.cached_property
    def width(self) -> int:
        return max(map(cell_len, [self.heading, *self.cells]))

    def line(self, text: str) -> str:
        """Return a cell as wide as the column."""
        space = " " * (self.width - cell_len(text))
        return text + space if self.left else space + text


def show(found: "Listing", more: str | None = "--csv") -> None:
    """Print the table, and below it what the seeds came to, no wider than the terminal.

    Args:
        found: the runs.
        more: what shows all columns, to be named if some do not fit; None to say nothing of it.
    """
    if not found.rows:
        click.echo("no runs")
        return
    columns, left_out = _fit(_columns(found), console.stdout.width)
    console.stdout.print(
        escape("  ".join(column.line(column.heading) for column in columns).rstrip()), soft_wrap=True
    )
    for place, row in enumerate(found.rows):
        cells = [column.line(column.cells[place]) for column in columns]
        colour = COLOURS.get(row.state)
        reason = "" if row.reason is None else console.printable(" ".join(row.reason.split()))
        if row.state == "damaged":
            line = f"{escape(cells[0])}  [red]{escape(f'damaged: {reason}')}[/]"
        else:
            state = escape(row.state)
            line = escape("  ".join(cells[:-1])) + "  " + (f"[{colour}]{state}[/]" if colour else state)
            line += f"\n  [red]{escape(reason)}[/]" if reason else ""
        console.stdout.print(line, soft_wrap=True)
    same = [row.settings for row in found.rows if row.settings][:1]
    alike = [name for name in ("arch", "recipe", "seed") if name not in found.differing]
    if shared := [f"{name} {same[0][name]}" for name in alike if same]:
        click.echo(f"all: {', '.join(shared)}")
    _show_groups(found)
    if left_out and more:
        console.note(f"too wide for the terminal: {', '.join(left_out)}; {more} has every column")


def _columns(found: "Listing") -> list[_Column]:
    """Make every column that may be shown."""

    def figure(heading: str, name: str, form: str) -> _Column:
        values = [getattr(row, name) for row in found.rows]
        return _Column(heading, ["" if value is None else format(value, form) for value in values])

    def setting(name: str) -> _Column:
        values = [row.said(name) for row in found.rows]
        return _Column(name, [_brief(value) for value in values], left=isinstance(values[0], str))

    return [
        _Column("run", [console.printable(row.name) for row in found.rows], left=True),
        *(setting(name) for name in found.differing if name != "epochs"),
        _Column("epochs", [_epochs(row) for row in found.rows]),
        figure("best", "val_accuracy", ".2%"),
        figure("seconds", "seconds", ",.1f"),
        figure("images/s", "images_per_second", ",.0f"),
        _Column("state", ["" if row.state == "damaged" else row.state for row in found.rows], left=True),
    ]


def _epochs(row: "Row") -> str:
    return "" if row.epochs_done is None else f"{row.epochs_done}/{row.settings.get('epochs', '?')}"


def _brief(value: Any) -> str:
    if value is None:
        return ""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text.lower() if isinstance(value, bool) else text


def _fit(columns: list[_Column], width: int) -> tuple[list[_Column], list[str]]:
    """Leave columns out until the rest fits with names cut short; give the names what is free then."""
    name, *others = columns
    kept = ("epochs", "best", "state")
    settings = [column.heading for column in others if column.heading not in (*kept, "seconds", "images/s")]
    first = [heading for heading in ("arch", "seed", "recipe") if heading in settings]
    ranked = ["seconds", "images/s", *(heading for heading in reversed(settings) if heading not in first)]
    ranked += reversed(first)
    left_out: list[str] = []

    def free() -> int:
        return width - sum(column.width + 2 for column in others if column.heading not in left_out)

    while ranked and free() < min(name.width, NARROWEST_NAME):
        left_out.append(ranked.pop(0))
    room = max(free(), 8)
    short = _Column(name.heading, [_cut(cell, room) for cell in name.cells], left=True)
    return [short, *(column for column in others if column.heading not in left_out)], left_out


def _cut(text: str, width: int) -> str:
    """Take the middle out of a text that is too long."""
    if cell_len(text) <= width:
        return text
    tail = width // 3
    head = text[: width - tail - 1]
    while cell_len(head) + cell_len(text[len(text) - tail :]) > width - 1:
        head, tail = head[:-1], max(tail - 1, 0)
    return f"{head}…{text[len(text) - tail :]}"


def _show_groups(found: "Listing") -> None:
    """Print mean and deviation of the runs that differ in the seed alone, if there are such."""
    if all(len(group.runs) < 2 for group in found.groups):
        return
    console.stdout.print("\nvalidation accuracy of the best epochs over seeds, finished runs", soft_wrap=True)
    for group in found.groups:
        said = ", ".join(
            f"{name} {_brief(value)}" for name, value in group.settings.items() if value is not None
        )
        mean = "-" if group.mean is None else f"{group.mean:.2%}"
        std = "-" if group.std is None else f"{100 * group.std:.2f}"
        figures = f"n {group.n:>3}  mean {mean:>7}  std {std:>5}"
        room = max(console.stdout.width - len(figures) - 2, 8)
        console.stdout.print(
            escape(f"{figures}  {_cut(console.printable(said), room)}".rstrip()), soft_wrap=True
        )
