"""The two consoles, and how the library's events appear on one: results go to stdout, all else to stderr.

Text from files and users is escaped before it reaches Rich, which would otherwise read ``[red]`` in a
file name as markup.
"""

import json
import os
import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.markup import escape

from cifarcnn import names
from cifarcnn.events import Event, Note, PicturesDone, Transfer

if TYPE_CHECKING:
    from rich import progress


class Stderr(Console):
    """A console for remarks, of which the rest is dropped once nobody reads them any more.

    Rich's own would end the process, and give up what it has to say on stdout.
    """

    def _check_buffer(self) -> None:
        """Write what there is to write. A terminal that was closed is an error of its own kind."""
        try:
            super()._check_buffer()
        except OSError:
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        """Send the rest to nowhere."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


class Stdout(Console):
    """A console for results, which stay plain text in a pipe whatever FORCE_COLOR says."""

    @property
    def is_terminal(self) -> bool:
        """Whether people read it."""
        return self.file.isatty()


# Rich would print nothing at all in no columns.
if os.environ.get("COLUMNS") == "0":
    del os.environ["COLUMNS"]
# Else Rich would make a picture of ``:cat:`` in a file name.
stdout = Stdout(highlight=False, emoji=False)
stderr = Stderr(stderr=True, highlight=False, emoji=False)

printable, text = names.printable, names.text


def note(text: str) -> None:
    """Tell the user something on stderr, without markup, control characters or wrapping."""
    stderr.print(escape(printable(text)), soft_wrap=True)


def error(text: str) -> None:
    """Print an error as one line on stderr."""
    stderr.print(f"[bold red]error:[/] {escape(printable(' '.join(text.split())))}", soft_wrap=True)


def emit_json(document: dict[str, Any]) -> None:
    """Write one JSON document to stdout: the only thing that stands there under ``--json``."""
    json.dump(_valid(document), sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")


def _valid(value: Any) -> Any:
    """Make the text in a document valid Unicode, which names of files need not be."""
    if isinstance(value, str):
        return names.text(value)
    if isinstance(value, dict):
        return {names.text(name): _valid(part) for name, part in value.items()}
    return [_valid(part) for part in value] if isinstance(value, list | tuple) else value


class Display:
    """Shows the library's events on stderr: give an object of this class as ``on_event``.

    Transfers are a moving bar on a terminal and a line for every tenth elsewhere. Pictures are a moving bar
    on a terminal, unless ``pictures`` is false because their answers appear on the same terminal.
    """

    def __init__(self, pictures: bool = True) -> None:
        self.pictures = pictures
        self.bars: dict[type[Event], progress.Progress] = {}
        self.tasks: dict[str, progress.TaskID] = {}
        self.tenths: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for bars in self.bars.values():
            bars.stop()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, Note):
            note(event.text)
        elif isinstance(event, Transfer) and stderr.is_terminal:
            self._move(event, event.name)
        elif isinstance(event, PicturesDone) and stderr.is_terminal and self.pictures:
            self._move(event, "pictures")
        elif isinstance(event, Transfer) and event.total:
            tenth = event.done * 10 // event.total
            if self.tenths.get(event.name) != tenth:
                self.tenths[event.name] = tenth
                note(f"{event.name}: {tenth * 10}% of {event.total / 1e6:.0f} MB")

    def _move(self, event: Transfer | PicturesDone, name: str) -> None:
        """Move a bar on, or begin it."""
        from rich import progress

        kind = type(event)
        if kind not in self.bars:
            # A terminal shows one set of bars at a time.
            for others in self.bars.values():
                others.stop()
            counted = kind is PicturesDone
            self.bars[kind] = progress.Progress(
                progress.TextColumn("{task.description}", markup=False),
                progress.BarColumn(),
                progress.MofNCompleteColumn() if counted else progress.DownloadColumn(),
                *([] if counted else [progress.TransferSpeedColumn()]),
                progress.TimeRemainingColumn(),
                console=stderr,
                transient=True,
            )
            self.bars[kind].start()
        if name not in self.tasks:
            self.tasks[name] = self.bars[kind].add_task(name, total=event.total)
        self.bars[kind].update(self.tasks[name], completed=event.done, total=event.total)
