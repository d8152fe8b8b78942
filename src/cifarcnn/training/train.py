"""Train a network: the public functions ``train`` and ``resume``, and the ``Trainer`` behind both.

Read ``Trainer.fit`` first. Keras's ``fit`` is called once an epoch, on that epoch's crops; everything between
two calls follows from the settings, the epoch's number and the checkpointed variables, so a training can stop
after any step and go on as if it had not.
"""

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt

from cifarcnn import architectures, config, metrics
from cifarcnn.config import Settings
from cifarcnn.errors import CifarCNNError, Interrupted, RunError, first_line
from cifarcnn.evaluation import ood
from cifarcnn.events import EpochDone, Event, Note, OnEvent, StepsDone, ignore
from cifarcnn.figures import presentation
from cifarcnn.formatting import count
from cifarcnn.machine.signals import StopRequest
from cifarcnn.models import modelfile
from cifarcnn.runs import run
from cifarcnn.runs.progress import Progress, images_per_second
from cifarcnn.runs.run import Checkpoint, RunDirectory
from cifarcnn.training import augment, distributed
from cifarcnn.training.cluster import WAIT_SECONDS, Cluster
from cifarcnn.training.setup import Setup, prepare, resumed_settings, with_arch

if TYPE_CHECKING:
    from cifarcnn.training.callbacks import TensorBoardLog

REDRAW_SECONDS = 5
"""Draw the pictures this long after the start or the last ones, and at the end; it takes 0.4 s of a core."""


@dataclass(frozen=True)
class TrainingResult:
    """How a training ended.

    Attributes:
        run_dir: the run directory.
        model: the best model's file in it.
        epochs: how many were completed.
        best_epoch: the epoch of the best model, counted from 1; see ``runs.progress.best_row``.
        val_accuracy, val_loss: of that epoch; None without validation images.
        train_seconds: time of the steps, of validation, and of saving each epoch's model; not of starting,
            checkpoints and pictures.
        images_per_second: training images per second of the steps, compilation excluded; None of a training
            of so few steps that there is nothing left.
        device, precision: what was computed on, and in which numeric precision.
    """

    run_dir: Path
    model: Path
    arch: str
    recipe: str
    seed: int
    epochs: int
    best_epoch: int
    val_accuracy: float | None
    val_loss: float | None
    train_seconds: float
    images_per_second: float | None
    device: str
    precision: str

    def as_document(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        paths = {"run_dir": str(self.run_dir), "model": str(self.model)}
        return {"schema": 1, **dataclasses.asdict(self), **paths}


def train(
    *,
    out: str | Path = config.RUNS,
    data: str | Path | None = None,
    settings_file: str | Path | None = None,
    alone: bool = False,
    wait: float = WAIT_SECONDS,
    scale_batch: bool = False,
    on_event: OnEvent = ignore,
    **settings: config.Value,
) -> TrainingResult:
    """Train a network on the training images, and keep the best model by the validation images.

    The test images are not read. Where ``TF_CONFIG`` or SLURM says that this process is one of several, they
    train in step; the first writes the run directory.

    Args:
        out: where the run directory is made.
        data: the data set's directory or archive; else it is looked for and, if need be, fetched.
        settings_file: a TOML file of settings.
        alone: train in this process alone whatever the environment says.
        wait: seconds to wait for the other processes.
        scale_batch: multiply batch size and learning rate by the number of devices.
        on_event: told what happens; see ``cifarcnn.events``.
        **settings: fields of ``cifarcnn.Settings``; they win over the file.

    Raises:
        UsageError: a setting is wrong.
        DataError: the data set cannot be had.
        RunError: the training failed; what was saved is kept.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP; the training can be resumed.

    Example:
        >>> result = cifarcnn.train(arch="vgg2", epochs=1)
        >>> result.model
        PosixPath('runs/20261121-101500-vgg2-fast-seed0/best.keras')
    """
    overrides = with_arch(config.merged(settings_file, settings))
    resolved = config.resolve(overrides)
    cluster = distributed.find_cluster(alone=alone, wait=wait)
    return start(
        resolved,
        lambda: RunDirectory.create(Path(out), resolved),
        data,
        on_event,
        explicit=overrides.keys(),
        cluster=cluster,
        wait=wait,
        scale_batch=scale_batch,
    )


def start(
    settings: Settings,
    make_directory: Callable[[], RunDirectory],
    data: str | Path | None,
    on_event: OnEvent,
    **options: Any,
) -> TrainingResult:
    """Train from the beginning, in a directory that is made as soon as there is something to save.

    ``options`` are those of ``setup.prepare``.
    """
    on_event = _events_for_worker(options.get("cluster"), on_event)
    with prepare(settings, data, on_event, **options) as setup, contextlib.ExitStack() as stack:
        trainer = Trainer(setup, on_event)
        directory = None
        if setup.devices.is_chief:
            directory = make_directory()
            on_event(Note(f"run directory: {directory.path}"))
            stack.enter_context(directory.locked())
            if directory.resumable():
                raise RunError(f"another process has begun {str(directory.path)!r}; start this one again")
        return trainer.run(directory)


def resume(
    run_dir: str | Path,
    *,
    epochs: int | None = None,
    data: str | Path | None = None,
    alone: bool = False,
    wait: float = WAIT_SECONDS,
    on_event: OnEvent = ignore,
    **settings: config.Value,
) -> TrainingResult:
    """Go on with a run that ended for any reason.

    On a CPU the end result equals, bit for bit, that of the run had it not been interrupted. Of several
    workers the chief reads the run directory, and hands to the others what they need.

    Args:
        run_dir: the run directory.
        epochs: a new number of epochs in all, to extend (or shorten) the run.
        data: where the data set is, if it is neither where it was nor found by itself.
        alone, wait, on_event: as for ``train``.
        **settings: must equal the run's own, if given; but ``device`` and ``devices`` may change.

    Raises:
        UsageError: no such run, or a setting differs from the run's.
        RunError: the checkpoint is damaged, the data differ, or another process has the run locked.
        Interrupted: as for ``train``.
    """
    cluster = distributed.find_cluster(alone=alone, wait=wait)
    on_event = _events_for_worker(cluster, on_event)
    options: dict[str, Any] = {"resumed": True, "cluster": cluster, "wait": wait}
    if cluster is not None and not cluster.chief:
        devices = config.resolve({name: settings.get(name) for name in ("device", "devices")})
        with prepare(devices, data, on_event, **options) as setup:
            return Trainer(setup, on_event).run(None)
    directory = RunDirectory.open(Path(run_dir))
    with directory.locked():
        checkpoint = directory.load_checkpoint(on_event)
        after = resumed_settings(checkpoint, {**settings, "epochs": epochs})
        if checkpoint.progress.finished(after):
            on_event(Note(_describe_end(directory, after, checkpoint.progress)))
            if cluster is None and directory.complete(after):
                return _result(directory.path, checkpoint.settings, checkpoint.progress)
        with prepare(after, data, on_event, checkpoint=checkpoint, **options) as setup:
            _tell_resumed(directory, checkpoint, setup, on_event)
            return Trainer(setup, on_event, checkpoint).run(directory)


class Trainer:
    """One training in progress. Making one builds the network; nothing is written before ``run``.

    Args:
        setup: what to train on, by which settings.
        on_event: told what happens.
        checkpoint: where to go on; None to begin.
    """

    directory: RunDirectory
    log: "TensorBoardLog"

    def __init__(self, setup: Setup, on_event: OnEvent, checkpoint: Checkpoint | None = None) -> None:
        from cifarcnn.training import model, optimizer

        self.setup, self.settings, self.devices = setup, setup.settings, setup.devices
        self.on_event, self.checkpoint = on_event, checkpoint
        self.classes = setup.train.classes
        self.steps = len(setup.train) // self.settings.batch_size
        self.targets = _targets(setup.train.labels, len(self.classes), self.settings)
        self.rates = optimizer.learning_rates(self.settings, self.steps)
        started = checkpoint is not None or not self.devices.is_chief
        self.models = model.build(setup, self.rates, ignore if started else on_event, started=started)
        self.progress = Progress()
        self.probabilities: npt.NDArray[np.float32] | None = None
        if checkpoint is not None:
            self.progress = checkpoint.progress
            self.models.restore(checkpoint.variables)
        self.drawn, self.drawn_epoch = time.monotonic(), 0

    def run(self, directory: RunDirectory | None) -> TrainingResult:
        """Train to the end; if that fails, remember why in the run directory.

        Args:
            directory: where everything is saved; locked by the caller. None for a worker that is not the
                chief, which writes nothing and is told the chief's.

        Raises:
            Interrupted: a signal came; the state after the last step is saved.
            RunError: the loss is not finite any more, or the directory cannot be written.
        """
        remembering = directory.remembering_failure() if directory else contextlib.nullcontext()
        # Explained in here as well as around it all, so that what is remembered is the explanation.
        with remembering, self.setup.explaining_errors():
            self.fit(directory)
        return _result(self.directory.path, self.settings, self.progress)

    def fit(self, directory: RunDirectory | None) -> None:
        """Train until the last epoch, or until patience, a signal or a fault ends it."""
        self._share_state(directory)
        with StopRequest() as stop, contextlib.ExitStack() as stack:
            self._begin(stack)
            while not self.progress.finished(self.settings):
                self._stop_if(self._received(stop))
                speed = self._train_epoch(stop)
                row = self._measure(speed)
                self._save_epoch(row)
            self._finish(stop)
        self._report()

    def _share_state(self, directory: RunDirectory | None) -> None:
        """Let all workers begin where the chief does, and know its directory."""
        document: dict[str, Any] = {}
        if directory is not None:
            document = {"directory": str(directory.path), "progress": dataclasses.asdict(self.progress)}
        document = json.loads(self.devices.broadcast(json.dumps(document).encode()))
        self.directory = RunDirectory(Path(document["directory"]))
        self.progress = Progress(**document["progress"])
        self.first_epoch = self.progress.epoch
        if directory is None:
            self.on_event(Note(f"run directory: {self.directory.path}, at {self.devices.chief_name}"))
        # Others than the chief have neither the checkpoint nor, perhaps, the file of --init.
        if self.progress.epoch or self.progress.step or self.settings.init != config.RANDOM:
            for variable in self.models.state():
                value = np.asarray(variable)
                chiefs = np.frombuffer(self.devices.broadcast(value.tobytes()), value.dtype)
                variable.assign(chiefs.reshape(value.shape))

    def _begin(self, stack: contextlib.ExitStack) -> None:
        """Make the run resumable, and an extended one remember its new end; open the log."""
        if not self.devices.is_chief:
            return
        directory, setup = self.directory, self.setup
        if self.checkpoint is None or self.settings != self.checkpoint.settings:
            self._save_checkpoint()
        directory.describe(self.settings, setup.facts, setup.data, setup.skipped)
        directory.write_tables(self.progress.rows)
        with run.saving(directory.path):
            # What an extended run had is of its shorter self; at the end there is another.
            directory.report.unlink(missing_ok=True)
            modelfile.keep_best(directory, self.progress)
            from cifarcnn.training.callbacks import TensorBoardLog

            self.log = TensorBoardLog(directory.tensorboard, self.progress.rows)
        stack.enter_context(contextlib.closing(self.log))

    def _train_epoch(self, stop: StopRequest) -> float:
        """Train to the end of the epoch under way, saving on the way if it is long; return images/s."""
        from cifarcnn.training.callbacks import StepCallback

        settings, progress, batch_size = self.settings, self.progress, self.settings.batch_size
        crops = augment.sample_epoch(settings, len(self.setup.train), progress.epoch)
        crops = crops[: self.steps * batch_size]
        if architectures.find(settings.arch).any_resolution:
            self.models.set_resolution(config.resolution_of_epoch(settings)[progress.epoch])
        timed_images, timed_seconds = 0, 0.0
        while progress.step < self.steps:
            rest = crops[progress.step * batch_size :]
            callback = StepCallback(progress, settings, self.steps, stop, self.on_event)
            self.models.training.continues = progress.step > 0
            self.devices.fit(self.models.training, rest, self.targets[rest[:, 0]], batch_size, callback)
            seconds = time.monotonic() - callback.started
            progress.seconds += seconds
            progress.epoch_seconds += seconds
            timed_images += callback.timed_images
            timed_seconds += callback.timed_seconds()
            if callback.bad_loss is not None:
                self._fail(f"the loss became {callback.bad_loss}")
            received = self._received(stop)
            if progress.step < self.steps or received is not None:
                self._save_checkpoint()
            self._stop_if(received)
        return timed_images / timed_seconds if timed_images else 0.0

    def _measure(self, images_per_second: float) -> dict[str, Any]:
        """Validate the epoch's model, and add the epoch to the progress; return its row."""
        started, progress = time.monotonic(), self.progress
        results = self.models.training.get_metrics_result()
        self.devices.check_equal(self.models.training)
        self.models.update_export()
        val_loss, val_accuracy = self._validate()
        # The loss of the last step was measured before its update.
        finite = all(np.isfinite(weights).all() for weights in self.models.export.get_weights())
        if not finite or not math.isfinite(val_loss or 0):
            self._fail("the network's weights or its validation loss are not finite any more")
        row = {
            "epoch": progress.epoch + 1,
            "loss": float(results["loss"]),
            "accuracy": float(results["accuracy"]),
            "val_loss": val_loss,
            "val_accuracy": val_accuracy,
            "learning_rate": float(self.rates[(progress.epoch + 1) * self.steps - 1]),
            "seconds": progress.epoch_seconds,
            "images_per_second": images_per_second,
        }
        progress.complete(row)
        progress.seconds += time.monotonic() - started
        return row

    def _validate(self) -> tuple[float | None, float | None]:
        """Return the export model's loss and accuracy on the validation images, as ``evaluate`` has them."""
        found: list[float | None] = [None, None]
        if self.devices.is_chief and (images := self.setup.validation) is not None:
            network = modelfile.Model(self.directory.last, {}, self.models.export, classes=self.classes)
            self.probabilities = network.probabilities(images.images)
            loss = float(metrics.losses(self.probabilities, images.labels).mean())
            found = [loss, float((self.probabilities.argmax(axis=1) == images.labels).mean())]
        # Other processors would round otherwise, but all workers must take the same decisions.
        loss, accuracy = json.loads(self.devices.broadcast(json.dumps(found).encode()))
        return loss, accuracy

    def _save_epoch(self, row: dict[str, Any]) -> None:
        """Save the model, the checkpoint that knows it and, after that, the best model; tell, and draw."""
        if self.devices.is_chief:
            started = time.monotonic()
            with run.saving(self.directory.path):
                modelfile.save(self.models.export, self.directory.last, self._metadata(row))
                self.log.add(row)
            self.progress.seconds += time.monotonic() - started
            self._save_checkpoint()
            with run.saving(self.directory.path):
                modelfile.keep_best(self.directory, self.progress)
        best = self.progress.best_epoch == row["epoch"]
        self.on_event(EpochDone(**row, epochs=self.settings.epochs, best=best))
        if time.monotonic() - self.drawn > REDRAW_SECONDS:
            self._draw()

    def _save_checkpoint(self) -> None:
        """Save everything on which the rest depends, then the tables drawn from it."""
        if not self.devices.is_chief:
            return
        variables = [np.asarray(variable) for variable in self.models.state()]
        self.directory.save_checkpoint(
            Checkpoint(self.settings, self.setup.facts, self.setup.data, self.progress, variables)
        )
        self.directory.write_tables(self.progress.rows)

    def _finish(self, stop: StopRequest) -> None:
        """Draw what is not drawn yet, and tidy up; raise if a signal came after the last epoch."""
        if self.progress.epoch == self.first_epoch:  # all trained before, but stopped before the report
            self.models.update_export()
            self._validate()
        if self.drawn_epoch != self.progress.epoch:
            self._draw()
        if self.devices.is_chief:
            self.directory.remove_previous_checkpoint()
        if (received := self._received(stop)) is not None:
            again = run.resume_command(self.directory.path)
            raise Interrupted(
                f"stopped after the last epoch; saved; make its report with: {again}", 128 + received
            )

    def _report(self) -> None:
        """Write the report; Ctrl-C just ends that, since a finished run is resumed to make it."""
        if self.devices.is_chief:
            with self._drawing("report"):
                presentation.write_run_report(self.directory, self.setup.validation, self.setup.data)

    def _draw(self) -> None:
        """Renew the pictures, in the run directory and in TensorBoard's log."""
        self.drawn, self.drawn_epoch = time.monotonic(), self.progress.epoch
        if not self.devices.is_chief:
            return
        images = self.setup.validation
        with self._drawing("picture"):
            pictures = presentation.redraw(
                self.directory,
                self.progress.rows,
                self.probabilities,
                None if images is None else images.labels,
            )
            for name, path in pictures.items():
                self.log.add_image(name, path.read_bytes(), self.progress.epoch)

    @contextlib.contextmanager
    def _drawing(self, what: str) -> Iterator[None]:
        """Let a training outlive what cannot be drawn, but not a directory that cannot be written."""
        try:
            with run.saving(self.directory.path):
                yield
        except CifarCNNError:
            raise
        # Whatever a chart fails of, an odd font or a style of the user's, the training is worth more.
        except Exception as problem:
            self.on_event(Note(f"warning: no {what} was drawn: {first_line(problem)}"))

    def _metadata(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return what is to be known about the model of this epoch."""
        settings = self.settings
        calibration: dict[str, float] = {}
        if self.probabilities is not None and self.setup.validation is not None:
            scores = metrics.log_probabilities(self.probabilities)
            temperature = metrics.fit_temperature(scores, self.setup.validation.labels)
            calibration["temperature"] = temperature
            calibrated = metrics.apply_temperature(self.probabilities, temperature)
            calibration[ood.KEY] = ood.fit_limit(calibrated)
        return {
            **calibration,
            "schema": 1,
            "arch": settings.arch,
            "recipe": settings.recipe,
            "seed": settings.seed,
            "val_size": settings.val_size,
            "train_size": settings.train_size,
            "classes": list(self.classes),
            "epoch": row["epoch"],
            "epochs": settings.epochs,
            "val_accuracy": row["val_accuracy"],
            "val_loss": row["val_loss"],
            "facts": self.setup.facts,
        }

    def _received(self, stop: StopRequest) -> int | None:
        """Return the signal that came, here or at another worker."""
        from cifarcnn.training.callbacks import received_signal, stop_flags

        return received_signal(self.devices.any(stop_flags(stop)))

    def _stop_if(self, received: int | None) -> None:
        """Raise if a signal came. All is saved whenever this is called."""
        if received is not None:
            raise Interrupted(
                f"stopped in epoch {self.progress.epoch + 1} after step {self.progress.step} of {self.steps};"
                f" saved; go on with: {run.resume_command(self.directory.path)}",
                128 + received,
            )

    def _fail(self, what: str) -> NoReturn:
        """End a training that has diverged. Nothing of the diverged state is saved."""
        progress = self.progress
        kept = "no epoch was completed"
        if progress.best_epoch:
            kept = f"the model of epoch {progress.best_epoch} is kept as {self.directory.best}"
        other = "" if self.settings.precision == "float32" else " or --precision float32"
        raise RunError(
            f"{what} in epoch {progress.epoch + 1} at step {progress.step}; {kept};"
            f" try a new run with --learning-rate {self.settings.learning_rate / 10:g}{other}"
        )


def _targets(labels: npt.NDArray[Any], classes: int, settings: Settings) -> npt.NDArray[np.float32]:
    """Return the targets, float32 (n, classes).

    Of each row, ``label_smoothing`` is spread over all classes. With ``balance`` a row is multiplied by how
    much rarer than the mean its class is, so that it weighs as much more in the loss.
    """
    targets = np.full((len(labels), classes), settings.label_smoothing / classes, np.float32)
    targets[np.arange(len(labels)), labels] += 1 - settings.label_smoothing
    if settings.balance:
        counts = np.bincount(labels, minlength=classes)
        targets *= (len(labels) / np.count_nonzero(counts) / counts[labels])[:, None]
    return targets


def _events_for_worker(cluster: Cluster | None, on_event: OnEvent) -> OnEvent:
    """Leave progress to the chief; the other workers tell only what was chosen there."""
    if cluster is None or cluster.chief:
        return on_event

    def tell(event: Event) -> None:
        if not isinstance(event, StepsDone | EpochDone):
            on_event(event)

    return tell


def _tell_resumed(directory: RunDirectory, before: Checkpoint, setup: Setup, on_event: OnEvent) -> None:
    """Say where a run goes on, and what is different from before."""
    from cifarcnn.training import optimizer

    progress, old, new = before.progress, before.settings, setup.settings
    if not progress.finished(new):
        on_event(Note(f"resuming {directory.path} in epoch {progress.epoch + 1} after step {progress.step}"))
    changes = [("device", old.device, new.device), ("devices", old.devices or 1, new.devices or 1)]
    if changed := [f"{name} was {was}, is {now} now" for name, was, now in changes if was != now]:
        on_event(Note(f"warning: {', '.join(changed)}: the result may differ in the last digits"))
    if old.epochs != new.epochs and not progress.finished(new):
        steps = len(setup.train) // new.batch_size
        done = progress.epoch * steps + progress.step
        on_event(Note(optimizer.explain_extension(old, new, steps, done)))


def _describe_end(directory: RunDirectory, settings: Settings, progress: Progress) -> str:
    """Say why a run is finished."""
    if progress.epoch >= settings.epochs:
        return (
            f"{directory.path} is finished: {progress.epoch} of {settings.epochs} epochs; --epochs extends it"
        )
    waited = count(settings.patience, "epoch")
    return f"{directory.path} is finished: no better epoch in the {waited} after epoch {progress.best_epoch}"


def _result(path: Path, settings: Settings, progress: Progress) -> TrainingResult:
    """Sum a finished run up."""
    best = progress.best or {}
    return TrainingResult(
        run_dir=path,
        model=RunDirectory(path).best,
        arch=settings.arch,
        recipe=settings.recipe,
        seed=settings.seed,
        epochs=progress.epoch,
        best_epoch=progress.best_epoch,
        val_accuracy=best.get("val_accuracy"),
        val_loss=best.get("val_loss"),
        train_seconds=round(progress.seconds, 3),
        images_per_second=images_per_second(progress.rows),
        device=settings.device,
        precision=settings.precision,
    )
