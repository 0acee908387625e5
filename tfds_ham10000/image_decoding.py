"""Validation of source images and conversion to the stored format.

An upright RGB JPEG file in sRGB that does not exceed the requested size is stored byte for
byte. Any other image is converted to an 8-bit RGB PNG, or to a JPEG if it has to be
downsized. TensorFlow and Pillow therefore decode the same upright RGB image. Prediction
converts image files by the same rules, but does not downsize them (`convert`). The rules
are:

- CMYK, gray, black-and-white and palette images are converted to RGB;
- colors are converted to sRGB if the file has a color profile that differs from sRGB; a
  file without a profile, or with a damaged one, is assumed to be in sRGB;
- an alpha channel is dropped, not blended;
- the upper 8 bits of 16-bit images are kept (Pillow alone would clip gray values at 255);
- images are rotated or mirrored according to their EXIF orientation;
- the first frame of an animation, or the first page of a TIFF file, is kept.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import struct
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageCms, ImageFile, ImageOps, UnidentifiedImageError

from tfds_ham10000.image_files import LFS_ADVICE, LFS_POINTER, Images
from tfds_ham10000.progress import TerminalBar
from tfds_ham10000.records import SourceError, join_first

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
JPEG_FORMATS = ("JPEG", "MPO")
"""MPO is the format of a JPEG file that contains additional images."""
MAX_PIXELS = 50_000_000
PROFILE_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""The Pillow mode in which a color profile is applied, by the profile's color space."""
MAX_SRGB_DIFFERENCE = 2
"""A profile of an RGB or gray image that changes no sampled color value, in 0..255, by more
than this counts as sRGB."""
TOO_MUCH_TEXT = "the PNG file has too much text or metadata; save it again without them"
JPEG_QUALITY = 95
MAX_SKIPPED_SHARE = 0.01
"""Largest share of images that `on_bad_image="skip"` may omit."""


T = TypeVar("T")


class CheckedImages:
    """Source images, validated and converted to the stored format.

    Attributes:
        errors: Why each invalid image is invalid, by image_id.
    """

    def __init__(
        self,
        images: Images,
        image_ids: Sequence[str],
        folder: Path,
        *,
        longest_side: int | None = None,
        inspect: Callable[[Image.Image], T] | None = None,
        store: Callable[[str, T], None] | None = None,
    ):
        """Reads and decodes each image once, on all CPU cores.

        Converted images are kept in an unnamed temporary file in `folder`. The file is
        deleted with this object, at the latest when the process ends. See `normalize` for
        `longest_side`. `inspect` is called with each decoded image (upright, RGB, original
        size), and `store` with the image_id of each valid image and the result of
        `inspect`. Both are called in several threads. Without `inspect`, `store` is not
        called.

        Raises:
            OSError: The temporary file cannot be written, or `store` raises this error.
        """
        self._images = images
        self._longest_side = longest_side
        # `read` needs the file as long as this object exists.
        self._spool = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        weakref.finalize(self, self._spool.close)
        self._lock = threading.Lock()
        self._converted: dict[str, tuple[int, int]] = {}
        self._inspect, self._store = inspect, store
        with _require_complete(), ThreadPoolExecutor(os.cpu_count()) as pool:
            try:
                errors = pool.map(self._check, image_ids)
                progress = TerminalBar(
                    errors, "Checking images", len(image_ids), unit="img"
                )
                results = dict(zip(image_ids, progress, strict=True))
                self.errors = {name: error for name, error in results.items() if error}
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    @property
    def num_converted(self) -> int:
        """The number of images whose stored bytes differ from the source file."""
        return len(self._converted)

    def read(self, image_id: str) -> bytes:
        """Returns the bytes to store for a valid image.

        Raises:
            SourceError: The source file can no longer be read.
            OSError: The temporary file cannot be read.
        """
        if image_id not in self._converted:
            return self._images.read(image_id)
        start, size = self._converted[image_id]
        self._spool.seek(start)
        return self._spool.read(size)

    def _check(self, image_id: str) -> str | None:
        """Converts an image if necessary. Returns why it is invalid, or None if valid."""
        results: list[Any] = []

        def inspect(image: Image.Image) -> None:
            if self._inspect is not None:
                results.append(self._inspect(image))

        try:
            content = self._images.read(image_id)
            stored = normalize(content, self._longest_side, inspect)
        except SourceError as error:
            return str(error)
        if self._store is not None:
            for result in results:
                self._store(image_id, result)
        if stored is not content:
            with self._lock:
                start = self._spool.seek(0, os.SEEK_END)
                self._spool.write(stored)
                self._converted[image_id] = (start, len(stored))
        return None


@contextlib.contextmanager
def _require_complete() -> Iterator[None]:
    """Makes Pillow report truncated files inside the block, in all threads."""
    previous = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = previous


def require_valid(errors: dict[str, str], num_images: int, on_bad_image: str) -> None:
    """Checks that all images are valid, or at least 99 % if `on_bad_image` is "skip".

    `errors` states why each invalid image is invalid, by image_id.

    Raises:
        SourceError: Too many images are invalid. The message names the first ten.
    """
    allowed, advice = 0.0, "Replace these images, or use --on-bad-image skip (up to 1 %)."
    if on_bad_image == "skip":
        allowed = MAX_SKIPPED_SHARE * num_images
        advice = (
            f"At most {MAX_SKIPPED_SHARE:.0%} of the {num_images} images may be skipped."
        )
    if len(errors) <= allowed:
        return
    messages = [f"{image_id}: {error}" for image_id, error in sorted(errors.items())]
    raise SourceError(
        f"{len(errors)} image(s) are invalid: {join_first(messages, '; ')}. Expected "
        f"complete {', '.join(FORMATS)} files of at most {MAX_PIXELS // 10**6} megapixels "
        f"and 30 MB. {advice}"
    )


def normalize(
    content: bytes,
    longest_side: int | None = None,
    inspect: Callable[[Image.Image], None] = lambda image: None,
) -> bytes:
    """Returns the bytes to store for an image file: `content` unchanged, or converted.

    Args:
        content: The bytes of an image file in one of `FORMATS`.
        longest_side: Longest side in pixels to which larger images are downsized, with
            antialiasing; None keeps the size.
        inspect: A function that is called with the decoded image (upright, RGB, original
            size).

    Raises:
        SourceError: The file is not in `FORMATS`, is damaged, exceeds 50 megapixels, or has
            more than 16 bits per channel.
    """
    with _opened(content) as image:
        too_large = longest_side is not None and max(image.size) > longest_side
        image.load()
        keep = image.format in JPEG_FORMATS and image.mode == "RGB" and _is_plain(image)
        rgb = image if keep else to_rgb(image)
        inspect(rgb)
        if keep and not too_large:
            return content
        return _encode(rgb, longest_side if too_large else None)


def convert(content: bytes) -> bytes:
    """Returns an image file in which TensorFlow reads the pixels that `normalize` stores.

    The image is not downsized. The result is `content` itself for an upright PNG file, and
    for an upright JPEG file in gray or RGB, unless it has a color profile that differs from
    sRGB. Damage to the pixels of these files may not be detected, because most of them are
    not decoded. The result for other images is an uncompressed PNG file.

    Raises:
        SourceError: The file is not in `FORMATS`, its header is damaged, it exceeds 50
            megapixels, damage to its pixels is detected, or it has to be converted and has
            more than 16 bits per channel.
    """
    with _opened(content) as image:
        is_jpeg = image.format in JPEG_FORMATS and image.mode in ("L", "RGB")
        if (is_jpeg or image.format == "PNG") and _is_plain(image):
            return content
        image.load()
        buffer = io.BytesIO()
        to_rgb(image).save(buffer, "PNG", compress_level=0, icc_profile=None)
        return buffer.getvalue()


@contextlib.contextmanager
def _opened(content: bytes) -> Iterator[Image.Image]:
    """Opens an image without decoding it.

    Errors of Pillow, also in the body of the `with` statement, become a `SourceError`.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            # The size is read from the header, before any pixels are decoded.
            if image.width * image.height > MAX_PIXELS:
                raise SourceError(
                    f"{image.width}x{image.height}, expected at most {MAX_PIXELS} pixels"
                )
            yield image
    except UnidentifiedImageError as error:
        is_pointer = content.startswith(LFS_POINTER)
        what = LFS_ADVICE if is_pointer else f"not a {'/'.join(FORMATS)} file"
        raise SourceError(what) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise SourceError(f"too many pixels (expected at most {MAX_PIXELS})") from error
    except SourceError:
        raise
    # Pillow raises these errors for truncated or damaged files.
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        reason = TOO_MUCH_TEXT if "MAX_TEXT" in str(error) else error
        raise SourceError(f"cannot be decoded ({reason})") from error


def _is_plain(image: Image.Image) -> bool:
    """Returns whether an image is upright, and its colors need no conversion to sRGB."""
    return not _has_orientation(image) and _srgb_transform(image) is None


def _has_orientation(image: Image.Image) -> bool:
    """Returns whether the EXIF orientation requires rotating or mirroring the image."""
    try:
        return image.getexif().get(0x0112, 1) in range(2, 9)
    except (SyntaxError, ValueError, EOFError, struct.error):
        return False  # a damaged EXIF block is ignored


def to_rgb(image: Image.Image) -> Image.Image:
    """Returns an upright RGB image in sRGB, converted by the rules of this module.

    Raises:
        SourceError: The image has more than 16 bits per channel.
        OSError, SyntaxError, ValueError: Pillow cannot decode or convert the image.
    """
    transform = _srgb_transform(image)
    if _has_orientation(image):
        image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F"):
        raise SourceError(f"mode {image.mode}, expected 8 or 16 bits per channel")
    if image.mode.startswith("I"):  # 16-bit gray, which `Image.convert` would clip at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("P", "PA"):  # transparent palette entries require this step
        image = image.convert("RGBA")
    if transform is not None:
        mode, to_srgb = transform
        return to_srgb.apply(image.convert(mode))
    return image.convert("RGB")


def _srgb_transform(
    image: Image.Image,
) -> tuple[str, ImageCms.ImageCmsTransform] | None:
    """Returns the mode and transform that convert an image to sRGB; None if not needed.

    A profile that is damaged or belongs to another kind of image is ignored.
    """
    profile = image.info.get("icc_profile")
    if not profile:
        return None
    kind = "CMYK" if image.mode == "CMYK" else "GRAY" if _is_gray(image) else "RGB "
    return _read_profile(profile, kind)


def _is_gray(image: Image.Image) -> bool:
    return image.mode in ("1", "L", "LA") or image.mode.startswith("I")


@functools.lru_cache(maxsize=64)
def _read_profile(
    profile: bytes, kind: str
) -> tuple[str, ImageCms.ImageCmsTransform] | None:
    """See `_srgb_transform`; cached, because most images of a dataset share a profile."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space != kind:
            return None
        mode = PROFILE_MODES[kind]
        transform = ImageCms.buildTransform(
            source, ImageCms.createProfile("sRGB"), mode, "RGB"
        )
        if kind != "CMYK" and _is_srgb(transform, mode):
            return None
    except (OSError, ValueError, ImageCms.PyCMSError):
        return None
    return mode, transform


def _is_srgb(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Returns whether no sampled color changes by more than `MAX_SRGB_DIFFERENCE`."""
    levels = np.linspace(0, 255, 9).astype(np.uint8)
    channels = [levels] if mode == "L" else [levels] * 3
    colors = np.stack(np.meshgrid(*channels), axis=-1).reshape(1, -1, len(channels))
    image = Image.fromarray(colors.squeeze(-1) if mode == "L" else colors)
    converted = np.asarray(transform.apply(image), int)
    return bool(np.abs(converted - colors).max() <= MAX_SRGB_DIFFERENCE)


def _encode(image: Image.Image, longest_side: int | None) -> bytes:
    buffer = io.BytesIO()
    if longest_side is None:
        image.save(buffer, "PNG", icc_profile=None)
    else:
        size = (longest_side, longest_side)
        small = ImageOps.contain(image, size, Image.Resampling.LANCZOS)
        # No chroma subsampling (4:4:4): the colors of a lesion matter for its diagnosis.
        small.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()
