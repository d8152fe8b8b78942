"""``cifarcnn import``: make a ``.keras`` file out of a model from elsewhere."""

import shlex
from pathlib import Path

import click

from cifarcnn.cli import console
from cifarcnn.cli.options import complete_architecture, json_option


@click.command("import", epilog="Example: cifarcnn import old.h5 --arch vgg3 --pixels 0-1 --output new.keras")
@click.argument("model", metavar="MODEL", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    metavar="NEW.keras",
    type=click.Path(path_type=Path),
    required=True,
    help="The .keras file to write.",
)
@click.option(
    "--arch",
    metavar="NAME",
    shell_complete=complete_architecture,
    help="The network that a file of weights alone belongs to; `cifarcnn summary` lists the names.",
)
@click.option(
    "--pixels",
    metavar="FORM",
    help="What its training did to pixels: 0-255 (nothing), 0-1 (division by 255), MEAN,STD over all "
    "channels or M,M,M,S,S,S for red, green and blue. Default: nothing, or what --arch does.",
)
@click.option("--force", is_flag=True, help="Replace what is there.")
@json_option
def import_(
    *, model: Path, output: Path, arch: str | None, pixels: str | None, force: bool, as_json: bool
) -> None:
    """Make a .keras file out of a model from elsewhere.

    MODEL is a .h5 or .hdf5 file of Keras 2 or 3, with its configuration or of weights alone, or a .keras file
    whose pixels are prepared outside it or that ends without a softmax. The configuration of weights alone
    may lie beside them as a .json file. Nothing of the file is run: it must consist of stock layers. What is
    written takes raw pixels, 0 to 255, and gives probabilities, as every command here expects.
    """
    from cifarcnn.models import importing

    result = importing.import_model(model, output, arch=arch, pixels=pixels, force=force)
    if as_json:
        console.emit_json(result.as_document())
        return
    name = console.printable(str(result.path))
    click.echo(f"{console.printable(str(model))}: {console.printable(result.found)}")
    for change in result.changes:
        click.echo(f"  {console.printable(change)}")
    click.echo(f"wrote {name}: {result.params:,} parameters, {len(result.classes)} classes")
    for warning in result.warnings:
        console.note(f"warning: {warning}")
    click.echo(f"next:  cifarcnn evaluate {shlex.quote(name)}")
