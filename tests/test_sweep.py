"""Which runs a settings file spans: products, explicit runs, seeds, names, limits, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cifarcnn import config
from cifarcnn.errors import RunError, UsageError
from cifarcnn.runs import sweep
from conftest import Run


def write(folder: Path, content: str) -> Path:
    """Make a settings file."""
    file = folder / "lr.toml"
    file.write_text(content)
    return file


def test_a_grid_is_a_product_and_runs_are_added(tmp_path: Path) -> None:
    """The last list varies fastest; a [[run]] may replace a shared setting; recipes follow the network."""
    file = write(
        tmp_path,
        'recipe = "classic"\nbatch-size = 50\n[grid]\narch = ["vgg2", "plain6"]\nlearning-rate = [1, 0.5]\n'
        "[[run]]\n[[run]]\nbatch_size = 60\ndeterministic = true\n",
    )
    plan = sweep.read(file, {"epochs": 3, "momentum": None}, data="images")
    seen = [
        (task.settings.arch, task.settings.learning_rate, task.settings.batch_size) for task in plan.tasks
    ]
    assert seen[:4] == [("vgg2", 1, 50), ("vgg2", 0.5, 50), ("plain6", 1, 50), ("plain6", 0.5, 50)]
    assert [row[2] for row in seen[4:]] == [50, 60]
    assert [task.settings.optimizer for task in plan.tasks[:3]] == ["sgd", "sgd", "rmsprop"]
    assert {task.settings.epochs for task in plan.tasks} == {3}
    assert [task.name for task in plan.tasks] == [
        "1-vgg2-batch_size50-learning_rate1", "2-vgg2-batch_size50-learning_rate0.5",
        "3-plain6-batch_size50-learning_rate1", "4-plain6-batch_size50-learning_rate0.5",
        "5-batch_size50", "6-batch_size60-deterministic",
    ]  # fmt: skip
    assert plan.data == str(Path("images").absolute())


def test_seeds_are_one_more_dimension(tmp_path: Path) -> None:
    """Every combination with every seed, seeds varying fastest."""
    file = write(tmp_path, "[grid]\ndropout = [0.0, 0.5]\n[[run]]\ndropout = 1.0\n")
    plan = sweep.read(file, {}, [4, 2])
    assert [(task.settings.dropout, task.settings.seed) for task in plan.tasks] == [
        (0, 4), (0, 2), (0.5, 4), (0.5, 2), (1, 4), (1, 2)
    ]  # fmt: skip
    assert plan.tasks[3].name == "4-dropout0.5-seed2"
    groups = sweep.group([vars(task.settings) for task in plan.tasks])
    assert groups == [({"dropout": 0.0}, [0, 1]), ({"dropout": 0.5}, [2, 3]), ({"dropout": 1.0}, [4, 5])]


REFUSED: list[tuple[str, dict[str, Any], list[int], str]] = [
    ("[grid]", {}, [], "expected a table [grid] of one or more lists of values"),
    ("grid = 3", {}, [], "grid is 3; expected a table [grid]"),
    ("run = []", {}, [], "spans 0 runs; expected at least 1 and at most 10,000"),
    ("[run]\nepochs = 3", {}, [], "expected each run under a line [[run]]"),
    ("[grid]\nepoch = [3]", {}, [], "[grid] unknown setting 'epoch'; did you mean 'epochs'?"),
    ("[grid]\nepochs = 3", {}, [], "[grid] epochs is 3; expected a list of values"),
    ("[grid]\nepochs = []", {}, [], "[grid] epochs is []; expected a list of values"),
    ("[grid]\nepochs = [3, 0]", {}, [], "[grid] epochs is 0; expected a number at least 1"),
    ("[grid]\nepochs = [3, 'x']", {}, [], "[grid] epochs is 'x'; expected a whole number"),
    ("[grid]\nepochs = [3, 4, 3]", {}, [], "[grid] epochs has 3 twice"),
    ("[grid]\nema = [0, 0.0]", {}, [], "[grid] ema has 0.0 twice"),
    ("[grid]\nepochs = [" + "9" * 400 + "]", {}, [], "epochs is inf; expected a number at least 1"),
    ("[grid]\nepochs = [" + "9" * 5000 + "]", {}, [], "expected a TOML file of settings"),
    ("[grid]\narch = ['vgg2', 'vgg9']", {}, [], "[grid] unknown architecture 'vgg9': did you mean"),
    ("[grid]\nbatch-size = [3]\nbatch_size = [4]", {}, [], "[grid] has batch_size twice"),
    ("batch-size = 3\nbatch_size = 4\n[[run]]", {}, [], "batch_size stands there twice"),
    ("[grid.epochs]\na = 3", {}, [], "[grid] epochs is {'a': 3}; expected a list"),
    ("epochs = 3\n[grid]\nepochs = [3]", {}, [], "epochs stands in [grid] and beside it"),
    ("epoch = 3\n[grid]\nepochs = [3]", {}, [], "unknown setting 'epoch'"),
    ("[[run]]\n[[run]]\nepochs = [1]", {}, [], "[[run]] number 2: epochs is [1]; expected a whole number"),
    ("[[run]]\narch = 'vgg9'", {}, [], "[[run]] number 1: unknown architecture 'vgg9'"),
    ("[grid]\nepochs = [3, 4]\n[[run]]\nepochs = 4", {}, [], "tasks 2 and 3 are the same training"),
    ("[grid]\nbatch-size = [3]", {"batch_size": 3}, [], "--batch-size cannot be given with it"),
    ("[[run]]\nepochs = 3", {"epochs": 3}, [], "epochs stands in [[run]]; --epochs cannot be given"),
    ("[grid]\nseed = [3]", {}, [1], "seed stands in [grid]; --seeds and --repeat cannot be given with it"),
    ("[grid]\nepochs = [3]", {}, [1, 1], "seeds are [1, 1]; expected one or more, each once"),
    ("[grid]\nepochs = [3]", {}, [-1], "task 1: seed is -1; expected a number at least 0"),
]


@pytest.mark.parametrize(("content", "said", "seeds", "message"), REFUSED)
def test_what_is_wrong_is_named_in_one_line(
    content: str, said: dict[str, Any], seeds: list[int], message: str, tmp_path: Path
) -> None:
    """The file, the place and the key; nothing is trained."""
    file = write(tmp_path, content)
    with pytest.raises(UsageError) as caught:
        sweep.read(file, said, seeds)
    assert message in str(caught.value)
    assert seeds or str(caught.value).startswith(f"--config {str(file)!r}")
    assert "\n" not in str(caught.value)


def test_ten_thousand_runs_are_the_most(tmp_path: Path) -> None:
    """Counted before they are made: a product of billions is refused at once."""
    hundred = f"[{', '.join(map(str, range(1, 101)))}]"
    file = write(tmp_path, f"[grid]\nepochs = {hundred}\nbatch-size = {hundred}\n")
    plan = sweep.read(file, {})
    assert len(plan.tasks) == len({task.name for task in plan.tasks}) == 10_000
    assert plan.tasks[0].name == "00001-epochs1-batch_size1"
    with pytest.raises(UsageError, match=r"spans 1,000,000 runs; expected at least 1 and at most 10,000"):
        sweep.read(file, {}, range(100))


def test_a_plan_reads_back(tmp_path: Path) -> None:
    """Every setting, also those that a recipe gave."""
    file = write(tmp_path, 'recipe = "classic"\n[grid]\narch = ["vgg3", "plain6"]\ndropout = [0.1, 0.3]\n')
    plan = sweep.read(file, {}, data=tmp_path)
    plan.save(tmp_path)
    assert sweep.load(tmp_path) == plan


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: "",
        lambda _: "[" * 100_000,
        lambda _: "[]",
        lambda plan: json.dumps({**plan, "runs": []}),
        lambda plan: json.dumps({**plan, "data": 3}),
        lambda plan: json.dumps({**plan, "settings": {"arch": "vgg9"}}),
        lambda plan: json.dumps({**plan, "runs": [{"name": "../../x", "settings": {}}]}),
        lambda plan: json.dumps({**plan, "runs": plan["runs"] * 2}),
    ],
)
def test_a_damaged_plan_is_refused(damage: Any, tmp_path: Path) -> None:
    """The file is named, and no name in it leads out of the directory."""
    sweep.read(write(tmp_path, "[grid]\nepochs = [3, 4]"), {}).save(tmp_path)
    plan = json.loads((tmp_path / sweep.FILE).read_text())
    (tmp_path / sweep.FILE).write_text(damage(plan))
    with pytest.raises(RunError, match=r"cannot read .*sweep\.json"):
        sweep.load(tmp_path)


VALUES = st.recursive(
    st.booleans() | st.integers(-10, 10**6) | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["vgg2", "classic", "x\ny", ""]),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
TABLES = st.dictionaries(st.sampled_from([*config.FIELDS, "batch-size", "epoch", "grid"]), VALUES, max_size=3)


def toml(table: dict[str, Any]) -> str:
    """Write a flat table."""
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in table.items())


@given(TABLES, st.none() | TABLES, st.lists(TABLES, max_size=2))
def test_any_file_is_planned_or_refused(
    tmp_path_factory: pytest.TempPathFactory, shared: dict[str, Any], grid: Any, rows: list[dict[str, Any]]
) -> None:
    """No content of a file is a bug of ours, and a plan has as many names as runs."""
    content = toml(shared) + ("" if grid is None else f"[grid]\n{toml(grid)}")
    content += "".join(f"[[run]]\n{toml(row)}" for row in rows)
    file = write(tmp_path_factory.mktemp("any"), content)
    try:
        plan = sweep.read(file, {})
    except UsageError as refusal:
        text = str(refusal)
        assert "\n" not in text
    else:
        assert 1 <= len({task.name for task in plan.tasks}) == len(plan.tasks)
        plan.save(file.parent)
        assert sweep.load(file.parent) == plan


def test_the_command_counts_tasks_for_a_job_array(cifarcnn: Run, tmp_path: Path) -> None:
    """The number stands first; the document has settings; nothing is made."""
    file = write(tmp_path, 'arch = "vgg3"\n[grid]\nlearning-rate = [0.1, 0.2, 0.4]\n')
    shown = cifarcnn("train", "--config", file, "--tasks", "--repeat", 2)
    assert (shown.returncode, shown.stderr) == (0, "")
    lines = shown.stdout.splitlines()
    assert lines[0] == "6 tasks in runs/lr"
    assert lines[1:3] == ["1  1-learning_rate0.1-seed0", "2  2-learning_rate0.1-seed1"]
    document = json.loads(cifarcnn("train", "--config", file, "--tasks", "--json", "--out", "o").stdout)
    assert (document["schema"], document["count"], document["directory"]) == (1, 3, "o/lr")
    assert document["tasks"][2] == {
        "task": 3, "name": "3-learning_rate0.4", "settings": {"learning_rate": 0.4}
    }  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lr.toml"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--task", "1"], "--task needs --config with a file that has a [grid] or [[run]]"),
        (["--task", "1", "--config", "missing.toml"], "'missing.toml': No such file or directory; expected"),
        (["--tasks", "--config", "plain.toml"], "--tasks needs --config with a file that has a [grid]"),
        (["--task", "1", "--tasks", "--config", "lr.toml"], "--task cannot be given with --tasks"),
        (
            ["--task", "4", "--config", "lr.toml"],
            "no task 4: 'lr.toml' spans 3 runs; expected a number from 1",
        ),
        (["--task", "0", "--config", "lr.toml"], "no task 0"),
        (["--task", "1", "--resume", "x"], "--task cannot be given with --resume"),
        (["--learning-rate", "1", "--config", "lr.toml"], "--learning-rate cannot be given with it"),
        (["--config", "none.toml"], "--config 'none.toml': No such file or directory"),
        (["--config", "."], "--config '.': Is a directory"),
    ],
)
def test_wrong_usage_is_one_line(options: list[str], message: str, cifarcnn: Run, tmp_path: Path) -> None:
    """Exit code 2, and nothing is made."""
    write(tmp_path, "[grid]\nlearning-rate = [0.1, 0.2, 0.4]\n")
    (tmp_path / "plain.toml").write_text("epochs = 3\n")
    done = cifarcnn("train", *options)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_a_file_of_many_runs_is_not_one_of_settings(tmp_path: Path) -> None:
    """What trains once says so, in place of an unknown setting."""
    file = write(tmp_path, "[[run]]\nepochs = 3\n")
    assert sweep.is_sweep_file(file)
    with pytest.raises(UsageError, match="run makes it a file of many runs; expected the settings of one"):
        config.read_toml(file)
