"""Finding pictures and models, and streaming the one through the other."""

import dataclasses
import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fakes
import models
from cifarcnn.data import images, sources
from cifarcnn.data.cifar10 import CLASSES
from cifarcnn.errors import ModelError, UsageError
from cifarcnn.evaluation import evaluate as evaluation
from cifarcnn.events import Event, Note, PicturesDone
from cifarcnn.models import modelfile, pretrained
from cifarcnn.prediction import picturefiles
from cifarcnn.prediction import predict as prediction
from cifarcnn.prediction.predict import Failure, Prediction, predict


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file."""
    return models.save_tiny(tmp_path_factory.mktemp("model") / "tiny.keras")


@pytest.fixture(scope="module")
def model(model_path: Path) -> modelfile.Model:
    """The same, opened once for all."""
    return modelfile.load(model_path)


def pixels(seed: int) -> np.ndarray:
    """One random image of smooth patches, which the tiny network tells from others."""
    patches = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return patches.repeat(8, axis=0).repeat(8, axis=1)


def picture(path: Path, seed: int = 0) -> Path:
    """Write one of them as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed)).save(path, "PNG")
    return path


def test_answers_are_what_the_model_says(model: modelfile.Model, tmp_path: Path) -> None:
    """Pictures in files get the probabilities of their pixels, exactly so in batches of the same size."""
    paths = [picture(tmp_path / f"{seed}.png", seed) for seed in range(23)]
    expected = model.probabilities(np.stack([pixels(seed) for seed in range(23)]))
    for batch_size in (1, 7, 500):
        answers = predict(paths, model=model, top_k=10, views=1, batch_size=batch_size)
        assert answers.paths == tuple(map(str, paths))
        for row, path, answer in zip(expected, paths, answers, strict=True):
            assert isinstance(answer, Prediction)
            assert answer.path == str(path)
            assert [ranked.label for ranked in answer.top] == [CLASSES[label] for label in np.argsort(-row)]
            found = {ranked.label: ranked.probability for ranked in answer.top}
            # A processor may round batches of other sizes otherwise.
            precision = 0 if batch_size == modelfile.BATCH_SIZE else 1e-6
            np.testing.assert_allclose([found[label] for label in CLASSES], row, rtol=0, atol=precision)


def test_a_bad_picture_does_not_disturb_the_others(model: modelfile.Model, tmp_path: Path) -> None:
    """Failures stand in their place, and the pictures around them get the answers they would get alone."""
    good = [picture(tmp_path / f"{seed}.png", seed) for seed in range(4)]
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.png").touch()
    mixed = [
        good[0],
        tmp_path / "text.png",
        good[1],
        tmp_path / "absent.png",
        tmp_path / "empty.png",
        *good[2:],
    ]
    for batch_size in (2, 500):
        answers = list(predict(mixed, model=model, batch_size=batch_size))
        assert [type(answer) for answer in answers] == [
            *(Prediction, Failure, Prediction, Failure, Failure, Prediction, Prediction)
        ]
        around = [answer for answer in answers if isinstance(answer, Prediction)]
        for answer, alone in zip(around, predict(good, model=model), strict=True):
            assert isinstance(alone, Prediction)
            assert answer.path == alone.path
            assert [ranked.label for ranked in answer.top] == [ranked.label for ranked in alone.top]
            found, expected = ([ranked.probability for ranked in one.top] for one in (answer, alone))
            assert found == pytest.approx(expected, abs=1e-6)
    reasons = [answer.error for answer in answers if isinstance(answer, Failure)]
    assert reasons[0].startswith("not a picture of a known format")
    assert reasons[1:] == ["no such file or directory", "the file is empty"]


def test_progress_counts_every_picture(model: modelfile.Model, tmp_path: Path) -> None:
    """Readable or not, each picture is told once, in order, when its answer was taken."""
    told: list[Event] = []
    paths = [picture(tmp_path / "a.png"), tmp_path / "gone.png", picture(tmp_path / "b.png")]
    for done, _ in enumerate(predict(paths, model=model, batch_size=2, on_event=told.append)):
        assert told == [PicturesDone(number, 3) for number in range(1, done + 1)]
    assert told[-1] == PicturesDone(3, 3)


def test_copies_for_people_are_kept_on_request(model: modelfile.Model, tmp_path: Path) -> None:
    """With ``look`` each prediction keeps its picture at its own proportions; the answers stay the same."""
    Image.new("RGB", (300, 150), (9, 99, 199)).save(tmp_path / "wide.png")
    (plain,) = predict([tmp_path / "wide.png"], model=model)
    (kept,) = predict([tmp_path / "wide.png"], model=model, look=100)
    assert isinstance(plain, Prediction)
    assert isinstance(kept, Prediction)
    assert plain == kept
    assert plain.picture is None
    assert kept.picture is not None
    assert kept.picture.size == (100, 50)
    np.testing.assert_array_equal(kept.pixels, np.full((32, 32, 3), (9, 99, 199)))


def test_only_failures_are_an_answer_too(model: modelfile.Model, tmp_path: Path) -> None:
    """A batch without one readable picture does not reach the network."""
    assert list(predict([tmp_path / "a.png", "", "b\0.png"], model=model)) == [
        Failure(str(tmp_path / "a.png"), "no such file or directory"),
        Failure("", "not a valid file name"),
        Failure("b\0.png", "not a valid file name"),
    ]


def test_directories_are_walked_in_natural_order(model: modelfile.Model, tmp_path: Path) -> None:
    """Pictures below a directory come as people count; other, hidden and linked ones stay out."""
    names = ["img2.PNG", "img10.png", "z.png", "a/x01.jpeg", "a/x1.jpeg", "b9/y.png", "b10/y.png"]
    for name in [*reversed(names), "._z.png", ".trash/y.png"]:
        picture(tmp_path / "top" / name)
    (tmp_path / "top" / "labels.txt").write_text("cat")
    (tmp_path / "top" / "a" / "loop").symlink_to(tmp_path / "top")
    (tmp_path / "top" / "z.png").unlink()
    os.mkfifo(tmp_path / "top" / "z.png")
    answers = predict([tmp_path / "top"], model=model, recursive=True)
    assert [os.path.relpath(path, tmp_path / "top") for path in answers.paths] == names
    failures = [answer for answer in answers if isinstance(answer, Failure)]
    assert [failure.error for failure in failures] == ["not a regular file; expected a picture"]


def test_a_directory_alone_is_explained(model: modelfile.Model, tmp_path: Path) -> None:
    """Without ``recursive`` a directory is refused with what to add; an empty one is said to be empty."""
    (alone,) = predict([tmp_path], model=model)
    assert alone == Failure(str(tmp_path), "is a directory; add --recursive for the pictures in it")
    (empty,) = predict([tmp_path], model=model, recursive=True)
    assert empty == Failure(str(tmp_path), "no picture in this directory")


def test_patterns_are_expanded(
    model: modelfile.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pattern stands for the files it matches; a file whose name looks like a pattern stands for itself."""
    monkeypatch.chdir(tmp_path)
    for name in ("p10.png", "p9.png", "odd[1].png", "deep/er/q.png"):
        picture(Path(name))
    assert predict(["p*.png"], model=model).paths == ("p9.png", "p10.png")
    assert predict(["**/q.png"], model=model).paths == ("deep/er/q.png",)
    assert predict(["odd[1].png"], model=model).paths == ("odd[1].png",)
    assert predict(["odd*"], model=model).paths == ("odd[1].png",)
    assert list(predict(["*.gif"], model=model)) == [Failure("*.gif", "no file matches this pattern")]


def test_a_pattern_gives_no_picture_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``**`` matches directories and what is in them; what is named twice is still answered twice."""
    monkeypatch.chdir(tmp_path)
    for name in ("a/b/2.png", "a/1.png", "0.png"):
        picture(tmp_path / "photos" / name)
    names = ["photos/0.png", "photos/a/1.png", "photos/a/b/2.png"]
    assert picturefiles.expand("photos/**", recursive=True) == names
    assert picturefiles.expand("photos/**/", recursive=True) == names
    (tmp_path / "photos" / "bare").mkdir()
    bare = Failure("photos/bare", "no picture in this directory")
    assert [source for source in picturefiles.expand("photos/**", recursive=True) if source not in names] == [
        bare
    ]
    twice = predict(["photos/*.png", "photos/0.png"], model=fakes.corner())
    assert twice.paths == ("photos/0.png", "photos/0.png")


def test_standard_input_is_one_picture(
    model: modelfile.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dash stands for the picture on standard input."""
    data = picture(tmp_path / "p.png", 5).read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    (piped,) = predict(["-"], model=model)
    (filed,) = predict([tmp_path / "p.png"], model=model)
    assert isinstance(piped, Prediction)
    assert isinstance(filed, Prediction)
    assert piped.path == "-"
    assert piped.top == filed.top
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert list(predict(["-"], model=model)) == [Failure("-", "the file is empty")]


def test_a_file_that_vanishes_midway_is_a_failure(model: modelfile.Model, tmp_path: Path) -> None:
    """What was there when the work began may be gone when its turn comes."""
    paths = [picture(tmp_path / f"{number}.png") for number in range(6)]
    answers = predict(paths, model=model, batch_size=1)
    first = next(answers.stream)
    paths[-1].unlink()
    assert isinstance(first, Prediction)
    assert [type(answer) for answer in answers] == [*[Prediction] * 4, Failure]


def test_memory_is_bounded_by_batches(model: modelfile.Model, tmp_path: Path) -> None:
    """Pictures are read when their batch is near, so a long list is never held in memory at once."""
    path = picture(tmp_path / "one.png")
    missing = tmp_path / "later.png"
    answers = predict([path] * 40 + [missing], model=model, batch_size=10)
    for _ in range(10):
        next(answers.stream)
    picture(missing)
    assert all(isinstance(answer, Prediction) for answer in answers)


def test_temperature_of_the_model_is_applied(tmp_path: Path) -> None:
    """A model that knows its temperature answers with calibrated probabilities, in unchanged order."""
    hot = models.save_tiny(tmp_path / "hot.keras", {"temperature": 4.0})
    plain = models.save_tiny(tmp_path / "plain.keras")
    path = picture(tmp_path / "p.png", 3)
    (softened,) = predict([path], model=hot, top_k=10, views=1)
    (raw,) = predict([path], model=plain, top_k=10, views=1)
    assert isinstance(softened, Prediction)
    assert isinstance(raw, Prediction)
    assert [ranked.label for ranked in softened.top] == [ranked.label for ranked in raw.top]
    quarter = np.array([ranked.probability for ranked in raw.top]) ** 0.25
    np.testing.assert_allclose(
        [ranked.probability for ranked in softened.top], quarter / quarter.sum(), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"top_k": 0}, "--top-k is 0; expected 1 or more"),
        ({"views": 3}, "--views is 3; expected one of 1, 2, 4"),
        ({"precision": "half"}, "--precision is 'half'; expected one of float32, auto"),
        ({"batch_size": 0}, "--batch-size is 0"),
        ({"resize": "zoom"}, "expected one of crop, fit, squash"),
        ({"paths": []}, "no picture was named"),
    ],
)
def test_impossible_settings_are_refused(
    settings: dict[str, object], reason: str, model: modelfile.Model
) -> None:
    """Wrong settings are usage errors before anything is read."""
    arguments = {"paths": ["x.png"], "model": model, **settings}
    with pytest.raises(UsageError, match=reason):
        predict(**arguments)  # type: ignore[arg-type]


def test_the_default_model_is_chosen_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment names the model, else it is the pretrained one, whatever runs lie about; it is said."""
    told: list[Event] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CIFARCNN_MODEL", raising=False)
    models.save_tiny(tmp_path / "runs" / "mine" / "best.keras")
    assert prediction.default_model(told.append) == pretrained.PATH
    monkeypatch.setenv("CIFARCNN_MODEL", "runs/mine")
    assert prediction.default_model(told.append) == Path("runs/mine/best.keras")
    assert told == [
        Note("model: pretrained (comes with cifarcnn; --model names another)"),
        Note("model: runs/mine/best.keras (named by CIFARCNN_MODEL)"),
    ]
    monkeypatch.setenv("CIFARCNN_MODEL", "absent.keras")
    with pytest.raises(ModelError, match=r"there is no model absent\.keras"):
        prediction.default_model()


@pytest.mark.usefixtures("data_directory")
@pytest.mark.slow
def test_the_test_set_as_files_scores_what_evaluation_reports(model_path: Path, tmp_path: Path) -> None:
    """The 10,000 test images, written as PNG files, get exactly the evaluated accuracy."""
    test = sources.load("test")
    for number, image in enumerate(test.images):
        Image.fromarray(image).save(tmp_path / f"{number}.png", compress_level=1)
    answers = predict([tmp_path], model=model_path, recursive=True, top_k=1, views=1)
    labels = [CLASSES.index(answer.top[0].label) for answer in answers if isinstance(answer, Prediction)]
    right = int((np.array(labels) == test.labels).sum())
    assert right / 10_000 == evaluation.evaluate(model_path).metrics.accuracy


def test_standard_input_that_cannot_be_read_is_a_failure(
    model: modelfile.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under nohup, which opens it for writing alone."""
    with open(os.devnull, "wb") as for_writing, open(for_writing.fileno(), closefd=False) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        (answer,) = predict(["-"], model=model)
    assert isinstance(answer, Failure)
    assert answer.error.startswith("standard input cannot be read: ")


def test_answers_that_are_no_numbers_are_refused(model: modelfile.Model, tmp_path: Path) -> None:
    """A network may overflow on one picture alone."""

    class Overflowing:
        def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
            return np.full((len(images), 10), np.nan, np.float32)

    broken = dataclasses.replace(model, network=Overflowing())  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="answers with numbers that are not finite"):
        list(predict([picture(tmp_path / "p.png")], model=broken))


def test_one_picture_is_named_by_a_string_or_a_path(model: modelfile.Model, tmp_path: Path) -> None:
    """A string is one picture, not as many as it has letters."""
    path = picture(tmp_path / "cat.png")
    assert predict(str(path), model=model).paths == predict(path, model=model).paths == (str(path),)


def test_views_average_log_probabilities(model: modelfile.Model, tmp_path: Path) -> None:
    """Two views are a picture and its mirror image; four add those of the middle square."""
    wide = np.random.default_rng(4).integers(0, 256, (40, 80, 3), np.uint8)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    squash, crop = (images.read(tmp_path / "wide.png", way) for way in ("squash", "crop"))
    assert (squash != crop).any()
    views = {1: [squash], 2: [squash, squash[:, ::-1]]}
    views[4] = [*views[2], crop, crop[:, ::-1]]
    found = []
    for number, pictures in views.items():
        expected = np.exp(np.log(model.probabilities(np.stack(pictures)).astype(np.float64)).mean(axis=0))
        (outcome,) = predict(tmp_path / "wide.png", model=model, top_k=10, views=number)
        assert isinstance(outcome, Prediction)
        found.append([ranked.probability for ranked in outcome.top])
        np.testing.assert_allclose(found[-1], np.sort(expected / expected.sum())[::-1], rtol=1e-5)
    assert found[0] != found[1] != found[2]


def test_classes_are_those_of_the_model(tmp_path: Path) -> None:
    """Names and number come from the model; no more are ranked than there are."""
    import keras

    network = models.tiny(keras.layers.Dense(2, activation="softmax"))
    modelfile.save(network, tmp_path / "two.keras", {"classes": ["élan", "moose [red]"]})
    predictions = predict(picture(tmp_path / "p.png"), model=tmp_path / "two.keras", top_k=3)
    assert predictions.classes == ("élan", "moose [red]")
    (outcome,) = predictions
    assert isinstance(outcome, Prediction)
    assert sorted(ranked.label for ranked in outcome.top) == ["moose [red]", "élan"]
    assert 0 <= outcome.ood_score <= 1
