"""What can be refused before a training begins because it does not suit the images or the hardware."""

from cifarcnn.config import Settings
from cifarcnn.data.cifar10 import Images
from cifarcnn.errors import UsageError
from cifarcnn.training import pipeline


def divide(images: Images, settings: Settings) -> tuple[Images, Images | None]:
    """Divide the images as ``pipeline.divide``, and refuse batches that they do not fill.

    Raises:
        UsageError: there are too few images.
    """
    train, validation = pipeline.divide(images, settings)
    if settings.batch_size > len(train):
        raise UsageError(
            f"batch_size is {settings.batch_size}, but there are {len(train)} training images;"
            f" give --batch-size {len(train)} or less"
        )
    return train, validation


def check_shares(settings: Settings, count: int) -> None:
    """Refuse batches that do not fall into equal shares.

    Raises:
        UsageError: the number of devices does not divide ``batch_size``, or ``micro_batch``.
    """
    name = "micro_batch" if settings.parts > 1 else "batch_size"
    images = getattr(settings, name)
    if rest := images % count:
        below, above = images - rest, images - rest + count
        raise UsageError(
            f"{name} is {images}, which {count} devices cannot share equally; expected"
            f" e.g. {' or '.join(str(size) for size in (below, above) if size)}"
        )
