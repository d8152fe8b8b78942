"""``cifarcnn export``: write a trained network for LiteRT, ONNX Runtime or TensorFlow."""

import shlex
from pathlib import Path

import click

from cifarcnn.cli import console
from cifarcnn.cli.options import images_option, json_option
from cifarcnn.models.exporting import FORMATS


@click.command(epilog="Example: cifarcnn export runs/20261121-033456-vgg2-fast-seed0 --format litert --half")
@click.argument("model", metavar="MODEL", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(list(FORMATS)),
    required=True,
    help="For LiteRT (a .tflite file), ONNX Runtime (.onnx), or TensorFlow (a SavedModel directory).",
)
@click.option(
    "-o",
    "--output",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="Where to. Default: the name of MODEL with the format's ending, in the working directory.",
)
@click.option("--half", is_flag=True, help="Store the weights in float16: half the size (litert only).")
@click.option("--force", is_flag=True, help="Replace what is there.")
@images_option
@json_option
def export(
    *,
    model: Path,
    form: str,
    output: Path | None,
    half: bool,
    force: bool,
    path: Path | None,
    as_json: bool,
) -> None:
    """Write MODEL for another runtime.

    MODEL is a .keras file or a run directory, which stands for its best model; 'pretrained', the model that
    comes with the program, is a LiteRT file already. The result is asked about up to 500 training images;
    unless each of its probabilities is within 0.0001 of Keras's (with --half, before the weights are
    rounded), nothing is written. It takes raw pixels, 0 to 255, of any number of images, as the network does.
    `cifarcnn evaluate` and `predict` take a LiteRT file as a model.
    """
    from cifarcnn.models import exporting

    with console.Display() as on_event:
        result = exporting.export(
            model, form, output=output, half=half, data=path, force=force, on_event=on_event
        )
    if as_json:
        console.emit_json(result.as_document())
        return
    # The weights of a file that is copied are what it says itself.
    name, weights = console.printable(str(result.path)), console.printable(result.weights)
    click.echo(f"wrote {name}: {result.size:,} bytes for {FORMATS[form].runtime}, weights in {weights}")
    before = "before rounding, " if result.changed is not None else ""
    click.echo(
        f"largest difference from the original's probabilities, {before}{result.images:,} images: "
        f"{result.difference:.1e}"
    )
    if result.changed is not None:
        click.echo(
            f"rounding changes probabilities by up to {result.rounding_difference:.1e} and "
            f"{result.changed:.2%} of the predicted classes"
        )
    if form == "litert":
        click.echo(f"next:  cifarcnn evaluate {shlex.quote(name)}")
