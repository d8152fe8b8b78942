"""The benchmark behind the table of results: what it counts as measured, and under which name."""

import dataclasses
import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cifarcnn import config

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
    changed = {**record, "seed": 4, "settings": {**settings, "epochs": 99}}
    assert recipes.valid([changed, record]) == [record]
    assert "vgg2 fast seed 4: the recipe has changed" in capsys.readouterr().err


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
