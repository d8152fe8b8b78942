"""The help texts: nothing unexplained, defaults told, and an example for every command that could be run."""

import re
import shlex

import click
import pytest
from click.testing import CliRunner

from cifarcnn.cli.main import cli
from cifarcnn.cli.options import GROUPS, SettingOption
from cifarcnn.config import FIELDS, resolve


def every_command() -> dict[str, click.Command]:
    """All commands by their words, the groups included."""
    found: dict[str, click.Command] = {}

    def add(name: str, command: click.Command) -> None:
        found[name] = command
        if isinstance(command, click.Group):
            for inner in command.commands:
                add(f"{name} {inner}", command.commands[inner])

    add("cifarcnn", cli)
    return found


COMMANDS = every_command()
OPTIONS = {
    f"{name} {option.opts[-1]}": (command, option)
    for name, command in COMMANDS.items()
    for option in command.get_params(click.Context(command))
    if isinstance(option, click.Option)
}
EVERY_COMMAND = pytest.mark.parametrize("name", COMMANDS)


@EVERY_COMMAND
def test_a_command_is_explained(name: str) -> None:
    """Its help begins with a sentence, whole in a list of commands in 80 columns."""
    first, *_ = (COMMANDS[name].help or "").splitlines()
    assert first.endswith(".")
    assert name == "cifarcnn" or not COMMANDS[name].get_short_help_str(64).endswith("...")


@EVERY_COMMAND
def test_an_argument_is_explained(name: str) -> None:
    """What stands for an argument in the usage line is spoken of in the text."""
    for argument in COMMANDS[name].params:
        if isinstance(argument, click.Argument):
            for word in re.findall(r"[A-Z]+", argument.metavar or ""):
                assert re.search(rf"\b{word}\b", COMMANDS[name].help or "")


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_is_explained_with_its_default(name: str) -> None:
    """Each has a sentence; whatever is taken where a value is not given stands there too."""
    command, option = OPTIONS[name]
    record = option.get_help_record(click.Context(command))
    assert record is not None
    assert re.match(r".+\.(  \[.*\])?$", record[1])
    setting = isinstance(option, SettingOption) and not option.is_flag
    if setting or not (option.is_flag or option.default is None or option.required or option.flag_value):
        assert "[default: " in record[1]
        assert "[default: (" not in record[1]


@EVERY_COMMAND
def test_a_command_has_an_example_that_its_options_allow(name: str) -> None:
    """The example, below the options, is parsed as a shell and the command would; it is not run."""
    epilog = COMMANDS[name].epilog or ""
    assert re.match(r"(\x08\n)?Examples?:", epilog)
    examples = re.findall(r"cifarcnn .*?(?=\s{2,}|$)", epilog, re.MULTILINE)
    assert examples
    for example in examples:
        words = shlex.split(example)[1:]
        command: click.Command = cli
        while isinstance(command, click.Group):
            command = command.commands[words.pop(0)]
        command.make_context(command.name, words)
        assert name == "cifarcnn" or example.startswith(name)


def test_the_defaults_are_those_of_a_training_without_options() -> None:
    """What `cifarcnn train` would do, not what holds where a recipe says nothing."""
    settings = resolve({})
    assert settings.epochs != FIELDS["epochs"].default
    shown = cli.commands["train"].get_help(click.Context(cli.commands["train"]))
    for name in ("epochs", "batch_size", "learning_rate", "dropout"):
        option = rf"--{name.replace('_', '-')} .*?\[default:\s+{getattr(settings, name):g}\]"
        assert re.search(option, shown, re.DOTALL)


def test_every_setting_has_its_heading() -> None:
    """Once; and each heading is shown, in its order."""
    grouped = [name for names in GROUPS.values() for name in names]
    assert len(grouped) == len(set(grouped))
    assert set(FIELDS) < set(grouped)
    assert {option.name for option in cli.commands["train"].params} <= set(grouped)
    shown = cli.commands["train"].get_help(click.Context(cli.commands["train"]))
    places = [shown.index(f"{heading}:\n") for heading in GROUPS]
    assert places == sorted(places)
    assert "\nOptions:" not in shown


@pytest.mark.parametrize(
    "words", [["--arch", "vgg2", "--recipe", "classic", "--help"], ["--help", "--arch=vgg3"]]
)
def test_the_defaults_are_those_of_the_network_that_is_named(words: list[str]) -> None:
    """Wherever --help stands; and the help is shown even if there is no such network."""
    shown = CliRunner().invoke(cli, ["train", *words]).stdout
    chosen = {"arch": "vgg2", "recipe": "classic"} if "vgg2" in words else {"arch": "vgg3"}
    settings = resolve(chosen)
    assert settings.epochs != resolve({}).epochs or settings.learning_rate != resolve({}).learning_rate
    for name in ("epochs", "batch_size", "learning_rate"):
        option = rf"--{name.replace('_', '-')} .*?\[default:\s+{getattr(settings, name):g}\]"
        assert re.search(option, shown, re.DOTALL)
    unknown = CliRunner().invoke(cli, ["train", "--help", "--arch", "vgg9"])
    assert unknown.exit_code == 0
    assert "Augmentation:" in unknown.stdout
