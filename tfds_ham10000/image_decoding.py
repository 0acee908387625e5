"""Validation of source images and conversion to the stored format.

An upright RGB JPEG file that does not exceed the requested size is stored unchanged, byte
for byte. Any other image is converted to an 8-bit RGB PNG, or to a JPEG if it has to be
downsized. TensorFlow and Pillow therefore decode the same upright RGB image. The rules of
the conversion are:

- CMYK, gray, black-and-white and palette images are converted to RGB;
- an alpha channel is dropped, not blended; TensorFlow also drops it during serving;
- the upper 8 bits of 16-bit images are kept (Pillow alone would clip gray values at 255);
- images are rotated or mirrored according to their EXIF orientation;
- the first frame of an animation is kept.
"""

from __future__ import annotations

import io
import os
import struct
import tempfile
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from tfds_ham10000.image_files import Images
from tfds_ham10000.records import SourceError, join_first

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
MAX_PIXELS = 50_000_000
JPEG_QUALITY = 95
MAX_SKIPPED_SHARE = 0.01
"""Largest share of images that `on_bad_image="skip"` may omit."""


class CheckedImages:
    """Source images, validated and converted to the stored format.

    Attributes:
        errors: Why each invalid image is invalid, by image_id.
        inspected: The results of `inspect`, if given, for the valid images, by image_id.
    """

    def __init__(
        self,
        images: Images,
        image_ids: Sequence[str],
        folder: Path,
        *,
        longest_side: int | None = None,
        inspect: Callable[[Image.Image], Any] | None = None,
    ):
        """Reads and decodes each image once, on all CPU cores.

        Converted images are kept in an unnamed temporary file in `folder`. This file is
        deleted when the process ends, or earlier. See `normalize` for `longest_side`.
        `inspect` is called with each decoded image (upright, RGB).

        Raises:
            OSError: The temporary file cannot be written.
        """
        self._images = images
        self._longest_side = longest_side
        # `read` needs the file as long as this object exists.
        self._spool = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        weakref.finalize(self, self._spool.close)
        self._lock = threading.Lock()
        self._converted: dict[str, tuple[int, int]] = {}
        self._inspect = inspect
        self.inspected: dict[str, Any] = {}
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            try:
                errors = pool.map(self._check, image_ids)
                progress = tqdm(errors, "Checking images", len(image_ids), unit="img")
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
        """Returns the bytes to store for a valid image."""
        if image_id not in self._converted:
            return self._images.read(image_id)
        start, size = self._converted[image_id]
        self._spool.seek(start)
        return self._spool.read(size)

    def _check(self, image_id: str) -> str | None:
        """Converts an image if necessary. Returns why it is invalid, or None if valid."""
        try:
            content = self._images.read(image_id)
            stored = normalize(
                content, self._longest_side, partial(self._store_inspection, image_id)
            )
        except SourceError as error:
            return str(error)
        if stored is not content:
            with self._lock:
                start = self._spool.seek(0, os.SEEK_END)
                self._spool.write(stored)
                self._converted[image_id] = (start, len(stored))
        return None

    def _store_inspection(self, image_id: str, image: Image.Image) -> None:
        if self._inspect is not None:
            self.inspected[image_id] = self._inspect(image)


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
        inspect: A function that is called with the decoded image (upright, RGB).

    Raises:
        SourceError: The file is not in `FORMATS`, is damaged, or exceeds 50 megapixels.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            # The size is read from the header, before any pixels are decoded.
            if image.width * image.height > MAX_PIXELS:
                raise SourceError(
                    f"{image.width}x{image.height}, expected at most {MAX_PIXELS} pixels"
                )
            image.load()
            too_large = longest_side is not None and max(image.size) > longest_side
            keep = _is_upright_rgb_jpeg(image)
            rgb = image if keep else _to_rgb(image)
            inspect(rgb)
            if keep and not too_large:
                return content
            return _encode(rgb, longest_side if too_large else None)
    except UnidentifiedImageError as error:
        raise SourceError(f"not a {'/'.join(FORMATS)} file") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise SourceError(f"too many pixels ({error})") from error
    except SourceError:
        raise
    # Pillow raises these errors for truncated or damaged files.
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise SourceError(f"cannot be decoded ({error})") from error


def _is_upright_rgb_jpeg(image: Image.Image) -> bool:
    # MPO is the format of a JPEG file that contains additional images.
    is_rgb_jpeg = image.format in ("JPEG", "MPO") and image.mode == "RGB"
    return is_rgb_jpeg and not _has_orientation(image)


def _has_orientation(image: Image.Image) -> bool:
    """Returns whether the EXIF orientation requires rotating or mirroring the image."""
    try:
        return image.getexif().get(0x0112, 1) in range(2, 9)
    except (SyntaxError, ValueError, EOFError, struct.error):
        return False  # a damaged EXIF block is ignored


def _to_rgb(image: Image.Image) -> Image.Image:
    if _has_orientation(image):
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit gray, which `convert` would clip at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("P", "PA"):  # transparent palette entries require this step
        image = image.convert("RGBA")
    return image.convert("RGB")


def _encode(image: Image.Image, longest_side: int | None) -> bytes:
    buffer = io.BytesIO()
    if longest_side is None:
        image.save(buffer, "PNG")
    else:
        size = (longest_side, longest_side)
        small = ImageOps.contain(image, size, Image.Resampling.LANCZOS)
        # No chroma subsampling (4:4:4): the colors of a lesion matter for its diagnosis.
        small.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()
