"""Options that several commands share, in groups, and what a shell may complete."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from cifarcnn import config
from cifarcnn.config import Settings
from cifarcnn.errors import UsageError

FORMS = {
    "json": "Print one JSON document on stdout.",
    "jsonl": "Print a JSON object per line and image on stdout.",
    "csv": "Print a table of comma-separated values on stdout.",
}
"""The forms of output for programs."""

GROUPS = {
    "Network and recipe": (
        "arch", "recipe", "settings_file", "init", "freeze", "normalize", "batch_norm_momentum", "dropout",
    ),
    "Optimisation": (
        "epochs", "batch_size", "micro_batch", "optimizer", "learning_rate", "momentum", "weight_decay",
        "schedule", "warmup", "decay", "label_smoothing", "balance", "ema", "patience", "scale_batch", "seed",
        "seeds", "repeat",
    ),
    "Augmentation": ("augment", "shift", "jitter", "resolutions"),
    "Data": ("path", "train_size", "val_size"),
    "Hardware": ("device", "devices", "precision", "deterministic", "alone", "wait"),
    "Output": ("out", "resume", "as_json", "quiet"),
}  # fmt: skip
"""The headings under which ``GroupedCommand`` shows options; what is not named comes last."""

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
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Say nothing on stderr but errors.")


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


METAVARS = {"resolutions": "N,N,...", "init": "MODEL", "freeze": "N|backbone"}
"""What stands for the value of a setting whose kind does not tell enough."""

COMPLETED = {"arch": complete_architecture, "init": complete_file}
"""How settings are completed that are no choice between words."""


class GroupedCommand(click.Command):
    """A command whose help has its options under the headings of ``GROUPS``.

    The defaults that it shows are those of the network and the recipe on the command line.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Look at the whole line first: `--help` is answered before an `--arch` that follows it is read."""
        given, _, _ = self.make_parser(ctx).parse_args(list(args))
        ctx.meta["cifarcnn.defaults"] = _recipe(given.get("arch"), given.get("recipe"))
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section for each group."""
        groups: dict[str, list[tuple[str, str]]] = {heading: [] for heading in GROUPS}
        *_, last = GROUPS
        of_option = {name: heading for heading, names in GROUPS.items() for name in names}
        for option in self.get_params(ctx):
            if (record := option.get_help_record(ctx)) is not None:
                groups[of_option.get(option.name or "", last)].append(record)
        for heading, records in groups.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


def _recipe(arch: Any = None, recipe: Any = None) -> Settings:
    """Return the settings of a network's recipe, or of a training without options if there is no such."""
    try:
        return config.resolve({"arch": arch, "recipe": recipe})
    except UsageError:
        return config.resolve({})


class SettingOption(click.Option):
    """The option of a field of ``Settings``, which shows the default of the network's recipe."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return the option and its meaning with the default."""
        record = super().get_help_record(ctx)
        default = getattr(ctx.meta.get("cifarcnn.defaults") or _recipe(), self.name or "")
        if record is None or default is None or self.secondary_opts:
            return record
        shown = f"{default:g}" if isinstance(default, float) else default
        return record[0], f"{record[1]}  [default: {shown}]"


def setting_options(
    names: Sequence[str] = tuple(config.FIELDS),
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command one option for each of some settings of a training."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed(names):
            item = config.FIELDS[name]
            limits, kind, flag = item.metadata, item.type, f"--{name.replace('_', '-')}"
            more: dict[str, Any] = {"cls": SettingOption, "help": limits["meaning"], "default": None}
            if kind is bool:
                both = f"{flag}/--no-{flag.removeprefix('--')}"
                command = click.option(both, name, **more)(command)
                continue
            option_type: Any = click.Choice(limits["choices"]) if limits["choices"] else click.STRING
            if kind is not str:
                option_type = click.FLOAT if kind is float else click.INT
            by_kind = None if limits["choices"] else {str: "NAME", float: "F"}.get(kind, "N")  # type: ignore[arg-type]
            more |= {"type": option_type, "metavar": METAVARS.get(name, by_kind)}
            command = click.option(flag, name, shell_complete=COMPLETED.get(name), **more)(command)
        return command

    return decorate
