"""Options that several commands share, and what a shell may complete."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from cifarcnn import config

FORMS = {
    "json": "Print one JSON document on stdout.",
    "jsonl": "Print a JSON object per line and image on stdout.",
    "csv": "Print a table of comma-separated values on stdout.",
}
"""The forms of output for programs."""

data_option = click.option(
    "--data",
    "path",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="Directory or archive of CIFAR-10 or CIFAR-100, or cifar100. Default: search the usual places.",
)
images_option = click.option(
    "--data",
    "path",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="CIFAR-10, or class-named folders of pictures. Default: search the usual places, then download.",
)
precision_option = click.option(
    "--precision",
    type=click.Choice(["float32", "auto"]),
    default="float32",
    show_default=True,
    help="auto: bfloat16 where the hardware computes it natively; says how many predictions differ. Keras "
    "models only.",
)
json_option = click.option("--json", "as_json", is_flag=True, help=FORMS["json"])


def form_options(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command options for some of ``FORMS``, of which one at most is its parameter ``form``."""

    def choose(context: click.Context, option: click.Parameter, asked: bool) -> None:
        chosen = context.params.setdefault("form", None)
        if asked and chosen:
            raise click.UsageError(f"--{option.name} cannot be given with --{chosen}; choose one")
        if asked:
            context.params["form"] = option.name

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed(names):
            command = click.option(
                f"--{name}", is_flag=True, expose_value=False, callback=choose, help=FORMS[name]
            )(command)
        return command

    return decorate


def complete_architecture(_context: click.Context, _option: click.Parameter, begun: str) -> list[str]:
    """Return the names of networks that begin so."""
    from cifarcnn.architectures import ARCHITECTURES

    return [row.name for row in ARCHITECTURES if row.name.startswith(begun)]


def complete_file(_context: click.Context, _option: click.Parameter, begun: str) -> list[CompletionItem]:
    """Leave it to the shell, which knows the files."""
    return [CompletionItem(begun, type="file")]


METAVARS = {"sides": "N,N,..."}
"""What stands for the value of a setting whose kind does not tell enough."""

COMPLETED = {"arch": complete_architecture}
"""How settings are completed that are no choice between words."""


def setting_options(
    names: Sequence[str] = tuple(config.FIELDS),
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command one option for each of some settings of a training."""

    # What `cifarcnn train` takes without an option.
    defaults = config.resolve({})

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed(names):
            item = config.FIELDS[name]
            limits, kind, flag = item.metadata, item.type, f"--{name.replace('_', '-')}"
            meaning = limits["meaning"]
            if kind is bool:
                both = f"{flag}/--no-{flag.removeprefix('--')}"
                command = click.option(both, name, default=None, help=meaning)(command)
                continue
            default = getattr(defaults, name)
            if default is not None:
                shown = f"{default:g}" if isinstance(default, float) else default
                meaning += f"  [default: {shown}]"
            option_type: Any = click.Choice(limits["choices"]) if limits["choices"] else click.STRING
            if kind is not str:
                option_type = click.FLOAT if kind is float else click.INT
            by_kind = None if limits["choices"] else {str: "NAME", float: "F"}.get(kind, "N")  # type: ignore[arg-type]
            metavar = METAVARS.get(name, by_kind)
            more: dict[str, Any] = {"type": option_type, "metavar": metavar, "help": meaning}
            command = click.option(flag, name, shell_complete=COMPLETED.get(name), **more)(command)
        return command

    return decorate
