"""Several seeds: each run as if it were trained alone, statistics, and going on where they stopped."""

import contextlib
import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

import pytest

import cifarcnn as package
from cifarcnn.config import Settings
from cifarcnn.errors import Interrupted, ModelError, RunError, UsageError
from cifarcnn.events import ignore
from cifarcnn.machine import backend
from cifarcnn.machine.devices import Gpu, Hardware
from cifarcnn.runs import sweep
from cifarcnn.runs.run import RunDirectory
from cifarcnn.training import preflight, series, seriesdirectory
from conftest import Run
from test_resume import Stopper, assert_same_run

SMALL: dict[str, Any] = {
    "arch": "plain6-small",
    "train_size": 120,
    "val_size": 50,
    "batch_size": 20,
    "epochs": 1,
}


def test_gpus_of_one_process_are_deterministic_for_all_runs_or_none(
    data_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorFlow does not go back; on a CPU the setting changes nothing."""
    runs = {"one": Settings(deterministic=True), "other": Settings()}
    gpus = (Gpu("A100", (8, 0)),)
    on_cpu = {name: dataclasses.replace(settings, device="cpu") for name, settings in runs.items()}
    for found, wanted, refused in (((), runs, False), (gpus, on_cpu, False), (gpus, runs, True)):
        hardware = Hardware("tensorflow", "a processor", 2, frozenset(), found, None)
        monkeypatch.setattr(backend, "hardware", lambda hardware=hardware: hardware)
        with contextlib.ExitStack() as stack:
            if refused:
                stack.enter_context(
                    pytest.raises(UsageError, match="deterministic is true and false in runs")
                )
            preflight.check(wanted, data_directory, ignore)


def test_seeds_are_trained_as_if_alone_and_resumed_together(tmp_path: Path, data_directory: Path) -> None:
    """Stopped in the second of three runs, the series goes on there; the statistics are over all."""
    stopper = Stopper()

    def stop_in_the_second(event: Any) -> None:
        stopper(event)
        if any(note.startswith("seed5: run 2 of 3") for note in stopper.notes) and not stopper.steps:
            stopper.steps = {(1, 4)}

    with pytest.raises(
        Interrupted, match=r"stopped in seed5, saved; 1 of 3 runs are finished; go on with: c"
    ):
        series.train_seeds(
            [2, 5, 3], out=tmp_path / "series", data=data_directory, on_event=stop_in_the_second, **SMALL
        )
    (directory,) = (tmp_path / "series").iterdir()
    # As if it had been begun where there are GPUs.
    stopped = RunDirectory(directory / "seed5")
    checkpoint = stopped.load_checkpoint(ignore)
    settings = dataclasses.replace(checkpoint.settings, device="gpu:0")
    stopped.save_checkpoint(dataclasses.replace(checkpoint, settings=settings))
    result = series.resume_series(directory, device="cpu")
    assert [run.seed for run in result.runs] == [2, 5, 3]
    assert [run.run_dir.name for run in result.runs] == ["seed2", "seed5", "seed3"]
    accuracies = [run.val_accuracy for run in result.runs]
    (group,) = result.groups
    assert group.n == 3
    assert group.mean["val_accuracy"] == pytest.approx(sum(accuracies) / 3)  # type: ignore[arg-type]
    assert group.std["val_accuracy"] == pytest.approx(statistics.stdev(accuracies))  # type: ignore[type-var]
    alone = package.train(out=tmp_path / "alone", data=data_directory, seed=5, **SMALL)
    assert_same_run(alone.run_dir, directory / "seed5")
    assert series.resume_series(directory) == result
    # A run that was extended by itself is no more one of the others.
    package.resume(directory / "seed3", epochs=2)
    groups = series.resume_series(directory).groups
    assert [(group.settings, group.n) for group in groups] == [({"epochs": 1}, 2), ({"epochs": 2}, 1)]


def test_one_run_has_no_deviation_and_no_validation_no_mean(tmp_path: Path, data_directory: Path) -> None:
    """What cannot be computed is None, as JSON has it."""
    result = series.train_seeds([0], out=tmp_path, data=data_directory, **{**SMALL, "val_size": 0})
    assert result.groups[0].mean["val_accuracy"] is None
    assert result.groups[0].std == dict.fromkeys(series.MEASURED)
    assert json.loads(json.dumps(result.as_document()))["mean"]["images_per_second"] is not None


def test_the_command_shows_a_table_or_a_document(cifarcnn: Run, data_directory: Path) -> None:
    """``--repeat 2`` is seeds 0 and 1, and the series is resumed by its directory."""
    options = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    done = cifarcnn("train", *options, "--data", data_directory, "--repeat", 2, "--json", "-q")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert list(document) == ["schema", "directory", "runs", "mean", "std", "groups", "failures"]
    assert [run["seed"] for run in document["runs"]] == [0, 1]
    shown = cifarcnn("train", "--resume", document["directory"], "--device", "cpu", "-q")
    assert (shown.returncode, shown.stderr) == (0, "")
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert [line[0] for line in lines] == ["seed", "0", "1", "mean", "std", "runs:"]
    assert lines[3][1] == f"{document['mean']['val_accuracy']:.2%}"
    changed = cifarcnn("train", "--resume", document["directory"], "--epochs", 3)
    assert changed.returncode == 2
    assert "give no setting" in changed.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seeds", "0,x"], "'0,x' is no list of whole numbers; expected e.g. 0,1,2"),
        (["--seeds", "1,1"], "seeds are [1, 1]; expected one or more, each once"),
        (["--seeds", "-1"], "seed is -1; expected a number at least 0"),
        (["--seeds", "0", "--seed", "1"], "--seeds cannot be given with --seed"),
        (["--repeat", "2", "--seeds", "1"], "--seeds cannot be given with --repeat"),
        (["--repeat", "2", "--resume", "x"], "--repeat cannot be given with --resume"),
        (["--repeat", "0"], "0 is not in the range"),
    ],
)
def test_wrong_seeds_are_refused(options: list[str], message: str, cifarcnn: Run, tmp_path: Path) -> None:
    """One line, exit code 2, and nothing is made."""
    done = cifarcnn("train", *options)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_a_damaged_plan_is_refused(tmp_path: Path) -> None:
    """The file is named."""
    (tmp_path / "sweep.json").write_text('{"runs": [1]}')
    with pytest.raises(RunError, match=r"cannot read .*sweep\.json"):
        series.resume_series(tmp_path)
    with pytest.raises(UsageError, match="expected one or more"):
        series.train_seeds([], out=tmp_path)


def test_a_series_that_is_refused_leaves_nothing(tmp_path: Path, data_directory: Path) -> None:
    """What every run would be refused for is told before a directory is made."""
    with pytest.raises(UsageError, match="there are 1000 training images"):
        series.train_seeds(
            [0, 1], out=tmp_path / "runs", data=data_directory, arch="vgg2", train_size=1000, batch_size=2000
        )
    assert not (tmp_path / "runs").exists()


def test_a_series_whose_images_moved_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New runs train on no other images; what is finished needs none."""
    settings = {**SMALL, "arch": "plain6-small"}
    sweep.repeat(settings, [0, 1], tmp_path / "gone").save(tmp_path)
    with pytest.raises(RunError, match=r"were in .*gone, which is gone; say with --data where they are now"):
        series.resume_series(tmp_path)
    taken: list[tuple[Any, ...]] = []

    def train_all(_directory: Path, plan: sweep.Plan, _tell: object, said: dict[str, Any]) -> None:
        taken.append((plan.data, said["data"]))

    monkeypatch.setattr(series, "_check", lambda *_: None)
    monkeypatch.setattr(series, "_train_all", train_all)
    series.resume_series(tmp_path, data=tmp_path / "here")
    here = str(tmp_path / "here")
    assert taken == [(here, here)]
    monkeypatch.setattr(seriesdirectory, "missing", lambda *_: [])
    series.resume_series(tmp_path)
    assert taken[1:] == [(str(tmp_path / "gone"), None)]


def test_any_failure_of_a_run_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only of its directory: a model that cannot be read, a report that cannot be written."""
    tried: list[str] = []

    def fail(path: Path, *_: object) -> None:
        tried.append(path.name)
        raise ModelError(f"no model in {path.name}")

    monkeypatch.setattr(series, "_train_one", fail)
    plan = sweep.repeat({**SMALL, "arch": "plain6-small"}, [4, 7])
    result = series._train_all(tmp_path, plan, ignore)
    assert tried == ["seed4", "seed7"]
    assert result.failures == {"seed4": "no model in seed4", "seed7": "no model in seed7"}
