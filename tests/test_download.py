"""Downloading from mirrors that misbehave in every way we know."""

import hashlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from badserver import STEP, BadServer, serving
from cifarcnn.data.download import TooSlow, fetch
from cifarcnn.data.publication import Archive, Pace
from cifarcnn.errors import DataError
from cifarcnn.events import Event, Note, Transfer

CONTENT = b"\x1f\x8b" + np.random.default_rng(0).bytes(300_000)
PACE = Pace(rate=10_000_000, window=0.1, timeout=1)
PATIENT = Pace(rate=1, window=0.1, timeout=1)


pytestmark = pytest.mark.usefixtures("isolated")


@pytest.fixture(scope="module")
def server() -> Iterator[BadServer]:
    """A server whose archive is CONTENT."""
    with serving(CONTENT) as server:
        yield server


@pytest.fixture
def archive() -> Archive:
    """CONTENT as published."""
    return Archive("tiny.tar.gz", len(CONTENT), f"sha256:{hashlib.sha256(CONTENT).hexdigest()}")


@pytest.fixture
def get(server: BadServer, archive: Archive, tmp_path: Path) -> Callable[..., tuple[Path, list[Event]]]:
    """Download from the server while it behaves as named; return the part file and the events."""

    def get(behaviour: str, pace: Pace = PATIENT) -> tuple[Path, list[Event]]:
        server.requests.clear()
        events: list[Event] = []
        part = tmp_path / "tiny.tar.gz.part"
        fetch(server.url(behaviour), archive, part, pace, events.append)
        return part, events

    return get


Get = Callable[..., tuple[Path, list[Event]]]


@pytest.mark.parametrize("behaviour", ["good", "no_length", "redirect", "ignores_range", "endless"])
def test_an_archive_arrives_whole(get: Get, behaviour: str) -> None:
    """Redirections, answers without a length and answers without an end all lead to the archive."""
    part, events = get(behaviour)
    assert part.read_bytes() == CONTENT
    assert events[-1] == Transfer("tiny.tar.gz", len(CONTENT), len(CONTENT))


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("error", "answered 503"),
        ("page", "text/html"),
        ("other_length", "with 10 bytes"),
        ("breaks_at_once", "broke off after 0 of"),
        ("corrupt", "wrong SHA-256"),
        ("redirect_away", "not allowed"),
        ("redirect_circle", "infinite loop"),
        ("nonsense", "no valid answer"),
        ("silent", "did not answer within 1 seconds"),
        ("drips", "did not answer within 3 seconds"),
        ("stalls", "stalled: nothing arrived for 1 seconds"),
    ],
)
def test_a_bad_mirror_is_given_up_with_the_reason(get: Get, behaviour: str, reason: str) -> None:
    """Each way of failing is named."""
    with pytest.raises(DataError, match=reason):
        get(behaviour)


def test_a_proxy_named_in_the_environment_is_used(
    server: BadServer, archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a company's proxy the mirrors are asked through it."""
    monkeypatch.setenv("http_proxy", server.url(""))
    fetch("http://mirror.invalid/good", archive, tmp_path / "part", PATIENT, print)
    assert (tmp_path / "part").read_bytes() == CONTENT


def test_a_mirror_that_refuses_connections_is_given_up(archive: Archive, tmp_path: Path) -> None:
    """A closed port is no answer."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/x"
        with pytest.raises(DataError, match="cannot be reached"):
            fetch(url, archive, tmp_path / "part", PATIENT, print)


def test_a_name_that_is_looked_up_for_ever_is_given_up(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's resolver knows no limit of ours."""
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait(60))
    try:
        with pytest.raises(DataError, match="did not answer within 3 seconds"):
            fetch("http://mirror.invalid/x", archive, tmp_path / "part", PATIENT, print)
    finally:
        over.set()


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://127.0.0.1/x", "nothing", "http://[/", "http://"]
)
def test_an_address_that_is_no_web_address_is_refused(archive: Archive, tmp_path: Path, url: str) -> None:
    """Only http and https are spoken, and what cannot be parsed is an error like any other."""
    with pytest.raises(DataError):
        fetch(url, archive, tmp_path / "part", PATIENT, print)
    assert not (tmp_path / "part").exists()


def test_a_crawling_mirror_is_given_up_and_what_came_is_kept(get: Get, tmp_path: Path) -> None:
    """Below the pace the mirror is too slow; the next attempt continues where it stopped."""
    with pytest.raises(TooSlow, match="kB/s"):
        get("crawls", PACE)
    kept = (tmp_path / "tiny.tar.gz.part").read_bytes()
    assert STEP <= len(kept) < len(CONTENT)
    assert CONTENT.startswith(kept)


def test_a_download_is_resumed_where_it_stopped(get: Get, server: BadServer, tmp_path: Path) -> None:
    """Only the missing bytes are asked for."""
    (tmp_path / "tiny.tar.gz.part").write_bytes(CONTENT[:1000])
    part, _ = get("good")
    assert part.read_bytes() == CONTENT
    assert server.requests == [("good", "bytes=1000-")]


def test_a_complete_download_is_not_asked_for_again(get: Get, server: BadServer, tmp_path: Path) -> None:
    """A process that died between downloading and converting has the archive already."""
    (tmp_path / "tiny.tar.gz.part").write_bytes(CONTENT)
    get("error")
    assert server.requests == []


def test_a_connection_that_breaks_is_resumed_with_the_same_mirror(get: Get, server: BadServer) -> None:
    """As long as something arrives each time, the mirror is asked for the rest."""
    part, events = get("breaks")
    assert part.read_bytes() == CONTENT
    third = len(CONTENT) // 3
    assert [wanted for _, wanted in server.requests][:3] == [None, f"bytes={third}-", f"bytes={2 * third}-"]
    assert any(isinstance(event, Note) and "broke off" in event.text for event in events)


@pytest.mark.parametrize("behaviour", ["ignores_range", "wrong_range", "refuses_range"])
def test_a_wrong_answer_to_a_range_starts_over(get: Get, tmp_path: Path, behaviour: str) -> None:
    """Whatever a server makes of Range, its bytes are not put in the wrong place."""
    (tmp_path / "tiny.tar.gz.part").write_bytes(CONTENT[:1000])
    part, _ = get(behaviour)
    assert part.read_bytes() == CONTENT


@pytest.mark.parametrize("rubbish", [b"x" * 1000, b"x" * len(CONTENT), b"x" * (len(CONTENT) + 1)])
def test_a_spoilt_part_is_discarded_and_downloaded_once_more(
    get: Get, tmp_path: Path, rubbish: bytes
) -> None:
    """Wrong bytes from an earlier attempt do not condemn a good mirror."""
    (tmp_path / "tiny.tar.gz.part").write_bytes(rubbish)
    part, _ = get("good")
    assert part.read_bytes() == CONTENT


def test_a_corrupting_mirror_leaves_nothing_behind(get: Get, server: BadServer, tmp_path: Path) -> None:
    """A mirror whose bytes are wrong even from scratch is given up, and its bytes are not resumed from."""
    (tmp_path / "tiny.tar.gz.part").write_bytes(CONTENT[:1000])
    with pytest.raises(DataError, match="wrong SHA-256"):
        get("corrupt")
    assert [wanted for _, wanted in server.requests] == ["bytes=1000-", None]
    assert not (tmp_path / "tiny.tar.gz.part").exists()
