"""``cifarcnn summary``: a network's layers, or all architectures in one table."""

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from cifarcnn import architectures, config
from cifarcnn.cli import console
from cifarcnn.cli.options import complete_architecture, complete_file, json_option
from cifarcnn.expectations import Expectation
from cifarcnn.formatting import count, duration, percent

if TYPE_CHECKING:
    from cifarcnn.models.summaries import ExportSummary, Recipe, Summary

EXPECTED: dict[str, Callable[[Expectation], str]] = {
    "test accuracy": lambda expected: percent(expected.accuracy),
    "with views": lambda expected: percent(expected.flip_shift),
    "training time": lambda expected: duration(expected.train_seconds),
}
"""What to expect of a recipe, and how it is shown."""


def _complete(context: click.Context, argument: click.Parameter, begun: str) -> list[Any]:
    """Return the networks that begin so, or let the shell look for files."""
    return complete_architecture(context, argument, begun) or complete_file(context, argument, begun)


@click.command(epilog="Example: cifarcnn summary vgg2")
@click.argument("name", metavar="[ARCH|MODEL]", required=False, shell_complete=_complete)
@json_option
def summary(name: str | None, as_json: bool) -> None:
    """Show the layers of a network, or, without a name, all networks.

    ARCH is the name of an architecture, whose recipes are shown as well. MODEL is a .keras file or a run
    directory. Of a LiteRT file, and of 'pretrained', the model that comes with the program, it shows how it
    was made.

    FLOPs are counted per image: two for each multiply-accumulate of the convolutions and dense layers.
    """
    from cifarcnn.models import summaries

    if name is None:
        rows = summaries.overview()
        if as_json:
            console.emit_json({"schema": 1, "architectures": rows})
        else:
            _show_all(rows)
        return
    found = summaries.summarise(name)
    known = name in {row.name for row in architectures.ARCHITECTURES}
    if as_json:
        recipes = (
            {recipe: asdict(facts) for recipe, facts in summaries.recipes(name).items()} if known else {}
        )
        console.emit_json({**found.as_document(), **({"recipes": recipes} if known else {})})
        return
    if not isinstance(found, summaries.Summary):
        _show_export(found)
        return
    _show_layers(found)
    if known:
        _show_recipes(summaries.recipes(name))


def _show_all(rows: "list[dict[str, Any]]") -> None:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("name")
    table.add_column("parameters", justify="right")
    table.add_column("MFLOPs", justify="right")
    table.add_column("layers, published result, and what to expect")
    for row in rows:
        cells = (row["name"], f"{row['params']:,}", f"{row['flops'] / 1e6:.1f}")
        lines = [row["summary"] + (f" ({row['published']})" if row["published"] else "")]
        for recipe, expected in row["expected"].items():
            accuracy, time = percent(expected["accuracy"], 1), duration(expected["train_seconds"])
            lines.append(f"{recipe}: {accuracy} in {time}")
        table.add_row(*cells, "\n".join(lines))
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
        name, kind = (escape(console.printable(text)) for text in (layer.name, layer.type))
        table.add_row(name, kind, shape, f"{layer.params:,}", flops)
    console.stdout.print(table)
    click.echo(
        f"{console.printable(found.name)}: {found.params:,} parameters, {found.trainable_params:,} of them"
        f" trainable; {found.flops / 1e6:.1f} MFLOPs per image"
    )


def _show_export(found: "ExportSummary") -> None:
    """Print a line for each fact, those of a fact's own below it."""
    click.echo(f"{console.printable(found.name)}: a LiteRT model, without Keras layers")
    facts = {"bytes": f"{found.size:,}", "sha256": found.sha256, **found.metadata}
    for name, value in facts.items():
        if name in ("schema", "classes"):
            continue
        if isinstance(value, dict):
            click.echo(f"  {console.printable(name)}")
            for inner, fact in value.items():
                click.echo(f"    {console.printable(inner):<22} {_one_line(fact)}")
        else:
            click.echo(f"  {console.printable(name):<24} {_one_line(value)}")


def _one_line(value: Any) -> str:
    """Show a stored fact, whatever it is, on one line."""
    if isinstance(value, dict):
        return ", ".join(f"{console.printable(name)} {_one_line(fact)}" for name, fact in value.items())
    return console.printable(str(value))


def _show_recipes(recipes: "dict[str, Recipe]") -> None:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("setting")
    for recipe in recipes:
        table.add_column(recipe, justify="right")
    for setting in config.FIELDS:
        if setting not in ("arch", "recipe"):
            values = (getattr(recipe.settings, setting) for recipe in recipes.values())
            table.add_row(setting, *("all" if value is None else f"{value}" for value in values))
    table.add_section()
    table.add_row("PFLOP to train", *(f"{recipe.training_flops / 1e15:.3g}" for recipe in recipes.values()))
    for fact, show in EXPECTED.items():
        cells = [show(recipe.expected) if recipe.expected else "not measured" for recipe in recipes.values()]
        table.add_row(fact, *cells)
    console.stdout.print()
    console.stdout.print(table)
    for recipe, facts in recipes.items():
        if facts.expected:
            expected = facts.expected
            runs = count(expected.seeds, "run")
            click.echo(f"{recipe}: the mean of {runs} on {expected.hardware}, {expected.precision}")
