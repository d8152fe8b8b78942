"""A contact sheet of predictions: every picture with its classes, on pages, written while they come.

A page holds the pictures' small copies alone, so a sheet takes the memory of one page however many pictures
there are; a PDF, one file of all pages, takes that of all.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifarcnn import names
from cifarcnn.errors import CifarCNNError, UsageError, reason
from cifarcnn.machine import files
from cifarcnn.prediction import lettering, picturefiles
from cifarcnn.prediction.lettering import BLACK, BLUE, GREY, ORANGE, PALE, RED, Colour
from cifarcnn.prediction.picturefiles import Failure
from cifarcnn.prediction.prediction import LOOK_FOR_SHEET
from cifarcnn.wording import count

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from PIL import Image, ImageDraw

    from cifarcnn.prediction.prediction import Answer, Prediction, Ranked

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".pdf": "PDF"}
BOX = LOOK_FOR_SHEET
"""Pixels of a side of the square that a picture is fitted into."""

COLUMNS, ROWS = 5, 8
PER_PAGE = COLUMNS * ROWS
MOST_PAGES = 25
MOST_PICTURES = MOST_PAGES * PER_PAGE
MOST_BARS = 5
GAP, LINE, TITLE = 20, 19, 52
TEXT = 13


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
    """Draws answers onto pages, and writes each page when it is full.

    Args:
        path: ``sheet.png``; further pages are ``sheet-2.png`` and so on, those of a PDF stand in one file.
            Existing files are replaced.
        title: what stands above the pictures.
        total: how many answers will come; those beyond 1,000 are left out and counted in the title.
        top_k: how many classes each prediction names; five at most are drawn.
        threshold: answers of a lower probability are marked as unsure.

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
        self.pages = math.ceil(self.shown / PER_PAGE)
        self.columns = min(COLUMNS, self.shown)
        # A name, the bars, and a line for marks.
        self.cell_height = BOX + (min(top_k, MOST_BARS) + 2) * LINE + GAP + 8
        self.title = f"{count(total, 'picture')}, answered by {title}"
        self.written: list[Path] = []
        self._bound: list[Image.Image] = []
        self._count = 0
        self._page: Image.Image
        self._draw: ImageDraw.ImageDraw

    def drawn(self, answers: "Iterable[Answer]") -> "Iterator[Answer]":
        """Hand answers on after drawing them; when they end, all pages are written.

        Args:
            answers: predictions that keep their pictures of at least ``BOX`` pixels, and failures.

        Raises:
            CifarCNNError: a page cannot be written.
        """
        for answer in answers:
            if self._count < self.shown:
                self._add(answer)
            yield answer

    def _add(self, answer: "Answer") -> None:
        """Draw one answer into the next cell."""
        place = self._count % PER_PAGE
        if place == 0:
            self._begin_page()
        row, column = divmod(place, COLUMNS)
        left, top = GAP + column * (BOX + GAP), TITLE + row * self.cell_height
        if isinstance(answer, Failure):
            self._draw_failure(answer, left, top)
        else:
            self._draw_prediction(answer, left, top)
        name = lettering.shortened(names.printable(answer.path), BOX, TEXT, bold=True)
        self._write(left, top + BOX + 6, name, BLACK, bold=True)
        self._count += 1
        if self._count == self.shown or self._count % PER_PAGE == 0:
            self._finish_page()

    def _begin_page(self) -> None:
        from PIL import Image, ImageDraw

        number = self._count // PER_PAGE + 1
        rows = math.ceil(min(PER_PAGE, self.shown - self._count) / COLUMNS)
        # Below this width the title would be dots.
        width = max(GAP + self.columns * (BOX + GAP), 2 * (BOX + GAP) + GAP)
        self._page = Image.new("RGB", (width, TITLE + rows * self.cell_height), "white")
        self._draw = ImageDraw.Draw(self._page)
        facts = [f"page {number} of {self.pages}"] * (self.pages > 1)
        facts += [f"the last {self.left_out:,} pictures are left out"] * (self.left_out > 0)
        self._write(GAP, 12, lettering.shortened(self.title, width - 2 * GAP, TEXT), BLACK)
        self._write(GAP, 12 + LINE - 2, ", ".join(facts), GREY)

    def _draw_prediction(self, answer: "Prediction", left: int, top: int) -> None:
        """Draw a picture with its classes and marks."""
        if answer.picture is not None:
            picture = fitted(answer.picture, BOX)
            self._page.paste(picture, (left + (BOX - picture.width) // 2, top + (BOX - picture.height) // 2))
        unsure = answer.is_unsure(self.threshold)
        none = bool(answer.is_ood)
        below = top + BOX + 6 + LINE
        for place, ranked in enumerate(answer.top[:MOST_BARS]):
            colour = GREY if place else ORANGE if unsure or none else BLUE
            self._draw_bar(ranked, left, below, colour)
            below += LINE
        mark = ("unsure, none of the ten?" if unsure else "probably none of the ten") if none else ""
        self._write(left, below, mark or "unsure" * unsure, ORANGE, bold=True)

    def _draw_bar(self, ranked: "Ranked", left: int, top: int, colour: Colour) -> None:
        """Draw a class, a bar as long as it is probable, and the percentage."""
        start, length = left + 82, BOX - 82 - 52
        self._write(left, top, ranked.label, BLACK)
        self._draw.rectangle((start, top + 4, start + length, top + 13), fill=PALE)
        filled = round(ranked.probability * length)
        if filled:
            self._draw.rectangle((start, top + 4, start + filled, top + 13), fill=colour)
        self._write(left + BOX, top, f"{ranked.probability:.1%}", BLACK, anchor="ra")

    def _draw_failure(self, failure: Failure, left: int, top: int) -> None:
        """Draw the reason where the picture would stand."""
        self._draw.rectangle((left, top, left + BOX - 1, top + BOX - 1), fill=(250, 244, 244), outline=PALE)
        lines = lettering.wrapped(f"cannot be read: {failure.error}", BOX - 24, 8, TEXT)
        above = top + (BOX - len(lines) * LINE) // 2
        for number, line in enumerate(lines):
            self._write(left + 12, above + number * LINE, line, RED)

    def _write(
        self,
        left: int,
        top: int,
        text: str,
        colour: Colour,
        *,
        bold: bool = False,
        anchor: str = "la",
    ) -> None:
        self._draw.text((left, top), text, colour, lettering.font(TEXT, bold), anchor=anchor)

    def _finish_page(self) -> None:
        """Write the page, or keep it until the last one of a PDF."""
        form = FORMATS[self.path.suffix.lower()]
        if form != "PDF":
            path = places(self.path, self.shown)[(self._count - 1) // PER_PAGE]
            save(self._page, path, "--output", format=form, quality=90)
            self.written.append(path)
            return
        self._bound.append(self._page)
        if self._count == self.shown:
            first, *others = self._bound
            save(
                first, self.path, "--output", format=form, save_all=True, append_images=others, resolution=96
            )
            self.written.append(self.path)


def fitted(picture: "Image.Image", side: int) -> "Image.Image":
    """Scale a picture down into a square, or a small one up by a whole factor, its pixels repeated."""
    from PIL import Image

    longer = max(picture.size)
    if longer > side:
        picture = picture.copy()
        picture.thumbnail((side, side), Image.Resampling.BICUBIC)
        return picture
    factor = side // longer
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def save(picture: "Image.Image", path: Path, option: str, **settings: Any) -> None:
    """Write a picture whole or not at all.

    Raises:
        CifarCNNError: it cannot be written; the text names the command's option to choose another place with.
    """
    try:
        with files.replacing(path) as aside:
            picture.save(aside, **settings)
    except OSError as problem:
        raise CifarCNNError(f"cannot write {path}: {reason(problem)}; choose another with {option}") from None
