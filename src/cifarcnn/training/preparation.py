"""From settings to a setup: the images, the hardware, and the other machines of a cluster.

What was chosen is said, what does not suit is refused, and workers that would not train the same find out
here, before anything is computed; ``computing`` then holds the devices while it is.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifarcnn import expectations
from cifarcnn.config import FIELDS, Settings, resolve
from cifarcnn.data import cifar10, sources
from cifarcnn.data.cifar10 import Images
from cifarcnn.errors import CifarCNNError, RunError, UsageError
from cifarcnn.events import EpochDone, Event, Note, OnEvent, StepsDone
from cifarcnn.machine import backend, devices
from cifarcnn.models import modelfile
from cifarcnn.runs.run import Checkpoint, RunDirectory
from cifarcnn.training import cluster, meeting, preflight
from cifarcnn.training.cluster import LONGEST_WAIT, WAIT_SECONDS, Cluster
from cifarcnn.training.meeting import Greeting

if TYPE_CHECKING:
    from cifarcnn.training.assembly import Setup


KIND = "computing on"
"""What a worker calls its kind of device when it meets the others; they must be of one kind."""


@dataclass(frozen=True)
class Company:
    """Who trains together.

    Attributes:
        cluster: the processes; None for this one alone.
        wait: seconds to wait for each other.
        scale_batch: multiply batch and learning rate by the number of devices.
    """

    cluster: Cluster | None = None
    wait: float = WAIT_SECONDS
    scale_batch: bool = False

    @property
    def chief(self) -> bool:
        """Whether this process writes the run directory."""
        return self.cluster is None or self.cluster.chief


ALONE = Company()


def company(*, alone: bool, wait: float, scale_batch: bool) -> Company:
    """Find out from the environment who trains together.

    Raises:
        UsageError: the environment makes no sense, or the backend trains alone.
    """
    if not 0 < wait <= LONGEST_WAIT:
        raise UsageError(f"wait is {wait:g}; expected seconds, above 0 and at most {LONGEST_WAIT}, a week")
    if not alone and cluster.expected(os.environ):
        # When a worker is lost, TensorFlow tells it in many lines; ours is one.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    found = None if alone else cluster.from_environment(os.environ)
    if found is not None:
        backend.need_tensorflow("several machines train together")
    return Company(found, wait, scale_batch)


def quieter(company: Company, on_event: OnEvent) -> OnEvent:
    """Leave progress to the chief; the other workers tell only what was chosen there."""
    if company.chief:
        return on_event

    def tell(event: Event) -> None:
        if not isinstance(event, StepsDone | EpochDone):
            on_event(event)

    return tell


@contextlib.contextmanager
def telling(company: Company) -> Iterator[None]:
    """If this worker cannot begin, let the others know why before its error goes its way."""
    try:
        yield
    except meeting.MeetingError:
        raise  # they know
    except CifarCNNError as problem:
        if company.cluster is not None:
            with contextlib.suppress(RunError):
                meeting.meet(company.cluster, {"error": str(problem)}, meeting.PATIENCE)
        raise


@dataclass(frozen=True)
class Found:
    """What there is to train on: images and hardware. ``facts`` are compared when a run is resumed."""

    images: Images
    hardware: devices.Hardware
    facts: dict[str, Any]
    data: str | None


def find(data: str | Path | None, company: Company, on_event: OnEvent) -> Found:
    """Get the training images, and ask for the hardware."""
    images = sources.load("train", data, on_event)
    hardware = backend.hardware()
    facts = {
        "cifarcnn": version("cifarcnn"),
        **backend.versions(),
        "backend": hardware.backend,
        "cpu": hardware.cpu,
        "cpus": hardware.cpus,
        "workers": len(company.cluster.workers) if company.cluster else 1,
        modelfile.TRAINED_ON: images.sha256(),
    }
    return Found(images, hardware, facts, sources.absolute(data))


def settle(
    found: Found, settings: Settings, company: Company, on_event: OnEvent, *, resumed: bool
) -> "Setup":
    """Choose on what to compute, say so, and in a cluster compare with the others.

    Args:
        found: images and hardware.
        settings: the user's, or the run's.
        company: who trains together.
        on_event: told what was chosen.
        resumed: whether the run goes on.

    Raises:
        UsageError: the settings do not suit the images or the hardware.
        RunError: another worker does not come, or would not train the same.
    """
    settings, choice = _choose(found, settings, company, on_event)
    divided = preflight.divide(found.images, settings)
    if company.cluster is not None:
        terms = {**_terms(found, resumed=resumed), KIND: _kind(choice.device)}
        meet(company.cluster, {**terms, **dataclasses.asdict(settings)}, company, on_event)
    return _setup(found, settings, choice, divided, company, on_event)


def follow(found: Found, cluster: Cluster, company: Company, on_event: OnEvent) -> "Setup | Greeting":
    """Settle as a worker whose chief goes on with a run, of which it alone knows the settings.

    Returns:
        The setup; or the result, as a document, if the run is finished already.
    """
    chief = meet(cluster, _terms(found, resumed=True), company, on_event)
    if "result" in chief:
        return dict(chief["result"])
    settings = Settings(**{name: chief[name] for name in FIELDS})
    settings = dataclasses.replace(settings, device=chief[KIND])
    settings, choice = _choose(found, settings, company, on_event)
    divided = preflight.divide(found.images, settings)
    return _setup(found, settings, choice, divided, company, on_event)


def meet(cluster: Cluster, greeting: Greeting, company: Company, on_event: OnEvent) -> Greeting:
    """Meet the other workers and compare; return the chief's greeting."""
    on_event(
        Note(f"{cluster.name(cluster.index)} waits up to {company.wait:g} s for all {len(cluster.workers)}")
    )
    if not cluster.chief:
        greeting = {name: value for name, value in greeting.items() if name != "device"}
    greetings = meeting.meet(cluster, greeting, company.wait)
    meeting.compare(cluster, greetings)
    return greetings[0]


def _kind(device: str) -> str:
    return device.partition(":")[0]


def _terms(found: Found, *, resumed: bool) -> Greeting:
    """Return what all workers must have in common besides the settings."""
    same = {name: value for name, value in found.facts.items() if name not in ("cpu", "cpus")}
    return {**same, "resume": resumed}


def _choose(
    found: Found, settings: Settings, company: Company, on_event: OnEvent
) -> tuple[Settings, devices.Choice]:
    """Choose device and precision; return the settings with them resolved."""
    workers = len(company.cluster.workers) if company.cluster else 1
    choice = devices.choose(found.hardware, settings.device, settings.precision, settings.devices)
    if company.cluster is not None and choice.device == "cpu" and choice.count > 1:
        raise UsageError(
            f"devices is {choice.count}, but a worker without GPU is one device; leave --devices out"
        )
    if company.scale_batch:
        factor = workers * choice.count
        scaled = {
            "batch_size": settings.batch_size * factor,
            "micro_batch": settings.micro_batch * factor,
            "learning_rate": settings.learning_rate * factor,
        }
        settings = resolve({**dataclasses.asdict(settings), **scaled})
    elif settings.devices is None:
        together = settings.batch_size // settings.parts
        while together % (workers * choice.count) and choice.count > 1:
            fewer = choice.count - 1
            choice = devices.choose(found.hardware, settings.device, settings.precision, fewer)
            on_event(Note(f"{fewer + 1} devices cannot share batches of {together} equally"))
    if choice.warning:
        on_event(Note(f"warning: {choice.warning}"))
    on_event(Note(f"{choice.device}: {choice.reason}"))
    resolved = dataclasses.replace(
        settings, device=choice.device, precision=choice.precision, devices=choice.count
    )
    preflight.check_shares(resolved, workers * choice.count)
    return resolved, choice


def _setup(
    found: Found,
    settings: Settings,
    choice: devices.Choice,
    divided: tuple[Images, Images | None],
    company: Company,
    on_event: OnEvent,
) -> "Setup":
    as_measured = found.facts[modelfile.TRAINED_ON] == cifar10.TRAINING_IMAGES_SHA256
    if as_measured and (expected := expectations.of(settings)):
        on_event(Note(expected.sentence()))
    if settings.patience and not settings.val_size:
        on_event(Note("warning: patience has no effect without validation images"))
    if settings.deterministic:
        _make_deterministic(choice, on_event)
    from cifarcnn.training.assembly import Setup

    cpus = found.hardware.cpus
    return Setup(settings, choice, cpus, *divided, found.facts, found.data, company.cluster)


def _make_deterministic(choice: devices.Choice, on_event: OnEvent) -> None:
    """Fix the order of a GPU's sums; say what it costs and what is not promised."""
    if choice.device == "cpu":
        on_event(Note("deterministic: no change, on a CPU the same seed gives the same result anyway"))
        return
    cost = backend.make_deterministic()
    text = "the same seed gives the same result on the same model of GPU with the same driver and versions"
    on_event(Note(f"deterministic: {cost}; {text}, not on another"))


@contextlib.contextmanager
def computing(setup: "Setup") -> "Iterator[Setup]":
    """Compute on the setup's devices within the block, with ``advising``.

    Yields:
        the setup, with its ``replicas`` if it has several devices.
    """
    several = setup.cluster is not None or setup.choice.count > 1
    with advising(setup), backend.running_on(setup.choice, setup.cpus, alone=not several):
        if not several:
            yield setup
            return
        from cifarcnn.training import joining

        yield dataclasses.replace(setup, replicas=joining.join(setup.choice, setup.cluster))


@contextlib.contextmanager
def advising(setup: "Setup") -> "Iterator[None]":
    """Turn what the backend says into one line when memory runs out or another worker is lost.

    Raises:
        RunError: one of these.
    """
    with contextlib.ExitStack() as stack:
        if setup.cluster is not None:
            from cifarcnn.training import joining

            stack.enter_context(joining.noticing_loss(setup.cluster))
        try:
            yield
        # Anything else is raised again.
        except Exception as problem:
            if not backend.is_out_of_memory(problem):
                raise
            raise RunError(f"out of memory with {_smaller(setup.settings)}") from problem


def _smaller(settings: Settings) -> str:
    """Return how many images were computed on at once, and how to need less."""
    option, size = "--batch-size", settings.batch_size
    fewer = max(1, size // 2)
    if settings.parts > 1:
        option, size = "--micro-batch", settings.micro_batch
        fewer = next(half for half in range(max(1, size // 2), 0, -1) if settings.batch_size % half == 0)
    if size == 1:
        return "one image at a time; free some, or try a smaller network, fewer images or fewer epochs"
    return f"batches of {size} images; try a new run with {option} {fewer}"


def compare(checkpoint: Checkpoint, found: Found, directory: RunDirectory, on_event: OnEvent) -> None:
    """Refuse other data or another backend; say where versions or hardware differ."""
    before: Mapping[str, Any] = checkpoint.facts
    differing = {
        name: (before.get(name), value) for name, value in found.facts.items() if before.get(name) != value
    }
    for name, mend in (
        (modelfile.TRAINED_ON, "name the images that it began with, with --data"),
        ("backend", f"set KERAS_BACKEND={before.get('backend')}"),
    ):
        if name in differing:
            old, new = differing[name]
            raise RunError(
                f"cannot resume {str(directory.path)!r}: its {name} was {old}, and is {new} now; {mend}"
            )
    for name, (old, new) in differing.items():
        on_event(Note(f"warning: {name} was {old}, is {new} now: the result may differ in the last digits"))
