"""Checking each picture once, and what is stored of it.

A JPEG file of an upright RGB picture that is not larger than asked for is stored as it is,
byte for byte. Any other picture is decoded and stored as an 8-bit RGB PNG, or, when it
has to be made smaller, as a JPEG. Then every decoder, TensorFlow's and Pillow's alike,
reads the same upright picture of three channels:

- CMYK, gray, black-and-white and palette pictures are converted to RGB;
- an alpha channel is dropped, not blended, which is what TensorFlow does when it serves;
- of 16-bit pictures the upper 8 bits are kept (Pillow alone would clip gray ones at 255);
- a picture that its EXIF tag says to be turned is turned;
- of an animation the first frame is kept.
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

from tfds_ham10000.images import Images
from tfds_ham10000.records import SourceError, some

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
MAX_PIXELS = 50_000_000
JPEG_QUALITY = 95
MAX_LEFT_OUT = 0.01
"""The share of pictures above which even `on_bad_image="skip"` fails."""


class CheckedImages:
    """Pictures as they are to be stored; those that cannot be used are in `bad`.

    Attributes:
        bad: Why a picture cannot be used, by image_id.
        seen: What `look` made of each picture that can be used, by image_id.
    """

    def __init__(
        self,
        images: Images,
        image_ids: Sequence[str],
        folder: Path,
        *,
        longest_side: int | None = None,
        look: Callable[[Image.Image], Any] | None = None,
    ):
        """Reads and decodes each picture once, on all cores.

        Pictures that are not stored as they are wait in an unnamed file, which the
        operating system removes with the process, so that memory stays bounded.

        Args:
            images: The pictures.
            image_ids: Which of them to check.
            folder: Where there is room for the unnamed file.
            longest_side: Make larger pictures smaller, to this many pixels.
            look: What else to make of each decoded picture, for `seen`.

        Raises:
            OSError: The disk is full.
        """
        self._images = images
        self._longest_side = longest_side
        # It is read, and stays open, as long as this object lives.
        self._spool = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        weakref.finalize(self, self._spool.close)
        self._lock = threading.Lock()
        self._changed: dict[str, tuple[int, int]] = {}
        self._look = look
        self.bad: dict[str, str] = {}
        self.seen: dict[str, Any] = {}
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            try:
                results = pool.map(self._check, image_ids)
                progress = tqdm(
                    results, desc="Checking pictures", unit="img", total=len(image_ids)
                )
                for image_id, fault in zip(image_ids, progress, strict=True):
                    if fault is not None:
                        self.bad[image_id] = fault
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    @property
    def num_changed(self) -> int:
        """How many pictures are not stored as they are."""
        return len(self._changed)

    def read(self, image_id: str) -> bytes:
        """Returns the file to store for a picture that is not in `bad`."""
        if image_id not in self._changed:
            return self._images.read(image_id)
        start, size = self._changed[image_id]
        self._spool.seek(start)
        return self._spool.read(size)

    def _see(self, image_id: str, image: Image.Image) -> None:
        if self._look is not None:
            self.seen[image_id] = self._look(image)

    def _check(self, image_id: str) -> str | None:
        """Returns what is wrong with a picture, if anything."""
        try:
            content = self._images.read(image_id)
            stored = normalise(content, self._longest_side, partial(self._see, image_id))
        except SourceError as error:
            return str(error)
        if stored is not content:
            with self._lock:
                start = self._spool.seek(0, os.SEEK_END)
                self._spool.write(stored)
                self._changed[image_id] = (start, len(stored))
        return None


def refuse_bad(bad: dict[str, str], num_images: int, on_bad_image: str) -> None:
    """Raises an error about pictures that cannot be used, unless few may be skipped.

    Args:
        bad: Why a picture cannot be used, by image_id.
        num_images: How many were checked.
        on_bad_image: "fail", or "skip" if up to 1 % may be left out.

    Raises:
        SourceError: Names the first ten and tells how many there are.
    """
    if not bad or (on_bad_image == "skip" and len(bad) <= MAX_LEFT_OUT * num_images):
        return
    named = some([f"{image_id}: {fault}" for image_id, fault in sorted(bad.items())], "; ")
    advice = (
        f"More than {MAX_LEFT_OUT:.0%} of {num_images} are too many to leave out."
        if on_bad_image == "skip"
        else "Download them again, or leave them out (--on-bad-image skip)."
    )
    raise SourceError(
        f"{len(bad)} picture(s) cannot be used: {named}. Expected {', '.join(FORMATS)} "
        f"files of at most {MAX_PIXELS} pixels that can be read to the end. {advice}"
    )


def normalise(
    content: bytes,
    longest_side: int | None = None,
    see: Callable[[Image.Image], None] = lambda image: None,
) -> bytes:
    """Returns what is stored for a picture's file: `content` itself, or a new file.

    Args:
        content: The file, in one of `FORMATS`.
        longest_side: Make a larger picture smaller, antialiased, to this many pixels.
        see: Is shown the decoded picture, RGB and upright.

    Raises:
        SourceError: It is no picture, is larger than 50 megapixels, or is damaged.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            # The size is in the header: nothing is decoded yet.
            if image.width * image.height > MAX_PIXELS:
                raise SourceError(
                    f"{image.width}x{image.height} pixels, expected at most {MAX_PIXELS}"
                )
            image.load()
            too_large = longest_side is not None and max(image.size) > longest_side
            plain = _is_plain(image)
            rgb = image if plain else _to_rgb(image)
            see(rgb)
            if plain and not too_large:
                return content
            return _encode(rgb, longest_side if too_large else None)
    except UnidentifiedImageError as error:
        raise SourceError(f"is no {', '.join(FORMATS)} file") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise SourceError(f"too many pixels ({error})") from error
    except SourceError:
        raise
    # Decoders raise these for files that are cut or damaged.
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise SourceError(f"cannot be decoded ({error})") from error


def _is_plain(image: Image.Image) -> bool:
    # MPO is what Pillow calls a JPEG file with further pictures behind the first.
    return image.format in ("JPEG", "MPO") and image.mode == "RGB" and not _turned(image)


def _turned(image: Image.Image) -> bool:
    try:
        return image.getexif().get(0x0112, 1) in range(2, 9)
    except (SyntaxError, ValueError, EOFError, struct.error):
        return False  # a damaged tag says nothing


def _to_rgb(image: Image.Image) -> Image.Image:
    if _turned(image):
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit gray; `convert` would clip at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("P", "PA"):  # transparent entries need this step
        image = image.convert("RGBA")
    return image.convert("RGB")


def _encode(image: Image.Image, longest_side: int | None) -> bytes:
    buffer = io.BytesIO()
    if longest_side is None:
        image.save(buffer, "PNG")
    else:
        size = (longest_side, longest_side)
        small = ImageOps.contain(image, size, Image.Resampling.LANCZOS)
        # 4:4:4: the colors of a lesion are part of its diagnosis.
        small.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()
