"""The pictures and the page of a model or a run, made from results and what a run left on disk."""

import contextlib
import dataclasses
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifarcnn import config, metrics
from cifarcnn.data.cifar10 import CLASSES, Images
from cifarcnn.errors import FigureError, RunError, UsageError, reason
from cifarcnn.formatting import percent
from cifarcnn.machine import files
from cifarcnn.metrics import Array, Metrics
from cifarcnn.models import modelfile
from cifarcnn.runs.progress import METRICS, read_table
from cifarcnn.runs.run import RunDirectory, resume_command

if TYPE_CHECKING:
    from cifarcnn.evaluation.evaluate import Evaluation
    from cifarcnn.evaluation.robustness import Robustness

WORST = 20
Facts = dict[str, Mapping[str, Any]]


def write_figures(evaluation: "Evaluation", directory: Path, worst: int = 10) -> list[Path]:
    """Draw an evaluation into a directory, which is made if it is missing, and return the files written.

    They are ``confusion.png``, ``reliability.png``, ``mistakes.png`` (so many of the worst), ``samples.png``
    and, of a network that begins with a convolution, ``filters.png``.

    Raises:
        UsageError: the number of mistakes is impossible.
        FigureError: a figure cannot be drawn or written.
    """
    if not 1 <= worst <= 1000:
        raise UsageError(f"cannot show {worst} mistakes in one picture; expected 1 to 1000")
    from cifarcnn.figures import charts, galleries

    images, figures, classes = evaluation.images, evaluation.metrics, evaluation.classes
    subject = (images.images, images.labels, evaluation.probabilities, classes)
    names = ("confusion.png", "reliability.png", "mistakes.png", "samples.png", "filters.png")
    paths = [directory / name for name in names]
    with _into(directory, "the figures", "--figures"):
        charts.confusion_matrix(figures.confusion, classes, paths[0])
        charts.reliability(figures.bins, paths[1])
        galleries.worst_mistakes(*subject, paths[2], worst)
        galleries.sample_predictions(*subject, paths[3])
        if evaluation.first_kernel is None:
            return paths[:-1]
        galleries.first_layer_filters(evaluation.first_kernel, paths[4])
    return paths


def write_corruptions(result: "Robustness", directory: Path) -> Path:
    """Draw ``corruptions.png`` into a directory: accuracy by corruption and severity.

    Raises:
        FigureError: it cannot be drawn or written.
    """
    from cifarcnn.figures import charts

    path = directory / "corruptions.png"
    with _into(directory, "the figures", "--figures"):
        charts.corruptions(result, path)
    return path


def write_report(evaluation: "Evaluation", directory: Path, worst: int = WORST) -> Path:
    """Write ``report.html`` about an evaluation into a directory, which is made if it is missing.

    It shows so many of the worst mistakes and, of a model in its run directory, the training too.

    Raises:
        RunError: the run's own files are damaged.
        FigureError: the page cannot be drawn or written.
    """
    model, name = evaluation.model, modelfile.display_name(evaluation.model)
    home = RunDirectory(model.parent)
    run = _read_run(home) if model in (home.best, home.last) else None
    facts, epochs, commands = run or (_stored_facts(evaluation.metadata), [], [])
    command = ["cifarcnn", "evaluate", name, "--split", evaluation.split]
    command += [] if evaluation.data is None else ["--data", evaluation.data]
    command += ["--tta"] * bool(evaluation.averaged)
    with _into(directory, "the report", "--report"):
        return _write_page(
            directory / "report.html",
            f"{name} on {evaluation.metrics.n:,} {evaluation.split} images",
            (evaluation.images, evaluation.probabilities, evaluation.metrics),
            {"Evaluation": _measured_facts(evaluation), **facts},
            [*commands, shlex.join(command)],
            epochs,
            worst,
        )


def write_run_report(run: RunDirectory, validation: Images | None, data: str | None = None) -> Path:
    """Write ``report.html`` about a training into its run directory: its best model on its validation images.

    Without validation images the page shows the training alone; ``data`` is where the user said they are.

    Raises:
        RunError: the run's files are missing or damaged.
        FigureError: the page cannot be drawn or written.
    """
    found = _read_run(run, data)
    if found is None:
        raise RunError(
            f"{run.path} holds no {run.settings.name}; expected a run directory of 'cifarcnn train'"
        )
    facts, epochs, commands = found
    measured, title = None, run.path.absolute().name
    if validation is not None:
        model = modelfile.load(run.best)
        probabilities = model.calibrated(model.probabilities(validation.images))
        measured = (validation, probabilities, metrics.measure(probabilities, validation.labels))
        title = f"{title} on {len(validation):,} validation images"
    place = [] if data is None else ["--data", data]
    commands = [*commands, shlex.join(["cifarcnn", "evaluate", str(run.best), *place])]
    with _writing(
        "the report", run.path, f"the run is finished; make room, then: {resume_command(run.path)}"
    ):
        return _write_page(run.report, title, measured, facts, commands, epochs)


def redraw(
    run: RunDirectory,
    rows: Sequence[dict[str, Any]],
    probabilities: Array | None,
    labels: Array | None,
    *,
    classes: Sequence[str] = CLASSES,
    best_epoch: int | None = None,
) -> dict[str, Path]:
    """Draw ``curves.png`` and, with validation images, ``confusion.png`` of a training that is under way.

    Args:
        run: the run directory.
        rows: the completed epochs, at least one, as ``charts.learning_curves`` takes them.
        probabilities: float (n, classes), the predictions on the validation images; None without any.
        labels: int (n,), their classes.
        classes: the names of the classes.
        best_epoch: the epoch whose model is the best so far.

    Returns:
        The files by their names without suffix.

    Raises:
        FigureError: a picture cannot be drawn or written.
    """
    from cifarcnn.figures import charts

    written = [run.curves]
    with _writing("the figures", run.path, "the training goes on without them"):
        charts.learning_curves(rows, run.curves, best_epoch)
        if probabilities is not None and labels is not None:
            confusion = metrics.confusion_matrix(probabilities.argmax(axis=1), labels, len(classes))
            charts.confusion_matrix(confusion, classes, run.confusion)
            written.append(run.confusion)
    return {path.stem: path for path in written}


@contextlib.contextmanager
def _writing(what: str, directory: Path, advice: str) -> Iterator[None]:
    """Turn a failure to write into one line."""
    try:
        yield
    except OSError as problem:
        raise FigureError(f"cannot write {what} to {directory}: {reason(problem)}; {advice}") from problem


@contextlib.contextmanager
def _into(directory: Path, what: str, option: str) -> Iterator[None]:
    """Make a directory to write to."""
    with _writing(what, directory, f"choose another directory with {option}"):
        directory.mkdir(parents=True, exist_ok=True)
        yield


def _write_page(
    path: Path,
    title: str,
    measured: tuple[Images, Array, Metrics] | None,
    facts: Facts,
    commands: Sequence[str],
    epochs: Sequence[dict[str, Any]],
    worst: int = WORST,
) -> Path:
    """Write the page, whole or not at all; ``measured`` are images, their probabilities, and the figures."""
    from cifarcnn.figures import report

    subject = None
    if measured:
        images, probabilities, figures = measured
        subject = report.Subject(images.images, images.labels, probabilities, figures, images.classes)
    validated = [row for row in epochs if row["val_accuracy"] is not None]
    # The first of equals, as a training chooses its best model.
    best = max(validated, key=lambda row: row["val_accuracy"], default={}).get("epoch")
    text = report.page(title, subject, facts, commands, epochs=epochs, best_epoch=best, worst=worst)
    # Names of files may hold bytes that are no UTF-8.
    files.write_bytes(path, text.encode("utf-8", "backslashreplace"))
    return path


def _read_run(
    run: RunDirectory, data: str | None = None
) -> tuple[Facts, list[dict[str, Any]], list[str]] | None:
    """Read a run's tables of facts, its epochs, and the command that trains it; None if it is no run.

    ``data`` is where the images are, if they are no more where the run says that they were.
    """
    if not run.settings.exists():
        return None
    try:
        settings, environment = (
            json.loads(files.read_text(path)) for path in (run.settings, run.environment)
        )
        facts = {"Settings": settings, "Environment": environment}
        command = _train_command(settings, data or environment.get("data"))
        return facts, read_table(run.metrics, METRICS), [command]
    except (OSError, ValueError, TypeError, LookupError, AttributeError, UsageError) as problem:
        raise RunError(
            f"the files of the run {run.path} cannot be read: {problem}; expected {run.settings.name}, "
            f"{run.environment.name} and {run.metrics.name} as 'cifarcnn train' writes them"
        ) from problem


def _train_command(settings: dict[str, Any], data: str | None) -> str:
    """Return what to type to train with these settings: the options that differ from the recipe's."""
    chosen = {name: settings[name] for name in ("arch", "recipe")}
    usual = dataclasses.asdict(config.resolve(chosen))
    words = ["cifarcnn", "train"]
    for name, value in settings.items():
        if name in chosen or value != usual[name]:
            flag = f"--{name.replace('_', '-')}"
            words += [flag] if value is True else [flag, str(value)]
    return shlex.join([*words, *([] if data is None else ["--data", data])])


def _stored_facts(metadata: dict[str, Any]) -> Facts:
    """Return what a model that lies alone says about itself."""
    stored = {name: value for name, value in metadata.items() if not isinstance(value, dict | list)}
    environment = metadata.get("facts")
    return {"Model": stored, **({"Environment": environment} if isinstance(environment, dict) else {})}


def _measured_facts(evaluation: "Evaluation") -> dict[str, Any]:
    """Return what the headline of the page leaves out."""
    from cifarcnn.evaluation.evaluate import VIEWS

    def brief(figures: Metrics) -> str:
        return f"accuracy {percent(figures.accuracy)}, loss {figures.loss:.4f}"

    facts: dict[str, Any] = {
        "images": evaluation.images.source,
        "speed": f"{evaluation.images_per_second:,.0f} images per second",
    }
    if plain := evaluation.uncalibrated:
        facts["temperature"] = evaluation.temperature
        facts["without temperature"] = f"{brief(plain)}, calibration error {percent(plain.ece)}"
    return facts | {VIEWS[name]: brief(figures) for name, figures in evaluation.averaged.items()}
