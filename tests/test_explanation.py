"""Heat maps: where they are warm, and how they lie over pictures."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

import fakes
from cifarcnn.data import images
from cifarcnn.errors import CifarCNNError, UsageError
from cifarcnn.figures import explanation
from cifarcnn.prediction import predict as prediction
from cifarcnn.prediction.predict import Failure, Prediction

RED, FROG = (255, 0, 0), 6


def red_corner() -> np.ndarray:
    """A black picture that is red in its upper left quarter."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:16, :16] = RED
    return pixels


def test_the_map_is_where_the_network_looks() -> None:
    """A network that sees one corner has its map there and nowhere far from it."""
    found = explanation.occlusion(fakes.corner(), red_corner(), FROG)
    assert found.fall.shape == (32, 32)
    row, column = np.unravel_index(found.fall.argmax(), found.fall.shape)
    assert max(row, column) < 8
    assert found.fall[:8, :8].mean() > 5 * np.abs(found.fall[16:, 16:]).mean()
    assert found.fall[:8, :8].min() > found.fall[20:, 20:].max()
    assert (found.left, found.top) == (0, 0)


def test_what_is_stated_is_what_covering_that_patch_does() -> None:
    """The two logits are of the picture and of the picture with the mean colour in the named place."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    pixels[:6, 3:9, 0] = 255
    model = fakes.corner(temperature=0.7)
    found = explanation.occlusion(model, pixels, FROG)
    covered = pixels.copy()
    patch = np.s_[found.top : found.top + 8, found.left : found.left + 8]
    covered[patch] = np.rint(pixels.mean(axis=(0, 1)))
    rows = np.log(model.calibrated(model.probabilities(np.stack([pixels, covered]))))
    before, after = rows[:, FROG] - np.delete(rows, FROG, axis=1).mean(axis=1)
    assert (found.before, found.after) == pytest.approx((before, after))
    assert after < before


def test_a_certain_prediction_is_explained_as_well() -> None:
    """Where the probability is 1 to the last digit, the logit still falls."""
    found = explanation.occlusion(fakes.corner(temperature=0.1), red_corner(), FROG)
    assert found.before > 50
    assert found.strongest > 20


def test_what_changes_nothing_or_speaks_against_a_class_is_not_above_zero() -> None:
    """A flat picture has nothing to cover; covering what speaks against a class raises its logit."""
    flat = np.full((32, 32, 3), 90, np.uint8)
    np.testing.assert_allclose(explanation.occlusion(fakes.corner(), flat, FROG).fall, 0, atol=1e-6)
    assert explanation.occlusion(fakes.corner(), red_corner(), 0).fall[:8, :8].max() < 0


def test_the_ground_around_a_fitted_picture_is_no_place_in_it() -> None:
    """The map is of the picture alone, and the strongest patch touches it."""
    found = explanation.occlusion(fakes.corner(), red_corner(), FROG, window=(0, 12, 32, 8))
    assert found.fall.shape == (8, 32)
    assert -8 < found.top < 8


def occlusion(fall: np.ndarray, strongest: float = 3.0, left: int = 0, top: int = 0) -> explanation.Occlusion:
    """A map as if it had been measured."""
    return explanation.Occlusion(fall, 9.25, 9.25 - strongest, left, top)


@pytest.mark.parametrize("size", [(400, 200), (200, 400), (301, 299), (32, 32)])
@pytest.mark.parametrize("resize", images.RESIZES)
def test_the_overlay_has_the_geometry_of_the_resize(size: tuple[int, int], resize: images.Resize) -> None:
    """The corner the network saw glows in the picture, what the network did not see is dark."""
    picture = Image.new("RGB", size, (200, 200, 200))
    left, top, width, height = images.part_seen(size, resize)
    wide, high = images.place_in_fit(size)[2:] if resize == "fit" else (32, 32)
    fall = np.zeros((high, wide))
    fall[:4, -4:] = 2.0
    pixels = np.asarray(explanation.laid_over(picture, occlusion(fall, 0), resize)).astype(int)
    assert pixels.shape == (size[1], size[0], 3)
    glow = pixels[top + 1, left + width - 2]
    assert glow[0] > glow[2] + 60
    for grey in (pixels[top + height - 2, left + width - 2], pixels[top + height - 2, left + 1]):
        assert np.ptp(grey) < 4
        assert grey.min() > 140
    outside = np.ones(pixels.shape[:2], bool)
    outside[top : top + height, left : left + width] = False
    assert (np.abs(pixels[outside] - 60) <= 1).all()
    assert outside.any() == (resize == "crop" and size[0] != size[1])


def test_the_strongest_patch_is_outlined_where_it_is() -> None:
    """In white, at the picture's scale; a patch of no effect is not."""
    picture = Image.new("RGB", (320, 320))
    seen = np.asarray(explanation.laid_over(picture, occlusion(np.zeros((32, 32)), 3.0, 12, 4), "crop"))
    rows, columns = np.nonzero((seen == 255).all(axis=2))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (40, 119, 120, 199)
    seen = np.asarray(explanation.laid_over(picture, occlusion(np.zeros((32, 32)), 0.05), "crop"))
    assert not (seen == 255).any()


def test_a_map_of_nothing_stays_pale() -> None:
    """Noise of a thousandth is not blown up to full colour."""
    picture = Image.new("RGB", (64, 64), (100, 100, 100))
    found = occlusion(np.random.default_rng(0).normal(0, 0.001, (32, 32)), 0.001)
    pixels = np.asarray(explanation.laid_over(picture, found, "crop")).astype(int)
    assert np.ptp(pixels, axis=2).max() < 12


def write(path: Path, orientation: int = 1, corner: tuple[int, int] = (0, 0)) -> Path:
    """A picture that is red in one of its corners as they are stored, the upper left one unless told."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGB", (96, 96))
    picture.paste(RED, (*corner, corner[0] + 40, corner[1] + 40))
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(path, "PNG", exif=exif)
    return path


def explained(paths: list[Path], directory: Path) -> list[prediction.Outcome]:
    """Predict and explain."""
    answers = prediction.predict(paths, model=fakes.corner(), views=1, look=prediction.LOOK_TO_EXPLAIN)
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
    assert colour[: side // 8, : side // 8].mean() > 50
    assert colour[5 * side // 8 :].max() < 15
    assert colour[:, 5 * side // 8 :].max() < 15


@pytest.mark.parametrize(
    ("strongest", "line"),
    [
        (3.0, "covering the outlined 8x8 patch lowers the logit of frog by 3.0, from 9.2 to 6.2"),
        (0.04, "no 8x8 patch that was covered lowers the logit of frog by 0.1 or more"),
        (-1.0, "no 8x8 patch that was covered lowers the logit of frog by 0.1 or more"),
    ],
)
def test_the_caption_states_what_was_measured(
    strongest: float, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The class, its probability and the picture's name, the patch's effect, and what colours mean."""
    texts: list[str] = []
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda *call, **_: texts.append(call[2]))
    pixels, picture = np.zeros((32, 32, 3), np.uint8), Image.new("RGB", (96, 96))
    top = (prediction.Ranked("frog", 0.9712), prediction.Ranked("cat", 0.02))
    answer = Prediction("a/toad.png", top, 0.0, None, pixels, picture)
    explanation.page(answer, picture, occlusion(np.full((32, 32), 2.5), strongest), "crop")
    assert texts[:3] == ["0.0", "1.2", "2.5"]
    assert texts[3:5] == ["frog 97.1%   a/toad.png", line]
    assert texts[5].startswith("colour: fall of the logit of frog where a place is covered")


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
    with pytest.raises(UsageError, match="would also be an explanation; give the sheet another name"):
        explanation.check_apart(tmp_path / "real", ["cat.png"], pages)
    explanation.check_apart(tmp_path / "real", ["cat.png"], pages[:1])
