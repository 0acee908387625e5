"""Reads image files for prediction.

The functions of `serving.predictor` convert files as the dataset builder does, before the
files reach the graph (`convert_file`). The graph then reads the pixels that the dataset
builder stores if it does not downsize the images. A SavedModel on a server receives
arbitrary files, so its graph checks the format and the size, and applies the EXIF
orientation. The graph decodes JPEG and PNG files, the formats that the dataset builder
stores. It ignores color profiles and orientations in XMP.
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
    f"unreadable: expected a complete JPEG or PNG file of at most {MAX_PIXELS} pixels"
)
TOO_LARGE = f"unreadable: {image_files.TOO_LARGE}"
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
        content: Content of a JPEG or PNG file, a scalar.
        config: See `data.preprocess.read_image`.

    Returns:
        The model input, uint8 [image_size, image_size, 3] in 0..255.

    Raises:
        tf.errors.InvalidArgumentError: The file has another format, is damaged, or exceeds
            `MAX_GRAPH_BYTES` or `MAX_PIXELS`.
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

    The result is the largest int64 if the file is neither JPEG nor PNG. A truncated header
    raises `tf.errors.InvalidArgumentError`, or the result is arbitrary.
    """

    def jpeg() -> tf.Tensor:
        return tf.reduce_prod(tf.io.extract_jpeg_shape(content, tf.int64)[:2])

    def png() -> tf.Tensor:
        header = tf.strings.substr(content, 0, 24)
        numbers = tf.io.decode_raw(header, tf.int32, little_endian=False)
        return tf.reduce_prod(tf.cast(numbers[4:], tf.int64))  # width and height

    return tf.case(
        [
            (tf.equal(tf.strings.substr(content, 0, 3), b"\xff\xd8\xff"), jpeg),
            (tf.equal(tf.strings.substr(content, 0, 4), b"\x89PNG"), png),
        ],
        default=lambda: tf.constant(tf.int64.max, tf.int64),
    )


def exif_orientation(content: tf.Tensor) -> tf.Tensor:
    """Returns the EXIF orientation of a file, int64 in 1..8; 1 if it has no valid one.

    The file is searched for the tag, after the name of the segment or chunk that contains
    the EXIF data, because uncompressed pixels could look like a tag. In JPEG files, this is
    among the first segments, and further images may follow; in PNG files, it is near one of
    the ends.
    """
    is_jpeg = tf.equal(tf.strings.substr(content, 0, 2), b"\xff\xd8")
    start = tf.maximum(tf.strings.length(content) - NUM_LAST, 0)
    last = tf.strings.substr(content, start, tf.where(is_jpeg, 0, NUM_LAST))
    searched = tf.strings.join([tf.strings.substr(content, 0, NUM_FIRST), last])
    name = tf.where(is_jpeg, b"Exif", b"eXIf")
    exif = tf.strings.split([searched], name, maxsplit=1).values[1:]
    values = [
        tf.strings.split(exif, tag, maxsplit=1).values[1:] for tag in ORIENTATION_TAGS
    ]
    value = tf.strings.reduce_join(tf.concat([*values, [b"\x01"]], axis=0))
    number = tf.io.decode_raw(tf.strings.substr(value, 0, 1), tf.uint8)[0]
    return tf.where((number >= 1) & (number <= 8), tf.cast(number, tf.int64), 1)


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
