"""Picture files to what a network takes, uint8 (32, 32, 3), red green blue; and to copies for people.

A 32x32 RGB picture arrives untouched, as in training. Others are turned upright, laid over white where
transparent, and scaled down with antialiasing. A file is judged by its content, never by its name.
"""

import contextlib
import importlib
import io
import struct
import threading
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar, get_args

import numpy as np

from cifarcnn.data.cifar10 import CHANNEL_MEAN, Bytes
from cifarcnn.errors import ImageError, reason
from cifarcnn.machine import files

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL import Image

Result = TypeVar("Result")

Resize = Literal["crop", "fit", "squash"]
RESIZES: tuple[Resize, ...] = get_args(Resize)
"""``crop`` takes the largest square in the middle, ``fit`` shows all of the picture on a neutral ground,
``squash`` ignores its proportions."""

DEFAULT_RESIZE: Resize = "squash"
"""The way by which most of the pictures of ``benchmarks/resize.py`` were answered rightly."""

SIDE = 32
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF")
"""What Pillow may open. MPO is the JPEG that many cameras write; PPM covers the whole PNM family."""

HEIC_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"))
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
SUFFIXES = frozenset((
    ".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".jfif", ".jpe", ".jpeg", ".jpg", ".mpo", ".pbm",
    ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
))  # fmt: skip
"""Names by which pictures are found in a directory."""

PHOTOMETRIC, WHITE_IS_ZERO = 262, 0
SAMPLE_FORMAT, UNSIGNED = 339, 1
"""Tags of TIFF that Pillow leaves to its callers, and values of them."""

LARGEST_FILE = 128 << 20
MOST_PIXELS = 50_000_000
"""Decoded pixels. Converting them takes 4 to 30 bytes each, the most for 32-bit samples: up to 1.5 GB."""

LARGE = 8_000_000
"""Pictures of more pixels are decoded one at a time, so that parallel reading stays within memory."""

DAMAGE = (
    *(OSError, SyntaxError, ValueError, TypeError, ArithmeticError, LookupError, AttributeError),
    *(EOFError, RuntimeError, struct.error, zlib.error),
)
"""What Pillow's decoders raise on damaged data, found by feeding them such data."""

_large_picture = threading.Lock()


def read(source: Path | bytes, resize: Resize = DEFAULT_RESIZE) -> Bytes:
    """Read a picture.

    Args:
        source: a file, or the content of one. Of an animation, the first frame counts.
        resize: how a picture of other proportions becomes a square.

    Returns:
        uint8 (32, 32, 3), red green blue.

    Raises:
        ImageError: it is no readable picture; the text says why, and leaves naming the file to the caller.
    """
    return np.asarray(read_framings(source, (resize,))[0])


def read_framings(source: Path | bytes, resizes: Sequence[Resize]) -> Bytes:
    """Read a picture once and make it square in several ways; uint8 (len(resizes), 32, 32, 3)."""

    def squares(picture: "Image.Image") -> Bytes:
        # Three times what is needed leaves the filter enough.
        small = _sparing(picture, lambda it: [_to_square(it, resize) for resize in resizes], 3 * SIDE)
        return np.stack([np.asarray(_upright(square, picture)) for square in small])

    return _decoded(source, squares)


def look(source: Path | bytes, longest: int) -> "Image.Image":
    """Read a picture for people: RGB, upright, over white, at its own proportions.

    A side longer than ``longest`` pixels is scaled down. Raises ImageError as ``read``.
    """

    def scaled_down(picture: "Image.Image") -> "Image.Image":
        scale = min(1, longest / max(picture.size))
        return _scaled(picture, (max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))

    return _decoded(source, lambda picture: _upright(_sparing(picture, scaled_down, longest), picture))


def content(path: Path) -> bytes:
    """Read a regular file within the size limit; ImageError for anything else, which could block."""
    try:
        with files.open_regular(path) as file:
            data = file.read(LARGEST_FILE + 1)
    except files.NotRegularError as problem:
        raise ImageError(f"{problem}; expected a picture") from problem
    except OSError as problem:
        raise ImageError(reason(problem).lower()) from problem
    except ValueError as problem:
        raise ImageError("not a valid file name") from problem
    return checked_size(data)


def checked_size(data: bytes) -> bytes:
    """Return data unless it exceeds ``LARGEST_FILE``, of which one byte more suffices to tell."""
    if len(data) > LARGEST_FILE:
        raise ImageError(f"the file is larger than {LARGEST_FILE >> 20} MiB")
    return data


def _decoded(source: Path | bytes, use: Callable[["Image.Image"], Result]) -> Result:
    """Open a picture, and turn whatever its decoding may raise into one line."""
    from PIL import Image, UnidentifiedImageError

    data = source if isinstance(source, bytes) else content(source)
    if not data:
        raise ImageError("the file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=_formats(data)) as picture:
            return use(picture)
    except UnidentifiedImageError as problem:
        if data.startswith(TIFF_STARTS):
            raise ImageError(
                "a TIFF that is damaged or of a kind that cannot be decoded; save it as RGB or grey of 8 bits"
            ) from problem
        raise ImageError(
            "not a picture of a known format (PNG, JPEG, WebP, GIF, BMP, TIFF, ...)"
        ) from problem
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as problem:
        raise ImageError(f"the picture is larger than {MOST_PIXELS // 1_000_000} megapixels") from problem
    except MemoryError as problem:
        raise ImageError("not enough memory to decode the picture") from problem
    except DAMAGE as problem:
        raise ImageError(f"the picture is damaged or cut short: {reason(problem)[:120]}") from problem


def _formats(data: bytes) -> tuple[str, ...]:
    """Name the allowed formats that this Pillow was built with, or HEIF where the first box says so."""
    from PIL import Image

    if data[4:8] == b"ftyp" and HEIC_BRANDS.intersection(data[at : at + 4] for at in range(8, 64, 4)):
        try:
            importlib.import_module("pillow_heif").register_heif_opener()
        except ImportError as problem:
            raise ImageError(
                "a HEIC picture; reading these takes one more package: pip install pillow-heif"
            ) from problem
        return ("HEIF",)
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _sparing(picture: "Image.Image", scale: Callable[["Image.Image"], Result], needed: int) -> Result:
    """Decode a picture within the size limit and scale it down, large ones one at a time."""
    if picture.width * picture.height > MOST_PIXELS:
        raise ImageError(
            f"the picture has {picture.width}x{picture.height} pixels; at most "
            f"{MOST_PIXELS // 1_000_000} megapixels are decoded"
        )
    # A JPEG decodes faster at a fraction of its size.
    picture.draft(None, (needed, needed))
    with _large_picture if picture.width * picture.height > LARGE else contextlib.nullcontext():
        return scale(_eight_bit(picture))


def _eight_bit(picture: "Image.Image") -> "Image.Image":
    """Convert any kind of picture to RGB, or to RGBA where it is transparent."""
    from PIL import Image

    key = picture.info.get("transparency")
    # Pillow keeps the upper 8 bits of a colour's samples, but all 16 of the one that is transparent.
    if key and [tile.args for tile in getattr(picture, "tile", ())] == ["RGB;16B"]:
        picture.info["transparency"] = tuple(sample >> 8 for sample in key)
    is_negative = (
        picture.format == "TIFF" and getattr(picture, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO
    )
    picture.load()
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in ("PPM", "PNG")):
        samples = np.asarray(picture)
        grey = samples.astype(np.float32) / 257
        grey = 255 - grey if is_negative else grey
        shown = Image.fromarray(np.clip(grey + 0.5, 0, 255).astype(np.uint8)).convert("RGB")
        if isinstance(key, int):
            shown.putalpha(Image.fromarray(np.where(samples == key, 0, 255).astype(np.uint8)))
        return shown
    if picture.mode in ("I", "F"):
        grey = _of_32_bits(picture)
        grey = 255 - grey if is_negative else grey
        return Image.fromarray((grey + 0.5).astype(np.uint8)).convert("RGB")
    return picture.convert("RGBA" if picture.has_transparency_data else "RGB")


def _of_32_bits(picture: "Image.Image") -> "npt.NDArray[np.float64]":
    """Bring grey samples of 32 bits to 0 to 255."""
    samples = np.asarray(picture)
    if picture.format == "TIFF" and picture.mode == "I":
        formats = getattr(picture, "tag_v2", {}).get(SAMPLE_FORMAT, (UNSIGNED,))
        if formats == (UNSIGNED,) and (samples.view(np.uint32) >= 1 << 24).any():
            # They use the range of their type.
            return samples.view(np.uint32) / (2**32 - 1) * 255
    # Others have no agreed white: what the picture itself spans becomes black to white.
    values = np.nan_to_num(samples.astype(np.float64), posinf=0, neginf=0)
    low, span = values.min(), np.ptp(values)
    return (values - low) / span * 255 if np.isfinite(span) and span > 0 else np.zeros_like(values)


def _to_square(picture: "Image.Image", resize: Resize) -> "Image.Image":
    """Scale an RGB or RGBA picture to 32x32 RGB, over white."""
    from PIL import Image

    left, top, width, height = part_seen(picture.size, resize)
    if resize == "crop":
        picture = picture.crop((left, top, left + width, top + height))
    across, down, *size = place_in_fit(picture.size) if resize == "fit" else (0, 0, SIDE, SIDE)
    picture = _scaled(picture, (size[0], size[1]))
    if picture.size != (SIDE, SIDE):
        # The mean colour of CIFAR-10 is what a network that standardises its input sees as nothing.
        red, green, blue = (round(255 * mean) for mean in CHANNEL_MEAN)
        ground = Image.new("RGB", (SIDE, SIDE), (red, green, blue))
        ground.paste(picture, (across, down))
        picture = ground
    return picture


def part_seen(size: tuple[int, int], resize: Resize) -> tuple[int, int, int, int]:
    """Return left, top, width and height of what of an upright picture of this size becomes 32x32 pixels."""
    width, height = size
    if resize != "crop":
        return 0, 0, width, height
    side = min(width, height)
    return (width - side) // 2, (height - side) // 2, side, side


def place_in_fit(size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Say where in the 32x32 pixels ``fit`` puts a picture of this size: left, top, width and height."""
    width, height = (max(1, round(SIDE * length / max(size))) for length in size)
    return (SIDE - width) // 2, (SIDE - height) // 2, width, height


def _scaled(picture: "Image.Image", size: tuple[int, int]) -> "Image.Image":
    """Scale an RGB or RGBA picture, and lay it over white."""
    from PIL import Image

    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    if picture.mode == "RGBA":
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture).convert("RGB")
    return picture


def _upright(small: "Image.Image", picture: "Image.Image") -> "Image.Image":
    """Turn a scaled picture as the camera's orientation tag asks: cheaper than turning the full one."""
    from PIL import ExifTags, Image

    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    try:
        turn = turns.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except (SyntaxError, ValueError, TypeError, OSError, LookupError, struct.error):
        # The pixels were readable; a damaged tag is no reason to refuse them.
        turn = None
    return small if turn is None else small.transpose(turn)
