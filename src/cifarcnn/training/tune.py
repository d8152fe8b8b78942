"""Search for good settings with Optuna. Each trial is a run directory; any number of processes join a search.

Optuna's journal in the directory of the search says which trials there are. Two kinds of locks, which the
system lets go of when a process ends however it ends, keep processes apart: one on the journal, held for
moments, and one on each trial, held while it trains. A trial that is running by the journal, but whose lock
is free, is that of a process that was stopped or killed; the next process to look for work goes on with it.
"""

import contextlib
import json
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifarcnn.config import Value
from cifarcnn.errors import Interrupted, ModelError, RunError, UsageError, reason
from cifarcnn.events import EpochDone, Event, Note, OnEvent, ignore
from cifarcnn.formatting import count
from cifarcnn.machine import backend, devices, locks
from cifarcnn.runs import run
from cifarcnn.runs.run import RunDirectory
from cifarcnn.training import searchspace, seeds
from cifarcnn.training.searchspace import Choices, Range, Search

if TYPE_CHECKING:
    import optuna

JOURNAL = "journal.log"
PICTURE = "search.png"
NAME = "cifarcnn"

TRIALS = 20
"""How many trials a search has that is no grid, unless the caller says how many."""

JUDGED_AFTER = 5
"""How many trials must be finished before others are compared with them, to be pruned or for importance."""

WARMUP_EPOCHS = 2
"""An accuracy after less training says too little to prune a trial."""


@dataclass(frozen=True)
class Trial:
    """One trial of a search.

    Attributes:
        number: counted from 0, in the order in which trials were begun.
        state: finished; pruned: stopped because it was worse than the median of others after as many epochs;
            failed; running: a process trains it; interrupted: the next process will go on with it.
        settings: the values of the searched settings.
        val_accuracy: the best on the validation images so far, None without any.
        run_dir: its run directory.
        reason: why it failed.
    """

    number: int
    state: str
    settings: dict[str, Value]
    val_accuracy: float | None
    run_dir: Path
    reason: str | None = None


@dataclass(frozen=True)
class TuneResult:
    """What a search has found so far.

    Attributes:
        directory: holds a run directory for each trial.
        best: the finished trial of the highest validation accuracy, the earlier on ties; or None.
        trials: all that were begun, by number.
        shared: the settings that all trials have in common, as they were given.
        importance: the share of each searched setting in what made good trials good (PED-ANOVA); None where
            there are too few trials or only one setting.
        picture: the file that shows the search; None if no trial has an accuracy.
    """

    directory: Path
    best: Trial | None
    trials: tuple[Trial, ...]
    shared: dict[str, Value]
    importance: dict[str, float] | None
    picture: Path | None

    def as_document(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        rows = [
            {name: value for name, value in vars(trial).items() if name != "reason"}
            | {"run_dir": str(trial.run_dir)}
            for trial in self.trials
        ]
        best = None
        if self.best is not None:
            best = {name: value for name, value in rows[self.best.number].items() if name != "state"}
        return {"schema": 1, "best": best, "trials": rows}


class _Pruned(Interrupted):
    """A trial is not worth going on with. As after a signal, all is saved and the run can be resumed."""

    def __init__(self, epoch: int) -> None:
        super().__init__(f"pruned after epoch {epoch}: below the median of the other trials", 0)


def tune(
    settings_file: str | Path | None = None,
    *,
    out: str | Path,
    search: Mapping[str, Any] | None = None,
    trials: int | None = None,
    prune: bool = True,
    data: str | Path | None = None,
    on_event: OnEvent = ignore,
    **settings: Value,
) -> TuneResult:
    """Search for the settings of the highest validation accuracy.

    With lists alone, every combination is trained once. With a range, the first trial has the recipe's own
    values, where these are searched, and Optuna's TPE sampler, seeded with ``seed``, chooses the others.
    Call it again to join, to go on after an interruption, or to have more trials.

    Args:
        settings_file: a TOML file of settings with a table ``[search]``.
        out: the directory of the search.
        search: more of that table: a setting's name to a list, or to a dictionary with ``low``, ``high`` and
            perhaps ``log`` or ``step``.
        trials: how many in all. Default: every combination of a grid, else 20.
        prune: stop a trial that is worse than the median of the others after as many epochs.
        data, on_event, settings: as for ``cifarcnn.train``.

    Raises:
        UsageError: a setting or the search is wrong, or ``out`` holds another search.
        RunError: Optuna is not installed, or the directory cannot be read or written.
        Interrupted: a signal came; the trial under way is saved.

    Example:
        >>> found = cifarcnn.tune(arch="whiten6-tiny", search={"learning_rate": [0.02, 0.05]}, out="rates")
        >>> found.best.settings
        {'learning_rate': 0.05}
    """
    plan = searchspace.read(settings_file, search, settings)
    if trials is not None and trials < 1:
        raise UsageError(f"--trials is {trials}; expected 1 or more")
    hardware: dict[str, Any] = {name: plan.shared.get(name) for name in ("device", "precision", "devices")}
    # A device that is missing is no fault of the trials.
    devices.choose(
        backend.hardware(), hardware["device"] or "auto", hardware["precision"] or "auto", hardware["devices"]
    )
    grid = plan.grid
    total = min(trials or len(grid), len(grid)) if grid else trials or TRIALS
    with _quiet_optuna():
        study = _Study(Path(out), plan, prune)
        while (claimed := study.claim(total)) is not None:
            trial, lock = claimed
            try:
                study.train(trial, total, data, on_event)
            finally:
                lock.release()
        return study.result()


@contextlib.contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Keep Optuna from writing to stderr within the block, or say how to install it."""
    try:
        import optuna
    except ImportError as problem:
        raise RunError(
            f"a search needs Optuna, which cannot be imported ({reason(problem)}); install it with:"
            " pip install optuna"
        ) from problem
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


class _Lock:
    """A lock on a file, which is made. Whoever has it may take it again; Optuna uses acquire and release."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.depth = 0

    def acquire(self, *, wait: bool = True) -> bool:
        """Lock the file; return False if another process has it and this one does not wait."""
        if self.depth == 0:
            self.file = open(self.path, "a", encoding="ascii")  # noqa: SIM115 - held until released
            while not locks.acquire(self.file):
                if not wait:
                    self.file.close()
                    return False
                time.sleep(0.01)
        self.depth += 1
        return True

    def release(self) -> None:
        """Give up one ``acquire``."""
        self.depth -= 1
        if self.depth == 0:
            self.file.close()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class _Study:
    """Optuna's study of one directory, and who is at which of its trials."""

    def __init__(self, directory: Path, plan: Search, prune: bool) -> None:
        """Open the search in a directory, or begin it."""
        import optuna
        from optuna.storages.journal import JournalFileBackend, JournalStorage

        self.directory, self.plan = directory, plan
        self.journal = directory / JOURNAL
        pruner = optuna.pruners.MedianPruner(JUDGED_AFTER, WARMUP_EPOCHS)
        with self._storing():
            directory.mkdir(parents=True, exist_ok=True)
            self.lock = _Lock(directory / ".journal.lock")
            with self.lock:
                self._remove_torn_line()
                # Optuna's own locks are files that a killed process leaves behind.
                backend = JournalFileBackend(str(self.journal), lock_obj=self.lock)  # type: ignore[arg-type]
                self.storage = JournalStorage(backend)
                self.study = optuna.create_study(
                    study_name=NAME,
                    storage=self.storage,
                    direction="maximize",
                    pruner=pruner if prune else optuna.pruners.NopPruner(),
                    load_if_exists=True,
                )
                known = self.study.user_attrs.get("plan")
                document = json.loads(json.dumps(plan.as_document()))
                if known is None:
                    self.study.set_user_attr("plan", document)
                elif known != document:
                    raise UsageError(
                        f"{str(directory)!r} holds another search: {_difference(known, document)};"
                        " choose another --out"
                    )

    def _remove_torn_line(self) -> None:
        """Remove a line that a killed process or a full disk has left unfinished; Optuna would add to it."""
        with open(self.journal, "ab+") as file:
            file.seek(0)
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)

    @contextlib.contextmanager
    def _storing(self) -> Iterator[None]:
        """Turn the faults of the journal into one line, and keep Optuna's remarks to ourselves."""
        try:
            with run.saving(self.directory), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        # What Optuna raises at lines that it has not written.
        except (ValueError, KeyError, TypeError, AssertionError) as problem:
            raise RunError(
                f"cannot read {str(self.journal)!r}: {reason(problem)}; choose another --out, the runs beside"
                " the file are whole"
            ) from problem

    def path(self, number: int) -> Path:
        """Return the run directory of a trial."""
        return self.directory / f"trial{number:04}"

    def _own(self, number: int) -> "_Lock | None":
        """Take hold of a trial, unless another process has."""
        lock = _Lock(self.directory / f".trial{number:04}.lock")
        return lock if lock.acquire(wait=False) else None

    def claim(self, total: int) -> "tuple[optuna.trial.Trial, _Lock] | None":
        """Return a trial to train and the lock on it; None if there is nothing left to do."""
        import optuna

        running, waiting = optuna.trial.TrialState.RUNNING, optuna.trial.TrialState.WAITING
        with self._storing(), self.lock:
            trials = self.study.get_trials(deepcopy=False)
            for known in trials:
                # Somebody may be resuming the trial's run by itself.
                if known.state != running or locks.in_use(self.path(known.number)):
                    continue
                if (lock := self._own(known.number)) is not None:
                    study_id = self.storage.get_study_id_from_name(NAME)
                    trial_id = self.storage.get_trial_id_from_study_id_trial_number(study_id, known.number)
                    return optuna.trial.Trial(self.study, trial_id), lock
            number = sum(known.state != waiting for known in trials)
            if number >= total:
                return None
            # One that waits is this number's, left by a process that was killed between these lines.
            if number == len(trials) and (values := self._chosen(number)) is not None:
                self.study.enqueue_trial(values)
            # Else processes with the same seed would choose the same, and one that goes on would begin again.
            seed = self.plan.resolve({}).seed if "seed" not in self.plan.space else 0
            self.study.sampler = optuna.samplers.TPESampler(seed=seed + number, constant_liar=True)
            trial = self.study.ask()
            lock = self._own(trial.number)
            # Whoever looks at a trial's lock holds the journal's.
            return None if lock is None else (trial, lock)

    def _chosen(self, number: int) -> dict[str, Value] | None:
        """Return the values of a trial that are not left to the sampler."""
        if self.plan.grid is not None:
            return self.plan.grid[number]
        return self.plan.baseline if number == 0 else None

    def train(self, trial: "optuna.trial.Trial", total: int, data: str | Path | None, tell: OnEvent) -> None:
        """Train a trial, or go on with it, and keep in the journal how it ends."""
        import optuna

        path = self.path(trial.number)
        with self._storing():
            values = {name: _suggest(trial, name, choice) for name, choice in self.plan.space.items()}
        named = ", ".join(f"{name} {_brief(value)}" for name, value in values.items())
        tell(Note(f"{path.name}: {named}; {count(total, 'trial')} in all"))

        def watch(event: Event) -> None:
            tell(event)
            if isinstance(event, EpochDone) and event.val_accuracy is not None:
                with self._storing():
                    trial.report(event.val_accuracy, event.epoch)
                    hopeless = event.epoch < event.epochs and trial.should_prune()
                if hopeless:
                    raise _Pruned(event.epoch)

        outcome: dict[str, Any]
        try:
            explicit = {**self.plan.shared, **values}
            result = seeds.train_in(path, self.plan.resolve(values), explicit, data, watch)
            outcome = {"values": result.val_accuracy}
        except _Pruned as stop:
            outcome = {"state": optuna.trial.TrialState.PRUNED}
            tell(Note(str(stop)))
            directory = RunDirectory(path)
            directory.write_json(directory.failure, {"schema": 1, "error": str(stop), "pruned": True})
        except Interrupted as stop:
            raise Interrupted(
                f"stopped in {path}, saved; go on with the same command", stop.exit_code
            ) from stop
        except (RunError, ModelError, UsageError) as problem:
            # A full disk is no fault of these settings: the trial can be gone on with.
            if isinstance(problem.__cause__, OSError):
                raise
            outcome = {"state": optuna.trial.TrialState.FAIL}
            tell(Note(f"failed: {path.name}: {problem}"))
            with self._storing():
                trial.set_user_attr("reason", str(problem))
        with self._storing():
            self.study.tell(trial, **outcome)

    def result(self) -> TuneResult:
        """Sum the search up, and draw it."""
        from cifarcnn.figures import search

        with self._storing(), self.lock:
            known = [self._trial(frozen) for frozen in self.study.get_trials(deepcopy=False)]
            trials = tuple(trial for trial in known if trial is not None)
            importance = self._importance(sum(trial.state == "finished" for trial in trials))
        measured = [trial for trial in trials if trial.val_accuracy is not None]
        finished = [trial for trial in measured if trial.state == "finished"]
        best = max(finished, key=lambda trial: (trial.val_accuracy, -trial.number), default=None)
        picture = None
        if measured:
            picture = self.directory / PICTURE
            logs = [
                name for name, choice in self.plan.space.items() if isinstance(choice, Range) and choice.log
            ]
            with run.saving(self.directory):
                search.draw(measured, list(self.plan.space), logs, picture)
        return TuneResult(self.directory, best, trials, self.plan.shared, importance, picture)

    def _trial(self, frozen: "optuna.trial.FrozenTrial") -> Trial | None:
        """Return a trial as the caller knows it; None if it is not begun."""
        import optuna

        states = optuna.trial.TrialState
        if frozen.state == states.WAITING:
            return None
        ends = {states.COMPLETE: "finished", states.PRUNED: "pruned", states.FAIL: "failed"}
        if (state := ends.get(frozen.state)) is None:
            lock = self._own(frozen.number)
            state = "running" if lock is None else "interrupted"
            if lock is not None:
                lock.release()
        accuracy = frozen.value if state == "finished" else None
        if accuracy is None:
            accuracy = max(frozen.intermediate_values.values(), default=None)
        why = frozen.user_attrs.get("reason")
        return Trial(frozen.number, state, dict(frozen.params), accuracy, self.path(frozen.number), why)

    def _importance(self, finished: int) -> dict[str, float] | None:
        """Return the importance of each searched setting, where Optuna can tell."""
        import optuna

        if finished < JUDGED_AFTER or len(self.plan.space) < 2:
            return None
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        try:
            found = optuna.importance.get_param_importances(self.study, evaluator=evaluator)
        except (ValueError, RuntimeError):  # all trials are equally good, or differ in nothing
            return None
        return {name: float(share) for name, share in found.items()}


def _suggest(trial: "optuna.trial.Trial", name: str, choice: Choices | Range) -> Value:
    """Return the value of a setting in a trial."""
    if not isinstance(choice, Range):
        return trial.suggest_categorical(name, choice)
    if choice.whole:
        step = int(choice.step or 1)
        return trial.suggest_int(name, int(choice.low), int(choice.high), step=step, log=choice.log)
    return trial.suggest_float(name, choice.low, choice.high, step=choice.step, log=choice.log)


def _brief(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _difference(known: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say in what two searches differ."""
    for table in ("settings", "search"):
        before, after = known.get(table, {}), now[table]
        for name in {**before, **after}:
            if before.get(name) != after.get(name):
                return f"{name} was {before.get(name)!r} there, is {after.get(name)!r} now"
    return "it is of another version"
