"""Downloading one archive from one mirror, in the face of hosts that refuse, stall, crawl, break off or lie.

Every mirror serves the same bytes, so any can continue the ``.part`` file that another began.
"""

import hashlib
import http.client
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cifarcnn.data.publication import Archive, Pace
from cifarcnn.errors import DataError
from cifarcnn.events import Note, OnEvent, Transfer

# How often one mirror may break off and be asked for the rest.
RESUMPTIONS = 5
# In how many times the pace's timeout an answer must have begun, redirections and all.
TIMEOUTS_TO_ANSWER = 3
CHUNK_BYTES = 1 << 18
OK, PARTIAL_CONTENT, RANGE_NOT_SATISFIABLE = 200, 206, 416


class TooSlow(DataError):  # noqa: N818 - named for what happened
    """The mirror works, but below the pace that was asked of it."""


def fetch(url: str, archive: Archive, part: Path, pace: Pace, on_event: OnEvent) -> None:
    """Complete ``part`` to the whole archive, going on from what it already holds.

    Raises:
        TooSlow: the mirror fell below the pace. ``part`` keeps what arrived.
        DataError: the mirror failed or served something else.
        OSError: ``part`` cannot be written.
    """
    host = _host(url)
    on_event(Note(f"downloading from {host}"))
    if _size(part) > archive.size:
        part.unlink()
    from_elsewhere = _size(part) > 0
    for attempt in range(1 + RESUMPTIONS):
        before = _size(part)
        if before < archive.size:
            _receive(url, archive, part, pace, on_event)
        if _size(part) == archive.size:
            if _is_right(part, archive):
                return
            part.unlink()
            if not from_elsewhere:
                raise DataError("the archive it serves has the wrong SHA-256")
            # The wrong bytes may be those of an earlier attempt.
            from_elsewhere = False
            on_event(Note(f"{host}: the resumed archive has the wrong SHA-256; starting over"))
            continue
        progress = f"broke off after {_size(part):,} of {archive.size:,} bytes"
        if _size(part) <= before or attempt == RESUMPTIONS:
            break
        on_event(Note(f"{host} {progress}; resuming"))
    raise DataError(f"it {progress}")


def _host(url: str) -> str:
    """Return the host of a web address; DataError unless it is one."""
    try:
        parts = urlsplit(url)
        name = parts.hostname if parts.scheme in ("http", "https") else None
    except ValueError:
        name = None
    if not name:
        raise DataError("it is no http or https address")
    return name


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _is_right(part: Path, archive: Archive) -> bool:
    algorithm, _, expected = archive.digest.partition(":")
    with open(part, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest() == expected


def _receive(url: str, archive: Archive, part: Path, pace: Pace, on_event: OnEvent) -> None:
    """Make one request for what ``part`` lacks, and add what it brings."""
    response, start = _ask(url, archive, _size(part), pace.timeout)
    with response, open(part, "r+b" if start else "wb") as file:
        file.seek(start)
        done = start
        window_began, window_bytes = time.monotonic(), 0
        while done < archive.size and (chunk := _chunk(response, archive.size - done, pace.timeout)):
            file.write(chunk)
            done += len(chunk)
            window_bytes += len(chunk)
            on_event(Transfer(archive.name, done, archive.size))
            elapsed = time.monotonic() - window_began
            if elapsed >= pace.window and done < archive.size:
                if window_bytes < pace.rate * elapsed:
                    raise TooSlow(
                        f"it gave {window_bytes / elapsed / 1000:.0f} kB/s over {elapsed:.0f} seconds; "
                        f"at least {pace.rate / 1000:.0f} kB/s are wanted"
                    )
                window_began, window_bytes = time.monotonic(), 0


def _ask(url: str, archive: Archive, start: int, timeout: float) -> tuple[Any, int]:
    """Ask for the archive from ``start`` on; where the host serves no parts, the body begins at 0."""
    headers = {"User-Agent": "cifarcnn", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - the scheme was checked
    try:
        response = _answer(request, timeout)
    except urllib.error.HTTPError as problem:
        problem.close()
        if start and problem.code == RANGE_NOT_SATISFIABLE:
            return _ask(url, archive, 0, timeout)
        raise DataError(f"it answered {problem.code} {problem.reason}") from None
    except TimeoutError as problem:
        raise DataError(f"it did not answer within {problem.args[0]:g} seconds") from None
    except urllib.error.URLError as problem:
        raise DataError(f"it cannot be reached: {problem.reason}") from None
    except (OSError, http.client.HTTPException, ValueError) as problem:
        raise DataError(f"it gave no valid answer: {type(problem).__name__}: {problem}") from None
    if response.status == PARTIAL_CONTENT and start:
        if response.headers.get("Content-Range") == f"bytes {start}-{archive.size - 1}/{archive.size}":
            return response, start
        response.close()
        return _ask(url, archive, 0, timeout)
    length, kind = response.headers.get("Content-Length"), response.headers.get_content_type()
    if response.status != OK or kind == "text/html" or length not in (None, str(archive.size)):
        response.close()
        raise DataError(
            f"it answered {response.status} with {length or 'some'} bytes of {kind}; "
            f"expected the archive's {archive.size} bytes"
        )
    return response, 0


def _chunk(response: Any, most: int, timeout: float) -> bytes:
    """Receive what has arrived, at most ``most`` bytes; nothing once the connection ended or broke."""
    try:
        # Unlike read, read1 does not wait for the whole chunk, so a crawling host is noticed.
        content: bytes = response.read1(min(CHUNK_BYTES, most))
    except TimeoutError:
        raise DataError(f"it stalled: nothing arrived for {timeout:g} seconds") from None
    except (OSError, http.client.HTTPException):
        return b""
    return content


def _answer(request: urllib.request.Request, timeout: float) -> Any:
    """Return the response, whose body may still be on its way.

    urllib has no limit for looking a name up, nor for headers that come a byte at a time, so a thread waits.

    Raises:
        TimeoutError: no answer came in time, with the seconds: ``timeout`` for any byte, thrice that for all.
        Exception: what the opener raises.
    """
    answer: Future[Any] = Future()

    def ask() -> None:
        try:
            # An opener of its own sees the proxies that the environment names now.
            answer.set_result(urllib.request.build_opener().open(request, timeout=timeout))
        except Exception as problem:  # raised again below, where the caller tells one from another
            answer.set_exception(problem)

    # An executor's threads would be waited for when the process ends.
    threading.Thread(target=ask, name="download", daemon=True).start()
    try:
        return answer.result(TIMEOUTS_TO_ANSWER * timeout)
    except TimeoutError:
        raise TimeoutError(timeout if answer.done() else TIMEOUTS_TO_ANSWER * timeout) from None
