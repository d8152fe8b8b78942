"""Where the workers of a cluster meet before they compute, to compare what each is about to do.

Every worker listens at its own address and sends the chief a greeting, a line of JSON. When all have come,
the chief sends everyone all the greetings. So a worker that is missing, an address that another program holds
and settings that differ are known to every worker, in a sentence, before TensorFlow is started. Training
itself goes through TensorFlow's own connections.
"""

import contextlib
import json
import os
import secrets
import socket
import time
from typing import Any

from cifarcnn.errors import RunError, reason
from cifarcnn.training.cluster import Cluster

Greeting = dict[str, Any]

LONGEST = 1_000_000
"""Bytes of a message."""

PATIENCE = 10
"""Seconds to wait for a program that took a connection to answer."""

SILENCE = 2
"""Seconds to wait for a program that opened a connection."""

RETRY = 0.2
"""Seconds between two attempts to reach the chief."""


class MeetingError(RunError):
    """The workers did not all come, or would not train the same. Those that came and can be reached know."""


def meet(cluster: Cluster, greeting: Greeting, wait: float) -> list[Greeting]:
    """Exchange greetings with all workers.

    Args:
        cluster: who they are.
        greeting: what this worker has to say, as JSON can hold it.
        wait: seconds to wait for the others.

    Returns:
        The greeting of each worker, in the order of the cluster; the same for all of them.

    Raises:
        MeetingError: a worker does not come, or cannot be reached, or its address is in use.
    """
    deadline = time.monotonic() + wait
    try:
        listener = _listen(cluster)
    except MeetingError as problem:
        if not cluster.chief:
            with contextlib.suppress(MeetingError):
                _greet(
                    cluster,
                    {"worker": cluster.index, "error": str(problem)},
                    time.monotonic() + PATIENCE,
                    wait,
                )
        raise
    with listener:
        if cluster.chief:
            return _gather(cluster, greeting, listener, deadline, wait)
        # A greeting that was not acknowledged in time is sent again, and must not pass for another worker's.
        message = {"worker": cluster.index, "process": secrets.token_hex(8), "greeting": greeting}
        _greet(cluster, message, deadline, wait)
        return _hear(cluster, listener, wait)


def compare(cluster: Cluster, greetings: list[Greeting]) -> None:
    """Refuse workers that are about to do something else than the chief, on every worker in the same words.

    Raises:
        MeetingError: a worker's greeting differs from the chief's in something that both say.
    """
    chief = greetings[0]
    for index, greeting in enumerate(greetings):
        if "error" in greeting:
            raise _cannot_begin(cluster, index, greeting)
        differing = [
            f"{name} is {chief[name]!r} at worker 0, {value!r} at worker {index}"
            for name, value in greeting.items()
            if name in chief and chief[name] != value
        ]
        if differing:
            raise MeetingError(
                f"{cluster.name(index)} would not train the same: {'; '.join(differing)}; start all workers"
                " with the same settings, images and versions"
            )


def _listen(cluster: Cluster) -> socket.socket:
    """Take this worker's port."""
    port = int(cluster.workers[cluster.index].rpartition(":")[2])
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        return socket.create_server(
            ("", port), family=family, backlog=len(cluster.workers), dualstack_ipv6=both
        )
    except OSError as problem:
        name, why = cluster.name(cluster.index), os.strerror(problem.errno or 0)
        raise MeetingError(
            f"{name} cannot listen on port {port}: {why}; end the program that holds it, or choose another"
            " port for all workers"
        ) from problem


def _gather(
    cluster: Cluster, greeting: Greeting, listener: socket.socket, deadline: float, wait: float
) -> list[Greeting]:
    """As the chief, wait for all greetings and send them to all; or tell all why there is nothing to do."""
    greetings = {0: greeting}
    try:
        _collect(cluster, greetings, listener, deadline, wait)
        everyone = [greetings[index] for index in range(len(cluster.workers))]
        for index in range(1, len(cluster.workers)):
            try:
                _send(cluster.workers[index], {"greetings": everyone}, PATIENCE)
            except (OSError, ValueError) as problem:
                raise MeetingError(
                    f"{cluster.name(index)} came, but cannot be reached: {reason(problem)}"
                ) from problem
    except (MeetingError, KeyboardInterrupt) as problem:
        why = str(problem) or f"{cluster.name(0)} was stopped by Ctrl-C"
        for index in set(greetings) - {0}:
            with contextlib.suppress(OSError, ValueError):
                _send(cluster.workers[index], {"error": why}, 1)
        raise
    return everyone


def _collect(
    cluster: Cluster, greetings: dict[int, Greeting], listener: socket.socket, deadline: float, wait: float
) -> None:
    """Add the greetings of all workers to the chief's."""
    processes: dict[int, Any] = {}
    while missing := [index for index in range(len(cluster.workers)) if index not in greetings]:
        message = _receive(listener, deadline)
        if message is None and "error" in greetings[0]:
            raise _cannot_begin(cluster, 0, greetings[0])
        if message is None:
            names = ", ".join(cluster.name(index) for index in missing)
            raise MeetingError(f"{names} did not come within {wait:g} s; start every worker, within --wait")
        index, process = message.get("worker"), message.get("process")
        if not isinstance(index, int) or index not in range(1, len(cluster.workers)):
            continue  # not one of ours
        if "error" in message:
            raise MeetingError(str(message["error"]))
        if processes.setdefault(index, process) != process:
            raise MeetingError(
                f"{cluster.name(index)} came twice; every process needs its own index in TF_CONFIG"
            )
        greetings[index] = dict(message.get("greeting") or {})
        if "error" in greetings[index]:
            raise _cannot_begin(cluster, index, greetings[index])


def _cannot_begin(cluster: Cluster, index: int, greeting: Greeting) -> MeetingError:
    return MeetingError(f"{cluster.name(index)} cannot begin: {greeting['error']}")


def _greet(cluster: Cluster, message: Greeting, deadline: float, wait: float) -> None:
    """Send the chief a message as soon as it listens."""
    while True:
        try:
            _send(cluster.workers[0], message, PATIENCE)
        except (OSError, ValueError) as problem:
            if time.monotonic() > deadline:
                raise MeetingError(
                    f"{cluster.name(0)} could not be reached within {wait:g} s: {reason(problem)}; is it"
                    " started, is its address right, and does a firewall let the port through?"
                ) from problem
            time.sleep(RETRY)
        else:
            return


def _hear(cluster: Cluster, listener: socket.socket, wait: float) -> list[Greeting]:
    """Wait for what the chief sends to all."""
    # The chief, which may have come later than we, knows better whom it misses.
    deadline = time.monotonic() + wait + PATIENCE
    while (message := _receive(listener, deadline)) is not None:
        if "error" in message:
            raise MeetingError(str(message["error"]))
        greetings = message.get("greetings")
        if isinstance(greetings, list) and len(greetings) == len(cluster.workers):
            return [dict(greeting) for greeting in greetings]
    raise MeetingError(f"{cluster.name(0)} fell silent; not all workers came within {wait:g} s")


def _send(address: str, message: Greeting, timeout: float) -> None:
    """Send a line of JSON, and wait until it is acknowledged.

    Raises:
        OSError: the address cannot be reached.
        ValueError: who is there does not acknowledge.
    """
    host, _, port = address.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=timeout) as connection:
        connection.settimeout(timeout)
        connection.sendall(json.dumps(message).encode() + b"\n")
        if connection.makefile("rb").readline(100) != b"cifarcnn\n":
            raise ValueError("another program answers there")


def _receive(listener: socket.socket, deadline: float) -> Greeting | None:
    """Return the next message, or None when the time is up. What is no message is passed over."""
    while (left := deadline - time.monotonic()) > 0:
        listener.settimeout(left)
        try:
            connection, _address = listener.accept()
        except TimeoutError:
            break
        with connection:
            connection.settimeout(SILENCE)
            try:
                line = connection.makefile("rb").readline(LONGEST)
                message = json.loads(line)
                connection.sendall(b"cifarcnn\n")
            except (OSError, ValueError, RecursionError):
                continue
        if isinstance(message, dict):
            return message
    return None
