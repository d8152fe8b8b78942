"""Which processes train together, as ``TF_CONFIG`` or SLURM say it."""

import json
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cifarcnn.errors import UsageError

EXAMPLE = '{"cluster": {"worker": ["host1:12345", "host2:12345"]}, "task": {"type": "worker", "index": 0}}'

WAIT_SECONDS = 300
"""How long workers wait for each other, unless the user says otherwise."""

LONGEST_WAIT = 7 * 24 * 3600

SLURM_PORT = 12345
"""The port of a node's first process; its next ones take the next ports."""


@dataclass(frozen=True)
class Cluster:
    """The processes that train together.

    Attributes:
        workers: the address of each, "host:port", in the same order for all of them.
        index: which of them this process is. The first is the chief, which alone writes.
    """

    workers: tuple[str, ...]
    index: int

    @property
    def chief(self) -> bool:
        """Whether this process is the one that writes."""
        return self.index == 0

    def name(self, index: int) -> str:
        """Return what to call a worker in a message."""
        return f"worker {index} ({self.workers[index]})"


def from_environment(environ: Mapping[str, str]) -> Cluster | None:
    """Return the cluster that this process belongs to, or None if it trains by itself.

    Without ``TF_CONFIG``, a SLURM job step of several tasks is a cluster of as many workers.

    Raises:
        UsageError: what the environment says makes no sense.
    """
    text = environ.get("TF_CONFIG", "").strip()
    if text:
        cluster = parse(text)
    elif environ.get("SLURM_STEP_NUM_TASKS", "1") != "1":
        cluster = _from_slurm(environ)
    else:
        return None
    return cluster if len(cluster.workers) > 1 else None


def parse(text: str) -> Cluster:
    """Read the value of ``TF_CONFIG``. A chief counts as the first worker.

    Raises:
        UsageError: it is no JSON, or does not describe a cluster of workers and this task's place in it.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise _wrong(f"no JSON ({problem})") from None
    cluster, task = (
        document.get(name) if isinstance(document, dict) else None for name in ("cluster", "task")
    )
    if not isinstance(cluster, dict) or not isinstance(task, dict):
        raise _wrong("without a cluster or a task")
    if strange := sorted(set(cluster) - {"chief", "worker"}):
        raise _wrong(f"with tasks of type {strange[0]!r}, where only chief and worker can train")
    chiefs, workers = (_addresses(cluster.get(kind, []), kind) for kind in ("chief", "worker"))
    everyone = chiefs + workers
    if len(chiefs) > 1:
        raise _wrong("with more than one chief")
    if not everyone:
        raise _wrong("without workers")
    if len(set(everyone)) < len(everyone):
        raise _wrong("with one address twice")
    kind, index = task.get("type"), task.get("index")
    group = {"chief": chiefs, "worker": workers}.get(kind) if isinstance(kind, str) else None
    if group is None or isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(group):
        raise _wrong(f"with task {kind!r} {index!r}, which its cluster does not have")
    return Cluster(tuple(everyone), index + (len(chiefs) if kind == "worker" else 0))


def _addresses(value: Any, kind: str) -> list[str]:
    """Check a list of addresses."""
    if not isinstance(value, list):
        raise _wrong(f"whose {kind} is no list")
    for address in value:
        match = re.fullmatch(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.%]+\]):(\d{1,5})", str(address))
        if not isinstance(address, str) or not match or not 0 < int(match[1]) < 65536:
            raise _wrong(f"with the {kind} address {address!r}, which is no host:port")
    return value


def _wrong(what: str) -> UsageError:
    return UsageError(f"TF_CONFIG is set, but {what}; expected e.g. {EXAMPLE}")


def _from_slurm(environ: Mapping[str, str]) -> Cluster:
    """Ask TensorFlow's resolver, which reads SLURM's variables."""
    from cifarcnn.machine import backend

    backend.need_tensorflow("several machines train together")
    import tensorflow as tf

    try:
        tasks = int(environ["SLURM_STEP_NUM_TASKS"])
        # It hands out ports as it would GPUs: one for each task of a node.
        resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
            jobs={"worker": tasks},
            port_base=SLURM_PORT,
            gpus_per_node=tasks,
            gpus_per_task=1,
            tasks_per_node=None,
            auto_set_gpu=False,
        )
        workers = resolver.cluster_spec().job_tasks("worker")
        _kind, index = resolver.get_task_info()
    except (KeyError, ValueError, RuntimeError) as problem:
        raise UsageError(
            f"this is one of several SLURM tasks, but they cannot be found out: {problem}; start them with"
            " srun, or train alone with --alone"
        ) from problem
    # It sorts the nodes by name, which need not be the order in which SLURM numbers its tasks.
    node = environ.get("SLURMD_NODENAME", socket.gethostname())
    host = workers[index].rpartition(":")[0]
    if host != node:
        raise UsageError(
            f"SLURM's task {index} runs on {node}, but TensorFlow expects it on {host}; set TF_CONFIG by"
            " hand, or choose node names of equal length"
        )
    return Cluster(tuple(workers), index)
