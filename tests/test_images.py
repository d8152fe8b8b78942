"""Pictures of every kind become 32x32 RGB, or one line that says why not."""

import io
import os
import struct
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, features

from cifarcnn.data import images
from cifarcnn.errors import ImageError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # as the module itself sets it

ROTATED_270, RED, BLUE, WHITE = 6, (255, 0, 0), (0, 0, 255), (255, 255, 255)


def noise(height: int = 32, width: int = 32, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Random pixels."""
    shape = (height, width, channels) if channels else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def halves(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """A picture whose left half is red and whose right half is blue."""
    picture = Image.new("RGB", (width, height), RED)
    picture.paste(BLUE, (width // 2, 0, width, height))
    return picture.convert(mode)


def stored(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    """The content of a picture file."""
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
@pytest.mark.parametrize("resize", images.RESIZES)
def test_32x32_is_untouched(form: str, resize: images.Resize, tmp_path: Path) -> None:
    """Pixels of the network's own size arrive as they are, from a file and from bytes."""
    pixels = noise()
    options = {"lossless": True} if form == "WEBP" else {}
    data = stored(Image.fromarray(pixels), form, **options)
    (tmp_path / "misnamed.txt").write_bytes(data)
    for source in (data, tmp_path / "misnamed.txt"):
        result = images.read(source, resize)
        assert result.dtype == np.uint8
        np.testing.assert_array_equal(result, pixels)


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "GIF", "AVIF"])
@pytest.mark.parametrize("side", [32, 33, 400, 1500])
def test_lossy_formats_and_sizes(form: str, side: int) -> None:
    """A picture keeps what it shows through every format and scale."""
    if form == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    result = images.read(stored(halves(side, side), form)).astype(int)
    assert result.shape == (32, 32, 3)
    assert np.abs(result[:, :13] - RED).max() < 30
    assert np.abs(result[:, 19:] - BLUE).max() < 30


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I;16", "F"]
)
def test_every_kind_of_pixel(mode: str) -> None:
    """Whatever the samples are, dark stays dark and light stays light."""
    ramp = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (64, 1))
    if mode == "I;16":
        picture = Image.fromarray(ramp.astype(np.uint16) * 257)
    elif mode == "F":
        picture = Image.fromarray(ramp.astype(np.float32) / 255)
    elif mode in ("PA", "HSV", "LAB"):
        picture = Image.merge("RGB", [Image.fromarray(ramp)] * 3)
    else:
        picture = Image.merge("RGB", [Image.fromarray(ramp)] * 3).convert(mode)
    form = {"CMYK": "JPEG", "YCbCr": "JPEG", "F": "TIFF"}.get(mode, "PNG")
    result = images.read(stored(picture, form)).astype(int)
    assert result[:, :3].mean() < 25
    assert result[:, -3:].mean() > 230
    if mode not in ("1", "P"):  # these are dithered
        np.testing.assert_allclose(result.mean(axis=(0, 2)), np.linspace(4, 251, 32), atol=6)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_keeps_its_scale(form: str) -> None:
    """Samples of 16 bits are divided, not cut off, and a dark picture is not brightened."""
    grey = np.full((32, 32), 40 * 257, np.uint16)
    assert (images.read(stored(Image.fromarray(grey), form)) == 40).all()


def tiff(samples: np.ndarray, photometric: int, sample_format: int = 1) -> bytes:
    """A grey TIFF as Pillow writes none: of any integers, with white or black as zero."""
    height, width = samples.shape
    bits = 8 * samples.dtype.itemsize
    at = 8 + 2 + 10 * 12 + 4
    entries = [
        *((256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, at), (277, 1)),
        *((278, height), (279, samples.nbytes), (339, sample_format)),
    ]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4) + samples.tobytes()


GREY = np.arange(32 * 32, dtype=np.uint8).reshape(32, 32)


@pytest.mark.parametrize(
    ("kind", "photometric"), [("uint8", 0), ("uint8", 1), ("uint16", 0), ("uint16", 1), ("uint32", 1)]
)
def test_unsigned_samples_of_tiff_keep_their_scale(kind: str, photometric: int) -> None:
    """Those beyond half of 32 bits are no negative numbers, and white may be zero."""
    scale = np.iinfo(kind).max // 255
    # A quarter of the range is missing, which would be stretched if nothing told where it ends.
    grey = GREY // 4 * 3
    samples = (grey if photometric else 255 - grey).astype(kind) * np.array(scale, kind)
    result = images.read(tiff(samples, photometric))
    np.testing.assert_array_equal(result, np.repeat(grey[..., np.newaxis], 3, axis=2))


@pytest.mark.parametrize(("kind", "sample_format"), [("int32", 2), ("uint32", 1)])
def test_small_samples_of_32_bits_are_stretched(kind: str, sample_format: int) -> None:
    """Where no sample tells of the type's whole range, what the picture spans becomes black to white."""
    result = images.read(tiff(GREY.astype(kind) * 2, 1, sample_format))
    np.testing.assert_array_equal(result[..., 0], GREY)


def test_a_tiff_of_another_kind_is_told_from_no_picture() -> None:
    """Pillow knows no picture in it, and still it is one."""
    with pytest.raises(ImageError, match="a TIFF that is damaged or of a kind that cannot be decoded; save"):
        images.read(tiff(np.zeros((8, 8), np.uint64), 1))


def test_flat_and_infinite_samples_are_black() -> None:
    """A float picture that spans nothing, or holds no numbers, divides by nothing."""
    for value in (7.0, np.nan, np.inf):
        flat = np.full((40, 40), value, np.float32)
        assert (images.read(stored(Image.fromarray(flat), "TIFF")) == 0).all()


def test_transparency_lies_over_white() -> None:
    """Alpha, a transparent palette entry and a transparent grey level all show white."""
    clear = Image.new("RGBA", (50, 50), (255, 0, 0, 0))
    assert (images.read(stored(clear)) == WHITE).all()
    half = Image.new("RGBA", (50, 50), (0, 0, 0, 128))
    assert (np.abs(images.read(stored(half)).astype(int) - 127) <= 1).all()
    assert (images.read(stored(Image.new("P", (9, 9), 0), "PNG", transparency=0)) == WHITE).all()
    assert (images.read(stored(Image.new("L", (9, 9), 3), "PNG", transparency=3)) == WHITE).all()


@pytest.mark.parametrize("key", [(1000,), (1000, 20000, 65535), (1000, 20000, 0)])
def test_a_transparent_colour_of_16_bits_lies_over_white(key: tuple[int, ...]) -> None:
    """Samples that equal it show white, others themselves; in grey and in colour."""
    other = [40 * 257] * len(key)
    samples = np.array([[key] * 16 + [other] * 16] * 32, ">u2")
    result = images.read(png_of_16_bits(samples, key))
    assert (result[:, :16] == WHITE).all()
    assert (result[:, 16:] == 40).all()


def png_of_16_bits(samples: np.ndarray, key: tuple[int, ...]) -> bytes:
    """A PNG as Pillow writes none in colour: (height, width, 1 or 3), and the colour that is transparent."""
    height, width, channels = samples.shape
    header = struct.pack(">IIBBBBB", width, height, 16, 0 if channels == 1 else 2, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in samples))
    chunks = {b"IHDR": header, b"tRNS": struct.pack(f">{channels}H", *key), b"IDAT": rows, b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, data) for name, data in chunks.items())


def test_hidden_colours_do_not_bleed() -> None:
    """What is fully transparent has no colour to give to its neighbours."""
    picture = Image.new("RGBA", (256, 256), (0, 255, 0, 0))
    picture.paste((255, 0, 0, 255), (0, 0, 128, 256))
    green_above_red_or_white = images.read(stored(picture)).astype(int) @ [-1, 1, 0]
    assert green_above_red_or_white.max() <= 1


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("side", [32, 300])
def test_cameras_orientation_is_followed(form: str, side: int) -> None:
    """A picture that a camera stored on its side is turned upright."""
    exif = Image.Exif()
    exif[0x0112] = ROTATED_270
    result = images.read(stored(halves(side, side), form, exif=exif)).astype(int)
    assert np.abs(result[:13] - RED).max() < 40
    assert np.abs(result[19:] - BLUE).max() < 40


@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_orientations_match_pillows_own(orientation: int) -> None:
    """Each of the eight tags turns as Pillow turns."""
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    data = stored(Image.fromarray(noise()), "PNG", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    np.testing.assert_array_equal(images.read(data), expected)


def test_the_first_frame_counts() -> None:
    """Of an animation, the first frame is shown."""
    frames = [Image.new("RGB", (40, 40), colour) for colour in (RED, BLUE)]
    for form in ("GIF", "PNG", "WEBP", "TIFF"):
        data = stored(frames[0], form, save_all=True, append_images=frames[1:])
        assert np.abs(images.read(data).astype(int) - RED).max() < 10, form


def test_crop_fit_and_squash() -> None:
    """Crop drops the sides, fit shows them on neutral ground, squash presses them in."""
    wide = Image.new("RGB", (300, 100), RED)
    wide.paste(BLUE, (100, 0, 200, 100))
    data = stored(wide)
    assert np.abs(images.read(data, "crop").astype(int) - BLUE).max() < 5
    squashed = images.read(data, "squash").astype(int)
    assert np.abs(squashed[:, :9] - RED).max() < 5
    assert np.abs(squashed[:, 13:19] - BLUE).max() < 5
    fitted = images.read(data, "fit").astype(int)
    assert (fitted[:10] == fitted[0, 0]).all()
    assert (fitted[0, 0] == (125, 123, 114)).all()
    assert np.abs(fitted[12:20, :9] - RED).max() < 5
    assert np.abs(fitted[12:20, 13:19] - BLUE).max() < 5


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (2, 3), (31, 33)])
@pytest.mark.parametrize("resize", images.RESIZES)
def test_tiny_and_thin_pictures(size: tuple[int, int], resize: images.Resize) -> None:
    """One pixel is a picture too."""
    result = images.read(stored(Image.new("RGB", size, RED)), resize)
    assert result.shape == (32, 32, 3)
    assert (result == RED).all(axis=2).any()


def test_scaling_down_does_not_alias() -> None:
    """A fine chequerboard becomes its mean, not a pattern."""
    board = ((np.indices((640, 640)).sum(axis=0) % 2) * 255).astype(np.uint8)
    result = images.read(stored(Image.fromarray(board))).astype(int)
    assert np.abs(result - 127).max() <= 3


def chunk(kind: bytes, content: bytes) -> bytes:
    """A part of a PNG file."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb(side: int) -> bytes:
    """A small PNG that declares a huge picture."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1 << 20))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"hello, I am text", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        (stored(Image.new("RGB", (9, 9)), "ICO"), "not a picture"),
        (stored(Image.fromarray(noise(90, 90)))[:9000], "damaged or cut short"),
        (stored(Image.fromarray(noise(90, 90)), "JPEG")[:900], "damaged or cut short"),
        (bomb(7_500), "7500x7500 pixels; at most 50 megapixels"),
        (bomb(10_000), "larger than 50 megapixels"),
        (bomb(60_000), "larger than 50 megapixels"),
    ],
)
def test_unreadable_content_says_why(data: bytes, reason: str) -> None:
    """Each kind of bad file has its own one-line reason."""
    with pytest.raises(ImageError, match=reason) as caught:
        images.read(data)
    assert str(caught.value).isprintable()


def test_special_files_are_refused_at_once(tmp_path: Path) -> None:
    """A FIFO that nobody writes to, a device, a directory, a link to itself: refused without waiting."""
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    reasons = {
        tmp_path / "fifo.png": "not a regular file",
        Path("/dev/zero"): "not a regular file",
        tmp_path: "is a directory",
        tmp_path / "loop.png": "symbolic links",
        tmp_path / "gone.png": "no such file",
        tmp_path / ("a" * 300): "name too long",
        Path("a\0b.png"): "not a valid file name",
        Path("\ud800.png"): "not a valid file name",
    }
    for path, reason in reasons.items():
        with pytest.raises(ImageError, match=reason):
            images.read(path)


def test_unreadable_files_say_so(tmp_path: Path) -> None:
    """Missing permission is named."""
    locked = tmp_path / "locked.png"
    locked.write_bytes(stored(halves(9, 9)))
    locked.chmod(0)
    if os.access(locked, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(ImageError, match="permission denied"):
        images.read(locked)


def test_endless_files_are_not_read_whole(tmp_path: Path) -> None:
    """A sparse file of many gigabytes costs neither memory nor time."""
    with open(tmp_path / "sparse.png", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ImageError, match="larger than 128 MiB"):
        images.read(tmp_path / "sparse.png")


def test_pictures_are_read_in_parallel() -> None:
    """Threads get the pictures they asked for."""
    sources = [stored(Image.fromarray(noise(seed=seed))) for seed in range(40)]
    with ThreadPoolExecutor(8) as pool:
        for seed, result in enumerate(pool.map(images.read, sources)):
            np.testing.assert_array_equal(result, noise(seed=seed))


def samples() -> list[bytes]:
    """A real file of each format, with the structures that decoders trip over."""
    photo = Image.fromarray(noise(70, 90)).resize((180, 140))
    exif = Image.Exif()
    exif[0x0112] = ROTATED_270
    forms = [name for name in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM") if name in Image.SAVE]
    found = [stored(photo, form) for form in forms]
    found += [
        stored(photo, "JPEG", progressive=True, exif=exif),
        stored(photo.convert("CMYK"), "JPEG"),
        stored(photo.convert("RGBA"), "PNG"),
        stored(photo.convert("P"), "PNG", transparency=0),
        stored(photo, "GIF", save_all=True, append_images=[photo]),
        *(stored(photo, "TIFF", compression=packing) for packing in ("tiff_lzw", "tiff_deflate", "jpeg")),
    ]
    return found + ([stored(photo, "AVIF")] if features.check("avif") else [])


SAMPLES = samples()
MUTATIONS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255), st.booleans()), min_size=1, max_size=8)
QUICK = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))


def outcome(data: bytes, resize: images.Resize) -> np.ndarray | str:
    """The pixels, or the reason why there are none."""
    try:
        return images.read(data, resize)
    except ImageError as problem:
        return str(problem)


def check(data: bytes, resize: images.Resize) -> None:
    """Anything ends in an image of the right kind or in one line."""
    result = outcome(data, resize)
    if isinstance(result, str):
        assert result
        assert "\n" not in result
    else:
        assert result.shape == (32, 32, 3)
        assert result.dtype == np.uint8


def mutated(sample: int, mutations: list[tuple[float, int, bool]]) -> bytes:
    """A real file with bytes replaced, most of them near its start, and pieces cut out."""
    data = bytearray(SAMPLES[sample])
    for place, value, cut in mutations:
        at = int(place**3 * (len(data) - 1))
        if cut:
            del data[at : at + value]
        elif data:
            data[at] = value
    return bytes(data)


@QUICK
@given(data=st.binary(max_size=400), resize=st.sampled_from(images.RESIZES))
def test_random_bytes(data: bytes, resize: images.Resize) -> None:
    """Bytes that mean nothing are refused in one line."""
    check(data, resize)


@QUICK
@given(sample=st.integers(0, len(SAMPLES) - 1), mutations=MUTATIONS, resize=st.sampled_from(images.RESIZES))
def test_mutated_pictures(
    sample: int, mutations: list[tuple[float, int, bool]], resize: images.Resize
) -> None:
    """Damaged pictures are read as far as they can be, or refused in one line."""
    check(mutated(sample, mutations), resize)


@pytest.mark.slow
@settings(QUICK, max_examples=5_000)
@given(sample=st.integers(0, len(SAMPLES) - 1), mutations=MUTATIONS, resize=st.sampled_from(images.RESIZES))
def test_thousands_of_mutated_pictures(
    sample: int, mutations: list[tuple[float, int, bool]], resize: images.Resize
) -> None:
    """The same, at length."""
    check(mutated(sample, mutations), resize)


@pytest.mark.parametrize("orientation", [1, ROTATED_270])
def test_look_keeps_proportions(orientation: int) -> None:
    """A copy for people is upright, over white, at most so large, and never enlarged."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    clear = halves(400, 100, "RGBA")
    clear.putalpha(0)
    large, small = (images.look(stored(halves(400, 100), exif=exif), longest) for longest in (80, 1000))
    upright = (0, 1) if orientation == 1 else (1, 0)
    assert (large.size[upright[0]], large.size[upright[1]]) == (80, 20)
    assert (small.size[upright[0]], small.size[upright[1]]) == (400, 100)
    assert small.getpixel((0, 0)) == RED
    assert small.getpixel((small.width - 1, small.height - 1)) == BLUE
    assert images.look(stored(clear), 50).getpixel((5, 5)) == WHITE


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
def test_look_at_thin_pictures(size: tuple[int, int]) -> None:
    """A line of pixels stays a line."""
    found = images.look(stored(Image.new("RGB", size, RED)), 100)
    assert max(found.size) <= 100
    assert found.getpixel((0, 0)) == RED


def heic() -> bytes:
    """A HEIC file, red on its left half, marked as stored on its side."""
    heif = pytest.importorskip("pillow_heif")
    exif = Image.Exif()
    exif[0x0112] = ROTATED_270
    buffer = io.BytesIO()
    heif.from_pillow(halves(128, 64)).save(buffer, quality=90, exif=exif.tobytes())
    return buffer.getvalue()


def test_heic_is_read_where_the_extra_is_installed() -> None:
    """A telephone's picture is read like any other, and turned upright once."""
    data = heic()
    found = images.look(data, 500)
    assert found.size == (64, 128)
    result = images.read(data).astype(int)
    assert np.abs(result[:13] - RED).max() < 60
    assert np.abs(result[19:] - BLUE).max() < 60
    for cut in (40, len(data) // 2, len(data) - 100):
        with pytest.raises(ImageError):
            images.read(data[:cut])


def test_heic_without_the_extra_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """What to install is said."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"HEIC picture; .* pip install pillow-heif"):
        images.read(b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(100))
