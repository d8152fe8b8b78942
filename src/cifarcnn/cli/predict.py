"""``cifarcnn predict``: what pictures show, for people or as JSON, JSON lines or CSV."""

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cifarcnn.cli import answers, console
from cifarcnn.cli.options import complete_file, form_options, precision_option
from cifarcnn.data.images import DEFAULT_RESIZE, RESIZES, Resize

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cifarcnn.evaluation.precisions import Precision
    from cifarcnn.figures.sheet import Sheet
    from cifarcnn.prediction.predict import Outcome

MOST_THUMBNAILS = 24
"""A table of more pictures than this is wanted short."""


@click.command(epilog="Example: cifarcnn predict cat.png photos --recursive --output sheet.png")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, shell_complete=complete_file)
@click.option(
    "--model",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="A model file or a run directory. Default: $CIFARCNN_MODEL, else the model that comes with the "
    "program.",
)
@click.option(
    "--top-k",
    metavar="N",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="How many classes to name for each image, at most all.",
)
@click.option(
    "--resize",
    type=click.Choice(RESIZES),
    default=DEFAULT_RESIZE,
    show_default=True,
    help="How an image becomes 32x32; crop: its middle square; fit: all, on neutral ground; squash: all, out "
    "of proportion.",
)
@click.option(
    "--views",
    type=click.Choice(["1", "2", "4"]),
    default="4",
    show_default=True,
    help="Average over so many views. 2: the image and its mirror image; 4: both of the middle square as "
    "well; 1: exactly what evaluate counts.",
)
@precision_option
@click.option("--recursive", is_flag=True, help="Take the images in and below directories.")
@click.option(
    "--threshold",
    metavar="F",
    type=click.FloatRange(0, 1),
    help="Mark predictions of a lower probability as unsure. Default: mark none.",
)
@click.option(
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw a contact sheet of all images with their classes: a .png, .jpg or .webp file for every 40 "
    "images (FILE, FILE-2, ...), or one .pdf; it shows 1,000 images and says how many are left out. "
    "Replaces existing files.",
)
@click.option(
    "--explain",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Draw into DIR what mattered in each image, as NAME-explained.png: the image beside a heat map of "
    "where covering it makes the class less probable. Replaces existing files.",
)
@click.option("--no-thumbnails", is_flag=True, help="Draw no small images on a terminal that shows colours.")
@form_options("json", "jsonl", "csv")
@click.pass_context
def predict(
    context: click.Context,
    *,
    images: tuple[str, ...],
    model: Path | None,
    top_k: int,
    resize: Resize,
    views: str,
    precision: "Precision",
    recursive: bool,
    threshold: float | None,
    output: Path | None,
    explain: Path | None,
    no_thumbnails: bool,
    form: str | None,
) -> None:
    """Predict what images show.

    IMAGE is a file, a directory (with --recursive), a glob pattern in quotes, or - for standard input.
    Transparent images are laid over white; of an animation the first frame counts. An image that cannot be
    read does not stop the others, and makes the exit code 1.

    Where the model has a threshold, an image is marked as probably none of the classes if its probabilities
    are spread wider (by their entropy, 0 to 1) than those of 95% of the validation images. The mark misses
    many such images: its absence proves nothing.
    """
    from cifarcnn.prediction import predict as prediction

    if threshold is not None and math.isnan(threshold):
        raise click.BadParameter("expected a number from 0 to 1, but it is nan", param_hint="--threshold")
    if output:
        from cifarcnn.figures import sheet

        sheet.check(output)
    form = form or ("thumbnails" if not no_thumbnails and _shows_colours() else "table")
    # Predictions that appear on the terminal are progress enough.
    seen = form != "json" and console.stdout.is_terminal
    with console.Display(pictures=not seen) as on_event:
        predictions = prediction.predict(
            images,
            model=model,
            top_k=top_k,
            resize=resize,
            views=int(views),
            precision=precision,
            recursive=recursive,
            look=prediction.LOOK_TO_EXPLAIN if explain else prediction.LOOK_FOR_SHEET if output else None,
            on_event=on_event,
        )
        if output:
            sheet.check_apart(output, predictions.paths)
        stream: Iterator[Outcome] = iter(predictions)
        if explain:
            from cifarcnn.figures import explanation

            places = sheet.places(output, len(predictions.paths)) if output else ()
            explanation.check_apart(explain, predictions.paths, places)
            stream = explanation.drawn(stream, predictions.model, explain, resize)
        if output:
            title = console.printable(predictions.model.name)
            pages = sheet.Sheet(output, title, len(predictions.paths), top_k, threshold)
            stream = pages.drawn(stream)
        if form == "thumbnails" and len(predictions.paths) > MOST_THUMBNAILS:
            form = "table"
        failed = answers.WAYS[form](dataclasses.replace(predictions, stream=stream), threshold)
    if output:
        _tell_pages(pages)
    if failed:
        if form in ("table", "thumbnails"):
            console.note(f"{failed:,} of {len(predictions.paths):,} images could not be read")
        context.exit(1)


def _tell_pages(pages: "Sheet") -> None:
    """Say which files were written, and what is missing in them."""
    first, last = (console.printable(str(pages.written[place])) for place in (0, -1))
    console.note(f"wrote {first}" if first == last else f"wrote {first} to {last}")
    if pages.left_out:
        console.note(f"the sheet shows the first {pages.shown:,} images; {pages.left_out:,} are left out")


def _shows_colours() -> bool:
    """Whether stdout is a terminal wide enough that shows many colours and half blocks."""
    terminal = console.stdout
    return (
        terminal.is_terminal
        and not terminal.no_color
        and terminal.color_system in ("truecolor", "256")
        and terminal.encoding.startswith("utf")
        and terminal.width >= 60
    )
