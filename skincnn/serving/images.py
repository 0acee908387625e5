"""Picture files as they come, read in the graph: limits, then the turn that EXIF tells.

The builder refuses, turns and converts pictures once, with Pillow. What is served meets
anyone's files; after the limits and the turn come the functions that training used.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from skincnn.config import DataConfig
from skincnn.data.preprocess import decode, preprocess
from tfds_ham10000.image_decoding import FORMATS, MAX_PIXELS

MAX_BYTES = 30_000_000
"""Of a file; a larger one is not decoded."""
READ = "ok"
UNREADABLE = (
    f"not read: expected a {', '.join(FORMATS)} file, whole, of at most {MAX_BYTES} bytes "
    f"and {MAX_PIXELS} pixels"
)
HEAD = 32
"""Bytes from a file's beginning that tell its size."""
EXIF = b"Exif\0\0"
MAX_EXIF = 1 << 16
"""Bytes of EXIF in which its first directory is looked for."""
ORIENTATION = 0x0112


def read_images(contents: tf.Tensor, config: DataConfig) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the pictures in files, and which of them could be read.

    A file that cannot be read spoils none of the others: its picture is black.

    Args:
        contents: The bytes of files, string [batch]; see `read_image`.
        config: See `data.preprocess.read_image`.

    Returns:
        uint8 [batch, image_size, image_size, 3], and bool [batch].
    """
    count = tf.size(contents, tf.int64)
    blank = tf.zeros((config.image_size, config.image_size, 3), tf.uint8)
    read = (
        tf.data.Dataset.from_tensor_slices(contents)
        .enumerate()
        .map(
            lambda place, content: (place, read_image(content, config)),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        .ignore_errors()
        # For those that could not be read; a batch of nothing could not be taken.
        .concatenate(tf.data.Dataset.from_tensors((count, blank)))
        .batch(count + 1)
    )
    places, images = read.get_single_element()
    last = tf.size(places) - 1
    rows = tf.tensor_scatter_nd_update(
        tf.fill(count[None] + 1, last), places[:, None], tf.range(last + 1)
    )[:-1]
    return tf.gather(images, rows), rows < last


def read_image(content: tf.Tensor, config: DataConfig) -> tf.Tensor:
    """Returns the picture in anyone's file as the model sees it.

    Args:
        content: The bytes of a JPEG, PNG, GIF (first frame), BMP or WebP file, a scalar.
        config: See `data.preprocess.read_image`.

    Returns:
        uint8 [image_size, image_size, 3].

    Raises:
        tf.errors.InvalidArgumentError: It is no such file, is damaged, or too large.
    """
    small_enough = [
        tf.debugging.assert_less_equal(tf.strings.length(content), MAX_BYTES),
        tf.debugging.assert_less_equal(
            num_pixels(content), tf.constant(MAX_PIXELS, tf.int64)
        ),
    ]
    with tf.control_dependencies(small_enough):
        image = decode(tf.identity(content))
    return preprocess(turn(image, orientation(content)), config)


def num_pixels(content: tf.Tensor) -> tf.Tensor:
    """Returns how many pixels a file says that it has; none is decoded.

    Args:
        content: The file, a scalar.

    Returns:
        int64; the largest there is where it is a file of none of the formats, and any
        number where it ends before it says so: it cannot be decoded then.

    Raises:
        tf.errors.InvalidArgumentError: It is a JPEG file that ends before it says so.
    """
    head = _bytes(content, 0, HEAD)

    def begins(text: bytes, at: int = 0) -> tf.Tensor:
        return _is(head, text, at)

    def jpeg() -> tf.Tensor:
        return tf.reduce_prod(tf.io.extract_jpeg_shape(content, tf.int64)[:2])

    def png() -> tf.Tensor:
        return _number(head, 16, 4, big=True) * _number(head, 20, 4, big=True)

    def gif() -> tf.Tensor:
        return _number(head, 6, 2) * _number(head, 8, 2)

    def bmp() -> tf.Tensor:
        height = _number(head, 22, 4)  # negative where the rows go down
        return _number(head, 18, 4) * tf.minimum(height, 2**32 - height)

    def webp() -> tf.Tensor:
        sides = _number(head, 21, 4)  # 14 bits each
        return tf.case(
            [
                (
                    begins(b"VP8X", 12),
                    lambda: (1 + _number(head, 24, 3)) * (1 + _number(head, 27, 3)),
                ),
                (
                    begins(b"VP8L", 12),
                    lambda: (1 + sides % 2**14) * (1 + sides // 2**14 % 2**14),
                ),
            ],
            default=lambda: (_number(head, 26, 2) % 2**14) * (_number(head, 28, 2) % 2**14),
        )

    formats = [
        (b"\xff\xd8\xff", jpeg),
        (b"\x89PNG", png),
        (b"GIF8", gif),
        (b"BM", bmp),
        (b"RIFF", webp),
    ]
    return tf.case(
        [(begins(magic), size) for magic, size in formats],
        default=lambda: tf.constant(tf.int64.max, tf.int64),
    )


def orientation(content: tf.Tensor) -> tf.Tensor:
    """Returns the orientation that EXIF tells of a file, 1..8; 1 if it tells none.

    Args:
        content: The file, a scalar: JPEG, PNG or WebP; the others have no EXIF.

    References:
        CIPA DC-008, Exchangeable image file format (Exif) 2.32, 4.5.4 to 4.6.4; W3C, PNG
        (third edition), 11.3.3.5; RFC 9649, WebP, 2.7.1.4.
    """
    head = _bytes(content, 0, 12)
    end = tf.strings.length(content)
    found = tf.case(
        [
            (_is(head, b"\xff\xd8"), lambda: _find_exif(content, end, 2, _jpeg_segment)),
            (_is(head, b"\x89PNG"), lambda: _find_exif(content, end, 8, _png_chunk)),
            (_is(head, b"WEBP", 8), lambda: _find_exif(content, end, 12, _webp_chunk)),
        ],
        default=lambda: end,
    )
    return tf.cond(
        found < end,
        lambda: _orientation_in(_bytes(content, found, MAX_EXIF)),
        lambda: tf.constant(1, tf.int64),
    )


def turn(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Returns `image` [height, width, 3] upright; `orientation` is EXIF's, 1..8."""

    def changed(
        image: tf.Tensor, values: tuple[int, ...], change: Callable[[tf.Tensor], tf.Tensor]
    ) -> tf.Tensor:
        asked = tf.reduce_any(tf.equal(orientation, values))
        return tf.cond(asked, lambda: change(image), lambda: image)

    def turned() -> tf.Tensor:
        # As float32: of integers oneDNN complains, and transposes them all the same.
        found = tf.cast(image, tf.float32)
        found = changed(found, (5, 6, 7, 8), lambda image: tf.transpose(image, (1, 0, 2)))
        found = changed(found, (3, 4, 7, 8), lambda image: tf.reverse(image, [0]))
        found = changed(found, (2, 3, 6, 7), lambda image: tf.reverse(image, [1]))
        return tf.cast(found, tf.uint8)

    upright = tf.cond(tf.equal(orientation, 1), lambda: tf.identity(image), turned)
    return tf.ensure_shape(upright, (None, None, 3))


Part = tuple[tf.Tensor, tf.Tensor]


def _find_exif(
    content: tf.Tensor, end: tf.Tensor, start: int, read: Callable[[tf.Tensor], Part]
) -> tf.Tensor:
    """Returns where EXIF's directories begin in a file; its end where there are none.

    Args:
        content: The file.
        end: Its length.
        start: Where its first part begins.
        read: From a part's first 16 bytes to its length, and where in it EXIF's directories
            begin, 0 for none.
    """

    def is_part(at: tf.Tensor, found: tf.Tensor) -> tf.Tensor:
        return (at < end) & (found == 0)

    def behind(at: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        size, found = read(_bytes(content, at, 16))
        # A damaged file may tell of sizes beyond what a place can be counted in.
        room = tf.cast(end - at, tf.int64)
        step = tf.cast(tf.minimum(size, room), tf.int32)
        return tf.where(found > 0, at, at + step), tf.cast(found, tf.int32)

    at, found = tf.while_loop(is_part, behind, (tf.minimum(start, end), tf.constant(0)))
    return tf.minimum(at + found, end)


def _jpeg_segment(head: tf.Tensor) -> Part:
    # Before the pixels, which begin with 0xDA; no size is told from there on.
    is_segment = (head[0] == 0xFF) & (head[1] != 0xDA)
    size = tf.where(is_segment, 2 + _number(head, 2, 2, big=True), tf.int64.max)
    return size, tf.where((head[1] == 0xE1) & _is(head, EXIF, 4), 10, 0)


def _png_chunk(head: tf.Tensor) -> Part:
    return 12 + _number(head, 0, 4, big=True), tf.where(_is(head, b"eXIf", 4), 8, 0)


def _webp_chunk(head: tf.Tensor) -> Part:
    size = _number(head, 4, 4)
    # Some writers put JPEG's mark before the directories.
    begins = tf.where(_is(head, EXIF, 8), 8 + len(EXIF), 8)
    return 8 + size + size % 2, tf.where(_is(head, b"EXIF"), begins, 0)


def _orientation_in(tiff: tf.Tensor) -> tf.Tensor:
    """Returns the tag's value in the first directory of a TIFF file, uint8 [size]."""
    big = tiff[0] == ord("M")

    def number(at: tf.Tensor | int, size: int) -> tf.Tensor:
        return tf.where(big, _number(tiff, at, size, big=True), _number(tiff, at, size))

    size = tf.size(tiff, tf.int64)
    start = tf.minimum(number(4, 4), size - 2)
    count = tf.minimum(number(start, 2), (size - start - 2) // 12)
    entries = tf.reshape(tiff[start + 2 : start + 2 + 12 * count], (count, 12))
    entries = tf.cast(entries, tf.int64)
    order = tf.where(big, tf.constant([256, 1], tf.int64), tf.constant([1, 256], tf.int64))
    is_orientation = tf.linalg.matvec(entries[:, :2], order) == ORIENTATION
    values = tf.boolean_mask(tf.linalg.matvec(entries[:, 8:10], order), is_orientation)
    value = tf.concat([values, tf.constant([1], tf.int64)], axis=0)[0]
    return tf.where((value >= 1) & (value <= 8), value, 1)


def _bytes(content: tf.Tensor, at: tf.Tensor | int, size: int) -> tf.Tensor:
    """Returns `size` bytes of a file from a place in it, uint8; 0 behind its end."""
    found = tf.io.decode_raw(tf.strings.substr(content, at, size), tf.uint8)
    return tf.pad(found, [[0, size - tf.size(found)]])


def _is(data: tf.Tensor, text: bytes, at: int = 0) -> tf.Tensor:
    return tf.reduce_all(data[at : at + len(text)] == tuple(text))


def _number(
    data: tf.Tensor, at: tf.Tensor | int, size: int, *, big: bool = False
) -> tf.Tensor:
    """Returns the unsigned number of `size` bytes at a place, int64.

    Args:
        data: Bytes, uint8 [size].
        at: Where it begins.
        size: Its bytes.
        big: Whether the highest comes first.
    """
    powers = [256**i for i in range(size)]
    if big:
        powers.reverse()
    found = tf.cast(data[at : at + size], tf.int64)
    return tf.reduce_sum(found * tf.constant(powers, tf.int64))
