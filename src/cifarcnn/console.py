"""The two consoles: results go to stdout, everything said about the work goes to stderr.

Text from files and users is escaped before it reaches Rich, which would otherwise read ``[red]`` in a
file name as markup.
"""

import json
import sys
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape

from cifarcnn.events import Event, Note, Transfer

stdout = Console(highlight=False)
stderr = Console(stderr=True, highlight=False)


def note(text: str) -> None:
    """Tell the user something on stderr, without markup and without wrapping."""
    stderr.print(escape(text), soft_wrap=True)


def error(text: str) -> None:
    """Print an error as one line on stderr."""
    stderr.print(f"[bold red]error:[/] {escape(' '.join(text.split()))}", soft_wrap=True)


def emit_json(document: dict[str, Any]) -> None:
    """Write one JSON document to stdout: the only thing that stands there under ``--json``."""
    json.dump(document, sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")


def printable(path: str) -> str:
    """Show a file name on one line of a terminal or log, whatever bytes it is made of."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text(path)
    )


def text(path: str) -> str:
    """Give a file name as valid Unicode: a byte that is not UTF-8 becomes ``\\udcff`` or the like."""
    return path.encode("utf-8", "backslashreplace").decode()


class Progress:
    """Shows the library's events on stderr: give an object of this class as ``on_event``.

    Transfers are a moving bar on a terminal and a line for every tenth elsewhere.
    """

    def __init__(self) -> None:
        from rich import progress

        self.bars = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.DownloadColumn(),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(),
            console=stderr,
            transient=True,
        )
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
        # Stopping bars that never started would print an empty line.
        if self.tasks:
            self.bars.stop()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, Note):
            note(event.text)
        elif isinstance(event, Transfer) and stderr.is_terminal:
            if event.name not in self.tasks:
                self.tasks[event.name] = self.bars.add_task(event.name, total=event.total)
                self.bars.start()
            self.bars.update(self.tasks[event.name], completed=event.done, total=event.total)
        elif isinstance(event, Transfer) and event.total:
            tenth = event.done * 10 // event.total
            if self.tenths.get(event.name) != tenth:
                self.tenths[event.name] = tenth
                note(f"{event.name}: {tenth * 10}% of {event.total / 1e6:.0f} MB")
