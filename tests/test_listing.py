"""All runs in one table: what is read, which state a run is in, and whatever else may lie in a directory."""

import csv
import dataclasses
import fcntl
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cifarcnn import config
from cifarcnn.errors import UsageError
from cifarcnn.runs import listing
from conftest import Run


def make_run(path: Path, accuracies: list[float | None], **said: Any) -> Path:
    """Write what a run of some epochs leaves, as far as it is read."""
    resolved = config.resolve({"epochs": 3, **said})
    path.mkdir(parents=True)
    (path / "settings.json").write_text(json.dumps(dataclasses.asdict(resolved)))
    metrics, timing = (
        "epoch,loss,accuracy,val_loss,val_accuracy,learning_rate\n",
        "epoch,seconds,images_per_second\n",
    )
    for epoch, accuracy in enumerate(accuracies, 1):
        measured = "," if accuracy is None else f"{1 - accuracy},{accuracy}"
        metrics += f"{epoch},2.0,0.5,{measured},0.1\n"
        timing += f"{epoch},1.5,{1000 * epoch}.0\n"
    (path / "metrics.csv").write_text(metrics)
    (path / "timing.csv").write_text(timing)
    for name in ("checkpoint.npz", "best.keras", ".lock"):
        (path / name).touch()
    return path


def test_a_run_is_summed_up_from_its_tables(tmp_path: Path) -> None:
    """The best epoch is the first of the best accuracy; all settings are there."""
    make_run(tmp_path / "runs" / "one", [0.5, 0.75, 0.75], arch="vgg3", seed=4)
    (row,) = listing.gather([tmp_path / "runs"]).rows
    assert (row.name, row.state, row.reason) == ("one", "finished", None)
    assert (row.epochs_done, row.best_epoch, row.val_accuracy, row.val_loss) == (3, 2, 0.75, 0.25)
    assert (row.seconds, row.images_per_second) == (4.5, 2000.0)
    assert (row.settings["arch"], row.settings["seed"], row.settings["epochs"]) == ("vgg3", 4, 3)
    assert listing.gather([tmp_path / "runs" / "one"]).rows[0].state == "finished"


def test_without_validation_the_last_epoch_is_the_best(tmp_path: Path) -> None:
    """As in training."""
    make_run(tmp_path / "one", [None, None, None], val_size=0)
    (row,) = listing.gather([tmp_path]).rows
    assert (row.state, row.best_epoch, row.val_accuracy) == ("finished", 3, None)


def test_validation_in_some_epochs_alone_is_no_bug_of_ours(tmp_path: Path) -> None:
    """No training writes it, but a file can hold it."""
    make_run(tmp_path / "one", [None, 0.5, None])
    (row,) = listing.gather([tmp_path]).rows
    assert (row.state, row.epochs_done) == ("finished", 3)


def test_each_state_is_told(tmp_path: Path) -> None:
    """Finished by epochs or by patience, running, interrupted, failed, pruned, damaged."""
    make_run(tmp_path / "a-finished", [0.1, 0.2, 0.3])
    make_run(tmp_path / "b-finished", [0.3, 0.2], patience=1)
    make_run(tmp_path / "c-interrupted", [0.1])
    failed = make_run(tmp_path / "d-failed", [0.1])
    (failed / "failure.json").write_text('{"schema": 1, "error": "the loss became nan"}')
    (make_run(tmp_path / "e-damaged", [0.1]) / "checkpoint.npz").unlink()
    (make_run(tmp_path / "f-damaged", [0.1, 0.2, 0.3]) / "best.keras").unlink()
    running = make_run(tmp_path / "g-running", [0.1])
    starting = tmp_path / "h-running"
    starting.mkdir()
    (tmp_path / "i-interrupted").mkdir()
    (tmp_path / "i-interrupted" / ".lock").touch()
    pruned = make_run(tmp_path / "j-pruned", [0.1])
    (pruned / "failure.json").write_text('{"schema": 1, "error": "below the median", "pruned": true}')
    with open(running / ".lock") as one, open(starting / ".lock", "w") as two:
        fcntl.flock(one, fcntl.LOCK_EX)
        fcntl.flock(two, fcntl.LOCK_EX)
        found = listing.gather([tmp_path])
    states = {row.name: row.state for row in found.rows}
    assert all(name.endswith(f"-{state}") for name, state in states.items())
    assert set(states.values()) == {"finished", "running", "interrupted", "failed", "damaged", "pruned"}
    assert len(states) == 10
    reasons = {row.name: row.reason for row in found.rows if row.reason}
    assert reasons["d-failed"] == "the loss became nan"
    assert reasons["e-damaged"] == "no checkpoint.npz to resume from"
    assert reasons["f-damaged"] == "best.keras is missing"
    assert found.damaged == 2


def test_seeds_are_summed_up_over_finished_runs(tmp_path: Path) -> None:
    """Sample deviation; the group says in what it differs from others."""
    for seed, accuracy in enumerate((0.5, 0.75)):
        make_run(tmp_path / f"a{seed}", [0.0, 0.1, accuracy], seed=seed, dropout=0.5)
    make_run(tmp_path / "a2", [0.9], seed=2, dropout=0.5)
    make_run(tmp_path / "b", [0.0, 0.1, 0.2], dropout=0.0)
    found = listing.gather([tmp_path])
    assert found.differing == ("dropout", "seed")
    first, second = found.groups
    assert (first.settings, first.runs, first.n) == ({"dropout": 0.5}, ("a0", "a1", "a2"), 2)
    assert (first.mean, first.std) == (0.625, pytest.approx(0.125 * 2**0.5))
    assert (second.n, second.mean, second.std) == (1, 0.2, None)


def test_other_images_make_another_group_and_a_seed_counts_once(tmp_path: Path) -> None:
    """Whatever the order that is asked for."""
    ours, theirs = "11112222", "33334444"
    for name, images, seed, accuracy in (
        ("a", ours, 0, 0.5), ("b", ours, 1, 0.75), ("c", theirs, 2, 0.1), ("d", ours, 0, 0.375)
    ):  # fmt: skip
        run = make_run(tmp_path / name, [0.0, 0.0, accuracy], seed=seed)
        (run / "environment.json").write_text(json.dumps({"training_images_sha256": images * 8}))
    for sort in ("name", "val_accuracy"):
        found = listing.gather([tmp_path], sort=sort)
        assert found.differing == ("seed", "images")
        assert {group.settings["images"]: (group.n, group.mean) for group in found.groups} == {
            ours: (2, 0.5625), theirs: (1, 0.1)
        }  # fmt: skip


def test_runs_are_sorted_and_those_without_the_figure_come_last(tmp_path: Path) -> None:
    """Accuracy from the greatest, settings from the least."""
    make_run(tmp_path / "a", [0.1, 0.2, 0.2], learning_rate=0.3)
    make_run(tmp_path / "b", [0.1, 0.2, 0.4], learning_rate=0.2)
    make_run(tmp_path / "c", [None, None, None], learning_rate=0.1, val_size=0)

    def order(key: str) -> list[str]:
        return [row.name for row in listing.gather([tmp_path], sort=key).rows]

    assert order("accuracy") == order("val-accuracy") == ["b", "a", "c"]
    assert order("learning-rate") == ["c", "b", "a"]
    assert order("name") == order("train_size") == ["a", "b", "c"]
    with pytest.raises(UsageError, match="--sort is 'size'; expected one of name, "):
        order("size")
    with pytest.raises(UsageError, match="no directory 'nowhere'"):
        listing.gather(["nowhere"])


def test_a_run_is_listed_once(tmp_path: Path) -> None:
    """However it is reached: named twice, inside another directory, or through a link that goes round."""
    make_run(tmp_path / "runs" / "one", [0.1])
    (tmp_path / "runs" / "round").symlink_to(tmp_path / "runs")
    found = listing.gather([tmp_path / "runs", tmp_path / "runs" / "one"])
    assert [row.path.resolve().name for row in found.rows] == ["one"]


DAMAGES: dict[str, tuple[str, bytes, str]] = {
    "empty settings": ("settings.json", b"", "settings.json is no JSON"),
    "other JSON": ("settings.json", b"[1]", "settings.json holds no settings"),
    "binary": ("settings.json", b"\xff\x00", "settings.json is not text in UTF-8"),
    "nested": ("settings.json", b"[" * 100_000, "recursion"),
    "wrong value": ("settings.json", b'{"arch": "vgg2", "epochs": "x"}', "settings.json: --epochs is 'x'"),
    "empty table": ("metrics.csv", b"", "metrics.csv has not the columns epoch, loss"),
    "cut table": (
        "metrics.csv",
        b"epoch,loss,accuracy,val_loss,val_accuracy,learning_rate\n1,2,",
        "in row 1",
    ),
    "NUL": ("metrics.csv", b"epoch,loss,accuracy,val_loss,val_accuracy,learning_rate\n\x00", ""),
    "no number": (
        "timing.csv",
        b"epoch,seconds,images_per_second\n1,x,3\n",
        "timing.csv is damaged in row 1",
    ),
    "not finite": (
        "timing.csv",
        b"epoch,seconds,images_per_second\n1,nan,3\n",
        "timing.csv is damaged in row",
    ),
    "wrong epoch": (
        "timing.csv",
        b"epoch,seconds,images_per_second\n2,1,3\n",
        "timing.csv is damaged in row",
    ),
    "too long": ("timing.csv", b"epoch,seconds,images_per_second\n1,1,3,4\n", "timing.csv is damaged in row"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_a_damaged_file_is_a_reason_in_its_place(case: str, tmp_path: Path) -> None:
    """One line, and the others are listed."""
    name, content, reason = DAMAGES[case]
    make_run(tmp_path / "good", [0.1, 0.2, 0.3])
    bad = make_run(tmp_path / "bad", [0.1])
    (bad / name).write_bytes(content)
    found = listing.gather([tmp_path])
    damaged, good = found.rows
    assert (damaged.state, good.state, found.damaged) == ("damaged", "finished", 1)
    assert damaged.reason
    assert reason in damaged.reason
    assert "\n" not in damaged.reason


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["settings.json", "metrics.csv", "timing.csv", "failure.json", "environment.json"]),
    st.integers(0, 900), st.binary(max_size=20), st.booleans(),
)  # fmt: skip
def test_no_damage_is_a_bug_of_ours(
    tmp_path_factory: pytest.TempPathFactory, name: str, position: int, junk: bytes, cut: bool
) -> None:
    """Bytes replaced or the end cut off, anywhere: the listing is still JSON."""
    run = make_run(tmp_path_factory.mktemp("any") / "run", [0.1, 0.2])
    content = (run / name).read_bytes() if (run / name).exists() else b'{"error": "x"}'
    (run / name).write_bytes(content[:position] + junk + (b"" if cut else content[position + len(junk) :]))
    found = listing.gather([run.parent])
    assert len(found.rows) == 1
    json.dumps(found.as_document(), allow_nan=False)


def test_foreign_things_are_named_and_nothing_waits(cifarcnn: Run, tmp_path: Path) -> None:
    """A directory of something else, a missing table, a pipe where a file should be; exit code 1."""
    make_run(tmp_path / "runs" / "a", [0.1, 0.2, 0.3])
    (tmp_path / "runs" / "b" / "deep").mkdir(parents=True)
    (tmp_path / "runs" / "notes.txt").write_text("mine")
    (make_run(tmp_path / "runs" / "c", [0.1]) / "metrics.csv").unlink()
    pipe = make_run(tmp_path / "runs" / "d[red]\n", [0.1]) / "timing.csv"
    pipe.unlink()
    os.mkfifo(pipe)
    done = cifarcnn("runs")
    assert done.returncode == 1
    assert [line.split()[0] for line in done.stdout.splitlines()[:4]] == ["run", "a", "c", "d[red]\\n"]
    assert done.stdout.splitlines()[4:6] == [
        "c is damaged: metrics.csv: No such file or directory",
        "d[red]\\n is damaged: timing.csv is not a regular file of at most 32 MiB",
    ]
    assert done.stderr == "2 of 3 runs are damaged\n"
    document = json.loads(cifarcnn("runs", "--json").stdout)
    assert [run["state"] for run in document["runs"]] == ["finished", "damaged", "damaged"]


def test_the_table_fits_and_the_documents_have_everything(cifarcnn: Run, tmp_path: Path) -> None:
    """80 columns whatever differs; what is left out is said; CSV and JSON have every setting."""
    for number, rate in enumerate((0.1, 0.25)):
        make_run(
            tmp_path / "runs" / f"20261121-033456-a-very-long-name-of-a-run-{number}", [0.1, 0.2, 0.5],
            arch=("vgg2", "plain6-small")[number], learning_rate=rate, dropout=rate, warmup=rate,
            label_smoothing=rate, batch_norm_momentum=rate, seed=number,
        )  # fmt: skip
    shown = cifarcnn("runs", "--sort", "learning_rate")
    assert shown.returncode == 0
    assert all(len(line) <= 80 for line in shown.stdout.splitlines())
    assert "50.00%" in shown.stdout
    assert "too wide for the terminal: seconds, images/s, dropout, " in shown.stderr
    assert shown.stderr.endswith("; --csv has every column\n")
    wide = cifarcnn("runs", env={"COLUMNS": "300"})
    assert wide.stderr == ""
    assert "20261121-033456-a-very-long-name-of-a-run-1" in wide.stdout
    rows = list(csv.DictReader(io.StringIO(cifarcnn("runs", "--csv").stdout)))
    assert [row["label_smoothing"] for row in rows] == ["0.1", "0.25"]
    assert set(config.FIELDS) < set(rows[0])
    document = json.loads(cifarcnn("runs", "--json").stdout)
    assert document["schema"] == 1
    assert document["runs"][1]["settings"]["learning_rate"] == 0.25
    assert document["differing"][0] == "arch"


def test_listing_needs_no_framework(tmp_path: Path) -> None:
    """Neither Keras nor TensorFlow nor a plotting library is imported."""
    make_run(tmp_path / "one", [0.1])
    script = (
        "import sys\n"
        "from cifarcnn.cli.main import cli\n"
        f"cli.main(['runs', {str(tmp_path)!r}], prog_name='cifarcnn', standalone_mode=False)\n"
        "heavy = ('tensorflow', 'keras', 'jax', 'matplotlib', 'h5py')\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "interrupted" in done.stdout
    assert done.stdout.endswith("[]\n")


def test_an_empty_directory_is_no_error(cifarcnn: Run, tmp_path: Path) -> None:
    """No runs yet; but a directory that is not there is wrong usage."""
    (tmp_path / "runs").mkdir()
    done = cifarcnn("runs")
    assert (done.returncode, done.stdout) == (0, "no runs in runs\n")
    assert cifarcnn("runs", "--csv").stdout.startswith("name,path,state,reason,")
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    (tmp_path / "photos" / "cat" / "1.png").touch()
    foreign = cifarcnn("runs", "photos", "runs")
    assert (foreign.returncode, foreign.stdout) == (0, "no runs in photos, runs\n")
    missing = cifarcnn("runs", "elsewhere")
    assert missing.returncode == 2
    assert missing.stderr.startswith("error: no directory 'elsewhere'; expected one in which")


def test_what_would_block_is_a_row(cifarcnn: Run, tmp_path: Path) -> None:
    """FIFOs in the place of files are not waited for, and a name too long for a directory is none."""
    for place in ("one/.lock", "two/settings.json"):
        (tmp_path / "runs" / place).parent.mkdir(parents=True)
        os.mkfifo(tmp_path / "runs" / place)
    done = cifarcnn("runs", "--json", timeout=60)
    assert [(row["name"], row["state"]) for row in json.loads(done.stdout)["runs"]] == [
        ("one", "interrupted"),
        ("two", "damaged"),
    ]
    with pytest.raises(UsageError, match="no directory"):
        listing.gather(["a" * 300])


def test_a_link_to_itself_hides_no_run(tmp_path: Path) -> None:
    """Nor does one to a link to itself."""
    make_run(tmp_path / "runs" / "one", [0.5])
    (tmp_path / "runs" / "loop").symlink_to("loop")
    (tmp_path / "runs" / "way").symlink_to("loop")
    assert [row.name for row in listing.gather([tmp_path / "runs"]).rows] == ["one"]
