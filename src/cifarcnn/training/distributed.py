"""The devices that train: one, behind the interface that several have as well."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cifarcnn.config import Settings
from cifarcnn.errors import UsageError
from cifarcnn.events import Note, OnEvent
from cifarcnn.machine import backend
from cifarcnn.machine.devices import Choice
from cifarcnn.training import cluster as clusters
from cifarcnn.training.cluster import LONGEST_WAIT, Cluster

if TYPE_CHECKING:
    from cifarcnn.training.callbacks import StepCallback
    from cifarcnn.training.model import TrainingModel


class SingleDevice:
    """One device. Several have the same attributes and methods.

    Attributes:
        count: the number of devices, those of other workers included.
        is_chief: whether this process writes the run directory.
        chief_name: what to call the process that does.
        gathers: whether ``fit`` cuts the images out of what ``hold`` was given; else the model does.
    """

    count = 1
    is_chief = True
    chief_name = "this process"
    gathers = False

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which model and optimizer are made."""
        return contextlib.nullcontext()

    def explaining_errors(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context that turns the loss of a worker into one line."""
        return contextlib.nullcontext()

    def hold(self, images: npt.NDArray[np.uint8], margin: int) -> None:
        """Put the training images on every device that gathers."""

    def fit(
        self,
        model: "TrainingModel",
        crops: npt.NDArray[np.int32],
        targets: npt.NDArray[np.float32],
        batch_size: int,
        callback: "StepCallback",
    ) -> None:
        """Train on these crops in order, batch by batch, until they or the callback end it."""
        model.fit(**backend.feed(crops, targets, batch_size), callbacks=[callback], verbose=0)

    def broadcast(self, content: bytes) -> bytes:
        """Return the chief's content on every worker."""
        return content

    def any(self, flags: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Return for each flag whether it is set on any worker."""
        return flags

    def check_equal(self, model: "TrainingModel") -> None:
        """Raise RunError if the devices' weights differ."""

    def agree(self, settings: Settings, facts: Mapping[str, Any], *, resumed: bool) -> Settings:
        """Return the chief's settings on every worker; raise RunError if one would train differently."""
        del facts, resumed  # one device agrees with itself
        return settings


def find_cluster(*, alone: bool, wait: float) -> Cluster | None:
    """Return the workers that ``TF_CONFIG`` or SLURM say train together; None if this process trains alone.

    Raises:
        UsageError: the environment makes no sense, or the backend trains alone.
    """
    if not 0 < wait <= LONGEST_WAIT:
        raise UsageError(f"--wait is {wait:g}; expected seconds, above 0 and at most {LONGEST_WAIT}, a week")
    if alone or not clusters.expected(os.environ):
        return None
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    found = clusters.from_environment(os.environ)
    if found is not None:
        backend.need_tensorflow("several machines train together")
    return found


@contextlib.contextmanager
def connect(
    choice: Choice, cluster: Cluster | None, wait: float, on_event: OnEvent
) -> Iterator[SingleDevice]:
    """Join the devices of this machine and of the other workers.

    Args:
        choice: which devices of this machine.
        cluster: the other workers, None for this process alone.
        wait: seconds to wait for them.
        on_event: told what is waited for.
    """
    if cluster is None and choice.count == 1:
        yield SingleDevice()
        return
    from cifarcnn.training import joining, meeting

    if cluster is not None:
        names = f"{cluster.name(cluster.index)} waits up to {wait:g} s for all {len(cluster.workers)}"
        on_event(Note(names))
        meeting.compare(cluster, meeting.meet(cluster, {}, wait))
    yield joining.join(choice, cluster)
