"""Workers meet before they train: all learn the same, or all learn why not."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from cifarcnn.errors import RunError
from cifarcnn.training import meeting
from cifarcnn.training.cluster import Cluster
from ports import free_ports


def addresses(count: int) -> tuple[str, ...]:
    """Return addresses on this machine."""
    return tuple(f"127.0.0.1:{port}" for port in free_ports(count))


def gather(calls: list[Callable[[], Any]]) -> list[Future[Any]]:
    """Make calls at the same time, and wait for all."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return [pool.submit(call) for call in calls]


def meet(
    workers: tuple[str, ...], greetings: dict[int, dict[str, Any]], wait: float = 20
) -> list[Future[Any]]:
    """Have these workers meet."""
    return gather([
        lambda index=index, greeting=greeting: meeting.meet(Cluster(workers, index), greeting, wait)
        for index, greeting in greetings.items()
    ])  # fmt: skip


@pytest.mark.parametrize("count", [2, 3, 5])
def test_everyone_hears_all_greetings_in_order(count: int) -> None:
    """What each said reaches each, whoever came first."""
    greetings = {index: {"number": index, "text": "ü" * index} for index in reversed(range(count))}
    for met in meet(addresses(count), greetings):
        assert met.result() == [greetings[index] for index in range(count)]


def test_a_missing_worker_is_named_to_all_others() -> None:
    """The chief knows who is missing, and tells those that came."""
    workers = addresses(3)
    for met in meet(workers, {0: {}, 1: {}}, wait=1):
        with pytest.raises(RunError, match=r"worker 2 .* did not come within 1 s") as problem:
            met.result()
        assert workers[2] in str(problem.value)


def test_a_missing_chief_is_named() -> None:
    """Without the chief, the others cannot know of each other."""
    workers = addresses(2)
    (met,) = meet(workers, {1: {}}, wait=0.5)
    with pytest.raises(RunError, match=r"worker 0 .* could not be reached within 0.5 s.*refused"):
        met.result()


def test_a_port_that_is_in_use_is_told_to_all() -> None:
    """The worker whose port it is cannot begin, and so none can."""
    workers = addresses(2)
    with socket.create_server(("", int(workers[1].rpartition(":")[2]))):
        for met in meet(workers, {0: {}, 1: {}}, wait=15):
            with pytest.raises(
                RunError, match=r"worker 1 .* cannot listen on port \d+: Address already in use"
            ):
                met.result()


def test_another_program_at_the_chiefs_address_is_noticed() -> None:
    """It takes the connection, but does not answer as the chief would."""
    workers = addresses(2)

    def answer(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # until it is closed
            while True:
                with listener.accept()[0] as connection:
                    connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
                    connection.recv(1000)

    with socket.create_server(("127.0.0.1", int(workers[0].rpartition(":")[2]))) as listener:
        threading.Thread(target=answer, args=(listener,), daemon=True).start()
        (met,) = meet(workers, {1: {}}, wait=0.1)
        with pytest.raises(RunError, match=r"worker 0 .*: another program answers there"):
            met.result()


def test_strangers_at_the_door_are_passed_over() -> None:
    """Port scanners and broken lines neither count as workers nor end the meeting."""
    workers = addresses(2)

    def knock() -> None:
        port = int(workers[0].rpartition(":")[2])
        lines = (b"", b"GET / HTTP/1.0\r\n\r\n", b"[]\n", b'{"worker": 7}\n', b'{"worker": "1"}\n', b"\xff\n")
        for line in lines:
            while True:
                try:
                    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                        connection.sendall(line)
                    break
                except ConnectionRefusedError:
                    continue
        meeting.meet(Cluster(workers, 1), {"name": "one"}, 20)

    chief, _knocking = gather([lambda: meeting.meet(Cluster(workers, 0), {"name": "zero"}, 20), knock])
    assert [greeting["name"] for greeting in chief.result()] == ["zero", "one"]


def test_two_processes_with_one_index_are_refused() -> None:
    """A copied TF_CONFIG whose index was not changed."""
    workers = addresses(3)

    def twice() -> None:
        while True:
            try:
                meeting._send(workers[0], {"worker": 1, "process": "a", "greeting": {}}, 10)
            except ConnectionRefusedError:
                continue
            meeting._send(workers[0], {"worker": 1, "process": "b", "greeting": {}}, 10)
            return

    chief, _others = gather([lambda: meeting.meet(Cluster(workers, 0), {}, 20), twice])
    with pytest.raises(RunError, match=r"worker 1 .* came twice"):
        chief.result()


def test_workers_that_would_not_train_the_same_say_where_they_differ() -> None:
    """The same sentence on every worker, with the names of the settings."""
    cluster = Cluster(("a:1", "b:1"), 0)
    same = {"seed": 1, "epochs": 2}
    meeting.compare(cluster, [same, dict(same), {"seed": 1}])
    with pytest.raises(RunError, match=r"worker 1 \(b:1\) would .*: epochs is 2 at worker 0, 3 at worker 1"):
        meeting.compare(cluster, [same, {**same, "epochs": 3}])


def test_a_worker_that_cannot_begin_says_why() -> None:
    """Its error reaches the others."""
    with pytest.raises(RunError, match=r"worker 1 \(b:1\) cannot begin: no disk"):
        meeting.compare(Cluster(("a:1", "b:1"), 0), [{}, {"error": "no disk"}])


@pytest.mark.parametrize("failing", [0, 1])
def test_the_reason_of_one_reaches_the_others_though_another_is_missing(failing: int) -> None:
    """Of three workers one cannot begin and one never comes; the third learns the first's reason."""
    greetings: dict[int, dict[str, Any]] = {0: {}, 1: {}, failing: {"error": "no disk"}}
    for met in meet(addresses(3), greetings, wait=3):
        with pytest.raises(RunError, match=rf"worker {failing} .* cannot begin: no disk"):
            met.result()


def test_a_greeting_that_is_sent_again_is_no_second_worker() -> None:
    """The chief was slow to acknowledge it."""
    workers = addresses(3)

    def again() -> None:
        message = {"worker": 1, "process": "a", "greeting": {"name": "one"}}
        while True:
            try:
                meeting._send(workers[0], message, 10)
            except ConnectionRefusedError:
                continue
            meeting._send(workers[0], message, 10)
            with socket.create_server(("127.0.0.1", int(workers[1].rpartition(":")[2]))) as listener:
                heard = meeting._receive(listener, time.monotonic() + 20)
            assert heard is not None
            assert [greeting["name"] for greeting in heard["greetings"]] == ["zero", "one", "two"]
            return

    def late() -> None:
        time.sleep(1)
        meeting.meet(Cluster(workers, 2), {"name": "two"}, 20)

    gathered = gather([lambda: meeting.meet(Cluster(workers, 0), {"name": "zero"}, 20), again, late])
    for future in gathered:
        future.result()
