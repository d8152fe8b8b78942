"""What the library tells its caller while it works.

The library never prints. Functions that take long accept ``on_event``, a callable that receives the
objects below; the command line turns them into progress bars and lines on stderr, scripts may ignore them.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Note:
    """A choice or a fact the user should know: device, precision, data source, a mirror given up."""

    text: str


@dataclass(frozen=True)
class Transfer:
    """Progress of a download or conversion, in bytes."""

    name: str
    done: int
    total: int


@dataclass(frozen=True)
class PicturesDone:
    """Progress of prediction: how many of all pictures are done, readable or not."""

    done: int
    total: int


@dataclass(frozen=True)
class StepsDone:
    """Progress within a training epoch.

    ``loss`` and ``accuracy`` are means over the epoch so far. ``images_per_second`` is 0 until the network
    is compiled.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    accuracy: float
    images_per_second: float


@dataclass(frozen=True)
class EpochDone:
    """The figures of a finished training epoch; they stand in ``metrics.csv`` and ``timing.csv``."""

    epoch: int
    epochs: int
    loss: float
    accuracy: float
    val_loss: float | None
    val_accuracy: float | None
    learning_rate: float
    images_per_second: float
    seconds: float
    best: bool


Event = Note | Transfer | PicturesDone | StepsDone | EpochDone
OnEvent = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Do nothing: the default ``on_event``."""
