"""The training loop: epochs, validation, the best model, checkpoints, and the ways it can end.

``fit`` is called once an epoch, on that epoch's picks. Everything between two calls is derived from the
settings, the epoch's number and the checkpointed variables, so a training can stop after any step and go on
as if it had not. The public functions stand in ``training`` and ``resumption``.
"""

import contextlib
import dataclasses
import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

import numpy as np
import numpy.typing as npt

from cifarcnn import architectures, metrics
from cifarcnn.config import side_of_epoch
from cifarcnn.data.cifar10 import CLASSES
from cifarcnn.errors import Interrupted, RunError
from cifarcnn.evaluation import ood
from cifarcnn.events import EpochDone, OnEvent
from cifarcnn.figures import presentation
from cifarcnn.machine import backend
from cifarcnn.machine.signals import StopRequest
from cifarcnn.models import modelfile
from cifarcnn.runs import run
from cifarcnn.runs.progress import Progress
from cifarcnn.runs.run import Checkpoint, RunDirectory
from cifarcnn.training import assembly, pipeline, schedules
from cifarcnn.training.assembly import Setup
from cifarcnn.training.tensorboard_log import TensorBoardLog
from cifarcnn.training.watcher import Watcher

if TYPE_CHECKING:
    from cifarcnn.training.replicas import Replicas

REDRAW_SECONDS = 5
"""Draw the pictures this long after the start or the last ones, and at the end; it takes 0.4 s of a core."""


class Training:
    """One training in progress. Making one builds the network; nothing is written before ``run``."""

    directory: RunDirectory
    log: TensorBoardLog

    def __init__(self, setup: Setup, on_event: OnEvent, checkpoint: Checkpoint | None = None) -> None:
        settings = setup.settings
        self.setup, self.on_event, self.replicas = setup, on_event, setup.replicas
        self.writes = self.replicas is None or self.replicas.chief
        self.batch_size = settings.batch_size
        self.steps = len(setup.train) // self.batch_size
        self.progress = checkpoint.progress if checkpoint else Progress()
        self.targets = assembly.one_hot(setup.train.labels, settings.label_smoothing)
        self.rates = schedules.learning_rates(settings, self.steps)
        self.pair = assembly.build(setup, self.rates)
        if checkpoint:
            assembly.restore(self.pair, checkpoint)
        self.resumed_settings = checkpoint.settings if checkpoint else None
        self.answers: npt.NDArray[np.float32] | None = None
        self.drawn, self.drawn_epoch = time.monotonic(), self.progress.epoch

    def run(self, directory: RunDirectory | None) -> None:
        """Train until the last epoch, or until patience, a signal or a fault ends it.

        Args:
            directory: where everything is saved; locked by the caller. None for a worker that is not the
                chief, which writes nothing and is told the chief's.

        Raises:
            Interrupted: a signal came; the state after the last step is saved.
            RunError: the loss is no number any more, or the directory cannot be written.
        """
        self.directory = self._share(directory) if directory is None or self.setup.cluster else directory
        with StopRequest() as stop, contextlib.ExitStack() as stack:
            if self.writes:
                self._begin()
                stack.enter_context(contextlib.closing(self.log))
            while not self.progress.finished(self.setup.settings):
                self._stop_if(self._asked(stop))
                speed = self._train_epoch(stop)
                self._finish_epoch(speed)
            if self.drawn_epoch != self.progress.epoch:
                self._redraw()
            if (received := self._asked(stop)) is not None:
                again = run.resume_command(self.directory.path)
                raise Interrupted(
                    f"stopped after the last epoch; saved; make its report with: {again}", 128 + received
                )

    def _share(self, directory: RunDirectory | None) -> RunDirectory:
        """Let all workers begin where the chief does, and know its directory."""
        broadcast = cast("Replicas", self.replicas).broadcast
        document: Any = None
        if directory is not None:
            document = {"directory": str(directory.path), "progress": dataclasses.asdict(self.progress)}
        document = json.loads(broadcast(json.dumps(document).encode()))
        if directory is None:
            self.progress = Progress(**document["progress"])
            self.drawn_epoch = self.progress.epoch
        if self.progress.epoch or self.progress.step:
            for variable in self.pair.state():
                value = np.asarray(variable)
                chiefs = np.frombuffer(broadcast(value.tobytes()), value.dtype)
                variable.assign(chiefs.reshape(value.shape))
        return RunDirectory(Path(document["directory"]))

    def _begin(self) -> None:
        """Make the run resumable, and an extended one remember its new end; open the log."""
        directory, settings = self.directory, self.setup.settings
        if settings != self.resumed_settings:
            self._save()
        directory.describe(settings, self.setup.facts, self.setup.data)
        with run.saving(directory.path):
            # What an extended run had is of its shorter self; at the end there is another.
            directory.report.unlink(missing_ok=True)
            modelfile.keep_best(directory, self.progress)
            self.log = TensorBoardLog(directory.tensorboard, self.progress.rows)

    def _asked(self, stop: StopRequest) -> int | None:
        """Return the signal that came, here or at another worker."""
        return self.replicas.agree(stop.received) if self.replicas else stop.received

    def _stop_if(self, received: int | None) -> None:
        """Raise if a signal came. All is saved whenever this is called."""
        if received is not None:
            raise Interrupted(
                f"stopped in epoch {self.progress.epoch + 1} after step {self.progress.step} of {self.steps};"
                f" saved; go on with: {run.resume_command(self.directory.path)}",
                128 + received,
            )

    def _train_epoch(self, stop: StopRequest) -> float:
        """Train to the end of the epoch under way, saving on the way if it is long; return images/s."""
        settings, progress = self.setup.settings, self.progress
        picks = pipeline.picks_of_epoch(settings, len(self.setup.train), progress.epoch)
        picks = picks[: self.steps * self.batch_size]
        if architectures.find(settings.arch).any_side:
            self.pair.train_at(side_of_epoch(settings)[progress.epoch])
        timed_images, timed_seconds = 0, 0.0
        while progress.step < self.steps:
            rest = picks[progress.step * self.batch_size :]
            watcher = Watcher(progress, settings, self.steps, stop, self.on_event)
            self.pair.twin.within_epoch = progress.step > 0
            targets = self.targets[rest[:, 0]]
            if self.replicas:
                self.replicas.fit(self.pair.twin, rest, targets, self.batch_size, watcher)
            else:
                batches = backend.feed(rest, targets, self.batch_size)
                self.pair.twin.fit(**batches, callbacks=[watcher], verbose=0)
            seconds = time.monotonic() - watcher.started
            progress.seconds += seconds
            progress.epoch_seconds += seconds
            timed_images += watcher.timed_images
            timed_seconds += watcher.timed_seconds()
            if watcher.broken_loss is not None:
                self._fail(f"the loss became {watcher.broken_loss}")
            asked = self._asked(stop)
            if progress.step < self.steps or asked is not None:
                self._save()
            self._stop_if(asked)
        return timed_images / timed_seconds if timed_images else 0.0

    def _finish_epoch(self, images_per_second: float) -> None:
        """Measure the epoch, keep its model, and save."""
        started = time.monotonic()
        progress = self.progress
        results = self.pair.twin.get_metrics_result()
        if self.replicas:
            self.replicas.check_equal(self.pair.twin)
        self.pair.update_stock()
        val_loss, val_accuracy = self._validate()
        # The loss of the last step was measured before its update.
        finite = all(np.isfinite(weights).all() for weights in self.pair.stock.get_weights())
        if not finite or not math.isfinite(val_loss or 0):
            self._fail("the network's weights or its validation loss are no finite numbers any more")
        epoch = progress.epoch + 1
        row: dict[str, Any] = {
            "epoch": epoch,
            "loss": float(results["loss"]),
            "accuracy": float(results["accuracy"]),
            "val_loss": val_loss,
            "val_accuracy": val_accuracy,
            "learning_rate": float(self.rates[epoch * self.steps - 1]),
            "seconds": progress.epoch_seconds,
            "images_per_second": images_per_second,
        }
        best = progress.complete(row, self.setup.settings.val_size)
        if self.writes:
            with run.saving(self.directory.path):
                modelfile.save(self.pair.stock, self.directory.last, self._metadata(row))
                self.log.add(row)
        progress.seconds += time.monotonic() - started
        self._save()
        if self.writes:
            with run.saving(self.directory.path):
                modelfile.keep_best(self.directory, progress)
        self.on_event(EpochDone(**row, epochs=self.setup.settings.epochs, best=best))
        if started - self.drawn > REDRAW_SECONDS:
            self._redraw()

    def _validate(self) -> tuple[float | None, float | None]:
        """Return the stock network's loss and accuracy on the validation images, as ``evaluate`` has them."""
        images = self.setup.validation
        if images is None:
            return None, None
        found = b""
        if self.writes:
            model = modelfile.Model(self.directory.last, {}, self.pair.stock)
            self.answers = model.probabilities(images.images)
            loss = float(metrics.losses(self.answers, images.labels).mean())
            found = json.dumps([loss, float((self.answers.argmax(axis=1) == images.labels).mean())]).encode()
        # Other processors would round otherwise, but all workers must take the same decisions.
        loss, accuracy = json.loads(self.replicas.broadcast(found) if self.replicas else found)
        return loss, accuracy

    def _redraw(self) -> None:
        """Renew the pictures, in the run directory and in TensorBoard's log."""
        if not self.writes:
            return
        progress, images = self.progress, self.setup.validation
        with run.saving(self.directory.path):
            pictures = presentation.redraw(
                self.directory, progress.rows, self.answers, None if images is None else images.labels
            )
            for name, path in pictures.items():
                self.log.add_image(name, path.read_bytes(), progress.epoch)
        self.drawn, self.drawn_epoch = time.monotonic(), progress.epoch

    def _metadata(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return what is to be known about the model of this epoch."""
        settings = self.setup.settings
        calibration: dict[str, float] = {}
        if self.answers is not None and self.setup.validation is not None:
            scores = metrics.log_probabilities(self.answers)
            temperature = metrics.fit_temperature(scores, self.setup.validation.labels)
            calibration["temperature"] = temperature
            calibrated = metrics.apply_temperature(self.answers, temperature)
            calibration[ood.KEY] = ood.fit_limit(calibrated)
        return {
            **calibration,
            "schema": 1,
            "arch": settings.arch,
            "recipe": settings.recipe,
            "seed": settings.seed,
            "val_size": settings.val_size,
            "train_size": settings.train_size,
            "classes": list(CLASSES),
            "epoch": row["epoch"],
            "epochs": settings.epochs,
            "val_accuracy": row["val_accuracy"],
            "val_loss": row["val_loss"],
            "facts": self.setup.facts,
        }

    def _save(self) -> None:
        """Save everything on which the rest depends, then the tables drawn from it."""
        if not self.writes:
            return
        variables = [np.asarray(variable) for variable in self.pair.state()]
        self.directory.save_checkpoint(
            Checkpoint(self.setup.settings, self.setup.facts, self.setup.data, self.progress, variables)
        )
        self.directory.write_tables(self.progress.rows)

    def _fail(self, what: str) -> NoReturn:
        """End a training that has diverged. Nothing of the diverged state is saved."""
        settings, progress = self.setup.settings, self.progress
        kept = "no epoch was completed"
        if progress.best_epoch:
            kept = f"the model of epoch {progress.best_epoch} is kept as {self.directory.best}"
        other = "" if settings.precision == "float32" else " or --precision float32"
        raise RunError(
            f"{what} in epoch {progress.epoch + 1} at step {progress.step}; {kept};"
            f" try a new run with --learning-rate {settings.learning_rate / 10:g}{other}"
        )
