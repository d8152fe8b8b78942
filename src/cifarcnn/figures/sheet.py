"""A contact sheet of predictions, on pages that are written while the predictions come."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifarcnn import names
from cifarcnn.errors import FigureError, UsageError, reason
from cifarcnn.figures import grid
from cifarcnn.figures.grid import Line, Tile
from cifarcnn.figures.style import LIGHT
from cifarcnn.formatting import count
from cifarcnn.machine import files
from cifarcnn.prediction import picturefiles
from cifarcnn.prediction.picturefiles import Failure
from cifarcnn.prediction.predict import LOOK_FOR_SHEET

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from PIL import Image

    from cifarcnn.prediction.predict import Outcome

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".pdf": "PDF"}
BOX = LOOK_FOR_SHEET
"""Pixels of a side of the square that a picture is fitted into."""

COLUMNS, ROWS = 5, 8
PER_PAGE = COLUMNS * ROWS
MOST_PAGES = 25
MOST_PICTURES = MOST_PAGES * PER_PAGE
MOST_BARS = 5


def check(path: Path) -> None:
    """Refuse a path that no sheet can be written to, before anything is read.

    Raises:
        UsageError: the name has another ending than .png, .jpg, .jpeg, .webp or .pdf, or there is no such
            directory.
    """
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"cannot write a sheet as {path}; expected one of {', '.join(FORMATS)}")
    files.check_place(path)


def check_apart(path: Path, pictures: "Collection[str]") -> None:
    """Refuse to draw a sheet over one of its pictures.

    Raises:
        UsageError: one of the sheet's pages is among the pictures, by whatever name.
    """
    if page := picturefiles.first_among(places(path, len(pictures)), pictures):
        raise UsageError(f"{page} is one of the pictures; give the sheet another name with --output")


def places(path: Path, total: int) -> list[Path]:
    """Return the files of a sheet of so many pictures, in order: one for each page, or one PDF."""
    pages = 1 if FORMATS[path.suffix.lower()] == "PDF" else math.ceil(min(total, MOST_PICTURES) / PER_PAGE)
    return [path, *(path.with_stem(f"{path.stem}-{number}") for number in range(2, pages + 1))]


class Sheet:
    """Draws predictions onto pages, and writes each page when it is full.

    Args:
        path: ``sheet.png``; further pages are ``sheet-2.png`` and so on, those of a PDF stand in one file.
            Existing files are replaced.
        title: the model's name, which stands above the pictures.
        total: how many pictures will come; those beyond 1,000 are left out and counted in the title.
        top_k: how many classes each prediction names; five at most are drawn.
        threshold: predictions of a lower probability are marked as unsure.

    Raises:
        UsageError: as ``check``.
    """

    def __init__(
        self, path: Path, title: str, total: int, top_k: int = 3, threshold: float | None = None
    ) -> None:
        check(path)
        self.path, self.threshold = path, threshold
        self.shown = min(total, MOST_PICTURES)
        self.left_out = total - self.shown
        self.title = f"{count(total, 'picture')}, classified by {title}"
        # The name, the bars, and the marks.
        self.lines = min(top_k, MOST_BARS) + 2
        self.written: list[Path] = []
        self._tiles: list[Tile] = []
        self._pages: list[Image.Image] = []
        self._count = 0

    def drawn(self, answers: "Iterable[Outcome]") -> "Iterator[Outcome]":
        """Hand predictions on after drawing them; when they end, all pages are written.

        Args:
            answers: predictions that keep their pictures of at least ``BOX`` pixels, and failures.

        Raises:
            FigureError: a page cannot be written.
        """
        for answer in answers:
            if self._count < self.shown:
                self._tiles.append(self._tile(answer))
                self._count += 1
                if self._count == self.shown or len(self._tiles) == PER_PAGE:
                    self._finish_page()
            yield answer

    def _tile(self, answer: "Outcome") -> Tile:
        name = Line(names.printable(answer.path), bold=True)
        if isinstance(answer, Failure):
            return Tile(f"cannot be read: {answer.error}", [name])
        unsure, ood = answer.is_unsure(self.threshold), bool(answer.is_ood)
        bars = [
            Line(
                ranked.label,
                LIGHT.soft if place else LIGHT.orange if unsure or ood else LIGHT.blue,
                probability=ranked.probability,
            )
            for place, ranked in enumerate(answer.top[:MOST_BARS])
        ]
        marks = ", ".join(["unsure"] * unsure + ["out of distribution?"] * ood)
        picture = answer.picture and grid.fitted(answer.picture, BOX)
        return Tile(picture, [name, *bars, Line(marks, LIGHT.orange, bold=True)])

    def _finish_page(self) -> None:
        """Write the page, or keep it until the last one of a PDF."""
        number, pages = math.ceil(self._count / PER_PAGE), math.ceil(self.shown / PER_PAGE)
        facts = [f"page {number} of {pages}"] * (pages > 1)
        facts += [f"the last {self.left_out:,} pictures are left out"] * (self.left_out > 0)
        page = grid.draw(
            self._tiles, self.title, ", ".join(facts), columns=COLUMNS, box=BOX, lines=self.lines
        )
        self._tiles = []
        form, path = FORMATS[self.path.suffix.lower()], self.path
        settings: dict[str, Any] = {"quality": 90}
        if form == "PDF":
            self._pages.append(page)
            if number < pages:
                return
            page, *others = self._pages
            settings = {"save_all": True, "append_images": others, "resolution": 96}
        else:
            path = places(self.path, self.shown)[number - 1]
        save(page, path, "--output", format=form, **settings)
        self.written.append(path)


def save(picture: "Image.Image", path: Path, option: str, **settings: Any) -> None:
    """Write a picture whole or not at all.

    Raises:
        FigureError: it cannot be written; the text names the command's option to choose another place with.
    """
    try:
        grid.save(picture, path, **settings)
    except OSError as problem:
        raise FigureError(f"cannot write {path}: {reason(problem)}; choose another with {option}") from None
