"""Everything shown of a model or a run: pictures and the page, made from results and what a run left on disk.

How each picture looks stands in ``charts`` and ``galleries``, the page in ``report``; the figures themselves
come from ``evaluation``.
"""

import contextlib
import dataclasses
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifarcnn import config, metrics
from cifarcnn.data.cifar10 import CLASSES, Bytes, Images
from cifarcnn.errors import CifarCNNError, RunError, UsageError
from cifarcnn.machine import files
from cifarcnn.metrics import Array, Metrics
from cifarcnn.models import modelfile
from cifarcnn.runs.progress import METRICS, read_table
from cifarcnn.runs.run import RunDirectory, resume_command
from cifarcnn.wording import percent

if TYPE_CHECKING:
    from cifarcnn.evaluation.evaluation import Evaluation

WORST = 20


def write_figures(evaluation: "Evaluation", directory: Path, worst: int = 10) -> list[Path]:
    """Draw an evaluation into a directory, which is made if it is missing.

    Args:
        evaluation: what to draw.
        directory: gets ``confusion.png``, ``reliability.png``, ``mistakes.png``, ``samples.png`` and, of a
            network that begins with a convolution, ``filters.png``.
        worst: how many mistakes the gallery shows, 1 to 1000.

    Returns:
        The files written.

    Raises:
        UsageError: the number of mistakes is impossible.
        CifarCNNError: the directory cannot be written.
    """
    if not 1 <= worst <= 1000:
        raise UsageError(f"cannot show {worst} mistakes in one picture; expected 1 to 1000")
    from cifarcnn.figures import charts, galleries

    subject = (evaluation.images.images, evaluation.images.labels, evaluation.probabilities)
    names = ("confusion.png", "reliability.png", "mistakes.png", "samples.png", "filters.png")
    confusion, reliability, mistakes, samples, filters = (directory / name for name in names)
    with _writing("the figures", directory, "choose another directory with --figures"):
        directory.mkdir(parents=True, exist_ok=True)
        charts.confusion_matrix(evaluation.metrics.confusion, confusion)
        charts.reliability(evaluation.metrics.bins, reliability)
        galleries.worst_mistakes(*subject, mistakes, worst)
        galleries.sample_predictions(*subject, samples)
        if evaluation.first_kernel is None:
            return [confusion, reliability, mistakes, samples]
        galleries.first_layer_filters(evaluation.first_kernel, filters)
    return [confusion, reliability, mistakes, samples, filters]


def write_report(evaluation: "Evaluation", directory: Path, worst: int = WORST) -> Path:
    """Write ``report.html`` about an evaluation into a directory, which is made if it is missing.

    Of a model that lies in its run directory, the page shows the training too.

    Args:
        evaluation: what to report.
        directory: where to.
        worst: how many mistakes the page shows.

    Returns:
        The file written.

    Raises:
        CifarCNNError: the directory cannot be written, or the run's own files are damaged.
    """
    from cifarcnn.figures import report

    images, model = evaluation.images, evaluation.model
    home = RunDirectory(model.parent)
    run = _read_run(home) if model in (home.best, home.last) else None
    facts, epochs, commands = run or (_stored_facts(evaluation.metadata), [], [])
    name = modelfile.display_name(model)
    command = ["cifarcnn", "evaluate", name, "--split", evaluation.split]
    if evaluation.data is not None:
        command += ["--data", evaluation.data]
    command += ["--tta"] * bool(evaluation.averaged)
    path = directory / "report.html"
    with _writing("the report", directory, "choose another directory with --report"):
        directory.mkdir(parents=True, exist_ok=True)
        report.write_report(
            path,
            f"{name} on {evaluation.metrics.n:,} {evaluation.split} images",
            report.Subject(images.images, images.labels, evaluation.probabilities, evaluation.metrics),
            facts={"Evaluation": _measured_facts(evaluation), **facts},
            commands=[*commands, shlex.join(command)],
            epochs=epochs,
            worst=worst,
        )
    return path


def write_run_report(run: RunDirectory, validation: Images | None, data: str | None = None) -> Path:
    """Write ``report.html`` about a training into its run directory: its best model on its validation images.

    Args:
        run: the run directory, with everything that a training leaves in it.
        validation: the images held out; without any, the page shows the training alone.
        data: where the user said the data set is.

    Returns:
        The file written.

    Raises:
        RunError: the run's files are missing or damaged.
        CifarCNNError: the directory cannot be written.
    """
    from cifarcnn.figures import report

    found = _read_run(run, data)
    if found is None:
        raise RunError(
            f"{run.path} holds no {run.settings.name}; expected a run directory of 'cifarcnn train'"
        )
    facts, epochs, commands = found
    subject, title = None, run.path.absolute().name
    if validation is not None:
        model = modelfile.load(run.best)
        probabilities = model.calibrated(model.probabilities(validation.images))
        figures = metrics.measure(probabilities, validation.labels)
        subject = report.Subject(validation.images, validation.labels, probabilities, figures)
        title = f"{title} on {len(validation):,} validation images"
    place = [] if data is None else ["--data", data]
    commands = [*commands, shlex.join(["cifarcnn", "evaluate", str(run.best), *place])]
    mend = f"the run is finished; make room, then: {resume_command(run.path)}"
    with _writing("the report", run.path, mend):
        report.write_report(
            run.report, title, subject, facts=facts, commands=commands, epochs=epochs, worst=WORST
        )
    return run.report


def redraw(
    run: RunDirectory, rows: Sequence[dict[str, Any]], probabilities: Array | None, labels: Bytes | None
) -> dict[str, Path]:
    """Draw the pictures of a training that is under way, each whole or not at all.

    Args:
        run: gets ``curves.png`` and, with validation images, ``confusion.png``.
        rows: the completed epochs, at least one, as ``charts.learning_curves`` takes them.
        probabilities: float (n, 10), the answers to the validation images; None without any.
        labels: uint8 (n,), their classes.

    Returns:
        The files by their names without suffix.

    Raises:
        OSError: the directory cannot be written.
    """
    from cifarcnn.figures import charts

    written = [run.curves]
    charts.learning_curves(rows, run.curves)
    if probabilities is not None and labels is not None:
        confusion = metrics.confusion_matrix(probabilities.argmax(axis=1), labels, len(CLASSES))
        charts.confusion_matrix(confusion, run.confusion)
        written.append(run.confusion)
    return {path.stem: path for path in written}


@contextlib.contextmanager
def _writing(what: str, directory: Path, mend: str) -> Iterator[None]:
    """Turn a failure to write into one line."""
    try:
        yield
    except OSError as problem:
        raise CifarCNNError(f"cannot write {what} to {directory}: {problem.strerror}; {mend}") from problem


Facts = dict[str, Mapping[str, Any]]


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
    """What to type to train with these settings: the options that differ from the recipe's."""
    chosen = {name: settings[name] for name in ("arch", "recipe")}
    usual = dataclasses.asdict(config.resolve(chosen))
    words = ["cifarcnn", "train"]
    for name, value in settings.items():
        if name in chosen or value != usual[name]:
            flag = f"--{name.replace('_', '-')}"
            words += [flag] if value is True else [flag, str(value)]
    return shlex.join([*words, *([] if data is None else ["--data", data])])


def _stored_facts(metadata: dict[str, Any]) -> Facts:
    """What a model that lies alone says about itself."""
    stored = {name: value for name, value in metadata.items() if not isinstance(value, dict | list)}
    environment = metadata.get("facts")
    return {"Model": stored, **({"Environment": environment} if isinstance(environment, dict) else {})}


def _measured_facts(evaluation: "Evaluation") -> dict[str, Any]:
    """What the headline of the page leaves out."""
    from cifarcnn.evaluation.evaluation import VIEWS

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
