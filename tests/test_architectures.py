"""The table of architectures: exact counts, raw pixels in, and files that plain Keras opens."""

import subprocess
import sys

import keras
import numpy as np
import pytest

from cifarcnn import architectures
from cifarcnn.architectures import ARCHITECTURES, Architecture, Variant
from cifarcnn.errors import UsageError
from cifarcnn.models import modelfile, summaries

EVERY = pytest.mark.parametrize("row", ARCHITECTURES, ids=lambda row: row.name)

# What the networks' authors published, or what follows from their layer tables; ours are worked out by hand.
PARAMETERS = {
    "plain6": 276_138,
    "plain6-small": 208_794,
    "rmsprop6": 307_498,
    "vgg2": 591_658,
    "vgg3": 552_874,
    "shallow2": 4_210_090,
    "whiten6-tiny": 212_064,
    "whiten6-small": 295_520,
    "whiten6-medium": 791_232,
    "whiten6": 1_973_920,
    "whiten6-large": 6_084_896,
}

# Two for each multiply-accumulate, worked out by hand from the layer tables.
FLOPS = {"vgg2": 50_006_528, "shallow2": 29_042_688}


def pixels(count: int = 4) -> np.ndarray:
    """Random images."""
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)


@EVERY
def test_parameter_counts_are_right(row: Architecture) -> None:
    """Each network has exactly the parameters that were published or counted, and the table says so."""
    assert architectures.build(row.name).count_params() == row.params == PARAMETERS[row.name]


@EVERY
def test_takes_raw_pixels_and_gives_probabilities(row: Architecture) -> None:
    """Pixels from 0 to 255 go in, ten probabilities that sum to one come out."""
    answers = architectures.build(row.name).predict_on_batch(pixels())
    assert answers.shape == (4, 10)
    assert np.allclose(answers.sum(axis=1), 1, atol=1e-5)


@EVERY
def test_any_number_of_classes_can_be_told_apart(row: Architecture) -> None:
    """The last layer alone changes."""
    ten, three = row.build(Variant()), row.build(Variant(classes=3))
    assert three.output_shape == (None, 3)
    shapes = [[weight.shape for weight in model.weights] for model in (ten, three)]
    last = 1 if row.whitened else 2  # a kernel, and a bias
    assert shapes[0][:-last] == shapes[1][:-last]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What every network answers here, and its file in a process that never imports this package."""
    folder = tmp_path_factory.mktemp("saved")
    ours = {}
    for row in ARCHITECTURES:
        network = architectures.build(row.name)
        modelfile.save(network, folder / f"{row.name}.keras", {"arch": row.name})
        ours[row.name] = network.predict_on_batch(pixels())
    np.save(folder / "pixels.npy", pixels())
    script = (
        "import sys, keras, numpy, pathlib; pixels = numpy.load('pixels.npy');"
        "models = {path.stem: keras.models.load_model(path) for path in pathlib.Path().glob('*.keras')};"
        "answers = {name: model.predict_on_batch(pixels) for name, model in models.items()};"
        "numpy.savez('answers.npz', **answers);"
        "assert 'cifarcnn' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], cwd=folder, check=True, capture_output=True)
    with np.load(folder / "answers.npz") as answers:
        return ours, dict(answers)


@EVERY
def test_a_saved_network_opens_in_plain_keras(
    row: Architecture, saved: tuple[dict[str, np.ndarray], dict[str, np.ndarray]]
) -> None:
    """Keras alone loads the file, and it gives the same answers."""
    ours, keras_alone = saved
    assert np.array_equal(keras_alone[row.name], ours[row.name])


@pytest.mark.parametrize("normalize", ["unit", "standard"])
def test_normalisation_is_a_stock_layer_inside(normalize: str) -> None:
    """ "unit" divides by 255; "standard" gives the training images' z-scores."""
    network = architectures.build("plain6-small", Variant(normalize=normalize))
    layer = network.get_layer("normalize")
    assert type(layer) is keras.layers.Rescaling
    expected = pixels() / 255
    if normalize == "standard":
        expected = (expected - [0.4914, 0.4822, 0.4465]) / [0.2470, 0.2435, 0.2616]
    assert np.allclose(layer(pixels().astype(np.float32)), expected, atol=1e-3)


def test_a_variant_scales_dropout_and_sets_inertia() -> None:
    """The recipe's factor reaches every dropout layer, its inertia every batch normalisation."""
    network = architectures.build("vgg3", Variant(batch_norm_momentum=0.5, dropout=0.5))
    rates = [layer.rate for layer in network.layers if isinstance(layer, keras.layers.Dropout)]
    inertia = {
        layer.momentum for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)
    }
    assert np.allclose(rates, [0.1, 0.15, 0.2, 0.25])
    assert inertia == {0.5}


@pytest.mark.parametrize("name", FLOPS)
def test_flops_are_those_counted_by_hand(name: str) -> None:
    """The summary counts two operations per multiply-accumulate."""
    assert summaries.summarise(name).flops == FLOPS[name]


@pytest.mark.parametrize(("wrong", "meant"), [("vgg4", "vgg"), ("VGG2", "vgg2"), ("plain", "plain6")])
def test_an_unknown_name_suggests_the_nearest(wrong: str, meant: str) -> None:
    """A slip of the finger is answered by the name that was meant."""
    with pytest.raises(UsageError, match=f"did you mean '{meant}"):
        architectures.find(wrong)


def test_flops_of_other_layers_and_of_a_model_within_a_model() -> None:
    """Each number of a kernel counts at every place of the output; of a transposed one, of the input."""
    inner = keras.Sequential(
        [
            keras.Input((8, 8, 4)),
            keras.layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same"),
            keras.layers.SeparableConv2D(6, 3, strides=2, padding="same"),
        ]
    )
    outer = keras.Sequential([
        keras.Input((8, 8, 4)), inner, keras.layers.Conv2DTranspose(5, 2, strides=2), keras.layers.Flatten(),
        keras.layers.Dense(10),
    ])  # fmt: skip
    depthwise, separable = 64 * 9 * 4 * 2, 16 * (9 * 8 + 8 * 6)
    transposed, dense = 16 * 2 * 2 * 6 * 5, 8 * 8 * 5 * 10
    found = summaries.describe(outer, "outer")
    assert found.flops == 2 * (depthwise + separable + transposed + dense)
    assert found.layers[0].flops == 2 * (depthwise + separable)
