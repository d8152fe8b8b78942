"""Heat maps: where they are warm, and how they lie over pictures."""

import dataclasses
import io
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

import fakes
from cifarcnn.data import images
from cifarcnn.errors import CifarCNNError, UsageError
from cifarcnn.prediction import explanation
from cifarcnn.prediction import predict as prediction
from cifarcnn.prediction.predict import Failure, Prediction

RED, FROG = (255, 0, 0), 6


def corner_heat() -> np.ndarray:
    """The heat of a red picture for a model that looks at its upper left corner."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:16, :16] = RED
    return explanation.evidence(fakes.corner(), pixels, FROG)


def test_heat_is_where_the_network_looks() -> None:
    """A network that sees one corner has its evidence there and nowhere far from it."""
    heat = corner_heat()
    assert heat.shape == (32, 32)
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert max(row, column) < 8
    assert heat[:8, :8].mean() > 5 * heat[16:, 16:].mean()
    assert heat[:8, :8].min() > heat[20:, 20:].max()


def test_evidence_is_the_loss_of_log_probability() -> None:
    """What cannot be covered changes nothing; covering what speaks against a class counts below zero."""
    flat = np.full((32, 32, 3), 90, np.uint8)
    np.testing.assert_allclose(explanation.evidence(fakes.corner(), flat, FROG), 0, atol=1e-6)
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:16, :16] = RED
    assert explanation.evidence(fakes.corner(), pixels, 0)[:8, :8].max() < 0


def test_temperature_is_applied() -> None:
    """The figures are of the probabilities that people are shown."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:16, :16] = RED
    calibrated = explanation.evidence(fakes.corner(temperature=10.0), pixels, FROG)
    # At that temperature the class is less certain from the beginning, and has more to lose.
    assert calibrated.max() > 2 * corner_heat().max() > 0


@pytest.mark.parametrize("size", [(400, 200), (200, 400), (301, 299), (32, 32)])
@pytest.mark.parametrize("resize", images.RESIZES)
def test_the_overlay_has_the_geometry_of_the_resize(size: tuple[int, int], resize: images.Resize) -> None:
    """The corner the network saw glows in the picture, the rest of what it saw is grey, the rest dark.

    What it saw around a fitted picture takes no part, however hot it is.
    """
    picture = Image.new("RGB", size, (200, 200, 200))
    heat = np.full((32, 32), 100.0)
    left, top, width, height = images.part_seen(size, resize)
    across, down, wide, high = images.place_in_fit(size) if resize == "fit" else (0, 0, 32, 32)
    heat[down : down + high, across : across + wide] = 0.0
    heat[down : down + 4, across + wide - 4 : across + wide] = 2.0
    pixels = np.asarray(
        explanation.laid_over(picture, explanation.in_sight(heat, picture.size, resize), resize)
    ).astype(int)
    assert pixels.shape == (size[1], size[0], 3)
    glow = pixels[top + 1, left + width - 2]
    assert glow[0] > glow[2] + 60
    for grey in (pixels[top + height - 2, left + width - 2], pixels[top + height - 2, left + 1]):
        assert (np.abs(grey - 200) <= 1).all()
    outside = np.ones(pixels.shape[:2], bool)
    outside[top : top + height, left : left + width] = False
    assert (np.abs(pixels[outside] - 60) <= 1).all()
    assert outside.any() == (resize == "crop" and size[0] != size[1])


def test_a_map_of_nothing_stays_grey() -> None:
    """Noise of a thousandth is not blown up to full colour."""
    picture = Image.new("RGB", (64, 64), (100, 100, 100))
    heat = np.random.default_rng(0).normal(0, 0.001, (32, 32))
    assert np.abs(np.asarray(explanation.laid_over(picture, heat, "crop")).astype(int) - 100).max() < 12


def write(path: Path, orientation: int = 1, corner: tuple[int, int] = (0, 0)) -> Path:
    """A picture that is red in one of its corners as they are stored, the upper left one unless told."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGB", (96, 96))
    picture.paste(RED, (*corner, corner[0] + 40, corner[1] + 40))
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(path, "PNG", exif=exif)
    return path


def explained(paths: list[Path], directory: Path) -> list[prediction.Answer]:
    """Predict and explain."""
    answers = prediction.predict(paths, model=fakes.corner(), look=prediction.LOOK_TO_EXPLAIN)
    return list(explanation.drawn(answers, fakes.corner(), directory, "crop"))


def test_files_are_written_beside_their_names(tmp_path: Path) -> None:
    """Each picture gets its file, equal names differ, failures get none, and old files are replaced."""
    paths = [write(tmp_path / "a" / "cat.png"), write(tmp_path / "b" / "CAT.jpg"), tmp_path / "gone.png"]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "cat-explained.png").write_text("old")
    first, second, third = explained(paths, tmp_path / "out")
    assert isinstance(first, Prediction)
    assert isinstance(second, Prediction)
    assert first.explained == tmp_path / "out" / "cat-explained.png"
    assert second.explained == tmp_path / "out" / "CAT-2-explained.png"
    assert third == Failure(str(tmp_path / "gone.png"), "no such file or directory")
    found = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert found == ["CAT-2-explained.png", "cat-explained.png"]
    with Image.open(first.explained) as page:
        assert page.size[0] >= 2 * explanation.SHORTEST


def test_the_cameras_orientation_is_followed(tmp_path: Path) -> None:
    """A picture stored on its head has its heat where people see the corner that the network sees."""
    (turned,) = explained([write(tmp_path / "turned.png", orientation=3)], tmp_path)
    assert isinstance(turned, Prediction)
    assert turned.picture is not None
    assert turned.picture.getpixel((90, 90)) == RED
    # The red corner is at the lower right now, where this network does not look.
    assert turned.top[0].probability < 0.2
    (seen,) = explained([write(tmp_path / "seen.png", orientation=3, corner=(56, 56))], tmp_path)
    assert isinstance(seen, Prediction)
    assert seen.explained is not None
    assert (seen.top[0].label, seen.top[0].probability > 0.9) == ("frog", True)
    with Image.open(seen.explained) as page:
        pixels = np.asarray(page.convert("RGB")).astype(int)
    side, gap = 4 * 96, explanation.GAP
    plain, overlay = (pixels[gap : gap + side, left : left + side] for left in (gap, 2 * gap + side))
    assert (plain[: side // 3, : side // 3] == RED).all()
    assert (plain[side // 2 :, side // 2 :] == 0).all()
    colour = np.ptp(overlay, axis=2)
    assert colour[: side // 4, : side // 4].min() > 50
    assert colour[5 * side // 8 :].max() < 15
    assert colour[:, 5 * side // 8 :].max() < 15


@pytest.mark.parametrize(
    ("heat", "line"),
    [
        (math.log(3), "covering the brightest places makes frog 3.0 times less probable"),
        (math.log(99), "covering the brightest places makes frog 99.0 times less probable"),
        (math.log(101), "covering the brightest places makes frog more than 100 times less probable"),
        (math.log(1.04), "covering no single place makes frog less probable"),
        (-1.0, "covering no single place makes frog less probable"),
    ],
)
def test_the_caption_says_what_and_how_much(heat: float, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The class with its probability and the picture's name, and by how much the hottest place matters."""
    texts: list[str] = []
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda *call: texts.append(call[2]))
    pixels, picture = np.zeros((32, 32, 3), np.uint8), Image.new("RGB", (96, 96))
    top = (prediction.Ranked("frog", 0.9712), prediction.Ranked("cat", 0.02))
    answer = Prediction("a/toad.png", top, 0.0, None, pixels, picture)
    explanation.side_by_side(answer, np.full((32, 32), heat), "crop")
    assert texts == ["frog 97.1%   a/toad.png", line]
    # The ground above and below a fitted picture is no place in it.
    wide = dataclasses.replace(answer, picture=Image.new("RGB", (96, 48)))
    ground = np.full((32, 32), 3.0)
    ground[8:24] = heat
    explanation.side_by_side(wide, ground, "fit")
    assert texts[2:] == texts[:2]


def test_a_directory_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    """A file in the way is named before anything is read."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(
        CifarCNNError, match=r"cannot make the directory .*file: .*; choose another with --explain"
    ):
        explanation.drawn([], fakes.corner(), tmp_path / "file", "crop")


def test_explanations_are_whole_pngs(tmp_path: Path) -> None:
    """Nothing but the finished file is left."""
    explained([write(tmp_path / "p.png")], tmp_path / "out")
    (only,) = (tmp_path / "out").iterdir()
    Image.open(io.BytesIO(only.read_bytes())).verify()


def test_the_pictures_themselves_are_not_drawn_over(tmp_path: Path) -> None:
    """A picture that is named like an explanation of another, by whatever path, is not replaced."""
    first, second = write(tmp_path / "dog.png"), write(tmp_path / "dog-explained.png")
    before = second.read_bytes()
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(UsageError, match=r"dog-explained.png is one of the pictures; give another directory"):
        explanation.check_apart(tmp_path / "link", [str(first), str(second)])
    explanation.check_apart(tmp_path / "elsewhere", [str(first), str(second)])
    assert second.read_bytes() == before


def test_a_failure_takes_a_name_too(tmp_path: Path) -> None:
    """So what is drawn is what was looked for among the pictures, whichever of them can be read."""
    broken, second = tmp_path / "a" / "cat.png", write(tmp_path / "b" / "CAT.png")
    third = write(tmp_path / "b" / "CAT-explained.png")
    before = third.read_bytes()
    explanation.check_apart(tmp_path / "b", [str(broken), str(second), str(third)])
    _, answer, _ = explained([broken, second, third], tmp_path / "b")
    assert isinstance(answer, Prediction)
    assert answer.explained == tmp_path / "b" / "CAT-2-explained.png"
    assert third.read_bytes() == before


def test_a_sheet_does_not_replace_an_explanation(tmp_path: Path) -> None:
    """Neither need be there yet, and their directory may have two names."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    pages = [tmp_path / "link" / "sheet.png", tmp_path / "link" / "cat-explained.png"]
    with pytest.raises(UsageError, match="both an explanation and a page of the sheet; give the sheet anoth"):
        explanation.check_apart(tmp_path / "real", ["cat.png"], pages)
    explanation.check_apart(tmp_path / "real", ["cat.png"], pages[:1])
