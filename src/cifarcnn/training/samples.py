"""A sheet of training images as the network sees them."""

from pathlib import Path

from cifarcnn import config
from cifarcnn.data import sources
from cifarcnn.errors import CifarCNNError, UsageError
from cifarcnn.events import OnEvent, ignore
from cifarcnn.machine import files
from cifarcnn.training import augment, setup

SHEET_EPOCHS = 9
"""How many augmented forms of each image a sheet shows at most."""

MOST_IMAGES = 100


def write_sheet(
    path: str | Path,
    *,
    count: int = 10,
    data: str | Path | None = None,
    on_event: OnEvent = ignore,
    **settings: config.Value,
) -> Path:
    """Draw some training images, and beside each what the network sees of it in the first epochs.

    Args:
        path: the PNG file to write.
        count: how many images to show, 1 to 100; from every class the same share.
        data: where the images are, as for ``train``.
        on_event: told where the images come from.
        **settings: as for ``train``.

    Returns:
        The file written.

    Raises:
        UsageError: a setting or the count is wrong, or there is no such directory to write to.
        DataError: the images cannot be had.
        CifarCNNError: the file cannot be written.
    """
    if not 1 <= count <= MOST_IMAGES:
        raise UsageError(f"cannot show {count} images on one sheet; expected 1 to {MOST_IMAGES}")
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise UsageError(f"cannot draw {path}; expected a name that ends in .png")
    files.check_place(path)
    from cifarcnn.figures import galleries

    explicit = {name for name, value in settings.items() if value is not None}
    images = sources.load("train", data, on_event)
    fitted = setup.fit_to_images(config.resolve(settings), images, explicit, None, ignore)
    train, _ = setup.divide(images, fitted)
    sheet = augment.augmented(train, fitted, min(count, len(train)), min(SHEET_EPOCHS, fitted.epochs))
    try:
        galleries.augmented_sheet(sheet, path)
    except OSError as problem:
        raise CifarCNNError(
            f"cannot write {path}: {problem.strerror}; choose another with --output"
        ) from None
    return path
