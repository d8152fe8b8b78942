"""What looks at a training after every call of the step function, and the log that TensorBoard reads."""

import math
import shutil
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from cifarcnn.config import Settings
from cifarcnn.events import OnEvent, StepsDone
from cifarcnn.machine.signals import STOPPING, StopRequest
from cifarcnn.runs.progress import Progress

CHECKPOINT_SECONDS = 180
"""Within an epoch, save a checkpoint this often. An epoch's end always saves one."""

SCALARS = ("loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "images_per_second")


def stop_flags(stop: StopRequest) -> npt.NDArray[np.bool_]:
    """Return for each signal that stops a training whether it came."""
    return np.array([stop.received == number for number in STOPPING])


def received_signal(flags: npt.NDArray[np.bool_]) -> int | None:
    """Return the signal that such flags, of one worker or of several, stand for."""
    return next((int(number) for number, flag in zip(STOPPING, flags, strict=True) if flag), None)


class StepCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Counts and reports the steps of a ``fit``, and ends it at a signal, a bad loss or a due checkpoint.

    Args:
        progress: its ``step`` is kept up to date.
        settings: of the training.
        steps: of an epoch.
        stop: where a signal is noted.
        on_event: told of every call.

    Attributes:
        bad_loss: the first loss that is not finite.
        agreed: what any of several workers asked for before the step; set by their ``fit``, so that all end
            after the same step.
    """

    def __init__(
        self, progress: Progress, settings: Settings, steps: int, stop: StopRequest, on_event: OnEvent
    ) -> None:
        super().__init__()
        self.progress, self.settings, self.steps = progress, settings, steps
        self.stop, self.on_event = stop, on_event
        self.first = progress.step
        self.started = time.monotonic()
        self.warm: tuple[float, int] | None = None
        self.bad_loss: float | None = None
        self.agreed: npt.NDArray[np.bool_] | None = None

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Note the step, and ask ``fit`` to stop if there is reason to."""
        now = time.monotonic()
        # Keras numbers the last step of a call as if every call made all its steps.
        self.progress.step = min(self.first + batch + 1, self.steps)
        if self.warm is None:
            self.warm = now, self.progress.step
        loss, accuracy = (float((logs or {})[name]) for name in ("loss", "accuracy"))
        self.on_event(
            StepsDone(
                epoch=self.progress.epoch + 1,
                epochs=self.settings.epochs,
                step=self.progress.step,
                steps=self.steps,
                loss=loss,
                accuracy=accuracy,
                images_per_second=self.timed_images / self.timed_seconds() if self.timed_images else 0.0,
            )
        )
        if not math.isfinite(loss):
            self.bad_loss = loss
        flags = self.stop_flags() if self.agreed is None else self.agreed
        if self.bad_loss is not None or flags.any():
            self.model.stop_training = True

    def stop_flags(self) -> npt.NDArray[np.bool_]:
        """Return whether this process has reason to end ``fit``: each signal, and a due checkpoint."""
        due = time.monotonic() - self.started > CHECKPOINT_SECONDS
        return np.append(stop_flags(self.stop), due)

    @property
    def timed_images(self) -> int:
        """How many images passed since the end of the first call, which includes compilation."""
        return 0 if self.warm is None else (self.progress.step - self.warm[1]) * self.settings.batch_size

    def timed_seconds(self) -> float:
        """Return the time that has passed since then."""
        return 0.0 if self.warm is None else time.monotonic() - self.warm[0]


class TensorBoardLog:
    """An event file below ``directory``, begun anew from ``rows`` so that no epoch stands in it twice.

    TensorBoard's ``EventFileWriter`` writes in a thread, which prints a traceback when the disk is full. This
    one writes at once, and raises OSError.
    """

    def __init__(self, directory: Path, rows: Sequence[Mapping[str, Any]]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(exist_ok=True)
        file = open(directory / f"events.out.tfevents.{time.time():.0f}", "wb", buffering=0)  # noqa: SIM115
        self._writer = RecordWriter(file)
        self._writer.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
        for row in rows:
            self.add(row)

    def add(self, row: Mapping[str, Any]) -> None:
        """Add the scalars of one epoch."""
        found = {name: float(row[name]) for name in SCALARS if row.get(name) is not None}
        self._write([{"tag": name, "simple_value": value} for name, value in found.items()], row["epoch"])

    def add_image(self, tag: str, png: bytes, step: int) -> None:
        """Add a picture, the content of a PNG file, under a name that it shares with its successors."""
        # The header of a PNG file begins with its size.
        width, height = struct.unpack(">II", png[16:24])
        image = {"height": height, "width": width, "encoded_image_string": png}
        self._write([{"tag": tag, "image": image}], step)

    def _write(self, values: list[dict[str, Any]], step: int) -> None:
        """Write one event."""
        from tensorboard.compat.proto.event_pb2 import Event

        event = Event(wall_time=time.time(), step=step, summary={"value": values})
        self._writer.write(event.SerializeToString())

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()
