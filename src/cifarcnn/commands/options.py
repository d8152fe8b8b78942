"""Options that several commands share."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from cifarcnn import config

data_option = click.option(
    "--data",
    "path",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="Directory or archive that holds CIFAR-10, in place of searching for it.",
)
images_option = click.option(
    "--data",
    "path",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="CIFAR-10, or class-named folders of pictures. Default: search the usual places, then download.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")


def setting_options(
    names: Sequence[str] = tuple(config.FIELDS),
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command one option for each of some settings of a training."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed(names):
            item = config.FIELDS[name]
            limits, kind, flag = item.metadata, item.type, f"--{name.replace('_', '-')}"
            meaning = limits["meaning"]
            if kind is bool:
                command = click.option(flag, name, is_flag=True, default=None, help=meaning)(command)
                continue
            if item.default is not None:
                shown = f"{item.default:g}" if isinstance(item.default, float) else item.default
                meaning += f"  [default: {shown}]"
            option_type: Any = click.Choice(limits["choices"]) if limits["choices"] else click.STRING
            if kind is not str:
                option_type = click.FLOAT if kind is float else click.INT
            metavar = None if limits["choices"] else {str: "NAME", float: "F"}.get(kind, "N")  # type: ignore[arg-type]
            command = click.option(flag, name, type=option_type, metavar=metavar, help=meaning)(command)
        return command

    return decorate
