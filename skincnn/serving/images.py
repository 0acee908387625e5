"""Reads image files for prediction.

The functions of `serving.predictor` convert files as the dataset builder does, before the
files reach the graph (`convert_file`). The graph then reads the pixels that the dataset
builder stores if it does not downsize the images. A SavedModel on a server receives
arbitrary files, so its graph checks the format and the size, and applies the EXIF
orientation. The graph decodes JPEG, PNG, BMP (24 or 32 bits per pixel) and WebP files (one
frame), ignores color profiles and orientations in XMP, and rejects other files.
"""

from __future__ import annotations

import functools

import tensorflow as tf

from skincnn.config import DataConfig
from skincnn.data import preprocess as preprocessing
from skincnn.data.preprocess import decode, preprocess
from skincnn.model.orientations import orient
from tfds_ham10000 import image_files
from tfds_ham10000.image_decoding import MAX_PIXELS, convert
from tfds_ham10000.records import SourceError

MAX_BYTES = image_files.MAX_BYTES
"""Maximum size in bytes of a file that `convert_file` accepts."""
MAX_GRAPH_BYTES = 4 * MAX_PIXELS + 1_000_000
"""Maximum size in bytes of a file in the graph, which may be an uncompressed image."""
OK = "ok"
UNREADABLE = (
    "unreadable: expected a complete JPEG, PNG, BMP (24 or 32 bits per pixel) or WebP (one "
    f"frame) file of at most {MAX_PIXELS} pixels"
)
TOO_LARGE = f"unreadable: {image_files.TOO_LARGE}"
HEADER_BYTES = 34
"""Number of leading bytes that contain the image size in all formats except JPEG."""
NUM_FIRST, NUM_LAST = 1 << 14, 1 << 17
"""Numbers of bytes at the start and at the end of a file that are searched for its EXIF
orientation."""
ORIENTATION_TAGS = (b"\x12\x01\x03\0\x01\0\0\0", b"\x01\x12\0\x03\0\0\0\x01\0")
"""The EXIF tag of the orientation in both byte orders, up to the byte of its value: the
number 0x0112, the type (3, for 16 bits) and the number of values.

References:
    CIPA DC-008, Exchangeable image file format (Exif) 2.32, 4.6.2 and 4.6.4.
"""
EXIF_ORIENTATIONS = (0, 1, 3, 2, 4, 6, 7, 5)
"""Arguments of `orient` that make an image upright, for EXIF orientations 1 to 8."""


def convert_file(content: bytes | str) -> bytes | str:
    """Converts an image file as the dataset builder does, but without downsizing it.

    `content` is a file in one of `tfds_ham10000.image_decoding.FORMATS`, or the reason why
    it could not be read.

    Returns:
        The bytes of a file that the graph of the model can decode; or the reason (text) why
        there is none: `content` itself if it is a reason, that the file exceeds
        `MAX_BYTES`, or why it cannot be converted.
    """
    if isinstance(content, str):
        return content
    if len(content) > MAX_BYTES:
        return TOO_LARGE
    try:
        return convert(content)
    except SourceError as error:
        return f"unreadable: {error}"


def read_images(
    contents: tf.Tensor, config: DataConfig, *, converted: bool = False
) -> tuple[tf.Tensor, tf.Tensor]:
    """Reads a batch of image files; unreadable files do not affect the others.

    Args:
        contents: File contents, string [batch]; see `read_image`.
        config: See `data.preprocess.read_image`.
        converted: Whether all files are from `convert_file`, which makes images upright and
            checks their size. A graph without these steps is traced in a quarter of the
            time.

    Returns:
        Images, uint8 [batch, image_size, image_size, 3], black for unreadable files; and
        whether each file is readable, bool [batch].
    """
    read = preprocessing.read_image if converted else read_image
    count = tf.size(contents, tf.int64)
    blank = tf.zeros((config.image_size, config.image_size, 3), tf.uint8)
    dataset = (
        tf.data.Dataset.from_tensor_slices(contents)
        .enumerate()
        .map(
            lambda index, content: (index, read(content, config)),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        .ignore_errors()
        # The blank image replaces unreadable files and keeps the batch nonempty.
        .concatenate(tf.data.Dataset.from_tensors((count, blank)))
        .batch(count + 1)
    )
    indices, images = dataset.get_single_element()
    last = tf.size(indices) - 1
    rows = tf.tensor_scatter_nd_update(
        tf.fill(count[None] + 1, last), indices[:, None], tf.range(last + 1)
    )[:-1]
    return tf.gather(images, rows), rows < last


def read_image(content: tf.Tensor, config: DataConfig) -> tf.Tensor:
    """Returns the decoded, upright and preprocessed image in a file.

    Args:
        content: Content of a JPEG, PNG, BMP or WebP file, a scalar.
        config: See `data.preprocess.read_image`.

    Returns:
        The model input, uint8 [image_size, image_size, 3] in 0..255.

    Raises:
        tf.errors.InvalidArgumentError: The file has an unsupported format, is damaged, or
            exceeds `MAX_GRAPH_BYTES` or `MAX_PIXELS`.
    """
    max_pixels = tf.constant(MAX_PIXELS, tf.int64)
    within_limits = [
        tf.debugging.assert_less_equal(tf.strings.length(content), MAX_GRAPH_BYTES),
        tf.debugging.assert_less_equal(num_pixels(content), max_pixels),
    ]
    with tf.control_dependencies(within_limits):
        image = decode(tf.identity(content))
    return preprocess(apply_orientation(image, exif_orientation(content)), config)


def num_pixels(content: tf.Tensor) -> tf.Tensor:
    """Returns the number of pixels according to the header of a file, int64.

    The result is the largest int64 for a format in which TensorFlow would not read the
    pixels that the dataset builder stores, such as BMP files with a palette and GIF files,
    whose first frame may be smaller than the image. A truncated header raises
    `tf.errors.InvalidArgumentError` for JPEG, and the result is arbitrary otherwise.
    """
    header = _read_bytes(content, HEADER_BYTES)

    def bmp() -> tf.Tensor:
        height = _little_endian(header, 22, 4)  # negative if rows are stored top to bottom
        pixels = _little_endian(header, 18, 4) * tf.minimum(height, 2**32 - height)
        return tf.where(_little_endian(header, 28, 2) >= 24, pixels, tf.int64.max)

    formats = {
        b"\xff\xd8\xff": lambda: tf.reduce_prod(
            tf.io.extract_jpeg_shape(content, tf.int64)[:2]
        ),
        b"\x89PNG": lambda: _big_endian(header, 16, 4) * _big_endian(header, 20, 4),
        b"BM": bmp,
        b"RIFF": lambda: _webp_pixels(header),
    }
    return tf.case(
        [(_equals(header, magic), size) for magic, size in formats.items()],
        default=lambda: tf.constant(tf.int64.max, tf.int64),
    )


def exif_orientation(content: tf.Tensor) -> tf.Tensor:
    """Returns the EXIF orientation of a file, int64 in 1..8; 1 if it has no valid one.

    The file is searched for the tag. In JPEG files, EXIF data are among the first segments;
    in PNG and WebP files, they are near one of the ends. BMP files contain no EXIF data,
    but uncompressed pixels, which could look like a tag.
    """
    magic = tf.strings.substr(content, 0, 2)
    is_bmp, is_jpeg = tf.equal(magic, b"BM"), tf.equal(magic, b"\xff\xd8")
    first = tf.where(is_bmp, 0, NUM_FIRST)
    last = tf.where(is_bmp | is_jpeg, 0, NUM_LAST)
    start = tf.maximum(tf.strings.length(content) - last, 0)
    ends = ((0, first), (start, last))
    searched = tf.strings.join([tf.strings.substr(content, *end) for end in ends])
    after = [
        tf.strings.split([searched], tag, maxsplit=1).values[1:] for tag in ORIENTATION_TAGS
    ]
    value = tf.concat([*after, [b"\x01"]], axis=0)[0]
    number = tf.cast(_read_bytes(value, 1)[0], tf.int64)
    return tf.where((number >= 1) & (number <= 8), number, 1)


def apply_orientation(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Rotates or mirrors an image, uint8 [height, width, 3], so that it is upright.

    `orientation` is the EXIF orientation in 1..8; 5 to 8 swap height and width.
    """

    def transform(number: int) -> tf.Tensor:
        # In float32, because oneDNN logs an error in graphs that rotate integers.
        upright = orient(tf.cast(image, tf.float32)[None], number)
        return tf.cast(upright[0], tf.uint8)

    transforms = [functools.partial(transform, number) for number in EXIF_ORIENTATIONS[1:]]
    unchanged = functools.partial(tf.identity, image)
    index = tf.cast(orientation, tf.int32) - 1
    upright = tf.switch_case(index, [unchanged, *transforms])
    return tf.ensure_shape(upright, (None, None, 3))


def _webp_pixels(header: tf.Tensor) -> tf.Tensor:
    """Returns the number of pixels of an extended, lossless or lossy WebP file."""
    extended = (1 + _little_endian(header, 24, 3)) * (1 + _little_endian(header, 27, 3))
    sides = _little_endian(header, 21, 4)  # 14 bits each
    lossless = (1 + sides % 2**14) * (1 + sides // 2**14 % 2**14)
    width, height = _little_endian(header, 26, 2), _little_endian(header, 28, 2)
    lossy = (width % 2**14) * (height % 2**14)
    simple = tf.where(_equals(header, b"VP8L", 12), lossless, lossy)
    return tf.where(_equals(header, b"VP8X", 12), extended, simple)


def _read_bytes(content: tf.Tensor, size: int) -> tf.Tensor:
    """Returns the first `size` bytes of a file, uint8 [size], padded with zeros."""
    data = tf.io.decode_raw(tf.strings.substr(content, 0, size), tf.uint8)
    return tf.pad(data, [[0, size - tf.size(data)]])


def _equals(data: tf.Tensor, text: bytes, offset: int = 0) -> tf.Tensor:
    return tf.reduce_all(tf.equal(data[offset : offset + len(text)], tuple(text)))


def _little_endian(data: tf.Tensor, offset: int, size: int) -> tf.Tensor:
    """Returns the unsigned little-endian integer in `size` bytes at an offset, int64."""
    digits = tf.cast(data[offset : offset + size], tf.int64)
    return tf.reduce_sum(digits * tf.constant([256**i for i in range(size)], tf.int64))


def _big_endian(data: tf.Tensor, offset: int, size: int) -> tf.Tensor:
    return _little_endian(data[offset : offset + size][::-1], 0, size)
