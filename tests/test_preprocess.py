"""The preprocessing functions, compared with Pillow and NumPy."""

from __future__ import annotations

import io
import typing

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from conftest import jpeg
from PIL import Image, ImageDraw, ImageOps

from skincnn.config import DataConfig
from skincnn.data import preprocess, preprocessing_spec

Pixels = npt.NDArray[np.uint8]


def encoded(image: Image.Image, format: str, **options: object) -> tf.Tensor:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return tf.constant(buffer.getvalue())


def pixels_of(seed: int, height: int, width: int) -> Pixels:
    """Returns a smooth image without dark pixels."""
    image = Image.open(io.BytesIO(jpeg(seed, (width, height))))
    return np.maximum(np.asarray(image), 60)


@pytest.mark.parametrize("size", [(200, 150), (90, 130), (64, 64)])
@pytest.mark.parametrize("resize_mode", preprocess.RESIZE_MODES)
def test_decoding_and_resizing_agree_with_pillow(
    size: tuple[int, int], resize_mode: str
) -> None:
    content = jpeg(1, size)
    image = Image.open(io.BytesIO(content))
    if resize_mode == "crop":
        image = ImageOps.fit(image, (min(size),) * 2, Image.Resampling.NEAREST)
    elif resize_mode == "pad":
        image = ImageOps.pad(image, (max(size),) * 2, Image.Resampling.NEAREST)
    expected = np.asarray(image.resize((64, 64), Image.Resampling.BILINEAR), int)
    config = DataConfig(image_size=64, resize_mode=resize_mode)  # type: ignore[arg-type]
    actual = preprocess.read_image(tf.constant(content), config).numpy()
    assert actual.dtype == np.uint8
    # Pillow rounds after each of two passes.
    assert np.abs(actual - expected).max() <= 1


def test_decoding_does_not_depend_on_operators_of_tensors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With tnp.experimental_enable_numpy_behavior(), text and bytes cannot be compared."""
    content = jpeg(1, (80, 64))
    monkeypatch.setattr(tf.Tensor, "__eq__", None)
    image = preprocess.decode(tf.constant(content))
    assert image.shape == (64, 80, 3)


@pytest.mark.parametrize("size", [(200, 150), (600, 450), (71, 57)])
def test_nearest_pixels_agree_with_pillow(size: tuple[int, int]) -> None:
    content = jpeg(1, size)
    image = Image.open(io.BytesIO(content)).resize((50, 50), Image.Resampling.NEAREST)
    config = DataConfig(image_size=50, resize_method="nearest")
    actual = preprocess.read_image(tf.constant(content), config)
    np.testing.assert_array_equal(actual, np.asarray(image))


@pytest.mark.parametrize("size", [(600, 450), (200, 150), (80, 64)])
@pytest.mark.parametrize(("height", "width"), [(1.0, 0.8), (0.64, 0.5), (1.0, 1.0)])
def test_a_central_crop_follows_resizing(
    size: tuple[int, int], height: float, width: float
) -> None:
    content = jpeg(1, size)
    resized = Image.open(io.BytesIO(content)).resize(
        (round(64 / width), round(64 / height)), Image.Resampling.BILINEAR
    )
    left, top = (resized.width - 64) // 2, (resized.height - 64) // 2
    expected = np.asarray(resized.crop((left, top, left + 64, top + 64)), int)
    config = DataConfig(image_size=64, crop_height=height, crop_width=width)
    actual = preprocess.read_image(tf.constant(content), config).numpy()
    assert np.abs(actual - expected).max() <= 1


def test_the_config_lists_every_resize_mode() -> None:
    choices = typing.get_args(typing.get_type_hints(DataConfig)["resize_mode"])
    assert choices == tuple(preprocess.RESIZE_MODES)


@pytest.mark.parametrize(
    ("format", "options"), [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True})]
)
def test_lossless_formats_are_decoded_exactly(
    format: str, options: dict[str, bool]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 50, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(pixels), format, **options)
    np.testing.assert_array_equal(preprocess.decode(content), pixels)
    # The format must also be detected in a graph, where shapes are unknown.
    graph = tf.function(preprocess.decode, input_signature=[tf.TensorSpec((), tf.string)])
    np.testing.assert_array_equal(graph(content), pixels)


def test_the_first_frame_of_an_animation_is_read() -> None:
    frames = [Image.new("RGB", (20, 30), color) for color in ("red", "blue")]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    decoded = preprocess.decode(content).numpy()
    assert decoded.shape == (30, 20, 3)
    assert (decoded == (255, 0, 0)).all()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_other_color_modes_become_three_channels(mode: str) -> None:
    image = Image.fromarray(pixels_of(2, 30, 40)).convert(mode)
    decoded = preprocess.decode(encoded(image, "PNG")).numpy()
    np.testing.assert_array_equal(decoded, np.asarray(image.convert("RGB")))


def test_a_file_that_is_not_an_image_is_an_error() -> None:
    for content in (b"", b"\xff\xd8\xff", b"<html></html>", jpeg()[:200]):
        with pytest.raises(tf.errors.InvalidArgumentError):
            preprocess.decode(tf.constant(content))


def expected_box(pixels: Pixels) -> tuple[int, int, int, int]:
    """Returns the box of `crop_border`, computed row by row."""
    bright = pixels.max(axis=-1) > preprocess.DARK
    enough = preprocess.MIN_BRIGHT_SHARE
    rows = [i for i, row in enumerate(bright) if row.mean() >= enough]
    columns = [i for i, column in enumerate(bright.T) if column.mean() >= enough]
    return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1


def test_a_dark_frame_is_cropped_to_its_box() -> None:
    pixels = pixels_of(3, 120, 200)
    mask = Image.new("L", (200, 120))
    ImageDraw.Draw(mask).ellipse((60, 20, 150, 110), fill=255)
    framed = np.where(np.asarray(mask)[..., None] > 0, pixels, 8).astype(np.uint8)
    framed[0, 0] = 255  # a single bright pixel does not end the frame
    cropped = preprocess.crop_border(tf.constant(framed)).numpy()
    top, bottom, left, right = expected_box(framed)
    np.testing.assert_array_equal(cropped, framed[top:bottom, left:right])
    assert 18 <= top <= 24
    assert 60 <= left <= 64
    assert 145 <= right <= 151
    assert 105 <= bottom <= 111


def test_images_without_a_frame_and_dark_images_are_not_cropped() -> None:
    unframed = pixels_of(4, 40, 60)
    dark = np.full((40, 60, 3), preprocess.DARK, np.uint8)
    spot = dark.copy()
    spot[18:24, 20:50] = 200  # bright, but less than a third of the height
    for pixels in (unframed, dark, spot):
        np.testing.assert_array_equal(preprocess.crop_border(tf.constant(pixels)), pixels)


def expected_shades_of_gray(pixels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    light = np.array([np.mean(pixels[..., c] ** 6) ** (1 / 6) for c in range(3)])
    return pixels * np.linalg.norm(light) / (np.sqrt(3) * light)


def test_color_constancy_agrees_with_the_formula() -> None:
    pixels = pixels_of(5, 30, 40).astype(np.float64)
    actual = preprocess.shades_of_gray(tf.constant(pixels, tf.float32))
    np.testing.assert_allclose(actual, expected_shades_of_gray(pixels), rtol=1e-4)


def test_color_constancy_removes_a_color_cast_and_keeps_gray() -> None:
    gray = np.repeat(pixels_of(6, 30, 40)[..., :1], 3, axis=-1).astype(np.float32)
    np.testing.assert_allclose(preprocess.shades_of_gray(gray), gray, rtol=1e-4)
    cast = gray * np.array([1.0, 0.7, 0.4], np.float32)
    corrected = preprocess.shades_of_gray(cast).numpy()
    for channel in range(1, 3):
        np.testing.assert_allclose(corrected[..., channel], corrected[..., 0], rtol=1e-4)
    black = np.zeros((8, 8, 3), np.float32)
    np.testing.assert_array_equal(preprocess.shades_of_gray(black), black)


def test_padding_does_not_affect_color_constancy() -> None:
    pixels = pixels_of(7, 30, 60).astype(np.float32)
    padded = preprocess.shades_of_gray(preprocess.pad(pixels)).numpy()
    expected = preprocess.shades_of_gray(pixels)
    np.testing.assert_allclose(padded[15:45], expected, rtol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        *({"crop_border": True}, {"color_constancy": True}, {"resize_mode": "pad"}),
        *({"resize_method": "nearest"}, {"crop_height": 0.8}, {"crop_width": 0.8}),
    ],
)
def test_every_preprocessing_field_changes_the_pixels(change: dict[str, object]) -> None:
    pixels = pixels_of(8, 60, 80)
    pixels[:10] = 0
    default, changed = DataConfig(image_size=48), DataConfig(image_size=48, **change)  # type: ignore[arg-type]
    first, second = (
        preprocess.preprocess(tf.constant(pixels), c).numpy() for c in (default, changed)
    )
    assert np.abs(first.astype(int) - second).max() > 5
    assert preprocessing_spec.preprocessing_fields(
        default
    ) != preprocessing_spec.preprocessing_fields(changed)


def test_an_image_of_the_target_size_is_not_resized() -> None:
    rng = np.random.default_rng(0)
    config = DataConfig(image_size=32)
    read = tf.function(
        lambda image: preprocess.preprocess(image, config),
        input_signature=[tf.TensorSpec((None, None, 3), tf.uint8)],
    )
    image = rng.integers(0, 256, (32, 32, 3), np.uint8)
    np.testing.assert_array_equal(read(image), image)
    for size in ((32, 40), (40, 32), (16, 16), (64, 50)):
        image = rng.integers(0, 256, (*size, 3), np.uint8)
        expected = tf.round(tf.image.resize(image, (32, 32), antialias=True))
        np.testing.assert_array_equal(read(image), expected)
