"""TF_CONFIG and SLURM's variables: read as they are meant, or refused in one line."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cifarcnn.errors import UsageError
from cifarcnn.training import cluster
from cifarcnn.training.cluster import Cluster

hosts = st.text("abyz019.-", min_size=1, max_size=20)
addresses = st.builds("{}:{}".format, hosts, st.integers(1, 65535))


def config(workers: Any, kind: Any = "worker", index: Any = 0, **other: Any) -> str:
    """Return a TF_CONFIG."""
    return json.dumps({"cluster": {"worker": workers, **other}, "task": {"type": kind, "index": index}})


@given(st.lists(addresses, min_size=2, max_size=5, unique=True), st.data())
def test_workers_keep_their_order_and_the_first_is_chief(workers: list[str], data: st.DataObject) -> None:
    """Whichever worker reads it, the list is the same."""
    index = data.draw(st.integers(0, len(workers) - 1))
    found = cluster.from_environment({"TF_CONFIG": config(workers, index=index)})
    assert found == Cluster(tuple(workers), index)
    assert found.chief == (index == 0)
    assert workers[index] in found.name(index)


def test_a_chief_comes_before_the_workers() -> None:
    """The form with a chief of its own means the same as that without."""
    both = {"chief": ["a:1"], "workers": ["b:1", "c:1"]}
    assert cluster.parse(config(both["workers"], "chief", 0, chief=both["chief"])) == Cluster(
        ("a:1", "b:1", "c:1"), 0
    )
    assert cluster.parse(config(both["workers"], "worker", 1, chief=both["chief"])).index == 2


@given(
    st.one_of(
        st.text(),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["cluster", "task", "worker", "type", "index"]), inner)
            ),
        ).map(json.dumps),
    )
)
def test_anything_else_is_refused_in_one_line(text: str) -> None:
    """Whatever the variable holds, it is a cluster or one line with an example."""
    refused = ""
    try:
        found = cluster.from_environment({"TF_CONFIG": text})
    except UsageError as problem:
        refused, found = str(problem), None
    assert "\n" not in refused
    assert not refused or ("TF_CONFIG" in refused and cluster.EXAMPLE in refused)
    assert found is None or 0 <= found.index < len(found.workers)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[]", "without a cluster or a task"),
        ('{"cluster": {"worker": ["a:1", "b:1"]}}', "without a cluster or a task"),
        (config([]), "without workers"),
        (config("a:1"), "no list"),
        (config(["a:1", "b"]), "'b', which is no host:port"),
        (config(["a:1", "b:99999"]), "'b:99999'"),
        (config(["a:1", 7]), "7, which is no host:port"),
        (config(["a:1", "a:1"]), "one address twice"),
        (config(["a:1", "b:1"], index=2), "task 'worker' 2"),
        (config(["a:1", "b:1"], index="0"), "task 'worker' '0'"),
        (config(["a:1", "b:1"], index=True), "task 'worker' True"),
        (config(["a:1", "b:1"], index=-1), "task 'worker' -1"),
        (config(["a:1", "b:1"], kind=["worker"]), "which its cluster does not have"),
        (config(["a:1"], ps=["b:1"]), "'ps'"),
        (config(["a:1"], chief=["b:1", "c:1"]), "more than one chief"),
    ],
)
def test_what_is_wrong_is_named(text: str, said: str) -> None:
    """Each mistake has its own words."""
    with pytest.raises(UsageError, match="TF_CONFIG is set, but") as problem:
        cluster.parse(text)
    assert said in str(problem.value)


@pytest.mark.parametrize("environ", [{}, {"TF_CONFIG": " "}, {"TF_CONFIG": config(["a:1"])},
                                     {"SLURM_STEP_NUM_TASKS": "1"}])  # fmt: skip
def test_one_process_trains_alone(environ: dict[str, str]) -> None:
    """Without a second worker there is nothing to wait for."""
    assert cluster.from_environment(environ) is None


def slurm(**changes: str) -> dict[str, str]:
    """Return the environment of the third of four tasks on two nodes."""
    return {
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_STEP_NODELIST": "node[1-2]",
        "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
        "SLURM_PROCID": "2",
        "SLURMD_NODENAME": "node2",
        **changes,
    }


def test_slurm_tasks_are_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each node's tasks get ports one after the other; the place in the list is SLURM's number."""
    for name, value in slurm().items():
        monkeypatch.setenv(name, value)
    found = cluster.from_environment(slurm())
    first, second = cluster.SLURM_PORT, cluster.SLURM_PORT + 1
    assert found == Cluster((f"node1:{first}", f"node1:{second}", f"node2:{first}", f"node2:{second}"), 2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"SLURM_STEP_NUM_TASKS": "many"}, "srun"),
        ({"SLURMD_NODENAME": "node1"}, "TensorFlow expects it on node2"),
    ],
)
def test_slurm_variables_that_make_no_sense_are_refused(
    changes: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorFlow's resolver sorts nodes by name; where SLURM numbers them otherwise, nothing is guessed."""
    for name, value in slurm(**changes).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="SLURM") as problem:
        cluster.from_environment(slurm(**changes))
    assert said in str(problem.value)
