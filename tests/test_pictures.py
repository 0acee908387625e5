"""What is stored of a picture, against TensorFlow's own decoder where it can judge."""

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
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from source_files import SIZE, jpeg, picture

from tfds_ham10000 import images, pictures
from tfds_ham10000.images import ImageFiles
from tfds_ham10000.pictures import CheckedImages, normalise, refuse_bad
from tfds_ham10000.records import SourceError

Pixels = npt.NDArray[np.uint8]


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pixels(content: bytes) -> Pixels:
    with Image.open(io.BytesIO(content)) as image:
        assert image.mode == "RGB"
        return np.asarray(image)


def by_tensorflow(content: bytes) -> Pixels:
    if content.startswith(b"\xff\xd8"):
        options = {"channels": 3, "dct_method": "INTEGER_ACCURATE"}
        return np.asarray(tf.io.decode_jpeg(content, **options))
    return np.asarray(tf.io.decode_image(content, channels=3, expand_animations=False))


def grey_16_bit() -> bytes:
    ramp = np.linspace(0, 65535, SIZE[0] * SIZE[1]).reshape(SIZE[::-1]).astype(np.uint16)
    return encode(Image.fromarray(ramp), "PNG")


def rgb_16_bit() -> bytes:
    """Pillow writes no such file, so its three chunks are written by hand."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

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
    image = picture().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(SIZE))
    return image


def transparent_palette() -> bytes:
    return encode(picture().quantize(16), "PNG", transparency=bytes(range(16)))


KINDS: dict[str, Callable[[], bytes]] = {
    "gray JPEG": lambda: encode(picture().convert("L"), "JPEG"),
    "PNG": lambda: encode(picture(), "PNG"),
    "gray PNG": lambda: encode(picture().convert("L"), "PNG"),
    "black and white PNG": lambda: encode(picture().convert("1"), "PNG"),
    "gray PNG with alpha": lambda: encode(with_alpha().convert("LA"), "PNG"),
    "16-bit gray PNG": grey_16_bit,
    "16-bit RGB PNG": rgb_16_bit,
    "PNG with alpha": lambda: encode(with_alpha(), "PNG"),
    "palette PNG": lambda: encode(picture().quantize(16), "PNG"),
    "palette PNG with alpha": transparent_palette,
    "BMP": lambda: encode(picture(), "BMP"),
    "GIF": lambda: encode(picture(), "GIF"),
    "animated GIF": lambda: encode(
        picture(), "GIF", save_all=True, append_images=[picture(1)]
    ),
    "lossless WebP": lambda: encode(picture(), "WEBP", lossless=True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_kinds_become_rgb_as_tensorflow_reads_them(kind: str) -> None:
    content = KINDS[kind]()
    stored = normalise(content)
    assert stored.startswith(b"\x89PNG")
    np.testing.assert_array_equal(pixels(stored), by_tensorflow(content))
    # The decoder of the pipeline reads what is stored as it is.
    np.testing.assert_array_equal(tf.io.decode_jpeg(stored, channels=3), pixels(stored))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_a_plain_jpeg_keeps_its_bytes(options: dict[str, Any]) -> None:
    content = encode(picture(), "JPEG", **options)
    assert normalise(content) is content
    assert normalise(content, longest_side=max(SIZE)) is content


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_compared_is_what_is_stored(kind: str) -> None:
    """Unrelated 16-bit pictures, clipped at 255, looked alike to the hash."""
    seen: list[np.ndarray] = []
    stored = normalise(KINDS[kind](), see=lambda image: seen.append(np.asarray(image)))
    np.testing.assert_array_equal(seen[0], pixels(stored))


def test_cmyk_becomes_rgb() -> None:
    grey = Image.new("RGB", SIZE, (200, 120, 90))
    stored = pixels(normalise(encode(grey.convert("CMYK"), "JPEG", quality=100)))
    np.testing.assert_allclose(stored, np.asarray(grey), atol=2)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_is_turned_upright(orientation: int) -> None:
    upright = picture()
    methods = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,  # its inverse: the file says "turn right"
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    method = methods.get(orientation)
    lying = upright if method is None else upright.transpose(method)
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(lying, "JPEG", quality=100, subsampling=0, exif=exif)
    stored = normalise(content)
    assert (stored is content) == (orientation == 1)
    difference = pixels(stored).astype(int) - np.asarray(upright, int)
    assert np.abs(difference).mean() < 2


def test_a_damaged_exif_tag_says_nothing() -> None:
    content = encode(picture(), "JPEG", exif=b"Exif\0\0no tags at all")
    assert normalise(content) is content


@pytest.mark.parametrize("size", [(400, 300), (300, 400), (300, 300)])
def test_a_large_picture_is_stored_smaller_and_antialiased(size: tuple[int, int]) -> None:
    content = jpeg(3, size)
    stored = normalise(content, longest_side=100)
    assert stored.startswith(b"\xff\xd8")
    with Image.open(io.BytesIO(stored)) as image:
        assert max(image.size) == 100
        assert image.size[0] * size[1] == pytest.approx(image.size[1] * size[0], rel=0.01)
        assert image.layer[0][1:3] == (1, 1)  # type: ignore[attr-defined]  # 4:4:4
        small = np.asarray(image, int)
    with Image.open(io.BytesIO(content)) as image:
        wanted = np.asarray(image.resize(small.shape[1::-1], Image.Resampling.BOX), int)
    assert np.abs(small - wanted).mean() < 2


def test_fine_stripes_become_grey_and_not_other_stripes() -> None:
    stripes = np.zeros((300, 400, 3), np.uint8)
    stripes[:, ::2] = 255
    stored = normalise(encode(Image.fromarray(stripes), "PNG"), longest_side=128)
    assert np.abs(pixels(stored)[:, 4:-4].astype(int) - 127).max() < 40


FAULTS: dict[str, tuple[bytes, str]] = {
    "cut in half": (jpeg()[: len(jpeg()) // 2], "cannot be decoded"),
    "without its last two bytes": (jpeg()[:-2], "cannot be decoded"),
    "a hundred bytes": (jpeg()[:100], "cannot be decoded|is no JPEG"),
    "empty": (b"", "is no JPEG, PNG, WEBP, BMP, GIF file"),
    "a page": (b"<!DOCTYPE html><html>403</html>", "is no JPEG"),
    "a TIFF": (encode(picture(), "TIFF"), "is no JPEG"),
    "a cut PNG": (encode(picture(), "PNG")[:-300], "cannot be decoded"),
    "a cut WebP": (encode(picture(), "WEBP")[:-50], "cannot be decoded|is no JPEG"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_decoded_is_refused(fault: str) -> None:
    content, message = FAULTS[fault]
    with pytest.raises(SourceError, match=message):
        normalise(content)


def test_a_picture_of_too_many_pixels_is_refused_undecoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bomb = encode(Image.new("1", (20_000, 20_000)), "PNG")
    assert len(bomb) < 60_000
    large = encode_header(10_000, 5_001)
    monkeypatch.setattr(PngImageFile, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(SourceError, match="pixels"):
        normalise(bomb)
    with pytest.raises(SourceError, match="10000x5001 pixels, expected at most 50000000"):
        normalise(large)


def encode_header(width: int, height: int) -> bytes:
    """Returns a PNG whose header claims a size that it does not have."""
    content = bytearray(encode(picture(), "PNG"))
    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


def test_a_file_of_too_many_bytes_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg())
    monkeypatch.setattr(images, "MAX_BYTES", 10)
    with pytest.raises(SourceError, match=f"{len(jpeg())} bytes, expected at most 10"):
        ImageFiles([tmp_path]).read("a")


def test_pictures_are_the_same_however_they_are_checked(tmp_path: Path) -> None:
    """Several threads write to one file; each picture must come back as its own."""
    for number in range(60):
        kind = ("JPEG", "PNG", "WEBP")[number % 3]
        content = encode(picture(number), kind)
        (tmp_path / f"{number}.{kind.lower()}").write_bytes(content)
    (tmp_path / "60.jpg").write_bytes(b"no picture")
    files = ImageFiles([tmp_path])
    ids = sorted(files.image_ids)
    checked = CheckedImages(files, ids, tmp_path)
    assert checked.num_changed == 40
    assert list(checked.bad) == ["60"]
    for image_id in set(ids) - {"60"}:
        assert checked.read(image_id) == normalise(files.read(image_id))


def test_skipping_is_for_one_in_a_hundred() -> None:
    bad = {"a": "is no picture"}
    refuse_bad({}, 1, "fail")
    refuse_bad(bad, 100, "skip")
    with pytest.raises(SourceError, match="More than 1% of 99"):
        refuse_bad(bad, 99, "skip")
    with pytest.raises(SourceError, match="--on-bad-image skip"):
        refuse_bad(bad, 100, "fail")


def test_limits_are_those_that_are_documented() -> None:
    assert pictures.MAX_PIXELS == 50_000_000
    assert images.MAX_BYTES == 30_000_000
