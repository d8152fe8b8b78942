"""Progress of many pictures, where it may be shown and where not."""

import io

import pytest
from rich.console import Console

from cifarcnn.cli import console
from cifarcnn.events import PicturesDone, Transfer


@pytest.mark.parametrize(("terminal", "pictures"), [(True, True), (True, False), (False, True)])
def test_pictures_move_a_bar_on_a_terminal_alone(
    terminal: bool, pictures: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Off a terminal, and where the answers themselves appear, nothing is written."""
    written = io.StringIO()
    monkeypatch.setattr(console, "stderr", Console(file=written, force_terminal=terminal, width=80))
    with console.Display(pictures=pictures) as display:
        for done in range(1, 1001):
            display(PicturesDone(done, 1000))
    assert ("1000/1000" in written.getvalue()) == (terminal and pictures)
    assert bool(written.getvalue()) == (terminal and pictures)


def test_a_download_before_the_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both kinds of bar can move in one call."""
    written = io.StringIO()
    monkeypatch.setattr(console, "stderr", Console(file=written, force_terminal=True, width=80))
    with console.Display() as display:
        display(Transfer("mirror", 5_000_000, 10_000_000))
        display(PicturesDone(3, 7))
    assert "mirror" in written.getvalue()
    assert "3/7" in written.getvalue()
