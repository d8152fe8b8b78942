"""Settings: one table of defaults and bounds for the command line, the file and the library."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cifarcnn.architectures import ARCHITECTURES
from cifarcnn.config import (
    FIELDS,
    Settings,
    differing_from_recipe,
    option,
    read_toml,
    resolution_of_epoch,
    resolve,
)
from cifarcnn.errors import UsageError
from cifarcnn.recipes import RECIPES, recipes_for


def test_every_recipe_of_every_architecture_is_valid() -> None:
    """Resolving checks names, types and bounds of what a recipe says."""
    for row in ARCHITECTURES:
        assert "fast" in recipes_for(row.name)
        for recipe in recipes_for(row.name):
            settings = resolve({"recipe": recipe, "arch": row.name})
            assert resolve(dataclasses.asdict(settings)) == settings


def test_recipes_are_those_of_architectures() -> None:
    """No table of recipes names a network that is not there."""
    assert {arch for table in RECIPES.values() for arch in table} <= {row.name for row in ARCHITECTURES}


def test_an_architecture_without_recipes_of_its_own_has_the_defaults() -> None:
    """Adding a network takes no entry among the recipes; nobody published how to train it."""
    assert recipes_for("of tomorrow").keys() == {"fast", "finetune"}


def test_said_wins_over_recipe_and_recipe_over_default() -> None:
    """None counts as not said."""
    classic = resolve({"arch": "vgg2", "recipe": "classic"})
    assert (classic.epochs, classic.batch_size) == (20, 32)
    changed = resolve({"arch": "vgg2", "recipe": "classic", "epochs": 3, "batch_size": None})
    assert (changed.epochs, changed.batch_size) == (3, 32)


def test_a_recipe_that_an_architecture_lacks_is_refused() -> None:
    """What nobody published has no classic recipe."""
    with pytest.raises(UsageError, match="there is no classic recipe for whiten6; expected --recipe fast"):
        resolve({"arch": "whiten6", "recipe": "classic"})


@pytest.mark.parametrize(
    ("resolutions", "epochs", "expected"),
    [
        ("32", 3, (32, 32, 32)),
        ("20,24,32", 3, (20, 24, 32)),
        ("20,32", 5, (20, 20, 20, 32, 32)),
        ("20,24,28,32", 2, (24, 32)),
        ("20,24,32", 1, (32,)),
        ("16, 32", 2, (16, 32)),
    ],
)
def test_resolutions_are_spread_over_the_epochs(
    resolutions: str, epochs: int, expected: tuple[int, ...]
) -> None:
    """Each entry gets the same share of the epochs, as far as they can be divided; the last comes last."""
    assert (
        resolution_of_epoch(resolve({"arch": "whiten6", "resolutions": resolutions, "epochs": epochs}))
        == expected
    )


@pytest.mark.parametrize("resolutions", ["", "15", "33", "20;24", "20,,24", "twenty", "24.5"])
def test_resolutions_that_are_none_are_refused(resolutions: str) -> None:
    """One line says what was found and what was expected."""
    with pytest.raises(
        UsageError, match=r"--resolutions is .*; expected whole numbers from 16 to 32, separated by commas"
    ):
        resolve({"arch": "whiten6", "resolutions": resolutions})


def test_smaller_images_need_a_network_that_takes_them() -> None:
    """A network with a flattening layer takes one size only."""
    with pytest.raises(
        UsageError, match="--resolutions is '20,32', but vgg2 takes no smaller images; expected 32"
    ):
        resolve({"arch": "vgg2", "resolutions": "20,32"})


def test_a_whole_number_does_for_a_number() -> None:
    """``--learning-rate 1`` and ``learning-rate = 1`` mean 1.0."""
    assert isinstance(resolve({"learning_rate": 1}).learning_rate, float)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("epoch", 3, "unknown setting 'epoch'; did you mean 'epochs'?"),
        ("zzz", 3, "unknown setting 'zzz'; known are arch, recipe, init,"),
        ("epochs", "3", "--epochs is '3'; expected a whole number"),
        ("epochs", 3.0, "--epochs is 3.0; expected a whole number"),
        ("epochs", True, "--epochs is True; expected a whole number"),
        ("epochs", 0, "--epochs is 0; expected a number at least 1"),
        ("learning_rate", 0, "--learning-rate is 0; expected a number above 0 and at most 1000"),
        ("learning_rate", float("nan"), "--learning-rate is nan; expected a number above 0"),
        ("learning_rate", float("inf"), "--learning-rate is inf; expected"),
        ("learning_rate", [1], "--learning-rate is [1]; expected a number"),
        ("schedule", "linear", "--schedule is 'linear'; expected one of constant, inverse-time, step"),
        ("schedule", 1, "--schedule is 1; expected text"),
        ("deterministic", 1, "--deterministic is 1; expected true or false"),
        ("deterministic", "yes", "--deterministic is 'yes'; expected true or false"),
        ("ema", 1.0, "--ema is 1; expected a number at least 0 and at most 0.99999"),
        ("train_size", 1, "--train-size is 1; expected a number at least 2"),
        ("seed", 2**31, "--seed is 2147483648; expected a number at least 0 and at most 2147483647"),
    ],
)
def test_a_wrong_setting_says_what_was_expected(name: str, value: Any, message: str) -> None:
    """Name, value and what would be right."""
    with pytest.raises(UsageError) as caught:
        resolve({name: value})
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("name", [name for name, field in FIELDS.items() if field.type in (int, float)])
def test_bounds_are_allowed_and_what_is_beyond_is_not(name: str) -> None:
    """The least and the most themselves are good values."""
    limits, kind = FIELDS[name].metadata, FIELDS[name].type
    for bound, sign in ((limits["least"], -1), (limits["most"], 1)):
        if abs(bound) == float("inf"):
            continue
        resolve({name: kind(bound)})  # type: ignore[operator, misc]
        with pytest.raises(UsageError, match=f"^{option(name)} is "):
            resolve({name: kind(bound + sign * max(1, abs(bound) // 10))})  # type: ignore[operator, misc]


def test_a_file_of_settings_is_read(tmp_path: Path) -> None:
    """Names with dashes or underscores, every kind of value."""
    file = tmp_path / "settings.toml"
    file.write_text('arch = "vgg3"\nbatch-size = 64\nlearning_rate = 0.1 # a comment\ndeterministic = true\n')
    assert read_toml(file) == {
        "arch": "vgg3", "batch_size": 64, "learning_rate": 0.1, "deterministic": True
    }  # fmt: skip


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    """Windows' editors put one first."""
    file = tmp_path / "settings.toml"
    file.write_bytes(b"\xef\xbb\xbfepochs = 3\n")
    assert read_toml(file) == {"epochs": 3}


def test_the_network_trained_without_a_word_is_a_small_quick_one() -> None:
    """By its own recipe."""
    assert (resolve({}).arch, resolve({}).epochs) == ("whiten6-small", 4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"epochs = = 3", "expected a TOML file of settings"),
        (b"\xff\xfe", "expected a TOML file of settings"),
        (b"epoch = 3", "unknown setting 'epoch'; did you mean 'epochs'?"),
        (b"[training]\nepochs = 3", "unknown setting 'training'"),
        (b"epochs = '3'", "--epochs is '3'; expected a whole number"),
        (b"batch-size = 0", "--batch-size is 0; expected a number at least 1"),
    ],
)
def test_a_wrong_file_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    """The file's name stands first, then what is wrong in it."""
    file = tmp_path / "wrong.toml"
    file.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_toml(file)
    assert str(caught.value).startswith(f"--config {str(file)!r}: ")
    assert message in str(caught.value)


@given(st.binary(max_size=200))
def test_any_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """No content of a file is a bug of ours."""
    file = tmp_path_factory.mktemp("any") / "settings.toml"
    file.write_bytes(content)
    try:
        settings = read_toml(file)
    except UsageError as refusal:
        text = str(refusal)
        assert "\n" not in text
    else:
        resolve(settings)


@pytest.mark.parametrize("freeze", ["", "all", "-1", "1.5"])
def test_layers_to_freeze_are_a_number_or_the_backbone(freeze: str) -> None:
    """Whether the network has so many is known when it is made."""
    with pytest.raises(UsageError, match=r"--freeze is .*; expected a number of convolutions, or backbone"):
        resolve({"freeze": freeze})


def test_what_is_not_the_recipes_is_found() -> None:
    """By name; a value that the recipe has anyway is none."""
    settings = resolve({"arch": "vgg2", "epochs": 10, "batch_size": 7, "seed": 3})
    assert differing_from_recipe(settings) == {"batch_size", "seed"}


def test_settings_do_not_change() -> None:
    """A run's settings stay what they were when it began."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().epochs = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("batch_size", "micro_batch", "steps"),
    [(128, 0, 1), (128, 128, 1), (100, 500, 1), (2000, 500, 4), (9, 1, 9)],
)
def test_a_batch_is_divided_into_equal_parts(batch_size: int, micro_batch: int, steps: int) -> None:
    """0, or a micro-batch no smaller than the batch, leaves it whole."""
    assert resolve({"batch_size": batch_size, "micro_batch": micro_batch}).accumulation_steps == steps


@pytest.mark.parametrize("micro_batch", [3, 65, 127])
def test_a_micro_batch_that_does_not_divide_the_batch_is_refused(micro_batch: int) -> None:
    """The line tells both numbers."""
    with pytest.raises(
        UsageError, match=rf"^--micro-batch is {micro_batch}, which does not divide --batch-size 128"
    ):
        resolve({"batch_size": 128, "micro_batch": micro_batch})
