from __future__ import annotations

import contextlib
import io
import itertools
import struct
import warnings

import numpy as np
import psutil
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from skincnn.config import DataConfig
from skincnn.data import preprocess
from skincnn.serving import images
from skincnn.serving.images import num_pixels, orientation, read_image, read_images
from tfds_ham10000.image_decoding import normalize

CONFIG = DataConfig(image_size=32)
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 5, 3), np.uint8).repeat(8, 0).repeat(8, 1)
PICTURE = Image.fromarray(PIXELS)


def encode(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def exif(value: int, order: str = "<", kind: int = 3) -> bytes:
    """A directory of three tags, the second of which is the orientation."""
    entries = [(0x0100, 3, 1, 7), (0x0112, kind, 1, value), (0x0131, 3, 1, 9)]
    tiff = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    tiff += struct.pack(f"{order}H", len(entries))
    for entry in entries:
        tiff += struct.pack(f"{order}HHIHxx", *entry)
    return b"Exif\0\0" + tiff + struct.pack(f"{order}I", 0)


KINDS = {
    "jpeg": encode(PICTURE, "JPEG", quality=95),
    "progressive": encode(PICTURE, "JPEG", quality=95, progressive=True),
    "gray jpeg": encode(PICTURE.convert("L"), "JPEG", quality=95),
    "cmyk jpeg": encode(PICTURE.convert("CMYK"), "JPEG", quality=95),
    "png": encode(PICTURE, "PNG"),
    "palette png": encode(PICTURE.quantize(64), "PNG"),
    "alpha png": encode(PICTURE.convert("RGBA"), "PNG"),
    "16-bit png": encode(Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257), "PNG"),
    "gif": encode(PICTURE, "GIF"),
    "bmp": encode(PICTURE, "BMP"),
    "webp": encode(PICTURE, "WEBP", quality=95),
    "lossless webp": encode(PICTURE, "WEBP", lossless=True),
    "alpha webp": encode(PICTURE.convert("RGBA"), "WEBP", lossless=True),
    "webp with a profile": encode(PICTURE, "WEBP", exif=exif(1)),
}
BAD = {
    "empty": b"",
    "text": b"<!DOCTYPE html><html></html>",
    "half": KINDS["jpeg"][: len(KINDS["jpeg"]) // 2],
    "without its end": KINDS["jpeg"][:-2],
    "half a png": KINDS["png"][: len(KINDS["png"]) // 2],
    "ten bytes": KINDS["jpeg"][:10],
    "ten bytes of webp": KINDS["webp"][:10],
    "tiff": encode(PICTURE, "TIFF"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_as_the_builder_stores_it(kind: str) -> None:
    stored = preprocess.read_image(normalize(KINDS[kind]), CONFIG)
    read = read_image(KINDS[kind], CONFIG)
    # TensorFlow's own conversion of CMYK and of chroma is a little another than Pillow's.
    allowed = {"cmyk jpeg": 3.0, "webp": 3.0, "webp with a profile": 3.0}.get(kind, 0.0)
    assert np.abs(np.asarray(read, int) - np.asarray(stored, int)).mean() <= allowed


@pytest.mark.parametrize("kind", KINDS)
def test_the_number_of_pixels_stands_in_the_head(kind: str) -> None:
    content = KINDS[kind]
    assert num_pixels(content) == 48 * 40


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "WEBP", "JPEG"])
def test_long_sides_are_told_apart(kind: str) -> None:
    for width, height in [(1, 300), (5000, 1), (257, 259)]:
        content = encode(Image.new("RGB", (width, height)), kind)
        assert num_pixels(content) == width * height


@pytest.mark.parametrize(
    ("value", "order"), list(itertools.product(range(1, 9), ["<", ">"]))
)
def test_pictures_are_turned_as_pillow_does(value: int, order: str) -> None:
    content = encode(PICTURE, "JPEG", quality=95, subsampling=0, exif=exif(value, order))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert orientation(content) == value
    turned = images.turn(tf.io.decode_jpeg(content, dct_method="INTEGER_ACCURATE"), value)
    np.testing.assert_array_equal(turned, np.asarray(upright))


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize("value", range(1, 9))
def test_other_formats_are_turned_as_the_builder_does(kind: str, value: int) -> None:
    content = encode(PICTURE, kind, exif=exif(value, ">"), lossless=True)
    said = Image.open(io.BytesIO(content)).getexif().get(0x0112, 1)
    assert orientation(content) == said == value
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    built = Image.open(io.BytesIO(normalize(content))).convert("RGB")
    np.testing.assert_array_equal(np.asarray(built), upright)
    np.testing.assert_array_equal(
        read_image(content, CONFIG), read_image(encode(built, "PNG"), CONFIG)
    )


def test_exif_is_found_behind_the_pixels_and_behind_a_mark() -> None:
    png = encode(PICTURE, "PNG", exif=exif(6))
    at = png.index(b"eXIf") - 4
    size = 12 + int.from_bytes(png[at : at + 4], "big")
    moved = png[:at] + png[at + size : -12] + png[at : at + size] + png[-12:]
    assert moved.index(b"IDAT") < moved.index(b"eXIf")
    assert orientation(moved) == 6
    webp = encode(PICTURE, "WEBP", exif=exif(6))
    at = webp.index(b"EXIF")
    size = int.from_bytes(webp[at + 4 : at + 8], "little") + 6
    marked = webp[: at + 4] + size.to_bytes(4, "little") + b"Exif\0\0" + webp[at + 8 :]
    assert orientation(webp) == orientation(marked) == 6


def test_sizes_that_cannot_be_lead_nowhere() -> None:
    for kind in ("PNG", "WEBP", "JPEG"):
        content = encode(PICTURE, kind, exif=exif(6))
        for at in range(2, 60):
            assert 1 <= orientation(content[:at] + b"\xff" * 4 + content[at + 4 :]) <= 8
            assert 1 <= orientation(content[:at]) <= 8
    assert orientation(b"") == 1


@pytest.mark.parametrize("cut", [12, 16, 20, 22, 30, 36, 40, 50])
def test_a_damaged_tag_says_what_pillow_makes_of_it(cut: int) -> None:
    content = encode(PICTURE, "JPEG", exif=exif(6)[:cut])
    with warnings.catch_warnings(action="ignore"):
        said = 1
        with contextlib.suppress(SyntaxError):
            said = Image.open(io.BytesIO(content)).getexif().get(0x0112, 1)
    assert orientation(content) == said
    assert read_image(content, CONFIG).shape == (32, 32, 3)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_there_is_not_says_nothing(value: int) -> None:
    assert orientation(encode(PICTURE, "JPEG", exif=exif(value))) == 1


def test_random_bytes_behind_the_head_of_exif_hurt_nobody() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        noise = b"Exif\0\0" + rng.choice([b"II*\0", b"MM\0*"]) + rng.bytes(40)
        assert 1 <= orientation(encode(PICTURE, "JPEG", exif=noise)) <= 8


def test_exif_is_found_behind_other_segments() -> None:
    content = encode(
        PICTURE, "JPEG", exif=exif(6), icc_profile=b"x" * 3000, comment=b"Exif"
    )
    assert orientation(content) == 6


@pytest.mark.parametrize("bad", BAD)
def test_a_file_that_cannot_be_read_spoils_no_other(bad: str) -> None:
    contents = [KINDS["png"], BAD[bad], KINDS["jpeg"], BAD[bad]]
    images, is_read = tf.function(lambda c: read_images(c, CONFIG))(tf.constant(contents))
    assert is_read.numpy().tolist() == [True, False, True, False]
    np.testing.assert_array_equal(images[0], read_image(KINDS["png"], CONFIG))
    np.testing.assert_array_equal(images[2], read_image(KINDS["jpeg"], CONFIG))
    assert not images[1].numpy().any()


def test_a_batch_of_none_and_one_of_bad_ones() -> None:
    images, is_read = read_images(tf.constant([], tf.string), CONFIG)
    assert images.shape == (0, 32, 32, 3)
    assert is_read.shape == (0,)
    images, is_read = read_images(tf.constant([b"", b""]), CONFIG)
    assert not is_read.numpy().any()


def test_a_small_file_of_a_huge_picture_costs_no_memory() -> None:
    """48 kB of PNG that would take 1.2 GB."""
    content = encode(Image.new("1", (20000, 20000)), "PNG")
    assert len(content) < 100_000
    read_images(tf.constant([KINDS["png"]]), CONFIG)
    before = psutil.Process().memory_info().rss
    _, is_read = read_images(tf.constant([content]), CONFIG)
    assert not is_read.numpy().any()
    assert psutil.Process().memory_info().rss - before < 100e6


def test_a_file_that_is_too_large_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_BYTES", len(KINDS["png"]) - 1)
    with pytest.raises(tf.errors.InvalidArgumentError):
        read_image(KINDS["png"], CONFIG)
