"""The corruptions of CIFAR-10-C, made on the fly: Hendrycks and Dietterich, 2019, arXiv:1903.12261.

The constants are those of the authors' ``make_cifar_c.py`` (github.com/hendrycks/robustness). Each image
draws from a generator of its own, seeded by corruption, severity and its index, so that results repeat
whatever the batches. ``frost`` is missing: it needs the authors' photographs of frost. Filters that they
took from OpenCV, SciPy, scikit-image and ImageMagick are written in NumPy, so pixels differ a little from
the published files. Each function takes images, float32 (n, side, side, 3) of 0 to 1, the constants of a
severity, and a generator per image, and returns images that may exceed 0 to 1.
"""

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cifarcnn.data.cifar10 import Bytes
from cifarcnn.errors import UsageError
from cifarcnn.metrics import Array

Generators = Sequence[np.random.Generator]
Corruption = Callable[[Array, Any, Generators], Array]

MISSING = ("frost",)
SEVERITIES = (1, 2, 3, 4, 5)


def corrupt(images: Bytes, name: str, severity: int, first: int = 0) -> Bytes:
    """Corrupt images.

    Args:
        images: uint8 (n, side, side, 3).
        name: one of ``CORRUPTIONS``.
        severity: 1 to 5.
        first: the index of the first of these images in the data set.

    Returns:
        uint8 of the same shape.

    Raises:
        UsageError: there is no such corruption or severity.
    """
    if name not in CORRUPTIONS:
        raise UsageError(f"there is no corruption {name!r}; expected one of: {', '.join(CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise UsageError(f"the severity is {severity}; expected 1 to 5")
    function, constants = CORRUPTIONS[name]
    seed = list(CORRUPTIONS).index(name)
    generators = [
        np.random.default_rng((seed, severity, index)) for index in range(first, first + len(images))
    ]
    result = function(images.astype(np.float32) / 255, constants[severity - 1], generators)
    # The authors cut fractions off.
    return (np.clip(result, 0, 1) * 255 + 1e-4).astype(np.uint8)


def _draw(generators: Generators, draw: Callable[[np.random.Generator], Any]) -> Array:
    return np.stack([np.asarray(draw(generator), np.float32) for generator in generators])


def _gaussian_noise(images: Array, scale: float, generators: Generators) -> Array:
    return images + scale * _draw(generators, lambda it: it.standard_normal(images.shape[1:]))


def _shot_noise(images: Array, photons: float, generators: Generators) -> Array:
    pairs = zip(generators, images, strict=True)
    return np.stack([(it.poisson(image * photons) / photons).astype(np.float32) for it, image in pairs])


def _impulse_noise(images: Array, amount: float, generators: Generators) -> Array:
    chance = _draw(generators, lambda it: it.random(images.shape[1:]))
    return np.where(chance < amount / 2, 0.0, np.where(chance < amount, 1.0, images))


def _convolve(images: Array, kernel: Array) -> Array:
    """Filter by a square kernel of odd side; the border is reflected without its edge."""
    reach, side = len(kernel) // 2, images.shape[1]
    padded = np.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="reflect")
    result = np.zeros_like(images)
    for (down, across), weight in np.ndenumerate(kernel):
        if weight:
            result += weight * padded[:, down : down + side, across : across + side]
    return result


def _bell(sigma: float, reach: int) -> Array:
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return np.asarray(weights / weights.sum(), np.float32)


def _defocus_blur(images: Array, constants: tuple[float, float], _: Generators) -> Array:
    radius, sigma = constants
    reach = int(radius) + 2
    x, y = np.meshgrid(*[np.arange(-reach, reach + 1)] * 2)
    disk = (x**2 + y**2 <= radius**2).astype(np.float32)
    kernel = _convolve((disk / disk.sum())[None, :, :, None], np.outer(*[_bell(sigma, 1)] * 2))
    return _convolve(images, kernel[0, :, :, 0])


def _glass_blur(images: Array, constants: tuple[float, int, int], generators: Generators) -> Array:
    sigma, delta, rounds = constants
    side, every = images.shape[1], np.arange(len(images))
    soft = np.outer(*[_bell(sigma, max(1, int(4 * sigma + 0.5)))] * 2)
    result = _convolve(images, soft)
    places = range(side - delta, delta, -1)
    steps = (rounds, len(places), len(places), 2)
    moves = np.stack([it.integers(-delta, delta, steps) for it in generators])
    for turn in range(rounds):
        for row, y in enumerate(places):
            for column, x in enumerate(places):
                dx, dy = moves[:, turn, row, column].T
                # The authors mean to exchange two pixels, but their views of one array copy the second.
                result[:, min(y, side - 1), min(x, side - 1)] = result[
                    every, np.clip(y + dy, 0, side - 1), np.clip(x + dx, 0, side - 1)
                ]
    return _convolve(result, soft)


def _smear(images: Array, radius: int, sigma: float, angles: Array) -> Array:
    """Blur along a direction per image, in degrees, by one half of a bell, as ImageMagick does."""
    weights = np.exp(-0.5 * (np.arange(2 * radius + 1) / sigma) ** 2)
    turn = np.deg2rad(angles)
    side = np.arange(images.shape[1])
    every = np.arange(len(images))[:, None, None]
    result = np.zeros_like(images)
    for step, weight in enumerate(weights / weights.sum()):
        across, down = np.ceil(step * np.cos(turn) - 0.5), np.ceil(step * np.sin(turn) - 0.5)
        x = np.clip(side + across.astype(int)[:, None], 0, len(side) - 1)
        y = np.clip(side + down.astype(int)[:, None], 0, len(side) - 1)
        result += np.float32(weight) * images[every, y[:, :, None], x[:, None, :]]
    return result


def _motion_blur(images: Array, constants: tuple[int, float], generators: Generators) -> Array:
    return _smear(images, *constants, _draw(generators, lambda it: it.uniform(-45, 45)))


def _zoomed(images: Array, factor: float) -> Array:
    """Enlarge the middle linearly, and cut off what exceeds the size."""
    side = images.shape[1]
    middle = int(np.ceil(side / factor))
    first = (side - middle) // 2
    size = round(middle * factor)
    trim = (size - side) // 2
    places = np.linspace(0, middle - 1, size)[trim : trim + side]
    low = np.minimum(places.astype(int), middle - 2)
    share = (places - low).astype(np.float32)[:, None]
    weights = np.zeros((side, middle), np.float32)
    np.put_along_axis(weights, low[:, None], 1 - share, axis=1)
    np.put_along_axis(weights, low[:, None] + 1, share, axis=1)
    part = images[:, first : first + middle, first : first + middle]
    rows = weights @ part.reshape(len(part), middle, -1)
    return np.asarray(weights @ rows.reshape(len(part), side, middle, -1))


def _zoom_blur(images: Array, most: int, _: Generators) -> Array:
    factors = [1 + percent / 100 for percent in range(most)]
    return (images + sum(_zoomed(images, factor) for factor in factors)) / (len(factors) + 1)


def _snow(images: Array, constants: tuple[float, ...], generators: Generators) -> Array:
    mean, scale, zoom, least, radius, sigma, kept = constants
    flakes = _draw(generators, lambda it: it.normal(mean, scale, images.shape[1:3]))[..., None]
    flakes = _zoomed(flakes, zoom)
    flakes = np.clip(np.where(flakes < least, 0, flakes), 0, 1)
    flakes = _smear(flakes, int(radius), sigma, _draw(generators, lambda it: it.uniform(-135, -45)))
    grey = images @ np.array([0.299, 0.587, 0.114], np.float32)
    whiter = kept * images + (1 - kept) * np.maximum(images, grey[..., None] * 1.5 + 0.5)
    return np.asarray(whiter + flakes + flakes[:, ::-1, ::-1])


def _fog(images: Array, constants: tuple[float, float], generators: Generators) -> Array:
    strength, decay = constants
    brightest = images.max(axis=(1, 2, 3), keepdims=True)
    side = images.shape[1]
    size = 1 << (side - 1).bit_length()
    fog = _plasma(size, decay, generators)[:, :side, :side, None]
    return np.asarray((images + strength * fog) * brightest / (brightest + strength))


def _plasma(size: int, decay: float, generators: Generators) -> Array:
    """Fractals of 0 to 1 by the diamond-square algorithm, which repeat at their borders."""
    noise = _draw(generators, lambda it: it.uniform(-1, 1, size * size - 1))
    field = np.zeros((len(noise), size, size), np.float32)
    step, wobble, used = size, 100.0, 0

    def mean(total: Array) -> Array:
        nonlocal used
        count = total.shape[1] * total.shape[2]
        used += count
        return np.asarray(total / 4 + wobble**2 * noise[:, used - count : used].reshape(total.shape))

    while step >= 2:
        half = step // 2
        corners = field[:, ::step, ::step]
        sums = corners + np.roll(corners, -1, 1)
        field[:, half::step, half::step] = mean(sums + np.roll(sums, -1, 2))
        centres = field[:, half::step, half::step]
        across = centres + np.roll(centres, 1, 1) + corners + np.roll(corners, -1, 2)
        down = centres + np.roll(centres, 1, 2) + corners + np.roll(corners, -1, 1)
        field[:, ::step, half::step], field[:, half::step, ::step] = mean(across), mean(down)
        step, wobble = half, wobble / decay
    field -= field.min(axis=(1, 2), keepdims=True)
    return np.asarray(field / field.max(axis=(1, 2), keepdims=True))


def _brightness(images: Array, more: float, _: Generators) -> Array:
    # In HSV, a larger value scales all three channels alike; black becomes grey.
    value = images.max(axis=-1, keepdims=True)
    brighter = np.clip(value + more, 0, 1)
    return np.asarray(np.where(value > 0, images * (brighter / np.maximum(value, 1e-6)), brighter))


def _contrast(images: Array, share: float, _: Generators) -> Array:
    mean = images.mean(axis=(1, 2), keepdims=True)
    return np.asarray((images - mean) * share + mean)


def _elastic_transform(images: Array, constants: tuple[float, ...], generators: Generators) -> Array:
    side = images.shape[1]
    strength, sigma, affine = (constant * side for constant in constants)
    centre, arm = side // 2, side // 3
    corners = np.array(
        [[centre + arm, centre + arm], [centre + arm, centre - arm], [centre - arm, centre - arm]], float
    )
    moved = corners + np.stack([it.uniform(-affine, affine, (3, 2)) for it in generators])
    # From the places in the result to those in the image: the inverse of what moves the three corners.
    ones = np.ones((len(images), 3, 1))
    inverse = np.linalg.solve(np.concatenate([moved, ones], axis=2), np.broadcast_to(corners, moved.shape))
    y, x = np.mgrid[:side, :side]
    places = np.einsum("yxi,nij->nyxj", np.stack([x, y, np.ones_like(x)], axis=-1), inverse)
    warped = _sampled(images, places[..., 1], places[..., 0], "reflect")
    if not strength:
        return warped
    moves = _draw(generators, lambda it: it.uniform(-1, 1, (side, side, 2)))
    reach = int(3 * sigma + 0.5)
    bell = _bell(sigma, reach)
    for axis in (1, 2):
        width = [(0, 0)] * 4
        width[axis] = (reach, reach)
        padded = np.pad(moves, width, mode="symmetric")
        windows = np.lib.stride_tricks.sliding_window_view(padded, len(bell), axis=axis)
        moves = windows @ bell
    return _sampled(warped, y + strength * moves[..., 1], x + strength * moves[..., 0], "symmetric")


def _sampled(images: Array, y: Array, x: Array, border: Any) -> Array:
    """Look up pixels at fractional places (n, side, side), linearly between four."""
    side, every = images.shape[1], np.arange(len(images))[:, None, None]
    reach = side // 2
    padded = np.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode=border)
    y, x = (np.clip(place + reach, 0, side + 2 * reach - 2) for place in (y, x))
    top, left = y.astype(int), x.astype(int)
    down, right = ((y - top)[..., None].astype(np.float32), (x - left)[..., None].astype(np.float32))
    upper = padded[every, top, left] * (1 - right) + padded[every, top, left + 1] * right
    lower = padded[every, top + 1, left] * (1 - right) + padded[every, top + 1, left + 1] * right
    return np.asarray(upper * (1 - down) + lower * down)


def _each(images: Array, change: Callable[[Any], Any]) -> Array:
    """Change each image by Pillow."""
    from PIL import Image

    whole = np.rint(images * 255).astype(np.uint8)
    return np.stack([np.asarray(change(Image.fromarray(image)), np.float32) for image in whole]) / 255


def _pixelate(images: Array, share: float, _: Generators) -> Array:
    from PIL import Image

    side, fewer = images.shape[1], int(images.shape[1] * share)
    box = Image.Resampling.BOX
    return _each(images, lambda image: image.resize((fewer, fewer), box).resize((side, side), box))


def _jpeg_compression(images: Array, quality: int, _: Generators) -> Array:
    from PIL import Image

    def compressed(image: Any) -> Any:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return _each(images, compressed)


CORRUPTIONS: dict[str, tuple[Corruption, Sequence[Any]]] = {
    "gaussian_noise": (_gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot_noise": (_shot_noise, (500, 250, 100, 75, 50)),
    "impulse_noise": (_impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "defocus_blur": (_defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))),
    "glass_blur": (_glass_blur, ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))),
    "motion_blur": (_motion_blur, ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))),
    # What np.arange(1, 1.06, 0.01), ... 1.26 give: rounding adds a step to the first two.
    "zoom_blur": (_zoom_blur, (7, 12, 16, 21, 26)),
    "snow": (
        _snow,
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
    ),
    "fog": (_fog, ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))),
    "brightness": (_brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": (_contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "elastic_transform": (
        _elastic_transform,
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    ),
    "pixelate": (_pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
    "jpeg_compression": (_jpeg_compression, (80, 65, 58, 50, 40)),
}
"""By name: the function, and its constants at severities 1 to 5."""
