"""Training images as the network sees them, for people: the crops of a training with the same settings.

Those of epochs with smaller ``sides`` are shown before they are reduced.
"""

from pathlib import Path

import numpy as np

from cifarcnn import config
from cifarcnn.config import Settings
from cifarcnn.data import sources
from cifarcnn.data.cifar10 import Bytes, Images, stratified_subset
from cifarcnn.errors import CifarCNNError, UsageError
from cifarcnn.events import OnEvent, ignore
from cifarcnn.machine import files
from cifarcnn.training import pipeline

EPOCHS = 9
"""How many augmented forms of each image a sheet shows at most; no more than the training has epochs."""

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
    resolved = config.resolve(settings)
    train, _ = pipeline.divide(sources.load("train", data, on_event), resolved)
    from cifarcnn.figures import galleries

    sheet = augmented(train, resolved, min(count, len(train)), min(EPOCHS, resolved.epochs))
    try:
        galleries.augmented_sheet(sheet, path)
    except OSError as problem:
        raise CifarCNNError(
            f"cannot write {path}: {problem.strerror}; choose another with --output"
        ) from None
    return path


def augmented(train: Images, settings: Settings, count: int, epochs: int) -> Bytes:
    """Gather training images and their forms in a training's first epochs.

    Args:
        train: the images that are trained on.
        settings: of which ``seed``, ``augment``, ``shift`` and ``jitter`` count.
        count: how many images.
        epochs: how many forms of each.

    Returns:
        uint8, (count, 1 + epochs, 32, 32, 3): each image as it is, then as it is seen in each epoch.
    """
    chosen = stratified_subset(train.labels, np.arange(len(train)), count, settings.seed)
    forms = [train.images[chosen]]
    for epoch in range(epochs):
        picks = pipeline.picks_of_epoch(settings, len(train), epoch)
        # Where in the epoch each image comes.
        when = np.argsort(picks[:, 0])[chosen]
        forms.append(pipeline.crop(train.images, picks[when], settings.shift))
    return np.stack(forms, axis=1)
