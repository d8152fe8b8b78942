"""The benchmark behind the table of results: what it counts as measured, and under which name."""

import dataclasses
import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cifarcnn import config, expectations

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def recipes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("recipes")


def begin(out: Path, **changes: Any) -> Path:
    """Leave a run directory of vgg2's classic recipe with these settings changed."""
    settings = dataclasses.asdict(config.resolve({"arch": "vgg2", "recipe": "classic"}))
    out.mkdir()
    (out / "settings.json").write_text(json.dumps({**settings, **changes}))
    return out


def test_a_stopped_training_goes_on_in_its_own_directory(recipes: ModuleType, tmp_path: Path) -> None:
    """That is one with the recipe's settings and the seed, whatever the device; another is left alone."""
    assert recipes.begun_before("vgg2", "classic", 1, tmp_path) is None
    begin(tmp_path / "a", seed=0)
    begin(tmp_path / "b", seed=1, epochs=19)
    begin(tmp_path / "c", seed=1, recipe="fast")
    assert recipes.begun_before("vgg2", "classic", 1, tmp_path) is None
    right = begin(tmp_path / "d", seed=1, precision="float32", device="gpu:0")
    assert recipes.begun_before("vgg2", "classic", 1, tmp_path) == right


def test_a_record_of_a_changed_recipe_does_not_count(
    recipes: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is left out, and that is said."""
    settings = recipes.recipe_settings("vgg2", "fast")
    record = {"arch": "vgg2", "recipe": "fast", "seed": 3, "settings": settings}
    others = [
        {**record, "seed": 4, "settings": {**settings, "epochs": 99}},
        {**record, "seed": 5, "params": 7},
        {**record, "seed": 6, "arch": "gone"},
    ]
    assert recipes.divide([*others, record]) == ([record], others)
    told = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in told] == [
        "vgg2 fast seed 4",
        "vgg2 fast seed 5",
        "gone fast seed 6",
    ]


def test_the_benchmark_measures_what_is_not_in_its_file(
    recipes: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each seed once, into a file of one's own; only --publish changes what was published."""
    records = json.loads((BENCHMARKS / "recipes.json").read_text())["records"]
    measured: list[int] = []

    def measure(arch: str, _recipe: str, seed: int, _out: Path) -> dict[str, Any]:
        measured.append(seed)
        (record,) = [one for one in records if (one["arch"], one["seed"]) == (arch, seed)]
        return {**record, "accuracy": 0.5}

    def run(*options: str) -> str:
        monkeypatch.setattr("sys.argv", ["recipes.py", "--arch", "whiten6-tiny", *options])
        recipes.main()
        return capsys.readouterr().out

    published, expected = tmp_path / "recipes.json", tmp_path / "expectations.json"
    monkeypatch.setattr(recipes, "measure", measure)
    monkeypatch.setattr(recipes, "PUBLISHED", published)
    monkeypatch.setattr(expectations, "PATH", expected)
    monkeypatch.chdir(tmp_path)
    run("--seeds", "1")
    assert "| 50.00 ± 0.00 |" in run("--seeds", "2", "--table")
    assert measured == [0, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["measured.json"]
    run("--seeds", "2", "--publish")
    assert measured == [0, 1, 0, 1]
    assert json.loads(published.read_text()) == json.loads((tmp_path / "measured.json").read_text())
    assert json.loads(expected.read_text())["rows"][0]["accuracy"]["mean"] == 0.5
    # A record of a network that was changed, or is no more, is kept, but not taken for one of today's.
    document = json.loads((tmp_path / "measured.json").read_text())
    document["records"][0]["params"] = 7
    document["records"].append({**document["records"][0], "arch": "gone"})
    (tmp_path / "measured.json").write_text(json.dumps(document))
    run("--seeds", "2")
    assert measured == [0, 1, 0, 1, 0]
    assert len(json.loads((tmp_path / "measured.json").read_text())["records"]) == 4


@pytest.mark.parametrize(
    ("hardware", "name"),
    [
        ({"cpu": "AMD EPYC", "cpus": 2, "bfloat16": ["avx512_bf16"]}, "AMD EPYC, 2 cores, avx512_bf16"),
        ({"cpu": "AMD EPYC", "cpus": 1, "bfloat16": []}, "AMD EPYC, 1 core"),
    ],
)
def test_a_machine_is_named_by_what_decides_on_its_speed(
    recipes: ModuleType, hardware: dict[str, Any], name: str
) -> None:
    """Processors of one name with and without bfloat16 are machines of their own."""
    assert recipes._machine(hardware) == name
