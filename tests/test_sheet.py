"""Contact sheets: what is on them, how many pages there are, and what is refused."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

import fakes
from cifarcnn.errors import CifarCNNError, UsageError
from cifarcnn.figures import grid, sheet
from cifarcnn.prediction import predict as prediction
from cifarcnn.prediction.predict import Failure, Prediction, Ranked
from conftest import Run

BLUE, ORANGE = (0, 114, 178), (213, 94, 0)


def answer(name: str = "cat.png", size: tuple[int, int] = (200, 100), **facts: object) -> Prediction:
    """A prediction whose picture is one green."""
    picture = Image.new("RGB", size, (0, 200, 0))
    settings = {"ood_score": 0.1, "is_ood": None, **facts}
    top = (Ranked("cat", 0.6), Ranked("dog", 0.3))
    return Prediction(
        name,
        top,
        pixels=np.zeros((32, 32, 3), np.uint8),
        picture=picture,
        **settings,  # type: ignore[arg-type]
    )


def draw(
    path: Path, answers: list[prediction.Outcome], total: int | None = None, threshold: float | None = None
) -> sheet.Sheet:
    """Draw a sheet of these answers."""
    made = sheet.Sheet(path, "model.keras", len(answers) if total is None else total, 2, threshold)
    assert list(made.drawn(answers)) == answers
    return made


def count(path: Path, colour: tuple[int, int, int]) -> int:
    """How many pixels of a written page have a colour."""
    with Image.open(path) as page:
        return int((np.asarray(page.convert("RGB")) == colour).all(axis=2).sum())


@pytest.mark.parametrize("size", [(200, 200), (200, 20), (20, 200), (1, 200), (200, 1), (1, 1), (32, 32)])
def test_pictures_keep_their_proportions(size: tuple[int, int], tmp_path: Path) -> None:
    """A picture fills its box in one direction; small ones grow by whole factors."""
    draw(tmp_path / "sheet.png", [answer(size=size)])
    factor = max(1, sheet.BOX // max(size))
    assert count(tmp_path / "sheet.png", (0, 200, 0)) == size[0] * size[1] * factor**2


def test_larger_pictures_are_scaled_down(tmp_path: Path) -> None:
    """What was kept for another purpose fits into the box as well."""
    draw(tmp_path / "sheet.png", [answer(size=(1600, 800))])
    assert count(tmp_path / "sheet.png", (0, 200, 0)) == sheet.BOX * sheet.BOX // 2


def test_doubt_is_orange(tmp_path: Path) -> None:
    """The best class has a blue bar, an orange one where it is unsure or probably out of distribution."""
    path = tmp_path / "sheet.png"
    draw(path, [answer()], threshold=0.5)
    assert count(path, BLUE) > 200
    assert count(path, ORANGE) == 0
    for facts, threshold in (({}, 0.7), ({"is_ood": True}, None), ({"is_ood": True}, 0.7)):
        draw(path, [answer(**facts)], threshold=threshold)
        assert count(path, BLUE) == 0
        assert count(path, ORANGE) > 300


def test_pages(tmp_path: Path) -> None:
    """Forty pictures make a page; the pages have numbers, and every answer is drawn once."""
    made = draw(tmp_path / "sheet.png", [answer(f"{n}.png", (40, 40)) for n in range(85)])
    assert [path.name for path in made.written] == ["sheet.png", "sheet-2.png", "sheet-3.png"]
    drawn = [count(path, (0, 200, 0)) // 200**2 for path in made.written]
    assert drawn == [40, 40, 5]
    assert sorted(os.listdir(tmp_path)) == ["sheet-2.png", "sheet-3.png", "sheet.png"]


@pytest.mark.parametrize(("name", "form"), [("s.jpg", "JPEG"), ("s.JPEG", "JPEG"), ("s.webp", "WEBP")])
def test_other_formats(name: str, form: str, tmp_path: Path) -> None:
    """The ending of the name decides the format."""
    draw(tmp_path / name, [answer()])
    with Image.open(tmp_path / name) as page:
        assert page.format == form


def test_a_pdf_holds_all_pages(tmp_path: Path) -> None:
    """One file, as many pages as pictures need."""
    made = draw(tmp_path / "sheet.pdf", [answer(size=(9, 9)) for _ in range(41)])
    assert made.written == [tmp_path / "sheet.pdf"]
    data = (tmp_path / "sheet.pdf").read_bytes()
    assert data.startswith(b"%PDF")
    assert data.count(b"/Type /Page\n") == 2


def test_what_does_not_fit_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit nothing is drawn, the answers go on, and the sheet knows how many are missing."""
    monkeypatch.setattr(sheet, "MOST_PICTURES", 3)
    made = draw(tmp_path / "sheet.png", [answer(size=(200, 200)) for _ in range(5)])
    assert made.left_out == 2
    assert count(tmp_path / "sheet.png", (0, 200, 0)) == 3 * 200**2


def test_odd_names_and_failures(tmp_path: Path) -> None:
    """Names of any bytes and length, and long reasons, are drawn without a fault."""
    odd = [os.fsdecode(b"caf\xe9\xff\n[red].png"), "x" * 5000, "猫 \u202e.png", ""]
    answers: list[prediction.Outcome] = [answer(name) for name in odd]
    answers += [Failure(name, "damaged " * 60 + "y" * 300) for name in odd]
    made = draw(tmp_path / "sheet.png", answers)
    with Image.open(made.written[0]) as page:
        assert page.width < 1200


@pytest.mark.parametrize("other", ["船.png", "\N{DUCK}.png", "\u0e41.png"])
def test_names_that_the_typeface_lacks_are_told_apart(
    other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are escaped, not drawn as equal boxes; what the typeface has stays as it is."""
    drawn: list[str] = []
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda *call, **_: drawn.append(call[2]))
    draw(tmp_path / "sheet.png", [answer("猫.png"), answer(other), answer("Čeština-ж-β.png")])
    escaped = "".join(c if c.isascii() else c.encode("unicode_escape").decode() for c in other)
    assert {"\\u732b.png", escaped, "Čeština-ж-β.png"} <= set(drawn)


def test_long_names_of_classes_stay_in_their_cells() -> None:
    """Neither the bar nor the neighbouring cell is written over."""
    ranked = (Ranked("black-and-tan coonhound, " * 9, 1.0),)
    tile = grid.Tile(None, [grid.Line(ranked[0].label, "#0072b2", probability=1.0)])
    page = np.asarray(grid.draw([tile, tile], "title", columns=2, box=200))
    column = page[grid.HEADER + 200 :, 20 + 200 : 20 + 200 + grid.GAP]
    assert (column == 255).all()
    assert (page[grid.HEADER + 200 :, 20 + 79 : 20 + 82] == 255).all()


def test_existing_files_are_replaced_whole(tmp_path: Path) -> None:
    """As with the figures of an evaluation; and where writing fails, the old file stays."""
    path = tmp_path / "sheet.png"
    path.write_text("old")

    def breaking() -> Iterator[prediction.Outcome]:
        yield answer()
        raise KeyboardInterrupt

    made = sheet.Sheet(path, "model.keras", 2, 2)
    with pytest.raises(KeyboardInterrupt):
        list(made.drawn(breaking()))
    assert path.read_text() == "old"
    draw(path, [answer()])
    assert path.read_bytes().startswith(b"\x89PNG")
    assert os.listdir(tmp_path) == ["sheet.png"]


def test_impossible_places_are_refused_before_work(tmp_path: Path) -> None:
    """A wrong ending is a usage error; a missing directory is told with what to do."""
    for name in ("sheet.gif", "sheet", "sheet.png.txt"):
        with pytest.raises(UsageError, match=r"expected one of \.png"):
            sheet.check(tmp_path / name)
    with pytest.raises(UsageError, match=r"there is no directory .*; make it first"):
        sheet.check(tmp_path / "absent" / "sheet.png")
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(CifarCNNError, match=r"cannot write .*taken\.png: .*; choose another with --output"):
        draw(tmp_path / "taken.png", [answer()])


def test_from_files_to_sheet(tmp_path: Path) -> None:
    """Pictures, FIFOs, links to themselves and missing files each have their cell."""
    Image.new("RGB", (640, 320), (0, 200, 0)).save(tmp_path / "wide.png")
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    paths = [tmp_path / name for name in ("wide.png", "fifo.png", "loop.png", "absent.png")]
    answers = prediction.predict([*paths, "/dev/zero"], model=fakes.corner(), look=sheet.BOX)
    made = sheet.Sheet(tmp_path / "s.png", "model", len(answers.paths))
    assert [type(one) for one in made.drawn(answers)] == [Prediction, *[Failure] * 4]
    assert count(tmp_path / "s.png", (0, 200, 0)) == 200 * 100


def test_no_picture_is_replaced_by_its_sheet(cifarcnn: Run, tmp_path: Path) -> None:
    """A picture named by mistake after --output, by another path, is refused and kept."""
    picture = tmp_path / "cat.png"
    Image.new("RGB", (40, 40), (200, 100, 50)).save(picture)
    before = picture.read_bytes()
    done = cifarcnn("predict", "cat.png", "--output", picture)
    assert (done.returncode, done.stdout) == (2, "")
    assert "cat.png is one of the pictures" in done.stderr
    assert picture.read_bytes() == before


@pytest.mark.parametrize(("name", "taken"), [("photo.png", True), ("photo.pdf", False)])
def test_no_picture_is_replaced_by_a_further_page(name: str, taken: bool, tmp_path: Path) -> None:
    """The second page of photo.png would be photo-2.png; a PDF has all pages in one file."""
    pictures = [tmp_path / f"photo-{number}.png" for number in range(1, 42)]
    pictures[1].touch()
    if taken:
        with pytest.raises(UsageError, match=r"photo-2\.png is one of the pictures"):
            sheet.check_apart(tmp_path / name, [str(path) for path in pictures])
    else:
        sheet.check_apart(tmp_path / name, [str(path) for path in pictures])
    sheet.check_apart(tmp_path / name, [str(path) for path in pictures[:40]])
