"""``cifarcnn summary``: a network's layers, or all architectures in one table."""

from typing import TYPE_CHECKING, Any

import click
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from cifarcnn import architectures, config, console
from cifarcnn.commands.options import json_option

if TYPE_CHECKING:
    from cifarcnn.summaries import Summary


@click.command()
@click.argument("name", metavar="[ARCH|MODEL]", required=False)
@json_option
def summary(name: str | None, as_json: bool) -> None:
    """Show the layers of an architecture or of a model file, or, without a name, all architectures.

    FLOPs are counted per image: two for each multiply-accumulate of the convolutions and dense layers.
    """
    from cifarcnn import summaries

    if name is None:
        rows = summaries.overview()
        if as_json:
            console.emit_json({"schema": 1, "architectures": rows})
        else:
            _show_all(rows)
        return
    found = summaries.summarise(name)
    if as_json:
        console.emit_json(found.as_document())
        return
    _show_layers(found)
    if name in {row.name for row in architectures.ARCHITECTURES}:
        _show_recipes(summaries.recipes(name))


def _show_all(rows: "list[dict[str, Any]]") -> None:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("name")
    table.add_column("parameters", justify="right")
    table.add_column("MFLOPs", justify="right")
    table.add_column("layers and published result")
    for row in rows:
        cells = (row["name"], f"{row['params']:,}", f"{row['flops'] / 1e6:.1f}")
        table.add_row(*cells, f"{row['summary']} ({row['published']})")
    console.stdout.print(table)


def _show_layers(found: "Summary") -> None:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("layer")
    table.add_column("type")
    for heading in ("output", "parameters", "MFLOPs"):
        table.add_column(heading, justify="right")
    for layer in found.layers:
        shape = " x ".join(str(size) for size in layer.output_shape)
        flops = f"{layer.flops / 1e6:.2f}" if layer.flops else ""
        table.add_row(escape(layer.name), escape(layer.type), shape, f"{layer.params:,}", flops)
    console.stdout.print(table)
    click.echo(
        f"{console.printable(found.name)}: {found.params:,} parameters, {found.trainable_params:,} of them"
        f" trainable; {found.flops / 1e6:.1f} MFLOPs per image"
    )


def _show_recipes(recipes: "dict[str, dict[str, config.Value]]") -> None:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("setting")
    for recipe in recipes:
        table.add_column(recipe, justify="right")
    for setting in config.FIELDS:
        if setting not in ("arch", "recipe"):
            values = (recipe[setting] for recipe in recipes.values())
            table.add_row(setting, *("all" if value is None else f"{value}" for value in values))
    console.stdout.print()
    console.stdout.print(table)
