"""What looks at a training after every call of the step function: it counts, reports, and may end it."""

import math
import signal
import time
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from cifarcnn.config import Settings
from cifarcnn.events import OnEvent, StepsDone
from cifarcnn.machine.signals import StopRequest
from cifarcnn.runs.progress import Progress

CHECKPOINT_SECONDS = 180
"""Within an epoch, save a checkpoint this often. An epoch's end always saves one."""


class Watcher(keras.callbacks.Callback):  # type: ignore[misc]
    """A callback for ``fit``. It keeps ``progress.step`` up to date, and the first loss that is no number."""

    def __init__(
        self, progress: Progress, settings: Settings, steps: int, stop: StopRequest, on_event: OnEvent
    ) -> None:
        super().__init__()
        self.progress, self.settings, self.steps = progress, settings, steps
        self.stop, self.on_event = stop, on_event
        self.begin = progress.step
        self.started = time.monotonic()
        self.warm: tuple[float, int] | None = None
        self.broken_loss: float | None = None
        self.granted: npt.NDArray[np.bool_] | None = None

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Note the step, and ask ``fit`` to stop if there is reason to."""
        now = time.monotonic()
        # Keras numbers the last step of a call as if every call made all its steps.
        self.progress.step = min(self.begin + batch + 1, self.steps)
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
                images_per_second=self.images_per_second(),
            )
        )
        if not math.isfinite(loss):
            self.broken_loss = loss
        asked = self.wishes() if self.granted is None else self.granted
        if self.broken_loss is not None or asked.any():
            self.model.stop_training = True

    def wishes(self) -> npt.NDArray[np.bool_]:
        """Return whether SIGINT, SIGTERM or a checkpoint that is due would have this process end ``fit``."""
        due = time.monotonic() - self.started > CHECKPOINT_SECONDS
        received = self.stop.received
        return np.array([received == signal.SIGINT, received == signal.SIGTERM, due])

    def grant(self, wishes: npt.NDArray[np.bool_]) -> None:
        """Go by what any of several processes wished for before the step, so that all end after the same."""
        self.granted = wishes

    @property
    def timed_images(self) -> int:
        """How many images passed since the end of the first call, which includes compilation."""
        return 0 if self.warm is None else (self.progress.step - self.warm[1]) * self.settings.batch_size

    def timed_seconds(self) -> float:
        """Return the time that has passed since then."""
        return 0.0 if self.warm is None else time.monotonic() - self.warm[0]

    def images_per_second(self) -> float:
        """Return the speed since then; 0 if there was but one call."""
        return self.timed_images / self.timed_seconds() if self.timed_images else 0.0
