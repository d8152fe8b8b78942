"""A search: what a file spans, which trials are trained, by whom, how often, and what comes out."""

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cifarcnn import config
from cifarcnn.config import Settings
from cifarcnn.errors import DataError, Interrupted, RunError, UsageError
from cifarcnn.events import EpochDone, Note, OnEvent
from cifarcnn.runs import listing
from cifarcnn.training import searchspace, seeds
from cifarcnn.training.searchspace import Range
from cifarcnn.training.tune import JOURNAL, tune
from test_seeds import invoke, result_of

GRID = {"learning_rate": [0.01, 0.02], "dropout": [0.0, 0.5]}
RANGE = {
    "learning_rate": {"low": 0.001, "high": 1.0, "log": True},
    "batch_size": {"low": 50, "high": 500, "step": 50},
}

Train = Callable[[Path, Settings], float]


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Callable[[Train], list[str]]:
    """Let a function of run directory and settings give the accuracy of a trial; return who was trained."""

    def replace(accuracy: Train) -> list[str]:
        trained: list[str] = []

        def train_in(path: Path, settings: Settings, _explicit: Any, _data: Any, tell: OnEvent) -> Any:
            trained.append(path.name)
            path.mkdir(exist_ok=True)
            found = accuracy(path, settings)
            for epoch in range(1, settings.epochs + 1):
                tell(EpochDone(epoch, settings.epochs, 1.0, found, 1.0, found, 0.1, 100.0, 1.0, best=True))
            return result_of(path, found)

        monkeypatch.setattr(seeds, "train_in", train_in)
        return trained

    return replace


def rate(_path: Path, settings: Settings) -> float:
    """An accuracy that falls with the distance from a learning rate of 0.1."""
    return 1 / (1 + abs(settings.learning_rate - 0.1))


def test_a_grid_is_every_combination_once(train: Callable[[Train], list[str]], tmp_path: Path) -> None:
    """The last list varies fastest; called again, everything is there already."""
    trained = train(rate)
    found = tune(search=GRID, out=tmp_path)
    assert trained == ["trial0000", "trial0001", "trial0002", "trial0003"]
    assert [trial.settings for trial in found.trials] == searchspace.read(None, GRID).grid
    assert found.best is not None
    assert (found.best.number, found.best.settings) == (2, {"learning_rate": 0.02, "dropout": 0.0})
    assert found.picture is not None
    assert found.picture.read_bytes().startswith(b"\x89PNG")
    assert tune(search=GRID, out=tmp_path, trials=9).trials == found.trials
    assert len(trained) == 4
    document = json.loads(json.dumps(found.as_document()))
    assert list(document) == ["schema", "best", "trials"]
    assert list(document["best"]) == ["number", "settings", "val_accuracy", "run_dir"]
    assert list(document["trials"][0]) == ["number", "state", "settings", "val_accuracy", "run_dir"]


def test_a_search_begins_with_the_recipe_and_repeats_by_its_seed(
    train: Callable[[Train], list[str]], tmp_path: Path
) -> None:
    """All at once, or in three calls: the same trials."""
    train(rate)
    whole = tune(search=RANGE, out=tmp_path / "one", trials=14, seed=3)
    for trials in (2, 11, 14):
        pieces = tune(search=RANGE, out=tmp_path / "two", trials=trials, seed=3)
        assert len(pieces.trials) == trials
    assert [trial.settings for trial in pieces.trials] == [trial.settings for trial in whole.trials]
    recipe = config.resolve({})
    if recipe.batch_size % 50 == 0 and recipe.batch_size <= 500:
        assert whole.trials[0].settings["learning_rate"] == recipe.learning_rate
    assert len({trial.settings["learning_rate"] for trial in whole.trials}) == 14
    assert all(0.001 <= trial.settings["learning_rate"] <= 1 for trial in whole.trials)  # type: ignore[operator]
    assert whole.importance is not None
    assert whole.importance.keys() == RANGE.keys()
    with pytest.raises(UsageError, match="holds another search: seed was 3 there, is 4 now; choose another"):
        tune(search=RANGE, out=tmp_path / "one", seed=4)


def test_a_hopeless_trial_is_pruned(train: Callable[[Train], list[str]], tmp_path: Path) -> None:
    """After enough others and enough epochs, and not if nobody wants it."""
    train(lambda path, _settings: 0.1 if path.name == "trial0006" else 0.5)
    found = tune(search=RANGE, out=tmp_path / "pruned", trials=7)
    assert [trial.state for trial in found.trials] == ["finished"] * 6 + ["pruned"]
    assert found.trials[6].val_accuracy == 0.1
    assert json.loads((found.trials[6].run_dir / "failure.json").read_text())["pruned"] is True
    whole = tune(search=RANGE, out=tmp_path / "whole", trials=7, prune=False)
    assert {trial.state for trial in whole.trials} == {"finished"}


def test_a_stopped_trial_is_the_next_ones_first(train: Callable[[Train], list[str]], tmp_path: Path) -> None:
    """By Ctrl-C, by images that cannot be had, or by a full disk."""

    def stop(path: Path, settings: Settings) -> float:
        if path.name == "trial0001" and problems:
            raise problems.pop(0)
        return rate(path, settings)

    full = RunError("cannot write")
    full.__cause__ = OSError(28, "No space left on device")
    problems: list[Exception] = [Interrupted("stopped", 130), DataError("no images"), full]
    trained = train(stop)
    for error, text in ((Interrupted, "go on with the same command"), (DataError, "no"), (RunError, "write")):
        with pytest.raises(error, match=text):
            tune(search=GRID, out=tmp_path)
    found = tune(search=GRID, out=tmp_path)
    assert [trial.state for trial in found.trials] == ["finished"] * 4
    assert trained == ["trial0000", *["trial0001"] * 4, "trial0002", "trial0003"]


def test_a_trial_that_fails_does_not_stop_the_others(
    train: Callable[[Train], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reason is kept; only if none is finished is the exit code 1."""

    def diverge(path: Path, settings: Settings) -> float:
        if settings.learning_rate > limit:
            raise RunError("the loss became nan")
        return rate(path, settings)

    monkeypatch.chdir(tmp_path)
    Path("grid.toml").write_text("arch = 'vgg2'\n[search]\nlearning-rate = [0.01, 0.02]\n")
    train(diverge)
    limit = 0.015
    done = invoke("tune", "--config", "grid.toml", "--out", "one", "--data", "images")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["trial", "learning_rate", "accuracy", "state"]
    assert [line.split()[-1] for line in lines[1:3]] == ["finished", "failed"]
    assert lines[3] == "2 trials: 1 finished, 1 failed"
    assert lines[-1] == "train: cifarcnn train --arch vgg2 --learning-rate 0.01 --data images"
    assert "failed: trial0001: the loss became nan" in done.stderr
    limit = 0.001
    done = invoke("tune", "--config", "grid.toml", "--out", "two", "--json", "-q")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["best"] is None
    assert done.stderr.splitlines()[-1] == "no trial is finished"


def test_a_line_cut_short_is_dropped_and_a_damaged_journal_is_told(
    train: Callable[[Train], list[str]], tmp_path: Path
) -> None:
    """A process killed while it writes; a file that something else has written."""
    trained = train(rate)
    tune(search=GRID, out=tmp_path, trials=2)
    with open(tmp_path / JOURNAL, "ab") as journal:
        journal.write(b'{"op_code":4,"worker')
    assert len(tune(search=GRID, out=tmp_path).trials) == len(trained) == 4
    (tmp_path / JOURNAL).write_bytes(b"mine\n" + (tmp_path / JOURNAL).read_bytes())
    with pytest.raises(RunError, match=r"cannot read .*journal\.log.*; choose another --out"):
        tune(search=GRID, out=tmp_path)


def test_without_optuna_its_name_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is made."""
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(RunError, match="install it with: pip install optuna"):
        tune(search=GRID, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


REFUSED = [
    ("epochs = 3", "nothing to search; expected a table [search] of lists and ranges"),
    ("search = 3", "nothing to search"),
    ("[search]\nepoch = [3]", "[search] unknown setting 'epoch'; did you mean 'epochs'?"),
    ("[search]\nepochs = 3", "[search] epochs is 3; expected a list or { low = …, high = … }"),
    ("[search]\nepochs = []", "[search] epochs is []; expected a list"),
    ("[search]\nepochs = [3, 'x']", "epochs is 'x'; expected a whole number"),
    ("[search]\nepochs = [3, 4, 3]", "epochs has 3 twice; expected each value once"),
    ("[search]\nema = [0, 0.0]", "ema has 0.0 twice"),
    ("[search]\nepochs = [" + "9" * 400 + "]", "epochs is inf; expected a number at least 1"),
    ("[search]\narch = ['vgg2', 'vgg9']", "unknown architecture 'vgg9'"),
    ("[search]\nbatch-size = [3]\nbatch_size = [4]", "has batch_size twice, with a dash and without"),
    ("batch-size = 3\n[search]\nbatch_size = [4]", "batch_size stands in [search] and beside it"),
    ("epoch = 3\n[search]\nepochs = [3]", "unknown setting 'epoch'"),
    ("[search]\ndevice = ['cpu']", "device cannot be searched"),
    ("[search]\ndropout = { low = 0.1 }", "[search] dropout has low; expected low and high"),
    ("[search]\ndropout = { low = 0.1, high = 0.2, base = 2 }", "expected low and high, and perhaps log or"),
    ("[search]\ndropout = { low = 0.2, high = 0.1 }", "low is 0.2, high is 0.1; expected low below high"),
    ("[search]\ndropout = { low = 0.0, high = 0.1, log = true }", "log is True; expected true only with low"),
    (
        "[search]\ndropout = { low = 0.1, high = 0.2, step = 1 }",
        "step is 1; expected a number above 0 and",
    ),
    ("[search]\nepochs = { low = 1, high = 9, step = 0.5 }", "step is 0.5; expected a whole number"),
    ("[search]\nepochs = { low = 0, high = 9 }", "epochs is 0; expected a number at least 1"),
    ("[search]\narch = { low = 'vgg2', high = 'vgg3' }", "is not a number; expected a list of values"),
    ("[search]\nval-size = [0, 500]", "with val_size 0: --val-size is 0, but trials are compared on"),
    ("[search]\nepochs = [" + ",".join(map(str, range(1, 1002))) + "]", "spans 1,001 combinations; expected"),
]


@pytest.mark.parametrize(("content", "message"), REFUSED)
def test_what_is_wrong_is_named_in_one_line(content: str, message: str, tmp_path: Path) -> None:
    """The file, the place and the setting; nothing is made."""
    file = tmp_path / "lr.toml"
    file.write_text(content)
    with pytest.raises(UsageError) as caught:
        tune(file, out=tmp_path / "out")
    assert message in str(caught.value).replace("--epochs", "epochs").replace("--ema", "ema")
    assert str(caught.value).startswith(f"--config {str(file)!r}")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_setting_is_given_in_one_place(tmp_path: Path) -> None:
    """The option is named as it is typed, and train says whose file this is."""
    with pytest.raises(UsageError, match=r"stands in .search. and is given as --learning-rate"):
        tune(search=GRID, out=tmp_path, learning_rate=0.1)
    (tmp_path / "lr.toml").write_text("[search]\nepochs = [3]\n")
    with pytest.raises(UsageError, match=r"has a table .search.; give it to `cifarcnn tune`"):
        config.read_toml(tmp_path / "lr.toml")


def test_what_is_in_a_range() -> None:
    """Both ends, and with a step what it reaches."""
    assert 0.5 in Range(0.1, 0.5, whole=False)
    assert 0.6 not in Range(0.1, 0.5, whole=False)
    assert 0.4 in Range(0.1, 0.7, whole=False, step=0.1)
    assert 0.45 not in Range(0.1, 0.7, whole=False, step=0.1)
    assert "0.4" not in Range(0.1, 0.7, whole=False)


COMPLETE = 1
"""How Optuna's journal writes the state of a trial that has a value."""

WORKER = textwrap.dedent("""
    import sys
    import cifarcnn
    from cifarcnn.events import EpochDone, Note

    def tell(event):
        if isinstance(event, Note):
            print(event.text, flush=True)
        if isinstance(event, EpochDone):
            print("epoch", event.epoch, flush=True)
            if sys.argv[1] == "waits":
                sys.stdin.read()

    cifarcnn.tune(
        search={"learning_rate": [0.01, 0.02], "dropout": [0.0, 0.5]}, out=sys.argv[2], data=sys.argv[3],
        on_event=tell, arch="plain6-small", train_size=60, val_size=20, batch_size=20, epochs=2, device="cpu",
    )
""")


@pytest.mark.slow
def test_a_killed_process_loses_no_trial_and_none_is_trained_twice(
    tmp_path: Path, data_directory: Path
) -> None:
    """One is killed in its first trial, after an epoch; the other, in its own by then, goes on with it."""

    def start(how: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", WORKER, how, tmp_path / "out", data_directory],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    killed = start("waits")
    assert killed.stdout is not None
    while killed.stdout.readline() != "epoch 1\n":
        assert killed.poll() is None
    other = start("works")
    assert other.stdout is not None
    said = []
    while not said or said[-1] != "epoch 1\n":
        said.append(other.stdout.readline())
        assert other.poll() is None
    killed.kill()
    killed.communicate()
    rest, _ = other.communicate(timeout=600)
    assert other.returncode == 0
    begun = [line.split(":")[0] for line in "".join([*said, rest]).splitlines() if line.startswith("trial0")]
    assert begun == ["trial0001", "trial0000", "trial0002", "trial0003"]
    assert "resuming" in rest
    lines = map(json.loads, (tmp_path / "out" / JOURNAL).read_text().splitlines())
    assert sorted(line["trial_id"] for line in lines if line.get("state") == COMPLETE) == [0, 1, 2, 3]
    rows = listing.gather([tmp_path / "out"]).rows
    assert [(row.name, row.state) for row in rows] == [(f"trial000{n}", "finished") for n in range(4)]


@pytest.mark.slow
def test_a_pruned_run_is_whole_listed_and_resumable(
    tmp_path: Path, data_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real one; the command then finishes it like any other."""
    import optuna

    import cifarcnn

    monkeypatch.setattr(optuna.trial.Trial, "should_prune", lambda _trial: True)
    small: dict[str, Any] = {"train_size": 60, "val_size": 20, "batch_size": 20, "epochs": 2, "device": "cpu"}
    notes: list[str] = []
    found = tune(
        search={"dropout": [0.5]}, out=tmp_path, data=data_directory, arch="plain6-small", **small,
        on_event=lambda event: notes.append(event.text) if isinstance(event, Note) else None,
    )  # fmt: skip
    assert [trial.state for trial in found.trials] == ["pruned"]
    (row,) = listing.gather([tmp_path]).rows
    assert (row.state, row.epochs_done) == ("pruned", 1)
    assert (row.reason or "").startswith("pruned after epoch 1")
    assert cifarcnn.resume(row.path).epochs == 2
    assert listing.gather([tmp_path]).rows[0].state == "finished"
