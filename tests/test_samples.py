"""The sheet of augmented images: the very crops of a training."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cifarcnn import config
from cifarcnn.data.cifar10 import Images
from cifarcnn.training import pipeline, samples
from conftest import Run


@pytest.mark.parametrize("jitter", [0.0, 0.2])
def test_forms_are_those_that_training_gathers(jitter: float) -> None:
    """Each image stands first as it is, then as each epoch's picks crop it."""
    random = np.random.default_rng(0)
    train = Images(
        random.integers(0, 256, (60, 32, 32, 3), np.uint8), np.arange(60, dtype=np.uint8) % 10, "random"
    )
    settings = config.resolve({"seed": 7, "shift": 2, "jitter": jitter})
    forms = samples.augmented(train, settings, count=10, epochs=3)
    assert forms.shape == (10, 4, 32, 32, 3)
    for epoch in range(3):
        picks = pipeline.draw_epoch(60, seed=7, epoch=epoch, augment="standard", shift=2, jitter=jitter)
        crops = pipeline.crop(train.images, picks, 2)
        for row in forms:
            image = next(index for index in range(60) if np.array_equal(train.images[index], row[0]))
            seen = crops[picks[:, 0] == image]
            assert np.array_equal(seen[0], row[1 + epoch])


def test_command_draws_a_sheet_and_says_where(cifarcnn: Run, tmp_path: Path, data_directory: Path) -> None:
    """Real images, enlarged without blur, in a picture whose path is printed."""
    done = cifarcnn("data", "show", "--data", data_directory, "--count", 3, "--output", "sheet.png", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"schema": 1, "path": "sheet.png"}
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert len(sheet.convert("RGB").getcolors(1 << 20) or []) > 500


def test_impossible_sheets_are_refused_in_one_line(cifarcnn: Run) -> None:
    """Too many images, a directory that is not there: told before any image is looked for."""
    for options, reason in (
        (("--count", 101), "cannot show 101 images on one sheet; expected 1 to 100"),
        (("--output", "sheet.pdf"), "cannot draw sheet.pdf; expected a name that ends in .png"),
        (("--output", "no/sheet.png"), "cannot write no/sheet.png: there is no directory no; make it first"),
    ):
        done = cifarcnn("data", "show", *options)
        assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {reason}\n")
