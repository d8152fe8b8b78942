"""Tables on stdout, no wider than the terminal."""

from collections.abc import Mapping, Sequence

import click
from rich.table import Table
from rich.text import Text

from cifarcnn.cli import console

NARROWEST_NAME = 20


def show(
    columns: Mapping[str, Sequence[str]], *, dispensable: Sequence[str] = (), styles: Sequence[str] = ()
) -> list[str]:
    """Print a table.

    Args:
        columns: heading and cells of each; the first holds names, which are cut short where they must be.
        dispensable: headings of columns that are left out, one after the other, until the rest fits.
        styles: of the last column's cells.

    Returns:
        the headings of the columns that were left out.
    """
    (heading, names), *rest = columns.items()
    others, left_out = dict(rest), []
    widest = max(Text(name).cell_len for name in (heading, *names))
    wanted = [name for name in dispensable if name in others]
    while (room := console.stdout.width - 2 - _width(others)) < min(widest, NARROWEST_NAME) and wanted:
        left_out.append(wanted.pop(0))
        del others[left_out[-1]]
    table = _make({heading: names, **others}, styles)
    table.columns[0].justify, table.columns[0].max_width = "left", max(room, 8)
    # On a terminal too narrow for what is left, lines are wrapped and nothing is lost.
    width = max(console.stdout.width, 10 + _width(others))
    with console.stdout.capture() as captured:
        console.stdout.print(table, width=width, crop=False, soft_wrap=True)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())
    return left_out


def _width(columns: Mapping[str, Sequence[str]]) -> int:
    return console.stdout.measure(_make(columns)).maximum if columns else 0


def _make(columns: Mapping[str, Sequence[str]], styles: Sequence[str] = ()) -> Table:
    """Make a table: words to the left, numbers to the right, everything as it stands there."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for heading, cells in columns.items():
        words = any(cell[:1].isalpha() for cell in cells)
        table.add_column(Text(heading), justify="left" if words else "right", no_wrap=True)
    for place, row in enumerate(zip(*columns.values(), strict=True)):
        style = styles[place] if styles else ""
        table.add_row(*map(Text, row[:-1]), Text(row[-1], style=style))
    return table
