"""A user's own labelled pictures: which folders are taken, what they become, and what is refused."""

import json
import os
import shutil
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cifarcnn.data import classnames, folders, sources
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
        ("lorr", None),
        ("tru", None),
        ("carss", None),
        ("boats", "ship"),
        ("kitten", None),
        ("train", None),
        ("", None),
        ("s", None),
    ],
)
def test_a_folder_is_named_for_a_class(name: str, expected: str | None) -> None:
    """Case, plurals and plain synonyms make no difference; anything else is no class."""
    label = classnames.class_of(name)
    assert (None if label is None else CLASSES[label]) == expected


def test_pictures_are_read_pixel_by_pixel_in_a_fixed_order(tmp_path: Path) -> None:
    """The order is that of classes, then of paths; synonyms share a class; subfolders belong to it."""
    fill(tmp_path, {"Trucks": 2, "plane": 3, "AIRPLANE": 1, "airplane/more": 1})
    found = folders.load(tmp_path, "test", classes=CLASSES)
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


def test_all_ten_in_any_spelling_are_cifar10(tmp_path: Path) -> None:
    """Their order is the published one, whatever the folders are called."""
    fill(tmp_path, dict.fromkeys(["Planes", "car", *CLASSES[2:9], "Lorry"], 1))
    found = folders.load(tmp_path, "train")
    assert found.classes == CLASSES
    assert found.labels.tolist() == list(range(10))


def test_folders_of_any_names_are_classes(tmp_path: Path) -> None:
    """Letters of any script, spaces, and some of CIFAR-10's: sorted, in the composed form of Unicode."""
    decomposed = unicodedata.normalize("NFD", "Mäuse")
    fill(tmp_path, {"zebra": 2, "猫": 1, "red panda": 1, decomposed: 1, "cat": 1})
    found = folders.load(tmp_path, "train")
    assert found.classes == ("Mäuse", "cat", "red panda", "zebra", "猫")
    assert found.labels.tolist() == [0, 1, 2, 3, 3, 4]
    assert found.at(np.array([5])).classes == found.classes


def test_more_than_256_classes_take_wider_labels(tmp_path: Path) -> None:
    """A byte holds 256."""
    for number in range(300):
        (tmp_path / f"{number:03}").mkdir()
        Image.new("RGB", (32, 32)).save(tmp_path / f"{number:03}" / "0.bmp")
    found = folders.load(tmp_path, "train")
    assert (found.labels.dtype, found.labels.tolist()) == (np.uint16, list(range(300)))


def test_a_subset_of_cifar10_is_classes_of_its_own_or_a_models(tmp_path: Path) -> None:
    """Two classes train a network of two; a model of ten is measured on them as on any pictures."""
    fill(tmp_path, {"dogs": 2, "Cat": 1})
    own = folders.load(tmp_path, "train")
    assert (own.classes, own.labels.tolist()) == (("Cat", "dogs"), [0, 1, 1])
    models = folders.load(tmp_path, "test", classes=CLASSES)
    assert (models.classes, models.labels.tolist()) == (CLASSES, [3, 5, 5])
    again = folders.load(tmp_path, "test", classes=("DOGS", "cats", "Zebra"))
    assert again.labels.tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (
            ["cat", "kittens", "zebra"],
            r"'kittens', 'zebra' are not among the 10 classes; expected airplane, .*tru",
        ),
        (["zebra"], r"'zebra' is not among the 10 classes"),
    ],
)
def test_folders_that_a_model_does_not_know_are_named(names: list[str], reason: str, tmp_path: Path) -> None:
    """Nothing is read where a folder means no class of the model's."""
    fill(tmp_path, dict.fromkeys(names, 1))
    with pytest.raises(UsageError, match=reason):
        folders.load(tmp_path, "test", classes=CLASSES)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["Cat", "cat", "zebra"], "'Cat', 'cat' differ only in case or Unicode form"),
        (["é", unicodedata.normalize("NFD", "é")], "differ only in case or Unicode form"),
        (["zebra"], "has 1 class-named folder; expected 2 to 1,000"),
        ([f"class {number}" for number in range(2000)], "has 2,000 class-named folders; expected 2 to 1,000"),
        (["a\tb", "c\x1b[31m"], r"'c\\x1b\[31m' cannot name a class"),
        ([os.fsdecode(b"caf\xe9"), "tea"], r"'caf\\udce9' cannot name a class"),
    ],
)
def test_folders_that_cannot_be_classes_are_refused(names: list[str], reason: str, tmp_path: Path) -> None:
    """Each in one line, before any picture is read."""
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "bad.png").write_bytes(b"not read")
    with pytest.raises(UsageError, match=reason) as caught:
        folders.load(tmp_path, "train")
    assert "\n" not in str(caught.value)


def test_a_class_without_a_picture_cannot_be_learned(tmp_path: Path) -> None:
    """It is an error to train on, and a note to measure on."""
    fill(tmp_path, {"lion": 2, "tiger": 2, "zebra": 0})
    with pytest.raises(DataError, match="no picture to train on in 'zebra'; add some or remove it"):
        folders.load(tmp_path, "train")
    (tmp_path / "zebra" / "bad.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="no picture to train on in 'zebra'"):
        folders.load(tmp_path, "train")
    events: list[Event] = []
    folders.load(tmp_path, "test", events.append)
    assert "test images: 4 pictures of 3 classes (lion, tiger, zebra)" in notes(events)
    assert notes(events).endswith("; none of zebra")


def test_what_is_no_picture_is_left_out_and_named(tmp_path: Path) -> None:
    """Leftovers of file managers and other files are ignored, but not in silence; so are missing classes."""
    fill(tmp_path, {"cat": 2, "frog": 0})
    for name in (".DS_Store", "cat/Thumbs.db", "cat/._000.png", "cat/notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    fill(tmp_path / "cat" / ".thumbnails", {"cat": 1})
    fill(tmp_path / "__MACOSX", {"cat": 1})
    (tmp_path / "cat" / "loop").symlink_to(tmp_path)
    (tmp_path / "circle").symlink_to(tmp_path)
    (tmp_path / "gone").symlink_to("nowhere")
    events: list[Event] = []
    assert len(folders.load(tmp_path, "test", events.append, classes=CLASSES)) == 2
    assert "ignored .DS_Store, ._000.png, .thumbnails, and 6 more" in notes(events)
    assert f"test images: 2 pictures in {tmp_path}; none of airplane, automobile, bird, deer" in notes(events)


def test_unreadable_pictures_are_skipped_named_and_counted(tmp_path: Path) -> None:
    """A few stand in the note with their reasons, the others are counted, and the images list them all."""
    fill(tmp_path, {"cat": 6, "dog": 1})
    for number in range(5):
        (tmp_path / "cat" / f"bad{number}.png").write_bytes(b"no picture")
    events: list[Event] = []
    found = folders.load(tmp_path, "train", events.append)
    assert (len(found.images), found.labels.tolist()) == (7, [0] * 6 + [1])
    with Image.open(tmp_path / "dog" / "000.png") as picture:
        np.testing.assert_array_equal(found.images[6], np.asarray(picture))
    assert "skipped: 5 of 12 pictures" in notes(events)
    assert "cat/bad0.png: not a picture" in notes(events)
    assert "and 2 more" in notes(events)
    assert "bad3" not in notes(events)
    assert [text.partition(":")[0] for text in found.skipped] == [
        f"cat/bad{number}.png" for number in range(5)
    ]


def test_a_folder_of_mostly_unreadable_pictures_is_refused(tmp_path: Path) -> None:
    """Whoever names the wrong folder is not left with the rest of it."""
    fill(tmp_path, {"cat": 2, "dog": 1})
    for number in range(4):
        (tmp_path / "cat" / f"bad{number}.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"4 of 7 pictures in .* cannot be read .*; fix or remove them"):
        folders.load(tmp_path, "test")


def test_a_folder_without_a_picture_is_refused(tmp_path: Path) -> None:
    """Ten empty folders are no data."""
    fill(tmp_path, dict.fromkeys(CLASSES, 0))
    assert folders.is_labelled_folder(tmp_path)
    with pytest.raises(DataError, match="holds no picture"):
        folders.load(tmp_path, "test")


def test_the_folders_of_splits_are_kept_apart(tmp_path: Path) -> None:
    """Each split reads its own; one that is missing is an error, whatever else lies there."""
    fill(tmp_path / "Train", {"cat": 3, "dog": 1})
    fill(tmp_path / "__MACOSX" / "test", {"dog": 2})
    assert folders.is_labelled_folder(tmp_path)
    assert sources.splits(tmp_path) == ("train",)
    with pytest.raises(UsageError, match="has Train but no test folder; choose another split with --split"):
        folders.load(tmp_path, "test")
    assert sources.validation(tmp_path) is None
    fill(tmp_path / "test", {"dog": 2})
    fill(tmp_path / "val", {"cat": 2})
    fill(tmp_path / "notes", {"zebra": 1})
    assert sources.splits(tmp_path) == ("train", "validation", "test")
    assert folders.load(tmp_path, "train").labels.tolist() == [0] * 3 + [1]
    assert folders.load(tmp_path, "test").labels.tolist() == [1] * 2
    validation = sources.validation(tmp_path)
    assert validation is not None
    assert (validation.labels.tolist(), validation.classes) == ([0] * 2, ("cat", "dog"))


@pytest.mark.parametrize("name", ["val", "valid", "Validation"])
def test_validation_images_go_by_several_names(name: str, tmp_path: Path) -> None:
    """A folder of training and validation images alone is as good."""
    fill(tmp_path / "train", {"lion": 3, "zebra": 1})
    fill(tmp_path / name, {"zebra": 2})
    assert sources.splits(tmp_path) == ("train", "validation")
    assert sources.load("validation", tmp_path).labels.tolist() == [1, 1]
    with pytest.raises(UsageError, match=f"has (train and {name}|{name} and train) but no test folder"):
        sources.load("test", tmp_path)
    fill(tmp_path / "VALID" / "x", {"lion": 1})
    fill(tmp_path / "val" / "x", {"lion": 1})
    with pytest.raises(UsageError, match=r"two folders of validation images, 'VALID' and '[vV]al"):
        sources.load("validation", tmp_path)


def test_a_split_must_not_have_classes_that_training_lacks(tmp_path: Path) -> None:
    """They could not be learned."""
    fill(tmp_path / "train", {"lion": 1, "tiger": 1})
    fill(tmp_path / "test", {"lion": 1, "zebra": 1})
    with pytest.raises(UsageError, match="test: 'zebra' is not among the 2 classes; expected lion, tiger"):
        folders.load(tmp_path, "test")


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    """What holds pictures beside other folders of pictures is a class; alone, its classes are missing."""
    fill(tmp_path / "vehicles", {"bus": 1, "tram": 1, "train": 2})
    assert folders.load(tmp_path / "vehicles", "train").classes == ("bus", "train", "tram")
    fill(tmp_path / "loose", {"train": 2, "test": 1})
    with pytest.raises(UsageError, match="test holds pictures that no folder tells the class of"):
        folders.load(tmp_path / "loose", "train")
    fill(tmp_path / "mixed", {"train/lion": 2, "train/tiger": 1, "test": 1})
    with pytest.raises(UsageError, match="test holds pictures that no folder tells the class of"):
        folders.load(tmp_path / "mixed", "train")


def test_the_same_picture_in_two_splits_is_said(tmp_path: Path) -> None:
    """By content, whatever the names are."""
    fill(tmp_path / "train", {"lion": 3, "tiger": 2})
    fill(tmp_path / "test", {"lion": 2, "tiger": 1})
    events: list[Event] = []
    folders.load(tmp_path, "train", events.append)
    assert "also among" not in notes(events)
    shutil.copyfile(tmp_path / "train" / "lion" / "002.png", tmp_path / "test" / "tiger" / "copy.png")
    folders.load(tmp_path, "train", events.append)
    assert "1 test picture also among the training pictures: test/tiger/copy.png" in notes(events)


def test_a_folder_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until a file in it changes; and nobody can change what others see."""
    fill(tmp_path, {"lion": 3, "tiger": 2})
    decoded: list[Path] = []
    read = folders.images.read
    monkeypatch.setattr(folders.images, "read", lambda path: decoded.append(path) or read(path))
    first = folders.load(tmp_path, "train")
    assert len(decoded) == 5
    second = folders.load(tmp_path, "test", classes=("tiger", "lion"))
    assert len(decoded) == 5 + 5  # in another order
    np.testing.assert_array_equal(second.images, first.images[[3, 4, 0, 1, 2]])
    assert folders.load(tmp_path, "test", classes=("tiger", "lion")).images is second.images
    assert len(decoded) == 10
    with pytest.raises(ValueError, match="read-only"):
        first.images[0] = 0
    fill(tmp_path, {"tiger": 1}, size=40)
    folders.load(tmp_path, "train")
    assert len(decoded) == 15


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
    fill(tmp_path, {"cat": 1, "dog": 1})
    if way == "CIFARCNN_DATA":
        monkeypatch.setenv(way, str(tmp_path))
    found = sources.load("test", tmp_path if way == "--data" else None)
    assert (len(found), found.source) == (2, f"{way} {tmp_path}")


def test_cifar10_beside_folders_of_pictures_is_no_labelled_folder(tmp_path: Path, tiny: TinyData) -> None:
    """Where the data set is, whole or broken, no other folder takes its place."""
    fill(tmp_path, {"cats": 1, "photos": 1})
    folder = tiny.write(tmp_path / "cifar-10-batches-py", tiny.pickles)
    assert len(sources.load("test", tmp_path, publication=tiny.publication)) == 20
    (folder / "data_batch_2").unlink()
    with pytest.raises(DataError, match="missing: data_batch_2"):
        sources.load("test", tmp_path, publication=tiny.publication)


def test_a_folder_of_loose_pictures_is_told_the_form(tmp_path: Path) -> None:
    """The error names both forms that are expected."""
    fill(tmp_path, {"photos": 1})
    with pytest.raises(CifarCNNError, match=r"--data: .* holds no CIFAR-10 .*class-named folders of pict"):
        sources.load("test", tmp_path / "photos")


@pytest.mark.slow
def test_training_and_evaluation_on_a_folder(cifarcnn: Run, tmp_path: Path) -> None:
    """Unequal and empty classes train; both splits are measured; other data is refused in one line."""
    empty = dict.fromkeys(CLASSES[:5] + CLASSES[6:9], 0)
    own = fill(tmp_path / "own", empty | {"cat": 30, "dogs": 12, "lorry": 8})
    other = fill(tmp_path / "other", dict.fromkeys(CLASSES, 0) | {"cat": 4, "bird": 2})
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
