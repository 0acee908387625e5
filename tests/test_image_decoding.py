"""Stored images, compared with TensorFlow's decoder where it supports the format."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from PIL import Image, ImageFile
from PIL.PngImagePlugin import PngImageFile, PngInfo
from source_files import SIZE, SRGB, encode, jpeg, linear_rgb, make_image

from tfds_ham10000 import image_files
from tfds_ham10000.image_decoding import CheckedImages, normalize, require_valid
from tfds_ham10000.image_files import ImageFiles
from tfds_ham10000.records import SourceError

Pixels = npt.NDArray[np.uint8]


def pixels(content: bytes) -> Pixels:
    with Image.open(io.BytesIO(content)) as image:
        assert image.mode == "RGB"
        return np.asarray(image)


def decode_with_tensorflow(content: bytes) -> Pixels:
    if content.startswith(b"\xff\xd8"):
        options = {"channels": 3, "dct_method": "INTEGER_ACCURATE"}
        return np.asarray(tf.io.decode_jpeg(content, **options))
    return np.asarray(tf.io.decode_image(content, channels=3, expand_animations=False))


def gray_16_bit() -> bytes:
    ramp = np.linspace(0, 65535, SIZE[0] * SIZE[1]).reshape(SIZE[::-1]).astype(np.uint16)
    return encode(Image.fromarray(ramp), "PNG")


def rgb_16_bit() -> bytes:
    """Builds the three chunks by hand, because Pillow cannot write this format."""

    def chunk(name: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + checksum

    wide = np.random.default_rng(0).integers(0, 65536, (30, 40, 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in wide)
    header = struct.pack(">IIBBBBB", 40, 30, 16, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def with_alpha() -> Image.Image:
    image = make_image().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(SIZE))
    return image


def transparent_palette() -> bytes:
    return encode(make_image().quantize(16), "PNG", transparency=bytes(range(16)))


FORMATS: dict[str, Callable[[], bytes]] = {
    "gray JPEG": lambda: encode(make_image().convert("L"), "JPEG"),
    "PNG": lambda: encode(make_image(), "PNG"),
    "gray PNG": lambda: encode(make_image().convert("L"), "PNG"),
    "black and white PNG": lambda: encode(make_image().convert("1"), "PNG"),
    "gray PNG with alpha": lambda: encode(with_alpha().convert("LA"), "PNG"),
    "16-bit gray PNG": gray_16_bit,
    "16-bit RGB PNG": rgb_16_bit,
    "PNG with alpha": lambda: encode(with_alpha(), "PNG"),
    "palette PNG": lambda: encode(make_image().quantize(16), "PNG"),
    "palette PNG with alpha": transparent_palette,
    "BMP": lambda: encode(make_image(), "BMP"),
    "GIF": lambda: encode(make_image(), "GIF"),
    "animated GIF": lambda: encode(
        make_image(), "GIF", save_all=True, append_images=[make_image(1)]
    ),
    "lossless WebP": lambda: encode(make_image(), "WEBP", lossless=True),
}


@pytest.mark.parametrize("name", FORMATS)
def test_other_formats_become_rgb_as_in_tensorflow(name: str) -> None:
    content = FORMATS[name]()
    inspected: list[Pixels] = []
    stored = normalize(content, inspect=lambda image: inspected.append(np.asarray(image)))
    assert stored.startswith(b"\x89PNG")
    np.testing.assert_array_equal(pixels(stored), decode_with_tensorflow(content))
    np.testing.assert_array_equal(pixels(stored), inspected[0])
    # `decode_jpeg` also reads PNG files.
    np.testing.assert_array_equal(tf.io.decode_jpeg(stored, channels=3), pixels(stored))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_an_rgb_jpeg_is_stored_unchanged(options: dict[str, Any]) -> None:
    content = encode(make_image(), "JPEG", **options)
    assert normalize(content) is content
    assert normalize(content, longest_side=max(SIZE)) is content


def test_cmyk_becomes_rgb() -> None:
    color = Image.new("RGB", SIZE, (200, 120, 90))
    stored = pixels(normalize(encode(color.convert("CMYK"), "JPEG", quality=100)))
    np.testing.assert_allclose(stored, np.asarray(color), atol=2)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = make_image()
    methods = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,  # the inverse of the rotation that EXIF specifies
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    method = methods.get(orientation)
    stored_as = upright if method is None else upright.transpose(method)
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(stored_as, "JPEG", quality=100, subsampling=0, exif=exif)
    stored = normalize(content)
    assert (stored is content) == (orientation == 1)
    difference = pixels(stored).astype(int) - np.asarray(upright, int)
    assert np.abs(difference).mean() < 2


def test_a_damaged_exif_block_is_ignored() -> None:
    content = encode(make_image(), "JPEG", exif=b"Exif\0\0no tags at all")
    assert normalize(content) is content


@pytest.mark.parametrize("size", [(400, 300), (300, 400), (300, 300)])
def test_a_large_image_is_downsized_with_antialiasing(size: tuple[int, int]) -> None:
    content = jpeg(3, size)
    stored = normalize(content, longest_side=100)
    assert stored.startswith(b"\xff\xd8")
    with Image.open(io.BytesIO(stored)) as image:
        assert max(image.size) == 100
        assert image.size[0] * size[1] == pytest.approx(image.size[1] * size[0], rel=0.01)
        assert image.layer[0][1:3] == (1, 1)  # type: ignore[attr-defined]  # 4:4:4
        small = np.asarray(image, int)
    with Image.open(io.BytesIO(content)) as image:
        expected = np.asarray(image.resize(small.shape[1::-1], Image.Resampling.BOX), int)
    assert np.abs(small - expected).mean() < 2


def test_fine_stripes_become_gray_without_aliasing() -> None:
    stripes = np.zeros((300, 400, 3), np.uint8)
    stripes[:, ::2] = 255
    stored = normalize(encode(Image.fromarray(stripes), "PNG"), longest_side=128)
    assert np.abs(pixels(stored)[:, 4:-4].astype(int) - 127).max() < 40


TEXT = PngInfo()
TEXT.add_text("x", " " * 2**21, zip=True)
FAULTS: dict[str, tuple[bytes, str]] = {
    "truncated to half": (jpeg()[: len(jpeg()) // 2], "cannot be decoded"),
    "without its last two bytes": (jpeg()[:-2], "cannot be decoded"),
    "a hundred bytes": (jpeg()[:100], "cannot be decoded|not a JPEG"),
    "empty": (b"", "not a JPEG/PNG/WEBP/BMP/GIF/TIFF file"),
    "an HTML page": (b"<!DOCTYPE html><html>403</html>", "not a JPEG"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\n", "Run: git lfs pull"),
    "a truncated TIFF": (encode(make_image(), "TIFF")[:-300], "cannot be decoded"),
    "a TIFF with 32 bits": (encode(make_image().convert("F"), "TIFF"), "8 or 16 bits"),
    "a truncated PNG": (encode(make_image(), "PNG")[:-300], "cannot be decoded"),
    "a PNG with too much text": (
        encode(make_image(), "PNG", pnginfo=TEXT),
        r"decoded \(the PNG file has too much text or metadata; save it again",
    ),
    "a truncated WebP": (encode(make_image(), "WEBP")[:-50], "cannot be|not a JPEG"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_undecodable_files_are_rejected(fault: str) -> None:
    content, message = FAULTS[fault]
    with pytest.raises(SourceError, match=message):
        normalize(content)


def test_an_image_with_too_many_pixels_is_rejected_before_decoding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bomb = encode(Image.new("1", (20_000, 20_000)), "PNG")
    assert len(bomb) < 60_000
    large = encode_header(10_000, 5_001)
    monkeypatch.setattr(PngImageFile, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(SourceError, match=r"^too many pixels .expected at most 50000000.$"):
        normalize(bomb)
    with pytest.raises(SourceError, match="10000x5001, expected at most 50000000 pixels"):
        normalize(large)


def encode_header(width: int, height: int) -> bytes:
    """Returns a PNG file with a wrong size in its header."""
    content = bytearray(encode(make_image(), "PNG"))
    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


def test_a_file_with_too_many_bytes_is_rejected_before_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg())
    monkeypatch.setattr(image_files, "MAX_BYTES", 10)
    with pytest.raises(SourceError, match=f"{len(jpeg())} bytes, expected at most 10"):
        ImageFiles([tmp_path]).read("a")


def test_images_are_converted_correctly_by_several_threads(tmp_path: Path) -> None:
    """The threads share one temporary file."""
    for number in range(60):
        format = ("JPEG", "PNG", "WEBP")[number % 3]
        content = encode(make_image(number), format)
        (tmp_path / f"{number}.{format.lower()}").write_bytes(content)
    (tmp_path / "60.jpg").write_bytes(b"not an image")
    files = ImageFiles([tmp_path])
    ids = sorted(files.image_ids)
    checked = CheckedImages(files, ids, tmp_path)
    assert checked.num_converted == 40
    assert list(checked.errors) == ["60"]
    for image_id in set(ids) - {"60"}:
        assert checked.read(image_id) == normalize(files.read(image_id))


@pytest.mark.parametrize("name", ["x.bmp", "x.gif", "x.tif", "x.png"])
def test_truncated_images_are_invalid_also_if_pillow_accepts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = tmp_path / name
    make_image().save(path)
    path.write_bytes(path.read_bytes()[:-300])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    checked = CheckedImages(ImageFiles([tmp_path]), ["x"], tmp_path)
    assert checked.errors["x"].startswith("cannot be decoded")
    assert ImageFile.LOAD_TRUNCATED_IMAGES


def test_up_to_one_percent_of_invalid_images_may_be_skipped() -> None:
    errors = {"a": "not an image"}
    require_valid({}, 1, "fail")
    require_valid(errors, 100, "skip")
    with pytest.raises(SourceError, match="At most 1% of the 99 images"):
        require_valid(errors, 99, "skip")
    with pytest.raises(SourceError, match="--on-bad-image skip"):
        require_valid(errors, 100, "fail")


def test_colors_are_converted_to_srgb() -> None:
    """A linear value x is sRGB 1.055 x^(1/2.4) - 0.055 (IEC 61966-2-1)."""
    gray = Image.new("RGB", (8, 8), (64, 128, 191))
    stored = normalize(encode(gray, "PNG", icc_profile=linear_rgb()))
    expected = 255 * (1.055 * (np.array([64, 128, 191]) / 255) ** (1 / 2.4) - 0.055)
    with Image.open(io.BytesIO(stored)) as image:
        assert "icc_profile" not in image.info
        np.testing.assert_allclose(np.asarray(image)[0, 0], expected, atol=1)
    content = encode(gray, "JPEG", icc_profile=SRGB)
    assert normalize(content) is content
