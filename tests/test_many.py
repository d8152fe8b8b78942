"""Runs of one settings file in several processes: each as if alone, at the same time, stopped, failed."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import cifarcnn as package
from cifarcnn.data.cifar10 import CLASSES, parse
from cifarcnn.errors import Interrupted, RunError, UsageError
from cifarcnn.events import Event, Note
from cifarcnn.machine import locks
from cifarcnn.runs import sweep
from cifarcnn.runs.run import RunDirectory
from cifarcnn.training import series, seriesdirectory
from conftest import Run, isolated_environment
from test_resume import Stopper, assert_same_run
from tinydata import TRAIN_FILES, TinyData

SMALL: dict[str, Any] = {
    "arch": "plain6-small",
    "val_size": 20,
    "batch_size": 20,
    "epochs": 1,
    "device": "cpu",
}
TABLE = 'arch = "plain6-small"\nval-size = 20\nbatch-size = 20\nepochs = 1\ndevice = "cpu"\n'
COMMAND = Path(sys.executable).with_name("cifarcnn")


@pytest.fixture
def pictures(tiny: TinyData, tmp_path: Path) -> Path:
    """The 100 training images of the stand-in data set, in class-named folders."""
    for file in TRAIN_FILES:
        for number, (image, label) in enumerate(zip(*parse(tiny.files[file]), strict=True)):
            folder = tmp_path / "pictures" / CLASSES[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{file}-{number}.png")
    return tmp_path / "pictures"


def write(folder: Path, content: str, name: str = "lr.toml") -> Path:
    """Make a settings file of small trainings."""
    (folder / name).write_text(TABLE + content)
    return folder / name


def test_two_processes_train_two_tasks_at_the_same_time(
    cifarcnn: Run, pictures: Path, tmp_path: Path
) -> None:
    """Started at once in a directory that does not exist; asked again, each says that it is finished."""
    file = write(tmp_path, "[grid]\nlearning-rate = [0.01, 0.02]\n")
    arguments = ["train", "--config", file, "--data", pictures, "--json", "--task"]
    environment = {"PATH": os.environ["PATH"], **isolated_environment(tmp_path)}
    processes = [
        subprocess.Popen(
            [COMMAND, *map(str, arguments), str(number)], cwd=tmp_path, env=environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number in (1, 2)
    ]  # fmt: skip
    ended = [(*process.communicate(timeout=600), process.returncode) for process in processes]
    assert [code for *_, code in ended] == [0, 0], ended
    documents = [json.loads(out) for out, *_ in ended]
    assert [Path(document["run_dir"]).name for document in documents] == [
        "1-learning_rate0.01", "2-learning_rate0.02"
    ]  # fmt: skip
    again = cifarcnn(*arguments, 2)
    assert json.loads(again.stdout) == documents[1]
    assert "2-learning_rate0.02 is finished: 1 of 1 epochs" in again.stderr
    listed = cifarcnn("runs", "--json")
    assert listed.returncode == 0
    assert [(row["name"], row["state"]) for row in json.loads(listed.stdout)["runs"]] == [
        ("lr/1-learning_rate0.01", "finished"), ("lr/2-learning_rate0.02", "finished")
    ]  # fmt: skip
    whole = cifarcnn("train", "--resume", "runs/lr", "-q", "--json")
    assert json.loads(whole.stdout)["runs"] == documents
    shown = cifarcnn("train", "--config", file, "-q")
    assert shown.returncode == 0
    assert shown.stdout.splitlines()[1].startswith("1-learning_rate0.01")


MAKER = """
import sys, time
from pathlib import Path
from cifarcnn.runs import sweep
from cifarcnn.training import seriesdirectory
file, parent, number = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
plan = sweep.read(file, {})
print("ready", flush=True)
start = float(sys.stdin.readline())
for turn in range(50):
    while time.time() < start + turn / 20:
        pass
    with seriesdirectory.taken_up(parent / str(turn) / "lr", plan):
        (parent / str(turn) / "lr" / plan.tasks[number].name).mkdir()
"""


def test_a_directory_made_by_several_at_once_is_whole(tmp_path: Path) -> None:
    """Three processes, fifty times at the same instant: none fails, and nothing half written stays."""
    file = write(tmp_path, "[grid]\nlearning-rate = [0.01, 0.02, 0.03]\n")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", MAKER, file, tmp_path / "o", str(number)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for number in range(3)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    start = f"{time.time() + 0.2}\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(start)
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=300)
    assert [process.returncode for process in processes] == [0] * 3
    plan = sweep.read(file, {})
    directories = list((tmp_path / "o").glob("*/lr"))
    assert len(directories) == 50
    for directory in directories:
        assert sweep.load(directory) == plan
        names = {path.name for path in directory.iterdir()}
        ours = {sweep.FILE, seriesdirectory.LOCK, seriesdirectory.IN_USE}
        assert names == ours | {task.name for task in plan.tasks}


def test_a_stopped_task_goes_on_by_the_same_command(pictures: Path, tmp_path: Path) -> None:
    """It ends as a run that was trained alone and never stopped; --resume trains the rest."""
    file = write(tmp_path, '[[run]]\n[[run]]\narch = "vgg2"\n')
    stopper = Stopper((1, 4))
    with pytest.raises(Interrupted, match=r"go on with: cifarcnn train --resume .*/lr/1-"):
        series.train_task(file, 1, out=tmp_path / "o", data=pictures, on_event=stopper, epochs=2)
    result = series.train_task(file, 1, out=tmp_path / "o", data=pictures, on_event=stopper, epochs=2)
    assert any("resuming" in note for note in stopper.notes)
    alone = package.train(out=tmp_path / "alone", data=pictures, **{**SMALL, "epochs": 2})
    assert_same_run(result.run_dir, alone.run_dir)
    whole = series.resume_series(tmp_path / "o" / "lr")
    assert [run.arch for run in whole.runs] == ["plain6-small", "vgg2"]
    assert whole.runs[0] == result
    assert [group.settings["arch"] for group in whole.groups] == ["plain6-small", "vgg2"]
    with pytest.raises(UsageError, match="holds other runs: epochs of task 1 is 2 there, 1 now; choose"):
        series.train_sweep(file, out=tmp_path / "o")


def test_a_diverging_run_does_not_stop_the_others(cifarcnn: Run, pictures: Path, tmp_path: Path) -> None:
    """Its reason is told and kept, the others are finished, and the exit code is 1."""
    steep = "optimizer = 'nesterov'\nmomentum = 0.9\nschedule = 'constant'\nwarmup = 0.2\n"
    file = write(tmp_path, steep + "[grid]\nlearning-rate = [1000, 0.01]\n")
    done = cifarcnn("train", "--config", file, "--data", pictures, "--json")
    assert done.returncode == 1, done.stderr
    assert done.stdout, done.stderr
    document = json.loads(done.stdout)
    ((name, reason),) = document["failures"].items()
    assert name == "1-learning_rate1000"
    assert "no finite numbers" in reason or "the loss became" in reason
    assert [group["n"] for group in document["groups"]] == [0, 1]
    assert "1 of 2 runs failed" in done.stderr
    rows = json.loads(cifarcnn("runs", "--json").stdout)["runs"]
    assert [(row["state"], row["reason"]) for row in rows] == [("failed", reason), ("finished", None)]
    # Told again what fails, and nothing else.
    quiet = cifarcnn("train", "--config", file, "--data", pictures, "-q")
    assert quiet.returncode == 1
    assert quiet.stderr.splitlines() == [f"failed: {name}: {reason}", "1 of 2 runs failed"]


def test_what_the_images_forbid_is_found_before_anything_trains(pictures: Path, tmp_path: Path) -> None:
    """The run is named; the file can be mended and started again."""
    file = write(tmp_path, "[grid]\nval-size = [20, 90]\n".replace("val-size", "train-size"))
    with pytest.raises(UsageError, match=r"^2-train_size90: .*"):
        series.train_sweep(file, out=tmp_path / "o", data=pictures)
    assert [path.name for path in (tmp_path / "o" / "lr").iterdir() if path.is_dir()] == []
    mended = sweep.read(write(tmp_path, "[grid]\ntrain-size = [20, 60]\n"), {})
    with seriesdirectory.taken_up(tmp_path / "o" / "lr", mended) as taken:
        assert taken == mended


def test_a_plan_in_use_is_not_replaced(tmp_path: Path) -> None:
    """Not even before its first run has begun: two processes would train two plans in one directory."""
    file = write(tmp_path, "[grid]\nlearning-rate = [0.01, 0.02]\n")
    plan, other = (sweep.read(file, {"epochs": epochs}) for epochs in (2, 5))
    with seriesdirectory.taken_up(tmp_path / "lr", plan):
        with seriesdirectory.taken_up(tmp_path / "lr", plan) as taken:
            assert taken == plan
        with (
            pytest.raises(UsageError, match="holds other runs: epochs of task 1 is 2 there, 5 now"),
            seriesdirectory.taken_up(tmp_path / "lr", other),
        ):
            pass
    with seriesdirectory.taken_up(tmp_path / "lr", other) as taken:
        assert taken == other


def test_devices_may_change_and_are_kept_if_nothing_is_said(tmp_path: Path) -> None:
    """A sweep goes on on another device, or with one for each task."""
    file = tmp_path / "lr.toml"
    file.write_text("[grid]\nlearning-rate = [0.01, 0.02]\n")
    said: list[tuple[dict[str, Any], tuple[str, int | None]]] = [
        ({"device": "gpu", "devices": 2}, ("gpu", 2)),
        ({}, ("gpu", 2)),
        ({"device": "auto"}, ("gpu", 2)),
        ({"device": "gpu:1"}, ("gpu:1", None)),
        ({"device": "cpu"}, ("cpu", None)),
    ]
    for settings, expected in said:
        with seriesdirectory.taken_up(tmp_path / "lr", sweep.read(file, settings)) as taken:
            assert [(task.settings.device, task.settings.devices) for task in taken.tasks] == [expected] * 2
        (tmp_path / "lr" / taken.tasks[0].name).mkdir(exist_ok=True)


def test_a_run_in_use_and_a_directory_of_others_are_refused(pictures: Path, tmp_path: Path) -> None:
    """The process is named; nothing is overwritten."""
    file = write(tmp_path, "[grid]\nlearning-rate = [0.01, 0.02]\n")
    directory = seriesdirectory.sweep_directory(file, tmp_path / "o")
    path = directory / "1-learning_rate0.01"
    with seriesdirectory.taken_up(directory, sweep.read(file, {})):
        path.mkdir()
    with locks.held(path):
        assert locks.in_use(path)
        with pytest.raises(RunError, match=f"in use by process {os.getpid()}; wait for it"):
            series.train_task(file, 1, out=tmp_path / "o", data=pictures)
    assert not locks.in_use(path)

    def finish_elsewhere(event: Event) -> None:
        if isinstance(event, Note) and event.text.startswith("run directory:"):
            (path / "checkpoint.npz").touch()

    with pytest.raises(RunError, match=r"another process has begun .*; start this one again"):
        series.train_task(file, 1, out=tmp_path / "o", data=pictures, on_event=finish_elsewhere)
    assert sorted(entry.name for entry in path.iterdir()) == [".lock", "checkpoint.npz"]
    (tmp_path / "other" / "lr").mkdir(parents=True)
    (tmp_path / "other" / "lr" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"exists and holds no sweep\.json; choose another --out"):
        series.train_sweep(file, out=tmp_path / "other")
    write(tmp_path, "[grid]\nlearning-rate = [0.01, 0.02, 0.03]\n")
    with pytest.raises(UsageError, match="holds other runs: 2 were planned there, 3 now; choose another"):
        series.train_task(file, 3, out=tmp_path / "o", data=pictures)


@pytest.mark.parametrize(
    ("file", "name"), [("lr.toml", "lr"), ("../a b/x.y.toml", "x.y"), (".toml", "toml"), ("...", "sweep")]
)
def test_the_directory_has_the_name_of_the_file(file: str, name: str) -> None:
    """Always one below --out."""
    assert seriesdirectory.sweep_directory(file, "runs") == Path("runs", name)


def test_a_failure_is_remembered_until_the_run_goes_on(tmp_path: Path) -> None:
    """A stop is no failure."""
    directory = RunDirectory(tmp_path)
    with pytest.raises(RunError), directory.remembering_failure():
        raise RunError("the loss became nan")
    assert json.loads(directory.failure.read_text()) == {"schema": 1, "error": "the loss became nan"}
    with pytest.raises(Interrupted), directory.remembering_failure():
        raise Interrupted("stopped", 130)
    assert not directory.failure.exists()
