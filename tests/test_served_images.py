from __future__ import annotations

import contextlib
import io
import struct
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import psutil
import pytest
import tensorflow as tf
from conftest import ROOT
from PIL import Image, ImageOps
from source_files import SRGB, encode, linear_rgb

from skincnn.config import DataConfig
from skincnn.data import preprocess
from skincnn.serving import images
from skincnn.serving.images import (
    apply_orientation,
    convert_file,
    exif_orientation,
    num_pixels,
    read_image,
    read_images,
)
from tfds_ham10000.image_decoding import normalize

CONFIG = DataConfig(image_size=32)
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 5, 3), np.uint8).repeat(8, 0).repeat(8, 1)
IMAGE = Image.fromarray(PIXELS)
OTHER = Image.fromarray(255 - PIXELS)


def exif(value: int, order: str = "<") -> bytes:
    """Returns EXIF data with three tags; the second one is the orientation."""
    tags = Image.Exif()
    tags.endian = order
    tags.update({0x0100: 7, 0x0112: value, 0x0128: 2})
    return tags.tobytes()


FILES = {
    "jpeg": encode(IMAGE, "JPEG", quality=95),
    "progressive": encode(IMAGE, "JPEG", quality=95, progressive=True),
    "gray jpeg": encode(IMAGE.convert("L"), "JPEG", quality=95),
    "cmyk jpeg": encode(IMAGE.convert("CMYK"), "JPEG", quality=95),
    "png": encode(IMAGE, "PNG"),
    "palette png": encode(IMAGE.quantize(64), "PNG"),
    "alpha png": encode(IMAGE.convert("RGBA"), "PNG"),
    "16-bit png": encode(Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257), "PNG"),
    "animated png": encode(IMAGE, "PNG", save_all=True, append_images=[OTHER]),
}
OTHER_FORMATS = {name: encode(IMAGE, name) for name in ("BMP", "GIF", "TIFF", "WEBP")}
UNREADABLE_FILES = {
    **OTHER_FORMATS,
    "empty": b"",
    "text": b"<!DOCTYPE html><html></html>",
    "half": FILES["jpeg"][: len(FILES["jpeg"]) // 2],
    "without end marker": FILES["jpeg"][:-2],
    "half a png": FILES["png"][: len(FILES["png"]) // 2],
    "ten bytes of a jpeg": FILES["jpeg"][:10],
    "ten bytes of a png": FILES["png"][:10],
    "png with negative sizes": FILES["png"].replace(
        struct.pack(">II", 40, 48), b"\xff" * 8
    ),
}
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="6"/>'
CONVERTED = {
    "oriented": encode(IMAGE, "JPEG", quality=95, exif=exif(6)),
    "oriented in XMP": encode(IMAGE, "JPEG", quality=95, xmp=XMP),
    "black and white bmp": encode(IMAGE.convert("1"), "BMP"),
    "animated gif": encode(IMAGE, "GIF", save_all=True, append_images=[OTHER]),
    "16-bit tiff": encode(Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257), "TIFF"),
    "oriented tiff": encode(IMAGE, "TIFF", tiffinfo={0x0112: 6}),
    "sRGB profile": encode(IMAGE, "JPEG", icc_profile=SRGB),
    "linear jpeg": encode(IMAGE, "JPEG", icc_profile=linear_rgb()),
    "linear png": encode(IMAGE, "PNG", icc_profile=linear_rgb()),
    "linear palette png": encode(IMAGE.quantize(64), "PNG", icc_profile=linear_rgb()),
    "profile of another kind": encode(IMAGE.convert("L"), "JPEG", icc_profile=linear_rgb()),
    "damaged profile": encode(IMAGE, "JPEG", icc_profile=b"x" * 200),
}


@pytest.mark.parametrize("name", [*FILES, *CONVERTED, *OTHER_FORMATS])
def test_files_are_read_as_the_builder_stores_them(name: str) -> None:
    content = {**FILES, **CONVERTED, **OTHER_FORMATS}[name]
    converted = convert_file(content)
    expected = preprocess.read_image(normalize(content), CONFIG)
    np.testing.assert_array_equal(read_image(converted, CONFIG), expected)
    if name in FILES:  # which the graph reads without a conversion
        assert (converted is content) == (name != "cmyk jpeg")
        assert num_pixels(content) == 48 * 40
        np.testing.assert_array_equal(read_image(content, CONFIG), expected)


@pytest.mark.parametrize("name", UNREADABLE_FILES)
def test_the_graph_rejects_damaged_files_and_other_formats(name: str) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError):
        read_image(UNREADABLE_FILES[name], CONFIG)


def test_a_large_converted_image_is_read() -> None:
    """The uncompressed copy is larger than the largest file that is read."""
    content = encode(Image.new("RGB", (4000, 3000), (9, 8, 7)), "WEBP", lossless=True)
    converted = convert_file(content)
    assert len(converted) > images.MAX_BYTES
    assert (read_image(converted, CONFIG).numpy() == (9, 8, 7)).all()


def test_image_sizes_of_several_bytes_are_read() -> None:
    for width, height in [(1, 300), (5000, 1), (257, 259)]:
        content = encode(Image.new("RGB", (width, height)), "PNG")
        assert num_pixels(content) == width * height


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("format_name", ["JPEG", "PNG"])
@pytest.mark.parametrize("value", range(1, 9))
def test_orientations_are_applied_as_by_pillow_and_the_builder(
    value: int, format_name: str, order: str
) -> None:
    options = {"quality": 95, "subsampling": 0, "exif": exif(value, order)}
    content = encode(IMAGE, format_name, **options)
    assert exif_orientation(content) == value
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    decoded = preprocess.decode(content)
    np.testing.assert_array_equal(apply_orientation(decoded, value), np.asarray(upright))
    stored = preprocess.read_image(normalize(content), CONFIG)
    np.testing.assert_array_equal(read_image(content, CONFIG), stored)


def test_exif_is_found_after_the_pixels_and_after_other_segments() -> None:
    png = encode(IMAGE.resize((200, 100)), "PNG", exif=exif(6), compress_level=0)
    start = png.index(b"eXIf") - 4
    size = 12 + int.from_bytes(png[start : start + 4], "big")
    moved = png[:start] + png[start + size : -12] + png[start : start + size] + png[-12:]
    assert moved.index(b"eXIf") > images.NUM_FIRST
    assert exif_orientation(moved) == 6
    content = encode(IMAGE, "JPEG", exif=exif(6), icc_profile=b"x" * 3000, comment=b"Exif")
    assert exif_orientation(content) == 6


NUMPY_BEHAVIOR = """
import sys
import tensorflow as tf
from skincnn.config import DataConfig
from skincnn.serving.images import read_images
tf.experimental.numpy.experimental_enable_numpy_behavior()
read = tf.function(lambda contents: read_images(contents, DataConfig(image_size=32)))
batch, _ = read(tf.constant([open(path, "rb").read() for path in sys.argv[2:]]))
tf.io.write_file(sys.argv[1], tf.io.serialize_tensor(batch))
"""


def test_images_are_read_in_the_same_way_under_the_numpy_behavior_of_tensors(
    tmp_path: Path,
) -> None:
    """It cannot be disabled, and changes the comparison and slicing of tensors."""
    contents = [*FILES.values(), encode(IMAGE, "JPEG", exif=exif(6))]
    paths = [tmp_path / str(number) for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    command = [sys.executable, "-c", NUMPY_BEHAVIOR, tmp_path / "batch", *paths]
    subprocess.run(command, cwd=ROOT, check=True)
    batch = tf.io.parse_tensor((tmp_path / "batch").read_bytes(), tf.uint8)
    np.testing.assert_array_equal(batch, read_images(contents, CONFIG)[0])


@pytest.mark.parametrize("length", [0, 12, 30, 40])
def test_a_truncated_tag_is_read_as_by_pillow(length: int) -> None:
    content = encode(IMAGE, "JPEG", exif=exif(6)[:length])
    with warnings.catch_warnings(action="ignore"):
        expected = 1
        with contextlib.suppress(SyntaxError):
            expected = Image.open(io.BytesIO(content)).getexif().get(0x0112, 1)
    assert exif_orientation(content) == expected
    assert read_image(content, CONFIG).shape == (32, 32, 3)


def test_files_without_a_valid_orientation_are_upright() -> None:
    for value in (0, 9, 65535):
        assert exif_orientation(encode(IMAGE, "JPEG", exif=exif(value))) == 1
    assert exif_orientation(b"") == 1
    tag = b"\xff\xd8" + exif(6, ">")
    assert exif_orientation(tag) == 6
    assert exif_orientation(tag[: tag.index(b"\x06")]) == 1
    second = encode(IMAGE, "JPEG", exif=exif(6))
    assert exif_orientation(FILES["jpeg"] + bytes(images.NUM_FIRST) + second) == 1
    assert exif_orientation(b"\x89PNG" + exif(6)) == 1, "pixels, not a tag"


def test_unreadable_files_do_not_affect_the_others() -> None:
    files = [FILES["png"], *UNREADABLE_FILES.values(), FILES["jpeg"]]
    read = tf.function(lambda contents: read_images(contents, CONFIG))
    batch, is_readable = read(tf.constant(files))
    assert is_readable.numpy().tolist() == [True, *[False] * len(UNREADABLE_FILES), True]
    np.testing.assert_array_equal(batch[0], read_image(FILES["png"], CONFIG))
    np.testing.assert_array_equal(batch[-1], read_image(FILES["jpeg"], CONFIG))
    assert not batch[1:-1].numpy().any()


def test_an_empty_batch_is_read() -> None:
    batch, is_readable = read_images(tf.constant([], tf.string), CONFIG)
    assert batch.shape == (0, 32, 32, 3)
    assert is_readable.shape == (0,)


def test_a_decompression_bomb_is_not_decoded() -> None:
    """The PNG file of 48 kB would need 1.2 GB of memory."""
    content = encode(Image.new("1", (20000, 20000)), "PNG")
    assert len(content) < 100_000
    read_images(tf.constant([FILES["png"]]), CONFIG)
    before = psutil.Process().memory_info().rss
    _, is_readable = read_images(tf.constant([content]), CONFIG)
    assert not is_readable.numpy().any()
    assert psutil.Process().memory_info().rss - before < 100e6


def test_a_file_that_is_too_large_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_BYTES", len(FILES["png"]) - 1)
    assert convert_file(FILES["png"]) == images.TOO_LARGE
    monkeypatch.setattr(images, "MAX_GRAPH_BYTES", len(FILES["png"]) - 1)
    with pytest.raises(tf.errors.InvalidArgumentError):
        read_image(FILES["png"], CONFIG)
