"""Several seeds: each run as if it were trained alone, statistics, and going on where they stopped."""

import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import cifarcnn as package
from cifarcnn.cli.main import cli
from cifarcnn.errors import CifarCNNError, DataError, Interrupted, ModelError, RunError, UsageError
from cifarcnn.events import ignore
from cifarcnn.runs.run import RunDirectory
from cifarcnn.training import seeds
from test_resume import Stopper, assert_same_run

SMALL: dict[str, Any] = {
    "arch": "plain6-small",
    "train_size": 120,
    "val_size": 50,
    "batch_size": 20,
    "epochs": 1,
    "device": "cpu",
}


def invoke(*arguments: object) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def result_of(path: Path, accuracy: float | None, **fields: Any) -> seeds.TrainingResult:
    """Make up how a training ended."""
    known: dict[str, Any] = {
        "arch": "vgg2", "recipe": "fast", "seed": 0, "epochs": 1, "best_epoch": 1, "val_accuracy": accuracy,
        "val_loss": None if accuracy is None else 1 - accuracy, "train_seconds": 1.0,
        "images_per_second": 100.0, "device": "cpu", "precision": "float32",
    }  # fmt: skip
    return seeds.TrainingResult(run_dir=path, model=path / "best.keras", **{**known, **fields})


def test_seeds_are_trained_as_if_alone_and_resumed_together(tmp_path: Path, data_directory: Path) -> None:
    """Stopped in the second of three runs, they go on there; the statistics are over all."""
    stopper = Stopper()

    def stop_in_the_second(event: Any) -> None:
        stopper(event)
        if any(note.startswith("seed5: run 2 of 3") for note in stopper.notes) and not stopper.steps:
            stopper.steps = {(1, 4)}

    with pytest.raises(
        Interrupted, match=r"stopped in seed5, saved; 1 of 3 runs are finished; go on with: c"
    ):
        seeds.train_seeds(
            [2, 5, 3], out=tmp_path / "several", data=data_directory, on_event=stop_in_the_second, **SMALL
        )
    (directory,) = (tmp_path / "several").iterdir()
    # As if it had been begun where there are GPUs.
    stopped = RunDirectory(directory / "seed5")
    checkpoint = stopped.load_checkpoint(ignore)
    settings = dataclasses.replace(checkpoint.settings, device="gpu:0")
    stopped.save_checkpoint(dataclasses.replace(checkpoint, settings=settings))
    result = seeds.resume_seeds(directory, device="cpu")
    assert [run.seed for run in result.runs] == [2, 5, 3]
    assert [run.run_dir.name for run in result.runs] == ["seed2", "seed5", "seed3"]
    accuracies = [run.val_accuracy for run in result.runs]
    assert result.mean["val_accuracy"] == pytest.approx(sum(accuracies) / 3)  # type: ignore[arg-type]
    assert result.std["val_accuracy"] == pytest.approx(statistics.stdev(accuracies))  # type: ignore[type-var]
    alone = package.train(out=tmp_path / "alone", data=data_directory, seed=5, **SMALL)
    assert_same_run(alone.run_dir, directory / "seed5")
    assert seeds.resume_seeds(directory) == result
    # A run that was extended by itself is no more one of the others.
    package.resume(directory / "seed3", epochs=2)
    again = seeds.resume_seeds(directory)
    assert [run.seed for run in again.runs] == [2, 5]
    assert "--epochs" in again.failures["seed3"] or "epochs is 1, but 2 are" in again.failures["seed3"]


def test_the_command_shows_a_table_or_a_document(
    data_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--repeat 2`` is seeds 0 and 1, and the runs are resumed by their directory."""
    monkeypatch.chdir(tmp_path)
    options = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    done = invoke("train", *options, "--data", data_directory, "--repeat", 2, "--json", "-q")
    assert (done.exit_code, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert list(document) == ["schema", "directory", "runs", "mean", "std", "failures"]
    assert [run["seed"] for run in document["runs"]] == [0, 1]
    shown = invoke("train", "--resume", document["directory"], "--device", "cpu", "-q")
    assert (shown.exit_code, shown.stderr) == (0, "")
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert [line[0] for line in lines] == ["seed", "0", "1", "mean", "std", "runs:"]
    assert lines[3][1] == f"{document['mean']['val_accuracy']:.2%}"
    changed = invoke("train", "--resume", document["directory"], "--epochs", 3)
    assert changed.exit_code == 2
    assert "give no setting" in changed.stderr


def test_what_cannot_be_computed_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run has no deviation, and without validation images there is no mean; as JSON has it."""
    monkeypatch.setattr(seeds, "train_in", lambda path, *_, **_more: result_of(path, None))
    result = seeds.train_seeds([0], out=tmp_path, arch="vgg2")
    assert result.mean["val_accuracy"] is None
    assert result.std == dict.fromkeys(seeds.MEASURED)
    assert json.loads(json.dumps(result.as_document()))["mean"]["images_per_second"] == 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seeds", "0,x"], "'0,x' is no list of whole numbers; expected e.g. 0,1,2"),
        (["--seeds", "1,1"], "--seeds is [1, 1]; expected one or more, each once"),
        (["--seeds", "-1"], "seed is -1; expected a number at least 0"),
        (["--seeds", "0", "--seed", "1"], "--seeds cannot be given with --seed"),
        (["--repeat", "2", "--seeds", "1"], "--seeds cannot be given with --repeat"),
        (["--repeat", "2", "--resume", "x"], "--repeat cannot be given with --resume"),
        (["--repeat", "2", "--scale-batch"], "--scale-batch cannot be given with --repeat"),
        (["--scale-batch", "--resume", "x"], "--scale-batch cannot be given with --resume"),
        (["--config", "x", "--resume", "x"], "--config cannot be given with --resume"),
        (["--out", "x", "--resume", "x"], "--out cannot be given with --resume"),
        (["--repeat", "0"], "0 is not in the range"),
    ],
)
def test_wrong_options_are_refused(
    options: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2, and nothing is made."""
    monkeypatch.chdir(tmp_path)
    done = invoke("train", *options)
    assert done.exit_code == 2 or getattr(done.exception, "exit_code", None) == 2
    assert message in done.stderr + str(done.exception)
    assert list(tmp_path.iterdir()) == []


def test_several_machines_train_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them would else train all seeds."""
    workers = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(workers))
    done = invoke("train", "--repeat", "2")
    assert done.exit_code == 2
    assert "train them with --alone" in done.stderr


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"seeds": [1]}', b"\xff", b'{"seeds": [], "settings": {}}']
)
def test_a_damaged_plan_is_refused(content: bytes, tmp_path: Path) -> None:
    """The file is named."""
    (tmp_path / seeds.FILE).write_bytes(content)
    with pytest.raises(RunError, match=r"cannot read .*seeds\.json"):
        seeds.resume_seeds(tmp_path)
    with pytest.raises(UsageError, match="expected one or more"):
        seeds.train_seeds([], out=tmp_path)


def test_what_refuses_the_first_run_leaves_nothing(tmp_path: Path, data_directory: Path) -> None:
    """It would refuse all of them."""
    with pytest.raises(UsageError, match="there are 1000 training images"):
        seeds.train_seeds(
            [0, 1], out=tmp_path / "runs", data=data_directory, arch="vgg2", train_size=1000, batch_size=2000
        )
    assert list((tmp_path / "runs").iterdir()) == []


def test_runs_whose_images_moved_say_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New runs train on no other images; what is begun knows where its own are."""
    (tmp_path / "images").mkdir()
    monkeypatch.setattr(seeds, "train_in", lambda path, *_, **_more: result_of(path, 0.5))
    directory = seeds.train_seeds([0, 1], out=tmp_path, data=tmp_path / "images", arch="vgg2").directory
    (tmp_path / "images").rename(tmp_path / "here")
    with pytest.raises(RunError, match=r"were in .*images, which is gone; say with --data where they are"):
        seeds.resume_seeds(directory)
    given: list[Any] = []

    def train_in(
        path: Path, _settings: object, _given: object, data: object, *_: object, **_m: object
    ) -> object:
        given.append(data)
        return result_of(path, 0.5)

    monkeypatch.setattr(seeds, "train_in", train_in)
    seeds.resume_seeds(directory, data=tmp_path / "here")
    assert given == [str(tmp_path / "here")] * 2


@pytest.mark.parametrize("error", [ModelError, RunError, UsageError, DataError])
def test_any_failure_of_a_run_leaves_the_others(
    error: type[CifarCNNError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only of its directory: a model that cannot be read, a report that cannot be written."""

    def fail(path: Path, *_: object, **_more: object) -> None:
        path.mkdir()
        raise error(f"no model in {path.name}")

    monkeypatch.setattr(seeds, "train_in", fail)
    monkeypatch.chdir(tmp_path)
    done = invoke("train", "--seeds", "4,7", "--json", "-q")
    assert done.exit_code == 1
    document = json.loads(done.stdout)
    assert document["failures"] == {"seed4": "no model in seed4", "seed7": "no model in seed7"}
    assert done.stderr.splitlines()[-1] == "2 of 2 runs failed"
    assert done.stderr.splitlines()[0] == "failed: seed4: no model in seed4"


def test_a_failure_is_remembered_until_the_run_goes_on(tmp_path: Path) -> None:
    """A stop is no failure."""
    directory = RunDirectory(tmp_path)
    with pytest.raises(RunError), directory.remembering_failure():
        raise RunError("the loss became nan")
    assert json.loads(directory.failure.read_text()) == {"schema": 1, "error": "the loss became nan"}
    with pytest.raises(Interrupted), directory.remembering_failure():
        raise Interrupted("stopped", 130)
    assert not directory.failure.exists()
