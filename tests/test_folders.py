"""A user's own labelled pictures: which folders are taken, what they become, and what is refused."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cifarcnn.data import folders, sources
from cifarcnn.data.cifar10 import CLASSES
from cifarcnn.errors import CifarCNNError, DataError, UsageError
from cifarcnn.events import Event, Note
from conftest import Run
from tinydata import TinyData

pytestmark = pytest.mark.usefixtures("isolated")

RNG = np.random.default_rng(4)


def fill(folder: Path, counts: dict[str, int], suffix: str = ".png", size: int = 32) -> Path:
    """Make class folders with some pictures of noise each."""
    for name, count in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = RNG.integers(0, 256, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:03}{suffix}")
    return folder


def notes(events: Sequence[Event]) -> str:
    """All notes, a line each."""
    return "\n".join(event.text for event in events if isinstance(event, Note))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((name, name) for name in CLASSES),
        ("Airplane", "airplane"),
        ("PLANES", "airplane"),
        ("aeroplane", "airplane"),
        ("Cars", "automobile"),
        ("auto", "automobile"),
        (" cat ", "cat"),
        ("lorry", "truck"),
        ("Lorries", "truck"),
        ("boats", "ship"),
        ("kitten", None),
        ("train", None),
        ("", None),
        ("s", None),
    ],
)
def test_a_folder_is_named_for_a_class(name: str, expected: str | None) -> None:
    """Case, plurals and plain synonyms make no difference; anything else is no class."""
    label = folders.class_of(name)
    assert (None if label is None else CLASSES[label]) == expected


def test_pictures_are_read_pixel_by_pixel_in_a_fixed_order(tmp_path: Path) -> None:
    """The order is that of classes, then of paths; synonyms share a class; subfolders belong to it."""
    fill(tmp_path, {"Trucks": 2, "plane": 3, "AIRPLANE": 1, "airplane/more": 1})
    found = folders.load(tmp_path, "test")
    paths = [
        *("AIRPLANE/000.png", "airplane/more/000.png", "plane/000.png", "plane/001.png", "plane/002.png"),
        *("Trucks/000.png", "Trucks/001.png"),
    ]
    assert found.labels.tolist() == [0] * 5 + [9] * 2
    assert (found.labels.dtype, found.images.dtype) == (np.uint8, np.uint8)
    for pixels, path in zip(found.images, paths, strict=True):
        with Image.open(tmp_path / path) as picture:
            np.testing.assert_array_equal(pixels, np.asarray(picture))
    assert found.source == str(tmp_path)


def test_pictures_of_any_size_and_format_are_taken(tmp_path: Path) -> None:
    """What prediction reads, a labelled folder may hold."""
    fill(tmp_path, {"cat": 2}, ".JPG", size=100)
    fill(tmp_path, {"dog": 1}, ".webp", size=7)
    assert folders.load(tmp_path, "test").images.shape == (3, 32, 32, 3)


def test_what_is_no_picture_is_left_out_and_named(tmp_path: Path) -> None:
    """Leftovers of file managers and other files are ignored, but not in silence; so are missing classes."""
    fill(tmp_path, {"cat": 2, "frog": 0})
    for name in (".DS_Store", "cat/Thumbs.db", "cat/._000.png", "cat/notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    fill(tmp_path / "cat" / ".thumbnails", {"cat": 1})
    (tmp_path / "cat" / "loop").symlink_to(tmp_path)
    events: list[Event] = []
    assert len(folders.load(tmp_path, "test", events.append)) == 2
    assert "ignored .DS_Store, ._000.png, .thumbnails, and 3 more" in notes(events)
    assert f"test images: 2 pictures in {tmp_path}; none of airplane, automobile, bird, deer" in notes(events)


def test_unknown_folders_are_all_named_with_the_ten_names(tmp_path: Path) -> None:
    """Nothing is read where a folder means no class."""
    fill(tmp_path, {"cat": 1, "zebra": 1, "kittens": 0})
    with pytest.raises(UsageError) as caught:
        folders.load(tmp_path, "test")
    assert "'kittens', 'zebra'" in str(caught.value)
    assert ", ".join(CLASSES) in str(caught.value)


def test_unreadable_pictures_are_named_and_counted(tmp_path: Path) -> None:
    """A few stand in the message with their reasons, the others are counted; none is left out in silence."""
    fill(tmp_path, {"cat": 3})
    for number in range(5):
        (tmp_path / "cat" / f"bad{number}.png").write_bytes(b"no picture")
    with pytest.raises(DataError) as caught:
        folders.load(tmp_path, "test")
    message = str(caught.value)
    assert "5 of 8 pictures" in message
    assert "cat/bad0.png: not a picture" in message
    assert "and 2 more" in message
    assert "bad3" not in message


def test_a_folder_without_a_picture_is_refused(tmp_path: Path) -> None:
    """Ten empty folders are no data."""
    fill(tmp_path, dict.fromkeys(CLASSES, 0))
    assert folders.is_labelled_folder(tmp_path)
    with pytest.raises(DataError, match="holds no picture"):
        folders.load(tmp_path, "test")


def test_train_and_test_folders_are_kept_apart(tmp_path: Path) -> None:
    """Each split reads its own; one that is missing is an error, whatever else lies there."""
    fill(tmp_path / "Train", {"cat": 3})
    assert folders.is_labelled_folder(tmp_path)
    with pytest.raises(UsageError, match="'Train' but none named 'test'"):
        folders.load(tmp_path, "test")
    fill(tmp_path / "test", {"dog": 2})
    fill(tmp_path / "val", {"dog": 2})
    assert folders.load(tmp_path, "train").labels.tolist() == [3] * 3
    assert folders.load(tmp_path, "test").labels.tolist() == [5] * 2


def test_other_folders_are_no_labelled_ones(tmp_path: Path, tiny: TinyData) -> None:
    """An empty folder, a file, loose pictures and CIFAR-10 itself are left to others."""
    fill(tmp_path, {"photos": 1})
    tiny.write(tmp_path / "binary", tiny.files)
    assert not folders.is_labelled_folder(tmp_path / "photos")
    assert not folders.is_labelled_folder(tmp_path / "photos" / "000.png")
    assert not folders.is_labelled_folder(tmp_path / "absent")
    assert not folders.is_labelled_folder(tmp_path / "binary")


@pytest.mark.parametrize("way", ["--data", "CIFARCNN_DATA"])
def test_the_search_takes_a_labelled_folder_that_is_insisted_on(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The images say how they were named."""
    fill(tmp_path, {"cat": 2})
    if way == "CIFARCNN_DATA":
        monkeypatch.setenv(way, str(tmp_path))
    found = sources.load("test", tmp_path if way == "--data" else None)
    assert (len(found), found.source) == (2, f"{way} {tmp_path}")


def test_cifar10_made_of_pictures_is_no_labelled_folder(tmp_path: Path, tiny: TinyData) -> None:
    """The npm package's folder of pictures is read as CIFAR-10, whole or broken."""
    folder = tiny.write(tmp_path / "package", tiny.pngs)
    assert len(sources.load("test", tmp_path, publication=tiny.publication)) == 20
    (folder / "data_batch_2.png").unlink()
    with pytest.raises(DataError, match=r"missing: data_batch_2\.png"):
        sources.load("test", tmp_path, publication=tiny.publication)


def test_a_folder_of_loose_pictures_is_told_the_form(tmp_path: Path) -> None:
    """The error names both forms that are expected."""
    fill(tmp_path, {"photos": 1})
    with pytest.raises(CifarCNNError, match=r"--data: .* holds no CIFAR-10; .*class-named folders of pict"):
        sources.load("test", tmp_path / "photos")


def test_training_and_evaluation_on_a_folder(cifarcnn: Run, tmp_path: Path) -> None:
    """Unequal and missing classes train; both splits are measured; other data is refused in one line."""
    own = fill(tmp_path / "own", {"cat": 30, "dogs": 12, "lorry": 8})
    other = fill(tmp_path / "other", {"cat": 4, "bird": 2})
    options = ("--arch", "plain6-small", "--epochs", 1, "--val-size", 10, "--batch-size", 10, "--json")
    done = cifarcnn("train", "--data", own, *options)
    assert done.returncode == 0, done.stderr
    run = tmp_path / json.loads(done.stdout)["run_dir"]

    done = cifarcnn("evaluate", run, "--data", other, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["n"], document["source"], document["split"]) == (6, f"--data {other}", "test")
    assert [row["support"] for row in document["per_class"]] == [0, 0, 2, 4, 0, 0, 0, 0, 0, 0]

    done = cifarcnn("evaluate", run, "--data", own, "--split", "validation", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert [document["per_class"][label]["support"] for label in (3, 5, 9)] == [6, 2, 2]

    done = cifarcnn("evaluate", run, "--data", own)
    assert "trained on these very images" in done.stderr

    done = cifarcnn("evaluate", run, "--data", other, "--split", "validation")
    assert (done.returncode, done.stdout) == (2, "")
    assert "was trained on other images than those of --data" in done.stderr.splitlines()[-1]
